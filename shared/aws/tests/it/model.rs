//! The ledger's protocol, checked completely (`backstop-model`), and the model held
//! against the real ledger: every request that the checker met, with what it met,
//! is sent to a table in memory, and must come to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use backstop_aws::clients::Clients;
use backstop_aws::clock::Clock;
use backstop_aws::ledger::{Holder, Ledger, Lock};
use backstop_core::entry::Entry;
use backstop_core::guards::Trip;
use backstop_core::security_group::IngressRule;
use backstop_core::words::{ControlId, Status};
use backstop_model::messages;
use backstop_model::runs::{self, Bounds, Met};
use backstop_model::table::{self, Answer, Items, Mistake, Request};
use backstop_wire::memory::table::Table;
use backstop_wire::{Call, Wire};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ledger;

const RESOURCE: &str = "sg-0123456789abcdef0";
const CONTROL: ControlId = ControlId::OpenIngress;

/// Two rules, a run for each and none goes wrong: the others say what differs.
const TWO_RUNS: Bounds = Bounds {
    events: &[0, 1],
    attempts: 1,
    faults: 0,
    budget: 9,
    others: 0,
    stuck: 0,
    sweeps: false,
};

/// Parts of conditions that make no difference as long as no invocation outlives
/// its lease and no entry vanishes: a lease's value is one holder's alone, and its
/// lock is held for one entry. And of two runs without a lock that note the same at
/// once, which are one after the other here.
const IMPLIED: [(&str, &str); 9] = [
    (
        "attribute_not_exists(tripped)",
        "attribute_not_exists(tripped)",
    ),
    ("tripped = :noted", "tripped = :noted"),
    ("attribute_exists(pk)", "attribute_exists(pk)"),
    (OURS, "entry = :entry"),
    (OURS, "holder = :holder"),
    (QUIET, "entry = :entry"),
    (QUIET, "holder = :holder"),
    (AS_READ, "entry = :entry"),
    (AS_READ, "holder = :holder"),
];
const OURS: &str = "entry = :entry AND holder = :holder";
const QUIET: &str = "entry = :entry AND holder = :holder AND attribute_not_exists(look_again)";
const AS_READ: &str = "entry = :entry AND lease_until = :lease AND holder = :holder";

/// What is checked.
const CHECKED: [(&str, Bounds); 9] = [
    (
        "three events, one fault",
        Bounds {
            events: &[0, 1, 2],
            attempts: 2,
            faults: 1,
            ..TWO_RUNS
        },
    ),
    (
        "two events, one redelivered, one fault",
        Bounds {
            events: &[0, 1, 0],
            attempts: 2,
            faults: 1,
            ..TWO_RUNS
        },
    ),
    (
        "two events, two faults",
        Bounds {
            attempts: 3,
            faults: 2,
            ..TWO_RUNS
        },
    ),
    (
        "no second attempt, one fault: the sweep takes it up",
        Bounds {
            events: &[0, 1, 0],
            faults: 1,
            ..TWO_RUNS
        },
    ),
    (
        "the sweep at any time, one fault",
        Bounds {
            attempts: 2,
            faults: 1,
            sweeps: true,
            ..TWO_RUNS
        },
    ),
    (
        "a rule that cannot be revoked, one event redelivered",
        Bounds {
            events: &[0, 1, 0],
            attempts: 2,
            stuck: 1,
            ..TWO_RUNS
        },
    ),
    (
        "a budget of one change, one fault",
        Bounds {
            attempts: 3,
            faults: 1,
            budget: 1,
            ..TWO_RUNS
        },
    ),
    (
        "a budget of two changes for three",
        Bounds {
            events: &[0, 1, 2],
            attempts: 2,
            budget: 2,
            ..TWO_RUNS
        },
    ),
    (
        "a budget of two changes, of which others have made one, one fault",
        Bounds {
            attempts: 3,
            faults: 1,
            budget: 2,
            others: 1,
            ..TWO_RUNS
        },
    ),
];

