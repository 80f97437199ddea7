//! "This role may do this call on this resource with these tags": asked of IAM's
//! rules with the template's policies.
//!
//! Every call of every story of the fault run asks it too, and what the stories do
//! not come by is asked here. Together they ask for every grant of the template, and
//! each answer of yes is asked again for another account, Region and stack.
//! Opt-outs: `faults::opt_outs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use backstop_tests::iam::{Context, Request, Verdict, is_like, judge, kind_of};
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_tests::stack::Stack;
use backstop_tests::template::{Statement, functions, resource, role_of, statements, text};
use serde_json::json;

use crate::contract::FIXTURES;
use crate::faults::{opt_outs, stories};

const STACK: &str = "backstop";
const REVOKE: &str = "RevokeIngressFunction";
const ENCRYPT: &str = "EncryptVolumeFunction";
const RESTORE: &str = "RestoreAccountDefaultsFunction";
const UNSHARE: &str = "UnshareStorageFunction";
const REMOVE: &str = "RemovePublicAddressFunction";
const REQUIRE: &str = "RequireImdsv2Function";
const PATCH: &str = "PatchInstanceFunction";
const NOTIFY: &str = "NotifyFunction";
const SWEEP: &str = "SweepFunction";
const UNDO: &str = "UndoFunction";
const WATCH: &str = "WatchOptOutsFunction";

static ROLES: LazyLock<BTreeMap<String, Vec<Statement>>> = LazyLock::new(|| {
    let stack = Stack::new(STACK);
    let ids = functions().into_keys();
    ids.map(|id| (id.clone(), stack.statements(&role_of(&id))))
        .collect()
});

fn facts(of: &[(&str, &str)]) -> Context {
    let one = |(key, value): &(&str, &str)| ((*key).to_owned(), vec![(*value).to_owned()]);
    of.iter().map(one).collect()
}

fn ask(function: &str, action: &str, resource: &str, of: &[(&str, &str)]) -> Verdict {
    judge(
        &ROLES[function],
        &Request::new(action, resource, &facts(of)),
    )
}

/// An ARN in the stack's Region, of the account or of another.
fn arn(service: &str, account: &str, id: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{account}:{id}")
}

const ELSEWHERE: &str = "444455556666";

