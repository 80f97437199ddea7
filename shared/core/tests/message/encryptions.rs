//! Messages about encryptions: whole mails of what begins, ends well, ends
//! badly, needs a person now; and what other people's texts cannot do to them.

use std::collections::BTreeMap;

use backstop_core::controls::{Control, Severity};
use backstop_core::encryption::{
    Answer, Back, Change, Encryption, Note, Progress, Purpose, Stopped, Tries, Way,
};
use backstop_core::entry::Status;
use backstop_core::exemption::{Exemption, OptOut};
use backstop_core::message::{EncryptionNotification, Message, of};
use backstop_core::record::Record;
use backstop_core::trigger::Actor;
use backstop_core::volumes::{Attachment, Instance, REPLACED_BY_TAG, Volume};
use expect_test::expect;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixtures::{body, opt_out};
use crate::hostile::check_against;
use crate::schemas::ENCRYPTION;

const STATUSES: &[Status] = &[
    Status::InProgress,
    Status::Remediated,
    Status::Failed,
    Status::Notified,
    Status::Exempt,
    Status::Held,
    Status::NotOwned,
    Status::Existing,
    Status::Tripped,
    Status::Stopped,
    Status::Pending,
    Status::Refused,
    Status::RolledBack,
    Status::NeedsPerson,
];
const WAYS: &[Way] = &[
    Way::Unattached,
    Way::WhenStopped,
    Way::Swap,
    Way::AccountSetting,
];

fn at(time: &str) -> Timestamp {
    format!("2026-11-28T{time}Z").parse().unwrap()
}

