//! `unshare-storage`: ends the sharing of storage with everyone.
//!
//! Only wiring: the pipeline is in `backstop-engine`, decisions in
//! `backstop-core`, AWS calls in `backstop-aws`.

use lambda_runtime::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    backstop_engine::serve(unshare_storage::CONTROLS).await
}