#[test]
fn the_protocol_holds_in_every_interleaving_and_the_ledger_does_what_the_model_says() {
    let mut met = BTreeSet::new();
    for (name, bounds) in CHECKED {
        let (checked, of_these) = runs::check(bounds, Mistake::None);
        let (states, took) = (checked.states, checked.took);
        println!("{name}: {states} states, {took:.1?}");
        assert!(checked.broken.is_empty(), "{name}: {}", told(&checked));
        met.extend(of_these.into_iter().map(plain));
    }
    let began = Instant::now();
    let (differences, conditions) = compare(&met, None);
    println!("{} requests compared, {:.1?}", met.len(), began.elapsed());
    assert_eq!(differences, Vec::<String>::new());

    // The model has every part of every condition: without it the two differ.
    let began = Instant::now();
    let (mut weaker, mut same) = (0, BTreeSet::new());
    for condition in &conditions {
        let parts: Vec<&str> = condition.split(" AND ").collect();
        for left_out in 0..parts.len() {
            let mut rest = parts.clone();
            let part = rest.remove(left_out);
            if IMPLIED.contains(&(condition, part)) {
                continue;
            }
            weaker += 1;
            let (differences, _) = compare(&met, Some((condition, &rest.join(" AND "))));
            if differences.is_empty() {
                same.insert((condition.as_str(), part));
            }
        }
    }
    println!("{weaker} weaker conditions, {:.1?}", began.elapsed());
    assert_eq!(same, BTreeSet::new());
}

/// Each of these the checker has to refute, and by this property.
#[test]
fn the_checker_finds_every_mistake() {
    let one_fault = Bounds {
        attempts: 2,
        faults: 1,
        ..TWO_RUNS
    };
    let of_one = Bounds {
        budget: 1,
        ..one_fault
    };
    let stuck = Bounds {
        attempts: 2,
        stuck: 1,
        ..TWO_RUNS
    };
    let redelivered = Bounds {
        events: &[0, 1, 0],
        ..stuck
    };
    let two = "never two that change at once";
    let wish = "no wish to look again is lost";
    for (mistake, bounds, property) in [
        (Mistake::LockWithoutCondition, one_fault, two),
        (Mistake::CloseWithoutCondition, one_fault, wish),
        (
            Mistake::CountWithoutCondition,
            of_one,
            "the budget is never exceeded",
        ),
        (Mistake::WishOverwritten, one_fault, wish),
        (Mistake::FailedLeavesWish, stuck, wish),
        (
            Mistake::EndedAlike,
            redelivered,
            "before is stored ahead and stays",
        ),
        // What is taken for granted: an invocation ends before its lease.
        (Mistake::LeaseTooShort, one_fault, two),
    ] {
        let (checked, _) = runs::check(bounds, mistake);
        let found = checked.broken.iter().any(|(name, _)| *name == property);
        assert!(found, "{mistake:?}: {}", told(&checked));
    }
}

#[test]
fn a_message_is_sent_once_and_once_more_for_each_time_that_nobody_knows() {
    use messages::Mistake;
    let (checked, met) = messages::check(Mistake::None, 2);
    println!("messages: {} states", checked.states);
    assert!(checked.broken.is_empty(), "{}", told(&checked));
    for (mistake, property) in [
        (
            Mistake::ClaimWithoutCondition,
            "sent once, and once more for each time that nobody knows",
        ),
        (
            Mistake::LeaseTooShort,
            "sent once, and once more for each time that nobody knows",
        ),
        (Mistake::MarkedFirst, "in the end it was sent"),
    ] {
        let (checked, _) = messages::check(mistake, 2);
        let found = checked.broken.iter().any(|(name, _)| *name == property);
        assert!(found, "{mistake:?}: {}", told(&checked));
    }
    let memory = Memory::new(None);
    memory.run(async {
        for (before, request) in met {
            let now = memory.at(before.is_some_and(|item| item.lapsed));
            memory.hold(before.iter().map(|item| sent(*item)));
            let ledger = memory.ledger(now);
            let outcome = match request {
                messages::Request::Claim => {
                    format!("{:?}", ledger.claim_message("m", now).await.unwrap())
                }
                messages::Request::Mark(sent) => {
                    ledger.message_sent("m", sent).await.unwrap();
                    "Ours".to_owned()
                }
            };
            let mut after = before;
            let claim = messages::send(&mut after, request, Mistake::None);
            assert_eq!(outcome, format!("{claim:?}"), "{before:?} {request:?}");
            let is = memory.items().pop_first().map(|(_, item)| {
                let lease: i64 = item["lease_until"]["N"].as_str().unwrap().parse().unwrap();
                messages::Sent {
                    sent: item["sent"]["BOOL"].as_bool().unwrap(),
                    lapsed: lease < now.as_millisecond(),
                }
            });
            assert_eq!(is, after, "{before:?} {request:?}");
        }
    });
}

