//! `backstop undo`: takes a change back.

use std::process::ExitCode;

use backstop_aws::stack::invoke;
use clap::Args;
use serde_json::{Value, json};

use crate::Problem;
use crate::commands::policy::confirmed;
use crate::context::{Aws, Context, function};
use crate::table::{Page, terminal_width};

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
            eprint!("{}", text(&answer, terminal_width()));
            if !confirmed("undo it?")? {
                println!("nothing was changed");
                return Ok(ExitCode::from(1));
            }
            if let Some(fields) = request.as_object_mut() {
                fields.remove("dry_run");
            }
            answer = self.ask(&aws, undo, &request).await?;
        }
        let verdict = field(&answer, "verdict").unwrap_or_default();
        if verdict == "unknown" {
            return Err(aws.not_found(&format!("the ledger entry `{}`", self.entry)));
        }
        print!("{}", text(&answer, terminal_width()));
        let done = matches!(
            verdict,
            "undone" | "begun" | "already-as-before" | "would-undo"
        );
        Ok(ExitCode::from(u8::from(!done)))
    }

    async fn ask(&self, aws: &Aws, function: &str, request: &Value) -> Result<Value, Problem> {
        let answer = invoke(&aws.operations, function, request, &aws.deadline).await?;
        answer.map_err(Problem)
    }
}

fn field<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    answer.get(name).and_then(Value::as_str)
}

/// What the function answered, as it fits a terminal of so many columns.
fn text(answer: &Value, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    let verdict = field(answer, "verdict").unwrap_or("unknown answer");
    let message = field(answer, "message").unwrap_or_default();
    page.line(&format!("{verdict}: {message}"));
    if let Some(id) = field(answer, "undo") {
        page.line(&format!("ledger entry of the undo: {id}"));
    }
    page.into_text()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use backstop_core::controls::open_ingress::OpenIngress;
    use backstop_core::record::Record;
    use backstop_core::undo::{Act, Answer, ItemStates};

    use super::*;
    use crate::context::of_stack;
    use crate::screens::{self, record};

    #[test]
    fn a_dry_run_is_the_screen_in_the_documents() {
        let Record::Remediation(entry) =
            record("remediation/open-ingress-remediated-narrowed.json")
        else {
            panic!("a remediation");
        };
        let states: Vec<ItemStates<_>> = entry
            .detail
            .before
            .iter()
            .map(|(item, before)| ItemStates {
                item: item.clone(),
                before: serde_json::from_value(before.clone()).unwrap(),
                left: None,
                now: None,
                act: Act::Authorise,
                added: BTreeMap::new(),
            })
            .collect();
        let answer = json!(Answer::would_undo::<OpenIngress>(&states));
        let place = of_stack(screens::PLACE, "backstop");
        screens::check("undo-dry-run", |terminal| {
            format!("{place}\n{}", text(&answer, terminal))
        });
    }
}
