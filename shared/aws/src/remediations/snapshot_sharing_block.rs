//! `snapshot-sharing-block`: the calls.

use aws_sdk_ec2::types::SnapshotBlockPublicAccessState as State;
use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::snapshot_sharing_block::{Block, SnapshotSharingBlock};
use backstop_core::plan::{Change, Outcome};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome, walk_setting};
use crate::remediations::setting;

const READ: &str = "GetSnapshotBlockPublicAccessState";

impl Remediation for SnapshotSharingBlock {
    async fn gather(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
    ) -> Result<Option<AccountSetting<Block>>, AwsError> {
        let request = aws.ec2.get_snapshot_block_public_access_state().send();
        let answer = at.deadline.call(READ, request).await?;
        let block = match answer.state() {
            Some(State::Unblocked) => Block::Unblocked,
            Some(State::BlockNewSharing) => Block::BlockNewSharing,
            Some(State::BlockAllSharing) => Block::BlockAllSharing,
            Some(other) => return Err(AwsError::unknown_value(READ, "state", other.as_str())),
            None => return Err(AwsError::incomplete(READ, "state")),
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
        let state = match change.after {
            Some(Block::BlockNewSharing) => Some(State::BlockNewSharing),
            Some(Block::BlockAllSharing) => Some(State::BlockAllSharing),
            Some(Block::Unblocked) | None => None,
        };
        let answer = if let Some(state) = state {
            let request = ec2.enable_snapshot_block_public_access().state(state);
            let answer = deadline.call("EnableSnapshotBlockPublicAccess", request.send());
            answer.await.map(|_| ())
        } else {
            let request = ec2.disable_snapshot_block_public_access();
            let answer = deadline.call("DisableSnapshotBlockPublicAccess", request.send());
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
