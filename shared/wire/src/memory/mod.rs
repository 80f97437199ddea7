//! AWS in memory: the state that a run of several functions leaves behind, held
//! in one value that is cloned, compared and thrown away.
//!
//! Elsewhere answers are canned, and each test says what AWS answers. That does
//! not work for the fault run, which fails every call in every way and checks
//! the final state: there an answer depends on the calls before it. The emulators
//! of the end-to-end tests could answer, but take milliseconds a call, and the
//! fault run makes tens of thousands.
//!
//! Deliberately not here: calls that Backstop does not make, and any expectation
//! of what Backstop should do. A call that is not modelled panics.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{Call, Reply};

pub mod ec2;
mod expression;
pub mod systems_manager;
pub mod table;

use ec2::Ec2;
use systems_manager::SystemsManager;
use table::{Index, Table};

/// An account and Region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cloud {
    /// The ledger's table.
    pub table: Table,
    /// EC2.
    pub ec2: Ec2,
    /// Systems Manager, but for parameters.
    pub systems_manager: SystemsManager,
    /// The policy parameter's value.
    pub policy: String,
    /// The events that were put on the bus and have not been taken off it:
    /// entries as PutEvents takes them.
    pub bus: Vec<Value>,
    /// What was published to the topic: subjects and messages.
    pub published: Vec<(String, String)>,
    /// The executions that were started: name and input, oldest first.
    pub executions: Vec<(String, Value)>,
    /// Names of the stack's rules.
    pub rules: Vec<String>,
}

impl Cloud {
    /// An empty account, with a table that has these indexes.
    #[must_use]
    pub fn new(account: &str, policy: &str, indexes: Vec<Index>) -> Self {
        let mut cloud = Self {
            table: Table::new(indexes),
            policy: policy.to_owned(),
            ..Self::default()
        };
        account.clone_into(&mut cloud.ec2.account);
        cloud
    }

    /// Answers a call, which takes effect now.
    pub fn answer(&mut self, call: &Call, now: Timestamp) -> Reply {
        let state = self
            .table
            .answer(call)
            .or_else(|| self.ec2.answer(call, now))
            .or_else(|| self.systems_manager.answer(call, now));
        state.unwrap_or_else(|| self.other(call))
    }

    fn other(&mut self, call: &Call) -> Reply {
        let answer = match call.operation.as_str() {
            "GetParameter" => json!({ "Parameter": { "Value": self.policy, "Version": 3 } }),
            "PutEvents" => {
                let entries = call.json["Entries"].as_array().unwrap();
                self.bus.extend(entries.iter().cloned());
                let ids: Vec<Value> = entries.iter().map(|_| json!({ "EventId": "1" })).collect();
                json!({ "FailedEntryCount": 0, "Entries": ids })
            }
            "Publish" => {
                let text = |name: &str| call.parameter(name).unwrap_or_default().to_owned();
                self.published.push((text("Subject"), text("Message")));
                return Reply::ok(
                    "<PublishResponse><PublishResult><MessageId>m</MessageId></PublishResult></PublishResponse>",
                );
            }
            "StartExecution" => {
                let name = call.json["name"].as_str().unwrap();
                let input: Value =
                    serde_json::from_str(call.json["input"].as_str().unwrap()).unwrap();
                match self.executions.iter().find(|(of, _)| of == name) {
                    None => self.executions.push((name.to_owned(), input)),
                    Some((_, same)) if *same == input => {}
                    Some(_) => return Reply::json_error("ExecutionAlreadyExists", name),
                }
                json!({ "executionArn": format!("arn:execution:{name}"), "startDate": 1.0 })
            }
            // Backstop's own health, which is good.
            "DescribeTrails" => {
                // Of the organisation, at home in another Region.
                let arn = "arn:aws:cloudtrail:eu-west-1:444455556666:trail/t";
                json!({ "trailList": [{ "Name": "t", "TrailARN": arn, "IsMultiRegionTrail": true }] })
            }
            "GetTrailStatus" => json!({ "IsLogging": true }),
            "GetEventSelectors" => {
                json!({ "EventSelectors": [{ "ReadWriteType": "All", "IncludeManagementEvents": true }] })
            }
            "ListStackResources" => {
                let members = self.rules.iter().map(|rule| {
                    format!("<member><LogicalResourceId>{rule}</LogicalResourceId><PhysicalResourceId>{rule}</PhysicalResourceId><ResourceType>AWS::Events::Rule</ResourceType><LastUpdatedTimestamp>2026-11-24T10:00:00Z</LastUpdatedTimestamp><ResourceStatus>CREATE_COMPLETE</ResourceStatus></member>")
                });
                let members: String = members.collect();
                return Reply::ok(format!(
                    "<ListStackResourcesResponse><ListStackResourcesResult><StackResourceSummaries>{members}</StackResourceSummaries></ListStackResourcesResult></ListStackResourcesResponse>"
                ));
            }
            "DescribeRule" => json!({ "Name": call.json["Name"], "State": "ENABLED" }),
            "GetTopicAttributes" => {
                return Reply::ok(
                    "<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>SubscriptionsConfirmed</key><value>1</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>",
                );
            }
            "GetQueueAttributes" => json!({ "Attributes": { "ApproximateNumberOfMessages": "0" } }),
            "ReceiveMessage" => json!({}),
            other => panic!("AWS in memory has no {other}"),
        };
        Reply::ok(answer.to_string())
    }
}
