//! A thousand resources that are exposed at once: met by one sweep, or shown by one
//! event.

use super::public_snapshot::PublicSnapshot;
use super::*;

const MANY: usize = 1000;
const BUDGET: u64 = 50;

/// What a burst came to.
struct Burst {
    world: World,
    /// How many checks were asked for, by whoever asks.
    asked: usize,
}

impl Burst {
    /// With so many public snapshots, which were hidden until now, and `begins` as what
    /// leads to them: a function and what it is handed.
    async fn of(rules: Value, (function, begins): (&'static str, &Value)) -> Self {
        let mut world = World::new(&PublicSnapshot, &rules);
        {
            let mut cloud = world.account.cloud();
            let one = cloud.ec2.snapshots.values().next().unwrap().clone();
            for n in 0..MANY {
                let mut snapshot = one.clone();
                snapshot.shared_with.insert("all".to_owned());
                let id = format!("snap-{n:017x}");
                cloud.ec2.snapshots.insert(id, snapshot);
            }
        }
        let asked: Arc<Mutex<usize>> = Arc::default();
        let count = asked.clone();
        world.account.meddle(function, move |call, _| {
            let entries = call.json["Entries"].as_array();
            let checks = entries.into_iter().flatten();
            let checks = checks.filter(|entry| entry["DetailType"] == "Check Requested");
            *count.lock().unwrap() += checks.count();
            None
        });
        world.account.start(function, begins);
        world.account.settle().await;
        let asked = *asked.lock().unwrap();
        Self { world, asked }
    }

    fn public(&self) -> usize {
        let ec2 = self.world.ec2();
        let all = ec2.snapshots.values();
        all.filter(|of| of.shared_with.contains("all")).count()
    }

    /// The subjects of messages that have these words.
    fn told(&self, words: &str) -> Vec<String> {
        let cloud = self.world.account.cloud();
        let subjects = cloud.published.iter().map(|(subject, _)| subject.clone());
        subjects.filter(|subject| subject.contains(words)).collect()
    }

    fn digests(&self) -> Vec<String> {
        let cloud = self.world.account.cloud();
        let digests = cloud.published.iter();
        let digests = digests.filter(|(subject, _)| subject.contains("DIGEST"));
        digests.map(|(_, body)| body.clone()).collect()
    }
}

fn lifted() -> Value {
    let call = "DisableSnapshotBlockPublicAccess";
    let request = json!({ "DisableSnapshotBlockPublicAccessRequest": "" });
    cloudtrail::call(call, request, json!({}))
}

#[test]
fn a_thousand_are_as_many_looks_and_no_more_changes_than_the_budget() {
    run(async {
        let rules = json!({ "existing": "enforce", "budget": { "changes_per_hour": BUDGET } });
        for begins in [
            ("SweepFunction", &json!({})),
            ("UnshareStorageFunction", &lifted()),
        ] {
            let burst = Burst::of(rules.clone(), begins).await;
            assert_eq!(burst.asked, MANY);
            assert_eq!(burst.world.changes() as u64, BUDGET);
            assert_eq!(burst.world.counted(), BUDGET);
            assert_eq!(burst.public(), MANY - BUDGET as usize);
            assert_eq!(burst.told("TRIPPED: public-snapshot").len(), 1);
            assert_eq!(burst.told("remediated, 50 times").len(), 1);
            assert!(burst.world.account.failed.is_empty());
        }
    });
}

#[test]
fn a_thousand_that_are_only_told_are_one_message_that_counts_them() {
    run(async {
        for begins in [
            ("SweepFunction", &json!({})),
            ("UnshareStorageFunction", &lifted()),
        ] {
            let burst = Burst::of(json!({ "mode": "notify" }), begins).await;
            assert_eq!((burst.asked, burst.world.changes()), (MANY, 0));
            let told = burst.told("notified");
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("1000 times"), "{told:?}");
            // The digest of the sweep counts them as well.
            let digests = burst.digests();
            assert_eq!(digests.len(), usize::from(begins.0 == "SweepFunction"));
            assert!(
                digests.iter().all(|body| body.contains("1000")),
                "{digests:?}"
            );
        }
    });
}
