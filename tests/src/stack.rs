//! The template as it is once deployed: the names, ARNs and environments that
//! its resources have in a stack of some name.
//!
//! What CloudFormation names itself has a name of at most 64 characters, for which
//! the stack's name is cut: so a name may not begin with the whole of it.
#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::local_aws::{ACCOUNT, REGION};
use crate::template::{Statement, entries, functions, items, resource, statements_of, text};

/// The properties that give a resource a name of its own, by type.
pub const OWN_NAMES: &[(&str, &str)] = &[
    ("AWS::CloudWatch::Alarm", "AlarmName"),
    ("AWS::CloudWatch::Dashboard", "DashboardName"),
    ("AWS::Logs::LogGroup", "LogGroupName"),
    ("AWS::SNS::Topic", "TopicName"),
    ("AWS::SSM::Parameter", "Name"),
    ("AWS::Serverless::StateMachine", "Name"),
];

/// Longest name that CloudFormation makes for a function, a role or a rule.
const LONGEST: usize = 64;

/// What CloudFormation ends the names with that it makes.
const SUFFIX: &str = "1A2B3C4D5E6F";

/// A stack of the template in an account and Region.
#[derive(Clone, Debug)]
pub struct Stack {
    stack: String,
}

impl Stack {
    /// The template deployed under a name.
    #[must_use]
    pub fn new(stack: &str) -> Self {
        Self {
            stack: stack.to_owned(),
        }
    }

    /// A value of the template with everything in it resolved.
    #[must_use]
    pub fn value(&self, value: &Value) -> Value {
        let Some(members) = value.as_object() else {
            return match value {
                Value::Array(values) => values.iter().map(|of| self.value(of)).collect(),
                other => other.clone(),
            };
        };
        let function = match (members.len(), members.iter().next()) {
            (1, Some((name, argument))) => (name.as_str(), argument),
            _ => ("", value),
        };
        match function {
            ("Ref", of) => json!(self.reference(text(of))),
            ("Fn::GetAtt", of) => json!(self.attribute(text(&of[0]), text(&of[1]))),
            ("Fn::Sub", Value::Array(of)) => json!(self.substituted(text(&of[0]), &of[1])),
            ("Fn::Sub", of) => json!(self.substituted(text(of), &Value::Null)),
            ("Fn::Split", of) => {
                let whole = self.text(&of[1]);
                whole.split(text(&of[0])).collect()
            }
            ("Fn::Select", of) => {
                let nth = of[0].as_u64().expect("an index");
                self.value(&of[1])[usize::try_from(nth).expect("an index")].clone()
            }
            (name, _) if name.starts_with("Fn::") => panic!("`{name}` is not modelled here"),
            _ => entries(value)
                .map(|(name, of)| (name.clone(), self.value(of)))
                .collect(),
        }
    }

    /// A value of the template that becomes a string.
    #[must_use]
    pub fn text(&self, value: &Value) -> String {
        text(&self.value(value)).to_owned()
    }

    /// The name of a resource.
    #[must_use]
    pub fn name(&self, logical_id: &str) -> String {
        let given = OWN_NAMES.iter().find_map(|(kind, property)| {
            let of = &crate::template::template()["Resources"][logical_id];
            (of["Type"] == *kind).then(|| self.text(&of["Properties"][property]))
        });
        given.unwrap_or_else(|| {
            let room = LONGEST - SUFFIX.len() - 2;
            let (mut stack, mut logical) = (self.stack.as_str(), logical_id);
            if stack.len() + logical.len() > room {
                logical = &logical[..logical.len().min(room / 2)];
                stack = &stack[..stack.len().min(room - logical.len())];
            }
            format!("{stack}-{logical}-{SUFFIX}")
        })
    }

    /// The ARN of a resource.
    #[must_use]
    pub fn arn(&self, logical_id: &str) -> String {
        let of = &crate::template::template()["Resources"][logical_id];
        let name = self.name(logical_id);
        let here =
            |service: &str, rest: String| format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{rest}");
        match of["Type"].as_str() {
            // SAM makes it of a function's event.
            None | Some("AWS::Events::Rule") => here("events", format!("rule/{name}")),
            Some("AWS::DynamoDB::Table") => here("dynamodb", format!("table/{name}")),
            Some("AWS::IAM::Role") => {
                let path = text(&of["Properties"]["Path"]);
                format!("arn:aws:iam::{ACCOUNT}:role{path}{name}")
            }
            Some("AWS::KMS::Key") => {
                here("kms", "key/1234abcd-12ab-34cd-56ef-1234567890ab".to_owned())
            }
            // With the stars of its streams, as CloudFormation gives it.
            Some("AWS::Logs::LogGroup") => here("logs", format!("log-group:{name}:*")),
            Some("AWS::SNS::Topic") => here("sns", name),
            Some("AWS::SQS::Queue") => here("sqs", name),
            Some("AWS::Serverless::Function") => here("lambda", format!("function:{name}")),
            Some("AWS::Serverless::StateMachine") => here("states", format!("stateMachine:{name}")),
            Some(other) => panic!("the ARN of a resource of the type {other} is not modelled here"),
        }
    }

