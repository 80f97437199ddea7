//! Messages about undos: what was put back, for whom, until when it stays.
//!
//! Programs get an [`UndoNotification`] of their own format, whose schema is
//! `schemas/undo.schema.json`; it keeps the same promises as the notification
//! about an entry (`notification`).

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chat::{self, Card};
use super::envelope::{Message, attributes, bodies, to_json};
use super::notification::{LedgerKey, name, some_text, text as cut};
use super::story::Section;
use super::subject::shortened_subject;
use super::text;
use crate::controls;
use crate::exemption::OPT_OUT_TAG;
use crate::info::OptOutOn;
use crate::prose::{clause, one_line, or_unknown, shortened};
use crate::undo::{Undo, UndoStatus};
use crate::words::{ControlId, Severity, team_or_unowned};

/// The version of the format.
const VERSION: u32 = 1;
/// Most lines of a section, and most items of a list.
const MOST_LINES: usize = 20;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// What was closed is open again: somebody wanted that, and everybody should
/// know.
const SEVERITY: Severity = Severity::High;

/// A remediation that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UndoNotification {
    /// The format's version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Always `undo`: notifications about entries have no such field.
    pub kind: UndoKind,
    /// What the message is known by: drop what you have seen, SNS may deliver
    /// twice.
    pub key: String,
    /// The id of the undo's ledger entry, a ULID.
    pub entry: String,
    /// Where the ledger has the entry.
    pub ledger_key: LedgerKey,
    /// The id of the entry that was taken back.
    pub undoes: String,
    /// What happened, in one line.
    pub headline: String,
    /// The control of the remediation.
    pub control: ControlId,
    /// How bad it is that it is open again.
    pub severity: Severity,
    /// `undone` or `undo-failed`.
    pub outcome: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the resource; `unowned` without one.
    pub team: String,
    /// The resource's ARN.
    pub resource: String,
    /// Why, as stated.
    pub reason: String,
    /// Who asked, as stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Last day (UTC) of the opt-out that what was put back carries.
    #[schemars(with = "String", extend("format" = "date"))]
    pub opt_out_until: Date,
    /// What was put back, in words.
    pub restored: Vec<String>,
    /// What was to be put back and is not, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<String>,
    /// What failed, in words.
    pub problems: Vec<String>,
    /// When it began.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// How many lines are left out.
    pub omitted: u64,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UndoKind {
    /// An undo.
    Undo,
}

impl UndoNotification {
    fn of(undo: &Undo, headline: &str) -> Self {
        let lines = |lines: &[String]| lines.iter().take(MOST_LINES).map(|l| cut(l)).collect();
        let more = |lines: &[String]| lines.len().saturating_sub(MOST_LINES) as u64;
        let (restored, planned) = restored_and_planned(undo);
        Self {
            version: VERSION,
            kind: UndoKind::Undo,
            key: undo.message_key(),
            entry: name(&undo.id),
            ledger_key: LedgerKey::of(&undo.id),
            undoes: name(&undo.undoes),
            headline: cut(headline),
            control: undo.control,
            severity: SEVERITY,
            outcome: undo.status.name().to_owned(),
            account: name(&undo.account),
            region: name(&undo.region),
            team: name(team(undo)),
            resource: cut(&undo.resource),
            reason: cut(&undo.reason),
            by: some_text(&undo.by),
            opt_out_until: undo.opt_out_until,
            restored: lines(restored),
            planned: lines(planned),
            problems: lines(&undo.problems),
            started_at: undo.started_at,
            omitted: more(restored) + more(planned) + more(&undo.problems),
        }
    }

