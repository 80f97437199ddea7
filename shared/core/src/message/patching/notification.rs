//! The JSON about a patching that programs read. Its schema is
//! `schemas/patching.schema.json`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::story::Story;
use crate::message::notification::{
    LedgerKey, NotifiedActor, NotifiedExemption, NotifiedResource, name, some_name, some_text,
    text, texts,
};
use crate::patching::{
    Agent, Operation, Package, Patch, PatchState, Reboot, Sent, Vulnerability, Wait,
};
use crate::prose::or;
use crate::words::{ControlId, Severity, Status};

/// The version of the format.
const VERSION: u32 = 1;
/// Most reasons.
const MOST_LINES: usize = 20;
/// Most CVE ids of a finding or a patch, and most packages of a finding.
const MOST_OF_FINDING: usize = 8;

/// What an instance lacks, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PatchingNotification {
    /// The format's version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Always `patching`: notifications about entries have no such field.
    pub kind: PatchingKind,
    /// What the message is known by: drop what you have seen, SNS may deliver
    /// twice.
    pub key: String,
    /// The id of the ledger entry, a ULID. The messages about the beginning,
    /// the installation and the end have the same.
    pub entry: String,
    /// Where the ledger has the entry.
    pub ledger_key: LedgerKey,
    /// What happened, in one line.
    pub headline: String,
    /// The control that found it.
    pub control: ControlId,
    /// How bad it is: the worst finding's.
    pub severity: Severity,
    /// Where it stands. `awaiting-rescan`: patches are installed, and Inspector
    /// has not looked again yet. A scan that succeeded ends as `remediated`,
    /// whatever it found: see `operation` and `after`.
    pub outcome: Status,
    /// What is, was, or (where nothing was changed) would be sent to the
    /// instance; absent: nothing would be, because no patch of the operating
    /// system mends it or Systems Manager does not reach the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Whether the instance may restart for it; absent where nothing is
    /// installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the instance; `unowned` without one.
    pub team: String,
    /// The instance.
    pub resource: NotifiedResource,
    /// What Inspector reported, what a patch mends first, the worst first.
    pub findings: Vec<NotifiedVulnerability>,
    /// How many findings there were; the ledger entry may hold fewer.
    pub findings_total: u32,
    /// The patches that an installation brings, as of the last patch operation
    /// before this one.
    pub missing: Vec<NotifiedPatch>,
    /// What the last patch operation before this one left; absent: there was
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<NotifiedPatchState>,
    /// What this one left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<NotifiedPatchState>,
    /// Systems Manager's view of the instance; absent: it does not manage it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<NotifiedAgent>,
    /// Whether safety snapshots are taken before anything is installed.
    pub snapshots_wanted: bool,
    /// Ids of the safety snapshots that were taken. They are crash-consistent.
    /// The sweep deletes those of runs that ended well, as the policy says.
    pub snapshots: Vec<String>,
    /// The command that was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<NotifiedCommand>,
    /// What it waits for, where `outcome` is `pending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Wait>,
    /// Why it is as it is, in words.
    pub reasons: Vec<String>,
    /// What the opt-out tag says.
    pub exemption: NotifiedExemption,
    /// Who or what led to the look, as the event states.
    pub actor: NotifiedActor,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// How often it was begun: 1 unless it was cut off.
    pub attempts: u32,
    /// When it was begun.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// When an installation was seen to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub installed_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// What manages the instance, where its tags show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    /// How many items of each list are left out.
    pub omitted: OmittedOfPatching,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PatchingKind {
    /// A patching.
    Patching,
}

