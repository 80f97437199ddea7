//! What a control says about a resource.
//!
//! Deliberately not here: what is done about it (`decide`).

use crate::plan::{Change, Exposure};
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
    /// How bad it is.
    pub severity: Severity,
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
