//! `backstop opt-out`: opts a resource out, or ends that.

use std::collections::BTreeMap;
use std::process::ExitCode;

use backstop_aws::opt_outs;
use backstop_aws::policy_store::read_document;
use backstop_aws::stack::Stack;
use backstop_core::exemption::{self, Exemption, Term};
use backstop_core::policy::Policy;
use backstop_core::rules::OptOutRules;
use backstop_core::words::ControlId;
use clap::{Args, Subcommand};
use jiff::civil::Date;
use jiff::tz::Offset;

use crate::Problem;
use crate::commands::explain::control;
use crate::context::{Aws, Context, output};
use crate::table::{Page, terminal_width};

/// Opts a resource out of controls by its tag, or ends that.
#[derive(Debug, Args)]
pub(crate) struct OptOut {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Writes the opt-out tag
    Add {
        /// The resource's id: a rule, a security group, its VPC, a volume, …
        resource: String,
        /// The control, by name, or `all`; may be given several times
        #[arg(long, required = true)]
        control: Vec<String>,
        /// Last day (UTC) on which it holds
        #[arg(long, value_name = "YYYY-MM-DD")]
        until: Option<String>,
        /// Who answers for it
        #[arg(long)]
        owner: Option<String>,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Removes the opt-out tag, or some controls from it
    Remove {
        /// The resource's id
        resource: String,
        /// Only this control, by name; may be given several times
        #[arg(long)]
        control: Vec<String>,
    },
}

impl OptOut {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        match self.what {
            What::Add {
                resource,
                control,
                until,
                owner,
                reason,
            } => {
                let controls = controls(&control)?;
                tagged(&resource, &controls)?;
                let value = exemption::compose(
                    &controls,
                    &Term {
                        until: until.as_deref(),
                        owner: owner.as_deref(),
                        reason: reason.as_deref(),
                    },
                )
                .map_err(Problem)?;
                let aws = context.aws().await?;
                let stack = context.stack(&aws).await?;
                aws.announce(&stack);
                let rules = rules(&aws, &stack).await?;
                add(&aws, &resource, &value, &controls, &rules).await
            }
            What::Remove { resource, control } => {
                let controls = controls(&control)?;
                let aws = context.aws().await?;
                let stack = context.stack(&aws).await?;
                aws.announce(&stack);
                remove(&aws, &resource, &controls).await
            }
        }
    }
}

/// The controls of these names; none: all of them.
fn controls(names: &[String]) -> Result<Vec<ControlId>, Problem> {
    if names.iter().any(|name| name == "all") {
        return Ok(Vec::new());
    }
    names.iter().map(|name| control(name)).collect()
}

/// That a tag on the resource says something to these controls.
fn tagged(resource: &str, controls: &[ControlId]) -> Result<(), Problem> {
    let all = || ControlId::ALL.iter();
    for control in controls {
        if control.is_of_account() {
            return Err(Problem(format!(
                "`{control}` is about a setting of the account, which has no tags: set `controls.{control}.settings.exemption` in the policy (backstop policy apply)"
            )));
        }
        if !control.reads_tags_of(resource) {
            return Err(Problem(format!(
                "`{control}` does not read a tag of `{resource}`: backstop explain {control} says which resources it reads"
            )));
        }
    }
    match all().any(|control| control.reads_tags_of(resource)) {
        true => Ok(()),
        false => Err(Problem(format!(
            "no control reads a tag of `{resource}`: give the id of a rule, a security group, its VPC, or what else backstop explain <control> names"
        ))),
    }
}

/// What the policy demands of an opt-out.
async fn rules(aws: &Aws, stack: &Stack) -> Result<OptOutRules, Problem> {
    let parameter = output(stack, "PolicyParameterName")?;
    let document = read_document(&aws.clients.ssm, parameter, &aws.deadline).await?;
    Ok(match Policy::parse(&document) {
        Ok(policy) => policy.opt_out,
        Err(problem) => {
            eprintln!("backstop: {problem}; what it demands of an opt-out is not known");
            OptOutRules::default()
        }
    })
}

/// Why a tag would hold nothing, by the same rules by which it is read.
fn refused(
    resource: &str,
    value: &str,
    controls: &[ControlId],
    today: Date,
    rules: &OptOutRules,
) -> Option<String> {
    let tags = [(exemption::OPT_OUT_TAG.to_owned(), value.to_owned())].into();
    let named = |control: &&ControlId| match controls {
        [] => control.reads_tags_of(resource),
        named => named.contains(control),
    };
    let mut concerned = ControlId::ALL.iter().filter(named);
    concerned.find_map(
        |control| match exemption::read(&tags, *control, today, rules) {
            Exemption::Malformed { problem, .. } => Some(problem),
            _ => None,
        },
    )
}

