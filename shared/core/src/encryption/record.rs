//! The ledger's record of a run: what was found, what has been done about it, and
//! what AWS answered.
//!
//! Deliberately not here: what is done next (`step`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{Change, DRY_RUN, End, Note};
use crate::reason::Reason;
use crate::run::Run;
use crate::security_group::Tags;
use crate::volumes::{COPY_OF_TAG, ENTRY_TAG, Instance, PURPOSE_TAG, Snapshot, Volume};
use crate::words::{Status, digest};

/// How a unit is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A volume that is attached nowhere gets an encrypted copy.
    Unattached,
    /// An instance that somebody stopped: its volumes are swapped, and it stays
    /// stopped.
    WhenStopped,
    /// A running instance is stopped, its volumes are swapped, it is started
    /// again.
    Swap,
    /// The account setting that encrypts new volumes is turned on.
    AccountSetting,
}

/// An encryption, as the ledger keeps it.
pub type Encryption = Run<EncryptionDetail>;

/// What a run that encrypts volumes found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionDetail {
    /// How it is (or would be) treated.
    pub way: Way,
    /// The instance as it was before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The unencrypted volumes as they were before the first change.
    pub volumes: Vec<Volume>,
    /// The KMS key of the copies, where the policy names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// What has been done.
    #[serde(default)]
    pub progress: Progress,
    /// Why it is as it is, one sentence each.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The guard that held it back.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Reason>,
    /// Whether the instance was terminated during the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub instance_gone: bool,
    /// The encryption that this one takes back, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
    /// What a page of the sweep showed of it when it was found
    /// (`sweep::volumes::page_key`); kept beside the document.
    #[serde(skip)]
    pub page_key: Option<String>,
    /// Rises with every write: of two steps at once only one is taken.
    #[serde(default)]
    pub revision: u64,
}

/// What a run has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What was tried, by [`Change::key`]. Written before the call, so that a
    /// run that was cut off knows what may have happened.
    pub tries: BTreeMap<String, Tries>,
    /// The run goes back, and why. Once decided it stays so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<Back>,
    /// When the instance was last started before it was seen stopped: should
    /// that change, somebody started it meanwhile and copies lack what it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Volumes whose copy is made from a snapshot, because a direct copy was
    /// refused or came out wrong; and why.
    pub from_snapshot: BTreeMap<String, String>,
    /// What a person has to know at once, while the run goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
    /// How often that has become something else: the same may be told again, with
    /// something else in between.
    #[serde(skip_serializing_if = "is_zero")]
    pub attention_changed: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// That the instance was seen stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// When it was seen.
    pub at: Timestamp,
    /// When it had last been started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched_at: Option<Timestamp>,
}

/// That a run goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Back {
    /// When it was decided.
    pub at: Timestamp,
    /// Why, one sentence.
    pub why: String,
    /// Everything that forbids to go on, one sentence each, where that is why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<String>,
    /// The status that it ends with.
    pub status: Status,
    /// Whether the unit is left alone until a person re-arms it.
    pub trip: bool,
}

impl Back {
    /// Why, one sentence each.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        match self.refusals.is_empty() {
            true => vec![self.why.clone()],
            false => self.refusals.clone(),
        }
    }
}

/// How often a change was tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// How often.
    pub count: u32,
    /// When first.
    pub first_at: Timestamp,
    /// When last.
    pub last_at: Timestamp,
    /// What AWS answered last; none: nothing, it may have taken effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// The id of what it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
}

/// What AWS answered to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Answer {
    /// It was accepted; of a dry run: it would be.
    Accepted,
    /// It was refused, or failed.
    Refused {
        /// The AWS operation.
        operation: String,
        /// AWS's error code.
        code: String,
        /// AWS's message.
        message: String,
        /// Whether AWS may have acted all the same (no answer came), so that
        /// nothing may be concluded from it. Of a dry run also a throttled one,
        /// which says nothing of what would come of the call.
        unknown: bool,
    },
}

impl Tries {
    /// The refusal that the last answer was, in words. No answer is none.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match &self.answer {
            Some(Answer::Refused {
                operation,
                code,
                message,
                ..
            }) => Some(format!("{operation}: {code}: {message}")),
            _ => None,
        }
    }

    /// AWS's code of that refusal.
    #[must_use]
    pub fn refused_with(&self) -> Option<&str> {
        match &self.answer {
            Some(Answer::Refused { code, .. }) => Some(code),
            _ => None,
        }
    }

    /// Whether it may have taken effect.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        !matches!(&self.answer, Some(Answer::Refused { unknown: false, .. }))
    }
}

