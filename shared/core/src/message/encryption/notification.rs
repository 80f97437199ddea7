//! The JSON about an encryption that programs read. Its schema is
//! `schemas/encryption.schema.json`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::made::{Part, down};
use super::story::{Story, severity};
use crate::encryption::{Encryption, Way};
use crate::message::notification::{
    LedgerKey, NotifiedActor, NotifiedExemption, NotifiedResource, name, some_text, text, texts,
};
use crate::prose::or;
use crate::volumes::Instance;
use crate::words::{ControlId, Severity, Status};

/// The version of the format.
const VERSION: u32 = 1;
/// Most reasons.
const MOST_LINES: usize = 20;

/// What is unencrypted, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EncryptionNotification {
    /// The format's version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Always `encryption`: notifications about entries have no such field.
    pub kind: EncryptionKind,
    /// What the message is known by: drop what you have seen, SNS may deliver
    /// twice.
    pub key: String,
    /// The id of the ledger entry, a ULID. The messages about the beginning,
    /// the end and what is between have the same.
    pub entry: String,
    /// Where the ledger has the entry.
    pub ledger_key: LedgerKey,
    /// What happened, in one line.
    pub headline: String,
    /// The control that found it.
    pub control: ControlId,
    /// How bad it is: `critical` where a person is needed.
    pub severity: Severity,
    /// Where it stands. A remediation that was taken back on request (see
    /// `undoes`) ends as `rolled-back`.
    pub outcome: Status,
    /// How it is (or, where nothing was changed, would be) treated.
    pub way: Way,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the unit; `unowned` without one.
    pub team: String,
    /// The unit: an instance, a volume that is attached nowhere, or the
    /// account's setting.
    pub resource: NotifiedResource,
    /// The instance as it was before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<NotifiedInstance>,
    /// The unencrypted volumes as they were before the first change.
    pub volumes: Vec<NotifiedVolume>,
    /// Encrypted copies that were made, those that were deleted again
    /// included, as far as they are known.
    pub copies: Vec<NotifiedCopy>,
    /// Snapshots that were taken and are kept, as far as they are known. They
    /// are as unencrypted as their volumes.
    pub snapshots: Vec<NotifiedSnapshot>,
    /// Ids of the originals that were replaced: they are kept, unencrypted,
    /// and cost money until somebody deletes them.
    pub originals_kept: Vec<String>,
    /// The KMS key of the copies, where the policy names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// Why it is as it is, in words.
    pub reasons: Vec<String>,
    /// What a person has to know at once. While `outcome` is `in-progress` the
    /// run goes on meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
    /// That the run goes (or went) back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<NotifiedBack>,
    /// When Backstop stopped the instance, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<NotifiedDowntime>,
    /// The id of the entry that this one takes back, on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
    /// What the opt-out tags (for the account's setting: the policy) say.
    pub exemption: NotifiedExemption,
    /// Who touched the unit last, as the event states.
    pub actor: NotifiedActor,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// How many executions were started for it.
    pub attempts: u32,
    /// When it was begun.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// What manages the unit, where its tags, the caller or the user agent show
    /// it: change it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    /// How many items of each list are left out.
    pub omitted: OmittedOfEncryption,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EncryptionKind {
    /// An encryption.
    Encryption,
}

/// An instance as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedInstance {
    /// `i-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The instance type.
    pub instance_type: String,
    /// The state in which it was found.
    pub state: String,
}

/// An unencrypted volume as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedVolume {
    /// `vol-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Size in GiB.
    pub size_gib: i32,
    /// `gp3`, `io2`, …
    pub volume_type: String,
    /// I/O operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<i32>,
    /// Throughput in MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<i32>,
    /// The Availability Zone.
    pub zone: String,
    /// The device that it is attached as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether it goes when its instance is terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_on_termination: Option<bool>,
    /// Id of its encrypted copy that is there, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// Why its copy is made from a snapshot, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_snapshot: Option<String>,
}

/// An encrypted copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedCopy {
    /// `vol-…`.
    pub id: String,
    /// Id of the volume that it is a copy of.
    pub of: String,
    /// Whether it was ever attached: it may hold what was written since.
    pub attached: bool,
    /// Whether it was deleted again.
    pub deleted: bool,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedSnapshot {
    /// `snap-…`.
    pub id: String,
    /// Id of the volume that it is of.
    pub of: String,
    /// `safety`: the way back should everything else fail; `transfer`: what a
    /// copy is made from.
    pub purpose: String,
}

/// That a run goes back to the originals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedBack {
    /// When it was decided.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Why.
    pub why: String,
    /// Whether the unit is left alone until a person re-arms it.
    pub left_alone: bool,
}

