//! Starting the execution of the state machine that carries out a run.
//!
//! Deliberately not here: what the execution does (`encrypt-volume`).

use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::AwsError;

/// Starts an execution. Its name makes it one of a kind: started twice, also by
/// a retry of a call whose answer was lost, it runs once. Whether this call
/// started it; `false`: one of this name was started before, and may have
/// ended.
///
/// While it runs, AWS answers the same name and input as though it had just
/// been started; so `true` does not say that nobody was earlier.
///
/// # Errors
/// It was not started, as far as is known.
pub async fn start(
    sfn: &aws_sdk_sfn::Client,
    state_machine_arn: &str,
    name: &str,
    input: &serde_json::Value,
) -> Result<bool, AwsError> {
    let request = sfn
        .start_execution()
        .state_machine_arn(state_machine_arn)
        .name(name)
        .input(input.to_string());
    match request.send().await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ExecutionAlreadyExists") => Ok(false),
        Err(error) => Err(AwsError::new("StartExecution", &error)),
    }
}
