//! Security groups: gather what is there, and carry out a plan.
//!
//! Reads go out in one parallel round; only prefix lists, which are known when
//! the rules are, need a second. Changes go one after the other, each by rule
//! id, each with its own outcome: nothing returns early, so that one denied
//! call never hides what the others did.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{
    Filter, IpPermission, IpRange, Ipv6Range, PrefixListId, ResourceType, SecurityGroupRule,
    SecurityGroupRuleRequest, SecurityGroupRuleUpdate, Tag, TagSpecification, UserIdGroupPair,
};
use backstop_core::plan::{Change, Ending, Outcome, Step};
use backstop_core::ports::Permission;
use backstop_core::security_group::{IngressRule, PrefixList, SecurityGroup, Source, Tags};

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::opt_outs;
use crate::remediation::Concerned;

/// Most rules a page of DescribeSecurityGroupRules holds (EC2's maximum).
const RULES_PAGE: i32 = 1000;
/// Most groups a page of DescribeSecurityGroups holds (EC2's maximum).
pub(crate) const GROUPS_PAGE: i32 = 1000;
/// Most entries a page of GetManagedPrefixListEntries holds (EC2's maximum).
const ENTRIES_PAGE: i32 = 100;

/// Reads a group as it is now: the group, all its rules, the opt-out tags of
/// VPCs, then the entries of the prefix lists that rules name.
///
/// The VPC of a group is only known once the group is; so that its tag costs
/// no round of its own, the opt-out tags of all VPCs are read (few have one).
///
/// # Errors
/// A call failed: nothing can be said of the group then.
pub async fn gather(
    ec2: &aws_sdk_ec2::Client,
    id: &str,
    region: &str,
    deadline: &Deadline,
) -> Result<Option<SecurityGroup>, AwsError> {
    let (group, rules, vpc_opt_outs) = tokio::join!(
        group(ec2, id, deadline),
        rules(ec2, id, deadline),
        opt_outs::of_vpcs(ec2, deadline),
    );
    let Some(group) = group? else {
        return Ok(None);
    };
    let rules = rules?;
    let mut vpc_opt_outs = vpc_opt_outs?;

    let lists: BTreeSet<&str> = rules
        .values()
        .filter_map(|rule| match &rule.source {
            Source::PrefixList(id) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let mut prefix_lists = BTreeMap::new();
    for (id, list) in entries_of_all(ec2, &lists, deadline).await {
        prefix_lists.insert(id, list?);
    }

    let vpc = group.vpc_id().map(str::to_owned);
    let owner = group.owner_id().unwrap_or_default().to_owned();
    Ok(Some(SecurityGroup {
        id: id.to_owned(),
        name: group.group_name().unwrap_or_default().to_owned(),
        arn: match group.security_group_arn() {
            Some(arn) => arn.to_owned(),
            None => arn(region, &owner, id),
        },
        owner,
        tags: tags(group.tags()),
        vpc_opt_outs: vpc
            .as_ref()
            .and_then(|vpc| vpc_opt_outs.remove(vpc))
            .unwrap_or_default(),
        vpc,
        rules,
        prefix_lists,
    }))
}

/// The ARN of a group, a volume or an instance, where EC2 does not say it.
#[must_use]
pub fn arn(region: &str, owner: &str, id: &str) -> String {
    let kind = match id.split_once('-') {
        Some(("vol", _)) => "volume",
        Some(("i", _)) => "instance",
        _ => "security-group",
    };
    format!("arn:{}:ec2:{region}:{owner}:{kind}/{id}", partition(region))
}

/// The partition of a Region, where EC2 does not say the ARN itself.
#[must_use]
pub fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

pub(crate) fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

pub(crate) fn tags(tags: &[Tag]) -> Tags {
    tags.iter()
        .map(|tag| {
            (
                tag.key().unwrap_or_default().to_owned(),
                tag.value().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

/// The group, or `None` if there is none: a missing group gives an empty list
/// of rules, so only this call can tell "gone" from "empty".
async fn group(
    ec2: &aws_sdk_ec2::Client,
    id: &str,
    deadline: &Deadline,
) -> Result<Option<aws_sdk_ec2::types::SecurityGroup>, AwsError> {
    let request = ec2.describe_security_groups().group_ids(id).send();
    match deadline.call("DescribeSecurityGroups", request).await {
        Ok(answer) => Ok(answer
            .security_groups
            .unwrap_or_default()
            .into_iter()
            .next()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All ingress rules of a group, all pages, by id.
async fn rules(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    deadline: &Deadline,
) -> Result<BTreeMap<String, IngressRule>, AwsError> {
    const OPERATION: &str = "DescribeSecurityGroupRules";
    let mut rules = BTreeMap::new();
    let mut pages = ec2
        .describe_security_group_rules()
        .filters(filter("group-id", group))
        .max_results(RULES_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        for rule in page
            .map_err(|e| AwsError::new(OPERATION, &e))?
            .security_group_rules()
        {
            if rule.is_egress() != Some(true)
                && let Some(rule) = ingress_rule(rule)
            {
                rules.insert(rule.id.clone(), rule);
            }
        }
    }
    Ok(rules)
}

/// A page of a paginator, or out of time.
pub(crate) async fn within<T>(
    deadline: &Deadline,
    operation: &'static str,
    page: impl Future<Output = T>,
) -> Result<T, AwsError> {
    tokio::time::timeout(deadline.left(), page)
        .await
        .map_err(|_| AwsError::out_of_time(operation))
}

fn ingress_rule(rule: &SecurityGroupRule) -> Option<IngressRule> {
    let source = if let Some(block) = rule.cidr_ipv4() {
        Source::Ipv4(block.to_owned())
    } else if let Some(block) = rule.cidr_ipv6() {
        Source::Ipv6(block.to_owned())
    } else if let Some(list) = rule.prefix_list_id() {
        Source::PrefixList(list.to_owned())
    } else {
        let group = rule.referenced_group_info()?;
        let id = group.group_id().unwrap_or_default();
        Source::SecurityGroup(match group.user_id() {
            Some(account) if Some(account) != rule.group_owner_id() => format!("{account}/{id}"),
            _ => id.to_owned(),
        })
    };
    Some(IngressRule {
        id: rule.security_group_rule_id()?.to_owned(),
        permission: Permission {
            protocol: rule.ip_protocol().unwrap_or("-1").to_owned(),
            from_port: rule.from_port(),
            to_port: rule.to_port(),
        },
        source,
        description: rule
            .description()
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        tags: tags(rule.tags()),
    })
}

/// The entries of every list, read side by side.
pub(crate) async fn entries_of_all(
    ec2: &aws_sdk_ec2::Client,
    lists: &BTreeSet<&str>,
    deadline: &Deadline,
) -> Vec<(String, Result<PrefixList, AwsError>)> {
    let mut reads = tokio::task::JoinSet::new();
    for id in lists {
        let (ec2, id, deadline) = (ec2.clone(), (*id).to_owned(), *deadline);
        reads.spawn(async move {
            let list = entries(&ec2, &id, &deadline).await;
            (id, list)
        });
    }
    reads.join_all().await
}

async fn entries(
    ec2: &aws_sdk_ec2::Client,
    list: &str,
    deadline: &Deadline,
) -> Result<PrefixList, AwsError> {
    const OPERATION: &str = "GetManagedPrefixListEntries";
    let mut entries = Vec::new();
    let mut pages = ec2
        .get_managed_prefix_list_entries()
        .prefix_list_id(list)
        .max_results(ENTRIES_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        match page.map_err(|e| AwsError::new(OPERATION, &e)) {
            Ok(page) => {
                entries.extend(
                    page.entries()
                        .iter()
                        .filter_map(|e| e.cidr().map(str::to_owned)),
                );
            }
            // A list that another account has stopped sharing stays named by
            // the rule, and must not keep the other rules from being judged.
            Err(error) if error.is_not_found() => {
                return Ok(PrefixList::Unreadable(error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(PrefixList::Entries(entries))
}

/// The groups that a change of a prefix list concerns.
///
/// # Errors
/// A call failed.
pub async fn groups_naming(
    ec2: &aws_sdk_ec2::Client,
    list: &str,
    deadline: &Deadline,
) -> Result<Concerned, AwsError> {
    let request = ec2
        .describe_managed_prefix_lists()
        .prefix_list_ids(list)
        .send();
    let (state, groups) = tokio::join!(
        deadline.call("DescribeManagedPrefixLists", request),
        group_ids(ec2, "ip-permission.prefix-list-id", list, deadline),
    );
    let state = match state {
        Ok(answer) => answer.prefix_lists().first().map(|list| {
            list.state()
                .map(|s| s.as_str().to_owned())
                .unwrap_or_default()
        }),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    match state {
        None => Ok(Concerned::Gone),
        Some(state) if state.ends_with("-in-progress") => Ok(Concerned::BeingModified(state)),
        Some(_) => Ok(Concerned::Resources(groups?)),
    }
}

/// The groups that a filter of DescribeSecurityGroups leaves, all pages.
pub(crate) async fn group_ids(
    ec2: &aws_sdk_ec2::Client,
    by: &str,
    value: &str,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    const OPERATION: &str = "DescribeSecurityGroups";
    let mut ids = Vec::new();
    let mut pages = ec2
        .describe_security_groups()
        .filters(filter(by, value))
        .max_results(GROUPS_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
        ids.extend(
            page.security_groups()
                .iter()
                .filter_map(|g| g.group_id().map(str::to_owned)),
        );
    }
    Ok(ids)
}

/// Carries out the change of a rule. Every step yields one outcome, and nothing
/// returns early that would hide what the others did.
pub async fn apply(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    change: &Change<IngressRule>,
    deadline: &Deadline,
) -> Vec<Outcome> {
    let Some(rule) = &change.before else {
        return Vec::new();
    };
    let mut run = Apply {
        ec2,
        group,
        rule,
        deadline,
        outcomes: Vec::new(),
    };
    run.change(change).await;
    run.outcomes
}

struct Apply<'a> {
    ec2: &'a aws_sdk_ec2::Client,
    group: &'a str,
    rule: &'a IngressRule,
    deadline: &'a Deadline,
    outcomes: Vec<Outcome>,
}

/// What is said where a group has no room for an allowed part.
const NO_ROOM: &str = "the group holds as many rules as it may; this allowed part is lost";

impl Apply<'_> {
    async fn change(&mut self, change: &Change<IngressRule>) {
        let Some(narrow_to) = change.after.as_ref().map(|after| &after.permission) else {
            return self.revoke().await;
        };
        // The further allowed parts first: at no moment is anything closed
        // that may stay open.
        let mut created = Vec::new();
        for part in &change.add {
            match self.authorise(&part.permission).await {
                Ok(id) => created.extend(id),
                Err(()) => {
                    let why = "an allowed part could not be authorised before".to_owned();
                    self.note(Step::Narrow, Some(narrow_to), Ending::Skipped { why });
                    return;
                }
            }
        }
        match self.narrow(narrow_to).await {
            Ok(()) => self.note(Step::Narrow, Some(narrow_to), Ending::Done),
            // Somebody removed the whole rule meanwhile: then nobody wants its
            // parts either.
            Err(error) if error.is_not_found() => {
                self.note(Step::Narrow, Some(narrow_to), Ending::AlreadyDone);
                for id in created {
                    self.take_back(id).await;
                }
            }
            // EC2 will not change this rule in place: its first allowed part
            // is authorised as well, then the rule is revoked.
            Err(error) if error.is_refusal() => {
                tracing::info!(rule = %self.rule.id, %error, "not changed in place: authorise and revoke");
                if self.authorise(narrow_to).await.is_ok() {
                    self.revoke().await;
                } else {
                    self.note(
                        Step::Revoke,
                        None,
                        Ending::Skipped {
                            why: "an allowed part could not be authorised before".to_owned(),
                        },
                    );
                }
            }
            Err(error) => self.note(Step::Narrow, Some(narrow_to), error.ending()),
        }
    }

    fn note(&mut self, step: Step, permission: Option<&Permission>, ending: Ending) {
        self.outcomes.push(Outcome {
            round: 0,
            item: self.rule.id.clone(),
            step,
            permission: permission.cloned(),
            created: None,
            ending,
        });
    }

    async fn revoke(&mut self) {
        let ending = self.revoke_id(&self.rule.id).await;
        self.note(Step::Revoke, None, ending);
    }

    async fn take_back(&mut self, id: String) {
        let ending = self.revoke_id(&id).await;
        self.outcomes.push(Outcome {
            round: 0,
            item: self.rule.id.clone(),
            step: Step::TakeBack,
            permission: None,
            created: Some(id),
            ending,
        });
    }

    async fn revoke_id(&self, id: &str) -> Ending {
        revoke_rule(self.ec2, self.group, id, self.deadline).await
    }

    /// Authorises an allowed part. `Ok` also where the group has no room: the
    /// exposure goes all the same, and what is lost is told.
    async fn authorise(&mut self, permission: &Permission) -> Result<Option<String>, ()> {
        let rule = self.rule;
        let answer = authorise_rule(
            self.ec2,
            self.group,
            rule,
            permission,
            &rule.tags,
            self.deadline,
        )
        .await;
        let (created, ending) = match &answer {
            Ok(created) => (created.clone(), Ending::Done),
            Err(error) if error.is_duplicate() => (None, Ending::AlreadyDone),
            Err(error) if error.is_rule_limit() => (
                None,
                Ending::Skipped {
                    why: NO_ROOM.to_owned(),
                },
            ),
            Err(error) => (None, error.ending()),
        };
        let failed = matches!(ending, Ending::Failed { .. });
        self.outcomes.push(Outcome {
            round: 0,
            item: rule.id.clone(),
            step: Step::Authorise,
            permission: Some(permission.clone()),
            created: created.clone(),
            ending,
        });
        if failed { Err(()) } else { Ok(created) }
    }

    async fn narrow(&self, to: &Permission) -> Result<(), AwsError> {
        modify_rule(self.ec2, self.group, self.rule, to, self.deadline).await
    }
}

/// Revokes one rule by its id: exactly it, and nothing that looks like it.
pub(crate) async fn revoke_rule(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    id: &str,
    deadline: &Deadline,
) -> Ending {
    let request = ec2
        .revoke_security_group_ingress()
        .group_id(group)
        .security_group_rule_ids(id)
        .send();
    match deadline.call("RevokeSecurityGroupIngress", request).await {
        Ok(_) => Ending::Done,
        Err(error) if error.is_not_found() => Ending::AlreadyDone,
        Err(error) => error.ending(),
    }
}

/// Authorises a permission for the source of a rule, with its description and
/// these tags (`aws:` ones cannot be written): the new rule's id.
pub(crate) async fn authorise_rule(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    rule: &IngressRule,
    permission: &Permission,
    tags: &Tags,
    deadline: &Deadline,
) -> Result<Option<String>, AwsError> {
    let mut request = ec2
        .authorize_security_group_ingress()
        .group_id(group)
        .ip_permissions(ip_permission(rule, permission));
    let own: Vec<Tag> = tags
        .iter()
        .filter(|(key, _)| !key.starts_with("aws:"))
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect();
    if !own.is_empty() {
        request = request.tag_specifications(
            TagSpecification::builder()
                .resource_type(ResourceType::SecurityGroupRule)
                .set_tags(Some(own))
                .build(),
        );
    }
    let answer = deadline
        .call("AuthorizeSecurityGroupIngress", request.send())
        .await?;
    Ok(answer
        .security_group_rules()
        .first()
        .and_then(|rule| rule.security_group_rule_id())
        .map(str::to_owned))
}

/// Changes a rule in place: id and tags stay, the description has to be passed
/// again.
pub(crate) async fn modify_rule(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    rule: &IngressRule,
    to: &Permission,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let update = SecurityGroupRuleRequest::builder()
        .ip_protocol(&to.protocol)
        .set_from_port(to.from_port)
        .set_to_port(to.to_port)
        .set_description(rule.description.clone());
    let update = match &rule.source {
        Source::Ipv4(block) => update.cidr_ipv4(block),
        Source::Ipv6(block) => update.cidr_ipv6(block),
        Source::PrefixList(list) => update.prefix_list_id(list),
        Source::SecurityGroup(group) => update.referenced_group_id(account_and_group(group).1),
    };
    let request = ec2
        .modify_security_group_rules()
        .group_id(group)
        .security_group_rules(
            SecurityGroupRuleUpdate::builder()
                .security_group_rule_id(&rule.id)
                .security_group_rule(update.build())
                .build(),
        )
        .send();
    deadline
        .call("ModifySecurityGroupRules", request)
        .await
        .map(|_| ())
}

/// A group as a rule's source: its account, where that is another one, and id.
fn account_and_group(source: &str) -> (Option<&str>, &str) {
    match source.split_once('/') {
        Some((account, id)) => (Some(account), id),
        None => (None, source),
    }
}

fn ip_permission(rule: &IngressRule, permission: &Permission) -> IpPermission {
    let description = rule.description.clone();
    let builder = IpPermission::builder()
        .ip_protocol(&permission.protocol)
        .set_from_port(permission.from_port)
        .set_to_port(permission.to_port);
    match &rule.source {
        Source::Ipv4(block) => builder.ip_ranges(
            IpRange::builder()
                .cidr_ip(block)
                .set_description(description)
                .build(),
        ),
        Source::Ipv6(block) => builder.ipv6_ranges(
            Ipv6Range::builder()
                .cidr_ipv6(block)
                .set_description(description)
                .build(),
        ),
        Source::PrefixList(list) => builder.prefix_list_ids(
            PrefixListId::builder()
                .prefix_list_id(list)
                .set_description(description)
                .build(),
        ),
        Source::SecurityGroup(group) => {
            let (account, id) = account_and_group(group);
            builder.user_id_group_pairs(
                UserIdGroupPair::builder()
                    .group_id(id)
                    .set_user_id(account.map(str::to_owned))
                    .set_description(description)
                    .build(),
            )
        }
    }
    .build()
}
