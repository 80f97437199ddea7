//! `template.yaml` held to what it promises.
//!
//! `sam validate --lint` and cfn-lint see whether the template is well formed.
//! These checks see whether it is *right*: nothing fails in silence, no role can
//! do more than it has to, names agree, and what users wrote is never
//! overwritten. Much of it cannot be tried on the local AWS, which ignores
//! conditions, retries of rules and the protection of tables.

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::controls;
use backstop_core::encryption::Purpose;
use backstop_core::exemption::{self, OPT_OUT_TAG};
use backstop_core::explain::explain;
use backstop_core::failed_event::{FailedEvent, Function};
use backstop_core::info::{ControlInfo, OptOutOn};
use backstop_core::patching::DOCUMENT;
use backstop_core::patching::decide;
use backstop_core::policy::Policy;
use backstop_core::rules::OptOutRules;
use backstop_core::trigger::{
    CHECK_REQUESTED, CLOUDTRAIL_CALL, COMMAND_NOTIFICATION, COMPLIANCE_CHANGE, INSPECTOR_FINDING,
    INSTANCE_NOTIFICATION, OWN_SOURCE, REMEDIATION_RECORDED, TAG_CALLS, VOLUME_CALLS,
    VOLUME_NOTIFICATION,
};
use backstop_core::volumes::{COPY_OF_TAG, ENTRY_TAG, PURPOSE_TAG, REPLACED_BY_TAG};
use backstop_core::words::ControlId;
use backstop_tests::iam::{self, Context, knows};
use backstop_tests::stack::{OWN_NAMES, Stack};
use backstop_tests::template::{
    Statement, entries, functions, granted_actions, items, matches, queue_mappings, read, resource,
    resources, role_of, role_statements, root, rules, statements, statements_of, template, text,
};
use serde_json::{Value, json};

/// The functions that change resources, and the controls that they serve.
fn remediations() -> BTreeMap<String, Vec<ControlId>> {
    let mut functions = BTreeMap::from([
        (
            "EncryptVolumeFunction".to_owned(),
            vec![ControlId::UnencryptedVolume],
        ),
        (PATCH_INSTANCE.to_owned(), ControlId::PATCHING.to_vec()),
    ]);
    for info in controls::infos() {
        let function = functions.entry(function_of(info.function)).or_default();
        function.push(info.id);
    }
    functions
}

/// The functions that remediate at once, and what is fixed about their controls.
fn at_once() -> BTreeMap<&'static str, Vec<&'static ControlInfo>> {
    let mut functions: BTreeMap<&str, Vec<&ControlInfo>> = BTreeMap::new();
    for info in controls::infos() {
        functions.entry(info.function).or_default().push(info);
    }
    functions
}

/// A function's logical id.
pub(crate) fn function_of(name: &str) -> String {
    format!("{}Function", pascal_case(name))
}

/// Whether IAM has something to bar: the account has no tags, so that exemptions
/// stand in the policy; and what is only told changes nothing.
fn is_barred(control: ControlId) -> bool {
    let in_policy = |info: &ControlInfo| info.opt_out_on == OptOutOn::Policy;
    control != ControlId::UnmanagedInstance
        && !controls::of(control).is_some_and(|control| in_policy(control.info()))
}

/// The functions that opt-out tags bar, and the controls that they serve.
fn barred() -> BTreeMap<String, Vec<ControlId>> {
    let mut functions = remediations();
    functions.retain(|_, controls| controls.iter().any(|control| is_barred(*control)));
    functions
}

/// What finishes or takes back what a function began: no opt-out may leave an
/// instance stopped or half swapped. (Tags are set while something is made, and
/// on what was replaced.)
const LEADS_BACK: &[&str] = &[
    "ec2:AttachVolume",
    "ec2:CreateTags",
    // Of a snapshot that was taken, which is barred.
    "ec2:CreateVolume",
    "ec2:DeleteVolume",
    "ec2:DetachVolume",
    "ec2:ModifyInstanceAttribute",
    "ec2:StartInstances",
];

/// What installs patches.
const PATCH_INSTANCE: &str = "PatchInstanceFunction";

/// What leads back: no opt-out bars it, and only people start it.
const UNDO: &str = "UndoFunction";

/// What deletes originals that were replaced, once the policy has kept them
/// long enough.
const SWEEP: &str = "SweepFunction";

/// CloudWatch namespace of our own metrics (`backstop_aws::metrics`).
const NAMESPACE: &str = "Backstop";

const QUEUE: &str = "FailedEventsQueue";
/// Where what waits to be told is gathered.
const RECORDED: &str = "RecordedQueue";
/// Where what is said of instances is gathered.
const REPORTED: &str = "PatchInstanceQueue";
const CHANGED: &str = "EncryptVolumeQueue";
/// Where the agents of instances write what patch commands print.
const COMMAND_LOGS: &str = "PatchCommandLogGroup";
const TABLE: &str = "LedgerTable";
const PARAMETER: &str = "PolicyParameter";
const TOPIC: &str = "NotificationTopic";
const ALARM_TOPIC: &str = "AlarmTopic";
const KEY: &str = "NotificationKey";
/// What carries encryptions out, its role, and its name as part of an ARN.
const MACHINE: &str = "EncryptVolumeStateMachine";
const MACHINE_ROLE: &str = "EncryptVolumeStateMachineRole";
const MACHINE_ARN: &str = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${AWS::StackName}-encrypt-volume";
/// Of every role: IAM puts it into the ARN before the name.
const ROLE_PATH: &str = "/backstop/";
const MACHINE_FILE: &str = "functions/encrypt-volume/state-machine.asl.json";

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
        let names = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("name = "));
        assert_eq!(
            names.collect::<Vec<_>>(),
            vec![format!("{folder:?}"); 2],
            "functions/{folder}: its package, and its binary"
        );
        assert!(
            root().join("events").join(&folder).is_dir(),
            "events/{folder} is missing"
        );
        let logical_id = function_of(&folder);
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
    let mut remediation = both.clone();
    remediation["POLICY_PARAMETER"] = reference(PARAMETER);
    remediation["OWNER_TAG_KEY"] = reference("OwnerTagKey");
    remediation["DEFAULT_MODE"] = reference("Mode");
    let mut encrypt_volume = remediation.clone();
    encrypt_volume["STATE_MACHINE_ARN"] = json!({ "Fn::Sub": MACHINE_ARN });
    let mut patch_instance = remediation.clone();
    patch_instance["COMMAND_LOG_GROUP"] = reference(COMMAND_LOGS);
    let mut notify = both.clone();
    notify["TOPIC_ARN"] = reference(TOPIC);
    let mut sweep = both.clone();
    sweep["POLICY_PARAMETER"] = reference(PARAMETER);
    sweep["DEFAULT_MODE"] = reference("Mode");
    sweep["TOPIC_ARN"] = reference(TOPIC);
    sweep["FAILED_EVENTS_QUEUE_URL"] = reference(QUEUE);
    sweep["STACK_ID"] = reference("AWS::StackId");
    let mut with_policy = both;
    with_policy["POLICY_PARAMETER"] = reference(PARAMETER);
    let mut undo = with_policy.clone();
    undo["STATE_MACHINE_ARN"] = reference(MACHINE);
    let of_their_own = BTreeMap::from([
        ("EncryptVolumeFunction", encrypt_volume),
        (PATCH_INSTANCE, patch_instance),
        ("NotifyFunction", notify),
        ("WatchOptOutsFunction", with_policy),
        (UNDO, undo),
        (SWEEP, sweep),
    ]);
    for id in functions().keys() {
        let expected = of_their_own.get(id.as_str()).unwrap_or(&remediation);
        let variables = &functions()[id]["Properties"]["Environment"]["Variables"];
        assert_eq!(variables, expected, "{id}");
    }
}

