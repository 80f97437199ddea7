//! Single reads of EC2 and Systems Manager, and what is made of them.
//!
//! Instances are asked for by filter and not by id: one id that is gone, or not
//! visible yet, would fail the whole call. Systems Manager knows no such filter:
//! it is to be asked only about instances that EC2 showed, and where it does not
//! accept one of a batch, the batch is halved until that one is alone
//! ([`accepted`]).

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ssm::types::{
    CommandFilter, CommandFilterKey, CommandInvocation, InstanceInformationStringFilter,
    PatchOrchestratorFilter,
};
use aws_smithy_types::DateTime;
use backstop_core::patching::{
    Agent, Command, DOCUMENT, Ended, Host, MOST_CVES, MOST_LISTED, Patch, PatchState,
};
use jiff::Timestamp;
use tracing::warn;

use super::{Invocation, MOST_INSTANCES};
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::opt_outs::{VALUES, any_of};
use crate::security_groups::{tags, within};
use crate::volumes::is_id;

/// How many instances a page of DescribeInstances holds.
pub(crate) const INSTANCES_PAGE: i32 = 500;

/// How many patches a page of DescribeInstancePatches holds (its most).
const PATCHES_PAGE: i32 = 100;

/// How many commands a page of ListCommands holds (its most).
const COMMANDS_PAGE: i32 = 50;

/// Pages of commands that are read of an instance. What Backstop asks for is a
/// day or two of one instance's; 250 of those are no patching any more.
const COMMANDS_PAGES: usize = 5;

/// What `of` makes of the instances of these ids that are there, all pages.
pub(crate) async fn described<T>(
    ec2: &aws_sdk_ec2::Client,
    ids: &[String],
    deadline: &Deadline,
    of: impl Fn(&aws_sdk_ec2::types::Instance) -> Option<T>,
) -> Result<Vec<T>, AwsError> {
    const OPERATION: &str = "DescribeInstances";
    let mut found = Vec::new();
    for ids in ids.chunks(VALUES) {
        let mut pages = ec2
            .describe_instances()
            .filters(any_of("instance-id", ids))
            .max_results(INSTANCES_PAGE)
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            let instances = page.reservations().iter().flat_map(|r| r.instances());
            found.extend(instances.filter_map(&of));
        }
    }
    Ok(found)
}

