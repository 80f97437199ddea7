//! The pipeline of `sweep`, top to bottom: walk, tell what a remediation of `imdsv1`
//! broke, take up what was cut off, tell what was not told, look at opt-outs, examine Backstop itself, sum up.
//!
//! What is open is asked to be checked, so that all fixing happens in one place.
//! The one change that it makes itself is to delete what the policy has kept for
//! long enough: originals of volumes (`volumes`), and snapshots that were taken
//! before patches (`snapshots`). A part that fails stops no other; what
//! could not be seen is said in the digest, and makes the run an error in the
//! end. Deliberately not here: what is decided (core), the texts (core).

use backstop_aws::bus;
use backstop_aws::clients::{Clients, OperationsClients};
use backstop_aws::clock::Clock;
use backstop_aws::deadline::Deadline;
use backstop_aws::doctor::{self, Deployment};
use backstop_aws::error::AwsError;
use backstop_aws::failed_events;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{Ledger, LedgerError, Recorded, Stored, Untold};
use backstop_aws::metrics;
use backstop_aws::opt_outs;
use backstop_aws::policy_store::{NoPolicy, PolicyStore, Versioned};
use backstop_aws::settings::SweepSettings;
use backstop_aws::storms;
use backstop_core::encryption::Way;
use backstop_core::exemption::opt_out_tags;
use backstop_core::failed_event;
use backstop_core::notice::{About, Digest, Health, Notice};
use backstop_core::record::Record;
use backstop_core::run::VERSION;
use backstop_core::sweep::{self, LastDigest, LastSweep};
use backstop_core::trigger::CheckRequested;
use backstop_core::words::{Actor, ControlId, Mode, Status};
use backstop_engine::{AT_ONCE, Baseline, Walk};
use jiff::Timestamp;
use jiff::tz::Offset;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info, warn};

/// Most failed events that a sweep reads. Of more, health tells the number.
const MOST_FAILED_EVENTS: usize = 200;

/// Everything that makes a sweep an error in the end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Policy(#[from] NoPolicy),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("the function's ARN `{0}` names no Region and account: invoke it by its ARN or name")]
    Where(String),
    #[error("the sweep could not see everything; it did the rest: {0}")]
    Unseen(String),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        diagnostic(&failure, true)
    }
}

/// Where and when a sweep runs.
struct Place {
    region: String,
    account: String,
    now: Timestamp,
    deadline: Deadline,
}