fn tags(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn volume(id: &str, name: &str, size: i32, device: Option<&str>) -> Volume {
    Volume {
        id: id.to_owned(),
        state: if device.is_some() {
            "in-use"
        } else {
            "available"
        }
        .to_owned(),
        encrypted: false,
        size,
        volume_type: "gp3".to_owned(),
        iops: Some(3000),
        throughput: Some(125),
        zone: "eu-central-1a".to_owned(),
        multi_attach: false,
        created_at: Some(at("01:00:00")),
        attachments: device
            .map(|device| Attachment {
                instance: "i-0aaaaaaaaaaaaaaaa".to_owned(),
                device: device.to_owned(),
                state: "attached".to_owned(),
                delete_on_termination: device == "/dev/xvda",
                attached_at: Some(at("01:00:01")),
            })
            .into_iter()
            .collect(),
        tags: tags(&[("Name", name)]),
        operator: None,
        marketplace: false,
    }
}

fn instance(state: &str) -> Instance {
    Instance {
        id: "i-0aaaaaaaaaaaaaaaa".to_owned(),
        state: state.to_owned(),
        launched_at: Some(at("00:00:00")),
        instance_type: "t3.large".to_owned(),
        tags: tags(&[("Name", "db-1")]),
        lifecycle: None,
        instance_store: false,
        auto_public_ipv4: None,
        marketplace: false,
        operator: None,
        hibernates: false,
        stop_protected: false,
        checks: None,
        state_reason: None,
    }
}

/// A volume that is attached nowhere, with its run at the beginning.
fn alone() -> Encryption {
    Encryption {
        version: 1,
        id: "01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned(),
        control: Control::UnencryptedVolume,
        severity: Severity::High,
        resource: "arn:aws:ec2:eu-central-1:111122223333:volume/vol-0aaaaaaaaaaaaaaaa".to_owned(),
        resource_name: "data".to_owned(),
        account: "111122223333".to_owned(),
        region: "eu-central-1".to_owned(),
        team: Some("team-db".to_owned()),
        status: Status::InProgress,
        way: Way::Unattached,
        instance: None,
        volumes: vec![volume("vol-0aaaaaaaaaaaaaaaa", "data", 100, None)],
        kms_key: None,
        progress: Progress::default(),
        reasons: Vec::new(),
        exemption: Exemption::None,
        undoes: None,
        actor: Actor {
            principal: Some("arn:aws:sts::111122223333:assumed-role/developer/alice".to_owned()),
            user_agent: Some("aws-cli/2.31.0".to_owned()),
            source_address: Some("198.51.100.7".to_owned()),
            invoked_by: None,
            event_name: Some("CreateVolume".to_owned()),
            event_time: Some(at("01:00:00")),
            event_id: Some("5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e".to_owned()),
        },
        policy_version: 7,
        attempts: 1,
        started_at: at("02:00:00"),
        finished_at: None,
        managed_by: None,
        page_key: None,
        revision: 0,
    }
}

/// A running instance with two volumes, at the beginning.
fn swap() -> Encryption {
    Encryption {
        resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-0aaaaaaaaaaaaaaaa".to_owned(),
        resource_name: "db-1".to_owned(),
        way: Way::Swap,
        instance: Some(instance("running")),
        volumes: vec![
            volume("vol-0aaaaaaaaaaaaaaaa", "root", 8, Some("/dev/xvda")),
            volume("vol-0bbbbbbbbbbbbbbbb", "data", 100, Some("/dev/sdf")),
        ],
        ..alone()
    }
}

/// A stopped one.
fn when_stopped() -> Encryption {
    Encryption {
        way: Way::WhenStopped,
        instance: Some(instance("stopped")),
        ..swap()
    }
}

/// The account's setting.
fn setting() -> Encryption {
    let mut run = Encryption {
        control: Control::EncryptionByDefault,
        severity: Severity::Medium,
        resource: "arn:aws:ec2:eu-central-1:111122223333:encryption-by-default/eu-central-1"
            .to_owned(),
        resource_name: "encryption by default in eu-central-1".to_owned(),
        team: None,
        way: Way::AccountSetting,
        volumes: Vec::new(),
        ..alone()
    };
    run.actor.event_name = Some("DisableEbsEncryptionByDefault".to_owned());
    run
}

fn did(run: &mut Encryption, time: &str, change: Change, made: Option<&str>) {
    run.trying(&change, at(time));
    run.tried(&change, Answer::Accepted, made.map(str::to_owned));
}

fn refused(run: &mut Encryption, time: &str, change: Change, code: &str) {
    run.trying(&change, at(time));
    let answer = Answer::Refused {
        operation: "StartInstances".to_owned(),
        code: code.to_owned(),
        message: "no".to_owned(),
        unknown: false,
    };
    run.tried(&change, answer, None);
}

fn snapshot(run: &mut Encryption, volume: &str, snapshot: &str) {
    let change = Change::Snapshot {
        volume: volume.to_owned(),
        purpose: Purpose::Safety,
    };
    did(run, "02:00:05", change, Some(snapshot));
}

fn copy(run: &mut Encryption, volume: &str, copy: &str) {
    let change = Change::Copy {
        volume: volume.to_owned(),
    };
    did(run, "02:11:00", change, Some(copy));
}

fn detach(run: &mut Encryption, time: &str, volume: &str) {
    let change = Change::Detach {
        volume: volume.to_owned(),
    };
    did(run, time, change, None);
}

fn attach(run: &mut Encryption, time: &str, volume: &str, device: &str) {
    let change = Change::Attach {
        volume: volume.to_owned(),
        device: device.to_owned(),
    };
    did(run, time, change, None);
}

/// Everything up to the copies of `swap` in place of its volumes.
fn swapped(mut run: Encryption) -> Encryption {
    snapshot(&mut run, "vol-0aaaaaaaaaaaaaaaa", "snap-0aaaaaaaaaaaaaaaa");
    snapshot(&mut run, "vol-0bbbbbbbbbbbbbbbb", "snap-0bbbbbbbbbbbbbbbb");
    if run.way == Way::Swap {
        did(&mut run, "02:10:00", Change::Stop { back: false }, None);
    }
    run.progress.stopped = Some(Stopped {
        at: at("02:10:45"),
        launched_at: None,
    });
    copy(&mut run, "vol-0aaaaaaaaaaaaaaaa", "vol-0cccccccccccccccc");
    copy(&mut run, "vol-0bbbbbbbbbbbbbbbb", "vol-0dddddddddddddddd");
    detach(&mut run, "02:13:00", "vol-0aaaaaaaaaaaaaaaa");
    attach(&mut run, "02:13:10", "vol-0cccccccccccccccc", "/dev/xvda");
    detach(&mut run, "02:13:20", "vol-0bbbbbbbbbbbbbbbb");
    attach(&mut run, "02:13:30", "vol-0dddddddddddddddd", "/dev/sdf");
    run
}

fn ended(mut run: Encryption, status: Status, reasons: &[&str]) -> Encryption {
    run.status = status;
    run.reasons = reasons.iter().map(ToString::to_string).collect();
    run.finished_at = Some(at("02:20:00"));
    run
}

fn back(run: &mut Encryption, why: &str, trip: bool) {
    run.note(
        &Note::GoBack {
            why: why.to_owned(),
            status: Status::RolledBack,
            trip,
        },
        at("02:15:00"),
    );
}

/// `swapped`, and then back on its originals.
fn put_back() -> Encryption {
    let mut run = swapped(swap());
    did(&mut run, "02:14:00", Change::Start { back: false }, None);
    back(
        &mut run,
        "the instance did not pass its status checks within 10 minutes",
        true,
    );
    did(&mut run, "02:25:00", Change::Stop { back: true }, None);
    detach(&mut run, "02:26:00", "vol-0cccccccccccccccc");
    attach(&mut run, "02:26:10", "vol-0aaaaaaaaaaaaaaaa", "/dev/xvda");
    detach(&mut run, "02:26:20", "vol-0dddddddddddddddd");
    attach(&mut run, "02:26:30", "vol-0bbbbbbbbbbbbbbbb", "/dev/sdf");
    run
}

fn message(run: &Encryption) -> Message {
    of(&Record::Encryption(Box::new(run.clone())))
}

/// Subject and mail.
fn mail(run: &Encryption) -> String {
    let message = message(run);
    format!(
        "Subject: {}\n\n{}",
        message.subject,
        body(&message, "email")
    )
}

/// The same without what is in every mail.
fn lead(run: &Encryption) -> String {
    let mail = mail(run);
    let (lead, _) = mail.split_once("\n\nWho t").unwrap();
    lead.to_owned()
}

fn data(run: &Encryption) -> Value {
    serde_json::from_str(&body(&message(run), "sqs")).unwrap()
}

fn says(run: &Encryption, parts: &[&str]) {
    let mail = mail(run);
    for part in parts {
        assert!(mail.contains(part), "{part} is missing in\n{mail}");
    }
}

fn says_not(run: &Encryption, parts: &[&str]) {
    let mail = mail(run);
    for part in parts {
        assert!(!mail.contains(part), "{part} is said in\n{mail}");
    }
}

// ------------------------------------------------------------------- the beginning

#[test]
fn a_volume_that_is_attached_nowhere_gets_a_copy_without_downtime() {
    expect![[r#""#]].assert_eq(&mail(&alone()));
}

#[test]
fn that_an_instance_will_be_stopped_is_said_before_it_is() {
    let mut run = swap();
    expect![[r#""#]].assert_eq(&lead(&run));
    says_not(&run, &["public IPv4"]);
    run.instance.as_mut().unwrap().auto_public_ipv4 = Some("198.51.100.20".to_owned());
    says(
        &run,
        &["Its public IPv4 address 198.51.100.20 is released by the stop"],
    );
}

#[test]
fn an_instance_that_somebody_stopped_is_not_started_and_should_not_be() {
    expect![[r#""#]].assert_eq(&lead(&when_stopped()));
}

#[test]
fn what_is_left_out_of_a_run_is_said_at_its_beginning() {
    let mut run = swap();
    run.reasons = vec![
        "1 of its volumes are opted out, or were there before, and stay as they are".to_owned(),
    ];
    run.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    says(
        &run,
        &[
            "- 1 of its volumes are opted out, or were there before, and stay as they are.",
            "- A tag opts a part of it out until 2027-01-31, by team-web: vendor audit.",
        ],
    );
}

// --------------------------------------------------------------------------- the end

#[test]
fn what_replaced_what_what_it_costs_and_how_to_take_it_back() {
    let mut run = swapped(swap());
    did(&mut run, "02:14:00", Change::Start { back: false }, None);
    let mut run = ended(run, Status::Remediated, &[]);
    run.managed_by = Some("the CloudFormation stack db".to_owned());
    expect![[r#""#]].assert_eq(&mail(&run));
}

#[test]
fn an_instance_that_stays_stopped_is_not_said_to_be_well() {
    let run = ended(swapped(when_stopped()), Status::Remediated, &[]);
    says(
        &run,
        &[
            "it is still STOPPED, and whether it works with its copies shows when somebody starts it",
        ],
    );
    says_not(&run, &["status checks", "started on its copies at"]);
}

#[test]
fn a_volume_that_is_attached_nowhere_was_copied() {
    let mut run = alone();
    snapshot(&mut run, "vol-0aaaaaaaaaaaaaaaa", "snap-0aaaaaaaaaaaaaaaa");
    copy(&mut run, "vol-0aaaaaaaaaaaaaaaa", "vol-0cccccccccccccccc");
    expect![[r#""#]].assert_eq(&lead(&ended(run, Status::Remediated, &[])));
}

#[test]
fn a_customer_key_is_told_with_who_needs_it() {
    let key = "arn:aws:kms:eu-central-1:111122223333:key/0a0a0a0a-0000-4000-8000-000000000000";
    let mut run = ended(swapped(swap()), Status::Remediated, &[]);
    says_not(&run, &["Who needs the KMS key now"]);
    run.kms_key = Some(key.to_owned());
    says(
        &run,
        &[
            &format!("The copies are encrypted with {key}."),
            "kms:CreateGrant (may be limited to kms:GrantIsForAWSResource), kms:Decrypt",
            "Client.InternalError",
        ],
    );
}

#[test]
fn a_copy_whose_making_was_not_answered_is_named_by_its_tag_until_it_is_moved() {
    let mut run = alone();
    let change = Change::Copy {
        volume: "vol-0aaaaaaaaaaaaaaaa".to_owned(),
    };
    run.trying(&change, at("02:11:00"));
    let end = ended(run, Status::Remediated, &[]);
    says(
        &end,
        &["(the volume tagged backstop:copy-of=vol-0aaaaaaaaaaaaaaaa)"],
    );

    let mut run = swap();
    run.volumes.truncate(1);
    attach(&mut run, "02:13:10", "vol-0cccccccccccccccc", "/dev/xvda");
    let end = ended(run, Status::Remediated, &[]);
    says(
        &end,
        &["was replaced by its encrypted copy vol-0cccccccccccccccc."],
    );
}

#[test]
fn a_copy_from_a_snapshot_and_one_that_was_deleted_are_told_apart() {
    let mut run = alone();
    let id = || "vol-0aaaaaaaaaaaaaaaa".to_owned();
    copy(&mut run, &id(), "vol-0eeeeeeeeeeeeeeee");
    run.progress.from_snapshot.insert(
        id(),
        "the copy vol-0eeeeeeeeeeeeeeee came out in error".to_owned(),
    );
    let delete = Change::DeleteCopy {
        copy: "vol-0eeeeeeeeeeeeeeee".to_owned(),
    };
    did(&mut run, "02:12:00", delete, None);
    let create = Change::Create {
        volume: id(),
        snapshot: "snap-0aaaaaaaaaaaaaaaa".to_owned(),
    };
    did(&mut run, "02:13:00", create, Some("vol-0cccccccccccccccc"));
    let run = ended(run, Status::Remediated, &[]);
    says(
        &run,
        &[
            "its encrypted copy is vol-0cccccccccccccccc",
            "The copy of vol-0aaaaaaaaaaaaaaaa is made from a snapshot: the copy vol-0eeeeeeeeeeeeeeee came out in error.",
        ],
    );
    assert_eq!(
        data(&run)["copies"],
        json!([
            { "id": "vol-0eeeeeeeeeeeeeeee", "of": id(), "attached": false, "deleted": true },
            { "id": "vol-0cccccccccccccccc", "of": id(), "attached": false, "deleted": false },
        ])
    );
}

// ----------------------------------------------------------------------- not changed

#[test]
fn an_instance_that_is_only_told_about_says_what_would_help() {
    let run = ended(swap(), Status::Notified, &["the mode is `notify`"]);
    expect![[r#""#]].assert_eq(&lead(&run));
}

#[test]
fn what_waits_says_for_what() {
    let run = ended(
        swap(),
        Status::Pending,
        &[
            "it waits for the instance to be stopped, or for the maintenance window that opens at 2026-11-28T02:00:00Z",
        ],
    );
    expect![[r#""#]].assert_eq(&lead(&run));
}

#[test]
fn what_is_refused_gives_each_reason_and_what_can_be_done() {
    let mut run = ended(
        swap(),
        Status::Refused,
        &[
            "i-0aaaaaaaaaaaaaaaa is a member of the Auto Scaling group web, which would replace it when it is stopped: encrypt in the launch template; i-0aaaaaaaaaaaaaaaa is protected against being stopped",
        ],
    );
    run.instance.as_mut().unwrap().tags = tags(&[("aws:autoscaling:groupName", "web")]);
    expect![[r#""#]].assert_eq(&lead(&run));
}

#[test]
fn an_opt_out_says_where_it_stands_and_how_to_end_it() {
    let mut run = ended(
        swap(),
        Status::Exempt,
        &["the tag backstop:opt-out opts it out"],
    );
    run.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    run.volumes[1]
        .tags
        .insert("backstop:opt-out".to_owned(), "all".to_owned());
    says(
        &run,
        &[
            "EXEMPT high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes, and is exempt",
            "The opt-out holds until 2027-01-31, by team-web: vendor audit.",
            "aws ec2 delete-tags --region eu-central-1 --resources vol-0bbbbbbbbbbbbbbbb --tags 'Key=backstop:opt-out'",
        ],
    );
    says_not(&run, &["would be done"]);

    run.status = Status::Held;
    run.exemption = Exemption::Malformed {
        value: "allways".to_owned(),
        problem: "`allways` is not a control".to_owned(),
    };
    says(
        &run,
        &[
            "HELD high",
            "The tag's value is `allways`, and `allways` is not a control.",
            "How it is to be written: `all` or control names",
        ],
    );
}

#[test]
fn what_keeps_the_control_from_acting_says_the_way_out() {
    for (status, why, way_out) in [
        (
            Status::Existing,
            "it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`",
            "`\"existing\": \"enforce\"` for unencrypted-volume",
        ),
        (
            Status::Tripped,
            "the control has tripped: too many changes",
            "- backstop re-arm unencrypted-volume\n",
        ),
        (
            Status::Tripped,
            "the control has tripped for this resource: its encryption came to a bad end",
            "- backstop re-arm unencrypted-volume i-0aaaaaaaaaaaaaaaa\n",
        ),
        (
            Status::Stopped,
            "the kill switch is on",
            "first sweep after the kill switch is off",
        ),
    ] {
        let run = ended(swap(), status, &[why]);
        says(&run, &["- Nothing was changed.", way_out, "would be done"]);
    }
}

// ------------------------------------------------------------------------------ back

#[test]
fn what_was_taken_back_says_why_how_it_is_and_what_stays() {
    let mut run = put_back();
    did(&mut run, "02:27:00", Change::Start { back: true }, None);
    let why = run.progress.back.clone().unwrap().why;
    expect![[r#""#]].assert_eq(&mail(&ended(run, Status::RolledBack, &[&why])));
}

#[test]
fn a_run_that_ended_before_the_stop_says_that_nothing_was_moved() {
    let mut run = swap();
    snapshot(&mut run, "vol-0aaaaaaaaaaaaaaaa", "snap-0aaaaaaaaaaaaaaaa");
    back(&mut run, "the kill switch was turned on", false);
    let run = ended(run, Status::RolledBack, &["the kill switch was turned on"]);
    says(
        &run,
        &[
            "- The kill switch was turned on.",
            "- No volume was detached.",
            "- Backstop did not stop the instance, and did not start it.",
            "- It is looked at again at once",
            "The snapshot snap-0aaaaaaaaaaaaaaaa of vol-0aaaaaaaaaaaaaaaa",
        ],
    );
    says_not(&run, &["re-arm"]);
}

#[test]
fn a_terminated_instance_is_not_said_to_run() {
    let run = ended(
        swapped(swap()),
        Status::RolledBack,
        &["somebody terminated i-0aaaaaaaaaaaaaaaa during the run"],
    );
    says(
        &run,
        &["The instance is gone: there is nothing to put back."],
    );
    says_not(&run, &["is attached as", "How to go on", "start-instances"]);
}

#[test]
fn a_copy_that_could_not_be_deleted_is_named() {
    let mut run = alone();
    copy(&mut run, "vol-0aaaaaaaaaaaaaaaa", "vol-0cccccccccccccccc");
    back(&mut run, "the mode is `enforce` no more", false);
    let delete = Change::DeleteCopy {
        copy: "vol-0cccccccccccccccc".to_owned(),
    };
    refused(&mut run, "02:16:00", delete, "UnauthorizedOperation");
    let run = ended(run, Status::RolledBack, &["the mode is `enforce` no more"]);
    says(
        &run,
        &[
            "The encrypted copy vol-0cccccccccccccccc of vol-0aaaaaaaaaaaaaaaa: 100 GiB gp3; it could not be deleted: StartInstances: UnauthorizedOperation: no.",
            "aws ec2 delete-volume --region eu-central-1 --volume-id vol-0cccccccccccccccc",
        ],
    );
}

// -------------------------------------------------------------------------- a person

#[test]
fn a_person_that_is_needed_now_reads_that_first() {
    let mut run = put_back();
    refused(
        &mut run,
        "02:27:00",
        Change::Start { back: true },
        "InsufficientInstanceCapacity",
    );
    run.progress.attention = Some("i-0aaaaaaaaaaaaaaaa is stopped with its original volumes attached, and AWS refuses to start it (StartInstances: InsufficientInstanceCapacity). Backstop keeps trying. By hand: aws ec2 start-instances --instance-ids i-0aaaaaaaaaaaaaaaa".to_owned());
    expect![[r#""#]].assert_eq(&lead(&run));
    let message = message(&run);
    assert_eq!(message.attributes["severity"], "critical");
    assert_eq!(message.attributes["outcome"], "in-progress");
    // What has to be typed is whole in chat as well.
    let chat = body(&message, "https");
    assert!(chat.contains("By hand: aws ec2 start-instances --instance-ids i-0aaaaaaaaaaaaaaaa"));
    assert!(chat.contains("attach-volume --region eu-central-1 --volume-id vol-0aaaaaaaaaaaaaaaa --instance-id i-0aaaaaaaaaaaaaaaa --device /dev/xvda"));
}

#[test]
fn what_needs_a_person_says_what_is_where_and_what_to_type() {
    let mut run = swapped(swap());
    did(&mut run, "02:14:00", Change::Start { back: false }, None);
    let run = ended(
        run,
        Status::NeedsPerson,
        &[
            "vol-0aaaaaaaaaaaaaaaa is replaced by vol-0cccccccccccccccc, and could not be tagged so: CreateTags: UnauthorizedOperation: no",
            "tag it, or it is taken for one that was never encrypted: aws ec2 create-tags --resources vol-0aaaaaaaaaaaaaaaa --tags Key=backstop:replaced-by,Value=vol-0cccccccccccccccc",
        ],
    );
    expect![[r#""#]].assert_eq(&lead(&run));
    assert_eq!(message(&run).attributes["severity"], "critical");
}

// ----------------------------------------------------------------------------- undos

/// What takes the encryption back.
fn undo(of: Encryption) -> Encryption {
    let mut run = Encryption {
        id: "01KAT6AAAAAAAAAAAAAAAAAAAA".to_owned(),
        undoes: Some("01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned()),
        ..of
    };
    for (volume, copy) in run
        .volumes
        .iter_mut()
        .zip(["vol-0cccccccccccccccc", "vol-0dddddddddddddddd"])
    {
        volume
            .tags
            .insert(REPLACED_BY_TAG.to_owned(), copy.to_owned());
    }
    run
}

#[test]
fn an_undo_says_what_it_costs_before() {
    expect![[r#""#]].assert_eq(&lead(&undo(swap())));
}

#[test]
fn an_undo_says_that_later_writes_stay_on_the_copies() {
    let mut run = undo(swap());
    back(&mut run, "somebody asked for it to be taken back", false);
    did(&mut run, "02:10:00", Change::Stop { back: true }, None);
    did(&mut run, "02:13:00", Change::Start { back: true }, None);
    run.exemption = Exemption::Exempt(OptOut {
        until: Some(jiff::civil::date(2026, 12, 5)),
        owner: None,
        reason: Some("undo".to_owned()),
    });
    let run = ended(
        run,
        Status::RolledBack,
        &["somebody asked for it to be taken back"],
    );
    expect![[r#""#]].assert_eq(&mail(&run));
    assert_eq!(data(&run)["undoes"], "01KAT5J3V0QZ8Y2N4M6P8R0T2W");
}

#[test]
fn an_undo_of_a_volume_that_is_attached_nowhere_moves_nothing() {
    let run = ended(undo(alone()), Status::RolledBack, &[]);
    says(
        &run,
        &[
            "UNDONE high: vol-0aaaaaaaaaaaaaaaa (data) counts again, unencrypted, in place of its copy",
            "Nothing was attached or detached.",
            "its copy vol-0cccccccccccccccc is kept",
        ],
    );
}

// ----------------------------------------------------------------------- the setting

#[test]
fn the_setting_is_told_with_who_turned_it_off_and_how_to_keep_it_off() {
    expect![[r#""#]].assert_eq(&mail(&ended(setting(), Status::Remediated, &[])));
}

#[test]
fn a_setting_that_could_not_be_turned_on_is_not_said_to_be() {
    let run = ended(
        setting(),
        Status::Failed,
        &["EnableEbsEncryptionByDefault: UnauthorizedOperation: no"],
    );
    says(
        &run,
        &[
            "FAILED medium: encryption by default in eu-central-1 may still be off",
            "EnableEbsEncryptionByDefault: UnauthorizedOperation: no.",
            "By hand: aws ec2 enable-ebs-encryption-by-default --region eu-central-1",
        ],
    );
    says_not(&run, &["It was turned on", "attach"]);
}

#[test]
fn a_setting_that_is_left_off_says_why() {
    for (status, why, part) in [
        (
            Status::Notified,
            "the mode is `notify`",
            "it would be turned on",
        ),
        (
            Status::Exempt,
            "the policy exempts the account",
            "The policy exempts it until 2027-01-31",
        ),
        (
            Status::Tripped,
            "the control has tripped: 5",
            "- backstop re-arm encryption-by-default\n",
        ),
        (
            Status::Stopped,
            "the kill switch is on",
            "after the kill switch is off",
        ),
        (
            Status::Existing,
            "it was off before",
            "`\"existing\": \"enforce\"` for encryption-by-default",
        ),
    ] {
        let mut run = ended(setting(), status, &[why]);
        if status == Status::Exempt {
            run.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
        }
        says(&run, &["- Nothing was changed.", part]);
    }
}

// ---------------------------------------------------------------------- the format

#[test]
fn programs_get_everything() {
    let mut run = put_back();
    did(&mut run, "02:27:00", Change::Start { back: true }, None);
    run.kms_key = Some("alias/data".to_owned());
    run.managed_by = Some("the CloudFormation stack db".to_owned());
    run.progress.attention = Some("look".to_owned());
    let run = ended(run, Status::RolledBack, &["because"]);
    let data = data(&run);
    assert!(ENCRYPTION.is_valid(&data), "{data:#}");
    let read: EncryptionNotification = serde_json::from_value(data.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), data);
    expect![[r#""#]].assert_eq(&format!("{data:#}\n"));
    for (field, wrong) in [
        ("version", json!(2)),
        ("kind", json!("undo")),
        ("outcome", json!("done")),
        ("way", json!("other")),
        ("volumes", json!({})),
    ] {
        let mut data = data.clone();
        data[field] = wrong;
        assert!(!ENCRYPTION.is_valid(&data), "{field}");
    }
}

#[test]
fn originals_are_kept_only_where_they_were_replaced() {
    let kept = |run: &Encryption| data(run)["originals_kept"].as_array().unwrap().len();
    assert_eq!(kept(&ended(swapped(swap()), Status::Remediated, &[])), 2);
    assert_eq!(kept(&ended(put_back(), Status::RolledBack, &[])), 0);
    assert_eq!(kept(&swap()), 0);
}

// -------------------------------------------------------------------------- hostile

/// A run whose every text is `text`.
fn made_of(text: &str, status: Status, way: Way, volumes: usize, undoes: bool) -> Encryption {
    let t = || text.to_owned();
    let own = |n: usize| format!("{text}{n}");
    let mut run = swap();
    if matches!(way, Way::Unattached | Way::AccountSetting) {
        run.instance = None;
    }
    run.way = way;
    run.volumes = (0..volumes)
        .map(|n| {
            let mut volume = volume(&own(n), text, i32::MAX, Some(text));
            volume.volume_type = t();
            volume.zone = t();
            volume.tags = BTreeMap::from([(t(), t()), (REPLACED_BY_TAG.to_owned(), t())]);
            volume
        })
        .collect();
    if let Some(instance) = &mut run.instance {
        instance.id = t();
        instance.instance_type = t();
        instance.auto_public_ipv4 = Some(t());
        instance.tags = BTreeMap::from([("Name".to_owned(), t())]);
    }
    for n in 0..volumes {
        let (id, made) = (own(n), format!("copy {text}{n}"));
        snapshot(&mut run, &id, &format!("snap {text}{n}"));
        copy(&mut run, &id, &made);
        detach(&mut run, "02:13:00", &id);
        attach(&mut run, "02:13:10", &made, text);
        run.progress.from_snapshot.insert(id, t());
    }
    run.progress.tries.insert(
        Change::Stop { back: false }.key(),
        Tries {
            count: u32::MAX,
            first_at: Timestamp::MIN,
            last_at: Timestamp::MAX,
            answer: None,
            made: Some(t()),
        },
    );
    did(&mut run, "02:14:00", Change::Start { back: true }, None);
    run.progress.attention = Some(t());
    run.progress.back = Some(Back {
        at: at("02:00:00"),
        why: t(),
        status,
        trip: true,
    });
    run.id = t();
    run.resource = t();
    run.resource_name = t();
    run.account = t();
    run.region = t();
    run.team = Some(t());
    run.kms_key = Some(t());
    run.reasons = vec![t(); volumes];
    run.managed_by = Some(t());
    run.undoes = undoes.then(t);
    run.exemption = Exemption::Malformed {
        value: t(),
        problem: t(),
    };
    run.actor = Actor {
        principal: Some(t()),
        user_agent: Some(t()),
        source_address: Some(t()),
        invoked_by: Some(t()),
        event_name: Some(t()),
        event_time: None,
        event_id: Some(t()),
    };
    run.status = status;
    run
}

fn check_all(text: &str, volumes: usize) {
    for status in STATUSES {
        for way in WAYS {
            for undoes in [false, true] {
                let mut run = made_of(text, *status, *way, volumes, undoes);
                check_against(&message(&run), &ENCRYPTION);
                run.progress = Progress::default();
                check_against(&message(&run), &ENCRYPTION);
            }
        }
    }
}

#[test]
fn two_hundred_volumes_fit_and_what_is_left_out_is_counted() {
    check_all("x", 200);
    let run = made_of(
        &"\"\\'".repeat(85),
        Status::Remediated,
        Way::Swap,
        200,
        false,
    );
    let data = data(&run);
    for list in [
        "volumes",
        "copies",
        "snapshots",
        "originals_kept",
        "reasons",
    ] {
        let told = data[list].as_array().unwrap().len();
        assert_eq!(
            told as u64 + data["omitted"][list].as_u64().unwrap(),
            200,
            "{list}"
        );
    }
    let ordinary = made_of("x", Status::Remediated, Way::Swap, 200, false);
    assert!(mail(&ordinary).contains("and 190 more, see the ledger entry"));
}

#[test]
fn texts_that_are_far_too_long_or_no_texts_at_all_fit() {
    for text in [
        "x".repeat(5000),
        "\"\\".repeat(2500),
        "😀".repeat(5000),
        "\u{1}\r\n\u{202e}".repeat(500),
        String::new(),
    ] {
        check_all(&text, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_text_breaks_a_message_about_an_encryption(
        text in any::<String>(),
        status in 0..STATUSES.len(),
        way in 0..WAYS.len(),
        volumes in 0_usize..6,
        undoes in any::<bool>(),
    ) {
        let run = made_of(&text, STATUSES[status], WAYS[way], volumes, undoes);
        check_against(&message(&run), &ENCRYPTION);
    }
}
