//! Opt-out tags as they are now, and the security groups that they concern.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::Filter;
use backstop_core::exemption::OPT_OUT_TAG;

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::security_groups::{filter, group_ids, within};
use crate::tags;

/// Most values of one filter (EC2's quota).
pub(crate) const VALUES: usize = 200;

/// The opt-out tag's value of each of these resources that has one.
///
/// # Errors
/// A call failed.
pub async fn read(
    ec2: &aws_sdk_ec2::Client,
    resources: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, String>, AwsError> {
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
) -> Result<BTreeMap<String, String>, AwsError> {
    const OPERATION: &str = "DescribeTags";
    let mut found = BTreeMap::new();
    let mut filters = vec![filter("key", OPT_OUT_TAG)];
    filters.extend(resources);
    let mut pages = ec2
        .describe_tags()
        .set_filters(Some(filters))
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        for tag in page.map_err(|e| AwsError::new(OPERATION, &e))?.tags() {
            if let Some(resource) = tag.resource_id() {
                let value = tag.value().unwrap_or_default().to_owned();
                found.insert(resource.to_owned(), value);
            }
        }
    }
    Ok(found)
}

/// The opt-out tag's value of every resource that has one, of any type.
///
/// # Errors
/// A call failed.
pub async fn all(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<BTreeMap<String, String>, AwsError> {
    tagged(ec2, None, deadline).await
}

/// The opt-out tag's value of every VPC that has one, by VPC id.
pub(crate) async fn of_vpcs(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<BTreeMap<String, String>, AwsError> {
    tagged(ec2, Some(filter("resource-type", "vpc")), deadline).await
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
