//! One simulated run: what is configured, what is there, and the clock.
//!
//! Deliberately not here: what EC2 does (`ec2`), what other people do
//! (`others`), the invocations that carry the run out (`caller`), and what must
//! hold (`oracle`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

use backstop_core::encryption::{
    Attached, Change, Encryption, EncryptionDetail, Hold, Settings, Way,
};
use backstop_core::run::{Head, Run};
use backstop_core::volumes::{
    Attachment, COPY_OF_TAG, Checks, ENTRY_TAG, Instance, REPLACED_BY_TAG, Snapshot, Volume,
};
use backstop_core::windows::Window;
use jiff::Timestamp;
use serde_json::json;

use super::ec2::{Moment, View};
use super::others::Other;
use super::rng::Rng;

/// 2026-03-02 00:00:00 UTC, a Monday: second 0 of the simulation.
const EPOCH: i64 = 1_772_409_600;
pub(crate) const INSTANCE: &str = "i-1";
pub(crate) const ELSEWHERE: &str = "i-2";
pub(crate) const DEVICES: [&str; 4] = ["/dev/xvda", "/dev/sdf", "/dev/sdg", "/dev/sdz"];
pub(crate) const RUN: &str = "run-1";
/// Before anything that lags.
const LONG_AGO: i64 = -86400;
const EARLIER_RUN: &str = "run-0";

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + second).unwrap()
}

// ------------------------------------------------------------- configuration

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unattached,
    WhenStopped,
    Swap,
    /// A swap of an earlier run is taken back.
    Undo,
}

/// How copies come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Fine,
    Refused(&'static str),
    Unencrypted,
    OtherType,
    Error,
    /// Gone after a while, and only an event says why.
    Vanishes,
    /// Available after so many seconds.
    Slow(i64),
}

/// How snapshots come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Fine,
    Error,
    Slow(i64),
}

/// Whether the status checks pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    BadOnCopies,
    Bad,
}

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    At(i64),
    /// So many seconds after the first call of a kind that took effect.
    After(Call, i64),
}

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Snapshot,
    Stop,
    StopBack,
    Start,
    StartBack,
    Copy,
    Create,
    DeleteCopy,
    Detach,
    Attach,
    KeepOrDelete,
    Tag,
    DryRun,
}

impl Call {
    pub(crate) const ALL: [Self; 13] = [
        Self::Snapshot,
        Self::Stop,
        Self::StopBack,
        Self::Start,
        Self::StartBack,
        Self::Copy,
        Self::Create,
        Self::DeleteCopy,
        Self::Detach,
        Self::Attach,
        Self::KeepOrDelete,
        Self::Tag,
        Self::DryRun,
    ];

    pub(crate) fn of(change: &Change) -> Self {
        match change {
            Change::Snapshot { .. } => Self::Snapshot,
            Change::Stop { back: false } => Self::Stop,
            Change::Stop { back: true } => Self::StopBack,
            Change::Start { back: false } => Self::Start,
            Change::Start { back: true } => Self::StartBack,
            Change::Copy { .. } => Self::Copy,
            Change::Create { .. } => Self::Create,
            Change::DeleteCopy { .. } => Self::DeleteCopy,
            Change::Detach { .. } => Self::Detach,
            Change::Attach { .. } => Self::Attach,
            Change::KeepOrDelete { .. } => Self::KeepOrDelete,
            Change::TagReplaced { .. } => Self::Tag,
            Change::DryRun(_) => Self::DryRun,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "call snapshot",
            Self::Stop => "call stop",
            Self::StopBack => "call stop to go back",
            Self::Start => "call start",
            Self::StartBack => "call start to go back",
            Self::Copy => "call copy",
            Self::Create => "call create",
            Self::DeleteCopy => "call delete copy",
            Self::Detach => "call detach",
            Self::Attach => "call attach",
            Self::KeepOrDelete => "call keep or delete",
            Self::Tag => "call tag",
            Self::DryRun => "call dry run",
        }
    }
}

