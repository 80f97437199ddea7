//! The deployed stack, as CloudFormation knows it: where the command line finds
//! the table, the queue, and the functions.

use std::collections::BTreeMap;

use aws_sdk_cloudformation::types::{ResourceStatus, StackResourceSummary};

use backstop_core::json;

use crate::clients::OperationsClients;
use crate::deadline::Deadline;
use crate::doctor::Deployment;
use crate::error::AwsError;
use crate::security_groups::within;

/// A deployed stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Its name, or its id, as it was asked for.
    pub name: String,
    /// Its parameters, by name.
    pub parameters: BTreeMap<String, String>,
    /// Its outputs, by name.
    pub outputs: BTreeMap<String, String>,
    /// Its resources: logical id to physical id.
    pub resources: BTreeMap<String, String>,
}

impl Stack {
    /// Reads a stack.
    ///
    /// # Errors
    /// There is none of that name, or a call failed.
    pub async fn read(
        operations: &OperationsClients,
        name: &str,
        deadline: &Deadline,
    ) -> Result<Self, AwsError> {
        let stacks = operations.cloudformation.describe_stacks();
        let (stacks, resources) = tokio::join!(
            deadline.call("DescribeStacks", stacks.stack_name(name).send()),
            resources(operations, name, deadline),
        );
        let mut stack = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        let stacks = stacks?;
        for parameter in stacks.stacks().iter().flat_map(|stack| stack.parameters()) {
            if let (Some(key), Some(value)) =
                (parameter.parameter_key(), parameter.parameter_value())
            {
                stack.parameters.insert(key.to_owned(), value.to_owned());
            }
        }
        for output in stacks.stacks().iter().flat_map(|stack| stack.outputs()) {
            if let (Some(key), Some(value)) = (output.output_key(), output.output_value()) {
                stack.outputs.insert(key.to_owned(), value.to_owned());
            }
        }
        for resource in resources? {
            if let (Some(logical), Some(physical)) =
                (resource.logical_resource_id, resource.physical_resource_id)
            {
                stack.resources.insert(logical, physical);
            }
        }
        Ok(stack)
    }

    /// What the doctor examines.
    #[must_use]
    pub fn deployment(&self, region: &str) -> Deployment {
        let output = |name: &str| self.outputs.get(name).cloned().unwrap_or_default();
        Deployment {
            region: region.to_owned(),
            topic_arn: output("NotificationTopicArn"),
            queue_url: output("FailedEventsQueueUrl"),
            policy_parameter: output("PolicyParameterName"),
            stack: self.name.clone(),
        }
    }
}

/// Every resource of a stack, page by page: DescribeStackResources ends at a
/// hundred without saying so.
async fn resources(
    operations: &OperationsClients,
    stack: &str,
    deadline: &Deadline,
) -> Result<Vec<StackResourceSummary>, AwsError> {
    const OPERATION: &str = "ListStackResources";
    let request = operations.cloudformation.list_stack_resources();
    let mut pages = request.stack_name(stack).into_paginator().send();
    let mut resources = Vec::new();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|error| AwsError::new(OPERATION, &error))?;
        resources.extend(page.stack_resource_summaries.unwrap_or_default());
    }
    // One that an update removed is not of the stack any more.
    resources.retain(|of| of.resource_status != Some(ResourceStatus::DeleteComplete));
    Ok(resources)
}

/// The names of a stack's rules. `stack`: its name or its id.
///
/// # Errors
/// A call failed.
pub(crate) async fn rules(
    operations: &OperationsClients,
    stack: &str,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    let mut resources = resources(operations, stack, deadline).await?;
    resources.retain(|of| of.resource_type.as_deref() == Some("AWS::Events::Rule"));
    let names = resources.into_iter().filter_map(|of| {
        let id = of.physical_resource_id?;
        // `bus|name` for a bus of its own.
        Some(id.rsplit('|').next().unwrap_or_default().to_owned())
    });
    Ok(names.collect())
}

/// The Regions that are enabled in the account, by name.
///
/// # Errors
/// The call failed.
pub async fn regions(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    // Without `AllRegions` it names only those that are enabled.
    let request = ec2.describe_regions().send();
    let answer = deadline.call("DescribeRegions", request).await?;
    let names = answer.regions.unwrap_or_default().into_iter();
    let mut names: Vec<String> = names.filter_map(|region| region.region_name).collect();
    names.sort_unstable();
    Ok(names)
}

/// Invokes a function and waits for what it answers: the answer, or the error
/// that it reported.
///
/// # Errors
/// It could not be invoked.
pub async fn invoke(
    operations: &OperationsClients,
    function: &str,
    payload: &serde_json::Value,
    deadline: &Deadline,
) -> Result<Result<serde_json::Value, String>, AwsError> {
    let request = operations
        .lambda
        .invoke()
        .function_name(function)
        .payload(payload.to_string().into_bytes().into());
    let answer = deadline.call("Invoke", request.send()).await?;
    let body: serde_json::Value = answer
        .payload()
        .and_then(|body| json::value(body.as_ref()).ok())
        .unwrap_or_default();
    Ok(match answer.function_error() {
        None => Ok(body),
        Some(kind) => Err(body
            .get("errorMessage")
            .and_then(serde_json::Value::as_str)
            .unwrap_or(kind)
            .to_owned()),
    })
}

/// Starts a function with an event and does not wait.
///
/// # Errors
/// Lambda did not accept it.
pub async fn start(
    operations: &OperationsClients,
    function: &str,
    event: &serde_json::Value,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let request = operations
        .lambda
        .invoke()
        .function_name(function)
        .invocation_type(aws_sdk_lambda::types::InvocationType::Event)
        .payload(event.to_string().into_bytes().into());
    let answer = deadline.call("Invoke", request.send()).await?;
    match answer.status_code() {
        202 => Ok(()),
        other => Err(AwsError::not_sent(
            "Invoke",
            format!("Lambda answered {other}, not 202 (accepted)"),
        )),
    }
}

/// The account and the caller that credentials belong to.
///
/// # Errors
/// There are no credentials, or none that are valid.
pub async fn whoami(
    operations: &OperationsClients,
    deadline: &Deadline,
) -> Result<(String, String), AwsError> {
    let request = operations.sts.get_caller_identity().send();
    let answer = deadline.call("GetCallerIdentity", request).await?;
    Ok((
        answer.account().unwrap_or_default().to_owned(),
        answer.arn().unwrap_or_default().to_owned(),
    ))
}
