//! `template.yaml` held to what it promises.
//!
//! `sam validate --lint` and cfn-lint see whether the template is well formed.
//! These checks see whether it is *right*: nothing fails in silence, no role can
//! do more than it has to, names agree, and what users wrote is never
//! overwritten. Much of it cannot be tried on the local AWS, which ignores
//! conditions, retries of rules and the protection of tables.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::controls::Control;
use backstop_core::exemption::{self, OPT_OUT_TAG};
use backstop_core::trigger::{
    CHECK_REQUESTED, CLOUDTRAIL_CALL, INGRESS_CALLS, OWN_SOURCE, REMEDIATION_RECORDED, TAG_CALLS,
};
use backstop_tests::template::{
    Statement, entries, functions, granted_actions, items, queue_mappings, read, resource,
    resources, role_of, role_statements, root, rules, statements, template, text,
};
use serde_json::{Value, json};

/// The functions that change resources, and the controls that they serve.
const REMEDIATIONS: &[(&str, &[Control])] = &[("RevokeIngressFunction", &[Control::OpenIngress])];

/// Actions for which AWS knows no resources: they, and no others, may be
/// allowed on `*`.
const WITHOUT_RESOURCES: &[&str] = &[
    "cloudtrail:DescribeTrails",
    "ec2:DescribeManagedPrefixLists",
    "ec2:DescribeSecurityGroupRules",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeTags",
];

/// What leads back: no opt-out bars it, and only people start it.
const UNDO: &str = "UndoFunction";

/// CloudWatch namespace of our own metrics (`backstop_aws::metrics`).
const NAMESPACE: &str = "Backstop";

const QUEUE: &str = "FailedEventsQueue";
/// Where what waits to be told is gathered.
const RECORDED: &str = "RecordedQueue";
const TABLE: &str = "LedgerTable";
const PARAMETER: &str = "PolicyParameter";
const TOPIC: &str = "NotificationTopic";
const KEY: &str = "NotificationKey";

fn arn_of(logical_id: &str) -> Value {
    json!({ "Fn::GetAtt": [logical_id, "Arn"] })
}

fn reference(logical_id: &str) -> Value {
    json!({ "Ref": logical_id })
}

fn pascal_case(name: &str) -> String {
    name.split('-')
        .map(|word| word[..1].to_uppercase() + &word[1..])
        .collect()
}

// ------------------------------------------------------------------- names

#[test]
fn one_name_everywhere() {
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("functions")).unwrap() {
        let folder = entry.unwrap().file_name().into_string().unwrap();
        let manifest = read(&format!("functions/{folder}/Cargo.toml"));
        assert!(
            manifest.contains(&format!("\nname = \"{folder}\"\n")),
            "functions/{folder}: the package has another name"
        );
        assert!(
            !manifest.contains("[[bin]]"),
            "functions/{folder}: the binary is named after the package, not by hand"
        );
        assert!(
            root().join("events").join(&folder).is_dir(),
            "events/{folder} is missing"
        );
        let logical_id = format!("{}Function", pascal_case(&folder));
        assert_eq!(
            resource(&logical_id)["Metadata"],
            json!({ "BuildMethod": "rust-cargolambda", "BuildProperties": { "Binary": folder } }),
            "{logical_id}"
        );
        folders.insert(logical_id);
    }
    assert_eq!(
        functions().into_keys().collect::<BTreeSet<_>>(),
        folders,
        "functions of the template, and folders"
    );
}

#[test]
fn names_that_hang_together_by_convention() {
    for id in functions().keys() {
        let stem = id.strip_suffix("Function").unwrap();
        assert_eq!(role_of(id), format!("{stem}Role"));
        assert_eq!(
            functions()[id]["Properties"]["LoggingConfig"]["LogGroup"],
            reference(&format!("{stem}LogGroup"))
        );
    }
}

// --------------------------------------------------------------- functions

#[test]
fn how_functions_are_built_and_run() {
    for (id, function) in functions() {
        let properties = &function["Properties"];
        for (name, expected) in [
            ("CodeUri", json!(".")),
            ("Runtime", json!("provided.al2023")),
            ("Handler", json!("bootstrap")),
            ("Architectures", json!([reference("Architecture")])),
        ] {
            assert_eq!(properties[name], expected, "{name} of {id}");
        }
        assert_eq!(properties["LoggingConfig"]["LogFormat"], "JSON", "{id}");
        assert!(text(&properties["Description"]).len() > 10, "{id}");
        // New accounts have ten concurrent executions, none of which can be
        // reserved: the deployment would fail.
        assert!(properties.get("ReservedConcurrentExecutions").is_none());
        // SAM would write a role, or statements, that nobody reviews here.
        assert!(properties.get("Policies").is_none(), "{id}");
    }
}

#[test]
fn the_environment_is_the_contract_with_the_code() {
    let both = json!({ "LEDGER_TABLE": reference(TABLE) });
    let mut revoke_ingress = both.clone();
    revoke_ingress["POLICY_PARAMETER"] = reference(PARAMETER);
    revoke_ingress["OWNER_TAG_KEY"] = reference("OwnerTagKey");
    revoke_ingress["DEFAULT_MODE"] = reference("Mode");
    let mut notify = both.clone();
    notify["TOPIC_ARN"] = reference(TOPIC);
    let mut sweep = both.clone();
    sweep["POLICY_PARAMETER"] = reference(PARAMETER);
    sweep["DEFAULT_MODE"] = reference("Mode");
    sweep["TOPIC_ARN"] = reference(TOPIC);
    sweep["FAILED_EVENTS_QUEUE_URL"] = reference(QUEUE);
    // Every rule but the sweep's own.
    let others: Vec<Value> = rules()
        .into_iter()
        .filter(|rule| rule.function != "SweepFunction")
        .map(|rule| reference(&rule.logical_id))
        .collect();
    let variables = &functions()["SweepFunction"]["Properties"]["Environment"]["Variables"];
    let named = items(&variables["RULE_NAMES"]["Fn::Join"][1]);
    assert_eq!(
        named.iter().map(Value::to_string).collect::<BTreeSet<_>>(),
        others.iter().map(Value::to_string).collect(),
        "the rules that the sweep examines"
    );
    sweep["RULE_NAMES"] = json!({ "Fn::Join": [",", named] });
    let mut with_policy = both;
    with_policy["POLICY_PARAMETER"] = reference(PARAMETER);
    for (id, expected) in [
        ("RevokeIngressFunction", revoke_ingress),
        ("NotifyFunction", notify),
        ("WatchOptOutsFunction", with_policy.clone()),
        (UNDO, with_policy),
        ("SweepFunction", sweep),
    ] {
        let variables = &functions()[id]["Properties"]["Environment"]["Variables"];
        assert_eq!(*variables, expected, "{id}");
    }
}

