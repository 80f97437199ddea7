//! The function against the real SDK clients, over a small world on the wire: a
//! ledger that keeps its conditions, instances, and a Systems Manager that
//! remembers its commands. What is called in which order, what is written before
//! what, and what a call that fails leaves behind. What is decided is tested in
//! the core.

use std::sync::{Arc, Mutex};

use backstop_wire::memory::table::Table;
use backstop_wire::{Call, Reply, Wire};

use super::*;

const POLICY: &str = r#"{"version":1,"controls":{"vulnerable-package":{"mode":"enforce"},"missing-patches":{"mode":"enforce"},"unmanaged-instance":{"mode":"notify"}}}"#;

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn id(number: usize) -> String {
    format!("i-{number:017x}")
}

#[derive(Clone)]
struct Machine {
    state: &'static str,
    minutes: u64,
    tags: Vec<(&'static str, &'static str)>,
    online: bool,
    /// Operation, when it ended, missing, failed.
    patches: Option<(&'static str, Timestamp, u32, u32)>,
}

impl Default for Machine {
    /// Running for a day, online, scanned five days ago: nothing is missing.
    fn default() -> Self {
        Self {
            state: "running",
            minutes: 24 * 60,
            tags: Vec::new(),
            online: true,
            patches: Some(("Scan", ago(5 * 24 * 60), 0, 0)),
        }
    }
}

fn lacking(missing: u32) -> Machine {
    Machine {
        patches: Some(("Scan", ago(5 * 24 * 60), missing, 0)),
        ..Machine::default()
    }
}

fn ago(minutes: u64) -> Timestamp {
    Timestamp::now() - Duration::from_secs(60 * minutes)
}

struct SentCommand {
    comment: String,
    operation: String,
    reboot: String,
    instances: Vec<String>,
    at: Timestamp,
    /// What it came to, by instance.
    ended: BTreeMap<String, &'static str>,
}

struct World {
    policy: String,
    machines: BTreeMap<String, Machine>,
    table: Table,
    commands: Vec<SentCommand>,
    /// Entry and id.
    snapshots: Vec<(String, String)>,
    /// How many volumes an instance has.
    volumes: usize,
    /// Snapshots that came to nothing.
    lost: BTreeSet<String>,
    denied: BTreeSet<String>,
    /// The version of every agent.
    agent: &'static str,
    /// The step of a command that failed on an instance: its exit code, and what
    /// it printed.
    printed: BTreeMap<String, (i32, &'static str)>,
    /// Instance, status and message key of what was told, in order; what has the
    /// same key is sent once, so it stands here once.
    told: Vec<(String, String, String)>,
    /// The control whose trip was told, for each time.
    notices: Vec<String>,
}

impl World {
    fn of(machines: impl IntoIterator<Item = (usize, Machine)>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            policy: POLICY.into(),
            machines: machines.into_iter().map(|(n, m)| (id(n), m)).collect(),
            table: Table::default(),
            commands: Vec::new(),
            snapshots: Vec::new(),
            volumes: 1,
            lost: BTreeSet::new(),
            denied: BTreeSet::new(),
            agent: "3.3.1142.0",
            printed: BTreeMap::new(),
            told: Vec::new(),
            notices: Vec::new(),
        }))
    }

    fn answer(&mut self, call: &Call) -> Reply {
        match call.operation.as_str() {
            "DescribeInstances" => self.describe_instances(call),
            "DescribeSnapshots" => {
                let entry = call.parameter("Filter.1.Value.1").unwrap();
                let ours = self.snapshots.iter().filter(|(of, _)| of == entry);
                let items: String = ours
                    .map(|(entry, id)| {
                        let state = if self.lost.contains(id) { "error" } else { "pending" };
                        format!("<item><snapshotId>{id}</snapshotId><volumeId>vol-1</volumeId><status>{state}</status><tagSet><item><key>backstop:entry</key><value>{entry}</value></item><item><key>backstop:purpose</key><value>safety</value></item></tagSet></item>")
                    })
                    .collect();
                xml("DescribeSnapshots", &format!("<snapshotSet>{items}</snapshotSet>"))
            }
            "CreateSnapshots" => {
                let entry = call
                    .parameters
                    .iter()
                    .find(|(key, value)| key.ends_with(".Key") && value == "backstop:entry")
                    .map(|(key, _)| key.replace(".Key", ".Value"))
                    .and_then(|key| call.parameter(&key))
                    .unwrap();
                let mut made = String::new();
                for _ in 0..self.volumes {
                    let id = format!("snap-{:017x}", self.snapshots.len());
                    made += &format!("<item><snapshotId>{id}</snapshotId></item>");
                    self.snapshots.push((entry.to_owned(), id));
                }
                xml("CreateSnapshots", &format!("<snapshotSet>{made}</snapshotSet>"))
            }
            "DescribeRouteTables" => xml("DescribeRouteTables", "<routeTableSet/>"),
            "DescribeVpcEndpoints" => xml("DescribeVpcEndpoints", "<vpcEndpointSet/>"),
            "GetServiceSetting" => Reply::ok(r#"{"ServiceSetting":{"SettingValue":"$None"}}"#),
            "GetParameter" => Reply::ok(
                json!({ "Parameter": { "Value": self.policy, "Version": 3 } }).to_string(),
            ),
            "DescribeInstanceInformation" => {
                let list: Vec<Value> = texts(&call.json["Filters"][0]["Values"])
                    .iter()
                    .filter(|id| self.machines.get(*id).is_some_and(|m| m.online))
                    .map(|id| json!({ "InstanceId": id, "PingStatus": "Online", "AgentVersion": self.agent }))
                    .collect();
                Reply::ok(json!({ "InstanceInformationList": list }).to_string())
            }
            "DescribeInstancePatchStates" => {
                let ids = texts(&call.json["InstanceIds"]);
                assert!(ids.len() <= 50, "Systems Manager's quota");
                let list: Vec<Value> = ids
                    .iter()
                    .filter_map(|id| {
                        let (operation, ended, missing, failed) =
                            self.machines.get(id)?.patches?;
                        Some(json!({
                            "InstanceId": id, "PatchGroup": "", "BaselineId": "pb-1",
                            "OperationStartTime": ended.as_second(),
                            "OperationEndTime": ended.as_second(), "Operation": operation,
                            "MissingCount": missing, "FailedCount": failed,
                        }))
                    })
                    .collect();
                Reply::ok(json!({ "InstancePatchStates": list }).to_string())
            }
            "DescribeInstancePatches" => Reply::ok(
                json!({ "Patches": [{
                    "Title": "openssl-libs.x86_64:1:3.0.8-1.amzn2023.0.21", "KBId": "openssl-libs.x86_64",
                    "Classification": "Security", "Severity": "Important", "State": "Missing",
                    "InstalledTime": 0,
                }]})
                .to_string(),
            ),
            "SendCommand" => self.send_command(call),
            "ListCommands" => {
                let of = call.json["InstanceId"].as_str().unwrap().to_owned();
                let since = call.json["Filters"][0]["value"].as_str().unwrap();
                let since: Timestamp = since.parse().unwrap();
                let list: Vec<Value> = self
                    .commands
                    .iter()
                    .enumerate()
                    .filter(|(_, command)| command.instances.contains(&of) && command.at >= since)
                    .map(|(n, command)| {
                        let ended = command.ended.len() == command.instances.len();
                        json!({
                            "CommandId": command_id(n), "DocumentName": "AWS-RunPatchBaseline",
                            "Comment": command.comment, "RequestedDateTime": command.at.as_second(),
                            "Status": if ended { "Success" } else { "InProgress" },
                            "Parameters": { "Operation": [command.operation] },
                        })
                    })
                    .collect();
                Reply::ok(json!({ "Commands": list }).to_string())
            }
            "ListCommandInvocations" => {
                let of = call.json["InstanceId"].as_str().unwrap();
                let asked = call.json["CommandId"].as_str();
                let known = self.commands.iter().enumerate().filter(|(n, command)| {
                    let named = asked.is_none_or(|asked| command_id(*n) == asked);
                    named && command.instances.iter().any(|id| id == of)
                });
                let list: Vec<Value> = known
                    .map(|(n, command)| {
                        let details = *command.ended.get(of).unwrap_or(&"In Progress");
                        let step = self.printed.get(of).filter(|_| details == "Failed");
                        let steps: Vec<Value> = step
                            .map(|(code, output)| json!({
                                "Name": "PatchLinux", "Status": "Failed", "ResponseCode": code,
                                "Output": output, "ResponseStartDateTime": command.at.as_second(),
                            }))
                            .into_iter()
                            .collect();
                        json!({
                            "CommandId": command_id(n), "InstanceId": of,
                            "StatusDetails": details, "CommandPlugins": steps,
                        })
                    })
                    .collect();
                if asked.is_some() && list.is_empty() {
                    return Reply::json_error("InvalidCommandId", "");
                }
                Reply::ok(json!({ "CommandInvocations": list }).to_string())
            }
            "PutEvents" => {
                for entry in call.json["Entries"].as_array().unwrap() {
                    assert_eq!(entry["DetailType"], "Remediation Recorded");
                    let detail: Value =
                        serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
                    self.tell(detail["entry"].as_str().unwrap());
                }
                Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#)
            }
            other => self.table.answer(call).unwrap_or_else(|| panic!("{other}")),
        }
    }

    fn describe_instances(&self, call: &Call) -> Reply {
        assert_eq!(call.parameter("Filter.1.Name"), Some("instance-id"));
        let asked = call
            .parameters
            .iter()
            .filter(|(key, _)| key.starts_with("Filter.1.Value."));
        let items: String = asked
            .filter_map(|(_, id)| Some((id, self.machines.get(id)?)))
            .map(|(id, machine)| {
                let tags: String = machine
                    .tags
                    .iter()
                    .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
                    .collect();
                format!(
                    "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>{}</name></instanceState><launchTime>{}</launchTime><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId><tagSet>{tags}</tagSet></item>",
                    machine.state,
                    ago(machine.minutes)
                )
            })
            .collect();
        xml(
            "DescribeInstances",
            &format!(
                "<reservationSet><item><reservationId>r-1</reservationId><instancesSet>{items}</instancesSet></item></reservationSet>"
            ),
        )
    }

    /// A refusal that names the instance which is denied.
    fn denial(&self, call: &Call) -> Option<Reply> {
        let asked = texts(&call.json["InstanceIds"]);
        let denied = asked.iter().find(|id| self.denied.contains(*id))?;
        Some(Reply::json_error(
            "AccessDeniedException",
            &format!(
                "not authorized to perform: ssm:SendCommand on resource: arn:aws:ec2:eu-central-1:111122223333:instance/{denied} with an explicit deny"
            ),
        ))
    }

    fn send_command(&mut self, call: &Call) -> Reply {
        let instances = texts(&call.json["InstanceIds"]);
        assert!((1..=50).contains(&instances.len()), "SendCommand's quota");
        if instances.iter().any(|id| self.denied.contains(id)) {
            return Reply::json_error("AccessDeniedException", "explicit deny");
        }
        let parameter = |name: &str| {
            let value = &call.json["Parameters"][name][0];
            value.as_str().unwrap().to_owned()
        };
        self.commands.push(SentCommand {
            comment: call.json["Comment"].as_str().unwrap().into(),
            operation: parameter("Operation"),
            reboot: parameter("RebootOption"),
            instances,
            at: Timestamp::now(),
            ended: BTreeMap::new(),
        });
        let id = command_id(self.commands.len() - 1);
        Reply::ok(json!({ "Command": { "CommandId": id } }).to_string())
    }

    /// Ends the last command on all its instances: what it came to, and what
    /// Systems Manager shows as missing since.
    fn end(&mut self, status: &'static str, missing: u32) {
        let command = self.commands.last_mut().unwrap();
        for id in command.instances.clone() {
            command.ended.insert(id.clone(), status);
            let operation = match command.operation.as_str() {
                "Scan" => "Scan",
                _ => "Install",
            };
            self.machines.get_mut(&id).unwrap().patches =
                Some((operation, Timestamp::now(), missing, 0));
        }
    }

    fn tell(&mut self, entry: &str) {
        let Some(record) = self.record(entry) else {
            let item = &self.table.items[&format!("entry#{entry}")];
            let control = item["control"]["S"].as_str().unwrap();
            self.notices.push(control.to_owned());
            return;
        };
        let told = (
            record.resource_id().to_owned(),
            record.head.status.name().to_owned(),
            record.message_key(),
        );
        if !self.told.contains(&told) {
            self.told.push(told);
        }
    }

    fn record(&self, entry: &str) -> Option<Patching> {
        let item = self.table.items.get(&format!("entry#{entry}"))?;
        let document: Value = serde_json::from_str(item["document"]["S"].as_str()?).ok()?;
        (document["kind"] == "patching").then(|| serde_json::from_value(document).unwrap())
    }

    fn records(&self) -> Vec<Patching> {
        let ids = self
            .table
            .items
            .keys()
            .filter_map(|pk| pk.strip_prefix("entry#"));
        ids.filter_map(|id| self.record(id)).collect()
    }

    /// What was told of an instance, in order.
    fn told_of(&self, number: usize) -> Vec<&str> {
        let of = self.told.iter().filter(|(of, ..)| *of == id(number));
        of.map(|(_, status, _)| status.as_str()).collect()
    }

    fn locks(&self) -> usize {
        let locks = self.table.items.keys().filter(|pk| pk.starts_with("lock#"));
        locks.count()
    }

    /// As though every lease had lapsed.
    fn lapse(&mut self) {
        for (pk, item) in &mut self.table.items {
            if pk.starts_with("lock#") {
                item["lease_until"] = json!({ "N": "1" });
            }
        }
    }

    /// Changes a record's document, as though it had been written like that.
    fn rewrite(&mut self, change: impl Fn(&mut Value)) {
        for (pk, item) in &mut self.table.items {
            if pk.starts_with("entry#") {
                let text = item["document"]["S"].as_str().unwrap();
                let mut document: Value = serde_json::from_str(text).unwrap();
                change(&mut document);
                item["document"] = json!({ "S": document.to_string() });
            }
        }
    }
}

