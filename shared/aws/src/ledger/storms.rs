//! What `notify` has to know about many messages at once: records and sent
//! keys by the hundred, and the storms that are on.
//!
//! | item | `pk` | holds |
//! | --- | --- | --- |
//! | storm | `storm#<control>#<outcome>[#fight]` | `until` (epoch milliseconds), `more` that were counted since its message, `since`, `teams` |
//! | pace | `pace#<control>#<outcome>[#fight]#<five minutes>` | `told`: how many of a kind came in these five minutes |
//!
//! What a storm only counted is told when it is over: `end_storm` takes the
//! count and records the notice in one write. Deliberately not here: what a
//! storm is (`backstop_core::storms`).

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::{AttributeValue, Delete, ReturnValue};
use backstop_core::notice::Notice;
use backstop_core::storms::{Kind, MOST_TEAMS, More, on_until};
use jiff::Timestamp;

use super::items::{
    Item, Key, entry_key, key, n, notice_item, number, s, sent_key, state_key, stored, text,
    transact_delete,
};
use super::{Claim, Ledger, LedgerError, REMEMBERED_DAYS, Stored, Transacted};
use crate::error::AwsError;

/// How long those of a kind are added up that come in batches of a few: Lambda
/// takes from the queue at several places at once, each for itself.
const PACE_SECONDS: i64 = 300;

/// Most keys of one BatchGetItem call (DynamoDB's quota).
const BATCH: usize = 100;

/// A storm, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surge {
    /// What it is made of.
    pub kind: Kind,
    /// Until when it is on (epoch milliseconds).
    pub until: i64,
    /// What was counted since its message.
    pub more: More,
}

impl Surge {
    /// Whether it is on: further ones are counted.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        self.until > now.as_millisecond()
    }

    fn from_item(kind: &Kind, item: &Item) -> Option<Self> {
        let teams = match item.get("teams") {
            Some(AttributeValue::Ss(teams)) => teams.iter().cloned().collect(),
            _ => BTreeSet::new(),
        };
        Some(Self {
            kind: kind.clone(),
            until: number(item, "until")?,
            more: More {
                count: number(item, "more")
                    .and_then(|more| u64::try_from(more).ok())
                    .unwrap_or(0),
                since: text(item, "since").and_then(|at| at.parse().ok()),
                teams,
            },
        })
    }
}

fn storm_key(kind: &Kind) -> Key {
    state_key(format!("storm#{}", kind_name(kind)))
}

fn pace_key(kind: &Kind, now: Timestamp) -> Key {
    let window = now.as_second() / PACE_SECONDS;
    state_key(format!("pace#{}#{window}", kind_name(kind)))
}

fn kind_name(kind: &Kind) -> String {
    let fight = if kind.fight { "#fight" } else { "" };
    format!("{}#{}{fight}", kind.control, kind.outcome)
}