/// What the functions may do beside what the stories show: function, action,
/// resource, and what is known of the request.
fn allowed() -> Vec<(&'static str, &'static str, String, Context)> {
    let ec2 = |id: &str| arn("ec2", ACCOUNT, id);
    let snapshot = arn("ec2", "", "snapshot/snap-1");
    let list = |account| arn("ec2", account, "prefix-list/pl-1");
    let key = |account| arn("kms", account, "key/1");
    let via_ec2 = format!("ec2.{REGION}.amazonaws.com");
    let via_ec2 = [("kms:ViaService", via_ec2.as_str())];
    let grant = [via_ec2[0], ("kms:GrantIsForAWSResource", "true")];
    let stack = Stack::new(STACK);
    let mut allowed: Vec<(&str, &str, String, Context)> = Vec::new();
    let mut may = |function, action, resource: &str, of: &[(&str, &str)]| {
        allowed.push((function, action, resource.to_owned(), facts(of)));
    };
    for function in [REVOKE, UNDO] {
        // A rule whose source is a list of the account, of AWS, or shared.
        for owner in [ACCOUNT, "aws", ELSEWHERE] {
            may(function, "ec2:ModifySecurityGroupRules", &list(owner), &[]);
            may(
                function,
                "ec2:GetManagedPrefixListEntries",
                &list(owner),
                &[],
            );
        }
    }
    may(SWEEP, "ec2:GetManagedPrefixListEntries", &list("aws"), &[]);
    for function in [REVOKE, SWEEP, UNDO] {
        may(function, "ec2:DescribeManagedPrefixLists", "*", &[]);
    }
    // There is no default group with rules in the sweep's story.
    for action in [
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroupReferences",
        "ec2:DescribeSecurityGroupRules",
    ] {
        may(SWEEP, action, "*", &[]);
    }
    // No instance answers IMDSv1 in the sweep's story.
    may(SWEEP, "cloudwatch:GetMetricData", "*", &[]);
    // There is no failed event in the sweep's story.
    let failed = Stack::new(STACK).arn("FailedEventsQueue");
    may(SWEEP, "sqs:ChangeMessageVisibility", &failed, &[]);

    // The other way to a copy, and what EC2 asks of its key on the role's behalf.
    let made = [("ec2:CreateAction", "CreateVolume")];
    let volume = ec2("volume/vol-1");
    may(ENCRYPT, "ec2:CreateVolume", &snapshot, &[]);
    may(ENCRYPT, "ec2:CreateVolume", &volume, &[]);
    may(ENCRYPT, "ec2:CreateTags", &volume, &made);
    let copy = [("aws:ResourceTag/backstop:copy-of", "vol-0")];
    may(ENCRYPT, "ec2:DeleteVolume", &volume, &copy);
    for owner in [ACCOUNT, ELSEWHERE] {
        may(ENCRYPT, "kms:DescribeKey", &key(owner), &[]);
        let data_key = "kms:GenerateDataKeyWithoutPlaintext";
        may(ENCRYPT, data_key, &key(owner), &[]);
        may(ENCRYPT, data_key, &key(owner), &via_ec2);
        for action in ["kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"] {
            may(ENCRYPT, action, &key(owner), &via_ec2);
        }
        may(ENCRYPT, "kms:CreateGrant", &key(owner), &grant);
        // What a start is judged by, of an instance with a licence, or in a
        // capacity reservation group.
        let licence = arn("license-manager", owner, "license-configuration:lic-1");
        may(ENCRYPT, "ec2:StartInstances", &licence, &[]);
    }
    let group = arn("resource-groups", ACCOUNT, "group/reserved");
    may(ENCRYPT, "ec2:StartInstances", &group, &[]);
    may(ENCRYPT, "ec2:ModifyInstanceAttribute", &volume, &[]);
    may(ENCRYPT, "ec2:DetachVolume", &ec2("instance/i-1"), &[]);

    // Systems Manager asks for both kinds of instances.
    let hybrid = arn("ssm", ACCOUNT, "managed-instance/mi-1");
    let states = "ssm:DescribeInstancePatchStates";
    for id in [&hybrid, &ec2("instance/i-1")] {
        may(PATCH, states, id, &[]);
        may(PATCH, "ssm:DescribeInstancePatches", id, &[]);
        may(SWEEP, states, id, &[]);
    }
    let setting = "servicesetting/ssm/managed-instance/default-ec2-instance-management-role";
    may(
        PATCH,
        "ssm:GetServiceSetting",
        &arn("ssm", ACCOUNT, setting),
        &[],
    );
    for action in [
        "ec2:DescribeRouteTables",
        "ec2:DescribeVpcEndpoints",
        "ssm:DescribeInstanceInformation",
        "ssm:ListCommandInvocations",
        "ssm:ListCommands",
    ] {
        may(PATCH, action, "*", &[]);
    }

    // No instance is there in the sweep's story.
    may(SWEEP, "ssm:DescribeInstanceInformation", "*", &[]);

    // An original that the policy has kept for long enough.
    let replaced = [("aws:ResourceTag/backstop:replaced-by", "vol-2")];
    may(SWEEP, "ec2:DeleteVolume", &volume, &replaced);
    may(SWEEP, "dynamodb:DeleteItem", &stack.arn("LedgerTable"), &[]);
    // A snapshot from before patches, likewise.
    let safety = [
        ("aws:ResourceTag/backstop:purpose", "safety"),
        ("aws:ResourceTag/backstop:entry", "01M7"),
    ];
    may(SWEEP, "ec2:DeleteSnapshot", &snapshot, &safety);

    // An encryption, a setting and a rule are put back.
    for action in [
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceStatus",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeSnapshots",
        "ec2:DescribeTags",
        "ec2:DescribeVolumes",
        // From a stronger block to a weaker one.
        "ec2:EnableSnapshotBlockPublicAccess",
    ] {
        may(UNDO, action, "*", &[]);
    }
    may(
        UNDO,
        "ec2:DescribeInstanceAttribute",
        &ec2("instance/i-1"),
        &[],
    );
    let machine = stack.arn("EncryptVolumeStateMachine");
    may(UNDO, "states:StartExecution", &machine, &[]);
    let rule = ec2("security-group-rule/sgr-1");
    let opt_out = [("aws:TagKeys", "backstop:opt-out")];
    may(UNDO, "ec2:CreateTags", &rule, &opt_out);
    may(UNDO, "ec2:CreateTags", &volume, &opt_out);
    may(
        UNDO,
        "ec2:CreateTags",
        &volume,
        &[("aws:TagKeys", "backstop:replaced-by")],
    );

    // Who sets a tag is told by a function that no story is about.
    for action in [
        "ec2:DescribeSecurityGroupRules",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeTags",
    ] {
        may(WATCH, action, "*", &[]);
    }
    let bus = arn("events", ACCOUNT, "event-bus/default");
    let check = [
        ("events:source", "backstop"),
        ("events:detail-type", "Check Requested"),
    ];
    may(WATCH, "events:PutEvents", &bus, &check);
    let parameter = format!("parameter{}", stack.name("PolicyParameter"));
    may(
        WATCH,
        "ssm:GetParameter",
        &arn("ssm", ACCOUNT, &parameter),
        &[],
    );
    let table = stack.arn("LedgerTable");
    for action in [
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
    ] {
        may(WATCH, action, &table, &[]);
    }
    for function in [
        REVOKE, ENCRYPT, RESTORE, UNSHARE, REMOVE, REQUIRE, PATCH, SWEEP, UNDO,
    ] {
        // What belongs to a storm, a fight, a baseline: written by some runs only.
        for action in [
            "BatchGetItem",
            "DeleteItem",
            "GetItem",
            "PutItem",
            "UpdateItem",
        ] {
            let action = format!("dynamodb:{action}");
            allowed.push((
                function,
                String::leak(action),
                table.clone(),
                Context::new(),
            ));
        }
    }
    // Lambda's own calls, with the functions' roles.
    for function in functions().into_keys() {
        let function: &str = String::leak(function);
        let logs = format!("{}LogGroup", function.trim_end_matches("Function"));
        let stream = stack.arn(&logs).replace(":*", ":log-stream:2026/11/24/1");
        let failed = stack.arn("FailedEventsQueue");
        for action in ["logs:CreateLogStream", "logs:PutLogEvents"] {
            allowed.push((function, action, stream.clone(), Context::new()));
        }
        allowed.push((function, "sqs:SendMessage", failed, Context::new()));
    }
    for (function, queue) in [
        (NOTIFY, "RecordedQueue"),
        (PATCH, "PatchInstanceQueue"),
        (ENCRYPT, "EncryptVolumeQueue"),
    ] {
        for action in [
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
        ] {
            allowed.push((function, action, stack.arn(queue), Context::new()));
        }
    }
    allowed
}

