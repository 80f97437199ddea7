//! The calls of `public-subnet`, against the real EC2 client with answers written
//! from the EC2 API reference.

use backstop_aws::error::AwsError;
use backstop_aws::remediation::{Concerned, Remediation as _};
use backstop_core::controls::public_subnet::{
    Address, Assignment, IPV4, IPV6, PublicSubnet, Subnet,
};
use backstop_core::plan::{Change, Ending, Outcome, Step};
use backstop_wire::{Call, Reply, Wire};

use crate::calls::{at, failing, parameters, xml};

const ID: &str = "subnet-0a3f5c7e91b2d4f60";
const VPC: &str = "vpc-0c9e7a5b3d1f20486";
const READS: [&str; 3] = ["DescribeInstances", "DescribeSubnets", "DescribeTags"];

/// A subnet as EC2 describes it, with more elements.
fn item(id: &str, ipv4: &str, ipv6: &str, more: &str) -> String {
    format!(
        "<item><subnetId>{id}</subnetId><subnetArn>arn:aws:ec2:eu-central-1:111122223333:subnet/{id}</subnetArn><state>available</state><ownerId>111122223333</ownerId><vpcId>{VPC}</vpcId><cidrBlock>10.0.16.0/20</cidrBlock><mapPublicIpOnLaunch>{ipv4}</mapPublicIpOnLaunch><assignIpv6AddressOnCreation>{ipv6}</assignIpv6AddressOnCreation>{more}</item>"
    )
}

fn subnets(items: &str, next: Option<&str>) -> Reply {
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    xml(
        "DescribeSubnets",
        &format!("<subnetSet>{items}</subnetSet>{next}"),
    )
}

fn block(attribute: &str) -> String {
    format!(
        "<item><ipv6CidrBlock>2001:db8:1234:1a00::/64</ipv6CidrBlock><ipv6CidrBlockState><state>associated</state></ipv6CidrBlockState><ipv6AddressAttribute>{attribute}</ipv6AddressAttribute></item>"
    )
}

fn blocks(attributes: &[&str]) -> String {
    let blocks: String = attributes.iter().map(|of| block(of)).collect();
    format!("<ipv6CidrBlockAssociationSet>{blocks}</ipv6CidrBlockAssociationSet>")
}

/// Every call but the description of the subnet.
fn others(call: &Call) -> Reply {
    let operation = call.operation.as_str();
    match operation {
        "DescribeInstances" => xml(operation, "<reservationSet/>"),
        "DescribeTags" => xml(
            operation,
            &format!(
                "<tagSet><item><resourceId>{VPC}</resourceId><resourceType>vpc</resourceType><key>backstop:opt-out</key><value>public-subnet</value></item><item><resourceId>vpc-1</resourceId><resourceType>vpc</resourceType><key>backstop:opt-out</key><value>all</value></item></tagSet>"
            ),
        ),
        "ModifySubnetAttribute" => xml(operation, "<return>true</return>"),
        other => panic!("{other}"),
    }
}

fn answer(call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeSubnets" => {
            let more = "<defaultForAz>false</defaultForAz><ipv6Native>false</ipv6Native><tagSet><item><key>Name</key><value>web-a</value></item></tagSet>";
            let more = format!("{}{more}", blocks(&["public"]));
            subnets(&item(ID, "true", "true", &more), None)
        }
        _ => others(call),
    }
}

/// A wire that describes the subnet so.
fn described(item: String) -> Wire {
    Wire::new(move |call| match call.operation.as_str() {
        "DescribeSubnets" => subnets(&item, None),
        _ => others(call),
    })
}

async fn gather(wire: &Wire) -> Result<Option<Subnet>, AwsError> {
    at(wire, async |aws, place| {
        PublicSubnet::gather(aws, place, ID).await
    })
    .await
}

