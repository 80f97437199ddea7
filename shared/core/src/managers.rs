//! What manages a resource, beside people: the tools and services that make it
//! anew, or put it back, as they know it. Whoever changes such a resource by
//! hand has to change it there as well.
//!
//! One table, [`KNOWN`], read by one function, [`managed_by`]. Tags come first:
//! they stay, and many of them only AWS can set. Then the service that called,
//! then the agent that it called with. Last come tags that people also put on
//! what they manage themselves, for a tool to find it.
//!
//! Deliberately not here: AWS services that EC2 itself names as operators.

use std::fmt;

use crate::security_group::Tags;
use crate::words::Actor;

/// The tag of a CloudFormation stack's resources, with the stack's name. Nobody
/// but AWS can set it.
const STACK_TAG: &str = "aws:cloudformation:stack-name";
/// The tag of a member of an Auto Scaling group, with the group's name.
pub(crate) const AUTO_SCALING_GROUP_TAG: &str = "aws:autoscaling:groupName";
/// What the key begins with of a tag that names a Kubernetes cluster: `owned` by
/// it, or `shared` with others.
const CLUSTER_TAG: &str = "kubernetes.io/cluster/";

/// A tool or service that manages resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The AWS Load Balancer Controller of a Kubernetes cluster.
    LoadBalancerController,
    /// Karpenter, which starts nodes of a Kubernetes cluster.
    Karpenter,
    /// An EKS cluster.
    Eks,
    /// A Kubernetes cluster of any make, or its storage driver.
    Kubernetes,
    /// An Elastic Beanstalk environment.
    ElasticBeanstalk,
    /// An EMR cluster.
    Emr,
    /// An Auto Scaling group.
    AutoScaling,
    /// A CDK app, which deploys CloudFormation stacks.
    Cdk,
    /// A CloudFormation stack.
    CloudFormation,
    /// A Pulumi stack.
    Pulumi,
    /// OpenTofu.
    OpenTofu,
    /// Terraform.
    Terraform,
}

/// What manages a resource, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// The tool or service.
    pub kind: Kind,
    /// The stack, ingress, module, group, … that the resource belongs to.
    pub name: Option<String>,
    /// The cluster, where `name` is something in one.
    pub cluster: Option<String>,
    /// The tag that shows it; none: the caller, or its agent.
    pub tag: Option<(String, String)>,
}

impl fmt::Display for Manager {
    /// As in "It is managed by …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KNOWN.iter().find(|known| known.kind == self.kind);
        let Some(known) = known else { return Ok(()) };
        match (&self.name, &self.cluster) {
            (Some(name), _) => write!(f, "{} {name}", known.named)?,
            (None, Some(cluster)) if self.kind.is_in_cluster() => {
                return write!(f, "{} of the cluster {cluster}", known.unnamed);
            }
            (None, Some(cluster)) => write!(f, "{} {cluster}", known.named)?,
            (None, None) => write!(f, "{}", known.unnamed)?,
        }
        if let (Some(_), Some(cluster)) = (&self.name, &self.cluster) {
            write!(f, " of the cluster {cluster}")?;
        }
        // Anybody may write such a tag, in many ways: it is shown.
        match &self.tag {
            Some((key, value)) if self.kind.shows_its_tag() && self.name.is_none() => {
                write!(f, " (tag {key}={value})")
            }
            _ => Ok(()),
        }
    }
}

impl Kind {
    /// Whether it works in a Kubernetes cluster.
    #[must_use]
    pub fn is_in_cluster(self) -> bool {
        matches!(self, Self::LoadBalancerController | Self::Karpenter)
    }

    /// Whether it knows volumes and instances by their ids, and replaces what is
    /// not as it made it: what is swapped or stopped by others gets lost.
    #[must_use]
    pub fn orchestrates(self) -> bool {
        matches!(self, Self::Karpenter | Self::Eks | Self::Kubernetes)
    }

    fn shows_its_tag(self) -> bool {
        matches!(self, Self::Terraform | Self::OpenTofu | Self::Pulumi)
    }
}

