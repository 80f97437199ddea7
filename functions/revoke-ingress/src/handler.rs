//! The pipeline of `revoke-ingress`, top to bottom: parse, gather, decide
//! (exempt, judge, plan), begin, apply, verify, finish, tell, close, answer.
//!
//! A run handles exactly one security group. Deliberately not here: what is
//! decided (core) and how a call is made (aws).

use std::collections::BTreeMap;
use std::time::Duration;

use backstop_aws::bus;
use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::findings::{self, TellError};
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{
    self, Begun, Closed, Holder, Known, Ledger, LedgerError, Lock, Standing, Stored,
};
use backstop_aws::metrics::{self, RunMetricsOnDrop};
use backstop_aws::policy_store::{NoPolicy, PolicyStore, Versioned};
use backstop_aws::security_groups::{self, ListUse};
use backstop_aws::settings::RemediationSettings;
use backstop_aws::trips;
use backstop_core::controls::open_ingress::{self, About, Circumstances, Decision, Verdict};
use backstop_core::entry::Entry;
use backstop_core::guards::{Guards, Trip};
use backstop_core::plan::{Disposition, RuleChange, Verification};
use backstop_core::record::Record;
use backstop_core::security_group::{Facts, IngressRule};
use backstop_core::trigger::{self, BrokenEvent, CheckRequested, Parsed, Trigger};
use backstop_core::words::{Control, Mode, Status};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info, warn};

const CONTROL: Control = Control::OpenIngress;

/// The verdict of a run that another one was at work before.
const BUSY: &str = "another run will look again";

/// Rounds of one run: the first, and more for what others change meanwhile.
const MOST_ROUNDS: usize = 4;
/// Reads of the group after a change, while it still shows the old state.
const MOST_READS: u32 = 4;
/// Pause before the group is read again.
const READ_PAUSE: Duration = Duration::from_millis(300);

/// Everything that makes a run fail, so that Lambda tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Event(#[from] BrokenEvent),
    #[error(transparent)]
    Policy(#[from] NoPolicy),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error(transparent)]
    Told(#[from] TellError),
    #[error("the prefix list {0} is still being modified ({1}): look again later")]
    ListBeingModified(String, String),
    #[error("{0}: the lock changed hands again and again: look again later")]
    Contended(String),
    #[error("{resource}: not remediated (entry {entry}): {what}")]
    NotRemediated {
        resource: String,
        entry: String,
        what: String,
    },
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_));
        diagnostic(&failure, retryable)
    }
}

