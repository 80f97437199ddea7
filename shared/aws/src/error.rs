//! One error type for every AWS call: operation, code, message. Never just
//! "service error".

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use backstop_core::plan::Ending;

/// The code of a call that was not sent for want of credentials.
pub const NO_CREDENTIALS: &str = "NoCredentials";

/// An AWS call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {code}: {message}")]
pub struct AwsError {
    /// The operation, for example `RevokeSecurityGroupIngress`.
    pub operation: &'static str,
    /// AWS's error code, or `Timeout`, `NoConnection`, `BadResponse` where no
    /// answer of AWS came, `NotSent` or [`NO_CREDENTIALS`] where it was not asked.
    pub code: String,
    /// AWS's message.
    pub message: String,
    /// Whether trying again may help.
    pub retryable: bool,
}

/// Codes that mean "slower": trying again later helps. `RequestLimitExceeded` is
/// EC2's (its API reference, "Error codes", common client errors), the next six are
/// those that the AWS SDKs throttle on (SDKs and Tools reference, "Retry behavior"),
/// the others each service's own.
const THROTTLES: &[&str] = &[
    "RequestLimitExceeded",
    "EC2ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "ThrottledException",
    // A volume that was snapshotted seconds ago.
    "SnapshotCreationPerVolumeRateExceeded",
];

/// What EC2's codes for want of capacity begin with. They come with a status of 500
/// (its API reference, "Error codes": server errors), are no fault, and say that
/// nothing has happened.
const NO_CAPACITY: &str = "Insufficient";

/// Codes that mean a fault on AWS's side, or a request that came too late, beside
/// every answer with a status of 500 or above. The first are of any service (EC2's
/// API reference, "Error codes": server errors, and `RequestExpired`; the SDKs and
/// Tools reference, "Retry behavior": `RequestTimeout…`), the last of KMS.
const SERVER_SIDE: &[&str] = &[
    "RequestExpired",
    "RequestTimeout",
    "RequestTimeoutException",
    "DependencyTimeoutException",
    "KMSInternalException",
    "KeyUnavailableException",
];

