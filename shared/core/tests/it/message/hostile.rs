//! What other people's texts cannot do to a message: break the subject, the
//! layout or the size.

use std::collections::BTreeMap;

use backstop_core::exemption::{Exemption, OptOut};
use backstop_core::message::Message;
use backstop_core::message::of;
use backstop_core::plan::{Disposition, Ending, Outcome, Step, Unjudged, Verification, Without};
use backstop_core::ports::Permission;
use backstop_core::security_group::{IngressRule, Source};
use backstop_core::words::{Actor, Status};
use expect_test::expect;
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::Value;

use super::fixtures::{Change, Entry, body, compose, exposure, found, outcome, rule, ssh};
use super::notices::{each, notice};
use super::patchings;
use super::schemas::{NOTICE, NOTIFICATION, PATCHING};

/// What SNS takes.
const SNS_BYTES: usize = 256 * 1024;

const STATUSES: &[Status] = &[
    Status::InProgress,
    Status::Remediated,
    Status::Failed,
    Status::Notified,
    Status::Exempt,
    Status::Held,
    Status::NotOwned,
    Status::Existing,
    Status::Tripped,
    Status::Stopped,
];

/// What must hold for every message there is.
fn check(message: &Message) {
    check_against(message, &NOTIFICATION);
}

pub(crate) fn check_against(message: &Message, schema: &Validator) {
    let subject = &message.subject;
    assert!(!subject.is_empty() && subject.len() <= 99, "{subject}");
    assert!(
        subject.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
        "{subject}"
    );
    assert!(subject.starts_with("[Backstop] "), "{subject}");

    assert_eq!(message.attributes.len(), 6);
    let mut bytes = subject.len() + message.body.len();
    for (key, value) in &message.attributes {
        assert!(!value.trim().is_empty(), "{key}");
        assert!(!value.chars().any(char::is_control), "{key}");
        bytes += key.len() + "String".len() + value.len();
    }
    assert!(bytes < SNS_BYTES, "{bytes} bytes");

    // Read once: this is called hundreds of times, with a message as large as
    // they get.
    let bodies: Value = serde_json::from_str(&message.body).unwrap();
    let body = |protocol: &str| bodies[protocol].as_str().unwrap();
    let mail = body("email");
    assert!(
        !mail.chars().any(|c| c.is_control() && c != '\n'),
        "{mail:?}"
    );
    assert!(
        !mail.contains(['\u{202e}', '\u{2028}', '\u{2066}']),
        "{mail:?}"
    );
    check_chat(&serde_json::from_str(body("https")).unwrap());
    let data: Value = serde_json::from_str(body("sqs")).unwrap();
    assert!(schema.is_valid(&data), "{data:#}");
}

fn check_chat(chat: &Value) {
    let short = |value: &Value, most: usize| {
        let text = value.as_str().unwrap();
        assert!(
            !text.is_empty() && text.chars().count() <= most,
            "{most}: {text}"
        );
    };
    assert_eq!(
        (&chat["version"], &chat["source"]),
        (&"1.0".into(), &"custom".into())
    );
    let content = &chat["content"];
    assert_eq!(content["textType"], "client-markdown");
    short(&content["title"], 250);
    short(&content["description"], 8000);
    content["nextSteps"]
        .as_array()
        .unwrap()
        .iter()
        .for_each(|step| short(step, 300));
    content["keywords"]
        .as_array()
        .unwrap()
        .iter()
        .for_each(|word| short(word, 75));
    short(&chat["metadata"]["summary"], 250);
    for value in chat["metadata"]["additionalContext"]
        .as_object()
        .unwrap()
        .values()
    {
        assert!(value.is_string());
    }
}

