//! What moto lacks of Systems Manager, answered from what a test says of its
//! instances:
//!
//! | call | here |
//! | --- | --- |
//! | SendCommand | moto's, which adds all instances there are to a command without targets; refused for an instance that is not online, or that a test denies |
//! | ListCommands | moto's, with the filters and the status, which moto does not have: every command is `Success` from the start |
//! | ListCommandInvocations | moto's commands; an invocation is `InProgress` until the test ends it |
//! | DescribeInstanceInformation, DescribeInstancePatchStates, DescribeInstancePatches | what the test says |
//! | GetServiceSetting | the default host management role: none |
//!
//! Parameters stay with MiniStack. Deliberately not here: patching anything, and
//! pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use backstop_core::patching::PatchState;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::Message;
use super::proxy::{Call, Upstreams, error};

/// What tests say of instances. Clones share it.
#[derive(Clone, Default)]
pub struct SystemsManager {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Managed instances: whether they are online.
    online: BTreeMap<String, bool>,
    /// What the last patch operation left.
    patches: BTreeMap<String, PatchState>,
    /// Titles and CVEs of the patches that an Install would bring.
    missing: BTreeMap<String, Vec<(String, String)>>,
    /// How commands ended on instances, in Systems Manager's detailed words.
    ended: BTreeMap<(String, String), String>,
    /// Instances that no command may name.
    denied: BTreeSet<String>,
}

impl SystemsManager {
    /// Makes an instance a managed one, online or not.
    pub fn manage(&self, instance: &str, online: bool) {
        self.state().online.insert(instance.to_owned(), online);
    }

    /// What the last patch operation left on an instance, now unless it says
    /// when; none: there was none.
    pub fn patch_state(&self, instance: &str, state: Option<PatchState>) {
        let mut all = self.state();
        match state {
            Some(mut state) => {
                state.ended_at.get_or_insert_with(Timestamp::now);
                all.patches.insert(instance.to_owned(), state)
            }
            None => all.patches.remove(instance),
        };
    }

    /// The patches that an Install would bring: their titles and CVEs.
    pub fn missing(&self, instance: &str, patches: &[(&str, &str)]) {
        let owned = |(title, cves): &(&str, &str)| ((*title).to_owned(), (*cves).to_owned());
        let patches = patches.iter().map(owned).collect();
        self.state().missing.insert(instance.to_owned(), patches);
    }

    /// Ends a command on one of its instances, in the detailed words of Systems
    /// Manager: `Success`, `Failed`, `DeliveryTimedOut`, ….
    pub fn end_command(&self, command: &str, instance: &str, status: &str) {
        let key = (command.to_owned(), instance.to_owned());
        self.state().ended.insert(key, status.to_owned());
    }

