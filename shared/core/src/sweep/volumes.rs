//! What the sweep and scans make of a page of unencrypted volumes: which units
//! they belong to, what a page shows of one, whether one wants a closer look, and
//! which originals that were replaced have been kept for long enough.
//!
//! Deliberately not here: the closer look (`controls::unencrypted_volume`, by
//! the remediation function), and the walk (`backstop_aws::volume_pages`).

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};

use crate::controls::unencrypted_volume::{exempt, fingerprint};
use crate::encryption::Purpose;
use crate::guards::Guards;
use crate::policy::Policy;
use crate::security_group::Tags;
use crate::volumes::{
    ENTRY_TAG, Instance, PURPOSE_TAG, REPLACED_BY_TAG, Snapshot, Unit, Volume, VolumeFacts,
    replacement,
};
use crate::words::{Mode, Status, digest};

/// The unit that a volume belongs to: the instance it is attached to, or itself.
#[must_use]
pub fn unit_of(volume: &Volume) -> &str {
    // Resources of AWS's services are no instances.
    volume
        .attached()
        .map(|attachment| attachment.instance.as_str())
        .find(|instance| instance.starts_with("i-"))
        .unwrap_or(&volume.id)
}

/// A unit as pages show it, with the copies that its volumes' tags name. Of an
/// instance that is its id, its opt-out tags, and its unencrypted
/// volumes; its state is not known, so that nothing is decided to begin: what
/// is decided to wait takes a closer look.
#[must_use]
pub fn as_shown(
    unit: &str,
    mut volumes: Vec<Volume>,
    opt_outs: &Tags,
    copies: &BTreeMap<String, Volume>,
) -> VolumeFacts {
    let named: BTreeMap<String, Volume> = volumes
        .iter()
        .filter_map(|volume| copies.get(volume.tags.get(REPLACED_BY_TAG)?))
        .map(|copy| (copy.id.clone(), copy.clone()))
        .collect();
    let unit = match volumes.pop_if(|volume| volume.id == unit) {
        Some(volume) => Unit::Volume(Box::new(volume)),
        None => {
            let instance = Instance {
                id: unit.to_owned(),
                state: "unknown".to_owned(),
                launched_at: None,
                instance_type: String::new(),
                tags: opt_outs.clone(),
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
            };
            Unit::Instance(Box::new(instance), volumes)
        }
    };
    VolumeFacts {
        unit,
        copies: named,
        key_problem: None,
    }
}

/// Why a unit is open, in a few words, by the status that was recorded last.
#[must_use]
pub fn reason(status: Option<&str>) -> &'static str {
    let is = |of: Status| status == Some(of.name());
    match status {
        _ if is(Status::Notified) => "told, and left as it is by mode or policy",
        _ if is(Status::Pending) => "it waits for a stop or a maintenance window",
        _ if is(Status::Refused) => "it would break something",
        _ => super::kept_back(status),
    }
}

/// Everything that a page shows of a unit and that its last record depends on.
/// While it stays the same the unit wants no closer look. What a page does not
/// show (the instance and its tags) is looked at once a day.
#[must_use]
pub fn page_key<'a>(
    unencrypted: impl IntoIterator<Item = &'a Volume>,
    policy: &Policy,
    mode: Mode,
    guards: &Guards,
    now: Timestamp,
) -> String {
    let control = &policy.controls.unencrypted_volume;
    let mut volumes: Vec<String> = unencrypted
        .into_iter()
        .map(|volume| {
            format!(
                "{} {:?} {:?}",
                volume.id,
                exempt(&volume.tags, &policy.opt_out, now),
                guards.baseline.contains(&fingerprint(&volume.id))
            )
        })
        .collect();
    volumes.sort();
    // The next sweep meets another hour.
    volumes.extend(guards.budget_spent.then(|| "budget spent".to_owned()));
    let circumstances = format!(
        "{:?} {:?} {:?} {:?} {} {} {} {} {}",
        control.mode.unwrap_or(mode),
        control.settings,
        control.existing,
        policy.opt_out,
        policy.kill_switch,
        control.settings.in_window(now),
        guards.control_tripped.is_some(),
        guards.resource_tripped.is_some(),
        jiff::tz::Offset::UTC.to_datetime(now).date(),
    );
    digest(std::iter::once(circumstances.as_str()).chain(volumes.iter().map(String::as_str)))
}

