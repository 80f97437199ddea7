//! One DynamoDB table in memory: keys `pk` and `sk`, conditions, transactions,
//! indexes.
//!
//! `tests/tests/it/e2e/ledger.rs` plays the ledger against this and against the
//! emulator and compares what both answer and keep.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::expression::{allows, key_condition, string, update};
use crate::{Call, Reply};

/// An item, as DynamoDB writes it: `{"pk": {"S": "lock#…"}, …}`.
pub type Item = Map<String, Value>;

/// Most bytes of an item (DynamoDB's quota).
const MOST_BYTES: usize = 400 * 1024;

/// A global secondary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// The attribute that is its partition key. An item without it
    /// is not in the index.
    pub partition: String,
    /// The attribute that a partition is sorted by.
    pub sort: String,
    /// What it shows beside the keys.
    pub shows: Vec<String>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The items, by partition key: the ledger has one sort key for each kind, so
    /// that no two items share a partition.
    pub items: BTreeMap<String, Value>,
    indexes: Vec<Index>,
    /// Tokens of transactions that took effect; a repeated token has no further
    /// effect. (DynamoDB forgets tokens after ten minutes; the SDK makes a new one
    /// for each call.)
    tokens: BTreeMap<String, Value>,
}

impl Table {
    /// An empty table with these indexes.
    #[must_use]
    pub fn new(indexes: Vec<Index>) -> Self {
        Self {
            indexes,
            ..Self::default()
        }
    }

    /// The item of a key; panics where its sort key is another one.
    fn item(&self, pk: &str, of: &Value) -> Option<&Item> {
        let item = self.items.get(pk)?.as_object()?;
        let sk = item.get("sk");
        assert!(sk.is_none_or(|sk| *sk == of["sk"]), "{pk}: {}", of["sk"]);
        Some(item)
    }

    /// Answers a call to DynamoDB; none: it is another service's.
    pub fn answer(&mut self, call: &Call) -> Option<Reply> {
        let request = &call.json;
        Some(match call.operation.as_str() {
            "GetItem" => match self.item(&key(&request["Key"]), &request["Key"]) {
                Some(item) => ok(&json!({ "Item": item })),
                None => ok(&json!({})),
            },
            "BatchGetItem" => self.batch(request),
            "Query" => self.query(request),
            "Scan" => {
                let items: Vec<&Value> = self.items.values().collect();
                ok(&json!({ "Items": items, "Count": items.len() }))
            }
            "PutItem" => self.write("Put", request),
            "UpdateItem" => self.write("Update", request),
            "DeleteItem" => self.write("Delete", request),
            "TransactWriteItems" => self.transact(request),
            _ => return None,
        })
    }

