//! What a run of many invocations needs of the ledger: its record is written
//! step by step, each write on condition that nobody wrote in between, and its
//! lock is kept all the while.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{Put, TransactWriteItem, Update};
use backstop_core::encryption::Encryption;
use backstop_core::record::Record;
use backstop_core::words::ControlId;

use super::items::{LockedRun, key, lock_key, n, revision, s, transact_put, transact_update};
use super::{Holder, Ledger, LedgerError, Stored, Transacted};

/// For how long a run keeps its lock after a step: more than the longest pause
/// between two steps and all the tries of a step that fails. A run that is
/// silent for longer was cut off, and is taken up again by whoever looks next.
const LEASE: Duration = Duration::from_secs(3600);

/// A run of many invocations, whose record is written step by step.
pub trait Stepwise: LockedRun {
    /// Makes its revision the next one; the one that it was.
    fn revise(&mut self) -> u64;

    /// For how long it keeps its lock after a step.
    fn lease(&self) -> Duration {
        LEASE
    }
}

impl Stepwise for Encryption {
    fn revise(&mut self) -> u64 {
        let was = self.detail.revision;
        self.detail.revision += 1;
        was
    }
}

impl Ledger {
    /// Who holds the lock of a run: the run itself, whichever invocation is at
    /// work for it.
    #[must_use]
    pub fn run_holder(&self, entry: &str) -> Holder {
        self.holder_for(entry, LEASE)
    }

    /// As [`run_holder`](Self::run_holder), with another lease.
    pub(super) fn holder_for(&self, entry: &str, lease: Duration) -> Holder {
        Holder {
            id: format!("run {entry}"),
            lease_until: self.clock.now() + lease,
        }
    }

    /// An encryption; `None`: there is no record of this id, or one of another
    /// kind.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn encryption(&self, id: &str) -> Result<Option<Encryption>, LedgerError> {
        Ok(match self.read(id).await? {
            Some(Stored {
                record: Record::Encryption(run),
                ..
            }) => Some(*run),
            _ => None,
        })
    }

    /// The entries of encryptions that are under way on instances, by instance.
    /// An encryption and a patching each take their own lock before they look at
    /// the other's, so that one of them sees it. One whose record cannot be
    /// understood counts as under way.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn encryptions(
        &self,
        instances: &[String],
    ) -> Result<BTreeMap<String, String>, LedgerError> {
        let standings = self.standings(ControlId::UnencryptedVolume, instances);
        let mut open = BTreeMap::new();
        for (id, standing) in instances.iter().zip(standings.await?) {
            let Some(lock) = standing.lock else { continue };
            // It keeps its own instance from being patched, and no other.
            let is_open = match self.encryption(&lock.entry).await {
                Err(LedgerError::Unreadable(..)) => true,
                run => run?.is_some_and(|run| run.is_open()),
            };
            if is_open {
                open.insert(id.clone(), lock.entry);
            }
        }
        Ok(open)
    }

    /// Stores a run's next state and keeps its lock, on condition that the
    /// record is as it was read. `false`: another invocation was quicker, or
    /// the lock is held no more; nothing may be changed then.
    ///
    /// # Errors
    /// It could not be stored, so nothing may be changed.
    pub async fn advance(&self, run: &mut impl Stepwise) -> Result<bool, LedgerError> {
        let expected = revision(run.revise());
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(run.to_item()?))
            .condition_expression("revision = :expected")
            .expression_attribute_values(":expected", expected);
        let items = vec![transact_put(put), self.extend_lease(run)];
        Ok(matches!(self.transact(items).await?, Transacted::Done))
    }

    /// Keeps a run's lock while it waits. `false`: it is held no more.
    ///
    /// # Errors
    /// It could not be stored; the lease lapses by itself.
    pub async fn keep_lock(&self, run: &Encryption) -> Result<bool, LedgerError> {
        let items = vec![self.extend_lease(run)];
        Ok(matches!(self.transact(items).await?, Transacted::Done))
    }

    /// An update and not a put: somebody may have asked for another look.
    fn extend_lease(&self, run: &impl Stepwise) -> TransactWriteItem {
        let holder = self.holder_for(run.id(), run.lease());
        let lock = lock_key(run.control().lock_name(), run.resource_id());
        transact_update(
            Update::builder()
                .table_name(&self.table)
                .set_key(Some(key(&lock)))
                .update_expression("SET lease_until = :lease")
                .condition_expression("entry = :entry AND holder = :holder")
                .expression_attribute_values(":lease", n(holder.lease_until.as_millisecond()))
                .expression_attribute_values(":entry", s(run.id()))
                .expression_attribute_values(":holder", s(&holder.id)),
        )
    }
}
