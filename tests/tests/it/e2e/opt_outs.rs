//! Opt-outs are seen: told once, and what lost one is looked at, at once.

use super::*;

pub(crate) const WATCH: &str = "WatchOptOutsFunction";
const KEY: &str = "backstop:opt-out";

/// The event of a call that set (or removed) the opt-out of these resources.
fn tagged(call: &str, resources: &[&str]) -> Value {
    let items: Vec<Value> = resources
        .iter()
        .map(|resource| json!({ "resourceId": resource }))
        .collect();
    // What the event says of the value is never used.
    let parameters = json!({
        "resourcesSet": { "items": items },
        "tagSet": { "items": [{ "key": KEY, "value": "nonsense" }] },
    });
    cloudtrail::call(call, parameters, json!({ "_return": true }))
}

async fn untag(aws: &LocalAws, resource: &str) {
    let tag = Tag::builder().key(KEY).build();
    let delete = aws.ec2.delete_tags().resources(resource).tags(tag);
    delete.send().await.unwrap();
}

/// Messages about an opt-out of this resource.
fn told(aws: &LocalAws, resource: &str) -> Vec<Published> {
    let about = |message: &Published| {
        let subject = message.subject.clone().unwrap_or_default();
        subject.contains("OPT-OUT") && message.bodies["default"].contains(resource)
    };
    aws.published().into_iter().filter(about).collect()
}

async fn told_once(aws: &LocalAws, resource: &str) -> Published {
    wait_for("the opt-out's message", async || {
        (!told(aws, resource).is_empty()).then_some(())
    })
    .await;
    aws.quiet().await;
    let told = told(aws, resource);
    assert_eq!(told.len(), 1, "{told:#?}");
    told.into_iter().next().unwrap()
}

async fn closed(aws: &LocalAws, group: &Group) {
    wait_for("the group to be closed", async || {
        group.rules(aws).await.is_empty().then_some(())
    })
    .await;
}

#[test]
fn an_opt_out_that_is_set_is_told_once_with_who_what_and_until_when() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        tag(
            aws,
            &group.id,
            "open-ingress until=2099-01-31 owner=team-web reason=vendor audit",
        )
        .await;
        let event = tagged("CreateTags", &[&group.id]);
        for _ in 0..2 {
            assert_eq!(aws.deliver(&event).await.unwrap(), [WATCH]);
        }
        let message = told_once(aws, &group.id).await;
        for part in [
            "jo@example.com",
            "open-ingress changes nothing here until 2099-01-31, by team-web: vendor audit",
            "delete-tags",
        ] {
            assert!(
                message.bodies["email"].contains(part),
                "{part}: {}",
                message.bodies["email"]
            );
        }
        let data: Value = serde_json::from_str(&message.bodies["sqs"]).unwrap();
        assert_eq!(data["about"]["topic"], "opt-out-changed");
        assert_eq!(
            data["about"]["means"]["open-ingress"]["until"],
            "2099-01-31"
        );
        assert_eq!(aws.call(WATCH, &event).unwrap()["verdict"], "known");
        assert_eq!(changes(aws), 0);
    });
}

#[test]
fn an_opt_out_that_is_removed_has_the_open_group_closed_at_once() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        tag(aws, &group.id, "all owner=team-web").await;
        assert_eq!(check(aws, &event), "exempt");
        untag(aws, &group.id).await;
        let removed = tagged("DeleteTags", &[&group.id]);
        assert_eq!(aws.deliver(&removed).await.unwrap(), [WATCH]);
        closed(aws, &group).await;
        let message = told_once(aws, &group.id).await;
        assert!(message.subject.unwrap().contains("OPT-OUT REMOVED"));
        let entries = group.entries(aws).await;
        let closing = entries.iter().find(|entry| entry["status"] == "remediated");
        assert_eq!(
            closing.unwrap()["document"]["actor"]["event_name"],
            "DeleteTags",
            "the entry names the call that ended the opt-out"
        );
    });
}

#[test]
fn a_rule_or_a_vpc_that_loses_its_opt_out_has_its_groups_looked_at() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        group.open(aws, &[SSH], &[(KEY, "all")]).await;
        let rule = group.raw(aws).await[0]
            .security_group_rule_id()
            .unwrap()
            .to_owned();
        untag(aws, &rule).await;
        // One that is gone beside it is no obstacle.
        let removed = tagged("DeleteTags", &[&rule, "sgr-0123456789abcdef0"]);
        aws.deliver(&removed).await.unwrap();
        closed(aws, &group).await;

        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        tag(aws, &group.vpc, "open-ingress until=2099-01-31").await;
        aws.deliver(&tagged("CreateTags", &[&group.vpc]))
            .await
            .unwrap();
        let message = told_once(aws, &group.vpc).await;
        assert!(message.bodies["email"].contains("all its security groups"));
        assert_eq!(check(aws, &event), "exempt");
        // An end that is past ends it as well.
        tag(aws, &group.vpc, "open-ingress until=2020-01-31").await;
        aws.deliver(&tagged("CreateTags", &[&group.vpc]))
            .await
            .unwrap();
        closed(aws, &group).await;
    });
}

