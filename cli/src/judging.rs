//! By what a scan or a plan judges: the policy and the mode.

use backstop_aws::policy_store::read_document;
use backstop_aws::stack::Stack;
use backstop_core::plan::Mode;
use backstop_core::policy::Policy;
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
    /// defaults, which is said.
    pub(crate) async fn policy(&self, context: &Context, aws: &Aws) -> Result<Policy, Problem> {
        if let Some(file) = &self.policy {
            return parse(file);
        }
        match Stack::read(&aws.operations, &context.stack, &aws.deadline).await {
            Ok(stack) => {
                let parameter = output(&stack, "PolicyParameterName")?;
                let document = read_document(&aws.clients.ssm, parameter, &aws.deadline).await?;
                Policy::parse(&document).map_err(|problem| {
                    Problem(format!("the policy parameter `{parameter}`: {problem}"))
                })
            }
            Err(error) => {
                eprintln!(
                    "backstop: judging by the default policy, because that of the stack `{}` could not be read ({})",
                    context.stack, error.code
                );
                Ok(Policy::default())
            }
        }
    }
}