/// Instances by id, as they are now; those that are gone are not in it.
///
/// # Errors
/// A call failed.
pub async fn hosts(
    ec2: &aws_sdk_ec2::Client,
    ids: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, Host>, AwsError> {
    let hosts = described(ec2, &of_instances(ids), deadline, host).await?;
    Ok(hosts
        .into_iter()
        .map(|host| (host.id.clone(), host))
        .collect())
}

/// An instance as DescribeInstances shows it; none: it has no id.
#[must_use]
pub fn host(instance: &aws_sdk_ec2::types::Instance) -> Option<Host> {
    let state = instance.state().and_then(|state| state.name());
    let of_interfaces = instance
        .network_interfaces()
        .iter()
        .filter_map(|interface| interface.association()?.public_ip());
    let mut public = instance
        .public_ip_address()
        .into_iter()
        .chain(of_interfaces);
    let profile = instance.iam_instance_profile();
    Some(Host {
        id: instance.instance_id()?.to_owned(),
        state: state.map_or_else(String::new, |state| state.as_str().to_owned()),
        launched_at: instance.launch_time().and_then(time),
        tags: tags(instance.tags()),
        instance_profile: some(profile.and_then(|profile| profile.arn())),
        public_ipv4: public.any(|address| !address.is_empty()),
        subnet: some(instance.subnet_id()),
        vpc: some(instance.vpc_id()),
    })
}

/// Reads instances in batches of [`MOST_INSTANCES`]. One that Systems Manager
/// does not accept would fail the call for all of its batch: that is halved until
/// the one is alone, which is then like one that it does not know.
async fn accepted<T>(
    ids: &[String],
    read: impl AsyncFn(&[String]) -> Result<Vec<(String, T)>, AwsError>,
) -> Result<BTreeMap<String, T>, AwsError> {
    let ids = of_instances(ids);
    let mut batches: Vec<&[String]> = ids.chunks(MOST_INSTANCES).rev().collect();
    let mut found = BTreeMap::new();
    while let Some(batch) = batches.pop() {
        match read(batch).await {
            Ok(of_batch) => found.extend(of_batch),
            Err(error) if is_not_accepted(&error) => match batch {
                [] | [_] => warn!(instance = ?batch, %error, "Systems Manager does not accept it"),
                _ => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    batches.extend([second, first]);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether Systems Manager does not accept an instance that a call names
/// (`InvalidInstanceId`, and where ids are values of a filter
/// `InvalidInstanceInformationFilterValue`).
pub(super) fn is_not_accepted(error: &AwsError) -> bool {
    error.code.starts_with("InvalidInstance")
}

/// What Systems Manager says of instances, by id; those that it does not manage
/// or does not accept are not in it.
///
/// # Errors
/// A call failed.
pub async fn agents(
    ssm: &aws_sdk_ssm::Client,
    ids: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, Agent>, AwsError> {
    const OPERATION: &str = "DescribeInstanceInformation";
    accepted(ids, async |ids| {
        let mut found = Vec::new();
        let these = InstanceInformationStringFilter::builder()
            .key("InstanceIds")
            .set_values(Some(ids.to_vec()))
            .build()
            .map_err(|e| AwsError::not_sent(OPERATION, e.to_string()))?;
        let mut pages = ssm
            .describe_instance_information()
            .filters(these)
            .max_results(MOST_INSTANCES as i32)
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            for agent in page.instance_information_list() {
                let platform = [agent.platform_name(), agent.platform_version()];
                let platform: Vec<&str> = platform.into_iter().flatten().collect();
                let Some(id) = agent.instance_id() else {
                    continue;
                };
                let agent = Agent {
                    ping: agent
                        .ping_status()
                        .map_or_else(String::new, |ping| ping.as_str().to_owned()),
                    last_ping: agent.last_ping_date_time().and_then(time),
                    version: some(agent.agent_version()),
                    platform: some(Some(platform.join(" ").trim())),
                };
                found.push((id.to_owned(), agent));
            }
        }
        Ok(found)
    })
    .await
}

/// What the last patch operation left on instances, by id; those without one, and
/// those that Systems Manager does not accept, are not in it.
///
/// # Errors
/// A call failed.
pub async fn states(
    ssm: &aws_sdk_ssm::Client,
    ids: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, PatchState>, AwsError> {
    const OPERATION: &str = "DescribeInstancePatchStates";
    accepted(ids, async |ids| {
        let mut found = Vec::new();
        let mut pages = ssm
            .describe_instance_patch_states()
            .set_instance_ids(Some(ids.to_vec()))
            .max_results(MOST_INSTANCES as i32)
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            for state in page.instance_patch_states() {
                let left = PatchState {
                    operation: state.operation().as_str().to_owned(),
                    ended_at: time(state.operation_end_time()).filter(|at| at.as_second() > 0),
                    baseline: some(Some(state.baseline_id())),
                    missing: count(state.missing_count()),
                    failed: count(state.failed_count()),
                    pending_reboot: count(
                        state.installed_pending_reboot_count().unwrap_or_default(),
                    ),
                };
                found.push((state.instance_id().to_owned(), left));
            }
        }
        Ok(found)
    })
    .await
}

/// The patches that an Install would bring, as of the last operation: at most
/// [`MOST_LISTED`].
///
/// # Errors
/// A call failed.
pub async fn missing(
    ssm: &aws_sdk_ssm::Client,
    id: &str,
    deadline: &Deadline,
) -> Result<Vec<Patch>, AwsError> {
    const OPERATION: &str = "DescribeInstancePatches";
    let missing = PatchOrchestratorFilter::builder()
        .key("State")
        .values("Missing")
        .build();
    let mut pages = ssm
        .describe_instance_patches()
        .instance_id(id)
        .filters(missing)
        .max_results(PATCHES_PAGE)
        .into_paginator()
        .send();
    let mut found = Vec::new();
    while found.len() < MOST_LISTED
        && let Some(page) = within(deadline, OPERATION, pages.next()).await?
    {
        match page.map_err(|e| AwsError::new(OPERATION, &e)) {
            Err(error) if is_not_accepted(&error) => break,
            page => found.extend(page?.patches().iter().map(patch)),
        }
    }
    found.truncate(MOST_LISTED);
    Ok(found)
}

fn patch(patch: &aws_sdk_ssm::types::PatchComplianceData) -> Patch {
    // Some operating systems give no title, but always the package's name.
    let title = some(Some(patch.title())).unwrap_or_else(|| patch.kb_id().to_owned());
    let cves = patch.cve_ids().unwrap_or_default().split(',');
    Patch {
        title,
        classification: patch.classification().to_owned(),
        severity: patch.severity().to_owned(),
        cves: cves
            .map(str::trim)
            .filter(|cve| !cve.is_empty())
            .take(MOST_CVES)
            .map(str::to_owned)
            .collect(),
    }
}

/// The patch commands that were sent to an instance since a time, whoever sent
/// them: those of `AWS-RunPatchBaseline` and of its relatives (with hooks, for
/// associations). What a document of somebody's own installs shows in the patch
/// state alone.
///
/// # Errors
/// A call failed.
pub async fn commands(
    ssm: &aws_sdk_ssm::Client,
    id: &str,
    since: Timestamp,
    deadline: &Deadline,
) -> Result<Vec<Command>, AwsError> {
    const OPERATION: &str = "ListCommands";
    let mut pages = ssm
        .list_commands()
        .instance_id(id)
        .filters(invoked_after(since, OPERATION)?)
        .max_results(COMMANDS_PAGE)
        .into_paginator()
        .send();
    let mut found = Vec::new();
    for _ in 0..COMMANDS_PAGES {
        let Some(page) = within(deadline, OPERATION, pages.next()).await? else {
            break;
        };
        match page.map_err(|e| AwsError::new(OPERATION, &e)) {
            Err(error) if is_not_accepted(&error) => break,
            page => found.extend(page?.commands().iter().filter_map(command)),
        }
    }
    Ok(found)
}

/// As [`commands`], with what each came to on this instance: what is under way
/// elsewhere may have ended here, or never begun.
///
/// # Errors
/// A call failed.
pub async fn commands_on(
    ssm: &aws_sdk_ssm::Client,
    id: &str,
    since: Timestamp,
    deadline: &Deadline,
) -> Result<Vec<Command>, AwsError> {
    const OPERATION: &str = "ListCommandInvocations";
    let mut commands = commands(ssm, id, since, deadline).await?;
    if commands.is_empty() {
        return Ok(commands);
    }
    let mut pages = ssm
        .list_command_invocations()
        .instance_id(id)
        .filters(invoked_after(since, OPERATION)?)
        .details(true)
        .max_results(COMMANDS_PAGE)
        .into_paginator()
        .send();
    for _ in 0..COMMANDS_PAGES {
        let Some(page) = within(deadline, OPERATION, pages.next()).await? else {
            break;
        };
        let page = match page.map_err(|e| AwsError::new(OPERATION, &e)) {
            Err(error) if is_not_accepted(&error) => break,
            page => page?,
        };
        for invocation in page.command_invocations() {
            let of = |command: &&mut Command| invocation.command_id() == Some(&command.id);
            if let Some(command) = commands.iter_mut().find(of) {
                let came_to = ended(invocation);
                command.never_began = came_to.never_began();
                command.status = came_to.status;
            }
        }
    }
    Ok(commands)
}

fn invoked_after(since: Timestamp, operation: &'static str) -> Result<CommandFilter, AwsError> {
    CommandFilter::builder()
        .key(CommandFilterKey::InvokedAfter)
        .value(since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .build()
        .map_err(|e| AwsError::not_sent(operation, e.to_string()))
}

/// A command, as a whole; none: it is no patch command.
fn command(command: &aws_sdk_ssm::types::Command) -> Option<Command> {
    command
        .document_name()
        .filter(|name| name.starts_with(DOCUMENT))?;
    let operation = command.parameters().and_then(|all| all.get("Operation"));
    Some(Command {
        id: command.command_id()?.to_owned(),
        operation: operation.and_then(|values| values.first()).cloned(),
        status: command
            .status()
            .map_or_else(String::new, |status| status.as_str().to_owned()),
        requested_at: command.requested_date_time().and_then(time),
        comment: command.comment().unwrap_or_default().to_owned(),
        never_began: false,
    })
}

/// How far a command has come on an instance: how it ended, where its status says
/// that it has.
fn ended(invocation: &CommandInvocation) -> Ended {
    let status = invocation.status().map(|status| status.as_str());
    // `Delivery Timed Out` in answers, `DeliveryTimedOut` in events.
    let mut details = some(invocation.status_details())
        .or_else(|| some(status))
        .unwrap_or_default();
    details.retain(|c| !c.is_whitespace());
    let steps = invocation.command_plugins();
    // The document has a step for each platform; those for others are skipped.
    let failed = steps.iter().find(|step| step.response_code() > 0);
    Ended {
        status: details,
        started: steps.iter().any(|step| {
            let started = step.response_start_date_time();
            started.is_some_and(|at| at.secs() > 0)
        }),
        exit_code: failed.map(|step| step.response_code()),
        output: some(failed.and_then(|step| step.output())),
        state: None,
    }
}

/// What became of a command on an instance. Right after it was sent it may
/// still be [`Invocation::Unknown`].
///
/// # Errors
/// A call failed.
pub async fn invocation(
    ssm: &aws_sdk_ssm::Client,
    command: &str,
    instance: &str,
    deadline: &Deadline,
) -> Result<Invocation, AwsError> {
    let request = ssm
        .list_command_invocations()
        .command_id(command)
        .instance_id(instance)
        .details(true)
        .send();
    let answer = match deadline.call("ListCommandInvocations", request).await {
        // The second of an instance that is gone.
        Err(error) if error.code == "InvalidCommandId" || is_not_accepted(&error) => {
            return Ok(Invocation::Unknown);
        }
        answer => answer?,
    };
    let Some(found) = answer.command_invocations().first() else {
        return Ok(Invocation::Unknown);
    };
    let ended = ended(found);
    Ok(match ended.status.as_str() {
        "" | "Pending" | "InProgress" | "Delayed" | "Cancelling" => Invocation::UnderWay,
        _ => Invocation::Ended(ended),
    })
}

/// The ids that are ids of instances, each once: they come from events, too, and
/// a filter would take a `*` for anything.
fn of_instances(ids: &[String]) -> Vec<String> {
    let ids: BTreeSet<&String> = ids.iter().filter(|id| is_id(id, "i-")).collect();
    ids.into_iter().cloned().collect()
}

pub(crate) fn time(at: &DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

fn some(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}
