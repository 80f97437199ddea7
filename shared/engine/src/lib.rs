//! The engine: what every control that is remediated at once runs through. The
//! pipeline, its undo, the walk of the sweep, and the preview of the command line.
//!
//! A function lists the controls that it serves ([`serve`]), so that its binary
//! links only what these need and its role grants only that. Deliberately not
//! here: what is decided (`backstop-core`), how a call is made (`backstop-aws`).

use backstop_aws::clients::Clients;
use backstop_aws::invocation;
use backstop_aws::settings::RemediationSettings;
use backstop_aws::telemetry;
use lambda_runtime::Error;

mod pipeline;
mod preview;
mod served;
mod sweep;
mod undo;

pub use pipeline::{Engine, Failure};
pub use preview::{Previewed, Previewing, Progress};
pub use served::{AT_ONCE, Served, at_once};
pub use sweep::{Baseline, Walk, ask, check};
pub use undo::{UndoFailure, Undoing, in_progress};

/// Runs a function that serves these controls, until Lambda ends it.
///
/// # Errors
/// The environment is incomplete, or the runtime's API cannot be reached.
pub async fn serve(controls: &'static [&'static dyn Served]) -> Result<(), Error> {
    telemetry::init();
    let settings = RemediationSettings::read(&|name| std::env::var(name).ok())?;
    let engine = Engine::new(Clients::from_environment().await, settings, controls);
    invocation::serve(async |event| engine.handle(event).await).await
}