/// Everything that is decided before a run begins. The default is a calm one.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) volumes: usize,
    pub(crate) begins: i64,
    /// Seconds of the day between which instances may be stopped; none: always.
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) max_downtime_minutes: u32,
    /// For an undo: whether the instance runs when it begins.
    pub(crate) running: bool,
    pub(crate) copy: Make,
    pub(crate) create: Make,
    pub(crate) safety: Take,
    pub(crate) transfer: Take,
    pub(crate) stop_seconds: (i64, i64),
    pub(crate) health: Health,
    pub(crate) check_seconds: i64,
    /// There is no capacity before then.
    pub(crate) capacity_from: i64,
    /// Encrypted volumes cannot be used before then.
    pub(crate) kms_from: i64,
    /// One kind of call is refused until then.
    pub(crate) denied: Option<(Call, &'static str, i64)>,
    /// Whether reads lag behind writes.
    pub(crate) lags: bool,
    /// Chances in a thousand, until `trouble_ends`.
    pub(crate) refused: u32,
    pub(crate) lost: u32,
    pub(crate) killed: u32,
    pub(crate) twins: u32,
    pub(crate) gaps: u32,
    pub(crate) given_up: u32,
    pub(crate) trouble_ends: i64,
    pub(crate) others: Vec<(When, Other)>,
    pub(crate) changes_of_mind: bool,
}

impl Plan {
    pub(crate) fn calm(kind: Kind, seed: u64) -> Self {
        Self {
            seed,
            kind,
            volumes: 2,
            begins: 2 * 3600,
            window: None,
            max_downtime_minutes: 30,
            running: true,
            copy: Make::Fine,
            create: Make::Fine,
            safety: Take::Fine,
            transfer: Take::Fine,
            stop_seconds: (10, 60),
            health: Health::Good,
            check_seconds: 60,
            capacity_from: 0,
            kms_from: 0,
            denied: None,
            lags: false,
            refused: 0,
            lost: 0,
            killed: 0,
            twins: 0,
            gaps: 0,
            given_up: 0,
            trouble_ends: 0,
            others: Vec::new(),
            changes_of_mind: false,
        }
    }

    /// Whether nothing stands in the run's way.
    pub(crate) fn is_calm(&self) -> bool {
        self.is_quiet() && self.others.is_empty()
    }

    /// As calm, but for what other people do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.copy == Make::Fine
            && self.create == Make::Fine
            && self.safety == Take::Fine
            && self.transfer == Take::Fine
            && self.stop_seconds.1 <= 120
            && self.health == Health::Good
            && self.check_seconds <= 240
            && self.capacity_from == 0
            && self.kms_from == 0
            && self.denied.is_none()
            && self.window.is_none()
            && self.max_downtime_minutes >= 15
            && self.refused + self.lost + self.killed + self.twins + self.gaps + self.given_up == 0
    }
}

// --------------------------------------------------------------------- things

/// Which writes a volume holds: device (index), and the first and the last of a
/// run of consecutive ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content(Vec<(usize, u32, u32)>);

