//! The functions of the stack in one process, over AWS in memory.
//!
//! The real handlers with the real SDK clients, with the time-outs and retries
//! that are deployed. What Lambda, the bus, queues and Step Functions do between
//! them is here: rules, time-outs, visibility and receive counts are read from
//! the template. Time is tokio's, paused: a wait takes none, so leases lapse and
//! retries come at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstop_aws::clients::{Clients, EncryptionClients, OperationsClients, with_function_limits};
use backstop_aws::clock::Clock;
use backstop_aws::ledger::Ledger;
use backstop_aws::settings::{
    DEFAULT_MODE, EncryptSettings, NotifySettings, PatchSettings, RemediationSettings,
    SweepSettings, UndoSettings, WatchSettings,
};
use backstop_engine::Engine;
use backstop_tests::iam::{Request, Verdict, judge};
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_tests::native_events::command_status;
use backstop_tests::stack::Stack;
use backstop_tests::template::{self, Statement, matches, role_of, text};
use backstop_wire::memory::Cloud;
use backstop_wire::memory::table::Index;
use backstop_wire::{Call, Reply, Wire};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::requests::requests;

/// More deliveries than any run of a few functions needs, and a burst of a thousand
/// resources: one that makes so many never ends.
const MOST_DELIVERIES: usize = 4000;

/// A function, warm: it keeps its clients and what it has read.
enum Function {
    /// One that serves controls that are remediated at once.
    AtOnce(Engine),
    EncryptVolume(encrypt_volume::Handler),
    PatchInstance(patch_instance::Handler),
    Notify(notify::Handler),
    Sweep(sweep::Handler),
    Undo(undo::Handler),
    WatchOptOuts(watch_opt_outs::Handler),
}

impl Function {
    /// A cold start, by the function's logical id.
    fn start(id: &str, wire: &Wire, clock: Clock) -> Self {
        let config = with_function_limits(&wire.config(1));
        let clients = Clients {
            clock,
            ..Clients::patient_with_ec2(&config)
        };
        // Made only for those who take them: a story starts functions by the hundred.
        let encryption = || EncryptionClients::new(&config);
        let environment = &DEPLOYED.environments[id];
        let get = |name: &str| match name {
            // The template's default is `notify`.
            DEFAULT_MODE => Some("enforce".to_owned()),
            name => environment.get(name).cloned(),
        };
        let at_once = |controls| {
            let settings = RemediationSettings::read(&get).unwrap();
            Self::AtOnce(Engine::new(clients.clone(), settings, controls))
        };
        match id {
            "RevokeIngressFunction" => at_once(revoke_ingress::CONTROLS),
            "RestoreAccountDefaultsFunction" => at_once(restore_account_defaults::CONTROLS),
            "UnshareStorageFunction" => at_once(unshare_storage::CONTROLS),
            "RemovePublicAddressFunction" => at_once(remove_public_address::CONTROLS),
            "RequireImdsv2Function" => at_once(require_imdsv2::CONTROLS),
            "EncryptVolumeFunction" => {
                let settings = EncryptSettings::read(&get).unwrap();
                let encryption = encryption();
                Self::EncryptVolume(encrypt_volume::Handler::new(clients, encryption, settings))
            }
            "PatchInstanceFunction" => {
                let settings = PatchSettings::read(&get).unwrap();
                Self::PatchInstance(patch_instance::Handler::new(clients, settings))
            }
            "NotifyFunction" => {
                let settings = NotifySettings::read(&get).unwrap();
                Self::Notify(notify::Handler::new(clients, settings))
            }
            "SweepFunction" => {
                let settings = SweepSettings::read(&get).unwrap();
                let operations = OperationsClients::new(&config);
                Self::Sweep(sweep::Handler::new(clients, operations, settings))
            }
            "UndoFunction" => {
                let settings = UndoSettings::read(&get).unwrap();
                Self::Undo(undo::Handler::new(clients, encryption(), settings))
            }
            "WatchOptOutsFunction" => {
                let settings = WatchSettings::read(&get).unwrap();
                Self::WatchOptOuts(watch_opt_outs::Handler::new(clients, settings))
            }
            other => panic!("the fault run does not know the function {other}"),
        }
    }

