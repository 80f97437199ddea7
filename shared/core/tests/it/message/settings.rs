//! Messages about `encryption-by-default`: the story of a control whose one item
//! is a setting of the account, which no tag can exempt.

use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::encryption_by_default::EncryptionByDefault;
use backstop_core::decide::{self, About, Circumstances, Decision};
use backstop_core::entry::Entry;
use backstop_core::exemption::Exemption;
use backstop_core::guards::{Fight, Guards, Trip};
use backstop_core::message::{Message, compose};
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::policy::{Governed, Policy};
use backstop_core::trigger::Trigger;
use backstop_core::words::{Actor, Mode, Status};
use expect_test::expect;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fixtures::body;
use super::hostile::check_against;
use super::schemas::NOTIFICATION;

const SETTING: &str = "encryption-by-default";

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn setting(is_on: bool) -> AccountSetting<bool> {
    AccountSetting::new(SETTING, "aws", "eu-central-1", "111122223333", is_on)
}

fn decided(
    setting: &AccountSetting<bool>,
    policy: &Policy,
    mode: Mode,
    guards: &Guards,
) -> Decision<bool> {
    let at = Circumstances {
        mode,
        account: "111122223333",
        now: now(),
        guards,
    };
    let rules = EncryptionByDefault::rules(policy);
    decide::decide::<EncryptionByDefault>(Some(setting), &rules, &at)
}

/// The entry of a run that found the setting off.
fn off(policy: &Policy, mode: Mode, guards: &Guards) -> Entry<bool> {
    let setting = setting(false);
    let trigger = Trigger {
        resource: "eu-central-1".into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor {
            principal: Some("arn:aws:sts::111122223333:assumed-role/developer/alice".into()),
            user_agent: Some("aws-cli/2.31.0".into()),
            source_address: Some("198.51.100.7".into()),
            event_name: Some("DisableEbsEncryptionByDefault".into()),
            event_time: Some("2026-11-24T09:59:56Z".parse().unwrap()),
            ..Actor::default()
        },
    };
    let decision = decided(&setting, policy, mode, guards);
    let about = About {
        id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
        trigger: &trigger,
        owner_tag: "owner",
        policy_version: 7,
        now: now(),
    };
    decide::entry::<EncryptionByDefault>(Some(&setting), &decision, about).unwrap()
}

fn enforced() -> Entry<bool> {
    off(&Policy::default(), Mode::Enforce, &Guards::default())
}

/// The entry after its one step, with the setting as it is then.
fn ended(ending: Ending, is_on: bool) -> Entry<bool> {
    let mut entry = enforced();
    entry.add_round([Outcome {
        round: 0,
        item: SETTING.into(),
        step: Step::Set,
        permission: None,
        created: None,
        without: None,
        ending,
    }]);
    let decision = decided(
        &setting(is_on),
        &Policy::default(),
        Mode::Enforce,
        &Guards::default(),
    );
    let items = |is_on| [(SETTING.to_owned(), is_on)].into();
    entry.detail.verification = Some(decide::verify::<EncryptionByDefault>(
        &entry,
        &items(false),
        &items(is_on),
        &decision,
    ));
    entry.conclude(&items(is_on), now());
    entry
}

fn message(entry: &Entry<bool>) -> Message {
    let message = compose(&entry.erased().unwrap());
    check_against(&message, &NOTIFICATION);
    message
}

fn mail(entry: &Entry<bool>) -> String {
    let message = message(entry);
    format!(
        "Subject: {}\n\n{}",
        message.subject,
        body(&message, "email")
    )
}

/// What a person reads first: the sections before the details.
fn lead(entry: &Entry<bool>) -> String {
    let mail = mail(entry);
    mail.split("\n\nDETAILS").next().unwrap().to_owned()
}

