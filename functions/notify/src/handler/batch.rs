//! A batch of the queue: what was sent is dropped, failures are told first,
//! and more than a few of one kind are told as one message with a count.
//!
//! A few of a kind that come in one batch after the other are added up over five
//! minutes: Lambda hands out what belongs together in several batches at once.
//!
//! A storm's message switches the storm on; while it is on, further ones of its
//! kind are only counted, failures excepted. Whoever is killed half way leaves
//! claims that lapse: the queue delivers again, and at worst something is sent
//! twice. What failed is reported back by the id of its message; if nothing
//! could be done at all, the invocation fails, so that the alarm on errors
//! sees it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use backstop_aws::invocation::{self, NothingDone};
use backstop_aws::ledger::{Claim, Ledger, Stored, Surge};
use backstop_aws::topic;
use backstop_core::message;
use backstop_core::record::Record;
use backstop_core::storms::{self, Kind, MOST_SINGLE, More, One};
use backstop_core::trigger::Queued;
use jiff::Timestamp;
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Failure, Handler, asked};

/// Records that are read at a time: more would take memory that grows with the
/// batch.
const READ: usize = 50;
/// Ledger calls side by side.
const SIDE_BY_SIDE: usize = 50;
/// Time that is kept back to answer.
const RESERVE: Duration = Duration::from_secs(5);

const NO_TIME: &str = "there was no time left to tell it";

/// A record that waits to be told.
struct Waiting {
    /// What its message is known by.
    key: String,
    one: One,
    /// Kept for the first few of a kind: only they may be told one by one.
    record: Option<Record>,
    /// The queue's messages that ask for it.
    messages: Vec<String>,
}

/// What could not be told: message ids and why.
#[derive(Default)]
struct Failed(Vec<(String, String)>);

impl Failed {
    fn add(&mut self, messages: &[String], why: &dyn Display) {
        let why = why.to_string();
        self.0.extend(
            messages
                .iter()
                .map(|message| (message.clone(), why.clone())),
        );
    }
}

type Kinds = BTreeMap<(bool, Option<Kind>), Vec<Waiting>>;

impl Handler {
    /// Tells a batch; answers with the messages that are to be delivered again.
    pub(super) async fn tell_batch(
        &self,
        queued: Vec<Queued>,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let all = queued.len();
        let mut failed = Failed::default();
        let kinds = self.read(queued, &mut failed).await?;
        for ((_, kind), group) in kinds {
            match kind {
                Some(kind) => self.tell_kind(&kind, group, deadline, &mut failed).await,
                None => self.one_by_one(group, deadline, &mut failed).await,
            }
        }
        for (message, why) in &failed.0 {
            error!(%message, %why, "not told");
        }
        invocation::batch_answer(all, &failed.0)
            .map_err(|NothingDone { all, why }| Failure::Batch(all, why))
    }

