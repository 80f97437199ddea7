//! The ledger's entry of a remediation that is made at once: what was found, what
//! it looked like before, what was done, what came of it, and who has been told.
//!
//! Deliberately not here: the table, its keys and its conditions
//! (`backstop_aws::ledger`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exemption::Exemption;
use crate::guards::Fight;
use crate::plan::{Change, Ending, Exposure, ItemId, Outcome, Plan, State, Step, Verification};
use crate::run::Run;
use crate::words::{Status, digest};

/// Days for which a closed entry is kept.
pub const KEPT_DAYS: i64 = 400;

/// A run that is made at once, in one invocation.
pub type Entry<S = Value> = Run<AtOnce<S>>;

/// What a run that is made at once found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce<S = Value> {
    /// What was found.
    #[serde(default = "Vec::new")]
    pub exposures: Vec<Exposure<S>>,
    /// What is to be done.
    pub plan: Plan<S>,
    /// Every item that was touched, in full, as it was before the first change.
    /// Kept compressed and apart from the rest of the document, and never
    /// overwritten by a retry.
    #[serde(skip, default = "BTreeMap::new")]
    pub before: BTreeMap<ItemId, S>,
    /// What came of each step, in order, retries included.
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
    /// The resource read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// Until when a change that AWS accepted may not show
    /// ([`Control::SHOWN_WITHIN`](crate::control::Control::SHOWN_WITHIN)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shows_by: Option<Timestamp>,
    /// Every item that was touched as it was afterwards; `None`: gone.
    #[serde(default = "BTreeMap::new")]
    pub after: BTreeMap<ItemId, Option<S>>,
    /// What keeps putting the finding back, once it has been remediated often
    /// enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fight: Option<Fight>,
}

impl<S: Clone + PartialEq> Entry<S> {
    /// Resumes this entry in a retry or a further round: what was found and planned
    /// now is added to it, and `before` keeps what it held. An item that is planned
    /// anew replaces its earlier plan.
    pub fn go_on(&mut self, next: &Self) {
        for (id, rule) in &next.detail.before {
            self.detail
                .before
                .entry(id.clone())
                .or_insert_with(|| rule.clone());
        }
        let planned: BTreeSet<&str> = next
            .detail
            .plan
            .changes
            .iter()
            .map(|change| change.item.as_str())
            .collect();
        self.detail
            .plan
            .changes
            .retain(|change| !planned.contains(change.item.as_str()));
        self.detail
            .plan
            .changes
            .extend(next.detail.plan.changes.iter().cloned());
        self.detail.plan.disposition = next.detail.plan.disposition.clone();
        self.detail
            .plan
            .reasons
            .clone_from(&next.detail.plan.reasons);
        self.detail
            .plan
            .because
            .clone_from(&next.detail.plan.because);
        for exposure in &next.detail.exposures {
            if !self
                .detail
                .exposures
                .iter()
                .any(|known| known.item == exposure.item && known.state == exposure.state)
            {
                self.detail.exposures.push(exposure.clone());
            }
        }
        self.head.severity = self.head.severity.max(next.head.severity);
        self.head.exemption = next.head.exemption.clone();
        self.head.status = next.head.status;
        self.head.policy_version = next.head.policy_version;
        self.head.finished_at = None;
    }

    /// Ends a run that made changes: what the items look like now, and whether
    /// it came out as planned. A run that changed nothing keeps its status.
    pub fn conclude(&mut self, items: &BTreeMap<ItemId, S>, now: Timestamp) {
        self.head.finished_at = Some(now);
        self.detail.after = self
            .detail
            .before
            .keys()
            .map(|id| (id.clone(), items.get(id).cloned()))
            .collect();
        // Not read again: `items` are those from before, and what the steps say
        // is all that is known.
        if self
            .detail
            .verification
            .as_ref()
            .is_some_and(|v| v.unread.is_some())
        {
            for outcome in &self.detail.outcomes {
                let Some(after) = self.detail.after.get_mut(&outcome.item) else {
                    continue;
                };
                let changes = self.detail.plan.changes.iter();
                let change = changes.rev().find(|change| change.item == outcome.item);
                match (outcome.step, &outcome.ending) {
                    (Step::Revoke, Ending::Done | Ending::AlreadyDone) => *after = None,
                    (Step::Narrow | Step::Set, Ending::Done) => {
                        *after = change.and_then(|change| change.after.clone());
                    }
                    _ => {}
                }
            }
        }
        // What does not show yet will be as planned.
        for change in self.detail.plan.changes.clone() {
            if self.awaits(&change.item, items.get(&change.item)) {
                self.detail.after.insert(change.item, change.after);
            }
        }
        let verification = self.detail.verification.as_ref();
        let is_waiting = verification.is_some_and(|v| !v.not_visible_yet.is_empty());
        if matches!(self.head.status, Status::InProgress | Status::Failed) {
            self.head.status = if !self.problems().is_empty() {
                Status::Failed
            } else if is_waiting {
                Status::Pending
            } else {
                Status::Remediated
            };
        }
        // What was not read again may show by then.
        if !is_waiting && verification.is_none_or(|v| v.unread.is_none()) {
            self.detail.shows_by = None;
        }
    }

