//! The calls of `imdsv1`, against the real clients with answers written from the API
//! references of EC2 and CloudWatch.

use std::collections::BTreeSet;

use backstop_aws::error::AwsError;
use backstop_aws::remediation::{Remediation as _, Stopped, Walked};
use backstop_core::controls::imdsv1::{HttpEndpoint, ITEM, ImdsV1, Instance, Options};
use backstop_core::controls::metadata_defaults::HttpTokens;
use backstop_core::plan::{Change, Ending, Outcome, Step};
use backstop_wire::{Call, Reply, Wire};
use serde_json::{Value, json};

use crate::calls::{at, failing, parameters, xml};

const ID: &str = "i-0a3f5c7e91b2d4f60";
const OPEN: Options = Options {
    http_tokens: HttpTokens::Optional,
    http_endpoint: HttpEndpoint::Enabled,
};
const CLOSED: Options = Options {
    http_tokens: HttpTokens::Required,
    http_endpoint: HttpEndpoint::Enabled,
};

/// An instance as DescribeInstances shows it.
fn item(id: &str, tokens: &str, endpoint: &str) -> String {
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name></instanceState><launchTime>2026-11-01T10:00:00.000Z</launchTime><metadataOptions><state>pending</state><httpTokens>{tokens}</httpTokens><httpPutResponseHopLimit>1</httpPutResponseHopLimit><httpEndpoint>{endpoint}</httpEndpoint></metadataOptions><tagSet><item><key>Name</key><value>web-1</value></item></tagSet></item>"
    )
}

fn instances(items: &str, next: Option<&str>) -> Reply {
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    xml(
        "DescribeInstances",
        &format!(
            "<reservationSet><item><reservationId>r-1</reservationId><ownerId>111122223333</ownerId><instancesSet>{items}</instancesSet></item></reservationSet>{next}"
        ),
    )
}

/// A point of `sum` each hour of a request, of each of its queries.
fn points(call: &Call, sum: f64) -> Value {
    let second = |name: &str| call.json[name].as_i64().unwrap();
    let hours: Vec<i64> = (second("StartTime")..second("EndTime"))
        .step_by(3600)
        .collect();
    let sums = vec![sum; hours.len()];
    let results: Vec<Value> = call.json["MetricDataQueries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| json!({ "Id": of["Id"], "Label": "x", "Timestamps": hours, "Values": sums, "StatusCode": "Complete" }))
        .collect();
    json!({ "MetricDataResults": results, "Messages": [] })
}

fn answer(call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeInstances" => instances(&item(ID, "optional", "enabled"), None),
        "GetInstanceMetadataDefaults" => xml(
            "GetInstanceMetadataDefaults",
            "<accountLevel><httpTokensEnforced>enabled</httpTokensEnforced></accountLevel>",
        ),
        "GetMetricData" => Reply::ok(points(call, 0.0).to_string()),
        "ModifyInstanceMetadataOptions" => xml(
            "ModifyInstanceMetadataOptions",
            &format!(
                "<instanceId>{ID}</instanceId><instanceMetadataOptions><state>pending</state><httpTokens>required</httpTokens></instanceMetadataOptions>"
            ),
        ),
        other => panic!("{other}"),
    }
}

/// The same, with another answer to one operation.
fn with(operation: &'static str, reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Wire {
    Wire::new(move |call| match call.operation == operation {
        true => reply(call),
        false => answer(call),
    })
}

async fn gather(wire: &Wire) -> Result<Option<Instance>, AwsError> {
    at(wire, async |aws, place| {
        ImdsV1::gather(aws, place, ID).await
    })
    .await
}

async fn apply(wire: &Wire, change: &Change<Options>) -> Vec<Outcome> {
    at(wire, async |aws, place| {
        ImdsV1::apply(aws, place, ID, change).await
    })
    .await
}

