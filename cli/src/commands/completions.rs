//! `backstop completions`.

use std::process::ExitCode;

use clap::Args;

use crate::Problem;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct Completions {}

impl Completions {
    pub(crate) fn run(self) -> Result<ExitCode, Problem> {
        Err(Problem("not there yet".to_owned()))
    }
}
