//! `backstop plan`: what would be done about one resource, and why. Reads the
//! live resource and decides with the same code as the function; changes
//! nothing. Volumes: `volumes`; patches: `instances`.

use std::path::Path;
use std::process::ExitCode;

use backstop_aws::remediation::{Concerned, Place};
use backstop_core::exemption::{Exemption, OPT_OUT_TAG, OptOut};
use backstop_core::info::ControlInfo;
use backstop_core::json;
use backstop_core::message::{one_line, quoted};
use backstop_core::preview::{Finding, Preview, Verdict};
use backstop_core::trigger::{self, BrokenEvent, Parsed, PatchingParsed, Says, VolumesParsed};
use backstop_core::words::ControlId;
use backstop_engine::{AT_ONCE, Previewing, at_once};
use clap::Args;
use serde_json::Value;

use crate::Problem;
use crate::context::{Aws, Context};
use crate::judging::Judging;
use crate::table::{Page, Table, named, table, terminal_width};

/// Shows what would be done about one resource, and why; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// An event as EventBridge sends it (a file), the id of a resource, or the
    /// control of an account's setting, for example `encryption-by-default`
    what: String,
    #[command(flatten)]
    judging: Judging,
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let (targets, place) = self.parse()?;
        let aws = context.aws().await?;
        let account = aws.account.clone();
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
        print!("{}", head(&basis.by, terminal_width()));
        let previewing = Previewing {
            clients: &aws.clients,
            policy,
            mode: basis.mode,
            ledger: basis.ledger.as_ref(),
            place: Place {
                account: &account,
                region: &aws.region,
                deadline: &aws.deadline,
            },
        };
        let mut found = false;
        for (n, target) in targets.into_iter().enumerate() {
            if n > 0 {
                println!();
            }
            found |= match target {
                Target::Ignored(reason) => {
                    println!("nothing would be looked at: {reason}");
                    false
                }
                Target::Resource(control, id) => {
                    preview(&previewing, &aws, control, vec![id]).await?
                }
                Target::Other(control, id) => {
                    let ids = concerned(&previewing, &aws, control, &id).await?;
                    preview(&previewing, &aws, control, ids).await?
                }
                Target::Setting(control) => {
                    preview(&previewing, &aws, control, vec![aws.region.clone()]).await?
                }
                Target::Unit(id) if id.starts_with("i-") => {
                    let of_volumes = volumes::plan(&id, &aws, &basis).await?;
                    println!();
                    instances::plan(&id, &Says::Nothing, &aws, &basis).await? || of_volumes
                }
                Target::Unit(id) => volumes::plan(&id, &aws, &basis).await?,
                Target::Patches(id, says) => instances::plan(&id, &says, &aws, &basis).await?,
            };
        }
        Ok(ExitCode::from(u8::from(found)))
    }

    /// What to look at, and the Region and account that an event is of.
    fn parse(&self) -> Result<Targets, Problem> {
        let what = self.what.as_str();
        if !Path::new(what).is_file() {
            return Ok((of_id(what)?, None));
        }
        let text = std::fs::read(what)
            .map_err(|error| Problem(format!("{what} cannot be read: {error}")))?;
        let event =
            json::value(&text).map_err(|error| Problem(format!("{what} is not JSON: {error}")))?;
        of_event(&event).map_err(|broken| Problem(format!("{what}: {broken}")))
    }
}

/// What to look at, and the Region and account of the event that leads there.
type Targets = (Vec<Target>, Option<(String, String)>);

/// What to look at.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A resource of a control that is remediated at once.
    Resource(ControlId, String),
    /// The resources of such a control that another one concerns.
    Other(ControlId, String),
    /// The account's setting that such a control is about.
    Setting(ControlId),
    /// A volume, or an instance with its volumes and its patches.
    Unit(String),
    /// The patches of an instance, and what an event says of them.
    Patches(String, Says),
    Ignored(String),
}

