//! From an event to the resource to look at.
//!
//! An event is a hint: it names a resource and who touched it, and no verdict
//! is ever drawn from its other contents. CloudTrail writes requests in two
//! styles (camelCase with `{"items": […]}`, and wrapped as
//! `{"<Op>Request": {PascalCase}}`, where one element is an object and several
//! are an array), so everything is extracted leniently: unknown keys do not
//! matter, nothing is demanded that is not needed.
//!
//! Deliberately not here: `aws_lambda_events`. Its EventBridge envelope refuses an
//! event for a time or an id of another form, which nothing is decided by; its
//! CloudTrail types know no `errorCode` and reject one real record in five.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::info::{ControlInfo, Expands};
use crate::prose::quoted;
use crate::words::{Actor, ControlId};

mod event;
mod opt_out_tags;
mod patching;
mod queue;
mod volumes;

pub use event::{
    BrokenEvent, CHECK_REQUESTED, CLOUDTRAIL_CALL, CheckRequested, OWN_SOURCE, Trigger, entry_id,
    foreign,
};
pub use opt_out_tags::{MOST_RESOURCES, TAG_CALLS, TagChange, TagsParsed, opt_out_tags};
pub use patching::{
    COMMAND_NOTIFICATION, COMPLIANCE_CHANGE, Hint, INSPECTOR_FINDING, PatchingParsed, Says,
    patching,
};
pub use queue::{Queued, queued};
pub use volumes::{
    INSTANCE_NOTIFICATION, VOLUME_CALLS, VOLUME_NOTIFICATION, VolumesParsed, volumes,
};

use event::{actor, broken, envelope, is_id, list, needed, succeeded, text};

/// Detail type of the event that says an entry waits to be told.
pub const REMEDIATION_RECORDED: &str = "Remediation Recorded";

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Look at this resource.
    Check(Trigger),
    /// Look at every resource that this one concerns: a prefix list, and the
    /// security groups that name it.
    Expand(Trigger),
    /// Nothing to do, and why.
    Ignored(String),
}

/// The detail of a `Remediation Recorded` event. It carries the entry's id and
/// nothing else: whatever is told is read from the ledger, so that a forged
/// event can say nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemediationRecorded {
    /// The entry's id, a ULID.
    pub entry: String,
}

/// Reads an event for a control, by what is fixed about it: a check that somebody
/// asked for, or one of its calls.
///
/// # Errors
/// An event that ought to name a resource and does not.
pub fn of(info: &ControlInfo, payload: &Value) -> Result<Parsed, BrokenEvent> {
    let event = envelope(payload)?;
    let account = needed(event.account.as_deref(), "account")?;
    let region = needed(event.region.as_deref(), "region")?;
    let check = |field: &str, id: Option<String>, actor: Actor| {
        let resource = match (info.prefix, id) {
            (None, _) => region.clone(),
            (Some(prefix), Some(id)) if is_id(&id, prefix) => id,
            (Some(prefix), Some(id)) => {
                let kind = info.phrases.resource;
                return broken(format!(
                    "{field} is `{id}`, which is not the id of a {kind} (`{prefix}…`)"
                ));
            }
            (Some(_), None) => {
                let kind = info.phrases.resource;
                return broken(format!(
                    "{field} is missing, so the event names no {kind}: check by hand the {kind} that was changed"
                ));
            }
        };
        Ok(Parsed::Check(Trigger {
            resource,
            account: account.clone(),
            region: region.clone(),
            actor,
        }))
    };
    match (event.source.as_str(), event.detail_type.as_str()) {
        (OWN_SOURCE, CHECK_REQUESTED) => {
            let request = CheckRequested::read(event.detail)?;
            if ControlId::from_name(&request.control) != Some(info.id) {
                return Ok(Parsed::Ignored(format!(
                    "`{}` is not a control of this function",
                    request.control
                )));
            }
            let cause = request.cause.unwrap_or_default();
            let cause = cause.of_event(event.id, payload);
            check("`detail.resource`", Some(request.resource), cause)
        }
        ("aws.ec2", CLOUDTRAIL_CALL) => {
            let detail = &event.detail;
            let calls: Vec<&str> = info.calls.iter().map(|call| call.name).collect();
            let name = match succeeded(detail, &calls, "is none that this control looks at")? {
                Ok(name) => name,
                Err(why) => return Ok(Parsed::Ignored(why)),
            };
            let actor = actor(detail).of_event(event.id, payload);
            let paths = info.calls.iter().find(|call| call.name == name);
            let paths = paths.map_or(&[][..], |call| call.resource);
            let id = paths.iter().find_map(|path| text(detail, path));
            let field: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
            check(
                &format!("`detail.{}`", field.join("`, `detail.")),
                id,
                actor,
            )
        }
        (source, detail_type) => Ok(Parsed::Ignored(foreign(source, detail_type))),
    }
}

