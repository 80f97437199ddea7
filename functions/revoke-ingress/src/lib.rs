//! `revoke-ingress`: closes what a security group opens to the world.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[&OpenIngress];
