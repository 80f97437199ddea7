//! A local AWS with this repository's own template deployed to it: real rules,
//! real binaries, real SDK calls over HTTP; no account, no Docker.
//!
//! MiniStack is the control plane and runs the functions, moto is EC2 and takes
//! the commands of Systems Manager, and a proxy between the functions and both
//! records and disturbs their calls:
//!
//! ```text
//! test ──────────────┬────────────────────────► moto (EC2)
//!                    │                            ▲
//!                    ▼                            │
//!     MiniStack (all else) ─ runs ─► functions ─► proxy
//!                    ▲                            │
//!                    └────────────────────────────┘
//! ```

mod gaps;
pub mod http;
mod pool;
pub mod proxy;
pub mod systems_manager;

pub use pool::scenario;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_ec2::config::{Credentials, SharedCredentialsProvider};
use backstop_aws::clients::Clients;
use backstop_aws::ledger::Ledger;
use backstop_core::patching::PatchState;
use http::Message;
use proxy::{Proxy, Upstreams};
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::future::Future;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Whatever went wrong, in words.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The Region of the local AWS.
pub const REGION: &str = "us-east-1";
/// Its account: the one that moto has, so that ARNs agree.
pub const ACCOUNT: &str = "123456789012";
/// The stack's name.
pub const STACK: &str = "backstop";

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn workshop() -> PathBuf {
    repository().join("target/local-aws")
}

/// How long a test waits for what has to come. Only one that fails waits this
/// long, so it is more than the slowest machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What is deployed, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The template; this repository's own unless told otherwise.
    pub template: PathBuf,
    /// Its parameters.
    pub parameters: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let architecture = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "x86_64"
        };
        let parameters = [
            ("Mode", "enforce"),
            ("Architecture", architecture),
            ("NotificationEmail", "none"),
        ];
        Self {
            template: repository().join("template.yaml"),
            parameters: parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }
}

/// One enabled rule of the deployed stack, with the functions behind it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The rule's name.
    pub name: String,
    /// Its event pattern, as deployed; None for a schedule.
    pub pattern: Option<String>,
    /// Logical ids of the functions that are its targets, or that take its
    /// events from a queue.
    pub functions: Vec<String>,
    /// Those of them that are no targets: they take its events from a queue.
    pub behind_queues: Vec<String>,
    /// URLs of the queues that are its targets.
    pub queues: Vec<String>,
}

/// The running local AWS. Dropping it ends everything that it started; so does
/// any end of this process.
pub struct LocalAws {
    /// EC2: moto itself, past the proxy.
    pub ec2: aws_sdk_ec2::Client,
    /// The ledger's database.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// The policy's home.
    pub ssm: aws_sdk_ssm::Client,
    /// The topic's home.
    pub sns: aws_sdk_sns::Client,
    /// Queues.
    pub sqs: aws_sdk_sqs::Client,
    /// The event bus.
    pub events: aws_sdk_eventbridge::Client,
    clients: Clients,
    /// Between the functions and their AWS.
    pub proxy: Proxy,
    /// The stack's outputs.
    pub outputs: BTreeMap<String, String>,
    /// The stack's resources: logical id to physical id.
    pub resources: BTreeMap<String, String>,
    /// The stack's rules.
    pub rules: Vec<Rule>,
    begun_ms: Cell<u128>,
    counter: Cell<u32>,
    policy_changed: RefCell<Option<String>>,
    held: Cell<bool>,
    timeouts: RefCell<BTreeMap<String, u64>>,
    /// Where MiniStack says what it is at work on.
    watch: SocketAddr,
    _emulators: Vec<Emulator>,
    _site: Arc<Site>,
}

/// A message as a subscriber of the topic received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The subject line.
    pub subject: Option<String>,
    /// The body for this subscriber's protocol.
    pub body: String,
    /// The message attributes, as filter policies see them.
    pub attributes: BTreeMap<String, String>,
}

/// A queue that is subscribed to the topic.
#[derive(Clone, Debug)]
pub struct Inbox {
    url: String,
}

/// Polls until there is something, every 20 ms; panics when there is nothing
/// within [`PATIENCE`], with what it waited for.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the environments of one process share: the right to run, and the build.
pub(crate) struct Site {
    options: Options,
    /// The built template, once there is one.
    built: Mutex<Option<PathBuf>>,
    /// One process at a time: they share the build, the folders and the cores.
    _lock: File,
}

impl Site {
    /// Waits until no other process runs a local AWS here.
    pub(crate) fn open(options: &Options, progress: impl Fn(&str)) -> Result<Arc<Self>> {
        fs::create_dir_all(workshop())?;
        let lock = File::create(workshop().join("lock"))?;
        if lock.try_lock().is_err() {
            progress("waiting for another run to end (target/local-aws/lock)");
            lock.lock()?;
        }
        run(
            &workshop(),
            "setup",
            Command::new(repository().join("tests/local-aws/setup")).stdin(Stdio::null()),
        )?;
        Ok(Arc::new(Self {
            options: options.clone(),
            built: Mutex::default(),
            _lock: lock,
        }))
    }

    /// The built template. Whoever comes first builds it, the others wait.
    fn build(&self, progress: impl Fn(&str)) -> Result<PathBuf> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = &*built {
            return Ok(template.clone());
        }
        let step = Instant::now();
        progress("building the functions (sam build)");
        let template = build(&self.options)?;
        progress(&format!("built in {:.1} s", step.elapsed().as_secs_f32()));
        Ok(built.insert(template).clone())
    }
}

