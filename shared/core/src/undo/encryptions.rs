//! Undo of an encryption: back to the kept originals, while they are there.
//!
//! An original is as it was when it was replaced; what was written since is on
//! its copy, which is kept. Volumes that were attached are swapped back by a run
//! of its own, with downtime. Deliberately not here: that run (`encryption`),
//! and the calls (`backstop-aws`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::Request;
use crate::encryption::{Encryption, EncryptionDetail, Progress, Way};
use crate::exemption::{self, Exemption, OPT_OUT_TAG, OptOut};
use crate::run::{Head, Run};
use crate::volumes::{COPY_OF_TAG, ENTRY_TAG, Instance, REPLACED_BY_TAG, Volume};
use crate::words::{Actor, Status};

/// What an undo of an encryption comes to, before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A run swaps these originals back.
    SwapBack(Vec<Volume>),
    /// The originals were never moved: they are opted out, and that is all.
    OptOut(Vec<Volume>),
    /// The originals are in their places already.
    AsBefore,
    /// It cannot be done, and why. Nothing is changed.
    Refused(String),
    /// There is nothing to take back, and why.
    Nothing(String),
}

/// Decides how an encryption is taken back: from the volumes as they are now,
/// by id, and the instance, if there is one.
#[must_use]
pub fn plan(
    entry: &Encryption,
    instance: Option<&Instance>,
    now: &BTreeMap<String, Volume>,
    today: Date,
) -> Decision {
    if entry.detail.way == Way::AccountSetting {
        return Decision::Nothing(format!(
            "exempt the account first, or it is turned on again: `controls.{}.settings.exemption` in the policy; then: aws ec2 disable-ebs-encryption-by-default",
            entry.head.control
        ));
    }
    if entry.detail.undoes.is_some() {
        return Decision::Nothing(format!("{} is an undo itself", entry.head.id));
    }
    if entry.is_open() {
        let own = match (&entry.detail.instance, entry.detail.volumes.first()) {
            (Some(instance), _) => instance.tags.get(OPT_OUT_TAG),
            (None, volume) => volume.and_then(|volume| volume.tags.get(OPT_OUT_TAG)),
        };
        let opt_out = exemption::dated_command(
            own.map(String::as_str),
            entry.resource_id(),
            &entry.head.region,
            entry.head.control,
            today,
        );
        return Decision::Refused(format!(
            "the run is under way; an opt-out with an end takes it back before anything is swapped: {opt_out}"
        ));
    }
    let live = |id: &str| now.get(id).filter(|volume| volume.exists());
    // The run's own word, or the tag that it put on the original.
    let copies = entry.copies();
    let copy_of = |volume: &Volume| {
        let id = volume.id.as_str();
        let known = copies.get(id).and_then(|copy| live(copy));
        known.or_else(|| {
            let tagged = live(id)?.tags.get(REPLACED_BY_TAG)?;
            live(tagged).filter(|copy| copy.tags.get(COPY_OF_TAG) == Some(&volume.id))
        })
    };
    let other_run = entry.detail.volumes.iter().find_map(|volume| {
        let run = copy_of(volume)?.tags.get(ENTRY_TAG)?;
        (*run != entry.head.id).then_some(run)
    });
    if let Some(run) = other_run {
        return Decision::Nothing(format!(
            "it was the run {run} that replaced its volumes: take that one back"
        ));
    }
    if entry.detail.way == Way::Unattached {
        if entry.head.status != Status::Remediated {
            return Decision::Nothing("it replaced nothing".to_owned());
        }
        return match entry.detail.volumes.iter().find(|v| live(&v.id).is_none()) {
            Some(gone) => Decision::Refused(is_gone(entry, &gone.id)),
            None => Decision::OptOut(
                entry
                    .detail
                    .volumes
                    .iter()
                    .filter_map(|v| live(&v.id).cloned())
                    .collect(),
            ),
        };
    }
    let Some(instance) = instance.filter(|instance| !instance.is_ended()) else {
        return Decision::Refused(
            "the instance is terminated, and its attachments with it".to_owned(),
        );
    };
    let (mut back, mut in_place, mut problems) = (Vec::new(), 0, Vec::new());
    for volume in &entry.detail.volumes {
        let original = live(&volume.id);
        let is_back =
            original.is_some_and(|original| original.attachment_to(&instance.id).is_some());
        if is_back {
            in_place += 1;
            continue;
        }
        let on = copy_of(volume).filter(|copy| copy.attachment_to(&instance.id).is_some());
        match (original, on) {
            (None, _) => problems.push(is_gone(entry, &volume.id)),
            (Some(original), _) if !original.is_free() => problems.push(format!(
                "{} is attached elsewhere, or in the state {}",
                original.id, original.state
            )),
            (Some(_), None) => problems.push(format!(
                "the copy of {} is not attached to {} any more",
                volume.id, instance.id
            )),
            (Some(_), Some(copy)) => {
                // The run that swaps it back has to know what is in its place.
                let mut volume = volume.clone();
                volume
                    .tags
                    .insert(REPLACED_BY_TAG.to_owned(), copy.id.clone());
                back.push(volume);
            }
        }
    }
    if !back.is_empty()
        && instance.is_up()
        && let Some(asked) = exemption::asks_for_an_end(
            &instance.tags,
            &instance.id,
            &entry.head.region,
            entry.head.control,
            today,
        )
    {
        problems.push(format!("{}, and ask again: {}", asked.why, asked.command));
    }
    if !problems.is_empty() {
        Decision::Refused(problems.join("; "))
    } else if !back.is_empty() {
        Decision::SwapBack(back)
    } else if in_place > 0 && entry.head.status != Status::Remediated {
        Decision::Nothing("it replaced nothing".to_owned())
    } else {
        Decision::AsBefore
    }
}

/// What is said of an original that is there no more.
fn is_gone(entry: &Encryption, volume: &str) -> String {
    let snapshots = entry.snapshots();
    let of_volume = snapshots.iter().filter(|(_, of)| **of == volume);
    let snapshots: Vec<&str> = of_volume.map(|(snapshot, _)| *snapshot).collect();
    match snapshots.is_empty() {
        true => format!("the original {volume} is gone"),
        false => format!(
            "the original {volume} is gone; as it was before, it is in {} (unless that was deleted too)",
            snapshots.join(", ")
        ),
    }
}

/// The record of the run that swaps originals back, which are opted out until a
/// day.
#[must_use]
pub fn swap_back(
    entry: &Encryption,
    id: &str,
    request: &Request,
    (instance, volumes): (&Instance, Vec<Volume>),
    until: Date,
    now: Timestamp,
) -> Encryption {
    Run {
        head: Head {
            id: id.to_owned(),
            status: Status::InProgress,
            exemption: Exemption::Exempt(OptOut {
                until: Some(until),
                owner: request.by.clone(),
                reason: Some("undo".to_owned()),
            }),
            actor: Actor {
                principal: request.by.clone(),
                event_name: Some("Undo".to_owned()),
                ..Actor::default()
            },
            attempts: 1,
            started_at: now,
            finished_at: None,
            ..entry.clone().head
        },
        detail: EncryptionDetail {
            way: Way::Swap,
            instance: Some(instance.clone()),
            volumes,
            progress: Progress::default(),
            reasons: vec![format!(
                "taken back on request of {}: {}",
                request.by.as_deref().unwrap_or("somebody"),
                request.reason
            )],
            undoes: Some(entry.head.id.clone()),
            revision: 0,
            ..entry.clone().detail
        },
    }
}
