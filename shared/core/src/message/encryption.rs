//! Messages about encryptions: what begins and what it costs, what came of it,
//! what stays behind, what a person has to do.
//!
//! Three questions come before all others: is something down, is data still
//! unencrypted, and what has to be typed. Programs get an
//! [`EncryptionNotification`] of their own format, whose schema is
//! `schemas/encryption.schema.json`; it keeps the same promises as the
//! notification about an entry (`notification`).
//!
//! Deliberately not here: the subject and the first line (`story`), the sections
//! that people read (`sections`), what the record says was made and moved
//! (`made`), and the format for programs (`encryption::notification`).

use super::chat::{self, Card};
use super::envelope::{Message, attributes, fitted, to_json};
use super::text;
use crate::encryption::Encryption;

mod made;
mod notification;
mod sections;
mod story;

pub use notification::{
    EncryptionKind, EncryptionNotification, NotifiedBack, NotifiedCopy, NotifiedDowntime,
    NotifiedInstance, NotifiedSnapshot, NotifiedVolume, OmittedOfEncryption,
};
pub use sections::{managed_volumes, steps};

use made::parts;
use story::{Story, severity};

/// Composes the message about an encryption.
pub(super) fn compose(run: &Encryption) -> Message {
    let story = Story {
        run,
        parts: parts(run),
    };
    let title = story.headline(100) + story.why_not();
    let card = Card {
        key: run.message_key(),
        record: &run.head.id,
        title: &title,
        sections: &story.sections(),
        control: run.head.control.name(),
        severity: severity(run),
        outcome: run.head.status.name(),
        account: &run.head.account,
        region: &run.head.region,
        team: run.team_or_unowned(),
        resources: vec![run.head.resource.clone()],
    };
    let (mail, chat) = (text::of_card(&card), chat::card(&card).to_string());
    fitted(
        story.subject(),
        attributes(&card),
        &chat,
        |_| mail.clone(),
        |most| to_json(&EncryptionNotification::of(&story, &title, most)),
    )
}
