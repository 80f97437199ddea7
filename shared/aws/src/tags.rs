//! Setting and removing a tag of something that is there.

use aws_sdk_ec2::types::Tag;

use crate::deadline::Deadline;
use crate::error::AwsError;

/// Sets one tag of a resource.
pub(crate) async fn set(
    ec2: &aws_sdk_ec2::Client,
    resource: &str,
    key: &str,
    value: &str,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let tag = Tag::builder().key(key).value(value).build();
    let request = ec2.create_tags().resources(resource).tags(tag).send();
    deadline.call("CreateTags", request).await.map(drop)
}

/// Removes one tag of a resource, whatever its value.
pub(crate) async fn unset(
    ec2: &aws_sdk_ec2::Client,
    resource: &str,
    key: &str,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let tag = Tag::builder().key(key).build();
    let request = ec2.delete_tags().resources(resource).tags(tag).send();
    deadline.call("DeleteTags", request).await.map(drop)
}