/// How a tag shows a manager. Keys are compared as they are, but for words, which
/// people write in many ways.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// A key, whose value is the name of what the resource belongs to.
    Name(&'static str),
    /// The same, with what it is the name of.
    NameOf(&'static str, &'static str),
    /// A key, whose value is the name of the cluster.
    Cluster(&'static str),
    /// The beginning of a key; what follows is the name of the cluster.
    ClusterAfter(&'static str),
    /// The beginning of a key; its value says nothing.
    Prefix(&'static str),
    /// The first word of a key in lower case and without separators; its value
    /// says nothing, unless it says no.
    Word(&'static str),
}

/// One manager, and everything that shows it.
struct Known {
    kind: Kind,
    /// Ahead of its name.
    named: &'static str,
    /// Without a name.
    unnamed: &'static str,
    tags: &'static [Sign],
    /// Service principals that call for it.
    callers: &'static [&'static str],
    /// Parts of user agents, in lower case.
    agents: &'static [&'static str],
}

/// From what is nearest to the resource to what made that: an Elastic Beanstalk
/// environment is a CloudFormation stack as well, and it is changed there.
/// Sources: the user guides of each on the tags that it sets.
const KNOWN: &[Known] = &[
    Known {
        kind: Kind::LoadBalancerController,
        named: "the AWS Load Balancer Controller, for",
        unnamed: "the AWS Load Balancer Controller",
        tags: &[
            Sign::NameOf("ingress.k8s.aws/stack", "the ingress"),
            Sign::NameOf("service.k8s.aws/stack", "the service"),
            Sign::Cluster("elbv2.k8s.aws/cluster"),
            Sign::Cluster("ingress.k8s.aws/cluster"),
            Sign::Prefix("elbv2.k8s.aws/"),
            Sign::Prefix("ingress.k8s.aws/"),
            Sign::Prefix("service.k8s.aws/"),
        ],
        callers: &[],
        agents: &["elbv2.k8s.aws", "aws-load-balancer-controller"],
    },
    Known {
        kind: Kind::Karpenter,
        named: "Karpenter, for",
        unnamed: "Karpenter",
        tags: &[
            Sign::NameOf("karpenter.sh/nodepool", "the node pool"),
            Sign::NameOf("karpenter.sh/provisioner-name", "the provisioner"),
            Sign::Cluster("karpenter.sh/managed-by"),
            Sign::Prefix("karpenter.sh/"),
            Sign::Prefix("karpenter.k8s.aws/"),
        ],
        callers: &[],
        agents: &["karpenter"],
    },
    Known {
        kind: Kind::Eks,
        named: "the EKS cluster",
        unnamed: "an EKS cluster",
        tags: &[
            Sign::Cluster("aws:eks:cluster-name"),
            Sign::Cluster("eks:cluster-name"),
            Sign::Cluster("eks:eks-cluster-name"),
            Sign::Cluster("alpha.eksctl.io/cluster-name"),
        ],
        callers: &["eks.amazonaws.com", "eks-nodegroup.amazonaws.com"],
        agents: &["eksctl/"],
    },
    Known {
        kind: Kind::Kubernetes,
        named: "the Kubernetes cluster",
        unnamed: "Kubernetes",
        tags: &[
            Sign::ClusterAfter(CLUSTER_TAG),
            Sign::Cluster("ebs.csi.aws.com/cluster-name"),
            Sign::Prefix("ebs.csi.aws.com/"),
            Sign::Prefix("kubernetes.io/"),
            Sign::Prefix("CSIVolumeName"),
        ],
        callers: &[],
        agents: &[
            "aws-cloud-controller-manager",
            "aws-ebs-csi-driver",
            "kubernetes/",
        ],
    },
    Known {
        kind: Kind::ElasticBeanstalk,
        named: "the Elastic Beanstalk environment",
        unnamed: "Elastic Beanstalk",
        tags: &[
            Sign::Name("elasticbeanstalk:environment-name"),
            Sign::Prefix("elasticbeanstalk:"),
        ],
        callers: &["elasticbeanstalk.amazonaws.com"],
        agents: &[],
    },
    Known {
        kind: Kind::Emr,
        named: "the EMR cluster",
        unnamed: "EMR",
        tags: &[
            Sign::Name("aws:elasticmapreduce:job-flow-id"),
            Sign::Prefix("aws:elasticmapreduce:"),
        ],
        callers: &["elasticmapreduce.amazonaws.com"],
        agents: &[],
    },
    Known {
        kind: Kind::AutoScaling,
        named: "the Auto Scaling group",
        unnamed: "an Auto Scaling group",
        tags: &[Sign::Name(AUTO_SCALING_GROUP_TAG)],
        callers: &["autoscaling.amazonaws.com"],
        agents: &[],
    },
    Known {
        kind: Kind::Cdk,
        named: "the CDK stack",
        unnamed: "the CDK",
        tags: &[
            Sign::Name("aws:cdk:stack-name"),
            Sign::Prefix("aws:cdk:"),
            Sign::Prefix("aws-cdk:"),
        ],
        callers: &[],
        agents: &["aws-cdk", "aws_cdk"],
    },
    Known {
        kind: Kind::CloudFormation,
        named: "the CloudFormation stack",
        unnamed: "a CloudFormation stack",
        tags: &[Sign::Name(STACK_TAG), Sign::Prefix("aws:cloudformation:")],
        callers: &["cloudformation.amazonaws.com"],
        agents: &[],
    },
    Known {
        kind: Kind::Pulumi,
        named: "the Pulumi stack",
        unnamed: "Pulumi",
        tags: &[Sign::Name("pulumi:stack"), Sign::Word("pulumi")],
        callers: &[],
        agents: &["pulumi"],
    },
    Known {
        kind: Kind::OpenTofu,
        named: "the OpenTofu",
        unnamed: "OpenTofu",
        tags: &[Sign::Word("opentofu")],
        callers: &[],
        agents: &["opentofu"],
    },
    Known {
        kind: Kind::Terraform,
        named: "the Terraform",
        unnamed: "Terraform",
        tags: &[
            Sign::Word("terraform"),
            Sign::Word("tfmodule"),
            Sign::Word("tfworkspace"),
        ],
        callers: &[],
        agents: &["terraform"],
    },
];

/// Keys, without regard to case and separators, under which people write down
/// which tool manages something: `ManagedBy=terraform`.
const MANAGED_BY: &[&str] = &[
    "managedby",
    "createdby",
    "createdwith",
    "deployedby",
    "deployedwith",
    "provisionedby",
    "provisioner",
    "iac",
    "iactool",
    "managementtool",
];

/// Keys, in the same way, with what of Terraform something comes from, and what
/// that is.
const PARTS: &[(&str, &str)] = &[
    ("terraformmodule", "module"),
    ("opentofumodule", "module"),
    ("tfmodule", "module"),
    ("modulename", "module"),
    ("module", "module"),
    ("terraformworkspace", "workspace"),
    ("opentofuworkspace", "workspace"),
    ("tfworkspace", "workspace"),
    ("workspace", "workspace"),
];

/// Tags that people put on what they manage themselves, so that a tool finds it:
/// they show a manager only where nothing else does.
fn is_weak(key: &str, value: &str) -> bool {
    key == "karpenter.sh/discovery"
        || (key.starts_with(CLUSTER_TAG) && value != "owned")
        || key.starts_with("kubernetes.io/role/")
}

/// What manages a resource (with its parts), as its tags, the caller or its agent
/// show. Of several that do, the one that is nearest to it.
#[must_use]
pub fn managed_by(tags: &[&Tags], actor: &Actor) -> Option<Manager> {
    let strong = |key: &str, value: &str| !is_weak(key, value);
    first(tags, strong)
        .or_else(|| by_caller(actor))
        .or_else(|| first(tags, is_weak))
}

/// What of these kinds manages a resource, as tags show that only the tool or AWS
/// sets.
#[must_use]
pub fn tagged(tags: &Tags, is: impl Fn(Kind) -> bool) -> Option<Manager> {
    let mut known = KNOWN.iter().filter(|known| is(known.kind));
    known.find_map(|known| by_tags(known, tags, |_, _| true))
}

/// The keys of tags by which [`tagged`] knows these kinds, as EC2 filters them: `*`
/// is any text.
pub fn keys(is: impl Fn(Kind) -> bool) -> impl Iterator<Item = String> {
    let signs = KNOWN.iter().filter(move |known| is(known.kind));
    let signs = signs.flat_map(|known| known.tags);
    signs.filter_map(|sign| match sign {
        Sign::Name(key) | Sign::NameOf(key, _) | Sign::Cluster(key) => Some((*key).to_owned()),
        Sign::ClusterAfter(start) | Sign::Prefix(start) => Some(format!("{start}*")),
        // Written in many ways, which no filter covers.
        Sign::Word(_) => None,
    })
}

/// The Auto Scaling group that an instance is a member of.
#[must_use]
pub fn auto_scaling_group(tags: &Tags) -> Option<&str> {
    tags.get(AUTO_SCALING_GROUP_TAG).map(String::as_str)
}

/// The CloudFormation stack that made a resource, as tags show that nobody but
/// AWS can set.
#[must_use]
pub fn stack(tags: &Tags) -> Option<Manager> {
    tagged(tags, |kind| kind == Kind::CloudFormation)
}

fn first(tags: &[&Tags], counts: impl Fn(&str, &str) -> bool) -> Option<Manager> {
    KNOWN.iter().find_map(|known| {
        let of = |tags: &&Tags| by_tags(known, tags, &counts).or_else(|| by_note(known, tags));
        tags.iter().find_map(of)
    })
}

fn by_caller(actor: &Actor) -> Option<Manager> {
    let caller = actor.invoked_by.as_deref().or(actor.principal.as_deref());
    let caller = caller.unwrap_or_default();
    let agent = actor.user_agent.as_deref().unwrap_or_default();
    let agent = agent.to_ascii_lowercase();
    // A service that calls for somebody stands in both.
    let calls = |known: &&Known| {
        known
            .callers
            .iter()
            .any(|own| *own == caller || *own == agent)
    };
    let with = |known: &&Known| known.agents.iter().any(|own| agent.contains(own));
    let known = KNOWN
        .iter()
        .find(calls)
        .or_else(|| KNOWN.iter().find(with))?;
    Some(Manager {
        kind: known.kind,
        name: None,
        cluster: None,
        tag: None,
    })
}

/// A manager by the tags that count; none: none of them is its own.
fn by_tags(known: &Known, tags: &Tags, counts: impl Fn(&str, &str) -> bool) -> Option<Manager> {
    let mut found: Option<Manager> = None;
    for sign in known.tags {
        for (key, value) in tags.iter().filter(|(key, value)| counts(key, value)) {
            let Some((name, cluster)) = sign.read(key, value) else {
                continue;
            };
            let manager = found.get_or_insert_with(|| Manager {
                kind: known.kind,
                name: None,
                cluster: None,
                tag: Some((key.clone(), value.clone())),
            });
            manager.name = manager.name.take().or(name);
            manager.cluster = manager.cluster.take().or(cluster);
        }
    }
    let mut manager = found?;
    complete(&mut manager, tags);
    Some(manager)
}

/// A manager that people have written down, in a tag of their own.
fn by_note(known: &Known, tags: &Tags) -> Option<Manager> {
    let says = |value: &str| {
        let value = value.to_ascii_lowercase();
        known.agents.iter().any(|own| value.contains(own))
            || matches!(
                (known.kind, &*value),
                (Kind::Terraform, "tf") | (Kind::Cdk, "cdk")
            )
            || (known.kind == Kind::CloudFormation && value.contains("cloudformation"))
    };
    let tag = tags
        .iter()
        .find(|(key, value)| MANAGED_BY.contains(&&*plain(key)) && says(value))?;
    let mut manager = Manager {
        kind: known.kind,
        name: None,
        cluster: None,
        tag: Some((tag.0.clone(), tag.1.clone())),
    };
    complete(&mut manager, tags);
    Some(manager)
}

/// What other tags say of a manager that one has shown.
fn complete(manager: &mut Manager, tags: &Tags) {
    let tag = |of: &dyn Fn(&str) -> bool| {
        let found = tags
            .iter()
            .find(|(key, value)| of(key) && !value.is_empty());
        found.map(|(_, value)| value.clone())
    };
    if manager.name.is_none() {
        manager.name = match manager.kind {
            Kind::Cdk => tag(&|key| key == STACK_TAG),
            Kind::Terraform | Kind::OpenTofu => PARTS.iter().find_map(|(own, what)| {
                let name = tag(&|key| plain(key) == *own)?;
                Some(format!("{what} {name}"))
            }),
            _ => None,
        };
    }
    if manager.cluster.is_none() && manager.kind.is_in_cluster() {
        let named = tag(&|key| {
            key.ends_with("eks:cluster-name")
                || key == "eks:eks-cluster-name"
                || key == "karpenter.sh/discovery"
        });
        let by_key = tags.keys().find_map(|key| key.strip_prefix(CLUSTER_TAG));
        manager.cluster = named.or_else(|| by_key.map(str::to_owned));
    }
}

impl Sign {
    /// The name and the cluster that a tag gives; none: it is no such tag.
    fn read(self, key: &str, value: &str) -> Option<(Option<String>, Option<String>)> {
        let text = (!value.is_empty()).then(|| value.to_owned());
        match self {
            Self::Name(own) => (key == own).then_some((text, None)),
            Self::NameOf(own, what) => {
                (key == own).then(|| (text.map(|name| format!("{what} {name}")), None))
            }
            Self::Cluster(own) => (key == own).then_some((None, text)),
            Self::ClusterAfter(own) => {
                let cluster = key.strip_prefix(own).filter(|rest| !rest.is_empty())?;
                Some((None, Some(cluster.to_owned())))
            }
            Self::Prefix(own) => key.starts_with(own).then_some((None, None)),
            Self::Word(own) => {
                let denies = matches!(&*value.to_ascii_lowercase(), "false" | "no" | "0");
                (plain(key).starts_with(own) && !denies).then_some((None, None))
            }
        }
    }
}

/// A key in lower case and without separators.
fn plain(key: &str) -> String {
    let chars = key.chars().filter(char::is_ascii_alphanumeric);
    chars.map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(of: &[(&str, &str)]) -> Tags {
        of.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn by_tags(of: &[(&str, &str)]) -> Option<String> {
        managed_by(&[&tags(of)], &Actor::default()).map(|manager| manager.to_string())
    }

    fn by(invoked_by: Option<&str>, agent: Option<&str>) -> Actor {
        Actor {
            invoked_by: invoked_by.map(str::to_owned),
            user_agent: agent.map(str::to_owned),
            ..Actor::default()
        }
    }

    #[test]
    fn every_manager_is_known_by_its_tags_with_what_it_calls_the_resource() {
        for (of, name) in [
            (
                &[
                    ("elbv2.k8s.aws/cluster", "prod"),
                    ("ingress.k8s.aws/resource", "ManagedLBSecurityGroup"),
                    ("ingress.k8s.aws/stack", "default/web"),
                ][..],
                "the AWS Load Balancer Controller, for the ingress default/web of the cluster prod",
            ),
            (
                &[("service.k8s.aws/stack", "shop/api")],
                "the AWS Load Balancer Controller, for the service shop/api",
            ),
            (
                &[("elbv2.k8s.aws/cluster", "prod")],
                "the AWS Load Balancer Controller of the cluster prod",
            ),
            (
                &[
                    ("karpenter.sh/nodepool", "spot"),
                    ("kubernetes.io/cluster/blue", "owned"),
                ],
                "Karpenter, for the node pool spot of the cluster blue",
            ),
            (&[("karpenter.sh/nodeclaim", "spot-x7")], "Karpenter"),
            (
                &[
                    ("aws:eks:cluster-name", "prod"),
                    ("kubernetes.io/cluster/prod", "owned"),
                ],
                "the EKS cluster prod",
            ),
            (
                &[("kubernetes.io/cluster/blue", "owned")],
                "the Kubernetes cluster blue",
            ),
            (
                &[
                    ("elasticbeanstalk:environment-name", "shop-prod"),
                    ("aws:cloudformation:stack-name", "awseb-e-abc-stack"),
                ],
                "the Elastic Beanstalk environment shop-prod",
            ),
            (
                &[("aws:elasticmapreduce:job-flow-id", "j-2AXXXXXXGAPLF")],
                "the EMR cluster j-2AXXXXXXGAPLF",
            ),
            (
                &[("aws:autoscaling:groupName", "web")],
                "the Auto Scaling group web",
            ),
            (
                &[
                    ("aws:cdk:path", "Shop/Web/Group"),
                    ("aws:cloudformation:stack-name", "Shop"),
                ],
                "the CDK stack Shop",
            ),
            (
                &[("aws:cloudformation:stack-name", "web")],
                "the CloudFormation stack web",
            ),
            (
                &[("aws:cloudformation:logical-id", "Group")],
                "a CloudFormation stack",
            ),
            (&[("pulumi:stack", "prod")], "the Pulumi stack prod"),
            (
                &[("pulumi:project", "shop")],
                "Pulumi (tag pulumi:project=shop)",
            ),
            (
                &[("ManagedBy", "Terraform")],
                "Terraform (tag ManagedBy=Terraform)",
            ),
            (
                &[("managed_by", "terraform"), ("module", "network")],
                "the Terraform module network",
            ),
            (
                &[("terraform-module", "network")],
                "the Terraform module network",
            ),
            (&[("tf_workspace", "prod")], "the Terraform workspace prod"),
            (&[("Terraform", "true")], "Terraform (tag Terraform=true)"),
            (
                &[("created-by", "opentofu")],
                "OpenTofu (tag created-by=opentofu)",
            ),
            (
                &[("managed-by", "pulumi")],
                "Pulumi (tag managed-by=pulumi)",
            ),
            (&[("ManagedBy", "cdk")], "the CDK"),
            (&[("iac", "CloudFormation")], "a CloudFormation stack"),
        ] {
            assert_eq!(by_tags(of).as_deref(), Some(name), "{of:?}");
        }
        for of in [
            &[("Name", "terraform")][..],
            &[("terraform", "false")],
            &[("owner", "karpenter")],
            &[("managed-by", "team-web")],
            &[("module", "network")],
            &[("my-kubernetes.io/x", "y")],
            &[("Xaws:cloudformation:stack-name", "web")],
        ] {
            assert_eq!(by_tags(of), None, "{of:?}");
        }
    }

    /// What people put on a group of their own, for a tool to find it, shows the
    /// tool only where nothing else shows another.
    #[test]
    fn tags_that_only_let_a_tool_find_something_come_last() {
        let found = [
            ("karpenter.sh/discovery", "prod"),
            ("kubernetes.io/cluster/prod", "shared"),
        ];
        assert_eq!(
            by_tags(&found).as_deref(),
            Some("Karpenter of the cluster prod")
        );
        let mut more = found.to_vec();
        more.push(("managed-by", "terraform"));
        assert_eq!(
            by_tags(&more).as_deref(),
            Some("Terraform (tag managed-by=terraform)")
        );
        let terraform = by(None, Some("APN/1.0 HashiCorp/1.0 Terraform/1.9.0"));
        let manager = managed_by(&[&tags(&found)], &terraform).unwrap();
        assert_eq!(manager.kind, Kind::Terraform);
    }

    #[test]
    fn tags_go_before_the_caller_and_the_caller_before_its_agent() {
        let terraform = "APN/1.0 HashiCorp/1.0 Terraform/1.9.0 terraform-provider-aws/5.60";
        let stack = tags(&[("aws:cloudformation:stack-name", "web")]);
        let none = Tags::new();
        for (tags, actor, name) in [
            (
                &stack,
                by(None, Some(terraform)),
                Some("the CloudFormation stack web"),
            ),
            (&none, by(None, Some(terraform)), Some("Terraform")),
            (
                &none,
                by(Some("cloudformation.amazonaws.com"), Some(terraform)),
                Some("a CloudFormation stack"),
            ),
            (
                &none,
                by(None, Some("cloudformation.amazonaws.com")),
                Some("a CloudFormation stack"),
            ),
            (
                &none,
                by(Some("autoscaling.amazonaws.com"), None),
                Some("an Auto Scaling group"),
            ),
            (
                &none,
                by(Some("elasticbeanstalk.amazonaws.com"), None),
                Some("Elastic Beanstalk"),
            ),
            (
                &none,
                by(Some("elasticmapreduce.amazonaws.com"), None),
                Some("EMR"),
            ),
            (
                &none,
                by(Some("eks.amazonaws.com"), None),
                Some("an EKS cluster"),
            ),
            (
                &none,
                by(None, Some("elbv2.k8s.aws/v2.8.1 aws-sdk-go/1.51.3")),
                Some("the AWS Load Balancer Controller"),
            ),
            (
                &none,
                by(None, Some("aws-sdk-go-v2 karpenter.sh-1.0.6")),
                Some("Karpenter"),
            ),
            (
                &none,
                by(
                    None,
                    Some("APN/1.0 Pulumi/1.0 PulumiAWS/6.5 terraform-provider-aws"),
                ),
                Some("Pulumi"),
            ),
            (
                &none,
                by(None, Some("APN/1.0 HashiCorp/1.0 Packer/1.11")),
                None,
            ),
            (&none, by(None, Some("aws-cli/2.31")), None),
            (&none, by(Some("lambda.amazonaws.com"), None), None),
        ] {
            let found = managed_by(&[tags], &actor).map(|manager| manager.to_string());
            assert_eq!(found.as_deref(), name, "{actor:?}");
        }
    }

    #[test]
    fn of_a_resource_with_parts_every_tag_counts() {
        let (instance, volume) = (
            tags(&[("Name", "db")]),
            tags(&[("managed-by", "terraform")]),
        );
        let manager = managed_by(&[&instance, &volume], &Actor::default());
        assert_eq!(manager.unwrap().kind, Kind::Terraform);
    }
}
