//! The message about an entry: one subject, one body for each kind of
//! subscriber, and the attributes that teams filter by.
//!
//! Everything said here is read off the entry; the same entry always gives the
//! same message. Deliberately not here: whether it has been told before
//! (`entry`), and publishing it (`backstop-aws`).
//!
//! | file | what is in it |
//! | --- | --- |
//! | `subject` | the subject, which is also the first line of every body |
//! | `story` | the sections a person reads first, for mail and chat alike; what differs comes from the control (`any_control`) |
//! | `encryption`, `patching`, `notice`, `undo` | messages about the other kinds of records, each with a JSON format of its own |
//! | `envelope` | the message as SNS takes it: bodies by protocol, attributes, the most bytes |
//! | `text` | mail: the sections, then details, commands and the ledger entry |
//! | `chat` | the custom notification of Amazon Q Developer in chat applications |
//! | `notification` | the JSON that programs read, and its schema |

use crate::entry::Entry;
use crate::record::Record;

mod chat;
mod encryption;
mod envelope;
mod notice;
mod notification;
mod patching;
mod story;
mod subject;
mod text;
mod undo;

pub use crate::prose::{counted, one_line, quoted};
pub use encryption::{
    EncryptionKind, EncryptionNotification, NotifiedBack, NotifiedCopy, NotifiedDowntime,
    NotifiedInstance, NotifiedSnapshot, NotifiedVolume, OmittedOfEncryption, managed_volumes,
    steps,
};
pub use envelope::{MOST_BYTES, Message, is_list};
pub use notice::{
    Kind, NoticeNotification, NotifiedAbout, NotifiedCheck, NotifiedDigest, NotifiedExample,
    NotifiedOpen, NotifiedOptOutSeen,
};
pub use notification::{
    LedgerKey, Notification, NotifiedActor, NotifiedChange, NotifiedExemption, NotifiedExposure,
    NotifiedFight, NotifiedItem, NotifiedOutcome, NotifiedResource, NotifiedRule, NotifiedTraffic,
    NotifiedVerification, Omitted,
};
pub use patching::{
    NotifiedAgent, NotifiedCommand, NotifiedPackage, NotifiedPatch, NotifiedPatchState,
    NotifiedVulnerability, OmittedOfPatching, PatchingKind, PatchingNotification,
};
pub use undo::{UndoKind, UndoNotification};

use chat::Card;
use envelope::{MOST_ITEMS, attributes, fitted, to_json};
use story::Story;

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
    let story = Story::new(entry, MOST_ITEMS);
    let card = Card {
        key: entry.message_key(),
        record: &entry.head.id,
        title: &subject::first_line(&story),
        sections: &story.sections(),
        control: entry.head.control.name(),
        severity: entry.head.severity,
        outcome: entry.head.status.name(),
        account: &entry.head.account,
        region: &entry.head.region,
        team: entry.team_or_unowned(),
        resources: vec![entry.head.resource.clone()],
    };
    fitted(
        subject::subject(&story),
        attributes(&card),
        &chat::card(&card).to_string(),
        |most| text::mail(&story, &card, most),
        |most| to_json(&Notification::of(&story, &card, most)),
    )
}
