//! The parts of the policy that any control has or reads, and the [`Rules`] by
//! which one decides: a control sees its own settings and never the whole policy.
//!
//! Deliberately not here: the settings of one control (its own file) and the
//! document as a whole (`policy`).

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::prose::quoted;
use crate::words::Mode;

/// The rules by which a control decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules<'a, S: Default> {
    /// The control's part of the policy.
    pub control: &'a ControlPolicy<S>,
    /// What opt-out tags must say.
    pub opt_out: &'a OptOutRules,
    /// When a finding that keeps coming back trips the control.
    pub fights: &'a FightRules,
    /// Whether the kill switch is on.
    pub kill_switch: bool,
}

/// One control's part of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ControlPolicy<S: Default> {
    /// What may be done; without it the stack's parameter `Mode` holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How many changes are made at most.
    pub budget: Budget,
    /// What is done about findings that the first sweep after a switch to
    /// `enforce` met: `notify` (told and left as they are), or `enforce`.
    pub existing: Existing,
    /// What the control allows.
    pub settings: S,
}

/// What any control's part of the policy says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    pub(crate) mode: Option<Mode>,
    pub(crate) existing: Existing,
    pub(crate) changes_per_hour: u32,
}

impl<S: Default> ControlPolicy<S> {
    pub(crate) fn common(&self) -> Common {
        Common {
            mode: self.mode,
            existing: self.existing,
            changes_per_hour: self.budget.changes_per_hour,
        }
    }
}

/// What is done about what was there when a control was switched to `enforce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Existing {
    /// Told, and left as it is.
    #[default]
    Notify,
    /// Put right like anything else.
    Enforce,
}

/// How many changes are made at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Changes by this control in a clock hour (UTC), counted when they are
    /// begun; each rule that is revoked or narrowed, each volume that is
    /// replaced, and each instance that is patched, is one. It is never exceeded. If
    /// many resources use it up, the control trips: nothing more is changed until a
    /// person re-arms it. A resource that would exceed it by itself trips alone.
    #[schemars(range(min = 1))]
    pub changes_per_hour: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            changes_per_hour: 50,
        }
    }
}

/// What is put back again and again: the same finding on the same resource,
/// counted over 24 hours and over 7 days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Fights")]
pub struct FightRules {
    /// From this time within 24 hours on it is told as a fight, once a day, and still
    /// put right.
    #[schemars(range(min = 2, max = 100))]
    pub escalate_after: u32,
    /// The same of what comes back slowly: from this time within 7 days on it is told
    /// as a fight with its rhythm, once while it lasts, and still put right.
    #[schemars(range(min = 2, max = 100))]
    pub escalate_after_in_week: u32,
    /// The time within 24 hours at which the control trips for that resource: it is told, and
    /// not put right until a person re-arms it.
    #[schemars(range(min = 2, max = 100))]
    pub trip_after: u32,
}

impl FightRules {
    /// The most that each number may be.
    pub const MOST: u32 = 100;
}

impl Default for FightRules {
    fn default() -> Self {
        Self {
            escalate_after: 3,
            escalate_after_in_week: 4,
            trip_after: 10,
        }
    }
}

/// What opt-out tags must say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptOutRules {
    /// Whether every opt-out needs `until=`. One without it then counts as
    /// malformed: nothing is changed, and that is told.
    pub require_end: bool,
    /// With `require_end`: for how many days from today an opt-out may hold at most.
    /// One that ends later counts as malformed, like one without an end.
    #[schemars(range(min = 1, max = 3650))]
    pub longest_days: u32,
}

impl OptOutRules {
    /// The most that `longest_days` may be: ten years.
    pub const MOST_DAYS: u32 = 3_650;
}

impl Default for OptOutRules {
    fn default() -> Self {
        Self {
            require_end: false,
            longest_days: 400,
        }
    }
}

/// An exemption of the whole account and Region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountExemption {
    /// Last day (UTC) on which it holds.
    #[serde(deserialize_with = "day")]
    #[schemars(with = "String", extend("format" = "date"))]
    pub until: Date,
    /// Who answers for it.
    #[schemars(length(min = 1))]
    pub owner: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A day written as `YYYY-MM-DD` and in no other way, as in an opt-out tag.
fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    let text = String::deserialize(deserializer)?;
    let date = text.parse::<Date>().ok();
    date.filter(|date| date.to_string() == text).ok_or_else(|| {
        D::Error::custom(format!(
            "`{}` is not a date like `2027-01-31`",
            quoted(&text)
        ))
    })
}
