//! `public-snapshot`: the calls.
//!
//! Only the grant to everyone is ever added or removed: a reset would take the
//! named accounts with it.

use aws_sdk_ec2::types::SnapshotBlockPublicAccessState::{BlockAllSharing, BlockNewSharing};
use aws_sdk_ec2::types::{OperationType, PermissionGroup, SnapshotAttributeName};
use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_core::plan::{Change, Outcome};
use backstop_core::sharing::{EVERYONE, Holder, Storage};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Concerned, Place, Remediation, Stopped, Walked, outcome};
use crate::remediations::sharing;
use crate::security_groups::{partition, tags};

const READ_GRANTS: &str = "DescribeSnapshotAttribute";

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
            deadline.call(READ_GRANTS, grants),
            deadline.call("GetSnapshotBlockPublicAccessState", block),
        );
        let described = described.map(|answer| answer.snapshots.unwrap_or_default());
        let Some(snapshot) = sharing::described(described)? else {
            return Ok(None);
        };
        if snapshot.owner_id().is_none() {
            return Err(AwsError::incomplete("DescribeSnapshots", "ownerId"));
        }
        let grants = grants.map(|answer| answer.create_volume_permissions.unwrap_or_default());
        let Some(grants) = sharing::grants(grants)? else {
            return Ok(None);
        };
        let holders = grants
            .into_iter()
            .map(|grant| match (grant.group, grant.user_id) {
                (Some(PermissionGroup::All), _) => Ok(Holder::Everyone),
                (None, Some(account)) => Ok(Holder::Account(account)),
                (group, _) => {
                    let group = group.as_ref().map(PermissionGroup::as_str);
                    Err(sharing::unknown_grant(READ_GRANTS, group))
                }
            });
        let block = sharing::block(block).and_then(|block| block.state);
        Ok(Some(Storage {
            hidden: block == Some(BlockAllSharing),
            blocked: matches!(block, Some(BlockAllSharing | BlockNewSharing)),
            shared_with: holders.collect::<Result<_, _>>()?,
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
        // Of all of them at once: a page shows the grants that it hides like others.
        let block = aws.ec2.get_snapshot_block_public_access_state().send();
        let block = at.deadline.call("GetSnapshotBlockPublicAccessState", block);
        let block = sharing::block(block.await).and_then(|block| block.state);
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
            // By the request's filter.
            let public = snapshots.map(|snapshot| Storage {
                hidden: block == Some(BlockAllSharing),
                shared_with: [Holder::Everyone].into(),
                ..facts(snapshot, at.region)
            });
            Ok((public.collect(), page.next_token.clone()))
        };
        sharing::walk(at, "public snapshots", read, each).await
    }

    /// Every snapshot with a public grant, once the account's block of public sharing
    /// was changed.
    async fn concerned(aws: &Clients, at: Place<'_>, _region: &str) -> Result<Concerned, AwsError> {
        let mut public = Vec::new();
        let walked = Self::walk(aws, at, async |page| {
            public.extend(page.into_iter().map(|snapshot| snapshot.id));
        });
        walked.await.map_err(|stopped| stopped.error)?;
        Ok(Concerned::Resources(public))
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
