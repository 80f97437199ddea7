//! `backstop replay`: which recorded calls Backstop would have looked at,
//! before anyone turns it on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use backstop_core::message::one_line;
use clap::Args;

use crate::Problem;
use crate::replay::Replayed;
use crate::table::{Format, table};

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
            Format::Table => print(&replayed),
        }
        Ok(ExitCode::from(if replayed.unreadable.is_empty() {
            0
        } else {
            2
        }))
    }
}

fn print(replayed: &Replayed) {
    let looked_at = replayed.looked_at.values().sum::<u64>() + replayed.opt_outs;
    let skipped = match replayed.skipped {
        0 => String::new(),
        skipped => format!(" ({skipped} other files skipped)"),
    };
    println!(
        "{} records in {} files{skipped}; {looked_at} would have been looked at{}",
        replayed.records,
        replayed.files,
        match (&replayed.first, &replayed.last) {
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        }
    );
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
        list(heading, counts);
    }
}

fn list(heading: &str, counts: &BTreeMap<String, u64>) {
    if counts.is_empty() {
        return;
    }
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut table = table(&[heading, "calls"]);
    for (name, count) in sorted.iter().take(MOST_LINES) {
        table.add_row(vec![one_line(name, 120), count.to_string()]);
    }
    println!("{table}");
    if sorted.len() > MOST_LINES {
        println!("and {} more", sorted.len() - MOST_LINES);
    }
}
