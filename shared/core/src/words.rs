//! What the whole crate names: controls, severities, statuses, modes, who called,
//! and the digest that ids and keys are made with.
//!
//! This file depends on nothing else in the crate, so that everything may depend
//! on it. Deliberately not here: what any of these leads to.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A control, by what it finds. The name is the same in tags, policy, ledger,
/// metrics and messages.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
// The name in published schemas.
#[schemars(rename = "Control")]
pub enum ControlId {
    /// A security group that admits too much of the internet to a port.
    OpenIngress,
    /// A volume whose data lies on disk unencrypted.
    UnencryptedVolume,
    /// The account setting that encrypts new volumes is off.
    EncryptionByDefault,
    /// A package with a known hole, on an instance.
    VulnerablePackage,
    /// An instance that lacks approved patches.
    MissingPatches,
    /// An instance that Systems Manager does not manage.
    UnmanagedInstance,
    /// An EBS snapshot that everyone can use.
    PublicSnapshot,
    /// A machine image that everyone can launch.
    PublicImage,
    /// The account's block of public sharing of snapshots was weakened.
    SnapshotSharingBlock,
    /// The account's defaults for new instances do not require IMDSv2.
    MetadataDefaults,
    /// The account may use the serial console of instances.
    SerialConsole,
    /// The default security group of a VPC has rules.
    DefaultSecurityGroup,
    /// The account's block of public sharing of images was turned off.
    ImageSharingBlock,
    /// A subnet that assigns public addresses by itself.
    PublicSubnet,
    /// An instance whose metadata service answers requests without a token.
    #[serde(rename = "imdsv1")]
    ImdsV1,
}

