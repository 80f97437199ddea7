//! `scripts/measure`: init time, memory and package size of a function beside
//! a bare `lambda_runtime` echo of the same profile, measured in one run.
//!
//! Init is from the start of the process to its first request for an event
//! (`GET …/invocation/next`), on a Runtime API of our own on loopback. The two
//! binaries take turns, so that a drifting machine moves both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstop_tests::runtime_api::Function;

/// Counted runs of each binary; one more of each comes first, uncounted.
const RUNS: usize = 31;

struct Run {
    init: Duration,
    /// Peak resident memory at that moment, in kilobytes.
    peak: u64,
}

fn main() {
    let folder = PathBuf::from(
        std::env::args()
            .nth(1)
            .expect("usage: measure <folder of the binaries>"),
    );
    let (subject, bare) = (folder.join("revoke-ingress"), folder.join("echo"));
    let (mut ours, mut echo) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let pair = (start(&subject), start(&bare));
        if run > 0 {
            ours.push(pair.0);
            echo.push(pair.1);
        }
    }
    println!("{RUNS} runs each, taking turns; median (lowest to highest)");
    println!("| | revoke-ingress | bare echo | ratio |");
    println!("| --- | --- | --- | --- |");
    let milliseconds = |runs: &[Run]| sorted(runs.iter().map(|run| run.init.as_secs_f64() * 1e3));
    row("init, ms", milliseconds(&ours), milliseconds(&echo));
    let megabytes = |runs: &[Run]| sorted(runs.iter().map(|run| run.peak as f64 / 1024.0));
    row(
        "peak memory at init, MB",
        megabytes(&ours),
        megabytes(&echo),
    );
    let size = |path: &Path| vec![std::fs::metadata(path).unwrap().len() as f64 / 1e6];
    row("binary, MB", size(&subject), size(&bare));
    row(
        "package (deflated), MB",
        vec![packed(&subject)],
        vec![packed(&bare)],
    );
}

fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn row(name: &str, ours: Vec<f64>, echo: Vec<f64>) {
    let text = |numbers: &[f64]| match numbers {
        [one] => format!("{one:.2}"),
        many => format!(
            "{:.2} ({:.2} to {:.2})",
            median(many),
            many[0],
            many[many.len() - 1]
        ),
    };
    println!(
        "| {name} | {} | {} | {:.2} |",
        text(&ours),
        text(&echo),
        median(&ours) / median(&echo)
    );
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Starts a function and measures until it asks for its first event.
fn start(binary: &Path) -> Run {
    let function = Function::start(
        binary,
        &[
            ("LEDGER_TABLE", "ledger"),
            ("POLICY_PARAMETER", "/p"),
            ("DEFAULT_MODE", "notify"),
            ("OWNER_TAG_KEY", "owner"),
        ],
    );
    let init = function.initialised();
    Run {
        init,
        peak: function.peak(),
    }
}

/// The binary as a Lambda package holds it, deflated, in megabytes.
fn packed(binary: &Path) -> f64 {
    let mut gzip = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&std::fs::read(binary).unwrap()).unwrap();
    gzip.finish().unwrap().len() as f64 / 1e6
}
