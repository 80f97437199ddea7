//! `restore-account-defaults`: restores settings of the account that protect what
//! is made in it.
//!
//! Only wiring: the pipeline is in `backstop-engine`, decisions in
//! `backstop-core`, AWS calls in `backstop-aws`.

use lambda_runtime::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    backstop_engine::serve(restore_account_defaults::CONTROLS).await
}
