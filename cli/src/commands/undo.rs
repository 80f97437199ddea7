//! `backstop undo`: takes a change back.

use std::process::ExitCode;

use backstop_aws::stack::invoke;
use clap::Args;
use serde_json::{Value, json};

use crate::Problem;
use crate::commands::policy::confirmed;
use crate::context::{Aws, Context, function};

/// Takes a change back, by the function of the stack.
#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// Id of the ledger entry (`backstop history` shows them)
    entry: String,
    /// Why: it is told and kept
    #[arg(long)]
    reason: String,
    /// Who asks; told as stated
    #[arg(long)]
    by: Option<String>,
    /// For how many days what is put back is opted out (default: 7)
    #[arg(long, value_name = "DAYS")]
    opt_out_days: Option<u32>,
    /// Only says what would be restored; changes nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Does not ask
    #[arg(long)]
    yes: bool,
}

impl Undo {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let undo = function(&stack, "UndoFunction")?;
        aws.announce(&stack);
        let mut request = json!({
            "remediation": self.entry,
            "reason": self.reason,
            "by": self.by,
        });
        if let (Some(days), Some(fields)) = (self.opt_out_days, request.as_object_mut()) {
            fields.insert("opt_out_days".to_owned(), json!(days));
        }
        // What would happen is shown before anybody is asked.
        if !self.yes
            && let Some(fields) = request.as_object_mut()
        {
            fields.insert("dry_run".to_owned(), json!(true));
        }
        let mut answer = self.ask(&aws, undo, &request).await?;
        if answer.get("verdict").and_then(Value::as_str) == Some("would-undo") && !self.dry_run {
            eprintln!(
                "{}",
                answer
                    .get("message")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            );
            if !confirmed("undo it?")? {
                println!("nothing was changed");
                return Ok(ExitCode::from(1));
            }
            if let Some(fields) = request.as_object_mut() {
                fields.remove("dry_run");
            }
            answer = self.ask(&aws, undo, &request).await?;
        }
        let text = |name: &str| answer.get(name).and_then(|value| value.as_str());
        let verdict = text("verdict").unwrap_or("unknown answer").to_owned();
        if verdict == "unknown" {
            return Err(aws.not_found(&format!("the ledger entry `{}`", self.entry)));
        }
        println!("{verdict}: {}", text("message").unwrap_or_default());
        if let Some(id) = text("undo") {
            println!("ledger entry of the undo: {id}");
        }
        let done = matches!(
            verdict.as_str(),
            "undone" | "begun" | "already-as-before" | "would-undo"
        );
        Ok(ExitCode::from(u8::from(!done)))
    }

    async fn ask(&self, aws: &Aws, function: &str, request: &Value) -> Result<Value, Problem> {
        let answer = invoke(&aws.operations, function, request, &aws.deadline).await?;
        answer.map_err(Problem)
    }
}
