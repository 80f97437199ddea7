//! Images that everyone can launch, on the deployed stack.

use super::encryption::look_by;
use super::snapshots::{UNSHARE, block, told, unblock};
use super::sweep::{settle, sweep};
use super::undo::{request, undo};
use super::*;

const FRIEND: &str = "444455556666";

/// A new image, private.
async fn image(aws: &LocalAws) -> String {
    let register = aws.ec2.register_image();
    let register = register.name(format!("golden-{}", aws.next()));
    let image = register.root_device_name("/dev/xvda").send().await;
    image.unwrap().image_id.unwrap()
}

/// Changes its grants, as a person would; the event.
async fn grant(aws: &LocalAws, id: &str, add: bool, items: Value) -> Value {
    use aws_sdk_ec2::types::{LaunchPermission, LaunchPermissionModifications};
    let grants = items.as_array().unwrap().iter().map(|grant| {
        let text = |name: &str| grant[name].as_str();
        LaunchPermission::builder()
            .set_group(text("group").map(Into::into))
            .set_user_id(text("userId").map(Into::into))
            .build()
    });
    let grants: Vec<LaunchPermission> = grants.collect();
    let change = LaunchPermissionModifications::builder();
    let change = match add {
        true => change.set_add(Some(grants)),
        false => change.set_remove(Some(grants)),
    };
    let modify = aws.ec2.modify_image_attribute().image_id(id);
    let modify = modify.launch_permission(change.build());
    modify.send().await.unwrap();
    let way = if add { "add" } else { "remove" };
    cloudtrail::call(
        "ModifyImageAttribute",
        json!({
            "imageId": id,
            "attributeType": "launchPermission",
            "launchPermission": {way: {"items": items}},
        }),
        json!({"_return": true}),
    )
}

/// Who may launch it, sorted.
async fn holders(aws: &LocalAws, id: &str) -> Vec<String> {
    use aws_sdk_ec2::types::ImageAttributeName;
    let read = aws.ec2.describe_image_attribute().image_id(id);
    let read = read.attribute(ImageAttributeName::LaunchPermission);
    let answer = read.send().await.unwrap();
    let grants = answer.launch_permissions().iter();
    let mut holders: Vec<String> = grants
        .filter_map(|grant| {
            let group = grant.group().map(|group| group.as_str().to_owned());
            group.or_else(|| grant.user_id().map(str::to_owned))
        })
        .collect();
    holders.sort();
    holders
}

#[test]
fn an_image_shared_with_everyone_is_closed_and_a_named_account_keeps_its_grant() {
    scenario(async |aws| {
        unblock(aws);
        let (id, neighbour) = (image(aws).await, image(aws).await);
        grant(aws, &neighbour, true, json!([{"userId": FRIEND}])).await;
        let both = json!([{"group": "all"}, {"userId": FRIEND}]);
        let event = grant(aws, &id, true, both).await;
        assert_eq!(aws.deliver(&event).await.unwrap(), [UNSHARE]);
        let message = &told(aws, &id, 1).await[0];
        for part in ["jo@example.com", "shared with everyone"] {
            assert!(message.bodies["default"].contains(part), "{message:#?}");
        }
        assert_eq!(holders(aws, &id).await, [FRIEND]);
        assert_eq!(holders(aws, &neighbour).await, [FRIEND]);
        let [entry] = &aws.entries_of(&id).await.unwrap()[..] else {
            panic!("one entry")
        };
        assert_eq!(
            (&entry["status"], &entry["told"]),
            (&json!("remediated"), &json!(true))
        );
        assert_eq!(look_by(aws, UNSHARE, &event), "nothing to do");

        // Back, and left alone from then on.
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert_eq!(holders(aws, &id).await, [FRIEND, "all"]);
        told(aws, &id, 2).await;
        assert_eq!(look_by(aws, UNSHARE, &event), "exempt");
        assert_eq!(holders(aws, &id).await, [FRIEND, "all"]);
        block(aws);
    });
}

#[test]
fn an_image_that_its_publisher_opted_out_stays_public() {
    scenario(async |aws| {
        let id = image(aws).await;
        tag(aws, &id, "public-image owner=publishing").await;
        let event = grant(aws, &id, true, json!([{"group": "all"}])).await;
        assert_eq!(look_by(aws, UNSHARE, &event), "exempt");
        assert_eq!(holders(aws, &id).await, ["all"]);
        told(aws, &id, 1).await;
    });
}

#[test]
fn the_sweep_finds_a_public_image_whose_event_was_lost() {
    scenario(async |aws| {
        settle(aws).await;
        let id = image(aws).await;
        grant(aws, &id, true, json!([{"group": "all"}])).await;
        assert_eq!(sweep(aws), "told");
        wait_for("the image to be private", async || {
            holders(aws, &id).await.is_empty().then_some(())
        })
        .await;
        // What became of it, and the digest.
        told(aws, &id, 2).await;
    });
}

/// Makes the function and undo call everything that they may call for images.
pub(crate) async fn exercise(aws: &LocalAws) {
    unblock(aws);
    let id = image(aws).await;
    let event = grant(aws, &id, true, json!([{"group": "all"}])).await;
    aws.deliver(&event).await.unwrap();
    told(aws, &id, 1).await;
    let entries = aws.entries_of(&id).await.unwrap();
    assert_eq!(undo(aws, &request(&entries[0]))["verdict"], "undone");
    aws.quiet().await;
    block(aws);
}
