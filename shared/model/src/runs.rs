//! The runs: who asks the ledger for what, and when, and what goes wrong.
//!
//! One step is one request, or one call of EC2, with all that a run does by
//! itself until the next one. Two are one where nobody could tell what came
//! between: the last read of the group and the write of what came of it, telling
//! and closing, a call that failed without an effect and the end of the lease.

use std::collections::BTreeSet;
use std::sync::Mutex;

use stateright::{Checker, Model, Property};

use crate::Checked;
use crate::table::{
    Answer, ENTRIES, Entry, Holder, Id, Items, Lock, Mistake, Request, Rules, Status,
};

/// Invocations at most: three runs, and two that the sweep asks for.
const RUNS: usize = 5;
/// As in the handler: looks of an attempt, and rounds of changes in a look.
const MOST_ROUNDS: u8 = 4;

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The event of each run: that of the rule of this number. A second run of
    /// the same event is a redelivery.
    pub events: &'static [u8],
    /// Lambda's attempts.
    pub attempts: u8,
    /// How often something goes wrong.
    pub faults: u8,
    /// Changes that the control may make.
    pub budget: u8,
    /// How many of them other resources have made.
    pub others: u8,
    /// Rules that EC2 refuses to revoke.
    pub stuck: Rules,
    /// The sweep comes at any time, and not only when everything rests.
    pub sweeps: bool,
}

/// A request with what it met: only what it touches, and the budget.
pub type Met = (Items, Request, u8);

/// Checks the protocol, and which requests the ledger was met with.
#[must_use]
pub fn check(bounds: Bounds, mistake: Mistake) -> (Checked, BTreeSet<Met>) {
    let (checked, checker) = crate::check(Protocol {
        bounds,
        mistake,
        met: Mutex::default(),
    });
    let met = checker.model().met.lock().map(|met| met.clone());
    (checked, met.unwrap_or_default())
}

/// The runs of one resource, its ledger, and the rules that people open.
#[derive(Debug)]
struct Protocol {
    bounds: Bounds,
    mistake: Mistake,
    met: Mutex<BTreeSet<Met>>,
}

