//! What Backstop would have looked at, from recorded calls.
//!
//! CloudTrail's record of a call is the `detail` of the event that EventBridge
//! sends of it. The events that EBS, EC2, Inspector and Systems Manager send of
//! their own, about volumes, instances and patches, are in no log file.
//! Deliberately not here: any call, and where a file's values begin and end
//! (`records`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backstop_core::json;
use backstop_core::message::quoted;
use backstop_core::trigger::{
    self, BrokenEvent, CLOUDTRAIL_CALL, Parsed, TAG_CALLS, TagsParsed, Trigger, VOLUME_CALLS,
    VolumesParsed,
};
use backstop_core::words::{Actor, ControlId};
use backstop_engine::AT_ONCE;
use serde::Serialize;
use serde_json::{Value, json};

use crate::records;

/// Most sentences about what could not be read that are kept: a file may hold any
/// number of broken records.
const MOST_UNREADABLE: usize = 100;

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Replayed {
    /// Files read that hold records.
    pub(crate) files: u64,
    /// Files that hold none: digests, and whatever else lies beside logs.
    pub(crate) skipped: u64,
    /// Records read.
    pub(crate) records: u64,
    /// Records that Backstop would have looked at, by control.
    pub(crate) looked_at: BTreeMap<ControlId, u64>,
    /// Calls that set or removed an opt-out, which it would have told.
    pub(crate) opt_outs: u64,
    /// All of these by who called.
    pub(crate) actors: BTreeMap<String, u64>,
    /// The same by call.
    pub(crate) calls: BTreeMap<String, u64>,
    /// The resources that would have been looked at.
    pub(crate) resources: BTreeMap<String, u64>,
    /// When the first and the last of them was called.
    pub(crate) first: Option<String>,
    /// See `first`.
    pub(crate) last: Option<String>,
    /// Calls of the kind that Backstop listens to, and why they would have been
    /// ignored.
    pub(crate) ignored: BTreeMap<String, u64>,
    /// What could not be read, a sentence each, at most [`MOST_UNREADABLE`].
    pub(crate) unreadable: Vec<String>,
    /// How much more could not be read.
    pub(crate) more_unreadable: u64,
    /// Files that another command is for, a sentence each.
    pub(crate) hints: Vec<String>,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Input {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Somebody named it, or it is named like a log: then something is wrong if it
    /// is none.
    pub(crate) is_log: bool,
}

/// What a value of a file is.
enum Form {
    /// A record of CloudTrail.
    Record(Value),
    /// An event of EventBridge about a call, and the record in it.
    Event(Value),
    /// An event of EventBridge about something else.
    OtherEvent(String),
    /// Something else.
    Other,
}

fn form(value: Value) -> Form {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    // As `lookup-events` answers, and what remains of it with `--query`.
    if let Some(inner) = text("CloudTrailEvent").or_else(|| value.as_str()) {
        return match json::value(inner.as_bytes()) {
            Ok(inner) if inner.is_object() => form(inner),
            _ => Form::Other,
        };
    }
    if let Some(kind) = text("detail-type") {
        return match value.get("detail").cloned() {
            Some(detail) if kind == CLOUDTRAIL_CALL => Form::Event(detail),
            _ => Form::OtherEvent(format!("`{}` is no call that is recorded", quoted(kind))),
        };
    }
    match text("eventSource").or_else(|| text("eventName")) {
        Some(_) => Form::Record(value),
        None => Form::Other,
    }
}

impl Replayed {
    /// The files among paths: files as they are, folders with all they hold.
    pub(crate) fn files(&mut self, paths: &[PathBuf]) -> Vec<Input> {
        let mut found = Vec::new();
        let mut left = Vec::new();
        for path in paths {
            match path.is_dir() {
                true => left.push(path.clone()),
                false => found.push(Input {
                    path: path.clone(),
                    is_log: true,
                }),
            }
        }
        while let Some(folder) = left.pop() {
            match std::fs::read_dir(&folder) {
                Ok(entries) => {
                    for entry in entries.flatten() {
                        let path = entry.path();
                        // A link to a folder could lead round in circles.
                        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                            left.push(path);
                        } else if path.is_file() {
                            let is_log = is_named_like_a_log(&path);
                            found.push(Input { path, is_log });
                        }
                    }
                }
                Err(error) => self.unreadable(format!("{}: {error}", folder.display())),
            }
        }
        found.sort();
        found
    }

    /// Replays what a file holds.
    pub(crate) fn file(&mut self, input: &Input) {
        let file = input.path.display();
        let (mut values, mut records, mut events, mut is_json) = (0_u64, 0_u64, 0_u64, true);
        // Told only if the file turns out to be one of records.
        let mut wrong = Replayed::default();
        let read = records::read(&input.path, &mut |value| {
            values += 1;
            let place = format!("{file}, record {values}");
            let value = value.ok_or("it is too large for a record of CloudTrail".to_owned());
            match value.and_then(json::value).map(form) {
                Ok(Form::Record(record)) => {
                    records += 1;
                    self.record(&place, record);
                }
                Ok(Form::Event(record)) => {
                    records += 1;
                    events += 1;
                    self.record(&place, record);
                }
                Ok(Form::OtherEvent(why)) => {
                    events += 1;
                    *self.ignored.entry(why).or_default() += 1;
                }
                Ok(Form::Other) => wrong.unreadable(format!("{place}: it is no record")),
                Err(problem) => {
                    is_json = false;
                    wrong.unreadable(format!("{place}: {problem}"));
                }
            }
        });
        if (values, events) == (1, 1) {
            self.hints.push(format!(
                "{file} is one event of EventBridge: `backstop plan {file}` shows what would be done about it"
            ));
        }
        let (list, problem) = match read {
            Ok(list) => (list, None),
            Err(problem) => (false, Some(problem)),
        };
        let is_empty = values == 0 && input.is_log;
        let has_records = records > 0 || list || is_empty || (events > 0 && values > 1);
        if has_records && (problem.is_none() || records > 0) {
            self.files += 1;
        } else if !input.is_log || (is_json && problem.is_none()) {
            self.skipped += 1;
            return;
        }
        for sentence in wrong.unreadable {
            self.unreadable(sentence);
        }
        self.more_unreadable += wrong.more_unreadable;
        if let Some(problem) = problem {
            self.unreadable(format!("{file}: {problem}"));
        }
    }

    fn unreadable(&mut self, sentence: String) {
        match self.unreadable.len() < MOST_UNREADABLE {
            true => self.unreadable.push(sentence),
            false => self.more_unreadable += 1,
        }
    }

    /// Replays one record. `place` names it in sentences.
    fn record(&mut self, place: &str, record: Value) {
        self.records += 1;
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(service) = text("eventSource").strip_suffix(".amazonaws.com") else {
            self.unreadable(format!(
                "{place}: `eventSource` is `{}`, not the name of a service",
                quoted(text("eventSource"))
            ));
            return;
        };
        if service != "ec2" {
            return;
        }
        let (call, time) = (text("eventName").to_owned(), text("eventTime").to_owned());
        let event = json!({
            "version": "0",
            "id": text("eventID"),
            "detail-type": CLOUDTRAIL_CALL,
            "source": format!("aws.{service}"),
            "account": text("recipientAccountId"),
            "region": text("awsRegion"),
            "time": time,
            "resources": [],
            "detail": record,
        });
        let time = Some(time).filter(|time| !time.is_empty());
        for read in looks(&call, &event) {
            match read {
                Ok(Ok(look)) => {
                    match look.control {
                        Some(control) => *self.looked_at.entry(control).or_default() += 1,
                        None => self.opt_outs += 1,
                    }
                    let actor = look.actor.caller().unwrap_or_else(|| "unknown".to_owned());
                    *self.actors.entry(actor).or_default() += 1;
                    *self.calls.entry(call.clone()).or_default() += 1;
                    for resource in look.resources {
                        *self.resources.entry(resource).or_default() += 1;
                    }
                    let first = [self.first.take(), time.clone()];
                    self.first = first.into_iter().flatten().min();
                    let last = [self.last.take(), time.clone()];
                    self.last = last.into_iter().flatten().max();
                }
                Ok(Err(reason)) => *self.ignored.entry(reason).or_default() += 1,
                Err(broken) => self.unreadable(format!("{place}: {broken}")),
            }
        }
    }
}

