//! The account's setting `encryption by default`: looked at, turned on again,
//! looked at once more, told. One call, so it needs no state machine.

use backstop_aws::ledger::{Begun, Closed, Lock, Standing};
use backstop_aws::metrics;
use backstop_aws::{bus, volumes};
use backstop_core::controls::encryption_by_default;
use backstop_core::encryption::Encryption;
use backstop_core::trigger::{CheckRequested, Trigger};
use backstop_core::words::{Control, Mode, Status};
use tracing::{info, warn};

use crate::handler::{Failure, Handler, Invocation, elapsed};

const CONTROL: Control = Control::EncryptionByDefault;

impl Handler {
    pub(crate) async fn setting(
        &self,
        trigger: &Trigger,
        invocation: &Invocation,
    ) -> Result<&'static str, Failure> {
        // gather
        let deadline = &invocation.deadline;
        let (policy, standing, is_on) = tokio::join!(
            self.policy.get(deadline),
            self.ledger.standing(CONTROL, &trigger.region),
            volumes::encryption_by_default(&self.clients.ec2, deadline),
        );
        let (policy, standing, is_on) = (policy?, standing?, is_on?);
        let Standing {
            lock,
            known,
            guards,
        } = standing;
        // decide
        let now = self.clients.clock.now();
        let control = &policy.policy.controls.encryption_by_default;
        let mode = self.mode(control.mode);
        if mode == Mode::Off {
            return Ok("off");
        }
        let decided = encryption_by_default::decide(
            is_on,
            &policy.policy.encryption_by_default(),
            mode,
            &guards,
            now,
        );
        let lapsed = lock
            .as_ref()
            .filter(|lock| !lock.is_live_for_others(&invocation.holder.id, now));
        let unfinished = self.unfinished(lapsed).await?;
        let Some(decided) = decided else {
            // Turned on by an attempt that was cut off, or by somebody after one
            // that failed: that is told.
            if let Some(mut run) = unfinished {
                run.attempts += 1;
                let (ledger, holder) = (&self.ledger, &invocation.holder);
                return match ledger.go_on(&run, holder, lapsed, 0, 0).await? {
                    Begun::Started => self.conclude(run, None, trigger, invocation).await,
                    _ => Err(Failure::Contended(run.resource)),
                };
            }
            if let Some(known) = known {
                self.forget(CONTROL, &trigger.region, &known).await?;
            }
            return Ok("nothing to do");
        };
        let mut run = encryption_by_default::record(
            decided,
            trigger,
            &invocation.partition,
            &self.clients.clock.new_id(),
            policy.version,
            now,
        );
        info!(control = %CONTROL, outcome = run.status.name(), ?mode, "decided");
        if run.status != Status::InProgress {
            let told = self.record(&run, known.as_ref(), &guards).await?;
            return told.ok_or_else(|| Failure::Contended(run.resource.clone()));
        }
        // begin
        let budget = control.budget.changes_per_hour;
        // A retry goes on with the entry of the attempt before: a failure is
        // told once, and once more when it is mended.
        if let Some(before) = unfinished {
            run.id.clone_from(&before.id);
            run.started_at = before.started_at;
            run.attempts = before.attempts + 1;
        }
        let (ledger, holder) = (&self.ledger, &invocation.holder);
        let begun = match run.attempts {
            1 => ledger.begin(&run, holder, lapsed, budget).await,
            _ => ledger.go_on(&run, holder, lapsed, 0, budget).await,
        };
        match begun? {
            Begun::Started => {}
            Begun::Busy => return Ok("another run will look again"),
            Begun::Moved => return Err(Failure::Contended(run.resource)),
            Begun::OverBudget => {
                self.trip_control(&run, budget).await?;
                return Ok("tripped");
            }
        }
        let turned_on = self.turn_on(run, trigger, invocation).await;
        if let Err(failure) = &turned_on {
            warn!(%failure, "the lock is released for the retry");
            let (control, region) = (CONTROL.name(), &trigger.region);
            let released = self
                .ledger
                .release(control, region, &invocation.holder)
                .await;
            if let Err(error) = released {
                warn!(%error, "the lock could not be released; its lease lapses by itself");
            }
        }
        turned_on
    }

    /// The entry of a lapsed lock that was cut off or failed.
    async fn unfinished(&self, lapsed: Option<&Lock>) -> Result<Option<Encryption>, Failure> {
        let Some(lock) = lapsed else { return Ok(None) };
        let run = self.ledger.encryption(&lock.entry).await?;
        Ok(run.filter(|run| matches!(run.status, Status::InProgress | Status::Failed)))
    }

    /// apply, verify, then the end.
    async fn turn_on(
        &self,
        run: Encryption,
        trigger: &Trigger,
        invocation: &Invocation,
    ) -> Result<&'static str, Failure> {
        let (ec2, deadline) = (&self.clients.ec2, &invocation.deadline);
        let answer = volumes::enable_encryption_by_default(ec2, deadline).await;
        let is_on = volumes::encryption_by_default(ec2, deadline).await;
        let problem = match (answer, is_on) {
            (_, Ok(true)) => None,
            (Err(error), _) | (_, Err(error)) => Some(error.to_string()),
            (Ok(_), Ok(false)) => Some("it is still off".to_owned()),
        };
        self.conclude(run, problem, trigger, invocation).await
    }

    /// finish, tell, close, answer.
    async fn conclude(
        &self,
        mut run: Encryption,
        problem: Option<String>,
        trigger: &Trigger,
        invocation: &Invocation,
    ) -> Result<&'static str, Failure> {
        let mut counted = metrics::run(CONTROL.name());
        counted.findings = 1;
        let now = self.clients.clock.now();
        run.finished_at = Some(now);
        run.status = match problem {
            None => Status::Remediated,
            Some(_) => Status::Failed,
        };
        run.reasons = problem.clone().into_iter().collect();
        self.ledger.finish(&run).await?;
        bus::tell(&self.clients.eventbridge, &run.id).await?;
        let failed = problem.is_some();
        let closed = self
            .ledger
            .close(&run, &invocation.holder, failed, None)
            .await?;
        if closed == Closed::LookAgain {
            let check = CheckRequested::new(CONTROL, &trigger.region, None);
            bus::request_checks(&self.clients.eventbridge, &[check]).await?;
        }
        info!(entry = %run.id, control = %CONTROL, outcome = run.status.name(), "run closed");
        match problem {
            Some(what) => {
                counted.failures = 1;
                Err(Failure::NotTurnedOn {
                    entry: run.id,
                    what,
                })
            }
            None => {
                counted.remediations = 1;
                counted.time_to_closed = elapsed(trigger.actor.event_time, now);
                Ok(run.status.name())
            }
        }
    }
}
