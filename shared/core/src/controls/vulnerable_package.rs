//! `vulnerable-package`: Inspector found a package with a known hole on an
//! instance.
//!
//! What a patch of the operating system mends is patched (`patching::decide`).
//! Application packages and code findings are told to the owner in Inspector's
//! own words, and never answered with a restart: a patch baseline knows nothing
//! of them.
//!
//! Deliberately not here: Inspector's API. Its events are all that is known of
//! a finding, and they are kept (`patching::Reports`) until it is closed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::info::{Guide, Reversal, StepwiseInfo};
use crate::words::{ControlId, Severity, digest};

/// What is fixed about the control, for people.
pub const INFO: StepwiseInfo = StepwiseInfo {
    id: ControlId::VulnerablePackage,
    function: "patch-instance",
    hub: &[],
    tagged: "the instance",
    reversal: Reversal::No(
        "An installed patch is not removed. `backstop undo` names the snapshots from before the installation and how to go back to them by hand.",
    ),
    guide: Guide {
        why: "Attackers use published vulnerabilities; Amazon Inspector rates those that it finds on the instance.",
        changes: "Installs every approved patch that the instance lacks, after snapshots of its volumes. What no patch of the operating system fixes is only reported.",
        never: &[
            "It never sends any command but `AWS-RunPatchBaseline`.",
            "It never restarts an instance, unless the policy's `patching.reboot` says `if-needed`.",
            "It never updates application packages or code.",
        ],
    },
};

/// The control's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Findings below this severity are left to the ordinary patching of the
    /// account.
    pub severity: Severity,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            severity: Severity::High,
        }
    }
}

/// Digest of control and finding.
#[must_use]
pub fn fingerprint(finding: &str) -> String {
    digest([ControlId::VulnerablePackage.name(), finding])
}
