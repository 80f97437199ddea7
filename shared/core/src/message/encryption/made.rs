//! What a run made and moved, read off its record: copies, snapshots, where a
//! volume was last put, how long the instance was down.
//!
//! A record says what was asked for and what AWS answered; where no answer came
//! it may have happened. Whatever is read here is therefore "as far as known".

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::encryption::{Answer, Change, Encryption, Purpose, Tries};
use crate::volumes::{Attachment, REPLACED_BY_TAG, Volume};

/// An unencrypted volume, and what the run made of it.
pub(super) struct Part<'a> {
    /// The volume as it was.
    pub(super) volume: &'a Volume,
    /// Its copies, those that were deleted again included.
    pub(super) copies: Vec<Copy<'a>>,
    /// Its snapshots.
    pub(super) snapshots: Vec<Snapshot<'a>>,
}

/// A copy of a volume.
pub(super) struct Copy<'a> {
    pub(super) id: &'a str,
    /// Whether it was ever attached: it may hold what was written since.
    pub(super) attached: bool,
    /// Whether it was deleted again.
    pub(super) deleted: bool,
    /// Why it could not be deleted, where that was tried.
    pub(super) undeletable: Option<String>,
}

/// A snapshot of a volume.
pub(super) struct Snapshot<'a> {
    pub(super) id: &'a str,
    pub(super) purpose: Purpose,
}

/// When the instance was stopped and started.
pub(super) struct Down {
    /// When it was first asked to stop.
    pub(super) stopped_at: Timestamp,
    /// When it was last started after that; none: it has not been.
    pub(super) started_at: Option<Timestamp>,
}

impl Down {
    pub(super) fn lasted(&self) -> Option<SignedDuration> {
        Some(self.started_at?.duration_since(self.stopped_at))
    }
}

impl Part<'_> {
    /// The copy that counts: the last one that was not deleted.
    pub(super) fn copy(&self) -> Option<&Copy<'_>> {
        self.copies.iter().rev().find(|copy| !copy.deleted)
    }

    /// Where it was attached before the first change.
    pub(super) fn was_at(&self) -> Option<&Attachment> {
        self.volume.attachments.first()
    }
}

/// Every volume with what was made of it.
pub(super) fn parts(run: &Encryption) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = run
        .detail
        .volumes
        .iter()
        .map(|volume| Part {
            volume,
            copies: copies(run, volume),
            snapshots: snapshots(run, &volume.id),
        })
        .collect();
    // A copy whose making was not answered has no place in the record until it
    // is moved. Where only one volume lacks a copy, it can only be that one's.
    let known: BTreeSet<&str> = parts
        .iter()
        .flat_map(|part| {
            let copies = part.copies.iter().map(|copy| copy.id);
            copies.chain([part.volume.id.as_str()])
        })
        .collect();
    let unknown: BTreeSet<&str> = run
        .detail
        .progress
        .tries
        .keys()
        .filter_map(|key| {
            key.strip_prefix("attach ")
                .or_else(|| key.strip_prefix("detach "))
        })
        .filter(|id| !known.contains(id))
        .collect();
    let mut without: Vec<&mut Part<'_>> = parts
        .iter_mut()
        .filter(|part| part.copy().is_none())
        .collect();
    if let ([part], Some(id), 1) = (without.as_mut_slice(), unknown.first(), unknown.len()) {
        part.copies.push(copy(run, id));
    }
    parts
}

fn copies<'a>(run: &'a Encryption, volume: &'a Volume) -> Vec<Copy<'a>> {
    let of = || volume.id.clone();
    let by_run = [
        Change::Copy { volume: of() },
        Change::Create {
            volume: of(),
            snapshot: String::new(),
        },
    ];
    // An undo makes none: it brings back what this one replaced.
    let before = volume.tags.get(REPLACED_BY_TAG).map(String::as_str);
    let before = before.filter(|_| run.detail.undoes.is_some());
    by_run
        .iter()
        .filter_map(|change| run.detail.progress.tries(change)?.made.as_deref())
        .chain(before)
        .map(|id| copy(run, id))
        .collect()
}

fn copy<'a>(run: &'a Encryption, id: &'a str) -> Copy<'a> {
    let copy = || id.to_owned();
    let attach = Change::Attach {
        volume: copy(),
        device: String::new(),
    };
    let delete = run
        .detail
        .progress
        .tries(&Change::DeleteCopy { copy: copy() });
    let refusal = delete.and_then(Tries::refusal);
    let gone = delete.and_then(Tries::refused_with) == Some("InvalidVolume.NotFound");
    Copy {
        id,
        attached: run.detail.undoes.is_some() || run.detail.progress.tries(&attach).is_some(),
        deleted: delete.is_some() && (refusal.is_none() || gone),
        undeletable: refusal.filter(|_| !gone),
    }
}

fn snapshots<'a>(run: &'a Encryption, volume: &str) -> Vec<Snapshot<'a>> {
    [Purpose::Safety, Purpose::Transfer]
        .into_iter()
        .filter_map(|purpose| {
            let snapshot = Change::Snapshot {
                volume: volume.to_owned(),
                purpose,
            };
            let id = run.detail.progress.tries(&snapshot)?.made.as_deref()?;
            Some(Snapshot { id, purpose })
        })
        .collect()
}

/// What the run last did to a volume: whether it attached it (else it detached
/// it), and when; none: it did not move it.
pub(super) fn moved(run: &Encryption, volume: &str) -> Option<(bool, Timestamp)> {
    let attach = Change::Attach {
        volume: volume.to_owned(),
        device: String::new(),
    };
    let detach = Change::Detach {
        volume: volume.to_owned(),
    };
    [(true, attach), (false, detach)]
        .into_iter()
        .filter_map(|(attached, change)| {
            let tries = run.detail.progress.tries(&change)?;
            tries
                .may_have_happened()
                .then_some((attached, tries.last_at))
        })
        .max_by_key(|(_, at)| *at)
}

/// When the run stopped the instance, and started it again; none: it did not
/// stop it.
pub(super) fn down(run: &Encryption) -> Option<Down> {
    let tries = |changes: [Change; 2]| {
        let tries = changes.map(|change| run.detail.progress.tries(&change));
        tries.into_iter().flatten().collect::<Vec<&Tries>>()
    };
    let mut stops = tries([Change::Stop { back: false }, Change::Stop { back: true }]);
    stops.retain(|stop| stop.may_have_happened());
    let stopped_at = stops.iter().map(|stop| stop.first_at).min()?;
    let last = stops.iter().map(|stop| stop.first_at).max()?;
    let started_at = tries([Change::Start { back: false }, Change::Start { back: true }])
        .iter()
        .filter(|start| matches!(start.answer, Some(Answer::Accepted)) && start.last_at >= last)
        .map(|start| start.last_at)
        .max();
    Some(Down {
        stopped_at,
        started_at,
    })
}
