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

use crate::info::{Call, ControlInfo, Expands};
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

use event::{actor, broken, envelope, is_id, needed, succeeded, text, texts};

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
    /// security groups that name it; a setting of the account, by its Region.
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
/// asked for, one of its calls, or a change of another kind of resource, or of a setting
/// of the account, that concerns several of its resources (`expands`).
///
/// # Errors
/// An event that ought to name a resource and does not.
pub fn of(
    info: &ControlInfo,
    expands: Option<Expands>,
    payload: &Value,
) -> Result<Parsed, BrokenEvent> {
    let event = envelope(payload)?;
    let account = needed(event.account.as_deref(), "account")?;
    let region = needed(event.region.as_deref(), "region")?;
    let trigger = |resource: String, actor: &Actor| Trigger {
        resource,
        account: account.clone(),
        region: region.clone(),
        actor: actor.clone(),
    };
    let kind = info.phrases.resource;
    match (event.source.as_str(), event.detail_type.as_str()) {
        (OWN_SOURCE, CHECK_REQUESTED) => {
            let request = CheckRequested::read(event.detail)?;
            if ControlId::from_name(&request.control) != Some(info.id) {
                return Ok(Parsed::Ignored(format!(
                    "`{}` is not `{}`",
                    quoted(&request.control),
                    info.id
                )));
            }
            let cause = request.cause.unwrap_or_default();
            let cause = cause.of_event(event.id, payload);
            let other = expands.filter(|other| other.on_request);
            let other = other.and_then(|other| other.prefix);
            let resource = match info.prefix {
                None => region.clone(),
                Some(_) if other.is_some_and(|prefix| is_id(&request.resource, prefix)) => {
                    return Ok(Parsed::Expand(trigger(request.resource, &cause)));
                }
                Some(prefix) => id_of(kind, prefix, "`detail.resource`", request.resource)?,
            };
            Ok(Parsed::Check(trigger(resource, &cause)))
        }
        ("aws.ec2", CLOUDTRAIL_CALL) => {
            let detail = &event.detail;
            let others = expands.map_or(&[][..], |other| other.calls);
            let calls = info.calls.iter().chain(others).map(|call| call.name);
            let calls: Vec<&str> = calls.collect();
            let name = match succeeded(detail, &calls, "is none that this control looks at")? {
                Ok(name) => name,
                Err(why) => return Ok(Parsed::Ignored(why)),
            };
            let actor = actor(detail).of_event(event.id, payload);
            // Whose ids the call names, and what a person looks at where it names none.
            let named = |kind: &str, prefix, calls: &[Call], by_hand: String| {
                let Some(prefix) = prefix else {
                    return Ok(vec![region.clone()]);
                };
                let paths = calls.iter().find(|call| call.name == name);
                let paths = paths.map_or(&[][..], |call| call.resource);
                let fields: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
                let field = format!("`detail.{}`", fields.join("`, `detail."));
                let mut ids = paths.iter().map(|path| texts(detail, path));
                let Some(ids) = ids.find(|ids| !ids.is_empty()) else {
                    if let Some(name) = paths.iter().find_map(|path| name_beside(detail, path)) {
                        return broken(format!(
                            "{field} is missing, and the event names its {kind} by the name `{}` alone, which is not looked up: check it by hand (`backstop plan {prefix}…`)",
                            quoted(&name)
                        ));
                    }
                    return broken(format!(
                        "{field} is missing, so the event names no {kind}: check by hand {by_hand}"
                    ));
                };
                let ids = ids.into_iter();
                ids.map(|id| id_of(kind, prefix, &field, id)).collect()
            };
            if let Some(other) = expands
                && other.calls.iter().any(|call| call.name == name)
            {
                let by_hand = format!("every {kind} that it concerns");
                let ids = named(other.resource, other.prefix, other.calls, by_hand)?;
                // No call changes two of them.
                let id = ids.into_iter().next().unwrap_or_default();
                return Ok(Parsed::Expand(trigger(id, &actor)));
            }
            let by_hand = format!("the {kind} that was changed");
            let ids = named(kind, info.prefix, info.calls, by_hand)?;
            let mut triggers: Vec<Trigger> =
                ids.into_iter().map(|id| trigger(id, &actor)).collect();
            Ok(match (triggers.pop(), triggers.is_empty()) {
                (Some(only), true) => Parsed::Check(only),
                (last, _) => {
                    triggers.extend(last);
                    Parsed::CheckEach(triggers)
                }
            })
        }
        (source, detail_type) => Ok(Parsed::Ignored(foreign(source, detail_type))),
    }
}

