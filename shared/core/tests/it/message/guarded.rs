//! Whole mails of runs that a guard held back, and of fights.

use backstop_core::guards::Fight;
use backstop_core::reason::Reason;
use expect_test::expect;
use serde_json::Value;

use backstop_core::plan::{Ending, Plan, Step, Verification};
use backstop_core::ports::Permission;

use super::fixtures::{
    Entry, body, carried_out, compose, exposure, mail, outcome, revoke, revoked, rule, ssh,
    unchanged, world,
};

fn held_back(because: Reason) -> Entry {
    let rule = ssh();
    let reasons = vec![because.to_string()];
    let mut entry = unchanged(vec![exposure(&rule, &["tcp 22"], &[])], because);
    entry.detail.plan.changes = vec![revoke(&rule)];
    entry.detail.plan.reasons = reasons;
    entry
}

fn fight(managed_by: Option<&str>) -> Entry {
    let mut entry = revoked();
    entry.head.managed_by = managed_by.map(str::to_owned);
    entry.detail.fight = Some(Fight {
        times: 3,
        since: "2026-11-24T07:00:00Z".parse().unwrap(),
        within_hours: 24,
        every_seconds: None,
        told_by: entry.head.id.clone(),
        managed_by: entry.head.managed_by.clone(),
    });
    entry
}

/// The parts of a mail that the first sections make up.
fn lead(mail: &str) -> String {
    mail.split("\n\nDETAILS").next().unwrap().to_owned()
}

