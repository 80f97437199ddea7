//! `scripts/scale`: what a sweep costs. The real binary of `sweep` on a Runtime
//! API of our own, against an endpoint that serves as many security groups as
//! asked for, and as many snapshots, images, subnets, instances and VPCs with a
//! default group (up to 10,000 of each), in the pages that are asked for and by the
//! filters that are sent, and throttles as EC2 does. One group in a hundred is open,
//! one of the others in four is exposed. The other services give their shortest
//! answers: an empty ledger, a policy of defaults, a deployment in order.
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
/// Most resources of each other kind.
const MOST_OTHERS: usize = 10_000;
/// One of them in so many is exposed: enough for several pages of those alone.
const EXPOSED_EVERY: usize = 4;
/// Most points of a page of GetMetricData (CloudWatch's API reference,
/// `MaxDatapoints`).
const MOST_POINTS: usize = 100_800;
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
    let exposed = others(groups) / EXPOSED_EVERY;
    for (control, expected) in [
        ("open-ingress", groups / OPEN_EVERY),
        ("default-security-group", exposed),
        ("imdsv1", exposed),
        ("public-image", exposed),
        ("public-snapshot", exposed),
        ("public-subnet", exposed),
    ] {
        let asked = seen.asked.get(control).copied().unwrap_or(0);
        assert_eq!(
            asked, expected,
            "{control}: each that is exposed is asked for once"
        );
    }
    Run {
        groups,
        mode,
        calls: seen.calls.clone(),
        throttled: seen.throttled,
        seconds: answered.took.as_secs_f64(),
        peak: function.peak() as f64 / 1024.0,
    }
}