/// What an id, or the name of a control, leads to.
fn of_id(what: &str) -> Result<Vec<Target>, Problem> {
    let mut targets = Vec::new();
    let mut kinds = vec![("volume", "vol-"), ("instance", "i-")];
    let mut settings = Vec::new();
    for control in AT_ONCE {
        let (info, other) = (control.info(), control.expands());
        let id = || what.to_owned();
        match info.prefix {
            Some(prefix) if what.starts_with(prefix) => {
                targets.push(Target::Resource(info.id, id()));
            }
            None if what == info.id.name() => targets.push(Target::Setting(info.id)),
            _ if other
                .and_then(|other| other.prefix)
                .is_some_and(|prefix| what.starts_with(prefix)) =>
            {
                targets.push(Target::Other(info.id, id()));
            }
            _ => {}
        }
        kinds.extend(info.prefix.map(|prefix| (info.phrases.resource, prefix)));
        kinds.extend(other.and_then(|other| Some((other.resource, other.prefix?))));
        if info.prefix.is_none() {
            settings.push(format!("`{}`", info.id));
        }
    }
    if ["vol-", "i-"].iter().any(|kind| what.starts_with(kind)) {
        targets.push(Target::Unit(what.to_owned()));
    }
    if !targets.is_empty() {
        return Ok(targets);
    }
    kinds.sort_unstable();
    kinds.dedup();
    let kinds = kinds.iter();
    let kinds: Vec<String> = kinds
        .map(|(kind, id)| format!("{kind} (`{id}…`)"))
        .collect();
    Err(Problem(format!(
        "`{}` is neither a file nor the id of a resource ({}), nor the control of an account's setting ({})",
        quoted(what),
        kinds.join(", "),
        settings.join(", ")
    )))
}

/// What an event leads to, whichever function takes it; and its Region and
/// account.
fn of_event(event: &Value) -> Result<Targets, BrokenEvent> {
    let call = event.pointer("/detail/eventName").and_then(Value::as_str);
    let (mut targets, mut place, mut why_not) = (Vec::new(), None, Vec::new());
    for control in AT_ONCE {
        let info = control.info();
        let (triggers, is_other) = match control.parse(event)? {
            Parsed::Check(trigger) => (vec![trigger], false),
            Parsed::CheckEach(triggers) => (triggers, false),
            Parsed::Expand(trigger) => (vec![trigger], true),
            // That a call is another control's says nothing about it.
            Parsed::Ignored(why) => {
                if call.is_none_or(|call| control.listens_to(call)) {
                    why_not.push(why);
                }
                continue;
            }
        };
        // Controls that share its lock look at the resource after it.
        let next = AT_ONCE.iter().map(|other| other.info().id);
        let next = next.filter(|other| *other != info.id && other.lock_owner() == info.id);
        let looking: Vec<ControlId> = std::iter::once(info.id).chain(next).collect();
        for trigger in triggers {
            let id = trigger.resource;
            match info.prefix {
                _ if is_other => targets.push(Target::Other(info.id, id)),
                Some(_) => {
                    let looking = looking.iter();
                    targets.extend(looking.map(|control| Target::Resource(*control, id.clone())));
                }
                None => targets.push(Target::Setting(info.id)),
            }
            place = Some((trigger.region, trigger.account));
        }
    }
    if !targets.is_empty() {
        return Ok((targets, place));
    }
    let (target, trigger) = match trigger::volumes(event)? {
        VolumesParsed::Check(trigger) => (Target::Unit(trigger.resource.clone()), *trigger),
        VolumesParsed::Advance { .. } => {
            let why = "it is a step of a run that is under way".to_owned();
            return Ok((vec![Target::Ignored(why)], None));
        }
        VolumesParsed::NotMade { volume, cause } => {
            let why = format!("EBS could not make {volume}: {}", quoted(&cause));
            return Ok((vec![Target::Ignored(why)], None));
        }
        VolumesParsed::Ignored(why) => {
            why_not.push(why);
            match trigger::patching(event)? {
                PatchingParsed::Look(hint) => {
                    let id = hint.trigger.resource.clone();
                    (Target::Patches(id, hint.says), hint.trigger)
                }
                PatchingParsed::Ignored(why) => {
                    why_not.push(why);
                    let field =
                        |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
                    let foreign = trigger::foreign(field("source"), field("detail-type"));
                    let why = reasons(why_not, &foreign);
                    return Ok((vec![Target::Ignored(why)], None));
                }
            }
        }
    };
    Ok((vec![target], Some((trigger.region, trigger.account))))
}

