//! Settings of the account that were weakened, on the deployed stack.

use backstop_wire::memory::ec2::Settings;

use super::encryption::{RESTORE, look_by, told};
use super::snapshots::UNSHARE;
use super::sweep::settle;
use super::undo::{request, undo};
use super::*;

/// The settings as they are now.
fn settings(aws: &LocalAws) -> Settings {
    aws.proxy.settings(|settings| settings.clone())
}

/// Everything as it should be, with the strongest block, and the sweep knows it.
async fn good(aws: &LocalAws) -> Settings {
    aws.proxy.settings(|settings| {
        *settings = Settings {
            block: "block-all-sharing".to_owned(),
            ..Settings::default()
        }
    });
    settle(aws).await;
    settings(aws)
}

/// As they are in an account that this file has not touched.
fn reset(aws: &LocalAws) {
    aws.proxy
        .settings(|settings| *settings = Settings::default());
}

fn event(call: &str) -> Value {
    let request = format!("{call}Request");
    cloudtrail::call(call, json!({ request: "" }), json!({}))
}

/// Weakens all of them, as a person would; the events.
fn weaken(aws: &LocalAws) -> [(&'static str, Value); 4] {
    aws.proxy.settings(|settings| {
        settings.block = "block-new-sharing".to_owned();
        settings.tokens = "no-preference".to_owned();
        settings.hops = "-1".to_owned();
        settings.console = true;
        settings.image_block = "unblocked".to_owned();
    });
    [
        (
            "snapshot-sharing-block",
            event("EnableSnapshotBlockPublicAccess"),
        ),
        ("metadata-defaults", event("ModifyInstanceMetadataDefaults")),
        ("serial-console", event("EnableSerialConsoleAccess")),
        (
            "image-sharing-block",
            event("DisableImageBlockPublicAccess"),
        ),
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
    let events = weaken(aws);
    let weak = settings(aws);
    for (control, event) in &events {
        let functions = aws.deliver(event).await.unwrap();
        // What the block of snapshots hides is looked at as well.
        let expected: &[&str] = match *control {
            "snapshot-sharing-block" => &[RESTORE, UNSHARE],
            _ => &[RESTORE],
        };
        assert_eq!(functions, expected, "{control}");
        aws.quiet().await;
    }
    assert_eq!(settings(aws), before, "exactly as before");
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
            "image-sharing-block",
            "metadata-defaults",
            "serial-console",
            "snapshot-sharing-block"
        ]
    );
    for entry in &entries {
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "refused", "{answer}");
    }
    assert_eq!(settings(aws), before);
    aws.set_policy(&exempt(&of)).await.unwrap();
    for entry in &entries {
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
    }
    assert_eq!(settings(aws), weak, "the exact former values");
    for (_, event) in &events {
        assert_eq!(look_by(aws, RESTORE, event), "exempt");
    }
    assert_eq!(settings(aws), weak);
    aws.quiet().await;
}

#[test]
fn weakened_settings_are_restored_to_exactly_what_they_were_and_undone_under_an_exemption() {
    scenario(async |aws| {
        there_and_back(aws).await;
        let messages = told(aws, "serial console in us-east-1", 3).await;
        assert!(messages[0].bodies["default"].contains("access to the serial console is off"));
        reset(aws);
    });
}

/// EC2 shows the block of public images minutes after it has accepted it.
#[test]
fn what_shows_late_is_pending_and_confirmed_once_it_shows() {
    scenario(async |aws| {
        good(aws).await;
        let count = aws.entries().await.unwrap().len();
        aws.proxy.settings(|settings| {
            settings.image_block = "unblocked".to_owned();
            settings.image_block_lag = Duration::from_secs(20);
        });
        let event = event("DisableImageBlockPublicAccess");
        assert_eq!(look_by(aws, RESTORE, &event), "pending");
        assert_eq!(settings(aws).image_block, "block-new-sharing");
        assert_eq!(look_by(aws, RESTORE, &event), "pending");
        let entries = aws.entries().await.unwrap().split_off(count);
        let [entry] = &entries[..] else {
            panic!("one entry: {entries:#?}")
        };
        assert_eq!(
            entry["document"]["outcomes"].as_array().unwrap().len(),
            1,
            "one call"
        );
        let early = undo(aws, &request(entry));
        assert_eq!(early["verdict"], "in-progress", "{early}");
        wait_for("the block to show", async || {
            (look_by(aws, RESTORE, &event) == "remediated").then_some(())
        })
        .await;
        let entries = aws.entries().await.unwrap().split_off(count);
        assert_eq!(entries.len(), 1);
        assert_eq!(
            entries[0]["document"]["outcomes"].as_array().unwrap().len(),
            1
        );
        let messages = told(aws, "image sharing block in us-east-1", 2).await;
        assert!(messages[0].bodies["default"].contains("does not show it yet"));
        assert!(messages[1].bodies["default"].contains("FIXED"));
        reset(aws);
    });
}

/// Makes the function and undo call everything that they may call for settings.
pub(crate) async fn exercise(aws: &LocalAws) {
    there_and_back(aws).await;
    // From no block at all: undo turns it off again.
    good(aws).await;
    let count = aws.entries().await.unwrap().len();
    aws.proxy
        .settings(|settings| settings.block = "unblocked".to_owned());
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
    reset(aws);
}
