//! What is decided about a resource, for every control: what a tag or the policy
//! exempts, what the control finds, and whether it is remediated. And, after the
//! changes, whether it came out as planned.
//!
//! Events, the sweep and previews all decide here. Pure: the same
//! facts, rules and time always give the same decision. Deliberately not here:
//! what is wrong with a resource (`controls`), and the order of guards
//! (`guards::held_back`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize as _;

use crate::control::Control;
use crate::entry::{AtOnce, Entry};
use crate::exemption::{self, Exemption, OptOut};
use crate::finding::{Finding, Verdict};
use crate::guards::{self, Case, Guards, Spared};
use crate::managers;
use crate::plan::{Disposition, Ending, ItemId, Outcome, Plan, Step, Verification};
use crate::reason::Reason;
use crate::rules::{Existing, Rules};
use crate::run::{self, Head};
use crate::security_group::Tags;
use crate::trigger::Trigger;
use crate::words::{Mode, Status};

/// What is exempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemptions {
    /// The resource, by its own tag, the tag of what it belongs to, or the
    /// policy.
    pub resource: Exemption,
    /// Single items, by id; only those that something is said of.
    pub items: BTreeMap<ItemId, Exemption>,
}

impl Exemptions {
    /// Whether an item is not to be changed, for its own sake.
    #[must_use]
    pub fn holds(&self, item: &str) -> bool {
        self.items.get(item).is_some_and(Exemption::holds)
    }
}

/// The circumstances of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The mode that holds where the policy names none.
    pub mode: Mode,
    /// The account that Backstop runs in.
    pub account: &'a str,
    /// The time; opt-outs are held to its day (UTC).
    pub now: Timestamp,
    /// What keeps the control from acting.
    pub guards: &'a Guards,
}

/// Everything that is decided about a resource in one look.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<S> {
    /// What the control says.
    pub verdict: Verdict<S>,
    /// What is exempt.
    pub exemptions: Exemptions,
    /// What is to be done; `None` where there is nothing to do.
    pub plan: Option<Plan<S>>,
}

impl<S> Decision<S> {
    /// What was found; `None`: nothing.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding<S>> {
        match &self.verdict {
            Verdict::Violates(finding) => Some(finding),
            Verdict::NotApplicable(_) | Verdict::Compliant => None,
        }
    }
}

/// The mode that a control acts in: the policy's, else the stack's. Controls
/// whose fix can take a workload down never take `enforce` from the stack.
#[must_use]
pub fn mode<C: Control>(rules: &Rules<'_, C::Settings>, of_stack: Mode) -> Mode {
    match (rules.control.mode, of_stack) {
        (Some(mode), _) => mode,
        (None, Mode::Enforce) if C::INFO.enforce_by_name_only => Mode::Notify,
        (None, mode) => mode,
    }
}

/// Decides about a resource: exempt, judge, plan. `None`: it is gone.
#[must_use]
pub fn decide<C: Control>(
    facts: Option<&C::Facts>,
    rules: &Rules<'_, C::Settings>,
    at: &Circumstances<'_>,
) -> Decision<C::State> {
    let Some(facts) = facts else {
        return Decision {
            verdict: Verdict::NotApplicable(format!("the {} is gone", C::INFO.phrases.resource)),
            exemptions: Exemptions::default(),
            plan: None,
        };
    };
    let exemptions = exempt::<C>(facts, rules, at);
    let former = at.guards.former.as_ref();
    let former = former.and_then(|former| C::State::deserialize(former).ok());
    let mut verdict = C::judge(facts, &rules.control.settings, former.as_ref(), &|item| {
        exemptions.holds(item)
    });
    let plan = match &mut verdict {
        Verdict::Violates(finding) => {
            let resource = C::subject(facts).id;
            for exposure in &mut finding.exposures {
                exposure.fingerprint = C::fingerprint(resource, &exposure.item, &exposure.state);
                exposure.exemption = exemptions
                    .items
                    .get(&exposure.item)
                    .cloned()
                    .unwrap_or_default();
            }
            Some(plan::<C>(facts, finding, &exemptions, rules, at))
        }
        Verdict::NotApplicable(_) | Verdict::Compliant => None,
    };
    Decision {
        verdict,
        exemptions,
        plan,
    }
}

