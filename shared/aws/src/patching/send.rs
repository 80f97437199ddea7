//! The two changes: safety snapshots, and the command that installs patches.
//!
//! Neither call knows a token that makes its repetition harmless, so the SDK
//! must not ask again after a lost answer: that would be a second set of
//! snapshots, or a second command. Only a refusal for now (throttling) is tried
//! again, here. What may have happened is found again by its mark: snapshots by
//! their tags, a command by its comment.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_ec2::types::{InstanceSpecification, ResourceType, Tag, TagSpecification};
use aws_sdk_ssm::types::CloudWatchOutputConfig;
use aws_smithy_types::retry::RetryConfig;
use backstop_core::encryption::Purpose;
use backstop_core::patching::{DOCUMENT, Operation, Patching};
use backstop_core::volumes::{ENTRY_TAG, PURPOSE_TAG, Snapshot};
use jiff::Timestamp;

use super::{Batch, MOST_INSTANCES, incomplete};
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::volumes::read;

/// How long a throttled call pauses.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a throttled call is sent.
const TRIES: u32 = 5;

/// The least for which SendCommand lets a command wait for its turn.
const LEAST_SECONDS: i32 = 30;

/// How many characters of an instance's name stand in a snapshot's: a tag's
/// value has at most 256.
const NAME_CHARACTERS: usize = 200;

/// Takes safety snapshots of all volumes of a run's instance at one moment, or
/// finds those that it took before it was cut off. Their ids. `spare`: time that
/// is not to be waited away, because others need it.
///
/// # Errors
/// A call failed: nothing may be installed then. Where snapshots may have been
/// taken all the same (`AwsError::may_have_acted`), the next try finds them.
pub async fn safety_snapshots(
    ec2: &aws_sdk_ec2::Client,
    run: &Patching,
    spare: Duration,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    const OPERATION: &str = "CreateSnapshots";
    let taken = taken(ec2, run, deadline).await?;
    if !taken.is_empty() {
        return Ok(taken);
    }
    let instance = run.resource_id();
    let name: String = run
        .head
        .resource_name
        .chars()
        .take(NAME_CHARACTERS)
        .collect();
    let tags = [
        (ENTRY_TAG, run.head.id.clone()),
        (PURPOSE_TAG, Purpose::Safety.name().to_owned()),
        ("Name", format!("{name} before its patches")),
    ];
    let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::Snapshot)
        .set_tags(Some(tags.to_vec()))
        .build();
    let mut tries = 0;
    loop {
        tries += 1;
        let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
        let request = ec2
            .create_snapshots()
            .instance_specification(
                InstanceSpecification::builder()
                    .instance_id(instance)
                    .build(),
            )
            .description(format!(
                "Backstop: safety snapshot of {instance} before its patches ({})",
                run.head.id
            ))
            .tag_specifications(tags.clone())
            .customize()
            .config_override(once)
            .send();
        match deadline.call(OPERATION, request).await {
            Err(error)
                if error.is_throttled() && tries < TRIES && deadline.left() > spare + PAUSE =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            answer => {
                let made = answer?.snapshots.unwrap_or_default();
                let made: Vec<String> = made.into_iter().filter_map(|s| s.snapshot_id).collect();
                // Without a snapshot there is no way back. An answer without one is an
                // answer: to ask again would not better it.
                return match made.is_empty() {
                    true => Err(AwsError {
                        retryable: false,
                        ..incomplete(OPERATION, "snapshots")
                    }),
                    false => Ok(made),
                };
            }
        }
    }
}

/// The snapshots that an earlier try of the run took; none also where one of
/// them came to nothing, for then a volume has no way back.
async fn taken(
    ec2: &aws_sdk_ec2::Client,
    run: &Patching,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    let of_entry = format!("tag:{ENTRY_TAG}");
    let found =
        read::snapshots(ec2, &of_entry, std::slice::from_ref(&run.head.id), deadline).await?;
    let ours = |snapshot: &Snapshot| {
        snapshot.tags.get(PURPOSE_TAG).map(String::as_str) == Some(Purpose::Safety.name())
    };
    let (failed, good): (Vec<Snapshot>, Vec<Snapshot>) = found
        .into_iter()
        .filter(ours)
        .partition(|snapshot| snapshot.state == "error");
    let covered: BTreeSet<&str> = good.iter().map(|s| s.volume.as_str()).collect();
    if failed.iter().any(|s| !covered.contains(s.volume.as_str())) {
        return Ok(Vec::new());
    }
    Ok(good.into_iter().map(|snapshot| snapshot.id).collect())
}

/// The safety snapshots of a run that came to nothing since they were taken.
///
/// # Errors
/// A call failed.
pub async fn lost_snapshots(
    ec2: &aws_sdk_ec2::Client,
    run: &Patching,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    let of_entry = format!("tag:{ENTRY_TAG}");
    let found =
        read::snapshots(ec2, &of_entry, std::slice::from_ref(&run.head.id), deadline).await?;
    let lost = found.into_iter().filter(|s| s.state == "error");
    let lost = lost.map(|snapshot| snapshot.id);
    Ok(lost
        .filter(|id| run.detail.snapshots.contains(id))
        .collect())
}

/// Sends a command at a time; its id.
///
/// # Errors
/// It was not sent, or may have been (`AwsError::may_have_acted`): then
/// [`commands`](super::commands) shows it by its comment.
pub async fn send(
    ssm: &aws_sdk_ssm::Client,
    batch: &Batch<'_>,
    now: Timestamp,
    deadline: &Deadline,
) -> Result<String, AwsError> {
    const OPERATION: &str = "SendCommand";
    let instances = batch.instances.len();
    if !(1..=MOST_INSTANCES).contains(&instances) {
        let why = format!("a command is for 1 to {MOST_INSTANCES} instances, not {instances}");
        return Err(AwsError::not_sent(OPERATION, why));
    }
    let parameters = HashMap::from(
        [
            ("Operation", batch.operation.name()),
            ("RebootOption", batch.reboot.option()),
        ]
        .map(|(name, value)| (name.to_owned(), vec![value.to_owned()])),
    );
    let output = CloudWatchOutputConfig::builder()
        .cloud_watch_output_enabled(true)
        .cloud_watch_log_group_name(batch.log_group)
        .build();
    // One that comes to an instance later must not begin outside its window; that
    // may have closed since it was looked at.
    let closed = batch.operation == Operation::Install && !batch.settings.in_window(now);
    let begin_within = match closed {
        true => LEAST_SECONDS,
        false => i32::try_from(batch.settings.begin_within(now)).unwrap_or(i32::MAX),
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let once = aws_sdk_ssm::config::Builder::new().retry_config(RetryConfig::disabled());
        let request = ssm
            .send_command()
            .document_name(DOCUMENT)
            .set_instance_ids(Some(batch.instances.to_vec()))
            .set_parameters(Some(parameters.clone()))
            .timeout_seconds(begin_within)
            .max_concurrency(&batch.settings.max_concurrency)
            .max_errors(&batch.settings.max_errors)
            .comment(Patching::comment(batch.mark))
            .cloud_watch_output_config(output.clone())
            .customize()
            .config_override(once)
            .send();
        match deadline.call(OPERATION, request).await {
            Err(error) if error.is_throttled() && tries < TRIES && deadline.left() > PAUSE => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => {
                let id = answer?.command.and_then(|command| command.command_id);
                return id.ok_or_else(|| incomplete(OPERATION, "command id"));
            }
        }
    }
}
