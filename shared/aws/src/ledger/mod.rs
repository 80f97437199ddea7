//! The ledger: one DynamoDB table that remembers what was found, what it
//! looked like before, what was done, and who was told.
//!
//! | item | `pk` | what for |
//! | --- | --- | --- |
//! | entry | `entry#<ulid>` | the entry as JSON in `document`, `before` compressed beside it |
//! | lock | `lock#<control>#<resource>` | one run at a time for a resource |
//! | budget | `budget#<control>#<hour>` | changes counted by clock hour (UTC) |
//! | spent | `budget#<control>#<hour>#<resource>` | those of one resource, and whether it exceeds the budget by itself |
//! | known | `known#<control>#<resource>` | what was found last and not changed, so that it is recorded once |
//! | sent | `sent#<message key>` | messages that went out |
//! | trip | `trip#<control>[#<resource>]` | a control that acts no more until a person re-arms it |
//! | fights | `fights#<control>#<resource>` | how often each finding was put right of late |
//! | storm | `storm#<control>#<outcome>[#fight]` | how many of a kind came after their storm was told |
//! | pace | `pace#<control>#<outcome>[#fight]#<five minutes>` | how many of a kind came of late |
//! | baseline | `baseline#<control>#<resource>` | what was there when the control was switched to `enforce` |
//! | walked | `baseline#<control>` | the baseline is complete |
//! | digest | `digest` | what the last digest said |
//! | sweep | `sweep` | what the last sweep came to |
//! | not made | `not-made#<volume>` | why EBS could not make a volume |
//! | reports | `reports#<instance>` | what Inspector reported of an instance and has not closed |
//!
//! No ledger, no change: `begin` stores `before` in the same transaction that
//! takes the lock. Deliberately not here: what stands in an entry
//! (`backstop_core::entry`).

use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Delete, Put, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};
use backstop_core::entry::KEPT_DAYS;
use backstop_core::guards::{Fights, Guards};
use backstop_core::notice::Notice;
use backstop_core::record::Record;
use backstop_core::words::ControlId;
use jiff::Timestamp;

use crate::clients::Clients;
use crate::clock::Clock;
use crate::error::AwsError;

mod encryptions;
mod guards;
mod history;
mod items;
mod not_made;
mod patchings;
mod storms;
mod sweep;
mod undo;

pub use encryptions::Stepwise;
pub use items::{Finding, LockedRun, oversize};
pub use storms::Surge;
pub use sweep::Untold;

use items::{
    Item, Key, budget_key, entry_key, key, known_key, lock_item, lock_key, n, notice_item, number,
    s, sent_key, spent_key, stored, text, transact_delete, transact_put, transact_update,
};

/// Most bytes of an entry with its `before` and the outcomes to come, when a
/// change is begun. DynamoDB takes 400 KB an item; the rest is room for
/// failures' messages and for what a retry adds.
pub const MOST_BYTES: usize = 350_000;

/// How long `known` and `sent` are remembered, in days: as long as entries.
const REMEMBERED_DAYS: i64 = KEPT_DAYS;

/// How long a clock hour's count of changes is kept: a week, for people who
/// look into it. It counts for one hour.
const BUDGET_SECONDS: i64 = 7 * 86_400;

/// How long a message may be under way before another sender may try: half as
/// long again as `notify`'s time-out, and less than its queue hides a message.
const SENDING: Duration = Duration::from_secs(45);

/// What went wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// DynamoDB did not do it.
    #[error("the ledger could not be {doing}: {error}")]
    Aws {
        /// `read` or `written`.
        doing: &'static str,
        /// What AWS said.
        error: AwsError,
    },
    /// The entry would be larger than the table can hold.
    #[error(
        "the ledger entry has {0} bytes with what was there before; at most {MOST_BYTES} are stored"
    )]
    TooLarge(usize),
    /// What is stored cannot be read.
    #[error("the ledger entry `{0}` cannot be read: {1}")]
    Unreadable(String, String),
}

impl LedgerError {
    fn read(error: AwsError) -> Self {
        Self::Aws {
            doing: "read",
            error,
        }
    }

    fn written(error: AwsError) -> Self {
        Self::Aws {
            doing: "written",
            error,
        }
    }
}

/// The lock of a resource, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The entry that it is held for.
    pub entry: String,
    /// The invocation that holds it.
    pub holder: String,
    /// Until when it is live (epoch milliseconds). Below 0: its holder ended the
    /// lease for a retry, that long after the epoch.
    pub lease_until: i64,
}

