//! The mail: the story first, then every rule with what happened to it, the
//! commands that put everything back, and where the ledger has the rest.

use serde_json::json;

use super::chat::Card;
use super::notification::LedgerKey;
use super::story::{Section, Story, ended, terms};
use super::undo_commands::{Undo, quote, undo_commands};
use super::words::{count, joined, one_line, rules, shortened, time};
use crate::exemption::Exemption;
use crate::plan::Exposure;

/// Most characters of the story in a mail.
const MOST_LEAD: usize = 10_000;
/// Most characters of a line.
const MOST_LINE: usize = 1200;
/// Most steps told of one rule: a split rule may have a step for each part.
const MOST_STEPS: usize = 10;

/// The mail, with at most `most` rules in every list.
pub(super) fn mail(story: &Story<'_>, card: &Card<'_>, most: usize) -> String {
    let mut paragraphs = vec![headline(card)];
    paragraphs.extend(lead(card.sections));
    paragraphs.push(details(story, most));
    paragraphs.extend(put_it_back(story, most));
    paragraphs.push(ledger(card.record, card.region));
    paragraphs.join("\n\n") + "\n"
}

/// The mail about a record without rules: all there is to say is on the card.
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
    let mut lines = vec![section.heading.to_owned()];
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
        one_line(&entry.resource, 300)
    )];
    lines.extend(shortened(&entry.exposures, most, |exposure| {
        rule(story, exposure)
    }));
    lines.extend(shortened(&entry.plan.reasons, most.min(5), |reason| {
        format!("Reason: {}", one_line(reason, 300))
    }));
    lines.push(format!(
        "Begun: {}, attempts: {}",
        time(entry.started_at),
        entry.attempts
    ));
    if let Some(finished) = entry.finished_at {
        lines.push(format!("Ended: {}", time(finished)));
    }
    lines.push(format!("Policy version: {}", entry.policy_version));
    lines.join("\n")
}

/// A rule, as it was, and what happened to it.
fn rule(story: &Story<'_>, exposure: &Exposure) -> String {
    let rule = &exposure.rule;
    let description = match one_line(rule.description.as_deref().unwrap_or_default(), 300) {
        none if none.is_empty() => "no description".to_owned(),
        text => format!("described as: {text}"),
    };
    let mut lines = vec![one_line(
        &format!(
            "Rule {}: {} from {}, {description}",
            rule.id, rule.permission, rule.source
        ),
        600,
    )];
    let stays = match exposure.allowed.as_slice() {
        [] => "nothing of it may stay".to_owned(),
        allowed => format!("{} may stay", joined(allowed, 8)),
    };
    lines.push(format!(
        "  too open: {}; {stays}",
        joined(&exposure.exposed, 8)
    ));
    let private = if exposure.private_part {
        ", and private ones"
    } else {
        ""
    };
    lines.push(format!(
        "  admits {} public addresses{private}",
        count(exposure.public_addresses)
    ));
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
    let outcomes = story.outcomes(&rule.id);
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
    let (shown, all) = undo_commands(story, most);
    if all == 0 {
        return None;
    }
    let mut lines = vec![format!(
        "PUT IT BACK\nOnly if it is meant to be open. For bash or zsh, one after the other. Every rule gets an opt-out until {}; a rule that was revoked gets a new id.",
        story.opt_out_until()
    )];
    for Undo { what, commands } in &shown {
        lines.push(format!("\nRule {what}:"));
        lines.extend(commands.iter().cloned());
    }
    let more = all - shown.len();
    if more > 0 {
        lines.push(format!(
            "\nand {} more: the ledger entry holds them as they were, in `before` (base64 of gzip of JSON).",
            rules(more)
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
