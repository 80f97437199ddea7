//! Every security group of the account, page by page, for the sweep and for
//! scans.
//!
//! DescribeSecurityGroups gives 1,000 groups a page with their tags and what
//! they admit, but no rule ids and no rules' tags: enough to see which groups
//! want a closer look, at a cost that grows with pages alone. Each page is
//! handed on and dropped, so memory stays flat.
//!
//! Deliberately not here: the closer look (`security_groups::gather`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ec2::operation::describe_security_groups::DescribeSecurityGroupsOutput;
use aws_sdk_ec2::types::IpPermission;
use backstop_core::ports::Permission;
use backstop_core::security_group::{
    Entries, IngressRule, PrefixList, SecurityGroup, Source, Tags,
};

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::opt_outs;
use crate::remediation::{Stopped, Walked};
use crate::security_groups::{GROUPS_PAGE, arn, entries_of_all, owners, tags};

/// How long a walk pauses when EC2 goes on throttling it.
const PAUSE: Duration = Duration::from_secs(3);

/// Walks all groups of the Region, a page at a time. Rules have ids of their
/// own making, good within the page only.
///
/// # Errors
/// It did not see them all.
pub async fn walk(
    ec2: &aws_sdk_ec2::Client,
    region: &str,
    deadline: &Deadline,
    mut each: impl AsyncFnMut(Vec<SecurityGroup>),
) -> Result<Walked, Stopped> {
    let mut seen = 0_u64;
    let mut unseen = Vec::new();
    let vpcs = opt_outs::of_vpcs_seen(ec2, deadline, &mut unseen).await;
    // A list that many groups name is read once.
    let mut lists: BTreeMap<String, PrefixList> = BTreeMap::new();
    let mut token = None;
    loop {
        let page = page(ec2, token, deadline).await.map_err(|error| Stopped {
            what: "security groups",
            seen,
            error,
        })?;
        token = page.next_token.filter(|token| !token.is_empty());
        let groups = page.security_groups.unwrap_or_default();
        let unread: BTreeSet<&str> = groups
            .iter()
            .flat_map(|group| group.ip_permissions())
            .flat_map(|permission| permission.prefix_list_ids())
            .filter_map(|list| list.prefix_list_id())
            .filter(|id| !lists.contains_key(*id))
            .collect();
        let ids: Vec<String> = unread.iter().map(|id| (*id).to_owned()).collect();
        let (entries, owners) = tokio::join!(
            entries_of_all(ec2, &unread, deadline),
            owners(ec2, &ids, deadline),
        );
        let mut owners = owners.unwrap_or_else(|error| {
            unseen.push(format!("the owners of prefix lists: {error}"));
            BTreeMap::new()
        });
        for (id, entries) in entries {
            // What is not shown is a finding of its own.
            if let Entries::Failed(why) | Entries::Refused(why) = &entries {
                unseen.push(format!("the prefix list {id}: {why}"));
            }
            let owner = owners.remove(&id);
            lists.insert(id, PrefixList { owner, entries });
        }
        seen += groups.len() as u64;
        let groups = groups
            .iter()
            .map(|group| facts(group, region, &vpcs, &lists))
            .collect();
        each(groups).await;
        if token.is_none() {
            return Ok(Walked { seen, unseen });
        }
    }
}

/// One page.
async fn page(
    ec2: &aws_sdk_ec2::Client,
    token: Option<String>,
    deadline: &Deadline,
) -> Result<DescribeSecurityGroupsOutput, AwsError> {
    patiently(deadline, async || {
        let request = ec2
            .describe_security_groups()
            .max_results(GROUPS_PAGE)
            .set_next_token(token.clone());
        deadline
            .call("DescribeSecurityGroups", request.send())
            .await
    })
    .await
}

