//! `imdsv1`: an instance of which CloudWatch counted no request without a token, beside
//! one that still uses IMDSv1.

use std::time::Duration;

use backstop_core::words::ControlId;
use backstop_tests::cloudtrail;
use backstop_wire::memory::ec2::{Ec2, Instance, Metadata, Tags};
use serde_json::json;

use super::{Fixture, World, remediated};
use crate::faults::{beginning, run};

const INSTANCE: &str = "i-0123456789abcdef0";

pub(super) struct ImdsV1;

fn instance() -> Instance {
    let long_ago = beginning() - Duration::from_secs(30 * 86_400);
    Instance {
        up: true,
        since: long_ago,
        launched: long_ago,
        metadata: Metadata {
            used: Some(0),
            ..Metadata::default()
        },
        tags: Tags::new(),
    }
}

fn metadata(ec2: &mut Ec2) -> &mut Metadata {
    &mut ec2.instances.get_mut(INSTANCE).unwrap().metadata
}

impl Fixture for ImdsV1 {
    fn control(&self) -> ControlId {
        ControlId::ImdsV1
    }

    fn id(&self) -> &'static str {
        INSTANCE
    }

    fn place(&self, ec2: &mut Ec2) {
        ec2.instances.insert(INSTANCE.to_owned(), instance());
    }

    fn items(&self) -> &[&'static str] {
        &["http-tokens"]
    }

    fn expose(&self, _item: &str, ec2: &mut Ec2) {
        "optional".clone_into(&mut metadata(ec2).tokens);
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        let Metadata {
            tokens,
            endpoint,
            hops,
            ..
        } = &ec2.instances[INSTANCE].metadata;
        vec![format!("{tokens} {endpoint} {hops}")]
    }

    /// Only an undo depends on it.
    fn spare_reads(&self) -> &'static [&'static str] {
        &["GetInstanceMetadataDefaults"]
    }

    /// The instance, and its figures if it answers IMDSv1.
    fn rounds_of_reads(&self) -> usize {
        2
    }

    /// One that was switched off meanwhile stays so.
    fn read_again(&self) -> Option<&'static str> {
        Some("DescribeInstances")
    }
}

/// What people are told of it, uncut.
fn messages(world: &World) -> String {
    let cloud = world.account.cloud();
    let all = cloud.published.iter();
    all.map(|(subject, message)| format!("{subject}\n{message}\n"))
        .collect()
}

#[test]
fn one_that_still_uses_imdsv1_is_told_once_and_closed_when_it_no_longer_does() {
    run(async {
        let mut world = World::exposed(&ImdsV1);
        metadata(&mut world.account.cloud().ec2).used = Some(7);
        let exposed = world.ec2();
        world.notice().await;
        assert_eq!(world.outcomes().await, ["pending"]);
        assert_eq!((world.ec2(), world.told()), (exposed, 1));
        let told = messages(&world);
        assert!(
            told.contains("counted 7 requests without a token"),
            "{told}"
        );
        assert!(
            !told.contains("require IMDSv2 by hand"),
            "it would break something: {told}"
        );
        // More of it is no news.
        metadata(&mut world.account.cloud().ec2).used = Some(900);
        world.notice().await;
        assert_eq!(world.told(), 1);
        metadata(&mut world.account.cloud().ec2).used = Some(0);
        world.notice().await;
        assert_eq!(world.outcomes().await, ["pending", "remediated"]);
    });
}

#[test]
fn without_figures_nothing_is_changed_and_the_days_are_named() {
    run(async {
        let mut world = World::exposed(&ImdsV1);
        metadata(&mut world.account.cloud().ec2).used = None;
        world.notice().await;
        world.notice().await;
        assert_eq!(world.outcomes().await, ["pending"]);
        assert_eq!((world.changes(), world.told()), (0, 1));
        let told = messages(&world);
        assert!(told.contains("is not proven"), "{told}");
    });
}

#[test]
fn an_undo_is_refused_beforehand_while_the_service_is_off_or_imdsv2_is_enforced() {
    run(async {
        let (mut world, exposed) = remediated(&ImdsV1).await;
        "disabled".clone_into(&mut metadata(&mut world.account.cloud().ec2).endpoint);
        let off = world.ec2();
        let refused = world.undo().await;
        assert_eq!(refused["verdict"], "refused", "{refused}");
        let why = refused["message"].as_str().unwrap();
        assert!(why.contains("--http-endpoint enabled"), "{why}");
        assert_eq!(world.ec2(), off, "no opt-out, either");

        "enabled".clone_into(&mut metadata(&mut world.account.cloud().ec2).endpoint);
        world.account.cloud().ec2.settings.enforced = true;
        let refused = world.undo().await;
        assert_eq!(refused["verdict"], "refused", "{refused}");
        let why = refused["message"].as_str().unwrap();
        assert!(why.contains("--http-tokens-enforced disabled"), "{why}");

        world.account.cloud().ec2.settings.enforced = false;
        assert_eq!(world.undo().await["verdict"], "undone");
        assert_eq!(ImdsV1.shows(&world.ec2()), ImdsV1.shows(&exposed));
    });
}

/// By the sweep, with the entry and the way back; and how many there are by the next
/// sweep is no news.
#[test]
fn requests_that_are_refused_after_a_change_are_told_once() {
    run(async {
        let (mut world, _) = remediated(&ImdsV1).await;
        let entry = world.entry().await.head.id;
        let before = world.told();
        world.sweep().await;
        assert!(!messages(&world).contains("REFUSED"), "nothing was refused");
        let quiet = world.told();
        for refused in [3, 500] {
            metadata(&mut world.account.cloud().ec2).refused = refused;
            world.sweep().await;
        }
        let told = messages(&world);
        assert!(quiet >= before);
        assert_eq!(told.matches("[Backstop] REFUSED").count(), 1, "{told}");
        assert!(told.contains(&format!("backstop undo {entry}")), "{told}");
        assert!(told.contains("3 requests"), "{told}");
    });
}

#[test]
fn each_instance_of_a_launch_is_checked() {
    run(async {
        let mut world = World::new(&ImdsV1, &json!({}));
        let ids = [INSTANCE, "i-0123456789abcdef1"];
        for id in ids {
            let mut open = instance();
            "optional".clone_into(&mut open.metadata.tokens);
            let instances = &mut world.account.cloud().ec2.instances;
            instances.insert(id.to_owned(), open);
        }
        let items = ids.map(|id| json!({ "instanceId": id }));
        let set = json!({ "instancesSet": { "items": items } });
        let launch = cloudtrail::call("RunInstances", json!({}), set);
        world.deliver(&launch).await;
        assert_eq!(world.outcomes().await, ["remediated", "remediated"]);
        let cloud = world.account.cloud();
        let required = |id: &str| cloud.ec2.instances[id].metadata.tokens == "required";
        assert!(ids.iter().all(|id| required(id)));
    });
}

/// The stack enforces, as in every test here: the policy has to name the control.
#[test]
fn the_stacks_mode_changes_nothing() {
    run(async {
        let mut world = World::exposed(&ImdsV1);
        let unnamed = json!({ "version": 1 });
        world.set_policy(&unnamed).await;
        world.notice().await;
        assert_eq!(world.outcomes().await, ["notified"]);
        assert_eq!(world.changes(), 0);
    });
}
