//! Snapshots that everyone can use, on the deployed stack.

use aws_sdk_ec2::types::{OperationType, SnapshotAttributeName};

use backstop_wire::memory::ec2::Settings;

use super::encryption::look_by;
use super::sweep::{settle, sweep};
use super::undo::{request, undo};
use super::*;

/// What ends the sharing.
pub(crate) const UNSHARE: &str = "UnshareStorageFunction";
const OPT_OUT: &str = "backstop:opt-out";
const FRIEND: &str = "444455556666";

/// Lets snapshots and images be shared publicly, until [`block`].
pub(super) fn unblock(aws: &LocalAws) {
    aws.proxy.settings(|settings| {
        settings.block = "unblocked".to_owned();
        settings.image_block = "unblocked".to_owned();
    });
}

/// As in an account that nobody has touched.
pub(super) fn block(aws: &LocalAws) {
    aws.proxy
        .settings(|settings| *settings = Settings::default());
}

/// A new snapshot, private.
async fn snapshot(aws: &LocalAws) -> String {
    let volume = aws.ec2.create_volume().size(1);
    let volume = volume.availability_zone("us-east-1a").send().await.unwrap();
    let create = aws.ec2.create_snapshot();
    let made = create.volume_id(volume.volume_id().unwrap()).send().await;
    made.unwrap().snapshot_id.unwrap()
}

/// Shares it with everyone, and with these accounts, as a person would; the event.
async fn share(aws: &LocalAws, id: &str, accounts: &[&str]) -> Value {
    let share = |request: aws_sdk_ec2::operation::modify_snapshot_attribute::builders::ModifySnapshotAttributeFluentBuilder| {
        request
            .snapshot_id(id)
            .attribute(SnapshotAttributeName::CreateVolumePermission)
            .operation_type(OperationType::Add)
    };
    let everyone = share(aws.ec2.modify_snapshot_attribute()).group_names("all");
    everyone.send().await.unwrap();
    let mut items = vec![json!({"group": "all"})];
    for account in accounts {
        let named = share(aws.ec2.modify_snapshot_attribute()).user_ids(*account);
        named.send().await.unwrap();
        items.push(json!({"userId": account}));
    }
    cloudtrail::call(
        "ModifySnapshotAttribute",
        json!({
            "snapshotId": id,
            "attributeType": "CREATE_VOLUME_PERMISSION",
            "createVolumePermission": {"add": {"items": items}},
        }),
        json!({"_return": true}),
    )
}

/// Who may use it, sorted.
async fn holders(aws: &LocalAws, id: &str) -> Vec<String> {
    let read = aws.ec2.describe_snapshot_attribute().snapshot_id(id);
    let read = read.attribute(SnapshotAttributeName::CreateVolumePermission);
    let answer = read.send().await.unwrap();
    let grants = answer.create_volume_permissions().iter();
    let mut holders: Vec<String> = grants
        .filter_map(|grant| {
            let group = grant.group().map(|group| group.as_str().to_owned());
            group.or_else(|| grant.user_id().map(str::to_owned))
        })
        .collect();
    holders.sort();
    holders
}

/// The value of its opt-out tag.
async fn opt_out(aws: &LocalAws, id: &str) -> Option<String> {
    let read = aws.ec2.describe_snapshots().snapshot_ids(id);
    let answer = read.send().await.unwrap();
    let tags = answer.snapshots()[0].tags().iter();
    let mut values = tags.filter(|tag| tag.key() == Some(OPT_OUT));
    values.next().and_then(|tag| tag.value().map(str::to_owned))
}

/// Waits until this many messages about it are out, and no more.
pub(crate) async fn told(aws: &LocalAws, id: &str, count: usize) -> Vec<Published> {
    wait_for(&format!("{count} messages about {id}"), async || {
        (published_about(aws, id).len() >= count).then_some(())
    })
    .await;
    aws.quiet().await;
    let messages = published_about(aws, id);
    assert_eq!(messages.len(), count, "{messages:#?}");
    messages
}

