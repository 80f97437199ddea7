//! How `notify` sends a message: claim, publish, mark. Several deliveries of the
//! same event, at once or one after another.

use std::collections::BTreeSet;
use std::sync::Mutex;

use stateright::{Model, Property};

use crate::Checked;

/// Deliveries of the event.
const SENDERS: usize = 3;

/// The message's `sent#` item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sent {
    /// It was marked as sent.
    pub sent: bool,
    /// The claim's time has passed, or it was given back.
    pub lapsed: bool,
}

/// What is asked of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// To claim the message.
    Claim,
    /// To mark it as sent, or as not sent.
    Mark(bool),
}

/// What a claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It may be sent.
    Ours,
    /// It was sent.
    Sent,
    /// Somebody is sending it.
    UnderWay,
}

/// Carries out a request; a mark comes to nothing that anybody looks at.
pub fn send(item: &mut Option<Sent>, request: Request, mistake: Mistake) -> Claim {
    match request {
        Request::Claim => match item {
            Some(Sent { sent: true, .. }) if mistake != Mistake::ClaimWithoutCondition => {
                Claim::Sent
            }
            Some(Sent { lapsed: false, .. }) if mistake != Mistake::ClaimWithoutCondition => {
                Claim::UnderWay
            }
            _ => {
                *item = Some(Sent {
                    sent: false,
                    lapsed: false,
                });
                Claim::Ours
            }
        },
        Request::Mark(sent) => {
            *item = Some(Sent { sent, lapsed: true });
            Claim::Ours
        }
    }
}

/// A mistake that the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// None: as it is.
    None,
    /// A message is claimed as it comes.
    ClaimWithoutCondition,
    /// A claim lapses while its sender is at work.
    LeaseTooShort,
    /// A message is marked before it is published.
    MarkedFirst,
}

/// What is checked.
#[derive(Debug)]
struct Messages {
    mistake: Mistake,
    faults: u8,
    requests: Mutex<BTreeSet<(Option<Sent>, Request)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Due,
    Publish,
    Mark(bool),
    Done,
}

/// All that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    item: Option<Sent>,
    senders: [At; SENDERS],
    /// Whose claim it is.
    claimed_by: u8,
    published: u8,
    /// Faults after which nobody knows that it was published.
    doubts: u8,
    faults: u8,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The sender's next call.
    Next(u8),
    /// It fails without an effect.
    Fails(u8),
    /// It takes effect, and its answer is lost.
    AnswerLost(u8),
    /// The sender is killed; the queue delivers again.
    Crash(u8),
    /// The claim lapses.
    Lapse,
}

impl Messages {
    fn next(&self, world: &mut World, n: u8, heard: bool) {
        let at = &mut world.senders[usize::from(n)];
        match *at {
            At::Due => {
                let claim = self.send(&mut world.item, Request::Claim);
                if claim == Claim::Ours {
                    world.claimed_by = n;
                }
                *at = match claim {
                    // The SDK asks again, and finds the claim under way.
                    _ if !heard => At::Due,
                    Claim::Ours if self.mistake == Mistake::MarkedFirst => At::Mark(true),
                    Claim::Ours => At::Publish,
                    Claim::Sent => At::Done,
                    Claim::UnderWay => At::Due,
                };
            }
            At::Publish => {
                world.published += 1;
                world.doubts += u8::from(!heard);
                *at = match self.mistake {
                    Mistake::MarkedFirst if heard => At::Done,
                    Mistake::MarkedFirst => At::Due,
                    _ => At::Mark(heard),
                };
            }
            At::Mark(sent) => {
                self.send(&mut world.item, Request::Mark(sent));
                *at = match (sent && heard, self.mistake) {
                    (true, Mistake::MarkedFirst) => At::Publish,
                    (true, _) => At::Done,
                    (false, _) => At::Due,
                };
            }
            At::Done => {}
        }
    }

    fn send(&self, item: &mut Option<Sent>, request: Request) -> Claim {
        if let Ok(mut requests) = self.requests.lock() {
            requests.insert((*item, request));
        }
        send(item, request, self.mistake)
    }
}

impl Model for Messages {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            item: None,
            senders: [At::Due; SENDERS],
            claimed_by: 0,
            published: 0,
            doubts: 0,
            faults: 0,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (n, at) in (0..).zip(world.senders) {
            if at == At::Done {
                continue;
            }
            steps.push(Step::Next(n));
            if world.faults < self.faults {
                steps.extend([Step::AnswerLost(n)]);
                if at != At::Due {
                    steps.extend([Step::Fails(n), Step::Crash(n)]);
                }
            }
        }
        let at_work = world.senders[usize::from(world.claimed_by)] != At::Due;
        if world.item.is_some_and(|item| !item.lapsed)
            && (!at_work || self.mistake == Mistake::LeaseTooShort)
        {
            steps.push(Step::Lapse);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        next.faults += u8::from(!matches!(step, Step::Next(_) | Step::Lapse));
        match step {
            Step::Next(n) => self.next(&mut next, n, true),
            Step::AnswerLost(n) => self.next(&mut next, n, false),
            Step::Fails(n) | Step::Crash(n) => {
                let at = &mut next.senders[usize::from(n)];
                next.doubts += u8::from(*at == At::Mark(true));
                *at = match (*at, step) {
                    // The claim is given back.
                    (At::Publish, Step::Fails(_)) => At::Mark(false),
                    _ => At::Due,
                };
            }
            Step::Lapse => {
                if let Some(item) = &mut next.item {
                    item.lapsed = true;
                }
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "sent once, and once more for each time that nobody knows",
                |_, world: &World| world.published <= 1 + world.doubts,
            ),
            Property::always("in the end it was sent", |_, world: &World| {
                world.published > 0 || world.senders.iter().any(|at| *at != At::Done)
            }),
            Property::sometimes("all have done", |_, world: &World| {
                world.senders == [At::Done; SENDERS]
            }),
            Property::sometimes("it is sent twice", |model: &Self, world: &World| {
                model.faults == 0 || world.published == 2
            }),
        ]
    }
}

/// Checks three deliveries of an event with so many faults, and with which
/// requests the ledger was met.
#[must_use]
pub fn check(mistake: Mistake, faults: u8) -> (Checked, Vec<(Option<Sent>, Request)>) {
    use stateright::Checker;
    let (checked, checker) = crate::check(Messages {
        mistake,
        faults,
        requests: Mutex::default(),
    });
    let requests = checker.model().requests.lock();
    let requests = requests.map(|requests| requests.iter().copied().collect());
    (checked, requests.unwrap_or_default())
}
