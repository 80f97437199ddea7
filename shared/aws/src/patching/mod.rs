//! Patching: what EC2 and Systems Manager say of instances, and the command that
//! installs patches.
//!
//! Deliberately not here: what is decided (`backstop_core::patching`).

use backstop_core::patching::{Ended, Operation, Reboot, Settings};

use crate::error::AwsError;

mod reach;
mod read;
mod send;

pub use reach::reach;
pub(crate) use read::{INSTANCES_PAGE, described, time};
pub use read::{agents, commands, commands_on, host, hosts, invocation, missing, states};
pub use send::{lost_snapshots, safety_snapshots, send};

/// What became of a command on one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// It has not ended.
    UnderWay,
    /// It has ended; the patch state is not read.
    Ended(Ended),
    /// Systems Manager knows of no such command on it (it keeps them for 30
    /// days).
    Unknown,
}

/// A command for several instances.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Its mark: a ULID, in the command's comment.
    pub mark: &'a str,
    /// What is sent.
    pub operation: Operation,
    /// Whether they may restart.
    pub reboot: Reboot,
    /// At most [`MOST_INSTANCES`] instances.
    pub instances: &'a [String],
    /// How many at a time.
    pub settings: &'a Settings,
    /// The log group that takes what the command prints.
    pub log_group: &'a str,
}

/// Most instances that a command may name (SendCommand's `InstanceIds`).
pub const MOST_INSTANCES: usize = 50;

/// For an answer that lacks what it is for: what was asked for may have happened.
fn incomplete(operation: &'static str, lacks: &str) -> AwsError {
    AwsError {
        operation,
        code: "BadResponse".to_owned(),
        message: format!("the answer has no {lacks}"),
        retryable: true,
    }
}
