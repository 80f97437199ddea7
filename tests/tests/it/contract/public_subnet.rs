//! `public-subnet`: a subnet that assigns IPv4 and IPv6 addresses.

use backstop_core::controls::public_subnet::{IPV4, IPV6};
use backstop_core::words::ControlId;
use backstop_wire::memory::ec2::{Ec2, Subnet};

use super::{Fixture, World};
use crate::faults::run;

const SUBNET: &str = "subnet-0123456789abcdef0";

pub(super) struct PublicSubnet;

impl Fixture for PublicSubnet {
    fn control(&self) -> ControlId {
        ControlId::PublicSubnet
    }

    fn id(&self) -> &'static str {
        SUBNET
    }

    fn place(&self, ec2: &mut Ec2) {
        ec2.subnets.insert(SUBNET.to_owned(), Subnet::default());
    }

    fn items(&self) -> &[&'static str] {
        &[IPV6, IPV4]
    }

    fn expose(&self, item: &str, ec2: &mut Ec2) {
        let subnet = ec2.subnets.get_mut(SUBNET).unwrap();
        match item {
            IPV4 => subnet.ipv4 = true,
            _ => subnet.ipv6 = true,
        }
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        let Subnet { ipv4, ipv6, .. } = ec2.subnets[SUBNET];
        vec![format!("{IPV4} {ipv4}"), format!("{IPV6} {ipv6}")]
    }
}

/// In mode `enforce` too.
#[test]
fn a_subnet_that_a_cluster_uses_is_reported_and_not_changed() {
    for (key, value) in [("kubernetes.io/role/elb", "1"), ("Name", "web-a")] {
        run(async {
            let mut world = World::exposed(&PublicSubnet);
            {
                let subnets = &mut world.account.cloud().ec2.subnets;
                let tags = &mut subnets.get_mut(SUBNET).unwrap().tags;
                tags.insert(key.to_owned(), value.to_owned());
            }
            let before = world.ec2();
            world.notice().await;
            match key {
                "Name" => {
                    assert_eq!(world.outcomes().await, ["remediated"]);
                    assert_ne!(world.ec2(), before);
                }
                _ => {
                    assert_eq!(world.outcomes().await, ["notified"]);
                    assert_eq!(world.ec2(), before);
                }
            }
        });
    }
}
