//! The pipeline of `encrypt-volume` up to the beginning of a run, top to
//! bottom: parse, gather, decide, record what is not changed, or begin a run and
//! hand it to the state machine.
//!
//! Instances that start or stop come in batches from a queue, so that many at once
//! are one read of EC2. The state machine then calls this same function for each step (`advance`).
//! Deliberately not here: what is decided (core) and how a call is made (aws).

use std::collections::BTreeMap;
use std::time::Duration;

use backstop_aws::clients::{Clients, EncryptionClients};
use backstop_aws::clock::Clock;
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::findings::TellError;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{self, Begun, Known, Ledger, LedgerError, Lock, LockedRun, Standing};
use backstop_aws::metrics::{self, RunMetricsOnDrop};
use backstop_aws::policy_store::{NoPolicy, PolicyStore, Versioned};
use backstop_aws::settings::EncryptSettings;
use backstop_aws::trips;
use backstop_aws::{executions, findings, volumes};
use backstop_core::controls::unencrypted_volume::{self, About, Circumstances, Decision, Verdict};
use backstop_core::encryption::Encryption;
use backstop_core::guards::{Guards, OverBudget};
use backstop_core::sweep::volumes::page_key;
use backstop_core::trigger::{
    self, BrokenEvent, CHECK_REQUESTED, CheckRequested, OWN_SOURCE, Queued, Trigger, VolumesParsed,
};
use backstop_core::volumes::{ENTRY_TAG, Unit, Volume, VolumeFacts};
use backstop_core::words::{ControlId, Mode, Status};
use jiff::Timestamp;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::advance::shortened;

const CONTROL: ControlId = ControlId::UnencryptedVolume;

/// How often a lock that changes hands is looked at again.
const MOST_LOOKS: usize = 4;

/// Time that has to be left for one more look of a batch.
const TO_LOOK: Duration = Duration::from_secs(15);

/// Everything that makes a run fail, so that Lambda, or the state machine,
/// tries again.
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
    #[error("{0}: the lock changed hands again and again: look again later")]
    Contended(String),
    #[error("the ledger has no encryption `{0}`: nothing can be carried on")]
    NoEntry(String),
    #[error("there was no time left to look at it: look again later")]
    NoTime,
    #[error("{0}")]
    Batch(String),
    #[error("{resource}: another invocation took a step of entry {entry} meanwhile")]
    Overtaken { resource: String, entry: String },
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_) | Failure::NoEntry(_));
        diagnostic(&failure, retryable)
    }
}

/// One invocation.
pub(crate) struct Invocation {
    pub(crate) deadline: Deadline,
    /// `aws`, `aws-cn`, …: of the function's own ARN.
    pub(crate) partition: String,
}

impl Invocation {
    fn of(context: &Context, clock: &Clock) -> Self {
        let partition = context.invoked_function_arn.split(':').nth(1);
        Self {
            deadline: invocation::deadline(context, clock),
            partition: partition
                .filter(|partition| !partition.is_empty())
                .unwrap_or("aws")
                .to_owned(),
        }
    }
}

