//! Subnets that assign public addresses, on the deployed stack.

use aws_sdk_ec2::types::AttributeBooleanValue;

use super::encryption::look_by;
use super::snapshots::told;
use super::sweep::{settle, sweep};
use super::undo::{request, undo};
use super::*;

/// What turns the assignment off.
pub(crate) const REMOVE: &str = "RemovePublicAddressFunction";

/// A new VPC; its id.
async fn vpc(aws: &LocalAws) -> String {
    let create = aws.ec2.create_vpc().cidr_block("10.0.0.0/16");
    let made = create.send().await.unwrap().vpc.unwrap();
    made.vpc_id.unwrap()
}

/// A new subnet that assigns nothing.
async fn subnet(aws: &LocalAws, vpc: &str) -> String {
    // Each its own block of the VPC's.
    let block = format!("10.0.{}.0/24", aws.next() % 256);
    let create = aws.ec2.create_subnet().vpc_id(vpc).cidr_block(block);
    let made = create.send().await.unwrap().subnet.unwrap();
    made.subnet_id.unwrap()
}

/// Has it assign public IPv4 addresses, and IPv6 addresses, as a person would; the
/// event of the last call.
async fn expose(aws: &LocalAws, id: &str, ipv6: bool) -> Value {
    let on = || AttributeBooleanValue::builder().value(true).build();
    let modify = || aws.ec2.modify_subnet_attribute().subnet_id(id);
    let ipv4 = modify().map_public_ip_on_launch(on());
    ipv4.send().await.unwrap();
    if ipv6 {
        let ipv6 = modify().assign_ipv6_address_on_creation(on());
        ipv6.send().await.unwrap();
    }
    let attribute = match ipv6 {
        true => "assignIpv6AddressOnCreation",
        false => "mapPublicIpOnLaunch",
    };
    cloudtrail::call(
        "ModifySubnetAttribute",
        json!({ "subnetId": id, attribute: { "value": true } }),
        json!({ "_return": true }),
    )
}

/// Whether it assigns public IPv4 addresses, and IPv6 addresses.
async fn assigns(aws: &LocalAws, id: &str) -> (bool, bool) {
    let read = aws.ec2.describe_subnets().subnet_ids(id).send().await;
    let subnet = &read.unwrap().subnets.unwrap()[0];
    (
        subnet.map_public_ip_on_launch().unwrap(),
        subnet.assign_ipv6_address_on_creation().unwrap(),
    )
}

#[test]
fn a_subnet_assigns_public_addresses_no_more_and_its_neighbour_is_untouched() {
    scenario(async |aws| {
        let vpc = vpc(aws).await;
        let (id, neighbour) = (subnet(aws, &vpc).await, subnet(aws, &vpc).await);
        expose(aws, &neighbour, false).await;
        let event = expose(aws, &id, true).await;
        assert_eq!(aws.deliver(&event).await.unwrap(), [REMOVE]);
        let message = &told(aws, &id, 1).await[0];
        for part in [
            "jo@example.com",
            "assigns public IPv4 addresses",
            "assigns IPv6 addresses",
            "keep the public addresses they have",
        ] {
            assert!(message.bodies["default"].contains(part), "{message:#?}");
        }
        assert_eq!(assigns(aws, &id).await, (false, false));
        assert_eq!(assigns(aws, &neighbour).await, (true, false));
        let [entry] = &aws.entries_of(&id).await.unwrap()[..] else {
            panic!("one entry")
        };
        assert_eq!(
            (&entry["status"], &entry["told"]),
            (&json!("remediated"), &json!(true))
        );
        assert_eq!(look_by(aws, REMOVE, &event), "nothing to do");

        // Back, and left alone from then on.
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert_eq!(assigns(aws, &id).await, (true, true));
        told(aws, &id, 2).await;
        assert_eq!(look_by(aws, REMOVE, &event), "exempt");
        assert_eq!(assigns(aws, &id).await, (true, true));
    });
}

#[test]
fn a_subnet_that_is_opted_out_or_used_by_a_cluster_stays_as_it_is() {
    scenario(async |aws| {
        let (of_subnet, of_vpc) = (vpc(aws).await, vpc(aws).await);
        let tagged = subnet(aws, &of_subnet).await;
        tag(aws, &tagged, "public-subnet owner=edge").await;
        let inherits = subnet(aws, &of_vpc).await;
        tag(aws, &of_vpc, "public-subnet owner=edge").await;
        for id in [&tagged, &inherits] {
            let event = expose(aws, id, false).await;
            assert_eq!(look_by(aws, REMOVE, &event), "exempt");
            assert_eq!(assigns(aws, id).await, (true, false));
        }
        let of_cluster = subnet(aws, &of_subnet).await;
        let elb = Tag::builder().key("kubernetes.io/role/elb").value("1");
        let create = aws.ec2.create_tags().resources(&of_cluster);
        create.tags(elb.build()).send().await.unwrap();
        let event = expose(aws, &of_cluster, false).await;
        assert_eq!(look_by(aws, REMOVE, &event), "notified");
        assert_eq!(assigns(aws, &of_cluster).await, (true, false));
        // The VPC is opted out no more: a look at each of its subnets.
        let key = Tag::builder().key("backstop:opt-out").build();
        let delete = aws.ec2.delete_tags().resources(&of_vpc).tags(key);
        delete.send().await.unwrap();
        let event = cloudtrail::call(
            "DeleteTags",
            json!({
                "resourcesSet": {"items": [{"resourceId": of_vpc}]},
                "tagSet": {"items": [{"key": "backstop:opt-out"}]},
            }),
            json!({ "_return": true }),
        );
        aws.deliver(&event).await.unwrap();
        wait_for("the subnet of the VPC to be private", async || {
            (assigns(aws, &inherits).await == (false, false)).then_some(())
        })
        .await;
        assert_eq!(assigns(aws, &tagged).await, (true, false));
    });
}

#[test]
fn the_sweep_finds_a_public_subnet_whose_event_was_lost() {
    scenario(async |aws| {
        settle(aws).await;
        let vpc = vpc(aws).await;
        let id = subnet(aws, &vpc).await;
        expose(aws, &id, true).await;
        assert_eq!(sweep(aws), "told");
        wait_for("the subnet to be private", async || {
            (assigns(aws, &id).await == (false, false)).then_some(())
        })
        .await;
        // What became of it, and the digest.
        told(aws, &id, 2).await;
    });
}

/// Makes the function and undo call everything that they may call for subnets.
pub(crate) async fn exercise(aws: &LocalAws) {
    let vpc = vpc(aws).await;
    let id = subnet(aws, &vpc).await;
    let event = expose(aws, &id, true).await;
    // A retry reads its own entry.
    aws.proxy
        .fail_next("ModifySubnetAttribute", 1, Fault::denied());
    aws.deliver(&event).await.unwrap();
    wait_for("the subnet to be private", async || {
        (assigns(aws, &id).await == (false, false)).then_some(())
    })
    .await;
    aws.quiet().await;
    let entries = aws.entries_of(&id).await.unwrap();
    assert_eq!(undo(aws, &request(&entries[0]))["verdict"], "undone");
    aws.quiet().await;
}
