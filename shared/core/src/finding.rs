//! What a control says about a resource.
//!
//! Deliberately not here: what is done about it (`decide`).

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Change, Exposure, ItemId};
use crate::reason::Reason;
use crate::words::Severity;

/// What a control says about a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<S> {
    /// There is nothing to judge, and why.
    NotApplicable(String),
    /// Nothing exceeds the policy.
    Compliant,
    /// Something does.
    Violates(Finding<S>),
}

/// What exceeds the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding<S> {
    /// How bad the worst of it is.
    pub severity: Severity,
    /// How bad single items are; one that is not named is as bad as the worst.
    pub severities: BTreeMap<ItemId, Severity>,
    /// The items that are wrong, in the order of their ids. Exemption and
    /// fingerprint are filled in by [`decide`](crate::decide::decide).
    pub exposures: Vec<Exposure<S>>,
    /// What is to be done about those that are not spared.
    pub changes: Vec<Change<S>>,
    /// What could not be judged, one clause each.
    pub notes: Vec<String>,
    /// Why the control changes nothing about it, in any mode; none: it does.
    pub left: Option<Reason>,
}

impl<S> Finding<S> {
    /// The changes that close something critical, by item.
    #[must_use]
    pub fn critical(&self) -> BTreeSet<ItemId> {
        let items = self.changes.iter().map(|change| &change.item);
        let severity = |item: &ItemId| self.severities.get(item).unwrap_or(&self.severity);
        let critical = items.filter(|item| *severity(item) == Severity::Critical);
        critical.cloned().collect()
    }
}
