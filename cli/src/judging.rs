//! By what a scan or a plan judges: the policy, the mode, and what the stack's
//! ledger knows.

use std::collections::BTreeMap;

use backstop_aws::ledger::Ledger;
use backstop_aws::policy_store::read_versioned;
use backstop_core::guards::Guards;
use backstop_core::policy::Policy;
use backstop_core::words::{ControlId, Mode};
use clap::{Args, ValueEnum};

use crate::Problem;
use crate::commands::policy::parse;
use crate::context::{Aws, Context, output};

/// The mode that holds where the policy names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Assumed {
    /// Nothing would be changed
    Notify,
    /// Findings would be remediated
    Enforce,
}

impl From<Assumed> for Mode {
    fn from(mode: Assumed) -> Self {
        match mode {
            Assumed::Notify => Self::Notify,
            Assumed::Enforce => Self::Enforce,
        }
    }
}

/// Options of commands that judge.
#[derive(Debug, Args)]
pub(crate) struct Judging {
    /// A policy to judge by; else the stack's, without a stack the defaults
    #[arg(long, value_name = "FILE")]
    policy: Option<String>,
    /// The mode where the policy names none; else the stack's, without a stack
    /// `enforce`
    #[arg(long, value_enum)]
    mode: Option<Assumed>,
}

impl Judging {
    /// What is judged by: the stack's policy, mode, trips and baseline, if there is a
    /// stack, but for what the options say.
    pub(crate) async fn basis(&self, context: &Context, aws: &Aws) -> Result<Basis, Problem> {
        let given = self.policy.as_deref().map(parse).transpose()?;
        let mode = self.mode.map(Mode::from);
        let read = context.stack_if_any(aws).await;
        let without = match &read {
            Ok(_) => format!("there is no `{}`", context.stack),
            Err(error) => format!("`{}` could not be read: {}", context.stack, error.code),
        };
        let stack = match read {
            Ok(Some(stack)) => stack,
            // Whoever may not see stacks may still scan. What passes by itself must
            // not make the answer another one.
            Err(error) if !error.is_denied() => return Err(error.into()),
            Ok(None) | Err(_) => {
                let mode = mode.unwrap_or(Mode::Enforce);
                let of = match &self.policy {
                    Some(file) => format!("the policy in {file}"),
                    None => "the default policy".to_owned(),
                };
                return Ok(Basis {
                    by: format!(
                        "{}: judged by {of} in mode {}, without a stack ({without}); trips, the baseline and what Inspector reported are not known",
                        aws.place(),
                        name(mode)
                    ),
                    policy: given.unwrap_or_default(),
                    mode,
                    ledger: None,
                });
            }
        };
        let of_stack = stack
            .parameters
            .get("Mode")
            .and_then(|mode| mode.parse().ok());
        let mode = mode.or(of_stack).unwrap_or(Mode::Enforce);
        let (policy, of) = match (given, &self.policy) {
            (Some(policy), Some(file)) => (policy, format!("the policy in {file}")),
            _ => {
                let parameter = output(&stack, "PolicyParameterName")?;
                let (document, version) =
                    read_versioned(&aws.clients.ssm, parameter, &aws.deadline).await?;
                let policy = Policy::parse(&document).map_err(|problem| {
                    Problem(format!("the policy parameter `{parameter}`: {problem}"))
                })?;
                (policy, its_policy(version))
            }
        };
        Ok(Basis {
            by: as_the_stack(&aws.place(), &stack.name, &of, mode, policy.kill_switch),
            policy,
            mode,
            ledger: Some(aws.ledger(&stack)?),
        })
    }
}

/// That it is judged as a stack would.
pub(crate) fn as_the_stack(
    place: &str,
    stack: &str,
    of: &str,
    mode: Mode,
    kill_switch: bool,
) -> String {
    let kill_switch = if kill_switch { ", kill switch on" } else { "" };
    format!(
        "{place}: judged as the stack {stack} would, by {of} in mode {}{kill_switch}",
        name(mode)
    )
}

/// The policy of a stack.
pub(crate) fn its_policy(version: i64) -> String {
    format!("its policy (version {version})")
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Notify => "notify",
        Mode::Enforce => "enforce",
    }
}

/// What is judged by, and where the stack keeps what it was told.
pub(crate) struct Basis {
    /// In words, for the head of what is printed.
    pub(crate) by: String,
    /// The policy.
    pub(crate) policy: Policy,
    /// The mode of controls that the policy does not name.
    pub(crate) mode: Mode,
    /// The ledger of the stack; none: the stack could not be read.
    pub(crate) ledger: Option<Ledger>,
}

impl Basis {
    /// What holds a control back on resources: trips, the baseline. Without a ledger
    /// nothing is known.
    pub(crate) async fn guards(
        &self,
        control: ControlId,
        ids: &[String],
    ) -> Result<BTreeMap<String, Guards>, Problem> {
        let Some(ledger) = &self.ledger else {
            return Ok(BTreeMap::new());
        };
        let standings = ledger.standings(control, ids).await?;
        let guards = standings.into_iter().map(|standing| standing.guards);
        Ok(ids.iter().cloned().zip(guards).collect())
    }

    /// The same of an instance, for the controls that share its patches.
    pub(crate) async fn patching_guards(
        &self,
        id: &str,
    ) -> Result<BTreeMap<ControlId, Guards>, Problem> {
        let (ids, mut all) = ([id.to_owned()], BTreeMap::new());
        for control in ControlId::PATCHING {
            let mut of = self.guards(*control, &ids).await?;
            all.extend(of.remove(id).map(|guards| (*control, guards)));
        }
        Ok(all)
    }
}
