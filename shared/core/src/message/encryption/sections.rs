//! The sections of a message about an encryption: what was found, what is done
//! or why not, what it costs, what stays behind, how to stop it, to take it
//! back, to go on.
//!
//! What a person has to type at once is no next step: chat cuts those short.

use jiff::SignedDuration;

use super::made::{Copy, Part, down, moved};
use super::story::{Story, asks_for_a_person};
use crate::encryption::{Settings, Way};
use crate::exemption::{Exemption, OPT_OUT_TAG, opt_out_tags};
use crate::managers::{self, Kind};
use crate::message::story::{
    Flag, MANAGER, Section, command, end_opt_out, managed_by, opt_out_command, opt_out_notes,
    opt_out_until, owner, re_arm, sentence, terms, the_run, way_out, who, who_touched,
};
use crate::prose::{clause, counted, joined, one_line, or_unknown, shortened, time};
use crate::security_group::Tags;
use crate::volumes::{COPY_OF_TAG, ENTRY_TAG, REPLACED_BY_TAG, Volume};
use crate::words::Status;

/// Most volumes, and most reasons, in a section.
const MOST_LINES: usize = 10;
/// Most characters of an id.
const MOST_ID: usize = 100;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// The call that turns the account's setting off.
const TURNED_OFF: &str = "DisableEbsEncryptionByDefault";

impl<'a> Story<'a> {
    /// The sections, in the order of reading.
    pub(super) fn sections(&self) -> Vec<Section> {
        let run = self.run;
        let mut sections = if self.is_setting() {
            self.of_setting()
        } else if asks_for_a_person(run) {
            vec![
                self.needed_now(),
                self.what_is_where(),
                self.type_now(),
                self.found(),
            ]
        } else {
            match run.head.status {
                Status::InProgress if run.detail.undoes.is_some() => {
                    vec![self.goes_back(), self.found()]
                }
                Status::InProgress => vec![
                    self.found(),
                    self.will_be_done(),
                    self.costs(),
                    self.stop_it(),
                ],
                Status::Remediated => self.remediated(),
                Status::RolledBack if run.detail.undoes.is_some() => self.undone(),
                Status::NeedsPerson | Status::Failed => self.needs_person(),
                _ if self.began() => self.went_back(),
                _ => vec![self.found(), self.unchanged(), self.opt_out()],
            }
        };
        // Ahead of what can be done, but for what has to be done at once.
        let urgent = asks_for_a_person(run) || run.head.status == Status::NeedsPerson;
        let at = if urgent { sections.len() } else { 1 };
        sections.splice(at..at, self.manager());
        sections.push(self.who());
        sections.extend(self.good_to_know());
        sections.push(the_run(
            &run.head.resource,
            run.head.started_at,
            run.head.finished_at,
            run.head.attempts,
            run.head.policy_version,
        ));
        sections.retain(|section| !section.lines.is_empty());
        sections
    }