fn told(checked: &backstop_model::Checked) -> String {
    let broken = checked.broken.iter();
    let broken = broken.map(|(name, way)| format!("{name}: {way}"));
    broken.collect::<Vec<_>>().join("\n")
}

/// What was met, by names that say only which are the same.
fn plain((items, request, budget): Met) -> Met {
    let mut names = Names::default();
    let request = match request {
        Request::Begin(by, held, of, new) => Request::Begin(
            names.holder(by),
            held.map(|held| names.lock(held)),
            names.id(of),
            names.entry(new),
        ),
        Request::GoOn(by, held, of, new, more) => Request::GoOn(
            names.holder(by),
            held.map(|held| names.lock(held)),
            names.id(of),
            names.entry(new),
            more,
        ),
        Request::Ask(read) => Request::Ask(names.lock(read)),
        Request::Finish(of, new) => Request::Finish(names.id(of), names.entry(new)),
        Request::Close(by, of) => Request::Close(names.holder(by), names.id(of)),
        Request::CloseAndLook(by, of) => Request::CloseAndLook(names.holder(by), names.id(of)),
        Request::CloseFailed(by, of) => Request::CloseFailed(names.holder(by), names.id(of)),
        Request::CloseFailedAndLook(by, of) => {
            Request::CloseFailedAndLook(names.holder(by), names.id(of))
        }
        Request::Release(by) => Request::Release(names.holder(by)),
        Request::Told(of) => Request::Told(names.id(of)),
        Request::Trip | Request::TripTold | Request::TripResource => request,
    };
    let mut renamed = Items {
        entries: [None; table::ENTRIES],
        lock: items.lock.map(|lock| names.lock(lock)),
        ..items
    };
    for (of, stored) in (0..).zip(items.entries) {
        if let Some(stored) = stored {
            renamed.entries[usize::from(names.id(of))] = Some(names.entry(stored));
        }
    }
    (renamed, request, budget)
}

/// Names in the order in which they are met.
#[derive(Default)]
struct Names {
    ids: Vec<u8>,
    runs: Vec<u8>,
    attempts: Vec<(u8, u8)>,
    rules: Vec<u8>,
}

impl Names {
    fn nth<T: PartialEq>(names: &mut Vec<T>, name: T) -> u8 {
        let known = names.iter().position(|known| *known == name);
        known.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        }) as u8
    }

    fn id(&mut self, id: u8) -> u8 {
        Self::nth(&mut self.ids, id)
    }

    fn holder(&mut self, of: table::Holder) -> table::Holder {
        table::Holder {
            run: Self::nth(&mut self.runs, of.run),
            attempt: Self::nth(&mut self.attempts, (of.run, of.attempt)),
        }
    }

    fn lock(&mut self, lock: table::Lock) -> table::Lock {
        let by = table::Holder {
            run: lock.lease.holder,
            attempt: lock.lease.attempt,
        };
        let table::Holder { run, attempt } = self.holder(by);
        table::Lock {
            entry: self.id(lock.entry),
            holder: Self::nth(&mut self.runs, lock.holder),
            lease: table::Lease {
                holder: run,
                attempt,
                ..lock.lease
            },
            ..lock
        }
    }

    fn entry(&mut self, of: table::Entry) -> table::Entry {
        let rules = (0..8).filter(|rule| of.before & (1 << rule) != 0);
        let before = rules.map(|rule| 1 << Self::nth(&mut self.rules, rule));
        table::Entry {
            event: 0,
            before: before.sum(),
            ..of
        }
    }
}

