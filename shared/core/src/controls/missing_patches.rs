//! `missing-patches`: an instance lacks patches that its patch baseline approves
//! (Security Hub SSM.2), or was never looked at.
//!
//! An instance that was never scanned is scanned, which changes nothing; what
//! the scan finds is a finding like any other. How patches are installed is the
//! policy's `patching` (`patching::Settings`), what is decided `patching::decide`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::info::{Guide, Reversal, StepwiseInfo};
use crate::words::{ControlId, digest};

/// What is fixed about the control, for people.
pub const INFO: StepwiseInfo = StepwiseInfo {
    id: ControlId::MissingPatches,
    function: "patch-instance",
    hub: &["SSM.2"],
    tagged: "the instance",
    reversal: Reversal::No(
        "An installed patch is not removed. `backstop undo` names the snapshots from before the installation and how to go back to them by hand.",
    ),
    guide: Guide {
        why: "An instance that lacks patches which its patch baseline approves keeps vulnerabilities for which a fix exists.",
        changes: "Installs every approved patch that the instance lacks, after snapshots of its volumes. An instance that was never scanned is scanned first, which changes nothing.",
        never: &[
            "It never sends any command but `AWS-RunPatchBaseline`.",
            "It never restarts an instance, unless the policy's `patching.reboot` says `if-needed`.",
            "It never changes which patches are approved: that is the patch baseline's.",
        ],
    },
};

/// The control's settings: there are none. Which patches are approved is the
/// patch baseline's, how they are installed the policy's `patching`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// Digest of control and instance.
#[must_use]
pub fn fingerprint(instance: &str) -> String {
    digest([ControlId::MissingPatches.name(), instance])
}
