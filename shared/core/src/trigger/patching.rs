//! What `patch-instance` is invoked with: events that name an instance.
//!
//! Of Inspector's events more is kept than the instance: what they say of a
//! finding is said nowhere else that Backstop reads. It only ever names what may
//! be patched; whether anything is missing, Systems Manager says.
//!
//! Inspector's dates are no ISO dates: the envelope's time counts.

use jiff::Timestamp;
use serde_json::Value;

use super::volumes::INSTANCE_NOTIFICATION;
use super::{
    Actor, BrokenEvent, CHECK_REQUESTED, CheckRequested, OWN_SOURCE, Trigger, broken, envelope,
    is_id, list, needed, text,
};
use crate::controls::{Control, Severity};
use crate::patching::{DOCUMENT, Package, Vulnerability};

/// Detail type of Inspector's findings.
pub const INSPECTOR_FINDING: &str = "Inspector2 Finding";
/// Detail type of Systems Manager's changes of compliance.
pub const COMPLIANCE_CHANGE: &str = "Configuration Compliance State Change";
/// Detail type of what becomes of a command on one instance.
pub const COMMAND_NOTIFICATION: &str = "EC2 Command Invocation Status-change Notification";

/// States of a command that more are to follow.
const UNDER_WAY: &[&str] = &["Pending", "InProgress", "Delayed", "Cancelling"];

/// Most characters of a text of Inspector's that are kept.
const MOST_TEXT: usize = 300;
/// Most packages and CVEs of a finding that are kept.
const MOST_OF_FINDING: usize = 8;

/// What `patch-instance` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchingParsed {
    /// Look at this instance.
    Look(Hint),
    /// Nothing to do, and why.
    Ignored(String),
}

/// An instance to look at, and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The instance, and who or what led to it.
    pub trigger: Trigger,
    /// What is said of it.
    pub says: Says,
}

/// What an event says beyond the instance that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing that is kept.
    Nothing,
    /// Inspector found this.
    Active(Box<Vulnerability>),
    /// Inspector's finding of this ARN is active no more.
    Closed {
        /// The finding's ARN.
        arn: String,
        /// When that was said.
        at: Timestamp,
    },
}

/// Reads an event for `patch-instance`.
///
/// # Errors
/// An event that ought to name an instance and does not.
pub fn patching(payload: &Value) -> Result<PatchingParsed, BrokenEvent> {
    let event = envelope(payload)?;
    let account = needed(event.account.as_deref(), "account")?;
    let region = needed(event.region.as_deref(), "region")?;
    let look = |resource: String, actor: Actor, says: Says| {
        Ok(PatchingParsed::Look(Hint {
            trigger: Trigger {
                resource,
                account: account.clone(),
                region: region.clone(),
                actor,
            },
            says,
        }))
    };
    let ignored = |why: String| Ok(PatchingParsed::Ignored(why));
    let detail = &event.detail;
    match (event.source.as_str(), event.detail_type.as_str()) {
        (OWN_SOURCE, CHECK_REQUESTED) => {
            let request = CheckRequested::read(detail.clone())?;
            let ours = Control::from_name(&request.control)
                .is_some_and(|control| Control::PATCHING.contains(&control));
            if !ours {
                return ignored(format!(
                    "`{}` is not a control of this function",
                    request.control
                ));
            }
            let cause = request
                .cause
                .unwrap_or_default()
                .of_event(event.id, payload);
            let id = instance_id("detail.resource", &request.resource)?;
            look(id, cause, Says::Nothing)
        }
        ("aws.inspector2", INSPECTOR_FINDING) => {
            let kind = text(detail, &["type"]).unwrap_or_default();
            if !["PACKAGE_VULNERABILITY", "CODE_VULNERABILITY"].contains(&kind.as_str()) {
                return ignored(format!("a finding of type `{kind}` is none of a package"));
            }
            let resource = list(&detail["resources"])
                .into_iter()
                .find(|resource| text(resource, &["type"]).as_deref() == Some("AWS_EC2_INSTANCE"));
            let Some(resource) = resource else {
                return ignored("the finding is about no EC2 instance".to_owned());
            };
            let id = text(resource, &["id"]).unwrap_or_default();
            // arn:aws:ec2:<Region>:<account>:instance/<id>, or the id alone
            let id = instance_id(
                "`detail.resources[].id`",
                id.rsplit('/').next().unwrap_or_default(),
            )?;
            let Some(arn) = text(detail, &["findingArn"]) else {
                return broken(
                    "`detail.findingArn` is missing: Inspector always sends it; without it nobody could say when the finding is closed",
                );
            };
            let at = text(payload, &["time"]).and_then(|time| time.parse::<Timestamp>().ok());
            let status = text(detail, &["status"]).unwrap_or_default();
            let mut actor = Actor::default().of_event(event.id, payload);
            actor.principal = Some("Amazon Inspector".to_owned());
            actor.event_name = Some(INSPECTOR_FINDING.to_owned());
            match (status.as_str(), at) {
                ("ACTIVE", at) => {
                    let finding = finding(detail, arn, at);
                    look(id, actor, Says::Active(Box::new(finding)))
                }
                ("CLOSED" | "SUPPRESSED", Some(at)) => look(id, actor, Says::Closed { arn, at }),
                ("CLOSED" | "SUPPRESSED", None) => broken(
                    "`time` of the event is missing or no time: without it a closed finding cannot be told from an older report of it",
                ),
                (other, _) => ignored(format!("`{other}` is no status of a finding to act on")),
            }
        }
        ("aws.ssm", COMPLIANCE_CHANGE) => {
            let kind = text(detail, &["compliance-type"]).unwrap_or_default();
            let status = text(detail, &["compliance-status"]).unwrap_or_default();
            if kind != "Patch" || status != "non_compliant" {
                return ignored(format!("`{kind}` is `{status}`: no patch is missing"));
            }
            let id = text(detail, &["resource-id"]).unwrap_or_default();
            if id.starts_with("mi-") {
                return ignored(format!("`{id}` is no EC2 instance"));
            }
            let id = instance_id("`detail.resource-id`", &id)?;
            let actor = named("Systems Manager Patch Manager", COMPLIANCE_CHANGE);
            look(id, actor.of_event(event.id, payload), Says::Nothing)
        }
        ("aws.ssm", COMMAND_NOTIFICATION) => {
            let document = text(detail, &["document-name"]).unwrap_or_default();
            if document != DOCUMENT {
                return ignored(format!("`{document}` installs no patches"));
            }
            let status = text(detail, &["status"]).unwrap_or_default();
            if UNDER_WAY.contains(&status.as_str()) {
                return ignored(format!("the command is `{status}`: it has not ended"));
            }
            let id = text(detail, &["instance-id"]).unwrap_or_default();
            if id.starts_with("mi-") {
                return ignored(format!("`{id}` is no EC2 instance"));
            }
            let id = instance_id("`detail.instance-id`", &id)?;
            let actor = named("Systems Manager Run Command", COMMAND_NOTIFICATION);
            look(id, actor.of_event(event.id, payload), Says::Nothing)
        }
        ("aws.ec2", INSTANCE_NOTIFICATION) => {
            let state = text(detail, &["state"]).unwrap_or_default();
            if state != "running" {
                return ignored(format!("an instance that is `{state}` is not patched"));
            }
            let id = text(detail, &["instance-id"]).unwrap_or_default();
            let id = instance_id("`detail.instance-id`", &id)?;
            let actor = Actor::default().of_event(event.id, payload);
            look(id, actor, Says::Nothing)
        }
        (source, detail_type) => ignored(format!(
            "`{detail_type}` of `{source}` is no event for this function"
        )),
    }
}

