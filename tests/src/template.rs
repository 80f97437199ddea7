//! The deployed template as data.
//!
//! `template.yaml` is read once and turned into JSON with CloudFormation's
//! short tags in their long form (`!Ref X` is `{"Ref": "X"}`, `!GetAtt A.B` is
//! `{"Fn::GetAtt": ["A", "B"]}`), so that a check says what it expects with
//! `serde_json::json!`. Nothing is resolved: what a value becomes when deployed
//! is shown by the end-to-end tests.
//!
//! Like all of this crate it fails by panicking; there is nobody to hand an
//! error to.
#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// One rule of the template and where it leads.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Logical id of the rule, as SAM makes it: function and event put together.
    pub logical_id: String,
    /// Logical id of the function that it invokes, or that takes its events
    /// from the queue.
    pub function: String,
    /// Logical id of the queue that is its target.
    pub queue: Option<String>,
    /// The event pattern, with `{"Ref": "AWS::AccountId"}` where the account stands.
    pub pattern: Value,
    /// All of the event's properties.
    pub properties: Value,
}

/// One statement of a policy, with single values turned into lists.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The statement's name; every statement of the template has one.
    pub sid: String,
    /// `Allow` or `Deny`.
    pub effect: String,
    /// `service:Action`.
    pub actions: Vec<String>,
    /// ARNs, mostly as `{"Fn::Sub": …}` or `{"Fn::GetAtt": …}`.
    pub resources: Vec<Value>,
    /// The condition block, null without one.
    pub condition: Value,
    /// The principal of a resource's policy, null in a role's.
    pub principal: Value,
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The text of a file, by its path from the root of the repository.
#[must_use]
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("cannot read `{path}`: {error}"))
}

/// The whole template.
#[must_use]
pub fn template() -> &'static Value {
    static TEMPLATE: LazyLock<Value> = LazyLock::new(|| {
        let text = read("template.yaml");
        let documents = Yaml::load_from_str(&text).expect("template.yaml is YAML");
        to_json(documents.first().expect("template.yaml has a document"))
    });
    &TEMPLATE
}

/// All resources of one type by logical id, as written (Globals not applied).
#[must_use]
pub fn resources(kind: &str) -> BTreeMap<String, Value> {
    entries(&template()["Resources"])
        .filter(|(_, resource)| resource["Type"] == kind)
        .map(|(id, resource)| (id.clone(), resource.clone()))
        .collect()
}

/// One resource, which has to be there.
#[must_use]
pub fn resource(logical_id: &str) -> &'static Value {
    template()["Resources"]
        .get(logical_id)
        .unwrap_or_else(|| panic!("the template has no resource `{logical_id}`"))
}

/// All functions by logical id, with the Globals applied to their properties
/// the way SAM does it: maps are merged, lists appended, the rest replaced.
#[must_use]
pub fn functions() -> BTreeMap<String, Value> {
    let mut functions = resources("AWS::Serverless::Function");
    for function in functions.values_mut() {
        let mut properties = template()["Globals"]["Function"].clone();
        overlay(&mut properties, &function["Properties"]);
        function["Properties"] = properties;
    }
    functions
}

/// All rules of all functions: those that SAM makes of their events, and those
/// that lead to a queue which a function takes from.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (function, resource) in functions() {
        for (event, body) in entries(&resource["Properties"]["Events"]) {
            if body["Type"] == "SQS" {
                continue;
            }
            // SAM makes a rule of a schedule, too: one without a pattern.
            assert!(
                ["EventBridgeRule", "Schedule"].contains(&text(&body["Type"])),
                "event `{event}` of `{function}` is of a kind these checks do not know"
            );
            rules.push(Rule {
                logical_id: format!("{function}{event}"),
                function: function.clone(),
                queue: None,
                pattern: body["Properties"]["Pattern"].clone(),
                properties: body["Properties"].clone(),
            });
        }
    }
    for (logical_id, rule) in resources("AWS::Events::Rule") {
        let properties = &rule["Properties"];
        for target in items(&properties["Targets"]) {
            let queue = text(&target["Arn"]["Fn::GetAtt"][0]).to_owned();
            let function = queue_mappings()
                .into_iter()
                .find(|(_, mapping)| mapping["Queue"] == target["Arn"])
                .unwrap_or_else(|| panic!("no function takes from `{queue}`"))
                .0;
            rules.push(Rule {
                logical_id: logical_id.clone(),
                function,
                queue: Some(queue),
                pattern: properties["EventPattern"].clone(),
                properties: target,
            });
        }
    }
    rules
}