impl Place {
    /// Read off the function's own ARN: a sweep may be started by anything.
    fn of(context: &Context, clock: &Clock) -> Result<Self, Failure> {
        let arn = &context.invoked_function_arn;
        // arn:aws:lambda:<Region>:<account>:function:<name>
        let part = |n| arn.split(':').nth(n).filter(|part| !part.is_empty());
        let (Some(region), Some(account)) = (part(3), part(4)) else {
            return Err(Failure::Where(arn.clone()));
        };
        Ok(Self {
            region: region.to_owned(),
            account: account.to_owned(),
            now: clock.now(),
            deadline: invocation::deadline(context, clock),
        })
    }
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    operations: OperationsClients,
    policy: PolicyStore,
    ledger: Ledger,
    settings: SweepSettings,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, operations: OperationsClients, settings: SweepSettings) -> Self {
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), settings.policy_parameter.clone()),
            ledger: Ledger::new(&clients, settings.ledger_table.clone()),
            clients,
            operations,
            settings,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let swept = match Place::of(&event.context, &self.clients.clock) {
            Ok(place) => Box::pin(self.sweep(&place)).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &swept {
            error!(%failure, "sweep failed");
        }
        Ok(json!({ "verdict": swept? }))
    }

    async fn sweep(&self, place: &Place) -> Result<&'static str, Failure> {
        let mut digest = Digest::default();
        // Health first: a policy that is not valid ends the walk.
        let unhealthy = self.examine(place, &mut digest).await;
        match self.policy.get(&place.deadline).await {
            Ok(policy) => {
                self.walk(place, &policy, &mut digest).await;
                self.walk_volumes(place, &policy, &mut digest).await;
                self.walk_instances(place, &policy, &mut digest).await;
                self.walk_snapshots(place, &policy, &mut digest).await;
                self.see_opt_outs(place, &policy, &mut digest).await;
            }
            Err(problem) => digest.unseen.push(problem.to_string()),
        }
        if let Err(problem) = self.tell_refused_requests(place).await {
            let problem = format!("requests that instances refused: {problem}");
            digest.unseen.push(problem);
        }
        self.take_up(place, &mut digest).await;
        if let Err(problem) = self.tell_failed_events(place).await {
            digest.unseen.push(format!("the failed events: {problem}"));
        }
        let (bus, account, region) = (&self.clients.eventbridge, &place.account, &place.region);
        if let Err(problem) =
            storms::tell_ended(&self.ledger, bus, account, region, place.now).await
        {
            digest
                .unseen
                .push(format!("storms of messages that have ended: {problem}"));
        }
        match self.ledger.tripped_controls().await {
            Ok(tripped) => metrics::tripped(tripped.len() as u64),
            Err(problem) => {
                let problem = format!("which controls have tripped: {problem}");
                digest.unseen.push(problem);
            }
        }
        metrics::swept(unhealthy, digest.met_first.count);
        let told = self.sum_up(place, &mut digest).await;
        let sweep = LastSweep::of(&digest, self.clients.clock.now());
        if let Err(problem) = self.ledger.keep_sweep(&sweep).await {
            // It is shown by `backstop status`, and nothing is decided by it.
            warn!(%problem, "what the sweep came to is not kept");
        }
        info!(?digest, "swept");
        let told = told?;
        if digest.unseen.is_empty() {
            Ok(if told { "told" } else { "nothing new" })
        } else {
            Err(Failure::Unseen(digest.unseen.join("; ")))
        }
    }

    // --- walk

    /// Looks at the resources of every control that is remediated at once.
    async fn walk(&self, place: &Place, policy: &Versioned, digest: &mut Digest) {
        let walk = Walk {
            clients: &self.clients,
            ledger: &self.ledger,
            policy: &policy.policy,
            mode: self.settings.mode,
            region: &place.region,
            account: &place.account,
            now: place.now,
            deadline: &place.deadline,
        };
        for control in AT_ONCE {
            control.walk(&walk, digest).await;
        }
    }

    /// The baseline for a walk of a control, whose mode the policy may name;
    /// `None`: there is nothing to walk for, or nothing to go by, which the digest
    /// says.
    async fn baseline_of(
        &self,
        control: ControlId,
        mode: Option<Mode>,
        digest: &mut Digest,
    ) -> Option<Baseline> {
        let mode = mode.unwrap_or(self.settings.mode);
        Baseline::for_walk(&self.ledger, control, mode, digest).await
    }

    // --- what was cut off, what was not told

    /// Has runs taken up again that were cut off, and tells what was not told.
    async fn take_up(&self, place: &Place, digest: &mut Digest) {
        let untold = match self.ledger.untold().await {
            Ok(untold) => untold,
            Err(problem) => {
                digest
                    .unseen
                    .push(format!("what nobody was told yet: {problem}"));
                return;
            }
        };
        for Untold { id, started_at } in untold {
            let age = place.now.as_second() - started_at.as_second();
            if age < sweep::UNTOLD_SECONDS {
                continue;
            }
            if let Err(problem) = self.take_up_one(&id, place, digest).await {
                digest.unseen.push(format!("the record {id}: {problem}"));
            }
        }
    }

    async fn take_up_one(
        &self,
        id: &str,
        place: &Place,
        digest: &mut Digest,
    ) -> Result<(), Failure> {
        let Some(Stored {
            record,
            told: false,
        }) = self.ledger.read(id).await?
        else {
            return Ok(());
        };
        // Its command's end, or Inspector's next look: whoever looks asks for it.
        if let Record::Patching(run) = &record
            && (run.is_open() || run.awaits_rescan())
        {
            let checks = [asked_by(
                run.head.control,
                run.resource_id(),
                &run.head.actor,
            )];
            bus::request_checks(&self.clients.eventbridge, &checks).await?;
            return Ok(());
        }
        // Told already, and no run that was cut off.
        let waits = matches!(&record, Record::Remediation(entry) if entry.awaits_visibility());
        // What a run that may go on is about, and who is behind it.
        let of_run = match &record {
            Record::Remediation(entry) => Some((
                entry.head.control,
                entry.resource_id(),
                &entry.head.actor,
                waits || matches!(entry.head.status, Status::InProgress | Status::Failed),
            )),
            // The account's setting, of an earlier release: another kind of run by now,
            // which nothing resumes.
            Record::Encryption(run) if run.detail.way == Way::AccountSetting => {
                Some((run.head.control, run.resource_id(), &run.head.actor, false))
            }
            Record::Encryption(run) => Some((
                run.head.control,
                run.resource_id(),
                &run.head.actor,
                matches!(run.head.status, Status::InProgress | Status::Failed),
            )),
            Record::Patching(run) => {
                Some((run.head.control, run.resource_id(), &run.head.actor, false))
            }
            Record::Undo(_) | Record::Notice(_) => None,
        };
        if let Some((control, resource, actor, true)) = of_run
            && let Some(goes_on) = self.goes_on(id, control, resource, place).await?
        {
            if goes_on {
                let checks = [asked_by(control, resource, actor)];
                bus::request_checks(&self.clients.eventbridge, &checks).await?;
                info!(entry = %id, %control, resource, "to be taken up again");
                digest.resumed += u64::from(!waits);
            }
            return Ok(());
        }
        bus::tell(&self.clients.eventbridge, id).await?;
        if let Record::Encryption(run) = &record
            && let (Some(undone), Status::RolledBack) = (&run.detail.undoes, run.head.status)
        {
            self.ledger.note_undone(undone, id).await?;
        }
        if let Some((control, resource, ..)) = of_run {
            self.ledger.known_told(control.name(), resource, id).await?;
        }
        self.ledger.mark_told(id).await?;
        warn!(entry = %id, "told, because nobody had been");
        digest.told += 1;
        Ok(())
    }

    /// Whether a check makes an entry's run go on: its lock is there and has
    /// lapsed. `Some(false)`: it is at work. `None`: nothing hangs on it any
    /// more, it can only be told as it is.
    async fn goes_on(
        &self,
        entry: &str,
        control: ControlId,
        resource: &str,
        place: &Place,
    ) -> Result<Option<bool>, Failure> {
        let standing = self.ledger.standing(control, resource).await?;
        Ok(standing
            .lock
            .filter(|lock| lock.entry == entry)
            .map(|lock| !lock.is_live(place.now)))
    }

    // --- opt-outs, health, the digest

    async fn see_opt_outs(&self, place: &Place, policy: &Versioned, digest: &mut Digest) {
        match opt_outs::all(&self.clients.ec2, &place.deadline).await {
            Ok(tags) => {
                let today = Offset::UTC.to_datetime(place.now).date();
                let rules = &policy.policy.opt_out;
                let seen = tags
                    .iter()
                    .flat_map(|(id, tags)| opt_out_tags(tags).map(move |tag| (id, tag)))
                    .map(|(id, tag)| sweep::opt_out_seen(id, tag, today, rules))
                    .collect();
                sweep::list_opt_outs(digest, seen);
            }
            Err(error) => digest.unseen.push(format!("opt-out tags: {error}")),
        }
    }

    /// Examines Backstop itself: how many checks failed. What fails is told
    /// once, and once more when all is well again.
    async fn examine(&self, place: &Place, digest: &mut Digest) -> u64 {
        let deployment = Deployment {
            region: place.region.clone(),
            topic_arn: self.settings.topic_arn.clone(),
            queue_url: self.settings.queue_url.clone(),
            policy_parameter: self.settings.policy_parameter.clone(),
            stack: self.settings.stack_id.clone(),
        };
        let checks = doctor::examine(
            &self.clients,
            &self.operations,
            &deployment,
            &place.deadline,
        )
        .await;
        let failed: Vec<_> = checks
            .into_iter()
            .filter_map(|check| check.result.err())
            .collect();
        let count = failed.len() as u64;
        if let Err(problem) = self.tell_health(place, Health { failed }).await {
            digest.unseen.push(format!(
                "Backstop's own health could not be told: {problem}"
            ));
        }
        count
    }

    async fn tell_health(&self, place: &Place, health: Health) -> Result<(), Failure> {
        let well = health.failed.is_empty();
        let notice = self.new_notice(place, About::Health(health));
        // Well, and never otherwise: nothing to tell.
        if well
            && !self
                .ledger
                .knows_notice(notice.about.name(), &notice.subject())
                .await?
        {
            return Ok(());
        }
        self.tell_notice(&notice).await
    }

    /// Records and tells a notice, once while it says the same of its subject.
    async fn tell_notice(&self, notice: &Notice) -> Result<(), Failure> {
        let id = match self.ledger.record_notice(notice).await? {
            Recorded::New => notice.id.clone(),
            Recorded::Untold(id) => id,
            Recorded::Told | Recorded::Moved => return Ok(()),
        };
        bus::tell(&self.clients.eventbridge, &id).await?;
        self.ledger
            .known_told(notice.about.name(), &notice.subject(), &id)
            .await?;
        Ok(())
    }

    /// Tells each event that was given up, once: the alarm about their queue is
    /// raised by the first one that lies there and by no other. `notify` tells many
    /// as one.
    async fn tell_failed_events(&self, place: &Place) -> Result<(), Failure> {
        let (operations, queue) = (&self.operations, &self.settings.queue_url);
        let deadline = &place.deadline;
        let messages =
            failed_events::take_until(operations, queue, MOST_FAILED_EVENTS, deadline).await?;
        // At once, so that they do not seem gone: to people, and to the alarm.
        for message in &messages {
            if let Err(error) = failed_events::show(operations, queue, message, deadline).await {
                warn!(%error, id = %message.id, "it is shown again by itself");
            }
        }
        for message in &messages {
            let failed = failed_event::notice(&message.id, &message.event);
            let notice = self.new_notice(place, About::EventFailed(failed));
            self.tell_notice(&notice).await?;
        }
        Ok(())
    }

    /// One digest, if it says anything new.
    async fn sum_up(&self, place: &Place, digest: &mut Digest) -> Result<bool, Failure> {
        let last = self.ledger.last_digest().await?;
        digest.since = last.as_ref().map(|last| last.at);
        match self.ledger.outcomes_since(digest.since, place.now).await {
            Ok(outcomes) => digest.outcomes = outcomes,
            Err(problem) => digest.unseen.push(format!("what was done: {problem}")),
        }
        if !sweep::is_news(digest, last.as_ref(), place.now) {
            return Ok(false);
        }
        let says = LastDigest {
            at: place.now,
            said: sweep::says(digest),
        };
        let notice = self.new_notice(place, About::Digest(Box::new(digest.clone())));
        self.ledger.record_digest(&notice, &says).await?;
        bus::tell(&self.clients.eventbridge, &notice.id).await?;
        self.ledger.mark_told(&notice.id).await?;
        Ok(true)
    }

    fn new_notice(&self, place: &Place, about: About) -> Notice {
        Notice {
            version: VERSION,
            id: self.clients.clock.new_id(),
            account: place.account.clone(),
            region: place.region.clone(),
            at: place.now,
            about,
        }
    }
}

/// A request for a look, with who is behind it.
fn asked_by(control: ControlId, resource: &str, cause: &Actor) -> CheckRequested {
    CheckRequested::new(control, resource, Some(cause.clone()))
}

mod instances;
mod refused_requests;
mod snapshots;
mod volumes;

#[cfg(test)]
mod tests;
