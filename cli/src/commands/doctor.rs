//! `backstop doctor`: is Backstop itself in order?

use std::process::ExitCode;

use backstop_aws::doctor::examine;
use backstop_core::doctor::{Check, trips};
use clap::Args;
use serde_json::{Value, json};

use crate::Problem;
use crate::context::Context;
use crate::table::{Format, Page, bad, good, table, terminal_width};

/// Examines trail, rules, subscription, queue, policy and trips.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Doctor {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let deployment = stack.deployment(&aws.region);
        let mut checks = examine(&aws.clients, &aws.operations, &deployment, &aws.deadline).await;
        checks.push(match aws.ledger(&stack)?.tripped_controls().await {
            Ok(tripped) => trips(&tripped),
            Err(error) => Check::unmade("trips", &Problem::from(error).0),
        });
        let documents = checks.iter().map(|check| match &check.result {
            Ok(found) => json!({ "check": check.name, "ok": true, "found": found }),
            Err(failed) => json!({
                "check": check.name, "ok": false, "found": failed.found, "remedy": failed.remedy,
            }),
        });
        match self.format {
            Format::Table => print!("{}", text(&checks, terminal_width())),
            Format::Json => println!("{}", documents.collect::<Value>()),
        }
        let well = checks.iter().all(|check| check.result.is_ok());
        Ok(ExitCode::from(u8::from(!well)))
    }
}

/// The checks, for people, as they fit a terminal of so many columns.
fn text(checks: &[Check], terminal: Option<usize>) -> String {
    let mut rows = table(&["check", "", "found", "what to do"]);
    for check in checks {
        rows.add_row(match &check.result {
            Ok(found) => vec![check.name.into(), good("ok"), found.into(), "".into()],
            Err(failed) => vec![
                check.name.into(),
                bad("FAILED"),
                (&failed.found).into(),
                (&failed.remedy).into(),
            ],
        });
    }
    let mut page = Page::new(terminal);
    page.table(&rows);
    page.into_text()
}

#[cfg(test)]
mod tests {
    use backstop_core::doctor::{Trail, trail};
    use backstop_core::words::ControlId;

    use super::*;
    use crate::screens;

    #[test]
    fn checks_that_passed_and_that_failed_are_the_screen_in_the_documents() {
        let logging = Trail {
            name: "management-events".into(),
            covers_region: true,
            logging: true,
            logs_writes: true,
        };
        let checks = [
            trail(&[logging], "eu-central-1"),
            Check::unmade("queue", "GetQueueAttributes: AccessDenied: no right"),
            trips(&[ControlId::PublicSnapshot]),
        ];
        screens::check("doctor", |terminal| text(&checks, terminal));
    }
}
