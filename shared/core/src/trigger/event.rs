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
    let of = |path: &[&str]| text(identity, path);
    let invoked_by = of(&["invokedBy"]);
    let on_behalf_of = of(&["onBehalfOf", "userId"]);
    let arn = of(&["arn"]).or_else(|| of(&["sessionContext", "sessionIssuer", "arn"]));
    // Callers of other accounts have an id and no ARN, Identity Center users neither.
    let id = || of(&["principalId"]).or_else(|| of(&["userName"]));
    let (principal, account) = match arn.or_else(|| on_behalf_of.clone()) {
        Some(principal) => (Some(principal), None),
        None => match (id(), of(&["accountId"])) {
            (None, None) => (invoked_by.clone(), None),
            (None, Some(_)) if invoked_by.is_some() => (invoked_by.clone(), None),
            (id, account) => (id, account),
        },
    };
    Actor {
        principal,
        account,
        on_behalf_of,
        user_agent: text(detail, &["userAgent"]),
        source_address: text(detail, &["sourceIPAddress"]),
        invoked_by,
        event_name: text(detail, &["eventName"]),
        event_time: text(detail, &["eventTime"]).and_then(|t| t.parse().ok()),
        event_id: text(detail, &["eventID"]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The shapes of `userIdentity` in CloudTrail's reference.
    #[test]
    fn whoever_the_event_names_is_named() {
        let user = "d9672f91-a0b1-70c2-8f2f-1e5e0ba7a1b2";
        let store = "arn:aws:identitystore::111122223333:identitystore/d-9067642ac7";
        let behalf = json!({ "userId": user, "identityStoreArn": store });
        let role = "arn:aws:sts::111122223333:assumed-role/developer/alice";
        for (identity, caller) in [
            (
                json!({ "type": "AssumedRole", "arn": role, "accountId": "111122223333",
                    "principalId": "AROAEXAMPLE:alice" }),
                Some(role.to_owned()),
            ),
            (
                json!({ "type": "IdentityCenterUser", "accountId": "111122223333",
                    "onBehalfOf": behalf, "credentialId": "c" }),
                Some(format!("the Identity Center user {user}")),
            ),
            (
                json!({ "type": "AssumedRole", "arn": role, "onBehalfOf": behalf }),
                Some(format!(
                    "{role}, on behalf of the Identity Center user {user}"
                )),
            ),
            (
                json!({ "type": "AWSService", "invokedBy": "autoscaling.amazonaws.com" }),
                Some("autoscaling.amazonaws.com".to_owned()),
            ),
            (
                json!({ "accountId": "111122223333", "invokedBy": "ec2.amazonaws.com" }),
                Some("ec2.amazonaws.com".to_owned()),
            ),
            (
                json!({ "type": "AWSAccount", "principalId": "AIDAEXAMPLE",
                    "accountId": "444455556666" }),
                Some("AIDAEXAMPLE of the account 444455556666".to_owned()),
            ),
            (
                json!({ "type": "AWSAccount", "accountId": "444455556666" }),
                Some("a caller of the account 444455556666".to_owned()),
            ),
            (
                json!({ "type": "WebIdentityUser", "userName": "user-id",
                    "identityProvider": "accounts.google.com" }),
                Some("user-id".to_owned()),
            ),
            (json!({ "type": "Unknown", "principalId": "" }), None),
            (json!(null), None),
            (json!("?"), None),
        ] {
            let actor = actor(&json!({ "userIdentity": identity }));
            assert_eq!(actor.caller(), caller, "{identity}");
        }
    }
}
