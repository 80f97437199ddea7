//! `remove-public-address`: keeps subnets from assigning public addresses.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::public_subnet::PublicSubnet;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[&PublicSubnet];