    async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        match self {
            Self::AtOnce(of) => of.handle(event).await,
            Self::EncryptVolume(of) => of.handle(event).await,
            Self::PatchInstance(of) => of.handle(event).await,
            Self::Notify(of) => of.handle(event).await,
            Self::Sweep(of) => of.handle(event).await,
            Self::Undo(of) => of.handle(event).await,
            Self::WatchOptOuts(of) => of.handle(event).await,
        }
    }
}

/// A way in which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// AWS refuses it for now.
    Throttled,
    /// A fault on AWS's side.
    Broken,
    /// A missing permission.
    Denied,
    /// Nothing happens and nothing is answered.
    TimedOut,
    /// It takes effect; the connection breaks before the answer.
    AnswerLost,
    /// It takes effect, and the process that made it is killed.
    Killed,
    /// The same, and its event is lost with it: another one has to go on.
    KilledForGood,
}

impl Way {
    pub(super) const ALL: &[Self] = &[
        Self::Throttled,
        Self::Broken,
        Self::Denied,
        Self::TimedOut,
        Self::AnswerLost,
        Self::Killed,
        Self::KilledForGood,
    ];

    /// What is answered instead of carrying the call out, in the words of its
    /// service; none: it takes effect.
    fn instead(self, service: &str) -> Option<Reply> {
        let error = |status, of_ec2, other: &str| match service {
            "ec2" => Reply::ec2_error(status, of_ec2, "injected"),
            "sns" => Reply::query_error(status, other, "injected"),
            _ => match Reply::json_error(other, "injected") {
                Reply::Answer(_, body) => Reply::Answer(status, body),
                other => other,
            },
        };
        match self {
            Self::Throttled if service == "ec2" => Some(error(503, "RequestLimitExceeded", "")),
            Self::Throttled => Some(error(400, "", "ThrottlingException")),
            Self::Broken => Some(error(500, "InternalError", "InternalError")),
            Self::Denied if service == "ec2" => Some(error(403, "UnauthorizedOperation", "")),
            Self::Denied => Some(error(400, "", "AccessDeniedException")),
            Self::TimedOut => Some(Reply::Silence),
            Self::AnswerLost | Self::Killed | Self::KilledForGood => None,
        }
    }
}

/// One call of a function's: its service, its operation, and how many of the same
/// operation the function has made before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nth {
    pub(crate) service: String,
    pub(crate) operation: String,
    pub(crate) before: usize,
}

/// A call that is to fail.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Logical id of the function.
    pub(crate) function: &'static str,
    pub(crate) call: Nth,
    pub(crate) way: Way,
}

/// Is shown every call to the ledger's table that takes effect, and its answer.
pub(crate) type Watch = dyn Fn(&Call, &Reply) + Send + Sync;

/// Is asked about every call of a function before AWS is, which it may change
/// meanwhile; what it does not answer, AWS does.
type Meddler = Box<dyn FnMut(&Call, &mut Cloud) -> Option<Reply> + Send>;

