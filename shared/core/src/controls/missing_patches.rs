//! `missing-patches`: an instance lacks patches that its patch baseline approves
//! (Security Hub SSM.2), or was never looked at.
//!
//! An instance that was never scanned is scanned, which changes nothing; what
//! the scan finds is a finding like any other. How patches are installed is the
//! policy's `patching` (`patching::Settings`), what is decided `patching::decide`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::{ControlId, digest};

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
