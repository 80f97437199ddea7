//! Structured logs: JSON lines with ids and verdicts, never whole events.

/// Starts logging to standard output, in the format and at the level that the
/// function's logging configuration names (Lambda sets them in the
/// environment).
pub fn init() {
    lambda_runtime::tracing::init_default_subscriber();
}
