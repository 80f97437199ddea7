//! What is to be done and what came of it: changes, plan, outcomes, verification.
//!
//! A remediation moves items of a resource (rules, grants, settings) from one
//! state to another, and an undo moves them back. `S` is the state of an item:
//! the control's own type while something is judged, JSON in records, which are
//! read without a type for every control.
//!
//! Deliberately not here: how a control arrives at its plan (`decide`) and
//! how a step is carried out (`backstop-aws`).

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exemption::Exemption;
use crate::ports::Permission;
use crate::prose::{clause, joined, one_line, or_unknown};
use crate::reason::Reason;

/// The id of an item within its resource: a rule's id, a grant's holder, a
/// setting's name.
pub type ItemId = String;

/// The state of an item: a rule, a grant, a setting.
pub trait State:
    Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync + 'static
{
}

impl<S> State for S where
    S: Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync + 'static
{
}

/// What is done about a finding, and why not more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disposition {
    /// The plan is carried out.
    Enforce,
    /// It is told, nothing is changed: in the mode `notify`, because nothing could be
    /// judged, or because the control leaves it
    /// ([`Finding::left`](crate::finding::Finding::left)).
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
    /// Nothing is changed yet: the budget of this clock hour is used up, or it is not
    /// proven yet that a change breaks nothing.
    Pending,
}

impl Disposition {
    /// What a reason leads to.
    #[must_use]
    pub fn of(because: &Reason) -> Self {
        match because {
            Reason::NotOwned { .. } => Self::NotOwned,
            Reason::OptOutUnreadable => Self::Held,
            Reason::OptedOut | Reason::ExemptInPolicy => Self::Exempt,
            Reason::Existing => Self::Existing,
            Reason::DeclarativePolicy
            | Reason::NeverSet
            | Reason::NotJudged
            | Reason::InUse { .. }
            | Reason::UseUnknown { .. }
            | Reason::NeededBy { .. }
            | Reason::OperatedByService { .. }
            | Reason::NotifyMode => Self::NotifyOnly,
            // Nothing that is remediated at once ends by what changed meanwhile.
            Reason::KillSwitch | Reason::Meanwhile { .. } => Self::Stopped,
            Reason::BudgetSpent | Reason::StillUsed { .. } | Reason::Unproven { .. } => {
                Self::Pending
            }
            Reason::ControlTripped { .. }
            | Reason::ResourceTripped { .. }
            | Reason::Fight { .. } => Self::Tripped,
        }
    }
}

/// One part of a finding: an item whose state is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure<S = Value> {
    /// The item.
    pub item: ItemId,
    /// Its state, as it was found.
    pub state: S,
    /// What of it is wrong, in words (`tcp 22`).
    #[serde(default)]
    pub exposed: Vec<String>,
    /// What of it may stay, in words (`tcp 443`).
    #[serde(default)]
    pub allowed: Vec<String>,
    /// Whom it admits, of items that admit addresses.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// Why it could not be judged; `None`: it was. Then `exposed` is what may be
    /// wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unjudged: Option<Unjudged>,
    /// Whether a setting of the account keeps it without effect for now: the item
    /// stays, and takes effect once the setting is weakened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// What the item's own opt-out tag says, or the baseline.
    #[serde(default)]
    pub exemption: Exemption,
    /// Digest of control, resource and what is wrong
    /// ([`Control::fingerprint`](crate::control::Control::fingerprint)). It stays
    /// the same when the item is put back under a new id.
    pub fingerprint: String,
}

impl<S> Exposure<S> {
    /// An item that is wrong as a whole. Exemption and fingerprint are filled in by
    /// [`decide`](crate::decide::decide).
    #[must_use]
    pub fn of(item: impl Into<ItemId>, state: S) -> Self {
        Self {
            item: item.into(),
            state,
            exposed: Vec::new(),
            allowed: Vec::new(),
            reach: None,
            unjudged: None,
            hidden: false,
            exemption: Exemption::None,
            fingerprint: String::new(),
        }
    }

    /// Whether it could not be judged and is left as it is: none of these changes
    /// is about it.
    #[must_use]
    pub fn is_left_unjudged<T>(&self, changes: &[Change<T>]) -> bool {
        self.unjudged.is_some() && !changes.iter().any(|change| change.item == self.item)
    }

    /// The same exposure with its state in another form.
    #[must_use]
    pub fn with_state<T>(&self, state: T) -> Exposure<T> {
        Exposure {
            item: self.item.clone(),
            state,
            exposed: self.exposed.clone(),
            allowed: self.allowed.clone(),
            reach: self.reach,
            unjudged: self.unjudged.clone(),
            hidden: self.hidden,
            exemption: self.exemption.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }
}

/// Whom an item admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// How many public addresses.
    #[serde(with = "as_text")]
    pub public_addresses: u128,
    /// Whether private or special addresses as well, which go with them: a source
    /// is kept whole or goes whole.
    pub private_part: bool,
}

/// Why an item could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum Unjudged {
    /// The prefix list that it names cannot be read.
    PrefixList {
        /// The list's id.
        id: String,
        /// The account that owns it, `AWS` for AWS's own; absent where it is not
        /// known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// What EC2 answered.
        why: String,
    },
    /// Entries of the prefix list that it names are no CIDR blocks.
    Entries {
        /// The list's id.
        id: String,
        /// As of `prefix-list`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// The first of them.
        entries: Vec<String>,
    },
    /// Its source is no CIDR block.
    Block {
        /// What stands there.
        block: String,
    },
}

