//! What is known of an instance when it is decided whether it is patched:
//! EC2's view, Systems Manager's, and what Inspector reported.
//!
//! Deliberately not here: the calls (`backstop_aws::patching`), and what is
//! decided (`decide`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::managers;
use crate::security_group::Tags;
use crate::words::Severity;

/// The only document that Backstop sends.
pub const DOCUMENT: &str = "AWS-RunPatchBaseline";

/// The package manager that stands for the operating system's own, in
/// Inspector's words.
pub const OS: &str = "OS";

/// Most findings that are remembered of an instance, the worst first: an item of
/// the ledger holds no more.
pub const MOST_FINDINGS: usize = 300;

/// What marks a fixed version that the sources an operating system comes with do
/// not deliver, and the subscription that does. Ubuntu's `+esm` and `~esm` are
/// packages of Expanded Security Maintenance, `fips` those of its certified
/// modules (ubuntu.com/security); `ksplice` are Oracle's live-patched libraries.
/// Whether an instance has the subscription shows in its patch state: a scan
/// lists what its sources deliver.
const SUBSCRIPTIONS: &[(&str, &str)] = &[
    ("+esm", "Ubuntu Pro"),
    ("~esm", "Ubuntu Pro"),
    ("+fips", "Ubuntu Pro"),
    ("~fips", "Ubuntu Pro"),
    (".ksplice", "Oracle Ksplice"),
];

/// The exit code of [`DOCUMENT`] for an operating system that Patch Manager does
/// not know (`SNAPSHOT_UNSUPPORTED_OS`; github.com/aws/amazon-ssm-agent/issues/453).
const UNSUPPORTED_OS: i32 = 146;

/// What [`DOCUMENT`] prints, in lower case, where the operating system, or its
/// package manager with the Python that is there, cannot be patched.
const UNSUPPORTED: &[&str] = &[
    "unsupportedoperatingsystem",
    "unsupported operating system",
    "unsupported package manager",
];

/// Most characters of what a command printed that are kept.
const MOST_OUTPUT: usize = 200;

/// CVEs of a patch that are kept: a kernel mends hundreds, and a record has room
/// for the first few.
pub const MOST_CVES: usize = 8;

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
        managers::auto_scaling_group(&self.tags)
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
    /// Whether a patch of the operating system mends it that the sources which it
    /// comes with deliver.
    #[must_use]
    pub fn is_patchable(&self) -> bool {
        self.manager == OS && self.fixed_in.is_some() && self.subscription().is_none()
    }

    /// The subscription that delivers the fixed version of a package of the
    /// operating system; none: it needs none, or there is no fixed version.
    #[must_use]
    pub fn subscription(&self) -> Option<&'static str> {
        let fixed = self.fixed_in.as_deref().filter(|_| self.manager == OS)?;
        let fixed = fixed.to_ascii_lowercase();
        SUBSCRIPTIONS
            .iter()
            .find(|(mark, _)| {
                let mut ends = fixed.split(mark).skip(1);
                ends.any(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
            })
            .map(|(_, subscription)| *subscription)
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
    /// Whether every approved patch was installed and it was still active a day
    /// later: while no other patch is missing, the same command would not mend it
    /// either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmended: bool,
}

impl Vulnerability {
    /// The versions in which it is mended.
    fn fixes(&self) -> impl Iterator<Item = Option<&String>> {
        self.packages
            .iter()
            .map(|package| package.fixed_in.as_ref())
    }

    /// Whether a patch of the operating system mends something of it, as far as
    /// has been tried.
    #[must_use]
    pub fn is_patchable(&self) -> bool {
        !self.unmended && self.has_patch()
    }

    /// Whether there is a patch of the operating system for it, tried in vain or
    /// not.
    #[must_use]
    pub fn has_patch(&self) -> bool {
        self.packages.iter().any(Package::is_patchable)
    }