#[test]
fn remediated() {
    expect![[r#"
        Subject: [Backstop] FIXED medium: eu-central-1 (encryption by default in eu-central-1) was off

        FIXED medium: eu-central-1 (encryption by default in eu-central-1) was off
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What was off
        - encryption by default is off

        What was done
        - The setting was changed: encryption by default is on.
        - Looked again: new volumes are encrypted.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01M7SH8XYF6H0J2M4N8P7R3T1W --reason "why it must be off" puts everything back. Exempt it in the policy first, or it would be remediated again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail.
        - Volumes that were created encrypted meanwhile stay encrypted.

        How to opt out
        - An account has no tags; put this into the policy: {"controls": {"encryption-by-default": {"settings": {"exemption": {"until": "2027-02-22", "owner": "your-team", "reason": "why it must stay off"}}}}}

        Good to know
        - Volumes that were created while it was off stay unencrypted: unencrypted-volume finds them.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:encryption-by-default/eu-central-1
        Setting encryption-by-default: encryption by default is off
          change it: done
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 7

        PUT IT BACK
        Only if it is meant to be off. For bash or zsh, one after the other. Exempt it in the policy first, or it would be remediated again.

        Setting encryption-by-default (encryption by default is off):
        aws ec2 disable-ebs-encryption-by-default --region eu-central-1

        LEDGER ENTRY 01M7SH8XYF6H0J2M4N8P7R3T1W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01M7SH8XYF6H0J2M4N8P7R3T1W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&ended(Ending::Done, true)));
}