    /// Denies every command that names an instance.
    pub fn deny_commands_to(&self, instance: &str) {
        self.state().denied.insert(instance.to_owned());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The answer to a call; none: it is not for here.
    pub(super) fn answer(
        &self,
        upstreams: &Upstreams,
        request: &Message,
        call: &Call,
    ) -> Option<io::Result<Message>> {
        if call.service != "ssm" {
            return None;
        }
        let asked = &call.request;
        let body = match call.action.as_str() {
            "SendCommand" => {
                let refused = self.state().refusal(asked);
                return Some(refused.map_or_else(|| to_these(request, asked, upstreams), Ok));
            }
            "ListCommands" => {
                let commands = self.commands(upstreams, asked);
                json!({ "Commands": commands })
            }
            "ListCommandInvocations" => {
                let commands = self.commands(upstreams, asked);
                let state = self.state();
                let all = commands.iter().flat_map(|command| state.of(command, asked));
                json!({ "CommandInvocations": all.collect::<Vec<_>>() })
            }
            "DescribeInstanceInformation" => {
                json!({ "InstanceInformationList": self.state().information(asked) })
            }
            "DescribeInstancePatchStates" => {
                json!({ "InstancePatchStates": self.state().patch_states(asked) })
            }
            "DescribeInstancePatches" => {
                json!({ "Patches": self.state().missing_of(&text(&asked["InstanceId"])) })
            }
            "GetServiceSetting" => json!({"ServiceSetting": {
                "SettingId": asked["SettingId"], "SettingValue": "$None", "Status": "Default",
            }}),
            _ => return None,
        };
        let kind = [("content-type", "application/x-amz-json-1.1")];
        Some(Ok(Message::answer(200, &kind, &body.to_string())))
    }

    /// The commands that a request of ListCommands or ListCommandInvocations
    /// asks for, with what they have come to.
    fn commands(&self, upstreams: &Upstreams, asked: &Value) -> Vec<Value> {
        let mut ask = asked.clone();
        ask["Filters"] = Value::Null;
        let mut commands = upstreams.commands(&ask);
        for filter in list(&asked["Filters"]) {
            let (key, wanted) = (text(&filter["key"]), text(&filter["value"]));
            match key.as_str() {
                "DocumentName" => commands.retain(|c| c["DocumentName"] == wanted.as_str()),
                "InvokedAfter" => {
                    let after: Timestamp = wanted.parse().unwrap();
                    commands.retain(|c| c["RequestedDateTime"].as_f64().unwrap() >= seconds(after));
                }
                other => panic!("the filter {other} is not filled in here"),
            }
        }
        let state = self.state();
        for command in &mut commands {
            command["Status"] = state.status_of(command).into();
            command["StatusDetails"] = command["Status"].clone();
        }
        commands
    }
}

impl State {
    /// Why a command is refused.
    fn refusal(&self, asked: &Value) -> Option<Message> {
        let instances: Vec<String> = list(&asked["InstanceIds"]).iter().map(text).collect();
        if let Some(denied) = instances.iter().find(|id| self.denied.contains(*id)) {
            return Some(error(
                "ssm",
                400,
                "AccessDeniedException",
                &format!(
                    "User: arn:aws:sts::123456789012:assumed-role/backstop/patch-instance is not authorized to perform: ssm:SendCommand on resource: arn:aws:ec2:us-east-1:123456789012:instance/{denied} with an explicit deny in an identity-based policy"
                ),
            ));
        }
        let mut offline = instances
            .iter()
            .filter(|id| self.online.get(*id) != Some(&true));
        offline.next().map(|id| {
            let message =
                format!("Instances [[{id}]] not in a valid state for account 123456789012");
            error("ssm", 400, "InvalidInstanceId", &message)
        })
    }

    fn status_of(&self, command: &Value) -> &'static str {
        let ends = list(&command["InstanceIds"]).iter().map(|instance| {
            let key = (text(&command["CommandId"]), text(instance));
            self.ended.get(&key).map(String::as_str)
        });
        let ends: Vec<_> = ends.collect();
        match ends {
            ends if ends.contains(&None) => "InProgress",
            ends if ends.iter().all(|end| *end == Some("Success")) => "Success",
            _ => "Failed",
        }
    }

    /// The invocations of a command that a request asks for.
    fn of(&self, command: &Value, asked: &Value) -> Vec<Value> {
        let instances = list(&command["InstanceIds"]).iter();
        let wanted =
            instances.filter(|id| asked["InstanceId"].is_null() || asked["InstanceId"] == **id);
        let invocation = |id: &Value| {
            let key = (text(&command["CommandId"]), text(id));
            let details = self.ended.get(&key).map_or("InProgress", String::as_str);
            let status = match details {
                "DeliveryTimedOut" | "ExecutionTimedOut" => "TimedOut",
                "Undeliverable" | "Terminated" | "InvalidPlatform" | "AccessDenied" => "Failed",
                other => other,
            };
            json!({
                "CommandId": command["CommandId"], "InstanceId": id,
                "Comment": command["Comment"], "DocumentName": command["DocumentName"],
                "RequestedDateTime": command["RequestedDateTime"],
                "Status": status, "StatusDetails": details, "CommandPlugins": [],
            })
        };
        wanted.map(invocation).collect()
    }

