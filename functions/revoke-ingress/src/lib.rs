//! `revoke-ingress`: closes what a security group opens to the world, and empties
//! default groups that nothing uses.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::default_security_group::DefaultSecurityGroup;
use backstop_core::controls::open_ingress::OpenIngress;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[&OpenIngress, &DefaultSecurityGroup];
