//! Undo: what a remediation changed is put back as it was.
//!
//! Only what the entry touched is compared, with the state that the entry left
//! behind (`after`): the same, and `before` is restored; already as before, and
//! that is said; anything else, and nothing is changed and the three states are
//! shown. Deliberately not here: the calls (`backstop-aws`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::controls::Control;
use crate::entry::digest;
use crate::plan::Outcome;
use crate::security_group::IngressRule;

/// Where an undo stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UndoStatus {
    /// Changes are being made.
    UndoInProgress,
    /// Everything is as it was before the remediation, verified.
    Undone,
    /// Something failed: some of it may be as before, some not.
    UndoFailed,
}

impl UndoStatus {
    /// The name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UndoInProgress => "undo-in-progress",
            Self::Undone => "undone",
            Self::UndoFailed => "undo-failed",
        }
    }
}

/// One undo, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// The record format's version.
    pub version: u32,
    /// The record's id, a ULID.
    pub id: String,
    /// The remediation that is taken back: its entry's id.
    pub undoes: String,
    /// The control of the remediation.
    pub control: Control,
    /// ARN of the resource.
    pub resource: String,
    /// The resource's name, for people.
    pub resource_name: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Where it stands.
    pub status: UndoStatus,
    /// Why, as stated by whoever asked.
    pub reason: String,
    /// Who asked, as stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Last day (UTC) of the opt-out that what is put back carries.
    pub opt_out_until: Date,
    /// Every rule that the undo touches, in full, as it was before the undo.
    /// Kept compressed and apart from the rest of the document.
    #[serde(skip)]
    pub before: BTreeMap<String, IngressRule>,
    /// What came of each step, in order.
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
    /// What is not as it should be afterwards, in words.
    #[serde(default)]
    pub problems: Vec<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

impl Undo {
    /// The resource's id: what follows the last `/` of its ARN.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        self.resource.rsplit('/').next().unwrap_or(&self.resource)
    }

    /// What its message is known by.
    #[must_use]
    pub fn message_key(&self) -> String {
        digest(
            [self.id.as_str(), self.status.name()]
                .into_iter()
                .chain(self.problems.iter().map(String::as_str)),
        )
    }
}
