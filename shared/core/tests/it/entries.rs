//! An entry over its life: further rounds, retries, runs that were cut off,
//! and what its message is known by.

use std::collections::BTreeMap;

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::decide::{self, About, Circumstances};
use backstop_core::entry;
use backstop_core::guards::Guards;
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::policy::{Governed, Policy};
use backstop_core::ports::Permission;
use backstop_core::security_group::{IngressRule, SecurityGroup, Source};
use backstop_core::trigger::Trigger;
use backstop_core::words::{Actor, Mode, Status};

type Entry = entry::Entry<IngressRule>;
type Decision = decide::Decision<IngressRule>;

fn rule(id: &str, from: i32, to: i32, source: &str) -> IngressRule {
    IngressRule {
        id: id.into(),
        permission: Permission::new("tcp", from, to),
        source: Source::Ipv4(source.into()),
        description: None,
        tags: BTreeMap::new(),
    }
}

fn group(rules: &[IngressRule]) -> SecurityGroup {
    SecurityGroup {
        id: "sg-0123456789abcdef0".into(),
        name: "web".into(),
        owner: "111122223333".into(),
        arn: "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0".into(),
        vpc: None,
        tags: BTreeMap::new(),
        vpc_opt_outs: BTreeMap::new(),
        rules: rules
            .iter()
            .map(|rule| (rule.id.clone(), rule.clone()))
            .collect(),
        prefix_lists: BTreeMap::new(),
    }
}

fn decide(group: Option<&SecurityGroup>, policy: &Policy, mode: Mode) -> Decision {
    decide::decide::<OpenIngress>(
        group,
        &OpenIngress::rules(policy),
        &Circumstances {
            mode,
            account: "111122223333",
            now: "2026-11-24T10:00:00Z".parse().unwrap(),
            guards: &Guards::default(),
        },
    )
}

fn entry_of(group: &SecurityGroup, mode: Mode, id: &str) -> Entry {
    let trigger = Trigger {
        resource: "sg-0123456789abcdef0".into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor::default(),
    };
    let about = About {
        id,
        trigger: &trigger,
        owner_tag: "owner",
        policy_version: 1,
        now: "2026-11-24T10:00:00Z".parse().unwrap(),
    };
    let decision = decide(Some(group), &Policy::default(), mode);
    decide::entry::<OpenIngress>(Some(group), &decision, about).unwrap()
}

fn entry(group: &SecurityGroup) -> Entry {
    entry_of(group, Mode::Enforce, "01JDF0000000000000000000AA")
}

fn outcome(rule: &str, step: Step, ending: Ending) -> Outcome {
    Outcome {
        round: 0,
        item: rule.into(),
        step,
        permission: None,
        created: None,
        without: None,
        ending,
    }
}

fn denied(code: &str) -> Ending {
    Ending::Failed {
        retryable: false,
        operation: "RevokeSecurityGroupIngress".into(),
        code: code.into(),
        message: "no".into(),
    }
}

/// Ends the attempt with the group as it is now.
fn conclude(entry: &mut Entry, now: Option<&SecurityGroup>) -> Status {
    let found = entry.detail.before.clone();
    let rules = now.map(|group| group.rules.clone()).unwrap_or_default();
    let decision = decide(now, &Policy::default(), Mode::Enforce);
    entry.detail.verification = Some(decide::verify::<OpenIngress>(
        entry, &found, &rules, &decision,
    ));
    entry.conclude(&rules, "2026-11-24T10:00:05Z".parse().unwrap());
    entry.head.status
}

#[test]
fn an_entry_holds_every_rule_it_will_touch_in_full_and_no_other() {
    let mut bad = rule("sgr-1", 22, 22, "0.0.0.0/0");
    bad.description = Some("ssh".into());
    bad.tags = BTreeMap::from([("team".into(), "web".into())]);
    let entry = entry(&group(&[bad.clone(), rule("sgr-2", 443, 443, "0.0.0.0/0")]));
    assert_eq!(entry.detail.before, BTreeMap::from([("sgr-1".into(), bad)]));
}

#[test]
fn a_clean_run_is_remediated() {
    let mut entry = entry(&group(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]));
    entry
        .detail
        .outcomes
        .push(outcome("sgr-1", Step::Revoke, Ending::Done));
    assert_eq!(conclude(&mut entry, Some(&group(&[]))), Status::Remediated);
    assert_eq!(entry.detail.after, BTreeMap::from([("sgr-1".into(), None)]));
}

