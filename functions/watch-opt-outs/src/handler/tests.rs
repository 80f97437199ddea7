//! The pipeline against the real SDK clients with canned answers: what is asked
//! for and told, in which order, and what happens when one call fails.

use std::time::Duration;

use backstop_wire::{Call, Reply, Wire};
use lambda_runtime::Context;

use super::*;

const GROUP: &str = "sg-0123456789abcdef0";

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

/// An account in which every resource carries this opt-out.
fn wire(
    tag: Option<&'static str>,
    policy: &'static str,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    wire_as("backstop:opt-out", tag, policy, fails)
}

/// The same, with another key.
fn wire_as(
    key: &'static str,
    tag: Option<&'static str>,
    policy: &'static str,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    Wire::new(move |call| {
        if let Some(reply) = fails(call) {
            return reply;
        }
        match call.operation.as_str() {
            "DescribeTags" => {
                let tags = (1..).map_while(|i| call.parameter(&format!("Filter.2.Value.{i}")));
                let tags: String = tags
                    .filter_map(|id| Some((id, tag?)))
                    .map(|(id, value)| format!("<item><resourceId>{id}</resourceId><key>{key}</key><value>{value}</value></item>"))
                    .collect();
                xml("DescribeTags", &format!("<tagSet>{tags}</tagSet>"))
            }
            "GetParameter" => {
                Reply::ok(json!({ "Parameter": { "Value": policy, "Version": 3 } }).to_string())
            }
            "GetItem" | "TransactWriteItems" => Reply::ok("{}"),
            "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
            other => panic!("{other}"),
        }
    })
}

fn none(_: &Call) -> Option<Reply> {
    None
}

const POLICY: &str = r#"{"version":1}"#;

fn event(call: &str, resources: &[&str]) -> Value {
    let items: Vec<Value> = resources
        .iter()
        .map(|id| json!({ "resourceId": id }))
        .collect();
    json!({
        "version": "0", "id": "e", "detail-type": "AWS API Call via CloudTrail", "source": "aws.ec2",
        "account": "111122223333", "time": "2026-11-24T10:00:00Z", "region": "eu-central-1", "resources": [],
        "detail": {
            "eventName": call, "eventID": "c", "userAgent": "aws-cli/2",
            "requestParameters": {
                "resourcesSet": { "items": items },
                "tagSet": { "items": [{ "key": "backstop:opt-out", "value": "all until=1999-01-01" }] },
            },
        },
    })
}

async fn run(wire: &Wire, event: Value) -> Result<String, String> {
    let handler = Handler::new(
        Clients::new(&wire.config(1)),
        WatchSettings {
            ledger_table: "ledger".into(),
            policy_parameter: "/p".into(),
        },
    );
    let mut context = Context::default();
    context.deadline = (Timestamp::now() + Duration::from_secs(60)).as_millisecond() as u64;
    match handler.handle(LambdaEvent::new(event, context)).await {
        Ok(answer) => Ok(answer["verdict"].as_str().unwrap().to_owned()),
        Err(failure) => Err(failure.error_message),
    }
}

/// Detail types of the events that were put on the bus, in order.
fn put(wire: &Wire) -> Vec<String> {
    let calls = wire.calls();
    let put = calls.iter().filter(|call| call.operation == "PutEvents");
    put.flat_map(|call| call.json["Entries"].as_array().unwrap().clone())
        .map(|entry| entry["DetailType"].as_str().unwrap().to_owned())
        .collect()
}

