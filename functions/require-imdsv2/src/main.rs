//! `require-imdsv2`: has instances answer requests for metadata with a token alone.
//!
//! Only wiring: the pipeline is in `backstop-engine`, decisions in
//! `backstop-core`, AWS calls in `backstop-aws`.

use lambda_runtime::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    backstop_engine::serve(require_imdsv2::CONTROLS).await
}