/// An entry whose every text is `text`.
fn made_of(text: &str, status: Status, rules: usize) -> Entry {
    let t = || text.to_owned();
    let opt_out = || OptOut {
        until: None,
        owner: Some(t()),
        reason: Some(t()),
    };
    let mut entry = found(Vec::new());
    for i in 0..rules {
        let mut rule = rule(
            &format!("{text}{i}"),
            Permission::new(text, 1, 2),
            Source::Ipv4(t()),
        );
        rule.description = Some(t());
        rule.tags = BTreeMap::from([(t(), t())]);
        let mut exposure = exposure(&rule, &[text], &[text]);
        exposure.exemption = match i % 4 {
            0 => Exemption::None,
            1 => Exemption::Exempt(opt_out()),
            2 => Exemption::Ended(opt_out()),
            _ => Exemption::Malformed {
                value: t(),
                problem: t(),
                key: None,
                longest_days: None,
            },
        };
        exposure.unjudged = match i % 5 {
            0 => Some(Unjudged::PrefixList {
                id: t(),
                owner: Some(t()),
                why: t(),
            }),
            1 => Some(Unjudged::Entries {
                id: t(),
                owner: None,
                entries: vec![t(); 3],
            }),
            2 => Some(Unjudged::Block { block: t() }),
            _ => None,
        };
        entry.detail.exposures.push(exposure);
        let with = |port| IngressRule {
            permission: Permission::new(text, port, port),
            ..rule.clone()
        };
        entry.detail.plan.changes.push(Change {
            after: (i % 2 == 0).then(|| with(1)),
            add: vec![with(2)],
            lost: vec![t()],
            ..Change::remove(&rule.id, rule.clone())
        });
        let failed = Ending::Failed {
            retryable: true,
            operation: t(),
            code: t(),
            message: t(),
        };
        let steps = [
            (
                Step::Authorise,
                if i % 3 == 0 {
                    Ending::Done
                } else {
                    Ending::Skipped { why: t() }
                },
            ),
            (Step::Narrow, if i % 5 == 0 { failed } else { Ending::Done }),
        ];
        entry
            .detail
            .outcomes
            .extend(steps.map(|(step, ending)| Outcome {
                permission: Some(Permission::new(text, 1, 1)),
                created: Some(t()),
                without: Some(Without {
                    tags: true,
                    description: true,
                    why: t(),
                }),
                ..outcome(&rule, step, ending)
            }));
    }
    entry.head.id = t();
    entry.head.resource = t();
    entry.head.resource_name = t();
    entry.head.account = t();
    entry.head.region = t();
    entry.head.team = Some(t());
    entry.head.status = status;
    entry.head.exemption = Exemption::Malformed {
        value: t(),
        problem: t(),
        key: None,
        longest_days: None,
    };
    entry.detail.plan.disposition = Disposition::Enforce;
    entry.detail.plan.reasons = vec![t(); rules];
    entry.detail.before = entry.detail.plan.before();
    entry.detail.verification = Some(Verification {
        remaining: vec![t(); rules],
        not_as_planned: vec![t(); rules],
        by_others: vec![t(); rules],
        not_visible_yet: vec![t(); rules],
        unread: Some(t()),
    });
    entry.head.actor = Actor {
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
    entry
}

#[test]
fn a_thousand_rules_fit() {
    for text in [
        "x".repeat(255),
        "\"\\'".repeat(85),
        "\u{1}😀".repeat(127),
        "ab ".repeat(85),
    ] {
        let mut entry = made_of(&text, Status::InProgress, 1000);
        for status in STATUSES {
            entry.head.status = *status;
            let message = compose(&entry);
            check(&message);
            let mail = body(&message, "email");
            assert!(mail.contains(" more, see the ledger entry"), "{mail}");
        }
    }
}

#[test]
fn texts_that_are_far_too_long_fit() {
    for text in ["x".repeat(5000), "\"\\".repeat(2500), "😀".repeat(5000)] {
        for status in STATUSES {
            check(&compose(&made_of(&text, *status, 3)));
        }
    }
}

#[test]
fn notices_fit_however_much_is_in_them() {
    for text in [
        "x".repeat(1000),
        "\"\\".repeat(500),
        "😀".repeat(1000),
        String::new(),
    ] {
        for items in [0, 1, 200] {
            for about in each(&text, items) {
                check_against(&of(&notice(about)), &NOTICE);
            }
        }
    }
}

#[test]
fn what_is_left_out_is_counted() {
    let message = compose(&made_of("text", Status::Remediated, 1000));
    let data: Value = serde_json::from_str(&body(&message, "sqs")).unwrap();
    for list in ["exposures", "changes"] {
        let told = data[list].as_array().unwrap().len();
        assert_eq!(
            told as u64 + data["omitted"][list].as_u64().unwrap(),
            1000,
            "{list}"
        );
    }
}

#[test]
fn an_entry_with_nothing_in_it_is_told_all_the_same() {
    for status in STATUSES {
        check(&compose(&made_of("", *status, 0)));
        check(&compose(&made_of("", *status, 1)));
    }
}

#[test]
fn a_rule_that_cannot_be_read_costs_a_line_and_not_the_message() {
    let mut second = ssh();
    second.id = "sgr-0bbbbbbbbbbbbbbbb".to_owned();
    let exposures = [
        exposure(&ssh(), &["tcp 22"], &[]),
        exposure(&second, &["udp 53"], &[]),
    ];
    let mut entry = found(exposures.into()).erased().unwrap();
    entry.head.status = Status::Remediated;
    entry.detail.exposures[1].state["source"] = "of another release".into();
    let message = backstop_core::message::compose(&entry);
    check(&message);
    assert_eq!(
        message.subject,
        "[Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22"
    );
    let unread = "sgr-0bbbbbbbbbbbbbbbb: this release cannot read it, see the ledger entry";
    assert!(body(&message, "email").contains(unread));
    let data: Value = serde_json::from_str(&body(&message, "sqs")).unwrap();
    assert_eq!(data["items"][1]["what"], unread);
    assert_eq!(data["omitted"]["exposures"], 1);
}

#[test]
fn no_name_takes_the_ports_out_of_the_subject() {
    let ports: Vec<String> = (1..40).map(|port| format!("tcp {port}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let mut subjects = String::new();
    for name in [
        "web",
        "größer 東京",
        "a very long name of a group",
        "",
        "sg-0123456789abcdef0",
    ] {
        for exposed in [
            &["tcp 22"],
            &["tcp 22", "udp 53", "all icmp", "tcp 5000-6000"][..],
            &ports,
        ] {
            let mut entry = found(vec![exposure(&ssh(), exposed, &[])]);
            entry.head.resource_name = name.to_owned();
            for status in [Status::Failed, Status::Remediated] {
                entry.head.status = status;
                subjects += &format!("{}\n", compose(&entry).subject);
            }
        }
    }
    expect![[r#"
        [Backstop] FAILED critical: sg-0123456789abcdef0 (web) may be open to the world on tcp 22
        [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22 and 3 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22, udp 53 and 2 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 1 and 38 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 1, tcp 2 and 37 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 (gr??er ??) may be open to the world on tcp 22
        [Backstop] FIXED critical: sg-0123456789abcdef0 (gr??er ??) was open to the world on tcp 22
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22 and 3 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22, udp 53 and 2 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 1 and 38 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 1, tcp 2 and 37 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 (a very...) may be open to the world on tcp 22
        [Backstop] FIXED critical: sg-0123456789abcdef0 (a very long...) was open to the world on tcp 22
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22 and 3 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22, udp 53 and 2 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 1 and 38 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 1, tcp 2 and 37 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22 and 3 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22, udp 53 and 2 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 1 and 38 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 1, tcp 2 and 37 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 22 and 3 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 22, udp 53 and 2 more
        [Backstop] FAILED critical: sg-0123456789abcdef0 may be open to the world on tcp 1 and 38 more
        [Backstop] FIXED critical: sg-0123456789abcdef0 was open to the world on tcp 1, tcp 2 and 37 more
    "#]].assert_eq(&subjects);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_breaks_a_message(text in any::<String>(), status in 0..STATUSES.len(), rules in 0_usize..6) {
        check(&compose(&made_of(&text, STATUSES[status], rules)));
    }

    #[test]
    fn no_text_breaks_a_notice(text in any::<String>(), items in 0_usize..6) {
        for about in each(&text, items) {
            check_against(&of(&notice(about)), &NOTICE);
        }
    }

    #[test]
    fn no_text_breaks_a_message_about_a_patching(
        text in any::<String>(),
        status in 0..patchings::STATUSES.len(),
        shape in 0..patchings::SHAPES.len(),
        items in 0_usize..6,
        ended in any::<bool>(),
    ) {
        let status = patchings::STATUSES[status];
        let run = patchings::made_of(&text, status, patchings::SHAPES[shape], items, ended);
        check_against(&patchings::message(&run), &PATCHING);
    }

    #[test]
    fn no_name_breaks_a_subject(name in any::<String>(), id in ".{0,200}", ports in proptest::collection::vec(".{0,60}", 0..80)) {
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        for status in STATUSES {
            let mut entry = found(vec![exposure(&ssh(), &ports, &[])]);
            entry.head.resource_name = name.clone();
            entry.head.resource = format!("arn:{id}");
            entry.head.status = *status;
            check(&compose(&entry));
        }
    }
}
