//! What patching needs of the ledger, against the real DynamoDB client with
//! answers written from the API reference: the lock that the controls of
//! patching share, how long it is kept and when it is let go, and Inspector's
//! reports.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backstop_aws::clients::Clients;
use backstop_aws::clock::Clock;
use backstop_aws::ledger::{Begun, Closed, Ledger, Lock, MOST_BYTES, Recorded};
use backstop_core::patching::{Patching, Reports, Sent, Vulnerability};
use backstop_core::words::{Actor, ControlId, Severity};
use backstop_wire::{Call, Reply, Wire};
use jiff::Timestamp;
use serde_json::{Value, json};

const INSTANCE: &str = "i-0123456789abcdef0";
const LOCK: &str = "lock#missing-patches#i-0123456789abcdef0";
const ENTRY: &str = "01KAZ0000000000000000000A1";
const HOLDER: &str = "run 01KAZ0000000000000000000A1";

fn ledger(wire: &Wire) -> Ledger {
    Ledger::new(&Clients::new(&wire.config(1)), "ledger".to_owned())
}

fn run(control: ControlId) -> Patching {
    serde_json::from_value(json!({
        "version": 1, "id": ENTRY, "control": control, "severity": "high",
        "resource": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{INSTANCE}"),
        "resource_name": "web", "account": "111122223333", "region": "eu-central-1",
        "status": "in-progress", "operation": "install", "reboot": "never",
        "actor": Actor::default(), "policy_version": 1, "attempts": 1,
        "started_at": "2026-11-24T10:59:30Z",
    }))
    .unwrap()
}

fn sent(mut run: Patching) -> Patching {
    run.detail.command = Some(Sent::new(
        "ef7fdfd8-9b57-4151-a15c-db9a12345678".into(),
        "2026-11-24T11:00:00Z".parse().unwrap(),
    ));
    run
}

fn ok() -> Reply {
    Reply::ok("{}")
}

fn refused(parts: usize) -> Reply {
    let mut reasons = vec![json!({"Code": "None"}); parts];
    reasons[0] =
        json!({"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"});
    Reply::Answer(
        400,
        json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "Transaction cancelled, please refer cancellation reasons for specific reasons",
            "CancellationReasons": reasons,
        })
        .to_string(),
    )
}

fn transactions(wire: &Wire) -> Vec<Vec<Value>> {
    wire.calls()
        .into_iter()
        .filter(|call| call.operation == "TransactWriteItems")
        .map(|call| call.json["TransactItems"].as_array().unwrap().clone())
        .collect()
}

/// A number of DynamoDB's.
fn number(value: &Value) -> i64 {
    value["N"].as_str().unwrap().parse().unwrap()
}

/// In how many seconds a lease ends.
fn lasts(lease: &Value) -> i64 {
    (number(lease) - Timestamp::now().as_millisecond()) / 1000
}

// ------------------------------------------------------------------- the lock

