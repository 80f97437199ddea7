//! The calls of each control that is remediated at once, one file each.

use aws_sdk_ec2::types::ManagedBy;
use backstop_core::account_setting::AccountSetting;
use backstop_core::control::Control;

use crate::error::AwsError;
use crate::remediation::Place;
use crate::security_groups::partition;

mod default_security_group;
mod encryption_by_default;
mod image_sharing_block;
mod imdsv1;
mod metadata_defaults;
mod open_ingress;
mod public_image;
mod public_snapshot;
mod public_subnet;
mod serial_console;
mod sharing;
mod snapshot_sharing_block;

/// A setting of the account as `operation` answers it now.
///
/// # Errors
/// Who manages it is not known to this release: whether the account may change it is
/// not, either.
fn setting<C: Control>(
    operation: &'static str,
    at: Place<'_>,
    state: C::State,
    managed_by: Option<&ManagedBy>,
) -> Result<AccountSetting<C::State>, AwsError> {
    let (name, partition) = (C::INFO.id.name(), partition(at.region));
    let by_declarative_policy = match managed_by {
        None | Some(ManagedBy::Account) => false,
        Some(ManagedBy::DeclarativePolicy) => true,
        Some(other) => {
            let who = other.as_str();
            return Err(AwsError::unknown_value(operation, "managedBy", who));
        }
    };
    Ok(AccountSetting {
        by_declarative_policy,
        ..AccountSetting::new(name, partition, at.region, at.account, state)
    })
}
