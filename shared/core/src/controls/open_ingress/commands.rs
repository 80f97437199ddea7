//! The AWS CLI commands that take our changes of a rule back, for bash and zsh.
//!
//! Only steps that really happened are taken back. Every rule carries an
//! opt-out from the call that opens it (or from before it), so that Backstop
//! and the person do not fight. What opens comes first and what we had added
//! goes last: at no moment is anything closed that was open before.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::control::ByHand;
use crate::exemption::{OPT_OUT_TAG, is_opt_out_key};
use crate::plan::{Ending, Step};
use crate::ports::Permission;
use crate::security_group::{Direction, IngressRule, Source};
use crate::shell::{ascii_json, aws, quote};

/// The commands, to be run in this order; none where no step of ours changed
/// anything.
pub(super) fn back(back: &ByHand<'_, IngressRule>) -> Vec<String> {
    let Some(rule) = &back.to else {
        return Vec::new();
    };
    let done = |step| {
        let mut outcomes = back.outcomes.iter();
        outcomes.any(|o| o.step == step && o.ending == Ending::Done)
    };
    let mut commands = if done(Step::Revoke) || (done(Step::Narrow) && back.left.is_none()) {
        vec![authorise(back, Direction::Ingress, rule)]
    } else if done(Step::Narrow) {
        vec![tag(back, rule), widen(back, rule)]
    } else {
        Vec::new()
    };
    let taken_back: BTreeSet<&str> = back
        .outcomes
        .iter()
        .filter(|o| o.step == Step::TakeBack && !o.failed())
        .filter_map(|o| o.created.as_deref())
        .collect();
    let created: BTreeSet<&str> = back
        .outcomes
        .iter()
        .filter(|o| o.step == Step::Authorise && o.ending == Ending::Done)
        .filter_map(|o| o.created.as_deref())
        .filter(|id| !taken_back.contains(id))
        .collect();
    commands.extend(revoke(back, &created));
    commands
}

/// Authorises a rule again, with its tags and its opt-out in the same call.
pub(crate) fn authorise<S>(
    back: &ByHand<'_, S>,
    direction: Direction,
    rule: &IngressRule,
) -> String {
    let mut tags: Vec<Value> = rule
        .tags
        .iter()
        // AWS's own tags cannot be written.
        .filter(|(key, _)| !key.starts_with("aws:") && !is_opt_out_key(key))
        .map(|(key, value)| json!({ "Key": key, "Value": value }))
        .collect();
    tags.push(opt_out(back));
    let tags = json!([{ "ResourceType": "security-group-rule", "Tags": tags }]);
    aws(
        &format!("ec2 authorize-security-group-{}", direction.name()),
        back.region,
        &[
            ("--group-id", back.resource.to_owned()),
            (
                "--ip-permissions",
                ascii_json(&json!([ip_permission(rule)])),
            ),
            ("--tag-specifications", ascii_json(&tags)),
        ],
    )
}

fn tag(back: &ByHand<'_, IngressRule>, rule: &IngressRule) -> String {
    aws(
        "ec2 create-tags",
        back.region,
        &[
            ("--resources", rule.id.clone()),
            ("--tags", ascii_json(&json!([opt_out(back)]))),
        ],
    )
}

fn widen(back: &ByHand<'_, IngressRule>, rule: &IngressRule) -> String {
    let update =
        json!([{ "SecurityGroupRuleId": rule.id, "SecurityGroupRule": rule_request(rule) }]);
    aws(
        "ec2 modify-security-group-rules",
        back.region,
        &[
            ("--group-id", back.resource.to_owned()),
            ("--security-group-rules", ascii_json(&update)),
        ],
    )
}

fn revoke(back: &ByHand<'_, IngressRule>, created: &BTreeSet<&str>) -> Option<String> {
    (!created.is_empty()).then(|| {
        let mut command = aws(
            "ec2 revoke-security-group-ingress",
            back.region,
            &[("--group-id", back.resource.to_owned())],
        );
        command += " --security-group-rule-ids";
        for id in created {
            command += " ";
            command += &quote(id);
        }
        command
    })
}

fn opt_out<S>(back: &ByHand<'_, S>) -> Value {
    json!({ "Key": OPT_OUT_TAG, "Value": back.opt_out })
}

/// Protocol and ports, in the words of every EC2 request.
fn ports(permission: &Permission) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("IpProtocol".to_owned(), json!(permission.protocol));
    for (name, port) in [
        ("FromPort", permission.from_port),
        ("ToPort", permission.to_port),
    ] {
        if let Some(port) = port {
            fields.insert(name.to_owned(), json!(port));
        }
    }
    fields
}

/// A rule in the words of AuthorizeSecurityGroupIngress and …Egress.
fn ip_permission(rule: &IngressRule) -> Value {
    let (list, mut source) = match &rule.source {
        Source::Ipv4(block) => ("IpRanges", json!({ "CidrIp": block })),
        Source::Ipv6(block) => ("Ipv6Ranges", json!({ "CidrIpv6": block })),
        Source::PrefixList(id) => ("PrefixListIds", json!({ "PrefixListId": id })),
        Source::SecurityGroup(group) => (
            "UserIdGroupPairs",
            match group.split_once('/') {
                Some((account, id)) => json!({ "UserId": account, "GroupId": id }),
                None => json!({ "GroupId": group }),
            },
        ),
    };
    if let (Some(description), Some(fields)) = (&rule.description, source.as_object_mut()) {
        fields.insert("Description".to_owned(), json!(description));
    }
    let mut permission = ports(&rule.permission);
    permission.insert(list.to_owned(), json!([source]));
    Value::Object(permission)
}

/// A rule in the words of ModifySecurityGroupRules.
fn rule_request(rule: &IngressRule) -> Value {
    let (field, source) = match &rule.source {
        Source::Ipv4(block) => ("CidrIpv4", block.as_str()),
        Source::Ipv6(block) => ("CidrIpv6", block.as_str()),
        Source::PrefixList(id) => ("PrefixListId", id.as_str()),
        Source::SecurityGroup(group) => (
            "ReferencedGroupId",
            group.rsplit('/').next().unwrap_or(group),
        ),
    };
    let mut request = ports(&rule.permission);
    request.insert(field.to_owned(), json!(source));
    if let Some(description) = &rule.description {
        request.insert("Description".to_owned(), json!(description));
    }
    Value::Object(request)
}
