//! `backstop sweep`: starts a sweep now.

use std::process::ExitCode;

use backstop_aws::stack::start;
use clap::Args;

use crate::Problem;
use crate::context::{Context, function};

/// Starts a sweep now and does not wait for its end.
#[derive(Debug, Args)]
pub(crate) struct Sweep {}

impl Sweep {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let sweep = function(&stack, "SweepFunction")?;
        aws.announce(&stack);
        start(
            &aws.operations,
            sweep,
            &serde_json::json!({}),
            &aws.deadline,
        )
        .await?;
        println!("started; its digest reports what is new");
        Ok(ExitCode::SUCCESS)
    }
}
