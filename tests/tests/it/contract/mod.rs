//! What every control that is remediated at once keeps, written once and run for
//! each over AWS in memory: the real functions, rules and messages, as in the
//! fault run, which fails every call of the same fixtures.
//!
//! A control brings a [`Fixture`], in a file of its own. Deliberately not here:
//! what a control judges, how its calls look, and what only one control does
//! (`shared/engine/src/pipeline/tests.rs` for open-ingress).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_aws::clock::Clock;
use backstop_core::controls;
use backstop_core::entry::Entry;
use backstop_core::info::{ControlInfo, OptOutOn};
use backstop_core::plan::Ending;
use backstop_core::record::Record;
use backstop_core::words::ControlId;
use backstop_tests::cloudtrail;
use backstop_wire::memory::Cloud;
use backstop_wire::memory::ec2::Ec2;
use backstop_wire::{Call, Reply};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::faults::{Account, Ended, Fault, LAPSED, Nth, Way, beginning, id_of, run};
use crate::template::function_of;

mod account_settings;
mod bursts;
mod default_security_group;
mod encryption_by_default;
mod imdsv1;
mod late_changes;
mod open_ingress;
mod public_image;
mod public_snapshot;
mod public_subnet;

/// A control's resource in an account in memory.
pub(crate) trait Fixture: Sync {
    /// The control.
    fn control(&self) -> ControlId;

    /// The resource's id.
    fn id(&self) -> &'static str;

    /// Makes the resource with nothing wrong about it, and with items that have to
    /// stay as they are.
    fn place(&self, ec2: &mut Ec2);

    /// The good state that the ledger keeps of a setting, where it is restored to
    /// that.
    fn former(&self) -> Option<Value> {
        None
    }

    /// The items that can be exposed, in the order of their ids.
    fn items(&self) -> &[&'static str];

    /// Exposes one of them, so that its remediation leads back to what
    /// [`place`](Self::place) made.
    fn expose(&self, item: &str, ec2: &mut Ec2);

    /// What the resource grants, without the ids and opt-outs that an undo makes.
    fn shows(&self, ec2: &Ec2) -> Vec<String>;

    /// Changes what a remediation left into something that is neither that nor as
    /// it was before; `false`: its items have no such state.
    fn change_otherwise(&self, _ec2: &mut Ec2) -> bool {
        false
    }

    /// Has AWS show a change only after a time, of a control whose changes may take
    /// theirs; `false`: it does not know that.
    fn lag(&self, _ec2: &mut Ec2, _lag: Duration) -> bool {
        false
    }

    /// Reads without whose answer a run goes on.
    fn spare_reads(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads, as operation and how many of the same come before: where AWS refuses one
    /// for good, nothing is changed and that is told.
    fn told_reads(&self) -> &'static [(&'static str, usize)] {
        &[]
    }

    /// Sequential rounds of reads of the resource while it is exposed.
    fn rounds_of_reads(&self) -> usize {
        1
    }

    /// What is read once more right before a change.
    fn read_again(&self) -> Option<&'static str> {
        None
    }
}

/// One for each control that is remediated at once.
pub(crate) static FIXTURES: &[&dyn Fixture] = &[
    &open_ingress::OpenIngress,
    &encryption_by_default::EncryptionByDefault,
    &public_snapshot::PublicSnapshot,
    &public_image::PublicImage,
    &account_settings::SNAPSHOT_SHARING_BLOCK,
    &account_settings::METADATA_DEFAULTS,
    &account_settings::SERIAL_CONSOLE,
    &default_security_group::DefaultSecurityGroup,
    &account_settings::IMAGE_SHARING_BLOCK,
    &public_subnet::PublicSubnet,
    &imdsv1::ImdsV1,
];

/// Makes a fixture's resource, with what the ledger keeps of it.
pub(crate) fn place(fixture: &dyn Fixture, cloud: &mut Cloud) {
    fixture.place(&mut cloud.ec2);
    if let Some(former) = fixture.former() {
        let pk = format!("former#{}#{}", fixture.control(), fixture.id());
        let item = json!({
            "pk": { "S": pk }, "sk": { "S": "state" }, "document": { "S": former.to_string() },
        });
        cloud.table.items.insert(pk, item);
    }
}

/// The fixture of a control.
pub(crate) fn fixture(control: ControlId) -> &'static dyn Fixture {
    let mut all = FIXTURES.iter().copied();
    all.find(|of| of.control() == control).unwrap()
}

#[test]
fn every_control_that_is_remediated_at_once_has_a_fixture() {
    let with_one: BTreeSet<ControlId> = FIXTURES.iter().map(|of| of.control()).collect();
    let all: BTreeSet<ControlId> = controls::infos().map(|info| info.id).collect();
    assert_eq!(with_one, all);
}

/// What is fixed about the control of a fixture.
pub(crate) fn info(fixture: &dyn Fixture) -> &'static ControlInfo {
    controls::of(fixture.control()).unwrap().info()
}

/// Logical id of the function that remediates.
pub(crate) fn function(fixture: &dyn Fixture) -> &'static str {
    id_of(&function_of(info(fixture).function))
}

/// A new event of the call that exposes the resource.
pub(crate) fn event(fixture: &dyn Fixture) -> Value {
    let call = &info(fixture).calls[0];
    let mut event = cloudtrail::call(call.name, json!({}), json!({ "_return": true }));
    if let Some(path) = call.resource.first() {
        let mut at = &mut event["detail"];
        for field in *path {
            at = &mut at[*field];
        }
        *at = json!(fixture.id());
    }
    event
}

/// What a policy says of a control whose account is exempt until a day.
pub(crate) fn exempt(until: &str) -> Value {
    json!({ "settings": { "exemption": { "until": until, "owner": "team-web" } } })
}