/// Reads what is exempt: the resource, what it belongs to, its items; and what
/// the baseline spares.
#[must_use]
pub fn exempt<C: Control>(
    facts: &C::Facts,
    rules: &Rules<'_, C::Settings>,
    at: &Circumstances<'_>,
) -> Exemptions {
    let today = jiff::tz::Offset::UTC.to_datetime(at.now).date();
    let read = |tags: &Tags| exemption::read(tags, C::INFO.id, today, rules.opt_out);
    let subject = C::subject(facts);
    let of_policy = in_policy::<C>(&rules.control.settings, today);
    let of_resource = [read(subject.tags), of_policy]
        .into_iter()
        .chain(subject.inherited.map(read));
    let baseline = &at.guards.baseline;
    let spares = rules.control.existing == Existing::Notify && !baseline.is_empty();
    let mut items = BTreeMap::new();
    for (item, state) in C::items(facts) {
        let own = C::item_tags(&state).map_or(Exemption::None, read);
        let existing = || baseline.contains(&C::fingerprint(subject.id, &item, &state));
        if spares && !own.holds() && existing() {
            items.insert(item, Exemption::Existing);
        } else if own != Exemption::None {
            items.insert(item, own);
        }
    }
    Exemptions {
        resource: exemption::strongest(of_resource),
        items,
    }
}

/// The exemption of the whole account that the policy states.
fn in_policy<C: Control>(settings: &C::Settings, today: Date) -> Exemption {
    let Some(stated) = C::exemption(settings) else {
        return Exemption::None;
    };
    let opt_out = OptOut {
        until: Some(stated.until),
        owner: Some(stated.owner.clone()),
        reason: stated.reason.clone(),
    };
    if stated.until < today {
        Exemption::Ended(opt_out)
    } else {
        Exemption::Exempt(opt_out)
    }
}

/// What of a finding is spared, if all of it is.
fn spared<S>(exemptions: &Exemptions, finding: &Finding<S>) -> Option<Spared> {
    let exposures = || finding.exposures.iter();
    let any = |is: fn(&Exemption) -> bool| exposures().any(|e| is(&e.exemption));
    let all = exposures().all(|e| e.exemption.holds() || e.is_left_unjudged(&finding.changes));
    let unreadable = |exemption: &Exemption| matches!(exemption, Exemption::Malformed { .. });
    match &exemptions.resource {
        Exemption::Malformed { .. } => Some(Spared::Unreadable),
        resource if resource.holds() => Some(Spared::OptedOut),
        _ if !all => None,
        _ if any(unreadable) => Some(Spared::Unreadable),
        _ if any(|exemption| !exemption.holds()) => Some(Spared::Unjudged),
        _ if any(|exemption| *exemption == Exemption::Existing) => Some(Spared::Existing),
        _ => Some(Spared::OptedOut),
    }
}

/// Plans what removes the exposure and nothing else, and whether it is done.
fn plan<C: Control>(
    facts: &C::Facts,
    finding: &Finding<C::State>,
    exemptions: &Exemptions,
    rules: &Rules<'_, C::Settings>,
    at: &Circumstances<'_>,
) -> Plan<C::State> {
    let open = || {
        let open = finding.exposures.iter().filter(|e| !e.exemption.holds());
        open.filter(|e| !e.is_left_unjudged(&finding.changes))
    };
    let before = open()
        .map(|exposure| at.guards.fights.times(&exposure.fingerprint, at.now))
        .max();
    let in_policy = C::exemption(&rules.control.settings).is_some();
    let spared = spared(exemptions, finding).map(|spared| match spared {
        Spared::OptedOut if in_policy => Spared::ByPolicy,
        spared => spared,
    });
    let owner = C::subject(facts).owner;
    let because = guards::held_back(&Case {
        other_owner: (owner != at.account).then_some(owner),
        spared,
        left: finding.left.as_ref(),
        mode: mode::<C>(rules, at.mode),
        kill_switch: rules.kill_switch,
        guards: at.guards,
        fights: Some((before.unwrap_or(0), rules.fights.trip_after)),
    });
    let mut reasons = finding.notes.clone();
    reasons.extend(because.as_ref().map(Reason::to_string));
    let mut changes = finding.changes.clone();
    // A stable sort: what only takes away comes first, each kind by item.
    changes.sort_by_key(|change| change.after.is_some());
    Plan {
        disposition: because
            .as_ref()
            .map_or(Disposition::Enforce, Disposition::of),
        changes,
        reasons,
        because,
    }
}

