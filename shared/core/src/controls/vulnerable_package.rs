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

use crate::words::{ControlId, Severity, digest};

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
