//! The ledger's table in memory (`backstop_wire::memory`) beside the emulator's:
//! every call that the functions make to it, repeated and refused ones included,
//! goes to both, and both must give the same answer and hold the same items.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use backstop_aws::clients::Clients;
use backstop_aws::ledger::{Begun, Claim, Closed, Holder, Ledger, Lock, Recorded};
use backstop_core::entry::{AtOnce, Entry};
use backstop_core::exemption::Exemption;
use backstop_core::guards::{Fights, Trip};
use backstop_core::plan::{Change, Disposition, Plan};
use backstop_core::ports::Permission;
use backstop_core::rules::FightRules;
use backstop_core::run::{Head, Run};
use backstop_core::security_group::{IngressRule, Source};
use backstop_core::storms::{Kind, More};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use backstop_tests::local_aws::http::Message;
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_wire::memory::Cloud;
use backstop_wire::memory::table::{Index, Table};
use backstop_wire::{Call, Reply, Wire};

use super::*;
use crate::faults::{Fault, Scene, Story, Watch, Way, indexes, ledger_table, stories};

/// A table of the emulator's, beside one in memory.
struct Beside {
    at: std::net::SocketAddr,
    table: String,
    /// The one in memory: each call is repeated on it.
    memory: Mutex<Table>,
    compared: AtomicUsize,
    differences: Mutex<Vec<String>>,
}

impl Beside {
    /// A new table of the emulator's that holds what the one in memory does.
    async fn new(aws: &LocalAws, cloud: &Cloud) -> Arc<Self> {
        let table = format!("beside-{}", aws.next());
        create(aws, &table, &indexes()).await;
        let beside = Self {
            at: aws.proxy.upstreams.ministack,
            table,
            memory: Mutex::new(cloud.table.clone()),
            compared: AtomicUsize::new(0),
            differences: Mutex::default(),
        };
        for item in cloud.table.items.values() {
            let put = json!({ "TableName": ledger_table(), "Item": item });
            let (status, answer) = beside.call("PutItem", &put);
            assert_eq!(status, 200, "{answer}");
        }
        Arc::new(beside)
    }

    /// Makes a call of the emulator.
    fn call(&self, operation: &str, request: &Value) -> (u16, Value) {
        let request = request.to_string().replace(&ledger_table(), &self.table);
        let target = format!("DynamoDB_20120810.{operation}");
        let headers = [
            ("host", "localhost"),
            ("x-amz-target", &target),
            ("content-type", "application/x-amz-json-1.0"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request",
            ),
        ];
        let request = Message::request("POST", "/", &headers, request.as_bytes());
        let answer = request.send(self.at).unwrap();
        let body = answer.text().replace(&self.table, &ledger_table());
        (answer.status(), serde_json::from_str(&body).unwrap())
    }

    /// Makes a call of the emulator, too, and notes where the answers differ.
    fn compare(&self, call: &Call, reply: &Reply) {
        let Reply::Answer(status, body) = reply else {
            panic!("{reply:?}")
        };
        self.memory.lock().unwrap().answer(call);
        let ours = serde_json::from_str(body).unwrap();
        let ours = (*status, order(&ours), plain(&ours));
        let (status, theirs) = self.call(&call.operation, &call.json);
        let theirs = (status, order(&theirs), plain(&theirs));
        self.compared.fetch_add(1, Ordering::Relaxed);
        if ours != theirs {
            let (operation, request) = (&call.operation, &call.json);
            self.differences.lock().unwrap().push(format!(
                "{operation} {request}\n  in memory: {ours:?}\n  emulator:  {theirs:?}"
            ));
        }
    }

    /// How many calls were compared; panics where answers differed, or what both
    /// tables hold in the end does.
    fn done(&self) -> usize {
        let (_, theirs) = self.call("Scan", &json!({ "TableName": ledger_table() }));
        let ours = self
            .memory
            .lock()
            .unwrap()
            .items
            .values()
            .cloned()
            .collect();
        assert_eq!(plain(&ours), plain(&theirs["Items"]));
        let differences = self.differences.lock().unwrap();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        self.compared.load(Ordering::Relaxed)
    }
}

