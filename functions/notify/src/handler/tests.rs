//! Batches against the real SDK clients with a small ledger on the wire: what
//! is told as one, what is only counted, and that nothing counts as told that
//! was not, whichever call fails. The ledger's own conditions are tested end to
//! end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_core::entry::{AtOnce, Entry};
use backstop_core::exemption::Exemption;
use backstop_core::guards::Fight;
use backstop_core::plan::{Disposition, Plan};
use backstop_core::run::{Head, Run};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use backstop_wire::memory::table::Table;
use backstop_wire::{Call, Reply, Wire};
use jiff::Timestamp;
use lambda_runtime::Context;

use super::*;

/// A ledger that holds items by `pk`, and what was published.
#[derive(Default)]
struct World {
    table: Table,
}

fn id(number: usize) -> String {
    format!("01KAT5J3V0QZ8Y2N4M6P8R{number:04}")
}

fn entry(number: usize, status: Status) -> Entry {
    Run {
        head: Head {
            version: 1,
            id: id(number),
            control: ControlId::OpenIngress,
            severity: Severity::Critical,
            resource: format!("arn:aws:ec2:eu-central-1:111122223333:security-group/sg-{number}"),
            resource_name: "web".into(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            team: Some(format!("team-{}", number % 3)),
            status,
            exemption: Exemption::None,
            actor: Actor::default(),
            policy_version: 1,
            attempts: 1,
            started_at: Timestamp::from_second(1_795_512_000 + number as i64).unwrap(),
            finished_at: None,
            managed_by: None,
        },
        detail: AtOnce {
            exposures: vec![],
            plan: Plan {
                disposition: Disposition::Enforce,
                changes: vec![],
                reasons: vec![],
                because: None,
            },
            before: BTreeMap::new(),
            outcomes: vec![],
            verification: None,
            shows_by: None,
            after: BTreeMap::new(),
            fight: None,
        },
    }
}

impl World {
    fn with(entries: impl IntoIterator<Item = Entry>) -> Arc<Mutex<Self>> {
        let mut world = Self::default();
        for entry in entries {
            let document = serde_json::to_string(&entry).unwrap();
            let pk = format!("entry#{}", entry.head.id);
            let item =
                json!({ "pk": { "S": pk }, "sk": { "S": "entry" }, "document": { "S": document } });
            world.table.items.insert(pk, item);
        }
        Arc::new(Mutex::new(world))
    }

    fn sent(&self) -> usize {
        let sent = self.table.items.iter().filter(|(pk, item)| {
            pk.starts_with("sent#") && item["sent"] == json!({ "BOOL": true })
        });
        sent.count()
    }

    fn storm(&self) -> Option<&Value> {
        let mut storms = self
            .table
            .items
            .iter()
            .filter(|(pk, _)| pk.starts_with("storm#"));
        storms.next().map(|(_, item)| item)
    }

    fn answer(&mut self, call: &Call) -> Reply {
        match call.operation.as_str() {
            "Publish" => Reply::ok(
                "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>m</MessageId></PublishResult></PublishResponse>",
            ),
            other => self.table.answer(call).unwrap_or_else(|| panic!("{other}")),
        }
    }
}

/// A wire over the world on which `fails` may answer first.
fn wire(
    world: &Arc<Mutex<World>>,
    fails: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static,
) -> Wire {
    let world = world.clone();
    Wire::new(move |call| fails(call).unwrap_or_else(|| world.lock().unwrap().answer(call)))
}

fn handler(wire: &Wire) -> Handler {
    Handler::new(
        Clients::new(&wire.config(1)),
        NotifySettings {
            ledger_table: "ledger".into(),
            topic_arn: "arn:aws:sns:eu-central-1:111122223333:t".into(),
        },
    )
}

fn event(id: &str) -> Value {
    json!({
        "version": "0", "id": "e", "detail-type": "Remediation Recorded", "source": "backstop",
        "account": "111122223333", "time": "2026-11-24T10:00:00Z", "region": "eu-central-1",
        "resources": [], "detail": { "entry": id },
    })
}

/// Tells a batch of these entries within a time, each by the message `m<number>`.
async fn tell_within(
    wire: &Wire,
    numbers: impl IntoIterator<Item = usize>,
    time: Duration,
) -> Result<Vec<String>, String> {
    let records: Vec<Value> = numbers
        .into_iter()
        .map(|number| json!({ "messageId": format!("m{number}"), "body": event(&id(number)).to_string() }))
        .collect();
    let mut context = Context::default();
    context.deadline = (Timestamp::now() + time).as_millisecond() as u64;
    let batch = LambdaEvent::new(json!({ "Records": records }), context);
    match handler(wire).handle(batch).await {
        Ok(answer) => Ok(answer["batchItemFailures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failed| failed["itemIdentifier"].as_str().unwrap().to_owned())
            .collect()),
        Err(failure) => Err(failure.error_message),
    }
}

async fn tell(
    wire: &Wire,
    numbers: impl IntoIterator<Item = usize>,
) -> Result<Vec<String>, String> {
    tell_within(wire, numbers, Duration::from_secs(30)).await
}

fn subjects(wire: &Wire) -> Vec<String> {
    let calls = wire.calls();
    let published = calls.iter().filter(|call| call.operation == "Publish");
    published
        .map(|call| call.parameter("Subject").unwrap().to_owned())
        .collect()
}

fn none(_: &Call) -> Option<Reply> {
    None
}

fn is_about(call: &Call, operation: &str, prefix: &str) -> bool {
    let key = [&call.json["Key"], &call.json["Item"]];
    call.operation == operation
        && key.iter().any(|key| {
            key["pk"]["S"]
                .as_str()
                .is_some_and(|pk| pk.starts_with(prefix))
        })
}

fn many(count: usize, status: Status) -> Arc<Mutex<World>> {
    World::with((0..count).map(|number| entry(number, status)))
}

#[tokio::test(start_paused = true)]
async fn up_to_five_of_a_kind_are_told_one_by_one_and_more_as_one() {
    let world = many(5, Status::Remediated);
    let wire_ = wire(&world, none);
    assert_eq!(tell(&wire_, 0..5).await.unwrap(), [""; 0]);
    assert_eq!(subjects(&wire_).len(), 5);
    assert!(world.lock().unwrap().storm().is_none());

    let world = many(6, Status::Remediated);
    let wire_ = wire(&world, none);
    assert_eq!(tell(&wire_, 0..6).await.unwrap(), [""; 0]);
    assert_eq!(
        subjects(&wire_),
        ["[Backstop] STORM critical: open-ingress remediated, 6 times"]
    );
    assert_eq!(
        world.lock().unwrap().sent(),
        6,
        "each message key is marked"
    );
    assert!(world.lock().unwrap().storm().is_some());
}

/// A person has to close each of them.
#[tokio::test(start_paused = true)]
async fn what_is_critical_and_stays_because_of_a_trip_is_told_one_by_one() {
    let world = many(7, Status::Tripped);
    let wire = wire(&world, none);
    assert_eq!(tell(&wire, 0..7).await.unwrap(), Vec::<String>::new());
    assert_eq!(subjects(&wire).len(), 7);
    assert!(
        subjects(&wire)
            .iter()
            .all(|s| s.contains("TRIPPED critical"))
    );

    // What is not critical is no more than a storm.
    let world = World::with((0..7).map(|number| {
        let mut entry = entry(number, Status::Tripped);
        entry.head.severity = Severity::High;
        entry
    }));
    let wire = self::wire(&world, none);
    tell(&wire, 0..7).await.unwrap();
    assert_eq!(subjects(&wire).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_few_at_a_time_are_a_storm_as_well() {
    let world = many(12, Status::Remediated);
    let mut told = Vec::new();
    for batch in [0..3, 3..5, 5..8, 8..12] {
        let wire = wire(&world, none);
        assert_eq!(tell(&wire, batch).await.unwrap(), [""; 0]);
        told.push(subjects(&wire).len());
    }
    assert_eq!(
        told,
        [3, 2, 1, 0],
        "five by themselves, one storm, the rest counted"
    );
    assert_eq!(world.lock().unwrap().storm().unwrap()["more"]["N"], "4");
    assert_eq!(world.lock().unwrap().sent(), 12);
}

#[tokio::test(start_paused = true)]
async fn five_hundred_are_one_message_that_names_the_first_few() {
    let world = many(500, Status::Notified);
    let wire = wire(&world, none);
    assert_eq!(tell(&wire, 0..500).await.unwrap(), [""; 0]);
    assert_eq!(
        subjects(&wire),
        ["[Backstop] STORM critical: open-ingress notified, 500 times"]
    );
    assert_eq!(world.lock().unwrap().sent(), 500);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_is_not_new_and_does_not_count() {
    let world = many(8, Status::Remediated);
    let first = wire(&world, none);
    tell(&first, 0..4).await.unwrap();
    let again = wire(&world, none);
    assert_eq!(tell(&again, (0..8).chain(0..8)).await.unwrap(), [""; 0]);
    assert_eq!(
        subjects(&again),
        ["[Backstop] STORM critical: open-ingress remediated, 4 times"],
        "four are new, however often they came"
    );
    let third = wire(&world, none);
    assert_eq!(tell(&third, 0..8).await.unwrap(), [""; 0]);
    assert!(subjects(&third).is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_come_first_and_kinds_apart() {
    let mut entries: Vec<Entry> = (0..7).map(|n| entry(n, Status::Remediated)).collect();
    entries.extend((7..9).map(|n| entry(n, Status::Failed)));
    entries.extend((9..11).map(|n| entry(n, Status::Exempt)));
    let world = World::with(entries);
    let wire = wire(&world, none);
    assert_eq!(tell(&wire, 0..11).await.unwrap(), [""; 0]);
    let subjects = subjects(&wire);
    assert_eq!(subjects.len(), 2 + 2 + 1, "{subjects:#?}");
    assert!(
        subjects[..2].iter().all(|s| s.contains("FAILED")),
        "{subjects:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn while_a_storm_is_on_further_ones_are_counted_and_failures_told() {
    let mut entries: Vec<Entry> = (0..8).map(|n| entry(n, Status::Remediated)).collect();
    entries.extend((8..15).map(|n| entry(n, Status::Failed)));
    let world = World::with(entries);
    tell(&wire(&world, none), 0..6).await.unwrap();
    let later = wire(&world, none);
    assert_eq!(tell(&later, 6..8).await.unwrap(), [""; 0]);
    assert!(subjects(&later).is_empty());
    assert_eq!(world.lock().unwrap().storm().unwrap()["more"]["N"], "2");
    assert_eq!(world.lock().unwrap().sent(), 8);
    for batch in [8..14, 14..15] {
        let failing = wire(&world, none);
        tell(&failing, batch).await.unwrap();
        assert_eq!(subjects(&failing).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_that_ended_meanwhile_is_told_anew() {
    let world = many(7, Status::Remediated);
    tell(&wire(&world, none), 0..6).await.unwrap();
    let over = wire(&world, |call| {
        is_about(call, "UpdateItem", "storm#")
            .then(|| Reply::json_error("ConditionalCheckFailedException", "over"))
    });
    assert_eq!(tell(&over, 6..7).await.unwrap(), [""; 0]);
    assert_eq!(subjects(&over).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_storm_also_tells_what_the_last_one_only_counted() {
    let world = many(6, Status::Remediated);
    world.lock().unwrap().table.items.insert(
        "storm#open-ingress#remediated".into(),
        json!({ "pk": { "S": "storm#open-ingress#remediated" }, "until": { "N": "1" }, "more": { "N": "40" } }),
    );
    let wire = wire(&world, none);
    tell(&wire, 0..6).await.unwrap();
    assert_eq!(
        subjects(&wire),
        ["[Backstop] STORM critical: open-ingress remediated, 46 times"]
    );
    let begun = wire
        .calls()
        .into_iter()
        .find(|call| is_about(call, "UpdateItem", "storm#"));
    assert_eq!(
        begun.unwrap().json["ExpressionAttributeValues"][":told"]["N"],
        "-40"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fight_is_not_counted_among_what_was_put_right_once() {
    let mut entries: Vec<Entry> = (0..5).map(|n| entry(n, Status::Remediated)).collect();
    let mut fight = entry(5, Status::Remediated);
    fight.detail.fight = Some(Fight {
        times: 3,
        since: fight.head.started_at,
        within_hours: 24,
        every_seconds: None,
        told_by: fight.head.id.clone(),
        managed_by: None,
    });
    entries.push(fight);
    let world = World::with(entries);
    let wire = wire(&world, none);
    tell(&wire, 0..6).await.unwrap();
    assert_eq!(subjects(&wire).len(), 6);
    assert!(subjects(&wire).iter().any(|s| s.contains("FIXED AGAIN")));
}

#[tokio::test(start_paused = true)]
async fn what_sns_refuses_is_reported_back_and_free_to_be_told_at_once() {
    for count in [3, 9] {
        let world = many(count, Status::Remediated);
        let refusing = wire(&world, |call| {
            (call.operation == "Publish").then(|| Reply::Answer(403, "<ErrorResponse><Error><Code>AuthorizationError</Code><Message>no</Message></Error></ErrorResponse>".into()))
        });
        let error = tell(&refusing, 0..count).await.unwrap_err();
        assert!(error.contains("AuthorizationError"), "{error}");
        assert_eq!(world.lock().unwrap().sent(), 0);
        assert!(world.lock().unwrap().storm().is_none());
        let again = wire(&world, none);
        assert_eq!(tell(&again, 0..count).await.unwrap(), [""; 0]);
        assert_eq!(
            world.lock().unwrap().sent(),
            count,
            "no claim was left in the way"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_reported_back() {
    let world = many(4, Status::Remediated);
    world.lock().unwrap().table.items.insert(
        format!("entry#{}", id(3)),
        json!({ "pk": { "S": format!("entry#{}", id(3)) }, "document": { "S": "{\"version\":9}" } }),
    );
    let wire = wire(&world, none);
    // 2 is told, 3 cannot be read, 4 is not there.
    let mut failed = tell(&wire, 2..5).await.unwrap();
    failed.sort();
    assert_eq!(failed, ["m3", "m4"]);
    assert_eq!(subjects(&wire).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_another_run_is_sending_comes_again_later() {
    let world = many(8, Status::Remediated);
    let lease = (Timestamp::now() + Duration::from_secs(20)).as_millisecond();
    let key = entry(3, Status::Remediated).message_key();
    world.lock().unwrap().table.items.insert(
        format!("sent#{key}"),
        json!({ "pk": { "S": format!("sent#{key}") }, "sent": { "BOOL": false }, "lease_until": { "N": lease.to_string() } }),
    );
    let wire = wire(&world, none);
    assert_eq!(tell(&wire, 0..8).await.unwrap(), ["m3"]);
    assert_eq!(
        subjects(&wire),
        ["[Backstop] STORM critical: open-ingress remediated, 7 times"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_lapsed_is_told() {
    let world = many(1, Status::Remediated);
    let key = entry(0, Status::Remediated).message_key();
    world.lock().unwrap().table.items.insert(
        format!("sent#{key}"),
        json!({ "pk": { "S": format!("sent#{key}") }, "sent": { "BOOL": false }, "lease_until": { "N": "1" } }),
    );
    let wire = wire(&world, none);
    assert_eq!(tell(&wire, 0..1).await.unwrap(), [""; 0]);
    assert_eq!(subjects(&wire).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_marked_before_it_was_published() {
    let world = many(6, Status::Remediated);
    let wire = wire(&world, none);
    tell(&wire, 0..6).await.unwrap();
    let calls = wire.calls();
    let published = calls
        .iter()
        .find(|call| call.operation == "Publish")
        .unwrap();
    let claims = calls
        .iter()
        .filter(|call| is_about(call, "PutItem", "sent#"));
    assert!(
        claims.clone().count() == 6 && claims.clone().all(|c| c.ended.unwrap() < published.began)
    );
    let marks = calls
        .iter()
        .filter(|call| is_about(call, "UpdateItem", "sent#"));
    assert!(
        marks.clone().count() == 6 && marks.clone().all(|c| c.began > published.ended.unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_cannot_be_written_is_reported_back_alone() {
    let world = many(6, Status::Remediated);
    let key = format!("sent#{}", entry(2, Status::Remediated).message_key());
    let wire = wire(&world, move |call| {
        is_about(call, "UpdateItem", &key).then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    assert_eq!(tell(&wire, 0..6).await.unwrap(), ["m2"]);
    assert_eq!(world.lock().unwrap().sent(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_storm_that_cannot_be_noted_is_told_all_the_same() {
    let world = many(6, Status::Remediated);
    let wire = wire(&world, |call| {
        is_about(call, "UpdateItem", "storm#")
            .then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    assert_eq!(tell(&wire, 0..6).await.unwrap(), [""; 0]);
    assert_eq!(subjects(&wire).len(), 1);
    assert_eq!(world.lock().unwrap().sent(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_cannot_be_written_is_not_lost() {
    let world = many(8, Status::Remediated);
    tell(&wire(&world, none), 0..6).await.unwrap();
    let failing = wire(&world, |call| {
        is_about(call, "UpdateItem", "storm#")
            .then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    let error = tell(&failing, 6..8).await.unwrap_err();
    assert!(error.contains("AccessDeniedException"), "{error}");
    assert_eq!(world.lock().unwrap().sent(), 6);
    assert_eq!(tell(&wire(&world, none), 6..8).await.unwrap(), [""; 0]);
    assert_eq!(world.lock().unwrap().storm().unwrap()["more"]["N"], "2");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_read_fails_the_whole_batch() {
    let world = many(3, Status::Remediated);
    let wire = wire(&world, |call| {
        (call.operation == "BatchGetItem").then(|| Reply::json_error("AccessDeniedException", "no"))
    });
    let error = tell(&wire, 0..3).await.unwrap_err();
    assert!(error.contains("AccessDeniedException"), "{error}");
    assert!(subjects(&wire).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_time_for_comes_again() {
    let world = many(3, Status::Remediated);
    let wire = wire(&world, none);
    let error = tell_within(&wire, 0..3, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert!(error.contains("no time"), "{error}");
    assert!(subjects(&wire).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_by_itself_is_told_by_itself() {
    let world = many(1, Status::Remediated);
    for verdict in ["told", "sent before"] {
        let wire = wire(&world, none);
        let event = LambdaEvent::new(event(&id(0)), Context::default());
        let answer = handler(&wire).handle(event).await.unwrap();
        assert_eq!(answer, json!({ "verdict": verdict }));
    }
}
