//! `public-subnet`: a subnet gives a public address to what is launched in it
//! (Security Hub EC2.15 for IPv4).
//!
//! Each of the two attributes goes off by itself. A subnet whose instances cannot
//! do without is reported and left: one that a Kubernetes cluster uses, one that has
//! IPv6 alone, and, unless the policy says otherwise, a default subnet, which AWS
//! makes so. Deliberately not here: the addresses that instances have.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::exemption::OPT_OUT_TAG;
use crate::finding::{Finding, Verdict};
use crate::info::{Call, ControlInfo, Expands, Guide, OptOutOn, Phrases, Reversal, Tagged};
use crate::managers::{self, Kind, Manager};
use crate::plan::{Change, Exposure, ItemId};
use crate::reason::{NeededBy, Reason};
use crate::security_group::Tags;
use crate::shell::{ascii_json, aws};
use crate::words::{ControlId, Severity, digest};

/// The item of public IPv4 addresses, as EC2 names the attribute.
pub const IPV4: &str = "MapPublicIpOnLaunch";
/// The item of IPv6 addresses, as EC2 names the attribute.
pub const IPV6: &str = "AssignIpv6AddressOnCreation";

/// The control's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Change default subnets too. AWS makes them public, for launches that name no
    /// subnet; without this they are only reported.
    pub change_default_subnets: bool,
}

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// A public IPv4 address, of an instance.
    Ipv4,
    /// An IPv6 address, of a network interface.
    Ipv6,
}

/// Whether a subnet assigns addresses of a kind. It names the kind, because an undo
/// takes an item of an equal state for the one that is put back. Stored in records,
/// so names never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The kind.
    pub address: Address,
    /// Whether it does.
    pub on: bool,
}

/// What is read of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its id.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// The account that owns it.
    pub owner: String,
    /// Its name, for people.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
    /// The opt-out tags of its VPC.
    pub vpc_opt_outs: Tags,
    /// Whether what is launched in it gets a public IPv4 address.
    pub ipv4: bool,
    /// Whether network interfaces made in it get an IPv6 address.
    pub ipv6: bool,
    /// Whether its IPv6 addresses are private ones, which AWS does not route to
    /// the internet.
    pub private_ipv6: bool,
    /// Whether it has IPv6 alone.
    pub ipv6_only: bool,
    /// Whether it is the default subnet of its Availability Zone.
    pub is_default: bool,
    /// The tags of instances in it that show a Kubernetes cluster.
    pub nodes: Vec<Tags>,
}

impl Subnet {
    /// The Kubernetes cluster that uses it, as its own tags show or those of nodes in
    /// it: EKS tags the nodes of a node group, and no subnet.
    fn cluster(&self) -> Option<Manager> {
        let mut tags = std::iter::once(&self.tags).chain(&self.nodes);
        tags.find_map(|tags| managers::tagged(tags, Kind::orchestrates))
    }