#[test]
fn every_function_logs_to_a_group_of_its_own_that_ends() {
    // Written by instances, with their own roles.
    assert_eq!(
        resource(COMMAND_LOGS)["Properties"]["RetentionInDays"],
        reference("LogRetentionDays")
    );
    let mut groups = BTreeSet::from([COMMAND_LOGS.to_owned()]);
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
        "no log group that nobody writes to"
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
fn the_queue_takes_dead_letters_of_every_rule() {
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
    // The ARN names the account and the Region.
    let any_rule = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/*";
    assert_eq!(
        allow.condition,
        json!({ "ArnLike": { "aws:SourceArn": { "Fn::Sub": any_rule } } })
    );

    only_over_tls(&statements["OnlyOverTls"], &arn_of(QUEUE));
}

/// What a function takes in batches waits in a queue that only its rules write
/// to; what is given up ends where everything does. AWS's own advice: a message
/// stays hidden for six times the time-out, else a batch is handed out again
/// while it is still being worked on.
#[test]
fn what_is_gathered_waits_in_a_queue_that_loses_nothing() {
    // Function, queue, messages of a batch, window, visibility time-out, rules.
    type Gathered = (
        &'static str,
        &'static str,
        u64,
        u64,
        u64,
        &'static [&'static str],
    );
    let expected: [Gathered; 3] = [
        (
            "EncryptVolumeFunction",
            CHANGED,
            100,
            10,
            370,
            &["EncryptVolumeInstanceRule"],
        ),
        (
            "NotifyFunction",
            RECORDED,
            500,
            10,
            190,
            &["RemediationRecordedRule"],
        ),
        (
            PATCH_INSTANCE,
            REPORTED,
            500,
            60,
            1860,
            &[
                "PatchInstanceCheckRequestedRule",
                "PatchInstanceCommandRule",
                "PatchInstanceComplianceRule",
                "PatchInstanceFindingRule",
                "PatchInstanceRunningRule",
            ],
        ),
    ];
    let mappings = queue_mappings();
    assert_eq!(mappings.len(), expected.len(), "{mappings:?}");
    for (function, id, messages, window, hidden, senders) in expected {
        let queue = &resource(id)["Properties"];
        assert_eq!(queue["MessageRetentionPeriod"], 14 * 24 * 3600, "{id}");
        assert_eq!(queue["SqsManagedSseEnabled"], true, "{id}");
        assert_eq!(
            queue["RedrivePolicy"],
            json!({ "deadLetterTargetArn": arn_of(QUEUE), "maxReceiveCount": 5 }),
            "{id}"
        );
        let (_, mapping) = mappings
            .iter()
            .find(|(taker, _)| taker == function)
            .unwrap_or_else(|| panic!("{function} takes from no queue"));
        assert_eq!(
            *mapping,
            json!({
                "Queue": arn_of(id),
                "BatchSize": messages,
                "MaximumBatchingWindowInSeconds": window,
                // Without it one that fails has all of them delivered again, or,
                // answered as a success, loses it.
                "FunctionResponseTypes": ["ReportBatchItemFailures"],
                "ScalingConfig": { "MaximumConcurrency": 2 },
            }),
            "{function}"
        );
        let timeout = functions()[function]["Properties"]["Timeout"]
            .as_u64()
            .unwrap();
        assert_eq!(queue["VisibilityTimeout"], hidden, "{id}");
        assert!(hidden >= 6 * timeout + window, "{id}: {hidden} s");

        let policy = &resource(&format!("{id}Policy"))["Properties"];
        assert_eq!(policy["Queues"], json!([reference(id)]));
        let statements = statements(&policy["PolicyDocument"]);
        let [allow, tls] = &statements[..] else {
            panic!("{id}: {statements:?}")
        };
        rules_may_send(allow, &arn_of(id));
        assert_eq!(entries(&allow.condition).count(), 1, "{id}");
        assert_eq!(entries(&allow.condition["ArnEquals"]).count(), 1, "{id}");
        let written: BTreeSet<String> = items(&allow.condition["ArnEquals"]["aws:SourceArn"])
            .iter()
            .map(Value::to_string)
            .collect();
        let arns: BTreeSet<String> = senders.iter().map(|id| arn_of(id).to_string()).collect();
        assert_eq!(written, arns, "who may send to {id}");
        let lead_here: BTreeSet<String> = rules()
            .into_iter()
            .filter(|rule| rule.queue.as_deref() == Some(id))
            .map(|rule| rule.logical_id)
            .collect();
        assert_eq!(
            lead_here,
            senders.iter().map(|id| (*id).to_owned()).collect(),
            "rules that lead to {id}"
        );
        only_over_tls(tls, &arn_of(id));
    }
}

/// Lambda's own advice for a queue that a function takes from: with fewer
/// deliveries, a throttled function gives events up that it never saw.
#[test]
fn every_queue_delivers_five_times_before_an_event_is_given_up() {
    for (function, mapping) in queue_mappings() {
        let id = text(&mapping["Queue"]["Fn::GetAtt"][0]);
        let redrive = &resource(id)["Properties"]["RedrivePolicy"];
        let most = redrive["maxReceiveCount"].as_u64();
        assert!(
            most.is_some_and(|most| most >= 5),
            "{function}, {id}: {redrive}"
        );
        assert_eq!(redrive["deadLetterTargetArn"], arn_of(QUEUE), "{id}");
    }
    for (id, queue) in resources("AWS::SQS::Queue") {
        let redrive = &queue["Properties"]["RedrivePolicy"];
        let most = redrive["maxReceiveCount"].as_u64();
        assert!(
            redrive.is_null() || most.is_some_and(|most| most >= 5),
            "{id}"
        );
    }
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
    // Whether a run ends with what it stopped stopped: Step Functions' own words.
    for metric in [
        "ExecutionsAborted",
        "ExecutionsFailed",
        "ExecutionsTimedOut",
    ] {
        let dimensions = json!([{ "Name": "StateMachineArn", "Value": reference(MACHINE) }]);
        expected.insert(
            ("AWS/States".into(), format!("{metric} {MACHINE}")),
            dimensions,
        );
    }
    expected.insert(
        (
            "AWS/SQS".into(),
            format!("ApproximateNumberOfMessagesVisible {QUEUE}"),
        ),
        json!([{ "Name": "QueueName", "Value": { "Fn::GetAtt": [QUEUE, "QueueName"] } }]),
    );

    // Of our own metrics; each lasts until a sweep says otherwise.
    for metric in ["TrippedControls", "UnhealthyChecks"] {
        expected.insert((NAMESPACE.into(), format!("{metric} ")), Value::Null);
    }
    // That the sweep does not run at all.
    expected.insert(
        ("AWS/Lambda".into(), format!("Invocations {SWEEP}")),
        json!([{ "Name": "FunctionName", "Value": reference(SWEEP) }]),
    );

    // The second address, where there is one.
    let nobody = reference("AWS::NoValue");
    let also = json!({ "Fn::If": ["HasAlarmEmail", reference(ALARM_TOPIC), nobody] });
    let mut found = BTreeMap::new();
    for (id, alarm) in resources("AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        let ours = properties["Namespace"] == NAMESPACE;
        let metric = text(&properties["MetricName"]);
        const BELOW: &str = "LessThanThreshold";
        const AT_LEAST: &str = "GreaterThanOrEqualToThreshold";
        let (period, periods, comparison, missing) = match metric {
            // No data is what it is about.
            "Invocations" => (3600, 26, BELOW, "breaching"),
            "UnhealthyChecks" => (3600, 1, AT_LEAST, "ignore"),
            "TrippedControls" => (60, 1, AT_LEAST, "ignore"),
            "ApproximateNumberOfMessagesVisible" => (60, 5, AT_LEAST, "notBreaching"),
            _ => (60, 1, AT_LEAST, "notBreaching"),
        };
        for (name, value) in [
            ("Threshold", json!(1)),
            ("ComparisonOperator", json!(comparison)),
            ("EvaluationPeriods", json!(periods)),
            ("Period", json!(period)),
            ("TreatMissingData", json!(missing)),
            ("AlarmActions", json!([reference(TOPIC), also])),
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

/// Of every schedule that sweeps at least once a day, and of a stack whose first
/// sweep is still to come.
#[test]
fn a_sweep_that_does_not_run_raises_an_alarm_and_a_new_stack_does_not() {
    let alarm = &resource("SweepMissingAlarm")["Properties"];
    let number = |of: &Value| of.as_i64().unwrap();
    let hours = number(&alarm["Period"]) * number(&alarm["EvaluationPeriods"]) / 3600;
    assert!(
        hours > 25,
        "a day, and an hour in which EventBridge tries again"
    );
    assert!(hours <= 7 * 24, "the most that CloudWatch looks at");
    let warm_up = &alarm["WarmUpConfiguration"]["WarmUpPeriodDurationInMinutes"];
    assert!(number(warm_up) >= 60 * hours);
    assert!(number(warm_up) <= 2880, "CloudWatch's limit");
    // All of them: one hour without a sweep says nothing.
    assert_eq!(alarm.get("DatapointsToAlarm"), None);
}

/// Reading the queue hides its messages for a moment.
#[test]
fn the_alarm_about_failed_events_outlasts_that_somebody_reads_them() {
    let alarm = &resource("FailedEventsAlarm")["Properties"];
    assert_eq!(alarm["DatapointsToAlarm"], 1);
    assert!(alarm["EvaluationPeriods"].as_i64() > Some(1));
    // The sweep reads them, and leaves what becomes of them to a person.
    let granted = granted_actions(SWEEP);
    assert!(granted.contains("sqs:ReceiveMessage"));
    assert!(!granted.contains("sqs:DeleteMessage"));
}

// ------------------------------------------------------------------- rules

#[test]
fn rules_name_the_events_that_the_code_handles() {
    let account = reference("AWS::AccountId");
    let expected = BTreeMap::from([
        (
            "EncryptVolumeFunctionVolumesChanged",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [CLOUDTRAIL_CALL],
                "detail": {
                    "eventSource": ["ec2.amazonaws.com"],
                    "eventName": VOLUME_CALLS,
                    "errorCode": [{ "exists": false }],
                },
            }),
        ),
        (
            "EncryptVolumeFunctionVolumeAvailable",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [VOLUME_NOTIFICATION],
                "detail": { "event": ["createVolume"], "result": ["available", "failed"] },
            }),
        ),
        (
            "EncryptVolumeInstanceRule",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [INSTANCE_NOTIFICATION],
                "detail": { "state": ["running", "stopped"] },
            }),
        ),
        (
            "EncryptVolumeFunctionCheckRequested",
            json!({
                "source": [OWN_SOURCE],
                "detail-type": [CHECK_REQUESTED],
                "account": [account],
                "detail": { "control": [ControlId::UnencryptedVolume.name()] },
            }),
        ),
        (
            "PatchInstanceFindingRule",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.inspector2"],
                "detail-type": [INSPECTOR_FINDING],
                "detail": {
                    "type": ["PACKAGE_VULNERABILITY", "CODE_VULNERABILITY"],
                    "status": ["ACTIVE", "CLOSED", "SUPPRESSED"],
                    "resources": { "type": ["AWS_EC2_INSTANCE"] },
                },
            }),
        ),
        (
            "PatchInstanceComplianceRule",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ssm"],
                "detail-type": [COMPLIANCE_CHANGE],
                "detail": {
                    "compliance-type": ["Patch"],
                    "compliance-status": ["non_compliant"],
                    "resource-id": [{ "prefix": "i-" }],
                },
            }),
        ),
        (
            "PatchInstanceCommandRule",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ssm"],
                "detail-type": [COMMAND_NOTIFICATION],
                "detail": {
                    "document-name": [DOCUMENT],
                    "instance-id": [{ "prefix": "i-" }],
                    "status": [{ "anything-but":
                        ["Pending", "InProgress", "Delayed", "Cancelling"] }],
                },
            }),
        ),
        (
            "PatchInstanceRunningRule",
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [INSTANCE_NOTIFICATION],
                "detail": { "state": ["running"] },
            }),
        ),
        (
            "PatchInstanceCheckRequestedRule",
            json!({
                "source": [OWN_SOURCE],
                "detail-type": [CHECK_REQUESTED],
                "account": [account],
                "detail": { "control": [
                    ControlId::VulnerablePackage.name(),
                    ControlId::MissingPatches.name(),
                    ControlId::UnmanagedInstance.name(),
                ] },
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
                        "key": [{ "equals-ignore-case": OPT_OUT_TAG }, { "exists": false }],
                    } } },
                },
            }),
        ),
    ]);
    let mut expected: BTreeMap<String, Value> = expected
        .into_iter()
        .map(|(rule, pattern)| (rule.to_owned(), pattern))
        .collect();
    // What is remediated at once says itself what it listens to.
    for (function, served) in at_once() {
        let served_here = served.iter().filter_map(|info| controls::of(info.id));
        let calls: Vec<&str> = served_here.flat_map(|control| control.calls()).collect();
        let changed = match function {
            "revoke-ingress" => "IngressChanged",
            _ => "Changed",
        };
        let controls: Vec<&str> = served.iter().map(|info| info.id.name()).collect();
        let function = function_of(function);
        expected.insert(
            format!("{function}{changed}"),
            json!({
                "account": [account],
                "region": [reference("AWS::Region")],
                "source": ["aws.ec2"],
                "detail-type": [CLOUDTRAIL_CALL],
                "detail": {
                    "eventSource": ["ec2.amazonaws.com"],
                    "eventName": calls,
                    "errorCode": [{ "exists": false }],
                },
            }),
        );
        expected.insert(
            format!("{function}CheckRequested"),
            json!({
                "source": [OWN_SOURCE],
                "detail-type": [CHECK_REQUESTED],
                "account": [account],
                "detail": { "control": controls },
            }),
        );
    }
    let rules = rules();
    let found: BTreeMap<String, Value> = rules
        .iter()
        .filter(|rule| !rule.pattern.is_null())
        .map(|rule| (rule.logical_id.clone(), rule.pattern.clone()))
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
fn a_pattern_matches_as_event_bridge_says() {
    let event = json!({
        "source": "aws.ssm",
        "account": "111122223333",
        "detail": { "id": "i-1", "state": "ended", "resources": [{ "type": "A" }, { "type": "B" }] },
    });
    for (pattern, expected) in [
        (json!({ "source": ["aws.ec2", "aws.ssm"] }), true),
        (json!({ "source": ["aws.ec2"] }), false),
        (json!({ "account": [reference("AWS::AccountId")] }), true),
        (json!({ "region": [reference("AWS::Region")] }), false),
        (json!({ "detail": { "id": [{ "prefix": "i-" }] } }), true),
        (json!({ "detail": { "id": [{ "prefix": "mi-" }] } }), false),
        (
            json!({ "detail": { "state": [{ "anything-but": ["begun"] }] } }),
            true,
        ),
        (
            json!({ "detail": { "state": [{ "anything-but": ["ended"] }] } }),
            false,
        ),
        (
            json!({ "detail": { "other": [{ "anything-but": ["ended"] }] } }),
            false,
        ),
        (
            json!({ "detail": { "resources": { "type": ["B"] } } }),
            true,
        ),
        (
            json!({ "detail": { "resources": { "type": ["C"] } } }),
            false,
        ),
        (
            json!({ "detail": { "error": [{ "exists": false }] } }),
            true,
        ),
        (
            json!({ "detail": { "error": { "code": [{ "exists": false }] } } }),
            true,
        ),
        (json!({ "detail": { "id": [{ "exists": false }] } }), false),
    ] {
        assert_eq!(
            matches(&pattern, &event, ("111122223333", "eu-central-1")),
            expected,
            "{pattern}"
        );
    }
}

/// A look that is asked for comes to the function that serves the control, and
/// to no other.
#[test]
fn every_control_is_asked_for_by_one_rule() {
    let mut asked: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rule in rules() {
        if rule.pattern["detail-type"] == json!([CHECK_REQUESTED]) {
            for control in items(&rule.pattern["detail"]["control"]) {
                let takers = asked.entry(text(&control).to_owned()).or_default();
                takers.push(rule.function.clone());
            }
        }
    }
    let mut served = BTreeMap::new();
    for (function, controls) in remediations() {
        for control in controls {
            served.insert(control.name().to_owned(), vec![function.clone()]);
        }
    }
    assert_eq!(asked, served);
}

#[test]
fn what_is_put_on_the_bus_is_listened_to() {
    let mut put = BTreeSet::new();
    for id in functions().into_keys() {
        for statement in role_statements(&id) {
            if statement.actions.iter().any(|a| a == "events:PutEvents") {
                let equals = &statement.condition["ForAllValues:StringEquals"];
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
        // A name would need CAPABILITY_NAMED_IAM; a path tells a role of ours
        // whatever CloudFormation calls it.
        assert!(properties.get("RoleName").is_none(), "{role}");
        assert_eq!(properties["Path"], ROLE_PATH, "{role}");
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
    // Held to what it may do in `the_state_machine_may_call_…`.
    roles.insert(MACHINE_ROLE.to_owned());
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
                    // Its one resource is a data set, which metrics of EC2 are not in.
                    let of_metrics = action == "cloudwatch:GetMetricData";
                    assert!(
                        of_metrics || iam::is_without_resources(action),
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
    const VOLUMES: &str = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:volume/*";
    const INSTANCES: &str = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*";
    // A snapshot's ARN names no account when it is made or used.
    const SNAPSHOTS: &str = "arn:${AWS::Partition}:ec2:${AWS::Region}::snapshot/*";
    const IMAGES: &str = "arn:${AWS::Partition}:ec2:${AWS::Region}::image/*";
    const SUBNETS: &str = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:subnet/*";
    const HYBRID: &str =
        "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:managed-instance/*";
    const LICENCES: &str =
        "arn:${AWS::Partition}:license-manager:${AWS::Region}:*:license-configuration:*";
    const RESOURCE_GROUPS: &str = "arn:${AWS::Partition}:resource-groups:${AWS::Region}:*:group/*";
    const ANY_TRAIL: &str = "arn:${AWS::Partition}:cloudtrail:*:*:trail/*";
    const EVENT_RULES: &str =
        "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/*";
    const ANY_KEY: &str = "arn:${AWS::Partition}:kms:${AWS::Region}:*:key/*";
    const HOST_MANAGEMENT: &str = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:servicesetting/ssm/managed-instance/default-ec2-instance-management-role";
    // Of AWS, so that its ARN names no account.
    let patch_document =
        format!("arn:${{AWS::Partition}}:ssm:${{AWS::Region}}::document/{DOCUMENT}");
    let sub = |arn: &str| json!({ "Fn::Sub": arn }).to_string();
    let table = arn_of(TABLE).to_string();
    let queue = arn_of(QUEUE).to_string();
    let bus =
        sub("arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/default");
    let everything = json!("*").to_string();
    let none = Value::Null;
    let while_authorising =
        json!({ "StringEquals": { "ec2:CreateAction": "AuthorizeSecurityGroupIngress" } });
    let while_authorising_either = json!({ "StringEquals": { "ec2:CreateAction":
        ["AuthorizeSecurityGroupEgress", "AuthorizeSecurityGroupIngress"] } });
    let only_backstop = json!({
        "ForAllValues:StringEquals": {
            "events:source": OWN_SOURCE,
            "events:detail-type": [CHECK_REQUESTED, REMEDIATION_RECORDED],
        },
        "Null": { "events:source": "false", "events:detail-type": "false" },
    });

    let while_making = json!({ "StringEquals": {
        "ec2:CreateAction": ["CopyVolumes", "CreateSnapshot", "CreateVolume"],
    } });
    let while_snapshotting = json!({ "StringEquals": { "ec2:CreateAction": "CreateSnapshots" } });
    let only_what_replaced_it = json!({
        "ForAllValues:StringEquals": { "aws:TagKeys": [REPLACED_BY_TAG] },
        "Null": { "aws:TagKeys": "false" },
    });
    let only_copies_of_ours =
        json!({ "Null": { (format!("aws:ResourceTag/{COPY_OF_TAG}")): "false" } });
    // What CopyVolumes, CreateVolume, AttachVolume and StartInstances ask of a
    // key: EC2 calls it on our behalf, and nobody else may.
    let via_ec2 = json!({ "Fn::Sub": "ec2.${AWS::Region}.${AWS::URLSuffix}" });
    let through_ec2 = json!({ "StringEquals": { "kms:ViaService": via_ec2 } });
    let grants_to_ec2 = json!({
        "Bool": { "kms:GrantIsForAWSResource": "true" },
        "StringEquals": { "kms:ViaService": via_ec2 },
    });

    let revoke_ingress_logs = arn_of("RevokeIngressLogGroup").to_string();
    let unshare_storage_logs = arn_of("UnshareStorageLogGroup").to_string();
    let remove_public_address_logs = arn_of("RemovePublicAddressLogGroup").to_string();
    let require_imdsv2_logs = arn_of("RequireImdsv2LogGroup").to_string();
    let everyone = |how: &str| {
        json!({
            "StringEquals": { (format!("ec2:{how}/group")): "all" },
            "Null": { (format!("ec2:{how}/userId")): "true" },
        })
    };
    let (unshares, shares) = (everyone("Remove"), everyone("Add"));
    let requires_tokens = json!({
        "StringEquals": { "ec2:Attribute/HttpTokens": "required" },
        "Null": { "ec2:ManagedResourceOperator": "true" },
    });
    let makes_tokens_optional = json!({
        "StringEquals": { "ec2:Attribute/HttpTokens": "optional" },
    });
    let only = |tags: &[&str]| {
        json!({
            "ForAllValues:StringEquals": { "aws:TagKeys": tags },
            "Null": { "aws:TagKeys": "false" },
        })
    };
    let only_the_opt_out = only(&[OPT_OUT_TAG]);
    let replaced_no_more = only(&[OPT_OUT_TAG, REPLACED_BY_TAG]);
    let only_old_snapshots = json!({
        "StringEquals": { "aws:ResourceTag/backstop:purpose": "safety" },
        "Null": {
            "aws:ResourceTag/backstop:entry": "false",
            "aws:ResourceTag/backstop:opt-out": "true",
        },
    });
    let only_replaced =
        json!({ "Null": { (format!("aws:ResourceTag/{REPLACED_BY_TAG}")): "false" } });
    let sweep_logs = arn_of("SweepLogGroup").to_string();
    let undo_logs = arn_of("UndoLogGroup").to_string();
    let index = |name: &str| sub(&format!("${{LedgerTable.Arn}}/index/{name}"));
    let stack = reference("AWS::StackId").to_string();
    let topic_itself = reference(TOPIC).to_string();
    let restore_account_defaults_logs = arn_of("RestoreAccountDefaultsLogGroup").to_string();
    let encrypt_volume_logs = arn_of("EncryptVolumeLogGroup").to_string();
    let patch_instance_logs = arn_of("PatchInstanceLogGroup").to_string();
    let notify_logs = arn_of("NotifyLogGroup").to_string();
    let watch_opt_outs_logs = arn_of("WatchOptOutsLogGroup").to_string();
    let recorded = arn_of(RECORDED).to_string();
    let reported = arn_of(REPORTED).to_string();
    let changed = arn_of(CHANGED).to_string();
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

    // A function without a row may do anything.
    let mut without_a_row: BTreeSet<String> = functions().into_keys().collect();
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
                ("ec2:DescribeNetworkInterfaces", &everything, &none),
                ("ec2:DescribeSecurityGroupReferences", &everything, &none),
                ("ec2:DescribeSecurityGroupRules", &everything, &none),
                ("ec2:DescribeSecurityGroups", &everything, &none),
                ("ec2:DescribeTags", &everything, &none),
                ("ec2:GetManagedPrefixListEntries", &sub(ANY_LIST), &none),
                ("ec2:ModifySecurityGroupRules", &sub(GROUPS), &none),
                ("ec2:ModifySecurityGroupRules", &sub(RULES), &none),
                ("ec2:ModifySecurityGroupRules", &sub(ANY_LIST), &none),
                ("ec2:RevokeSecurityGroupEgress", &sub(GROUPS), &none),
                ("ec2:RevokeSecurityGroupIngress", &sub(GROUPS), &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &revoke_ingress_logs, &none),
                ("logs:PutLogEvents", &revoke_ingress_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            "EncryptVolumeFunction",
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:AttachVolume", &sub(INSTANCES), &none),
                ("ec2:AttachVolume", &sub(VOLUMES), &none),
                ("ec2:CopyVolumes", &sub(VOLUMES), &none),
                ("ec2:CreateSnapshot", &sub(SNAPSHOTS), &none),
                ("ec2:CreateSnapshot", &sub(VOLUMES), &none),
                ("ec2:CreateTags", &sub(SNAPSHOTS), &while_making),
                ("ec2:CreateTags", &sub(VOLUMES), &only_what_replaced_it),
                ("ec2:CreateTags", &sub(VOLUMES), &while_making),
                ("ec2:CreateVolume", &sub(SNAPSHOTS), &none),
                ("ec2:CreateVolume", &sub(VOLUMES), &none),
                ("ec2:DeleteVolume", &sub(VOLUMES), &only_copies_of_ours),
                ("ec2:DescribeInstanceAttribute", &sub(INSTANCES), &none),
                ("ec2:DescribeInstanceStatus", &everything, &none),
                ("ec2:DescribeInstanceTypes", &everything, &none),
                ("ec2:DescribeInstances", &everything, &none),
                ("ec2:DescribeSnapshots", &everything, &none),
                ("ec2:DescribeVolumeAttribute", &sub(VOLUMES), &none),
                ("ec2:DescribeVolumes", &everything, &none),
                ("ec2:DetachVolume", &sub(INSTANCES), &none),
                ("ec2:DetachVolume", &sub(VOLUMES), &none),
                ("ec2:GetEbsDefaultKmsKeyId", &everything, &none),
                ("ec2:ModifyInstanceAttribute", &sub(INSTANCES), &none),
                ("ec2:ModifyInstanceAttribute", &sub(VOLUMES), &none),
                ("ec2:StartInstances", &sub(INSTANCES), &none),
                ("ec2:StartInstances", &sub(LICENCES), &none),
                ("ec2:StartInstances", &sub(RESOURCE_GROUPS), &none),
                ("ec2:StopInstances", &sub(INSTANCES), &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("kms:CreateGrant", &sub(ANY_KEY), &grants_to_ec2),
                ("kms:Decrypt", &sub(ANY_KEY), &through_ec2),
                ("kms:DescribeKey", &sub(ANY_KEY), &none),
                ("kms:GenerateDataKeyWithoutPlaintext", &sub(ANY_KEY), &none),
                ("kms:ReEncryptFrom", &sub(ANY_KEY), &through_ec2),
                ("kms:ReEncryptTo", &sub(ANY_KEY), &through_ec2),
                ("logs:CreateLogStream", &encrypt_volume_logs, &none),
                ("logs:PutLogEvents", &encrypt_volume_logs, &none),
                ("sqs:DeleteMessage", &changed, &none),
                ("sqs:GetQueueAttributes", &changed, &none),
                ("sqs:ReceiveMessage", &changed, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
                ("states:StartExecution", &sub(MACHINE_ARN), &none),
            ],
        ),
        (
            "RestoreAccountDefaultsFunction",
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:DisableSerialConsoleAccess", &everything, &none),
                ("ec2:EnableEbsEncryptionByDefault", &everything, &none),
                ("ec2:EnableImageBlockPublicAccess", &everything, &none),
                ("ec2:EnableSnapshotBlockPublicAccess", &everything, &none),
                ("ec2:GetEbsEncryptionByDefault", &everything, &none),
                ("ec2:GetImageBlockPublicAccessState", &everything, &none),
                ("ec2:GetInstanceMetadataDefaults", &everything, &none),
                ("ec2:GetSerialConsoleAccessStatus", &everything, &none),
                ("ec2:GetSnapshotBlockPublicAccessState", &everything, &none),
                ("ec2:ModifyInstanceMetadataDefaults", &everything, &none),
                ("events:PutEvents", &bus, &only_backstop),
                (
                    "logs:CreateLogStream",
                    &restore_account_defaults_logs,
                    &none,
                ),
                ("logs:PutLogEvents", &restore_account_defaults_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            "UnshareStorageFunction",
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:DescribeSnapshotAttribute", &sub(SNAPSHOTS), &none),
                ("ec2:DescribeSnapshots", &everything, &none),
                ("ec2:DescribeImageAttribute", &sub(IMAGES), &none),
                ("ec2:DescribeImages", &everything, &none),
                ("ec2:GetImageBlockPublicAccessState", &everything, &none),
                ("ec2:GetSnapshotBlockPublicAccessState", &everything, &none),
                ("ec2:ModifyImageAttribute", &sub(IMAGES), &none),
                ("ec2:ModifySnapshotAttribute", &sub(SNAPSHOTS), &unshares),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &unshare_storage_logs, &none),
                ("logs:PutLogEvents", &unshare_storage_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            "RemovePublicAddressFunction",
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:DescribeInstances", &everything, &none),
                ("ec2:DescribeSubnets", &everything, &none),
                ("ec2:DescribeTags", &everything, &none),
                ("ec2:ModifySubnetAttribute", &sub(SUBNETS), &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &remove_public_address_logs, &none),
                ("logs:PutLogEvents", &remove_public_address_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            "RequireImdsv2Function",
            vec![
                ("cloudwatch:GetMetricData", &everything, &none),
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:DescribeInstances", &everything, &none),
                ("ec2:GetInstanceMetadataDefaults", &everything, &none),
                (
                    "ec2:ModifyInstanceMetadataOptions",
                    &sub(INSTANCES),
                    &requires_tokens,
                ),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &require_imdsv2_logs, &none),
                ("logs:PutLogEvents", &require_imdsv2_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            PATCH_INSTANCE,
            vec![
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:CreateSnapshots", &sub(INSTANCES), &none),
                ("ec2:CreateSnapshots", &sub(SNAPSHOTS), &none),
                ("ec2:CreateSnapshots", &sub(VOLUMES), &none),
                ("ec2:CreateTags", &sub(SNAPSHOTS), &while_snapshotting),
                ("ec2:DescribeInstances", &everything, &none),
                ("ec2:DescribeRouteTables", &everything, &none),
                ("ec2:DescribeSnapshots", &everything, &none),
                ("ec2:DescribeVpcEndpoints", &everything, &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &patch_instance_logs, &none),
                ("logs:PutLogEvents", &patch_instance_logs, &none),
                ("sqs:DeleteMessage", &reported, &none),
                ("sqs:GetQueueAttributes", &reported, &none),
                ("sqs:ReceiveMessage", &reported, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:DescribeInstanceInformation", &everything, &none),
                ("ssm:DescribeInstancePatchStates", &sub(INSTANCES), &none),
                ("ssm:DescribeInstancePatchStates", &sub(HYBRID), &none),
                ("ssm:DescribeInstancePatches", &sub(INSTANCES), &none),
                ("ssm:DescribeInstancePatches", &sub(HYBRID), &none),
                ("ssm:GetParameter", &parameter, &none),
                ("ssm:GetServiceSetting", &sub(HOST_MANAGEMENT), &none),
                ("ssm:ListCommandInvocations", &everything, &none),
                ("ssm:ListCommands", &everything, &none),
                // This document, on instances: nothing else is ever run.
                ("ssm:SendCommand", &sub(&patch_document), &none),
                ("ssm:SendCommand", &sub(INSTANCES), &none),
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
        (
            SWEEP,
            vec![
                ("cloudformation:ListStackResources", &stack, &none),
                ("cloudtrail:DescribeTrails", &everything, &none),
                ("cloudtrail:GetEventSelectors", &sub(ANY_TRAIL), &none),
                ("cloudtrail:GetTrailStatus", &sub(ANY_TRAIL), &none),
                ("cloudwatch:GetMetricData", &everything, &none),
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:Query", &index("by-day"), &none),
                ("dynamodb:Query", &index("by-resource"), &none),
                ("dynamodb:Query", &index("untold"), &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:DeleteSnapshot", &sub(SNAPSHOTS), &only_old_snapshots),
                ("ec2:DeleteVolume", &sub(VOLUMES), &only_replaced),
                ("ec2:DescribeManagedPrefixLists", &everything, &none),
                ("ec2:DescribeInstances", &everything, &none),
                ("ec2:DescribeNetworkInterfaces", &everything, &none),
                ("ec2:DescribeSecurityGroupReferences", &everything, &none),
                ("ec2:DescribeSecurityGroupRules", &everything, &none),
                ("ec2:DescribeSecurityGroups", &everything, &none),
                ("ec2:DescribeSnapshots", &everything, &none),
                ("ec2:DescribeTags", &everything, &none),
                ("ec2:DescribeVolumes", &everything, &none),
                ("ec2:DescribeImages", &everything, &none),
                ("ec2:DescribeSubnets", &everything, &none),
                ("ec2:GetEbsEncryptionByDefault", &everything, &none),
                ("ec2:GetImageBlockPublicAccessState", &everything, &none),
                ("ec2:GetInstanceMetadataDefaults", &everything, &none),
                ("ec2:GetSerialConsoleAccessStatus", &everything, &none),
                ("ec2:GetSnapshotBlockPublicAccessState", &everything, &none),
                ("ec2:GetManagedPrefixListEntries", &sub(ANY_LIST), &none),
                ("events:DescribeRule", &sub(EVENT_RULES), &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &sweep_logs, &none),
                ("logs:PutLogEvents", &sweep_logs, &none),
                ("sns:GetTopicAttributes", &topic_itself, &none),
                ("sqs:ChangeMessageVisibility", &queue, &none),
                ("sqs:GetQueueAttributes", &queue, &none),
                ("sqs:ReceiveMessage", &queue, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:DescribeInstanceInformation", &everything, &none),
                ("ssm:DescribeInstancePatchStates", &sub(HYBRID), &none),
                ("ssm:DescribeInstancePatchStates", &sub(INSTANCES), &none),
                ("ssm:GetParameter", &parameter, &none),
            ],
        ),
        (
            UNDO,
            vec![
                ("cloudwatch:GetMetricData", &everything, &none),
                ("dynamodb:BatchGetItem", &table, &none),
                ("dynamodb:DeleteItem", &table, &none),
                ("dynamodb:GetItem", &table, &none),
                ("dynamodb:PutItem", &table, &none),
                ("dynamodb:UpdateItem", &table, &none),
                ("ec2:AuthorizeSecurityGroupEgress", &sub(GROUPS), &none),
                ("ec2:AuthorizeSecurityGroupEgress", &sub(RULES), &none),
                ("ec2:AuthorizeSecurityGroupIngress", &sub(GROUPS), &none),
                ("ec2:AuthorizeSecurityGroupIngress", &sub(RULES), &none),
                ("ec2:CreateTags", &sub(RULES), &only_the_opt_out),
                ("ec2:CreateTags", &sub(RULES), &while_authorising_either),
                ("ec2:CreateTags", &sub(IMAGES), &only_the_opt_out),
                ("ec2:CreateTags", &sub(INSTANCES), &only_the_opt_out),
                ("ec2:CreateTags", &sub(SNAPSHOTS), &only_the_opt_out),
                ("ec2:CreateTags", &sub(SUBNETS), &only_the_opt_out),
                ("ec2:DescribeSubnets", &everything, &none),
                ("ec2:ModifySubnetAttribute", &sub(SUBNETS), &none),
                ("ec2:CreateTags", &sub(VOLUMES), &replaced_no_more),
                ("ec2:DescribeImageAttribute", &sub(IMAGES), &none),
                ("ec2:DescribeImages", &everything, &none),
                ("ec2:DescribeManagedPrefixLists", &everything, &none),
                ("ec2:DescribeInstanceAttribute", &sub(INSTANCES), &none),
                ("ec2:DescribeInstanceStatus", &everything, &none),
                ("ec2:DescribeInstanceTypes", &everything, &none),
                ("ec2:DescribeInstances", &everything, &none),
                ("ec2:DescribeNetworkInterfaces", &everything, &none),
                ("ec2:DescribeSecurityGroupReferences", &everything, &none),
                ("ec2:DescribeSecurityGroupRules", &everything, &none),
                ("ec2:DescribeSecurityGroups", &everything, &none),
                ("ec2:DescribeSnapshotAttribute", &sub(SNAPSHOTS), &none),
                ("ec2:DescribeSnapshots", &everything, &none),
                ("ec2:DescribeTags", &everything, &none),
                ("ec2:DescribeVolumes", &everything, &none),
                ("ec2:DisableEbsEncryptionByDefault", &everything, &none),
                ("ec2:DisableImageBlockPublicAccess", &everything, &none),
                ("ec2:DisableSnapshotBlockPublicAccess", &everything, &none),
                ("ec2:EnableSerialConsoleAccess", &everything, &none),
                ("ec2:EnableSnapshotBlockPublicAccess", &everything, &none),
                ("ec2:GetEbsEncryptionByDefault", &everything, &none),
                ("ec2:GetImageBlockPublicAccessState", &everything, &none),
                ("ec2:GetInstanceMetadataDefaults", &everything, &none),
                ("ec2:GetManagedPrefixListEntries", &sub(ANY_LIST), &none),
                ("ec2:GetSerialConsoleAccessStatus", &everything, &none),
                ("ec2:GetSnapshotBlockPublicAccessState", &everything, &none),
                ("ec2:ModifyImageAttribute", &sub(IMAGES), &none),
                ("ec2:ModifyInstanceMetadataDefaults", &everything, &none),
                (
                    "ec2:ModifyInstanceMetadataOptions",
                    &sub(INSTANCES),
                    &makes_tokens_optional,
                ),
                ("ec2:ModifySecurityGroupRules", &sub(ANY_LIST), &none),
                ("ec2:ModifySecurityGroupRules", &sub(GROUPS), &none),
                ("ec2:ModifySecurityGroupRules", &sub(RULES), &none),
                ("ec2:ModifySnapshotAttribute", &sub(SNAPSHOTS), &shares),
                ("ec2:RevokeSecurityGroupIngress", &sub(GROUPS), &none),
                ("events:PutEvents", &bus, &only_backstop),
                ("logs:CreateLogStream", &undo_logs, &none),
                ("logs:PutLogEvents", &undo_logs, &none),
                ("sqs:SendMessage", &queue, &none),
                ("ssm:GetParameter", &parameter, &none),
                ("states:StartExecution", &sub(MACHINE_ARN), &none),
            ],
        ),
    ] {
        without_a_row.remove(id);
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
    assert!(without_a_row.is_empty(), "{without_a_row:?}");
}

// ---------------------------------------------------------------- opt-outs

/// Whether a condition block holds for a resource with (or without) the tag
/// `backstop:opt-out`.
fn holds(condition: &Value, tag: Option<&str>) -> bool {
    let key = format!("aws:ResourceTag/{OPT_OUT_TAG}");
    let context: Context = tag
        .map(|tag| (key, vec![tag.to_owned()]))
        .into_iter()
        .collect();
    iam::holds(condition, &context)
}

fn denies_of(function: &str) -> Vec<Statement> {
    let statements = role_statements(function).into_iter();
    statements.filter(|of| of.effect == "Deny").collect()
}

/// The one Deny of a function whose controls begin the same changes.
fn deny_of(function: &str) -> Statement {
    let mut denies = denies_of(function);
    assert_eq!(denies.len(), 1, "{function}");
    denies.remove(0)
}

/// The one that a control's opt-outs are in.
fn deny_for(function: &str, control: ControlId) -> Statement {
    let mut denies = denies_of(function);
    denies.retain(|deny| {
        let patterns = &deny.condition["StringLike"];
        let patterns = patterns.as_object().unwrap().values().flat_map(items);
        patterns
            .into_iter()
            .any(|pattern| pattern == control.name())
    });
    assert_eq!(denies.len(), 1, "{function}, {control}");
    denies.remove(0)
}

/// Tags, whether IAM bars the change, and whether the code does. IAM never
/// bars what the code would change (but for one curiosity), and leaves alone
/// what has an end.
#[test]
fn iam_enforces_endless_opt_outs_and_no_others() {
    let today = "2026-11-24".parse().unwrap();
    let sweep = (SWEEP.to_owned(), vec![ControlId::UnencryptedVolume]);
    for (function, controls) in barred().into_iter().chain([sweep]) {
        for control in controls.iter().filter(|control| is_barred(**control)) {
            let condition = deny_for(&function, *control).condition;
            assert!(!holds(&condition, None), "{function}, no tag");
            // Of another function: controls of one can share a remediation.
            let mut others = ControlId::ALL.iter();
            let other = others.find(|other| !controls.contains(other)).unwrap();
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
                let tag = tag
                    .replace("CONTROL", control.name())
                    .replace("OTHER", other.name());
                assert_eq!(
                    holds(&condition, Some(&tag)),
                    by_iam,
                    "{function}, IAM, `{tag}`"
                );
                let tags = [(OPT_OUT_TAG.to_owned(), tag.clone())].into();
                let exemption = exemption::read(&tags, *control, today, &OptOutRules::default());
                assert_eq!(exemption.holds(), by_code, "{function}, code, `{tag}`");
            }
        }
    }
}

/// Two controls have one remediation: whoever is opted out of either is opted
/// out of it, by IAM as by the code. What is only told bars nothing.
#[test]
fn an_opt_out_of_one_patching_control_is_one_of_the_installation() {
    let now = "2026-11-24T12:00:00Z".parse().unwrap();
    let condition = deny_of(PATCH_INSTANCE).condition;
    for (tag, barred) in [
        ("vulnerable-package", true),
        ("missing-patches", true),
        ("unmanaged-instance+missing-patches owner=payments", true),
        ("unmanaged-instance", false),
        ("unmanaged-instance owner=payments", false),
        ("unencrypted-volume", false),
    ] {
        assert_eq!(holds(&condition, Some(tag)), barred, "IAM, `{tag}`");
        let tags = [(OPT_OUT_TAG.to_owned(), tag.to_owned())].into();
        for control in [ControlId::VulnerablePackage, ControlId::MissingPatches] {
            let exemption = decide::exempt(&tags, control, &Policy::default().opt_out, now);
            assert_eq!(exemption.holds(), barred, "{control}, `{tag}`");
        }
    }
}

#[test]
fn every_control_is_served_by_a_function() {
    let served: BTreeSet<ControlId> = remediations().into_values().flatten().collect();
    assert_eq!(served, ControlId::ALL.iter().copied().collect());
}

#[test]
fn what_leads_back_is_barred_by_no_opt_out_and_tags_nothing_else() {
    let statements = role_statements(UNDO);
    assert!(
        statements
            .iter()
            .all(|statement| statement.effect == "Allow")
    );
    let tags: Vec<(&Value, &[Value])> = statements
        .iter()
        .filter(|statement| statement.actions.iter().any(|a| a == "ec2:CreateTags"))
        .map(|statement| {
            assert_eq!(statement.actions, ["ec2:CreateTags"]);
            (&statement.condition, &statement.resources[..])
        })
        .collect();
    let in_account = |account: &str, kind: &str| {
        let arn = "arn:${AWS::Partition}:ec2:${AWS::Region}:";
        [json!({ "Fn::Sub": format!("{arn}{account}:{kind}/*") })]
    };
    let of = |kind: &str| in_account("${AWS::AccountId}", kind);
    let only = |keys: &[&str]| {
        json!({
            "ForAllValues:StringEquals": { "aws:TagKeys": keys },
            "Null": { "aws:TagKeys": "false" },
        })
    };
    let only_the_opt_out = only(&[OPT_OUT_TAG]);
    let replaced_no_more = only(&[OPT_OUT_TAG, REPLACED_BY_TAG]);
    assert_eq!(
        tags,
        [
            // The ARN of an image, or of a snapshot, names no account.
            (
                &only_the_opt_out,
                &[in_account("", "image"), in_account("", "snapshot")].concat()[..],
            ),
            (&only_the_opt_out, &of("subnet")),
            (&only_the_opt_out, &of("instance")),
            (
                &json!({ "StringEquals": { "ec2:CreateAction":
                    ["AuthorizeSecurityGroupEgress", "AuthorizeSecurityGroupIngress"] } }),
                &of("security-group-rule"),
            ),
            (&only_the_opt_out, &of("security-group-rule")),
            (&replaced_no_more, &of("volume")),
        ]
    );
    let shares: Vec<Statement> = statements
        .into_iter()
        .filter(|s| s.actions.iter().any(|a| a == "ec2:ModifySnapshotAttribute"))
        .collect();
    let [share] = &shares[..] else {
        panic!("{shares:?}")
    };
    assert_eq!(share.actions, ["ec2:ModifySnapshotAttribute"]);
    assert_eq!(share.resources, in_account("", "snapshot"));
    assert_eq!(
        share.condition,
        json!({ "StringEquals": { "ec2:Add/group": "all" }, "Null": { "ec2:Add/userId": "true" } })
    );
    assert!(
        rules().iter().all(|rule| rule.function != UNDO),
        "no event starts it"
    );
}

#[test]
fn opt_outs_bar_every_change_that_a_function_can_begin() {
    let remediations = remediations();
    for function in remediations.keys() {
        let denies = role_statements(function).iter().any(|s| s.effect == "Deny");
        assert_eq!(denies, barred().contains_key(function), "{function}");
    }
    for function in barred().keys() {
        let denies = denies_of(function);
        // On whatever carries the tag; but a volume's opt-out says nothing to
        // whether its instance is patched.
        let expected = match function.as_str() {
            PATCH_INSTANCE => json!({ "Fn::Sub":
                "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*" }),
            _ => json!("*"),
        };
        for deny in &denies {
            assert_eq!(
                deny.resources,
                std::slice::from_ref(&expected),
                "{function}"
            );
        }
        let denied: BTreeSet<String> = denies.into_iter().flat_map(|deny| deny.actions).collect();
        let (back, begins): (Vec<String>, Vec<String>) = granted_actions(function)
            .into_iter()
            .filter(|action| changes(action))
            .partition(|action| LEADS_BACK.contains(&action.as_str()));
        // What knows no tags of its resource cannot be barred by one.
        let barred: BTreeSet<String> = begins
            .into_iter()
            .filter(|action| knows(action, "aws:ResourceTag/backstop:opt-out"))
            .collect();
        assert_eq!(denied, barred, "{function}");
        for action in back {
            assert!(!denied.contains(&action), "{function}: {action} is barred");
        }
    }
    assert_eq!(
        deny_of("EncryptVolumeFunction").actions,
        ["ec2:CreateSnapshot", "ec2:StopInstances"]
    );
    assert_eq!(
        deny_of(PATCH_INSTANCE).actions,
        ["ec2:CreateSnapshots", "ssm:SendCommand"]
    );
    // The sweep deletes, and only what carries the mark of having been replaced.
    let deny = deny_of(SWEEP);
    assert_eq!(deny.resources, [json!("*")]);
    assert_eq!(deny.actions, ["ec2:DeleteVolume"]);
    let deletes: Vec<Statement> = role_statements(SWEEP)
        .into_iter()
        .filter(|statement| statement.effect == "Allow")
        .filter(|statement| statement.actions.iter().any(|a| a == "ec2:DeleteVolume"))
        .collect();
    let [delete] = &deletes[..] else {
        panic!("{deletes:?}")
    };
    assert_eq!(delete.actions, ["ec2:DeleteVolume"]);
    assert_eq!(
        delete.condition,
        json!({ "Null": { (format!("aws:ResourceTag/{REPLACED_BY_TAG}")): "false" } })
    );
    // Snapshots with both marks of one that a run took, and no opt-out at all.
    let old_snapshots = role_statements(SWEEP)
        .into_iter()
        .filter(|statement| statement.actions.iter().any(|a| a == "ec2:DeleteSnapshot"));
    let old_snapshots: Vec<Statement> = old_snapshots.collect();
    let [delete] = &old_snapshots[..] else {
        panic!("{old_snapshots:?}")
    };
    assert_eq!(delete.effect, "Allow");
    assert_eq!(delete.actions, ["ec2:DeleteSnapshot"]);
    assert_eq!(
        delete.resources,
        [json!({ "Fn::Sub": "arn:${AWS::Partition}:ec2:${AWS::Region}::snapshot/*" })]
    );
    assert_eq!(
        delete.condition,
        json!({
            "StringEquals": { (format!("aws:ResourceTag/{PURPOSE_TAG}")): Purpose::Safety.name() },
            "Null": {
                (format!("aws:ResourceTag/{ENTRY_TAG}")): "false",
                (format!("aws:ResourceTag/{OPT_OUT_TAG}")): "true",
            },
        })
    );
    let by_sweep: Vec<String> = granted_actions(SWEEP)
        .into_iter()
        .filter(|action| changes(action))
        .collect();
    assert_eq!(
        by_sweep,
        ["ec2:DeleteSnapshot", "ec2:DeleteVolume"],
        "it changes nothing else"
    );
    for id in functions().into_keys() {
        assert_eq!(
            granted_actions(&id).iter().any(|action| changes(action)),
            remediations.contains_key(&id) || id == UNDO || id == SWEEP,
            "{id} changes resources, or is listed here without"
        );
    }
}

/// What controls say of the calls that they make is what the roles allow: the
/// function's what it reads and begins, undo's what leads back.
#[test]
fn what_a_control_calls_is_granted() {
    for (function, served) in at_once() {
        let granted = granted_actions(&function_of(function));
        let services = ["ec2:", "cloudwatch:"];
        let of_both = granted
            .iter()
            .filter(|action| services.iter().any(|of| action.starts_with(of)));
        let mut calls: BTreeSet<&str> = served
            .iter()
            .flat_map(|info| info.reads.iter().chain(info.begins).copied())
            .collect();
        if function == "revoke-ingress" {
            // In the call that authorises a rule.
            calls.insert("ec2:CreateTags");
        }
        let granted: BTreeSet<&str> = of_both.map(String::as_str).collect();
        assert_eq!(granted, calls, "{function}");
        let back = granted_actions(UNDO);
        for action in served.iter().flat_map(|info| info.undoes) {
            assert!(back.contains(*action), "undo lacks {action}");
        }
    }
}

// ------------------------------------------------------- the state machine

#[test]
fn the_state_machine_is_known_by_its_name() {
    let machines = resources("AWS::Serverless::StateMachine");
    assert_eq!(machines.keys().collect::<Vec<_>>(), [MACHINE]);
    assert_eq!(
        machines[MACHINE]["Properties"],
        json!({
            // Its function has the name in its environment and in its role: by
            // reference it would be a circle.
            "Name": { "Fn::Sub": "${AWS::StackName}-encrypt-volume" },
            "Type": "STANDARD",
            "DefinitionUri": MACHINE_FILE,
            "DefinitionSubstitutions": {
                "FailedEventsQueueUrl": reference(QUEUE),
                "FunctionArn": arn_of("EncryptVolumeFunction"),
                "Partition": reference("AWS::Partition"),
            },
            "Role": arn_of(MACHINE_ROLE),
        })
    );
    assert!(MACHINE_ARN.ends_with(":stateMachine:${AWS::StackName}-encrypt-volume"));
}

#[test]
fn the_state_machine_may_call_its_function_and_keep_what_it_failed_on() {
    let properties = &resource(MACHINE_ROLE)["Properties"];
    assert!(properties.get("ManagedPolicyArns").is_none());
    assert!(properties.get("RoleName").is_none());
    assert_eq!(properties["Path"], ROLE_PATH);
    assert_eq!(
        properties["AssumeRolePolicyDocument"],
        json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": { "Service": "states.amazonaws.com" },
                "Action": "sts:AssumeRole",
                "Condition": { "StringEquals": { "aws:SourceAccount": reference("AWS::AccountId") } },
            }],
        })
    );
    let statements = statements_of(MACHINE_ROLE);
    let [calls, keeps] = &statements[..] else {
        panic!("{statements:?}")
    };
    for (statement, action, on) in [
        (calls, "lambda:InvokeFunction", "EncryptVolumeFunction"),
        (keeps, "sqs:SendMessage", QUEUE),
    ] {
        assert_eq!(statement.effect, "Allow");
        assert_eq!(statement.actions, [action]);
        assert_eq!(statement.resources, [arn_of(on)]);
        assert_eq!(statement.condition, Value::Null);
    }
}

/// The definition, and its states by name.
fn definition() -> (Value, BTreeMap<String, Value>) {
    let definition: Value = serde_json::from_str(&read(MACHINE_FILE)).expect("it is JSON");
    let states = entries(&definition["States"]);
    let states = states.map(|(name, state)| (name.clone(), state.clone()));
    let states = states.collect();
    (definition, states)
}

/// Where a state leads to, failures included.
fn leads_to(state: &Value) -> BTreeSet<String> {
    let catches = items(&state["Catch"]);
    let choices = items(&state["Choices"]);
    [&state["Next"], &state["Default"]]
        .into_iter()
        .chain(catches.iter().chain(&choices).map(|way| &way["Next"]))
        .filter(|next| !next.is_null())
        .map(|next| text(next).to_owned())
        .collect()
}

/// What can be reached from a state, itself included.
fn reached(states: &BTreeMap<String, Value>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut ahead = vec![from.to_owned()];
    while let Some(name) = ahead.pop() {
        let state = states.get(&name);
        let state = state.unwrap_or_else(|| panic!("there is no state `{name}`"));
        if reached.insert(name) {
            ahead.extend(leads_to(state));
        }
    }
    reached
}

/// What it does when a call fails, on AWS's side or on ours.
#[test]
fn every_task_calls_the_function_in_time_tries_again_and_knows_what_then() {
    let (definition, states) = definition();
    let longest = definition["TimeoutSeconds"].as_u64().unwrap();
    let day = 24 * 3600;
    assert!(
        (3 * day..=30 * day).contains(&longest),
        "longer than the longest snapshot (two days), and not for ever: {longest} s"
    );
    let function = &functions()["EncryptVolumeFunction"];
    let timeout = function["Properties"]["Timeout"].as_u64().unwrap();
    let mut tasks = BTreeSet::new();
    for (name, state) in states.iter().filter(|(_, state)| state["Type"] == "Task") {
        if name != KEEP {
            assert_eq!(
                state["Resource"], "arn:${Partition}:states:::lambda:invoke",
                "{name}: waits for the function's answer"
            );
            assert_eq!(
                state["Parameters"]["FunctionName"], "${FunctionArn}",
                "{name}"
            );
            assert!(
                state["TimeoutSeconds"].as_u64().unwrap() > timeout,
                "{name}: the function itself gives up first"
            );
        }
        let retries = items(&state["Retry"]);
        let [retry] = &retries[..] else {
            panic!("{name}: {retries:?}")
        };
        assert_eq!(retry["ErrorEquals"], json!(["States.ALL"]), "{name}");
        assert!(retry["MaxAttempts"].as_u64().unwrap() >= 5, "{name}");
        assert!(retry["BackoffRate"].as_f64().unwrap() > 1.0, "{name}");
        assert!(retry["IntervalSeconds"].as_u64().unwrap() >= 1, "{name}");
        assert!(retry["MaxDelaySeconds"].as_u64().unwrap() <= 300, "{name}");
        // If not even the queue can be written, the execution fails, which raises
        // an alarm.
        if name != KEEP {
            let next = match name.as_str() {
                "Go back" => "Stuck",
                // Nothing has begun: the event is kept like any that is given up.
                "Look again" => KEEP,
                _ => "Go back",
            };
            assert_eq!(
                state["Catch"],
                // The input stays: it names the entry.
                json!([{ "ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": next }]),
                "{name}"
            );
        }
        tasks.insert(name.as_str());
    }
    assert_eq!(
        tasks,
        BTreeSet::from(["Advance", "Go back", KEEP, "Look again"])
    );
}

/// Where an event goes that the function failed on once a volume had settled.
const KEEP: &str = "Keep failed event";

/// In the form of Lambda's own record, which `backstop failed` reads.
#[test]
fn a_look_that_fails_is_kept_like_any_event_that_is_given_up() {
    let (_, states) = definition();
    let keep = &states[KEEP];
    assert_eq!(
        keep["Resource"],
        "arn:${Partition}:states:::sqs:sendMessage"
    );
    let parameters = &keep["Parameters"];
    assert_eq!(parameters["QueueUrl"], "${FailedEventsQueueUrl}");
    // What Step Functions makes of the body.
    let function = Stack::new("backstop").arn("EncryptVolumeFunction");
    let input = json!({
        "settle": { "seconds": 60, "event": { "source": "backstop" } },
        "error": { "Error": "Retryable", "Cause": "it failed" },
    });
    let at = |path: &Value| match text(path).strip_prefix("$$.") {
        Some("State.EnteredTime") => json!("2026-11-24T10:00:00Z"),
        Some(other) => panic!("{other} is not modelled here"),
        None => {
            let pointer = text(path)[1..].replace('.', "/");
            input.pointer(&pointer).unwrap().clone()
        }
    };
    fn made(of: &Value, at: &dyn Fn(&Value) -> Value) -> Value {
        entries(of)
            .map(|(key, value)| match key.strip_suffix(".$") {
                Some(key) => (key.to_owned(), at(value)),
                None if value.is_object() => (key.clone(), made(value, at)),
                None => (key.clone(), value.clone()),
            })
            .collect()
    }
    let body = made(&parameters["MessageBody"], &at).to_string();
    let failed = FailedEvent::read(&body.replace("${FunctionArn}", &function)).unwrap();
    assert_eq!(failed.function, Function::Arn(function));
    assert_eq!(failed.event, json!({ "source": "backstop" }));
    assert_eq!(failed.error.as_deref(), Some("it failed"));
    assert!(failed.at.is_some());
}

#[test]
fn the_state_machine_advances_until_it_is_done() {
    let (_, states) = definition();
    let of = |name: &str| &states[name];
    // Its input: an entry, or an event for later.
    assert_eq!(
        leads_to(of("Settles?")),
        BTreeSet::from(["Settle".to_owned(), "Advance".to_owned()])
    );
    assert_eq!(of("Settles?")["Choices"][0]["Variable"], "$.settle");
    assert_eq!(of("Settle")["SecondsPath"], "$.settle.seconds");
    assert_eq!(of("Settle")["Next"], "Look again");
    assert_eq!(
        of("Look again")["Parameters"]["Payload.$"],
        "$.settle.event"
    );
    assert_eq!(of("Look again")["End"], true);

    // Steps: what the function is handed, and what of its answer is kept.
    for (name, payload) in [
        ("Advance", json!({ "advance.$": "$.entry" })),
        (
            "Go back",
            json!({ "advance.$": "$.entry", "go_back.$": "$.error.Cause" }),
        ),
    ] {
        let state = of(name);
        assert_eq!(state["Parameters"]["Payload"], payload, "{name}");
        assert_eq!(
            state["ResultSelector"],
            json!({ "next.$": "$.Payload.next", "wait_seconds.$": "$.Payload.wait_seconds" }),
            "{name}"
        );
        assert_eq!(state["ResultPath"], "$.step", "{name}: beside the entry");
        assert_eq!(state["Next"], "Done?", "{name}");
    }
    assert_eq!(
        *of("Done?"),
        json!({
            "Type": "Choice",
            "Choices": [
                { "Variable": "$.step.next", "StringEquals": "done", "Next": "Done" },
                { "Variable": "$.step.next", "StringEquals": "again", "Next": "Advance" },
            ],
            "Default": "Wait",
        })
    );
    assert_eq!(
        *of("Wait"),
        json!({ "Type": "Wait", "SecondsPath": "$.step.wait_seconds", "Next": "Advance" })
    );
    assert_eq!(of("Done")["Type"], "Succeed");
    assert_eq!(of("Stuck")["Type"], "Fail");
    assert!(text(&of("Stuck")["Cause"]).len() > 50, "it says what then");
    // The answers that it chooses by are those that the function gives.
    let function = read("functions/encrypt-volume/src/advance.rs");
    for next in ["done", "again", "wait"] {
        assert!(
            function.contains(&format!("\"next\": \"{next}\"")),
            "{next}"
        );
    }
}

#[test]
fn every_state_is_reached_and_every_way_ends() {
    let (definition, states) = definition();
    let all: BTreeSet<String> = states.keys().cloned().collect();
    assert_eq!(reached(&states, text(&definition["StartAt"])), all);
    let ends =
        |state: &Value| state["End"] == true || ["Succeed", "Fail"].contains(&text(&state["Type"]));
    for (name, state) in &states {
        // What catches a failure is no way on for what succeeds.
        let mut succeeds = state.clone();
        succeeds["Catch"] = Value::Null;
        assert_ne!(
            leads_to(&succeeds).is_empty(),
            !ends(state),
            "{name}: on, or to its end"
        );
        assert!(
            reached(&states, name)
                .iter()
                .any(|next| ends(&states[next])),
            "{name} leads nowhere"
        );
    }
    // Whatever happens to a run, it comes to `Done` or says that it is stuck.
    let of_a_run = reached(&states, "Advance");
    assert!(!of_a_run.contains("Look again"));
    assert!(of_a_run.contains("Done") && of_a_run.contains("Stuck"));
}

#[test]
fn what_is_put_into_the_definition_is_what_it_asks_for() {
    let text = read(MACHINE_FILE);
    let asked: BTreeSet<&str> = text
        .split("${")
        .skip(1)
        .map(|rest| rest.split_once('}').unwrap().0)
        .collect();
    let given = &resource(MACHINE)["Properties"]["DefinitionSubstitutions"];
    let given: BTreeSet<&str> = entries(given).map(|(name, _)| name.as_str()).collect();
    assert_eq!(asked, given);
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

    assert_eq!(
        resource(ALARM_TOPIC)["Properties"]["KmsMasterKeyId"],
        arn_of(KEY)
    );
    let policies = resources("AWS::SNS::TopicPolicy");
    assert_eq!(policies.len(), 2);
    for (id, topic) in [
        ("NotificationTopicPolicy", TOPIC),
        ("AlarmTopicPolicy", ALARM_TOPIC),
    ] {
        assert_eq!(
            policies[id].get("Condition"),
            resource(topic).get("Condition")
        );
        let policy = &policies[id]["Properties"];
        assert_eq!(policy["Topics"], json!([reference(topic)]));
        let statements_of_topic = by_sid(statements(&policy["PolicyDocument"]));
        assert_eq!(statements_of_topic.len(), 2);
        let publish = &statements_of_topic["AlarmsMayPublish"];
        assert_eq!(publish.effect, "Allow");
        assert_eq!(publish.principal, cloudwatch);
        assert_eq!(publish.actions, ["sns:Publish"]);
        assert_eq!(publish.resources, [reference(topic)]);
        assert_eq!(publish.condition, alarms);
        only_over_tls(&statements_of_topic["OnlyOverTls"], &reference(topic));
    }
}

#[test]
fn each_mail_address_is_subscribed_unless_it_is_none() {
    let subscriptions = resources("AWS::SNS::Subscription");
    assert_eq!(subscriptions.len(), 2);
    for (id, condition, parameter, topic) in [
        (
            "NotificationEmailSubscription",
            "HasEmail",
            "NotificationEmail",
            TOPIC,
        ),
        (
            "AlarmEmailSubscription",
            "HasAlarmEmail",
            "AlarmEmail",
            ALARM_TOPIC,
        ),
    ] {
        assert_eq!(
            template()["Conditions"][condition],
            json!({ "Fn::Not": [{ "Fn::Equals": [reference(parameter), "none"] }] })
        );
        assert_eq!(subscriptions[id]["Condition"], condition);
        assert_eq!(
            subscriptions[id]["Properties"],
            json!({
                "TopicArn": reference(topic),
                "Protocol": "email",
                "Endpoint": reference(parameter),
            })
        );
    }
    assert_eq!(resource(ALARM_TOPIC)["Condition"], "HasAlarmEmail");
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
    for metric in [
        "ExecutionsAborted",
        "ExecutionsFailed",
        "ExecutionsTimedOut",
    ] {
        let line = format!(r#""AWS/States", "{metric}", "StateMachineArn", "${{{MACHINE}}}""#);
        assert!(body.contains(&line), "{metric} of {MACHINE}");
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
        ("NotificationEmail", (none.clone(), none.clone())),
        ("AlarmEmail", (json!("none"), none)),
        ("LogRetentionDays", (json!(90), retention)),
    ]);
    assert_eq!(found, expected);
    for name in ["NotificationEmail", "AlarmEmail"] {
        let email = &template()["Parameters"][name];
        assert_eq!(
            email["AllowedPattern"],
            r"^(none|[^@\s]+@[^@\s]+\.[^@\s]+)$"
        );
        assert!(text(&email["ConstraintDescription"]).contains("none"));
    }
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
        ("AlarmTopicArn", reference(ALARM_TOPIC)),
        ("LedgerTableName", reference(TABLE)),
        ("PolicyParameterName", reference(PARAMETER)),
        ("FailedEventsQueueUrl", reference(QUEUE)),
        ("SweepFunctionName", reference("SweepFunction")),
        ("UndoFunctionName", reference(UNDO)),
        (
            "NextCommand",
            json!({ "Fn::Sub":
                "backstop doctor --region ${AWS::Region} --stack ${AWS::StackName}" }),
        ),
        (
            "DashboardUrl",
            json!({ "Fn::Sub": [
                "https://${AWS::Region}.${Host}/cloudwatch/home?region=${AWS::Region}#dashboards/dashboard/${Dashboard}",
                { "Host": { "Fn::FindInMap": ["Console", reference("AWS::Partition"), "Host"] } },
            ] }),
        ),
    ]);
    assert_eq!(found, expected);
}

/// A name can be taken once in an account and Region, so that a second stack is
/// refused; it goes with the stack.
#[test]
fn a_second_stack_is_refused_by_a_name_that_the_first_has_taken() {
    let only = resource("OnlyStack");
    assert_eq!(only["Properties"]["Name"], "/backstop/only-stack");
    assert_eq!(only["Properties"]["Value"], reference("AWS::StackName"));
    assert!(only["DeletionPolicy"].is_null());
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

/// Whether an action changes resources of EC2, or sends commands to instances.
fn changes(action: &str) -> bool {
    let name = ["ec2:", "ssm:"]
        .iter()
        .find_map(|service| action.strip_prefix(service));
    name.is_some_and(|name| {
        !["Describe", "Get", "List"]
            .iter()
            .any(|verb| name.starts_with(verb))
    })
}

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

/// The service control policy that `docs/opt-outs.md` ships.
#[test]
fn the_documents_ship_a_policy_that_reserves_the_opt_out_tag() {
    let page = read("docs/opt-outs.md");
    let (_, after) = page.split_once("<!-- scp -->\n```json\n").unwrap();
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
        // By their path: CloudFormation makes their names, and cuts them.
        let ours = format!("arn:aws:iam::*:role{ROLE_PATH}*");
        assert!(
            spared.as_array().unwrap().contains(&json!(ours)),
            "{spared}"
        );
    }
    // The opt-out, and the marks by which Backstop knows its own copies and
    // what they replaced.
    let key = &statements[0]["Condition"]["ForAnyValue:StringLike"]["aws:TagKeys"];
    assert_eq!(*key, json!(["backstop:*"]));
    for tag in [
        OPT_OUT_TAG,
        COPY_OF_TAG,
        ENTRY_TAG,
        PURPOSE_TAG,
        REPLACED_BY_TAG,
    ] {
        assert!(tag.starts_with("backstop:"), "{tag}");
    }
    let key = format!("aws:ResourceTag/{OPT_OUT_TAG}");
    assert_eq!(statements[1]["Condition"]["StringLike"][key], "*");
    // `StringLike` compares the values of `aws:TagKeys` by case, IAM reads the key
    // of the Deny in any.
    assert_eq!(
        statements[2]["Condition"]["ForAnyValue:StringEqualsIgnoreCase"],
        json!({ "aws:TagKeys": [OPT_OUT_TAG] })
    );
    assert_eq!(statements[2]["Action"], statements[0]["Action"]);
}

// --------------------------------------------------------- condition keys

/// Condition keys of every request from a service principal or over the network,
/// with their types, from IAM's guide ("AWS global condition context keys").
const GLOBAL_KEYS: &[(&str, &str)] = &[
    ("aws:SecureTransport", "Bool"),
    ("aws:SourceAccount", "String"),
    ("aws:SourceArn", "ARN"),
];

/// Every policy document of the template, by the resource that it is of.
fn documents() -> Vec<(String, Value)> {
    let mut documents = Vec::new();
    for (id, resource) in entries(&template()["Resources"]) {
        let properties = &resource["Properties"];
        let of_role = items(&properties["Policies"]);
        let of_role = of_role.iter().map(|policy| &policy["PolicyDocument"]);
        let found = of_role.chain(
            ["AssumeRolePolicyDocument", "KeyPolicy", "PolicyDocument"]
                .map(|name| &properties[name]),
        );
        documents.extend(
            found
                .filter(|of| of.is_object())
                .map(|of| (id.clone(), of.clone())),
        );
    }
    documents
}

/// The kinds of resources that a statement of a role is about, for one of its
/// actions; all that the action knows for `*`.
fn kinds(action: &str, statement: &Statement) -> Vec<Option<&'static str>> {
    let stack = Stack::new("backstop");
    let arns = statement.resources.iter().map(|arn| stack.text(arn));
    arns.map(|arn| match arn.as_str() {
        "*" => None,
        arn => {
            let kind = iam::kind_of(action, arn);
            let of = &statement.sid;
            assert!(kind.is_some(), "{of}: {action} is never asked of {arn}");
            kind
        }
    })
    .collect()
}

#[test]
fn every_action_is_granted_and_denied_on_resources_that_it_is_asked_of() {
    for role in resources("AWS::IAM::Role").keys() {
        for statement in statements_of(role) {
            for action in &statement.actions {
                assert!(!kinds(action, &statement).is_empty(), "{role}");
            }
        }
    }
}

/// IAM asks for every resource that a call names: an instance that uses licences
/// is not started where only instances are granted.
#[test]
fn what_a_swap_calls_is_granted_on_every_kind_of_resource_that_it_may_name() {
    // Not touched: an instance's security groups.
    const LEFT_OUT: &[(&str, &str)] = &[("ec2:ModifyInstanceAttribute", "security-group")];
    let statements = role_statements("EncryptVolumeFunction");
    for action in [
        "ec2:AttachVolume",
        "ec2:DetachVolume",
        "ec2:ModifyInstanceAttribute",
        "ec2:StartInstances",
        "ec2:StopInstances",
    ] {
        let of_action =
            |s: &&Statement| s.effect == "Allow" && s.actions.iter().any(|a| a == action);
        let granted: BTreeSet<&str> = statements
            .iter()
            .filter(of_action)
            .flat_map(|statement| kinds(action, statement))
            .flatten()
            .collect();
        for kind in iam::kinds_of(action) {
            let left_out = LEFT_OUT.contains(&(action, kind));
            assert!(
                left_out || granted.contains(kind),
                "{action} on {kind}: {granted:?}"
            );
        }
    }
}

#[test]
fn every_condition_key_is_one_that_the_service_knows_and_is_asked_as_its_type_needs() {
    let mut rows = BTreeSet::new();
    for (of, document) in documents() {
        for statement in items(&document["Statement"]) {
            let mut statement = statement;
            // A trust policy's statements have no names.
            if statement["Sid"].is_null() {
                statement["Sid"] = json!("");
            }
            let statement = &statements(&json!({ "Statement": [statement] }))[0];
            for (operator, keys) in entries(&statement.condition) {
                for key in keys.as_object().unwrap().keys() {
                    let here = format!("{of}, {}: {operator} of {key}", statement.sid);
                    let global = GLOBAL_KEYS.iter().find(|(name, _)| name == key);
                    let kind = global.map_or_else(|| iam::type_of(key), |(_, kind)| kind);
                    for action in &statement.actions {
                        rows.insert((action.clone(), key.clone(), kind, operator.clone()));
                        if global.is_some() {
                            continue;
                        }
                        // One that is not in the context never allows, and never
                        // denies: for each of the resources of a grant, for one of
                        // those of a `*`.
                        let known = match &statement.principal {
                            Value::Null => {
                                kinds(action, statement).into_iter().all(|kind| match kind {
                                    None => knows(action, key),
                                    kind => iam::knows_of(action, kind, key),
                                })
                            }
                            // Of a resource's own policy.
                            _ => knows(action, key),
                        };
                        assert!(known, "{here}: {action} does not know it");
                    }
                    let (set, plain) = operator.split_once(':').unwrap_or(("", operator));
                    if plain == "Null" {
                        continue;
                    }
                    // With plain StringEquals IAM may deny a call of several values.
                    assert_eq!(
                        !set.is_empty(),
                        kind.starts_with("ArrayOf"),
                        "{here}, which is {kind}"
                    );
                    let asked_as = match kind.trim_start_matches("ArrayOf") {
                        "ARN" => "Arn",
                        other => other,
                    };
                    assert!(plain.starts_with(asked_as), "{here}, which is {kind}");
                    // Else it holds for a call without any value.
                    if set == "ForAllValues" {
                        assert_eq!(statement.condition["Null"][key], "false", "{here}");
                    }
                }
            }
        }
    }
    println!("| action | key | type | operator |\n| --- | --- | --- | --- |");
    for (action, key, kind, operator) in &rows {
        println!("| {action} | {key} | {kind} | {operator} |");
    }
    let asked = |action: &str, key: &str, operator: &str| {
        let mut rows = rows.iter();
        rows.any(|(a, k, _, o)| (a.as_str(), k.as_str(), o.as_str()) == (action, key, operator))
    };
    for key in ["events:source", "events:detail-type"] {
        assert!(
            asked("events:PutEvents", key, "ForAllValues:StringEquals"),
            "{key}"
        );
        assert!(asked("events:PutEvents", key, "Null"), "{key}");
    }
    let of_copies = rows
        .iter()
        .filter(|(action, ..)| action == "ec2:CopyVolumes");
    assert_eq!(of_copies.count(), 0, "it knows no tags of its source");
}

// ------------------------------------------------------------------ names

/// A pattern may be built on the stack's name only where the template gives the
/// names itself: those that CloudFormation makes are cut to 64 characters.
#[test]
fn no_pattern_is_built_on_the_stacks_name_for_names_that_cloud_formation_makes() {
    fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(values) => values.iter().for_each(|of| strings(of, found)),
            Value::Object(members) => members.values().for_each(|of| strings(of, found)),
            _ => {}
        }
    }
    /// What ARNs of a service and a kind name, by the type of the template.
    const NAMED: &[(&str, &str, &str)] = &[
        ("cloudwatch", "alarm:", "AWS::CloudWatch::Alarm"),
        ("sns", "", "AWS::SNS::Topic"),
        ("states", "stateMachine:", "AWS::Serverless::StateMachine"),
    ];
    let stack = Stack::new("backstop");
    let mut checked = 0;
    for (id, resource) in entries(&template()["Resources"]) {
        let mut found = Vec::new();
        strings(resource, &mut found);
        let arns = found
            .into_iter()
            .filter(|text| text.starts_with("arn:") && text.contains("${AWS::StackName}"));
        for arn in arns {
            checked += 1;
            let arn = stack.text(&json!({ "Fn::Sub": arn }));
            let mut parts = arn.splitn(6, ':');
            let (service, name) = (parts.nth(2).unwrap(), parts.nth(2).unwrap());
            let named = NAMED.iter().find_map(|(of, kind, named)| {
                let name = name.strip_prefix(kind)?;
                (*of == service).then_some((name, *named))
            });
            let Some((pattern, kind)) = named else {
                panic!("{id}: the names of {arn} are made by CloudFormation");
            };
            let own = OWN_NAMES.iter().find(|(of, _)| *of == kind);
            let (_, property) = own.unwrap_or_else(|| panic!("{kind} has names of its own"));
            let mut names = 0;
            for (named, of) in resources(kind) {
                let given = &of["Properties"][property];
                assert!(!given.is_null(), "{id}: {arn} would not name {named}");
                let matches = iam::is_like(pattern, &stack.text(given));
                // A whole name is that of one, a pattern is for all of a kind.
                assert!(matches || !pattern.contains('*'), "{id}: {arn}, {named}");
                names += usize::from(matches);
            }
            assert!(names > 0, "{id}: {arn} names nothing");
        }
    }
    assert!(checked >= 5, "{checked}");
    // Nor in the policy that the documents ship.
    assert!(!read("docs/opt-outs.md").contains("role/backstop-"));
}

// ----------------------------------------------- the README and the controls

/// The README's table of controls says what is fixed about each: its function, and
/// the Security Hub controls that find the same.
#[test]
fn the_readme_lists_every_control_with_its_function_and_security_hub() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("| control | finds |").unwrap();
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<String> = row
            .split('|')
            .map(|of| of.trim().replace('`', ""))
            .collect();
        let [_, control, finds, function, hub, _] = &cells[..] else {
            panic!("{row}")
        };
        let control = ControlId::from_name(control).unwrap_or_else(|| panic!("{row}"));
        let explained = explain(control).unwrap_or_else(|| panic!("{row}"));
        assert_eq!(
            finds.to_lowercase(),
            explained.finds.to_lowercase(),
            "{row}"
        );
        assert_eq!(function, explained.function, "{row}");
        let known = match explained.security_hub.join(", ") {
            none if none.is_empty() => "–".to_owned(),
            hub => hub,
        };
        assert_eq!(*hub, known, "{row}");
        found.insert(control, function_of(function));
    }
    let served = remediations().into_iter().flat_map(|(function, controls)| {
        let function = move |control| (control, function.clone());
        controls.into_iter().map(function)
    });
    assert_eq!(found, served.collect());
}
