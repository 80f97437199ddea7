//! Backstop tested as users have it: the events that it is sent, the template
//! that is deployed, and both together on the local AWS. One binary for all of
//! it; a layer is named by its filter: `cargo test --workspace --test it e2e::`.
// The futures of whole stories hold those of every function.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod contract;
mod corpus;
mod documents;
mod e2e;
mod faults;
mod iam;
mod structure;
mod template;
