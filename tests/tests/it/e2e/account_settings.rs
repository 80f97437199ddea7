//! Settings of the account that were weakened, on the deployed stack.

use aws_sdk_ec2::types::{MetadataDefaultHttpTokensState, SnapshotBlockPublicAccessState};

use super::encryption::{RESTORE, look_by, told};
use super::sweep::settle;
use super::undo::{request, undo};
use super::*;

/// The settings as they are now: block, tokens and hops, console.
async fn settings(aws: &LocalAws) -> (String, String, bool) {
    let block = aws.ec2.get_snapshot_block_public_access_state().send();
    let block = block.await.unwrap().state.unwrap();
    let defaults = aws.ec2.get_instance_metadata_defaults().send();
    let defaults = defaults.await.unwrap().account_level.unwrap();
    let tokens = defaults.http_tokens().map_or("none", |t| t.as_str());
    let hops = defaults.http_put_response_hop_limit();
    let console = aws.ec2.get_serial_console_access_status().send();
    let console = console.await.unwrap().serial_console_access_enabled;
    (
        block.as_str().to_owned(),
        format!("{tokens} {hops:?}"),
        console == Some(true),
    )
}

/// Everything as it should be, with the strongest block, and the sweep knows it.
async fn good(aws: &LocalAws) -> (String, String, bool) {
    let block = aws.ec2.enable_snapshot_block_public_access();
    let block = block.state(SnapshotBlockPublicAccessState::BlockAllSharing);
    block.send().await.unwrap();
    let defaults = aws.ec2.modify_instance_metadata_defaults();
    let defaults = defaults.http_tokens(MetadataDefaultHttpTokensState::Required);
    let defaults = defaults.http_put_response_hop_limit(2);
    defaults.send().await.unwrap();
    let console = aws.ec2.disable_serial_console_access();
    console.send().await.unwrap();
    settle(aws).await;
    settings(aws).await
}

fn event(call: &str) -> Value {
    let request = format!("{call}Request");
    cloudtrail::call(call, json!({ request: "" }), json!({}))
}

/// Weakens all three, as a person would; the events.
async fn weaken(aws: &LocalAws) -> [(&'static str, Value); 3] {
    let block = aws.ec2.enable_snapshot_block_public_access();
    let block = block.state(SnapshotBlockPublicAccessState::BlockNewSharing);
    block.send().await.unwrap();
    let defaults = aws.ec2.modify_instance_metadata_defaults();
    let defaults = defaults.http_tokens(MetadataDefaultHttpTokensState::NoPreference);
    let defaults = defaults.http_put_response_hop_limit(-1);
    defaults.send().await.unwrap();
    let console = aws.ec2.enable_serial_console_access();
    console.send().await.unwrap();
    [
        (
            "snapshot-sharing-block",
            event("EnableSnapshotBlockPublicAccess"),
        ),
        ("metadata-defaults", event("ModifyInstanceMetadataDefaults")),
        ("serial-console", event("EnableSerialConsoleAccess")),
    ]
}

fn exempt(controls: &[&str]) -> Value {
    let exemption = json!({"until": "2099-12-31", "owner": "jo@example.com"});
    let controls = controls.iter().map(|control| {
        let settings = json!({"mode": "enforce", "settings": {"exemption": exemption}});
        ((*control).to_owned(), settings)
    });
    let controls: serde_json::Map<String, Value> = controls.collect();
    json!({"version": 1, "controls": controls})
}

/// Weakens everything, has it restored and takes that back under an exemption.
async fn there_and_back(aws: &LocalAws) {
    let before = good(aws).await;
    let count = aws.entries().await.unwrap().len();
    let events = weaken(aws).await;
    let weak = settings(aws).await;
    for (control, event) in &events {
        assert_eq!(aws.deliver(event).await.unwrap(), [RESTORE], "{control}");
        aws.quiet().await;
    }
    assert_eq!(settings(aws).await, before, "exactly as before");
    let mut entries = aws.entries().await.unwrap().split_off(count);
    entries.retain(|entry| entry["status"] == "remediated");
    let mut of: Vec<&str> = entries
        .iter()
        .filter_map(|e| e["control"].as_str())
        .collect();
    of.sort_unstable();
    assert_eq!(
        of,
        [
            "metadata-defaults",
            "serial-console",
            "snapshot-sharing-block"
        ]
    );
    for entry in &entries {
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "refused", "{answer}");
    }
    assert_eq!(settings(aws).await, before);
    aws.set_policy(&exempt(&of)).await.unwrap();
    for entry in &entries {
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
    }
    assert_eq!(settings(aws).await, weak, "the exact former values");
    for (_, event) in &events {
        assert_eq!(look_by(aws, RESTORE, event), "exempt");
    }
    assert_eq!(settings(aws).await, weak);
    aws.quiet().await;
}

#[test]
fn weakened_settings_are_restored_to_exactly_what_they_were_and_undone_under_an_exemption() {
    scenario(async |aws| {
        there_and_back(aws).await;
        let messages = told(aws, "serial console in us-east-1", 3).await;
        assert!(messages[0].bodies["default"].contains("access to the serial console is off"));
        good(aws).await;
    });
}

/// Makes the function and undo call everything that they may call for settings.
pub(crate) async fn exercise(aws: &LocalAws) {
    there_and_back(aws).await;
    // From no block at all: undo turns it off again.
    good(aws).await;
    let count = aws.entries().await.unwrap().len();
    let disable = aws.ec2.disable_snapshot_block_public_access();
    disable.send().await.unwrap();
    let event = event("DisableSnapshotBlockPublicAccess");
    aws.set_policy(&json!({"version": 1})).await.unwrap();
    aws.deliver(&event).await.unwrap();
    aws.quiet().await;
    let mut entries = aws.entries().await.unwrap().split_off(count);
    entries.retain(|entry| entry["status"] == "remediated");
    aws.set_policy(&exempt(&["snapshot-sharing-block"]))
        .await
        .unwrap();
    assert_eq!(undo(aws, &request(&entries[0]))["verdict"], "undone");
    good(aws).await;
}
