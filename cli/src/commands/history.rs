//! `backstop history`: the ledger's entries, the latest first.

use std::process::ExitCode;

use backstop_aws::ledger::{Ledger, Stored};
use backstop_aws::security_groups;
use backstop_core::account_setting::AccountSetting;
use backstop_core::controls;
use backstop_core::message::one_line;
use backstop_core::plan::{Ending, Outcome};
use backstop_core::record::Record;
use backstop_core::words::ControlId;
use clap::Args;
use clap::builder::PossibleValuesParser;
use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::{Value, json};

use crate::Problem;
use crate::context::{Aws, Context};
use crate::table::{Format, Table, bad, doubtful, good, table};

/// How many days back entries are looked for without a resource: as long as
/// they are kept.
const MOST_DAYS: i64 = 400;

/// Shows the ledger's entries, the latest first.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only about this resource: its id or ARN, or the control of an account's setting
    resource: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 20, value_parser = at_least_one)]
    limit: usize,
    /// Only what began since then: a day (UTC) as `2026-11-24`, a time as
    /// `2026-11-24T10:00:00Z`, or so long ago as `12h` or `7d`
    #[arg(long, value_parser = Since::parse)]
    since: Option<Since>,
    /// Only with this outcome; may be given several times
    #[arg(long, value_parser = PossibleValuesParser::new(Record::outcomes()))]
    outcome: Vec<String>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How many entries; none would read like nothing happened.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it has to be a number from 1 on".to_owned()),
        Ok(limit) => Ok(limit),
    }
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Then(Timestamp),
    Ago(SignedDuration),
}

impl Since {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::Then(at));
        }
        if let Ok(day) = text.parse::<Date>()
            && let Ok(at) = Offset::UTC.to_timestamp(day.at(0, 0, 0, 0))
        {
            return Ok(Self::Then(at));
        }
        let number = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
        let hours = number
            .parse::<u32>()
            .ok()
            .and_then(|number| match text.chars().last() {
                Some('h') => Some(i64::from(number)),
                Some('d') => Some(24 * i64::from(number)),
                _ => None,
            });
        hours
            .map(|hours| Self::Ago(SignedDuration::from_hours(hours)))
            .ok_or_else(|| {
                "it has to be a day like 2026-11-24, a time like 2026-11-24T10:00:00Z, or 12h or 7d"
                    .to_owned()
            })
    }

    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Then(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        }
    }
}

/// What was read so far.
struct Read {
    rows: Table,
    documents: Vec<Value>,
    /// Whether an entry could not be read.
    unreadable: bool,
}

impl Read {
    fn new() -> Self {
        Self {
            rows: table(&["entry", "began", "outcome", "resource", "what", "sent"]),
            documents: Vec::new(),
            unreadable: false,
        }
    }
}

