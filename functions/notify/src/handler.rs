//! The pipeline of `notify`: parse, read the entry, claim its message, publish,
//! mark as sent.
//!
//! Whatever is told is read from the ledger: the event carries an id and
//! nothing else, so that a forged one can say nothing. A message that was sent
//! is dropped by its key. Deliberately not here: the texts (core).

use backstop_aws::clients::Clients;
use backstop_aws::error::AwsError;
use backstop_aws::ledger::{Claim, Ledger, LedgerError, Stored};
use backstop_aws::settings::NotifySettings;
use backstop_aws::topic;
use backstop_core::message;
use backstop_core::trigger::{self, BrokenEvent};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info};

/// Everything that makes a run fail, so that Lambda tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Event(#[from] BrokenEvent),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("the ledger has no entry `{0}`: nothing can be told")]
    NoEntry(String),
    #[error("another run is sending the message of entry `{0}`: look again later")]
    UnderWay(String),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_) | Failure::NoEntry(_));
        Self {
            error_type: if retryable {
                "Retryable"
            } else {
                "NonRetryable"
            }
            .to_owned(),
            error_message: failure.to_string(),
        }
    }
}

pub(crate) struct Handler {
    clients: Clients,
    ledger: Ledger,
    topic_arn: String,
}

impl Handler {
    pub(crate) fn new(clients: Clients, settings: NotifySettings) -> Self {
        Self {
            ledger: Ledger::new(clients.dynamodb.clone(), settings.ledger_table),
            clients,
            topic_arn: settings.topic_arn,
        }
    }

    pub(crate) async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Failure> {
        let answer = self.tell(&event.payload).await;
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        answer.map(|verdict| json!({ "verdict": verdict }))
    }

    async fn tell(&self, payload: &Value) -> Result<&'static str, Failure> {
        let id = match trigger::recorded(payload)? {
            Ok(id) => id,
            Err(reason) => {
                info!(verdict = "ignored", %reason, "event ignored");
                return Ok("ignored");
            }
        };
        let Some(Stored { record, .. }) = self.ledger.read(&id).await? else {
            return Err(Failure::NoEntry(id));
        };
        let key = record.message_key();
        match self.ledger.claim_message(&key, Timestamp::now()).await? {
            Claim::Ours => {}
            Claim::Sent => {
                info!(entry = %id, message = %key, "sent before");
                return Ok("sent before");
            }
            // Should the other run fail, this one's retry sends it.
            Claim::UnderWay => return Err(Failure::UnderWay(id)),
        }
        let published =
            topic::publish(&self.clients.sns, &self.topic_arn, &message::of(&record)).await;
        self.ledger.message_sent(&key, published.is_ok()).await?;
        published?;
        info!(entry = %id, message = %key, outcome = record.outcome(), "told");
        Ok("told")
    }
}
