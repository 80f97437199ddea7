//! The pipeline against the real SDK clients with canned answers: what is
//! called in which order, what is answered, and what happens when one call
//! fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_core::entry::{AtOnce, Entry};
use backstop_core::exemption::Exemption;
use backstop_core::plan::{Change, Disposition, Ending, Outcome, Plan, Step};
use backstop_core::ports::Permission;
use backstop_core::run::{Head, Run};
use backstop_core::security_group::{IngressRule, Source};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use backstop_wire::{Call, Reply, Wire};
use jiff::Timestamp;
use lambda_runtime::Context;
use serde_json::json;
use std::collections::BTreeMap;

use super::*;

const GROUP: &str = "sg-0123456789abcdef0";
const ENTRY: &str = "01M7SH8XYF6H0J2M4N8P7R3T1W";

fn rule(id: &str, from: i32, to: i32, source: &str) -> IngressRule {
    IngressRule {
        id: id.into(),
        permission: Permission::new("tcp", from, to),
        source: Source::Ipv4(source.into()),
        description: Some(format!("about {id}")),
        tags: BTreeMap::from([("ticket".into(), "OPS-1".into())]),
    }
}

fn outcome(
    rule: &str,
    step: Step,
    created: Option<&str>,
    permission: Option<Permission>,
) -> Outcome {
    Outcome {
        round: 1,
        item: rule.into(),
        step,
        permission,
        created: created.map(str::to_owned),
        without: None,
        ending: Ending::Done,
    }
}

/// `sgr-ssh` was revoked; `sgr-low` was narrowed to port 80, and `sgr-added`
/// made for port 443.
fn entry() -> Entry<IngressRule> {
    let (ssh, low) = (
        rule("sgr-ssh", 22, 22, "0.0.0.0/0"),
        rule("sgr-low", 0, 1024, "0.0.0.0/0"),
    );
    let mut narrowed = low.clone();
    narrowed.permission = Permission::new("tcp", 80, 80);
    Run {
        head: Head {
            version: 1,
            id: ENTRY.into(),
            control: ControlId::OpenIngress,
            severity: Severity::Critical,
            resource: format!("arn:aws:ec2:eu-central-1:111122223333:security-group/{GROUP}"),
            resource_name: "web".into(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            team: None,
            status: Status::Remediated,
            exemption: Exemption::None,
            actor: Actor::default(),
            policy_version: 1,
            attempts: 1,
            started_at: "2026-11-24T10:00:00Z".parse().unwrap(),
            finished_at: None,
            managed_by: None,
        },
        detail: AtOnce {
            exposures: vec![],
            plan: Plan {
                disposition: Disposition::Enforce,
                changes: vec![],
                reasons: vec![],
                because: None,
            },
            before: BTreeMap::from([("sgr-ssh".into(), ssh), ("sgr-low".into(), low)]),
            outcomes: vec![
                outcome("sgr-ssh", Step::Revoke, None, None),
                outcome(
                    "sgr-low",
                    Step::Authorise,
                    Some("sgr-added"),
                    Some(Permission::new("tcp", 443, 443)),
                ),
                outcome(
                    "sgr-low",
                    Step::Narrow,
                    None,
                    Some(Permission::new("tcp", 80, 80)),
                ),
            ],
            verification: None,
            shows_by: None,
            after: BTreeMap::from([("sgr-ssh".into(), None), ("sgr-low".into(), Some(narrowed))]),
            fight: None,
        },
    }
}

/// A small EC2: one group's rules, as (id, from, to).
type Rules = Arc<Mutex<Vec<(String, i32, i32)>>>;

fn left() -> Rules {
    Arc::new(Mutex::new(vec![
        ("sgr-low".into(), 80, 80),
        ("sgr-added".into(), 443, 443),
        ("sgr-other".into(), 5432, 5432),
    ]))
}

fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn stored(entry: &Entry<IngressRule>) -> Reply {
    use std::io::Write as _;
    let mut document = serde_json::to_value(entry).unwrap();
    document["kind"] = "remediation".into();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&serde_json::to_vec(&entry.detail.before).unwrap())
        .unwrap();
    let before = aws_smithy_types::base64::encode(gzip.finish().unwrap());
    Reply::ok(
        json!({ "Item": {
        "pk": {"S": format!("entry#{}", entry.head.id)}, "sk": {"S": "entry"},
        "document": {"S": document.to_string()}, "before": {"B": before}, "told": {"BOOL": true},
    } })
        .to_string(),
    )
}

