//! Reading instances and their patches, taking safety snapshots and sending the
//! command, against the real EC2 and Systems Manager clients with answers
//! written from the API references: what goes over the wire, pages, error
//! codes, lost answers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::kept_snapshots::{self, Deletion};
use backstop_aws::patching::{
    Batch, Invocation, MOST_INSTANCES, agents, commands, commands_on, hosts, invocation,
    lost_snapshots, missing, reach, safety_snapshots, send, states,
};
use backstop_core::patching::{
    Agent, Command, Ended, Host, MOST_LISTED, Operation, Patch, PatchState, Patching, Reach,
    Reboot, Settings,
};
use backstop_core::volumes::Snapshot;
use backstop_core::words::Actor;
use backstop_wire::{Call, Reply, Wire};
use jiff::Timestamp;
use serde_json::{Value, json};

const INSTANCE: &str = "i-0123456789abcdef0";
const ENTRY: &str = "01KAZ0000000000000000000A1";
const MARK: &str = "01KAZ0000000000000000000B1";
const COMMAND: &str = "ef7fdfd8-9b57-4151-a15c-db9a12345678";
const REGION: &str = "eu-central-1";

fn long() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

/// What others need of the time for snapshots.
const SPARE: Duration = Duration::from_secs(20);

/// A quarter of a second for calls.
fn short() -> Deadline {
    Deadline::new(Duration::from_millis(500))
}

fn ec2(wire: &Wire, attempts: u32) -> aws_sdk_ec2::Client {
    Clients::new(&wire.config(attempts)).ec2
}