#[test]
fn every_function_logs_to_a_group_of_its_own_that_ends() {
    let mut groups = BTreeSet::new();
    for (id, function) in functions() {
        let group = text(&function["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]).to_owned();
        assert_eq!(
            resource(&group)["Properties"]["RetentionInDays"],
            reference("LogRetentionDays"),
            "{group}"
        );
        let writes: Vec<Statement> = role_statements(&id)
            .into_iter()
            .filter(|statement| statement.actions.iter().any(|a| a.starts_with("logs:")))
            .collect();
        assert_eq!(writes.len(), 1, "{id}");
        assert_eq!(
            writes[0].actions,
            ["logs:CreateLogStream", "logs:PutLogEvents"]
        );
        assert_eq!(writes[0].resources, [arn_of(&group)]);
        assert!(groups.insert(group), "{id} shares its log group");
    }
    assert_eq!(
        resources("AWS::Logs::LogGroup")
            .into_keys()
            .collect::<BTreeSet<_>>(),
        groups,
        "no log group without a function"
    );
}

// ------------------------------------------------------ failing, not silently

#[test]
fn every_rule_keeps_what_it_cannot_deliver() {
    for rule in rules() {
        let id = &rule.logical_id;
        assert_eq!(
            rule.properties["DeadLetterConfig"],
            json!({ "Arn": arn_of(QUEUE) }),
            "{id}"
        );
        let retry = &rule.properties["RetryPolicy"];
        assert!(retry["MaximumRetryAttempts"].as_u64().unwrap() >= 1, "{id}");
        let age = retry["MaximumEventAgeInSeconds"].as_u64().unwrap();
        assert!((60..=3600).contains(&age), "{id}: {age} s");
        assert!(
            rule.properties.get("EventBusName").is_none(),
            "{id}: AWS services write to the default bus"
        );
    }
}

#[test]
fn every_function_keeps_what_it_failed_on() {
    for (id, function) in functions() {
        let config = &function["Properties"]["EventInvokeConfig"];
        assert_eq!(config["MaximumRetryAttempts"], 2, "{id}");
        assert!(
            config["MaximumEventAgeInSeconds"].as_u64().unwrap() >= 3600,
            "{id}"
        );
        assert_eq!(
            config["DestinationConfig"],
            json!({ "OnFailure": { "Type": "SQS", "Destination": arn_of(QUEUE) } }),
            "{id}"
        );
        // Lambda sends with the function's role.
        let sends = role_statements(&id).into_iter().any(|statement| {
            statement.effect == "Allow"
                && statement.actions == ["sqs:SendMessage"]
                && statement.resources == [arn_of(QUEUE)]
        });
        assert!(sends, "{id}");
    }
}

#[test]
fn the_queue_takes_dead_letters_of_exactly_these_rules() {
    let queue = &resource(QUEUE)["Properties"];
    assert_eq!(queue["MessageRetentionPeriod"], 14 * 24 * 3600);
    assert_eq!(queue["SqsManagedSseEnabled"], true);

    let policies = resources("AWS::SQS::QueuePolicy");
    let queues: BTreeSet<String> = policies
        .values()
        .map(|policy| policy["Properties"]["Queues"][0]["Ref"].to_string())
        .collect();
    let all: BTreeSet<String> = resources("AWS::SQS::Queue")
        .keys()
        .map(|id| json!(id).to_string())
        .collect();
    assert_eq!(queues, all, "every queue has one policy");
    let policy = &resource("FailedEventsQueuePolicy")["Properties"];
    assert_eq!(policy["Queues"], json!([reference(QUEUE)]));
    let statements = by_sid(statements(&policy["PolicyDocument"]));
    assert_eq!(statements.len(), 2);

    let allow = &statements["RulesMaySend"];
    rules_may_send(allow, &arn_of(QUEUE));
    assert_eq!(entries(&allow.condition).count(), 1);
    let named: BTreeSet<String> = items(&allow.condition["ArnEquals"]["aws:SourceArn"])
        .iter()
        .map(Value::to_string)
        .collect();
    let all: BTreeSet<String> = rules()
        .iter()
        .map(|rule| arn_of(&rule.logical_id).to_string())
        .collect();
    assert_eq!(
        named, all,
        "rules in the queue's policy, and rules of the template"
    );

    only_over_tls(&statements["OnlyOverTls"], &arn_of(QUEUE));
}

/// What waits to be told is gathered in a queue that only its rule writes to;
/// what is given up ends where everything does.
#[test]
fn messages_are_gathered_in_a_queue_that_loses_nothing() {
    let queue = &resource(RECORDED)["Properties"];
    assert_eq!(queue["MessageRetentionPeriod"], 14 * 24 * 3600);
    assert_eq!(queue["SqsManagedSseEnabled"], true);
    assert_eq!(
        queue["RedrivePolicy"],
        json!({ "deadLetterTargetArn": arn_of(QUEUE), "maxReceiveCount": 3 })
    );

    let mappings = queue_mappings();
    let [(function, mapping)] = &mappings[..] else {
        panic!("one function takes from a queue: {mappings:?}")
    };
    assert_eq!(function, "NotifyFunction");
    assert_eq!(
        *mapping,
        json!({
            "Queue": arn_of(RECORDED),
            "BatchSize": 500,
            "MaximumBatchingWindowInSeconds": 10,
            // Without it one that fails has all of them delivered again, or,
            // answered as a success, loses it.
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": { "MaximumConcurrency": 2 },
        })
    );
    // AWS's own advice: else a batch is handed out again while it is told.
    let timeout = functions()[function]["Properties"]["Timeout"]
        .as_u64()
        .unwrap();
    let window = mapping["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
    let visibility = queue["VisibilityTimeout"].as_u64().unwrap();
    assert!(visibility >= 6 * timeout + window, "{visibility} s");

    let policy = &resource("RecordedQueuePolicy")["Properties"];
    assert_eq!(policy["Queues"], json!([reference(RECORDED)]));
    let statements = by_sid(statements(&policy["PolicyDocument"]));
    assert_eq!(statements.len(), 2);
    let allow = &statements["RuleMaySend"];
    rules_may_send(allow, &arn_of(RECORDED));
    let senders: Vec<Value> = rules()
        .iter()
        .filter(|rule| rule.queue.as_deref() == Some(RECORDED))
        .map(|rule| arn_of(&rule.logical_id))
        .collect();
    assert_eq!(senders.len(), 1);
    assert_eq!(
        allow.condition,
        json!({ "ArnEquals": { "aws:SourceArn": senders[0] } })
    );
    only_over_tls(&statements["OnlyOverTls"], &arn_of(RECORDED));
}

#[test]
fn somebody_is_alarmed() {
    let mut expected: BTreeMap<(String, String), Value> = BTreeMap::new();
    for id in functions().into_keys() {
        for metric in ["Errors", "Throttles"] {
            let dimensions = json!([{ "Name": "FunctionName", "Value": reference(&id) }]);
            expected.insert(("AWS/Lambda".into(), format!("{metric} {id}")), dimensions);
        }
    }
    expected.insert(
        (
            "AWS/SQS".into(),
            format!("ApproximateNumberOfMessagesVisible {QUEUE}"),
        ),
        json!([{ "Name": "QueueName", "Value": { "Fn::GetAtt": [QUEUE, "QueueName"] } }]),
    );

    // Of our own metrics; it lasts until a sweep finds all in order.
    expected.insert(
        (NAMESPACE.into(), "UnhealthyChecks ".to_owned()),
        Value::Null,
    );

    let mut found = BTreeMap::new();
    for (id, alarm) in resources("AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        let ours = properties["Namespace"] == NAMESPACE;
        let (period, missing) = match ours {
            true => (3600, "ignore"),
            false => (60, "notBreaching"),
        };
        for (name, value) in [
            ("Threshold", json!(1)),
            ("ComparisonOperator", json!("GreaterThanOrEqualToThreshold")),
            ("EvaluationPeriods", json!(1)),
            ("Period", json!(period)),
            ("TreatMissingData", json!(missing)),
            ("AlarmActions", json!([reference(TOPIC)])),
        ] {
            assert_eq!(properties[name], value, "{name} of {id}");
        }
        // The topic and its key let in alarms whose names begin like this.
        let name = text(&properties["AlarmName"]["Fn::Sub"]);
        assert!(name.starts_with("${AWS::StackName}-"), "{id}: {name}");
        // It says what it means and what to do. CloudWatch takes 1024 characters.
        let description = match &properties["AlarmDescription"] {
            Value::String(plain) => plain,
            substituted => text(&substituted["Fn::Sub"]),
        };
        assert!(description.starts_with("Backstop: "), "{id}");
        assert!(
            (100..700).contains(&description.len()),
            "{id}: {}",
            description.len()
        );

        let dimension = &properties["Dimensions"][0]["Value"];
        let subject = match dimension.get("Ref") {
            Some(function) => text(function),
            None if ours => "",
            None => text(&dimension["Fn::GetAtt"][0]),
        };
        let key = (
            text(&properties["Namespace"]).to_owned(),
            format!("{} {subject}", text(&properties["MetricName"])),
        );
        found.insert(key, properties["Dimensions"].clone());
        let statistic = if subject == QUEUE || ours {
            "Maximum"
        } else {
            "Sum"
        };
        assert_eq!(properties["Statistic"], statistic, "{id}");
    }
    assert_eq!(found, expected);
}

// ------------------------------------------------------------------- rules

#[test]
fn rules_name_the_events_that_the_code_handles() {
    let account = reference("AWS::AccountId");
    let expected = BTreeMap::from([
        (
            "RevokeIngressFunctionIngressChanged",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [CLOUDTRAIL_CALL],
                "detail": {
                    "eventSource": ["ec2.amazonaws.com"],
                    "eventName": INGRESS_CALLS,
                    "errorCode": [{ "exists": false }],
                },
            }),
        ),
        (
            "RevokeIngressFunctionCheckRequested",
            json!({
                "source": [OWN_SOURCE],
                "detail-type": [CHECK_REQUESTED],
                "account": [account],
                "detail": { "control": [Control::OpenIngress.name()] },
            }),
        ),
        (
            "RemediationRecordedRule",
            json!({
                "source": [OWN_SOURCE],
                "detail-type": [REMEDIATION_RECORDED],
                "account": [account],
            }),
        ),
        (
            "WatchOptOutsFunctionTagsChanged",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [CLOUDTRAIL_CALL],
                "detail": {
                    "eventSource": ["ec2.amazonaws.com"],
                    "eventName": TAG_CALLS,
                    "errorCode": [{ "exists": false }],
                    "requestParameters": { "tagSet": { "items": {
                        "key": [OPT_OUT_TAG, { "exists": false }],
                    } } },
                },
            }),
        ),
    ]);
    let rules = rules();
    let found: BTreeMap<&str, Value> = rules
        .iter()
        .filter(|rule| !rule.pattern.is_null())
        .map(|rule| (rule.logical_id.as_str(), rule.pattern.clone()))
        .collect();
    assert_eq!(found, expected);
    let scheduled: Vec<(&str, &Value)> = rules
        .iter()
        .filter(|rule| rule.pattern.is_null())
        .map(|rule| (rule.logical_id.as_str(), &rule.properties["Schedule"]))
        .collect();
    assert_eq!(
        scheduled,
        [("SweepFunctionDue", &reference("SweepSchedule"))]
    );
}

