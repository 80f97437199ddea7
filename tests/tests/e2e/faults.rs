//! The fault run: a clean run of a function is recorded, then each of its
//! calls is failed in each way, one a run, and the event delivered again.
//! Whatever fails, the end is the same: nothing that was there before is lost
//! from the ledger, nothing stays untold, the world looks as after the clean
//! run.
//!
//! The processes are the real ones, killed with SIGKILL; the retries are
//! Lambda's own, with the request id of the first try.

use std::fmt::Write as _;
use std::time::Instant;

use backstop_core::record::Record;

use super::*;

/// Every way to fail.
const WAYS: &[Way] = &[
    Way::Throttled,
    Way::Broken,
    Way::Denied,
    Way::TimedOut,
    Way::AnswerLost,
    Way::Killed,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Throttled,
    Broken,
    Denied,
    TimedOut,
    AnswerLost,
    Killed,
}

impl Way {
    /// The fault, in the words of the service that is called.
    fn fault(self, service: &str) -> Fault {
        let ec2 = service == "ec2";
        match self {
            Self::Throttled if ec2 => Fault::throttled(),
            Self::Throttled => Fault::error(400, "ThrottlingException", "Rate exceeded"),
            Self::Broken => Fault::error(500, "InternalError", "An internal error has occurred"),
            Self::Denied if ec2 => Fault::denied(),
            Self::Denied => Fault::error(
                400,
                "AccessDeniedException",
                "You are not authorized to perform this operation.",
            ),
            Self::TimedOut => Fault::Silence,
            Self::AnswerLost => Fault::AnswerLost,
            Self::Killed => Fault::Kill,
        }
    }
}

/// A function at its work on one security group.
#[derive(Clone, Copy, Debug)]
enum Story {
    Revoke,
    Sweep,
    Undo,
}

/// What a run has to do with.
struct Scene {
    group: Group,
    event: Value,
    /// The rules before the function runs, in full, by id.
    before: BTreeMap<String, aws_sdk_ec2::types::SecurityGroupRule>,
}

