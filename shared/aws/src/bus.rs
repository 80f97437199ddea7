//! Backstop's own events on the default bus.

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use backstop_core::trigger::{
    CHECK_REQUESTED, CheckRequested, OWN_SOURCE, REMEDIATION_RECORDED, RemediationRecorded,
};
use serde::Serialize;

use crate::error::AwsError;

/// Most entries of one PutEvents call (EventBridge's quota).
const BATCH: usize = 10;

/// Says that an entry waits to be told.
///
/// # Errors
/// The event could not be put on the bus.
pub async fn tell(bus: &aws_sdk_eventbridge::Client, entry: &str) -> Result<(), AwsError> {
    put(
        bus,
        REMEDIATION_RECORDED,
        &[RemediationRecorded {
            entry: entry.to_owned(),
        }],
    )
    .await
}

/// Asks for a look at each of these resources.
///
/// # Errors
/// Not all of the events could be put on the bus. Asking again is harmless.
pub async fn request_checks(
    bus: &aws_sdk_eventbridge::Client,
    checks: &[CheckRequested],
) -> Result<(), AwsError> {
    put(bus, CHECK_REQUESTED, checks).await
}

async fn put<T: Serialize>(
    bus: &aws_sdk_eventbridge::Client,
    detail_type: &str,
    details: &[T],
) -> Result<(), AwsError> {
    for batch in details.chunks(BATCH) {
        let mut request = bus.put_events();
        for detail in batch {
            let detail = serde_json::to_string(detail)
                .map_err(|e| AwsError::not_sent("PutEvents", e.to_string()))?;
            request = request.entries(
                PutEventsRequestEntry::builder()
                    .source(OWN_SOURCE)
                    .detail_type(detail_type)
                    .detail(detail)
                    .build(),
            );
        }
        let answer = request
            .send()
            .await
            .map_err(|e| AwsError::new("PutEvents", &e))?;
        // PutEvents answers 200 and fails single entries.
        if let Some(entry) = answer
            .entries()
            .iter()
            .find(|entry| entry.error_code().is_some())
        {
            return Err(AwsError {
                operation: "PutEvents",
                code: entry.error_code().unwrap_or("Unknown").to_owned(),
                message: entry.error_message().unwrap_or("no message").to_owned(),
                retryable: true,
            });
        }
    }
    Ok(())
}
