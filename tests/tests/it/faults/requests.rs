//! What a call asks IAM: one request for each resource that it names or makes, with
//! the tags that they have, and one for each right that it needs beside its own.
//!
//! Deliberately not here: what IAM answers (`backstop_tests::iam`), and calls that
//! no function makes. They panic.

use std::collections::BTreeMap;

use backstop_tests::iam::{Context, Request};
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_tests::template::text;
use backstop_wire::Call;
use backstop_wire::memory::Cloud;
use backstop_wire::memory::ec2::Tags;
use serde_json::Value;

/// The requests of a call, in the cloud as it is before the call.
pub(crate) fn requests(call: &Call, cloud: &Cloud) -> Vec<Request> {
    match call.service.as_str() {
        "ec2" => of_ec2(call, cloud),
        "ssm" => of_systems_manager(call, cloud),
        "dynamodb" => of_table(call),
        "events" => vec![of_bus(call)],
        "sns" => {
            let action = format!("sns:{}", call.operation);
            vec![plain(&action, call.parameter("TopicArn").unwrap())]
        }
        "sqs" => {
            let url = text(&call.json["QueueUrl"]);
            let arn = here("sqs", url.rsplit('/').next().unwrap());
            vec![plain(&format!("sqs:{}", call.operation), &arn)]
        }
        "states" => vec![plain(
            &format!("states:{}", call.operation),
            text(&call.json["stateMachineArn"]),
        )],
        "cloudtrail" => {
            let named = call.json["Name"]
                .as_str()
                .or(call.json["TrailName"].as_str());
            let action = format!("cloudtrail:{}", call.operation);
            vec![plain(&action, named.unwrap_or("*"))]
        }
        "monitoring" => vec![of_metrics(&call.operation)],
        "cloudformation" => {
            let action = format!("cloudformation:{}", call.operation);
            vec![plain(&action, call.parameter("StackName").unwrap())]
        }
        other => panic!("what a call of {other} asks IAM is not modelled here"),
    }
}

fn here(service: &str, id: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{id}")
}

fn plain(action: &str, resource: &str) -> Request {
    Request::new(action, resource, &Context::new())
}

/// What IAM knows of a resource by its tags.
fn tagged(tags: &Tags) -> Context {
    let tags = tags.iter();
    tags.map(|(key, value)| (format!("aws:ResourceTag/{key}"), vec![value.clone()]))
        .collect()
}

/// What IAM knows of a request by the tags that it sets.
fn setting(tags: &BTreeMap<String, String>) -> Context {
    let mut context: Context = tags
        .iter()
        .map(|(key, value)| (format!("aws:RequestTag/{key}"), vec![value.clone()]))
        .collect();
    if !tags.is_empty() {
        context.insert("aws:TagKeys".to_owned(), tags.keys().cloned().collect());
    }
    context
}

/// A resource of EC2 by its id: its ARN and tags. Of what is made the id is not
/// known, and it has no tags.
fn resource(cloud: &Cloud, id: &str) -> (String, Context) {
    let ec2 = &cloud.ec2;
    let (kind, _) = id.split_once('-').unwrap_or((id, ""));
    let (kind, tags) = match kind {
        "sg" => ("security-group", ec2.groups.get(id)),
        "sgr" => ("security-group-rule", ec2.rules.get(id).map(|of| &of.tags)),
        "vol" => ("volume", ec2.volumes.get(id).map(|of| &of.tags)),
        "snap" => ("snapshot", ec2.snapshots.get(id).map(|of| &of.tags)),
        "ami" => ("image", ec2.images.get(id).map(|of| &of.tags)),
        "i" => ("instance", ec2.instances.get(id).map(|of| &of.tags)),
        "subnet" => ("subnet", ec2.subnets.get(id).map(|of| &of.tags)),
        "pl" => ("prefix-list", None),
        other => panic!("a resource of the kind `{other}` is not modelled here"),
    };
    let account = match kind {
        "snapshot" | "image" => "",
        _ => ACCOUNT,
    };
    let arn = format!("arn:aws:ec2:{REGION}:{account}:{kind}/{id}");
    (arn, tags.map(tagged).unwrap_or_default())
}