impl ControlId {
    /// Every control there is.
    pub const ALL: &'static [Self] = &[
        Self::OpenIngress,
        Self::UnencryptedVolume,
        Self::EncryptionByDefault,
        Self::VulnerablePackage,
        Self::MissingPatches,
        Self::UnmanagedInstance,
        Self::PublicSnapshot,
        Self::PublicImage,
        Self::SnapshotSharingBlock,
        Self::MetadataDefaults,
        Self::SerialConsole,
        Self::DefaultSecurityGroup,
        Self::ImageSharingBlock,
        Self::PublicSubnet,
        Self::ImdsV1,
    ];

    /// The controls that look at an instance's packages. They share one
    /// remediation: a command that installs patches.
    pub const PATCHING: &'static [Self] = &[
        Self::VulnerablePackage,
        Self::MissingPatches,
        Self::UnmanagedInstance,
    ];

    /// The control's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenIngress => "open-ingress",
            Self::UnencryptedVolume => "unencrypted-volume",
            Self::EncryptionByDefault => "encryption-by-default",
            Self::VulnerablePackage => "vulnerable-package",
            Self::MissingPatches => "missing-patches",
            Self::UnmanagedInstance => "unmanaged-instance",
            Self::PublicSnapshot => "public-snapshot",
            Self::PublicImage => "public-image",
            Self::SnapshotSharingBlock => "snapshot-sharing-block",
            Self::MetadataDefaults => "metadata-defaults",
            Self::SerialConsole => "serial-console",
            Self::DefaultSecurityGroup => "default-security-group",
            Self::ImageSharingBlock => "image-sharing-block",
            Self::PublicSubnet => "public-subnet",
            Self::ImdsV1 => "imdsv1",
        }
    }

    /// What it finds, in one line.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::OpenIngress => "A security group that admits too much of the internet",
            Self::UnencryptedVolume => "A volume whose data lies on disk unencrypted",
            Self::EncryptionByDefault => "The account setting that encrypts new volumes is off",
            Self::VulnerablePackage => {
                "An instance on which Amazon Inspector found a package or code with a known vulnerability"
            }
            Self::MissingPatches => {
                "An instance that lacks approved patches, or was never scanned for them"
            }
            Self::UnmanagedInstance => {
                "A running instance that Systems Manager does not manage, or cannot reach any more"
            }
            Self::PublicSnapshot => "An EBS snapshot that everyone can use",
            Self::PublicImage => "A machine image that everyone can launch",
            Self::SnapshotSharingBlock => {
                "The account's block of public sharing of snapshots was weakened or is off"
            }
            Self::MetadataDefaults => {
                "The account's defaults for new instances do not require IMDSv2"
            }
            Self::SerialConsole => "The account may use the serial console of its instances",
            Self::DefaultSecurityGroup => "The default security group of a VPC has rules",
            Self::ImageSharingBlock => {
                "The account's block of public sharing of images was turned off or is off"
            }
            Self::PublicSubnet => "A subnet that assigns public addresses by itself",
            Self::ImdsV1 => {
                "An instance whose metadata service answers requests without a token (IMDSv1)"
            }
        }
    }

    /// The control that its locks are named after: controls that change the same
    /// resources share the lock of one, so that there is one run at a time.
    #[must_use]
    pub fn lock_owner(self) -> Self {
        match self {
            Self::DefaultSecurityGroup => Self::OpenIngress,
            own => own.trip_owner(),
        }
    }

    /// The name that its locks have.
    #[must_use]
    pub fn lock_name(self) -> &'static str {
        self.lock_owner().name()
    }

    /// The control that its trips for one resource are named after: controls with
    /// one remediation trip together, for it is that which came to nothing.
    #[must_use]
    pub fn trip_owner(self) -> Self {
        match self {
            Self::VulnerablePackage | Self::UnmanagedInstance => Self::MissingPatches,
            own => own,
        }
    }

    /// Another control whose opt-outs hold for this one as well: what that control
    /// must leave alone, this one would take away.
    #[must_use]
    pub fn honours(self) -> Option<Self> {
        match self {
            Self::DefaultSecurityGroup => Some(Self::OpenIngress),
            _ => None,
        }
    }

    /// Whether an opt-out tag on a resource says anything to it, by the
    /// resource's id.
    #[must_use]
    pub fn reads_tags_of(self, resource: &str) -> bool {
        let mut kinds = self.tagged().iter();
        kinds.any(|kind| resource.starts_with(kind))
    }

    /// Whether its resource is a setting of the account.
    #[must_use]
    pub fn is_of_account(self) -> bool {
        self.tagged().is_empty()
    }

    /// How the ids begin of what carries its opt-out tag; none: an account has no
    /// tags.
    fn tagged(self) -> &'static [&'static str] {
        match self {
            Self::OpenIngress | Self::DefaultSecurityGroup => &["sg-", "sgr-", "vpc-"],
            Self::UnencryptedVolume => &["vol-", "i-"],
            Self::VulnerablePackage
            | Self::MissingPatches
            | Self::UnmanagedInstance
            | Self::ImdsV1 => &["i-"],
            Self::PublicSnapshot => &["snap-"],
            Self::PublicImage => &["ami-"],
            Self::PublicSubnet => &["subnet-", "vpc-"],
            Self::EncryptionByDefault
            | Self::SnapshotSharingBlock
            | Self::MetadataDefaults
            | Self::SerialConsole
            | Self::ImageSharingBlock => &[],
        }
    }

    /// The control of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|control| control.name() == name)
    }
}

