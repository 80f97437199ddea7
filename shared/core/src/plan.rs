//! What is to be done and what came of it: plan, outcomes, verification.
//!
//! Deliberately not here: how a control arrives at its plan (`controls`) and
//! how a step is carried out (`backstop-aws`).

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exemption::Exemption;
use crate::ports::Permission;
use crate::security_group::IngressRule;

/// What is done about a finding, and why not more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disposition {
    /// The plan is carried out.
    Enforce,
    /// Mode `notify`: the plan is told, nothing is changed.
    NotifyOnly,
    /// Everything found is opted out: nothing is changed.
    Exempt,
    /// An opt-out tag cannot be read: nothing is changed, and that is told.
    Held,
    /// Another account owns the resource: nothing is changed.
    NotOwned,
    /// It was there before the control was switched to `enforce`: told, and
    /// nothing is changed.
    Existing,
    /// The control has tripped, everywhere or for this resource: nothing is
    /// changed until a person re-arms it.
    Tripped,
    /// The kill switch is on: nothing is changed.
    Stopped,
}

/// One part of a finding: a rule that admits what it must not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// The rule, as it was found.
    pub rule: IngressRule,
    /// What the rule admits to too many, in words (`tcp 22`).
    pub exposed: Vec<String>,
    /// What the rule admits that may stay, in words (`tcp 443`).
    pub allowed: Vec<String>,
    /// How many public addresses the source admits.
    #[serde(with = "as_text")]
    pub public_addresses: u128,
    /// Whether the source also admits private or special addresses, which go
    /// with it: a source is kept whole or goes whole.
    pub private_part: bool,
    /// What the rule's own opt-out tag says.
    #[serde(default)]
    pub exemption: Exemption,
    /// Digest of control, resource, protocol, ports and source. It stays the
    /// same when a rule is put back under a new id.
    pub fingerprint: String,
}

/// JSON numbers end at 2^64, address counts do not: written as text.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        number: &u128,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A change of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChange {
    /// The rule to change.
    pub rule: IngressRule,
    /// What the rule becomes, in place, keeping id and tags; `None`: it is
    /// revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrow_to: Option<Permission>,
    /// Further allowed parts, authorised before that from the same source,
    /// with the rule's description and tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorise: Vec<Permission>,
    /// Allowed parts that no reasonable number of rules can express, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// What is to be done about a finding. `before` of the ledger is the `rule` of
/// every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it is carried out.
    pub disposition: Disposition,
    /// The changes, pure revokes first: they close a hole soonest.
    pub changes: Vec<RuleChange>,
    /// Why the plan is what it is, one sentence each.
    pub reasons: Vec<String>,
}

impl Plan {
    /// Whether carrying out the plan changes anything.
    #[must_use]
    pub fn changes_something(&self) -> bool {
        self.disposition == Disposition::Enforce && !self.changes.is_empty()
    }

    /// Every rule the plan touches, in full, by id.
    #[must_use]
    pub fn before(&self) -> BTreeMap<String, IngressRule> {
        self.changes
            .iter()
            .map(|c| (c.rule.id.clone(), c.rule.clone()))
            .collect()
    }
}

/// The kind of a step on a rule.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// An allowed part was authorised as a rule of its own.
    Authorise,
    /// The rule was changed in place to an allowed part.
    Narrow,
    /// The rule was revoked.
    Revoke,
    /// A rule that a step of ours had authorised was taken back.
    TakeBack,
    /// An undo put its opt-out on the rule, ahead of widening it.
    Tag,
    /// An undo changed the rule in place to what it was before.
    Widen,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Ending {
    /// Done by this step.
    Done,
    /// It was so already.
    AlreadyDone,
    /// Not tried, or refused in a way that is no failure, and why.
    Skipped {
        /// Why.
        why: String,
    },
    /// Failed.
    Failed {
        /// Whether trying again may help.
        retryable: bool,
        /// The AWS operation, for example `RevokeSecurityGroupIngress`.
        operation: String,
        /// The AWS error code, or `Timeout` and the like.
        code: String,
        /// AWS's message.
        message: String,
    },
}

/// One step and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outcome {
    /// The round of the entry in which it was tried, from 1: every attempt
    /// begins one, and so does a further look within an attempt.
    #[serde(default)]
    pub round: u32,
    /// The rule of the plan it belongs to.
    pub rule: String,
    /// What was tried.
    pub step: Step,
    /// What the step was to make (authorise, narrow), in EC2's terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<Permission>,
    /// The id of the rule that the step made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How it ended.
    pub ending: Ending,
}

impl Outcome {
    /// Whether the step failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.ending, Ending::Failed { .. })
    }
}

/// The resource read again after the changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Exposures that are still there, in words.
    pub remaining: Vec<String>,
    /// Rules we changed that are not as planned, in words.
    pub not_as_planned: Vec<String>,
    /// What others changed meanwhile, in words. No failure.
    pub by_others: Vec<String>,
    /// Why the resource could not be read again, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

impl Verification {
    /// Whether the finding is gone and what we changed is as planned.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.problems().next().is_none()
    }

    /// What keeps it from having passed, in words.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.remaining
            .iter()
            .chain(&self.not_as_planned)
            .chain(&self.unread)
            .map(String::as_str)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::AlreadyDone => f.write_str("already done"),
            Self::Skipped { why } => write!(f, "skipped: {why}"),
            Self::Failed {
                operation,
                code,
                message,
                ..
            } => {
                write!(f, "FAILED: {operation}: {code}: {message}")
            }
        }
    }
}
