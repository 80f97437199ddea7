//! Metrics in CloudWatch's embedded format, by the library made for it: a
//! JSON line on standard output that CloudWatch turns into metrics.

use std::sync::Once;
use std::time::{Duration, SystemTime};

use metrique::ServiceMetrics;
use metrique::emf::Emf;
use metrique::unit::Millisecond;
use metrique::unit_of_work::metrics;
use metrique::writer::{AttachGlobalEntrySinkExt, FormatExt, GlobalEntrySink};

/// CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "Backstop";

/// What one run of a remediation function adds up to. What did not happen is left
/// out: CloudWatch charges a metric for each hour in which it gets a value, zero too.
#[metrics(emf::dimension_sets = [["Control"]], rename_all = "PascalCase")]
#[derive(Debug)]
pub struct RunMetrics {
    #[metrics(timestamp)]
    timestamp: SystemTime,
    /// The control, by name: the one dimension.
    control: &'static str,
    /// 1 if the resource violates the control.
    pub findings: Option<u64>,
    /// 1 if a finding was put right, verified.
    pub remediations: Option<u64>,
    /// 1 if something failed.
    pub failures: Option<u64>,
    /// From the event to the closed hole; only for what was put right.
    #[metrics(unit = Millisecond)]
    pub time_to_closed: Option<Duration>,
}

/// What a sweep adds up to. It has no dimension: there is one sweep.
#[metrics(emf::dimension_sets = [[]], rename_all = "PascalCase")]
#[derive(Debug)]
pub struct SweepMetrics {
    #[metrics(timestamp)]
    timestamp: SystemTime,
    /// Checks of Backstop itself that failed.
    pub unhealthy_checks: u64,
    /// Resources met before the event path did.
    pub met_first: u64,
}

/// Emits what a sweep added up to.
pub fn swept(unhealthy_checks: u64, met_first: u64) {
    attach();
    drop(
        SweepMetrics {
            timestamp: SystemTime::now(),
            unhealthy_checks,
            met_first,
        }
        .append_on_drop(ServiceMetrics::sink()),
    );
}

/// How many controls have tripped everywhere. It has no dimension, so that one alarm
/// sees all of them.
#[metrics(emf::dimension_sets = [[]], rename_all = "PascalCase")]
#[derive(Debug)]
pub struct TripMetrics {
    #[metrics(timestamp)]
    timestamp: SystemTime,
    /// Controls that change nothing until a person re-arms them.
    pub tripped_controls: u64,
}

/// Emits how many controls have tripped: as one trips (then it is at least that
/// one), and by every sweep, with 0 once all are re-armed.
pub fn tripped(tripped_controls: u64) {
    attach();
    drop(
        TripMetrics {
            timestamp: SystemTime::now(),
            tripped_controls,
        }
        .append_on_drop(ServiceMetrics::sink()),
    );
}

/// Emits what it counted when dropped, on every path.
pub type RunMetricsOnDrop = RunMetricsGuard;

/// Starts counting for a run. What is counted is emitted when the value is
/// dropped.
pub fn run(control: &'static str) -> RunMetricsOnDrop {
    attach();
    nothing_yet(control).append_on_drop(ServiceMetrics::sink())
}

fn nothing_yet(control: &'static str) -> RunMetrics {
    RunMetrics {
        timestamp: SystemTime::now(),
        control,
        findings: None,
        remediations: None,
        failures: None,
        time_to_closed: None,
    }
}

/// Directs metrics to standard output, once.
fn attach() {
    static ATTACH: Once = Once::new();
    ATTACH.call_once(|| {
        let handle = ServiceMetrics::write_directly_to(
            Emf::builder(NAMESPACE.to_owned(), vec![vec![]])
                .build()
                .output_to_makewriter(|| std::io::stdout().lock()),
        );
        handle.forget();
    });
}

#[cfg(test)]
mod tests {
    use metrique::writer::EntryIoStream;
    use metrique::{CloseValue, RootEntry};

    use super::*;

    #[test]
    fn what_did_not_happen_is_no_metric() {
        let line = |run: RunMetrics| {
            let mut line = Vec::new();
            let mut stream = Emf::builder(NAMESPACE.to_owned(), vec![vec![]])
                .build()
                .output_to(&mut line);
            stream.next(&RootEntry::new(run.close())).unwrap();
            String::from_utf8(line).unwrap()
        };
        let nothing = line(nothing_yet("open-ingress"));
        assert!(nothing.contains(r#""Metrics":[]"#), "{nothing}");
        let found = line(RunMetrics {
            findings: Some(1),
            ..nothing_yet("open-ingress")
        });
        assert!(found.contains(r#""Findings":1"#), "{found}");
        assert!(!found.contains("Failures"), "{found}");
    }
}