impl Story {
    fn function(self) -> &'static str {
        match self {
            Self::Revoke => REVOKE,
            Self::Sweep => "SweepFunction",
            Self::Undo => "UndoFunction",
        }
    }

    /// Whether its function holds the group's lock while it works.
    fn holds_a_lock(self) -> bool {
        !matches!(self, Self::Sweep)
    }

    async fn set(self, aws: &LocalAws) -> Scene {
        let group = Group::new(aws, &[("owner", "team-web")]).await;
        let event = group
            .open(
                aws,
                &[
                    SSH,
                    Open("tcp", 443, 443, "0.0.0.0/0", "https"),
                    Open("tcp", 22, 22, "10.0.0.0/8", "ssh from inside"),
                    Open("tcp", 0, 1024, "::/0", "low ports"),
                ],
                &[("ticket", "OPS-7")],
            )
            .await;
        let before = group
            .raw(aws)
            .await
            .into_iter()
            .map(|rule| (rule.security_group_rule_id().unwrap().to_owned(), rule))
            .collect();
        let event = match self {
            Self::Revoke => event,
            // The event of the opening is lost.
            Self::Sweep => json!({}),
            Self::Undo => {
                assert_eq!(check(aws, &event), "remediated");
                let [(_, remediation)] = &records_of(aws, &group.id).await[..] else {
                    panic!("one record")
                };
                json!({"remediation": remediation.id(), "reason": "a fault run"})
            }
        };
        Scene {
            group,
            event,
            before,
        }
    }

    /// What is not as it has to be in the end; nothing: all is well.
    async fn wrong(self, aws: &LocalAws, scene: &Scene) -> Vec<String> {
        let mut wrong = Vec::new();
        let rules = scene.group.rules(aws).await;
        let expected = match self {
            Self::Revoke | Self::Sweep => CLOSED,
            Self::Undo => OPEN,
        };
        if rules != expected {
            wrong.push(format!("the rules are {rules:?}"));
        }
        if !scene.group.locks(aws).await.is_empty() {
            wrong.push("the lock is held".to_owned());
        }
        let records = records_of(aws, &scene.group.id).await;
        if records.is_empty() {
            wrong.push("nothing is in the ledger".to_owned());
        }
        if matches!(self, Self::Undo)
            && !records
                .iter()
                .any(|(_, record)| record.outcome() == "undone")
        {
            wrong.push("no undo is in the ledger".to_owned());
        }
        let mut kept = BTreeSet::new();
        for (item, record) in &records {
            if item.get("told") != Some(&AttributeValue::Bool(true)) {
                wrong.push(format!("{} is untold", record.id()));
            } else if !is_sent(aws, record).await {
                wrong.push(format!("the message of {} was never sent", record.id()));
            }
            if let Record::Remediation(entry) = record {
                kept.extend(entry.before.iter().map(|(id, rule)| {
                    (
                        id.clone(),
                        rule.description.clone(),
                        rule.tags.get("ticket").cloned(),
                    )
                }));
            }
        }
        let touched: BTreeSet<_> = scene
            .before
            .values()
            .filter(|rule| {
                ["ssh for the vendor", "low ports"].contains(&rule.description().unwrap())
            })
            .map(|rule| {
                (
                    rule.security_group_rule_id().unwrap().to_owned(),
                    rule.description().map(str::to_owned),
                    Some("OPS-7".to_owned()),
                )
            })
            .collect();
        if kept != touched {
            wrong.push(format!("`before` in the ledger is {kept:?}"));
        }
        wrong
    }

    /// Waits until all is well.
    async fn settled(self, aws: &LocalAws, scene: &Scene, run: &str) {
        let started = Instant::now();
        while let Err(wrong) = self.within(aws, scene, Duration::from_secs(1)).await {
            assert!(started.elapsed() < PATIENCE, "{run}: {wrong}");
        }
    }

    /// Delivers the event every second until all is well, as the sweep does it
    /// every hour.
    async fn delivered_until_settled(self, aws: &LocalAws, scene: &Scene, run: &str) {
        let started = Instant::now();
        while let Err(wrong) = self.within(aws, scene, Duration::from_secs(1)).await {
            assert!(started.elapsed() < PATIENCE, "{run}: {wrong}");
            aws.start_function(self.function(), &scene.event).unwrap();
        }
    }

    /// Whether all is well within so long; else what is wrong.
    async fn within(self, aws: &LocalAws, scene: &Scene, time: Duration) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let wrong = self.wrong(aws, scene).await;
            if wrong.is_empty() {
                return Ok(());
            }
            if started.elapsed() > time {
                return Err(wrong.join("; "));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

/// How long a run may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long nothing is called once no retry is to come any more: the pause before
/// the last one is 0.6 seconds here (`LAMBDA_ASYNC_RETRY_BASE_SECONDS`, doubled).
const RETRIED: Duration = Duration::from_secs(1);

/// The time-out, in seconds, of a function that is killed: the lease of its
/// lock is two seconds longer.
const SHORT: u64 = 8;

/// The group after a remediation.
const CLOSED: &[&str] = &[
    "tcp 22-22 10.0.0.0/8 (ssh from inside)",
    "tcp 443-443 0.0.0.0/0 (https)",
    "tcp 443-443 ::/0 (low ports)",
    "tcp 80-80 ::/0 (low ports)",
];

/// The group before a remediation, and after its undo.
const OPEN: &[&str] = &[
    "tcp 0-1024 ::/0 (low ports)",
    "tcp 22-22 0.0.0.0/0 (ssh for the vendor)",
    "tcp 22-22 10.0.0.0/8 (ssh from inside)",
    "tcp 443-443 0.0.0.0/0 (https)",
];

type Item = std::collections::HashMap<String, AttributeValue>;

async fn item(aws: &LocalAws, pk: &str, sk: &str) -> Option<Item> {
    let get = aws
        .dynamodb
        .get_item()
        .table_name(aws.output("LedgerTableName"))
        .key("pk", AttributeValue::S(pk.to_owned()))
        .key("sk", AttributeValue::S(sk.to_owned()));
    get.consistent_read(true).send().await.unwrap().item
}

/// The records about a group, with their items.
async fn records_of(aws: &LocalAws, group: &str) -> Vec<(Item, Record)> {
    let ledger = aws.ledger();
    let keys = aws
        .dynamodb
        .query()
        .table_name(aws.output("LedgerTableName"))
        .index_name("by-resource")
        .key_condition_expression("#resource = :resource")
        .expression_attribute_names("#resource", "resource")
        .expression_attribute_values(
            ":resource",
            AttributeValue::S(cloudtrail::security_group_arn(group)),
        )
        .send()
        .await
        .unwrap();
    let mut records = Vec::new();
    for key in keys.items() {
        let pk = key["pk"].as_s().unwrap();
        let item = item(aws, pk, "entry").await.unwrap();
        let id = pk.strip_prefix("entry#").unwrap();
        records.push((item, ledger.read(id).await.unwrap().unwrap().record));
    }
    records
}

/// Whether the message about a record as it is now has gone out.
async fn is_sent(aws: &LocalAws, record: &Record) -> bool {
    let item = item(aws, &format!("sent#{}", record.message_key()), "sent").await;
    item.is_some_and(|item| item.get("sent") == Some(&AttributeValue::Bool(true)))
}

/// One call of a clean run: its service, its operation, and how many of the
/// same operation came before it.
type Recorded = (String, String, usize);

/// Runs a story undisturbed and lists the function's calls.
async fn clean_run(aws: &LocalAws, story: Story) -> Vec<Recorded> {
    let scene = story.set(aws).await;
    aws.restart_function(story.function()).unwrap();
    aws.proxy.reset();
    aws.proxy.attribute(true);
    aws.start_function(story.function(), &scene.event).unwrap();
    story.settled(aws, &scene, "the clean run").await;
    quiet(aws).await;
    let function = aws.resource(story.function());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    aws.proxy
        .calls()
        .into_iter()
        .filter(|call| call.function.as_deref() == Some(function))
        .map(|call| {
            let before = seen.entry(call.action.clone()).or_default();
            *before += 1;
            (call.service, call.action, *before - 1)
        })
        .collect()
}

/// One run: one call fails in one way, and the event is delivered again.
async fn faulty_run(aws: &LocalAws, story: Story, call: &Recorded, way: Way) {
    let (service, action, nth) = call;
    let run = format!("{story:?}, {way:?}, {service}:{action} number {}", nth + 1);
    let scene = story.set(aws).await;
    // Cold, so that it makes every call: the policy is kept for a minute.
    // A process that is killed leaves a lock behind whose lease has to lapse
    // here (MiniStack gives the retry another request id, AWS the same).
    let short = way == Way::Killed && story.holds_a_lock();
    let own = aws.timeout(story.function()).unwrap();
    aws.set_timeout(story.function(), if short { SHORT } else { own })
        .unwrap();
    aws.proxy.reset();
    aws.proxy.attribute(true);
    let function = aws.resource(story.function());
    aws.proxy
        .fail_call_of(function, action, *nth, way.fault(service));
    aws.start_function(story.function(), &scene.event).unwrap();
    if way == Way::Killed {
        story.delivered_until_settled(aws, &scene, &run).await;
    } else {
        story.settled(aws, &scene, &run).await;
    }
    // The world may be as it should be before the function has come to its last
    // calls: the sweep tells its digest when the group has long been closed.
    wait_for(
        &format!("{run}: the call that fails"),
        PATIENCE,
        async || (aws.proxy.faults_left() == 0).then_some(()),
    )
    .await;
    if short {
        aws.set_timeout(story.function(), own).unwrap();
    }
    let again = aws.call(story.function(), &scene.event);
    assert!(again.is_ok(), "{run}, delivered again: {again:?}");
    story
        .settled(aws, &scene, &format!("{run}, delivered again"))
        .await;
    // A run that failed is tried again, twice; neither may meet the fault that is
    // meant for the next run, or an event is given up that nothing befell.
    if matches!(way, Way::Denied | Way::TimedOut) {
        aws.quiet(RETRIED).await;
    }
}

/// The whole table of a story. Prints what it did.
fn every_call_fails_in_every_way(story: Story) {
    scenario(async |aws| {
        let started = Instant::now();
        // Some hundred runs make more changes than any budget expects.
        let roomy = json!({"version": 1, "controls": {"open-ingress": {"budget": {"changes_per_hour": 100_000}}}});
        aws.set_policy(&roomy).await.unwrap();
        // The first sweep in `enforce` makes the baseline: what is open then
        // would stay.
        assert!(aws.call(Story::Sweep.function(), &json!({})).is_ok());
        quiet(aws).await;
        // The first one still meets what other scenarios left.
        clean_run(aws, story).await;
        let calls = clean_run(aws, story).await;
        assert!(!calls.is_empty());
        let mut runs = 0;
        for way in WAYS {
            let from = Instant::now();
            for call in &calls {
                faulty_run(aws, story, call, *way).await;
                runs += 1;
            }
            println!(
                "{story:?}, {way:?}: {} runs in {:.0} s",
                calls.len(),
                from.elapsed().as_secs_f32()
            );
        }
        assert_eq!(runs, calls.len() * WAYS.len());
        // Kills follow each other within seconds here: the retries of a run that
        // was killed may meet the kills meant for the next ones, and an event
        // whose process was killed each time is given up, as it should be. (What
        // it was about is settled by then: every run above has seen to it.)
        let mut given_up = aws.failed_events().await.unwrap();
        given_up.retain(|event| event["responsePayload"]["errorType"] != "Runtime.ExitError");
        assert_eq!(given_up, Vec::<Value>::new(), "nothing else was given up");
        let mut summary = String::new();
        write!(
            summary,
            "{story:?}: {} calls x {} ways = {runs} runs in {:.0} s",
            calls.len(),
            WAYS.len(),
            started.elapsed().as_secs_f32()
        )
        .unwrap();
        println!("{summary}");
    });
}

#[test]
fn revoke_ingress_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(Story::Revoke);
}

#[test]
fn the_sweep_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(Story::Sweep);
}

#[test]
fn undo_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(Story::Undo);
}
