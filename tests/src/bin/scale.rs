//! `scripts/scale`: what a sweep costs. The real binary of `sweep` on a Runtime
//! API of our own, against an endpoint that serves as many security groups as
//! asked for, 1,000 a page, and throttles as EC2 does; one group in a hundred
//! is open. The other services give their shortest answers: an empty ledger, a
//! policy of defaults, a deployment in order.
//!
//! What it does not show is AWS's own latency: the endpoint is on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backstop_tests::local_aws::http::{Message, parse_form};
use backstop_tests::runtime_api::{ACCOUNT, Function};
use serde_json::{Value, json};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// EC2's largest page of DescribeSecurityGroups.
const PAGE: usize = 1_000;
/// One group in so many is open to the world on port 22.
const OPEN_EVERY: usize = 100;
/// Tokens in the bucket of each EC2 action. EC2's guide names 100 for reads,
/// refilled by 20 a second; this is what the other callers of a very busy
/// account would leave of it, so that the longest walk is throttled for certain.
const BUCKET: f64 = 20.0;
/// Tokens added a second.
const REFILL: f64 = 0.8;
/// The function's time-out.
const TIMEOUT: Duration = Duration::from_secs(900);

fn main() {
    let folder = PathBuf::from(
        std::env::args()
            .nth(1)
            .expect("usage: scale <folder of the binaries>"),
    );
    let binary = folder.join("sweep");
    let runs: Vec<Run> = SIZES
        .into_iter()
        .flat_map(|groups| ["notify", "enforce"].map(|mode| sweep(&binary, groups, mode)))
        .collect();
    print(&runs);
}

/// What one sweep came to.
struct Run {
    groups: usize,
    mode: &'static str,
    calls: BTreeMap<String, u64>,
    throttled: u64,
    seconds: f64,
    /// Peak resident memory, in megabytes.
    peak: f64,
}

fn sweep(binary: &Path, groups: usize, mode: &'static str) -> Run {
    let endpoint = Endpoint::start(groups);
    let function = Function::start(
        binary,
        &[
            ("AWS_ENDPOINT_URL", &format!("http://{}", endpoint.address)),
            ("LEDGER_TABLE", "ledger"),
            ("POLICY_PARAMETER", "/p"),
            ("DEFAULT_MODE", mode),
            ("OWNER_TAG_KEY", "owner"),
            ("TOPIC_ARN", "arn:aws:sns:eu-central-1:111122223333:t"),
            (
                "FAILED_EVENTS_QUEUE_URL",
                &format!("http://{}/111122223333/q", endpoint.address),
            ),
            ("STACK_ID", "backstop"),
        ],
    );
    let answered = function.invoke("{}", TIMEOUT);
    eprintln!(
        "{groups} groups, {mode}: {:.1} s",
        answered.took.as_secs_f64()
    );
    assert!(answered.success, "{groups} groups: {}", answered.body);
    let seen = endpoint.seen.lock().unwrap();
    assert_eq!(
        seen.asked,
        groups / OPEN_EVERY,
        "every open group is asked for once"
    );
    Run {
        groups,
        mode,
        calls: seen.calls.clone(),
        throttled: seen.throttled,
        seconds: answered.took.as_secs_f64(),
        peak: function.peak() as f64 / 1024.0,
    }
}

fn print(runs: &[Run]) {
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    println!(
        "{profile} profile; each EC2 action has {BUCKET} tokens, refilled by {REFILL} a second"
    );
    println!();
    assert!(
        runs.iter().any(|run| run.throttled > 0),
        "no call was throttled: that is not shown then"
    );
    let row = |name: &str, cell: &dyn Fn(&Run) -> String| {
        let cells: Vec<String> = runs.iter().map(cell).collect();
        println!("| {name} | {} |", cells.join(" | "));
    };
    row("groups, mode", &|run| {
        format!("{}, {}", run.groups, run.mode)
    });
    println!("| --- |{}", " ---: |".repeat(runs.len()));
    let mut operations: Vec<&String> = runs.iter().flat_map(|run| run.calls.keys()).collect();
    operations.sort();
    operations.dedup();
    for operation in operations {
        row(operation, &|run| {
            run.calls.get(operation).copied().unwrap_or(0).to_string()
        });
    }
    row("throttled, and tried again", &|run| {
        run.throttled.to_string()
    });
    row("seconds", &|run| format!("{:.1}", run.seconds));
    row("peak memory, MB", &|run| format!("{:.1}", run.peak));
}

