//! Storms, sent keys and opt-out tags against the real SDK clients with answers
//! written from the API reference: quotas, what goes over the wire, lost races.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::ledger::{Claim, Ledger, Surge};
use backstop_aws::{opt_outs, storms};
use backstop_core::security_group::Tags;
use backstop_core::storms::{Kind, More};
use backstop_wire::{Call, Reply, Wire};
use jiff::Timestamp;
use serde_json::{Value, json};

fn ledger(wire: &Wire) -> Ledger {
    Ledger::new(&Clients::new(&wire.config(1)), "ledger".to_owned())
}

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn kind() -> Kind {
    Kind {
        control: "open-ingress".into(),
        outcome: "remediated".into(),
        fight: false,
    }
}

const STORM: &str = "storm#open-ingress#remediated";

fn storm_item(until: i64, more: u64) -> Value {
    json!({
        "pk": { "S": STORM }, "sk": { "S": "state" },
        "until": { "N": until.to_string() }, "more": { "N": more.to_string() },
        "since": { "S": "2026-11-24T09:40:00Z" }, "teams": { "SS": ["team-web"] },
    })
}

/// Answers reads with this item and everything else with success.
fn holding(item: Value) -> Wire {
    Wire::new(move |call| match call.operation.as_str() {
        "BatchGetItem" if call.json.to_string().contains(STORM) => {
            Reply::ok(json!({ "Responses": { "ledger": [item] } }).to_string())
        }
        "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
        _ => Reply::ok("{}"),
    })
}

/// The operations in order; reads in parts count as one.
fn operations(wire: &Wire) -> Vec<String> {
    let mut operations = wire.operations();
    operations.dedup();
    operations
}

#[tokio::test(start_paused = true)]
async fn what_a_storm_counted_is_recorded_in_the_write_that_ends_it_then_told() {
    let wire = holding(storm_item(now().as_millisecond() - 1, 40));
    let clients = Clients::new(&wire.config(1));
    let told = storms::tell_ended(
        &ledger(&wire),
        &clients.eventbridge,
        "111122223333",
        "eu-central-1",
        now(),
    )
    .await
    .unwrap();
    assert_eq!(told, 1);
    assert_eq!(
        operations(&wire),
        [
            "BatchGetItem",
            "TransactWriteItems",
            "PutEvents",
            "TransactWriteItems"
        ]
    );
    let mut calls = wire.calls();
    calls.retain(|call| call.operation != "BatchGetItem");
    let items = &calls[0].json["TransactItems"];
    let delete = &items[0]["Delete"];
    assert_eq!(delete["Key"]["pk"]["S"], STORM);
    assert_eq!(
        delete["ConditionExpression"],
        "#until = :until AND more = :more"
    );
    assert_eq!(delete["ExpressionAttributeValues"][":more"]["N"], "40");
    let document: Value =
        serde_json::from_str(items[1]["Put"]["Item"]["document"]["S"].as_str().unwrap()).unwrap();
    let about = &document["about"];
    assert_eq!(
        (&about["count"], &about["after"]),
        (&json!(40), &json!(true))
    );
    assert_eq!(about["since"], "2026-11-24T09:40:00Z");
    assert_eq!(about["teams"], json!(["team-web"]));
    let entry = document["id"].as_str().unwrap();
    assert!(
        calls[1].json["Entries"][0]["Detail"]
            .as_str()
            .unwrap()
            .contains(entry)
    );
}

