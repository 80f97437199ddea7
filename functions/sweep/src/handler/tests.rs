//! The sweep against the real SDK clients with canned answers: what is asked
//! and told, and that a part that fails stops no other.

use std::collections::BTreeSet;

use backstop_wire::{Call, Reply, Wire};

use super::*;

const CLOSED: usize = 3;

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn group_xml(id: &str, port: u16) -> String {
    format!(
        "<item><ownerId>111122223333</ownerId><groupId>{id}</groupId><groupName>{id}</groupName><vpcId>vpc-1</vpcId><ipPermissions><item><ipProtocol>tcp</ipProtocol><fromPort>{port}</fromPort><toPort>{port}</toPort><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges></item></ipPermissions></item>"
    )
}

/// Two pages: one open group on each, among closed ones.
fn answer(mode: &str, call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeSecurityGroups" => {
            let (open, next) = match call.parameter("NextToken") {
                None => ("sg-open1", "<nextToken>2</nextToken>"),
                Some("2") => ("sg-open2", ""),
                other => panic!("{other:?}"),
            };
            assert_eq!(call.parameter("MaxResults"), Some("1000"));
            let closed: String = (0..CLOSED)
                .map(|n| group_xml(&format!("sg-closed{n}"), 443))
                .collect();
            let open = group_xml(open, 22);
            xml("DescribeSecurityGroups", &format!("<securityGroupInfo>{closed}{open}</securityGroupInfo>{next}"))
        }
        "DescribeTags" if call.parameter("Filter.2.Name") == Some("resource-type") => {
            xml("DescribeTags", "<tagSet/>")
        }
        "DescribeTags" => xml("DescribeTags", "<tagSet><item><resourceId>sg-closed1</resourceId><resourceType>security-group</resourceType><key>backstop:opt-out</key><value>all until=2020-01-01 owner=web</value></item></tagSet>"),
        "GetParameter" => Reply::ok(json!({ "Parameter": { "Value": format!(r#"{{"version":1,"controls":{{"open-ingress":{{"mode":"{mode}"}}}}}}"#), "Version": 3 } }).to_string()),
        "GetItem" | "BatchGetItem" | "PutItem" | "UpdateItem" | "DeleteItem" | "TransactWriteItems" => Reply::ok("{}"),
        "Query" => Reply::ok(r#"{"Items":[],"Count":0}"#),
        "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
        "DescribeTrails" => Reply::ok(r#"{"trailList":[{"Name":"t","TrailARN":"arn:t","IsMultiRegionTrail":true}]}"#),
        "GetTrailStatus" => Reply::ok(r#"{"IsLogging":true}"#),
        "GetEventSelectors" => Reply::ok(r#"{"EventSelectors":[{"ReadWriteType":"All","IncludeManagementEvents":true}]}"#),
        "DescribeRule" => Reply::ok(r#"{"Name":"r","State":"ENABLED"}"#),
        "GetTopicAttributes" => Reply::ok("<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>SubscriptionsConfirmed</key><value>1</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>"),
        "GetQueueAttributes" => Reply::ok(r#"{"Attributes":{"ApproximateNumberOfMessages":"0"}}"#),
        "DescribeVolumes" => xml("DescribeVolumes", "<volumeSet/>"),
        "DescribeSnapshots" => xml("DescribeSnapshots", "<snapshotSet/>"),
        "GetEbsEncryptionByDefault" => xml("GetEbsEncryptionByDefault", "<ebsEncryptionByDefault>true</ebsEncryptionByDefault>"),
        other => panic!("{other}"),
    }
}

fn wire_in(
    mode: &'static str,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    Wire::new(move |call| fails(call).unwrap_or_else(|| answer(mode, call)))
}

async fn run(wire: &Wire, payload: Value) -> Result<String, String> {
    let config = wire.config(1);
    let settings = SweepSettings {
        ledger_table: "ledger".into(),
        policy_parameter: "/p".into(),
        mode: Mode::Notify,
        topic_arn: "arn:aws:sns:eu-central-1:111122223333:t".into(),
        queue_url: "https://sqs.eu-central-1.amazonaws.com/111122223333/q".into(),
        rule_names: vec!["r".into()],
    };
    let mut context = Context::default();
    context.request_id = "request-1".into();
    context.deadline =
        (Timestamp::now() + std::time::Duration::from_secs(900)).as_millisecond() as u64;
    context.invoked_function_arn =
        "arn:aws:lambda:eu-central-1:111122223333:function:backstop-sweep".into();
    Handler::new(
        Clients::new(&config),
        OperationsClients::new(&config),
        settings,
    )
    .handle(LambdaEvent::new(payload, context))
    .await
    .map(|answer| answer["verdict"].as_str().unwrap().to_owned())
    .map_err(|failure| Diagnostic::from(failure).error_message)
}

/// The details of the events of a type that were put on the bus.
fn events(wire: &Wire, detail_type: &str) -> Vec<Value> {
    wire.calls()
        .iter()
        .filter(|call| call.operation == "PutEvents")
        .flat_map(|call| call.json["Entries"].as_array().unwrap().clone())
        .filter(|entry| entry["DetailType"] == detail_type)
        .map(|entry| serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap())
        .collect()
}

fn asked(wire: &Wire) -> BTreeSet<String> {
    events(wire, "Check Requested")
        .iter()
        .map(|detail| detail["resource"].as_str().unwrap().to_owned())
        .collect()
}

/// The notices that were recorded, by topic.
fn notices(wire: &Wire) -> Vec<Value> {
    wire.calls()
        .iter()
        .filter(|call| call.operation == "TransactWriteItems")
        .flat_map(|call| call.json["TransactItems"].as_array().unwrap().clone())
        .filter_map(|item| {
            item["Put"]["Item"]["document"]["S"]
                .as_str()
                .map(str::to_owned)
        })
        .map(|document| serde_json::from_str::<Value>(&document).unwrap())
        .filter(|document| document["kind"] == "notice")
        .map(|document| document["about"].clone())
        .collect()
}

/// Items that were put, by partition key.
fn put(wire: &Wire) -> Vec<String> {
    wire.calls()
        .iter()
        .filter(|call| call.operation == "PutItem")
        .map(|call| call.json["Item"]["pk"]["S"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn every_open_group_is_asked_about_whatever_page_it_is_on_and_one_digest_is_told() {
    let wire = wire_in("notify", |_| None);
    assert_eq!(run(&wire, json!({})).await.unwrap(), "told");
    assert_eq!(
        asked(&wire),
        BTreeSet::from(["sg-open1".to_owned(), "sg-open2".to_owned()])
    );
    let [digest] = &notices(&wire)[..] else {
        panic!("one notice")
    };
    assert_eq!(digest["topic"], "digest");
    assert_eq!(digest["looked_at"]["open-ingress"], 2 * (CLOSED + 1));
    assert_eq!(digest["met_first"]["count"], 2);
    assert_eq!(
        digest["open"]["open-ingress"]["the mode is `notify`"]["count"],
        2
    );
    assert_eq!(digest["opt_outs"][0]["state"], "ended");
    assert_eq!(digest["opt_outs"][0]["owner"], "web");
    assert_eq!(events(&wire, "Remediation Recorded").len(), 1);
    assert_eq!(
        put(&wire),
        Vec::<String>::new(),
        "no baseline in mode notify"
    );
}

#[tokio::test]
async fn every_payload_of_the_corpus_sweeps() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/sweep");
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    let expected = read("expected.json");
    let files: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "expected.json")
        .collect();
    assert_eq!(
        files,
        expected.as_object().unwrap().keys().cloned().collect()
    );
    for file in files {
        assert_eq!(expected[&file], "sweeps");
        let wire = wire_in("notify", |_| None);
        assert_eq!(run(&wire, read(&file)).await.unwrap(), "told", "{file}");
    }
}

#[tokio::test]
async fn the_first_walk_in_enforce_makes_the_baseline_before_it_asks_and_marks_it_last() {
    let wire = wire_in("enforce", |_| None);
    run(&wire, json!({})).await.unwrap();
    assert_eq!(
        put(&wire),
        [
            "baseline#open-ingress#sg-open1",
            "baseline#open-ingress#sg-open2",
            "baseline#open-ingress"
        ]
    );
    let operations = wire.operations();
    let first = |operation: &str| operations.iter().position(|o| o == operation).unwrap();
    assert!(
        first("PutItem") < first("PutEvents"),
        "spared before it is asked about"
    );
    let [digest] = &notices(&wire)[..] else {
        panic!("one notice")
    };
    assert_eq!(
        digest["open"]["open-ingress"]["it was there before `enforce`"]["count"],
        2
    );
}

#[tokio::test]
async fn a_walk_that_is_cut_off_marks_no_baseline_and_says_how_far_it_came() {
    let wire = wire_in("enforce", |call| {
        (call.parameter("NextToken") == Some("2"))
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
    });
    let error = run(&wire, json!({})).await.unwrap_err();
    assert!(
        error.contains("ended after 4 of them") && error.contains("UnauthorizedOperation"),
        "{error}"
    );
    assert_eq!(put(&wire), ["baseline#open-ingress#sg-open1"], "no marker");
    assert_eq!(asked(&wire), BTreeSet::from(["sg-open1".to_owned()]));
    let [digest] = &notices(&wire)[..] else {
        panic!("one notice")
    };
    assert!(
        digest["unseen"][0]
            .as_str()
            .unwrap()
            .contains("ended after 4")
    );
    assert_eq!(
        digest["opt_outs"].as_array().unwrap().len(),
        1,
        "the rest was done"
    );
}

#[tokio::test]
async fn with_a_baseline_that_stands_what_is_new_is_being_put_right() {
    let wire = wire_in("enforce", |call| {
        let marker = call.json["Key"]["pk"]["S"] == "baseline#open-ingress";
        (call.operation == "GetItem" && marker).then(|| {
            Reply::ok(json!({ "Item": { "pk": {"S": "baseline#open-ingress"} } }).to_string())
        })
    });
    run(&wire, json!({})).await.unwrap();
    assert_eq!(put(&wire), Vec::<String>::new());
    let [digest] = &notices(&wire)[..] else {
        panic!("one notice")
    };
    assert_eq!(
        digest["open"]["open-ingress"]["being put right"]["count"],
        2
    );
}

#[tokio::test]
async fn what_is_known_and_told_as_it_is_costs_no_event() {
    // What the first sweep's check would record, as a page shows it too.
    let known = std::sync::Arc::new(std::sync::Mutex::new(None::<String>));
    let place = |id: &str| SecurityGroup {
        id: id.into(),
        name: id.into(),
        owner: "111122223333".into(),
        arn: "arn".into(),
        vpc: Some("vpc-1".into()),
        tags: Default::default(),
        vpc_opt_out: None,
        rules: [(
            "sgr-1".to_owned(),
            backstop_core::security_group::IngressRule {
                id: "sgr-1".into(),
                permission: backstop_core::ports::Permission::new("tcp", 22, 22),
                source: backstop_core::security_group::Source::Ipv4("0.0.0.0/0".into()),
                description: None,
                tags: Default::default(),
            },
        )]
        .into(),
        prefix_lists: Default::default(),
    };
    let decision = open_ingress::decide(
        &Facts::Group(Box::new(place("sg-open1"))),
        &backstop_core::policy::Policy::default(),
        &Circumstances {
            mode: Mode::Notify,
            account: "111122223333",
            now: Timestamp::now(),
            guards: &Guards::default(),
        },
    );
    let Verdict::Violates(finding) = &decision.verdict else {
        panic!()
    };
    *known.lock().unwrap() = Some(backstop_core::entry::page_key(
        Status::Notified,
        &decision.exemptions.group,
        &finding.exposures,
    ));
    let wire = wire_in("notify", move |call| {
        let key = known.lock().unwrap().clone().unwrap();
        (call.operation == "BatchGetItem").then(|| {
            let item = json!({
                "pk": {"S": "known#open-ingress#sg-open1"}, "sk": {"S": "known"}, "told": {"BOOL": true},
                "state_key": {"S": "x"}, "entry": {"S": "01JD"}, "page_key": {"S": key},
            });
            Reply::ok(json!({ "Responses": { "ledger": [item] } }).to_string())
        })
    });
    run(&wire, json!({})).await.unwrap();
    assert_eq!(asked(&wire), BTreeSet::from(["sg-open2".to_owned()]));
    let [digest] = &notices(&wire)[..] else {
        panic!("one notice")
    };
    assert_eq!(digest["met_first"]["count"], 1);
    assert_eq!(
        digest["open"]["open-ingress"]["the mode is `notify`"]["count"],
        2
    );
}

#[tokio::test]
async fn mode_off_is_not_walked() {
    let wire = wire_in("off", |_| None);
    run(&wire, json!({})).await.unwrap();
    assert!(
        !wire
            .operations()
            .contains(&"DescribeSecurityGroups".to_owned())
    );
}

#[tokio::test]
async fn a_part_that_fails_stops_no_other_and_is_said() {
    for (operation, part) in [
        ("GetTopicAttributes", None),
        ("DescribeTrails", None),
        ("Query", Some("what nobody was told yet")),
        ("BatchGetItem", Some("BatchGetItem: AccessDeniedException")),
    ] {
        let wire = wire_in("notify", move |call| {
            (call.operation == operation).then(|| Reply::json_error("AccessDeniedException", "no"))
        });
        let answer = run(&wire, json!({})).await;
        let digest = notices(&wire);
        let digest = digest
            .iter()
            .find(|notice| notice["topic"] == "digest")
            .unwrap();
        assert_eq!(
            digest["opt_outs"].as_array().unwrap().len(),
            1,
            "{operation}"
        );
        match part {
            Some(part) => {
                let error = answer.unwrap_err();
                assert!(error.contains(part), "{operation}: {error}");
                assert!(digest["unseen"].to_string().contains(part), "{digest}");
            }
            // A check that cannot be made is a failed check, and told as one.
            None => {
                answer.unwrap();
                let health = notices(&wire);
                let health = health
                    .iter()
                    .find(|notice| notice["topic"] == "health")
                    .unwrap();
                assert_eq!(health["failed"].as_array().unwrap().len(), 1);
                assert!(
                    health["failed"][0]["found"]
                        .as_str()
                        .unwrap()
                        .contains(operation)
                );
            }
        }
    }
    // Without a policy nothing is judged; the rest goes on.
    let wire = wire_in("enfroce", |_| None);
    let error = run(&wire, json!({})).await.unwrap_err();
    assert!(error.contains("`controls.open-ingress.mode`"), "{error}");
    let topics: BTreeSet<String> = notices(&wire)
        .iter()
        .map(|notice| notice["topic"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        topics,
        BTreeSet::from(["digest".to_owned(), "health".to_owned()])
    );
}
