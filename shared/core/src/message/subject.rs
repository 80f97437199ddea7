//! The subject: how it ended, how bad it is, what was found. The same
//! words, uncut, are the first line of every body.

use super::story::Story;
use crate::entry::Entry;
use crate::prose::{joined, one_line};
use crate::reason::Reason;
use crate::run::Head;
use crate::words::Status;

/// Most characters of a subject: SNS wants fewer than 100.
pub(super) const MOST: usize = 99;

/// How many details a subject goes into, tried from the first until it fits.
const DETAILS: &[usize] = &[usize::MAX, 3, 2, 1, 0];

/// The word that a status is told with.
pub(super) fn verb(entry: &Entry) -> &'static str {
    match entry.head.status {
        Status::Remediated if entry.detail.fight.is_some() => "FIXED AGAIN",
        status => status_verb(status),
    }
}

/// The word for a status by itself.
pub(super) fn status_verb(status: Status) -> &'static str {
    match status {
        Status::Failed => "FAILED",
        Status::Remediated => "FIXED",
        Status::Notified => "FOUND",
        Status::Exempt => "EXEMPT",
        Status::Held => "HELD",
        Status::NotOwned => "NOT OWNED",
        Status::Existing => "EXISTING",
        Status::Tripped => "TRIPPED",
        Status::Stopped => "STOPPED",
        Status::InProgress => "IN PROGRESS",
        Status::Pending => "PENDING",
        Status::Refused => "REFUSED",
        Status::RolledBack => "ROLLED BACK",
        Status::NeedsPerson => "NEEDS A PERSON",
        Status::AwaitingRescan => "PATCHED",
    }
}

/// The subject, cut so that what matters survives: the name goes before the
/// details do, and those are summed up before the end is cut off.
pub(super) fn subject(story: &Story<'_>) -> String {
    let mut subject = String::new();
    for found in story.headlines(DETAILS) {
        for name in [60, 24, 12, 7, 0] {
            subject = ascii(&format!("[Backstop] {}", headline(story, &found, name)));
            if subject.len() <= MOST {
                return subject;
            }
        }
    }
    subject.truncate(MOST);
    subject.trim_end().to_owned()
}

/// The subject of a headline that names the resource with at most so many
/// characters: the name goes before anything else does.
pub(super) fn subject_of(headline: impl Fn(usize) -> String) -> String {
    [60, 24, 12, 7, 0]
        .into_iter()
        .map(|name| ascii(&format!("[Backstop] {}", headline(name))))
        .find(|subject| subject.len() <= MOST)
        .unwrap_or_else(|| shortened_subject(&headline(0)))
}

/// A resource: its id, and its name where it has one.
pub(super) fn id_and_name(head: &Head, most: usize) -> String {
    let id = one_line(head.resource_id(), 100);
    match one_line(&head.resource_name, most) {
        name if name.chars().count() < 2 || name == id => id,
        name => format!("{id} ({name})"),
    }
}

/// A headline as a subject, cut where it is too long.
pub(super) fn shortened_subject(headline: &str) -> String {
    let subject = ascii(&format!("[Backstop] {headline}"));
    if subject.len() <= MOST {
        return subject;
    }
    let kept: String = subject.chars().take(MOST - 3).collect();
    format!("{}...", kept.trim_end())
}

/// The first line of a body: the subject uncut, why nothing was changed, and what
/// was allowed and is lost.
pub(super) fn first_line(story: &Story<'_>) -> String {
    let why = match story.entry.head.status {
        Status::Notified => ", nothing was changed",
        Status::Held => ", its opt-out tag cannot be read",
        Status::NotOwned => ", it belongs to another account",
        Status::Existing => ", it was there before enforce and was left",
        Status::Tripped if story.changed_something() => {
            ", the control has tripped: nothing more was changed"
        }
        Status::Tripped => ", the control has tripped: nothing was changed",
        Status::Stopped if story.changed_something() => {
            ", the kill switch is on: nothing more was changed"
        }
        Status::Stopped => ", the kill switch is on: nothing was changed",
        Status::Pending if story.entry.awaits_visibility() => {
            ", AWS accepted the change and does not show it yet"
        }
        Status::Pending => match &story.entry.detail.plan.because {
            Some(Reason::StillUsed { .. }) => ", that is still used: nothing was changed",
            Some(Reason::Unproven { .. }) => {
                ", whether that is still used is not known yet: nothing was changed"
            }
            _ if story.changed_something() => {
                ", the budget of this hour is used up: nothing more was changed"
            }
            _ => ", the budget of this hour is used up: nothing was changed",
        },
        Status::Remediated if story.entry.detail.fight.is_some() => ", it keeps coming back",
        // The last four are of encryptions and patchings, which have stories of
        // their own.
        Status::InProgress
        | Status::Remediated
        | Status::Failed
        | Status::Exempt
        | Status::Refused
        | Status::RolledBack
        | Status::NeedsPerson
        | Status::AwaitingRescan => "",
    };
    let mut line = headline(story, &story.headlines(&[5]).concat(), 100) + why;
    let lost: Vec<String> = story.lost().into_iter().map(|(_, what, _)| what).collect();
    if !lost.is_empty() {
        line += &format!(", LOST with it: {}", joined(&lost, 5));
    }
    line
}

fn headline(story: &Story<'_>, found: &str, name: usize) -> String {
    let entry = story.entry;
    let is = match entry.head.status {
        Status::Remediated => "was",
        Status::Failed => "may be",
        _ if entry.awaits_visibility() => "may be",
        _ => "is",
    };
    format!(
        "{} {}: {} {is} {found}",
        verb(entry),
        entry.head.severity,
        id_and_name(&entry.head, name),
    )
}

/// The text in ASCII: what is not becomes a question mark.
pub(super) fn ascii(text: &str) -> String {
    text.replace('…', "...")
        .chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .collect()
}
