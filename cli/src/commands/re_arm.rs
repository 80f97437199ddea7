//! `backstop re-arm`: lets a control act again that has tripped.

use std::process::ExitCode;

use backstop_core::message::quoted;
use backstop_core::words::ControlId;
use clap::Args;

use crate::Problem;
use crate::context::Context;

/// Lets a control act again that has tripped.
#[derive(Debug, Args)]
pub(crate) struct ReArm {
    /// The control, by name
    control: String,
    /// Only for this resource: its id
    resource: Option<String>,
}

impl ReArm {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let Some(control) = ControlId::from_name(&self.control) else {
            let names: Vec<&str> = ControlId::ALL
                .iter()
                .map(|control| control.name())
                .collect();
            return Err(Problem(format!(
                "`{}` is not a control; there are: {}",
                quoted(&self.control),
                names.join(", ")
            )));
        };
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let resource = self.resource.as_deref();
        let where_ = resource.map_or_else(String::new, |id| format!(" for {id}"));
        if aws.ledger(&stack)?.re_arm(control, resource).await? {
            println!(
                "{control} acts again{where_}. What stayed open is looked at by the next sweep: backstop sweep"
            );
            Ok(ExitCode::SUCCESS)
        } else {
            println!("{control} had not tripped{where_}; nothing was changed");
            Ok(ExitCode::from(1))
        }
    }
}
