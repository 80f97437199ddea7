//! Messages about notices, as their readers get them.

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::exemption::{Exemption, OPT_OUT_TAG, OptOut, read};
use backstop_core::message::{NoticeNotification, is_list, of};
use backstop_core::notice::{
    About, ControlTripped, Digest, EventFailed, FailedCheck, Health, Notice, Open, OptOutChanged,
    OptOutSeen, RequestsRefused, Storm,
};
use backstop_core::record::Record;
use backstop_core::rules::OptOutRules;
use backstop_core::words::{Actor, ControlId, Severity};
use expect_test::{Expect, expect};
use jiff::Timestamp;
use serde_json::Value;

use super::fixtures::{body, found};
use super::schemas::NOTICE;

fn at() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

pub(crate) fn notice(about: About) -> Record {
    Record::Notice(Box::new(Notice {
        version: 1,
        id: "01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned(),
        account: "111122223333".to_owned(),
        region: "eu-central-1".to_owned(),
        at: at(),
        about,
    }))
}

/// One notice of each topic, all of whose texts are `text`, with this many
/// items in each list.
pub(crate) fn each(text: &str, items: usize) -> Vec<About> {
    let t = || text.to_owned();
    let opt_out = OptOut {
        until: None,
        owner: Some(t()),
        reason: Some(t()),
    };
    let open = Open {
        count: items as u64,
        examples: vec![t(); items.min(10)],
    };
    let actor = Actor {
        principal: Some(t()),
        user_agent: Some(t()),
        source_address: Some(t()),
        invoked_by: Some(t()),
        event_name: Some(t()),
        event_time: None,
        event_id: Some(t()),
        account: Some(t()),
        on_behalf_of: Some(t()),
    };
    let mut all: Vec<About> = [
        Exemption::None,
        Exemption::Exempt(opt_out.clone()),
        Exemption::Ended(opt_out),
        Exemption::Malformed {
            value: t(),
            problem: t(),
            key: None,
            longest_days: None,
        },
    ]
    .into_iter()
    .map(|means| {
        About::OptOutChanged(OptOutChanged {
            resource: t(),
            key: (items > 0).then(t),
            value: (items > 0).then(t),
            means: BTreeMap::from([(ControlId::OpenIngress, means)]),
            actor: actor.clone(),
        })
    })
    .collect();
    let named = |i: usize| format!("{text}{i}");
    all.extend([
        About::ControlTripped(ControlTripped {
            control: ControlId::OpenIngress,
            changes_per_hour: 20,
            resource: t(),
            changes: items as u32,
            at: at(),
        }),
        About::Digest(Box::new(Digest {
            since: Some(at()),
            looked_at: BTreeMap::from([(ControlId::OpenIngress, 1000)]),
            outcomes: BTreeMap::from([(
                ControlId::OpenIngress,
                (0..items).map(|i| (named(i), 1)).collect(),
            )]),
            open: BTreeMap::from([(
                ControlId::OpenIngress,
                (0..items).map(|i| (named(i), open.clone())).collect(),
            )]),
            met_first: open.clone(),
            opt_outs: vec![
                OptOutSeen {
                    resource: t(),
                    value: t(),
                    state: t(),
                    until: None,
                    owner: Some(t()),
                    why: Some(t()),
                };
                items
            ],
            more_opt_outs: 3,
            kept: (0..items).map(|i| (named(i), open.clone())).collect(),
            deleted: open.clone(),
            snapshots_deleted: open.clone(),
            of_others: BTreeMap::new(),
            resumed: 1,
            told: 2,
            unseen: vec![t(); items],
        })),
        About::Health(Health {
            failed: vec![
                FailedCheck {
                    check: t(),
                    found: t(),
                    remedy: t(),
                };
                items
            ],
        }),
        About::EventFailed(EventFailed {
            message: t(),
            function: (items > 0).then(t),
            event: t(),
            error: Some(t()),
            failed_at: Some(t()),
        }),
        About::RequestsRefused(RequestsRefused {
            control: ControlId::ImdsV1,
            resource: t(),
            remediation: t(),
            since: at(),
            requests: items as u64,
            team: Some(t()),
        }),
        About::Storm(Storm {
            control: t(),
            outcome: t(),
            count: items as u64,
            examples: vec![(t(), t()); items],
            since: at(),
            severity: None,
            teams: (0..items).map(named).collect(),
            after: items % 2 == 1,
            fight: items % 3 == 1,
        }),
    ]);
    all
}