/// What an endpoint was asked for.
#[derive(Default)]
struct Seen {
    /// Calls that were answered, by operation.
    calls: BTreeMap<String, u64>,
    throttled: u64,
    /// Checks that were put on the bus.
    asked: usize,
    /// Tokens left of each EC2 action, and when they were counted.
    buckets: BTreeMap<String, (f64, Instant)>,
}

impl Seen {
    /// Takes a token of an action's bucket, if there is one.
    fn take(&mut self, action: &str) -> bool {
        let now = Instant::now();
        let (tokens, counted) = self
            .buckets
            .entry(action.to_owned())
            .or_insert((BUCKET, now));
        *tokens = (*tokens + now.duration_since(*counted).as_secs_f64() * REFILL).min(BUCKET);
        *counted = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

struct Endpoint {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Endpoint {
    fn start(groups: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, shared) = (connection.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || serve(&connection, &shared, groups));
            }
        });
        Self { address, seen }
    }
}

fn serve(connection: &TcpStream, seen: &Mutex<Seen>, groups: usize) {
    // A client that gives a connection up unused is no call.
    let Ok(Some(request)) = Message::read(connection) else {
        return;
    };
    let (status, body) = answer(&request, seen, groups);
    let _ = Message::answer(status, &[], &body).write(connection);
}

