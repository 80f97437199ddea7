//! What IAM says to a call: its documented rules for evaluating a policy, as far
//! as the template's policies use them, and what the service authorization
//! reference says of actions, resources and condition keys.
//!
//! Deliberately not here: other kinds of policies than those of one role or one
//! resource (service control policies, boundaries, sessions), and operators and
//! policy variables that the template does not use. They panic.
#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::template::{Statement, entries, items, read, text};

/// The condition keys of a request with their values.
pub type Context = BTreeMap<String, Vec<String>>;

/// What a call asks IAM about one of its resources. A call that names several asks
/// once for each, and every answer has to be yes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// `service:Action`.
    pub action: String,
    /// The ARN; `*` for an action that knows no resources.
    pub resource: String,
    /// What is known of the request.
    pub context: Context,
}

impl Request {
    /// A request about a resource. Of `facts` it holds those condition keys that the
    /// reference lists for the action or for a resource of this type: IAM puts no
    /// others into the context.
    #[must_use]
    pub fn new(action: &str, resource: &str, facts: &Context) -> Self {
        let kind = kind_of(action, resource);
        assert!(
            kind.is_some() || resource == "*",
            "{action} is not asked of {resource}"
        );
        let mut context = facts.clone();
        context.retain(|key, _| knows_of(action, kind, key));
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
            context,
        }
    }
}

/// What IAM answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A statement allows it and none denies it.
    Allowed,
    /// A statement denies it: its name.
    Denied(String),
    /// No statement allows it.
    NotAllowed,
}

/// What a policy says to a request. Its values have to be resolved
/// ([`Stack`](crate::stack::Stack)).
#[must_use]
pub fn judge(statements: &[Statement], request: &Request) -> Verdict {
    let mut verdict = Verdict::NotAllowed;
    for statement in statements.iter().filter(|of| applies(of, request)) {
        match statement.effect.as_str() {
            // Whatever else allows it.
            "Deny" => return Verdict::Denied(statement.sid.clone()),
            "Allow" => verdict = Verdict::Allowed,
            other => panic!("`{other}` is no effect"),
        }
    }
    verdict
}

/// Whether a statement is about a request.
fn applies(statement: &Statement, request: &Request) -> bool {
    let action = request.action.to_ascii_lowercase();
    let mut actions = statement.actions.iter();
    let mut resources = statement.resources.iter();
    actions.any(|pattern| is_like(&pattern.to_ascii_lowercase(), &action))
        && resources.any(|pattern| is_arn_like(text(pattern), &request.resource))
        && holds(&statement.condition, &request.context)
}

/// Whether a condition block holds: every operator, for each of its keys.
#[must_use]
pub fn holds(condition: &Value, context: &Context) -> bool {
    entries(condition).all(|(operator, keys)| {
        entries(keys).all(|(key, values)| {
            let values: Vec<String> = items(values).iter().map(plain).collect();
            // Names of keys have no case, the key of a tag in them included.
            let of_key = |(name, _): &(&String, _)| name.eq_ignore_ascii_case(key);
            let found = context.iter().find(of_key);
            let found = found.map_or(&[][..], |(_, values)| values);
            is_met(operator, key, &values, found)
        })
    })
}

/// Whether what was found of a key meets an operator with its values. Nothing
/// found: the request has no such key.
fn is_met(operator: &str, key: &str, values: &[String], found: &[String]) -> bool {
    if operator == "Null" {
        return values.iter().any(|of| (of == "true") == found.is_empty());
    }
    let (set, operator) = operator.split_once(':').unwrap_or(("", operator));
    let (operator, if_exists) = match operator.strip_suffix("IfExists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let (positive, negated) = match operator.split_once("Not") {
        Some((kind, how)) => (format!("{kind}{how}"), true),
        None => (operator.to_owned(), false),
    };
    let one = |found: &String| {
        let any = values.iter().any(|value| compare(&positive, value, found));
        any != negated
    };
    match (set, found) {
        ("ForAllValues", _) => found.iter().all(one),
        ("ForAnyValue", _) => found.iter().any(one) || (found.is_empty() && if_exists),
        // What is not there is unlike everything.
        ("", []) => if_exists || negated,
        ("", [found]) => one(found),
        ("", _) => panic!("`{key}` has several values and is asked without a set operator"),
        (other, _) => panic!("`{other}` is no set operator"),
    }
}

