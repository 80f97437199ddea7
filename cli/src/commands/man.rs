//! `backstop man`: a man page, from the definitions themselves.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_mangen::Man as Page;

use crate::{Cli, Problem};

/// Prints the man page of the command line, or of one of its commands.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The command, for example `undo` or `opt-out add`; without one the whole
    command: Vec<String>,
}

impl Man {
    pub(crate) fn run(self) -> Result<ExitCode, Problem> {
        let mut page = Vec::new();
        Page::new(self.of()?)
            .render(&mut page)
            .map_err(|error| Problem(format!("the man page: {error}")))?;
        print!("{}", String::from_utf8_lossy(&page));
        Ok(ExitCode::SUCCESS)
    }

    /// What the page is of.
    fn of(&self) -> Result<clap::Command, Problem> {
        let mut of = Cli::command();
        // Global options stand in a command once it is built.
        of.build();
        for name in self
            .command
            .iter()
            .flat_map(|words| words.split_whitespace())
        {
            let Some(command) = of.find_subcommand(name) else {
                return Err(Problem(format!(
                    "there is no command `{}`: backstop help lists the commands",
                    self.command.join(" ")
                )));
            };
            of = command.clone();
        }
        Ok(of)
    }
}
