//! What an undo of an encryption comes to, from the volumes as they are then.

use std::collections::BTreeMap;

use backstop_core::controls::unencrypted_volume::{About, Circumstances, decide, record};
use backstop_core::encryption::{Answer, Change, Encryption, Way};
use backstop_core::exemption::{Exemption, OPT_OUT_TAG};
use backstop_core::guards::Guards;
use backstop_core::policy::Policy;
use backstop_core::trigger::Trigger;
use backstop_core::undo::Request;
use backstop_core::undo::encryptions::{Decision, plan, swap_back};
use backstop_core::volumes::{
    Attachment, COPY_OF_TAG, ENTRY_TAG, Instance, REPLACED_BY_TAG, Unit, Volume, VolumeFacts,
};
use backstop_core::words::{Actor, Mode, Status};
use jiff::{Timestamp, ToSpan};

const ENTRY: &str = "01K00000000000000000000000";
const TODAY: jiff::civil::Date = jiff::civil::date(2026, 11, 24);
const INSTANCE: &str = "i-0123456789abcdef0";

fn volume(id: &str, encrypted: bool, on: Option<&str>, tags: &[(&str, &str)]) -> Volume {
    Volume {
        id: id.into(),
        state: if on.is_some() { "in-use" } else { "available" }.into(),
        encrypted,
        size: 8,
        volume_type: "gp3".into(),
        iops: Some(3000),
        throughput: Some(125),
        zone: "eu-central-1a".into(),
        multi_attach: false,
        created_at: None,
        attachments: on
            .map(|instance| Attachment {
                instance: instance.into(),
                device: "/dev/xvda".into(),
                state: "attached".into(),
                delete_on_termination: true,
                attached_at: None,
            })
            .into_iter()
            .collect(),
        tags: tags
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        operator: None,
        marketplace: false,
        outpost: None,
    }
}

fn instance(state: &str) -> Instance {
    Instance {
        id: INSTANCE.into(),
        state: state.into(),
        launched_at: None,
        instance_type: "m7i.large".into(),
        tags: BTreeMap::new(),
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

/// The entry of a run that replaced `vol-o` by `vol-c`.
fn entry(attached: bool) -> Encryption {
    let on = attached.then_some(INSTANCE);
    let original = volume("vol-o", false, on, &[]);
    let facts = VolumeFacts {
        unit: match attached {
            true => Unit::Instance(Box::new(instance("stopped")), vec![original]),
            false => Unit::Volume(Box::new(original)),
        },
        copies: BTreeMap::new(),
        key_problem: None,
    };
    let policy = r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"attached":"when-stopped"}}}}"#;
    let (now, guards) = (Timestamp::UNIX_EPOCH, Guards::default());
    let circumstances = Circumstances {
        mode: Mode::Enforce,
        now,
        guards: &guards,
    };
    let decision = decide(
        &facts,
        &Policy::parse(policy).unwrap().unencrypted_volume(),
        &circumstances,
    );
    let trigger = Trigger {
        resource: "vol-o".into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor::default(),
    };
    let about = About {
        id: ENTRY,
        trigger: &trigger,
        partition: "aws",
        owner_tag: "owner",
        policy_version: 1,
        kms_key: None,
        now,
    };
    let mut entry = record(&facts, &decision, about).unwrap();
    assert_eq!(entry.head.status, Status::InProgress);
    let copy = Change::Copy {
        volume: "vol-o".into(),
    };
    entry.trying(&copy, now);
    entry.tried(&copy, Answer::Accepted, Some("vol-c".into()));
    entry.head.status = Status::Remediated;
    entry.head.finished_at = Some(now);
    entry
}

fn world(volumes: &[Volume]) -> BTreeMap<String, Volume> {
    volumes.iter().map(|v| (v.id.clone(), v.clone())).collect()
}

fn original(on: Option<&str>) -> Volume {
    volume("vol-o", false, on, &[(REPLACED_BY_TAG, "vol-c")])
}

fn copy(on: Option<&str>) -> Volume {
    volume(
        "vol-c",
        true,
        on,
        &[(COPY_OF_TAG, "vol-o"), (ENTRY_TAG, ENTRY)],
    )
}

