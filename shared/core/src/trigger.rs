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

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::info::ControlInfo;
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

use event::{actor, broken, envelope, is_id, list, needed, succeeded, text, texts};

/// Detail type of the event that says an entry waits to be told.
pub const REMEDIATION_RECORDED: &str = "Remediation Recorded";

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Look at this resource.
    Check(Trigger),
    /// Look at each of these resources: one call made or changed several.
    CheckEach(Vec<Trigger>),
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
    let check = |field: &str, mut ids: Vec<String>, actor: Actor| {
        let kind = info.phrases.resource;
        match info.prefix {
            None => ids = vec![region.clone()],
            Some(_) if ids.is_empty() => {
                return broken(format!(
                    "{field} is missing, so the event names no {kind}: check by hand the {kind} that was changed"
                ));
            }
            Some(prefix) => {
                if let Some(id) = ids.iter().find(|id| !is_id(id, prefix)) {
                    return broken(format!(
                        "{field} is `{id}`, which is not the id of {} {kind} (`{prefix}…`)",
                        article(kind)
                    ));
                }
            }
        }
        let mut triggers: Vec<Trigger> = ids
            .into_iter()
            .map(|resource| Trigger {
                resource,
                account: account.clone(),
                region: region.clone(),
                actor: actor.clone(),
            })
            .collect();
        Ok(match (triggers.pop(), triggers.is_empty()) {
            (Some(only), true) => Parsed::Check(only),
            (last, _) => {
                triggers.extend(last);
                Parsed::CheckEach(triggers)
            }
        })
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
            check("`detail.resource`", vec![request.resource], cause)
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
            let ids = paths.iter().map(|path| texts(detail, path));
            let ids = ids.into_iter().find(|ids| !ids.is_empty());
            let field: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
            check(
                &format!("`detail.{}`", field.join("`, `detail.")),
                ids.unwrap_or_default(),
                actor,
            )
        }
        (source, detail_type) => Ok(Parsed::Ignored(foreign(source, detail_type))),
    }
}

/// `a snapshot`, `an image`.
fn article(kind: &str) -> &'static str {
    match kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    }
}

/// Reads an event for `revoke-ingress`. `calls`: those that can open a group.
///
/// # Errors
/// An event that ought to name a resource and does not.
pub fn ingress(calls: &[&str], payload: &Value) -> Result<Parsed, BrokenEvent> {
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
            match ControlId::from_name(&request.control) {
                Some(ControlId::OpenIngress) => {}
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
            let call = match succeeded(detail, calls, "opens no security group")? {
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
            "`detail.entry` is `{entry}`, which is not the id of a ledger entry (26 characters, a ULID)"
        )),
    }
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