    /// Whether the run has ended for now, with a change that AWS accepted and that
    /// does not show yet. A later look confirms it.
    #[must_use]
    pub fn awaits_visibility(&self) -> bool {
        self.head.status == Status::Pending && self.detail.shows_by.is_some()
    }

    /// The time is up in which a change that AWS accepted may not show: what has not
    /// shown by now has failed.
    pub fn expire(&mut self, now: Timestamp) {
        self.detail.shows_by = self.detail.shows_by.filter(|by| now < *by);
    }

    /// Whether AWS accepted the change of an item that still is as it was before
    /// (`live`), so that it is not to be made again: it shows in time, or has failed.
    #[must_use]
    pub fn awaits(&self, item: &str, live: Option<&S>) -> bool {
        let planned = self.detail.plan.changes.iter();
        let as_before = |change: &Change<S>| change.item == item && change.before.as_ref() == live;
        let outcomes = self.last_outcomes();
        let mut of_item = outcomes.iter().filter(|outcome| outcome.item == item);
        self.detail.shows_by.is_some()
            && planned.clone().any(as_before)
            && of_item
                .clone()
                .any(|outcome| outcome.ending == Ending::Done)
            && !of_item.any(|outcome| outcome.failed())
    }

    /// The same finding without some of its items; `None`: nothing is left of it.
    #[must_use]
    pub fn without(mut self, is: impl Fn(&str) -> bool) -> Option<Self> {
        let detail = &mut self.detail;
        detail.exposures.retain(|exposure| !is(&exposure.item));
        detail.plan.changes.retain(|change| !is(&change.item));
        detail.before.retain(|item, _| !is(item));
        (!detail.exposures.is_empty()).then_some(self)
    }