/// Every request that is answered with yes: of the stories, and of `allowed`.
static YES: LazyLock<BTreeSet<(&'static str, Request)>> = LazyLock::new(|| {
    let mut asked = opt_outs::asked(stories::Revoke);
    asked.extend(opt_outs::asked(stories::Sweep));
    asked.extend(opt_outs::asked(stories::Undo));
    for of in FIXTURES {
        asked.extend(opt_outs::asked(stories::Remediation(*of)));
        asked.extend(opt_outs::asked(stories::UndoOf(*of)));
    }
    asked.extend(opt_outs::asked(stories::Encrypt));
    asked.extend(opt_outs::asked(stories::Patch));
    for (function, action, resource, facts) in allowed() {
        let request = Request::new(action, &resource, &facts);
        let verdict = judge(&ROLES[function], &request);
        asked.push((function, request, verdict));
    }
    let yes = asked.into_iter().map(|(function, request, verdict)| {
        assert_eq!(verdict, Verdict::Allowed, "{function}: {request:?}");
        (function, request)
    });
    yes.collect()
});

#[test]
fn every_call_of_every_flow_is_allowed_and_every_grant_is_asked_for() {
    let granted: BTreeSet<(String, String, Option<&str>)> = ROLES
        .iter()
        .flat_map(|(function, statements)| {
            let allows = statements.iter().filter(|of| of.effect == "Allow");
            allows.flat_map(move |of| {
                of.actions.iter().flat_map(move |action| {
                    let kinds = of.resources.iter().map(|arn| kind_of(action, text(arn)));
                    kinds.map(move |kind| (function.clone(), action.clone(), kind))
                })
            })
        })
        .collect();
    let asked: BTreeSet<(String, String, Option<&str>)> = YES
        .iter()
        .map(|(function, request)| {
            let kind = kind_of(&request.action, &request.resource);
            ((*function).to_owned(), request.action.clone(), kind)
        })
        .collect();
    let unasked: Vec<_> = granted.difference(&asked).collect();
    assert!(
        unasked.is_empty(),
        "granted, and no flow asks for it: {unasked:#?}"
    );
    println!(
        "{} different requests of {} functions, {} grants",
        YES.len(),
        ROLES.len(),
        granted.len()
    );
}

