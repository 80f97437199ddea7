//! Default security groups with rules, on the deployed stack.

use aws_sdk_ec2::types::Filter;

use super::encryption::look_by;
use super::snapshots::told;
use super::sweep::{settle, sweep};
use super::undo::{request, undo};
use super::*;

/// A new VPC with its default group, which has a rule in both directions; both ids.
/// (moto gives it no ingress rule.)
async fn default_group(aws: &LocalAws) -> (String, String) {
    let vpc = aws.ec2.create_vpc().cidr_block("10.0.0.0/16");
    let vpc = vpc.send().await.unwrap().vpc.unwrap().vpc_id.unwrap();
    let of = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
    let groups = aws.ec2.describe_security_groups();
    let groups = groups.filters(of("vpc-id", &vpc));
    let groups = groups.filters(of("group-name", "default")).send().await;
    let id = groups.unwrap().security_groups.unwrap()[0].group_id.clone();
    let id = id.unwrap();
    let inside = permission(Open("tcp", 5432, 5432, "10.0.0.0/16", "the database"));
    let ingress = aws.ec2.authorize_security_group_ingress().group_id(&id);
    let ingress = ingress.ip_permissions(inside);
    let tags = specification(ResourceType::SecurityGroupRule, &[("ticket", "OPS-7")]);
    ingress.tag_specifications(tags).send().await.unwrap();
    (id, vpc)
}

/// The event of a rule that was added to it.
fn changed(id: &str) -> Value {
    let request = json!({ "groupId": id });
    cloudtrail::call(
        "AuthorizeSecurityGroupEgress",
        request,
        json!({ "_return": true }),
    )
}

/// Its rules of both directions, with descriptions and tags but opt-outs, sorted.
async fn shows(aws: &LocalAws, id: &str) -> Vec<String> {
    let of = Filter::builder().name("group-id").values(id).build();
    let rules = aws.ec2.describe_security_group_rules().filters(of);
    let rules = rules.send().await.unwrap();
    let mut shows: Vec<String> = rules
        .security_group_rules()
        .iter()
        .map(|rule| {
            let tags = rule.tags().iter().filter_map(|tag| tag.value());
            let tags: Vec<&str> = tags.filter(|value| !value.contains("until=")).collect();
            let (way, about) = (rule.is_egress(), rule.description().unwrap_or_default());
            let (protocol, port) = (rule.ip_protocol().unwrap(), rule.from_port());
            let whom = rule.cidr_ipv4();
            format!("{way:?} {protocol} {port:?} {whom:?} ({about}) {tags:?}")
        })
        .collect();
    shows.sort();
    shows
}

#[test]
fn a_default_group_that_nothing_uses_is_emptied_and_undone_with_descriptions_and_tags() {
    scenario(async |aws| {
        let (id, _) = default_group(aws).await;
        let neighbour = Group::new(aws, &[]).await;
        neighbour.open(aws, &[SSH], &[]).await;
        let (before, beside) = (shows(aws, &id).await, shows(aws, &neighbour.id).await);
        assert_eq!(before.len(), 2, "{before:?}");
        let event = changed(&id);
        assert_eq!(aws.deliver(&event).await.unwrap(), [REVOKE]);
        let message = &told(aws, &id, 1).await[0];
        for part in ["jo@example.com", "egress of all traffic", "the database"] {
            assert!(message.bodies["default"].contains(part), "{message:#?}");
        }
        assert_eq!(shows(aws, &id).await, Vec::<String>::new());
        assert_eq!(shows(aws, &neighbour.id).await, beside);
        let [entry] = &aws.entries_of(&id).await.unwrap()[..] else {
            panic!("one entry")
        };
        assert_eq!(entry["status"], "remediated");
        assert_eq!(look_by(aws, REVOKE, &event), "nothing to do");

        // Back, and left alone from then on.
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert_eq!(shows(aws, &id).await, before);
        told(aws, &id, 2).await;
        assert_eq!(look_by(aws, REVOKE, &event), "exempt");
        assert_eq!(shows(aws, &id).await, before);
    });
}

#[test]
fn a_default_group_in_use_keeps_its_rules_and_its_members_are_named() {
    scenario(async |aws| {
        let (id, vpc) = default_group(aws).await;
        let before = shows(aws, &id).await;
        let subnet = aws
            .ec2
            .create_subnet()
            .vpc_id(&vpc)
            .cidr_block("10.0.1.0/24");
        let subnet = subnet.send().await.unwrap().subnet.unwrap().subnet_id;
        let interface = aws.ec2.create_network_interface();
        let interface = interface.set_subnet_id(subnet).groups(&id);
        let interface = interface.send().await.unwrap().network_interface.unwrap();
        let member = interface.network_interface_id.unwrap();
        assert_eq!(look_by(aws, REVOKE, &changed(&id)), "notified");
        let message = &told(aws, &id, 1).await[0];
        assert!(message.bodies["default"].contains(&member), "{message:#?}");
        assert_eq!(shows(aws, &id).await, before);
        // A group whose rule names it uses it as well.
        let delete = aws.ec2.delete_network_interface();
        delete.network_interface_id(&member).send().await.unwrap();
        let other = Group::new(aws, &[]).await;
        let pair = aws_sdk_ec2::types::UserIdGroupPair::builder().group_id(&id);
        let named = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(1)
            .to_port(1);
        let named = named.user_id_group_pairs(pair.build()).build();
        let ingress = aws.ec2.authorize_security_group_ingress();
        let ingress = ingress.group_id(&other.id).ip_permissions(named);
        ingress.send().await.unwrap();
        // Told already.
        assert_eq!(look_by(aws, REVOKE, &changed(&id)), "known");
        assert_eq!(shows(aws, &id).await, before);
    });
}

#[test]
fn a_default_group_that_is_opted_out_keeps_its_rules() {
    scenario(async |aws| {
        for of_vpc in [false, true] {
            let (id, vpc) = default_group(aws).await;
            let before = shows(aws, &id).await;
            let place = if of_vpc { &vpc } else { &id };
            tag(aws, place, "default-security-group owner=legacy").await;
            assert_eq!(look_by(aws, REVOKE, &changed(&id)), "exempt");
            assert_eq!(shows(aws, &id).await, before);
        }
    });
}

#[test]
fn the_sweep_finds_a_default_group_whose_event_was_lost() {
    scenario(async |aws| {
        settle(aws).await;
        let (id, _) = default_group(aws).await;
        aws.proxy.default_groups([id.as_str()]);
        assert_eq!(sweep(aws), "told");
        wait_for("the group to be empty", async || {
            shows(aws, &id).await.is_empty().then_some(())
        })
        .await;
        // What became of it, and the digest.
        told(aws, &id, 2).await;
    });
}

/// Makes the functions call everything that they may call for default groups.
pub(crate) async fn exercise(aws: &LocalAws) {
    let (id, _) = default_group(aws).await;
    aws.proxy.default_groups([id.as_str()]);
    sweep(aws);
    aws.quiet().await;
    aws.deliver(&changed(&id)).await.unwrap();
    aws.quiet().await;
    let entries = aws.entries_of(&id).await.unwrap();
    let mut remediated = entries.iter().filter(|of| of["status"] == "remediated");
    let entry = remediated.next().unwrap();
    assert_eq!(undo(aws, &request(entry))["verdict"], "undone");
    aws.quiet().await;
}
