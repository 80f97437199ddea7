//! `public-snapshot`: a snapshot that a partner may use.

use backstop_core::words::ControlId;
use backstop_wire::memory::ec2::{Ec2, Snapshot, Tags};

use super::{Fixture, remediated};
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
