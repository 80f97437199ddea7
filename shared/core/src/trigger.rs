//! From an event to the resource to look at.
//!
//! An event is a hint: it names a resource and who touched it, and no verdict
//! is ever drawn from its other contents. CloudTrail writes requests in two
//! styles (camelCase with `{"items": […]}`, and wrapped as
//! `{"<Op>Request": {PascalCase}}`, where one element is an object and several
//! are an array), so everything is extracted leniently: unknown keys do not
//! matter, nothing is demanded that is not needed.
//!
//! Deliberately not here: `aws_lambda_events`' own CloudTrail types. They know
//! no `errorCode` and reject one real record in five.

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::words::{Actor, Control};

mod opt_out_tags;
mod patching;
mod queue;
mod volumes;

pub use opt_out_tags::{MOST_RESOURCES, TAG_CALLS, TagChange, TagsParsed, opt_out_tags};
pub use patching::{
    COMMAND_NOTIFICATION, COMPLIANCE_CHANGE, Hint, INSPECTOR_FINDING, PatchingParsed, Says,
    patching,
};
pub use queue::{Queued, queued};
pub use volumes::{
    INSTANCE_NOTIFICATION, VOLUME_CALLS, VOLUME_NOTIFICATION, VolumesParsed, volumes,
};

/// The `source` of Backstop's own events.
pub const OWN_SOURCE: &str = "backstop";
/// Detail type of the event that asks for a look at one resource.
pub const CHECK_REQUESTED: &str = "Check Requested";
/// Detail type of the event that says an entry waits to be told.
pub const REMEDIATION_RECORDED: &str = "Remediation Recorded";
/// Detail type of the API calls that CloudTrail hands to EventBridge.
pub const CLOUDTRAIL_CALL: &str = "AWS API Call via CloudTrail";

/// The EC2 calls that can open a security group.
pub const INGRESS_CALLS: &[&str] = &[
    "AuthorizeSecurityGroupIngress",
    "ModifyManagedPrefixList",
    "ModifySecurityGroupRules",
    "RestoreManagedPrefixListVersion",
];

impl Actor {
    /// Where nothing is known of the call, what the event's envelope says.
    fn of_event(mut self, id: Option<String>, payload: &Value) -> Self {
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

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Look at this security group.
    Check(Trigger),
    /// Look at every security group that names this prefix list.
    Expand(Trigger),
    /// Nothing to do, and why.
    Ignored(String),
}

/// An event that cannot be used, with the field and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BrokenEvent(String);

fn broken<T>(sentence: impl Into<String>) -> Result<T, BrokenEvent> {
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
    pub fn new(control: Control, resource: impl Into<String>, cause: Option<Actor>) -> Self {
        Self {
            control: control.name().to_owned(),
            resource: resource.into(),
            cause,
        }
    }

    fn read(detail: Value) -> Result<Self, BrokenEvent> {
        serde_json::from_value(detail).map_err(|e| {
            BrokenEvent(format!(
                "`detail` of a `{CHECK_REQUESTED}` event must hold `control` and `resource`: {e}"
            ))
        })
    }
}

/// The detail of a `Remediation Recorded` event. It carries the entry's id and
/// nothing else: whatever is told is read from the ledger, so that a forged
/// event can say nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemediationRecorded {
    /// The entry's id, a ULID.
    pub entry: String,
}