/// A finding of Inspector's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedVulnerability {
    /// ARN of the finding.
    pub arn: String,
    /// How bad Inspector says it is.
    pub severity: Severity,
    /// Its title.
    pub title: String,
    /// The CVE, and those that belong to it.
    pub cves: Vec<String>,
    /// The packages that have it; none: it is a code finding.
    pub packages: Vec<NotifiedPackage>,
    /// Whether a patch of the operating system mends it. If not, nothing is
    /// changed for it: its owner is told.
    pub patchable: bool,
    /// Whether it was still active a day after every approved patch had been
    /// installed.
    pub unmended: bool,
    /// Inspector's own words about what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
    /// When it was reported last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub reported_at: Option<Timestamp>,
}

/// A package that a finding names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedPackage {
    /// Its name.
    pub name: String,
    /// The version that is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version in which it is mended; absent: there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_in: Option<String>,
    /// The subscription without which that version is not delivered; absent: it
    /// needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// What it was installed with, in Inspector's words: `OS`, `PIP`, `NPM`,
    /// `JAR`, ….
    pub manager: String,
    /// How Inspector says it is mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

/// A patch that an installation brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedPatch {
    /// Its title: for Linux the package with its version.
    pub title: String,
    /// `Security`, `Bugfix`, …; empty where Systems Manager names none.
    pub classification: String,
    /// `Critical`, `Important`, …; empty where Systems Manager names none.
    pub severity: String,
    /// The CVEs that it mends.
    pub cves: Vec<String>,
}

/// What a patch operation found and left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedPatchState {
    /// `Scan` or `Install`.
    pub operation: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// The patch baseline that it went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Approved patches that are not installed.
    pub missing: u32,
    /// Patches that failed to install.
    pub failed: u32,
    /// Installed since the last restart: some may be without effect until the
    /// next one.
    pub pending_reboot: u32,
}

/// Systems Manager's view of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedAgent {
    /// `Online`, `ConnectionLost` or `Inactive`.
    pub ping: String,
    /// When the agent was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_ping: Option<Timestamp>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The operating system's name and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// A command, and what became of it on this instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedCommand {
    /// The command's id. It may have been sent to other instances as well.
    pub id: String,
    /// When it was sent.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub sent_at: Timestamp,
    /// What it came to, in Systems Manager's detailed words (`Success`,
    /// `Failed`, `DeliveryTimedOut`, …); absent: its end is not known (yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The exit code of the step that failed; absent: none did, or it is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Where the AWS console shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
}

/// How many items of each list are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OmittedOfPatching {
    /// Of `findings`, counted from `findings_total`.
    pub findings: usize,
    /// Of `missing`, counted from what the last patch operation said.
    pub missing: usize,
    /// Of the CVE ids of findings and patches that are listed.
    pub cves: usize,
    /// Of the packages of findings that are listed.
    pub packages: usize,
    /// Of `snapshots`.
    pub snapshots: usize,
    /// Of `reasons`.
    pub reasons: usize,
}

