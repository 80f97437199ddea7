//! Instances that answer IMDSv1, on the deployed stack, with the figures of CloudWatch.

use super::encryption::look_by;
use super::patching::bare;
use super::snapshots::told;
use super::sweep::{settle, sweep};
use super::undo::{request, undo};
use super::*;

/// What requires tokens.
pub(crate) const REQUIRE: &str = "RequireImdsv2Function";

/// Only the policy enforces it.
async fn enforce(aws: &LocalAws) {
    let off = json!({"mode": "off"});
    let controls = json!({
        "imdsv1": {"mode": "enforce", "existing": "enforce"},
        // What they would say of these instances is not what this is about.
        "missing-patches": off,
        "unmanaged-instance": off,
    });
    aws.set_policy(&json!({"version": 1, "controls": controls}))
        .await
        .unwrap();
}

/// A running instance that answers IMDSv1. CloudWatch has counted so many requests
/// without a token, in the last of 14 days in which it counted none before.
async fn instance(aws: &LocalAws, used: Option<u32>) -> String {
    let id = bare(aws, 1, &[]).await.remove(0);
    aws.proxy.metadata(&id, |metadata| {
        "optional".clone_into(&mut metadata.tokens);
        metadata.hops = 1;
    });
    if let Some(used) = used {
        // The first hour is about to leave what CloudWatch keeps here.
        let hours: Vec<i64> = (1..14 * 24).collect();
        counted(aws, &id, "MetadataNoToken", &hours, 0.0);
        counted(aws, &id, "MetadataNoToken", &[2], f64::from(used));
    }
    id
}

/// CloudWatch counted something so many hours ago.
fn counted(aws: &LocalAws, id: &str, metric: &str, hours: &[i64], sum: f64) {
    let now = jiff::Timestamp::now().as_second();
    for hours in hours.chunks(100) {
        let data = hours.iter().map(|ago| {
            json!({
                "MetricName": metric,
                "Dimensions": [{"Name": "InstanceId", "Value": id}],
                "Timestamp": now - ago * 3600,
                "Value": sum,
            })
        });
        let data: Vec<Value> = data.collect();
        let put = json!({"Namespace": "AWS/EC2", "MetricData": data});
        aws.put_metric_data(&put).unwrap();
    }
}

fn options(aws: &LocalAws, id: &str) -> (String, String, u8) {
    aws.proxy
        .metadata(id, |of| (of.tokens.clone(), of.endpoint.clone(), of.hops))
}

fn is(tokens: &str) -> (String, String, u8) {
    (tokens.to_owned(), "enabled".to_owned(), 1)
}

/// The event of a person who made tokens optional.
fn event(id: &str) -> Value {
    cloudtrail::call(
        "ModifyInstanceMetadataOptions",
        json!({"ModifyInstanceMetadataOptionsRequest": {
            "InstanceId": id, "HttpTokens": "optional", "HttpEndpoint": "enabled",
        }}),
        json!({"ModifyInstanceMetadataOptionsResponse": {"instanceId": id}}),
    )
}

#[test]
fn tokens_are_required_on_proof_and_a_neighbour_that_uses_imdsv1_is_told() {
    scenario(async |aws| {
        enforce(aws).await;
        let (id, user) = (instance(aws, Some(0)).await, instance(aws, Some(7)).await);
        assert_eq!(aws.deliver(&event(&id)).await.unwrap(), [REQUIRE]);
        let message = &told(aws, &id, 1).await[0];
        for part in ["jo@example.com", "open to IMDSv1", "hop limit is 1"] {
            assert!(message.bodies["default"].contains(part), "{message:#?}");
        }
        assert_eq!(options(aws, &id), is("required"), "the hop limit stays");
        let [entry] = &aws.entries_of(&id).await.unwrap()[..] else {
            panic!("one entry")
        };
        assert_eq!(entry["status"], "remediated", "{entry:#}");
        assert_eq!(look_by(aws, REQUIRE, &event(&id)), "nothing to do");

        assert_eq!(look_by(aws, REQUIRE, &event(&user)), "pending");
        let message = &told(aws, &user, 1).await[0];
        let said = &message.bodies["default"];
        assert!(
            said.contains("counted 7 requests without a token"),
            "{said}"
        );
        assert_eq!(options(aws, &user), is("optional"));

        // What it broke is told by the sweep, with the way back.
        counted(aws, &id, "MetadataNoTokenRejected", &[0], 3.0);
        sweep(aws);
        aws.quiet().await;
        let refused = aws.published().into_iter().find(|message| {
            let subject = message.subject.as_deref().unwrap_or_default();
            subject.contains("REFUSED")
        });
        let refused = refused.expect("it is told").bodies["default"].clone();
        let undo_it = format!(
            "backstop undo {}",
            entry["document"]["id"].as_str().unwrap()
        );
        assert!(refused.contains(&undo_it), "{refused}");

        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert_eq!(options(aws, &id), is("optional"));
        assert_eq!(look_by(aws, REQUIRE, &event(&id)), "exempt");
        assert_eq!(options(aws, &id), is("optional"));
    });
}

#[test]
fn an_instance_that_its_team_opted_out_goes_on_answering_imdsv1() {
    scenario(async |aws| {
        enforce(aws).await;
        let id = instance(aws, Some(0)).await;
        tag(aws, &id, "imdsv1 owner=legacy").await;
        assert_eq!(look_by(aws, REQUIRE, &event(&id)), "exempt");
        told(aws, &id, 1).await;
        assert_eq!(options(aws, &id), is("optional"));
    });
}

#[test]
fn the_sweep_finds_an_instance_whose_event_was_lost() {
    scenario(async |aws| {
        settle(aws).await;
        enforce(aws).await;
        let (id, new) = (instance(aws, Some(0)).await, instance(aws, None).await);
        assert_eq!(sweep(aws), "told");
        wait_for("tokens to be required", async || {
            (options(aws, &id) == is("required")).then_some(())
        })
        .await;
        told(aws, &id, 2).await;
        assert_eq!(options(aws, &new), is("optional"), "nothing proves it");
        let message = &told(aws, &new, 2).await;
        assert!(
            message
                .iter()
                .any(|message| message.bodies["default"].contains("is not proven")),
            "{message:#?}"
        );
    });
}

/// Makes the function, the sweep and undo call everything that they may call for
/// metadata services.
pub(crate) async fn exercise(aws: &LocalAws) {
    enforce(aws).await;
    let id = instance(aws, Some(0)).await;
    // A retry reads its own entry.
    aws.proxy
        .fail_next("ModifyInstanceMetadataOptions", 1, Fault::denied());
    aws.deliver(&event(&id)).await.unwrap();
    wait_for("tokens to be required", async || {
        (options(aws, &id) == is("required")).then_some(())
    })
    .await;
    aws.quiet().await;
    sweep(aws);
    let entries = aws.entries_of(&id).await.unwrap();
    assert_eq!(undo(aws, &request(&entries[0]))["verdict"], "undone");
    aws.quiet().await;
}