/// Every record of the ledger but notices, the oldest first.
pub(crate) async fn records(account: &Account) -> Vec<Record> {
    let ids: Vec<String> = {
        let cloud = account.cloud();
        let keys = cloud.table.items.keys();
        let entries = keys.filter_map(|pk| pk.strip_prefix("entry#"));
        entries.map(str::to_owned).collect()
    };
    let ledger = account.ledger();
    let mut records = Vec::new();
    for id in ids {
        let stored = ledger.read(&id).await.unwrap().unwrap();
        if !matches!(stored.record, Record::Notice(_)) {
            records.push(stored.record);
        }
    }
    records
}

/// An account in which Backstop is deployed and acts by one control alone, with the
/// resource of its fixture.
struct World {
    fixture: &'static dyn Fixture,
    account: Account,
    /// EC2 with nothing exposed.
    placed: Ec2,
    requests: usize,
}

impl World {
    /// With what the policy says of the control. Nothing is exposed.
    fn new(fixture: &'static dyn Fixture, rules: &Value) -> Self {
        let clock = Clock::of_timers(beginning());
        let account = Account::empty(&policy(fixture, rules), clock);
        place(fixture, &mut account.cloud());
        let placed = account.cloud().ec2.clone();
        Self {
            fixture,
            account,
            placed,
            requests: 0,
        }
    }

    /// In mode `enforce`, with one item exposed.
    fn exposed(fixture: &'static dyn Fixture) -> Self {
        let world = Self::new(fixture, &json!({}));
        world.expose(1);
        world
    }

    fn function(&self) -> &'static str {
        function(self.fixture)
    }

    /// Exposes the first of the items.
    fn expose(&self, items: usize) {
        for item in &self.fixture.items()[..items] {
            self.fixture.expose(item, &mut self.account.cloud().ec2);
        }
    }

    fn ec2(&self) -> Ec2 {
        self.account.cloud().ec2.clone()
    }

    /// The resource is gone.
    fn nothing(&self) -> Ec2 {
        Cloud::new(&self.ec2().account, "", Vec::new()).ec2
    }

    /// Changes what the policy says, and lets every copy of the old one lapse.
    async fn set_policy(&self, policy: &Value) {
        self.account.cloud().policy = policy.to_string();
        sleep(Duration::from_secs(61)).await;
    }

    /// Delivers an event, and lets everything happen that follows.
    async fn deliver(&mut self, event: &Value) {
        self.account.start(self.function(), event);
        self.account.settle().await;
    }

    /// Delivers a new event.
    async fn notice(&mut self) {
        self.deliver(&event(self.fixture)).await;
    }

    async fn sweep_now(&mut self) {
        self.account.start("SweepFunction", &json!({}));
        self.account.settle().await;
    }

    /// A sweep, and the hour after it.
    async fn sweep(&mut self) {
        self.sweep_now().await;
        sleep(Duration::from_secs(3600)).await;
    }

    /// One invocation with an event, which nobody repeats. `Err`: its error.
    async fn invoke(&mut self, event: &Value, request: &str) -> Result<String, String> {
        self.invoke_of(self.function(), event, request)
            .await
            .map(|answer| answer["verdict"].as_str().unwrap().to_owned())
    }

    async fn invoke_of(
        &mut self,
        function: &'static str,
        event: &Value,
        request: &str,
    ) -> Result<Value, String> {
        match self.account.invoke(function, event.clone(), request).await {
            Ended::Answered(answer) => Ok(answer),
            Ended::Failed(why) => Err(why),
            Ended::Lost => Err("lost".to_owned()),
        }
    }

    /// Asks for an undo of the last record.
    async fn undo(&mut self) -> Value {
        let records = self.records().await;
        let mut remediations = records.iter().rev();
        let of = remediations.find(|record| record.outcome() == "remediated");
        let ask = json!({ "remediation": of.unwrap().id(), "reason": "a test" });
        self.requests += 1;
        let request = format!("undo-{}", self.requests);
        let answer = self.invoke_of("UndoFunction", &ask, &request).await;
        self.account.settle().await;
        answer.unwrap()
    }

    async fn records(&self) -> Vec<Record> {
        records(&self.account).await
    }

    /// How every record ended, the oldest first.
    async fn outcomes(&self) -> Vec<&'static str> {
        self.records().await.iter().map(Record::outcome).collect()
    }

    /// The newest record.
    async fn entry(&self) -> Entry {
        match self.records().await.pop() {
            Some(Record::Remediation(entry)) => *entry,
            other => panic!("{other:?}"),
        }
    }

    /// How many messages people have received.
    fn told(&self) -> usize {
        self.account.cloud().published.len()
    }

    /// Whether something is in the ledger under such a key.
    fn holds(&self, key: &str) -> bool {
        let cloud = self.account.cloud();
        cloud.table.items.keys().any(|pk| pk.starts_with(key))
    }

    /// How many changes the control's budgets have counted.
    fn counted(&self) -> u64 {
        let key = format!("budget#{}", self.fixture.control());
        let cloud = self.account.cloud();
        let budgets = cloud.table.items.iter();
        // Not those of single resources, which count the same changes.
        let of = budgets.filter(|(pk, _)| pk.starts_with(&key) && pk.matches('#').count() == 2);
        of.map(|(_, item)| number(&item["changes"])).sum()
    }

    /// The operations that the control's function has called.
    fn operations(&self) -> Vec<String> {
        let calls = self.account.calls_of(self.function());
        calls.into_iter().map(|call| call.operation).collect()
    }

    /// How many changes it has called for.
    fn changes(&self) -> usize {
        let operations = self.operations().into_iter();
        operations
            .filter(|name| is_change(self.fixture, name))
            .count()
    }

    /// Has a call of its function fail: the first of this operation.
    fn fail(&self, service: &str, operation: &str, way: Way) {
        self.account.fail(Fault {
            function: self.function(),
            call: Nth {
                service: service.to_owned(),
                operation: operation.to_owned(),
                before: 0,
            },
            way,
        });
    }

    /// Has somebody meddle with every change: `true`, once for each.
    fn meddle(
        &self,
        mut meddler: impl FnMut(&Call, bool, &mut Cloud) -> Option<Reply> + Send + 'static,
    ) {
        let fixture = self.fixture;
        let meddler = move |call: &Call, cloud: &mut Cloud| {
            meddler(call, is_change(fixture, &call.operation), cloud)
        };
        self.account.meddle(self.function(), meddler);
    }

    /// Everything exposed has been remediated, nothing else was touched, and the run
    /// is closed.
    fn is_remediated(&self) {
        assert_eq!(self.ec2(), self.placed);
        assert!(!self.holds("lock#"), "the lock is held");
    }
}

