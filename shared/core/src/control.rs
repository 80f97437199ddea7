//! What a control is: the states that the items of a resource are in, and which
//! of them are wrong.
//!
//! A control says what it finds and what that should become. Everything else
//! (guards, ledger, lock, verification, undo, messages, sweep, preview) is
//! written once, over this trait. Types are those of the control as long as
//! something is judged; records and messages hold states as JSON, because notify,
//! history and undo read records of every control ([`AnyControl`]).
//!
//! Deliberately not here: how a resource is read and changed
//! (`backstop_aws::remediation`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::finding::Verdict;
use crate::info::{ControlInfo, Expands};
use crate::plan::{Exposure, ItemId, Outcome, State, Step};
use crate::ports::Permission;
use crate::rules::AccountExemption;
use crate::security_group::Tags;
use crate::trigger::{self, BrokenEvent, Parsed};
use crate::words::{ControlId, digest};

/// The resource that facts are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its ARN.
    pub arn: &'a str,
    /// Its name, for people.
    pub name: &'a str,
    /// The account that owns it.
    pub owner: &'a str,
    /// Its tags.
    pub tags: &'a Tags,
    /// Tags of what it belongs to (its VPC), as far as they opt out.
    pub inherited: Option<&'a Tags>,
}

/// Which items are not to be changed, and so do not count against others.
pub type IsSpared<'a> = dyn Fn(&str) -> bool + 'a;

/// What the AWS CLI commands need with which a person rolls back the change of an
/// item.
#[derive(Clone, Debug)]
pub struct ByHand<'a, S = Value> {
    /// The resource's id.
    pub resource: &'a str,
    /// The Region.
    pub region: &'a str,
    /// The item.
    pub item: &'a str,
    /// Its state as the remediation left it; `None`: gone.
    pub left: Option<S>,
    /// The state that it had before; `None`: it was not there.
    pub to: Option<S>,
    /// The value of the opt-out tag that is put on it.
    pub opt_out: &'a str,
    /// Every step that was tried on it, the oldest first.
    pub outcomes: &'a [&'a Outcome],
}

impl<'a, S> ByHand<'a, S> {
    /// The same with states in another form.
    #[must_use]
    pub fn with<T>(&self, left: Option<T>, to: Option<T>) -> ByHand<'a, T> {
        ByHand {
            resource: self.resource,
            region: self.region,
            item: self.item,
            left,
            to,
            opt_out: self.opt_out,
            outcomes: self.outcomes,
        }
    }
}

