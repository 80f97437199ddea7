//! What `patch-instance` is invoked with: events that name an instance.
//!
//! Of Inspector's events more is kept than the instance: what they say of a
//! finding is said nowhere else that Backstop reads. It only ever names what may
//! be patched; whether anything is missing, Systems Manager says.
//!
//! Inspector's dates are no ISO dates: the envelope's time counts.

use jiff::Timestamp;
use serde_json::Value;

use super::event::{
    BrokenEvent, CHECK_REQUESTED, CheckRequested, OWN_SOURCE, Trigger, broken, envelope, foreign,
    is_id, list, needed, text,
};
use super::volumes::INSTANCE_NOTIFICATION;
use crate::patching::{DOCUMENT, MOST_CVES, Package, Vulnerability};
use crate::prose::quoted;
use crate::words::{Actor, ControlId, Severity};

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
/// Most packages of a finding that are kept.
const MOST_PACKAGES: usize = 8;

/// What `patch-instance` is asked for.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and nearly every one is a look"
)]
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
        /// Not closed: somebody wants to hear no more of it.
        suppressed: bool,
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
            let ours = ControlId::from_name(&request.control)
                .is_some_and(|control| ControlId::PATCHING.contains(&control));
            if !ours {
                return ignored(format!(
                    "`{}` is not a control of this function",
                    quoted(&request.control)
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
                return ignored(format!(
                    "a finding of type `{}` is none of a package",
                    quoted(&kind)
                ));
            }
            // Inspector's administrator account hears of its members' instances, which
            // it cannot look at.
            if let Some(owner) = text(detail, &["awsAccountId"]).filter(|owner| *owner != account) {
                return ignored(format!(
                    "the finding is about the account {}",
                    quoted(&owner)
                ));
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
                ("CLOSED" | "SUPPRESSED", Some(at)) => look(
                    id,
                    actor,
                    Says::Closed {
                        suppressed: status == "SUPPRESSED",
                        arn,
                        at,
                    },
                ),
                ("CLOSED" | "SUPPRESSED", None) => broken(
                    "`time` of the event is missing or no time: without it a closed finding cannot be told from an older report of it",
                ),
                (other, _) => ignored(format!(
                    "`{}` is no status of a finding to act on",
                    quoted(other)
                )),
            }
        }
        ("aws.ssm", COMPLIANCE_CHANGE) => {
            let kind = text(detail, &["compliance-type"]).unwrap_or_default();
            let status = text(detail, &["compliance-status"]).unwrap_or_default();
            if kind != "Patch" || status != "non_compliant" {
                return ignored(format!(
                    "`{}` is `{}`: no patch is missing",
                    quoted(&kind),
                    quoted(&status)
                ));
            }
            let id = text(detail, &["resource-id"]).unwrap_or_default();
            if id.starts_with("mi-") {
                return ignored(format!("`{}` is no EC2 instance", quoted(&id)));
            }
            let id = instance_id("`detail.resource-id`", &id)?;
            let actor = named("Systems Manager Patch Manager", COMPLIANCE_CHANGE);
            look(id, actor.of_event(event.id, payload), Says::Nothing)
        }
        ("aws.ssm", COMMAND_NOTIFICATION) => {
            let document = text(detail, &["document-name"]).unwrap_or_default();
            if document != DOCUMENT {
                return ignored(format!("`{}` installs no patches", quoted(&document)));
            }
            let status = text(detail, &["status"]).unwrap_or_default();
            if UNDER_WAY.contains(&status.as_str()) {
                return ignored(format!("the command is `{status}`: it has not ended"));
            }
            let id = text(detail, &["instance-id"]).unwrap_or_default();
            if id.starts_with("mi-") {
                return ignored(format!("`{}` is no EC2 instance", quoted(&id)));
            }
            let id = instance_id("`detail.instance-id`", &id)?;
            let actor = named("Systems Manager Run Command", COMMAND_NOTIFICATION);
            look(id, actor.of_event(event.id, payload), Says::Nothing)
        }
        ("aws.ec2", INSTANCE_NOTIFICATION) => {
            let state = text(detail, &["state"]).unwrap_or_default();
            if state != "running" {
                return ignored(format!(
                    "an instance that is `{}` is not patched",
                    quoted(&state)
                ));
            }
            let id = text(detail, &["instance-id"]).unwrap_or_default();
            let id = instance_id("`detail.instance-id`", &id)?;
            let actor = Actor::default().of_event(event.id, payload);
            look(id, actor, Says::Nothing)
        }
        (source, detail_type) => ignored(foreign(source, detail_type)),
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
    cves.truncate(MOST_CVES);
    let packages = list(&of_package["vulnerablePackages"]);
    let packages = packages.into_iter().map(package).take(MOST_PACKAGES);
    Vulnerability {
        arn,
        severity: severity(&text(detail, &["severity"]).unwrap_or_default()),
        title: kept(text(detail, &["title"]).unwrap_or_default()),
        cves,
        packages: packages.collect(),
        remediation: advice(detail, &["remediation", "recommendation", "text"]),
        reported_at,
        installed_by: None,
        unmended: false,
    }
}