fn ssm(wire: &Wire, attempts: u32) -> aws_sdk_ssm::Client {
    Clients::new(&wire.config(attempts)).ssm
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A time as the JSON protocol writes it.
fn seconds(text: &str) -> f64 {
    at(text).as_millisecond() as f64 / 1000.0
}

fn id(n: usize) -> String {
    format!("i-{n:017x}")
}

fn ids(n: usize) -> Vec<String> {
    (0..n).map(id).collect()
}

fn one() -> Vec<String> {
    vec![INSTANCE.to_owned()]
}

fn response(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn next_xml(next: Option<&str>) -> String {
    next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"))
}

/// One reservation with one instance.
fn instance_xml(id: &str, state: &str, more: &str) -> String {
    format!(
        "<item><reservationId>r-1</reservationId><ownerId>111122223333</ownerId><instancesSet><item>\
         <instanceId>{id}</instanceId><instanceState><code>16</code><name>{state}</name></instanceState>{more}\
         </item></instancesSet></item>"
    )
}

fn instances_xml(instances: &str, next: Option<&str>) -> Reply {
    response(
        "DescribeInstances",
        &format!(
            "<reservationSet>{instances}</reservationSet>{}",
            next_xml(next)
        ),
    )
}

fn calls_of(wire: &Wire, operation: &str) -> Vec<Call> {
    let mut calls = wire.calls();
    calls.retain(|call| call.operation == operation);
    calls
}

/// The parameters of a call, but for the protocol's own.
fn parameters(call: &Call) -> Vec<(String, String)> {
    let mut parameters = call.parameters.clone();
    parameters.retain(|(key, _)| key != "Action" && key != "Version");
    parameters.sort();
    parameters
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut expected: Vec<(String, String)> = expected
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    expected.sort();
    expected
}

fn json_reply(body: Value) -> Reply {
    Reply::ok(body.to_string())
}

fn internal_error() -> Reply {
    Reply::Answer(
        500,
        json!({"__type": "InternalServerError", "Message": "An error occurred on the server side."})
            .to_string(),
    )
}

fn slower() -> Reply {
    Reply::json_error("ThrottlingException", "Rate exceeded")
}

// ---------------------------------------------------------------------- hosts

#[tokio::test(start_paused = true)]
async fn instances_are_asked_for_by_filter_200_at_a_time_and_over_all_pages() {
    let wire = Wire::new(|call: &Call| {
        let first = call.parameter("Filter.1.Value.1").unwrap();
        match call.parameter("NextToken") {
            None if first == id(0) => instances_xml(
                &(instance_xml(&id(0), "running", "") + &instance_xml(&id(1), "stopped", "")),
                Some("two"),
            ),
            Some("two") => instances_xml(&instance_xml(&id(2), "pending", ""), None),
            None => instances_xml(&instance_xml(&id(200), "running", ""), None),
            other => panic!("{other:?}"),
        }
    });
    let found = hosts(&ec2(&wire, 1), &ids(201), &long()).await.unwrap();
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(id, host)| (id.as_str(), host.state.as_str()))
        .collect();
    let (a, b, c, d) = (id(0), id(1), id(2), id(200));
    assert_eq!(
        found,
        [
            (a.as_str(), "running"),
            (b.as_str(), "stopped"),
            (c.as_str(), "pending"),
            (d.as_str(), "running")
        ]
    );
    let calls = wire.calls();
    let values = |call: &Call| {
        let values = call.parameters.iter();
        values
            .filter(|(key, _)| key.starts_with("Filter.1.Value."))
            .count()
    };
    assert_eq!(calls.iter().map(values).collect::<Vec<_>>(), [200, 200, 1]);
    for call in &calls {
        assert_eq!(call.operation, "DescribeInstances");
        assert_eq!(call.parameter("Filter.1.Name"), Some("instance-id"));
        assert_eq!(call.parameter("InstanceId.1"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_read_with_all_that_is_decided_by() {
    const MORE: &str = "<launchTime>2026-11-24T08:00:00.000Z</launchTime>\
        <tagSet><item><key>Name</key><value>web</value></item><item><key>owner</key><value>team</value></item></tagSet>\
        <iamInstanceProfile><arn>arn:aws:iam::111122223333:instance-profile/web</arn><id>AIPA1</id></iamInstanceProfile>\
        <ipAddress>203.0.113.1</ipAddress><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>";
    let wire = Wire::new(|_: &Call| instances_xml(&instance_xml(INSTANCE, "running", MORE), None));
    let found = hosts(&ec2(&wire, 1), &one(), &long()).await.unwrap();
    let expected = Host {
        id: INSTANCE.into(),
        state: "running".into(),
        launched_at: Some(at("2026-11-24T08:00:00Z")),
        tags: [
            ("Name".to_owned(), "web".to_owned()),
            ("owner".to_owned(), "team".to_owned()),
        ]
        .into(),
        instance_profile: Some("arn:aws:iam::111122223333:instance-profile/web".into()),
        public_ipv4: true,
        subnet: Some("subnet-1".into()),
        vpc: Some("vpc-1".into()),
    };
    assert_eq!(found[INSTANCE], expected);
}

#[tokio::test(start_paused = true)]
async fn an_address_of_any_interface_is_a_public_one_and_what_ec2_leaves_out_is_none() {
    for (more, public) in [
        ("", false),
        ("<subnetId/><vpcId/><ipAddress/>", false),
        (
            "<networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId></item></networkInterfaceSet>",
            false,
        ),
        (
            "<networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId></item>\
             <item><networkInterfaceId>eni-2</networkInterfaceId><association><publicIp>203.0.113.2</publicIp>\
             <ipOwnerId>111122223333</ipOwnerId></association></item></networkInterfaceSet>",
            true,
        ),
    ] {
        let wire = Wire::new(move |_: &Call| {
            instances_xml(&instance_xml(INSTANCE, "terminated", more), None)
        });
        let found = hosts(&ec2(&wire, 1), &one(), &long()).await.unwrap();
        let expected = Host {
            id: INSTANCE.into(),
            state: "terminated".into(),
            public_ipv4: public,
            ..Host::default()
        };
        assert_eq!(found[INSTANCE], expected, "{more}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_id_of_an_instance_is_not_asked_for_and_the_same_id_only_once() {
    let none: Vec<String> = ["", "*", "i-*", "i-", "mi-0123456789abcdef0", "vol-1"]
        .map(str::to_owned)
        .into();
    let wire = Wire::new(|call: &Call| panic!("{}", call.operation));
    let (ec2, ssm) = (ec2(&wire, 1), ssm(&wire, 1));
    assert!(hosts(&ec2, &none, &long()).await.unwrap().is_empty());
    assert!(agents(&ssm, &none, &long()).await.unwrap().is_empty());
    assert!(states(&ssm, &none, &long()).await.unwrap().is_empty());

    let twice = [INSTANCE.to_owned(), "*".to_owned(), INSTANCE.to_owned()];
    let wire = Wire::new(|_: &Call| json_reply(json!({"InstancePatchStates": []})));
    states(&self::ssm(&wire, 1), &twice, &long()).await.unwrap();
    assert_eq!(wire.calls()[0].json["InstanceIds"], json!([INSTANCE]));
}

#[tokio::test(start_paused = true)]
async fn a_denied_read_of_instances_keeps_operation_code_and_message() {
    let wire = Wire::new(|_: &Call| {
        Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized.")
    });
    let error = hosts(&ec2(&wire, 1), &one(), &long()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "DescribeInstances: UnauthorizedOperation: You are not authorized."
    );
    assert!(!error.retryable);
}

#[tokio::test(start_paused = true)]
async fn reads_that_nobody_answers_end_with_the_deadline() {
    let wire = Wire::new(|_: &Call| Reply::Silence);
    let (ec2, ssm) = (ec2(&wire, 1), ssm(&wire, 1));
    let host = in_vpc();
    let (asked, short) = (one(), short());
    let since = at("2026-11-24T00:00:00Z");
    let (hosts, agents, states, missing, commands, invocation, reach) = tokio::join!(
        hosts(&ec2, &asked, &short),
        agents(&ssm, &asked, &short),
        states(&ssm, &asked, &short),
        missing(&ssm, INSTANCE, &short),
        commands(&ssm, INSTANCE, since, &short),
        invocation(&ssm, COMMAND, INSTANCE, &short),
        reach(&ec2, &ssm, &host, REGION, &short),
    );
    for error in [
        hosts.unwrap_err(),
        agents.unwrap_err(),
        states.unwrap_err(),
        missing.unwrap_err(),
        commands.unwrap_err(),
        invocation.unwrap_err(),
        reach.unwrap_err(),
    ] {
        assert_eq!(error.code, "Timeout", "{error}");
    }
}

// --------------------------------------------------------------------- agents

#[tokio::test(start_paused = true)]
async fn agents_are_asked_for_50_at_a_time_and_over_all_pages() {
    let wire = Wire::new(|call: &Call| {
        let first = call.json["Filters"][0]["Values"][0].as_str().unwrap();
        let of = |n: usize| json!([{"InstanceId": id(n), "PingStatus": "Online"}]);
        match call.json["NextToken"].as_str() {
            None if first == id(0) => {
                json_reply(json!({"InstanceInformationList": of(0), "NextToken": "two"}))
            }
            Some("two") => json_reply(json!({"InstanceInformationList": of(49)})),
            None => json_reply(json!({"InstanceInformationList": of(50)})),
            other => panic!("{other:?}"),
        }
    });
    let found = agents(&ssm(&wire, 1), &ids(51), &long()).await.unwrap();
    assert_eq!(
        found.keys().cloned().collect::<Vec<_>>(),
        [id(0), id(49), id(50)]
    );
    let calls = wire.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(
        calls[0].json,
        json!({"Filters": [{"Key": "InstanceIds", "Values": ids(50)}], "MaxResults": 50})
    );
    assert_eq!(
        calls[1].json,
        json!({"Filters": [{"Key": "InstanceIds", "Values": ids(50)}], "MaxResults": 50, "NextToken": "two"})
    );
    assert_eq!(
        calls[2].json,
        json!({"Filters": [{"Key": "InstanceIds", "Values": [id(50)]}], "MaxResults": 50})
    );
    assert!(
        calls
            .iter()
            .all(|call| call.operation == "DescribeInstanceInformation")
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_read_with_its_platform_and_what_it_leaves_out_is_none() {
    for (shown, expected) in [
        (
            json!({
                "InstanceId": INSTANCE, "PingStatus": "ConnectionLost", "AgentVersion": "3.3.1142.0",
                "LastPingDateTime": seconds("2026-11-24T10:59:30.5Z"), "PlatformType": "Linux",
                "PlatformName": "Amazon Linux", "PlatformVersion": "2023", "ResourceType": "EC2Instance",
            }),
            Agent {
                ping: "ConnectionLost".into(),
                last_ping: Some(at("2026-11-24T10:59:30.5Z")),
                version: Some("3.3.1142.0".into()),
                platform: Some("Amazon Linux 2023".into()),
            },
        ),
        (
            json!({"InstanceId": INSTANCE, "PingStatus": "Online", "AgentVersion": "", "PlatformName": "Ubuntu"}),
            Agent {
                ping: "Online".into(),
                platform: Some("Ubuntu".into()),
                ..Agent::default()
            },
        ),
        (
            json!({"InstanceId": INSTANCE, "PingStatus": "Inactive", "PlatformName": "", "PlatformVersion": ""}),
            Agent {
                ping: "Inactive".into(),
                ..Agent::default()
            },
        ),
    ] {
        let wire = Wire::new(move |_: &Call| {
            json_reply(json!({"InstanceInformationList": [shown.clone()]}))
        });
        let found = agents(&ssm(&wire, 1), &one(), &long()).await.unwrap();
        assert_eq!(found[INSTANCE], expected);
    }
}

#[tokio::test(start_paused = true)]
async fn systems_managers_errors_keep_operation_and_code_and_say_whether_another_try_helps() {
    for (code, retryable) in [
        ("InvalidFilterKey", false),
        ("AccessDeniedException", false),
        ("ThrottlingException", true),
        ("InternalServerError", true),
    ] {
        let wire = Wire::new(move |_: &Call| Reply::json_error(code, "m"));
        let ssm = ssm(&wire, 1);
        let since = at("2026-11-24T00:00:00Z");
        for (operation, error) in [
            (
                "DescribeInstanceInformation",
                agents(&ssm, &one(), &long()).await.unwrap_err(),
            ),
            (
                "DescribeInstancePatchStates",
                states(&ssm, &one(), &long()).await.unwrap_err(),
            ),
            (
                "DescribeInstancePatches",
                missing(&ssm, INSTANCE, &long()).await.unwrap_err(),
            ),
            (
                "ListCommands",
                commands(&ssm, INSTANCE, since, &long()).await.unwrap_err(),
            ),
            (
                "ListCommandInvocations",
                invocation(&ssm, COMMAND, INSTANCE, &long())
                    .await
                    .unwrap_err(),
            ),
        ] {
            assert_eq!(
                (error.operation, error.code.as_str(), error.retryable),
                (operation, code, retryable)
            );
        }
    }
}

// --------------------------------------------------------------------- states

fn state_json(id: &str) -> Value {
    json!({
        "InstanceId": id, "PatchGroup": "", "BaselineId": "pb-0123456789abcdef0",
        "InstalledCount": 300, "InstalledOtherCount": 7, "InstalledPendingRebootCount": 2,
        "MissingCount": 3, "FailedCount": 1, "NotApplicableCount": 900,
        "OperationStartTime": seconds("2026-11-24T10:50:00Z"),
        "OperationEndTime": seconds("2026-11-24T10:59:30Z"), "Operation": "Install",
        "RebootOption": "NoReboot",
    })
}

#[tokio::test(start_paused = true)]
async fn patch_states_are_asked_for_50_at_a_time_and_over_all_pages() {
    let wire = Wire::new(|call: &Call| {
        let first = call.json["InstanceIds"][0].as_str().unwrap();
        match call.json["NextToken"].as_str() {
            None if first == id(0) => {
                json_reply(json!({"InstancePatchStates": [state_json(&id(0))], "NextToken": "two"}))
            }
            Some("two") => json_reply(json!({"InstancePatchStates": [state_json(&id(7))]})),
            None => json_reply(json!({"InstancePatchStates": [state_json(&id(50))]})),
            other => panic!("{other:?}"),
        }
    });
    let found = states(&ssm(&wire, 1), &ids(51), &long()).await.unwrap();
    assert_eq!(
        found.keys().cloned().collect::<Vec<_>>(),
        [id(0), id(7), id(50)]
    );
    assert_eq!(
        found[&id(7)],
        PatchState {
            operation: "Install".into(),
            ended_at: Some(at("2026-11-24T10:59:30Z")),
            baseline: Some("pb-0123456789abcdef0".into()),
            missing: 3,
            failed: 1,
            pending_reboot: 2,
        }
    );
    let calls = wire.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(
        calls[0].json,
        json!({"InstanceIds": ids(50), "MaxResults": 50})
    );
    assert_eq!(calls[1].json["NextToken"], "two");
    assert_eq!(
        calls[2].json,
        json!({"InstanceIds": [id(50)], "MaxResults": 50})
    );
    assert!(
        calls
            .iter()
            .all(|call| call.operation == "DescribeInstancePatchStates")
    );
}

#[tokio::test(start_paused = true)]
async fn a_patch_operation_without_an_end_has_none_and_without_counts_has_left_nothing() {
    let wire = Wire::new(|_: &Call| {
        json_reply(json!({"InstancePatchStates": [{
            "InstanceId": INSTANCE, "PatchGroup": "", "BaselineId": "pb-1", "Operation": "Scan",
            "OperationStartTime": seconds("2026-11-24T10:50:00Z"),
        }]}))
    });
    let found = states(&ssm(&wire, 1), &one(), &long()).await.unwrap();
    assert_eq!(
        found[INSTANCE],
        PatchState {
            operation: "Scan".into(),
            baseline: Some("pb-1".into()),
            ..PatchState::default()
        }
    );
}

// -------------------------------------------------------------------- missing

fn patch_json(title: &str, cves: Option<&str>) -> Value {
    let mut patch = json!({
        "Title": title, "KBId": "openssl.x86_64", "Classification": "Security",
        "Severity": "Important", "State": "Missing", "InstalledTime": 0.0,
    });
    if let Some(cves) = cves {
        patch["CVEIds"] = cves.into();
    }
    patch
}

#[tokio::test(start_paused = true)]
async fn missing_patches_are_asked_for_by_state_and_their_cves_are_told_apart() {
    let wire = Wire::new(|_: &Call| {
        json_reply(json!({"Patches": [
            patch_json("openssl.x86_64:1:3.0.8-1.amzn2023", Some("CVE-2026-0001, CVE-2026-0002,")),
            patch_json("tzdata.noarch:0:2026b", None),
            patch_json("", Some("")),
        ]}))
    });
    let found = missing(&ssm(&wire, 1), INSTANCE, &long()).await.unwrap();
    let patch = |title: &str, cves: &[&str]| Patch {
        title: title.into(),
        classification: "Security".into(),
        severity: "Important".into(),
        cves: cves.iter().map(|cve| (*cve).to_owned()).collect(),
    };
    assert_eq!(
        found,
        [
            patch(
                "openssl.x86_64:1:3.0.8-1.amzn2023",
                &["CVE-2026-0001", "CVE-2026-0002"]
            ),
            patch("tzdata.noarch:0:2026b", &[]),
            patch("openssl.x86_64", &[]),
        ]
    );
    assert_eq!(wire.operations(), ["DescribeInstancePatches"]);
    assert_eq!(
        wire.calls()[0].json,
        json!({
            "InstanceId": INSTANCE, "Filters": [{"Key": "State", "Values": ["Missing"]}],
            "MaxResults": 100,
        })
    );
}

#[tokio::test(start_paused = true)]
async fn missing_patches_are_read_page_by_page_until_there_are_as_many_as_are_listed() {
    let page = |call: &Call, of: usize| {
        let from = call.json["NextToken"]
            .as_str()
            .map_or(0, |t| t.parse().unwrap());
        let patches: Vec<Value> = (from..from + of)
            .map(|n| patch_json(&format!("patch-{n}"), None))
            .collect();
        json!({"Patches": patches, "NextToken": (from + of).to_string()})
    };
    // There would be ever more of them.
    let wire = Wire::new(move |call: &Call| json_reply(page(call, 60)));
    let found = missing(&ssm(&wire, 1), INSTANCE, &long()).await.unwrap();
    assert_eq!((found.len(), MOST_LISTED), (100, 100));
    assert_eq!(found[99].title, "patch-99");
    assert_eq!(wire.calls().len(), 2);

    // A page may be empty and not the last.
    let wire = Wire::new(move |call: &Call| match call.json["NextToken"].as_str() {
        None => json_reply(json!({"Patches": [], "NextToken": "0"})),
        Some("0") => json_reply(page(call, 1)),
        Some("1") => json_reply(json!({"Patches": [patch_json("last", None)]})),
        other => panic!("{other:?}"),
    });
    let found = missing(&ssm(&wire, 1), INSTANCE, &long()).await.unwrap();
    let titles: Vec<&str> = found.iter().map(|patch| patch.title.as_str()).collect();
    assert_eq!(titles, ["patch-0", "last"]);
}

// ------------------------------------------------------------------- commands

fn command_json(id: &str, document: &str, parameters: Value) -> Value {
    json!({
        "CommandId": id, "DocumentName": document, "DocumentVersion": "$DEFAULT", "Comment": "by hand",
        "Parameters": parameters, "InstanceIds": [INSTANCE], "Status": "InProgress",
        "StatusDetails": "In Progress", "RequestedDateTime": seconds("2026-11-24T10:59:30.25Z"),
        "TargetCount": 1, "CompletedCount": 0,
    })
}

#[tokio::test(start_paused = true)]
async fn patch_commands_are_told_from_others_by_their_document() {
    let wire = Wire::new(|_: &Call| {
        json_reply(json!({"Commands": [
            command_json("c-1", "AWS-RunPatchBaseline", json!({"Operation": ["Install"], "RebootOption": ["NoReboot"]})),
            command_json("c-2", "AWS-RunShellScript", json!({"Operation": ["Install"]})),
            command_json("c-3", "AWS-RunPatchBaselineWithHooks", json!({"Operation": ["Scan"]})),
            command_json("c-4", "AWS-RunPatchBaseline", json!({"Operation": []})),
            command_json("c-5", "team-AWS-RunPatchBaseline", json!({})),
            {"CommandId": "c-6"},
        ]}))
    });
    let since = at("2026-11-24T08:00:00.75Z");
    let found = commands(&ssm(&wire, 1), INSTANCE, since, &long())
        .await
        .unwrap();
    let command = |id: &str, operation: Option<&str>| Command {
        id: id.into(),
        operation: operation.map(str::to_owned),
        status: "InProgress".into(),
        requested_at: Some(at("2026-11-24T10:59:30.25Z")),
        comment: "by hand".into(),
        never_began: false,
    };
    assert_eq!(
        found,
        [
            command("c-1", Some("Install")),
            command("c-3", Some("Scan")),
            command("c-4", None)
        ]
    );
    assert_eq!(wire.operations(), ["ListCommands"]);
    assert_eq!(
        wire.calls()[0].json,
        json!({
            "InstanceId": INSTANCE, "MaxResults": 50,
            "Filters": [{"key": "InvokedAfter", "value": "2026-11-24T08:00:00Z"}],
        })
    );
}

#[tokio::test(start_paused = true)]
async fn commands_are_read_over_all_pages_but_at_most_five() {
    for (pages, expected) in [(3, 3), (5, 5), (100, 5)] {
        let wire = Wire::new(move |call: &Call| {
            let page: usize = call.json["NextToken"]
                .as_str()
                .map_or(1, |t| t.parse().unwrap());
            let command = command_json(&format!("c-{page}"), "AWS-RunPatchBaseline", json!({}));
            let mut body = json!({"Commands": [command]});
            if page < pages {
                body["NextToken"] = (page + 1).to_string().into();
            }
            json_reply(body)
        });
        let since = at("2026-11-24T00:00:00Z");
        let found = commands(&ssm(&wire, 1), INSTANCE, since, &long())
            .await
            .unwrap();
        let found: BTreeSet<String> = found.into_iter().map(|command| command.id).collect();
        assert_eq!((found.len(), wire.calls().len()), (expected, expected));
    }
}

// ---------------------------------------------------------------------- reach

fn in_vpc() -> Host {
    Host {
        id: INSTANCE.into(),
        state: "running".into(),
        subnet: Some("subnet-1".into()),
        vpc: Some("vpc-1".into()),
        ..Host::default()
    }
}

fn route_xml(to: &str, target: &str, state: &str) -> String {
    format!(
        "<item><destinationCidrBlock>{to}</destinationCidrBlock>{target}<state>{state}</state><origin>CreateRoute</origin></item>"
    )
}

fn tables_xml(tables: &[&str]) -> Reply {
    let tables: String = tables
        .iter()
        .map(|routes| {
            format!(
                "<item><routeTableId>rtb-1</routeTableId><vpcId>vpc-1</vpcId><routeSet>{routes}</routeSet></item>"
            )
        })
        .collect();
    response(
        "DescribeRouteTables",
        &format!("<routeTableSet>{tables}</routeTableSet>"),
    )
}

fn endpoint_xml(service: &str, state: &str) -> String {
    format!(
        "<item><vpcEndpointId>vpce-1</vpcEndpointId><vpcEndpointType>Interface</vpcEndpointType><vpcId>vpc-1</vpcId>\
         <serviceName>{service}</serviceName><state>{state}</state></item>"
    )
}

fn endpoints_xml(endpoints: &str, next: Option<&str>) -> Reply {
    response(
        "DescribeVpcEndpoints",
        &format!(
            "<vpcEndpointSet>{endpoints}</vpcEndpointSet>{}",
            next_xml(next)
        ),
    )
}

fn setting_json(value: &str) -> Reply {
    json_reply(json!({"ServiceSetting": {
        "SettingId": "/ssm/managed-instance/default-ec2-instance-management-role",
        "SettingValue": value, "Status": "Customized",
    }}))
}

/// A VPC without a way out.
fn closed(call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeRouteTables" => tables_xml(&[&route_xml(
            "10.0.0.0/16",
            "<gatewayId>local</gatewayId>",
            "active",
        )]),
        "DescribeVpcEndpoints" => endpoints_xml("", None),
        "GetServiceSetting" => setting_json("$None"),
        other => panic!("{other}"),
    }
}

async fn reach_of(wire: &Wire, host: &Host) -> Result<Reach, backstop_aws::error::AwsError> {
    reach(&ec2(wire, 1), &ssm(wire, 1), host, REGION, &long()).await
}

#[tokio::test(start_paused = true)]
async fn route_endpoints_and_default_role_are_asked_for_at_once() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeRouteTables" => {
            tables_xml(&[
                &(route_xml("10.0.0.0/16", "<gatewayId>local</gatewayId>", "active")
                    + &route_xml("0.0.0.0/0", "<natGatewayId>nat-1</natGatewayId>", "active")),
            ])
        }
        "DescribeVpcEndpoints" => endpoints_xml(
            &endpoint_xml("com.amazonaws.eu-central-1.ssm", "available"),
            None,
        ),
        _ => setting_json("service-role/AWSSystemsManagerDefaultEC2InstanceManagementRole"),
    });
    let found = reach_of(&wire, &in_vpc()).await.unwrap();
    assert_eq!(
        found,
        Reach {
            default_route: Some("nat-1".into()),
            endpoints: ["ssm".to_owned()].into(),
            default_role: true,
        }
    );
    assert_eq!(wire.sequential_round_trips(), 1);
    assert_eq!(wire.calls().len(), 3);
    assert_eq!(
        parameters(&calls_of(&wire, "DescribeRouteTables")[0]),
        pairs(&[
            ("Filter.1.Name", "association.subnet-id"),
            ("Filter.1.Value.1", "subnet-1")
        ])
    );
    let endpoints = &calls_of(&wire, "DescribeVpcEndpoints")[0];
    assert_eq!(endpoints.parameter("Filter.1.Name"), Some("vpc-id"));
    assert_eq!(endpoints.parameter("Filter.1.Value.1"), Some("vpc-1"));
    assert_eq!(
        calls_of(&wire, "GetServiceSetting")[0].json,
        json!({"SettingId": "/ssm/managed-instance/default-ec2-instance-management-role"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_subnet_without_a_route_table_of_its_own_goes_by_the_main_one_of_its_vpc() {
    let wire =
        Wire::new(
            |call: &Call| match (call.operation.as_str(), call.parameter("Filter.1.Name")) {
                ("DescribeRouteTables", Some("association.subnet-id")) => tables_xml(&[]),
                ("DescribeRouteTables", _) => tables_xml(&[&route_xml(
                    "0.0.0.0/0",
                    "<gatewayId>igw-1</gatewayId>",
                    "active",
                )]),
                _ => closed(call),
            },
        );
    let found = reach_of(&wire, &in_vpc()).await.unwrap();
    assert_eq!(found.default_route.as_deref(), Some("igw-1"));
    let tables = calls_of(&wire, "DescribeRouteTables");
    assert_eq!(tables.len(), 2);
    assert_eq!(
        parameters(&tables[1]),
        pairs(&[
            ("Filter.1.Name", "association.main"),
            ("Filter.1.Value.1", "true"),
            ("Filter.2.Name", "vpc-id"),
            ("Filter.2.Value.1", "vpc-1"),
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_default_route_is_what_an_active_route_to_everywhere_leads_to() {
    for (target, state, expected) in [
        ("<gatewayId>igw-1</gatewayId>", "active", Some("igw-1")),
        ("<gatewayId>vgw-1</gatewayId>", "active", Some("vgw-1")),
        (
            "<transitGatewayId>tgw-1</transitGatewayId>",
            "active",
            Some("tgw-1"),
        ),
        (
            "<instanceId>i-1</instanceId><networkInterfaceId>eni-1</networkInterfaceId>",
            "active",
            Some("i-1"),
        ),
        (
            "<networkInterfaceId>eni-1</networkInterfaceId>",
            "active",
            Some("eni-1"),
        ),
        (
            "<vpcPeeringConnectionId>pcx-1</vpcPeeringConnectionId>",
            "active",
            Some("pcx-1"),
        ),
        // Its gateway is gone.
        ("<natGatewayId>nat-1</natGatewayId>", "blackhole", None),
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "DescribeRouteTables" => tables_xml(&[&route_xml("0.0.0.0/0", target, state)]),
            _ => closed(call),
        });
        let found = reach_of(&wire, &in_vpc()).await.unwrap();
        assert_eq!(found.default_route.as_deref(), expected, "{target}");
        assert_eq!(
            calls_of(&wire, "DescribeRouteTables").len(),
            1,
            "its own table counts, whatever is in it"
        );
    }
    // Routes to anywhere else are none.
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeRouteTables" => tables_xml(&[&(route_xml(
            "10.0.0.0/8",
            "<transitGatewayId>tgw-1</transitGatewayId>",
            "active",
        ) + "<item><destinationIpv6CidrBlock>::/0</destinationIpv6CidrBlock><gatewayId>igw-1</gatewayId><state>active</state></item>")]),
        _ => closed(call),
    });
    assert_eq!(reach_of(&wire, &in_vpc()).await.unwrap(), Reach::default());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_counts_once_it_is_available_and_for_this_regions_service() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeVpcEndpoints" => match call.parameter("NextToken") {
            None => endpoints_xml(
                &(endpoint_xml("com.amazonaws.eu-central-1.ssmmessages", "available")
                    + &endpoint_xml("com.amazonaws.eu-central-1.ssm", "pending")
                    + &endpoint_xml("com.amazonaws.eu-west-1.ssm", "available")
                    + &endpoint_xml("com.amazonaws.eu-central-1.s3", "available")),
                Some("two"),
            ),
            Some(_) => endpoints_xml(
                &endpoint_xml("com.amazonaws.eu-central-1.ec2messages", "Available"),
                None,
            ),
        },
        _ => closed(call),
    });
    let found = reach_of(&wire, &in_vpc()).await.unwrap();
    assert_eq!(
        found.endpoints.into_iter().collect::<Vec<_>>(),
        ["ec2messages", "ssmmessages"]
    );
    assert_eq!(calls_of(&wire, "DescribeVpcEndpoints").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_default_role_is_one_that_the_setting_names() {
    for (value, expected) in [("$None", false), ("", false), ("service-role/Own", true)] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "GetServiceSetting" => setting_json(value),
            _ => closed(call),
        });
        let found = reach_of(&wire, &in_vpc()).await.unwrap();
        assert_eq!(found.default_role, expected, "{value}");
    }
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "GetServiceSetting" => Reply::json_error("ServiceSettingNotFound", "no such setting"),
        _ => closed(call),
    });
    assert!(!reach_of(&wire, &in_vpc()).await.unwrap().default_role);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_about_an_instance_that_is_in_no_vpc() {
    let wire = Wire::new(|call: &Call| panic!("{}", call.operation));
    for (subnet, vpc) in [
        (None, None),
        (Some("subnet-1"), None),
        (None, Some("vpc-1")),
    ] {
        let host = Host {
            subnet: subnet.map(str::to_owned),
            vpc: vpc.map(str::to_owned),
            ..in_vpc()
        };
        assert_eq!(reach_of(&wire, &host).await.unwrap(), Reach::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reach_of_which_one_call_fails_is_an_error_and_no_guess() {
    for (denied, code) in [
        ("DescribeRouteTables", "UnauthorizedOperation"),
        ("DescribeVpcEndpoints", "UnauthorizedOperation"),
        ("GetServiceSetting", "AccessDeniedException"),
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            operation if operation != denied => closed(call),
            "GetServiceSetting" => Reply::json_error(code, "m"),
            _ => Reply::ec2_error(403, code, "m"),
        });
        let error = reach_of(&wire, &in_vpc()).await.unwrap_err();
        assert_eq!((error.operation, error.code.as_str()), (denied, code));
    }
}

// ------------------------------------------------------------------ snapshots

fn run() -> Patching {
    serde_json::from_value(json!({
        "version": 1, "id": ENTRY, "control": "missing-patches", "severity": "high",
        "resource": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{INSTANCE}"),
        "resource_name": "web", "account": "111122223333", "region": REGION,
        "status": "in-progress", "operation": "install", "reboot": "never",
        "actor": Actor::default(), "policy_version": 1, "attempts": 1,
        "started_at": "2026-11-24T10:59:30Z",
    }))
    .unwrap()
}

fn snapshot_xml(id: &str, volume: &str, state: &str, purpose: &str) -> String {
    format!(
        "<item><snapshotId>{id}</snapshotId><volumeId>{volume}</volumeId><status>{state}</status>\
         <startTime>2026-11-24T10:59:40.000Z</startTime><ownerId>111122223333</ownerId><tagSet>\
         <item><key>backstop:entry</key><value>{ENTRY}</value></item>\
         <item><key>backstop:purpose</key><value>{purpose}</value></item></tagSet></item>"
    )
}

fn snapshots_xml(snapshots: &str, next: Option<&str>) -> Reply {
    response(
        "DescribeSnapshots",
        &format!("<snapshotSet>{snapshots}</snapshotSet>{}", next_xml(next)),
    )
}

fn made_xml(snapshots: &[&str]) -> Reply {
    let snapshots: String = snapshots
        .iter()
        .map(|id| format!("<item><snapshotId>{id}</snapshotId><volumeId>vol-1</volumeId><state>pending</state></item>"))
        .collect();
    response(
        "CreateSnapshots",
        &format!("<snapshotSet>{snapshots}</snapshotSet>"),
    )
}

#[tokio::test(start_paused = true)]
async fn all_volumes_of_an_instance_are_snapshotted_with_one_call_and_marked() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSnapshots" => snapshots_xml("", None),
        _ => made_xml(&["snap-1", "snap-2"]),
    });
    let found = safety_snapshots(&ec2(&wire, 1), &run(), SPARE, &long())
        .await
        .unwrap();
    assert_eq!(found, ["snap-1", "snap-2"]);
    assert_eq!(wire.operations(), ["DescribeSnapshots", "CreateSnapshots"]);
    let calls = wire.calls();
    assert_eq!(calls[0].parameter("Owner.1"), Some("self"));
    assert_eq!(
        calls[0].parameter("Filter.1.Name"),
        Some("tag:backstop:entry")
    );
    assert_eq!(calls[0].parameter("Filter.1.Value.1"), Some(ENTRY));
    assert_eq!(
        parameters(&calls[1]),
        pairs(&[
            ("InstanceSpecification.InstanceId", INSTANCE),
            (
                "Description",
                "Backstop: safety snapshot of i-0123456789abcdef0 before its patches (01KAZ0000000000000000000A1)"
            ),
            ("TagSpecification.1.ResourceType", "snapshot"),
            ("TagSpecification.1.Tag.1.Key", "backstop:entry"),
            ("TagSpecification.1.Tag.1.Value", ENTRY),
            ("TagSpecification.1.Tag.2.Key", "backstop:purpose"),
            ("TagSpecification.1.Tag.2.Value", "safety"),
            ("TagSpecification.1.Tag.3.Key", "Name"),
            ("TagSpecification.1.Tag.3.Value", "web before its patches"),
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_too_long_for_a_tag_is_cut() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSnapshots" => snapshots_xml("", None),
        _ => made_xml(&["snap-1"]),
    });
    let mut run = run();
    run.head.resource_name = "ü".repeat(256);
    safety_snapshots(&ec2(&wire, 1), &run, SPARE, &long())
        .await
        .unwrap();
    let call = &calls_of(&wire, "CreateSnapshots")[0];
    let name = call.parameter("TagSpecification.1.Tag.3.Value").unwrap();
    assert!(name.starts_with("üü") && name.ends_with(" before its patches"));
    assert!(name.chars().count() <= 256);
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_were_taken_before_the_run_was_cut_off_are_found_again() {
    let wire = Wire::new(|call: &Call| match call.parameter("NextToken") {
        None => snapshots_xml(
            &(snapshot_xml("snap-1", "vol-1", "completed", "safety")
                + &snapshot_xml("snap-9", "vol-9", "completed", "transfer")),
            Some("two"),
        ),
        Some(_) => snapshots_xml(&snapshot_xml("snap-2", "vol-2", "pending", "safety"), None),
    });
    let found = safety_snapshots(&ec2(&wire, 1), &run(), SPARE, &long())
        .await
        .unwrap();
    assert_eq!(found, ["snap-1", "snap-2"]);
    assert_eq!(
        wire.operations(),
        ["DescribeSnapshots", "DescribeSnapshots"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_snapshot_came_to_nothing_is_snapshotted_again() {
    let good = |id, volume| snapshot_xml(id, volume, "completed", "safety");
    let failed = |id, volume| snapshot_xml(id, volume, "error", "safety");
    for (there, expected) in [
        (
            good("snap-1", "vol-1") + &failed("snap-2", "vol-2"),
            vec!["snap-new"],
        ),
        (failed("snap-1", "vol-1"), vec!["snap-new"]),
        (
            snapshot_xml("snap-1", "vol-1", "completed", "transfer"),
            vec!["snap-new"],
        ),
        (
            failed("snap-1", "vol-1") + &good("snap-2", "vol-1"),
            vec!["snap-2"],
        ),
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "DescribeSnapshots" => snapshots_xml(&there, None),
            _ => made_xml(&["snap-new"]),
        });
        let found = safety_snapshots(&ec2(&wire, 1), &run(), SPARE, &long())
            .await
            .unwrap();
        assert_eq!(found, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_answer_was_lost_is_not_asked_for_twice() {
    let fault = || Reply::ec2_error(500, "InternalError", "An internal error has occurred");
    for (reply, code) in [
        (fault(), "InternalError"),
        (Reply::Broken, "NoConnection"),
        (Reply::Silence, "Timeout"),
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "DescribeSnapshots" => snapshots_xml("", None),
            _ => reply.clone(),
        });
        let error = safety_snapshots(
            &ec2(&wire, 3),
            &run(),
            Duration::ZERO,
            &Deadline::new(Duration::from_secs(3)),
        )
        .await
        .unwrap_err();
        assert_eq!(
            (error.operation, error.code.as_str()),
            ("CreateSnapshots", code)
        );
        assert!(error.may_have_acted());
        assert_eq!(calls_of(&wire, "CreateSnapshots").len(), 1, "{code}");
    }
    // The same client does ask again for what is safe to repeat.
    let wire = Wire::new(move |_: &Call| fault());
    let error = safety_snapshots(&ec2(&wire, 3), &run(), SPARE, &long())
        .await
        .unwrap_err();
    assert_eq!(error.operation, "DescribeSnapshots");
    assert_eq!(wire.operations(), ["DescribeSnapshots"; 3]);
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_were_refused_for_now_are_asked_for_again_while_there_is_time() {
    for code in [
        "RequestLimitExceeded",
        "SnapshotCreationPerVolumeRateExceeded",
    ] {
        let asked = AtomicUsize::new(0);
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "DescribeSnapshots" => snapshots_xml("", None),
            _ if asked.fetch_add(1, Ordering::SeqCst) == 0 => Reply::ec2_error(400, code, "later"),
            _ => made_xml(&["snap-1"]),
        });
        let found = safety_snapshots(&ec2(&wire, 1), &run(), SPARE, &long())
            .await
            .unwrap();
        assert_eq!(found, ["snap-1"]);
        assert_eq!(calls_of(&wire, "CreateSnapshots").len(), 2);
    }
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSnapshots" => snapshots_xml("", None),
        _ => Reply::ec2_error(503, "RequestLimitExceeded", "later"),
    });
    let error = safety_snapshots(&ec2(&wire, 1), &run(), SPARE, &short())
        .await
        .unwrap_err();
    assert_eq!(error.code, "RequestLimitExceeded");
    assert_eq!(calls_of(&wire, "CreateSnapshots").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_are_refused_again_and_again_wait_no_time_away_that_others_need() {
    // How often it is asked with fifty seconds left, by what others need of them.
    for (spare, asked) in [(20, 5), (49, 1), (60, 1)] {
        let wire = Wire::new(|call: &Call| match call.operation.as_str() {
            "DescribeSnapshots" => snapshots_xml("", None),
            _ => Reply::ec2_error(503, "RequestLimitExceeded", "later"),
        });
        let spare = Duration::from_secs(spare);
        let error = safety_snapshots(&ec2(&wire, 1), &run(), spare, &long())
            .await
            .unwrap_err();
        assert!(error.is_throttled());
        assert_eq!(
            calls_of(&wire, "CreateSnapshots").len(),
            asked,
            "{spare:?} to spare"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_snapshots_there_is_an_error() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSnapshots" => snapshots_xml("", None),
        _ => made_xml(&[]),
    });
    let error = safety_snapshots(&ec2(&wire, 1), &run(), SPARE, &long())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "CreateSnapshots: BadResponse: the answer has no snapshots"
    );

    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSnapshots" => snapshots_xml("", None),
        _ => Reply::ec2_error(403, "UnauthorizedOperation", "no"),
    });
    let error = safety_snapshots(&ec2(&wire, 3), &run(), SPARE, &long())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "CreateSnapshots: UnauthorizedOperation: no"
    );
    assert!(!error.may_have_acted());
    assert_eq!(calls_of(&wire, "CreateSnapshots").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_runs_snapshots_that_are_in_error_are_lost_and_no_others() {
    let wire = Wire::new(|call: &Call| match call.parameter("NextToken") {
        None => snapshots_xml(
            &(snapshot_xml("snap-1", "vol-1", "completed", "safety")
                + &snapshot_xml("snap-2", "vol-2", "error", "safety")
                + &snapshot_xml("snap-3", "vol-3", "pending", "safety")),
            Some("two"),
        ),
        // The last two are none that the run names.
        Some(_) => snapshots_xml(
            &(snapshot_xml("snap-4", "vol-4", "error", "safety")
                + &snapshot_xml("snap-8", "vol-2", "error", "safety")
                + &snapshot_xml("snap-9", "vol-9", "error", "transfer")),
            None,
        ),
    });
    let mut run = run();
    // Of one that was deleted nobody says that it came to nothing.
    run.detail.snapshots = ["snap-1", "snap-2", "snap-3", "snap-4", "snap-5"]
        .map(str::to_owned)
        .to_vec();
    let lost = lost_snapshots(&ec2(&wire, 1), &run, &long()).await;
    assert_eq!(lost.unwrap(), ["snap-2", "snap-4"]);
    assert_eq!(
        wire.operations(),
        ["DescribeSnapshots", "DescribeSnapshots"]
    );
    let call = &wire.calls()[0];
    assert_eq!(call.parameter("Owner.1"), Some("self"));
    assert_eq!(call.parameter("Filter.1.Name"), Some("tag:backstop:entry"));
    assert_eq!(call.parameter("Filter.1.Value.1"), Some(ENTRY));

    let wire = Wire::new(|_: &Call| Reply::ec2_error(403, "UnauthorizedOperation", "no"));
    let error = lost_snapshots(&ec2(&wire, 1), &run, &long())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "DescribeSnapshots: UnauthorizedOperation: no"
    );
}

