//! Facts about volumes, their snapshots, and the instance they are attached to,
//! as gathered from the live account.
//!
//! States that EC2 may add are kept as they came: what is not known is never
//! taken for something that is. Deliberately not here: what is made of the
//! facts (`controls::unencrypted_volume`, `encryption`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::security_group::Tags;

/// The tag of a copy that Backstop makes: id of the volume it is a copy of.
pub const COPY_OF_TAG: &str = "backstop:copy-of";
/// The tag of everything that a run makes: id of its ledger entry.
pub const ENTRY_TAG: &str = "backstop:entry";
/// The tag of a snapshot that a run takes: `safety` or `transfer`.
pub const PURPOSE_TAG: &str = "backstop:purpose";
/// The tag of a volume that was replaced: id of its encrypted replacement.
pub const REPLACED_BY_TAG: &str = "backstop:replaced-by";

/// Most tags of one resource (EC2's limit).
pub const MOST_TAGS: usize = 50;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `vol-…`.
    pub id: String,
    /// `creating`, `available`, `in-use`, `deleting`, `deleted` or `error`.
    pub state: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Size in GiB.
    pub size: i32,
    /// `gp3`, `io2`, …
    pub volume_type: String,
    /// Provisioned (or, for gp2, resulting) I/O operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<i32>,
    /// Throughput in MiB/s, where the type has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<i32>,
    /// The Availability Zone.
    pub zone: String,
    /// Whether it may be attached to several instances.
    #[serde(default)]
    pub multi_attach: bool,
    /// When it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Where it is attached.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Its tags.
    #[serde(default)]
    pub tags: Tags,
    /// The AWS service that manages it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Whether it carries a product code of the Marketplace.
    #[serde(default)]
    pub marketplace: bool,
    /// ARN of the Outpost that it is on, if it is on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpost: Option<String>,
}

/// Where a volume is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The instance.
    pub instance: String,
    /// The device name.
    pub device: String,
    /// `attaching`, `attached`, `detaching`, `detached` or `busy`.
    pub state: String,
    /// Whether the volume goes when the instance is terminated.
    pub delete_on_termination: bool,
    /// Since when: another time is another attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_at: Option<Timestamp>,
}

impl Volume {
    /// Whether it is there: neither deleted nor about to be.
    #[must_use]
    pub fn exists(&self) -> bool {
        !matches!(self.state.as_str(), "deleting" | "deleted")
    }

    /// Its attachments that are or may be in force.
    pub fn attached(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments
            .iter()
            .filter(|attachment| attachment.state != "detached")
    }

    /// Its attachment to an instance, in whatever state short of detached.
    #[must_use]
    pub fn attachment_to(&self, instance: &str) -> Option<&Attachment> {
        self.attached().find(|a| a.instance == instance)
    }

