//! The doctor's reads, against the real SDK clients with answers written from
//! the API references.

use std::time::Duration;

use backstop_aws::clients::{Clients, OperationsClients};
use backstop_aws::deadline::Deadline;
use backstop_aws::doctor::{Deployment, examine};
use backstop_core::doctor::Check;
use backstop_wire::{Call, Reply, Wire};

use crate::stack::resources;

const REGION: &str = "eu-central-1";

/// A deployment in order; `trail` and `selectors` are CloudTrail's answers.
fn answer(trail: &str, selectors: &str, call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeTrails" => Reply::ok(format!(r#"{{"trailList":[{trail}]}}"#)),
        "GetTrailStatus" => Reply::ok(r#"{"IsLogging":true}"#),
        "GetEventSelectors" => Reply::ok(selectors),
        "ListStackResources" => resources(
            &[
                ("OneRule", "one", "AWS::Events::Rule", "CREATE_COMPLETE"),
                ("TwoRule", "bus|two", "AWS::Events::Rule", "UPDATE_COMPLETE"),
                ("GoneRule", "gone", "AWS::Events::Rule", "DELETE_COMPLETE"),
                ("Queue", "three", "AWS::SQS::Queue", "CREATE_COMPLETE"),
            ],
            None,
        ),
        "DescribeRule" => Reply::ok(r#"{"Name":"r","State":"ENABLED"}"#),
        "GetTopicAttributes" => Reply::ok(
            "<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>SubscriptionsConfirmed</key><value>2</value></entry><entry><key>SubscriptionsPending</key><value>1</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>",
        ),
        "GetQueueAttributes" => Reply::ok(r#"{"Attributes":{"ApproximateNumberOfMessages":"0"}}"#),
        "GetParameter" => Reply::ok(r#"{"Parameter":{"Value":"{\"version\":1}","Version":1}}"#),
        other => panic!("{other}"),
    }
}

async fn checks(wire: &Wire) -> Vec<Check> {
    let config = wire.config(1);
    let deployment = Deployment {
        region: REGION.into(),
        topic_arn: "arn:aws:sns:eu-central-1:111122223333:t".into(),
        queue_url: "https://sqs.eu-central-1.amazonaws.com/111122223333/q".into(),
        policy_parameter: "/p".into(),
        stack: "backstop".into(),
    };
    examine(
        &Clients::new(&config),
        &OperationsClients::new(&config),
        &deployment,
        &Deadline::new(Duration::from_secs(60)),
    )
    .await
}

const BASIC: &str =
    r#"{"EventSelectors":[{"ReadWriteType":"WriteOnly","IncludeManagementEvents":true}]}"#;

#[tokio::test(start_paused = true)]
async fn a_deployment_in_order_passes_every_check() {
    let trail =
        r#"{"Name":"t","TrailARN":"arn:t","HomeRegion":"eu-central-1","IsMultiRegionTrail":false}"#;
    let wire = Wire::new(move |call| answer(trail, BASIC, call));
    let checks = checks(&wire).await;
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names, ["trail", "rules", "subscription", "queue", "policy"]);
    for check in &checks {
        assert!(check.result.is_ok(), "{check:?}");
    }
    let asked: Vec<String> = wire
        .calls()
        .iter()
        .filter(|call| call.operation == "DescribeRule")
        .map(|call| call.json["Name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(asked, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn trails_are_judged_by_where_they_are_and_what_they_select() {
    let elsewhere =
        r#"{"Name":"t","TrailARN":"arn:t","HomeRegion":"us-east-1","IsMultiRegionTrail":false}"#;
    let everywhere =
        r#"{"Name":"t","TrailARN":"arn:t","HomeRegion":"us-east-1","IsMultiRegionTrail":true}"#;
    let advanced = r#"{"AdvancedEventSelectors":[{"Name":"m","FieldSelectors":[{"Field":"eventCategory","Equals":["Management"]}]}]}"#;
    let reads = r#"{"AdvancedEventSelectors":[{"Name":"m","FieldSelectors":[{"Field":"eventCategory","Equals":["Management"]},{"Field":"readOnly","Equals":["true"]}]}]}"#;
    let read_only =
        r#"{"EventSelectors":[{"ReadWriteType":"ReadOnly","IncludeManagementEvents":true}]}"#;
    let data = r#"{"EventSelectors":[{"ReadWriteType":"All","IncludeManagementEvents":false}]}"#;
    for (trail, selectors, sees) in [
        (everywhere, BASIC, true),
        (everywhere, advanced, true),
        (elsewhere, BASIC, false),
        (everywhere, reads, false),
        (everywhere, read_only, false),
        (everywhere, data, false),
    ] {
        let wire = Wire::new(move |call| answer(trail, selectors, call));
        let checks = checks(&wire).await;
        assert_eq!(checks[0].result.is_ok(), sees, "{trail} {selectors}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_be_made_is_a_failed_one_that_names_the_call_and_hides_no_other() {
    let trail = r#"{"Name":"t","TrailARN":"arn:t","IsMultiRegionTrail":true}"#;
    for (operation, at) in [
        ("DescribeTrails", 0),
        ("GetEventSelectors", 0),
        ("ListStackResources", 1),
        ("DescribeRule", 1),
        ("GetTopicAttributes", 2),
        ("GetQueueAttributes", 3),
        ("GetParameter", 4),
    ] {
        let wire = Wire::new(move |call| {
            if call.operation == operation {
                Reply::json_error("AccessDeniedException", "no")
            } else {
                answer(trail, BASIC, call)
            }
        });
        for (n, check) in checks(&wire).await.iter().enumerate() {
            match &check.result {
                Ok(_) => assert_ne!(n, at, "{operation}"),
                Err(failed) => {
                    assert_eq!(n, at, "{operation}: {failed:?}");
                    assert!(failed.found.contains(operation), "{failed:?}");
                    assert!(!failed.remedy.is_empty());
                }
            }
        }
    }
    // A rule that is gone is found gone, and not a call that failed.
    let wire = Wire::new(move |call| match call.operation.as_str() {
        "DescribeRule" => Reply::json_error("ResourceNotFoundException", "no such rule"),
        _ => answer(trail, BASIC, call),
    });
    let found = checks(&wire).await[1].result.clone().unwrap_err().found;
    assert_eq!(found, "one is gone; two is gone");
}
