//! Told once: many of one kind are one message with a count.

use aws_sdk_sqs::types::QueueAttributeName;

use super::*;

/// As many as MiniStack takes from a queue at once.
const MANY: usize = 10;

/// Opens groups and has them looked at, while what waits to be told gathers.
async fn open_many(aws: &LocalAws, outcome: &str) -> Vec<(Group, Value)> {
    aws.gather(true).unwrap();
    let mut groups = Vec::new();
    for i in 0..MANY {
        let team = if i % 2 == 0 { "team-web" } else { "team-db" };
        let group = Group::new(aws, &[("owner", team)]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), outcome);
        groups.push((group, event));
    }
    gathered(aws, MANY).await;
    groups
}

async fn gathered(aws: &LocalAws, count: usize) {
    wait_for("the events to gather", async || {
        (aws.waiting().await.unwrap() >= count).then_some(())
    })
    .await;
    aws.gather(false).unwrap();
}

async fn messages(aws: &LocalAws, count: usize) -> Vec<Published> {
    wait_for("the messages", async || {
        (aws.published().len() >= count).then_some(())
    })
    .await;
    aws.quiet().await;
    let published = aws.published();
    let subjects: Vec<_> = published.iter().map(|message| &message.subject).collect();
    assert_eq!(published.len(), count, "{subjects:#?}");
    published
}

async fn storms(aws: &LocalAws) -> Vec<Value> {
    aws.items_of(&["storm#"]).await.unwrap()
}

#[test]
fn a_storm_is_one_message_with_a_count_and_nothing_delivered_again_says_more() {
    scenario(async |aws| {
        let inbox = aws
            .subscribe(Some(
                &json!({ "team": ["team-db"], "outcome": ["remediated"] }),
            ))
            .await
            .unwrap();
        let groups = open_many(aws, "remediated").await;
        let message = messages(aws, 1).await.remove(0);
        assert_eq!(
            message.subject.as_deref(),
            Some("[Backstop] STORM critical: open-ingress remediated, 10 times")
        );
        let data: Value = serde_json::from_str(&message.bodies["sqs"]).unwrap();
        assert_eq!(data["about"]["count"], MANY);
        for (group, _) in &groups {
            assert!(message.bodies["email"].contains(&group.id));
        }
        assert_eq!(
            aws.receive(&inbox).await.unwrap().len(),
            1,
            "each team that owns one of them hears of it"
        );

        // Everything again: the calls, the looks, what waits to be told.
        for (group, event) in &groups {
            aws.deliver(event).await.unwrap();
            for entry in group.entries(aws).await {
                let id = entry["pk"].as_str().unwrap().trim_start_matches("entry#");
                let again = recorded_notice(json!({ "entry": id }));
                assert_eq!(aws.deliver(&again).await.unwrap(), [NOTIFY]);
            }
        }
        aws.quiet().await;
        messages(aws, 1).await;
        let [storm] = &storms(aws).await[..] else {
            panic!("one storm")
        };
        assert_eq!(storm["more"], Value::Null, "nothing new was counted");
    });
}

#[test]
fn while_a_storm_is_on_further_ones_are_counted_and_failures_are_told() {
    scenario(async |aws| {
        aws.set_policy(&json!({"version": 1, "controls": {"open-ingress": {"mode": "notify"}}}))
            .await
            .unwrap();
        open_many(aws, "notified").await;
        messages(aws, 1).await;
        let late = Group::new(aws, &[]).await;
        let event = late.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "notified");
        wait_for("the late one to be counted", async || {
            (storms(aws).await.first()?["more"] == 1).then_some(())
        })
        .await;
        messages(aws, 1).await;
        // A failure of the same control is told all the same.
        aws.set_policy(&json!({"version": 1, "controls": {"open-ingress": {"mode": "enforce"}}}))
            .await
            .unwrap();
        let failing = Group::new(aws, &[]).await;
        let event = failing.open(aws, &[SSH], &[]).await;
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 1, Fault::denied());
        aws.call(REVOKE, &event).unwrap_err();
        let told = failing.messages(aws, 1).await;
        assert!(told[0].subject.as_deref().unwrap().contains("FAILED"));
    });
}

#[test]
fn a_storm_whose_message_sns_refuses_is_told_when_it_is_delivered_again() {
    scenario(async |aws| {
        aws.proxy.fail_next(
            "Publish",
            1,
            Fault::error(403, "AuthorizationError", "not allowed"),
        );
        let groups = open_many(aws, "remediated").await;
        wait_for("the refused message", async || {
            (!aws.proxy.calls_of("Publish").is_empty()).then_some(())
        })
        .await;
        aws.quiet().await;
        assert!(aws.published().is_empty());
        assert!(
            storms(aws).await.is_empty(),
            "what was not told begins no storm"
        );
        // The queue would hand them out again after its visibility timeout.
        aws.gather(true).unwrap();
        for (group, _) in &groups {
            let id = group.entries(aws).await[0]["pk"].as_str().unwrap()[6..].to_owned();
            aws.deliver(&recorded_notice(json!({ "entry": id })))
                .await
                .unwrap();
        }
        gathered(aws, MANY).await;
        let message = messages(aws, 1).await.remove(0);
        assert!(message.subject.unwrap().contains("10 times"));
    });
}

#[test]
fn in_a_batch_only_what_failed_is_delivered_again() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.gather(true).unwrap();
        assert_eq!(check(aws, &event), "remediated");
        let id = group.entries(aws).await[0]["pk"].as_str().unwrap()[6..].to_owned();
        let record = |message: &str, event: Value| json!({ "messageId": message, "body": event.to_string(), "eventSource": "aws:sqs" });
        let batch = json!({ "Records": [
            record("good", recorded_notice(json!({ "entry": id }))),
            record("unknown", recorded_notice(json!({ "entry": "01JDF0000000000000000000ZZ" }))),
            record("broken", recorded_notice(json!({ "entry": "not an id" }))),
        ] });
        let answer = aws.call(NOTIFY, &batch).unwrap();
        let mut failed: Vec<&str> = answer["batchItemFailures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failure| failure["itemIdentifier"].as_str().unwrap())
            .collect();
        failed.sort_unstable();
        assert_eq!(failed, ["broken", "unknown"]);
        messages(aws, 1).await;
    });
}

#[test]
fn what_cannot_be_told_ends_among_the_failed_events_as_the_event_it_was() {
    scenario(async |aws| {
        let queue = &aws
            .rules
            .iter()
            .filter(|rule| rule.functions.iter().any(|function| function == NOTIFY))
            .find_map(|rule| rule.queues.first())
            .unwrap();
        let visible_after = async |seconds: &str| {
            let set = aws.sqs.set_queue_attributes().queue_url(*queue);
            set.attributes(QueueAttributeName::VisibilityTimeout, seconds)
                .send()
                .await
                .unwrap();
        };
        // AWS takes three minutes between two attempts.
        visible_after("1").await;
        let event = recorded_notice(json!({ "entry": "01JDF0000000000000000000ZZ" }));
        assert_eq!(aws.deliver(&event).await.unwrap(), [NOTIFY]);
        let failed = wait_for("the failed event", async || {
            let failed = aws.failed_events().await.unwrap();
            (!failed.is_empty()).then_some(failed)
        })
        .await;
        visible_after("190").await;
        assert_eq!(failed, [event]);
        let attempts = aws.logs(NOTIFY).unwrap();
        let attempts = attempts
            .iter()
            .filter(|line| line["fields"]["message"] == "run failed");
        assert_eq!(attempts.count(), 5);
    });
}