#[test]
fn what_is_put_on_the_bus_is_listened_to() {
    let mut put = BTreeSet::new();
    for id in functions().into_keys() {
        for statement in role_statements(&id) {
            if statement.actions.iter().any(|a| a == "events:PutEvents") {
                let equals = &statement.condition["StringEquals"];
                assert_eq!(equals["events:source"], OWN_SOURCE, "{id}");
                put.extend(
                    items(&equals["events:detail-type"])
                        .iter()
                        .map(|t| text(t).to_owned()),
                );
            }
        }
    }
    let mut heard = BTreeSet::new();
    for rule in rules()
        .iter()
        .filter(|rule| rule.pattern["source"] == json!([OWN_SOURCE]))
    {
        // Other accounts can be allowed to write to the default bus.
        assert_eq!(
            rule.pattern["account"],
            json!([reference("AWS::AccountId")]),
            "{}",
            rule.logical_id
        );
        heard.extend(
            items(&rule.pattern["detail-type"])
                .iter()
                .map(|t| text(t).to_owned()),
        );
    }
    assert_eq!(put, heard);
}

// ------------------------------------------------------------------- roles

#[test]
fn every_function_has_a_role_of_its_own_without_managed_policies() {
    let mut roles = BTreeSet::new();
    for id in functions().into_keys() {
        let role = role_of(&id);
        let properties = &resource(&role)["Properties"];
        assert!(properties.get("ManagedPolicyArns").is_none(), "{role}");
        // A name would need CAPABILITY_NAMED_IAM.
        assert!(properties.get("RoleName").is_none(), "{role}");
        assert_eq!(
            properties["AssumeRolePolicyDocument"],
            json!({
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Principal": { "Service": "lambda.amazonaws.com" },
                    "Action": "sts:AssumeRole",
                }],
            }),
            "{role}"
        );
        assert!(roles.insert(role), "{id} shares its role");
    }
    assert_eq!(
        resources("AWS::IAM::Role")
            .into_keys()
            .collect::<BTreeSet<_>>(),
        roles,
        "no role without a function"
    );
    for kind in [
        "AWS::IAM::Policy",
        "AWS::IAM::RolePolicy",
        "AWS::IAM::ManagedPolicy",
    ] {
        assert!(
            resources(kind).is_empty(),
            "{kind}: a role says all it may do in one place"
        );
    }
}

