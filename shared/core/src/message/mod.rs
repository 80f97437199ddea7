//! The message about an entry: one subject, one body for each kind of
//! subscriber, and the attributes that teams filter by.
//!
//! Everything said here is read off the entry; the same entry always gives the
//! same message. Deliberately not here: whether it has been told before
//! (`entry`), and publishing it (`backstop-aws`).
//!
//! | file | what is in it |
//! | --- | --- |
//! | `words` | one line out of anything; sources, counts and times as people say them |
//! | `subject` | the subject, which is also the first line of every body |
//! | `story` | the sections a person reads first, for mail and chat alike |
//! | `undo_commands` | the AWS CLI commands that take our changes back |
//! | `encryption`, `patching`, `notice`, `undo` | messages about the other kinds of records, each with a JSON format of its own |
//! | `text` | mail: the sections, then details, commands and the ledger entry |
//! | `chat` | the custom notification of Amazon Q Developer in chat applications |
//! | `notification` | the JSON that programs read, and its schema |

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use crate::entry::Entry;
use crate::record::Record;

mod chat;
mod encryption;
mod notice;
mod notification;
mod patching;
mod story;
mod subject;
mod text;
mod undo;
mod undo_commands;
mod words;

pub use encryption::{
    EncryptionKind, EncryptionNotification, NotifiedBack, NotifiedCopy, NotifiedDowntime,
    NotifiedInstance, NotifiedSnapshot, NotifiedVolume, OmittedOfEncryption, steps,
};
pub use notice::{
    Kind, NoticeNotification, NotifiedAbout, NotifiedCheck, NotifiedDigest, NotifiedExample,
    NotifiedOpen, NotifiedOptOutSeen,
};
pub use notification::{
    LedgerKey, Notification, NotifiedActor, NotifiedChange, NotifiedExemption, NotifiedExposure,
    NotifiedFight, NotifiedOutcome, NotifiedResource, NotifiedRule, NotifiedTraffic,
    NotifiedVerification, Omitted,
};
pub use patching::{
    NotifiedAgent, NotifiedCommand, NotifiedPackage, NotifiedPatch, NotifiedPatchState,
    NotifiedVulnerability, OmittedOfPatching, PatchingKind, PatchingNotification,
};
pub use undo::{UndoKind, UndoNotification};
pub use words::one_line;

use chat::Card;
use story::Story;

/// Most bytes of a message with its subject and attributes. SNS takes 262,144;
/// the rest is room for what SNS itself adds.
pub const MOST_BYTES: usize = 250_000;

/// How many rules a message goes into, tried from the first until it fits. A
/// person does not read more than the first few, and a program that needs all
/// of them reads the ledger.
const RULES_SHOWN: &[usize] = &[25, 12, 6, 3, 1, 0];

/// How many protocols get the text for programs, see [`bodies`].
const DATA_BODIES: usize = 5;

/// A message for SNS, to be published with `MessageStructure=json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// At most 99 ASCII characters, without control characters.
    pub subject: String,
    /// One body per protocol, as the JSON document that SNS takes.
    pub body: String,
    /// What subscriptions filter by; no value is empty. `team` may be a list,
    /// see [`is_list`].
    pub attributes: BTreeMap<String, String>,
}

impl Message {
    fn bytes(&self) -> usize {
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        self.subject.len() + self.body.len() + attributes
    }
}

/// Whether an attribute's value is a JSON list of texts, as a storm's teams are.
/// (A tag that happens to be written as one is then matched by its texts.)
#[must_use]
pub fn is_list(value: &str) -> bool {
    value.starts_with('[')
        && serde_json::from_str::<Vec<String>>(value).is_ok_and(|of| !of.is_empty())
}

/// Composes the message about a record of any kind.
#[must_use]
pub fn of(record: &Record) -> Message {
    match record {
        Record::Remediation(entry) => compose(entry),
        Record::Encryption(run) => encryption::compose(run),
        Record::Patching(run) => patching::compose(run),
        Record::Undo(undo) => undo::compose(undo),
        Record::Notice(notice) => notice::compose(notice),
    }
}

/// Composes the message about an entry whose `before` is filled.
#[must_use]
pub fn compose(entry: &Entry) -> Message {
    let story = Story::new(entry);
    let card = Card {
        key: entry.message_key(),
        record: &entry.id,
        title: &subject::first_line(&story),
        sections: &story.sections(),
        control: entry.control.name(),
        severity: entry.severity,
        outcome: entry.status.name(),
        account: &entry.account,
        region: &entry.region,
        team: entry.team_or_unowned(),
        resources: vec![entry.resource.clone()],
    };
    fitted(
        subject::subject(&story),
        attributes(&card),
        &chat::card(&card).to_string(),
        |most| text::mail(&story, &card, most),
        |most| to_json(&Notification::of(&story, &card, most)),
    )
}

/// The message with as many rules, or items of another kind, as there is room
/// for: `mail` and `data` give the two texts with at most so many.
fn fitted(
    subject: String,
    attributes: BTreeMap<String, String>,
    chat: &str,
    mail: impl Fn(usize) -> String,
    data: impl Fn(usize) -> String,
) -> Message {
    let mut message = Message {
        subject,
        body: String::new(),
        attributes,
    };
    for most in RULES_SHOWN {
        let data = data(*most);
        // What is too long as it is need not be put together to see that. With
        // nothing left to leave out, it goes as it is.
        if *most > 0 && DATA_BODIES * data.len() > MOST_BYTES {
            continue;
        }
        message.body = bodies(&mail(*most), chat, &data);
        if message.bytes() <= MOST_BYTES {
            break;
        }
    }
    message
}

/// One body per protocol: mail for people, a card for chat, JSON for programs.
/// Chat applications subscribe as `https`; whatever has no body of its own gets
/// `default`.
fn bodies(mail: &str, chat: &str, data: &str) -> String {
    // A text that several protocols get is made a JSON text once.
    let (mail, chat, data) = (to_json(&mail), to_json(&chat), to_json(&data));
    let bodies = [
        ("default", &mail),
        ("email", &mail),
        ("email-json", &data),
        ("firehose", &data),
        ("http", &data),
        ("https", &chat),
        ("lambda", &data),
        ("sqs", &data),
    ];
    let bodies = bodies.map(|(protocol, body)| format!("\"{protocol}\":{body}"));
    format!("{{{}}}", bodies.join(","))
}

/// What is told, as JSON.
fn to_json(data: &impl Serialize) -> String {
    // Nothing in it can fail to become JSON: all keys are texts. Should that
    // ever change, subscribers hear that and not silence.
    serde_json::to_string(data)
        .unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string())
}

/// What subscriptions filter by.
fn attributes(card: &Card<'_>) -> BTreeMap<String, String> {
    [
        ("control", card.control, "unknown"),
        ("severity", &card.severity.to_string(), "unknown"),
        ("outcome", card.outcome, "unknown"),
        ("account", card.account, "unknown"),
        ("region", card.region, "unknown"),
        ("team", card.team, "unowned"),
    ]
    .into_iter()
    .map(|(key, value, without)| (key.to_owned(), words::or(&one_line(value, 256), without)))
    .collect()
}
