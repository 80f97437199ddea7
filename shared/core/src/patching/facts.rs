//! What is known of an instance when it is decided whether it is patched:
//! EC2's view, Systems Manager's, and what Inspector reported.
//!
//! Deliberately not here: the calls (`backstop_aws::patching`), and what is
//! decided (`decide`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::controls::Severity;
use crate::security_group::Tags;

/// The only document that Backstop sends.
pub const DOCUMENT: &str = "AWS-RunPatchBaseline";

/// The package manager that stands for the operating system's own, in
/// Inspector's words.
pub const OS: &str = "OS";

/// Most findings that are remembered of an instance, the worst first: an item of
/// the ledger holds no more.
pub const MOST_FINDINGS: usize = 300;

/// Most findings that are remembered as closed, so that a report which was
/// delivered late does not bring them back.
const MOST_CLOSED: usize = 400;

/// An instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `i-…`.
    pub id: String,
    /// `pending`, `running`, `stopping`, `stopped`, `shutting-down` or
    /// `terminated`.
    pub state: String,
    /// When it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched_at: Option<Timestamp>,
    /// Its tags.
    #[serde(default)]
    pub tags: Tags,
    /// ARN of its instance profile: without one it has no role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_profile: Option<String>,
    /// Whether it has a public IPv4 address.
    #[serde(default)]
    pub public_ipv4: bool,
    /// The subnet it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The VPC it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
}

impl Host {
    /// The value of its `Name` tag, or its id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.tags
            .get("Name")
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .unwrap_or(&self.id)
    }

    /// Whether it is gone, or about to be.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state.as_str(), "shutting-down" | "terminated")
    }

    /// The Auto Scaling group that it is a member of.
    #[must_use]
    pub fn auto_scaling_group(&self) -> Option<&str> {
        let group = self.tags.get("aws:autoscaling:groupName");
        group.map(String::as_str)
    }
}

/// What Systems Manager says of an instance that it manages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// `Online`, `ConnectionLost` or `Inactive`.
    pub ping: String,
    /// When the agent was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ping: Option<Timestamp>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The operating system's name and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl Agent {
    /// Whether commands reach it.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.ping == "Online"
    }
}

/// What the last patch operation of any kind found and left
/// (DescribeInstancePatchStates).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchState {
    /// `Scan` or `Install`.
    pub operation: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The patch baseline that it went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Approved patches that are not installed.
    pub missing: u32,
    /// Patches that failed to install.
    pub failed: u32,
    /// Installed, and without effect until the instance restarts.
    pub pending_reboot: u32,
}

/// A patch that an Install would bring (DescribeInstancePatches).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Patch {
    /// Its title: for Linux the package with its version.
    pub title: String,
    /// `Security`, `Bugfix`, ….
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub classification: String,
    /// `Critical`, `Important`, ….
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// The CVEs that it mends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cves: Vec<String>,
}

/// A package that a finding names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The version that is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version in which it is mended; none: there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_in: Option<String>,
    /// What it was installed with: `OS`, `PIP`, `NPM`, `JAR`, ….
    pub manager: String,
    /// How Inspector says it is mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

impl Package {
    /// Whether a patch of the operating system mends it.
    #[must_use]
    pub fn is_patchable(&self) -> bool {
        self.manager == OS && self.fixed_in.is_some()
    }
}

/// A finding of Inspector's that is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vulnerability {
    /// ARN of the finding.
    pub arn: String,
    /// How bad Inspector says it is.
    pub severity: Severity,
    /// Its title.
    pub title: String,
    /// The CVE, and those that belong to it.
    pub cves: Vec<String>,
    /// The packages that have it; none: it is a code finding.
    pub packages: Vec<Package>,
    /// Inspector's own words about what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
    /// When it was reported last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub reported_at: Option<Timestamp>,
    /// The ledger entry whose run installed patches since; what it awaits is
    /// Inspector's next look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_by: Option<String>,
}

impl Vulnerability {
    /// Whether a patch of the operating system mends something of it.
    #[must_use]
    pub fn is_patchable(&self) -> bool {
        self.packages.iter().any(Package::is_patchable)
    }
}

/// What Inspector reported of an instance, as the ledger keeps it: events are
/// all there is of it, so that they are gathered here until they are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reports {
    /// Active findings, by ARN.
    pub active: BTreeMap<String, Vulnerability>,
    /// Findings that were closed or suppressed, and when.
    pub closed: BTreeMap<String, Timestamp>,
    /// Entries that wait for findings to be closed.
    pub awaiting: BTreeSet<String>,
    /// Rises with every write.
    #[serde(skip)]
    pub revision: u64,
}

