//! `backstop plan`: what would be done about one resource, and why. Reads the
//! live group and decides with the same code as the function; changes nothing.

use std::path::Path;
use std::process::ExitCode;

use backstop_aws::security_groups::{ListUse, gather, groups_naming};
use backstop_core::controls::open_ingress::{self, Circumstances, Decision, Verdict};
use backstop_core::guards::Guards;
use backstop_core::message::one_line;
use backstop_core::plan::RuleChange;
use backstop_core::security_group::Facts;
use backstop_core::trigger::{self, Parsed};
use clap::Args;
use serde_json::Value;

use crate::Problem;
use crate::context::Context;
use crate::judging::Judging;
use crate::table::table;

/// Shows what would be done about one resource, and why; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// An event as EventBridge sends it (a file), or the id of a security group
    /// or prefix list
    what: String,
    #[command(flatten)]
    judging: Judging,
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let (parsed, place) = self.parse()?;
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
        let policy = self.judging.policy(context, &aws).await?;
        let groups = match parsed {
            Target::Ignored(reason) => {
                println!("nothing would be looked at: {reason}");
                return Ok(ExitCode::SUCCESS);
            }
            Target::Group(id) => vec![id],
            Target::List(id) => match groups_naming(&aws.clients.ec2, &id, &aws.deadline).await? {
                ListUse::NamedBy(groups) => groups,
                ListUse::Gone => Vec::new(),
                ListUse::BeingModified(state) => {
                    return Err(Problem(format!(
                        "the prefix list {id} is being modified ({state}): look again later"
                    )));
                }
            },
        };
        if groups.is_empty() {
            println!("no security group names it");
        }
        let mut found = false;
        for id in groups {
            let facts = gather(&aws.clients.ec2, &id, &aws.region, &aws.deadline).await?;
            let circumstances = Circumstances {
                mode: self.judging.mode(),
                account: &account,
                now: jiff::Timestamp::now(),
                guards: &Guards::default(),
            };
            let decision = open_ingress::decide(&facts, &policy, &circumstances);
            found |= print(&id, &facts, &decision);
        }
        Ok(ExitCode::from(u8::from(found)))
    }

    /// What to look at, and the Region and account that an event is of.
    fn parse(&self) -> Result<(Target, Option<(String, String)>), Problem> {
        let what = self.what.as_str();
        if !Path::new(what).is_file() {
            return match what {
                id if id.starts_with("sg-") => Ok((Target::Group(id.to_owned()), None)),
                id if id.starts_with("pl-") => Ok((Target::List(id.to_owned()), None)),
                other => Err(Problem(format!(
                    "`{other}` is neither a file nor the id of a security group (`sg-…`) or prefix list (`pl-…`)"
                ))),
            };
        }
        let text = std::fs::read_to_string(what)
            .map_err(|error| Problem(format!("{what} cannot be read: {error}")))?;
        let event: Value = serde_json::from_str(&text)
            .map_err(|error| Problem(format!("{what} is not JSON: {error}")))?;
        match trigger::ingress(&event) {
            Ok(Parsed::Check(trigger)) => {
                let place = (trigger.region, trigger.account);
                Ok((Target::Group(trigger.resource), Some(place)))
            }
            Ok(Parsed::Expand(trigger)) => {
                let place = (trigger.region, trigger.account);
                Ok((Target::List(trigger.resource), Some(place)))
            }
            Ok(Parsed::Ignored(reason)) => Ok((Target::Ignored(reason), None)),
            Err(broken) => Err(Problem(format!("{what}: {broken}"))),
        }
    }
}

/// What to look at.
enum Target {
    Group(String),
    List(String),
    Ignored(String),
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
