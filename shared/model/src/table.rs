//! What the ledger holds of one resource, and what each request does to it: the
//! conditions that it sends, in Rust. `shared/aws/tests/it/model.rs` holds the one
//! against the other.

/// A set of rules, a bit for each.
pub type Rules = u8;
/// An entry, by the order in which they were begun.
pub type Id = u8;

/// Entries that can be begun at most.
pub const ENTRIES: usize = 8;

/// The value of `lease_until`: one for each attempt of each invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The invocation.
    pub holder: u8,
    /// Its attempt, from 1.
    pub attempt: u8,
    /// Ended before its time by whoever held it.
    pub ended: bool,
    /// How often it has been ended: that shows once it is ended again.
    pub ends: u8,
}

impl Lease {
    /// Whether it has the value that was read.
    fn is(self, read: Self) -> bool {
        (self.holder, self.attempt, self.ended) == (read.holder, read.attempt, read.ended)
            && (!self.ended || self.ends == read.ends)
    }
}

/// The lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lock {
    /// The entry that it is held for.
    pub entry: Id,
    /// The invocation that holds it.
    pub holder: u8,
    /// Until when.
    pub lease: Lease,
    /// Somebody wants another look.
    pub look_again: bool,
}

/// How far an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Its run is at work, or was cut off.
    InProgress,
    /// All is closed.
    Remediated,
    /// Something is not.
    Failed,
    /// The control has tripped, before its run went on or by it.
    Tripped,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The event that it was begun for.
    pub event: u8,
    /// How far it is.
    pub status: Status,
    /// It counts as told.
    pub told: bool,
    /// The rules that it has kept as they were.
    pub before: Rules,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The invocation.
    pub run: u8,
    /// Its attempt, from 1.
    pub attempt: u8,
}

/// A request that changes the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Begins an entry, with the lapsed lock that is taken over.
    Begin(Holder, Option<Lock>, Id, Entry),
    /// Goes on with an entry that has so many changes which were not counted.
    /// Without a lapsed lock to take over, the run renews its own.
    GoOn(Holder, Option<Lock>, Id, Entry, u8),
    /// Asks the holder of a live lock to look again.
    Ask(Lock),
    /// Stores what came of it.
    Finish(Id, Entry),
    /// The lock goes unless somebody wants another look.
    Close(Holder, Id),
    /// The lock goes although somebody does.
    CloseAndLook(Holder, Id),
    /// The run failed: its retry goes on, unless somebody wants another look.
    CloseFailed(Holder, Id),
    /// As that, although somebody does.
    CloseFailedAndLook(Holder, Id),
    /// Ends the lease of a run that is to be tried again.
    Release(Holder),
    /// The control trips; its notice is to be told.
    Trip,
    /// The notice of the trip was told.
    TripTold,
    /// The control trips for the resource.
    TripResource,
    /// The sweep told an entry.
    Told(Id),
}

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It took effect.
    Done,
    /// Refused by a live lock, as it is.
    Busy(Lock),
    /// Refused by the budget's counter alone.
    OverBudget,
    /// Refused.
    Refused,
}

/// A mistake that the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mistake {
    /// None: as it is.
    None,
    /// `begin` and `go_on` take the lock as it comes.
    LockWithoutCondition,
    /// `close` deletes the lock without a look at `look_again`.
    CloseWithoutCondition,
    /// The counter counts without a limit.
    CountWithoutCondition,
    /// A lock that is taken over is written anew, without the wish on it.
    WishOverwritten,
    /// Every lease that was ended looks the same.
    EndedAlike,
    /// A run that failed leaves the wish to its retry.
    FailedLeavesWish,
    /// The lapsed lease of an invocation that is still at work.
    LeaseTooShort,
}

/// What the ledger holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Items {
    /// The resource's lock.
    pub lock: Option<Lock>,
    /// The time of the lock's lease has passed.
    pub lapsed: bool,
    /// The entries.
    pub entries: [Option<Entry>; ENTRIES],
    /// The budget's counter.
    pub changes: u8,
    /// What this resource has counted of it.
    pub own: u8,
    /// What is noted of that, because the resource exceeds the budget by itself.
    pub tripped: u8,
    /// The control has tripped; whether that was told.
    pub trip: Option<bool>,
    /// The control has tripped for the resource.
    pub resource_trip: bool,
}