#[test]
fn no_role_allows_a_wildcard_that_aws_could_do_without() {
    for id in functions().into_keys() {
        for statement in role_statements(&id) {
            let sid = &statement.sid;
            for action in &statement.actions {
                assert!(!action.contains(['*', '?']), "{id}, {sid}: {action}");
            }
            if statement.effect == "Allow" && statement.resources.contains(&json!("*")) {
                for action in &statement.actions {
                    assert!(
                        WITHOUT_RESOURCES.contains(&action.as_str()),
                        "{id}, {sid}: {action} can be narrowed to resources"
                    );
                }
            }
        }
    }
}

/// What may be done to what, in full: a wider grant has to be written down
/// here as well.
#[test]
fn grants_are_narrowed_to_resources_and_by_condition() {
    const GROUPS: &str =
        "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:security-group/*";
    const RULES: &str =
        "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:security-group-rule/*";
    const ANY_LIST: &str = "arn:${AWS::Partition}:ec2:${AWS::Region}:*:prefix-list/*";
    let sub = |arn: &str| json!({ "Fn::Sub": arn }).to_string();
    let table = arn_of(TABLE).to_string();
    let queue = arn_of(QUEUE).to_string();
    let bus =
        sub("arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/default");
    let everything = json!("*").to_string();
    let none = Value::Null;
    let while_authorising =
        json!({ "StringEquals": { "ec2:CreateAction": "AuthorizeSecurityGroupIngress" } });
    let only_backstop = json!({ "StringEquals": {
        "events:source": OWN_SOURCE,
        "events:detail-type": [CHECK_REQUESTED, REMEDIATION_RECORDED],
    } });

    let revoke_ingress_logs = arn_of("RevokeIngressLogGroup").to_string();
    let notify_logs = arn_of("NotifyLogGroup").to_string();
    let watch_opt_outs_logs = arn_of("WatchOptOutsLogGroup").to_string();
    let recorded = arn_of(RECORDED).to_string();
    let parameter = sub(
        "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${PolicyParameter}",
    );
    // The topic by its name: topic -> key -> role -> topic would be a circle.
    let topic = sub(
        "arn:${AWS::Partition}:sns:${AWS::Region}:${AWS::AccountId}:${AWS::StackName}-notifications",
    );
    assert_eq!(
        resource(TOPIC)["Properties"]["TopicName"],
        json!({ "Fn::Sub": "${AWS::StackName}-notifications" })
    );

    for (id, expected) in [
        (
            "RevokeIngressFunction",
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:AuthorizeSecurityGroupIngress", &sub(GROUPS), &none),
                ("ec2:AuthorizeSecurityGroupIngress", &sub(RULES), &none),
                ("ec2:CreateTags", &sub(RULES), &while_authorising),
                ("ec2:DescribeManagedPrefixLists", &everything, &none),
                ("ec2:DescribeSecurityGroupRules", &everything, &none),
                ("ec2:DescribeSecurityGroups", &everything, &none),
                ("ec2:DescribeTags", &everything, &none),
                ("ec2:GetManagedPrefixListEntries", &sub(ANY_LIST), &none),
                ("ec2:ModifySecurityGroupRules", &sub(GROUPS), &none),
                ("ec2:ModifySecurityGroupRules", &sub(RULES), &none),
                ("ec2:ModifySecurityGroupRules", &sub(ANY_LIST), &none),
                ("ec2:RevokeSecurityGroupIngress", &sub(GROUPS), &none),
                ("ec2:RevokeSecurityGroupIngress", &sub(RULES), &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &revoke_ingress_logs, &none),
                ("logs:PutLogEvents", &revoke_ingress_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            "NotifyFunction",
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("logs:CreateLogStream", &notify_logs, &none),
                ("logs:PutLogEvents", &notify_logs, &none),
                ("sns:Publish", &topic, &none),
                ("sqs:DeleteMessage", &recorded, &none),
                ("sqs:GetQueueAttributes", &recorded, &none),
                ("sqs:ReceiveMessage", &recorded, &none),
                ("sqs:SendMessage", &queue, &none),
            ],
        ),
        (
            "WatchOptOutsFunction",
            vec![
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:DescribeSecurityGroupRules", &everything, &none),
                ("ec2:DescribeSecurityGroups", &everything, &none),
                ("ec2:DescribeTags", &everything, &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &watch_opt_outs_logs, &none),
                ("logs:PutLogEvents", &watch_opt_outs_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
    ] {
        let expected: BTreeSet<(String, String, String)> = expected
            .into_iter()
            .map(|(action, resource, condition)| {
                (action.to_owned(), resource.clone(), condition.to_string())
            })
            .collect();
        let mut found = BTreeSet::new();
        for statement in role_statements(id).iter().filter(|s| s.effect == "Allow") {
            for action in &statement.actions {
                for resource in &statement.resources {
                    found.insert((
                        action.clone(),
                        resource.to_string(),
                        statement.condition.to_string(),
                    ));
                }
            }
        }
        assert_eq!(found, expected, "{id}");
        let actions: BTreeSet<String> = found.into_iter().map(|(action, ..)| action).collect();
        assert_eq!(granted_actions(id), actions, "{id}");
    }
}

// ---------------------------------------------------------------- opt-outs

/// IAM's `StringLike`: `*` is any run of characters, `?` any one.
fn string_like(pattern: &str, value: &str) -> bool {
    fn matches(pattern: &[char], value: &[char]) -> bool {
        match (pattern.split_first(), value.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), None) => matches(rest, value),
            (Some(('*', rest)), Some((_, tail))) => matches(rest, value) || matches(pattern, tail),
            (Some(('?', rest)), Some((_, tail))) => matches(rest, tail),
            (Some((expected, rest)), Some((found, tail))) => {
                expected == found && matches(rest, tail)
            }
            _ => false,
        }
    }
    let chars = |text: &str| text.chars().collect::<Vec<char>>();
    matches(&chars(pattern), &chars(value))
}

/// Whether a condition block holds for a resource with (or without) the tag
/// `backstop:opt-out`. All operators have to hold; one value of several is
/// enough for `StringLike`, and none may match for `StringNotLike`, which also
/// holds where the key is missing.
fn holds(condition: &Value, tag: Option<&str>) -> bool {
    entries(condition).all(|(operator, keys)| {
        entries(keys).all(|(key, patterns)| {
            assert_eq!(*key, format!("aws:ResourceTag/{OPT_OUT_TAG}"));
            let patterns = items(patterns);
            let matched = tag.is_some_and(|tag| patterns.iter().any(|p| string_like(text(p), tag)));
            match operator.as_str() {
                "StringLike" => matched,
                "StringNotLike" => !matched,
                other => panic!("operator `{other}` is not modelled here"),
            }
        })
    })
}

fn deny_of(function: &str) -> Statement {
    let denies: Vec<Statement> = role_statements(function)
        .into_iter()
        .filter(|statement| statement.effect == "Deny")
        .collect();
    assert_eq!(denies.len(), 1, "{function}");
    denies.into_iter().next().unwrap()
}

#[test]
fn string_like_is_iams() {
    for (pattern, value, expected) in [
        ("all", "all", true),
        ("all", "All", false),
        ("all *", "all", false),
        ("all *", "all ", true),
        ("*until=*", "until=", true),
        ("*+a+*", "+a+", true),
        ("*+a+*", "b+a", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*", "", true),
    ] {
        assert_eq!(
            string_like(pattern, value),
            expected,
            "`{pattern}` on `{value}`"
        );
    }
}

/// Tags, whether IAM bars the change, and whether the code does. IAM never
/// bars what the code would change (but for one curiosity), and leaves alone
/// what has an end.
#[test]
fn iam_enforces_endless_opt_outs_and_no_others() {
    let today = "2026-11-24".parse().unwrap();
    for (function, controls) in REMEDIATIONS {
        let condition = deny_of(function).condition;
        assert!(!holds(&condition, None), "{function}, no tag");
        for control in *controls {
            let other = Control::ALL.iter().find(|other| *other != control);
            for (tag, by_iam, by_code) in [
                // everything, without an end
                ("all", true, true),
                ("all owner=payments", true, true),
                ("all owner=payments reason=legacy vpn", true, true),
                // this control, alone and in a list
                ("CONTROL", true, true),
                ("CONTROL owner=payments", true, true),
                ("CONTROL reason=partner needs it", true, true),
                ("CONTROL+OTHER", true, true),
                ("CONTROL+OTHER owner=payments", true, true),
                ("OTHER+CONTROL", true, true),
                ("OTHER+CONTROL owner=payments", true, true),
                ("OTHER+CONTROL+OTHER", true, true),
                ("OTHER+CONTROL+OTHER owner=payments", true, true),
                // with an end: the code reads dates, IAM cannot
                ("all until=2027-01-31", false, true),
                ("all owner=payments until=2027-01-31", false, true),
                ("CONTROL until=2027-01-31", false, true),
                ("CONTROL until=2027-01-31 reason=undo", false, true),
                ("OTHER+CONTROL until=2027-01-31", false, true),
                // an end that is past: IAM must not be in the way
                ("all until=2026-01-31", false, false),
                ("CONTROL owner=payments until=2026-01-31", false, false),
                // another control
                ("OTHER", false, false),
                ("OTHER owner=payments", false, false),
                ("OTHER reason=CONTROL", false, false),
                // a curiosity: `*` in a pattern does not stop at a space, so
                // IAM bars what the code would change; that fails loudly
                ("OTHER reason=as+CONTROL", true, false),
                // unreadable: held back by the code
                ("", false, true),
                ("allow", false, true),
                ("CONTROL-elsewhere", false, true),
                ("not-CONTROL", false, true),
                ("all+OTHER", true, true),
                ("all+OTHER until=2027-01-31", false, true),
                ("CONTROL for ever", true, true),
            ] {
                // As long as there is one control only, a list is unreadable to
                // the code, and only IAM's side is looked at.
                let both_sides = other.is_some() || !tag.contains("OTHER");
                let tag = tag
                    .replace("CONTROL", control.name())
                    .replace("OTHER", other.map_or("another", |other| other.name()));
                assert_eq!(
                    holds(&condition, Some(&tag)),
                    by_iam,
                    "{function}, IAM, `{tag}`"
                );
                if both_sides {
                    let exemption = exemption::read(Some(&tag), *control, today, false);
                    assert_eq!(exemption.holds(), by_code, "{function}, code, `{tag}`");
                }
            }
        }
    }
}

#[test]
fn every_control_is_served_by_a_function() {
    let served: BTreeSet<Control> = REMEDIATIONS
        .iter()
        .flat_map(|(_, controls)| controls.iter().copied())
        .collect();
    assert_eq!(served, Control::ALL.iter().copied().collect());
}

#[test]
fn what_leads_back_is_barred_by_no_opt_out_and_tags_nothing_else() {
    let statements = role_statements(UNDO);
    assert!(
        statements
            .iter()
            .all(|statement| statement.effect == "Allow")
    );
    let tags: Vec<&Statement> = statements
        .iter()
        .filter(|statement| statement.actions == ["ec2:CreateTags"])
        .collect();
    let conditions: Vec<&Value> = tags.iter().map(|statement| &statement.condition).collect();
    assert_eq!(
        conditions,
        [
            &json!({ "StringEquals": { "ec2:CreateAction": "AuthorizeSecurityGroupIngress" } }),
            &json!({
                "ForAllValues:StringEquals": { "aws:TagKeys": [OPT_OUT_TAG] },
                "Null": { "aws:TagKeys": "false" },
            }),
        ]
    );
    for statement in tags {
        let [on] = &statement.resources[..] else {
            panic!("{:?}", statement.resources)
        };
        assert!(on.to_string().contains("security-group-rule/*"), "{on}");
    }
    assert!(
        rules().iter().all(|rule| rule.function != UNDO),
        "no event starts it"
    );
}

#[test]
fn opt_outs_bar_every_change_that_a_function_can_begin() {
    for (function, _) in REMEDIATIONS {
        let deny = deny_of(function);
        assert_eq!(
            deny.resources,
            [json!("*")],
            "{function}: on groups and on rules"
        );
        let begins: Vec<String> = granted_actions(function)
            .into_iter()
            .filter(|action| {
                action.starts_with("ec2:")
                    && !action.starts_with("ec2:Describe")
                    && !action.starts_with("ec2:Get")
                    // Only within AuthorizeSecurityGroupIngress, which is barred.
                    && action != "ec2:CreateTags"
            })
            .collect();
        assert_eq!(deny.actions, begins, "{function}");
    }
    for id in functions().into_keys() {
        let changes = granted_actions(&id).iter().any(|a| {
            a.starts_with("ec2:") && !a.starts_with("ec2:Describe") && !a.starts_with("ec2:Get")
        });
        assert_eq!(
            changes,
            REMEDIATIONS.iter().any(|(function, _)| *function == id) || id == UNDO,
            "{id} changes EC2, or is listed here without"
        );
    }
}

// ------------------------------------------------------- ledger and policy

#[test]
fn the_ledger_outlives_the_stack() {
    let table = resource(TABLE);
    assert_eq!(table["DeletionPolicy"], "Retain");
    assert_eq!(table["UpdateReplacePolicy"], "Retain");
    let properties = &table["Properties"];
    for (name, expected) in [
        ("BillingMode", json!("PAY_PER_REQUEST")),
        ("DeletionProtectionEnabled", json!(true)),
        (
            "PointInTimeRecoverySpecification",
            json!({ "PointInTimeRecoveryEnabled": true }),
        ),
        ("SSESpecification", json!({ "SSEEnabled": true })),
        (
            "TimeToLiveSpecification",
            json!({ "AttributeName": "expires_at", "Enabled": true }),
        ),
        (
            "KeySchema",
            json!([
                { "AttributeName": "pk", "KeyType": "HASH" },
                { "AttributeName": "sk", "KeyType": "RANGE" },
            ]),
        ),
    ] {
        assert_eq!(properties[name], expected, "{name}");
    }
    assert!(
        properties.get("TableName").is_none(),
        "a kept table would bar the next stack"
    );
    let indexes: Vec<(&str, &str, &str)> = properties["GlobalSecondaryIndexes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|index| {
            (
                text(&index["IndexName"]),
                text(&index["KeySchema"][0]["AttributeName"]),
                text(&index["KeySchema"][1]["AttributeName"]),
            )
        })
        .collect();
    assert_eq!(
        indexes,
        [
            ("by-resource", "resource", "started_at"),
            ("by-day", "day", "started_at"),
            ("untold", "untold", "started_at")
        ]
    );
}

/// CloudFormation writes the value again with every update of the resource, for
/// whatever reason. So nothing in it may ever change: if this test fails, it is
/// the template that is wrong.
#[test]
fn no_release_overwrites_what_users_wrote() {
    assert_eq!(
        *resource(PARAMETER),
        json!({
            "Type": "AWS::SSM::Parameter",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "Name": { "Fn::Sub": [
                    "/backstop/${AWS::StackName}-${Unique}/policy",
                    { "Unique": { "Fn::Select": [4, { "Fn::Split": ["-", { "Fn::Select": [2,
                        { "Fn::Split": ["/", { "Ref": "AWS::StackId" }] }] }] }] } },
                ] },
                "Description": "Backstop's policy, yours to edit. No release of Backstop changes it.",
                "Type": "String",
                "Tier": "Intelligent-Tiering",
                "Value": r#"{"version":1}"#,
            },
        })
    );
}