fn of_ec2(call: &Call, cloud: &Cloud) -> Vec<Request> {
    let action = format!("ec2:{}", call.operation);
    let of = |id: &str| {
        let (arn, facts) = resource(cloud, id);
        Request::new(&action, &arn, &facts)
    };
    let id = |name: &str| call.parameter(name).unwrap_or_else(|| panic!("{call:?}"));
    // What is made, with the tags that it is made with: two rights.
    let makes = |kind: &str| {
        let (arn, _) = resource(cloud, &format!("{kind}-*"));
        let arn = arn.replace(&format!("{kind}-*"), "*");
        let mut facts = setting(&call.tags("TagSpecification.1.Tag"));
        let mut requests = vec![Request::new(&action, &arn, &facts)];
        if !facts.is_empty() {
            let creates = ("ec2:CreateAction".to_owned(), vec![call.operation.clone()]);
            facts.extend([creates]);
            requests.push(Request::new("ec2:CreateTags", &arn, &facts));
        }
        requests
    };
    match call.operation.as_str() {
        "AuthorizeSecurityGroupEgress" | "AuthorizeSecurityGroupIngress" => {
            [vec![of(id("GroupId"))], makes("sgr")].concat()
        }
        "ModifySecurityGroupRules" => {
            let rule = id("SecurityGroupRule.1.SecurityGroupRuleId");
            vec![of(id("GroupId")), of(rule)]
        }
        "RevokeSecurityGroupEgress" | "RevokeSecurityGroupIngress" => vec![of(id("GroupId"))],
        "CreateTags" => {
            let with = |id: &str| {
                let (arn, mut facts) = resource(cloud, id);
                facts.extend(setting(&call.tags("Tag")));
                Request::new(&action, &arn, &facts)
            };
            call.list("ResourceId").into_iter().map(with).collect()
        }
        "DescribeVolumeAttribute" | "DeleteVolume" => vec![of(id("VolumeId"))],
        "DescribeSnapshotAttribute" | "DeleteSnapshot" => vec![of(id("SnapshotId"))],
        "DescribeImageAttribute" | "ModifyImageAttribute" => vec![of(id("ImageId"))],
        "ModifySubnetAttribute" => vec![of(id("SubnetId"))],
        "ModifySnapshotAttribute" => {
            let (arn, mut facts) = resource(cloud, id("SnapshotId"));
            let how = match id("OperationType") {
                "add" => "Add",
                _ => "Remove",
            };
            for (kind, list) in [("group", "UserGroup"), ("userId", "UserId")] {
                let holders = call.list(list).into_iter().map(str::to_owned);
                let holders: Vec<String> = holders.collect();
                if !holders.is_empty() {
                    facts.insert(format!("ec2:{how}/{kind}"), holders);
                }
            }
            vec![Request::new(&action, &arn, &facts)]
        }
        "ModifyInstanceMetadataOptions" => {
            let (arn, mut facts) = resource(cloud, id("InstanceId"));
            for attribute in ["HttpTokens", "HttpEndpoint"] {
                let value = call.parameter(attribute).map(str::to_owned);
                facts.insert(
                    format!("ec2:Attribute/{attribute}"),
                    value.into_iter().collect(),
                );
            }
            vec![Request::new(&action, &arn, &facts)]
        }
        "CreateSnapshot" => [vec![of(id("VolumeId"))], makes("snap")].concat(),
        "CreateSnapshots" => {
            let instance = id("InstanceSpecification.InstanceId");
            let volumes = cloud.ec2.volumes.iter().filter(|(_, volume)| {
                let attached = volume.attached.as_ref();
                attached.is_some_and(|(of, ..)| of == instance)
            });
            let volumes = volumes.map(|(id, _)| of(id)).collect();
            [vec![of(instance)], volumes, makes("snap")].concat()
        }
        "CopyVolumes" => [vec![of(id("SourceVolumeId"))], makes("vol")].concat(),
        "CreateVolume" => [vec![of(id("SnapshotId"))], makes("vol")].concat(),
        "AttachVolume" => vec![of(id("VolumeId")), of(id("InstanceId"))],
        "DetachVolume" => {
            let instance = call.parameter("InstanceId").map(of);
            instance.into_iter().chain([of(id("VolumeId"))]).collect()
        }
        "ModifyInstanceAttribute" | "DescribeInstanceAttribute" => vec![of(id("InstanceId"))],
        "StopInstances" | "StartInstances" => call.list("InstanceId").into_iter().map(of).collect(),
        "GetManagedPrefixListEntries" => vec![of(id("PrefixListId"))],
        // `Request::new` refuses it for an action that knows resources.
        _ => vec![without_resources(&action)],
    }
}