/// Reads an event for `revoke-ingress`.
///
/// # Errors
/// An event that ought to name a resource and does not.
pub fn ingress(payload: &Value) -> Result<Parsed, BrokenEvent> {
    let event = envelope(payload)?;
    let account = needed(event.account.as_deref(), "account")?;
    let region = needed(event.region.as_deref(), "region")?;
    let trigger = |resource: String, actor: Actor| Trigger {
        resource,
        account: account.clone(),
        region: region.clone(),
        actor,
    };
    match (event.source.as_str(), event.detail_type.as_str()) {
        (OWN_SOURCE, CHECK_REQUESTED) => {
            let request = CheckRequested::read(event.detail)?;
            match Control::from_name(&request.control) {
                Some(Control::OpenIngress) => {}
                _ => {
                    return Ok(Parsed::Ignored(format!(
                        "`{}` is not a control of this function",
                        request.control
                    )));
                }
            }
            let cause = request.cause.unwrap_or_default();
            let cause = cause.of_event(event.id, payload);
            group_id("detail.resource", &request.resource)
                .map(|id| Parsed::Check(trigger(id, cause)))
        }
        ("aws.ec2", CLOUDTRAIL_CALL) => {
            let detail = &event.detail;
            let call = match succeeded(detail, INGRESS_CALLS, "opens no security group")? {
                Ok(call) => call,
                Err(why) => return Ok(Parsed::Ignored(why)),
            };
            let actor = actor(detail).of_event(event.id, payload);
            let (request, response) = (&detail["requestParameters"], &detail["responseElements"]);
            if call.ends_with("PrefixList") || call.ends_with("PrefixListVersion") {
                let found = text(request, &[&format!("{call}Request"), "PrefixListId"])
                    .or_else(|| text(request, &["prefixListId"]))
                    .or_else(|| {
                        text(
                            response,
                            &[&format!("{call}Response"), "prefixList", "prefixListId"],
                        )
                    })
                    .or_else(|| text(response, &["prefixList", "prefixListId"]));
                let Some(id) = found else {
                    return broken(format!(
                        "the `{call}` event names no prefix list: neither `detail.requestParameters` nor `detail.responseElements` holds its id; check the groups that name it by hand"
                    ));
                };
                if !is_id(&id, "pl-") {
                    return broken(format!(
                        "`detail.requestParameters` names `{id}`, which is not the id of a prefix list (`pl-…`)"
                    ));
                }
                return Ok(Parsed::Expand(trigger(id, actor)));
            }
            let found = text(request, &["groupId"])
                .or_else(|| text(request, &["ModifySecurityGroupRulesRequest", "GroupId"]))
                .or_else(|| {
                    list(&response["securityGroupRuleSet"])
                        .into_iter()
                        .find_map(|rule| text(rule, &["groupId"]))
                });
            let Some(id) = found else {
                return broken(format!(
                    "the `{call}` event names no security group: neither `detail.requestParameters` nor `detail.responseElements` holds its id; check by hand the group that was changed"
                ));
            };
            group_id("the event's group id", &id).map(|id| Parsed::Check(trigger(id, actor)))
        }
        (source, detail_type) => Ok(Parsed::Ignored(format!(
            "`{detail_type}` of `{source}` is no event for this function"
        ))),
    }
}

/// Reads an event for `notify`: the id of the entry to tell, or why there is
/// nothing to tell.
///
/// # Errors
/// An event of ours without a well-formed entry id.
pub fn recorded(payload: &Value) -> Result<Result<String, String>, BrokenEvent> {
    let event = envelope(payload)?;
    if (event.source.as_str(), event.detail_type.as_str()) != (OWN_SOURCE, REMEDIATION_RECORDED) {
        return Ok(Err(format!(
            "`{}` of `{}` is no event for this function",
            event.detail_type, event.source
        )));
    }
    let Some(entry) = text(&event.detail, &["entry"]) else {
        return broken("`detail.entry` is missing: it must hold the id of a ledger entry");
    };
    match entry_id(&entry) {
        Some(id) => Ok(Ok(id)),
        None => broken(format!(
            "`detail.entry` is `{entry}`, which is not the id of a ledger entry (26 characters, a ULID)"
        )),
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

fn envelope(payload: &Value) -> Result<EventBridgeEvent<Value>, BrokenEvent> {
    serde_json::from_value(payload.clone()).map_err(|e| {
        BrokenEvent(format!("the payload is not an EventBridge event: {e}; invoke this function by its rules, or with a whole event"))
    })
}

/// The call that CloudTrail recorded, if it is one of `calls` and succeeded; else
/// why there is nothing to do (`others`: what other calls do not do).
fn succeeded(
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

fn needed(value: Option<&str>, field: &str) -> Result<String, BrokenEvent> {
    match value {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => broken(format!(
            "`{field}` of the event is missing: EventBridge always sends it"
        )),
    }
}

/// The prefix and 8 (before 2018) or 17 lower-case hexadecimal digits.
fn is_id(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix).is_some_and(|digits| {
        matches!(digits.len(), 8 | 17)
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn group_id(field: &str, id: &str) -> Result<String, BrokenEvent> {
    if is_id(id, "sg-") {
        Ok(id.to_owned())
    } else {
        broken(format!(
            "{field} is `{id}`, which is not the id of a security group (`sg-…`)"
        ))
    }
}

/// The text at a path; numbers count as text, empty text as missing.
fn text(value: &Value, path: &[&str]) -> Option<String> {
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
fn list(value: &Value) -> Vec<&Value> {
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

fn actor(detail: &Value) -> Actor {
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
