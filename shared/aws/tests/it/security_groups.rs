//! Reading and changing security groups, against the real EC2 client with
//! answers written from the EC2 API reference: paging, error codes, what goes
//! over the wire. Lists here what the emulator cannot show (local
//! `InvalidPermission.Duplicate` on modify, the group's rule limit, denials
//! half-way, throttling, pages).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::remediation::Concerned;
use backstop_aws::security_groups::{apply, gather, groups_naming};
use backstop_core::plan::{Change, Ending, Outcome, Step, Without};
use backstop_core::ports::Permission;
use backstop_core::security_group::{
    Entries, IngressRule, PrefixList, SecurityGroup, Source, Tags,
};
use backstop_wire::{Call, Reply, Wire};
use tokio::time::Instant;

const GROUP: &str = "sg-0123456789abcdef0";

fn long() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

fn ec2(wire: &Wire, attempts: u32) -> aws_sdk_ec2::Client {
    Clients::new(&wire.config(attempts)).ec2
}

fn response(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn group_xml(vpc: &str) -> Reply {
    response(
        "DescribeSecurityGroups",
        &format!(
            "<securityGroupInfo><item><ownerId>111122223333</ownerId><groupId>{GROUP}</groupId><groupName>web</groupName><vpcId>{vpc}</vpcId>\
         <securityGroupArn>arn:aws:ec2:eu-central-1:111122223333:security-group/{GROUP}</securityGroupArn>\
         <tagSet><item><key>owner</key><value>team-web</value></item></tagSet></item></securityGroupInfo>"
        ),
    )
}

fn rule_xml(id: &str, source: &str, egress: bool) -> String {
    format!(
        "<item><securityGroupRuleId>{id}</securityGroupRuleId><groupId>{GROUP}</groupId><groupOwnerId>111122223333</groupOwnerId>\
         <isEgress>{egress}</isEgress><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort>{source}<description>ssh</description></item>"
    )
}

fn rules_xml(rules: &str, next: Option<&str>) -> Reply {
    let next = next
        .map(|t| format!("<nextToken>{t}</nextToken>"))
        .unwrap_or_default();
    response(
        "DescribeSecurityGroupRules",
        &format!("<securityGroupRuleSet>{rules}</securityGroupRuleSet>{next}"),
    )
}

const NO_TAGS: &str = "<tagSet/>";

fn tags_xml(content: &str) -> Reply {
    response("DescribeTags", content)
}

fn group(facts: Option<SecurityGroup>) -> SecurityGroup {
    facts.expect("the group is gone")
}

#[tokio::test(start_paused = true)]
async fn a_group_is_read_whole_in_one_round_and_a_second_for_prefix_lists() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSecurityGroups" => group_xml("vpc-1"),
        "DescribeSecurityGroupRules" => match call.parameter("NextToken") {
            None => rules_xml(
                &(rule_xml("sgr-1", "<cidrIpv4>0.0.0.0/0</cidrIpv4>", false)
                    + &rule_xml("sgr-out", "<cidrIpv4>0.0.0.0/0</cidrIpv4>", true)),
                Some("page2"),
            ),
            Some("page2") => rules_xml(
                &(rule_xml("sgr-2", "<cidrIpv6>::/0</cidrIpv6>", false)
                    + &rule_xml("sgr-3", "<prefixListId>pl-1</prefixListId>", false)
                    + &rule_xml(
                        "sgr-4",
                        "<referencedGroupInfo><groupId>sg-other</groupId><userId>444455556666</userId></referencedGroupInfo>",
                        false,
                    )),
                None,
            ),
            Some(token) => panic!("{token}"),
        },
        "DescribeTags" => tags_xml(
            "<tagSet><item><resourceId>vpc-1</resourceId><resourceType>vpc</resourceType><key>backstop:opt-out</key><value>all</value></item></tagSet>",
        ),
        "GetManagedPrefixListEntries" => match call.parameter("NextToken") {
            None => response(
                "GetManagedPrefixListEntries",
                "<entrySet><item><cidr>0.0.0.0/1</cidr></item></entrySet><nextToken>more</nextToken>",
            ),
            Some(_) => response(
                "GetManagedPrefixListEntries",
                "<entrySet><item><cidr>128.0.0.0/1</cidr></item></entrySet>",
            ),
        },
        other => panic!("{other}"),
    });
    let group = group(
        gather(&ec2(&wire, 1), GROUP, "eu-central-1", &long())
            .await
            .unwrap(),
    );
    assert_eq!(
        group.rules.keys().collect::<Vec<_>>(),
        ["sgr-1", "sgr-2", "sgr-3", "sgr-4"],
        "ingress only, both pages"
    );
    assert_eq!(
        group.rules["sgr-4"].source,
        Source::SecurityGroup("444455556666/sg-other".into())
    );
    assert_eq!(group.rules["sgr-1"].description.as_deref(), Some("ssh"));
    assert_eq!(
        group.vpc_opt_outs,
        Tags::from([("backstop:opt-out".to_owned(), "all".to_owned())]),
        "the tag of the group's own VPC"
    );
    assert_eq!(group.tags["owner"], "team-web");
    assert_eq!(
        group.prefix_lists["pl-1"],
        PrefixList::of(Entries::Read(vec![
            "0.0.0.0/1".into(),
            "128.0.0.0/1".into()
        ]))
    );
    let rules = wire
        .calls()
        .into_iter()
        .find(|c| c.operation == "DescribeSecurityGroupRules")
        .unwrap();
    assert_eq!(rules.parameter("Filter.1.Name"), Some("group-id"));
    assert_eq!(rules.parameter("MaxResults"), Some("1000"));
    // Two pages of rules after one another, then two pages of entries.
    assert_eq!(wire.sequential_round_trips(), 4);
}

