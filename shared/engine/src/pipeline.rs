//! The pipeline, top to bottom: parse, gather, decide (exempt, judge, plan),
//! begin, apply, verify, finish, tell, close, answer.
//!
//! A run handles exactly one resource. Deliberately not here: what is decided
//! (core) and how a call is made (aws).

use std::collections::BTreeMap;
use std::marker::PhantomData;
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
use backstop_aws::remediation::{Concerned, Place, Remediation};
use backstop_aws::settings::RemediationSettings;
use backstop_aws::trips;
use backstop_core::decide::{self, About, Circumstances};
use backstop_core::entry::Entry;
use backstop_core::finding::Verdict;
use backstop_core::guards::{Guards, Trip};
use backstop_core::plan::{Change, Disposition, Ending, ItemId, Outcome, Verification};
use backstop_core::reason::Reason;
use backstop_core::record::Record;
use backstop_core::trigger::{BrokenEvent, CheckRequested, Parsed, Trigger};
use backstop_core::words::{Mode, Status};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::served::Served;

type Decision<R> = decide::Decision<<R as backstop_core::control::Control>::State>;

/// The verdict of a run that found another run at work on the resource.
const BUSY: &str = "another run will look again";

/// Rounds of one run: the first, and more for what others change meanwhile.
const MOST_ROUNDS: usize = 4;
/// Reads of the resource after a change, while it still shows the old state.
const MOST_READS: u32 = 4;
/// Pause before the resource is read again.
const READ_PAUSE: Duration = Duration::from_millis(300);

/// Everything that makes a run fail, so that Lambda retries it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The event cannot be used.
    #[error(transparent)]
    Event(#[from] BrokenEvent),
    /// There is no valid policy.
    #[error(transparent)]
    Policy(#[from] NoPolicy),
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An entry's states are not of the control's type.
    #[error("the ledger entry `{0}` cannot be read: {1}")]
    Unreadable(String, serde_json::Error),
    /// A call failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// People could not be notified.
    #[error(transparent)]
    Told(#[from] TellError),
    /// A resource that concerns others is still being modified.
    #[error("{0} is still being modified ({1}): look again later")]
    BeingModified(String, String),
    /// Something about the resource could not be read, which a retry may mend. What
    /// else was wrong is remediated.
    #[error("{0}: {1}; the rest was looked at, this is looked at again later")]
    Unread(String, String),
    /// Other runs kept taking the lock.
    #[error("{0}: the lock changed hands again and again: look again later")]
    Contended(String),
    /// A change failed, or the finding is still there.
    #[error("{resource}: not remediated (entry {entry}): {what}")]
    NotRemediated {
        /// ARN of the resource.
        resource: String,
        /// The entry's id.
        entry: String,
        /// What failed.
        what: String,
    },
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_));
        diagnostic(&failure, retryable)
    }
}

/// How a look at a resource ended.
enum Outlook {
    Done(&'static str),
    Again,
}

/// What a run reads before it decides.
struct Gathered<R: Remediation> {
    facts: Option<R::Facts>,
    policy: Versioned,
    /// Lock, guards, and what was recorded last.
    standing: Standing,
}

/// What a run works with once it has begun.
struct Found<R: Remediation> {
    facts: Option<R::Facts>,
    policy: Versioned,
    guards: Guards,
    /// Changes of a resumed entry that its beginning did not count.
    uncounted: usize,
}

impl<R: Remediation> Found<R> {
    fn budget(&self) -> u32 {
        let control = R::rules(&self.policy.policy).control;
        control.budget.changes_per_hour
    }
}

/// What stays the same over an invocation.
pub(crate) struct Invocation {
    pub(crate) holder: Holder,
    pub(crate) deadline: Deadline,
}

/// What stays the same over a run.
pub struct Run<'a> {
    pub(crate) trigger: &'a Trigger,
    pub(crate) invocation: &'a Invocation,
}

impl Run<'_> {
    fn place(&self) -> Place<'_> {
        Place {
            account: &self.trigger.account,
            region: &self.trigger.region,
            deadline: &self.invocation.deadline,
        }
    }
}

/// The pipeline: its clients, what it keeps between two events, its settings.
pub struct Engine {
    clients: Clients,
    policy: PolicyStore,
    ledger: Ledger,
    settings: RemediationSettings,
    controls: &'static [&'static dyn Served],
}

