//! `public-snapshot`: what is decided about a snapshot, by whom it is shared with.

use backstop_core::control::Control as _;
use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_core::decide::{self, About, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::guards::Guards;
use backstop_core::plan::{Change, Disposition};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::sharing::{Holder, Storage};
use backstop_core::trigger::{Parsed, Trigger};
use backstop_core::words::{Actor, Mode, Severity};
use serde_json::json;

const OURS: &str = "111122223333";

fn snapshot(shared_with: &[Holder]) -> Storage {
    Storage {
        id: "snap-0a3f5c7e91b2d4f60".to_owned(),
        arn: "arn:aws:ec2:eu-central-1::snapshot/snap-0a3f5c7e91b2d4f60".to_owned(),
        owner: OURS.to_owned(),
        name: "nightly".to_owned(),
        tags: [].into(),
        hidden: false,
        blocked: false,
        shared_with: shared_with.iter().cloned().collect(),
        last_used: None,
    }
}

fn tagged(value: &str) -> Storage {
    tagged_as(OPT_OUT_TAG, value)
}

fn tagged_as(key: &str, value: &str) -> Storage {
    Storage {
        tags: [(key.to_owned(), value.to_owned())].into(),
        ..snapshot(&[Holder::Everyone])
    }
}

fn decide(snapshot: &Storage) -> decide::Decision<Holder> {
    let policy = Policy::default();
    let at = Circumstances {
        mode: Mode::Enforce,
        account: OURS,
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        guards: &Guards::default(),
    };
    decide::decide::<PublicSnapshot>(Some(snapshot), &PublicSnapshot::rules(&policy), &at)
}

#[test]
fn the_grant_to_everyone_goes_and_named_accounts_keep_theirs() {
    let named = Holder::Account("444455556666".to_owned());
    let hidden = Storage {
        hidden: true,
        blocked: true,
        ..snapshot(&[Holder::Everyone])
    };
    let theirs = Storage {
        owner: "444455556666".to_owned(),
        ..snapshot(&[Holder::Everyone])
    };
    let critical = |disposition| Some((Severity::Critical, disposition));
    for (what, snapshot, expected) in [
        ("private", snapshot(&[]), None),
        ("named only", snapshot(std::slice::from_ref(&named)), None),
        (
            "public",
            snapshot(&[Holder::Everyone]),
            critical(Disposition::Enforce),
        ),
        (
            "public and named",
            snapshot(&[Holder::Everyone, named.clone()]),
            critical(Disposition::Enforce),
        ),
        (
            "public, and hidden for now",
            hidden,
            Some((Severity::High, Disposition::Enforce)),
        ),
        (
            "opted out",
            tagged("public-snapshot until=2027-01-31 owner=research"),
            critical(Disposition::Exempt),
        ),
        (
            "an opt-out that has ended",
            tagged("public-snapshot until=2026-01-31"),
            critical(Disposition::Enforce),
        ),
        (
            "opted out of another control",
            tagged("open-ingress"),
            critical(Disposition::Enforce),
        ),
        (
            "an opt-out that cannot be read",
            tagged("public snapshot"),
            critical(Disposition::Held),
        ),
        (
            "an opt-out whose key is spelt as only IAM reads it",
            tagged_as("Backstop:Opt-Out", "all"),
            critical(Disposition::Held),
        ),
        (
            "a key that only looks like it",
            tagged_as("backstop:opt-outs", "all"),
            critical(Disposition::Enforce),
        ),
        ("another account's", theirs, critical(Disposition::NotOwned)),
    ] {
        let decision = decide(&snapshot);
        let found = decision.finding().map(|finding| finding.severity);
        let done = decision.plan.as_ref().map(|plan| plan.disposition.clone());
        assert_eq!(found.zip(done), expected, "{what}");
        let Some(plan) = decision.plan else {
            continue;
        };
        assert_eq!(
            plan.changes,
            [Change::remove("all", Holder::Everyone)],
            "{what}: nothing but the grant to everyone"
        );
        assert_eq!(
            plan.before().get("all"),
            Some(&Holder::Everyone),
            "{what}: what undo puts back"
        );
    }
}

/// So that it is told again once the block is weakened, and found by the sweep then.
#[test]
fn a_hidden_grant_is_known_by_other_keys_than_a_public_one() {
    let entry = |hidden: bool| {
        let snapshot = Storage {
            hidden,
            ..snapshot(&[Holder::Everyone])
        };
        let trigger = Trigger {
            resource: snapshot.id.clone(),
            account: OURS.to_owned(),
            region: "eu-central-1".to_owned(),
            actor: Actor::default(),
        };
        let about = About {
            id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
            trigger: &trigger,
            owner_tag: "owner",
            policy_version: 1,
            now: "2026-11-24T12:00:00Z".parse().unwrap(),
        };
        let decision = decide(&snapshot);
        decide::entry::<PublicSnapshot>(Some(&snapshot), &decision, about).unwrap()
    };
    let (hidden, public) = (entry(true), entry(false));
    assert_ne!(hidden.state_key(), public.state_key());
    assert_ne!(hidden.page_key(), public.page_key());
    let [of_hidden, of_public] = [&hidden, &public].map(|e| e.detail.exposures[0].clone());
    assert_eq!(
        of_hidden.fingerprint, of_public.fingerprint,
        "the baseline spares both"
    );
    let line = PublicSnapshot::exposure_line(&of_hidden);
    assert!(line.starts_with("shared with everyone; hidden"), "{line}");
    assert_eq!(
        PublicSnapshot::exposure_line(&of_public),
        "shared with everyone"
    );
    for (exposure, headline) in [
        (of_hidden, "public, and hidden for now"),
        (of_public, "public"),
    ] {
        assert_eq!(PublicSnapshot::headline(&[exposure], 5), headline);
    }
}

/// Which state the block had before, no event says, and nothing of it is read.
#[test]
fn a_change_of_the_block_of_public_sharing_concerns_every_public_snapshot() {
    for (call, request, error, expands) in [
        ("DisableSnapshotBlockPublicAccess", json!(""), None, true),
        ("DisableSnapshotBlockPublicAccess", json!(null), None, true),
        (
            "EnableSnapshotBlockPublicAccess",
            json!({ "State": "block-new-sharing" }),
            None,
            true,
        ),
        (
            "EnableSnapshotBlockPublicAccess",
            json!({ "State": "block-all-sharing" }),
            None,
            true,
        ),
        (
            "EnableSnapshotBlockPublicAccess",
            json!(""),
            Some("Client.UnauthorizedOperation"),
            false,
        ),
        ("DisableImageBlockPublicAccess", json!(""), None, false),
    ] {
        let mut event = json!({
            "version": "0", "id": "e", "source": "aws.ec2", "account": OURS, "region": "eu-central-1",
            "time": "2026-11-24T12:00:00Z", "resources": [],
            "detail-type": "AWS API Call via CloudTrail",
            "detail": { "eventName": call, "requestParameters": { format!("{call}Request"): request } },
        });
        if let Some(error) = error {
            event["detail"]["errorCode"] = json!(error);
        }
        let parsed = PublicSnapshot::parse(&event).unwrap();
        assert_eq!(
            matches!(&parsed, Parsed::Expand(of) if of.resource == "eu-central-1"),
            expands
        );
        assert_eq!(matches!(parsed, Parsed::Ignored(_)), !expands, "{call}");
    }
}
