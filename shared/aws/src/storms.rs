//! Tells what storms only counted, once they are over.
//!
//! The sweep calls this, so that no count waits for another event of its kind.

use backstop_core::notice::Notice;
use backstop_core::run;
use backstop_core::storms::tail;
use jiff::Timestamp;

use crate::bus;
use crate::error::AwsError;
use crate::ledger::{Ledger, LedgerError};

/// Why what a storm counted could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NotTold {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The bus.
    #[error(transparent)]
    Aws(#[from] AwsError),
}

/// Records and tells what storms that are over had only counted. Says how many
/// storms those were.
///
/// # Errors
/// Not all of it was told. What was recorded and not told waits to be told like
/// any other record; what was not recorded is found by the next call.
pub async fn tell_ended(
    ledger: &Ledger,
    bus: &aws_sdk_eventbridge::Client,
    account: &str,
    region: &str,
    now: Timestamp,
) -> Result<u64, NotTold> {
    let mut told = 0;
    for surge in ledger.ended_storms(now).await? {
        let notice = Notice {
            version: run::VERSION,
            id: ledger.clock().new_id(),
            account: account.to_owned(),
            region: region.to_owned(),
            at: now,
            about: tail(&surge.kind, &surge.more, now),
        };
        if ledger.end_storm(&surge, &notice).await? {
            bus::tell(bus, &notice.id).await?;
            ledger.mark_told(&notice.id).await?;
            told += 1;
        }
    }
    Ok(told)
}
