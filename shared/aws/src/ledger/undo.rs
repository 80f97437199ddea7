//! What the ledger notes on an entry after its end: that it has been taken back,
//! that an original which it kept was deleted.

use aws_sdk_dynamodb::types::{AttributeValue, Update};

use super::items::{entry_key, key, s, text, transact_update};
use super::{Ledger, LedgerError, Transacted};

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
    /// because the policy has kept it for long enough.
    ///
    /// # Errors
    /// It could not be stored, so nothing may be deleted.
    pub async fn note_deleted(&self, entry: &str, volume: &str) -> Result<(), LedgerError> {
        let volumes = AttributeValue::Ss(vec![volume.to_owned()]);
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(&entry_key(entry))))
            .update_expression("ADD originals_deleted :volume")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":volume", volumes);
        match self.transact(vec![transact_update(update)]).await? {
            Transacted::Done => Ok(()),
            Transacted::Refused(_) => Err(LedgerError::Unreadable(
                entry.to_owned(),
                "there is no such record (any more), so the original is kept".to_owned(),
            )),
        }
    }
}
