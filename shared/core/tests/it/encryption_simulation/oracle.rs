//! What must hold, checked on what the simulated EC2 and its volumes know.
//!
//! Nothing here asks the step function, or helps itself to its reading of the
//! record: who made a volume, what was written to it and who stopped the
//! instance are the simulation's own facts.

use std::collections::BTreeSet;

use backstop_core::encryption::{Change, Encryption, Step};
use backstop_core::volumes::{REPLACED_BY_TAG, Volume};
use backstop_core::words::Status;

use super::caller::HORIZON;
use super::ec2::View;
use super::sim::{Call, Disk, INSTANCE, Kind, Sim, Who, device};

/// How long a hold, or that time is up, may go unheeded: as long as reads may
/// lag, and a step may have to show.
const HEED: i64 = 240;

/// What is remembered of a run.
#[derive(Default)]
pub(crate) struct Facts {
    /// Kinds of calls that took effect.
    pub(crate) calls: BTreeSet<Call>,
    /// Calls since the last look.
    pub(crate) calls_of_this: u32,
    /// Changes, by their keys, that EC2 said it would carry out.
    pub(crate) would_be_done: BTreeSet<String>,
    /// The run's stop was called, and when first.
    stop_called: Option<i64>,
    attach_called: BTreeSet<String>,
    /// The instance was up on copies, because of the run.
    ran_on_copies: bool,
    /// Since when a hold was seen that has to lead back.
    held_since: Option<i64>,
    /// Since when it was seen down for too long.
    overdue_since: Option<i64>,
    refused_starts: u32,
}

impl Sim {
    fn is_original(&self, id: &str) -> bool {
        self.stored.detail.volumes.iter().any(|v| v.id == id)
    }

    fn is_copy(&self, id: &str) -> bool {
        self.disks.get(id).is_some_and(|d| d.copy_of.is_some())
    }

    fn up(&self) -> bool {
        matches!(self.state(), "pending" | "running" | "stopping")
    }

    /// After every look.
    pub(crate) fn looked(&mut self, run: &Encryption, view: &View, step: &Step) {
        self.facts.calls_of_this = 0;
        let goes_on =
            run.detail.progress.back.is_none() && matches!(step, Step::Wait { .. } | Step::Do(_));
        let stopped_by_run = self
            .machine
            .as_ref()
            .is_some_and(|m| m.stopped_by == Some(Who::Run) && m.past.facts.state == "stopped");
        let waiting =
            goes_on && stopped_by_run && !self.meddled.started && self.plan.kind == Kind::Swap;

        // A hold after the stop leads back.
        let held = waiting && view.hold.is_some() && !self.facts.ran_on_copies;
        self.facts.held_since = held.then(|| self.facts.held_since.unwrap_or(self.now));
        if let Some(since) = self.facts.held_since
            && self.now - since > HEED
        {
            self.fail(format!(
                "a hold is not heeded for {} seconds",
                self.now - since
            ));
        }

        // So does the end of the time that it may be down.
        let longest = i64::from(self.plan.max_downtime_minutes) * 60;
        let late = self
            .facts
            .stop_called
            .is_some_and(|at| self.now - at > longest);
        self.facts.overdue_since =
            (waiting && late).then(|| self.facts.overdue_since.unwrap_or(self.now));
        if let Some(since) = self.facts.overdue_since
            && self.now - since > HEED
        {
            self.fail("the instance is down for too long, and the run goes on".to_owned());
        }
    }

    /// When a change is written down: from then on it may have been made.
    pub(crate) fn written_ahead(&mut self, change: &Change) {
        match change {
            Change::Stop { .. } => {
                self.facts.stop_called.get_or_insert(self.now);
            }
            Change::Attach { volume, .. } => {
                self.facts.attach_called.insert(volume.clone());
            }
            _ => {}
        }
    }