// ----------------------------------------------------------------------- send

fn sent_json() -> Reply {
    json_reply(
        json!({"Command": {"CommandId": COMMAND, "DocumentName": "AWS-RunPatchBaseline", "Status": "Pending"}}),
    )
}

fn batch<'a>(instances: &'a [String], settings: &'a Settings) -> Batch<'a> {
    Batch {
        mark: MARK,
        operation: Operation::Install,
        reboot: Reboot::Never,
        instances,
        settings,
        log_group: "/backstop/commands",
    }
}

async fn send_over(
    wire: &Wire,
    attempts: u32,
    deadline: &Deadline,
) -> Result<String, backstop_aws::error::AwsError> {
    let (instances, settings) = (one(), Settings::default());
    let batch = batch(&instances, &settings);
    send(&ssm(wire, attempts), &batch, Timestamp::now(), deadline).await
}

#[tokio::test(start_paused = true)]
async fn a_command_names_document_instances_pace_mark_and_log_group() {
    let wire = Wire::new(|_: &Call| sent_json());
    let (instances, settings) = (ids(2), Settings::default());
    let first = batch(&instances, &settings);
    let id = send(&ssm(&wire, 1), &first, Timestamp::now(), &long())
        .await
        .unwrap();
    assert_eq!(id, COMMAND);
    let settings = Settings {
        max_concurrency: "5".into(),
        max_errors: "0".into(),
        ..Settings::default()
    };
    for (operation, reboot) in [
        (Operation::Install, Reboot::IfNeeded),
        (Operation::Scan, Reboot::Never),
    ] {
        let batch = Batch {
            operation,
            reboot,
            ..batch(&instances, &settings)
        };
        send(&ssm(&wire, 1), &batch, Timestamp::now(), &long())
            .await
            .unwrap();
    }
    let calls = wire.calls();
    assert_eq!(wire.operations(), ["SendCommand"; 3]);
    assert_eq!(
        calls[0].json,
        json!({
            "DocumentName": "AWS-RunPatchBaseline", "InstanceIds": ids(2),
            "Parameters": {"Operation": ["Install"], "RebootOption": ["NoReboot"]},
            "TimeoutSeconds": 21_600, "MaxConcurrency": "10%", "MaxErrors": "10%",
            "Comment": "Backstop 01KAZ0000000000000000000B1",
            "CloudWatchOutputConfig": {
                "CloudWatchLogGroupName": "/backstop/commands", "CloudWatchOutputEnabled": true,
            },
        })
    );
    assert_eq!(
        calls[1].json["Parameters"],
        json!({"Operation": ["Install"], "RebootOption": ["RebootIfNeeded"]})
    );
    assert_eq!(calls[1].json["MaxConcurrency"], "5");
    assert_eq!(calls[1].json["MaxErrors"], "0");
    assert_eq!(
        calls[2].json["Parameters"],
        json!({"Operation": ["Scan"], "RebootOption": ["NoReboot"]})
    );
}