/// What the recorded notices say.
fn recorded(wire: &Wire) -> Vec<Value> {
    let calls = wire.calls();
    calls
        .iter()
        .filter_map(|call| call.json["TransactItems"][1]["Put"]["Item"]["document"]["S"].as_str())
        .map(|document| serde_json::from_str::<Value>(document).unwrap()["about"].clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_the_live_tag_says_is_told_and_never_what_the_event_says() {
    let wire_ = wire(Some("all until=2099-01-31 owner=web"), POLICY, none);
    assert_eq!(
        run(&wire_, event("CreateTags", &[GROUP])).await.unwrap(),
        "told"
    );
    assert_eq!(put(&wire_), ["Remediation Recorded"], "it holds: no look");
    let [about] = &recorded(&wire_)[..] else {
        panic!("one notice")
    };
    assert_eq!(about["value"], "all until=2099-01-31 owner=web");
    assert_eq!(about["means"]["open-ingress"]["state"], "exempt");
    assert_eq!(about["actor"]["user_agent"], "aws-cli/2");
}

#[tokio::test(start_paused = true)]
async fn what_holds_no_more_is_looked_at_before_anything_is_told() {
    for tag in [None, Some("all until=2020-01-31")] {
        let wire = wire(tag, POLICY, none);
        assert_eq!(
            run(&wire, event("DeleteTags", &[GROUP])).await.unwrap(),
            "told"
        );
        assert_eq!(
            put(&wire),
            ["Check Requested", "Remediation Recorded"],
            "{tag:?}"
        );
        let calls = wire.calls();
        let check = calls
            .iter()
            .find(|call| call.operation == "PutEvents")
            .unwrap();
        let detail: Value =
            serde_json::from_str(check.json["Entries"][0]["Detail"].as_str().unwrap()).unwrap();
        assert_eq!(detail["resource"], GROUP);
        assert_eq!(detail["control"], "open-ingress");
        assert_eq!(detail["cause"]["event_id"], "c");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_held_and_what_the_policy_refuses_too() {
    for (tag, policy) in [
        ("open-ingres", POLICY),
        ("all", r#"{"version":1,"opt_out":{"require_end":true}}"#),
        (
            "all until=9999-12-31",
            r#"{"version":1,"opt_out":{"require_end":true}}"#,
        ),
    ] {
        let wire = wire(Some(tag), policy, none);
        assert_eq!(
            run(&wire, event("CreateTags", &[GROUP])).await.unwrap(),
            "told"
        );
        assert_eq!(put(&wire), ["Remediation Recorded"], "no look");
        assert_eq!(
            recorded(&wire)[0]["means"]["open-ingress"]["state"],
            "malformed"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_in_another_spelling_is_held_and_told_with_its_spelling() {
    let mut set = event("CreateTags", &[GROUP, "i-1"]);
    set["detail"]["requestParameters"]["tagSet"]["items"][0]["key"] = "Backstop:Opt-Out".into();
    let wire = wire_as("Backstop:Opt-Out", Some("all"), POLICY, none);
    assert_eq!(run(&wire, set).await.unwrap(), "told");
    assert_eq!(
        put(&wire),
        ["Remediation Recorded", "Remediation Recorded"],
        "no look"
    );
    for about in recorded(&wire) {
        assert_eq!(about["key"], "Backstop:Opt-Out");
        assert_eq!(about["value"], "all");
        for (control, means) in about["means"].as_object().unwrap() {
            assert_eq!(means["state"], "malformed", "{control}");
        }
    }
    let about = &recorded(&wire)[1];
    assert_eq!(about["means"].as_object().unwrap().len(), 5, "{about}");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_cannot_be_asked_for_keeps_nobody_from_being_told_and_is_tried_again() {
    let wire = wire(None, POLICY, |call| {
        let check = call.operation == "PutEvents"
            && call.json["Entries"][0]["DetailType"] == "Check Requested";
        check.then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    let error = run(&wire, event("DeleteTags", &[GROUP])).await.unwrap_err();
    assert!(error.contains("AccessDeniedException"), "{error}");
    assert_eq!(recorded(&wire).len(), 1);
    assert!(put(&wire).contains(&"Remediation Recorded".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_recorded_hides_no_other() {
    let wire = wire(Some("all"), POLICY, |call| {
        let first = call.json["Key"]["pk"]["S"]
            .as_str()
            .is_some_and(|pk| pk.ends_with("vpc-1"));
        first.then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    let error = run(&wire, event("CreateTags", &["vpc-1", GROUP]))
        .await
        .unwrap_err();
    assert!(error.contains("AccessDeniedException"), "{error}");
    assert_eq!(recorded(&wire).len(), 1, "the other one");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_or_asked_for_when_tags_or_policy_cannot_be_read() {
    for operation in ["DescribeTags", "GetParameter"] {
        let wire = wire(Some("all"), POLICY, move |call| {
            (call.operation == operation).then(|| match operation {
                "DescribeTags" => Reply::ec2_error(403, "UnauthorizedOperation", "no"),
                _ => Reply::json_error("AccessDeniedException", "no"),
            })
        });
        run(&wire, event("CreateTags", &[GROUP])).await.unwrap_err();
        assert!(
            put(&wire).is_empty() && recorded(&wire).is_empty(),
            "{operation}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_deleted_all_tags_is_told_only_of_what_was_known_to_be_opted_out() {
    let mut all = event("DeleteTags", &[GROUP]);
    all["detail"]["requestParameters"]["tagSet"] = json!({});
    let unknown = wire(None, POLICY, none);
    assert_eq!(run(&unknown, all.clone()).await.unwrap(), "known");
    assert_eq!(put(&unknown), ["Check Requested"], "looked at all the same");
    let known = wire(None, POLICY, |call| {
        (call.operation == "GetItem").then(|| {
            Reply::ok(json!({ "Item": { "state_key": { "S": "before" }, "entry": { "S": "01KAT5J3V0QZ8Y2N4M6P8R0T2W" }, "told": { "BOOL": true } } }).to_string())
        })
    });
    assert_eq!(run(&known, all).await.unwrap(), "told");
}

const INSTANCE: &str = "i-0123456789abcdef0";

/// The checks that were asked for: control and resource.
fn checks(wire: &Wire) -> Vec<(String, String)> {
    let calls = wire.calls();
    let put = calls.iter().filter(|call| call.operation == "PutEvents");
    put.flat_map(|call| call.json["Entries"].as_array().unwrap().clone())
        .filter(|entry| entry["DetailType"] == "Check Requested")
        .map(|entry| {
            let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
            let text = |name: &str| detail[name].as_str().unwrap().to_owned();
            (text("control"), text("resource"))
        })
        .collect()
}

fn check(control: &str) -> (String, String) {
    (control.to_owned(), INSTANCE.to_owned())
}

/// Patches are looked at once, whichever control is concerned.
fn of_an_instance() -> [(String, String); 3] {
    ["unencrypted-volume", "missing-patches", "imdsv1"].map(check)
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_lost_its_opt_out_is_checked_for_its_volumes_its_patches_and_its_metadata_service()
 {
    for tag in [None, Some("all until=2020-01-31")] {
        let wire = wire(tag, POLICY, none);
        let answer = run(&wire, event("DeleteTags", &[INSTANCE])).await;
        assert_eq!(answer.unwrap(), "told");
        assert_eq!(checks(&wire), of_an_instance(), "{tag:?}");
        assert_eq!(recorded(&wire).len(), 1, "told once");
    }
    let wire = wire(Some("all"), POLICY, none);
    run(&wire, event("CreateTags", &[INSTANCE])).await.unwrap();
    assert_eq!(checks(&wire), [], "it holds for all of them: no look");
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_names_one_control_of_patches_says_what_it_means_to_each() {
    let cases: [(&str, &[&str]); 3] = [
        // Installing patches is one thing, whichever control leads to it.
        (
            "vulnerable-package until=2099-01-31",
            &["vulnerable-package", "missing-patches"],
        ),
        (
            "missing-patches",
            &["vulnerable-package", "missing-patches"],
        ),
        ("unmanaged-instance", &["unmanaged-instance"]),
    ];
    for (tag, exempt) in cases {
        let wire = wire(Some(tag), POLICY, none);
        run(&wire, event("CreateTags", &[INSTANCE])).await.unwrap();
        let [about] = &recorded(&wire)[..] else {
            panic!("one notice")
        };
        let means = about["means"].as_object().unwrap();
        let states: Vec<&str> = means
            .values()
            .map(|m| m["state"].as_str().unwrap())
            .collect();
        assert_eq!(means.len(), exempt.len(), "{tag}: {means:?}");
        assert!(
            exempt.iter().all(|control| means.contains_key(*control)),
            "{tag}"
        );
        assert!(states.iter().all(|state| *state == "exempt"), "{tag}");
        assert_eq!(
            checks(&wire),
            of_an_instance(),
            "what it does not name is looked at"
        );
    }
}