    /// Before a call is made: what the run must have seen.
    pub(crate) fn before_call(&mut self, run: &Encryption, change: &Change, view: &View) {
        if self.facts.calls_of_this > 1 {
            self.fail("more than one change in one invocation".to_owned());
        }
        let back = run.detail.progress.back.is_some();
        if let Change::Stop { back: false } = change {
            self.check_stop(view);
        }
        if let Change::Start { back: false } = change
            && view.hold.is_some()
            && !self.facts.ran_on_copies
            && !self.meddled.started
        {
            self.fail("started on copies in spite of a hold".to_owned());
        }
        if let Change::Detach { volume } = change
            && !back
            && self.is_original(volume)
        {
            self.check_copies_ready();
            if self.facts.stop_called.is_none() {
                self.check_ahead("a volume is detached", false);
            }
        }
    }

    /// Before something is stopped or moved, EC2 said that it would carry out
    /// what follows.
    fn check_ahead(&mut self, what: &str, starts: bool) {
        let mut needs: Vec<(String, Option<Call>)> = Vec::new();
        if starts {
            needs.push(("start".to_owned(), Some(Call::Start)));
        }
        for original in &self.stored.detail.volumes {
            let id = &original.id;
            needs.push((format!("detach {id}"), Some(Call::Detach)));
            needs.push((format!("attach {id}"), Some(Call::Attach)));
            if original.attachments[0].delete_on_termination {
                needs.push((format!("termination {id}"), Some(Call::KeepOrDelete)));
            }
            let copied = self.facts.would_be_done.contains(&format!("copy {id}"));
            let how = if copied { "copy" } else { "create" };
            needs.push((format!("{how} {id}"), None));
        }
        for (key, call) in needs {
            if !self.facts.would_be_done.contains(&key) {
                self.fail(format!("{what} before `{key}` was asked for"));
            }
            if call.is_some_and(|call| self.denied(call).is_some()) {
                self.fail(format!("{what} although `{key}` is denied"));
            }
        }
    }

    fn check_stop(&mut self, view: &View) {
        if self.plan.kind != Kind::Swap {
            self.fail("an instance is stopped that somebody else has to stop".to_owned());
        }
        let of_day = self.now.rem_euclid(86400);
        // What was decided in the window may be called a moment after.
        if let Some((from, to)) = self.plan.window
            && !(from..to + 15).contains(&of_day)
        {
            self.fail("an instance is stopped outside the window".to_owned());
        }
        let forbids = view
            .instance
            .as_ref()
            .is_none_or(|i| i.stop_protected || i.tags.contains_key("aws:autoscaling:groupName"));
        if view.hold.is_some() || view.key_problem.is_some() || forbids {
            self.fail("an instance is stopped in spite of what forbids it".to_owned());
        }
        self.check_ahead("an instance is stopped", true);
    }

    /// Before an original goes, encrypted copies of all of them are there.
    fn check_copies_ready(&mut self) {
        let mut missing = Vec::new();
        for original in &self.stored.detail.volumes {
            let there = self.disks.get(&original.id).map(|d| &d.past.facts);
            let ready = self.disks.values().any(|d| {
                let copy = &d.past.facts;
                d.copy_of.as_ref() == Some(&original.id)
                    && copy.encrypted
                    && matches!(copy.state.as_str(), "available" | "in-use")
                    && alike(copy, original)
            });
            if !ready && there.is_some() {
                missing.push(original.id.clone());
            }
        }
        if !missing.is_empty() && !self.meddled.deleted && !self.meddled.moved {
            self.fail(format!(
                "detached before there are fit copies of {missing:?}"
            ));
        }
    }

