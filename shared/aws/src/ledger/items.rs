//! The table's items: their keys, and how records are written into them.

use std::collections::HashMap;
use std::io::{Read, Write};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use backstop_core::encryption::EncryptionDetail;
use backstop_core::entry::AtOnce;
use backstop_core::notice::Notice;
use backstop_core::patching::{Operation, PatchingDetail};
use backstop_core::plan::State;
use backstop_core::record::{self, Record};
use backstop_core::run::Run;
use backstop_core::undo::Undo;
use backstop_core::words::ControlId;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Holder, LedgerError, MOST_BYTES, Stored};

/// What one step's outcome and its rule in `after` take in an entry.
const OUTCOME_BYTES: usize = 500;

/// An item of the table.
pub(super) type Item = HashMap<String, AttributeValue>;

/// A record of a run that holds the lock of its resource while it changes it.
pub trait LockedRun {
    /// The record's id, a ULID.
    fn id(&self) -> &str;
    /// The control that it runs for.
    fn control(&self) -> ControlId;
    /// Id of the resource that it changes.
    fn resource_id(&self) -> &str;
    /// How many changes it spends of the control's budget.
    fn changes(&self) -> usize;
    /// How many steps it may take, each of which leaves an outcome.
    fn steps(&self) -> usize;
    /// The record as an item of the table.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn to_item(&self) -> Result<HashMap<String, AttributeValue>, LedgerError>;
}

/// A record of something that was found and not changed.
pub trait Finding: LockedRun {
    /// While it stays the same there is nothing new to record or to tell.
    fn state_key(&self) -> String;
    /// What of it a page of the sweep would show.
    fn page_key(&self) -> String;
    /// When it was found.
    fn started_at(&self) -> Timestamp;
    /// The status that it leads to.
    fn status(&self) -> &'static str;
}

/// What the ledger has to know of a kind of run beside its head.
pub trait Detail: Serialize + Sized {
    /// The kind of its records.
    const KIND: &'static str;
    /// [`LockedRun::changes`].
    fn changes(&self) -> usize;
    /// [`LockedRun::steps`].
    fn steps(&self) -> usize;
    /// [`Finding::state_key`].
    fn state_key(run: &Run<Self>) -> String;
    /// [`Finding::page_key`].
    fn page_key(run: &Run<Self>) -> String;
    /// What stands beside the document.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn beside(&self, item: &mut Item) -> Result<(), String>;
}

impl<D: Detail> LockedRun for Run<D> {
    fn id(&self) -> &str {
        &self.head.id
    }

    fn control(&self) -> ControlId {
        self.head.control
    }

    fn resource_id(&self) -> &str {
        self.head.resource_id()
    }

    fn changes(&self) -> usize {
        self.detail.changes()
    }

    fn steps(&self) -> usize {
        self.detail.steps()
    }

    fn to_item(&self) -> Result<Item, LedgerError> {
        let mut item = record_item(
            &Index {
                kind: D::KIND,
                id: &self.head.id,
                control: self.head.control.name(),
                resource: &self.head.resource,
                status: self.head.status.name(),
                at: self.head.started_at,
            },
            self,
        )?;
        self.detail
            .beside(&mut item)
            .map_err(|error| LedgerError::Unreadable(self.head.id.clone(), error))?;
        Ok(item)
    }
}

impl<D: Detail> Finding for Run<D> {
    fn state_key(&self) -> String {
        D::state_key(self)
    }

    fn page_key(&self) -> String {
        D::page_key(self)
    }

    fn started_at(&self) -> Timestamp {
        self.head.started_at
    }

    fn status(&self) -> &'static str {
        self.head.status.name()
    }
}

impl<S: State> Detail for AtOnce<S> {
    const KIND: &'static str = "remediation";

    fn changes(&self) -> usize {
        self.plan.changes.len()
    }

    fn steps(&self) -> usize {
        let changes = self.plan.changes.iter();
        changes.map(|change| 1 + change.add.len()).sum()
    }

    fn state_key(run: &Run<Self>) -> String {
        run.state_key()
    }

    fn page_key(run: &Run<Self>) -> String {
        run.page_key()
    }

    fn beside(&self, item: &mut Item) -> Result<(), String> {
        put_before(item, &self.before)?;
        let mut fingerprints: Vec<String> = self
            .exposures
            .iter()
            .map(|exposure| exposure.fingerprint.clone())
            .collect();
        fingerprints.sort();
        fingerprints.dedup();
        if !fingerprints.is_empty() {
            item.insert("fingerprints".to_owned(), AttributeValue::Ss(fingerprints));
        }
        Ok(())
    }
}

impl Detail for EncryptionDetail {
    const KIND: &'static str = "encryption";

    /// A volume that is replaced is one change, and so is a setting; what
    /// a person asks for is not held against the control's budget.
    fn changes(&self) -> usize {
        match self.undoes {
            Some(_) => 0,
            None => self.volumes.len().max(1),
        }
    }

    /// Snapshots, copies, detached and attached volumes, and the way back.
    fn steps(&self) -> usize {
        2 + 8 * self.volumes.len()
    }