#[tokio::test(start_paused = true)]
async fn a_storm_that_is_on_or_counted_nothing_ends_nobody_is_told_of() {
    for (until, more) in [(now().as_millisecond() + 1, 40), (0, 0)] {
        let wire = holding(storm_item(until, more));
        let clients = Clients::new(&wire.config(1));
        let told = storms::tell_ended(&ledger(&wire), &clients.eventbridge, "1", "r", now()).await;
        assert_eq!(told.unwrap(), 0);
        assert_eq!(operations(&wire), ["BatchGetItem"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_that_somebody_else_ended_is_not_told_twice() {
    let item = storm_item(0, 40);
    let wire = Wire::new(move |call| match call.operation.as_str() {
        "BatchGetItem" if call.json.to_string().contains(STORM) => {
            Reply::ok(json!({ "Responses": { "ledger": [item] } }).to_string())
        }
        "BatchGetItem" => Reply::ok("{}"),
        "TransactWriteItems" => Reply::Answer(
            400,
            json!({
                "__type": "TransactionCanceledException",
                "CancellationReasons": [{ "Code": "ConditionalCheckFailed" }, { "Code": "None" }],
            })
            .to_string(),
        ),
        other => panic!("{other}"),
    });
    let clients = Clients::new(&wire.config(1));
    let told = storms::tell_ended(&ledger(&wire), &clients.eventbridge, "1", "r", now()).await;
    assert_eq!(told.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn counting_is_one_atomic_write_on_condition_that_the_storm_is_on() {
    let wire = Wire::new(|_| Reply::ok("{}"));
    let surge = Surge {
        kind: kind(),
        until: now().as_millisecond() + 1,
        more: More::default(),
    };
    let more = More {
        count: 3,
        since: Some(now()),
        teams: BTreeSet::from(["team-web".to_owned()]),
    };
    assert!(
        ledger(&wire)
            .count_in_storm(&surge, &more, now())
            .await
            .unwrap()
    );
    let call = &wire.calls()[0].json;
    assert_eq!(call["Key"]["pk"]["S"], STORM);
    assert_eq!(call["ConditionExpression"], "#until > :now");
    assert_eq!(
        call["UpdateExpression"],
        "SET since = if_not_exists(since, :since) ADD more :more, teams :teams"
    );
    assert_eq!(call["ExpressionAttributeValues"][":more"]["N"], "3");

    let over = Wire::new(|_| Reply::json_error("ConditionalCheckFailedException", "over"));
    assert!(
        !ledger(&over)
            .count_in_storm(&surge, &more, now())
            .await
            .unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn keys_are_read_a_hundred_at_a_time_and_what_was_left_unread_again() {
    let wire = Wire::new(|call: &Call| {
        let keys = call.json["RequestItems"]["ledger"]["Keys"]
            .as_array()
            .unwrap();
        assert!(keys.len() <= 100);
        let pk = |key: &Value| key["pk"]["S"].as_str().unwrap().to_owned();
        // DynamoDB answers in part when it is too much at once.
        let (now, later) = keys.split_at(keys.len().min(60));
        let items: Vec<Value> = now
            .iter()
            .map(|key| json!({ "pk": { "S": pk(key) }, "sent": { "BOOL": true } }))
            .collect();
        let unread = match later.is_empty() {
            true => json!({}),
            false => json!({ "ledger": { "Keys": later } }),
        };
        Reply::ok(
            json!({ "Responses": { "ledger": items }, "UnprocessedKeys": unread }).to_string(),
        )
    });
    let keys: Vec<String> = (0..250).map(|key| key.to_string()).collect();
    let known = ledger(&wire).messages(&keys, now()).await.unwrap();
    assert_eq!(known.len(), 250);
    assert!(known.values().all(|claim| *claim == Claim::Sent));
}

// ------------------------------------------------------------------ opt-outs

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

#[tokio::test(start_paused = true)]
async fn tags_are_read_for_these_resources_alone_page_by_page() {
    let wire = Wire::new(|call: &Call| {
        assert_eq!(call.operation, "DescribeTags");
        assert_eq!(call.parameter("Filter.1.Name"), Some("key"));
        assert_eq!(call.parameter("Filter.1.Value.1"), Some("backstop:opt-out"));
        // Filters go by case: every other spelling, and what only looks like it.
        assert_eq!(
            call.parameter("Filter.1.Value.2"),
            Some("*????????:???-???*")
        );
        assert_eq!(call.parameter("Filter.2.Name"), Some("resource-id"));
        match call.parameter("NextToken") {
            None => xml(
                "DescribeTags",
                "<tagSet><item><resourceId>sg-1</resourceId><key>backstop:opt-out</key><value>all</value></item></tagSet><nextToken>2</nextToken>",
            ),
            Some(_) => xml(
                "DescribeTags",
                "<tagSet><item><resourceId>sg-2</resourceId><key>backstop:opt-out</key><value>yes</value></item><item><resourceId>sg-1</resourceId><key>Backstop:Opt-Out</key><value>open-ingress</value></item><item><resourceId>sg-3</resourceId><key>backstop:opt-outs</key><value>all</value></item></tagSet>",
            ),
        }
    });
    let ids: Vec<String> = ["sg-1", "sg-2", "sg-3"].map(str::to_owned).into();
    let tag = |value: &str| Tags::from([("backstop:opt-out".to_owned(), value.to_owned())]);
    let mut both = tag("all");
    both.insert("Backstop:Opt-Out".to_owned(), "open-ingress".to_owned());
    let deadline = Deadline::new(Duration::from_secs(20));
    let found = opt_outs::read(&Clients::new(&wire.config(1)).ec2, &ids, &deadline)
        .await
        .unwrap();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        [("sg-1".to_owned(), both), ("sg-2".to_owned(), tag("yes")),]
    );
}

#[tokio::test(start_paused = true)]
async fn groups_are_found_by_rule_and_by_vpc_page_by_page() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSecurityGroupRules" => {
            assert_eq!(
                call.parameter("Filter.1.Name"),
                Some("security-group-rule-id")
            );
            // One of the two is gone.
            xml(
                "DescribeSecurityGroupRules",
                "<securityGroupRuleSet><item><securityGroupRuleId>sgr-1</securityGroupRuleId><groupId>sg-of-rule</groupId></item></securityGroupRuleSet>",
            )
        }
        "DescribeSecurityGroups" => {
            assert_eq!(call.parameter("Filter.1.Name"), Some("vpc-id"));
            assert_eq!(call.parameter("MaxResults"), Some("1000"));
            match call.parameter("NextToken") {
                None => xml(
                    "DescribeSecurityGroups",
                    "<securityGroupInfo><item><groupId>sg-a</groupId></item></securityGroupInfo><nextToken>2</nextToken>",
                ),
                Some(_) => xml(
                    "DescribeSecurityGroups",
                    "<securityGroupInfo><item><groupId>sg-b</groupId></item></securityGroupInfo>",
                ),
            }
        }
        other => panic!("{other}"),
    });
    let deadline = Deadline::new(Duration::from_secs(20));
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let concerned = async |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let groups = opt_outs::groups_concerned(&ec2, &ids, &deadline)
            .await
            .unwrap();
        groups.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        concerned(&["sgr-1", "sgr-2", "sg-1", "vpc-1", "i-1"]).await,
        ["sg-1", "sg-a", "sg-b", "sg-of-rule"]
    );
    let before = wire.calls().len();
    assert!(concerned(&["i-1", "vol-1"]).await.is_empty());
    assert_eq!(wire.calls().len(), before, "nothing to ask about others");
}
