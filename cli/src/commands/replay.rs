//! `backstop replay`: which recorded calls Backstop would have looked at,
//! before anyone turns it on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use backstop_core::message::{counted, one_line};
use clap::Args;

use crate::Problem;
use crate::replay::Replayed;
use crate::table::{Format, Page, table, terminal_width};

/// How many lines a list has at most.
const MOST_LINES: usize = 20;

/// Shows which calls in CloudTrail's records Backstop would look at.
///
/// Reads CloudTrail's log files, what `aws cloudtrail lookup-events` answers, lists
/// of records, a record per line, and events that EventBridge archived; each also
/// as gzip.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Files with records, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Replay {
    pub(crate) fn run(self) -> Result<ExitCode, Problem> {
        let mut replayed = Replayed::default();
        let found = replayed.files(&self.paths);
        if found.is_empty() && replayed.unreadable.is_empty() {
            return Err(Problem(
                "there is no log file under what was named".to_owned(),
            ));
        }
        for input in &found {
            replayed.file(input);
        }
        for sentence in replayed.unreadable.iter().chain(&replayed.hints) {
            eprintln!("backstop: {sentence}");
        }
        if replayed.more_unreadable > 0 {
            eprintln!("backstop: and {} more", replayed.more_unreadable);
        }
        if replayed.files == 0 && replayed.unreadable.is_empty() {
            return Err(Problem(format!(
                "none of the files ({}) holds a record of CloudTrail",
                found.len()
            )));
        }
        match self.format {
            Format::Json => println!("{}", serde_json::json!(replayed)),
            Format::Table => print!("{}", text(&replayed, terminal_width())),
        }
        Ok(ExitCode::from(if replayed.unreadable.is_empty() {
            0
        } else {
            2
        }))
    }
}

/// What was replayed, for people, as it fits a terminal of so many columns.
fn text(replayed: &Replayed, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    let looked_at = replayed.looked_at.values().sum::<u64>() + replayed.opt_outs;
    let many = |count, what| counted(usize::try_from(count).unwrap_or(usize::MAX), what);
    let skipped = match replayed.skipped {
        0 => String::new(),
        skipped => format!(" ({skipped} other files skipped)"),
    };
    page.line(&format!(
        "{} in {}{skipped}; {looked_at} would have been looked at{}",
        many(replayed.records, "record"),
        many(replayed.files, "file"),
        match (&replayed.first, &replayed.last) {
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        }
    ));
    let looked_at = replayed.looked_at.iter().map(|(c, n)| (c.to_string(), *n));
    let opt_outs = ("opt-outs set or removed".to_owned(), replayed.opt_outs);
    let opt_outs = Some(opt_outs).filter(|(_, calls)| *calls > 0);
    let controls = looked_at.chain(opt_outs).collect();
    for (heading, counts) in [
        ("control", &controls),
        ("call", &replayed.calls),
        ("who", &replayed.actors),
        ("resource", &replayed.resources),
        ("ignored, because", &replayed.ignored),
    ] {
        list(&mut page, heading, counts);
    }
    page.into_text()
}

fn list(page: &mut Page, heading: &str, counts: &BTreeMap<String, u64>) {
    if counts.is_empty() {
        return;
    }
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut table = table(&[heading, "calls"]);
    for (name, count) in sorted.iter().take(MOST_LINES) {
        table.add_row(vec![one_line(name, 120), count.to_string()]);
    }
    page.table(&table);
    if sorted.len() > MOST_LINES {
        page.line(&format!("and {} more", sorted.len() - MOST_LINES));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screens;

    #[test]
    fn records_of_a_day_are_the_screen_in_the_documents() {
        let record = |at: &str, call: &str, user: &str, group: &str| {
            json!({
                "eventVersion": "1.11", "eventSource": "ec2.amazonaws.com", "eventName": call,
                "eventTime": at, "awsRegion": "eu-central-1", "eventID": "e",
                "recipientAccountId": "111122223333",
                "userIdentity": { "arn": format!("arn:aws:iam::111122223333:user/{user}") },
                "requestParameters": { "groupId": group },
            })
        };
        let (web, db) = ("sg-0a3f5c7e91b2d4f60", "sg-0b4e6d8fa2c3e5071");
        let records = json!({ "Records": [
            record("2026-11-24T08:12:00Z", "AuthorizeSecurityGroupIngress", "jo", web),
            record("2026-11-24T09:30:00Z", "AuthorizeSecurityGroupIngress", "jo", db),
            record("2026-11-24T11:05:00Z", "ModifySecurityGroupRules", "al", web),
            record("2026-11-24T11:06:00Z", "DescribeVpcs", "al", web),
        ]});
        let folder = std::env::temp_dir().join(format!("backstop-screen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("day.json");
        std::fs::write(&file, records.to_string()).unwrap();
        let mut replayed = Replayed::default();
        for input in &replayed.files(&[file]) {
            replayed.file(input);
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(replayed.unreadable.is_empty(), "{:?}", replayed.unreadable);
        assert_eq!(replayed.records, 4);
        screens::check("replay", |terminal| text(&replayed, terminal));
    }
}