/// Why no function looks at an event: what each says, and that it is `foreign` to
/// it only where none says more.
fn reasons(all: Vec<String>, foreign: &str) -> String {
    let special = all.iter().any(|why| why != foreign);
    let mut said: Vec<String> = Vec::new();
    for why in all {
        if !(said.contains(&why) || special && why == foreign) {
            said.push(why);
        }
    }
    said.join(", and ")
}

/// The resources of a control that another one concerns.
async fn concerned(
    previewing: &Previewing<'_>,
    aws: &Aws,
    control: ControlId,
    id: &str,
) -> Result<Vec<String>, Problem> {
    let Some(served) = at_once(control) else {
        return Ok(Vec::new());
    };
    let ids = match served.concerned(previewing, id).await? {
        Concerned::Resources(ids) => ids,
        Concerned::Gone => return Err(aws.not_found(id)),
        Concerned::BeingModified(state) => {
            let kind = served.expands().map_or("resource", |other| other.resource);
            return Err(Problem(format!(
                "the {kind} {id} is being modified ({state}): look again later"
            )));
        }
    };
    if ids.is_empty() {
        println!("it concerns no {}", served.info().phrases.resource);
    }
    Ok(ids)
}

/// Looks at resources of a control; whether anything was found.
async fn preview(
    previewing: &Previewing<'_>,
    aws: &Aws,
    control: ControlId,
    ids: Vec<String>,
) -> Result<bool, Problem> {
    let mut found = false;
    let Some(served) = at_once(control) else {
        return Ok(found);
    };
    for id in ids {
        let preview = served.preview(previewing, &id).await?;
        if preview.is_gone() {
            return Err(aws.not_found(&id));
        }
        print!("{}", said(&preview, served.info(), terminal_width()));
        found |= preview.finding().is_some();
        if !preview.unread.is_empty() {
            return Err(Problem(preview.unread.join("; ")));
        }
    }
    Ok(found)
}

/// What is judged by, above what is said of resources.
fn head(by: &str, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    page.line(by);
    page.blank();
    page.into_text()
}

/// A preview, for people, as it fits a terminal of so many columns.
fn said(preview: &Preview, info: &ControlInfo, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    let (id, control) = (&preview.id, preview.control);
    let what = named(id, &preview.name);
    let finding = match &preview.verdict {
        Verdict::NotApplicable(why) => {
            page.line(&format!("{what}: nothing to judge: {why}"));
            return page.into_text();
        }
        Verdict::Compliant => {
            page.line(&format!(
                "{what}: compliant with {control}, nothing would be done"
            ));
            return page.into_text();
        }
        Verdict::Violates(finding) => finding,
    };
    page.line(&format!("{what}: {} finding ({control})", finding.severity));
    page.table(&items(finding, info));
    page.line(match finding.carried_out {
        true => "it would be carried out",
        false => "it would not be carried out",
    });
    for reason in &finding.reasons {
        page.led("because ", &one_line(reason, 300));
    }
    page.line(&exempted(&finding.exemption));
    for item in &finding.items {
        let said = exempted(&item.exposure.exemption);
        if !said.is_empty() {
            page.line(&format!("{}: {said}", item.exposure.item));
        }
    }
    page.into_text()
}

