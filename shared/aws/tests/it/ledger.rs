//! The ledger against the real DynamoDB client with answers written from the
//! API reference: what the emulator cannot be made to do on demand (conflicts,
//! throttled transactions, lost races), and what goes over the wire. The
//! conditions themselves are tested end to end on a table that enforces them.

use std::collections::BTreeMap;

use backstop_aws::clients::Clients;
use backstop_aws::clock::Clock;
use backstop_aws::ledger::{
    Begun, Claim, Closed, Holder, Known, Ledger, LedgerError, Lock, MOST_BYTES, Recorded, Stored,
};
use backstop_core::entry::{AtOnce, Entry};
use backstop_core::exemption::Exemption;
use backstop_core::plan::{Change, Disposition, Plan};
use backstop_core::ports::Permission;
use backstop_core::record::Record;
use backstop_core::run::{Head, Run};
use backstop_core::security_group::{IngressRule, Source};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use backstop_wire::{Call, Reply, Wire};
use jiff::Timestamp;
use serde_json::{Value, json};

const ARN: &str = "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0";

fn ledger(wire: &Wire) -> Ledger {
    Ledger::new(&Clients::new(&wire.config(1)), "ledger".to_owned())
}

pub(crate) fn rule(id: &str, description: &str) -> IngressRule {
    IngressRule {
        id: id.into(),
        permission: Permission::new("tcp", 22, 22),
        source: Source::Ipv4("0.0.0.0/0".into()),
        description: Some(description.into()),
        tags: BTreeMap::from([("team".into(), "web".into())]),
    }
}

fn entry(rules: usize, description: &str) -> Entry<IngressRule> {
    let ids = (0..rules).map(|i| format!("sgr-{i}"));
    entry_of(ids.map(|id| rule(&id, description)))
}

