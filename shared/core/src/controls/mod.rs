//! The controls: what Backstop finds, one file or folder each. Their ids are in
//! `words` (`ControlId`), which depends on none of them.

use crate::any_control::AnyControl;
use crate::info::{ControlInfo, StepwiseInfo};
use crate::words::ControlId;

pub mod default_security_group;
pub mod encryption_by_default;
pub mod image_sharing_block;
pub mod imdsv1;
pub mod metadata_defaults;
pub mod missing_patches;
pub mod open_ingress;
pub mod public_image;
pub mod public_snapshot;
pub mod public_subnet;
pub mod serial_console;
pub mod snapshot_sharing_block;
pub mod unencrypted_volume;
pub mod unmanaged_instance;
pub mod vulnerable_package;

/// The controls that are remediated at once.
pub static CONTROLS: &[&dyn AnyControl] = &[
    &open_ingress::OpenIngress,
    &encryption_by_default::EncryptionByDefault,
    &public_snapshot::PublicSnapshot,
    &public_image::PublicImage,
    &snapshot_sharing_block::SnapshotSharingBlock,
    &metadata_defaults::MetadataDefaults,
    &serial_console::SerialConsole,
    &default_security_group::DefaultSecurityGroup,
    &image_sharing_block::ImageSharingBlock,
    &public_subnet::PublicSubnet,
    &imdsv1::ImdsV1,
];

/// The control with this id, if it is one that is remediated at once.
#[must_use]
pub fn of(id: ControlId) -> Option<&'static dyn AnyControl> {
    CONTROLS
        .iter()
        .copied()
        .find(|control| control.info().id == id)
}

/// What is fixed about each control that is remediated at once.
pub fn infos() -> impl Iterator<Item = &'static ControlInfo> {
    CONTROLS.iter().map(|control| control.info())
}

/// What is fixed about each control whose remediation takes minutes.
pub static STEPWISE: &[StepwiseInfo] = &[
    unencrypted_volume::INFO,
    vulnerable_package::INFO,
    missing_patches::INFO,
    unmanaged_instance::INFO,
];
