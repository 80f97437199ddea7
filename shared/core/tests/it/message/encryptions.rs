//! Messages about encryptions: whole mails of what begins, ends well, ends
//! badly, needs a person now; and what other people's texts cannot do to them.

use std::collections::BTreeMap;

use backstop_core::encryption::{
    Answer, Back, Change, Encryption, EncryptionDetail, End, Note, Progress, Purpose, Stopped,
    Tries, Way,
};
use backstop_core::exemption::{Exemption, OptOut};
use backstop_core::message::{EncryptionNotification, Message, of};
use backstop_core::reason::Reason;
use backstop_core::record::Record;
use backstop_core::run::{Head, Run};
use backstop_core::volumes::{Attachment, Instance, REPLACED_BY_TAG, Volume};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use expect_test::expect;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{body, opt_out};
use super::hostile::check_against;
use super::schemas::ENCRYPTION;

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
/// The ways, and whether the run takes one back.
const WAYS: &[(Way, bool)] = &[
    (Way::Unattached, false),
    (Way::WhenStopped, false),
    (Way::Swap, false),
    (Way::Swap, true),
    (Way::AccountSetting, false),
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
        outpost: None,
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
        outpost: None,
        operator: None,
        hibernates: false,
        stop_protected: false,
        checks: None,
        state_reason: None,
    }
}

/// A volume that is attached nowhere, with its run at the beginning.
fn alone() -> Encryption {
    Run {
        head: Head {
            version: 1,
            id: "01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned(),
            control: ControlId::UnencryptedVolume,
            severity: Severity::High,
            resource: "arn:aws:ec2:eu-central-1:111122223333:volume/vol-0aaaaaaaaaaaaaaaa"
                .to_owned(),
            resource_name: "data".to_owned(),
            account: "111122223333".to_owned(),
            region: "eu-central-1".to_owned(),
            team: Some("team-db".to_owned()),
            status: Status::InProgress,
            exemption: Exemption::None,
            actor: Actor {
                principal: Some(
                    "arn:aws:sts::111122223333:assumed-role/developer/alice".to_owned(),
                ),
                user_agent: Some("aws-cli/2.31.0".to_owned()),
                source_address: Some("198.51.100.7".to_owned()),
                invoked_by: None,
                event_name: Some("CreateVolume".to_owned()),
                event_time: Some(at("01:00:00")),
                event_id: Some("5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e".to_owned()),
                ..Actor::default()
            },
            policy_version: 7,
            attempts: 1,
            started_at: at("02:00:00"),
            finished_at: None,
            managed_by: None,
        },
        detail: EncryptionDetail {
            way: Way::Unattached,
            instance: None,
            volumes: vec![volume("vol-0aaaaaaaaaaaaaaaa", "data", 100, None)],
            kms_key: None,
            progress: Progress::default(),
            reasons: Vec::new(),
            because: None,
            instance_gone: false,
            undoes: None,
            page_key: None,
            revision: 0,
        },
    }
}

/// A running instance with two volumes, at the beginning.
fn swap() -> Encryption {
    Run {
        head: Head {
            resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-0aaaaaaaaaaaaaaaa"
                .to_owned(),
            resource_name: "db-1".to_owned(),
            ..alone().head
        },
        detail: EncryptionDetail {
            way: Way::Swap,
            instance: Some(instance("running")),
            volumes: vec![
                volume("vol-0aaaaaaaaaaaaaaaa", "root", 8, Some("/dev/xvda")),
                volume("vol-0bbbbbbbbbbbbbbbb", "data", 100, Some("/dev/sdf")),
            ],
            ..alone().detail
        },
    }
}

/// A stopped one.
fn when_stopped() -> Encryption {
    Run {
        head: swap().head,
        detail: EncryptionDetail {
            way: Way::WhenStopped,
            instance: Some(instance("stopped")),
            ..swap().detail
        },
    }
}

