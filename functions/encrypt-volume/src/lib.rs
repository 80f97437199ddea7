//! `encrypt-volume`: replaces unencrypted volumes by encrypted copies.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

mod advance;
mod handler;

pub use handler::Handler;