impl Lock {
    fn from_item(item: &Item) -> Option<Self> {
        Some(Self {
            entry: text(item, "entry")?,
            holder: text(item, "holder")?,
            lease_until: number(item, "lease_until")?,
        })
    }

    /// Whether another invocation is at work: neither lapsed nor our own from
    /// an earlier attempt (Lambda never runs a retry beside its first try).
    #[must_use]
    pub fn is_live_for_others(&self, holder: &str, now: Timestamp) -> bool {
        self.holder != holder && self.is_live(now)
    }

    /// Whether any invocation is at work.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.lease_until > now.as_millisecond()
    }
}

/// Who is running, and until when at the latest.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The invocation's request id: the same for Lambda's own retries.
    pub id: String,
    /// When this invocation has ended for certain.
    pub lease_until: Timestamp,
}

/// What `begin` came to.
#[derive(Debug)]
pub enum Begun {
    /// The lock is ours and the entry stored.
    Started,
    /// Another run is at work on the resource. It has been asked to look
    /// again; there is nothing more to do here.
    Busy,
    /// The lock changed hands since it was read: look again.
    Moved,
    /// The changes would exceed the control's budget of this hour: nothing was
    /// stored, so nothing may be changed.
    OverBudget,
}

/// What `close` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Closed.
    Done,
    /// Closed; another run asked meanwhile for another look.
    LookAgain,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record, with its `before`.
    pub record: Record,
    /// Whether it has been told.
    pub told: bool,
}

/// What the ledger holds about a resource before anything is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The lock of a run that is at work, failed, or was cut off.
    pub lock: Option<Lock>,
    /// What the last run recorded without changing anything.
    pub known: Option<Known>,
    /// What keeps the control from acting.
    pub guards: Guards,
}

/// What a resource's last run found and did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What was found: [`Finding::state_key`].
    pub state_key: String,
    /// The entry that it was recorded in.
    pub entry: String,
    /// Whether that entry has been told.
    pub told: bool,
    /// What a page of the sweep would show of it: [`Finding::page_key`].
    pub page_key: Option<String>,
    /// The status that it was recorded with; none: before that was kept.
    pub status: Option<String>,
}

impl Known {
    fn from_item(item: &Item) -> Option<Self> {
        Some(Self {
            state_key: text(item, "state_key")?,
            entry: text(item, "entry")?,
            told: item.get("told") == Some(&AttributeValue::Bool(true)),
            page_key: text(item, "page_key"),
            status: text(item, "status"),
        })
    }

    /// What it means for what is so now; `None`: it is news.
    fn of(&self, state_key: &str) -> Option<Recorded> {
        (self.state_key == state_key).then(|| match self.told {
            true => Recorded::Told,
            false => Recorded::Untold(self.entry.clone()),
        })
    }
}

/// What `record` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Recorded; it waits to be told.
    New,
    /// It was recorded before and has not been told: the entry's id.
    Untold(String),
    /// It was recorded and told before.
    Told,
    /// Another run recorded something else meanwhile: look again.
    Moved,
}

/// Whether a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Send it.
    Ours,
    /// It was sent.
    Sent,
    /// Somebody is sending it now.
    UnderWay,
}

/// The ledger's table.
#[derive(Clone, Debug)]
pub struct Ledger {
    dynamodb: aws_sdk_dynamodb::Client,
    clock: Clock,
    table: String,
}

impl Ledger {
    /// A ledger over the table of this name.
    #[must_use]
    pub fn new(clients: &Clients, table: String) -> Self {
        Self {
            dynamodb: clients.dynamodb.clone(),
            clock: clients.clock,
            table,
        }
    }

