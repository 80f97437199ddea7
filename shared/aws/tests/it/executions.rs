//! Starting executions, against the real Step Functions client with answers
//! written from the API reference.

use std::sync::atomic::{AtomicUsize, Ordering};

use backstop_aws::clients::EncryptionClients;
use backstop_aws::executions::start;
use backstop_wire::{Reply, Wire};
use serde_json::json;

const MACHINE: &str = "arn:aws:states:eu-central-1:111122223333:stateMachine:encrypt-volume";

fn started() -> Reply {
    Reply::ok(
        json!({
            "executionArn": "arn:aws:states:eu-central-1:111122223333:execution:encrypt-volume:01K",
            "startDate": 1_795_000_000.0
        })
        .to_string(),
    )
}

#[tokio::test(start_paused = true)]
async fn an_execution_is_started_under_its_name_with_its_input() {
    let wire = Wire::new(|_| started());
    let sfn = EncryptionClients::new(&wire.config(1)).sfn;
    let input = json!({ "entry": "01K", "text": "with \"quotes\"" });
    assert!(start(&sfn, MACHINE, "01K", &input).await.unwrap());
    let calls = wire.calls();
    assert_eq!(wire.operations(), ["StartExecution"]);
    let sent = &calls[0].json;
    assert_eq!(sent["stateMachineArn"], MACHINE);
    assert_eq!(sent["name"], "01K");
    let text = sent["input"].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(text).unwrap(),
        input,
        "the input is a text that is JSON"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_was_started_before_is_not_started_again() {
    let wire = Wire::new(|_| {
        Reply::json_error(
            "com.amazonaws.swf.service.v2.model#ExecutionAlreadyExists",
            "Execution Already Exists: '01K'",
        )
    });
    let sfn = EncryptionClients::new(&wire.config(3)).sfn;
    assert!(!start(&sfn, MACHINE, "01K", &json!({})).await.unwrap());
    assert_eq!(wire.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_answer_was_lost_is_asked_for_again_under_the_same_name() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Broken,
        _ => started(),
    });
    let sfn = EncryptionClients::new(&wire.config(3)).sfn;
    assert!(start(&sfn, MACHINE, "01K", &json!({})).await.unwrap());
    let calls = wire.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].json, calls[1].json);
}

#[tokio::test(start_paused = true)]
async fn whatever_else_is_answered_is_an_error() {
    for (code, message) in [
        ("StateMachineDoesNotExist", "State Machine Does Not Exist"),
        ("AccessDeniedException", "not authorized"),
        ("StateMachineDeleting", "being deleted"),
    ] {
        let wire = Wire::new(move |_| Reply::json_error(code, message));
        let sfn = EncryptionClients::new(&wire.config(1)).sfn;
        let error = start(&sfn, MACHINE, "01K", &json!({})).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("StartExecution: {code}: {message}")
        );
    }
    let wire = Wire::new(|_| Reply::Broken);
    let sfn = EncryptionClients::new(&wire.config(1)).sfn;
    let error = start(&sfn, MACHINE, "01K", &json!({})).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.retryable),
        ("NoConnection", true)
    );
}
