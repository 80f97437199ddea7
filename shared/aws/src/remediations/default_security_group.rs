//! `default-security-group`: the calls.
//!
//! What uses a group is read only of default groups that have rules: of others the
//! group itself says that there is nothing to do. Groups are read together, up to
//! 200 at a time: by a walk a page's, by a look one.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{NetworkInterface, SecurityGroup};
use backstop_core::controls::default_security_group::{DefaultSecurityGroup, Group};
use backstop_core::plan::{Change, Outcome, Step};
use backstop_core::security_group::{DEFAULT_NAME, Rule, Tags, User, Users};
use backstop_core::undo::{Act, ItemStates};

use crate::clients::Clients;
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::opt_outs::{self, VALUES, any_of};
use crate::remediation::{Concerned, Place, Remediation, Stopped, Walked};
use crate::remediations::open_ingress::authorise;
use crate::security_groups::{
    GROUPS_PAGE, arn, filter, group, revoke_rule, rules_of, tags, within,
};

/// Most interfaces of a page (EC2's maximum).
const INTERFACES_PAGE: i32 = 1000;

impl Remediation for DefaultSecurityGroup {
    async fn gather(aws: &Clients, at: Place<'_>, id: &str) -> Result<Option<Group>, AwsError> {
        let (ec2, ids) = (&aws.ec2, [id.to_owned()]);
        let (group, rules) = tokio::join!(
            group(ec2, id, at.deadline),
            rules_of(ec2, &ids, at.deadline)
        );
        let (Some(group), rules) = (group?, rules?) else {
            return Ok(None);
        };
        if group.group_name() != Some(DEFAULT_NAME) || rules.is_empty() {
            return Ok(Some(facts(&group, at.region, None)));
        }
        let (vpcs, users) = tokio::join!(
            opt_outs::of_vpcs(ec2, at.deadline),
            users(ec2, &ids, at.deadline),
        );
        let read = Read {
            vpcs: &vpcs?,
            rules,
            users: users?,
        };
        Ok(Some(facts(&group, at.region, Some(&read))))
    }

    async fn apply(aws: &Clients, at: Place<'_>, id: &str, change: &Change<Rule>) -> Vec<Outcome> {
        let Some(rule) = &change.before else {
            return Vec::new();
        };
        let direction = rule.direction;
        vec![Outcome {
            round: 0,
            item: change.item.clone(),
            step: Step::Revoke,
            permission: None,
            created: None,
            without: None,
            ending: revoke_rule(&aws.ec2, id, direction, &rule.rule.id, at.deadline).await,
        }]
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<Group>),
    ) -> Result<Walked, Stopped> {
        let ec2 = &aws.ec2;
        let mut unseen = Vec::new();
        let vpcs = opt_outs::of_vpcs_seen(ec2, at.deadline, &mut unseen).await;
        let read = async |token: Option<String>| {
            let request = ec2
                .describe_security_groups()
                .filters(filter("group-name", DEFAULT_NAME))
                .max_results(GROUPS_PAGE)
                .set_next_token(token);
            let page = at.deadline.call("DescribeSecurityGroups", request.send());
            let page = page.await?;
            let groups = page.security_groups().iter();
            let with_rules = groups.clone().filter(|group| has_rules(group));
            let ids = with_rules.filter_map(|group| group.group_id().map(str::to_owned));
            let ids: Vec<String> = ids.collect();
            let read = read(ec2, &ids, &vpcs, at.deadline).await?;
            let groups = groups.map(|group| facts(group, at.region, Some(&read)));
            Ok((groups.collect(), page.next_token.clone()))
        };
        let walked = each_page(at.deadline, read, each).await;
        let what = "default security groups";
        let seen = walked.map_err(|(seen, error)| Stopped { what, seen, error })?;
        Ok(Walked { seen, unseen })
    }

    async fn concerned(aws: &Clients, at: Place<'_>, vpc: &str) -> Result<Concerned, AwsError> {
        const OPERATION: &str = "DescribeSecurityGroups";
        let request = aws.ec2.describe_security_groups();
        let request = request.filters(filter("vpc-id", vpc));
        let request = request.filters(filter("group-name", DEFAULT_NAME)).send();
        let answer = at.deadline.call(OPERATION, request).await?;
        let ids = answer.security_groups().iter();
        let ids: Vec<String> = ids.filter_map(|of| of.group_id.clone()).collect();
        Ok(match ids.is_empty() {
            true => Concerned::Gone,
            false => Concerned::Resources(ids),
        })
    }

    async fn restore(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        states: &[ItemStates<Rule>],
        opt_out: &dyn Fn(&Rule) -> String,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for state in states.iter().filter(|state| state.act == Act::Authorise) {
            let rule = (state.before.direction, &state.before.rule);
            let value = opt_out(&state.before);
            outcomes.extend(authorise(&aws.ec2, id, rule, &value, at.deadline).await);
        }
        outcomes
    }
}

