//! `default-security-group`: the default security group of a VPC has rules (Security
//! Hub EC2.2).
//!
//! Whatever names no group is put into this one. It is emptied, in both directions,
//! only while nothing uses it: to a member its rules are its connections. Where
//! something does, that is told with who it is. Deliberately not here: what its
//! rules open to the internet (`open_ingress`), which shares the lock and looks
//! first.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::open_ingress::{OpenIngress, commands, source_key};
use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::finding::{Finding, Verdict};
use crate::info::{Call, ControlInfo, Expands, Guide, OptOutOn, Phrases, Reversal, Tagged};
use crate::plan::{Change, Ending, Exposure, ItemId, Step};
use crate::prose::{counted, one_line};
use crate::reason::Reason;
use crate::security_group::{DEFAULT_NAME, Direction, Rule, Tags, Users};
use crate::words::{ControlId, Severity, digest};

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// A security group, as far as the control judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `sg-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// The account that owns it.
    pub owner: String,
    /// Its tags.
    pub tags: Tags,
    /// The opt-out tags of its VPC.
    pub vpc_opt_outs: Tags,
    /// The rules of both directions, by id.
    pub rules: BTreeMap<ItemId, Rule>,
    /// What uses it beside itself. `Err`: AWS refuses to say, and what it answered.
    /// Of a group that is not judged, or has no rules, it is not read.
    pub users: Result<Users, String>,
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct DefaultSecurityGroup;

impl Control for DefaultSecurityGroup {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::DefaultSecurityGroup,
        function: "revoke-ingress",
        prefix: Some("sg-"),
        // After those that open-ingress looks at, it looks next.
        calls: &[Call {
            name: "AuthorizeSecurityGroupEgress",
            resource: &[
                &["requestParameters", "groupId"],
                &[
                    "requestParameters",
                    "AuthorizeSecurityGroupEgressRequest",
                    "GroupId",
                ],
                &["responseElements", "securityGroupRuleSet", "groupId"],
            ],
        }],
        hub: &["EC2.2"],
        reads: &[
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSecurityGroupReferences",
            "ec2:DescribeSecurityGroupRules",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeTags",
        ],
        begins: &[
            "ec2:RevokeSecurityGroupEgress",
            "ec2:RevokeSecurityGroupIngress",
        ],
        undoes: &[
            "ec2:AuthorizeSecurityGroupEgress",
            "ec2:AuthorizeSecurityGroupIngress",
            "ec2:CreateTags",
        ],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Item,
        enforce_by_name_only: false,
        guide: Guide {
            why: "A resource that is launched without naming a security group gets the default group of its VPC, with whatever its rules allow.",
            changes: "Revokes all rules of the default group, ingress and egress.",
            never: &[
                "It never changes a default group that a network interface or a rule of another group uses: it only reports who uses it.",
                "It never changes any group but the default one, and deletes none.",
            ],
        },
        phrases: Phrases {
            resource: "security group",
            item: "rule",
            tagged: Some(Tagged {
                any: "the rule, the security group, or its VPC where this account owns it",
                resource: "the group or its VPC",
            }),
            found: "in the default group",
            closed: "the default group has none of these rules",
            remedy: "remove its rules",
            why_exempt: "why the group must keep its rules",
            afterwards: &[
                "Whatever is put into this group from now on, because its launch names no group, can neither be reached nor reach anything: give it a group of its own.",
            ],
        },
    };

    /// A VPC is made with its default group.
    const EXPANDS: Option<Expands> = Some(Expands {
        resource: "VPC",
        prefix: Some("vpc-"),
        // A VPC's id is given by the call that makes it.
        calls: &[
            Call {
                name: "CreateVpc",
                resource: &[
                    &["responseElements", "CreateVpcResponse", "vpc", "vpcId"],
                    &["responseElements", "vpc", "vpcId"],
                ],
            },
            Call {
                name: "CreateDefaultVpc",
                resource: &[
                    &[
                        "responseElements",
                        "CreateDefaultVpcResponse",
                        "vpc",
                        "vpcId",
                    ],
                    &["responseElements", "vpc", "vpcId"],
                ],
            },
        ],
        on_request: false,
    });

    type Settings = Settings;
    type Facts = Group;
    type State = Rule;

    fn subject(group: &Group) -> Subject<'_> {
        Subject {
            id: &group.id,
            arn: &group.arn,
            name: &group.name,
            owner: &group.owner,
            tags: &group.tags,
            inherited: Some(&group.vpc_opt_outs),
        }
    }

    fn items(group: &Group) -> BTreeMap<ItemId, Rule> {
        group.rules.clone()
    }

    fn item_tags(rule: &Rule) -> Option<&Tags> {
        Some(&rule.rule.tags)
    }

    fn judge(
        group: &Group,
        _settings: &Settings,
        _former: Option<&Rule>,
        spared: &IsSpared<'_>,
    ) -> Verdict<Rule> {
        if group.name != DEFAULT_NAME {
            return Verdict::NotApplicable("it is not the default group of a VPC".to_owned());
        }
        if group.rules.is_empty() {
            return Verdict::Compliant;
        }
        let rules = || group.rules.iter();
        let goes = rules().filter(|(id, _)| !spared(id));
        Verdict::Violates(Finding {
            severity: Severity::High,
            severities: BTreeMap::new(),
            exposures: rules()
                .map(|(id, rule)| Exposure::of(id, rule.clone()))
                .collect(),
            changes: goes
                .map(|(id, rule)| Change::remove(id, rule.clone()))
                .collect(),
            notes: Vec::new(),
            left: match &group.users {
                Err(why) => Some(Reason::UseUnknown { why: why.clone() }),
                Ok(users) if users.count > 0 => Some(Reason::InUse {
                    users: users.clone(),
                }),
                Ok(_) => None,
            },
        })
    }

    fn line(_rule: &str, Rule { direction, rule }: &Rule) -> String {
        let source = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let (permission, whom) = (&rule.permission, &rule.source);
        format!("{} of {permission} {source} {whom}", direction.name())
    }

    fn headline(exposures: &[Exposure<Rule>], _most: usize) -> String {
        let rules = counted(exposures.len(), Self::INFO.phrases.item);
        format!("a default group with {rules}")
    }

    fn details(exposure: &Exposure<Rule>) -> Vec<String> {
        let line = Self::line(&exposure.item, &exposure.state);
        let described = exposure.state.rule.description.iter();
        let described = described.map(|text| format!(", described as: {}", one_line(text, 300)));
        let described: String = described.collect();
        vec![format!("{}: {line}{described}", exposure.item)]
    }

    fn commands(back: &ByHand<'_, Rule>) -> Vec<String> {
        let mut outcomes = back.outcomes.iter();
        let revoked = outcomes.any(|o| o.step == Step::Revoke && o.ending == Ending::Done);
        let rule = back.to.iter().filter(|_| revoked);
        rule.map(|of| commands::authorise(back, of.direction, &of.rule))
            .collect()
    }

    fn fingerprint(group: &str, _rule: &str, Rule { direction, rule }: &Rule) -> String {
        digest([
            Self::INFO.id.name(),
            group,
            direction.name(),
            &rule.permission.to_string(),
            &source_key(&rule.source),
        ])
    }

    fn alike(a: &Rule, b: &Rule) -> bool {
        a.direction == b.direction && OpenIngress::alike(&a.rule, &b.rule)
    }

    /// Tags admit nobody, and an undo puts its own among them.
    fn unchanged(left: &Rule, now: &Rule) -> bool {
        left.direction == now.direction && OpenIngress::unchanged(&left.rule, &now.rule)
    }
}
