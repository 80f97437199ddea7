//! `public-image`: the calls.
//!
//! Only the grant to everyone is ever added or removed: ResetImageAttribute and
//! DisableImage would take every other grant with it.

use aws_sdk_ec2::types::{
    Filter, Image, ImageAttributeName, LaunchPermission, LaunchPermissionModifications,
    PermissionGroup,
};
use backstop_core::controls::public_image::PublicImage;
use backstop_core::plan::{Change, Outcome};
use backstop_core::sharing::{Holder, Storage};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome};
use crate::remediations::sharing;
use crate::security_groups::{partition, tags};

/// The state of an account that blocks public sharing of images, as EC2 names it.
const BLOCKED: &str = "block-new-sharing";

const READ_GRANTS: &str = "DescribeImageAttribute";

/// Most images of a page.
const PAGE: i32 = 1000;

impl Remediation for PublicImage {
    async fn gather(aws: &Clients, at: Place<'_>, id: &str) -> Result<Option<Storage>, AwsError> {
        let (ec2, deadline) = (&aws.ec2, at.deadline);
        let describe = ec2.describe_images().image_ids(id).send();
        let grants = ec2
            .describe_image_attribute()
            .image_id(id)
            .attribute(ImageAttributeName::LaunchPermission)
            .send();
        let block = ec2.get_image_block_public_access_state().send();
        let (described, grants, block) = tokio::join!(
            deadline.call("DescribeImages", describe),
            deadline.call(READ_GRANTS, grants),
            deadline.call("GetImageBlockPublicAccessState", block),
        );
        let described = described.map(|answer| answer.images.unwrap_or_default());
        let Some(image) = sharing::described(described)? else {
            return Ok(None);
        };
        if image.owner_id().is_none() {
            return Err(AwsError::incomplete("DescribeImages", "imageOwnerId"));
        }
        let grants = grants.map(|answer| answer.launch_permissions.unwrap_or_default());
        let Some(grants) = sharing::grants(grants)? else {
            return Ok(None);
        };
        let block = sharing::block(block);
        let block = block.and_then(|block| block.image_block_public_access_state);
        Ok(Some(Storage {
            blocked: block.as_deref() == Some(BLOCKED),
            shared_with: grants.into_iter().map(holder).collect::<Result<_, _>>()?,
            ..facts(&image, at.region)
        }))
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        change: &Change<Holder>,
    ) -> Vec<Outcome> {
        let everyone = LaunchPermission::builder()
            .group(PermissionGroup::All)
            .build();
        let grants = LaunchPermissionModifications::builder();
        let grants = match change.after {
            Some(_) => grants.add(everyone),
            None => grants.remove(everyone),
        };
        let request = aws
            .ec2
            .modify_image_attribute()
            .image_id(id)
            .launch_permission(grants.build())
            .send();
        let answer = at.deadline.call("ModifyImageAttribute", request).await;
        outcome::<Self>(change, answer.map(|_| ()))
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<Storage>),
    ) -> Result<Walked, Stopped> {
        let public = Filter::builder().name("is-public").values("true").build();
        let read = async |token: Option<String>| {
            let request = aws
                .ec2
                .describe_images()
                .owners("self")
                .filters(public.clone())
                .max_results(PAGE)
                .set_next_token(token);
            let page = at.deadline.call("DescribeImages", request.send()).await?;
            let images = page.images().iter();
            // By the request's filter.
            let public = images.map(|image| Storage {
                shared_with: [Holder::Everyone].into(),
                ..facts(image, at.region)
            });
            Ok((public.collect(), page.next_token.clone()))
        };
        sharing::walk(at, "public images", read, each).await
    }
}

fn holder(grant: LaunchPermission) -> Result<Holder, AwsError> {
    match &grant.group {
        Some(PermissionGroup::All) => return Ok(Holder::Everyone),
        Some(other) => return Err(sharing::unknown_grant(READ_GRANTS, Some(other.as_str()))),
        None => {}
    }
    let account = grant.user_id.map(Holder::Account);
    let organization = grant.organization_arn.map(Holder::Organization);
    let unit = grant
        .organizational_unit_arn
        .map(Holder::OrganizationalUnit);
    let named = account.or(organization).or(unit);
    named.ok_or_else(|| sharing::unknown_grant(READ_GRANTS, None))
}

/// What DescribeImages shows of an image.
fn facts(image: &Image, region: &str) -> Storage {
    let id = image.image_id().unwrap_or_default().to_owned();
    let tags = tags(image.tags());
    // AWS updates the time once a day.
    let launched = image.last_launched_time();
    let launched = launched.map(|time| format!("launched last on {}", day(time)));
    Storage {
        // An image's ARN names no account.
        arn: format!("arn:{}:ec2:{region}::image/{id}", partition(region)),
        owner: image.owner_id().unwrap_or_default().to_owned(),
        name: tags
            .get("Name")
            .map_or_else(|| image.name().unwrap_or(&id), String::as_str)
            .to_owned(),
        id,
        tags,
        hidden: false,
        blocked: false,
        shared_with: [].into(),
        last_used: Some(launched.unwrap_or_else(|| "AWS knows of no launch from it".to_owned())),
    }
}

/// The day of a time such as `2026-11-20T08:15:00.000Z`.
fn day(time: &str) -> &str {
    time.split('T').next().unwrap_or(time)
}
