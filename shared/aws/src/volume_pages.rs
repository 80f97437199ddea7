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
use crate::group_pages::patiently;
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
    mut each: impl AsyncFnMut(Vec<Volume>),
) -> Result<u64, Stopped> {
    let mut seen = 0_u64;
    let mut token: Option<String> = None;
    loop {
        let page = patiently(deadline, async || {
            let request = ec2
                .describe_volumes()
                .filters(filter("encrypted", "false"))
                .max_results(VOLUMES_PAGE)
                .set_next_token(token.clone());
            deadline.call("DescribeVolumes", request.send()).await
        })
        .await
        .map_err(|error| Stopped { seen, error })?;
        token = page.next_token.filter(|token| !token.is_empty());
        // A filter that is not heeded must not make an encrypted volume a
        // finding.
        let volumes: Vec<Volume> = page
            .volumes
            .unwrap_or_default()
            .iter()
            .filter_map(volume)
            .filter(|volume| !volume.encrypted)
            .collect();
        seen += volumes.len() as u64;
        each(volumes).await;
        if token.is_none() {
            return Ok(seen);
        }
    }
}