/// The folder of one environment: its logs, and what its emulators put down.
fn folder(number: usize) -> Result<PathBuf> {
    let folder = workshop().join(format!("environment-{number}"));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl LocalAws {
    /// Builds the functions, starts the emulators, deploys the template.
    /// `progress` hears a line about each step.
    pub async fn start(options: &Options, progress: impl Fn(&str)) -> Result<Self> {
        let site = Site::open(options, &progress)?;
        Self::start_on(site, 1, progress).await
    }

    /// The same, as the environment of a number beside others of this process.
    pub(crate) async fn start_on(
        site: Arc<Site>,
        number: usize,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        let folder = folder(number)?;
        // Both emulators come up while the functions are built.
        let upstreams = Upstreams {
            moto: free_address()?,
            ministack: free_address()?,
        };
        let watch = free_address()?;
        let proxy = Proxy::start(upstreams)?;
        let mut moto = start_moto(&folder, upstreams)?;
        let mut ministack = start_ministack(&folder, &proxy, watch)?;
        let built = site.build(&progress)?;

        let step = Instant::now();
        ready(&folder, "moto", &mut moto, upstreams.moto, "/moto-api/")?;
        // moto loads its EC2 at the first call, which takes it a second.
        thread::spawn(move || upstreams.ec2(&[("Action", "DescribeVpcs")]));
        let path = "/_ministack/ready";
        ready(
            &folder,
            "ministack",
            &mut ministack,
            upstreams.ministack,
            path,
        )?;
        progress("deploying template.yaml to the local AWS (sam deploy)");
        deploy(&folder, &site.options, &built, upstreams.ministack)?;
        progress(&format!(
            "deployed in {:.1} s",
            step.elapsed().as_secs_f32()
        ));

        let mut aws = Self::connect(proxy, vec![moto, ministack], watch, site);
        aws.outputs = aws.pairs("DescribeStacks", "OutputKey", "OutputValue")?;
        aws.resources = aws.pairs(
            "ListStackResources",
            "LogicalResourceId",
            "PhysicalResourceId",
        )?;
        aws.rules = aws.read_rules().await?;
        Ok(aws)
    }

    fn connect(proxy: Proxy, emulators: Vec<Emulator>, watch: SocketAddr, site: Arc<Site>) -> Self {
        // One client over plain HTTP: no TLS roots to load for each service.
        let plain = aws_smithy_http_client::Builder::new().build_http();
        let config = |address: SocketAddr| {
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::from_static(REGION))
                .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                    "test", "test", None, None, "local",
                )))
                .http_client(plain.clone())
                .endpoint_url(format!("http://{address}"))
                .build()
        };
        let ministack = config(proxy.upstreams.ministack);
        Self {
            ec2: aws_sdk_ec2::Client::new(&config(proxy.upstreams.moto)),
            dynamodb: aws_sdk_dynamodb::Client::new(&ministack),
            ssm: aws_sdk_ssm::Client::new(&ministack),
            sns: aws_sdk_sns::Client::new(&ministack),
            sqs: aws_sdk_sqs::Client::new(&ministack),
            events: aws_sdk_eventbridge::Client::new(&ministack),
            clients: Clients::new(&ministack),
            proxy,
            outputs: BTreeMap::new(),
            resources: BTreeMap::new(),
            rules: Vec::new(),
            begun_ms: Cell::new(now_ms()),
            counter: Cell::new(0),
            policy_changed: RefCell::default(),
            held: Cell::new(false),
            timeouts: RefCell::default(),
            watch,
            _emulators: emulators,
            _site: site,
        }
    }

    /// A clean start for a scenario: an EC2 with nothing in it, no recorded
    /// calls, no faults still to be injected, no log lines, the deployed policy.
    /// The ledger keeps its records.
    pub async fn begin(&self) -> Result<()> {
        // One that failed leaves faults, events and their retries; any may
        // leave a message on its way.
        self.proxy.forget_faults();
        for execution in self.executions("RUNNING")? {
            self.stop_execution(&execution)?;
        }
        if self.held.get() {
            self.purge_queues().await?;
            self.gather(false)?;
        }
        self.quiet().await;
        self.failed_events().await?;
        // What failed is hidden in its queue, and would come back in minutes.
        self.purge_queues().await?;
        self.forget_what_lasts().await?;
        // What other scenarios made is in nobody's way, and makes no sweep slow.
        let reset = Message::request("POST", "/moto-api/reset", &[("host", "localhost")], b"");
        reset.send(self.proxy.upstreams.moto)?;
        self.proxy.reset();
        self.proxy
            .settings(|settings| *settings = backstop_wire::memory::ec2::Settings::default());
        self.proxy.default_groups([]);
        self.begun_ms.set(now_ms());
        let deployed = self.policy_changed.borrow_mut().take();
        if let Some(policy) = deployed {
            self.write_policy(&policy).await?;
        }
        Ok(())
    }

    /// The URLs of the queues that take events of rules.
    fn queues(&self) -> BTreeSet<&String> {
        self.rules.iter().flat_map(|rule| &rule.queues).collect()
    }

    async fn purge_queues(&self) -> Result<()> {
        for queue in self.queues() {
            self.sqs.purge_queue().queue_url(queue).send().await?;
        }
        Ok(())
    }

    /// Makes the ledger forget what would reach from one scenario into the
    /// next: a storm would swallow its messages, a spent budget or a trip its
    /// changes.
    pub async fn forget_what_lasts(&self) -> Result<()> {
        const LASTS: &[&str] = &["storm#", "pace#", "budget#", "trip#"];
        for item in self.items_of(LASTS).await? {
            let key =
                |name: &str| AttributeValue::S(item[name].as_str().unwrap_or_default().to_owned());
            let delete = self
                .dynamodb
                .delete_item()
                .table_name(self.output("LedgerTableName"));
            delete
                .key("pk", key("pk"))
                .key("sk", key("sk"))
                .send()
                .await?;
        }
        Ok(())
    }

    /// Waits until nothing goes on: no function runs or waits to be tried again,
    /// no execution is under way, no event is in a rule's queue (unless they are
    /// held there), no call is being answered.
    pub async fn quiet(&self) {
        // Nothing, twice, and no call in between: what passes from one thread to
        // another may be seen in neither.
        const BETWEEN: Duration = Duration::from_millis(40);
        let started = Instant::now();
        let mut still_since = None;
        loop {
            let calls = self.proxy.answered();
            let goes_on = self.goes_on().await;
            let still = goes_on.is_empty().then_some(calls);
            if still.is_some() && still == still_since {
                return;
            }
            still_since = still;
            assert!(
                started.elapsed() < PATIENCE,
                "it does not get quiet: {goes_on:#?}"
            );
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// The deployed ledger, read past the functions.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger::new(&self.clients, self.output("LedgerTableName").to_owned())
    }

    /// What goes on, in words.
    async fn goes_on(&self) -> Vec<String> {
        let mut goes_on = self.at_work().unwrap();
        let calls = self.proxy.under_way();
        if calls > 0 {
            goes_on.push(format!("{calls} calls under way"));
        }
        if !self.held.get() && goes_on.is_empty() {
            let waiting = self.waiting().await.unwrap();
            if waiting > 0 {
                goes_on.push(format!("{waiting} events in queues"));
            }
        }
        goes_on
    }

    /// The threads of MiniStack that have something to do, or wait for it.
    fn at_work(&self) -> Result<Vec<String>> {
        let ask = Message::request("GET", "/", &[("host", "localhost")], b"");
        let answer = ask.send(self.watch)?.text();
        Ok(answer.lines().map(str::to_owned).collect())
    }

    /// An output of the stack.
    #[must_use]
    pub fn output(&self, name: &str) -> &str {
        self.outputs
            .get(name)
            .unwrap_or_else(|| panic!("the stack has no output {name}"))
    }

    /// The physical id of a resource of the stack.
    #[must_use]
    pub fn resource(&self, logical: &str) -> &str {
        self.resources
            .get(logical)
            .unwrap_or_else(|| panic!("the stack has no resource {logical}"))
    }

    // --- events in

    /// Delivers an event as AWS would: to the functions and queues behind every
    /// deployed rule whose pattern matches. Says which functions those were, by logical
    /// id; none when no rule matched.
    ///
    /// `PutEvents` takes no events of AWS's own sources, so the bus itself is
    /// asked about each rule, and the functions are invoked asynchronously, as a
    /// rule does it, with retries and on-failure destination.
    pub async fn deliver(&self, event: &Value) -> Result<Vec<String>> {
        let mut invoked = Vec::new();
        for rule in self.matching(event).await? {
            for queue in &rule.queues {
                let send = self.sqs.send_message().queue_url(queue);
                send.message_body(event.to_string()).send().await?;
            }
            for function in &rule.functions {
                if !rule.behind_queues.contains(function) {
                    self.start_function(function, event)?;
                }
                invoked.push(function.clone());
            }
        }
        Ok(invoked)
    }

    /// Holds events in their queues, and lets them go: what comes meanwhile is
    /// one batch, as it is on AWS within the batching window, which MiniStack
    /// does not have.
    pub fn gather(&self, on: bool) -> Result<()> {
        for mapping in self.mappings()? {
            let target = format!(
                "/2015-03-31/event-source-mappings/{}",
                mapping["UUID"].as_str().unwrap_or_default()
            );
            let change = json!({ "Enabled": !on }).to_string();
            let answer = self.ministack("lambda", "PUT", &target, &[], change.as_bytes())?;
            if !matches!(answer.status(), 200 | 202) {
                return Err(answer.text().into());
            }
        }
        self.held.set(on);
        Ok(())
    }

    /// How many events wait in the queues of rules.
    pub async fn waiting(&self) -> Result<usize> {
        use aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages;
        let mut waiting = 0;
        for queue in self.queues() {
            let ask = self.sqs.get_queue_attributes().queue_url(queue);
            let answer = ask
                .attribute_names(ApproximateNumberOfMessages)
                .send()
                .await?;
            let number = answer
                .attributes()
                .and_then(|all| all.get(&ApproximateNumberOfMessages))
                .and_then(|number| number.parse::<usize>().ok());
            waiting += number.unwrap_or(0);
        }
        Ok(waiting)
    }

    /// The functions' event source mappings, as Lambda describes them.
    fn mappings(&self) -> Result<Vec<Value>> {
        let target = "/2015-03-31/event-source-mappings/";
        let answer = self.ministack("lambda", "GET", target, &[], b"")?;
        let answer: Value = serde_json::from_slice(&answer.body)?;
        Ok(answer["EventSourceMappings"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// The deployed rules whose pattern matches an event, as the bus sees it.
    pub async fn matching(&self, event: &Value) -> Result<Vec<&Rule>> {
        let mut matching = Vec::new();
        for rule in &self.rules {
            let Some(pattern) = &rule.pattern else {
                continue;
            };
            let test = self.events.test_event_pattern();
            if test
                .event_pattern(pattern)
                .event(event.to_string())
                .send()
                .await?
                .result()
            {
                matching.push(rule);
            }
        }
        Ok(matching)
    }

    /// Invokes one function and waits: its answer, or Err with the error it
    /// reported.
    pub fn call(&self, function: &str, event: &Value) -> std::result::Result<Value, Value> {
        let answer = self.invoke("RequestResponse", function, event).unwrap();
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if answer.header("x-amz-function-error").is_some() {
            Err(body)
        } else {
            Ok(body)
        }
    }

    /// Invokes one function asynchronously, as a rule does it: with retries
    /// and on-failure destination.
    pub fn start_function(&self, function: &str, event: &Value) -> Result<()> {
        let answer = self.invoke("Event", function, event)?;
        match answer.status() {
            202 => Ok(()),
            _ => Err(format!("{function} was not invoked: {}", answer.text()).into()),
        }
    }

    fn invoke(&self, kind: &str, function: &str, event: &Value) -> Result<Message> {
        let target = format!(
            "/2015-03-31/functions/{}/invocations",
            self.resource(function)
        );
        let headers = [("x-amz-invocation-type", kind)];
        self.ministack(
            "lambda",
            "POST",
            &target,
            &headers,
            event.to_string().as_bytes(),
        )
    }

    // --- the state machine

    /// The executions of the stack's state machine in a state (`RUNNING`,
    /// `SUCCEEDED`, …), by ARN.
    pub fn executions(&self, status: &str) -> Result<Vec<String>> {
        let Some(machine) = self.resources.get("EncryptVolumeStateMachine") else {
            return Ok(Vec::new());
        };
        let ask = json!({"stateMachineArn": machine, "statusFilter": status, "maxResults": 1000});
        let answer = self.states("ListExecutions", &ask)?;
        let executions = answer["executions"].as_array().into_iter().flatten();
        Ok(executions
            .filter_map(|one| one["executionArn"].as_str().map(str::to_owned))
            .collect())
    }

    /// Aborts an execution: the step that is under way is its last.
    pub fn stop_execution(&self, execution: &str) -> Result<()> {
        let ask = json!({"executionArn": execution});
        self.states("StopExecution", &ask).map(|_| ())
    }

    fn states(&self, operation: &str, body: &Value) -> Result<Value> {
        self.json_call("states", &format!("AWSStepFunctions.{operation}"), body)
    }

    /// A new KMS key, by ARN.
    pub fn create_key(&self) -> Result<String> {
        let made = self.json_call("kms", "TrentService.CreateKey", &json!({}))?;
        let arn = made["KeyMetadata"]["Arn"].as_str();
        Ok(arn.ok_or("a key without an ARN")?.to_owned())
    }

    /// Has CloudWatch count something: a request of PutMetricData.
    pub fn put_metric_data(&self, data: &Value) -> Result<()> {
        let target = "GraniteServiceVersion20100801.PutMetricData";
        self.json_call("monitoring", target, data).map(|_| ())
    }

    fn json_call(&self, service: &str, target: &str, body: &Value) -> Result<Value> {
        let headers = [
            ("x-amz-target", target),
            ("content-type", "application/x-amz-json-1.1"),
        ];
        let body = body.to_string();
        let answer = self.ministack(service, "POST", "/", &headers, body.as_bytes())?;
        match answer.status() {
            200 => Ok(serde_json::from_slice(&answer.body)?),
            _ => Err(format!("{target}: {}", answer.text()).into()),
        }
    }

    // --- what came of it

    /// The entries of the ledger, oldest first, as plain JSON: the item, with
    /// its `document` and its compressed `before` read.
    pub async fn entries(&self) -> Result<Vec<Value>> {
        let mut entries = self.items_of(&["entry#"]).await?;
        read_documents(&mut entries)?;
        Ok(entries)
    }

    /// The entries about one resource, oldest first; the resource by its ARN or
    /// the id at the ARN's end.
    pub async fn entries_of(&self, resource: &str) -> Result<Vec<Value>> {
        // By the index: the ledger of many scenarios is long.
        let keys = self
            .dynamodb
            .query()
            .table_name(self.output("LedgerTableName"))
            .index_name("by-resource")
            .key_condition_expression("#resource = :resource")
            .expression_attribute_names("#resource", "resource")
            .expression_attribute_values(":resource", AttributeValue::S(arn(resource)))
            .send()
            .await?;
        let mut entries = Vec::new();
        for key in keys.items() {
            let text = |name: &str| key.get(name).and_then(|text| text.as_s().ok());
            let (Some(pk), Some(sk)) = (text("pk"), text("sk")) else {
                continue;
            };
            entries.extend(self.ledger_item(pk, sk).await?);
        }
        read_documents(&mut entries)?;
        Ok(entries)
    }

    /// One item of the ledger's table.
    pub async fn ledger_item(&self, pk: &str, sk: &str) -> Result<Option<Value>> {
        let get = self
            .dynamodb
            .get_item()
            .table_name(self.output("LedgerTableName"))
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()));
        let item = get.consistent_read(true).send().await?.item;
        Ok(item.as_ref().map(plain_item))
    }

    /// Lets the lease of a lock lapse, as time would.
    pub async fn lapse(&self, lock: &str) -> Result<()> {
        self.dynamodb
            .update_item()
            .table_name(self.output("LedgerTableName"))
            .key("pk", AttributeValue::S(lock.to_owned()))
            .key("sk", AttributeValue::S("lock".to_owned()))
            .condition_expression("attribute_exists(pk)")
            .update_expression("SET lease_until = :then")
            .expression_attribute_values(":then", AttributeValue::N("0".to_owned()))
            .send()
            .await?;
        Ok(())
    }

    /// The items of the ledger's table whose keys begin in one of these ways:
    /// records, locks, counters, and what else there is.
    pub async fn items_of(&self, prefixes: &[&str]) -> Result<Vec<Value>> {
        let mut scan = self
            .dynamodb
            .scan()
            .table_name(self.output("LedgerTableName"))
            .consistent_read(true);
        let mut conditions = Vec::new();
        for (n, prefix) in prefixes.iter().enumerate() {
            conditions.push(format!("begins_with(pk, :prefix{n})"));
            let prefix = AttributeValue::S((*prefix).to_owned());
            scan = scan.expression_attribute_values(format!(":prefix{n}"), prefix);
        }
        scan = scan.filter_expression(conditions.join(" OR "));
        let mut items = Vec::new();
        loop {
            let page = scan.clone().send().await?;
            items.extend(page.items().iter().map(plain_item));
            match page.last_evaluated_key() {
                Some(key) => scan = scan.set_exclusive_start_key(Some(key.clone())),
                None => return Ok(items),
            }
        }
    }

    /// Subscribes a new queue to the topic, with a filter policy when given.
    pub async fn subscribe(&self, filter: Option<&Value>) -> Result<Inbox> {
        let name = format!("inbox-{}", self.next());
        let url = self.sqs.create_queue().queue_name(&name).send().await?;
        let url = url.queue_url.ok_or("a queue without a URL")?;
        let subscribe = self
            .sns
            .subscribe()
            .topic_arn(self.output("NotificationTopicArn"));
        let mut subscribe = subscribe
            .protocol("sqs")
            .endpoint(format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"));
        if let Some(filter) = filter {
            subscribe = subscribe.attributes("FilterPolicy", filter.to_string());
        }
        subscribe.send().await?;
        Ok(Inbox { url })
    }

    /// Takes the messages out of an inbox that are there now.
    pub async fn receive(&self, inbox: &Inbox) -> Result<Vec<Received>> {
        let mut received = Vec::new();
        for envelope in self.drain(&inbox.url).await? {
            let text = |name: &str| envelope[name].as_str().map(str::to_owned);
            let attributes = envelope["MessageAttributes"]
                .as_object()
                .into_iter()
                .flatten();
            received.push(Received {
                subject: text("Subject"),
                body: text("Message").unwrap_or_default(),
                attributes: attributes
                    .map(|(k, v)| {
                        (
                            k.clone(),
                            v["Value"].as_str().unwrap_or_default().to_owned(),
                        )
                    })
                    .collect(),
            });
        }
        Ok(received)
    }

    /// What was published since the scenario began: the bodies by protocol
    /// (`default`, `email`, `https`, ...), as sent to the topic.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        let calls = self.proxy.calls_of("Publish");
        let published = calls.iter().filter(|call| call.status == 200);
        published
            .map(|call| {
                let field = |name: &str| call.request[name].as_str().map(str::to_owned);
                let message = field("Message").unwrap_or_default();
                let bodies = match field("MessageStructure").as_deref() {
                    Some("json") => serde_json::from_str(&message).unwrap_or_default(),
                    _ => BTreeMap::from([("default".to_owned(), message)]),
                };
                let named = |n: u32| {
                    let name = format!("MessageAttributes.entry.{n}");
                    let value = field(&format!("{name}.Value.StringValue"));
                    Some((field(&format!("{name}.Name"))?, value.unwrap_or_default()))
                };
                Published {
                    subject: field("Subject"),
                    bodies,
                    attributes: (1..).map_while(named).collect(),
                }
            })
            .collect()
    }

    /// Takes what lies in the queue of failed events.
    pub async fn failed_events(&self) -> Result<Vec<Value>> {
        self.drain(self.output("FailedEventsQueueUrl")).await
    }

    /// Puts an event among the failed ones, as a rule does that cannot deliver it.
    pub async fn give_up(&self, event: &Value) -> Result<()> {
        let send = self.sqs.send_message();
        let send = send.queue_url(self.output("FailedEventsQueueUrl"));
        send.message_body(event.to_string()).send().await?;
        Ok(())
    }

    async fn drain(&self, url: &str) -> Result<Vec<Value>> {
        let mut bodies = Vec::new();
        loop {
            let batch = self
                .sqs
                .receive_message()
                .queue_url(url)
                .max_number_of_messages(10)
                .send()
                .await?;
            if batch.messages().is_empty() {
                return Ok(bodies);
            }
            for message in batch.messages() {
                bodies.push(serde_json::from_str(message.body().unwrap_or_default())?);
                let delete = self.sqs.delete_message().queue_url(url);
                delete
                    .set_receipt_handle(message.receipt_handle.clone())
                    .send()
                    .await?;
            }
        }
    }

    /// The JSON log lines that a function wrote since the scenario began.
    /// Complete once its invocation has ended.
    pub fn logs(&self, function: &str) -> Result<Vec<Value>> {
        self.logs_since(function, self.begun_ms.get() as u64)
    }

    /// The JSON log lines that a function wrote since it was deployed, over all
    /// scenarios.
    pub fn all_logs(&self, function: &str) -> Result<Vec<Value>> {
        self.logs_since(function, 0)
    }

    fn logs_since(&self, function: &str, since_ms: u64) -> Result<Vec<Value>> {
        let configuration = self.configuration(function, None)?;
        let group = configuration["LoggingConfig"]["LogGroup"]
            .as_str()
            .map_or_else(
                || format!("/aws/lambda/{}", self.resource(function)),
                str::to_owned,
            );
        // MiniStack's answer ends after so many and names no next page.
        const MOST: usize = 10_000;
        let mut lines = Vec::new();
        let mut since = since_ms;
        loop {
            let ask = json!({"logGroupName": group, "startTime": since, "limit": MOST});
            let page = self.json_call("logs", "Logs_20140328.FilterLogEvents", &ask)?;
            let mut events = page["events"].as_array().cloned().unwrap_or_default();
            let last = events.last().and_then(|event| event["timestamp"].as_u64());
            let next = last.filter(|last| events.len() == MOST && *last > since);
            // What is of the last millisecond comes with the next page.
            events.retain(|event| next.is_none() || event["timestamp"].as_u64() != next);
            for event in events {
                let line = event["message"].as_str().unwrap_or_default();
                if let Ok(line @ Value::Object(_)) = serde_json::from_str(line) {
                    lines.push(line);
                }
            }
            match next {
                Some(next) => since = next,
                None => return Ok(lines),
            }
        }
    }

    // --- Systems Manager

    /// Makes an instance a managed one, online or not.
    pub fn manage(&self, instance: &str, online: bool) {
        self.proxy.systems_manager.manage(instance, online);
    }

    /// Says what the last patch operation left on an instance.
    pub fn patch_state(&self, instance: &str, state: Option<PatchState>) {
        self.proxy.systems_manager.patch_state(instance, state);
    }

    /// The commands that were sent to an instance, oldest first, as moto keeps
    /// them.
    #[must_use]
    pub fn commands_to(&self, instance: &str) -> Vec<Value> {
        let ask = json!({ "InstanceId": instance });
        self.proxy.upstreams.commands(&ask)
    }

    // --- the world around

    /// Writes the policy and makes every function read it anew. The one that
    /// was deployed comes back with the next scenario.
    pub async fn set_policy(&self, policy: &Value) -> Result<()> {
        let name = self.output("PolicyParameterName");
        let before = self.ssm.get_parameter().name(name).send().await?;
        let before = before.parameter.and_then(|p| p.value).unwrap_or_default();
        self.policy_changed.borrow_mut().get_or_insert(before);
        self.write_policy(&policy.to_string()).await
    }

    async fn write_policy(&self, policy: &str) -> Result<()> {
        let put = self
            .ssm
            .put_parameter()
            .name(self.output("PolicyParameterName"));
        put.value(policy).overwrite(true).send().await?;
        self.restart_functions()
    }

    /// Ends all running copies of the functions: the next event meets a cold
    /// one, as after a deploy.
    pub fn restart_functions(&self) -> Result<()> {
        let functions: BTreeSet<&String> =
            self.rules.iter().flat_map(|rule| &rule.functions).collect();
        for function in functions {
            self.restart_function(function)?;
        }
        Ok(())
    }

    /// Ends all running copies of one function.
    pub fn restart_function(&self, function: &str) -> Result<()> {
        let known = self.timeouts.borrow().get(function).copied();
        let timeout = match known {
            Some(timeout) => timeout,
            None => {
                let timeout = self.configuration(function, None)?["Timeout"].as_u64();
                timeout.ok_or_else(|| format!("{function} has no time-out"))?
            }
        };
        self.timeouts
            .borrow_mut()
            .insert(function.to_owned(), timeout);
        // MiniStack ends them when something that matters to them is set, even
        // to what it was.
        self.configuration(function, Some(&json!({"Timeout": timeout})))
            .map(|_| ())
    }

    fn configuration(&self, function: &str, change: Option<&Value>) -> Result<Value> {
        let target = format!(
            "/2015-03-31/functions/{}/configuration",
            self.resource(function)
        );
        let answer = match change {
            None => self.ministack("lambda", "GET", &target, &[], b"")?,
            Some(change) => {
                let change = change.to_string();
                self.ministack("lambda", "PUT", &target, &[], change.as_bytes())?
            }
        };
        match answer.status() {
            200 => Ok(serde_json::from_slice(&answer.body)?),
            _ => Err(answer.text().into()),
        }
    }

    /// A number that has not been used before on this local AWS.
    pub fn next(&self) -> u32 {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }

    fn ministack(
        &self,
        service: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Message> {
        let mut all = vec![("host", "localhost")];
        let signed =
            format!("AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request");
        all.push(("authorization", &signed));
        all.extend_from_slice(headers);
        Ok(Message::request(method, target, &all, body).send(self.proxy.upstreams.ministack)?)
    }

    /// Reads pairs out of all pages of an answer of CloudFormation about the stack.
    fn pairs(&self, action: &str, key: &str, value: &str) -> Result<BTreeMap<String, String>> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let element = |text: &str, name: &str| {
            let (_, after) = text.split_once(&format!("<{name}>"))?;
            Some(
                after
                    .split_once("</")?
                    .0
                    .replace("&amp;", "&")
                    .replace("&gt;", ">"),
            )
        };
        let (mut pairs, mut next) = (BTreeMap::new(), None::<String>);
        loop {
            let mut form = vec![
                ("Action", action),
                ("StackName", STACK),
                ("Version", "2010-05-15"),
            ];
            form.extend(next.as_deref().map(|token| ("NextToken", token)));
            let form = http::write_form(&form);
            let answer = self
                .ministack("cloudformation", "POST", "/", &headers, form.as_bytes())?
                .text();
            let members = answer.split("</member>");
            pairs.extend(members.filter_map(|m| Some((element(m, key)?, element(m, value)?))));
            next = element(&answer, "NextToken");
            if next.is_none() {
                return Ok(pairs);
            }
        }
    }

    async fn read_rules(&self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        let found = self.events.list_rules().limit(100).send().await?;
        if found.next_token().is_some() {
            return Err("more than 100 rules: read further pages".into());
        }
        for rule in found.rules() {
            let name = rule.name().unwrap_or_default();
            // A rule that is switched off delivers nothing.
            if rule
                .state()
                .is_some_and(|state| state.as_str() == "DISABLED")
            {
                continue;
            }
            let targets = self.events.list_targets_by_rule().rule(name).send().await?;
            let (mut functions, mut queues) = (Vec::new(), Vec::new());
            let mut behind_queues = Vec::new();
            for target in targets.targets() {
                if target.input().or(target.input_path()).is_some()
                    || target.input_transformer().is_some()
                {
                    return Err(
                        format!("{name} changes its events, which is not modelled here").into(),
                    );
                }
                let arn = target.arn();
                if !arn.contains(":sqs:") {
                    functions.push(self.whose(arn)?);
                    continue;
                }
                let queue = arn.rsplit(':').next().unwrap_or_default();
                let url = self.resources.values();
                let url = url.clone().find(|id| id.ends_with(&format!("/{queue}")));
                queues.push(url.ok_or_else(|| format!("whose is {arn}?"))?.clone());
                for mapping in self.mappings()? {
                    if mapping["EventSourceArn"] == arn {
                        let function = mapping["FunctionArn"].as_str().unwrap_or_default();
                        let function = self.whose(function)?;
                        functions.push(function.clone());
                        behind_queues.push(function);
                    }
                }
            }
            rules.push(Rule {
                name: name.to_owned(),
                pattern: rule.event_pattern().map(str::to_owned),
                functions,
                behind_queues,
                queues,
            });
        }
        Ok(rules)
    }

    /// The logical id of the function of an ARN.
    fn whose(&self, arn: &str) -> Result<String> {
        let physical = arn.rsplit(':').next().unwrap_or_default();
        let logical = self.resources.iter().find(|(_, id)| *id == physical);
        let (logical, _) = logical.ok_or_else(|| format!("whose is {arn}?"))?;
        Ok(logical.clone())
    }
}

/// A message as it was handed to the topic.
#[derive(Clone, Debug)]
pub struct Published {
    /// The subject line.
    pub subject: Option<String>,
    /// The bodies by protocol.
    pub bodies: BTreeMap<String, String>,
    /// The message attributes, as filter policies see them.
    pub attributes: BTreeMap<String, String>,
}

// --- building and deploying

fn build(options: &Options) -> Result<PathBuf> {
    let built = workshop().join("build");
    let mut sam = sam("build");
    sam.arg("--template-file").arg(&options.template);
    sam.arg("--build-dir").arg(&built);
    parameters(&mut sam, options);
    sam.env("SAM_BUILD_MODE", "debug");
    // In front: the local stand-in for cargo-lambda.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let stand_in = repository().join("tests/local-aws/bin");
    let path = std::iter::once(stand_in).chain(std::env::split_paths(&path));
    sam.env("PATH", std::env::join_paths(path)?);
    run(&workshop(), "sam-build", &mut sam)?;
    let mut pack = Command::new(workshop().join("venv/sam/bin/python"));
    pack.arg(repository().join("tests/local-aws/pack.py"));
    run(&workshop(), "pack", pack.arg(&built))?;
    Ok(built.join("template.yaml"))
}

fn deploy(folder: &Path, options: &Options, template: &Path, ministack: SocketAddr) -> Result<()> {
    let bucket = Message::request("PUT", "/backstop-artifacts", &[("host", "localhost")], b"");
    let bucket = bucket.send(ministack)?;
    if bucket.status() != 200 {
        return Err(format!("no bucket for the functions: {}", bucket.text()).into());
    }
    let mut sam = sam("deploy");
    sam.arg("--template-file").arg(template);
    sam.arg("--config-file")
        .arg(repository().join("tests/local-aws/samconfig.toml"));
    parameters(&mut sam, options);
    sam.env("AWS_ENDPOINT_URL", format!("http://{ministack}"));
    run(folder, "sam-deploy", &mut sam)
}

fn parameters(sam: &mut Command, options: &Options) {
    sam.arg("--parameter-overrides");
    sam.args(options.parameters.iter().map(|(k, v)| format!("{k}={v}")));
}

/// SAM from its virtual environment, kept away from any real account.
fn sam(command: &str) -> Command {
    let mut sam = Command::new(workshop().join("venv/sam/bin/sam"));
    sam.arg(command)
        .current_dir(repository())
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // What cargo sets for a test would look like a change to a cargo inside.
        let of_cargo = [
            "CARGO_PKG_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
            "CARGO_MANIFEST_",
        ];
        let of_aws = text.starts_with("AWS_") && !text.starts_with("AWS_LC_");
        if of_aws || text.starts_with("SAM_") || of_cargo.iter().any(|p| text.starts_with(p)) {
            sam.env_remove(&name);
        }
    }
    sam.envs(pretend_account());
    sam.env("SAM_CLI_TELEMETRY", "0");
    // Nothing here takes the five seconds that SAM sleeps between two looks.
    sam.env("SAM_CLI_POLL_DELAY", "0.1");
    sam
}

