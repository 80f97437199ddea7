//! What other people, schedulers and AWS's own agents do in the middle of a
//! run. Whatever EC2 refuses them simply does not happen.

use backstop_core::encryption::Hold;
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::volumes::{COPY_OF_TAG, ENTRY_TAG};

use super::rng::Rng;
use super::sim::{Call, DEVICES, Disk, ELSEWHERE, Event, INSTANCE, Past, Sim, Who, an_original};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Start,
    Stop,
    /// The operating system shuts itself down.
    ShutDown,
    Terminate,
    DetachOriginal,
    DetachCopy,
    /// An original, once it is free, is attached to another instance.
    TakeOriginal,
    /// And comes free again.
    ReturnOriginal,
    TakeCopy,
    /// A volume of somebody's is put where an original was.
    OccupyDevice,
    DeleteOriginal,
    DeleteCopy,
    DeleteSnapshots,
    ModifyOriginal,
    ModifyCopy,
    /// An opt-out, the kill switch.
    Hold,
    Release,
    KeyFails,
    KeyWorks,
    /// Something that refuses: the instance becomes a member of a group.
    Forbid,
    /// The instance is protected against being stopped.
    Protect,
    /// Takes the run's tags off a copy.
    Untag,
    /// A copy that another run made shows up.
    ForeignCopy,
    /// An opt-out of the instance without an end, which IAM enforces.
    OptOut,
    /// It gets an end.
    DateOptOut,
}

