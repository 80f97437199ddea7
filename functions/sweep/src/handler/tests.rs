//! The sweep against the real SDK clients with canned answers: what is asked
//! and told, and that a part that fails stops no other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::decide::{Circumstances, decide};
use backstop_core::guards::Guards;
use backstop_core::policy::Governed;
use backstop_core::security_group::SecurityGroup;
use backstop_wire::memory::table::Table;
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
        "ListStackResources" => Reply::ok("<ListStackResourcesResponse><ListStackResourcesResult><StackResourceSummaries><member><LogicalResourceId>R</LogicalResourceId><PhysicalResourceId>r</PhysicalResourceId><ResourceType>AWS::Events::Rule</ResourceType><LastUpdatedTimestamp>2026-11-24T10:00:00Z</LastUpdatedTimestamp><ResourceStatus>CREATE_COMPLETE</ResourceStatus></member></StackResourceSummaries></ListStackResourcesResult></ListStackResourcesResponse>"),
        "DescribeRule" => Reply::ok(r#"{"Name":"r","State":"ENABLED"}"#),
        "GetTopicAttributes" => Reply::ok("<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>SubscriptionsConfirmed</key><value>1</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>"),
        "GetQueueAttributes" => Reply::ok(r#"{"Attributes":{"ApproximateNumberOfMessages":"0"}}"#),
        "ReceiveMessage" => Reply::ok("{}"),
        "DescribeVolumes" => xml("DescribeVolumes", "<volumeSet/>"),
        "DescribeSnapshots" => xml("DescribeSnapshots", "<snapshotSet/>"),
        "DescribeImages" => xml("DescribeImages", "<imagesSet/>"),
        "DescribeSubnets" => xml("DescribeSubnets", "<subnetSet/>"),
        "GetSnapshotBlockPublicAccessState" => xml(
            "GetSnapshotBlockPublicAccessState",
            "<state>block-new-sharing</state>",
        ),
        "GetImageBlockPublicAccessState" => xml(
            "GetImageBlockPublicAccessState",
            "<imageBlockPublicAccessState>block-new-sharing</imageBlockPublicAccessState>",
        ),
        "GetInstanceMetadataDefaults" => xml(
            "GetInstanceMetadataDefaults",
            "<accountLevel><httpTokens>required</httpTokens></accountLevel>",
        ),
        "GetSerialConsoleAccessStatus" => xml(
            "GetSerialConsoleAccessStatus",
            "<serialConsoleAccessEnabled>false</serialConsoleAccessEnabled>",
        ),
        "DescribeInstances" => xml("DescribeInstances", "<reservationSet/>"),
        "GetEbsEncryptionByDefault" => xml("GetEbsEncryptionByDefault", "<ebsEncryptionByDefault>true</ebsEncryptionByDefault>"),
        other => panic!("{other}"),
    }
}

fn wire_in(
    mode: &'static str,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    Wire::new(move |call| match by_name(call) {
        // There is no default group.
        true => xml("DescribeSecurityGroups", "<securityGroupInfo/>"),
        false => fails(call).unwrap_or_else(|| answer(mode, call)),
    })
}

fn by_name(call: &Call) -> bool {
    call.parameter("Filter.1.Name") == Some("group-name")
}