fn answer(request: &Message, seen: &Mutex<Seen>, groups: usize) -> (u16, String) {
    let text = request.text();
    let (operation, form) = match request.header("x-amz-target") {
        Some(target) => {
            let operation = target.rsplit('.').next().unwrap_or_default();
            (operation.to_owned(), Vec::new())
        }
        None => {
            let form = parse_form(&text);
            let action = form.iter().find(|(name, _)| name == "Action");
            (action.expect("an action").1.clone(), form)
        }
    };
    let parameter = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let mut seen = seen.lock().unwrap();
    let of_ec2 = parameter("Version") == Some("2016-11-15");
    if of_ec2 && !seen.take(&operation) {
        seen.throttled += 1;
        let error = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error></Errors><RequestID>r</RequestID></Response>";
        return (503, error.to_owned());
    }
    *seen.calls.entry(operation.clone()).or_default() += 1;
    let body = match operation.as_str() {
        "DescribeSecurityGroups" if parameter("Filter.1.Name") == Some("group-name") => {
            "<DescribeSecurityGroupsResponse><requestId>r</requestId><securityGroupInfo/></DescribeSecurityGroupsResponse>".to_owned()
        }
        "DescribeSecurityGroups" => {
            assert_eq!(parameter("MaxResults"), Some("1000"), "whole pages");
            let page = parameter("NextToken").map_or(0, |token| token.parse().unwrap());
            drop(seen);
            groups_page(page, groups)
        }
        "DescribeTags" => {
            "<DescribeTagsResponse><requestId>r</requestId><tagSet/></DescribeTagsResponse>"
                .to_owned()
        }
        "PutEvents" => {
            let events: Value = serde_json::from_str(&text).unwrap();
            let events = events["Entries"].as_array().unwrap();
            let checks = events
                .iter()
                .filter(|event| event["DetailType"] == "Check Requested");
            seen.asked += checks.count();
            let entries: Vec<Value> = events.iter().map(|_| json!({"EventId": "1"})).collect();
            json!({"FailedEntryCount": 0, "Entries": entries}).to_string()
        }
        "GetParameter" => {
            json!({"Parameter": {"Value": r#"{"version":1}"#, "Version": 1}}).to_string()
        }
        "Query" => json!({"Items": [], "Count": 0}).to_string(),
        "DescribeTrails" => json!({"trailList": [
            {"Name": "trail", "TrailARN": "arn:trail", "IsMultiRegionTrail": true},
        ]})
        .to_string(),
        "GetTrailStatus" => json!({"IsLogging": true}).to_string(),
        "GetEventSelectors" => json!({"EventSelectors": [
            {"ReadWriteType": "All", "IncludeManagementEvents": true},
        ]})
        .to_string(),
        "ListStackResources" => "<ListStackResourcesResponse><ListStackResourcesResult><StackResourceSummaries><member><LogicalResourceId>Rule</LogicalResourceId><PhysicalResourceId>rule</PhysicalResourceId><ResourceType>AWS::Events::Rule</ResourceType><LastUpdatedTimestamp>2026-11-24T10:00:00Z</LastUpdatedTimestamp><ResourceStatus>CREATE_COMPLETE</ResourceStatus></member></StackResourceSummaries></ListStackResourcesResult></ListStackResourcesResponse>".to_owned(),
        "DescribeRule" => json!({"Name": "rule", "State": "ENABLED"}).to_string(),
        "GetTopicAttributes" => "<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>SubscriptionsConfirmed</key><value>1</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>".to_owned(),
        "GetQueueAttributes" => {
            json!({"Attributes": {"ApproximateNumberOfMessages": "0"}}).to_string()
        }
        "ReceiveMessage" => "{}".to_owned(),
        "BatchGetItem" | "DeleteItem" | "GetItem" | "PutItem" | "TransactWriteItems"
        | "UpdateItem" => "{}".to_owned(),
        other => panic!("a sweep has no business with {other}"),
    };
    (200, body)
}

/// A page of groups as EC2 writes them: two permissions, five sources, three
/// tags each.
fn groups_page(page: usize, groups: usize) -> String {
    let first = page * PAGE;
    let last = groups.min(first + PAGE);
    let mut xml =
        "<DescribeSecurityGroupsResponse><requestId>r</requestId><securityGroupInfo>".to_owned();
    for n in first..last {
        let world = match n % OPEN_EVERY {
            0 => "<item><cidrIp>0.0.0.0/0</cidrIp><description>open</description></item>",
            _ => "<item><cidrIp>192.168.7.0/24</cidrIp><description>closed</description></item>",
        };
        write!(
            xml,
            "<item><ownerId>{ACCOUNT}</ownerId><groupId>sg-{n:017x}</groupId><groupName>service-{n}</groupName>\
             <groupDescription>security group of service {n}</groupDescription><vpcId>vpc-0123456789abcdef0</vpcId>\
             <securityGroupArn>arn:aws:ec2:eu-central-1:{ACCOUNT}:security-group/sg-{n:017x}</securityGroupArn>\
             <ipPermissions>\
             <item><ipProtocol>tcp</ipProtocol><fromPort>443</fromPort><toPort>443</toPort><groups/>\
             <ipRanges><item><cidrIp>0.0.0.0/0</cidrIp><description>web</description></item></ipRanges>\
             <ipv6Ranges><item><cidrIpv6>::/0</cidrIpv6></item></ipv6Ranges><prefixListIds/></item>\
             <item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort>\
             <groups><item><userId>{ACCOUNT}</userId><groupId>sg-0123456789abcdef0</groupId></item></groups>\
             <ipRanges><item><cidrIp>10.0.0.0/8</cidrIp><description>office</description></item>{world}</ipRanges>\
             <ipv6Ranges/><prefixListIds/></item></ipPermissions>\
             <ipPermissionsEgress><item><ipProtocol>-1</ipProtocol><groups/><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges><ipv6Ranges/><prefixListIds/></item></ipPermissionsEgress>\
             <tagSet><item><key>Name</key><value>service-{n}</value></item><item><key>owner</key><value>team-{}</value></item>\
             <item><key>environment</key><value>production</value></item></tagSet></item>",
            n % 40
        )
        .unwrap();
    }
    xml.push_str("</securityGroupInfo>");
    if last < groups {
        write!(xml, "<nextToken>{}</nextToken>", page + 1).unwrap();
    }
    xml.push_str("</DescribeSecurityGroupsResponse>");
    xml
}
