//! Every running instance of the account, page by page, for the sweep and for
//! scans.
//!
//! DescribeInstances filters by state, so what is stopped costs nothing. Each
//! page is handed on and dropped: memory stays flat.
//!
//! Deliberately not here: what Systems Manager says of them
//! (`patching::agents`, `patching::states`).

use backstop_core::patching::Host;

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::patching::{INSTANCES_PAGE, host};
use crate::security_groups::filter;

/// A walk that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the walk over the running instances ended after {seen} of them: {error}")]
pub struct Stopped {
    /// How many instances it had seen.
    pub seen: u64,
    /// Why.
    pub error: AwsError,
}

/// Walks all running instances of the Region, a page at a time, and says how
/// many there are.
///
/// # Errors
/// It did not see them all.
pub async fn walk(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
    each: impl AsyncFnMut(Vec<Host>),
) -> Result<u64, Stopped> {
    let read = async |token: Option<String>| {
        let request = ec2
            .describe_instances()
            .filters(filter("instance-state-name", "running"))
            .max_results(INSTANCES_PAGE)
            .set_next_token(token);
        let page = deadline.call("DescribeInstances", request.send()).await?;
        // One that was stopped meanwhile must not become a finding, whether the
        // filter was heeded or not.
        let hosts = page
            .reservations
            .unwrap_or_default()
            .iter()
            .flat_map(|reservation| reservation.instances())
            .filter_map(host)
            .filter(|host| host.state == "running")
            .collect();
        Ok((hosts, page.next_token))
    };
    each_page(deadline, read, each)
        .await
        .map_err(|(seen, error)| Stopped { seen, error })
}