impl Unjudged {
    /// What a person can do about it, as a sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::PrefixList { .. } => {
                "A rule goes on admitting what is in a list that is no longer shared, its later versions as well: have the owner share the list with this account, or name other sources in the rule."
            }
            Self::Entries { .. } | Self::Block { .. } => {
                "Write the source as a CIDR block, for example 198.51.100.0/24."
            }
        }
    }
}

impl fmt::Display for Unjudged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |owner: &Option<String>| or_unknown(owner.as_deref(), 50);
        match self {
            Self::PrefixList { id, owner, why } => write!(
                f,
                "the prefix list {} (owner: {}) cannot be read: {}",
                one_line(id, 100),
                of(owner),
                clause(why, 300)
            ),
            Self::Entries { id, owner, entries } => write!(
                f,
                "the prefix list {} (owner: {}) has entries that are no CIDR blocks: `{}`",
                one_line(id, 100),
                of(owner),
                joined(entries, entries.len())
            ),
            Self::Block { block } => {
                write!(f, "its source `{}` is no CIDR block", one_line(block, 100))
            }
        }
    }
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

/// A change of one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<S = Value> {
    /// The item.
    pub item: ItemId,
    /// Its state before; `None`: it is not there.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub before: Option<S>,
    /// What it becomes, in place; `None`: it goes.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub after: Option<S>,
    /// Further parts that stay allowed and become items of their own, added
    /// before anything is taken away. They carry the id of the item that they are
    /// a part of, until they have their own.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<S>,
    /// Allowed parts that no reasonable number of items can express, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

impl<S> Change<S> {
    /// The item goes.
    #[must_use]
    pub fn remove(item: impl Into<ItemId>, before: S) -> Self {
        Self {
            item: item.into(),
            before: Some(before),
            after: None,
            add: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// The item changes in place.
    #[must_use]
    pub fn set(item: impl Into<ItemId>, before: S, after: S) -> Self {
        Self {
            after: Some(after),
            ..Self::remove(item, before)
        }
    }

    /// The same change with its ends exchanged: its undo. Parts that were added
    /// are the undo's to remove, by the ids that they have by then.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            item: self.item,
            before: self.after,
            after: self.before,
            add: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// The kind of step that makes it, where `in_place` changes an item in place.
    #[must_use]
    pub fn step(&self, in_place: Step) -> Step {
        match (&self.before, &self.after) {
            (None, Some(_)) => Step::Authorise,
            (_, Some(_)) => in_place,
            (_, None) => Step::Revoke,
        }
    }

    /// The same change with states in another form.
    #[must_use]
    pub fn map<T>(self, form: impl Fn(S) -> T) -> Change<T> {
        Change {
            item: self.item,
            before: self.before.map(&form),
            after: self.after.map(&form),
            add: self.add.into_iter().map(form).collect(),
            lost: self.lost,
        }
    }
}

/// What is to be done about a finding. `before` of the ledger is the `before` of
/// every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan<S = Value> {
    /// Whether it is carried out.
    pub disposition: Disposition,
    /// The changes, those that only take away first: they close an exposure
    /// soonest.
    #[serde(default = "Vec::new")]
    pub changes: Vec<Change<S>>,
    /// Why the plan is what it is, one sentence each, for people.
    pub reasons: Vec<String>,
    /// Why it is not carried out, as data. Entries of the first release have
    /// none.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Reason>,
}

impl<S: Clone> Plan<S> {
    /// Whether carrying out the plan changes anything.
    #[must_use]
    pub fn changes_something(&self) -> bool {
        self.disposition == Disposition::Enforce && !self.changes.is_empty()
    }

    /// Every item that the plan touches, as it was, by id. An item that is not
    /// there yet has no state.
    #[must_use]
    pub fn before(&self) -> BTreeMap<ItemId, S> {
        self.changes
            .iter()
            .filter_map(|change| Some((change.item.clone(), change.before.clone()?)))
            .collect()
    }
}

/// The kind of a step on an item.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// An item was added: an allowed part as a rule of its own, or by an undo.
    Authorise,
    /// A rule was changed in place to an allowed part.
    Narrow,
    /// The item was removed.
    Revoke,
    /// A rule that a step of ours had authorised was taken back.
    TakeBack,
    /// An undo put its opt-out on the item or its resource, ahead of its change.
    Tag,
    /// An undo changed a rule in place to what it was before.
    Widen,
    /// A setting was changed in place.
    Set,
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
    /// The item of the plan it belongs to.
    pub item: ItemId,
    /// What was tried.
    pub step: Step,
    /// What the step was to make of a rule (authorise, narrow), in EC2's terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<Permission>,
    /// The id of the item that the step made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What the item that the step made lacks, because AWS refused it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<Without>,
    /// How it ended.
    pub ending: Ending,
}

/// What AWS refused of an item that it accepted without.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Without {
    /// Whether it lacks its tags.
    pub tags: bool,
    /// Whether it lacks its description.
    pub description: bool,
    /// AWS's answer to the whole of it.
    pub why: String,
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = match (self.tags, self.description) {
            (true, true) => "its tags and its description",
            (true, false) => "its tags",
            (false, _) => "its description",
        };
        write!(
            f,
            "without {parts}, which AWS refused: {}",
            clause(&self.why, 300)
        )
    }
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
    /// Items we changed that are not as planned, in words.
    pub not_as_planned: Vec<String>,
    /// What others changed meanwhile, in words. No failure.
    pub by_others: Vec<String>,
    /// Changes that AWS accepted and that do not show yet, in words, while they may
    /// take that long. No failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_visible_yet: Vec<String>,
    /// Why the resource could not be read again, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

impl Verification {
    /// Whether the finding is gone and what we changed is as planned.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.problems().next().is_none() && self.not_visible_yet.is_empty()
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
