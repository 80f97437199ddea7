//! What all events have in common: the envelope, who called, and how the values
//! of a request are read in any of their spellings.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::json;
use crate::prose::quoted;
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
    let (detail_type, source) = (quoted(detail_type), quoted(source));
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
    #[serde(default, deserialize_with = "cause")]
    pub cause: Option<Actor>,
}

/// Nothing is decided by a cause: of its fields those are read that are texts.
fn cause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Actor>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let field = |name| text(&value, &[name]);
    match &value {
        Value::Null => Ok(None),
        Value::Object(_) => Ok(Some(Actor {
            principal: field("principal"),
            account: field("account"),
            on_behalf_of: field("on_behalf_of"),
            user_agent: field("user_agent"),
            source_address: field("source_address"),
            invoked_by: field("invoked_by"),
            event_name: field("event_name"),
            event_time: field("event_time").and_then(|time| time.parse().ok()),
            event_id: field("event_id"),
        })),
        other => Err(D::Error::custom(format!(
            "it is {}, not an object",
            kind(other)
        ))),
    }
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
        json::read(detail).map_err(|problem| {
            BrokenEvent(format!(
                "`detail` of a `{CHECK_REQUESTED}` event must hold `control` and `resource`: {problem}"
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

/// What is read of an event that EventBridge delivers. Its other fields are
/// nothing that is decided by, so that they may have any form.
pub(super) struct Envelope {
    pub(super) source: String,
    pub(super) detail_type: String,
    pub(super) account: Option<String>,
    pub(super) region: Option<String>,
    pub(super) id: Option<String>,
    /// An object, or null.
    pub(super) detail: Value,
}

pub(super) fn envelope(payload: &Value) -> Result<Envelope, BrokenEvent> {
    let no_event = |problem: &str| {
        broken(format!(
            "the payload is not an EventBridge event: {problem}. To have a resource checked, send a `{CHECK_REQUESTED}` event (its `source` is `{OWN_SOURCE}`, its `detail` holds `control` and `resource`); `backstop plan sg-…` shows what would be done about one"
        ))
    };
    if !payload.is_object() {
        return no_event(&format!("it is {}, not an object", kind(payload)));
    }
    let Some(source) = text(payload, &["source"]) else {
        return no_event("`source` is missing");
    };
    let Some(detail_type) = text(payload, &["detail-type"]) else {
        return no_event("`detail-type` is missing");
    };
    let detail = match payload.get("detail") {
        None => return no_event("`detail` is missing"),
        Some(detail) if detail.is_object() || detail.is_null() => detail.clone(),
        Some(other) => {
            return no_event(&format!("`detail` is {}, not an object", kind(other)));
        }
    };
    Ok(Envelope {
        source,
        detail_type,
        account: text(payload, &["account"]),
        region: text(payload, &["region"]),
        id: text(payload, &["id"]),
        detail,
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
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
        return Ok(Err(format!("the call `{}` {others}", quoted(&call))));
    }
    Ok(match text(detail, &["errorCode"]) {
        Some(code) => Err(format!("the call `{call}` failed with {}", quoted(&code))),
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
    let of = |path: &[&str]| text(identity, path);
    let invoked_by = of(&["invokedBy"]);
    let on_behalf_of = of(&["onBehalfOf", "userId"]);
    let arn = of(&["arn"]).or_else(|| of(&["sessionContext", "sessionIssuer", "arn"]));
    // Callers of other accounts have an id and no ARN, Identity Center users neither.
    let id = || of(&["principalId"]).or_else(|| of(&["userName"]));
    let has_arn = arn.is_some();
    let principal = arn.or_else(id);
    let is_service = principal.is_none() && invoked_by.is_some();
    let account = of(&["accountId"]).filter(|_| !(has_arn || is_service || on_behalf_of.is_some()));
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

    fn check_requested() -> Value {
        json!({
            "version": "0",
            "id": "66a7a279-5f92-471c-ad3e-c92da0950992",
            "source": OWN_SOURCE,
            "detail-type": CHECK_REQUESTED,
            "account": "111122223333",
            "region": "eu-central-1",
            "time": "2026-11-19T09:40:12Z",
            "resources": [],
            "detail": { "control": "open-ingress", "resource": "sg-0123456789abcdef0" },
        })
    }

    #[test]
    fn what_nothing_is_decided_by_may_have_any_form() {
        let forms = [
            json!(null),
            json!(true),
            json!(1_700_000_000),
            json!(1.5),
            json!("yesterday"),
            json!(""),
            json!([]),
            json!([["2026-11-19T09:40:12Z"]]),
            json!({ "a": 1 }),
        ];
        for field in [
            "version",
            "id",
            "time",
            "resources",
            "replay-name",
            "ingestion-time",
        ] {
            for form in &forms {
                let mut event = check_requested();
                event[field] = form.clone();
                let read = envelope(&event).unwrap_or_else(|e| panic!("{field} {form}: {e}"));
                assert_eq!(read.account.as_deref(), Some("111122223333"));
                let actor = Actor::default().of_event(read.id, &event);
                let time = (field != "time").then(|| "2026-11-19T09:40:12Z".parse().unwrap());
                assert_eq!(
                    actor.event_time, time,
                    "{field} {form}: a missing time is one"
                );
            }
            let mut event = check_requested();
            event.as_object_mut().unwrap().remove(field);
            assert!(envelope(&event).is_ok(), "{field}");
        }
        for (field, form) in [("account", json!(111_122_223_333_u64)), ("id", json!(7))] {
            let mut event = check_requested();
            event[field] = form.clone();
            let read = envelope(&event).unwrap();
            let said = [read.account, read.id];
            assert!(said.contains(&Some(form.to_string())), "a number is a text");
        }
    }

    #[test]
    fn what_is_no_event_is_told_what_to_send_and_what_is_wrong_with_it() {
        let with = |field: &str, value: Value| {
            let mut event = check_requested();
            event[field] = value;
            event
        };
        let without = |field: &str| {
            let mut event = check_requested();
            event.as_object_mut().unwrap().remove(field);
            event
        };
        for (payload, problem) in [
            (json!([]), "it is a list, not an object"),
            (
                json!(["0", "id", "Check Requested", "backstop", "111122223333"]),
                "it is a list, not an object",
            ),
            (json!(null), "it is null, not an object"),
            (json!("sg-0123456789abcdef0"), "it is a text, not an object"),
            (json!({}), "`source` is missing"),
            (
                json!({ "groupId": "sg-0123456789abcdef0" }),
                "`source` is missing",
            ),
            (with("source", json!(["aws.ec2"])), "`source` is missing"),
            (without("detail-type"), "`detail-type` is missing"),
            (without("detail"), "`detail` is missing"),
            (
                with("detail", json!(["open-ingress", "sg-1"])),
                "`detail` is a list, not an object",
            ),
            (
                with("detail", json!("{}")),
                "`detail` is a text, not an object",
            ),
            (
                with("detail", json!(1)),
                "`detail` is a number, not an object",
            ),
        ] {
            let Err(broken) = envelope(&payload) else {
                panic!("{payload} is read");
            };
            let said = broken.to_string();
            for part in [problem, CHECK_REQUESTED, "`backstop plan sg-…`"] {
                assert!(said.contains(part), "{payload}: {said}");
            }
            assert!(!said.contains("invoke"), "{said}");
        }
    }

    #[test]
    fn of_a_check_that_is_requested_the_cause_alone_may_have_any_form() {
        let detail = |cause: Value| json!({ "control": "c", "resource": "r", "cause": cause });
        for (cause, expected) in [
            (json!(null), None),
            (json!({}), Some(Actor::default())),
            (
                json!({ "principal": "p", "event_time": "2026-11-19T09:40:12Z", "more": [] }),
                Some(Actor {
                    principal: Some("p".to_owned()),
                    event_time: "2026-11-19T09:40:12Z".parse().ok(),
                    ..Actor::default()
                }),
            ),
            (
                json!({ "principal": ["p"], "user_agent": {}, "event_time": "yesterday" }),
                Some(Actor::default()),
            ),
        ] {
            let read = CheckRequested::read(detail(cause.clone())).unwrap();
            assert_eq!(read.cause, expected, "{cause}");
        }
        for (detail, path) in [
            (json!(["open-ingress", "sg-0123456789abcdef0"]), "an object"),
            (
                detail(json!(["arn:aws:iam::111122223333:user/jo"])),
                "`cause`: it is a list, not an object",
            ),
            (
                json!({ "control": ["open-ingress"], "resource": "r" }),
                "`control`: ",
            ),
            (
                json!({ "control": "c", "resource": { "id": "r" } }),
                "`resource`: ",
            ),
        ] {
            let problem = CheckRequested::read(detail.clone()).unwrap_err();
            assert!(problem.to_string().contains(path), "{detail}: {problem}");
        }
    }

    #[test]
    fn a_cause_that_is_sent_is_read_as_it_was() {
        let text = |n: &str| Some(n.to_owned());
        let cause = Actor {
            principal: text("principal"),
            account: text("account"),
            on_behalf_of: text("user"),
            user_agent: text("agent"),
            source_address: text("address"),
            invoked_by: text("service"),
            event_name: text("name"),
            event_time: "2026-11-19T09:40:12.25Z".parse().ok(),
            event_id: text("id"),
        };
        let sent = CheckRequested::new(ControlId::OpenIngress, "sg-1", Some(cause));
        let detail = serde_json::to_value(&sent).unwrap();
        assert_eq!(CheckRequested::read(detail), Ok(sent));
    }

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
