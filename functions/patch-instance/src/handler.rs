//! The pipeline of `patch-instance`: parse a batch, gather what is known of its
//! instances, decide about each, record what is not changed, begin a run for
//! the others; then snapshots, one command for up to fifty of them (`carry`).
//!
//! Events come in batches from a queue, so that many findings of one instance
//! become one run, and many instances few commands. What becomes of a command
//! is another event, which leads back to the run (`follow`).
//!
//! Instances are looked at one after the other: what takes time is done for all
//! of a batch at once, and EC2 and the ledger are not pushed. Deliberately not
//! here: what is decided (core), and how a call is made (aws).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::clock::Clock;
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::findings::{self, TellError};
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{self, Begun, Known, Ledger, LedgerError, Lock, Standing};
use backstop_aws::metrics;
use backstop_aws::patching::{self, MOST_INSTANCES};
use backstop_aws::policy_store::{NoPolicy, PolicyStore, Versioned};
use backstop_aws::settings::PatchSettings;
use backstop_aws::trips;
use backstop_core::guards::{Guards, OverBudget};
use backstop_core::patching::decide::{self, About, Circumstances, Decision, Verdict};
use backstop_core::patching::{Agent, Host, Operation, PatchFacts, PatchState, Patching, Reports};
use backstop_core::sweep::patching::page_key;
use backstop_core::trigger::{self, BrokenEvent, Hint, PatchingParsed, Queued, Says, Trigger};
use backstop_core::words::{ControlId, Mode, Status};
use jiff::Timestamp;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info};

mod carry;
mod follow;

use carry::{Carried, MOST_ATTEMPTS};

/// How often an instance is looked at again in one invocation.
const MOST_LOOKS: usize = 4;

/// How often a write that another invocation was quicker with is tried again.
const MOST_WRITES: usize = 5;

/// Time that has to be left for a run to begin: its snapshots, its command, and
/// what is written down about them.
const TO_BEGIN: Duration = Duration::from_secs(45);

/// Everything that makes a look at an instance fail, so that its messages are
/// delivered again.
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
    #[error("{0}: it changed again and again while it was looked at: look again later")]
    Contended(String),
    #[error("there was no time left to begin: look again later")]
    NoTime,
    #[error("another invocation wrote entry {0} meanwhile: look again later")]
    Overtaken(String),
    #[error("the command of entry {entry} may or may not have been sent: {error}")]
    Unanswered { entry: String, error: AwsError },
    #[error("{0}")]
    Batch(String),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_));
        diagnostic(&failure, retryable)
    }
}

/// One invocation.
struct Invocation {
    deadline: Deadline,
    /// `aws`, `aws-cn`, …: of the function's own ARN.
    partition: String,
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

/// An instance to look at, for all messages of a batch that name it.
struct Work {
    trigger: Trigger,
    says: Vec<Says>,
    /// The queue's messages; none: it came by itself.
    messages: Vec<String>,
}

impl Work {
    fn id(&self) -> &str {
        &self.trigger.resource
    }
}

/// How a look at an instance ended.
enum Looked {
    Done(&'static str),
    Again,
    /// A run has begun: its snapshots and its command are still to come.
    Begun(Box<Patching>),
}

/// What is read for all instances of a batch at once.
struct World {
    policy: Versioned,
    hosts: BTreeMap<String, Host>,
    agents: BTreeMap<String, Agent>,
    states: BTreeMap<String, PatchState>,
    reports: BTreeMap<String, Reports>,
    standings: BTreeMap<ControlId, BTreeMap<String, Standing>>,
    /// The entries of encryptions that are under way, by instance.
    encryptions: BTreeMap<String, String>,
}

impl World {
    fn facts(&self, id: &str, reports: &Reports) -> PatchFacts {
        PatchFacts {
            host: self.hosts.get(id).cloned(),
            agent: self.agents.get(id).cloned(),
            state: self.states.get(id).cloned(),
            findings: reports.active.values().cloned().collect(),
            unpatchable: reports.unpatchable.clone(),
            encrypting: self.encryptions.get(id).cloned(),
            ..PatchFacts::default()
        }
    }

    fn guards(&self, id: &str) -> BTreeMap<ControlId, Guards> {
        self.standings
            .iter()
            .filter_map(|(control, of)| Some((*control, of.get(id)?.guards.clone())))
            .collect()
    }

    fn known(&self, control: ControlId, id: &str) -> Option<&Known> {
        self.standings.get(&control)?.get(id)?.known.as_ref()
    }