// --- the real ledger

/// The ledger's table, and a clock.
struct Memory {
    table: Arc<Mutex<Table>>,
    /// The next request is refused, whatever the table holds.
    refuse: Arc<Mutex<bool>>,
    wire: Wire,
    clients: Clients,
    runtime: tokio::runtime::Runtime,
    entries: Mutex<BTreeMap<(u8, table::Status, u8), Value>>,
}

impl Memory {
    /// A table whose ledger sends one condition weaker than it is.
    fn new(weaker: Option<(&str, &str)>) -> Self {
        let weaker = weaker.map(|(from, to)| (from.to_owned(), to.to_owned()));
        let (table, refuse) = (
            Arc::<Mutex<Table>>::default(),
            Arc::<Mutex<bool>>::default(),
        );
        let (at, refused) = (table.clone(), refuse.clone());
        let wire = Wire::new(move |call: &Call| {
            let mut call = call.clone();
            if let Some((from, to)) = &weaker {
                weaken(&mut call.json, from, to);
            }
            let nothing = &mut Table::default();
            let mut table = at.lock().unwrap();
            let table = match std::mem::take(&mut *refused.lock().unwrap()) {
                true => nothing,
                false => &mut table,
            };
            table.answer(&call).unwrap()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        Self {
            clients: Clients::new(&wire.config(1)),
            table,
            refuse,
            wire,
            runtime: runtime.unwrap(),
            entries: Mutex::default(),
        }
    }

    fn run<T>(&self, of: impl Future<Output = T>) -> T {
        self.runtime.block_on(of)
    }

    /// The time: leases lapse after five minutes.
    fn at(&self, lapsed: bool) -> Timestamp {
        start() + SignedDuration::from_mins(if lapsed { 10 } else { 0 })
    }

    fn ledger(&self, now: Timestamp) -> Ledger {
        let mut clients = self.clients.clone();
        clients.clock = Clock::of_timers(now);
        Ledger::new(&clients, "ledger".to_owned())
    }

    fn hold(&self, items: impl IntoIterator<Item = Value>) {
        let mut table = Table::default();
        for item in items {
            let pk = item["pk"]["S"].as_str().unwrap().to_owned();
            table.items.insert(pk, item);
        }
        *self.table.lock().unwrap() = table;
    }

    fn items(&self) -> BTreeMap<String, Value> {
        self.table.lock().unwrap().items.clone()
    }

    /// An entry as the ledger stores it.
    async fn stored(&self, id: u8, of: table::Entry) -> Value {
        let key = (id, of.status, of.before);
        let known = self.entries.lock().unwrap().get(&key).cloned();
        let mut item = match known {
            Some(item) => item,
            None => {
                let held = std::mem::take(&mut *self.table.lock().unwrap());
                let ledger = self.ledger(start());
                ledger.finish(&entry(id, of)).await.unwrap();
                let item = self.items().pop_first().unwrap().1;
                *self.table.lock().unwrap() = held;
                self.entries.lock().unwrap().insert(key, item.clone());
                item
            }
        };
        if of.told {
            item["told"] = json!({ "BOOL": true });
            item.as_object_mut().unwrap().remove("untold");
        }
        item
    }

    /// What the model's items are in the table.
    async fn table_of(&self, of: &Items) -> Vec<Value> {
        let mut items = Vec::new();
        if let Some(lock) = of.lock {
            let mut item = json!({
                "pk": { "S": format!("lock#open-ingress#{RESOURCE}") },
                "sk": { "S": "lock" },
                "entry": { "S": id(lock.entry) },
                "holder": { "S": request_id(lock.holder) },
                "lease_until": { "N": lease(lock.lease).to_string() },
            });
            if lock.look_again {
                item["look_again"] = json!({ "BOOL": true });
            }
            items.push(item);
        }
        for (id, entry) in (0..).zip(of.entries) {
            if let Some(entry) = entry {
                items.push(self.stored(id, entry).await);
            }
        }
        let hour = "budget#open-ingress#2026-11-24T10";
        if of.changes > 0 {
            let mut item = json!({
                "pk": { "S": hour },
                "sk": { "S": "budget" },
                "changes": { "N": of.changes.to_string() },
            });
            if of.tripped > 0 {
                item["tripped"] = json!({ "N": of.tripped.to_string() });
            }
            items.push(item);
        }
        if of.own > 0 {
            let mut item = json!({
                "pk": { "S": format!("{hour}#{RESOURCE}") },
                "sk": { "S": "budget" },
                "changes": { "N": of.own.to_string() },
            });
            if of.tripped > 0 {
                item["tripped"] = json!({ "N": of.tripped.to_string() });
            }
            items.push(item);
        }
        if of.resource_trip {
            let pk = format!("trip#open-ingress#{RESOURCE}");
            items.push(json!({ "pk": { "S": pk }, "sk": { "S": "state" } }));
        }
        if of.trip.is_some() {
            items.push(json!({ "pk": { "S": "trip#open-ingress" }, "sk": { "S": "state" } }));
        }
        items
    }

    /// Sends a request as a run does, and what follows from its refusal.
    async fn send(&self, request: Request, budget: u8, now: Timestamp) -> String {
        let ledger = self.ledger(now);
        let budget = budget.into();
        let holder = |of: table::Holder| Holder {
            id: request_id(of.run),
            lease_until: Timestamp::from_millisecond(lease(table::Lease {
                holder: of.run,
                attempt: of.attempt,
                ended: false,
                ends: 0,
            }))
            .unwrap(),
        };
        match request {
            Request::Begin(by, lock, of, new) => {
                let (run, by, held) = (entry(of, new), holder(by), lock.map(read));
                let begun = ledger.begin(&run, &by, held.as_ref(), budget).await;
                format!("{:?}", begun.unwrap())
            }
            Request::GoOn(by, lock, of, new, more) => {
                let (run, by, held) = (entry(of, new), holder(by), lock.map(read));
                let held = held.as_ref();
                let begun = ledger.go_on(&run, &by, held, more.into(), budget).await;
                format!("{:?}", begun.unwrap())
            }
            Request::Ask(lock) => {
                let asked = ledger.look_again(CONTROL, RESOURCE, &read(lock)).await;
                format!("{:?}", asked.unwrap())
            }
            Request::Finish(of, new) => {
                format!("{:?}", ledger.finish(&entry(of, new)).await.unwrap())
            }
            Request::Close(by, of)
            | Request::CloseAndLook(by, of)
            | Request::CloseFailed(by, of)
            | Request::CloseFailedAndLook(by, of) => {
                let second = matches!(
                    request,
                    Request::CloseAndLook(..) | Request::CloseFailedAndLook(..)
                );
                let failed = matches!(
                    request,
                    Request::CloseFailed(..) | Request::CloseFailedAndLook(..)
                );
                *self.refuse.lock().unwrap() = second;
                let run = entry(of, NO_ENTRY);
                let closed = ledger.close(&run, &holder(by), failed, None).await;
                format!("{:?}", closed.unwrap())
            }
            Request::Release(by) => {
                let by = holder(by);
                let released = ledger.release(CONTROL.name(), RESOURCE, &by).await;
                format!("{:?}", released.unwrap())
            }
            Request::Trip => {
                let trip = Trip {
                    at: now,
                    why: "too much".to_owned(),
                };
                let tripped = ledger.trip_control(CONTROL, &trip, &notice(now)).await;
                format!("{:?}", tripped.unwrap())
            }
            Request::Told(of) => format!("{:?}", ledger.mark_told(&id(of)).await.unwrap()),
            // The same for a notice.
            Request::TripTold => "()".to_owned(),
            Request::TripResource => {
                let trip = Trip {
                    at: now,
                    why: "too much".to_owned(),
                };
                let tripped = ledger.trip_over_budget(CONTROL, RESOURCE, &trip).await;
                format!("{:?}", tripped.unwrap())
            }
        }
    }
}

/// What the model says of a request, and of what follows from its refusal.
fn modelled(items: &mut Items, request: Request, budget: u8) -> &'static str {
    let mut send = |request| items.send(request, budget, Mistake::None);
    let answer = send(request);
    match (request, answer) {
        (Request::Begin(..) | Request::GoOn(..), Answer::Done) => "Started",
        (Request::Begin(..) | Request::GoOn(..), Answer::OverBudget) => "OverBudget",
        (Request::Begin(..) | Request::GoOn(..), Answer::Busy(lock)) => {
            match send(Request::Ask(lock)) {
                Answer::Done => "Busy",
                _ => "Moved",
            }
        }
        (Request::Begin(..) | Request::GoOn(..), Answer::Refused) => "Moved",
        (Request::Ask(_), Answer::Done) => "Busy",
        (Request::Ask(_), _) => "Moved",
        (Request::CloseAndLook(..) | Request::CloseFailedAndLook(..), Answer::Done) => "LookAgain",
        (Request::Close(by, of), Answer::Refused) => match send(Request::CloseAndLook(by, of)) {
            Answer::Done => "LookAgain",
            _ => "Done",
        },
        (Request::CloseFailed(by, of), Answer::Refused) => {
            match send(Request::CloseFailedAndLook(by, of)) {
                Answer::Done => "LookAgain",
                _ => "Done",
            }
        }
        (
            Request::Close(..)
            | Request::CloseFailed(..)
            | Request::CloseAndLook(..)
            | Request::CloseFailedAndLook(..),
            _,
        ) => "Done",
        (Request::Trip, Answer::Done) => "true",
        (Request::Trip, _) => "false",
        (
            Request::Finish(..)
            | Request::Release(_)
            | Request::Told(_)
            | Request::TripTold
            | Request::TripResource,
            _,
        ) => "()",
    }
}

/// Sends every request that was met to the real ledger: where it differs from the
/// model, and the conditions that it sent. With a weaker condition the first
/// difference is enough.
fn compare(met: &BTreeSet<Met>, weaker: Option<(&str, &str)>) -> (Vec<String>, BTreeSet<String>) {
    let memory = Memory::new(weaker);
    let mut differences = Vec::new();
    memory.run(async {
        for (items, request, budget) in met {
            let now = memory.at(items.lapsed);
            memory.hold(memory.table_of(items).await);
            let is = memory.send(*request, *budget, now).await;
            let mut after = *items;
            let was = items.lock.map(|lock| lease(lock.lease));
            let says = modelled(&mut after, *request, *budget);
            let held = seen(memory.items().into_values(), was);
            let expected = memory.table_of(&after).await;
            let expected = seen(expected.into_iter(), was);
            if is != says || held != expected {
                differences.push(format!(
                    "{items:?}\n{request:?}: {is}, modelled {says}\nis {held:#?}\nmodelled {expected:#?}"
                ));
                if weaker.is_some() || differences.len() == 3 {
                    break;
                }
            }
        }
    });
    let mut conditions = BTreeSet::new();
    for call in memory.wire.calls() {
        find_conditions(&call.json, &mut conditions);
    }
    (differences, conditions)
}

/// The items as they are compared: not when they expire, what a trip says, nor
/// the value of a lease that was ended just now, as long as it is another one.
fn seen(items: impl Iterator<Item = Value>, was: Option<i64>) -> BTreeMap<String, Value> {
    items
        .filter_map(|mut item| {
            let pk = item["pk"]["S"].as_str().unwrap().to_owned();
            let fields = item.as_object_mut().unwrap();
            fields.remove("expires_at");
            if pk.starts_with("trip#") {
                fields.remove("document");
            }
            if let Some(lease) = fields.get_mut("lease_until") {
                let until: i64 = lease["N"].as_str().unwrap().parse().unwrap();
                if until < 0 && was != Some(until) {
                    *lease = json!("ended");
                }
            }
            (pk != format!("entry#{NOTICE}")).then_some((pk, item))
        })
        .collect()
}

fn find_conditions(of: &Value, into: &mut BTreeSet<String>) {
    match of {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("ConditionExpression", Value::String(condition)) => {
                        into.insert(condition.clone());
                    }
                    _ => find_conditions(value, into),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| find_conditions(value, into)),
        _ => {}
    }
}