fn pretend_account() -> [(&'static str, &'static str); 6] {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}

/// Runs a command to its end; its output goes to a log in a folder and into the
/// error.
fn run(folder: &Path, name: &str, command: &mut Command) -> Result<()> {
    let path = folder.join(format!("{name}.log"));
    let log = File::create(&path)?;
    let status = command.stdout(log.try_clone()?).stderr(log).status()?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    File::open(&path)?.read_to_string(&mut said)?;
    Err(format!("{name} failed ({status}):\n{said}").into())
}

// --- the emulators

struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // The guard kills the emulator and its functions when this closes.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn start_moto(folder: &Path, upstreams: Upstreams) -> Result<Emulator> {
    let port = upstreams.moto.port().to_string();
    let server = emulators().join("moto_server");
    start_emulator(
        folder,
        "moto",
        &[
            server.as_os_str(),
            "-H".as_ref(),
            "127.0.0.1".as_ref(),
            "-p".as_ref(),
            port.as_ref(),
        ],
        &[("MOTO_EC2_LOAD_DEFAULT_AMIS", "false".to_owned())],
    )
}

fn start_ministack(folder: &Path, proxy: &Proxy, watch: SocketAddr) -> Result<Emulator> {
    let python = emulators().join("python");
    let program = repository().join("tests/local-aws/watched_ministack.py");
    let watch = watch.port().to_string();
    // The functions inherit all of this, and nothing else.
    start_emulator(
        folder,
        "ministack",
        &[python.as_os_str(), program.as_os_str(), watch.as_ref()],
        &[
            ("BIND_HOST", "127.0.0.1".to_owned()),
            ("GATEWAY_PORT", proxy.upstreams.ministack.port().to_string()),
            ("LAMBDA_EXECUTOR", "local".to_owned()),
            // AWS waits a minute before it tries a failed event again.
            ("LAMBDA_ASYNC_RETRY_BASE_SECONDS", "0.3".to_owned()),
            ("IOT_MTLS_ENABLED", "0".to_owned()),
            ("MINISTACK_ACCOUNT_ID", ACCOUNT.to_owned()),
            ("MINISTACK_REGION", REGION.to_owned()),
            // A wait of 15 seconds takes 60 ms: not to spin in the meantime.
            ("SFN_WAIT_SCALE", "0.004".to_owned()),
            // AWS sets these two from the template's LoggingConfig; MiniStack does not.
            ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned()),
            ("AWS_LAMBDA_LOG_LEVEL", "INFO".to_owned()),
            (
                "AWS_ENDPOINT_URL",
                format!("http://127.0.0.1:{}", proxy.ministack_port),
            ),
            (
                "AWS_ENDPOINT_URL_EC2",
                format!("http://127.0.0.1:{}", proxy.moto_port),
            ),
            (
                "AWS_ENDPOINT_URL_IAM",
                format!("http://127.0.0.1:{}", proxy.moto_port),
            ),
        ],
    )
}