/// Reads an event for a control of security groups, by what is fixed about it and
/// the other kind of resource that concerns groups.
///
/// # Errors
/// An event that ought to name a resource and does not.
pub fn groups(
    info: &ControlInfo,
    expands: Option<Expands>,
    payload: &Value,
) -> Result<Parsed, BrokenEvent> {
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
            if ControlId::from_name(&request.control) != Some(info.id) {
                return Ok(Parsed::Ignored(format!(
                    "`{}` is not `{}`",
                    request.control, info.id
                )));
            }
            let cause = request.cause.unwrap_or_default();
            let cause = cause.of_event(event.id, payload);
            group_id("detail.resource", &request.resource)
                .map(|id| Parsed::Check(trigger(id, cause)))
        }
        ("aws.ec2", CLOUDTRAIL_CALL) => {
            let detail = &event.detail;
            let mut calls: Vec<&str> = info.calls.iter().map(|call| call.name).collect();
            calls.extend(expands.iter().flat_map(|other| other.calls));
            let call = match succeeded(detail, &calls, "is none that this control looks at")? {
                Ok(call) => call,
                Err(why) => return Ok(Parsed::Ignored(why)),
            };
            let actor = actor(detail).of_event(event.id, payload);
            let (request, response) = (&detail["requestParameters"], &detail["responseElements"]);
            let wrapped = (format!("{call}Request"), format!("{call}Response"));
            if let Some(other) = expands.filter(|other| other.calls.contains(&call.as_str())) {
                // A VPC's id is given by the call that makes it.
                let found = text(request, &[&wrapped.0, "PrefixListId"])
                    .or_else(|| text(request, &["prefixListId"]))
                    .or_else(|| text(response, &[&wrapped.1, "prefixList", "prefixListId"]))
                    .or_else(|| text(response, &["prefixList", "prefixListId"]))
                    .or_else(|| text(response, &[&wrapped.1, "vpc", "vpcId"]))
                    .or_else(|| text(response, &["vpc", "vpcId"]));
                let Expands {
                    resource, prefix, ..
                } = other;
                let Some(id) = found else {
                    return broken(format!(
                        "the `{call}` event names no {resource}: neither `detail.requestParameters` nor `detail.responseElements` holds its id; check by hand the groups that it concerns"
                    ));
                };
                if !is_id(&id, prefix) {
                    return broken(format!(
                        "the `{call}` event names `{id}`, which is not the id of a {resource} (`{prefix}…`)"
                    ));
                }
                return Ok(Parsed::Expand(trigger(id, actor)));
            }
            let found = text(request, &["groupId"])
                .or_else(|| text(request, &[&wrapped.0, "GroupId"]))
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
        (source, detail_type) => Ok(Parsed::Ignored(foreign(source, detail_type))),
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
        return Ok(Err(foreign(&event.source, &event.detail_type)));
    }
    let Some(entry) = text(&event.detail, &["entry"]) else {
        return broken("`detail.entry` is missing: it must hold the id of a ledger entry");
    };
    match entry_id(&entry) {
        Some(id) => Ok(Ok(id)),
        None => broken(format!(
            "`detail.entry` is `{}`, which is not the id of a ledger entry (26 characters, a ULID)",
            quoted(&entry)
        )),
    }
}

fn group_id(field: &str, id: &str) -> Result<String, BrokenEvent> {
    if is_id(id, "sg-") {
        Ok(id.to_owned())
    } else {
        broken(format!(
            "{field} is `{}`, which is not the id of a security group (`sg-…`)",
            quoted(id)
        ))
    }
}
