//! `backstop plan`: what would be done about one resource, and why. Reads the
//! live resource and decides with the same code as the function; changes
//! nothing. Volumes and the account's setting: `volumes`; patches: `instances`.

use std::path::Path;
use std::process::ExitCode;

use backstop_aws::security_groups::{ListUse, gather, groups_naming};
use backstop_core::controls::open_ingress::{self, Circumstances, Decision, Verdict};
use backstop_core::guards::Guards;
use backstop_core::message::one_line;
use backstop_core::plan::RuleChange;
use backstop_core::policy::Policy;
use backstop_core::security_group::Facts;
use backstop_core::trigger::{
    self, BrokenEvent, Parsed, PatchingParsed, Says, Trigger, VolumesParsed,
};
use clap::Args;
use serde_json::Value;

use crate::Problem;
use crate::context::{Aws, Context};
use crate::judging::Judging;
use crate::table::table;
use backstop_core::words::Control;

/// Shows what would be done about one resource, and why; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// An event as EventBridge sends it (a file), the id of a security group,
    /// prefix list, volume or instance, or `encryption-by-default`
    what: String,
    #[command(flatten)]
    judging: Judging,
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let (target, place) = self.parse()?;
        let aws = context.aws().await?;
        let account = aws.account().await?;
        // Looked for elsewhere the resource would seem to be gone.
        if let Some((region, of)) = place
            && (region != aws.region || of != account)
        {
            return Err(Problem(format!(
                "the event is of {region} in the account {of}, but these are credentials of {account} in {}: use --region and --profile",
                aws.region
            )));
        }
        let basis = self.judging.basis(context, &aws).await?;
        let policy = &basis.policy;
        let mode = self.judging.mode();
        let found = match target {
            Target::Ignored(reason) => {
                println!("nothing would be looked at: {reason}");
                false
            }
            Target::Group(id) => self.groups(vec![id], &aws, &account, policy).await?,
            Target::List(id) => match groups_naming(&aws.clients.ec2, &id, &aws.deadline).await? {
                ListUse::NamedBy(groups) => self.groups(groups, &aws, &account, policy).await?,
                ListUse::Gone => self.groups(Vec::new(), &aws, &account, policy).await?,
                ListUse::BeingModified(state) => {
                    return Err(Problem(format!(
                        "the prefix list {id} is being modified ({state}): look again later"
                    )));
                }
            },
            Target::Unit(id) if id.starts_with("i-") => {
                let of_volumes = volumes::plan(&id, &aws, policy, mode).await?;
                println!();
                instances::plan(&id, &Says::Nothing, &aws, &basis, mode).await? || of_volumes
            }
            Target::Unit(id) => volumes::plan(&id, &aws, policy, mode).await?,
            Target::Patches(id, says) => instances::plan(&id, &says, &aws, &basis, mode).await?,
            Target::Setting => volumes::plan_setting(&aws, policy, mode).await?,
        };
        Ok(ExitCode::from(u8::from(found)))
    }

    /// Looks at groups; whether anything was found.
    async fn groups(
        &self,
        groups: Vec<String>,
        aws: &Aws,
        account: &str,
        policy: &Policy,
    ) -> Result<bool, Problem> {
        if groups.is_empty() {
            println!("no security group names it");
        }
        let mut found = false;
        for id in groups {
            let facts = gather(&aws.clients.ec2, &id, &aws.region, &aws.deadline).await?;
            let circumstances = Circumstances {
                mode: self.judging.mode(),
                account,
                now: aws.clients.clock.now(),
                guards: &Guards::default(),
            };
            let decision = open_ingress::decide(&facts, &policy.open_ingress(), &circumstances);
            found |= print(&id, &facts, &decision);
        }
        Ok(found)
    }

    /// What to look at, and the Region and account that an event is of.
    fn parse(&self) -> Result<(Target, Option<(String, String)>), Problem> {
        let what = self.what.as_str();
        if !Path::new(what).is_file() {
            let target = match what {
                id if id.starts_with("sg-") => Target::Group(id.to_owned()),
                id if id.starts_with("pl-") => Target::List(id.to_owned()),
                id if id.starts_with("vol-") || id.starts_with("i-") => Target::Unit(id.to_owned()),
                id if id == Control::EncryptionByDefault.name() => Target::Setting,
                other => {
                    return Err(Problem(format!(
                        "`{other}` is neither a file nor the id of a security group (`sg-…`), prefix list (`pl-…`), volume (`vol-…`) or instance (`i-…`), nor `{}`",
                        Control::EncryptionByDefault.name()
                    )));
                }
            };
            return Ok((target, None));
        }
        let text = std::fs::read_to_string(what)
            .map_err(|error| Problem(format!("{what} cannot be read: {error}")))?;
        let event: Value = serde_json::from_str(&text)
            .map_err(|error| Problem(format!("{what} is not JSON: {error}")))?;
        of_event(&event).map_err(|broken| Problem(format!("{what}: {broken}")))
    }
}

