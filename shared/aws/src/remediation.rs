//! How the resources of a control are read and changed.
//!
//! `gather` and `apply` are all that a control needs here; locks, retries, the
//! kill switch, verification and messages are the engine's. Deliberately not
//! here: what is wrong and what becomes of it (`backstop_core::control`).

use std::future::Future;

use backstop_core::control::Control;
use backstop_core::plan::{Change, Ending, Outcome};
use backstop_core::policy::Governed;
use backstop_core::undo::{Act, ItemStates};

use crate::clients::Clients;
use crate::deadline::Deadline;
use crate::error::AwsError;

/// Where a run is at work, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The account.
    pub account: &'a str,
    /// The Region.
    pub region: &'a str,
    /// By when reads and changes must have ended.
    pub deadline: &'a Deadline,
}

/// The resources that another one concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concerned {
    /// It is gone: none.
    Gone,
    /// It is being changed, in what state: look again later.
    BeingModified(String),
    /// These, by id.
    Resources(Vec<String>),
}

/// A walk over all resources of a kind that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the walk over the {what} ended after {seen} of them: {error}")]
pub struct Stopped {
    /// What it walks over, in the plural.
    pub what: &'static str,
    /// How many it had seen.
    pub seen: u64,
    /// Why.
    pub error: AwsError,
}

/// A walk that came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// How many resources there are.
    pub seen: u64,
    /// What could not be read beside them, one clause each.
    pub unseen: Vec<String>,
}

/// The calls of a control that is remediated at once.
pub trait Remediation: Control + Governed {
    /// Reads a resource as it is now, all pages, in one parallel round; a second
    /// only where the first names more to read. `None`: it is gone.
    fn gather(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
    ) -> impl Future<Output = Result<Option<Self::Facts>, AwsError>>;

    /// Makes one change, in either direction. Every call yields an outcome, and
    /// no failure hides another.
    fn apply(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        change: &Change<Self::State>,
    ) -> impl Future<Output = Vec<Outcome>>;

    /// Hands all resources of the Region to `each`, a page at a time, with all
    /// that a page shows of them.
    fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<Self::Facts>),
    ) -> impl Future<Output = Result<Walked, Stopped>>;

    /// The resources that another one concerns, which an event named
    /// ([`backstop_core::trigger::Parsed::Expand`]).
    fn concerned(
        _aws: &Clients,
        _at: Place<'_>,
        _id: &str,
    ) -> impl Future<Output = Result<Concerned, AwsError>> {
        std::future::ready(Ok(Concerned::Gone))
    }

    /// Carries out what an undo decided about each item. `opt_out` gives the value
    /// of the opt-out tag that an item is restored with, for controls whose items
    /// carry tags; for others the engine has seen to the opt-out before.
    fn restore(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        states: &[ItemStates<Self::State>],
        _opt_out: &dyn Fn(&Self::State) -> String,
    ) -> impl Future<Output = Vec<Outcome>> {
        async move {
            let mut outcomes = Vec::new();
            for state in states {
                if matches!(state.act, Act::Authorise | Act::Widen) {
                    outcomes.extend(Self::apply(aws, at, id, &state.change()).await);
                }
            }
            outcomes
        }
    }
}

/// The outcome of the one step of a change, from what its call answered.
#[must_use]
pub fn outcome<R: Remediation>(
    change: &Change<R::State>,
    answer: Result<(), AwsError>,
) -> Vec<Outcome> {
    vec![Outcome {
        round: 0,
        item: change.item.clone(),
        step: change.step(R::IN_PLACE.0),
        permission: None,
        created: None,
        without: None,
        ending: match answer {
            Ok(()) => Ending::Done,
            // Somebody deleted the resource meanwhile, and the item with it.
            Err(error) if error.is_gone() && change.after.is_none() => Ending::AlreadyDone,
            Err(error) => error.ending(),
        },
    }]
}

/// The walk over a setting of the account: the one resource there is.
///
/// # Errors
/// It could not be read.
pub async fn walk_setting<R: Remediation>(
    aws: &Clients,
    at: Place<'_>,
    mut each: impl AsyncFnMut(Vec<R::Facts>),
) -> Result<Walked, Stopped> {
    let setting = R::gather(aws, at, at.region)
        .await
        .map_err(|error| Stopped {
            what: "settings of the account",
            seen: 0,
            error,
        })?;
    each(setting.into_iter().collect()).await;
    Ok(Walked {
        seen: 1,
        unseen: Vec::new(),
    })
}