/// What the wires of all functions share.
struct Shared {
    clock: Clock,
    cloud: Mutex<Cloud>,
    watch: Option<Arc<Watch>>,
    calls: Mutex<Vec<(&'static str, Nth)>>,
    /// What was asked of IAM: function, request and answer.
    asked: Mutex<Vec<(&'static str, Request, Verdict)>>,
    fault: Mutex<Option<Fault>>,
    meddler: Mutex<Option<(&'static str, Meddler)>>,
    killed: Notify,
    /// Whether the event of the run that was killed is lost with it.
    lost: Mutex<bool>,
}

impl Shared {
    fn answer(&self, function: &'static str, call: &Call) -> Reply {
        let now = self.clock.now();
        let mut calls = lock(&self.calls);
        let same = |(of, made): &&(&str, Nth)| *of == function && made.operation == call.operation;
        let nth = Nth {
            service: call.service.clone(),
            operation: call.operation.clone(),
            before: calls.iter().filter(same).count(),
        };
        let mut fault = lock(&self.fault);
        let met = fault.take_if(|fault| fault.function == function && fault.call == nth);
        calls.push((function, nth));
        let instead = met.as_ref().and_then(|of| of.way.instead(&call.service));
        if let Some(reply) = instead {
            return reply;
        }
        if let Some(refusal) = self.ask_iam(function, call) {
            return refusal;
        }
        let mut cloud = lock(&self.cloud);
        let meddled = match &mut *lock(&self.meddler) {
            Some((of, meddle)) if *of == function => meddle(call, &mut cloud),
            _ => None,
        };
        let reply = meddled.unwrap_or_else(|| cloud.answer(call, now));
        if let Some(watch) = &self.watch
            && call.service == "dynamodb"
        {
            watch(call, &reply);
        }
        let Some(Fault { way, .. }) = met else {
            return reply;
        };
        if way == Way::AnswerLost {
            return Reply::Broken;
        }
        *lock(&self.lost) = way == Way::KilledForGood;
        self.killed.notify_one();
        Reply::Silence
    }

    /// Asks IAM by the function's role; what AWS answers unless it may.
    fn ask_iam(&self, function: &'static str, call: &Call) -> Option<Reply> {
        let requests = requests(call, &lock(&self.cloud));
        let mut may = true;
        for request in requests {
            let verdict = judge(&DEPLOYED.statements[function], &request);
            may &= verdict == Verdict::Allowed;
            lock(&self.asked).push((function, request, verdict));
        }
        if may {
            None
        } else {
            Way::Denied.instead(&call.service)
        }
    }
}

/// How an invocation ended.
pub(crate) enum Ended {
    Answered(Value),
    Failed(String),
    /// Nobody will try it again.
    Lost,
}

/// How an event came to a function, and what happens when it fails.
#[derive(Clone, Debug)]
enum Via {
    /// Lambda keeps it and tries again.
    Event,
    /// It waits in a queue, which delivers it again.
    Queue,
    /// A state of an execution, and the entry of the run that it carries out, if
    /// it does.
    State {
        name: &'static str,
        entry: Option<String>,
    },
}

/// An event on its way to a function.
#[derive(Clone, Debug)]
struct Delivery {
    due: Instant,
    function: &'static str,
    payload: Value,
    via: Via,
    /// The same for every try of it.
    request: String,
    /// How often it has failed.
    failed: u32,
}

/// An account in which the stack is deployed.
pub(crate) struct Account {
    shared: Arc<Shared>,
    /// The functions that are warm, and what they call AWS over.
    warm: BTreeMap<&'static str, (Function, Wire)>,
    on_their_way: Vec<Delivery>,
    started: BTreeSet<String>,
    ended_commands: BTreeSet<String>,
    requests: usize,
    /// The invocations that failed: function and error.
    pub(crate) failed: Vec<(String, String)>,
    /// What was given up: function and error.
    pub(crate) given_up: Vec<(String, String)>,
}

impl Account {
    /// The account as it is in a cloud.
    pub(super) fn new(cloud: Cloud, clock: Clock, watch: Option<Arc<Watch>>) -> Self {
        Self {
            started: names(&cloud),
            ended_commands: BTreeSet::new(),
            shared: Arc::new(Shared {
                clock,
                cloud: Mutex::new(cloud),
                watch,
                calls: Mutex::default(),
                asked: Mutex::default(),
                fault: Mutex::default(),
                meddler: Mutex::default(),
                killed: Notify::new(),
                lost: Mutex::default(),
            }),
            warm: BTreeMap::new(),
            on_their_way: Vec::new(),
            requests: 0,
            failed: Vec::new(),
            given_up: Vec::new(),
        }
    }

    /// An empty account with the template's table.
    pub(crate) fn empty(policy: &Value, clock: Clock) -> Self {
        let mut cloud = Cloud::new(ACCOUNT, &policy.to_string(), indexes());
        cloud.rules = template::rules()
            .iter()
            .map(|rule| DEPLOYED.stack.name(&rule.logical_id))
            .collect();
        Self::new(cloud, clock, None)
    }

    pub(crate) fn cloud(&self) -> MutexGuard<'_, Cloud> {
        lock(&self.shared.cloud)
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.shared.clock.now()
    }

    /// The ledger, read past the functions and their faults.
    pub(crate) fn ledger(&self) -> Ledger {
        let shared = self.shared.clone();
        let wire = Wire::new(move |call| lock(&shared.cloud).answer(call, shared.clock.now()));
        Ledger::new(&Clients::new(&wire.config(1)), ledger_table())
    }

    /// The calls that a function has made, in order.
    pub(crate) fn calls_of(&self, function: &str) -> Vec<Nth> {
        let calls = lock(&self.shared.calls);
        let of = calls.iter().filter(|(of, _)| *of == function);
        of.map(|(_, nth)| nth.clone()).collect()
    }

    /// What was asked of IAM, in order: function, request and answer.
    pub(super) fn asked(&self) -> Vec<(&'static str, Request, Verdict)> {
        lock(&self.shared.asked).clone()
    }

    /// What IAM did not allow: function, request and answer.
    pub(super) fn refused(&self) -> Vec<(&'static str, Request, Verdict)> {
        let asked = lock(&self.shared.asked);
        let refused = asked.iter().filter(|(.., of)| *of != Verdict::Allowed);
        refused.cloned().collect()
    }

    /// Has a call fail.
    pub(crate) fn fail(&self, fault: Fault) {
        *lock(&self.shared.fault) = Some(fault);
    }

    /// Whether the call that was to fail has been made.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.shared.fault).is_none()
    }

    /// Has somebody meddle with a function's calls from now on.
    pub(crate) fn meddle(
        &self,
        function: &'static str,
        meddler: impl FnMut(&Call, &mut Cloud) -> Option<Reply> + Send + 'static,
    ) {
        *lock(&self.shared.meddler) = Some((function, Box::new(meddler)));
    }

    /// Ends that.
    pub(crate) fn leave_alone(&self) {
        *lock(&self.shared.meddler) = None;
    }

    /// What a warm function calls AWS over.
    pub(crate) fn wire(&self, function: &str) -> Option<&Wire> {
        self.warm.get(function).map(|(_, wire)| wire)
    }

    /// Has a function take an event as a rule or a person hands it over.
    pub(crate) fn start(&mut self, function: &'static str, event: &Value) {
        let via = match queue_of(function) {
            Some(_) => Via::Queue,
            None => Via::Event,
        };
        self.send(function, event.clone(), via, Duration::ZERO);
    }

    fn send(&mut self, function: &'static str, payload: Value, via: Via, wait: Duration) {
        self.requests += 1;
        self.on_their_way.push(Delivery {
            due: Instant::now() + wait,
            function,
            payload,
            via,
            request: format!("request-{}", self.requests),
            failed: 0,
        });
    }

    /// Lets everything happen that follows from what is on its way.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..MOST_DELIVERIES {
            self.collect();
            let next = self.on_their_way.iter().enumerate();
            let Some((next, _)) = next.min_by_key(|(_, delivery)| delivery.due) else {
                return;
            };
            let delivery = self.on_their_way.remove(next);
            tokio::time::sleep_until(delivery.due).await;
            match delivery.via.clone() {
                Via::Event => self.event(delivery).await,
                Via::Queue => self.batch(delivery).await,
                Via::State { name, entry } => self.state(delivery, name, entry).await,
            }
        }
        let waiting = self.on_their_way.iter();
        let waiting: Vec<_> = waiting.map(|of| (of.function, &of.payload)).collect();
        panic!("it never comes to an end: {waiting:#?}");
    }

    /// Takes what was put on the bus to where the template's rules lead, starts
    /// executions, and tells of commands that end.
    fn collect(&mut self) {
        let events = std::mem::take(&mut self.cloud().bus);
        for entry in events {
            let event = json!({
                "version": "0", "id": format!("event-{}", self.requests), "account": ACCOUNT,
                "region": REGION, "time": self.now(), "resources": [],
                "source": entry["Source"], "detail-type": entry["DetailType"],
                "detail": serde_json::from_str::<Value>(text(&entry["Detail"])).unwrap(),
            });
            self.put(&event, Duration::ZERO);
        }
        let started = self.cloud().executions.clone();
        for (name, input) in started {
            if !self.started.insert(name) {
                continue;
            }
            let function = "EncryptVolumeFunction";
            match input["settle"]["seconds"].as_u64() {
                Some(seconds) => {
                    let event = input["settle"]["event"].clone();
                    let (name, entry) = ("Look again", None);
                    let wait = Duration::from_secs(seconds);
                    self.send(function, event, Via::State { name, entry }, wait);
                }
                None => self.advance(text(&input["entry"]), None, Duration::ZERO),
            }
        }
        let commands = self.cloud().systems_manager.commands.clone();
        for command in commands {
            if self.ended_commands.insert(command.id.clone()) {
                let wait = command.ends().duration_since(self.now());
                let wait = Duration::try_from(wait).unwrap_or_default();
                for instance in &command.instances {
                    self.put(&command_status(&command.id, instance, "Success"), wait);
                }
            }
        }
    }

    /// Sends an event by the rules whose pattern it matches.
    fn put(&mut self, event: &Value, wait: Duration) {
        for rule in &DEPLOYED.rules {
            if matches(&rule.pattern, event, (ACCOUNT, REGION)) {
                let via = match rule.queue {
                    Some(_) => Via::Queue,
                    None => Via::Event,
                };
                self.send(id_of(&rule.function), event.clone(), via, wait);
            }
        }
    }

    /// One invocation.
    pub(crate) async fn invoke(
        &mut self,
        function: &'static str,
        payload: Value,
        request: &str,
    ) -> Ended {
        let shared = self.shared.clone();
        let limit = Duration::from_secs(DEPLOYED.timeouts[function]);
        let mut context = Context::default();
        request.clone_into(&mut context.request_id);
        context.deadline = (self.now() + limit).as_millisecond() as u64;
        context.invoked_function_arn =
            format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:backstop");
        let warm = self.warm.entry(function).or_insert_with(|| {
            let shared = shared.clone();
            let clock = shared.clock;
            let wire = Wire::new(move |call| shared.answer(function, call));
            (Function::start(function, &wire, clock), wire)
        });
        let run = warm.0.handle(LambdaEvent::new(payload, context));
        let ended = tokio::select! {
            biased;
            () = shared.killed.notified() => Err("Runtime.ExitError"),
            answer = tokio::time::timeout(limit, run) => answer.map_err(|_| "Task timed out"),
        };
        let why = match ended {
            Ok(Ok(answer)) => return Ended::Answered(answer),
            Ok(Err(error)) => error.error_message,
            Err(ended) => {
                // The process is gone: the next event meets a cold start.
                self.warm.remove(function);
                ended.to_owned()
            }
        };
        self.failed.push((function.to_owned(), why.clone()));
        match std::mem::take(&mut *lock(&self.shared.lost)) {
            true => Ended::Lost,
            false => Ended::Failed(why),
        }
    }

    /// An event that Lambda keeps until it is handled, or given up.
    async fn event(&mut self, mut delivery: Delivery) {
        let Delivery {
            function, payload, ..
        } = delivery.clone();
        let Ended::Failed(why) = self.invoke(function, payload, &delivery.request).await else {
            return;
        };
        delivery.failed += 1;
        if u64::from(delivery.failed) > DEPLOYED.retries {
            self.given_up.push((function.to_owned(), why));
            return;
        }
        // After one minute, then after two.
        delivery.due = Instant::now() + Duration::from_secs(60 * u64::from(delivery.failed));
        self.on_their_way.push(delivery);
    }

    /// The messages that a queue holds for a function, as one batch.
    async fn batch(&mut self, first: Delivery) {
        let (function, request) = (first.function, first.request.clone());
        let queue = queue_of(function).unwrap();
        // What comes within the batching window is in it.
        let window = queue["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
        tokio::time::sleep(Duration::from_secs(window)).await;
        self.collect();
        let now = Instant::now();
        let (more, others) = std::mem::take(&mut self.on_their_way)
            .into_iter()
            .partition(|of: &Delivery| of.function == function && of.due <= now);
        self.on_their_way = others;
        let mut messages = vec![first];
        messages.extend(more);
        let records: Vec<Value> = messages
            .iter()
            .map(|of| json!({ "messageId": of.request, "body": of.payload.to_string() }))
            .collect();
        let payload = json!({ "Records": records });
        let (again, why) = match self.invoke(function, payload, &request).await {
            Ended::Lost => return,
            Ended::Failed(why) => (None, why),
            Ended::Answered(answer) => {
                let failures = answer["batchItemFailures"].as_array();
                let ids = failures.into_iter().flatten();
                let ids: Vec<String> = ids
                    .map(|of| text(&of["itemIdentifier"]).to_owned())
                    .collect();
                (Some(ids), "part of a batch".to_owned())
            }
        };
        let queue = template::resource(text(&queue["Queue"]["Fn::GetAtt"][0]));
        let queue = &queue["Properties"];
        let hidden = Duration::from_secs(queue["VisibilityTimeout"].as_u64().unwrap());
        let most = queue["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap();
        for mut message in messages {
            if again
                .as_ref()
                .is_some_and(|of| !of.contains(&message.request))
            {
                continue;
            }
            message.failed += 1;
            if u64::from(message.failed) == most {
                self.given_up.push((function.to_owned(), why.clone()));
                continue;
            }
            message.due = now + hidden;
            self.on_their_way.push(message);
        }
    }

    /// A state of the state machine (`state-machine.asl.json`) that calls the
    /// function, and what follows from it.
    async fn state(&mut self, mut delivery: Delivery, name: &'static str, entry: Option<String>) {
        let payload = delivery.payload.clone();
        let ended = self.invoke(delivery.function, payload, &delivery.request);
        match (ended.await, entry) {
            (Ended::Lost, _) | (Ended::Answered(_), None) => {}
            (Ended::Answered(answer), Some(entry)) => {
                if answer["next"] != "done" {
                    let wait = answer["wait_seconds"].as_u64().unwrap();
                    self.advance(&entry, None, Duration::from_secs(wait));
                }
            }
            (Ended::Failed(why), entry) => {
                let retry = &DEPLOYED.state_machine["States"][name]["Retry"][0];
                let number = |name: &str| retry[name].as_u64().unwrap();
                if u64::from(delivery.failed) < number("MaxAttempts") {
                    let factor = number("BackoffRate").pow(delivery.failed);
                    let wait = number("IntervalSeconds") * factor;
                    let wait = wait.min(number("MaxDelaySeconds"));
                    delivery.due = Instant::now() + Duration::from_secs(wait);
                    delivery.failed += 1;
                    self.on_their_way.push(delivery);
                } else if let (Some(entry), "Advance") = (entry, name) {
                    self.advance(&entry, Some(why), Duration::ZERO);
                } else {
                    self.given_up.push((name.to_owned(), why));
                }
            }
        }
    }

    /// The next step of a run, or what leads back after an error.
    fn advance(&mut self, entry: &str, error: Option<String>, wait: Duration) {
        let mut payload = json!({ "advance": entry });
        let mut name = "Advance";
        if let Some(why) = error {
            // As Step Functions hands over what Lambda says of it.
            let cause = json!({ "errorType": "Retryable", "errorMessage": why });
            payload["go_back"] = json!(cause.to_string());
            name = "Go back";
        }
        let entry = Some(entry.to_owned());
        let via = Via::State { name, entry };
        self.send("EncryptVolumeFunction", payload, via, wait);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(cloud: &Cloud) -> BTreeSet<String> {
    cloud
        .executions
        .iter()
        .map(|(name, _)| name.clone())
        .collect()
}

/// A function's logical id, for as long as the tests run.
pub(crate) fn id_of(function: &str) -> &'static str {
    let known = DEPLOYED.timeouts.get_key_value(function);
    known
        .unwrap_or_else(|| panic!("the template has no function {function}"))
        .0
}

/// What the template says of the functions, read once.
struct Deployed {
    stack: Stack,
    /// The environment of each function.
    environments: BTreeMap<String, BTreeMap<String, String>>,
    /// The statements of each function's role.
    statements: BTreeMap<String, Vec<Statement>>,
    /// Seconds that each function's invocations may take.
    timeouts: BTreeMap<String, u64>,
    /// How often Lambda tries a failed event again.
    retries: u64,
    rules: Vec<template::Rule>,
    /// How functions take from their queues.
    queues: BTreeMap<String, Value>,
    state_machine: Value,
}

static DEPLOYED: LazyLock<Deployed> = LazyLock::new(|| {
    let timeout = |of: &Value| of["Properties"]["Timeout"].as_u64().unwrap();
    let machine = template::read("functions/encrypt-volume/state-machine.asl.json");
    let mut rules = template::rules();
    rules.retain(|rule| !rule.pattern.is_null());
    let stack = Stack::new("backstop");
    let ids: Vec<String> = template::functions().into_keys().collect();
    Deployed {
        environments: ids
            .iter()
            .map(|id| (id.clone(), stack.environment(id)))
            .collect(),
        statements: ids
            .iter()
            .map(|id| (id.clone(), stack.statements(&role_of(id))))
            .collect(),
        stack,
        timeouts: template::functions()
            .iter()
            .map(|(id, of)| (id.clone(), timeout(of)))
            .collect(),
        retries:
            template::template()["Globals"]["Function"]["EventInvokeConfig"]["MaximumRetryAttempts"]
                .as_u64()
                .unwrap(),
        rules,
        queues: template::queue_mappings().into_iter().collect(),
        state_machine: serde_json::from_str(&machine).unwrap(),
    }
});

/// How a function takes from a queue; none: it does not.
fn queue_of(function: &str) -> Option<&'static Value> {
    DEPLOYED.queues.get(function)
}

/// The name of the ledger's table.
pub(crate) fn ledger_table() -> String {
    DEPLOYED.stack.name("LedgerTable")
}

/// The indexes of the ledger's table, as the template has them.
pub(crate) fn indexes() -> Vec<Index> {
    let table = template::resource("LedgerTable");
    let indexes = table["Properties"]["GlobalSecondaryIndexes"].as_array();
    let name = |value: &Value| text(value).to_owned();
    indexes
        .unwrap()
        .iter()
        .map(|index| Index {
            name: name(&index["IndexName"]),
            partition: name(&index["KeySchema"][0]["AttributeName"]),
            sort: name(&index["KeySchema"][1]["AttributeName"]),
            shows: template::items(&index["Projection"]["NonKeyAttributes"])
                .iter()
                .map(name)
                .collect(),
        })
        .collect()
}