impl Engine {
    /// A pipeline over these clients, for the controls that a function serves.
    #[must_use]
    pub fn new(
        clients: Clients,
        settings: RemediationSettings,
        controls: &'static [&'static dyn Served],
    ) -> Self {
        Self {
            controls,
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
        let invocation = Invocation {
            deadline: invocation::deadline(&event.context, &self.clients.clock),
            holder: invocation::holder(&event.context, &self.clients.clock),
        };
        let answer = self.serve(&event.payload, &invocation).await;
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        Ok(json!({ "verdict": answer? }))
    }

    /// Runs every control that the event concerns. One that fails does not keep
    /// the others from running.
    async fn serve(
        &self,
        payload: &Value,
        invocation: &Invocation,
    ) -> Result<&'static str, Failure> {
        let mut answer = Ok("ignored");
        for control in self.controls {
            let ran = match control.parse(payload) {
                Ok(Parsed::Ignored(reason)) => {
                    let control = control.info().id;
                    info!(verdict = "ignored", %control, %reason, "event ignored");
                    continue;
                }
                Ok(Parsed::Expand(trigger)) => {
                    let trigger = &trigger;
                    let run = Run {
                        trigger,
                        invocation,
                    };
                    control.expand(self, &run).await
                }
                Ok(Parsed::Check(trigger)) => {
                    let trigger = &trigger;
                    let run = Run {
                        trigger,
                        invocation,
                    };
                    control.check(self, &run).await
                }
                Err(broken) => Err(broken.into()),
            };
            if answer.is_ok() {
                answer = ran;
            }
        }
        answer
    }

    /// Another resource has changed: requests a check of every resource that it
    /// concerns.
    pub(crate) async fn expand<R: Remediation>(
        &self,
        run: &Run<'_>,
    ) -> Result<&'static str, Failure> {
        let Trigger {
            resource, actor, ..
        } = run.trigger;
        match R::concerned(&self.clients, run.place(), resource).await? {
            Concerned::Gone => Ok("gone"),
            Concerned::BeingModified(state) => Err(Failure::BeingModified(resource.clone(), state)),
            Concerned::Resources(ids) => {
                let checks: Vec<CheckRequested> = ids
                    .into_iter()
                    .map(|id| CheckRequested::new(R::INFO.id, id, Some(actor.clone())))
                    .collect();
                bus::request_checks(&self.clients.eventbridge, &checks).await?;
                info!(%resource, checks = checks.len(), "checks requested");
                Ok("expanded")
            }
        }
    }

    /// Looks at one resource, and again where another run asked for it.
    pub(crate) async fn check<R: Remediation>(
        &self,
        run: &Run<'_>,
    ) -> Result<&'static str, Failure> {
        let pipeline = Pipeline::<R> {
            engine: self,
            run,
            control: PhantomData,
        };
        let checked = pipeline.rounds().await;
        // The retry must not find our own lock in its way. (A run that was closed
        // as failed has released it.)
        if let Err(failure) = &checked
            && !matches!(failure, Failure::NotRemediated { .. })
            && let Err(error) = self
                .ledger
                .release(
                    R::INFO.id.lock_name(),
                    &run.trigger.resource,
                    &run.invocation.holder,
                )
                .await
        {
            warn!(%error, "the lock could not be released; its lease lapses by itself");
        }
        checked
    }
}

/// One run of one control on one resource.
struct Pipeline<'a, R> {
    engine: &'a Engine,
    run: &'a Run<'a>,
    control: PhantomData<R>,
}

