//! `require-imdsv2`: has instances answer requests for metadata with a token alone.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::imdsv1::ImdsV1;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[&ImdsV1];