    /// The instance's lock, which the controls share.
    fn lock(&self, id: &str) -> Option<&Lock> {
        let of = self.standings.get(&ControlId::MissingPatches)?;
        of.get(id)?.lock.as_ref()
    }
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    policy: PolicyStore,
    ledger: Ledger,
    settings: PatchSettings,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, settings: PatchSettings) -> Self {
        let of = &settings.remediation;
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), of.policy_parameter.clone()),
            ledger: Ledger::new(&clients, of.ledger_table.clone()),
            clients,
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
            None => Box::pin(self.one(&event.payload, &now))
                .await
                .map(|verdict| json!({ "verdict": verdict })),
        };
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        Ok(answer?)
    }

    // --- parse

    /// An event that came by itself: a person sent it again.
    async fn one(&self, payload: &Value, now: &Invocation) -> Result<&'static str, Failure> {
        let Some(Hint { trigger, says }) = asked(payload)? else {
            return Ok("ignored");
        };
        let work = Work {
            trigger,
            says: vec![says],
            messages: Vec::new(),
        };
        let mut looked = self.look_at(vec![work], now).await;
        match looked.pop() {
            Some((_, answer)) => answer,
            None => Ok("ignored"),
        }
    }

    /// A batch: one look for each instance, however many messages name it.
    /// Answers with the messages that are to be delivered again.
    async fn batch(&self, queued: Vec<Queued>, now: &Invocation) -> Result<Value, Failure> {
        let all = queued.len();
        let mut failed: Vec<(String, String)> = Vec::new();
        let mut works: BTreeMap<String, Work> = BTreeMap::new();
        for Queued { message, event } in queued {
            match event.and_then(|event| asked(&event)) {
                Ok(Some(Hint { trigger, says })) => {
                    let work = works
                        .entry(trigger.resource.clone())
                        .or_insert_with(|| Work {
                            trigger,
                            says: Vec::new(),
                            messages: Vec::new(),
                        });
                    work.says.push(says);
                    work.messages.push(message);
                }
                Ok(None) => {}
                Err(broken) => failed.push((message, broken.to_string())),
            }
        }
        let instances = works.len();
        for (work, answer) in self.look_at(works.into_values().collect(), now).await {
            if let Err(failure) = answer {
                let why = failure.to_string();
                let messages = work.messages.into_iter();
                failed.extend(messages.map(|message| (message, why.clone())));
            }
        }
        info!(
            messages = all,
            instances,
            failed = failed.len(),
            "batch done"
        );
        for (message, why) in &failed {
            error!(%message, %why, "not done");
        }
        invocation::batch_answer(all, &failed)
            .map_err(|nothing| Failure::Batch(nothing.to_string()))
    }

    // --- look

    /// Looks at instances, again where something moved meanwhile.
    async fn look_at(
        &self,
        works: Vec<Work>,
        now: &Invocation,
    ) -> Vec<(Work, Result<&'static str, Failure>)> {
        let mut answers = Vec::new();
        let mut todo = works;
        for _ in 0..MOST_LOOKS {
            if todo.is_empty() {
                return answers;
            }
            let ids: Vec<String> = todo.iter().map(|work| work.id().to_owned()).collect();
            let mut world = match self.gather(&ids, now).await {
                Ok(world) => world,
                Err(failure) => {
                    let why = failure.to_string();
                    answers.extend(
                        todo.into_iter()
                            .map(|work| (work, Err(Failure::Batch(why.clone())))),
                    );
                    return answers;
                }
            };
            let mut again = Vec::new();
            let mut begun: Vec<(Work, Patching)> = Vec::new();
            let mut carried = Vec::new();
            for mut work in todo {
                match self.look(&mut work, &mut world, now).await {
                    Ok(Looked::Done(verdict)) => answers.push((work, Ok(verdict))),
                    Ok(Looked::Again) => again.push(work),
                    Ok(Looked::Begun(run)) => begun.push((work, *run)),
                    Err(failure) => answers.push((work, Err(failure))),
                }
                if begun.len() >= MOST_INSTANCES {
                    let full = std::mem::take(&mut begun);
                    carried.extend(self.carry_out(full, &world.policy, now).await);
                }
            }
            carried.extend(self.carry_out(begun, &world.policy, now).await);
            for (work, looked) in carried {
                match looked {
                    Ok(Carried::Done(verdict)) => answers.push((work, Ok(verdict))),
                    Ok(Carried::Again) => again.push(work),
                    Err(failure) => answers.push((work, Err(failure))),
                }
            }
            todo = again;
        }
        answers.extend(todo.into_iter().map(|work| {
            let contended = Failure::Contended(work.id().to_owned());
            (work, Err(contended))
        }));
        answers
    }

    /// Everything that is read for all instances at once. Systems Manager is asked
    /// about those that EC2 shows, and not about whatever events name.
    async fn gather(&self, ids: &[String], now: &Invocation) -> Result<World, Failure> {
        let (ec2, ssm, deadline) = (&self.clients.ec2, &self.clients.ssm, &now.deadline);
        let instances = async {
            let hosts = patching::hosts(ec2, ids, deadline).await?;
            let there = hosts.values().filter(|host| !host.is_ended());
            let there: Vec<String> = there.map(|host| host.id.clone()).collect();
            let (agents, states) = tokio::join!(
                patching::agents(ssm, &there, deadline),
                patching::states(ssm, &there, deadline),
            );
            Ok::<_, AwsError>((hosts, agents?, states?))
        };
        let (policy, instances, reports, standings, encryptions) = tokio::join!(
            self.policy.get(deadline),
            instances,
            self.ledger.reports(ids),
            self.standings(ids),
            self.ledger.encryptions(ids),
        );
        let (policy, (hosts, agents, states)) = (policy?, instances?);
        Ok(World {
            policy,
            hosts,
            agents,
            states,
            reports: reports?,
            standings: standings?,
            encryptions: encryptions?,
        })
    }

    async fn standings(
        &self,
        ids: &[String],
    ) -> Result<BTreeMap<ControlId, BTreeMap<String, Standing>>, LedgerError> {
        let mut all = BTreeMap::new();
        for control in ControlId::PATCHING {
            let of = self.ledger.standings(*control, ids).await?;
            all.insert(*control, ids.iter().cloned().zip(of).collect());
        }
        Ok(all)
    }

    async fn look(
        &self,
        work: &mut Work,
        world: &mut World,
        invocation: &Invocation,
    ) -> Result<Looked, Failure> {
        let id = work.id().to_owned();
        let mode = self.settings.remediation.mode;
        let mut reports = world.reports.remove(&id).unwrap_or_default();
        self.take_reports(work, &mut reports, &world.policy).await?;

        // A run that has begun goes on before anything else.
        let mut open = None;
        if let Some(lock) = world.lock(&id) {
            match self.ledger.patching(&lock.entry).await? {
                Some(run) if !run.is_open() => {
                    self.release(&run).await?;
                    return Ok(Looked::Again);
                }
                Some(mut run) if run.detail.command.is_some() => {
                    match self.follow(&mut run, &mut reports, invocation).await? {
                        Some(looked) => return Ok(looked),
                        None => open = Some(run),
                    }
                }
                _ if lock.is_live(self.clients.clock.now()) => {
                    let control = ControlId::MissingPatches;
                    return Ok(match self.ledger.look_again(control, &id, lock).await? {
                        Begun::Moved => Looked::Again,
                        _ => Looked::Done("another run will look again"),
                    });
                }
                Some(mut run) => {
                    if self.adopt(&mut run, lock, invocation).await? {
                        return Ok(Looked::Again);
                    }
                    if run.head.attempts >= MOST_ATTEMPTS {
                        let why = format!(
                            "it was begun {} times, and each time cut off before it was known whether its command was sent; Systems Manager knows of none",
                            run.head.attempts
                        );
                        run.fail(why, self.clients.clock.now());
                        self.finish(&mut run).await?;
                        return Ok(Looked::Again);
                    }
                    run.head.attempts += 1;
                    open = Some(run);
                }
                None => {}
            }
        }
        self.settle(&id, world, &mut reports).await?;

        // decide: judge, exempt, plan; what only some need is asked for them
        let mut guards = world.guards(&id);
        let mut facts = world.facts(&id, &reports);
        let now = self.clients.clock.now();
        let circumstances = Circumstances {
            mode,
            now,
            guards: &guards,
        };
        let policy = &world.policy.policy;
        let mut decision = decide::decide(&facts, &policy.patching(), &circumstances);
        if self
            .complete(
                &mut facts,
                &decision,
                &work.trigger.region,
                policy,
                invocation,
            )
            .await?
        {
            decision = decide::decide(&facts, &policy.patching(), &circumstances);
        }
        log_decision(&work.trigger, &decision);

        let control = decision.control();
        if decision.verdict != Verdict::Settling {
            for other in ControlId::PATCHING {
                if Some(*other) != control
                    && let Some(known) = world.known(*other, &id)
                {
                    self.forget(*other, &id, known).await?;
                }
            }
        }
        if let Some(run) = open {
            let lock = world.lock(&id);
            return self.go_on(run, lock, &decision, &reports, policy).await;
        }
        let entry_id = self.clients.clock.new_id();
        let record = |decision: &Decision, guards: &BTreeMap<ControlId, Guards>| {
            let about = About {
                id: &entry_id,
                trigger: &work.trigger,
                partition: &invocation.partition,
                owner_tag: &self.settings.remediation.owner_tag_key,
                policy_version: world.policy.version,
                now,
            };
            let mut run = decide::record(&facts, decision, &policy.patching, about)?;
            run.detail.page_key = Some(page_key(&facts, policy, mode, guards, now));
            Some(run)
        };
        let (Some(control), Some(mut run)) = (control, record(&decision, &guards)) else {
            return Ok(Looked::Done(match decision.verdict {
                Verdict::Settling => "settling",
                _ => "nothing to do",
            }));
        };
        let mut counted = metrics::run(control.name());
        counted.findings = Some(1);
        // What is listed beyond the worst is what a record has room for.
        while ledger::oversize(&run)?.is_some() && run.shorten() {}
        let known = world.known(control, &id);
        if run.head.status != Status::InProgress {
            return self.record(&run, known, &guards, &mut reports).await;
        }
        if invocation.deadline.left() < TO_BEGIN {
            return Err(Failure::NoTime);
        }
        let begun = self.begin(run, world.lock(&id), policy.controls.budget(control));
        let Some(looked) = begun.await? else {
            guards.entry(control).or_default().budget_spent = true;
            let circumstances = Circumstances {
                mode,
                now,
                guards: &guards,
            };
            let decision = decide::decide(&facts, &policy.patching(), &circumstances);
            return match record(&decision, &guards) {
                Some(run) => self.record(&run, known, &guards, &mut reports).await,
                None => Ok(Looked::Again),
            };
        };
        if let (Some(known), Looked::Begun(_)) = (known, &looked) {
            self.forget(control, &id, known).await?;
        }
        Ok(looked)
    }

    /// Records a run that changes nothing, and tells it if that is news.
    async fn record(
        &self,
        run: &Patching,
        known: Option<&Known>,
        guards: &BTreeMap<ControlId, Guards>,
        reports: &mut Reports,
    ) -> Result<Looked, Failure> {
        // The run that found out that no command can patch it has told so.
        let follows = run.head.status == Status::Refused
            && run.detail.unpatchable.is_some()
            && !reports.unpatchable_recorded;
        let guards = guards.get(&run.head.control);
        let quiet = follows || guards.is_some_and(|guards| guards.told_with_the_trip(&run.head));
        let bus = &self.clients.eventbridge;
        let told = findings::record(&self.ledger, bus, run, known, quiet).await?;
        if follows && told.is_some() {
            let note = |reports: &mut Reports| reports.unpatchable_recorded = true;
            self.change_reports(run.resource_id(), reports, note)
                .await?;
        }
        Ok(told.map_or(Looked::Again, Looked::Done))
    }

    /// Keeps what the events say of Inspector's findings.
    async fn take_reports(
        &self,
        work: &mut Work,
        reports: &mut Reports,
        policy: &Versioned,
    ) -> Result<(), Failure> {
        let control = &policy.policy.controls.vulnerable_package;
        let off = control.mode.unwrap_or(self.settings.remediation.mode) == Mode::Off;
        let least = control.settings.severity;
        for _ in 0..MOST_WRITES {
            let before = reports.clone();
            for says in &work.says {
                match says {
                    // One that is kept is also taken where it is less bad now.
                    Says::Active(finding)
                        if !off
                            && (finding.severity >= least
                                || reports.active.contains_key(&finding.arn)) =>
                    {
                        reports.report(finding.as_ref().clone());
                    }
                    Says::Closed {
                        arn,
                        at,
                        suppressed: true,
                    } => reports.suppress(arn, *at),
                    Says::Closed { arn, at, .. } => reports.close(arn, *at),
                    Says::Active(_) | Says::Nothing => {}
                }
            }
            if *reports == before || self.ledger.store_reports(work.id(), reports).await? {
                work.says.clear();
                return Ok(());
            }
            *reports = self.reread(work.id()).await?;
        }
        Err(Failure::Contended(work.id().to_owned()))
    }

    async fn reread(&self, id: &str) -> Result<Reports, Failure> {
        let mut read = self.ledger.reports(&[id.to_owned()]).await?;
        Ok(read.remove(id).unwrap_or_default())
    }

    /// Asks for what is only needed for some decisions. Whether there was
    /// something to ask.
    async fn complete(
        &self,
        facts: &mut PatchFacts,
        decision: &Decision,
        region: &str,
        policy: &backstop_core::policy::Policy,
        invocation: &Invocation,
    ) -> Result<bool, Failure> {
        let (Some(control), Some(host)) = (decision.control(), &facts.host) else {
            return Ok(false);
        };
        let (ec2, ssm, deadline) = (&self.clients.ec2, &self.clients.ssm, &invocation.deadline);
        let online = facts.agent.as_ref().is_some_and(Agent::is_online);
        if !online && host.state == "running" {
            let reach = patching::reach(ec2, ssm, host, region, deadline).await?;
            facts.reach = Some(reach);
            return Ok(true);
        }
        if control == ControlId::UnmanagedInstance {
            return Ok(false);
        }
        let lists = decision.operation == Operation::Install;
        let begins = decision.status == Status::InProgress;
        let since = self
            .clients
            .clock
            .now()
            .saturating_sub(policy.patching.looks_back());
        let since = since.unwrap_or(Timestamp::MIN);
        let (missing, commands) = tokio::join!(
            async {
                match lists {
                    true => patching::missing(ssm, &host.id, deadline).await,
                    false => Ok(Vec::new()),
                }
            },
            async {
                match begins {
                    true => patching::commands_on(ssm, &host.id, since, deadline).await,
                    false => Ok(Vec::new()),
                }
            },
        );
        facts.missing = missing?;
        facts.commands = commands?;
        Ok(true)
    }

    // --- begin

    /// The lock, the record and the budget, in one transaction. `None`: it waits for
    /// the budget of the next hour.
    async fn begin(
        &self,
        run: Patching,
        lapsed: Option<&Lock>,
        budget: u32,
    ) -> Result<Option<Looked>, Failure> {
        let holder = self.ledger.patching_holder(&run);
        let looked = match self.ledger.begin(&run, &holder, lapsed, budget).await? {
            Begun::Started => {
                info!(entry = %run.head.id, resource = %run.head.resource, control = %run.head.control, operation = run.detail.operation.name(), "run begun");
                Looked::Begun(Box::new(run))
            }
            Begun::Busy => Looked::Done("another run will look again"),
            Begun::Moved => Looked::Again,
            Begun::OverBudget => {
                let (ledger, bus) = (&self.ledger, &self.clients.eventbridge);
                match trips::refused(ledger, bus, &run.head, 1, budget).await? {
                    OverBudget::Spent => return Ok(None),
                    _ => Looked::Again,
                }
            }
        };
        Ok(Some(looked))
    }

    /// What was recorded before holds no more.
    async fn forget(&self, control: ControlId, id: &str, known: &Known) -> Result<(), Failure> {
        let bus = &self.clients.eventbridge;
        Ok(findings::forget(&self.ledger, bus, control, id, known).await?)
    }
}

