//! One invocation of a function: how long it may take, by whom locks are held
//! for it, and how a failure is reported to Lambda.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lambda_runtime::{Context, Diagnostic};

use crate::deadline::Deadline;
use crate::ledger::Holder;

/// The time that Lambda leaves an invocation.
fn left(context: &Context) -> Duration {
    context
        .deadline()
        .duration_since(SystemTime::now())
        .unwrap_or_default()
}

/// When reads and changes of an invocation have to have ended.
#[must_use]
pub fn deadline(context: &Context) -> Deadline {
    Deadline::new(left(context))
}

/// Who holds locks in an invocation, and until when at the latest: a little
/// later than Lambda would end it.
#[must_use]
pub fn holder(context: &Context) -> Holder {
    Holder {
        id: context.request_id.clone(),
        lease_until: Timestamp::now() + left(context) + Duration::from_secs(2),
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