impl Items {
    /// The lock, while its lease has not lapsed.
    #[must_use]
    pub fn live(&self) -> Option<Lock> {
        self.lock.filter(|lock| !lock.lease.ended && !self.lapsed)
    }

    /// Carries out a request: all of it or nothing.
    pub fn send(&mut self, request: Request, budget: u8, mistake: Mistake) -> Answer {
        match request {
            Request::Begin(holder, held, id, entry) => {
                let changes = entry.before.count_ones() as u8;
                let free = self.entry(id).is_none();
                self.take(holder, held, id, entry, changes, free, budget, mistake)
            }
            Request::GoOn(holder, held, id, entry, more) => {
                let there = self.entry(id).is_some();
                self.take(holder, held, id, entry, more, there, budget, mistake)
            }
            Request::Ask(read) => self.with_lock(
                |lock| lock.entry == read.entry && lock.lease.is(read.lease),
                |items, mut lock| {
                    lock.look_again = true;
                    items.lock = Some(lock);
                },
            ),
            Request::Finish(id, entry) => {
                self.put(id, entry);
                Answer::Done
            }
            Request::Close(holder, id) => self.with_lock(
                |lock| {
                    let quiet = !lock.look_again || mistake == Mistake::CloseWithoutCondition;
                    ours(lock, holder, id) && quiet
                },
                |items, _| items.free(id),
            ),
            Request::CloseAndLook(holder, id) => {
                self.with_lock(|lock| ours(lock, holder, id), |items, _| items.free(id))
            }
            Request::CloseFailed(holder, id) => self.with_lock(
                |lock| {
                    let quiet = !lock.look_again || mistake == Mistake::FailedLeavesWish;
                    ours(lock, holder, id) && quiet
                },
                |items, lock| {
                    items.lock = Some(ended(lock, mistake));
                    items.told(id);
                },
            ),
            Request::CloseFailedAndLook(holder, id) => self.with_lock(
                |lock| ours(lock, holder, id),
                |items, mut lock| {
                    lock.look_again = false;
                    items.lock = Some(ended(lock, mistake));
                    items.told(id);
                },
            ),
            Request::Release(holder) => self.with_lock(
                |lock| lock.holder == holder.run,
                |items, lock| items.lock = Some(ended(lock, mistake)),
            ),
            Request::Trip if self.trip.is_some() => Answer::Refused,
            Request::Trip => {
                self.trip = Some(false);
                Answer::Done
            }
            Request::TripTold => {
                self.trip = Some(true);
                Answer::Done
            }
            Request::TripResource => {
                // What it has spent is noted each time, the trip once.
                self.tripped = self.own;
                match std::mem::replace(&mut self.resource_trip, true) {
                    true => Answer::Refused,
                    false => Answer::Done,
                }
            }
            Request::Told(id) => {
                self.told(id);
                Answer::Done
            }
        }
    }

