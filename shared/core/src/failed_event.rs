//! Events that were given up, as they lie in the queue: two shapes, one
//! meaning.
//!
//! | shape | from | body |
//! | --- | --- | --- |
//! | bare | a rule that could not deliver, a batch from a queue that a function failed on | the event |
//! | record | a function that failed on it, the state machine whose look failed | Lambda's record around the event |
//!
//! Deliberately not here: the queue and the functions
//! (`backstop_aws::failed_events`).

use serde_json::Value;

use crate::controls;
use crate::info::ControlInfo;
use crate::json;
use crate::notice::EventFailed;
use crate::prose::quoted;
use crate::trigger::{
    CHECK_REQUESTED, COMMAND_NOTIFICATION, COMPLIANCE_CHANGE, INSPECTOR_FINDING,
    INSTANCE_NOTIFICATION, OWN_SOURCE, REMEDIATION_RECORDED, TAG_CALLS, VOLUME_CALLS,
    VOLUME_NOTIFICATION,
};
use crate::words::ControlId;

const ENCRYPT_VOLUME: &str = "encrypt-volume";
const PATCH_INSTANCE: &str = "patch-instance";

/// Most characters of an error that a notice keeps.
const MOST_ERROR: usize = 1_000;

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedEvent {
    /// The function that it is for.
    pub function: Function,
    /// The event.
    pub event: Value,
    /// What the function said, or why it was not delivered.
    pub error: Option<String>,
    /// When the function gave it up, if that is known.
    pub at: Option<String>,
}

/// A function of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// By ARN: the one that failed.
    Arn(String),
    /// By its logical id in the template: the one that the event is for.
    Logical(String),
}

impl Function {
    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Arn(arn) => arn.rsplit(':').next().unwrap_or(arn),
            Self::Logical(id) => id,
        }
    }
}

/// The notice about a message of the queue: what it holds, or why that cannot be
/// read.
#[must_use]
pub fn notice(message: &str, read: &Result<FailedEvent, String>) -> EventFailed {
    // An error may quote anything, and the ledger keeps it for long.
    let short = |text: &String| text.chars().take(MOST_ERROR).collect();
    match read {
        Ok(failed) => EventFailed {
            message: message.to_owned(),
            function: Some(failed.function.name().to_owned()),
            event: short(&failed.title()),
            error: failed.error.as_ref().map(short),
            failed_at: failed.at.clone(),
        },
        Err(problem) => EventFailed {
            message: message.to_owned(),
            function: None,
            event: "a message that cannot be read".to_owned(),
            error: Some(short(problem)),
            failed_at: None,
        },
    }
}

impl FailedEvent {
    /// Reads the body of a message.
    ///
    /// # Errors
    /// In one clause: it is neither of the two shapes.
    pub fn read(body: &str) -> Result<Self, String> {
        let body: Value =
            json::value(body.as_bytes()).map_err(|error| format!("it is not JSON: {error}"))?;
        let at = |path| text(&body, path);
        if let Some(event) = body.get("requestPayload") {
            let arn = at("/requestContext/functionArn")
                .ok_or("Lambda's record names no function (`requestContext.functionArn`)")?;
            // Without the version: `…:function:name:$LATEST`.
            let arn = arn.split(':').take(7).collect::<Vec<_>>().join(":");
            return Ok(Self {
                function: Function::Arn(arn),
                event: event.clone(),
                error: at("/responsePayload/errorMessage")
                    .or_else(|| at("/requestContext/condition")),
                at: at("/timestamp"),
            });
        }
        let (Some(source), Some(detail_type)) = (at("/source"), at("/detail-type")) else {
            return Err(
                "it is neither an event (`source`, `detail-type`) nor Lambda's record of one (`requestPayload`)"
                    .to_owned(),
            );
        };
        let call = at("/detail/eventName").unwrap_or_default();
        let function = match (source.as_str(), detail_type.as_str(), call.as_str()) {
            (OWN_SOURCE, REMEDIATION_RECORDED, _) => "notify",
            (OWN_SOURCE, CHECK_REQUESTED, _) => {
                let control = at("/detail/control").unwrap_or_default();
                ControlId::from_name(&control).map_or("revoke-ingress", function)
            }
            ("aws.events", _, _) => "sweep",
            // Of a start the two functions that hear of it have a copy each: which
            // one this is, the queue says that gave it up ([`Self::given_up_by`]).
            (_, INSTANCE_NOTIFICATION, _) if at("/detail/state").as_deref() == Some("running") => {
                PATCH_INSTANCE
            }
            (_, VOLUME_NOTIFICATION | INSTANCE_NOTIFICATION, _) => ENCRYPT_VOLUME,
            (_, INSPECTOR_FINDING | COMPLIANCE_CHANGE | COMMAND_NOTIFICATION, _) => PATCH_INSTANCE,
            (_, _, call) if TAG_CALLS.contains(&call) => "watch-opt-outs",
            (_, _, call) if VOLUME_CALLS.contains(&call) => ENCRYPT_VOLUME,
            (_, _, call) => listening(call).map_or("revoke-ingress", |info| info.function),
        };
        Ok(Self {
            function: Function::Logical(logical_id(function)),
            at: at("/time"),
            event: body,
            error: None,
        })
    }

