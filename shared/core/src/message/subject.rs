//! The subject: how it ended, how bad it is, what was open, to whom. The same
//! words, uncut, are the first line of every body.

use std::collections::BTreeSet;

use super::story::Story;
use super::words::{is_world, joined, one_line};
use crate::entry::Entry;
use crate::words::Status;

/// Most characters of a subject: SNS wants fewer than 100.
pub(super) const MOST: usize = 99;

/// Most characters about ports.
const MOST_EXPOSED: usize = 200;

/// The word that a status is told with.
pub(super) fn verb(entry: &Entry) -> &'static str {
    match entry.status {
        Status::Remediated if entry.fight.is_some() => "FIXED AGAIN",
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
/// ports do, and the ports are summed up before the end is cut off.
pub(super) fn subject(story: &Story<'_>) -> String {
    let open = Open::of(story);
    let mut subject = String::new();
    for ports in [usize::MAX, 3, 2, 1, 0] {
        for name in [60, 24, 12, 7, 0] {
            subject = ascii(&format!(
                "[Backstop] {}",
                headline(story, &open, ports, name)
            ));
            if subject.len() <= MOST {
                return subject;
            }
        }
    }
    subject.truncate(MOST);
    subject.trim_end().to_owned()
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

/// The first line of a body: the subject uncut, and why nothing was changed.
pub(super) fn first_line(story: &Story<'_>) -> String {
    let why = match story.entry.status {
        Status::Notified => ", nothing was changed",
        Status::Held => ", its opt-out tag cannot be read",
        Status::NotOwned => ", it belongs to another account",
        Status::Existing => ", it was there before enforce and was left",
        Status::Tripped => ", the control has tripped: nothing was changed",
        Status::Stopped => ", the kill switch is on: nothing was changed",
        Status::Remediated if story.entry.fight.is_some() => ", it keeps coming back",
        // The last five are of encryptions and patchings, which have stories of
        // their own.
        Status::InProgress
        | Status::Remediated
        | Status::Failed
        | Status::Exempt
        | Status::Pending
        | Status::Refused
        | Status::RolledBack
        | Status::NeedsPerson
        | Status::AwaitingRescan => "",
    };
    headline(story, &Open::of(story), 5, 100) + why
}

fn headline(story: &Story<'_>, open: &Open<'_>, ports: usize, name: usize) -> String {
    let entry = story.entry;
    let id = one_line(entry.resource_id(), 100);
    let name = match one_line(&entry.resource_name, name) {
        name if name.chars().count() < 2 || name == id => String::new(),
        name => format!(" ({name})"),
    };
    let is = match entry.status {
        Status::Remediated => "was",
        Status::Failed => "may be",
        _ => "is",
    };
    let exposed = match (ports, open.exposed.len()) {
        (0, 1) => "1 range".to_owned(),
        (0, ranges) => format!("{ranges} ranges"),
        (most, _) => joined(&open.exposed, most),
    };
    format!(
        "{} {}: {id}{name} {is} open to {} on {}",
        verb(entry),
        entry.severity,
        open.to,
        one_line(&exposed, MOST_EXPOSED),
    )
}

/// What is open and to whom, gathered once for all lengths that are tried: a
/// group may have a thousand rules.
struct Open<'a> {
    /// Each port once.
    exposed: Vec<&'a str>,
    /// To whom, in three words.
    to: &'static str,
}

impl<'a> Open<'a> {
    fn of(story: &Story<'a>) -> Self {
        let concerned = story.concerned();
        let to_the_world = concerned.iter().any(|e| is_world(&e.rule.source));
        let mut seen = BTreeSet::new();
        Self {
            exposed: concerned
                .into_iter()
                .flat_map(|exposure| exposure.exposed.iter())
                .map(String::as_str)
                .filter(|words| seen.insert(*words))
                .collect(),
            to: match to_the_world {
                true => "the world",
                false => "much of the internet",
            },
        }
    }
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
