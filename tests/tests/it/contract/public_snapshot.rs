//! `public-snapshot`: a snapshot that a partner may use.

use backstop_core::record::Record;
use backstop_core::words::{ControlId, Severity};
use backstop_tests::cloudtrail;
use backstop_wire::memory::ec2::{Ec2, Snapshot, Tags};
use serde_json::{Value, json};

use super::{Fixture, World, remediated};
use crate::faults::{beginning, run};

const SNAPSHOT: &str = "snap-0123456789abcdef0";

pub(super) struct PublicSnapshot;

impl Fixture for PublicSnapshot {
    fn control(&self) -> ControlId {
        ControlId::PublicSnapshot
    }

    fn id(&self) -> &'static str {
        SNAPSHOT
    }

    fn place(&self, ec2: &mut Ec2) {
        let snapshot = Snapshot {
            volume: "vol-0123456789abcdef0".to_owned(),
            started: beginning(),
            shared_with: ["444455556666".to_owned()].into(),
            tags: Tags::new(),
        };
        ec2.snapshots.insert(SNAPSHOT.to_owned(), snapshot);
        // Or none could be shared with everyone.
        ec2.settings.block = "unblocked".to_owned();
    }

    fn items(&self) -> &[&'static str] {
        &["all"]
    }

    fn expose(&self, everyone: &str, ec2: &mut Ec2) {
        let snapshot = ec2.snapshots.get_mut(SNAPSHOT).unwrap();
        snapshot.shared_with.insert(everyone.to_owned());
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        let shared_with = &ec2.snapshots[SNAPSHOT].shared_with;
        shared_with.iter().cloned().collect()
    }

    /// Only the severity depends on it.
    fn spare_reads(&self) -> &'static [&'static str] {
        &["GetSnapshotBlockPublicAccessState"]
    }
}

/// EC2 would refuse the grant once the opt-out is set.
#[test]
fn an_undo_is_refused_beforehand_while_the_account_blocks_public_sharing() {
    run(async {
        let (mut world, exposed) = remediated(&PublicSnapshot).await;
        world.account.cloud().ec2.settings.block = "block-new-sharing".to_owned();
        let blocked = world.ec2();
        let refused = world.undo().await;
        assert_eq!(refused["verdict"], "refused", "{refused}");
        let why = refused["message"].as_str().unwrap();
        for part in [
            "blocks public sharing",
            "disable-snapshot-block-public-access",
        ] {
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(world.ec2(), blocked, "no opt-out, either");
        assert_eq!(world.outcomes().await, ["remediated"]);
        world.account.cloud().ec2.settings.block = "unblocked".to_owned();
        assert_eq!(world.undo().await["verdict"], "undone");
        assert_eq!(
            PublicSnapshot.shows(&world.ec2()),
            PublicSnapshot.shows(&exposed)
        );
    });
}

/// Hidden, it is told as that; once the block is weakened it is public at once, and
/// told again: by the event, or by the sweep where there is none (a declarative
/// policy that was detached).
#[test]
fn a_hidden_grant_is_a_lesser_finding_and_a_full_one_once_the_block_is_weakened() {
    run(async {
        for state in ["unblocked", "block-new-sharing"] {
            for by_event in [true, false] {
                let mut world = World::new(&PublicSnapshot, &json!({ "mode": "notify" }));
                world.account.cloud().ec2.settings.block = "block-all-sharing".to_owned();
                world.expose(1);
                let begins = match by_event {
                    true => ("UnshareStorageFunction", block_set()),
                    false => ("SweepFunction", json!({})),
                };
                for times in 1..=2 {
                    world.account.start(begins.0, &begins.1);
                    world.account.settle().await;
                    assert_eq!(world.severities().await, [Severity::High], "{times}");
                }
                let exposure = world.entry().await.detail.exposures.pop().unwrap();
                assert!(exposure.hidden);

                world.account.cloud().ec2.settings.block = state.to_owned();
                for times in 1..=2 {
                    world.account.start(begins.0, &begins.1);
                    world.account.settle().await;
                    let severities = world.severities().await;
                    let expected = [Severity::High, Severity::Critical];
                    assert_eq!(severities, expected, "{state}, {by_event}, {times}");
                }
                let cloud = world.account.cloud();
                let subjects = cloud.published.iter().map(|(subject, _)| subject);
                let told: Vec<&String> = subjects.filter(|s| s.contains(SNAPSHOT)).collect();
                assert_eq!(told.len(), 2, "{told:?}");
                assert!(told[0].contains("FOUND high") && told[0].contains("hidden"));
                assert!(told[1].contains("FOUND critical") && !told[1].contains("hidden"));
            }
        }
    });
}

/// Which state it had before, the event does not say.
fn block_set() -> Value {
    let call = "EnableSnapshotBlockPublicAccess";
    let request = json!({ "EnableSnapshotBlockPublicAccessRequest": "" });
    cloudtrail::call(call, request, json!({}))
}

impl World {
    /// How bad each record is, the oldest first.
    async fn severities(&self) -> Vec<Severity> {
        let records = self.records().await;
        let heads = records.iter().filter_map(Record::head);
        heads.map(|head| head.severity).collect()
    }
}
