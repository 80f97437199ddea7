//! `encryption-by-default`: the calls.

use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::encryption_by_default::EncryptionByDefault;
use backstop_core::plan::{Change, Outcome};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome, walk_setting};
use crate::remediations::setting;
use crate::volumes;

impl Remediation for EncryptionByDefault {
    async fn gather(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
    ) -> Result<Option<AccountSetting<bool>>, AwsError> {
        let is_on = volumes::encryption_by_default(&aws.ec2, at.deadline).await?;
        // Declarative policies know nothing of this setting.
        setting::<Self>("GetEbsEncryptionByDefault", at, is_on, None).map(Some)
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
        change: &Change<bool>,
    ) -> Vec<Outcome> {
        let (ec2, deadline) = (&aws.ec2, at.deadline);
        let answer = if change.after == Some(true) {
            let request = ec2.enable_ebs_encryption_by_default().send();
            let answer = deadline.call("EnableEbsEncryptionByDefault", request).await;
            answer.map(|_| ())
        } else {
            let request = ec2.disable_ebs_encryption_by_default().send();
            let answer = deadline
                .call("DisableEbsEncryptionByDefault", request)
                .await;
            answer.map(|_| ())
        };
        outcome::<Self>(change, answer)
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<AccountSetting<bool>>),
    ) -> Result<Walked, Stopped> {
        walk_setting::<Self>(aws, at, each).await
    }
}
