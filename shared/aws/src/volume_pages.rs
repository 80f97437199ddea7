//! Every unencrypted volume of the account, page by page, for the sweep and for
//! scans.
//!
//! DescribeVolumes filters by `encrypted`, so what is in order costs nothing.
//! Each page is handed on and dropped: memory stays flat. Its volumes lack
//! what DescribeVolumes does not say, their product codes.
//!
//! Deliberately not here: the closer look, and what volumes are attached to
//! (`volumes::facts`).

use backstop_core::volumes::Volume;

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::security_groups::filter;
use crate::volumes::{VOLUMES_PAGE, volume};

/// A walk that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the walk over the unencrypted volumes ended after {seen} of them: {error}")]
pub struct Stopped {
    /// How many volumes it had seen.
    pub seen: u64,
    /// Why.
    pub error: AwsError,
}

/// Walks all unencrypted volumes of the Region, a page at a time, and says how
/// many there are.
///
/// # Errors
/// It did not see them all.
pub async fn walk(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
    each: impl AsyncFnMut(Vec<Volume>),
) -> Result<u64, Stopped> {
    let read = async |token: Option<String>| {
        let request = ec2
            .describe_volumes()
            .filters(filter("encrypted", "false"))
            .max_results(VOLUMES_PAGE)
            .set_next_token(token);
        let page = deadline.call("DescribeVolumes", request.send()).await?;
        // A filter that is not heeded must not make an encrypted volume a
        // finding.
        let volumes = page
            .volumes
            .unwrap_or_default()
            .iter()
            .filter_map(volume)
            .filter(|volume| !volume.encrypted)
            .collect();
        Ok((volumes, page.next_token))
    };
    each_page(deadline, read, each)
        .await
        .map_err(|(seen, error)| Stopped { seen, error })
}
