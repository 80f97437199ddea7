//! The sections of a message about a patching: what is vulnerable, what is done
//! and whether the instance restarts, what can be done, the safety snapshots, how
//! to see what was printed, to go back, to opt out.
//!
//! What a person has to type at once is no next step: chat cuts those short.

use std::collections::BTreeSet;

use super::story::{Failure, Story};
use crate::exemption::{Exemption, OPT_OUT_TAG};
use crate::message::story::{
    Flag, Section, command, end_opt_out, opt_out_command, opt_out_notes, re_arm, sentence, the_run,
    way_out, who,
};
use crate::patching::{
    DOCUMENT, Need, OS, Package, Patch, PatchState, RESCAN, Reboot, Vulnerability,
};
use crate::prose::{clause, counted, joined, one_line, or_unknown, shortened, time};
use crate::volumes::ENTRY_TAG;
use crate::words::Status;

/// Most findings in a section: a chat message has room for no more.
const MOST_FINDINGS: usize = 6;
/// Most patches in a section.
const MOST_PATCHES: usize = 12;
/// Most packages of a finding in a line.
const MOST_PACKAGES: usize = 4;
/// Most CVE ids in a line.
const MOST_CVES: usize = 8;
/// Most reasons, and most snapshots to go back to, in a section.
const MOST_LINES: usize = 10;
/// Most snapshots, and how many of them stand in a line.
const MOST_SNAPSHOTS: usize = 40;
const SNAPSHOTS_IN_A_LINE: usize = 10;
/// Most characters of an id.
const MOST_ID: usize = 100;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// Most characters of a line about a finding.
const MOST_FINDING: usize = 450;
/// Most characters of what Inspector says is to be done about it.
const MOST_ADVICE: usize = 220;