/// A table with the ledger's keys and these indexes.
async fn create(aws: &LocalAws, table: &str, indexes: &[Index]) {
    let key = |name: &str, kind: KeyType| {
        let key = KeySchemaElement::builder().attribute_name(name);
        key.key_type(kind).build().unwrap()
    };
    let attribute = |name: &str| {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        let attribute = attribute.attribute_type(ScalarAttributeType::S);
        attribute.build().unwrap()
    };
    let mut attributes = BTreeSet::from(["pk", "sk"]);
    let mut create = aws.dynamodb.create_table().table_name(table);
    for index in indexes {
        attributes.extend([index.partition.as_str(), index.sort.as_str()]);
        let shows = match index.shows.is_empty() {
            true => Projection::builder().projection_type(ProjectionType::KeysOnly),
            false => Projection::builder()
                .projection_type(ProjectionType::Include)
                .set_non_key_attributes(Some(index.shows.clone())),
        };
        let index = GlobalSecondaryIndex::builder()
            .index_name(&index.name)
            .key_schema(key(&index.partition, KeyType::Hash))
            .key_schema(key(&index.sort, KeyType::Range))
            .projection(shows.build());
        create = create.global_secondary_indexes(index.build().unwrap());
    }
    create
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key("pk", KeyType::Hash))
        .key_schema(key("sk", KeyType::Range))
        .set_attribute_definitions(Some(attributes.into_iter().map(attribute).collect()))
        .send()
        .await
        .unwrap();
}

/// The order of the items of a query: by this attribute, and by it alone.
fn order(answer: &Value) -> Vec<Value> {
    let items = answer["Items"].as_array().into_iter().flatten();
    items.map(|item| item["started_at"].clone()).collect()
}

/// An answer without what says nothing about the table: texts, and the order of
/// what has none.
fn plain(answer: &Value) -> Value {
    match answer {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, value)| {
                let texts = ["message", "Message", "ScannedCount"];
                !texts.contains(&name.as_str()) && **value != json!({})
            })
            .map(|(name, value)| match (name.as_str(), value.as_str()) {
                ("__type", Some(kind)) => {
                    let kind = kind.rsplit('#').next().unwrap_or(kind);
                    (name.clone(), json!(kind))
                }
                _ => (name.clone(), plain(value)),
            })
            .collect(),
        // Reasons stand in the order of the request.
        Value::Array(values) => {
            let mut values: Vec<Value> = values.iter().map(plain).collect();
            if !values.iter().any(|value| value.get("Code").is_some()) {
                values.sort_by_key(Value::to_string);
            }
            Value::Array(values)
        }
        other => other.clone(),
    }
}

/// Plays a story beside the emulator: undisturbed, and with the first writes of
/// the ledger repeated or never answered. How many calls were compared.
async fn beside(aws: &LocalAws, story: impl Story + Send + Sync) -> usize {
    const MOST: usize = 8;
    let writes = ["PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems"];
    let function = story.function();
    let scene = elsewhere(|| Scene::set(story));
    let table = Beside::new(aws, &scene.cloud).await;
    let watch = |table: &Arc<Beside>| -> Arc<Watch> {
        let table = table.clone();
        Arc::new(move |call, reply| table.compare(call, reply))
    };
    let (calls, wrong) = elsewhere(|| scene.play_before(None, Some(watch(&table))));
    assert_eq!(wrong, Vec::<String>::new());
    let mut compared = table.done();
    let written = calls
        .iter()
        .filter(|call| writes.contains(&call.operation.as_str()));
    for call in written.take(MOST) {
        for way in [Way::AnswerLost, Way::Killed] {
            let table = Beside::new(aws, &scene.cloud).await;
            let fault = Fault {
                function,
                call: call.clone(),
                way,
            };
            let (_, wrong) = elsewhere(|| scene.play_before(Some(fault), Some(watch(&table))));
            assert_eq!(wrong, Vec::<String>::new());
            compared += table.done();
        }
    }
    compared
}

/// Runs on a thread of its own: a story has its own time.
fn elsewhere<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn the_table_in_memory_answers_what_the_emulator_answers() {
    scenario(async |aws| {
        let compared = beside(aws, stories::Revoke).await
            + beside(aws, stories::Sweep).await
            + beside(aws, stories::Undo).await
            + beside(aws, stories::Encrypt).await
            + beside(aws, stories::Patch).await;
        println!("{compared} calls were answered alike");
        assert!(compared > 1_000, "{compared}");
    });
}

