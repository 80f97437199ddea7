//! `backstop replay`: which recorded calls Backstop would have looked at,
//! before anyone turns it on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use backstop_core::message::one_line;
use clap::Args;

use crate::Problem;
use crate::replay::{Replayed, files, read};
use crate::table::{Format, table};

/// How many lines a list has at most.
const MOST_LINES: usize = 20;

/// Shows which calls in CloudTrail's log files Backstop would look at.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Log files (.json, .json.gz), or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Replay {
    pub(crate) fn run(self) -> Result<ExitCode, Problem> {
        let mut replayed = Replayed::default();
        let found = files(&self.paths, &mut replayed.unreadable);
        if found.is_empty() && replayed.unreadable.is_empty() {
            return Err(Problem(
                "there is no log file (.json, .json.gz) under what was named".to_owned(),
            ));
        }
        for file in found {
            match read(&file) {
                Ok(records) => {
                    replayed.files += 1;
                    for (n, record) in records.into_iter().enumerate() {
                        let place = format!("{}, record {}", file.display(), n + 1);
                        replayed.record(&place, record);
                    }
                }
                Err(problem) => replayed.unreadable.push(problem),
            }
        }
        for problem in &replayed.unreadable {
            eprintln!("backstop: {problem}");
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
    let looked_at: u64 = replayed.looked_at.values().sum();
    println!(
        "{} records in {} files; {looked_at} would have been looked at{}",
        replayed.records,
        replayed.files,
        match (&replayed.first, &replayed.last) {
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        }
    );
    let controls = replayed
        .looked_at
        .iter()
        .map(|(c, n)| (c.to_string(), *n))
        .collect();
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