/// How many resources there are of each kind that is no ordinary group.
fn others(groups: usize) -> usize {
    groups.min(MOST_OTHERS)
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
    /// Checks that were put on the bus, by control.
    asked: BTreeMap<String, usize>,
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
    let others = others(groups);
    let exposed = others / EXPOSED_EVERY;
    let has = |name: &str| {
        form.iter()
            .any(|(key, value)| key.ends_with(".Name") && value == name)
    };
    let page = |set: &str, total: usize, write: &dyn Fn(&mut String, usize)| {
        let size = parameter("MaxResults").map_or(PAGE, |size| size.parse().unwrap());
        let first = parameter("NextToken").map_or(0, |token| token.parse().unwrap());
        let last = total.min(first + size);
        let mut xml = format!("<{operation}Response><requestId>r</requestId><{set}>");
        (first..last).for_each(|n| write(&mut xml, n));
        write!(xml, "</{set}>").unwrap();
        if last < total {
            write!(xml, "<nextToken>{last}</nextToken>").unwrap();
        }
        write!(xml, "</{operation}Response>").unwrap();
        xml
    };
    let field = |name: &str, value: &str| {
        format!(
            "<{operation}Response><requestId>r</requestId><{name}>{value}</{name}></{operation}Response>"
        )
    };
    let body = match operation.as_str() {
        "DescribeSecurityGroups" if has("group-name") => page("securityGroupInfo", others, &default_group),
        "DescribeSecurityGroups" if form.iter().any(|(key, _)| key.starts_with("Filter.")) => {
            page("securityGroupInfo", 0, &group)
        }
        "DescribeSecurityGroups" => {
            assert_eq!(parameter("MaxResults"), Some("1000"), "whole pages");
            drop(seen);
            page("securityGroupInfo", groups, &group)
        }
        "DescribeSnapshots" if parameter("RestorableBy.1") == Some("all") => {
            page("snapshotSet", exposed, &snapshot)
        }
        "DescribeSnapshots" => page("snapshotSet", 0, &snapshot),
        "DescribeImages" => page("imagesSet", exposed, &image),
        "DescribeSubnets" if has("ipv6-cidr-block-association.state") => {
            page("subnetSet", others - exposed, &|xml, n| subnet(xml, n, false))
        }
        "DescribeSubnets" => page("subnetSet", exposed, &|xml, n| subnet(xml, n, true)),
        "DescribeInstances" if has("subnet-id") => page("reservationSet", 0, &|_, _| {}),
        "DescribeInstances" if has("metadata-options.http-tokens") => {
            page("reservationSet", exposed, &|xml, n| instance(xml, n, "optional"))
        }
        "DescribeInstances" => {
            drop(seen);
            page("reservationSet", others, &|xml, n| instance(xml, n, "required"))
        }
        "DescribeVolumes" => page("volumeSet", 0, &|_, _| {}),
        "DescribeTags" => page("tagSet", 0, &|_, _| {}),
        "DescribeNetworkInterfaces" => page("networkInterfaceSet", 0, &|_, _| {}),
        "DescribeSecurityGroupRules" => {
            let of = form.iter().filter(|(key, _)| key.contains(".Value."));
            let of: Vec<&String> = of.map(|(_, group)| group).collect();
            page("securityGroupRuleSet", of.len(), &|xml, n| rule(xml, n, of[n]))
        }
        "DescribeSecurityGroupReferences" => field("securityGroupReferenceSet", ""),
        "GetEbsEncryptionByDefault" => field("ebsEncryptionByDefault", "true"),
        "GetSnapshotBlockPublicAccessState" => field("state", "unblocked"),
        "GetImageBlockPublicAccessState" => field("imageBlockPublicAccessState", "unblocked"),
        "GetSerialConsoleAccessStatus" => field("serialConsoleAccessEnabled", "false"),
        "GetInstanceMetadataDefaults" => field("accountLevel", "<httpTokens>required</httpTokens>"),
        "DescribeInstanceInformation" => {
            let ids = listed(&text, |body| &body["Filters"][0]["Values"]);
            let of = |id: &Value| json!({"InstanceId": id, "PingStatus": "Online",
                "PlatformName": "Amazon Linux", "PlatformVersion": "2023"});
            json!({"InstanceInformationList": ids.iter().map(of).collect::<Vec<_>>()}).to_string()
        }
        "DescribeInstancePatchStates" => {
            let ids = listed(&text, |body| &body["InstanceIds"]);
            let of = |id: &Value| json!({"InstanceId": id, "PatchGroup": "", "BaselineId": "pb-1",
                "OperationStartTime": 4_102_444_700.0, "OperationEndTime": 4_102_444_800.0,
                "Operation": "Scan", "MissingCount": 0, "FailedCount": 0});
            json!({"InstancePatchStates": ids.iter().map(of).collect::<Vec<_>>()}).to_string()
        }
        "GetMetricData" => {
            drop(seen);
            metrics(&text)
        }
        "PutEvents" => {
            let events: Value = serde_json::from_str(&text).unwrap();
            let events = events["Entries"].as_array().unwrap();
            for event in events {
                if event["DetailType"] == "Check Requested" {
                    let detail: Value =
                        serde_json::from_str(event["Detail"].as_str().unwrap()).unwrap();
                    let control = detail["control"].as_str().unwrap().to_owned();
                    *seen.asked.entry(control).or_default() += 1;
                }
            }
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

/// The list that a JSON request holds.
fn listed(text: &str, at: impl Fn(&Value) -> &Value) -> Vec<Value> {
    let body: Value = serde_json::from_str(text).unwrap();
    at(&body).as_array().cloned().unwrap_or_default()
}

/// No request without a token in any hour of the time that is asked for.
fn metrics(text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap();
    let (from, to) = (
        body["StartTime"].as_i64().unwrap(),
        body["EndTime"].as_i64().unwrap(),
    );
    let hours: Vec<i64> = (from..to).step_by(3600).collect();
    let queries = body["MetricDataQueries"].as_array().unwrap();
    assert!(queries.len() <= 500, "CloudWatch takes no more");
    let size = MOST_POINTS / hours.len();
    let first: usize = body["NextToken"]
        .as_str()
        .map_or(0, |token| token.parse().unwrap());
    let last = queries.len().min(first + size);
    let results: Vec<Value> = queries[first..last]
        .iter()
        .map(|query| {
            json!({"Id": query["Id"], "StatusCode": "Complete", "Timestamps": hours,
                "Values": vec![0.0; hours.len()]})
        })
        .collect();
    let next = (last < queries.len()).then(|| last.to_string());
    json!({"MetricDataResults": results, "NextToken": next}).to_string()
}

/// Three tags, as every resource has them.
fn tags(n: usize) -> String {
    format!(
        "<tagSet><item><key>Name</key><value>service-{n}</value></item>\
         <item><key>owner</key><value>team-{}</value></item>\
         <item><key>environment</key><value>production</value></item></tagSet>",
        n % 40
    )
}

fn snapshot(xml: &mut String, n: usize) {
    write!(
        xml,
        "<item><snapshotId>snap-{n:017x}</snapshotId><ownerId>{ACCOUNT}</ownerId><status>completed</status>\
         <description>of service {n}</description><volumeId>vol-{n:017x}</volumeId><volumeSize>8</volumeSize>\
         <startTime>2026-11-01T00:00:00.000Z</startTime>{}</item>",
        tags(n)
    )
    .unwrap();
}

fn image(xml: &mut String, n: usize) {
    write!(
        xml,
        "<item><imageId>ami-{n:017x}</imageId><imageOwnerId>{ACCOUNT}</imageOwnerId><name>service-{n}</name>\
         <imageState>available</imageState><isPublic>true</isPublic>{}</item>",
        tags(n)
    )
    .unwrap();
}

fn subnet(xml: &mut String, n: usize, public: bool) {
    write!(
        xml,
        "<item><subnetId>subnet-{}{n:016x}</subnetId><ownerId>{ACCOUNT}</ownerId>\
         <subnetArn>arn:aws:ec2:eu-central-1:{ACCOUNT}:subnet/subnet-{n:017x}</subnetArn>\
         <vpcId>vpc-0123456789abcdef0</vpcId><state>available</state><cidrBlock>10.0.0.0/24</cidrBlock>\
         <defaultForAz>false</defaultForAz><mapPublicIpOnLaunch>{public}</mapPublicIpOnLaunch>\
         <assignIpv6AddressOnCreation>false</assignIpv6AddressOnCreation><ipv6Native>false</ipv6Native>{}</item>",
        u8::from(public),
        tags(n)
    )
    .unwrap();
}

fn instance(xml: &mut String, n: usize, tokens: &str) {
    write!(
        xml,
        "<item><reservationId>r-{n:017x}</reservationId><ownerId>{ACCOUNT}</ownerId><instancesSet><item>\
         <instanceId>i-{n:017x}</instanceId><instanceState><code>16</code><name>running</name></instanceState>\
         <instanceType>m7g.large</instanceType><launchTime>2026-01-01T00:00:00.000Z</launchTime>\
         <platformDetails>Linux/UNIX</platformDetails>\
         <metadataOptions><state>applied</state><httpTokens>{tokens}</httpTokens><httpPutResponseHopLimit>2</httpPutResponseHopLimit>\
         <httpEndpoint>enabled</httpEndpoint></metadataOptions>{}</item></instancesSet></item>",
        tags(n)
    )
    .unwrap();
}

/// A default group, which nothing uses; one in four has rules.
fn default_group(xml: &mut String, n: usize) {
    let rules = match n % EXPOSED_EVERY {
        0 => {
            "<item><ipProtocol>-1</ipProtocol><groups/><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges><ipv6Ranges/><prefixListIds/></item>"
        }
        _ => "",
    };
    write!(
        xml,
        "<item><ownerId>{ACCOUNT}</ownerId><groupId>sg-d{n:016x}</groupId><groupName>default</groupName>\
         <groupDescription>default VPC security group</groupDescription><vpcId>vpc-{n:017x}</vpcId>\
         <securityGroupArn>arn:aws:ec2:eu-central-1:{ACCOUNT}:security-group/sg-d{n:016x}</securityGroupArn>\
         <ipPermissions/><ipPermissionsEgress>{rules}</ipPermissionsEgress>{}</item>",
        tags(n)
    )
    .unwrap();
}

/// The rule of a default group.
fn rule(xml: &mut String, n: usize, group: &str) {
    write!(
        xml,
        "<item><securityGroupRuleId>sgr-{n:017x}</securityGroupRuleId><groupId>{group}</groupId>\
         <groupOwnerId>{ACCOUNT}</groupOwnerId><isEgress>true</isEgress><ipProtocol>-1</ipProtocol>\
         <fromPort>-1</fromPort><toPort>-1</toPort><cidrIpv4>0.0.0.0/0</cidrIpv4></item>"
    )
    .unwrap();
}

/// A group as EC2 writes it: two permissions, five sources, three tags.
fn group(xml: &mut String, n: usize) {
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
         <ipPermissionsEgress><item><ipProtocol>-1</ipProtocol><groups/><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges><ipv6Ranges/><prefixListIds/></item></ipPermissionsEgress>{}</item>",
        tags(n)
    )
    .unwrap();
}
