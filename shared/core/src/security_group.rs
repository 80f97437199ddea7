//! Facts about a security group, as gathered from the live account.
//!
//! Strings are kept as EC2 gave them, so that a rule can be put back to the
//! letter. Deliberately not here: what is wrong with a group (`controls`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ports::Permission;
use crate::prose::one_line;

/// The name of the group that every VPC is made with. EC2 reserves it, and gives
/// no other sign.
pub const DEFAULT_NAME: &str = "default";

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// Who a rule admits. A source is kept whole or goes whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
pub enum Source {
    /// An IPv4 CIDR block, as EC2 wrote it.
    Ipv4(String),
    /// An IPv6 CIDR block, as EC2 wrote it.
    Ipv6(String),
    /// A managed prefix list, by id.
    PrefixList(String),
    /// Members of a security group, by id (with its owner's account where it
    /// is another one, as `account/sg-…`).
    SecurityGroup(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Ipv4(text)
        | Self::Ipv6(text)
        | Self::PrefixList(text)
        | Self::SecurityGroup(text)) = self;
        f.write_str(text)
    }
}

/// One ingress rule: one permission for one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// `sgr-…`.
    pub id: String,
    /// Protocol and ports.
    pub permission: Permission,
    /// Who is admitted.
    pub source: Source,
    /// The description, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The rule's own tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
}

/// Which traffic a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What the group's members may be sent.
    Ingress,
    /// What they may send.
    Egress,
}

impl Direction {
    /// Its name in EC2's operations and commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A rule of either direction. Of an egress rule the source is the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its direction.
    pub direction: Direction,
    /// Everything else.
    pub rule: IngressRule,
}

/// Something that uses a security group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum User {
    /// A network interface that is in the group.
    Interface {
        /// Its id.
        id: String,
        /// The instance that it is attached to, else its description.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
    },
    /// Another group of which a rule names this one.
    Group {
        /// Its id.
        id: String,
    },
    /// A VPC beyond a peering connection or a transit gateway, of which a group
    /// names this one.
    Vpc {
        /// Its id.
        id: String,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { id, of: None } => write!(f, "the network interface {id}"),
            Self::Interface { id, of: Some(of) } => {
                write!(f, "the network interface {id} ({})", one_line(of, 60))
            }
            Self::Group { id } => write!(f, "a rule of {id}"),
            Self::Vpc { id } => write!(f, "a group of the VPC {id}"),
        }
    }
}

/// What uses a security group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The first of them, by kind and id.
    pub named: Vec<User>,
    /// How many there are.
    pub count: u64,
}

/// Most users of a group that are kept by name.
const MOST_USERS: usize = 10;
/// Most of them that a sentence names: more would be cut.
const MOST_SAID: usize = 3;

impl Users {
    /// Counts one more, and names it if it is among the first.
    pub fn add(&mut self, user: User) {
        self.count += 1;
        let at = self.named.partition_point(|known| *known < user);
        self.named.insert(at, user);
        self.named.truncate(MOST_USERS);
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named.iter().take(MOST_SAID).map(User::to_string);
        let named: Vec<String> = named.collect();
        f.write_str(&named.join(", "))?;
        match self.count.saturating_sub(named.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A managed prefix list that some rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// The account that owns it, [`AWS`] for AWS's own; `None`: EC2 does not say,
    /// or was not asked.
    pub owner: Option<String>,
    /// Its entries.
    pub entries: Entries,
}

/// The owner of the prefix lists that AWS manages.
pub const AWS: &str = "AWS";

/// The entries of a prefix list, as far as they could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries {
    /// The CIDR blocks, all pages.
    Read(Vec<String>),
    /// EC2 says that there is no such list for this account: another account owns
    /// it and no longer shares it. Rules that name it go on admitting what is in
    /// it. With EC2's answer.
    NotShown(String),
    /// EC2 refuses to show them, and no retry helps. With EC2's answer.
    Refused(String),
    /// They could not be read this time, and why.
    Failed(String),
}

impl PrefixList {
    /// A list with these entries, of an owner that is not known.
    #[must_use]
    pub fn of(entries: Entries) -> Self {
        Self {
            owner: None,
            entries,
        }
    }
}

/// A live security group with all its ingress rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: String,
    /// The group's name.
    pub name: String,
    /// The account that owns it. In a shared VPC it may be another one than
    /// the account that sees it.
    pub owner: String,
    /// The group's ARN.
    pub arn: String,
    /// The VPC it belongs to.
    pub vpc: Option<String>,
    /// The group's tags.
    pub tags: Tags,
    /// The opt-out tags of its VPC.
    pub vpc_opt_outs: Tags,
    /// All ingress rules, by id.
    pub rules: BTreeMap<String, IngressRule>,
    /// The prefix lists that rules name, by id.
    pub prefix_lists: BTreeMap<String, PrefixList>,
}
