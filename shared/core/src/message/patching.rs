//! Messages about patchings.

use super::chat::{self, Card};
use super::subject::{shortened_subject, status_verb};
use super::{Message, attributes, bodies, text};
use crate::patching::Patching;

/// Composes the message about a patching.
pub(super) fn compose(run: &Patching) -> Message {
    let title = format!(
        "{} {}: {}",
        status_verb(run.status),
        run.severity,
        run.resource_id()
    );
    let card = Card {
        key: run.message_key(),
        record: &run.id,
        title: &title,
        sections: &Vec::new(),
        control: run.control.name(),
        severity: run.severity,
        outcome: run.status.name(),
        account: &run.account,
        region: &run.region,
        team: run.team_or_unowned(),
        resources: vec![run.resource.clone()],
    };
    let (mail, chat) = (text::of_card(&card), chat::card(&card).to_string());
    Message {
        subject: shortened_subject(&title),
        body: bodies(&mail, &chat, "{}"),
        attributes: attributes(&card),
    }
}
