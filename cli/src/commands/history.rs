//! `backstop history`: the ledger's entries, the latest first.

use std::process::ExitCode;

use backstop_aws::ledger::{Ledger, Stored};
use backstop_core::controls;
use backstop_core::message::one_line;
use backstop_core::record::Record;
use clap::Args;
use jiff::ToSpan;
use jiff::tz::Offset;
use serde_json::json;

use crate::Problem;
use crate::context::{Aws, Context};
use crate::table::{Format, bad, doubtful, good, table};

/// How many days back entries are looked for without a resource: as long as
/// they are kept.
const MOST_DAYS: i64 = 400;

/// Shows the ledger's entries, the latest first.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only about this resource: its id or ARN
    resource: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl History {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let ledger = aws.ledger(&stack)?;
        let ids = self.ids(&aws, &ledger).await?;
        let mut table = table(&["entry", "began", "outcome", "resource", "what", "told"]);
        let mut documents = Vec::new();
        let mut unreadable = 0_u8;
        for id in &ids {
            match ledger.read_with_undo(id).await {
                Ok(Some((Stored { record, told }, undone_by))) => {
                    let what = match &undone_by {
                        Some(undo) => format!("{} (taken back by {undo})", what(&record)),
                        None => what(&record),
                    };
                    let outcome = record.outcome();
                    let cell = match outcome {
                        "failed" | "undo-failed" | "tripped" | "control-tripped" => bad(outcome),
                        "remediated" | "undone" => good(outcome),
                        _ => doubtful(outcome),
                    };
                    table.add_row(vec![
                        id.into(),
                        record
                            .started_at()
                            .strftime("%Y-%m-%d %H:%M:%S")
                            .to_string()
                            .into(),
                        cell,
                        one_line(resource(&record), 80).into(),
                        one_line(&what, 200).into(),
                        if told { good("yes") } else { bad("no") },
                    ]);
                    documents
                        .push(json!({ "told": told, "undone_by": undone_by, "record": record }));
                }
                Ok(None) => {}
                Err(problem) => {
                    unreadable = 2;
                    eprintln!("backstop: {problem}");
                }
            }
        }
        match self.format {
            Format::Json => println!("{}", json!(documents)),
            Format::Table if documents.is_empty() => println!("no ledger entries found"),
            Format::Table => println!("{table}"),
        }
        Ok(ExitCode::from(unreadable))
    }

    async fn ids(&self, aws: &Aws, ledger: &Ledger) -> Result<Vec<String>, Problem> {
        let mut ids = match &self.resource {
            Some(arn) if arn.starts_with("arn:") => ledger.records_of(arn).await?,
            Some(id) => {
                let arn = self.arn(aws, id).await?;
                let mut ids = ledger.records_of(&arn).await?;
                // Notices are about ids.
                ids.extend(ledger.records_of(id).await?);
                ids.sort_by(|a, b| b.cmp(a));
                ids
            }
            None => {
                let today = Offset::UTC.to_datetime(aws.clients.clock.now()).date();
                let (mut ids, mut day) = (Vec::new(), today);
                for _ in 0..MOST_DAYS {
                    ids.extend(ledger.records_on(day).await?);
                    match day.checked_sub(1.day()) {
                        Ok(before) if ids.len() < self.limit => day = before,
                        _ => break,
                    }
                }
                ids
            }
        };
        ids.truncate(self.limit);
        Ok(ids)
    }

    /// The ARN of a resource of this account.
    async fn arn(&self, aws: &Aws, id: &str) -> Result<String, Problem> {
        let account = aws.account().await?;
        Ok(backstop_aws::security_groups::arn(
            &aws.region,
            &account,
            id,
        ))
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
            format!("{} ({by})", exposed.join("; "))
        }
        Record::Encryption(run) => {
            let volumes: Vec<&str> = run.detail.volumes.iter().map(|v| v.id.as_str()).collect();
            let what = match &run.detail.undoes {
                Some(undone) => format!("takes {undone} back: {}", volumes.join(", ")),
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
        Record::Undo(undo) => format!(
            "takes {} back, for {}: {}",
            undo.undoes,
            undo.by.as_deref().unwrap_or("somebody"),
            undo.reason
        ),
        Record::Notice(notice) => notice.subject(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