/// How a look at a unit ended.
enum Looked {
    Done(&'static str),
    Again,
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    pub(crate) clients: Clients,
    pub(crate) encryption: EncryptionClients,
    pub(crate) policy: PolicyStore,
    pub(crate) ledger: Ledger,
    pub(crate) settings: EncryptSettings,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, encryption: EncryptionClients, settings: EncryptSettings) -> Self {
        let of = &settings.remediation;
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), of.policy_parameter.clone()),
            ledger: Ledger::new(&clients, of.ledger_table.clone()),
            clients,
            encryption,
            settings,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let now = Invocation::of(&event.context, &self.clients.clock);
        let answer = match trigger::queued(&event.payload) {
            Some(queued) => Box::pin(self.batch(queued, &now)).await,
            None => self.one(&event.payload, &now).await,
        };
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        Ok(answer?)
    }

    /// The mode that holds for a control of this function.
    pub(crate) fn mode(&self, of_policy: Option<Mode>) -> Mode {
        of_policy.unwrap_or(self.settings.remediation.mode)
    }

    /// An event that came by itself, or a step of the state machine.
    async fn one(&self, payload: &Value, now: &Invocation) -> Result<Value, Failure> {
        match trigger::volumes(payload)? {
            VolumesParsed::Ignored(reason) => {
                info!(verdict = "ignored", %reason, "event ignored");
                Ok(json!({ "verdict": "ignored" }))
            }
            VolumesParsed::Advance { entry, go_back } => {
                Box::pin(self.advance(&entry, go_back, now)).await
            }
            VolumesParsed::NotMade { volume, cause } => {
                info!(%volume, "EBS could not make a volume");
                let cause = shortened(&cause);
                self.ledger.note_not_made(&volume, &cause).await?;
                Ok(json!({ "verdict": "noted" }))
            }
            VolumesParsed::Check(trigger) => {
                let checked = Box::pin(self.check(&trigger, None, now)).await;
                checked.map(verdict)
            }
        }
    }

    /// A batch: one read of all its instances, and a look at each that has
    /// something to look at. Answers with the messages that are to be delivered
    /// again.
    async fn batch(&self, queued: Vec<Queued>, now: &Invocation) -> Result<Value, Failure> {
        let all = queued.len();
        let mut failed: Vec<(String, String)> = Vec::new();
        let mut works: BTreeMap<String, (Trigger, Vec<String>)> = BTreeMap::new();
        for Queued { message, event } in queued {
            match event.and_then(|event| trigger::volumes(&event)) {
                Ok(VolumesParsed::Check(trigger)) => {
                    let id = trigger.resource.clone();
                    let (_, messages) = works.entry(id).or_insert_with(|| (*trigger, Vec::new()));
                    messages.push(message);
                }
                // Only what instances do comes from the queue.
                Ok(
                    VolumesParsed::Ignored(_)
                    | VolumesParsed::Advance { .. }
                    | VolumesParsed::NotMade { .. },
                ) => {}
                Err(broken) => failed.push((message, broken.to_string())),
            }
        }
        let ids: Vec<String> = works.keys().cloned().collect();
        let is_instance = |id: &String| id.starts_with("i-");
        let instances: Vec<String> = ids.iter().filter(|id| is_instance(id)).cloned().collect();
        let (units, standings) = tokio::join!(
            volumes::of_instances(&self.clients.ec2, &instances, &now.deadline),
            self.ledger.standings(CONTROL, &ids),
        );
        let mut units = units?;
        let mut looked_at = 0;
        for ((id, (trigger, messages)), standing) in works.into_iter().zip(standings?) {
            let unit = is_instance(&id).then(|| units.remove(&id).unwrap_or(Unit::Gone));
            // Nothing is to be encrypted, and nothing hangs on it.
            let at_rest = unit.as_ref().is_some_and(|unit| !has_unencrypted(unit));
            if at_rest && standing.lock.is_none() && standing.known.is_none() {
                continue;
            }
            looked_at += 1;
            let looked = match now.deadline.left() < TO_LOOK {
                true => Err(Failure::NoTime),
                false => Box::pin(self.check(&trigger, unit, now)).await,
            };
            if let Err(failure) = looked {
                let why = failure.to_string();
                let messages = messages.into_iter();
                failed.extend(messages.map(|message| (message, why.clone())));
            }
        }
        info!(
            messages = all,
            instances = ids.len(),
            looked_at,
            failed = failed.len(),
            "batch done"
        );
        for (message, why) in &failed {
            error!(%message, %why, "not done");
        }
        invocation::batch_answer(all, &failed)
            .map_err(|nothing| Failure::Batch(nothing.to_string()))
    }

    /// Looks at a unit, which may have been read already, and again where
    /// something moved meanwhile.
    async fn check(
        &self,
        trigger: &Trigger,
        mut unit: Option<Unit>,
        now: &Invocation,
    ) -> Result<&'static str, Failure> {
        for _ in 0..MOST_LOOKS {
            match self.look(trigger, unit.take(), now).await? {
                Looked::Done(verdict) => return Ok(verdict),
                Looked::Again => info!(resource = %trigger.resource, "looking again"),
            }
        }
        Err(Failure::Contended(trigger.resource.clone()))
    }

    async fn look(
        &self,
        trigger: &Trigger,
        unit: Option<Unit>,
        now: &Invocation,
    ) -> Result<Looked, Failure> {
        let mut counted = metrics::run(CONTROL.name());
        let looked = self.look_counted(trigger, unit, now, &mut counted).await;
        if looked.is_err() {
            counted.failures = Some(1);
        }
        looked
    }

    async fn look_counted(
        &self,
        trigger: &Trigger,
        unit: Option<Unit>,
        invocation: &Invocation,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        // a run that was cut off goes on before anything else: its way back needs
        // neither a policy nor a key, and its volumes may have moved since
        let deadline = &invocation.deadline;
        let resource = &trigger.resource;
        let Standing { lock, .. } = self.ledger.standing(CONTROL, resource).await?;
        if let Some(looked) = self.resumed(lock.as_ref()).await? {
            return Ok(looked);
        }

        // gather: the policy says which key, the unit says whose lock
        let policy = self.policy.get(deadline).await?;
        let control = &policy.policy.controls.unencrypted_volume;
        let (ec2, kms) = (&self.clients.ec2, &self.encryption.kms);
        let key = control.settings.kms_key.as_deref();
        let facts = match unit {
            Some(unit) => volumes::facts_of(ec2, kms, unit, key, deadline).await?,
            None => volumes::facts(ec2, kms, resource, key, deadline).await?,
        };
        let unit = unit_id(&facts, trigger);
        let (standing, locks) = self.standing(&unit, &facts).await?;
        let Standing {
            lock: lapsed,
            known,
            guards,
        } = standing;

        // What a run is at work on is no finding: it looks again at its end. And
        // one that was cut off goes on.
        let now = self.clients.clock.now();
        for (id, lock) in &locks {
            if lock.is_live(now) {
                return self.at_work(id, lock).await;
            }
            if let Some(looked) = self.resumed(Some(lock)).await? {
                return Ok(looked);
            }
        }

        // what was replaced and is in use again may be written to
        self.note_reused(&facts).await?;

        // decide: judge, exempt, plan
        let decision = self.decide(&facts, &policy, &guards, now);
        let mode = self.mode(control.mode);
        log_decision(trigger, &unit, &decision, mode);
        if mode == Mode::Off {
            return Ok(Looked::Done("off"));
        }
        if let Verdict::Settling { seconds } = decision.verdict {
            self.look_later(trigger, &facts, seconds).await?;
            return Ok(Looked::Done("settling"));
        }
        let id = self.clients.clock.new_id();
        let record = |decision: &Decision, guards: &Guards| {
            let about = About {
                id: &id,
                trigger,
                partition: &invocation.partition,
                owner_tag: &self.settings.remediation.owner_tag_key,
                policy_version: policy.version,
                kms_key: control.settings.kms_key.as_deref(),
                now,
            };
            let mut run = unencrypted_volume::record(&facts, decision, about)?;
            let mode = self.settings.remediation.mode;
            let key = page_key(unencrypted(&facts), &policy.policy, mode, guards, now);
            run.detail.page_key = Some(key);
            Some(run)
        };
        let Some(mut run) = record(&decision, &guards) else {
            if let Some(known) = known {
                self.forget(CONTROL, &unit, &known).await?;
            }
            return Ok(Looked::Done("nothing to do"));
        };
        counted.findings = Some(1);
        if run.head.status != Status::InProgress {
            return self.recorded(&run, known.as_ref(), &guards).await;
        }
        if let Some(bytes) = ledger::oversize(&run)? {
            run.head.status = Status::Refused;
            run.head.finished_at = Some(now);
            run.detail.reasons.push(format!(
                "the ledger cannot hold what was there before ({bytes} bytes): encrypt it by hand"
            ));
            run.detail.volumes.truncate(20);
            return self.recorded(&run, known.as_ref(), &guards).await;
        }
        let Some(looked) = self.begin(run, lapsed.as_ref(), &policy).await? else {
            let guards = Guards {
                budget_spent: true,
                ..guards
            };
            let decision = self.decide(&facts, &policy, &guards, now);
            return match record(&decision, &guards) {
                Some(run) => self.recorded(&run, known.as_ref(), &guards).await,
                None => Ok(Looked::Again),
            };
        };
        if let (Some(known), Looked::Done("begun")) = (&known, &looked) {
            self.forget(CONTROL, &unit, known).await?;
        }
        Ok(looked)
    }

    /// What the ledger holds about a unit, with the baseline and the trips of its
    /// volumes: they hang on them and not on what they are attached to. Beside
    /// it every lock, with what it is of: a volume may have been at work on
    /// before it was attached.
    async fn standing(
        &self,
        unit: &str,
        facts: &VolumeFacts,
    ) -> Result<(Standing, Vec<(String, Lock)>), Failure> {
        let mut ids = vec![unit.to_owned()];
        if let Unit::Instance(_, volumes) = &facts.unit {
            let unencrypted = volumes.iter().filter(|volume| !volume.encrypted);
            ids.extend(unencrypted.map(|volume| volume.id.clone()));
        }
        let standings = self.ledger.standings(CONTROL, &ids).await?;
        let locks = ids
            .iter()
            .zip(&standings)
            .filter_map(|(id, standing)| Some((id.clone(), standing.lock.clone()?)))
            .collect();
        let mut standings = standings.into_iter();
        let mut standing = standings.next().unwrap_or_default();
        for of_volume in standings {
            standing.guards.baseline.extend(of_volume.guards.baseline);
            let tripped = &mut standing.guards.resource_tripped;
            *tripped = tripped.take().or(of_volume.guards.resource_tripped);
        }
        Ok((standing, locks))
    }

    /// Notes on the entries of runs that originals which they replaced are in
    /// use again: what is written to them now is nowhere else.
    async fn note_reused(&self, facts: &VolumeFacts) -> Result<(), Failure> {
        let Unit::Instance(_, volumes) = &facts.unit else {
            return Ok(());
        };
        for volume in volumes.iter().filter(|volume| !volume.encrypted) {
            let copy = unencrypted_volume::superseded_by(volume, facts);
            if let Some(entry) = copy.and_then(|copy| copy.tags.get(ENTRY_TAG)) {
                self.ledger.note_reused(entry, &volume.id).await?;
            }
        }
        Ok(())
    }

    fn decide(
        &self,
        facts: &VolumeFacts,
        policy: &Versioned,
        guards: &Guards,
        now: Timestamp,
    ) -> Decision {
        let circumstances = Circumstances {
            mode: self.settings.remediation.mode,
            now,
            guards,
        };
        unencrypted_volume::decide(facts, &policy.policy.unencrypted_volume(), &circumstances)
    }

    /// The run that a lock is held for, if it has not ended.
    async fn open_run(&self, lock: &Lock) -> Result<Option<Encryption>, Failure> {
        let run = self.ledger.encryption(&lock.entry).await?;
        Ok(run.filter(Encryption::is_open))
    }

    /// Takes up the run of a lapsed lock; `None`: there is none to take up.
    async fn resumed(&self, lock: Option<&Lock>) -> Result<Option<Looked>, Failure> {
        let lapsed = lock.filter(|lock| !lock.is_live(self.clients.clock.now()));
        let Some(lock) = lapsed else { return Ok(None) };
        match self.open_run(lock).await? {
            Some(run) => self.resume(run, lock).await.map(Some),
            None => Ok(None),
        }
    }

    /// A live lock: its run looks again at its end. One that has not taken a
    /// step may have been cut off before its execution was started.
    async fn at_work(&self, id: &str, lock: &Lock) -> Result<Looked, Failure> {
        if let Some(run) = self.open_run(lock).await?
            && run.detail.revision == 0
        {
            self.start(&run).await?;
        }
        Ok(match self.ledger.look_again(CONTROL, id, lock).await? {
            Begun::Moved => Looked::Again,
            _ => Looked::Done("another run will look again"),
        })
    }

    // --- begin

    /// The lock, the record and the budget in one transaction; then the state
    /// machine has it. `None`: it waits for the budget of the next hour.
    async fn begin(
        &self,
        run: Encryption,
        lapsed: Option<&Lock>,
        policy: &Versioned,
    ) -> Result<Option<Looked>, Failure> {
        let budget = policy
            .policy
            .controls
            .unencrypted_volume
            .budget
            .changes_per_hour;
        let holder = self.ledger.run_holder(&run.head.id);
        let looked = match self.ledger.begin(&run, &holder, lapsed, budget).await? {
            Begun::Started => {
                self.start(&run).await?;
                Looked::Done("begun")
            }
            Begun::Busy => Looked::Done("another run will look again"),
            Begun::Moved => Looked::Again,
            Begun::OverBudget => match self.over_budget(&run, budget).await? {
                OverBudget::Spent => return Ok(None),
                _ => Looked::Again,
            },
        };
        Ok(Some(looked))
    }

    /// The budget refused the run: the control trips, for the instance alone if its
    /// volumes are more than the budget, and changes nothing more until a person
    /// re-arms it; or the run waits for the next hour. An instance is never encrypted
    /// in part for the budget's sake.
    async fn over_budget(&self, run: &Encryption, budget: u32) -> Result<OverBudget, Failure> {
        let (ledger, bus) = (&self.ledger, &self.clients.eventbridge);
        Ok(trips::refused(ledger, bus, &run.head, run.changes(), budget).await?)
    }

    /// Takes a run up again whose state machine has ended, or never began.
    async fn resume(&self, mut run: Encryption, lapsed: &Lock) -> Result<Looked, Failure> {
        run.head.attempts += 1;
        run.detail.revision += 1;
        let holder = self.ledger.run_holder(&run.head.id);
        match self
            .ledger
            // Its changes were counted when it was begun.
            .go_on(&run, &holder, Some(lapsed), 0, 0)
            .await?
        {
            Begun::Started => {}
            Begun::Busy => return Ok(Looked::Done("another run will look again")),
            Begun::Moved | Begun::OverBudget => return Ok(Looked::Again),
        }
        self.start(&run).await?;
        warn!(entry = %run.head.id, resource = %run.head.resource, attempts = run.head.attempts, "taken up again");
        Ok(Looked::Done("taken up again"))
    }

    /// Hands a run to the state machine.
    async fn start(&self, run: &Encryption) -> Result<(), Failure> {
        let (sfn, machine) = (&self.encryption.sfn, &self.settings.state_machine_arn);
        executions::start_run(sfn, &self.ledger, machine, run).await?;
        info!(entry = %run.head.id, resource = %run.head.resource, way = ?run.detail.way, volumes = run.detail.volumes.len(), "run begun");
        Ok(())
    }

    /// A volume that was created a moment ago: the state machine waits, and has
    /// it looked at again.
    async fn look_later(
        &self,
        trigger: &Trigger,
        facts: &VolumeFacts,
        seconds: u32,
    ) -> Result<(), Failure> {
        let Unit::Volume(volume) = &facts.unit else {
            return Ok(());
        };
        let created = volume.created_at.map_or(0, |at| at.as_second());
        // However many events there are, one look is enough.
        let name = format!("settle-{}-{created}", volume.id);
        let again = CheckRequested::new(CONTROL, &volume.id, Some(trigger.actor.clone()));
        let input = json!({ "settle": { "seconds": seconds + 5, "event": {
            "id": trigger.actor.event_id,
            "source": OWN_SOURCE,
            "detail-type": CHECK_REQUESTED,
            "account": trigger.account,
            "region": trigger.region,
            "time": self.clients.clock.now(),
            "resources": [],
            "detail": again,
        }}});
        let machine = &self.settings.state_machine_arn;
        executions::start(&self.encryption.sfn, machine, &name, &input).await?;
        info!(resource = %volume.id, seconds, "looked at again once it has settled");
        Ok(())
    }

    // --- what is not changed

    /// Records and tells what was found and not changed, once. While the
    /// control has tripped everywhere, that was told as a group. `None`: another
    /// run recorded something else meanwhile.
    pub(crate) async fn record(
        &self,
        run: &Encryption,
        known: Option<&Known>,
        guards: &Guards,
    ) -> Result<Option<&'static str>, Failure> {
        let quiet = guards.told_with_the_trip(&run.head);
        let bus = &self.clients.eventbridge;
        Ok(findings::record(&self.ledger, bus, run, known, quiet).await?)
    }

    async fn recorded(
        &self,
        run: &Encryption,
        known: Option<&Known>,
        guards: &Guards,
    ) -> Result<Looked, Failure> {
        let told = self.record(run, known, guards).await?;
        Ok(told.map_or(Looked::Again, Looked::Done))
    }

    /// What was recorded before holds no more.
    pub(crate) async fn forget(
        &self,
        control: ControlId,
        resource: &str,
        known: &Known,
    ) -> Result<(), Failure> {
        let bus = &self.clients.eventbridge;
        Ok(findings::forget(&self.ledger, bus, control, resource, known).await?)
    }
}

