//! Calls that set or remove the opt-out tag.
//!
//! The call says whose tags to look at; what they say now is read live. Both of
//! CloudTrail's styles are read.

use serde_json::Value;

use super::event::{
    BrokenEvent, CLOUDTRAIL_CALL, actor, broken, envelope, foreign, list, needed, succeeded, text,
};
use crate::exemption::{OPT_OUT_TAG, is_opt_out_key};
use crate::words::Actor;

/// The EC2 calls that set or remove tags.
pub const TAG_CALLS: &[&str] = &["CreateTags", "DeleteTags"];

/// Most resources of one call that are looked at. The call itself takes up to
/// 1,000; one that opts out more than this is a matter for the sweep.
pub const MOST_RESOURCES: usize = 200;

/// A call that set or removed the opt-out tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagChange {
    /// Ids of the resources, each once, in the order of the call.
    pub resources: Vec<String>,
    /// Account of the envelope.
    pub account: String,
    /// Region of the envelope.
    pub region: String,
    /// Who called.
    pub actor: Actor,
    /// The call named no tag: it removed them all, whether there was an opt-out
    /// among them or not.
    pub all: bool,
}

/// What such an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagsParsed {
    /// Read the tags of these resources.
    Changed(Box<TagChange>),
    /// Nothing to do, and why.
    Ignored(String),
}

/// Reads an event for `watch-opt-outs`.
///
/// # Errors
/// A call whose record does not say what was tagged, or that tagged more
/// resources than are looked at.
pub fn opt_out_tags(payload: &Value) -> Result<TagsParsed, BrokenEvent> {
    let event = envelope(payload)?;
    let ignored = |why: String| Ok(TagsParsed::Ignored(why));
    if (event.source.as_str(), event.detail_type.as_str()) != ("aws.ec2", CLOUDTRAIL_CALL) {
        return ignored(foreign(&event.source, &event.detail_type));
    }
    let account = needed(event.account.as_deref(), "account")?;
    let region = needed(event.region.as_deref(), "region")?;
    let detail = &event.detail;
    let call = match succeeded(detail, TAG_CALLS, "sets and removes no tag")? {
        Ok(call) => call,
        Err(why) => return ignored(why),
    };
    let parameters = &detail["requestParameters"];
    let request = parameters
        .get(format!("{call}Request"))
        .unwrap_or(parameters);
    let keys: Vec<String> = texts(request, &["tagSet", "Tag", "tag"], &["key", "Key"]);
    // `DeleteTags` without tags removes them all.
    let all = keys.is_empty() && call == "DeleteTags" && !is_omitted(parameters);
    if !all && !keys.is_empty() && !keys.iter().any(|key| is_opt_out_key(key)) {
        return ignored(format!("the call `{call}` does not name `{OPT_OUT_TAG}`"));
    }
    let mut resources = Vec::new();
    for id in texts(
        request,
        &["resourcesSet", "ResourceId", "resourceId"],
        &["resourceId", "ResourceId"],
    ) {
        if !resources.contains(&id) {
            resources.push(id);
        }
    }
    if resources.is_empty() || (keys.is_empty() && !all) {
        return broken(format!(
            "`detail.requestParameters` of `{call}` names no resource or no tag: CloudTrail leaves out what is larger than 100 KB; the next sweep reads every tag, or start one now with `backstop sweep`"
        ));
    }
    if resources.len() > MOST_RESOURCES {
        return broken(format!(
            "`detail.requestParameters` of `{call}` names {} resources, and at most {MOST_RESOURCES} are looked at: the next sweep reads every tag, or start one now with `backstop sweep`",
            resources.len()
        ));
    }
    Ok(TagsParsed::Changed(Box::new(TagChange {
        resources,
        account,
        region,
        actor: actor(detail).of_event(event.id, payload),
        all,
    })))
}

fn is_omitted(parameters: &Value) -> bool {
    parameters.get("omitted").is_some() || parameters.is_null() || parameters.as_str().is_some()
}

/// The texts of a list under any of these names: of plain texts, or of objects
/// that hold them under any of those fields.
fn texts(request: &Value, names: &[&str], fields: &[&str]) -> Vec<String> {
    let found = names.iter().find_map(|name| request.get(*name));
    let Some(found) = found else {
        return Vec::new();
    };
    if let Some(one) = text(found, &[]) {
        return vec![one];
    }
    list(found)
        .into_iter()
        .filter_map(|item| {
            let field = fields.iter().find_map(|field| text(item, &[field]));
            field
                .or_else(|| text(item, &["content"]))
                .or_else(|| text(item, &[]))
        })
        .collect()
}