fn is_named_like_a_log(path: &Path) -> bool {
    let name = path.to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    [".json", ".jsonl", ".ndjson"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// What would be looked at.
struct Look {
    /// By which control; `None`: the tags of the resources, whose opt-out was set or
    /// removed.
    control: Option<ControlId>,
    resources: Vec<String>,
    actor: Actor,
}

/// What the controls that listen to a call would look at, or why at nothing, and
/// the opt-outs that it sets or removes.
fn looks(call: &str, event: &Value) -> Vec<Result<Result<Look, String>, BrokenEvent>> {
    let look = |control, trigger: Trigger| {
        Ok(Look {
            control: Some(control),
            resources: vec![trigger.resource],
            actor: trigger.actor,
        })
    };
    let at_once = AT_ONCE.iter().filter(|control| control.listens_to(call));
    let mut looks = Vec::new();
    for control in at_once {
        let id = control.info().id;
        match control.parse(event) {
            Ok(Parsed::Check(trigger) | Parsed::Expand(trigger)) => {
                looks.push(Ok(look(id, trigger)));
            }
            Ok(Parsed::CheckEach(triggers)) => {
                looks.extend(triggers.into_iter().map(|of| Ok(look(id, of))));
            }
            Ok(Parsed::Ignored(reason)) => looks.push(Ok(Err(reason))),
            Err(broken) => looks.push(Err(broken)),
        }
    }
    if VOLUME_CALLS.contains(&call) {
        looks.push(trigger::volumes(event).map(|parsed| match parsed {
            VolumesParsed::Check(trigger) => look(ControlId::UnencryptedVolume, *trigger),
            VolumesParsed::Advance { .. } => Err("it is a step of a run".to_owned()),
            VolumesParsed::NotMade { .. } => Err("the volume could not be made".to_owned()),
            VolumesParsed::Ignored(reason) => Err(reason),
        }));
    }
    if TAG_CALLS.contains(&call) {
        match trigger::opt_out_tags(event) {
            Ok(TagsParsed::Changed(change)) => looks.push(Ok(Ok(Look {
                control: None,
                resources: change.resources,
                actor: change.actor,
            }))),
            // The rule names the opt-out tag: of other tags Backstop never hears.
            Ok(TagsParsed::Ignored(_)) => {}
            Err(broken) => looks.push(Err(broken)),
        }
    }
    looks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(call: &str, more: Value) -> Value {
        let mut record = json!({
            "eventSource": "ec2.amazonaws.com", "eventName": call, "eventTime": "2026-11-24T10:00:00Z",
            "awsRegion": "eu-central-1", "recipientAccountId": "111122223333", "eventID": "e",
            "userIdentity": { "arn": "arn:aws:iam::111122223333:user/jo" },
            "requestParameters": { "groupId": "sg-0123456789abcdef0" },
        });
        record
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        record
    }

    fn tagged(key: &str) -> Value {
        json!({ "requestParameters": {
            "resourcesSet": { "items": [
                { "resourceId": "sg-0123456789abcdef0" }, { "resourceId": "vol-0a3f5c7e91b2d4f61" },
            ] },
            "tagSet": { "items": [{ "key": key, "value": "all until=2027-01-31" }] },
        } })
    }

    #[test]
    fn calls_are_counted_by_control_and_actor_and_the_others_by_why_not() {
        let mut replayed = Replayed::default();
        for record in [
            record("AuthorizeSecurityGroupIngress", json!({})),
            record(
                "AuthorizeSecurityGroupIngress",
                json!({ "eventTime": "2026-11-23T10:00:00Z" }),
            ),
            record(
                "AuthorizeSecurityGroupIngress",
                json!({ "errorCode": "Client.DryRunOperation" }),
            ),
            record("DescribeInstances", json!({})),
            record(
                "CreateVolume",
                json!({ "responseElements": { "volumeId": "vol-0a3f5c7e91b2d4f60" } }),
            ),
            record("DisableEbsEncryptionByDefault", json!({})),
            record(
                "CreateVolume",
                json!({ "errorCode": "Client.DryRunOperation" }),
            ),
            record(
                "AuthorizeSecurityGroupIngress",
                json!({ "requestParameters": null }),
            ),
            record("CreateTags", tagged("backstop:opt-out")),
            record("DeleteTags", tagged("backstop:opt-out")),
            record("CreateTags", tagged("Name")),
            record("CreateUser", json!({ "eventSource": "iam.amazonaws.com" })),
            json!({}),
        ] {
            replayed.record("log.json, record 1", record);
        }
        assert_eq!(replayed.records, 13);
        assert_eq!(replayed.opt_outs, 2, "set and removed");
        assert_eq!(replayed.calls["CreateTags"], 1);
        assert_eq!(replayed.resources["vol-0a3f5c7e91b2d4f61"], 2);
        for (control, calls) in [
            (ControlId::OpenIngress, 2),
            (ControlId::UnencryptedVolume, 1),
            (ControlId::EncryptionByDefault, 1),
        ] {
            assert_eq!(replayed.looked_at[&control], calls, "{control}");
        }
        assert_eq!(replayed.resources["vol-0a3f5c7e91b2d4f60"], 1);
        assert_eq!(replayed.actors["arn:aws:iam::111122223333:user/jo"], 6);
        assert_eq!(replayed.first.as_deref(), Some("2026-11-23T10:00:00Z"));
        assert_eq!(replayed.ignored.len(), 2);
        assert_eq!(replayed.unreadable.len(), 2, "{:?}", replayed.unreadable);
    }
}
