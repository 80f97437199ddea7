//! Reads the policy from its SSM parameter and keeps it for a minute.
//!
//! Unreadable: the last good one, for ten minutes at most. Invalid: an error
//! that names the field, and never a guess; nothing is changed until it is
//! mended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop_core::policy::{InvalidPolicy, Policy};
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::error::AwsError;

/// How long a policy is used without looking again.
pub const KEPT: Duration = Duration::from_secs(60);
/// How long the last good policy serves while SSM cannot be read.
pub const LAST_GOOD: Duration = Duration::from_secs(600);

/// Why there is no policy to decide by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPolicy {
    /// SSM did not give it.
    #[error("the policy parameter `{0}` could not be read: {1}")]
    Unreadable(String, AwsError),
    /// It is not valid.
    #[error("the policy parameter `{0}`: {1}; nothing is changed until it is mended")]
    Invalid(String, InvalidPolicy),
}

/// A policy and the version of the parameter that it came from.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The parameter's version.
    pub version: i64,
}

/// Reads the policy's document as it is written.
///
/// # Errors
/// SSM did not give it.
pub async fn read_document(
    ssm: &aws_sdk_ssm::Client,
    parameter: &str,
    deadline: &Deadline,
) -> Result<String, AwsError> {
    let (document, _) = read_versioned(ssm, parameter, deadline).await?;
    Ok(document)
}

/// As [`read_document`], with the parameter's version.
///
/// # Errors
/// SSM did not give it.
pub async fn read_versioned(
    ssm: &aws_sdk_ssm::Client,
    parameter: &str,
    deadline: &Deadline,
) -> Result<(String, i64), AwsError> {
    let request = ssm.get_parameter().name(parameter).send();
    let answer = deadline.call("GetParameter", request).await?;
    Ok(answer
        .parameter
        .map(|parameter| (parameter.value.unwrap_or_default(), parameter.version))
        .unwrap_or_default())
}

/// Writes the policy's document.
///
/// # Errors
/// SSM did not take it.
pub async fn write_document(
    ssm: &aws_sdk_ssm::Client,
    parameter: &str,
    document: &str,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let request = ssm
        .put_parameter()
        .name(parameter)
        .value(document)
        .overwrite(true)
        // Up to 8 KB, as in the template.
        .tier(aws_sdk_ssm::types::ParameterTier::IntelligentTiering);
    deadline
        .call("PutParameter", request.send())
        .await
        .map(|_| ())
}

/// The policy of the account, with its cache.
#[derive(Debug)]
pub struct PolicyStore {
    ssm: aws_sdk_ssm::Client,
    parameter: String,
    kept: Duration,
    last: Mutex<Option<(Versioned, Instant)>>,
}

impl PolicyStore {
    /// A store over the parameter of this name.
    #[must_use]
    pub fn new(ssm: aws_sdk_ssm::Client, parameter: String) -> Self {
        Self {
            ssm,
            parameter,
            kept: KEPT,
            last: Mutex::new(None),
        }
    }

    /// As this store, with another time for which a policy is kept than
    /// [`KEPT`].
    #[must_use]
    pub fn keeping(mut self, kept: Duration) -> Self {
        self.kept = kept;
        self
    }

    /// The policy to decide by now.
    ///
    /// # Errors
    /// There is none: unreadable for too long, or invalid.
    pub async fn get(&self, deadline: &Deadline) -> Result<Versioned, NoPolicy> {
        self.get_at(deadline, Instant::now()).await
    }

    /// As [`get`](Self::get), at a time that the caller names.
    ///
    /// # Errors
    /// There is none: unreadable for too long, or invalid.
    pub async fn get_at(&self, deadline: &Deadline, now: Instant) -> Result<Versioned, NoPolicy> {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((policy, read_at)) = &last
            && now.duration_since(*read_at) < self.kept
        {
            return Ok(policy.clone());
        }
        let request = self.ssm.get_parameter().name(&self.parameter).send();
        let answer = match deadline.call("GetParameter", request).await {
            Ok(answer) => answer,
            Err(error) => match last {
                Some((policy, read_at)) if now.duration_since(read_at) < LAST_GOOD => {
                    tracing::warn!(%error, "the policy could not be read: the last good one serves");
                    return Ok(policy);
                }
                _ => return Err(NoPolicy::Unreadable(self.parameter.clone(), error)),
            },
        };
        let (document, version) = answer
            .parameter
            .map(|p| (p.value.unwrap_or_default(), p.version))
            .unwrap_or_default();
        let policy = Policy::parse(&document)
            .map_err(|error| NoPolicy::Invalid(self.parameter.clone(), error))?;
        let fresh = Versioned {
            policy: Arc::new(policy),
            version,
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((fresh.clone(), now));
        Ok(fresh)
    }
}