impl PatchingNotification {
    /// The notification about a patching, with at most `most` items in a list.
    pub(super) fn of(story: &Story<'_>, headline: &str, most: usize) -> Self {
        let run = story.run;
        let findings = || run.detail.findings.iter().take(most);
        let missing = || run.detail.missing.iter().take(most);
        let more = |len: usize| len.saturating_sub(MOST_OF_FINDING);
        let most_reasons = most.min(MOST_LINES);
        let operation = story.is_sendable().then_some(run.detail.operation);
        Self {
            version: VERSION,
            kind: PatchingKind::Patching,
            key: run.message_key(),
            entry: name(&run.head.id),
            ledger_key: LedgerKey::of(&run.head.id),
            headline: text(headline),
            control: run.head.control,
            severity: run.head.severity,
            outcome: run.head.status,
            operation,
            reboot: (operation == Some(Operation::Install)).then_some(run.detail.reboot),
            account: name(&run.head.account),
            region: name(&run.head.region),
            team: or(&text(run.team_or_unowned()), "unowned"),
            resource: NotifiedResource {
                arn: text(&run.head.resource),
                id: name(run.resource_id()),
                name: text(&run.head.resource_name),
            },
            findings: findings().map(Into::into).collect(),
            findings_total: u32::try_from(story.findings()).unwrap_or(u32::MAX),
            missing: missing().map(Into::into).collect(),
            before: run.detail.before.as_ref().map(Into::into),
            after: run.detail.after.as_ref().map(Into::into),
            agent: run.detail.agent.as_ref().map(Into::into),
            snapshots_wanted: run.detail.snapshots_wanted && story.is_sendable(),
            snapshots: run
                .detail
                .snapshots
                .iter()
                .take(most)
                .map(|id| name(id))
                .collect(),
            command: run.detail.command.as_ref().map(|sent| command(story, sent)),
            waits: run.detail.waits,
            reasons: texts(&run.detail.reasons, most_reasons),
            exemption: (&run.head.exemption).into(),
            actor: (&run.head.actor).into(),
            policy_version: run.head.policy_version,
            attempts: run.head.attempts,
            started_at: run.head.started_at,
            installed_at: run.detail.installed_at,
            finished_at: run.head.finished_at,
            managed_by: some_text(&run.head.managed_by),
            omitted: OmittedOfPatching {
                findings: story.findings().saturating_sub(findings().count()),
                missing: story.patches().saturating_sub(missing().count()),
                cves: findings()
                    .map(|finding| more(finding.cves.len()))
                    .chain(missing().map(|patch| more(patch.cves.len())))
                    .sum(),
                packages: findings().map(|finding| more(finding.packages.len())).sum(),
                snapshots: run.detail.snapshots.len().saturating_sub(most),
                reasons: run.detail.reasons.len().saturating_sub(most_reasons),
            },
        }
    }

    /// The JSON Schema of the notification.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

fn command(story: &Story<'_>, sent: &Sent) -> NotifiedCommand {
    NotifiedCommand {
        id: name(&sent.id),
        sent_at: sent.at,
        ended: some_name(&sent.ended),
        exit_code: sent.exit_code,
        console: story.console(sent),
    }
}

fn cves(of: &[String]) -> Vec<String> {
    of.iter().take(MOST_OF_FINDING).map(|id| name(id)).collect()
}

impl From<&Vulnerability> for NotifiedVulnerability {
    fn from(finding: &Vulnerability) -> Self {
        Self {
            arn: text(&finding.arn),
            severity: finding.severity,
            title: text(&finding.title),
            cves: cves(&finding.cves),
            packages: finding
                .packages
                .iter()
                .take(MOST_OF_FINDING)
                .map(Into::into)
                .collect(),
            patchable: finding.is_patchable(),
            unmended: finding.unmended,
            remediation: some_text(&finding.remediation),
            reported_at: finding.reported_at,
        }
    }
}

impl From<&Package> for NotifiedPackage {
    fn from(package: &Package) -> Self {
        Self {
            name: name(&package.name),
            version: some_name(&package.version),
            fixed_in: some_name(&package.fixed_in),
            subscription: package.subscription().map(str::to_owned),
            manager: name(&package.manager),
            remediation: some_text(&package.remediation),
        }
    }
}

impl From<&Patch> for NotifiedPatch {
    fn from(patch: &Patch) -> Self {
        Self {
            title: text(&patch.title),
            classification: name(&patch.classification),
            severity: name(&patch.severity),
            cves: cves(&patch.cves),
        }
    }
}

impl From<&PatchState> for NotifiedPatchState {
    fn from(state: &PatchState) -> Self {
        Self {
            operation: name(&state.operation),
            ended_at: state.ended_at,
            baseline: some_text(&state.baseline),
            missing: state.missing,
            failed: state.failed,
            pending_reboot: state.pending_reboot,
        }
    }
}

impl From<&Agent> for NotifiedAgent {
    fn from(agent: &Agent) -> Self {
        Self {
            ping: name(&agent.ping),
            last_ping: agent.last_ping,
            version: some_name(&agent.version),
            platform: some_text(&agent.platform),
        }
    }
}
