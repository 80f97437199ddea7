//! `imdsv1`: the calls.
//!
//! A change names HttpTokens and HttpEndpoint and nothing else: what is not named
//! stays. EC2 wants the endpoint named as switched on, so that it is read right
//! before: one that was switched off meanwhile stays so.

use aws_sdk_ec2::types::{
    HttpTokensEnforcedState, HttpTokensState, InstanceMetadataEndpointState, Reservation,
};
use backstop_core::controls::imdsv1::{HttpEndpoint, ImdsV1, Instance, Options, USED, Usage};
use backstop_core::controls::metadata_defaults::HttpTokens;
use backstop_core::plan::{Change, Ending, Outcome};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::opt_outs::any_of;
use crate::patching::{INSTANCES_PAGE, time};
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome};
use crate::security_groups::{filter, partition, tags};

const READ: &str = "DescribeInstances";

impl Remediation for ImdsV1 {
    async fn gather(aws: &Clients, at: Place<'_>, id: &str) -> Result<Option<Instance>, AwsError> {
        let defaults = aws.ec2.get_instance_metadata_defaults().send();
        let (described, defaults) = tokio::join!(
            described(aws, at, id),
            at.deadline.call("GetInstanceMetadataDefaults", defaults),
        );
        let Some(mut instance) = described? else {
            return Ok(None);
        };
        // Nothing but undos depend on it: without an answer it is not so.
        let unknown = |error: &AwsError| {
            tracing::warn!(%error, "whether the account enforces IMDSv2 is not known");
        };
        let defaults = defaults.inspect_err(unknown).ok();
        let level = defaults.as_ref().and_then(|answer| answer.account_level());
        let enforced = level.and_then(|level| level.http_tokens_enforced());
        instance.enforced = enforced == Some(&HttpTokensEnforcedState::Enabled);
        let mut instances = [instance];
        if let Err(error) = with_usage(aws, at, &mut instances).await {
            for instance in &mut instances {
                instance.unread = Some(error.to_string());
            }
        }
        Ok(instances.into_iter().next())
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        change: &Change<Options>,
    ) -> Vec<Outcome> {
        let answer = async {
            let Some(now) = described(aws, at, id).await? else {
                return Ok(Some("the instance is gone"));
            };
            if now.options.http_endpoint == HttpEndpoint::Disabled {
                return Ok(Some(
                    "its metadata service was switched off meanwhile, and would be switched on by it",
                ));
            }
            let tokens = match change.after.map(|to| to.http_tokens) {
                Some(HttpTokens::Required) => HttpTokensState::Required,
                Some(HttpTokens::Optional) | None => HttpTokensState::Optional,
            };
            let request = aws
                .ec2
                .modify_instance_metadata_options()
                .instance_id(id)
                .http_tokens(tokens)
                .http_endpoint(InstanceMetadataEndpointState::Enabled)
                .send();
            let answer = at.deadline.call("ModifyInstanceMetadataOptions", request);
            answer.await.map(|_| None)
        };
        let answer: Result<Option<&str>, AwsError> = answer.await;
        let mut outcomes = outcome::<Self>(change, answer.clone().map(|_| ()));
        if let Ok(Some(why)) = answer {
            for outcome in &mut outcomes {
                outcome.ending = Ending::Skipped {
                    why: why.to_owned(),
                };
            }
        }
        outcomes
    }

    /// Instances that answer IMDSv1, each page with what CloudWatch says of them.
    /// Without that the walk ends: what is not known belongs neither to the baseline
    /// nor to what is told.
    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<Instance>),
    ) -> Result<Walked, Stopped> {
        let states = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
        let read = async |token: Option<String>| {
            let request = aws
                .ec2
                .describe_instances()
                .filters(any_of("instance-state-name", &states))
                .filters(filter("metadata-options.http-tokens", "optional"))
                .filters(filter("metadata-options.http-endpoint", "enabled"))
                .max_results(INSTANCES_PAGE)
                .set_next_token(token);
            let page = at.deadline.call(READ, request.send()).await?;
            let mut instances = instances(page.reservations(), at)?;
            with_usage(aws, at, &mut instances).await?;
            Ok((instances, page.next_token.clone()))
        };
        let walked = each_page(at.deadline, read, each).await;
        let seen = walked.map_err(|(seen, error)| Stopped {
            what: "instances that answer IMDSv1",
            seen,
            error,
        })?;
        Ok(Walked {
            seen,
            unseen: Vec::new(),
        })
    }
}