fn number(attribute: &Value) -> u64 {
    attribute["N"].as_str().unwrap().parse().unwrap()
}

/// A policy that governs one control and turns the others off.
fn policy(fixture: &dyn Fixture, rules: &Value) -> Value {
    let control = fixture.control();
    let others = ControlId::ALL.iter().filter(|other| **other != control);
    let off = others.map(|other| (other.name().to_owned(), json!({ "mode": "off" })));
    let mut controls: serde_json::Map<String, Value> = off.collect();
    let mut rules = rules.clone();
    if info(fixture).enforce_by_name_only && rules["mode"].is_null() {
        rules["mode"] = json!("enforce");
    }
    controls.insert(control.name().to_owned(), rules);
    json!({ "version": 1, "controls": controls })
}

fn killed(fixture: &dyn Fixture) -> Value {
    let mut policy = policy(fixture, &json!({}));
    policy["kill_switch"] = json!(true);
    policy
}

/// Whether an operation changes the resource.
fn is_change(fixture: &dyn Fixture, operation: &str) -> bool {
    let begins = info(fixture).begins.iter();
    let mut begins = begins.filter_map(|action| action.split_once(':'));
    begins.any(|(_, name)| name == operation)
}

fn denied() -> Reply {
    Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized")
}

/// Runs a test for every control.
fn every(test: impl AsyncFn(&'static dyn Fixture)) {
    for fixture in FIXTURES {
        println!("{}", fixture.control());
        run(test(*fixture));
    }
}

#[test]
fn the_hole_is_closed_after_one_round_of_reads_one_transaction_and_the_changes() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        world.notice().await;
        world.is_remediated();
        let operations = world.operations();
        let mut changes = operations.iter().rev();
        let change = changes.find(|name| is_change(fixture, name)).unwrap();
        let wire = world.account.wire(world.function()).unwrap();
        let round_trips = wire.sequential_round_trips_until(change);
        // Reads, transaction, change.
        let again = usize::from(fixture.read_again().is_some());
        assert_eq!(round_trips, fixture.rounds_of_reads() + 1 + again + 1);
    });
}

#[test]
fn a_compliant_resource_costs_one_round_of_reads() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({}));
        world.notice().await;
        assert_eq!(world.ec2(), world.placed);
        let wire = world.account.wire(world.function()).unwrap();
        assert_eq!(wire.sequential_round_trips(), 1);
        assert_eq!((world.records().await.len(), world.told()), (0, 0));
    });
}

#[test]
fn a_run_goes_down_the_pipeline_in_order() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({}));
        world.expose(fixture.items().len());
        // The ledger as it is when the first change is made.
        let ledger: Arc<Mutex<Option<Value>>> = Arc::default();
        world.meddle({
            let ledger = ledger.clone();
            move |_, changes, cloud| {
                let mut ledger = ledger.lock().unwrap();
                if changes && ledger.is_none() {
                    *ledger = Some(json!(cloud.table.items));
                }
                None
            }
        });
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!(world.told(), 1);
        let entry = world.entry().await;
        assert!(entry.detail.before.keys().eq(fixture.items()));
        let ledger = ledger.lock().unwrap().take().unwrap();
        let key = format!("entry#{}", entry.head.id);
        let cloud = world.account.cloud();
        assert_eq!(
            ledger[&key]["before"], cloud.table.items[&key]["before"],
            "stored ahead of the first change, and kept as it was"
        );
        assert_eq!(ledger[&key]["told"], json!({ "BOOL": false }));
        let lock = format!("lock#{}#{}", fixture.control().lock_name(), fixture.id());
        assert_eq!(ledger[lock]["entry"], json!({ "S": entry.head.id }));
        drop(cloud);
        let operations = world.operations();
        let begin = operations
            .iter()
            .position(|name| name == "TransactWriteItems");
        let (reads, rest) = operations.split_at(begin.unwrap());
        assert!(reads.contains(&"GetParameter".to_owned()));
        assert!(!reads.iter().any(|name| is_change(fixture, name)));
        let changes = world.changes();
        let rest: Vec<&String> = {
            let mut rest: Vec<&String> = rest.iter().collect();
            if let Some(again) = fixture.read_again() {
                assert_eq!(rest.remove(1), again);
            }
            rest
        };
        assert!(
            rest[1..=changes]
                .iter()
                .all(|name| is_change(fixture, name))
        );
        assert_eq!(
            rest[rest.len() - 3..],
            ["PutItem", "PutEvents", "TransactWriteItems"],
            "finish, tell, close"
        );
    });
}