    /// The subscription without which nothing of it can be patched; none: a patch
    /// needs no subscription, or there is no patch.
    #[must_use]
    pub fn needs_subscription(&self) -> Option<&'static str> {
        match self.has_patch() {
            true => None,
            false => self.packages.iter().find_map(Package::subscription),
        }
    }
}

/// That Patch Manager cannot patch an instance, as a command found out, and of
/// which agent and operating system that holds: no further command changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpatchable {
    /// What the command printed about it, or Systems Manager's word for it.
    pub says: String,
    /// The command's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The operating system's name and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl Unpatchable {
    /// What a command that did not succeed shows; none: another try may help.
    #[must_use]
    pub fn shown_by(ended: &Ended, agent: Option<&Agent>) -> Option<Self> {
        let output = ended.output.as_deref().unwrap_or_default();
        let printed = output.lines().find(|line| {
            let line = line.to_ascii_lowercase();
            UNSUPPORTED.iter().any(|words| line.contains(words))
        });
        let printed = printed.map(|line| line.trim().chars().take(MOST_OUTPUT).collect());
        let says = match ended.status.as_str() {
            "Success" => None,
            "InvalidPlatform" | "UnsupportedPlatformType" => Some(ended.status.clone()),
            _ if ended.exit_code == Some(UNSUPPORTED_OS) => {
                printed.or_else(|| Some("unsupported operating system".to_owned()))
            }
            _ => printed,
        }?;
        Some(Self {
            says,
            exit_code: ended.exit_code,
            agent: agent.and_then(|agent| agent.version.clone()),
            platform: agent.and_then(|agent| agent.platform.clone()),
        })
    }

    /// Whether it holds of this agent and its operating system.
    #[must_use]
    pub fn holds_of(&self, agent: &Agent) -> bool {
        self.agent == agent.version && self.platform == agent.platform
    }
}

/// How a command ended on an instance, with what Systems Manager says of its
/// patches since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// In Systems Manager's detailed words (StatusDetails), without spaces.
    pub status: String,
    /// Whether anything of it is known to have run.
    pub started: bool,
    /// The exit code of the step that failed.
    pub exit_code: Option<i32>,
    /// What that step printed: its beginning.
    pub output: Option<String>,
    /// What the last patch operation left.
    pub state: Option<PatchState>,
}

impl Ended {
    /// Whether nothing of it began on the instance, so that it has not failed
    /// there.
    #[must_use]
    pub fn never_began(&self) -> bool {
        // `Cancelled` may also come while it runs; of the others its turn has not
        // come, after failures elsewhere or in time.
        let before_it_began = matches!(
            self.status.as_str(),
            "Terminated" | "RateExceeded" | "DeliveryTimedOut" | "Undeliverable" | "Cancelled"
        );
        before_it_began && !self.started
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
    /// Those of them that were suppressed.
    pub suppressed: BTreeSet<String>,
    /// Entries that wait for findings to be closed.
    pub awaiting: BTreeSet<String>,
    /// Those of them of which a finding went without being closed: somebody
    /// suppressed it, or there was no room for it.
    pub unclear: BTreeSet<String>,
    /// How many installations failed in a row.
    pub failures: u32,
    /// That no command can patch it, as the last one found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpatchable: Option<Unpatchable>,
    /// Whether that is recorded as a finding; the run that found it out told it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unpatchable_recorded: bool,
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
        self.suppressed.remove(&finding.arn);
        if let Some(known) = self.active.get(&finding.arn) {
            if known.reported_at > reported {
                return;
            }
            finding.installed_by = known.installed_by.clone();
            // Another version mends it now: that was not tried.
            finding.unmended = known.unmended && known.fixes().eq(finding.fixes());
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
            let gone = self.active.remove(&arn);
            self.unclear.extend(gone.and_then(|gone| gone.installed_by));
        }
    }