/// Puts a weaker condition in the place of one, and leaves out values that nothing
/// uses any more.
fn weaken(request: &mut Value, from: &str, to: &str) {
    match request {
        Value::Array(values) => values.iter_mut().for_each(|value| weaken(value, from, to)),
        Value::Object(fields) => {
            if fields.get("ConditionExpression") == Some(&json!(from)) {
                fields.remove("ConditionExpression");
                if !to.is_empty() {
                    fields.insert("ConditionExpression".to_owned(), json!(to));
                }
                let update = fields.get("UpdateExpression").cloned();
                let used = format!("{to} {}", update.unwrap_or_default());
                let is_used = |name: &str| {
                    let mut words =
                        used.split(|c: char| !(c.is_alphanumeric() || ":_".contains(c)));
                    words.any(|word| word == name)
                };
                if let Some(Value::Object(values)) = fields.get_mut("ExpressionAttributeValues") {
                    values.retain(|name, _| is_used(name));
                }
            } else {
                fields
                    .values_mut()
                    .for_each(|value| weaken(value, from, to));
            }
        }
        _ => {}
    }
}

// --- names

const NOTICE: &str = "01JDN0000000000000000000AA";
const NO_ENTRY: table::Entry = table::Entry {
    event: 0,
    status: table::Status::Remediated,
    told: false,
    before: 0,
};

