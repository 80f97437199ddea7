//! The sweep on the deployed stack: what events missed is met, what was there
//! before `enforce` stays, what was cut off goes on, what nobody was told is
//! told, and nothing is said twice.

use super::*;

pub(crate) const SWEEP: &str = "SweepFunction";

pub(crate) fn sweep(aws: &LocalAws) -> String {
    match aws.call(SWEEP, &json!({})) {
        Ok(answer) => answer["verdict"].as_str().unwrap().to_owned(),
        Err(error) => panic!("{error}"),
    }
}

/// The policy for `open-ingress`.
fn policy(control: Value) -> Value {
    json!({"version": 1, "controls": {"open-ingress": control}})
}

/// The digests that were told since the scenario began.
pub(crate) fn digests(aws: &LocalAws) -> Vec<Value> {
    aws.published()
        .iter()
        .filter_map(|message| serde_json::from_str::<Value>(&message.bodies["sqs"]).ok())
        .filter(|data| data["outcome"] == "digest")
        .collect()
}

/// A first sweep, so that other scenarios' leavings are known and the baseline
/// stands.
pub(crate) async fn settle(aws: &LocalAws) {
    sweep(aws);
    aws.quiet().await;
    // That many at once are a storm, which would swallow what follows.
    aws.forget_what_lasts().await.unwrap();
    aws.proxy.reset();
}

#[test]
fn a_lost_event_is_met_and_closed_and_a_second_sweep_says_nothing_new() {
    scenario(async |aws| {
        settle(aws).await;
        let group = Group::new(aws, &[]).await;
        group.open(aws, &[SSH], &[]).await;
        assert_eq!(sweep(aws), "told");
        let message = &group.messages(aws, 2).await;
        assert!(group.rules(aws).await.is_empty());
        let fixed = message
            .iter()
            .find(|message| message.subject.as_deref().unwrap().contains("FIXED"))
            .unwrap();
        assert!(fixed.bodies["default"].contains("sweep"), "who: not known");
        let digests = digests(aws);
        let [digest] = &digests[..] else {
            panic!("{digests:#?}")
        };
        let met = &digest["about"]["met_first"];
        assert_eq!(met["count"], 1, "{digest}");
        assert_eq!(met["examples"], json!([group.id]));

        // What is open has changed: that is said once, and then nothing.
        sweep(aws);
        aws.quiet().await;
        aws.proxy.reset();
        assert_eq!(sweep(aws), "nothing new");
        aws.quiet().await;
        assert_eq!(aws.published().len(), 0);
    });
}

#[test]
fn what_was_open_before_enforce_stays_and_what_is_opened_after_it_goes() {
    scenario(async |aws| {
        aws.set_policy(&policy(json!({"mode": "notify"})))
            .await
            .unwrap();
        settle(aws).await;
        let group = Group::new(aws, &[]).await;
        let old = group.open(aws, &[SSH], &[]).await;
        // The switch, and the first sweep after it.
        aws.set_policy(&policy(json!({"mode": "enforce"})))
            .await
            .unwrap();
        assert_eq!(sweep(aws), "told");
        // It may be told among others of its kind.
        aws.quiet().await;
        let entries = group.entries(aws).await;
        let last = entries.last().unwrap();
        assert_eq!(
            (&last["status"], &last["told"]),
            (&json!("existing"), &json!(true))
        );
        assert_eq!(group.rules(aws).await.len(), 1);
        assert_eq!(check(aws, &old), "known", "not by its event either");

        let new = group
            .open(aws, &[Open("tcp", 3389, 3389, "0.0.0.0/0", "new")], &[])
            .await;
        assert_eq!(check(aws, &new), "remediated");
        assert_eq!(
            group.rules(aws).await,
            ["tcp 22-22 0.0.0.0/0 (ssh for the vendor)"],
            "the new one went, the old one stayed"
        );
        // Another sweep is not the first: the old one is still spared.
        sweep(aws);
        aws.quiet().await;
        assert_eq!(group.rules(aws).await.len(), 1);

        aws.set_policy(&policy(json!({"mode": "enforce", "existing": "enforce"})))
            .await
            .unwrap();
        sweep(aws);
        wait_for("the old one to go", async || {
            group.rules(aws).await.is_empty().then_some(())
        })
        .await;
    });
}

