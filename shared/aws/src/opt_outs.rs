//! Opt-out tags as they are now, and the security groups that they concern.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::Filter;
use backstop_core::exemption::{OPT_OUT_TAG, is_opt_out_key};
use backstop_core::security_group::Tags;

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::security_groups::{filter, group_ids, within};
use crate::tags;

/// Most values of one filter (EC2's quota).
pub(crate) const VALUES: usize = 200;

/// What `DescribeTags` filters keys by. Its filters go by case, so every letter of
/// another spelling is any character (`?` is exactly one, `*` any number), and
/// what else gets through is dropped here.
const KEYS: [&str; 2] = [OPT_OUT_TAG, "*????????:???-???*"];

/// The opt-out tags of each of these resources that has any, however their keys
/// are spelt.
///
/// # Errors
/// A call failed.
pub async fn read(
    ec2: &aws_sdk_ec2::Client,
    resources: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, Tags>, AwsError> {
    let mut found = BTreeMap::new();
    for resources in resources.chunks(VALUES) {
        let these = any_of("resource-id", resources);
        found.extend(tagged(ec2, Some(these), deadline).await?);
    }
    Ok(found)
}

/// The opt-out tags of the resources that a filter lets through, all pages.
async fn tagged(
    ec2: &aws_sdk_ec2::Client,
    resources: Option<Filter>,
    deadline: &Deadline,
) -> Result<BTreeMap<String, Tags>, AwsError> {
    const OPERATION: &str = "DescribeTags";
    let mut found: BTreeMap<String, Tags> = BTreeMap::new();
    let mut filters = vec![any_of("key", &KEYS.map(str::to_owned))];
    filters.extend(resources);
    let mut pages = ec2
        .describe_tags()
        .set_filters(Some(filters))
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        for tag in page.map_err(|e| AwsError::new(OPERATION, &e))?.tags() {
            let key = tag.key().filter(|key| is_opt_out_key(key));
            if let (Some(resource), Some(key)) = (tag.resource_id(), key) {
                let value = tag.value().unwrap_or_default().to_owned();
                let tags = found.entry(resource.to_owned()).or_default();
                tags.insert(key.to_owned(), value);
            }
        }
    }
    Ok(found)
}

/// The opt-out tags of every resource that has any, of any type.
///
/// # Errors
/// A call failed.
pub async fn all(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<BTreeMap<String, Tags>, AwsError> {
    tagged(ec2, None, deadline).await
}

/// The opt-out tags of every VPC that has any, by VPC id.
pub(crate) async fn of_vpcs(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<BTreeMap<String, Tags>, AwsError> {
    tagged(ec2, Some(filter("resource-type", "vpc")), deadline).await
}

/// The same for a walk: without an answer it goes on, and `unseen` says so.
pub(crate) async fn of_vpcs_seen(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
    unseen: &mut Vec<String>,
) -> BTreeMap<String, Tags> {
    let vpcs = of_vpcs(ec2, deadline).await;
    vpcs.unwrap_or_else(|error| {
        unseen.push(format!("the opt-outs of VPCs: {error}"));
        BTreeMap::new()
    })
}

/// Sets a resource's opt-out tag.
///
/// # Errors
/// The call failed.
pub async fn set(
    ec2: &aws_sdk_ec2::Client,
    resource: &str,
    value: &str,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    tags::set(ec2, resource, OPT_OUT_TAG, value, deadline).await
}

/// Removes an opt-out tag of a resource, by its key as it is spelt.
///
/// # Errors
/// The call failed.
pub async fn unset(
    ec2: &aws_sdk_ec2::Client,
    resource: &str,
    key: &str,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    tags::unset(ec2, resource, key, deadline).await
}

/// The security groups that tags of these resources concern: a group itself,
/// the group of a rule, every group of a VPC. What is gone concerns none.
///
/// # Errors
/// A call failed.
pub async fn groups_concerned(
    ec2: &aws_sdk_ec2::Client,
    resources: &[String],
    deadline: &Deadline,
) -> Result<BTreeSet<String>, AwsError> {
    const OPERATION: &str = "DescribeSecurityGroupRules";
    let of = |prefix: &str| -> Vec<String> {
        let of = resources.iter().filter(|id| id.starts_with(prefix));
        of.cloned().collect()
    };
    let mut groups: BTreeSet<String> = of("sg-").into_iter().collect();
    // By filter and not by id: one that is gone would fail the whole call.
    for rules in of("sgr-").chunks(VALUES) {
        let mut pages = ec2
            .describe_security_group_rules()
            .filters(any_of("security-group-rule-id", rules))
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            let ids = page.security_group_rules().iter();
            groups.extend(ids.filter_map(|rule| rule.group_id().map(str::to_owned)));
        }
    }
    for vpc in of("vpc-") {
        groups.extend(group_ids(ec2, "vpc-id", &vpc, deadline).await?);
    }
    Ok(groups)
}

/// A filter that lets through what has one of these values.
pub(crate) fn any_of(name: &str, values: &[String]) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.to_vec()))
        .build()
}