impl fmt::Display for ControlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How bad a finding is, in Security Hub's words.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth mending.
    Medium,
    /// To be mended soon.
    High,
    /// To be mended at once.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// Where an entry stands. `outcome` in messages and metrics.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Changes are being made.
    InProgress,
    /// The finding is gone, verified.
    Remediated,
    /// Something failed: the hole may still be open.
    Failed,
    /// Told and not changed: mode `notify`, or it cannot be judged.
    Notified,
    /// Not changed: opted out.
    Exempt,
    /// Not changed: the opt-out tag cannot be read.
    Held,
    /// Not changed: another account owns the resource.
    NotOwned,
    /// Not changed: it was there before the control was switched to `enforce`.
    Existing,
    /// Not changed: the control has tripped, everywhere or for this resource.
    Tripped,
    /// Not changed: the kill switch is on.
    Stopped,
    /// Not changed yet: it waits for its time (a stop, a maintenance window, the budget of the next
    /// hour). Or changed, and AWS does not show it yet: a later look confirms it.
    Pending,
    /// Not changed: it would break something, and what is said in the reasons.
    Refused,
    /// What was begun was taken back: everything is as it was before.
    RolledBack,
    /// It cannot go on without a person.
    NeedsPerson,
    /// Patches were installed; Inspector has not looked again yet.
    AwaitingRescan,
}

impl Status {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::InProgress,
        Self::Remediated,
        Self::Failed,
        Self::Notified,
        Self::Exempt,
        Self::Held,
        Self::NotOwned,
        Self::Existing,
        Self::Tripped,
        Self::Stopped,
        Self::Pending,
        Self::Refused,
        Self::RolledBack,
        Self::NeedsPerson,
        Self::AwaitingRescan,
    ];

    /// The name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in-progress",
            Self::Remediated => "remediated",
            Self::Failed => "failed",
            Self::Notified => "notified",
            Self::Exempt => "exempt",
            Self::Held => "held",
            Self::NotOwned => "not-owned",
            Self::Existing => "existing",
            Self::Tripped => "tripped",
            Self::Stopped => "stopped",
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::RolledBack => "rolled-back",
            Self::NeedsPerson => "needs-person",
            Self::AwaitingRescan => "awaiting-rescan",
        }
    }
}

/// What Backstop may do about a control's findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One log line and a metric, nothing else.
    Off,
    /// Recorded and told with the plan; nothing is changed.
    Notify,
    /// Put right.
    Enforce,
}

impl Mode {
    /// Every mode, by name.
    pub const NAMES: &'static [&'static str] = &["off", "notify", "enforce"];
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "notify" => Ok(Self::Notify),
            "enforce" => Ok(Self::Enforce),
            other => Err(format!(
                "`{other}` is not a mode; allowed are `{}`",
                Self::NAMES.join("`, `")
            )),
        }
    }
}

/// Who touched the resource, as far as the event says. For messages only:
/// nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// ARN of the caller; of one without an ARN its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The account of a caller without an ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Id of the Identity Center user who called, or on whose behalf the principal did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// What it called with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Where it called from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// The AWS service that called on its behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
    /// The call, for example `AuthorizeSecurityGroupIngress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_name: Option<String>,
    /// When it was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time: Option<Timestamp>,
    /// The event that the call became (CloudTrail's `eventID`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

impl Actor {
    /// Who called, in words; `None`: the event says nothing of it.
    #[must_use]
    pub fn caller(&self) -> Option<String> {
        let user = self.on_behalf_of.as_deref();
        let user = user.map(|user| format!("the Identity Center user {user}"));
        let of_account = match &self.account {
            Some(account) => format!(" of the account {account}"),
            None => String::new(),
        };
        match (&self.principal, user) {
            (Some(principal), Some(user)) => Some(format!("{principal}, on behalf of {user}")),
            (Some(principal), None) => Some(format!("{principal}{of_account}")),
            (None, Some(user)) => Some(user),
            (None, None) if self.invoked_by.is_some() => self.invoked_by.clone(),
            (None, None) => {
                Some(format!("a caller{of_account}")).filter(|_| self.account.is_some())
            }
        }
    }
}

/// The id of a resource: what follows the last `/` of its ARN.
pub(crate) fn id_of(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// A team for messages: never empty.
pub(crate) fn team_or_unowned(team: Option<&str>) -> &str {
    team.filter(|team| !team.is_empty()).unwrap_or("unowned")
}

/// A digest of texts, as 32 hexadecimal digits: enough to be unique, short
/// enough to read.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
