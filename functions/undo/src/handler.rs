//! The pipeline of `undo`, top to bottom: parse, read the entry, gather, plan,
//! begin, apply, verify, finish, tell, close, answer.
//!
//! Whatever keeps it from changing anything is an answer in words; what fails
//! is an error. The kill switch does not stop it: it leads back. Deliberately
//! not here: what is decided (core) and how a call is made (aws).

use std::collections::BTreeMap;

use backstop_aws::bus;
use backstop_aws::clients::{Clients, EncryptionClients};
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{Begun, Closed, Holder, Ledger, LedgerError, Lock, Stored};
use backstop_aws::policy_store::PolicyStore;
use backstop_aws::settings::UndoSettings;
use backstop_aws::{security_groups, undo as steps};
use backstop_core::entry::Entry;
use backstop_core::policy::UndoRules;
use backstop_core::record::{self, Record};
use backstop_core::security_group::IngressRule;
use backstop_core::trigger::CheckRequested;
use backstop_core::undo::{
    self, Answer, Answered, Decision, InvalidRequest, Request, RuleStates, Undo, UndoStatus,
};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::Value;
use tracing::{error, info, warn};

/// How often a lock that changes hands is looked at again.
const MOST_LOOKS: usize = 4;

/// Everything that makes an undo fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("{0}: the lock changed hands again and again: ask again later")]
    Contended(String),
    #[error(
        "{resource}: not, or not wholly, taken back (undo {undo}): {what}; ask again once the cause is gone, what is done already is recognised"
    )]
    NotUndone {
        resource: String,
        undo: String,
        what: String,
    },
    #[error("the answer cannot be written as JSON: {0}")]
    Answer(#[from] serde_json::Error),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Request(_));
        diagnostic(&failure, retryable)
    }
}