/// What an entry holds beside the decision.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// A new ULID.
    pub id: &'a str,
    /// What led to the look.
    pub trigger: &'a Trigger,
    /// Key of the tag whose value is the owning team.
    pub owner_tag: &'a str,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// When the run began.
    pub now: Timestamp,
}

/// The ledger's entry for a resource that violates the control; `None` where
/// there is nothing to record.
#[must_use]
pub fn entry<C: Control>(
    facts: Option<&C::Facts>,
    decision: &Decision<C::State>,
    about: About<'_>,
) -> Option<Entry<C::State>> {
    let (Some(facts), Some(finding), Some(plan)) = (facts, decision.finding(), &decision.plan)
    else {
        return None;
    };
    let subject = C::subject(facts);
    let status = plan
        .because
        .as_ref()
        .map_or(Status::InProgress, Reason::status);
    Some(Entry {
        head: Head {
            version: run::VERSION,
            id: about.id.to_owned(),
            control: C::INFO.id,
            severity: finding.severity,
            resource: subject.arn.to_owned(),
            resource_name: subject.name.to_owned(),
            account: about.trigger.account.clone(),
            region: about.trigger.region.clone(),
            team: subject.tags.get(about.owner_tag).cloned(),
            status,
            exemption: decision.exemptions.resource.clone(),
            actor: about.trigger.actor.clone(),
            policy_version: about.policy_version,
            attempts: 1,
            started_at: about.now,
            finished_at: None,
            managed_by: managers::managed_by(&[subject.tags], &about.trigger.actor)
                .map(|manager| manager.to_string()),
        },
        detail: AtOnce {
            exposures: finding.exposures.clone(),
            before: match plan.changes_something() {
                true => plan.before(),
                false => BTreeMap::new(),
            },
            plan: plan.clone(),
            outcomes: Vec::new(),
            verification: None,
            shows_by: None,
            after: BTreeMap::new(),
            fight: None,
        },
    })
}

/// Compares a resource as it is now with what an entry planned.
///
/// `found` are the items that it had when the entry was planned. A change that AWS
/// accepted may not show yet, unless the time for that is up
/// ([`Entry::expire`]).
#[must_use]
pub fn verify<C: Control>(
    entry: &Entry<C::State>,
    found: &BTreeMap<ItemId, C::State>,
    now: &BTreeMap<ItemId, C::State>,
    decision: &Decision<C::State>,
) -> Verification {
    let mut verification = Verification::default();
    let not_visible_yet = |id: &str| entry.awaits(id, now.get(id));
    let exposures = decision.finding().map_or(&[][..], |f| &f.exposures);
    let changes = decision.plan.as_ref().map_or(&[][..], |plan| &plan.changes);
    for exposure in exposures
        .iter()
        .filter(|e| !decision.exemptions.holds(&e.item) && !e.is_left_unjudged(changes))
        .filter(|e| !not_visible_yet(&e.item))
    {
        verification.remaining.push(C::remaining(exposure));
    }
    let failed: BTreeSet<&str> = entry
        .last_outcomes()
        .into_iter()
        .filter(|outcome| outcome.failed())
        .map(|outcome| outcome.item.as_str())
        .collect();
    for change in &entry.detail.plan.changes {
        let id = change.item.as_str();
        if not_visible_yet(id) {
            let still = now.get(id);
            let still = still.map_or_else(|| "nothing".to_owned(), |live| C::line(id, live));
            let line = format!("{} still shows `{still}`", C::name(id));
            verification.not_visible_yet.push(line);
            continue;
        }
        match (now.get(id), &change.after) {
            (None, Some(_)) if !was_removed(entry, id) => {
                verification
                    .by_others
                    .push(format!("{id} was revoked by somebody else"));
            }
            (None, _) => {}
            (Some(_), _) if failed.contains(id) => {}
            (Some(live), Some(to)) if C::alike(live, to) => {}
            (Some(live), _) if Some(live) == change.before.as_ref() => {
                verification
                    .not_as_planned
                    .push(format!("{id} is as it was before"));
            }
            (Some(live), _) => verification
                .by_others
                .push(format!("{id} was changed to {}", C::line(id, live))),
        }
    }
    let ours: BTreeSet<&str> = entry
        .detail
        .outcomes
        .iter()
        .filter_map(|outcome| outcome.created.as_deref())
        .collect();
    for (id, state) in now {
        if !found.contains_key(id) && !ours.contains(id.as_str()) {
            verification
                .by_others
                .push(format!("{id} ({}) was added", C::line(id, state)));
        }
    }
    for id in found
        .keys()
        .filter(|id| !now.contains_key(*id) && !entry.detail.before.contains_key(*id))
    {
        verification.by_others.push(format!("{id} was removed"));
    }
    verification
}