    /// As it is known by the queue that gave it up, an ARN: the queue's name holds
    /// its logical id in the template. What comes from no queue stays as it is.
    #[must_use]
    pub fn given_up_by(mut self, queue: &str) -> Self {
        let by_logical_id = matches!(self.function, Function::Logical(_));
        if by_logical_id && queue.contains("-EncryptVolumeQueue-") {
            self.function = Function::Logical(logical_id(ENCRYPT_VOLUME));
        }
        self
    }

    /// What the event is, in a few words.
    #[must_use]
    pub fn title(&self) -> String {
        let at = |path| text(&self.event, path);
        let what = at("/detail/eventName")
            .or_else(|| at("/detail-type"))
            .unwrap_or_default();
        let about = [
            "/detail/resource",
            "/detail/entry",
            "/detail/responseElements/volumeId",
            "/detail/instance-id",
            "/remediation",
        ];
        let by_call = || {
            let detail = self.event.get("detail")?;
            let paths = listening(&what)?.calls.iter();
            let paths = paths.filter(|call| call.name == what);
            paths.flat_map(|call| call.resource).find_map(|path| {
                Some(
                    detail
                        .pointer(&format!("/{}", path.join("/")))?
                        .as_str()?
                        .to_owned(),
                )
            })
        };
        // EBS names a volume by its ARN, and nowhere else.
        let by_arn = || Some(at("/resources/0")?.rsplit('/').next()?.to_owned());
        let about = about
            .into_iter()
            .find_map(at)
            .or_else(by_call)
            .or_else(by_arn);
        match (what.as_str(), about) {
            ("", None) => "a payload".to_owned(),
            ("", Some(about)) => quoted(&about),
            (what, None) => quoted(what),
            (what, Some(about)) => format!("{} {}", quoted(what), quoted(&about)),
        }
    }
}

/// The function that serves a control.
fn function(control: ControlId) -> &'static str {
    match controls::of(control).map(|control| control.info()) {
        Some(info) => info.function,
        None if ControlId::PATCHING.contains(&control) => PATCH_INSTANCE,
        None => ENCRYPT_VOLUME,
    }
}

/// The control that listens to a call.
fn listening(call: &str) -> Option<&'static ControlInfo> {
    let mut all = controls::infos();
    all.find(|info| info.calls.iter().any(|of| of.name == call))
}

/// A function's logical id in the template: `RevokeIngressFunction`.
fn logical_id(function: &str) -> String {
    let words = function
        .split('-')
        .map(|word| match word.split_at_checked(1) {
            Some((first, rest)) => first.to_uppercase() + rest,
            None => String::new(),
        });
    words.collect::<String>() + "Function"
}