#[test]
fn an_unreadable_opt_out_is_told_with_the_spelling_and_holds() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        group.open(aws, &[SSH], &[]).await;
        tag(aws, &group.id, "open-ingres until=2099-01-31").await;
        aws.deliver(&tagged("CreateTags", &[&group.id]))
            .await
            .unwrap();
        let message = told_once(aws, &group.id).await;
        assert!(message.subject.unwrap().contains("UNREADABLE"));
        for part in ["`open-ingres`", "until=YYYY-MM-DD"] {
            assert!(message.bodies["email"].contains(part), "{part}");
        }
        assert_eq!(group.rules(aws).await.len(), 1, "held");
        assert_eq!(
            aws.proxy.calls_of("DescribeSecurityGroups").len(),
            0,
            "no look"
        );
    });
}

/// IAM reads `Backstop:Opt-Out` as the opt-out that it enforces.
#[test]
fn an_opt_out_whose_key_is_spelt_otherwise_is_told_with_the_right_one_and_holds() {
    scenario(async |aws| {
        const OTHER: &str = "Backstop:Opt-Out";
        let group = Group::new(aws, &[(OTHER, "all")]).await;
        let opened = group.open(aws, &[SSH], &[]).await;
        let mut event = tagged("CreateTags", &[&group.id]);
        event["detail"]["requestParameters"]["tagSet"]["items"][0]["key"] = json!(OTHER);
        assert_eq!(aws.deliver(&event).await.unwrap(), [WATCH]);
        let message = told_once(aws, &group.id).await;
        assert!(message.subject.unwrap().contains("UNREADABLE"));
        for part in ["`Backstop:Opt-Out`", "`backstop:opt-out`"] {
            assert!(message.bodies["email"].contains(part), "{part}");
        }
        assert_eq!(check(aws, &opened), "held");
        assert_eq!(group.rules(aws).await.len(), 1, "held");
        // One that only looks like it reaches nobody and holds nothing.
        event["detail"]["requestParameters"]["tagSet"]["items"][0]["key"] =
            json!("backstop:opt-outs");
        assert!(aws.deliver(&event).await.unwrap().is_empty());
        let group = Group::new(aws, &[("backstop:opt-outs", "all")]).await;
        let opened = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &opened), "remediated");
    });
}

#[test]
fn calls_about_other_tags_reach_nobody_and_those_that_do_not_say_reach_us() {
    scenario(async |aws| {
        let mut other = tagged("CreateTags", &["sg-0123456789abcdef0"]);
        other["detail"]["requestParameters"]["tagSet"]["items"][0]["key"] = json!("Name");
        assert!(aws.deliver(&other).await.unwrap().is_empty());
        let mut all = tagged("DeleteTags", &["sg-0123456789abcdef0"]);
        all["detail"]["requestParameters"]["tagSet"] = json!({});
        assert_eq!(aws.matching(&all).await.unwrap().len(), 1);
        // Nobody was told of an opt-out on it: that it has none is no news.
        assert_eq!(aws.call(WATCH, &all).unwrap()["verdict"], "known");
        let mut omitted = tagged("CreateTags", &[]);
        omitted["detail"]["requestParameters"] = json!({ "omitted": true });
        assert_eq!(aws.matching(&omitted).await.unwrap().len(), 1);
        let error = aws.call(WATCH, &omitted).unwrap_err();
        assert!(
            error["errorMessage"].as_str().unwrap().contains("sweep"),
            "{error}"
        );
    });
}

/// Makes the function call everything it may.
pub(crate) async fn exercise(aws: &LocalAws) {
    let group = Group::new(aws, &[]).await;
    group.open(aws, &[SSH], &[]).await;
    let rule = group.raw(aws).await[0]
        .security_group_rule_id()
        .unwrap()
        .to_owned();
    let event = tagged("DeleteTags", &[&rule, &group.vpc]);
    assert_eq!(aws.call(WATCH, &event).unwrap()["verdict"], "told");
    closed(aws, &group).await;
    aws.quiet().await;
}