// ----------------------------------------------------------------- telling

#[test]
fn alarms_and_notify_may_publish_under_the_key() {
    let alarms = json!({
        "StringEquals": { "aws:SourceAccount": reference("AWS::AccountId") },
        "ArnLike": { "aws:SourceArn": { "Fn::Sub":
            "arn:${AWS::Partition}:cloudwatch:${AWS::Region}:${AWS::AccountId}:alarm:${AWS::StackName}-*" } },
    });
    let cloudwatch = json!({ "Service": "cloudwatch.amazonaws.com" });

    // The topic's key is this one, and not alias/aws/sns, under which alarms vanish.
    assert_eq!(resource(TOPIC)["Properties"]["KmsMasterKeyId"], arn_of(KEY));
    let key = &resource(KEY)["Properties"];
    assert_eq!(key["EnableKeyRotation"], true);
    let statements_of_key = by_sid(statements(&key["KeyPolicy"]));
    assert_eq!(statements_of_key.len(), 3);

    let admin = &statements_of_key["AccountAdministersByIam"];
    assert_eq!(
        admin.principal,
        json!({ "AWS": { "Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root" } })
    );
    assert_eq!(admin.actions, ["kms:*"]);

    let from_alarms = &statements_of_key["AlarmsMayPublish"];
    assert_eq!(from_alarms.effect, "Allow");
    assert_eq!(from_alarms.principal, cloudwatch);
    assert_eq!(from_alarms.actions, ["kms:Decrypt", "kms:GenerateDataKey*"]);
    assert_eq!(from_alarms.condition, alarms);

    let from_notify = &statements_of_key["NotifyMayPublish"];
    assert_eq!(from_notify.effect, "Allow");
    assert_eq!(
        from_notify.principal,
        json!({ "AWS": arn_of(&role_of("NotifyFunction")) })
    );
    assert_eq!(from_notify.actions, ["kms:Decrypt", "kms:GenerateDataKey"]);
    assert_eq!(
        from_notify.condition,
        json!({ "StringEquals": { "kms:ViaService": { "Fn::Sub": "sns.${AWS::Region}.${AWS::URLSuffix}" } } })
    );

    let policies = resources("AWS::SNS::TopicPolicy");
    assert_eq!(policies.len(), 1);
    let policy = &policies.values().next().unwrap()["Properties"];
    assert_eq!(policy["Topics"], json!([reference(TOPIC)]));
    let statements_of_topic = by_sid(statements(&policy["PolicyDocument"]));
    assert_eq!(statements_of_topic.len(), 2);
    let publish = &statements_of_topic["AlarmsMayPublish"];
    assert_eq!(publish.effect, "Allow");
    assert_eq!(publish.principal, cloudwatch);
    assert_eq!(publish.actions, ["sns:Publish"]);
    assert_eq!(publish.resources, [reference(TOPIC)]);
    assert_eq!(publish.condition, alarms);
    only_over_tls(&statements_of_topic["OnlyOverTls"], &reference(TOPIC));
}