#[test]
fn failed() {
    let denied = super::fixtures::denied("EnableEbsEncryptionByDefault");
    expect![[r#"
        Subject: [Backstop] FAILED medium: eu-central-1 (encryption by default in eu-central-1) may be off

        FAILED medium: eu-central-1 (encryption by default in eu-central-1) may be off
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What may still be off
        - encryption by default is off

        What failed
        - The setting: FAILED to change it: EnableEbsEncryptionByDefault answered UnauthorizedOperation: You are not authorized to perform this operation. It is as it was.
        - Looked again, and not in order: encryption by default is still off.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - No step of this entry is known to have changed anything. What was there before is in the ledger entry.

        How to opt out
        - An account has no tags; put this into the policy: {"controls": {"encryption-by-default": {"settings": {"exemption": {"until": "2027-02-22", "owner": "your-team", "reason": "why it must stay off"}}}}}

        Good to know
        - Backstop tries again by itself within minutes and tells you once it is fixed. If that message does not come, turn it on by hand."#]].assert_eq(&lead(&ended(denied, false)));
}

#[test]
fn notified() {
    let entry = off(&Policy::default(), Mode::Notify, &Guards::default());
    expect![[r#"
        Subject: [Backstop] FOUND medium: eu-central-1 (encryption by default in eu-central-1) is off

        FOUND medium: eu-central-1 (encryption by default in eu-central-1) is off, nothing was changed
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What is off
        - encryption by default is off

        What was done
        - Nothing was changed: the mode is `notify`. In the mode `enforce`, this would be done:
        - The setting would be changed: encryption by default is on.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - An account has no tags; put this into the policy: {"controls": {"encryption-by-default": {"settings": {"exemption": {"until": "2027-02-22", "owner": "your-team", "reason": "why it must stay off"}}}}}"#]].assert_eq(&lead(&entry));
}

#[test]
fn exempt_by_the_policy() {
    let policy = json!({ "version": 1, "controls": { "encryption-by-default": { "settings": {
        "exemption": { "until": "2027-01-31", "owner": "platform", "reason": "old images" },
    } } } });
    let policy = Policy::parse(&policy.to_string()).unwrap();
    let entry = off(&policy, Mode::Enforce, &Guards::default());
    assert_eq!(entry.head.status, Status::Exempt);
    expect![[r#"
        Subject: [Backstop] EXEMPT medium: eu-central-1 (encryption by default in eu-central-1) is off

        EXEMPT medium: eu-central-1 (encryption by default in eu-central-1) is off
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What is off
        - encryption by default is off

        What was done
        - Nothing was changed: the policy exempts it until 2027-01-31, by platform: old images.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to end the opt-out
        - Remove `exemption` from the settings of encryption-by-default in the policy."#]].assert_eq(&lead(&entry));
}

#[test]
fn tripped() {
    let guards = Guards {
        resource_tripped: Some(Trip {
            at: now(),
            why: "it was turned off again and again".into(),
        }),
        ..Guards::default()
    };
    expect![[r#"
        Subject: [Backstop] TRIPPED medium: eu-central-1 (encryption by default in eu-central-1) is off

        TRIPPED medium: eu-central-1 (encryption by default in eu-central-1) is off, the control has tripped: nothing was changed
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What is off
        - encryption by default is off

        What was done
        - Nothing was changed: the control has tripped for this resource: it was turned off again and again.
        - Remediation is paused until someone finds the cause and re-arms it:
        - backstop re-arm encryption-by-default eu-central-1
        - Until then, turn it on by hand.
        - This would be done:
        - The setting would be changed: encryption by default is on.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - An account has no tags; put this into the policy: {"controls": {"encryption-by-default": {"settings": {"exemption": {"until": "2027-02-22", "owner": "your-team", "reason": "why it must stay off"}}}}}"#]].assert_eq(&lead(&off(&Policy::default(), Mode::Enforce, &guards)));
}

#[test]
fn a_fight() {
    let mut entry = ended(Ending::Done, true);
    entry.detail.fight = Some(Fight {
        times: 3,
        since: "2026-11-24T07:00:00Z".parse().unwrap(),
        within_hours: 24,
        every_seconds: None,
        told_by: entry.head.id.clone(),
        managed_by: Some("Terraform".into()),
    });
    expect![[r#"
        Subject: [Backstop] FIXED AGAIN medium: eu-central-1 (encryption by default in eu-central-1) was off

        FIXED AGAIN medium: eu-central-1 (encryption by default in eu-central-1) was off, it keeps coming back
        Account 111122223333, eu-central-1. Team: unowned. Control: encryption-by-default.

        What was off
        - encryption by default is off

        What was done
        - The setting was changed: encryption by default is on.
        - Looked again: new volumes are encrypted.

        It keeps coming back
        - This was put right for the 3rd time within 24 hours, since 2026-11-24 07:00:00 UTC.
        - It is managed by Terraform: change it there, or it comes back.
        - Further times within 24 hours are put right without a message. If it goes on, the control trips for this resource and says so: then it stays off until a person re-arms it.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: DisableEbsEncryptionByDefault, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01M7SH8XYF6H0J2M4N8P7R3T1W --reason "why it must be off" puts everything back. Exempt it in the policy first, or it would be remediated again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail.
        - Volumes that were created encrypted meanwhile stay encrypted.

        How to opt out
        - An account has no tags; put this into the policy: {"controls": {"encryption-by-default": {"settings": {"exemption": {"until": "2027-02-22", "owner": "your-team", "reason": "why it must stay off"}}}}}

        Good to know
        - Volumes that were created while it was off stay unencrypted: unencrypted-volume finds them."#]].assert_eq(&lead(&entry));
}

#[test]
fn the_exemption_that_a_message_proposes_holds() {
    let mail = mail(&enforced());
    let (_, proposed) = mail.split_once("put this into the policy: ").unwrap();
    let mut policy: Value = serde_json::from_str(proposed.lines().next().unwrap()).unwrap();
    policy["version"] = 1.into();
    let policy = Policy::parse(&policy.to_string()).unwrap();
    let entry = off(&policy, Mode::Enforce, &Guards::default());
    assert!(matches!(entry.head.exemption, Exemption::Exempt(_)));
}

#[test]
fn programs_get_items_of_every_control() {
    let data: Value =
        serde_json::from_str(&body(&message(&ended(Ending::Done, true)), "sqs")).unwrap();
    assert_eq!(
        data["items"],
        json!([{
            "item": SETTING,
            "what": "encryption by default is off",
            "before": false,
            "after": true,
            "ending": { "result": "done" },
        }])
    );
    for list in ["exposures", "changes"] {
        assert_eq!(data[list], json!([]), "{list} is of open-ingress alone");
    }
    assert_eq!(
        data["omitted"],
        json!({ "items": 0, "exposures": 0, "changes": 0, "outcomes": 0 })
    );
}

#[test]
fn a_state_that_cannot_be_read_costs_no_message() {
    let mut entry = ended(Ending::Done, true).erased().unwrap();
    entry.detail.exposures[0].state = json!({ "of": "another release" });
    entry.detail.plan.changes[0].after = Some(json!("another release"));
    entry.detail.before.insert(SETTING.into(), json!([]));
    let message = compose(&entry);
    check_against(&message, &NOTIFICATION);
    assert_eq!(
        message.subject,
        "[Backstop] FIXED medium: eu-central-1 (encryption by default in eu-central-1) was off"
    );
    let mail = body(&message, "email");
    for part in [
        "encryption-by-default: this release cannot read it, see the ledger entry",
        "Looked again: new volumes are encrypted.",
        "backstop undo 01M7SH8XYF6H0J2M4N8P7R3T1W",
    ] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    assert!(!mail.contains("PUT IT BACK"), "{mail}");
}