/// The items of a finding. Of some a part is wrong, and another may stay.
fn items(finding: &Finding, info: &ControlInfo) -> Table {
    let in_parts = finding.items.iter().any(|i| !i.exposure.exposed.is_empty());
    let mut headings = vec![info.phrases.item, "as it is"];
    if in_parts {
        headings.extend(["too much", "may stay"]);
    }
    headings.push("would be");
    let mut rows = table(&headings);
    for item in &finding.items {
        let exposure = &item.exposure;
        let mut row = vec![exposure.item.clone(), one_line(&item.line, 200)];
        if in_parts {
            for part in [&exposure.exposed, &exposure.allowed] {
                row.push(match part.join(", ") {
                    nothing if nothing.is_empty() => "-".to_owned(),
                    words => words,
                });
            }
        }
        let left = "left as it is";
        row.push(item.would_be.as_deref().unwrap_or(left).to_owned());
        rows.add_row(row);
    }
    rows
}

/// What an exemption says beside its being one.
fn exempted(exemption: &Exemption) -> String {
    let terms = |opt_out: &OptOut| {
        let until = opt_out
            .until
            .map_or("without an end".to_owned(), |day| format!("until {day}"));
        let owner = opt_out.owner.as_deref().unwrap_or("nobody named");
        let reason = opt_out.reason.as_deref().unwrap_or("no reason given");
        format!(
            "{until}, by {}: {}",
            one_line(owner, 100),
            one_line(reason, 300)
        )
    };
    match exemption {
        Exemption::None | Exemption::Existing => String::new(),
        Exemption::Exempt(opt_out) => format!("opted out {}", terms(opt_out)),
        Exemption::Ended(opt_out) => format!("its opt-out has ended: {}", terms(opt_out)),
        Exemption::Malformed {
            value,
            problem,
            key,
            ..
        } => format!(
            "the tag {} is `{}`: {}",
            one_line(key.as_deref().unwrap_or(OPT_OUT_TAG), 100),
            one_line(value, 100),
            one_line(problem, 300)
        ),
    }
}

