//! DynamoDB's condition and update expressions, as far as the ledger writes
//! them. What is not understood is a panic: a test must not pass because a
//! condition was skipped.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::table::Item;

/// An expression over one item, with the names and values that it refers to.
struct Parser<'a> {
    text: &'a str,
    tokens: Vec<&'a str>,
    at: usize,
    request: &'a Value,
    item: Option<&'a Item>,
    used: BTreeSet<&'a str>,
}

/// Whether a request's condition holds for an item as it is.
pub(super) fn allows(request: &Value, item: Option<&Item>) -> bool {
    let Some(text) = request["ConditionExpression"].as_str() else {
        return true;
    };
    let mut parser = Parser::new(text, request, item);
    let holds = parser.either();
    assert_eq!(parser.peek(), "", "`{text}` goes on");
    parser.all_are_used(request["UpdateExpression"].as_str().unwrap_or_default());
    holds
}

/// Carries out a request's update on an item; the names of what it touched.
pub(super) fn update(request: &Value, item: &mut Item) -> Vec<String> {
    let text = request["UpdateExpression"].as_str().unwrap_or_default();
    // Every value is what it was before the update.
    let before = item.clone();
    let mut parser = Parser::new(text, request, Some(&before));
    let mut touched = Vec::new();
    let mut clause = "";
    while parser.peek() != "" {
        if matches!(parser.peek(), "SET" | "ADD" | "REMOVE") {
            clause = parser.next();
        }
        let name = parser.name();
        match clause {
            "REMOVE" => {
                item.remove(&name);
            }
            "SET" => {
                parser.expect("=");
                item.insert(name.clone(), parser.assigned());
            }
            "ADD" => {
                let more = parser.value();
                let sum = added(before.get(&name), &more);
                item.insert(name.clone(), sum);
            }
            _ => panic!("`{text}`: a clause begins with SET, ADD or REMOVE"),
        }
        touched.push(name);
        if parser.peek() == "," {
            parser.next();
        }
    }
    parser.all_are_used(request["ConditionExpression"].as_str().unwrap_or_default());
    touched
}

