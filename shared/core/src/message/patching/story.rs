//! What is told of a patching: the record, how it failed, the subject and the
//! first line.

use crate::message::subject::{id_and_name, status_verb, subject_of};
use crate::patching::{Operation, PatchState, Patching, Reboot, Sent};
use crate::prose::counted;
use crate::words::{ControlId, Status};

/// What is told of a patching.
pub(super) struct Story<'a> {
    pub(super) run: &'a Patching,
}

/// How an installation or a scan failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No command was sent. (One whose answer was lost leaves the run open.)
    NotSent,
    /// A command was sent, and how it ended is not known.
    EndUnknown,
    /// It did nothing on the instance.
    NotRun,
    /// It ran, and did not succeed: a part may be installed.
    NotDone,
    /// It succeeded, and patches are still missing.
    StillMissing,
    /// Everything was installed, and Inspector's findings are still active.
    StillFound,
    /// No command can patch it.
    Unpatchable,
}

// ---------------------------------------------------------------------- what it is

impl Story<'_> {
    pub(super) fn is_scan(&self) -> bool {
        self.run.detail.operation == Operation::Scan
    }

    pub(super) fn is_unmanaged(&self) -> bool {
        self.run.head.control == ControlId::UnmanagedInstance
    }

    /// Whether there is nothing in it that a patch of the operating system mends.
    pub(super) fn is_only_told(&self) -> bool {
        let run = self.run;
        run.head.control == ControlId::VulnerablePackage
            && !run.detail.findings.is_empty()
            && run.patchable().next().is_none()
    }

    /// Whether there is something in it that was still active after every approved
    /// patch had been installed.
    pub(super) fn has_unmended(&self) -> bool {
        self.run
            .detail
            .findings
            .iter()
            .any(|finding| finding.unmended)
    }

    /// Whether a command is, was, or would be sent.
    pub(super) fn is_sendable(&self) -> bool {
        !self.is_only_told() && !self.is_unmanaged()
    }

    /// Whether Inspector's next look is what counts.
    fn is_closed_by_inspector(&self) -> bool {
        self.run.head.control == ControlId::VulnerablePackage
            && self.run.patchable().next().is_some()
    }

    /// Whether the instance is gone, so that nothing is known of how it ended.
    pub(super) fn is_gone(&self) -> bool {
        self.run.head.status == Status::Remediated && self.run.detail.instance_gone
    }

    /// How many findings there were, those that the record leaves out included.
    pub(super) fn findings(&self) -> usize {
        let all = usize::try_from(self.run.detail.findings_total).unwrap_or(usize::MAX);
        all.max(self.run.detail.findings.len())
    }

    /// How many patches an installation brings, those that the record leaves out
    /// included.
    pub(super) fn patches(&self) -> usize {
        let all = self
            .run
            .detail
            .before
            .as_ref()
            .map_or(0, |state| state.missing);
        let all = usize::try_from(all).unwrap_or(usize::MAX);
        all.max(self.run.detail.missing.len())
    }

    /// How many installed patches wait for a restart, as Systems Manager counts.
    pub(super) fn pending_reboot(&self) -> u32 {
        let after = self.run.detail.after.as_ref();
        after.map_or(0, |state| state.pending_reboot)
    }

    /// How it failed, read off what the record holds.
    pub(super) fn failure(&self) -> Failure {
        let run = self.run;
        if run.detail.unpatchable.is_some() {
            return Failure::Unpatchable;
        }
        let Some(command) = &run.detail.command else {
            return Failure::NotSent;
        };
        let ended: Option<String> = command.ended.as_ref().map(|ended| ended.replace(' ', ""));
        match ended.as_deref() {
            None => Failure::EndUnknown,
            Some("Success") => match &run.detail.after {
                Some(state) if state.missing > 0 || state.failed > 0 => Failure::StillMissing,
                _ => Failure::StillFound,
            },
            Some(
                "DeliveryTimedOut" | "Undeliverable" | "Terminated" | "RateExceeded"
                | "AccessDenied" | "InvalidPlatform",
            ) => Failure::NotRun,
            Some(_) => Failure::NotDone,
        }
    }

    /// The address of a command in the AWS console; none where its id or the
    /// Region could be anything else than one.
    pub(super) fn console(&self, command: &Sent) -> Option<String> {
        let region = self.run.head.region.as_str();
        let plain = |text: &str| {
            (1..=64).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        if !plain(region) || !plain(&command.id) {
            return None;
        }
        let host = match self.run.head.resource.split(':').nth(1) {
            Some("aws-cn") => format!("{region}.console.amazonaws.cn"),
            Some("aws-us-gov") => "console.amazonaws-us-gov.com".to_owned(),
            _ => format!("{region}.console.aws.amazon.com"),
        };
        Some(format!(
            "https://{host}/systems-manager/run-command/{}?region={region}",
            command.id
        ))
    }
}

// ------------------------------------------------------------------------ headline

