//! The calls of each control that is remediated at once, one file each.

use aws_sdk_ec2::types::ManagedBy;
use backstop_core::account_setting::AccountSetting;
use backstop_core::control::Control;

use crate::remediation::Place;
use crate::security_groups::partition;

mod encryption_by_default;
mod imdsv1;
mod metadata_defaults;
mod open_ingress;
mod public_image;
mod public_snapshot;
mod serial_console;
mod sharing;
mod snapshot_sharing_block;

/// A setting of the account as it is now.
fn setting<C: Control>(
    at: Place<'_>,
    state: C::State,
    managed_by: Option<&ManagedBy>,
) -> AccountSetting<C::State> {
    let (name, partition) = (C::INFO.id.name(), partition(at.region));
    AccountSetting {
        by_declarative_policy: managed_by == Some(&ManagedBy::DeclarativePolicy),
        ..AccountSetting::new(name, partition, at.region, at.account, state)
    }
}