impl AwsError {
    /// From what an SDK client returned for `operation`.
    pub fn new<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let (mut code, message, retryable) = match error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or("Unknown").to_owned();
                let message = service.err().message().unwrap_or("no message").to_owned();
                let server_side = (service.raw().status().is_server_error()
                    && !code.starts_with(NO_CAPACITY))
                    || code.starts_with("Internal")
                    || code.starts_with("Unavailable")
                    || code.starts_with("ServiceUnavailable")
                    || SERVER_SIDE.contains(&code.as_str())
                    || code == "Unknown";
                let retryable = server_side || THROTTLES.contains(&code.as_str());
                (code, message, retryable)
            }
            SdkError::TimeoutError(_) => ("Timeout".to_owned(), full(error), true),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                ("Timeout".to_owned(), full(error), true)
            }
            SdkError::DispatchFailure(_) => ("NoConnection".to_owned(), full(error), true),
            SdkError::ResponseError(_) => ("BadResponse".to_owned(), full(error), true),
            _ => ("NotSent".to_owned(), full(error), false),
        };
        if causes(error).any(|cause| cause.is::<CredentialsError>()) {
            NO_CREDENTIALS.clone_into(&mut code);
        }
        Self {
            operation,
            code,
            message,
            retryable,
        }
    }

    /// For a call that was given up because the function's time ran out.
    #[must_use]
    pub fn out_of_time(operation: &'static str) -> Self {
        Self {
            operation,
            code: "Timeout".to_owned(),
            message:
                "no answer before the function's time ran out; the call may still have taken effect"
                    .to_owned(),
            retryable: true,
        }
    }

    /// For a call that never left.
    #[must_use]
    pub fn not_sent(operation: &'static str, message: String) -> Self {
        Self {
            operation,
            code: "NotSent".to_owned(),
            message,
            retryable: false,
        }
    }

    /// For an answer that lacks what it is for.
    #[must_use]
    pub fn incomplete(operation: &'static str, field: &str) -> Self {
        Self {
            operation,
            code: "BadResponse".to_owned(),
            message: format!("the answer has no `{field}`"),
            retryable: true,
        }
    }

    /// For an answer with a value that this release does not know: nothing may be
    /// decided by it.
    #[must_use]
    pub fn unknown_value(operation: &'static str, field: &str, value: &str) -> Self {
        let value: String = value.chars().take(100).collect();
        Self {
            operation,
            code: "UnknownValue".to_owned(),
            message: format!(
                "the answer's `{field}` is `{value}`, which this release of Backstop does not know: update it"
            ),
            retryable: false,
        }
    }

    /// For a call that AWS keeps answering in part.
    #[must_use]
    pub fn throttled(operation: &'static str, message: &str) -> Self {
        Self {
            operation,
            code: "Throttled".to_owned(),
            message: message.to_owned(),
            retryable: true,
        }
    }

    /// Whether the rule, or its group, is not there (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InvalidPermission.NotFound"
                | "InvalidSecurityGroupRuleId.NotFound"
                | "InvalidGroup.NotFound"
                | "InvalidGroupId.NotFound"
                | "InvalidPrefixListID.NotFound"
                | "InvalidPrefixListId.NotFound"
        )
    }

    /// Whether there is no such volume, snapshot, instance, image or subnet (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InvalidVolume.NotFound"
                | "InvalidVolumeID.Malformed"
                | "InvalidSnapshot.NotFound"
                | "InvalidInstanceID.NotFound"
                | "InvalidInstanceID.Malformed"
                | "InvalidAMIID.NotFound"
                | "InvalidAMIID.Unavailable"
                | "InvalidAMIID.Malformed"
                | "InvalidSubnetID.NotFound"
        )
    }

    /// Whether AWS says that what was named is not there, whatever it is: EC2's codes
    /// for it are `Invalid<Kind>.NotFound`, `.Malformed` of an id that none can have,
    /// and `InvalidID` of a tagged resource.
    #[must_use]
    pub fn says_not_found(&self) -> bool {
        self.code == "InvalidID"
            || [".NotFound", ".Malformed"]
                .iter()
                .any(|end| self.code.ends_with(end))
    }

    /// Whether the caller may not make the call.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(
            self.code.as_str(),
            "AccessDenied"
                | "AccessDeniedException"
                | "UnauthorizedOperation"
                | "AuthorizationError"
        )
    }

    /// Whether AWS refused for now: nothing has happened, later it may.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.code == "Throttled" || THROTTLES.contains(&self.code.as_str())
    }

    /// Whether AWS may have acted all the same: no answer came, or one that
    /// says nothing about what happened.
    #[must_use]
    pub fn may_have_acted(&self) -> bool {
        self.retryable && !self.is_throttled()
    }

    /// Whether the same rule is there already.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.code == "InvalidPermission.Duplicate"
    }

    /// Whether the group holds as many rules as it may.
    #[must_use]
    pub fn is_rule_limit(&self) -> bool {
        self.code == "RulesPerSecurityGroupLimitExceeded"
    }

    /// Whether AWS refused the request itself: not for want of rights, time
    /// or capacity, so that another way to the same end may be open.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !self.retryable
            && (self.code.starts_with("Invalid") || self.code == "OperationNotPermitted")
    }

    /// Whether AWS refused a rule for what the request holds (what it asks for, or the
    /// right to ask for all of it), so that it may take less: no retry helps, and it
    /// is neither that the rule is there already, nor that the group is full or gone.
    #[must_use]
    pub fn is_about_the_request(&self) -> bool {
        !self.retryable && !self.is_duplicate() && !self.is_rule_limit() && !self.is_not_found()
    }

    /// As the ending of a step.
    #[must_use]
    pub fn ending(&self) -> Ending {
        Ending::Failed {
            retryable: self.retryable,
            operation: self.operation.to_owned(),
            code: self.code.clone(),
            message: self.message.clone(),
        }
    }
}

/// An error with its causes, in words: people read it, in messages too, so none of
/// the SDK's debug output is in it.
fn full(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let part = cause.to_string();
        // Some say what their cause says.
        if !parts.iter().any(|of| of.contains(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ")
}

/// An error and what caused it, the error first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}