/// The name that an old event gives in place of an id: `groupName` for `groupId`.
fn name_beside(detail: &Value, id: &[&str]) -> Option<String> {
    let (last, of) = id.split_last()?;
    let name = format!("{}Name", last.strip_suffix("Id")?);
    text(detail, &[of, &[name.as_str()]].concat())
}

/// The id that a field of an event holds, if it is one of this kind of resource.
fn id_of(kind: &str, prefix: &str, field: &str, id: String) -> Result<String, BrokenEvent> {
    if is_id(&id, prefix) {
        return Ok(id);
    }
    let a = match kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    };
    broken(format!(
        "{field} is `{}`, which is not the id of {a} {kind} (`{prefix}…`)",
        quoted(&id)
    ))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::Control as _;
    use crate::controls::open_ingress::OpenIngress;

    fn event(source: &str, detail_type: &str, detail: &Value) -> Value {
        json!({
            "id": "66a7a279-5f92-471c-ad3e-c92da0950992", "source": source,
            "detail-type": detail_type, "account": "111122223333", "region": "eu-central-1",
            "time": "2026-11-19T09:40:12Z", "detail": detail,
        })
    }

    fn refused(event: &Value) -> String {
        OpenIngress::parse(event)
            .expect_err("it is refused")
            .to_string()
    }

    #[test]
    fn a_group_that_is_known_by_its_name_alone_is_told_by_it() {
        let call = "AuthorizeSecurityGroupIngress";
        for request in [
            json!({ "groupName": "web" }),
            json!({ "groupName": "web", "groupId": "" }),
            json!({ "AuthorizeSecurityGroupIngressRequest": { "GroupName": "web" } }),
        ] {
            let detail = json!({ "eventName": call, "requestParameters": request });
            let said = refused(&event("aws.ec2", CLOUDTRAIL_CALL, &detail));
            for part in ["`web`", "`backstop plan sg-…`"] {
                assert!(said.contains(part), "{request}: {said}");
            }
        }
        let detail = json!({ "eventName": call, "requestParameters": { "groupName": "" } });
        let said = refused(&event("aws.ec2", CLOUDTRAIL_CALL, &detail));
        assert!(said.contains("names no security group"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_quoted_by_its_beginning() {
        let long = "ü".repeat(5_000);
        let request = |field: &str| {
            let mut detail = json!({ "control": "open-ingress", "resource": "sg-1" });
            detail[field] = json!(long);
            event(OWN_SOURCE, CHECK_REQUESTED, &detail)
        };
        let call = |call: &str, request: &Value| {
            let detail = json!({ "eventName": call, "requestParameters": request });
            event("aws.ec2", CLOUDTRAIL_CALL, &detail)
        };
        let mut other = request("resource");
        other["source"] = json!(long);
        for event in [
            request("control"),
            request("resource"),
            other,
            call("AuthorizeSecurityGroupIngress", &json!({ "groupId": long })),
            call(
                "AuthorizeSecurityGroupIngress",
                &json!({ "groupName": long }),
            ),
            call("ModifyManagedPrefixList", &json!({ "prefixListId": long })),
            call(&long, &json!({})),
        ] {
            let said = match OpenIngress::parse(&event) {
                Ok(Parsed::Ignored(reason)) => reason,
                Ok(other) => panic!("{other:?}"),
                Err(broken) => broken.to_string(),
            };
            let quoted = said.matches('ü').count();
            assert_eq!(quoted, 100, "{said}");
        }
    }
}
