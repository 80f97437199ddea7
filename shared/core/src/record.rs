//! What the ledger keeps: remediations, encryptions, patchings, undos, and
//! notices.
//!
//! Everything that people are told is a record first: the event that says
//! "tell" carries an id and nothing else. Deliberately not here: the table
//! (`backstop_aws::ledger`) and the texts (`message`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::encryption::Encryption;
use crate::entry::Entry;
use crate::json;
use crate::notice::{About, Notice};
use crate::patching::Patching;
use crate::run::{Head, VERSION};
use crate::stored;
use crate::undo::{Undo, UndoStatus};
use crate::words::Status;

/// A record's document as it is stored: the record with its `kind`.
///
/// # Errors
/// It cannot be written as JSON.
pub fn document(kind: &str, record: &impl Serialize) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(record)?;
    if let Some(fields) = document.as_object_mut() {
        fields.insert("kind".to_owned(), kind.into());
    }
    stored::write(&mut document);
    Ok(document)
}

/// One record of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// A control found something: what it was, and what came of it.
    Remediation(Box<Entry>),
    /// A control found something unencrypted: what it was, and what came of it.
    Encryption(Box<Encryption>),
    /// An instance has known holes or lacks patches: what it was, and what came
    /// of it.
    Patching(Box<Patching>),
    /// A remediation was taken back.
    Undo(Box<Undo>),
    /// Something people are told that is not about one finding.
    Notice(Box<Notice>),
}

impl Record {
    /// Reads a record's document. One without `kind` is a remediation: the
    /// first release wrote no other.
    ///
    /// # Errors
    /// In one clause: another version or kind, or what field is wrong.
    pub fn parse(document: &str) -> Result<Self, String> {
        let mut value: Value =
            json::value(document.as_bytes()).map_err(|e| format!("it is not JSON: {e}"))?;
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            return Err(format!(
                "it was written in version {} of the format, and this release of Backstop reads version {VERSION}: use the release that wrote it",
                version.map_or_else(|| "none".to_owned(), |version| version.to_string())
            ));
        }
        if let Some(fields) = value.as_object_mut() {
            fields
                .entry("kind")
                .or_insert_with(|| Value::from("remediation"));
        }
        stored::read(&mut value);
        json::read(value)
    }

    /// The record's id, a ULID.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Remediation(entry) => &entry.head.id,
            Self::Encryption(run) => &run.head.id,
            Self::Patching(run) => &run.head.id,
            Self::Undo(undo) => &undo.id,
            Self::Notice(notice) => &notice.id,
        }
    }

    /// What kind of record it is, as people say it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Remediation(_) => "remediation",
            Self::Encryption(_) => "encryption",
            Self::Patching(_) => "patching",
            Self::Undo(_) => "undo",
            Self::Notice(_) => "notice",
        }
    }

    /// The control it is about, by name; `-` for none.
    #[must_use]
    pub fn control(&self) -> &str {
        match self {
            Self::Remediation(entry) => entry.head.control.name(),
            Self::Encryption(run) => run.head.control.name(),
            Self::Patching(run) => run.head.control.name(),
            Self::Undo(undo) => undo.control.name(),
            Self::Notice(notice) => notice.control(),
        }
    }

    /// How it ended: `outcome` of messages.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Remediation(entry) => entry.head.status.name(),
            Self::Encryption(run) => run.head.status.name(),
            Self::Patching(run) => run.head.status.name(),
            Self::Undo(undo) => undo.status.name(),
            Self::Notice(notice) => notice.about.name(),
        }
    }

    /// Every outcome that there is, as [`Record::outcome`] names it.
    pub fn outcomes() -> impl Iterator<Item = &'static str> {
        let runs = Status::ALL.iter().map(|status| status.name());
        let undos = UndoStatus::ALL.iter().map(|status| status.name());
        runs.chain(undos).chain(About::NAMES.iter().copied())
    }

    /// What it begins with, if it is a run of a control.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        match self {
            Self::Remediation(entry) => Some(&entry.head),
            Self::Encryption(run) => Some(&run.head),
            Self::Patching(run) => Some(&run.head),
            Self::Undo(_) | Self::Notice(_) => None,
        }
    }

    /// When it began.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        match self {
            Self::Remediation(entry) => entry.head.started_at,
            Self::Encryption(run) => run.head.started_at,
            Self::Patching(run) => run.head.started_at,
            Self::Undo(undo) => undo.started_at,
            Self::Notice(notice) => notice.at,
        }
    }

    /// What its message is known by; the same key is sent once.
    #[must_use]
    pub fn message_key(&self) -> String {
        match self {
            Self::Remediation(entry) => entry.message_key(),
            Self::Encryption(run) => run.message_key(),
            Self::Patching(run) => run.message_key(),
            Self::Undo(undo) => undo.message_key(),
            Self::Notice(notice) => notice.message_key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_or_kind_is_said_in_words() {
        for (document, part) in [
            ("", "it is not JSON"),
            (
                r#"{"version":2,"kind":"remediation"}"#,
                "version 2 of the format, and this release of Backstop reads version 1",
            ),
            (r#"{"kind":"notice"}"#, "version none"),
            (r#"{"version":1,"kind":"poem"}"#, "poem"),
            (r#"{"version":1}"#, "missing field"),
        ] {
            let error = Record::parse(document).unwrap_err();
            assert!(error.contains(part), "{document}: {error} lacks {part}");
        }
    }
}
