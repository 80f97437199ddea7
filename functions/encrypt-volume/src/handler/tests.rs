//! The function against the real SDK clients with canned answers: what is
//! called in which order, and what happens when one call fails. What becomes of
//! a run is tested in the core (simulation) and end to end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use backstop_core::controls::unencrypted_volume::{About, Circumstances, decide, record};
use backstop_core::encryption::{Answer, Change, Note, Purpose};
use backstop_core::patching::{Patching, Sent};
use backstop_core::policy::Policy;
use backstop_core::volumes::{Attachment, Instance};
use backstop_core::words::Actor;
use backstop_wire::memory::table::Table;
use backstop_wire::{Call, Reply, Wire};

use super::*;

const VOLUME: &str = "vol-0123456789abcdef0";
const COPY: &str = "vol-0123456789abcdef1";
const SNAPSHOT: &str = "snap-0123456789abcdef0";
const INSTANCE: &str = "i-0123456789abcdef0";
const RUN: &str = "01K00000000000000000000000";
/// The encryption that an undo takes back.
const UNDONE: &str = "01K00000000000000000000001";
const PATCHING: &str = "01K00000000000000000000002";
/// When the instance was started, and the volume attached.
const SINCE: &str = "2026-01-02T03:04:05Z";
/// A window that never closes.
const SWAP: &str = r#"{"version":1,"controls":{"unencrypted-volume":{"mode":"enforce","settings":{"attached":"swap","windows":[{"from":"00:00","to":"00:00"}]}}}}"#;

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

/// Where the volume is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Attached nowhere.
    Free,
    /// On an instance that runs.
    Attached,
    /// Replaced there by its copy.
    Replaced,
}

/// A small EC2: one volume, the instance that it may be attached to, and the
/// account's setting.
#[derive(Clone)]
struct World {
    encrypted: bool,
    minutes_old: i64,
    place: Place,
    policy: &'static str,
    /// The record that the ledger holds.
    record: Option<Encryption>,
    /// A patching in the ledger, and until when it holds the instance's lock;
    /// none: it has let it go.
    patching: Option<(Patching, Option<Timestamp>)>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            encrypted: false,
            minutes_old: 60,
            place: Place::Free,
            policy: r#"{"version":1,"controls":{"unencrypted-volume":{"mode":"enforce"}}}"#,
            record: None,
            patching: None,
        }
    }
}

/// A volume as DescribeVolumes shows it.
fn volume_xml(id: &str, world: &World, attached: bool, tags: &[(&str, &str)]) -> String {
    let created = Timestamp::now() - Duration::from_secs(60 * world.minutes_old as u64);
    let encrypted = world.encrypted || id == COPY;
    let status = if attached { "in-use" } else { "available" };
    let attachment = match attached {
        true => format!(
            "<item><volumeId>{id}</volumeId><instanceId>{INSTANCE}</instanceId><device>/dev/sdf</device><status>attached</status><attachTime>{SINCE}</attachTime><deleteOnTermination>false</deleteOnTermination></item>"
        ),
        false => String::new(),
    };
    format!(
        "<volumeSet><item><volumeId>{id}</volumeId><size>8</size><availabilityZone>eu-central-1a</availabilityZone><status>{status}</status><createTime>{created}</createTime><volumeType>gp3</volumeType><iops>3000</iops><throughput>125</throughput><encrypted>{encrypted}</encrypted><attachmentSet>{attachment}</attachmentSet>{}</item></volumeSet>",
        tags_xml(tags)
    )
}

fn tags_xml(tags: &[(&str, &str)]) -> String {
    let tags: String = tags
        .iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect();
    format!("<tagSet>{tags}</tagSet>")
}

/// A record as the ledger keeps it.
fn item(id: &str, kind: &str, mut document: Value, revision: u64) -> Value {
    document["kind"] = kind.into();
    json!({ "Item": {
        "pk": { "S": format!("entry#{id}") },
        "document": { "S": document.to_string() },
        "revision": { "N": revision.to_string() },
        "told": { "BOOL": false },
    }})
}

