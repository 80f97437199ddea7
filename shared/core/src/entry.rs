//! The ledger's entry: what was found, what it looked like before, what was
//! done, what came of it, and who has been told.
//!
//! Deliberately not here: the table, its keys and its conditions
//! (`backstop_aws::ledger`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exemption::Exemption;
use crate::guards::Fight;
use crate::plan::{Disposition, Ending, Exposure, Outcome, Plan, Step, Verification};
use crate::security_group::IngressRule;
use crate::words::{Actor, Control, Severity, Status, digest, id_of, team_or_unowned};

/// The entry format's version.
pub const VERSION: u32 = 1;

/// Days for which a closed entry is kept.
pub const KEPT_DAYS: i64 = 400;

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The entry format's version.
    pub version: u32,
    /// The entry's id, a ULID.
    pub id: String,
    /// The control that found something.
    pub control: Control,
    /// How bad it is.
    pub severity: Severity,
    /// ARN of the resource.
    pub resource: String,
    /// The resource's id and name, for people.
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
    /// What was found.
    pub exposures: Vec<Exposure>,
    /// What the opt-out tags of the resource and its VPC say.
    #[serde(default)]
    pub exemption: Exemption,
    /// What is to be done.
    pub plan: Plan,
    /// Every rule that was touched, in full, as it was before the first
    /// change. Kept compressed and apart from the rest of the document, and
    /// never overwritten by a retry.
    #[serde(skip)]
    pub before: BTreeMap<String, IngressRule>,
    /// What came of each step, in order, retries included.
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
    /// The resource read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// Every rule that was touched as it was afterwards; `None`: gone.
    #[serde(default)]
    pub after: BTreeMap<String, Option<IngressRule>>,
    /// Who touched the resource.
    pub actor: Actor,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// How often the change was begun: 1 without a retry.
    pub attempts: u32,
    /// When the change was first begun.
    pub started_at: Timestamp,
    /// When the last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// What keeps putting the finding back, once it has been put right often
    /// enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fight: Option<Fight>,
    /// What manages the resource, where tags, caller or agent show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

impl Entry {
    /// The status that a disposition without changes leads to.
    #[must_use]
    pub fn unchanged_status(disposition: &Disposition) -> Status {
        match disposition {
            Disposition::Enforce => Status::InProgress,
            Disposition::NotifyOnly => Status::Notified,
            Disposition::Exempt => Status::Exempt,
            Disposition::Held => Status::Held,
            Disposition::NotOwned => Status::NotOwned,
            Disposition::Existing => Status::Existing,
            Disposition::Tripped => Status::Tripped,
            Disposition::Stopped => Status::Stopped,
        }
    }

