//! `backstop`: the command line for the person on call.
//!
//! It decides with `backstop-core` and calls AWS with `backstop-aws`, like the
//! functions. Deliberately not here: any decision, any SDK call of its own.
//!
//! Exit codes: 0 all is well; 1 something was found, or said no; 2 it could not
//! be done, or not all of it.

#[macro_use]
mod out;

mod commands;
mod context;
mod judging;
mod records;
mod replay;
mod sarif;
#[cfg(test)]
mod screens;
mod table;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use context::Context;

/// What stands below the help.
const HELP: &str = "\
Exit codes:
  0  all is well
  1  something was found, or the answer is no
  2  it could not be done, was not found, or could not be written

Examples:
  backstop status                          what each control does now
  backstop explain open-ingress            what a control finds, changes and never does
  backstop scan --format sarif --output backstop.sarif
  backstop scan --all-regions --fail-on high
  backstop history sg-0a3f5c7e91b2d4f60    what was done about a security group
  backstop history --since 24h --outcome failed
  backstop undo <entry> --reason 'vendor access until Friday'";

/// What went wrong, in one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Problem(pub(crate) String);

/// Watches an account for risky EC2 changes; this is its command line.
#[derive(Debug, Parser)]
#[command(name = "backstop", version, about, propagate_version = true, after_help = HELP)]
struct Cli {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Explains a control, or lists all of them; calls nothing
    Explain(commands::explain::Explain),
    /// Shows mode, trips, budget, open findings and unsent messages of each control
    Status(commands::status::Status),
    /// Shows what would be found in this account now; changes nothing
    Scan(commands::scan::Scan),
    /// Shows what would be done about one resource, and why; changes nothing
    Plan(commands::plan::Plan),
    /// Shows which calls in CloudTrail's log files Backstop would look at
    Replay(commands::replay::Replay),
    /// Shows the ledger's entries, the latest first
    History(commands::history::History),
    /// Shows one ledger entry: what was found, changed, sent, and the way back
    Show(commands::show::Show),
    /// Takes a change back
    Undo(commands::undo::Undo),
    /// Opts a resource out of controls, or ends that
    OptOut(commands::opt_out::OptOut),
    /// Shows every opt-out, what needs attention first
    OptOuts(commands::opt_outs::OptOuts),
    /// Checks or shows the policy, or puts another one in force
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
    /// Prints a man page
    Man(commands::man::Man),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let code = match Cli::try_parse() {
        Ok(cli) => run(cli).await.unwrap_or_else(|problem| {
            eprintln!("backstop: {problem}");
            ExitCode::from(2)
        }),
        Err(said) => show(&said),
    };
    out::finish(code)
}

async fn run(cli: Cli) -> Result<ExitCode, Problem> {
    let Cli { context, command } = cli;
    if context.debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    match command {
        Command::Explain(command) => command.run(),
        Command::Status(command) => command.run(&context).await,
        Command::Scan(command) => command.run(&context).await,
        Command::Plan(command) => command.run(&context).await,
        Command::Replay(command) => command.run(),
        Command::History(command) => command.run(&context).await,
        Command::Show(command) => command.run(&context).await,
        Command::Undo(command) => command.run(&context).await,
        Command::OptOut(command) => command.run(&context).await,
        Command::OptOuts(command) => command.run(&context).await,
        Command::Policy(command) => command.run(&context).await,
        Command::Failed(command) => command.run(&context).await,
        Command::Doctor(command) => command.run(&context).await,
        Command::ReArm(command) => command.run(&context).await,
        Command::KillSwitch(command) => command.run(&context).await,
        Command::Sweep(command) => command.run(&context).await,
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}

/// Shows help, the version, or what is wrong with the arguments.
fn show(said: &clap::Error) -> ExitCode {
    let text = said.render();
    if said.use_stderr() {
        match std::io::stderr().is_terminal() {
            true => eprintln!("{}", text.ansi()),
            false => eprintln!("{text}"),
        }
        return ExitCode::from(2);
    }
    match std::io::stdout().is_terminal() {
        true => print!("{}", text.ansi()),
        false => print!("{text}"),
    }
    ExitCode::SUCCESS
}