    /// Everything that keeps the entry from being remediated, in words: steps
    /// that failed, and what the verification saw.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let failed = self
            .last_outcomes()
            .into_iter()
            .filter(|outcome| outcome.failed())
            .map(|outcome| format!("{}: {}", outcome.item, outcome.ending));
        let unverified = self
            .detail
            .verification
            .iter()
            .flat_map(Verification::problems)
            .map(str::to_owned);
        failed.chain(unverified).collect()
    }

    /// Keeps of the plan what the control's budget of the hour counted before
    /// (`counted`), and as many further changes of `critical` items as it has room
    /// for. The others stay undone, and are not in `before`.
    pub fn keep_within(
        &mut self,
        counted: &BTreeSet<ItemId>,
        critical: &BTreeSet<ItemId>,
        mut room: usize,
    ) {
        let plan = &mut self.detail.plan;
        plan.changes.retain(|change| {
            if counted.contains(&change.item) {
                return true;
            }
            let fits = room > 0 && critical.contains(&change.item);
            room -= usize::from(fits);
            fits
        });
        let kept: BTreeSet<&ItemId> = plan.changes.iter().map(|change| &change.item).collect();
        self.detail
            .before
            .retain(|item, _| counted.contains(item) || kept.contains(item));
    }

    /// The run ends with a part undone: `left` is the plan for that part, and why it
    /// is not carried out.
    pub fn leave(&mut self, left: &Plan<S>) {
        let Some(because) = &left.because else { return };
        self.head.status = because.status();
        let plan = &mut self.detail.plan;
        plan.reasons.clone_from(&left.reasons);
        plan.because.clone_from(&left.because);
        let planned: BTreeSet<ItemId> = plan.changes.iter().map(|c| c.item.clone()).collect();
        let left = left.changes.iter();
        let left = left.filter(|change| !planned.contains(&change.item));
        plan.changes.extend(left.cloned());
    }

    /// The entry for a finding that the ledger cannot hold: nothing is
    /// changed, which is told as a failure with the first few exposures.
    #[must_use]
    pub fn too_large(mut self, bytes: usize) -> Self {
        self.detail.plan.reasons.push(format!(
            "the ledger cannot hold what was there before ({bytes} bytes, {} items), so nothing was changed: split the resource, or remediate it by hand",
            self.detail.before.len()
        ));
        self.detail.exposures.truncate(20);
        self.detail.plan.changes.clear();
        self.detail.before.clear();
        self.head.status = Status::Failed;
        self
    }

    /// Whether the run made (or tried) changes.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.detail.plan.changes_something()
    }

    /// Adds what came of a round of steps.
    pub fn add_round(&mut self, outcomes: impl IntoIterator<Item = Outcome>) {
        let round = self
            .detail
            .outcomes
            .iter()
            .map(|outcome| outcome.round)
            .max()
            .unwrap_or(0)
            + 1;
        self.detail.outcomes.extend(
            outcomes
                .into_iter()
                .map(|outcome| Outcome { round, ..outcome }),
        );
    }

    /// The outcomes that count: those of the last round in which an item was
    /// changed, so that a failure that a retry mended no longer counts. Sorted by
    /// item, step and permission.
    #[must_use]
    pub fn last_outcomes(&self) -> Vec<&Outcome> {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for outcome in &self.detail.outcomes {
            let round = last.entry(&outcome.item).or_default();
            *round = outcome.round.max(*round);
        }
        let mut outcomes: Vec<&Outcome> = self
            .detail
            .outcomes
            .iter()
            .filter(|outcome| last.get(outcome.item.as_str()) == Some(&outcome.round))
            .collect();
        outcomes.sort_by_key(|outcome| (&outcome.item, outcome.step, &outcome.permission));
        outcomes
    }

    /// Whether a step failed, of the outcomes that count.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.last_outcomes().iter().any(|outcome| outcome.failed())
    }

    /// What this entry's message is known by; the same key is sent once. It is
    /// the entry's id and the digest of what came of it: a failure is told when
    /// its set of items and AWS codes is new, and again once it is fixed.
    #[must_use]
    pub fn message_key(&self) -> String {
        let mut parts: BTreeSet<String> = BTreeSet::new();
        match &self.detail.fight {
            // A fight is told once: by the entry that first was one.
            Some(fight) if self.head.status == Status::Remediated => {
                parts.insert(format!("fight {} {}", self.head.resource, fight.told_by));
            }
            _ => {
                parts.insert(format!("entry {}", self.head.id));
            }
        }
        parts.insert(format!("status {}", self.head.status.name()));
        if self.head.status == Status::Failed {
            for outcome in self.last_outcomes() {
                if let Ending::Failed { code, .. } = &outcome.ending {
                    parts.insert(format!("failed {} {code}", outcome.item));
                }
            }
            for text in self
                .detail
                .verification
                .iter()
                .flat_map(Verification::problems)
            {
                parts.insert(format!("unverified {text}"));
            }
        }
        digest(parts.iter().map(String::as_str))
    }

    /// What a run that changed nothing found, with verdict, exemption and mode:
    /// while a resource's key stays the same there is nothing new to record or
    /// to tell. Items count by id, so that an exposure that was closed and opened
    /// again by hand is told again.
    #[must_use]
    pub fn state_key(&self) -> String {
        let mut parts: BTreeSet<String> = BTreeSet::new();
        parts.insert(format!(
            "found {} {}",
            self.head.control, self.head.resource
        ));
        parts.insert(format!("status {}", self.head.status.name()));
        parts.insert(format!("exemption {:?}", self.head.exemption));
        for exposure in &self.detail.exposures {
            parts.insert(format!(
                "rule {} {} {:?}",
                exposure.item, exposure.fingerprint, exposure.exemption
            ));
            if exposure.unjudged.is_some() {
                parts.insert(format!("unjudged {}", exposure.item));
            }
            if exposure.hidden {
                parts.insert(format!("hidden {}", exposure.item));
            }
        }
        digest(parts.iter().map(String::as_str))
    }

    /// What a page of the sweep would show of what was found: as
    /// [`state_key`](Self::state_key), but without item ids, which pages may lack.
    #[must_use]
    pub fn page_key(&self) -> String {
        page_key(
            self.head.status,
            &self.head.exemption,
            &self.detail.exposures,
        )
    }

    /// The fingerprints of what was to be closed: not of what is spared, or could
    /// not be judged and was left.
    pub fn closed_fingerprints(&self) -> impl Iterator<Item = &str> {
        let changes = &self.detail.plan.changes;
        self.detail
            .exposures
            .iter()
            .filter(|exposure| !exposure.exemption.holds())
            .filter(|exposure| !exposure.is_left_unjudged(changes))
            .map(|exposure| exposure.fingerprint.as_str())
    }

    /// The fingerprints of what was found.
    #[must_use]
    pub fn fingerprints(&self) -> BTreeSet<&str> {
        self.detail
            .exposures
            .iter()
            .map(|e| e.fingerprint.as_str())
            .collect()
    }
}