fn windows(windows: &[(&str, &str)]) -> Settings {
    let windows: Vec<Value> = windows
        .iter()
        .map(|(from, to)| json!({"from": from, "to": to}))
        .collect();
    serde_json::from_value(json!({"windows": windows})).unwrap()
}

#[test]
fn a_command_has_to_begin_before_its_window_closes_and_within_six_hours_without_one() {
    // 30 seconds is the least that SendCommand takes.
    for (of, now, expected) in [
        (windows(&[]), "2026-11-24T03:00:00Z", 21_600),
        (
            windows(&[("02:00", "05:00")]),
            "2026-11-24T02:00:00Z",
            10_800,
        ),
        (windows(&[("02:00", "05:00")]), "2026-11-24T04:50:00Z", 600),
        (windows(&[("02:00", "05:00")]), "2026-11-24T04:59:29Z", 31),
        (windows(&[("02:00", "05:00")]), "2026-11-24T04:59:31Z", 30),
        (windows(&[("02:00", "05:00")]), "2026-11-24T04:59:59Z", 30),
        // Over midnight, and longer than six hours.
        (windows(&[("22:00", "01:00")]), "2026-11-24T23:30:00Z", 5400),
        (
            windows(&[("00:00", "00:00")]),
            "2026-11-24T10:00:00Z",
            21_600,
        ),
        (windows(&[("00:00", "00:00")]), "2026-11-24T23:00:00Z", 3600),
        // Of two that are open the one that closes last.
        (
            windows(&[("02:00", "05:00"), ("04:00", "06:00")]),
            "2026-11-24T04:30:00Z",
            5400,
        ),
    ] {
        assert_eq!(
            of.begin_within(at(now)),
            expected,
            "{:?} at {now}",
            of.windows
        );
    }
}

