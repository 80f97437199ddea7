//! `revoke-ingress`: closes what a security group opens to the world, and empties
//! default groups that nothing uses.
//!
//! Only wiring: the pipeline is in `backstop-engine`, decisions in
//! `backstop-core`, AWS calls in `backstop-aws`.

use lambda_runtime::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    backstop_engine::serve(revoke_ingress::CONTROLS).await
}