#[test]
fn a_snapshot_shared_with_everyone_is_closed_and_a_named_account_keeps_its_grant() {
    scenario(async |aws| {
        let id = snapshot(aws).await;
        let event = share(aws, &id, &[FRIEND]).await;
        assert_eq!(aws.deliver(&event).await.unwrap(), [UNSHARE]);
        let message = &told(aws, &id, 1).await[0];
        for part in ["jo@example.com", "shared with everyone"] {
            assert!(message.bodies["default"].contains(part), "{message:#?}");
        }
        assert_eq!(holders(aws, &id).await, [FRIEND]);
        let [entry] = &aws.entries_of(&id).await.unwrap()[..] else {
            panic!("one entry")
        };
        assert_eq!(
            (&entry["status"], &entry["told"]),
            (&json!("remediated"), &json!(true))
        );
        assert_eq!(look_by(aws, UNSHARE, &event), "nothing to do");

        // Back, and left alone from then on.
        unblock(aws);
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert_eq!(holders(aws, &id).await, [FRIEND, "all"]);
        let value = opt_out(aws, &id).await.unwrap();
        assert!(value.starts_with("public-snapshot until="), "{value}");
        told(aws, &id, 2).await;
        assert_eq!(look_by(aws, UNSHARE, &event), "exempt");
        assert_eq!(holders(aws, &id).await, [FRIEND, "all"]);
    });
}

#[test]
fn a_snapshot_that_is_opted_out_or_shared_by_name_only_stays_as_it_is() {
    scenario(async |aws| {
        let id = snapshot(aws).await;
        tag(aws, &id, "public-snapshot owner=research").await;
        let event = share(aws, &id, &[]).await;
        assert_eq!(look_by(aws, UNSHARE, &event), "exempt");
        assert_eq!(look_by(aws, UNSHARE, &event), "known");
        assert_eq!(holders(aws, &id).await, ["all"]);
        told(aws, &id, 1).await;

        let id = snapshot(aws).await;
        let event = share(aws, &id, &[FRIEND]).await;
        let remove = aws.ec2.modify_snapshot_attribute().snapshot_id(&id);
        let remove = remove
            .attribute(SnapshotAttributeName::CreateVolumePermission)
            .operation_type(OperationType::Remove)
            .group_names("all");
        remove.send().await.unwrap();
        assert_eq!(look_by(aws, UNSHARE, &event), "nothing to do");
        assert_eq!(holders(aws, &id).await, [FRIEND]);
    });
}

#[test]
fn the_sweep_finds_a_public_snapshot_whose_event_was_lost() {
    scenario(async |aws| {
        settle(aws).await;
        let id = snapshot(aws).await;
        share(aws, &id, &[]).await;
        assert_eq!(sweep(aws), "told");
        wait_for("the snapshot to be private", async || {
            holders(aws, &id).await.is_empty().then_some(())
        })
        .await;
        // What became of it, and the digest.
        told(aws, &id, 2).await;
    });
}

/// No event names any of them.
#[test]
fn a_weakened_block_has_every_snapshot_with_a_public_grant_looked_at() {
    scenario(async |aws| {
        settle(aws).await;
        let (id, other) = (snapshot(aws).await, snapshot(aws).await);
        let named = snapshot(aws).await;
        share(aws, &id, &[]).await;
        share(aws, &other, &[FRIEND]).await;
        tag(aws, &named, "public-snapshot owner=research").await;
        share(aws, &named, &[]).await;
        let call = "DisableSnapshotBlockPublicAccess";
        let event = cloudtrail::call(call, json!({ format!("{call}Request"): "" }), json!({}));
        assert_eq!(look_by(aws, UNSHARE, &event), "expanded");
        wait_for("the snapshots to be private", async || {
            let private = holders(aws, &id).await.is_empty();
            (private && holders(aws, &other).await == [FRIEND]).then_some(())
        })
        .await;
        assert_eq!(holders(aws, &named).await, ["all"], "it is opted out");
        told(aws, &id, 1).await;
        told(aws, &other, 1).await;
    });
}

/// Makes the function and undo call everything that they may call for snapshots.
pub(crate) async fn exercise(aws: &LocalAws) {
    let id = snapshot(aws).await;
    let event = share(aws, &id, &[]).await;
    // A retry reads its own entry.
    aws.proxy
        .fail_next("ModifySnapshotAttribute", 1, Fault::denied());
    aws.deliver(&event).await.unwrap();
    wait_for("the snapshot to be private", async || {
        holders(aws, &id).await.is_empty().then_some(())
    })
    .await;
    aws.quiet().await;
    let entries = aws.entries_of(&id).await.unwrap();
    unblock(aws);
    assert_eq!(undo(aws, &request(&entries[0]))["verdict"], "undone");
    aws.quiet().await;
    block(aws);
}
