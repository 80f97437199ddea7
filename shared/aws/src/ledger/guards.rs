//! What stands between a decision and its change: one read for all of it, and
//! the trips that only a person ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, KeysAndAttributes, Put, TransactWriteItem, Update,
};
use backstop_core::guards::{Fights, Guards, Spent, Trip};
use backstop_core::json;
use backstop_core::notice::Notice;
use backstop_core::words::ControlId;
use jiff::Timestamp;

use super::items::{
    Item, Key, baseline_key, budget_key, control_trip_key, fights_key, former_key, key, known_key,
    lock_key, n, notice_item, number, resource_trip_key, s, spent_key, text, transact_delete,
    transact_put, transact_update,
};
use super::{BUDGET_SECONDS, Known, Ledger, LedgerError, Lock, Standing, Transacted};
use crate::error::AwsError;

/// How long fights are remembered after the last: the week over which they are
/// counted, and a day to spare.
const FIGHTS_SECONDS: i64 = 8 * 86_400;

/// Resources whose standing is read in one call: five keys each, and one for
/// all; BatchGetItem takes 100.
const RESOURCES_A_READ: usize = 19;

/// Tries of a read that DynamoDB answers in part.
const TRIES: u32 = 6;

impl Ledger {
    /// Everything the ledger holds about a resource that a run has to know
    /// before it decides, in one read.
    ///
    /// # Errors
    /// It could not be read, or not understood: nothing may be decided then.
    pub async fn standing(
        &self,
        control: ControlId,
        resource: &str,
    ) -> Result<Standing, LedgerError> {
        let resources = [resource.to_owned()];
        let mut standings = self.standings(control, &resources).await?;
        Ok(standings.pop().unwrap_or_default())
    }

