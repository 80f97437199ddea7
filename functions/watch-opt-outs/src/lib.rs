//! `watch-opt-outs`: tells who set or removed an opt-out, and has what lost one
//! looked at.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

mod handler;

pub use handler::Handler;
