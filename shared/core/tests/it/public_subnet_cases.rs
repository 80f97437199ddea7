//! `public-subnet`: what is decided about a subnet, by what it assigns and who
//! needs that.

use backstop_core::control::{ByHand, Control as _};
use backstop_core::controls::public_subnet::{
    Address, Assignment, IPV4, IPV6, PublicSubnet, Subnet,
};
use backstop_core::decide::{self, Circumstances, Decision};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::guards::Guards;
use backstop_core::managers::{self, Kind};
use backstop_core::plan::{Change, Disposition};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::reason::{NeededBy, Reason};
use backstop_core::security_group::Tags;
use backstop_core::trigger::Parsed;
use backstop_core::words::{ControlId, Mode, Severity};
use serde_json::{Value, json};

/// That something is assigned, or not.
const ON: bool = true;
const OFF: bool = false;

/// The state of an item.
fn of(item: &str, on: bool) -> Assignment {
    let address = match item {
        IPV4 => Address::Ipv4,
        _ => Address::Ipv6,
    };
    Assignment { address, on }
}

const OURS: &str = "111122223333";

fn subnet(ipv4: bool, ipv6: bool) -> Subnet {
    Subnet {
        id: "subnet-0a3f5c7e91b2d4f60".to_owned(),
        arn: "arn:aws:ec2:eu-central-1:111122223333:subnet/subnet-0a3f5c7e91b2d4f60".to_owned(),
        owner: OURS.to_owned(),
        name: "web-a".to_owned(),
        tags: Tags::new(),
        vpc_opt_outs: Tags::new(),
        ipv4,
        ipv6,
        private_ipv6: false,
        ipv6_only: false,
        is_default: false,
        nodes: Vec::new(),
    }
}

fn tags(key: &str, value: &str) -> Tags {
    [(key.to_owned(), value.to_owned())].into()
}

fn tagged(key: &str, value: &str) -> Subnet {
    Subnet {
        tags: tags(key, value),
        ..subnet(ON, OFF)
    }
}

fn decide_by(policy: &Value, subnet: &Subnet) -> Decision<Assignment> {
    let policy = json!({ "version": 1, "controls": { "public-subnet": policy } });
    let policy = Policy::parse(&policy.to_string()).unwrap();
    let at = Circumstances {
        mode: Mode::Enforce,
        account: OURS,
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        guards: &Guards::default(),
    };
    decide::decide::<PublicSubnet>(Some(subnet), &PublicSubnet::rules(&policy), &at)
}

fn decide(subnet: &Subnet) -> Decision<Assignment> {
    decide_by(&json!({}), subnet)
}

#[test]
fn each_attribute_that_assigns_public_addresses_goes_off_by_itself() {
    let private = |ipv4| Subnet {
        private_ipv6: true,
        ..subnet(ipv4, ON)
    };
    for (what, subnet, items) in [
        ("nothing", subnet(OFF, OFF), &[][..]),
        ("IPv4", subnet(ON, OFF), &[IPV4]),
        ("IPv6", subnet(OFF, ON), &[IPV6]),
        ("both", subnet(ON, ON), &[IPV6, IPV4]),
        ("private IPv6", private(OFF), &[]),
        ("private IPv6 and public IPv4", private(ON), &[IPV4]),
    ] {
        let decision = decide(&subnet);
        let exposed = decision.finding().map_or(&[][..], |f| &f.exposures);
        let exposed: Vec<&str> = exposed.iter().map(|e| e.item.as_str()).collect();
        assert_eq!(exposed, items, "{what}");
        let Some(plan) = decision.plan else {
            assert!(items.is_empty(), "{what}");
            continue;
        };
        assert_eq!(plan.disposition, Disposition::Enforce, "{what}");
        let changes: Vec<_> = items
            .iter()
            .map(|item| Change::set(*item, of(item, ON), of(item, OFF)))
            .collect();
        assert_eq!(plan.changes, changes, "{what}");
        assert!(plan.before().values().all(|state| state.on), "{what}");
    }
}

