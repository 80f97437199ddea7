//! Messages about undos.

use std::collections::BTreeMap;

use backstop_core::message::{UndoNotification, of};
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