    /// The URL of a queue.
    #[must_use]
    pub fn queue_url(&self, logical_id: &str) -> String {
        let name = self.name(logical_id);
        format!("https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}")
    }

    /// A function's environment.
    #[must_use]
    pub fn environment(&self, function: &str) -> BTreeMap<String, String> {
        let variables = &functions()[function]["Properties"]["Environment"]["Variables"];
        entries(variables)
            .map(|(name, value)| (name.clone(), self.text(value)))
            .collect()
    }

    /// The statements of a role, with ARNs and conditions as they are in IAM.
    #[must_use]
    pub fn statements(&self, role: &str) -> Vec<Statement> {
        self.resolved(statements_of(role))
    }

    /// Statements with everything in them resolved.
    #[must_use]
    pub fn resolved(&self, statements: Vec<Statement>) -> Vec<Statement> {
        let resolve = |of: Statement| Statement {
            resources: of.resources.iter().map(|of| self.value(of)).collect(),
            condition: self.value(&of.condition),
            principal: self.value(&of.principal),
            ..of
        };
        statements.into_iter().map(resolve).collect()
    }

    fn reference(&self, name: &str) -> String {
        match name {
            "AWS::AccountId" => return ACCOUNT.to_owned(),
            "AWS::Partition" => return "aws".to_owned(),
            "AWS::Region" => return REGION.to_owned(),
            "AWS::StackId" => {
                let stack = &self.stack;
                let id = "0a1b2c3d-4e5f-6a7b-8c9d-0e1f2a3b4c5d";
                return format!("arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{stack}/{id}");
            }
            "AWS::StackName" => return self.stack.clone(),
            "AWS::URLSuffix" => return "amazonaws.com".to_owned(),
            _ => {}
        }
        let template = crate::template::template();
        if let Some(parameter) = template["Parameters"].get(name) {
            let value = items(&parameter["Default"]);
            return match &value[..] {
                [Value::String(value)] => value.clone(),
                [value] => value.to_string(),
                _ => panic!("the parameter `{name}` has no default"),
            };
        }
        match template["Resources"][name]["Type"].as_str() {
            Some("AWS::SQS::Queue") => self.queue_url(name),
            Some("AWS::SNS::Topic" | "AWS::Serverless::StateMachine") => self.arn(name),
            _ => self.name(name),
        }
    }

    fn attribute(&self, logical_id: &str, attribute: &str) -> String {
        match attribute {
            "Arn" => self.arn(logical_id),
            "Name" | "QueueName" => {
                let _ = resource(logical_id);
                self.name(logical_id)
            }
            other => panic!("the attribute `{other}` of `{logical_id}` is not modelled here"),
        }
    }

    /// `Fn::Sub`: `${Name}`, `${Name.Attribute}`, `${!literally}`.
    fn substituted(&self, pattern: &str, own: &Value) -> String {
        let mut parts = pattern.split("${");
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').expect("`${` has a `}`");
            let value = match (name.strip_prefix('!'), own.get(name), name.split_once('.')) {
                (Some(literal), ..) => format!("${{{literal}}}"),
                (_, Some(own), _) => self.text(own),
                (.., Some((of, attribute))) => self.attribute(of, attribute),
                _ => self.reference(name),
            };
            whole += &value;
            whole += rest;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::rules;

    #[test]
    fn values_are_resolved_as_cloud_formation_does() {
        let stack = Stack::new("backstop");
        for (value, expected) in [
            (json!("as it is"), "as it is"),
            (json!({ "Ref": "AWS::Partition" }), "aws"),
            (json!({ "Ref": "OwnerTagKey" }), "owner"),
            (
                json!({ "Fn::Sub": "a-${AWS::StackName}-${!Literally}" }),
                "a-backstop-${Literally}",
            ),
            (
                json!({ "Fn::Sub": ["${X}-y", { "X": { "Fn::Select": [1, { "Fn::Split": ["-", "a-b"] }] } }] }),
                "b-y",
            ),
            (
                json!({ "Fn::GetAtt": ["LedgerTable", "Arn"] }),
                "arn:aws:dynamodb:us-east-1:123456789012:table/backstop-LedgerTable-1A2B3C4D5E6F",
            ),
            (
                json!({ "Ref": "NotificationTopic" }),
                "arn:aws:sns:us-east-1:123456789012:backstop-notifications",
            ),
            (
                json!({ "Ref": "PolicyParameter" }),
                "/backstop/backstop-0e1f2a3b4c5d/policy",
            ),
        ] {
            assert_eq!(stack.text(&value), expected, "{value}");
        }
    }

    #[test]
    fn names_that_cloud_formation_makes_are_cut() {
        let stack = Stack::new(&"a-stack-with-a-rather-long-name".repeat(3));
        for rule in rules() {
            let name = stack.name(&rule.logical_id);
            assert!(name.len() <= LONGEST, "{name}");
            assert!(!name.starts_with(&stack.stack), "{name}");
        }
    }
}