impl Story<'_> {
    /// The sections, in the order of reading.
    pub(super) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![self.found()];
        match self.run.head.status {
            Status::InProgress if self.is_scan() => sections.push(self.is_being_scanned()),
            Status::InProgress => sections.extend([
                self.is_being_installed(),
                self.safety(),
                self.patches_section(),
                self.stop_it(),
                self.output(),
            ]),
            Status::Remediated if self.run.detail.command.is_none() => {
                sections.extend([self.came_to_nothing(), self.safety()]);
            }
            Status::Remediated if self.is_scan() => {
                sections.extend([self.was_scanned(), self.see_patches()]);
            }
            Status::Remediated if self.is_gone() => {
                sections.extend([self.has_ended_with_the_instance(), self.safety()])
            }
            Status::Remediated | Status::AwaitingRescan => sections.extend([
                self.was_installed(),
                self.is_next(),
                self.safety(),
                self.output(),
                self.go_back(),
            ]),
            Status::Failed => sections.extend([
                self.has_failed(),
                self.to_be_done(),
                self.safety(),
                self.output(),
                self.go_back(),
            ]),
            _ => {
                sections.extend([self.unchanged(), self.manage_it(), self.by_hand()]);
                // Those of a run that had begun.
                if !self.run.detail.snapshots.is_empty() {
                    sections.push(self.safety());
                }
            }
        }
        sections.push(self.for_the_owner());
        sections.push(self.opt_out());
        sections.push(self.who());
        sections.push(self.good_to_know());
        sections.push(the_run(
            &self.run.head.resource,
            self.run.head.started_at,
            self.run.head.finished_at,
            self.run.head.attempts,
            self.run.head.policy_version,
        ));
        sections.retain(|section| !section.lines.is_empty());
        sections
    }

    // ---------------------------------------------------------------- the finding

    fn found(&self) -> Section {
        let run = self.run;
        let mut lines = vec![self.instance()];
        let is_done = matches!(run.head.status, Status::Remediated | Status::AwaitingRescan);
        // What no patch mends has a section of its own, where there is anything
        // that one does.
        let findings: Vec<&Vulnerability> = match self.is_only_told() {
            true => run.detail.findings.iter().collect(),
            false => run.patchable().collect(),
        };
        // Where it did not help to patch, Inspector's own words may.
        let with_advice = self.is_only_told()
            || (run.head.status == Status::Failed && self.failure() == Failure::StillFound);
        lines.extend(
            findings
                .iter()
                .take(MOST_FINDINGS)
                .map(|finding| self.finding_line(finding, with_advice)),
        );
        lines.extend(self.more_findings(findings.len()));
        // A scan that succeeded has answered just that.
        let has_answered = is_done && self.is_scan() && run.detail.before.is_none();
        if !self.is_only_told() && !has_answered {
            lines.push(match &run.detail.before {
                Some(state) => format!("Approved patches: {}.", of_state(state)),
                None if self.is_unmanaged() => {
                    "Which approved patches are missing is not known.".to_owned()
                }
                None => "Which approved patches are missing is not known: no scan or installation of patches is on record.".to_owned(),
            });
        }
        Section::new(
            match (is_done, self.is_unmanaged()) {
                (true, _) => "What was found",
                (false, true) => "What is not managed",
                (false, false) => "What is vulnerable",
            },
            lines,
        )
    }

    /// The instance, its operating system, and whether Systems Manager reaches it.
    fn instance(&self) -> String {
        let Some(agent) = &self.run.detail.agent else {
            return format!("{}: not managed by Systems Manager.", self.unit(60));
        };
        let version = agent
            .version
            .as_deref()
            .map_or_else(String::new, |version| format!(" {}", one_line(version, 30)));
        let last = agent
            .last_ping
            .map(|at| format!(", last heard of {}", time(at)));
        format!(
            "{}: {}, SSM agent{version} {}{}.",
            self.unit(60),
            match agent.platform.as_deref() {
                Some(platform) => one_line(platform, 60),
                None => "operating system unknown".to_owned(),
            },
            or_unknown(Some(&agent.ping), 30),
            last.unwrap_or_default()
        )
    }

    /// `critical CVE-2026-11111: openssl 3.0.7-1, mended in 3.0.7-2`.
    fn finding_line(&self, finding: &Vulnerability, with_advice: bool) -> String {
        let mut line = finding.severity.to_string();
        if !finding.cves.is_empty() {
            line += &format!(" {}", joined(&finding.cves, MOST_CVES));
        }
        let packages: Vec<String> = finding
            .packages
            .iter()
            .take(MOST_PACKAGES)
            .map(package)
            .collect();
        let mut of = packages.join("; ");
        let more = finding.packages.len().saturating_sub(MOST_PACKAGES);
        if more > 0 {
            of += &format!("; and {}", counted(more, "more package"));
        }
        if finding.packages.is_empty() || finding.cves.is_empty() {
            let title = one_line(&finding.title, 120);
            of = match of.is_empty() {
                true => format!("in code, {title}"),
                false => format!("{title}: {of}"),
            };
        }
        line = format!("{line}: {of}");
        if finding.unmended {
            line += ", STILL ACTIVE after every approved patch had been installed";
        }
        let mut said = String::new();
        if with_advice {
            let own = finding.remediation.as_deref();
            let mut advice: Vec<String> = Vec::new();
            let of_packages = finding.packages.iter().take(MOST_PACKAGES);
            for text in own
                .into_iter()
                .chain(of_packages.filter_map(|package| package.remediation.as_deref()))
            {
                let text = clause(text, 200);
                if !text.is_empty() && !advice.contains(&text) {
                    advice.push(text);
                }
            }
            if !advice.is_empty() {
                said = one_line(&advice.join(". "), MOST_ADVICE);
                said = format!(". Inspector says: {said}");
            }
        }
        // What is to be done is not cut for what is listed before it.
        let room = MOST_FINDING - said.chars().count();
        format!("{}{said}", one_line(&line, room))
    }

    /// How many findings of those that a section is about are left out.
    fn more_findings(&self, listed: usize) -> Option<String> {
        let recorded = self.run.detail.findings.len();
        let unrecorded = self.findings().saturating_sub(recorded);
        let more = listed.saturating_sub(MOST_FINDINGS);
        match (more, unrecorded) {
            (0, 0) => None,
            (more, 0) => Some(format!("and {more} more, see the ledger entry")),
            (more, _) => Some(format!(
                "and {} more: the ledger entry lists {recorded} of {}, Inspector all of them",
                more.saturating_add(unrecorded),
                self.findings()
            )),
        }
    }

    /// What is left to the owner beside what a patch mends.
    fn for_the_owner(&self) -> Section {
        let findings: Vec<&Vulnerability> = match self.is_only_told() {
            true => Vec::new(),
            false => self.run.only_told().collect(),
        };
        let mut lines = shortened(&findings, MOST_FINDINGS, |finding| {
            self.finding_line(finding, true)
        });
        if !lines.is_empty() {
            lines.push("Backstop changes nothing about these.".to_owned());
            lines.extend(self.advice());
        }
        Section::new(
            match self.has_unmended() {
                true => "What no approved patch mends",
                false => "What no patch of the operating system mends",
            },
            lines,
        )
    }

    /// What the owner can do about what is only told.
    fn advice(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let told = || self.run.only_told();
        if told().any(|finding| finding.unmended) {
            lines.push("What is still active: approve the version that mends it in the patch baseline, or install it by hand. What is not in effect before a restart (a kernel) is still found until then.".to_owned());
        }
        let subscriptions: BTreeSet<&str> = told()
            .filter(|finding| !finding.unmended)
            .filter_map(Vulnerability::needs_subscription)
            .collect();
        lines.extend(subscriptions.into_iter().map(|subscription| {
            format!("The fixed version comes with {subscription} alone: attach the instance to it, or upgrade to a release that is still maintained. Once its sources deliver the version, the next scan lists it, and it is installed with the other patches.")
        }));
        if told().any(|finding| !finding.unmended && finding.needs_subscription().is_none()) {
            lines.push("Its owner has to mend it where the application or the image is built: bring in the version that is named, and roll it out.".to_owned());
        }
        lines.push("Inspector closes a finding by itself when it sees that.".to_owned());
        lines
    }

    fn reasons(&self) -> Vec<String> {
        shortened(&self.run.detail.reasons, MOST_LINES, |why| {
            sentence(why, 2 * MOST_TEXT)
        })
    }

    // -------------------------------------------------------------- the beginning

    fn is_being_scanned(&self) -> Section {
        let mut lines = vec![scan().to_owned()];
        lines.extend(self.command_line());
        lines.extend(self.reasons());
        Section::new("What is done now", lines)
    }

    fn is_being_installed(&self) -> Section {
        let run = self.run;
        let mut lines = vec![
            "A PATCH CANNOT BE UNDONE: neither Backstop nor AWS takes an installed patch back."
                .to_owned(),
            everything(),
            restart(run.detail.reboot),
        ];
        lines.extend(self.command_line());
        lines.extend(self.reasons());
        if run.patchable().next().is_some() {
            lines.push(closes().to_owned());
        }
        Section::new("What is done now", lines)
    }

    /// The safety snapshots, and what they are worth.
    fn safety(&self) -> Section {
        let run = self.run;
        let mut lines = Vec::new();
        if !run.detail.snapshots.is_empty() {
            let shown: Vec<&String> = run.detail.snapshots.iter().take(MOST_SNAPSHOTS).collect();
            lines.extend(shown.chunks(SNAPSHOTS_IN_A_LINE).map(|ids| {
                let ids: Vec<String> = ids.iter().map(|id| one_line(id, MOST_ID)).collect();
                ids.join(", ")
            }));
            let more = run.detail.snapshots.len().saturating_sub(MOST_SNAPSHOTS);
            if more > 0 {
                lines.push(format!("and {more} more, see the ledger entry"));
            }
            lines.push("They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.".to_owned());
            lines.push(format!("See them: {}", self.list_snapshots()));
            lines.push(
                "AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete."
                    .to_owned(),
            );
        } else if self.is_scan() {
            // A scan changes nothing.
        } else if !run.detail.snapshots_wanted {
            lines.push("None are taken: the policy's `patching.snapshots` is off. Nothing but your own backups leads back.".to_owned());
        } else if run.head.status == Status::InProgress {
            lines.push("Snapshots of all its volumes are taken before the command is sent; without them nothing is installed. They are crash-consistent: what is only in memory is not in them.".to_owned());
            lines.push(format!("See them: {}", self.list_snapshots()));
        } else {
            lines.push("None is known.".to_owned());
            lines.push(format!(
                "See whether there are any: {}",
                self.list_snapshots()
            ));
        }
        Section::new("Safety snapshots", lines)
    }

    fn patches_section(&self) -> Section {
        let run = self.run;
        let mut lines: Vec<String> = run
            .detail
            .missing
            .iter()
            .take(MOST_PATCHES)
            .map(patch)
            .collect();
        let more = self.patches().saturating_sub(lines.len());
        match (lines.is_empty(), more) {
            (_, 0) => {}
            (true, all) => lines.push(format!(
                "{}; which ones is not on record",
                counted(all, "patch")
            )),
            (false, more) => lines.push(format!("and {more} more")),
        }
        if lines.is_empty() {
            lines.push("No patch is known to be missing. What has been published since the last scan is installed with the rest.".to_owned());
        }
        lines.push(format!(
            "See all: {}",
            self.describe_patches("Missing,Failed")
        ));
        Section::new("What will be installed, as of the last scan", lines)
    }

    fn stop_it(&self) -> Section {
        let mut lines = Vec::new();
        match &self.run.detail.command {
            Some(command) => {
                lines.push(self.cancel(&command.id));
            }
            None => {
                lines.push(format!(
                    "The command follows this message within minutes. Find it: {}",
                    self.list_commands()
                ));
                lines.push(format!("Cancel it: {}", self.cancel("<command-id>")));
            }
        }
        lines.push("What is installed by then stays installed, and an installation that is cut off may leave a package half done.".to_owned());
        lines.push(
            "Later ones are kept back by an opt-out, and everywhere by: backstop kill-switch on"
                .to_owned(),
        );
        Section::next_step("How to stop it now", lines)
    }

    // --------------------------------------------------------------------- the end

    fn was_scanned(&self) -> Section {
        let run = self.run;
        let mut lines = vec![
            "The instance was scanned. A scan changes nothing and restarts nothing.".to_owned(),
        ];
        if let Some(state) = &run.detail.after {
            lines.push(format!("Approved patches now: {}.", of_state(state)));
            lines.push(match state.missing > 0 || state.failed > 0 {
                true => format!(
                    "What is missing is a finding of {} from now on: it is looked at next, and you are told before anything is installed.",
                    run.head.control
                ),
                false => "Nothing has to be done.".to_owned(),
            });
        }
        lines.extend(self.command_line());
        Section::new("What was done", lines)
    }

    /// A run that was cut off before its command, and not needed any more.
    fn came_to_nothing(&self) -> Section {
        let mut lines = vec!["Backstop sent no command, and changed nothing.".to_owned()];
        lines.extend(self.reasons());
        Section::new("What was done", lines)
    }

    /// Nobody can say of an instance that is gone what was closed on it.
    fn has_ended_with_the_instance(&self) -> Section {
        let mut lines = vec![
            "Patches were installed, and the instance was gone before Inspector looked again. Nothing has to be done.".to_owned(),
        ];
        lines.extend(self.command_line());
        lines.extend(self.reasons());
        Section::new("What was done", lines)
    }

    fn was_installed(&self) -> Section {
        let run = self.run;
        let mut lines = vec![match run.detail.installed_at {
            Some(at) => format!(
                "Every approved patch that was missing was installed, as seen at {}. That cannot be undone.",
                time(at)
            ),
            None => "Every approved patch that was missing was installed. That cannot be undone."
                .to_owned(),
        }];
        if let Some(state) = &run.detail.after {
            lines.push(format!("Approved patches now: {}.", of_state(state)));
        }
        lines.push(restarted(run.detail.reboot).to_owned());
        lines.extend(self.command_line());
        lines.extend(self.reasons());
        Section::new("What was done", lines)
    }

    /// What happens next, and what its owner can do about it.
    fn is_next(&self) -> Section {
        let run = self.run;
        let mut lines = Vec::new();
        if run.awaits_rescan() {
            let since = run.detail.installed_at.unwrap_or(run.head.started_at);
            let until = since.checked_add(RESCAN).map_or_else(
                |_| String::new(),
                |at| format!(", that is until {}", time(at)),
            );
            lines.push(format!(
                "Only Inspector can say that the holes are closed. It looks again within 24 hours{until}; until then its findings are still active."
            ));
            lines.push(
                "A further message says whether it has closed them. Nothing has to be done for that."
                    .to_owned(),
            );
        }
        if self.pending_reboot() > 0 {
            lines.push(format!(
                "Until the instance restarts, a new kernel and libraries that running programs have loaded are without effect{}.",
                match run.awaits_rescan() {
                    true => ", and Inspector may keep its findings about them",
                    false => "",
                }
            ));
            lines.push(format!(
                "DOWNTIME, at a time of your choice: {}",
                self.aws(
                    "ec2 reboot-instances",
                    &[("--instance-ids", &[run.resource_id()])]
                )
            ));
        }
        Section::new("What comes next", lines)
    }

    // -------------------------------------------------------------------- a failure

    fn has_failed(&self) -> Section {
        let run = self.run;
        let mut lines = self.reasons();
        lines.extend(self.command_line());
        let failure = self.failure();
        match failure {
            _ if self.is_scan() => {
                lines.push("A scan changes nothing: the instance is as it was.".to_owned());
            }
            Failure::NotSent => {
                lines.push("No command was sent. The instance is as it was.".to_owned());
            }
            Failure::NotRun | Failure::Unpatchable => {
                lines.push("Nothing was installed, and the instance was not restarted.".to_owned());
            }
            Failure::EndUnknown | Failure::NotDone => {
                lines.push("What is installed cannot be undone.".to_owned());
                lines.push(may_have_restarted(run.detail.reboot).to_owned());
            }
            Failure::StillMissing | Failure::StillFound => {
                lines.push("What was installed cannot be undone.".to_owned());
                lines.push(restarted(run.detail.reboot).to_owned());
            }
        }
        if let Some(state) = &run.detail.after {
            lines.push(format!("Approved patches now: {}.", of_state(state)));
        }
        Section::new("What was done, and what failed", lines)
    }

    fn to_be_done(&self) -> Section {
        let run = self.run;
        let id = run.resource_id();
        let mut lines = Vec::new();
        let failure = self.failure();
        let console = run
            .detail
            .command
            .as_ref()
            .and_then(|sent| self.console(sent));
        if let Some(console) = &console {
            lines.push(format!(
                "See what became of the command, and what it printed: {console}"
            ));
        } else if let Some(command) = &run.detail.command {
            lines.push(format!(
                "See what became of the command, and what it printed: {}",
                self.list_invocations(&command.id)
            ));
        }
        let online = format!("See whether its agent is online: {}", self.describe_agent());
        match failure {
            Failure::NotSent => {
                lines.push("Remove the cause that is named above.".to_owned());
                lines.push(online);
            }
            Failure::Unpatchable => lines.push("Bring the instance to an operating system that Patch Manager supports (docs.aws.amazon.com/systems-manager/latest/userguide/patch-manager-prerequisites.html), update its SSM agent, or patch it by its own package manager and opt it out here.".to_owned()),
            Failure::EndUnknown | Failure::NotRun => lines.push(online),
            Failure::NotDone if self.is_scan() => lines.push(online),
            Failure::NotDone | Failure::StillMissing => lines.push(format!(
                "See what is missing and what failed: {}",
                self.describe_patches("Missing,Failed")
            )),
            Failure::StillFound => {
                if self.pending_reboot() > 0 {
                    lines.push(format!(
                        "{} pending a restart: what is not in effect Inspector still finds. DOWNTIME: {}",
                        match self.pending_reboot() {
                            1 => "1 patch is".to_owned(),
                            many => format!("{many} patches are"),
                        },
                        self.aws("ec2 reboot-instances", &[("--instance-ids", &[id])])
                    ));
                }
                lines.push("The patch baseline may not approve the version that mends it (yet): compare the versions above with what it approves, or install the package by hand.".to_owned());
                let filter = format!(
                    "{{\"resourceId\":[{{\"comparison\":\"EQUALS\",\"value\":\"{}\"}}],\"findingStatus\":[{{\"comparison\":\"EQUALS\",\"value\":\"ACTIVE\"}}]}}",
                    one_line(id, MOST_ID)
                );
                lines.push(format!(
                    "See what Inspector still finds: {}",
                    self.aws(
                        "inspector2 list-findings",
                        &[("--filter-criteria", &[filter.as_str()])]
                    )
                ));
            }
        }
        lines.push(match run.detail.command.is_none() {
            true => format!(
                "Backstop looks at it again with the next sweep (at once: backstop sweep). If it then says that the control has tripped for this resource: {}",
                re_arm(&run.head, true)
            ),
            false if run.needs_a_change() => format!(
                "Backstop sends it no further command until a person has removed the cause and re-arms it: {}",
                re_arm(&run.head, true)
            ),
            false if failure == Failure::Unpatchable => "Backstop takes no snapshots of it and sends it no further command until its SSM agent or its operating system is another version.".to_owned(),
            false if failure == Failure::StillFound => "Backstop does not install again for these findings while nothing else is missing: the same command would not mend them. It scans once a week whether the patch baseline approves more by now.".to_owned(),
            false if self.is_scan() => "Backstop scans again once the policy's `patching.cool_down_hours` have passed.".to_owned(),
            false => "Backstop looks at it again by itself, and installs again only once the policy's `patching.cool_down_hours` have passed.".to_owned(),
        });
        Section::new("What can be done", lines)
    }

    // ------------------------------------------------------------------ not changed

    /// Why nothing was changed, what to do about it, what would be done.
    fn unchanged(&self) -> Section {
        let run = self.run;
        let control = run.head.control;
        let mut lines = vec!["Nothing was changed.".to_owned()];
        lines.extend(self.reasons());
        lines.extend(way_out(&run.head, run.detail.because.as_ref()));
        // What nothing would be done about has nothing but its opt-out to tell.
        let mut would = self.is_sendable();
        match run.head.status {
            Status::Notified if self.is_only_told() => lines.extend(self.advice()),
            Status::Notified if self.is_unmanaged() => {}
            Status::RolledBack => {
                would = false;
                lines.push("It was looked at again at once, as it is now: a further message says what comes of it, if anything does.".to_owned());
            }
            Status::Notified => lines.push(format!(
                "To have it done, set the mode `enforce` for {control} in the policy."
            )),
            Status::Exempt | Status::Held => would = false,
            Status::Existing | Status::Tripped | Status::Stopped => {}
            Status::Pending => lines
                .push("Nothing has to be done: the sweep takes it up by itself then.".to_owned()),
            Status::Refused => {
                would = false;
                lines.push(
                    "Remove the cause, and the next sweep looks at it again (at once: backstop sweep)."
                        .to_owned(),
                );
            }
            _ => would = false,
        }
        if would {
            lines.push(
                match run.head.status {
                    Status::Pending => "This will be done then:",
                    _ => "This would be done:",
                }
                .to_owned(),
            );
            lines.extend(self.steps());
        }
        Section::new(
            match run.head.status {
                Status::Refused => "Why it is not patched, and what can be done",
                Status::Pending => "What it waits for",
                _ if self.is_only_told() => "What was done, and what can be done",
                _ => "What was done",
            },
            lines,
        )
    }

    /// What is (or would be) done, in order.
    fn steps(&self) -> Vec<String> {
        if self.is_scan() {
            return vec![scan().to_owned()];
        }
        let mut steps = Vec::new();
        if self.run.detail.snapshots_wanted {
            steps.push("First snapshots of all its volumes are taken.".to_owned());
        }
        steps.push(everything());
        steps.push(restart(self.run.detail.reboot));
        steps.push("A patch cannot be undone.".to_owned());
        if self.run.patchable().next().is_some() {
            steps.push(closes().to_owned());
        }
        steps
    }

    /// What its owner can type, where nobody but Backstop's settings are in the
    /// way.
    fn by_hand(&self) -> Section {
        let run = self.run;
        let online = run
            .detail
            .agent
            .as_ref()
            .is_some_and(crate::patching::Agent::is_online);
        let offered = matches!(
            run.head.status,
            Status::Notified
                | Status::Existing
                | Status::Tripped
                | Status::Stopped
                | Status::Pending
        );
        if !online || !offered || !self.is_sendable() {
            return Section::new("", Vec::new());
        }
        let (parameters, heading, lines) = match self.is_scan() {
            true => (
                r#"{"Operation":["Scan"]}"#.to_owned(),
                "How to scan it yourself",
                vec!["It changes nothing.".to_owned()],
            ),
            false => (
                format!(
                    r#"{{"Operation":["Install"],"RebootOption":["{}"]}}"#,
                    run.detail.reboot.option()
                ),
                "How to install the patches yourself",
                vec!["It installs every approved patch that is missing, and cannot be undone: take snapshots before.".to_owned()],
            ),
        };
        let command = self.aws(
            "ssm send-command",
            &[
                ("--document-name", &[DOCUMENT]),
                ("--instance-ids", &[run.resource_id()]),
                ("--parameters", &[parameters.as_str()]),
            ],
        );
        Section::next_step(heading, std::iter::once(command).chain(lines).collect())
    }

    /// How an instance is brought under management, by what it lacks.
    fn manage_it(&self) -> Section {
        let run = self.run;
        let id = run.resource_id();
        let lacks = &run.detail.lacks;
        let mut lines = Vec::new();
        if !self.is_unmanaged() && lacks.is_empty() {
            return Section::new("", lines);
        }
        if lacks.contains(&Need::Role) {
            lines.push(format!(
                "Role: {}",
                self.aws(
                    "ec2 associate-iam-instance-profile",
                    &[
                        ("--instance-id", &[id]),
                        (
                            "--iam-instance-profile",
                            &["Name=<a profile whose role has AmazonSSMManagedInstanceCore>"],
                        ),
                    ],
                )
            ));
        }
        if lacks.contains(&Need::Endpoint) {
            lines.push("Endpoint: give its VPC interface endpoints for the services ssm and ssmmessages of this Region, with private DNS, and let them in from the instance on TCP 443; or a route through a NAT gateway.".to_owned());
        }
        if lacks.contains(&Need::Agent) {
            lines.push("Agent, on the instance: sudo systemctl status amazon-ssm-agent (Windows: Get-Service AmazonSSMAgent). It says in its log what keeps it: /var/log/amazon/ssm/amazon-ssm-agent.log".to_owned());
        }
        lines.push(format!(
            "See whether it is online: {}",
            self.describe_agent()
        ));
        lines.push("Backstop does none of this: a role is a right that the workload gets. Once the instance is online, the next sweep looks at it again.".to_owned());
        Section::new("How it comes under Systems Manager", lines)
    }

    fn opt_out(&self) -> Section {
        let run = self.run;
        if matches!(run.head.status, Status::Exempt | Status::Held) {
            let key = match &run.head.exemption {
                Exemption::Malformed { key, .. } => key.as_deref(),
                _ => None,
            };
            let carrier = (run.resource_id(), key.unwrap_or(OPT_OUT_TAG));
            return end_opt_out(&run.head, [carrier]);
        }
        let mut lines = vec![opt_out_command(&run.head)];
        if self.is_sendable() {
            lines.push("An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one.".to_owned());
        }
        Section::next_step("How to opt out", lines)
    }

    // ----------------------------------------------------------------- for everybody

    /// The command, when it was sent, and what it came to.
    fn command_line(&self) -> Option<String> {
        let command = self.run.detail.command.as_ref()?;
        let ended = match &command.ended {
            Some(ended) => format!("ended as {}", or_unknown(Some(ended), MOST_ID)),
            None if self.run.head.status == Status::InProgress => "under way".to_owned(),
            None => "its end is not known".to_owned(),
        };
        Some(format!(
            "Command {}, sent at {}: {ended}.",
            one_line(&command.id, MOST_ID),
            time(command.at)
        ))
    }

    /// How to see what the command printed.
    fn output(&self) -> Section {
        let mut lines = Vec::new();
        if let Some(command) = &self.run.detail.command {
            lines.push(self.list_invocations(&command.id));
            // In chat the first lines are all there is.
            lines.extend(self.console(command));
            let stream = format!("{}/{}", command.id, self.run.resource_id());
            lines.push(format!(
                "All of it, if the instance's role lets its agent write there: {}",
                self.aws(
                    "logs filter-log-events",
                    &[
                        ("--log-group-name", &["/backstop/<stack>/patch-commands"]),
                        ("--log-stream-name-prefix", &[&stream]),
                    ],
                )
            ));
        }
        Section::next_step("How to see what the command printed", lines)
    }

    fn see_patches(&self) -> Section {
        Section::next_step(
            "How to see which patches are missing",
            vec![self.describe_patches("Missing,Failed")],
        )
    }

    /// How the snapshots lead back, where anything may have been installed.
    fn go_back(&self) -> Section {
        let run = self.run;
        let id = run.resource_id();
        let nothing_installed = self.is_scan()
            || run.detail.command.is_none()
            || (run.head.status == Status::Failed && self.failure() == Failure::NotRun);
        let mut lines = Vec::new();
        if !nothing_installed && !run.detail.snapshots.is_empty() {
            lines.push("Patches cannot be undone, not by `backstop undo` either. By hand, the volumes can be replaced by ones from the safety snapshots: what was written since is only on the old ones, so keep those. Opt the instance out first, or it is patched again.".to_owned());
            let filter = format!(
                "Name=attachment.instance-id,Values={}",
                one_line(id, MOST_ID)
            );
            lines.push(format!(
                "Zone, devices, types and IOPS: {}",
                self.aws(
                    "ec2 describe-volumes",
                    &[("--filters", &[&filter]), ("--output", &["table"])]
                )
            ));
            lines.extend(shortened(&run.detail.snapshots, MOST_LINES, |snapshot| {
                self.aws(
                    "ec2 create-volume",
                    &[
                        ("--availability-zone", &["<zone>"]),
                        ("--snapshot-id", &[snapshot]),
                        // Else EC2 makes a gp2 of it.
                        ("--volume-type", &["<type>"]),
                    ],
                )
            }));
            lines.push(format!(
                "DOWNTIME: {}",
                self.aws("ec2 stop-instances", &[("--instance-ids", &[id])])
            ));
            lines.push(format!(
                "Then, for each volume: {}",
                self.aws("ec2 detach-volume", &[("--volume-id", &["<old volume>"])])
            ));
            lines.push(self.aws(
                "ec2 attach-volume",
                &[
                    ("--volume-id", &["<new volume>"]),
                    ("--instance-id", &[id]),
                    ("--device", &["<device of the old one>"]),
                ],
            ));
            lines.push(self.aws("ec2 start-instances", &[("--instance-ids", &[id])]));
        }
        Section::next_step("How to go back to the snapshots", lines)
    }

    fn who(&self) -> Section {
        let actor = &self.run.head.actor;
        // A service calls from nowhere, with nothing. The lines of `who`: who, which
        // call, from where, with what.
        let is_known = [
            true,
            actor.event_name.is_some() || actor.event_time.is_some(),
            actor.source_address.is_some(),
            actor.user_agent.is_some(),
        ];
        let lines = who(actor).into_iter().zip(is_known);
        let lines = lines.filter_map(|(line, is_known)| is_known.then_some(line));
        Section::new(
            "Who or what led to it, as the event states",
            lines.collect(),
        )
    }

    fn good_to_know(&self) -> Section {
        let run = self.run;
        let mut lines = Vec::new();
        if let Some(manager) = &run.head.managed_by {
            lines.push(format!(
                "It is managed by {}: bring the patches into the image that it starts instances from as well, or the next one lacks them again.",
                one_line(manager, MOST_TEXT)
            ));
        }
        lines.extend(opt_out_notes(&run.head, "the instance"));
        Section::new("Good to know", lines)
    }

    // ---------------------------------------------------------------------- commands

    fn list_invocations(&self, command: &str) -> String {
        self.aws(
            "ssm list-command-invocations",
            &[
                ("--command-id", &[command]),
                ("--instance-id", &[self.run.resource_id()]),
                ("--details", &[]),
            ],
        )
    }

    fn list_commands(&self) -> String {
        let filter = format!("key=DocumentName,value={DOCUMENT}");
        self.aws(
            "ssm list-commands",
            &[
                ("--instance-id", &[self.run.resource_id()]),
                ("--filters", &[&filter]),
            ],
        )
    }

    /// Only this instance: a command is for several.
    fn cancel(&self, command: &str) -> String {
        self.aws(
            "ssm cancel-command",
            &[
                ("--command-id", &[command]),
                ("--instance-ids", &[self.run.resource_id()]),
            ],
        )
    }

    fn describe_patches(&self, states: &str) -> String {
        let filter = format!("Key=State,Values={states}");
        self.aws(
            "ssm describe-instance-patches",
            &[
                ("--instance-id", &[self.run.resource_id()]),
                ("--filters", &[&filter]),
            ],
        )
    }

    fn describe_agent(&self) -> String {
        let filter = format!(
            "Key=InstanceIds,Values={}",
            one_line(self.run.resource_id(), MOST_ID)
        );
        self.aws(
            "ssm describe-instance-information",
            &[("--filters", &[&filter])],
        )
    }

    /// The snapshots by their ids, or where those are not known or too many by
    /// the tag that all of them carry.
    fn list_snapshots(&self) -> String {
        let run = self.run;
        if (1..=SNAPSHOTS_IN_A_LINE).contains(&run.detail.snapshots.len()) {
            let ids: Vec<&str> = run.detail.snapshots.iter().map(String::as_str).collect();
            return self.aws("ec2 describe-snapshots", &[("--snapshot-ids", &ids)]);
        }
        let filter = format!("Name=tag:{ENTRY_TAG},Values={}", one_line(&run.head.id, 50));
        self.aws(
            "ec2 describe-snapshots",
            &[("--owner-ids", &["self"]), ("--filters", &[&filter])],
        )
    }

    fn aws(&self, operation: &str, options: &[Flag<'_>]) -> String {
        command(&self.run.head.region, operation, options)
    }
}

