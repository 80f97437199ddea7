//! `notify`: tells people what the ledger holds.
//!
//! Only wiring: the pipeline is in `handler.rs`, texts in `backstop-core`.

use backstop_aws::clients::Clients;
use backstop_aws::invocation;
use backstop_aws::settings::NotifySettings;
use backstop_aws::telemetry;
use lambda_runtime::Error;
use notify::Handler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = NotifySettings::read(&|name| std::env::var(name).ok())?;
    let handler = Handler::new(Clients::from_environment().await, settings);
    invocation::serve(async |event| handler.handle(event).await).await
}