/// A control that is remediated at once.
pub trait Control: Send + Sync + 'static {
    /// What is fixed about it.
    const INFO: ControlInfo;
    /// Its settings in the policy.
    type Settings: Default;
    /// What is read of a resource.
    type Facts: Send + Sync + 'static;
    /// The state of one of its items.
    type State: State;

    /// The step that changes an item in place: the remediation's, the undo's.
    const IN_PLACE: (Step, Step) = (Step::Set, Step::Set);

    /// How long a change may take to show after AWS has accepted it, by AWS's
    /// documentation of the call; zero: at once, as far as reads lag behind writes
    /// at all. Within that time the old state is no failure, and the change is not
    /// made again.
    const SHOWN_WITHIN: Duration = Duration::ZERO;

    /// Another kind of resource whose change concerns resources of the control.
    const EXPANDS: Option<Expands> = None;

    /// The calls that CloudTrail records and that can lead to a finding: on the
    /// control's resources, and on those that concern them.
    fn calls() -> Vec<&'static str> {
        let others = Self::EXPANDS.map_or(&[][..], |other| other.calls);
        let all = Self::INFO.calls.iter().chain(others);
        all.map(|of| of.name).collect()
    }

    /// Reads an event: which resource to look at, or why there is nothing to do.
    ///
    /// # Errors
    /// An event that ought to name a resource and does not.
    fn parse(payload: &Value) -> Result<Parsed, BrokenEvent> {
        trigger::of(&Self::INFO, Self::EXPANDS, payload)
    }

    /// Another control of the function that looks at the same resource next: one
    /// for which its events would otherwise have to be read twice. It shares the lock.
    fn next(_facts: &Self::Facts) -> Option<ControlId> {
        None
    }

    /// The resource that facts are about.
    fn subject(facts: &Self::Facts) -> Subject<'_>;

    /// The items of a resource, by id.
    fn items(facts: &Self::Facts) -> BTreeMap<ItemId, Self::State>;

    /// Which items are wrong, and what they should become. Spared items are judged
    /// and reported, but not changed. `former` is what the control keeps
    /// ([`keeps`](Self::keeps)).
    fn judge(
        facts: &Self::Facts,
        settings: &Self::Settings,
        former: Option<&Self::State>,
        spared: &IsSpared<'_>,
    ) -> Verdict<Self::State>;

    /// The state to keep in the ledger, where an item is restored to what it was
    /// before it was weakened: no event says what that was. `former` is what is
    /// kept now; `None`: that stays.
    fn keeps(_facts: &Self::Facts, _former: Option<&Self::State>) -> Option<Self::State> {
        None
    }

    /// What a read left out and a retry may find, one clause each. What else is wrong
    /// is remediated first; then the run fails, so that it is retried.
    fn unread(_facts: &Self::Facts) -> Vec<String> {
        Vec::new()
    }

    /// What the resource depends on and another account than this one owns: the
    /// owner by id. A change of it raises no event here.
    fn of_others(_facts: &Self::Facts, _account: &str) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// An item's state in one line for people: `tcp 22 from 0.0.0.0/0`.
    fn line(item: &str, state: &Self::State) -> String;

    /// An item's name within a sentence, where its id says nothing to people.
    fn name(item: &str) -> String {
        item.to_owned()
    }

    /// What is wrong with an item, in one line.
    fn exposure_line(exposure: &Exposure<Self::State>) -> String {
        Self::line(&exposure.item, &exposure.state)
    }

    /// What is wrong with the resource, as it follows `is`, `was` or `may be` in a
    /// subject: `open to the world on tcp 22`, with at most so many details.
    fn headline(_exposures: &[Exposure<Self::State>], _most: usize) -> String {
        Self::INFO.phrases.found.to_owned()
    }

    /// Everything there is to say of an item that is wrong, line by line.
    fn details(exposure: &Exposure<Self::State>) -> Vec<String> {
        let line = Self::line(&exposure.item, &exposure.state);
        vec![format!("{}: {line}", exposure.item)]
    }

    /// What else the changes of these items took away, for people.
    fn side_effects(_changed: &[Exposure<Self::State>]) -> Vec<String> {
        Vec::new()
    }

    /// The settings of the policy that allow what these exposures are, for people.
    fn allowed_by_policy(_exposures: &[Exposure<Self::State>]) -> Vec<String> {
        Vec::new()
    }

    /// The AWS CLI commands that roll back the change of an item, to be run in this
    /// order.
    fn commands(back: &ByHand<'_, Self::State>) -> Vec<String>;

    /// What of an item is wrong, in one line for people.
    fn found(exposure: &Exposure<Self::State>) -> String {
        Self::line(&exposure.item, &exposure.state)
    }

    /// The tags of an item, where items have some.
    fn item_tags(_state: &Self::State) -> Option<&Tags> {
        None
    }

    /// The exemption of the whole account in the control's settings, for controls
    /// whose resource has no tags.
    fn exemption(_settings: &Self::Settings) -> Option<&AccountExemption> {
        None
    }

    /// Why AWS would refuse to put back what a remediation changed, as long as the
    /// resource is so, and the way out, as a sentence.
    fn bars_undo(_facts: &Self::Facts) -> Option<String> {
        None
    }

    /// Digest of control, resource and what is wrong, without ids that change
    /// when it is put back. An item that stays once it is remediated needs its
    /// state in it: the baseline spares what has a fingerprint that it noted. It is
    /// stored, so what it returns never changes.
    fn fingerprint(resource: &str, item: &str, _state: &Self::State) -> String {
        digest([Self::INFO.id.name(), resource, item])
    }

    /// Whether two states have the same effect.
    fn alike(a: &Self::State, b: &Self::State) -> bool {
        a == b
    }

    /// Whether nobody has changed a state, as far as an undo would overwrite it.
    fn unchanged(left: &Self::State, now: &Self::State) -> bool {
        left == now
    }

    /// What a step was to make of a rule, for its outcome; none for other items.
    fn permission(_state: &Self::State) -> Option<Permission> {
        None
    }

    /// The part of a rule that a step was to make; none for other items.
    fn part(_whole: &Self::State, _permission: &Permission) -> Option<Self::State> {
        None
    }

    /// That an exposure is still there after the changes, as a clause.
    fn remaining(exposure: &Exposure<Self::State>) -> String {
        format!("{} is still there", Self::found(exposure))
    }
}