async fn walk(wire: &Wire) -> (Result<Walked, Stopped>, Vec<Vec<Instance>>) {
    let mut pages = Vec::new();
    let walked = at(wire, async |aws, place| {
        ImdsV1::walk(aws, place, async |page| pages.push(page)).await
    })
    .await;
    (walked, pages)
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_read_with_the_figures_of_fourteen_days() {
    let wire = Wire::new(answer);
    let instance = gather(&wire).await.unwrap().unwrap();
    assert_eq!(instance.id, ID);
    assert_eq!(
        instance.arn,
        format!("arn:aws:ec2:eu-central-1:111122223333:instance/{ID}")
    );
    assert_eq!(
        (instance.owner.as_str(), instance.name.as_str()),
        ("111122223333", "web-1")
    );
    assert_eq!((instance.options, instance.hop_limit), (OPEN, Some(1)));
    assert_eq!(
        (instance.state.as_str(), instance.enforced),
        ("running", true)
    );
    let usage = instance.usage.unwrap();
    assert_eq!((usage.calls, usage.missing), (0, vec![]));
    assert_eq!(instance.unread, None);
    assert_eq!(wire.sequential_round_trips(), 2);

    let calls = wire.calls();
    let called = |operation: &str| calls.iter().find(|call| call.operation == operation);
    assert_eq!(
        parameters(called("DescribeInstances").unwrap()),
        [("Filter.1.Name", "instance-id"), ("Filter.1.Value.1", ID)]
    );
    let metric = called("GetMetricData").unwrap();
    assert_eq!(metric.service, "monitoring");
    let query = &metric.json["MetricDataQueries"][0];
    assert_eq!(
        query["MetricStat"],
        json!({
            "Metric": {
                "Namespace": "AWS/EC2",
                "MetricName": "MetadataNoToken",
                "Dimensions": [{ "Name": "InstanceId", "Value": ID }],
            },
            "Period": 3600,
            "Stat": "Sum",
        }),
        "no unit: it is another one on Xen"
    );
    let second = |name: &str| metric.json[name].as_i64().unwrap();
    assert_eq!(second("StartTime") % 3600, 0);
    let hours = (second("EndTime") - second("StartTime")) / 3600;
    assert_eq!(hours, 14 * 24 + 1, "and the hour that goes on");
}

/// Nor does it cost anything to look at them.
#[tokio::test(start_paused = true)]
async fn of_instances_that_do_not_answer_imdsv1_no_figures_are_read() {
    for (tokens, endpoint) in [("required", "enabled"), ("optional", "disabled")] {
        let wire = with("DescribeInstances", move |_| {
            instances(&item(ID, tokens, endpoint), None)
        });
        let instance = gather(&wire).await.unwrap().unwrap();
        assert_eq!((instance.usage, instance.unread), (None, None));
        assert!(!wire.operations().contains(&"GetMetricData".to_owned()));
    }
    let managed = "<operator><managed>true</managed><principal>eks.amazonaws.com</principal></operator><tagSet>";
    let wire = with("DescribeInstances", move |_| {
        instances(
            &item(ID, "optional", "enabled").replace("<tagSet>", managed),
            None,
        )
    });
    let instance = gather(&wire).await.unwrap().unwrap();
    assert_eq!(instance.operator.as_deref(), Some("eks.amazonaws.com"));
    assert!(!wire.operations().contains(&"GetMetricData".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_none() {
    let terminated = item(ID, "optional", "enabled").replace(
        "<code>16</code><name>running</name>",
        "<code>48</code><name>terminated</name>",
    );
    for items in [String::new(), terminated] {
        let wire = with("DescribeInstances", move |_| instances(&items, None));
        assert_eq!(gather(&wire).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn no_points_are_no_proof() {
    for body in [
        json!({ "MetricDataResults": [] }),
        json!({ "MetricDataResults": [{ "Id": "m0", "Timestamps": [], "Values": [], "StatusCode": "Complete" }] }),
    ] {
        let wire = with("GetMetricData", move |_| Reply::ok(body.to_string()));
        let usage = gather(&wire).await.unwrap().unwrap().usage.unwrap();
        assert_eq!((usage.calls, usage.missing.len()), (0, 14));
    }
}

#[tokio::test(start_paused = true)]
async fn points_of_all_pages_count() {
    let wire = with("GetMetricData", |call| {
        let mut body = points(call, 1.0);
        let series = &mut body["MetricDataResults"][0];
        let (hours, sums) = match call.json["NextToken"].as_str() {
            None => (0..100, true),
            Some("more") => (100..14 * 24, false),
            other => panic!("{other:?}"),
        };
        for list in ["Timestamps", "Values"] {
            let all = series[list].as_array().unwrap()[hours.clone()].to_vec();
            series[list] = json!(all);
        }
        if sums {
            series["StatusCode"] = json!("PartialData");
            body["NextToken"] = json!("more");
        }
        Reply::ok(body.to_string())
    });
    let usage = gather(&wire).await.unwrap().unwrap().usage.unwrap();
    assert_eq!((usage.calls, usage.missing.len()), (14 * 24, 0));
    let calls = wire.operations();
    assert_eq!(calls.iter().filter(|of| *of == "GetMetricData").count(), 2);
}

/// Nothing may be decided by it, and the run is to fail.
#[tokio::test(start_paused = true)]
async fn figures_that_cannot_be_read_are_said_to_be() {
    let status = |status: &'static str| {
        move |_: &Call| {
            let series =
                json!({ "Id": "m0", "Timestamps": [], "Values": [], "StatusCode": status });
            Reply::ok(json!({ "MetricDataResults": [series] }).to_string())
        }
    };
    for (wire, part) in [
        (
            with("GetMetricData", |_| {
                Reply::json_error("com.amazonaws.cloudwatch#AccessDeniedException", "not you")
            }),
            "GetMetricData: AccessDeniedException: not you",
        ),
        (
            with("GetMetricData", |_| {
                Reply::Answer(500, "<html/>".to_owned())
            }),
            "GetMetricData: Unknown",
        ),
        (
            with("GetMetricData", |_| Reply::ok("<html/>")),
            "GetMetricData: BadResponse",
        ),
        (
            with("GetMetricData", status("InternalError")),
            "InternalError",
        ),
        (with("GetMetricData", status("Forbidden")), "Forbidden"),
        (with("GetMetricData", status("PartialData")), "PartialData"),
    ] {
        let instance = gather(&wire).await.unwrap().unwrap();
        assert_eq!(instance.usage, None, "{part}");
        let unread = instance.unread.unwrap();
        assert!(unread.contains(part), "{unread}");
        let (walked, pages) = walk(&wire).await;
        let stopped = walked.unwrap_err();
        assert!(stopped.to_string().contains(part), "{stopped}");
        assert!(pages.is_empty(), "{part}: nothing is decided about them");
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_figures_are_asked_for_again() {
    let wire = with("GetMetricData", |_| {
        Reply::json_error("ThrottlingException", "slower")
    });
    let config = wire.config(3);
    let clients = backstop_aws::clients::Clients::new(&config);
    let deadline = backstop_aws::deadline::Deadline::new(std::time::Duration::from_secs(60));
    let place = backstop_aws::remediation::Place {
        account: "111122223333",
        region: "eu-central-1",
        deadline: &deadline,
    };
    let instance = ImdsV1::gather(&clients, place, ID).await.unwrap().unwrap();
    assert!(instance.unread.unwrap().contains("ThrottlingException"));
    let calls = wire.operations();
    assert_eq!(calls.iter().filter(|of| *of == "GetMetricData").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn whether_the_account_enforces_it_matters_to_undos_alone() {
    let wire = failing(
        "GetInstanceMetadataDefaults",
        "UnauthorizedOperation",
        answer,
    );
    assert!(
        !gather(&wire).await.unwrap().unwrap().enforced,
        "an undo is tried"
    );
    let wire = failing("DescribeInstances", "UnauthorizedOperation", answer);
    let error = gather(&wire).await.unwrap_err();
    assert_eq!(
        (error.operation, error.retryable),
        ("DescribeInstances", false)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_an_error_that_names_it() {
    for (tokens, endpoint, field, value) in [
        ("sometimes", "enabled", "httpTokens", "sometimes"),
        ("optional", "ajar", "httpEndpoint", "ajar"),
    ] {
        let wire = with("DescribeInstances", move |_| {
            instances(&item(ID, tokens, endpoint), None)
        });
        let error = gather(&wire).await.unwrap_err();
        assert_eq!(error.code, "UnknownValue");
        assert!(
            error.message.contains(field) && error.message.contains(value),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_names_tokens_and_endpoint_alone_and_reads_the_endpoint_before() {
    let required = Change::set(ITEM, OPEN, CLOSED);
    for (change, tokens) in [
        (required.clone(), "required"),
        (required.clone().reversed(), "optional"),
    ] {
        let wire = Wire::new(answer);
        let [outcome] = &apply(&wire, &change).await[..] else {
            panic!("one call, one outcome")
        };
        assert_eq!((outcome.item.as_str(), outcome.step), (ITEM, Step::Set));
        assert_eq!(outcome.ending, Ending::Done);
        assert_eq!(
            wire.operations(),
            ["DescribeInstances", "ModifyInstanceMetadataOptions"]
        );
        assert_eq!(
            parameters(&wire.calls()[1]),
            [
                ("HttpEndpoint", "enabled"),
                ("HttpTokens", tokens),
                ("InstanceId", ID),
            ]
        );
        // Switched off, or gone, between the decision and the change.
        let off = item(ID, "optional", "disabled");
        for (items, part) in [(off, "switched off"), (String::new(), "gone")] {
            let wire = with("DescribeInstances", move |_| instances(&items, None));
            let outcomes = apply(&wire, &change).await;
            let Ending::Skipped { why } = &outcomes[0].ending else {
                panic!("{outcomes:?}")
            };
            assert!(why.contains(part), "{why}");
            assert_eq!(wire.operations(), ["DescribeInstances"]);
        }
    }
    for (operation, code) in [
        ("ModifyInstanceMetadataOptions", "UnsupportedOperation"),
        ("DescribeInstances", "UnauthorizedOperation"),
    ] {
        let wire = failing(operation, code, answer);
        let outcomes = apply(&wire, &required).await;
        let Ending::Failed {
            operation: of,
            code: said,
            ..
        } = &outcomes[0].ending
        else {
            panic!("{outcomes:?}")
        };
        assert_eq!((of.as_str(), said.as_str()), (operation, code));
    }
}

#[tokio::test(start_paused = true)]
async fn the_walk_reads_what_answers_imdsv1_and_five_hundred_figures_a_call() {
    let wire = with("DescribeInstances", |call| {
        let page = |from: u32, to: u32| {
            let ids = (from..to).map(|n| format!("i-{n:017x}"));
            ids.map(|id| item(&id, "optional", "enabled"))
                .collect::<String>()
        };
        match call.parameter("NextToken") {
            None => instances(&page(0, 501), Some("two")),
            Some(_) => instances(&page(501, 503), None),
        }
    });
    let (walked, pages) = walk(&wire).await;
    assert_eq!(walked.unwrap().seen, 503);
    let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!(sizes, [501, 2]);
    let proven = |of: &Instance| {
        of.usage
            .as_ref()
            .is_some_and(|usage| usage.missing.is_empty())
    };
    assert!(
        pages.iter().flatten().all(proven),
        "each has figures of its own"
    );

    let calls = wire.calls();
    let metrics: Vec<&Call> = calls
        .iter()
        .filter(|of| of.operation == "GetMetricData")
        .collect();
    let queries = |call: &Call| call.json["MetricDataQueries"].as_array().unwrap().clone();
    let asked: Vec<usize> = metrics.iter().map(|call| queries(call).len()).collect();
    assert_eq!(asked, [500, 1, 2]);
    let all: Vec<Value> = metrics.iter().flat_map(|call| queries(call)).collect();
    let named = all
        .iter()
        .map(|of| &of["MetricStat"]["Metric"]["Dimensions"][0]["Value"]);
    assert_eq!(
        named.map(Value::to_string).collect::<BTreeSet<_>>().len(),
        503
    );
    let pages: Vec<&Call> = calls
        .iter()
        .filter(|of| of.operation == "DescribeInstances")
        .collect();
    assert_eq!(pages.len(), 2);
    for page in pages {
        for (name, values) in [
            (
                "instance-state-name",
                &["pending", "running", "stopping", "stopped"][..],
            ),
            ("metadata-options.http-tokens", &["optional"]),
            ("metadata-options.http-endpoint", &["enabled"]),
        ] {
            let n = (1..4).find(|n| page.parameter(&format!("Filter.{n}.Name")) == Some(name));
            let n = n.unwrap_or_else(|| panic!("{name}"));
            assert_eq!(page.list(&format!("Filter.{n}.Value")), values);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_walk_over_no_instance_asks_for_no_figures() {
    let wire = with("DescribeInstances", |_| instances("", None));
    let (walked, _) = walk(&wire).await;
    assert_eq!(walked.unwrap().seen, 0);
    assert_eq!(wire.operations(), ["DescribeInstances"]);
}