#[test]
fn what_a_tag_or_another_owner_holds_is_left() {
    let of_vpc = |value: &str| Subnet {
        vpc_opt_outs: tags(OPT_OUT_TAG, value),
        ..subnet(ON, ON)
    };
    let theirs = Subnet {
        owner: "444455556666".to_owned(),
        ..subnet(ON, ON)
    };
    use Disposition::{Enforce, Exempt, Held, NotOwned};
    for (what, subnet, expected) in [
        (
            "opted out",
            tagged(OPT_OUT_TAG, "public-subnet until=2027-01-31 owner=edge"),
            Exempt,
        ),
        ("opted out with its VPC", of_vpc("all owner=edge"), Exempt),
        (
            "an opt-out that has ended",
            tagged(OPT_OUT_TAG, "public-subnet until=2026-01-31"),
            Enforce,
        ),
        (
            "opted out of another control",
            of_vpc("open-ingress"),
            Enforce,
        ),
        (
            "an opt-out that cannot be read",
            tagged(OPT_OUT_TAG, "public subnet"),
            Held,
        ),
        ("one of its VPC", of_vpc("public subnet"), Held),
        (
            "a key that only IAM reads so",
            tagged("Backstop:Opt-Out", "all"),
            Held,
        ),
        ("another account's", theirs, NotOwned),
    ] {
        let plan = decide(&subnet).plan.unwrap();
        assert_eq!(plan.disposition, expected, "{what}");
    }
}

#[test]
fn what_cannot_do_without_its_addresses_is_only_reported() {
    let default = Subnet {
        is_default: true,
        ..subnet(ON, OFF)
    };
    let ipv6_only = Subnet {
        ipv6_only: true,
        ..subnet(OFF, ON)
    };
    let node = |key: &str, value: &str| Subnet {
        nodes: vec![tags(key, value)],
        ..subnet(ON, OFF)
    };
    let cluster = |manager: &str| NeededBy::Cluster {
        manager: manager.to_owned(),
    };
    for (subnet, needed_by) in [
        (tagged("kubernetes.io/role/elb", "1"), cluster("Kubernetes")),
        (tagged("kubernetes.io/role/elb", ""), cluster("Kubernetes")),
        (
            tagged("kubernetes.io/cluster/prod", "shared"),
            cluster("the Kubernetes cluster prod"),
        ),
        (
            tagged("alpha.eksctl.io/cluster-name", "prod"),
            cluster("the EKS cluster prod"),
        ),
        (
            tagged("karpenter.sh/discovery", "prod"),
            cluster("Karpenter of the cluster prod"),
        ),
        (
            node("eks:cluster-name", "prod"),
            cluster("the EKS cluster prod"),
        ),
        (
            node("kubernetes.io/cluster/blue", "owned"),
            cluster("the Kubernetes cluster blue"),
        ),
        (default.clone(), NeededBy::DefaultSubnet),
        (ipv6_only, NeededBy::Ipv6OnlySubnet),
    ] {
        let decision = decide(&subnet);
        assert_eq!(decision.finding().unwrap().severity, Severity::Low);
        let plan = decision.plan.unwrap();
        assert_eq!(plan.disposition, Disposition::NotifyOnly, "{needed_by:?}");
        assert!(!plan.changes_something(), "{needed_by:?}");
        let because = plan.because.unwrap();
        assert_eq!(because, Reason::NeededBy { what: needed_by });
    }
    // A tag that only sounds like it, or an instance of anything else.
    for subnet in [
        tagged("Name", "kubernetes"),
        tagged("my-kubernetes.io/role/elb", "1"),
        tagged("aws:cloudformation:stack-name", "network"),
        node("aws:autoscaling:groupName", "web"),
    ] {
        let plan = decide(&subnet).plan.unwrap();
        assert_eq!(plan.disposition, Disposition::Enforce, "{subnet:?}");
    }
    // The policy may have default subnets changed, and no others of these.
    let policy = json!({ "settings": { "change_default_subnets": true } });
    let plan = decide_by(&policy, &default).plan.unwrap();
    assert_eq!(plan.disposition, Disposition::Enforce);
    let of_cluster = Subnet {
        is_default: true,
        ..tagged("kubernetes.io/role/elb", "1")
    };
    let plan = decide_by(&policy, &of_cluster).plan.unwrap();
    assert_eq!(plan.disposition, Disposition::NotifyOnly);
}