impl Content {
    pub(crate) fn write(&mut self, device: usize, number: u32) {
        match self.0.last_mut() {
            Some((of, _, last)) if *of == device && *last + 1 == number => *last = number,
            _ => self.0.push((device, number, number)),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// Whether every write to a device up to this one is there.
    pub(crate) fn holds(&self, device: usize, up_to: u32) -> bool {
        let mut runs: Vec<(u32, u32)> = self
            .0
            .iter()
            .filter(|(of, ..)| *of == device)
            .map(|(_, from, to)| (*from, *to))
            .collect();
        runs.sort_unstable();
        let mut have = 0;
        for (from, to) in runs {
            if from <= have + 1 {
                have = have.max(to);
            }
        }
        have >= up_to
    }
}

/// A thing with what it was, so that reads can lag.
pub(crate) struct Past<T> {
    pub(crate) facts: T,
    versions: Vec<(i64, T)>,
}

impl<T: Clone> Past<T> {
    pub(crate) fn new(facts: T, now: i64) -> Self {
        Self {
            versions: vec![(now, facts.clone())],
            facts,
        }
    }

    pub(crate) fn keep(&mut self, now: i64) {
        self.versions.push((now, self.facts.clone()));
    }

    pub(crate) fn born(&self) -> i64 {
        self.versions[0].0
    }

    /// How often it changed, and when last.
    pub(crate) fn age(&self) -> (usize, i64) {
        let last = self.versions.last().map_or(0, |(since, _)| *since);
        (self.versions.len(), last)
    }

    /// As it was then, or at its beginning.
    pub(crate) fn at(&self, then: i64) -> &T {
        let version = self.versions.iter().rev().find(|(since, _)| *since <= then);
        version.map_or(&self.versions[0].1, |(_, facts)| facts)
    }
}

pub(crate) struct Disk {
    pub(crate) past: Past<Volume>,
    pub(crate) content: Content,
    /// The volume that it is a copy of, made by this run (or the one that is
    /// taken back).
    pub(crate) copy_of: Option<String>,
    /// Whether the run ever attached it.
    pub(crate) was_attached: bool,
}

pub(crate) struct Shot {
    pub(crate) past: Past<Snapshot>,
    pub(crate) content: Content,
}

/// Who stopped the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Run,
    Others,
}

pub(crate) struct Machine {
    pub(crate) past: Past<Instance>,
    /// Who stopped it, while it does not run.
    pub(crate) stopped_by: Option<Who>,
    /// How often it was started: events of an earlier start do not count.
    pub(crate) starts: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Stopped,
    Running {
        start: u32,
    },
    StartFails {
        start: u32,
    },
    Checked {
        start: u32,
    },
    Terminated,
    Available {
        disk: String,
    },
    Fails {
        disk: String,
    },
    Vanishes {
        disk: String,
    },
    Attached {
        disk: String,
    },
    Detached {
        disk: String,
    },
    Gone {
        disk: String,
    },
    Taken {
        shot: String,
    },
    Broken {
        shot: String,
    },
    /// A call of the run whose reply is lost, and that takes effect late.
    Late(Change),
    Others(Other),
}

/// What happened beside the run, so that less can be asked of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meddled {
    /// Others started the instance.
    pub(crate) started: bool,
    pub(crate) terminated: bool,
    /// Others attached, detached or changed a volume.
    pub(crate) moved: bool,
    /// Others deleted a volume.
    pub(crate) deleted: bool,
    /// Others took tags of the run's away.
    pub(crate) untagged: bool,
}

/// How often what was met.
pub(crate) type Coverage = BTreeMap<&'static str, u64>;

pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) settings: Settings,
    pub(crate) rng: Rng,
    pub(crate) now: i64,
    pub(crate) queue: Vec<(i64, Event)>,
    pub(crate) machine: Option<Machine>,
    pub(crate) disks: BTreeMap<String, Disk>,
    pub(crate) shots: BTreeMap<String, Shot>,
    /// What calls with these tokens made.
    pub(crate) tokens: BTreeMap<String, String>,
    /// What EBS's events said of copies that it could not make.
    pub(crate) not_made: BTreeMap<String, String>,
    pub(crate) made: u32,
    /// Writes to each device so far.
    pub(crate) writes: [u32; DEVICES.len()],
    /// Until when a device is taken, though what was there is detached.
    pub(crate) taken_until: [i64; DEVICES.len()],
    pub(crate) hold: Past<Option<Hold>>,
    pub(crate) key_problem: Past<Option<String>>,
    /// What the last look saw, to see it again cheaply.
    pub(crate) seen: Option<(Moment, View)>,
    /// The record, as it is stored.
    pub(crate) stored: Rc<Encryption>,
    pub(crate) meddled: Meddled,
    pub(crate) facts: super::oracle::Facts,
    pub(crate) coverage: Coverage,
    /// What happened, if that is asked for.
    pub(crate) trace: Option<Vec<String>>,
    /// The first thing that must not be.
    pub(crate) broken: Option<String>,
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