impl History {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let ledger = aws.ledger(&stack)?;
        let now = aws.clients.clock.now();
        let since = self.since.map_or(Timestamp::MIN, |since| since.at(now));
        let mut read = Read::new();
        if let Some(resource) = &self.resource {
            let ids = about(&aws, &ledger, resource).await?;
            if ids.is_empty() {
                if self.format == Format::Json {
                    println!("[]");
                }
                return Err(aws.not_found(&format!("a ledger entry about `{resource}`")));
            }
            self.read(&ledger, &ids, since, &mut read).await;
        } else {
            let mut day = Offset::UTC.to_datetime(now).date();
            let first = Offset::UTC.to_datetime(since).date();
            for _ in 0..MOST_DAYS {
                let ids = ledger.records_on(day).await?;
                self.read(&ledger, &ids, since, &mut read).await;
                match day.checked_sub(1.day()) {
                    Ok(before) if read.documents.len() < self.limit && before >= first => {
                        day = before;
                    }
                    _ => break,
                }
            }
        }
        match self.format {
            Format::Json => println!("{}", json!(read.documents)),
            Format::Table if !read.rows.is_empty() => println!("{}", read.rows),
            Format::Table if read.unreadable => {}
            Format::Table => println!(
                "no ledger entry matches ({}, stack {})",
                aws.place(),
                stack.name
            ),
        }
        Ok(ExitCode::from(if read.unreadable { 2 } else { 0 }))
    }

    /// Reads entries, the latest first, until there are as many as were asked for.
    async fn read(&self, ledger: &Ledger, ids: &[String], since: Timestamp, read: &mut Read) {
        for id in ids {
            if read.documents.len() >= self.limit {
                return;
            }
            match ledger.read_with_undo(id).await {
                Ok(Some((stored, undone_by))) => self.add(id, &stored, undone_by, since, read),
                Ok(None) => {}
                Err(problem) => {
                    read.unreadable = true;
                    eprintln!("backstop: {problem}");
                }
            }
        }
    }

    fn add(
        &self,
        id: &str,
        Stored { record, told }: &Stored,
        undone_by: Option<String>,
        since: Timestamp,
        read: &mut Read,
    ) {
        let outcome = record.outcome();
        let wanted = self.outcome.is_empty() || self.outcome.iter().any(|of| of == outcome);
        if !wanted || record.started_at() < since {
            return;
        }
        let what = match &undone_by {
            Some(undo) => format!("{} (undone by {undo})", what(record)),
            None => what(record),
        };
        let cell = match outcome {
            "failed" | "undo-failed" | "tripped" | "control-tripped" => bad(outcome),
            "remediated" | "undone" => good(outcome),
            _ => doubtful(outcome),
        };
        let began = record.started_at().strftime("%Y-%m-%d %H:%M:%S");
        read.rows.add_row(vec![
            id.into(),
            began.to_string().into(),
            cell,
            one_line(resource(record), 80).into(),
            one_line(&what, 200).into(),
            if *told { good("yes") } else { bad("no") },
        ]);
        let document = json!({ "told": told, "undone_by": undone_by, "record": record });
        read.documents.push(document);
    }
}

/// The ids of the entries about a resource, the latest first.
async fn about(aws: &Aws, ledger: &Ledger, resource: &str) -> Result<Vec<String>, Problem> {
    if resource.starts_with("arn:") {
        return Ok(ledger.records_of(resource).await?);
    }
    let arn = arn(resource, &aws.region, &aws.account);
    let mut ids = ledger.records_of(&arn).await?;
    // Notices are about ids.
    ids.extend(ledger.records_of(resource).await?);
    ids.sort_by(|a, b| b.cmp(a));
    Ok(ids)
}

/// The ARN of a resource of this account, or of one of its settings by its control.
fn arn(id: &str, region: &str, account: &str) -> String {
    match ControlId::from_name(id) {
        Some(control) if control.is_of_account() => {
            let partition = security_groups::partition(region);
            AccountSetting::new(id, partition, region, account, ()).arn
        }
        _ => security_groups::arn(region, account, id),
    }
}

fn resource(record: &Record) -> &str {
    match record {
        Record::Remediation(entry) => entry.resource_id(),
        Record::Encryption(run) => run.resource_id(),
        Record::Patching(run) => run.resource_id(),
        Record::Undo(undo) => undo.resource_id(),
        Record::Notice(_) => "-",
    }
}

/// The first few, and how many more there are.
fn joined(cves: &[&str]) -> String {
    const FEW: usize = 5;
    let few: Vec<&str> = cves.iter().take(FEW).copied().collect();
    match cves.len().saturating_sub(FEW) {
        0 => few.join(", "),
        more => format!("{} and {more} more", few.join(", ")),
    }
}

/// The call that failed in the last round, with AWS's code, and a semicolon; empty:
/// none did. It comes first: a line is cut.
fn failed_call(outcomes: &[Outcome]) -> String {
    let last = outcomes.iter().map(|outcome| outcome.round).max();
    let outcomes = outcomes
        .iter()
        .filter(|outcome| Some(outcome.round) == last);
    let mut failed = outcomes.filter_map(|outcome| match &outcome.ending {
        Ending::Failed {
            operation, code, ..
        } => Some(format!("{operation}: {code}; ")),
        Ending::Done | Ending::AlreadyDone | Ending::Skipped { .. } => None,
    });
    failed.next().unwrap_or_default()
}

