//! `public-snapshot`: the calls.
//!
//! Only the grant to everyone is ever added or removed: a reset would take the
//! named accounts with it.

use aws_sdk_ec2::types::{
    OperationType, PermissionGroup, SnapshotAttributeName, SnapshotBlockPublicAccessState,
};
use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_core::plan::{Change, Outcome};
use backstop_core::sharing::{EVERYONE, Holder, Storage};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome};
use crate::remediations::sharing;
use crate::security_groups::{partition, tags};

/// Most snapshots of a page.
const PAGE: i32 = 1000;

impl Remediation for PublicSnapshot {
    async fn gather(aws: &Clients, at: Place<'_>, id: &str) -> Result<Option<Storage>, AwsError> {
        let (ec2, deadline) = (&aws.ec2, at.deadline);
        let describe = ec2.describe_snapshots().snapshot_ids(id).send();
        let grants = ec2
            .describe_snapshot_attribute()
            .snapshot_id(id)
            .attribute(SnapshotAttributeName::CreateVolumePermission)
            .send();
        let block = ec2.get_snapshot_block_public_access_state().send();
        let (described, grants, block) = tokio::join!(
            deadline.call("DescribeSnapshots", describe),
            deadline.call("DescribeSnapshotAttribute", grants),
            deadline.call("GetSnapshotBlockPublicAccessState", block),
        );
        let described = described.map(|answer| answer.snapshots.unwrap_or_default());
        let Some(snapshot) = sharing::described(described)? else {
            return Ok(None);
        };
        let grants = grants.map(|answer| answer.create_volume_permissions.unwrap_or_default());
        let Some(grants) = sharing::grants(grants)? else {
            return Ok(None);
        };
        let shared_with = grants.into_iter().filter_map(|grant| {
            match grant.group == Some(PermissionGroup::All) {
                true => Some(Holder::Everyone),
                false => grant.user_id.map(Holder::Account),
            }
        });
        use SnapshotBlockPublicAccessState::{BlockAllSharing, BlockNewSharing};
        let block = sharing::block(block).and_then(|block| block.state);
        Ok(Some(Storage {
            hidden: block == Some(BlockAllSharing),
            blocked: matches!(block, Some(BlockAllSharing | BlockNewSharing)),
            shared_with: shared_with.collect(),
            ..facts(&snapshot, at.region)
        }))
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        change: &Change<Holder>,
    ) -> Vec<Outcome> {
        let operation = match change.after {
            Some(_) => OperationType::Add,
            None => OperationType::Remove,
        };
        let request = aws
            .ec2
            .modify_snapshot_attribute()
            .snapshot_id(id)
            .attribute(SnapshotAttributeName::CreateVolumePermission)
            .operation_type(operation)
            .group_names(EVERYONE)
            .send();
        let answer = at.deadline.call("ModifySnapshotAttribute", request).await;
        outcome::<Self>(change, answer.map(|_| ()))
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<Storage>),
    ) -> Result<Walked, Stopped> {
        let read = async |token: Option<String>| {
            let request = aws
                .ec2
                .describe_snapshots()
                .owner_ids("self")
                .restorable_by_user_ids(EVERYONE)
                .max_results(PAGE)
                .set_next_token(token);
            let page = at
                .deadline
                .call("DescribeSnapshots", request.send())
                .await?;
            let snapshots = page.snapshots().iter();
            // By the request's filter; whether it is hidden, the look reads.
            let public = snapshots.map(|snapshot| Storage {
                shared_with: [Holder::Everyone].into(),
                ..facts(snapshot, at.region)
            });
            Ok((public.collect(), page.next_token.clone()))
        };
        sharing::walk(at, "public snapshots", read, each).await
    }
}

/// What DescribeSnapshots shows of a snapshot.
fn facts(snapshot: &aws_sdk_ec2::types::Snapshot, region: &str) -> Storage {
    let id = snapshot.snapshot_id().unwrap_or_default().to_owned();
    let tags = tags(snapshot.tags());
    Storage {
        // A snapshot's ARN names no account.
        arn: format!("arn:{}:ec2:{region}::snapshot/{id}", partition(region)),
        owner: snapshot.owner_id().unwrap_or_default().to_owned(),
        name: tags.get("Name").unwrap_or(&id).clone(),
        id,
        tags,
        hidden: false,
        blocked: false,
        shared_with: [].into(),
        last_used: None,
    }
}
