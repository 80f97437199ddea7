//! Systems Manager in memory: managed instances, their patch states, commands.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{Call, Reply};

/// How long a patch command runs.
const RUNS: Duration = Duration::from_secs(90);

/// What the last patch operation left on a managed instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchState {
    /// `Scan` or `Install`.
    pub operation: String,
    /// When it ended.
    pub ended: Timestamp,
    /// How many patches are missing.
    pub missing: u32,
}

/// A command that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its id.
    pub id: String,
    /// Its comment.
    pub comment: String,
    /// `Scan` or `Install`.
    pub operation: String,
    /// The instances that it was sent to.
    pub instances: Vec<String>,
    /// When.
    pub sent: Timestamp,
}

impl Command {
    /// When it ends, on every instance.
    #[must_use]
    pub fn ends(&self) -> Timestamp {
        self.sent + RUNS
    }
}

/// Systems Manager of one account and Region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemsManager {
    /// The managed instances, all of them online, by id.
    pub managed: BTreeMap<String, PatchState>,
    /// The commands, oldest first.
    pub commands: Vec<Command>,
}

impl SystemsManager {
    /// Answers a call to Systems Manager; none: it is another service's, or is
    /// about parameters.
    pub fn answer(&mut self, call: &Call, now: Timestamp) -> Option<Reply> {
        self.end(now);
        let request = &call.json;
        let answer = match call.operation.as_str() {
            "DescribeInstanceInformation" => {
                let asked = texts(&request["Filters"][0]["Values"]);
                let online = asked.iter().filter(|id| self.managed.contains_key(*id));
                let list: Vec<Value> = online
                    .map(|id| json!({ "InstanceId": id, "PingStatus": "Online" }))
                    .collect();
                json!({ "InstanceInformationList": list })
            }
            "DescribeInstancePatchStates" => {
                let asked = texts(&request["InstanceIds"]);
                let list: Vec<Value> = asked.iter().filter_map(|id| self.state(id)).collect();
                json!({ "InstancePatchStates": list })
            }
            "DescribeInstancePatches" => {
                let of = self.managed.get(request["InstanceId"].as_str().unwrap());
                let missing = of.map_or(0, |state| state.missing);
                let list: Vec<Value> = (0..missing).map(patch).collect();
                json!({ "Patches": list })
            }
            "GetServiceSetting" => json!({ "ServiceSetting": { "SettingValue": "$None" } }),
            "SendCommand" => self.send(request, now),
            "ListCommands" => self.list(request, now),
            "ListCommandInvocations" => {
                let (asked, of) = (request["CommandId"].as_str(), text(&request["InstanceId"]));
                let known = self.commands.iter().filter(|known| {
                    known.instances.contains(&of) && asked.is_none_or(|id| known.id == id)
                });
                let list: Vec<Value> = known
                    .map(|known| {
                        let details = match now < known.ends() {
                            true => "In Progress",
                            false => "Success",
                        };
                        json!({ "CommandId": known.id, "InstanceId": of, "StatusDetails": details })
                    })
                    .collect();
                if asked.is_some() && list.is_empty() {
                    return Some(Reply::json_error("InvalidCommandId", ""));
                }
                json!({ "CommandInvocations": list })
            }
            _ => return None,
        };
        Some(Reply::ok(answer.to_string()))
    }

    /// Nothing is missing any more once a command that installs has ended.
    fn end(&mut self, now: Timestamp) {
        for command in self.commands.iter().filter(|command| command.ends() <= now) {
            for id in &command.instances {
                let Some(state) = self.managed.get_mut(id) else {
                    continue;
                };
                if state.ended < command.ends() {
                    state.operation.clone_from(&command.operation);
                    state.ended = command.ends();
                    if command.operation == "Install" {
                        state.missing = 0;
                    }
                }
            }
        }
    }

    fn state(&self, id: &str) -> Option<Value> {
        let PatchState {
            operation,
            ended,
            missing,
        } = self.managed.get(id)?;
        Some(json!({
            "InstanceId": id, "PatchGroup": "", "BaselineId": "pb-1", "Operation": operation,
            "OperationStartTime": ended.as_second(), "OperationEndTime": ended.as_second(),
            "MissingCount": missing, "FailedCount": 0,
        }))
    }

    fn send(&mut self, request: &Value, sent: Timestamp) -> Value {
        let id = format!("00000000-0000-0000-0000-{:012x}", self.commands.len());
        self.commands.push(Command {
            id: id.clone(),
            comment: text(&request["Comment"]),
            operation: text(&request["Parameters"]["Operation"][0]),
            instances: texts(&request["InstanceIds"]),
            sent,
        });
        json!({ "Command": { "CommandId": id } })
    }

    fn list(&self, request: &Value, now: Timestamp) -> Value {
        let of = text(&request["InstanceId"]);
        let since: Timestamp = text(&request["Filters"][0]["value"]).parse().unwrap();
        let commands = self.commands.iter();
        let list: Vec<Value> = commands
            .filter(|command| command.instances.contains(&of) && command.sent >= since)
            .map(|command| {
                json!({
                    "CommandId": command.id, "DocumentName": "AWS-RunPatchBaseline",
                    "Comment": command.comment, "RequestedDateTime": command.sent.as_second(),
                    "Status": if now < command.ends() { "InProgress" } else { "Success" },
                    "Parameters": { "Operation": [command.operation] },
                })
            })
            .collect();
        json!({ "Commands": list })
    }
}

fn patch(number: u32) -> Value {
    json!({
        "Title": format!("openssl-libs.x86_64:1:3.0.8-{number}"), "KBId": "openssl-libs.x86_64",
        "Classification": "Security", "Severity": "Important", "State": "Missing",
        "InstalledTime": 0,
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(text).collect()
}