#[test]
fn what_was_there_before_enforce_is_told_with_the_way_to_have_it_put_right() {
    let mut entry = held_back(Reason::Existing);
    entry.detail.exposures[0].exemption = backstop_core::exemption::Exemption::Existing;
    expect![[r#"
        Subject: [Backstop] EXISTING critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        EXISTING critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22, it was there before enforce and was left
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`.
        - To have it remediated, set `"existing": "enforce"` for open-ingress in the policy.
        - Or close it by hand.
        - sgr-0aaaaaaaaaaaaaaaa was left as it is: it was there before the control was switched to `enforce`.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open"#]].assert_eq(&lead(&mail(&entry)));
}

#[test]
fn a_control_that_tripped_is_told_with_the_way_to_re_arm_it() {
    let entry = held_back(Reason::ResourceTripped {
        why: "somebody or something kept putting back what was put right".to_owned(),
    });
    expect![[r#"
        Subject: [Backstop] TRIPPED critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        TRIPPED critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22, the control has tripped: nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: the control has tripped for this resource: somebody or something kept putting back what was put right.
        - Remediation is paused until someone finds the cause and re-arms it:
        - backstop re-arm open-ingress sg-0123456789abcdef0
        - Until then, close it by hand.
        - This would be done:
        - sgr-0aaaaaaaaaaaaaaaa would be revoked.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open"#]].assert_eq(&lead(&mail(&entry)));
}

#[test]
fn the_kill_switch_is_told() {
    let entry = held_back(Reason::KillSwitch);
    expect![[r#"
        Subject: [Backstop] STOPPED critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        STOPPED critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22, the kill switch is on: nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: the kill switch is on.
        - It is checked again by the first sweep after the kill switch is off.
        - Until then, close it by hand.
        - This would be done:
        - sgr-0aaaaaaaaaaaaaaaa would be revoked.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open"#]].assert_eq(&lead(&mail(&entry)));
}

#[test]
fn a_fight_names_what_manages_the_resource() {
    expect![[r#"
        Subject: [Backstop] FIXED AGAIN critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22

        FIXED AGAIN critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22, it keeps coming back
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - sgr-0aaaaaaaaaaaaaaaa was revoked.
        - Looked again: the exposure is closed.

        It keeps coming back
        - This was put right for the 3rd time within 24 hours, since 2026-11-24 07:00:00 UTC.
        - It is managed by the CloudFormation stack web: change it there, or it comes back.
        - Further times within 24 hours are put right without a message. If it goes on, the control trips for this resource and says so: then it stays open until a person re-arms it.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be open" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        Good to know
        - A rule for the whole internet also admits your private networks; they went with it (sgr-0aaaaaaaaaaaaaaaa). What used it from there needs a rule for its own range.
        - Connections that were open already may last: closing a port does not end them."#]].assert_eq(&lead(&mail(&fight(Some("the CloudFormation stack web")))));
}

#[test]
fn a_slow_fight_names_its_rhythm() {
    let mut entry = fight(Some("the CloudFormation stack web"));
    let section = |entry: &Entry| {
        let mail = mail(entry);
        let (_, section) = mail.split_once("It keeps coming back\n").unwrap();
        section.split("\n\n").next().unwrap().to_owned()
    };
    let slow = entry.detail.fight.as_mut().unwrap();
    (slow.times, slow.within_hours, slow.every_seconds) = (4, 168, Some(43_190));
    expect![[r#"
        - This was put right for the 4th time within 7 days, since 2026-11-24 07:00:00 UTC. It comes back about every 12 hours.
        - It is managed by the CloudFormation stack web: change it there, or it comes back.
        - Further times are put right without a message while this lasts; the digest counts them. If it comes back faster, the control trips for this resource and says so: then it stays open until a person re-arms it."#]].assert_eq(&section(&entry));
    for (seconds, words) in [
        (600, "about every 10 minutes."),
        (3_590, "about every 60 minutes."),
        (5_400, "about every 2 hours."),
        (86_400, "about every 24 hours."),
        (172_000, "about every 2 days."),
    ] {
        entry.detail.fight.as_mut().unwrap().every_seconds = Some(seconds);
        let section = section(&entry);
        assert!(section.contains(words), "{words} is missing in {section}");
    }
    entry.detail.fight.as_mut().unwrap().every_seconds = None;
    assert!(!section(&entry).contains("It comes back about"));
    let json: Value = serde_json::from_str(&body(&compose(&entry), "lambda")).unwrap();
    assert_eq!(json["fight"]["within_hours"], 168);
}

#[test]
fn a_fight_names_the_caller_where_nothing_shows_what_manages_the_resource() {
    let mail = mail(&fight(None));
    let (_, section) = mail.split_once("It keeps coming back").unwrap();
    expect![[r#"

        - This was put right for the 3rd time within 24 hours, since 2026-11-24 07:00:00 UTC.
        - Who puts it back, as the event states: arn:aws:sts::111122223333:assumed-role/developer/alice, with aws-cli/2.31.0.
        - Further times within 24 hours are put right without a message. If it goes on, the control trips for this resource and says so: then it stays open until a person re-arms it."#]].assert_eq(section.split("\n\n").next().unwrap());
}

#[test]
fn what_manages_a_resource_is_named_in_the_first_message() {
    let mut entry = revoked();
    for manager in [
        "the AWS Load Balancer Controller, for the ingress default/web of the cluster prod",
        "the CloudFormation stack web",
    ] {
        entry.head.managed_by = Some(manager.to_owned());
        let mail = mail(&entry);
        let line = format!(
            "Who manages it\n- It is managed by {manager}: change it there, or it comes back.\n\nWho touched it last"
        );
        assert!(mail.contains(&line), "{mail}");
        assert!(!mail.contains("It keeps coming back"), "{mail}");
    }
    entry.head.managed_by = None;
    assert!(!mail(&entry).contains("Who manages it"));
}

#[test]
fn programs_get_the_fight_too() {
    let data: Value =
        serde_json::from_str(&body(&compose(&fight(Some("Terraform"))), "sqs")).unwrap();
    expect![[r#"{"since":"2026-11-24T07:00:00Z","times":3,"within_hours":24} "Terraform""#]]
        .assert_eq(&format!("{} {}", data["fight"], data["managed_by"]));
    let data: Value = serde_json::from_str(&body(&compose(&revoked()), "sqs")).unwrap();
    assert_eq!(
        (&data["fight"], &data["managed_by"]),
        (&Value::Null, &Value::Null)
    );
}

/// The sections that say what is open and what was done.
fn open_and_done(mail: &str) -> String {
    mail.split("\n\nWho touched").next().unwrap().to_owned()
}

#[test]
fn a_resource_that_tripped_by_itself_says_what_was_closed_what_is_left_and_how_to_re_arm_it() {
    let (closed, left) = (
        ssh(),
        rule(
            "sgr-0dddddddddddddddd",
            Permission::new("tcp", 8081, 8081),
            world(),
        ),
    );
    let mut entry = carried_out(
        vec![
            exposure(&closed, &["tcp 22"], &[]),
            exposure(&left, &["tcp 8081"], &[]),
        ],
        vec![revoke(&closed)],
        vec![outcome(&closed, Step::Revoke, Ending::Done)],
    );
    let because = Reason::ResourceTripped {
        why: "it alone would take 51 changes in an hour, more than the budget of 50".to_owned(),
    };
    entry.detail.verification = Some(Verification {
        remaining: vec!["sgr-0dddddddddddddddd still admits tcp 8081 from 0.0.0.0/0".to_owned()],
        ..Verification::default()
    });
    entry.leave(&Plan {
        changes: vec![revoke(&left)],
        reasons: vec![because.to_string()],
        because: Some(because),
        ..entry.detail.plan.clone()
    });
    expect![[r#"
        Subject: [Backstop] TRIPPED critical: sg-0123456789abcdef0 (web) is open to the world on tcp 8081

        TRIPPED critical: sg-0123456789abcdef0 (web) is open to the world on tcp 8081, the control has tripped: nothing more was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 8081 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0dddddddddddddddd

        What was done, and why no more
        - Nothing more was changed: the control has tripped for this resource: it alone would take 51 changes in an hour, more than the budget of 50.
        - Remediation is paused until someone finds the cause and re-arms it:
        - backstop re-arm open-ingress sg-0123456789abcdef0
        - Until then, close it by hand.
        - 1 left, and this would be done:
        - sgr-0dddddddddddddddd would be revoked.
        - sgr-0aaaaaaaaaaaaaaaa was revoked.
        - Looked again, and not in order: sgr-0dddddddddddddddd still admits tcp 8081 from 0.0.0.0/0."#]]
    .assert_eq(&open_and_done(&mail(&entry)));
}

#[test]
fn what_waits_for_the_budget_of_the_next_hour_says_until_when() {
    expect![[r#"
        Subject: [Backstop] PENDING critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        PENDING critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22, the budget of this hour is used up: nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: resources for which the control has tripped have used up its budget of this hour.
        - It is remediated by the first sweep of the next hour.
        - Until then, close it by hand.
        - This would be done:
        - sgr-0aaaaaaaaaaaaaaaa would be revoked."#]]
    .assert_eq(&open_and_done(&mail(&held_back(Reason::BudgetSpent))));
}

#[test]
fn another_protocol_is_named_with_the_setting_that_allows_it() {
    let of = |protocols: &[&str]| {
        let rules = protocols
            .iter()
            .map(|protocol| rule("sgr-1", Permission::new(protocol, -1, -1), world()));
        let exposures = rules.map(|rule| exposure(&rule, &["protocol"], &[]));
        let mut entry = unchanged(exposures.collect(), Reason::NotifyMode);
        entry.detail.plan.reasons = Vec::new();
        mail(&entry)
    };
    let line = |names: &str, numbers: &str| {
        format!(
            "- To have {names} open to the internet wherever a rule says so, add {numbers} to `settings.protocols` of open-ingress in the policy."
        )
    };
    let mail = of(&["51", "47", "99"]);
    let names = "GRE (protocol 47), AH (protocol 51), protocol 99";
    assert!(mail.contains(&line(names, "47, 51, 99")), "{mail}");
    for others in [["tcp"], ["-1"], ["58"]] {
        assert!(!of(&others).contains("settings.protocols"), "{others:?}");
    }
}