#[test]
fn a_failed_step_or_a_hole_that_is_still_there_is_a_failure() {
    let open = group(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]);
    let mut failed = entry(&open);
    failed.add_round([outcome(
        "sgr-1",
        Step::Revoke,
        denied("UnauthorizedOperation"),
    )]);
    assert_eq!(conclude(&mut failed, Some(&open)), Status::Failed);

    let mut unchanged = entry(&open);
    unchanged
        .detail
        .outcomes
        .push(outcome("sgr-1", Step::Revoke, Ending::Done));
    assert_eq!(conclude(&mut unchanged, Some(&open)), Status::Failed);
    let problems = unchanged.problems().join("; ");
    assert!(
        problems.contains("sgr-1 still admits tcp 22 from 0.0.0.0/0"),
        "{problems}"
    );
    assert!(problems.contains("sgr-1 is as it was before"), "{problems}");
}

#[test]
fn what_others_change_meanwhile_is_listed_as_theirs_and_is_no_failure() {
    let mut entry = entry(&group(&[
        rule("sgr-1", 0, 80, "0.0.0.0/0"),
        rule("sgr-2", 443, 443, "0.0.0.0/0"),
    ]));
    entry.add_round([Outcome {
        permission: Some(Permission::new("tcp", 80, 80)),
        ..outcome("sgr-1", Step::Narrow, Ending::Done)
    }]);
    let now = group(&[
        rule("sgr-1", 443, 443, "10.0.0.0/8"),
        rule("sgr-9", 5432, 5432, "10.0.0.0/8"),
    ]);
    let found = group(&[
        rule("sgr-1", 0, 80, "0.0.0.0/0"),
        rule("sgr-2", 443, 443, "0.0.0.0/0"),
    ]);
    let decision = decide(Some(&now), &Policy::default(), Mode::Enforce);
    let verification = decide::verify::<OpenIngress>(&entry, &found.rules, &now.rules, &decision);
    assert!(verification.passed());
    assert_eq!(
        verification.by_others,
        [
            "sgr-1 was changed to tcp 443 from 10.0.0.0/8",
            "sgr-9 (tcp 5432 from 10.0.0.0/8) was added",
            "sgr-2 was removed",
        ]
    );
}

#[test]
fn before_is_never_overwritten_by_a_further_round() {
    let mut entry = entry(&group(&[rule("sgr-1", 0, 1024, "0.0.0.0/0")]));
    let later = self::entry(&group(&[
        rule("sgr-1", 0, 100, "0.0.0.0/0"),
        rule("sgr-2", 22, 22, "0.0.0.0/0"),
    ]));
    entry.go_on(&later);
    assert_eq!(
        entry.detail.before["sgr-1"],
        rule("sgr-1", 0, 1024, "0.0.0.0/0"),
        "as it was before the first change"
    );
    assert!(entry.detail.before.contains_key("sgr-2"));
    assert_eq!(entry.detail.plan.changes.len(), 2);
    assert_eq!(
        entry
            .detail
            .plan
            .changes
            .iter()
            .find(|c| c.item == "sgr-1")
            .unwrap()
            .before
            .as_ref()
            .unwrap()
            .permission,
        Permission::new("tcp", 0, 100)
    );
}

#[test]
fn news_is_what_others_did_and_not_our_own_stale_read() {
    let entry = entry(&group(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]));
    let news = |rules: &[IngressRule]| {
        let decision = decide(Some(&group(rules)), &Policy::default(), Mode::Enforce);
        decide::has_news(&entry, decision.plan.as_ref())
    };
    assert!(!news(&[]));
    assert!(
        !news(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]),
        "as it was: a stale read or a failed step"
    );
    assert!(news(&[rule("sgr-2", 22, 22, "0.0.0.0/0")]));
    assert!(
        news(&[rule("sgr-1", 23, 23, "0.0.0.0/0")]),
        "somebody changed it meanwhile"
    );
}

#[test]
fn a_run_that_was_cut_off_after_its_changes_is_remediated_by_the_next() {
    let mut entry = entry(&group(&[
        rule("sgr-1", 22, 22, "0.0.0.0/0"),
        rule("sgr-2", 0, 80, "0.0.0.0/0"),
    ]));
    let now = group(&[rule("sgr-2", 80, 80, "0.0.0.0/0")]);
    decide::settle::<OpenIngress>(
        &mut entry,
        &now.rules,
        &decide(Some(&now), &Policy::default(), Mode::Enforce),
    );
    let steps: Vec<(&str, Step)> = entry
        .detail
        .outcomes
        .iter()
        .map(|o| (o.item.as_str(), o.step))
        .collect();
    assert_eq!(steps, [("sgr-1", Step::Revoke), ("sgr-2", Step::Narrow)]);
    assert!(
        entry
            .detail
            .outcomes
            .iter()
            .all(|o| o.ending == Ending::AlreadyDone)
    );
    assert_eq!(conclude(&mut entry, Some(&now)), Status::Remediated);
}

