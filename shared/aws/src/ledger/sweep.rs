//! What the sweep reads and keeps in the ledger: the baseline, what nobody has
//! been told, what was done since the last digest, and what that said.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::{AttributeValue, Put};
use backstop_core::notice::Notice;
use backstop_core::sweep::{LastDigest, LastSweep};
use backstop_core::words::{ControlId, Status};
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};

use super::guards::{document, document_item};
use super::items::{
    Item, Key, baseline_key, key, last_digest_key, last_sweep_key, notice_item, s, text,
    transact_put, walked_key,
};
use super::{Ledger, LedgerError, Transacted};
use crate::error::AwsError;

/// How many days back entries are counted at most, when the last digest is
/// older or unknown.
const MOST_DAYS: i64 = 7;

/// A record that waits to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    /// Its id.
    pub id: String,
    /// When it began.
    pub started_at: Timestamp,
}

/// A remediation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remediated {
    /// Its entry's id.
    pub entry: String,
    /// When it began.
    pub at: Timestamp,
}

impl Ledger {
    /// Whether a walk over all resources has been completed since the control
    /// was switched to `enforce`: then its baseline stands.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn has_baseline(&self, control: ControlId) -> Result<bool, LedgerError> {
        let item = self.get(&walked_key(control.name())).await?;
        Ok(item.is_some())
    }

    /// The resources that a control's baseline spares something on.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn baseline_resources(
        &self,
        control: ControlId,
    ) -> Result<BTreeSet<String>, LedgerError> {
        let items = self
            .query("by-resource", "resource", &baseline_of(control), None)
            .await?;
        let prefix = baseline_key(control.name(), "").0;
        Ok(items
            .iter()
            .filter_map(|item| Some(text(item, "pk")?.strip_prefix(&prefix)?.to_owned()))
            .collect())
    }

    /// Sets what the baseline spares on a resource; nothing: it is forgotten.
    ///
    /// # Errors
    /// It could not be stored: then it is as it was.
    pub async fn set_baseline(
        &self,
        control: ControlId,
        resource: &str,
        fingerprints: Vec<String>,
    ) -> Result<(), LedgerError> {
        if fingerprints.is_empty() {
            return self.delete(&baseline_key(control.name(), resource)).await;
        }
        let mut item = key(&baseline_key(control.name(), resource));
        item.insert("fingerprints".to_owned(), AttributeValue::Ss(fingerprints));
        // So that the index by resource finds all items of a baseline.
        item.insert("resource".to_owned(), s(&baseline_of(control)));
        item.insert("started_at".to_owned(), s(&self.clock.now().to_string()));
        self.put(item, None).await.map(|_| ())
    }

    /// Notes that the baseline is complete.
    ///
    /// # Errors
    /// It could not be stored: the next sweep walks for it once more.
    pub async fn baseline_is_complete(&self, control: ControlId) -> Result<(), LedgerError> {
        let mut item = key(&walked_key(control.name()));
        item.insert("at".to_owned(), s(&self.clock.now().to_string()));
        self.put(item, None).await.map(|_| ())
    }

    /// Forgets a control's baseline: it acts no more, and the next switch to
    /// `enforce` begins with another.
    ///
    /// # Errors
    /// It could not be read or deleted; the next sweep goes on with it.
    pub async fn forget_baseline(&self, control: ControlId) -> Result<(), LedgerError> {
        let items = self
            .query("by-resource", "resource", &baseline_of(control), None)
            .await?;
        // The marker last: while it stands, the next sweep comes here again.
        let walked = walked_key(control.name());
        let items = items.iter().filter_map(|item| text(item, "pk"));
        for pk in items.chain([walked.0]) {
            self.delete(&(pk, walked.1)).await?;
        }
        Ok(())
    }

    async fn delete(&self, at: &Key) -> Result<(), LedgerError> {
        self.dynamodb
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(at)))
            .send()
            .await
            .map(|_| ())
            .map_err(|e| LedgerError::written(AwsError::new("DeleteItem", &e)))
    }

    /// The records that wait to be told, the oldest first.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn untold(&self) -> Result<Vec<Untold>, LedgerError> {
        let items = self.query("untold", "untold", "untold", None).await?;
        Ok(items
            .iter()
            .filter_map(|item| {
                Some(Untold {
                    id: text(item, "pk")?.strip_prefix("entry#")?.to_owned(),
                    started_at: text(item, "started_at")?.parse().ok()?,
                })
            })
            .collect())
    }

    /// How many records there are since a time, by control and outcome;
    /// notices do not count.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn outcomes_since(
        &self,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<BTreeMap<ControlId, BTreeMap<String, u64>>, LedgerError> {
        let earliest = now.saturating_sub((24 * MOST_DAYS).hours());
        let earliest = earliest.unwrap_or(Timestamp::MIN);
        let since = since.unwrap_or(earliest).max(earliest);
        let mut counts: BTreeMap<ControlId, BTreeMap<String, u64>> = BTreeMap::new();
        for item in &self.items_since(since, now).await? {
            let control = text(item, "control").and_then(|name| ControlId::from_name(&name));
            let notice =
                text(item, "resource").is_none_or(|resource| !resource.starts_with("arn:"));
            if let (Some(control), Some(status), false) = (control, text(item, "status"), notice) {
                *counts
                    .entry(control)
                    .or_default()
                    .entry(status)
                    .or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// The last remediation of each resource since a time, of those by one control.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn remediations_since(
        &self,
        control: ControlId,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<BTreeMap<String, Remediated>, LedgerError> {
        let remediated = |item: &Item| {
            let is = |name, value: &str| text(item, name).as_deref() == Some(value);
            let ours = is("control", control.name()) && is("status", Status::Remediated.name());
            let resource = text(item, "resource").filter(|arn| ours && arn.starts_with("arn:"))?;
            let entry = text(item, "pk")?.strip_prefix("entry#")?.to_owned();
            let at = text(item, "started_at")?.parse().ok()?;
            Some((resource, Remediated { entry, at }))
        };
        let mut last: BTreeMap<String, Remediated> = BTreeMap::new();
        for (resource, one) in self
            .items_since(since, now)
            .await?
            .iter()
            .filter_map(remediated)
        {
            let known = last.get(&resource);
            if known.is_none_or(|known| known.at <= one.at) {
                last.insert(resource, one);
            }
        }
        Ok(last)
    }

    /// Every record that began after a time, as the index by day shows it.
    async fn items_since(
        &self,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Item>, LedgerError> {
        let mut items = Vec::new();
        let mut day = Offset::UTC.to_datetime(since).date();
        let today = Offset::UTC.to_datetime(now).date();
        while day <= today {
            let of_day = day.to_string();
            let of_day = self.query("by-day", "day", &of_day, Some(since));
            items.extend(of_day.await?);
            match day.tomorrow() {
                Ok(next) => day = next,
                Err(_) => break,
            }
        }
        Ok(items)
    }

    /// What the last digest said.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn last_digest(&self) -> Result<Option<LastDigest>, LedgerError> {
        let item = self.get(&last_digest_key()).await?;
        document(item.as_ref())
    }

    /// What the last sweep came to; none: none has ended since the stack was
    /// deployed.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn last_sweep(&self) -> Result<Option<LastSweep>, LedgerError> {
        let item = self.get(&last_sweep_key()).await?;
        document(item.as_ref())
    }

    /// Keeps what a sweep came to.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn keep_sweep(&self, sweep: &LastSweep) -> Result<(), LedgerError> {
        let at = last_sweep_key();
        let document = serde_json::to_string(sweep)
            .map_err(|e| LedgerError::Unreadable(at.0.clone(), e.to_string()))?;
        self.dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&at)))
            .update_expression("SET document = :document")
            .expression_attribute_values(":document", s(&document))
            .send()
            .await
            .map(|_| ())
            .map_err(|e| LedgerError::written(AwsError::new("UpdateItem", &e)))
    }

    /// Records a digest and what it says, in one write: a sweep that is tried
    /// again does not say it twice.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn record_digest(
        &self,
        notice: &Notice,
        says: &LastDigest,
    ) -> Result<(), LedgerError> {
        let item = document_item(&last_digest_key(), says)?;
        let items = vec![
            transact_put(Put::builder().table_name(&self.table).set_item(Some(item))),
            self.put_item(notice_item(notice)?, "attribute_not_exists(pk)"),
        ];
        match self.transact(items).await? {
            Transacted::Done => Ok(()),
            Transacted::Refused(_) => Err(LedgerError::Unreadable(
                notice.id.clone(),
                "a record of this id is there already".to_owned(),
            )),
        }
    }

    /// Every item of an index's partition, or those that began after a time.
    pub(super) async fn query(
        &self,
        index: &str,
        partition: &str,
        value: &str,
        since: Option<Timestamp>,
    ) -> Result<Vec<Item>, LedgerError> {
        let mut request = self
            .dynamodb
            .query()
            .table_name(&self.table)
            .index_name(index)
            .key_condition_expression(match since {
                None => "#partition = :value",
                Some(_) => "#partition = :value AND started_at > :since",
            })
            .expression_attribute_names("#partition", partition)
            .expression_attribute_values(":value", s(value));
        if let Some(since) = since {
            request = request.expression_attribute_values(":since", s(&since.to_string()));
        }
        let mut pages = request.into_paginator().send();
        let mut items = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| LedgerError::read(AwsError::new("Query", &e)))?;
            items.extend(page.items.unwrap_or_default());
        }
        Ok(items)
    }
}

fn baseline_of(control: ControlId) -> String {
    format!("baseline#{control}")
}