/// How long a command that is sent now waits for its turn.
async fn waits_for(settings: &Settings, operation: Operation) -> i64 {
    let wire = Wire::new(|_: &Call| sent_json());
    let instances = one();
    let batch = Batch {
        operation,
        ..batch(&instances, settings)
    };
    send(&ssm(&wire, 1), &batch, Timestamp::now(), &long())
        .await
        .unwrap();
    wire.calls()[0].json["TimeoutSeconds"].as_i64().unwrap()
}

/// A time of day, so many minutes from now, and that minute's beginning.
fn in_minutes(minutes: u64) -> (String, Timestamp) {
    let then = Timestamp::now() + Duration::from_secs(60 * minutes);
    let minute = Timestamp::from_second(then.as_second() / 60 * 60).unwrap();
    (then.strftime("%H:%M").to_string(), minute)
}

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_its_turn_for_what_is_left_of_its_window() {
    let (from, _) = in_minutes(23 * 60);
    let (to, closes) = in_minutes(2 * 60);
    let before = Timestamp::now();
    let waits = waits_for(&windows(&[(&from, &to)]), Operation::Install).await;
    let left = |now: Timestamp| closes.duration_since(now).as_secs();
    assert!(
        (left(Timestamp::now())..=left(before)).contains(&waits),
        "{waits}: {from} to {to}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_installation_whose_window_has_closed_since_waits_as_short_as_can_be() {
    let ((from, _), (to, _)) = (in_minutes(2 * 60), in_minutes(3 * 60));
    let closed = windows(&[(&from, &to)]);
    assert_eq!(waits_for(&closed, Operation::Install).await, 30);
    // A scan is bound to no window.
    assert_eq!(waits_for(&closed, Operation::Scan).await, 21_600);
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_answer_was_lost_is_sent_once_and_may_have_acted() {
    let unavailable = Reply::Answer(503, json!({"__type": "ServiceUnavailable"}).to_string());
    let proxy = Reply::Answer(502, "<html>Bad Gateway</html>".to_owned());
    for (reply, code) in [
        (internal_error(), "InternalServerError"),
        (Reply::Broken, "NoConnection"),
        (Reply::Silence, "Timeout"),
        (unavailable, "ServiceUnavailable"),
        (proxy, "BadResponse"),
    ] {
        let wire = Wire::new(move |_: &Call| reply.clone());
        let deadline = Deadline::new(Duration::from_secs(3));
        let error = send_over(&wire, 3, &deadline).await.unwrap_err();
        assert_eq!(
            (error.operation, error.code.as_str()),
            ("SendCommand", code)
        );
        assert!(error.may_have_acted(), "{code}");
        assert_eq!(wire.calls().len(), 1, "{code}");
    }
    // The same client does ask again for what is safe to repeat.
    let wire = Wire::new(|_: &Call| internal_error());
    states(&ssm(&wire, 3), &one(), &long()).await.unwrap_err();
    assert_eq!(wire.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_command_is_sent_again_five_times_at_most_and_while_there_is_time() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |_: &Call| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => slower(),
        _ => sent_json(),
    });
    assert_eq!(send_over(&wire, 3, &long()).await.unwrap(), COMMAND);
    assert_eq!(wire.operations(), ["SendCommand"; 2]);
    assert_eq!(wire.calls()[0].json, wire.calls()[1].json);

    let wire = Wire::new(|_: &Call| slower());
    let error = send_over(&wire, 3, &long()).await.unwrap_err();
    assert_eq!(error.code, "ThrottlingException");
    assert!(!error.may_have_acted());
    assert_eq!(wire.calls().len(), 5);

    let wire = Wire::new(|_: &Call| slower());
    let error = send_over(&wire, 3, &short()).await.unwrap_err();
    assert_eq!(error.code, "ThrottlingException");
    assert_eq!(wire.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_refused_is_not_sent_again() {
    for code in [
        "InvalidInstanceId",
        "AccessDeniedException",
        "InvalidParameters",
        "UnsupportedPlatformType",
    ] {
        let wire = Wire::new(move |_: &Call| Reply::json_error(code, "m"));
        let error = send_over(&wire, 3, &long()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("SendCommand: {code}: m"));
        assert!(!error.retryable && !error.may_have_acted());
        assert_eq!(wire.calls().len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_for_none_or_for_more_than_50_instances_is_not_sent() {
    let wire = Wire::new(|_: &Call| sent_json());
    let settings = Settings::default();
    for (count, sent) in [(0, false), (50, true), (51, false)] {
        let instances = ids(count);
        let before = wire.calls().len();
        let answer = send(
            &ssm(&wire, 1),
            &batch(&instances, &settings),
            Timestamp::now(),
            &long(),
        )
        .await;
        assert_eq!(answer.is_ok(), sent, "{count}");
        assert_eq!(wire.calls().len() - before, usize::from(sent));
        if let Err(error) = answer {
            assert_eq!(
                error.to_string(),
                format!("SendCommand: NotSent: a command is for 1 to 50 instances, not {count}")
            );
            assert!(!error.may_have_acted());
        }
    }
    assert_eq!(MOST_INSTANCES, 50);
}

#[tokio::test(start_paused = true)]
async fn a_command_without_an_id_may_have_been_sent() {
    let wire = Wire::new(|_: &Call| json_reply(json!({"Command": {}})));
    let error = send_over(&wire, 1, &long()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "SendCommand: BadResponse: the answer has no command id"
    );
    assert!(error.may_have_acted());
}

// ----------------------------------------------------------------- invocation

#[tokio::test(start_paused = true)]
async fn an_invocation_has_ended_when_its_details_say_so() {
    let ended = |status: &str| {
        Invocation::Ended(Ended {
            status: status.to_owned(),
            ..Ended::default()
        })
    };
    for (status, details, expected) in [
        ("Pending", json!("Pending"), Invocation::UnderWay),
        ("InProgress", json!("InProgress"), Invocation::UnderWay),
        ("InProgress", json!("In Progress"), Invocation::UnderWay),
        ("Delayed", json!("Delayed"), Invocation::UnderWay),
        ("Cancelling", json!("Cancelling"), Invocation::UnderWay),
        ("InProgress", Value::Null, Invocation::UnderWay),
        ("Success", json!("Success"), ended("Success")),
        ("Failed", json!("Failed"), ended("Failed")),
        (
            "TimedOut",
            json!("Delivery Timed Out"),
            ended("DeliveryTimedOut"),
        ),
        (
            "TimedOut",
            json!("DeliveryTimedOut"),
            ended("DeliveryTimedOut"),
        ),
        (
            "TimedOut",
            json!("Execution Timed Out"),
            ended("ExecutionTimedOut"),
        ),
        ("Failed", json!("Undeliverable"), ended("Undeliverable")),
        ("Failed", json!("Terminated"), ended("Terminated")),
        ("Failed", json!("Access Denied"), ended("AccessDenied")),
        ("Cancelled", json!("Cancelled"), ended("Cancelled")),
        ("TimedOut", json!(""), ended("TimedOut")),
    ] {
        let answer = json!({"CommandInvocations": [{
            "CommandId": COMMAND, "InstanceId": INSTANCE, "DocumentName": "AWS-RunPatchBaseline",
            "Status": status, "StatusDetails": details, "CommandPlugins": [],
        }]});
        let wire = Wire::new(move |_: &Call| json_reply(answer.clone()));
        let found = invocation(&ssm(&wire, 1), COMMAND, INSTANCE, &long()).await;
        assert_eq!(found.unwrap(), expected, "{status} {details}");
        assert_eq!(wire.operations(), ["ListCommandInvocations"]);
        assert_eq!(
            wire.calls()[0].json,
            json!({"CommandId": COMMAND, "InstanceId": INSTANCE, "Details": true})
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_says_whether_anything_ran_and_what_the_step_that_failed_printed() {
    let started = seconds("2026-11-24T10:59:31Z");
    for (steps, expected) in [
        // As Systems Manager lists a document with a step for each platform.
        (
            json!([
                {"Name": "PatchWindows", "Status": "Success", "StatusDetails": "Success", "ResponseCode": 0},
                {"Name": "PatchLinux", "Status": "Failed", "ResponseCode": 146,
                 "ResponseStartDateTime": started, "Output": "Unsupported Operating System"},
            ]),
            (true, Some(146), Some("Unsupported Operating System")),
        ),
        (
            json!([{"Name": "PatchLinux", "Status": "Cancelled", "ResponseCode": -1}]),
            (false, None, None),
        ),
        (
            json!([{"Name": "PatchLinux", "Status": "Cancelled", "ResponseCode": -1, "ResponseStartDateTime": started}]),
            (true, None, None),
        ),
        (
            json!([{"Name": "PatchLinux", "Status": "Failed", "ResponseCode": 1, "ResponseStartDateTime": 0, "Output": ""}]),
            (false, Some(1), None),
        ),
        (json!([]), (false, None, None)),
    ] {
        let answer = json!({"CommandInvocations": [{
            "CommandId": COMMAND, "InstanceId": INSTANCE, "Status": "Failed",
            "StatusDetails": "Failed", "CommandPlugins": steps,
        }]});
        let wire = Wire::new(move |_: &Call| json_reply(answer.clone()));
        let found = invocation(&ssm(&wire, 1), COMMAND, INSTANCE, &long()).await;
        let Invocation::Ended(ended) = found.unwrap() else {
            panic!("it has ended")
        };
        let output = ended.output.as_deref();
        assert_eq!((ended.started, ended.exit_code, output), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_command_came_to_on_the_instance_counts_and_not_as_a_whole() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "ListCommands" => json_reply(json!({"Commands": [
            command_json("c-1", "AWS-RunPatchBaseline", json!({"Operation": ["Install"]})),
            command_json("c-2", "AWS-RunPatchBaseline", json!({"Operation": ["Install"]})),
            command_json("c-3", "AWS-RunPatchBaseline", json!({"Operation": ["Install"]})),
        ]})),
        _ => json_reply(json!({"CommandInvocations": [
            {"CommandId": "c-1", "InstanceId": INSTANCE, "Status": "Failed", "StatusDetails": "Terminated"},
            {"CommandId": "c-2", "InstanceId": INSTANCE, "Status": "InProgress", "StatusDetails": "In Progress"},
            {"CommandId": "c-9", "InstanceId": INSTANCE, "Status": "Success", "StatusDetails": "Success"},
        ]})),
    });
    let since = at("2026-11-24T08:00:00Z");
    let found = commands_on(&ssm(&wire, 1), INSTANCE, since, &long()).await;
    let found: Vec<(String, bool, bool)> = found
        .unwrap()
        .into_iter()
        .map(|command| {
            (
                command.id.clone(),
                command.never_began,
                command.is_under_way(),
            )
        })
        .collect();
    let expected = [
        ("c-1", true, false),
        ("c-2", false, true),
        ("c-3", false, true),
    ];
    assert_eq!(
        found,
        expected.map(|(id, idle, at_work)| (id.to_owned(), idle, at_work))
    );
    assert_eq!(
        wire.operations(),
        ["ListCommands", "ListCommandInvocations"]
    );
    assert_eq!(
        wire.calls()[1].json,
        json!({
            "InstanceId": INSTANCE, "MaxResults": 50, "Details": true,
            "Filters": [{"key": "InvokedAfter", "value": "2026-11-24T08:00:00Z"}],
        })
    );
    // Without a command there is nothing to ask about.
    let none = Wire::new(|_: &Call| json_reply(json!({"Commands": []})));
    commands_on(&ssm(&none, 1), INSTANCE, since, &long())
        .await
        .unwrap();
    assert_eq!(none.operations(), ["ListCommands"]);
}

// ------------------------------------------- instances that are not accepted

/// Refuses a call that names one of these, as Systems Manager does: as a whole.
fn refusing(bad: &[usize]) -> Wire {
    let bad: Vec<String> = bad.iter().copied().map(id).collect();
    Wire::new(move |call: &Call| {
        let texts = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|id| id.as_str().unwrap().to_owned()).collect()
        };
        let (asked, answer): (_, fn(&str) -> Value) = match call.operation.as_str() {
            "DescribeInstanceInformation" => (
                texts(&call.json["Filters"][0]["Values"]),
                |id| json!({"InstanceId": id, "PingStatus": "Online"}),
            ),
            _ => (texts(&call.json["InstanceIds"]), state_json),
        };
        if asked.iter().any(|id| bad.contains(id)) {
            return Reply::json_error("InvalidInstanceId", "");
        }
        let list: Vec<Value> = asked.iter().map(|id| answer(id)).collect();
        json_reply(json!({"InstanceInformationList": list, "InstancePatchStates": list}))
    })
}

#[tokio::test(start_paused = true)]
async fn one_instance_that_systems_manager_does_not_accept_fails_the_read_for_no_other() {
    for bad in [
        &[][..],
        &[0],
        &[49],
        &[50],
        &[17, 18, 140],
        &[0, 25, 49, 99, 149],
    ] {
        let expected: BTreeSet<String> = (0..150).filter(|n| !bad.contains(n)).map(id).collect();
        let wire = refusing(bad);
        let found = agents(&ssm(&wire, 1), &ids(150), &long()).await.unwrap();
        assert_eq!(
            found.into_keys().collect::<BTreeSet<_>>(),
            expected,
            "{bad:?}"
        );
        // Halved, and not each by itself: two calls for each level of the 50.
        let most = 3 + bad.len() * 12;
        assert!(
            wire.calls().len() <= most,
            "{} for {bad:?}",
            wire.calls().len()
        );
        let wire = refusing(bad);
        let found = states(&ssm(&wire, 1), &ids(150), &long()).await.unwrap();
        assert_eq!(
            found.into_keys().collect::<BTreeSet<_>>(),
            expected,
            "{bad:?}"
        );
    }
    // Where it accepts none, none is managed, and that is an answer.
    let all: Vec<usize> = (0..50).collect();
    let found = agents(&ssm(&refusing(&all), 1), &ids(50), &long()).await;
    assert!(found.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_an_instance_that_systems_manager_does_not_accept_nothing_is_known() {
    let wire = Wire::new(|_: &Call| Reply::json_error("InvalidInstanceId", ""));
    let ssm = ssm(&wire, 1);
    let since = at("2026-11-24T08:00:00Z");
    assert_eq!(missing(&ssm, INSTANCE, &long()).await.unwrap(), []);
    assert_eq!(commands(&ssm, INSTANCE, since, &long()).await.unwrap(), []);
    assert_eq!(
        commands_on(&ssm, INSTANCE, since, &long()).await.unwrap(),
        []
    );
}

// ------------------------------------------- snapshots that were kept for long

fn kept(id: &str, tags: &[(&str, &str)]) -> Snapshot {
    Snapshot {
        id: id.into(),
        volume: "vol-1".into(),
        state: "completed".into(),
        started_at: None,
        tags: tags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_runs_are_asked_for_by_their_marks_page_by_page() {
    let wire = Wire::new(|call: &Call| match call.parameter("NextToken") {
        None => snapshots_xml(
            &snapshot_xml("snap-1", "vol-1", "completed", "safety"),
            Some("two"),
        ),
        Some(_) => snapshots_xml(
            &snapshot_xml("snap-2", "vol-2", "completed", "safety"),
            None,
        ),
    });
    let mut pages: Vec<Vec<String>> = Vec::new();
    let seen = kept_snapshots::walk(&ec2(&wire, 1), &long(), async |page| {
        pages.push(page.into_iter().map(|snapshot| snapshot.id).collect());
    })
    .await;
    assert_eq!(seen.unwrap(), 2);
    assert_eq!(pages, [["snap-1"], ["snap-2"]]);
    let call = &wire.calls()[0];
    for (name, value) in [
        ("Owner.1", "self"),
        ("Filter.1.Name", "tag:backstop:purpose"),
        ("Filter.1.Value.1", "safety"),
        ("Filter.2.Name", "tag-key"),
        ("Filter.2.Value.1", "backstop:entry"),
        ("MaxResults", "500"),
    ] {
        assert_eq!(call.parameter(name), Some(value), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_without_our_marks_is_not_deleted_and_one_in_use_is_left() {
    let safety = [("backstop:purpose", "safety"), ("backstop:entry", "01K0")];
    for (tags, code, expected) in [
        (&safety[..], None, Ok(Deletion::Gone)),
        (
            &safety,
            Some("InvalidSnapshot.NotFound"),
            Ok(Deletion::Gone),
        ),
        (&safety, Some("InvalidSnapshot.InUse"), Ok(Deletion::InUse)),
        (
            &safety,
            Some("UnauthorizedOperation"),
            Err("UnauthorizedOperation"),
        ),
    ] {
        let wire = Wire::new(move |_: &Call| match code {
            Some(code) => Reply::ec2_error(400, code, ""),
            None => response("DeleteSnapshot", "<return>true</return>"),
        });
        let deleted = kept_snapshots::delete(&ec2(&wire, 1), &kept("snap-1", tags), &long()).await;
        assert_eq!(
            deleted.map_err(|error| error.code),
            expected.map_err(str::to_owned)
        );
        assert_eq!(wire.calls()[0].parameter("SnapshotId"), Some("snap-1"));
    }
    for tags in [
        &safety[..1],
        &safety[1..],
        &[],
        &[("backstop:purpose", "transfer"), ("backstop:entry", "01K0")],
    ] {
        let wire = Wire::new(|_: &Call| panic!("it is not asked for"));
        let deleted = kept_snapshots::delete(&ec2(&wire, 1), &kept("snap-1", tags), &long()).await;
        assert!(deleted.is_err(), "{tags:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_systems_manager_does_not_know_is_unknown() {
    for reply in [
        json_reply(json!({"CommandInvocations": []})),
        json_reply(json!({})),
        Reply::json_error("InvalidCommandId", "no such command"),
        Reply::json_error("InvalidInstanceId", "no such instance"),
    ] {
        let wire = Wire::new(move |_: &Call| reply.clone());
        let found = invocation(&ssm(&wire, 1), COMMAND, INSTANCE, &long()).await;
        assert_eq!(found.unwrap(), Invocation::Unknown);
    }
}
