//! `open-ingress`: a group with an open rule, one that allows a port too many, and
//! one that is as it has to be.

use backstop_core::words::ControlId;
use backstop_wire::memory::ec2::{Ec2, Rule, Tags};

use super::Fixture;

const GROUP: &str = "sg-0123456789abcdef0";

pub(super) struct OpenIngress;

fn rule(from: i32, to: i32, source: &str, description: &str) -> Rule {
    Rule {
        group: GROUP.to_owned(),
        protocol: "tcp".to_owned(),
        from,
        to,
        source: ("cidrIpv4", source.to_owned()),
        description: description.to_owned(),
        tags: Tags::from([("ticket".to_owned(), "OPS-7".to_owned())]),
    }
}

impl Fixture for OpenIngress {
    fn control(&self) -> ControlId {
        ControlId::OpenIngress
    }

    fn id(&self) -> &'static str {
        GROUP
    }

    fn place(&self, ec2: &mut Ec2) {
        ec2.groups.insert(GROUP.to_owned(), Tags::new());
        for (id, rule) in [
            ("sgr-inside", rule(22, 22, "10.0.0.0/8", "ssh from inside")),
            ("sgr-web", rule(443, 443, "0.0.0.0/0", "https")),
        ] {
            ec2.rules.insert(id.to_owned(), rule);
        }
    }

    fn items(&self) -> &[&'static str] {
        &["sgr-ssh", "sgr-web"]
    }

    fn expose(&self, item: &str, ec2: &mut Ec2) {
        let open = match item {
            "sgr-ssh" => rule(22, 22, "0.0.0.0/0", "ssh for the vendor"),
            _ => rule(443, 444, "0.0.0.0/0", "https"),
        };
        ec2.rules.insert(item.to_owned(), open);
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        let rules = ec2.rules.values();
        let mut rules: Vec<String> = rules
            .map(|of| {
                let ticket = &of.tags["ticket"];
                let (from, to, source, about) = (of.from, of.to, &of.source.1, &of.description);
                format!("{from}-{to} from {source} ({about}, {ticket})")
            })
            .collect();
        rules.sort();
        rules
    }

    fn change_otherwise(&self, ec2: &mut Ec2) -> bool {
        let web = rule(443, 450, "0.0.0.0/0", "https");
        ec2.rules.insert("sgr-web".to_owned(), web);
        true
    }
}