fn start() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn id(of: u8) -> String {
    format!("01JDF00000000000000000000{of}")
}

fn request_id(of: u8) -> String {
    format!("request-{of}")
}

/// The value of `lease_until`: below 0 where it was ended.
fn lease(of: table::Lease) -> i64 {
    let own = i64::from(of.holder) * 1_000 + i64::from(of.attempt) * 100;
    match of.ended {
        false => start().as_millisecond() + 60_000 + own,
        true => -(start().as_millisecond() - 60_000 + own + i64::from(of.ends)),
    }
}

fn read(lock: table::Lock) -> Lock {
    Lock {
        entry: id(lock.entry),
        holder: request_id(lock.holder),
        lease_until: lease(lock.lease),
    }
}

fn entry(of: u8, model: table::Entry) -> Entry<IngressRule> {
    let rules = (0..8).filter(|rule| model.before & (1 << rule) != 0);
    let mut entry = ledger::entry_of(rules.map(|rule| ledger::rule(&format!("sgr-{rule}"), "ssh")));
    entry.head.id = id(of);
    entry.head.status = match model.status {
        table::Status::InProgress => Status::InProgress,
        table::Status::Remediated => Status::Remediated,
        table::Status::Failed => Status::Failed,
        table::Status::Tripped => Status::Tripped,
    };
    entry
}

fn notice(now: Timestamp) -> backstop_core::notice::Notice {
    use backstop_core::notice::{About, ControlTripped, Notice};
    Notice {
        version: 1,
        id: NOTICE.to_owned(),
        account: "111122223333".to_owned(),
        region: "eu-central-1".to_owned(),
        at: now,
        about: About::ControlTripped(ControlTripped {
            control: CONTROL,
            changes_per_hour: 1,
            resource: RESOURCE.to_owned(),
            changes: 1,
            at: now,
        }),
    }
}

fn sent(item: messages::Sent) -> Value {
    json!({
        "pk": { "S": "sent#m" },
        "sk": { "S": "sent" },
        "sent": { "BOOL": item.sent },
        "lease_until": { "N": (start().as_millisecond() + 45_000).to_string() },
    })
}