/// What it is about, in a few words.
fn what(record: &Record) -> String {
    match record {
        Record::Remediation(entry) => {
            let control = controls::of(entry.head.control);
            let exposures = entry.detail.exposures.iter();
            let mut exposed: Vec<String> = exposures
                .map(|e| {
                    control
                        .and_then(|c| c.found(e))
                        .unwrap_or_else(|| e.item.clone())
                })
                .collect();
            exposed.dedup();
            // A caller's ARN, or how else it was found.
            let actor = &entry.head.actor;
            let by = actor
                .caller()
                .unwrap_or_else(|| "caller unknown".to_owned());
            let failed = failed_call(&entry.detail.outcomes);
            format!("{failed}{} ({by})", exposed.join("; "))
        }
        Record::Encryption(run) => {
            let volumes: Vec<&str> = run.detail.volumes.iter().map(|v| v.id.as_str()).collect();
            let what = match &run.detail.undoes {
                Some(undone) => format!("undoes {undone}: {}", volumes.join(", ")),
                None => volumes.join(", "),
            };
            let parts = [Some(what), run.detail.reasons.last().cloned()];
            let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join("; ")
        }
        Record::Patching(run) => {
            let cves: Vec<&str> = run
                .detail
                .findings
                .iter()
                .flat_map(|finding| finding.cves.first())
                .map(String::as_str)
                .collect();
            let before = run.detail.before.as_ref();
            let mut what: Vec<String> = before
                .map(|state| format!("{} patches missing", state.missing))
                .into_iter()
                .collect();
            // What somebody looks for whose instance broke comes first: a line is
            // cut.
            what.extend(run.detail.reasons.last().cloned());
            if !run.detail.snapshots.is_empty() {
                what.push(format!("snapshots {}", run.detail.snapshots.join(", ")));
            }
            what.extend(
                run.detail
                    .command
                    .as_ref()
                    .map(|sent| format!("command {}", sent.id)),
            );
            if !cves.is_empty() {
                what.push(joined(&cves));
            }
            what.join("; ")
        }
        Record::Undo(undo) => {
            let by = undo.by.as_ref();
            let by = by.map_or_else(String::new, |by| format!(", asked by {by}"));
            let failed = failed_call(&undo.outcomes);
            format!("{failed}undoes {}{by}: {}", undo.undoes, undo.reason)
        }
        Record::Notice(notice) => notice.subject(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screens::{self, record};

    #[test]
    fn a_patching_is_told_by_its_patches_its_cves_its_command_and_why() {
        let of = |more: serde_json::Value| {
            let mut run = json!({
                "kind": "patching", "version": 1, "id": "01K00000000000000000000000",
                "control": "vulnerable-package", "severity": "critical", "actor": {},
                "resource": "arn:aws:ec2:eu-central-1:111122223333:instance/i-1",
                "resource_name": "web-1", "account": "111122223333", "region": "eu-central-1",
                "status": "awaiting-rescan", "operation": "install", "reboot": "never",
                "policy_version": 1, "attempts": 1, "started_at": "2026-11-24T10:00:00Z",
            });
            let fields = more.as_object().unwrap().clone();
            run.as_object_mut().unwrap().extend(fields);
            Record::parse(&run.to_string()).unwrap()
        };
        let finding = |n: u32| {
            json!({
                "arn": format!("arn-{n}"), "severity": "high", "title": "t", "packages": [],
                "cves": [format!("CVE-2026-{n}")],
            })
        };
        let installed = of(json!({
            "findings": (1..=7).map(finding).collect::<Vec<_>>(),
            "before": {"operation": "Scan", "missing": 3, "failed": 0, "pending_reboot": 0},
            "command": {"id": "c-1", "at": "2026-11-24T10:01:00Z", "ended": "Success"},
            "snapshots": ["snap-1", "snap-2"],
            "reasons": ["first", "last"],
        }));
        assert_eq!(
            what(&installed),
            "3 patches missing; last; snapshots snap-1, snap-2; command c-1; CVE-2026-1, CVE-2026-2, CVE-2026-3, CVE-2026-4, CVE-2026-5 and 2 more"
        );
        assert_eq!(resource(&installed), "i-1");
        let told = of(json!({"reasons": ["Systems Manager cannot reach it"]}));
        assert_eq!(what(&told), "Systems Manager cannot reach it");
    }

    #[test]
    fn an_id_leads_to_the_arn_that_records_have() {
        for (id, expected) in [
            (
                "sg-1",
                "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-1",
            ),
            (
                "vol-1",
                "arn:aws:ec2:eu-central-1:111122223333:volume/vol-1",
            ),
            ("snap-1", "arn:aws:ec2:eu-central-1::snapshot/snap-1"),
            ("ami-1", "arn:aws:ec2:eu-central-1::image/ami-1"),
            (
                "serial-console",
                "arn:aws:ec2:eu-central-1:111122223333:serial-console/eu-central-1",
            ),
        ] {
            assert_eq!(arn(id, "eu-central-1", "111122223333"), expected);
        }
    }

    #[test]
    fn since_is_a_day_a_time_or_so_long_ago() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-24T10:00:00Z");
        for (text, expected) in [
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20T08:30:00Z", "2026-11-20T08:30:00Z"),
            ("12h", "2026-11-23T22:00:00Z"),
            ("7d", "2026-11-17T10:00:00Z"),
        ] {
            assert_eq!(Since::parse(text).unwrap().at(now), at(expected), "{text}");
        }
        for wrong in ["", "d", "7", "7w", "yesterday", "-1d", "ä"] {
            assert!(Since::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_entry_at_all_cannot_be_asked_for() {
        assert!(at_least_one("0").is_err() && at_least_one("").is_err());
        assert_eq!(at_least_one("1"), Ok(1));
    }

    fn stored(fixture: &str) -> serde_json::Value {
        let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
        fixture["document"].clone()
    }

    #[test]
    fn who_opened_it_stands_in_brackets_and_nothing_begins_with_a_semicolon() {
        let mut document = stored(include_str!(
            "../../../shared/aws/tests/stored/remediation/open-ingress-held.json"
        ));
        document["actor"]["principal"] =
            json!("found by Backstop's sweep; who opened it is not known");
        let told = what(&Record::parse(&document.to_string()).unwrap());
        let by = " (found by Backstop's sweep; who opened it is not known)";
        assert!(told.ends_with(by), "{told}");
        document["actor"] = json!({});
        let told = what(&Record::parse(&document.to_string()).unwrap());
        assert!(told.ends_with(" (caller unknown)"), "{told}");

        let setting = stored(include_str!(
            "../../../shared/aws/tests/stored/encryption/encryption-by-default-notified.json"
        ));
        let record = Record::parse(&setting.to_string()).unwrap();
        assert_eq!(what(&record), "the mode is `notify`");
    }

    #[test]
    fn the_call_that_failed_stands_first_with_its_code_unless_it_succeeded_later() {
        let Record::Remediation(mut entry) = record("remediation/open-ingress-failed.json") else {
            panic!("a remediation")
        };
        let failed = "RevokeSecurityGroupIngress: UnauthorizedOperation; tcp 22 from 0.0.0.0/0";
        let told = what(&Record::Remediation(entry.clone()));
        assert!(told.starts_with(failed), "{told}");
        let mut again = entry.detail.outcomes[0].clone();
        (again.round, again.ending) = (again.round + 1, Ending::Done);
        entry.detail.outcomes.push(again);
        let told = what(&Record::Remediation(entry));
        assert!(told.starts_with("tcp 22 from 0.0.0.0/0"), "{told}");
    }

    #[test]
    fn entries_of_every_kind_are_the_screen_in_the_documents() {
        let asked = History {
            resource: None,
            limit: 20,
            since: None,
            outcome: Vec::new(),
            format: Format::Table,
        };
        let mut read = Read::new();
        let mut records: Vec<Record> = [
            "remediation/imdsv1-pending-still-used.json",
            "remediation/public-snapshot-remediated.json",
            "remediation/default-security-group-notified-in-use.json",
            "remediation/open-ingress-remediated.json",
            "patching/vulnerable-package-remediated.json",
            "encryption/unencrypted-volume-remediated.json",
            "undo/open-ingress-undone.json",
            "remediation/open-ingress-failed.json",
            "notice/control-tripped-open-ingress.json",
        ]
        .map(record)
        .into();
        records.sort_by_key(|record| std::cmp::Reverse(record.started_at()));
        for record in records {
            let id = record.id().to_owned();
            let stored = Stored { record, told: true };
            asked.add(&id, &stored, None, Timestamp::MIN, &mut read);
        }
        screens::check("history", |terminal| read.rows.print(terminal) + "\n");
    }
}