    /// The JSON Schema of the notification.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

/// How long what was put back stays, and how to change that.
fn kept_until(undo: &Undo) -> Vec<String> {
    let info = controls::of(undo.control).map(|control| control.info());
    if info.is_some_and(|info| info.opt_out_on == OptOutOn::Policy) {
        return vec![format!(
            "The exemption in the policy holds it back (controls.{}.settings.exemption); once that has ended, it is remediated again.",
            undo.control
        )];
    }
    let tagged = match info {
        Some(info) if info.opt_out_on == OptOutOn::Resource => info.phrases.resource,
        _ => "rules",
    };
    vec![
        format!(
            "What was put back is opted out until {}; after that it is closed again.",
            undo.opt_out_until
        ),
        format!(
            "To keep it longer, change `until=` in the tag {OPT_OUT_TAG} of the {tagged}; to end it now, remove the tag."
        ),
    ]
}

/// Composes the message about an undo.
pub(super) fn compose(undo: &Undo) -> Message {
    let (headline, sections) = (headline(undo), sections(undo));
    let card = Card {
        key: undo.message_key(),
        record: &undo.id,
        title: &headline,
        sections: &sections,
        control: undo.control.name(),
        severity: SEVERITY,
        outcome: undo.status.name(),
        account: &undo.account,
        region: &undo.region,
        team: team(undo),
        resources: vec![undo.resource.clone()],
    };
    let data = to_json(&UndoNotification::of(undo, &headline));
    Message {
        subject: shortened_subject(&headline),
        body: bodies(&text::of_card(&card), &chat::card(&card).to_string(), &data),
        attributes: attributes(&card),
    }
}

fn team(undo: &Undo) -> &str {
    team_or_unowned(undo.team.as_deref())
}

fn headline(undo: &Undo) -> String {
    let what = match undo.status {
        UndoStatus::Undone => "UNDONE",
        UndoStatus::UndoFailed => "UNDO FAILED",
        UndoStatus::UndoInProgress => "UNDO CUT OFF",
    };
    let id = one_line(undo.resource_id(), 100);
    let name = match one_line(&undo.resource_name, 60) {
        name if name.is_empty() || name == id => String::new(),
        name => format!(" ({name})"),
    };
    let is = match undo.status {
        UndoStatus::Undone => "is as it was before",
        _ => "may be partly as it was before",
    };
    format!("{what}: {id}{name} {is} the remediation {}", undo.undoes)
}

/// What was put back, and what was not. An undo that was cut off says nothing of
/// what it has done.
fn restored_and_planned(undo: &Undo) -> (&[String], &[String]) {
    match undo.status {
        UndoStatus::Undone => (&undo.restored, &[]),
        UndoStatus::UndoFailed => (&undo.restored, &undo.planned),
        UndoStatus::UndoInProgress => (&[], &undo.planned),
    }
}

fn sections(undo: &Undo) -> Vec<Section> {
    let mut sections = vec![Section::new(
        "Who asked for it, as stated",
        vec![
            format!("Who: {}", or_unknown(undo.by.as_deref(), MOST_TEXT)),
            format!("Why: {}", or_unknown(Some(&undo.reason), MOST_TEXT)),
        ],
    )];
    if !undo.problems.is_empty() {
        sections.push(Section::new(
            "What failed",
            shortened(&undo.problems, MOST_LINES, |problem| {
                format!("{}.", clause(problem, 2 * MOST_TEXT))
            }),
        ));
    }
    let lines = |lines: &[String]| {
        shortened(lines, MOST_LINES, |line| {
            format!("{}.", clause(line, 2 * MOST_TEXT))
        })
    };
    let (restored, planned) = restored_and_planned(undo);
    match (restored, undo.status) {
        ([], UndoStatus::UndoFailed) => sections.push(Section::new(
            "What was put back",
            vec!["Nothing.".to_owned()],
        )),
        ([], _) => {}
        _ => sections.push(Section::new("What was put back", lines(restored))),
    }
    if !planned.is_empty() {
        sections.push(Section::new("What was to be put back", lines(planned)));
    }
    sections.push(match undo.status {
        UndoStatus::Undone => Section::next_step("How to keep it, or to end it", kept_until(undo)),
        _ => Section::next_step("How to go on", vec![format!(
                "Remove the cause and ask again: backstop undo {}. What is done already is recognised.",
                undo.undoes
            )]),
    });
    sections
}