    /// Takes a report that somebody suppressed a finding: it is told no more, and
    /// was not closed.
    pub fn suppress(&mut self, arn: &str, at: Timestamp) {
        let by = self.active.get(arn).and_then(|f| f.installed_by.clone());
        self.close(arn, at);
        if !self.active.contains_key(arn) {
            self.unclear.extend(by);
            if self.closed.get(arn) == Some(&at) {
                self.suppressed.insert(arn.to_owned());
            }
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
        // What was said last counts, in whatever order it comes.
        if at >= *closed {
            *closed = at;
            self.suppressed.remove(arn);
        }
        while self.closed.len() > MOST_CLOSED {
            let Some((oldest, _)) = self.closed.iter().min_by_key(|(_, at)| **at) else {
                return;
            };
            let oldest = oldest.clone();
            self.suppressed.remove(&oldest);
            self.closed.remove(&oldest);
        }
    }

    /// Notes that a run has installed patches: its findings wait for Inspector's
    /// next look, also those that an earlier one did not mend.
    pub fn installed<'a>(&mut self, entry: &str, arns: impl IntoIterator<Item = &'a str>) {
        for arn in arns {
            if let Some(finding) = self.active.get_mut(arn) {
                finding.installed_by = Some(entry.to_owned());
                finding.unmended = false;
                self.awaiting.insert(entry.to_owned());
            }
        }
    }

    /// Whether it is known that Inspector itself has closed a finding.
    #[must_use]
    pub fn has_closed(&self, arn: &str) -> bool {
        self.closed.contains_key(arn) && !self.suppressed.contains(arn)
    }

    /// The findings that still wait for what an entry's run installed.
    pub fn of<'a>(&'a self, entry: &'a str) -> impl Iterator<Item = &'a Vulnerability> {
        self.active
            .values()
            .filter(move |finding| finding.installed_by.as_deref() == Some(entry))
    }

    /// An entry waits no more: what is still active was not mended by it.
    pub fn settled(&mut self, entry: &str) {
        self.awaiting.remove(entry);
        self.unclear.remove(entry);
        for finding in self.active.values_mut() {
            if finding.installed_by.as_deref() == Some(entry) {
                finding.installed_by = None;
                finding.unmended = true;
            }
        }
    }

    /// Whether nothing is worth keeping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
            && self.closed.is_empty()
            && self.awaiting.is_empty()
            && self.failures == 0
            && self.unpatchable.is_none()
    }
}

/// A command that somebody sent to the instance (ListCommands).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The command's id.
    pub id: String,
    /// `Scan` or `Install`, where it is a patch operation.
    pub operation: Option<String>,
    /// `Pending`, `InProgress`, `Success`, …: on this instance where Systems
    /// Manager says so, else of the command as a whole.
    pub status: String,
    /// Whether nothing of it began on this instance.
    #[serde(default)]
    pub never_began: bool,
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

/// What an instance needs, to be managed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// A role that lets it be managed.
    Role,
    /// A way to Systems Manager's endpoints.
    Endpoint,
    /// A running agent.
    Agent,
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
    /// The ledger entry of an encryption of its volumes that is under way: that
    /// stops the instance.
    pub encrypting: Option<String>,
    /// That no command could patch it when one was sent last.
    pub unpatchable: Option<Unpatchable>,
}

