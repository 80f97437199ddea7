//! `sweep`: looks at everything that events may have missed.
//!
//! Only wiring: the pipeline is in `handler.rs`, decisions in `backstop-core`,
//! AWS calls in `backstop-aws`.

use backstop_aws::clients::{Clients, OperationsClients, environment_config};
use backstop_aws::invocation;
use backstop_aws::settings::SweepSettings;
use backstop_aws::telemetry;
use lambda_runtime::Error;
use sweep::Handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = SweepSettings::read(&|name| std::env::var(name).ok())?;
    let config = environment_config().await;
    let handler = Handler::new(
        Clients::patient_with_ec2(&config),
        OperationsClients::new(&config),
        settings,
    );
    invocation::serve(async |event| handler.handle(event).await).await
}