/// Whether a unit has volumes that are not encrypted.
fn has_unencrypted(unit: &Unit) -> bool {
    match unit {
        Unit::Gone => false,
        Unit::Volume(volume) => !volume.encrypted,
        Unit::Instance(_, volumes) => volumes.iter().any(|volume| !volume.encrypted),
    }
}

/// The volumes of a unit that a page of the sweep shows.
fn unencrypted(facts: &VolumeFacts) -> Vec<&Volume> {
    let volumes: Vec<&Volume> = match &facts.unit {
        Unit::Gone => Vec::new(),
        Unit::Volume(volume) => vec![volume],
        Unit::Instance(_, volumes) => volumes.iter().collect(),
    };
    volumes.into_iter().filter(|v| !v.encrypted).collect()
}

fn verdict(verdict: &'static str) -> Value {
    json!({ "verdict": verdict })
}

/// The id that the unit's lock hangs on.
fn unit_id(facts: &VolumeFacts, trigger: &Trigger) -> String {
    match &facts.unit {
        Unit::Gone => trigger.resource.clone(),
        Unit::Volume(volume) => volume.id.clone(),
        Unit::Instance(instance, _) => instance.id.clone(),
    }
}

fn log_decision(trigger: &Trigger, unit: &str, decision: &Decision, mode: Mode) {
    let (verdict, volumes) = match &decision.verdict {
        Verdict::NotApplicable(_) => ("not-applicable", 0),
        Verdict::Compliant => ("compliant", 0),
        Verdict::Settling { .. } => ("settling", 1),
        Verdict::Violates(volumes) => ("violates", volumes.len()),
    };
    info!(
        resource = %unit,
        looked_for = %trigger.resource,
        event = trigger.actor.event_id.as_deref().unwrap_or("-"),
        control = %CONTROL,
        verdict,
        volumes,
        status = decision.status.name(),
        way = ?decision.way,
        ?mode,
        "decided"
    );
}

/// Milliseconds since a time, for the metric.
pub(crate) fn elapsed(since: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    since.and_then(|since| Duration::try_from(now.duration_since(since)).ok())
}

#[cfg(test)]
mod tests;
