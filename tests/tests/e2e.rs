//! End to end on the local AWS: the deployed template, the real binaries, real
//! calls over HTTP. One deployment for all scenarios; they take turns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use backstop_tests::cloudtrail;
use backstop_tests::local_aws::scenario;
use serde_json::{Value, json};

#[test]
fn an_event_that_no_rule_matches_invokes_nothing() {
    scenario(async |aws| {
        let event = cloudtrail::call("DescribeInstances", json!({}), Value::Null);
        assert!(aws.deliver(&event).await.unwrap().is_empty());
    });
}
