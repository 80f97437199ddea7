//! `encryption-by-default`: the account's setting, which is its only item.

use backstop_core::words::ControlId;
use backstop_tests::local_aws::REGION;
use backstop_wire::memory::ec2::Ec2;

use super::Fixture;

pub(super) struct EncryptionByDefault;

impl Fixture for EncryptionByDefault {
    fn control(&self) -> ControlId {
        ControlId::EncryptionByDefault
    }

    fn id(&self) -> &'static str {
        REGION
    }

    fn place(&self, ec2: &mut Ec2) {
        ec2.encryption_by_default = true;
    }

    fn items(&self) -> &[&'static str] {
        &["encryption-by-default"]
    }

    fn expose(&self, _setting: &str, ec2: &mut Ec2) {
        ec2.encryption_by_default = false;
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        vec![ec2.encryption_by_default.to_string()]
    }
}
