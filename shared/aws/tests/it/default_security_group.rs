//! The calls of `default-security-group`, against the real EC2 client with answers
//! written from the EC2 API reference.

use std::collections::BTreeMap;

use backstop_aws::remediation::{Concerned, Remediation as _};
use backstop_core::controls::default_security_group::{DefaultSecurityGroup, Group};
use backstop_core::plan::{Change, Ending, Step};
use backstop_core::ports::Permission;
use backstop_core::security_group::{Direction, IngressRule, Rule, Source, Tags, User, Users};
use backstop_core::undo::{Act, ItemStates};
use backstop_wire::{Call, Reply, Wire};

use crate::calls::{at, failing, parameters, xml};

const ID: &str = "sg-0a3f5c7e91b2d4f60";
const USERS: [&str; 2] = [
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroupReferences",
];

fn group(id: &str, name: &str, rules: &str) -> String {
    format!(
        "<item><ownerId>111122223333</ownerId><groupId>{id}</groupId><groupName>{name}</groupName><vpcId>vpc-1</vpcId><ipPermissions>{rules}</ipPermissions><ipPermissionsEgress/></item>"
    )
}

fn groups(items: &str, next: &str) -> Reply {
    xml(
        "DescribeSecurityGroups",
        &format!("<securityGroupInfo>{items}</securityGroupInfo>{next}"),
    )
}

/// A permission for members of a group.
fn naming(group: &str) -> String {
    format!(
        "<item><ipProtocol>-1</ipProtocol><groups><item><groupId>{group}</groupId><userId>111122223333</userId></item></groups></item>"
    )
}

fn rules_of(group: &str) -> String {
    format!(
        "<item><securityGroupRuleId>sgr-1</securityGroupRuleId><groupId>{group}</groupId><groupOwnerId>111122223333</groupOwnerId><isEgress>true</isEgress><ipProtocol>-1</ipProtocol><fromPort>-1</fromPort><toPort>-1</toPort><cidrIpv4>0.0.0.0/0</cidrIpv4></item>\
         <item><securityGroupRuleId>sgr-2</securityGroupRuleId><groupId>{group}</groupId><groupOwnerId>111122223333</groupOwnerId><isEgress>false</isEgress><ipProtocol>-1</ipProtocol><fromPort>-1</fromPort><toPort>-1</toPort><referencedGroupInfo><groupId>{group}</groupId><userId>111122223333</userId></referencedGroupInfo><description>each other</description><tagSet><item><key>ticket</key><value>OPS-7</value></item></tagSet></item>"
    )
}

fn rules(items: &str) -> Reply {
    xml(
        "DescribeSecurityGroupRules",
        &format!("<securityGroupRuleSet>{items}</securityGroupRuleSet>"),
    )
}

fn rule(id: &str, direction: Direction, source: Source, description: Option<&str>) -> Rule {
    let ticket = ("ticket".to_owned(), "OPS-7".to_owned());
    Rule {
        direction,
        rule: IngressRule {
            id: id.to_owned(),
            permission: Permission::new("-1", -1, -1),
            source,
            description: description.map(str::to_owned),
            tags: description
                .map(|_| Tags::from([ticket]))
                .unwrap_or_default(),
        },
    }
}

fn both() -> [Rule; 2] {
    let world = Source::Ipv4("0.0.0.0/0".to_owned());
    let itself = Source::SecurityGroup(ID.to_owned());
    [
        rule("sgr-1", Direction::Egress, world, None),
        rule("sgr-2", Direction::Ingress, itself, Some("each other")),
    ]
}

/// A default group that nothing but itself names, in a VPC that is opted out.
fn answer(call: &Call) -> Reply {
    let operation = call.operation.as_str();
    match operation {
        "DescribeSecurityGroups" => groups(&group(ID, "default", &naming(ID)), ""),
        "DescribeSecurityGroupRules" => rules(&rules_of(ID)),
        "DescribeTags" => xml(
            operation,
            "<tagSet><item><resourceId>vpc-1</resourceId><resourceType>vpc</resourceType><key>backstop:opt-out</key><value>all</value></item></tagSet>",
        ),
        "DescribeNetworkInterfaces" => xml(operation, "<networkInterfaceSet/>"),
        "DescribeSecurityGroupReferences" => xml(operation, "<securityGroupReferenceSet/>"),
        "RevokeSecurityGroupIngress" | "RevokeSecurityGroupEgress" => {
            xml(operation, "<return>true</return>")
        }
        "AuthorizeSecurityGroupIngress" | "AuthorizeSecurityGroupEgress" => xml(
            operation,
            "<return>true</return><securityGroupRuleSet><item><securityGroupRuleId>sgr-9</securityGroupRuleId></item></securityGroupRuleSet>",
        ),
        other => panic!("{other}"),
    }
}

