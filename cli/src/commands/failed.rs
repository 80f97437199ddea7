//! `backstop failed`: events that were given up.

use std::process::ExitCode;

use backstop_aws::failed_events::{Message, redrive, show, take};
use backstop_aws::stack::Stack;
use backstop_core::failed_event::Function;
use backstop_core::message::one_line;
use clap::{Args, Subcommand};

use crate::Problem;
use crate::context::{Aws, Context, output};
use crate::table::table;

/// Shows events that were given up, or runs them again.
#[derive(Debug, Args)]
pub(crate) struct Failed {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows them; changes nothing
    List,
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
            What::List => list(&aws, &stack, &queue, &messages).await,
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
) -> Result<ExitCode, Problem> {
    let mut table = table(&["id", "since", "function", "event", "error"]);
    for message in messages {
        match &message.event {
            Ok(failed) => table.add_row(vec![
                message.id.clone(),
                failed.at.clone().unwrap_or_default(),
                name(stack, &failed.function),
                one_line(&failed.title(), 80),
                one_line(failed.error.as_deref().unwrap_or("not delivered"), 300),
            ]),
            Err(problem) => table.add_row(vec![
                message.id.clone(),
                String::new(),
                "?".to_owned(),
                "?".to_owned(),
                format!("cannot be read: {problem}"),
            ]),
        };
        show_again(aws, queue, message).await;
    }
    if messages.is_empty() {
        println!("no event has been given up");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{table}");
    println!("run them again, once the cause is gone: backstop failed redrive <id> (or --all)");
    Ok(ExitCode::from(1))
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