#[test]
fn an_event_that_comes_again_changes_and_tells_nothing() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let first = event(fixture);
        for event in [&first, &first, &event(fixture)] {
            world.deliver(event).await;
            world.is_remediated();
            assert_eq!(world.outcomes().await, ["remediated"]);
            assert_eq!((world.changes(), world.told()), (1, 1));
        }
    });
}

#[test]
fn a_run_that_meets_another_leaves_its_look_to_it() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let exposed = world.ec2();
        let first = event(fixture);
        world.fail("dynamodb", "TransactWriteItems", Way::Killed);
        world.invoke(&first, "first").await.unwrap_err();
        // Its lock is live.
        let busy = world.invoke(&event(fixture), "second").await;
        assert_eq!(busy.unwrap(), "another run will look again");
        assert_eq!((world.ec2(), world.changes()), (exposed, 0));
        // Lambda tries the first again. What is exposed after its last read, only
        // another look can find.
        let mut finished = 0;
        world.meddle(move |call, _, cloud| {
            finished += usize::from(call.operation == "PutItem");
            if call.operation == "PutItem" && finished == 1 {
                fixture.expose(fixture.items()[0], &mut cloud.ec2);
            }
            None
        });
        world.invoke(&first, "first").await.unwrap();
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated", "remediated"]);
    });
}

#[test]
fn a_retry_keeps_what_was_there_before_and_spends_no_budget() {
    every(async |fixture| {
        let items = fixture.items().len();
        let mut world = World::new(fixture, &json!({ "budget": { "changes_per_hour": items } }));
        world.expose(items);
        let before: Arc<Mutex<Vec<Value>>> = Arc::default();
        world.meddle({
            let before = before.clone();
            move |_, changes, cloud| {
                let mut before = before.lock().unwrap();
                if !changes || before.len() > 1 {
                    return None;
                }
                let mut records = cloud.table.items.iter();
                let record = records.find(|(pk, _)| pk.starts_with("entry#"));
                before.push(record.unwrap().1["before"].clone());
                (before.len() == 1).then(denied)
            }
        });
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.account.failed.len(), 1, "Lambda has tried it again");
        let entry = world.entry().await;
        assert_eq!(
            (entry.head.attempts, entry.head.status.name()),
            (2, "remediated")
        );
        assert!(entry.detail.before.keys().eq(fixture.items()));
        let before = before.lock().unwrap();
        assert_eq!(before[0], before[1], "at the first try, and at the second");
        assert_eq!(world.counted(), items as u64);
        assert!(!world.holds("trip#"));
        assert_eq!(world.told(), 2, "that it failed, and that it is fixed");
    });
}

#[test]
fn a_retry_counts_what_was_exposed_since() {
    every(async |fixture| {
        let items = fixture.items().len();
        let mut world = World::exposed(fixture);
        let event = event(fixture);
        world.fail("dynamodb", "TransactWriteItems", Way::Killed);
        world.invoke(&event, "first").await.unwrap_err();
        assert_eq!(world.counted(), 1);
        world.expose(items);
        world.invoke(&event, "first").await.unwrap();
        world.is_remediated();
        assert_eq!(world.counted(), items as u64);
    });
}

#[test]
fn a_failure_that_lasts_is_told_once_and_again_when_it_is_fixed() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let exposed = world.ec2();
        world.meddle(|_, changes, _| changes.then(denied));
        world.notice().await;
        assert_eq!(
            (world.ec2(), world.changes()),
            (exposed, 3),
            "Lambda's tries"
        );
        assert_eq!(world.outcomes().await, ["failed"]);
        assert_eq!((world.account.given_up.len(), world.told()), (1, 1));
        let (_, why) = &world.account.given_up[0];
        assert!(
            why.contains("UnauthorizedOperation: You are not authorized"),
            "{why}"
        );
        world.account.leave_alone();
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.told(), 2);
    });
}

/// However often the SDK tries, it hears nothing; what counts is what is read
/// afterwards.
#[test]
fn a_change_whose_answer_is_lost_is_told_once_as_what_is_read_afterwards() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        world.meddle(|call, changes, cloud| {
            changes.then(|| {
                cloud.answer(call, beginning());
                Reply::Broken
            })
        });
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!((world.account.failed.len(), world.told()), (0, 1));
        let entry = world.entry().await;
        let last = entry.last_outcomes();
        assert!(
            last.iter().all(|of| of.ending == Ending::AlreadyDone),
            "{last:?}"
        );
        assert!(
            entry.detail.outcomes.iter().any(|of| of.failed()),
            "it is on record"
        );
    });
}

#[test]
fn a_change_that_is_refused_while_somebody_else_makes_it_is_no_failure() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let placed = world.placed.clone();
        world.meddle(move |_, changes, cloud| {
            changes.then(|| {
                cloud.ec2 = placed.clone();
                denied()
            })
        });
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!((world.account.failed.len(), world.told()), (0, 1));
    });
}

#[test]
fn what_stays_although_aws_said_done_is_a_failure() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let exposed = world.ec2();
        world.meddle(|call, changes, cloud| {
            changes.then(|| {
                let before = cloud.ec2.clone();
                let answer = cloud.answer(call, beginning());
                cloud.ec2 = before;
                answer
            })
        });
        let within = controls::of(fixture.control()).unwrap().shown_within();
        if !within.is_zero() {
            let accepted = world.invoke(&event(fixture), "early").await;
            assert_eq!(accepted.unwrap(), "pending");
            sleep(within).await;
        }
        let why = world.invoke(&event(fixture), "first").await.unwrap_err();
        assert!(
            why.contains("not remediated") && why.contains("still"),
            "{why}"
        );
        assert_eq!(world.outcomes().await, ["failed"]);
        assert_eq!(world.ec2(), exposed);
        assert_eq!(world.changes(), 1, "read again, not changed again");
    });
}