/// The programs of the emulators' virtual environment.
fn emulators() -> PathBuf {
    workshop().join("venv/emulators/bin")
}

fn start_emulator(
    folder: &Path,
    name: &str,
    command: &[&OsStr],
    env: &[(&str, String)],
) -> Result<Emulator> {
    let log = File::create(folder.join(format!("{name}.log")))?;
    let scratch = folder.join(format!("{name}-{}", std::process::id()));
    let mut guard = Command::new(emulators().join("python"));
    guard
        .arg(repository().join("tests/local-aws/guard.py"))
        .arg(&scratch);
    guard.args(command);
    guard.env_clear();
    guard.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    guard.env("HOME", &scratch);
    guard.env("PYTHONUNBUFFERED", "1");
    guard.envs(pretend_account());
    guard.envs(env.iter().map(|(k, v)| (k, v)));
    guard.current_dir(folder);
    guard
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Out of reach of a terminal's Ctrl-C: it must live on to clean up.
    guard.process_group(0);
    Ok(Emulator(guard.spawn()?))
}

fn ready(
    folder: &Path,
    name: &str,
    emulator: &mut Emulator,
    address: SocketAddr,
    path: &str,
) -> Result<()> {
    let asked = Instant::now();
    let request = Message::request("GET", path, &[("host", "localhost")], b"");
    while !request
        .send(address)
        .is_ok_and(|answer| answer.status() == 200)
    {
        if emulator.0.try_wait()?.is_some() || asked.elapsed() > PATIENCE {
            let log = folder.join(format!("{name}.log"));
            return Err(format!("{name} did not come up; see {}", log.display()).into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn now_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis())
}

/// The ARN of a security group, volume or instance by its id; of anything else
/// itself.
fn arn(resource: &str) -> String {
    let kind = match resource.split('-').next() {
        Some("sg") => "security-group",
        Some("vol") => "volume",
        Some("i") => "instance",
        Some("subnet") => "subnet",
        // The ARN of a snapshot, or of an image, names no account.
        Some("snap") => return format!("arn:aws:ec2:{REGION}::snapshot/{resource}"),
        Some("ami") => return format!("arn:aws:ec2:{REGION}::image/{resource}"),
        _ => return resource.to_owned(),
    };
    format!("arn:aws:ec2:{REGION}:{ACCOUNT}:{kind}/{resource}")
}

/// Reads the documents in entries, and puts the entries in their order.
fn read_documents(entries: &mut [Value]) -> Result<()> {
    for entry in entries.iter_mut() {
        if let Some(document) = entry["document"].as_str() {
            entry["document"] = serde_json::from_str(document)?;
        }
    }
    entries.sort_by_key(|entry| entry["pk"].to_string());
    Ok(())
}

fn plain_item(item: &HashMap<String, AttributeValue>) -> Value {
    let fields = item.iter().map(|(k, v)| (k.clone(), plain(v)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn plain(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!(text),
        AttributeValue::N(number) => serde_json::from_str(number).unwrap_or_else(|_| json!(number)),
        AttributeValue::Bool(truth) => json!(truth),
        AttributeValue::L(list) => list.iter().map(plain).collect(),
        AttributeValue::M(map) => map.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        AttributeValue::Ss(set) => json!(set),
        AttributeValue::Ns(set) => json!(set),
        AttributeValue::B(bytes) => unpack(bytes),
        _ => Value::Null,
    }
}

fn unpack(bytes: &Blob) -> Value {
    let mut text = String::new();
    match flate2::read::GzDecoder::new(bytes.as_ref()).read_to_string(&mut text) {
        Ok(_) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Err(_) => json!(format!("{} bytes", bytes.as_ref().len())),
    }
}