    fn batch(&self, request: &Value) -> Reply {
        let tables = request["RequestItems"].as_object().unwrap();
        let (table, asked) = tables.iter().next().unwrap();
        let keys: Vec<String> = asked["Keys"].as_array().unwrap().iter().map(key).collect();
        if keys.len() > 100 {
            return invalid("Too many items requested for the BatchGetItem call");
        }
        if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
            return invalid("Provided list of item keys contains duplicates");
        }
        let found: Vec<&Value> = keys.iter().filter_map(|key| self.items.get(key)).collect();
        ok(&json!({ "Responses": { table: found }, "UnprocessedKeys": {} }))
    }

    fn query(&self, request: &Value) -> Reply {
        for part in [
            "FilterExpression",
            "Limit",
            "ScanIndexForward",
            "ExclusiveStartKey",
        ] {
            assert!(request.get(part).is_none(), "{part} is not modelled");
        }
        let name = request["IndexName"].as_str().unwrap();
        let index = self.indexes.iter().find(|index| index.name == name);
        let index = index.unwrap_or_else(|| panic!("the table has no index {name}"));
        let (partition, value, after) = key_condition(request);
        assert_eq!(partition, index.partition, "{name}");
        let mut found: Vec<(&str, &Item)> = self
            .items
            .values()
            .filter_map(Value::as_object)
            .filter(|item| {
                item.get(&partition)
                    .is_some_and(|of| of["S"] == value.as_str())
            })
            .filter_map(|item| Some((item.get(&index.sort)?["S"].as_str()?, item)))
            .collect();
        if let Some((sort, after)) = &after {
            assert_eq!(*sort, index.sort, "{name}");
            found.retain(|(of, _)| *of > after.as_str());
        }
        found.sort_by_key(|(of, _)| *of);
        let keys = ["pk", "sk", &index.partition, &index.sort];
        let shown = |name: &str| keys.contains(&name) || index.shows.iter().any(|s| s == name);
        let found: Vec<Item> = found
            .into_iter()
            .map(|(_, item)| {
                let of_index = item.iter().filter(|(name, _)| shown(name));
                of_index.map(|(k, v)| (k.clone(), v.clone())).collect()
            })
            .collect();
        ok(&json!({ "Items": found, "Count": found.len() }))
    }

    fn write(&mut self, kind: &str, request: &Value) -> Reply {
        let at = at(request);
        if !allows(request, self.item(&at, of(request))) {
            let mut refused = json!({
                "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                "message": "The conditional request failed",
            });
            if request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
                && let Some(item) = self.items.get(&at)
            {
                refused["Item"] = json!(item);
            }
            return Reply::Answer(400, refused.to_string());
        }
        match self.carry_out(kind, request, at) {
            Ok(touched) => ok(&match request["ReturnValues"].as_str() {
                Some("UPDATED_NEW") => json!({ "Attributes": touched }),
                None | Some("NONE") => json!({}),
                Some(other) => panic!("ReturnValues {other}"),
            }),
            Err(too_large) => too_large,
        }
    }

    fn transact(&mut self, request: &Value) -> Reply {
        let token = request["ClientRequestToken"].as_str().unwrap();
        match self.tokens.get(token) {
            None => {}
            Some(same) if same == request => return ok(&json!({})),
            Some(_) => return Reply::json_error("IdempotentParameterMismatchException", ""),
        }
        let parts: Vec<(&str, &Value, String)> = request["TransactItems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| {
                let (kind, part) = part.as_object().unwrap().iter().next().unwrap();
                (kind.as_str(), part, at(part))
            })
            .collect();
        let keys: BTreeSet<&String> = parts.iter().map(|(_, _, at)| at).collect();
        if keys.len() < parts.len() {
            return invalid("Transaction request cannot include multiple operations on one item");
        }
        let refused: Vec<Option<Value>> = parts
            .iter()
            .map(|(_, part, at)| {
                let there = self.item(at, of(part));
                if allows(part, there) {
                    return None;
                }
                let mut reason =
                    json!({ "Code": "ConditionalCheckFailed", "Message": "The conditional request failed" });
                if part["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
                    && let Some(item) = there
                {
                    reason["Item"] = json!(item);
                }
                Some(reason)
            })
            .collect();
        if refused.iter().any(Option::is_some) {
            let reasons: Vec<Value> = refused
                .into_iter()
                .map(|reason| reason.unwrap_or_else(|| json!({ "Code": "None" })))
                .collect();
            let body = json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "Message": "Transaction cancelled, please refer cancellation reasons for specific reasons",
                "CancellationReasons": reasons,
            });
            return Reply::Answer(400, body.to_string());
        }
        for (kind, part, at) in parts {
            let carried_out = self.carry_out(kind, part, at);
            carried_out.expect("no transaction of ours has an item that is too large");
        }
        self.tokens.insert(token.to_owned(), request.clone());
        ok(&json!({}))
    }

    /// Carries out one write whose condition holds: what an update touched, as it
    /// is now.
    fn carry_out(&mut self, kind: &str, request: &Value, at: String) -> Result<Item, Reply> {
        let mut touched = Item::new();
        let item = match kind {
            "Put" => request["Item"].as_object().unwrap().clone(),
            "Update" => {
                let there = self.item(&at, of(request)).cloned();
                let new = || request["Key"].as_object().unwrap().clone();
                let mut item = there.unwrap_or_else(new);
                for name in update(request, &mut item) {
                    touched.extend(item.get(&name).map(|value| (name.clone(), value.clone())));
                }
                item
            }
            "Delete" => {
                self.items.remove(&at);
                return Ok(touched);
            }
            other => panic!("a write of the kind {other}"),
        };
        let item = Value::from(item);
        if item.to_string().len() > MOST_BYTES {
            return Err(invalid("Item size has exceeded the maximum allowed size"));
        }
        self.items.insert(at, item);
        Ok(touched)
    }
}

/// The key that a write is about.
fn at(request: &Value) -> String {
    key(of(request))
}

/// What holds the key that a write is about.
fn of(request: &Value) -> &Value {
    request.get("Item").unwrap_or(&request["Key"])
}

fn key(of: &Value) -> String {
    string(&of["pk"])
}

fn ok(body: &Value) -> Reply {
    Reply::ok(body.to_string())
}

fn invalid(why: &str) -> Reply {
    Reply::json_error("com.amazon.coral.validate#ValidationException", why)
}