/// The text at a place (a JSON pointer, RFC 6901).
fn text(value: &Value, path: &str) -> Option<String> {
    value.pointer(path)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::trigger::CLOUDTRAIL_CALL;

    fn event(source: &str, detail_type: &str, detail: Value) -> Value {
        json!({ "source": source, "detail-type": detail_type, "time": "2026-11-24T10:00:00Z", "detail": detail })
    }

    #[test]
    fn lambdas_record_names_the_function_the_event_and_the_error() {
        let inner = event(
            "aws.ec2",
            "AWS API Call via CloudTrail",
            json!({ "eventName": "AuthorizeSecurityGroupIngress", "requestParameters": { "groupId": "sg-1" } }),
        );
        let record = json!({
            "version": "1.0", "timestamp": "2026-11-24T10:05:00.000Z",
            "requestContext": { "requestId": "r", "functionArn": "arn:aws:lambda:eu-central-1:111122223333:function:f:$LATEST", "condition": "RetriesExhausted", "approximateInvokeCount": 3 },
            "requestPayload": inner, "responseContext": { "statusCode": 200, "functionError": "Unhandled" },
            "responsePayload": { "errorType": "Retryable", "errorMessage": "it failed" },
        });
        let failed = FailedEvent::read(&record.to_string()).unwrap();
        assert_eq!(
            failed.function,
            Function::Arn("arn:aws:lambda:eu-central-1:111122223333:function:f".into())
        );
        assert_eq!(failed.event, inner);
        assert_eq!(failed.error.as_deref(), Some("it failed"));
        assert_eq!(failed.title(), "AuthorizeSecurityGroupIngress sg-1");
    }

    #[test]
    fn a_bare_event_is_for_the_function_whose_event_it_is() {
        for (event, function) in [
            (
                event(
                    "backstop",
                    "Remediation Recorded",
                    json!({ "entry": "01M" }),
                ),
                "NotifyFunction",
            ),
            (
                event(
                    "backstop",
                    "Check Requested",
                    json!({ "control": "open-ingress" }),
                ),
                "RevokeIngressFunction",
            ),
            (
                event(
                    "aws.ec2",
                    "AWS API Call via CloudTrail",
                    json!({ "eventName": "DeleteTags" }),
                ),
                "WatchOptOutsFunction",
            ),
            (
                event(
                    "aws.ec2",
                    "AWS API Call via CloudTrail",
                    json!({ "eventName": "ModifySecurityGroupRules" }),
                ),
                "RevokeIngressFunction",
            ),
            (
                event(
                    "aws.ec2",
                    CLOUDTRAIL_CALL,
                    json!({ "eventName": "DisableEbsEncryptionByDefault" }),
                ),
                "RestoreAccountDefaultsFunction",
            ),
            (
                event("aws.events", "Scheduled Event", json!({})),
                "SweepFunction",
            ),
        ] {
            let failed = FailedEvent::read(&event.to_string()).unwrap();
            assert_eq!(failed.function, Function::Logical(function.into()));
            assert_eq!(failed.event, event);
        }
    }

    #[test]
    fn of_two_functions_that_hear_of_a_start_the_queue_says_which_gave_it_up() {
        let detail = json!({ "instance-id": "i-1", "state": "running" });
        let start = event("aws.ec2", INSTANCE_NOTIFICATION, detail).to_string();
        let queue =
            |name: &str| format!("arn:aws:sqs:eu-central-1:111122223333:backstop-{name}-1A2B");
        for (queue, function) in [
            (queue("EncryptVolumeQueue"), "EncryptVolumeFunction"),
            (queue("PatchInstanceQueue"), "PatchInstanceFunction"),
            (String::new(), "PatchInstanceFunction"),
        ] {
            let failed = FailedEvent::read(&start).unwrap().given_up_by(&queue);
            assert_eq!(
                failed.function,
                Function::Logical(function.into()),
                "{queue}"
            );
        }
    }

    #[test]
    fn what_encrypt_volume_listens_to_is_for_it() {
        let call = |name: &&str| {
            event(
                "aws.ec2",
                CLOUDTRAIL_CALL,
                json!({ "eventName": name, "responseElements": { "volumeId": "vol-1" } }),
            )
        };
        let check = |control: ControlId, resource: &str| {
            event(
                OWN_SOURCE,
                CHECK_REQUESTED,
                json!({ "control": control.name(), "resource": resource }),
            )
        };
        let mut of_ebs = event(
            "aws.ec2",
            VOLUME_NOTIFICATION,
            json!({ "event": "createVolume", "result": "available" }),
        );
        of_ebs["resources"] = json!(["arn:aws:ec2:eu-central-1:111122223333:volume/vol-1"]);
        let of_ec2 = event(
            "aws.ec2",
            INSTANCE_NOTIFICATION,
            json!({ "instance-id": "i-1", "state": "stopped" }),
        );
        let calls = VOLUME_CALLS
            .iter()
            .map(|name| (call(name), format!("{name} vol-1")));
        let others = [
            (
                check(ControlId::UnencryptedVolume, "i-1"),
                "Check Requested i-1".to_owned(),
            ),
            (of_ebs, "EBS Volume Notification vol-1".to_owned()),
            (
                of_ec2,
                "EC2 Instance State-change Notification i-1".to_owned(),
            ),
        ];
        for (event, title) in calls.chain(others) {
            let failed = FailedEvent::read(&event.to_string()).unwrap();
            assert_eq!(
                failed.function,
                Function::Logical("EncryptVolumeFunction".into()),
                "{event}"
            );
            assert_eq!(failed.title(), title);
        }
    }

    #[test]
    fn what_patch_instance_listens_to_is_for_it() {
        let instance = "i-0123456789abcdef0";
        let with = |source, detail_type, detail, resource: &str| {
            let mut event = event(source, detail_type, detail);
            event["resources"] = json!([resource]);
            event
        };
        for (event, title) in [
            (
                with(
                    "aws.inspector2",
                    INSPECTOR_FINDING,
                    json!({ "status": "ACTIVE", "resources": [{ "id": instance }] }),
                    instance,
                ),
                "Inspector2 Finding i-0123456789abcdef0",
            ),
            (
                with(
                    "aws.ssm",
                    COMPLIANCE_CHANGE,
                    json!({ "resource-id": instance, "compliance-type": "Patch" }),
                    "arn:aws:ssm:eu-central-1:111122223333:managed-instance/i-0123456789abcdef0",
                ),
                "Configuration Compliance State Change i-0123456789abcdef0",
            ),
            (
                with(
                    "aws.ssm",
                    COMMAND_NOTIFICATION,
                    json!({ "instance-id": instance, "status": "Success" }),
                    "arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0",
                ),
                "EC2 Command Invocation Status-change Notification i-0123456789abcdef0",
            ),
            (
                with(
                    "aws.ec2",
                    INSTANCE_NOTIFICATION,
                    json!({ "instance-id": instance, "state": "running" }),
                    "arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0",
                ),
                "EC2 Instance State-change Notification i-0123456789abcdef0",
            ),
        ] {
            let failed = FailedEvent::read(&event.to_string()).unwrap();
            let function = Function::Logical("PatchInstanceFunction".into());
            assert_eq!(
                (failed.function.clone(), failed.title().as_str()),
                (function, title)
            );
        }
    }

    #[test]
    fn a_check_is_for_the_function_that_serves_its_control() {
        for control in ControlId::ALL {
            let detail = json!({ "control": control.name(), "resource": "x" });
            let event = event(OWN_SOURCE, CHECK_REQUESTED, detail);
            let expected = match control {
                ControlId::OpenIngress | ControlId::DefaultSecurityGroup => "RevokeIngressFunction",
                ControlId::UnencryptedVolume => "EncryptVolumeFunction",
                ControlId::EncryptionByDefault
                | ControlId::SnapshotSharingBlock
                | ControlId::MetadataDefaults
                | ControlId::SerialConsole
                | ControlId::ImageSharingBlock => "RestoreAccountDefaultsFunction",
                ControlId::PublicSnapshot | ControlId::PublicImage => "UnshareStorageFunction",
                ControlId::PublicSubnet => "RemovePublicAddressFunction",
                ControlId::ImdsV1 => "RequireImdsv2Function",
                ControlId::VulnerablePackage
                | ControlId::MissingPatches
                | ControlId::UnmanagedInstance => "PatchInstanceFunction",
            };
            let failed = FailedEvent::read(&event.to_string()).unwrap();
            assert_eq!(failed.function, Function::Logical(expected.into()));
        }
    }

    #[test]
    fn anything_else_is_said_to_be_neither() {
        for (body, part) in [
            ("x", "not JSON"),
            ("{}", "neither"),
            (r#"{"requestPayload":{}}"#, "functionArn"),
        ] {
            let error = FailedEvent::read(body).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