#[tokio::test(start_paused = true)]
async fn the_controls_of_patching_share_the_lock_and_the_trip_of_an_instance_and_nothing_else() {
    for control in ControlId::PATCHING {
        let wire = Wire::new(|_: &Call| {
            Reply::ok(
                json!({"Responses": {"ledger": [{
                    "pk": {"S": LOCK}, "sk": {"S": "lock"}, "entry": {"S": ENTRY},
                    "holder": {"S": HOLDER}, "lease_until": {"N": "1795518000000"},
                }]}})
                .to_string(),
            )
        });
        let standing = ledger(&wire).standing(*control, INSTANCE).await.unwrap();
        assert_eq!(
            standing.lock,
            Some(Lock {
                entry: ENTRY.into(),
                holder: HOLDER.into(),
                lease_until: 1_795_518_000_000,
            }),
            "{control}"
        );
        let keys = wire.calls()[0].json["RequestItems"]["ledger"]["Keys"].clone();
        let keys: Vec<&str> = keys
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["pk"]["S"].as_str().unwrap())
            .collect();
        let own = |kind: &str| format!("{kind}#{control}#{INSTANCE}");
        assert_eq!(
            keys,
            [
                LOCK.to_owned(),
                own("known"),
                format!("trip#missing-patches#{INSTANCE}"),
                own("fights"),
                own("baseline"),
                format!("trip#{control}")
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_of_any_of_them_takes_the_shared_lock_and_its_own_budget() {
    let wire = Wire::new(|_: &Call| ok());
    let found = run(ControlId::VulnerablePackage);
    let begun = ledger(&wire)
        .begin(&found, &ledger(&wire).patching_holder(&found), None, 5)
        .await
        .unwrap();
    assert!(matches!(begun, Begun::Started));
    let items = &transactions(&wire)[0];
    assert_eq!(items[0]["Put"]["Item"]["pk"]["S"], LOCK);
    assert_eq!(
        items[0]["Put"]["ConditionExpression"],
        "attribute_not_exists(pk)"
    );
    assert_eq!(items[0]["Put"]["Item"]["entry"]["S"], ENTRY);
    assert_eq!(items[0]["Put"]["Item"]["holder"]["S"], HOLDER);
    assert_eq!(
        items[1]["Put"]["Item"]["control"]["S"],
        "vulnerable-package"
    );
    let hour: String = Timestamp::now().to_string().chars().take(13).collect();
    assert_eq!(
        items[2]["Update"]["Key"]["pk"]["S"],
        format!("budget#vulnerable-package#{hour}")
    );
    assert_eq!(
        items[2]["Update"]["ExpressionAttributeValues"][":changes"]["N"],
        "1"
    );

    // A scan changes nothing, and counts for nothing.
    let wire = Wire::new(|_: &Call| ok());
    let mut scan = run(ControlId::MissingPatches);
    scan.detail.operation = backstop_core::patching::Operation::Scan;
    ledger(&wire)
        .begin(&scan, &ledger(&wire).patching_holder(&scan), None, 0)
        .await
        .unwrap();
    assert_eq!(transactions(&wire)[0].len(), 2, "lock and record");
}

#[tokio::test(start_paused = true)]
async fn another_look_is_asked_of_the_shared_lock() {
    let wire = Wire::new(|_: &Call| ok());
    let lock = Lock {
        entry: ENTRY.into(),
        holder: HOLDER.into(),
        lease_until: 1,
    };
    let asked = ledger(&wire)
        .look_again(ControlId::UnmanagedInstance, INSTANCE, &lock)
        .await
        .unwrap();
    assert!(matches!(asked, Begun::Busy));
    assert_eq!(wire.calls()[0].json["Key"]["pk"]["S"], LOCK);
}

#[tokio::test(start_paused = true)]
async fn a_run_keeps_its_lock_for_ten_minutes_before_its_command_and_for_an_hour_since() {
    let before = run(ControlId::VulnerablePackage);
    let since = sent(before.clone());
    for (mut run, seconds) in [(before, 600), (since, 3600)] {
        let clients = Clients {
            clock: Clock::of_timers(Timestamp::now()),
            ..Clients::new(&Wire::new(|_: &Call| ok()).config(1))
        };
        let ledger_at = Ledger::new(&clients, "ledger".to_owned());
        let held = ledger_at.patching_holder(&run).lease_until;
        let held = held.duration_since(clients.clock.now());
        assert_eq!(held.as_secs(), seconds);
        run.detail.revision = 6;
        let wire = Wire::new(|_: &Call| ok());
        assert!(ledger(&wire).advance(&mut run).await.unwrap());
        let items = &transactions(&wire)[0];
        assert_eq!(items.len(), 2);
        assert_eq!(
            items[0]["Put"]["ConditionExpression"],
            "revision = :expected"
        );
        assert_eq!(
            items[0]["Put"]["ExpressionAttributeValues"][":expected"]["N"],
            "6"
        );
        assert_eq!(items[0]["Put"]["Item"]["revision"]["N"], "7");
        let lock = &items[1]["Update"];
        assert_eq!(lock["Key"]["pk"]["S"], LOCK);
        assert_eq!(
            lock["ConditionExpression"],
            "entry = :entry AND holder = :holder"
        );
        let values = &lock["ExpressionAttributeValues"];
        assert_eq!(values[":holder"]["S"], HOLDER);
        let lease = lasts(&values[":lease"]);
        assert!((seconds - 5..=seconds).contains(&lease), "{lease}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_inspector_lets_its_lock_go_and_stays_to_be_told() {
    let wire = Wire::new(|_: &Call| ok());
    let run = sent(run(ControlId::VulnerablePackage));
    let gone = ledger(&wire).let_go(&run).await.unwrap();
    assert_eq!(gone, Closed::Done);
    let items = &transactions(&wire)[0];
    assert_eq!(items.len(), 1, "nothing is noted on the record");
    let release = &items[0]["Delete"];
    assert_eq!(release["Key"]["pk"]["S"], LOCK);
    assert_eq!(
        release["ConditionExpression"],
        "entry = :entry AND holder = :holder AND attribute_not_exists(look_again)"
    );
    assert_eq!(
        release["ExpressionAttributeValues"],
        json!({":entry": {"S": ENTRY}, ":holder": {"S": HOLDER}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_let_go_with_word_of_a_look_that_was_asked_for_and_one_that_is_lost_is_left() {
    for (refusals, expected) in [(1, Closed::LookAgain), (2, Closed::Done)] {
        let asked = AtomicUsize::new(0);
        let wire =
            Wire::new(
                move |_: &Call| match asked.fetch_add(1, Ordering::SeqCst) < refusals {
                    true => refused(1),
                    false => ok(),
                },
            );
        let gone = ledger(&wire)
            .let_go(&run(ControlId::MissingPatches))
            .await
            .unwrap();
        assert_eq!(gone, expected);
        let tried = transactions(&wire);
        assert_eq!(tried.len(), 2);
        assert_eq!(
            tried[1][0]["Delete"]["ConditionExpression"],
            "entry = :entry AND holder = :holder"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn closing_a_run_frees_the_shared_lock() {
    let wire = Wire::new(|_: &Call| ok());
    let run = run(ControlId::VulnerablePackage);
    let closed = ledger(&wire)
        .close(&run, &ledger(&wire).run_holder(&run.head.id), false, None)
        .await
        .unwrap();
    assert_eq!(closed, Closed::Done);
    let items = &transactions(&wire)[0];
    assert_eq!(items[0]["Delete"]["Key"]["pk"]["S"], LOCK);
    assert_eq!(
        items[0]["Delete"]["ExpressionAttributeValues"][":holder"]["S"],
        HOLDER
    );
}

// ----------------------------------------------------------------- the record

#[tokio::test(start_paused = true)]
async fn a_run_without_a_lock_is_stored_only_as_it_was_read() {
    let wire = Wire::new(|_: &Call| ok());
    let mut run = run(ControlId::VulnerablePackage);
    run.detail.revision = 3;
    assert!(ledger(&wire).store_unlocked(&mut run).await.unwrap());
    assert_eq!(run.detail.revision, 4);
    let items = &transactions(&wire)[0];
    assert_eq!(items.len(), 1, "no lock is touched");
    let put = &items[0]["Put"];
    assert_eq!(put["Item"]["pk"]["S"], format!("entry#{ENTRY}"));
    assert_eq!(put["ConditionExpression"], "revision = :expected");
    assert_eq!(put["ExpressionAttributeValues"][":expected"]["N"], "3");
    assert_eq!(put["Item"]["revision"]["N"], "4");
    assert_eq!(put["Item"]["told"]["BOOL"], false, "its end is to be told");

    let wire = Wire::new(|_: &Call| refused(1));
    assert!(!ledger(&wire).store_unlocked(&mut run).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_patching_is_read_back_whole_and_no_other_record_is_taken_for_one() {
    let kept = Arc::new(Mutex::new(Value::Null));
    let keep = kept.clone();
    let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
        "TransactWriteItems" => {
            *keep.lock().unwrap() = call.json["TransactItems"][0]["Put"]["Item"].clone();
            ok()
        }
        _ => Reply::ok(json!({"Item": *keep.lock().unwrap()}).to_string()),
    });
    let ledger = ledger(&wire);
    let mut run = sent(run(ControlId::MissingPatches));
    run.detail.snapshots = vec!["snap-1".into()];
    run.detail.batch = Some("01KAZ0000000000000000000B1".into());
    ledger.store_unlocked(&mut run).await.unwrap();
    assert_eq!(ledger.patching(ENTRY).await.unwrap(), Some(run.clone()));
    assert_eq!(ledger.encryption(ENTRY).await.unwrap(), None);

    let nothing = Wire::new(|_: &Call| ok());
    assert_eq!(self::ledger(&nothing).patching(ENTRY).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_found_on_an_instance_is_known_by_its_control_alone() {
    let wire = Wire::new(|_: &Call| ok());
    let recorded = ledger(&wire)
        .record(&run(ControlId::VulnerablePackage), None, false)
        .await
        .unwrap();
    assert_eq!(recorded, Recorded::New);
    assert_eq!(
        transactions(&wire)[0][0]["Put"]["Item"]["pk"]["S"],
        format!("known#vulnerable-package#{INSTANCE}")
    );
}

// ---------------------------------------------------------------- the reports

fn finding(n: usize, severity: Severity, title: &str) -> Vulnerability {
    serde_json::from_value(json!({
        "arn": format!("arn:aws:inspector2:eu-central-1:111122223333:finding/{n:032x}"),
        "severity": severity, "title": title, "cves": [format!("CVE-2026-{n:04}")],
        "packages": [{"name": "openssl", "version": "1:3.0.7", "fixed_in": "1:3.0.8", "manager": "OS"}],
        "reported_at": "2026-11-24T10:00:00Z",
    }))
    .unwrap()
}

fn some_reports() -> Reports {
    let mut reports = Reports::default();
    reports.report(finding(1, Severity::High, "CVE-2026-0001 - openssl"));
    reports.close("arn:closed", "2026-11-24T09:00:00Z".parse().unwrap());
    reports.awaiting.insert(ENTRY.to_owned());
    reports
}

/// A table of reports: what is put comes back.
fn table() -> (Wire, Arc<Mutex<Vec<Value>>>) {
    let items: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = items.clone();
    let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
        "TransactWriteItems" => {
            let item = call.json["TransactItems"][0]["Put"]["Item"].clone();
            let mut items = kept.lock().unwrap();
            items.retain(|there| there["pk"] != item["pk"]);
            items.push(item);
            ok()
        }
        "BatchGetItem" => {
            let keys = call.json["RequestItems"]["ledger"]["Keys"].clone();
            let keys = keys.as_array().unwrap();
            let items = kept.lock().unwrap();
            let asked = items.iter().filter(|item| {
                keys.iter()
                    .any(|key| key["pk"] == item["pk"] && key["sk"] == item["sk"])
            });
            let found: Vec<&Value> = asked.collect();
            Reply::ok(json!({"Responses": {"ledger": found}, "UnprocessedKeys": {}}).to_string())
        }
        other => panic!("{other}"),
    });
    (wire, items)
}

#[tokio::test(start_paused = true)]
async fn reports_are_stored_on_condition_that_they_are_as_they_were_read_and_come_back_whole() {
    let (wire, _) = table();
    let ledger = ledger(&wire);
    let mut reports = some_reports();
    assert!(ledger.store_reports(INSTANCE, &mut reports).await.unwrap());
    assert_eq!(reports.revision, 1);
    assert!(ledger.store_reports(INSTANCE, &mut reports).await.unwrap());
    assert_eq!(reports.revision, 2);

    let puts: Vec<Value> = transactions(&wire)
        .iter()
        .map(|items| items[0]["Put"].clone())
        .collect();
    assert_eq!(puts[0]["ConditionExpression"], "attribute_not_exists(pk)");
    assert_eq!(puts[1]["ConditionExpression"], "revision = :expected");
    assert_eq!(puts[1]["ExpressionAttributeValues"][":expected"]["N"], "1");
    assert_eq!(puts[1]["Item"]["revision"]["N"], "2");
    assert_eq!(puts[1]["Item"]["pk"]["S"], format!("reports#{INSTANCE}"));
    assert_eq!(puts[1]["Item"]["sk"]["S"], "reports");
    assert!(number(&puts[1]["Item"]["expires_at"]) > Timestamp::now().as_second() + 86_400);

    let other = "i-0123456789abcdef1".to_owned();
    let read = ledger.reports(&[INSTANCE.to_owned(), other]).await.unwrap();
    assert_eq!(
        read.into_iter().collect::<Vec<_>>(),
        [(INSTANCE.to_owned(), reports)]
    );
}

#[tokio::test(start_paused = true)]
async fn reports_that_were_not_stored_are_still_as_they_were_read() {
    let wire = Wire::new(|_: &Call| refused(1));
    let mut reports = some_reports();
    reports.revision = 7;
    let stored = ledger(&wire).store_reports(INSTANCE, &mut reports).await;
    assert!(!stored.unwrap());
    assert_eq!(reports.revision, 7);

    let wire = Wire::new(|_: &Call| {
        Reply::json_error(
            "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException",
            "Requested resource not found",
        )
    });
    let error = ledger(&wire)
        .store_reports(INSTANCE, &mut reports)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the ledger could not be written: TransactWriteItems: ResourceNotFoundException: Requested resource not found"
    );
    assert_eq!(reports.revision, 7);
}

#[tokio::test(start_paused = true)]
async fn reports_are_read_100_instances_at_a_time_and_no_instance_twice() {
    let (wire, _) = table();
    let mut instances: Vec<String> = (0..101).map(|n| format!("i-{n:017x}")).collect();
    instances.push(instances[0].clone());
    let read = ledger(&wire).reports(&instances).await.unwrap();
    assert!(read.is_empty());
    let asked: Vec<usize> = wire
        .calls()
        .iter()
        .map(|call| {
            let asked = &call.json["RequestItems"]["ledger"];
            assert_eq!(asked["ConsistentRead"], true);
            asked["Keys"].as_array().unwrap().len()
        })
        .collect();
    assert_eq!(asked, [100, 1]);
}

#[tokio::test(start_paused = true)]
async fn reports_that_cannot_be_read_are_an_error_that_names_them() {
    for (document, why) in [
        (json!({"S": "{}"}), "the attribute `document` is missing"),
        (json!({"B": "AAAA"}), ""),
    ] {
        let wire = Wire::new(move |_: &Call| {
            let item = json!({
                "pk": {"S": format!("reports#{INSTANCE}")}, "sk": {"S": "reports"},
                "document": document, "revision": {"N": "1"},
            });
            Reply::ok(json!({"Responses": {"ledger": [item]}}).to_string())
        });
        let error = ledger(&wire)
            .reports(&[INSTANCE.to_owned()])
            .await
            .unwrap_err();
        let start = format!("the ledger entry `reports#{INSTANCE}` cannot be read: {why}");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}

/// Text that does not compress.
fn noise(seed: usize, characters: usize) -> String {
    let mut state = seed as u64 + 1;
    let character = |_| {
        // Numbers of a linear congruential generator (Knuth's MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + ((state >> 33) % 90) as u8)
    };
    (0..characters).map(character).collect()
}

#[tokio::test(start_paused = true)]
async fn reports_that_the_table_cannot_hold_lose_the_least_and_keep_the_worst() {
    let (wire, items) = table();
    let ledger = ledger(&wire);
    let mut reports = Reports::default();
    for n in 0..200 {
        let severity = if n < 50 {
            Severity::Critical
        } else {
            Severity::Low
        };
        reports.report(finding(n, severity, &noise(n, 3000)));
    }
    let of = |reports: &Reports, severity| {
        let findings = reports.active.values();
        findings.filter(|f| f.severity == severity).count()
    };
    assert!(ledger.store_reports(INSTANCE, &mut reports).await.unwrap());
    let encoded = items.lock().unwrap()[0]["document"]["B"]
        .as_str()
        .unwrap()
        .len();
    assert!(encoded / 4 * 3 <= MOST_BYTES, "{encoded}");
    assert!(
        encoded / 4 * 3 > MOST_BYTES / 2,
        "no more is dropped than has to be: {encoded}"
    );
    assert_eq!(of(&reports, Severity::Critical), 50);
    let low = of(&reports, Severity::Low);
    assert!((1..150).contains(&low), "{low}");
    let read = ledger.reports(&[INSTANCE.to_owned()]).await.unwrap();
    assert_eq!(read[INSTANCE], reports);
}