/// Compares one value of a policy with one of a request.
fn compare(operator: &str, value: &str, found: &str) -> bool {
    assert!(!value.contains("${"), "{value}: a policy variable");
    match operator {
        "StringEquals" => value == found,
        "StringEqualsIgnoreCase" | "Bool" => value.eq_ignore_ascii_case(found),
        "StringLike" => is_like(value, found),
        "ArnEquals" | "ArnLike" => is_arn_like(value, found),
        other => panic!("operator `{other}` is not modelled here"),
    }
}

/// `*` is any run of characters, `?` any one; with regard to case.
#[must_use]
pub fn is_like(pattern: &str, value: &str) -> bool {
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
    // Most patterns are none, and the fault run asks for many.
    if !pattern.contains(['*', '?']) {
        return pattern == value;
    }
    let chars = |text: &str| text.chars().collect::<Vec<char>>();
    matches(&chars(pattern), &chars(value))
}

/// The six parts of an ARN are matched one by one: a `*` before the last ends at
/// the colon.
fn is_arn_like(pattern: &str, arn: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let parts = |of: &str| of.splitn(6, ':').map(str::to_owned).collect::<Vec<_>>();
    let (pattern, arn) = (parts(pattern), parts(arn));
    pattern.len() == arn.len() && pattern.iter().zip(&arn).all(|(of, part)| is_like(of, part))
}

/// `true` may be written with or without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(value) => value.clone(),
        other => other.to_string(),
    }
}

// ----------------------------------------------------------- the reference

/// Actions, their resources and condition keys, and the types of keys, from the
/// service authorization reference.
static REFERENCE: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&read("tests/iam-actions.json")).expect("it is JSON"));

fn action(action: &str) -> &'static Value {
    let of = &REFERENCE["actions"][action];
    assert!(of.is_object(), "the reference has no action `{action}`");
    of
}

/// A condition key as the reference lists it.
fn listed(key: &str) -> String {
    match key.split_once('/') {
        // `ec2:Add/group` is a key of its own.
        Some((of, _)) if REFERENCE["keys"][key].is_null() => {
            // `aws:ResourceTag/${TagKey}`, `ec2:Attribute/${AttributeName}`
            let pattern = format!("{of}/${{");
            let keys = REFERENCE["keys"].as_object().into_iter().flatten();
            let mut keys = keys.map(|(known, _)| known);
            let known = keys.find(|known| known.starts_with(&pattern));
            known.cloned().unwrap_or_else(|| key.to_owned())
        }
        _ => key.to_owned(),
    }
}

/// The type of a condition key: `String`, `ArrayOfString`, …
#[must_use]
pub fn type_of(key: &str) -> &'static str {
    text(&REFERENCE["keys"][listed(key)])
}

/// Whether an action knows no resources, so that it can be granted on `*` alone.
#[must_use]
pub fn is_without_resources(of: &str) -> bool {
    items(&action(of)["resources"]).is_empty()
}

/// The kinds of resources that an action is asked of.
pub fn kinds_of(of: &str) -> impl Iterator<Item = &'static str> {
    let kinds = action(of)["resources"].as_array().expect("a list");
    kinds.iter().map(|kind| text(&kind["type"]))
}