/// Two runs that compete for a lock, a budget, a message and a record, which no
/// story covers.
#[test]
fn runs_that_compete_are_refused_in_memory_as_they_are_by_the_emulator() {
    scenario(async |aws| {
        let account = Cloud::new(ACCOUNT, "{}", indexes());
        let table = Beside::new(aws, &account).await;
        let memory = Mutex::new(account.table);
        let wire = Wire::new({
            let table = table.clone();
            move |call| {
                let reply = memory.lock().unwrap().answer(call).unwrap();
                table.compare(call, &reply);
                reply
            }
        });
        let ledger = Ledger::new(&Clients::new(&wire.config(1)), ledger_table());
        compete(&ledger).await;
        let compared = table.done();
        println!("{compared} calls were answered alike");
        assert!(compared > 30, "{compared}");
    });
}

async fn compete(ledger: &Ledger) {
    let (one, other) = (
        entry("01KAZ0000000000000000000A1"),
        entry("01KAZ0000000000000000000A2"),
    );
    let now = ledger.clock().now();
    let holder = |id: &str, seconds: u64| Holder {
        id: id.to_owned(),
        lease_until: now + Duration::from_secs(seconds),
    };
    let (first, second) = (holder("first", 3_600), holder("second", 3_600));
    let lock = async || {
        let standing = ledger.standing(ControlId::OpenIngress, "sg-1").await;
        standing.unwrap().lock
    };

    // One has the lock, and what it may change in an hour; the other asks it to
    // look again, and is heard.
    let begun = ledger.begin(&one, &first, None, 5).await;
    assert!(matches!(begun, Ok(Begun::Started)));
    for (more, room) in [(2, true), (9, false), (3, false)] {
        let went_on = ledger.go_on(&one, &first, None, more, 5).await;
        match room {
            true => assert!(matches!(went_on, Ok(Begun::Started))),
            false => assert!(matches!(went_on, Ok(Begun::OverBudget))),
        }
    }
    let begun = ledger.begin(&other, &second, None, 5).await;
    assert!(matches!(begun, Ok(Begun::Busy)));
    ledger.finish(&one).await.unwrap();
    let mut fights = Fights::default();
    fights.note(&one.head.id, ["f"], now, &FightRules::default(), None);
    let closed = ledger.close(&one, &first, false, Some(&fights)).await;
    assert_eq!(closed.unwrap(), Closed::LookAgain);
    assert!(lock().await.is_none());

    // A run that fails keeps the lock without a lease; whoever has read it takes
    // it over, and nobody who has read another one.
    assert!(matches!(
        ledger.begin(&other, &second, None, 5).await,
        Ok(Begun::Started)
    ));
    ledger.close(&other, &second, true, None).await.unwrap();
    let held = lock().await.unwrap();
    let moved = Lock {
        holder: "nobody".to_owned(),
        ..held.clone()
    };
    assert!(matches!(
        ledger.go_on(&other, &first, Some(&moved), 0, 5).await,
        Ok(Begun::Moved)
    ));
    assert!(matches!(
        ledger.go_on(&other, &first, Some(&held), 0, 5).await,
        Ok(Begun::Started)
    ));
    ledger
        .release("open-ingress", "sg-1", &second)
        .await
        .unwrap();
    let closed = ledger.close(&other, &first, false, None).await;
    assert_eq!(closed.unwrap(), Closed::Done);
    assert_eq!(ledger.untold().await.unwrap(), []);
    assert_eq!(
        ledger.records_of(&one.head.resource).await.unwrap(),
        [&*other.head.id, &*one.head.id]
    );
    ledger
        .outcomes_since(Some(one.head.started_at), now)
        .await
        .unwrap();

    // A message, a finding, a trip, a storm: each can be claimed only once.
    for sent in [false, true] {
        assert_eq!(ledger.claim_message("m", now).await.unwrap(), Claim::Ours);
        assert_eq!(
            ledger.claim_message("m", now).await.unwrap(),
            Claim::UnderWay
        );
        ledger.message_sent("m", sent).await.unwrap();
    }
    assert_eq!(ledger.claim_message("m", now).await.unwrap(), Claim::Sent);
    let found = entry("01KAZ0000000000000000000A3");
    assert_eq!(
        ledger.record(&found, None, false).await.unwrap(),
        Recorded::New
    );
    assert_eq!(
        ledger.record(&found, None, false).await.unwrap(),
        Recorded::Untold(found.head.id.clone())
    );
    let known = ledger
        .standing(ControlId::OpenIngress, "sg-1")
        .await
        .unwrap()
        .known
        .unwrap();
    ledger
        .known_told("open-ingress", "sg-1", &found.head.id)
        .await
        .unwrap();
    ledger
        .known_told("open-ingress", "sg-1", "another")
        .await
        .unwrap();
    ledger.forget("open-ingress", "sg-1", &known).await.unwrap();
    ledger.forget("open-ingress", "sg-1", &known).await.unwrap();
    let trip = Trip {
        at: now,
        why: "it fights".to_owned(),
    };
    for _ in 0..2 {
        ledger
            .trip_resource(ControlId::OpenIngress, "sg-1", &trip)
            .await
            .unwrap();
    }
    assert!(
        ledger
            .re_arm(ControlId::OpenIngress, Some("sg-1"))
            .await
            .unwrap()
    );
    assert!(
        !ledger
            .re_arm(ControlId::OpenIngress, Some("sg-1"))
            .await
            .unwrap()
    );
    assert!(!ledger.re_arm(ControlId::OpenIngress, None).await.unwrap());
    let kind = Kind::all()[0].clone();
    for _ in 0..2 {
        ledger.pace(&kind, 3, now).await.unwrap();
    }
    ledger
        .begin_storm(&kind, &More::default(), now)
        .await
        .unwrap();
    let surge = ledger.storm(&kind).await.unwrap().unwrap();
    let more = More {
        count: 4,
        since: Some(now),
        teams: BTreeSet::from(["team-web".to_owned()]),
    };
    assert!(ledger.count_in_storm(&surge, &more, now).await.unwrap());
    assert!(ledger.count_in_storm(&surge, &more, now).await.unwrap());
    let later = now + Duration::from_secs(3_600);
    assert!(!ledger.count_in_storm(&surge, &more, later).await.unwrap());
    assert_eq!(ledger.ended_storms(later).await.unwrap().len(), 1);
    ledger.begin_storm(&kind, &more, later).await.unwrap();
    ledger.begin_storm(&kind, &more, later).await.unwrap();
    ledger.begin_storm(&kind, &more, later).await.unwrap_err();

    // What is noted on an entry after its end, and the baseline.
    ledger.note_reused(&one.head.id, "vol-1").await.unwrap();
    assert!(ledger.note_deleted(&one.head.id, "vol-2").await.unwrap());
    assert!(!ledger.note_deleted(&one.head.id, "vol-1").await.unwrap());
    ledger
        .note_undone(&one.head.id, &other.head.id)
        .await
        .unwrap();
    assert!(!ledger.note_deleted(&one.head.id, "vol-2").await.unwrap());
    ledger.note_undone("unknown", &other.head.id).await.unwrap();
    let spared = vec!["f".to_owned(), "g".to_owned()];
    ledger
        .set_baseline(ControlId::OpenIngress, "sg-1", spared)
        .await
        .unwrap();
    ledger
        .baseline_is_complete(ControlId::OpenIngress)
        .await
        .unwrap();
    assert_eq!(
        ledger
            .baseline_resources(ControlId::OpenIngress)
            .await
            .unwrap()
            .len(),
        1
    );
    ledger
        .forget_baseline(ControlId::OpenIngress)
        .await
        .unwrap();
    assert!(!ledger.has_baseline(ControlId::OpenIngress).await.unwrap());
}

