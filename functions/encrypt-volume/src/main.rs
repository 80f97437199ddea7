//! `encrypt-volume`: replaces unencrypted volumes by encrypted copies.
//!
//! Only wiring: the pipeline is in `handler.rs` and `advance.rs`, decisions in
//! `backstop-core`, AWS calls in `backstop-aws`.

use backstop_aws::clients::{Clients, EncryptionClients, environment_config};
use backstop_aws::invocation;
use backstop_aws::settings::EncryptSettings;
use backstop_aws::telemetry;
use encrypt_volume::Handler;
use lambda_runtime::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let settings = EncryptSettings::read(&|name| std::env::var(name).ok())?;
    let config = environment_config().await;
    let clients = Clients::patient_with_ec2(&config);
    let handler = Handler::new(clients, EncryptionClients::new(&config), settings);
    invocation::serve(async |event| handler.handle(event).await).await
}