#[test]
fn what_cannot_be_read_again_is_not_reported_as_closed() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let event = event(fixture);
        let mut changed = false;
        world.meddle(move |call, changes, _| {
            changed |= changes;
            (changed && !changes && call.service == "ec2").then(denied)
        });
        let why = world.invoke(&event, "first").await.unwrap_err();
        assert!(why.contains("could not be read again"), "{why}");
        assert_eq!(world.outcomes().await, ["failed"]);
        world.account.leave_alone();
        assert_eq!(world.invoke(&event, "first").await.unwrap(), "remediated");
        world.is_remediated();
        assert_eq!(world.changes(), 1);
    });
}

/// EC2's reads lag behind its writes.
#[test]
fn a_read_that_shows_the_old_state_is_repeated() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({}));
        world.expose(fixture.items().len());
        let mut old: Option<(Cloud, Instant)> = None;
        world.meddle(move |call, changes, cloud| {
            if changes {
                old.get_or_insert_with(|| (cloud.clone(), Instant::now()));
                return None;
            }
            let (old, since) = old.as_mut()?;
            let lags = since.elapsed() < Duration::from_millis(200);
            (lags && call.service == "ec2").then(|| old.answer(call, beginning()))
        });
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!(world.changes(), fixture.items().len());
        assert_eq!((world.account.failed.len(), world.told()), (0, 1));
    });
}

#[test]
fn what_others_expose_meanwhile_is_closed_in_the_same_run() {
    every(async |fixture| {
        let [first, second, ..] = fixture.items() else {
            return;
        };
        let mut world = World::new(fixture, &json!({}));
        fixture.expose(first, &mut world.account.cloud().ec2);
        let mut once = true;
        world.meddle(move |_, changes, cloud| {
            if changes && std::mem::take(&mut once) {
                fixture.expose(second, &mut cloud.ec2);
            }
            None
        });
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!((world.counted(), world.told()), (2, 1));
        let entry = world.entry().await;
        assert!(entry.detail.before.keys().eq([first, second]));
    });
}

#[test]
fn without_a_ledger_nothing_is_changed() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let (exposed, event) = (world.ec2(), event(fixture));
        world.fail("dynamodb", "TransactWriteItems", Way::Denied);
        let why = world.invoke(&event, "first").await.unwrap_err();
        assert!(
            why.contains("TransactWriteItems: AccessDeniedException"),
            "{why}"
        );
        assert_eq!((world.ec2(), world.changes()), (exposed, 0));
        assert_eq!(world.invoke(&event, "first").await.unwrap(), "remediated");
        world.is_remediated();
    });
}

/// Nobody is kept out until the lease lapses: whoever comes next tells.
#[test]
fn a_message_that_cannot_be_put_on_the_bus_is_a_failure() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        world.fail("events", "PutEvents", Way::Denied);
        let why = world.invoke(&event(fixture), "first").await.unwrap_err();
        assert!(why.contains("PutEvents: AccessDeniedException"), "{why}");
        assert!(world.holds("lock#"), "not closed");
        let next = world.invoke(&event(fixture), "second").await;
        assert_eq!(next.unwrap(), "remediated");
        world.account.settle().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!((world.changes(), world.told()), (1, 1));
    });
}

#[test]
fn a_read_that_fails_changes_nothing_and_is_tried_again() {
    every(async |fixture| {
        let calls = {
            let mut world = World::exposed(fixture);
            world.notice().await;
            world.account.calls_of(world.function())
        };
        let begin = calls
            .iter()
            .position(|call| call.operation == "TransactWriteItems");
        let reads: BTreeSet<_> = calls[..begin.unwrap()].iter().collect();
        assert!(reads.len() > 2, "{reads:?}");
        for Nth {
            service, operation, ..
        } in reads
        {
            let mut world = World::exposed(fixture);
            let (exposed, event) = (world.ec2(), event(fixture));
            world.fail(service, operation, Way::Denied);
            let first = world.invoke(&event, "first").await;
            if fixture.spare_reads().contains(&operation.as_str()) {
                assert_eq!(first.unwrap(), "remediated", "{operation}");
                continue;
            }
            assert_eq!((world.ec2(), world.changes()), (exposed, 0));
            if fixture.told_reads().contains(&(operation.as_str(), 0)) {
                assert_eq!(first.unwrap(), "notified", "{operation}");
                world.account.settle().await;
                assert_eq!(world.told(), 1);
                continue;
            }
            let why = first.unwrap_err();
            assert!(why.contains(operation), "{why}");
            assert_eq!(world.records().await.len(), 0);
            assert_eq!(world.invoke(&event, "first").await.unwrap(), "remediated");
            world.is_remediated();
        }
    });
}

#[test]
fn a_wrong_policy_changes_nothing_and_names_the_field() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({ "mode": "enfroce" }));
        world.expose(1);
        let exposed = world.ec2();
        let why = world.invoke(&event(fixture), "first").await.unwrap_err();
        let field = format!("`controls.{}.mode`", fixture.control());
        assert!(why.contains(&field) && why.contains("`enforce`"), "{why}");
        assert_eq!((world.ec2(), world.changes()), (exposed, 0));
        assert_eq!(world.records().await.len(), 0);
    });
}

