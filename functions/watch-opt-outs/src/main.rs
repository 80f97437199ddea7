//! `watch-opt-outs`: tells who set or removed an opt-out, and has what lost one
//! looked at.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::Clients;
use backstop_aws::settings::WatchSettings;
use backstop_aws::telemetry;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;
use watch_opt_outs::Handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = WatchSettings::read(&|name| std::env::var(name).ok())?;
    let handler = Handler::new(Clients::from_environment().await, settings);
    run(service_fn(async |event: LambdaEvent<Value>| {
        handler.handle(event).await
    }))
    .await
}
