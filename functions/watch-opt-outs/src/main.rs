//! `watch-opt-outs`: tells who set or removed an opt-out, and has what lost one
//! looked at.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::Clients;
use backstop_aws::invocation;
use backstop_aws::settings::WatchSettings;
use backstop_aws::telemetry;
use lambda_runtime::Error;
use watch_opt_outs::Handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = WatchSettings::read(&|name| std::env::var(name).ok())?;
    let handler = Handler::new(Clients::from_environment().await, settings);
    invocation::serve(async |event| handler.handle(event).await).await
}
