//! `restore-account-defaults`: turns settings that an account has in a Region back
//! to what protects it.
//!
//! A library, so that tests run it in their own process; `main.rs` wires it to
//! Lambda.

use backstop_core::controls::encryption_by_default::EncryptionByDefault;
use backstop_core::controls::image_sharing_block::ImageSharingBlock;
use backstop_core::controls::metadata_defaults::MetadataDefaults;
use backstop_core::controls::serial_console::SerialConsole;
use backstop_core::controls::snapshot_sharing_block::SnapshotSharingBlock;
use backstop_engine::Served;

/// The controls that it serves.
pub const CONTROLS: &[&dyn Served] = &[
    &EncryptionByDefault,
    &SnapshotSharingBlock,
    &MetadataDefaults,
    &SerialConsole,
    &ImageSharingBlock,
];
