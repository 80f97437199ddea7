//! What the ledger notes about an entry that has been taken back.

use aws_sdk_dynamodb::types::Update;

use super::items::{entry_key, key, s, text, transact_update};
use super::{Ledger, LedgerError};

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
}