    /// The clock that it goes by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A record with its `before`.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn read(&self, id: &str) -> Result<Option<Stored>, LedgerError> {
        match self.get(&entry_key(id)).await? {
            Some(item) => stored(id, &item).map(Some),
            None => Ok(None),
        }
    }

    /// Takes the resource's lock, stores the run's record with its `before` and
    /// counts the changes, in one transaction. `held` is the lapsed lock that
    /// was read before and is replaced; `budget` is how many changes the
    /// control may make in this clock hour.
    ///
    /// # Errors
    /// Nothing was stored, so nothing may be changed.
    pub async fn begin(
        &self,
        run: &impl LockedRun,
        holder: &Holder,
        held: Option<&Lock>,
        budget: u32,
    ) -> Result<Begun, LedgerError> {
        if let Some(bytes) = oversize(run)? {
            return Err(LedgerError::TooLarge(bytes));
        }
        let mut items = vec![
            self.take_lock(run, holder, held),
            self.put_run(run, "attribute_not_exists(pk)")?,
        ];
        if run.changes() > 0 {
            let Some(counts) = self.count(run, run.changes(), budget) else {
                return Ok(Begun::OverBudget);
            };
            items.extend(counts);
        }
        self.begun(run, items).await
    }

    /// Takes the lock over for an entry that goes on: after a retry or a
    /// lapsed lease (`held`), or for a further round of our own run. `before`
    /// must hold what the entry held, and may hold more. No second budget is
    /// spent; `more` changes that were not counted before are.
    ///
    /// # Errors
    /// Nothing was stored, so nothing may be changed.
    pub async fn go_on(
        &self,
        run: &impl LockedRun,
        holder: &Holder,
        held: Option<&Lock>,
        more: usize,
        budget: u32,
    ) -> Result<Begun, LedgerError> {
        let mut items = vec![
            match held {
                Some(_) => self.take_lock(run, holder, held),
                None => self.renew_lock(run, holder),
            },
            self.put_run(run, "attribute_exists(pk)")?,
        ];
        if more > 0 {
            let Some(counts) = self.count(run, more, budget) else {
                return Ok(Begun::OverBudget);
            };
            items.extend(counts);
        }
        self.begun(run, items).await
    }

    /// Counts changes against the control's budget of the clock hour, on
    /// condition that there is room for all of them: of two runs that compete
    /// for the last of it one is refused; and beside it what the resource has spent
    /// of it. `None`: there can be no room.
    fn count(
        &self,
        run: &impl LockedRun,
        changes: usize,
        budget: u32,
    ) -> Option<[TransactWriteItem; 2]> {
        let room = i64::from(budget).checked_sub(i64::try_from(changes).ok()?)?;
        if room < 0 {
            return None;
        }
        let (now, control) = (self.clock.now(), run.control().name());
        let add = |to: &Key| {
            Update::builder()
                .table_name(&self.table)
                .set_key(Some(key(to)))
                .update_expression(
                    "ADD changes :changes SET expires_at = if_not_exists(expires_at, :expires)",
                )
                .expression_attribute_values(":changes", n(changes as i64))
                .expression_attribute_values(":expires", n(now.as_second() + BUDGET_SECONDS))
        };
        let all = add(&budget_key(control, now))
            .condition_expression("attribute_not_exists(changes) OR changes <= :room")
            .expression_attribute_values(":room", n(room));
        let of_resource = add(&spent_key(control, run.resource_id(), now));
        Some([transact_update(all), transact_update(of_resource)])
    }

    async fn begun(
        &self,
        run: &impl LockedRun,
        items: Vec<TransactWriteItem>,
    ) -> Result<Begun, LedgerError> {
        match self.transact(items).await? {
            Transacted::Done => Ok(Begun::Started),
            Transacted::Refused(reasons) => {
                let lock = reasons
                    .first()
                    .and_then(|reason| reason.item.as_ref())
                    .and_then(Lock::from_item);
                match lock {
                    Some(lock) if lock.is_live(self.clock.now()) => {
                        self.ask_to_look_again(run, &lock).await
                    }
                    // The third is the budget's counter. Only it was refused:
                    // else the lock has to be looked at first.
                    _ if reasons
                        .iter()
                        .take(3)
                        .map(failed_condition)
                        .eq([false, false, true]) =>
                    {
                        Ok(Begun::OverBudget)
                    }
                    _ => Ok(Begun::Moved),
                }
            }
        }
    }

    /// Notes on a live lock that its holder is to go round once more.
    async fn ask_to_look_again(
        &self,
        run: &impl LockedRun,
        lock: &Lock,
    ) -> Result<Begun, LedgerError> {
        self.look_again(run.control(), run.resource_id(), lock)
            .await
    }

    /// Notes on a live lock that its holder is to go round once more:
    /// [`Begun::Busy`]; [`Begun::Moved`]: it is not as it was read any more.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn look_again(
        &self,
        control: ControlId,
        resource_id: &str,
        lock: &Lock,
    ) -> Result<Begun, LedgerError> {
        let answer = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&lock_key(control.lock_name(), resource_id))))
            .update_expression("SET look_again = :yes")
            .condition_expression("entry = :entry AND lease_until = :lease")
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .expression_attribute_values(":entry", s(&lock.entry))
            .expression_attribute_values(":lease", n(lock.lease_until))
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Begun::Busy),
            Err(error) => {
                let error = AwsError::new("UpdateItem", &error);
                if error.code == "ConditionalCheckFailedException" {
                    Ok(Begun::Moved)
                } else {
                    Err(LedgerError::written(error))
                }
            }
        }
    }

    /// Takes the lock that is not there, or over one as it was read (`held`): an
    /// update then, and not a put, so that a wish to look again stays on it. What
    /// its holder has read may be older than the wish.
    fn take_lock(
        &self,
        run: &impl LockedRun,
        holder: &Holder,
        held: Option<&Lock>,
    ) -> TransactWriteItem {
        let all_old = ReturnValuesOnConditionCheckFailure::AllOld;
        let item = lock_item(run, holder);
        let Some(lock) = held else {
            return transact_put(
                Put::builder()
                    .table_name(&self.table)
                    .set_item(Some(item))
                    .condition_expression("attribute_not_exists(pk)")
                    .return_values_on_condition_check_failure(all_old),
            );
        };
        transact_update(
            Update::builder()
                .table_name(&self.table)
                .set_key(Some(key(&lock_key(
                    run.control().lock_name(),
                    run.resource_id(),
                ))))
                .update_expression("SET entry = :our_entry, holder = :us, lease_until = :our_lease")
                .condition_expression(
                    "entry = :entry AND lease_until = :lease AND holder = :holder",
                )
                .expression_attribute_values(":our_entry", s(run.id()))
                .expression_attribute_values(":us", s(&holder.id))
                .expression_attribute_values(":our_lease", n(holder.lease_until.as_millisecond()))
                .expression_attribute_values(":entry", s(&lock.entry))
                .expression_attribute_values(":lease", n(lock.lease_until))
                .expression_attribute_values(":holder", s(&lock.holder))
                .return_values_on_condition_check_failure(all_old),
        )
    }

    /// Keeps our lock; a wish to look again that came meanwhile is met by the
    /// round that this begins.
    fn renew_lock(&self, run: &impl LockedRun, holder: &Holder) -> TransactWriteItem {
        transact_put(
            Put::builder()
                .table_name(&self.table)
                .set_item(Some(lock_item(run, holder)))
                .condition_expression("entry = :entry AND holder = :holder")
                .expression_attribute_values(":entry", s(run.id()))
                .expression_attribute_values(":holder", s(&holder.id)),
        )
    }

    fn put_run(
        &self,
        run: &impl LockedRun,
        condition: &str,
    ) -> Result<TransactWriteItem, LedgerError> {
        Ok(self.put_item(run.to_item()?, condition))
    }

    fn put_item(&self, item: Item, condition: &str) -> TransactWriteItem {
        transact_put(
            Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .condition_expression(condition),
        )
    }

    /// Stores outcomes, verification and `after`; the entry waits to be told.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn finish(&self, run: &impl LockedRun) -> Result<(), LedgerError> {
        self.put(run.to_item()?, None).await.map(|_| ())
    }

    /// Notes that the record has been told and releases the lock, in one write,
    /// and with it how often the findings have been put right. After a failure
    /// the lock stays for our own retry, its lease ended.
    ///
    /// # Errors
    /// It could not be stored; the retry or the sweep tells again.
    pub async fn close(
        &self,
        run: &impl LockedRun,
        holder: &Holder,
        failed: bool,
        fights: Option<&Fights>,
    ) -> Result<Closed, LedgerError> {
        let mut told = vec![self.told(run.id(), self.clock.now())];
        if let Some(fights) = fights {
            told.push(self.put_fights(run.control().name(), run.resource_id(), fights)?);
        }
        self.leave_lock(run, holder, failed, told).await
    }

    /// Ends the lease of a run whose change does not show yet. Its record stays
    /// among those that wait to be told, so that the sweep, or whoever looks before
    /// that, resumes it.
    ///
    /// # Errors
    /// It could not be stored; the lease lapses by itself.
    pub async fn suspend(
        &self,
        run: &impl LockedRun,
        holder: &Holder,
    ) -> Result<Closed, LedgerError> {
        self.leave_lock(run, holder, true, Vec::new()).await
    }

    /// Deletes a run's lock, or after a failure ends its lease, with what else is
    /// to be written with it. Whether somebody asked for another look or not, no
    /// wish is left on the lock.
    async fn leave_lock(
        &self,
        run: &impl LockedRun,
        holder: &Holder,
        failed: bool,
        rest: Vec<TransactWriteItem>,
    ) -> Result<Closed, LedgerError> {
        let (control, resource) = (run.control().lock_name(), run.resource_id());
        let leave = |condition: &str| {
            let lock = if failed {
                transact_update(
                    self.end_lease(control, resource, holder)
                        .update_expression("SET lease_until = :ended REMOVE look_again")
                        .condition_expression(condition)
                        .expression_attribute_values(":entry", s(run.id())),
                )
            } else {
                transact_delete(
                    Delete::builder()
                        .table_name(&self.table)
                        .set_key(Some(key(&lock_key(control, resource))))
                        .condition_expression(condition)
                        .expression_attribute_values(":entry", s(run.id()))
                        .expression_attribute_values(":holder", s(&holder.id)),
                )
            };
            self.transact(std::iter::once(lock).chain(rest.iter().cloned()).collect())
        };
        let ours = "entry = :entry AND holder = :holder";
        let quiet = format!("{ours} AND attribute_not_exists(look_again)");
        match leave(&quiet).await? {
            Transacted::Done => Ok(Closed::Done),
            Transacted::Refused(_) => match leave(ours).await? {
                Transacted::Done => Ok(Closed::LookAgain),
                // The lease lapsed and somebody else has gone on.
                Transacted::Refused(_) => Ok(Closed::Done),
            },
        }
    }

    /// Ends the lease of a run that failed, so that its retry goes on at once
    /// and need not wait for the lease to lapse.
    ///
    /// # Errors
    /// It could not be stored; the lease lapses by itself.
    pub async fn release(
        &self,
        control: &str,
        resource_id: &str,
        holder: &Holder,
    ) -> Result<(), LedgerError> {
        let release = self
            .end_lease(control, resource_id, holder)
            .update_expression("SET lease_until = :ended")
            .condition_expression("holder = :holder");
        self.transact(vec![transact_update(release)])
            .await
            .map(|_| ())
    }

    /// A lease that was ended never looks as it did before: or whoever read the
    /// lock then would take it over with the entry as it was then.
    fn end_lease(&self, control: &str, resource_id: &str, holder: &Holder) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&lock_key(control, resource_id))))
            .expression_attribute_values(":ended", n(-self.clock.now().as_millisecond()))
            .expression_attribute_values(":holder", s(&holder.id))
    }

    fn told(&self, entry: &str, at: Timestamp) -> TransactWriteItem {
        transact_update(
            Update::builder()
                .table_name(&self.table)
                .set_key(Some(key(&entry_key(entry))))
                .update_expression("SET told = :yes, expires_at = :expires REMOVE untold")
                .condition_expression("attribute_exists(pk)")
                .expression_attribute_values(":yes", AttributeValue::Bool(true))
                .expression_attribute_values(":expires", n(at.as_second() + KEPT_DAYS * 86_400)),
        )
    }

    /// Records what was found and not changed, once while it stays the same.
    /// `known` is what was recorded last, as read. What is `quiet` counts as
    /// told: it is part of something that was told as a group.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn record(
        &self,
        entry: &impl Finding,
        known: Option<&Known>,
        quiet: bool,
    ) -> Result<Recorded, LedgerError> {
        let state_key = entry.state_key();
        if let Some(known) = known
            && let Some(recorded) = known.of(&state_key)
        {
            self.show_on_page(entry, known).await?;
            return Ok(recorded);
        }
        let mut item = key(&known_key(entry.control().name(), entry.resource_id()));
        item.insert("state_key".to_owned(), s(&state_key));
        item.insert("entry".to_owned(), s(entry.id()));
        item.insert("page_key".to_owned(), s(&entry.page_key()));
        item.insert("status".to_owned(), s(entry.status()));
        item.insert("told".to_owned(), AttributeValue::Bool(quiet));
        let expires = n(entry.started_at().as_second() + REMEMBERED_DAYS * 86_400);
        item.insert("expires_at".to_owned(), expires.clone());
        let mut record = entry.to_item()?;
        if quiet {
            record.insert("told".to_owned(), AttributeValue::Bool(true));
            record.insert("expires_at".to_owned(), expires);
            record.remove("untold");
        }
        let items = vec![
            self.put_known(item, known),
            self.put_item(record, "attribute_not_exists(pk)"),
        ];
        match self.transact(items).await? {
            Transacted::Done if quiet => Ok(Recorded::Told),
            Transacted::Done => Ok(Recorded::New),
            Transacted::Refused(reasons) => {
                let old = reasons.first().and_then(|reason| reason.item.as_ref());
                let recorded = old
                    .and_then(Known::from_item)
                    .and_then(|known| known.of(&state_key));
                Ok(recorded.unwrap_or(Recorded::Moved))
            }
        }
    }

    /// What is known stays, but a page of the sweep shows it in another way now:
    /// or the sweep would ask for this look again and again.
    async fn show_on_page(&self, entry: &impl Finding, known: &Known) -> Result<(), LedgerError> {
        let page_key = entry.page_key();
        if known.page_key.as_ref() == Some(&page_key) {
            return Ok(());
        }
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&known_key(
                entry.control().name(),
                entry.resource_id(),
            ))))
            .update_expression("SET page_key = :page_key")
            .condition_expression("entry = :entry")
            .expression_attribute_values(":page_key", s(&page_key))
            .expression_attribute_values(":entry", s(&known.entry));
        self.transact(vec![transact_update(update)])
            .await
            .map(|_| ())
    }

    /// Puts what is known of a resource, on condition that it is still as it was
    /// read (`known`).
    fn put_known(&self, item: Item, known: Option<&Known>) -> TransactWriteItem {
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        transact_put(match known {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(known) => put
                .condition_expression("entry = :entry")
                .expression_attribute_values(":entry", s(&known.entry)),
        })
    }

    /// Notes that a recorded entry has been told.
    ///
    /// # Errors
    /// It could not be stored; it is told again then, and dropped by its key.
    pub async fn known_told(
        &self,
        control: &str,
        resource_id: &str,
        entry: &str,
    ) -> Result<(), LedgerError> {
        let known = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&known_key(control, resource_id))))
            .update_expression("SET told = :yes")
            .condition_expression("entry = :entry")
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .expression_attribute_values(":entry", s(entry));
        self.transact(vec![
            transact_update(known),
            self.told(entry, self.clock.now()),
        ])
        .await
        .map(|_| ())
    }

    /// Notes that a record has been told that no lock and nothing known hangs
    /// on.
    ///
    /// # Errors
    /// It could not be stored; it is told again then, and dropped by its key.
    pub async fn mark_told(&self, record: &str) -> Result<(), LedgerError> {
        self.transact(vec![self.told(record, self.clock.now())])
            .await
            .map(|_| ())
    }

    /// Whether a notice of this topic has been recorded about a subject.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn knows_notice(&self, topic: &str, subject: &str) -> Result<bool, LedgerError> {
        let known = self.get(&known_key(topic, subject)).await?;
        Ok(known.is_some())
    }

    /// Records a notice, once while what it says stays the same.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn record_notice(&self, notice: &Notice) -> Result<Recorded, LedgerError> {
        let subject = known_key(notice.about.name(), &notice.subject());
        let known = self
            .get(&subject)
            .await?
            .and_then(|item| Known::from_item(&item));
        let state_key = notice.state_key();
        if let Some(recorded) = known.as_ref().and_then(|known| known.of(&state_key)) {
            return Ok(recorded);
        }
        let mut item = key(&subject);
        item.insert("state_key".to_owned(), s(&state_key));
        item.insert("entry".to_owned(), s(&notice.id));
        item.insert("told".to_owned(), AttributeValue::Bool(false));
        item.insert(
            "expires_at".to_owned(),
            n(notice.at.as_second() + REMEMBERED_DAYS * 86_400),
        );
        let items = vec![
            self.put_known(item, known.as_ref()),
            self.put_item(notice_item(notice)?, "attribute_not_exists(pk)"),
        ];
        match self.transact(items).await? {
            Transacted::Done => Ok(Recorded::New),
            Transacted::Refused(_) => Ok(Recorded::Moved),
        }
    }

    /// Forgets what was found, because it is so no more. Whatever another run
    /// recorded meanwhile stays.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn forget(
        &self,
        control: &str,
        resource_id: &str,
        known: &Known,
    ) -> Result<(), LedgerError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(key(&known_key(control, resource_id))))
            .condition_expression("entry = :entry")
            .expression_attribute_values(":entry", s(&known.entry));
        self.transact(vec![transact_delete(delete)])
            .await
            .map(|_| ())
    }

    /// Claims a message for sending, so that two senders send it once.
    ///
    /// # Errors
    /// It could not be claimed.
    pub async fn claim_message(&self, message: &str, now: Timestamp) -> Result<Claim, LedgerError> {
        let lease = now.as_millisecond() + SENDING.as_millis() as i64;
        let mut item = key(&sent_key(message));
        item.insert("lease_until".to_owned(), n(lease));
        item.insert("sent".to_owned(), AttributeValue::Bool(false));
        item.insert(
            "expires_at".to_owned(),
            n(now.as_second() + REMEMBERED_DAYS * 86_400),
        );
        match self.put(item, Some(now)).await? {
            None => Ok(Claim::Ours),
            Some(old) if old.get("sent") == Some(&AttributeValue::Bool(true)) => Ok(Claim::Sent),
            Some(_) => Ok(Claim::UnderWay),
        }
    }

    /// Notes that a message has been sent, or (`sent = false`) that it has
    /// not, so that the retry may send it at once.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn message_sent(&self, message: &str, sent: bool) -> Result<(), LedgerError> {
        self.dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&sent_key(message))))
            .update_expression("SET sent = :sent, lease_until = :none")
            .expression_attribute_values(":sent", AttributeValue::Bool(sent))
            .expression_attribute_values(":none", n(0))
            .send()
            .await
            .map(|_| ())
            .map_err(|e| LedgerError::written(AwsError::new("UpdateItem", &e)))
    }

    pub(super) async fn get(&self, pk: &Key) -> Result<Option<Item>, LedgerError> {
        self.dynamodb
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(pk)))
            .consistent_read(true)
            .send()
            .await
            .map(|answer| answer.item)
            .map_err(|e| LedgerError::read(AwsError::new("GetItem", &e)))
    }

    /// Puts an item. With `unless_claimed` it is put only if there is none, or
    /// one that is unsent with a lapsed lease; else the one there is returned.
    async fn put(
        &self,
        item: Item,
        unless_claimed: Option<Timestamp>,
    ) -> Result<Option<Item>, LedgerError> {
        let mut request = self
            .dynamodb
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item));
        if let Some(now) = unless_claimed {
            request = request
                .condition_expression(
                    "attribute_not_exists(pk) OR (sent = :no AND lease_until < :now)",
                )
                .expression_attribute_values(":no", AttributeValue::Bool(false))
                .expression_attribute_values(":now", n(now.as_millisecond()))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                );
        }
        match request.send().await {
            Ok(_) => Ok(None),
            Err(error) => {
                use aws_sdk_dynamodb::operation::put_item::PutItemError;
                if let Some(PutItemError::ConditionalCheckFailedException(refused)) =
                    error.as_service_error()
                {
                    return Ok(Some(refused.item.clone().unwrap_or_default()));
                }
                Err(LedgerError::written(AwsError::new("PutItem", &error)))
            }
        }
    }

    /// Writes all or nothing. Transactions of different resources meet on the
    /// budget's counter: such a conflict is tried again.
    async fn transact(&self, items: Vec<TransactWriteItem>) -> Result<Transacted, LedgerError> {
        const TRIES: u32 = 6;
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = self
                .dynamodb
                .transact_write_items()
                .set_transact_items(Some(items.clone()))
                .send()
                .await;
            let error = match answer {
                Ok(_) => return Ok(Transacted::Done),
                Err(error) => error,
            };
            if let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) =
                error.as_service_error()
            {
                let reasons = canceled.cancellation_reasons();
                let any = |code: &str| reasons.iter().any(|r| r.code() == Some(code));
                if any("ConditionalCheckFailed") {
                    return Ok(Transacted::Refused(reasons.to_vec()));
                }
                let passing = any("TransactionConflict") || any("ThrottlingError");
                if passing && tries < TRIES {
                    tokio::time::sleep(Duration::from_millis(40 << tries)).await;
                    continue;
                }
            }
            return Err(LedgerError::written(AwsError::new(
                "TransactWriteItems",
                &error,
            )));
        }
    }
}

/// Whether this part of a transaction is one whose condition failed.
fn failed_condition(reason: &CancellationReason) -> bool {
    reason.code() == Some("ConditionalCheckFailed")
}

enum Transacted {
    Done,
    Refused(Vec<CancellationReason>),
}
