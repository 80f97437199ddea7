//! The pipeline against the real SDK clients with canned answers: what is
//! called in which order, how many round trips lie before the closed hole, and
//! what happens when one call fails. The ledger's conditions are tested end to
//! end, on a table that enforces them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_wire::{Call, Reply, Wire};
use lambda_runtime::Context;

use super::*;

const GROUP: &str = "sg-0123456789abcdef0";

/// A small EC2: a group whose rules can be revoked.
#[derive(Default)]
struct World {
    rules: BTreeSet<&'static str>,
    prefix_list: bool,
}

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn rule_xml(id: &str, source: &str) -> String {
    format!(
        "<item><securityGroupRuleId>{id}</securityGroupRuleId><groupId>{GROUP}</groupId><isEgress>false</isEgress><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort>{source}</item>"
    )
}

fn answer(world: &Mutex<World>, mode: &str, call: &Call) -> Reply {
    let mut world = world.lock().unwrap();
    match call.operation.as_str() {
        "DescribeSecurityGroups" => xml("DescribeSecurityGroups", &format!(
            "<securityGroupInfo><item><ownerId>111122223333</ownerId><groupId>{GROUP}</groupId><groupName>web</groupName><vpcId>vpc-1</vpcId></item></securityGroupInfo>"
        )),
        "DescribeSecurityGroupRules" => {
            let mut rules: String = world.rules.iter().map(|id| rule_xml(id, "<cidrIpv4>0.0.0.0/0</cidrIpv4>")).collect();
            if world.prefix_list {
                rules += &rule_xml("sgr-list", "<prefixListId>pl-1</prefixListId>");
            }
            xml("DescribeSecurityGroupRules", &format!("<securityGroupRuleSet>{rules}</securityGroupRuleSet>"))
        }
        "GetManagedPrefixListEntries" => xml("GetManagedPrefixListEntries", "<entrySet><item><cidr>10.0.0.0/8</cidr></item></entrySet>"),
        "DescribeTags" => xml("DescribeTags", "<tagSet/>"),
        "RevokeSecurityGroupIngress" => {
            let id = call.parameter("SecurityGroupRuleId.1").unwrap();
            world.rules.retain(|rule| *rule != id);
            xml("RevokeSecurityGroupIngress", "<return>true</return>")
        }
        "GetParameter" => Reply::ok(json!({ "Parameter": { "Value": format!(r#"{{"version":1,"controls":{{"open-ingress":{{"mode":"{mode}"}}}}}}"#), "Version": 3 } }).to_string()),
        "GetItem" | "BatchGetItem" | "PutItem" | "UpdateItem" | "TransactWriteItems" => Reply::ok("{}"),
        "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
        other => panic!("{other}"),
    }
}

fn open(rules: &[&'static str]) -> Arc<Mutex<World>> {
    Arc::new(Mutex::new(World {
        rules: rules.iter().copied().collect(),
        prefix_list: false,
    }))
}

/// A wire over the world on which `fails` may answer first.
fn wire(
    world: &Arc<Mutex<World>>,
    mode: &'static str,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let world = world.clone();
    Wire::new(move |call| fails(call).unwrap_or_else(|| answer(&world, mode, call)))
}

fn engine(wire: &Wire) -> Engine {
    Engine::new(
        Clients::new(&wire.config(1)),
        RemediationSettings {
            ledger_table: "ledger".into(),
            policy_parameter: "/p".into(),
            mode: Mode::Notify,
            owner_tag_key: "owner".into(),
        },
        &[&OpenIngress],
    )
}

fn event() -> LambdaEvent<Value> {
    let mut context = Context::default();
    context.request_id = "request-1".into();
    context.deadline = (Timestamp::now() + Duration::from_secs(60)).as_millisecond() as u64;
    LambdaEvent::new(
        json!({
            "version": "0", "id": "e", "detail-type": "AWS API Call via CloudTrail", "source": "aws.ec2",
            "account": "111122223333", "time": "2026-11-24T10:00:00Z", "region": "eu-central-1", "resources": [],
            "detail": { "eventName": "AuthorizeSecurityGroupIngress", "eventID": "c", "requestParameters": { "groupId": GROUP } },
        }),
        context,
    )
}

async fn run(wire: &Wire) -> Result<String, String> {
    match engine(wire).handle(event()).await {
        Ok(answer) => Ok(answer["verdict"].as_str().unwrap().to_owned()),
        Err(failure) => Err(failure.error_message),
    }
}

const CHANGES: &[&str] = &[
    "RevokeSecurityGroupIngress",
    "ModifySecurityGroupRules",
    "AuthorizeSecurityGroupIngress",
];

fn changes(wire: &Wire) -> usize {
    wire.operations()
        .iter()
        .filter(|operation| CHANGES.contains(&operation.as_str()))
        .count()
}

/// Sequential round trips up to and including the last change.
async fn trips_before_closed(world: &Arc<Mutex<World>>) -> usize {
    let wire = wire(world, "enforce", |_| None);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    wire.sequential_round_trips_until("RevokeSecurityGroupIngress")
}

#[tokio::test(start_paused = true)]
async fn the_hole_is_closed_after_one_round_of_reads_one_transaction_and_the_changes() {
    assert_eq!(trips_before_closed(&open(&["sgr-1"])).await, 3);
    assert_eq!(
        trips_before_closed(&open(&["sgr-1", "sgr-2", "sgr-3"])).await,
        5,
        "a change a rule"
    );
    let with_list = open(&["sgr-1"]);
    with_list.lock().unwrap().prefix_list = true;
    assert_eq!(
        trips_before_closed(&with_list).await,
        4,
        "a second round of reads for prefix lists"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_down_the_pipeline_in_order() {
    let wire = wire(&open(&["sgr-1"]), "enforce", |_| None);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    let operations = wire.operations();
    let (reads, rest) = operations.split_at(5);
    assert_eq!(
        BTreeSet::from_iter(reads.iter().map(String::as_str)),
        BTreeSet::from([
            "DescribeSecurityGroups",
            "DescribeSecurityGroupRules",
            "DescribeTags",
            "GetParameter",
            "BatchGetItem"
        ])
    );
    assert_eq!(
        rest[0], "TransactWriteItems",
        "begin: `before` is stored ahead of the first change"
    );
    assert_eq!(rest[1], "RevokeSecurityGroupIngress", "apply");
    assert_eq!(
        rest[5..],
        ["PutItem", "PutEvents", "TransactWriteItems"],
        "finish, tell, close"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_nothing_is_changed() {
    let wire = wire(&open(&["sgr-1"]), "enforce", |call| {
        (call.operation == "TransactWriteItems")
            .then(|| Reply::json_error("ProvisionedThroughputExceededException", "slow down"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(
        error.contains("TransactWriteItems: ProvisionedThroughputExceededException: slow down"),
        "{error}"
    );
    assert_eq!(changes(&wire), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_changes_nothing_and_is_tried_again() {
    for operation in [
        "DescribeSecurityGroups",
        "DescribeSecurityGroupRules",
        "DescribeTags",
    ] {
        let wire = wire(&open(&["sgr-1"]), "enforce", move |call| {
            (call.operation == operation)
                .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
        });
        assert_eq!(
            run(&wire).await.unwrap_err(),
            format!("{operation}: UnauthorizedOperation: no")
        );
        assert_eq!(changes(&wire), 0);
    }
}

fn with_list(rules: &[&'static str]) -> Arc<Mutex<World>> {
    let world = open(rules);
    world.lock().unwrap().prefix_list = true;
    world
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_now_is_retried_once_everything_else_is_closed() {
    let throttled = |call: &Call| {
        (call.operation == "GetManagedPrefixListEntries")
            .then(|| Reply::ec2_error(503, "RequestLimitExceeded", "slow down"))
    };
    let world = with_list(&["sgr-1"]);
    let failing = wire(&world, "enforce", throttled);
    let error = run(&failing).await.unwrap_err();
    assert!(
        error.contains("pl-1 could not be read") && error.contains("RequestLimitExceeded"),
        "{error}"
    );
    assert!(world.lock().unwrap().rules.is_empty(), "the hole is closed");
    let operations = failing.operations();
    let told = operations.iter().position(|o| o == "PutEvents").unwrap();
    assert_eq!(operations[told - 1], "PutItem", "it is recorded and told");

    // The retry reads the list, and finds nothing to do.
    assert_eq!(
        run(&wire(&world, "enforce", |_| None)).await.unwrap(),
        "nothing to do"
    );

    // What is only told is told as well, and nothing where nothing else is found.
    for (rules, told) in [(&["sgr-1"][..], true), (&[], false)] {
        let failing = wire(&with_list(rules), "notify", throttled);
        let error = run(&failing).await.unwrap_err();
        assert!(error.contains("pl-1 could not be read"), "{error}");
        let operations = failing.operations();
        assert_eq!(
            operations.contains(&"PutEvents".to_owned()),
            told,
            "{operations:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_not_read_again_after_the_changes_is_retried_too() {
    let reads = std::sync::atomic::AtomicU32::new(0);
    let world = with_list(&["sgr-1"]);
    let wire = wire(&world, "enforce", move |call| {
        (call.operation == "GetManagedPrefixListEntries"
            && reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0)
            .then(|| Reply::ec2_error(503, "RequestLimitExceeded", "slow down"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(error.contains("pl-1 could not be read"), "{error}");
    assert!(world.lock().unwrap().rules.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_no_longer_shared_is_told_as_not_judged_with_its_owner() {
    let unshared = |call: &Call| match call.operation.as_str() {
        "GetManagedPrefixListEntries" => {
            Some(Reply::ec2_error(400, "InvalidPrefixListID.NotFound", "no"))
        }
        "DescribeManagedPrefixLists" => Some(xml(
            "DescribeManagedPrefixLists",
            "<prefixListSet><item><prefixListId>pl-1</prefixListId><ownerId>444455556666</ownerId></item></prefixListSet>",
        )),
        _ => None,
    };
    for mode in ["notify", "enforce"] {
        let wire = wire(&with_list(&[]), mode, unshared);
        assert_eq!(run(&wire).await.unwrap(), "notified", "{mode}");
        assert_eq!(changes(&wire), 0);
        let put = wire.calls();
        let put = put
            .iter()
            .filter_map(|call| call.json["TransactItems"].as_array())
            .flatten()
            .find_map(|item| item["Put"]["Item"]["document"]["S"].as_str());
        let document: Value = serde_json::from_str(put.unwrap()).unwrap();
        assert_eq!(document["plan"]["because"], "not-judged");
        let unjudged = &document["exposures"][0]["unjudged"];
        assert_eq!(unjudged["owner"], "444455556666");
    }
    // Beside a hole it keeps nothing open, and the run has succeeded.
    let world = with_list(&["sgr-1"]);
    let wire = wire(&world, "enforce", unshared);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    assert!(world.lock().unwrap().rules.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_policy_changes_nothing_and_names_the_field() {
    let wire = wire(&open(&["sgr-1"]), "enfroce", |_| None);
    let error = run(&wire).await.unwrap_err();
    assert!(
        error.contains("`controls.open-ingress.mode`") && error.contains("`enforce`"),
        "{error}"
    );
    assert_eq!(changes(&wire), 0);
}

#[tokio::test(start_paused = true)]
async fn a_partial_failure_is_a_failure_that_names_the_rule_and_is_told() {
    let wire = wire(&open(&["sgr-1", "sgr-2"]), "enforce", |call| {
        (call.parameter("SecurityGroupRuleId.1") == Some("sgr-1"))
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(error.contains("sgr-1: FAILED: RevokeSecurityGroupIngress: UnauthorizedOperation: You are not authorized"), "{error}");
    assert!(!error.contains("sgr-2: FAILED"), "{error}");
    assert_eq!(changes(&wire), 2, "the other rule is closed all the same");
    let operations = wire.operations();
    assert_eq!(
        operations[operations.len() - 3..],
        ["PutItem", "PutEvents", "TransactWriteItems"],
        "recorded, told, released for the retry"
    );
    let document: Value = serde_json::from_str(
        wire.calls()
            .iter()
            .rfind(|call| call.operation == "PutItem")
            .unwrap()
            .json["Item"]["document"]["S"]
            .as_str()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(document["status"], "failed");
}

/// Its failure may be for good, and the other run has ended.
#[tokio::test(start_paused = true)]
async fn a_run_that_fails_looks_again_for_the_run_that_left_it_its_look() {
    let world = open(&["sgr-1"]);
    let (others, asked) = (world.clone(), std::sync::atomic::AtomicBool::new(false));
    let wire = wire(&world, "enforce", move |call| {
        let condition = &call.json["TransactItems"][0]["Update"]["ConditionExpression"];
        let quiet = condition
            .as_str()
            .is_some_and(|condition| condition.contains("attribute_not_exists(look_again)"));
        if quiet && !asked.swap(true, std::sync::atomic::Ordering::SeqCst) {
            others.lock().unwrap().rules.insert("sgr-2");
            return Some(Reply::Answer(400, json!({
                "__type": "TransactionCanceledException",
                "CancellationReasons": [{ "Code": "ConditionalCheckFailed" }, { "Code": "None" }],
            }).to_string()));
        }
        (call.parameter("SecurityGroupRuleId.1") == Some("sgr-1"))
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(error.contains("sgr-1: FAILED"), "{error}");
    assert_eq!(world.lock().unwrap().rules, BTreeSet::from(["sgr-1"]));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_read_again_is_not_reported_as_closed() {
    let reads = std::sync::atomic::AtomicU32::new(0);
    let wire = wire(&open(&["sgr-1"]), "enforce", move |call| {
        (call.operation == "DescribeSecurityGroupRules"
            && reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0)
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(error.contains("could not be read again"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_stays_although_ec2_said_done_is_a_failure() {
    let wire = wire(&open(&["sgr-1"]), "enforce", |call| {
        (call.operation == "RevokeSecurityGroupIngress")
            .then(|| xml("RevokeSecurityGroupIngress", "<return>true</return>"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(
        error.contains("sgr-1 still admits tcp 22 from 0.0.0.0/0"),
        "{error}"
    );
    assert_eq!(changes(&wire), 1, "read again, not revoked again");
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_others_add_meanwhile_is_closed_in_the_same_round() {
    let world = open(&["sgr-1"]);
    let added = world.clone();
    let wire = wire(&world, "enforce", move |call| {
        if call.parameter("SecurityGroupRuleId.1") == Some("sgr-1") {
            added.lock().unwrap().rules.insert("sgr-late");
        }
        None
    });
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    assert!(world.lock().unwrap().rules.is_empty());
    let operations = wire.operations();
    let transactions = operations
        .iter()
        .filter(|o| *o == "TransactWriteItems")
        .count();
    assert_eq!(
        transactions, 3,
        "begin, the late rule's `before` ahead of its change, close"
    );
}

#[tokio::test(start_paused = true)]
async fn mode_notify_records_and_tells_and_changes_nothing() {
    let wire = wire(&open(&["sgr-1"]), "notify", |_| None);
    assert_eq!(run(&wire).await.unwrap(), "notified");
    assert_eq!(changes(&wire), 0);
    assert_eq!(
        wire.operations()[5..],
        ["TransactWriteItems", "PutEvents", "TransactWriteItems"]
    );
}

/// The records that were stored, in order, by the write that stored them.
fn documents(wire: &Wire) -> Vec<Value> {
    wire.calls()
        .iter()
        .flat_map(|call| match call.operation.as_str() {
            "PutItem" => vec![call.json["Item"].clone()],
            "TransactWriteItems" => call.json["TransactItems"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["Put"]["Item"].clone())
                .collect(),
            _ => Vec::new(),
        })
        .filter(|item| item["sk"]["S"] == "entry")
        .map(|item| serde_json::from_str(item["document"]["S"].as_str().unwrap()).unwrap())
        .collect()
}

fn policy(document: &str) -> Reply {
    Reply::ok(json!({ "Parameter": { "Value": document, "Version": 3 } }).to_string())
}

/// An answer of the ledger that holds one item of state.
fn holding(pk: &str, more: Value) -> Reply {
    let mut item = json!({ "pk": {"S": pk}, "sk": {"S": "state"} });
    item.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Reply::ok(json!({ "Responses": { "ledger": [item] }, "UnprocessedKeys": {} }).to_string())
}

#[tokio::test(start_paused = true)]
async fn with_the_kill_switch_on_nothing_begins_and_that_is_told() {
    let wire = wire(&open(&["sgr-1"]), "enforce", |call| {
        (call.operation == "GetParameter").then(|| policy(KILLED))
    });
    assert_eq!(run(&wire).await.unwrap(), "stopped");
    assert_eq!(changes(&wire), 0);
    assert!(wire.operations().contains(&"PutEvents".to_owned()));
    assert_eq!(documents(&wire)[0]["status"], "stopped");
}

const KILLED: &str =
    r#"{"version":1,"kill_switch":true,"controls":{"open-ingress":{"mode":"enforce"}}}"#;

#[tokio::test(start_paused = true)]
async fn the_kill_switch_stops_the_steps_that_have_not_begun_and_the_run_is_closed() {
    let world = open(&["sgr-1", "sgr-2", "sgr-3"]);
    let first_is_closed = world.clone();
    let wire = wire(&world, "enforce", move |call| {
        let thrown = first_is_closed.lock().unwrap().rules.len() < 3;
        (call.operation == "GetParameter" && thrown).then(|| policy(KILLED))
    });
    let mut handler = engine(&wire);
    handler.policy = handler.policy.keeping(Duration::ZERO);
    let answer = handler.handle(event()).await.unwrap();
    assert_eq!(answer["verdict"], "stopped");
    assert_eq!(changes(&wire), 1);
    assert_eq!(world.lock().unwrap().rules.len(), 2);
    let last = documents(&wire).pop().unwrap();
    let endings: Vec<&Value> = last["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|outcome| &outcome["ending"]["result"])
        .collect();
    assert_eq!(endings, ["done", "skipped", "skipped"]);
    let operations = wire.operations();
    assert_eq!(
        operations[operations.len() - 3..],
        ["PutItem", "PutEvents", "TransactWriteItems"],
        "recorded, told, released"
    );
}

#[tokio::test(start_paused = true)]
async fn over_the_budget_the_control_trips_once_and_nothing_is_changed() {
    let tripped = Arc::new(Mutex::new(false));
    let wire = wire(&open(&["sgr-1", "sgr-2"]), "enforce", move |call| {
        let mut tripped = tripped.lock().unwrap();
        match call.operation.as_str() {
            "GetParameter" => Some(policy(
                r#"{"version":1,"controls":{"open-ingress":{"mode":"enforce","budget":{"changes_per_hour":1}}}}"#,
            )),
            "BatchGetItem" if *tripped => Some(holding(
                "trip#open-ingress",
                json!({ "document": {"S": r#"{"at":"2026-11-24T10:00:00Z","why":"too many"}"#} }),
            )),
            "TransactWriteItems" => {
                let pk = &call.json["TransactItems"][0]["Put"]["Item"]["pk"]["S"];
                *tripped |= pk == "trip#open-ingress";
                None
            }
            _ => None,
        }
    });
    assert_eq!(
        run(&wire).await.unwrap(),
        "known",
        "part of what was told as a group"
    );
    assert_eq!(changes(&wire), 0);
    let documents = documents(&wire);
    assert_eq!(documents[0]["kind"], "notice");
    assert_eq!(documents[0]["about"]["topic"], "control-tripped");
    assert_eq!(documents[0]["about"]["changes"], 2);
    assert_eq!(documents[1]["status"], "tripped");
    let told = wire
        .operations()
        .iter()
        .filter(|o| *o == "PutEvents")
        .count();
    assert_eq!(told, 1, "the notice, and not the group");
}

#[tokio::test(start_paused = true)]
async fn the_tenth_time_in_a_day_trips_the_control_for_the_group_and_says_so() {
    let fingerprint = {
        let wire = wire(&open(&["sgr-1"]), "notify", |_| None);
        run(&wire).await.unwrap();
        documents(&wire)[0]["exposures"][0]["fingerprint"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let fought = |times: usize| {
        let fingerprint = fingerprint.clone();
        let now = Timestamp::now().to_string();
        wire(&open(&["sgr-1"]), "enforce", move |call| {
            let rounds: Vec<Value> = (0..times)
                .map(|i| json!({ "entry": format!("01JD{i}"), "at": now }))
                .collect();
            let fights = json!({ "rounds": { &fingerprint: rounds } }).to_string();
            (call.operation == "BatchGetItem").then(|| {
                holding(
                    &format!("fights#open-ingress#{GROUP}"),
                    json!({ "document": {"S": fights} }),
                )
            })
        })
    };
    for (times, verdict, fight) in [
        (1, "remediated", Value::Null),
        (2, "remediated", json!(3)),
        (8, "remediated", json!(9)),
    ] {
        let wire = fought(times);
        assert_eq!(run(&wire).await.unwrap(), verdict, "{times}");
        let last = documents(&wire).pop().unwrap();
        assert_eq!(last["fight"]["times"], fight, "{times}");
        // Counted in the write that closes the run.
        let close = wire.calls().pop().unwrap();
        let fights = close.json["TransactItems"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["Put"]["Item"]["sk"]["S"] == "state")
            .unwrap();
        assert_eq!(
            fights["Put"]["Item"]["pk"]["S"],
            format!("fights#open-ingress#{GROUP}")
        );
    }
    let wire = fought(9);
    assert_eq!(run(&wire).await.unwrap(), "tripped");
    assert_eq!(changes(&wire), 0);
    let calls = wire.calls();
    let trip = calls
        .iter()
        .find(|call| call.operation == "TransactWriteItems")
        .unwrap();
    assert_eq!(
        trip.json["TransactItems"][0]["Put"]["Item"]["pk"]["S"],
        format!("trip#open-ingress#{GROUP}"),
        "before it is told, so that it lasts"
    );
    assert!(wire.operations().contains(&"PutEvents".to_owned()));
}

/// A ledger in which a run of this group was cut off: its lock has lapsed, its
/// entry holds `sgr-1` in `before`.
fn cut_off(call: &Call, entry: &Value, before: &str) -> Option<Reply> {
    match call.operation.as_str() {
        "BatchGetItem" => {
            let lock = json!({
                "pk": {"S": format!("lock#open-ingress#{GROUP}")}, "sk": {"S": "lock"},
                "entry": {"S": entry["id"]}, "holder": {"S": "request-0"}, "lease_until": {"N": "0"},
            });
            Some(Reply::ok(
                json!({ "Responses": { "ledger": [lock] } }).to_string(),
            ))
        }
        "GetItem" => Some(Reply::ok(
            json!({ "Item": {
                "document": {"S": entry.to_string()}, "before": {"B": before}, "told": {"BOOL": false},
            } })
            .to_string(),
        )),
        _ => None,
    }
}

/// The entry that a run stores before its first change, and its `before`.
async fn begun(rules: &[&'static str]) -> (Value, String) {
    let wire = wire(&open(rules), "enforce", |_| None);
    run(&wire).await.unwrap();
    let begin = wire
        .calls()
        .into_iter()
        .find(|call| call.operation == "TransactWriteItems")
        .unwrap();
    let item = &begin.json["TransactItems"][1]["Put"]["Item"];
    (
        serde_json::from_str(item["document"]["S"].as_str().unwrap()).unwrap(),
        item["before"]["B"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test(start_paused = true)]
async fn what_was_cut_off_is_finished_and_told_even_in_mode_off() {
    let (entry, before) = begun(&["sgr-1"]).await;
    // The rule is gone already: only the end is missing.
    let wire = wire(&open(&[]), "off", move |call| {
        cut_off(call, &entry, &before)
    });
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    assert_eq!(changes(&wire), 0);
    assert!(wire.operations().contains(&"PutEvents".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_retry_spends_budget_for_what_was_not_planned_before_and_for_nothing_else() {
    for (rules, counted) in [
        (&["sgr-1"][..], None),
        (&["sgr-1", "sgr-2", "sgr-3"], Some("2")),
    ] {
        let (entry, before) = begun(&["sgr-1"]).await;
        let wire = wire(&open(rules), "enforce", move |call| {
            cut_off(call, &entry, &before)
        });
        assert_eq!(run(&wire).await.unwrap(), "remediated");
        let begin = wire
            .calls()
            .into_iter()
            .find(|call| call.operation == "TransactWriteItems")
            .unwrap();
        let count = &begin.json["TransactItems"][2]["Update"]["ExpressionAttributeValues"];
        assert_eq!(count[":changes"]["N"].as_str(), counted, "{rules:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn mode_off_reads_and_ends() {
    let wire = wire(&open(&["sgr-1"]), "off", |_| None);
    assert_eq!(run(&wire).await.unwrap(), "off");
    assert_eq!(wire.operations().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_compliant_group_costs_one_round_of_reads() {
    let wire = wire(&open(&[]), "enforce", |_| None);
    assert_eq!(run(&wire).await.unwrap(), "nothing to do");
    assert_eq!(wire.sequential_round_trips(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_put_on_the_bus_is_a_failure() {
    let wire = wire(&open(&["sgr-1"]), "enforce", |call| {
        (call.operation == "PutEvents").then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    assert_eq!(
        run(&wire).await.unwrap_err(),
        "PutEvents: AccessDeniedException: no"
    );
    let last = wire.calls().pop().unwrap();
    let items = last.json["TransactItems"].as_array().unwrap();
    assert_eq!(items.len(), 1, "not closed: the retry tells");
    assert_eq!(
        items[0]["Update"]["UpdateExpression"],
        "SET lease_until = :ended"
    );
}