    /// Takes the lock, stores the entry and counts its changes.
    #[allow(clippy::too_many_arguments, reason = "what `begin` and `go_on` share")]
    fn take(
        &mut self,
        holder: Holder,
        held: Option<Lock>,
        id: Id,
        entry: Entry,
        count: u8,
        may_put: bool,
        budget: u8,
        mistake: Mistake,
    ) -> Answer {
        let counts = mistake != Mistake::CountWithoutCondition;
        // More than all of the budget: nothing is sent.
        if count > budget && counts {
            return Answer::OverBudget;
        }
        let renews = held.is_none() && may_put && self.entry(id).is_some();
        let lock_allows = match (self.lock, held) {
            (Some(lock), None) if renews => ours(lock, holder, id),
            (there, None) => there.is_none() && !renews,
            (Some(lock), Some(read)) => {
                lock.entry == read.entry && lock.lease.is(read.lease) && lock.holder == read.holder
            }
            (None, Some(_)) => false,
        };
        let lock_allows = lock_allows || mistake == Mistake::LockWithoutCondition;
        let room = count == 0 || self.changes + count <= budget || !counts;
        if !(lock_allows && may_put && room) {
            return match self.live() {
                // A renewed lock is not given back by the refusal.
                Some(lock) if !lock_allows && !renews => Answer::Busy(lock),
                _ if lock_allows && may_put => Answer::OverBudget,
                _ => Answer::Refused,
            };
        }
        let was = self.lock.map(|lock| lock.lease);
        let same = was.filter(|was| (was.holder, was.attempt) == (holder.run, holder.attempt));
        let wish = self.lock.is_some_and(|lock| lock.look_again);
        self.lock = Some(Lock {
            entry: id,
            holder: holder.run,
            lease: Lease {
                holder: holder.run,
                attempt: holder.attempt,
                ended: false,
                ends: same.map_or(0, |was| was.ends),
            },
            // The round that a renewal begins meets the wish.
            look_again: wish && !renews && mistake != Mistake::WishOverwritten,
        });
        self.lapsed = false;
        self.changes += count;
        self.own += count;
        self.put(id, entry);
        Answer::Done
    }

    /// What a request reads or writes, and nothing else.
    #[must_use]
    pub fn touched_by(&self, request: Request) -> Self {
        let entry = |of: Id| {
            let mut entries = [None; ENTRIES];
            entries[usize::from(of)] = self.entry(of);
            entries
        };
        let (lock, lapsed) = (self.lock, self.lapsed);
        match request {
            Request::Begin(_, _, id, _) | Request::GoOn(_, _, id, ..) => Self {
                entries: entry(id),
                trip: None,
                resource_trip: false,
                ..*self
            },
            Request::Close(_, id)
            | Request::CloseAndLook(_, id)
            | Request::CloseFailed(_, id)
            | Request::CloseFailedAndLook(_, id) => Self {
                lock,
                lapsed,
                entries: entry(id),
                ..Self::default()
            },
            Request::Ask(_) | Request::Release(_) => Self {
                lock,
                lapsed,
                ..Self::default()
            },
            Request::Finish(id, _) | Request::Told(id) => Self {
                entries: entry(id),
                ..Self::default()
            },
            Request::Trip | Request::TripTold => Self {
                trip: self.trip,
                ..Self::default()
            },
            Request::TripResource => Self {
                changes: self.changes,
                own: self.own,
                tripped: self.tripped,
                resource_trip: self.resource_trip,
                ..Self::default()
            },
        }
    }

    fn with_lock(
        &mut self,
        holds: impl FnOnce(Lock) -> bool,
        then: impl FnOnce(&mut Self, Lock),
    ) -> Answer {
        match self.lock {
            Some(lock) if holds(lock) => {
                then(self, lock);
                Answer::Done
            }
            _ => Answer::Refused,
        }
    }

    fn free(&mut self, id: Id) {
        self.lock = None;
        self.lapsed = false;
        self.told(id);
    }

    /// An entry.
    #[must_use]
    pub fn entry(&self, id: Id) -> Option<Entry> {
        self.entries.get(usize::from(id)).copied().flatten()
    }

    fn put(&mut self, id: Id, entry: Entry) {
        let told = false;
        self.entries[usize::from(id)] = Some(Entry { told, ..entry });
    }

    fn told(&mut self, id: Id) {
        if let Some(entry) = &mut self.entries[usize::from(id)] {
            entry.told = true;
        }
    }
}

fn ours(lock: Lock, holder: Holder, id: Id) -> bool {
    lock.entry == id && lock.holder == holder.run
}

fn ended(mut lock: Lock, mistake: Mistake) -> Lock {
    if mistake == Mistake::EndedAlike {
        (lock.lease.holder, lock.lease.attempt) = (0, 0);
    } else {
        lock.lease.ends += 1;
    }
    lock.lease.ended = true;
    lock
}