fn answer(world: &Mutex<World>, call: &Call) -> Reply {
    let world = world.lock().unwrap();
    match call.operation.as_str() {
        "DescribeVolumes" => {
            let volumes = match call.parameter("Filter.1.Name") {
                Some("volume-id") => {
                    volume_xml(VOLUME, &world, world.place == Place::Attached, &[])
                }
                _ if world.place == Place::Replaced => volume_xml(
                    COPY,
                    &world,
                    true,
                    &[("backstop:copy-of", VOLUME), ("backstop:entry", UNDONE)],
                ),
                _ => "<volumeSet/>".to_owned(),
            };
            xml("DescribeVolumes", &volumes)
        }
        "DescribeSnapshots" if world.place == Place::Attached => xml(
            "DescribeSnapshots",
            &format!(
                "<snapshotSet><item><snapshotId>{SNAPSHOT}</snapshotId><volumeId>{VOLUME}</volumeId><status>completed</status><startTime>{SINCE}</startTime>{}</item></snapshotSet>",
                tags_xml(&[("backstop:entry", RUN), ("backstop:purpose", "safety")])
            ),
        ),
        "DescribeSnapshots" => xml("DescribeSnapshots", "<snapshotSet/>"),
        "DescribeInstances" => xml(
            "DescribeInstances",
            &format!(
                "<reservationSet><item><reservationId>r-1</reservationId><instancesSet><item><instanceId>{INSTANCE}</instanceId><instanceState><code>16</code><name>running</name></instanceState><instanceType>m7i.large</instanceType><launchTime>{SINCE}</launchTime><rootDeviceType>ebs</rootDeviceType></item></instancesSet></item></reservationSet>"
            ),
        ),
        "DescribeInstanceTypes" => xml(
            "DescribeInstanceTypes",
            "<instanceTypeSet><item><instanceType>m7i.large</instanceType><instanceStorageSupported>false</instanceStorageSupported></item></instanceTypeSet>",
        ),
        "DescribeInstanceAttribute" => xml(
            "DescribeInstanceAttribute",
            "<disableApiStop><value>false</value></disableApiStop>",
        ),
        "DescribeInstanceStatus" => xml(
            "DescribeInstanceStatus",
            &format!(
                "<instanceStatusSet><item><instanceId>{INSTANCE}</instanceId><systemStatus><status>ok</status></systemStatus><instanceStatus><status>ok</status></instanceStatus></item></instanceStatusSet>"
            ),
        ),
        "StopInstances" => xml("StopInstances", "<instancesSet/>"),
        "DescribeVolumeAttribute" => xml("DescribeVolumeAttribute", "<productCodes/>"),
        "GetEbsDefaultKmsKeyId" => xml(
            "GetEbsDefaultKmsKeyId",
            "<kmsKeyId>alias/aws/ebs</kmsKeyId>",
        ),
        "CreateSnapshot" => xml(
            "CreateSnapshot",
            "<snapshotId>snap-0123456789abcdef0</snapshotId><status>pending</status>",
        ),
        "GetParameter" => {
            Reply::ok(json!({ "Parameter": { "Value": world.policy, "Version": 3 } }).to_string())
        }
        "GetItem" => {
            let asked = call.json["Key"]["pk"]["S"].as_str().unwrap();
            let record = world
                .record
                .as_ref()
                .filter(|_| asked == format!("entry#{RUN}"));
            let of = world.patching.as_ref().map(|(patching, _)| patching);
            let patching = of.filter(|_| asked == format!("entry#{PATCHING}"));
            let found = match (record, patching) {
                (Some(run), _) => item(&run.head.id, "encryption", json!(run), run.detail.revision),
                (_, Some(run)) => item(&run.head.id, "patching", json!(run), run.detail.revision),
                _ => json!({}),
            };
            Reply::ok(found.to_string())
        }
        "BatchGetItem" => {
            let lock = format!("lock#missing-patches#{INSTANCE}");
            let held = world.patching.as_ref().and_then(|(_, until)| *until);
            let mut found = Vec::new();
            if let Some(until) = held.filter(|_| asks_for(call, &lock)) {
                found.push(json!({
                    "pk": { "S": lock }, "sk": { "S": "lock" },
                    "entry": { "S": PATCHING }, "holder": { "S": format!("run {PATCHING}") },
                    "lease_until": { "N": until.as_millisecond().to_string() },
                }));
            }
            Reply::ok(json!({ "Responses": { "ledger": found } }).to_string())
        }
        "PutItem" | "UpdateItem" | "TransactWriteItems" => Reply::ok("{}"),
        "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
        "StartExecution" => Reply::ok(r#"{"executionArn":"arn:x","startDate":1.0}"#),
        other => panic!("{other}"),
    }
}

/// Whether a read of the ledger names an item.
fn asks_for(call: &Call, pk: &str) -> bool {
    let keys = call.json["RequestItems"]["ledger"]["Keys"].as_array();
    keys.is_some_and(|keys| keys.iter().any(|key| key["pk"]["S"] == pk))
}

fn wire(world: World, fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static) -> Wire {
    let world = Arc::new(Mutex::new(world));
    Wire::new(move |call| fails(call).unwrap_or_else(|| answer(&world, call)))
}

fn event(detail_type: &str, resource: &str, detail: Value) -> Value {
    json!({
        "version": "0", "id": "e", "detail-type": detail_type, "source": "aws.ec2",
        "account": "111122223333", "time": "2026-11-24T10:00:00Z", "region": "eu-central-1",
        "resources": [resource], "detail": detail,
    })
}

fn volume_event() -> Value {
    event(
        "EBS Volume Notification",
        &format!("arn:aws:ec2:eu-central-1:111122223333:volume/{VOLUME}"),
        json!({ "event": "createVolume", "result": "available", "cause": "" }),
    )
}

async fn run(wire: &Wire, payload: Value) -> Result<Value, String> {
    let config = wire.config(1);
    let settings = EncryptSettings {
        remediation: backstop_aws::settings::RemediationSettings {
            ledger_table: "ledger".into(),
            policy_parameter: "/p".into(),
            mode: Mode::Notify,
            owner_tag_key: "owner".into(),
        },
        state_machine_arn: "arn:aws:states:eu-central-1:111122223333:stateMachine:b".into(),
    };
    let mut context = Context::default();
    context.request_id = "request-1".into();
    context.deadline = (Timestamp::now() + Duration::from_secs(60)).as_millisecond() as u64;
    Handler::new(
        Clients::new(&config),
        EncryptionClients::new(&config),
        settings,
    )
    .handle(LambdaEvent::new(payload, context))
    .await
    .map_err(|failure| failure.error_message)
}

/// The calls that change anything in EC2.
fn changes(wire: &Wire) -> Vec<String> {
    let reads =
        |operation: &String| operation.starts_with("Describe") || operation.starts_with("Get");
    let elsewhere = [
        "BatchGetItem",
        "PutItem",
        "UpdateItem",
        "TransactWriteItems",
        "PutEvents",
        "StartExecution",
    ];
    let mut operations = wire.operations();
    operations.retain(|operation| !reads(operation) && !elsewhere.contains(&operation.as_str()));
    operations
}

fn count(wire: &Wire, operation: &str) -> usize {
    wire.operations()
        .iter()
        .filter(|of| *of == operation)
        .count()
}

fn volume() -> Volume {
    Volume {
        id: VOLUME.into(),
        state: "available".into(),
        encrypted: false,
        size: 8,
        volume_type: "gp3".into(),
        iops: Some(3000),
        throughput: Some(125),
        zone: "eu-central-1a".into(),
        multi_attach: false,
        created_at: None,
        attachments: Vec::new(),
        tags: Default::default(),
        operator: None,
        marketplace: false,
        outpost: None,
    }
}

/// A run's record, as the function would have written it.
fn begun() -> Encryption {
    begun_for(Unit::Volume(Box::new(volume())), VOLUME, &Policy::default())
}

/// A run that is to stop its instance: the safety snapshot is complete.
fn about_to_stop() -> Encryption {
    let mut volume = volume();
    volume.state = "in-use".into();
    volume.attachments.push(Attachment {
        instance: INSTANCE.into(),
        device: "/dev/sdf".into(),
        state: "attached".into(),
        delete_on_termination: false,
        attached_at: Some(SINCE.parse().unwrap()),
    });
    let instance = json!({
        "id": INSTANCE, "state": "running", "launched_at": SINCE, "instance_type": "m7i.large",
    });
    let instance: Instance = serde_json::from_value(instance).unwrap();
    let unit = Unit::Instance(Box::new(instance), vec![volume]);
    let mut run = begun_for(unit, INSTANCE, &Policy::parse(SWAP).unwrap());
    let snapshot = Change::Snapshot {
        volume: VOLUME.into(),
        purpose: Purpose::Safety,
    };
    run.trying(&snapshot, Timestamp::now());
    run.tried(&snapshot, Answer::Accepted, Some(SNAPSHOT.into()));
    let volume = || VOLUME.to_owned();
    asked_ahead(
        &mut run,
        [
            Change::Start { back: false },
            Change::Detach { volume: volume() },
            attach(),
            Change::Copy { volume: volume() },
        ],
    );
    run
}

fn attach() -> Change {
    Change::Attach {
        volume: VOLUME.into(),
        device: "/dev/sdf".into(),
    }
}

/// Dry runs of these were answered well, a moment ago.
fn asked_ahead<const N: usize>(run: &mut Encryption, changes: [Change; N]) {
    for change in changes {
        let dry_run = Change::DryRun(Box::new(change));
        run.trying(&dry_run, Timestamp::now());
        run.tried(&dry_run, Answer::Accepted, None);
    }
}

/// An undo that is to stop the instance, which runs on the copy.
fn about_to_stop_to_go_back() -> Encryption {
    let mut run = about_to_stop();
    run.detail.progress = Default::default();
    run.detail.undoes = Some(UNDONE.into());
    let back = Note::GoBack {
        why: "somebody asked for it to be taken back".into(),
        status: Status::RolledBack,
        trip: false,
    };
    run.note(&back, Timestamp::now());
    let detach = Change::Detach {
        volume: COPY.into(),
    };
    asked_ahead(&mut run, [Change::Start { back: true }, detach, attach()]);
    run
}

fn begun_for(unit: Unit, resource: &str, policy: &Policy) -> Encryption {
    let facts = VolumeFacts {
        unit,
        copies: Default::default(),
        key_problem: None,
    };
    let now = Timestamp::now();
    let guards = Guards::default();
    let circumstances = Circumstances {
        mode: Mode::Enforce,
        now,
        guards: &guards,
    };
    let decision = decide(&facts, &policy.unencrypted_volume(), &circumstances);
    let about = About {
        id: RUN,
        trigger: &Trigger {
            resource: resource.into(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            actor: Actor::default(),
        },
        partition: "aws",
        owner_tag: "owner",
        policy_version: 3,
        kms_key: None,
        now,
    };
    record(&facts, &decision, about).unwrap()
}

/// A patching of the instance, as `patch-instance` writes it.
#[derive(Clone, Copy)]
enum Sending {
    Nothing,
    /// The mark is stored: the command may have been sent.
    Marked,
    Sent,
}

fn patching(status: Status, sending: Sending) -> Patching {
    let run = json!({
        "version": 1, "id": PATCHING, "control": "vulnerable-package", "severity": "high",
        "resource": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{INSTANCE}"),
        "resource_name": INSTANCE, "account": "111122223333", "region": "eu-central-1",
        "status": status, "operation": "install", "reboot": "if-needed", "actor": {},
        "policy_version": 3, "attempts": 1, "started_at": Timestamp::now(),
    });
    let mut run: Patching = serde_json::from_value(run).unwrap();
    run.detail.batch = (!matches!(sending, Sending::Nothing)).then(|| "mark".into());
    run.detail.command =
        matches!(sending, Sending::Sent).then(|| Sent::new("command-1".into(), Timestamp::now()));
    run
}

fn advance() -> Value {
    json!({ "advance": RUN })
}

#[tokio::test(start_paused = true)]
async fn a_run_is_in_the_ledger_before_the_state_machine_has_it() {
    let wire = wire(World::default(), |_| None);
    let answer = run(&wire, volume_event()).await.unwrap();
    assert_eq!(answer["verdict"], "begun");
    let operations = wire.operations();
    let at = |name: &str| operations.iter().position(|of| of == name).unwrap();
    assert!(at("TransactWriteItems") < at("StartExecution"));
    assert!(
        changes(&wire).is_empty(),
        "a step is taken by nobody but the state machine"
    );
    let start = wire
        .calls()
        .into_iter()
        .find(|call| call.operation == "StartExecution")
        .unwrap();
    let input: Value = serde_json::from_str(start.json["input"].as_str().unwrap()).unwrap();
    assert_eq!(input["entry"], start.json["name"]);
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_cannot_be_started_leaves_a_lock_that_the_retry_takes_over() {
    let wire = wire(World::default(), |call| {
        (call.operation == "StartExecution")
            .then(|| Reply::json_error("ExecutionLimitExceeded", "too many"))
    });
    let error = run(&wire, volume_event()).await.unwrap_err();
    assert!(
        error.contains("StartExecution: ExecutionLimitExceeded"),
        "{error}"
    );
    let last = wire
        .calls()
        .into_iter()
        .rfind(|call| call.operation == "TransactWriteItems");
    let release = last.unwrap().json["TransactItems"][0]["Update"].clone();
    let ended = release["ExpressionAttributeValues"][":ended"]["N"].as_str();
    let ended: i64 = ended.unwrap().parse().unwrap();
    assert!(ended < 0, "no clock shows that it is live: {ended}");
    assert!(changes(&wire).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_without_a_ledger_a_policy_or_facts() {
    for (operation, reply) in [
        (
            "BatchGetItem",
            Reply::json_error("ResourceNotFoundException", "no table"),
        ),
        (
            "TransactWriteItems",
            Reply::json_error("ResourceNotFoundException", "no table"),
        ),
        (
            "GetParameter",
            Reply::json_error("AccessDeniedException", "no"),
        ),
        (
            "DescribeVolumes",
            Reply::ec2_error(403, "UnauthorizedOperation", "no"),
        ),
        (
            "DescribeVolumeAttribute",
            Reply::ec2_error(403, "UnauthorizedOperation", "no"),
        ),
        (
            "GetEbsDefaultKmsKeyId",
            Reply::ec2_error(503, "RequestLimitExceeded", "slower"),
        ),
    ] {
        let wire = wire(World::default(), move |call| {
            (call.operation == operation).then(|| reply.clone())
        });
        let error = run(&wire, volume_event()).await.unwrap_err();
        assert!(
            error.contains(operation) || operation == "GetParameter",
            "{operation}: {error}"
        );
        assert_eq!(count(&wire, "StartExecution"), 0, "{operation}");
        assert!(changes(&wire).is_empty(), "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_encrypted_is_left_alone_and_what_is_young_is_looked_at_later() {
    let encrypted = World {
        encrypted: true,
        ..World::default()
    };
    let wire_of_encrypted = wire(encrypted, |_| None);
    let answer = run(&wire_of_encrypted, volume_event()).await.unwrap();
    assert_eq!(answer["verdict"], "nothing to do");
    assert_eq!(count(&wire_of_encrypted, "TransactWriteItems"), 0);

    let young = World {
        minutes_old: 1,
        ..World::default()
    };
    let wire = wire(young, |_| None);
    let answer = run(&wire, volume_event()).await.unwrap();
    assert_eq!(answer["verdict"], "settling");
    assert_eq!(
        count(&wire, "TransactWriteItems"),
        0,
        "nothing is recorded yet"
    );
    let start = wire
        .calls()
        .into_iter()
        .find(|call| call.operation == "StartExecution")
        .unwrap();
    let input: Value = serde_json::from_str(start.json["input"].as_str().unwrap()).unwrap();
    let seconds = input["settle"]["seconds"].as_i64().unwrap();
    assert!((500..=546).contains(&seconds), "{seconds}");
    // What the state machine hands back is an event that this function reads.
    let again = trigger::volumes(&input["settle"]["event"]).unwrap();
    assert!(matches!(again, VolumesParsed::Check(trigger) if trigger.resource == VOLUME));
}

#[tokio::test(start_paused = true)]
async fn a_step_is_written_down_before_it_is_taken_and_after() {
    let world = World {
        record: Some(begun()),
        ..World::default()
    };
    let wire = wire(world, |_| None);
    let answer = run(&wire, advance()).await.unwrap();
    assert_eq!(answer["next"], "again");
    assert_eq!(changes(&wire), ["CreateSnapshot"]);
    let operations = wire.operations();
    let change = operations
        .iter()
        .position(|of| of == "CreateSnapshot")
        .unwrap();
    let writes = |of: &[String]| of.iter().filter(|of| *of == "TransactWriteItems").count();
    assert_eq!(
        (writes(&operations[..change]), writes(&operations[change..])),
        (1, 1)
    );
    // Each on condition that nobody wrote in between.
    let writes = wire
        .calls()
        .into_iter()
        .filter(|call| call.operation == "TransactWriteItems");
    for (n, write) in writes.enumerate() {
        let put = &write.json["TransactItems"][0]["Put"];
        assert_eq!(put["ConditionExpression"], "revision = :expected");
        assert_eq!(
            put["ExpressionAttributeValues"][":expected"]["N"],
            n.to_string()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_invocations_at_once_only_one_makes_the_call() {
    let world = World {
        record: Some(begun()),
        ..World::default()
    };
    let wire = wire(world, |call| {
        (call.operation == "TransactWriteItems").then(|| {
            Reply::Answer(
                400,
                json!({
                    "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                    "CancellationReasons": [{ "Code": "ConditionalCheckFailed" }, { "Code": "None" }],
                })
                .to_string(),
            )
        })
    });
    let error = run(&wire, advance()).await.unwrap_err();
    assert!(error.contains("another invocation took a step"), "{error}");
    assert!(changes(&wire).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_refused_is_recorded_and_not_taken_for_done() {
    let world = World {
        record: Some(begun()),
        ..World::default()
    };
    let wire = wire(world, |call| {
        (call.operation == "CreateSnapshot")
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
    });
    assert_eq!(run(&wire, advance()).await.unwrap()["next"], "again");
    let last = wire
        .calls()
        .into_iter()
        .rfind(|call| call.operation == "TransactWriteItems");
    let put = last.unwrap().json["TransactItems"][0]["Put"]["Item"].clone();
    let document: Value = serde_json::from_str(put["document"]["S"].as_str().unwrap()).unwrap();
    let tries = &document["progress"]["tries"][format!("snapshot safety {VOLUME}")];
    assert_eq!(tries["answer"]["code"], "UnauthorizedOperation");
    assert_eq!(tries["answer"]["unknown"], false);
    assert_eq!(document["status"], "in-progress");
}

#[tokio::test(start_paused = true)]
async fn no_instance_is_stopped_while_patches_are_installed_on_it() {
    use Sending::{Marked, Nothing, Sent};
    let now = Timestamp::now();
    let (held, lapsed) = (
        Some(now + Duration::from_secs(300)),
        Some(now - Duration::from_secs(300)),
    );
    let open = Status::InProgress;
    let cases = [
        ("a command under way", open, Sent, held, true),
        ("not asked about for an hour", open, Sent, lapsed, true),
        ("snapshots first", open, Nothing, held, true),
        ("about to be sent", open, Marked, held, true),
        ("its answer was lost", open, Marked, lapsed, true),
        ("cut off before its command", open, Nothing, lapsed, false),
        ("ended", Status::Remediated, Sent, held, false),
        (
            "waits for Inspector",
            Status::AwaitingRescan,
            Sent,
            held,
            false,
        ),
        ("has let its lock go", open, Sent, None, false),
    ];
    let runs = [
        ("stop", Place::Attached, about_to_stop()),
        (
            "stop to go back",
            Place::Replaced,
            about_to_stop_to_go_back(),
        ),
    ];
    for (key, place, record) in &runs {
        for (what, status, sending, until, waits) in cases {
            let what = format!("{key}: {what}");
            let world = World {
                place: *place,
                policy: SWAP,
                record: Some(record.clone()),
                patching: Some((patching(status, sending), until)),
                ..World::default()
            };
            let wire = wire(world, |_| None);
            let answer = run(&wire, advance()).await.unwrap();
            let writes: Vec<Value> = wire
                .calls()
                .into_iter()
                .filter(|call| call.operation == "TransactWriteItems")
                .map(|call| call.json["TransactItems"].clone())
                .collect();
            if waits {
                assert_eq!(
                    answer,
                    json!({ "next": "wait", "wait_seconds": 120 }),
                    "{what}"
                );
                assert!(changes(&wire).is_empty(), "{what}");
                assert_eq!(count(&wire, "PutEvents"), 0, "{what}");
                // The lock is kept, and nothing else is written: no try either.
                let [write] = writes.as_slice() else {
                    panic!("{what}: {writes:?}");
                };
                assert_eq!(write.as_array().unwrap().len(), 1, "{what}");
                let lock = format!("lock#unencrypted-volume#{INSTANCE}");
                assert_eq!(write[0]["Update"]["Key"]["pk"]["S"], lock, "{what}");
                continue;
            }
            assert_eq!(answer["next"], "again", "{what}");
            assert_eq!(changes(&wire), ["StopInstances"], "{what}");
            assert_eq!(writes.len(), 2, "{what}");
            let put = &writes[1][0]["Put"]["Item"]["document"]["S"];
            let document: Value = serde_json::from_str(put.as_str().unwrap()).unwrap();
            let tries = &document["progress"]["tries"][*key];
            assert_eq!(tries["answer"]["result"], "accepted", "{what}");
            assert_eq!(tries["count"], 1, "{what}");
        }
    }
}

/// Before the stop EC2 is asked, one dry run a step; the first that it refuses
/// does not keep the others from being asked.
#[tokio::test(start_paused = true)]
async fn what_ec2_would_refuse_ends_the_run_with_the_instance_running() {
    let mut record = about_to_stop();
    let tries = &mut record.detail.progress.tries;
    tries.retain(|key, _| !key.starts_with("dry run "));
    let mut asked = Vec::new();
    let mut ended = None;
    for _ in 0..8 {
        let world = World {
            place: Place::Attached,
            policy: SWAP,
            record: Some(record.clone()),
            ..World::default()
        };
        let wire = wire(world, |call| {
            let dry_run = call.parameter("DryRun") == Some("true");
            let code = match call.operation.as_str() {
                "DetachVolume" => "UnauthorizedOperation",
                _ => "DryRunOperation",
            };
            dry_run.then(|| Reply::ec2_error(412, code, "m"))
        });
        let answer = run(&wire, advance()).await.unwrap();
        asked.extend(changes(&wire));
        let writes = wire.calls().into_iter().rev();
        let document = writes
            .filter(|call| call.operation == "TransactWriteItems")
            .find_map(|call| {
                let put = &call.json["TransactItems"][0]["Put"]["Item"]["document"]["S"];
                put.as_str().map(str::to_owned)
            });
        record = serde_json::from_str(&document.unwrap()).unwrap();
        if answer["next"] == "done" {
            ended = Some(answer);
            break;
        }
    }
    assert_eq!(
        asked,
        [
            "StartInstances",
            "DetachVolume",
            "AttachVolume",
            "CopyVolumes"
        ]
    );
    assert_eq!(ended.unwrap()["status"], "refused");
    let why = record.detail.reasons.join("; ");
    assert!(why.contains("DetachVolume: UnauthorizedOperation"), "{why}");
}

const DENIED: &str = "arn:aws:kms:eu-central-1:111122223333:key/k is not accessible";

/// EBS's event that it could not make a volume.
fn not_made_event() -> Value {
    event(
        "EBS Volume Notification",
        &format!("arn:aws:ec2:eu-central-1:111122223333:volume/{COPY}"),
        json!({ "event": "createVolume", "result": "failed", "cause": DENIED }),
    )
}

#[tokio::test(start_paused = true)]
async fn why_a_volume_could_not_be_made_is_kept_for_whoever_waits_for_it() {
    let wire = wire(World::default(), |_| None);
    let answer = run(&wire, not_made_event()).await.unwrap();
    assert_eq!(answer["verdict"], "noted");
    assert_eq!(wire.operations(), ["TransactWriteItems"]);
    let item = &wire.calls()[0].json["TransactItems"][0]["Put"]["Item"];
    assert_eq!(item["pk"]["S"], format!("not-made#{COPY}"));
    assert_eq!(item["cause"]["S"], DENIED);
    assert!(item["expires_at"]["N"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_copy_could_not_be_made_goes_back_with_the_key_and_makes_no_other() {
    let mut record = begun();
    let snapshot = Change::Snapshot {
        volume: VOLUME.into(),
        purpose: Purpose::Safety,
    };
    let copy = Change::Copy {
        volume: VOLUME.into(),
    };
    for (change, made) in [(snapshot, SNAPSHOT), (copy, COPY)] {
        record.trying(&change, Timestamp::now());
        record.tried(&change, Answer::Accepted, Some(made.into()));
    }
    for known in [false, true] {
        let world = World {
            record: Some(record.clone()),
            ..World::default()
        };
        let not_made = format!("not-made#{COPY}");
        let wire = wire(world, move |call| match call.operation.as_str() {
            "DescribeSnapshots" => Some(xml(
                "DescribeSnapshots",
                &format!(
                    "<snapshotSet><item><snapshotId>{SNAPSHOT}</snapshotId><volumeId>{VOLUME}</volumeId><status>completed</status><startTime>{SINCE}</startTime>{}</item></snapshotSet>",
                    tags_xml(&[("backstop:entry", RUN), ("backstop:purpose", "safety")])
                ),
            )),
            "BatchGetItem" if known && asks_for(call, &not_made) => Some(Reply::ok(
                json!({ "Responses": { "ledger": [{
                    "pk": { "S": not_made }, "sk": { "S": "state" }, "cause": { "S": DENIED },
                }] } })
                .to_string(),
            )),
            _ => None,
        });
        let answer = run(&wire, advance()).await.unwrap();
        assert!(changes(&wire).is_empty());
        if !known {
            assert_eq!(answer["next"], "wait", "{answer}");
            continue;
        }
        assert_eq!(answer["status"], "rolled-back", "{answer}");
        let stored = wire.calls().into_iter().map(|call| call.json.to_string());
        let told = stored.filter(|call| call.contains(DENIED) && call.contains("kms:CreateGrant"));
        assert!(told.count() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn no_instance_is_stopped_while_it_cannot_be_read_whether_it_is_patched() {
    for operation in ["BatchGetItem", "GetItem"] {
        let until = Timestamp::now() + Duration::from_secs(300);
        let world = World {
            place: Place::Attached,
            policy: SWAP,
            record: Some(about_to_stop()),
            patching: Some((patching(Status::InProgress, Sending::Sent), Some(until))),
            ..World::default()
        };
        let wire = wire(world, move |call| {
            let own = call.json["Key"]["pk"]["S"] == format!("entry#{RUN}");
            (call.operation == operation && !own)
                .then(|| Reply::json_error("ResourceNotFoundException", "no table"))
        });
        let error = run(&wire, advance()).await.unwrap_err();
        assert!(error.contains(operation), "{error}");
        assert!(changes(&wire).is_empty(), "{operation}");
        assert_eq!(count(&wire, "TransactWriteItems"), 0, "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_state_machine_gave_up_goes_back_and_without_an_entry_nothing_happens() {
    let world = World {
        record: Some(begun()),
        ..World::default()
    };
    let wire_of_run = wire(world, |_| None);
    let mut payload = advance();
    payload["go_back"] =
        r#"{"errorMessage":"DescribeVolumes: Timeout: no answer","errorType":"Retryable"}"#.into();
    let answer = run(&wire_of_run, payload).await.unwrap();
    assert_eq!(
        (&answer["next"], &answer["status"]),
        (&json!("done"), &json!("rolled-back"))
    );
    assert!(changes(&wire_of_run).is_empty());

    let wire = wire(World::default(), |_| None);
    let error = run(&wire, advance()).await.unwrap_err();
    assert!(error.contains("has no encryption"), "{error}");
}

/// A unit is encrypted as a whole or not at all.
#[tokio::test(start_paused = true)]
async fn a_unit_that_exceeds_the_budget_trips_alone_or_the_control_or_waits_for_the_next_hour() {
    let of_unit = format!("trip#unencrypted-volume#{VOLUME}");
    for (by_itself, by_tripped, trip) in [
        (1, 0, Some(of_unit.as_str())),
        (0, 0, Some("trip#unencrypted-volume")),
        // Another unit, which has tripped alone, has used it up.
        (0, 1, None),
    ] {
        let hour: String = Timestamp::now().to_string().chars().take(13).collect();
        let budget = format!("budget#unencrypted-volume#{hour}");
        let table = Arc::new(Mutex::new(Table::default()));
        for (pk, changes, tripped) in [
            (budget.clone(), 1, by_tripped),
            (format!("{budget}#{VOLUME}"), by_itself, 0),
        ] {
            let item = json!({
                "pk": { "S": pk }, "sk": { "S": "budget" },
                "changes": { "N": changes.to_string() }, "tripped": { "N": tripped.to_string() },
            });
            table.lock().unwrap().items.insert(pk, item);
        }
        let world = World {
            policy: r#"{"version":1,"controls":{"unencrypted-volume":{"mode":"enforce","budget":{"changes_per_hour":1}}}}"#,
            ..World::default()
        };
        let ledger = table.clone();
        let wire = wire(world, move |call| ledger.lock().unwrap().answer(call));
        for look in ["first", "second"] {
            run(&wire, volume_event()).await.unwrap();
            assert_eq!(changes(&wire), Vec::<String>::new());
            let table = table.lock().unwrap();
            let trips = table.items.keys().filter(|pk| pk.starts_with("trip#"));
            assert_eq!(trips.collect::<Vec<_>>(), Vec::from_iter(trip));
            assert_eq!(count(&wire, "PutEvents"), 1, "told once: {trip:?}, {look}");
            let document = |item: &Value| item["document"]["S"].as_str().unwrap().to_owned();
            let mut entries = table
                .items
                .iter()
                .filter(|(pk, _)| pk.starts_with("entry#"));
            let pending = entries.any(|(_, item)| document(item).contains(r#""status":"pending""#));
            assert_eq!(pending, trip.is_none());
        }
    }
}

// --- batches

fn instance_id(number: usize) -> String {
    format!("i-{number:017x}")
}

fn changed(number: usize, state: &str) -> Value {
    event(
        "EC2 Instance State-change Notification",
        "arn",
        json!({ "instance-id": instance_id(number), "state": state }),
    )
}

fn messages(events: impl IntoIterator<Item = Value>) -> Value {
    let records = events.into_iter().enumerate();
    let records = records
        .map(|(n, event)| json!({ "messageId": format!("m{n}"), "body": event.to_string() }));
    json!({ "Records": records.collect::<Vec<_>>() })
}

/// Instances that each have one volume, of which those named are not encrypted.
fn fleet(unencrypted: &'static [usize]) -> Wire {
    wire(World::default(), move |call| {
        let asked = |filter: &str| {
            let named = call.parameter("Filter.1.Name") == Some(filter);
            let ids = call.parameters.iter();
            let ids = ids.filter(|(key, _)| key.starts_with("Filter.1.Value."));
            let ids: Vec<String> = ids.map(|(_, id)| id.clone()).collect();
            named.then_some(ids)
        };
        match call.operation.as_str() {
            "DescribeInstances" => {
                let items: String = asked("instance-id")?
                    .iter()
                    .map(|id| format!("<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name></instanceState><instanceType>m7i.large</instanceType><launchTime>{SINCE}</launchTime><rootDeviceType>ebs</rootDeviceType></item>"))
                    .collect();
                Some(xml(
                    "DescribeInstances",
                    &format!(
                        "<reservationSet><item><instancesSet>{items}</instancesSet></item></reservationSet>"
                    ),
                ))
            }
            "DescribeVolumes" => {
                let items: String = asked("attachment.instance-id")?
                    .iter()
                    .map(|id| {
                        let volume = id.replace("i-", "vol-");
                        let open = unencrypted.iter().any(|n| instance_id(*n) == *id);
                        format!("<item><volumeId>{volume}</volumeId><size>8</size><status>in-use</status><createTime>{SINCE}</createTime><volumeType>gp3</volumeType><encrypted>{}</encrypted><attachmentSet><item><volumeId>{volume}</volumeId><instanceId>{id}</instanceId><device>/dev/sdf</device><status>attached</status><attachTime>{SINCE}</attachTime></item></attachmentSet></item>", !open)
                    })
                    .collect();
                Some(xml(
                    "DescribeVolumes",
                    &format!("<volumeSet>{items}</volumeSet>"),
                ))
            }
            _ => None,
        }
    })
}

fn calls_of(wire: &Wire, operation: &str) -> usize {
    let operations = wire.operations();
    operations.iter().filter(|of| *of == operation).count()
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_instances_is_one_read_of_instances_and_one_of_volumes() {
    // A hundred that start at once, each heard of twice.
    let wire = fleet(&[]);
    let events = (0..100).flat_map(|n| [changed(n, "running"), changed(n, "stopped")]);
    let answer = run(&wire, messages(events)).await.unwrap();
    assert_eq!(answer, json!({ "batchItemFailures": [] }));
    assert_eq!(calls_of(&wire, "DescribeInstances"), 1);
    assert_eq!(calls_of(&wire, "DescribeVolumes"), 1);
    assert_eq!(calls_of(&wire, "GetItem"), 0);
    let rest: BTreeSet<String> = wire.operations().into_iter().collect();
    assert_eq!(
        rest,
        ["BatchGetItem", "DescribeInstances", "DescribeVolumes"]
            .map(str::to_owned)
            .into()
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_instances_with_unencrypted_volumes_are_looked_at() {
    let wire = fleet(&[3]);
    let answer = run(&wire, messages((0..10).map(|n| changed(n, "running")))).await;
    assert_eq!(answer.unwrap(), json!({ "batchItemFailures": [] }));
    // The instance is not read again; its volume's copies are asked for.
    assert_eq!(calls_of(&wire, "DescribeInstances"), 1);
    let by_instance = wire.calls();
    let by_instance = by_instance
        .iter()
        .filter(|call| call.parameter("Filter.1.Name") == Some("attachment.instance-id"));
    assert_eq!(by_instance.count(), 1);
    let told = wire.calls().iter().any(|call| {
        call.operation == "TransactWriteItems" && call.json.to_string().contains(&instance_id(3))
    });
    assert!(told, "what is attached is told");
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_what_failed_is_delivered_again() {
    let wire = fleet(&[3]);
    let broken = json!({ "source": "aws.ec2" });
    let batch = messages([changed(0, "running"), broken, changed(4, "stopped")]);
    let answer = run(&wire, batch).await.unwrap();
    assert_eq!(
        answer,
        json!({ "batchItemFailures": [{ "itemIdentifier": "m1" }] })
    );
    // Where nothing could be done, all of it is, and that is an error.
    let failing = fleet(&[]);
    let down = Wire::new(move |call: &Call| match call.operation.as_str() {
        "DescribeVolumes" => Reply::ec2_error(400, "UnauthorizedOperation", "no"),
        _ => failing.answer(call),
    });
    run(&down, messages([changed(0, "running")]))
        .await
        .unwrap_err();
}
