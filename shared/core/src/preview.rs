//! What would be done about a resource, for every control that is remediated at
//! once: plain data, so that it is printed without the types of the control.
//!
//! Deliberately not here: how it is printed (the command line), and how the
//! resource is read (`backstop_engine`).

use serde_json::{Value, json};

use crate::control::Control;
use crate::decide::{Circumstances, Decision, decide};
use crate::exemption::Exemption;
use crate::finding;
use crate::plan::{Change, Disposition, Exposure, Step};
use crate::rules::Rules;
use crate::sweep;
use crate::words::{ControlId, Severity};

/// What a control says about a resource, and what it would do.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// The control.
    pub control: ControlId,
    /// The resource's id.
    pub id: String,
    /// Its ARN; empty where it is gone.
    pub arn: String,
    /// Its name; empty where it has none.
    pub name: String,
    /// The account that owns it; empty where it is gone.
    pub owner: String,
    /// What the control says.
    pub verdict: Verdict,
    /// What could not be read and is not judged, one clause each.
    pub unread: Vec<String>,
}

/// What a control says about a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// There is nothing to judge, and why.
    NotApplicable(String),
    /// Nothing exceeds the policy.
    Compliant,
    /// Something does.
    Violates(Finding),
}

/// What exceeds the policy, and what would be done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The items that are wrong.
    pub items: Vec<Item>,
    /// What exempts the resource.
    pub exemption: Exemption,
    /// Whether anything would be changed.
    pub carried_out: bool,
    /// Why it would be left as it is, in a few words; none: it would not.
    pub left: Option<&'static str>,
    /// Why the plan is what it is, one clause each.
    pub reasons: Vec<String>,
}

/// An item that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The exposure, with the state as JSON.
    pub exposure: Exposure<Value>,
    /// Its state in one line ([`Control::line`]).
    pub line: String,
    /// What of it is wrong, in one line ([`Control::found`]).
    pub found: String,
    /// What would become of it, in words; none: it would be left as it is.
    pub would_be: Option<String>,
}

impl Preview {
    /// Whether there is no such resource (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.arn.is_empty()
    }

    /// What was found; `None`: nothing.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        match &self.verdict {
            Verdict::Violates(finding) => Some(finding),
            Verdict::NotApplicable(_) | Verdict::Compliant => None,
        }
    }
}

impl Finding {
    /// Whether a tag or the policy opts all of it out.
    #[must_use]
    pub fn is_opted_out(&self) -> bool {
        let exempt = |of: &Exemption| matches!(of, Exemption::Exempt(_));
        let mut items = self.items.iter();
        exempt(&self.exemption)
            || !self.items.is_empty() && items.all(|item| exempt(&item.exposure.exemption))
    }
}

/// Decides about a resource as the functions do. `None`: it is gone.
#[must_use]
pub fn preview<C: Control>(
    id: &str,
    facts: Option<&C::Facts>,
    rules: &Rules<'_, C::Settings>,
    at: &Circumstances<'_>,
) -> Preview {
    let decision = decide::<C>(facts, rules, at);
    let subject = facts.map(C::subject);
    let said = |of: Option<&str>| of.unwrap_or_default().to_owned();
    Preview {
        control: C::INFO.id,
        id: id.to_owned(),
        arn: said(subject.as_ref().map(|subject| subject.arn)),
        name: said(subject.as_ref().map(|subject| subject.name)),
        owner: said(subject.as_ref().map(|subject| subject.owner)),
        verdict: match &decision.verdict {
            finding::Verdict::NotApplicable(why) => Verdict::NotApplicable(why.clone()),
            finding::Verdict::Compliant => Verdict::Compliant,
            finding::Verdict::Violates(found) => Verdict::Violates(finding::<C>(found, &decision)),
        },
        unread: facts.map(C::unread).unwrap_or_default(),
    }
}

fn finding<C: Control>(
    found: &finding::Finding<C::State>,
    decision: &Decision<C::State>,
) -> Finding {
    let plan = decision.plan.as_ref();
    let changes = plan.map_or(&[][..], |plan| &plan.changes);
    let items = found.exposures.iter().map(|exposure| Item {
        line: C::line(&exposure.item, &exposure.state),
        found: C::found(exposure),
        would_be: changes
            .iter()
            .find(|change| change.item == exposure.item)
            .map(would_be::<C>),
        exposure: exposure.with_state(json!(exposure.state)),
    });
    let enforced = plan.is_some_and(|plan| plan.disposition == Disposition::Enforce);
    Finding {
        severity: found.severity,
        items: items.collect(),
        exemption: decision.exemptions.resource.clone(),
        carried_out: plan.is_some_and(|plan| plan.changes_something()),
        left: sweep::reason(decision).filter(|_| !enforced),
        reasons: plan.map_or_else(Vec::new, |plan| plan.reasons.clone()),
    }
}

/// What would become of an item, in words.
fn would_be<C: Control>(change: &Change<C::State>) -> String {
    let words = |state: &C::State| {
        C::permission(state).map_or_else(
            || C::line(&change.item, state),
            |permission| permission.to_string(),
        )
    };
    let mut text = match (&change.after, change.step(C::IN_PLACE.0)) {
        (None, _) => "revoked".to_owned(),
        (Some(to), Step::Narrow) => format!("narrowed to {}", words(to)),
        (Some(to), _) => format!("changed: {}", words(to)),
    };
    for part in &change.add {
        let item = C::INFO.phrases.item;
        text += &format!(", and a new {item} for {}", words(part));
    }
    for lost in &change.lost {
        text += &format!(", {lost} LOST");
    }
    text
}