/// What stays the same over an undo.
struct Run<'a> {
    request: &'a Request,
    entry: &'a Entry,
    holder: &'a Holder,
    deadline: &'a Deadline,
    /// For how many days what is put back is opted out, and whether the policy
    /// made them fewer.
    days: (u32, bool),
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    encryption: EncryptionClients,
    policy: PolicyStore,
    ledger: Ledger,
    state_machine_arn: String,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, encryption: EncryptionClients, settings: UndoSettings) -> Self {
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), settings.policy_parameter),
            ledger: Ledger::new(&clients, settings.ledger_table),
            clients,
            encryption,
            state_machine_arn: settings.state_machine_arn,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let deadline = invocation::deadline(&event.context, &self.clients.clock);
        let holder = invocation::holder(&event.context, &self.clients.clock);
        let answer = Box::pin(self.answer(&event.payload, &holder, &deadline)).await;
        match &answer {
            Ok(answer) => info!(verdict = ?answer.verdict, undo = ?answer.undo, "answered"),
            Err(failure) => error!(%failure, "undo failed"),
        }
        Ok(serde_json::to_value(answer?).map_err(Failure::from)?)
    }

    async fn answer(
        &self,
        payload: &Value,
        holder: &Holder,
        deadline: &Deadline,
    ) -> Result<Answer, Failure> {
        // parse
        let request = Request::parse(payload)?;
        // read the entry
        let entry = match self.ledger.read(&request.remediation).await? {
            None => {
                return Ok(Answer::new(
                    Answered::Unknown,
                    format!(
                        "the ledger has no entry {}; `backstop history` shows the ids",
                        request.remediation
                    ),
                ));
            }
            Some(Stored {
                record: Record::Remediation(entry),
                ..
            }) => entry,
            Some(Stored {
                record: Record::Encryption(entry),
                ..
            }) => {
                let days = request.days(self.most_days(deadline).await);
                return self.undo_encryption(&request, &entry, days, deadline).await;
            }
            // There is no way back, and what there is instead is on the record.
            Some(Stored {
                record: Record::Patching(run),
                ..
            }) => {
                let (days, _) = request.days(self.most_days(deadline).await);
                let until = undo::opt_out_until(self.clients.clock.now(), days);
                return Ok(undo::patchings::answer(&run, until));
            }
            Some(Stored { record, .. }) => {
                return Ok(Answer::new(
                    Answered::NotARemediation,
                    format!(
                        "{} is the id of a record of another kind ({}); only remediations can be taken back",
                        record.id(),
                        record.kind()
                    ),
                ));
            }
        };
        if let Some(answer) = undo::cannot_be_undone(&entry) {
            return Ok(answer);
        }
        let most = self.most_days(deadline).await;
        let run = Run {
            request: &request,
            entry: &entry,
            holder,
            deadline,
            days: request.days(most),
        };
        for _ in 0..MOST_LOOKS {
            if let Some(answer) = self.look(&run).await? {
                return Ok(answer);
            }
        }
        Err(Failure::Contended(entry.resource.clone()))
    }

    /// For how many days at most what is put back is opted out. A policy that
    /// cannot be read keeps nobody from going back: then the default holds.
    async fn most_days(&self, deadline: &Deadline) -> u32 {
        match self.policy.get(deadline).await {
            Ok(policy) => policy.policy.undo.most_opt_out_days,
            Err(problem) => {
                warn!(%problem, "the default number of opt-out days holds");
                UndoRules::default().most_opt_out_days
            }
        }
    }

    /// One look at the group; `None`: the lock changed hands, look again.
    async fn look(&self, run: &Run<'_>) -> Result<Option<Answer>, Failure> {
        let (entry, resource) = (run.entry, run.entry.resource_id());
        // gather
        let (facts, standing) = tokio::join!(
            security_groups::gather(&self.clients.ec2, resource, &entry.region, run.deadline),
            self.ledger.standing(entry.control, resource),
        );
        let (facts, standing) = (facts?, standing?);
        let now = self.clients.clock.now();
        let lapsed = match &standing.lock {
            Some(lock) if lock.is_live_for_others(&run.holder.id, now) => {
                return Ok(Some(in_progress()));
            }
            lapsed => lapsed.as_ref(),
        };
        let unfinished = match lapsed {
            Some(lock) => self.unfinished(lock, entry).await?,
            None => None,
        };
        // plan
        let states = match undo::plan(entry, &facts) {
            Decision::Nothing(why) => {
                return Ok(Some(Answer::new(
                    Answered::NothingToUndo,
                    format!("nothing was changed: {why}"),
                )));
            }
            // Nothing is left to do but to record and tell it.
            Decision::AsBefore(states) if unfinished.is_some() => states,
            Decision::AsBefore(states) => {
                let undone_by = self.ledger.undone_by(&entry.id).await?;
                return Ok(Some(Answer::as_before(states, undone_by.as_deref())));
            }
            Decision::Refused(states) => return Ok(Some(Answer::refused(states))),
            Decision::Restore(states) => states,
        };
        let fresh = new_undo(self.clients.clock.new_id(), run, &states, now);
        let undo = match &unfinished {
            Some(unfinished) => fresh.resuming(unfinished),
            None => fresh,
        };
        self.carry_out(run, undo, states, lapsed).await
    }

    /// The undo of the same entry that a lapsed lock was left by: one that was
    /// cut off, failed, or was not told. It goes on under its own id.
    async fn unfinished(&self, lock: &Lock, entry: &Entry) -> Result<Option<Undo>, Failure> {
        Ok(match self.ledger.read(&lock.entry).await? {
            Some(Stored {
                record: Record::Undo(undo),
                told,
            }) if undo.undoes == entry.id && (!told || undo.status == UndoStatus::UndoFailed) => {
                Some(*undo)
            }
            _ => None,
        })
    }

    /// begin, apply, verify, finish, tell, close, answer.
    async fn carry_out(
        &self,
        run: &Run<'_>,
        mut undo: Undo,
        states: Vec<RuleStates>,
        lapsed: Option<&Lock>,
    ) -> Result<Option<Answer>, Failure> {
        let begun = if undo.attempts == 1 {
            self.ledger.begin(&undo, run.holder, lapsed, 0).await
        } else {
            self.ledger.go_on(&undo, run.holder, lapsed, 0, 0).await
        };
        match begun? {
            Begun::Started => {}
            Begun::Busy => return Ok(Some(in_progress())),
            // No budget is spent, so it cannot be exceeded.
            Begun::Moved | Begun::OverBudget => return Ok(None),
        }
        let done = self.restore(run, &mut undo, &states).await;
        if let Err(failure) = &done {
            warn!(%failure, "the undo could not be recorded");
            // The next attempt must not find our own lock in its way.
            if let Err(error) = self
                .ledger
                .release(undo.control.name(), undo.resource_id(), run.holder)
                .await
            {
                warn!(%error, "the lock could not be released; its lease lapses by itself");
            }
        }
        done?;
        if undo.status == UndoStatus::UndoFailed {
            return Err(Failure::NotUndone {
                resource: undo.resource.clone(),
                undo: undo.id.clone(),
                what: undo.problems.join("; "),
            });
        }
        Ok(Some(Answer::undone(&undo, states, run.days)))
    }

    async fn restore(
        &self,
        run: &Run<'_>,
        undo: &mut Undo,
        states: &[RuleStates],
    ) -> Result<(), Failure> {
        let (ec2, group) = (&self.clients.ec2, undo.resource_id().to_owned());
        // apply
        let (control, until) = (undo.control, undo.opt_out_until);
        let today = jiff::tz::Offset::UTC
            .to_datetime(self.clients.clock.now())
            .date();
        let opt_out = |rule: &IngressRule| {
            undo::opt_out(control, today, until, run.request.by.as_deref(), &rule.tags)
        };
        let outcomes = steps::apply(ec2, &group, states, opt_out, run.deadline).await;
        for outcome in &outcomes {
            info!(undo = %undo.id, resource = %group, rule = %outcome.rule, step = ?outcome.step, ending = %outcome.ending, "step");
        }
        undo.add_attempt(outcomes);
        // verify
        let problems = match security_groups::gather(ec2, &group, &undo.region, run.deadline).await
        {
            Ok(facts) => undo::verify(states, &facts, control, today),
            Err(error) => vec![format!("the group could not be read again: {error}")],
        };
        undo.conclude(problems, self.clients.clock.now());
        // finish, tell, close
        self.ledger.finish(undo).await?;
        let failed = undo.status == UndoStatus::UndoFailed;
        if !failed {
            self.ledger.note_undone(&undo.undoes, &undo.id).await?;
        }
        bus::tell(&self.clients.eventbridge, &undo.id).await?;
        let closed = self.ledger.close(undo, run.holder, failed, None).await?;
        if closed == Closed::LookAgain {
            // A remediation met our lock and left its look to us.
            let check = CheckRequested::new(undo.control, group, None);
            bus::request_checks(&self.clients.eventbridge, &[check]).await?;
        }
        Ok(())
    }
}

fn in_progress() -> Answer {
    Answer::new(
        Answered::InProgress,
        "a run is at work on the resource; ask again in a minute",
    )
}

fn new_undo(id: String, run: &Run<'_>, states: &[RuleStates], now: Timestamp) -> Undo {
    let entry = run.entry;
    let mut before: BTreeMap<String, IngressRule> = BTreeMap::new();
    for state in states {
        for rule in state.now.iter().chain(&state.added) {
            before.insert(rule.id.clone(), rule.clone());
        }
    }
    Undo {
        version: record::VERSION,
        id,
        undoes: entry.id.clone(),
        control: entry.control,
        resource: entry.resource.clone(),
        resource_name: entry.resource_name.clone(),
        account: entry.account.clone(),
        region: entry.region.clone(),
        team: entry.team.clone(),
        status: UndoStatus::UndoInProgress,
        reason: run.request.reason.clone(),
        by: run.request.by.clone(),
        opt_out_until: undo::opt_out_until(now, run.days.0),
        restored: states.iter().map(RuleStates::restored).collect(),
        before,
        outcomes: Vec::new(),
        problems: Vec::new(),
        attempts: 1,
        started_at: now,
        finished_at: None,
    }
}

mod encryption;

#[cfg(test)]
mod tests;