    /// Before a call takes effect: what it is about.
    pub(crate) fn before_effect(&mut self, change: &Change) {
        let ours = |id: &str| self.is_original(id) || self.is_copy(id);
        let fits = match change {
            Change::Snapshot { volume, .. }
            | Change::Copy { volume }
            | Change::Create { volume, .. }
            | Change::TagReplaced { volume, .. } => self.is_original(volume),
            Change::Detach { volume }
            | Change::Attach { volume, .. }
            | Change::KeepOrDelete { volume, .. } => ours(volume),
            Change::DeleteCopy { copy } => self.is_copy(copy) && !self.is_original(copy),
            Change::Stop { .. } | Change::Start { .. } | Change::DryRun(_) => true,
        };
        if !fits {
            self.fail(format!("touches what is not the run's: {}", change.key()));
        }
        match change {
            Change::DeleteCopy { copy } if self.disks.get(copy).is_some_and(|d| d.was_attached) => {
                self.fail(format!("deletes {copy}, which was attached"));
            }
            Change::Copy { volume } | Change::Create { volume, .. }
                if self.up()
                    && !self.meddled.started
                    && self.plan.kind != Kind::Unattached
                    // What comes late, when the run has gone back, is of no use.
                    && self.stored.detail.progress.back.is_none() =>
            {
                self.fail(format!("copies {volume} while it may be written to"));
            }
            Change::Start { .. } if self.facts.stop_called.is_none() => {
                self.fail("starts an instance that it did not stop".to_owned());
            }
            Change::Start { back: false } if self.state() == "stopped" => {
                self.check_devices("at a start on copies", true);
            }
            Change::Start { back: true }
                if self.state() == "stopped" && !self.facts.ran_on_copies =>
            {
                self.check_devices("at a start on originals", false);
            }
            _ => {}
        }
    }

    /// What the instance is given holds everything that it ever wrote.
    fn check_devices(&mut self, when: &str, copies: bool) {
        if self.meddled.moved || self.meddled.deleted || self.plan.kind == Kind::Undo {
            return;
        }
        let mut wrong = Vec::new();
        for original in &self.stored.detail.volumes {
            let name = &original.attachments[0].device;
            let n = device(name).unwrap();
            match self.at_device(n) {
                Some(disk) if !disk.content.holds(n, self.writes[n]) => {
                    // Raced by somebody's start, back, on copies of their own.
                    if copies || !self.meddled.started {
                        wrong.push(format!("{name} lacks writes"));
                    }
                }
                Some(disk) if copies && disk.copy_of.is_none() => {
                    wrong.push(format!("{name} is no copy"));
                }
                Some(_) => {}
                None => wrong.push(format!("{name} is missing")),
            }
        }
        if !wrong.is_empty() {
            self.fail(format!("{when}: {}", wrong.join(", ")));
        }
    }

    pub(crate) fn after_effect(&mut self, change: &Change) {
        if let Change::Start { back: false } = change {
            self.facts.ran_on_copies = true;
        }
    }

    /// After an answer is stored: a start with the originals that is refused
    /// again and again is told.
    pub(crate) fn after_answer(&mut self, call: Call, refused: bool) {
        if call != Call::StartBack {
            return;
        }
        self.facts.refused_starts = if refused {
            self.facts.refused_starts + 1
        } else {
            0
        };
        if self.facts.refused_starts >= 4 && self.stored.detail.progress.attention.is_none() {
            self.fail("nobody is told that the instance cannot be started".to_owned());
        }
    }

    /// After a copy is made: there is no other.
    pub(crate) fn one_copy(&mut self, of: &str) {
        let live = self
            .disks
            .values()
            .filter(|d| d.copy_of.as_deref() == Some(of) && d.past.facts.exists());
        if live.count() > 1 && !self.meddled.untagged {
            self.fail(format!("two copies of {of} at once"));
        }
    }

    // ------------------------------------------------------------- the end

    /// A run that does not end keeps trying to start the instance, and somebody
    /// knows.
    pub(crate) fn at_horizon(&mut self) {
        self.count("never ended");
        let refused = self.plan.capacity_from > HORIZON
            || self.meddled.moved
            || self.meddled.deleted
            || self.meddled.untagged;
        let told = self.stored.detail.progress.attention.is_some();
        if !(self.state() == "stopped" && refused && told) {
            self.fail("it does not end".to_owned());
        }
    }

