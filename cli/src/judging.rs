//! By what a scan or a plan judges: the policy and the mode.

use backstop_aws::ledger::Ledger;
use backstop_aws::policy_store::read_document;
use backstop_aws::stack::Stack;
use backstop_core::policy::Policy;
use backstop_core::words::Mode;
use clap::{Args, ValueEnum};

use crate::Problem;
use crate::commands::policy::parse;
use crate::context::{Aws, Context, output};

/// The mode that holds where the policy names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Assumed {
    /// Nothing would be changed
    Notify,
    /// Findings would be put right
    #[default]
    Enforce,
}

/// Options of commands that judge.
#[derive(Debug, Args)]
pub(crate) struct Judging {
    /// A policy to judge by; else the stack's, else the defaults
    #[arg(long, value_name = "FILE")]
    policy: Option<String>,
    /// The mode where the policy names none
    #[arg(long, value_enum, default_value_t)]
    mode: Assumed,
}

impl Judging {
    pub(crate) fn mode(&self) -> Mode {
        match self.mode {
            Assumed::Notify => Mode::Notify,
            Assumed::Enforce => Mode::Enforce,
        }
    }

    /// The policy: of the file; else of the stack, if there is one; else the
    /// defaults, which is said. And the stack's ledger, if there is one.
    pub(crate) async fn basis(&self, context: &Context, aws: &Aws) -> Result<Basis, Problem> {
        let given = self.policy.as_deref().map(parse).transpose()?;
        let stack = Stack::read(&aws.operations, &context.stack, &aws.deadline).await;
        let ledger = match &stack {
            Ok(stack) => aws.ledger(stack).map_err(|problem| problem.0),
            Err(error) => Err(error.code.clone()),
        };
        if let Err(problem) = &ledger {
            eprintln!(
                "backstop: what Inspector reported is left out, because the ledger of the stack `{}`, which keeps it, could not be read ({problem})",
                context.stack
            );
        }
        let policy = match (given, stack) {
            (Some(policy), _) => policy,
            (None, Ok(stack)) => {
                let parameter = output(&stack, "PolicyParameterName")?;
                let document = read_document(&aws.clients.ssm, parameter, &aws.deadline).await?;
                Policy::parse(&document).map_err(|problem| {
                    Problem(format!("the policy parameter `{parameter}`: {problem}"))
                })?
            }
            (None, Err(error)) => {
                eprintln!(
                    "backstop: judging by the default policy, because that of the stack `{}` could not be read ({})",
                    context.stack, error.code
                );
                Policy::default()
            }
        };
        Ok(Basis {
            policy,
            ledger: ledger.ok(),
        })
    }
}

/// What is judged by, and where the stack keeps what it was told.
pub(crate) struct Basis {
    /// The policy.
    pub(crate) policy: Policy,
    /// The ledger of the stack; none: the stack could not be read.
    pub(crate) ledger: Option<Ledger>,
}