async fn add(
    aws: &Aws,
    resource: &str,
    value: &str,
    controls: &[ControlId],
    rules: &OptOutRules,
) -> Result<ExitCode, Problem> {
    let today = Offset::UTC.to_datetime(aws.clients.clock.now()).date();
    if let Some(problem) = refused(resource, value, controls, today, rules) {
        return Err(Problem(format!(
            "`{value}` would not be honoured, so nothing was changed: {problem}"
        )));
    }
    if exemption::until(value).is_some_and(|until: Date| until < today) {
        return Err(Problem(format!(
            "the day in `{value}` is past (it is {today}, UTC), so nothing was changed"
        )));
    }
    let tags = own(aws, resource).await?;
    if let Some((key, other)) = tags.iter().next()
        && (tags.len() > 1 || key != exemption::OPT_OUT_TAG || other != value)
    {
        return Err(Problem(format!(
            "it has an opt-out already ({key}: `{other}`), so nothing was changed: remove that first (backstop opt-out remove {resource})"
        )));
    }
    match opt_outs::set(&aws.clients.ec2, resource, value, &aws.deadline).await {
        Ok(()) => {
            print!("{}", written(resource, value, terminal_width()));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.says_not_found() => Err(aws.not_found(&format!("`{resource}`"))),
        Err(error) => Err(error.into()),
    }
}

/// That the tag is written, as it fits a terminal of so many columns.
fn written(resource: &str, value: &str, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    page.line(&format!("{resource} is opted out: `{value}`"));
    page.line(&format!("to end that: backstop opt-out remove {resource}"));
    page.into_text()
}

async fn remove(aws: &Aws, resource: &str, controls: &[ControlId]) -> Result<ExitCode, Problem> {
    let tags = own(aws, resource).await?;
    if tags.is_empty() {
        return Err(aws.not_found(&format!("an opt-out tag on `{resource}`")));
    }
    let left = without(resource, &tags, controls)?;
    if left
        .iter()
        .all(|(_, value, left)| left.as_ref() == Some(value))
    {
        println!("no opt-out of {resource} names that control, so nothing was changed");
        return Ok(ExitCode::from(1));
    }
    let ec2 = &aws.clients.ec2;
    for (key, value, left) in &left {
        match left {
            Some(left) if left == value => {}
            Some(left) => {
                opt_outs::set(ec2, resource, left, &aws.deadline).await?;
                println!("the opt-out of {resource} is now `{left}`");
            }
            None => {
                opt_outs::unset(ec2, resource, key, &aws.deadline).await?;
                println!(
                    "the opt-out of {resource} is removed (it was `{value}`); what is wrong with it is looked at at once"
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is left of each tag (key, value, and `None`: it goes) without these controls;
/// none: without all of them.
fn without(
    resource: &str,
    tags: &BTreeMap<String, String>,
    controls: &[ControlId],
) -> Result<Vec<(String, String, Option<String>)>, Problem> {
    let misspelt = tags.keys().find(|key| *key != exemption::OPT_OUT_TAG);
    if let (Some(key), [_, ..]) = (misspelt, controls) {
        return Err(Problem(format!(
            "the key of its tag is `{key}`, which is not `{}`, so nothing was changed: remove the opt-out as a whole (backstop opt-out remove {resource}), and add what is to stay",
            exemption::OPT_OUT_TAG
        )));
    }
    let left = tags.iter().map(|(key, value)| {
        let left = match controls {
            [] => None,
            controls => exemption::without(value, controls).map_err(Problem)?,
        };
        Ok((key.clone(), value.clone(), left))
    });
    left.collect()
}

/// The opt-out tags that a resource has.
async fn own(aws: &Aws, resource: &str) -> Result<BTreeMap<String, String>, Problem> {
    let ids = [resource.to_owned()];
    let mut read = opt_outs::read(&aws.clients.ec2, &ids, &aws.deadline).await?;
    Ok(read.remove(resource).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::of_stack;
    use crate::screens;

    #[test]
    fn an_opt_out_that_is_written_is_the_screen_in_the_documents() {
        let term = Term {
            until: Some("2027-01-31"),
            owner: Some("team-web"),
            reason: Some("vendor access"),
        };
        let value = exemption::compose(&[ControlId::OpenIngress], &term).unwrap();
        let (resource, place) = ("sg-0a3f5c7e91b2d4f60", of_stack(screens::PLACE, "backstop"));
        screens::check("opt-out-add", |terminal| {
            format!("{place}\n{}", written(resource, &value, terminal))
        });
    }

    #[test]
    fn a_tag_goes_only_where_the_control_reads_it() {
        let (open, setting) = (ControlId::OpenIngress, ControlId::SerialConsole);
        for good in ["sg-1", "sgr-1", "vpc-1"] {
            assert!(tagged(good, &[open]).is_ok(), "{good}");
        }
        assert!(tagged("vol-1", &[]).is_ok(), "all, of which one reads it");
        for (resource, controls, part) in [
            ("vol-1", &[open][..], "does not read a tag of `vol-1`"),
            ("sg-1", &[setting], "settings.exemption"),
            ("rtb-1", &[], "no control reads a tag of `rtb-1`"),
        ] {
            let said = tagged(resource, controls).unwrap_err().0;
            assert!(said.contains(part), "{said}");
        }
    }
}
