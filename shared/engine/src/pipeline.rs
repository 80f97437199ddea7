//! The pipeline, top to bottom: parse, gather, decide (exempt, judge, plan),
//! begin, apply, verify, finish, tell, close, answer.
//!
//! A run handles exactly one resource. Deliberately not here: what is decided
//! (core) and how a call is made (aws).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
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
use backstop_core::finding::{Finding, Verdict};
use backstop_core::guards::{Guards, OverBudget, Trip};
use backstop_core::plan::{Change, Disposition, Ending, ItemId, Outcome, Verification};
use backstop_core::reason::Reason;
use backstop_core::record::Record;
use backstop_core::trigger::{BrokenEvent, CheckRequested, Parsed, Trigger};
use backstop_core::words::{ControlId, Mode, Status};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Deserialize as _;
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
    /// What was found stays, and is recorded as that.
    Left(&'static str),
    Again,
}

/// What the lock of an earlier run leads to.
enum Left<R: Remediation> {
    /// Nothing that has to be finished.
    Nothing,
    /// An entry of this control, to be resumed.
    Own(Box<Entry<R::State>>),
    /// An entry of another control that shares the lock, which resumes it first.
    OfOther(ControlId),
}

/// Whether a run may make its changes.
enum Taken {
    Started,
    Busy,
    Moved,
    /// The budget refused them, and what follows from that is done.
    Refused,
    /// The budget of this hour has no room for them, and nothing follows.
    Spent,
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
    known: Option<Known>,
    /// Items whose changes the budget has counted: those of a resumed entry.
    counted: BTreeSet<ItemId>,
    /// Items whose changes close something critical.
    critical: BTreeSet<ItemId>,
    /// The resource exceeds the budget by itself: the control trips for it once the
    /// changes are made that there was room for.
    trips: Option<Trip>,
}

impl<R: Remediation> Found<R> {
    fn budget(&self) -> u32 {
        let control = R::rules(&self.policy.policy).control;
        control.budget.changes_per_hour
    }

