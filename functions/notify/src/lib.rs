//! `notify`: sends the messages about the records in the ledger.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

mod handler;

pub use handler::Handler;