#[test]
fn the_mail_address_is_subscribed_unless_it_is_none() {
    assert_eq!(
        template()["Conditions"]["HasEmail"],
        json!({ "Fn::Not": [{ "Fn::Equals": [reference("NotificationEmail"), "none"] }] })
    );
    let subscriptions = resources("AWS::SNS::Subscription");
    assert_eq!(subscriptions.len(), 1);
    let subscription = subscriptions.values().next().unwrap();
    assert_eq!(subscription["Condition"], "HasEmail");
    assert_eq!(
        subscription["Properties"],
        json!({
            "TopicArn": reference(TOPIC),
            "Protocol": "email",
            "Endpoint": reference("NotificationEmail"),
        })
    );
}

#[test]
fn the_dashboard_shows_every_metric_and_every_function() {
    let dashboard = &resource("Dashboard")["Properties"];
    let body = text(&dashboard["DashboardBody"]["Fn::Sub"]);
    let parsed: Value = serde_json::from_str(body).expect("the dashboard's body is JSON");
    assert!(!parsed["widgets"].as_array().unwrap().is_empty());
    for metric in ["Findings", "Remediations", "Failures", "TimeToClosed"] {
        let search = format!(r#"SEARCH('{{Backstop,Control}} MetricName=\"{metric}\"'"#);
        assert!(body.contains(&search), "{metric}");
    }
    for id in functions().into_keys() {
        for metric in ["Errors", "Throttles", "Duration"] {
            let line = format!(r#""AWS/Lambda", "{metric}", "FunctionName", "${{{id}}}""#);
            assert!(body.contains(&line), "{metric} of {id}");
        }
    }
    assert!(body.contains(&format!("${{{QUEUE}.QueueName}}")));
}

// ---------------------------------------------- what users and tools rely on

#[test]
fn parameters() {
    let found: BTreeMap<&str, (Value, Value)> = entries(&template()["Parameters"])
        .map(|(name, body)| {
            assert!(text(&body["Description"]).len() > 20, "{name}");
            (
                name.as_str(),
                (body["Default"].clone(), body["AllowedValues"].clone()),
            )
        })
        .collect();
    let retention = json!([
        1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1827, 3653
    ]);
    let none = Value::Null;
    let expected = BTreeMap::from([
        ("Mode", (json!("notify"), json!(["notify", "enforce"]))),
        ("Architecture", (json!("arm64"), json!(["arm64", "x86_64"]))),
        ("OwnerTagKey", (json!("owner"), none.clone())),
        ("SweepSchedule", (json!("rate(1 hour)"), none.clone())),
        // No default: that nobody is told has to be typed.
        ("NotificationEmail", (none.clone(), none)),
        ("LogRetentionDays", (json!(90), retention)),
    ]);
    assert_eq!(found, expected);
    let email = &template()["Parameters"]["NotificationEmail"];
    assert_eq!(
        email["AllowedPattern"],
        r"^(none|[^@\s]+@[^@\s]+\.[^@\s]+)$"
    );
    assert!(text(&email["ConstraintDescription"]).contains("none"));
}

#[test]
fn every_parameter_is_asked_for_in_words() {
    let interface = &template()["Metadata"]["AWS::CloudFormation::Interface"];
    let grouped: BTreeSet<String> = items(&interface["ParameterGroups"])
        .iter()
        .flat_map(|group| items(&group["Parameters"]))
        .map(|name| text(&name).to_owned())
        .collect();
    let labelled: BTreeSet<String> = entries(&interface["ParameterLabels"])
        .map(|(name, _)| name.clone())
        .collect();
    let all: BTreeSet<String> = entries(&template()["Parameters"])
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(grouped, all);
    assert_eq!(labelled, all);
}

#[test]
fn outputs() {
    let found: BTreeMap<&str, Value> = entries(&template()["Outputs"])
        .map(|(name, body)| (name.as_str(), body["Value"].clone()))
        .collect();
    let expected = BTreeMap::from([
        ("NotificationTopicArn", reference(TOPIC)),
        ("LedgerTableName", reference(TABLE)),
        ("PolicyParameterName", reference(PARAMETER)),
        ("FailedEventsQueueUrl", reference(QUEUE)),
        ("SweepFunctionName", reference("SweepFunction")),
        ("UndoFunctionName", reference(UNDO)),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn two_commands_are_all_a_user_types() {
    let config = read("samconfig.toml");
    for line in [
        // SAM hashes CodeUri alone and would ship stale binaries.
        "cached = false",
        "capabilities = \"CAPABILITY_IAM\"",
        "resolve_s3 = true",
        "stack_name = \"backstop\"",
    ] {
        assert!(
            config.lines().any(|l| l == line),
            "samconfig.toml lacks `{line}`"
        );
    }
}

#[test]
fn no_anchors_which_cloudformation_does_not_know() {
    for (number, line) in read("template.yaml").lines().enumerate() {
        let code = line.trim_start().trim_start_matches("- ");
        let value = code.split_once(": ").map_or(code, |(_, value)| value);
        assert!(
            code.starts_with('#') || !value.starts_with(['&', '*']),
            "template.yaml:{}: {line}",
            number + 1
        );
    }
}

// ------------------------------------------------- used by several of these

fn by_sid(statements: Vec<Statement>) -> BTreeMap<String, Statement> {
    statements
        .into_iter()
        .map(|statement| (statement.sid.clone(), statement))
        .collect()
}

/// EventBridge may send to a queue, and do nothing else with it.
fn rules_may_send(allow: &Statement, queue: &Value) {
    assert_eq!(allow.effect, "Allow");
    assert_eq!(
        allow.principal,
        json!({ "Service": "events.amazonaws.com" })
    );
    assert_eq!(allow.actions, ["sqs:SendMessage"]);
    assert_eq!(&allow.resources, std::slice::from_ref(queue));
}

fn only_over_tls(statement: &Statement, resource: &Value) {
    assert_eq!(statement.effect, "Deny");
    assert_eq!(statement.principal, "*");
    assert_eq!(&statement.resources, std::slice::from_ref(resource));
    assert_eq!(
        statement.condition,
        json!({ "Bool": { "aws:SecureTransport": "false" } })
    );
}

/// The service control policy that the README ships.
#[test]
fn the_readme_ships_a_policy_that_reserves_the_opt_out_tag() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("<!-- scp -->\n```json\n").unwrap();
    let (text, _) = after.split_once("```\n<!-- /scp -->").unwrap();
    let policy: Value = serde_json::from_str(text).unwrap();
    let characters = serde_json::to_string(&policy).unwrap().len();
    assert!(
        characters <= 5120,
        "{characters} characters; AWS takes 5,120"
    );
    let statements = policy["Statement"].as_array().unwrap();
    for statement in statements {
        assert_eq!(statement["Effect"], "Deny");
        let spared = &statement["Condition"]["ArnNotLike"]["aws:PrincipalArn"];
        // The functions' roles: CloudFormation names them after the stack.
        let ours = "arn:aws:iam::*:role/backstop-*";
        assert!(
            spared.as_array().unwrap().contains(&json!(ours)),
            "{spared}"
        );
    }
    let key = &statements[0]["Condition"]["ForAnyValue:StringEquals"]["aws:TagKeys"];
    assert_eq!(*key, json!([OPT_OUT_TAG]));
    let key = format!("aws:ResourceTag/{OPT_OUT_TAG}");
    assert_eq!(statements[1]["Condition"]["StringLike"][key], "*");
}