    pub(crate) fn at_end(&mut self) {
        let status = self.stored.head.status;
        self.count(status.name());
        let fits = match status {
            Status::Remediated => self.plan.kind != Kind::Undo,
            Status::RolledBack | Status::NeedsPerson => true,
            Status::Refused | Status::Pending => self.plan.kind != Kind::Undo,
            _ => false,
        };
        if !fits {
            self.fail(format!("it ends {}", status.name()));
        }
        let calm = match self.plan.kind {
            Kind::Undo => Status::RolledBack,
            _ => Status::Remediated,
        };
        if self.plan.is_calm() && status != calm {
            self.fail(format!(
                "nothing was in the way, and it ends {}",
                status.name()
            ));
        }
        if self.plan.is_calm() && self.stored.detail.progress.attention.is_some() {
            self.fail("nothing was in the way, and somebody is called".to_owned());
        }
        if self.stored.detail.instance_gone && !self.meddled.terminated {
            self.fail("nobody terminated the instance, and it is said to be gone".to_owned());
        }
        self.check_running();
        self.check_nothing_lost();
        match self.plan.kind {
            Kind::Unattached => self.check_unattached(),
            _ if self.meddled.terminated => {}
            _ if status == Status::Remediated => self.check_swapped(),
            _ => self.check_as_before(),
        }
        self.check_left_overs();
    }

    fn check_running(&mut self) {
        let by_run = self
            .machine
            .as_ref()
            .is_some_and(|m| m.stopped_by == Some(Who::Run));
        let down = matches!(self.state(), "stopping" | "stopped");
        if by_run && down {
            self.fail("it ends with the instance that it stopped still down".to_owned());
        }
    }

    /// Every write is on a volume that is still there.
    fn check_nothing_lost(&mut self) {
        if self.meddled.deleted || self.meddled.terminated {
            return;
        }
        let originals = self.stored.detail.volumes.clone();
        for original in originals {
            let Some(disk) = self
                .disks
                .get(&original.id)
                .filter(|d| d.past.facts.exists())
            else {
                self.fail(format!("{} is gone", original.id));
                continue;
            };
            let Some(n) = original.attachments.first().and_then(|a| device(&a.device)) else {
                continue;
            };
            let mut all = disk.content.clone();
            for copy in self.disks.values() {
                if copy.copy_of.as_ref() == Some(&original.id) && copy.past.facts.exists() {
                    all.add(&copy.content);
                }
            }
            if !all.holds(n, self.writes[n]) {
                self.fail(format!("writes to {} are nowhere any more", original.id));
            }
        }
    }

    /// Every volume is replaced by a copy that is like it, and lacks nothing.
    fn check_swapped(&mut self) {
        if self.meddled.moved || self.meddled.deleted {
            return;
        }
        let mut wrong = Vec::new();
        for original in &self.stored.detail.volumes {
            let was = &original.attachments[0];
            let n = device(&was.device).unwrap();
            let Some(disk) = self.at_device(n) else {
                wrong.push(format!("nothing is at {}", was.device));
                continue;
            };
            let copy = &disk.past.facts;
            let now = copy.attachment_to(INSTANCE);
            if !copy.encrypted || disk.copy_of.as_ref() != Some(&original.id) {
                wrong.push(format!("{} is no encrypted copy", was.device));
            }
            if !alike(copy, original) || (!self.meddled.untagged && !carries_tags(copy, original)) {
                wrong.push(format!("the copy {} differs", copy.id));
            }
            if now.is_none_or(|a| a.delete_on_termination != was.delete_on_termination) {
                wrong.push(format!("{} goes otherwise at termination", copy.id));
            }
            if !disk.content.holds(n, self.writes[n]) {
                wrong.push(format!("the copy {} lacks writes", copy.id));
            }
            let replaced = self.disks.get(&original.id);
            let tag = replaced.and_then(|d| d.past.facts.tags.get(REPLACED_BY_TAG));
            if tag != Some(&copy.id) {
                wrong.push(format!("{} is not tagged as replaced", original.id));
            }
        }
        if !wrong.is_empty() {
            self.fail(format!("it ends remediated, and {}", wrong.join(", ")));
        }
    }

