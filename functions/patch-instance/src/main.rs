//! `patch-instance`: installs the patches that instances lack.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::{Clients, environment_config};
use backstop_aws::settings::PatchSettings;
use backstop_aws::telemetry;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use patch_instance::Handler;
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = PatchSettings::read(&|name| std::env::var(name).ok())?;
    let config = environment_config().await;
    let clients = Clients::patient_with_ec2(&config);
    let handler = Handler::new(clients, settings);
    run(service_fn(async |event: LambdaEvent<Value>| {
        handler.handle(event).await
    }))
    .await
}
