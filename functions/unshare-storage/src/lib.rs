//! `unshare-storage`: ends the sharing of storage with everyone.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::public_image::PublicImage;
use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[&PublicSnapshot, &PublicImage];
