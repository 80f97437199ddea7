//! The calls of `public-snapshot`, against the real EC2 client with answers
//! written from the EC2 API reference.

use backstop_aws::error::AwsError;
use backstop_aws::remediation::{Concerned, Remediation as _};
use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_core::plan::{Change, Ending, Outcome, Step};
use backstop_core::sharing::{Holder, Storage};
use backstop_wire::{Call, Reply, Wire};

use crate::calls::{at, failing, parameters, xml};

const ID: &str = "snap-0a3f5c7e91b2d4f60";
const READS: [&str; 3] = [
    "DescribeSnapshotAttribute",
    "DescribeSnapshots",
    "GetSnapshotBlockPublicAccessState",
];

fn snapshots(ids: &[&str], next: Option<&str>) -> Reply {
    let items: String = ids
        .iter()
        .map(|id| format!("<item><snapshotId>{id}</snapshotId><volumeId>vol-1</volumeId><status>completed</status><ownerId>111122223333</ownerId><encrypted>false</encrypted><tagSet><item><key>Name</key><value>nightly</value></item></tagSet></item>"))
        .collect();
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    xml(
        "DescribeSnapshots",
        &format!("<snapshotSet>{items}</snapshotSet>{next}"),
    )
}

fn answer(call: &Call) -> Reply {
    let operation = call.operation.as_str();
    match operation {
        "DescribeSnapshots" => snapshots(&[ID], None),
        "DescribeSnapshotAttribute" => xml(
            operation,
            "<createVolumePermission><item><userId>444455556666</userId></item><item><group>all</group></item></createVolumePermission>",
        ),
        "GetSnapshotBlockPublicAccessState" => xml(operation, "<state>block-all-sharing</state>"),
        "ModifySnapshotAttribute" => xml(operation, "<return>true</return>"),
        other => panic!("{other}"),
    }
}

async fn gather(wire: &Wire) -> Result<Option<Storage>, AwsError> {
    at(wire, async |aws, place| {
        PublicSnapshot::gather(aws, place, ID).await
    })
    .await
}