/// What to look at.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Group(String),
    List(String),
    /// A volume, or an instance with its volumes and its patches.
    Unit(String),
    /// The patches of an instance, and what an event says of them.
    Patches(String, Says),
    /// The account's setting.
    Setting,
    Ignored(String),
}

/// A target with the Region and account of the event that leads to it.
fn found<E>(
    target: impl FnOnce(String) -> Target,
    trigger: Trigger,
) -> Result<(Target, Option<(String, String)>), E> {
    let place = (trigger.region, trigger.account);
    Ok((target(trigger.resource), Some(place)))
}

/// What an event leads to, whichever function takes it; and its Region and
/// account.
fn of_event(event: &Value) -> Result<(Target, Option<(String, String)>), BrokenEvent> {
    let why = match trigger::ingress(event)? {
        Parsed::Check(trigger) => return found(Target::Group, trigger),
        Parsed::Expand(trigger) => return found(Target::List, trigger),
        Parsed::Ignored(why) => why,
    };
    match trigger::volumes(event)? {
        VolumesParsed::Check(trigger) => found(Target::Unit, trigger),
        VolumesParsed::Setting(trigger) => found(|_| Target::Setting, trigger),
        VolumesParsed::Advance { .. } => {
            let why = "it is a step of a run that is under way".to_owned();
            Ok((Target::Ignored(why), None))
        }
        VolumesParsed::Ignored(also) => match trigger::patching(event)? {
            PatchingParsed::Look(hint) => {
                let says = hint.says;
                found(|id| Target::Patches(id, says), hint.trigger)
            }
            PatchingParsed::Ignored(last) => {
                Ok((Target::Ignored(reasons([why, also, last])), None))
            }
        },
    }
}

/// Why no function looks at an event: what each says, and that it is not for it
/// only where none says more.
fn reasons(all: [String; 3]) -> String {
    let is_general = |why: &String| why.ends_with("is no event for this function");
    let special = all.iter().any(|why| !is_general(why));
    let mut said: Vec<String> = Vec::new();
    for why in all {
        if !(said.contains(&why) || special && is_general(&why)) {
            said.push(why);
        }
    }
    said.join(", and ")
}

/// Prints a decision; whether anything was found.
fn print(id: &str, facts: &Facts, decision: &Decision) -> bool {
    let name = match facts {
        Facts::Gone => String::new(),
        Facts::Group(group) => format!(" ({})", one_line(&group.name, 60)),
    };
    let finding = match &decision.verdict {
        Verdict::NotApplicable(why) => {
            println!("{id}: nothing to judge: {why}");
            return false;
        }
        Verdict::Compliant => {
            println!("{id}{name}: compliant, nothing would be done");
            return false;
        }
        Verdict::Violates(finding) => finding,
    };
    println!("{id}{name}: {} finding", finding.severity);
    let changes = decision.plan.iter().flat_map(|plan| &plan.changes);
    let mut table = table(&["rule", "from", "too open", "may stay", "would be"]);
    for exposure in &finding.exposures {
        let change = changes
            .clone()
            .find(|change| change.rule.id == exposure.rule.id);
        table.add_row(vec![
            exposure.rule.id.clone(),
            exposure.rule.source.to_string(),
            exposure.exposed.join(", "),
            match exposure.allowed.join(", ") {
                nothing if nothing.is_empty() => "-".to_owned(),
                allowed => allowed,
            },
            change.map_or_else(|| "left as it is".to_owned(), would_be),
        ]);
    }
    println!("{table}");
    if let Some(plan) = &decision.plan {
        let carried_out = match plan.changes_something() {
            true => "it would be carried out",
            false => "it would not be carried out",
        };
        println!("{carried_out}");
        for reason in &plan.reasons {
            println!("because {}", one_line(reason, 300));
        }
    }
    true
}

