//! What the records of all runs begin with: who found what on which resource, and
//! where it stands. What follows depends on the kind of run: one that is made at
//! once (`entry`), step by step (`encryption`), or from a queue (`patching`).
//!
//! Deliberately not here: what a run did.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exemption::Exemption;
use crate::words::{Actor, ControlId, Severity, Status, id_of, team_or_unowned};

/// The version of the record formats that this release writes and reads.
pub const VERSION: u32 = 1;

/// A run of a control on one resource, as the ledger keeps it. Head and detail
/// are one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run<D> {
    /// What all runs have.
    #[serde(flatten)]
    pub head: Head,
    /// What depends on the kind of run.
    #[serde(flatten)]
    pub detail: D,
}

/// What the records of all runs begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The record format's version.
    pub version: u32,
    /// The record's id, a ULID.
    pub id: String,
    /// The control that found something.
    pub control: ControlId,
    /// How bad it is.
    pub severity: Severity,
    /// ARN of the resource.
    pub resource: String,
    /// The resource's name, for people.
    pub resource_name: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the resource: the value of the owner tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// What exempts the resource: its own opt-out tag, that of what it belongs
    /// to, or the policy.
    #[serde(default)]
    pub exemption: Exemption,
    /// Who touched the resource.
    pub actor: Actor,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// How often it was begun: 1 without a retry.
    pub attempts: u32,
    /// When it was first begun.
    pub started_at: Timestamp,
    /// When the last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// What manages the resource, where tags, caller or agent show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

impl Head {
    /// The resource's id: what follows the last `/` of its ARN.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        id_of(&self.resource)
    }

    /// The team for messages: never empty.
    #[must_use]
    pub fn team_or_unowned(&self) -> &str {
        team_or_unowned(self.team.as_deref())
    }

    /// Whether it is a critical finding that stays because the control has tripped:
    /// each of these is told by itself.
    #[must_use]
    pub fn is_left_and_critical(&self) -> bool {
        self.status == Status::Tripped && self.severity == Severity::Critical
    }
}

impl<D> Run<D> {
    /// [`Head::resource_id`].
    #[must_use]
    pub fn resource_id(&self) -> &str {
        self.head.resource_id()
    }

    /// [`Head::team_or_unowned`].
    #[must_use]
    pub fn team_or_unowned(&self) -> &str {
        self.head.team_or_unowned()
    }
}
