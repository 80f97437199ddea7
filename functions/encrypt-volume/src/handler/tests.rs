//! The function against the real SDK clients with canned answers: what is
//! called in which order, and what happens when one call fails. What becomes of
//! a run is tested in the core (simulation) and end to end.

use std::sync::{Arc, Mutex};

use backstop_core::controls::unencrypted_volume::{About, Circumstances, decide, record};
use backstop_core::policy::Policy;
use backstop_core::trigger::Actor;
use backstop_wire::{Call, Reply, Wire};

use super::*;

const VOLUME: &str = "vol-0123456789abcdef0";

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

/// A small EC2: one volume that is attached nowhere, and the account's setting.
#[derive(Clone)]
struct World {
    encrypted: bool,
    minutes_old: i64,
    by_default: bool,
    policy: &'static str,
    /// The record that the ledger holds.
    record: Option<Encryption>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            encrypted: false,
            minutes_old: 60,
            by_default: false,
            policy: r#"{"version":1,"controls":{"unencrypted-volume":{"mode":"enforce"},"encryption-by-default":{"mode":"enforce"}}}"#,
            record: None,
        }
    }
}

fn answer(world: &Mutex<World>, call: &Call) -> Reply {
    let mut world = world.lock().unwrap();
    match call.operation.as_str() {
        "DescribeVolumes" if call.parameter("Filter.1.Name") == Some("volume-id") => {
            let created = Timestamp::now() - Duration::from_secs(60 * world.minutes_old as u64);
            let encrypted = world.encrypted;
            xml(
                "DescribeVolumes",
                &format!(
                    "<volumeSet><item><volumeId>{VOLUME}</volumeId><size>8</size><availabilityZone>eu-central-1a</availabilityZone><status>available</status><createTime>{created}</createTime><volumeType>gp3</volumeType><iops>3000</iops><throughput>125</throughput><encrypted>{encrypted}</encrypted></item></volumeSet>"
                ),
            )
        }
        "DescribeVolumes" => xml("DescribeVolumes", "<volumeSet/>"),
        "DescribeSnapshots" => xml("DescribeSnapshots", "<snapshotSet/>"),
        "DescribeVolumeAttribute" => xml("DescribeVolumeAttribute", "<productCodes/>"),
        "GetEbsDefaultKmsKeyId" => xml(
            "GetEbsDefaultKmsKeyId",
            "<kmsKeyId>alias/aws/ebs</kmsKeyId>",
        ),
        "GetEbsEncryptionByDefault" => xml(
            "GetEbsEncryptionByDefault",
            &format!(
                "<ebsEncryptionByDefault>{}</ebsEncryptionByDefault>",
                world.by_default
            ),
        ),
        "EnableEbsEncryptionByDefault" => {
            world.by_default = true;
            xml(
                "EnableEbsEncryptionByDefault",
                "<ebsEncryptionByDefault>true</ebsEncryptionByDefault>",
            )
        }
        "CreateSnapshot" => xml(
            "CreateSnapshot",
            "<snapshotId>snap-0123456789abcdef0</snapshotId><status>pending</status>",
        ),
        "GetParameter" => {
            Reply::ok(json!({ "Parameter": { "Value": world.policy, "Version": 3 } }).to_string())
        }
        "GetItem" => match &world.record {
            None => Reply::ok("{}"),
            Some(record) => {
                let mut document = serde_json::to_value(record).unwrap();
                document["kind"] = "encryption".into();
                Reply::ok(
                    json!({ "Item": {
                        "pk": { "S": format!("entry#{}", record.id) },
                        "document": { "S": document.to_string() },
                        "revision": { "N": record.revision.to_string() },
                        "told": { "BOOL": false },
                    }})
                    .to_string(),
                )
            }
        },
        "BatchGetItem" | "PutItem" | "UpdateItem" | "TransactWriteItems" => Reply::ok("{}"),
        "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
        "StartExecution" => Reply::ok(r#"{"executionArn":"arn:x","startDate":1.0}"#),
        other => panic!("{other}"),
    }
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
    .map_err(|failure| Diagnostic::from(failure).error_message)
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

/// A run's record, as the function would have written it.
fn begun() -> Encryption {
    let facts = VolumeFacts {
        unit: Unit::Volume(Box::new(Volume {
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
        })),
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
    let decision = decide(&facts, &Policy::default(), &circumstances);
    let about = About {
        id: "01K00000000000000000000000",
        trigger: &Trigger {
            resource: VOLUME.into(),
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

fn advance() -> Value {
    json!({ "advance": "01K00000000000000000000000" })
}

#[tokio::test]
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

#[tokio::test]
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
    assert_eq!(release["ExpressionAttributeValues"][":none"]["N"], "0");
    assert!(changes(&wire).is_empty());
}

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
async fn encryption_by_default_is_turned_on_again_seen_to_be_on_and_told() {
    let off = event(
        "AWS API Call via CloudTrail",
        "",
        json!({ "eventSource": "ec2.amazonaws.com", "eventName": "DisableEbsEncryptionByDefault", "requestParameters": {}, "responseElements": {} }),
    );
    let wire_that_works = wire(World::default(), |_| None);
    let answer = run(&wire_that_works, off.clone()).await.unwrap();
    assert_eq!(answer["verdict"], "remediated");
    assert_eq!(changes(&wire_that_works), ["EnableEbsEncryptionByDefault"]);
    assert_eq!(
        count(&wire_that_works, "GetEbsEncryptionByDefault"),
        2,
        "before and after"
    );
    assert_eq!(count(&wire_that_works, "PutEvents"), 1);

    let denied = wire(World::default(), |call| {
        (call.operation == "EnableEbsEncryptionByDefault")
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
    });
    let error = run(&denied, off.clone()).await.unwrap_err();
    assert!(error.contains("UnauthorizedOperation"), "{error}");
    assert_eq!(count(&denied, "PutEvents"), 1, "a failure is told");

    let on = World {
        by_default: true,
        ..World::default()
    };
    let wire = wire(on, |_| None);
    assert_eq!(run(&wire, off).await.unwrap()["verdict"], "nothing to do");
    assert!(changes(&wire).is_empty());
}