async fn run(wire: &Wire, payload: Value) -> Result<String, String> {
    let config = wire.config(1);
    let settings = SweepSettings {
        ledger_table: "ledger".into(),
        policy_parameter: "/p".into(),
        mode: Mode::Notify,
        topic_arn: "arn:aws:sns:eu-central-1:111122223333:t".into(),
        queue_url: "https://sqs.eu-central-1.amazonaws.com/111122223333/q".into(),
        stack_id: "arn:aws:cloudformation:eu-central-1:111122223333:stack/backstop/1".into(),
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
    .map_err(|failure| failure.error_message)
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
        // Good states of settings are kept in any mode.
        .filter(|pk| !pk.starts_with("former#"))
        .collect()
}

#[tokio::test(start_paused = true)]
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

/// A change of another account's list raises no event here, and a list that is no
/// longer shared cannot be judged: the sweep is all that sees either.
#[tokio::test(start_paused = true)]
async fn lists_of_other_accounts_are_named_and_what_cannot_be_judged_is_asked_about() {
    let group = |id: &str, list: &str| {
        format!(
            "<item><ownerId>111122223333</ownerId><groupId>{id}</groupId><groupName>{id}</groupName><vpcId>vpc-1</vpcId><ipPermissions><item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort><prefixListIds><item><prefixListId>{list}</prefixListId></item></prefixListIds></item></ipPermissions></item>"
        )
    };
    let wire = wire_in("enforce", move |call| match call.operation.as_str() {
        "DescribeSecurityGroups" => {
            let lists = ["pl-shared", "pl-own", "pl-aws", "pl-unshared"];
            let groups = lists.map(|list| group(&list.replace("pl-", "sg-"), list));
            let groups = groups.concat();
            Some(xml(
                "DescribeSecurityGroups",
                &format!("<securityGroupInfo>{groups}</securityGroupInfo>"),
            ))
        }
        "GetManagedPrefixListEntries" if call.parameter("PrefixListId") == Some("pl-unshared") => {
            Some(Reply::ec2_error(400, "InvalidPrefixListID.NotFound", "no"))
        }
        "GetManagedPrefixListEntries" => Some(xml(
            "GetManagedPrefixListEntries",
            "<entrySet><item><cidr>10.0.0.0/8</cidr></item></entrySet>",
        )),
        "DescribeManagedPrefixLists" => {
            let list = |id: &str, owner: &str| {
                format!("<item><prefixListId>{id}</prefixListId><ownerId>{owner}</ownerId></item>")
            };
            let lists = [
                list("pl-shared", "444455556666"),
                list("pl-own", "111122223333"),
                list("pl-aws", "AWS"),
            ];
            Some(xml(
                "DescribeManagedPrefixLists",
                &format!("<prefixListSet>{}</prefixListSet>", lists.concat()),
            ))
        }
        _ => None,
    });
    assert_eq!(run(&wire, json!({})).await.unwrap(), "told");
    assert_eq!(asked(&wire), BTreeSet::from(["sg-unshared".to_owned()]));
    let [digest] = &notices(&wire)[..] else {
        panic!("one notice")
    };
    assert_eq!(
        digest["of_others"],
        json!({ "pl-shared": {
            "owner": "444455556666",
            "needed_by": { "count": 1, "examples": ["sg-shared"] },
        } })
    );
    assert_eq!(
        digest["open"]["open-ingress"],
        json!({ "it cannot be judged": { "count": 1, "examples": ["sg-unshared"] } })
    );
    assert_eq!(digest["unseen"], json!([]));
}

#[tokio::test(start_paused = true)]
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

#[tokio::test(start_paused = true)]
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

#[tokio::test(start_paused = true)]
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

/// A page may show only what is exposed, as that of snapshots does.
#[tokio::test(start_paused = true)]
async fn what_the_baseline_spares_and_no_page_shows_is_new_when_it_comes_back() {
    let wire = wire_in("enforce", |call| {
        let of_groups = call.json.to_string().contains("baseline#open-ingress");
        let item = match call.operation.as_str() {
            "GetItem" if of_groups => json!({ "Item": { "pk": {"S": "baseline#open-ingress"} } }),
            "Query" if of_groups => {
                json!({ "Items": [{ "pk": {"S": "baseline#open-ingress#sg-gone"} }] })
            }
            "DeleteItem" => json!({}),
            _ => return None,
        };
        Some(Reply::ok(item.to_string()))
    });
    run(&wire, json!({})).await.unwrap();
    let calls = wire.calls();
    let deleted = calls.iter().filter(|call| call.operation == "DeleteItem");
    let deleted: Vec<_> = deleted.map(|call| &call.json["Key"]["pk"]["S"]).collect();
    assert_eq!(deleted, ["baseline#open-ingress#sg-gone"]);
}

#[tokio::test(start_paused = true)]
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

#[tokio::test(start_paused = true)]
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
        vpc_opt_outs: Default::default(),
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
    let decision = decide::<OpenIngress>(
        Some(&place("sg-open1")),
        &OpenIngress::rules(&backstop_core::policy::Policy::default()),
        &Circumstances {
            mode: Mode::Notify,
            account: "111122223333",
            now: Timestamp::now(),
            guards: &Guards::default(),
        },
    );
    let Some(finding) = decision.finding() else {
        panic!()
    };
    *known.lock().unwrap() = Some(backstop_core::entry::page_key(
        Status::Notified,
        &decision.exemptions.resource,
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

#[tokio::test(start_paused = true)]
async fn mode_off_is_not_walked() {
    let wire = wire_in("off", |_| None);
    run(&wire, json!({})).await.unwrap();
    let of_groups = |call: &Call| call.operation == "DescribeSecurityGroups";
    // default-security-group is not off.
    let calls = wire.calls();
    assert!(calls.iter().filter(|call| of_groups(call)).all(by_name));
}

#[tokio::test(start_paused = true)]
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

/// A ledger that keeps what it is told, but for its indexes, on a wire on which
/// `fails` may answer first.
fn remembering(fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static) -> Wire {
    let table = std::sync::Mutex::new(Table::default());
    wire_in("off", move |call| {
        fails(call).or_else(|| match call.operation.as_str() {
            "Query" => None,
            _ => table.lock().unwrap().answer(call),
        })
    })
}

/// The notices of a topic that `notify` was asked to tell since `from` calls.
fn told_notices(wire: &Wire, topic: &str, from: usize) -> Vec<Record> {
    let calls = wire.calls();
    let asked: Vec<String> = events(wire, "Remediation Recorded")
        .iter()
        .map(|detail| detail["entry"].as_str().unwrap().to_owned())
        .collect();
    calls[from..]
        .iter()
        .filter(|call| call.operation == "TransactWriteItems")
        .flat_map(|call| call.json["TransactItems"].as_array().unwrap().clone())
        .filter_map(|item| {
            let document = item["Put"]["Item"]["document"]["S"].as_str()?;
            Record::parse(document).ok()
        })
        .filter(|record| record.outcome() == topic && asked.contains(&record.id().to_owned()))
        .collect()
}

/// Well, ill, well, ill: each change is told, and under a key of its own, since
/// `notify` sends what has the same key once.
#[tokio::test(start_paused = true)]
async fn an_outage_that_comes_back_is_told_again_and_so_is_its_end() {
    let subscribed = Arc::new(AtomicBool::new(true));
    let of_topic = subscribed.clone();
    let wire = remembering(move |call| {
        let nobody = !of_topic.load(Ordering::SeqCst) && call.operation == "GetTopicAttributes";
        nobody.then(|| Reply::ok("<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes/></GetTopicAttributesResult></GetTopicAttributesResponse>"))
    });
    let mut keys = BTreeSet::new();
    for (well, told) in [
        (true, 0),
        (false, 1),
        (false, 0),
        (true, 1),
        (true, 0),
        (false, 1),
        (true, 1),
    ] {
        subscribed.store(well, Ordering::SeqCst);
        let from = wire.calls().len();
        run(&wire, json!({})).await.unwrap();
        let health = told_notices(&wire, "health", from);
        assert_eq!(health.len(), told, "{keys:?}");
        for record in health {
            assert!(keys.insert(record.message_key()), "sent before");
        }
    }
    assert_eq!(keys.len(), 4);
}

/// The alarm about their queue is raised once, however many follow.
#[tokio::test(start_paused = true)]
async fn each_failed_event_is_told_once_while_older_ones_lie_in_the_queue() {
    let bodies = Arc::new(Mutex::new((Vec::<(&str, String)>::new(), false)));
    let queue = bodies.clone();
    let wire = remembering(move |call| {
        if call.operation != "ReceiveMessage" {
            return (call.operation == "ChangeMessageVisibility").then(|| Reply::ok("{}"));
        }
        // All of them, and then none: they are hidden.
        let (messages, hidden) = &mut *queue.lock().unwrap();
        *hidden = !*hidden;
        let shown = messages
            .iter()
            .filter(|_| *hidden)
            .map(|(id, body)| json!({ "MessageId": id, "ReceiptHandle": id, "Body": body }));
        Some(Reply::ok(
            json!({ "Messages": shown.collect::<Vec<_>>() }).to_string(),
        ))
    });
    let failed = |group: &str| {
        json!({
            "source": "backstop", "detail-type": "Check Requested",
            "detail": { "control": "open-ingress", "resource": group },
        })
        .to_string()
    };
    for (id, body, event) in [
        ("m1", failed("sg-1"), "Check Requested sg-1"),
        // The same event once more is another message.
        ("m2", failed("sg-1"), "Check Requested sg-1"),
        ("m3", "no event".to_owned(), "a message that cannot be read"),
    ] {
        bodies.lock().unwrap().0.push((id, body));
        bodies.lock().unwrap().1 = false;
        let from = wire.calls().len();
        run(&wire, json!({})).await.unwrap();
        let told = told_notices(&wire, "event-failed", from);
        let [Record::Notice(notice)] = &told[..] else {
            panic!("{told:?}")
        };
        let About::EventFailed(failed) = &notice.about else {
            panic!("{notice:?}")
        };
        assert_eq!(
            (failed.message.as_str(), failed.event.as_str()),
            (id, event)
        );
        let calls = wire.calls();
        let shown = calls[from..].iter().filter(|call| {
            call.operation == "ChangeMessageVisibility" && call.json["VisibilityTimeout"] == 0
        });
        assert_eq!(
            shown.count(),
            bodies.lock().unwrap().0.len(),
            "all are shown"
        );
        bodies.lock().unwrap().1 = false;
        let from = wire.calls().len();
        run(&wire, json!({})).await.unwrap();
        assert!(told_notices(&wire, "event-failed", from).is_empty());
    }
    // A queue that cannot be read is said, and stops nothing.
    let wire = wire_in("notify", |call| {
        (call.operation == "ReceiveMessage").then(|| Reply::json_error("AccessDenied", "no"))
    });
    let error = run(&wire, json!({})).await.unwrap_err();
    assert!(
        error.contains("the failed events: ReceiveMessage"),
        "{error}"
    );
    assert!(!notices(&wire).is_empty());
}

/// The metric that keeps the alarm on, and ends it.
#[tokio::test(start_paused = true)]
async fn every_sweep_reads_which_controls_have_tripped() {
    let wire = wire_in("notify", |_| None);
    run(&wire, json!({})).await.unwrap();
    let read = wire.calls().into_iter().rev().find_map(|call| {
        let keys = call.json["RequestItems"]["ledger"]["Keys"]
            .as_array()?
            .clone();
        let keys = keys.iter().filter_map(|key| key["pk"]["S"].as_str());
        let keys: BTreeSet<String> = keys.map(str::to_owned).collect();
        keys.iter()
            .all(|key| key.starts_with("trip#"))
            .then_some(keys)
    });
    let all = ControlId::ALL
        .iter()
        .map(|control| format!("trip#{control}"));
    assert_eq!(read, Some(all.collect()));
}

// --- instances

const INSTANCE: &str = "i-00000000000000001";
const ENFORCED: &str = r#"{"version":1,"controls":{"open-ingress":{"mode":"off"},"missing-patches":{"mode":"enforce"},"vulnerable-package":{"mode":"notify"}}}"#;

/// An instance that has been running for days, as a page shows it: its last
/// patch operation left this many patches missing; none: there was none.
struct Page {
    policy: String,
    missing: Option<u32>,
    /// The ledger's items, by key.
    items: std::collections::BTreeMap<String, Value>,
}

fn page(policy: &str, missing: Option<u32>, items: impl IntoIterator<Item = Value>) -> Page {
    let key = |item: &Value| item["pk"]["S"].as_str().unwrap().to_owned();
    Page {
        policy: policy.to_owned(),
        missing,
        items: items.into_iter().map(|item| (key(&item), item)).collect(),
    }
}

/// When its last patch operation ended.
const SCANNED: i64 = 1_790_000_000;

fn wire_of(page: Page) -> Wire {
    wire_with(page, |_| None)
}

fn wire_with(page: Page, first: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static) -> Wire {
    wire_in("off", move |call| {
        if let Some(reply) = first(call) {
            return Some(reply);
        }
        let of = |key: &Value| page.items.get(key["pk"]["S"].as_str().unwrap());
        Some(match call.operation.as_str() {
            "GetParameter" => Reply::ok(
                json!({ "Parameter": { "Value": page.policy, "Version": 3 } }).to_string(),
            ),
            // None of them answers IMDSv1.
            "DescribeInstances" if call.parameter("Filter.2.Name").is_some() => {
                xml("DescribeInstances", "<reservationSet/>")
            }
            "DescribeInstances" => {
                assert_eq!(call.parameter("Filter.1.Value.1"), Some("running"));
                xml(
                    "DescribeInstances",
                    &format!("<reservationSet><item><reservationId>r-1</reservationId><instancesSet><item><instanceId>{INSTANCE}</instanceId><instanceState><code>16</code><name>running</name></instanceState><launchTime>2026-01-05T10:00:00.000Z</launchTime></item></instancesSet></item></reservationSet>"),
                )
            }
            "DescribeInstanceInformation" => Reply::ok(
                json!({ "InstanceInformationList": [{ "InstanceId": INSTANCE, "PingStatus": "Online" }] })
                    .to_string(),
            ),
            "DescribeInstancePatchStates" => {
                let states = page.missing.map(|missing| {
                    json!({
                        "InstanceId": INSTANCE, "PatchGroup": "", "BaselineId": "pb-1",
                        "OperationStartTime": SCANNED, "OperationEndTime": SCANNED,
                        "Operation": "Scan", "MissingCount": missing, "FailedCount": 0,
                    })
                });
                let states: Vec<Value> = states.into_iter().collect();
                Reply::ok(json!({ "InstancePatchStates": states }).to_string())
            }
            "BatchGetItem" => {
                let keys = call.json["RequestItems"]["ledger"]["Keys"].as_array();
                let found: Vec<&Value> = keys.unwrap().iter().filter_map(of).collect();
                Reply::ok(json!({ "Responses": { "ledger": found } }).to_string())
            }
            "GetItem" => match of(&call.json["Key"]) {
                Some(item) => Reply::ok(json!({ "Item": item }).to_string()),
                None => Reply::ok("{}"),
            },
            "Query" => {
                let asked = &call.json["ExpressionAttributeValues"][":value"];
                let index = call.json["ExpressionAttributeNames"]["#partition"].as_str();
                let index = index.unwrap();
                let found: Vec<&Value> = page
                    .items
                    .values()
                    .filter(|item| item.get(index) == Some(asked))
                    .collect();
                Reply::ok(json!({ "Items": found, "Count": found.len() }).to_string())
            }
            _ => return None,
        })
    })
}

/// The instance's facts as a page shows them.
fn facts(missing: u32) -> backstop_core::patching::PatchFacts {
    use backstop_core::patching::{Agent, Host, PatchFacts, PatchState};
    PatchFacts {
        host: Some(Host {
            id: INSTANCE.into(),
            state: "running".into(),
            launched_at: "2026-01-05T10:00:00Z".parse().ok(),
            ..Host::default()
        }),
        agent: Some(Agent {
            ping: "Online".into(),
            ..Agent::default()
        }),
        state: Some(PatchState {
            operation: "Scan".into(),
            ended_at: Timestamp::from_second(SCANNED).ok(),
            missing,
            ..PatchState::default()
        }),
        ..PatchFacts::default()
    }
}

/// The record of a run on the instance.
fn patching(status: Status) -> backstop_core::patching::Patching {
    use backstop_core::patching::decide::{self, About};
    let policy = backstop_core::policy::Policy::parse(ENFORCED).unwrap();
    let guards = std::collections::BTreeMap::new();
    let now = Timestamp::now();
    let circumstances = decide::Circumstances {
        mode: Mode::Notify,
        now,
        guards: &guards,
    };
    let facts = facts(2);
    let decision = decide::decide(&facts, &policy.patching(), &circumstances);
    let about = About {
        id: "01K00000000000000000000000",
        trigger: &backstop_core::trigger::Trigger {
            resource: INSTANCE.into(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            actor: Actor::default(),
        },
        partition: "aws",
        owner_tag: "owner",
        policy_version: 3,
        now,
    };
    let mut run = decide::record(&facts, &decision, &policy.patching, about).unwrap();
    run.head.status = status;
    run
}

/// An untold record, as the ledger has it.
fn untold(run: &backstop_core::patching::Patching) -> Value {
    let mut document = serde_json::to_value(run).unwrap();
    document["kind"] = "patching".into();
    json!({
        "pk": { "S": format!("entry#{}", run.head.id) }, "sk": { "S": "entry" },
        "document": { "S": document.to_string() }, "told": { "BOOL": false },
        "untold": { "S": "untold" }, "started_at": { "S": "2026-11-19T10:00:00Z" },
        "revision": { "N": "1" },
    })
}

/// What is known of the instance, as a page showed it at this time.
fn known_at(policy: &str, at: Timestamp) -> Value {
    let key = backstop_core::sweep::patching::page_key(
        &facts(2),
        &backstop_core::policy::Policy::parse(policy).unwrap(),
        Mode::Notify,
        &std::collections::BTreeMap::from_iter(
            ControlId::PATCHING
                .iter()
                .map(|control| (*control, Guards::default())),
        ),
        at,
    );
    json!({
        "pk": { "S": format!("known#missing-patches#{INSTANCE}") }, "sk": { "S": "known" },
        "told": { "BOOL": true }, "state_key": { "S": "x" }, "entry": { "S": "01JD" },
        "page_key": { "S": key }, "status": { "S": "pending" },
    })
}

/// That a control's baseline stands.
fn walked(control: &str) -> Value {
    json!({ "pk": { "S": format!("baseline#{control}") }, "sk": { "S": "state" } })
}

fn baseline(control: &str, fingerprints: &[&str]) -> Value {
    json!({
        "pk": { "S": format!("baseline#{control}#{INSTANCE}") }, "sk": { "S": "state" },
        "fingerprints": { "SS": fingerprints }, "resource": { "S": format!("baseline#{control}") },
    })
}

fn lock(lease_until: i64) -> Value {
    json!({
        "pk": { "S": format!("lock#missing-patches#{INSTANCE}") }, "sk": { "S": "lock" },
        "entry": { "S": "01K0" }, "holder": { "S": "run 01K0" },
        "lease_until": { "N": lease_until.to_string() },
    })
}

/// The instance alone is asked about.
fn asks_about_it(wire: &Wire) -> bool {
    let asked = asked(wire);
    assert!(asked.is_empty() || asked == BTreeSet::from([INSTANCE.to_owned()]));
    !asked.is_empty()
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_never_scanned_is_asked_about_and_one_that_lacks_nothing_is_not() {
    for (missing, asks) in [(None, true), (Some(2), true), (Some(0), false)] {
        let wire = wire_of(page(ENFORCED, missing, [walked("missing-patches")]));
        run(&wire, json!({})).await.unwrap();
        assert_eq!(asks_about_it(&wire), asks, "{missing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_asked_about_again_when_its_window_opens_and_not_before() {
    // A window that opened with this minute.
    let now = Timestamp::now();
    let minute = Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap();
    let from = minute.strftime("%H:%M");
    let to = (minute + std::time::Duration::from_secs(7200)).strftime("%H:%M");
    let policy = ENFORCED.replace(
        r#""version":1"#,
        &format!(r#""version":1,"patching":{{"windows":[{{"from":"{from}","to":"{to}"}}]}}"#),
    );
    let before = minute - std::time::Duration::from_secs(1);
    for (known_at_time, asks) in [(before, true), (now, false)] {
        let known = known_at(&policy, known_at_time);
        let wire = wire_of(page(&policy, Some(2), [walked("missing-patches"), known]));
        run(&wire, json!({})).await.unwrap();
        assert_eq!(asks_about_it(&wire), asks, "known at {known_at_time}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_instance_and_holds_no_more_is_asked_about() {
    let known = known_at(ENFORCED, Timestamp::now());
    let wire = wire_of(page(ENFORCED, Some(0), [walked("missing-patches"), known]));
    run(&wire, json!({})).await.unwrap();
    assert!(asks_about_it(&wire));
}

#[tokio::test(start_paused = true)]
async fn what_instances_lack_at_the_switch_to_enforce_is_noted_before_they_are_asked_about() {
    let wire = wire_of(page(ENFORCED, Some(2), []));
    run(&wire, json!({})).await.unwrap();
    assert_eq!(
        put(&wire),
        [
            format!("baseline#missing-patches#{INSTANCE}"),
            "baseline#missing-patches".to_owned()
        ]
    );
    let noted = wire
        .calls()
        .into_iter()
        .find(|call| call.json["Item"]["fingerprints"].is_object());
    assert_eq!(
        noted.unwrap().json["Item"]["fingerprints"]["SS"],
        json!([backstop_core::controls::missing_patches::fingerprint(
            INSTANCE
        )])
    );
    let operations = wire.operations();
    let first = |operation: &str| operations.iter().position(|o| o == operation).unwrap();
    assert!(first("PutItem") < first("PutEvents"));
    assert!(asks_about_it(&wire), "it is recorded, and left");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_could_not_be_seen_completes_no_baseline() {
    for operation in ["DescribeInstanceInformation", "DescribeInstancePatchStates"] {
        let of = wire_of(page(ENFORCED, Some(2), []));
        let wire = Wire::new(move |call| match call.operation == operation {
            true => Reply::json_error("AccessDeniedException", "no"),
            false => of.answer(call),
        });
        let error = run(&wire, json!({})).await.unwrap_err();
        assert!(error.contains(operation), "{error}");
        assert_eq!(put(&wire), Vec::<String>::new(), "{operation}");
        assert!(!asks_about_it(&wire));
    }
    // What could not be asked for is asked for by the next sweep.
    let of = wire_of(page(ENFORCED, Some(2), []));
    let wire = Wire::new(move |call| {
        let asks = call.json["Entries"][0]["DetailType"] == "Check Requested";
        match asks {
            true => Reply::json_error("AccessDeniedException", "no"),
            false => of.answer(call),
        }
    });
    let error = run(&wire, json!({})).await.unwrap_err();
    assert!(error.contains("could not be asked for"), "{error}");
    assert!(put(&wire).contains(&"baseline#missing-patches".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_baseline_that_begins_again_holds_what_is_there_now() {
    use backstop_core::patching::{Package, Reports, Vulnerability};
    use backstop_core::words::Severity;
    let policy = r#"{"version":1,"controls":{"open-ingress":{"mode":"off"},"vulnerable-package":{"mode":"enforce"}}}"#;
    let arn = "arn:aws:inspector2:eu-central-1:111122223333:finding/1";
    let package = Package {
        name: "openssl-libs".into(),
        fixed_in: Some("3.0.9".into()),
        manager: "OS".into(),
        ..Package::default()
    };
    let mut reports = Reports::default();
    reports.report(Vulnerability {
        arn: arn.into(),
        severity: Severity::High,
        title: "CVE-2026-10001 - openssl-libs".into(),
        cves: vec!["CVE-2026-10001".into()],
        packages: vec![package],
        remediation: None,
        reported_at: Some(Timestamp::now()),
        installed_by: None,
        unmended: false,
    });
    // As the ledger writes them.
    let store = Wire::new(|_| Reply::ok("{}"));
    let ledger = Ledger::new(&Clients::new(&store.config(1)), "ledger".into());
    assert!(ledger.store_reports(INSTANCE, &mut reports).await.unwrap());
    let stored = store.calls()[0].json["TransactItems"][0]["Put"]["Item"].clone();

    // A walk that was cut off left one that is there no more.
    let old = baseline("vulnerable-package", &["closed since"]);
    let wire = wire_of(page(policy, Some(0), [stored, old]));
    run(&wire, json!({})).await.unwrap();
    let noted = wire.calls().into_iter().find(|call| {
        call.operation == "PutItem"
            && call.json["Item"]["pk"]["S"] == format!("baseline#vulnerable-package#{INSTANCE}")
    });
    assert_eq!(
        noted.unwrap().json["Item"]["fingerprints"]["SS"],
        json!([backstop_core::controls::vulnerable_package::fingerprint(
            arn
        )])
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_patched_since_is_taken_out_of_a_baseline_that_stands() {
    let spared = backstop_core::controls::missing_patches::fingerprint(INSTANCE);
    for (missing, kept) in [(0, false), (2, true)] {
        let items = [
            walked("missing-patches"),
            baseline("missing-patches", &[&spared]),
        ];
        let wire = wire_of(page(ENFORCED, Some(missing), items));
        run(&wire, json!({})).await.unwrap();
        let deleted: Vec<Value> = wire
            .calls()
            .into_iter()
            .filter(|call| call.operation == "DeleteItem")
            .map(|call| call.json["Key"]["pk"]["S"].clone())
            .collect();
        let gone = json!(format!("baseline#missing-patches#{INSTANCE}"));
        assert_eq!(deleted.contains(&gone), !kept, "{missing}");
        assert_eq!(put(&wire), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_at_work_is_left_to_its_run_and_one_whose_run_is_silent_is_asked_about() {
    let now = Timestamp::now().as_millisecond();
    for missing in [0, 2] {
        for (lease, asks) in [(now + 600_000, false), (now - 1_000, true)] {
            let items = [walked("missing-patches"), lock(lease)];
            let wire = wire_of(page(ENFORCED, Some(missing), items));
            run(&wire, json!({})).await.unwrap();
            assert_eq!(
                asks_about_it(&wire),
                asks,
                "missing {missing}, lease {lease}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_patching_that_is_open_or_awaits_its_rescan_is_asked_for_and_not_told() {
    for (status, asks) in [
        (Status::InProgress, true),
        (Status::AwaitingRescan, true),
        (Status::Failed, false),
        (Status::Remediated, false),
    ] {
        let run_of = patching(status);
        let items = [walked("missing-patches"), untold(&run_of)];
        let wire = wire_of(page(ENFORCED, Some(0), items));
        run(&wire, json!({})).await.unwrap();
        assert_eq!(asks_about_it(&wire), asks, "{status:?}");
        let told = events(&wire, "Remediation Recorded");
        let told = told
            .iter()
            .any(|event| event["entry"] == run_of.head.id.as_str());
        assert_eq!(told, !asks, "{status:?}");
    }
}

// --- snapshots from before patches

const SNAPSHOT: &str = "snap-0a1b2c3d4e5f60718";

/// A run that took the snapshot, and ended this many days ago.
fn took_snapshot(status: Status, days: i64) -> backstop_core::patching::Patching {
    let mut run = patching(status);
    let ended = Timestamp::now() - jiff::SignedDuration::from_hours(24 * days);
    run.head.started_at = ended;
    run.head.finished_at = Some(ended);
    run.detail.snapshots = vec![SNAPSHOT.to_owned()];
    run
}

fn snapshot_xml(started: Timestamp, entry: &str) -> Reply {
    xml(
        "DescribeSnapshots",
        &format!(
            "<snapshotSet><item><snapshotId>{SNAPSHOT}</snapshotId><volumeId>vol-1</volumeId><status>completed</status><startTime>{started}</startTime><tagSet><item><key>backstop:entry</key><value>{entry}</value></item><item><key>backstop:purpose</key><value>safety</value></item></tagSet></item></snapshotSet>"
        ),
    )
}

/// What the sweep asked to be deleted, and what its digest says of it.
async fn swept_snapshot(
    policy: &str,
    run_of: &backstop_core::patching::Patching,
    deletion: fn() -> Reply,
) -> (Vec<String>, Vec<Value>) {
    let mut record = untold(run_of);
    record["told"] = json!({ "BOOL": true });
    record.as_object_mut().unwrap().remove("untold");
    let (started, entry) = (run_of.head.started_at, run_of.head.id.clone());
    let wire = wire_with(
        page(policy, Some(0), [walked("missing-patches"), record]),
        move |call| match call.operation.as_str() {
            "DescribeSnapshots"
                if call.parameter("Filter.1.Name") == Some("tag:backstop:purpose") =>
            {
                assert_eq!(call.parameter("Filter.1.Value.1"), Some("safety"));
                assert_eq!(call.parameter("Owner.1"), Some("self"));
                Some(snapshot_xml(started, &entry))
            }
            "DeleteSnapshot" => Some(deletion()),
            _ => None,
        },
    );
    let _ = run(&wire, json!({})).await;
    let calls = wire.calls();
    let first = |is: &dyn Fn(&Call) -> bool| calls.iter().position(is);
    let noted = first(&|call| call.json.to_string().contains("ADD snapshots_deleted"));
    let asked = first(&|call| call.operation == "DeleteSnapshot");
    assert_eq!(noted.is_some(), asked.is_some());
    assert!(noted <= asked, "written ahead");
    let deleted = calls
        .iter()
        .filter(|call| call.operation == "DeleteSnapshot");
    let deleted = deleted.filter_map(|call| call.parameter("SnapshotId"));
    (deleted.map(str::to_owned).collect(), notices(&wire))
}

fn gone() -> Reply {
    xml("DeleteSnapshot", "<return>true</return>")
}

#[tokio::test(start_paused = true)]
async fn snapshots_from_before_patches_are_deleted_when_the_run_ended_well_and_the_days_have_passed()
 {
    let never = ENFORCED.replace(
        r#""version":1"#,
        r#""version":1,"patching":{"snapshots":{"delete_after_days":0}}"#,
    );
    let sooner = ENFORCED.replace(
        r#""version":1"#,
        r#""version":1,"patching":{"snapshots":{"delete_after_days":2}}"#,
    );
    let killed = ENFORCED.replace(r#""version":1"#, r#""version":1,"kill_switch":true"#);
    let told = ENFORCED.replace("enforce", "notify");
    for (policy, status, days, deletes) in [
        (ENFORCED, Status::Remediated, 31, true),
        (ENFORCED, Status::Remediated, 29, false),
        (ENFORCED, Status::Failed, 400, false),
        (ENFORCED, Status::InProgress, 400, false),
        (ENFORCED, Status::AwaitingRescan, 400, false),
        (ENFORCED, Status::NeedsPerson, 400, false),
        (sooner.as_str(), Status::Remediated, 3, true),
        (never.as_str(), Status::Remediated, 400, false),
        (killed.as_str(), Status::Remediated, 400, false),
        (told.as_str(), Status::Remediated, 400, false),
    ] {
        let (deleted, notices) = swept_snapshot(policy, &took_snapshot(status, days), gone).await;
        let expected: &[&str] = if deletes { &[SNAPSHOT] } else { &[] };
        assert_eq!(deleted, expected, "{policy} {status:?} {days}");
        let counted = notices
            .iter()
            .any(|notice| notice["snapshots_deleted"]["examples"] == json!([SNAPSHOT]));
        assert_eq!(counted, deletes, "{notices:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_an_image_uses_is_left_and_counted() {
    let in_use = || {
        Reply::ec2_error(
            400,
            "InvalidSnapshot.InUse",
            "The snapshot is currently in use by ami-1",
        )
    };
    let run_of = took_snapshot(Status::Remediated, 31);
    let (deleted, notices) = swept_snapshot(ENFORCED, &run_of, in_use).await;
    assert_eq!(deleted, [SNAPSHOT]);
    let digest = notices
        .iter()
        .find(|notice| notice["topic"] == "digest")
        .unwrap();
    assert_eq!(digest["snapshots_deleted"], Value::Null);
    let kept = digest["kept"].as_object().unwrap();
    assert!(
        kept.iter()
            .any(|(kind, of)| kind.contains("an image uses") && of["count"] == 1),
        "{kept:?}"
    );
    assert_eq!(digest["unseen"], json!([]));
}
