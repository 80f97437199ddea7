//! `backstop scan`.

use std::process::ExitCode;

use clap::Args;

use crate::Problem;
use crate::context::Context;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct Scan {}

impl Scan {
    pub(crate) async fn run(self, _context: &Context) -> Result<ExitCode, Problem> {
        Err(Problem("not there yet".to_owned()))
    }
}
