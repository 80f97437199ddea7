//! The ledger's protocol as a model: lock, lease, look again, go on, budget,
//! told once, close. A model checker (stateright) explores every interleaving
//! of a few runs, with whatever goes wrong anywhere between.
//!
//! `table` is what the ledger does with a request, `runs` who sends it and when,
//! `messages` how `notify` sends a message once. `shared/aws/tests/it/model.rs`
//! checks them, and holds each request that was met on the way, with what it met,
//! against the real ledger.
//!
//! Deliberately not here: what is decided and how it is stored.
#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    reason = "test support"
)]

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

pub mod messages;
pub mod runs;
pub mod table;

/// What came of a check.
#[derive(Debug)]
pub struct Checked {
    /// States that differ.
    pub states: usize,
    /// Steps of the longest way.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Properties that do not hold, each with the shortest way there.
    pub broken: Vec<(&'static str, String)>,
}

/// Explores all states of a model, or those up to the first broken property.
fn check<M>(model: M) -> (Checked, impl Checker<M>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let mut broken = Vec::new();
    for property in checker.model().properties() {
        let found = discoveries.get(property.name);
        match (&property.expectation, found) {
            (Expectation::Sometimes, Some(_)) | (Expectation::Always, None) => {}
            (_, None) => broken.push((property.name, "it never happens".to_owned())),
            (_, Some(path)) => {
                let steps = path.clone().into_actions();
                broken.push((
                    property.name,
                    format!("{steps:?}\n{:#?}", path.last_state()),
                ));
            }
        }
    }
    let checked = Checked {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        broken,
    };
    (checked, checker)
}
