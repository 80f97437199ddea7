//! EC2, as far as a run sees it: calls, states that last, reads that lag.
//!
//! What it refuses on its own account is here; refusals without a cause, lost
//! replies and the like are the `caller`'s.

use std::collections::BTreeMap;

use backstop_core::encryption::{Change, Encryption, Hold, Purpose};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::volumes::{
    Attachment, COPY_OF_TAG, Checks, ENTRY_TAG, Instance, PURPOSE_TAG, REPLACED_BY_TAG, Snapshot,
    Volume,
};

use super::sim::{
    Call, Content, Disk, Event, Health, INSTANCE, Make, Past, RUN, Shot, Sim, Take, When, Who, at,
    device,
};

/// What one look shows.
pub(crate) struct View {
    pub(crate) instance: Option<Instance>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) not_made: BTreeMap<String, String>,
    pub(crate) hold: Option<Hold>,
    pub(crate) key_problem: Option<String>,
}

/// The record's revision, how much was ever changed, and the snapshots.
pub(crate) type Moment = (u64, usize, usize);

type Answered = Result<Option<String>, &'static str>;

/// Most seconds by which reads lag: of an instance, of a volume's state, of
/// what is new, of tags.
const LAGS: [i64; 4] = [10, 20, 30, 60];

impl Sim {
    fn lag(&mut self, most: i64) -> i64 {
        match self.plan.lags {
            true => self.rng.between(0, most),
            false => 0,
        }
    }

    /// What a look goes by, while nothing lags: as long as it stays the same,
    /// so does what is seen. None: something lags.
    pub(crate) fn moment(&self) -> Option<Moment> {
        let mut newest = i64::MIN;
        let mut versions = 0;
        let mut count = |(of, last): (usize, i64)| {
            versions += of;
            newest = newest.max(last);
        };
        self.machine.iter().for_each(|m| count(m.past.age()));
        self.disks.values().for_each(|d| count(d.past.age()));
        self.shots.values().for_each(|s| count(s.past.age()));
        count(self.hold.age());
        count(self.key_problem.age());
        let settled = !self.plan.lags || self.now - newest > 2 * LAGS[3];
        settled.then_some((self.stored.detail.revision, versions, self.shots.len()))
    }

    /// What a run sees: the originals, what it made, by id; copies and
    /// snapshots also by their tags.
    pub(crate) fn view(&mut self, run: &Encryption) -> View {
        let then = self.now - self.lag(LAGS[0]);
        let instance = self.machine.as_ref().map(|m| m.past.at(then).clone());
        let mut made: Vec<&str> = Vec::new();
        for (key, tries) in &run.detail.progress.tries {
            if let Some(id) = &tries.made
                && (key.starts_with("copy") || key.starts_with("create") || key.starts_with("snap"))
            {
                made.push(id);
            }
        }
        let lags = self.plan.lags;
        let now = self.now;
        let rng = &mut self.rng;
        let mut lag = |most: i64| if lags { rng.between(0, most) } else { 0 };
        let of_run = |id: &str| run.detail.volumes.iter().any(|v| v.id == id);
        let mut volumes = BTreeMap::new();
        for (id, disk) in &self.disks {
            let (state, new) = (now - lag(LAGS[1]), lag(LAGS[2]));
            let age = now - disk.past.born();
            let facts = disk.past.at(state);
            if facts.state == "deleted" {
                continue;
            }
            let tags = &disk.past.at(now - lag(LAGS[3])).tags;
            let by_id = (of_run(id) || made.contains(&id.as_str())) && age >= new;
            let by_tag = || age >= 2 * new && tags.get(COPY_OF_TAG).is_some_and(|of| of_run(of));
            if by_id || by_tag() {
                let mut volume = facts.clone();
                if volume.tags != *tags {
                    volume.tags.clone_from(tags);
                }
                volumes.insert(id.clone(), volume);
            }
        }
        let mut snapshots = BTreeMap::new();
        for (id, shot) in &self.shots {
            let (state, new) = (now - lag(LAGS[1]), lag(LAGS[3]));
            let age = now - shot.past.born();
            if age >= new || (made.contains(&id.as_str()) && age * 2 >= new) {
                snapshots.insert(id.clone(), shot.past.at(state).clone());
            }
        }
        let (hold, key) = (self.lag(LAGS[3]), self.lag(LAGS[2]));
        View {
            instance,
            volumes,
            snapshots,
            not_made: self.not_made.clone(),
            hold: self.hold.at(self.now - hold).clone(),
            key_problem: self.key_problem.at(self.now - key).clone(),
        }
    }