/// The ledger entry of the run that replaced an original which has been kept for
/// long enough: the policy says so, its safety snapshot is complete, its copy is
/// encrypted, and nothing is attached to it, opts it out or holds it back.
#[must_use]
pub fn may_be_deleted(
    original: &Volume,
    copies: &BTreeMap<String, Volume>,
    snapshots: &[Snapshot],
    policy: &Policy,
    mode: Mode,
    now: Timestamp,
) -> Option<String> {
    let control = &policy.controls.unencrypted_volume;
    let days = control.settings.originals.delete_after_days?;
    if policy.kill_switch || control.mode.unwrap_or(mode) != Mode::Enforce {
        return None;
    }
    let copy = replacement(original, copies)?;
    let entry = copy.tags.get(ENTRY_TAG)?;
    // The copy was made when the original was replaced, or a little before.
    let until = copy
        .created_at?
        .checked_add((24 * i64::from(days)).hours())
        .ok()?;
    let safe = snapshots.iter().any(|snapshot| {
        snapshot.volume == original.id
            && snapshot.state == "completed"
            && snapshot.tags.get(ENTRY_TAG) == Some(entry)
            && snapshot.tags.get(PURPOSE_TAG).map(String::as_str) == Some(Purpose::Safety.name())
    });
    let holds = exempt(&original.tags, &policy.opt_out, now).holds();
    (original.is_free() && !holds && safe && now >= until).then(|| entry.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controls::unencrypted_volume::{Circumstances, Decision, Verdict, decide};
    use crate::encryption::{Attached, Originals};
    use crate::exemption::OPT_OUT_TAG;
    use crate::volumes::{Attachment, COPY_OF_TAG};
    use crate::windows::Window;

    const ENTRY: &str = "01K00000000000000000000000";

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
    }

    fn volume(id: &str, encrypted: bool, tags: &[(&str, &str)]) -> Volume {
        Volume {
            id: id.into(),
            state: "available".into(),
            encrypted,
            size: 8,
            volume_type: "gp3".into(),
            iops: Some(3000),
            throughput: Some(125),
            zone: "eu-central-1a".into(),
            multi_attach: false,
            created_at: Some(at(0)),
            attachments: Vec::new(),
            tags: tags
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            operator: None,
            marketplace: false,
            outpost: None,
        }
    }

    fn policy(days: Option<u32>) -> Policy {
        let mut policy = Policy::default();
        let control = &mut policy.controls.unencrypted_volume;
        control.mode = Some(Mode::Enforce);
        control.settings.originals = Originals {
            delete_after_days: days,
        };
        policy
    }

    fn safety(state: &str, entry: &str) -> Snapshot {
        Snapshot {
            id: "snap-1".into(),
            volume: "vol-o".into(),
            state: state.into(),
            started_at: None,
            tags: [(ENTRY_TAG, entry), (PURPOSE_TAG, "safety")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        }
    }

    #[test]
    fn an_original_goes_only_when_everything_says_so() {
        let original = volume("vol-o", false, &[(REPLACED_BY_TAG, "vol-c")]);
        let copy = volume("vol-c", true, &[(COPY_OF_TAG, "vol-o"), (ENTRY_TAG, ENTRY)]);
        let asks = |original: &Volume, copy: &Volume, snapshot: &Snapshot, policy: &Policy, day| {
            let copies = BTreeMap::from([(copy.id.clone(), copy.clone())]);
            let snapshots = std::slice::from_ref(snapshot);
            may_be_deleted(original, &copies, snapshots, policy, Mode::Notify, at(day))
        };
        let whole = safety("completed", ENTRY);
        let thirty = policy(Some(30));
        assert_eq!(
            asks(&original, &copy, &whole, &thirty, 30).as_deref(),
            Some(ENTRY)
        );
        assert_eq!(
            asks(&original, &copy, &whole, &thirty, 29),
            None,
            "too soon"
        );
        assert_eq!(
            asks(&original, &copy, &whole, &policy(None), 99),
            None,
            "the default"
        );
        for (what, snapshot) in [
            ("not complete", safety("pending", ENTRY)),
            (
                "of another run",
                safety("completed", "01K00000000000000000000001"),
            ),
        ] {
            assert_eq!(
                asks(&original, &copy, &snapshot, &thirty, 30),
                None,
                "{what}"
            );
        }
        let mut notify = thirty.clone();
        notify.controls.unencrypted_volume.mode = Some(Mode::Notify);
        let mut killed = thirty.clone();
        killed.kill_switch = true;
        for policy in [notify, killed] {
            assert_eq!(asks(&original, &copy, &whole, &policy, 30), None);
        }
        for (what, copy) in [
            (
                "unencrypted",
                volume(
                    "vol-c",
                    false,
                    &[(COPY_OF_TAG, "vol-o"), (ENTRY_TAG, ENTRY)],
                ),
            ),
            (
                "of another volume",
                volume("vol-c", true, &[(COPY_OF_TAG, "vol-x"), (ENTRY_TAG, ENTRY)]),
            ),
            (
                "another volume",
                volume("vol-d", true, &[(COPY_OF_TAG, "vol-o"), (ENTRY_TAG, ENTRY)]),
            ),
        ] {
            assert_eq!(asks(&original, &copy, &whole, &thirty, 30), None, "{what}");
        }
        let opted_out = volume(
            "vol-o",
            false,
            &[(REPLACED_BY_TAG, "vol-c"), ("backstop:opt-out", "all")],
        );
        let mut in_use = original.clone();
        in_use.state = "in-use".into();
        for original in [opted_out, in_use] {
            assert_eq!(asks(&original, &copy, &whole, &thirty, 30), None);
        }
    }

    #[test]
    fn a_unit_is_looked_at_again_when_anything_it_depends_on_changes() {
        let one = volume("vol-o", false, &[]);
        let none = Guards::default();
        let key = |volume: &Volume, policy: &Policy, mode, day| {
            page_key([volume], policy, mode, &none, at(day))
        };
        let before = key(&one, &Policy::default(), Mode::Notify, 0);
        assert_eq!(before, key(&one, &Policy::default(), Mode::Notify, 0));
        let tagged = volume("vol-o", false, &[("backstop:opt-out", "all")]);
        for other in [
            key(&tagged, &Policy::default(), Mode::Notify, 0),
            key(&one, &policy(None), Mode::Notify, 0),
            key(&one, &Policy::default(), Mode::Enforce, 0),
            key(&one, &Policy::default(), Mode::Notify, 1),
        ] {
            assert_ne!(before, other);
        }
    }

    fn attached_to(id: &str, instance: &str, tags: &[(&str, &str)]) -> Volume {
        let attachment = Attachment {
            instance: instance.into(),
            device: "/dev/sdf".into(),
            state: "attached".into(),
            delete_on_termination: false,
            attached_at: None,
        };
        Volume {
            state: "in-use".into(),
            attachments: vec![attachment],
            ..volume(id, false, tags)
        }
    }

    #[test]
    fn a_volume_of_an_aws_service_is_a_unit_of_its_own() {
        let task = "arn:aws:ecs:eu-central-1:111122223333:task/web/0123456789abcdef";
        assert_eq!(unit_of(&attached_to("vol-o", task, &[])), "vol-o");
        assert_eq!(unit_of(&attached_to("vol-o", "i-1", &[])), "i-1");
        assert_eq!(unit_of(&volume("vol-o", false, &[])), "vol-o");
    }

    #[test]
    fn what_a_page_shows_decides_what_is_left_and_never_that_an_instance_is_changed() {
        let always = Window {
            days: Vec::new(),
            from: "00:00".into(),
            to: "00:00".into(),
        };
        let decided = |volume: &Volume, opt_out: Option<&str>, attached, copies: &[Volume]| {
            let mut policy = policy(None);
            let settings = &mut policy.controls.unencrypted_volume.settings;
            settings.attached = attached;
            settings.windows = vec![always.clone()];
            let copies = copies.iter().map(|c| (c.id.clone(), c.clone())).collect();
            let opt_outs = opt_out.map(|value| (OPT_OUT_TAG.to_owned(), value.to_owned()));
            let opt_outs = opt_outs.into_iter().collect();
            let unit = unit_of(volume).to_owned();
            let facts = as_shown(&unit, vec![volume.clone()], &opt_outs, &copies);
            let circumstances = Circumstances {
                mode: Mode::Notify,
                now: at(1),
                guards: &Guards::default(),
            };
            decide(&facts, &policy.unencrypted_volume(), &circumstances)
        };
        let status = |decision: Decision| decision.status;
        let plain = attached_to("vol-o", "i-1", &[]);
        for (attached, opt_out, expected) in [
            (Attached::Notify, None, Status::Notified),
            (Attached::WhenStopped, None, Status::Pending),
            (Attached::Swap, None, Status::Pending),
            (Attached::Swap, Some("all"), Status::Exempt),
            (Attached::Swap, Some("yes please"), Status::Held),
        ] {
            let of = status(decided(&plain, opt_out, attached, &[]));
            assert_eq!(of, expected, "{attached:?} {opt_out:?}");
        }
        let managed = Volume {
            operator: Some("a service".into()),
            ..plain.clone()
        };
        let of = |volume: &Volume| decided(volume, None, Attached::Swap, &[]).status;
        assert_eq!(of(&managed), Status::Refused);
        assert_eq!(of(&volume("vol-o", false, &[])), Status::InProgress);

        let original = volume("vol-o", false, &[(REPLACED_BY_TAG, "vol-c")]);
        let copy = volume("vol-c", true, &[(COPY_OF_TAG, "vol-o")]);
        let kept = decided(&original, None, Attached::Swap, &[copy]);
        assert_eq!(kept.verdict, Verdict::Compliant);
        let lost = decided(&original, None, Attached::Swap, &[]);
        assert!(matches!(lost.verdict, Verdict::Violates(_)));
    }
}
