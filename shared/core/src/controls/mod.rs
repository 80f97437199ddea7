//! The controls: what Backstop finds. One file each; this one is the register.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod encryption_by_default;
pub mod missing_patches;
pub mod open_ingress;
pub mod unencrypted_volume;
pub mod unmanaged_instance;
pub mod vulnerable_package;

/// A control, by what it finds. The name is the same in tags, policy, ledger,
/// metrics and messages.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
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
}

impl Control {
    /// Every control there is.
    pub const ALL: &'static [Self] = &[
        Self::OpenIngress,
        Self::UnencryptedVolume,
        Self::EncryptionByDefault,
        Self::VulnerablePackage,
        Self::MissingPatches,
        Self::UnmanagedInstance,
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
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenIngress => open_ingress::NAME,
            Self::UnencryptedVolume => unencrypted_volume::NAME,
            Self::EncryptionByDefault => encryption_by_default::NAME,
            Self::VulnerablePackage => vulnerable_package::NAME,
            Self::MissingPatches => missing_patches::NAME,
            Self::UnmanagedInstance => unmanaged_instance::NAME,
        }
    }

    /// What it finds, in one line.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::OpenIngress => "A security group that admits too much of the internet to a port",
            Self::UnencryptedVolume => "A volume whose data lies on disk unencrypted",
            Self::EncryptionByDefault => "The account setting that encrypts new volumes is off",
            Self::VulnerablePackage => "A package with a known hole, on an instance",
            Self::MissingPatches => "An instance that lacks approved patches",
            Self::UnmanagedInstance => "An instance that Systems Manager does not manage",
        }
    }

    /// The name that its locks have: controls with one remediation share the lock
    /// of a resource, so that there is one run at a time.
    #[must_use]
    pub fn lock_name(self) -> &'static str {
        match self {
            Self::VulnerablePackage | Self::UnmanagedInstance => missing_patches::NAME,
            own => own.name(),
        }
    }

    /// Whether an opt-out tag on a resource says anything to it, by the
    /// resource's id.
    #[must_use]
    pub fn reads_tags_of(self, resource: &str) -> bool {
        let kinds: &[&str] = match self {
            Self::OpenIngress => &["sg-", "sgr-", "vpc-"],
            Self::UnencryptedVolume => &["vol-", "i-"],
            Self::VulnerablePackage | Self::MissingPatches | Self::UnmanagedInstance => &["i-"],
            // An account has no tags.
            Self::EncryptionByDefault => &[],
        };
        kinds.iter().any(|kind| resource.starts_with(kind))
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

impl fmt::Display for Control {
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
