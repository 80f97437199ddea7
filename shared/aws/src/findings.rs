//! What was found and not changed: recorded and told, once while it stays the
//! same, and forgotten when it holds no more.

use backstop_core::words::ControlId;
use tracing::info;

use crate::bus;
use crate::error::AwsError;
use crate::ledger::{Finding, Known, Ledger, LedgerError, Recorded};

/// What keeps something from being recorded and told.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The bus.
    #[error(transparent)]
    Aws(#[from] AwsError),
}

/// Records and tells a finding, once. `known` is what was recorded last, as
/// read; what is `quiet` was told as part of a group. In a word what it came
/// to; `None`: another run recorded something else meanwhile.
///
/// # Errors
/// It could not be stored or told; the next look, or the sweep, tells it.
pub async fn record(
    ledger: &Ledger,
    events: &aws_sdk_eventbridge::Client,
    finding: &impl Finding,
    known: Option<&Known>,
    quiet: bool,
) -> Result<Option<&'static str>, TellError> {
    let (control, resource) = (finding.control(), finding.resource_id());
    let outcome = finding.status();
    let id = match ledger.record(finding, known, quiet).await? {
        Recorded::New => finding.id().to_owned(),
        Recorded::Untold(id) => id,
        Recorded::Told => {
            info!(resource, outcome, "known and told");
            return Ok(Some("known"));
        }
        Recorded::Moved => return Ok(None),
    };
    bus::tell(events, &id).await?;
    ledger.known_told(control.name(), resource, &id).await?;
    info!(entry = %id, resource, %control, outcome, "recorded");
    Ok(Some(outcome))
}

/// What was recorded before holds no more: should it come back, it is told
/// again. Told it has to be, all the same.
///
/// # Errors
/// It could not be stored or told.
pub async fn forget(
    ledger: &Ledger,
    events: &aws_sdk_eventbridge::Client,
    control: ControlId,
    resource: &str,
    known: &Known,
) -> Result<(), TellError> {
    if !known.told {
        bus::tell(events, &known.entry).await?;
        ledger
            .known_told(control.name(), resource, &known.entry)
            .await?;
    }
    ledger.forget(control.name(), resource, known).await?;
    Ok(())
}
