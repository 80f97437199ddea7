//! The custom notification of Amazon Q Developer in chat applications (before:
//! AWS Chatbot), schema version 1.0, which shows it in Slack and Teams.
//!
//! AWS takes titles of 250 and descriptions of 8,000 characters; a Slack
//! message shows 3,000 in one piece, so that is what is sent. The limits of
//! the other fields are not documented: they are kept short.

use serde_json::{Value, json};

use super::story::Section;
use crate::prose::{one_line, or};
use crate::words::Severity;

/// Most characters of a title.
const MOST_TITLE: usize = 250;
/// Most characters of a description.
const MOST_DESCRIPTION: usize = 3000;
/// Most characters of a line of a description, so that no single line takes
/// the room of all others.
const MOST_LINE: usize = 400;
/// Most characters of a next step.
const MOST_STEP: usize = 300;
/// Most characters of a keyword and of every field of the metadata.
const MOST_WORD: usize = 75;

/// What a notification is made of, and what every message about the same record
/// says with it.
pub(super) struct Card<'a> {
    /// What the message is known by.
    pub(super) key: String,
    /// The record's id: messages about the same one stand in one thread.
    pub(super) record: &'a str,
    pub(super) title: &'a str,
    pub(super) sections: &'a [Section],
    pub(super) control: &'a str,
    pub(super) severity: Severity,
    pub(super) outcome: &'a str,
    pub(super) account: &'a str,
    pub(super) region: &'a str,
    pub(super) team: &'a str,
    /// What it is about.
    pub(super) resources: Vec<String>,
}

/// The notification as JSON.
pub(super) fn card(card: &Card<'_>) -> Value {
    let word = |text: &str| plain(&one_line(text, MOST_WORD));
    let team = or(&word(card.team), "unowned");
    let (control, outcome) = (or(&word(card.control), "-"), or(&word(card.outcome), "-"));
    let title = plain(&one_line(card.title, MOST_TITLE));
    let resources: Vec<String> = card
        .resources
        .iter()
        .map(|resource| one_line(resource, MOST_TITLE))
        .collect();
    json!({
        "version": "1.0",
        "source": "custom",
        "id": card.key,
        "content": {
            "textType": "client-markdown",
            "title": title,
            "description": description(card.sections),
            "nextSteps": next_steps(card.record, card.sections),
            "keywords": [control, card.severity.to_string(), outcome, team],
        },
        "metadata": {
            // A failure and the message that it is fixed stand in one thread.
            "threadId": word(card.record),
            "summary": title,
            "eventType": format!("backstop-{control}"),
            "relatedResources": resources,
            "additionalContext": {
                "account": word(card.account),
                "control": control,
                "entry": word(card.record),
                "outcome": outcome,
                "region": word(card.region),
                "severity": card.severity.to_string(),
                "team": team,
            },
        },
    })
}

/// The sections of the story, except those that are next steps.
fn description(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections.iter().filter(|section| !section.is_next_step) {
        add(&mut text, &format!("*{}*", section.heading));
        for line in &section.lines {
            add(
                &mut text,
                &format!("• {}", plain(&one_line(line, MOST_LINE))),
            );
        }
    }
    text
}

/// Adds a line if there is room for it.
fn add(text: &mut String, line: &str) {
    if text.chars().count() + line.chars().count() < MOST_DESCRIPTION {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
}

/// How to take it back, how to opt out, and the entry.
fn next_steps(record: &str, sections: &[Section]) -> Vec<String> {
    let steps = sections
        .iter()
        .filter(|section| section.is_next_step)
        .map(|section| format!("{}: {}", section.heading, section.lines.join(" ")));
    let entry = format!("Everything else: ledger entry {record}");
    steps
        .chain([entry])
        .map(|step| plain(&one_line(&step, MOST_STEP)))
        .collect()
}

/// A text in which a chat client finds no markup, no link and nobody to
/// mention: what would start one is replaced by its look-alike.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '<' => '‹',
            '>' => '›',
            '[' => '(',
            ']' => ')',
            '*' => '∗',
            '~' => '∼',
            '`' => '\'',
            '|' => '¦',
            c => c,
        })
        .collect()
}