#[test]
fn a_failure_that_somebody_mended_by_hand_is_no_failure_any_more() {
    let open = group(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]);
    let mut entry = entry(&open);
    entry.add_round([outcome(
        "sgr-1",
        Step::Revoke,
        denied("UnauthorizedOperation"),
    )]);
    assert_eq!(conclude(&mut entry, Some(&open)), Status::Failed);
    let failed_key = entry.message_key();
    let empty = group(&[]);
    for now in [Some(&empty), None] {
        let mut retried = entry.clone();
        decide::settle::<OpenIngress>(
            &mut retried,
            &BTreeMap::new(),
            &decide(now, &Policy::default(), Mode::Enforce),
        );
        assert_eq!(conclude(&mut retried, now), Status::Remediated);
        assert_ne!(
            retried.message_key(),
            failed_key,
            "that it is fixed is told"
        );
    }
}

#[test]
fn a_failure_stays_one_while_its_item_is_exposed_in_another_way() {
    let mut entry = entry(&group(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]));
    entry.add_round([outcome(
        "sgr-1",
        Step::Revoke,
        denied("UnauthorizedOperation"),
    )]);
    for (port, ends) in [(23, Status::Failed), (443, Status::Remediated)] {
        let now = group(&[rule("sgr-1", port, port, "0.0.0.0/0")]);
        let decision = decide(Some(&now), &Policy::default(), Mode::Enforce);
        let mut entry = entry.clone();
        decide::settle::<OpenIngress>(&mut entry, &now.rules, &decision);
        assert_eq!(entry.has_failures(), ends == Status::Failed);
        assert_eq!(conclude(&mut entry, Some(&now)), ends);
    }
}

/// Somebody removed the rule, and what we had added for it could not be removed.
#[test]
fn what_we_added_and_could_not_take_back_stays_a_failure_until_it_is_gone() {
    let mut entry = entry(&group(&[rule("sgr-1", 0, 80, "0.0.0.0/0")]));
    let take_back = Outcome {
        created: Some("sgr-added".into()),
        ..outcome("sgr-1", Step::TakeBack, denied("UnauthorizedOperation"))
    };
    entry.add_round([take_back]);
    let added = group(&[rule("sgr-added", 80, 80, "0.0.0.0/0")]);
    for (now, ends) in [(&added, Status::Failed), (&group(&[]), Status::Remediated)] {
        let mut entry = entry.clone();
        let decision = decide(Some(now), &Policy::default(), Mode::Enforce);
        decide::settle::<OpenIngress>(&mut entry, &now.rules, &decision);
        assert_eq!(conclude(&mut entry, Some(now)), ends);
    }
}

#[test]
fn a_failure_that_a_new_policy_allows_is_dropped() {
    let open = group(&[rule("sgr-1", 22, 22, "0.0.0.0/0")]);
    let mut entry = entry(&open);
    entry.add_round([outcome(
        "sgr-1",
        Step::Revoke,
        denied("UnauthorizedOperation"),
    )]);
    conclude(&mut entry, Some(&open));
    let policy = Policy::parse(
        r#"{"version":1,"controls":{"open-ingress":{"settings":{"authorised_ports":{"tcp":[22]}}}}}"#,
    )
    .unwrap();
    let decision = decide(Some(&open), &policy, Mode::Enforce);
    decide::settle::<OpenIngress>(&mut entry, &open.rules, &decision);
    entry.detail.verification = Some(decide::verify::<OpenIngress>(
        &entry,
        &entry.detail.before,
        &open.rules,
        &decision,
    ));
    entry.conclude(&open.rules, "2026-11-24T10:01:00Z".parse().unwrap());
    assert_eq!(
        entry.head.status,
        Status::Remediated,
        "{:?}",
        entry.problems()
    );
    assert!(entry.detail.plan.changes.is_empty());
}