impl<S: State> Entry<S> {
    /// The same with states as JSON, as records hold them.
    ///
    /// # Errors
    /// A state cannot be written as JSON.
    pub fn erased(&self) -> Result<Entry, serde_json::Error> {
        self.converted(serde_json::to_value)
    }
}

impl Entry {
    /// The same with states of the control's own type.
    ///
    /// # Errors
    /// A state is not of that type.
    pub fn typed<S: State>(&self) -> Result<Entry<S>, serde_json::Error> {
        self.converted(|state| S::deserialize(state))
    }
}

impl<S> Entry<S> {
    fn converted<'a, T>(
        &'a self,
        form: impl Fn(&'a S) -> Result<T, serde_json::Error>,
    ) -> Result<Entry<T>, serde_json::Error> {
        let form = &form;
        let some = |state: &'a Option<S>| state.as_ref().map(form).transpose();
        let AtOnce {
            exposures,
            plan,
            before,
            outcomes,
            verification,
            shows_by,
            after,
            fight,
        } = &self.detail;
        let exposures = exposures.iter();
        let exposures = exposures.map(|e| Ok(e.with_state(form(&e.state)?)));
        let changes = plan.changes.iter().map(|change| {
            Ok(Change {
                item: change.item.clone(),
                before: some(&change.before)?,
                after: some(&change.after)?,
                add: change.add.iter().map(form).collect::<Result<_, _>>()?,
                lost: change.lost.clone(),
            })
        });
        let before = before
            .iter()
            .map(|(id, state)| Ok((id.clone(), form(state)?)));
        let after = after
            .iter()
            .map(|(id, state)| Ok((id.clone(), some(state)?)));
        Ok(Run {
            head: self.head.clone(),
            detail: AtOnce {
                exposures: exposures.collect::<Result<_, _>>()?,
                plan: Plan {
                    disposition: plan.disposition.clone(),
                    changes: changes.collect::<Result<_, _>>()?,
                    reasons: plan.reasons.clone(),
                    because: plan.because.clone(),
                },
                before: before.collect::<Result<_, _>>()?,
                outcomes: outcomes.clone(),
                verification: verification.clone(),
                shows_by: *shows_by,
                after: after.collect::<Result<_, _>>()?,
                fight: fight.clone(),
            },
        })
    }
}

/// What of a finding a page of the sweep shows too.
#[must_use]
pub fn page_key<S>(status: Status, exemption: &Exemption, exposures: &[Exposure<S>]) -> String {
    let fingerprints: BTreeSet<&str> = exposures.iter().map(|e| e.fingerprint.as_str()).collect();
    let unjudged: BTreeSet<String> = exposures
        .iter()
        .filter(|e| e.unjudged.is_some())
        .map(|e| format!("unjudged {}", e.fingerprint))
        .collect();
    let hidden: BTreeSet<String> = exposures
        .iter()
        .filter(|e| e.hidden)
        .map(|e| format!("hidden {}", e.fingerprint))
        .collect();
    let exemption = format!("{exemption:?}");
    digest(
        [status.name(), exemption.as_str()]
            .into_iter()
            .chain(fingerprints)
            .chain(unjudged.iter().map(String::as_str))
            .chain(hidden.iter().map(String::as_str)),
    )
}
