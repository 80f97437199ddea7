//! What the ledger notes on an entry after its end: that it has been taken back,
//! that an original which it kept is in use again, or was deleted.

use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Update};

use super::items::{entry_key, key, s, text, transact_update};
use super::{Ledger, LedgerError, Transacted};

/// The attribute of an entry that names the snapshots of its run which the sweep
/// deleted.
const SNAPSHOTS_DELETED: &str = "snapshots_deleted";

impl Ledger {
    /// The undo that took an entry back, if one did.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn undone_by(&self, entry: &str) -> Result<Option<String>, LedgerError> {
        let item = self.get(&entry_key(entry)).await?;
        Ok(item.and_then(|item| text(&item, "undone_by")))
    }

    /// Notes on an entry which undo took it back.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn note_undone(&self, entry: &str, undo: &str) -> Result<(), LedgerError> {
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&entry_key(entry))))
            .update_expression("SET undone_by = :undo")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":undo", s(undo));
        self.transact(vec![transact_update(update)])
            .await
            .map(|_| ())
    }

    /// Notes on an entry that the original of a volume is about to be deleted,
    /// because the policy has kept it for long enough. `false`: it must not be:
    /// the entry was taken back, the original has been in use again, or there
    /// is no such entry (any more).
    ///
    /// # Errors
    /// It could not be stored, so nothing may be deleted.
    pub async fn note_deleted(&self, entry: &str, volume: &str) -> Result<bool, LedgerError> {
        let update = self
            .add_to(entry, "originals_deleted", volume)
            .condition_expression(
                "attribute_exists(pk) AND attribute_not_exists(undone_by) AND NOT contains(originals_reused, :volume)",
            )
            .expression_attribute_values(":volume", s(volume));
        let noted = self.transact(vec![transact_update(update)]).await?;
        Ok(matches!(noted, Transacted::Done))
    }

    /// Notes on an entry that an original which it replaced is in use again. An
    /// entry that is there no more needs no note.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn note_reused(&self, entry: &str, volume: &str) -> Result<(), LedgerError> {
        let update = self
            .add_to(entry, "originals_reused", volume)
            .condition_expression("attribute_exists(pk)");
        self.transact(vec![transact_update(update)])
            .await
            .map(|_| ())
    }

    /// Notes on an entry that a snapshot which its run took is about to be deleted,
    /// because the policy has kept it for long enough. `false`: there is no such
    /// entry (any more).
    ///
    /// # Errors
    /// It could not be stored, so nothing may be deleted.
    pub async fn note_snapshot_deleted(
        &self,
        entry: &str,
        snapshot: &str,
    ) -> Result<bool, LedgerError> {
        let update = self
            .add_to(entry, SNAPSHOTS_DELETED, snapshot)
            .condition_expression("attribute_exists(pk)");
        let noted = self.transact(vec![transact_update(update)]).await?;
        Ok(matches!(noted, Transacted::Done))
    }

    /// Takes that back: it could not be deleted.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn note_snapshot_kept(&self, entry: &str, snapshot: &str) -> Result<(), LedgerError> {
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&entry_key(entry))))
            .update_expression(format!("DELETE {SNAPSHOTS_DELETED} :snapshots"))
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(
                ":snapshots",
                AttributeValue::Ss(vec![snapshot.to_owned()]),
            );
        self.transact(vec![transact_update(update)])
            .await
            .map(|_| ())
    }

    fn add_to(&self, entry: &str, set: &str, volume: &str) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&entry_key(entry))))
            .update_expression(format!("ADD {set} :volumes"))
            .expression_attribute_values(":volumes", AttributeValue::Ss(vec![volume.to_owned()]))
    }
}