    /// Every original is attached as it was; where others started the instance
    /// in the middle, it or its copy.
    fn check_as_before(&mut self) {
        if self.meddled.moved || self.meddled.deleted {
            return;
        }
        // Where AWS or others would not let it go back, a person is told.
        let denied = self.plan.denied.is_some()
            || self.plan.refused + self.plan.lost + self.plan.killed > 0
            || self.meddled.untagged
            || self.has_endless_opt_out()
            || self
                .machine
                .as_ref()
                .is_some_and(|m| m.past.facts.stop_protected);
        if denied && self.stored.head.status == Status::NeedsPerson {
            return;
        }
        // Who looks again only long after the start finds it not well, with
        // hours of writes on its copies: it stays on them, and that is told.
        let looked_late = self.plan.gaps > 0
            && self.stored.head.status == Status::NeedsPerson
            && self.machine.as_ref().is_some_and(|m| m.past.facts.is_up());
        if self.meddled.started || looked_late {
            let missing = self.stored.detail.volumes.iter().find(|original| {
                let n = device(&original.attachments[0].device).unwrap();
                self.at_device(n).is_none()
            });
            if let Some(original) = missing {
                self.fail(format!(
                    "it ends with nothing in the place of {}",
                    original.id
                ));
            }
            return;
        }
        let mut wrong = Vec::new();
        for original in &self.stored.detail.volumes {
            let was = &original.attachments[0];
            let there = self.disks.get(&original.id);
            let now = there.and_then(|d| d.past.facts.attachment_to(INSTANCE));
            match now {
                None => wrong.push(format!("{} is not attached", original.id)),
                Some(now) if now.device != was.device || now.state != "attached" => {
                    wrong.push(format!("{} is not where it was", original.id));
                }
                Some(now) if now.delete_on_termination != was.delete_on_termination && !denied => {
                    wrong.push(format!("{} goes otherwise at termination", original.id));
                }
                Some(_) => {}
            }
        }
        if !wrong.is_empty() {
            self.fail(format!(
                "it ends {}, and {}",
                self.stored.head.status.name(),
                wrong.join(", ")
            ));
        }
    }

    fn check_unattached(&mut self) {
        let original = self.stored.detail.volumes[0].clone();
        if self.stored.head.status != Status::Remediated
            || self.meddled.moved
            || self.meddled.deleted
        {
            return;
        }
        let is_copy = |d: &&Disk| d.copy_of.as_ref() == Some(&original.id) && d.past.facts.exists();
        let copies: Vec<&Disk> = self.disks.values().filter(is_copy).collect();
        let fits = copies.iter().any(|d| {
            let copy = &d.past.facts;
            copy.encrypted
                && copy.state == "available"
                && alike(copy, &original)
                && (self.meddled.untagged || carries_tags(copy, &original))
                && self.disks[&original.id]
                    .past
                    .facts
                    .tags
                    .get(REPLACED_BY_TAG)
                    == Some(&copy.id)
        });
        if !fits || (copies.len() != 1 && !self.meddled.untagged) {
            self.fail("it ends remediated without a fit copy".to_owned());
        }
    }

    /// No copy that nothing uses is left, if it could be deleted.
    fn check_left_overs(&mut self) {
        let status = self.stored.head.status;
        let could = self.plan.denied.is_none()
            && self.plan.refused + self.plan.lost == 0
            && !self.meddled.untagged
            && !self.meddled.deleted
            && !self.meddled.moved;
        if status == Status::Remediated || !could || self.plan.kind == Kind::Undo {
            return;
        }
        let left: Vec<String> = self
            .disks
            .values()
            .filter(|d| d.copy_of.is_some() && !self.facts.attach_called.contains(&d.past.facts.id))
            .filter(|d| match d.past.facts.state.as_str() {
                "available" | "error" => true,
                // What hangs for hours cannot be deleted.
                "creating" => self.now - d.past.born() < 2 * 3600,
                _ => false,
            })
            .map(|d| d.past.facts.id.clone())
            .collect();
        if !left.is_empty() {
            self.fail(format!("it ends {}, and leaves {left:?}", status.name()));
        }
    }
}

fn alike(copy: &Volume, original: &Volume) -> bool {
    (copy.size, &copy.volume_type, copy.iops, copy.throughput)
        == (
            original.size,
            &original.volume_type,
            original.iops,
            original.throughput,
        )
}

fn carries_tags(copy: &Volume, original: &Volume) -> bool {
    let carried = |key: &str| !key.starts_with("aws:");
    let mut tags = original.tags.iter().filter(|(key, _)| carried(key));
    tags.all(|(key, value)| copy.tags.get(key) == Some(value))
        && !copy.tags.keys().any(|key| key.starts_with("aws:"))
}
