//! What only open-ingress shows of the pipeline: a resource with many items, and
//! one that names others. What every control keeps is tested for each of them, in
//! `tests/tests/it/contract`.

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

fn answer(world: &Mutex<World>, call: &Call) -> Reply {
    let mut world = world.lock().unwrap();
    match call.operation.as_str() {
        "DescribeSecurityGroups" => xml(
            "DescribeSecurityGroups",
            &format!(
                "<securityGroupInfo><item><ownerId>111122223333</ownerId><groupId>{GROUP}</groupId><groupName>web</groupName><vpcId>vpc-1</vpcId></item></securityGroupInfo>"
            ),
        ),
        "DescribeSecurityGroupRules" => {
            let mut rules: String = world
                .rules
                .iter()
                .map(|id| rule_xml(id, "<cidrIpv4>0.0.0.0/0</cidrIpv4>"))
                .collect();
            if world.prefix_list {
                rules += &rule_xml("sgr-list", "<prefixListId>pl-1</prefixListId>");
            }
            xml(
                "DescribeSecurityGroupRules",
                &format!("<securityGroupRuleSet>{rules}</securityGroupRuleSet>"),
            )
        }
        "GetManagedPrefixListEntries" => xml(
            "GetManagedPrefixListEntries",
            "<entrySet><item><cidr>10.0.0.0/8</cidr></item></entrySet>",
        ),
        "DescribeTags" => xml("DescribeTags", "<tagSet/>"),
        "RevokeSecurityGroupIngress" => {
            let id = call.parameter("SecurityGroupRuleId.1").unwrap();
            world.rules.retain(|rule| *rule != id);
            xml("RevokeSecurityGroupIngress", "<return>true</return>")
        }
        "GetParameter" => Reply::ok(
            json!({ "Parameter": { "Value": r#"{"version":1}"#, "Version": 3 } }).to_string(),
        ),
        "GetItem" | "BatchGetItem" | "PutItem" | "UpdateItem" | "TransactWriteItems" => {
            Reply::ok("{}")
        }
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
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let world = world.clone();
    Wire::new(move |call| fails(call).unwrap_or_else(|| answer(&world, call)))
}

fn engine(wire: &Wire) -> Engine {
    Engine::new(
        Clients::new(&wire.config(1)),
        RemediationSettings {
            ledger_table: "ledger".into(),
            policy_parameter: "/p".into(),
            mode: Mode::Enforce,
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
    let wire = wire(world, |_| None);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    wire.sequential_round_trips_until("RevokeSecurityGroupIngress")
}

#[tokio::test(start_paused = true)]
async fn each_rule_is_a_round_trip_and_prefix_lists_are_another_round_of_reads() {
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
async fn a_partial_failure_is_a_failure_that_names_the_rule_and_is_told() {
    let wire = wire(&open(&["sgr-1", "sgr-2"]), |call| {
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
    let wire = wire(&world, move |call| {
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
