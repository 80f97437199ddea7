//! `image-sharing-block`: the calls.

use aws_sdk_ec2::types::ImageBlockPublicAccessEnabledState as Enabled;
use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::image_sharing_block::{Block, ImageSharingBlock};
use backstop_core::plan::{Change, Outcome};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome, walk_setting};
use crate::remediations::setting;

const READ: &str = "GetImageBlockPublicAccessState";
/// The field of its answer.
const STATE: &str = "imageBlockPublicAccessState";

impl Remediation for ImageSharingBlock {
    async fn gather(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
    ) -> Result<Option<AccountSetting<Block>>, AwsError> {
        let request = aws.ec2.get_image_block_public_access_state().send();
        let answer = at.deadline.call(READ, request).await?;
        let block = match answer.image_block_public_access_state() {
            Some("unblocked") => Block::Unblocked,
            Some("block-new-sharing") => Block::BlockNewSharing,
            Some(other) => return Err(AwsError::unknown_value(READ, STATE, other)),
            None => return Err(AwsError::incomplete(READ, STATE)),
        };
        setting::<Self>(READ, at, block, answer.managed_by()).map(Some)
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
        change: &Change<Block>,
    ) -> Vec<Outcome> {
        let (ec2, deadline) = (&aws.ec2, at.deadline);
        let answer = if change.after == Some(Block::BlockNewSharing) {
            let request = ec2
                .enable_image_block_public_access()
                .image_block_public_access_state(Enabled::BlockNewSharing);
            let answer = deadline.call("EnableImageBlockPublicAccess", request.send());
            answer.await.map(|_| ())
        } else {
            let request = ec2.disable_image_block_public_access();
            let answer = deadline.call("DisableImageBlockPublicAccess", request.send());
            answer.await.map(|_| ())
        };
        outcome::<Self>(change, answer)
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<AccountSetting<Block>>),
    ) -> Result<Walked, Stopped> {
        walk_setting::<Self>(aws, at, each).await
    }
}
