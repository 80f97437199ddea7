//! What only open-ingress shows of the pipeline: a resource with many items, and
//! one that names others. What every control keeps is tested for each of them, in
//! `tests/tests/it/contract`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::words::ControlId;
use backstop_wire::memory::table::Table;
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

/// Of ssh, which is critical; of a port that is not, where the id begins with
/// `sgr-web`.
fn rule_xml(id: &str, source: &str) -> String {
    let port = if id.starts_with("sgr-web") { 8081 } else { 22 };
    format!(
        "<item><securityGroupRuleId>{id}</securityGroupRuleId><groupId>{GROUP}</groupId><isEgress>false</isEgress><ipProtocol>tcp</ipProtocol><fromPort>{port}</fromPort><toPort>{port}</toPort>{source}</item>"
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

/// A wire over the world under a policy with this mode, on which `fails` may answer
/// first.
fn in_mode(
    world: &Arc<Mutex<World>>,
    mode: &str,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let document = format!(r#"{{"version":1,"controls":{{"open-ingress":{{"mode":"{mode}"}}}}}}"#);
    wire(world, move |call| {
        let of_policy = || (call.operation == "GetParameter").then(|| policy(&document));
        fails(call).or_else(of_policy)
    })
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
    let failing = wire(&world, throttled);
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
    assert_eq!(run(&wire(&world, |_| None)).await.unwrap(), "nothing to do");

    // What is only told is told as well, and nothing where nothing else is found.
    for (rules, told) in [(&["sgr-1"][..], true), (&[], false)] {
        let failing = in_mode(&with_list(rules), "notify", throttled);
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
    let wire = wire(&world, move |call| {
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
        let wire = in_mode(&with_list(&[]), mode, unshared);
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
    let wire = wire(&world, unshared);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    assert!(world.lock().unwrap().rules.is_empty());
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

/// The ledger's table, with what a test puts into it.
type Ledgered = Arc<Mutex<Table>>;

/// A wire over the world and a table, under a budget, on which `fails` may answer
/// first.
fn budgeted_but(
    world: &Arc<Mutex<World>>,
    table: &Ledgered,
    budget: u32,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let table = table.clone();
    let of_policy = format!(
        r#"{{"version":1,"controls":{{"open-ingress":{{"mode":"enforce","budget":{{"changes_per_hour":{budget}}}}}}}}}"#
    );
    wire(world, move |call| {
        fails(call).or_else(|| match call.operation.as_str() {
            "GetParameter" => Some(policy(&of_policy)),
            _ => table.lock().unwrap().answer(call),
        })
    })
}

fn budgeted(world: &Arc<Mutex<World>>, table: &Ledgered, budget: u32) -> Wire {
    budgeted_but(world, table, budget, |_| None)
}

/// What the budget has counted in this hour: of all, of resources that tripped by
/// themselves, and of the group.
fn spend(table: &Ledgered, all: u32, tripped: u32, group: u32) {
    let hour: String = Timestamp::now().to_string().chars().take(13).collect();
    let pk = format!("budget#open-ingress#{hour}");
    let n = |count: u32| json!({ "N": count.to_string() });
    let mut of_all = json!({ "changes": n(all), "tripped": n(tripped) });
    let mut of_group = json!({ "changes": n(group) });
    let items = &mut table.lock().unwrap().items;
    for (pk, item) in [
        (pk.clone(), &mut of_all),
        (format!("{pk}#{GROUP}"), &mut of_group),
    ] {
        item["pk"] = json!({ "S": pk });
        item["sk"] = json!({ "S": "budget" });
        items.insert(pk, item.clone());
    }
}

/// How many changes the budget has counted.
fn spent(table: &Ledgered) -> u32 {
    let table = table.lock().unwrap();
    let counts = table
        .items
        .iter()
        .filter(|(pk, _)| pk.starts_with("budget#open-ingress#") && !pk.ends_with(GROUP));
    counts
        .map(|(_, item)| {
            item["changes"]["N"]
                .as_str()
                .unwrap()
                .parse::<u32>()
                .unwrap()
        })
        .sum()
}

fn holds(table: &Ledgered, pk: &str) -> bool {
    table.lock().unwrap().items.contains_key(pk)
}

/// The records that `notify` was asked to tell.
fn told(wire: &Wire) -> Vec<Value> {
    let asked: Vec<String> = wire
        .calls()
        .iter()
        .filter(|call| call.operation == "PutEvents")
        .flat_map(|call| call.json["Entries"].as_array().unwrap().clone())
        .map(|entry| serde_json::from_str::<Value>(entry["Detail"].as_str().unwrap()).unwrap())
        .map(|detail| detail["entry"].as_str().unwrap().to_owned())
        .collect();
    let documents = documents(wire);
    let last = |id: &String| {
        documents
            .iter()
            .rev()
            .find(|document| document["id"] == **id)
    };
    asked.iter().map(|id| last(id).unwrap().clone()).collect()
}

const OF_CONTROL: &str = "trip#open-ingress";
const OF_GROUP: &str = "trip#open-ingress#sg-0123456789abcdef0";

#[tokio::test(start_paused = true)]
async fn what_exceeds_the_budget_by_itself_trips_alone_once_its_critical_exposures_are_closed() {
    // More critical ones than there is room for; fewer, and others; none; and what
    // other resources have spent.
    for (rules, others, closed) in [
        (&["sgr-1", "sgr-2", "sgr-3"][..], 0, 2),
        (&["sgr-1", "sgr-web1", "sgr-web2"], 0, 1),
        (&["sgr-web1", "sgr-web2", "sgr-web3"], 0, 0),
        (&["sgr-1", "sgr-2", "sgr-3"], 1, 1),
        (&["sgr-1", "sgr-2", "sgr-3"], 2, 0),
    ] {
        let (world, table) = (open(rules), Ledgered::default());
        spend(&table, others, 0, 0);
        let wire = budgeted(&world, &table, 2);
        assert_eq!(run(&wire).await.unwrap(), "tripped", "{rules:?}");
        assert_eq!(changes(&wire), closed, "{rules:?}");
        let left = world.lock().unwrap().rules.clone();
        assert_eq!(left.len(), rules.len() - closed);
        let web = |rules: &mut dyn Iterator<Item = &&str>| {
            rules.filter(|rule| rule.starts_with("sgr-web")).count()
        };
        assert_eq!(
            web(&mut left.iter()),
            web(&mut rules.iter()),
            "critical first"
        );
        assert!(spent(&table) <= 2, "never more than the budget");
        assert_eq!(spent(&table) as usize, others as usize + closed);
        assert!(
            holds(&table, OF_GROUP) && !holds(&table, OF_CONTROL),
            "alone"
        );

        let told = told(&wire);
        let [entry] = &told[..] else {
            panic!("told once: {told:#?}")
        };
        assert_eq!(entry["status"], "tripped");
        assert_eq!(entry["plan"]["because"], "resource-tripped");
        let left: BTreeSet<&str> = left.iter().copied().collect();
        let named = entry["exposures"].as_array().unwrap().iter();
        let named: BTreeSet<&str> = named.map(|e| e["rule"]["id"].as_str().unwrap()).collect();
        assert!(left.is_subset(&named), "what is left is named: {entry}");
        assert!(!holds(&table, &format!("lock#open-ingress#{GROUP}")));

        // Others learn of it before the first change, and so trip nothing meanwhile.
        let calls = wire.calls();
        let first = |is: &dyn Fn(&Call) -> bool| calls.iter().position(is);
        let noted = first(&|call| call.json.to_string().contains("ADD tripped"));
        let changed = first(&|call| call.operation == "RevokeSecurityGroupIngress");
        assert!(changed.is_none() || noted < changed, "{rules:?}");
        assert_eq!(noted.is_some(), closed > 0);

        // Nothing more happens, and nobody is told again.
        let again = budgeted(&world, &table, 2);
        assert_eq!(run(&again).await.unwrap(), "known", "{rules:?}");
        assert_eq!((changes(&again), self::told(&again).len()), (0, 0));

        // A person re-arms it: what had been counted towards the trip is forgotten.
        let ledger = engine(&again).ledger;
        assert!(
            ledger
                .re_arm(ControlId::OpenIngress, Some(GROUP))
                .await
                .unwrap()
        );
        assert_eq!(spent(&table), others);
        assert!(!holds(&table, OF_GROUP));
        let again = budgeted(&world, &table, 100);
        assert_eq!(run(&again).await.unwrap(), "remediated");
        assert!(world.lock().unwrap().rules.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_exceeds_the_budget_in_several_calls_trips_alone() {
    let (world, table) = (open(&["sgr-1", "sgr-2"]), Ledgered::default());
    let wire = budgeted(&world, &table, 3);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
    world.lock().unwrap().rules.extend(["sgr-3", "sgr-4"]);
    let wire = budgeted(&world, &table, 3);
    assert_eq!(run(&wire).await.unwrap(), "tripped");
    assert_eq!((changes(&wire), spent(&table)), (1, 3));
    assert!(holds(&table, OF_GROUP) && !holds(&table, OF_CONTROL));
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_many_resources_use_up_trips_the_control_and_critical_findings_are_told() {
    for (rule, by_itself) in [("sgr-1", true), ("sgr-web1", false)] {
        let (world, table) = (open(&[rule]), Ledgered::default());
        spend(&table, 2, 0, 0);
        let wire = budgeted(&world, &table, 2);
        let verdict = if by_itself { "tripped" } else { "known" };
        assert_eq!(run(&wire).await.unwrap(), verdict);
        assert_eq!(changes(&wire), 0);
        assert!(holds(&table, OF_CONTROL) && !holds(&table, OF_GROUP));
        let told = told(&wire);
        assert_eq!(told[0]["about"]["topic"], "control-tripped");
        assert_eq!(told[0]["about"]["changes"], 1);
        assert_eq!(told.len(), 1 + usize::from(by_itself), "{rule}");

        // So is each new one while the control is tripped, once.
        world.lock().unwrap().rules = [rule, "sgr-2"].into();
        for new in [1, 0] {
            let wire = budgeted(&world, &table, 2);
            run(&wire).await.unwrap();
            assert_eq!(
                (changes(&wire), self::told(&wire).len()),
                (0, new),
                "{rule}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_resource_used_up_makes_others_wait_for_the_next_hour_and_trips_nothing() {
    let (world, table) = (open(&["sgr-1"]), Ledgered::default());
    spend(&table, 2, 2, 0);
    let wire = budgeted(&world, &table, 2);
    assert_eq!(run(&wire).await.unwrap(), "pending");
    assert_eq!((changes(&wire), spent(&table)), (0, 2));
    assert!(!holds(&table, OF_CONTROL) && !holds(&table, OF_GROUP));
    let told = told(&wire);
    assert_eq!((told.len(), &told[0]["status"]), (1, &json!("pending")));
    let again = budgeted(&world, &table, 2);
    assert_eq!(run(&again).await.unwrap(), "known");

    // In the next hour there is room.
    spend(&table, 0, 0, 0);
    let wire = budgeted(&world, &table, 2);
    assert_eq!(run(&wire).await.unwrap(), "remediated");
}

#[tokio::test(start_paused = true)]
async fn what_a_run_meets_on_its_way_and_the_hour_has_no_room_for_waits() {
    // The revocation is denied, and the retry finds another rule; or another comes
    // while the first is being revoked.
    for is_retried in [true, false] {
        let (world, table) = (open(&["sgr-1"]), Ledgered::default());
        spend(&table, 1, 1, 0);
        let denied = Arc::new(Mutex::new(is_retried));
        let (now_denied, comes) = (denied.clone(), world.clone());
        let wire = budgeted_but(&world, &table, 2, move |call| {
            if call.operation != "RevokeSecurityGroupIngress" {
                return None;
            }
            if !*now_denied.lock().unwrap() {
                comes.lock().unwrap().rules.insert("sgr-2");
                return None;
            }
            Some(Reply::ec2_error(403, "UnauthorizedOperation", "no"))
        });
        if is_retried {
            let error = run(&wire).await.unwrap_err();
            assert!(error.contains("UnauthorizedOperation"), "{error}");
            *denied.lock().unwrap() = false;
            world.lock().unwrap().rules.insert("sgr-2");
        }
        assert_eq!(run(&wire).await.unwrap(), "pending");
        assert_eq!(world.lock().unwrap().rules, BTreeSet::from(["sgr-2"]));
        assert_eq!(spent(&table), 2);
        assert!(!holds(&table, OF_CONTROL) && !holds(&table, OF_GROUP));
        let last = told(&wire).pop().unwrap();
        assert_eq!(last["status"], "pending", "{last}");
        assert_eq!(last["plan"]["because"], "budget-spent");

        let again = budgeted(&world, &table, 2);
        assert_eq!(run(&again).await.unwrap(), "known");
        assert_eq!((changes(&again), self::told(&again).len()), (0, 0));
        spend(&table, 0, 0, 0);
        let wire = budgeted(&world, &table, 2);
        assert_eq!(run(&wire).await.unwrap(), "remediated");
        assert!(world.lock().unwrap().rules.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_resource_had_spent_when_the_control_was_re_armed_is_forgotten() {
    let (world, table) = (open(&["sgr-1"]), Ledgered::default());
    spend(&table, 3, 0, 2);
    let wire = budgeted(&world, &table, 3);
    run(&wire).await.unwrap();
    assert!(holds(&table, OF_CONTROL));
    let ledger = engine(&wire).ledger;
    let control = ControlId::OpenIngress;
    assert!(ledger.re_arm(control, None).await.unwrap());
    let left = ledger.spent(control, GROUP).await.unwrap();
    assert_eq!((left.all, left.by_resource), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_a_setting_the_state_that_was_read_last_is_kept_in_whatever_order_it_is_stored() {
    let (world, table) = (open(&[]), Ledgered::default());
    let ledger = engine(&budgeted(&world, &table, 1)).ledger;
    let (control, region) = (ControlId::SerialConsole, "eu-central-1");
    // (state, read at, what is kept then)
    for (state, second, kept) in [
        ("first", 10, "first"),
        ("older", 9, "first"),
        ("newer", 11, "newer"),
        ("older", 10, "newer"),
    ] {
        let read_at = Timestamp::from_second(1_800_000_000 + second).unwrap();
        let stored = ledger.keep_former(control, region, &state, read_at).await;
        stored.unwrap();
        let standing = ledger.standing(control, region).await.unwrap();
        assert_eq!(standing.guards.former, Some(json!(kept)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limited_run_that_was_cut_off_or_failed_closes_what_it_counted_and_trips_then() {
    // The second revocation is denied at first; its retry closes it.
    let (world, table) = (open(&["sgr-1", "sgr-2", "sgr-3"]), Ledgered::default());
    let denied = Arc::new(Mutex::new(true));
    let of_first = denied.clone();
    let wire = budgeted_but(&world, &table, 2, move |call| {
        let second = call.operation == "RevokeSecurityGroupIngress"
            && call.parameter("SecurityGroupRuleId.1") == Some("sgr-2");
        (second && *of_first.lock().unwrap())
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
    });
    let error = run(&wire).await.unwrap_err();
    assert!(error.contains("UnauthorizedOperation"), "{error}");
    assert!(!holds(&table, OF_GROUP), "its retry goes on");
    *denied.lock().unwrap() = false;
    assert_eq!(run(&wire).await.unwrap(), "tripped");
    assert_eq!(world.lock().unwrap().rules, BTreeSet::from(["sgr-3"]));
    assert_eq!(spent(&table), 2, "a retry spends no second budget");
    assert!(holds(&table, OF_GROUP) && !holds(&table, OF_CONTROL));
}
