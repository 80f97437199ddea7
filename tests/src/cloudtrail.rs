//! Events as CloudTrail would send them for calls that were really made.

use crate::local_aws::{ACCOUNT, REGION};
use aws_sdk_ec2::types::{IpPermission, SecurityGroupRule};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The event for an AuthorizeSecurityGroupIngress that was answered with these
/// rules.
#[must_use]
pub fn authorized(group: &str, asked: &[IpPermission], rules: &[SecurityGroupRule]) -> Value {
    let items = |list: Vec<Value>| {
        if list.is_empty() {
            json!({})
        } else {
            json!({"items": list})
        }
    };
    // Absent and not null: CloudTrail leaves out what was not given.
    let given = |value: Value| {
        let fields = value.as_object().into_iter().flatten();
        fields
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Value>()
    };
    let permissions = asked.iter().map(|permission| {
        let v4 = permission.ip_ranges().iter();
        let v6 = permission.ipv6_ranges().iter();
        let lists = permission.prefix_list_ids().iter();
        let groups = permission.user_id_group_pairs().iter();
        given(json!({
            "ipProtocol": permission.ip_protocol(),
            "fromPort": permission.from_port(),
            "toPort": permission.to_port(),
            "groups": items(groups.map(|g| json!({"groupId": g.group_id()})).collect()),
            "ipRanges": items(v4.map(|r| {
                given(json!({"cidrIp": r.cidr_ip(), "description": r.description()}))
            }).collect()),
            "ipv6Ranges": items(v6.map(|r| {
                given(json!({"cidrIpv6": r.cidr_ipv6(), "description": r.description()}))
            }).collect()),
            "prefixListIds": items(lists.map(|l| json!({"prefixListId": l.prefix_list_id()})).collect()),
        }))
    });
    let permissions = items(permissions.collect());
    let rules = rules.iter().map(|rule| {
        given(json!({
            "groupOwnerId": ACCOUNT,
            "groupId": group,
            "securityGroupRuleId": rule.security_group_rule_id(),
            "description": rule.description(),
            "isEgress": false,
            "ipProtocol": rule.ip_protocol(),
            "fromPort": rule.from_port(),
            "toPort": rule.to_port(),
            "cidrIpv4": rule.cidr_ipv4(),
            "cidrIpv6": rule.cidr_ipv6(),
            "prefixListId": rule.prefix_list_id(),
        }))
    });
    let request = json!({"groupId": group, "ipPermissions": permissions});
    let response = json!({"_return": true, "securityGroupRuleSet": items(rules.collect())});
    call("AuthorizeSecurityGroupIngress", request, response)
}

/// The event for any EC2 call.
#[must_use]
pub fn call(name: &str, request: Value, response: Value) -> Value {
    let now = now();
    json!({
        "version": "0",
        "id": uuid(),
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ec2",
        "account": ACCOUNT,
        "time": now,
        "region": REGION,
        "resources": [],
        "detail": {
            "eventVersion": "1.11",
            "userIdentity": {
                "type": "AssumedRole",
                "principalId": "AROAEXAMPLEEEEEEEEEEE:jo@example.com",
                "arn": format!("arn:aws:sts::{ACCOUNT}:assumed-role/developer/jo@example.com"),
                "accountId": ACCOUNT,
                "accessKeyId": "ASIAIOSFODNN7EXAMPLE",
                "sessionContext": {
                    "sessionIssuer": {
                        "type": "Role",
                        "principalId": "AROAEXAMPLEEEEEEEEEEE",
                        "arn": format!("arn:aws:iam::{ACCOUNT}:role/developer"),
                        "accountId": ACCOUNT,
                        "userName": "developer"
                    },
                    "attributes": {"creationDate": now, "mfaAuthenticated": "true"}
                }
            },
            "eventTime": now,
            "eventSource": "ec2.amazonaws.com",
            "eventName": name,
            "awsRegion": REGION,
            "sourceIPAddress": "198.51.100.7",
            "userAgent": "aws-cli/2.31.0 md/awscrt#0.27.6 exec-env/CloudShell",
            "requestParameters": request,
            "responseElements": response,
            "requestID": uuid(),
            "eventID": uuid(),
            "readOnly": false,
            "eventType": "AwsApiCall",
            "managementEvent": true,
            "recipientAccountId": ACCOUNT,
            "eventCategory": "Management"
        }
    })
}

/// EBS's own event about a volume that was created.
#[must_use]
pub fn volume_available(volume: &str) -> Value {
    of_ec2(
        "EBS Volume Notification",
        format!("arn:aws:ec2:{REGION}:{ACCOUNT}:volume/{volume}"),
        json!({"result": "available", "cause": "", "event": "createVolume", "request-id": uuid()}),
    )
}

/// EC2's own event about an instance that came into a state.
#[must_use]
pub fn instance_state(instance: &str, state: &str) -> Value {
    of_ec2(
        "EC2 Instance State-change Notification",
        format!("arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance}"),
        json!({"instance-id": instance, "state": state}),
    )
}

fn of_ec2(detail_type: &str, resource: String, detail: Value) -> Value {
    native("aws.ec2", detail_type, resource, detail)
}

/// An event that a service puts on the bus itself.
pub(crate) fn native(source: &str, detail_type: &str, resource: String, detail: Value) -> Value {
    json!({
        "version": "0",
        "id": uuid(),
        "detail-type": detail_type,
        "source": source,
        "account": ACCOUNT,
        "time": now(),
        "region": REGION,
        "resources": [resource],
        "detail": detail
    })
}

/// The event by which Backstop asks itself to look at a resource.
#[must_use]
pub fn check_requested(control: &str, resource: &str) -> Value {
    json!({
        "version": "0",
        "id": uuid(),
        "detail-type": "Check Requested",
        "source": "backstop",
        "account": ACCOUNT,
        "time": now(),
        "region": REGION,
        "resources": [],
        "detail": {"control": control, "resource": resource}
    })
}

/// The ARN of a security group.
#[must_use]
pub fn security_group_arn(id: &str) -> String {
    format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{id}")
}

/// An id that no other event has.
fn uuid() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let last = LAST.fetch_add(1, Ordering::Relaxed);
    format!(
        "{:08x}-{:04x}-4{:03x}-8000-{:012x}",
        now as u32,
        (now >> 32) as u16,
        last & 0xfff,
        last
    )
}

/// Now, as CloudTrail writes it: whole seconds.
pub(crate) fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds)
        .expect("a time of today")
        .to_string()
}