    fn information(&self, asked: &Value) -> Vec<Value> {
        let filters = list(&asked["Filters"]).iter();
        let ids = filters.filter(|f| f["Key"] == "InstanceIds");
        let mut ids = ids.map(|f| &f["Values"]).chain(
            list(&asked["InstanceInformationFilterList"])
                .iter()
                .filter(|f| f["key"] == "InstanceIds")
                .map(|f| &f["valueSet"]),
        );
        let wanted = ids.next();
        let is_wanted = |id: &str| wanted.is_none_or(|ids| list(ids).iter().any(|one| one == id));
        let now = seconds(Timestamp::now());
        let managed = self.online.iter().filter(|(id, _)| is_wanted(id));
        managed
            .map(|(id, online)| {
                json!({
                    "InstanceId": id, "ResourceType": "EC2Instance",
                    "PingStatus": if *online { "Online" } else { "ConnectionLost" },
                    "LastPingDateTime": if *online { now } else { now - 86_400.0 },
                    "AgentVersion": "3.3.1142.0", "IsLatestVersion": true,
                    "PlatformType": "Linux", "PlatformName": "Amazon Linux",
                    "PlatformVersion": "2023", "ComputerName": "ip-10-0-0-7.ec2.internal",
                })
            })
            .collect()
    }

    fn patch_states(&self, asked: &Value) -> Vec<Value> {
        let ids = list(&asked["InstanceIds"]).iter().map(text);
        ids.filter_map(|id| {
            let state = self.patches.get(&id)?;
            let ended = seconds(state.ended_at?);
            Some(json!({
                "InstanceId": id, "PatchGroup": "",
                "BaselineId": state.baseline.as_deref().unwrap_or("pb-0c10e65780example"),
                "SnapshotId": "8d7e9f6a-0000-4000-8000-000000000000",
                "Operation": state.operation, "OperationStartTime": ended - 60.0,
                "OperationEndTime": ended, "RebootOption": "NoReboot",
                "MissingCount": state.missing, "FailedCount": state.failed,
                "InstalledCount": 200, "InstalledOtherCount": 3, "NotApplicableCount": 900,
                "InstalledPendingRebootCount": state.pending_reboot,
                "InstalledRejectedCount": 0, "UnreportedNotApplicableCount": 0,
                "CriticalNonCompliantCount": 0, "SecurityNonCompliantCount": state.missing,
                "OtherNonCompliantCount": 0,
            }))
        })
        .collect()
    }

    fn missing_of(&self, instance: &str) -> Vec<Value> {
        let missing = self.missing.get(instance).into_iter().flatten();
        missing
            .map(|(title, cves)| {
                json!({
                    "Title": title, "KBId": title, "Classification": "Security",
                    "Severity": "Important", "State": "Missing", "CVEIds": cves,
                    "InstalledTime": 0.0,
                })
            })
            .collect()
    }
}

/// Sends a command to moto for the instances that it names, and no others.
fn to_these(request: &Message, asked: &Value, upstreams: &Upstreams) -> io::Result<Message> {
    let mut ask = asked.clone();
    ask["Targets"] = json!([{ "Key": "instance-id", "Values": asked["InstanceIds"] }]);
    let mut request = request.clone();
    request.body = ask.to_string().into_bytes();
    request.send(upstreams.moto)
}

impl Upstreams {
    /// The commands that moto was sent, as a request of ListCommands asks for
    /// them; oldest first. moto fails where it knows the id of none.
    #[must_use]
    pub fn commands(&self, asked: &Value) -> Vec<Value> {
        let headers = [
            ("host", "ssm.us-east-1.amazonaws.com"),
            ("x-amz-target", "AmazonSSM.ListCommands"),
            ("content-type", "application/x-amz-json-1.1"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/ssm/aws4_request",
            ),
        ];
        let body = asked.to_string();
        let request = Message::request("POST", "/", &headers, body.as_bytes());
        let answer = request.send(self.moto).unwrap();
        if answer.text().contains("InvalidCommandId") {
            return Vec::new();
        }
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        list(&answer["Commands"]).to_vec()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