impl Sim {
    pub(crate) fn new(plan: Plan, coverage: Coverage, traced: bool) -> Self {
        let mut rng = Rng::new(plan.seed);
        let now = plan.begins;
        let attached = plan.kind != Kind::Unattached;
        let up = match plan.kind {
            Kind::Swap => true,
            Kind::Undo => plan.running,
            _ => false,
        };
        let machine = attached.then(|| Machine {
            past: Past::new(an_instance(up), LONG_AGO),
            stopped_by: (!up).then_some(Who::Others),
            starts: 0,
        });
        let count = if attached { plan.volumes } else { 1 };
        let originals: Vec<Volume> = (0..count)
            .map(|n| an_original(n, attached, &mut rng))
            .collect();
        let mut disks = BTreeMap::new();
        for (n, original) in originals.iter().enumerate() {
            let mut there = original.clone();
            if plan.kind == Kind::Undo {
                let mut copy = original.clone();
                copy.id = format!("vol-earlier{n}");
                copy.encrypted = true;
                copy.tags = tags(&[(COPY_OF_TAG, &original.id), (ENTRY_TAG, EARLIER_RUN)]);
                there.state = "available".to_owned();
                there.attachments.clear();
                there
                    .tags
                    .insert(REPLACED_BY_TAG.to_owned(), copy.id.clone());
                disks.insert(
                    copy.id.clone(),
                    Disk {
                        past: Past::new(copy, LONG_AGO),
                        content: Content::default(),
                        copy_of: Some(original.id.clone()),
                        was_attached: true,
                    },
                );
            }
            disks.insert(there.id.clone(), disk(there));
        }
        // What no run may touch: an encrypted volume of the instance, and
        // somebody's volume that is attached nowhere.
        let mut encrypted = an_original(3, attached, &mut rng);
        encrypted.id = "vol-encrypted".to_owned();
        encrypted.encrypted = true;
        let mut stranger = an_original(1, false, &mut rng);
        stranger.id = "vol-stranger".to_owned();
        for other in [encrypted, stranger] {
            disks.insert(other.id.clone(), disk(other));
        }
        let stored = record(
            &plan,
            machine.as_ref().map(|m| m.past.facts.clone()),
            originals,
        );
        let clock = |second: i64| format!("{:02}:{:02}", second / 3600, second / 60 % 60);
        let (from, to) = plan.window.unwrap_or((0, 0));
        let settings = Settings {
            attached: Attached::Swap,
            windows: vec![Window {
                days: Vec::new(),
                from: clock(from),
                to: clock(to),
            }],
            max_downtime_minutes: plan.max_downtime_minutes,
            replace_stack_volumes: true,
            ..Settings::default()
        };
        let mut sim = Self {
            settings,
            rng,
            now,
            queue: Vec::new(),
            machine,
            disks,
            shots: BTreeMap::new(),
            tokens: BTreeMap::new(),
            not_made: BTreeMap::new(),
            made: 0,
            writes: [0; DEVICES.len()],
            taken_until: [LONG_AGO; DEVICES.len()],
            hold: Past::new(None, LONG_AGO),
            key_problem: Past::new(None, LONG_AGO),
            seen: None,
            stored: Rc::new(stored),
            meddled: Meddled::default(),
            facts: super::oracle::Facts::default(),
            coverage,
            trace: traced.then(Vec::new),
            broken: None,
            plan,
        };
        // What was written before the run began.
        for _ in 0..3 {
            sim.write_all();
        }
        for (when, other) in sim.plan.others.clone() {
            if let When::At(after) = when {
                sim.later(after, Event::Others(other));
            }
        }
        sim
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let what = what();
            // Of many looks that show the same, one is shown.
            if !trace.last().is_some_and(|last| last.ends_with(&what)) {
                trace.push(format!("{:>7}  {what}", self.now - self.plan.begins));
            }
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    pub(crate) fn fail(&mut self, why: String) {
        self.say(|| format!("BROKEN: {why}"));
        self.broken.get_or_insert(why);
    }

    pub(crate) fn later(&mut self, after: i64, event: Event) {
        self.queue.push((self.now + after, event));
    }

    pub(crate) fn troubled(&self) -> bool {
        self.now < self.plan.begins + self.plan.trouble_ends
    }

    /// A time within the second that it is: reads of the clock are finer than
    /// EC2's times.
    pub(crate) fn clock(&mut self) -> Timestamp {
        let fraction = self.rng.between(0, 999);
        Timestamp::from_millisecond((EPOCH + self.now) * 1000 + fraction).unwrap()
    }

    /// Lets time pass, with all that happens in it.
    pub(crate) fn pass(&mut self, seconds: i64) {
        let until = self.now + seconds;
        loop {
            let mut first = None;
            for (n, (due, _)) in self.queue.iter().enumerate() {
                if *due <= until && first.is_none_or(|(_, least)| *due < least) {
                    first = Some((n, *due));
                }
            }
            let Some((n, due)) = first else {
                break;
            };
            let (_, event) = self.queue.remove(n);
            self.reach(due);
            match event {
                Event::Late(change) => {
                    self.say(|| format!("late: {}", change.key()));
                    let _ = self.perform(&change);
                }
                Event::Others(other) => self.others_do(other),
                event => self.happens(event),
            }
        }
        self.reach(until);
    }

    fn reach(&mut self, second: i64) {
        if second > self.now {
            self.write_all();
            self.now = second;
        }
    }

    /// Whatever runs writes to all that it has.
    fn write_all(&mut self) {
        let up = self.machine.as_ref().is_some_and(|m| {
            matches!(
                m.past.facts.state.as_str(),
                "pending" | "running" | "stopping"
            )
        });
        if !up {
            return;
        }
        for disk in self.disks.values_mut() {
            let Some(attachment) = disk.past.facts.attachments.first() else {
                continue;
            };
            let of_unit = disk.copy_of.is_some() || disk.past.facts.id.len() == "vol-0".len();
            if of_unit
                && attachment.instance == INSTANCE
                && attachment.state == "attached"
                && let Some(device) = device(&attachment.device)
            {
                self.writes[device] += 1;
                disk.content.write(device, self.writes[device]);
            }
        }
    }
}

pub(crate) fn device(name: &str) -> Option<usize> {
    DEVICES.iter().position(|own| *own == name)
}

fn disk(volume: Volume) -> Disk {
    Disk {
        past: Past::new(volume, LONG_AGO),
        content: Content::default(),
        copy_of: None,
        was_attached: false,
    }
}

fn an_instance(up: bool) -> Instance {
    Instance {
        id: INSTANCE.to_owned(),
        state: if up { "running" } else { "stopped" }.to_owned(),
        launched_at: Some(at(LONG_AGO)),
        instance_type: "m7g.large".to_owned(),
        tags: BTreeMap::new(),
        lifecycle: None,
        instance_store: false,
        auto_public_ipv4: None,
        marketplace: false,
        outpost: None,
        operator: None,
        hibernates: false,
        stop_protected: false,
        checks: up.then(|| Checks {
            system: "ok".to_owned(),
            instance: "ok".to_owned(),
        }),
        state_reason: None,
    }
}

pub(crate) fn an_original(n: usize, attached: bool, rng: &mut Rng) -> Volume {
    let volume_type = rng.one_of(&["gp3", "gp2", "io2"]);
    Volume {
        id: format!("vol-{n}"),
        state: if attached { "in-use" } else { "available" }.to_owned(),
        encrypted: false,
        size: 8 + i32::try_from(n).unwrap(),
        volume_type: volume_type.to_owned(),
        iops: Some(3000),
        throughput: (volume_type == "gp3").then_some(125),
        zone: "eu-central-1a".to_owned(),
        multi_attach: false,
        created_at: Some(at(LONG_AGO)),
        attachments: attached
            .then(|| Attachment {
                instance: INSTANCE.to_owned(),
                device: DEVICES[n].to_owned(),
                state: "attached".to_owned(),
                delete_on_termination: rng.per_mille(500),
                attached_at: Some(at(LONG_AGO)),
            })
            .into_iter()
            .collect(),
        tags: tags(&[("Name", "data"), ("aws:cloudformation:stack-name", "web")]),
        operator: None,
        marketplace: false,
        outpost: None,
    }
}

fn record(plan: &Plan, instance: Option<Instance>, volumes: Vec<Volume>) -> Encryption {
    // What a run does not depend on is as in the record's format.
    static TEMPLATE: LazyLock<Encryption> = LazyLock::new(|| {
        serde_json::from_value(json!({
            "version": 1,
            "id": RUN,
            "control": "unencrypted-volume",
            "severity": "high",
            "resource": "arn:aws:ec2:eu-central-1:111122223333:instance/i-1",
            "resource_name": "web",
            "account": "111122223333",
            "region": "eu-central-1",
            "status": "in-progress",
            "way": "swap",
            "volumes": [],
            "actor": {},
            "policy_version": 1,
            "attempts": 1,
            "started_at": "2026-03-02T00:00:00Z",
        }))
        .unwrap()
    });
    Run {
        head: Head {
            started_at: at(plan.begins),
            ..TEMPLATE.clone().head
        },
        detail: EncryptionDetail {
            way: match plan.kind {
                Kind::Unattached => Way::Unattached,
                Kind::WhenStopped => Way::WhenStopped,
                Kind::Swap | Kind::Undo => Way::Swap,
            },
            instance,
            volumes,
            undoes: (plan.kind == Kind::Undo).then(|| EARLIER_RUN.to_owned()),
            ..TEMPLATE.clone().detail
        },
    }
}