impl Story<'_> {
    /// The subject: the name of the instance goes before anything else does.
    pub(super) fn subject(&self) -> String {
        subject_of(|name| self.headline(name))
    }

    pub(super) fn headline(&self, name: usize) -> String {
        let verb = match self.run.head.status {
            // A scan mends nothing.
            Status::Remediated if self.is_gone() => "ENDED",
            Status::Remediated if self.is_scan() && self.run.detail.command.is_some() => "SCANNED",
            status => status_verb(status),
        };
        format!(
            "{verb} {}: {}{}",
            self.run.head.severity,
            self.unit(name),
            self.what()
        )
    }

    /// The instance: its id, and its name where it has one.
    pub(super) fn unit(&self, name: usize) -> String {
        id_and_name(&self.run.head, name)
    }

    /// What is the matter with it, or what became of that.
    fn what(&self) -> String {
        let run = self.run;
        match run.head.status {
            Status::InProgress if self.is_scan() => " is scanned for missing patches".to_owned(),
            Status::InProgress => format!(
                " gets {}{}",
                match self.patches() {
                    0 => "all missing patches".to_owned(),
                    patches => counted(patches, "patch"),
                },
                match run.detail.reboot {
                    Reboot::Never => ", no restart",
                    Reboot::IfNeeded => " and RESTARTS",
                }
            ),
            Status::Remediated if self.is_gone() => " is gone".to_owned(),
            Status::Remediated if run.detail.command.is_none() => {
                " lacks nothing any more".to_owned()
            }
            Status::Remediated if self.is_scan() => lacks(run.detail.after.as_ref())
                .unwrap_or_else(|| " lacks no approved patch".to_owned()),
            Status::Remediated if self.is_closed_by_inspector() => {
                ": Inspector has closed its findings".to_owned()
            }
            Status::Remediated => " has all approved patches".to_owned(),
            Status::AwaitingRescan => ": patches installed, awaiting rescan".to_owned(),
            Status::RolledBack if run.detail.not_begun.is_empty() => {
                " was left as it was, no command was sent".to_owned()
            }
            Status::RolledBack => " was left as it was, no command ran on it".to_owned(),
            Status::Failed if run.detail.unpatchable.is_some() => {
                " cannot be patched: its operating system is not supported".to_owned()
            }
            Status::Failed if self.is_scan() => ": the scan for patches failed".to_owned(),
            Status::Failed => match self.failure() {
                Failure::NotSent | Failure::NotRun | Failure::Unpatchable => {
                    " was not patched".to_owned()
                }
                Failure::EndUnknown => ": the end of its patching is unknown".to_owned(),
                Failure::NotDone => " may be patched only in part".to_owned(),
                Failure::StillMissing => lacks(run.detail.after.as_ref())
                    .map_or_else(String::new, |it| it.replacen(" ", " still ", 1)),
                Failure::StillFound => ": findings are still active after patching".to_owned(),
            },
            _ => self.finding(),
        }
    }

    /// What is the matter with it.
    fn finding(&self) -> String {
        let run = self.run;
        match run.head.control {
            ControlId::UnmanagedInstance if run.detail.agent.is_some() => {
                " is out of reach of Systems Manager".to_owned()
            }
            ControlId::UnmanagedInstance => " is not managed by Systems Manager".to_owned(),
            ControlId::VulnerablePackage
                if self.is_only_told() || (self.is_scan() && self.has_unmended()) =>
            {
                format!(
                    " has {} that no {} patch mends",
                    counted(self.findings(), "known hole"),
                    match self.has_unmended() {
                        true => "approved",
                        false => "OS",
                    }
                )
            }
            ControlId::VulnerablePackage => {
                format!(" has {}", counted(self.findings(), "known hole"))
            }
            _ if self.is_scan() => " was never scanned for patches".to_owned(),
            _ => lacks(run.detail.before.as_ref())
                .unwrap_or_else(|| " lacks approved patches".to_owned()),
        }
    }

    /// What the first line of bodies says beyond the subject.
    pub(super) fn addition(&self) -> String {
        match self.run.head.status {
            Status::Notified => ", nothing was changed",
            Status::Exempt => ", and is exempt",
            Status::Held => ", its opt-out tag cannot be read",
            Status::Existing => ", it was there before enforce and was left",
            Status::Tripped => ", the control has tripped: nothing was changed",
            Status::Stopped => ", the kill switch is on: nothing was changed",
            Status::Pending => ", it waits",
            Status::Refused => ", and Backstop does not patch it",
            Status::Remediated | Status::AwaitingRescan
                if self.pending_reboot() > 0 && !self.is_gone() =>
            {
                ", a restart is pending"
            }
            Status::InProgress if !self.is_scan() => ": a patch cannot be undone",
            Status::InProgress
            | Status::Remediated
            | Status::Failed
            | Status::NotOwned
            | Status::RolledBack
            | Status::NeedsPerson
            | Status::AwaitingRescan => "",
        }
        .to_owned()
    }
}

/// What a patch state says that an instance lacks; none: nothing.
pub(super) fn lacks(state: Option<&PatchState>) -> Option<String> {
    let state = state?;
    match (state.missing, state.failed) {
        (0, 0) => None,
        (0, failed) => Some(format!(
            " has {} that failed to install",
            counted(usize::try_from(failed).unwrap_or(usize::MAX), "patch")
        )),
        (missing, _) => Some(format!(
            " lacks {}",
            counted(
                usize::try_from(missing).unwrap_or(usize::MAX),
                "approved patch"
            )
        )),
    }
}