#[tokio::test(start_paused = true)]
async fn gone_is_what_describe_security_groups_says() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSecurityGroups" => Reply::ec2_error(
            400,
            "InvalidGroup.NotFound",
            "The security group 'sg-0123456789abcdef0' does not exist",
        ),
        "DescribeSecurityGroupRules" => rules_xml("", None),
        "DescribeTags" => tags_xml(NO_TAGS),
        other => panic!("{other}"),
    });
    assert_eq!(
        gather(&ec2(&wire, 1), GROUP, "eu-central-1", &long())
            .await
            .unwrap(),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_is_an_error_with_operation_code_and_message() {
    for (denied, code) in [
        ("DescribeSecurityGroups", "UnauthorizedOperation"),
        ("DescribeSecurityGroupRules", "UnauthorizedOperation"),
        ("DescribeTags", "UnauthorizedOperation"),
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            operation if operation == denied => {
                Reply::ec2_error(403, code, "You are not authorized")
            }
            "DescribeSecurityGroups" => group_xml("vpc-1"),
            "DescribeSecurityGroupRules" => rules_xml("", None),
            "DescribeTags" => tags_xml(NO_TAGS),
            other => panic!("{other}"),
        });
        let error = gather(&ec2(&wire, 1), GROUP, "eu-central-1", &long())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{denied}: {code}: You are not authorized")
        );
        assert!(!error.retryable);
    }
}

