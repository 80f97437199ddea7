//! The pipeline of `sweep`, top to bottom: walk, take up what was cut off, tell
//! what was not told, look at opt-outs, examine Backstop itself, sum up.
//!
//! What is open is asked to be checked, so that all fixing happens in one place.
//! The one change that it makes itself is to delete originals of volumes that
//! the policy has kept for long enough (`volumes`). A part that fails stops no other; what
//! could not be seen is said in the digest, and makes the run an error in the
//! end. Deliberately not here: what is decided (core), the texts (core).

use std::collections::BTreeSet;

use backstop_aws::bus;
use backstop_aws::clients::{Clients, OperationsClients};
use backstop_aws::clock::Clock;
use backstop_aws::deadline::Deadline;
use backstop_aws::doctor::{self, Deployment};
use backstop_aws::error::AwsError;
use backstop_aws::group_pages;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{Ledger, LedgerError, Recorded, Standing, Stored, Untold};
use backstop_aws::metrics;
use backstop_aws::opt_outs;
use backstop_aws::policy_store::{NoPolicy, PolicyStore, Versioned};
use backstop_aws::settings::SweepSettings;
use backstop_aws::storms;
use backstop_core::controls::open_ingress::{self, Circumstances, Decision, Verdict};
use backstop_core::guards::Guards;
use backstop_core::notice::{About, Digest, Health, Notice};
use backstop_core::record::{self, Record};
use backstop_core::security_group::{Facts, SecurityGroup};
use backstop_core::sweep::{self, LastDigest};
use backstop_core::trigger::CheckRequested;
use backstop_core::words::{Actor, Control, Mode, Status};
use jiff::Timestamp;
use jiff::tz::Offset;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info, warn};

