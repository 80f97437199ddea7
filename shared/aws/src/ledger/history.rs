//! What is in the ledger, the latest first.

use jiff::civil::Date;

use super::items::{Item, stored, text};
use super::{Ledger, LedgerError, Stored};

impl Ledger {
    /// The ids of the records about a resource (by its ARN, or a notice's
    /// subject), the latest first.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn records_of(&self, resource: &str) -> Result<Vec<String>, LedgerError> {
        let items = self
            .query("by-resource", "resource", resource, None)
            .await?;
        Ok(ids(&items))
    }

    /// The ids of the records of a day (UTC), the latest first.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn records_on(&self, day: Date) -> Result<Vec<String>, LedgerError> {
        let items = self.query("by-day", "day", &day.to_string(), None).await?;
        Ok(ids(&items))
    }

    /// A record, and which undo took it back, if one did.
    ///
    /// # Errors
    /// It could not be read, or not understood.
    pub async fn read_with_undo(
        &self,
        id: &str,
    ) -> Result<Option<(Stored, Option<String>)>, LedgerError> {
        let Some(item) = self.get(&super::items::entry_key(id)).await? else {
            return Ok(None);
        };
        Ok(Some((stored(id, &item)?, text(&item, "undone_by"))))
    }
}

fn ids(items: &[Item]) -> Vec<String> {
    let mut ids: Vec<String> = items
        .iter()
        .filter_map(|item| Some(text(item, "pk")?.strip_prefix("entry#")?.to_owned()))
        .collect();
    // ULIDs sort by time.
    ids.sort_by(|a, b| b.cmp(a));
    ids
}