#[test]
fn mode_notify_records_and_tells_once_and_changes_nothing() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({ "mode": "notify" }));
        world.expose(1);
        let exposed = world.ec2();
        for _ in 0..2 {
            world.notice().await;
            assert_eq!((world.ec2(), world.changes()), (exposed.clone(), 0));
            assert_eq!(world.outcomes().await, ["notified"]);
            assert_eq!(world.told(), 1);
        }
        // Closed by hand, and exposed again: that is new.
        world.account.cloud().ec2 = world.placed.clone();
        world.notice().await;
        world.expose(1);
        world.notice().await;
        assert_eq!(world.outcomes().await, ["notified", "notified"]);
        assert_eq!(world.told(), 2);
    });
}

#[test]
fn mode_off_reads_and_ends() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({ "mode": "off" }));
        world.expose(1);
        let exposed = world.ec2();
        assert_eq!(world.invoke(&event(fixture), "first").await.unwrap(), "off");
        assert_eq!(world.ec2(), exposed);
        let wire = world.account.wire(world.function()).unwrap();
        assert_eq!(wire.sequential_round_trips(), fixture.rounds_of_reads());
        assert_eq!(world.records().await.len(), 0);
    });
}

#[test]
fn what_was_cut_off_is_finished_and_told_even_in_mode_off() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let mut changes = BTreeSet::new();
        {
            let mut clean = World::exposed(fixture);
            clean.notice().await;
            let operations = clean.operations().into_iter();
            changes.extend(operations.filter(|name| is_change(fixture, name)));
        }
        let change = changes.pop_first().unwrap();
        world.fail("ec2", &change, Way::Killed);
        world.invoke(&event(fixture), "first").await.unwrap_err();
        world
            .set_policy(&policy(fixture, &json!({ "mode": "off" })))
            .await;
        sleep(LAPSED).await;
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert_eq!((world.changes(), world.told()), (1, 1));
    });
}

#[test]
fn with_the_kill_switch_on_nothing_begins_and_that_is_told_once() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let exposed = world.ec2();
        world.set_policy(&killed(fixture)).await;
        for _ in 0..2 {
            world.notice().await;
            assert_eq!((world.ec2(), world.changes()), (exposed.clone(), 0));
            assert_eq!(world.outcomes().await, ["stopped"]);
            assert_eq!(world.told(), 1);
        }
        world.set_policy(&policy(fixture, &json!({}))).await;
        world.notice().await;
        world.is_remediated();
        assert_eq!(world.outcomes().await, ["stopped", "remediated"]);
    });
}

/// The policy that the function keeps lapses while a call hangs, and meanwhile
/// somebody throws the switch: before the first change, and after each but the
/// last.
#[test]
fn the_kill_switch_stops_the_steps_that_have_not_begun_and_the_run_is_closed() {
    every(async |fixture| {
        let items = fixture.items().len();
        for made in 0..items {
            let mut world = World::new(fixture, &json!({}));
            world.notice().await;
            let lapses = Instant::now() + Duration::from_secs(60);
            sleep(Duration::from_secs(55)).await;
            world.expose(items);
            let (exposed, killed) = (world.ec2(), killed(fixture).to_string());
            let mut changes = 0;
            world.meddle(move |call, is_change, cloud| {
                let hangs = match made {
                    0 => call.operation == "TransactWriteItems",
                    _ => is_change && changes + 1 == made,
                };
                if hangs && Instant::now() < lapses {
                    cloud.policy.clone_from(&killed);
                    return Some(Reply::Silence);
                }
                changes += usize::from(is_change);
                None
            });
            let ended = world.invoke(&event(fixture), "first").await;
            assert_eq!(ended.unwrap(), "stopped");
            world.account.settle().await;
            let entry = world.entry().await;
            let endings = entry.detail.outcomes.iter().map(|of| &of.ending);
            let done = endings.clone().filter(|of| **of == Ending::Done).count();
            let skipped = endings.filter(|of| matches!(of, Ending::Skipped { .. }));
            assert_eq!((done, skipped.count()), (made, items - made));
            assert_eq!(world.ec2() == exposed, made == 0);
            assert_ne!(world.ec2(), world.placed);
            assert!(!world.holds("lock#"));
            assert_eq!(world.told(), 1);
        }
    });
}

#[test]
fn over_the_budget_the_control_trips_and_that_is_told_once() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({ "budget": { "changes_per_hour": 1 } }));
        world.expose(1);
        world.notice().await;
        world.is_remediated();
        let told = world.told();
        // Apart, or messages of one kind become a storm.
        sleep(Duration::from_secs(600)).await;
        world.expose(1);
        let exposed = world.ec2();
        for _ in 0..2 {
            world.notice().await;
            assert_eq!((world.ec2(), world.changes()), (exposed.clone(), 1));
            assert!(world.holds(&format!("trip#{}", fixture.control())));
            assert_eq!(world.told(), told + 1);
        }
        assert_eq!((world.counted(), world.account.failed.len()), (1, 0));
    });
}

#[test]
fn what_is_put_back_again_and_again_is_told_once_as_a_fight_and_trips_in_the_end() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({}));
        for time in 1..10 {
            world.expose(1);
            world.notice().await;
            world.is_remediated();
            let fight = world.entry().await.detail.fight;
            let times = fight.map(|fight| fight.times);
            assert_eq!(times, (time >= 3).then_some(time));
            assert_eq!(world.told(), time.min(3) as usize);
            sleep(Duration::from_secs(600)).await;
        }
        world.expose(1);
        let exposed = world.ec2();
        for _ in 0..2 {
            world.notice().await;
            assert_eq!((world.ec2(), world.changes()), (exposed.clone(), 9));
            assert_eq!(world.outcomes().await.last(), Some(&"tripped"));
            let control = fixture.control();
            assert!(world.holds(&format!("trip#{control}#{}", fixture.id())));
            assert!(
                !world
                    .account
                    .cloud()
                    .table
                    .items
                    .contains_key(&format!("trip#{control}"))
            );
            assert_eq!(world.told(), 4);
        }
    });
}