#[test]
fn what_of_the_baseline_was_closed_since_is_new_when_it_comes_back() {
    scenario(async |aws| {
        aws.set_policy(&policy(json!({"mode": "notify"})))
            .await
            .unwrap();
        settle(aws).await;
        let group = Group::new(aws, &[]).await;
        group.open(aws, &[SSH], &[]).await;
        aws.set_policy(&policy(json!({"mode": "enforce"})))
            .await
            .unwrap();
        settle(aws).await;
        let old = &group.raw(aws).await[0];
        group
            .revoke(aws, old.security_group_rule_id().unwrap())
            .await;
        settle(aws).await;
        let again = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &again), "remediated");
        assert!(group.rules(aws).await.is_empty());
    });
}

#[test]
fn leaving_enforce_ends_the_baseline_and_the_next_switch_makes_another() {
    scenario(async |aws| {
        settle(aws).await;
        let items = async |prefix: &str| aws.items_of(&[prefix]).await.unwrap().len();
        assert_eq!(items("baseline#open-ingress").await.min(1), 1);
        aws.set_policy(&policy(json!({"mode": "notify"})))
            .await
            .unwrap();
        settle(aws).await;
        assert_eq!(items("baseline#open-ingress").await, 0);
        let group = Group::new(aws, &[]).await;
        group.open(aws, &[SSH], &[]).await;
        aws.set_policy(&policy(json!({"mode": "enforce"})))
            .await
            .unwrap();
        settle(aws).await;
        assert_eq!(group.rules(aws).await.len(), 1, "part of the new baseline");
        // Not to be in other scenarios' way.
        aws.ec2
            .delete_security_group()
            .group_id(&group.id)
            .send()
            .await
            .unwrap();
    });
}

/// Makes a record old enough for the sweep, which leaves new ones to whoever
/// wrote them.
pub(crate) async fn age(aws: &LocalAws, pk: &str) {
    let long_ago = "2026-01-01T00:00:00Z";
    aws.dynamodb
        .update_item()
        .table_name(aws.output("LedgerTableName"))
        .key("pk", AttributeValue::S(pk.to_owned()))
        .key("sk", AttributeValue::S("entry".to_owned()))
        .update_expression("SET started_at = :then")
        .expression_attribute_values(":then", AttributeValue::S(long_ago.to_owned()))
        .send()
        .await
        .unwrap();
}

#[test]
fn what_nobody_was_told_is_told_and_what_was_cut_off_goes_on() {
    scenario(async |aws| {
        settle(aws).await;
        // Recorded, but the bus refuses every attempt to say so.
        let untold = Group::new(aws, &[("backstop:opt-out", "all")]).await;
        let event = untold.open(aws, &[SSH], &[]).await;
        for _ in 0..3 {
            aws.proxy.fail_next(
                "PutEvents",
                1,
                Fault::error(400, "AccessDeniedException", "no"),
            );
            aws.call(REVOKE, &event).unwrap_err();
        }
        // Changed, but what came of it could not be recorded: the lock is left.
        let cut_off = Group::new(aws, &[]).await;
        let event = cut_off.open(aws, &[SSH], &[]).await;
        aws.proxy.fail_next(
            "PutItem",
            1,
            Fault::error(400, "AccessDeniedException", "no"),
        );
        aws.call(REVOKE, &event).unwrap_err();
        assert_eq!(cut_off.entries(aws).await[0]["status"], "in-progress");
        assert_eq!(
            untold.published(aws).len() + cut_off.published(aws).len(),
            0
        );
        for group in [&untold, &cut_off] {
            for entry in group.entries(aws).await {
                age(aws, entry["pk"].as_str().unwrap()).await;
            }
        }

        sweep(aws);
        aws.quiet().await;
        for (group, status) in [(&untold, "exempt"), (&cut_off, "remediated")] {
            let entries = group.entries(aws).await;
            let [entry] = &entries[..] else {
                panic!("{entries:#?}")
            };
            assert_eq!(
                (&entry["status"], &entry["told"]),
                (&json!(status), &json!(true))
            );
        }
        let before = cut_off.entries(aws).await[0]["before"].clone();
        assert_eq!(before.as_object().unwrap().len(), 1, "kept over the cut");
        assert!(cut_off.rules(aws).await.is_empty());
        let about = |group: &Group| {
            group
                .published(aws)
                .into_iter()
                .filter(|m| {
                    !m.subject
                        .as_deref()
                        .unwrap_or_default()
                        .to_lowercase()
                        .contains("digest")
                })
                .count()
        };
        wait_for("both to be told", async || {
            (about(&untold) >= 1 && about(&cut_off) >= 1).then_some(())
        })
        .await;
        sweep(aws);
        aws.quiet().await;
        assert_eq!((about(&untold), about(&cut_off)), (1, 1), "once");
    });
}

