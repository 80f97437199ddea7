//! `watch-opt-outs`: reports who set or removed an opt-out, and requests a check of
//! each resource that lost one.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

mod handler;

pub use handler::Handler;
