//! The invocations of a function: how their payloads are received, how long one may
//! take, by whom locks are held for it, and how a failure is reported to Lambda.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use backstop_core::json::mend;
use jiff::Timestamp;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::MapRequestLayer;
use lambda_runtime::{
    Context, Diagnostic, Error, LambdaEvent, LambdaInvocation, Runtime, service_fn,
};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::ledger::Holder;

/// Runs a function until Lambda ends it: every payload goes to `handle`, mended
/// first ([`mend`]). The runtime reads a payload before the function is called, so
/// that text which is no Unicode would be an error that the function never sees.
///
/// # Errors
/// The runtime's API cannot be reached.
pub async fn serve(
    handle: impl AsyncFn(LambdaEvent<Value>) -> Result<Value, Diagnostic>,
) -> Result<(), Error> {
    let handle = &handle;
    // Boxed: with the layers around it the future is nested too deep to compile.
    Runtime::new(service_fn(move |event| Box::pin(handle(event))))
        .layer(MapRequestLayer::new(mended))
        .layer(TracingLayer::new())
        .run()
        .await
}

fn mended(mut invocation: LambdaInvocation) -> LambdaInvocation {
    if let Cow::Owned(body) = mend(&invocation.body) {
        invocation.body = body.into();
    }
    invocation
}

/// The time left before Lambda ends the invocation, by `clock`; zero once it is
/// over.
#[must_use]
pub fn left(context: &Context, clock: &Clock) -> Duration {
    let deadline = Timestamp::try_from(context.deadline()).unwrap_or(Timestamp::MIN);
    let left = deadline.duration_since(clock.now());
    Duration::try_from(left).unwrap_or_default()
}

/// When reads and changes of an invocation have to have ended.
#[must_use]
pub fn deadline(context: &Context, clock: &Clock) -> Deadline {
    Deadline::new(left(context, clock))
}

/// Who holds locks in an invocation, and until when at the latest: a little
/// later than Lambda would end it.
#[must_use]
pub fn holder(context: &Context, clock: &Clock) -> Holder {
    Holder {
        id: context.request_id.clone(),
        lease_until: clock.now() + left(context, clock) + Duration::from_secs(2),
    }
}

/// Nothing of a batch could be done.
#[derive(Debug, thiserror::Error)]
#[error("nothing of a batch of {all} could be done: {why}")]
pub struct NothingDone {
    /// How many messages it had.
    pub all: usize,
    /// Why the first of them could not be done.
    pub why: String,
}

/// The answer to a batch of `all` messages from a queue: which of them are to be
/// delivered again, by id. `failed`: those that were not done, and why.
///
/// # Errors
/// Nothing could be done.
pub fn batch_answer(all: usize, failed: &[(String, String)]) -> Result<Value, NothingDone> {
    if failed.len() >= all
        && let Some((_, why)) = failed.first()
    {
        let why = why.clone();
        return Err(NothingDone { all, why });
    }
    let failures = failed.iter();
    let failures = failures.map(|(message, _)| json!({ "itemIdentifier": message }));
    Ok(json!({ "batchItemFailures": failures.collect::<Vec<Value>>() }))
}

/// A failure as Lambda's error record has it. Lambda tries every failed event
/// again; whether that can help is for people.
#[must_use]
pub fn diagnostic(failure: &impl Display, retryable: bool) -> Diagnostic {
    Diagnostic {
        error_type: match retryable {
            true => "Retryable",
            false => "NonRetryable",
        }
        .to_owned(),
        error_message: failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::http::{Response, StatusCode};

    use super::*;

    #[test]
    fn a_payload_is_mended_before_the_runtime_reads_it() {
        let received = |body: &'static str| {
            let status = StatusCode::try_from(200).unwrap();
            let response = Response::new(status, ()).try_into_http1x().unwrap();
            let invocation = LambdaInvocation {
                parts: response.into_parts().0,
                body: body.into(),
                context: Context::default(),
            };
            serde_json::from_slice::<Value>(&mended(invocation).body).unwrap()
        };
        assert_eq!(received(r#"{"a":"\ud83d"}"#), json!({ "a": "\u{fffd}" }));
        assert_eq!(received(r#"{"a":"ü"}"#), json!({ "a": "ü" }));
    }
}