    fn state_key(run: &Run<Self>) -> String {
        run.state_key()
    }

    fn page_key(run: &Run<Self>) -> String {
        run.detail.page_key.clone().unwrap_or_default()
    }

    fn beside(&self, item: &mut Item) -> Result<(), String> {
        item.insert("revision".to_owned(), revision(self.revision));
        Ok(())
    }
}

impl Detail for PatchingDetail {
    const KIND: &'static str = "patching";

    /// An instance that is patched is one change; a scan is none.
    fn changes(&self) -> usize {
        usize::from(self.operation == Operation::Install)
    }

    /// Snapshots, the command, its end, Inspector's next look.
    fn steps(&self) -> usize {
        4
    }

    fn state_key(run: &Run<Self>) -> String {
        run.state_key()
    }

    fn page_key(run: &Run<Self>) -> String {
        run.detail.page_key.clone().unwrap_or_default()
    }

    fn beside(&self, item: &mut Item) -> Result<(), String> {
        item.insert("revision".to_owned(), revision(self.revision));
        Ok(())
    }
}

impl LockedRun for Undo {
    fn id(&self) -> &str {
        &self.id
    }

    fn control(&self) -> ControlId {
        self.control
    }

    fn resource_id(&self) -> &str {
        Undo::resource_id(self)
    }

    /// What a person asks for is not held against the control's budget.
    fn changes(&self) -> usize {
        0
    }

    /// Tagged, put back, and its remainders revoked.
    fn steps(&self) -> usize {
        3 * self.before.len()
    }

    fn to_item(&self) -> Result<Item, LedgerError> {
        let mut item = record_item(
            &Index {
                kind: "undo",
                id: &self.id,
                control: self.control.name(),
                resource: &self.resource,
                status: self.status.name(),
                at: self.started_at,
            },
            self,
        )?;
        put_before(&mut item, &self.before)
            .map_err(|error| LedgerError::Unreadable(self.id.clone(), error))?;
        Ok(item)
    }
}

/// What was there before, compressed: the largest part of a record.
fn put_before(item: &mut Item, before: &impl Serialize) -> Result<(), String> {
    let before = AttributeValue::B(Blob::new(pack(before)?));
    item.insert("before".to_owned(), before);
    Ok(())
}

/// A revision as the table has it.
pub(super) fn revision(revision: u64) -> AttributeValue {
    n(i64::try_from(revision).unwrap_or(i64::MAX))
}

/// A notice as an item of the table.
pub(super) fn notice_item(notice: &Notice) -> Result<Item, LedgerError> {
    record_item(
        &Index {
            kind: "notice",
            id: &notice.id,
            control: notice.control(),
            resource: &notice.subject(),
            status: notice.about.name(),
            at: notice.at,
        },
        notice,
    )
}

/// What every record has beside its document.
struct Index<'a> {
    kind: &'a str,
    id: &'a str,
    control: &'a str,
    resource: &'a str,
    status: &'a str,
    at: Timestamp,
}

fn record_item(head: &Index<'_>, record: &impl Serialize) -> Result<Item, LedgerError> {
    let document = record::document(head.kind, record)
        .map_err(|e| LedgerError::Unreadable(head.id.to_owned(), e.to_string()))?;
    let at = head.at.to_string();
    let mut item = key(&entry_key(head.id));
    item.insert("document".to_owned(), s(&document.to_string()));
    item.insert("resource".to_owned(), s(head.resource));
    item.insert("control".to_owned(), s(head.control));
    item.insert("status".to_owned(), s(head.status));
    item.insert("started_at".to_owned(), s(&at));
    // `2026-11-24`: the day in UTC.
    item.insert(
        "day".to_owned(),
        s(&at.chars().take(10).collect::<String>()),
    );
    item.insert("told".to_owned(), AttributeValue::Bool(false));
    item.insert("untold".to_owned(), s("untold"));
    Ok(item)
}

/// Reads a record's item.
pub(super) fn stored(id: &str, item: &Item) -> Result<Stored, LedgerError> {
    let unreadable = |e: String| LedgerError::Unreadable(id.to_owned(), e);
    let document = text(item, "document")
        .ok_or_else(|| unreadable("the attribute `document` is missing".to_owned()))?;
    let mut record = Record::parse(&document).map_err(unreadable)?;
    if let Some(AttributeValue::B(packed)) = item.get("before") {
        let before = unpack(packed.as_ref()).map_err(unreadable)?;
        match &mut record {
            Record::Remediation(entry) => entry.detail.before = before,
            Record::Undo(undo) => undo.before = before,
            // Their `before` is part of the document.
            Record::Encryption(_) | Record::Patching(_) | Record::Notice(_) => {}
        }
    }
    let told = item.get("told") == Some(&AttributeValue::Bool(true));
    Ok(Stored { record, told })
}

