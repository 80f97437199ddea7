//! `revoke-ingress`: closes what a security group opens to the world.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::Clients;
use backstop_aws::settings::RemediationSettings;
use backstop_aws::telemetry;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use revoke_ingress::Handler;
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = RemediationSettings::read(&|name| std::env::var(name).ok())?;
    let handler = Handler::new(Clients::from_environment().await, settings);
    run(service_fn(async |event: LambdaEvent<Value>| {
        handler.handle(event).await
    }))
    .await
}