/// What is granted whoever owns it: function and pattern of the ARN.
const OF_ANYBODY: &[(&str, &str)] = &[
    // Lists of AWS and lists that other accounts share.
    (REVOKE, "*:prefix-list/*"),
    (SWEEP, "*:prefix-list/*"),
    (UNDO, "*:prefix-list/*"),
    // Whichever key the policy names: its own policy has to allow it too.
    (ENCRYPT, "*:key/*"),
    // Licences that other accounts share.
    (ENCRYPT, "*:license-configuration:*"),
    // Hosts of resource groups that other accounts share.
    (ENCRYPT, "*:resource-groups:*"),
    // A trail of the organisation.
    (SWEEP, "*:trail/*"),
];

#[test]
fn what_is_allowed_here_is_not_allowed_in_another_account_region_or_stack() {
    let other_stack = Stack::new("another");
    for (function, request) in YES.iter() {
        let asks = |resource: String| {
            let request = Request {
                resource,
                ..request.clone()
            };
            judge(&ROLES[*function], &request)
        };
        let here = &request.resource;
        if here == "*" {
            continue;
        }
        let anybodys = OF_ANYBODY
            .iter()
            .any(|(of, pattern)| of == function && is_like(pattern, here));
        if here.contains(&format!(":{ACCOUNT}:")) {
            let there = here.replace(&format!(":{ACCOUNT}:"), &format!(":{ELSEWHERE}:"));
            let allowed = asks(there.clone()) == Verdict::Allowed;
            assert_eq!(
                allowed, anybodys,
                "{function}: {} on {there}",
                request.action
            );
        }
        let there = here.replace(&format!(":{REGION}:"), ":ap-south-1:");
        let of_trail = here.contains(":trail/");
        let allowed = asks(there.clone()) == Verdict::Allowed;
        assert_eq!(
            allowed, of_trail,
            "{function}: {} on {there}",
            request.action
        );
        // What is the stack's own.
        for id in [
            "LedgerTable",
            "FailedEventsQueue",
            "NotificationTopic",
            "EncryptVolumeStateMachine",
        ] {
            let own = Stack::new(STACK).arn(id);
            if here.starts_with(&own) {
                let there = here.replace(&own, &other_stack.arn(id));
                let verdict = asks(there.clone());
                assert_eq!(verdict, Verdict::NotAllowed, "{function}: {there}");
            }
        }
    }
}

