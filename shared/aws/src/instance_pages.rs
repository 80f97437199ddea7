//! Every running instance of the account, page by page, for the sweep and for
//! scans.

use backstop_core::patching::Host;

use crate::deadline::Deadline;
use crate::error::AwsError;

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
    _ec2: &aws_sdk_ec2::Client,
    _deadline: &Deadline,
    _each: impl AsyncFnMut(Vec<Host>),
) -> Result<u64, Stopped> {
    todo!()
}