async fn apply(wire: &Wire, change: &Change<Assignment>) -> Vec<Outcome> {
    at(wire, async |aws, place| {
        PublicSubnet::apply(aws, place, ID, change).await
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_subnet_is_read_in_one_round_trip_with_its_vpcs_opt_out_and_its_nodes() {
    let wire = Wire::new(answer);
    let subnet = gather(&wire).await.unwrap().unwrap();
    let tag = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    assert_eq!(
        subnet,
        Subnet {
            id: ID.to_owned(),
            arn: format!("arn:aws:ec2:eu-central-1:111122223333:subnet/{ID}"),
            owner: "111122223333".to_owned(),
            name: "web-a".to_owned(),
            tags: tag("Name", "web-a"),
            vpc_opt_outs: tag("backstop:opt-out", "public-subnet"),
            ipv4: true,
            ipv6: true,
            private_ipv6: false,
            ipv6_only: false,
            is_default: false,
            nodes: Vec::new(),
        }
    );
    assert_eq!(wire.sequential_round_trips(), 1);
    let mut calls = wire.calls();
    calls.sort_by_key(|call| call.operation.clone());
    let operations: Vec<_> = calls.iter().map(|call| call.operation.as_str()).collect();
    assert_eq!(operations, READS);
    assert_eq!(parameters(&calls[1]), [("SubnetId.1", ID)]);
    let instances = &calls[0];
    assert_eq!(instances.parameter("Filter.1.Name"), Some("subnet-id"));
    assert_eq!(instances.list("Filter.1.Value"), [ID]);
    assert_eq!(instances.parameter("Filter.2.Name"), Some("tag-key"));
    for key in ["eks:cluster-name", "kubernetes.io/cluster/*"] {
        assert!(instances.list("Filter.2.Value").contains(&key), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_subnet_is_beside_what_it_assigns_is_read() {
    for (more, expected) in [
        (
            "<defaultForAz>true</defaultForAz>".to_owned(),
            (true, false, false),
        ),
        (
            "<ipv6Native>true</ipv6Native>".to_owned(),
            (false, true, false),
        ),
        (blocks(&["private"]), (false, false, true)),
        // One public block is enough.
        (blocks(&["private", "public"]), (false, false, false)),
        // What AWS does not say, or says in a way not known here, is public.
        (blocks(&["of-a-new-kind"]), (false, false, false)),
        (blocks(&[]), (false, false, false)),
        (String::new(), (false, false, false)),
    ] {
        let wire = described(item(ID, "false", "true", &more));
        let subnet = gather(&wire).await.unwrap().unwrap();
        let found = (subnet.is_default, subnet.ipv6_only, subnet.private_ipv6);
        assert_eq!(found, expected, "{more}");
        assert_eq!((subnet.ipv4, subnet.ipv6), (false, true));
    }
}

/// With a filter EC2 may answer with an empty page before one that is not.
#[tokio::test(start_paused = true)]
async fn a_node_is_looked_for_on_every_page() {
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeInstances" if call.parameter("NextToken").is_none() => xml(
            "DescribeInstances",
            "<reservationSet/><nextToken>two</nextToken>",
        ),
        "DescribeInstances" => xml(
            "DescribeInstances",
            "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><tagSet><item><key>eks:cluster-name</key><value>prod</value></item></tagSet></item></instancesSet></item></reservationSet>",
        ),
        _ => answer(call),
    });
    let subnet = gather(&wire).await.unwrap().unwrap();
    let tags = [("eks:cluster-name".to_owned(), "prod".to_owned())].into();
    assert_eq!(subnet.nodes, [tags]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_none_and_a_read_that_is_denied_is_an_error_that_names_it() {
    let wire = failing("DescribeSubnets", "InvalidSubnetID.NotFound", answer);
    assert_eq!(gather(&wire).await.unwrap(), None);
    assert_eq!(gather(&described(String::new())).await.unwrap(), None);
    for operation in READS {
        let wire = failing(operation, "UnauthorizedOperation", answer);
        let error = gather(&wire).await.unwrap_err();
        assert_eq!(
            (error.operation, error.code.as_str(), error.retryable),
            (operation, "UnauthorizedOperation", false)
        );
    }
}

/// Nothing is decided by what was not read.
#[tokio::test(start_paused = true)]
async fn an_attribute_that_is_missing_or_no_boolean_is_an_error() {
    let without = |field: &str| {
        let whole = item(ID, "true", "true", "");
        whole.replace(&format!("<{field}>true</{field}>"), "")
    };
    for field in ["mapPublicIpOnLaunch", "assignIpv6AddressOnCreation"] {
        let error = gather(&described(without(field))).await.unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    for (ipv4, ipv6) in [("sometimes", "true"), ("true", "sometimes")] {
        let wire = described(item(ID, ipv4, ipv6, ""));
        let error = gather(&wire).await.unwrap_err().to_string();
        assert!(error.contains("DescribeSubnets"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_attribute_is_set_in_each_direction_and_nothing_else() {
    for (item, address) in [(IPV4, Address::Ipv4), (IPV6, Address::Ipv6)] {
        let of = |on| Assignment { address, on };
        let off = Change::set(item, of(true), of(false));
        for (change, value) in [(off.clone(), "false"), (off.reversed(), "true")] {
            let wire = Wire::new(answer);
            let [outcome] = &apply(&wire, &change).await[..] else {
                panic!("one call, one outcome")
            };
            assert_eq!((outcome.item.as_str(), outcome.step), (item, Step::Set));
            assert_eq!(outcome.ending, Ending::Done);
            assert_eq!(wire.operations(), ["ModifySubnetAttribute"]);
            assert_eq!(
                parameters(&wire.calls()[0]),
                [(format!("{item}.Value").as_str(), value), ("SubnetId", ID)]
            );
        }
    }
    // On again, when its IPv6 block has gone; or denied.
    for code in ["InvalidParameterValue", "UnauthorizedOperation"] {
        let wire = failing("ModifySubnetAttribute", code, answer);
        let address = Address::Ipv6;
        let of = |on| Assignment { address, on };
        let on = Change::set(IPV6, of(false), of(true));
        let outcomes = apply(&wire, &on).await;
        assert!(outcomes[0].failed(), "{outcomes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_walk_asks_for_what_may_assign_addresses_page_by_page_and_shows_each_once() {
    let wire = Wire::new(|call| {
        let next = call.parameter("NextToken");
        match (call.operation.as_str(), call.parameter("Filter.1.Value.1")) {
            ("DescribeTags" | "DescribeInstances", _) => others(call),
            (_, Some("true")) if next.is_none() => {
                let both =
                    item("subnet-1", "true", "true", "") + &item("subnet-2", "true", "false", "");
                subnets(&both, Some("two"))
            }
            (_, Some("true")) => subnets(&item("subnet-3", "true", "false", ""), None),
            _ => {
                let both =
                    item("subnet-4", "false", "true", "") + &item("subnet-5", "false", "false", "");
                subnets(&both, None)
            }
        }
    });
    let mut pages: Vec<Vec<String>> = Vec::new();
    let walked = at(&wire, async |aws, place| {
        let each = async |page: Vec<Subnet>| {
            let opted_out = |subnet: &Subnet| !subnet.vpc_opt_outs.is_empty();
            assert!(page.iter().all(opted_out), "with what their VPC says");
            pages.push(page.into_iter().map(|subnet| subnet.id).collect());
        };
        PublicSubnet::walk(aws, place, each).await
    })
    .await
    .unwrap();
    assert_eq!(walked.seen, 4);
    assert_eq!(
        pages,
        [
            vec!["subnet-1", "subnet-2"],
            vec!["subnet-3"],
            vec!["subnet-4"]
        ]
    );
    let calls = wire.calls();
    let of = |operation: &str| {
        let calls = calls.iter().filter(|call| call.operation == operation);
        calls.collect::<Vec<&Call>>()
    };
    let nodes = of("DescribeInstances").into_iter();
    let nodes: Vec<_> = nodes.map(|call| call.list("Filter.1.Value")).collect();
    assert_eq!(
        nodes,
        [
            vec!["subnet-1", "subnet-2"],
            vec!["subnet-3"],
            vec!["subnet-4"]
        ],
        "of those that assign addresses"
    );
    let calls = of("DescribeSubnets");
    assert_eq!(calls.len(), 3, "reads = pages");
    for call in calls {
        assert_eq!(call.parameter("MaxResults"), Some("1000"));
        let names: Vec<_> = (1..=3)
            .filter_map(|n| call.parameter(&format!("Filter.{n}.Name")))
            .collect();
        match call.parameter("Filter.1.Value.1") {
            Some("true") => assert_eq!(names, ["map-public-ip-on-launch", "owner-id"]),
            _ => assert_eq!(
                names,
                [
                    "map-public-ip-on-launch",
                    "ipv6-cidr-block-association.state",
                    "owner-id"
                ]
            ),
        }
    }
}

/// The opt-outs of VPCs that are not read are said to be unseen.
#[tokio::test(start_paused = true)]
async fn a_walk_that_is_denied_says_how_far_it_came() {
    let walk = async |wire: &Wire| {
        at(wire, async |aws, place| {
            PublicSubnet::walk(aws, place, async |_: Vec<Subnet>| {}).await
        })
        .await
    };
    let stopped = walk(&failing("DescribeSubnets", "UnauthorizedOperation", answer)).await;
    let stopped = stopped.unwrap_err();
    assert_eq!(stopped.seen, 0);
    assert!(stopped.to_string().contains("subnets"), "{stopped}");
    let walked = walk(&failing("DescribeTags", "UnauthorizedOperation", answer)).await;
    assert_eq!(walked.unwrap().unseen.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vpc_concerns_its_subnets_that_assign_addresses() {
    let wire = Wire::new(|call| {
        assert_eq!(call.parameter("Filter.1.Name"), Some("vpc-id"));
        assert_eq!(call.parameter("Filter.1.Value.1"), Some(VPC));
        let items = [
            ("subnet-1", "true", "false"),
            ("subnet-2", "false", "false"),
            ("subnet-3", "false", "true"),
        ];
        let items: String = items
            .iter()
            .map(|(id, ipv4, ipv6)| item(id, ipv4, ipv6, ""))
            .collect();
        subnets(&items, None)
    });
    let concerned = at(&wire, async |aws, place| {
        PublicSubnet::concerned(aws, place, VPC).await
    })
    .await;
    let ids = ["subnet-1", "subnet-3"].map(str::to_owned).to_vec();
    assert_eq!(concerned.unwrap(), Concerned::Resources(ids));
}
