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
use crate::group_pages::each_page;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome};
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
        let described = match described {
            Err(error) if error.is_gone() => return Ok(None),
            described => described?,
        };
        let Some(snapshot) = described.snapshots().first() else {
            return Ok(None);
        };
        let shared_with = match grants {
            Err(error) if error.is_gone() => return Ok(None),
            // Another account's snapshot: whom it is shared with is not ours to see.
            Err(error) if error.code == "AuthFailure" => Vec::new(),
            grants => grants?.create_volume_permissions.unwrap_or_default(),
        };
        let shared_with = shared_with.into_iter().filter_map(|grant| {
            match grant.group == Some(PermissionGroup::All) {
                true => Some(Holder::Everyone),
                false => grant.user_id.map(Holder::Account),
            }
        });
        // Only the severity and an undo depend on it: without an answer there is none.
        use SnapshotBlockPublicAccessState::{BlockAllSharing, BlockNewSharing};
        let block = match block {
            Ok(block) => block.state,
            Err(error) => {
                tracing::warn!(%error, "whether public sharing is blocked is not known");
                None
            }
        };
        Ok(Some(Storage {
            hidden: block == Some(BlockAllSharing),
            blocked: matches!(block, Some(BlockAllSharing | BlockNewSharing)),
            shared_with: shared_with.collect(),
            ..facts(snapshot, at.region)
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
        let walked = each_page(at.deadline, read, each).await;
        let stopped = |(seen, error)| Stopped {
            what: "public snapshots",
            seen,
            error,
        };
        walked.map_err(stopped).map(|seen| Walked {
            seen,
            unseen: Vec::new(),
        })
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