#[test]
fn a_swap_is_taken_back_while_the_original_is_there_and_the_copy_in_its_place() {
    let running = instance("running");
    let now = world(&[original(None), copy(Some(INSTANCE))]);
    let entry = entry(true);
    let Decision::SwapBack(back) = plan(&entry, Some(&running), &now, TODAY) else {
        panic!("{:?}", plan(&entry, Some(&running), &now, TODAY));
    };
    assert_eq!(back.len(), 1);
    let request = Request {
        dry_run: false,
        remediation: ENTRY.into(),
        reason: "slow".into(),
        by: Some("jo".into()),
        opt_out_days: None,
    };
    let until = "2027-01-31".parse().unwrap();
    let undo = swap_back(
        &entry,
        "01K00000000000000000000001",
        &request,
        (&running, back),
        until,
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(undo.detail.undoes.as_deref(), Some(ENTRY));
    assert_eq!(
        (undo.head.status, undo.detail.way),
        (Status::InProgress, Way::Swap)
    );
    assert!(
        undo.detail.progress.tries.is_empty(),
        "its own story begins anew"
    );
    // As it was attached when it was replaced, and what is there now.
    assert_eq!(undo.detail.volumes[0].attachments[0].device, "/dev/xvda");
    assert!(undo.detail.volumes[0].attachments[0].delete_on_termination);
    assert_eq!(undo.detail.volumes[0].tags[REPLACED_BY_TAG], "vol-c");
    assert!(matches!(undo.head.exemption, Exemption::Exempt(_)));
    assert_eq!(
        undo.detail.instance.unwrap().state,
        "running",
        "it is to run afterwards"
    );
}

#[test]
fn what_cannot_be_taken_back_is_said() {
    let running = instance("running");
    let terminated = instance("terminated");
    let on = Some(INSTANCE);
    let mut deleted = original(None);
    deleted.state = "deleting".into();
    for (what, instance, now, says) in [
        (
            "gone",
            Some(&running),
            world(&[copy(on)]),
            "the original vol-o is gone",
        ),
        (
            "being deleted",
            Some(&running),
            world(&[deleted, copy(on)]),
            "the original vol-o is gone",
        ),
        (
            "elsewhere",
            Some(&running),
            world(&[original(Some("i-1")), copy(on)]),
            "vol-o is attached elsewhere",
        ),
        (
            "copy moved",
            Some(&running),
            world(&[original(None), copy(None)]),
            "the copy of vol-o is not attached",
        ),
        (
            "terminated",
            Some(&terminated),
            world(&[original(None), copy(None)]),
            "the instance is terminated",
        ),
        (
            "no instance",
            None,
            world(&[original(None), copy(None)]),
            "the instance is terminated",
        ),
    ] {
        match plan(&entry(true), instance, &now, TODAY) {
            Decision::Refused(why) => assert!(why.contains(says), "{what}: {why}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let back = world(&[original(on), copy(None)]);
    assert_eq!(
        plan(&entry(true), Some(&running), &back, TODAY),
        Decision::AsBefore
    );
}

/// IAM enforces an opt-out without an end, so that the stop would be denied; one
/// with an end is honoured by the code alone, which goes back all the same.
#[test]
fn an_opt_out_without_an_end_is_asked_to_get_one_with_the_command() {
    let now = world(&[original(None), copy(Some(INSTANCE))]);
    let tagged = |value: &str, state: &str| {
        let mut instance = instance(state);
        instance.tags.insert(OPT_OUT_TAG.into(), value.into());
        plan(&entry(true), Some(&instance), &now, TODAY)
    };
    for (value, until) in [
        ("unencrypted-volume", "unencrypted-volume"),
        ("unencrypted-volume owner=db", "unencrypted-volume"),
        (
            "open-ingress+unencrypted-volume",
            "open-ingress+unencrypted-volume",
        ),
    ] {
        let Decision::Refused(why) = tagged(value, "running") else {
            panic!("{value}: {:?}", tagged(value, "running"));
        };
        let end = TODAY.saturating_add(7.days());
        let command = format!(
            "aws ec2 create-tags --region eu-central-1 --resources {INSTANCE} --tags 'Key=backstop:opt-out,Value={until} until={end} reason=undo'"
        );
        assert!(why.contains("keeps Backstop from stopping it"), "{why}");
        assert!(why.ends_with(&command), "{why}");
    }
    for (value, state) in [
        ("unencrypted-volume until=2099-01-31", "running"),
        ("open-ingress", "running"),
        ("unencrypted-volume", "stopped"),
    ] {
        let decision = tagged(value, state);
        assert!(
            matches!(decision, Decision::SwapBack(_)),
            "{value}: {decision:?}"
        );
    }
}

#[test]
fn a_run_under_way_is_taken_back_by_an_opt_out_that_has_an_end() {
    let mut open = entry(true);
    open.head.status = Status::InProgress;
    let now = world(&[original(None), copy(Some(INSTANCE))]);
    let Decision::Refused(why) = plan(&open, Some(&instance("running")), &now, TODAY) else {
        panic!()
    };
    let end = TODAY.saturating_add(7.days());
    let tag = format!("Value=unencrypted-volume until={end}");
    assert!(
        why.contains("aws ec2 create-tags") && why.contains(&tag),
        "{why}"
    );
}

#[test]
fn what_is_said_of_an_original_that_is_gone_names_its_snapshot() {
    let mut entry = entry(true);
    let snapshot = Change::Snapshot {
        volume: "vol-o".into(),
        purpose: backstop_core::encryption::Purpose::Safety,
    };
    entry.trying(&snapshot, Timestamp::UNIX_EPOCH);
    entry.tried(&snapshot, Answer::Accepted, Some("snap-1".into()));
    let Decision::Refused(why) = plan(&entry, Some(&instance("running")), &world(&[]), TODAY)
    else {
        panic!()
    };
    assert!(why.contains("snap-1"), "{why}");
}

#[test]
fn a_volume_that_was_attached_nowhere_was_never_changed() {
    let now = world(&[original(None), copy(None)]);
    match plan(&entry(false), None, &now, TODAY) {
        Decision::OptOut(volumes) => assert_eq!(volumes[0].id, "vol-o"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        plan(&entry(false), None, &world(&[copy(None)]), TODAY),
        Decision::Refused(_)
    ));
}

#[test]
fn runs_that_replaced_nothing_are_under_way_or_undos_themselves_are_not_taken_back() {
    let running = instance("running");
    let now = world(&[volume("vol-o", false, Some(INSTANCE), &[])]);
    let mut rolled_back = entry(true);
    rolled_back.head.status = Status::RolledBack;
    let mut open = entry(true);
    open.head.status = Status::InProgress;
    let mut undo = entry(true);
    undo.detail.undoes = Some(ENTRY.into());
    let mut setting = entry(false);
    setting.detail.way = Way::AccountSetting;
    assert!(matches!(
        plan(&rolled_back, Some(&running), &now, TODAY),
        Decision::Nothing(_)
    ));
    assert!(matches!(
        plan(&undo, Some(&running), &now, TODAY),
        Decision::Nothing(_)
    ));
    match plan(&open, Some(&running), &now, TODAY) {
        Decision::Refused(why) => assert!(why.contains("under way"), "{why}"),
        other => panic!("{other:?}"),
    }
    match plan(&setting, None, &now, TODAY) {
        Decision::Nothing(why) => {
            assert!(why.contains("disable-ebs-encryption-by-default"), "{why}")
        }
        other => panic!("{other:?}"),
    }
}

/// IAM denies the stop by the value, however the key is spelt.
#[test]
fn an_opt_out_without_an_end_is_one_in_any_spelling_of_its_key() {
    let now = world(&[original(None), copy(Some(INSTANCE))]);
    let planned = |key: &str, value: &str| {
        let mut running = instance("running");
        running.tags.insert(key.into(), value.into());
        plan(&entry(true), Some(&running), &now, TODAY)
    };
    for key in ["backstop:opt-out", "Backstop:Opt-Out"] {
        let Decision::Refused(why) = planned(key, "all") else {
            panic!("{key}");
        };
        assert!(why.contains("an opt-out without an end"), "{why}");
        let ends = planned(key, "all until=2199-01-31");
        assert!(matches!(ends, Decision::SwapBack(_)), "{key}: {ends:?}");
    }
    let other = planned("backstop:opt-outs", "all");
    assert!(matches!(other, Decision::SwapBack(_)), "{other:?}");
}