/// What a run has of the entry that it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Own {
    id: Id,
    entry: Entry,
    /// A change has failed.
    bad: bool,
    /// The resource exceeds the budget by itself: the control trips for it at the
    /// end.
    trips: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Nobody has called.
    Idle,
    /// Called, for the first time or again.
    Due,
    /// Reads the group, and of the ledger the lock, whether it is not live for
    /// others, and whether the control has tripped.
    Gather(Option<Rules>, Option<(Option<Lock>, bool, bool)>),
    /// Reads the entry of a lapsed lock.
    Read(Rules, bool, Lock),
    /// Begins or goes on: what to change.
    Take {
        own: Own,
        new: bool,
        held: Option<Lock>,
        changes: Rules,
        more: u8,
        round: u8,
    },
    /// Reads how much of the budget is spent, and by whom: it was refused.
    Spent {
        own: Own,
        new: bool,
        held: Option<Lock>,
        changes: Rules,
        round: u8,
    },
    Ask(Lock),
    /// The control trips for the resource: then it looks again, or ends with its
    /// entry.
    TripResource(Option<Own>),
    /// The control trips: then it looks again, or ends with its entry.
    Trip(Option<Own>),
    TripTold(Option<Own>),
    Apply {
        own: Own,
        changes: Rules,
        failed: Rules,
        round: u8,
    },
    Verify {
        own: Own,
        failed: Rules,
        round: u8,
    },
    Finish(Own),
    Close(Own),
    CloseAndLook(Own),
    Release,
    /// It answered.
    Done,
    /// Every attempt failed: its event is a dead letter. The last one was cut
    /// off, or told what it could not do.
    Dead {
        cut_off: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    at: At,
    attempt: u8,
    looks: u8,
    event: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    items: Items,
    runs: [Run; RUNS],
    /// The rules that are open now, and that have ever been.
    open: Rules,
    opened: Rules,
    faults: u8,
    /// The sweep has read that this entry is to be told.
    sweep: Option<Id>,
    /// Entries whose last outcome `notify` was asked to tell.
    asked: u8,
    asked_trip: bool,
    /// The entry under which each rule was closed.
    closed: [Option<Id>; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Somebody opens the rule of this number; its event calls its runs.
    Open(u8),
    /// The run's next request or call.
    Next(u8),
    /// Of its two reads the ledger's first.
    ReadLedger(u8),
    /// The next request or call fails without an effect.
    Fails(u8),
    /// It takes effect, and the answer is lost.
    AnswerLost(u8),
    /// It takes effect, the answer is lost, and the SDK sends it again.
    SentTwice(u8),
    /// The invocation is killed.
    Crash(u8),
    /// Time passes: the lease of the lock lapses.
    Lapse,
    /// The sweep reads what is untold: it asks for a check, or tells.
    Sweep(Id),
    SweepTold,
}

enum Ending {
    Answered,
    Failed,
    CutOff,
}

impl Run {
    fn is_active(&self) -> bool {
        !matches!(self.at, At::Idle | At::Due | At::Done | At::Dead { .. })
    }

    /// Has begun and not closed: it may change the group.
    fn may_change(&self) -> bool {
        match self.at {
            At::Apply { .. } | At::Verify { .. } => true,
            At::Take { new, held, .. } | At::Spent { new, held, .. } => !new && held.is_none(),
            _ => false,
        }
    }
}

impl Protocol {
    /// An error: it ends its lease, for the retry.
    fn fails(&self, world: &mut World, run: usize) {
        world.runs[run].at = At::Release;
    }

    fn ends(&self, world: &mut World, run: usize, ending: Ending) {
        let state = &mut world.runs[run];
        state.looks = 0;
        let attempt = state.attempt;
        state.at = match ending {
            Ending::Answered => At::Done,
            _ if state.attempt < self.bounds.attempts => {
                state.attempt += 1;
                At::Due
            }
            Ending::Failed => At::Dead { cut_off: false },
            Ending::CutOff => At::Dead { cut_off: true },
        };
        // What differs no more is not told apart.
        if state.attempt == attempt {
            state.attempt = 0;
        }
    }

    /// Looks again, at most four times.
    fn again(&self, world: &mut World, run: usize) {
        let state = &mut world.runs[run];
        state.looks += 1;
        if state.looks == MOST_ROUNDS {
            self.fails(world, run);
        } else {
            state.at = At::Gather(None, None);
        }
    }

    fn send(&self, world: &mut World, request: Request) -> Answer {
        if let Ok(mut met) = self.met.lock() {
            met.insert((world.items.touched_by(request), request, self.bounds.budget));
        }
        if let Request::Begin(_, _, id, _) | Request::GoOn(_, _, id, ..) | Request::Finish(id, _) =
            request
        {
            let before = world.items.entry(id);
            let answer = world.items.send(request, self.bounds.budget, self.mistake);
            if answer == Answer::Done || before.is_none() {
                world.asked &= !(1 << id);
            }
            return answer;
        }
        world.items.send(request, self.bounds.budget, self.mistake)
    }

    /// The run's next request or call. `heard`: the answer arrives.
    fn next(&self, world: &mut World, run: usize, heard: bool) {
        let holder = Holder {
            run: run as u8,
            attempt: world.runs[run].attempt,
        };
        match world.runs[run].at {
            At::Due => {
                world.runs[run].at = At::Gather(Some(world.open), None);
            }
            At::Gather(None, ledger) => {
                world.runs[run].at = At::Gather(Some(world.open), ledger);
                self.gathered(world, run);
            }
            At::Gather(facts, _) => {
                world.runs[run].at = At::Gather(facts, Some(self.standing(world, run)));
                self.gathered(world, run);
            }
            At::Read(facts, tripped, lock) => {
                let open = world.items.entry(lock.entry).filter(|entry| {
                    let event = entry.event == world.runs[run].event;
                    !entry.told || lock.holder == run as u8 || event
                });
                match open {
                    Some(entry) => {
                        let own = Own {
                            id: lock.entry,
                            entry,
                            bad: false,
                            trips: false,
                        };
                        self.goes_on(world, run, own, lock, facts, tripped);
                    }
                    None => self.begins(world, run, facts, tripped, Some(lock)),
                }
            }
            At::Take {
                own,
                new,
                held,
                changes,
                more,
                round,
            } => {
                let mut own = own;
                if new {
                    let free = world.items.entries.iter().position(Option::is_none);
                    own.id = free.expect("room for another entry") as Id;
                }
                let request = if new {
                    Request::Begin(holder, held, own.id, own.entry)
                } else {
                    Request::GoOn(holder, held, own.id, own.entry, more)
                };
                let answer = self.send(world, request);
                if !heard {
                    return self.fails(world, run);
                }
                match answer {
                    Answer::Done => {
                        let tries = matches!(own.entry.status, Status::InProgress | Status::Failed);
                        world.runs[run].at = if changes != 0 {
                            At::Apply {
                                own,
                                changes,
                                failed: 0,
                                round,
                            }
                        } else if tries {
                            At::Verify {
                                own,
                                failed: 0,
                                round,
                            }
                        } else {
                            At::Finish(own)
                        };
                    }
                    // In the midst of a run its lock is gone.
                    Answer::Busy(_) | Answer::Refused if !new && held.is_none() => {
                        self.fails(world, run);
                    }
                    Answer::Busy(lock) => world.runs[run].at = At::Ask(lock),
                    Answer::Refused => self.again(world, run),
                    Answer::OverBudget => {
                        world.runs[run].at = At::Spent {
                            own,
                            new,
                            held,
                            changes,
                            round,
                        };
                    }
                }
            }
            At::Spent {
                own,
                new,
                held,
                changes,
                round,
            } => self.over_budget(world, run, own, new, held, changes, round),
            At::TripResource(own) => {
                self.send(world, Request::TripResource);
                if !heard {
                    return self.fails(world, run);
                }
                self.tripped(world, run, own);
            }
            At::Ask(lock) => {
                let answer = self.send(world, Request::Ask(lock));
                if !heard {
                    return self.fails(world, run);
                }
                match answer {
                    Answer::Done => self.ends(world, run, Ending::Answered),
                    _ => self.again(world, run),
                }
            }
            At::Trip(own) => {
                let answer = self.send(world, Request::Trip);
                if !heard {
                    return self.fails(world, run);
                }
                match answer {
                    Answer::Done => world.runs[run].at = At::TripTold(own),
                    _ => self.tripped(world, run, own),
                }
            }
            At::TripTold(own) => {
                world.asked_trip = true;
                self.send(world, Request::TripTold);
                if !heard {
                    return self.fails(world, run);
                }
                self.tripped(world, run, own);
            }
            At::Apply {
                own,
                changes,
                failed,
                round,
            } => {
                let rule = changes & changes.wrapping_neg();
                let refused = self.bounds.stuck & rule != 0;
                if !refused && world.open & rule != 0 {
                    world.open &= !rule;
                    world.closed[rule.trailing_zeros() as usize] = Some(own.id);
                }
                self.applied(world, run, own, changes, failed, round, refused || !heard);
            }
            At::Verify { own, failed, round } => {
                let facts = world.open;
                let news = facts & !own.entry.before;
                if own.trips {
                    if failed != 0 || facts == 0 {
                        self.concludes(world, run, own, failed != 0);
                    } else {
                        let mut own = own;
                        own.entry.status = Status::Tripped;
                        world.runs[run].at = At::TripResource(Some(own));
                    }
                    self.next(world, run, heard);
                } else if news != 0 && round < MOST_ROUNDS {
                    let mut own = own;
                    own.bad = failed != 0;
                    own.entry.before |= facts;
                    own.entry.status = Status::InProgress;
                    world.runs[run].at = At::Take {
                        own,
                        new: false,
                        held: None,
                        changes: facts,
                        more: facts.count_ones() as u8,
                        round: round + 1,
                    };
                } else {
                    let bad = failed != 0 || facts != 0;
                    self.concludes(world, run, own, bad);
                    self.next(world, run, heard);
                }
            }
            At::Finish(own) => {
                self.send(world, Request::Finish(own.id, own.entry));
                if !heard {
                    return self.fails(world, run);
                }
                world.runs[run].at = At::Close(own);
            }
            At::Close(own) => {
                world.asked |= 1 << own.id;
                let failed = own.entry.status == Status::Failed;
                let request = if failed {
                    Request::CloseFailed(holder, own.id)
                } else {
                    Request::Close(holder, own.id)
                };
                let answer = self.send(world, request);
                if !heard {
                    return self.fails(world, run);
                }
                match answer {
                    Answer::Done if failed => self.ends(world, run, Ending::Failed),
                    Answer::Done => self.ends(world, run, Ending::Answered),
                    _ => world.runs[run].at = At::CloseAndLook(own),
                }
            }
            At::CloseAndLook(own) => {
                let failed = own.entry.status == Status::Failed;
                let request = if failed {
                    Request::CloseFailedAndLook(holder, own.id)
                } else {
                    Request::CloseAndLook(holder, own.id)
                };
                let answer = self.send(world, request);
                if !heard {
                    return self.fails(world, run);
                }
                match answer {
                    Answer::Done => self.again(world, run),
                    // Somebody else has gone on.
                    _ if failed => self.ends(world, run, Ending::Failed),
                    _ => self.ends(world, run, Ending::Answered),
                }
            }
            At::Release => {
                self.send(world, Request::Release(holder));
                self.ends(world, run, Ending::CutOff);
            }
            At::Idle | At::Done | At::Dead { .. } => unreachable!(),
        }
    }

    fn standing(&self, world: &World, run: usize) -> (Option<Lock>, bool, bool) {
        let items = &world.items;
        let live_for_others = items.live().is_some_and(|lock| lock.holder != run as u8);
        let tripped = items.trip.is_some() || items.resource_trip;
        (items.lock, !live_for_others, tripped)
    }

    /// The budget has no room for all changes: the control trips, for the resource
    /// alone if it would exceed the budget by itself. Then it makes those of the
    /// changes that were counted before and those that there is room for.
    #[allow(clippy::too_many_arguments, reason = "a request in all its parts")]
    fn over_budget(
        &self,
        world: &mut World,
        run: usize,
        mut own: Own,
        new: bool,
        held: Option<Lock>,
        changes: Rules,
        round: u8,
    ) {
        let items = &world.items;
        let counted = match new {
            true => 0,
            false => items.entry(own.id).map_or(0, |entry| entry.before),
        };
        let mut more = changes & !counted;
        let in_run = !new && held.is_none();
        let wanted = more.count_ones() as u8;
        if !own.trips && items.own + wanted <= self.bounds.budget {
            own.entry.before = counted;
            own.entry.status = Status::Failed;
            world.runs[run].at = At::Trip(in_run.then_some(own));
            return;
        }
        let room = self.bounds.budget - items.changes;
        while more.count_ones() as u8 > room {
            more &= more - 1;
        }
        let changes = changes & counted | more;
        own.entry.before = counted | more;
        own.trips = true;
        world.runs[run].at = if changes != 0 {
            At::Take {
                own,
                new,
                held,
                changes,
                more: more.count_ones() as u8,
                round,
            }
        } else {
            own.entry.status = match own.bad {
                true => Status::Failed,
                false => Status::Tripped,
            };
            At::TripResource(in_run.then_some(own))
        };
    }

    fn gathered(&self, world: &mut World, run: usize) {
        let At::Gather(Some(facts), Some((lock, takes, tripped))) = world.runs[run].at else {
            return;
        };
        match lock.filter(|_| takes) {
            Some(lock) => world.runs[run].at = At::Read(facts, tripped, lock),
            None => self.begins(world, run, facts, tripped, None),
        }
    }

    /// Nothing is open that an earlier attempt has left.
    fn begins(
        &self,
        world: &mut World,
        run: usize,
        facts: Rules,
        tripped: bool,
        held: Option<Lock>,
    ) {
        // What is found while the control has tripped is told without a lock.
        if facts == 0 || tripped {
            return self.ends(world, run, Ending::Answered);
        }
        let own = Own {
            // It gets its id as it begins.
            id: Id::MAX,
            bad: false,
            trips: false,
            entry: Entry {
                event: world.runs[run].event,
                status: Status::InProgress,
                told: false,
                before: facts,
            },
        };
        world.runs[run].at = At::Take {
            own,
            new: true,
            held,
            changes: facts,
            more: 0,
            round: 1,
        };
    }

    fn goes_on(
        &self,
        world: &mut World,
        run: usize,
        mut own: Own,
        lock: Lock,
        facts: Rules,
        tripped: bool,
    ) {
        own.entry.told = false;
        let (mut changes, mut more) = (0, 0);
        if facts != 0 && tripped {
            own.entry.status = Status::Tripped;
        } else if facts != 0 {
            more = (facts & !own.entry.before).count_ones() as u8;
            own.entry.before |= facts;
            own.entry.status = Status::InProgress;
            changes = facts;
        }
        world.runs[run].at = At::Take {
            own,
            new: false,
            held: Some(lock),
            changes,
            more,
            round: 1,
        };
    }

    fn tripped(&self, world: &mut World, run: usize, own: Option<Own>) {
        match own {
            Some(own) => world.runs[run].at = At::Finish(own),
            None => self.again(world, run),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a round in all its parts")]
    fn applied(
        &self,
        world: &mut World,
        run: usize,
        own: Own,
        changes: Rules,
        failed: Rules,
        round: u8,
        fails: bool,
    ) {
        let rule = changes & changes.wrapping_neg();
        let failed = if fails { failed | rule } else { failed };
        let changes = changes & !rule;
        world.runs[run].at = if changes == 0 {
            At::Verify { own, failed, round }
        } else {
            At::Apply {
                own,
                changes,
                failed,
                round,
            }
        };
    }

    fn concludes(&self, world: &mut World, run: usize, mut own: Own, bad: bool) {
        own.entry.status = if bad {
            Status::Failed
        } else {
            Status::Remediated
        };
        world.runs[run].at = At::Finish(own);
    }

    /// The next request or call fails without an effect.
    fn broken(&self, world: &mut World, run: usize) {
        match world.runs[run].at {
            At::Apply {
                own,
                changes,
                failed,
                round,
            } => self.applied(world, run, own, changes, failed, round, true),
            At::Verify { own, .. } => self.concludes(world, run, own, true),
            // What did nothing may as well fail just before the lease is ended.
            _ => {
                self.fails(world, run);
                self.next(world, run, true);
            }
        }
    }
}

fn is_read(at: At) -> bool {
    matches!(
        at,
        At::Due | At::Gather(..) | At::Read(..) | At::Spent { .. }
    )
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let run = |n: usize| Run {
            at: At::Idle,
            attempt: 1,
            looks: 0,
            event: self.bounds.events.get(n).copied().unwrap_or(u8::MAX),
        };
        vec![World {
            items: Items {
                changes: self.bounds.others,
                ..Items::default()
            },
            runs: std::array::from_fn(run),
            open: 0,
            opened: 0,
            faults: 0,
            sweep: None,
            asked: 0,
            asked_trip: false,
            closed: [None; 3],
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (n, state) in world.runs.iter().enumerate() {
            let run = n as u8;
            if state.at == At::Idle {
                let first = self
                    .bounds
                    .events
                    .iter()
                    .position(|event| *event == state.event);
                if first == Some(n) && world.opened & (1 << state.event) == 0 {
                    // In the order of their numbers: they are alike.
                    let order = (1u8 << state.event) - 1;
                    if world.opened & order == order {
                        steps.push(Step::Open(state.event));
                    }
                }
                if first.is_some_and(|first| first < n && world.runs[first].at != At::Idle) {
                    steps.push(Step::Next(run));
                }
                continue;
            }
            if matches!(state.at, At::Done | At::Dead { .. }) {
                continue;
            }
            steps.push(Step::Next(run));
            if matches!(state.at, At::Due | At::Gather(None, None)) {
                steps.push(Step::ReadLedger(run));
            }
            if state.at == At::Due || world.faults == self.bounds.faults {
                continue;
            }
            steps.push(Step::Crash(run));
            if !is_read(state.at) && state.at != At::Release {
                steps.extend([Step::Fails(run), Step::AnswerLost(run)]);
            }
            if matches!(state.at, At::Ask(_)) {
                steps.push(Step::SentTwice(run));
            }
        }
        if let Some(lock) = world.items.live() {
            let run = &world.runs[usize::from(lock.holder)];
            let at_work = run.is_active() && run.attempt == lock.lease.attempt;
            if !at_work || self.mistake == Mistake::LeaseTooShort {
                steps.push(Step::Lapse);
            }
        }
        let rests = !world
            .runs
            .iter()
            .any(|run| run.is_active() || run.at == At::Due);
        match world.sweep {
            None if !self.bounds.sweeps && !rests => {}
            Some(_) => steps.push(Step::SweepTold),
            None => {
                for id in 0..ENTRIES as Id {
                    if world.items.entry(id).is_some_and(|entry| !entry.told)
                        && self.sweeps(world, id)
                    {
                        steps.push(Step::Sweep(id));
                    }
                }
                if world.items.trip == Some(false) && !world.runs.iter().any(Run::is_active) {
                    steps.push(Step::Sweep(Id::MAX));
                }
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        let world = &mut next;
        let fault = matches!(
            step,
            Step::Fails(_) | Step::AnswerLost(_) | Step::SentTwice(_) | Step::Crash(_)
        );
        world.faults += u8::from(fault);
        match step {
            Step::Open(rule) => {
                world.open |= 1 << rule;
                world.opened |= 1 << rule;
                let first = self.bounds.events.iter().position(|event| *event == rule);
                let first = first.expect("a run of each event");
                world.runs[first].at = At::Due;
            }
            Step::Next(run) if world.runs[usize::from(run)].at == At::Idle => {
                world.runs[usize::from(run)].at = At::Due;
            }
            Step::Next(run) => self.next(world, run.into(), true),
            Step::ReadLedger(run) => {
                let run = usize::from(run);
                world.runs[run].at = At::Gather(None, Some(self.standing(world, run)));
            }
            Step::Fails(run) => self.broken(world, run.into()),
            Step::AnswerLost(run) => self.next(world, run.into(), false),
            Step::SentTwice(run) => {
                let at = world.runs[usize::from(run)].at;
                self.next(world, run.into(), true);
                world.runs[usize::from(run)].at = at;
            }
            Step::Crash(run) => self.ends(world, run.into(), Ending::CutOff),
            Step::Lapse => world.items.lapsed = true,
            Step::Sweep(Id::MAX) => {
                world.asked_trip = true;
                self.send(world, Request::TripTold);
            }
            Step::Sweep(id) => self.sweep(world, id),
            Step::SweepTold => {
                if let Some(id) = world.sweep.take() {
                    world.asked |= 1 << id;
                    self.send(world, Request::Told(id));
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two that change at once", |_, world: &World| {
                world.runs.iter().filter(|run| run.may_change()).count() <= 1
            }),
            Property::always(
                "the budget is never exceeded",
                |model: &Protocol, world: &World| {
                    let closed = world.closed.iter().flatten().count();
                    world.items.changes <= model.bounds.budget && closed <= world.items.own.into()
                },
            ),
            Property::always("before is stored ahead and stays", |_, world: &World| {
                world.closed.iter().enumerate().all(|(rule, id)| {
                    id.is_none_or(|id| {
                        let entry = world.items.entry(id);
                        entry.is_some_and(|entry| entry.before & (1 << rule) != 0)
                    })
                })
            }),
            Property::always("what counts as told was told", |_, world: &World| {
                (0..ENTRIES).all(|id| {
                    let told = world.items.entries[id].is_some_and(|entry| entry.told);
                    !told || world.asked & (1 << id) != 0
                }) && (world.items.trip != Some(true) || world.asked_trip)
            }),
            Property::always(
                "no wish to look again is lost",
                |model: &Protocol, world: &World| {
                    !model.rests(world)
                        || world.items.trip.is_some()
                        || world.items.resource_trip
                        || world
                            .runs
                            .iter()
                            .any(|run| run.at == At::Dead { cut_off: true })
                        || (0..3).all(|rule| {
                            let told = |entry: &Entry| {
                                entry.status == Status::Failed && entry.before & (1 << rule) != 0
                            };
                            world.open & (1 << rule) == 0
                                || world.items.entries.iter().flatten().any(told)
                        })
                },
            ),
            Property::always(
                "nothing is untold in the end",
                |model: &Protocol, world: &World| {
                    !model.rests(world)
                        || (world.items.entries.iter().flatten().all(|entry| entry.told)
                            && world.items.trip != Some(false))
                },
            ),
            Property::always("no event is given up", |model: &Protocol, world: &World| {
                model.bounds.faults >= model.bounds.attempts
                    || model.bounds.stuck != 0
                    || !world
                        .runs
                        .iter()
                        .any(|run| matches!(run.at, At::Dead { .. }))
            }),
            Property::sometimes("it comes to rest", |model: &Protocol, world: &World| {
                model.rests(world)
            }),
        ]
    }
}

impl Protocol {
    fn rests(&self, world: &World) -> bool {
        if world
            .runs
            .iter()
            .any(|run| run.is_active() || run.at == At::Due)
        {
            return false;
        }
        let mut steps = Vec::new();
        self.actions(world, &mut steps);
        steps.is_empty()
    }

    /// What the sweep does about an untold entry, or none: its run is at work.
    fn sweeps(&self, world: &World, id: Id) -> bool {
        let holds = world.items.lock.filter(|lock| lock.entry == id);
        let open = world
            .items
            .entry(id)
            .is_some_and(|entry| matches!(entry.status, Status::InProgress | Status::Failed));
        match holds {
            Some(_) if open => {
                world.items.live().is_none()
                    && self.free_slot(world).is_some()
                    // Its last check has not ended yet.
                    && !world.runs[self.bounds.events.len()..]
                        .iter()
                        .any(|run| run.is_active() || run.at == At::Due)
            }
            _ => true,
        }
    }

    fn free_slot(&self, world: &World) -> Option<usize> {
        (self.bounds.events.len()..RUNS).find(|n| world.runs[*n].at == At::Idle)
    }

    fn sweep(&self, world: &mut World, id: Id) {
        let entry = world.items.entry(id).expect("it was seen untold");
        let holds = world.items.lock.is_some_and(|lock| lock.entry == id);
        if holds && matches!(entry.status, Status::InProgress | Status::Failed) {
            let slot = self.free_slot(world).expect("it was seen free");
            world.runs[slot].at = At::Due;
            world.runs[slot].event = entry.event;
        } else {
            world.sweep = Some(id);
        }
    }
}
