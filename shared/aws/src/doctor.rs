//! Reads what tells whether Backstop itself is in order. A check that cannot be
//! made is a failed check, and never hides the others.
//!
//! Deliberately not here: what is in order (`backstop_core::doctor`).

use aws_sdk_cloudtrail::operation::get_event_selectors::GetEventSelectorsOutput;
use aws_sdk_cloudtrail::types::{EventSelector, ReadWriteType};
use aws_sdk_sqs::types::QueueAttributeName;
use backstop_core::doctor::{self, Check, Trail};

use crate::clients::{Clients, OperationsClients};
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::policy_store::read_document;
use crate::stack;

/// What is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The Region.
    pub region: String,
    /// ARN of the topic that messages go to.
    pub topic_arn: String,
    /// URL of the queue of failed events.
    pub queue_url: String,
    /// Name of the SSM parameter that holds the policy.
    pub policy_parameter: String,
    /// Name or id of the stack, whose rules are examined.
    pub stack: String,
}

/// Makes every check.
pub async fn examine(
    clients: &Clients,
    operations: &OperationsClients,
    deployment: &Deployment,
    deadline: &Deadline,
) -> Vec<Check> {
    let (trail, rules, subscription, queue, policy) = tokio::join!(
        trails(&operations.cloudtrail, &deployment.region, deadline),
        rule_states(clients, operations, &deployment.stack, deadline),
        subscriptions(&clients.sns, &deployment.topic_arn, deadline),
        waiting(&operations.sqs, &deployment.queue_url, deadline),
        read_document(&clients.ssm, &deployment.policy_parameter, deadline),
    );
    let unmade = |name| move |error: AwsError| Check::unmade(name, &error.to_string());
    vec![
        trail.map_or_else(unmade("trail"), |trails| {
            doctor::trail(&trails, &deployment.region)
        }),
        rules.map_or_else(unmade("rules"), |states| doctor::rules(&states)),
        subscription.map_or_else(unmade("subscription"), |(confirmed, pending)| {
            doctor::subscription(confirmed, pending)
        }),
        queue.map_or_else(unmade("queue"), doctor::queue),
        policy.map_or_else(unmade("policy"), |document| doctor::policy(&document)),
    ]
}

async fn trails(
    cloudtrail: &aws_sdk_cloudtrail::Client,
    region: &str,
    deadline: &Deadline,
) -> Result<Vec<Trail>, AwsError> {
    // Shadow trails: those of other Regions and of the organisation that cover
    // this one.
    let request = cloudtrail.describe_trails().include_shadow_trails(true);
    let answer = deadline.call("DescribeTrails", request.send()).await?;
    let mut trails = Vec::new();
    let mut unread = None;
    for found in answer.trail_list() {
        let arn = found.trail_arn().unwrap_or_default();
        let covers_region =
            found.is_multi_region_trail() == Some(true) || found.home_region() == Some(region);
        let mut trail = Trail {
            name: found.name().unwrap_or(arn).to_owned(),
            covers_region,
            ..Trail::default()
        };
        if covers_region {
            let request = cloudtrail.get_trail_status().name(arn).send();
            match deadline.call("GetTrailStatus", request).await {
                Ok(status) => trail.logging = status.is_logging() == Some(true),
                Err(error) => unread = Some(error),
            }
        }
        if trail.logging {
            let request = cloudtrail.get_event_selectors().trail_name(arn).send();
            match deadline.call("GetEventSelectors", request).await {
                Ok(selectors) => trail.logs_writes = selects_writes(&selectors),
                Err(error) => unread = Some(error),
            }
        }
        trails.push(trail);
    }
    // One that cannot be read hides no other that serves.
    let serves = |trail: &Trail| trail.covers_region && trail.logging && trail.logs_writes;
    match unread {
        Some(error) if !trails.iter().any(serves) => Err(error),
        _ => Ok(trails),
    }
}

fn selects_writes(selectors: &GetEventSelectorsOutput) -> bool {
    selectors.event_selectors().iter().any(logs_writes)
        || selectors.advanced_event_selectors().iter().any(|advanced| {
            let fields = advanced.field_selectors();
            let is = |field: &str, value: &str| {
                fields
                    .iter()
                    .any(|f| f.field() == field && f.equals().iter().any(|v| v == value))
            };
            is("eventCategory", "Management") && !is("readOnly", "true")
        })
}

fn logs_writes(selector: &EventSelector) -> bool {
    // Both are logged unless said otherwise.
    selector.include_management_events() != Some(false)
        && selector.read_write_type() != Some(&ReadWriteType::ReadOnly)
}

/// The stack's rules: name, and state of those that are there.
async fn rule_states(
    clients: &Clients,
    operations: &OperationsClients,
    stack: &str,
    deadline: &Deadline,
) -> Result<Vec<(String, Option<String>)>, AwsError> {
    let mut states = Vec::new();
    for name in stack::rules(operations, stack, deadline).await? {
        let request = clients.eventbridge.describe_rule().name(&name).send();
        let state = match deadline.call("DescribeRule", request).await {
            Ok(rule) => rule.state().map(|state| state.as_str().to_owned()),
            Err(error) if error.code == "ResourceNotFoundException" => None,
            Err(error) => return Err(error),
        };
        states.push((name, state));
    }
    Ok(states)
}

/// How many subscriptions are confirmed, and how many wait for it.
async fn subscriptions(
    sns: &aws_sdk_sns::Client,
    topic: &str,
    deadline: &Deadline,
) -> Result<(u64, u64), AwsError> {
    let request = sns.get_topic_attributes().topic_arn(topic).send();
    let answer = deadline.call("GetTopicAttributes", request).await?;
    let count = |name: &str| {
        let value = answer.attributes().and_then(|all| all.get(name));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    Ok((
        count("SubscriptionsConfirmed"),
        count("SubscriptionsPending"),
    ))
}

async fn waiting(
    sqs: &aws_sdk_sqs::Client,
    queue: &str,
    deadline: &Deadline,
) -> Result<u64, AwsError> {
    let request = sqs
        .get_queue_attributes()
        .queue_url(queue)
        .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
        .send();
    let answer = deadline.call("GetQueueAttributes", request).await?;
    let name = QueueAttributeName::ApproximateNumberOfMessages;
    let value = answer.attributes().and_then(|all| all.get(&name));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}