    /// The originals that were replaced and are kept.
    pub(super) fn originals_kept(&self) -> Vec<&Part<'a>> {
        let replaced = self.run.head.status == Status::Remediated;
        self.parts.iter().filter(|_| replaced).collect()
    }

    /// Whether anything was tried, or decided after the beginning.
    fn began(&self) -> bool {
        !self.run.detail.progress.tries.is_empty() || self.run.detail.progress.back.is_some()
    }

    // -------------------------------------------------------------- the finding

    fn found(&self) -> Section {
        let run = self.run;
        let mut lines = Vec::new();
        if let Some(instance) = &run.detail.instance {
            // What is taken back is not there before the end.
            let has = match run.detail.undoes.is_some() && run.is_open() {
                true => "which gets back".to_owned(),
                false => format!("has {}", self.some_volumes()),
            };
            lines.push(format!(
                "{}, {}, found {}, {has}:",
                self.unit(60),
                one_line(&instance.instance_type, 50),
                one_line(&instance.state, 50),
            ));
        }
        lines.extend(shortened(&self.parts, MOST_LINES, |part| {
            let at = match part.was_at() {
                Some(at) => one_line(&at.device, MOST_ID),
                None => "attached nowhere".to_owned(),
            };
            format!(
                "{}: {}, {at}, not encrypted",
                named(part.volume),
                make(part.volume)
            )
        }));
        if run.is_open() {
            lines.extend(self.reasons());
        }
        Section::new(
            match run.head.status {
                Status::InProgress | Status::Remediated => "What was found",
                _ => "What is unencrypted",
            },
            lines,
        )
    }

    fn reasons(&self) -> Vec<String> {
        shortened(&self.run.detail.reasons, MOST_LINES, |why| {
            sentence(why, 2 * MOST_TEXT)
        })
    }

    fn steps(&self) -> Vec<String> {
        steps(
            self.run.detail.way,
            self.parts.len(),
            self.run.detail.kms_key.as_deref(),
        )
    }

    fn will_be_done(&self) -> Section {
        Section::new("What is done now", self.steps())
    }

    // ------------------------------------------------------------- the beginning

    fn costs(&self) -> Section {
        let default = Settings::default().max_downtime_minutes;
        let mut lines = match self.run.detail.way {
            Way::Unattached => vec![
                "No downtime: it is attached nowhere.".to_owned(),
                "Please attach it only after the message about the end. If somebody does before, the run ends without a change to it.".to_owned(),
            ],
            Way::WhenStopped => vec![
                "No downtime of Backstop's making: somebody stopped the instance, and it stays stopped.".to_owned(),
                "Please start it only after the message about the end. Started before its volumes are detached, the run goes back; started in the middle of that, a person has to look at it.".to_owned(),
            ],
            Way::Swap => vec![
                format!(
                    "DOWNTIME: the instance is stopped while its volumes are copied and replaced. Once that has taken as long as the policy's `max_downtime_minutes` says ({default} unless it says otherwise), it goes back to its original volumes, which takes some minutes more."
                ),
                "A stop cannot be undone: open connections end, and what is only in memory is lost.".to_owned(),
                "Please neither start, stop nor change it meanwhile.".to_owned(),
            ],
            Way::AccountSetting => Vec::new(),
        };
        let address = self
            .run
            .detail
            .instance
            .as_ref()
            .and_then(|i| i.auto_public_ipv4.as_deref());
        if let Some(address) = address.filter(|_| self.stops()) {
            lines.push(format!(
                "Its public IPv4 address {} is released by the stop, and it gets another one.",
                one_line(address, 50)
            ));
        }
        lines.push(format!(
            "Copies ({}) and snapshots are paid for beside the originals. The message about the end says what stays behind.",
            size(self.parts.iter().map(|part| part.volume))
        ));
        Section::new("What it costs you", lines)
    }

    fn stop_it(&self) -> Section {
        let (either, then) = match self.run.detail.way {
            Way::Swap => (
                "the instance or one of its volumes",
                "Until the instance is started on its copies, either makes the run go back: the originals are attached as before, and the instance is started.",
            ),
            Way::WhenStopped => (
                "the instance or one of its volumes",
                "Until all copies are in place, either makes the run go back: the originals are attached as before.",
            ),
            Way::Unattached | Way::AccountSetting => (
                "the volume",
                "Until the volume is tagged as replaced, either ends the run, and the copy is deleted.",
            ),
        };
        Section::next_step(
            "How to stop it now",
            vec![
                opt_out_command(&self.run.head),
                format!("That tags {either}. Or everything: backstop kill-switch on"),
                then.to_owned(),
            ],
        )
    }

    /// What begins when somebody asks for it to be taken back.
    fn goes_back(&self) -> Section {
        let mut lines = vec![self.takes_back()];
        if self.alone() {
            lines.push("Nothing is attached or detached.".to_owned());
        } else {
            lines.push(match self.stops() {
                true => "DOWNTIME: the instance is stopped, the copies are detached, the originals attached in their place, and it is started again. That usually takes some minutes; `max_downtime_minutes` does not end it.".to_owned(),
                false => "The copies are detached and the originals attached in their place. The instance stays stopped.".to_owned(),
            });
            lines.push("What was written to the copies since they were put in place stays on them; the originals do not have it.".to_owned());
            lines.push(
                "Neither an opt-out nor the kill switch stops it: the way back always goes on."
                    .to_owned(),
            );
        }
        lines.extend(self.reasons());
        Section::new("What is done now", lines)
    }

    fn takes_back(&self) -> String {
        format!(
            "Somebody asked for the encryption {} to be taken back.",
            one_line(self.run.detail.undoes.as_deref().unwrap_or("-"), 50)
        )
    }

    // ------------------------------------------------------------------- the end

    fn remediated(&self) -> Vec<Section> {
        let mut sections = vec![self.done()];
        sections.extend(self.key_users());
        sections.extend([self.stays(), self.delete_it(), self.take_back()]);
        sections
    }

    fn done(&self) -> Section {
        let mut lines = shortened(&self.parts, MOST_LINES, |part| {
            let copy = copy_of(part);
            let of = named(part.volume);
            match part.was_at() {
                Some(at) => format!(
                    "{}: {of}, {}, was replaced by its encrypted copy {copy}.",
                    one_line(&at.device, MOST_ID),
                    make(part.volume)
                ),
                None => format!("{of}, {}: its encrypted copy is {copy}.", make(part.volume)),
            }
        });
        lines.extend(self.reasons());
        match &self.run.detail.instance {
            None => lines.push(
                "Attach the copy from now on: whoever attaches the original works on unencrypted data again."
                    .to_owned(),
            ),
            Some(_) => lines.push(self.how_it_runs()),
        }
        Section::new("What was done", lines)
    }

    /// Whether the instance runs on its copies, as far as is known.
    fn how_it_runs(&self) -> String {
        match down(self.run) {
            None => "The instance was not started by Backstop, because it had not stopped it: unless somebody has started it since, it is still STOPPED, and whether it works with its copies shows when somebody starts it.".to_owned(),
            Some(down) => match (down.started_at, down.lasted()) {
                (Some(at), Some(lasted)) => format!(
                    "The instance was stopped at {} and started on its copies at {} ({}). The run ended once it had passed its status checks, or somebody had stopped it again.",
                    time(down.stopped_at),
                    time(at),
                    minutes(lasted)
                ),
                _ => format!(
                    "The instance was stopped at {}; when it was started again is not known: look whether it runs.",
                    time(down.stopped_at)
                ),
            },
        }
    }

    /// Who needs the customer's key from now on.
    fn key_users(&self) -> Option<Section> {
        let key = self.run.detail.kms_key.as_deref()?;
        let mut lines = vec![format!(
            "The copies are encrypted with {}.",
            one_line(key, MOST_TEXT)
        )];
        lines.push(match self.alone() {
            true => "Whoever attaches them".to_owned(),
            false => "Whoever starts the instance".to_owned(),
        } + " (people, schedulers, pipelines) needs on this key: kms:CreateGrant (may be limited to kms:GrantIsForAWSResource), kms:Decrypt, kms:DescribeKey, kms:GenerateDataKeyWithoutPlaintext, kms:ReEncrypt*.");
        if !self.alone() {
            lines.push("Without them the instance stops again right after its start, with Client.InternalError. Grant them before the next start.".to_owned());
        }
        Some(Section::new("Who needs the KMS key now", lines))
    }

    /// What goes on costing money.
    fn stays(&self) -> Section {
        let originals = self.originals_kept();
        let mut lines = shortened(&originals, MOST_LINES, |part| {
            format!(
                "The original {}: {}, kept, STILL UNENCRYPTED, tagged {REPLACED_BY_TAG}={}",
                named(part.volume),
                make(part.volume),
                copy_of(part)
            )
        });
        if originals.is_empty() {
            lines.extend(shortened(self.copies_kept(), MOST_LINES, |(part, copy)| {
                let why = match (copy.attached, &copy.undeletable) {
                    (true, _) => {
                        "it was attached, so it is kept: it may hold what was written since"
                            .to_owned()
                    }
                    (false, Some(why)) => {
                        format!("it could not be deleted: {}", clause(why, MOST_TEXT))
                    }
                    (false, None) => "never attached".to_owned(),
                };
                format!(
                    "The encrypted copy {} of {}: {}; {why}.",
                    one_line(copy.id, MOST_ID),
                    one_line(&part.volume.id, MOST_ID),
                    make(part.volume)
                )
            }));
        }
        let snapshots = self.snapshots();
        lines.extend(shortened(&snapshots, MOST_LINES, |(part, id)| {
            format!(
                "The snapshot {} of {}: up to {} GiB, as unencrypted as the volume.",
                one_line(id, MOST_ID),
                one_line(&part.volume.id, MOST_ID),
                part.volume.size
            )
        }));
        if !lines.is_empty() {
            let volumes: Vec<&Volume> = match originals.is_empty() {
                false => originals.iter().map(|part| part.volume).collect(),
                true => self
                    .copies_kept()
                    .iter()
                    .map(|(part, _)| part.volume)
                    .collect(),
            };
            let mut costs = Vec::new();
            if !volumes.is_empty() {
                costs.push(format!("{} of volumes at their full size", size(volumes)));
            }
            if !snapshots.is_empty() {
                costs.push(format!(
                    "the blocks in {}",
                    counted(snapshots.len(), "snapshot")
                ));
            }
            lines.push(format!(
                "AWS charges for {} until somebody deletes them. Backstop deletes none of it by itself{}.",
                costs.join(", and for "),
                match originals.is_empty() {
                    true => "",
                    false => ", unless the policy's `originals.delete_after_days` says so",
                }
            ));
        }
        Section::new("What stays behind, and costs money", lines)
    }

    fn delete_it(&self) -> Section {
        let originals: Vec<&str> = self
            .originals_kept()
            .iter()
            .map(|part| part.volume.id.as_str())
            .collect();
        let copies: Vec<&str> = match originals.is_empty() {
            true => self.copies_kept().iter().map(|(_, copy)| copy.id).collect(),
            false => Vec::new(),
        };
        let snapshots: Vec<&str> = self.snapshots().iter().map(|(_, id)| *id).collect();
        let mut lines = Vec::new();
        if !originals.is_empty() {
            lines
                .push("Once you are sure of the copies; after that nothing leads back:".to_owned());
        } else if !copies.is_empty() {
            lines.push("Once you have looked at what is on the copies:".to_owned());
        }
        lines.extend(shortened(
            originals.iter().chain(&copies),
            MOST_LINES,
            |id| self.ec2("delete-volume", &[("--volume-id", &[id])]),
        ));
        lines.extend(shortened(&snapshots, MOST_LINES, |id| {
            self.ec2("delete-snapshot", &[("--snapshot-id", &[id])])
        }));
        if !originals.is_empty() {
            lines.push(
                "Or let the sweep delete originals (not snapshots) after so many days, in the policy: {\"controls\": {\"unencrypted-volume\": {\"settings\": {\"originals\": {\"delete_after_days\": 30}}}}}"
                    .to_owned(),
            );
        }
        Section::next_step("How to delete what stays behind", lines)
    }

    fn take_back(&self) -> Section {
        let undo = format!(
            "backstop undo {} --reason \"why it must be unencrypted\"",
            one_line(&self.run.head.id, 50)
        );
        let lines = match &self.run.detail.instance {
            None => vec![
                undo,
                "The original counts again, with an opt-out; its copy is kept. Nothing is attached or detached.".to_owned(),
            ],
            Some(_) => vec![
                undo,
                format!(
                    "The originals are attached again as they were {}: what was written since stays on the copies, which are kept.",
                    match &self.run.detail.progress.stopped {
                        Some(stopped) => format!("when the instance was seen stopped at {}", time(stopped.at)),
                        None => "when they were replaced".to_owned(),
                    }
                ),
                "DOWNTIME: an instance that runs is stopped and started for it.".to_owned(),
            ],
        };
        Section::next_step("How to take it back", lines)
    }

    fn undone(&self) -> Vec<Section> {
        let mut lines = vec![format!(
            "The encryption {} was taken back.",
            one_line(self.run.detail.undoes.as_deref().unwrap_or("-"), 50)
        )];
        if self.alone() {
            lines.push("Nothing was attached or detached.".to_owned());
        }
        lines.extend(shortened(&self.parts, MOST_LINES, |part| {
            let copy = part.copy().map_or_else(
                || format!("its copy (tag {COPY_OF_TAG}) is kept"),
                |copy| format!("its copy {} is kept", one_line(copy.id, MOST_ID)),
            );
            match part.was_at() {
                Some(at) => format!(
                    "{} is {} again, unencrypted; {copy}, with what was written since.",
                    named(part.volume),
                    one_line(&at.device, MOST_ID)
                ),
                None => format!("{} counts again, unencrypted; {copy}.", named(part.volume)),
            }
        }));
        lines.extend(self.state_after_the_way_back());
        vec![
            Section::new("Why", self.reasons()),
            Section::new("What was done", lines),
            self.stays(),
            self.delete_it(),
            Section::next_step(
                "How to have it encrypted again",
                vec![format!(
                    "The originals are opted out (tag {OPT_OUT_TAG}) until the day that the request gave. Remove the tag to end it sooner. Delete the copies, or take their tag {COPY_OF_TAG} away: while one is there, no second one is made."
                )],
            ),
        ]
    }

    /// A run that ended where it began.
    fn went_back(&self) -> Vec<Section> {
        let run = self.run;
        let mut done = Vec::new();
        if self.run.detail.instance_gone {
            done.push("The instance is gone: there is nothing to put back.".to_owned());
        } else if self.alone() {
            done.push("The volume itself was not changed.".to_owned());
        } else {
            let touched = |part: &&Part<'_>| {
                let copy = part.copy().and_then(|copy| moved(run, copy.id));
                moved(run, &part.volume.id).is_some() || copy.is_some()
            };
            let touched: Vec<&Part<'_>> = self.parts.iter().filter(touched).collect();
            if touched.is_empty() {
                done.push("No volume was detached.".to_owned());
            }
            done.extend(shortened(touched, MOST_LINES, |part| {
                format!(
                    "{} is attached as {} again.",
                    named(part.volume),
                    device(part)
                )
            }));
            done.extend(self.state_after_the_way_back());
        }
        let mut go_on = match run
            .detail
            .progress
            .back
            .as_ref()
            .is_some_and(|back| back.trip)
        {
            true => {
                let mut lines = vec![
                    "Backstop leaves it alone until a person re-arms it. Remove the cause first."
                        .to_owned(),
                ];
                lines.extend(self.denied_ahead());
                lines.push(re_arm(&run.head, true));
                lines
            }
            false => vec![
                match run.head.status {
                    Status::Pending => "Nothing has to be done: it is taken up again by itself.",
                    Status::Refused => "Remove the cause; the next sweep looks at it again.",
                    _ => "It is looked at again at once, as it is now.",
                }
                .to_owned(),
            ],
        };
        if !self.copies_kept().is_empty() {
            go_on.push(
                "Delete the copies first: while one is there, no second one is made.".to_owned(),
            );
        }
        go_on.push(format!(
            "Or opt it out: {}",
            opt_out_command(&self.run.head)
        ));
        let mut sections = vec![
            Section::new(
                match run.head.status {
                    Status::RolledBack => "Why it was taken back",
                    _ => "Why it did not go on",
                },
                self.reasons(),
            ),
            Section::new("How it is now", done),
        ];
        // Nothing is left of it that could be encrypted.
        let is_gone = run.detail.instance_gone;
        sections.extend((!is_gone).then(|| self.found()));
        sections.push(self.stays());
        sections.extend((!is_gone).then_some(Section::next_step("How to go on", go_on)));
        sections.push(self.delete_it());
        sections
    }

    /// What may deny a call that a dry run asked for, where that is why.
    fn denied_ahead(&self) -> Option<String> {
        let refused = self.run.refused_dry_runs();
        let denied = refused.contains("UnauthorizedOperation");
        (self.run.head.status == Status::Refused && denied).then(|| {
            "What may deny it: the policy of the role of encrypt-volume (compare it with the stack's template), a permissions boundary, a service control policy. AWS's message may hold more, for: aws sts decode-authorization-message --encoded-message <the text after `Encoded authorization failure message`>".to_owned()
        })
    }

    fn state_after_the_way_back(&self) -> Option<String> {
        if self.alone() {
            return None;
        }
        Some(match down(self.run) {
            None => "Backstop did not stop the instance, and did not start it.".to_owned(),
            Some(down) => match (down.started_at, down.lasted()) {
                (Some(at), Some(lasted)) => format!(
                    "The instance was stopped at {} and last started at {} ({}).",
                    time(down.stopped_at),
                    time(at),
                    minutes(lasted)
                ),
                _ => format!(
                    "The instance was asked to stop at {}; a start by Backstop is not known: look whether it runs.",
                    time(down.stopped_at)
                ),
            },
        })
    }

    // ------------------------------------------------------------------- a person

    fn needed_now(&self) -> Section {
        let attention = self
            .run
            .detail
            .progress
            .attention
            .as_deref()
            .unwrap_or_default();
        let mut lines = vec![sentence(attention, 4 * MOST_TEXT)];
        if let Some(down) = down(self.run)
            && down.started_at.is_none()
        {
            lines.push(format!(
                "The instance was stopped at {}.",
                time(down.stopped_at)
            ));
        }
        if let Some(back) = &self.run.detail.progress.back {
            lines.push(format!(
                "The run goes back, because {}.",
                clause(&back.why, 2 * MOST_TEXT)
            ));
        }
        lines.push("The run goes on meanwhile, and takes up what you do by hand: a further message tells how it ended.".to_owned());
        Section::new("A person is needed now", lines)
    }

    fn needs_person(&self) -> Vec<Section> {
        let run = self.run;
        let mut why = self.reasons();
        if let Some(undoes) = &run.detail.undoes {
            why.push(format!("It was to take back {}.", one_line(undoes, 50)));
        }
        let mut go_on = Vec::new();
        if !self.run.detail.instance_gone {
            go_on.push(
                "Backstop leaves it alone until a person re-arms it, once all is in order:"
                    .to_owned(),
            );
            go_on.push(re_arm(&run.head, true));
        }
        if self.began() {
            go_on.push(format!(
                "AWS charges for what the run made until somebody deletes it: volumes and snapshots with the tag {ENTRY_TAG}={}.",
                one_line(&run.head.id, 50)
            ));
        }
        vec![
            Section::new("Why a person is needed", why),
            self.what_is_where(),
            self.type_now(),
            Section::next_step("How to go on", go_on),
        ]
    }

    /// Every volume with its copy and snapshots, and what the run last did to
    /// them.
    fn what_is_where(&self) -> Section {
        let place = |id: &str| match moved(self.run, id) {
            Some((true, at)) => format!(" (attached by the run at {})", time(at)),
            Some((false, at)) => format!(" (detached by the run at {})", time(at)),
            None => " (not moved)".to_owned(),
        };
        let mut lines = shortened(&self.parts, MOST_LINES, |part| {
            let id = part.volume.id.as_str();
            let was = match part.was_at() {
                Some(at) => one_line(&at.device, MOST_ID),
                None => "Attached nowhere".to_owned(),
            };
            let copy = match part.copy() {
                Some(copy) => format!(
                    "encrypted copy {}{}",
                    one_line(copy.id, MOST_ID),
                    place(copy.id)
                ),
                None => "no copy known".to_owned(),
            };
            let snapshots: Vec<&str> = part.snapshots.iter().map(|s| s.id).collect();
            let snapshots = match snapshots.is_empty() {
                true => "no snapshot known".to_owned(),
                false => format!("snapshots {}", joined(&snapshots, 2)),
            };
            format!(
                "{was}: original {}{}; {copy}; {snapshots}",
                one_line(id, MOST_ID),
                place(id)
            )
        });
        if let Some(instance) = &self.run.detail.instance {
            let found = one_line(&instance.state, 50);
            lines.push(match down(self.run) {
                None => format!("The instance was {found} before, and Backstop did not stop it."),
                Some(down) => format!(
                    "The instance was {found} before; the run stopped it at {}, and {}.",
                    time(down.stopped_at),
                    match down.started_at {
                        Some(at) => format!("last started it at {}", time(at)),
                        None => "no start of it succeeded".to_owned(),
                    }
                ),
            });
        }
        Section::new("What is where, as far as Backstop knows", lines)
    }

    /// The commands, one after the other.
    fn type_now(&self) -> Section {
        let run = self.run;
        let mut lines = Vec::new();
        let Some(instance) = run
            .detail
            .instance
            .as_ref()
            .filter(|_| !self.run.detail.instance_gone)
        else {
            let ids: Vec<&str> = self
                .parts
                .iter()
                .flat_map(|part| {
                    let copy = part.copy().map(|copy| copy.id);
                    std::iter::once(part.volume.id.as_str()).chain(copy)
                })
                .take(2 * MOST_LINES)
                .collect();
            if !ids.is_empty() {
                lines.push("See what is there:".to_owned());
                let filter = format!("Name=volume-id,Values={}", ids.join(","));
                lines.push(self.ec2(
                    "describe-volumes",
                    &[("--filters", &[&filter]), ("--output", &["table"])],
                ));
            }
            return Section::new("What to type", lines);
        };
        let id = instance.id.as_str();
        let filter = format!("Name=attachment.instance-id,Values={id}");
        lines.push("See what is attached, and whether the instance runs:".to_owned());
        lines.push(self.ec2(
            "describe-volumes",
            &[("--filters", &[&filter]), ("--output", &["table"])],
        ));
        lines.push(self.ec2(
            "describe-instance-status",
            &[("--include-all-instances", &[]), ("--instance-ids", &[id])],
        ));
        // An undo's own run has moved nothing at its beginning.
        let last = |id: &str, otherwise| {
            let undoes = run.detail.undoes.is_some().then_some(otherwise);
            moved(run, id).map(|(attached, _)| attached).or(undoes)
        };
        let back: Vec<(Option<&str>, Option<&Part<'_>>)> = self
            .parts
            .iter()
            .map(|part| {
                let copy = part.copy().map(|copy| copy.id);
                let copy = copy.filter(|copy| last(copy, true) == Some(true));
                let is_off = last(&part.volume.id, false) == Some(false);
                (copy, is_off.then_some(part))
            })
            .filter(|(copy, off)| copy.is_some() || off.is_some())
            .collect();
        if !back.is_empty() {
            lines.push("Only if the originals are to be used again. A copy that the instance ran on keeps what was written since; to use it instead, attach it in place of the original:".to_owned());
            lines.push(self.ec2("stop-instances", &[("--instance-ids", &[id])]));
            lines.push(self.ec2("wait instance-stopped", &[("--instance-ids", &[id])]));
        }
        for (copy, off) in back.iter().take(MOST_LINES) {
            if let Some(copy) = copy {
                lines.push(self.ec2("detach-volume", &[("--volume-id", &[copy])]));
                lines.push(self.ec2("wait volume-available", &[("--volume-ids", &[copy])]));
            }
            if let Some(part) = off {
                lines.push(self.ec2(
                    "attach-volume",
                    &[
                        ("--volume-id", &[&part.volume.id]),
                        ("--instance-id", &[id]),
                        ("--device", &[&device(part)]),
                    ],
                ));
            }
        }
        if back.len() > MOST_LINES {
            lines.push(format!(
                "and the same for {} more, see the ledger entry",
                back.len() - MOST_LINES
            ));
        }
        let go: Vec<String> = back
            .iter()
            .filter_map(|(_, off)| *off)
            .filter(|part| part.was_at().is_some_and(|at| at.delete_on_termination))
            .map(|part| one_line(&part.volume.id, MOST_ID))
            .collect();
        if instance.is_up() {
            lines.push(self.ec2("start-instances", &[("--instance-ids", &[id])]));
        }
        if !go.is_empty() {
            lines.push(format!(
                "What is attached by hand stays when the instance is terminated. Before, these went with it: {} (aws ec2 modify-instance-attribute sets it).",
                joined(&go, 5)
            ));
        }
        Section::new("What to type", lines)
    }

    // ------------------------------------------------------------- not changed

    /// Why nothing was changed, what to do about it, what would be done.
    fn unchanged(&self) -> Section {
        let run = self.run;
        let mut lines = vec!["Nothing was changed.".to_owned()];
        lines.extend(self.reasons());
        lines.extend(way_out(&run.head, run.detail.because.as_ref()));
        let control = run.head.control;
        let mut would = true;
        match run.head.status {
            Status::Notified => lines.push(match self.alone() {
                true => format!("To have it encrypted, set the mode `enforce` for {control}."),
                false => format!(
                    "To have it encrypted, set the mode `enforce` for {control}, and `attached` to `when-stopped` (at the next stop by somebody) or `swap` (Backstop stops it in a maintenance window)."
                ),
            }),
            Status::Exempt | Status::Held => would = false,
            Status::Existing | Status::Tripped | Status::Stopped => {}
            Status::Pending => lines.push(
                "It is taken up by itself then. Sooner: stop the instance yourself.".to_owned(),
            ),
            Status::Refused => {
                would = false;
                lines.extend(self.way_out());
            }
            _ => would = false,
        }
        if would && !run.detail.volumes.is_empty() {
            lines.push(
                match run.detail.way {
                    Way::Swap => "This would be done, with the policy's `attached` at `swap`:",
                    Way::WhenStopped => {
                        "This would be done, with the policy's `attached` at `when-stopped` or `swap`:"
                    }
                    Way::Unattached | Way::AccountSetting => "This would be done:",
                }
                .to_owned(),
            );
            lines.extend(self.steps());
        }
        Section::new(
            match run.head.status {
                Status::Refused => "Why it is not replaced, and what can be done",
                Status::Pending => "What it waits for",
                _ => "What was done",
            },
            lines,
        )
    }

    /// What can be done about what was refused, as far as the facts show it.
    fn way_out(&self) -> Vec<String> {
        let run = self.run;
        let is_of_fleet = |tags: &Tags| {
            let starts = ["aws:ec2:fleet-id", "aws:ec2spot:"];
            tags.keys()
                .any(|key| starts.iter().any(|start| key.starts_with(start)))
        };
        let any = |is: &dyn Fn(&Tags) -> bool| {
            let instance = run.detail.instance.iter().map(|i| &i.tags);
            let mut tags = instance.chain(run.detail.volumes.iter().map(|v| &v.tags));
            tags.any(is)
        };
        let mut lines = Vec::new();
        if any(&|tags| managers::auto_scaling_group(tags).is_some() || is_of_fleet(tags)) {
            lines.push("What groups and fleets start: set `Encrypted` in the block devices of the launch template, and replace the instances.".to_owned());
        }
        if any(&|tags| managers::tagged(tags, Kind::orchestrates).is_some()) {
            lines.push("Kubernetes: set `encrypted: \"true\"` in the StorageClass (for nodes in the launch template), and move the data or the nodes there.".to_owned());
        }
        if run.detail.volumes.iter().any(|v| v.multi_attach) {
            lines.push("Volumes of several instances: their owner has to stop all of them, copy, and attach the copy everywhere.".to_owned());
        }
        lines.push("Remove the cause, and the next sweep looks at it again (at once: backstop sweep). By hand: aws ec2 copy-volumes or a snapshot gives an encrypted copy, which is attached in place of the original while the instance is stopped.".to_owned());
        lines
    }

    fn opt_out(&self) -> Section {
        let run = self.run;
        if matches!(run.head.status, Status::Exempt | Status::Held) {
            let instance = run.detail.instance.iter().map(|i| (i.id.as_str(), &i.tags));
            let volumes = run.detail.volumes.iter().map(|v| (v.id.as_str(), &v.tags));
            let mut carriers: Vec<(&str, &str)> = instance
                .chain(volumes)
                .flat_map(|(id, tags)| opt_out_tags(tags).map(move |(key, _)| (id, key)))
                .collect();
            if carriers.is_empty() {
                carriers.push((run.resource_id(), OPT_OUT_TAG));
            }
            return end_opt_out(&run.head, carriers);
        }
        Section::next_step("How to opt out", vec![opt_out_command(&self.run.head)])
    }

    // ------------------------------------------------------- the account's setting

    fn of_setting(&self) -> Vec<Section> {
        let run = self.run;
        let region = one_line(&run.head.region, 50);
        let heading = match run.head.status {
            Status::Remediated => "What was found",
            _ => "What is off",
        };
        let found = vec![
            format!("EBS encryption by default was off in {region}: whoever created a volume there without asking for encryption got an unencrypted one."),
            "Volumes that were created meanwhile stay as they are: the control unencrypted-volume looks at them.".to_owned(),
        ];
        let on = format!(
            "By hand: {}",
            self.ec2("enable-ebs-encryption-by-default", &[])
        );
        let mut lines = Vec::new();
        match run.head.status {
            Status::InProgress => {
                lines.push("It is being turned on. Nothing that exists is touched.".to_owned())
            }
            Status::Remediated => {
                lines.push(
                    "It was turned on, and seen on. Nothing that exists was touched.".to_owned(),
                );
                lines.push("New volumes get the account's default KMS key. If that is a customer managed key, whoever creates volumes or starts instances needs kms:CreateGrant and kms:Decrypt on it.".to_owned());
            }
            Status::Failed | Status::NeedsPerson => {
                lines.extend(self.reasons());
                lines.push("Backstop tries again by itself and tells you once it is on. If that message does not come, turn it on.".to_owned());
                lines.push(on);
            }
            _ => {
                lines.push("Nothing was changed.".to_owned());
                lines.extend(self.reasons());
                match (run.head.status, &run.head.exemption) {
                    (Status::Exempt, Exemption::Exempt(opt_out)) => {
                        lines.push(format!("The policy exempts it {}.", terms(opt_out)));
                    }
                    (Status::Notified, _) => lines.push("In the mode `enforce` it would be turned on; nothing that exists would be touched.".to_owned()),
                    _ => lines.extend(way_out(&run.head, run.detail.because.as_ref())),
                }
                lines.push(on);
            }
        }
        let mut sections = vec![
            Section::new(heading, found),
            Section::new("What was done", lines),
        ];
        let exemption = format!(
            "{{\"controls\": {{\"encryption-by-default\": {{\"settings\": {{\"exemption\": {{\"until\": \"{}\", \"owner\": \"{}\", \"reason\": \"why\"}}}}}}}}}}",
            opt_out_until(&run.head),
            owner(run.head.team.as_deref())
        );
        if run.head.status == Status::Exempt {
            sections.push(Section::next_step(
                "How to end the exemption",
                vec![
                    "Remove `controls.encryption-by-default.settings.exemption` from the policy."
                        .to_owned(),
                ],
            ));
        } else {
            sections.push(Section::next_step(
                "How to exempt the account",
                vec![format!(
                    "An account has no tags; put this into the policy: {exemption}"
                )],
            ));
        }
        if run.head.status == Status::Remediated {
            sections.push(Section::next_step(
                "How to turn it off again",
                vec![format!(
                    "Exempt the account first, or it is turned on again. Then: {}",
                    self.ec2("disable-ebs-encryption-by-default", &[])
                )],
            ));
        }
        sections
    }

    // ---------------------------------------------------------------- for everybody

    fn manager(&self) -> Option<Section> {
        let manager = self.run.head.managed_by.as_deref()?;
        let line = match self.is_setting() {
            true => managed_by(manager),
            false => managed_volumes(manager),
        };
        Some(Section::new(MANAGER, vec![line]))
    }

    fn who(&self) -> Section {
        if self.run.detail.undoes.is_some() {
            return Section::new(
                "Who asked for it, as stated",
                vec![format!(
                    "Who: {}",
                    or_unknown(self.run.head.actor.caller().as_deref(), MOST_TEXT)
                )],
            );
        }
        let actor = &self.run.head.actor;
        match actor.event_name.as_deref() == Some(TURNED_OFF) && self.is_setting() {
            true => Section::new("Who turned it off, as the event states", who(actor)),
            false => who_touched(actor),
        }
    }

    fn good_to_know(&self) -> Option<Section> {
        let run = self.run;
        let mut lines = Vec::new();
        lines.extend(opt_out_notes(&run.head, "a part of it"));
        match &run.head.exemption {
            Exemption::Exempt(opt_out) if run.head.status != Status::Exempt => {
                lines.push(match run.detail.undoes.is_some() {
                    true => format!("What is put back is opted out {}.", terms(opt_out)),
                    false => format!("A tag opts a part of it out {}.", terms(opt_out)),
                });
            }
            _ => {}
        }
        if run.head.status == Status::Remediated && !self.alone() {
            lines.push("The ids of volumes have changed: whatever names the old ones (backups, alarms, stacks, scripts) has to name the new ones.".to_owned());
        }
        if run.head.status == Status::Remediated
            && !self.is_setting()
            && run.detail.kms_key.is_none()
        {
            lines.push("The copies have the account's default key for EBS. If that is a customer managed key, whoever starts the instance or attaches them needs kms:CreateGrant and kms:Decrypt on it.".to_owned());
        }
        lines.extend(shortened(
            &run.detail.progress.from_snapshot,
            MOST_LINES,
            |(volume, why)| {
                format!(
                    "The copy of {} is made from a snapshot: {}.",
                    one_line(volume, MOST_ID),
                    clause(why, MOST_TEXT)
                )
            },
        ));
        if let Some(attention) = run
            .detail
            .progress
            .attention
            .as_deref()
            .filter(|_| !run.is_open())
        {
            lines.push(format!(
                "Meanwhile a person had been called: {}",
                sentence(attention, 2 * MOST_TEXT)
            ));
        }
        if self.began() && !self.is_setting() {
            lines.push(format!(
                "Everything that the run made carries the tag {ENTRY_TAG}={}.",
                one_line(&run.head.id, 50)
            ));
        }
        (!lines.is_empty()).then_some(Section::new("Good to know", lines))
    }

    // --------------------------------------------------------------------- parts

    /// Copies that are still there, with their volumes.
    fn copies_kept(&self) -> Vec<(&Part<'a>, &Copy<'a>)> {
        let each = |part| -> Vec<(&Part<'a>, &Copy<'a>)> {
            let part: &Part<'a> = part;
            part.copies
                .iter()
                .filter(|copy| !copy.deleted)
                .map(|copy| (part, copy))
                .collect()
        };
        self.parts.iter().flat_map(each).collect()
    }

    fn snapshots(&self) -> Vec<(&Part<'a>, &'a str)> {
        self.parts
            .iter()
            .flat_map(|part| part.snapshots.iter().map(move |s| (part, s.id)))
            .collect()
    }

    /// A command of EC2.
    fn ec2(&self, operation: &str, options: &[Flag<'_>]) -> String {
        command(&self.run.head.region, &format!("ec2 {operation}"), options)
    }
}

/// Id and name.
fn named(volume: &Volume) -> String {
    let id = one_line(&volume.id, MOST_ID);
    match one_line(volume.name(), 60) {
        name if name == id || name.is_empty() => id,
        name => format!("{id} ({name})"),
    }
}

/// What becomes of replaced volumes that something manages.
#[must_use]
pub fn managed_volumes(manager: &str) -> String {
    format!(
        "{} Say `encrypted: true` there, or what it makes next is unencrypted again, and let it take over the copies before it is applied: applied as it is, it may replace a volume, an attachment or the whole instance by a new, empty one.",
        managed_by(manager)
    )
}

/// What is done (or would be) to a unit, in order.
#[must_use]
pub fn steps(way: Way, volumes: usize, kms_key: Option<&str>) -> Vec<String> {
    let (it, copies, they_are) = match volumes {
        1 => ("the volume", "an encrypted copy is", "it is"),
        _ => ("each volume", "encrypted copies are", "they are"),
    };
    let key = kms_key
        .map(|key| format!(" with the KMS key {}", one_line(key, MOST_TEXT)))
        .unwrap_or_default();
    let snapshot = format!("First a snapshot of {it} is taken and waited for.");
    let copy = |when: &str| {
        format!(
            "{when} {copies} made{key}: the same size, type, performance and tags. Nothing goes on until {they_are} seen encrypted."
        )
    };
    let swap = format!(
        "Then {it} is detached and its copy attached in its place, with its device name and what becomes of it at termination."
    );
    let kept = format!(
        "At last {it} is tagged {REPLACED_BY_TAG} with the id of its copy, and kept as it is."
    );
    match way {
        Way::Unattached => vec![snapshot, copy("Then"), kept],
        Way::WhenStopped => vec![
            snapshot,
            copy("Then"),
            swap,
            format!("{kept} The instance stays stopped."),
        ],
        Way::Swap => vec![
            format!("{snapshot} The instance runs on meanwhile."),
            "Then the instance is STOPPED, inside a maintenance window of the policy.".to_owned(),
            copy("While it is stopped,"),
            swap,
            "Then it is started, and has to pass its status checks; else it goes back to its original volumes.".to_owned(),
            kept,
        ],
        Way::AccountSetting => Vec::new(),
    }
}

/// `100 GiB gp3`.
fn make(volume: &Volume) -> String {
    format!("{} GiB {}", volume.size, one_line(&volume.volume_type, 50))
}

/// The sizes of volumes together.
fn size<'a>(volumes: impl IntoIterator<Item = &'a Volume>) -> String {
    let gib: i64 = volumes
        .into_iter()
        .map(|volume| i64::from(volume.size))
        .sum();
    format!("{gib} GiB")
}

fn device(part: &Part<'_>) -> String {
    part.was_at()
        .map_or_else(|| "unknown".to_owned(), |at| one_line(&at.device, MOST_ID))
}

/// The id of a volume's copy. What its making was not answered for is found by
/// its tag.
fn copy_of(part: &Part<'_>) -> String {
    part.copy().map_or_else(
        || {
            format!(
                "(the volume tagged {COPY_OF_TAG}={})",
                one_line(&part.volume.id, MOST_ID)
            )
        },
        |copy| one_line(copy.id, MOST_ID),
    )
}

/// `12 minutes`, to the minute.
fn minutes(lasted: SignedDuration) -> String {
    let minutes = usize::try_from((lasted.as_secs() + 30) / 60).unwrap_or(0);
    match minutes {
        0 => "less than a minute".to_owned(),
        minutes => counted(minutes, "minute"),
    }
}
