//! A control that trips: recorded and told once, however many runs meet it.

use backstop_core::guards::Trip;
use backstop_core::notice::{About, ControlTripped, Notice};
use backstop_core::run;
use backstop_core::words::ControlId;
use tracing::warn;

use crate::bus;
use crate::findings::TellError;
use crate::ledger::{Ledger, LockedRun};

/// Where a control trips.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The account.
    pub account: &'a str,
    /// The Region.
    pub region: &'a str,
    /// ARN of the resource whose changes would exceed the budget.
    pub resource: &'a str,
}

/// The control changes nothing more until a person re-arms it: `run` would have
/// made more `changes` than its `budget` of the hour allows.
///
/// # Errors
/// It could not be stored or told.
pub async fn over_budget(
    ledger: &Ledger,
    events: &aws_sdk_eventbridge::Client,
    run: &impl LockedRun,
    place: Place<'_>,
    changes: usize,
    budget: u32,
) -> Result<(), TellError> {
    let at = ledger.clock().now();
    let control: ControlId = run.control();
    let trip = Trip {
        at,
        why: format!("it would have made more than {budget} changes in an hour"),
    };
    let notice = Notice {
        version: run::VERSION,
        id: ledger.clock().new_id(),
        account: place.account.to_owned(),
        region: place.region.to_owned(),
        at,
        about: About::ControlTripped(ControlTripped {
            control,
            changes_per_hour: budget,
            resource: place.resource.to_owned(),
            changes: u32::try_from(changes).unwrap_or(u32::MAX),
            at,
        }),
    };
    warn!(%control, budget, "the control has tripped");
    if ledger.trip_control(control, &trip, &notice).await? {
        bus::tell(events, &notice.id).await?;
        ledger.mark_told(&notice.id).await?;
    }
    Ok(())
}