impl Ledger {
    /// Records by their ids, one answer for each id: `None` where there is no
    /// such record, an error of its own where one cannot be understood.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn read_all(
        &self,
        ids: &[String],
    ) -> Result<BTreeMap<String, Result<Option<Stored>, LedgerError>>, LedgerError> {
        let mut all: BTreeMap<_, _> = ids.iter().map(|id| (id.clone(), Ok(None))).collect();
        for ids in ids.chunks(BATCH) {
            let keys: Vec<Key> = ids.iter().map(|id| entry_key(id)).collect();
            for item in self.get_all(&keys.iter().collect::<Vec<_>>()).await? {
                let pk = text(&item, "pk").unwrap_or_default();
                if let Some(id) = pk.strip_prefix("entry#") {
                    all.insert(id.to_owned(), stored(id, &item).map(Some));
                }
            }
        }
        Ok(all)
    }

    /// What is known of messages: those that were sent, and those that
    /// somebody is sending now. All others are new.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn messages(
        &self,
        keys: &[String],
        now: Timestamp,
    ) -> Result<BTreeMap<String, Claim>, LedgerError> {
        let mut known = BTreeMap::new();
        for keys in keys.chunks(BATCH) {
            let keys: Vec<Key> = keys.iter().map(|key| sent_key(key)).collect();
            for item in self.get_all(&keys.iter().collect::<Vec<_>>()).await? {
                let sent = item.get("sent") == Some(&AttributeValue::Bool(true));
                let lease = number(&item, "lease_until").unwrap_or(0);
                let claim = match sent {
                    true => Claim::Sent,
                    false if lease >= now.as_millisecond() => Claim::UnderWay,
                    false => continue,
                };
                let pk = text(&item, "pk").unwrap_or_default();
                if let Some(message) = pk.strip_prefix("sent#") {
                    known.insert(message.to_owned(), claim);
                }
            }
        }
        Ok(known)
    }

    /// The storm of a kind, on or over.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn storm(&self, kind: &Kind) -> Result<Option<Surge>, LedgerError> {
        let item = self.get(&storm_key(kind)).await?;
        Ok(item.and_then(|item| Surge::from_item(kind, &item)))
    }

    /// Adds to how many of a kind came of late, and says how many that makes.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn pace(&self, kind: &Kind, more: usize, now: Timestamp) -> Result<u64, LedgerError> {
        let answer = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&pace_key(kind, now))))
            .update_expression("ADD told :more SET expires_at = :expires")
            .expression_attribute_values(":more", n(count(more as u64)))
            .expression_attribute_values(":expires", n(now.as_second() + 86_400))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|e| LedgerError::written(AwsError::new("UpdateItem", &e)))?;
        let told = answer.attributes().and_then(|all| number(all, "told"));
        Ok(told.and_then(|told| u64::try_from(told).ok()).unwrap_or(0))
    }

    /// A storm's message went out: it is on from now. `told` is what its
    /// message said of those that were counted before.
    ///
    /// # Errors
    /// It could not be stored; the next of its kind are told then.
    pub async fn begin_storm(
        &self,
        kind: &Kind,
        told: &More,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let until = on_until(now);
        let update = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&storm_key(kind))))
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":until", n(until.as_millisecond()))
            .expression_attribute_values(
                ":expires",
                n(until.as_second() + REMEMBERED_DAYS * 86_400),
            );
        let update = if told.count == 0 {
            update.update_expression("SET #until = :until, expires_at = :expires")
        } else {
            update
                .update_expression(
                    "SET #until = :until, expires_at = :expires ADD more :told REMOVE since, teams",
                )
                .condition_expression("more >= :least")
                .expression_attribute_values(":told", n(-count(told.count)))
                .expression_attribute_values(":least", n(count(told.count)))
        };
        update
            .send()
            .await
            .map(|_| ())
            .map_err(|e| LedgerError::written(AwsError::new("UpdateItem", &e)))
    }

    /// Counts those of a kind whose storm is on. `false`: it is not on any
    /// more, and nothing was counted.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn count_in_storm(
        &self,
        surge: &Surge,
        more: &More,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let mut update = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&storm_key(&surge.kind))))
            .condition_expression("#until > :now")
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":now", n(now.as_millisecond()))
            .expression_attribute_values(":more", n(count(more.count)));
        let mut set = String::new();
        if let Some(since) = more.since {
            set = "SET since = if_not_exists(since, :since) ".to_owned();
            update = update.expression_attribute_values(":since", s(&since.to_string()));
        }
        let teams: Vec<String> = more.teams.difference(&surge.more.teams).cloned().collect();
        let mut add = "ADD more :more".to_owned();
        if !teams.is_empty() && surge.more.teams.len() < MOST_TEAMS {
            add += ", teams :teams";
            update = update.expression_attribute_values(":teams", AttributeValue::Ss(teams));
        }
        let answer = update.update_expression(set + &add).send().await;
        match answer {
            Ok(_) => Ok(true),
            Err(error) => {
                let error = AwsError::new("UpdateItem", &error);
                if error.code == "ConditionalCheckFailedException" {
                    Ok(false)
                } else {
                    Err(LedgerError::written(error))
                }
            }
        }
    }

    /// The storms that are over and have counted some that nobody was told of.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn ended_storms(&self, now: Timestamp) -> Result<Vec<Surge>, LedgerError> {
        let mut ended = Vec::new();
        for kinds in Kind::all().chunks(BATCH) {
            let keys: BTreeMap<String, (Key, &Kind)> = kinds
                .iter()
                .map(|kind| (storm_key(kind).0, (storm_key(kind), kind)))
                .collect();
            let wanted: Vec<&Key> = keys.values().map(|(key, _)| key).collect();
            for item in self.get_all(&wanted).await? {
                let kind = text(&item, "pk").and_then(|pk| keys.get(&pk));
                let surge = kind.and_then(|(_, kind)| Surge::from_item(kind, &item));
                ended.extend(surge.filter(|surge| !surge.is_on(now) && surge.more.count > 0));
            }
        }
        Ok(ended)
    }

    /// Ends a storm and records the notice about those that it counted, in one
    /// write. `false`: it went on, or somebody else has ended it.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn end_storm(&self, surge: &Surge, notice: &Notice) -> Result<bool, LedgerError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(key(&storm_key(&surge.kind))))
            .condition_expression("#until = :until AND more = :more")
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":until", n(surge.until))
            .expression_attribute_values(":more", n(count(surge.more.count)));
        let items = vec![
            transact_delete(delete),
            self.put_item(notice_item(notice)?, "attribute_not_exists(pk)"),
        ];
        Ok(matches!(self.transact(items).await?, Transacted::Done))
    }
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
