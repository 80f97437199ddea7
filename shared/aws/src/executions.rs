//! Starting the executions of the state machine that carries out runs.
//!
//! Deliberately not here: what the execution does (`encrypt-volume`).

use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use backstop_core::encryption::Encryption;
use serde_json::json;
use tracing::warn;

use crate::error::AwsError;
use crate::ledger::Ledger;

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

/// Hands a run that has begun to the state machine. Should that fail, its lock
/// is released, so that whoever looks next takes the run up.
///
/// # Errors
/// It was not started, as far as is known.
pub async fn start_run(
    sfn: &aws_sdk_sfn::Client,
    ledger: &Ledger,
    state_machine_arn: &str,
    run: &Encryption,
) -> Result<(), AwsError> {
    // A name is barred for 90 days once its execution has ended.
    let name = match run.head.attempts {
        1 => run.head.id.clone(),
        attempt => format!("{}-{attempt}", run.head.id),
    };
    let input = json!({ "entry": run.head.id });
    let Err(error) = start(sfn, state_machine_arn, &name, &input).await else {
        return Ok(());
    };
    let holder = ledger.run_holder(&run.head.id);
    let released = ledger.release(run.head.control.name(), run.resource_id(), &holder);
    if let Err(error) = released.await {
        warn!(%error, "the lock could not be released; its lease lapses by itself");
    }
    Err(error)
}