/// What is read of groups beside themselves.
struct Read<'a> {
    /// The opt-out tags of VPCs.
    vpcs: &'a BTreeMap<String, Tags>,
    /// Their rules, each with its group.
    rules: Vec<(String, Rule)>,
    /// What uses them, by id. `Err`: EC2 refuses to say.
    users: Result<BTreeMap<String, Users>, String>,
}

/// Reads groups beside themselves, 200 at a time.
async fn read<'a>(
    ec2: &aws_sdk_ec2::Client,
    groups: &[String],
    vpcs: &'a BTreeMap<String, Tags>,
    deadline: &Deadline,
) -> Result<Read<'a>, AwsError> {
    let mut read = Read {
        vpcs,
        rules: Vec::new(),
        users: Ok(BTreeMap::new()),
    };
    for groups in groups.chunks(VALUES) {
        let (rules, users) = tokio::join!(
            rules_of(ec2, groups, deadline),
            users(ec2, groups, deadline),
        );
        read.rules.extend(rules?);
        match (&mut read.users, users?) {
            (Ok(all), Ok(users)) => all.extend(users),
            (of_all, Err(why)) => *of_all = Err(why),
            (Err(_), Ok(_)) => {}
        }
    }
    Ok(read)
}

/// Whether DescribeSecurityGroups shows a rule of a group.
fn has_rules(group: &SecurityGroup) -> bool {
    !group.ip_permissions().is_empty() || !group.ip_permissions_egress().is_empty()
}

fn facts(group: &SecurityGroup, region: &str, read: Option<&Read<'_>>) -> Group {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let (id, owner) = (text(group.group_id()), text(group.owner_id()));
    let rules = read.iter().flat_map(|read| &read.rules);
    let rules = rules.filter(|(of, _)| *of == id);
    let users = read.map_or(Ok(Users::default()), |read| match &read.users {
        Ok(users) => Ok(users.get(&id).cloned().unwrap_or_default()),
        Err(why) => Err(why.clone()),
    });
    let vpc_opt_outs = read.and_then(|read| read.vpcs.get(group.vpc_id()?));
    Group {
        name: text(group.group_name()),
        arn: match group.security_group_arn() {
            Some(arn) => arn.to_owned(),
            None => arn(region, &owner, &id),
        },
        tags: tags(group.tags()),
        vpc_opt_outs: vpc_opt_outs.cloned().unwrap_or_default(),
        rules: rules
            .map(|(_, rule)| (rule.rule.id.clone(), rule.clone()))
            .collect(),
        users,
        owner,
        id,
    }
}

