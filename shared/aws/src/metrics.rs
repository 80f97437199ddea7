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

/// What one run of a remediation function adds up to.
#[metrics(emf::dimension_sets = [["Control"]], rename_all = "PascalCase")]
#[derive(Debug)]
pub struct RunMetrics {
    #[metrics(timestamp)]
    timestamp: SystemTime,
    /// The control, by name: the one dimension.
    control: &'static str,
    /// 1 if the resource violates the control.
    pub findings: u64,
    /// 1 if a finding was put right, verified.
    pub remediations: u64,
    /// 1 if something failed.
    pub failures: u64,
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
    /// Resources looked at.
    pub looked_at: u64,
    /// Resources met before the event path did.
    pub met_first: u64,
}

/// Emits what a sweep added up to.
pub fn swept(unhealthy_checks: u64, looked_at: u64, met_first: u64) {
    attach();
    drop(
        SweepMetrics {
            timestamp: SystemTime::now(),
            unhealthy_checks,
            looked_at,
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
    RunMetrics {
        timestamp: SystemTime::now(),
        control,
        findings: 0,
        remediations: 0,
        failures: 0,
        time_to_closed: None,
    }
    .append_on_drop(ServiceMetrics::sink())
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