fn mail(about: About) -> String {
    let message = of(&notice(about));
    format!(
        "Subject: {}\n\n{}",
        message.subject,
        body(&message, "email")
    )
}

/// Without the ledger entry, which is the same each time.
fn check(about: About, expected: Expect) {
    let mail = mail(about);
    let lead = mail.split("\n\nLEDGER ENTRY").next().unwrap();
    expected.assert_eq(lead);
}

fn opt_out(resource: &str, value: Option<&str>) -> About {
    opt_out_as(OPT_OUT_TAG, resource, value)
}

fn opt_out_as(key: &str, resource: &str, value: Option<&str>) -> About {
    let tags = value.map(|value| (key.to_owned(), value.to_owned()));
    let tags = tags.into_iter().collect();
    let today = "2026-11-24".parse().unwrap();
    let mut actor = found(Vec::new()).head.actor;
    actor.event_name = Some(
        if value.is_some() {
            "CreateTags"
        } else {
            "DeleteTags"
        }
        .to_owned(),
    );
    About::OptOutChanged(OptOutChanged {
        resource: resource.to_owned(),
        key: (key != OPT_OUT_TAG).then(|| key.to_owned()),
        value: value.map(str::to_owned),
        means: ControlId::ALL
            .iter()
            .filter(|control| control.reads_tags_of(resource))
            .map(|control| {
                (
                    *control,
                    read(&tags, *control, today, &OptOutRules::default()),
                )
            })
            .filter(|(_, means)| *means != Exemption::None)
            .collect(),
        actor,
    })
}

const GROUP: &str = "sg-0123456789abcdef0";