/// The partition's value, and the sort key's lower bound (exclusive), that a
/// query asks for: `partition = :a`, or `partition = :a AND sort > :b`.
pub(super) fn key_condition(request: &Value) -> (String, String, Option<(String, String)>) {
    let text = request["KeyConditionExpression"].as_str().unwrap();
    let mut parser = Parser::new(text, request, None);
    let partition = parser.name();
    parser.expect("=");
    let value = string(&parser.value());
    let mut after = None;
    if parser.peek() == "AND" {
        parser.next();
        let sort = parser.name();
        parser.expect(">");
        after = Some((sort, string(&parser.value())));
    }
    assert_eq!(parser.peek(), "", "`{text}` goes on");
    parser.all_are_used("");
    (partition, value, after)
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, request: &'a Value, item: Option<&'a Item>) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let word = rest
                .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':' | '#')))
                .unwrap_or(rest.len());
            let length = match word {
                0 if ["<=", ">=", "<>"].iter().any(|o| rest.starts_with(o)) => 2,
                0 => 1,
                length => length,
            };
            let (token, after) = rest.split_at(length);
            tokens.push(token);
            rest = after.trim_start();
        }
        Self {
            text,
            tokens,
            at: 0,
            request,
            item,
            used: BTreeSet::new(),
        }
    }

    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn expect(&mut self, wanted: &str) {
        let found = self.next();
        assert_eq!(found, wanted, "`{}`", self.text);
    }

    /// DynamoDB refuses a request that defines a value or a name which none of
    /// its expressions uses.
    fn all_are_used(&self, other: &str) {
        for of in ["ExpressionAttributeValues", "ExpressionAttributeNames"] {
            for defined in self.request[of].as_object().into_iter().flatten() {
                let (name, _) = defined;
                let elsewhere = Parser::new(other, self.request, None).tokens;
                assert!(
                    self.used.contains(name.as_str()) || elsewhere.contains(&name.as_str()),
                    "`{}`: {name} is defined and not used",
                    self.text
                );
            }
        }
    }

    // --- conditions

    fn either(&mut self) -> bool {
        let mut holds = self.both();
        while self.peek() == "OR" {
            self.next();
            holds |= self.both();
        }
        holds
    }

    fn both(&mut self) -> bool {
        let mut holds = self.one();
        while self.peek() == "AND" {
            self.next();
            holds &= self.one();
        }
        holds
    }

    fn one(&mut self) -> bool {
        match self.peek() {
            "NOT" => {
                self.next();
                !self.one()
            }
            "(" => {
                self.next();
                let holds = self.either();
                self.expect(")");
                holds
            }
            "attribute_exists" => self.there(),
            "attribute_not_exists" => !self.there(),
            "contains" => self.contains(),
            _ => self.compared(),
        }
    }

    fn there(&mut self) -> bool {
        self.next();
        self.expect("(");
        let name = self.name();
        self.expect(")");
        self.item.is_some_and(|item| item.contains_key(&name))
    }

    fn contains(&mut self) -> bool {
        self.next();
        self.expect("(");
        let name = self.name();
        self.expect(",");
        let value = self.value();
        self.expect(")");
        let Some(there) = self.item.and_then(|item| item.get(&name)) else {
            return false;
        };
        match (&there["SS"], &value["S"]) {
            (Value::Array(set), value @ Value::String(_)) => set.contains(value),
            other => panic!("`{}`: contains of {other:?}", self.text),
        }
    }

    fn compared(&mut self) -> bool {
        let name = self.name();
        let operator = self.next();
        let value = self.value();
        // An attribute that is not there compares with nothing.
        let Some(there) = self.item.and_then(|item| item.get(&name)) else {
            return false;
        };
        let order = ordered(there, &value);
        match operator {
            "=" => *there == value || order == Some(Ordering::Equal),
            "<>" => *there != value && order != Some(Ordering::Equal),
            "<" => order == Some(Ordering::Less),
            "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            ">" => order == Some(Ordering::Greater),
            ">=" => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            other => panic!("`{}`: the operator `{other}`", self.text),
        }
    }

    // --- operands

    /// The name of an attribute.
    fn name(&mut self) -> String {
        let token = self.next();
        let letter = token.chars().next();
        if letter == Some('#') {
            self.used.insert(token);
            let name = self.request["ExpressionAttributeNames"][token].as_str();
            return name
                .unwrap_or_else(|| panic!("`{}`: {token} is not defined", self.text))
                .to_owned();
        }
        assert!(
            letter.is_some_and(char::is_alphabetic),
            "`{}`: `{token}` is no name",
            self.text
        );
        token.to_owned()
    }

    /// A value that the request defines.
    fn value(&mut self) -> Value {
        let token = self.next();
        self.used.insert(token);
        let value = &self.request["ExpressionAttributeValues"][token];
        assert!(!value.is_null(), "`{}`: {token} is not defined", self.text);
        value.clone()
    }

    /// What follows the equals sign of a SET.
    fn assigned(&mut self) -> Value {
        if self.peek() != "if_not_exists" {
            return self.value();
        }
        self.next();
        self.expect("(");
        let name = self.name();
        self.expect(",");
        let value = self.value();
        self.expect(")");
        let there = self.item.and_then(|item| item.get(&name));
        there.cloned().unwrap_or(value)
    }
}

fn number(value: &Value) -> Option<f64> {
    value["N"].as_str()?.parse().ok()
}

/// How two values of the same type compare; none: of other types, or of one that
/// has no order.
fn ordered(a: &Value, b: &Value) -> Option<Ordering> {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        _ => Some(a["S"].as_str()?.cmp(b["S"].as_str()?)),
    }
}

/// A number or a set with more of it.
fn added(there: Option<&Value>, more: &Value) -> Value {
    if let Some(more) = more["SS"].as_array() {
        let there = there.and_then(|there| there["SS"].as_array());
        let all: BTreeSet<&str> = there
            .into_iter()
            .flatten()
            .chain(more)
            .filter_map(Value::as_str)
            .collect();
        return json!({ "SS": all });
    }
    let whole = |value: &Value| -> i64 { value["N"].as_str().unwrap().parse().unwrap() };
    let sum = there.map_or(0, whole) + whole(more);
    json!({ "N": sum.to_string() })
}

pub(super) fn string(value: &Value) -> String {
    value["S"].as_str().unwrap().to_owned()
}
