//! Policy parameter and event bus against the real SSM and EventBridge
//! clients with canned answers.

use std::time::Duration;

use backstop_aws::bus;
use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::policy_store::{KEPT, LAST_GOOD, NoPolicy, PolicyStore};
use backstop_core::trigger::CheckRequested;
use backstop_core::words::Mode;
use backstop_wire::{Call, Reply, Wire};
use serde_json::json;
use tokio::time::Instant;

fn deadline() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

fn parameter(document: &str, version: i64) -> Reply {
    Reply::ok(json!({ "Parameter": { "Name": "/p", "Type": "String", "Value": document, "Version": version } }).to_string())
}

fn store(wire: &Wire) -> PolicyStore {
    PolicyStore::new(Clients::new(&wire.config(1)).ssm, "/p".to_owned())
}

#[tokio::test(start_paused = true)]
async fn the_policy_is_read_once_a_minute() {
    let wire = Wire::new(|_: &Call| {
        parameter(
            r#"{"version":1,"controls":{"open-ingress":{"mode":"enforce"}}}"#,
            7,
        )
    });
    let store = store(&wire);
    let now = Instant::now();
    let policy = store.get_at(&deadline(), now).await.unwrap();
    assert_eq!(
        (policy.version, policy.policy.controls.open_ingress.mode),
        (7, Some(Mode::Enforce))
    );
    store
        .get_at(&deadline(), now + KEPT - Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(wire.calls().len(), 1);
    store.get_at(&deadline(), now + KEPT).await.unwrap();
    assert_eq!(wire.calls().len(), 2);
    assert_eq!(wire.calls()[0].json["Name"], "/p");
}

/// Good once, then whatever `then` says.
fn good_then(then: Reply) -> Wire {
    let first = std::sync::atomic::AtomicBool::new(true);
    Wire::new(move |_: &Call| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            parameter(r#"{"version":1}"#, 1)
        } else {
            then.clone()
        }
    })
}

#[tokio::test(start_paused = true)]
async fn while_it_cannot_be_read_the_last_good_one_serves_for_ten_minutes() {
    let wire = good_then(Reply::json_error("InternalServerError", "try later"));
    let store = store(&wire);
    let now = Instant::now();
    store.get_at(&deadline(), now).await.unwrap();
    store
        .get_at(&deadline(), now + LAST_GOOD - Duration::from_secs(1))
        .await
        .unwrap();
    let error = store
        .get_at(&deadline(), now + LAST_GOOD)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the policy parameter `/p` could not be read: GetParameter: InternalServerError: try later"
    );
}

#[tokio::test(start_paused = true)]
async fn an_invalid_policy_is_an_error_at_once_and_never_the_last_good_one() {
    let wire = good_then(parameter(
        r#"{"version":1,"controls":{"open-ingress":{"mode":"enfroce"}}}"#,
        2,
    ));
    let store = store(&wire);
    let now = Instant::now();
    store.get_at(&deadline(), now).await.unwrap();
    let error = store.get_at(&deadline(), now + KEPT).await.unwrap_err();
    assert!(matches!(error, NoPolicy::Invalid(..)));
    let text = error.to_string();
    for part in [
        "/p",
        "`controls.open-ingress.mode`",
        "enforce",
        "nothing is changed until it is mended",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_policy_nothing_is_decided() {
    for code in [
        "ParameterNotFound",
        "AccessDeniedException",
        "ThrottlingException",
    ] {
        let wire = Wire::new(move |_: &Call| Reply::json_error(code, "no"));
        assert!(
            matches!(
                store(&wire).get(&deadline()).await,
                Err(NoPolicy::Unreadable(..))
            ),
            "{code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn checks_go_out_ten_a_call() {
    let wire = Wire::new(|_: &Call| Reply::ok(r#"{"FailedEntryCount":0,"Entries":[]}"#));
    let checks: Vec<CheckRequested> = (0..23)
        .map(|i| CheckRequested {
            control: "open-ingress".into(),
            resource: format!("sg-{i}"),
            cause: None,
        })
        .collect();
    bus::request_checks(&Clients::new(&wire.config(1)).eventbridge, &checks)
        .await
        .unwrap();
    let sizes: Vec<usize> = wire
        .calls()
        .iter()
        .map(|c| c.json["Entries"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [10, 10, 3]);
    let entry = &wire.calls()[0].json["Entries"][0];
    assert_eq!(
        (entry["Source"].as_str(), entry["DetailType"].as_str()),
        (Some("backstop"), Some("Check Requested"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_bus_refuses_inside_a_successful_answer_is_an_error() {
    let wire = Wire::new(|_: &Call| {
        Reply::ok(
            r#"{"FailedEntryCount":1,"Entries":[{"ErrorCode":"ThrottlingException","ErrorMessage":"slow down"}]}"#,
        )
    });
    let error = bus::tell(&Clients::new(&wire.config(1)).eventbridge, "01JD")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "PutEvents: ThrottlingException: slow down"
    );
}
