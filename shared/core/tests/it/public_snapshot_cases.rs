//! `public-snapshot`: what is decided about a snapshot, by whom it is shared with.

use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_core::decide::{self, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::guards::Guards;
use backstop_core::plan::{Change, Disposition};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::sharing::{Holder, Storage};
use backstop_core::words::{Mode, Severity};

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