    /// The resource's id: what follows the last `/` of its ARN.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        id_of(&self.resource)
    }

    /// Goes on with this entry after a retry, or in a further round: what was
    /// found and planned now joins it, and `before` keeps what it held. A rule
    /// that is planned anew replaces its earlier plan.
    pub fn go_on(&mut self, next: &Self) {
        for (id, rule) in &next.before {
            self.before
                .entry(id.clone())
                .or_insert_with(|| rule.clone());
        }
        let planned: BTreeSet<&str> = next
            .plan
            .changes
            .iter()
            .map(|change| change.rule.id.as_str())
            .collect();
        self.plan
            .changes
            .retain(|change| !planned.contains(change.rule.id.as_str()));
        self.plan.changes.extend(next.plan.changes.iter().cloned());
        self.plan.disposition = next.plan.disposition.clone();
        self.plan.reasons.clone_from(&next.plan.reasons);
        for exposure in &next.exposures {
            if !self
                .exposures
                .iter()
                .any(|known| known.rule == exposure.rule)
            {
                self.exposures.push(exposure.clone());
            }
        }
        self.severity = self.severity.max(next.severity);
        self.exemption = next.exemption.clone();
        self.status = next.status;
        self.policy_version = next.policy_version;
        self.finished_at = None;
    }

    /// Ends a run that made changes: what the rules look like now, and whether
    /// it came out as planned. A run that changed nothing keeps its status.
    pub fn conclude(&mut self, rules: &BTreeMap<String, IngressRule>, now: Timestamp) {
        self.finished_at = Some(now);
        self.after = self
            .before
            .keys()
            .map(|id| (id.clone(), rules.get(id).cloned()))
            .collect();
        // Not read again: `rules` are those from before, and what the steps say
        // is all that is known.
        if self
            .verification
            .as_ref()
            .is_some_and(|v| v.unread.is_some())
        {
            for outcome in &self.outcomes {
                let Some(after) = self.after.get_mut(&outcome.rule) else {
                    continue;
                };
                match (outcome.step, &outcome.ending, &outcome.permission) {
                    (Step::Revoke, Ending::Done | Ending::AlreadyDone, _) => *after = None,
                    (Step::Narrow, Ending::Done, Some(to)) => {
                        if let Some(rule) = after {
                            rule.permission = to.clone();
                        }
                    }
                    _ => {}
                }
            }
        }
        if matches!(self.status, Status::InProgress | Status::Failed) {
            self.status = if self.problems().is_empty() {
                Status::Remediated
            } else {
                Status::Failed
            };
        }
    }

    /// Everything that keeps the entry from being remediated, in words: steps
    /// that failed, and what the verification saw.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let failed = self
            .last_outcomes()
            .into_iter()
            .filter(|outcome| outcome.failed())
            .map(|outcome| format!("{}: {}", outcome.rule, outcome.ending));
        let unverified = self
            .verification
            .iter()
            .flat_map(Verification::problems)
            .map(str::to_owned);
        failed.chain(unverified).collect()
    }

    /// The entry for a finding that the ledger cannot hold: nothing is
    /// changed, which is told as a failure with the first few exposures.
    #[must_use]
    pub fn too_large(mut self, bytes: usize) -> Self {
        self.plan.reasons.push(format!(
            "the ledger cannot hold what was there before ({bytes} bytes, {} rules), so nothing was changed: split the group, or mend it by hand",
            self.before.len()
        ));
        self.exposures.truncate(20);
        self.plan.changes.clear();
        self.before.clear();
        self.status = Status::Failed;
        self
    }

    /// Whether the run made (or tried) changes.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.plan.changes_something()
    }

    /// The team for messages: never empty.
    #[must_use]
    pub fn team_or_unowned(&self) -> &str {
        team_or_unowned(self.team.as_deref())
    }

    /// Adds what came of a round of steps.
    pub fn add_round(&mut self, outcomes: impl IntoIterator<Item = Outcome>) {
        let round = self
            .outcomes
            .iter()
            .map(|outcome| outcome.round)
            .max()
            .unwrap_or(0)
            + 1;
        self.outcomes.extend(
            outcomes
                .into_iter()
                .map(|outcome| Outcome { round, ..outcome }),
        );
    }

    /// The outcomes that count: those of the last round in which a rule was
    /// treated, so that a failure that a retry mended is no failure any more.
    /// By rule, step and permission.
    #[must_use]
    pub fn last_outcomes(&self) -> Vec<&Outcome> {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for outcome in &self.outcomes {
            let round = last.entry(&outcome.rule).or_default();
            *round = outcome.round.max(*round);
        }
        let mut outcomes: Vec<&Outcome> = self
            .outcomes
            .iter()
            .filter(|outcome| last.get(outcome.rule.as_str()) == Some(&outcome.round))
            .collect();
        outcomes.sort_by_key(|outcome| (&outcome.rule, outcome.step, &outcome.permission));
        outcomes
    }

    /// What this entry's message is known by; the same key is sent once. It is
    /// the entry's id and the digest of what came of it: a failure is told when
    /// its set of rule and AWS code is new, and again once it is fixed.
    #[must_use]
    pub fn message_key(&self) -> String {
        let mut parts: BTreeSet<String> = BTreeSet::new();
        match &self.fight {
            // A fight is told once: by the entry that first was one.
            Some(fight) if self.status == Status::Remediated => {
                parts.insert(format!("fight {} {}", self.resource, fight.told_by));
            }
            _ => {
                parts.insert(format!("entry {}", self.id));
            }
        }
        parts.insert(format!("status {}", self.status.name()));
        if self.status == Status::Failed {
            for outcome in self.last_outcomes() {
                if let Ending::Failed { code, .. } = &outcome.ending {
                    parts.insert(format!("failed {} {code}", outcome.rule));
                }
            }
            for text in self.verification.iter().flat_map(Verification::problems) {
                parts.insert(format!("unverified {text}"));
            }
        }
        digest(parts.iter().map(String::as_str))
    }

    /// What a run that changed nothing found, with verdict, exemption and mode:
    /// while a resource's key stays the same there is nothing new to record or
    /// to tell. Rules count by id, so that a hole that was closed and opened
    /// again by hand is told again.
    #[must_use]
    pub fn state_key(&self) -> String {
        let mut parts: BTreeSet<String> = BTreeSet::new();
        parts.insert(format!("found {} {}", self.control, self.resource));
        parts.insert(format!("status {}", self.status.name()));
        parts.insert(format!("exemption {:?}", self.exemption));
        for exposure in &self.exposures {
            parts.insert(format!(
                "rule {} {} {:?}",
                exposure.rule.id, exposure.fingerprint, exposure.exemption
            ));
        }
        digest(parts.iter().map(String::as_str))
    }

    /// What a page of the sweep would show of what was found: as
    /// [`state_key`](Self::state_key), but without rule ids, which pages lack.
    #[must_use]
    pub fn page_key(&self) -> String {
        page_key(self.status, &self.exemption, &self.exposures)
    }

    /// The fingerprints of what was to be closed: not of what is spared.
    pub fn closed_fingerprints(&self) -> impl Iterator<Item = &str> {
        self.exposures
            .iter()
            .filter(|exposure| !exposure.exemption.holds())
            .map(|exposure| exposure.fingerprint.as_str())
    }

    /// The fingerprints of what was found.
    #[must_use]
    pub fn fingerprints(&self) -> BTreeSet<&str> {
        self.exposures
            .iter()
            .map(|e| e.fingerprint.as_str())
            .collect()
    }
}

/// What of a finding a page of groups shows too.
#[must_use]
pub fn page_key(status: Status, exemption: &Exemption, exposures: &[Exposure]) -> String {
    let fingerprints: BTreeSet<&str> = exposures.iter().map(|e| e.fingerprint.as_str()).collect();
    let exemption = format!("{exemption:?}");
    digest(
        [status.name(), exemption.as_str()]
            .into_iter()
            .chain(fingerprints),
    )
}
