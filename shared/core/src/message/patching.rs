//! Messages about patchings: what is vulnerable, what is installed and whether
//! the instance restarts for it, what came of it, what its owner can do.
//!
//! A patch cannot be undone, and that is said before it is installed. What
//! Inspector found counts as mended when Inspector has closed it and not before.
//! Programs get a [`PatchingNotification`] of their own format, whose schema is
//! `schemas/patching.schema.json`; it keeps the same promises as the notification
//! about an entry (`notification`).
//!
//! Deliberately not here: the subject, the first line and what all texts go by
//! (`story`), the sections that people read (`sections`), and the format for
//! programs (`patching::notification`).

use super::chat::{self, Card};
use super::envelope::{Message, attributes, fitted, to_json};
use super::text;
use crate::patching::Patching;

mod notification;
mod sections;
mod story;

pub use notification::{
    NotifiedAgent, NotifiedCommand, NotifiedPackage, NotifiedPatch, NotifiedPatchState,
    NotifiedVulnerability, OmittedOfPatching, PatchingKind, PatchingNotification,
};

use story::Story;

/// Composes the message about a patching.
pub(super) fn compose(run: &Patching) -> Message {
    let story = Story { run };
    let title = story.headline(100) + &story.addition();
    let card = Card {
        key: run.message_key(),
        record: &run.head.id,
        title: &title,
        sections: &story.sections(),
        control: run.head.control.name(),
        severity: run.head.severity,
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
        |most| to_json(&PatchingNotification::of(&story, &title, most)),
    )
}
