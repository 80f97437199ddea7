//! The function's time, and calls that must end within it.
//!
//! A call that waits out its throttling must not be cut off by Lambda: what
//! happened could then neither be recorded nor told.

use std::future::Future;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::Instant;

use crate::error::AwsError;

/// Kept back from the function's time-out for recording and telling what
/// happened.
pub const RESERVE: Duration = Duration::from_secs(10);

/// When reads and changes have to have ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// From the time that Lambda leaves the invocation, less [`RESERVE`] (or
    /// less half of it, where there is not even that much).
    #[must_use]
    pub fn new(left: Duration) -> Self {
        Self(Instant::now() + left.saturating_sub(RESERVE.min(left / 2)))
    }

    /// Time left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Waits for an AWS call, retries and waits of the SDK included, but no
    /// longer than the deadline.
    ///
    /// # Errors
    /// What AWS answered, or that time ran out.
    pub async fn call<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, AwsError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match tokio::time::timeout_at(self.0, call).await {
            Ok(answer) => answer.map_err(|error| AwsError::new(operation, &error)),
            Err(_) => Err(AwsError::out_of_time(operation)),
        }
    }
}
