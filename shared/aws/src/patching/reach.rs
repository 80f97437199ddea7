//! How an instance could reach Systems Manager: what its subnet's default route
//! leads to, the VPC's endpoints, and the role that the account gives to
//! instances without one.
//!
//! Deliberately not here: security groups, network ACLs, name servers and the
//! instance's own firewall. What this shows is what is certainly missing.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{Route, RouteState};
use backstop_core::patching::{Host, Reach};

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::security_groups::{filter, within};

/// Services that the agent talks to.
const SERVICES: &[&str] = &["ssm", "ssmmessages", "ec2messages"];

/// The account setting that names the role of instances without one.
const DEFAULT_ROLE: &str = "/ssm/managed-instance/default-ec2-instance-management-role";

/// How many endpoints a page of DescribeVpcEndpoints holds.
const ENDPOINTS_PAGE: i32 = 200;

/// How an instance could reach Systems Manager. Of one that is in no VPC
/// nothing is asked.
///
/// # Errors
/// A call failed.
pub async fn reach(
    ec2: &aws_sdk_ec2::Client,
    ssm: &aws_sdk_ssm::Client,
    host: &Host,
    region: &str,
    deadline: &Deadline,
) -> Result<Reach, AwsError> {
    let (Some(subnet), Some(vpc)) = (&host.subnet, &host.vpc) else {
        return Ok(Reach::default());
    };
    let (default_route, endpoints, default_role) = tokio::join!(
        default_route(ec2, subnet, vpc, deadline),
        endpoints(ec2, vpc, region, deadline),
        default_role(ssm, deadline),
    );
    Ok(Reach {
        default_route: default_route?,
        endpoints: endpoints?,
        default_role: default_role?,
    })
}

/// What a subnet's default route leads to. A subnet without a route table of its
/// own goes by the VPC's main one.
async fn default_route(
    ec2: &aws_sdk_ec2::Client,
    subnet: &str,
    vpc: &str,
    deadline: &Deadline,
) -> Result<Option<String>, AwsError> {
    const OPERATION: &str = "DescribeRouteTables";
    let own = ec2
        .describe_route_tables()
        .filters(filter("association.subnet-id", subnet))
        .send();
    let mut tables = deadline.call(OPERATION, own).await?.route_tables;
    if tables.as_ref().is_none_or(Vec::is_empty) {
        let main = ec2
            .describe_route_tables()
            .filters(filter("association.main", "true"))
            .filters(filter("vpc-id", vpc))
            .send();
        tables = deadline.call(OPERATION, main).await?.route_tables;
    }
    let tables = tables.unwrap_or_default();
    let mut routes = tables.iter().flat_map(|table| table.routes());
    Ok(routes
        .find(|route| {
            route.destination_cidr_block() == Some("0.0.0.0/0")
                && route.state() == Some(&RouteState::Active)
        })
        .and_then(target)
        .map(str::to_owned))
}

/// What a route leads to.
fn target(route: &Route) -> Option<&str> {
    // A route to an instance names its interface, too.
    route
        .gateway_id()
        .or_else(|| route.nat_gateway_id())
        .or_else(|| route.transit_gateway_id())
        .or_else(|| route.instance_id())
        .or_else(|| route.network_interface_id())
        .or_else(|| route.vpc_peering_connection_id())
        .or_else(|| route.local_gateway_id())
        .or_else(|| route.carrier_gateway_id())
        .or_else(|| route.core_network_arn())
}

/// The services of this Region's Systems Manager that the VPC has an endpoint
/// for.
async fn endpoints(
    ec2: &aws_sdk_ec2::Client,
    vpc: &str,
    region: &str,
    deadline: &Deadline,
) -> Result<BTreeSet<String>, AwsError> {
    const OPERATION: &str = "DescribeVpcEndpoints";
    let mut pages = ec2
        .describe_vpc_endpoints()
        .filters(filter("vpc-id", vpc))
        .max_results(ENDPOINTS_PAGE)
        .into_paginator()
        .send();
    let mut found = BTreeSet::new();
    while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
        let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
        for endpoint in page.vpc_endpoints() {
            // EC2 writes `available`, its model `Available`.
            let available = endpoint
                .state()
                .is_some_and(|state| state.as_str().eq_ignore_ascii_case("available"));
            let name = endpoint.service_name().unwrap_or_default();
            let service = SERVICES
                .iter()
                .find(|service| name.ends_with(&format!(".{region}.{service}")));
            if let Some(service) = service.filter(|_| available) {
                found.insert((*service).to_owned());
            }
        }
    }
    Ok(found)
}

/// Whether the account gives instances without a role of their own one.
async fn default_role(ssm: &aws_sdk_ssm::Client, deadline: &Deadline) -> Result<bool, AwsError> {
    let request = ssm.get_service_setting().setting_id(DEFAULT_ROLE).send();
    let answer = match deadline.call("GetServiceSetting", request).await {
        Err(error) if error.code == "ServiceSettingNotFound" => return Ok(false),
        answer => answer?,
    };
    let value = answer
        .service_setting()
        .and_then(|setting| setting.setting_value());
    Ok(value.is_some_and(|value| !value.is_empty() && value != "$None"))
}
