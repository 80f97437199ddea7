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
use crate::group_pages::patiently;
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
    mut each: impl AsyncFnMut(Vec<Host>),
) -> Result<u64, Stopped> {
    let mut seen = 0_u64;
    let mut token: Option<String> = None;
    loop {
        let page = patiently(deadline, async || {
            let request = ec2
                .describe_instances()
                .filters(filter("instance-state-name", "running"))
                .max_results(INSTANCES_PAGE)
                .set_next_token(token.clone());
            deadline.call("DescribeInstances", request.send()).await
        })
        .await
        .map_err(|error| Stopped { seen, error })?;
        token = page.next_token.filter(|token| !token.is_empty());
        // One that was stopped meanwhile must not become a finding, whether the
        // filter was heeded or not.
        let hosts: Vec<Host> = page
            .reservations
            .unwrap_or_default()
            .iter()
            .flat_map(|reservation| reservation.instances())
            .filter_map(host)
            .filter(|host| host.state == "running")
            .collect();
        seen += hosts.len() as u64;
        each(hosts).await;
        if token.is_none() {
            return Ok(seen);
        }
    }
}
