//! The queue of failed events: look at it, and run an event again.
//!
//! SQS's own way to move messages back works for dead letters of queues only,
//! not for those of rules and functions. So the function that failed is invoked
//! with its event, and the message goes once Lambda has accepted that: killed
//! in between, the event runs twice, which is harmless.
//!
//! Deliberately not here: what is in a message (`backstop_core::failed_event`).

use std::collections::BTreeMap;

use aws_sdk_sqs::types::MessageSystemAttributeName;
use backstop_core::failed_event::{FailedEvent, Function};

use crate::clients::OperationsClients;
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::stack::{Stack, start};

/// What SQS says of a message that another queue gave up: that queue's ARN.
const GIVEN_UP_BY: MessageSystemAttributeName =
    MessageSystemAttributeName::DeadLetterQueueSourceArn;

/// For how long messages are hidden from others while they are looked at, in
/// seconds. Each is shown again as soon as it has been.
const HIDDEN: i32 = 60;

/// Most messages of one ReceiveMessage call (SQS's maximum).
const BATCH: i32 = 10;

/// A message of the queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// SQS's id.
    pub id: String,
    receipt: String,
    /// What it holds, or why that cannot be read.
    pub event: Result<FailedEvent, String>,
}

/// Takes every message that is visible now. Each stays in the queue, hidden
/// for a minute, until [`show`] or [`redrive`].
///
/// # Errors
/// A call failed. What was taken before is shown again by itself.
pub async fn take(
    operations: &OperationsClients,
    queue: &str,
    deadline: &Deadline,
) -> Result<Vec<Message>, AwsError> {
    take_until(operations, queue, usize::MAX, deadline).await
}

/// As [`take`], until there are about this many (a call returns up to ten).
///
/// # Errors
/// A call failed. What was taken before is shown again by itself.
pub async fn take_until(
    operations: &OperationsClients,
    queue: &str,
    most: usize,
    deadline: &Deadline,
) -> Result<Vec<Message>, AwsError> {
    let mut messages: BTreeMap<String, Message> = BTreeMap::new();
    loop {
        let request = operations
            .sqs
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(BATCH)
            .message_system_attribute_names(GIVEN_UP_BY)
            // Long polling asks all of SQS's servers; short polling a sample.
            .wait_time_seconds(1)
            .visibility_timeout(HIDDEN);
        let answer = deadline.call("ReceiveMessage", request.send()).await?;
        let known = messages.len();
        for message in answer.messages() {
            let id = message.message_id().unwrap_or_default().to_owned();
            messages.insert(
                id.clone(),
                Message {
                    id,
                    receipt: message.receipt_handle().unwrap_or_default().to_owned(),
                    event: FailedEvent::read(message.body().unwrap_or_default())
                        .map(|event| event.given_up_by(given_up_by(message))),
                },
            );
        }
        if messages.len() == known || messages.len() >= most {
            return Ok(messages.into_values().collect());
        }
    }
}

/// The queue that a message came from, by its ARN; empty: from none.
fn given_up_by(message: &aws_sdk_sqs::types::Message) -> &str {
    let attributes = message.attributes();
    attributes
        .and_then(|all| all.get(&GIVEN_UP_BY))
        .map_or("", String::as_str)
}

/// Shows a message to others again.
///
/// # Errors
/// A call failed; it is shown by itself within a minute.
pub async fn show(
    operations: &OperationsClients,
    queue: &str,
    message: &Message,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let request = operations
        .sqs
        .change_message_visibility()
        .queue_url(queue)
        .receipt_handle(&message.receipt)
        .visibility_timeout(0);
    deadline
        .call("ChangeMessageVisibility", request.send())
        .await
        .map(|_| ())
}

/// Runs the event of a message again and deletes the message once that was
/// accepted. Says which function it was.
///
/// # Errors
/// It was not accepted, or not deleted; the message is still there.
pub async fn redrive(
    operations: &OperationsClients,
    stack: &Stack,
    queue: &str,
    message: &Message,
    deadline: &Deadline,
) -> Result<String, AwsError> {
    let failed = match &message.event {
        Ok(failed) => failed,
        Err(problem) => return Err(AwsError::not_sent("Invoke", problem.clone())),
    };
    let refused = |why: String| AwsError::not_sent("Invoke", why);
    let function = match &failed.function {
        // Any rule of the account may write to the queue: what a message names is
        // not trusted to be a function of ours.
        Function::Arn(arn) => {
            let name = arn.rsplit(':').next().unwrap_or_default();
            if stack
                .resources
                .get("UndoFunction")
                .is_some_and(|of| of == name)
            {
                return Err(refused(
                    "an undo is asked for by a person: run `backstop undo` again".to_owned(),
                ));
            }
            if !stack.resources.values().any(|of| of == name) {
                return Err(refused(format!("the stack has no function `{arn}`")));
            }
            arn.clone()
        }
        Function::Logical(id) => stack
            .resources
            .get(id)
            .cloned()
            .ok_or_else(|| refused(format!("the stack has no function `{id}`")))?,
    };
    start(operations, &function, &failed.event, deadline).await?;
    let request = operations
        .sqs
        .delete_message()
        .queue_url(queue)
        .receipt_handle(&message.receipt);
    match deadline.call("DeleteMessage", request.send()).await {
        Ok(_) => Ok(function),
        Err(mut error) => {
            error.message += "; its event was accepted and runs again all the same";
            Err(error)
        }
    }
}
