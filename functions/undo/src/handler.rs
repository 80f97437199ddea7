//! `undo`: parse, read the entry, and hand it to what takes its kind of run back:
//! the engine (`backstop_engine`), or, of encryptions, the state machine.
//!
//! Whatever keeps it from changing anything is an answer in words; what fails
//! is an error. The kill switch does not stop it: it leads back.

use std::time::Duration;

use backstop_aws::clients::{Clients, EncryptionClients};
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{Holder, Ledger, LedgerError, Stored};
use backstop_aws::policy_store::PolicyStore;
use backstop_aws::settings::UndoSettings;
use backstop_core::policy::UndoRules;
use backstop_core::record::Record;
use backstop_core::undo::{self, Answer, Answered, InvalidRequest, Request};
use backstop_engine::{UndoFailure, Undoing, at_once};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::Value;
use tracing::{error, info, warn};

/// Everything that makes an undo fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error(transparent)]
    Undo(#[from] UndoFailure),
    #[error("the answer cannot be written as JSON: {0}")]
    Answer(#[from] serde_json::Error),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Request(_));
        diagnostic(&failure, retryable)
    }
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    encryption: EncryptionClients,
    policy: PolicyStore,
    ledger: Ledger,
    state_machine_arn: String,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, encryption: EncryptionClients, settings: UndoSettings) -> Self {
        Self {
            // A person asks, who may just have changed it.
            policy: PolicyStore::new(clients.ssm.clone(), settings.policy_parameter)
                .keeping(Duration::ZERO),
            ledger: Ledger::new(&clients, settings.ledger_table),
            clients,
            encryption,
            state_machine_arn: settings.state_machine_arn,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let deadline = invocation::deadline(&event.context, &self.clients.clock);
        let holder = invocation::holder(&event.context, &self.clients.clock);
        let answer = Box::pin(self.answer(&event.payload, &holder, &deadline)).await;
        match &answer {
            Ok(answer) => info!(verdict = ?answer.verdict, undo = ?answer.undo, "answered"),
            Err(failure) => error!(%failure, "undo failed"),
        }
        Ok(serde_json::to_value(answer?).map_err(Failure::from)?)
    }

    async fn answer(
        &self,
        payload: &Value,
        holder: &Holder,
        deadline: &Deadline,
    ) -> Result<Answer, Failure> {
        // parse
        let request = Request::parse(payload)?;
        // read the entry
        let entry = match self.ledger.read(&request.remediation).await? {
            None => {
                return Ok(Answer::new(
                    Answered::Unknown,
                    format!(
                        "the ledger has no entry {}; `backstop history` shows the ids",
                        request.remediation
                    ),
                ));
            }
            Some(Stored {
                record: Record::Remediation(entry),
                ..
            }) => entry,
            Some(Stored {
                record: Record::Encryption(entry),
                ..
            }) => {
                let days = request.days(self.most_days(deadline).await);
                return self.undo_encryption(&request, &entry, days, deadline).await;
            }
            // There is no way back, and what there is instead is on the record.
            Some(Stored {
                record: Record::Patching(run),
                ..
            }) => {
                let (days, _) = request.days(self.most_days(deadline).await);
                let until = undo::opt_out_until(self.clients.clock.now(), days);
                return Ok(undo::patchings::answer(&run, until));
            }
            Some(Stored { record, .. }) => {
                return Ok(Answer::new(
                    Answered::NotARemediation,
                    format!(
                        "{} is the id of a record of another kind ({}); only remediations can be taken back",
                        record.id(),
                        record.kind()
                    ),
                ));
            }
        };
        let Some(control) = at_once(entry.head.control) else {
            return Ok(Answer::new(
                Answered::NothingToUndo,
                format!(
                    "this release takes nothing back of {}; use the one that wrote the entry",
                    entry.head.control
                ),
            ));
        };
        if let Some(answer) = undo::cannot_be_undone(&entry) {
            return Ok(answer);
        }
        let most = self.most_days(deadline).await;
        let undoing = Undoing {
            clients: &self.clients,
            ledger: &self.ledger,
            policy: &self.policy,
            holder,
            deadline,
            request: &request,
            days: request.days(most),
        };
        Ok(control.undo(&undoing, &entry).await?)
    }

    /// For how many days at most what is put back is opted out. A policy that
    /// cannot be read keeps nobody from going back: then the default holds.
    async fn most_days(&self, deadline: &Deadline) -> u32 {
        match self.policy.get(deadline).await {
            Ok(policy) => policy.policy.undo.most_opt_out_days,
            Err(problem) => {
                warn!(%problem, "the default number of opt-out days holds");
                UndoRules::default().most_opt_out_days
            }
        }
    }
}

mod encryption;

#[cfg(test)]
mod tests;