    /// Reads the records and keeps those whose message is new, by kind,
    /// failures first.
    async fn read(&self, queued: Vec<Queued>, failed: &mut Failed) -> Result<Kinds, Failure> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Queued { message, event } in queued {
            match event.and_then(|event| asked(&event)) {
                Ok(Some(id)) => wanted.entry(id).or_default().push(message),
                Ok(None) => {}
                Err(broken) => failed.add(&[message], &broken),
            }
        }
        let mut kinds = Kinds::new();
        let ids: Vec<String> = wanted.keys().cloned().collect();
        for ids in ids.chunks(READ) {
            let read = self.ledger.read_all(ids).await?;
            let mut new = Vec::new();
            for (id, stored) in read {
                let messages = wanted.remove(&id).unwrap_or_default();
                let record = match stored {
                    Ok(Some(Stored { record, .. })) => record,
                    Ok(None) => {
                        failed.add(&messages, &Failure::NoEntry(id));
                        continue;
                    }
                    Err(unreadable) => {
                        failed.add(&messages, &unreadable);
                        continue;
                    }
                };
                new.push(Waiting {
                    key: record.message_key(),
                    one: One::of(&record),
                    record: Some(record),
                    messages,
                });
            }
            self.sort(new, &mut kinds, failed).await?;
        }
        Ok(kinds)
    }

    /// Puts those whose message is new with their kind.
    async fn sort(
        &self,
        waiting: Vec<Waiting>,
        kinds: &mut Kinds,
        failed: &mut Failed,
    ) -> Result<(), Failure> {
        let keys: Vec<String> = waiting.iter().map(|waiting| waiting.key.clone()).collect();
        let known = self
            .ledger
            .messages(&keys, self.clients.clock.now())
            .await?;
        for mut waiting in waiting {
            match known.get(&waiting.key) {
                Some(Claim::Sent) => {
                    info!(entry = %waiting.one.id, message = %waiting.key, "sent before");
                    continue;
                }
                Some(_) => {
                    failed.add(&waiting.messages, &Failure::UnderWay(waiting.one.id));
                    continue;
                }
                None => {}
            }
            let kind = waiting.record.as_ref().and_then(Kind::of);
            let failure = kind.as_ref().is_some_and(Kind::is_failure);
            let group = kinds.entry((!failure, kind)).or_default();
            // Two records may have the same thing to say.
            if let Some(same) = group.iter_mut().find(|other| other.key == waiting.key) {
                same.messages.append(&mut waiting.messages);
                continue;
            }
            if group.len() >= MOST_SINGLE {
                waiting.record = None;
            }
            group.push(waiting);
        }
        Ok(())
    }

    /// One by one, as one, or only counted.
    async fn tell_kind(
        &self,
        kind: &Kind,
        group: Vec<Waiting>,
        deadline: Instant,
        failed: &mut Failed,
    ) {
        if kind.is_failure() {
            if group.len() > MOST_SINGLE {
                self.storm(kind, group, None, failed).await;
            } else {
                self.one_by_one(group, deadline, failed).await;
            }
            return;
        }
        let now = self.clients.clock.now();
        let (surge, of_late) = tokio::join!(
            self.ledger.storm(kind),
            self.ledger.pace(kind, group.len(), now)
        );
        // Told is better than counted: what is not known is no storm.
        let surge = surge.unwrap_or_else(|error| {
            warn!(%error, "whether a storm is on could not be read");
            None
        });
        let of_late = of_late.unwrap_or_else(|error| {
            warn!(%error, "how many came of late could not be counted");
            group.len() as u64
        });
        let on = surge.as_ref().is_some_and(|surge| surge.is_on(now));
        if on || of_late > MOST_SINGLE as u64 {
            self.storm(kind, group, surge, failed).await;
        } else {
            self.one_by_one(group, deadline, failed).await;
        }
    }

    async fn one_by_one(&self, group: Vec<Waiting>, deadline: Instant, failed: &mut Failed) {
        for waiting in group {
            if deadline.saturating_duration_since(Instant::now()) < RESERVE {
                failed.add(&waiting.messages, &NO_TIME);
                continue;
            }
            let told = match &waiting.record {
                Some(record) => self.tell_record(record).await,
                None => self.tell_by_id(&waiting.one.id).await,
            };
            if let Err(failure) = told {
                failed.add(&waiting.messages, &failure);
            }
        }
    }

    async fn tell_by_id(&self, id: &str) -> Result<&'static str, Failure> {
        match self.ledger.read(id).await? {
            Some(Stored { record, .. }) => self.tell_record(&record).await,
            None => Err(Failure::NoEntry(id.to_owned())),
        }
    }

    /// Many of one kind: counted while their storm is on, else one message.
    async fn storm(
        &self,
        kind: &Kind,
        group: Vec<Waiting>,
        surge: Option<Surge>,
        failed: &mut Failed,
    ) {
        let ours = self.claim(group, failed).await;
        let ones: Vec<One> = ours.iter().map(|waiting| waiting.one.clone()).collect();
        if ones.is_empty() {
            return;
        }
        let now = self.clients.clock.now();
        let counted = match surge.as_ref().filter(|surge| surge.is_on(now)) {
            Some(surge) => {
                self.ledger
                    .count_in_storm(surge, &More::of(&ones), now)
                    .await
            }
            None => Ok(false),
        };
        let told: Result<(), Failure> = match counted {
            Ok(true) => {
                info!(?kind, count = ones.len(), "counted, their storm is on");
                Ok(())
            }
            Ok(false) => self.tell_storm(kind, &ones, surge, now).await,
            Err(error) => Err(error.into()),
        };
        let sent = told.is_ok();
        let marked = self
            .side_by_side(ours, move |ledger, key| async move {
                ledger.message_sent(&key, sent).await
            })
            .await;
        for (waiting, marked) in marked {
            if let Err(failure) = &told {
                failed.add(&waiting.messages, failure);
            } else if let Err(error) = marked {
                failed.add(&waiting.messages, &error);
            }
        }
    }

    /// Claims the messages; those that are ours are to be told.
    async fn claim(&self, group: Vec<Waiting>, failed: &mut Failed) -> Vec<Waiting> {
        let claimed = self
            .side_by_side(group, |ledger, key| async move {
                ledger.claim_message(&key, ledger.clock().now()).await
            })
            .await;
        let mut ours = Vec::new();
        for (waiting, claim) in claimed {
            match claim {
                Ok(Claim::Ours) => ours.push(waiting),
                Ok(Claim::Sent) => {}
                Ok(Claim::UnderWay) => {
                    failed.add(&waiting.messages, &Failure::UnderWay(waiting.one.id));
                }
                Err(error) => {
                    failed.add(&waiting.messages, &error);
                }
            }
        }
        ours
    }

    /// Publishes the storm's message, with what an earlier one left uncounted,
    /// and switches the storm on.
    async fn tell_storm(
        &self,
        kind: &Kind,
        ones: &[One],
        surge: Option<Surge>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let untold = surge.map(|surge| surge.more).unwrap_or_default();
        let Some(notice) = storms::storm(kind, ones, &untold, now) else {
            return Ok(());
        };
        let message = message::of(&Record::Notice(Box::new(notice)));
        topic::publish(&self.clients.sns, &self.topic_arn, &message).await?;
        info!(?kind, count = ones.len(), "told as a storm");
        if !kind.is_failure()
            && let Err(error) = self.ledger.begin_storm(kind, &untold, now).await
        {
            warn!(%error, "the storm could not be noted: the next of its kind are told");
        }
        Ok(())
    }

    /// A ledger call for each, a good number at a time.
    async fn side_by_side<T, F>(
        &self,
        group: Vec<Waiting>,
        call: impl Fn(Ledger, String) -> F,
    ) -> Vec<(Waiting, T)>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let mut done = Vec::with_capacity(group.len());
        let mut running = JoinSet::new();
        for waiting in group {
            if running.len() >= SIDE_BY_SIDE
                && let Some(one) = running.join_next().await
            {
                done.push(ended(one));
            }
            let call = call(self.ledger.clone(), waiting.key.clone());
            running.spawn(async move { (waiting, call.await) });
        }
        while let Some(one) = running.join_next().await {
            done.push(ended(one));
        }
        done.sort_by_key(|(waiting, _)| waiting.one.since);
        done
    }
}

/// What a call came to. Should one have panicked, the invocation does: whatever
/// it was about must not count as done.
fn ended<T>(call: Result<T, JoinError>) -> T {
    match call {
        Ok(ended) => ended,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