#[test]
fn an_opt_out_that_was_set_is_told_with_who_what_and_until_when() {
    let about = opt_out(
        GROUP,
        Some("open-ingress until=2027-01-31 owner=team-web reason=vendor audit"),
    );
    // The whole mail, once.
    expect![[r#"
        Subject: [Backstop] OPT-OUT SET: sg-0123456789abcdef0 is exempt from open-ingress and 1 more until 2027-0...

        OPT-OUT SET: sg-0123456789abcdef0 is exempt from open-ingress and 1 more until 2027-01-31
        Account 111122223333, eu-central-1. Team: unowned. Control: -.

        What changed
        - The tag backstop:opt-out of sg-0123456789abcdef0 is now `open-ingress until=2027-01-31 owner=team-web reason=vendor audit`.

        What it means
        - open-ingress changes nothing here until 2027-01-31, by team-web: vendor audit.
        - default-security-group changes nothing here until 2027-01-31, by team-web: vendor audit.

        Who did it, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: CreateTags, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to end the opt-out
        - If it is not meant to be, remove the tag: aws ec2 delete-tags --region eu-central-1 --resources sg-0123456789abcdef0 --tags '[{"Key":"backstop:opt-out"}]'

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(about));
}

#[test]
fn an_opt_out_without_an_end_on_a_vpc_is_told_as_worse() {
    let about = opt_out("vpc-0123456789abcdef0", Some("all"));
    assert_eq!(of(&notice(about.clone())).attributes["severity"], "high");
    check(
        about,
        expect![[r#"
            Subject: [Backstop] OPT-OUT SET: vpc-0123456789abcdef0 is exempt from open-ingress and 2 more without an end

            OPT-OUT SET: vpc-0123456789abcdef0 is exempt from open-ingress and 2 more without an end
            Account 111122223333, eu-central-1. Team: unowned. Control: -.

            What changed
            - The tag backstop:opt-out of vpc-0123456789abcdef0 is now `all`.

            What it means
            - open-ingress changes nothing here without an end, by nobody named: no reason given.
            - default-security-group changes nothing here without an end, by nobody named: no reason given.
            - public-subnet changes nothing here without an end, by nobody named: no reason given.
            - It is the tag of a VPC: all its security groups and subnets are concerned.

            Who did it, as the event states
            - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
            - Call: CreateTags, 2026-11-24 09:59:56 UTC
            - From: 198.51.100.7
            - With: aws-cli/2.31.0

            How to end the opt-out
            - If it is not meant to be, remove the tag: aws ec2 delete-tags --region eu-central-1 --resources vpc-0123456789abcdef0 --tags '[{"Key":"backstop:opt-out"}]'"#]],
    );
}

#[test]
fn an_opt_out_that_was_removed_is_told() {
    check(
        opt_out(GROUP, None),
        expect![[r#"
        Subject: [Backstop] OPT-OUT REMOVED: sg-0123456789abcdef0 carries none any more and is checked again

        OPT-OUT REMOVED: sg-0123456789abcdef0 carries none any more and is checked again
        Account 111122223333, eu-central-1. Team: unowned. Control: -.

        What changed
        - The tag backstop:opt-out of sg-0123456789abcdef0 is gone.

        What it means
        - Nothing on sg-0123456789abcdef0 itself holds a control back any more.
        - What it protected is looked at now, and put right if it is open and nothing else excludes it.

        Who did it, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DeleteTags, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out again
        - If it was removed by mistake: tag sg-0123456789abcdef0 with the key backstop:opt-out and `all` or control names joined by `+`, then optionally `until=YYYY-MM-DD`, `owner=…`, `reason=…`."#]],
    );
}

#[test]
fn an_unreadable_opt_out_is_told_with_the_spelling() {
    check(
        opt_out(GROUP, Some("open-ingres until=2027-01-31")),
        expect![[r#"
            Subject: [Backstop] OPT-OUT UNREADABLE: sg-0123456789abcdef0 is held until the tag is put right

            OPT-OUT UNREADABLE: sg-0123456789abcdef0 is held until the tag is put right
            Account 111122223333, eu-central-1. Team: unowned. Control: -.

            What changed
            - The tag backstop:opt-out of sg-0123456789abcdef0 is now `open-ingres until=2027-01-31`.

            What it means
            - open-ingress changes nothing here, because the tag cannot be read: `open-ingres` is neither `all` nor the name of a control.
            - default-security-group changes nothing here, because the tag cannot be read: `open-ingres` is neither `all` nor the name of a control.

            Who did it, as the event states
            - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
            - Call: CreateTags, 2026-11-24 09:59:56 UTC
            - From: 198.51.100.7
            - With: aws-cli/2.31.0

            How to put it right
            - Write it as `all` or control names joined by `+`, then optionally `until=YYYY-MM-DD`, `owner=…`, `reason=…`. Nothing is changed meanwhile.
            - Or remove the tag: aws ec2 delete-tags --region eu-central-1 --resources sg-0123456789abcdef0 --tags '[{"Key":"backstop:opt-out"}]'"#]],
    );
}

#[test]
fn a_key_in_another_spelling_is_told_with_the_right_one_and_how_to_remove_it() {
    check(
        opt_out_as("Backstop:Opt-Out", GROUP, Some("all")),
        expect![[r#"
            Subject: [Backstop] OPT-OUT UNREADABLE: sg-0123456789abcdef0 is held until the tag is put right

            OPT-OUT UNREADABLE: sg-0123456789abcdef0 is held until the tag is put right
            Account 111122223333, eu-central-1. Team: unowned. Control: -.

            What changed
            - The tag Backstop:Opt-Out of sg-0123456789abcdef0 is now `all`.

            What it means
            - open-ingress changes nothing here, because the tag cannot be read: its key is `Backstop:Opt-Out`; use `backstop:opt-out` and remove this one.
            - default-security-group changes nothing here, because the tag cannot be read: its key is `Backstop:Opt-Out`; use `backstop:opt-out` and remove this one.

            Who did it, as the event states
            - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
            - Call: CreateTags, 2026-11-24 09:59:56 UTC
            - From: 198.51.100.7
            - With: aws-cli/2.31.0

            How to put it right
            - Tag sg-0123456789abcdef0 with the key backstop:opt-out and `all` or control names joined by `+`, then optionally `until=YYYY-MM-DD`, `owner=…`, `reason=…`. While the other spelling is there, nothing is changed.
            - Then, or if it is to be remediated, remove the tag: aws ec2 delete-tags --region eu-central-1 --resources sg-0123456789abcdef0 --tags '[{"Key":"Backstop:Opt-Out"}]'"#]],
    );
}

#[test]
fn an_opt_out_that_is_over_when_it_is_set_is_told() {
    check(
        opt_out(GROUP, Some("open-ingress until=2026-01-31 owner=team-web")),
        expect![[r#"
            Subject: [Backstop] OPT-OUT ENDED: the tag of sg-0123456789abcdef0 held until 2026-01-31, it is checked a...

            OPT-OUT ENDED: the tag of sg-0123456789abcdef0 held until 2026-01-31, it is checked again
            Account 111122223333, eu-central-1. Team: unowned. Control: -.

            What changed
            - The tag backstop:opt-out of sg-0123456789abcdef0 is now `open-ingress until=2026-01-31 owner=team-web`.

            What it means
            - open-ingress is not held back: the opt-out has ended, it held until 2026-01-31, by team-web: no reason given.
            - default-security-group is not held back: the opt-out has ended, it held until 2026-01-31, by team-web: no reason given.
            - What it protected is looked at now, and put right if it is open and nothing else excludes it.

            Who did it, as the event states
            - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
            - Call: CreateTags, 2026-11-24 09:59:56 UTC
            - From: 198.51.100.7
            - With: aws-cli/2.31.0

            How to end the opt-out
            - If it is not meant to be, remove the tag: aws ec2 delete-tags --region eu-central-1 --resources sg-0123456789abcdef0 --tags '[{"Key":"backstop:opt-out"}]'"#]],
    );
}

#[test]
fn a_control_that_tripped_says_what_stays_open_and_how_to_re_arm_it() {
    check(
        About::ControlTripped(ControlTripped {
            control: ControlId::OpenIngress,
            changes_per_hour: 20,
            resource: format!("arn:aws:ec2:eu-central-1:111122223333:security-group/{GROUP}"),
            changes: 3,
            at: at(),
        }),
        expect![[r#"
            Subject: [Backstop] TRIPPED: open-ingress changes nothing more until a person re-arms it

            TRIPPED: open-ingress changes nothing more until a person re-arms it
            Account 111122223333, eu-central-1. Team: unowned. Control: open-ingress.

            What happened
            - 3 changes to arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0 would have exceeded the budget of open-ingress: 20 changes in a clock hour (UTC).
            - It tripped at 2026-11-24 10:00:00 UTC.
            - A wrong policy, or somebody who opens many resources at once, looks like this.

            What stays open
            - arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0, and everything that open-ingress finds from now on.
            - Each critical finding is told by itself. The others are only recorded: the digest of the next sweep lists them, `backstop scan` shows them now.

            How to go on
            - Find the cause first: `backstop history` shows what was changed and who had opened it.
            - Then: backstop re-arm open-ingress
            - The next sweep puts right what is still open, and ends the alarm."#]],
    );
}

#[test]
fn an_event_that_was_given_up_is_told_with_its_error_and_how_to_run_it_again() {
    check(
        About::EventFailed(EventFailed {
            message: "0a1b2c3d-5e6f-4a1b-9c8d-7e6f5a4b3c2d".to_owned(),
            function: Some("backstop-RevokeIngressFunction-Ab12".to_owned()),
            event: format!("AuthorizeSecurityGroupIngress {GROUP}"),
            error: Some("RevokeSecurityGroupIngress: UnauthorizedOperation: no".to_owned()),
            failed_at: Some("2026-11-24T10:05:00.000Z".to_owned()),
        }),
        expect![[r#"
            Subject: [Backstop] EVENT FAILED: AuthorizeSecurityGroupIngress sg-0123456789abcdef0, given up by backsto...

            EVENT FAILED: AuthorizeSecurityGroupIngress sg-0123456789abcdef0, given up by backstop-RevokeIngressFunction-Ab12
            Account 111122223333, eu-central-1. Team: unowned. Control: -.

            What happened
            - AuthorizeSecurityGroupIngress sg-0123456789abcdef0 is for the function backstop-RevokeIngressFunction-Ab12 and was given up at 2026-11-24T10:05:00.000Z: RevokeSecurityGroupIngress: UnauthorizedOperation: no.

            What it means
            - What it was about may be as it was: a port open to the world, a volume unencrypted, an instance unpatched. Or a message was not sent.

            How to go on
            - Look at all of them: backstop failed list
            - Once the cause is gone: backstop failed redrive 0a1b2c3d-5e6f-4a1b-9c8d-7e6f5a4b3c2d
            - The event is kept for 14 days. It is not told again."#]],
    );
    check(
        About::EventFailed(EventFailed {
            message: "0a1b2c".to_owned(),
            function: None,
            event: "a message that cannot be read".to_owned(),
            error: Some("it is not JSON".to_owned()),
            failed_at: None,
        }),
        expect![[r#"
            Subject: [Backstop] EVENT FAILED: a message that cannot be read

            EVENT FAILED: a message that cannot be read
            Account 111122223333, eu-central-1. Team: unowned. Control: -.

            What happened
            - A message in the queue of failed events cannot be read: it is not JSON.

            What it means
            - What it was about may be as it was: a port open to the world, a volume unencrypted, an instance unpatched. Or a message was not sent.

            How to go on
            - Look at all of them: backstop failed list
            - Once the cause is gone: backstop failed redrive 0a1b2c
            - The event is kept for 14 days. It is not told again."#]],
    );
}

#[test]
fn a_digest_says_what_is_open_and_why_and_what_was_not_seen() {
    let open = |count, examples: &[&str]| Open {
        count,
        examples: examples.iter().map(ToString::to_string).collect(),
    };
    let digest = Digest {
        since: Some("2026-11-24T09:00:00Z".parse().unwrap()),
        looked_at: BTreeMap::from([(ControlId::OpenIngress, 1234)]),
        outcomes: BTreeMap::from([(
            ControlId::OpenIngress,
            BTreeMap::from([("failed".to_owned(), 1), ("remediated".to_owned(), 12)]),
        )]),
        open: BTreeMap::from([(
            ControlId::OpenIngress,
            BTreeMap::from([
                ("exempt".to_owned(), open(7, &["sg-1", "sg-2"])),
                ("failed".to_owned(), open(1, &["sg-9"])),
            ]),
        )]),
        met_first: open(2, &["sg-5", "sg-6"]),
        opt_outs: vec![OptOutSeen {
            resource: "sg-1".to_owned(),
            value: "open-ingress until=2026-11-28 owner=team-web reason=vendor audit".to_owned(),
            state: "ends soon".to_owned(),
            until: Some("2026-11-28".parse().unwrap()),
            owner: Some("team-web".to_owned()),
            why: Some("vendor audit".to_owned()),
        }],
        more_opt_outs: 4,
        kept: BTreeMap::new(),
        deleted: Open::default(),
        snapshots_deleted: Open::default(),
        of_others: BTreeMap::new(),
        resumed: 1,
        told: 2,
        unseen: vec!["DescribeManagedPrefixLists: UnauthorizedOperation: groups that name prefix lists were not judged".to_owned()],
    };
    check(
        About::Digest(Box::new(digest)),
        expect![[r#"
        Subject: [Backstop] DIGEST: 8 open, 2 met by the sweep first, 5 opt-outs to look at, 1 not seen

        DIGEST: 8 open, 2 met by the sweep first, 5 opt-outs to look at, 1 not seen
        Account 111122223333, eu-central-1. Team: unowned. Control: -.

        What is open, and why
        - open-ingress, exempt: 7 (sg-1, sg-2 and 5 more)
        - open-ingress, failed: 1 (sg-9)

        What could not be seen
        - DescribeManagedPrefixLists: UnauthorizedOperation: groups that name prefix lists were not judged

        Met by the sweep before any event
        - 2 (sg-5, sg-6). No event had led to them: see whether the trail logs management events here (backstop doctor).

        Opt-outs that ended, end soon or cannot be read
        - sg-1 ends soon (until 2026-11-28, by team-web): vendor audit. Its value: `open-ingress until=2026-11-28 owner=team-web reason=vendor audit`
        - and 4 more: backstop opt-outs

        What was done
        - Since 2026-11-24 09:00:00 UTC, open-ingress: 1 failed, 12 remediated
        - 1234 resources looked at for open-ingress
        - 1 run taken up again that had been cut off
        - 2 entries told now, because nobody had been told

        How to go on
        - backstop history RESOURCE says why something is left open.
        - Ask the owners to renew, end or correct their opt-outs.
        - Remove the cause of what could not be seen: it may hide something open."#]],
    );
    check(
        About::Digest(Box::default()),
        expect![[r#"
        Subject: [Backstop] DIGEST: 0 open

        DIGEST: 0 open
        Account 111122223333, eu-central-1. Team: unowned. Control: -.

        How to go on
        - There is nothing to do."#]],
    );
}

#[test]
fn health_names_each_check_that_failed_and_its_remedy() {
    let failed = |check: &str, found: &str, remedy: &str| FailedCheck {
        check: check.to_owned(),
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    };
    let health = Health {
        failed: vec![
            failed(
                "trail",
                "no trail of this account logs management writes in eu-central-1.",
                "create one, or switch its logging on",
            ),
            failed(
                "subscription",
                "nobody has confirmed a subscription",
                "confirm the mail of SNS",
            ),
        ],
    };
    check(
        About::Health(health),
        expect![[r#"
        Subject: [Backstop] UNHEALTHY: Backstop may not see or tell everything: trail, subscription

        UNHEALTHY: Backstop may not see or tell everything: trail, subscription
        Account 111122223333, eu-central-1. Team: unowned. Control: -.

        What is out of order
        - trail: no trail of this account logs management writes in eu-central-1.
        - subscription: nobody has confirmed a subscription.

        How to put it in order
        - trail: create one, or switch its logging on.
        - subscription: confirm the mail of SNS.
        - Then: backstop doctor"#]],
    );
    check(
        About::Health(Health::default()),
        expect![[r#"
        Subject: [Backstop] HEALTHY: every check of Backstop itself passes again

        HEALTHY: every check of Backstop itself passes again
        Account 111122223333, eu-central-1. Team: unowned. Control: -.

        What was found
        - Nothing is out of order any more. There is nothing to do."#]],
    );
}

fn storm(outcome: &str, count: u64, shown: usize, teams: &[&str], after: bool) -> About {
    About::Storm(Storm {
        control: "open-ingress".to_owned(),
        outcome: outcome.to_owned(),
        count,
        examples: (0..shown)
            .map(|i| (format!("sg-{i}"), format!("01KAT5J3V0QZ8Y2N4M6P8R0T2{i}")))
            .collect(),
        since: at(),
        severity: Some(Severity::Critical),
        teams: teams
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>(),
        after,
        fight: false,
    })
}

#[test]
fn a_storm_is_one_message_with_a_count() {
    check(
        storm("remediated", 12, 3, &["team-db", "team-web"], false),
        expect![[r#"
            Subject: [Backstop] STORM critical: open-ingress remediated, 12 times

            STORM critical: open-ingress remediated, 12 times
            Account 111122223333, eu-central-1. Team: team-db, team-web. Control: open-ingress.

            What happened
            - 12 entries came to the outcome `remediated`, the first at 2026-11-24 10:00:00 UTC.
            - They are told as one. Further ones are only counted for 15 minutes; the next sweep after that tells how many.

            Which they are
            - sg-0, entry 01KAT5J3V0QZ8Y2N4M6P8R0T20
            - sg-1, entry 01KAT5J3V0QZ8Y2N4M6P8R0T21
            - sg-2, entry 01KAT5J3V0QZ8Y2N4M6P8R0T22
            - and 9 more: backstop history shows them

            How to go on
            - Find out who is behind it: backstop history RESOURCE names the caller of each. One that is meant to be: backstop undo ENTRY."#]],
    );
    check(
        storm("failed", 6, 6, &[], false),
        expect![[r#"
            Subject: [Backstop] STORM critical: open-ingress failed, 6 times

            STORM critical: open-ingress failed, 6 times
            Account 111122223333, eu-central-1. Team: unowned. Control: open-ingress.

            What happened
            - 6 entries came to the outcome `failed`, the first at 2026-11-24 10:00:00 UTC.
            - They are told as one. Further failures are told as well.

            Which they are
            - sg-0, entry 01KAT5J3V0QZ8Y2N4M6P8R0T20
            - sg-1, entry 01KAT5J3V0QZ8Y2N4M6P8R0T21
            - sg-2, entry 01KAT5J3V0QZ8Y2N4M6P8R0T22
            - sg-3, entry 01KAT5J3V0QZ8Y2N4M6P8R0T23
            - sg-4, entry 01KAT5J3V0QZ8Y2N4M6P8R0T24
            - sg-5, entry 01KAT5J3V0QZ8Y2N4M6P8R0T25

            How to go on
            - They may still be open. Look for the cause they share in the first entry (backstop history RESOURCE); close them by hand if no message says that they are fixed."#]],
    );
}

#[test]
fn what_came_after_a_storm_was_told_is_told_as_a_number() {
    check(
        storm("remediated", 40, 0, &["team-web"], true),
        expect![[r#"
            Subject: [Backstop] STORM critical: open-ingress remediated, 40 more times

            STORM critical: open-ingress remediated, 40 more times
            Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

            What happened
            - 40 more entries came to the outcome `remediated`, the first at 2026-11-24 10:00:00 UTC.
            - They came after the storm had been told, and were counted and not told one by one.

            Which they are
            - Not listed here: backstop history shows them.

            How to go on
            - Find out who is behind it: backstop history RESOURCE names the caller of each. One that is meant to be: backstop undo ENTRY."#]],
    );
}

#[test]
fn a_storm_is_addressed_to_every_team_and_by_the_outcome_it_is_about() {
    let attributes = |teams: &[&str]| of(&notice(storm("failed", 6, 6, teams, false))).attributes;
    assert_eq!(attributes(&["a", "b"])["team"], r#"["a","b"]"#);
    assert!(is_list(&attributes(&["a", "b"])["team"]));
    for text in ["a", "", "[a]", "[]", "[1]"] {
        assert!(!is_list(text), "{text}");
    }
    assert_eq!(attributes(&["a"])["team"], "a");
    assert_eq!(attributes(&[])["team"], "unowned");
    let all = attributes(&[]);
    assert_eq!(all["outcome"], "failed");
    assert_eq!(all["severity"], "critical");
    assert_eq!(all["control"], "open-ingress");
}

#[test]
fn programs_get_notices_as_their_schema_says() {
    for about in each("text", 3) {
        let document: Value = serde_json::from_str(&body(&of(&notice(about)), "sqs")).unwrap();
        assert!(NOTICE.is_valid(&document), "{document:#}");
        let read: NoticeNotification = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), document);
        for (field, wrong) in [
            ("version", serde_json::json!(2)),
            ("kind", serde_json::json!("entry")),
            ("about", serde_json::json!({ "topic": "poem" })),
        ] {
            let mut document = document.clone();
            document[field] = wrong;
            assert!(!NOTICE.is_valid(&document), "{field}");
        }
    }
}

/// The instance, its entry and the way back; once for an entry, however many more
/// there are by the next sweep.
#[test]
fn requests_that_an_instance_refused_are_told_with_the_entry_and_the_undo() {
    let refused = |requests| {
        notice(About::RequestsRefused(RequestsRefused {
            control: ControlId::ImdsV1,
            resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-0a3f5c7e91b2d4f60"
                .to_owned(),
            remediation: "01KAT5J3V0QZ8Y2N4M6P8R0T1A".to_owned(),
            since: at(),
            requests,
            team: Some("web".to_owned()),
        }))
    };
    let message = of(&refused(12));
    assert_eq!(
        message.subject,
        "[Backstop] REFUSED: i-0a3f5c7e91b2d4f60 refused 12 requests since it requires IMDSv2"
    );
    assert_eq!(message.attributes["team"], "web");
    let mail = body(&message, "default");
    for part in [
        "entry 01KAT5J3V0QZ8Y2N4M6P8R0T1A",
        "MetadataNoTokenRejected",
        "backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T1A",
    ] {
        assert!(mail.contains(part), "{mail}");
    }
    let key = |requests| match refused(requests) {
        Record::Notice(notice) => notice.message_key(),
        other => panic!("{other:?}"),
    };
    assert_eq!(key(12), key(900));
}