impl Other {
    pub(crate) const ALL: [(Self, &'static str); 25] = [
        (Self::Start, "others start"),
        (Self::Stop, "others stop"),
        (Self::ShutDown, "others shut down"),
        (Self::Terminate, "others terminate"),
        (Self::DetachOriginal, "others detach an original"),
        (Self::DetachCopy, "others detach a copy"),
        (Self::TakeOriginal, "others take an original"),
        (Self::ReturnOriginal, "others return an original"),
        (Self::TakeCopy, "others take a copy"),
        (Self::OccupyDevice, "others occupy a device"),
        (Self::DeleteOriginal, "others delete an original"),
        (Self::DeleteCopy, "others delete a copy"),
        (Self::DeleteSnapshots, "others delete snapshots"),
        (Self::ModifyOriginal, "others modify an original"),
        (Self::ModifyCopy, "others modify a copy"),
        (Self::Hold, "others hold"),
        (Self::Release, "others release"),
        (Self::KeyFails, "the key fails"),
        (Self::KeyWorks, "the key works again"),
        (Self::Forbid, "others forbid"),
        (Self::Protect, "others protect"),
        (Self::Untag, "others untag"),
        (Self::ForeignCopy, "others copy"),
        (Self::OptOut, "others opt out for ever"),
        (Self::DateOptOut, "others give an opt-out an end"),
    ];

    pub(crate) fn any(rng: &mut Rng) -> Self {
        // What people do most often to an instance that is down.
        if rng.per_mille(250) {
            return rng.one_of(&[Self::Start, Self::Stop, Self::Hold, Self::Terminate]);
        }
        rng.one_of(&Self::ALL).0
    }

    /// The call after which it can be done, for what can be done at times only.
    pub(crate) fn fits_after(self) -> Option<Call> {
        match self {
            Self::OccupyDevice | Self::TakeOriginal | Self::DeleteOriginal => Some(Call::Detach),
            Self::TakeCopy | Self::DeleteCopy => Some(Call::Copy),
            Self::DetachCopy => Some(Call::Attach),
            _ => None,
        }
    }

    /// What undoes it.
    fn undone_by(self) -> Option<Self> {
        match self {
            Self::Hold => Some(Self::Release),
            Self::KeyFails => Some(Self::KeyWorks),
            Self::OptOut => Some(Self::DateOptOut),
            Self::TakeOriginal => Some(Self::ReturnOriginal),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        let of = Self::ALL.iter().find(|(other, _)| *other == self);
        of.map_or("", |(_, name)| name)
    }
}

impl Sim {
    pub(crate) fn others_do(&mut self, other: Other) {
        let done = self.others_try(other).is_some();
        self.say(|| format!("OTHERS: {other:?}{}", if done { "" } else { " (refused)" }));
        if done {
            self.count(other.name());
            // Every third changes its mind.
            if let Some(undo) = other.undone_by()
                && self.plan.changes_of_mind
                && self.rng.per_mille(333)
            {
                let after = self.rng.between(60, 1800);
                self.later(after, Event::Others(undo));
            }
        }
    }

    /// What they did; none: it could not be done.
    fn others_try(&mut self, other: Other) -> Option<()> {
        let now = self.now;
        match other {
            Other::Start if self.state() == "stopped" => {
                self.start(Who::Others).ok()?;
            }
            Other::Stop if self.state() == "running" => {
                self.stop(Who::Others).ok()?;
            }
            Other::ShutDown if self.state() == "running" => {
                self.stop(Who::Others).ok()?;
                self.instance(|i| {
                    i.state_reason = Some("Client.InstanceInitiatedShutdown".to_owned());
                });
            }
            Other::Start | Other::Stop | Other::ShutDown => return None,
            Other::Terminate => match self.state() {
                "none" | "shutting-down" | "terminated" => return None,
                _ => self.terminate(),
            },
            Other::DetachOriginal => {
                let id = self.some(|d| original(d) && attached(d))?;
                self.detach(&id, INSTANCE).ok()?;
                self.meddled.moved = true;
            }
            Other::DetachCopy => {
                let id = self.some(|d| copy(d) && attached(d))?;
                self.detach(&id, INSTANCE).ok()?;
                self.meddled.moved = true;
            }
            Other::TakeOriginal => {
                let id = self.some(|d| original(d) && d.past.facts.is_free())?;
                self.attach(&id, ELSEWHERE, "/dev/sdx").ok()?;
                self.meddled.moved = true;
            }
            Other::ReturnOriginal => {
                let elsewhere = |d: &Disk| d.past.facts.attachment_to(ELSEWHERE).is_some();
                let id = self.some(|d| original(d) && elsewhere(d))?;
                self.detach(&id, ELSEWHERE).ok()?;
            }
            Other::TakeCopy => {
                let id = self.some(|d| copy(d) && d.past.facts.is_free())?;
                self.attach(&id, ELSEWHERE, "/dev/sdx").ok()?;
                self.meddled.moved = true;
            }
            Other::OccupyDevice => {
                let free = (0..self.plan.volumes).find(|d| self.at_device(*d).is_none())?;
                self.machine.as_ref()?;
                let id = format!("vol-occupant{now}");
                let mut volume = an_original(free, false, &mut self.rng);
                volume.id.clone_from(&id);
                self.appears(&id, volume);
                self.attach(&id, INSTANCE, DEVICES[free]).ok()?;
                self.meddled.moved = true;
            }
            Other::DeleteOriginal => {
                let id = self.some(|d| original(d) && d.past.facts.is_free())?;
                self.delete(&id).ok()?;
                self.meddled.deleted = true;
            }
            Other::DeleteCopy => {
                let id = self.some(|d| copy(d) && d.past.facts.is_free())?;
                self.delete(&id).ok()?;
                self.meddled.deleted = true;
            }
            Other::DeleteSnapshots => {
                if self.shots.is_empty() {
                    return None;
                }
                self.shots.clear();
            }
            Other::ModifyOriginal => {
                let id = self.some(original)?;
                self.volume(&id, |v| v.size += 10);
                self.meddled.moved = true;
            }
            Other::ModifyCopy => {
                let id = self.some(copy)?;
                self.volume(&id, |v| v.size += 10);
                self.meddled.moved = true;
            }
            Other::Hold => {
                self.hold.facts = Some(Hold {
                    why: "the kill switch was turned on".to_owned(),
                });
                self.hold.keep(now);
            }
            Other::OptOut => {
                self.machine.as_ref()?;
                self.opt_out("unencrypted-volume");
                self.others_try(Other::Hold)?;
            }
            Other::DateOptOut => {
                self.has_endless_opt_out().then_some(())?;
                self.opt_out("unencrypted-volume until=2026-12-31");
            }
            Other::Release => {
                self.hold.facts.take()?;
                self.hold.keep(now);
            }
            Other::KeyFails => {
                self.key_problem.facts = Some("the key is disabled".to_owned());
                self.key_problem.keep(now);
            }
            Other::KeyWorks => {
                self.key_problem.facts.take()?;
                self.key_problem.keep(now);
            }
            Other::Forbid => {
                self.machine.as_ref()?;
                self.instance(|i| {
                    i.tags
                        .insert("aws:autoscaling:groupName".to_owned(), "web".to_owned());
                });
            }
            Other::Protect => {
                self.machine.as_ref()?;
                self.instance(|i| i.stop_protected = true);
            }
            Other::Untag => {
                let id = self.some(copy)?;
                self.volume(&id, |v| {
                    v.tags.remove(COPY_OF_TAG);
                    v.tags.remove(ENTRY_TAG);
                });
                self.meddled.untagged = true;
            }
            Other::ForeignCopy => {
                let of = self.some(original)?;
                let id = format!("vol-foreign{now}");
                let mut volume = an_original(0, false, &mut self.rng);
                volume.id.clone_from(&id);
                volume.encrypted = true;
                volume.tags.insert(COPY_OF_TAG.to_owned(), of);
                volume.tags.insert(ENTRY_TAG.to_owned(), "run-9".to_owned());
                self.appears(&id, volume);
            }
        }
        Some(())
    }

    fn opt_out(&mut self, value: &str) {
        self.instance(|i| {
            i.tags.insert(OPT_OUT_TAG.to_owned(), value.to_owned());
        });
    }

    fn appears(&mut self, id: &str, volume: backstop_core::volumes::Volume) {
        self.disks.insert(
            id.to_owned(),
            Disk {
                past: Past::new(volume, self.now),
                content: super::sim::Content::default(),
                copy_of: None,
                was_attached: false,
            },
        );
    }

    /// A volume of this kind, any of them.
    fn some(&mut self, is: impl Fn(&Disk) -> bool) -> Option<String> {
        let all: Vec<String> = self
            .disks
            .iter()
            .filter(|(_, d)| d.past.facts.exists() && is(d))
            .map(|(id, _)| id.clone())
            .collect();
        match all.is_empty() {
            true => None,
            false => {
                let most = i64::try_from(all.len()).unwrap() - 1;
                let n = self.rng.between(0, most);
                all.into_iter().nth(usize::try_from(n).unwrap())
            }
        }
    }
}

fn original(disk: &Disk) -> bool {
    matches!(disk.past.facts.id.as_str(), "vol-0" | "vol-1" | "vol-2")
}

fn copy(disk: &Disk) -> bool {
    disk.copy_of.is_some()
}

fn attached(disk: &Disk) -> bool {
    disk.past.facts.attachment_to(INSTANCE).is_some()
}
