//! One invocation of a function: how long it may take, by whom locks are held
//! for it, and how a failure is reported to Lambda.

use std::fmt::Display;
use std::time::Duration;

use jiff::Timestamp;
use lambda_runtime::{Context, Diagnostic};

use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::ledger::Holder;

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