    /// Whether AWS denies a kind of call now, and how.
    pub(crate) fn denied(&self, call: Call) -> Option<&'static str> {
        let (denied, code, until) = self.plan.denied?;
        (denied == call && self.now < self.plan.begins + until).then_some(code)
    }

    /// Carries out a call of the run's.
    pub(crate) fn perform(&mut self, change: &Change) -> Answered {
        let call = Call::of(change);
        let answer = match change {
            Change::DryRun(of) => match self.denied(call).or(self.denied(Call::of(of))) {
                Some(code) => Err(code),
                None => self.would_be_done(of),
            },
            _ => {
                self.before_effect(change);
                match self.denied(call) {
                    Some(code) => Err(code),
                    None => self.carry_out(change),
                }
            }
        };
        match &answer {
            Ok(_) => {
                self.count(call.name());
                self.after_effect(change);
                if self.facts.calls.insert(call) {
                    for (when, other) in self.plan.others.clone() {
                        if let When::After(after, seconds) = when
                            && after == call
                        {
                            self.later(seconds, Event::Others(other));
                        }
                    }
                }
            }
            Err(code) => {
                self.count(code);
            }
        }
        self.say(|| format!("{}: {answer:?}", change.key()));
        answer
    }

    /// A dry run: EC2 looks at rights, and at what is named, but not at the state
    /// that it is in, nor at quotas.
    fn would_be_done(&mut self, change: &Change) -> Answered {
        let (volume, unknown_action) = match change {
            Change::Copy { volume } => (Some(volume), self.plan.copy),
            Change::Create { volume, .. } => (Some(volume), self.plan.create),
            Change::Detach { volume }
            | Change::Attach { volume, .. }
            | Change::KeepOrDelete { volume, .. } => (Some(volume), Make::Fine),
            _ => (None, Make::Fine),
        };
        let there = |id: &String| self.disks.get(id).is_some_and(|d| d.past.facts.exists());
        if unknown_action == Make::Refused("InvalidAction") {
            return Err("InvalidAction");
        }
        if !volume.is_none_or(there) {
            return Err("InvalidVolume.NotFound");
        }
        self.facts.would_be_done.insert(change.key());
        Ok(None)
    }

    fn carry_out(&mut self, change: &Change) -> Answered {
        match change {
            Change::DryRun(_) => Err("DryRunOperation"),
            Change::Snapshot { volume, purpose } => self.take(volume, *purpose),
            Change::Stop { .. } if self.has_endless_opt_out() => Err("UnauthorizedOperation"),
            Change::Stop { .. } => self.stop(Who::Run),
            Change::Start { .. } => self.start(Who::Run),
            Change::Copy { volume } => {
                let there = self.disks.get(volume).filter(|d| d.past.facts.exists());
                let Some(content) = there.map(|d| d.content.clone()) else {
                    return Err("InvalidVolume.NotFound");
                };
                self.make(volume, content, self.plan.copy, "copy")
            }
            Change::Create { volume, snapshot } => match self.shots.get(snapshot) {
                None => Err("InvalidSnapshot.NotFound"),
                Some(shot) if shot.past.facts.state != "completed" => Err("IncorrectState"),
                Some(shot) => {
                    let content = shot.content.clone();
                    self.make(volume, content, self.plan.create, "create")
                }
            },
            Change::DeleteCopy { copy } => self.delete(copy),
            Change::Detach { volume } => self.detach(volume, INSTANCE),
            Change::Attach { volume, device } => {
                self.attach(volume, INSTANCE, device)?;
                if let Some(disk) = self.disks.get_mut(volume) {
                    disk.was_attached = true;
                }
                Ok(None)
            }
            Change::KeepOrDelete {
                volume,
                device,
                delete,
            } => {
                let now = self.now;
                let disk = self.disks.get_mut(volume).ok_or("InvalidVolume.NotFound")?;
                let attachment = disk.past.facts.attachments.first_mut();
                let attachment = attachment
                    .filter(|a| {
                        a.instance == INSTANCE && a.device == *device && a.state == "attached"
                    })
                    .ok_or("InvalidInstanceAttributeValue")?;
                attachment.delete_on_termination = *delete;
                disk.past.keep(now);
                Ok(None)
            }
            Change::TagReplaced { volume, copy } => {
                let now = self.now;
                let disk = self.disks.get_mut(volume);
                let disk = disk
                    .filter(|d| d.past.facts.exists())
                    .ok_or("InvalidVolume.NotFound")?;
                let tags = &mut disk.past.facts.tags;
                tags.insert(REPLACED_BY_TAG.to_owned(), copy.clone());
                disk.past.keep(now);
                Ok(None)
            }
        }
    }

    // --------------------------------------------------------- the instance

    /// Changes the instance's facts.
    pub(crate) fn instance(&mut self, change: impl FnOnce(&mut Instance)) {
        let now = self.now;
        if let Some(machine) = &mut self.machine {
            change(&mut machine.past.facts);
            machine.past.keep(now);
        }
    }

    /// Whether IAM denies stops because of the instance's opt-out.
    pub(crate) fn has_endless_opt_out(&self) -> bool {
        let machine = self.machine.as_ref();
        let tag = machine.and_then(|m| m.past.facts.tags.get(OPT_OUT_TAG));
        tag.is_some_and(|tag| !tag.contains("until="))
    }

    pub(crate) fn state(&self) -> &str {
        let machine = self.machine.as_ref();
        machine.map_or("none", |m| m.past.facts.state.as_str())
    }

    pub(crate) fn stop(&mut self, who: Who) -> Answered {
        match self.state() {
            "running" => {}
            "stopping" | "stopped" => return Ok(None),
            _ => return Err("IncorrectInstanceState"),
        }
        if self
            .machine
            .as_ref()
            .is_some_and(|m| m.past.facts.stop_protected)
        {
            return Err("OperationNotPermitted");
        }
        self.instance(|i| {
            i.state = "stopping".to_owned();
            i.checks = None;
            i.state_reason = Some("Client.UserInitiatedShutdown".to_owned());
        });
        if let Some(machine) = &mut self.machine {
            machine.stopped_by = Some(who);
        }
        let (least, most) = self.plan.stop_seconds;
        let takes = self.rng.between(least, most);
        if takes > 600 {
            self.count("a stop hangs");
        }
        self.later(takes, Event::Stopped);
        Ok(None)
    }

    pub(crate) fn start(&mut self, who: Who) -> Answered {
        match self.state() {
            "stopped" => {}
            "pending" | "running" => return Ok(None),
            _ => return Err("IncorrectInstanceState"),
        }
        if self.at_device(0).is_none() {
            return Err("IncorrectInstanceState");
        }
        let since_begin = self.now - self.plan.begins;
        if since_begin < self.plan.capacity_from {
            return Err("InsufficientInstanceCapacity");
        }
        let launched_at = Some(at(self.now));
        self.instance(|i| {
            i.state = "pending".to_owned();
            i.launched_at = launched_at;
            i.state_reason = None;
        });
        let encrypted = self
            .disks
            .values()
            .any(|d| d.copy_of.is_some() && d.past.facts.attachment_to(INSTANCE).is_some());
        if let Some(machine) = &mut self.machine {
            machine.starts += 1;
        }
        let start = self.machine.as_ref().map_or(0, |m| m.starts);
        let takes = self.rng.between(10, 40);
        if encrypted && since_begin < self.plan.kms_from {
            self.count("the key fails at a start");
            self.later(takes, Event::StartFails { start });
        } else {
            self.later(takes, Event::Running { start });
        }
        if who == Who::Others {
            self.meddled.started = true;
        }
        Ok(None)
    }

    pub(crate) fn terminate(&mut self) {
        self.instance(|i| {
            i.state = "shutting-down".to_owned();
            i.checks = None;
        });
        self.meddled.terminated = true;
        self.later(20, Event::Terminated);
    }

    // ---------------------------------------------------------- the volumes

    /// The volume that a device of the instance is.
    pub(crate) fn at_device(&self, device: usize) -> Option<&Disk> {
        self.disks.values().find(|d| {
            let attachment = d.past.facts.attachment_to(INSTANCE);
            attachment.is_some_and(|a| a.device == super::sim::DEVICES[device])
        })
    }

    /// Changes a volume's facts.
    pub(crate) fn volume(&mut self, id: &str, change: impl FnOnce(&mut Volume)) {
        let now = self.now;
        if let Some(disk) = self.disks.get_mut(id) {
            change(&mut disk.past.facts);
            disk.past.keep(now);
        }
    }

    pub(crate) fn detach(&mut self, id: &str, instance: &str) -> Answered {
        let running = instance == INSTANCE && self.state() != "stopped";
        let Some(disk) = self.disks.get(id) else {
            return Err("InvalidVolume.NotFound");
        };
        match disk.past.facts.attachment_to(instance) {
            Some(a) if a.device == super::sim::DEVICES[0] && running => {
                return Err("OperationNotPermitted");
            }
            Some(a) if a.state == "attached" || a.state == "attaching" => {}
            _ => return Err("IncorrectState"),
        }
        self.volume(id, |v| v.attachments[0].state = "detaching".to_owned());
        let takes = self.rng.between(2, 20);
        self.later(
            takes,
            Event::Detached {
                disk: id.to_owned(),
            },
        );
        Ok(None)
    }

    pub(crate) fn attach(&mut self, id: &str, instance: &str, device: &str) -> Answered {
        if instance == INSTANCE && !matches!(self.state(), "stopped" | "running") {
            return Err("IncorrectState");
        }
        match self.disks.get(id) {
            None => return Err("InvalidVolume.NotFound"),
            Some(disk) if !disk.past.facts.is_free() => return Err("VolumeInUse"),
            Some(_) => {}
        }
        let taken = self.disks.values().any(|d| {
            let attachment = d.past.facts.attachment_to(instance);
            attachment.is_some_and(|a| a.device == device)
        });
        let late = super::sim::device(device).is_some_and(|n| self.now < self.taken_until[n]);
        if taken || (late && instance == INSTANCE) {
            return Err("InvalidParameterValue");
        }
        let attached_at = Some(at(self.now));
        self.volume(id, |v| {
            v.state = "in-use".to_owned();
            v.attachments = vec![Attachment {
                instance: instance.to_owned(),
                device: device.to_owned(),
                state: "attaching".to_owned(),
                delete_on_termination: false,
                attached_at,
            }];
        });
        let takes = self.rng.between(1, 15);
        self.later(
            takes,
            Event::Attached {
                disk: id.to_owned(),
            },
        );
        Ok(None)
    }

    pub(crate) fn delete(&mut self, id: &str) -> Answered {
        let state = match self.disks.get(id) {
            Some(disk) => disk.past.facts.state.as_str(),
            None => return Err("InvalidVolume.NotFound"),
        };
        match state {
            "available" | "error" => {}
            "in-use" => return Err("VolumeInUse"),
            "creating" => return Err("IncorrectState"),
            _ => return Err("InvalidVolume.NotFound"),
        }
        self.volume(id, |v| v.state = "deleting".to_owned());
        let takes = self.rng.between(1, 20);
        self.later(
            takes,
            Event::Gone {
                disk: id.to_owned(),
            },
        );
        Ok(None)
    }

    /// An encrypted copy of a volume, with this content. The same token makes
    /// the same volume.
    fn make(&mut self, of: &str, content: Content, make: Make, how: &str) -> Answered {
        let token = format!("{how} {of}");
        if let Some(made) = self.tokens.get(&token) {
            let made = made.clone();
            self.count("a call is made twice");
            return Ok(Some(made));
        }
        if let Make::Refused(code) = make {
            return Err(code);
        }
        let Some(source) = self.disks.get(of).map(|d| d.past.facts.clone()) else {
            return Err("InvalidVolume.NotFound");
        };
        self.made += 1;
        let id = format!("vol-copy{}", self.made);
        let mut tags = source.carried_tags();
        tags.insert(COPY_OF_TAG.to_owned(), of.to_owned());
        tags.insert(ENTRY_TAG.to_owned(), RUN.to_owned());
        let mut copy = Volume {
            id: id.clone(),
            state: "creating".to_owned(),
            encrypted: make != Make::Unencrypted,
            created_at: Some(at(self.now)),
            attachments: Vec::new(),
            tags,
            ..source
        };
        if make == Make::OtherType {
            copy.volume_type = "standard".to_owned();
        }
        self.disks.insert(
            id.clone(),
            Disk {
                past: Past::new(copy, self.now),
                content,
                copy_of: Some(of.to_owned()),
                was_attached: false,
            },
        );
        let disk = id.clone();
        let takes = self.rng.between(5, 60);
        match make {
            Make::Error => self.later(takes, Event::Fails { disk }),
            Make::Vanishes => self.later(takes, Event::Vanishes { disk }),
            Make::Slow(seconds) => self.later(seconds, Event::Available { disk }),
            _ => self.later(takes, Event::Available { disk }),
        }
        self.tokens.insert(token, id.clone());
        self.one_copy(of);
        Ok(Some(id))
    }

    fn take(&mut self, of: &str, purpose: Purpose) -> Answered {
        let Some(disk) = self.disks.get(of).filter(|d| d.past.facts.exists()) else {
            return Err("InvalidVolume.NotFound");
        };
        let content = disk.content.clone();
        self.made += 1;
        let id = format!("snap-{}", self.made);
        let tags = [(ENTRY_TAG, RUN), (PURPOSE_TAG, purpose.name())];
        let snapshot = Snapshot {
            id: id.clone(),
            volume: of.to_owned(),
            state: "pending".to_owned(),
            started_at: Some(at(self.now)),
            tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        self.shots.insert(
            id.clone(),
            Shot {
                past: Past::new(snapshot, self.now),
                content,
            },
        );
        let (how, most) = match purpose {
            Purpose::Safety => (self.plan.safety, 900),
            Purpose::Transfer => (self.plan.transfer, 120),
        };
        let shot = id.clone();
        let takes = self.rng.between(10, most);
        match how {
            Take::Fine => self.later(takes, Event::Taken { shot }),
            Take::Slow(seconds) => self.later(seconds, Event::Taken { shot }),
            Take::Error => self.later(takes, Event::Broken { shot }),
        }
        Ok(Some(id))
    }

    // ------------------------------------------------------- what comes of it

    pub(crate) fn happens(&mut self, event: Event) {
        self.say(|| format!("    {event:?}"));
        let starts = self.machine.as_ref().map_or(0, |m| m.starts);
        match event {
            Event::Stopped if self.state() == "stopping" => {
                self.instance(|i| i.state = "stopped".to_owned());
            }
            Event::Running { start } if start == starts && self.state() == "pending" => {
                let initializing = Checks {
                    system: "ok".to_owned(),
                    instance: "initializing".to_owned(),
                };
                self.instance(|i| {
                    i.state = "running".to_owned();
                    i.checks = Some(initializing);
                });
                if let Some(machine) = &mut self.machine {
                    machine.stopped_by = None;
                }
                self.later(self.plan.check_seconds, Event::Checked { start });
            }
            Event::StartFails { start } if start == starts && self.state() == "pending" => {
                self.instance(|i| {
                    i.state = "stopped".to_owned();
                    i.state_reason = Some("Client.InternalError".to_owned());
                });
            }
            Event::Checked { start } if start == starts && self.state() == "running" => {
                let on_copies = self
                    .disks
                    .values()
                    .any(|d| d.copy_of.is_some() && d.past.facts.attachment_to(INSTANCE).is_some());
                let good = match self.plan.health {
                    Health::Good => true,
                    Health::BadOnCopies => !on_copies,
                    Health::Bad => false,
                };
                if !good {
                    self.count("the status checks fail");
                }
                let result = if good { "ok" } else { "impaired" };
                self.instance(|i| {
                    i.checks = Some(Checks {
                        system: "ok".to_owned(),
                        instance: result.to_owned(),
                    });
                });
            }
            Event::Terminated => {
                self.instance(|i| i.state = "terminated".to_owned());
                let attached: Vec<(String, bool)> = self
                    .disks
                    .values()
                    .filter_map(|d| {
                        let a = d.past.facts.attachment_to(INSTANCE)?;
                        Some((d.past.facts.id.clone(), a.delete_on_termination))
                    })
                    .collect();
                for (id, delete) in attached {
                    self.volume(&id, |v| {
                        v.attachments.clear();
                        v.state = if delete { "deleted" } else { "available" }.to_owned();
                    });
                }
            }
            Event::Available { disk } => self.changes(&disk, "creating", "available"),
            Event::Fails { disk } => self.changes(&disk, "creating", "error"),
            Event::Vanishes { disk } => {
                self.changes(&disk, "creating", "deleted");
                let cause = "the key is not accessible".to_owned();
                self.not_made.insert(disk, cause);
            }
            Event::Gone { disk } => self.changes(&disk, "deleting", "deleted"),
            Event::Attached { disk } => {
                let attaching = |v: &Volume| v.attached().any(|a| a.state == "attaching");
                if self
                    .disks
                    .get(&disk)
                    .is_some_and(|d| attaching(&d.past.facts))
                {
                    self.volume(&disk, |v| v.attachments[0].state = "attached".to_owned());
                }
            }
            Event::Detached { disk } => {
                let detaching = |v: &Volume| v.attached().any(|a| a.state == "detaching");
                if self
                    .disks
                    .get(&disk)
                    .is_some_and(|d| detaching(&d.past.facts))
                {
                    let name = &self.disks[&disk].past.facts.attachments[0].device;
                    if let Some(n) = device(name) {
                        self.taken_until[n] = self.now + self.lag(10);
                    }
                    self.volume(&disk, |v| {
                        v.attachments.clear();
                        v.state = "available".to_owned();
                    });
                }
            }
            Event::Taken { shot } => self.shot_is(&shot, "completed"),
            Event::Broken { shot } => self.shot_is(&shot, "error"),
            _ => {}
        }
    }

    fn changes(&mut self, id: &str, from: &str, to: &str) {
        if self
            .disks
            .get(id)
            .is_some_and(|d| d.past.facts.state == from)
        {
            self.volume(id, |v| v.state = to.to_owned());
        }
    }

    fn shot_is(&mut self, id: &str, state: &str) {
        let now = self.now;
        if let Some(shot) = self.shots.get_mut(id) {
            shot.past.facts.state = state.to_owned();
            shot.past.keep(now);
        }
    }
}