const CONTROL: Control = Control::OpenIngress;

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
                self.see_setting(place, &policy, &mut digest).await;
                self.walk_instances(place, &policy, &mut digest).await;
                self.see_opt_outs(place, &policy, &mut digest).await;
            }
            Err(problem) => digest.unseen.push(problem.to_string()),
        }
        self.take_up(place, &mut digest).await;
        let (bus, account, region) = (&self.clients.eventbridge, &place.account, &place.region);
        if let Err(problem) =
            storms::tell_ended(&self.ledger, bus, account, region, place.now).await
        {
            digest
                .unseen
                .push(format!("storms of messages that have ended: {problem}"));
        }
        metrics::swept(
            unhealthy,
            digest.looked_at.values().sum(),
            digest.met_first.count,
        );
        let told = self.sum_up(place, &mut digest).await;
        info!(?digest, "swept");
        let told = told?;
        if digest.unseen.is_empty() {
            Ok(if told { "told" } else { "nothing new" })
        } else {
            Err(Failure::Unseen(digest.unseen.join("; ")))
        }
    }

    // --- walk

    /// Looks at every group, a page at a time.
    async fn walk(&self, place: &Place, policy: &Versioned, digest: &mut Digest) {
        let mode = policy.policy.controls.open_ingress.mode;
        let Some(mut baseline) = self.baseline_of(CONTROL, mode, digest).await else {
            return;
        };
        let mut problems: Vec<String> = Vec::new();
        let walked = group_pages::walk(
            &self.clients.ec2,
            &place.region,
            &place.deadline,
            async |page| {
                *digest.looked_at.entry(CONTROL).or_default() += page.len() as u64;
                let looked = self
                    .look_at(page, place, policy, &mut baseline, digest)
                    .await;
                problems.extend(looked.err().map(|failure| failure.to_string()));
            },
        )
        .await;
        let complete = walked.is_ok() && problems.is_empty();
        match walked {
            Ok(walked) => problems.extend(walked.unseen),
            Err(stopped) => problems.push(stopped.to_string()),
        }
        problems.dedup();
        if complete && matches!(baseline, Baseline::Begins) {
            let complete = self.ledger.baseline_is_complete(CONTROL).await;
            problems.extend(complete.err().map(|problem| problem.to_string()));
        }
        digest.unseen.extend(problems);
    }

    /// The baseline for a walk of a control, whose mode the policy may name;
    /// `None`: there is nothing to walk for, or nothing to go by, which is said.
    async fn baseline_of(
        &self,
        control: Control,
        mode: Option<Mode>,
        digest: &mut Digest,
    ) -> Option<Baseline> {
        let mode = mode.unwrap_or(self.settings.mode);
        match self.baseline(control, mode).await {
            Ok(baseline) => (mode != Mode::Off).then_some(baseline),
            Err(problem) => {
                let problem = format!("the baseline of {control}: {problem}");
                digest.unseen.push(problem);
                None
            }
        }
    }

    /// Whether this walk makes the control's baseline.
    async fn baseline(&self, control: Control, mode: Mode) -> Result<Baseline, LedgerError> {
        let stands = self.ledger.has_baseline(control).await?;
        Ok(match (mode, stands) {
            (Mode::Enforce, true) => {
                Baseline::Stands(self.ledger.baseline_resources(control).await?)
            }
            (Mode::Enforce, false) => Baseline::Begins,
            (_, false) => Baseline::None,
            (_, true) => {
                self.ledger.forget_baseline(control).await?;
                Baseline::None
            }
        })
    }

    /// Looks at a page of groups: asks for a check of each that wants one.
    async fn look_at(
        &self,
        page: Vec<SecurityGroup>,
        place: &Place,
        policy: &Versioned,
        baseline: &mut Baseline,
        digest: &mut Digest,
    ) -> Result<(), Failure> {
        let decide = |group: &SecurityGroup, guards: &Guards| {
            let circumstances = Circumstances {
                mode: self.settings.mode,
                account: &place.account,
                now: place.now,
                guards,
            };
            let facts = Facts::Group(Box::new(group.clone()));
            open_ingress::decide(&facts, &policy.policy.open_ingress(), &circumstances)
        };
        let unguarded = Guards::default();
        let open: Vec<SecurityGroup> = page
            .into_iter()
            .filter(|group| {
                baseline.spares(&group.id)
                    || matches!(decide(group, &unguarded).verdict, Verdict::Violates(_))
            })
            .collect();
        let ids: Vec<String> = open.iter().map(|group| group.id.clone()).collect();
        let standings = self.ledger.standings(CONTROL, &ids).await?;
        let mut checks = Vec::new();
        for (group, standing) in open.iter().zip(standings) {
            let Standing {
                lock,
                known,
                mut guards,
            } = standing;
            // What was closed since is no longer spared: should it come back,
            // it is new.
            if baseline.spares(&group.id) {
                self.prune(group, &mut guards).await?;
            }
            let mut decision = decide(group, &guards);
            // What a run is about to close is not part of it.
            let at_work = lock.as_ref().is_some_and(|lock| lock.is_live(place.now));
            if matches!(baseline, Baseline::Begins) && !at_work {
                // Before it is asked for: else it would be put right.
                self.note(group, &decision, &mut guards).await?;
                decision = decide(group, &guards);
            }
            let Some(reason) = sweep::reason(&decision) else {
                continue;
            };
            let by_reason = digest.open.entry(CONTROL).or_default();
            sweep::count(by_reason.entry(reason.to_owned()).or_default(), &group.id);
            if lock.is_none() && known.is_none() {
                sweep::count(&mut digest.met_first, &group.id);
            }
            let told = known.filter(|known| known.told);
            if sweep::asks(&decision, told.and_then(|known| known.page_key).as_deref()) {
                checks.push(check(CONTROL, &group.id, sweeping()));
            }
        }
        self.ask(&checks, digest).await;
        Ok(())
    }

    /// Asks for checks. That it cannot is said, and no reason to make the baseline
    /// once more.
    async fn ask(&self, checks: &[CheckRequested], digest: &mut Digest) {
        let asked = bus::request_checks(&self.clients.eventbridge, checks).await;
        let not_asked = asked.err();
        digest
            .unseen
            .extend(not_asked.map(|error| format!("checks that could not be asked for: {error}")));
    }

    /// Takes out of the baseline what is not there any more.
    async fn prune(&self, group: &SecurityGroup, guards: &mut Guards) -> Result<(), Failure> {
        let there: BTreeSet<String> = group
            .rules
            .values()
            .map(|rule| open_ingress::fingerprint(&group.id, rule))
            .collect();
        let before = guards.baseline.len();
        guards.baseline.retain(|spared| there.contains(spared));
        if guards.baseline.len() < before {
            let left = guards.baseline.iter().cloned().collect();
            self.ledger.set_baseline(CONTROL, &group.id, left).await?;
        }
        Ok(())
    }

    /// Notes what is open on a group as part of the baseline.
    async fn note(
        &self,
        group: &SecurityGroup,
        decision: &Decision,
        guards: &mut Guards,
    ) -> Result<(), Failure> {
        let mut fingerprints = sweep::baseline(decision);
        fingerprints.extend(guards.baseline.iter().cloned());
        fingerprints.sort();
        fingerprints.dedup();
        self.ledger
            .set_baseline(CONTROL, &group.id, fingerprints.clone())
            .await?;
        guards.baseline = fingerprints.into_iter().collect();
        Ok(())
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
            let checks = [check(run.control, run.resource_id(), run.actor.clone())];
            bus::request_checks(&self.clients.eventbridge, &checks).await?;
            return Ok(());
        }
        // What a run that may go on is about, and who is behind it.
        let of_run = match &record {
            Record::Remediation(entry) => Some((
                entry.control,
                entry.resource_id(),
                &entry.actor,
                matches!(entry.status, Status::InProgress | Status::Failed),
            )),
            Record::Encryption(run) => Some((
                run.control,
                run.resource_id(),
                &run.actor,
                matches!(run.status, Status::InProgress | Status::Failed),
            )),
            Record::Patching(run) => Some((run.control, run.resource_id(), &run.actor, false)),
            Record::Undo(_) | Record::Notice(_) => None,
        };
        if let Some((control, resource, actor, true)) = of_run
            && let Some(goes_on) = self.goes_on(id, control, resource, place).await?
        {
            if goes_on {
                let checks = [check(control, resource, actor.clone())];
                bus::request_checks(&self.clients.eventbridge, &checks).await?;
                info!(entry = %id, %control, resource, "to be taken up again");
                digest.resumed += 1;
            }
            return Ok(());
        }
        bus::tell(&self.clients.eventbridge, id).await?;
        if let Record::Encryption(run) = &record
            && let (Some(undone), Status::RolledBack) = (&run.undoes, run.status)
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
        control: Control,
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
                let require_end = policy.policy.opt_out.require_end;
                let seen = tags
                    .iter()
                    .map(|(id, value)| sweep::opt_out_seen(id, value, today, require_end))
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
            rule_names: self.settings.rule_names.clone(),
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
        let id = match self.ledger.record_notice(&notice).await? {
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
            version: record::VERSION,
            id: self.clients.clock.new_id(),
            account: place.account.clone(),
            region: place.region.clone(),
            at: place.now,
            about,
        }
    }
}

/// Whether there is a baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Baseline {
    /// The control does not act: none is kept.
    None,
    /// This walk makes it.
    Begins,
    /// It was made by an earlier walk, and spares something on these resources.
    Stands(BTreeSet<String>),
}

impl Baseline {
    fn spares(&self, resource: &str) -> bool {
        matches!(self, Self::Stands(resources) if resources.contains(resource))
    }
}

fn check(control: Control, resource: &str, cause: Actor) -> CheckRequested {
    CheckRequested::new(control, resource, Some(cause))
}

/// Who touched it last is not known.
fn sweeping() -> Actor {
    Actor {
        principal: Some("found by Backstop's sweep; who opened it is not known".to_owned()),
        event_name: Some("Sweep".to_owned()),
        ..Actor::default()
    }
}

mod instances;
mod volumes;

#[cfg(test)]
mod tests;