/// Partition key and sort key.
pub(super) type Key = (String, &'static str);

pub(super) fn entry_key(id: &str) -> Key {
    (format!("entry#{id}"), "entry")
}

pub(super) fn lock_key(control: &str, resource: &str) -> Key {
    (format!("lock#{control}#{resource}"), "lock")
}

pub(super) fn state_key(pk: String) -> Key {
    (pk, "state")
}

/// A control that has tripped.
pub(super) fn control_trip_key(control: &str) -> Key {
    state_key(format!("trip#{control}"))
}

/// A control that has tripped for one resource, by the name of its trips.
pub(super) fn resource_trip_key(control: &str, resource: &str) -> Key {
    state_key(format!("trip#{control}#{resource}"))
}

/// How often findings on a resource have been put right.
pub(super) fn fights_key(control: &str, resource: &str) -> Key {
    state_key(format!("fights#{control}#{resource}"))
}

/// Why EBS could not make a volume.
pub(super) fn not_made_key(volume: &str) -> Key {
    state_key(format!("not-made#{volume}"))
}

/// That every resource has been walked since a control was switched to
/// `enforce`.
pub(super) fn walked_key(control: &str) -> Key {
    state_key(format!("baseline#{control}"))
}

/// What the last digest said.
pub(super) fn last_digest_key() -> Key {
    state_key("digest".to_owned())
}

/// What the last sweep came to.
pub(super) fn last_sweep_key() -> Key {
    state_key("sweep".to_owned())
}

/// What was there on a resource when its control was switched to `enforce`.
pub(super) fn baseline_key(control: &str, resource: &str) -> Key {
    state_key(format!("baseline#{control}#{resource}"))
}

/// The last good state of a setting that is restored to what it was.
pub(super) fn former_key(control: &str, resource: &str) -> Key {
    state_key(format!("former#{control}#{resource}"))
}

pub(super) fn known_key(control: &str, resource_id: &str) -> Key {
    (format!("known#{control}#{resource_id}"), "known")
}

pub(super) fn sent_key(message: &str) -> Key {
    (format!("sent#{message}"), "sent")
}

pub(super) fn budget_key(control: &str, at: Timestamp) -> Key {
    // `2026-11-24T10`: the clock hour in UTC.
    let hour: String = at.to_string().chars().take(13).collect();
    (format!("budget#{control}#{hour}"), "budget")
}

/// What one resource has spent of the budget.
pub(super) fn spent_key(control: &str, resource: &str, at: Timestamp) -> Key {
    let (pk, sk) = budget_key(control, at);
    (format!("{pk}#{resource}"), sk)
}

pub(super) fn key((pk, sk): &Key) -> Item {
    HashMap::from([("pk".to_owned(), s(pk)), ("sk".to_owned(), s(sk))])
}

pub(super) fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub(super) fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn text(item: &Item, name: &str) -> Option<String> {
    item.get(name)?.as_s().ok().cloned()
}

pub(super) fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

pub(super) fn transact_put(
    put: aws_sdk_dynamodb::types::builders::PutBuilder,
) -> TransactWriteItem {
    TransactWriteItem::builder()
        .set_put(put.build().ok())
        .build()
}

pub(super) fn transact_update(
    update: aws_sdk_dynamodb::types::builders::UpdateBuilder,
) -> TransactWriteItem {
    TransactWriteItem::builder()
        .set_update(update.build().ok())
        .build()
}

pub(super) fn transact_delete(
    delete: aws_sdk_dynamodb::types::builders::DeleteBuilder,
) -> TransactWriteItem {
    TransactWriteItem::builder()
        .set_delete(delete.build().ok())
        .build()
}

pub(super) fn lock_item(run: &impl LockedRun, holder: &Holder) -> Item {
    let mut item = key(&lock_key(run.control().lock_name(), run.resource_id()));
    item.insert("entry".to_owned(), s(run.id()));
    item.insert("holder".to_owned(), s(&holder.id));
    item.insert(
        "lease_until".to_owned(),
        n(holder.lease_until.as_millisecond()),
    );
    item
}

/// The bytes that a run's record is expected to come to, if they are more than
/// [`MOST_BYTES`].
///
/// # Errors
/// It cannot be written as JSON.
pub fn oversize(run: &impl LockedRun) -> Result<Option<usize>, LedgerError> {
    let expected = size(run)? + run.steps() * OUTCOME_BYTES;
    Ok((expected > MOST_BYTES).then_some(expected))
}

/// Bytes of a record as it would be stored now.
fn size(run: &impl LockedRun) -> Result<usize, LedgerError> {
    let item = run.to_item()?;
    Ok(item
        .values()
        .map(|value| match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::B(bytes) => bytes.as_ref().len(),
            _ => 100,
        })
        .sum())
}

/// Anything as compressed JSON.
pub(super) fn pack(value: &impl Serialize) -> Result<Vec<u8>, String> {
    let json = serde_json::to_vec(value).map_err(|e| e.to_string())?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&json).map_err(|e| e.to_string())?;
    gzip.finish().map_err(|e| e.to_string())
}

/// Compressed JSON as what it was.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut json = Vec::new();
    GzDecoder::new(bytes)
        .read_to_end(&mut json)
        .map_err(|e| e.to_string())?;
    backstop_core::json::parse(&json)
}