/// An entry that closes these rules.
pub(crate) fn entry_of(rules: impl Iterator<Item = IngressRule>) -> Entry<IngressRule> {
    let changes: Vec<Change<IngressRule>> = rules
        .map(|rule| Change::remove(rule.id.clone(), rule))
        .collect();
    let plan = Plan {
        disposition: Disposition::Enforce,
        changes,
        reasons: vec![],
        because: None,
    };
    Run {
        head: Head {
            version: 1,
            id: "01JDF0000000000000000000AA".into(),
            control: ControlId::OpenIngress,
            severity: Severity::Critical,
            resource: ARN.into(),
            resource_name: "web".into(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            team: None,
            status: Status::InProgress,
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

fn holder() -> Holder {
    Holder {
        id: "request-1".into(),
        lease_until: Timestamp::now() + jiff::SignedDuration::from_secs(60),
    }
}

fn ok() -> Reply {
    Reply::ok("{}")
}

fn cancelled(reasons: Value) -> Reply {
    Reply::Answer(400, json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": "Transaction cancelled, please refer cancellation reasons for specific reasons",
        "CancellationReasons": reasons,
    }).to_string())
}

fn refused_by(lease_until: i64) -> Reply {
    cancelled(json!([
        { "Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": {
            "pk": {"S": "lock#open-ingress#sg-0123456789abcdef0"}, "entry": {"S": "01JDOTHER"},
            "holder": {"S": "request-2"}, "lease_until": {"N": lease_until.to_string()} } },
        { "Code": "None" }, { "Code": "None" },
    ]))
}

fn transactions(wire: &Wire) -> Vec<Value> {
    wire.calls()
        .into_iter()
        .filter(|c| c.operation == "TransactWriteItems")
        .map(|c| c.json["TransactItems"].clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn begin_takes_lock_stores_before_and_counts_the_budget_in_one_transaction() {
    let wire = Wire::new(|_: &Call| ok());
    let begun = ledger(&wire)
        .begin(&entry(2, "ssh"), &holder(), None, 50)
        .await
        .unwrap();
    assert!(matches!(begun, Begun::Started));
    assert_eq!(wire.operations(), ["TransactWriteItems"]);
    let items = &transactions(&wire)[0];
    assert_eq!(
        items[0]["Put"]["Item"]["pk"]["S"],
        "lock#open-ingress#sg-0123456789abcdef0"
    );
    assert_eq!(
        items[0]["Put"]["ConditionExpression"],
        "attribute_not_exists(pk)"
    );
    assert_eq!(
        items[1]["Put"]["Item"]["pk"]["S"],
        "entry#01JDF0000000000000000000AA"
    );
    assert!(items[1]["Put"]["Item"]["before"]["B"].is_string());
    assert_eq!(items[1]["Put"]["Item"]["told"]["BOOL"], false);
    assert_eq!(
        items[1]["Put"]["Item"]["expires_at"],
        Value::Null,
        "an open entry never expires"
    );
    let hour: String = Timestamp::now().to_string().chars().take(13).collect();
    assert_eq!(
        items[2]["Update"]["Key"]["pk"]["S"],
        format!("budget#open-ingress#{hour}")
    );
    assert_eq!(
        items[2]["Update"]["ExpressionAttributeValues"][":changes"]["N"],
        "2"
    );
    // And what of it is this resource's, on no condition.
    let of_resource = &items[3]["Update"];
    assert_eq!(
        of_resource["Key"]["pk"]["S"],
        format!("budget#open-ingress#{hour}#sg-0123456789abcdef0")
    );
    assert_eq!(
        of_resource["ExpressionAttributeValues"][":changes"]["N"],
        "2"
    );
    assert_eq!(of_resource.get("ConditionExpression"), None);
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_a_condition_of_the_same_transaction() {
    let wire = Wire::new(|_: &Call| ok());
    let begin = |budget| {
        let (ledger, entry) = (ledger(&wire), entry(2, "ssh"));
        async move { ledger.begin(&entry, &holder(), None, budget).await.unwrap() }
    };
    assert!(matches!(begin(2).await, Begun::Started));
    let count = &transactions(&wire)[0][2]["Update"];
    assert_eq!(
        count["ConditionExpression"],
        "attribute_not_exists(changes) OR changes <= :room"
    );
    assert_eq!(count["ExpressionAttributeValues"][":room"]["N"], "0");
    assert!(
        matches!(begin(1).await, Begun::OverBudget),
        "two changes never fit a budget of one"
    );
    assert_eq!(transactions(&wire).len(), 1, "not even asked");

    let refused = |lock: &'static str| {
        Wire::new(move |_: &Call| {
            cancelled(json!([
                { "Code": lock }, { "Code": "None" }, { "Code": "ConditionalCheckFailed" },
                { "Code": "None" }
            ]))
        })
    };
    for (lock, over) in [("None", true), ("ConditionalCheckFailed", false)] {
        let begun = ledger(&refused(lock))
            .begin(&entry(1, "x"), &holder(), None, 50)
            .await
            .unwrap();
        assert_eq!(matches!(begun, Begun::OverBudget), over, "{lock}");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_to_know_before_deciding_is_one_read_and_left_keys_are_read_again() {
    let tries = std::sync::atomic::AtomicU32::new(0);
    let item = |pk: &str, more: Value| {
        let mut item = json!({ "pk": {"S": pk}, "sk": {"S": "state"} });
        item.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        item
    };
    let wire = Wire::new(move |_: &Call| {
        let first = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        let trip = json!({ "document": {"S": r#"{"at":"2026-11-24T10:00:00Z","why":"x"}"#} });
        Reply::ok(
            if first {
                json!({
                    "Responses": { "ledger": [item("trip#open-ingress", trip)] },
                    "UnprocessedKeys": { "ledger": { "Keys": [
                        { "pk": {"S": "baseline#open-ingress#sg-1"}, "sk": {"S": "state"} }
                    ], "ConsistentRead": true } },
                })
            } else {
                let old = json!({ "fingerprints": {"SS": ["a", "b"]} });
                json!({ "Responses": { "ledger": [item("baseline#open-ingress#sg-1", old)] }, "UnprocessedKeys": {} })
            }
            .to_string(),
        )
    });
    let standing = ledger(&wire)
        .standing(ControlId::OpenIngress, "sg-1")
        .await
        .unwrap();
    assert_eq!(standing.lock, None);
    assert_eq!(standing.guards.control_tripped.unwrap().why, "x");
    assert_eq!(standing.guards.baseline.len(), 2);
    let calls = wire.calls();
    assert_eq!(calls.len(), 2);
    let asked = &calls[0].json["RequestItems"]["ledger"];
    assert_eq!(asked["ConsistentRead"], true);
    assert_eq!(asked["Keys"].as_array().unwrap().len(), 6);
    assert_eq!(
        calls[1].json["RequestItems"]["ledger"]["Keys"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_told_as_a_group_is_recorded_as_told() {
    let wire = Wire::new(|_: &Call| ok());
    let mut found = entry(1, "x");
    found.head.status = Status::Tripped;
    let recorded = ledger(&wire).record(&found, None, true).await.unwrap();
    assert_eq!(recorded, Recorded::Told);
    let record = &transactions(&wire)[0][1]["Put"]["Item"];
    assert_eq!(record["told"]["BOOL"], true);
    assert_eq!(record["untold"], Value::Null);
    assert!(record["expires_at"]["N"].is_string());
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_is_read_back_whole() {
    let stored = std::sync::Arc::new(std::sync::Mutex::new(Value::Null));
    let keep = stored.clone();
    let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
        "PutItem" => {
            *keep.lock().unwrap() = call.json["Item"].clone();
            ok()
        }
        _ => Reply::ok(json!({ "Item": *keep.lock().unwrap() }).to_string()),
    });
    let ledger = ledger(&wire);
    let entry = entry(3, "description with \"quotes\"");
    ledger.finish(&entry).await.unwrap();
    let read = ledger.read(&entry.head.id).await.unwrap();
    assert_eq!(
        read,
        Some(Stored {
            record: Record::Remediation(Box::new(entry.erased().unwrap())),
            told: false
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_lock_is_asked_to_look_again_and_a_lapsed_one_is_not() {
    let live = Timestamp::now().as_millisecond() + 60_000;
    let wire = Wire::new(move |call: &Call| {
        if call.operation == "TransactWriteItems" {
            refused_by(live)
        } else {
            ok()
        }
    });
    assert!(matches!(
        ledger(&wire)
            .begin(&entry(1, "x"), &holder(), None, 50)
            .await
            .unwrap(),
        Begun::Busy
    ));
    let update = wire.calls().pop().unwrap();
    assert_eq!(update.operation, "UpdateItem");
    assert_eq!(
        update.json["ConditionExpression"],
        "entry = :entry AND lease_until = :lease"
    );

    let wire = Wire::new(|_: &Call| refused_by(0));
    assert!(matches!(
        ledger(&wire)
            .begin(&entry(1, "x"), &holder(), None, 50)
            .await
            .unwrap(),
        Begun::Moved
    ));
    assert_eq!(wire.operations(), ["TransactWriteItems"]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_released_before_the_note_reached_it_means_look_again_ourselves() {
    let live = Timestamp::now().as_millisecond() + 60_000;
    let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
        "TransactWriteItems" => refused_by(live),
        _ => Reply::json_error(
            "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "The conditional request failed",
        ),
    });
    assert!(matches!(
        ledger(&wire)
            .begin(&entry(1, "x"), &holder(), None, 50)
            .await
            .unwrap(),
        Begun::Moved
    ));
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lock_is_replaced_only_as_it_was_read_and_a_retry_spends_no_budget() {
    let wire = Wire::new(|_: &Call| ok());
    let lapsed = Lock {
        entry: "01JDOLD".into(),
        holder: "request-0".into(),
        lease_until: 0,
    };
    ledger(&wire)
        .go_on(&entry(1, "x"), &holder(), Some(&lapsed), 0, 50)
        .await
        .unwrap();
    let items = &transactions(&wire)[0];
    assert_eq!(
        items.as_array().unwrap().len(),
        2,
        "lock and entry, no budget"
    );
    // A wish to look again that is on the lock stays there.
    let taken = &items[0]["Update"];
    assert_eq!(
        taken["ConditionExpression"],
        "entry = :entry AND lease_until = :lease AND holder = :holder"
    );
    assert_eq!(
        taken["UpdateExpression"],
        "SET entry = :our_entry, holder = :us, lease_until = :our_lease"
    );
    assert_eq!(
        items[1]["Put"]["ConditionExpression"],
        "attribute_exists(pk)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_conflict_on_the_shared_counter_is_tried_again() {
    let tries = std::sync::atomic::AtomicU32::new(0);
    let wire = Wire::new(move |_: &Call| {
        if tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 {
            cancelled(
                json!([{ "Code": "None" }, { "Code": "None" }, { "Code": "TransactionConflict" }]),
            )
        } else {
            ok()
        }
    });
    assert!(matches!(
        ledger(&wire)
            .begin(&entry(1, "x"), &holder(), None, 50)
            .await
            .unwrap(),
        Begun::Started
    ));
    assert_eq!(transactions(&wire).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_written_is_an_error_with_code_and_message() {
    let wire = Wire::new(|_: &Call| {
        Reply::json_error(
            "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException",
            "Requested resource not found",
        )
    });
    let error = ledger(&wire)
        .begin(&entry(1, "x"), &holder(), None, 50)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the ledger could not be written: TransactWriteItems: ResourceNotFoundException: Requested resource not found"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_table_cannot_hold_is_refused_before_anything_is_called() {
    let wire = Wire::new(|call: &Call| panic!("{}", call.operation));
    let error = ledger(&wire)
        .begin(&entry(900, &"x".repeat(255)), &holder(), None, 50)
        .await
        .unwrap_err();
    assert!(
        matches!(error, LedgerError::TooLarge(bytes) if bytes > MOST_BYTES),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn closing_releases_the_lock_and_notes_told_in_one_write() {
    let wire = Wire::new(|_: &Call| ok());
    assert_eq!(
        ledger(&wire)
            .close(&entry(1, "x"), &holder(), false, None)
            .await
            .unwrap(),
        Closed::Done
    );
    let items = &transactions(&wire)[0];
    assert_eq!(
        items[0]["Delete"]["ConditionExpression"],
        "entry = :entry AND holder = :holder AND attribute_not_exists(look_again)"
    );
    assert_eq!(
        items[1]["Update"]["UpdateExpression"],
        "SET told = :yes, expires_at = :expires REMOVE untold"
    );
    assert_eq!(wire.operations(), ["TransactWriteItems"]);
}

#[tokio::test(start_paused = true)]
async fn closing_says_that_another_run_asked_to_look_again() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let wire = Wire::new(move |_: &Call| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            refused_by(1)
        } else {
            ok()
        }
    });
    assert_eq!(
        ledger(&wire)
            .close(&entry(1, "x"), &holder(), false, None)
            .await
            .unwrap(),
        Closed::LookAgain
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_lock_stays_for_the_retry_with_its_lease_ended() {
    let wire = Wire::new(|_: &Call| ok());
    let mut clients = Clients::new(&wire.config(1));
    clients.clock = Clock::of_timers("2026-11-24T10:00:00Z".parse().unwrap());
    let closed = Ledger::new(&clients, "ledger".to_owned())
        .close(&entry(1, "x"), &holder(), true, None)
        .await;
    assert_eq!(closed.unwrap(), Closed::Done);
    let items = &transactions(&wire)[0];
    let end = &items[0]["Update"];
    assert_eq!(
        end["UpdateExpression"],
        "SET lease_until = :ended REMOVE look_again"
    );
    // Long past, and never the same twice.
    let ended = &end["ExpressionAttributeValues"][":ended"]["N"];
    let ended: i64 = ended.as_str().unwrap().parse().unwrap();
    assert_eq!(ended, -1_795_514_400_000);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_changed_is_recorded_once_and_told_until_it_is_told() {
    let found = entry(1, "x");
    let known = |told| Known {
        page_key: Some(found.page_key()),
        status: Some("notified".into()),
        state_key: found.state_key(),
        entry: "01JDOLD".into(),
        told,
    };
    // As it was read before.
    let silent = Wire::new(|call: &Call| panic!("{}", call.operation));
    for (told, expected) in [
        (true, Recorded::Told),
        (false, Recorded::Untold("01JDOLD".into())),
    ] {
        let recorded = ledger(&silent)
            .record(&found, Some(&known(told)), false)
            .await;
        assert_eq!(recorded.unwrap(), expected);
    }
    // Recorded by another run since it was read: the same, and something else.
    for (key, expected) in [
        (found.state_key(), Recorded::Told),
        ("something else".to_owned(), Recorded::Moved),
    ] {
        let wire = Wire::new(move |_: &Call| {
            cancelled(json!([
                { "Code": "ConditionalCheckFailed", "Item": {
                    "pk": {"S": "known#x"}, "state_key": {"S": key}, "entry": {"S": "01JDOLD"}, "told": {"BOOL": true} } },
                { "Code": "None" },
            ]))
        });
        assert_eq!(
            ledger(&wire).record(&found, None, false).await.unwrap(),
            expected
        );
    }
    // News takes the place of what was known.
    let wire = Wire::new(|_: &Call| ok());
    let other = Known {
        state_key: "other".into(),
        ..known(true)
    };
    assert_eq!(
        ledger(&wire)
            .record(&found, Some(&other), false)
            .await
            .unwrap(),
        Recorded::New
    );
    let items = &transactions(&wire)[0];
    assert_eq!(
        items[0]["Put"]["Item"]["pk"]["S"],
        "known#open-ingress#sg-0123456789abcdef0"
    );
    assert_eq!(items[0]["Put"]["ConditionExpression"], "entry = :entry");
}

#[tokio::test(start_paused = true)]
async fn a_message_is_claimed_by_one_sender() {
    for (reply, expected) in [
        (ok(), Claim::Ours),
        (claimed(true), Claim::Sent),
        (claimed(false), Claim::UnderWay),
    ] {
        let wire = Wire::new(move |_: &Call| reply.clone());
        assert_eq!(
            ledger(&wire)
                .claim_message("key", Timestamp::now())
                .await
                .unwrap(),
            expected
        );
        assert_eq!(
            wire.calls()[0].json["ConditionExpression"],
            "attribute_not_exists(pk) OR (sent = :no AND lease_until < :now)"
        );
    }
}

fn claimed(sent: bool) -> Reply {
    Reply::Answer(
        400,
        json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "The conditional request failed",
            "Item": { "pk": {"S": "sent#key"}, "sent": {"BOOL": sent} },
        })
        .to_string(),
    )
}
