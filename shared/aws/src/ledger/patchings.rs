//! What patching needs of the ledger: its record, whose lock is let go while
//! Inspector has not looked again, and what Inspector reported of an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Put};
use backstop_core::patching::{Patching, Reports};
use backstop_core::record::Record;

use super::encryptions::Stepwise;
use super::items::{
    Item, Key, LockedRun, key, n, number, pack, revision, text, transact_put, unpack,
};
use super::{Closed, Holder, Ledger, LedgerError, MOST_BYTES, REMEMBERED_DAYS, Stored, Transacted};

/// For how long a run keeps its lock before its command is sent: longer than
/// the function may run. One that is silent for longer was cut off.
const BEFORE_COMMAND: Duration = Duration::from_secs(600);

/// For how long after each step once its command is sent. It is not taken over
/// when that lapses: whoever looks asks what became of the command.
const AFTER_COMMAND: Duration = Duration::from_secs(3600);

/// Instances whose reports are read in one call.
const A_READ: usize = 100;

/// Where the reports of an instance are.
fn reports_key(instance: &str) -> Key {
    (format!("reports#{instance}"), "reports")
}

impl Stepwise for Patching {
    fn revise(&mut self) -> u64 {
        let was = self.detail.revision;
        self.detail.revision += 1;
        was
    }

    fn lease(&self) -> Duration {
        match self.detail.command {
            Some(_) => AFTER_COMMAND,
            None => BEFORE_COMMAND,
        }
    }
}

impl Ledger {
    /// Who holds the lock of a patching.
    #[must_use]
    pub fn patching_holder(&self, run: &Patching) -> Holder {
        self.holder_for(&run.head.id, Stepwise::lease(run))
    }

    /// A patching; `None`: there is no record of this id, or one of another
    /// kind.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn patching(&self, id: &str) -> Result<Option<Patching>, LedgerError> {
        Ok(match self.read(id).await? {
            Some(Stored {
                record: Record::Patching(run),
                ..
            }) => Some(*run),
            _ => None,
        })
    }

    /// Stores a patching that holds no lock, on condition that it is as it was
    /// read. `false`: another invocation was quicker.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn store_unlocked(&self, run: &mut Patching) -> Result<bool, LedgerError> {
        let expected = revision(run.revise());
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(run.to_item()?))
            .condition_expression("revision = :expected")
            .expression_attribute_values(":expected", expected);
        let stored = self.transact(vec![transact_put(put)]).await?;
        Ok(matches!(stored, Transacted::Done))
    }

    /// Releases the lock of a run that has not come to its end: it waits for
    /// Inspector. It stays among the records that wait to be told.
    ///
    /// # Errors
    /// It could not be stored; whoever looks next does it.
    pub async fn let_go(&self, run: &Patching) -> Result<Closed, LedgerError> {
        self.leave_lock(run, &self.run_holder(&run.head.id), false, Vec::new())
            .await
    }

    /// What Inspector reported of instances; of those that are not in it,
    /// nothing.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn reports(
        &self,
        instances: &[String],
    ) -> Result<BTreeMap<String, Reports>, LedgerError> {
        let mut all = BTreeMap::new();
        // DynamoDB refuses a read that names a key twice.
        let instances: BTreeSet<&String> = instances.iter().collect();
        let instances: Vec<&String> = instances.into_iter().collect();
        for instances in instances.chunks(A_READ) {
            let keys: Vec<Key> = instances.iter().map(|id| reports_key(id)).collect();
            let keys: Vec<&Key> = keys.iter().collect();
            for item in self.get_all(&keys).await? {
                let Some(instance) =
                    text(&item, "pk").and_then(|pk| pk.strip_prefix("reports#").map(str::to_owned))
                else {
                    continue;
                };
                let reports = read_reports(&instance, &item)?;
                all.insert(instance, reports);
            }
        }
        Ok(all)
    }

    /// Stores what Inspector reported of an instance, on condition that it is as
    /// it was read. `false`: another invocation was quicker. What there is no
    /// room for is dropped, the least first.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn store_reports(
        &self,
        instance: &str,
        reports: &mut Reports,
    ) -> Result<bool, LedgerError> {
        let at = reports_key(instance);
        let expected = reports.revision;
        let unwritable = |e| LedgerError::Unreadable(at.0.clone(), e);
        let mut packed = pack(&*reports).map_err(unwritable)?;
        while packed.len() > MOST_BYTES && !reports.active.is_empty() {
            for _ in 0..reports.active.len().div_ceil(10) {
                reports.drop_least();
            }
            packed = pack(&*reports).map_err(unwritable)?;
        }
        let next = expected + 1;
        let mut item = key(&at);
        item.insert("document".to_owned(), AttributeValue::B(Blob::new(packed)));
        item.insert("revision".to_owned(), revision(next));
        let expires = self.clock.now().as_second() + REMEMBERED_DAYS * 86_400;
        item.insert("expires_at".to_owned(), n(expires));
        let put = Put::builder().table_name(&self.table).set_item(Some(item));
        let put = match expected {
            0 => put.condition_expression("attribute_not_exists(pk)"),
            _ => put
                .condition_expression("revision = :expected")
                .expression_attribute_values(":expected", revision(expected)),
        };
        let stored = self.transact(vec![transact_put(put)]).await?;
        let stored = matches!(stored, Transacted::Done);
        if stored {
            reports.revision = next;
        }
        Ok(stored)
    }
}

fn read_reports(instance: &str, item: &Item) -> Result<Reports, LedgerError> {
    let unreadable = |e: String| LedgerError::Unreadable(format!("reports#{instance}"), e);
    let Some(AttributeValue::B(packed)) = item.get("document") else {
        return Err(unreadable("the attribute `document` is missing".to_owned()));
    };
    let mut reports: Reports = unpack(packed.as_ref()).map_err(unreadable)?;
    let stored = number(item, "revision").unwrap_or_default();
    reports.revision = u64::try_from(stored).unwrap_or_default();
    Ok(reports)
}
