//! `remove-public-address`: keeps subnets from assigning public addresses.
//!
//! Only wiring: the pipeline is in `backstop-engine`, decisions in
//! `backstop-core`, AWS calls in `backstop-aws`.

use lambda_runtime::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    backstop_engine::serve(remove_public_address::CONTROLS).await
}