/// Whether an entry's steps (or somebody before them) removed the item.
fn was_removed<S: Clone + PartialEq>(entry: &Entry<S>, item: &str) -> bool {
    entry
        .detail
        .outcomes
        .iter()
        .any(|outcome| outcome.item == item && outcome.step == Step::Revoke)
}

/// Brings an entry up to date with the resource as it is now: a planned change
/// that is no longer needed, because the item is gone or changed and exposes nothing
/// any more, counts as already done, and so does a step on it that had failed. One
/// that was to take back what we had added counts as done only once that is gone.
/// Where nothing exceeds the policy any more, what was not done is dropped.
pub fn settle<C: Control>(
    entry: &mut Entry<C::State>,
    now: &BTreeMap<ItemId, C::State>,
    decision: &Decision<C::State>,
) {
    let exposures = decision.finding().map_or(&[][..], |f| &f.exposures);
    let exposed = |item: &str| {
        let mut of_item = exposures.iter().filter(|e| e.item == item);
        of_item.any(|exposure| !exposure.exemption.holds())
    };
    let harmless = decision.finding().is_none();
    let last = entry.last_outcomes();
    let mut settled = Vec::new();
    for change in &entry.detail.plan.changes {
        let live = now.get(&change.item);
        let as_before = live == change.before.as_ref();
        let ending = match (as_before, harmless) {
            (true, false) => continue,
            (true, true) => Ending::Skipped {
                why: "nothing exceeds the policy any more".to_owned(),
            },
            (false, _) if exposed(&change.item) => continue,
            (false, _) => Ending::AlreadyDone,
        };
        let of_item: Vec<&Outcome> = last
            .iter()
            .copied()
            .filter(|outcome| outcome.item == change.item)
            .collect();
        if of_item.is_empty() {
            let narrowed = change.after.as_ref().filter(|_| live.is_some());
            settled.push(Outcome {
                item: change.item.clone(),
                step: match narrowed {
                    Some(_) => C::IN_PLACE.0,
                    None => Step::Revoke,
                },
                permission: narrowed.and_then(C::permission),
                created: None,
                without: None,
                ending,
                round: 0,
            });
        } else {
            settled.extend(
                of_item
                    .into_iter()
                    .filter(|outcome| outcome.failed())
                    .map(|outcome| Outcome {
                        ending: match is_left_over(outcome, now) {
                            true => outcome.ending.clone(),
                            false => ending.clone(),
                        },
                        ..outcome.clone()
                    }),
            );
        }
    }
    entry.add_round(settled);
    if harmless {
        entry
            .detail
            .plan
            .changes
            .retain(|change| now.get(&change.item) != change.before.as_ref());
    }
}

/// Whether a step was to take back an item that we had added, and did not.
fn is_left_over<S>(outcome: &Outcome, now: &BTreeMap<ItemId, S>) -> bool {
    let created = outcome.created.as_ref();
    outcome.step == Step::TakeBack && created.is_some_and(|id| now.contains_key(id))
}

/// Whether a plan made after our changes holds something that is not the
/// entry's: an item that others added or changed meanwhile, to be remediated in
/// the same run. (An item that is as it was before is a stale read or a
/// failed step of ours.)
#[must_use]
pub fn has_news<S: Clone + PartialEq>(entry: &Entry<S>, plan: Option<&Plan<S>>) -> bool {
    plan.is_some_and(|plan| {
        plan.changes_something()
            && plan
                .changes
                .iter()
                .any(|change| entry.detail.before.get(&change.item) != change.before.as_ref())
    })
}
