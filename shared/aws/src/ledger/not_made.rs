//! Volumes that EBS could not make. They vanish, and only an event says why: so the
//! cause is kept for the run that waits for the volume, whichever comes first.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::Put;

use super::items::{Key, key, n, not_made_key, s, text, transact_put};
use super::{Ledger, LedgerError};

/// How long a cause is kept: longer than a run waits for a copy, which is hours.
const NOT_MADE_SECONDS: i64 = 2 * 86_400;

/// Most volumes that are asked for in one read: BatchGetItem takes 100 keys.
const MOST_VOLUMES: usize = 100;

impl Ledger {
    /// Notes that EBS could not make a volume, and why.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn note_not_made(&self, volume: &str, cause: &str) -> Result<(), LedgerError> {
        let mut item = key(&not_made_key(volume));
        item.insert("cause".to_owned(), s(cause));
        let expires = self.clock.now().as_second() + NOT_MADE_SECONDS;
        item.insert("expires_at".to_owned(), n(expires));
        let put = Put::builder().table_name(&self.table).set_item(Some(item));
        self.transact(vec![transact_put(put)]).await.map(|_| ())
    }

    /// Why EBS could not make these volumes: those of which an event said so.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn not_made(
        &self,
        volumes: &[String],
    ) -> Result<BTreeMap<String, String>, LedgerError> {
        let mut causes = BTreeMap::new();
        for volumes in volumes.chunks(MOST_VOLUMES) {
            let keys: Vec<Key> = volumes.iter().map(|id| not_made_key(id)).collect();
            let wanted: Vec<&Key> = keys.iter().collect();
            for item in self.get_all(&wanted).await? {
                let pk = text(&item, "pk").unwrap_or_default();
                let at = keys.iter().position(|(key, _)| *key == pk);
                if let Some(volume) = at.and_then(|at| volumes.get(at)) {
                    let cause = text(&item, "cause").unwrap_or_default();
                    causes.insert(volume.clone(), cause);
                }
            }
        }
        Ok(causes)
    }
}
