//! The custom notification of Amazon Q Developer in chat applications (before:
//! AWS Chatbot), schema version 1.0, which shows it in Slack and Teams.
//!
//! AWS takes titles of 250 and descriptions of 8,000 characters; a Slack
//! message shows 3,000 in one piece, so that is what is sent. The limits of
//! the other fields are not documented: they are kept short.

use serde_json::{Value, json};

use super::story::{Section, Story};
use super::subject::first_line;
use super::words::{one_line, or};

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

/// The notification as JSON.
pub(super) fn notification(story: &Story<'_>, sections: &[Section]) -> Value {
    let entry = story.entry;
    let word = |text: &str| plain(&one_line(text, MOST_WORD));
    let team = or(&word(entry.team_or_unowned()), "unowned");
    json!({
        "version": "1.0",
        "source": "custom",
        "id": entry.message_key(),
        "content": {
            "textType": "client-markdown",
            "title": plain(&one_line(&first_line(story), MOST_TITLE)),
            "description": description(sections),
            "nextSteps": next_steps(story, sections),
            "keywords": [entry.control.name(), entry.severity.to_string(), entry.status.name(), team],
        },
        "metadata": {
            // A failure and the message that it is fixed stand in one thread.
            "threadId": word(&entry.id),
            "summary": plain(&one_line(&first_line(story), MOST_TITLE)),
            "eventType": format!("backstop-{}", entry.control),
            "relatedResources": [one_line(&entry.resource, MOST_TITLE)],
            "additionalContext": {
                "account": word(&entry.account),
                "control": entry.control.name(),
                "entry": word(&entry.id),
                "outcome": entry.status.name(),
                "region": word(&entry.region),
                "severity": entry.severity.to_string(),
                "team": team,
            },
        },
    })
}

/// The sections of the story, except those that are next steps.
fn description(sections: &[Section]) -> String {
    let mut text = String::new();
    for Section { heading, lines } in sections.iter().filter(|s| !is_next_step(s)) {
        add(&mut text, &format!("*{heading}*"));
        for line in lines {
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
fn next_steps(story: &Story<'_>, sections: &[Section]) -> Vec<String> {
    let steps = sections
        .iter()
        .filter(|section| is_next_step(section))
        .map(|Section { heading, lines }| format!("{heading}: {}", lines.join(" ")));
    let entry = format!("Everything else: ledger entry {}", story.entry.id);
    steps
        .chain([entry])
        .map(|step| plain(&one_line(&step, MOST_STEP)))
        .collect()
}

fn is_next_step(section: &Section) -> bool {
    section.heading.starts_with("How to ")
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