/// What SECURITY.md says that they may not.
#[test]
fn what_nobody_may() {
    let ec2 = |id: &str| arn("ec2", ACCOUNT, id);
    let snapshot = arn("ec2", "", "snapshot/snap-1");
    let bus = arn("events", ACCOUNT, "event-bus/default");
    let key = arn("kms", ACCOUNT, "key/1");
    let via = |service: &str| format!("{service}.{REGION}.amazonaws.com");
    let (via_ec2, via_s3) = (via("ec2"), via("s3"));
    let no = |function: &str, action: &str, resource: &str, of: &[(&str, &str)]| {
        let verdict = ask(function, action, resource, of);
        assert_eq!(
            verdict,
            Verdict::NotAllowed,
            "{function}: {action} on {resource}, {of:?}"
        );
    };
    for function in functions().keys() {
        // Tag what exists, so that nobody is opted out or in; but for undo, and
        // the mark of an original that was replaced.
        for id in [
            "security-group/sg-1",
            "security-group-rule/sgr-1",
            "volume/vol-1",
            "instance/i-1",
            "vpc/vpc-1",
        ] {
            for tags in ["backstop:opt-out", "backstop:copy-of", "Name"] {
                let undoes = function == UNDO
                    && tags == "backstop:opt-out"
                    && ["rule", "volume", "instance"]
                        .iter()
                        .any(|of| id.contains(of));
                if !undoes {
                    no(
                        function,
                        "ec2:CreateTags",
                        &ec2(id),
                        &[("aws:TagKeys", tags)],
                    );
                }
            }
            no(function, "ec2:CreateTags", &ec2(id), &[]);
        }
        // Delete a volume without a mark, or a snapshot.
        no(function, "ec2:DeleteVolume", &ec2("volume/vol-1"), &[]);
        no(function, "ec2:DeleteSnapshot", &snapshot, &[]);
        // Speak for anybody else.
        for (source, kind) in [("aws.ec2", "Check Requested"), ("backstop", "Anything")] {
            no(
                function,
                "events:PutEvents",
                &bus,
                &[("events:source", source), ("events:detail-type", kind)],
            );
        }
        no(
            function,
            "events:PutEvents",
            &bus,
            &[("events:source", "backstop")],
        );
        no(function, "events:PutEvents", &bus, &[]);
    }
    // A mark of another tag beside the one that is granted.
    let two = Context::from([(
        "aws:TagKeys".to_owned(),
        vec!["backstop:replaced-by".to_owned(), "Name".to_owned()],
    )]);
    let request = Request::new("ec2:CreateTags", &ec2("volume/vol-1"), &two);
    assert_eq!(judge(&ROLES[ENCRYPT], &request), Verdict::NotAllowed);

    // Keys: through EC2, and grants to services of AWS alone.
    for action in ["kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"] {
        no(ENCRYPT, action, &key, &[]);
        no(ENCRYPT, action, &key, &[("kms:ViaService", &via_s3)]);
    }
    no(
        ENCRYPT,
        "kms:CreateGrant",
        &key,
        &[("kms:ViaService", &via_ec2)],
    );
    let people = [
        ("kms:ViaService", via_ec2.as_str()),
        ("kms:GrantIsForAWSResource", "false"),
    ];
    no(ENCRYPT, "kms:CreateGrant", &key, &people);

    // Another document than the one of AWS that installs patches.
    let own = arn("ssm", ACCOUNT, "document/AWS-RunPatchBaseline");
    no(PATCH, "ssm:SendCommand", &own, &[]);
    let script = arn("ssm", "", "document/AWS-RunShellScript");
    no(PATCH, "ssm:SendCommand", &script, &[]);
    no(
        PATCH,
        "ssm:SendCommand",
        &arn("ssm", ACCOUNT, "managed-instance/mi-1"),
        &[],
    );
    // Another grant of a snapshot than everyone's, or the other way round.
    for (function, key) in [(UNSHARE, "ec2:Add/group"), (UNDO, "ec2:Remove/group")] {
        no(
            function,
            "ec2:ModifySnapshotAttribute",
            &snapshot,
            &[(key, "all")],
        );
    }
    for (function, key) in [(UNSHARE, "ec2:Remove/userId"), (UNDO, "ec2:Add/userId")] {
        no(
            function,
            "ec2:ModifySnapshotAttribute",
            &snapshot,
            &[(key, ELSEWHERE)],
        );
    }
    // Nor both in one call.
    for (function, how) in [(UNSHARE, "Remove"), (UNDO, "Add")] {
        let (everyone, account) = (format!("ec2:{how}/group"), format!("ec2:{how}/userId"));
        let both = [(everyone.as_str(), "all"), (account.as_str(), ELSEWHERE)];
        no(function, "ec2:ModifySnapshotAttribute", &snapshot, &both);
    }
    // A setting's other direction.
    no(RESTORE, "ec2:DisableEbsEncryptionByDefault", "*", &[]);
    no(UNDO, "ec2:EnableEbsEncryptionByDefault", "*", &[]);
    // Another stack's resources, by the same way.
    let stacks = arn("cloudformation", ACCOUNT, "stack/another/1");
    no(SWEEP, "cloudformation:ListStackResources", &stacks, &[]);
}

/// An opt-out of encryption keeps an original that was replaced: the sweep may not
/// delete it, but for an opt-out that has an end, which the code reads.
#[test]
fn the_sweep_deletes_no_original_that_is_opted_out_without_an_end() {
    let volume = arn("ec2", ACCOUNT, "volume/vol-1");
    let ask = |tag: &str| {
        let of = [
            ("aws:ResourceTag/backstop:replaced-by", "vol-2"),
            ("aws:ResourceTag/Backstop:Opt-Out", tag),
        ];
        ask(SWEEP, "ec2:DeleteVolume", &volume, &of)
    };
    let denied = Verdict::Denied("HonourEndlessOptOuts".to_owned());
    assert_eq!(ask("all"), denied);
    assert_eq!(ask("open-ingress+unencrypted-volume owner=web"), denied);
    assert_eq!(ask("all until=2027-01-31"), Verdict::Allowed);
    assert_eq!(ask("open-ingress"), Verdict::Allowed);
}

/// Names that CloudFormation makes do not begin with a long stack's name: the
/// sweep may examine the rules all the same.
#[test]
fn rules_are_examined_whatever_the_stack_is_called() {
    let stack = Stack::new(&"security-tooling-production".repeat(3));
    let statements = stack.statements(&role_of(SWEEP));
    for rule in backstop_tests::template::rules() {
        let arn = stack.arn(&rule.logical_id);
        let request = Request::new("events:DescribeRule", &arn, &Context::new());
        assert_eq!(judge(&statements, &request), Verdict::Allowed, "{arn}");
    }
}