/// How a look at a group ended.
enum Looked {
    Done(&'static str),
    Again,
}

/// What a run reads before it decides.
struct Gathered {
    facts: Facts,
    policy: Versioned,
    /// Lock, guards, and what was recorded last.
    standing: Standing,
}

/// What a run goes by once it has begun.
struct Found {
    facts: Facts,
    policy: Versioned,
    guards: Guards,
    /// Changes of an entry that goes on which its beginning did not count.
    uncounted: usize,
}

impl Found {
    fn budget(&self) -> u32 {
        let control = &self.policy.policy.controls.open_ingress;
        control.budget.changes_per_hour
    }
}

/// What stays the same over a run.
struct Run<'a> {
    trigger: &'a Trigger,
    holder: &'a Holder,
    deadline: &'a Deadline,
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    policy: PolicyStore,
    ledger: Ledger,
    settings: RemediationSettings,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, settings: RemediationSettings) -> Self {
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), settings.policy_parameter.clone()),
            ledger: Ledger::new(&clients, settings.ledger_table.clone()),
            clients,
            settings,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let deadline = invocation::deadline(&event.context, &self.clients.clock);
        let holder = invocation::holder(&event.context, &self.clients.clock);
        let answer = match trigger::ingress(&event.payload) {
            Ok(Parsed::Ignored(reason)) => {
                info!(verdict = "ignored", %reason, "event ignored");
                Ok("ignored")
            }
            Ok(Parsed::Expand(trigger)) => self.expand(&trigger, &deadline).await,
            Ok(Parsed::Check(trigger)) => {
                let run = Run {
                    trigger: &trigger,
                    holder: &holder,
                    deadline: &deadline,
                };
                Box::pin(self.check(&run)).await
            }
            Err(broken) => Err(broken.into()),
        };
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        Ok(json!({ "verdict": answer? }))
    }

    /// A prefix list has changed: asks for a look at every group that names it.
    async fn expand(
        &self,
        trigger: &Trigger,
        deadline: &Deadline,
    ) -> Result<&'static str, Failure> {
        let list = &trigger.resource;
        match security_groups::groups_naming(&self.clients.ec2, list, deadline).await? {
            ListUse::Gone => Ok("gone"),
            ListUse::BeingModified(state) => Err(Failure::ListBeingModified(list.clone(), state)),
            ListUse::NamedBy(groups) => {
                let checks: Vec<CheckRequested> = groups
                    .into_iter()
                    .map(|resource| {
                        CheckRequested::new(CONTROL, resource, Some(trigger.actor.clone()))
                    })
                    .collect();
                bus::request_checks(&self.clients.eventbridge, &checks).await?;
                info!(resource = %list, groups = checks.len(), "checks requested");
                Ok("expanded")
            }
        }
    }

    /// Looks at one group, and again where another run asked for it.
    async fn check(&self, run: &Run<'_>) -> Result<&'static str, Failure> {
        for _ in 0..MOST_ROUNDS {
            match self.look(run).await? {
                Looked::Done(verdict) => return Ok(verdict),
                Looked::Again => info!(resource = %run.trigger.resource, "looking again"),
            }
        }
        Err(Failure::Contended(run.trigger.resource.clone()))
    }

    async fn look(&self, run: &Run<'_>) -> Result<Looked, Failure> {
        let mut counted = metrics::run(CONTROL.name());
        let looked = self.look_counted(run, &mut counted).await;
        if let Err(failure) = &looked {
            counted.failures = 1;
            // The retry must not find our own lock in its way. (A run that was
            // closed as failed has released it.)
            if !matches!(failure, Failure::NotRemediated { .. })
                && let Err(error) = self
                    .ledger
                    .release(CONTROL.name(), &run.trigger.resource, run.holder)
                    .await
            {
                warn!(%error, "the lock could not be released; its lease lapses by itself");
            }
        }
        looked
    }

    async fn look_counted(
        &self,
        run: &Run<'_>,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        // gather: one parallel round (a second for prefix lists)
        let Gathered {
            facts,
            policy,
            standing:
                Standing {
                    lock,
                    known,
                    guards,
                },
        } = self.gather(run).await?;

        // decide: exempt, judge, plan
        let now = self.clients.clock.now();
        let mode = policy
            .policy
            .controls
            .open_ingress
            .mode
            .unwrap_or(self.settings.mode);
        let decision = self.decide(&facts, &policy, &guards, run, now);
        log_decision(run.trigger, &decision, mode);
        if matches!(decision.verdict, Verdict::Violates(_)) {
            counted.findings = 1;
        }
        let found = self.entry(&facts, &decision, &policy, run, now);

        // a run that was cut off, or is retried, goes on with its own entry
        let lapsed = lock
            .as_ref()
            .filter(|lock| !lock.is_live_for_others(&run.holder.id, now));
        let open = match lapsed {
            Some(lock) => self.open_entry(lock, run).await?,
            None => None,
        };
        // What an earlier attempt left open is finished and told in any mode.
        if mode == Mode::Off && open.is_none() {
            return Ok(Looked::Done("off"));
        }
        let looked = match (open, found) {
            (None, Some(entry)) if !entry.plan.changes_something() => {
                return self.record(entry, known.as_ref(), &guards).await;
            }
            (None, None) => Looked::Done("nothing to do"),
            (None, Some(entry)) => {
                if let Some(bytes) = ledger::oversize(&entry)? {
                    return self
                        .record(entry.too_large(bytes), known.as_ref(), &guards)
                        .await;
                }
                let changes = entry.plan.changes.clone();
                let found = Found {
                    facts,
                    policy,
                    guards,
                    uncounted: 0,
                };
                self.enforce(entry, changes, lapsed, found, run, counted)
                    .await?
            }
            (Some(mut entry), found) => {
                entry.attempts += 1;
                open_ingress::settle(&mut entry, &facts, &decision);
                let mut changes = Vec::new();
                let mut more = 0;
                if let Some(found) = found {
                    // What was not planned before has not been counted yet.
                    let of_before =
                        |change: &&RuleChange| !entry.before.contains_key(&change.rule.id);
                    more = found.plan.changes.iter().filter(of_before).count();
                    entry.go_on(&found);
                    // Only what is planned now: the entry also holds what
                    // earlier attempts have done.
                    if entry.plan.changes_something() {
                        changes = found.plan.changes;
                    } else {
                        more = 0;
                    }
                }
                let found = Found {
                    facts,
                    policy,
                    guards,
                    uncounted: more,
                };
                self.enforce(entry, changes, lapsed, found, run, counted)
                    .await?
            }
        };
        // A run that did nothing leaves it to the one that does.
        if let Some(known) = known
            && matches!(looked, Looked::Done(verdict) if verdict != BUSY)
        {
            self.forget(&known, run).await?;
        }
        Ok(looked)
    }

    async fn gather(&self, run: &Run<'_>) -> Result<Gathered, Failure> {
        let Trigger {
            resource, region, ..
        } = run.trigger;
        let (policy, standing, facts) = tokio::join!(
            self.policy.get(run.deadline),
            self.ledger.standing(CONTROL, resource),
            security_groups::gather(&self.clients.ec2, resource, region, run.deadline),
        );
        Ok(Gathered {
            policy: policy?,
            standing: standing?,
            facts: facts?,
        })
    }

    fn decide(
        &self,
        facts: &Facts,
        policy: &Versioned,
        guards: &Guards,
        run: &Run<'_>,
        now: Timestamp,
    ) -> Decision {
        let circumstances = Circumstances {
            mode: self.settings.mode,
            account: &run.trigger.account,
            now,
            guards,
        };
        open_ingress::decide(facts, &policy.policy.open_ingress(), &circumstances)
    }

    /// A new entry for what was decided; `None` where nothing was found.
    fn entry(
        &self,
        facts: &Facts,
        decision: &Decision,
        policy: &Versioned,
        run: &Run<'_>,
        now: Timestamp,
    ) -> Option<Entry> {
        let about = About {
            id: &self.clients.clock.new_id(),
            trigger: run.trigger,
            owner_tag: &self.settings.owner_tag_key,
            policy_version: policy.version,
            now,
        };
        open_ingress::entry(facts, decision, about)
    }

    /// The entry that a lapsed lock, or one of our own earlier attempt, left
    /// open: one that was cut off or not told, or one of this very invocation
    /// or event. Another event's that failed and was told is history.
    async fn open_entry(&self, lock: &Lock, run: &Run<'_>) -> Result<Option<Entry>, Failure> {
        // An undo that was cut off is its own caller's to finish.
        let Some(Stored {
            record: Record::Remediation(entry),
            told,
        }) = self.ledger.read(&lock.entry).await?
        else {
            return Ok(None);
        };
        let same_event =
            entry.actor.event_id.is_some() && entry.actor.event_id == run.trigger.actor.event_id;
        let ours = lock.holder == run.holder.id || same_event;
        Ok((!told || ours).then_some(*entry))
    }

    /// begin, apply, verify, finish, tell, close, answer.
    ///
    /// Without changes it is the end of an entry that an earlier attempt left
    /// open: what came of it is recorded and told.
    async fn enforce(
        &self,
        entry: Entry,
        changes: Vec<RuleChange>,
        lapsed: Option<&Lock>,
        found: Found,
        run: &Run<'_>,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        // begin: the lock, `before` and the budget, in one transaction
        let budget = found.budget();
        let begun = if entry.attempts == 1 {
            self.ledger.begin(&entry, run.holder, lapsed, budget).await
        } else {
            self.ledger
                .go_on(&entry, run.holder, lapsed, found.uncounted, budget)
                .await
        };
        match begun? {
            Begun::Started => {}
            Begun::Busy => return Ok(Looked::Done(BUSY)),
            Begun::Moved => return Ok(Looked::Again),
            Begun::OverBudget => {
                self.trip_control(&entry, changes.len(), budget, run)
                    .await?;
                return Ok(Looked::Again);
            }
        }
        // apply, verify: again while others change the group meanwhile
        let (entry, found) = self.remediate(entry, changes, found, run).await?;
        // finish, tell, close
        self.finish(entry, found, run, counted).await
    }

    /// The control trips: it changes nothing more until a person re-arms it.
    async fn trip_control(
        &self,
        entry: &Entry,
        changes: usize,
        budget: u32,
        run: &Run<'_>,
    ) -> Result<(), Failure> {
        let place = trips::Place {
            account: &run.trigger.account,
            region: &run.trigger.region,
            resource: &entry.resource,
        };
        let bus = &self.clients.eventbridge;
        trips::over_budget(&self.ledger, bus, entry, place, changes, budget).await?;
        Ok(())
    }

    /// Changes the group and reads it again, until nothing is left to do.
    async fn remediate(
        &self,
        mut entry: Entry,
        mut changes: Vec<RuleChange>,
        mut found: Found,
        run: &Run<'_>,
    ) -> Result<(Entry, Found), Failure> {
        let group = &run.trigger.resource;
        for round in 1.. {
            let before = rules(&found.facts);
            let outcomes = security_groups::apply(
                &self.clients.ec2,
                group,
                &changes,
                run.deadline,
                async || self.stopped(run).await,
            )
            .await;
            for outcome in &outcomes {
                info!(
                    entry = %entry.id, resource = %group, rule = %outcome.rule,
                    step = ?outcome.step, ending = %outcome.ending, "step"
                );
            }
            entry.add_round(outcomes);
            if !matches!(entry.status, Status::InProgress | Status::Failed) {
                break;
            }
            // The kill switch may have been thrown meanwhile.
            if let Ok(policy) = self.policy.get(run.deadline).await {
                found.policy = policy;
            }
            let verified = self.verify(&mut entry, &before, &found, run).await;
            let Some((now, decision)) = verified else {
                break;
            };
            found.facts = now;
            if let Some(plan) = &decision.plan
                && plan.disposition == Disposition::Stopped
                && !entry.last_outcomes().iter().any(|outcome| outcome.failed())
            {
                entry.status = Status::Stopped;
                entry.plan.reasons.clone_from(&plan.reasons);
                break;
            }
            if round == MOST_ROUNDS || !open_ingress::has_news(&entry, decision.plan.as_ref()) {
                break;
            }
            // Somebody opened more meanwhile: stored first, then treated in
            // the same round.
            let Some(more) = self.entry(
                &found.facts,
                &decision,
                &found.policy,
                run,
                entry.started_at,
            ) else {
                break;
            };
            changes.clone_from(&more.plan.changes);
            let (known, budget) = (entry.clone(), found.budget());
            entry.go_on(&more);
            match self
                .ledger
                .go_on(&entry, run.holder, None, changes.len(), budget)
                .await?
            {
                Begun::Started => {}
                Begun::Busy | Begun::Moved => return Err(Failure::Contended(group.clone())),
                // What was added meanwhile stays open; the verification says so.
                Begun::OverBudget => {
                    self.trip_control(&entry, changes.len(), budget, run)
                        .await?;
                    entry = known;
                    break;
                }
            }
        }
        Ok((entry, found))
    }

    /// Whether the kill switch is on. A policy that cannot be read right now
    /// stops nothing: the run was begun under a valid one.
    async fn stopped(&self, run: &Run<'_>) -> bool {
        let policy = self.policy.get(run.deadline).await;
        policy.is_ok_and(|policy| policy.policy.kill_switch)
    }

    /// Reads the group again and holds it against the plan. A read that still
    /// shows the old state is repeated: EC2's reads may lag behind its writes.
    async fn verify(
        &self,
        entry: &mut Entry,
        before: &BTreeMap<String, IngressRule>,
        found: &Found,
        run: &Run<'_>,
    ) -> Option<(Facts, Decision)> {
        let Trigger {
            resource, region, ..
        } = run.trigger;
        let failed = entry.last_outcomes().iter().any(|outcome| outcome.failed());
        for read in 1..=MOST_READS {
            let facts =
                security_groups::gather(&self.clients.ec2, resource, region, run.deadline).await;
            let facts = match facts {
                Ok(facts) => facts,
                Err(error) => {
                    entry.verification = Some(Verification {
                        unread: Some(format!("the group could not be read again: {error}")),
                        ..Verification::default()
                    });
                    return None;
                }
            };
            let now = self.clients.clock.now();
            let decision = self.decide(&facts, &found.policy, &found.guards, run, now);
            let verification = open_ingress::verify(entry, before, &facts, &decision);
            let settled = failed
                || verification.passed()
                || open_ingress::has_news(entry, decision.plan.as_ref())
                || read == MOST_READS;
            entry.verification = Some(verification);
            if settled {
                return Some((facts, decision));
            }
            tokio::time::sleep(READ_PAUSE * read).await;
        }
        None
    }

    /// finish, tell, close, answer.
    async fn finish(
        &self,
        mut entry: Entry,
        mut found: Found,
        run: &Run<'_>,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        let now = self.clients.clock.now();
        entry.conclude(&rules(&found.facts), now);
        let fights = (entry.status == Status::Remediated).then(|| {
            let fights = &mut found.guards.fights;
            entry.fight = fights.note(
                &entry.id,
                entry.closed_fingerprints(),
                now,
                &found.policy.policy.fights,
                entry.managed_by.clone(),
            );
            &*fights
        });
        self.ledger.finish(&entry).await?;
        bus::tell(&self.clients.eventbridge, &entry.id).await?;
        let failed = entry.status == Status::Failed;
        let closed = self
            .ledger
            .close(&entry, run.holder, failed, fights)
            .await?;
        info!(
            entry = %entry.id, resource = %run.trigger.resource, control = %CONTROL,
            outcome = entry.status.name(), attempts = entry.attempts, "run closed"
        );
        if failed {
            return Err(Failure::NotRemediated {
                resource: entry.resource.clone(),
                entry: entry.id.clone(),
                what: entry.problems().join("; "),
            });
        }
        if entry.status == Status::Remediated {
            counted.remediations = 1;
            counted.time_to_closed = run
                .trigger
                .actor
                .event_time
                .zip(entry.finished_at)
                .and_then(|(from, to)| Duration::try_from(to - from).ok());
        }
        Ok(match closed {
            Closed::Done => Looked::Done(entry.status.name()),
            Closed::LookAgain => Looked::Again,
        })
    }

    /// Records and tells what was found and not changed, once. While the
    /// control has tripped everywhere, that was told as a group.
    async fn record(
        &self,
        mut entry: Entry,
        known: Option<&Known>,
        guards: &Guards,
    ) -> Result<Looked, Failure> {
        entry.finished_at = Some(entry.started_at);
        let tripped = entry.status == Status::Tripped;
        let quiet = tripped && guards.control_tripped.is_some();
        if tripped && !quiet && guards.resource_tripped.is_none() {
            let trip = Trip {
                at: entry.started_at,
                why: "somebody or something kept putting back what was put right".to_owned(),
            };
            self.ledger
                .trip_resource(CONTROL, entry.resource_id(), &trip)
                .await?;
        }
        let bus = &self.clients.eventbridge;
        let told = findings::record(&self.ledger, bus, &entry, known, quiet).await?;
        Ok(told.map_or(Looked::Again, Looked::Done))
    }

    /// What was recorded before holds no more.
    async fn forget(&self, known: &Known, run: &Run<'_>) -> Result<(), Failure> {
        let (bus, resource) = (&self.clients.eventbridge, &run.trigger.resource);
        Ok(findings::forget(&self.ledger, bus, CONTROL, resource, known).await?)
    }
}

fn rules(facts: &Facts) -> BTreeMap<String, IngressRule> {
    match facts {
        Facts::Gone => BTreeMap::new(),
        Facts::Group(group) => group.rules.clone(),
    }
}

fn log_decision(trigger: &Trigger, decision: &Decision, mode: Mode) {
    let (verdict, exposures) = match &decision.verdict {
        Verdict::NotApplicable(_) => ("not-applicable", 0),
        Verdict::Compliant => ("compliant", 0),
        Verdict::Violates(finding) => ("violates", finding.exposures.len()),
    };
    info!(
        resource = %trigger.resource,
        event = trigger.actor.event_id.as_deref().unwrap_or("-"),
        control = %CONTROL,
        verdict,
        exposures,
        changes = decision.plan.as_ref().map_or(0, |plan| plan.changes.len()),
        disposition = ?decision.plan.as_ref().map(|plan| &plan.disposition),
        ?mode,
        "decided"
    );
}

#[cfg(test)]
mod tests;