fn package(package: &Value) -> Package {
    let version = text(package, &["version"]).map(|version| {
        let release = text(package, &["release"]);
        release.map_or(version.clone(), |release| format!("{version}-{release}"))
    });
    Package {
        name: kept(text(package, &["name"]).unwrap_or_default()),
        version: version.map(kept),
        fixed_in: text(package, &["fixedInVersion"])
            .filter(|fixed| !fixed.eq_ignore_ascii_case("NotAvailable"))
            .map(kept),
        manager: kept(text(package, &["packageManager"]).unwrap_or_else(|| "unknown".to_owned())),
        remediation: advice(package, &["remediation"]),
    }
}

/// What Inspector says is to be done; where it knows nothing it says so.
fn advice(value: &Value, path: &[&str]) -> Option<String> {
    text(value, path)
        .filter(|advice| !advice.eq_ignore_ascii_case("None Provided"))
        .map(kept)
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
            "{field} is `{}`, which is not the id of an instance (`i-…`)",
            quoted(id)
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INSTANCE: &str = "i-0a1b2c3d4e5f60718";

    fn event(source: &str, detail_type: &str, detail: &Value) -> Value {
        json!({
            "id": "66a7a279-5f92-471c-ad3e-c92da0950992",
            "source": source,
            "detail-type": detail_type,
            "account": "111122223333",
            "region": "eu-central-1",
            "time": "2026-11-19T09:40:12Z",
            "detail": detail,
        })
    }

    fn finding_with(change: impl FnOnce(&mut Value)) -> Value {
        let mut detail = json!({
            "findingArn": "arn:aws:inspector2:eu-central-1:111122223333:finding/0a1b",
            "type": "PACKAGE_VULNERABILITY",
            "status": "ACTIVE",
            "severity": "HIGH",
            "title": "CVE-2026-10001 - openssl",
            "resources": [{ "type": "AWS_EC2_INSTANCE", "id": INSTANCE }],
            "packageVulnerabilityDetails": { "vulnerabilityId": "CVE-2026-10001" },
        });
        change(&mut detail);
        event("aws.inspector2", INSPECTOR_FINDING, &detail)
    }

    fn read(event: &Value) -> Hint {
        match patching(event) {
            Ok(PatchingParsed::Look(hint)) => hint,
            other => panic!("{other:?}"),
        }
    }

    fn found(event: &Value) -> Vulnerability {
        match read(event).says {
            Says::Active(found) => *found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_severity_that_cannot_be_read_counts_as_high() {
        for (said, expected) in [
            (json!("CRITICAL"), Severity::Critical),
            (json!("HIGH"), Severity::High),
            (json!("MEDIUM"), Severity::Medium),
            (json!("LOW"), Severity::Low),
            (json!("INFORMATIONAL"), Severity::Low),
            (json!("UNTRIAGED"), Severity::Low),
            (json!("SEVERE"), Severity::High),
            (json!(""), Severity::High),
            (json!(null), Severity::High),
            (json!(9), Severity::High),
        ] {
            let event = finding_with(|detail| detail["severity"] = said.clone());
            assert_eq!(found(&event).severity, expected, "{said}");
        }
    }

    #[test]
    fn only_packages_of_the_system_with_a_fix_are_patchable() {
        for (package, expected) in [
            (
                json!({ "packageManager": "OS", "fixedInVersion": "1:3.0.9" }),
                true,
            ),
            (json!({ "packageManager": "OS", "fixedInVersion": 3 }), true),
            (
                json!({ "packageManager": "OS", "fixedInVersion": "NotAvailable" }),
                false,
            ),
            (
                json!({ "packageManager": "OS", "fixedInVersion": "NOTAVAILABLE" }),
                false,
            ),
            (
                json!({ "packageManager": "OS", "fixedInVersion": "" }),
                false,
            ),
            (json!({ "packageManager": "OS" }), false),
            (
                json!({ "packageManager": "PIP", "fixedInVersion": "2.3.2" }),
                false,
            ),
            (json!({ "fixedInVersion": "2.3.2" }), false),
        ] {
            let event = finding_with(|detail| {
                detail["packageVulnerabilityDetails"]["vulnerablePackages"] = json!([package]);
            });
            assert_eq!(found(&event).is_patchable(), expected, "{package}");
        }
    }

    #[test]
    fn a_version_has_its_release_where_it_has_one() {
        for (package, expected) in [
            (
                json!({ "version": "3.0.8", "release": "1.amzn2023" }),
                Some("3.0.8-1.amzn2023"),
            ),
            (json!({ "version": "3.0.8" }), Some("3.0.8")),
            (json!({ "version": "3.0.8", "release": "" }), Some("3.0.8")),
            (json!({ "release": "1.amzn2023" }), None),
        ] {
            assert_eq!(
                super::package(&package).version.as_deref(),
                expected,
                "{package}"
            );
        }
    }

    #[test]
    fn advice_that_is_none_is_none() {
        for (said, expected) in [
            (json!("None Provided"), None),
            (json!("none provided"), None),
            (json!(""), None),
            (json!(null), None),
            (json!("dnf upgrade openssl"), Some("dnf upgrade openssl")),
        ] {
            let event = finding_with(|detail| {
                detail["remediation"] = json!({ "recommendation": { "text": said } });
                detail["packageVulnerabilityDetails"]["vulnerablePackages"] =
                    json!([{ "name": "openssl", "remediation": said }]);
            });
            let found = found(&event);
            assert_eq!(found.remediation.as_deref(), expected, "{said}");
            let of_package = found
                .packages
                .first()
                .and_then(|p| p.remediation.as_deref());
            assert_eq!(of_package, expected, "{said}");
        }
    }

    #[test]
    fn a_finding_about_another_account_is_left_to_that_account() {
        let about = |account: &str| {
            patching(&finding_with(|detail| {
                detail["awsAccountId"] = json!(account);
            }))
            .unwrap()
        };
        assert!(matches!(about("111122223333"), PatchingParsed::Look(_)));
        let PatchingParsed::Ignored(why) = about("444455556666") else {
            panic!("it is looked at")
        };
        assert!(why.contains("444455556666"), "{why}");
    }

    #[test]
    fn of_a_long_finding_a_part_is_kept() {
        let long = "ü".repeat(MOST_TEXT + 1);
        let package = json!({
            "name": long, "packageManager": long, "fixedInVersion": long, "version": long,
        });
        let packages = vec![package; 40];
        let related: Vec<String> = (0..40).map(|n| format!("CVE-2026-{n}")).collect();
        let found = found(&finding_with(|detail| {
            detail["title"] = json!(long);
            let details = &mut detail["packageVulnerabilityDetails"];
            details["vulnerablePackages"] = json!(packages);
            details["relatedVulnerabilities"] = json!(related);
        }));
        let kept = format!("{}…", "ü".repeat(MOST_TEXT));
        assert_eq!(found.title, kept);
        assert_eq!(found.packages.len(), MOST_PACKAGES);
        let package = &found.packages[0];
        assert_eq!((&package.name, &package.manager), (&kept, &kept));
        assert_eq!(
            (package.version.as_ref(), package.fixed_in.as_ref()),
            (Some(&kept), Some(&kept))
        );
        assert!(found.packages.iter().all(|package| package.name == kept));
        assert_eq!(found.cves.len(), MOST_CVES);
        assert_eq!(
            found.cves.first().map(String::as_str),
            Some("CVE-2026-10001")
        );
    }

    #[test]
    fn the_instance_is_found_among_other_resources() {
        let event = finding_with(|detail| {
            detail["resources"] = json!([
                "i-0fedcba9876543210",
                { "type": "AWS_ECR_CONTAINER_IMAGE", "id": "arn:aws:ecr:eu-central-1:111122223333:repository/shop" },
                { "type": "AWS_EC2_INSTANCE", "id": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{INSTANCE}") },
            ]);
        });
        let trigger = read(&event).trigger;
        assert_eq!(trigger.resource, INSTANCE);
        assert_eq!(trigger.actor.principal.as_deref(), Some("Amazon Inspector"));
        assert_eq!(trigger.actor.event_name.as_deref(), Some(INSPECTOR_FINDING));
        assert_eq!(
            trigger.actor.event_time,
            "2026-11-19T09:40:12Z".parse().ok()
        );
    }

    #[test]
    fn what_is_closed_says_when_and_nothing_else() {
        for status in ["CLOSED", "SUPPRESSED"] {
            let closed = finding_with(|detail| detail["status"] = json!(status));
            assert_eq!(
                read(&closed).says,
                Says::Closed {
                    arn: "arn:aws:inspector2:eu-central-1:111122223333:finding/0a1b".to_owned(),
                    at: "2026-11-19T09:40:12Z".parse().unwrap(),
                    suppressed: status == "SUPPRESSED",
                }
            );
            for time in [json!(null), json!("Nov 19, 2026, 9:40:12 AM")] {
                let mut closed = closed.clone();
                closed["time"] = time.clone();
                assert!(patching(&closed).is_err(), "{status} at {time}");
            }
        }
    }

    #[test]
    fn a_command_counts_once_it_has_ended() {
        for (status, ended) in [
            ("Pending", false),
            ("InProgress", false),
            ("Delayed", false),
            ("Cancelling", false),
            ("Success", true),
            ("Failed", true),
            ("TimedOut", true),
            ("Cancelled", true),
            ("Terminated", true),
        ] {
            let detail = json!({
                "document-name": DOCUMENT, "instance-id": INSTANCE, "status": status,
            });
            let parsed = patching(&event("aws.ssm", COMMAND_NOTIFICATION, &detail)).unwrap();
            assert_eq!(matches!(parsed, PatchingParsed::Look(_)), ended, "{status}");
        }
    }

    #[test]
    fn a_look_may_be_asked_for_by_the_controls_of_instances_alone() {
        for control in ControlId::ALL {
            let detail = json!({ "control": control.name(), "resource": INSTANCE });
            let parsed = patching(&event(OWN_SOURCE, CHECK_REQUESTED, &detail)).unwrap();
            assert_eq!(
                matches!(
                    parsed,
                    PatchingParsed::Look(Hint {
                        says: Says::Nothing,
                        ..
                    })
                ),
                ControlId::PATCHING.contains(control),
                "{control}"
            );
        }
    }
}
