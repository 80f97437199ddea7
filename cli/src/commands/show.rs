//! `backstop show`: everything about one ledger entry.

use std::process::ExitCode;

use backstop_aws::ledger::Stored;
use backstop_core::controls;
use backstop_core::encryption::{Answer, Encryption};
use backstop_core::entry::Entry;
use backstop_core::json;
use backstop_core::message::{self, one_line};
use backstop_core::patching::{PatchState, Patching};
use backstop_core::plan::{Ending, Outcome};
use backstop_core::record::Record;
use backstop_core::run::Head;
use backstop_core::undo::{Undo, UndoStatus};
use backstop_core::words::Status;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Problem;
use crate::context::Context;
use crate::table::{
    Cell, Format, NOTHING, Page, Table, bad, good, named, second, table, terminal_width,
};

/// Shows one ledger entry: what was found, each change with its outcome and AWS's
/// code, before and after, copies and snapshots, the message, how to undo it.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Id of the ledger entry (`backstop history` shows them)
    entry: String,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let found = aws.ledger(&stack)?.read_with_undo(&self.entry).await?;
        let Some((Stored { record, told }, undone_by)) = found else {
            return Err(aws.not_found(&format!("the ledger entry `{}`", self.entry)));
        };
        match self.format {
            Format::Json => println!(
                "{}",
                json!({ "told": told, "undone_by": undone_by, "record": record })
            ),
            Format::Table => print!(
                "{}",
                text(&record, told, undone_by.as_deref(), terminal_width())
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A record, for people, as it fits a terminal of so many columns.
fn text(record: &Record, told: bool, undone_by: Option<&str>, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    page.line(&format!(
        "{} {}: {}",
        record.kind(),
        record.id(),
        record.outcome()
    ));
    match record {
        Record::Remediation(entry) => {
            head(&mut page, &entry.head);
            remediation(&mut page, entry);
        }
        Record::Encryption(run) => {
            head(&mut page, &run.head);
            encryption(&mut page, run);
        }
        Record::Patching(run) => {
            head(&mut page, &run.head);
            patching(&mut page, run);
        }
        Record::Undo(undo) => of_undo(&mut page, undo),
        Record::Notice(_) => {
            // All there is to it is what it says.
            let body = json::value(message::of(record).body.as_bytes()).ok();
            let mail = body.as_ref().and_then(|body| body.get("default")?.as_str());
            page.verbatim(&format!("\n{}", mail.unwrap_or_default()));
        }
    }
    section(
        &mut page,
        "Message",
        [match told {
            true => "sent",
            false => "not sent yet: the next sweep sends it (backstop sweep)",
        }],
    );
    section(&mut page, "How to undo it", way_back(record, undone_by));
    page.into_text()
}

/// What all runs have.
fn head(page: &mut Page, head: &Head) {
    page.led(
        "control   ",
        &format!("{}, {}", head.control, head.severity),
    );
    // An ARN does not fit a line: the id, the account and the Region say the same.
    page.led(
        "resource  ",
        &named(head.resource_id(), &head.resource_name),
    );
    page.led(
        "account   ",
        &format!("{}, Region {}", head.account, head.region),
    );
    page.led("team      ", &one_line(head.team_or_unowned(), 100));
    let actor = &head.actor;
    let caller = actor.caller();
    let caller = caller.as_deref().unwrap_or("not known");
    page.led("caller    ", &one_line(caller, 300));
    if let Some(event) = &actor.event_name {
        page.led("event     ", &one_line(event, 100));
    }
    if let Some(by) = &head.managed_by {
        page.led("manager   ", &one_line(by, 200));
    }
    period(page, head.started_at, head.finished_at, head.attempts);
    page.led("policy    ", &format!("version {}", head.policy_version));
}

fn period(page: &mut Page, began: Timestamp, ended: Option<Timestamp>, attempts: u32) {
    let ended = ended.map_or_else(
        || "not ended".to_owned(),
        |at| format!("ended {}", second(at)),
    );
    let began = second(began);
    page.led(
        "began     ",
        &format!("{began}, {ended}, attempts: {attempts}"),
    );
}

fn section<T: AsRef<str>>(page: &mut Page, heading: &str, lines: impl IntoIterator<Item = T>) {
    let lines = lines.into_iter();
    page.section(heading, "", lines.map(|line| one_line(line.as_ref(), 1000)));
}

fn rows(page: &mut Page, heading: &str, rows: Table) {
    if !rows.is_empty() {
        page.heading(heading);
        page.table(&rows.without_empty_columns());
    }
}

fn remediation(page: &mut Page, entry: &Entry) {
    let control = controls::of(entry.head.control);
    let detail = &entry.detail;
    let found = detail.exposures.iter().map(|exposure| {
        let found = control.and_then(|control| control.found(exposure));
        match found {
            Some(found) => format!("{}: {found}", exposure.item),
            None => exposure.item.clone(),
        }
    });
    section(page, "What was found", found);
    let line = |item: &str, state: &Value| {
        let line = control.and_then(|control| control.line(item, state));
        one_line(&line.unwrap_or_else(|| state.to_string()), 300)
    };
    let mut states = table(&["item", "before", "after"]);
    let items = detail.before.keys().chain(detail.after.keys());
    let items: std::collections::BTreeSet<&String> = items.collect();
    for item in items {
        let before = detail.before.get(item);
        states.add_row(vec![
            item.clone(),
            before.map_or_else(|| "was not there".to_owned(), |state| line(item, state)),
            match detail.after.get(item) {
                Some(Some(state)) => line(item, state),
                Some(None) => "is not there".to_owned(),
                None => "not looked at again".to_owned(),
            },
        ]);
    }
    rows(page, "Before and after", states);
    outcomes(page, &detail.outcomes);
    section(
        page,
        "Why it is left",
        match entry.is_change() {
            true => &[],
            false => detail.plan.reasons.as_slice(),
        },
    );
    let verification = detail.verification.iter();
    let problems: Vec<&str> = verification.clone().flat_map(|v| v.problems()).collect();
    let verified = match (detail.verification.is_some(), problems.is_empty()) {
        (true, true) => vec!["read again: as planned"],
        _ => problems,
    };
    section(page, "Verification", verified);
    let by_others = verification.flat_map(|v| &v.by_others);
    section(page, "What others changed meanwhile", by_others);
}

/// Each step, how it ended, and what AWS said.
fn outcomes(page: &mut Page, outcomes: &[Outcome]) {
    let mut steps = table(&["item", "change", "outcome", "call", "code", "made"]);
    for outcome in outcomes {
        let change: Value = json!(outcome.step);
        let change = change.as_str().unwrap_or_default().to_owned();
        let change = match &outcome.permission {
            Some(to) => format!("{change}: {to}"),
            None => change,
        };
        let (ended, call, code): (Cell, String, String) = match &outcome.ending {
            Ending::Failed {
                operation,
                code,
                message,
                ..
            } => (
                bad(&format!("failed: {}", one_line(message, 300))),
                operation.clone(),
                code.clone(),
            ),
            other => (
                good(&other.to_string()),
                NOTHING.to_owned(),
                NOTHING.to_owned(),
            ),
        };
        steps.add_row(vec![
            outcome.item.as_str().into(),
            change.into(),
            ended,
            call.into(),
            code.into(),
            outcome.created.as_deref().unwrap_or(NOTHING).into(),
        ]);
    }
    rows(page, "Changes, in order", steps);
}

fn encryption(page: &mut Page, run: &Encryption) {
    let detail = &run.detail;
    let mut volumes = table(&["volume", "name", "size", "type"]);
    for volume in &detail.volumes {
        volumes.add_row(vec![
            volume.id.clone(),
            match volume.name() {
                name if name == volume.id => NOTHING.to_owned(),
                name => one_line(name, 60),
            },
            format!("{} GiB", volume.size),
            volume.volume_type.clone(),
        ]);
    }
    rows(page, "Unencrypted volumes", volumes);
    let mut tries = table(&["change", "outcome", "call", "code", "made", "tries", "last"]);
    let mut tried: Vec<_> = detail.progress.tries.iter().collect();
    tried.sort_by_key(|(_, tried)| tried.last_at);
    for (change, tried) in tried {
        let (ended, call, code): (Cell, &str, &str) = match &tried.answer {
            Some(Answer::Accepted) => (good("accepted"), NOTHING, NOTHING),
            Some(Answer::Refused {
                operation,
                code,
                message,
                ..
            }) => (
                bad(&format!("failed: {}", one_line(message, 300))),
                operation,
                code,
            ),
            None => (bad("no answer: it may have taken effect"), NOTHING, NOTHING),
        };
        tries.add_row(vec![
            change.as_str().into(),
            ended,
            call.into(),
            code.into(),
            tried.made.as_deref().unwrap_or(NOTHING).into(),
            tried.count.to_string().into(),
            second(tried.last_at).into(),
        ]);
    }
    rows(page, "Changes, copies and snapshots", tries);
    let back = detail
        .progress
        .back
        .iter()
        .flat_map(|back| back.sentences());
    section(page, "Why it was rolled back", back);
    section(page, "Attention", &detail.progress.attention);
    section(page, "Reasons", &detail.reasons);
}

fn patching(page: &mut Page, run: &Patching) {
    let detail = &run.detail;
    let reported = detail.findings.iter();
    let reported = reported.map(|of| match of.cves.first() {
        Some(cve) => format!("{cve}, {}: {}", of.severity, of.title),
        None => format!("{}: {}", of.severity, of.title),
    });
    section(page, "What Inspector reported", reported);
    let lacking = detail.missing.iter().map(|patch| &patch.title);
    section(page, "Patches that were missing", lacking);
    let mut states = table(&["patches", "before", "after"]);
    let count = |of: &Option<PatchState>, count: fn(&PatchState) -> u32| {
        let state = of.as_ref();
        state.map_or_else(|| "not known".to_owned(), |state| count(state).to_string())
    };
    for (name, of) in [
        ("missing", (|state| state.missing) as fn(&PatchState) -> u32),
        ("failed", |state| state.failed),
        ("waiting for a restart", |state| state.pending_reboot),
    ] {
        states.add_row(vec![
            name.to_owned(),
            count(&detail.before, of),
            count(&detail.after, of),
        ]);
    }
    rows(page, "Before and after", states);
    let mut commands = table(&["command", "sent", "outcome", "exit code"]);
    for sent in detail.not_begun.iter().chain(&detail.command) {
        commands.add_row(vec![
            sent.id.clone(),
            second(sent.at),
            sent.ended.clone().unwrap_or_else(|| "under way".to_owned()),
            sent.exit_code
                .map_or_else(|| NOTHING.to_owned(), |code| code.to_string()),
        ]);
    }
    rows(page, "Commands", commands);
    section(page, "Snapshots from before", &detail.snapshots);
    section(page, "Reasons", &detail.reasons);
}

fn of_undo(page: &mut Page, undo: &Undo) {
    page.led("undoes    ", &format!("{}, {}", undo.undoes, undo.control));
    page.led("resource  ", undo.resource_id());
    page.led(
        "account   ",
        &format!("{}, Region {}", undo.account, undo.region),
    );
    let by = undo.by.as_deref().unwrap_or("not known");
    page.led("asked by  ", &one_line(by, 200));
    page.led("reason    ", &one_line(&undo.reason, 300));
    period(page, undo.started_at, undo.finished_at, undo.attempts);
    page.led("opt-out   ", &format!("until {}", undo.opt_out_until));
    section(page, "What was restored", &undo.restored);
    outcomes(page, &undo.outcomes);
    section(page, "What went wrong", &undo.problems);
}

/// How to undo what a record is about; a command is a line of its own.
fn way_back(record: &Record, undone_by: Option<&str>) -> Vec<String> {
    if let Some(undo) = undone_by {
        return vec![
            "it was undone already:".to_owned(),
            format!("backstop show {undo}"),
        ];
    }
    let command = |id: &str| format!("backstop undo {id} --reason '<why>'");
    match record {
        Record::Remediation(entry) if entry.is_change() => vec![command(record.id())],
        Record::Encryption(run) if run.head.status == Status::Remediated => {
            vec![command(record.id())]
        }
        Record::Patching(run) if !run.detail.snapshots.is_empty() => vec![
            "installed patches stay; this says how to go back to the snapshots by hand:".to_owned(),
            command(record.id()),
        ],
        Record::Undo(undo) if undo.status == UndoStatus::UndoFailed => vec![
            "ask again; what is done already is recognised:".to_owned(),
            command(&undo.undoes),
        ],
        Record::Undo(_) => vec![
            "an undo cannot be undone: remove its opt-out, and the control acts again".to_owned(),
        ],
        Record::Remediation(_)
        | Record::Encryption(_)
        | Record::Patching(_)
        | Record::Notice(_) => {
            vec!["nothing was changed that could be undone".to_owned()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screens::{self, record, stored};

    #[test]
    fn every_record_that_a_release_wrote_is_shown() {
        let mut shown = 0;
        for kind in std::fs::read_dir(stored()).unwrap() {
            let kind = kind.unwrap().path();
            for file in std::fs::read_dir(&kind).into_iter().flatten() {
                let path = file.unwrap().path();
                let fixture: Value =
                    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
                let Ok(record) = Record::parse(&fixture["document"].to_string()) else {
                    continue;
                };
                let text = text(&record, true, None, None);
                let first = format!("{} {}: {}\n", record.kind(), record.id(), record.outcome());
                assert!(text.starts_with(&first), "{path:?}\n{text}");
                assert!(text.contains("\nHow to undo it\n"), "{path:?}\n{text}");
                shown += 1;
            }
        }
        assert!(shown > 50, "{shown}");
    }

    #[test]
    fn a_remediation_shows_each_item_before_and_after_and_the_way_back() {
        let record = record("remediation/open-ingress-remediated.json");
        let Record::Remediation(entry) = &record else {
            panic!("a remediation")
        };
        let shown = text(&record, false, None, None);
        for item in entry.detail.before.keys() {
            assert!(shown.contains(item.as_str()), "{item}\n{shown}");
        }
        for part in [
            "What was found",
            "Before and after",
            "Changes, in order",
            "not sent yet",
            &format!("backstop undo {} --reason", record.id()),
        ] {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
        let undone = text(&record, true, Some("01M7SH8XYF6H0J2M4N8P7R3T1W"), None);
        assert!(undone.contains("undone already:\n  backstop show 01M7SH8XYF6H0J2M4N8P7R3T1W\n"));
    }

    #[test]
    fn a_failure_shows_the_call_and_the_code_of_aws() {
        let mut record = record("remediation/open-ingress-remediated.json");
        let Record::Remediation(entry) = &mut record else {
            panic!("a remediation")
        };
        for outcome in &mut entry.detail.outcomes {
            outcome.ending = Ending::Failed {
                retryable: false,
                operation: "RevokeSecurityGroupIngress".into(),
                code: "UnauthorizedOperation".into(),
                message: "You are not authorized".into(),
            };
        }
        let shown = text(&record, true, None, None);
        for part in [
            "RevokeSecurityGroupIngress",
            "UnauthorizedOperation",
            "not authorized",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_remediation_and_its_undo_are_the_screens_in_the_documents() {
        for (screen, file) in [
            ("show", "remediation/open-ingress-remediated-narrowed.json"),
            (
                "show-encryption",
                "encryption/unencrypted-volume-remediated.json",
            ),
            (
                "show-patching",
                "patching/vulnerable-package-remediated.json",
            ),
            ("show-undo", "undo/open-ingress-undone.json"),
        ] {
            let record = record(file);
            screens::check(screen, |terminal| text(&record, true, None, terminal));
        }
    }
}
