//! Patching: what EC2 and Systems Manager say of instances, and the command that
//! installs patches.
//!
//! Deliberately not here: what is decided (`backstop_core::patching`).

use std::collections::BTreeMap;

use backstop_core::patching::{
    Agent, Command, Host, Operation, Patch, PatchState, Patching, Reach, Reboot, Settings,
};
use jiff::Timestamp;

use crate::deadline::Deadline;
use crate::error::AwsError;

/// What became of a command on one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// It has not ended.
    UnderWay,
    /// It has ended, in Systems Manager's detailed words without spaces
    /// (`Success`, `Failed`, `DeliveryTimedOut`, …).
    Ended(String),
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

/// Instances by id, as they are now; those that are gone are not in it.
///
/// # Errors
/// A call failed.
pub async fn hosts(
    _ec2: &aws_sdk_ec2::Client,
    _ids: &[String],
    _deadline: &Deadline,
) -> Result<BTreeMap<String, Host>, AwsError> {
    todo!()
}

/// What Systems Manager says of instances, by id; those that it does not manage
/// are not in it.
///
/// # Errors
/// A call failed.
pub async fn agents(
    _ssm: &aws_sdk_ssm::Client,
    _ids: &[String],
    _deadline: &Deadline,
) -> Result<BTreeMap<String, Agent>, AwsError> {
    todo!()
}

/// What the last patch operation left on instances, by id; those without one are
/// not in it.
///
/// # Errors
/// A call failed.
pub async fn states(
    _ssm: &aws_sdk_ssm::Client,
    _ids: &[String],
    _deadline: &Deadline,
) -> Result<BTreeMap<String, PatchState>, AwsError> {
    todo!()
}

/// The patches that an Install would bring, as of the last operation.
///
/// # Errors
/// A call failed.
pub async fn missing(
    _ssm: &aws_sdk_ssm::Client,
    _id: &str,
    _deadline: &Deadline,
) -> Result<Vec<Patch>, AwsError> {
    todo!()
}

/// The patch commands that were sent to an instance since a time, whoever sent
/// them.
///
/// # Errors
/// A call failed.
pub async fn commands(
    _ssm: &aws_sdk_ssm::Client,
    _id: &str,
    _since: Timestamp,
    _deadline: &Deadline,
) -> Result<Vec<Command>, AwsError> {
    todo!()
}

/// How an instance could reach Systems Manager.
///
/// # Errors
/// A call failed.
pub async fn reach(
    _ec2: &aws_sdk_ec2::Client,
    _ssm: &aws_sdk_ssm::Client,
    _host: &Host,
    _region: &str,
    _deadline: &Deadline,
) -> Result<Reach, AwsError> {
    todo!()
}

/// Takes safety snapshots of all volumes of a run's instance, or finds those
/// that it took before it was cut off. Their ids.
///
/// # Errors
/// A call failed: nothing may be installed then.
pub async fn safety_snapshots(
    _ec2: &aws_sdk_ec2::Client,
    _run: &Patching,
    _deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    todo!()
}

/// Sends a command; its id.
///
/// # Errors
/// It was not sent, or may have been (`AwsError::may_have_acted`).
pub async fn send(
    _ssm: &aws_sdk_ssm::Client,
    _batch: &Batch<'_>,
    _deadline: &Deadline,
) -> Result<String, AwsError> {
    todo!()
}

/// What became of a command on an instance.
///
/// # Errors
/// A call failed.
pub async fn invocation(
    _ssm: &aws_sdk_ssm::Client,
    _command: &str,
    _instance: &str,
    _deadline: &Deadline,
) -> Result<Invocation, AwsError> {
    todo!()
}