/// A group with a rule for a list whose entries are answered with an error, and
/// whose owner EC2 tells.
fn list_fails(status: u16, code: &'static str) -> Wire {
    Wire::new(move |call: &Call| match call.operation.as_str() {
        "DescribeSecurityGroups" => group_xml("vpc-1"),
        "DescribeSecurityGroupRules" => rules_xml(
            &(rule_xml("sgr-3", "<prefixListId>pl-1</prefixListId>", false)
                + &rule_xml("sgr-4", "<cidrIpv4>0.0.0.0/0</cidrIpv4>", false)),
            None,
        ),
        "DescribeTags" => tags_xml(NO_TAGS),
        "GetManagedPrefixListEntries" => Reply::ec2_error(status, code, "said AWS"),
        "DescribeManagedPrefixLists" => {
            assert_eq!(call.parameter("Filter.1.Name"), Some("prefix-list-id"));
            assert_eq!(call.parameter("Filter.1.Value.1"), Some("pl-1"));
            response(
                "DescribeManagedPrefixLists",
                "<prefixListSet><item><prefixListId>pl-1</prefixListId><ownerId>444455556666</ownerId></item></prefixListSet>",
            )
        }
        other => panic!("{other}"),
    })
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_hides_no_other_rule_and_is_known_for_what_it_is() {
    let said = |code: &str| format!("GetManagedPrefixListEntries: {code}: said AWS");
    let owner = Some("444455556666".to_owned());
    for (status, code, list) in [
        (
            400,
            "InvalidPrefixListID.NotFound",
            PrefixList {
                owner: owner.clone(),
                entries: Entries::NotShown(said("InvalidPrefixListID.NotFound")),
            },
        ),
        (
            403,
            "UnauthorizedOperation",
            PrefixList {
                owner: owner.clone(),
                entries: Entries::Refused(said("UnauthorizedOperation")),
            },
        ),
        (
            503,
            "RequestLimitExceeded",
            PrefixList::of(Entries::Failed(said("RequestLimitExceeded"))),
        ),
        // Whatever its code, a fault of AWS's passes.
        (
            500,
            "Strange",
            PrefixList::of(Entries::Failed(said("Strange"))),
        ),
    ] {
        let wire = list_fails(status, code);
        let read = gather(&ec2(&wire, 1), GROUP, "eu-central-1", &long()).await;
        let group = group(read.unwrap());
        assert_eq!(group.prefix_lists["pl-1"], list, "{code}");
        assert_eq!(group.rules.len(), 2, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_its_owner_a_list_is_unreadable_all_the_same() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSecurityGroups" => group_xml("vpc-1"),
        "DescribeSecurityGroupRules" => rules_xml(
            &rule_xml("sgr-3", "<prefixListId>pl-1</prefixListId>", false),
            None,
        ),
        "DescribeTags" => tags_xml(NO_TAGS),
        "GetManagedPrefixListEntries" => {
            Reply::ec2_error(400, "InvalidPrefixListID.NotFound", "said AWS")
        }
        "DescribeManagedPrefixLists" => Reply::ec2_error(403, "UnauthorizedOperation", "no"),
        other => panic!("{other}"),
    });
    let read = gather(&ec2(&wire, 1), GROUP, "eu-central-1", &long()).await;
    let list = &group(read.unwrap()).prefix_lists["pl-1"];
    assert!(matches!(list.entries, Entries::NotShown(_)), "{list:?}");
    assert_eq!(list.owner, None);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_read_waits_and_then_succeeds() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeSecurityGroups" => group_xml("vpc-1"),
        "DescribeSecurityGroupRules" => rules_xml("", None),
        "DescribeTags" => tags_xml(NO_TAGS),
        other => panic!("{other}"),
    });
    let throttles = std::sync::atomic::AtomicU32::new(2);
    let inner = wire.clone();
    let throttled = Wire::new(move |call: &Call| {
        use std::sync::atomic::Ordering;
        if call.operation == "DescribeTags" && throttles.load(Ordering::SeqCst) > 0 {
            throttles.fetch_sub(1, Ordering::SeqCst);
            return Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.");
        }
        inner.answer(call)
    });
    gather(&ec2(&throttled, 10), GROUP, "eu-central-1", &long())
        .await
        .unwrap();
    assert_eq!(
        throttled
            .operations()
            .iter()
            .filter(|o| *o == "DescribeTags")
            .count(),
        3
    );
}

