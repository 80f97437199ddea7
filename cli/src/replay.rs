//! What Backstop would have looked at, from CloudTrail's own log files.
//!
//! A log file holds `{"Records": […]}`, each record being the `detail` of the
//! event that EventBridge would have sent. The events that EBS, EC2, Inspector and
//! Systems Manager send of their own, about volumes, instances and patches, are in
//! no log file. Deliberately not here: any call.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use backstop_core::trigger::{
    self, BrokenEvent, CLOUDTRAIL_CALL, Parsed, Trigger, VOLUME_CALLS, VolumesParsed,
};
use backstop_core::words::ControlId;
use backstop_engine::AT_ONCE;
use serde::Serialize;
use serde_json::{Value, json};

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Replayed {
    /// Files read.
    pub(crate) files: u64,
    /// Records read.
    pub(crate) records: u64,
    /// Records that Backstop would have looked at, by control.
    pub(crate) looked_at: BTreeMap<ControlId, u64>,
    /// The same by who called.
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
    /// What could not be read, a sentence each.
    pub(crate) unreadable: Vec<String>,
}

/// The log files among paths: files as they are, folders with all they hold.
pub(crate) fn files(paths: &[PathBuf], unreadable: &mut Vec<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = paths.to_vec();
    while let Some(path) = left.pop() {
        if !path.is_dir() {
            found.push(path);
            continue;
        }
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    // A link to a folder could lead round in circles.
                    let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    let path = entry.path();
                    if folder || (is_log(&path) && path.is_file()) {
                        left.push(path);
                    }
                }
            }
            Err(error) => unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    found.sort();
    found
}

fn is_log(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".json") || name.ends_with(".json.gz")
}

/// Reads a log file: its records.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>, String> {
    let said = |problem: String| format!("{}: {problem}", path.display());
    let bytes = std::fs::read(path).map_err(|error| said(error.to_string()))?;
    let text = if path.extension().is_some_and(|extension| extension == "gz") {
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .map_err(|error| said(format!("it cannot be unpacked: {error}")))?;
        text
    } else {
        String::from_utf8(bytes).map_err(|error| said(format!("it is not text: {error}")))?
    };
    let mut log: Value =
        serde_json::from_str(&text).map_err(|error| said(format!("it is not JSON: {error}")))?;
    match log.get_mut("Records").map(Value::take) {
        Some(Value::Array(records)) => Ok(records),
        _ => Err(said(
            "it holds no `Records`: CloudTrail's log files do (digest files do not)".to_owned(),
        )),
    }
}

impl Replayed {
    /// Replays one record. `place` names it in sentences.
    pub(crate) fn record(&mut self, place: &str, record: Value) {
        self.records += 1;
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(service) = text("eventSource").strip_suffix(".amazonaws.com") else {
            self.unreadable.push(format!(
                "{place}: `eventSource` is `{}`, not the name of a service",
                text("eventSource")
            ));
            return;
        };
        let (call, time) = (text("eventName").to_owned(), text("eventTime").to_owned());
        if service != "ec2" {
            return;
        }
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
                Ok(Ok((control, trigger))) => {
                    *self.looked_at.entry(control).or_default() += 1;
                    let actor = trigger
                        .actor
                        .caller()
                        .unwrap_or_else(|| "unknown".to_owned());
                    *self.actors.entry(actor).or_default() += 1;
                    *self.calls.entry(call.clone()).or_default() += 1;
                    *self.resources.entry(trigger.resource).or_default() += 1;
                    let first = [self.first.take(), time.clone()];
                    self.first = first.into_iter().flatten().min();
                    let last = [self.last.take(), time.clone()];
                    self.last = last.into_iter().flatten().max();
                }
                Ok(Err(reason)) => *self.ignored.entry(reason).or_default() += 1,
                Err(broken) => self.unreadable.push(format!("{place}: {broken}")),
            }
        }
    }
}

/// What a control would look at, or why at nothing.
type Look = Result<Result<(ControlId, Trigger), String>, BrokenEvent>;

/// What the controls that listen to a call would look at.
fn looks(call: &str, event: &Value) -> Vec<Look> {
    let at_once = AT_ONCE.iter().filter(|control| control.listens_to(call));
    let mut looks: Vec<Look> = at_once
        .map(|control| {
            Ok(match control.parse(event)? {
                Parsed::Check(trigger) | Parsed::Expand(trigger) => {
                    Ok((control.info().id, trigger))
                }
                Parsed::Ignored(reason) => Err(reason),
            })
        })
        .collect();
    if VOLUME_CALLS.contains(&call) {
        looks.push(trigger::volumes(event).map(|parsed| match parsed {
            VolumesParsed::Check(trigger) => Ok((ControlId::UnencryptedVolume, *trigger)),
            VolumesParsed::Advance { .. } => Err("it is a step of a run".to_owned()),
            VolumesParsed::NotMade { .. } => Err("the volume could not be made".to_owned()),
            VolumesParsed::Ignored(reason) => Err(reason),
        }));
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
            record("CreateUser", json!({ "eventSource": "iam.amazonaws.com" })),
            json!({}),
        ] {
            replayed.record("log.json, record 1", record);
        }
        assert_eq!(replayed.records, 10);
        for (control, calls) in [
            (ControlId::OpenIngress, 2),
            (ControlId::UnencryptedVolume, 1),
            (ControlId::EncryptionByDefault, 1),
        ] {
            assert_eq!(replayed.looked_at[&control], calls, "{control}");
        }
        assert_eq!(replayed.resources["vol-0a3f5c7e91b2d4f60"], 1);
        assert_eq!(replayed.actors["arn:aws:iam::111122223333:user/jo"], 4);
        assert_eq!(replayed.first.as_deref(), Some("2026-11-23T10:00:00Z"));
        assert_eq!(replayed.ignored.len(), 2);
        assert_eq!(replayed.unreadable.len(), 2, "{:?}", replayed.unreadable);
    }
}
