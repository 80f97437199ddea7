//! What keeps a control from acting, on the deployed stack: the budget and its
//! trip under concurrency, the kill switch, fights.

use super::*;

/// A policy for `open-ingress`, with more fields of the document.
fn policy(control: Value, more: Value) -> Value {
    let mut policy = json!({"version": 1, "controls": {"open-ingress": control}});
    let fields = policy.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    policy
}

/// Re-arms as `backstop re-arm` does.
async fn re_arm(aws: &LocalAws, resource: Option<&str>) {
    let ledger = aws.ledger();
    let control = backstop_core::words::ControlId::OpenIngress;
    assert!(ledger.re_arm(control, resource).await.unwrap());
    assert!(
        !ledger.re_arm(control, resource).await.unwrap(),
        "nothing to re-arm any more"
    );
}

/// Messages that say that the control has tripped everywhere.
fn about_the_trip(aws: &LocalAws) -> usize {
    aws.published()
        .iter()
        .filter_map(|message| message.subject.as_deref())
        .map(str::to_lowercase)
        .filter(|subject| subject.contains("tripped") && !subject.contains("sg-"))
        .count()
}

#[test]
fn a_budget_is_never_exceeded_by_runs_that_compete_and_its_trip_is_told_once() {
    scenario(async |aws| {
        // Whatever other scenarios spent in this hour does not count here.
        let spent = aws.items_of(&["budget#open-ingress#"]).await.unwrap();
        let spent = spent
            .iter()
            .map(|item| item["changes"].as_i64().unwrap_or_default())
            .max()
            .unwrap_or(0);
        let budget = json!({"budget": {"changes_per_hour": spent + 4}});
        aws.set_policy(&policy(budget, json!({}))).await.unwrap();
        let mut groups = Vec::new();
        for _ in 0..8 {
            let group = Group::new(aws, &[]).await;
            let event = group.open(aws, &[SSH], &[]).await;
            groups.push((group, event));
        }
        for (_, event) in &groups {
            aws.deliver(event).await.unwrap();
        }
        aws.quiet().await;
        let mut open = 0;
        for (group, _) in &groups {
            open += group.rules(aws).await.len();
        }
        assert_eq!(open, 4, "eight wanted, four allowed");
        assert_eq!(about_the_trip(aws), 1, "one message for all of them");

        // Until it is re-armed nothing is changed, under any budget.
        aws.set_policy(&policy(
            json!({"budget": {"changes_per_hour": spent + 1000}}),
            json!({}),
        ))
        .await
        .unwrap();
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "tripped", "critical: told by itself");
        assert_eq!(group.rules(aws).await.len(), 1);
        assert_eq!(group.entries(aws).await[0]["status"], "tripped");
        group.messages(aws, 1).await;

        re_arm(aws, None).await;
        assert_eq!(check(aws, &event), "remediated");
        assert!(group.rules(aws).await.is_empty());
    });
}

#[test]
fn the_kill_switch_stops_everything_and_what_it_left_is_put_right_afterwards() {
    scenario(async |aws| {
        aws.set_policy(&policy(
            json!({"mode": "enforce"}),
            json!({"kill_switch": true}),
        ))
        .await
        .unwrap();
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "stopped");
        assert_eq!(changes(aws), 0);
        let messages = group.messages(aws, 1).await;
        assert!(messages[0].bodies["default"].contains("the kill switch is on"));
        assert_eq!(check(aws, &event), "known", "told once");

        aws.set_policy(&policy(json!({"mode": "enforce"}), json!({})))
            .await
            .unwrap();
        assert_eq!(check(aws, &event), "remediated");
    });
}

#[test]
fn what_is_put_back_again_and_again_is_told_once_as_a_fight_and_trips_in_the_end() {
    scenario(async |aws| {
        let fights = json!({"fights": {"escalate_after": 3, "trip_after": 6}});
        aws.set_policy(&policy(json!({}), fights)).await.unwrap();
        let group = Group::new(aws, &[]).await;
        let put_back = async || {
            let mut event = group.open(aws, &[SSH], &[]).await;
            event["detail"]["userAgent"] =
                json!("APN/1.0 HashiCorp/1.0 Terraform/1.9.0 terraform-provider-aws/5.60");
            event
        };
        for _ in 0..5 {
            assert_eq!(check(aws, &put_back().await), "remediated");
            assert!(group.rules(aws).await.is_empty(), "still put right");
            // Told in this order.
            aws.quiet().await;
        }
        // Twice as ever, the third time as a fight, then silence.
        let messages = group.messages(aws, 3).await;
        let fight = &messages[2].bodies["default"];
        for part in ["It keeps coming back", "3rd", "Terraform", "jo@example.com"] {
            assert!(fight.contains(part), "{part} is missing in\n{fight}");
        }
        assert_eq!(check(aws, &put_back().await), "tripped", "the sixth time");
        assert_eq!(group.rules(aws).await.len(), 1);
        let messages = group.messages(aws, 4).await;
        assert!(messages[3].subject.as_deref().unwrap().contains("TRIPPED"));

        re_arm(aws, Some(&group.id)).await;
        let event = cloudtrail::check_requested("open-ingress", &group.id);
        assert_eq!(check(aws, &event), "remediated");
    });
}