impl<R: Remediation> Pipeline<'_, R> {
    fn holder(&self) -> &Holder {
        &self.run.invocation.holder
    }

    fn ledger(&self) -> &Ledger {
        &self.engine.ledger
    }

    fn resource(&self) -> &str {
        &self.run.trigger.resource
    }

    fn now(&self) -> Timestamp {
        self.engine.clients.clock.now()
    }

    async fn policy(&self) -> Result<Versioned, NoPolicy> {
        let deadline = &self.run.invocation.deadline;
        self.engine.policy.get(deadline).await
    }

    async fn facts(&self) -> Result<Option<R::Facts>, AwsError> {
        R::gather(&self.engine.clients, self.run.place(), self.resource()).await
    }

    fn not_all_read(&self, unread: &[String]) -> Failure {
        Failure::Unread(self.resource().to_owned(), unread.join("; "))
    }

    async fn rounds(&self) -> Result<&'static str, Failure> {
        for _ in 0..MOST_ROUNDS {
            match self.look().await? {
                Outlook::Done(verdict) => return Ok(verdict),
                Outlook::Again => info!(resource = self.resource(), "looking again"),
            }
        }
        Err(Failure::Contended(self.resource().to_owned()))
    }

    async fn look(&self) -> Result<Outlook, Failure> {
        let mut counted = metrics::run(R::INFO.id.name());
        let looked = self.look_counted(&mut counted).await;
        if looked.is_err() {
            counted.failures = 1;
        }
        looked
    }

    async fn look_counted(&self, counted: &mut RunMetricsOnDrop) -> Result<Outlook, Failure> {
        // gather: one parallel round (a second where the first names more to read)
        let Gathered {
            facts,
            policy,
            standing:
                Standing {
                    lock,
                    mut known,
                    guards,
                },
        } = self.gather().await?;

        // decide: exempt, judge, plan
        let now = self.now();
        let mode = decide::mode::<R>(&R::rules(&policy.policy), self.engine.settings.mode);
        let decision = self.decide(facts.as_ref(), &policy, &guards, now);
        self.log_decision(&decision, mode);
        if decision.finding().is_some() {
            counted.findings = 1;
        }
        let found = self.entry(facts.as_ref(), &decision, &policy, now);
        let unread = unread::<R>(facts.as_ref());

        // a run that was cut off, or is retried, resumes its own entry
        let lapsed = lock
            .as_ref()
            .filter(|lock| !lock.is_live_for_others(&self.holder().id, now));
        let open = match lapsed {
            Some(lock) => self.open_entry(lock).await?,
            None => None,
        };
        // What an earlier attempt left open is finished and told in any mode.
        if mode == Mode::Off && open.is_none() {
            return Ok(Outlook::Done("off"));
        }
        let looked = match (open, found) {
            (None, Some(entry)) if !entry.is_change() => {
                let looked = self.record(entry, known.as_ref(), &guards).await?;
                known = None;
                looked
            }
            (None, None) => Outlook::Done("nothing to do"),
            (None, Some(entry)) => {
                if let Some(bytes) = ledger::oversize(&entry)? {
                    let entry = entry.too_large(bytes);
                    let looked = self.record(entry, known.as_ref(), &guards).await?;
                    known = None;
                    looked
                } else {
                    let changes = entry.detail.plan.changes.clone();
                    let found = Found {
                        facts,
                        policy,
                        guards,
                        uncounted: 0,
                    };
                    self.enforce(entry, changes, lapsed, found, counted).await?
                }
            }
            (Some(mut entry), found) => {
                entry.head.attempts += 1;
                decide::settle::<R>(&mut entry, &items::<R>(facts.as_ref()), &decision);
                let mut changes = Vec::new();
                let mut more = 0;
                // What cannot be judged is a finding of its own, for the next look: it
                // takes nothing from what this entry has done.
                let of_its_own =
                    |found: &Entry<R::State>| found.detail.plan.because == Some(Reason::NotJudged);
                if let Some(found) = found.filter(|found| !of_its_own(found)) {
                    // What was not planned before has not been counted yet.
                    let of_before = |change: &&Change<R::State>| {
                        !entry.detail.before.contains_key(&change.item)
                    };
                    more = found.detail.plan.changes.iter().filter(of_before).count();
                    entry.go_on(&found);
                    // Only what is planned now: the entry also holds what
                    // earlier attempts have done.
                    if entry.is_change() {
                        changes = found.detail.plan.changes;
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
                self.enforce(entry, changes, lapsed, found, counted).await?
            }
        };
        // A run that did nothing leaves it to the one that does. What was recorded
        // before, and is not now, holds no longer, unless it was not read.
        if matches!(looked, Outlook::Done(verdict) if verdict != BUSY) {
            if !unread.is_empty() {
                return Err(self.not_all_read(&unread));
            }
            if let Some(known) = known {
                self.forget(&known).await?;
            }
        }
        Ok(looked)
    }

    async fn gather(&self) -> Result<Gathered<R>, Failure> {
        let (policy, standing, facts) = tokio::join!(
            self.policy(),
            self.ledger().standing(R::INFO.id, self.resource()),
            self.facts(),
        );
        Ok(Gathered {
            policy: policy?,
            standing: standing?,
            facts: facts?,
        })
    }

    fn decide(
        &self,
        facts: Option<&R::Facts>,
        policy: &Versioned,
        guards: &Guards,
        now: Timestamp,
    ) -> Decision<R> {
        let circumstances = Circumstances {
            mode: self.engine.settings.mode,
            account: &self.run.trigger.account,
            now,
            guards,
        };
        decide::decide::<R>(facts, &R::rules(&policy.policy), &circumstances)
    }

    /// A new entry for what was decided; `None` where nothing was found.
    fn entry(
        &self,
        facts: Option<&R::Facts>,
        decision: &Decision<R>,
        policy: &Versioned,
        now: Timestamp,
    ) -> Option<Entry<R::State>> {
        let about = About {
            id: &self.engine.clients.clock.new_id(),
            trigger: self.run.trigger,
            owner_tag: &self.engine.settings.owner_tag_key,
            policy_version: policy.version,
            now,
        };
        decide::entry::<R>(facts, decision, about)
    }

    /// The entry that a lapsed lock, or one of our own earlier attempt, left
    /// open: one that was cut off or not told, or one of this very invocation
    /// or event. Another event's that failed and was told is history.
    async fn open_entry(&self, lock: &Lock) -> Result<Option<Entry<R::State>>, Failure> {
        // An undo that was cut off is its own caller's to finish.
        let Some(Stored {
            record: Record::Remediation(entry),
            told,
        }) = self.ledger().read(&lock.entry).await?
        else {
            return Ok(None);
        };
        let event = &self.run.trigger.actor.event_id;
        let same_event = event.is_some() && entry.head.actor.event_id == *event;
        let ours = lock.holder == self.holder().id || same_event;
        if told && !ours {
            return Ok(None);
        }
        entry
            .typed()
            .map(Some)
            .map_err(|error| Failure::Unreadable(entry.head.id.clone(), error))
    }

    /// begin, apply, verify, finish, tell, close, answer.
    ///
    /// Without changes it is the end of an entry that an earlier attempt left
    /// open: what came of it is recorded and told.
    async fn enforce(
        &self,
        entry: Entry<R::State>,
        changes: Vec<Change<R::State>>,
        lapsed: Option<&Lock>,
        found: Found<R>,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Outlook, Failure> {
        // begin: the lock, `before` and the budget, in one transaction
        let budget = found.budget();
        let (ledger, holder) = (self.ledger(), self.holder());
        let begun = match entry.head.attempts {
            1 => ledger.begin(&entry, holder, lapsed, budget).await,
            _ => {
                let more = found.uncounted;
                ledger.go_on(&entry, holder, lapsed, more, budget).await
            }
        };
        match begun? {
            Begun::Started => {}
            Begun::Busy => return Ok(Outlook::Done(BUSY)),
            Begun::Moved => return Ok(Outlook::Again),
            Begun::OverBudget => {
                self.trip_control(&entry, changes.len(), budget).await?;
                return Ok(Outlook::Again);
            }
        }
        // apply, verify: again while others change the resource meanwhile
        let (entry, found) = self.remediate(entry, changes, found).await?;
        // finish, tell, close
        self.finish(entry, found, counted).await
    }

    /// The control trips: it changes nothing more until a person re-arms it.
    async fn trip_control(
        &self,
        entry: &Entry<R::State>,
        changes: usize,
        budget: u32,
    ) -> Result<(), Failure> {
        let place = trips::Place {
            account: &self.run.trigger.account,
            region: &self.run.trigger.region,
            resource: &entry.head.resource,
        };
        let bus = &self.engine.clients.eventbridge;
        trips::over_budget(self.ledger(), bus, entry, place, changes, budget).await?;
        Ok(())
    }

    /// Changes the resource and reads it again, until nothing is left to do.
    async fn remediate(
        &self,
        mut entry: Entry<R::State>,
        mut changes: Vec<Change<R::State>>,
        mut found: Found<R>,
    ) -> Result<(Entry<R::State>, Found<R>), Failure> {
        for round in 1.. {
            let before = items::<R>(found.facts.as_ref());
            let outcomes = self.apply(&changes).await;
            for outcome in &outcomes {
                info!(
                    entry = %entry.head.id, resource = self.resource(), item = %outcome.item,
                    step = ?outcome.step, ending = %outcome.ending, "step"
                );
            }
            entry.add_round(outcomes);
            if !matches!(entry.head.status, Status::InProgress | Status::Failed) {
                break;
            }
            // The kill switch may have been thrown meanwhile.
            if let Ok(policy) = self.policy().await {
                found.policy = policy;
            }
            let verified = self.verify(&mut entry, &before, &found).await;
            let Some((now, decision)) = verified else {
                break;
            };
            found.facts = now;
            if let Some(plan) = &decision.plan
                && plan.disposition == Disposition::Stopped
                && !entry.last_outcomes().iter().any(|outcome| outcome.failed())
            {
                entry.head.status = Status::Stopped;
                entry.detail.plan.reasons.clone_from(&plan.reasons);
                entry.detail.plan.because.clone_from(&plan.because);
                break;
            }
            if round == MOST_ROUNDS || !decide::has_news(&entry, decision.plan.as_ref()) {
                break;
            }
            // Somebody exposed more meanwhile: stored first, then remediated in
            // the same run.
            let Some(more) = self.entry(
                found.facts.as_ref(),
                &decision,
                &found.policy,
                entry.head.started_at,
            ) else {
                break;
            };
            changes.clone_from(&more.detail.plan.changes);
            let (known, budget) = (entry.clone(), found.budget());
            entry.go_on(&more);
            let more = changes.len();
            match self
                .ledger()
                .go_on(&entry, self.holder(), None, more, budget)
                .await?
            {
                Begun::Started => {}
                Begun::Busy | Begun::Moved => {
                    return Err(Failure::Contended(self.resource().to_owned()));
                }
                // What was added meanwhile stays open; the verification says so.
                Begun::OverBudget => {
                    self.trip_control(&entry, more, budget).await?;
                    entry = known;
                    break;
                }
            }
        }
        Ok((entry, found))
    }

    /// Makes the changes, one after the other. Every one yields an outcome; no
    /// failure keeps the others from being made. The kill switch is checked before
    /// each: once it is on, no further change begins.
    async fn apply(&self, changes: &[Change<R::State>]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for change in changes {
            if self.stopped().await {
                outcomes.push(Outcome {
                    round: 0,
                    item: change.item.clone(),
                    step: change.step(R::IN_PLACE.0),
                    permission: None,
                    created: None,
                    without: None,
                    ending: Ending::Skipped {
                        why: Reason::KillSwitch.to_string(),
                    },
                });
            } else {
                let (aws, place) = (&self.engine.clients, self.run.place());
                outcomes.extend(R::apply(aws, place, self.resource(), change).await);
            }
        }
        outcomes
    }

    /// Whether the kill switch is on. A policy that cannot be read right now
    /// stops nothing: the run was begun under a valid one.
    async fn stopped(&self) -> bool {
        let policy = self.policy().await;
        policy.is_ok_and(|policy| policy.policy.kill_switch)
    }

    /// Reads the resource again and compares it with the plan. A read that still
    /// shows the old state is repeated: AWS's reads may lag behind its writes.
    async fn verify(
        &self,
        entry: &mut Entry<R::State>,
        before: &BTreeMap<ItemId, R::State>,
        found: &Found<R>,
    ) -> Option<(Option<R::Facts>, Decision<R>)> {
        let failed = entry.last_outcomes().iter().any(|outcome| outcome.failed());
        for read in 1..=MOST_READS {
            let facts = match self.facts().await {
                Ok(facts) => facts,
                Err(error) => {
                    let what = R::INFO.phrases.resource;
                    entry.detail.verification = Some(Verification {
                        unread: Some(format!("the {what} could not be read again: {error}")),
                        ..Verification::default()
                    });
                    return None;
                }
            };
            let decision = self.decide(facts.as_ref(), &found.policy, &found.guards, self.now());
            let now = items::<R>(facts.as_ref());
            let verification = decide::verify::<R>(entry, before, &now, &decision);
            let settled = failed
                || verification.passed()
                || decide::has_news(entry, decision.plan.as_ref())
                || read == MOST_READS;
            entry.detail.verification = Some(verification);
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
        mut entry: Entry<R::State>,
        mut found: Found<R>,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Outlook, Failure> {
        let now = self.now();
        entry.conclude(&items::<R>(found.facts.as_ref()), now);
        let fights = (entry.head.status == Status::Remediated).then(|| {
            let fights = &mut found.guards.fights;
            entry.detail.fight = fights.note(
                &entry.head.id,
                entry.closed_fingerprints(),
                now,
                &found.policy.policy.fights,
                entry.head.managed_by.clone(),
            );
            &*fights
        });
        self.ledger().finish(&entry).await?;
        bus::tell(&self.engine.clients.eventbridge, &entry.head.id).await?;
        let failed = entry.head.status == Status::Failed;
        let closed = self
            .ledger()
            .close(&entry, self.holder(), failed, fights)
            .await?;
        info!(
            entry = %entry.head.id, resource = self.resource(), control = %R::INFO.id,
            outcome = entry.head.status.name(), attempts = entry.head.attempts, "run closed"
        );
        // Whoever left its look to us is owed one: that tries again as well.
        if failed && closed == Closed::Done {
            return Err(Failure::NotRemediated {
                what: entry.problems().join("; "),
                resource: entry.head.resource,
                entry: entry.head.id,
            });
        }
        if entry.head.status == Status::Remediated {
            counted.remediations = 1;
            let event = self.run.trigger.actor.event_time;
            counted.time_to_closed = event
                .zip(entry.head.finished_at)
                .and_then(|(from, to)| Duration::try_from(to - from).ok());
        }
        // After the changes it was read again.
        let unread = unread::<R>(found.facts.as_ref());
        match closed {
            Closed::Done if !unread.is_empty() => Err(self.not_all_read(&unread)),
            Closed::Done => Ok(Outlook::Done(entry.head.status.name())),
            Closed::LookAgain => Ok(Outlook::Again),
        }
    }

    /// Records what was found and not changed, and notifies people once. While the
    /// control has tripped everywhere, the notice of the trip stands for all.
    async fn record(
        &self,
        mut entry: Entry<R::State>,
        known: Option<&Known>,
        guards: &Guards,
    ) -> Result<Outlook, Failure> {
        entry.head.finished_at = Some(entry.head.started_at);
        let quiet = entry.head.status == Status::Tripped && guards.control_tripped.is_some();
        if matches!(entry.detail.plan.because, Some(Reason::Fight { .. })) {
            let trip = Trip {
                at: entry.head.started_at,
                why: "somebody or something kept putting back what was put right".to_owned(),
            };
            self.ledger()
                .trip_resource(R::INFO.id, entry.head.resource_id(), &trip)
                .await?;
        }
        let bus = &self.engine.clients.eventbridge;
        let told = findings::record(self.ledger(), bus, &entry, known, quiet).await?;
        Ok(told.map_or(Outlook::Again, Outlook::Done))
    }

    /// Forgets what was recorded before: it no longer holds.
    async fn forget(&self, known: &Known) -> Result<(), Failure> {
        let bus = &self.engine.clients.eventbridge;
        let (control, resource) = (R::INFO.id, self.resource());
        Ok(findings::forget(self.ledger(), bus, control, resource, known).await?)
    }

    fn log_decision(&self, decision: &Decision<R>, mode: Mode) {
        let trigger = self.run.trigger;
        let verdict = match &decision.verdict {
            Verdict::NotApplicable(_) => "not-applicable",
            Verdict::Compliant => "compliant",
            Verdict::Violates(_) => "violates",
        };
        info!(
            resource = %trigger.resource,
            event = trigger.actor.event_id.as_deref().unwrap_or("-"),
            control = %R::INFO.id,
            verdict,
            exposures = decision.finding().map_or(0, |finding| finding.exposures.len()),
            changes = decision.plan.as_ref().map_or(0, |plan| plan.changes.len()),
            disposition = ?decision.plan.as_ref().map(|plan| &plan.disposition),
            ?mode,
            "decided"
        );
    }
}

/// The items of a resource; none of one that is gone.
fn items<R: Remediation>(facts: Option<&R::Facts>) -> BTreeMap<ItemId, R::State> {
    facts.map(R::items).unwrap_or_default()
}

/// What a read of a resource left out.
fn unread<R: Remediation>(facts: Option<&R::Facts>) -> Vec<String> {
    facts.map(R::unread).unwrap_or_default()
}

#[cfg(test)]
mod tests;