async fn gather(wire: &Wire) -> Option<Group> {
    let group = at(wire, async |aws, place| {
        DefaultSecurityGroup::gather(aws, place, ID).await
    });
    group.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_default_group_is_read_with_all_its_rules_and_what_uses_it_in_two_rounds() {
    let wire = Wire::new(answer);
    let read = gather(&wire).await.unwrap();
    assert_eq!(
        read,
        Group {
            id: ID.to_owned(),
            name: "default".to_owned(),
            arn: format!("arn:aws:ec2:eu-central-1:111122223333:security-group/{ID}"),
            owner: "111122223333".to_owned(),
            tags: Tags::new(),
            vpc_opt_outs: Tags::from([("backstop:opt-out".to_owned(), "all".to_owned())]),
            rules: both().map(|of| (of.rule.id.clone(), of)).into(),
            // That it names itself is no use.
            users: Ok(Users::default()),
        }
    );
    assert_eq!(wire.sequential_round_trips(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_group_and_an_empty_one_cost_one_round_of_two_reads() {
    for (name, items) in [("web", rules_of(ID)), ("default", String::new())] {
        let wire = Wire::new(move |call| match call.operation.as_str() {
            "DescribeSecurityGroups" => groups(&group(ID, name, ""), ""),
            "DescribeSecurityGroupRules" => rules(&items),
            other => panic!("{other}"),
        });
        let read = gather(&wire).await.unwrap();
        assert_eq!((read.name.as_str(), read.rules.len()), (name, 0));
        assert_eq!(
            (wire.operations().len(), wire.sequential_round_trips()),
            (2, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn everything_that_uses_it_is_found_on_every_page() {
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeNetworkInterfaces" => {
            assert_eq!(call.parameter("IncludeManagedResources"), Some("true"));
            assert_eq!(call.parameter("Filter.1.Name"), Some("group-id"));
            let (item, next) = match call.parameter("NextToken") {
                None => (
                    "<networkInterfaceId>eni-1</networkInterfaceId><attachment><instanceId>i-1</instanceId></attachment>",
                    "<nextToken>2</nextToken>",
                ),
                Some(_) => (
                    "<networkInterfaceId>eni-2</networkInterfaceId><description>RDSNetworkInterface</description><requesterManaged>true</requesterManaged>",
                    "",
                ),
            };
            let of = format!(
                "<groupSet><item><groupId>sg-other</groupId></item><item><groupId>{ID}</groupId></item></groupSet>"
            );
            let set =
                format!("<networkInterfaceSet><item>{item}{of}</item></networkInterfaceSet>{next}");
            xml("DescribeNetworkInterfaces", &set)
        }
        "DescribeSecurityGroupReferences" => {
            assert_eq!(call.parameter("GroupId.1"), Some(ID));
            let item = format!(
                "<groupId>{ID}</groupId><referencingVpcId>vpc-9</referencingVpcId><vpcPeeringConnectionId>pcx-1</vpcPeeringConnectionId>"
            );
            let set = format!(
                "<securityGroupReferenceSet><item>{item}</item></securityGroupReferenceSet>"
            );
            xml("DescribeSecurityGroupReferences", &set)
        }
        "DescribeSecurityGroups" => match call.parameter("Filter.1.Name") {
            Some("ip-permission.group-id") => {
                assert_eq!(call.parameter("Filter.1.Value.1"), Some(ID));
                // Itself, and another.
                let both = group(ID, "default", &naming(ID)) + &group("sg-2", "web", &naming(ID));
                groups(&both, "")
            }
            Some("egress.ip-permission.group-id") => {
                let egress = group("sg-3", "db", "");
                let empty = "<ipPermissionsEgress/>";
                let named = format!("<ipPermissionsEgress>{}</ipPermissionsEgress>", naming(ID));
                groups(&egress.replace(empty, &named), "")
            }
            _ => answer(call),
        },
        _ => answer(call),
    });
    let users = gather(&wire).await.unwrap().users.unwrap();
    let id = |id: &str| id.to_owned();
    let interface = |n, of| User::Interface {
        id: n,
        of: Some(of),
    };
    assert_eq!(
        users,
        Users {
            count: 5,
            named: vec![
                interface(id("eni-1"), id("i-1")),
                interface(id("eni-2"), id("RDSNetworkInterface")),
                User::Group { id: id("sg-2") },
                User::Group { id: id("sg-3") },
                User::Vpc { id: id("vpc-9") },
            ],
        }
    );
}

/// Without an answer it may be in use: an answer that a retry may bring is waited for,
/// one that EC2 refuses is told.
#[tokio::test(start_paused = true)]
async fn what_ec2_refuses_to_say_of_its_use_is_kept_and_what_a_retry_may_bring_is_an_error() {
    for operation in USERS {
        let wire = failing(operation, "UnauthorizedOperation", answer);
        let why = gather(&wire).await.unwrap().users.unwrap_err();
        assert!(
            why.contains(operation) && why.contains("UnauthorizedOperation"),
            "{why}"
        );
        let wire = failing(operation, "RequestLimitExceeded", answer);
        let group = at(&wire, async |aws, place| {
            DefaultSecurityGroup::gather(aws, place, ID).await
        });
        assert!(group.await.unwrap_err().retryable);
    }
    for operation in [
        "DescribeSecurityGroups",
        "DescribeSecurityGroupRules",
        "DescribeTags",
    ] {
        let wire = failing(operation, "UnauthorizedOperation", answer);
        let group = at(&wire, async |aws, place| {
            DefaultSecurityGroup::gather(aws, place, ID).await
        });
        assert_eq!(group.await.unwrap_err().operation, operation);
    }
    let wire = failing("DescribeSecurityGroups", "InvalidGroup.NotFound", answer);
    assert_eq!(gather(&wire).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_revoked_by_its_id_in_its_direction() {
    for (of, operation) in both()
        .into_iter()
        .zip(["RevokeSecurityGroupEgress", "RevokeSecurityGroupIngress"])
    {
        let change = Change::remove(of.rule.id.clone(), of.clone());
        for (code, ending) in [
            (None, Some(Ending::Done)),
            (
                Some("InvalidSecurityGroupRuleId.NotFound"),
                Some(Ending::AlreadyDone),
            ),
            (Some("UnauthorizedOperation"), None),
        ] {
            let wire = match code {
                None => Wire::new(answer),
                Some(code) => failing(operation, code, answer),
            };
            let outcomes = at(&wire, async |aws, place| {
                DefaultSecurityGroup::apply(aws, place, ID, &change).await
            });
            let [outcome] = &outcomes.await[..] else {
                panic!("one call, one outcome")
            };
            assert_eq!((outcome.step, &outcome.item), (Step::Revoke, &of.rule.id));
            match ending {
                Some(ending) => assert_eq!(outcome.ending, ending),
                None => assert!(outcome.failed()),
            }
            let calls = wire.calls();
            assert_eq!(wire.operations(), [operation]);
            assert_eq!(
                parameters(&calls[0]),
                [
                    ("GroupId", ID),
                    ("SecurityGroupRuleId.1", of.rule.id.as_str())
                ]
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_authorises_both_directions_with_descriptions_tags_and_opt_outs() {
    let states: Vec<ItemStates<Rule>> = both()
        .into_iter()
        .map(|before| ItemStates {
            item: before.rule.id.clone(),
            before,
            left: None,
            now: None,
            act: Act::Authorise,
            added: BTreeMap::new(),
        })
        .collect();
    let wire = Wire::new(answer);
    let outcomes = at(&wire, async |aws, place| {
        let opt_out = |_: &Rule| "all until=2026-12-01".to_owned();
        DefaultSecurityGroup::restore(aws, place, ID, &states, &opt_out).await
    });
    let outcomes = outcomes.await;
    assert!(outcomes.iter().all(|of| of.ending == Ending::Done));
    let created: Vec<_> = outcomes.iter().map(|of| of.created.as_deref()).collect();
    assert_eq!(created, [Some("sgr-9"); 2]);
    let calls = wire.calls();
    assert_eq!(
        wire.operations(),
        [
            "AuthorizeSecurityGroupEgress",
            "AuthorizeSecurityGroupIngress"
        ]
    );
    let asked = |call: &Call, name: &str| call.parameter(name).map(str::to_owned);
    let permission = "IpPermissions.1";
    assert_eq!(
        asked(&calls[0], &format!("{permission}.IpRanges.1.CidrIp")).as_deref(),
        Some("0.0.0.0/0")
    );
    let pair = format!("{permission}.Groups.1");
    assert_eq!(
        asked(&calls[1], &format!("{pair}.GroupId")).as_deref(),
        Some(ID)
    );
    let described = asked(&calls[1], &format!("{pair}.Description"));
    assert_eq!(described.as_deref(), Some("each other"));
    let tags = |call: &Call| call.tags("TagSpecification.1.Tag");
    let opt_out = (
        "backstop:opt-out".to_owned(),
        "all until=2026-12-01".to_owned(),
    );
    assert_eq!(tags(&calls[0]), Tags::from([opt_out.clone()]));
    let ticket = ("ticket".to_owned(), "OPS-7".to_owned());
    assert_eq!(tags(&calls[1]), Tags::from([opt_out, ticket]));
}

/// 450 default groups on two pages, of which 250 have rules: two pages, and for the
/// first 200 of those on a page, and the rest, rules and users once.
#[tokio::test(start_paused = true)]
async fn the_walk_reads_pages_and_a_few_and_nothing_more_of_groups_without_rules() {
    let id = |n: usize| format!("sg-{n:017x}");
    let page = move |of: std::ops::Range<usize>| -> String {
        of.map(|n| {
            let rules = if n < 250 {
                naming(&id(n))
            } else {
                String::new()
            };
            group(&id(n), "default", &rules)
        })
        .collect()
    };
    let wire = Wire::new(move |call| match call.operation.as_str() {
        "DescribeSecurityGroups" if call.parameter("Filter.1.Name") == Some("group-name") => {
            assert_eq!(call.parameter("Filter.1.Value.1"), Some("default"));
            assert_eq!(call.parameter("MaxResults"), Some("1000"));
            match call.parameter("NextToken") {
                None => groups(&page(0..400), "<nextToken>2</nextToken>"),
                Some(_) => groups(&page(400..450), ""),
            }
        }
        "DescribeSecurityGroups" => groups("", ""),
        "DescribeSecurityGroupRules" => {
            let asked = call.list("Filter.1.Value");
            assert!(asked.len() <= 200);
            rules(&asked.into_iter().map(rules_of).collect::<String>())
        }
        "DescribeNetworkInterfaces" => xml(
            "DescribeNetworkInterfaces",
            &format!(
                "<networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId><groupSet><item><groupId>{}</groupId></item></groupSet></item></networkInterfaceSet>",
                id(7)
            ),
        ),
        _ => answer(call),
    });
    let mut seen: Vec<Group> = Vec::new();
    let walked = at(&wire, async |aws, place| {
        let each = async |page: Vec<Group>| seen.extend(page);
        DefaultSecurityGroup::walk(aws, place, each).await
    });
    let walked = walked.await.unwrap();
    assert_eq!((walked.seen, walked.unseen.len()), (450, 0));
    let with_rules = seen.iter().filter(|group| group.rules.len() == 2);
    assert_eq!(with_rules.count(), 250);
    let used = seen
        .iter()
        .filter(|of| of.users.as_ref().unwrap().count > 0);
    assert_eq!(used.map(|of| of.id.clone()).collect::<Vec<_>>(), [id(7)]);
    // Two pages; the opt-outs of VPCs; rules, interfaces, references in two ways and
    // beyond the VPC, of 200 groups and of 50.
    assert_eq!(wire.operations().len(), 2 + 1 + 2 * 5);
}

#[tokio::test(start_paused = true)]
async fn a_new_vpc_concerns_its_default_group() {
    for (items, concerned) in [
        (
            group(ID, "default", ""),
            Concerned::Resources(vec![ID.to_owned()]),
        ),
        (String::new(), Concerned::Gone),
    ] {
        let wire = Wire::new(move |_| groups(&items, ""));
        let found = at(&wire, async |aws, place| {
            DefaultSecurityGroup::concerned(aws, place, "vpc-1").await
        });
        assert_eq!(found.await.unwrap(), concerned);
        assert_eq!(
            parameters(&wire.calls()[0]),
            [
                ("Filter.1.Name", "vpc-id"),
                ("Filter.1.Value.1", "vpc-1"),
                ("Filter.2.Name", "group-name"),
                ("Filter.2.Value.1", "default"),
            ]
        );
    }
}
