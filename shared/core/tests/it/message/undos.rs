//! Messages about undos.

use std::collections::BTreeMap;

use backstop_core::message::{UndoNotification, of};
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::record::Record;
use backstop_core::undo::{Undo, UndoStatus};
use backstop_core::words::ControlId;
use expect_test::expect;
use serde_json::Value;

use super::fixtures::body;

fn undo() -> Undo {
    Undo {
        version: 1,
        id: "01KAT6AAAAAAAAAAAAAAAAAAAA".to_owned(),
        undoes: "01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned(),
        control: ControlId::OpenIngress,
        resource: "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0"
            .to_owned(),
        resource_name: "web".to_owned(),
        account: "111122223333".to_owned(),
        region: "eu-central-1".to_owned(),
        team: Some("team-web".to_owned()),
        status: UndoStatus::Undone,
        reason: "vendor access until Friday".to_owned(),
        by: Some("jo@example.com".to_owned()),
        opt_out_until: jiff::civil::date(2026, 12, 1),
        restored: vec![
            "sgr-1 (tcp 22 from 0.0.0.0/0) was authorised again".to_owned(),
            "sgr-2 (tcp 0-1024 from ::/0) was widened to what it was".to_owned(),
        ],
        planned: Vec::new(),
        before: BTreeMap::new(),
        outcomes: Vec::new(),
        problems: Vec::new(),
        attempts: 1,
        started_at: "2026-11-24T11:00:00Z".parse().unwrap(),
        finished_at: Some("2026-11-24T11:00:01Z".parse().unwrap()),
    }
}