impl Reports {
    /// Takes a report of an active finding; one that is older than what closed
    /// it is none.
    pub fn report(&mut self, mut finding: Vulnerability) {
        let reported = finding.reported_at;
        if let Some(closed) = self.closed.get(&finding.arn)
            && reported.is_none_or(|at| at <= *closed)
        {
            return;
        }
        self.closed.remove(&finding.arn);
        if let Some(known) = self.active.get(&finding.arn) {
            if known.reported_at > reported {
                return;
            }
            finding.installed_by = known.installed_by.clone();
        }
        self.active.insert(finding.arn.clone(), finding);
        while self.active.len() > MOST_FINDINGS {
            self.drop_least();
        }
    }

    /// Drops the finding that matters least: there is no room for it.
    pub fn drop_least(&mut self) {
        let least = self.active.values().min_by_key(|finding| {
            let waits = finding.installed_by.is_some();
            (waits, finding.severity, finding.reported_at)
        });
        if let Some(arn) = least.map(|finding| finding.arn.clone()) {
            self.active.remove(&arn);
        }
    }

    /// Takes a report that a finding is active no more.
    pub fn close(&mut self, arn: &str, at: Timestamp) {
        if self
            .active
            .get(arn)
            .is_some_and(|finding| finding.reported_at > Some(at))
        {
            return;
        }
        self.active.remove(arn);
        let closed = self.closed.entry(arn.to_owned()).or_insert(at);
        *closed = at.max(*closed);
        while self.closed.len() > MOST_CLOSED {
            let Some((oldest, _)) = self.closed.iter().min_by_key(|(_, at)| **at) else {
                return;
            };
            let oldest = oldest.clone();
            self.closed.remove(&oldest);
        }
    }

    /// Notes that a run has installed patches: its findings wait for Inspector's
    /// next look.
    pub fn installed<'a>(&mut self, entry: &str, arns: impl IntoIterator<Item = &'a str>) {
        for arn in arns {
            if let Some(finding) = self.active.get_mut(arn) {
                finding.installed_by = Some(entry.to_owned());
                self.awaiting.insert(entry.to_owned());
            }
        }
    }

    /// The findings that still wait for what an entry's run installed.
    pub fn of<'a>(&'a self, entry: &'a str) -> impl Iterator<Item = &'a Vulnerability> {
        self.active
            .values()
            .filter(move |finding| finding.installed_by.as_deref() == Some(entry))
    }

    /// An entry waits no more: what is still active counts as anything else.
    pub fn settled(&mut self, entry: &str) {
        self.awaiting.remove(entry);
        for finding in self.active.values_mut() {
            if finding.installed_by.as_deref() == Some(entry) {
                finding.installed_by = None;
            }
        }
    }

    /// Whether nothing is worth keeping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.closed.is_empty() && self.awaiting.is_empty()
    }
}

/// A command that somebody sent to the instance (ListCommands).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The command's id.
    pub id: String,
    /// `Scan` or `Install`, where it is a patch operation.
    pub operation: Option<String>,
    /// `Pending`, `InProgress`, `Success`, …: of the command as a whole.
    pub status: String,
    /// When it was sent.
    pub requested_at: Option<Timestamp>,
    /// What it says of itself.
    pub comment: String,
}

impl Command {
    /// Whether it may still be at work.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(
            self.status.as_str(),
            "Pending" | "InProgress" | "Delayed" | "Cancelling"
        )
    }
}

/// How an instance that Systems Manager does not manage could reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// What the subnet's default route leads to: `igw-…`, `nat-…`, `tgw-…`, ….
    pub default_route: Option<String>,
    /// Services of Systems Manager that the VPC has an interface endpoint for:
    /// `ssm`, `ssmmessages`, `ec2messages`.
    pub endpoints: BTreeSet<String>,
    /// Whether the account's default host management gives instances without a
    /// role of their own one.
    pub default_role: bool,
}

impl Reach {
    /// Whether there is a way to Systems Manager's endpoints.
    #[must_use]
    pub fn is_open(&self, host: &Host) -> bool {
        let endpoints = ["ssm", "ssmmessages"]
            .iter()
            .all(|service| self.endpoints.contains(*service));
        let route = self
            .default_route
            .as_deref()
            .is_some_and(|to| !to.starts_with("igw-") || host.public_ipv4);
        endpoints || route
    }
}

/// Everything that is known of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchFacts {
    /// The instance; none: it is gone.
    pub host: Option<Host>,
    /// Systems Manager's view; none: it does not manage it.
    pub agent: Option<Agent>,
    /// What the last patch operation left; none: there was none.
    pub state: Option<PatchState>,
    /// The patches that an Install would bring, as of the last operation. Not
    /// asked for where nothing hangs on it.
    pub missing: Vec<Patch>,
    /// Active findings of Inspector's, at or above the policy's severity.
    pub findings: Vec<Vulnerability>,
    /// Patch commands of late, whoever sent them. Not asked for where nothing
    /// hangs on it.
    pub commands: Vec<Command>,
    /// How it could reach Systems Manager; only asked for where it is not
    /// managed.
    pub reach: Option<Reach>,
}