/// CloudWatch's only resource of it is a data set, which no query names.
fn of_metrics(operation: &str) -> Request {
    plain(&format!("cloudwatch:{operation}"), "*")
}

/// A request of an action that knows no resources.
fn without_resources(action: &str) -> Request {
    let none = backstop_tests::iam::is_without_resources(action);
    assert!(none, "what {action} asks IAM is not modelled here");
    plain(action, "*")
}

fn of_systems_manager(call: &Call, cloud: &Cloud) -> Vec<Request> {
    let action = format!("ssm:{}", call.operation);
    let of = |id: &str| {
        let (arn, facts) = resource(cloud, id);
        Request::new(&action, &arn, &facts)
    };
    let ids = |list: &Value| {
        let ids = list.as_array().unwrap().iter();
        ids.map(|id| of(text(id))).collect::<Vec<_>>()
    };
    match call.operation.as_str() {
        "GetParameter" => {
            let name = text(&call.json["Name"]);
            let parameter = format!("parameter/{}", name.trim_start_matches('/'));
            vec![plain(&action, &here("ssm", &parameter))]
        }
        "GetServiceSetting" => {
            let id = text(&call.json["SettingId"]).trim_start_matches('/');
            vec![plain(
                &action,
                &here("ssm", &format!("servicesetting/{id}")),
            )]
        }
        "DescribeInstancePatchStates" => ids(&call.json["InstanceIds"]),
        "DescribeInstancePatches" => vec![of(text(&call.json["InstanceId"]))],
        "SendCommand" => {
            let name = text(&call.json["DocumentName"]);
            // A document of AWS's own: its ARN names no account.
            let document = format!("arn:aws:ssm:{REGION}::document/{name}");
            [
                vec![plain(&action, &document)],
                ids(&call.json["InstanceIds"]),
            ]
            .concat()
        }
        _ => vec![without_resources(&action)],
    }
}

fn of_table(call: &Call) -> Vec<Request> {
    let on = |action: &str, table: &str, index: Option<&str>| {
        let index = index.map_or_else(String::new, |index| format!("/index/{index}"));
        let arn = here("dynamodb", &format!("table/{table}{index}"));
        plain(&format!("dynamodb:{action}"), &arn)
    };
    let input = &call.json;
    match call.operation.as_str() {
        "BatchGetItem" => {
            let tables = input["RequestItems"].as_object().unwrap().keys();
            tables
                .map(|table| on("BatchGetItem", table, None))
                .collect()
        }
        // A transaction needs the rights of the writes in it.
        "TransactWriteItems" => {
            let items = input["TransactItems"].as_array().unwrap().iter();
            let parts = items.flat_map(|item| item.as_object().unwrap());
            parts
                .map(|(part, of)| {
                    let action = match part.as_str() {
                        "ConditionCheck" => "ConditionCheckItem".to_owned(),
                        part => format!("{part}Item"),
                    };
                    on(&action, text(&of["TableName"]), None)
                })
                .collect()
        }
        other => vec![on(
            other,
            text(&input["TableName"]),
            input["IndexName"].as_str(),
        )],
    }
}

fn of_bus(call: &Call) -> Request {
    let action = format!("events:{}", call.operation);
    if call.operation == "DescribeRule" {
        let rule = format!("rule/{}", text(&call.json["Name"]));
        return plain(&action, &here("events", &rule));
    }
    let entries = call.json["Entries"].as_array().unwrap();
    let all = |field: &str| {
        let values = entries.iter().map(|entry| text(&entry[field]).to_owned());
        values.collect::<Vec<_>>()
    };
    let facts = Context::from([
        ("events:source".to_owned(), all("Source")),
        ("events:detail-type".to_owned(), all("DetailType")),
    ]);
    Request::new(&action, &here("events", "event-bus/default"), &facts)
}