#[test]
fn what_is_put_back_every_12_hours_is_told_once_with_the_rhythm() {
    every(async |fixture| {
        let mut world = World::new(fixture, &json!({}));
        for time in 1..20 {
            world.expose(1);
            world.notice().await;
            world.is_remediated();
            let fight = world.entry().await.detail.fight;
            assert_eq!(fight.is_some(), time >= 4, "{time}");
            assert_eq!(world.told(), time.min(4));
            if let Some(fight) = fight {
                assert_eq!(
                    (fight.times as usize, fight.within_hours),
                    (time.min(14), 168)
                );
                assert_eq!(fight.every_seconds.unwrap() / 60, 720);
            }
            sleep(Duration::from_secs(12 * 3600)).await;
        }
        let trip = format!("trip#{}", fixture.control());
        assert!(!world.holds(&trip));
    });
}

#[test]
fn what_was_there_before_enforce_stays_and_what_comes_after_goes() {
    every(async |fixture| {
        let mut world = World::exposed(fixture);
        let existing = world.ec2();
        for _ in 0..2 {
            world.sweep().await;
            world.notice().await;
            assert_eq!((world.ec2(), world.changes()), (existing.clone(), 0));
            assert_eq!(world.outcomes().await, ["existing"]);
        }
        for item in &fixture.items()[1..] {
            fixture.expose(item, &mut world.account.cloud().ec2);
            world.notice().await;
            assert_eq!(world.ec2(), existing, "only what is new goes");
        }
        // Closed by hand: what comes back is new.
        world.account.cloud().ec2 = world.placed.clone();
        world.sweep().await;
        world.expose(1);
        world.notice().await;
        world.is_remediated();
    });
}

#[test]
fn opt_outs_hold_while_they_can_be_read_and_have_not_ended() {
    every(async |fixture| {
        let info = info(fixture);
        if info.opt_out_on == OptOutOn::Policy {
            return;
        }
        let name = fixture.control().name();
        let mut places = vec![fixture.id()];
        if info.opt_out_on == OptOutOn::Item {
            places.push(fixture.items()[0]);
        }
        for place in places {
            for (tag, outcome) in [
                (format!("{name} owner=team-web"), "exempt"),
                (format!("{name} until=2026-11-24"), "exempt"),
                ("all".to_owned(), "exempt"),
                (format!("{name} until=2026-11-23"), "remediated"),
                ("missing-patches".to_owned(), "remediated"),
                (format!("{name} until=tomorrow"), "held"),
                (name[..name.len() - 1].to_owned(), "held"),
            ] {
                let mut world = World::exposed(fixture);
                let opt_out = ("backstop:opt-out".to_owned(), tag.clone());
                world
                    .account
                    .cloud()
                    .ec2
                    .tags_of(place)
                    .unwrap()
                    .extend([opt_out]);
                let exposed = world.ec2();
                for _ in 0..2 {
                    world.notice().await;
                    assert_eq!(world.outcomes().await, [outcome], "{place}: {tag}");
                    assert_eq!(world.told(), 1, "{place}: {tag}");
                    if outcome == "remediated" {
                        let shows = fixture.shows(&world.ec2());
                        assert_eq!(shows, fixture.shows(&world.placed), "{tag}");
                    } else {
                        assert_eq!((world.ec2(), world.changes()), (exposed.clone(), 0));
                    }
                }
            }
        }
    });
}

#[test]
fn exemptions_in_the_policy_hold_while_they_can_be_read_and_have_not_ended() {
    every(async |fixture| {
        if info(fixture).opt_out_on != OptOutOn::Policy {
            return;
        }
        for (until, outcome) in [("2026-11-24", "exempt"), ("2026-11-23", "remediated")] {
            let mut world = World::new(fixture, &exempt(until));
            world.expose(1);
            let exposed = world.ec2();
            for _ in 0..2 {
                world.notice().await;
                assert_eq!(world.outcomes().await, [outcome], "{until}");
                assert_eq!(world.told(), 1);
                assert_eq!(world.ec2() == exposed, outcome == "exempt");
            }
        }
        let of = |exemption: Value| json!({ "settings": { "exemption": exemption } });
        for (rules, field) in [
            (exempt("tomorrow"), "exemption.until"),
            (
                of(json!({ "until": "2027-01-31", "owner": " " })),
                "exemption.owner",
            ),
            (of(json!({ "until": "2027-01-31" })), "exemption"),
            (json!({ "settings": { "exempt": true } }), "exempt"),
        ] {
            let mut world = World::new(fixture, &rules);
            world.expose(1);
            let exposed = world.ec2();
            let why = world.invoke(&event(fixture), "first").await.unwrap_err();
            let field = format!("`controls.{}.settings.{field}`", fixture.control());
            assert!(why.contains(&field), "{why}");
            assert_eq!((world.ec2(), world.changes()), (exposed, 0));
        }
    });
}

#[test]
fn what_belongs_to_another_account_is_told_and_left_alone() {
    every(async |fixture| {
        if info(fixture).prefix.is_none() {
            return;
        }
        let mut world = World::exposed(fixture);
        "444455556666".clone_into(&mut world.account.cloud().ec2.account);
        let exposed = world.ec2();
        world.notice().await;
        assert_eq!((world.ec2(), world.changes()), (exposed, 0));
        assert_eq!(world.outcomes().await, ["not-owned"]);
        assert_eq!(world.told(), 1);
    });
}