mod instances;
mod volumes;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use backstop_core::account_setting::AccountSetting;
    use backstop_core::control::Control as _;
    use backstop_core::controls::encryption_by_default::EncryptionByDefault;
    use backstop_core::controls::open_ingress::OpenIngress;
    use backstop_core::decide::Circumstances;
    use backstop_core::guards::Guards;
    use backstop_core::policy::{Governed as _, Policy};
    use backstop_core::preview;
    use backstop_core::record::Record;
    use backstop_core::rules::AccountExemption;
    use backstop_core::security_group::{SecurityGroup, Tags};
    use backstop_core::words::Mode;
    use serde_json::json;

    use super::*;
    use crate::screens::{self, record};

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
        let target = |event: &Value| of_event(event).unwrap().0.remove(0);
        for (event, expected) in [
            (
                call("AuthorizeSecurityGroupIngress", json!(null), None),
                Target::Resource(ControlId::OpenIngress, "sg-0a3f5c7e91b2d4f60".into()),
            ),
            (
                call("CreateVolume", json!({"volumeId": volume}), None),
                Target::Unit(volume.into()),
            ),
            (
                call("DisableEbsEncryptionByDefault", json!({}), None),
                Target::Setting(ControlId::EncryptionByDefault),
            ),
            (
                call("CreateVolume", json!(null), Some("Client.DryRunOperation")),
                Target::Ignored(
                    "the call `CreateVolume` failed with Client.DryRunOperation".into(),
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
                vec![Target::Unit("i-0a3f5c7e91b2d4f60".into())],
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
        let target = |event: &Value| of_event(event).unwrap().0.remove(0);
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

    #[test]
    fn an_id_leads_to_the_control_of_its_prefix_and_a_name_to_a_setting() {
        let (open, id) = (ControlId::OpenIngress, |id: &str| id.to_owned());
        for (what, expected) in [
            ("sg-1", Target::Resource(open, id("sg-1"))),
            ("pl-1", Target::Other(open, id("pl-1"))),
            ("vol-1", Target::Unit(id("vol-1"))),
            (
                "encryption-by-default",
                Target::Setting(ControlId::EncryptionByDefault),
            ),
        ] {
            let targets = of_id(what).unwrap_or_else(|problem| panic!("{problem}"));
            assert!(targets.contains(&expected), "{what}: {targets:?}");
        }
        let problem = of_id("rtb-1").unwrap_err().0;
        for part in [
            "(`sg-…`)",
            "(`pl-…`)",
            "(`vol-…`)",
            "`encryption-by-default`",
        ] {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn the_accounts_setting_is_said_like_any_finding() {
        let of = |is_on, policy: &Policy, mode| {
            let setting = AccountSetting::new(
                "encryption-by-default",
                "aws",
                "eu-central-1",
                "111122223333",
                is_on,
            );
            let circumstances = Circumstances {
                mode,
                account: "111122223333",
                now: "2026-11-24T10:00:00Z".parse().unwrap(),
                guards: &Guards::default(),
            };
            let rules = EncryptionByDefault::rules(policy);
            let preview = preview::preview::<EncryptionByDefault>(
                "eu-central-1",
                Some(&setting),
                &rules,
                &circumstances,
            );
            said(&preview, &EncryptionByDefault::INFO, None)
        };
        let contains = |text: &str, parts: &[&str]| {
            for part in parts {
                assert!(text.contains(part), "{part} is missing in\n{text}");
            }
        };
        let mut policy = Policy::default();
        let on = of(true, &policy, Mode::Enforce);
        assert!(on.ends_with("nothing would be done\n"), "{on}");
        contains(
            &of(false, &policy, Mode::Enforce),
            &[
                "(encryption by default in eu-central-1): medium finding",
                "encryption by default is off",
                "changed: encryption by default is on",
                "\nit would be carried out\n",
            ],
        );
        contains(
            &of(false, &policy, Mode::Notify),
            &["it would not be carried out\nbecause the mode is `notify`\n"],
        );
        let exemption = &mut policy.controls.encryption_by_default.settings.exemption;
        *exemption = Some(AccountExemption {
            until: "2027-01-31".parse().unwrap(),
            owner: "platform".into(),
            reason: None,
        });
        contains(
            &of(false, &policy, Mode::Enforce),
            &[
                "because the policy exempts the account\nopted out until 2027-01-31, by platform: no reason given\n",
            ],
        );
    }

    #[test]
    fn the_plan_for_a_group_is_the_screen_in_the_documents() {
        let Record::Remediation(entry) =
            record("remediation/open-ingress-remediated-narrowed.json")
        else {
            panic!("a remediation")
        };
        let before = entry.detail.before.iter();
        let rules = before.map(|(id, rule)| {
            let rule = serde_json::from_value(rule.clone()).unwrap();
            (id.clone(), rule)
        });
        let group = SecurityGroup {
            id: entry.head.resource_id().to_owned(),
            name: entry.head.resource_name.clone(),
            owner: entry.head.account.clone(),
            arn: entry.head.resource.clone(),
            vpc: None,
            tags: Tags::new(),
            vpc_opt_outs: Tags::new(),
            rules: rules.collect(),
            prefix_lists: BTreeMap::new(),
        };
        let circumstances = Circumstances {
            mode: Mode::Enforce,
            account: &group.owner,
            now: entry.head.started_at,
            guards: &Guards::default(),
        };
        let policy = Policy::default();
        let rules = OpenIngress::rules(&policy);
        let preview =
            preview::preview::<OpenIngress>(&group.id, Some(&group), &rules, &circumstances);
        screens::check("plan", |terminal| {
            head(&screens::judged_by(), terminal) + &said(&preview, &OpenIngress::INFO, terminal)
        });
    }
}
