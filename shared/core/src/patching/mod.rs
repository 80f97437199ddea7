//! Patching: an instance whose packages have known holes, or that lacks approved
//! patches, and the one command that installs them.
//!
//! The unit is the instance. A run is begun, its volumes are snapshotted, a
//! command is sent, and its end is waited for; what is stored here is all that
//! whoever looks next goes by. What Inspector found is closed by Inspector and
//! nobody else.
//!
//! Deliberately not here: how calls are made (`backstop_aws::patching`), the
//! texts (`message::patching`).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::Reason;
use crate::run::Run;
use crate::words::{ControlId, Status, digest};

pub mod decide;
mod facts;
mod settings;

pub use facts::{
    Agent, Command, DOCUMENT, Ended, Host, MOST_CVES, MOST_FINDINGS, Need, OS, Package, Patch,
    PatchFacts, PatchState, Reach, Reports, Unpatchable, Vulnerability,
};
pub use settings::{AutoScaling, Reboot, Settings, Snapshots};

/// For how long Inspector has time to look again after an installation: it scans
/// a changed package inventory within the day.
pub const RESCAN: SignedDuration = SignedDuration::from_hours(24);

/// Most patches of an instance that an entry lists; the others are counted.
pub const MOST_LISTED: usize = 100;

/// Most findings of an instance that an entry lists, those that a patch mends
/// first; the others are counted.
pub const MOST_RECORDED: usize = 60;

/// What is sent to an instance.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Looks which patches are missing; changes nothing.
    Scan,
    /// Installs every approved patch that is missing.
    Install,
}

impl Operation {
    /// As the document's parameter wants it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "Scan",
            Self::Install => "Install",
        }
    }
}

/// What an instance waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// To be running.
    Running,
    /// To be old enough.
    Age,
    /// A maintenance window.
    Window,
    /// A command that is under way, or another change of Backstop's.
    Command,
    /// The cool-down after the last installation.
    CoolDown,
}

/// A command that was sent, and what became of it on this instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The command's id.
    pub id: String,
    /// When it was sent.
    pub at: Timestamp,
    /// What it came to on this instance, in Systems Manager's detailed words
    /// (`Success`, `Failed`, `DeliveryTimedOut`, …); none: under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The exit code of the step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it was first seen to have ended, while Systems Manager does not show
    /// what it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_ended: Option<Timestamp>,
}

impl Sent {
    /// A command that has just been sent, or found again.
    #[must_use]
    pub fn new(id: String, at: Timestamp) -> Self {
        Self {
            id,
            at,
            ended: None,
            exit_code: None,
            seen_ended: None,
        }
    }
}

/// A patching, as the ledger keeps it.
pub type Patching = Run<PatchingDetail>;

/// What a run that installs patches found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchingDetail {
    /// What is (or would be) sent.
    pub operation: Operation,
    /// Whether the instance may restart.
    pub reboot: Reboot,
    /// What Inspector reported, what a patch mends first, the worst first: at
    /// most [`MOST_RECORDED`].
    #[serde(default)]
    pub findings: Vec<Vulnerability>,
    /// How many findings there were.
    #[serde(default)]
    pub findings_total: u32,
    /// The patches that an Install brings, as of the last scan: at most
    /// [`MOST_LISTED`].
    #[serde(default)]
    pub missing: Vec<Patch>,
    /// What the last operation before this one left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<PatchState>,
    /// What this one left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PatchState>,
    /// Systems Manager's view of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Whether safety snapshots are taken first.
    #[serde(default)]
    pub snapshots_wanted: bool,
    /// The safety snapshots that were taken.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// The mark of the command that it is sent with, in the command's comment:
    /// stored before it is sent, so that a command whose answer was lost is
    /// found again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// The command that was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Sent>,
    /// Commands that were sent before it and never began on the instance, oldest
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_begun: Vec<Sent>,
    /// That Patch Manager cannot patch the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpatchable: Option<Unpatchable>,
    /// What it waits for, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Wait>,
    /// Why it is as it is, one sentence each.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The guard that held it back.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Reason>,
    /// What the instance lacks, for Systems Manager to reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<Need>,
    /// Whether the instance was gone before Inspector looked again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub instance_gone: bool,
    /// When the patches were installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_at: Option<Timestamp>,
    /// What a page of the sweep showed of it (`sweep::patching::page_key`); kept
    /// beside the document.
    #[serde(skip)]
    pub page_key: Option<String>,
    /// Rises with every write: of two at once only one counts.
    #[serde(default)]
    pub revision: u64,
}

