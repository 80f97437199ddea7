//! The deployed stack, against the real SDK clients with canned answers.

use std::fmt::Write as _;
use std::time::Duration;

use backstop_aws::clients::OperationsClients;
use backstop_aws::deadline::Deadline;
use backstop_aws::stack::Stack;
use backstop_wire::{Call, Reply, Wire};

/// A page of ListStackResources: logical id, physical id, type and status of each,
/// and where the next page begins.
pub(crate) fn resources(of: &[(&str, &str, &str, &str)], next: Option<&str>) -> Reply {
    let mut members = String::new();
    for (logical, physical, kind, status) in of {
        let _ = write!(
            members,
            "<member><LogicalResourceId>{logical}</LogicalResourceId><PhysicalResourceId>{physical}</PhysicalResourceId><ResourceType>{kind}</ResourceType><LastUpdatedTimestamp>2026-11-24T10:00:00Z</LastUpdatedTimestamp><ResourceStatus>{status}</ResourceStatus></member>"
        );
    }
    let next = next.map_or_else(String::new, |token| {
        format!("<NextToken>{token}</NextToken>")
    });
    Reply::ok(format!(
        "<ListStackResourcesResponse><ListStackResourcesResult><StackResourceSummaries>{members}</StackResourceSummaries>{next}</ListStackResourcesResult></ListStackResourcesResponse>"
    ))
}

/// A stack of 130 resources, a hundred on the first page.
fn answer(call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeStacks" => Reply::ok(
            "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>backstop</StackName><CreationTime>2026-11-24T10:00:00Z</CreationTime><StackStatus>CREATE_COMPLETE</StackStatus><Outputs><member><OutputKey>LedgerTableName</OutputKey><OutputValue>ledger</OutputValue></member></Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>",
        ),
        "ListStackResources" => {
            assert_eq!(call.parameter("StackName"), Some("backstop"));
            let (page, next) = match call.parameter("NextToken") {
                None => (0..100, Some("2")),
                Some("2") => (100..130, None),
                other => panic!("{other:?}"),
            };
            let ids: Vec<(String, String)> = page
                .map(|n| (format!("Logical{n}"), format!("physical-{n}")))
                .collect();
            let of: Vec<_> = ids
                .iter()
                .map(|(logical, physical)| {
                    (
                        &**logical,
                        &**physical,
                        "AWS::SQS::Queue",
                        "CREATE_COMPLETE",
                    )
                })
                .collect();
            resources(&of, next)
        }
        other => panic!("{other}"),
    }
}

async fn read(wire: &Wire) -> Result<Stack, String> {
    let operations = OperationsClients::new(&wire.config(1));
    let deadline = Deadline::new(Duration::from_secs(60));
    let stack = Stack::read(&operations, "backstop", &deadline).await;
    stack.map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_more_than_a_hundred_resources_is_read_to_its_end() {
    let stack = read(&Wire::new(answer)).await.unwrap();
    assert_eq!(stack.resources.len(), 130);
    for n in [0, 99, 100, 129] {
        let physical = stack.resources.get(&format!("Logical{n}"));
        assert_eq!(physical, Some(&format!("physical-{n}")), "{n}");
    }
    assert_eq!(stack.outputs["LedgerTableName"], "ledger");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_cannot_be_read_is_an_error_and_no_shorter_stack() {
    let wire = Wire::new(|call| match call.parameter("NextToken") {
        Some(_) => Reply::query_error(400, "Throttling", "Rate exceeded"),
        None => answer(call),
    });
    let error = read(&wire).await.unwrap_err();
    assert!(error.contains("ListStackResources"), "{error}");
}