/// An instance as EC2 shows it; `None`: it is gone.
async fn described(aws: &Clients, at: Place<'_>, id: &str) -> Result<Option<Instance>, AwsError> {
    let request = aws
        .ec2
        .describe_instances()
        .filters(filter("instance-id", id))
        .send();
    let answer = at.deadline.call(READ, request).await?;
    let mut instances = instances(answer.reservations(), at)?;
    // EC2 shows what was terminated for an hour.
    instances.retain(|instance| instance.id == id && instance.state != "terminated");
    Ok(instances.pop())
}

/// Adds to instances what asks for metadata without a token, of those for which it
/// matters.
async fn with_usage(
    aws: &Clients,
    at: Place<'_>,
    instances: &mut [Instance],
) -> Result<(), AwsError> {
    let now = aws.clock.now();
    let needed = instances.iter().filter(|instance| instance.needs_usage());
    let ids: Vec<&str> = needed.map(|instance| instance.id.as_str()).collect();
    let span = (Usage::since(now), now);
    let mut sums = aws
        .cloudwatch
        .hourly_sums(USED, &ids, span, at.deadline)
        .await?;
    for instance in instances.iter_mut().filter(|of| of.needs_usage()) {
        let points = sums.remove(&instance.id).unwrap_or_default();
        instance.usage = Some(Usage::of(&points, now));
    }
    Ok(())
}

/// What DescribeInstances shows of instances.
fn instances(reservations: &[Reservation], at: Place<'_>) -> Result<Vec<Instance>, AwsError> {
    let all = reservations.iter().flat_map(|reservation| {
        let owner = reservation.owner_id().unwrap_or_default();
        reservation.instances().iter().map(move |of| (owner, of))
    });
    all.map(|(owner, instance)| facts(instance, owner, at))
        .collect()
}

fn facts(
    instance: &aws_sdk_ec2::types::Instance,
    owner: &str,
    at: Place<'_>,
) -> Result<Instance, AwsError> {
    let id = instance.instance_id().unwrap_or_default().to_owned();
    let Some(shown) = instance.metadata_options() else {
        return Err(AwsError::incomplete(READ, "metadataOptions"));
    };
    let http_tokens = match shown.http_tokens() {
        Some(HttpTokensState::Required) => HttpTokens::Required,
        Some(HttpTokensState::Optional) => HttpTokens::Optional,
        other => return Err(unknown("httpTokens", other.map(|of| of.as_str()))),
    };
    let http_endpoint = match shown.http_endpoint() {
        Some(InstanceMetadataEndpointState::Enabled) => HttpEndpoint::Enabled,
        Some(InstanceMetadataEndpointState::Disabled) => HttpEndpoint::Disabled,
        other => return Err(unknown("httpEndpoint", other.map(|of| of.as_str()))),
    };
    let state = instance.state().and_then(|state| state.name());
    let operator = instance.operator();
    let operator = operator.filter(|operator| operator.managed() == Some(true));
    let tags = tags(instance.tags());
    let (partition, region) = (partition(at.region), at.region);
    Ok(Instance {
        arn: format!("arn:{partition}:ec2:{region}:{owner}:instance/{id}"),
        owner: owner.to_owned(),
        name: tags.get("Name").unwrap_or(&id).clone(),
        id,
        tags,
        state: state.map_or_else(String::new, |state| state.as_str().to_owned()),
        options: Options {
            http_tokens,
            http_endpoint,
        },
        hop_limit: shown.http_put_response_hop_limit(),
        operator: operator.map(|operator| {
            let service = operator.principal();
            service.unwrap_or("an AWS service").to_owned()
        }),
        launched_at: instance.launch_time().and_then(time),
        enforced: false,
        usage: None,
        unread: None,
    })
}

fn unknown(field: &str, value: Option<&str>) -> AwsError {
    match value {
        Some(value) => AwsError::unknown_value(READ, field, value),
        None => AwsError::incomplete(READ, field),
    }
}