/// What an end came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// To an end: the status is set.
    Concluded,
    /// The command succeeded, and Systems Manager does not show yet what it
    /// left.
    NotShownYet,
    /// Nothing of the command began on the instance: the run goes on without it.
    NotBegun,
}

impl Patching {
    /// Whether a command is about to be sent, or under way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.head.status == Status::InProgress
    }

    /// Whether it waits for Inspector to look again.
    #[must_use]
    pub fn awaits_rescan(&self) -> bool {
        self.head.status == Status::AwaitingRescan
    }

    /// The findings that a patch of the operating system mends.
    pub fn patchable(&self) -> impl Iterator<Item = &Vulnerability> {
        self.detail
            .findings
            .iter()
            .filter(|finding| finding.is_patchable())
    }

    /// The findings that no patch of the operating system mends: for the owner.
    pub fn only_told(&self) -> impl Iterator<Item = &Vulnerability> {
        self.detail
            .findings
            .iter()
            .filter(|finding| !finding.is_patchable())
    }

    /// Whether all that was found stands in it.
    #[must_use]
    pub fn lists_all(&self) -> bool {
        usize::try_from(self.detail.findings_total)
            .is_ok_and(|all| all <= self.detail.findings.len())
    }

    /// Halves the longer of its lists, what matters least first; what is left out
    /// is counted all the same. `false`: there is nothing more to leave out.
    pub fn shorten(&mut self) -> bool {
        if self.detail.findings.len() >= self.detail.missing.len() {
            self.detail
                .findings
                .truncate(self.detail.findings.len() / 2);
        } else {
            self.detail.missing.truncate(self.detail.missing.len() / 2);
        }
        !(self.detail.findings.is_empty() && self.detail.missing.is_empty())
    }

    /// The mark in the comment of the command that it is sent with.
    #[must_use]
    pub fn comment(batch: &str) -> String {
        format!("Backstop {batch}")
    }

    /// Whether its end says anything about how the instance takes patches: that of
    /// a command that never began there, or that somebody cancelled, does not.
    #[must_use]
    pub fn is_telling(&self) -> bool {
        let ended = self
            .detail
            .command
            .as_ref()
            .and_then(|sent| sent.ended.as_deref());
        ended.is_some_and(|status| !INCONCLUSIVE.contains(&status))
    }

    /// Whether no further try helps until a person has changed something.
    #[must_use]
    pub fn needs_a_change(&self) -> bool {
        let command = self.detail.command.as_ref();
        let ended = command.and_then(|sent| sent.ended.as_deref());
        self.head.status == Status::Failed && ended == Some("AccessDenied")
    }

    /// Takes the end of its command. Success is what Systems Manager's patch
    /// state says since, and neither that the command ran nor its exit code; what
    /// Inspector found is for Inspector to close.
    pub fn take_end(&mut self, ended: &Ended, now: Timestamp) -> Came {
        if ended.never_began() {
            self.detail.batch = None;
            let sent = self.detail.command.take();
            self.detail.not_begun.extend(sent.map(|sent| Sent {
                ended: Some(ended.status.clone()),
                ..sent
            }));
            return Came::NotBegun;
        }
        let sent_at = self.detail.command.as_ref().map(|sent| sent.at);
        let seen_at = self
            .detail
            .command
            .as_ref()
            .and_then(|sent| sent.seen_ended);
        let seen_at = seen_at.unwrap_or(now);
        let installs = self.detail.operation == Operation::Install;
        let known_at = self
            .detail
            .before
            .as_ref()
            .and_then(|before| before.ended_at);
        // Systems Manager's and this clock differ by seconds; an operation takes
        // longer. What was there before is not what this one left.
        let slack = SignedDuration::from_secs(60);
        let since = ended.state.as_ref().filter(|state| {
            let is_new = state.ended_at != known_at;
            let Some((at, sent)) = state.ended_at.zip(sent_at) else {
                return false;
            };
            // Somebody's scan during the installation saw what was missing before
            // it, one after it what is missing since; one that saw nothing missing
            // says the same whenever it was.
            let is_ours = !installs
                || state.operation == Operation::Install.name()
                || at > seen_at
                || (state.missing == 0 && state.failed == 0);
            is_new && is_ours && sent.duration_since(at) <= slack
        });
        if ended.status == "Success" {
            let Some(state) = since else {
                if let Some(sent) = &mut self.detail.command {
                    sent.seen_ended = Some(seen_at);
                }
                return Came::NotShownYet;
            };
            self.conclude_success(state.clone(), now);
        } else if let Some(state) = since.filter(|state| self.is_done(state)) {
            self.detail.reasons.push(format!(
                "the command ended as {}{}, but Systems Manager shows that it did its work",
                ended.status,
                exit_code(ended)
            ));
            self.conclude_success(state.clone(), now);
        } else {
            self.head.status = Status::Failed;
            self.detail.after = since.cloned();
            self.detail.unpatchable = Unpatchable::shown_by(ended, self.detail.agent.as_ref());
            self.detail.reasons.push(match &self.detail.unpatchable {
                Some(why) => cannot_be_patched(why),
                None => failure(ended),
            });
        }
        if let Some(sent) = &mut self.detail.command {
            sent.ended = Some(ended.status.clone());
            sent.exit_code = ended.exit_code;
        }
        if self.head.status != Status::AwaitingRescan {
            self.head.finished_at = Some(now);
        }
        Came::Concluded
    }

    /// Whether a patch state is the one that this operation leaves where it did
    /// all of its work.
    fn is_done(&self, state: &PatchState) -> bool {
        let operation = self.detail.operation;
        state.operation == operation.name()
            && (operation == Operation::Scan || (state.missing == 0 && state.failed == 0))
    }

    fn conclude_success(&mut self, state: PatchState, now: Timestamp) {
        let (missing, failed, reboot) = (state.missing, state.failed, state.pending_reboot);
        self.detail.after = Some(state);
        if self.detail.operation == Operation::Scan {
            self.head.status = Status::Remediated;
            self.detail
                .reasons
                .push(format!("scanned: {missing} approved patches are missing"));
            return;
        }
        self.detail.installed_at = Some(now);
        if failed > 0 || missing > 0 {
            self.head.status = Status::Failed;
            self.detail.reasons.push(format!(
                "the command succeeded, but {missing} approved patches are still missing and {failed} failed to install"
            ));
            return;
        }
        if reboot > 0 {
            self.detail.reasons.push(format!(
                "{reboot} of the installed patches may take effect only when the instance restarts, which is left to its owner"
            ));
        }
        let by_inspector = self.head.control == ControlId::VulnerablePackage;
        self.head.status = if by_inspector && self.patchable().next().is_some() {
            Status::AwaitingRescan
        } else {
            Status::Remediated
        };
    }

    /// What became of what it waits for at Inspector: `left` are its findings
    /// that are still active; `unclear`: one went without being closed. `true`:
    /// it has ended.
    pub fn rescanned(&mut self, left: &BTreeSet<&str>, unclear: bool, now: Timestamp) -> bool {
        if !self.awaits_rescan() {
            return false;
        }
        if left.is_empty() && unclear {
            self.fail(
                "a finding was suppressed, or there was no room to keep it, before Inspector had closed it: whether the patches mended it, nobody has said".to_owned(),
                now,
            );
            return true;
        }
        if left.is_empty() {
            self.head.status = Status::Remediated;
            self.detail
                .reasons
                .push("Inspector has closed every finding that a patch mends".to_owned());
            self.head.finished_at = Some(now);
            return true;
        }
        let since = self.detail.installed_at.unwrap_or(self.head.started_at);
        if now.duration_since(since) < RESCAN {
            return false;
        }
        self.head.status = Status::Failed;
        self.detail.reasons.push(format!(
            "{} of Inspector's findings are still active 24 hours after the installation",
            left.len()
        ));
        self.head.finished_at = Some(now);
        true
    }

    /// The instance is gone, and with it what Inspector was to look at. `true`: it
    /// has ended.
    pub fn gone(&mut self, now: Timestamp) -> bool {
        if !self.awaits_rescan() {
            return false;
        }
        self.head.status = Status::Remediated;
        self.detail.reasons.push("the instance is gone".to_owned());
        self.detail.instance_gone = true;
        self.head.finished_at = Some(now);
        true
    }

    /// Ends it without a command, or with one that was never taken.
    pub fn fail(&mut self, why: String, now: Timestamp) {
        self.head.status = Status::Failed;
        self.detail.reasons.push(why);
        self.head.finished_at = Some(now);
    }

    /// What its message is known by; the same key is sent once. What fails
    /// before a command was sent is tried again by every look: the same failure
    /// is told once a day.
    #[must_use]
    pub fn message_key(&self) -> String {
        if self.head.status == Status::Failed && self.detail.command.is_none() {
            let day = jiff::tz::Offset::UTC
                .to_datetime(self.head.started_at)
                .date();
            let mut parts = vec![
                format!("patching {} {day}", self.head.resource),
                format!("control {}", self.head.control),
            ];
            parts.extend(self.detail.reasons.iter().cloned());
            return digest(parts.iter().map(String::as_str));
        }
        digest([
            format!("patching {}", self.head.id).as_str(),
            &format!("status {}", self.head.status.name()),
        ])
    }

    /// What was found and not changed: while it stays the same there is nothing
    /// new to record or to tell. Of what patches mend the worst severity counts
    /// and not each finding: new ones come every day, and all of them go with
    /// the same command. What is only told counts by package,
    /// and what is in code by finding.
    #[must_use]
    pub fn state_key(&self) -> String {
        let mut parts: BTreeSet<String> = BTreeSet::new();
        parts.insert(format!(
            "found {} {}",
            self.head.control, self.head.resource
        ));
        parts.insert(format!("status {}", self.head.status.name()));
        parts.insert(format!("exemption {:?}", self.head.exemption));
        parts.insert(format!("operation {}", self.detail.operation.name()));
        parts.insert(format!("waits {:?}", self.detail.waits));
        parts.insert(format!("severity {}", self.head.severity));
        if self.detail.waits.is_none() {
            parts.extend(self.detail.reasons.iter().map(|why| format!("why {why}")));
        }
        for finding in self.only_told() {
            let packages = finding.packages.iter();
            parts.extend(packages.map(|package| format!("package {}", package.name)));
            if finding.packages.is_empty() {
                parts.insert(format!("code {}", finding.arn));
            }
        }
        digest(parts.iter().map(String::as_str))
    }
}