#[tokio::test(start_paused = true)]
async fn throttling_that_does_not_end_is_given_up_before_the_function_ends() {
    let wire = Wire::new(|_: &Call| {
        Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
    });
    let deadline = Deadline::new(Duration::from_millis(1400));
    let begun = Instant::now();
    let error = gather(&ec2(&wire, 50), GROUP, "eu-central-1", &deadline)
        .await
        .unwrap_err();
    assert!(error.retryable);
    assert_eq!(error.code, "Timeout");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(600) && took < Duration::from_secs(3),
        "{took:?}"
    );
    assert!(
        wire.calls().len() > 3,
        "it waited and tried again: {} calls",
        wire.calls().len()
    );
}

// ---- prefix lists that changed

fn lists_xml(state: &str) -> Reply {
    response(
        "DescribeManagedPrefixLists",
        &format!(
            "<prefixListSet><item><prefixListId>pl-1</prefixListId><state>{state}</state></item></prefixListSet>"
        ),
    )
}

#[tokio::test(start_paused = true)]
async fn every_group_that_names_a_list_is_found_on_all_pages() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeManagedPrefixLists" => lists_xml("modify-complete"),
        "DescribeSecurityGroups" => {
            assert_eq!(
                call.parameter("Filter.1.Name"),
                Some("ip-permission.prefix-list-id")
            );
            assert_eq!(call.parameter("Filter.1.Value.1"), Some("pl-1"));
            match call.parameter("NextToken") {
                None => response(
                    "DescribeSecurityGroups",
                    "<securityGroupInfo><item><groupId>sg-a</groupId></item></securityGroupInfo><nextToken>n</nextToken>",
                ),
                Some(_) => response(
                    "DescribeSecurityGroups",
                    "<securityGroupInfo><item><groupId>sg-b</groupId></item></securityGroupInfo>",
                ),
            }
        }
        other => panic!("{other}"),
    });
    let found = groups_naming(&ec2(&wire, 1), "pl-1", &long())
        .await
        .unwrap();
    assert_eq!(
        found,
        Concerned::Resources(vec!["sg-a".into(), "sg-b".into()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_being_modified_is_looked_at_later_and_a_missing_one_never() {
    for (state, expected) in [
        (
            "modify-in-progress",
            Concerned::BeingModified("modify-in-progress".into()),
        ),
        (
            "restore-in-progress",
            Concerned::BeingModified("restore-in-progress".into()),
        ),
        ("", Concerned::Gone),
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "DescribeManagedPrefixLists" if state.is_empty() => Reply::ec2_error(
                400,
                "InvalidPrefixListID.NotFound",
                "The prefix list ID 'pl-1' does not exist",
            ),
            "DescribeManagedPrefixLists" => lists_xml(state),
            "DescribeSecurityGroups" => response("DescribeSecurityGroups", "<securityGroupInfo/>"),
            other => panic!("{other}"),
        });
        assert_eq!(
            groups_naming(&ec2(&wire, 1), "pl-1", &long())
                .await
                .unwrap(),
            expected
        );
    }
}

// ---- changes

fn rule(id: &str) -> IngressRule {
    IngressRule {
        id: id.into(),
        permission: Permission::new("tcp", 0, 1024),
        source: Source::Ipv4("0.0.0.0/0".into()),
        description: Some("all the things".into()),
        tags: [("team", "web"), ("aws:cloudformation:stack-name", "s")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
    }
}

fn revoked(id: &str) -> Change<IngressRule> {
    Change::remove(id, rule(id))
}

fn narrowed(id: &str) -> Change<IngressRule> {
    let part = |port| IngressRule {
        permission: Permission::new("tcp", port, port),
        ..rule(id)
    };
    Change {
        add: vec![part(443)],
        ..Change::set(id, rule(id), part(80))
    }
}

fn done(operation: &str) -> Reply {
    match operation {
        "AuthorizeSecurityGroupIngress" => response(
            operation,
            "<return>true</return><securityGroupRuleSet><item><securityGroupRuleId>sgr-new</securityGroupRuleId></item></securityGroupRuleSet>",
        ),
        _ => response(operation, "<return>true</return>"),
    }
}

/// Carries changes out over a wire and gives the endings in short:
/// `rule step ending`.
async fn endings(wire: &Wire, changes: &[Change<IngressRule>]) -> Vec<String> {
    short(&apply_all(wire, changes, &long()).await)
}

async fn apply_all(
    wire: &Wire,
    changes: &[Change<IngressRule>],
    deadline: &Deadline,
) -> Vec<Outcome> {
    let ec2 = ec2(wire, 1);
    let mut outcomes = Vec::new();
    for change in changes {
        outcomes.extend(apply(&ec2, GROUP, change, deadline).await);
    }
    outcomes
}

fn short(outcomes: &[Outcome]) -> Vec<String> {
    outcomes
        .iter()
        .map(|o| {
            let permission = o
                .permission
                .as_ref()
                .map(|p| format!(" {p}"))
                .unwrap_or_default();
            let ending = match &o.ending {
                Ending::Done => "done".to_owned(),
                Ending::AlreadyDone => "already done".to_owned(),
                Ending::Skipped { why } => format!("skipped: {why}"),
                Ending::Failed {
                    operation, code, ..
                } => format!("failed: {operation} {code}"),
            };
            format!("{} {:?}{permission}: {ending}", o.item, o.step)
        })
        .collect()
}

/// A wire on which `operation` (on this rule, if given) fails with `code` and
/// everything else succeeds.
fn failing(
    operation: &'static str,
    rule: Option<&'static str>,
    status: u16,
    code: &'static str,
) -> Wire {
    Wire::new(move |call: &Call| {
        let named = rule.is_none_or(|rule| call.parameters.iter().any(|(_, value)| value == rule));
        if call.operation == operation && named {
            Reply::ec2_error(status, code, "said AWS")
        } else {
            done(&call.operation)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn rules_are_revoked_by_id_one_at_a_time() {
    let wire = Wire::new(|call: &Call| done(&call.operation));
    assert_eq!(
        endings(&wire, &[revoked("sgr-1"), revoked("sgr-2")]).await,
        ["sgr-1 Revoke: done", "sgr-2 Revoke: done"]
    );
    let calls = wire.calls();
    assert_eq!(calls.len(), 2);
    for (call, id) in calls.iter().zip(["sgr-1", "sgr-2"]) {
        assert_eq!(call.parameter("GroupId"), Some(GROUP));
        assert_eq!(call.parameter("SecurityGroupRuleId.1"), Some(id));
        assert!(
            call.parameters
                .iter()
                .all(|(key, _)| !key.starts_with("IpPermissions")),
            "by id only"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_or_group_that_vanished_counts_as_done() {
    for code in [
        "InvalidPermission.NotFound",
        "InvalidSecurityGroupRuleId.NotFound",
        "InvalidGroup.NotFound",
    ] {
        let wire = failing("RevokeSecurityGroupIngress", Some("sgr-1"), 400, code);
        assert_eq!(
            endings(&wire, &[revoked("sgr-1"), revoked("sgr-2")]).await,
            ["sgr-1 Revoke: already done", "sgr-2 Revoke: done"],
            "{code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_denied_rule_does_not_keep_the_others_open() {
    let wire = failing(
        "RevokeSecurityGroupIngress",
        Some("sgr-1"),
        403,
        "UnauthorizedOperation",
    );
    assert_eq!(
        endings(&wire, &[revoked("sgr-1"), revoked("sgr-2")]).await,
        [
            "sgr-1 Revoke: failed: RevokeSecurityGroupIngress UnauthorizedOperation",
            "sgr-2 Revoke: done"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn narrowing_authorises_first_then_modifies_in_place_and_passes_everything_again() {
    let wire = Wire::new(|call: &Call| done(&call.operation));
    assert_eq!(
        endings(&wire, &[narrowed("sgr-1")]).await,
        ["sgr-1 Authorise tcp 443: done", "sgr-1 Narrow tcp 80: done"]
    );
    let [authorise, modify] = &wire.calls()[..] else {
        panic!("two calls")
    };
    for (name, value) in [
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "443"),
        ("IpPermissions.1.ToPort", "443"),
        ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
        ("IpPermissions.1.IpRanges.1.Description", "all the things"),
        ("TagSpecification.1.ResourceType", "security-group-rule"),
        ("TagSpecification.1.Tag.1.Key", "team"),
        ("TagSpecification.1.Tag.1.Value", "web"),
    ] {
        assert_eq!(authorise.parameter(name), Some(value), "{name}");
    }
    assert_eq!(
        authorise.parameter("TagSpecification.1.Tag.2.Key"),
        None,
        "aws: tags cannot be written"
    );
    for (name, value) in [
        ("SecurityGroupRule.1.SecurityGroupRuleId", "sgr-1"),
        ("SecurityGroupRule.1.SecurityGroupRule.IpProtocol", "tcp"),
        ("SecurityGroupRule.1.SecurityGroupRule.FromPort", "80"),
        ("SecurityGroupRule.1.SecurityGroupRule.ToPort", "80"),
        (
            "SecurityGroupRule.1.SecurityGroupRule.CidrIpv4",
            "0.0.0.0/0",
        ),
        (
            "SecurityGroupRule.1.SecurityGroupRule.Description",
            "all the things",
        ),
    ] {
        assert_eq!(modify.parameter(name), Some(value), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_ec2_refuses_to_change_in_place_the_part_is_authorised_and_the_rule_revoked() {
    for code in ["InvalidPermission.Duplicate", "InvalidParameterValue"] {
        let wire = failing("ModifySecurityGroupRules", None, 400, code);
        assert_eq!(
            endings(&wire, &[narrowed("sgr-1")]).await,
            [
                "sgr-1 Authorise tcp 443: done",
                "sgr-1 Authorise tcp 80: done",
                "sgr-1 Revoke: done"
            ],
            "{code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_there_already_counts_as_done() {
    let wire = failing(
        "AuthorizeSecurityGroupIngress",
        None,
        400,
        "InvalidPermission.Duplicate",
    );
    assert_eq!(
        endings(&wire, &[narrowed("sgr-1")]).await,
        [
            "sgr-1 Authorise tcp 443: already done",
            "sgr-1 Narrow tcp 80: done"
        ]
    );
}

const NO_ROOM: &str = "the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries";

#[tokio::test(start_paused = true)]
async fn without_room_in_the_group_the_exposure_goes_all_the_same_and_the_loss_is_named() {
    let wire = failing(
        "AuthorizeSecurityGroupIngress",
        None,
        400,
        "RulesPerSecurityGroupLimitExceeded",
    );
    assert_eq!(
        endings(&wire, &[narrowed("sgr-1")]).await,
        [
            format!("sgr-1 Authorise tcp 443: skipped: {NO_ROOM}"),
            "sgr-1 Narrow tcp 80: done".to_owned()
        ]
    );
    assert_eq!(wire.operations().len(), 2, "less of it takes no less room");
}

/// A wire on which a rule is not changed in place, and the group has room for so
/// many more rules.
fn with_room(room: usize) -> Wire {
    let room = Arc::new(Mutex::new(room));
    Wire::new(move |call: &Call| {
        let mut room = room.lock().unwrap();
        match call.operation.as_str() {
            "ModifySecurityGroupRules" => {
                Reply::ec2_error(400, "InvalidParameterValue", "said AWS")
            }
            "AuthorizeSecurityGroupIngress" if *room == 0 => {
                Reply::ec2_error(400, "RulesPerSecurityGroupLimitExceeded", "said AWS")
            }
            operation => {
                match operation {
                    "AuthorizeSecurityGroupIngress" => *room -= 1,
                    _ => *room += 1,
                }
                done(operation)
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_allowed_part_takes_the_place_of_its_rule_where_no_other_is_free() {
    assert_eq!(
        endings(&with_room(0), &[narrowed("sgr-1")]).await,
        [
            format!("sgr-1 Authorise tcp 443: skipped: {NO_ROOM}"),
            "sgr-1 Revoke: done".to_owned(),
            "sgr-1 Authorise tcp 80: done".to_owned(),
        ]
    );
    assert_eq!(
        endings(&with_room(1), &[narrowed("sgr-1")]).await,
        [
            "sgr-1 Authorise tcp 443: done",
            "sgr-1 Revoke: done",
            "sgr-1 Authorise tcp 80: done",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_part_that_ec2_refuses_for_good_is_lost_and_the_exposure_goes() {
    for (status, code) in [
        (403, "UnauthorizedOperation"),
        (400, "InvalidParameterValue"),
        (400, "InvalidPermission.Malformed"),
        (400, "OperationNotPermitted"),
        (400, "SomethingNew"),
    ] {
        let wire = failing("AuthorizeSecurityGroupIngress", None, status, code);
        let refused =
            format!("skipped: EC2 refuses it: AuthorizeSecurityGroupIngress: {code}: said AWS");
        assert_eq!(
            endings(&wire, &[narrowed("sgr-1"), revoked("sgr-2")]).await,
            [
                format!("sgr-1 Authorise tcp 443: {refused}"),
                "sgr-1 Narrow tcp 80: done".to_owned(),
                "sgr-2 Revoke: done".to_owned(),
            ]
        );
        let tried: Vec<(bool, bool)> = wire
            .calls()
            .iter()
            .filter(|call| call.operation == "AuthorizeSecurityGroupIngress")
            .map(|call| (tagged(call), described(call)))
            .collect();
        assert_eq!(
            tried,
            [(true, true), (false, true), (false, false)],
            "{code}"
        );
    }
    // Nor is a rule kept that cannot be changed in place.
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "RevokeSecurityGroupIngress" => done(&call.operation),
        _ => Reply::ec2_error(400, "InvalidParameterValue", "said AWS"),
    });
    let lost = endings(&wire, &[narrowed("sgr-1")]).await;
    assert_eq!(lost.len(), 3);
    assert_eq!(lost[2], "sgr-1 Revoke: done");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_a_retry_may_authorise_keeps_its_rule_until_then() {
    for (status, code) in [
        (503, "RequestLimitExceeded"),
        (400, "Throttling"),
        (500, "InternalError"),
        (503, "Unavailable"),
        (500, "SomethingNew"),
        (400, "RequestExpired"),
    ] {
        let wire = failing("AuthorizeSecurityGroupIngress", None, status, code);
        assert_eq!(
            endings(&wire, &[narrowed("sgr-1"), revoked("sgr-2")]).await,
            [
                format!("sgr-1 Authorise tcp 443: failed: AuthorizeSecurityGroupIngress {code}"),
                "sgr-1 Narrow tcp 80: skipped: an allowed part could not be authorised before"
                    .to_owned(),
                "sgr-2 Revoke: done".to_owned()
            ]
        );
        let authorise = |operation: &&String| *operation == "AuthorizeSecurityGroupIngress";
        assert_eq!(
            wire.operations().iter().filter(authorise).count(),
            1,
            "{code}"
        );
    }
    // Throttled at the second try: the first answer decides nothing.
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "AuthorizeSecurityGroupIngress" if tagged(call) => {
            Reply::ec2_error(403, "UnauthorizedOperation", "said AWS")
        }
        "AuthorizeSecurityGroupIngress" => {
            Reply::ec2_error(503, "RequestLimitExceeded", "said AWS")
        }
        operation => done(operation),
    });
    assert_eq!(
        endings(&wire, &[narrowed("sgr-1")]).await[0],
        "sgr-1 Authorise tcp 443: failed: AuthorizeSecurityGroupIngress RequestLimitExceeded"
    );
}

fn tagged(call: &Call) -> bool {
    call.parameter("TagSpecification.1.ResourceType").is_some()
}

fn described(call: &Call) -> bool {
    call.parameter("IpPermissions.1.IpRanges.1.Description")
        .is_some()
}

#[tokio::test(start_paused = true)]
async fn what_ec2_refuses_whole_is_authorised_without_tags_then_without_description() {
    type Refuses = fn(&Call) -> bool;
    let (tags, description): (Refuses, Refuses) = (tagged, described);
    for (refuses, without_description, tries) in [(tags, false, 2), (description, true, 3)] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            "AuthorizeSecurityGroupIngress" if refuses(call) => {
                Reply::ec2_error(403, "UnauthorizedOperation", "said AWS")
            }
            operation => done(operation),
        });
        let outcomes = apply_all(&wire, &[narrowed("sgr-1")], &long()).await;
        assert_eq!(
            short(&outcomes),
            ["sgr-1 Authorise tcp 443: done", "sgr-1 Narrow tcp 80: done"]
        );
        assert_eq!(outcomes[0].created.as_deref(), Some("sgr-new"));
        let without = Without {
            tags: true,
            description: without_description,
            why: "AuthorizeSecurityGroupIngress: UnauthorizedOperation: said AWS".to_owned(),
        };
        assert_eq!(outcomes[0].without, Some(without));
        assert_eq!(wire.operations().len(), tries + 1);
    }
    // What it never had is not missing, and not tried without.
    let mut bare = narrowed("sgr-1");
    bare.before.as_mut().unwrap().tags.clear();
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "AuthorizeSecurityGroupIngress" if described(call) => {
            Reply::ec2_error(400, "InvalidParameterValue", "said AWS")
        }
        operation => done(operation),
    });
    let outcomes = apply_all(&wire, &[bare], &long()).await;
    let without = outcomes[0].without.as_ref().unwrap();
    assert_eq!((without.tags, without.description), (false, true));
    assert_eq!(wire.operations().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_denied_change_in_place_is_a_failure_and_no_way_around_is_tried() {
    let wire = failing(
        "ModifySecurityGroupRules",
        None,
        403,
        "UnauthorizedOperation",
    );
    assert_eq!(
        endings(&wire, &[narrowed("sgr-1")]).await,
        [
            "sgr-1 Authorise tcp 443: done",
            "sgr-1 Narrow tcp 80: failed: ModifySecurityGroupRules UnauthorizedOperation"
        ]
    );
    assert!(
        !wire
            .operations()
            .contains(&"RevokeSecurityGroupIngress".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_rule_that_vanished_meanwhile_are_taken_back() {
    let wire = failing(
        "ModifySecurityGroupRules",
        None,
        400,
        "InvalidSecurityGroupRuleId.NotFound",
    );
    assert_eq!(
        endings(&wire, &[narrowed("sgr-1")]).await,
        [
            "sgr-1 Authorise tcp 443: done",
            "sgr-1 Narrow tcp 80: already done",
            "sgr-1 TakeBack: done"
        ]
    );
    let last = wire.calls().pop().unwrap();
    assert_eq!(
        last.parameter("SecurityGroupRuleId.1"),
        Some("sgr-new"),
        "the rule we had made, and no other"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_a_failure_that_may_be_retried() {
    let wire = Wire::new(|_: &Call| Reply::Silence);
    let deadline = Deadline::new(Duration::from_millis(600));
    let outcomes = apply_all(&wire, &[revoked("sgr-1"), revoked("sgr-2")], &deadline).await;
    assert_eq!(outcomes.len(), 2, "each rule has its outcome");
    for outcome in outcomes {
        assert!(
            matches!(
                outcome.ending,
                Ending::Failed {
                    retryable: true,
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert_eq!(outcome.step, Step::Revoke);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_says_so_and_not_service_error() {
    let wire = Wire::new(|_: &Call| Reply::Broken);
    let outcomes = apply_all(&wire, &[revoked("sgr-1")], &long()).await;
    let Ending::Failed {
        retryable: true,
        code,
        message,
        ..
    } = &outcomes[0].ending
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(code, "NoConnection");
    assert!(message.contains("the connection broke"), "{message}");
}