// ------------------------------------------------------------------------------ words

fn scan() -> &'static str {
    "The command AWS-RunPatchBaseline looks which approved patches are missing (operation Scan). It changes nothing, and the instance is not restarted."
}

fn everything() -> String {
    format!(
        "The command {DOCUMENT} (operation Install) installs EVERY approved patch that is missing, not only those for what was found."
    )
}

fn closes() -> &'static str {
    "Whether the holes are closed is for Inspector to say, which looks again within 24 hours after."
}

/// Whether an installation restarts the instance. AWS does not ask a patch
/// whether it needs that: with `RebootIfNeeded` anything that was installed is
/// followed by a restart.
fn restart(reboot: Reboot) -> String {
    match reboot {
        Reboot::Never => "NO RESTART of the instance. Packages may restart their own services while they are installed; a new kernel takes effect only when the owner restarts the instance.",
        Reboot::IfNeeded => "DOWNTIME: the instance RESTARTS once anything has been installed, or if an earlier patch waits for a restart. The command is sent inside a maintenance window of the policy; a long installation may end after it.",
    }
    .to_owned()
}

fn restarted(reboot: Reboot) -> &'static str {
    match reboot {
        Reboot::Never => {
            "The instance was not restarted. Packages may have restarted their own services."
        }
        Reboot::IfNeeded => "The instance was RESTARTED by the command, if anything was installed.",
    }
}