#[test]
fn a_failure_is_told_again_only_when_its_rules_or_codes_are_new() {
    let open = group(&[
        rule("sgr-1", 22, 22, "0.0.0.0/0"),
        rule("sgr-2", 23, 23, "0.0.0.0/0"),
    ]);
    let key = |failures: &[(&str, &str)]| {
        let mut entry = entry(&open);
        for (rule, code) in failures {
            entry.add_round([outcome(rule, Step::Revoke, denied(code))]);
        }
        entry.head.status = Status::Failed;
        entry.message_key()
    };
    let first = key(&[("sgr-1", "UnauthorizedOperation")]);
    assert_eq!(first, key(&[("sgr-1", "UnauthorizedOperation")]));
    assert_eq!(
        first,
        key(&[
            ("sgr-1", "RequestLimitExceeded"),
            ("sgr-1", "UnauthorizedOperation")
        ]),
        "the last of a step counts"
    );
    assert_ne!(first, key(&[("sgr-1", "RequestLimitExceeded")]));
    assert_ne!(first, key(&[("sgr-2", "UnauthorizedOperation")]));
    assert_ne!(
        first,
        key(&[
            ("sgr-1", "UnauthorizedOperation"),
            ("sgr-2", "UnauthorizedOperation")
        ])
    );
}

#[test]
fn what_was_not_changed_is_known_by_what_was_found_and_not_by_the_entry() {
    let key =
        |rules: &[IngressRule], id: &str| entry_of(&group(rules), Mode::Notify, id).state_key();
    let first = key(
        &[rule("sgr-1", 22, 22, "0.0.0.0/0")],
        "01JDF0000000000000000000AA",
    );
    assert_eq!(
        first,
        key(
            &[rule("sgr-1", 22, 22, "0.0.0.0/0")],
            "01JDF0000000000000000000BB"
        )
    );
    assert_ne!(
        first,
        key(
            &[rule("sgr-2", 22, 22, "0.0.0.0/0")],
            "01JDF0000000000000000000AA"
        ),
        "closed and opened again by hand: told again"
    );
    let mut tagged = rule("sgr-1", 22, 22, "0.0.0.0/0");
    tagged.tags.insert("backstop:opt-out".into(), "all".into());
    assert_ne!(
        first,
        key(&[tagged], "01JDF0000000000000000000AA"),
        "opted out since: told"
    );
}

#[test]
fn an_entry_survives_its_json() {
    let mut entry = entry(&group(&[rule("sgr-1", 0, 1024, "0.0.0.0/0")]));
    entry
        .detail
        .outcomes
        .push(outcome("sgr-1", Step::Revoke, denied("X")));
    conclude(&mut entry, Some(&group(&[])));
    let json = serde_json::to_string(&entry).unwrap();
    let mut read: Entry = serde_json::from_str(&json).unwrap();
    read.detail.before = entry.detail.before.clone();
    assert_eq!(read, entry);
}

#[test]
fn a_group_that_cannot_be_read_again_is_after_its_steps_and_not_as_before() {
    use backstop_core::plan::Verification;
    let facts = group(&[
        rule("sgr-gone", 22, 22, "0.0.0.0/0"),
        rule("sgr-cut", 0, 1024, "0.0.0.0/0"),
        rule("sgr-denied", 3389, 3389, "0.0.0.0/0"),
    ]);
    let mut entry = entry(&facts);
    let mut narrowed = outcome("sgr-cut", Step::Narrow, Ending::Done);
    narrowed.permission = Some(Permission::new("tcp", 80, 80));
    let denied = Ending::Failed {
        retryable: false,
        operation: "RevokeSecurityGroupIngress".into(),
        code: "UnauthorizedOperation".into(),
        message: "no".into(),
    };
    entry.add_round([
        outcome("sgr-gone", Step::Revoke, Ending::Done),
        narrowed,
        outcome("sgr-denied", Step::Revoke, denied),
    ]);
    entry.detail.verification = Some(Verification {
        unread: Some("throttled".into()),
        ..Verification::default()
    });
    // What is in hand is the picture from before.
    let before = entry.detail.before.clone();
    entry.conclude(&before, "2026-11-24T10:00:01Z".parse().unwrap());
    assert_eq!(entry.head.status, Status::Failed);
    assert_eq!(entry.detail.after["sgr-gone"], None);
    let cut = entry.detail.after["sgr-cut"].as_ref().unwrap();
    assert_eq!(cut.permission, Permission::new("tcp", 80, 80));
    assert_eq!(
        entry.detail.after["sgr-denied"],
        before.get("sgr-denied").cloned()
    );
}