    /// Whether the budget has no room for some of the changes.
    fn leaves_some(&self) -> bool {
        self.trips.is_some() || self.guards.budget_spent
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
                Ok(Parsed::CheckEach(triggers)) => {
                    Box::pin(self.check_each(control.info().id, triggers)).await
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

    /// One call concerned several resources: requests a check of each.
    async fn check_each(
        &self,
        control: ControlId,
        triggers: Vec<Trigger>,
    ) -> Result<&'static str, Failure> {
        let checks = triggers.into_iter();
        let checks: Vec<CheckRequested> = checks
            .map(|of| CheckRequested::new(control, of.resource, Some(of.actor)))
            .collect();
        bus::request_checks(&self.clients.eventbridge, &checks).await?;
        info!(%control, checks = checks.len(), "checks requested");
        Ok("expanded")
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
            next: Cell::default(),
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
        let verdict = checked?;
        // The run that it left its look to sees to that as well.
        if let Some(next) = pipeline.next.get()
            && verdict != BUSY
        {
            self.check_by(next, run).await?;
        }
        Ok(verdict)
    }

    /// The look of another control of the function at the same resource.
    async fn check_by(&self, control: ControlId, run: &Run<'_>) -> Result<(), Failure> {
        let mut served = self.controls.iter();
        if let Some(served) = served.find(|served| served.info().id == control) {
            served.check(self, run).await?;
        }
        Ok(())
    }
}

/// One run of one control on one resource.
struct Pipeline<'a, R> {
    engine: &'a Engine,
    run: &'a Run<'a>,
    /// Another control that has to look at the resource after this one.
    next: Cell<Option<ControlId>>,
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
            match Box::pin(self.look()).await? {
                Outlook::Done(verdict) | Outlook::Left(verdict) => return Ok(verdict),
                Outlook::Again => info!(resource = self.resource(), "looking again"),
            }
        }
        Err(Failure::Contended(self.resource().to_owned()))
    }

    // The stages are boxed: a look may lead to that of another control, and without
    // optimisation two of them, one in the other, need more stack than a thread has.
    async fn look(&self) -> Result<Outlook, Failure> {
        let mut counted = metrics::run(R::INFO.id.name());
        let looked = Box::pin(self.look_counted(&mut counted)).await;
        if looked.is_err() {
            counted.failures = Some(1);
        }
        looked
    }

    async fn look_counted(&self, counted: &mut RunMetricsOnDrop) -> Result<Outlook, Failure> {
        // gather: one parallel round (a second where the first names more to read)
        let read_at = self.now();
        let Gathered {
            facts,
            policy,
            standing:
                Standing {
                    lock,
                    mut known,
                    guards,
                },
        } = Box::pin(self.gather()).await?;
        if let Some(next) = facts.as_ref().and_then(R::next) {
            self.next.set(Some(next));
        }

        // decide: exempt, judge, plan
        let now = self.now();
        let mode = decide::mode::<R>(&R::rules(&policy.policy), self.engine.settings.mode);
        let decision = self.decide(facts.as_ref(), &policy, &guards, now);
        self.log_decision(&decision, mode);
        if decision.finding().is_some() {
            counted.findings = Some(1);
        }
        let found = self.entry(facts.as_ref(), &decision, &policy, now);
        let critical = decision.finding().map(Finding::critical);
        let critical = critical.unwrap_or_default();
        let unread = unread::<R>(facts.as_ref());

        // a run that was cut off, or is retried, resumes its own entry
        let lapsed = lock
            .as_ref()
            .filter(|lock| !lock.is_live_for_others(&self.holder().id, now));
        let open = match lapsed {
            Some(lock) => match self.open_entry(lock).await? {
                Left::Nothing => None,
                Left::Own(entry) => Some(*entry),
                Left::OfOther(control) => {
                    self.engine.check_by(control, self.run).await?;
                    return Ok(Outlook::Again);
                }
            },
            None => None,
        };
        // What an earlier attempt left open is finished and told in any mode.
        if mode == Mode::Off && open.is_none() {
            return Ok(Outlook::Done("off"));
        }
        if let Some(facts) = &facts {
            keep_former::<R>(self.ledger(), facts, &guards, read_at).await?;
        }
        let looked = match (open, found) {
            (None, Some(entry)) if !entry.is_change() => {
                let looked = Box::pin(self.record(entry, known.as_ref(), &guards)).await?;
                known = None;
                looked
            }
            (None, None) => Outlook::Done("nothing to do"),
            (None, Some(entry)) => {
                if let Some(bytes) = ledger::oversize(&entry)? {
                    let entry = entry.too_large(bytes);
                    let looked = Box::pin(self.record(entry, known.as_ref(), &guards)).await?;
                    known = None;
                    looked
                } else {
                    let changes = entry.detail.plan.changes.clone();
                    let found = Found {
                        facts,
                        policy,
                        guards,
                        known: known.clone(),
                        counted: BTreeSet::new(),
                        critical,
                        trips: None,
                    };
                    Box::pin(self.enforce(entry, changes, lapsed, found, counted)).await?
                }
            }
            (Some(mut entry), found) => {
                entry.head.attempts += 1;
                // What was not read may be as it was.
                if unread.is_empty() {
                    decide::settle::<R>(&mut entry, &items::<R>(facts.as_ref()), &decision);
                }
                let mut changes = Vec::new();
                // What was not planned before has not been counted yet.
                let counted_before = entry.detail.before.keys().cloned().collect();
                // What cannot be judged is a finding of its own, for the next look: it
                // takes nothing from what this entry has done.
                let of_its_own =
                    |found: &Entry<R::State>| found.detail.plan.because == Some(Reason::NotJudged);
                let found = found.filter(|found| !of_its_own(found));
                // What AWS accepted is not changed again: it shows in time, or has
                // failed, and then a retry changes it.
                let live = items::<R>(facts.as_ref());
                let awaited = |item: &str| entry.awaits(item, live.get(item));
                let found = found.and_then(|found| found.without(awaited));
                if entry.head.status == Status::Pending {
                    entry.head.status = Status::InProgress;
                }
                if let Some(found) = found {
                    entry.go_on(&found);
                    // Only what is planned now: the entry also holds what
                    // earlier attempts have done.
                    if entry.is_change() {
                        changes = found.detail.plan.changes;
                    }
                }
                let found = Found {
                    facts,
                    policy,
                    guards,
                    known: known.clone(),
                    counted: counted_before,
                    critical,
                    trips: None,
                };
                Box::pin(self.enforce(entry, changes, lapsed, found, counted)).await?
            }
        };
        // A run that did nothing leaves it to the one that does.
        let ended = match looked {
            Outlook::Done(verdict) | Outlook::Left(verdict) => verdict != BUSY,
            Outlook::Again => false,
        };
        if ended && !unread.is_empty() {
            return Err(self.not_all_read(&unread));
        }
        // What was recorded before, and is not now, holds no longer.
        if let Some(known) = known
            && matches!(looked, Outlook::Done(verdict) if verdict != BUSY)
        {
            self.forget(&known).await?;
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
    async fn open_entry(&self, lock: &Lock) -> Result<Left<R>, Failure> {
        // An undo that was cut off is its own caller's to finish.
        let Some(Stored {
            record: Record::Remediation(entry),
            told,
        }) = self.ledger().read(&lock.entry).await?
        else {
            return Ok(Left::Nothing);
        };
        if entry.head.control != R::INFO.id {
            return Ok(match told {
                true => Left::Nothing,
                false => Left::OfOther(entry.head.control),
            });
        }
        let event = &self.run.trigger.actor.event_id;
        let same_event = event.is_some() && entry.head.actor.event_id == *event;
        let ours = lock.holder == self.holder().id || same_event;
        if told && !ours {
            return Ok(Left::Nothing);
        }
        entry
            .typed()
            .map(|entry| Left::Own(Box::new(entry)))
            .map_err(|error| Failure::Unreadable(entry.head.id.clone(), error))
    }

    /// begin, apply, verify, finish, tell, close, answer.
    ///
    /// Without changes it is the end of an entry that an earlier attempt left
    /// open: what came of it is recorded and told.
    async fn enforce(
        &self,
        mut entry: Entry<R::State>,
        mut changes: Vec<Change<R::State>>,
        lapsed: Option<&Lock>,
        mut found: Found<R>,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Outlook, Failure> {
        // begin: the lock, `before` and the budget, in one transaction
        let is_new = entry.head.attempts == 1;
        let taken = Box::pin(self.take(&mut entry, &mut changes, is_new, lapsed, &mut found));
        match taken.await? {
            Taken::Started => {}
            Taken::Busy => return Ok(Outlook::Done(BUSY)),
            Taken::Moved | Taken::Refused => return Ok(Outlook::Again),
            Taken::Spent => {
                return match self.left(&found, entry.head.started_at) {
                    Some(left) => {
                        Box::pin(self.record(left, found.known.as_ref(), &found.guards)).await
                    }
                    None => Ok(Outlook::Again),
                };
            }
        }
        // apply, verify: again while others change the resource meanwhile
        let (entry, found) = Box::pin(self.remediate(entry, changes, found)).await?;
        // finish, tell, close
        Box::pin(self.finish(entry, found, counted)).await
    }

    /// Takes the lock or renews it, stores the entry and counts its changes. Where the
    /// budget has no room for all of them, and the resource alone is to blame, it is
    /// the critical ones that it has room for, and those that were counted before.
    async fn take(
        &self,
        entry: &mut Entry<R::State>,
        changes: &mut Vec<Change<R::State>>,
        is_new: bool,
        lapsed: Option<&Lock>,
        found: &mut Found<R>,
    ) -> Result<Taken, Failure> {
        let (ledger, holder, budget) = (self.ledger(), self.holder(), found.budget());
        let uncounted = |changes: &[Change<R::State>]| {
            let counted = |change: &&Change<R::State>| found.counted.contains(&change.item);
            changes.len() - changes.iter().filter(counted).count()
        };
        let wanted = uncounted(changes);
        loop {
            let begun = match is_new {
                true => ledger.begin(entry, holder, lapsed, budget).await?,
                false => {
                    let more = uncounted(changes);
                    ledger.go_on(entry, holder, lapsed, more, budget).await?
                }
            };
            match begun {
                Begun::Started if found.trips.is_some() => {
                    // At once: others find no room because of it from here on.
                    let (control, id) = (R::INFO.id, entry.resource_id());
                    ledger.note_over_budget(control, id).await?;
                    return Ok(Taken::Started);
                }
                Begun::Started => return Ok(Taken::Started),
                Begun::Busy => return Ok(Taken::Busy),
                Begun::Moved => return Ok(Taken::Moved),
                Begun::OverBudget => {}
            }
            let room = match trips::follows(ledger, &entry.head, wanted, budget).await? {
                OverBudget::Fits => return Ok(Taken::Moved),
                OverBudget::Control => {
                    let (bus, head) = (&self.engine.clients.eventbridge, &entry.head);
                    trips::control_over_budget(ledger, bus, head, wanted, budget).await?;
                    return Ok(Taken::Refused);
                }
                OverBudget::Spent => {
                    found.guards.budget_spent = true;
                    if is_new {
                        return Ok(Taken::Spent);
                    }
                    // What was counted before goes on, the rest waits.
                    0
                }
                OverBudget::Resource { room, needs } => {
                    found.trips = Some(trips::resource_trip(ledger, needs, budget));
                    room
                }
            };
            entry.keep_within(&found.counted, &found.critical, room);
            changes.retain(|change| entry.detail.before.contains_key(&change.item));
            if changes.is_empty()
                && let Some(trip) = &found.trips
            {
                trips::resource_over_budget(ledger, &entry.head, trip).await?;
                return Ok(Taken::Refused);
            }
        }
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
            let outcomes = Box::pin(self.apply(&changes)).await;
            for outcome in &outcomes {
                info!(
                    entry = %entry.head.id, resource = self.resource(), item = %outcome.item,
                    step = ?outcome.step, ending = %outcome.ending, "step"
                );
            }
            if !R::SHOWN_WITHIN.is_zero() && outcomes.iter().any(|made| made.ending == Ending::Done)
            {
                entry.detail.shows_by = self.now().checked_add(R::SHOWN_WITHIN).ok();
            }
            entry.add_round(outcomes);
            if !matches!(entry.head.status, Status::InProgress | Status::Failed) {
                break;
            }
            // The kill switch may have been thrown meanwhile.
            if let Ok(policy) = self.policy().await {
                found.policy = policy;
            }
            let verified = Box::pin(self.verify(&mut entry, &before, &found)).await;
            let Some((now, decision)) = verified else {
                break;
            };
            found.facts = now;
            let failed = entry.has_failures();
            // Of what only does not show yet nothing is left to be stopped.
            if let Some(plan) = &decision.plan
                && plan.disposition == Disposition::Stopped
                && !failed
                && !entry.problems().is_empty()
            {
                entry.leave(plan);
                break;
            }
            if found.leaves_some() {
                let verification = entry.detail.verification.as_ref();
                if !failed && verification.is_some_and(|v| v.not_as_planned.is_empty()) {
                    self.leave(&mut entry, &mut found);
                }
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
            let before = entry.clone();
            entry.go_on(&more);
            found.counted = before.detail.before.keys().cloned().collect();
            found.critical = decision
                .finding()
                .map(Finding::critical)
                .unwrap_or_default();
            let taken = Box::pin(self.take(&mut entry, &mut changes, false, None, &mut found));
            match taken.await? {
                Taken::Started => {}
                Taken::Busy | Taken::Moved => {
                    return Err(Failure::Contended(self.resource().to_owned()));
                }
                // What was added meanwhile stays open; the verification says so.
                Taken::Refused | Taken::Spent => {
                    entry = before;
                    if found.trips.is_some() && !failed {
                        self.leave(&mut entry, &mut found);
                    }
                    break;
                }
            }
        }
        Ok((entry, found))
    }

    /// The run ends here, because the budget has no room for what is left: it stays,
    /// and the control trips for the resource if that alone is to blame. Nothing may
    /// be left by now, and then it does not trip.
    fn leave(&self, entry: &mut Entry<R::State>, found: &mut Found<R>) {
        if found.trips.is_some() {
            found.guards.resource_tripped.clone_from(&found.trips);
        }
        let facts = found.facts.as_ref();
        let decision = self.decide(facts, &found.policy, &found.guards, self.now());
        // An opt-out or another policy that came meanwhile: what was done is told.
        if let Some(plan) = &decision.plan
            && matches!(
                plan.disposition,
                Disposition::Tripped | Disposition::Pending
            )
        {
            entry.leave(plan);
        }
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
            if entry.has_failures() && unread::<R>(facts.as_ref()).is_empty() {
                // An answer was lost, or somebody else made the change: what is told
                // is what the resource shows.
                decide::settle::<R>(entry, &now, &decision);
            }
            entry.expire(self.now());
            let verification = decide::verify::<R>(entry, before, &now, &decision);
            // What the budget has no room for stays: that is no news.
            let as_expected = match found.leaves_some() {
                false => decide::has_news(entry, decision.plan.as_ref()),
                true => verification.not_as_planned.is_empty(),
            };
            let settled =
                entry.has_failures() || verification.passed() || as_expected || read == MOST_READS;
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
            fights.clone()
        });
        let is_left = match entry.head.status {
            Status::Tripped => true,
            Status::Pending => !entry.awaits_visibility(),
            _ => false,
        };
        if let Some(trip) = found.trips.as_ref().filter(|_| is_left) {
            trips::resource_over_budget(self.ledger(), &entry.head, trip).await?;
        }
        self.ledger().finish(&entry).await?;
        bus::tell(&self.engine.clients.eventbridge, &entry.head.id).await?;
        if is_left {
            self.record_left(&found).await?;
        }
        let failed = entry.head.status == Status::Failed;
        let (ledger, holder) = (self.ledger(), self.holder());
        let closed = match entry.awaits_visibility() {
            true => ledger.suspend(&entry, holder).await?,
            false => {
                let fights = fights.as_ref();
                ledger.close(&entry, holder, failed, fights).await?
            }
        };
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
            counted.remediations = Some(1);
            let event = self.run.trigger.actor.event_time;
            counted.time_to_closed = event
                .zip(entry.head.finished_at)
                .and_then(|(from, to)| Duration::try_from(to - from).ok());
        }
        // After the changes it was read again.
        let unread = unread::<R>(found.facts.as_ref());
        match closed {
            Closed::Done if !unread.is_empty() => Err(self.not_all_read(&unread)),
            Closed::Done if is_left => Ok(Outlook::Left(entry.head.status.name())),
            Closed::Done => Ok(Outlook::Done(entry.head.status.name())),
            Closed::LookAgain => {
                // Whoever asked for another look may have been the other control.
                let owner = R::INFO.id.lock_owner();
                if owner != R::INFO.id {
                    self.next.set(Some(owner));
                }
                Ok(Outlook::Again)
            }
        }
    }

    /// What is found and left, because of guards that were met since it was decided.
    fn left(&self, found: &Found<R>, now: Timestamp) -> Option<Entry<R::State>> {
        let facts = found.facts.as_ref();
        let decision = self.decide(facts, &found.policy, &found.guards, now);
        self.entry(facts, &decision, &found.policy, now)
    }

    /// Records what a run left because of the budget, as told: its own message said
    /// so, and the next look must not say it again.
    async fn record_left(&self, found: &Found<R>) -> Result<(), Failure> {
        let now = self.now();
        let Some(mut left) = self.left(found, now) else {
            return Ok(());
        };
        left.head.finished_at = Some(now);
        // Where another run has recorded something else, that is told, too.
        self.ledger()
            .record(&left, found.known.as_ref(), true)
            .await?;
        Ok(())
    }

    /// Records what was found and not changed, and notifies people once. While the
    /// control has tripped everywhere, the notice of the trip stands for all that is
    /// not critical.
    async fn record(
        &self,
        mut entry: Entry<R::State>,
        known: Option<&Known>,
        guards: &Guards,
    ) -> Result<Outlook, Failure> {
        entry.head.finished_at = Some(entry.head.started_at);
        let quiet = guards.told_with_the_trip(&entry.head);
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
        Ok(told.map_or(Outlook::Again, Outlook::Left))
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

/// Keeps the state of a setting that is good, to restore it by.
pub(crate) async fn keep_former<R: Remediation>(
    ledger: &Ledger,
    facts: &R::Facts,
    guards: &Guards,
    read_at: Timestamp,
) -> Result<(), LedgerError> {
    let former = guards.former.as_ref();
    let former = former.and_then(|former| R::State::deserialize(former).ok());
    match R::keeps(facts, former.as_ref()) {
        Some(state) => {
            let resource = R::subject(facts).id;
            let id = R::INFO.id;
            ledger.keep_former(id, resource, &state, read_at).await
        }
        None => Ok(()),
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