fn may_have_restarted(reboot: Reboot) -> &'static str {
    match reboot {
        Reboot::Never => restarted(reboot),
        Reboot::IfNeeded => "The instance may have RESTARTED: look whether its services run.",
    }
}

/// `openssl 3.0.7-1, mended in 3.0.7-2`.
fn package(package: &Package) -> String {
    let mut text = one_line(&package.name, 60);
    if let Some(version) = &package.version {
        text += &format!(" {}", one_line(version, 50));
    }
    if package.manager != OS {
        text += &format!(" ({})", one_line(&package.manager, 20));
    }
    match &package.fixed_in {
        Some(version) => {
            text += &format!(", mended in {}", one_line(version, 50));
            match package.subscription() {
                Some(subscription) => text + &format!(" (needs {subscription})"),
                None => text,
            }
        }
        None => text + ", no version mends it yet",
    }
}

/// `openssl.x86_64:3.0.7-2 (Security, Critical): CVE-2026-11111`.
fn patch(patch: &Patch) -> String {
    let mut text = one_line(&patch.title, 80);
    let kind: Vec<&String> = [&patch.classification, &patch.severity]
        .into_iter()
        .filter(|word| !word.trim().is_empty())
        .collect();
    if !kind.is_empty() {
        text += &format!(" ({})", joined(&kind, 2));
    }
    if !patch.cves.is_empty() {
        text += &format!(": {}", joined(&patch.cves, 3));
    }
    one_line(&text, 200)
}

/// `12 missing, 1 failed to install (Scan of 2026-11-28 01:00:00 UTC, baseline
/// pb-0123)`.
fn of_state(state: &PatchState) -> String {
    let mut text = format!("{} missing", state.missing);
    if state.failed > 0 {
        text += &format!(", {} failed to install", state.failed);
    }
    if state.pending_reboot > 0 {
        text += &format!(", {} installed and pending a restart", state.pending_reboot);
    }
    let mut source = or_unknown(Some(&state.operation), 30);
    if let Some(at) = state.ended_at {
        source += &format!(" of {}", time(at));
    }
    if let Some(baseline) = &state.baseline {
        source += &format!(", baseline {}", one_line(baseline, MOST_ID));
    }
    format!("{text} ({source})")
}