impl PatchFacts {
    /// That no command can patch it, while agent and operating system are the
    /// ones of which that is known.
    #[must_use]
    pub fn cannot_be_patched(&self) -> Option<&Unpatchable> {
        let agent = self.agent.as_ref()?;
        self.unpatchable.as_ref().filter(|it| it.holds_of(agent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "01M7SH8XYF6H0J2M4N8P7R3T1W";

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn finding(arn: &str, severity: Severity, minute: i64) -> Vulnerability {
        Vulnerability {
            arn: arn.to_owned(),
            severity,
            title: "CVE-2026-1 - openssl".into(),
            cves: vec!["CVE-2026-1".into()],
            packages: vec![Package {
                name: "openssl".into(),
                fixed_in: Some("1.1".into()),
                manager: OS.into(),
                ..Package::default()
            }],
            remediation: None,
            reported_at: Some(at(minute)),
            installed_by: None,
            unmended: false,
        }
    }

    fn high(arn: &str, minute: i64) -> Vulnerability {
        finding(arn, Severity::High, minute)
    }

    fn active(reports: &Reports) -> Vec<&str> {
        reports.active.keys().map(String::as_str).collect()
    }

    #[test]
    fn only_what_the_systems_package_manager_installed_and_has_a_fix_for_is_patchable() {
        let package = |manager: &str, fixed_in: Option<&str>| Package {
            manager: manager.into(),
            fixed_in: fixed_in.map(str::to_owned),
            ..Package::default()
        };
        assert!(package("OS", Some("1.1")).is_patchable());
        assert!(!package("OS", None).is_patchable());
        for manager in ["PIP", "NPM", "JAR", "GOBINARY", "os", "unknown", ""] {
            assert!(!package(manager, Some("1.1")).is_patchable(), "{manager}");
        }
        let code = Vulnerability {
            packages: Vec::new(),
            ..high("a", 0)
        };
        assert!(!code.is_patchable());
    }

    #[test]
    fn a_report_that_is_older_than_what_closed_it_is_none() {
        let mut reports = Reports::default();
        reports.report(high("a", 1));
        reports.close("a", at(5));
        assert!(reports.active.is_empty());
        for late in [1, 4, 5] {
            reports.report(high("a", late));
            assert!(reports.active.is_empty(), "{late}");
        }
        reports.report(Vulnerability {
            reported_at: None,
            ..high("a", 0)
        });
        assert!(reports.active.is_empty(), "nobody knows when");
        // One that was closed before its first report came.
        reports.close("b", at(5));
        reports.report(high("b", 2));
        assert!(reports.active.is_empty());
    }

    #[test]
    fn a_newer_report_opens_what_was_closed() {
        let mut reports = Reports::default();
        reports.close("a", at(5));
        reports.report(high("a", 6));
        assert_eq!(active(&reports), ["a"]);
        assert!(reports.closed.is_empty());
    }

    #[test]
    fn a_closure_that_is_older_than_the_last_report_or_closure_changes_nothing() {
        let mut reports = Reports::default();
        reports.report(high("a", 6));
        reports.close("a", at(5));
        assert_eq!(active(&reports), ["a"]);
        reports.close("a", at(10));
        reports.close("a", at(3));
        reports.report(high("a", 7));
        assert!(reports.active.is_empty(), "it was closed after that");
    }

    #[test]
    fn the_newest_report_counts_in_whatever_order_they_come() {
        for order in [[1, 2], [2, 1]] {
            let mut reports = Reports::default();
            for minute in order {
                let severity = if minute == 2 {
                    Severity::Critical
                } else {
                    Severity::High
                };
                reports.report(finding("a", severity, minute));
            }
            assert_eq!(reports.active["a"].severity, Severity::Critical);
        }
    }

    #[test]
    fn what_was_installed_for_survives_an_update_of_the_finding() {
        let mut reports = Reports::default();
        reports.report(high("a", 1));
        reports.report(high("b", 1));
        reports.installed(ENTRY, ["a", "unknown"]);
        reports.report(finding("a", Severity::Critical, 3));
        assert_eq!(reports.active["a"].installed_by.as_deref(), Some(ENTRY));
        assert_eq!(reports.active["a"].severity, Severity::Critical);
        assert_eq!(reports.active["b"].installed_by, None);
        let of: Vec<&str> = reports.of(ENTRY).map(|f| f.arn.as_str()).collect();
        assert_eq!(of, ["a"]);
        assert!(reports.awaiting.contains(ENTRY));
    }

    #[test]
    fn an_entry_whose_findings_are_all_gone_has_nothing_to_wait_for() {
        let mut reports = Reports::default();
        reports.installed(ENTRY, ["a"]);
        assert!(reports.is_empty());
        reports.report(high("a", 1));
        reports.installed(ENTRY, ["a"]);
        reports.close("a", at(2));
        assert_eq!(reports.of(ENTRY).count(), 0);
        assert!(reports.awaiting.contains(ENTRY), "until it is settled");
        reports.settled(ENTRY);
        assert!(reports.awaiting.is_empty());
    }

    #[test]
    fn what_is_settled_awaits_nothing_and_other_entries_do_not_change() {
        let mut reports = Reports::default();
        reports.report(high("a", 1));
        reports.report(high("b", 1));
        reports.installed(ENTRY, ["a"]);
        reports.installed("another", ["b"]);
        reports.settled(ENTRY);
        assert_eq!(reports.active["a"].installed_by, None);
        assert_eq!(reports.active["b"].installed_by.as_deref(), Some("another"));
        assert_eq!(reports.awaiting, BTreeSet::from(["another".to_owned()]));
    }

    #[test]
    fn what_was_not_mended_by_every_approved_patch_is_no_longer_for_a_patch() {
        let mut reports = Reports::default();
        reports.report(high("a", 1));
        reports.report(high("b", 1));
        reports.installed(ENTRY, ["a"]);
        reports.settled(ENTRY);
        assert!(!reports.active["a"].is_patchable());
        assert!(reports.active["b"].is_patchable(), "nothing was tried");
        // An update says nothing about that.
        reports.report(high("a", 9));
        assert!(!reports.active["a"].is_patchable());
    }

    #[test]
    fn where_there_is_no_room_the_worst_and_what_awaits_a_rescan_stay() {
        let mut reports = Reports::default();
        reports.report(finding("waits", Severity::Low, 0));
        reports.installed(ENTRY, ["waits"]);
        for n in 0..MOST_FINDINGS {
            let minute = i64::try_from(n).unwrap() + 1;
            reports.report(finding(&format!("m{n:03}"), Severity::Medium, minute));
        }
        assert_eq!(reports.active.len(), MOST_FINDINGS);
        assert!(
            !reports.active.contains_key("m000"),
            "the oldest of the least"
        );
        reports.report(finding("critical", Severity::Critical, 1));
        assert_eq!(reports.active.len(), MOST_FINDINGS);
        assert!(reports.active.contains_key("critical"));
        assert!(!reports.active.contains_key("m001"));
        reports.report(finding("low", Severity::Low, 999));
        assert!(!reports.active.contains_key("low"), "the rest matters more");
        assert!(reports.active.contains_key("waits"));
    }

    #[test]
    fn of_closed_and_suppressed_what_was_said_last_counts_in_whatever_order_it_comes() {
        type Word = fn(&mut Reports, i64);
        let close: Word = |reports, minute| reports.close("a", at(minute));
        let suppress: Word = |reports, minute| reports.suppress("a", at(minute));
        for (first, second, has_closed) in [
            ((close, 1), (suppress, 2), false),
            ((suppress, 2), (close, 1), false),
            ((suppress, 1), (close, 2), true),
            ((close, 2), (suppress, 1), true),
        ] {
            let mut reports = Reports::default();
            reports.report(finding("a", Severity::High, 0));
            for (say, minute) in [first, second] {
                say(&mut reports, minute);
            }
            assert_eq!(reports.has_closed("a"), has_closed);
            assert_eq!(reports.closed["a"], at(2));
        }
        assert!(!Reports::default().has_closed("a"));
    }

    #[test]
    fn of_what_was_closed_the_latest_is_remembered() {
        let mut reports = Reports::default();
        for n in 0..=MOST_CLOSED {
            reports.close(&format!("{n}"), at(i64::try_from(n).unwrap()));
        }
        assert_eq!(reports.closed.len(), MOST_CLOSED);
        assert!(!reports.closed.contains_key("0"));
        assert!(reports.closed.contains_key("1"));
    }

    #[test]
    fn an_instance_is_called_by_its_name_tag_or_else_by_its_id() {
        let mut host = Host {
            id: "i-1".into(),
            ..Host::default()
        };
        assert_eq!(host.name(), "i-1");
        host.tags.insert("Name".into(), String::new());
        assert_eq!(host.name(), "i-1");
        host.tags.insert("Name".into(), "web".into());
        assert_eq!(host.name(), "web");
    }
}