fn pk(key: &Value) -> String {
    key["pk"]["S"].as_str().unwrap().to_owned()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn command_id(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012x}")
}

/// A wire over the world on which `fails` may answer first.
fn wire_with(
    world: &Arc<Mutex<World>>,
    fails: impl Fn(&mut World, &Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let world = world.clone();
    Wire::new(move |call| {
        let mut world = world.lock().unwrap();
        fails(&mut world, call).unwrap_or_else(|| world.answer(call))
    })
}

fn wire(world: &Arc<Mutex<World>>) -> Wire {
    wire_with(world, |_, _| None)
}

fn handler(wire: &Wire) -> Handler {
    let settings = PatchSettings {
        remediation: backstop_aws::settings::RemediationSettings {
            ledger_table: "ledger".into(),
            policy_parameter: "/p".into(),
            mode: Mode::Notify,
            owner_tag_key: "owner".into(),
        },
        command_log_group: "/backstop/patch-commands".into(),
    };
    let mut handler = Handler::new(Clients::new(&wire.config(1)), settings);
    handler.policy = handler.policy.keeping(Duration::ZERO);
    handler
}

async fn run_within(wire: &Wire, payload: Value, seconds: u64) -> Result<Value, String> {
    let mut context = Context::default();
    context.deadline = (Timestamp::now() + Duration::from_secs(seconds)).as_millisecond() as u64;
    context.invoked_function_arn =
        "arn:aws:lambda:eu-central-1:111122223333:function:backstop-patch-instance".into();
    handler(wire)
        .handle(LambdaEvent::new(payload, context))
        .await
        .map_err(|failure| failure.error_message)
}

async fn run(wire: &Wire, payload: Value) -> Result<Value, String> {
    run_within(wire, payload, 300).await
}

fn event(source: &str, detail_type: &str, at: Timestamp, detail: &Value) -> Value {
    json!({
        "version": "0", "id": "e", "detail-type": detail_type, "source": source,
        "account": "111122223333", "time": at.to_string(), "region": "eu-central-1",
        "resources": [], "detail": detail,
    })
}

fn compliance(number: usize) -> Value {
    let detail = json!({
        "resource-type": "managed-instance", "resource-id": id(number),
        "compliance-status": "non_compliant", "compliance-type": "Patch",
    });
    event(
        "aws.ssm",
        "Configuration Compliance State Change",
        Timestamp::now(),
        &detail,
    )
}

fn ended(number: usize) -> Value {
    let detail = json!({
        "command-id": "c", "document-name": "AWS-RunPatchBaseline",
        "instance-id": id(number), "status": "Success",
    });
    event(
        "aws.ssm",
        "EC2 Command Invocation Status-change Notification",
        Timestamp::now(),
        &detail,
    )
}

fn arn(finding: usize) -> String {
    format!("arn:aws:inspector2:eu-central-1:111122223333:finding/{finding}")
}

fn finding(number: usize, finding: usize, status: &str, severity: &str, at: Timestamp) -> Value {
    let detail = json!({
        "findingArn": arn(finding), "type": "PACKAGE_VULNERABILITY", "status": status,
        "severity": severity, "title": "CVE-2026-10001 - openssl-libs",
        "resources": [{ "type": "AWS_EC2_INSTANCE", "id": id(number) }],
        "packageVulnerabilityDetails": {
            "vulnerabilityId": "CVE-2026-10001",
            "vulnerablePackages": [{ "name": "openssl-libs", "version": "3.0.8", "packageManager": "OS", "fixedInVersion": "3.0.9" }],
        },
    });
    event("aws.inspector2", "Inspector2 Finding", at, &detail)
}

fn active(number: usize, of: usize) -> Value {
    finding(number, of, "ACTIVE", "HIGH", ago(10))
}

fn batch(messages: impl IntoIterator<Item = Value>) -> Value {
    let records: Vec<Value> = messages
        .into_iter()
        .enumerate()
        .map(|(n, event)| json!({ "messageId": format!("m{n}"), "body": event.to_string() }))
        .collect();
    json!({ "Records": records })
}

/// The messages of an answer that are to be delivered again.
fn failed(answer: &Value) -> Vec<&str> {
    let failures = answer["batchItemFailures"].as_array().unwrap().iter();
    failures
        .map(|of| of["itemIdentifier"].as_str().unwrap())
        .collect()
}

fn count(wire: &Wire, operation: &str) -> usize {
    let operations = wire.operations();
    operations.iter().filter(|of| *of == operation).count()
}

/// Nothing was done to any instance.
fn nothing_done(wire: &Wire) -> bool {
    count(wire, "SendCommand") + count(wire, "CreateSnapshots") == 0
}

/// The reports of an instance, as the ledger gives them.
async fn reports(world: &Arc<Mutex<World>>, number: usize) -> Reports {
    let wire = wire(world);
    let ledger = Ledger::new(&Clients::new(&wire.config(1)), "ledger".into());
    let mut all = ledger.reports(&[id(number)]).await.unwrap();
    all.remove(&id(number)).unwrap_or_default()
}

// --- batches

#[tokio::test(start_paused = true)]
async fn many_findings_of_one_instance_become_one_run_and_one_command() {
    let world = World::of([(1, Machine::default())]);
    let wire = wire(&world);
    let answer = run(&wire, batch((0..30).map(|n| active(1, n))))
        .await
        .unwrap();
    assert_eq!(failed(&answer), Vec::<&str>::new());
    assert_eq!(count(&wire, "CreateSnapshots"), 1);
    let world_now = world.lock().unwrap();
    let [run] = &world_now.records()[..] else {
        panic!("one run")
    };
    assert_eq!(
        (run.detail.findings.len(), run.head.control),
        (30, ControlId::VulnerablePackage)
    );
    let [command] = &world_now.commands[..] else {
        panic!("one command")
    };
    assert_eq!(command.instances, [id(1)]);
    assert_eq!(
        (command.operation.as_str(), command.reboot.as_str()),
        ("Install", "NoReboot")
    );
}

#[tokio::test(start_paused = true)]
async fn more_than_a_record_holds_is_left_out_of_it_and_counted_and_the_patches_are_installed() {
    let world = World::of([(1, lacking(100))]);
    let long = "é".repeat(290);
    let wire = wire_with(&world, {
        let long = long.clone();
        move |_, call| {
            (call.operation == "DescribeInstancePatches").then(|| {
                let patch = json!({
                    "Title": long.repeat(6), "KBId": "kb", "Classification": "Security",
                    "Severity": "Important", "State": "Missing", "InstalledTime": 0,
                });
                Reply::ok(json!({ "Patches": vec![patch; 100] }).to_string())
            })
        }
    });
    let found = (0..60).map(|of| {
        let mut event = active(1, of);
        let detail = &mut event["detail"];
        detail["title"] = long.clone().into();
        let package = json!({
            "name": long, "version": long, "fixedInVersion": long, "packageManager": "OS",
            "remediation": long,
        });
        detail["packageVulnerabilityDetails"]["vulnerablePackages"] = vec![package; 8].into();
        event
    });
    let answer = run(&wire, batch(found)).await.unwrap();
    assert_eq!(failed(&answer), Vec::<&str>::new());
    let world = world.lock().unwrap();
    let [run] = &world.records()[..] else {
        panic!("one run")
    };
    assert_eq!((run.detail.findings_total, world.commands.len()), (60, 1));
    assert!(
        (1..60).contains(&run.detail.findings.len()),
        "{}",
        run.detail.findings.len()
    );
    assert!(!run.detail.missing.is_empty());
    let item = &world.table.items[&format!("entry#{}", run.head.id)];
    let size = item["document"]["S"].as_str().unwrap().len();
    assert!(size < 400 * 1024, "DynamoDB's limit: {size}");
}

#[tokio::test(start_paused = true)]
async fn sixty_instances_become_two_commands() {
    let world = World::of((0..60).map(|n| (n, lacking(3))));
    world.lock().unwrap().policy = r#"{"version":1,"controls":{"missing-patches":{"mode":"enforce","budget":{"changes_per_hour":100}}}}"#.into();
    let wire = wire(&world);
    let answer = run(&wire, batch((0..60).map(compliance))).await.unwrap();
    assert_eq!(failed(&answer), Vec::<&str>::new());
    let world = world.lock().unwrap();
    let sizes: Vec<usize> = world.commands.iter().map(|c| c.instances.len()).collect();
    assert_eq!(sizes, [50, 10]);
    let all: BTreeSet<&String> = world.commands.iter().flat_map(|c| &c.instances).collect();
    assert_eq!(all.len(), 60, "each in one of them");
    assert!(
        world
            .records()
            .iter()
            .all(|run| run.detail.command.is_some())
    );
}

#[tokio::test(start_paused = true)]
async fn scans_and_installations_are_commands_of_their_own_and_a_scan_takes_no_snapshots() {
    let never = Machine {
        patches: None,
        ..Machine::default()
    };
    let world = World::of([(1, lacking(1)), (2, never)]);
    let wire = wire(&world);
    run(&wire, batch([compliance(1), compliance(2)]))
        .await
        .unwrap();
    let world = world.lock().unwrap();
    let sent: BTreeSet<(String, Vec<String>)> = world
        .commands
        .iter()
        .map(|c| (c.operation.clone(), c.instances.clone()))
        .collect();
    assert_eq!(
        sent,
        BTreeSet::from([
            ("Install".into(), vec![id(1)]),
            ("Scan".into(), vec![id(2)])
        ])
    );
    assert_eq!(world.snapshots.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_step_is_in_the_ledger_before_the_next_and_it_is_told_before_it_is_sent() {
    let world = World::of([(1, lacking(2))]);
    let wire = wire(&world);
    run(&wire, batch([compliance(1)])).await.unwrap();
    let steps: Vec<String> = wire
        .calls()
        .iter()
        .flat_map(|call| match call.operation.as_str() {
            "TransactWriteItems" => {
                let writes = call.json["TransactItems"].as_array().unwrap().iter();
                let documents =
                    writes.filter_map(|write| write["Put"]["Item"]["document"]["S"].as_str());
                documents
                    .map(|text| {
                        let run: Value = serde_json::from_str(text).unwrap();
                        let has =
                            |name: &str| run.get(name).is_some_and(|value| *value != json!([]));
                        let held: Vec<&str> = ["snapshots", "batch", "command"]
                            .into_iter()
                            .filter(|name| has(name))
                            .collect();
                        format!("stored {}", held.join(" "))
                    })
                    .collect()
            }
            "CreateSnapshots" | "PutEvents" | "SendCommand" => vec![call.operation.clone()],
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(
        steps,
        [
            "stored ",
            "CreateSnapshots",
            "stored snapshots batch",
            "PutEvents",
            "SendCommand",
            "stored snapshots batch command",
        ]
    );
    let begin = wire
        .calls()
        .into_iter()
        .find(|call| call.operation == "TransactWriteItems");
    let begin = begin.unwrap().json["TransactItems"].clone();
    assert!(pk(&begin[0]["Put"]["Item"]).starts_with("lock#"));
    assert!(pk(&begin[1]["Put"]["Item"]).starts_with("entry#"));
    assert!(pk(&begin[2]["Update"]["Key"]).starts_with("budget#"));
    let [run] = &world.lock().unwrap().records()[..] else {
        panic!("one run")
    };
    assert_eq!(
        run.detail.missing.len(),
        1,
        "the message lists what will be installed"
    );
    assert_eq!(
        world.lock().unwrap().commands[0].comment,
        Patching::comment(run.detail.batch.as_ref().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_the_broken_messages_are_delivered_again() {
    let world = World::of([(1, lacking(1))]);
    let wire = wire(&world);
    let mut broken = compliance(1);
    broken["detail"]["resource-id"] = "i-*".into();
    let ignored = event("aws.ssm", "Something Else", Timestamp::now(), &json!({}));
    let mut payload = batch([compliance(1), broken, ignored]);
    let nonsense = json!({ "messageId": "m3", "body": "nonsense" });
    payload["Records"].as_array_mut().unwrap().push(nonsense);
    let answer = run(&wire, payload).await.unwrap();
    let failed: BTreeSet<&str> = failed(&answer).into_iter().collect();
    assert_eq!(failed, BTreeSet::from(["m1", "m3"]));
    assert_eq!(world.lock().unwrap().commands.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_which_nothing_could_be_done_is_an_error() {
    let world = World::of([(1, lacking(1))]);
    let mut broken = compliance(1);
    broken["detail"]["resource-id"] = "i-*".into();
    let error = run(&wire(&world), batch([broken.clone(), broken]))
        .await
        .unwrap_err();
    assert!(
        error.contains("nothing of a batch of 2 could be done") && error.contains("`i-*`"),
        "{error}"
    );
    let empty = run(&wire(&world), batch([])).await.unwrap();
    assert_eq!(failed(&empty), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn one_instance_that_fails_keeps_no_other_from_being_patched() {
    let world = World::of([(1, lacking(1)), (2, lacking(1))]);
    let wire = wire_with(&world, |_, call| {
        (call.operation == "DescribeInstancePatches" && call.json["InstanceId"] == id(1).as_str())
            .then(|| Reply::json_error("ThrottlingException", "slower"))
    });
    let answer = run(&wire, batch([compliance(1), compliance(2)]))
        .await
        .unwrap();
    assert_eq!(failed(&answer), ["m0"]);
    assert_eq!(world.lock().unwrap().commands[0].instances, [id(2)]);
}

// --- what is not begun

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_changes_nothing() {
    let denied = || Reply::json_error("AccessDeniedException", "no");
    for (operation, reply) in [
        ("GetParameter", denied()),
        (
            "DescribeInstances",
            Reply::ec2_error(403, "UnauthorizedOperation", "no"),
        ),
        ("DescribeInstanceInformation", denied()),
        ("DescribeInstancePatchStates", denied()),
        ("DescribeInstancePatches", denied()),
        ("ListCommands", denied()),
        (
            "BatchGetItem",
            Reply::json_error("ResourceNotFoundException", "no table"),
        ),
        (
            "TransactWriteItems",
            Reply::json_error("ResourceNotFoundException", "no table"),
        ),
    ] {
        let world = World::of([(1, lacking(1))]);
        let wire = wire_with(&world, move |_, call| {
            (call.operation == operation).then(|| reply.clone())
        });
        let error = run(&wire, batch([compliance(1)])).await.unwrap_err();
        let named = error.contains(operation);
        assert!(named || operation == "GetParameter", "{operation}: {error}");
        assert!(nothing_done(&wire), "{operation}");
        assert!(world.lock().unwrap().table.items.is_empty(), "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_or_is_opted_out_or_cannot_be_read_is_recorded_and_told_once() {
    let tagged = |value| Machine {
        tags: vec![("backstop:opt-out", value)],
        ..lacking(1)
    };
    let just_installed = Machine {
        patches: Some(("Install", ago(60), 1, 0)),
        ..Machine::default()
    };
    for (machine, status) in [
        (
            tagged("missing-patches until=2999-01-01 owner=web"),
            "exempt",
        ),
        (tagged("missing-patches until=tomorrow"), "held"),
        (just_installed, "pending"),
        (
            Machine {
                tags: vec![("aws:autoscaling:groupName", "web")],
                ..lacking(1)
            },
            "refused",
        ),
    ] {
        let world = World::of([(1, machine)]);
        let wire = wire(&world);
        for _ in 0..3 {
            let answer = run(&wire, compliance(1)).await.unwrap();
            assert!(
                [status, "known"].contains(&answer["verdict"].as_str().unwrap()),
                "{answer}"
            );
        }
        assert!(nothing_done(&wire), "{status}");
        assert_eq!(count(&wire, "PutEvents"), 1, "{status}");
        let world = world.lock().unwrap();
        assert_eq!(world.told_of(1), [status]);
        assert_eq!((world.records().len(), world.locks()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_out_of_reach_is_told_with_what_it_lacks() {
    let offline = Machine {
        online: false,
        patches: None,
        ..Machine::default()
    };
    let world = World::of([(1, offline)]);
    let wire = wire(&world);
    let answer = run(&wire, compliance(1)).await.unwrap();
    assert_eq!(answer["verdict"], "notified");
    let world = world.lock().unwrap();
    let [run] = &world.records()[..] else {
        panic!("one record")
    };
    assert_eq!(run.head.control, ControlId::UnmanagedInstance);
    assert!(
        run.detail
            .reasons
            .iter()
            .any(|why| why.starts_with("role:")),
        "{:?}",
        run.detail.reasons
    );
    assert!(
        run.detail
            .reasons
            .iter()
            .any(|why| why.starts_with("endpoint:")),
        "{:?}",
        run.detail.reasons
    );
}

#[tokio::test(start_paused = true)]
async fn over_its_budget_the_control_trips_and_is_told_once() {
    let world = World::of((0..4).map(|n| (n, lacking(1))));
    world.lock().unwrap().policy = r#"{"version":1,"controls":{"missing-patches":{"mode":"enforce","budget":{"changes_per_hour":2}}}}"#.into();
    let wire = wire(&world);
    let answer = run(&wire, batch((0..4).map(compliance))).await.unwrap();
    assert_eq!(failed(&answer), Vec::<&str>::new());
    let world = world.lock().unwrap();
    let patched: usize = world.commands.iter().map(|c| c.instances.len()).sum();
    assert_eq!(patched, 2);
    assert_eq!(world.notices, ["missing-patches"]);
    let tripped = world
        .records()
        .into_iter()
        .filter(|run| run.head.status == Status::Tripped);
    assert_eq!(tripped.count(), 2, "recorded");
    assert!(
        world
            .told
            .iter()
            .all(|(_, status, _)| status == "in-progress")
    );
}

#[tokio::test(start_paused = true)]
async fn what_others_that_have_tripped_alone_used_up_makes_an_instance_wait_and_trips_nothing() {
    let world = World::of([(1, lacking(1))]);
    world.lock().unwrap().policy = r#"{"version":1,"controls":{"missing-patches":{"mode":"enforce","budget":{"changes_per_hour":2}}}}"#.into();
    let hour: String = Timestamp::now().to_string().chars().take(13).collect();
    let pk = format!("budget#missing-patches#{hour}");
    let spent = json!({
        "pk": { "S": pk }, "sk": { "S": "budget" },
        "changes": { "N": "2" }, "tripped": { "N": "2" },
    });
    world.lock().unwrap().table.items.insert(pk.clone(), spent);
    for _ in 0..2 {
        let answer = run(&wire(&world), batch([compliance(1)])).await.unwrap();
        assert_eq!(failed(&answer), Vec::<&str>::new());
        let world = world.lock().unwrap();
        assert!(world.commands.is_empty() && world.notices.is_empty());
        assert!(!world.table.items.keys().any(|pk| pk.starts_with("trip#")));
        assert_eq!(world.told_of(1), ["pending"], "once");
    }
    // In the next hour there is room.
    world.lock().unwrap().table.items.remove(&pk);
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    assert_eq!(world.lock().unwrap().commands.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn near_the_end_of_its_time_nothing_is_begun_and_what_has_begun_is_left_for_the_next() {
    let world = World::of([(1, lacking(1))]);
    let late = wire(&world);
    let error = run_within(&late, batch([compliance(1)]), 50)
        .await
        .unwrap_err();
    assert!(error.contains("no time left to begin"), "{error}");
    assert!(nothing_done(&late));
    assert!(world.lock().unwrap().table.items.is_empty());

    // Begun, and cut off before its snapshots.
    let cut_off = wire_with(&world, |_, call| {
        (call.operation == "DescribeSnapshots").then_some(Reply::Broken)
    });
    run(&cut_off, compliance(1)).await.unwrap_err();
    world.lock().unwrap().lapse();
    let late = wire(&world);
    let error = run_within(&late, batch([compliance(1)]), 25)
        .await
        .unwrap_err();
    assert!(error.contains("no time left to begin"), "{error}");
    assert!(nothing_done(&late));
    assert!(world.lock().unwrap().records()[0].is_open(), "not given up");
    world.lock().unwrap().lapse();
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    let world = world.lock().unwrap();
    assert_eq!((world.records().len(), world.commands.len()), (1, 1));
}

// --- what is refused, lost, cut off

#[tokio::test(start_paused = true)]
async fn a_denied_command_goes_in_parts_down_to_the_denied_instance_and_only_that_fails() {
    // Where the refusal names the instance it goes by itself, and the others
    // stay one command; where it does not, halves do.
    for (is_named, commands) in [(true, 1), (false, 3)] {
        let world = World::of((1..=8).map(|n| (n, lacking(1))));
        world.lock().unwrap().denied.insert(id(2));
        let wire = wire_with(&world, move |world, call| {
            (call.operation == "SendCommand" && is_named)
                .then(|| world.denial(call))
                .flatten()
        });
        let answer = run(&wire, batch((1..=8).map(compliance))).await.unwrap();
        assert_eq!(failed(&answer), Vec::<&str>::new());
        let world = world.lock().unwrap();
        assert_eq!(world.commands.len(), commands, "named: {is_named}");
        let mut sent: Vec<&String> = world.commands.iter().flat_map(|c| &c.instances).collect();
        sent.sort();
        let expected: Vec<String> = (1..=8).filter(|n| *n != 2).map(id).collect();
        assert_eq!(sent, expected.iter().collect::<Vec<_>>(), "each once");
        assert_eq!(world.told_of(1), ["in-progress"]);
        assert_eq!(world.told_of(2), ["in-progress", "failed"]);
        let failed = world
            .records()
            .into_iter()
            .find(|run| run.head.status == Status::Failed)
            .unwrap();
        assert!(
            failed.detail.reasons[0].contains("AccessDeniedException"),
            "{:?}",
            failed.detail.reasons
        );
        assert_eq!(world.locks(), 7, "what failed holds nothing");
        assert!(
            world
                .table
                .items
                .contains_key(&format!("trip#missing-patches#{}", id(2)))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_denied_for_everybody_is_sent_to_nobody_and_each_is_told() {
    let world = World::of((1..=5).map(|n| (n, lacking(1))));
    world.lock().unwrap().denied = (1..=5).map(id).collect();
    let wire = wire(&world);
    run(&wire, batch((1..=5).map(compliance))).await.unwrap();
    // One for all, and two for each time that it was parted.
    assert_eq!(count(&wire, "SendCommand"), 1 + 2 * 4);
    let world = world.lock().unwrap();
    assert_eq!((world.commands.len(), world.locks()), (0, 0));
    for n in 1..=5 {
        assert_eq!(world.told_of(n), ["in-progress", "failed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_command_fails_no_instance_for_good() {
    let world = World::of([(1, lacking(1))]);
    let tries = Mutex::new(0);
    let wire = wire_with(&world, move |_, call| {
        let mut tries = tries.lock().unwrap();
        *tries += usize::from(call.operation == "SendCommand");
        (call.operation == "SendCommand" && *tries == 1)
            .then(|| Reply::json_error("ThrottlingException", "slower"))
    });
    run(&wire, batch([compliance(1)])).await.unwrap();
    assert_eq!(count(&wire, "SendCommand"), 2);
    let world = world.lock().unwrap();
    assert_eq!(world.commands.len(), 1);
    assert_eq!(world.told_of(1), ["in-progress"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_throttled_for_longer_goes_on_later_with_its_snapshots_and_is_told_in_the_end() {
    let goes_on = async |operation: &'static str, code: &'static str| {
        let throttling = |world: &Arc<Mutex<World>>| {
            wire_with(world, move |_, call| {
                (call.operation == operation).then(|| match operation {
                    "SendCommand" => Reply::json_error(code, "slower"),
                    _ => Reply::ec2_error(503, code, "slower"),
                })
            })
        };
        // It passes.
        let world = World::of([(1, lacking(1))]);
        run(&throttling(&world), batch([compliance(1)]))
            .await
            .unwrap_err();
        assert_eq!(world.lock().unwrap().locks(), 1, "{operation}: goes on");
        world.lock().unwrap().lapse();
        run(&wire(&world), batch([compliance(1)])).await.unwrap();
        {
            let world = world.lock().unwrap();
            let made = (
                world.records().len(),
                world.snapshots.len(),
                world.commands.len(),
            );
            assert_eq!(made, (1, 1, 1), "{operation}");
            assert_eq!(world.told_of(1), ["in-progress"], "{operation}");
        }
        // It does not: a person has to know.
        let world = World::of([(1, lacking(1))]);
        run(&throttling(&world), batch([compliance(1)]))
            .await
            .unwrap_err();
        for (attempts, failed) in [(3, false), (4, true)] {
            world.lock().unwrap().rewrite(|run| {
                run["attempts"] = attempts.into();
            });
            world.lock().unwrap().lapse();
            let answer = run(&throttling(&world), batch([compliance(1)])).await;
            assert_eq!(answer.is_ok(), failed, "{operation}, {attempts}");
            let world = world.lock().unwrap();
            assert_eq!(world.told_of(1).contains(&"failed"), failed);
        }
        let world = world.lock().unwrap();
        let [run] = &world.records()[..] else {
            panic!("one run")
        };
        assert!(
            run.detail.reasons[0].contains(code),
            "{:?}",
            run.detail.reasons
        );
        assert_eq!(
            world.snapshots.len(),
            usize::from(operation == "SendCommand")
        );
        assert_eq!((world.commands.len(), world.locks()), (0, 0));
        let trips = world
            .table
            .items
            .keys()
            .filter(|pk| pk.starts_with("trip#"));
        assert_eq!(trips.count(), 0, "it is no fault of the instance");
    };
    tokio::join!(
        goes_on("SendCommand", "ThrottlingException"),
        goes_on("CreateSnapshots", "RequestLimitExceeded"),
        goes_on("CreateSnapshots", "InternalError"),
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_never_gets_an_answer_is_told_and_holds_nothing_for_ever() {
    let world = World::of([(1, lacking(1))]);
    let silent = |world: &Arc<Mutex<World>>| {
        wire_with(world, |_, call| {
            (call.operation == "SendCommand").then_some(Reply::Broken)
        })
    };
    for _ in 0..5 {
        run(&silent(&world), batch([compliance(1)]))
            .await
            .unwrap_err();
        assert_eq!(world.lock().unwrap().told_of(1), ["in-progress"]);
        world.lock().unwrap().lapse();
    }
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    let world = world.lock().unwrap();
    let records = world.records();
    let ended = records.iter().find(|run| !run.is_open()).unwrap();
    assert_eq!(
        (ended.head.status, ended.head.attempts),
        (Status::Failed, 5)
    );
    assert!(
        ended.detail.reasons[0].contains("5 times"),
        "{:?}",
        ended.detail.reasons
    );
    assert!(world.told_of(1).contains(&"failed"));
    assert_eq!(world.commands.len(), 1, "of the run that followed");
}

#[tokio::test(start_paused = true)]
async fn a_part_is_sent_as_things_are_by_then() {
    let world = World::of((1..=4).map(|n| (n, lacking(1))));
    world.lock().unwrap().denied.insert(id(1));
    // While the first is being refused, somebody opts the fourth out.
    let wire = wire_with(&world, |world, call| {
        if call.operation == "SendCommand" {
            let of = world.machines.get_mut(&id(4)).unwrap();
            of.tags = vec![("backstop:opt-out", "missing-patches until=2199-01-31")];
        }
        None
    });
    run(&wire, batch((1..=4).map(compliance))).await.unwrap();
    let world = world.lock().unwrap();
    let mut sent: Vec<&String> = world.commands.iter().flat_map(|c| &c.instances).collect();
    sent.sort();
    assert_eq!(sent, [&id(2), &id(3)]);
    assert_eq!(world.told_of(4), ["in-progress", "rolled-back", "exempt"]);
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_one_instance_that_are_throttled_keep_no_other_from_its_command() {
    let world = World::of((1..=3).map(|n| (n, lacking(1))));
    let wire = wire_with(&world, |_, call| {
        let of = call.parameter("InstanceSpecification.InstanceId");
        (call.operation == "CreateSnapshots" && of == Some(id(1).as_str()))
            .then(|| Reply::ec2_error(503, "RequestLimitExceeded", "slower"))
    });
    // Enough for the last of them to begin, not for many pauses.
    let answer = run_within(&wire, batch((1..=3).map(compliance)), 57)
        .await
        .unwrap();
    assert_eq!(failed(&answer), ["m0"]);
    let world = world.lock().unwrap();
    let [command] = &world.commands[..] else {
        panic!("one command")
    };
    assert_eq!(command.instances, [id(2), id(3)]);
    let open = world.records().into_iter().filter(Patching::is_open);
    assert_eq!(open.count(), 3, "the first goes on later");
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_answer_is_lost_is_found_by_its_mark_and_not_sent_twice() {
    for was_sent in [true, false] {
        let world = World::of([(1, lacking(1))]);
        let lost = wire_with(&world, move |world, call| {
            (call.operation == "SendCommand").then(|| {
                if was_sent {
                    world.answer(call);
                }
                Reply::Broken
            })
        });
        let error = run(&lost, batch([compliance(1)])).await.unwrap_err();
        assert!(error.contains("may or may not have been sent"), "{error}");
        assert_eq!(world.lock().unwrap().told_of(1), ["in-progress"]);

        // At once: another run may be at work.
        let early = run(&wire(&world), compliance(1)).await.unwrap();
        assert_eq!(early["verdict"], "another run will look again");
        let sent_so_far = usize::from(was_sent);
        assert_eq!(world.lock().unwrap().commands.len(), sent_so_far);

        // When the lease has lapsed.
        world.lock().unwrap().lapse();
        run(&wire(&world), batch([compliance(1)])).await.unwrap();
        let world = world.lock().unwrap();
        assert_eq!(world.commands.len(), 1, "sent before: {was_sent}");
        assert_eq!(world.snapshots.len(), 1);
        let [run] = &world.records()[..] else {
            panic!("one run")
        };
        assert_eq!(run.detail.command.as_ref().unwrap().id, command_id(0));
        assert_eq!(world.told_of(1), ["in-progress"]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_snapshots_nothing_is_installed_and_what_no_second_try_betters_trips() {
    for (code, status, trips) in [
        ("UnauthorizedOperation", 403, true),
        // A backup is at work on its volumes, or it changes its state.
        ("ConcurrentSnapshotLimitExceeded", 400, false),
        ("IncorrectState", 400, false),
    ] {
        let world = World::of([(1, lacking(1))]);
        let wire = wire_with(&world, move |_, call| {
            (call.operation == "CreateSnapshots").then(|| Reply::ec2_error(status, code, "no"))
        });
        let answer = run(&wire, compliance(1)).await.unwrap();
        assert_eq!(answer["verdict"], "failed");
        assert_eq!(count(&wire, "SendCommand"), 0);
        let world = world.lock().unwrap();
        assert_eq!(world.told_of(1), ["failed"]);
        assert!(world.records()[0].detail.reasons[0].contains(code));
        let tripped = world
            .table
            .items
            .contains_key(&format!("trip#missing-patches#{}", id(1)));
        assert_eq!((tripped, world.locks()), (trips, 0), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_tripped_is_told_and_takes_no_second_set_of_snapshots() {
    let world = World::of([(1, lacking(1))]);
    world.lock().unwrap().denied.insert(id(1));
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    for _ in 0..2 {
        run(&wire(&world), batch([compliance(1)])).await.unwrap();
    }
    let world = world.lock().unwrap();
    assert_eq!(world.snapshots.len(), 1);
    assert_eq!(world.told_of(1), ["in-progress", "failed", "tripped"]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_switch_that_is_turned_on_meanwhile_stops_what_was_not_sent() {
    let world = World::of([(1, lacking(1))]);
    let wire = wire_with(&world, |world, call| {
        if call.operation == "TransactWriteItems" {
            world.policy = POLICY.replace(r#""version":1"#, r#""version":1,"kill_switch":true"#);
        }
        None
    });
    let answer = run(&wire, compliance(1)).await.unwrap();
    assert_eq!(answer["verdict"], "stopped");
    assert!(nothing_done(&wire));
    let world = world.lock().unwrap();
    assert_eq!((world.told_of(1), world.locks()), (vec!["stopped"], 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_meets_a_run_at_work_leaves_it_a_note_and_the_run_looks_again() {
    let world = World::of([(1, lacking(1))]);
    let met = Arc::new(Mutex::new(false));
    // While snapshots are refused, another invocation leaves its note.
    let noted = met.clone();
    let busy = wire_with(&world, move |world, call| {
        (call.operation == "CreateSnapshots").then(|| {
            let lock = format!("lock#missing-patches#{}", id(1));
            world.table.items.get_mut(&lock).unwrap()["look_again"] = json!({ "BOOL": true });
            *noted.lock().unwrap() = true;
            Reply::ec2_error(403, "UnauthorizedOperation", "no")
        })
    });
    let answer = run(&busy, compliance(1)).await.unwrap();
    assert!(*met.lock().unwrap());
    assert_eq!(answer["verdict"], "tripped", "it looked again");
    assert_eq!(count(&busy, "CreateSnapshots"), 1);

    // The other's side of it.
    let world = World::of([(1, lacking(1))]);
    let dies = wire_with(&world, |_, call| {
        (call.operation == "PutEvents").then_some(Reply::Broken)
    });
    run(&dies, compliance(1)).await.unwrap_err();
    let other = wire(&world);
    let answer = run(&other, compliance(1)).await.unwrap();
    assert_eq!(answer["verdict"], "another run will look again");
    assert!(nothing_done(&other));
    let world = world.lock().unwrap();
    let lock = &world.table.items[&format!("lock#missing-patches#{}", id(1))];
    assert_eq!(lock["look_again"], json!({ "BOOL": true }));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cut_off_goes_by_what_is_so_now() {
    let stopped = Machine {
        state: "stopped",
        ..lacking(1)
    };
    let young = Machine {
        minutes: 1,
        ..lacking(0)
    };
    let opted_out = Machine {
        tags: vec![("backstop:opt-out", "missing-patches until=2999-01-01")],
        ..lacking(1)
    };
    let young_and_never_scanned = Machine {
        patches: None,
        ..young.clone()
    };
    for (case, machine, status) in [
        (
            "patched by somebody else",
            Some(lacking(0)),
            Status::Remediated,
        ),
        ("stopped", Some(stopped), Status::RolledBack),
        ("gone", None, Status::RolledBack),
        (
            "started again",
            Some(young_and_never_scanned),
            Status::RolledBack,
        ),
        ("opted out", Some(opted_out), Status::RolledBack),
    ] {
        let world = World::of([(1, lacking(1))]);
        let dies = wire_with(&world, |_, call| {
            (call.operation == "PutEvents").then_some(Reply::Broken)
        });
        run(&dies, compliance(1)).await.unwrap_err();
        {
            let mut world = world.lock().unwrap();
            world.lapse();
            world.machines.remove(&id(1));
            world
                .machines
                .extend(machine.map(|machine| (id(1), machine)));
        }
        let after = wire(&world);
        run(&after, compliance(1)).await.unwrap();
        assert!(nothing_done(&after), "{case}");
        let world = world.lock().unwrap();
        let run = &world.records()[0];
        assert_eq!(run.head.status, status, "{case}: {:?}", run.detail.reasons);
        assert_eq!(world.locks(), 0, "{case}");
        assert_eq!(world.told_of(1)[0], status.name(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cut_off_restarts_nothing_the_policy_does_not_let_restart_any_more() {
    let world = World::of([(1, lacking(1)), (2, lacking(1))]);
    let dies = wire_with(&world, |_, call| {
        (call.operation == "PutEvents").then_some(Reply::Broken)
    });
    run(&dies, compliance(1)).await.unwrap_err();
    world
        .lock()
        .unwrap()
        .rewrite(|run| run["reboot"] = "if-needed".into());
    world.lock().unwrap().lapse();
    run(&wire(&world), batch([compliance(1), compliance(2)]))
        .await
        .unwrap();
    let world = world.lock().unwrap();
    let [command] = &world.commands[..] else {
        panic!("one command")
    };
    assert_eq!(
        (command.reboot.as_str(), command.instances.len()),
        ("NoReboot", 2)
    );
}

#[tokio::test(start_paused = true)]
async fn instances_that_may_restart_and_those_that_may_not_share_no_command() {
    let world = World::of([(1, lacking(1)), (2, lacking(1))]);
    let dies = wire_with(&world, |_, call| {
        (call.operation == "PutEvents").then_some(Reply::Broken)
    });
    run(&dies, compliance(1)).await.unwrap_err();
    world.lock().unwrap().lapse();
    let every_day = r#"{"from":"00:00","to":"00:00"}"#;
    world.lock().unwrap().policy = POLICY.replace(
        r#""version":1"#,
        &format!(r#""version":1,"patching":{{"reboot":"if-needed","windows":[{every_day}]}}"#),
    );
    run(&wire(&world), batch([compliance(1), compliance(2)]))
        .await
        .unwrap();
    let world = world.lock().unwrap();
    let sent: BTreeMap<&str, &Vec<String>> = world
        .commands
        .iter()
        .map(|c| (c.reboot.as_str(), &c.instances))
        .collect();
    assert_eq!(
        sent,
        BTreeMap::from([("NoReboot", &vec![id(1)]), ("RebootIfNeeded", &vec![id(2)])])
    );
}

/// The calls that change something, in the ledger or elsewhere.
fn changes(call: &Call) -> bool {
    [
        "TransactWriteItems",
        "UpdateItem",
        "CreateSnapshots",
        "PutEvents",
        "SendCommand",
    ]
    .contains(&call.operation.as_str())
}

#[tokio::test(start_paused = true)]
async fn whichever_change_is_lost_one_command_is_sent_and_its_end_is_told_once() {
    let lose_each = async |took_effect: bool| {
        for lost in 0.. {
            let world = World::of([(1, Machine::default())]);
            let made = Arc::new(Mutex::new(0));
            let seen = made.clone();
            let wire = wire_with(&world, move |world, call| {
                if !changes(call) {
                    return None;
                }
                let mut seen = seen.lock().unwrap();
                *seen += 1;
                (*seen == lost + 1).then(|| {
                    if took_effect {
                        world.answer(call);
                    }
                    Reply::Broken
                })
            });
            // Delivered until it is done, as a queue does; each time so late that
            // leases have lapsed.
            let deliver = async |event: Value| {
                for _ in 0..4 {
                    if run(&wire, batch([event.clone()])).await.is_ok() {
                        return;
                    }
                    world.lock().unwrap().lapse();
                }
                panic!("change {lost}, took effect: {took_effect}: never done");
            };
            deliver(active(1, 1)).await;
            let context = format!("change {lost}, took effect: {took_effect}");
            assert_eq!(world.lock().unwrap().commands.len(), 1, "{context}");
            world.lock().unwrap().end("Success", 0);
            deliver(ended(1)).await;
            deliver(finding(1, 1, "CLOSED", "HIGH", Timestamp::now())).await;
            let world = world.lock().unwrap();
            assert_eq!(
                world.told_of(1),
                ["in-progress", "awaiting-rescan", "remediated"],
                "{context}"
            );
            let sets: BTreeSet<&String> = world.snapshots.iter().map(|(of, _)| of).collect();
            assert_eq!((sets.len(), world.snapshots.len()), (1, 1), "{context}");
            assert_eq!((world.commands.len(), world.locks()), (1, 0), "{context}");
            let open = world.records().into_iter().filter(Patching::is_open);
            assert_eq!(open.count(), 0, "{context}");
            if *made.lock().unwrap() <= lost {
                assert!(lost > 10, "all of them were lost once");
                break;
            }
        }
    };
    tokio::join!(lose_each(true), lose_each(false));
}

#[tokio::test(start_paused = true)]
async fn of_two_invocations_at_once_one_patches() {
    let world = World::of([(1, lacking(1))]);
    let (one, other) = (wire(&world), wire(&world));
    let (first, second) = tokio::join!(
        run(&one, batch([compliance(1)])),
        run(&other, batch([compliance(1)]))
    );
    assert_eq!(
        (failed(&first.unwrap()), failed(&second.unwrap())),
        (vec![], vec![])
    );
    let world = world.lock().unwrap();
    assert_eq!((world.commands.len(), world.records().len()), (1, 1));
    assert_eq!(world.snapshots.len(), 1);
}

// --- the last look before the command

/// A wire on which the world changes when the last of `runs` is told that its
/// command is coming: between the decision and the command.
fn changing_before_the_command(
    world: &Arc<Mutex<World>>,
    runs: usize,
    change: impl Fn(&mut World) + Send + Sync + 'static,
) -> Wire {
    wire_with(world, move |world, call| {
        if call.operation == "PutEvents" && world.told.len() + 1 == runs {
            change(world);
        }
        None
    })
}

/// The only window opens in two hours.
fn close_window(world: &mut World) {
    let at = |hours: u64| {
        let at = Timestamp::now() + Duration::from_secs(3600 * hours);
        at.strftime("%H:%M").to_string()
    };
    let (from, to) = (at(2), at(3));
    world.policy = POLICY.replace(
        r#""version":1"#,
        &format!(r#""version":1,"patching":{{"windows":[{{"from":"{from}","to":"{to}"}}]}}"#),
    );
}

fn tag(world: &mut World, number: usize, value: &'static str) {
    let machine = world.machines.get_mut(&id(number)).unwrap();
    machine.tags.push(("backstop:opt-out", value));
}

#[tokio::test(start_paused = true)]
async fn whoever_opts_out_just_before_the_command_is_left_out_of_it_and_the_others_are_patched() {
    for opted_out in [
        "missing-patches",
        "all until=2999-01-01",
        "missing-patches until=2999-01-01 owner=web",
        // The other control that ends in the same command.
        "vulnerable-package until=2999-01-01",
    ] {
        let world = World::of((1..=4).map(|n| (n, lacking(1))));
        let wire = changing_before_the_command(&world, 4, |world| {
            tag(world, 2, opted_out);
            // One that holds no more, and one for somebody else.
            tag(world, 3, "missing-patches until=2020-01-01");
            tag(world, 4, "open-ingress");
        });
        let answer = run(&wire, batch((1..=4).map(compliance))).await.unwrap();
        assert_eq!(failed(&answer), Vec::<&str>::new(), "{opted_out}");
        assert_eq!(count(&wire, "SendCommand"), 1, "{opted_out}");
        let world = world.lock().unwrap();
        assert_eq!(
            world.commands[0].instances,
            [id(1), id(3), id(4)],
            "{opted_out}"
        );
        assert_eq!(
            world.told_of(2),
            ["in-progress", "rolled-back", "exempt"],
            "{opted_out}"
        );
        for other in [1, 3, 4] {
            assert_eq!(world.told_of(other), ["in-progress"], "{opted_out}");
        }
        let kept = world.records();
        let kept: Vec<&Patching> = kept.iter().filter(|r| r.resource_id() == id(2)).collect();
        let [back, exempt] = kept[..] else {
            panic!("{opted_out}: {} records", kept.len())
        };
        assert_eq!(
            (back.head.status, exempt.head.status),
            (Status::RolledBack, Status::Exempt)
        );
        assert!(back.detail.command.is_none() && back.head.finished_at.is_some());
        assert!(
            back.detail
                .reasons
                .iter()
                .any(|why| why.contains("opted out")),
            "{:?}",
            back.detail.reasons
        );
        assert_eq!(world.locks(), 3, "{opted_out}: it holds nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_just_before_the_command_keeps_it_from_being_sent() {
    fn policy(world: &mut World, more: &str) {
        world.policy = POLICY.replace(r#""version":1"#, &format!(r#""version":1,{more}"#));
    }
    fn mode(world: &mut World, mode: &str) {
        world.policy = POLICY.replace(
            r#""missing-patches":{"mode":"enforce"}"#,
            &format!(r#""missing-patches":{{"mode":"{mode}"}}"#),
        );
        assert_ne!(world.policy, POLICY);
    }
    type Case = (
        &'static str,
        fn(&mut World),
        &'static [&'static str],
        &'static str,
    );
    let cases: [Case; 8] = [
        (
            "notify",
            |w| mode(w, "notify"),
            &["rolled-back", "notified"],
            "`enforce` no more",
        ),
        (
            "off",
            |w| mode(w, "off"),
            &["rolled-back"],
            "`enforce` no more",
        ),
        (
            "kill switch",
            |w| policy(w, r#""kill_switch":true"#),
            // The run, and then what is found and held back.
            &["stopped", "stopped"],
            "kill switch",
        ),
        (
            "window",
            close_window,
            &["rolled-back", "pending"],
            "window has closed",
        ),
        (
            "stopped",
            |w| w.machines.get_mut(&id(1)).unwrap().state = "stopped",
            &["rolled-back"],
            "does not run",
        ),
        (
            "terminated",
            |w| w.machines.get_mut(&id(1)).unwrap().state = "terminated",
            &["rolled-back"],
            "gone",
        ),
        ("gone", |w| w.machines.clear(), &["rolled-back"], "gone"),
        (
            "a tag that cannot be read",
            |w| tag(w, 1, "missing-patches until=tomorrow"),
            &["rolled-back", "held"],
            "cannot be read",
        ),
    ];
    for (case, change, told, why) in cases {
        let world = World::of([(1, lacking(1))]);
        let wire = changing_before_the_command(&world, 1, change);
        let answer = run(&wire, batch([compliance(1)])).await.unwrap();
        assert_eq!(failed(&answer), Vec::<&str>::new(), "{case}");
        assert_eq!(count(&wire, "SendCommand"), 0, "{case}");
        let world = world.lock().unwrap();
        let all: Vec<&str> = ["in-progress"].iter().chain(told).copied().collect();
        assert_eq!(world.told_of(1), all, "{case}");
        let run = &world.records()[0];
        assert!(
            run.detail.reasons.iter().any(|said| said.contains(why)),
            "{case}: {:?}",
            run.detail.reasons
        );
        assert_eq!(
            (world.records().len(), world.locks()),
            (told.len(), 0),
            "{case}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_that_closes_just_before_the_command_keeps_no_scan_from_being_sent() {
    let never = Machine {
        patches: None,
        ..Machine::default()
    };
    let world = World::of([(1, never)]);
    let wire = changing_before_the_command(&world, 1, close_window);
    let answer = run(&wire, compliance(1)).await.unwrap();
    assert_eq!(answer["verdict"], "begun");
    assert_eq!(world.lock().unwrap().commands[0].operation, "Scan");
}

/// An encryption of an instance's volumes, with its lock.
fn encrypt(world: &mut World, number: usize, status: &str) {
    const ENTRY: &str = "01M7SH8XYF6H0J2M4N8P7R3T1W";
    let document = json!({
        "kind": "encryption", "version": 1, "id": ENTRY, "control": "unencrypted-volume",
        "severity": "high", "status": status, "way": "swap", "volumes": [],
        "resource": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{}", id(number)),
        "resource_name": "web", "account": "111122223333", "region": "eu-central-1",
        "actor": {}, "policy_version": 3, "attempts": 1, "started_at": ago(5).to_string(),
    });
    let items = [
        json!({
            "pk": { "S": format!("entry#{ENTRY}") }, "sk": { "S": "entry" },
            "document": { "S": document.to_string() }, "told": { "BOOL": false },
        }),
        json!({
            "pk": { "S": format!("lock#unencrypted-volume#{}", id(number)) }, "sk": { "S": "lock" },
            "entry": { "S": ENTRY }, "holder": { "S": "run" }, "lease_until": { "N": "1" },
        }),
    ];
    world
        .table
        .items
        .extend(items.map(|item| (pk(&item), item)));
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_volumes_are_being_encrypted_is_patched_afterwards() {
    // Before anything is decided; a lock that lapsed is of one that goes on.
    let world = World::of((1..=2).map(|n| (n, lacking(1))));
    encrypt(&mut world.lock().unwrap(), 1, "in-progress");
    run(&wire(&world), batch((1..=2).map(compliance)))
        .await
        .unwrap();
    {
        let world = world.lock().unwrap();
        assert_eq!(world.told_of(1), ["pending"]);
        assert_eq!(world.commands[0].instances, [id(2)]);
        let waits = world.records();
        let waits = waits.iter().find(|run| run.resource_id() == id(1)).unwrap();
        assert!(
            waits.detail.reasons[0].contains("being encrypted"),
            "{waits:?}"
        );
    }
    encrypt(&mut world.lock().unwrap(), 1, "remediated");
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    assert_eq!(world.lock().unwrap().told_of(1), ["pending", "in-progress"]);

    // And just before the command: both may begin at once.
    let world = World::of((1..=2).map(|n| (n, lacking(1))));
    let late = changing_before_the_command(&world, 2, |world| encrypt(world, 1, "in-progress"));
    run(&late, batch((1..=2).map(compliance))).await.unwrap();
    let world = world.lock().unwrap();
    assert_eq!(world.told_of(1), ["in-progress", "rolled-back", "pending"]);
    let [command] = &world.commands[..] else {
        panic!("one command")
    };
    assert_eq!(command.instances, [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn when_the_last_look_fails_nothing_is_sent_and_one_command_is_sent_later() {
    for (case, named) in [("instances", "DescribeInstances"), ("policy", "nonsense")] {
        let world = World::of([(1, lacking(1)), (2, lacking(1))]);
        let before = world.lock().unwrap().policy.clone();
        let fails = wire_with(&world, move |world, call| {
            let told = world.told.len();
            if case == "policy" && call.operation == "PutEvents" && told == 1 {
                world.policy = r#"{"version":1,"nonsense":1}"#.into();
            }
            (case == "instances" && call.operation == "DescribeInstances" && told == 2)
                .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
        });
        let error = run(&fails, batch([compliance(1), compliance(2)]))
            .await
            .unwrap_err();
        assert!(error.contains(named), "{case}: {error}");
        assert_eq!(count(&fails, "SendCommand"), 0, "{case}");
        {
            let mut world = world.lock().unwrap();
            assert!(world.records().iter().all(Patching::is_open), "{case}");
            assert_eq!((world.told.len(), world.locks()), (2, 2), "{case}");
            world.policy = before;
        }

        // At once: they may be at work still.
        let early = run(&wire(&world), compliance(1)).await.unwrap();
        assert_eq!(early["verdict"], "another run will look again", "{case}");

        world.lock().unwrap().lapse();
        let answer = run(&wire(&world), batch([compliance(1), compliance(2)]))
            .await
            .unwrap();
        assert_eq!(failed(&answer), Vec::<&str>::new(), "{case}");
        let world = world.lock().unwrap();
        let sent: Vec<&Vec<String>> = world.commands.iter().map(|c| &c.instances).collect();
        assert_eq!(sent, [&vec![id(1), id(2)]], "{case}");
        assert_eq!(
            (world.records().len(), world.snapshots.len()),
            (2, 2),
            "{case}"
        );
        assert!(
            world
                .records()
                .iter()
                .all(|run| run.detail.command.is_some()),
            "{case}"
        );
        for number in [1, 2] {
            assert_eq!(world.told_of(number), ["in-progress"], "{case}");
        }
    }
}

// --- the end is followed

/// A world in which an instance's command is under way.
async fn under_way(event: Value, machine: Machine) -> Arc<Mutex<World>> {
    let world = World::of([(1, machine)]);
    run(&wire(&world), batch([event])).await.unwrap();
    assert_eq!(world.lock().unwrap().commands.len(), 1);
    world
}

#[tokio::test(start_paused = true)]
async fn a_command_under_way_is_waited_for_and_findings_meanwhile_are_kept() {
    let world = under_way(active(1, 1), Machine::default()).await;
    let answer = run(&wire(&world), active(1, 2)).await.unwrap();
    assert_eq!(answer["verdict"], "under way");
    assert_eq!(world.lock().unwrap().commands.len(), 1);
    assert_eq!(reports(&world, 1).await.active.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_compliance_entry_is_closed_by_missing_0_and_by_nothing_less() {
    for (status, missing, expected, says) in [
        ("Success", 0, Status::Remediated, None),
        (
            "Success",
            2,
            Status::Failed,
            Some("2 approved patches are still missing"),
        ),
        (
            "Failed",
            2,
            Status::Failed,
            Some("may have installed a part"),
        ),
        (
            "Execution Timed Out",
            2,
            Status::Failed,
            Some("ran out of time"),
        ),
        // What it shows counts, and not how the command ended.
        ("Failed", 0, Status::Remediated, Some("ended as Failed")),
    ] {
        let world = under_way(compliance(1), lacking(2)).await;
        world.lock().unwrap().end(status, missing);
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        // Delivered twice.
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        let world = world.lock().unwrap();
        let ended = &world.records()[0];
        assert_eq!(ended.head.status, expected, "{status}");
        let said =
            says.is_none_or(|says| ended.detail.reasons.iter().any(|why| why.contains(says)));
        assert!(said, "{status}: {:?}", ended.detail.reasons);
        assert_eq!(
            world.told_of(1)[..2],
            ["in-progress", expected.name()],
            "{status}"
        );
        assert_eq!((world.commands.len(), world.locks()), (1, 0), "{status}");
    }
}

/// Ends the last command on one of its instances: what it came to, and what
/// Systems Manager shows as missing since, if it shows anything.
fn end_on(world: &Arc<Mutex<World>>, number: usize, status: &'static str, left: Option<u32>) {
    let mut world = world.lock().unwrap();
    let command = world.commands.last_mut().unwrap();
    command.ended.insert(id(number), status);
    let machine = world.machines.get_mut(&id(number)).unwrap();
    if let Some(missing) = left {
        machine.patches = Some(("Install", Timestamp::now(), missing, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_began_goes_into_the_next_batch_without_the_one_that_failed() {
    for status in [
        "Terminated",
        "Undeliverable",
        "Delivery Timed Out",
        "Cancelled",
    ] {
        let world = World::of((1..=3).map(|n| (n, lacking(2))));
        run(&wire(&world), batch((1..=3).map(compliance)))
            .await
            .unwrap();
        let sent = world.lock().unwrap().commands[0].instances.clone();
        assert_eq!(sent, [id(1), id(2), id(3)]);
        end_on(&world, 1, "Failed", Some(2));
        end_on(&world, 2, status, None);
        end_on(&world, 3, status, None);

        let answer = run(&wire(&world), batch((1..=3).map(ended))).await.unwrap();
        assert_eq!(failed(&answer), Vec::<&str>::new());
        {
            let world = world.lock().unwrap();
            assert_eq!(world.commands.len(), 2, "{status}");
            assert_eq!(world.commands[1].instances, [id(2), id(3)], "{status}");
            assert_eq!(world.snapshots.len(), 3, "those of the first try serve");
            assert_eq!(world.told_of(1)[..2], ["in-progress", "failed"]);
            for number in [2, 3] {
                assert_eq!(world.told_of(number), ["in-progress"], "{status}");
            }
            assert_eq!(
                world.records().iter().filter(|run| run.is_open()).count(),
                2
            );
        }
        // Delivered twice.
        run(&wire(&world), batch((1..=3).map(ended))).await.unwrap();
        assert_eq!(world.lock().unwrap().commands.len(), 2, "{status}");
        assert_eq!(reports(&world, 2).await.failures, 0);

        end_on(&world, 2, "Success", Some(0));
        end_on(&world, 3, "Success", Some(0));
        run(&wire(&world), batch((1..=3).map(ended))).await.unwrap();
        let world = world.lock().unwrap();
        for number in [2, 3] {
            assert_eq!(
                world.told_of(number),
                ["in-progress", "remediated"],
                "{status}"
            );
        }
        let run = world
            .records()
            .into_iter()
            .find(|run| run.resource_id() == id(2));
        let not_begun = run.unwrap().detail.not_begun;
        assert_eq!(not_begun.len(), 1);
        assert_eq!(not_begun[0].id, command_id(0));
        assert_eq!(world.locks(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_begins_is_not_sent_for_ever_and_is_no_failure() {
    let world = World::of([(1, lacking(2))]);
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    for _ in 0..9 {
        if !world
            .lock()
            .unwrap()
            .commands
            .last()
            .unwrap()
            .ended
            .is_empty()
        {
            break;
        }
        end_on(&world, 1, "Undeliverable", None);
        run(&wire(&world), batch([ended(1)])).await.unwrap();
    }
    let world = world.lock().unwrap();
    assert_eq!(world.commands.len(), 5);
    assert_eq!(world.snapshots.len(), 1);
    assert_eq!(world.told_of(1), ["in-progress", "rolled-back", "pending"]);
    assert_eq!(world.locks(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_operating_system_that_cannot_be_patched_is_scanned_once_and_told_once() {
    let never_scanned = Machine {
        patches: None,
        ..Machine::default()
    };
    for event in [active(1, 1), compliance(1)] {
        let world = World::of([(1, never_scanned.clone())]);
        let first = wire(&world);
        run(&first, batch([event.clone()])).await.unwrap();
        assert_eq!(count(&first, "CreateSnapshots"), 0);
        assert_eq!(world.lock().unwrap().commands[0].operation, "Scan");
        world
            .lock()
            .unwrap()
            .printed
            .insert(id(1), (146, "Unsupported Operating System"));
        end_on(&world, 1, "Failed", None);
        // Delivered twice, and reported again, days later as well.
        for hours in [0, 1, 30, 30] {
            for command in &mut world.lock().unwrap().commands {
                command.at -= Duration::from_secs(hours * 3600);
            }
            let next = wire(&world);
            run(&next, batch([ended(1), event.clone()])).await.unwrap();
            assert!(nothing_done(&next), "{hours}");
        }
        assert_eq!(world.lock().unwrap().told_of(1), ["in-progress", "failed"]);
        assert_eq!(reports(&world, 1).await.failures, 0);
        assert!(!tripped(&world, ControlId::MissingPatches));

        // Another agent may know it.
        world.lock().unwrap().agent = "3.4.0.0";
        run(&wire(&world), batch([event])).await.unwrap();
        assert_eq!(world.lock().unwrap().commands.len(), 2);
        world.lock().unwrap().printed.clear();
        {
            let mut world = world.lock().unwrap();
            world.end("Success", 0);
        }
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        assert_eq!(reports(&world, 1).await.unpatchable, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_denied_on_the_instance_waits_for_a_person() {
    let world = under_way(compliance(1), lacking(2)).await;
    end_on(&world, 1, "Access Denied", None);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    assert!(tripped(&world, ControlId::MissingPatches));
    assert_eq!(world.lock().unwrap().commands.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn systems_manager_is_asked_about_instances_that_ec2_shows_and_about_no_others() {
    // 2 is gone, 3 was terminated, 4 Systems Manager does not accept.
    let terminated = Machine {
        state: "terminated",
        ..lacking(2)
    };
    let world = World::of([(1, lacking(2)), (3, terminated), (4, lacking(2))]);
    let refuse = |_: &mut World, call: &Call| {
        let named = |n: usize| call.json.to_string().contains(&id(n));
        let is_read = call.operation.starts_with("DescribeInstanceInf")
            || call.operation.starts_with("DescribeInstancePatch");
        assert!(!is_read || !(named(2) || named(3)), "{}", call.json);
        (is_read && named(4)).then(|| Reply::json_error("InvalidInstanceId", ""))
    };
    let refusing = wire_with(&world, refuse);
    let events = [1, 2, 3, 4].map(compliance);
    let answer = run(&refusing, batch(events)).await.unwrap();
    assert_eq!(failed(&answer), Vec::<&str>::new());
    let world = world.lock().unwrap();
    assert_eq!(world.commands.len(), 1);
    assert_eq!(world.commands[0].instances, [id(1)]);
    assert_eq!(world.told_of(4), ["notified"], "it is not managed");
}

#[tokio::test(start_paused = true)]
async fn a_success_is_believed_once_systems_manager_shows_what_it_left() {
    let world = under_way(compliance(1), lacking(2)).await;
    {
        let mut world = world.lock().unwrap();
        let before = world.machines[&id(1)].patches;
        world.end("Success", 0);
        world.machines.get_mut(&id(1)).unwrap().patches = before;
    }
    let answer = run(&wire(&world), ended(1)).await.unwrap();
    assert_eq!(answer["verdict"], "ended, and not shown yet");
    assert!(world.lock().unwrap().records()[0].is_open());
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), ended(1)).await.unwrap();
    assert_eq!(
        world.lock().unwrap().told_of(1),
        ["in-progress", "remediated"]
    );
}

#[tokio::test(start_paused = true)]
async fn somebodys_scan_during_an_installation_says_nothing_of_what_it_left() {
    let scan = |world: &Arc<Mutex<World>>, at: Timestamp, missing: u32| {
        let mut world = world.lock().unwrap();
        let of = world.machines.get_mut(&id(1)).unwrap();
        of.patches = Some(("Scan", at, missing, 0));
    };
    let world = under_way(compliance(1), lacking(2)).await;
    world.lock().unwrap().end("Success", 0);
    // What it saw was missing while the installation was at work.
    scan(&world, Timestamp::now(), 2);
    let answer = run(&wire(&world), ended(1)).await.unwrap();
    assert_eq!(answer["verdict"], "ended, and not shown yet");
    // It is waited for from when the end was seen, not from when it was sent.
    world.lock().unwrap().rewrite(|run| {
        run["command"]["at"] = ago(7 * 60).to_string().into();
    });
    for (minutes, told) in [(5 * 60, "in-progress"), (7 * 60, "failed")] {
        let before = world.lock().unwrap().table.items.clone();
        world.lock().unwrap().rewrite(|run| {
            run["command"]["seen_ended"] = ago(minutes).to_string().into();
        });
        scan(&world, ago(minutes + 1), 2);
        run(&wire(&world), ended(1)).await.unwrap();
        let so_far = world.lock().unwrap().told_of(1).join(" ");
        match told {
            "failed" => assert_eq!(so_far, "in-progress failed pending"),
            _ => assert_eq!(so_far, told),
        }
        if told == "in-progress" {
            // A scan after the end counts, whoever asked for it, and one that saw
            // nothing missing.
            let waiting = world.lock().unwrap().table.items.clone();
            let told_so_far = world.lock().unwrap().told.clone();
            scan(&world, Timestamp::now(), 0);
            run(&wire(&world), ended(1)).await.unwrap();
            let mut world = world.lock().unwrap();
            assert_eq!(world.told_of(1).last(), Some(&"remediated"));
            assert_ne!(waiting, before, "it was read again");
            (world.table.items, world.told) = (waiting, told_so_far);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_nobody_knows_any_more_is_waited_for_and_then_told() {
    let world = under_way(compliance(1), lacking(2)).await;
    let wire_that_forgot = wire_with(&world, |_, call| {
        (call.operation == "ListCommandInvocations")
            .then(|| Reply::json_error("InvalidCommandId", ""))
    });
    let answer = run(&wire_that_forgot, ended(1)).await.unwrap();
    assert_eq!(answer["verdict"], "under way");
    world.lock().unwrap().rewrite(|run| {
        run["command"]["at"] = ago(7 * 60).to_string().into();
    });
    let answer = run(&wire_that_forgot, ended(1)).await.unwrap();
    assert_eq!(answer["verdict"], "failed");
    let world = world.lock().unwrap();
    assert_eq!(world.told_of(1), ["in-progress", "failed"]);
    assert_eq!((world.commands.len(), world.locks()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_scan_finds_is_installed_by_a_run_of_its_own() {
    let never = Machine {
        patches: None,
        ..Machine::default()
    };
    let world = under_way(compliance(1), never).await;
    world.lock().unwrap().end("Success", 4);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    let world = world.lock().unwrap();
    let operations: Vec<&str> = world
        .commands
        .iter()
        .map(|c| c.operation.as_str())
        .collect();
    assert_eq!(operations, ["Scan", "Install"]);
    assert_eq!(
        world.told_of(1),
        ["in-progress", "remediated", "in-progress"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_under_way_for_more_than_24_hours_is_told_and_followed_by_none_while_it_is()
 {
    let world = under_way(compliance(1), lacking(2)).await;
    let sent = |minutes: u64| {
        let mut world = world.lock().unwrap();
        world.commands[0].at = ago(minutes);
        world.rewrite(|run| {
            if run["command"].is_object() {
                run["command"]["at"] = ago(minutes).to_string().into();
            }
        });
    };
    sent(24 * 60 - 1);
    let answer = run(&wire(&world), ended(1)).await.unwrap();
    assert_eq!(answer["verdict"], "under way");
    assert_eq!(world.lock().unwrap().locks(), 1);

    sent(24 * 60 + 1);
    let answer = run(&wire(&world), ended(1)).await.unwrap();
    assert_eq!(answer["verdict"], "failed");
    {
        let world = world.lock().unwrap();
        assert_eq!(world.told_of(1), ["in-progress", "failed"]);
        assert_eq!(world.locks(), 0);
        let why = &world.records()[0].detail.reasons;
        assert!(why.iter().any(|why| why.contains("24 hours")), "{why:?}");
    }

    // It is still under way, days later: no second one.
    for days in [1, 2, 6] {
        sent(days * 24 * 60 + 2);
        let next = wire(&world);
        let answer = run(&next, compliance(1)).await.unwrap();
        let verdict = answer["verdict"].as_str().unwrap();
        assert!(["pending", "known"].contains(&verdict), "{days}: {answer}");
        assert!(nothing_done(&next), "{days}");
    }
    assert_eq!(
        world.lock().unwrap().told_of(1),
        ["in-progress", "failed", "pending"]
    );

    // Somebody cancelled it: it is tried again.
    let cancelled = (id(1), "Cancelled");
    world.lock().unwrap().commands[0].ended.extend([cancelled]);
    let answer = run(&wire(&world), compliance(1)).await.unwrap();
    assert_eq!(answer["verdict"], "begun");
    assert_eq!(world.lock().unwrap().commands.len(), 2);
}

/// Begins an installation and lets it end like that; then as though a day had
/// gone by and the instance were as `machine` again.
async fn installed(
    world: &Arc<Mutex<World>>,
    event: Value,
    status: &'static str,
    machine: &Machine,
) {
    let sent = world.lock().unwrap().commands.len();
    run(&wire(world), batch([event])).await.unwrap();
    {
        let mut world = world.lock().unwrap();
        assert_eq!(world.commands.len(), sent + 1, "begun");
        let missing = machine.patches.map_or(0, |(_, _, missing, _)| missing);
        let left = if status == "Success" { 0 } else { missing };
        world.end(status, left);
    }
    // Delivered twice.
    for _ in 0..2 {
        run(&wire(world), batch([ended(1)])).await.unwrap();
    }
    let mut world = world.lock().unwrap();
    world.machines.insert(id(1), machine.clone());
    for command in &mut world.commands {
        command.at -= Duration::from_secs(25 * 3600);
    }
}

fn tripped(world: &Arc<Mutex<World>>, control: ControlId) -> bool {
    let key = format!("trip#{}#{}", control.lock_name(), id(1));
    world.lock().unwrap().table.items.contains_key(&key)
}

#[tokio::test(start_paused = true)]
async fn three_failed_installations_in_a_row_trip_the_instance_and_a_success_resets_the_count() {
    let by_state: (ControlId, fn(usize) -> Value, Machine) =
        (ControlId::MissingPatches, |_| compliance(1), lacking(2));
    let by_finding: (ControlId, fn(usize) -> Value, Machine) = (
        ControlId::VulnerablePackage,
        |n| active(1, n),
        // What shows nothing missing after a failure was installed.
        lacking(2),
    );
    for (control, event, machine) in [by_state, by_finding] {
        let world = World::of([(1, machine.clone())]);
        // Not without a success in between.
        for (n, (status, failures)) in [
            ("Failed", 1),
            ("Execution Timed Out", 2),
            ("Success", 0),
            ("Failed", 1),
            ("Failed", 2),
        ]
        .into_iter()
        .enumerate()
        {
            installed(&world, event(n), status, &machine).await;
            assert_eq!(
                reports(&world, 1).await.failures,
                failures,
                "{control}, {n}"
            );
            assert!(!tripped(&world, control), "{control}, {n}");
        }
        installed(&world, event(5), "Failed", &machine).await;
        assert!(tripped(&world, control), "{control}");
        // Whoever re-arms it has it tried as often again.
        assert_eq!(reports(&world, 1).await.failures, 0, "{control}");
        let trip = format!("trip#{}#{}", control.lock_name(), id(1));
        let trip = world.lock().unwrap().table.items[&trip].clone();
        assert!(trip.to_string().contains("3 times in a row"), "{trip}");
        assert_eq!(world.lock().unwrap().told_of(1).last(), Some(&"tripped"));

        let next = wire(&world);
        run(&next, batch([event(6)])).await.unwrap();
        assert!(nothing_done(&next), "{control}");
        // Nor by way of the other control: the installation is the same.
        run(&next, batch([compliance(1), active(1, 9)]))
            .await
            .unwrap();
        world.lock().unwrap().machines.insert(id(1), lacking(2));
        run(&next, batch([compliance(1)])).await.unwrap();
        assert_eq!(world.lock().unwrap().commands.len(), 6, "{control}");
        assert_eq!(world.lock().unwrap().told_of(1).last(), Some(&"tripped"));
    }
}

#[tokio::test(start_paused = true)]
async fn scans_that_fail_do_not_count_as_installations_that_failed() {
    let never = Machine {
        patches: None,
        ..Machine::default()
    };
    let world = World::of([(1, never.clone())]);
    for _ in 0..4 {
        run(&wire(&world), batch([compliance(1)])).await.unwrap();
        {
            let mut world = world.lock().unwrap();
            world.end("Failed", 0);
            world.machines.insert(id(1), never.clone());
        }
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        for command in &mut world.lock().unwrap().commands {
            command.at -= Duration::from_secs(25 * 3600);
        }
    }
    let scans = world.lock().unwrap().commands.len();
    assert_eq!(scans, 4);
    assert_eq!(reports(&world, 1).await.failures, 0);
    assert!(!tripped(&world, ControlId::MissingPatches));
}

#[tokio::test(start_paused = true)]
async fn an_installation_that_failed_is_counted_once_at_most_whichever_change_is_lost() {
    for took_effect in [true, false] {
        for lost in 0.. {
            let context = format!("change {lost}, took effect: {took_effect}");
            let world = under_way(compliance(1), lacking(2)).await;
            world.lock().unwrap().end("Failed", 2);
            let made = Arc::new(Mutex::new(0));
            let seen = made.clone();
            let wire = wire_with(&world, move |world, call| {
                if !changes(call) {
                    return None;
                }
                let mut seen = seen.lock().unwrap();
                *seen += 1;
                (*seen == lost + 1).then(|| {
                    if took_effect {
                        world.answer(call);
                    }
                    Reply::Broken
                })
            });
            let mut done = false;
            for _ in 0..3 {
                done = done || run(&wire, batch([ended(1)])).await.is_ok();
                world.lock().unwrap().lapse();
            }
            assert!(done, "{context}");
            let failures = reports(&world, 1).await.failures;
            assert!(failures <= 1, "{context}: {failures}");
            assert_eq!(
                world.lock().unwrap().told_of(1)[..2],
                ["in-progress", "failed"]
            );
            if *made.lock().unwrap() <= lost {
                assert_eq!(failures, 1, "none was lost");
                assert!(lost > 3, "all of them were lost once");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_safety_snapshot_that_came_to_nothing_is_named_as_lost_and_listed_no_more() {
    for status in ["Success", "Failed"] {
        let world = World::of([(1, lacking(2))]);
        world.lock().unwrap().volumes = 3;
        run(&wire(&world), batch([compliance(1)])).await.unwrap();
        let taken = world.lock().unwrap().records()[0].detail.snapshots.clone();
        let [first, second, third] = &taken[..] else {
            panic!("{taken:?}")
        };
        {
            let mut world = world.lock().unwrap();
            world.lost.insert(second.clone());
            world.end(status, 0);
        }
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        let world = world.lock().unwrap();
        let run = &world.records()[0];
        assert!(!run.is_open(), "{status}");
        assert_eq!(
            run.detail.snapshots,
            [first.clone(), third.clone()],
            "{status}"
        );
        let said: Vec<&String> = run
            .detail
            .reasons
            .iter()
            .filter(|why| why.contains("came to nothing"))
            .collect();
        let [said] = said[..] else {
            panic!("{status}: {:?}", run.detail.reasons)
        };
        assert!(said.contains(second.as_str()), "{said}");
        assert!(
            !said.contains(first.as_str()) && !said.contains(third.as_str()),
            "{said}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_all_came_to_something_are_all_listed_and_nothing_is_said_of_them() {
    let world = World::of([(1, lacking(2))]);
    world.lock().unwrap().volumes = 2;
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    let world = world.lock().unwrap();
    let run = &world.records()[0];
    assert_eq!(run.head.status, Status::Remediated);
    assert_eq!(run.detail.snapshots.len(), 2);
    assert!(
        !run.detail
            .reasons
            .iter()
            .any(|why| why.contains("snapshot"))
    );
}

// --- Inspector closes what Inspector found

#[tokio::test(start_paused = true)]
async fn a_finding_that_is_reported_after_the_end_of_an_installation_was_not_installed() {
    let world = under_way(active(1, 1), Machine::default()).await;
    // While it was under way: what it installed may have mended it.
    run(&wire(&world), batch([active(1, 2)])).await.unwrap();
    world.lock().unwrap().end("Success", 0);
    let later = Timestamp::now() + Duration::from_secs(60);
    // The first of them is in the record, and reported once more.
    let late = [1, 3].map(|of| finding(1, of, "ACTIVE", "HIGH", later));
    run(&wire(&world), batch(late)).await.unwrap();

    let kept = reports(&world, 1).await;
    let entry = world.lock().unwrap().records()[0].head.id.clone();
    let by: BTreeMap<&str, Option<&String>> = kept
        .active
        .values()
        .map(|finding| (finding.arn.as_str(), finding.installed_by.as_ref()))
        .collect();
    assert_eq!(
        by,
        BTreeMap::from([
            (arn(1).as_str(), Some(&entry)),
            (arn(2).as_str(), Some(&entry)),
            (arn(3).as_str(), None),
        ])
    );
    // It waits for the cool-down, and is not settled with the others.
    assert_eq!(
        world.lock().unwrap().told_of(1),
        ["in-progress", "awaiting-rescan", "pending"]
    );
    let closed = [1, 2].map(|of| finding(1, of, "CLOSED", "HIGH", later));
    run(&wire(&world), batch(closed)).await.unwrap();
    let world = world.lock().unwrap();
    assert_eq!(
        world.record(&entry).unwrap().head.status,
        Status::Remediated
    );
    let pending = world.records();
    let pending = pending
        .iter()
        .find(|run| run.head.status == Status::Pending);
    let [waits] = &pending.unwrap().detail.findings[..] else {
        panic!("one finding")
    };
    assert_eq!(waits.arn, arn(3));
}

#[tokio::test(start_paused = true)]
async fn a_finding_that_is_suppressed_while_its_command_is_under_way_is_never_told_as_remediated() {
    let world = World::of([(1, Machine::default())]);
    run(&wire(&world), batch([active(1, 1)])).await.unwrap();
    let event = finding(1, 1, "SUPPRESSED", "HIGH", Timestamp::now());
    run(&wire(&world), batch([event])).await.unwrap();
    world.lock().unwrap().end("Success", 0);
    for _ in 0..2 {
        run(&wire(&world), batch([ended(1)])).await.unwrap();
    }
    let world = world.lock().unwrap();
    let told = world.told_of(1);
    assert_eq!(told.last(), Some(&"failed"), "{told:?}");
    assert!(!told.contains(&"remediated"), "{told:?}");
    let records = world.records();
    let says = |why: &String| why.contains("suppressed");
    assert!(
        records[0].detail.reasons.iter().any(says),
        "{:?}",
        records[0].detail.reasons
    );
    assert_eq!((world.commands.len(), world.locks()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_finding_that_is_suppressed_while_it_awaits_its_rescan_is_never_told_as_remediated() {
    let now = Timestamp::now;
    for (case, events) in [
        ("suppressed alone", vec![(1, "SUPPRESSED")]),
        (
            "suppressed, then closed",
            vec![(1, "SUPPRESSED"), (2, "CLOSED")],
        ),
        (
            "closed, then suppressed",
            vec![(2, "CLOSED"), (1, "SUPPRESSED")],
        ),
    ] {
        let world = World::of([(1, Machine::default())]);
        let found: BTreeSet<usize> = events.iter().map(|(of, _)| *of).collect();
        run(&wire(&world), batch(found.iter().map(|of| active(1, *of))))
            .await
            .unwrap();
        world.lock().unwrap().end("Success", 0);
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        // What was said before it was reported says nothing.
        let old = finding(1, 1, "SUPPRESSED", "HIGH", ago(30));
        run(&wire(&world), batch([old])).await.unwrap();

        for (n, (of, status)) in events.iter().enumerate() {
            assert_eq!(
                world.lock().unwrap().told_of(1),
                ["in-progress", "awaiting-rescan"],
                "{case}, {n}"
            );
            let event = finding(1, *of, status, "HIGH", now());
            for _ in 0..2 {
                run(&wire(&world), batch([event.clone()])).await.unwrap();
            }
        }
        {
            let world = world.lock().unwrap();
            assert_eq!(
                world.told_of(1),
                ["in-progress", "awaiting-rescan", "failed"],
                "{case}"
            );
            let [run] = &world.records()[..] else {
                panic!("{case}: one run")
            };
            assert!(
                run.detail
                    .reasons
                    .iter()
                    .any(|why| why.contains("suppressed")),
                "{case}: {:?}",
                run.detail.reasons
            );
            let closed = |why: &String| why.contains("has closed every finding");
            assert!(!run.detail.reasons.iter().any(closed), "{case}");
            let item = &world.table.items[&format!("entry#{}", run.head.id)];
            assert!(item.get("untold").is_none(), "{case}");
            assert_eq!(world.commands.len(), 1, "{case}");
        }
        let kept = reports(&world, 1).await;
        assert!(
            kept.awaiting.is_empty() && kept.unclear.is_empty(),
            "{case}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_finding_is_installed_and_awaits_its_rescan_until_inspector_closes_it() {
    let world = under_way(active(1, 1), Machine::default()).await;
    world.lock().unwrap().end("Success", 0);
    let after = wire(&world);
    run(&after, batch([ended(1)])).await.unwrap();

    // What leads back to the entry is stored before the entry.
    let stored: Vec<String> = after
        .calls()
        .iter()
        .filter(|call| call.operation == "TransactWriteItems")
        .filter_map(|call| call.json["TransactItems"][0]["Put"].get("Item").map(pk))
        .collect();
    let entry = world.lock().unwrap().records()[0].head.id.clone();
    assert_eq!(
        stored,
        [format!("reports#{}", id(1)), format!("entry#{entry}")]
    );
    {
        let world = world.lock().unwrap();
        assert_eq!(world.told_of(1), ["in-progress", "awaiting-rescan"]);
        assert_eq!(world.locks(), 0, "let go");
        assert!(
            world.table.items[&format!("entry#{entry}")]
                .get("untold")
                .is_some()
        );
    }
    assert_eq!(
        reports(&world, 1).await.awaiting,
        BTreeSet::from([entry.clone()])
    );

    // Reported once more before the rescan: no second command.
    let again = finding(1, 1, "ACTIVE", "HIGH", Timestamp::now());
    run(&wire(&world), batch([again])).await.unwrap();
    assert_eq!(world.lock().unwrap().commands.len(), 1);
    assert_eq!(world.lock().unwrap().told_of(1).len(), 2);

    // Closed; and the same message once more.
    let closed = finding(1, 1, "CLOSED", "HIGH", Timestamp::now());
    for _ in 0..2 {
        run(&wire(&world), batch([closed.clone()])).await.unwrap();
    }
    {
        let world = world.lock().unwrap();
        assert_eq!(
            world.told_of(1),
            ["in-progress", "awaiting-rescan", "remediated"]
        );
        assert!(
            world.table.items[&format!("entry#{entry}")]
                .get("untold")
                .is_none()
        );
    }
    assert!(reports(&world, 1).await.awaiting.is_empty());

    // An older report that comes late brings nothing back.
    run(&wire(&world), batch([active(1, 1)])).await.unwrap();
    let world = world.lock().unwrap();
    assert_eq!((world.commands.len(), world.records().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_of_two_findings_that_is_closed_settles_nothing() {
    let world = World::of([(1, Machine::default())]);
    run(&wire(&world), batch([active(1, 1), active(1, 2)]))
        .await
        .unwrap();
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    for (of, told) in [(1, "awaiting-rescan"), (2, "remediated")] {
        let closed = finding(1, of, "CLOSED", "HIGH", Timestamp::now());
        run(&wire(&world), batch([closed])).await.unwrap();
        assert_eq!(*world.lock().unwrap().told_of(1).last().unwrap(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_still_active_after_24_hours_is_told_and_not_patched_again_within_the_cool_down() {
    let world = under_way(active(1, 1), Machine::default()).await;
    world.lock().unwrap().policy = POLICY.replace(
        r#""version":1"#,
        r#""version":1,"patching":{"cool_down_hours":72}"#,
    );
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    for (hours, told) in [(23, "awaiting-rescan"), (25, "failed")] {
        world.lock().unwrap().rewrite(|run| {
            run["installed_at"] = ago(hours * 60).to_string().into();
        });
        for _ in 0..2 {
            run(&wire(&world), batch([compliance(1)])).await.unwrap();
        }
        let world = world.lock().unwrap();
        assert!(
            world.told_of(1).contains(&told),
            "{hours}: {:?}",
            world.told_of(1)
        );
        assert_eq!(world.told_of(1).contains(&"failed"), hours > 24);
    }
    let world = world.lock().unwrap();
    assert_eq!(world.commands.len(), 1);
    assert_eq!(
        world.told_of(1),
        ["in-progress", "awaiting-rescan", "failed", "notified"],
        "each once"
    );
    let runs = world.records();
    let last = runs.last().unwrap();
    assert_eq!(
        (last.head.status, last.detail.findings_total),
        (Status::Notified, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_in_vain_and_is_tried_again_awaits_its_rescan_like_the_first_time() {
    let world = under_way(active(1, 1), Machine::default()).await;
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    let days_later = |world: &Arc<Mutex<World>>| {
        let mut world = world.lock().unwrap();
        world.rewrite(|run| {
            run["installed_at"] = ago(25 * 60).to_string().into();
        });
        for command in &mut world.commands {
            command.at -= Duration::from_secs(25 * 3600);
        }
    };
    days_later(&world);
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    assert!(reports(&world, 1).await.active[&arn(1)].unmended);

    // The baseline approves the fixed version at last.
    world.lock().unwrap().machines.insert(id(1), lacking(1));
    run(&wire(&world), batch([compliance(1)])).await.unwrap();
    assert_eq!(world.lock().unwrap().commands.len(), 2);
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    let told = |world: &Arc<Mutex<World>>| -> Vec<String> {
        let world = world.lock().unwrap();
        let told = world.told_of(1).into_iter().skip(4);
        told.map(str::to_owned).collect()
    };
    assert_eq!(told(&world), ["in-progress", "awaiting-rescan"]);
    for _ in 0..2 {
        run(&wire(&world), batch([compliance(1)])).await.unwrap();
    }
    assert_eq!(
        told(&world),
        ["in-progress", "awaiting-rescan"],
        "nobody has closed it"
    );
    let closed = finding(1, 1, "CLOSED", "HIGH", Timestamp::now());
    run(&wire(&world), batch([closed])).await.unwrap();
    assert_eq!(
        told(&world),
        ["in-progress", "awaiting-rescan", "remediated"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_cut_off_and_is_told_no_more_is_remediated_only_where_inspector_has_closed_it() {
    for (event, expected) in [
        ("CLOSED", "remediated"),
        ("SUPPRESSED", "rolled-back"),
        // Less bad than the policy asks about.
        ("ACTIVE", "rolled-back"),
    ] {
        let world = World::of([(1, Machine::default())]);
        let lost = wire_with(&world, |_, call| {
            (call.operation == "CreateSnapshots").then_some(Reply::Broken)
        });
        run(&lost, batch([active(1, 1)])).await.unwrap_err();
        world.lock().unwrap().lapse();
        let event = finding(1, 1, event, "LOW", Timestamp::now());
        run(&wire(&world), batch([event])).await.unwrap();
        let world = world.lock().unwrap();
        assert_eq!(world.told_of(1), [expected]);
        assert_eq!((world.commands.len(), world.locks()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_more_findings_than_a_record_lists_that_is_suppressed_is_not_told_as_remediated() {
    for (last, expected) in [("CLOSED", "remediated"), ("SUPPRESSED", "failed")] {
        let world = World::of([(1, Machine::default())]);
        run(&wire(&world), batch((0..70).map(|of| active(1, of))))
            .await
            .unwrap();
        let listed = world.lock().unwrap().records()[0].detail.findings.clone();
        assert_eq!(listed.len(), 60);
        let is_listed = |of: &usize| listed.iter().any(|finding| finding.arn == arn(*of));
        let unlisted = (0..70).find(|of| !is_listed(of)).unwrap();
        let said = |of: usize, status| finding(1, of, status, "HIGH", Timestamp::now());
        run(&wire(&world), batch([said(unlisted, last)]))
            .await
            .unwrap();
        world.lock().unwrap().end("Success", 0);
        run(&wire(&world), batch([ended(1)])).await.unwrap();
        let others = (0..70).filter(|of| *of != unlisted);
        run(&wire(&world), batch(others.map(|of| said(of, "CLOSED"))))
            .await
            .unwrap();
        assert_eq!(
            world.lock().unwrap().told_of(1),
            ["in-progress", "awaiting-rescan", expected]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_gone_waits_for_no_rescan() {
    let world = under_way(active(1, 1), Machine::default()).await;
    world.lock().unwrap().end("Success", 0);
    run(&wire(&world), batch([ended(1)])).await.unwrap();
    world.lock().unwrap().machines.clear();
    run(&wire(&world), compliance(1)).await.unwrap();
    let world = world.lock().unwrap();
    assert_eq!(world.told_of(1).last(), Some(&"remediated"));
    assert!(
        world.records()[0]
            .detail
            .reasons
            .contains(&"the instance is gone".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn reports_that_another_invocation_wrote_meanwhile_are_read_again_and_nothing_is_lost() {
    let world = World::of([(1, Machine::default())]);
    world.lock().unwrap().policy = r#"{"version":1}"#.into();
    let (one, other) = (wire(&world), wire(&world));
    let (first, second) = tokio::join!(run(&one, active(1, 1)), run(&other, active(1, 2)));
    first.unwrap();
    second.unwrap();
    let writes = |wire: &Wire| {
        let calls = wire.calls();
        let writes = calls.iter().filter(|call| {
            call.json["TransactItems"][0]["Put"]
                .get("Item")
                .is_some_and(|item| pk(item).starts_with("reports#"))
        });
        writes.count()
    };
    assert_eq!(writes(&one) + writes(&other), 3, "one of them was refused");
    let kept: BTreeSet<String> = reports(&world, 1).await.active.into_keys().collect();
    assert_eq!(kept, BTreeSet::from([arn(1), arn(2)]));
}

#[tokio::test(start_paused = true)]
async fn word_of_a_finding_that_nobody_knew_and_that_is_over_starts_nothing() {
    for status in ["CLOSED", "SUPPRESSED"] {
        let world = World::of([(1, Machine::default())]);
        let wire = wire(&world);
        let over = finding(1, 1, status, "CRITICAL", Timestamp::now());
        let answer = run(&wire, over).await.unwrap();
        assert_eq!(answer["verdict"], "nothing to do", "{status}");
        // An older report that comes after it is none.
        let answer = run(&wire, active(1, 1)).await.unwrap();
        assert_eq!(answer["verdict"], "nothing to do", "{status}");
        assert_eq!(count(&wire, "SendCommand"), 0, "{status}");
        assert_eq!(count(&wire, "CreateSnapshots"), 0, "{status}");
        let world = world.lock().unwrap();
        assert!(
            world.records().is_empty() && world.told.is_empty(),
            "{status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_the_policy_asks_about_is_kept_of_inspectors_reports() {
    let world = World::of([(1, Machine::default())]);
    world.lock().unwrap().policy =
        r#"{"version":1,"controls":{"vulnerable-package":{"mode":"off"}}}"#.into();
    run(&wire(&world), active(1, 1)).await.unwrap();
    assert!(reports(&world, 1).await.active.is_empty(), "off");

    world.lock().unwrap().policy = r#"{"version":1}"#.into();
    let medium = finding(1, 1, "ACTIVE", "MEDIUM", ago(9));
    run(&wire(&world), medium.clone()).await.unwrap();
    assert!(
        reports(&world, 1).await.active.is_empty(),
        "below the severity"
    );

    // High once, and less bad since: it holds no more.
    run(&wire(&world), active(1, 1)).await.unwrap();
    assert_eq!(world.lock().unwrap().told_of(1), ["notified"]);
    let answer = run(&wire(&world), medium).await.unwrap();
    assert_eq!(answer["verdict"], "nothing to do");
    let known = world
        .lock()
        .unwrap()
        .table
        .items
        .keys()
        .any(|pk| pk.starts_with("known#"));
    assert!(!known);
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_for_another_control_is_forgotten() {
    let world = World::of([(1, Machine::default())]);
    world.lock().unwrap().policy = r#"{"version":1}"#.into();
    run(&wire(&world), active(1, 1)).await.unwrap();
    let known = |control: &str| {
        let key = format!("known#{control}#{}", id(1));
        world.lock().unwrap().table.items.contains_key(&key)
    };
    assert!(known("vulnerable-package"));
    world.lock().unwrap().machines.insert(id(1), lacking(1));
    let closed = finding(1, 1, "CLOSED", "HIGH", Timestamp::now());
    run(&wire(&world), closed).await.unwrap();
    assert!(!known("vulnerable-package") && known("missing-patches"));
}

#[tokio::test(start_paused = true)]
async fn a_command_of_somebody_else_that_is_under_way_is_waited_for_however_short_the_cool_down() {
    let world = World::of([(1, lacking(1))]);
    {
        let mut world = world.lock().unwrap();
        world.policy = POLICY.replace(
            r#""version":1"#,
            r#""version":1,"patching":{"cool_down_hours":1}"#,
        );
        world.commands.push(SentCommand {
            comment: "by hand".into(),
            operation: "Install".into(),
            reboot: "NoReboot".into(),
            instances: vec![id(1)],
            at: ago(90),
            ended: BTreeMap::new(),
        });
    }
    let wire = wire(&world);
    let answer = run(&wire, compliance(1)).await.unwrap();
    assert_eq!(answer["verdict"], "pending");
    assert!(nothing_done(&wire));
}