    /// What in it cannot do without the addresses.
    fn needed_by(&self, settings: &Settings) -> Option<NeededBy> {
        if let Some(manager) = self.cluster() {
            let manager = manager.to_string();
            Some(NeededBy::Cluster { manager })
        } else if self.ipv6_only {
            Some(NeededBy::Ipv6OnlySubnet)
        } else if self.is_default && !settings.change_default_subnets {
            Some(NeededBy::DefaultSubnet)
        } else {
            None
        }
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct PublicSubnet;

impl Control for PublicSubnet {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::PublicSubnet,
        function: "remove-public-address",
        prefix: Some("subnet-"),
        calls: &[
            Call {
                name: "ModifySubnetAttribute",
                resource: &[
                    &["requestParameters", "subnetId"],
                    &[
                        "requestParameters",
                        "ModifySubnetAttributeRequest",
                        "SubnetId",
                    ],
                ],
            },
            Call {
                name: "CreateSubnet",
                resource: &[
                    &["responseElements", "subnet", "subnetId"],
                    &[
                        "responseElements",
                        "CreateSubnetResponse",
                        "subnet",
                        "subnetId",
                    ],
                ],
            },
            Call {
                name: "CreateDefaultSubnet",
                resource: &[
                    &["responseElements", "subnet", "subnetId"],
                    &[
                        "responseElements",
                        "CreateDefaultSubnetResponse",
                        "subnet",
                        "subnetId",
                    ],
                ],
            },
        ],
        hub: &["EC2.15"],
        reads: &[
            "ec2:DescribeInstances",
            "ec2:DescribeSubnets",
            "ec2:DescribeTags",
        ],
        begins: &["ec2:ModifySubnetAttribute"],
        undoes: &["ec2:CreateTags"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Resource,
        enforce_by_name_only: false,
        guide: Guide {
            why: "Whatever is launched in the subnet gets an address that the internet can reach, whether anybody asked for one or not.",
            changes: "Turns off that the subnet assigns public IPv4 addresses to instances, or IPv6 addresses to network interfaces.",
            never: &[
                "It never takes an address from what runs.",
                "It never changes a subnet that a Kubernetes cluster uses, or one that has only IPv6: it only reports them.",
                "It never changes a default subnet unless the policy says so in `change_default_subnets`.",
            ],
        },
        phrases: Phrases {
            resource: "subnet",
            item: "attribute",
            tagged: Some(Tagged {
                any: "the subnet or its VPC",
                resource: "the subnet or its VPC",
            }),
            found: "assigning public addresses",
            closed: "the subnet no longer assigns public addresses",
            remedy: "turn the assignment off",
            why_exempt: "why its instances need public addresses",
            afterwards: &[
                "Instances that run keep the public addresses they have. New ones get one only where their launch asks for it.",
                "New instances without a public address reach the internet only by another way, such as a NAT gateway: see that Auto Scaling groups in the subnet have one.",
            ],
        },
    };

    /// A new default VPC concerns its subnets, and so does a VPC's opt-out.
    const EXPANDS: Option<Expands> = Some(Expands {
        resource: "VPC",
        prefix: Some("vpc-"),
        calls: &[
            // It makes a default subnet in each Availability Zone.
            Call {
                name: "CreateDefaultVpc",
                resource: &[
                    &["responseElements", "vpc", "vpcId"],
                    &[
                        "responseElements",
                        "CreateDefaultVpcResponse",
                        "vpc",
                        "vpcId",
                    ],
                ],
            },
        ],
        on_request: true,
    });

    type Settings = Settings;
    type Facts = Subnet;
    type State = Assignment;

    fn subject(subnet: &Subnet) -> Subject<'_> {
        Subject {
            id: &subnet.id,
            arn: &subnet.arn,
            name: &subnet.name,
            owner: &subnet.owner,
            tags: &subnet.tags,
            inherited: Some(&subnet.vpc_opt_outs),
        }
    }

    fn items(subnet: &Subnet) -> BTreeMap<ItemId, Assignment> {
        [
            (IPV4, Address::Ipv4, subnet.ipv4),
            (IPV6, Address::Ipv6, subnet.ipv6),
        ]
        .map(|(item, address, on)| (item.to_owned(), Assignment { address, on }))
        .into()
    }

    fn judge(
        subnet: &Subnet,
        settings: &Settings,
        _former: Option<&Assignment>,
        spared: &IsSpared<'_>,
    ) -> Verdict<Assignment> {
        let mut wrong = Self::items(subnet);
        wrong.retain(|item, state| state.on && !(item == IPV6 && subnet.private_ipv6));
        if wrong.is_empty() {
            return Verdict::Compliant;
        }
        let needed_by = subnet.needed_by(settings);
        let off = |state: &Assignment| Assignment {
            on: false,
            ..*state
        };
        let changes = wrong
            .iter()
            .filter(|(item, _)| needed_by.is_none() && !spared(item))
            .map(|(item, state)| Change::set(item, *state, off(state)));
        Verdict::Violates(Finding {
            severity: match needed_by {
                Some(_) => Severity::Low,
                None => Severity::Medium,
            },
            severities: BTreeMap::new(),
            changes: changes.collect(),
            exposures: wrong
                .into_iter()
                .map(|(item, state)| Exposure::of(item, state))
                .collect(),
            notes: Vec::new(),
            left: needed_by.map(|what| Reason::NeededBy { what }),
        })
    }

    fn line(_item: &str, state: &Assignment) -> String {
        let does = match state.on {
            true => "assigns",
            false => "does not assign",
        };
        match state.address {
            Address::Ipv4 => format!("{does} public IPv4 addresses to instances launched in it"),
            Address::Ipv6 => format!("{does} IPv6 addresses to network interfaces created in it"),
        }
    }

    fn remaining(exposure: &Exposure<Assignment>) -> String {
        let line = Self::line(&exposure.item, &exposure.state);
        format!("the subnet still {line}")
    }

    fn commands(back: &ByHand<'_, Assignment>) -> Vec<String> {
        let Some(to) = back.to else {
            return Vec::new();
        };
        let attribute = match (to.address, to.on) {
            (Address::Ipv4, true) => "--map-public-ip-on-launch",
            (Address::Ipv4, false) => "--no-map-public-ip-on-launch",
            (Address::Ipv6, true) => "--assign-ipv6-address-on-creation",
            (Address::Ipv6, false) => "--no-assign-ipv6-address-on-creation",
        };
        let tag = json!([{ "Key": OPT_OUT_TAG, "Value": back.opt_out }]);
        let opt_out = [
            ("--resources", back.resource.to_owned()),
            ("--tags", ascii_json(&tag)),
        ];
        let subnet = [("--subnet-id", back.resource.to_owned())];
        let modify = aws("ec2 modify-subnet-attribute", back.region, &subnet);
        vec![
            aws("ec2 create-tags", back.region, &opt_out),
            format!("{modify} {attribute}"),
        ]
    }

    /// With the state: the attribute stays once it is off, and the baseline would
    /// spare it for ever.
    fn fingerprint(subnet: &str, item: &str, state: &Assignment) -> String {
        let state = if state.on { "on" } else { "off" };
        digest([Self::INFO.id.name(), subnet, item, state])
    }
}