/// How a command ends that did not begin on an instance, or was not let end.
const INCONCLUSIVE: &[&str] = &[
    "DeliveryTimedOut",
    "Undeliverable",
    "Terminated",
    "RateExceeded",
    "AccessDenied",
    "Cancelled",
];

/// Why no command can patch an instance, in words.
pub(crate) fn cannot_be_patched(why: &Unpatchable) -> String {
    let exit_code = why
        .exit_code
        .map_or_else(String::new, |code| format!(", exit code {code}"));
    format!(
        "Patch Manager cannot patch its operating system as it is ({}{exit_code}): it is not tried again until the SSM agent or the operating system changes",
        why.says
    )
}

/// Why a run ends without a command, when the last one never began.
#[must_use]
pub fn never_began(sent: &Sent) -> String {
    let status = sent.ended.as_deref().unwrap_or_default();
    let what = match status {
        "Terminated" | "RateExceeded" => "it had failed on too many other instances",
        "Cancelled" => "it was cancelled",
        _ => "the agent was not online, or its turn had not come in time",
    };
    format!(
        "the command {} did not begin on the instance: {what} ({status})",
        sent.id
    )
}

/// `, exit code 1`; nothing where none is known.
fn exit_code(ended: &Ended) -> String {
    ended
        .exit_code
        .map_or_else(String::new, |code| format!(", exit code {code}"))
}

/// What a command that did not succeed came to, in words.
fn failure(ended: &Ended) -> String {
    let status = ended.status.as_str();
    let what = match status {
        "ExecutionTimedOut" | "TimedOut" => {
            "the command ran out of time on the instance: it may have installed a part"
        }
        "Cancelled" => "the command was cancelled: it may have installed a part",
        "AccessDenied" => "the command was denied on the instance",
        _ => "the command failed on the instance: it may have installed a part",
    };
    format!("{what} ({status}{})", exit_code(ended))
}
