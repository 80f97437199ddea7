//! `public-image`: what is decided about an image, by whom it is shared with.

use backstop_core::control::{ByHand, Control as _};
use backstop_core::controls::public_image::PublicImage;
use backstop_core::decide::{self, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::guards::Guards;
use backstop_core::plan::{Change, Disposition};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::sharing::{Holder, Storage};
use backstop_core::words::{Mode, Severity};

const OURS: &str = "111122223333";

fn image(shared_with: &[Holder]) -> Storage {
    Storage {
        id: "ami-0a3f5c7e91b2d4f60".to_owned(),
        arn: "arn:aws:ec2:eu-central-1::image/ami-0a3f5c7e91b2d4f60".to_owned(),
        owner: OURS.to_owned(),
        name: "golden".to_owned(),
        tags: [].into(),
        hidden: false,
        blocked: false,
        shared_with: shared_with.iter().cloned().collect(),
        last_used: Some("launched last on 2026-11-20".to_owned()),
    }
}

fn decide(image: &Storage, policy: &str) -> decide::Decision<Holder> {
    let policy = Policy::parse(policy).unwrap();
    let at = Circumstances {
        mode: Mode::Enforce,
        account: OURS,
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        guards: &Guards::default(),
    };
    decide::decide::<PublicImage>(Some(image), &PublicImage::rules(&policy), &at)
}

/// Everyone whom an image can be shared with.
fn all_kinds() -> [Holder; 4] {
    let of = "arn:aws:organizations::111122223333";
    [
        Holder::Everyone,
        Holder::Account("444455556666".to_owned()),
        Holder::Organization(format!("{of}:organization/o-abc123defg")),
        Holder::OrganizationalUnit(format!("{of}:ou/o-abc123defg/ou-ab12-3cdefgh4")),
    ]
}

#[test]
fn the_grant_to_everyone_goes_and_whoever_is_named_keeps_theirs() {
    let [everyone, named @ ..] = all_kinds();
    for (what, shared_with, found) in [
        ("private", &[][..], false),
        ("named only", &named[..], false),
        ("public", &[everyone][..], true),
        ("public and named", &all_kinds()[..], true),
    ] {
        let decision = decide(&image(shared_with), r#"{"version":1}"#);
        let severity = decision.finding().map(|finding| finding.severity);
        assert_eq!(severity, found.then_some(Severity::Critical), "{what}");
        let changes = decision.plan.map_or_else(Vec::new, |plan| plan.changes);
        let removed = found.then(|| Change::remove("all", Holder::Everyone));
        assert_eq!(changes, Vec::from_iter(removed), "{what}");
    }
}

#[test]
fn opt_outs_owners_and_modes_are_heeded_as_for_any_control() {
    let tagged = |value: &str| Storage {
        tags: [(OPT_OUT_TAG.to_owned(), value.to_owned())].into(),
        ..image(&all_kinds())
    };
    let theirs = Storage {
        owner: "444455556666".to_owned(),
        ..image(&all_kinds())
    };
    let every = r#"{"version":1}"#;
    let notify = r#"{"version":1,"controls":{"public-image":{"mode":"notify"}}}"#;
    for (what, image, policy, disposition) in [
        (
            "publisher",
            tagged("public-image until=2027-01-31 owner=a"),
            every,
            Disposition::Exempt,
        ),
        ("of all controls", tagged("all"), every, Disposition::Exempt),
        (
            "ended",
            tagged("public-image until=2026-11-23"),
            every,
            Disposition::Enforce,
        ),
        (
            "of snapshots",
            tagged("public-snapshot"),
            every,
            Disposition::Enforce,
        ),
        (
            "unreadable",
            tagged("public-images"),
            every,
            Disposition::Held,
        ),
        ("another account's", theirs, every, Disposition::NotOwned),
        (
            "notify",
            image(&all_kinds()),
            notify,
            Disposition::NotifyOnly,
        ),
    ] {
        let plan = decide(&image, policy).plan.unwrap();
        assert_eq!(plan.disposition, disposition, "{what}");
    }
}

#[test]
fn people_read_when_it_was_launched_last() {
    let decision = decide(&image(&[Holder::Everyone]), r#"{"version":1}"#);
    assert_eq!(
        PublicImage::details(&decision.finding().unwrap().exposures[0]),
        ["shared with everyone; launched last on 2026-11-20"]
    );
}

#[test]
fn by_hand_it_is_opted_out_first_and_then_shared_again() {
    let back = ByHand {
        resource: "ami-0a3f5c7e91b2d4f60",
        region: "eu-central-1",
        item: "all",
        left: None,
        to: Some(Holder::Everyone),
        opt_out: "public-image until=2026-12-24",
        outcomes: &[],
    };
    let commands = PublicImage::commands(&back);
    assert_eq!(commands.len(), 2);
    assert!(
        commands[0].starts_with("aws ec2 create-tags"),
        "{commands:?}"
    );
    let share = [
        "aws ec2 modify-image-attribute",
        "--image-id ami-0a3f5c7e91b2d4f60",
        "--attribute launchPermission",
        "--operation-type add",
        "--user-groups all",
    ];
    assert!(
        share.iter().all(|part| commands[1].contains(part)),
        "{commands:?}"
    );
}

/// What records hold for 400 days, and undo reads.
#[test]
fn grants_keep_their_names_in_records() {
    let stored = all_kinds().map(|holder| serde_json::to_value(holder).unwrap());
    let of = "arn:aws:organizations::111122223333";
    assert_eq!(
        stored,
        [
            serde_json::json!("everyone"),
            serde_json::json!({ "account": "444455556666" }),
            serde_json::json!({ "organization": format!("{of}:organization/o-abc123defg") }),
            serde_json::json!({ "organizational-unit": format!("{of}:ou/o-abc123defg/ou-ab12-3cdefgh4") }),
        ]
    );
}
