//! What the sweep reads about originals that were replaced, and the one change
//! it makes: deleting those that the policy has kept for long enough.
//!
//! Deliberately not here: which those are (`backstop_core::sweep::volumes`).

use std::collections::BTreeMap;

use backstop_core::volumes::{ENTRY_TAG, REPLACED_BY_TAG, Snapshot, Volume};

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::volumes::{self, is_id, read};

/// The volumes of these ids that are there.
///
/// # Errors
/// A call failed.
pub async fn by_id(
    ec2: &aws_sdk_ec2::Client,
    ids: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, Volume>, AwsError> {
    // They come from tags: a filter would take a `*` for anything.
    let ids: Vec<String> = ids.iter().filter(|id| is_id(id, "vol-")).cloned().collect();
    let found = read::volumes(ec2, "volume-id", &ids, deadline).await?;
    Ok(volumes::by_id(found))
}

/// The snapshots that runs took of unencrypted volumes and that are still there.
///
/// # Errors
/// A call failed.
pub async fn snapshots(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<Vec<Snapshot>, AwsError> {
    read::snapshots(ec2, "tag-key", &[ENTRY_TAG.to_owned()], deadline).await
}

/// Deletes an original that was replaced. IAM lets it delete nothing that does
/// not carry the mark of that; this checks it once more, on what was read.
///
/// # Errors
/// It is not deleted, or it is not known whether it is.
pub async fn delete_original(
    ec2: &aws_sdk_ec2::Client,
    original: &Volume,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    const OPERATION: &str = "DeleteVolume";
    if original.encrypted || !original.is_free() || !original.tags.contains_key(REPLACED_BY_TAG) {
        let why = format!("{} is not an original that was replaced", original.id);
        return Err(AwsError::not_sent(OPERATION, why));
    }
    let request = ec2.delete_volume().volume_id(&original.id).send();
    match deadline.call(OPERATION, request).await {
        Ok(_) => Ok(()),
        Err(error) if error.code == "InvalidVolume.NotFound" => Ok(()),
        Err(error) => Err(error),
    }
}