#[test]
fn opt_outs_that_want_attention_are_in_the_digest_with_owner_and_end() {
    scenario(async |aws| {
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48);
        let soon = soon.strftime("%Y-%m-%d").to_string();
        let tags = [
            ("ends soon", format!("all until={soon} owner=team-a")),
            ("ended", "all until=2020-01-31 owner=team-b".to_owned()),
            ("malformed", "yes please".to_owned()),
        ];
        let mut groups = Vec::new();
        for (state, value) in &tags {
            let group = Group::new(aws, &[("backstop:opt-out", value)]).await;
            groups.push((group, *state));
        }
        sweep(aws);
        aws.quiet().await;
        let digests = digests(aws);
        let listed = digests.last().unwrap()["about"]["opt_outs"].clone();
        for (group, state) in &groups {
            let listed = listed.as_array().unwrap();
            let seen = listed
                .iter()
                .find(|one| one["resource"] == group.id.as_str());
            assert_eq!(seen.unwrap()["state"], *state, "{listed:#?}");
            if *state == "ended" {
                assert_eq!(seen.unwrap()["owner"], "team-b");
                assert_eq!(seen.unwrap()["until"], "2020-01-31");
            }
        }
        for (group, _) in &groups {
            aws.ec2
                .delete_security_group()
                .group_id(&group.id)
                .send()
                .await
                .unwrap();
        }
    });
}

#[test]
fn what_is_out_of_order_with_backstop_itself_is_told_once() {
    scenario(async |aws| {
        settle(aws).await;
        // The local AWS has no trail at all: that was told by the first sweep.
        sweep(aws);
        aws.quiet().await;
        let health = |aws: &LocalAws| -> Vec<String> {
            aws.published()
                .into_iter()
                .map(|message| message.bodies["sqs"].clone())
                .filter(|body| body.contains("\"outcome\":\"health\""))
                .collect()
        };
        assert_eq!(health(aws), Vec::<String>::new());
        // A rule that somebody switched off is new.
        let mut rules = aws.rules.iter().map(|rule| &rule.name);
        let rule = rules.find(|name| name.contains("IngressChanged")).unwrap();
        aws.events.disable_rule().name(rule).send().await.unwrap();
        sweep(aws);
        aws.quiet().await;
        sweep(aws);
        aws.quiet().await;
        let told = health(aws);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains(&format!("{rule} is disabled")), "{told:?}");
        aws.events.enable_rule().name(rule).send().await.unwrap();
    });
}

/// Makes the sweep call everything it may.
pub(crate) async fn exercise(aws: &LocalAws) {
    let list = empty_list(aws).await;
    let group = Group::new(aws, &[]).await;
    group
        .open(aws, &[SSH, Open("tcp", 9, 9, list, "list")], &[])
        .await;
    aws.set_policy(&policy(json!({"mode": "enforce"})))
        .await
        .unwrap();
    // The local CloudTrail has no trail.
    for (call, answer) in [
        (
            "DescribeTrails",
            json!({"trailList": [{"Name": "t", "TrailARN": "arn:t", "IsMultiRegionTrail": true}]}),
        ),
        ("GetTrailStatus", json!({"IsLogging": true})),
        (
            "GetEventSelectors",
            json!({"EventSelectors": [{"ReadWriteType": "All", "IncludeManagementEvents": true}]}),
        ),
    ] {
        aws.proxy
            .fail_next(call, 1, Fault::Answer(answer.to_string()));
    }
    aws.give_up(&json!({"source": "aws.events", "detail-type": "Scheduled Event"}))
        .await
        .unwrap();
    sweep(aws);
    aws.quiet().await;
    aws.set_policy(&policy(json!({"mode": "notify"})))
        .await
        .unwrap();
    sweep(aws);
    aws.quiet().await;
    aws.failed_events().await.unwrap();
}

#[test]
fn each_failed_event_is_told_once_although_an_old_one_lies_in_the_queue() {
    scenario(async |aws| {
        settle(aws).await;
        let told = |aws: &LocalAws| -> Vec<String> {
            let subjects = aws.published().into_iter().filter_map(|m| m.subject);
            subjects.filter(|s| s.contains("EVENT FAILED")).collect()
        };
        for (resource, number) in [("sg-1", 1), ("sg-2", 2)] {
            let event = cloudtrail::check_requested("open-ingress", resource);
            aws.give_up(&event).await.unwrap();
            for _ in 0..2 {
                sweep(aws);
                aws.quiet().await;
            }
            let told = told(aws);
            assert_eq!(told.len(), number, "{told:?}");
            assert!(told[number - 1].contains(resource), "{told:?}");
        }
        assert_eq!(aws.failed_events().await.unwrap().len(), 2, "they stay");
    });
}