impl Progress {
    /// How often a change was tried.
    #[must_use]
    pub fn tries(&self, change: &Change) -> Option<&Tries> {
        self.tries.get(&change.key())
    }
}

impl Encryption {
    /// The instance's id, for the ways that have one.
    #[must_use]
    pub fn instance_id(&self) -> Option<&str> {
        self.detail
            .instance
            .as_ref()
            .map(|instance| instance.id.as_str())
    }

    /// Whether the run is under way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.head.status == Status::InProgress
    }

    /// Whether the run stopped the instance, as far as is known.
    #[must_use]
    pub fn stopped_it(&self) -> bool {
        [Change::Stop { back: false }, Change::Stop { back: true }]
            .iter()
            .filter_map(|stop| self.detail.progress.tries(stop))
            .any(Tries::may_have_happened)
    }

    /// Takes a note of the step function's.
    pub fn note(&mut self, note: &Note, now: Timestamp) {
        match note {
            Note::GoBack { why, status, trip } => {
                self.detail.progress.back.get_or_insert(Back {
                    at: now,
                    why: why.clone(),
                    refusals: Vec::new(),
                    status: *status,
                    trip: *trip,
                });
            }
            Note::Refuse { why } | Note::DryRunsRefused { why } => {
                self.detail.progress.back.get_or_insert(Back {
                    at: now,
                    why: why.join("; "),
                    refusals: why.clone(),
                    status: Status::Refused,
                    // Or every sweep would begin, and be refused, again.
                    trip: matches!(note, Note::DryRunsRefused { .. }),
                });
            }
            Note::FromSnapshot { volume, why } => {
                self.detail
                    .progress
                    .from_snapshot
                    .insert(volume.clone(), why.clone());
            }
            Note::Stopped { launched_at } => {
                self.detail.progress.stopped = Some(Stopped {
                    at: now,
                    launched_at: *launched_at,
                });
            }
            Note::Attention { text } => {
                let progress = &mut self.detail.progress;
                if progress.attention.as_ref().is_some_and(|told| told != text) {
                    progress.attention_changed += 1;
                }
                progress.attention = Some(text.clone());
            }
        }
    }

    /// Takes what is seen in the world for the answer that got lost: a copy, or a
    /// snapshot, that carries this run's mark was made by its call.
    pub fn adopt(
        &mut self,
        volumes: &BTreeMap<String, Volume>,
        snapshots: &BTreeMap<String, Snapshot>,
    ) {
        let ours = |tags: &Tags| tags.get(ENTRY_TAG) == Some(&self.head.id);
        let mut made: Vec<(String, String)> = Vec::new();
        for copy in volumes.values().filter(|v| v.exists() && ours(&v.tags)) {
            if let Some(of) = copy.tags.get(COPY_OF_TAG) {
                // A copy from a snapshot is only tried once the other is given up.
                let kinds = [format!("create {of}"), format!("copy {of}")];
                let tried = kinds
                    .into_iter()
                    .find(|k| self.detail.progress.tries.contains_key(k));
                made.extend(tried.map(|key| (key, copy.id.clone())));
            }
        }
        for snapshot in snapshots.values().filter(|s| ours(&s.tags)) {
            if let Some(purpose) = snapshot.tags.get(PURPOSE_TAG) {
                let key = format!("snapshot {purpose} {}", snapshot.volume);
                made.push((key, snapshot.id.clone()));
            }
        }
        for (key, id) in made {
            if let Some(tries) = self.detail.progress.tries.get_mut(&key)
                && tries.made.is_none()
            {
                tries.made = Some(id);
            }
        }
    }

    /// Writes down that a change is about to be tried.
    pub fn trying(&mut self, change: &Change, now: Timestamp) {
        let tries = self
            .detail
            .progress
            .tries
            .entry(change.key())
            .or_insert_with(|| Tries {
                count: 0,
                first_at: now,
                last_at: now,
                answer: None,
                made: None,
            });
        // A dry run is asked for anew once its answer is old.
        if matches!(change, Change::DryRun(_)) && tries.answer == Some(Answer::Accepted) {
            tries.count = 0;
            tries.first_at = now;
        }
        tries.count += 1;
        tries.last_at = now;
        tries.answer = None;
    }

    /// Writes down what came of it.
    pub fn tried(&mut self, change: &Change, answer: Answer, made: Option<String>) {
        if let Some(tries) = self.detail.progress.tries.get_mut(&change.key()) {
            tries.answer = Some(answer);
            if made.is_some() {
                tries.made = made;
            }
        }
    }

    /// Ends the run.
    pub fn conclude(&mut self, end: &End, now: Timestamp) {
        self.head.status = end.status;
        self.detail.reasons.extend(end.why.iter().cloned());
        self.detail.instance_gone = end.instance_gone;
        self.head.finished_at = Some(now);
    }

    /// The codes with which AWS refused dry runs: what it would refuse to this
    /// run.
    #[must_use]
    pub fn refused_dry_runs(&self) -> BTreeSet<&str> {
        let tries = self.detail.progress.tries.iter();
        tries
            .filter(|(key, tries)| key.starts_with(DRY_RUN) && !tries.may_have_happened())
            .filter_map(|(_, tries)| tries.refused_with())
            .collect()
    }

    /// Ids of what a kind of change made.
    fn made(&self, kind: &str) -> BTreeMap<&str, &str> {
        self.detail
            .progress
            .tries
            .iter()
            .filter_map(|(key, tries)| Some((key.strip_prefix(kind)?, tries.made.as_deref()?)))
            .collect()
    }

    /// The copies that it made, by the volume they are a copy of.
    #[must_use]
    pub fn copies(&self) -> BTreeMap<&str, &str> {
        let mut copies = self.made("copy ");
        // One from a snapshot is made once the direct one is deleted.
        copies.retain(|_, copy| !self.deleted(copy));
        let from_snapshots = self.made("create ").into_iter();
        copies.extend(from_snapshots.filter(|(_, copy)| !self.deleted(copy)));
        copies
    }

    /// Whether it deleted a copy, or tried to.
    pub(super) fn deleted(&self, copy: &str) -> bool {
        let delete = Change::DeleteCopy {
            copy: copy.to_owned(),
        };
        self.detail.progress.tries(&delete).is_some()
    }

    /// The snapshots that it took, with the volume that each is of.
    #[must_use]
    pub fn snapshots(&self) -> BTreeMap<&str, &str> {
        let mut snapshots = BTreeMap::new();
        for kind in ["snapshot safety ", "snapshot transfer "] {
            for (of, snapshot) in self.made(kind) {
                snapshots.insert(snapshot, of);
            }
        }
        snapshots
    }

    /// What its message is known by; the same key is sent once.
    #[must_use]
    pub fn message_key(&self) -> String {
        let attention = self
            .detail
            .progress
            .attention
            .as_deref()
            .unwrap_or_default();
        let changed = match self.detail.progress.attention_changed {
            0 => String::new(),
            times => format!(" {times}"),
        };
        digest([
            format!("encryption {}", self.head.id).as_str(),
            &format!("status {}", self.head.status.name()),
            &format!("attention {attention}{changed}"),
        ])
    }

    /// What was found and not changed: while it stays the same there is nothing
    /// new to record or to tell.
    #[must_use]
    pub fn state_key(&self) -> String {
        let mut parts: BTreeSet<String> = BTreeSet::new();
        parts.insert(format!(
            "found {} {}",
            self.head.control, self.head.resource
        ));
        parts.insert(format!("status {}", self.head.status.name()));
        parts.insert(format!("exemption {:?}", self.head.exemption));
        parts.insert(format!("way {:?}", self.detail.way));
        // When the next window opens is no news.
        if self.head.status == Status::Refused {
            parts.extend(self.detail.reasons.iter().map(|why| format!("why {why}")));
        }
        parts.extend(
            self.detail
                .volumes
                .iter()
                .map(|v| format!("volume {}", v.id)),
        );
        digest(parts.iter().map(String::as_str))
    }

    /// How long the unit was (or has been) stopped by this run.
    #[must_use]
    pub fn downtime(&self, now: Timestamp) -> Option<SignedDuration> {
        let stop = self.detail.progress.tries(&Change::Stop { back: false })?;
        Some(now.duration_since(stop.first_at))
    }
}