/// What a policy of a queue, the topic or the key says to a principal.
fn by_resource(
    policy: &serde_json::Value,
    principal: &serde_json::Value,
    request: &Request,
) -> Verdict {
    let stack = Stack::new(STACK);
    let mut statements = stack.resolved(statements(policy));
    statements.retain(|of| of.principal == *principal || of.principal == "*");
    judge(&statements, request)
}

#[test]
fn the_queue_of_failed_events_takes_from_rules_of_this_account_and_region_alone() {
    let policy = &resource("FailedEventsQueuePolicy")["Properties"]["PolicyDocument"];
    let events = json!({ "Service": "events.amazonaws.com" });
    let queue = Stack::new(STACK).arn("FailedEventsQueue");
    let ask = |rule: &str, secure: &str| {
        let request = Request {
            action: "sqs:SendMessage".to_owned(),
            resource: queue.clone(),
            context: facts(&[("aws:SourceArn", rule), ("aws:SecureTransport", secure)]),
        };
        by_resource(policy, &events, &request)
    };
    let rule = |account: &str| arn("events", account, "rule/whatever");
    assert_eq!(ask(&rule(ACCOUNT), "true"), Verdict::Allowed);
    assert_eq!(ask(&rule(ELSEWHERE), "true"), Verdict::NotAllowed);
    let elsewhere = rule(ACCOUNT).replace(REGION, "ap-south-1");
    assert_eq!(ask(&elsewhere, "true"), Verdict::NotAllowed);
    let pipe = arn("pipes", ACCOUNT, "pipe/whatever");
    assert_eq!(ask(&pipe, "true"), Verdict::NotAllowed);
    let denied = Verdict::Denied("OnlyOverTls".to_owned());
    assert_eq!(ask(&rule(ACCOUNT), "false"), denied);
    // Every rule of the template is one of those.
    for of in backstop_tests::template::rules() {
        let arn = Stack::new(STACK).arn(&of.logical_id);
        assert_eq!(ask(&arn, "true"), Verdict::Allowed, "{arn}");
    }
}

/// What the other half of publishing asks: the topic's key, of the role and
/// through SNS; and of alarms, which have no role.
#[test]
fn messages_and_alarms_may_use_the_topic_and_its_key() {
    let stack = Stack::new(STACK);
    let key = &resource("NotificationKey")["Properties"]["KeyPolicy"];
    let topic = &resource("NotificationTopicPolicy")["Properties"]["PolicyDocument"];
    let request = |action: &str, resource: String, of: &[(&str, &str)]| Request {
        action: action.to_owned(),
        resource,
        context: facts(of),
    };
    let notify = json!({ "AWS": stack.arn(&role_of(NOTIFY)) });
    let through = format!("sns.{REGION}.amazonaws.com");
    for action in ["kms:Decrypt", "kms:GenerateDataKey"] {
        let of = request(
            action,
            stack.arn("NotificationKey"),
            &[("kms:ViaService", &through)],
        );
        assert_eq!(by_resource(key, &notify, &of), Verdict::Allowed);
        let of = request(action, stack.arn("NotificationKey"), &[]);
        assert_eq!(by_resource(key, &notify, &of), Verdict::NotAllowed);
    }
    let cloudwatch = json!({ "Service": "cloudwatch.amazonaws.com" });
    for (name, account, expected) in [
        ("backstop-unhealthy", ACCOUNT, Verdict::Allowed),
        ("another-unhealthy", ACCOUNT, Verdict::NotAllowed),
        ("backstop-unhealthy", ELSEWHERE, Verdict::NotAllowed),
    ] {
        let alarm = arn("cloudwatch", account, &format!("alarm:{name}"));
        let of = [
            ("aws:SourceArn", alarm.as_str()),
            ("aws:SourceAccount", account),
            ("aws:SecureTransport", "true"),
        ];
        let publish = request("sns:Publish", stack.arn("NotificationTopic"), &of);
        assert_eq!(
            by_resource(topic, &cloudwatch, &publish),
            expected,
            "{alarm}"
        );
        for action in [
            "kms:Decrypt",
            "kms:GenerateDataKey",
            "kms:GenerateDataKeyPair",
        ] {
            let uses = request(action, stack.arn("NotificationKey"), &of);
            assert_eq!(by_resource(key, &cloudwatch, &uses), expected, "{alarm}");
        }
    }
}
