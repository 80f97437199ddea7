//! The mail: the story first, then every item with what happened to it, the
//! commands that put everything back, and where the ledger has the rest.

use serde_json::json;

use super::chat::Card;
use super::notification::LedgerKey;
use super::story::{PutBack, Section, Story, ended, opt_out_until, terms};
use crate::exemption::Exemption;
use crate::info::OptOutOn;
use crate::plan::Exposure;
use crate::prose::{capitalised, counted, one_line, shortened, time};
use crate::shell::quote;

/// Most characters of the story in a mail.
const MOST_LEAD: usize = 10_000;
/// Most characters of a line.
const MOST_LINE: usize = 1200;
/// Most steps told of one item: a split rule may have a step for each part.
const MOST_STEPS: usize = 10;

/// The mail, with at most `most` items in every list.
pub(super) fn mail(story: &Story<'_>, card: &Card<'_>, most: usize) -> String {
    let mut paragraphs = vec![headline(card)];
    paragraphs.extend(lead(card.sections));
    paragraphs.push(details(story, most));
    paragraphs.extend(put_it_back(story, most));
    paragraphs.push(ledger(card.record, card.region));
    paragraphs.join("\n\n") + "\n"
}

/// The mail about a record without items: all there is to say is on the card.
pub(super) fn of_card(card: &Card<'_>) -> String {
    let mut paragraphs = vec![headline(card)];
    paragraphs.extend(lead(card.sections));
    paragraphs.push(ledger(card.record, card.region));
    paragraphs.join("\n\n") + "\n"
}

/// What happened; where, whose, and of which control.
fn headline(card: &Card<'_>) -> String {
    format!(
        "{}\nAccount {}, {}. Team: {}. Control: {}.",
        card.title,
        one_line(card.account, 50),
        one_line(card.region, 50),
        one_line(card.team, 100),
        card.control,
    )
}

/// The story, or as much of it as fits: ordinary ones are a quarter of that.
fn lead(sections: &[Section]) -> Vec<String> {
    let mut paragraphs = Vec::new();
    let mut left = MOST_LEAD;
    for paragraph in sections.iter().map(section) {
        let size = paragraph.chars().count();
        if size > left {
            paragraphs.push("There is more than fits here, see the ledger entry.".to_owned());
            break;
        }
        left -= size;
        paragraphs.push(paragraph);
    }
    paragraphs
}

fn section(section: &Section) -> String {
    let mut lines = vec![section.heading.to_string()];
    lines.extend(
        section
            .lines
            .iter()
            .map(|line| format!("- {}", one_line(line, MOST_LINE))),
    );
    lines.join("\n")
}

fn details(story: &Story<'_>, most: usize) -> String {
    let entry = story.entry;
    let mut lines = vec![format!(
        "DETAILS\nResource: {}",
        one_line(&entry.head.resource, 300)
    )];
    lines.extend(shortened(&entry.detail.exposures, most, |exposure| {
        item(story, exposure)
    }));
    lines.extend(shortened(
        &entry.detail.plan.reasons,
        most.min(5),
        |reason| format!("Reason: {}", one_line(reason, 300)),
    ));
    lines.push(format!(
        "Begun: {}, attempts: {}",
        time(entry.head.started_at),
        entry.head.attempts
    ));
    if let Some(finished) = entry.head.finished_at {
        lines.push(format!("Ended: {}", time(finished)));
    }
    lines.push(format!("Policy version: {}", entry.head.policy_version));
    lines.join("\n")
}

/// An item, as it was, and what happened to it.
fn item(story: &Story<'_>, exposure: &Exposure) -> String {
    let mut lines = story.details(exposure).into_iter();
    let first = lines.next().unwrap_or_default();
    let first = format!("{} {first}", capitalised(story.phrases.item));
    let rest = lines.map(|line| format!("  {line}"));
    let mut lines: Vec<String> = [one_line(&first, 600)].into_iter().chain(rest).collect();
    lines.extend(match &exposure.exemption {
        Exemption::None => None,
        Exemption::Exempt(opt_out) => Some(format!("  opted out {}", terms(opt_out))),
        Exemption::Ended(opt_out) => Some(format!("  its opt-out ended: {}", terms(opt_out))),
        Exemption::Existing => Some("  was there before enforce, left as it is".to_owned()),
        Exemption::Malformed { problem, .. } => Some(format!(
            "  its opt-out tag cannot be read: {}",
            one_line(problem, 300)
        )),
    });
    let outcomes = story.outcomes(&exposure.item);
    lines.extend(
        outcomes
            .iter()
            .take(MOST_STEPS)
            .map(|outcome| format!("  {}", ended(outcome))),
    );
    if outcomes.len() > MOST_STEPS {
        lines.push(format!(
            "  and {} more steps, see the ledger entry",
            outcomes.len() - MOST_STEPS
        ));
    }
    lines.join("\n")
}

fn put_it_back(story: &Story<'_>, most: usize) -> Option<String> {
    if story.put_back.is_empty() {
        return None;
    }
    let shown: Vec<&PutBack> = story.put_back.iter().take(most).collect();
    let (item, until) = (story.phrases.item, opt_out_until(&story.entry.head));
    let opt_out = match story.opt_out_on() {
        OptOutOn::Item => format!(
            "Every {item} gets an opt-out until {until}; a {item} that was revoked gets a new id."
        ),
        OptOutOn::Resource => format!(
            "The {} gets an opt-out until {until}.",
            story.phrases.resource
        ),
        OptOutOn::Policy => {
            "Exempt it in the policy first, or it would be remediated again.".to_owned()
        }
    };
    let mut lines = vec![format!(
        "PUT IT BACK\nOnly if it is meant to be {}. For bash or zsh, one after the other. {opt_out}",
        story.phrases.found
    )];
    let kind = capitalised(item);
    for PutBack { what, commands } in &shown {
        lines.push(format!("\n{kind} {what}:"));
        lines.extend(commands.iter().cloned());
    }
    let more = story.undoable - shown.len();
    if more > 0 {
        lines.push(format!(
            "\nand {} more: the ledger entry holds them as they were, in `before` (base64 of gzip of JSON).",
            counted(more, item)
        ));
    }
    Some(lines.join("\n"))
}

/// Where the ledger has the record.
fn ledger(id: &str, region: &str) -> String {
    let LedgerKey { pk, sk } = LedgerKey::of(id);
    let key = json!({ "pk": { "S": pk }, "sk": { "S": sk } }).to_string();
    format!(
        "LEDGER ENTRY {}\naws dynamodb get-item --region {} --table-name '<LedgerTableName>' --key {}\nLedgerTableName is an output of the Backstop stack in this account and Region.",
        one_line(id, 100),
        quote(&one_line(region, 50)),
        quote(&key),
    )
}
