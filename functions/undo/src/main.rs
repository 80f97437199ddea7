//! `undo`: takes a remediation back.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::{Clients, EncryptionClients, environment_config};
use backstop_aws::settings::UndoSettings;
use backstop_aws::telemetry;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;
use undo::Handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = UndoSettings::read(&|name| std::env::var(name).ok())?;
    let config = environment_config().await;
    let clients = Clients::patient_with_ec2(&config);
    let handler = Handler::new(clients, EncryptionClients::new(&config), settings);
    run(service_fn(async |event: LambdaEvent<Value>| {
        handler.handle(event).await
    }))
    .await
}