#[test]
fn a_resource_that_is_gone_is_no_failure() {
    every(async |fixture| {
        if info(fixture).prefix.is_none() {
            return;
        }
        let mut world = World::exposed(fixture);
        let nothing = world.nothing();
        world.account.cloud().ec2 = nothing.clone();
        world.notice().await;
        assert_eq!((world.records().await.len(), world.told()), (0, 0));
        // It goes between the reads and the change.
        let mut world = World::exposed(fixture);
        let gone = nothing.clone();
        world.meddle(move |call, _, cloud| {
            if call.operation == "TransactWriteItems" {
                cloud.ec2 = gone.clone();
            }
            None
        });
        world.notice().await;
        assert_eq!(world.ec2(), nothing);
        assert_eq!((world.account.failed.len(), world.told()), (0, 1));
        assert_eq!(world.outcomes().await, ["remediated"]);
        assert!(!world.holds("lock#"));
    });
}

/// A world in which everything was remediated, and may be exposed again where the
/// policy has to allow it; and what was exposed.
async fn remediated(fixture: &'static dyn Fixture) -> (World, Ec2) {
    let mut world = World::new(fixture, &json!({}));
    world.expose(fixture.items().len());
    let exposed = world.ec2();
    world.notice().await;
    world.is_remediated();
    (world, exposed)
}

async fn allow(world: &World) {
    if info(world.fixture).opt_out_on == OptOutOn::Policy {
        let exempt = policy(world.fixture, &exempt("2027-01-31"));
        world.set_policy(&exempt).await;
    }
}

#[test]
fn an_undo_restores_what_was_there_and_it_is_not_fought_over() {
    every(async |fixture| {
        let (mut world, exposed) = remediated(fixture).await;
        if info(fixture).opt_out_on == OptOutOn::Policy {
            let refused = world.undo().await;
            assert_eq!(refused["verdict"], "refused");
            let field = format!("`controls.{}.settings.exemption`", fixture.control());
            assert!(refused["message"].as_str().unwrap().contains(&field));
            world.is_remediated();
        }
        allow(&world).await;
        let undone = world.undo().await;
        assert_eq!(undone["verdict"], "undone", "{undone}");
        let shows = fixture.shows(&exposed);
        assert_eq!(fixture.shows(&world.ec2()), shows);
        assert_eq!(world.outcomes().await, ["remediated", "undone"]);
        assert!(!world.holds("lock#"));
        // What the undo did is an event, too.
        world.notice().await;
        assert_eq!(fixture.shows(&world.ec2()), shows);
        assert_eq!(world.outcomes().await, ["remediated", "undone", "exempt"]);
        let (changes, told) = (world.changes(), world.told());
        let again = world.undo().await;
        assert_eq!(again["verdict"], "already-as-before", "{again}");
        assert_eq!((world.changes(), world.told()), (changes, told));
    });
}

#[test]
fn an_undo_that_fails_lists_as_restored_only_what_is() {
    every(async |fixture| {
        let (mut world, _) = remediated(fixture).await;
        allow(&world).await;
        let info = info(fixture);
        let actions = info.begins.iter().chain(info.undoes);
        let changes: BTreeSet<&str> = actions
            .filter_map(|action| action.split_once(':'))
            .map(|(_, name)| name)
            .collect();
        let deny =
            move |call: &Call, _: &mut Cloud| changes.contains(&*call.operation).then(denied);
        world.account.meddle("UndoFunction", deny);
        let of = world.records().await[0].id().to_owned();
        let ask = json!({ "remediation": of, "reason": "a test" });
        let failed = world.invoke_of("UndoFunction", &ask, "denied").await;
        assert!(failed.is_err(), "{failed:?}");
        let last = async |world: &World| match world.records().await.pop() {
            Some(Record::Undo(undo)) => *undo,
            other => panic!("{other:?}"),
        };
        let undo = last(&world).await;
        assert_eq!(undo.status.name(), "undo-failed");
        assert_eq!(undo.restored, [] as [String; 0]);
        assert!(!undo.planned.is_empty());

        world.account.meddle("UndoFunction", |_, _| None);
        sleep(Duration::from_secs(3600)).await;
        let undone = world.undo().await;
        assert_eq!(undone["verdict"], "undone", "{undone}");
        let undo = last(&world).await;
        assert_eq!((undo.restored.is_empty(), undo.planned.len()), (false, 0));
    });
}

#[test]
fn an_undo_changes_nothing_of_what_is_as_before_gone_or_changed_otherwise() {
    every(async |fixture| {
        let (mut world, exposed) = remediated(fixture).await;
        allow(&world).await;
        world.account.cloud().ec2 = exposed.clone();
        assert_eq!(world.undo().await["verdict"], "already-as-before");
        assert_eq!(world.ec2(), exposed);

        let mut otherwise = world.placed.clone();
        if fixture.change_otherwise(&mut otherwise) {
            world.account.cloud().ec2 = otherwise.clone();
            let refused = world.undo().await;
            assert_eq!(refused["verdict"], "refused", "{refused}");
            let items = refused["items"].as_array().unwrap();
            let mut changed = items.iter().filter(|item| item["act"] == "changed");
            let changed = changed.next().unwrap();
            let [before, left, now] = ["before", "left", "now"].map(|state| &changed[state]);
            assert!(before != left && left != now && before != now, "{changed}");
            assert_eq!(world.ec2(), otherwise);
        }

        if info(fixture).prefix.is_some() {
            let nothing = world.nothing();
            world.account.cloud().ec2 = nothing.clone();
            assert_eq!(world.undo().await["verdict"], "nothing-to-undo");
            assert_eq!(world.ec2(), nothing);
        }
        let outcomes = world.outcomes().await;
        assert!(!outcomes.contains(&"undone"), "{outcomes:?}");
    });
}
