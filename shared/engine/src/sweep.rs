//! The sweep's walk over the resources of a control that is remediated at once:
//! which of them need a check, what belongs to the baseline, and what is open and
//! why.
//!
//! Deliberately not here: the look itself (`pipeline`), and everything else that
//! a sweep does (`functions/sweep`).

use std::collections::BTreeSet;

use backstop_aws::bus;
use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::ledger::{Ledger, LedgerError, Lock, Standing};
use backstop_aws::remediation::{Place, Remediation};
use backstop_core::decide::{self, Circumstances, Decision};
use backstop_core::guards::Guards;
use backstop_core::notice::{Digest, OfOther, Open};
use backstop_core::policy::Policy;
use backstop_core::record::Record;
use backstop_core::sweep;
use backstop_core::trigger::CheckRequested;
use backstop_core::words::{Actor, ControlId, Mode};
use jiff::Timestamp;

use crate::pipeline;

/// What a walk works with, and where.
pub struct Walk<'a> {
    /// The clients.
    pub clients: &'a Clients,
    /// The ledger.
    pub ledger: &'a Ledger,
    /// The policy.
    pub policy: &'a Policy,
    /// The mode of controls that the policy does not name.
    pub mode: Mode,
    /// The Region.
    pub region: &'a str,
    /// The account.
    pub account: &'a str,
    /// When the sweep began.
    pub now: Timestamp,
    /// By when it must have ended.
    pub deadline: &'a Deadline,
}

/// The state of a control's baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The control does not act: none is kept.
    None,
    /// This walk makes it.
    Begins,
    /// An earlier walk made it; it spares something on these resources.
    Stands(BTreeSet<String>),
}

impl Baseline {
    /// The baseline of a control that acts in this mode.
    ///
    /// # Errors
    /// The ledger could not be read or written.
    pub async fn of(ledger: &Ledger, control: ControlId, mode: Mode) -> Result<Self, LedgerError> {
        let stands = ledger.has_baseline(control).await?;
        Ok(match (mode, stands) {
            (Mode::Enforce, true) => Self::Stands(ledger.baseline_resources(control).await?),
            (Mode::Enforce, false) => Self::Begins,
            (_, false) => Self::None,
            (_, true) => {
                ledger.forget_baseline(control).await?;
                Self::None
            }
        })
    }

    /// The baseline for the walk of a control. `None`: the control is off, or the
    /// baseline could not be read, which the digest reports.
    pub async fn for_walk(
        ledger: &Ledger,
        control: ControlId,
        mode: Mode,
        digest: &mut Digest,
    ) -> Option<Self> {
        match Self::of(ledger, control, mode).await {
            Ok(baseline) => (mode != Mode::Off).then_some(baseline),
            Err(problem) => {
                let problem = format!("the baseline of {control}: {problem}");
                digest.unseen.push(problem);
                None
            }
        }
    }

    /// Whether it spares something on a resource.
    #[must_use]
    pub fn spares(&self, resource: &str) -> bool {
        matches!(self, Self::Stands(resources) if resources.contains(resource))
    }
}

/// The sweep's request for a check: who touched the resource last is not known.
#[must_use]
pub fn check(control: ControlId, resource: &str) -> CheckRequested {
    let cause = Actor {
        principal: Some("found by Backstop's sweep; who opened it is not known".to_owned()),
        event_name: Some("Sweep".to_owned()),
        ..Actor::default()
    };
    CheckRequested::new(control, resource, Some(cause))
}

/// Requests checks. A failure is reported in the digest and does not restart the
/// baseline.
pub async fn ask(clients: &Clients, checks: &[CheckRequested], digest: &mut Digest) {
    let asked = bus::request_checks(&clients.eventbridge, checks).await;
    let problem = |error| format!("checks that could not be asked for: {error}");
    digest.unseen.extend(asked.err().map(problem));
}

/// Why a page of a walk could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unseen(#[from] LedgerError);

