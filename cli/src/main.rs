//! `backstop`: the command line for the person on call.
//!
//! It decides with `backstop-core` and calls AWS with `backstop-aws`, like the
//! functions. Deliberately not here: any decision, any SDK call of its own.
//!
//! Exit codes: 0 all is well; 1 something was found, or said no; 2 it could not
//! be done, or not all of it.

mod commands;
mod context;
mod judging;
mod records;
mod replay;
mod sarif;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use context::Context;

/// What went wrong, in one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Problem(pub(crate) String);

/// Watches an account for risky EC2 changes; this is its command line.
#[derive(Debug, Parser)]
#[command(name = "backstop", version, about, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what would be found in this account now; changes nothing
    Scan(commands::scan::Scan),
    /// Shows what would be done about one resource, and why; changes nothing
    Plan(commands::plan::Plan),
    /// Shows which calls in CloudTrail's log files Backstop would look at
    Replay(commands::replay::Replay),
    /// Shows the ledger's entries, the latest first
    History(commands::history::History),
    /// Takes a change back
    Undo(commands::undo::Undo),
    /// Shows every opt-out, what needs attention first
    OptOuts(commands::opt_outs::OptOuts),
    /// Checks or shows the policy
    Policy(commands::policy::Policy),
    /// Shows events that were given up, or runs them again
    Failed(commands::failed::Failed),
    /// Shows whether Backstop itself is in order
    Doctor(commands::doctor::Doctor),
    /// Lets a control act again that has tripped
    ReArm(commands::re_arm::ReArm),
    /// Stops everything within a minute, or lets it go on
    KillSwitch(commands::kill_switch::KillSwitch),
    /// Starts a sweep now
    Sweep(commands::sweep::Sweep),
    /// Prints completions for a shell
    Completions(commands::completions::Completions),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { context, command } = Cli::parse();
    let done = match command {
        Command::Scan(command) => command.run(&context).await,
        Command::Plan(command) => command.run(&context).await,
        Command::Replay(command) => command.run(),
        Command::History(command) => command.run(&context).await,
        Command::Undo(command) => command.run(&context).await,
        Command::OptOuts(command) => command.run(&context).await,
        Command::Policy(command) => command.run(&context).await,
        Command::Failed(command) => command.run(&context).await,
        Command::Doctor(command) => command.run(&context).await,
        Command::ReArm(command) => command.run(&context).await,
        Command::KillSwitch(command) => command.run(&context).await,
        Command::Sweep(command) => command.run(&context).await,
        Command::Completions(command) => command.run(),
    };
    done.unwrap_or_else(|problem| {
        eprintln!("backstop: {problem}");
        ExitCode::from(2)
    })
}
