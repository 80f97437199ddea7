//! The AWS CLI commands that take our changes back, for bash and zsh.
//!
//! Only steps that really happened are taken back. Every rule carries an
//! opt-out from the call that opens it (or from before it), so that Backstop
//! and the person do not fight. What opens comes first and what we had added
//! goes last: at no moment is anything closed that was open before.
//!
//! Descriptions and tags are other people's texts. They stand in JSON that is
//! pure ASCII, inside single quotes: no shell reads anything into them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::story::{Story, Way};
use super::words::one_line;
use crate::exemption::OPT_OUT_TAG;
use crate::ports::Permission;
use crate::security_group::{IngressRule, Source};

/// How one rule is put back.
pub(super) struct Undo {
    /// The rule, for people.
    pub(super) what: String,
    /// The commands, to be run in this order.
    pub(super) commands: Vec<String>,
}

/// How the rules that we changed are put back, by rule id: the first `most`,
/// and how many there are.
pub(super) fn undo_commands(story: &Story<'_>, most: usize) -> (Vec<Undo>, usize) {
    let rules = story.entry.before.values();
    let ways: Vec<_> = rules
        .filter_map(|rule| Some((rule, story.way_back(rule)?)))
        .collect();
    let shown = ways.iter().take(most).map(|(rule, (way, created))| {
        let mut commands = match way {
            Way::Authorise => vec![authorise(story, rule)],
            Way::Widen => vec![tag(story, rule), widen(story, rule)],
            Way::Leave => Vec::new(),
        };
        commands.extend(revoke(story, created));
        let what = format!("{} ({} from {})", rule.id, rule.permission, rule.source);
        Undo {
            what: one_line(&what, 200),
            commands,
        }
    });
    (shown.collect(), ways.len())
}

fn authorise(story: &Story<'_>, rule: &IngressRule) -> String {
    let mut tags: Vec<Value> = rule
        .tags
        .iter()
        // AWS's own tags cannot be written.
        .filter(|(key, _)| !key.starts_with("aws:") && *key != OPT_OUT_TAG)
        .map(|(key, value)| json!({ "Key": key, "Value": value }))
        .collect();
    tags.push(opt_out(story));
    let tags = json!([{ "ResourceType": "security-group-rule", "Tags": tags }]);
    aws(
        story,
        "authorize-security-group-ingress",
        &[
            ("--group-id", story.entry.resource_id().to_owned()),
            (
                "--ip-permissions",
                ascii_json(&json!([ip_permission(rule)])),
            ),
            ("--tag-specifications", ascii_json(&tags)),
        ],
    )
}

fn tag(story: &Story<'_>, rule: &IngressRule) -> String {
    aws(
        story,
        "create-tags",
        &[
            ("--resources", rule.id.clone()),
            ("--tags", ascii_json(&json!([opt_out(story)]))),
        ],
    )
}

fn widen(story: &Story<'_>, rule: &IngressRule) -> String {
    let update =
        json!([{ "SecurityGroupRuleId": rule.id, "SecurityGroupRule": rule_request(rule) }]);
    aws(
        story,
        "modify-security-group-rules",
        &[
            ("--group-id", story.entry.resource_id().to_owned()),
            ("--security-group-rules", ascii_json(&update)),
        ],
    )
}

fn revoke(story: &Story<'_>, created: &BTreeSet<&str>) -> Option<String> {
    (!created.is_empty()).then(|| {
        let mut command = aws(
            story,
            "revoke-security-group-ingress",
            &[("--group-id", story.entry.resource_id().to_owned())],
        );
        command += " --security-group-rule-ids";
        for id in created {
            command += " ";
            command += &quote(id);
        }
        command
    })
}

fn opt_out(story: &Story<'_>) -> Value {
    let value = format!(
        "{} until={} reason=undo",
        story.entry.control,
        story.opt_out_until()
    );
    json!({ "Key": OPT_OUT_TAG, "Value": value })
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

/// A rule in the words of AuthorizeSecurityGroupIngress.
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

fn aws(story: &Story<'_>, operation: &str, options: &[(&str, String)]) -> String {
    let mut command = format!(
        "aws ec2 {operation} --region {}",
        quote(&one_line(&story.entry.region, 50))
    );
    for (name, value) in options {
        command += &format!(" {name} {}", quote(value));
    }
    command
}

/// JSON in ASCII alone: what is not becomes `\u….`, so that no character can
/// change how a command looks.
fn ascii_json(value: &Value) -> String {
    let mut ascii = String::new();
    for c in value.to_string().chars() {
        if is_ascii(c) {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii += &format!("\\u{unit:04x}");
            }
        }
    }
    ascii
}

/// Whether a character is an ASCII one that can be seen, or a space.
fn is_ascii(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}

/// A word as a POSIX shell takes it: plain ones as they are, others in single
/// quotes, in which only the single quote itself means anything.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let line: String = word
        .chars()
        .map(|c| if is_ascii(c) { c } else { '?' })
        .collect();
    format!("'{}'", line.replace('\'', r"'\''"))
}
