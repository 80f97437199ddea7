//! The snapshots that were taken before patches were installed, page by page, for
//! the sweep, and the deletion of those that the policy has kept for long enough.
//!
//! Deliberately not here: which those are (`backstop_core::sweep::patching`).

use backstop_core::encryption::Purpose;
use backstop_core::volumes::{ENTRY_TAG, PURPOSE_TAG, Snapshot};

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::security_groups::filter;
use crate::volumes::read::{SNAPSHOTS_PAGE, snapshot};

/// A walk that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the walk over the snapshots of runs ended after {seen} of them: {error}")]
pub struct Stopped {
    /// How many snapshots it had seen.
    pub seen: u64,
    /// Why.
    pub error: AwsError,
}

/// What became of a snapshot that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Gone,
    /// An image uses it, so that EC2 keeps it.
    InUse,
}

/// Walks all safety snapshots of the account that runs took in the Region, a page
/// at a time, and says how many there are. Those of encryptions are among them.
///
/// # Errors
/// It did not see them all.
pub async fn walk(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
    each: impl AsyncFnMut(Vec<Snapshot>),
) -> Result<u64, Stopped> {
    let read = async |token: Option<String>| {
        let request = ec2
            .describe_snapshots()
            .owner_ids("self")
            .filters(filter(
                &format!("tag:{PURPOSE_TAG}"),
                Purpose::Safety.name(),
            ))
            .filters(filter("tag-key", ENTRY_TAG))
            .max_results(SNAPSHOTS_PAGE)
            .set_next_token(token);
        let page = deadline.call("DescribeSnapshots", request.send()).await?;
        let snapshots = page.snapshots.unwrap_or_default();
        let snapshots = snapshots.iter().filter_map(snapshot).collect();
        Ok((snapshots, page.next_token))
    };
    each_page(deadline, read, each)
        .await
        .map_err(|(seen, error)| Stopped { seen, error })
}

/// Deletes a snapshot. IAM lets it delete nothing that does not carry the marks
/// of a safety snapshot; this checks them once more, on what was read.
///
/// # Errors
/// It is not deleted, or it is not known whether it is.
pub async fn delete(
    ec2: &aws_sdk_ec2::Client,
    snapshot: &Snapshot,
    deadline: &Deadline,
) -> Result<Deletion, AwsError> {
    const OPERATION: &str = "DeleteSnapshot";
    let tag = |key: &str| snapshot.tags.get(key).map(String::as_str);
    if tag(PURPOSE_TAG) != Some(Purpose::Safety.name()) || tag(ENTRY_TAG).is_none() {
        let why = format!("{} is not a safety snapshot of a run", snapshot.id);
        return Err(AwsError::not_sent(OPERATION, why));
    }
    let request = ec2.delete_snapshot().snapshot_id(&snapshot.id).send();
    match deadline.call(OPERATION, request).await {
        Ok(_) => Ok(Deletion::Gone),
        Err(error) if error.code == "InvalidSnapshot.NotFound" => Ok(Deletion::Gone),
        Err(error) if error.code == "InvalidSnapshot.InUse" => Ok(Deletion::InUse),
        Err(error) => Err(error),
    }
}
