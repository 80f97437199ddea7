//! The queue of failed events, against the real SDK clients with canned
//! answers: a message goes only once the function has accepted its event.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop_aws::clients::OperationsClients;
use backstop_aws::deadline::Deadline;
use backstop_aws::failed_events::{redrive, take};
use backstop_aws::stack::Stack;
use backstop_wire::{Call, Reply, Wire};
use serde_json::json;

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/111122223333/q";

fn wire(accepts: bool, body: &'static str) -> Wire {
    let taken = AtomicBool::new(false);
    Wire::new(move |call: &Call| match call.operation.as_str() {
        "ReceiveMessage" if taken.swap(true, Ordering::SeqCst) => Reply::ok("{}"),
        "ReceiveMessage" => Reply::ok(
            json!({ "Messages": [{ "MessageId": "m", "ReceiptHandle": "h", "Body": body }] })
                .to_string(),
        ),
        "DeleteMessage" | "ChangeMessageVisibility" => Reply::ok("{}"),
        // Lambda's protocol has no name of an operation in it.
        "" if accepts => Reply::Answer(202, String::new()),
        "" => Reply::Answer(
            403,
            r#"{"Type":"User","Message":"not authorized"}"#.to_owned(),
        ),
        other => panic!("{other}"),
    })
}

/// Lambda's record around an event, of this function.
macro_rules! record {
    ($function:literal) => {
        concat!(
            r#"{"requestContext":{"functionArn":"arn:aws:lambda:eu-central-1:111122223333:function:"#,
            $function,
            r#":$LATEST","condition":"RetriesExhausted"},"requestPayload":{"remediation":"01M"}}"#
        )
    };
}

const BARE: &str =
    r#"{"source":"backstop","detail-type":"Check Requested","detail":{"resource":"sg-1"}}"#;

async fn run(wire: &Wire, stack: &Stack) -> Result<String, String> {
    let operations = OperationsClients::new(&wire.config(1));
    let deadline = Deadline::new(Duration::from_secs(60));
    let messages = take(&operations, QUEUE, &deadline).await.unwrap();
    assert_eq!(messages.len(), 1);
    redrive(&operations, stack, QUEUE, &messages[0], &deadline)
        .await
        .map_err(|error| error.to_string())
}

fn stack() -> Stack {
    Stack {
        resources: [
            ("RevokeIngressFunction", "backstop-revoke"),
            ("UndoFunction", "backstop-undo"),
        ]
        .map(|(logical, physical)| (logical.to_owned(), physical.to_owned()))
        .into(),
        ..Stack::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_deleted_after_its_event_was_accepted() {
    let wire = wire(true, BARE);
    assert_eq!(run(&wire, &stack()).await.unwrap(), "backstop-revoke");
    let operations = wire.operations();
    assert_eq!(operations[operations.len() - 2..], ["", "DeleteMessage"]);
    let wire = self::wire(true, record!("backstop-revoke"));
    let function = run(&wire, &stack()).await.unwrap();
    assert!(
        function.ends_with(":function:backstop-revoke"),
        "{function}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_accepted_or_cannot_be_read_stays() {
    for (accepts, body, stack, part) in [
        (false, BARE, stack(), "Invoke: "),
        (true, "neither", stack(), "not JSON"),
        (
            true,
            BARE,
            Stack::default(),
            "no function `RevokeIngressFunction`",
        ),
        // Whoever may make a rule may write such a record.
        (true, record!("payroll"), stack(), "no function `arn:"),
        (true, record!("backstop-undo"), stack(), "`backstop undo`"),
    ] {
        let wire = wire(accepts, body);
        let error = run(&wire, &stack).await.unwrap_err();
        assert!(error.contains(part), "{error}");
        assert!(!wire.operations().contains(&"DeleteMessage".to_owned()));
    }
}