/// Whether EventBridge would send an event by a pattern of the template, in a
/// stack of this account and Region. It knows what the template uses of
/// patterns, and fails on anything else.
#[must_use]
pub fn matches(pattern: &Value, event: &Value, (account, region): (&str, &str)) -> bool {
    let named = |reference: &str| match reference {
        "AWS::AccountId" => json!(account),
        "AWS::Region" => json!(region),
        other => panic!("`{other}` in a pattern is not modelled here"),
    };
    let is = |condition: &Value, found: Option<&Value>| {
        let Some((operator, operand)) = entries(condition).next() else {
            return found == Some(condition);
        };
        match operator.as_str() {
            "Ref" => found == Some(&named(text(operand))),
            "exists" => json!(found.is_some()) == *operand,
            "prefix" => found
                .and_then(Value::as_str)
                .is_some_and(|found| found.starts_with(text(operand))),
            "anything-but" => found.is_some_and(|found| !items(operand).contains(found)),
            other => panic!("operator `{other}` of a pattern is not modelled here"),
        }
    };
    entries(pattern).all(|(key, wanted)| {
        // A list in an event stands for each of its elements.
        let found = match event {
            Value::Array(events) => events.iter().filter_map(|event| event.get(key)).collect(),
            event => event.get(key).into_iter().collect::<Vec<_>>(),
        };
        match wanted {
            Value::Array(conditions) => {
                let found: Vec<Value> = found.into_iter().flat_map(items).collect();
                conditions.iter().any(|condition| {
                    if found.is_empty() {
                        is(condition, None)
                    } else {
                        found.iter().any(|found| is(condition, Some(found)))
                    }
                })
            }
            inner => {
                let nothing = Value::Null;
                let found = if found.is_empty() {
                    vec![&nothing]
                } else {
                    found
                };
                found
                    .into_iter()
                    .any(|found| matches(inner, found, (account, region)))
            }
        }
    })
}

/// How functions take from queues: function, and the event's properties.
#[must_use]
pub fn queue_mappings() -> Vec<(String, Value)> {
    let mut mappings = Vec::new();
    for (function, resource) in functions() {
        for (_, body) in entries(&resource["Properties"]["Events"]) {
            if body["Type"] == "SQS" {
                mappings.push((function.clone(), body["Properties"].clone()));
            }
        }
    }
    mappings
}

/// Logical id of the role of a function.
#[must_use]
pub fn role_of(function: &str) -> String {
    let functions = functions();
    let resource = functions
        .get(function)
        .unwrap_or_else(|| panic!("the template has no function `{function}`"));
    match &resource["Properties"]["Role"]["Fn::GetAtt"] {
        Value::Array(parts) if parts.get(1) == Some(&json!("Arn")) => text(&parts[0]).to_owned(),
        other => panic!("`{function}` does not name a role of the template but `{other}`"),
    }
}

/// The statements of a function's role, in the order in which they are written.
#[must_use]
pub fn role_statements(function: &str) -> Vec<Statement> {
    statements_of(&role_of(function))
}

/// The statements of a role, in the order in which they are written.
#[must_use]
pub fn statements_of(role: &str) -> Vec<Statement> {
    items(&resource(role)["Properties"]["Policies"])
        .iter()
        .flat_map(|policy| statements(&policy["PolicyDocument"]))
        .collect()
}

/// The actions that a function's role allows, as `service:Action`.
///
/// `logs:*` and `sqs:SendMessage` among them are used by Lambda itself (logs,
/// on-failure destination) and not by a call of ours.
#[must_use]
pub fn granted_actions(function: &str) -> BTreeSet<String> {
    role_statements(function)
        .into_iter()
        .filter(|statement| statement.effect == "Allow")
        .flat_map(|statement| statement.actions)
        .collect()
}

/// The actions that a policy document of the repository allows, by its path.
#[must_use]
pub fn actions_of(policy: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(&read(policy)).expect("a policy is JSON");
    let allowed = statements(&document).into_iter();
    allowed
        .filter(|statement| statement.effect == "Allow")
        .flat_map(|statement| statement.actions)
        .collect()
}

/// The statements of a policy document.
#[must_use]
pub fn statements(document: &Value) -> Vec<Statement> {
    items(&document["Statement"])
        .iter()
        .map(|statement| Statement {
            sid: text(&statement["Sid"]).to_owned(),
            effect: text(&statement["Effect"]).to_owned(),
            actions: items(&statement["Action"])
                .iter()
                .map(|action| text(action).to_owned())
                .collect(),
            resources: items(&statement["Resource"]),
            condition: statement["Condition"].clone(),
            principal: statement["Principal"].clone(),
        })
        .collect()
}

/// A list, or the one value that stands in its place; null is an empty list.
#[must_use]
pub fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.clone(),
        Value::Null => Vec::new(),
        single => vec![single.clone()],
    }
}

/// The members of an object; nothing for null.
pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A string, which it has to be.
#[must_use]
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("expected a string, found `{value}`"))
}

fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(over)) => base.extend(over.iter().cloned()),
        (base, over) => *base = over.clone(),
    }
}

fn to_json(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(value) => json!(value),
            Scalar::Integer(value) => json!(value),
            Scalar::FloatingPoint(value) => json!(value.into_inner()),
            Scalar::String(value) => json!(value),
        },
        Yaml::Sequence(values) => values.iter().map(to_json).collect(),
        Yaml::Mapping(members) => members
            .iter()
            .map(|(key, value)| (text(&to_json(key)).to_owned(), to_json(value)))
            .collect::<Map<_, _>>()
            .into(),
        Yaml::Tagged(tag, value) => {
            let value = to_json(value);
            match tag.suffix.as_str() {
                short @ ("Ref" | "Condition") => json!({ short: value }),
                "GetAtt" if value.is_string() => {
                    let (resource, attribute) = text(&value)
                        .split_once('.')
                        .unwrap_or_else(|| panic!("`!GetAtt {value}` names no attribute"));
                    json!({ "Fn::GetAtt": [resource, attribute] })
                }
                name => json!({ format!("Fn::{name}"): value }),
            }
        }
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => {
            panic!("template.yaml holds something CloudFormation does not know: {node:?}")
        }
    }
}
