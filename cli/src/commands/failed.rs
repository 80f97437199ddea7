//! `backstop failed`: events that were given up.

use std::process::ExitCode;

use backstop_aws::failed_events::{Message, redrive, show, take};
use backstop_aws::stack::Stack;
use backstop_core::failed_event::{FailedEvent, Function, notice};
use backstop_core::message::one_line;
use backstop_core::notice::EventFailed;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::Problem;
use crate::context::{Aws, Context, output};
use crate::table::{Format, NOTHING, Page, table, terminal_width};

/// Shows events that were given up, or runs them again.
#[derive(Debug, Args)]
pub(crate) struct Failed {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows them; changes nothing
    List {
        /// How it is printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Runs the function that failed with its event again, then deletes it here
    Redrive {
        /// Ids, or how they begin; without any: --all
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

impl Failed {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let queue = output(&stack, "FailedEventsQueueUrl")?.to_owned();
        let messages = take(&aws.operations, &queue, &aws.deadline).await?;
        match self.what {
            What::List { format } => list(&aws, &stack, &queue, &messages, format).await,
            What::Redrive { ids, all } => {
                let wanted = |message: &Message| {
                    // An empty id begins every other: a variable that is not set.
                    all || ids
                        .iter()
                        .any(|id| !id.is_empty() && message.id.starts_with(id.as_str()))
                };
                run_again(&aws, &stack, &queue, messages, wanted).await
            }
        }
    }
}

async fn list(
    aws: &Aws,
    stack: &Stack,
    queue: &str,
    messages: &[Message],
    format: Format,
) -> Result<ExitCode, Problem> {
    let mut failed = Vec::new();
    for message in messages {
        failed.push(listed(stack, &message.id, &message.event));
        show_again(aws, queue, message).await;
    }
    match format {
        Format::Json => println!("{}", json!(failed)),
        Format::Table => print!("{}", text(&failed, terminal_width())),
    }
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

/// A message, with the function by its name in the template.
fn listed(stack: &Stack, id: &str, event: &Result<FailedEvent, String>) -> EventFailed {
    let function = event
        .as_ref()
        .ok()
        .map(|event| name(stack, &event.function));
    EventFailed {
        function,
        ..notice(id, event)
    }
}

/// The events, for people, as they fit a terminal of so many columns.
fn text(failed: &[EventFailed], terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    if failed.is_empty() {
        page.line("no event has been given up");
        return page.into_text();
    }
    let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| NOTHING.to_owned());
    let mut rows = table(&["id", "since", "function", "event", "error"]);
    for of in failed {
        rows.add_row(vec![
            of.message.clone(),
            or_nothing(&of.failed_at),
            or_nothing(&of.function),
            one_line(&of.event, 80),
            one_line(of.error.as_deref().unwrap_or("not delivered"), 300),
        ]);
    }
    page.table(&rows);
    page.blank();
    page.line("run them again, once the cause is gone: backstop failed redrive <id> (or --all)");
    page.into_text()
}

async fn run_again(
    aws: &Aws,
    stack: &Stack,
    queue: &str,
    messages: Vec<Message>,
    wanted: impl Fn(&Message) -> bool,
) -> Result<ExitCode, Problem> {
    aws.announce(stack);
    let (mut done, mut left) = (0, 0);
    for message in &messages {
        if !wanted(message) {
            show_again(aws, queue, message).await;
            continue;
        }
        match redrive(&aws.operations, stack, queue, message, &aws.deadline).await {
            Ok(function) => {
                done += 1;
                println!("{}: accepted by {function}, and deleted here", message.id);
            }
            // The others are tried all the same; this one stays.
            Err(error) => {
                left += 1;
                eprintln!(
                    "backstop: {}: {}; it is still in the queue",
                    message.id,
                    Problem::from(error)
                );
                show_again(aws, queue, message).await;
            }
        }
    }
    if done + left == 0 {
        return Err(Problem(
            "no such event is in the queue (one that somebody else looks at is hidden for a minute): backstop failed list".to_owned(),
        ));
    }
    println!("{done} run again, {left} left");
    Ok(ExitCode::from(if left > 0 { 2 } else { 0 }))
}

/// Shows a message to others again; if that fails it is shown by itself.
async fn show_again(aws: &Aws, queue: &str, message: &Message) {
    if let Err(error) = show(&aws.operations, queue, message, &aws.deadline).await {
        eprintln!(
            "backstop: {}: hidden from others for up to a minute: {}",
            message.id,
            Problem::from(error)
        );
    }
}

/// A function's name in the template, where it is one of this stack.
fn name(stack: &Stack, function: &Function) -> String {
    match function {
        Function::Logical(id) => id.clone(),
        Function::Arn(arn) => {
            let physical = arn.rsplit(':').next().unwrap_or(arn);
            let logical = stack.resources.iter().find(|(_, id)| *id == physical);
            logical.map_or_else(|| physical.to_owned(), |(logical, _)| logical.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screens;

    #[test]
    fn events_of_every_kind_are_the_screen_in_the_documents() {
        let call = json!({
            "source": "aws.ec2", "detail-type": "AWS API Call via CloudTrail",
            "detail": {
                "eventSource": "ec2.amazonaws.com", "eventName": "AuthorizeSecurityGroupIngress",
            },
        });
        let function = "arn:aws:lambda:eu-central-1:111122223333:function:backstop-RevokeIngress";
        let given_up = json!({
            "timestamp": "2026-11-24T10:04:12.000Z",
            "requestContext": { "functionArn": format!("{function}:$LATEST") },
            "requestPayload": call,
            "responsePayload": { "errorMessage": "DescribeSecurityGroups: Throttled: Request limit exceeded." },
        });
        let stack = Stack {
            resources: [(
                "RevokeIngressFunction".to_owned(),
                "backstop-RevokeIngress".to_owned(),
            )]
            .into(),
            ..Stack::default()
        };
        let failed: Vec<EventFailed> = [
            ("5f0c1d3e-8b7a-4c2d-9e6f-1a2b3c4d5e6f", given_up.to_string()),
            ("7a9b8c6d-1e2f-4a3b-8c4d-5e6f7a8b9c0d", call.to_string()),
            ("9c8b7a6d-4e5f-4d3c-a2b1-0f1e2d3c4b5a", "{".to_owned()),
        ]
        .into_iter()
        .map(|(id, body)| listed(&stack, id, &FailedEvent::read(&body)))
        .collect();
        let functions: Vec<Option<&str>> = failed.iter().map(|of| of.function.as_deref()).collect();
        assert_eq!(
            functions,
            [
                Some("RevokeIngressFunction"),
                Some("RevokeIngressFunction"),
                None
            ]
        );
        screens::check("failed", |terminal| text(&failed, terminal));
    }
}