/// When Backstop stopped the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedDowntime {
    /// When it was first asked to stop.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub stopped_at: Timestamp,
    /// When it was last started again; absent: not yet, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// Seconds between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// How many items of each list are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OmittedOfEncryption {
    /// Of `volumes`.
    pub volumes: usize,
    /// Of `copies`.
    pub copies: usize,
    /// Of `snapshots`.
    pub snapshots: usize,
    /// Of `originals_kept`.
    pub originals_kept: usize,
    /// Of `reasons`.
    pub reasons: usize,
}

impl EncryptionNotification {
    /// The notification about an encryption, with at most `most` volumes in
    /// every list.
    pub(super) fn of(story: &Story<'_>, headline: &str, most: usize) -> Self {
        let run = story.run;
        let copies = || {
            let of = |part: &Part<'_>| name(&part.volume.id);
            story
                .parts
                .iter()
                .flat_map(move |part| part.copies.iter().map(move |copy| (of(part), copy)))
        };
        let snapshots = || {
            let of = |part: &Part<'_>| name(&part.volume.id);
            story
                .parts
                .iter()
                .flat_map(move |part| part.snapshots.iter().map(move |s| (of(part), s)))
        };
        let kept = story.originals_kept();
        let left_out = |all: usize| all.saturating_sub(most);
        let most_reasons = most.min(MOST_LINES);
        Self {
            version: VERSION,
            kind: EncryptionKind::Encryption,
            key: run.message_key(),
            entry: name(&run.head.id),
            ledger_key: LedgerKey::of(&run.head.id),
            headline: text(headline),
            control: run.head.control,
            severity: severity(run),
            outcome: run.head.status,
            way: run.detail.way,
            account: name(&run.head.account),
            region: name(&run.head.region),
            team: or(&text(run.team_or_unowned()), "unowned"),
            resource: NotifiedResource {
                arn: text(&run.head.resource),
                id: name(run.resource_id()),
                name: text(&run.head.resource_name),
            },
            instance: run.detail.instance.as_ref().map(instance),
            volumes: story
                .parts
                .iter()
                .take(most)
                .map(|part| volume(run, part))
                .collect(),
            copies: copies()
                .take(most)
                .map(|(of, copy)| NotifiedCopy {
                    id: name(copy.id),
                    of,
                    attached: copy.attached,
                    deleted: copy.deleted,
                })
                .collect(),
            snapshots: snapshots()
                .take(most)
                .map(|(of, snapshot)| NotifiedSnapshot {
                    id: name(snapshot.id),
                    of,
                    purpose: snapshot.purpose.name().to_owned(),
                })
                .collect(),
            originals_kept: kept
                .iter()
                .take(most)
                .map(|part| name(&part.volume.id))
                .collect(),
            kms_key: some_text(&run.detail.kms_key),
            reasons: texts(&run.detail.reasons, most_reasons),
            attention: some_text(&run.detail.progress.attention),
            back: run.detail.progress.back.as_ref().map(|back| NotifiedBack {
                at: back.at,
                why: text(&back.why),
                left_alone: back.trip,
            }),
            downtime: down(run).map(|down| NotifiedDowntime {
                stopped_at: down.stopped_at,
                started_at: down.started_at,
                seconds: down.lasted().map(|lasted| lasted.as_secs()),
            }),
            undoes: run.detail.undoes.as_deref().map(name),
            exemption: (&run.head.exemption).into(),
            actor: (&run.head.actor).into(),
            policy_version: run.head.policy_version,
            attempts: run.head.attempts,
            started_at: run.head.started_at,
            finished_at: run.head.finished_at,
            managed_by: some_text(&run.head.managed_by),
            omitted: OmittedOfEncryption {
                volumes: left_out(story.parts.len()),
                copies: left_out(copies().count()),
                snapshots: left_out(snapshots().count()),
                originals_kept: left_out(kept.len()),
                reasons: run.detail.reasons.len().saturating_sub(most_reasons),
            },
        }
    }

    /// The JSON Schema of the notification.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

fn instance(instance: &Instance) -> NotifiedInstance {
    NotifiedInstance {
        id: name(&instance.id),
        name: text(instance.name()),
        instance_type: name(&instance.instance_type),
        state: name(&instance.state),
    }
}

fn volume(run: &Encryption, part: &Part<'_>) -> NotifiedVolume {
    let volume = part.volume;
    let at = part.was_at();
    NotifiedVolume {
        id: name(&volume.id),
        name: text(volume.name()),
        size_gib: volume.size,
        volume_type: name(&volume.volume_type),
        iops: volume.iops,
        throughput: volume.throughput,
        zone: name(&volume.zone),
        device: at.map(|at| name(&at.device)),
        delete_on_termination: at.map(|at| at.delete_on_termination),
        copy: part.copy().map(|copy| name(copy.id)),
        from_snapshot: run
            .detail
            .progress
            .from_snapshot
            .get(&volume.id)
            .map(|why| text(why)),
    }
}
