//! What `encrypt-volume` is invoked with: events that name a volume or an
//! instance, and the steps of its own state machine.
//!
//! An EBS event holds the volume only as an ARN in `resources`, its names have
//! had a leading space, and its causes grow: nothing is decided by a cause, which
//! is for people.

use serde_json::Value;

use super::event::{
    BrokenEvent, CHECK_REQUESTED, CLOUDTRAIL_CALL, CheckRequested, OWN_SOURCE, Trigger, actor,
    broken, entry_id, envelope, foreign, is_id, list, needed, succeeded, text,
};
use crate::prose::quoted;
use crate::words::{Actor, ControlId, id_of};

/// The EC2 calls that make a volume.
pub const VOLUME_CALLS: &[&str] = &["CreateVolume"];

/// Detail type of EBS's own events about volumes.
pub const VOLUME_NOTIFICATION: &str = "EBS Volume Notification";
/// Detail type of EC2's own events about instances.
pub const INSTANCE_NOTIFICATION: &str = "EC2 Instance State-change Notification";

/// What `encrypt-volume` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumesParsed {
    /// Look at this volume or instance.
    Check(Box<Trigger>),
    /// Take the next step of a run.
    Advance {
        /// The run's ledger entry.
        entry: String,
        /// Why the state machine wants it to go back, if it does.
        go_back: Option<String>,
    },
    /// EBS could not make this volume, which is there no more: whoever waits for it
    /// has to know why.
    NotMade {
        /// The volume's id.
        volume: String,
        /// Why, as EBS says; may be empty.
        cause: String,
    },
    /// Nothing to do, and why.
    Ignored(String),
}

/// Reads what `encrypt-volume` is invoked with.
///
/// # Errors
/// An event that ought to name a resource and does not, a step without a
/// well-formed entry id.
pub fn volumes(payload: &Value) -> Result<VolumesParsed, BrokenEvent> {
    if payload.get("advance").is_some() {
        return advance(payload);
    }
    let event = envelope(payload)?;
    let account = needed(event.account.as_deref(), "account")?;
    let region = needed(event.region.as_deref(), "region")?;
    let trigger = |resource: String, actor: Actor| Trigger {
        resource,
        account: account.clone(),
        region: region.clone(),
        actor,
    };
    let ignored = |why: String| Ok(VolumesParsed::Ignored(why));
    let detail = &event.detail;
    match (event.source.as_str(), event.detail_type.as_str()) {
        (OWN_SOURCE, CHECK_REQUESTED) => {
            let request = CheckRequested::read(detail.clone())?;
            let cause = request
                .cause
                .unwrap_or_default()
                .of_event(event.id, payload);
            match ControlId::from_name(&request.control) {
                Some(ControlId::UnencryptedVolume) => unit_id("detail.resource", &request.resource)
                    .map(|id| VolumesParsed::Check(Box::new(trigger(id, cause)))),
                _ => ignored(format!(
                    "`{}` is not a control of this function",
                    quoted(&request.control)
                )),
            }
        }
        ("aws.ec2", CLOUDTRAIL_CALL) => {
            let call = match succeeded(detail, VOLUME_CALLS, "makes no volume")? {
                Ok(call) => call,
                Err(why) => return ignored(why),
            };
            let actor = actor(detail).of_event(event.id, payload);
            let Some(id) = text(&detail["responseElements"], &["volumeId"]) else {
                return broken(format!(
                    "the `{call}` event names no volume: `detail.responseElements.volumeId` is missing; check by hand the volume that was created"
                ));
            };
            unit_id("`detail.responseElements.volumeId`", &id)
                .map(|id| VolumesParsed::Check(Box::new(trigger(id, actor))))
        }
        ("aws.ec2", VOLUME_NOTIFICATION) => {
            let name = text(detail, &["event"]).unwrap_or_default();
            let result = text(detail, &["result"]).unwrap_or_default();
            if name.trim() != "createVolume" || !["available", "failed"].contains(&&*result) {
                return ignored(format!(
                    "`{}` ({}) makes no volume",
                    quoted(name.trim()),
                    quoted(&result)
                ));
            }
            // arn:aws:ec2:<Region>:<account>:volume/<id>
            let arns = list(&payload["resources"]).into_iter();
            let arn = arns.filter_map(|arn| text(arn, &[])).next();
            let arn = arn.or_else(|| text(payload, &["resources"]));
            let id = arn.as_deref().map(id_of).unwrap_or_default();
            let id = unit_id("`resources[0]`", id)?;
            if result == "failed" {
                let cause = text(detail, &["cause"]).unwrap_or_default();
                return Ok(VolumesParsed::NotMade { volume: id, cause });
            }
            let actor = Actor::default().of_event(event.id, payload);
            Ok(VolumesParsed::Check(Box::new(trigger(id, actor))))
        }
        ("aws.ec2", INSTANCE_NOTIFICATION) => {
            let state = text(detail, &["state"]).unwrap_or_default();
            if !["running", "stopped"].contains(&state.as_str()) {
                return ignored(format!(
                    "nothing is done while an instance is `{}`",
                    quoted(&state)
                ));
            }
            let id = text(detail, &["instance-id"]).unwrap_or_default();
            let actor = Actor::default().of_event(event.id, payload);
            unit_id("`detail.instance-id`", &id)
                .map(|id| VolumesParsed::Check(Box::new(trigger(id, actor))))
        }
        (source, detail_type) => ignored(foreign(source, detail_type)),
    }
}

fn advance(payload: &Value) -> Result<VolumesParsed, BrokenEvent> {
    let entry = text(payload, &["advance"]).unwrap_or_default();
    match entry_id(&entry) {
        Some(entry) => Ok(VolumesParsed::Advance {
            entry,
            go_back: text(payload, &["go_back"]),
        }),
        None => broken(format!(
            "`advance` is `{}`, which is not the id of a ledger entry (26 characters, a ULID)",
            quoted(&entry)
        )),
    }
}

fn unit_id(field: &str, id: &str) -> Result<String, BrokenEvent> {
    if is_id(id, "vol-") || is_id(id, "i-") {
        Ok(id.to_owned())
    } else {
        broken(format!(
            "{field} is `{}`, which is not the id of a volume (`vol-…`) or an instance (`i-…`)",
            quoted(id)
        ))
    }
}