fn would_be(change: &RuleChange) -> String {
    let mut text = match &change.narrow_to {
        None => "revoked".to_owned(),
        Some(to) => format!("narrowed to {to}"),
    };
    for part in &change.authorise {
        text += &format!(", {part} by a rule of its own");
    }
    for lost in &change.lost {
        text += &format!(", {lost} LOST");
    }
    text
}

mod instances;
mod volumes;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, response: Value, error: Option<&str>) -> Value {
        json!({
            "version": "0", "id": "e", "detail-type": "AWS API Call via CloudTrail",
            "source": "aws.ec2", "account": "111122223333", "region": "eu-central-1",
            "time": "2026-11-24T10:00:00Z", "resources": [],
            "detail": {
                "eventName": name, "errorCode": error, "responseElements": response,
                "requestParameters": {"groupId": "sg-0a3f5c7e91b2d4f60"},
            },
        })
    }

    #[test]
    fn an_event_leads_to_what_either_function_would_look_at() {
        let volume = "vol-0a3f5c7e91b2d4f60";
        let target = |event: &Value| of_event(event).unwrap().0;
        for (event, expected) in [
            (
                call("AuthorizeSecurityGroupIngress", json!(null), None),
                Target::Group("sg-0a3f5c7e91b2d4f60".into()),
            ),
            (
                call("CreateVolume", json!({"volumeId": volume}), None),
                Target::Unit(volume.into()),
            ),
            (
                call("DisableEbsEncryptionByDefault", json!({}), None),
                Target::Setting,
            ),
            (
                call("CreateVolume", json!(null), Some("Client.DryRunOperation")),
                Target::Ignored(
                    "the call `CreateVolume` opens no security group, and the call `CreateVolume` failed with Client.DryRunOperation"
                        .into(),
                ),
            ),
        ] {
            assert_eq!(target(&event), expected);
        }
        let mut of_instance = call("", json!(null), None);
        of_instance["detail-type"] = json!("EC2 Instance State-change Notification");
        of_instance["detail"] = json!({"instance-id": "i-0a3f5c7e91b2d4f60", "state": "running"});
        assert_eq!(
            of_event(&of_instance).unwrap(),
            (
                Target::Unit("i-0a3f5c7e91b2d4f60".into()),
                Some(("eu-central-1".into(), "111122223333".into()))
            )
        );
        let nameless = call("CreateVolume", json!({}), None);
        assert!(
            of_event(&nameless)
                .unwrap_err()
                .to_string()
                .contains("names no volume")
        );
    }

    #[test]
    fn an_event_about_patches_leads_to_the_instance_with_what_it_says() {
        let instance = "i-0a3f5c7e91b2d4f60";
        let event = |source: &str, detail_type: &str, detail: Value| {
            json!({
                "version": "0", "id": "e", "detail-type": detail_type, "source": source,
                "account": "111122223333", "region": "eu-central-1",
                "time": "2026-11-24T10:00:00Z", "resources": [], "detail": detail,
            })
        };
        let finding = |status: &str, kind: &str| {
            event(
                "aws.inspector2",
                "Inspector2 Finding",
                json!({
                    "type": kind, "status": status, "severity": "HIGH", "findingArn": "arn-1",
                    "resources": [{"type": "AWS_EC2_INSTANCE", "id": instance}],
                }),
            )
        };
        let target = |event: &Value| of_event(event).unwrap().0;
        let Target::Patches(id, Says::Active(found)) =
            target(&finding("ACTIVE", "PACKAGE_VULNERABILITY"))
        else {
            panic!("a finding that is active");
        };
        assert_eq!((id.as_str(), found.arn.as_str()), (instance, "arn-1"));
        assert!(matches!(
            target(&finding("CLOSED", "PACKAGE_VULNERABILITY")),
            Target::Patches(_, Says::Closed { .. })
        ));
        let lacking = json!({
            "compliance-type": "Patch", "compliance-status": "non_compliant", "resource-id": instance,
        });
        let detail_type = "Configuration Compliance State Change";
        assert_eq!(
            target(&event("aws.ssm", detail_type, lacking)),
            Target::Patches(instance.into(), Says::Nothing)
        );
        assert_eq!(
            target(&finding("ACTIVE", "NETWORK_REACHABILITY")),
            Target::Ignored("a finding of type `NETWORK_REACHABILITY` is none of a package".into())
        );
        assert_eq!(
            target(&event("aws.s3", "Object Created", json!({}))),
            Target::Ignored("`Object Created` of `aws.s3` is no event for this function".into())
        );
    }
}