async fn apply(wire: &Wire, change: &Change<Holder>) -> Vec<Outcome> {
    at(wire, async |aws, place| {
        PublicSnapshot::apply(aws, place, ID, change).await
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_read_in_one_round_trip_with_all_its_grants() {
    let wire = Wire::new(answer);
    let snapshot = gather(&wire).await.unwrap().unwrap();
    assert_eq!(
        snapshot,
        Storage {
            id: ID.to_owned(),
            arn: format!("arn:aws:ec2:eu-central-1::snapshot/{ID}"),
            owner: "111122223333".to_owned(),
            name: "nightly".to_owned(),
            tags: [("Name".to_owned(), "nightly".to_owned())].into(),
            hidden: true,
            blocked: true,
            shared_with: [Holder::Everyone, Holder::Account("444455556666".to_owned())].into(),
            last_used: None,
        }
    );
    assert_eq!(wire.sequential_round_trips(), 1);
    let mut calls = wire.calls();
    calls.sort_by_key(|call| call.operation.clone());
    let sent: Vec<_> = calls
        .iter()
        .map(|call| (call.operation.as_str(), parameters(call)))
        .collect();
    assert_eq!(
        sent,
        [
            (
                READS[0],
                vec![("Attribute", "createVolumePermission"), ("SnapshotId", ID)]
            ),
            (READS[1], vec![("SnapshotId.1", ID)]),
            (READS[2], vec![]),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_none_and_another_accounts_shows_no_grants() {
    for operation in &READS[..2] {
        let wire = failing(operation, "InvalidSnapshot.NotFound", answer);
        assert_eq!(gather(&wire).await.unwrap(), None, "{operation}");
    }
    let wire = failing(READS[0], "AuthFailure", answer);
    let snapshot = gather(&wire).await.unwrap().unwrap();
    assert!(snapshot.shared_with.is_empty());
}

/// It may be a grant to everyone by another name.
#[tokio::test(start_paused = true)]
async fn a_grant_that_is_not_known_is_an_error_that_names_it() {
    for (grant, problem) in [
        (
            "<group>everybody</group>",
            "`group` is `everybody`, which this release of Backstop does not know: update it",
        ),
        ("", "the answer has no `group` or `userId`"),
    ] {
        let wire = Wire::new(move |call| match call.operation.as_str() {
            "DescribeSnapshotAttribute" => xml(
                &call.operation,
                &format!(
                    "<createVolumePermission><item><userId>444455556666</userId></item><item>{grant}</item></createVolumePermission>"
                ),
            ),
            _ => answer(call),
        });
        let error = gather(&wire).await.unwrap_err();
        assert_eq!(error.operation, READS[0]);
        assert!(error.message.contains(problem), "{error}");
    }
    // Nor is whose it is.
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeSnapshots" => xml(
            "DescribeSnapshots",
            "<snapshotSet><item><snapshotId>snap-1</snapshotId></item></snapshotSet>",
        ),
        _ => answer(call),
    });
    let error = gather(&wire).await.unwrap_err();
    assert!(error.message.contains("no `ownerId`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_denied_is_an_error_that_names_it() {
    for operation in [READS[0], READS[1]] {
        let wire = failing(operation, "UnauthorizedOperation", answer);
        let error = gather(&wire).await.unwrap_err();
        assert_eq!(
            (error.operation, error.code.as_str(), error.retryable),
            (operation, "UnauthorizedOperation", false)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_grant_to_everyone_is_removed_or_added_and_nothing_else() {
    let removes = Change::remove("all", Holder::Everyone);
    for (change, operation, step) in [
        (removes.clone(), "remove", Step::Revoke),
        (removes.clone().reversed(), "add", Step::Authorise),
    ] {
        let wire = Wire::new(answer);
        let [outcome] = &apply(&wire, &change).await[..] else {
            panic!("one call, one outcome")
        };
        assert_eq!((outcome.item.as_str(), outcome.step), ("all", step));
        assert_eq!(outcome.ending, Ending::Done);
        assert_eq!(wire.operations(), ["ModifySnapshotAttribute"]);
        assert_eq!(
            parameters(&wire.calls()[0]),
            [
                ("Attribute", "createVolumePermission"),
                ("OperationType", operation),
                ("SnapshotId", ID),
                ("UserGroup.1", "all"),
            ]
        );
    }
    // Shared again while the account blocks that.
    let wire = failing("ModifySnapshotAttribute", "OperationNotPermitted", answer);
    let outcomes = apply(&wire, &removes.reversed()).await;
    assert!(outcomes[0].failed(), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_walk_asks_for_what_is_public_of_this_account_page_by_page() {
    let wire = Wire::new(pages_of_public);
    let mut pages: Vec<Vec<String>> = Vec::new();
    let walked = at(&wire, async |aws, place| {
        let each = async |page: Vec<Storage>| {
            let public = [Holder::Everyone].into();
            assert!(page.iter().all(|snapshot| snapshot.shared_with == public));
            assert!(page.iter().all(|snapshot| snapshot.hidden));
            pages.push(page.into_iter().map(|snapshot| snapshot.id).collect());
        };
        PublicSnapshot::walk(aws, place, each).await
    })
    .await;
    assert_eq!(walked.unwrap().seen, 3);
    assert_eq!(pages, [vec!["snap-1", "snap-2"], vec!["snap-3"]]);
    assert_eq!(
        wire.operations(),
        [READS[2], "DescribeSnapshots", "DescribeSnapshots"],
        "the block once, and pages"
    );
    for call in &wire.calls()[1..] {
        assert_eq!(call.parameter("Owner.1"), Some("self"));
        assert_eq!(call.parameter("RestorableBy.1"), Some("all"));
    }
}

/// Two pages of public snapshots.
fn pages_of_public(call: &Call) -> Reply {
    match (call.operation.as_str(), call.parameter("NextToken")) {
        ("DescribeSnapshots", None) => snapshots(&["snap-1", "snap-2"], Some("two")),
        ("DescribeSnapshots", Some(_)) => snapshots(&["snap-3"], None),
        _ => answer(call),
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_block_concerns_every_snapshot_with_a_public_grant_or_none_is_asked_for() {
    let concerned = async |wire: &Wire| {
        at(wire, async |aws, place| {
            PublicSnapshot::concerned(aws, place, "eu-central-1").await
        })
        .await
    };
    let ids = ["snap-1", "snap-2", "snap-3"].map(str::to_owned).to_vec();
    let wire = Wire::new(pages_of_public);
    assert_eq!(
        concerned(&wire).await.unwrap(),
        Concerned::Resources(ids.clone())
    );
    // How bad they are is not asked here.
    let wire = failing(READS[2], "UnauthorizedOperation", pages_of_public);
    assert_eq!(concerned(&wire).await.unwrap(), Concerned::Resources(ids));
    let wire = Wire::new(|call| match call.parameter("NextToken") {
        Some(_) => Reply::ec2_error(403, "UnauthorizedOperation", "no"),
        None => pages_of_public(call),
    });
    let error = concerned(&wire).await.unwrap_err();
    assert_eq!(error.operation, "DescribeSnapshots");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_deleted_meanwhile_is_no_failure_and_neither_is_an_unknown_block() {
    let wire = failing(
        "ModifySnapshotAttribute",
        "InvalidSnapshot.NotFound",
        answer,
    );
    let outcomes = apply(&wire, &Change::remove("all", Holder::Everyone)).await;
    assert_eq!(outcomes[0].ending, Ending::AlreadyDone);

    let wire = failing(READS[2], "UnauthorizedOperation", answer);
    let snapshot = gather(&wire).await.unwrap().unwrap();
    assert!(!snapshot.hidden, "the severer of the two");
    assert!(!snapshot.blocked, "an undo is tried");
    assert!(snapshot.shared_with.contains(&Holder::Everyone));
}
