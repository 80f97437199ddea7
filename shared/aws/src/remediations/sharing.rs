//! What the calls about shared storage have in common: what an answer means, and
//! the walk.

use backstop_core::sharing::Storage;

use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::remediation::{Place, Stopped, Walked};

/// The one resource that a call describes; `None`: it is gone.
pub(super) fn described<T>(answer: Result<Vec<T>, AwsError>) -> Result<Option<T>, AwsError> {
    match answer {
        Err(error) if error.is_gone() => Ok(None),
        answer => answer.map(|all| all.into_iter().next()),
    }
}

/// The grants on a resource; `None`: it is gone. Whom another account shares its
/// own with is not ours to see.
pub(super) fn grants<T>(answer: Result<Vec<T>, AwsError>) -> Result<Option<Vec<T>>, AwsError> {
    match answer {
        Err(error) if error.is_gone() => Ok(None),
        Err(error) if error.code == "AuthFailure" => Ok(Some(Vec::new())),
        answer => answer.map(Some),
    }
}

/// For a grant that this release does not know: it may be to everyone by another
/// name, so nothing is decided by the others.
pub(super) fn unknown_grant(operation: &'static str, group: Option<&str>) -> AwsError {
    match group {
        Some(group) => AwsError::unknown_value(operation, "group", group),
        None => AwsError::incomplete(operation, "group` or `userId"),
    }
}

/// The account's block of public sharing, which nothing but severities and undos
/// depend on: without an answer there is none.
pub(super) fn block<T>(answer: Result<T, AwsError>) -> Option<T> {
    let unknown = |error: &AwsError| {
        tracing::warn!(%error, "whether public sharing is blocked is not known");
    };
    answer.inspect_err(unknown).ok()
}

/// Walks all that is public of a kind (`what`, in the plural).
pub(super) async fn walk(
    at: Place<'_>,
    what: &'static str,
    read: impl AsyncFn(Option<String>) -> Result<(Vec<Storage>, Option<String>), AwsError>,
    each: impl AsyncFnMut(Vec<Storage>),
) -> Result<Walked, Stopped> {
    let walked = each_page(at.deadline, read, each).await;
    let seen = walked.map_err(|(seen, error)| Stopped { what, seen, error })?;
    Ok(Walked {
        seen,
        unseen: Vec::new(),
    })
}