/// Every tag that shows a cluster gets through the filter by which its nodes are
/// read.
#[test]
fn the_keys_of_a_cluster_are_those_that_show_one() {
    let patterns: Vec<String> = managers::keys(Kind::orchestrates).collect();
    let passes = |key: &str| {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => key == pattern,
        };
        patterns.iter().any(matches)
    };
    for key in [
        "aws:eks:cluster-name",
        "eks:cluster-name",
        "alpha.eksctl.io/cluster-name",
        "kubernetes.io/cluster/prod",
        "kubernetes.io/role/elb",
        "karpenter.sh/nodepool",
    ] {
        assert!(passes(key), "{key}");
        assert!(
            managers::tagged(&tags(key, "x"), Kind::orchestrates).is_some(),
            "{key}"
        );
    }
    assert!(!passes("Name"));
    assert!(!passes("aws:autoscaling:groupName"));
}

/// The baseline spares what is on, and not what somebody turns on again later.
#[test]
fn an_attribute_that_was_off_is_another_finding_once_it_is_on() {
    let print =
        |item, on| PublicSubnet::fingerprint("subnet-0a3f5c7e91b2d4f60", item, &of(item, on));
    assert_ne!(print(IPV4, ON), print(IPV4, OFF));
    assert_ne!(print(IPV4, ON), print(IPV6, ON));
    assert_eq!(print(IPV4, ON), "8d59904621207782404dab737a0054e0");
}

#[test]
fn by_hand_each_attribute_is_opted_out_and_set_back() {
    for (item, to, option) in [
        (IPV4, ON, "--map-public-ip-on-launch"),
        (IPV4, OFF, "--no-map-public-ip-on-launch"),
        (IPV6, ON, "--assign-ipv6-address-on-creation"),
        (IPV6, OFF, "--no-assign-ipv6-address-on-creation"),
    ] {
        let commands = PublicSubnet::commands(&ByHand {
            resource: "subnet-0a3f5c7e91b2d4f60",
            region: "eu-central-1",
            item,
            left: Some(of(item, !to)),
            to: Some(of(item, to)),
            opt_out: "public-subnet until=2026-12-24",
            outcomes: &[],
        });
        assert_eq!(
            commands,
            [
                r#"aws ec2 create-tags --region eu-central-1 --resources subnet-0a3f5c7e91b2d4f60 --tags '[{"Key":"backstop:opt-out","Value":"public-subnet until=2026-12-24"}]'"#.to_owned(),
                format!(
                    "aws ec2 modify-subnet-attribute --region eu-central-1 --subnet-id subnet-0a3f5c7e91b2d4f60 {option}"
                ),
            ]
        );
    }
}

/// A VPC that an event or a check names leads to its subnets.
#[test]
fn a_vpc_is_expanded_and_nothing_else_is_taken_for_a_subnet() {
    let parse = |resource: &str| {
        PublicSubnet::parse(&json!({
            "id": "1", "source": "backstop", "detail-type": "Check Requested",
            "account": OURS, "region": "eu-central-1",
            "detail": { "control": "public-subnet", "resource": resource },
        }))
    };
    for (resource, expands) in [
        ("subnet-0a3f5c7e91b2d4f60", false),
        ("subnet-0a3f5c7e", false),
        ("vpc-0a3f5c7e91b2d4f60", true),
    ] {
        let trigger = match parse(resource).unwrap() {
            Parsed::Check(trigger) if !expands => trigger,
            Parsed::Expand(trigger) if expands => trigger,
            other => panic!("{resource}: {other:?}"),
        };
        assert_eq!(trigger.resource, resource);
    }
    for resource in [
        "subnet-",
        "subnet-XYZ",
        "vpc-1",
        "eni-0a3f5c7e91b2d4f60",
        "",
    ] {
        let error = parse(resource).unwrap_err().to_string();
        assert!(error.contains("subnet"), "{error}");
    }
}

#[test]
fn its_opt_out_stands_on_the_subnet_or_its_vpc() {
    for id in ["subnet-0a3f5c7e91b2d4f60", "vpc-0a3f5c7e91b2d4f60"] {
        assert!(ControlId::PublicSubnet.reads_tags_of(id), "{id}");
    }
    assert!(!ControlId::PublicSubnet.reads_tags_of("i-0a3f5c7e91b2d4f60"));
}