fn answer(rules: &Rules, entry: &Entry<IngressRule>, call: &Call) -> Reply {
    let mut rules = rules.lock().unwrap();
    let port = |call: &Call, name: &str| call.parameter(name).unwrap().parse().unwrap();
    match call.operation.as_str() {
        "DescribeSecurityGroups" => xml(
            "DescribeSecurityGroups",
            &format!(
                "<securityGroupInfo><item><ownerId>111122223333</ownerId><groupId>{GROUP}</groupId><groupName>web</groupName><vpcId>vpc-1</vpcId></item></securityGroupInfo>"
            ),
        ),
        "DescribeSecurityGroupRules" => {
            let rules: String = rules.iter().map(|(id, from, to)| {
                // The description stays with the rule, whatever its id.
                let about = match id.as_str() { "sgr-added" | "sgr-low" => "about sgr-low", "sgr-new" => "about sgr-ssh", _ => "other" };
                    // What was put back carries its opt-out.
                    let tags = match (id.as_str(), from) {
                        ("sgr-new", _) | ("sgr-low", 0) => "<tagSet><item><key>backstop:opt-out</key><value>open-ingress until=2099-01-01</value></item></tagSet>",
                        _ => "",
                    };
                format!("<item><securityGroupRuleId>{id}</securityGroupRuleId><groupId>{GROUP}</groupId><isEgress>false</isEgress><ipProtocol>tcp</ipProtocol><fromPort>{from}</fromPort><toPort>{to}</toPort><cidrIpv4>0.0.0.0/0</cidrIpv4><description>{about}</description>{tags}</item>")
            }).collect();
            xml(
                "DescribeSecurityGroupRules",
                &format!("<securityGroupRuleSet>{rules}</securityGroupRuleSet>"),
            )
        }
        "DescribeTags" => xml("DescribeTags", "<tagSet/>"),
        "CreateTags" => xml("CreateTags", "<return>true</return>"),
        "AuthorizeSecurityGroupIngress" => {
            rules.push((
                "sgr-new".into(),
                port(call, "IpPermissions.1.FromPort"),
                port(call, "IpPermissions.1.ToPort"),
            ));
            xml(
                "AuthorizeSecurityGroupIngress",
                "<return>true</return><securityGroupRuleSet><item><securityGroupRuleId>sgr-new</securityGroupRuleId></item></securityGroupRuleSet>",
            )
        }
        "ModifySecurityGroupRules" => {
            let id = call
                .parameter("SecurityGroupRule.1.SecurityGroupRuleId")
                .unwrap();
            let at = rules.iter().position(|rule| rule.0 == id).unwrap();
            rules[at].1 = port(call, "SecurityGroupRule.1.SecurityGroupRule.FromPort");
            rules[at].2 = port(call, "SecurityGroupRule.1.SecurityGroupRule.ToPort");
            xml("ModifySecurityGroupRules", "<return>true</return>")
        }
        "RevokeSecurityGroupIngress" => {
            let id = call.parameter("SecurityGroupRuleId.1").unwrap();
            rules.retain(|rule| rule.0 != id);
            xml("RevokeSecurityGroupIngress", "<return>true</return>")
        }
        "GetParameter" => Reply::ok(
            json!({ "Parameter": { "Value": r#"{"version":1}"#, "Version": 3 } }).to_string(),
        ),
        "GetItem" => stored(entry),
        "BatchGetItem" | "PutItem" | "UpdateItem" | "TransactWriteItems" => Reply::ok("{}"),
        "PutEvents" => Reply::ok(r#"{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}"#),
        other => panic!("{other}"),
    }
}

fn wire_of(
    rules: &Rules,
    entry: Entry<IngressRule>,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let rules = rules.clone();
    Wire::new(move |call| fails(call).unwrap_or_else(|| answer(&rules, &entry, call)))
}

async fn run(wire: &Wire, payload: Value) -> Result<Value, String> {
    let settings = UndoSettings {
        ledger_table: "ledger".into(),
        policy_parameter: "/p".into(),
        state_machine_arn: "arn:aws:states:eu-central-1:111122223333:stateMachine:b".into(),
    };
    let mut context = Context::default();
    context.request_id = "request-1".into();
    context.deadline = (Timestamp::now() + Duration::from_secs(60)).as_millisecond() as u64;
    let config = wire.config(1);
    Handler::new(
        Clients::new(&config),
        EncryptionClients::new(&config),
        settings,
    )
    .handle(LambdaEvent::new(payload, context))
    .await
    .map_err(|failure| failure.error_message)
}

fn request() -> Value {
    json!({ "remediation": ENTRY, "reason": "vendor access", "by": "jo@example.com" })
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_would_be_restored_and_changes_nothing() {
    let rules = left();
    let wire = wire_of(&rules, entry(), |_| None);
    let mut request = request();
    request["dry_run"] = json!(true);
    let answer = run(&wire, request).await.unwrap();
    assert_eq!(answer["verdict"], "would-undo");
    assert_eq!(answer["undo"], Value::Null);
    let message = answer["message"].as_str().unwrap();
    for part in ["dry run, nothing was changed", "sgr-low", "would be "] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(changes(&wire), [""; 0]);
    let writes = ["TransactWriteItems", "PutItem", "UpdateItem", "PutEvents"];
    let wrote = wire.operations();
    assert!(
        !wrote.iter().any(|of| writes.contains(&of.as_str())),
        "{wrote:?}"
    );
}

const CHANGES: &[&str] = &[
    "CreateTags",
    "RevokeSecurityGroupIngress",
    "ModifySecurityGroupRules",
    "AuthorizeSecurityGroupIngress",
];

fn changes(wire: &Wire) -> Vec<String> {
    let mut operations = wire.operations();
    operations.retain(|operation| CHANGES.contains(&operation.as_str()));
    operations
}

#[tokio::test(start_paused = true)]
async fn what_was_narrowed_is_tagged_then_widened_what_was_revoked_authorised_and_what_was_added_goes_last()
 {
    let rules = left();
    let wire = wire_of(&rules, entry(), |_| None);
    let answer = run(&wire, request()).await.unwrap();
    assert_eq!(answer["verdict"], "undone");
    assert_eq!(
        changes(&wire),
        [
            "CreateTags",
            "ModifySecurityGroupRules",
            "AuthorizeSecurityGroupIngress",
            "RevokeSecurityGroupIngress"
        ]
    );
    let calls = wire.calls();
    let call = |operation: &str| calls.iter().find(|c| c.operation == operation).unwrap();
    let until = undo::opt_out_until(Timestamp::now(), 7);
    let opt_out =
        format!("open-ingress until={until} owner=jo@example.com reason=undo: vendor access");
    assert_eq!(
        call("CreateTags").parameter("ResourceId.1"),
        Some("sgr-low")
    );
    assert_eq!(
        call("CreateTags").parameter("Tag.1.Value"),
        Some(opt_out.as_str())
    );
    let widened = call("ModifySecurityGroupRules");
    assert_eq!(
        widened.parameter("SecurityGroupRule.1.SecurityGroupRule.Description"),
        Some("about sgr-low")
    );
    let authorised = call("AuthorizeSecurityGroupIngress");
    assert_eq!(
        authorised.parameter("IpPermissions.1.IpRanges.1.Description"),
        Some("about sgr-ssh")
    );
    let tags: Vec<_> = (1..=2)
        .map(|i| {
            (
                authorised
                    .parameter(&format!("TagSpecification.1.Tag.{i}.Key"))
                    .unwrap(),
                authorised
                    .parameter(&format!("TagSpecification.1.Tag.{i}.Value"))
                    .unwrap(),
            )
        })
        .collect();
    assert_eq!(
        tags,
        [("backstop:opt-out", opt_out.as_str()), ("ticket", "OPS-1")]
    );
    assert_eq!(
        call("RevokeSecurityGroupIngress").parameter("SecurityGroupRuleId.1"),
        Some("sgr-added")
    );
    // Written ahead, recorded, told, closed.
    let operations = wire.operations();
    let at = |operation: &str| operations.iter().position(|o| o == operation).unwrap();
    assert!(at("TransactWriteItems") < at("CreateTags"));
    assert_eq!(
        operations[operations.len() - 4..],
        [
            "PutItem",
            "TransactWriteItems",
            "PutEvents",
            "TransactWriteItems"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_third_state_changes_nothing_and_shows_all_three() {
    let rules = left();
    rules.lock().unwrap()[0] = ("sgr-low".into(), 80, 90);
    let wire = wire_of(&rules, entry(), |_| None);
    let answer = run(&wire, request()).await.unwrap();
    assert_eq!(answer["verdict"], "refused");
    let message = answer["message"].as_str().unwrap();
    for part in [
        "before tcp 0-1024 from 0.0.0.0/0",
        "as Backstop left it tcp 80 from",
        "now tcp 80-90 from",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(answer["rules"].as_array().unwrap().len(), 2);
    assert_eq!(changes(&wire), Vec::<String>::new());
    assert!(!wire.operations().contains(&"TransactWriteItems".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn whatever_cannot_be_undone_is_answered_in_words_and_changes_nothing() {
    let with = |status, outcomes: Vec<Outcome>| Run {
        head: Head {
            status,
            ..entry().head
        },
        detail: AtOnce {
            outcomes,
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            ..entry().detail
        },
    };
    for (entry, verdict) in [
        (with(Status::Notified, vec![]), "nothing-to-undo"),
        (with(Status::Failed, vec![]), "nothing-to-undo"),
    ] {
        let wire = wire_of(&left(), entry, |_| None);
        assert_eq!(run(&wire, request()).await.unwrap()["verdict"], verdict);
        assert_eq!(wire.operations(), ["GetItem"]);
    }
    let none = wire_of(&left(), entry(), |call| {
        (call.operation == "GetItem").then(|| Reply::ok("{}"))
    });
    assert_eq!(run(&none, request()).await.unwrap()["verdict"], "unknown");
    let notice = wire_of(&left(), entry(), |call| {
        let notice = json!({"kind":"notice","version":1,"id":ENTRY,"account":"1","region":"r","at":"2026-11-24T10:00:00Z","about":{"topic":"health","failed":[]}});
        (call.operation == "GetItem").then(|| {
            Reply::ok(json!({"Item": {"document": {"S": notice.to_string()}}}).to_string())
        })
    });
    assert_eq!(
        run(&notice, request()).await.unwrap()["verdict"],
        "not-a-remediation"
    );
    let newer = wire_of(&left(), entry(), |call| {
        (call.operation == "GetItem").then(|| {
            Reply::ok(json!({"Item": {"document": {"S": r#"{"version":9}"#}}}).to_string())
        })
    });
    let error = run(&newer, request()).await.unwrap_err();
    assert!(
        error.contains("version 9") && error.contains("use the release that wrote it"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_patching_is_answered_in_words_and_changes_nothing() {
    let instance = "i-0123456789abcdef0";
    let of = |status: &str, more: Value| {
        let mut run = json!({
            "kind": "patching", "version": 1, "id": ENTRY, "control": "vulnerable-package",
            "severity": "critical", "account": "111122223333", "region": "eu-central-1",
            "resource": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{instance}"),
            "resource_name": "web-1", "status": status, "operation": "install", "reboot": "never",
            "actor": {}, "policy_version": 1, "attempts": 1, "started_at": "2026-11-24T10:00:00Z",
        });
        let fields = more.as_object().unwrap().clone();
        run.as_object_mut().unwrap().extend(fields);
        run
    };
    let command = json!({ "id": "c-1", "at": "2026-11-24T10:01:00Z", "ended": "Success" });
    let snapshots = json!({ "command": command, "snapshots": ["snap-1"] });
    for (run, verdict, part) in [
        (of("awaiting-rescan", snapshots), "refused", "snap-1"),
        (
            of("remediated", json!({ "command": command })),
            "refused",
            "No snapshots were taken first",
        ),
        (
            of("pending", json!({ "reasons": ["it waits"] })),
            "nothing-to-undo",
            "no patches have been installed yet",
        ),
        (
            of("notified", json!({})),
            "nothing-to-undo",
            "nothing was changed",
        ),
    ] {
        let wire = wire_of(&left(), entry(), move |call| {
            (call.operation == "GetItem").then(|| {
                Reply::ok(json!({"Item": {"document": {"S": run.to_string()}}}).to_string())
            })
        });
        let mut days = request();
        days["opt_out_days"] = 3.into();
        let answer = self::run(&wire, days).await.unwrap();
        assert_eq!(answer["verdict"], verdict);
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        if verdict == "refused" {
            let until = undo::opt_out_until(Timestamp::now(), 3);
            let advice = format!("Value=vulnerable-package until={until}");
            assert!(message.contains(&advice), "{message}");
        }
        assert_eq!(wire.operations(), ["GetItem", "GetParameter"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cut_off_before_it_recorded_anything_is_taken_back_by_its_plan() {
    let mut cut_off = entry();
    cut_off.head.status = Status::InProgress;
    cut_off.detail.outcomes.clear();
    cut_off.detail.after.clear();
    let (ssh, low) = (
        cut_off.detail.before["sgr-ssh"].clone(),
        cut_off.detail.before["sgr-low"].clone(),
    );
    let narrowed = IngressRule {
        permission: Permission::new("tcp", 80, 80),
        ..low.clone()
    };
    cut_off.detail.plan.changes = vec![
        Change::remove("sgr-ssh", ssh),
        Change::set("sgr-low", low, narrowed),
    ];
    let rules = left();
    let wire = wire_of(&rules, cut_off, |_| None);
    assert_eq!(run(&wire, request()).await.unwrap()["verdict"], "undone");
    let rules = rules.lock().unwrap();
    assert!(rules.iter().any(|rule| rule.1 == 22));
    assert!(rules.contains(&("sgr-low".into(), 0, 1024)));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_killed_after_its_change_is_taken_back_although_it_says_already_done() {
    let mut killed = entry();
    for outcome in &mut killed.detail.outcomes {
        outcome.ending = Ending::AlreadyDone;
    }
    let rules = left();
    let wire = wire_of(&rules, killed, |_| None);
    assert_eq!(run(&wire, request()).await.unwrap()["verdict"], "undone");
    assert!(rules.lock().unwrap().iter().any(|rule| rule.1 == 22));
}

#[tokio::test(start_paused = true)]
async fn an_opt_out_that_somebody_gave_the_rule_since_is_not_shortened() {
    let wire = wire_of(&left(), entry(), |call| {
        let listed = format!(
            "<securityGroupRuleSet><item><securityGroupRuleId>sgr-low</securityGroupRuleId><groupId>{GROUP}</groupId><isEgress>false</isEgress><ipProtocol>tcp</ipProtocol><fromPort>80</fromPort><toPort>80</toPort><cidrIpv4>0.0.0.0/0</cidrIpv4><description>about sgr-low</description><tagSet><item><key>backstop:opt-out</key><value>all owner=team</value></item></tagSet></item></securityGroupRuleSet>"
        );
        (call.operation == "DescribeSecurityGroupRules")
            .then(|| xml("DescribeSecurityGroupRules", &listed))
    });
    run(&wire, request()).await.unwrap_err();
    let calls = wire.calls();
    let tagged = calls.iter().find(|c| c.operation == "CreateTags").unwrap();
    assert_eq!(tagged.parameter("Tag.1.Value"), Some("all owner=team"));
}

#[tokio::test(start_paused = true)]
async fn a_run_at_work_on_the_group_is_not_disturbed() {
    let until = Timestamp::now().as_millisecond() + 60_000;
    let wire = wire_of(&left(), entry(), move |call| {
        (call.operation == "BatchGetItem").then(|| {
            let lock = json!({ "pk": {"S": format!("lock#open-ingress#{GROUP}")}, "sk": {"S": "lock"},
                "entry": {"S": "01JD"}, "holder": {"S": "request-2"}, "lease_until": {"N": until.to_string()} });
            Reply::ok(json!({ "Responses": { "ledger": [lock] } }).to_string())
        })
    });
    assert_eq!(
        run(&wire, request()).await.unwrap()["verdict"],
        "in-progress"
    );
    assert_eq!(changes(&wire), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_a_failure_that_is_told_and_what_was_added_stays_for_it() {
    for (failing, done) in [
        // Without its opt-out it would be closed again: it is not widened.
        (
            "CreateTags",
            vec!["CreateTags", "AuthorizeSecurityGroupIngress"],
        ),
        (
            "ModifySecurityGroupRules",
            vec![
                "CreateTags",
                "ModifySecurityGroupRules",
                "AuthorizeSecurityGroupIngress",
            ],
        ),
    ] {
        let wire = wire_of(&left(), entry(), move |call| {
            (call.operation == failing)
                .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
        });
        let error = run(&wire, request()).await.unwrap_err();
        assert!(
            error.contains(&format!("FAILED: {failing}: UnauthorizedOperation: no")),
            "{error}"
        );
        assert_eq!(changes(&wire), done, "nothing that was added is revoked");
        let operations = wire.operations();
        assert_eq!(
            operations[operations.len() - 3..],
            ["PutItem", "PutEvents", "TransactWriteItems"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_ec2_takes_only_without_its_tags_is_back_and_what_it_lacks_is_said() {
    let rules = left();
    let wire = wire_of(&rules, entry(), |call| {
        let tagged = call.parameter("TagSpecification.1.ResourceType").is_some();
        (call.operation == "AuthorizeSecurityGroupIngress" && tagged)
            .then(|| Reply::ec2_error(403, "UnauthorizedOperation", "no"))
    });
    let error = run(&wire, request()).await.unwrap_err();
    assert!(
        error.contains("sgr-ssh is back as sgr-new without its tags, which AWS refused: AuthorizeSecurityGroupIngress: UnauthorizedOperation: no"),
        "{error}"
    );
    assert!(rules.lock().unwrap().iter().any(|rule| rule.0 == "sgr-new"));
    assert_eq!(
        changes(&wire),
        [
            "CreateTags",
            "ModifySecurityGroupRules",
            "AuthorizeSecurityGroupIngress",
            "AuthorizeSecurityGroupIngress",
            // Its opt-out, so that it is not closed again.
            "CreateTags",
            "RevokeSecurityGroupIngress"
        ]
    );
    let calls = wire.calls();
    let tagged = calls.iter().rfind(|call| call.operation == "CreateTags");
    let tagged = tagged.unwrap();
    assert_eq!(tagged.parameter("ResourceId.1"), Some("sgr-new"));
    assert_eq!(tagged.parameter("Tag.1.Key"), Some("backstop:opt-out"));
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_nothing_is_changed_and_a_wrong_policy_keeps_nobody_from_going_back() {
    let wire = wire_of(&left(), entry(), |call| {
        (call.operation == "TransactWriteItems")
            .then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    assert!(
        run(&wire, request())
            .await
            .unwrap_err()
            .contains("AccessDeniedException")
    );
    assert_eq!(changes(&wire), Vec::<String>::new());

    let wire = wire_of(&left(), entry(), |call| {
        (call.operation == "GetParameter")
            .then(|| Reply::ok(json!({ "Parameter": { "Value": "{", "Version": 3 } }).to_string()))
    });
    let mut long = request();
    long["opt_out_days"] = 90.into();
    let answer = run(&wire, long).await.unwrap();
    assert_eq!(answer["verdict"], "undone");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("at most 30 days"),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_request_names_the_field_and_calls_nothing() {
    let wire = wire_of(&left(), entry(), |_| None);
    let error = run(&wire, json!({ "remediation": ENTRY }))
        .await
        .unwrap_err();
    assert!(error.contains("`reason`"), "{error}");
    assert_eq!(wire.operations(), Vec::<String>::new());
}
