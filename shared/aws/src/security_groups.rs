//! Security groups: gather what is there, and carry out a plan.
//!
//! Reads go out in one parallel round; only prefix lists, which are known when
//! the rules are, need a second. (A third asks who owns lists that cannot be
//! read.) A list that cannot be read keeps no other rule from being judged.
//! Changes go one after the other, each by rule id, each with its own outcome:
//! nothing returns early, so that one denied call never hides what the others did.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{
    Filter, IpPermission, IpRange, Ipv6Range, PrefixListId, ResourceType, SecurityGroupRule,
    SecurityGroupRuleRequest, SecurityGroupRuleUpdate, Tag, TagSpecification, UserIdGroupPair,
};
use backstop_core::plan::{Change, Ending, Outcome, Step, Without};
use backstop_core::ports::Permission;
use backstop_core::security_group::{
    Direction, Entries, IngressRule, PrefixList, Rule, SecurityGroup, Source, Tags,
};

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
/// Most values that a filter may have (EC2's maximum).
const MOST_FILTER_VALUES: usize = 200;

/// Reads a group as it is now: the group, all its rules, the opt-out tags of
/// VPCs, then the entries of the prefix lists that rules name.
///
/// The VPC of a group is only known once the group is; so that its tag costs
/// no round of its own, the opt-out tags of all VPCs are read (few have one).
///
/// # Errors
/// A call failed, other than for a prefix list: nothing can be said of the group
/// then.
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
    let mut prefix_lists: BTreeMap<String, PrefixList> = entries_of_all(ec2, &lists, deadline)
        .await
        .into_iter()
        .map(|(id, entries)| (id, PrefixList::of(entries)))
        .collect();
    let unreadable: Vec<String> = prefix_lists
        .iter()
        .filter(|(_, list)| matches!(list.entries, Entries::NotShown(_) | Entries::Refused(_)))
        .map(|(id, _)| id.clone())
        .collect();
    // Only what people are told depends on it.
    let owners = owners(ec2, &unreadable, deadline).await;
    for (id, owner) in owners.unwrap_or_default() {
        if let Some(list) = prefix_lists.get_mut(&id) {
            list.owner = Some(owner);
        }
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

/// The ARN of a resource by its id, where EC2 does not say it: of a group, a volume,
/// an instance, a subnet, a snapshot or an image.
#[must_use]
pub fn arn(region: &str, owner: &str, id: &str) -> String {
    let (kind, owner) = match id.split_once('-') {
        Some(("vol", _)) => ("volume", owner),
        Some(("i", _)) => ("instance", owner),
        Some(("subnet", _)) => ("subnet", owner),
        // Their ARNs name no account.
        Some(("snap", _)) => ("snapshot", ""),
        Some(("ami", _)) => ("image", ""),
        _ => ("security-group", owner),
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
pub(crate) async fn group(
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
    let rules = rules_of(ec2, &[group.to_owned()], deadline).await?;
    let ingress = rules.into_iter().filter_map(|(_, of)| {
        (of.direction == Direction::Ingress).then_some((of.rule.id.clone(), of.rule))
    });
    Ok(ingress.collect())
}

/// All rules of these groups (at most 200), all pages: the group, and the rule.
///
/// # Errors
/// A call failed.
pub(crate) async fn rules_of(
    ec2: &aws_sdk_ec2::Client,
    groups: &[String],
    deadline: &Deadline,
) -> Result<Vec<(String, Rule)>, AwsError> {
    const OPERATION: &str = "DescribeSecurityGroupRules";
    let mut rules = Vec::new();
    let mut pages = ec2
        .describe_security_group_rules()
        .filters(opt_outs::any_of("group-id", groups))
        .max_results(RULES_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
        rules.extend(page.security_group_rules().iter().filter_map(|of| {
            let direction = match of.is_egress() {
                Some(true) => Direction::Egress,
                _ => Direction::Ingress,
            };
            let rule = rule(of)?;
            let group = of.group_id().unwrap_or_default().to_owned();
            Some((group, Rule { direction, rule }))
        }));
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

fn rule(rule: &SecurityGroupRule) -> Option<IngressRule> {
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

/// The accounts that own prefix lists, by id; of those that EC2 shows.
///
/// # Errors
/// A call failed.
pub(crate) async fn owners(
    ec2: &aws_sdk_ec2::Client,
    lists: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, String>, AwsError> {
    const OPERATION: &str = "DescribeManagedPrefixLists";
    let mut owners = BTreeMap::new();
    // By filter: of ids that it does not know EC2 would refuse all.
    for lists in lists.chunks(MOST_FILTER_VALUES) {
        let by_id = Filter::builder().name("prefix-list-id");
        let mut pages = ec2
            .describe_managed_prefix_lists()
            .filters(by_id.set_values(Some(lists.to_vec())).build())
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            owners.extend(page.prefix_lists().iter().filter_map(|list| {
                let (id, owner) = (list.prefix_list_id()?, list.owner_id()?);
                Some((id.to_owned(), owner.to_owned()))
            }));
        }
    }
    Ok(owners)
}

/// The entries of every list, read side by side.
pub(crate) async fn entries_of_all(
    ec2: &aws_sdk_ec2::Client,
    lists: &BTreeSet<&str>,
    deadline: &Deadline,
) -> Vec<(String, Entries)> {
    let mut reads = tokio::task::JoinSet::new();
    for id in lists {
        let (ec2, id, deadline) = (ec2.clone(), (*id).to_owned(), *deadline);
        reads.spawn(async move {
            let entries = match entries(&ec2, &id, &deadline).await {
                Ok(blocks) => Entries::Read(blocks),
                Err(error) if error.is_not_found() => Entries::NotShown(error.to_string()),
                Err(error) if error.retryable => Entries::Failed(error.to_string()),
                Err(error) => Entries::Refused(error.to_string()),
            };
            (id, entries)
        });
    }
    reads.join_all().await
}

async fn entries(
    ec2: &aws_sdk_ec2::Client,
    list: &str,
    deadline: &Deadline,
) -> Result<Vec<String>, AwsError> {
    const OPERATION: &str = "GetManagedPrefixListEntries";
    let mut entries = Vec::new();
    let mut pages = ec2
        .get_managed_prefix_list_entries()
        .prefix_list_id(list)
        .max_results(ENTRIES_PAGE)
        .into_paginator()
        .send();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
        let blocks = page.entries().iter().filter_map(|entry| entry.cidr());
        entries.extend(blocks.map(str::to_owned));
    }
    Ok(entries)
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

/// What the limit of a group's rules counts, as AWS documents its quotas for VPC.
pub(crate) const RULE_LIMIT: &str = "the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries";

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
                self.replace(narrow_to).await;
            }
            Err(error) => self.note(Step::Narrow, Some(narrow_to), error.ending()),
        }
    }

    /// Authorises the first allowed part and revokes the rule. The part comes first,
    /// unless only the rule's own place in the group has room for it.
    async fn replace(&mut self, part: &Permission) {
        let answer = self.try_authorise(part).await;
        if answer.as_ref().is_err_and(AwsError::is_rule_limit) {
            self.revoke().await;
            if self
                .outcomes
                .last()
                .is_none_or(|revoked| revoked.ending != Ending::Done)
            {
                return;
            }
            let answer = self.try_authorise(part).await;
            // Nothing is left to retry it for: the rule is gone.
            if self.note_authorised(part, answer).is_err()
                && let Some(last) = self.outcomes.last_mut()
            {
                last.ending = Ending::Skipped {
                    why: last.ending.to_string(),
                };
            }
        } else if self.note_authorised(part, answer).is_ok() {
            self.revoke().await;
        } else {
            let why = "an allowed part could not be authorised before".to_owned();
            self.note(Step::Revoke, None, Ending::Skipped { why });
        }
    }

    fn note(&mut self, step: Step, permission: Option<&Permission>, ending: Ending) {
        self.outcomes.push(Outcome {
            round: 0,
            item: self.rule.id.clone(),
            step,
            permission: permission.cloned(),
            created: None,
            without: None,
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
            without: None,
            ending,
        });
    }

    async fn revoke_id(&self, id: &str) -> Ending {
        revoke_rule(self.ec2, self.group, Direction::Ingress, id, self.deadline).await
    }

    /// Authorises an allowed part: the id of the rule that was made. `Err`: a retry
    /// may bring it about, so what the part belongs to has to stay until then.
    async fn authorise(&mut self, part: &Permission) -> Result<Option<String>, ()> {
        let answer = self.try_authorise(part).await;
        self.note_authorised(part, answer)
    }

    async fn try_authorise(&self, part: &Permission) -> Result<Authorised, AwsError> {
        let (ec2, rule) = (self.ec2, self.rule);
        let whole = (Direction::Ingress, rule);
        authorise_rule(ec2, self.group, whole, part, &rule.tags, self.deadline).await
    }

    /// Notes what came of an allowed part. `Ok` also where EC2 refuses it and no
    /// retry helps: the exposure goes all the same, and what is lost is told.
    fn note_authorised(
        &mut self,
        part: &Permission,
        answer: Result<Authorised, AwsError>,
    ) -> Result<Option<String>, ()> {
        let (Authorised { created, without }, ending) = match answer {
            Ok(made) => (made, Ending::Done),
            Err(error) => (
                Authorised::default(),
                match error {
                    _ if error.is_duplicate() => Ending::AlreadyDone,
                    _ if error.is_rule_limit() => Ending::Skipped {
                        why: RULE_LIMIT.to_owned(),
                    },
                    _ if error.retryable => error.ending(),
                    _ => Ending::Skipped {
                        why: format!("EC2 refuses it: {error}"),
                    },
                },
            ),
        };
        let failed = matches!(ending, Ending::Failed { .. });
        self.outcomes.push(Outcome {
            round: 0,
            item: self.rule.id.clone(),
            step: Step::Authorise,
            permission: Some(part.clone()),
            created: created.clone(),
            without,
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
    direction: Direction,
    id: &str,
    deadline: &Deadline,
) -> Ending {
    let answer = match direction {
        Direction::Ingress => {
            let revoke = ec2.revoke_security_group_ingress().group_id(group);
            let request = revoke.security_group_rule_ids(id).send();
            let answer = deadline.call("RevokeSecurityGroupIngress", request);
            answer.await.map(|_| ())
        }
        Direction::Egress => {
            let revoke = ec2.revoke_security_group_egress().group_id(group);
            let request = revoke.security_group_rule_ids(id).send();
            let answer = deadline.call("RevokeSecurityGroupEgress", request);
            answer.await.map(|_| ())
        }
    };
    match answer {
        Ok(()) => Ending::Done,
        Err(error) if error.is_not_found() => Ending::AlreadyDone,
        Err(error) => error.ending(),
    }
}

/// A rule that was authorised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authorised {
    /// Its id.
    pub(crate) created: Option<String>,
    /// What it lacks.
    pub(crate) without: Option<Without>,
}

/// Authorises a permission in the direction of a rule and for its source, with its
/// description and these tags (`aws:` ones cannot be written). What EC2 refuses is tried without
/// the tags (whoever may authorise need not be allowed to tag), then without the
/// description too (EC2 has come to take fewer characters), unless a retry may
/// help, or neither is the matter.
///
/// # Errors
/// EC2 refuses even that, or a retry may help.
pub(crate) async fn authorise_rule(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    (direction, rule): (Direction, &IngressRule),
    permission: &Permission,
    tags: &Tags,
    deadline: &Deadline,
) -> Result<Authorised, AwsError> {
    let tags: Vec<Tag> = tags
        .iter()
        .filter(|(key, _)| !key.starts_with("aws:"))
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect();
    let description = rule.description.as_deref();
    let once = async |tags: &[Tag], description: Option<&str>| {
        let permission = ip_permission(&rule.source, description, permission);
        authorise_once(ec2, group, direction, permission, tags, deadline).await
    };
    let whole = once(&tags, description).await;
    let refusal = match whole {
        Err(error) if error.is_about_the_request() => error,
        answer => {
            return answer.map(|created| Authorised {
                created,
                without: None,
            });
        }
    };
    let mut last = refusal.clone();
    let mut fewer = Vec::new();
    if !tags.is_empty() {
        fewer.push(description);
    }
    if description.is_some() {
        fewer.push(None);
    }
    for left in fewer {
        match once(&[], left).await {
            Ok(created) => {
                let without = Some(Without {
                    tags: !tags.is_empty(),
                    description: left != description,
                    why: refusal.to_string(),
                });
                return Ok(Authorised { created, without });
            }
            Err(error) if error.is_about_the_request() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// One call of AuthorizeSecurityGroupIngress or …Egress: the new rule's id.
async fn authorise_once(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    direction: Direction,
    permission: IpPermission,
    tags: &[Tag],
    deadline: &Deadline,
) -> Result<Option<String>, AwsError> {
    let with_tags = (!tags.is_empty()).then(|| {
        let of_rule = TagSpecification::builder().resource_type(ResourceType::SecurityGroupRule);
        vec![of_rule.set_tags(Some(tags.to_vec())).build()]
    });
    let rules = match direction {
        Direction::Ingress => {
            let authorise = ec2.authorize_security_group_ingress().group_id(group);
            let authorise = authorise.ip_permissions(permission);
            let request = authorise.set_tag_specifications(with_tags).send();
            let answer = deadline.call("AuthorizeSecurityGroupIngress", request);
            answer.await?.security_group_rules
        }
        Direction::Egress => {
            let authorise = ec2.authorize_security_group_egress().group_id(group);
            let authorise = authorise.ip_permissions(permission);
            let request = authorise.set_tag_specifications(with_tags).send();
            let answer = deadline.call("AuthorizeSecurityGroupEgress", request);
            answer.await?.security_group_rules
        }
    };
    let created = rules.unwrap_or_default().into_iter().next();
    Ok(created.and_then(|rule| rule.security_group_rule_id))
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

fn ip_permission(
    source: &Source,
    description: Option<&str>,
    permission: &Permission,
) -> IpPermission {
    let description = description.map(str::to_owned);
    let builder = IpPermission::builder()
        .ip_protocol(&permission.protocol)
        .set_from_port(permission.from_port)
        .set_to_port(permission.to_port);
    match source {
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