fn named(principal: &str, event: &str) -> Actor {
    Actor {
        principal: Some(principal.to_owned()),
        event_name: Some(event.to_owned()),
        ..Actor::default()
    }
}

fn finding(detail: &Value, arn: String, reported_at: Option<Timestamp>) -> Vulnerability {
    let of_package = &detail["packageVulnerabilityDetails"];
    let mut cves: Vec<String> = text(of_package, &["vulnerabilityId"]).into_iter().collect();
    let related = list(&of_package["relatedVulnerabilities"]).into_iter();
    cves.extend(related.filter_map(|id| id.as_str().map(str::to_owned)));
    cves.truncate(MOST_OF_FINDING);
    let packages = list(&of_package["vulnerablePackages"]);
    let packages = packages.into_iter().map(package).take(MOST_OF_FINDING);
    Vulnerability {
        arn,
        severity: severity(&text(detail, &["severity"]).unwrap_or_default()),
        title: kept(text(detail, &["title"]).unwrap_or_default()),
        cves,
        packages: packages.collect(),
        remediation: text(detail, &["remediation", "recommendation", "text"]).map(kept),
        reported_at,
        installed_by: None,
    }
}

fn package(package: &Value) -> Package {
    let version = text(package, &["version"]).map(|version| {
        let release = text(package, &["release"]);
        release.map_or(version.clone(), |release| format!("{version}-{release}"))
    });
    Package {
        name: kept(text(package, &["name"]).unwrap_or_default()),
        version,
        fixed_in: text(package, &["fixedInVersion"])
            .filter(|fixed| !fixed.eq_ignore_ascii_case("NotAvailable")),
        manager: text(package, &["packageManager"]).unwrap_or_else(|| "unknown".to_owned()),
        remediation: text(package, &["remediation"]).map(kept),
    }
}

/// What cannot be read is told rather than left: it counts as high.
fn severity(text: &str) -> Severity {
    match text {
        "CRITICAL" => Severity::Critical,
        "MEDIUM" => Severity::Medium,
        "LOW" | "INFORMATIONAL" | "UNTRIAGED" => Severity::Low,
        _ => Severity::High,
    }
}

fn kept(text: String) -> String {
    match text.char_indices().nth(MOST_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn instance_id(field: &str, id: &str) -> Result<String, BrokenEvent> {
    if is_id(id, "i-") {
        Ok(id.to_owned())
    } else {
        broken(format!(
            "{field} is `{id}`, which is not the id of an instance (`i-…`)"
        ))
    }
}
