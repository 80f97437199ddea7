//! The pipeline of `notify`: parse, read the records, drop what was sent; then
//! for each message claim, publish, mark as sent.
//!
//! Events come in batches from a queue, so that many of one kind can be told as
//! one (`batch`). One that comes by itself, because a person sent it again, is
//! told by itself.
//!
//! Whatever is told is read from the ledger: the event carries an id and
//! nothing else, so that a forged one can say nothing. A message that was sent
//! is dropped by its key. Deliberately not here: the texts (core).

use backstop_aws::clients::Clients;
use backstop_aws::error::AwsError;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{Claim, Ledger, LedgerError, Stored};
use backstop_aws::settings::NotifySettings;
use backstop_aws::topic;
use backstop_core::message;
use backstop_core::record::Record;
use backstop_core::trigger::{self, BrokenEvent};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info};

mod batch;

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
    #[error("nothing of a batch of {0} could be told: {1}")]
    Batch(usize, String),
    #[error("another run is sending the message of entry `{0}`: look again later")]
    UnderWay(String),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_) | Failure::NoEntry(_));
        diagnostic(&failure, retryable)
    }
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    ledger: Ledger,
    topic_arn: String,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, settings: NotifySettings) -> Self {
        Self {
            ledger: Ledger::new(&clients, settings.ledger_table),
            clients,
            topic_arn: settings.topic_arn,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let answer = match trigger::queued(&event.payload) {
            Some(queued) => {
                let left = invocation::left(&event.context, &self.clients.clock);
                Box::pin(self.tell_batch(queued, Instant::now() + left)).await
            }
            None => self
                .tell(&event.payload)
                .await
                .map(|verdict| json!({ "verdict": verdict })),
        };
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        Ok(answer?)
    }

    async fn tell(&self, payload: &Value) -> Result<&'static str, Failure> {
        let Some(id) = asked(payload)? else {
            return Ok("ignored");
        };
        let Some(Stored { record, .. }) = self.ledger.read(&id).await? else {
            return Err(Failure::NoEntry(id));
        };
        self.tell_record(&record).await
    }

    /// Tells a record by itself, unless it has been told.
    async fn tell_record(&self, record: &Record) -> Result<&'static str, Failure> {
        let (id, key) = (record.id(), record.message_key());
        match self
            .ledger
            .claim_message(&key, self.clients.clock.now())
            .await?
        {
            Claim::Ours => {}
            Claim::Sent => {
                info!(entry = %id, message = %key, "sent before");
                return Ok("sent before");
            }
            // Should the other run fail, this one's retry sends it.
            Claim::UnderWay => return Err(Failure::UnderWay(id.to_owned())),
        }
        let published =
            topic::publish(&self.clients.sns, &self.topic_arn, &message::of(record)).await;
        self.ledger.message_sent(&key, published.is_ok()).await?;
        published?;
        info!(entry = %id, message = %key, outcome = record.outcome(), "told");
        Ok("told")
    }
}

/// The id of the record that an event asks to tell; `None`: it asks for
/// nothing.
fn asked(payload: &Value) -> Result<Option<String>, BrokenEvent> {
    match trigger::recorded(payload)? {
        Ok(id) => Ok(Some(id)),
        Err(reason) => {
            info!(verdict = "ignored", %reason, "event ignored");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