/// The kind of resource that an ARN, or a pattern of ARNs, is of for an action: one
/// that the reference lists for it.
#[must_use]
pub fn kind_of(of: &str, arn: &str) -> Option<&'static str> {
    let service = of.split(':').next().unwrap_or_default();
    let part = |arn: &str, nth: usize| arn.splitn(6, ':').nth(nth).map(str::to_owned);
    kinds_of(of).find(|kind| {
        let format = text(&REFERENCE["resources"][format!("{service}:{kind}")]);
        let begins = part(format, 5).unwrap_or_default();
        let begins = begins.split("${").next().unwrap_or_default();
        part(format, 2) == part(arn, 2) && part(arn, 5).is_some_and(|id| id.starts_with(begins))
    })
}

/// Whether a service puts a condition key into the context of an action: for the
/// action itself, or for a resource of a kind.
#[must_use]
pub fn knows_of(of: &str, kind: Option<&str>, key: &str) -> bool {
    let resources = items(&action(of)["resources"]);
    let of_kind = resources
        .iter()
        .filter(|of| Some(text(&of["type"])) == kind);
    let mut keys = items(&action(of)["keys"])
        .into_iter()
        .chain(of_kind.flat_map(|of| items(&of["keys"])));
    keys.any(|known| text(&known).eq_ignore_ascii_case(&listed(key)))
}