/// What an event asks for; `None`: nothing.
fn asked(payload: &Value) -> Result<Option<Hint>, BrokenEvent> {
    match trigger::patching(payload)? {
        PatchingParsed::Look(hint) => Ok(Some(hint)),
        PatchingParsed::Ignored(reason) => {
            info!(verdict = "ignored", %reason, "event ignored");
            Ok(None)
        }
    }
}

fn log_decision(trigger: &Trigger, decision: &Decision) {
    let verdict = match &decision.verdict {
        Verdict::NotApplicable(_) => "not-applicable",
        Verdict::Compliant => "compliant",
        Verdict::Settling => "settling",
        Verdict::Violates(_) => "violates",
    };
    let worst: BTreeSet<&str> = decision
        .findings
        .iter()
        .filter_map(|finding| finding.cves.first())
        .map(String::as_str)
        .take(5)
        .collect();
    info!(
        resource = %trigger.resource,
        event = trigger.actor.event_id.as_deref().unwrap_or("-"),
        control = decision.control().map_or("-", ControlId::name),
        verdict,
        findings = decision.findings.len(),
        ?worst,
        status = decision.status.name(),
        operation = decision.operation.name(),
        waits = ?decision.waits,
        "decided"
    );
}

#[cfg(test)]
mod tests;