    /// As [`standing`](Self::standing), of several resources and in their
    /// order.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn standings(
        &self,
        control: ControlId,
        resources: &[String],
    ) -> Result<Vec<Standing>, LedgerError> {
        let (lock_name, trip_name) = (control.lock_name(), control.trip_owner().name());
        // There is one for each control.
        let of_account = control.is_of_account();
        let control = control.name();
        let formers_of = |resources: &[String]| -> Vec<Key> {
            let resources = resources.iter().filter(|_| of_account);
            resources.map(|id| former_key(control, id)).collect()
        };
        let control_trip = control_trip_key(control);
        let mut standings = Vec::new();
        for resources in resources.chunks(RESOURCES_A_READ) {
            let keys: Vec<[Key; 5]> = resources
                .iter()
                .map(|resource| {
                    [
                        lock_key(lock_name, resource),
                        known_key(control, resource),
                        resource_trip_key(trip_name, resource),
                        fights_key(control, resource),
                        baseline_key(control, resource),
                    ]
                })
                .collect();
            let formers = formers_of(resources);
            let all = keys.iter().flatten().chain([&control_trip]);
            let all: Vec<&Key> = all.chain(&formers).collect();
            let items = self.get_all(&all).await?;
            let items: BTreeMap<String, Item> = items
                .into_iter()
                .filter_map(|item| Some((text(&item, "pk")?, item)))
                .collect();
            let find = |(pk, _): &Key| items.get(pk);
            for (index, [lock, known, resource_trip, fights, baseline]) in keys.iter().enumerate() {
                let former = formers.get(index).and_then(find);
                standings.push(Standing {
                    lock: find(lock).and_then(Lock::from_item),
                    known: find(known).and_then(Known::from_item),
                    guards: Guards {
                        control_tripped: document(find(&control_trip))?,
                        resource_tripped: document(find(resource_trip))?,
                        fights: document(find(fights))?.unwrap_or_default(),
                        baseline: find(baseline).map(fingerprints).unwrap_or_default(),
                        former: document(former)?,
                        budget_spent: false,
                    },
                });
            }
        }
        Ok(standings)
    }

    /// Keeps the last good state of a setting, to restore it by, unless one that was
    /// read later is kept.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn keep_former(
        &self,
        control: ControlId,
        resource: &str,
        state: &impl serde::Serialize,
        read_at: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut item = document_item(&former_key(control.name(), resource), state)?;
        let read_at = n(read_at.as_millisecond());
        item.insert("read_at".to_owned(), read_at.clone());
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(read_at) OR read_at <= :read_at")
            .expression_attribute_values(":read_at", read_at);
        self.transact(vec![transact_put(put)]).await.map(|_| ())
    }

    /// Reads items by their keys (at most 100), consistently.
    pub(super) async fn get_all(&self, keys: &[&Key]) -> Result<Vec<Item>, LedgerError> {
        let mut wanted: Vec<Item> = keys.iter().map(|k| key(k)).collect();
        let mut items = Vec::new();
        for attempt in 1..=TRIES {
            let request = KeysAndAttributes::builder()
                .set_keys(Some(wanted))
                .consistent_read(true)
                .build()
                .map_err(|e| {
                    LedgerError::read(AwsError::not_sent("BatchGetItem", e.to_string()))
                })?;
            let answer = self
                .dynamodb
                .batch_get_item()
                .request_items(&self.table, request)
                .send()
                .await
                .map_err(|e| LedgerError::read(AwsError::new("BatchGetItem", &e)))?;
            items.extend(answer.responses.unwrap_or_default().into_values().flatten());
            wanted = answer
                .unprocessed_keys
                .unwrap_or_default()
                .into_values()
                .flat_map(|left| left.keys)
                .collect();
            if wanted.is_empty() {
                return Ok(items);
            }
            tokio::time::sleep(Duration::from_millis(40 << attempt)).await;
        }
        Err(LedgerError::read(AwsError::throttled(
            "BatchGetItem",
            "DynamoDB left keys unread again and again",
        )))
    }

    pub(super) fn put_fights(
        &self,
        control: &str,
        resource: &str,
        fights: &Fights,
    ) -> Result<TransactWriteItem, LedgerError> {
        let mut item = document_item(&fights_key(control, resource), fights)?;
        item.insert(
            "expires_at".to_owned(),
            n(self.clock.now().as_second() + FIGHTS_SECONDS),
        );
        Ok(transact_put(
            Put::builder().table_name(&self.table).set_item(Some(item)),
        ))
    }

    /// Trips a control, and records the notice that tells it, in one write.
    /// `false`: it had tripped before, and that is told already.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn trip_control(
        &self,
        control: ControlId,
        trip: &Trip,
        notice: &Notice,
    ) -> Result<bool, LedgerError> {
        let item = document_item(&control_trip_key(control.name()), trip)?;
        let items = vec![
            self.put_item(item, "attribute_not_exists(pk)"),
            self.put_item(notice_item(notice)?, "attribute_not_exists(pk)"),
        ];
        Ok(matches!(self.transact(items).await?, Transacted::Done))
    }

    /// Trips a control for one resource, if it has not: and with it those that
    /// have the same remediation, for it is that which came to nothing.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn trip_resource(
        &self,
        control: ControlId,
        resource: &str,
        trip: &Trip,
    ) -> Result<(), LedgerError> {
        let item = document_item(
            &resource_trip_key(control.trip_owner().name(), resource),
            trip,
        )?;
        self.transact(vec![self.put_item(item, "attribute_not_exists(pk)")])
            .await
            .map(|_| ())
    }

    /// Trips a control for one resource, if it has not, because the resource
    /// exceeds the budget by itself.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn trip_over_budget(
        &self,
        control: ControlId,
        resource: &str,
        trip: &Trip,
    ) -> Result<(), LedgerError> {
        self.note_over_budget(control, resource).await?;
        self.trip_resource(control, resource, trip).await
    }

    /// Notes that a resource exceeds the budget by itself: that there is no room for
    /// others, because of what it has spent in this clock hour, is no reason to trip
    /// the control.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn note_over_budget(
        &self,
        control: ControlId,
        resource: &str,
    ) -> Result<(), LedgerError> {
        let now = self.clock.now();
        let (spent, noted) = self.spent_at(control, resource, now).await?;
        if spent.by_resource <= noted {
            return Ok(());
        }
        let add = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&budget_key(control.name(), now))))
            .update_expression("ADD tripped :more")
            .expression_attribute_values(":more", n((spent.by_resource - noted) as i64));
        // Once, whoever else notes it.
        let note = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&spent_key(control.name(), resource, now))))
            .update_expression("SET tripped = :spent")
            .expression_attribute_values(":spent", n(spent.by_resource as i64));
        let note = match noted {
            0 => note.condition_expression("attribute_not_exists(tripped)"),
            _ => note
                .condition_expression("tripped = :noted")
                .expression_attribute_values(":noted", n(noted as i64)),
        };
        self.transact(vec![transact_update(add), transact_update(note)])
            .await
            .map(|_| ())
    }

    /// How much of a control's budget is spent in this clock hour, by all resources
    /// and by this one.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn spent(&self, control: ControlId, resource: &str) -> Result<Spent, LedgerError> {
        let (spent, _) = self.spent_at(control, resource, self.clock.now()).await?;
        Ok(spent)
    }

    /// As [`spent`](Self::spent), and how much of what the resource has spent is
    /// noted as that of one that exceeds the budget by itself.
    async fn spent_at(
        &self,
        control: ControlId,
        resource: &str,
        at: Timestamp,
    ) -> Result<(Spent, u64), LedgerError> {
        let all = budget_key(control.name(), at);
        let of_resource = spent_key(control.name(), resource, at);
        let items = self.get_all(&[&all, &of_resource]).await?;
        let count = |of: &Key, name: &str| {
            let is = |item: &&Item| text(item, "pk").as_ref() == Some(&of.0);
            let count = items.iter().find(is).and_then(|item| number(item, name));
            u64::try_from(count.unwrap_or(0)).unwrap_or(0)
        };
        let changes = count(&all, "changes");
        let spent = Spent {
            all: changes,
            // What it had spent when the control was re-armed is forgotten.
            by_resource: count(&of_resource, "changes").min(changes),
            by_tripped: count(&all, "tripped"),
        };
        Ok((spent, count(&of_resource, "tripped")))
    }

    /// How much of each control's budget is spent in this clock hour.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn spent_by_control(&self) -> Result<BTreeMap<ControlId, u64>, LedgerError> {
        let now = self.clock.now();
        let of = |control: &ControlId| (*control, budget_key(control.name(), now));
        let keys: Vec<(ControlId, Key)> = ControlId::ALL.iter().map(of).collect();
        let wanted: Vec<&Key> = keys.iter().map(|(_, key)| key).collect();
        let items = self.get_all(&wanted).await?;
        let spent = |(pk, _): &Key| {
            let is = |item: &&Item| text(item, "pk").as_ref() == Some(pk);
            let changes = items
                .iter()
                .find(is)
                .and_then(|item| number(item, "changes"));
            u64::try_from(changes.unwrap_or(0)).unwrap_or(0)
        };
        Ok(keys.iter().map(|(of, key)| (*of, spent(key))).collect())
    }

    /// The controls that have tripped everywhere.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn tripped_controls(&self) -> Result<Vec<ControlId>, LedgerError> {
        let of = |control: &ControlId| (*control, control_trip_key(control.name()));
        let keys: Vec<(ControlId, Key)> = ControlId::ALL.iter().map(of).collect();
        let wanted: Vec<&Key> = keys.iter().map(|(_, key)| key).collect();
        let items = self.get_all(&wanted).await?;
        let there: BTreeSet<String> = items.iter().filter_map(|item| text(item, "pk")).collect();
        let tripped = keys.iter().filter(|(_, (pk, _))| there.contains(pk));
        Ok(tripped.map(|(control, _)| *control).collect())
    }

    /// Re-arms a control, everywhere or for one resource (there with those that
    /// share its trip): the trip goes, and what had been counted towards it, in the
    /// budget too. `false`: it had not tripped.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn re_arm(
        &self,
        control: ControlId,
        resource: Option<&str>,
    ) -> Result<bool, LedgerError> {
        let trip = match resource {
            None => control_trip_key(control.name()),
            Some(resource) => resource_trip_key(control.trip_owner().name(), resource),
        };
        let now = self.clock.now();
        let (spent, noted) = match resource {
            Some(resource) => self.spent_at(control, resource, now).await?,
            None => (Spent::default(), 0),
        };
        let control = control.name();
        let delete = |at: &Key, condition: Option<&str>| {
            let delete = Delete::builder()
                .table_name(&self.table)
                .set_key(Some(key(at)))
                .set_condition_expression(condition.map(str::to_owned));
            transact_delete(delete)
        };
        let forget = match resource {
            Some(resource) => delete(&fights_key(control, resource), None),
            None => transact_update(
                Update::builder()
                    .table_name(&self.table)
                    .set_key(Some(key(&budget_key(control, now))))
                    .update_expression("SET changes = :none, expires_at = :expires REMOVE tripped")
                    .expression_attribute_values(":none", n(0))
                    .expression_attribute_values(":expires", n(now.as_second() + BUDGET_SECONDS)),
            ),
        };
        let mut items = vec![delete(&trip, Some("attribute_exists(pk)")), forget];
        if let Some(resource) = resource
            && spent.by_resource > 0
        {
            // Else its next change would trip it again, or find no room.
            let back = |count: u64, of: u64| n(-(count.min(of) as i64));
            items.push(delete(&spent_key(control, resource, now), None));
            items.push(transact_update(
                Update::builder()
                    .table_name(&self.table)
                    .set_key(Some(key(&budget_key(control, now))))
                    .update_expression("ADD changes :changes, tripped :tripped")
                    .expression_attribute_values(":changes", back(spent.by_resource, spent.all))
                    .expression_attribute_values(":tripped", back(noted, spent.by_tripped)),
            ));
        }
        Ok(matches!(self.transact(items).await?, Transacted::Done))
    }
}

fn fingerprints(item: &Item) -> BTreeSet<String> {
    match item.get("fingerprints") {
        Some(AttributeValue::Ss(fingerprints)) => fingerprints.iter().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

pub(super) fn document_item(
    at: &Key,
    document: &impl serde::Serialize,
) -> Result<Item, LedgerError> {
    let document = serde_json::to_string(document)
        .map_err(|e| LedgerError::Unreadable(at.0.clone(), e.to_string()))?;
    let mut item = key(at);
    item.insert("document".to_owned(), s(&document));
    Ok(item)
}

pub(super) fn document<T: serde::de::DeserializeOwned>(
    item: Option<&Item>,
) -> Result<Option<T>, LedgerError> {
    let Some(item) = item else { return Ok(None) };
    let pk = text(item, "pk").unwrap_or_default();
    let document = text(item, "document").unwrap_or_default();
    json::parse(document.as_bytes())
        .map(Some)
        .map_err(|problem| LedgerError::Unreadable(pk, problem))
}