/// The account's setting.
fn setting() -> Encryption {
    let mut run = Run {
        head: Head {
            control: ControlId::EncryptionByDefault,
            severity: Severity::Medium,
            resource: "arn:aws:ec2:eu-central-1:111122223333:encryption-by-default/eu-central-1"
                .to_owned(),
            resource_name: "encryption by default in eu-central-1".to_owned(),
            team: None,
            ..alone().head
        },
        detail: EncryptionDetail {
            way: Way::AccountSetting,
            volumes: Vec::new(),
            ..alone().detail
        },
    };
    run.head.actor.event_name = Some("DisableEbsEncryptionByDefault".to_owned());
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
    if run.detail.way == Way::Swap {
        did(&mut run, "02:10:00", Change::Stop { back: false }, None);
    }
    run.detail.progress.stopped = Some(Stopped {
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
    run.head.status = status;
    run.detail.reasons = reasons.iter().map(ToString::to_string).collect();
    run.head.finished_at = Some(at("02:40:00"));
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
    let asked = |mail: &str| mail.find("\n\nWho asked");
    let end = mail.find("\n\nWho t").or_else(|| asked(&mail)).unwrap();
    let lead = mail.get(..end).unwrap();
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
    expect![[r#"
        Subject: [Backstop] IN PROGRESS high: vol-0aaaaaaaaaaaaaaaa (data) gets an encrypted copy

        IN PROGRESS high: vol-0aaaaaaaaaaaaaaaa (data) gets an encrypted copy
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What was found
        - vol-0aaaaaaaaaaaaaaaa (data): 100 GiB gp3, attached nowhere, not encrypted

        What is done now
        - First a snapshot of the volume is taken and waited for.
        - Then an encrypted copy is made: the same size, type, performance and tags. Nothing goes on until it is seen encrypted.
        - At last the volume is tagged backstop:replaced-by with the id of its copy, and kept as it is.

        What it costs you
        - No downtime: it is attached nowhere.
        - Please attach it only after the message about the end. If somebody does before, the run ends without a change to it.
        - Copies (100 GiB) and snapshots are paid for beside the originals. The message about the end says what stays behind.

        How to stop it now
        - aws ec2 create-tags --region eu-central-1 --resources vol-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'
        - That tags the volume. Or everything: backstop kill-switch on
        - Until the volume is tagged as replaced, either ends the run, and the copy is deleted.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: CreateVolume, 2026-11-28 01:00:00 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:volume/vol-0aaaaaaaaaaaaaaaa
        - Begun: 2026-11-28 02:00:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&alone()));
}

#[test]
fn that_an_instance_will_be_stopped_is_said_before_it_is() {
    let mut run = swap();
    expect![[r#"
        Subject: [Backstop] IN PROGRESS high: i-0aaaaaaaaaaaaaaaa (db-1) will be stopped to encrypt 2 volumes

        IN PROGRESS high: i-0aaaaaaaaaaaaaaaa (db-1) will be stopped to encrypt 2 volumes
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What was found
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted

        What is done now
        - First a snapshot of each volume is taken and waited for. The instance runs on meanwhile.
        - Then the instance is STOPPED, inside a maintenance window of the policy.
        - While it is stopped, encrypted copies are made: the same size, type, performance and tags. Nothing goes on until they are seen encrypted.
        - Then each volume is detached and its copy attached in its place, with its device name and what becomes of it at termination.
        - Then it is started, and has to pass its status checks; else it goes back to its original volumes.
        - At last each volume is tagged backstop:replaced-by with the id of its copy, and kept as it is.

        What it costs you
        - DOWNTIME: the instance is stopped while its volumes are copied and replaced. Once that has taken as long as the policy's `max_downtime_minutes` says (30 unless it says otherwise), it goes back to its original volumes, which takes some minutes more.
        - A stop cannot be undone: open connections end, and what is only in memory is lost.
        - Please neither start, stop nor change it meanwhile.
        - Copies (108 GiB) and snapshots are paid for beside the originals. The message about the end says what stays behind.

        How to stop it now
        - aws ec2 create-tags --region eu-central-1 --resources i-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'
        - That tags the instance or one of its volumes. Or everything: backstop kill-switch on
        - Until the instance is started on its copies, either makes the run go back: the originals are attached as before, and the instance is started."#]].assert_eq(&lead(&run));
    says_not(&run, &["public IPv4"]);
    run.detail.instance.as_mut().unwrap().auto_public_ipv4 = Some("198.51.100.20".to_owned());
    says(
        &run,
        &["Its public IPv4 address 198.51.100.20 is released by the stop"],
    );
}

#[test]
fn an_instance_that_somebody_stopped_is_not_started_and_should_not_be() {
    expect![[r#"
        Subject: [Backstop] IN PROGRESS high: i-0aaaaaaaaaaaaaaaa (db-1) is stopped: 2 volumes get encrypted copies

        IN PROGRESS high: i-0aaaaaaaaaaaaaaaa (db-1) is stopped: 2 volumes get encrypted copies
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What was found
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found stopped, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted

        What is done now
        - First a snapshot of each volume is taken and waited for.
        - Then encrypted copies are made: the same size, type, performance and tags. Nothing goes on until they are seen encrypted.
        - Then each volume is detached and its copy attached in its place, with its device name and what becomes of it at termination.
        - At last each volume is tagged backstop:replaced-by with the id of its copy, and kept as it is. The instance stays stopped.

        What it costs you
        - No downtime of Backstop's making: somebody stopped the instance, and it stays stopped.
        - Please start it only after the message about the end. Started before its volumes are detached, the run goes back; started in the middle of that, a person has to look at it.
        - Copies (108 GiB) and snapshots are paid for beside the originals. The message about the end says what stays behind.

        How to stop it now
        - aws ec2 create-tags --region eu-central-1 --resources i-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'
        - That tags the instance or one of its volumes. Or everything: backstop kill-switch on
        - Until all copies are in place, either makes the run go back: the originals are attached as before."#]].assert_eq(&lead(&when_stopped()));
}

#[test]
fn what_is_left_out_of_a_run_is_said_at_its_beginning() {
    let mut run = swap();
    run.detail.reasons = vec![
        "1 of its volumes are opted out, or were there before, and stay as they are".to_owned(),
    ];
    run.head.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    says(
        &run,
        &[
            "- 1 of its volumes are opted out, or were there before, and stay as they are.",
            "- A tag opts a part of it out until 2027-01-31, by team-web: vendor audit.",
        ],
    );
}

#[test]
fn what_manages_the_volumes_is_named_before_they_are_replaced() {
    for mut run in [swap(), when_stopped(), alone()] {
        run.head.managed_by = Some("Terraform (tag managed-by=terraform)".to_owned());
        let lead = lead(&run);
        let line = "- It is managed by Terraform (tag managed-by=terraform): change it there, or it comes back.";
        let (named, begins) = (lead.find(line), lead.find("What is done now"));
        assert!(named.is_some() && named < begins, "{lead}");
    }
    let mut run = ended(swap(), Status::Pending, &["it waits"]);
    run.head.managed_by = Some("the CloudFormation stack db".to_owned());
    says(
        &run,
        &["Who manages it\n- It is managed by the CloudFormation stack db: change it there"],
    );
}

/// What AWS would refuse is told with the call, AWS's code and the way out;
/// nothing was stopped for it.
#[test]
fn what_a_dry_run_shows_is_told_with_the_way_out() {
    let mut run = swap();
    let start = Change::DryRun(Box::new(Change::Start { back: false }));
    refused(&mut run, "02:00:02", start, "UnauthorizedOperation");
    let why = "AWS would refuse a call that the run needs, as its dry run shows (start): StartInstances: UnauthorizedOperation: no";
    run.note(
        &Note::DryRunsRefused {
            why: vec![why.to_owned()],
        },
        at("02:00:03"),
    );
    let run = ended(run, Status::Refused, &[why]);
    says(
        &run,
        &[
            "Subject: [Backstop] REFUSED",
            "StartInstances: UnauthorizedOperation",
            "Backstop did not stop the instance",
            "What may deny it: the policy of the role of encrypt-volume",
            "backstop re-arm unencrypted-volume i-0aaaaaaaaaaaaaaaa",
        ],
    );
    // Another refusal is none of rights.
    let mut other = swap();
    let copy = Change::DryRun(Box::new(Change::Start { back: false }));
    refused(&mut other, "02:00:02", copy, "InvalidParameterValue");
    other.note(
        &Note::DryRunsRefused {
            why: vec!["no".to_owned()],
        },
        at("02:00:03"),
    );
    says_not(
        &ended(other, Status::Refused, &["no"]),
        &["What may deny it"],
    );
}

// --------------------------------------------------------------------------- the end

#[test]
fn what_replaced_what_what_it_costs_and_how_to_take_it_back() {
    let mut run = swapped(swap());
    did(&mut run, "02:14:00", Change::Start { back: false }, None);
    let mut run = ended(run, Status::Remediated, &[]);
    run.head.managed_by = Some("the CloudFormation stack db".to_owned());
    expect![[r#"
        Subject: [Backstop] FIXED high: i-0aaaaaaaaaaaaaaaa (db-1) has encrypted copies in place of 2 volumes

        FIXED high: i-0aaaaaaaaaaaaaaaa (db-1) has encrypted copies in place of 2 volumes
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What was done
        - /dev/xvda: vol-0aaaaaaaaaaaaaaaa (root), 8 GiB gp3, was replaced by its encrypted copy vol-0cccccccccccccccc.
        - /dev/sdf: vol-0bbbbbbbbbbbbbbbb (data), 100 GiB gp3, was replaced by its encrypted copy vol-0dddddddddddddddd.
        - The instance was stopped at 2026-11-28 02:10:00 UTC and started on its copies at 2026-11-28 02:14:00 UTC (4 minutes). The run ended once it had passed its status checks, or somebody had stopped it again.

        Who manages it
        - It is managed by the CloudFormation stack db: change it there, or it comes back. Say `encrypted: true` there, or what it makes next is unencrypted again, and let it take over the copies before it is applied: applied as it is, it may replace a volume, an attachment or the whole instance by a new, empty one.

        What stays behind, and costs money
        - The original vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, kept, STILL UNENCRYPTED, tagged backstop:replaced-by=vol-0cccccccccccccccc
        - The original vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, kept, STILL UNENCRYPTED, tagged backstop:replaced-by=vol-0dddddddddddddddd
        - The snapshot snap-0aaaaaaaaaaaaaaaa of vol-0aaaaaaaaaaaaaaaa: up to 8 GiB, as unencrypted as the volume.
        - The snapshot snap-0bbbbbbbbbbbbbbbb of vol-0bbbbbbbbbbbbbbbb: up to 100 GiB, as unencrypted as the volume.
        - AWS charges for 108 GiB of volumes at their full size, and for the blocks in 2 snapshots until somebody deletes them. Backstop deletes none of it by itself, unless the policy's `originals.delete_after_days` says so.

        How to delete what stays behind
        - Once you are sure of the copies; after that nothing leads back:
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0aaaaaaaaaaaaaaaa
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0bbbbbbbbbbbbbbbb
        - aws ec2 delete-snapshot --region eu-central-1 --snapshot-id snap-0aaaaaaaaaaaaaaaa
        - aws ec2 delete-snapshot --region eu-central-1 --snapshot-id snap-0bbbbbbbbbbbbbbbb
        - Or let the sweep delete originals (not snapshots) after so many days, in the policy: {"controls": {"unencrypted-volume": {"settings": {"originals": {"delete_after_days": 30}}}}}

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be unencrypted"
        - The originals are attached again as they were when the instance was seen stopped at 2026-11-28 02:10:45 UTC: what was written since stays on the copies, which are kept.
        - DOWNTIME: an instance that runs is stopped and started for it.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: CreateVolume, 2026-11-28 01:00:00 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        Good to know
        - The ids of volumes have changed: whatever names the old ones (backups, alarms, stacks, scripts) has to name the new ones.
        - The copies have the account's default key for EBS. If that is a customer managed key, whoever starts the instance or attaches them needs kms:CreateGrant and kms:Decrypt on it.
        - Everything that the run made carries the tag backstop:entry=01KAT5J3V0QZ8Y2N4M6P8R0T2W.

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0aaaaaaaaaaaaaaaa
        - Begun: 2026-11-28 02:00:00 UTC, ended: 2026-11-28 02:40:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&run));
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
    expect![[r#"
        Subject: [Backstop] FIXED high: vol-0aaaaaaaaaaaaaaaa (data) has an encrypted copy now

        FIXED high: vol-0aaaaaaaaaaaaaaaa (data) has an encrypted copy now
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What was done
        - vol-0aaaaaaaaaaaaaaaa (data), 100 GiB gp3: its encrypted copy is vol-0cccccccccccccccc.
        - Attach the copy from now on: whoever attaches the original works on unencrypted data again.

        What stays behind, and costs money
        - The original vol-0aaaaaaaaaaaaaaaa (data): 100 GiB gp3, kept, STILL UNENCRYPTED, tagged backstop:replaced-by=vol-0cccccccccccccccc
        - The snapshot snap-0aaaaaaaaaaaaaaaa of vol-0aaaaaaaaaaaaaaaa: up to 100 GiB, as unencrypted as the volume.
        - AWS charges for 100 GiB of volumes at their full size, and for the blocks in 1 snapshot until somebody deletes them. Backstop deletes none of it by itself, unless the policy's `originals.delete_after_days` says so.

        How to delete what stays behind
        - Once you are sure of the copies; after that nothing leads back:
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0aaaaaaaaaaaaaaaa
        - aws ec2 delete-snapshot --region eu-central-1 --snapshot-id snap-0aaaaaaaaaaaaaaaa
        - Or let the sweep delete originals (not snapshots) after so many days, in the policy: {"controls": {"unencrypted-volume": {"settings": {"originals": {"delete_after_days": 30}}}}}

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be unencrypted"
        - The original counts again, with an opt-out; its copy is kept. Nothing is attached or detached."#]].assert_eq(&lead(&ended(run, Status::Remediated, &[])));
}

#[test]
fn a_customer_key_is_told_with_who_needs_it() {
    let key = "arn:aws:kms:eu-central-1:111122223333:key/0a0a0a0a-0000-4000-8000-000000000000";
    let mut run = ended(swapped(swap()), Status::Remediated, &[]);
    says_not(&run, &["Who needs the KMS key now"]);
    run.detail.kms_key = Some(key.to_owned());
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
    run.detail.volumes.truncate(1);
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
    run.detail.progress.from_snapshot.insert(
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
    expect![[r#"
        Subject: [Backstop] FOUND high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes

        FOUND high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes, nothing was changed
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What is unencrypted
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted

        What was done
        - Nothing was changed.
        - The mode is `notify`.
        - To have it encrypted, set the mode `enforce` for unencrypted-volume, and `attached` to `when-stopped` (at the next stop by somebody) or `swap` (Backstop stops it in a maintenance window).
        - This would be done, with the policy's `attached` at `swap`:
        - First a snapshot of each volume is taken and waited for. The instance runs on meanwhile.
        - Then the instance is STOPPED, inside a maintenance window of the policy.
        - While it is stopped, encrypted copies are made: the same size, type, performance and tags. Nothing goes on until they are seen encrypted.
        - Then each volume is detached and its copy attached in its place, with its device name and what becomes of it at termination.
        - Then it is started, and has to pass its status checks; else it goes back to its original volumes.
        - At last each volume is tagged backstop:replaced-by with the id of its copy, and kept as it is.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'"#]].assert_eq(&lead(&run));
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
    expect![[r#"
        Subject: [Backstop] PENDING high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes

        PENDING high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes, it waits
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What is unencrypted
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted

        What it waits for
        - Nothing was changed.
        - It waits for the instance to be stopped, or for the maintenance window that opens at 2026-11-28T02:00:00Z.
        - It is taken up by itself then. Sooner: stop the instance yourself.
        - This would be done, with the policy's `attached` at `swap`:
        - First a snapshot of each volume is taken and waited for. The instance runs on meanwhile.
        - Then the instance is STOPPED, inside a maintenance window of the policy.
        - While it is stopped, encrypted copies are made: the same size, type, performance and tags. Nothing goes on until they are seen encrypted.
        - Then each volume is detached and its copy attached in its place, with its device name and what becomes of it at termination.
        - Then it is started, and has to pass its status checks; else it goes back to its original volumes.
        - At last each volume is tagged backstop:replaced-by with the id of its copy, and kept as it is.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'"#]].assert_eq(&lead(&run));
}

#[test]
fn what_is_refused_gives_each_reason_and_what_can_be_done() {
    let mut run = ended(
        swap(),
        Status::Refused,
        &[
            "i-0aaaaaaaaaaaaaaaa is a member of the Auto Scaling group web, which would replace it when it is stopped: encrypt in the launch template",
            "i-0aaaaaaaaaaaaaaaa is protected against being stopped",
        ],
    );
    run.detail.instance.as_mut().unwrap().tags = tags(&[("aws:autoscaling:groupName", "web")]);
    expect![[r#"
        Subject: [Backstop] REFUSED high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes

        REFUSED high: i-0aaaaaaaaaaaaaaaa (db-1) has 2 unencrypted volumes, and Backstop does not change that
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What is unencrypted
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted

        Why it is not replaced, and what can be done
        - Nothing was changed.
        - i-0aaaaaaaaaaaaaaaa is a member of the Auto Scaling group web, which would replace it when it is stopped: encrypt in the launch template.
        - i-0aaaaaaaaaaaaaaaa is protected against being stopped.
        - What groups and fleets start: set `Encrypted` in the block devices of the launch template, and replace the instances.
        - Remove the cause, and the next sweep looks at it again (at once: backstop sweep). By hand: aws ec2 copy-volumes or a snapshot gives an encrypted copy, which is attached in place of the original while the instance is stopped.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'"#]].assert_eq(&lead(&run));
}

#[test]
fn an_opt_out_says_where_it_stands_and_how_to_end_it() {
    let mut run = ended(
        swap(),
        Status::Exempt,
        &["the tag backstop:opt-out opts it out"],
    );
    run.head.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    run.detail.volumes[1]
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

    run.head.status = Status::Held;
    run.head.exemption = Exemption::Malformed {
        value: "allways".to_owned(),
        problem: "`allways` is not a control".to_owned(),
        key: None,
        longest_days: None,
    };
    says(
        &run,
        &[
            "HELD high",
            "The tag's value is `allways`, and `allways` is not a control.",
            "How it is to be written: `all` or control names",
        ],
    );

    run.detail.volumes[1]
        .tags
        .insert("Backstop:Opt-Out".to_owned(), "all".to_owned());
    says(
        &run,
        &[
            r#"delete-tags --region eu-central-1 --resources vol-0bbbbbbbbbbbbbbbb --tags '[{"Key":"Backstop:Opt-Out"}]'"#,
            "--resources vol-0bbbbbbbbbbbbbbbb --tags 'Key=backstop:opt-out'",
        ],
    );
}

#[test]
fn what_keeps_the_control_from_acting_says_the_way_out() {
    let why = || "its encryption came to a bad end".to_owned();
    for (because, way_out) in [
        (
            Reason::Existing,
            "`\"existing\": \"enforce\"` for unencrypted-volume",
        ),
        (
            Reason::ControlTripped { why: why() },
            "- backstop re-arm unencrypted-volume\n",
        ),
        (
            Reason::ResourceTripped { why: why() },
            "- backstop re-arm unencrypted-volume i-0aaaaaaaaaaaaaaaa\n",
        ),
        (
            Reason::KillSwitch,
            "first sweep after the kill switch is off",
        ),
    ] {
        let mut run = ended(swap(), because.status(), &[&because.to_string()]);
        run.detail.because = Some(because);
        says(&run, &["- Nothing was changed.", way_out, "would be done"]);
    }
}

// ------------------------------------------------------------------------------ back

#[test]
fn what_was_taken_back_says_why_how_it_is_and_what_stays() {
    let mut run = put_back();
    did(&mut run, "02:27:00", Change::Start { back: true }, None);
    let why = run.detail.progress.back.clone().unwrap().why;
    expect![[r#"
        Subject: [Backstop] ROLLED BACK high: i-0aaaaaaaaaaaaaaaa (db-1) keeps its 2 unencrypted volumes

        ROLLED BACK high: i-0aaaaaaaaaaaaaaaa (db-1) keeps its 2 unencrypted volumes
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        Why it was taken back
        - The instance did not pass its status checks within 10 minutes.

        How it is now
        - vol-0aaaaaaaaaaaaaaaa (root) is attached as /dev/xvda again.
        - vol-0bbbbbbbbbbbbbbbb (data) is attached as /dev/sdf again.
        - The instance was stopped at 2026-11-28 02:10:00 UTC and last started at 2026-11-28 02:27:00 UTC (17 minutes).

        What is unencrypted
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted

        What stays behind, and costs money
        - The encrypted copy vol-0cccccccccccccccc of vol-0aaaaaaaaaaaaaaaa: 8 GiB gp3; it was attached, so it is kept: it may hold what was written since.
        - The encrypted copy vol-0dddddddddddddddd of vol-0bbbbbbbbbbbbbbbb: 100 GiB gp3; it was attached, so it is kept: it may hold what was written since.
        - The snapshot snap-0aaaaaaaaaaaaaaaa of vol-0aaaaaaaaaaaaaaaa: up to 8 GiB, as unencrypted as the volume.
        - The snapshot snap-0bbbbbbbbbbbbbbbb of vol-0bbbbbbbbbbbbbbbb: up to 100 GiB, as unencrypted as the volume.
        - AWS charges for 108 GiB of volumes at their full size, and for the blocks in 2 snapshots until somebody deletes them. Backstop deletes none of it by itself.

        How to go on
        - Backstop leaves it alone until a person re-arms it. Remove the cause first.
        - backstop re-arm unencrypted-volume i-0aaaaaaaaaaaaaaaa
        - Delete the copies first: while one is there, no second one is made.
        - Or opt it out: aws ec2 create-tags --region eu-central-1 --resources i-0aaaaaaaaaaaaaaaa --tags 'Key=backstop:opt-out,Value=unencrypted-volume until=2027-02-26 owner=team-db reason=why it must stay as it is'

        How to delete what stays behind
        - Once you have looked at what is on the copies:
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0cccccccccccccccc
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0dddddddddddddddd
        - aws ec2 delete-snapshot --region eu-central-1 --snapshot-id snap-0aaaaaaaaaaaaaaaa
        - aws ec2 delete-snapshot --region eu-central-1 --snapshot-id snap-0bbbbbbbbbbbbbbbb

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: CreateVolume, 2026-11-28 01:00:00 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        Good to know
        - Everything that the run made carries the tag backstop:entry=01KAT5J3V0QZ8Y2N4M6P8R0T2W.

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0aaaaaaaaaaaaaaaa
        - Begun: 2026-11-28 02:00:00 UTC, ended: 2026-11-28 02:40:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&ended(run, Status::RolledBack, &[&why])));
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
    const TERMINATED: &str = "somebody terminated i-0aaaaaaaaaaaaaaaa during the run";
    let mut run = ended(swapped(swap()), Status::RolledBack, &[TERMINATED]);
    run.detail.instance_gone = true;
    const GONE: &str = "The instance is gone: there is nothing to put back.";
    says(&run, &["- Somebody terminated i-0aaaaaaaaaaaaaaaa", GONE]);
    says_not(&run, &["is attached as", "How to go on", "start-instances"]);
    // A sentence is shown and never read: one of an earlier release says no more.
    run.detail.instance_gone = false;
    says(&run, &["- Somebody terminated i-0aaaaaaaaaaaaaaaa"]);
    says_not(&run, &[GONE]);
}

/// What was refused at the beginning and what was refused during the run is told
/// alike.
#[test]
fn what_forbids_to_go_on_is_told_one_by_one() {
    let why = ["vol-1 is managed by x", "vol-2 is managed by x; and y"].map(str::to_owned);
    let mut run = swap();
    run.note(&Note::Refuse { why: why.to_vec() }, at("02:15:00"));
    let back = run.detail.progress.back.clone().unwrap();
    assert_eq!((back.status, back.trip), (Status::Refused, false));
    assert_eq!(
        back.why,
        "vol-1 is managed by x; vol-2 is managed by x; and y"
    );
    assert_eq!(back.sentences(), why);
    let sentences = back.sentences();
    let end = End {
        status: back.status,
        why: sentences,
        trip: false,
        instance_gone: false,
    };
    run.conclude(&end, at("02:16:00"));
    says(
        &run,
        &["- vol-1 is managed by x.\n- vol-2 is managed by x; and y.\n"],
    );
    // An earlier release stored the sentence alone.
    let mut stored = serde_json::to_value(&back).unwrap();
    stored.as_object_mut().unwrap().remove("refusals");
    let read: Back = serde_json::from_value(stored).unwrap();
    assert_eq!(read.sentences(), [back.why]);
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
    run.detail.progress.attention = Some("i-0aaaaaaaaaaaaaaaa is stopped with its original volumes attached, and AWS refuses to start it (StartInstances: InsufficientInstanceCapacity). Backstop keeps trying. By hand: aws ec2 start-instances --instance-ids i-0aaaaaaaaaaaaaaaa".to_owned());
    expect![[r#"
        Subject: [Backstop] NEEDS A PERSON NOW critical: i-0aaaaaaaaaaaaaaaa (db-1): replacing its volumes is stuck

        NEEDS A PERSON NOW critical: i-0aaaaaaaaaaaaaaaa (db-1): replacing its volumes is stuck
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        A person is needed now
        - i-0aaaaaaaaaaaaaaaa is stopped with its original volumes attached, and AWS refuses to start it (StartInstances: InsufficientInstanceCapacity). Backstop keeps trying. By hand: aws ec2 start-instances --instance-ids i-0aaaaaaaaaaaaaaaa
        - The instance was stopped at 2026-11-28 02:10:00 UTC.
        - The run goes back, because the instance did not pass its status checks within 10 minutes.
        - The run goes on meanwhile, and takes up what you do by hand: a further message tells how it ended.

        What is where, as far as Backstop knows
        - /dev/xvda: original vol-0aaaaaaaaaaaaaaaa (attached by the run at 2026-11-28 02:26:10 UTC); encrypted copy vol-0cccccccccccccccc (detached by the run at 2026-11-28 02:26:00 UTC); snapshots snap-0aaaaaaaaaaaaaaaa
        - /dev/sdf: original vol-0bbbbbbbbbbbbbbbb (attached by the run at 2026-11-28 02:26:30 UTC); encrypted copy vol-0dddddddddddddddd (detached by the run at 2026-11-28 02:26:20 UTC); snapshots snap-0bbbbbbbbbbbbbbbb
        - The instance was running before; the run stopped it at 2026-11-28 02:10:00 UTC, and no start of it succeeded.

        What to type
        - See what is attached, and whether the instance runs:
        - aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0aaaaaaaaaaaaaaaa' --output table
        - aws ec2 describe-instance-status --region eu-central-1 --include-all-instances --instance-ids i-0aaaaaaaaaaaaaaaa
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0aaaaaaaaaaaaaaaa

        What was found
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, has 2 unencrypted volumes:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted"#]].assert_eq(&lead(&run));
    let message = message(&run);
    assert_eq!(message.attributes["severity"], "critical");
    assert_eq!(message.attributes["outcome"], "in-progress");
    // What has to be typed is whole in chat as well. What is back already is
    // not attached once more.
    let chat = body(&message, "https");
    let start = "aws ec2 start-instances --region eu-central-1 --instance-ids i-0aaaaaaaaaaaaaaaa";
    assert!(chat.contains(start), "{chat}");
    says_not(&run, &["attach-volume", "detach-volume"]);
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
    expect![[r#"
        Subject: [Backstop] NEEDS A PERSON critical: i-0aaaaaaaaaaaaaaaa (db-1): replacing its volumes cannot go on

        NEEDS A PERSON critical: i-0aaaaaaaaaaaaaaaa (db-1): replacing its volumes cannot go on
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        Why a person is needed
        - vol-0aaaaaaaaaaaaaaaa is replaced by vol-0cccccccccccccccc, and could not be tagged so: CreateTags: UnauthorizedOperation: no.
        - Tag it, or it is taken for one that was never encrypted: aws ec2 create-tags --resources vol-0aaaaaaaaaaaaaaaa --tags Key=backstop:replaced-by,Value=vol-0cccccccccccccccc

        What is where, as far as Backstop knows
        - /dev/xvda: original vol-0aaaaaaaaaaaaaaaa (detached by the run at 2026-11-28 02:13:00 UTC); encrypted copy vol-0cccccccccccccccc (attached by the run at 2026-11-28 02:13:10 UTC); snapshots snap-0aaaaaaaaaaaaaaaa
        - /dev/sdf: original vol-0bbbbbbbbbbbbbbbb (detached by the run at 2026-11-28 02:13:20 UTC); encrypted copy vol-0dddddddddddddddd (attached by the run at 2026-11-28 02:13:30 UTC); snapshots snap-0bbbbbbbbbbbbbbbb
        - The instance was running before; the run stopped it at 2026-11-28 02:10:00 UTC, and last started it at 2026-11-28 02:14:00 UTC.

        What to type
        - See what is attached, and whether the instance runs:
        - aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0aaaaaaaaaaaaaaaa' --output table
        - aws ec2 describe-instance-status --region eu-central-1 --include-all-instances --instance-ids i-0aaaaaaaaaaaaaaaa
        - Only if the originals are to be used again. A copy that the instance ran on keeps what was written since; to use it instead, attach it in place of the original:
        - aws ec2 stop-instances --region eu-central-1 --instance-ids i-0aaaaaaaaaaaaaaaa
        - aws ec2 wait instance-stopped --region eu-central-1 --instance-ids i-0aaaaaaaaaaaaaaaa
        - aws ec2 detach-volume --region eu-central-1 --volume-id vol-0cccccccccccccccc
        - aws ec2 wait volume-available --region eu-central-1 --volume-ids vol-0cccccccccccccccc
        - aws ec2 attach-volume --region eu-central-1 --volume-id vol-0aaaaaaaaaaaaaaaa --instance-id i-0aaaaaaaaaaaaaaaa --device /dev/xvda
        - aws ec2 detach-volume --region eu-central-1 --volume-id vol-0dddddddddddddddd
        - aws ec2 wait volume-available --region eu-central-1 --volume-ids vol-0dddddddddddddddd
        - aws ec2 attach-volume --region eu-central-1 --volume-id vol-0bbbbbbbbbbbbbbbb --instance-id i-0aaaaaaaaaaaaaaaa --device /dev/sdf
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0aaaaaaaaaaaaaaaa
        - What is attached by hand stays when the instance is terminated. Before, these went with it: vol-0aaaaaaaaaaaaaaaa (aws ec2 modify-instance-attribute sets it).

        How to go on
        - Backstop leaves it alone until a person re-arms it, once all is in order:
        - backstop re-arm unencrypted-volume i-0aaaaaaaaaaaaaaaa
        - AWS charges for what the run made until somebody deletes it: volumes and snapshots with the tag backstop:entry=01KAT5J3V0QZ8Y2N4M6P8R0T2W."#]].assert_eq(&lead(&run));
    assert_eq!(message(&run).attributes["severity"], "critical");
}

// ----------------------------------------------------------------------------- undos

/// What takes the encryption back.
fn undo(of: Encryption) -> Encryption {
    let mut run = Run {
        head: Head {
            id: "01KAT6AAAAAAAAAAAAAAAAAAAA".to_owned(),
            ..of.head
        },
        detail: EncryptionDetail {
            undoes: Some("01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned()),
            ..of.detail
        },
    };
    for (volume, copy) in run
        .detail
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
    expect![[r#"
        Subject: [Backstop] UNDO IN PROGRESS high: i-0aaaaaaaaaaaaaaaa (db-1) is stopped to undo its encryption

        UNDO IN PROGRESS high: i-0aaaaaaaaaaaaaaaa (db-1) is stopped to undo its encryption
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        What is done now
        - Somebody asked for the encryption 01KAT5J3V0QZ8Y2N4M6P8R0T2W to be taken back.
        - DOWNTIME: the instance is stopped, the copies are detached, the originals attached in their place, and it is started again. That usually takes some minutes; `max_downtime_minutes` does not end it.
        - What was written to the copies since they were put in place stays on them; the originals do not have it.
        - Neither an opt-out nor the kill switch stops it: the way back always goes on.

        What was found
        - i-0aaaaaaaaaaaaaaaa (db-1), t3.large, found running, which gets back:
        - vol-0aaaaaaaaaaaaaaaa (root): 8 GiB gp3, /dev/xvda, not encrypted
        - vol-0bbbbbbbbbbbbbbbb (data): 100 GiB gp3, /dev/sdf, not encrypted"#]].assert_eq(&lead(&undo(swap())));
}

#[test]
fn an_undo_says_that_later_writes_stay_on_the_copies() {
    let mut run = undo(swap());
    back(&mut run, "somebody asked for it to be taken back", false);
    did(&mut run, "02:10:00", Change::Stop { back: true }, None);
    did(&mut run, "02:13:00", Change::Start { back: true }, None);
    run.head.exemption = Exemption::Exempt(OptOut {
        until: Some(jiff::civil::date(2026, 12, 5)),
        owner: None,
        reason: Some("undo".to_owned()),
    });
    let run = ended(
        run,
        Status::RolledBack,
        &["somebody asked for it to be taken back"],
    );
    expect![[r#"
        Subject: [Backstop] UNDONE high: i-0aaaaaaaaaaaaaaaa (db-1) is back on its 2 unencrypted volumes

        UNDONE high: i-0aaaaaaaaaaaaaaaa (db-1) is back on its 2 unencrypted volumes
        Account 111122223333, eu-central-1. Team: team-db. Control: unencrypted-volume.

        Why
        - Somebody asked for it to be taken back.

        What was done
        - The encryption 01KAT5J3V0QZ8Y2N4M6P8R0T2W was taken back.
        - vol-0aaaaaaaaaaaaaaaa (root) is /dev/xvda again, unencrypted; its copy vol-0cccccccccccccccc is kept, with what was written since.
        - vol-0bbbbbbbbbbbbbbbb (data) is /dev/sdf again, unencrypted; its copy vol-0dddddddddddddddd is kept, with what was written since.
        - The instance was stopped at 2026-11-28 02:10:00 UTC and last started at 2026-11-28 02:13:00 UTC (3 minutes).

        What stays behind, and costs money
        - The encrypted copy vol-0cccccccccccccccc of vol-0aaaaaaaaaaaaaaaa: 8 GiB gp3; it was attached, so it is kept: it may hold what was written since.
        - The encrypted copy vol-0dddddddddddddddd of vol-0bbbbbbbbbbbbbbbb: 100 GiB gp3; it was attached, so it is kept: it may hold what was written since.
        - AWS charges for 108 GiB of volumes at their full size until somebody deletes them. Backstop deletes none of it by itself.

        How to delete what stays behind
        - Once you have looked at what is on the copies:
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0cccccccccccccccc
        - aws ec2 delete-volume --region eu-central-1 --volume-id vol-0dddddddddddddddd

        How to have it encrypted again
        - The originals are opted out (tag backstop:opt-out) until the day that the request gave. Remove the tag to end it sooner. Delete the copies, or take their tag backstop:copy-of away: while one is there, no second one is made.

        Who asked for it, as stated
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice

        Good to know
        - What is put back is opted out until 2026-12-05, by nobody named: undo.
        - Everything that the run made carries the tag backstop:entry=01KAT6AAAAAAAAAAAAAAAAAAAA.

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0aaaaaaaaaaaaaaaa
        - Begun: 2026-11-28 02:00:00 UTC, ended: 2026-11-28 02:40:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT6AAAAAAAAAAAAAAAAAAAA
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT6AAAAAAAAAAAAAAAAAAAA"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&run));
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
    expect![[r#"
        Subject: [Backstop] FIXED medium: encryption by default in eu-central-1 was off and is on again

        FIXED medium: encryption by default in eu-central-1 was off and is on again
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What was found
        - EBS encryption by default was off in eu-central-1: whoever created a volume there without asking for encryption got an unencrypted one.
        - Volumes that were created meanwhile stay as they are: the control unencrypted-volume looks at them.

        What was done
        - It was turned on, and seen on. Nothing that exists was touched.
        - New volumes get the account's default KMS key. If that is a customer managed key, whoever creates volumes or starts instances needs kms:CreateGrant and kms:Decrypt on it.

        How to exempt the account
        - An account has no tags; put this into the policy: {"controls": {"encryption-by-default": {"settings": {"exemption": {"until": "2027-02-26", "owner": "your-team", "reason": "why"}}}}}

        How to turn it off again
        - Exempt the account first, or it is turned on again. Then: aws ec2 disable-ebs-encryption-by-default --region eu-central-1

        Who turned it off, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-28 01:00:00 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:encryption-by-default/eu-central-1
        - Begun: 2026-11-28 02:00:00 UTC, ended: 2026-11-28 02:40:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&ended(setting(), Status::Remediated, &[])));
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
            run.head.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
        }
        says(&run, &["- Nothing was changed.", part]);
    }
}

// ---------------------------------------------------------------------- the format

#[test]
fn programs_get_everything() {
    let mut run = put_back();
    did(&mut run, "02:27:00", Change::Start { back: true }, None);
    run.detail.kms_key = Some("alias/data".to_owned());
    run.head.managed_by = Some("the CloudFormation stack db".to_owned());
    run.detail.progress.attention = Some("look".to_owned());
    let run = ended(run, Status::RolledBack, &["because"]);
    let data = data(&run);
    assert!(ENCRYPTION.is_valid(&data), "{data:#}");
    let read: EncryptionNotification = serde_json::from_value(data.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), data);
    expect![[r#"
        {
          "account": "111122223333",
          "actor": {
            "event_id": "5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e",
            "event_name": "CreateVolume",
            "event_time": "2026-11-28T01:00:00Z",
            "principal": "arn:aws:sts::111122223333:assumed-role/developer/alice",
            "source_address": "198.51.100.7",
            "user_agent": "aws-cli/2.31.0"
          },
          "attempts": 1,
          "attention": "look",
          "back": {
            "at": "2026-11-28T02:15:00Z",
            "left_alone": true,
            "why": "the instance did not pass its status checks within 10 minutes"
          },
          "control": "unencrypted-volume",
          "copies": [
            {
              "attached": true,
              "deleted": false,
              "id": "vol-0cccccccccccccccc",
              "of": "vol-0aaaaaaaaaaaaaaaa"
            },
            {
              "attached": true,
              "deleted": false,
              "id": "vol-0dddddddddddddddd",
              "of": "vol-0bbbbbbbbbbbbbbbb"
            }
          ],
          "downtime": {
            "seconds": 1020,
            "started_at": "2026-11-28T02:27:00Z",
            "stopped_at": "2026-11-28T02:10:00Z"
          },
          "entry": "01KAT5J3V0QZ8Y2N4M6P8R0T2W",
          "exemption": {
            "state": "none"
          },
          "finished_at": "2026-11-28T02:40:00Z",
          "headline": "ROLLED BACK high: i-0aaaaaaaaaaaaaaaa (db-1) keeps its 2 unencrypted volumes",
          "instance": {
            "id": "i-0aaaaaaaaaaaaaaaa",
            "instance_type": "t3.large",
            "name": "db-1",
            "state": "running"
          },
          "key": "c6227d4d7ac8af6c9548dde1ee879a92",
          "kind": "encryption",
          "kms_key": "alias/data",
          "ledger_key": {
            "pk": "entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W",
            "sk": "entry"
          },
          "managed_by": "the CloudFormation stack db",
          "omitted": {
            "copies": 0,
            "originals_kept": 0,
            "reasons": 0,
            "snapshots": 0,
            "volumes": 0
          },
          "originals_kept": [],
          "outcome": "rolled-back",
          "policy_version": 7,
          "reasons": [
            "because"
          ],
          "region": "eu-central-1",
          "resource": {
            "arn": "arn:aws:ec2:eu-central-1:111122223333:instance/i-0aaaaaaaaaaaaaaaa",
            "id": "i-0aaaaaaaaaaaaaaaa",
            "name": "db-1"
          },
          "severity": "high",
          "snapshots": [
            {
              "id": "snap-0aaaaaaaaaaaaaaaa",
              "of": "vol-0aaaaaaaaaaaaaaaa",
              "purpose": "safety"
            },
            {
              "id": "snap-0bbbbbbbbbbbbbbbb",
              "of": "vol-0bbbbbbbbbbbbbbbb",
              "purpose": "safety"
            }
          ],
          "started_at": "2026-11-28T02:00:00Z",
          "team": "team-db",
          "version": 1,
          "volumes": [
            {
              "copy": "vol-0cccccccccccccccc",
              "delete_on_termination": true,
              "device": "/dev/xvda",
              "id": "vol-0aaaaaaaaaaaaaaaa",
              "iops": 3000,
              "name": "root",
              "size_gib": 8,
              "throughput": 125,
              "volume_type": "gp3",
              "zone": "eu-central-1a"
            },
            {
              "copy": "vol-0dddddddddddddddd",
              "delete_on_termination": false,
              "device": "/dev/sdf",
              "id": "vol-0bbbbbbbbbbbbbbbb",
              "iops": 3000,
              "name": "data",
              "size_gib": 100,
              "throughput": 125,
              "volume_type": "gp3",
              "zone": "eu-central-1a"
            }
          ],
          "way": "swap"
        }
    "#]].assert_eq(&format!("{data:#}\n"));
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
        run.detail.instance = None;
    }
    run.detail.way = way;
    run.detail.volumes = (0..volumes)
        .map(|n| {
            let mut volume = volume(&own(n), text, i32::MAX, Some(text));
            volume.volume_type = t();
            volume.zone = t();
            volume.tags = BTreeMap::from([(t(), t()), (REPLACED_BY_TAG.to_owned(), t())]);
            volume
        })
        .collect();
    if let Some(instance) = &mut run.detail.instance {
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
        run.detail.progress.from_snapshot.insert(id, t());
    }
    run.detail.progress.tries.insert(
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
    run.detail.progress.attention = Some(t());
    run.detail.progress.back = Some(Back {
        at: at("02:00:00"),
        why: t(),
        refusals: vec![t(), t()],
        status,
        trip: true,
    });
    run.head.id = t();
    run.head.resource = t();
    run.head.resource_name = t();
    run.head.account = t();
    run.head.region = t();
    run.head.team = Some(t());
    run.detail.kms_key = Some(t());
    run.detail.reasons = vec![t(); volumes];
    run.head.managed_by = Some(t());
    run.detail.undoes = undoes.then(t);
    run.head.exemption = Exemption::Malformed {
        value: t(),
        problem: t(),
        key: None,
        longest_days: None,
    };
    run.head.actor = Actor {
        principal: Some(t()),
        user_agent: Some(t()),
        source_address: Some(t()),
        invoked_by: Some(t()),
        event_name: Some(t()),
        event_time: None,
        event_id: Some(t()),
        account: Some(t()),
        on_behalf_of: Some(t()),
    };
    run.head.status = status;
    run
}

fn check_all(text: &str, volumes: usize) {
    for status in STATUSES {
        for (way, undoes) in WAYS {
            let run = made_of(text, *status, *way, volumes, *undoes);
            check_against(&message(&run), &ENCRYPTION);
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
        "x".repeat(1500),
        "\"\\".repeat(750),
        "😀".repeat(1500),
        "\u{1}\r\n\u{202e}".repeat(100),
        String::new(),
    ] {
        check_all(&text, 2);
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
        begun in any::<bool>(),
    ) {
        let (way, undoes) = WAYS[way];
        let mut run = made_of(&text, STATUSES[status], way, volumes, undoes);
        if !begun {
            run.detail.progress = Progress::default();
        }
        check_against(&message(&run), &ENCRYPTION);
    }
}

/// What a person has to know at once is told again when it comes back.
#[test]
fn what_wants_attention_again_with_something_else_in_between_is_sent_again() {
    let mut run = swap();
    let mut keys = Vec::new();
    for text in ["it does not stop", "it does not start", "it does not stop"] {
        let attention = Note::Attention {
            text: text.to_owned(),
        };
        // Seen once more, it is the same.
        for _ in 0..2 {
            run.note(&attention, at("02:15:00"));
            keys.push(run.message_key());
        }
    }
    keys.dedup();
    assert_eq!(keys.len(), 3);
    assert_ne!(keys[0], keys[2]);
}