/// A remediation of one rule.
fn entry(id: &str) -> Entry<IngressRule> {
    let rule = IngressRule {
        id: "sgr-1".to_owned(),
        permission: Permission::new("tcp", 22, 22),
        source: Source::Ipv4("0.0.0.0/0".to_owned()),
        description: Some("ssh".to_owned()),
        tags: BTreeMap::new(),
    };
    let change = Change::remove("sgr-1", rule);
    let plan = Plan {
        disposition: Disposition::Enforce,
        changes: vec![change],
        reasons: vec![],
        because: None,
    };
    Run {
        head: Head {
            version: 1,
            id: id.to_owned(),
            control: ControlId::OpenIngress,
            severity: Severity::Critical,
            resource: cloudtrail::security_group_arn("sg-1"),
            resource_name: "web".to_owned(),
            account: ACCOUNT.to_owned(),
            region: REGION.to_owned(),
            team: None,
            status: Status::Remediated,
            exemption: Exemption::None,
            actor: Actor::default(),
            policy_version: 1,
            attempts: 1,
            started_at: "2026-11-24T10:59:30Z".parse().unwrap(),
            finished_at: None,
            managed_by: None,
        },
        detail: AtOnce {
            exposures: vec![],
            before: plan.before(),
            plan,
            outcomes: vec![],
            verification: None,
            shows_by: None,
            after: BTreeMap::new(),
            fight: None,
        },
    }
}
