//! `restore-account-defaults`: restores settings of the account that protect what
//! is made in it.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::encryption_by_default::EncryptionByDefault;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[&EncryptionByDefault];
