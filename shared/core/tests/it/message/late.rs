//! Messages about a change that AWS accepted and that does not show yet.

use backstop_core::account_setting::AccountSetting;
use backstop_core::control::Control as _;
use backstop_core::controls::image_sharing_block::{Block, ImageSharingBlock};
use backstop_core::decide::{self, About, Circumstances};
use backstop_core::entry::Entry;
use backstop_core::guards::Guards;
use backstop_core::message::compose;
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::trigger::Trigger;
use backstop_core::words::{Actor, Mode, Status};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use super::fixtures::body;
use super::hostile::check_against;
use super::schemas::NOTIFICATION;

const SETTING: &str = "image-sharing-block";

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

/// The entry after its call, with what AWS shows then.
fn ended(shows: Block, at: Timestamp) -> Entry<Block> {
    let setting =
        |state| AccountSetting::new(SETTING, "aws", "eu-central-1", "111122223333", state);
    let guards = Guards {
        former: Some(json!("block-new-sharing")),
        ..Guards::default()
    };
    let policy = Policy::default();
    let decide = |state| {
        let circumstances = Circumstances {
            mode: Mode::Enforce,
            account: "111122223333",
            now: now(),
            guards: &guards,
        };
        let rules = ImageSharingBlock::rules(&policy);
        decide::decide::<ImageSharingBlock>(Some(&setting(state)), &rules, &circumstances)
    };
    let trigger = Trigger {
        resource: "eu-central-1".into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor::default(),
    };
    let about = About {
        id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
        trigger: &trigger,
        owner_tag: "owner",
        policy_version: 7,
        now: now(),
    };
    let found = setting(Block::Unblocked);
    let decided = decide(Block::Unblocked);
    let mut entry = decide::entry::<ImageSharingBlock>(Some(&found), &decided, about).unwrap();
    entry.detail.shows_by = Some(now() + 10.minutes());
    entry.add_round([Outcome {
        round: 0,
        item: SETTING.into(),
        step: Step::Set,
        permission: None,
        created: None,
        without: None,
        ending: Ending::Done,
    }]);
    let live = ImageSharingBlock::items(&setting(shows));
    entry.expire(at);
    entry.detail.verification = Some(decide::verify::<ImageSharingBlock>(
        &entry,
        &ImageSharingBlock::items(&found),
        &live,
        &decide(shows),
    ));
    entry.conclude(&live, at);
    entry
}

#[test]
fn it_ends_as_pending_until_the_time_is_up() {
    let up = now() + 10.minutes();
    for (shows, at, status) in [
        (Block::Unblocked, now(), Status::Pending),
        (Block::Unblocked, up - 1.seconds(), Status::Pending),
        (Block::Unblocked, up, Status::Failed),
        (Block::BlockNewSharing, now(), Status::Remediated),
        (Block::BlockNewSharing, up, Status::Remediated),
    ] {
        let entry = ended(shows, at);
        assert_eq!(entry.head.status, status, "{shows:?} at {at}");
        let waits = status == Status::Pending;
        assert_eq!(entry.detail.shows_by.is_some(), waits);
        assert_eq!(entry.awaits_visibility(), waits);
        assert_eq!(entry.awaits(SETTING, Some(&shows)), waits);
        // An undo goes by how the run left it.
        let left = match status {
            Status::Failed => Block::Unblocked,
            _ => Block::BlockNewSharing,
        };
        assert_eq!(entry.detail.after[SETTING], Some(left));
    }
}

#[test]
fn it_says_that_aws_accepted_it_and_until_when_that_may_take() {
    let message = compose(&ended(Block::Unblocked, now()).erased().unwrap());
    check_against(&message, &NOTIFICATION);
    let subject = &message.subject;
    assert!(
        subject.starts_with("[Backstop] PENDING medium: "),
        "{subject}"
    );
    assert!(subject.contains("may be weakened"), "{subject}");
    let mail = body(&message, "email");
    for part in [
        "AWS accepted the change and does not show it yet",
        "AWS accepted the change and may take until 2026-11-24 10:10:00 UTC to show it",
        "The setting was changed: public sharing of images: block-new-sharing.",
        "not visible yet: the setting still shows `public sharing of images: unblocked`",
        "backstop undo 01M7SH8XYF6H0J2M4N8P7R3T1W",
    ] {
        assert!(mail.contains(part), "{part}\n{mail}");
    }
    for wrong in [
        "Looked again: ",
        "not in order",
        "Nothing was changed",
        "budget",
        "FAILED to",
    ] {
        assert!(!mail.contains(wrong), "{wrong}\n{mail}");
    }
    let data: Value = serde_json::from_str(&body(&message, "sqs")).unwrap();
    assert_eq!(data["outcome"], "pending");
    assert_eq!(
        data["verification"],
        json!({
            "passed": false, "problems": [], "by_others": [],
            "not_visible_yet": ["the setting still shows `public sharing of images: unblocked`"],
        })
    );
}

/// Or the message that it is fixed would be dropped as one that was sent.
#[test]
fn pending_failed_and_fixed_are_messages_of_their_own() {
    let keys = [
        ended(Block::Unblocked, now()),
        ended(Block::Unblocked, now() + 10.minutes()),
        ended(Block::BlockNewSharing, now()),
    ];
    let keys: std::collections::BTreeSet<String> =
        keys.iter().map(|entry| entry.message_key()).collect();
    assert_eq!(keys.len(), 3);
}