/// What uses groups (at most 200), beside themselves. `Ok(Err(_))`: EC2 refuses to
/// say, and no retry helps.
async fn users(
    ec2: &aws_sdk_ec2::Client,
    groups: &[String],
    deadline: &Deadline,
) -> Result<Result<BTreeMap<String, Users>, String>, AwsError> {
    let (interfaces, by_ingress, by_egress, beyond) = tokio::join!(
        interfaces(ec2, groups, deadline),
        naming(ec2, "ip-permission.group-id", groups, deadline),
        naming(ec2, "egress.ip-permission.group-id", groups, deadline),
        beyond(ec2, groups, deadline),
    );
    let mut all = BTreeSet::new();
    let mut refused = None;
    for answer in [interfaces, by_ingress, by_egress, beyond] {
        match answer {
            Ok(users) => all.extend(users),
            // One of them is gone, and what is known of it, too.
            Err(error) if error.is_not_found() => {}
            Err(error) if error.retryable => return Err(error),
            Err(error) => refused = Some(error.to_string()),
        }
    }
    if let Some(why) = refused {
        return Ok(Err(why));
    }
    let mut users: BTreeMap<String, Users> = BTreeMap::new();
    for (group, user) in all {
        users.entry(group).or_default().add(user);
    }
    Ok(Ok(users))
}

/// A group, and what uses it.
type Use = (String, User);

/// The network interfaces in groups, those of AWS services too.
async fn interfaces(
    ec2: &aws_sdk_ec2::Client,
    groups: &[String],
    deadline: &Deadline,
) -> Result<Vec<Use>, AwsError> {
    const OPERATION: &str = "DescribeNetworkInterfaces";
    let mut uses = Vec::new();
    let mut pages = ec2
        .describe_network_interfaces()
        .filters(any_of("group-id", groups))
        .include_managed_resources(true)
        .max_results(INTERFACES_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
        for interface in page.network_interfaces() {
            let of = interface.groups().iter().filter_map(|of| of.group_id());
            let of = of.filter(|of| groups.iter().any(|group| group == of));
            uses.extend(of.map(|of| (of.to_owned(), member(interface))));
        }
    }
    Ok(uses)
}

fn member(interface: &NetworkInterface) -> User {
    let instance = interface.attachment().and_then(|of| of.instance_id());
    let described = interface.description().filter(|text| !text.is_empty());
    User::Interface {
        id: interface
            .network_interface_id()
            .unwrap_or_default()
            .to_owned(),
        of: instance.or(described).map(str::to_owned),
    }
}

/// The other groups of which rules name these, by a filter.
async fn naming(
    ec2: &aws_sdk_ec2::Client,
    by: &str,
    groups: &[String],
    deadline: &Deadline,
) -> Result<Vec<Use>, AwsError> {
    const OPERATION: &str = "DescribeSecurityGroups";
    let mut uses = Vec::new();
    let mut pages = ec2
        .describe_security_groups()
        .filters(any_of(by, groups))
        .max_results(GROUPS_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
        for other in page.security_groups() {
            let rules = other.ip_permissions().iter();
            let rules = rules.chain(other.ip_permissions_egress());
            let pairs = rules.flat_map(|rule| rule.user_id_group_pairs());
            for named in pairs.filter_map(|pair| pair.group_id()) {
                let id = other.group_id().unwrap_or_default().to_owned();
                if id != named && groups.iter().any(|group| group == named) {
                    uses.push((named.to_owned(), User::Group { id }));
                }
            }
        }
    }
    Ok(uses)
}

/// The VPCs beyond a peering connection or a transit gateway of which groups name
/// these.
async fn beyond(
    ec2: &aws_sdk_ec2::Client,
    groups: &[String],
    deadline: &Deadline,
) -> Result<Vec<Use>, AwsError> {
    let references = ec2.describe_security_group_references();
    let request = references.set_group_id(Some(groups.to_vec())).send();
    let answer = deadline.call("DescribeSecurityGroupReferences", request);
    let answer = answer.await?;
    let references = answer.security_group_reference_set().iter();
    let of = references.filter_map(|of| {
        let id = of.referencing_vpc_id().unwrap_or_default().to_owned();
        Some((of.group_id()?.to_owned(), User::Vpc { id }))
    });
    Ok(of.collect())
}