#[test]
fn undone_says_who_why_what_and_until_when() {
    let message = of(&Record::Undo(Box::new(undo())));
    expect!["[Backstop] UNDONE: sg-0123456789abcdef0 (web) is as it was before the remediation 01KAT5J3V0QZ8Y..."]
        .assert_eq(&message.subject);
    expect![[r#"
        UNDONE: sg-0123456789abcdef0 (web) is as it was before the remediation 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        Who asked for it, as stated
        - Who: jo@example.com
        - Why: vendor access until Friday

        What was put back
        - sgr-1 (tcp 22 from 0.0.0.0/0) was authorised again.
        - sgr-2 (tcp 0-1024 from ::/0) was widened to what it was.

        How to keep it, or to end it
        - What was put back is opted out until 2026-12-01; after that it is closed again.
        - To keep it longer, change `until=` in the tag backstop:opt-out of the rules; to end it now, remove the tag.

        LEDGER ENTRY 01KAT6AAAAAAAAAAAAAAAAAAAA
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT6AAAAAAAAAAAAAAAAAAAA"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&body(&message, "email"));
    assert_eq!(message.attributes["outcome"], "undone");
    assert!(message.attributes.values().all(|value| !value.is_empty()));
}

#[test]
fn what_failed_comes_first_and_says_how_to_go_on() {
    let mut undo = undo();
    undo.status = UndoStatus::UndoFailed;
    undo.problems =
        vec!["sgr-1: FAILED: AuthorizeSecurityGroupIngress: UnauthorizedOperation: no".to_owned()];
    let message = of(&Record::Undo(Box::new(undo)));
    let mail = body(&message, "email");
    for part in [
        "UNDO FAILED",
        "What failed\n- sgr-1: FAILED: AuthorizeSecurityGroupIngress",
        "backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W",
    ] {
        assert!(mail.contains(part), "{part} is missing in\n{mail}");
    }
}

#[test]
fn a_failed_undo_lists_as_put_back_only_what_was() {
    let step = |item: &str, step, ending| Outcome {
        round: 1,
        item: item.to_owned(),
        step,
        permission: None,
        created: None,
        without: None,
        ending,
    };
    let denied = || Ending::Failed {
        retryable: false,
        operation: "AuthorizeSecurityGroupIngress".to_owned(),
        code: "UnauthorizedOperation".to_owned(),
        message: "no".to_owned(),
    };
    let back = |items: &[&str]| items.iter().map(|id| (*id).to_owned()).collect();
    // Read again; not read again, so that the steps count.
    for (back, restored, planned) in [
        (Some(back(&["sgr-2", "sgr-3"])), "sgr-2 sgr-3", "sgr-1"),
        (Some(back(&[])), "", "sgr-1 sgr-2"),
        (None, "sgr-2 sgr-3", "sgr-1"),
    ] {
        let mut undo = undo();
        undo.status = UndoStatus::UndoFailed;
        undo.restored
            .push("sgr-3 (tcp 80 from 0.0.0.0/0) was as before already".to_owned());
        undo.planned = vec![
            "sgr-1 (tcp 22 from 0.0.0.0/0) is to be authorised again".to_owned(),
            "sgr-2 (tcp 0-1024 from ::/0) is to be widened to what it was".to_owned(),
        ];
        undo.outcomes = vec![
            step("sgr-2", Step::Tag, Ending::Done),
            step("sgr-2", Step::Widen, Ending::Done),
            step("sgr-1", Step::Authorise, denied()),
        ];
        undo.keep_done(back.as_ref());
        let message = of(&Record::Undo(Box::new(undo)));
        let json: Value = serde_json::from_str(&body(&message, "lambda")).unwrap();
        let items = |field: &str| {
            let lines = json[field].as_array().cloned().unwrap_or_default();
            let lines = lines.iter().map(|line| line.as_str().unwrap());
            let items = lines.map(|line| line.split(' ').next().unwrap().to_owned());
            items.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            (&*items("restored"), &*items("planned")),
            (restored, planned)
        );
        let mail = body(&message, "email");
        let (_, mail) = mail.split_once("What was put back\n").unwrap();
        let (done, left) = mail.split_once("What was to be put back\n").unwrap();
        assert_eq!(done.contains("Nothing."), restored.is_empty());
        assert!(!done.contains("sgr-1") && left.contains("sgr-1"), "{mail}");
    }
}

#[test]
fn an_undo_that_was_cut_off_lists_nothing_as_put_back() {
    let mut undo = undo();
    undo.status = UndoStatus::UndoInProgress;
    undo.planned = vec!["sgr-1 (tcp 22 from 0.0.0.0/0) is to be authorised again".to_owned()];
    let message = of(&Record::Undo(Box::new(undo)));
    let json: Value = serde_json::from_str(&body(&message, "lambda")).unwrap();
    assert_eq!(json["restored"], Value::Array(Vec::new()));
    let mail = body(&message, "email");
    assert!(!mail.contains("What was put back"), "{mail}");
    assert!(mail.contains("is to be authorised again"), "{mail}");
}

#[test]
fn programs_get_what_the_schema_says_and_texts_of_others_break_nothing() {
    let schema = jsonschema::validator_for(&UndoNotification::schema()).unwrap();
    let mut hostile = undo();
    hostile.reason = "a\r\nb\u{202e}".repeat(10_000);
    hostile.by = Some("<!channel> \u{0}".to_owned());
    hostile.resource_name = "x\ny".to_owned();
    hostile.team = Some(String::new());
    hostile.restored = vec!["z\n".repeat(5_000); 500];
    for undo in [undo(), hostile] {
        let message = of(&Record::Undo(Box::new(undo)));
        assert!(message.subject.len() < 100 && message.subject.is_ascii());
        assert!(message.body.len() < 250_000);
        assert!(message.attributes.values().all(|value| !value.is_empty()));
        assert!(!body(&message, "https").contains("<!"));
        let data: Value = serde_json::from_str(&body(&message, "sqs")).unwrap();
        assert!(schema.is_valid(&data), "{data:#}");
        let line = data["headline"].as_str().unwrap();
        assert!(!line.contains(['\n', '\r']));
    }
}

#[test]
fn an_undo_says_where_the_opt_out_stands_that_holds_it() {
    for (control, part) in [
        (ControlId::OpenIngress, "of the rules; to end it now"),
        (ControlId::PublicSnapshot, "of the snapshot; to end it now"),
        (
            ControlId::EncryptionByDefault,
            "The exemption in the policy holds it back (controls.encryption-by-default.settings.exemption)",
        ),
    ] {
        let undo = Undo { control, ..undo() };
        let mail = body(&of(&Record::Undo(Box::new(undo))), "email");
        assert!(mail.contains(part), "{mail}");
    }
}
