//! What all events have in common: the envelope, who called, and how the values
//! of a request are read in any of their spellings.

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::words::{Actor, ControlId};

/// The `source` of Backstop's own events.
pub const OWN_SOURCE: &str = "backstop";
/// Detail type of the event that asks for a look at one resource.
pub const CHECK_REQUESTED: &str = "Check Requested";
/// Detail type of the API calls that CloudTrail hands to EventBridge.
pub const CLOUDTRAIL_CALL: &str = "AWS API Call via CloudTrail";

impl Actor {
    /// Where nothing is known of the call, what the event's envelope says.
    pub(super) fn of_event(mut self, id: Option<String>, payload: &Value) -> Self {
        self.event_id = self.event_id.or(id);
        self.event_time = self
            .event_time
            .or_else(|| text(payload, &["time"])?.parse().ok());
        self
    }
}

/// A resource to look at, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Id of the resource: a security group, a prefix list, a volume, an
    /// instance.
    pub resource: String,
    /// Account of the envelope.
    pub account: String,
    /// Region of the envelope.
    pub region: String,
    /// Who touched it.
    pub actor: Actor,
}

/// An event that cannot be used, with the field and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BrokenEvent(String);

/// Why a function ignores an event of a kind that is for others.
#[must_use]
pub fn foreign(source: &str, detail_type: &str) -> String {
    format!("`{detail_type}` of `{source}` is no event for this function")
}

pub(super) fn broken<T>(sentence: impl Into<String>) -> Result<T, BrokenEvent> {
    Err(BrokenEvent(sentence.into()))
}

/// The detail of a `Check Requested` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequested {
    /// The control to check, by name.
    pub control: String,
    /// Id of the resource.
    pub resource: String,
    /// What caused the request.
    #[serde(default)]
    pub cause: Option<Actor>,
}

impl CheckRequested {
    /// Asks for a look at a resource.
    #[must_use]
    pub fn new(control: ControlId, resource: impl Into<String>, cause: Option<Actor>) -> Self {
        Self {
            control: control.name().to_owned(),
            resource: resource.into(),
            cause,
        }
    }

    pub(super) fn read(detail: Value) -> Result<Self, BrokenEvent> {
        serde_json::from_value(detail).map_err(|e| {
            BrokenEvent(format!(
                "`detail` of a `{CHECK_REQUESTED}` event must hold `control` and `resource`: {e}"
            ))
        })
    }
}

/// The id of a ledger entry in its one spelling; `None`: it is none.
#[must_use]
pub fn entry_id(text: &str) -> Option<String> {
    // 26 characters hold two bits more than a ULID: a first character above 7
    // is no ULID, and the crate would read another one from it.
    let in_range = text.as_bytes().first().is_some_and(|b| *b <= b'7');
    let id = ulid::Ulid::from_string(text).ok()?;
    in_range.then(|| id.to_string())
}

pub(super) fn envelope(payload: &Value) -> Result<EventBridgeEvent<Value>, BrokenEvent> {
    serde_json::from_value(payload.clone()).map_err(|e| {
        BrokenEvent(format!("the payload is not an EventBridge event: {e}; invoke this function by its rules, or with a whole event"))
    })
}

/// The call that CloudTrail recorded, if it is one of `calls` and succeeded; else
/// why there is nothing to do (`others`: what other calls do not do).
pub(super) fn succeeded(
    detail: &Value,
    calls: &[&str],
    others: &str,
) -> Result<Result<String, String>, BrokenEvent> {
    let Some(call) = text(detail, &["eventName"]) else {
        return broken("`detail.eventName` is missing: CloudTrail always sends it");
    };
    if !calls.contains(&call.as_str()) {
        return Ok(Err(format!("the call `{call}` {others}")));
    }
    Ok(match text(detail, &["errorCode"]) {
        Some(code) => Err(format!("the call `{call}` failed with {code}")),
        None => Ok(call),
    })
}

pub(super) fn needed(value: Option<&str>, field: &str) -> Result<String, BrokenEvent> {
    match value {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => broken(format!(
            "`{field}` of the event is missing: EventBridge always sends it"
        )),
    }
}

/// The prefix and 8 (before 2018) or 17 lower-case hexadecimal digits.
pub(super) fn is_id(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix).is_some_and(|digits| {
        matches!(digits.len(), 8 | 17)
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The text at a path; numbers count as text, empty text as missing.
pub(super) fn text(value: &Value, path: &[&str]) -> Option<String> {
    let mut at = value;
    for key in path {
        at = at.get(key)?;
    }
    match at {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The texts at a path that may lead through lists, each once.
pub(super) fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    let Some((key, rest)) = path.split_first() else {
        return text(value, &[]).into_iter().collect();
    };
    let mut found = Vec::new();
    for of in list(value).into_iter().filter_map(|value| value.get(key)) {
        for text in texts(of, rest) {
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found
}

/// A list in any of its spellings: `{"items": […]}`, an array, one object.
pub(super) fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => match map.get("items") {
            Some(items) => list(items),
            None if map.is_empty() => Vec::new(),
            None => vec![value],
        },
        _ => Vec::new(),
    }
}

pub(super) fn actor(detail: &Value) -> Actor {
    let identity = &detail["userIdentity"];
    let invoked_by = text(identity, &["invokedBy"]);
    Actor {
        principal: text(identity, &["arn"])
            .or_else(|| text(identity, &["sessionContext", "sessionIssuer", "arn"]))
            .or_else(|| text(identity, &["principalId"])),
        user_agent: text(detail, &["userAgent"]),
        source_address: text(detail, &["sourceIPAddress"]),
        invoked_by,
        event_name: text(detail, &["eventName"]),
        event_time: text(detail, &["eventTime"]).and_then(|t| t.parse().ok()),
        event_id: text(detail, &["eventID"]),
    }
}
