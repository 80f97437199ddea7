//! What follows where the budget's condition refused a run: the control trips, for
//! the resource alone or everywhere. A trip of the control is recorded and told once,
//! however many runs meet it.
//!
//! Deliberately not here: which of them it is (`backstop_core::guards::Spent`).

use backstop_core::guards::{OverBudget, Trip};
use backstop_core::notice::{About, ControlTripped, Notice};
use backstop_core::run::{self, Head};
use tracing::warn;

use crate::bus;
use crate::findings::TellError;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics;

/// What follows for the run with this head, of which the budget of the hour refused
/// so many `changes`.
///
/// # Errors
/// What is spent could not be read.
pub async fn follows(
    ledger: &Ledger,
    head: &Head,
    changes: usize,
    budget: u32,
) -> Result<OverBudget, LedgerError> {
    let spent = ledger.spent(head.control, head.resource_id()).await?;
    Ok(spent.over(changes, budget))
}

/// What follows for a run that is begun as a whole or not at all. A trip that it
/// takes is stored, and the next look meets it.
///
/// # Errors
/// It could not be stored or told.
pub async fn refused(
    ledger: &Ledger,
    events: &aws_sdk_eventbridge::Client,
    head: &Head,
    changes: usize,
    budget: u32,
) -> Result<OverBudget, TellError> {
    let follows = follows(ledger, head, changes, budget).await?;
    match follows {
        OverBudget::Fits | OverBudget::Spent => {}
        OverBudget::Resource { needs, .. } => {
            let trip = resource_trip(ledger, needs, budget);
            resource_over_budget(ledger, head, &trip).await?;
        }
        OverBudget::Control => {
            control_over_budget(ledger, events, head, changes, budget).await?;
        }
    }
    Ok(follows)
}

/// The control trips for the resource of a run alone.
///
/// # Errors
/// It could not be stored.
pub async fn resource_over_budget(
    ledger: &Ledger,
    head: &Head,
    trip: &Trip,
) -> Result<(), LedgerError> {
    let (control, resource) = (head.control, head.resource_id());
    warn!(%control, resource, why = %trip.why, "the control has tripped for the resource");
    ledger.trip_over_budget(control, resource, trip).await
}

/// The trip of a resource that exceeds the budget by itself: with those that it has
/// had, it `needs` so many changes in this clock hour.
#[must_use]
pub fn resource_trip(ledger: &Ledger, needs: u64, budget: u32) -> Trip {
    Trip {
        at: ledger.clock().now(),
        why: format!(
            "it alone would take {needs} changes in an hour, more than the budget of {budget}"
        ),
    }
}

/// The control changes nothing more until a person re-arms it: a run would have made
/// more `changes` than its `budget` of the hour allows.
///
/// # Errors
/// It could not be stored or told.
pub async fn control_over_budget(
    ledger: &Ledger,
    events: &aws_sdk_eventbridge::Client,
    head: &Head,
    changes: usize,
    budget: u32,
) -> Result<(), TellError> {
    let at = ledger.clock().now();
    let control = head.control;
    let trip = Trip {
        at,
        why: format!("it would have made more than {budget} changes in an hour"),
    };
    let notice = Notice {
        version: run::VERSION,
        id: ledger.clock().new_id(),
        account: head.account.clone(),
        region: head.region.clone(),
        at,
        about: About::ControlTripped(ControlTripped {
            control,
            changes_per_hour: budget,
            resource: head.resource.clone(),
            changes: u32::try_from(changes).unwrap_or(u32::MAX),
            at,
        }),
    };
    warn!(%control, budget, "the control has tripped");
    let tripped = ledger.trip_control(control, &trip, &notice).await?;
    metrics::tripped(1);
    if tripped {
        bus::tell(events, &notice.id).await?;
        ledger.mark_told(&notice.id).await?;
    }
    Ok(())
}
