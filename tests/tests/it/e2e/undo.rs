//! Undo on the deployed stack: every field comes back, nothing else is touched,
//! nothing is fought over, and every other answer says why not.

use super::*;

pub(crate) const UNDO: &str = "UndoFunction";

pub(crate) fn undo(aws: &LocalAws, payload: &Value) -> Value {
    match aws.call(UNDO, payload) {
        Ok(answer) => answer,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn request(entry: &Value) -> Value {
    json!({
        "remediation": entry["document"]["id"],
        "reason": "vendor access until Friday",
        "by": "jo@example.com",
    })
}

/// Every ingress rule but for its id and its opt-out.
async fn in_full(aws: &LocalAws, group: &Group) -> BTreeSet<String> {
    let rules = group.raw(aws).await;
    let of = |rule: &aws_sdk_ec2::types::SecurityGroupRule| {
        let mut tags: Vec<String> = rule
            .tags()
            .iter()
            .filter(|tag| tag.key() != Some("backstop:opt-out"))
            .map(|tag| format!("{}={}", tag.key().unwrap(), tag.value().unwrap()))
            .collect();
        tags.sort();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {tags:?}",
            rule.ip_protocol(),
            rule.from_port(),
            rule.to_port(),
            rule.cidr_ipv4(),
            rule.cidr_ipv6(),
            rule.prefix_list_id(),
            rule.description(),
        )
    };
    rules.iter().map(of).collect()
}

async fn opt_outs(aws: &LocalAws, group: &Group) -> Vec<String> {
    let rules = group.raw(aws).await;
    rules
        .iter()
        .flat_map(|rule| rule.tags())
        .filter(|tag| tag.key() == Some("backstop:opt-out"))
        .map(|tag| tag.value().unwrap().to_owned())
        .collect()
}

/// A group that was remediated: a rule revoked, two narrowed, one added.
async fn remediated(aws: &LocalAws) -> (Group, BTreeSet<String>, Value) {
    let group = Group::new(aws, &[("owner", "team-web")]).await;
    let event = group
        .open(
            aws,
            &[
                SSH,
                Open("tcp", 443, 443, "0.0.0.0/0", "https"),
                Open("tcp", 5432, 5432, "52.95.0.0/16", "a partner"),
                Open("tcp", 0, 1024, "::/0", "low ports"),
                Open("icmp", -1, -1, "0.0.0.0/0", "every ping"),
            ],
            &[("ticket", "OPS-1")],
        )
        .await;
    let before = in_full(aws, &group).await;
    assert_eq!(check(aws, &event), "remediated");
    assert_ne!(in_full(aws, &group).await, before);
    // Its message is out before that of an undo.
    group.messages(aws, 1).await;
    let [entry] = &group.entries(aws).await[..] else {
        panic!("one entry")
    };
    (group, before, entry.clone())
}

#[test]
fn every_field_comes_back_with_an_opt_out_and_nothing_is_fought_over() {
    scenario(async |aws| {
        let (group, before, entry) = remediated(aws).await;
        // Unrelated rules do not block, and are not touched.
        group
            .open(
                aws,
                &[Open("tcp", 8443, 8443, "10.0.0.0/8", "added since")],
                &[],
            )
            .await;
        let answer = undo(aws, &request(&entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        let mut after = in_full(aws, &group).await;
        after.retain(|rule| !rule.contains("added since"));
        assert_eq!(after, before, "every field that can be set");
        let opt_outs = opt_outs(aws, &group).await;
        assert_eq!(
            opt_outs.len(),
            3,
            "what was put back, and no other: {opt_outs:?}"
        );
        for opt_out in &opt_outs {
            assert!(
                opt_out.starts_with("open-ingress until=")
                    && opt_out.contains(" owner=jo@example.com reason=undo: vendor access"),
                "{opt_out}"
            );
        }
        // In the ledger and told, once.
        let entries = group.entries(aws).await;
        let record = entries
            .iter()
            .find(|e| e["document"]["kind"] == "undo")
            .unwrap();
        assert_eq!(record["status"], "undone");
        assert_eq!(record["told"], true);
        assert_eq!(record["document"]["by"], "jo@example.com");
        assert_eq!(
            record["before"].as_object().unwrap().len(),
            4,
            "what it changes: two narrowed rules, and one added for each"
        );
        assert!(group.locks(aws).await.is_empty());
        let messages = group.messages(aws, 2).await;
        let told = &messages[1].bodies["default"];
        for part in [
            "UNDONE",
            "jo@example.com",
            "vendor access until Friday",
            "was authorised again",
        ] {
            assert!(told.contains(part), "{part} is missing in\n{told}");
        }

        // Our own calls echo back as events: the rules are opted out.
        let echo = cloudtrail::call(
            "AuthorizeSecurityGroupIngress",
            json!({"groupId": group.id, "ipPermissions": {}}),
            json!({}),
        );
        assert_eq!(check(aws, &echo), "exempt");
        assert_eq!(check(aws, &echo), "known");
        let mut after = in_full(aws, &group).await;
        after.retain(|rule| !rule.contains("added since"));
        assert_eq!(after, before);

        // Once more: it is so already, and by whom.
        let again = undo(aws, &request(&entry));
        assert_eq!(again["verdict"], "already-as-before");
        let by = answer["undo"].as_str().unwrap();
        assert!(again["message"].as_str().unwrap().contains(by), "{again}");
        // An undo cannot be undone: it is no remediation.
        let of_undo = json!({"remediation": by, "reason": "x"});
        assert_eq!(undo(aws, &of_undo)["verdict"], "not-a-remediation");
    });
}

#[test]
fn what_somebody_changed_since_is_left_alone_and_all_three_states_are_shown() {
    scenario(async |aws| {
        let (group, _, entry) = remediated(aws).await;
        // Somebody revokes the rule that was narrowed.
        let low = group.raw(aws).await;
        let low = low
            .iter()
            .find(|rule| rule.description() == Some("low ports") && rule.from_port() == Some(80))
            .unwrap();
        group
            .revoke(aws, low.security_group_rule_id().unwrap())
            .await;
        let before = in_full(aws, &group).await;
        let answer = undo(aws, &request(&entry));
        assert_eq!(answer["verdict"], "refused", "{answer}");
        let message = answer["message"].as_str().unwrap();
        for part in [
            "before tcp 0-1024 from ::/0",
            "as Backstop left it tcp 80 from ::/0",
            "now gone",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(in_full(aws, &group).await, before, "nothing was changed");
        assert_eq!(group.entries(aws).await.len(), 1);
    });
}

#[test]
fn an_undo_that_failed_half_way_is_told_and_finished_by_asking_again() {
    scenario(async |aws| {
        let (group, before, entry) = remediated(aws).await;
        aws.proxy
            .fail_next("AuthorizeSecurityGroupIngress", 3, Fault::denied());
        let error = aws.call(UNDO, &request(&entry)).unwrap_err();
        let error = error["errorMessage"].as_str().unwrap();
        assert!(error.contains("UnauthorizedOperation"), "{error}");
        let messages = group.messages(aws, 2).await;
        assert!(
            messages[1]
                .subject
                .as_deref()
                .unwrap()
                .contains("UNDO FAILED")
        );
        assert_eq!(undo(aws, &request(&entry))["verdict"], "undone");
        assert_eq!(in_full(aws, &group).await, before);
        group.messages(aws, 3).await;
    });
}

#[test]
fn every_other_request_is_answered_in_words() {
    scenario(async |aws| {
        let unknown = json!({"remediation": "01M7SH8XYF6H0J2M4N8P7R3T1W", "reason": "x"});
        assert_eq!(undo(aws, &unknown)["verdict"], "unknown");
        // An entry that changed nothing.
        let group = Group::new(aws, &[("backstop:opt-out", "all")]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "exempt");
        let entry = &group.entries(aws).await[0];
        assert_eq!(undo(aws, &request(entry))["verdict"], "nothing-to-undo");
        // Longer than the policy allows.
        let (group, _, entry) = remediated(aws).await;
        let mut long = request(&entry);
        long["opt_out_days"] = json!(400);
        let answer = undo(aws, &long);
        assert!(
            answer["message"]
                .as_str()
                .unwrap()
                .contains("at most 30 days"),
            "{answer}"
        );
        // The group is gone.
        aws.ec2
            .delete_security_group()
            .group_id(&group.id)
            .send()
            .await
            .unwrap();
        let answer = undo(aws, &request(&entry));
        assert_eq!(answer["verdict"], "nothing-to-undo");
        assert!(
            answer["message"].as_str().unwrap().contains("is gone"),
            "{answer}"
        );
        // Wrong JSON changes nothing and is kept for nobody: the caller has it.
        let error = aws.call(UNDO, &json!({"id": "x"})).unwrap_err();
        let error = error["errorMessage"].as_str().unwrap();
        assert!(
            error.contains("`id`") && error.contains("nothing was changed"),
            "{error}"
        );
    });
}

/// Makes undo call everything it may.
pub(crate) async fn exercise(aws: &LocalAws) {
    let list = empty_list(aws).await;
    let (group, _, entry) = remediated(aws).await;
    group
        .open(aws, &[Open("tcp", 9, 9, list, "list")], &[])
        .await;
    // A remediation meets its lock and leaves the look to it.
    let id = group.id.clone();
    let check = cloudtrail::check_requested("open-ingress", &id);
    group
        .open(aws, &[Open("tcp", 3389, 3389, "0.0.0.0/0", "late")], &[])
        .await;
    // It asks whose a list is that it is not shown.
    aws.proxy
        .fail_next("GetManagedPrefixListEntries", 1, Fault::denied());
    let tagging = Held::next(aws, "CreateTags");
    aws.start_function(UNDO, &request(&entry)).unwrap();
    tagging.reached().await;
    aws.deliver(&check).await.unwrap();
    wait_for("the wish for a look", async || {
        (group.locks(aws).await.first()?["look_again"] == true).then_some(())
    })
    .await;
    tagging.go_on();
    aws.quiet().await;
    assert_eq!(undo(aws, &request(&entry))["verdict"], "already-as-before");
    assert!(
        in_full(aws, &group)
            .await
            .iter()
            .all(|rule| !rule.contains("late")),
        "the look that was left to the undo was asked for"
    );
}

#[test]
fn a_remediation_that_meets_an_undo_is_caught_up_on() {
    scenario(async |aws| exercise(aws).await);
}
