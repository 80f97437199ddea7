//! `patch-instance`: installs the patches that instances lack.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::{Clients, environment_config};
use backstop_aws::invocation;
use backstop_aws::settings::PatchSettings;
use backstop_aws::telemetry;
use lambda_runtime::Error;
use patch_instance::Handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = PatchSettings::read(&|name| std::env::var(name).ok())?;
    let config = environment_config().await;
    let clients = Clients::patient_with_ec2(&config);
    let handler = Handler::new(clients, settings);
    invocation::serve(async |event| handler.handle(event).await).await
}