    /// Whether it is attached nowhere, and could be attached.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.state == "available" && self.attached().next().is_none()
    }

    /// Whether it is to the other volume what a copy has to be: the same size,
    /// type, iops and throughput. (gp2 derives iops from the size.)
    #[must_use]
    pub fn same_make(&self, other: &Self) -> bool {
        let provisioned = |volume: &Self| match volume.volume_type.as_str() {
            "gp3" | "io1" | "io2" => (volume.iops, volume.throughput),
            _ => (None, None),
        };
        self.size == other.size
            && self.volume_type == other.volume_type
            && provisioned(self) == provisioned(other)
    }

    /// What is asked for when a copy is made: iops and throughput where the
    /// type lets them be provisioned.
    #[must_use]
    pub fn provisioned(&self) -> (Option<i32>, Option<i32>) {
        match self.volume_type.as_str() {
            "gp3" => (self.iops, self.throughput),
            "io1" | "io2" => (self.iops, None),
            _ => (None, None),
        }
    }

    /// The tags that a copy carries on: all but AWS's own and Backstop's marks.
    #[must_use]
    pub fn carried_tags(&self) -> Tags {
        let ours = [COPY_OF_TAG, ENTRY_TAG, PURPOSE_TAG, REPLACED_BY_TAG];
        self.tags
            .iter()
            .filter(|(key, _)| !key.starts_with("aws:") && !ours.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// A snapshot that a run took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snap-…`.
    pub id: String,
    /// The volume it was taken of.
    pub volume: String,
    /// `pending`, `completed` or `error`.
    pub state: String,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Its tags.
    #[serde(default)]
    pub tags: Tags,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// `i-…`.
    pub id: String,
    /// `pending`, `running`, `stopping`, `stopped`, `shutting-down` or
    /// `terminated`.
    pub state: String,
    /// When it was last started: another time is another start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched_at: Option<Timestamp>,
    /// The instance type.
    pub instance_type: String,
    /// Its tags.
    #[serde(default)]
    pub tags: Tags,
    /// `spot`, `scheduled`, `capacity-block`; none for an ordinary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<String>,
    /// Whether it has volumes that a stop erases.
    #[serde(default)]
    pub instance_store: bool,
    /// A public IPv4 address that a stop releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_public_ipv4: Option<String>,
    /// Whether it carries a product code of the Marketplace.
    #[serde(default)]
    pub marketplace: bool,
    /// ARN of the Outpost that it is on, if it is on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpost: Option<String>,
    /// The AWS service that manages it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Whether it is set up to hibernate.
    #[serde(default)]
    pub hibernates: bool,
    /// Whether it is protected against being stopped.
    #[serde(default)]
    pub stop_protected: bool,
    /// What its two status checks say; none while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
    /// Why it is in its state, where EC2 says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
}

impl Instance {
    /// Whether it is gone, or about to be.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state.as_str(), "shutting-down" | "terminated")
    }

    /// Whether it runs or is about to.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "pending" | "running")
    }

    /// The value of its `Name` tag, or its id.
    #[must_use]
    pub fn name(&self) -> &str {
        name(&self.tags).unwrap_or(&self.id)
    }
}

impl Volume {
    /// The value of its `Name` tag, or its id.
    #[must_use]
    pub fn name(&self) -> &str {
        name(&self.tags).unwrap_or(&self.id)
    }
}

fn name(tags: &Tags) -> Option<&str> {
    tags.get("Name")
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

/// The two status checks of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// `ok`, `impaired`, `initializing`, `insufficient-data`, `not-applicable`.
    pub system: String,
    /// As `system`.
    pub instance: String,
}

impl Checks {
    /// Whether both passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.system == "ok" && self.instance == "ok"
    }

    /// Whether one of them failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.system == "impaired" || self.instance == "impaired"
    }
}

/// What a volume belongs to, and so what is treated in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// There is no such volume or instance (any more).
    Gone,
    /// A volume that is attached nowhere.
    Volume(Box<Volume>),
    /// An instance with all volumes that are attached to it.
    Instance(Box<Instance>, Vec<Volume>),
}

/// Everything that is known when it is decided whether a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFacts {
    /// The volume, or the instance with its volumes.
    pub unit: Unit,
    /// Copies that any run made of these volumes, and the volumes that their
    /// tags name as replacements; by id.
    pub copies: BTreeMap<String, Volume>,
    /// What keeps the KMS key of copies from being used, in words; none: it can
    /// be used.
    pub key_problem: Option<String>,
}

/// The volume that replaced this one, if it is there and encrypted and says so
/// itself.
#[must_use]
pub fn replacement<'a>(
    original: &Volume,
    copies: &'a BTreeMap<String, Volume>,
) -> Option<&'a Volume> {
    let copy = copies.get(original.tags.get(REPLACED_BY_TAG)?)?;
    let whole = copy.exists() && copy.encrypted && copy.state != "error";
    (whole && copy.tags.get(COPY_OF_TAG) == Some(&original.id)).then_some(copy)
}
