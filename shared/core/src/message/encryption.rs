//! Messages about encryptions: what begins, what came of it, what stays behind
//! and costs money, what a person has to do.
//!
//! Programs get an [`EncryptionNotification`] of their own format, whose schema
//! is `schemas/encryption.schema.json`; it keeps the same promises as the
//! notification about an entry (`notification`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chat::{self, Card};
use super::notification::{LedgerKey, name};
use super::story::Section;
use super::subject::{shortened_subject, status_verb};
use super::words::one_line;
use super::{Message, attributes, bodies, text, to_json};
use crate::encryption::Encryption;

/// An encryption, as programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EncryptionNotification {
    /// The format's version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Always `encryption`: notifications about entries have no such field.
    pub kind: EncryptionKind,
    /// The id of the ledger entry, a ULID.
    pub entry: String,
    /// Where the ledger has the entry.
    pub ledger_key: LedgerKey,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EncryptionKind {
    /// An encryption.
    Encryption,
}

/// Composes the message about an encryption.
pub(super) fn compose(run: &Encryption) -> Message {
    let headline = format!(
        "{} {}: {}",
        status_verb(run.status),
        run.severity,
        one_line(run.resource_id(), 100)
    );
    let sections: Vec<Section> = Vec::new();
    let card = Card {
        key: run.message_key(),
        record: &run.id,
        title: &headline,
        sections: &sections,
        control: run.control.name(),
        severity: run.severity,
        outcome: run.status.name(),
        account: &run.account,
        region: &run.region,
        team: run.team_or_unowned(),
        resources: vec![run.resource.clone()],
    };
    let data = to_json(&EncryptionNotification {
        version: 1,
        kind: EncryptionKind::Encryption,
        entry: name(&run.id),
        ledger_key: LedgerKey::of(&run.id),
    });
    Message {
        subject: shortened_subject(&headline),
        body: bodies(&text::of_card(&card), &chat::card(&card).to_string(), &data),
        attributes: attributes(&card),
    }
}