/// Asks for a page of a walk. In an account that keeps EC2 busy the SDK's own
/// retries are used up in the course of a long walk (it allows a client some
/// hundred of them); after a pause the page is asked for again, as long as
/// there is time.
pub(crate) async fn patiently<T>(
    deadline: &Deadline,
    ask: impl AsyncFn() -> Result<T, AwsError>,
) -> Result<T, AwsError> {
    loop {
        match ask().await {
            Err(error) if error.retryable && deadline.left() > PAUSE => {
                tracing::info!(%error, "the walk pauses");
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Hands on what the pages of a walk hold, a page at a time and dropped then; how
/// much that was, also where the walk stopped.
pub(crate) async fn each_page<T>(
    deadline: &Deadline,
    read: impl AsyncFn(Option<String>) -> Result<(Vec<T>, Option<String>), AwsError>,
    mut each: impl AsyncFnMut(Vec<T>),
) -> Result<u64, (u64, AwsError)> {
    let mut seen = 0_u64;
    let mut token: Option<String> = None;
    loop {
        let (page, next) = patiently(deadline, async || read(token.clone()).await)
            .await
            .map_err(|error| (seen, error))?;
        seen += page.len() as u64;
        each(page).await;
        token = next.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(seen);
        }
    }
}

/// A group as a page shows it.
fn facts(
    group: &aws_sdk_ec2::types::SecurityGroup,
    region: &str,
    vpcs: &BTreeMap<String, Tags>,
    lists: &BTreeMap<String, PrefixList>,
) -> SecurityGroup {
    let id = group.group_id().unwrap_or_default().to_owned();
    let owner = group.owner_id().unwrap_or_default().to_owned();
    let rules: BTreeMap<String, IngressRule> = group
        .ip_permissions()
        .iter()
        .flat_map(rules)
        .enumerate()
        .map(|(n, rule)| (format!("{n:05}"), rule))
        .map(|(n, rule)| {
            let rule = IngressRule {
                id: n.clone(),
                ..rule
            };
            (n, rule)
        })
        .collect();
    let prefix_lists = rules
        .values()
        .filter_map(|rule| match &rule.source {
            Source::PrefixList(id) => lists.get(id).map(|list| (id.clone(), list.clone())),
            _ => None,
        })
        .collect();
    let vpc = group.vpc_id().map(str::to_owned);
    SecurityGroup {
        name: group.group_name().unwrap_or_default().to_owned(),
        arn: group
            .security_group_arn()
            .map_or_else(|| arn(region, &owner, &id), str::to_owned),
        tags: tags(group.tags()),
        vpc_opt_outs: vpc
            .as_ref()
            .and_then(|vpc| vpcs.get(vpc))
            .cloned()
            .unwrap_or_default(),
        id,
        owner,
        vpc,
        rules,
        prefix_lists,
    }
}

/// One rule for each source of a permission.
fn rules(permission: &IpPermission) -> Vec<IngressRule> {
    let of = |source: Source, description: Option<&str>| IngressRule {
        id: String::new(),
        permission: Permission {
            protocol: permission.ip_protocol().unwrap_or("-1").to_owned(),
            from_port: permission.from_port(),
            to_port: permission.to_port(),
        },
        source,
        description: description
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        tags: Tags::new(),
    };
    let v4 = permission.ip_ranges().iter().filter_map(|range| {
        Some(of(
            Source::Ipv4(range.cidr_ip()?.to_owned()),
            range.description(),
        ))
    });
    let v6 = permission.ipv6_ranges().iter().filter_map(|range| {
        let block = range.cidr_ipv6()?.to_owned();
        Some(of(Source::Ipv6(block), range.description()))
    });
    let lists = permission.prefix_list_ids().iter().filter_map(|list| {
        let id = list.prefix_list_id()?.to_owned();
        Some(of(Source::PrefixList(id), list.description()))
    });
    let groups = permission.user_id_group_pairs().iter().filter_map(|pair| {
        let id = pair.group_id()?.to_owned();
        Some(of(Source::SecurityGroup(id), pair.description()))
    });
    v4.chain(v6).chain(lists).chain(groups).collect()
}