impl Walk<'_> {
    /// Looks at every resource of a control, a page at a time.
    pub(crate) async fn walk<R: Remediation>(&self, digest: &mut Digest) {
        let control = R::INFO.id;
        let mode = decide::mode::<R>(&R::rules(self.policy), self.mode);
        let baseline = Baseline::for_walk(self.ledger, control, mode, digest).await;
        let Some(baseline) = baseline else {
            return;
        };
        let mut problems: Vec<String> = Vec::new();
        let place = Place {
            account: self.account,
            region: self.region,
            deadline: self.deadline,
        };
        let mut shown: BTreeSet<String> = BTreeSet::new();
        let walked = R::walk(self.clients, place, async |page| {
            shown.extend(page.iter().map(|facts| R::subject(facts).id.to_owned()));
            self.note_of_others::<R>(&page, digest);
            *digest.looked_at.entry(control).or_default() += page.len() as u64;
            let looked = self.look_at::<R>(page, &baseline, digest).await;
            problems.extend(looked.err().map(|failure| failure.to_string()));
        })
        .await;
        let complete = walked.is_ok() && problems.is_empty();
        // What was not read belongs to the baseline perhaps.
        let all_read = matches!(&walked, Ok(walked) if walked.unseen.is_empty());
        match walked {
            Ok(walked) => problems.extend(walked.unseen),
            Err(stopped) => problems.push(stopped.to_string()),
        }
        if complete && let Baseline::Stands(spared) = &baseline {
            // Pages may show only what is exposed: what they do not show is closed, and
            // new should it come back.
            for gone in spared.difference(&shown) {
                let pruned = self.ledger.set_baseline(control, gone, Vec::new()).await;
                problems.extend(pruned.err().map(|problem| problem.to_string()));
            }
        }
        problems.dedup();
        if complete && all_read && baseline == Baseline::Begins {
            let complete = self.ledger.baseline_is_complete(control).await;
            problems.extend(complete.err().map(|problem| problem.to_string()));
        }
        digest.unseen.extend(problems);
    }

    /// Notes what of other accounts the resources of a page depend on.
    fn note_of_others<R: Remediation>(&self, page: &[R::Facts], digest: &mut Digest) {
        for facts in page {
            for (id, owner) in R::of_others(facts, self.account) {
                let of = digest.of_others.entry(id).or_insert_with(|| OfOther {
                    owner,
                    needed_by: Open::default(),
                });
                sweep::count(&mut of.needed_by, R::subject(facts).id);
            }
        }
    }

    fn decide<R: Remediation>(&self, facts: &R::Facts, guards: &Guards) -> Decision<R::State> {
        let circumstances = Circumstances {
            mode: self.mode,
            account: self.account,
            now: self.now,
            guards,
        };
        decide::decide::<R>(Some(facts), &R::rules(self.policy), &circumstances)
    }

    /// Looks at a page: requests a check of each resource that needs one.
    async fn look_at<R: Remediation>(
        &self,
        page: Vec<R::Facts>,
        baseline: &Baseline,
        digest: &mut Digest,
    ) -> Result<(), Unseen> {
        let control = R::INFO.id;
        let unguarded = Guards::default();
        let open: Vec<R::Facts> = page
            .into_iter()
            .filter(|facts| {
                // Whether a setting is worse than it was, the ledger says.
                R::INFO.prefix.is_none()
                    || baseline.spares(R::subject(facts).id)
                    || self.decide::<R>(facts, &unguarded).finding().is_some()
            })
            .collect();
        let ids: Vec<String> = open
            .iter()
            .map(|facts| R::subject(facts).id.to_owned())
            .collect();
        let standings = self.ledger.standings(control, &ids).await?;
        let mut checks = Vec::new();
        for ((facts, id), standing) in open.iter().zip(&ids).zip(standings) {
            let Standing {
                lock,
                known,
                mut guards,
            } = standing;
            // What was remediated since is no longer spared: should it come back,
            // it is new.
            if baseline.spares(id) {
                self.prune::<R>(facts, &mut guards).await?;
            }
            pipeline::keep_former::<R>(self.ledger, facts, &guards, self.now).await?;
            let mut decision = self.decide::<R>(facts, &guards);
            // What a run is about to close is not part of the baseline.
            if *baseline == Baseline::Begins && !self.is_at_work(lock.as_ref()).await? {
                // Before the check is requested, or it would be remediated.
                self.note::<R>(id, &decision, &mut guards).await?;
                decision = self.decide::<R>(facts, &guards);
            }
            let Some(reason) = sweep::reason(&decision) else {
                // A setting that is good again: what was recorded of it is to go. (Of
                // other resources pages show what is wrong alone.)
                if R::INFO.prefix.is_none() && known.is_some() {
                    checks.push(check(control, id));
                }
                continue;
            };
            let by_reason = digest.open.entry(control).or_default();
            sweep::count(by_reason.entry(reason.to_owned()).or_default(), id);
            if lock.is_none() && known.is_none() {
                sweep::count(&mut digest.met_first, id);
            }
            let told = known.filter(|known| known.told);
            if sweep::asks(&decision, told.and_then(|known| known.page_key).as_deref()) {
                checks.push(check(control, id));
            }
        }
        ask(self.clients, &checks, digest).await;
        Ok(())
    }

    /// Whether a run is about to close what is found, or has and AWS does not show it
    /// yet.
    async fn is_at_work(&self, lock: Option<&Lock>) -> Result<bool, LedgerError> {
        let Some(lock) = lock else { return Ok(false) };
        if lock.is_live(self.now) {
            return Ok(true);
        }
        let stored = self.ledger.read(&lock.entry).await?;
        Ok(matches!(
            stored.map(|stored| stored.record),
            Some(Record::Remediation(entry)) if entry.awaits_visibility()
        ))
    }

    /// Removes from the baseline what is no longer there.
    async fn prune<R: Remediation>(
        &self,
        facts: &R::Facts,
        guards: &mut Guards,
    ) -> Result<(), LedgerError> {
        let resource = R::subject(facts).id;
        let there: BTreeSet<String> = R::items(facts)
            .iter()
            .map(|(item, state)| R::fingerprint(resource, item, state))
            .collect();
        let before = guards.baseline.len();
        guards.baseline.retain(|spared| there.contains(spared));
        if guards.baseline.len() < before {
            let left = guards.baseline.iter().cloned().collect();
            self.ledger.set_baseline(R::INFO.id, resource, left).await?;
        }
        Ok(())
    }

    /// Adds what is open on a resource to the baseline.
    async fn note<R: Remediation>(
        &self,
        resource: &str,
        decision: &Decision<R::State>,
        guards: &mut Guards,
    ) -> Result<(), LedgerError> {
        let mut fingerprints = sweep::baseline(decision);
        fingerprints.extend(guards.baseline.iter().cloned());
        fingerprints.sort();
        fingerprints.dedup();
        self.ledger
            .set_baseline(R::INFO.id, resource, fingerprints.clone())
            .await?;
        guards.baseline = fingerprints.into_iter().collect();
        Ok(())
    }
}