/// Whether a service puts a condition key into the context of an action, for
/// whichever of its resources.
#[must_use]
pub fn knows(of: &str, key: &str) -> bool {
    let resources = items(&action(of)["resources"]);
    let mut kinds = resources.iter().map(|of| text(&of["type"]));
    knows_of(of, None, key) || kinds.any(|kind| knows_of(of, Some(kind), key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(of: &[(&str, &[&str])]) -> Context {
        of.iter()
            .map(|(key, values)| {
                let values = values.iter().map(|of| (*of).to_owned());
                ((*key).to_owned(), values.collect())
            })
            .collect()
    }

    #[test]
    fn a_pattern_is_matched_with_regard_to_case_and_a_star_is_any_run() {
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
            assert_eq!(is_like(pattern, value), expected, "`{pattern}`: `{value}`");
        }
    }

    #[test]
    fn a_star_in_an_arn_ends_at_a_colon_but_in_its_last_part() {
        for (pattern, arn, expected) in [
            ("*", "arn:aws:ec2:r:1:volume/vol-1", true),
            (
                "arn:aws:ec2:r:1:volume/*",
                "arn:aws:ec2:r:1:volume/vol-1",
                true,
            ),
            (
                "arn:aws:ec2:r:1:volume/*",
                "arn:aws:ec2:r:2:volume/vol-1",
                false,
            ),
            (
                "arn:aws:ec2:r:*:volume/*",
                "arn:aws:ec2:r:2:volume/vol-1",
                true,
            ),
            (
                "arn:aws:ec2:r:*:volume/*",
                "arn:aws:ec2:r:2:instance/i-1",
                false,
            ),
            (
                "arn:aws:ec2:r::snapshot/*",
                "arn:aws:ec2:r::snapshot/snap-1",
                true,
            ),
            (
                "arn:aws:ec2:r::snapshot/*",
                "arn:aws:ec2:r:1:snapshot/snap-1",
                false,
            ),
            ("arn:aws:*:volume/*", "arn:aws:ec2:r:1:volume/vol-1", false),
            (
                "arn:aws:logs:r:1:log-group:g:*",
                "arn:aws:logs:r:1:log-group:g:log-stream:s",
                true,
            ),
            ("arn:aws:sns:r:1:Topic", "arn:aws:sns:r:1:topic", false),
        ] {
            assert_eq!(is_arn_like(pattern, arn), expected, "{pattern}: {arn}");
        }
    }

    /// The tables of "Condition operators" and "Multivalued context keys" in IAM's
    /// guide: what holds with the key, without it, and with several values.
    #[test]
    fn operators_hold_as_documented_with_the_key_and_without_it() {
        let with = |values: &[&str]| context(&[("k", values)]);
        let nothing = Context::new();
        for (operator, value, context, expected) in [
            ("StringEquals", json!("a"), with(&["a"]), true),
            ("StringEquals", json!("a"), with(&["A"]), false),
            ("StringEquals", json!(["a", "b"]), with(&["b"]), true),
            ("StringEquals", json!("a*"), with(&["ab"]), false),
            ("StringEquals", json!("a"), nothing.clone(), false),
            ("StringNotEquals", json!(["a", "b"]), with(&["b"]), false),
            ("StringNotEquals", json!(["a", "b"]), with(&["c"]), true),
            ("StringNotEquals", json!("a"), nothing.clone(), true),
            ("StringEqualsIgnoreCase", json!("a"), with(&["A"]), true),
            ("StringLike", json!("a*"), with(&["ab"]), true),
            ("StringLike", json!("a*"), nothing.clone(), false),
            ("StringNotLike", json!("a*"), with(&["ab"]), false),
            ("StringNotLike", json!("a*"), nothing.clone(), true),
            ("StringEqualsIfExists", json!("a"), nothing.clone(), true),
            ("StringEqualsIfExists", json!("a"), with(&["b"]), false),
            ("Bool", json!("true"), with(&["true"]), true),
            ("Bool", json!(true), with(&["true"]), true),
            ("Bool", json!("true"), with(&["false"]), false),
            ("Bool", json!("false"), nothing.clone(), false),
            (
                "ArnLike",
                json!("arn:aws:sns:*:1:t"),
                with(&["arn:aws:sns:r:1:t"]),
                true,
            ),
            (
                "ArnEquals",
                json!("arn:aws:sns:*:1:t"),
                with(&["arn:aws:sns:r:1:t"]),
                true,
            ),
            (
                "ArnLike",
                json!("arn:aws:sns:*:t"),
                with(&["arn:aws:sns:r:1:t"]),
                false,
            ),
            (
                "ArnNotLike",
                json!("arn:aws:sns:r:1:*"),
                with(&["arn:aws:sns:r:1:t"]),
                false,
            ),
            (
                "ArnNotLike",
                json!("arn:aws:sns:r:1:*"),
                nothing.clone(),
                true,
            ),
            ("Null", json!("true"), nothing.clone(), true),
            ("Null", json!("true"), with(&["a"]), false),
            ("Null", json!("false"), nothing.clone(), false),
            ("Null", json!("false"), with(&["a"]), true),
            (
                "ForAllValues:StringEquals",
                json!(["a", "b"]),
                with(&["a", "b"]),
                true,
            ),
            (
                "ForAllValues:StringEquals",
                json!(["a", "b"]),
                with(&["a", "c"]),
                false,
            ),
            (
                "ForAllValues:StringEquals",
                json!("a"),
                nothing.clone(),
                true,
            ),
            (
                "ForAnyValue:StringEquals",
                json!("a"),
                with(&["a", "c"]),
                true,
            ),
            (
                "ForAnyValue:StringEquals",
                json!("a"),
                with(&["b", "c"]),
                false,
            ),
            (
                "ForAnyValue:StringEquals",
                json!("a"),
                nothing.clone(),
                false,
            ),
            (
                "ForAnyValue:StringLike",
                json!("a:*"),
                with(&["b", "a:c"]),
                true,
            ),
        ] {
            let condition = json!({ operator: { "k": value } });
            assert_eq!(
                holds(&condition, &context),
                expected,
                "{condition}: {context:?}"
            );
        }
    }

    #[test]
    fn every_operator_and_every_key_has_to_hold() {
        let condition = json!({
            "StringLike": { "k": "a*", "l": "b" },
            "StringNotLike": { "k": "*z" },
        });
        for (context, expected) in [
            (context(&[("k", &["ab"]), ("l", &["b"])]), true),
            (context(&[("k", &["az"]), ("l", &["b"])]), false),
            (context(&[("k", &["ab"]), ("l", &["c"])]), false),
            (context(&[("k", &["ab"])]), false),
        ] {
            assert_eq!(holds(&condition, &context), expected, "{context:?}");
        }
        assert!(holds(&Value::Null, &Context::new()));
    }

    /// "Condition key names are not case-sensitive", tag keys in them neither.
    #[test]
    fn keys_are_matched_without_regard_to_case() {
        let condition = json!({ "StringLike": { "aws:ResourceTag/backstop:opt-out": "all" } });
        for key in [
            "aws:ResourceTag/backstop:opt-out",
            "aws:ResourceTag/Backstop:Opt-Out",
            "AWS:resourcetag/BACKSTOP:OPT-OUT",
        ] {
            assert!(holds(&condition, &context(&[(key, &["all"])])), "{key}");
        }
        let blank = "aws:ResourceTag/backstop:opt-out ";
        assert!(!holds(&condition, &context(&[(blank, &["all"])])));
    }

    #[test]
    #[should_panic(expected = "without a set operator")]
    fn a_key_of_several_values_needs_a_set_operator() {
        let condition = json!({ "StringEquals": { "k": "a" } });
        let _ = holds(&condition, &context(&[("k", &["a", "b"])]));
    }

    #[test]
    fn a_deny_wins_and_what_nothing_allows_is_not_allowed() {
        let statement = |sid: &str, effect: &str, action: &str, resource: &str| Statement {
            sid: sid.to_owned(),
            effect: effect.to_owned(),
            actions: vec![action.to_owned()],
            resources: vec![json!(resource)],
            condition: Value::Null,
            principal: Value::Null,
        };
        let statements = [
            statement("All", "Allow", "EC2:*", "arn:aws:ec2:r:1:volume/*"),
            statement(
                "Not",
                "Deny",
                "ec2:DeleteVol???",
                "arn:aws:ec2:r:1:volume/vol-2",
            ),
            statement("Too", "Allow", "ec2:DeleteVolume", "*"),
        ];
        let judge = |action: &str, volume: &str| {
            let resource = format!("arn:aws:ec2:r:1:volume/{volume}");
            super::judge(
                &statements,
                &Request::new(action, &resource, &Context::new()),
            )
        };
        assert_eq!(judge("ec2:DeleteVolume", "vol-1"), Verdict::Allowed);
        assert_eq!(
            judge("ec2:DeleteVolume", "vol-2"),
            Verdict::Denied("Not".to_owned())
        );
        assert_eq!(judge("ec2:AttachVolume", "vol-2"), Verdict::Allowed);
        let elsewhere = Request::new(
            "ec2:AttachVolume",
            "arn:aws:ec2:r:2:volume/vol-1",
            &Context::new(),
        );
        assert_eq!(super::judge(&statements, &elsewhere), Verdict::NotAllowed);
    }

    /// Of the tags of a rule that is revoked, and of a volume that is copied, IAM
    /// knows nothing.
    #[test]
    fn the_context_holds_what_the_reference_lists_and_nothing_else() {
        let tags = context(&[
            ("aws:ResourceTag/backstop:opt-out", &["all"]),
            ("ec2:CreateAction", &["CreateSnapshot"]),
        ]);
        let keys = |action: &str, resource: &str| {
            let resource = format!("arn:aws:ec2:r:1:{resource}");
            let request = Request::new(action, &resource, &tags);
            request.context.into_keys().collect::<Vec<_>>()
        };
        let tag = "aws:ResourceTag/backstop:opt-out";
        let of_group = keys("ec2:RevokeSecurityGroupIngress", "security-group/sg-1");
        assert_eq!(of_group, [tag]);
        assert!(keys("ec2:CopyVolumes", "volume/vol-1").is_empty());
        assert_eq!(keys("ec2:StopInstances", "instance/i-1"), [tag]);
        assert_eq!(
            keys("ec2:CreateTags", "volume/vol-1"),
            [tag, "ec2:CreateAction"]
        );
        let revoked = kind_of(
            "ec2:RevokeSecurityGroupIngress",
            "arn:aws:ec2:r:1:security-group-rule/sgr-1",
        );
        assert_eq!(revoked, None);
    }
}
