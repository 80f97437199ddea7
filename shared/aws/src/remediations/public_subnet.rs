//! `public-subnet`: the calls.
//!
//! ModifySubnetAttribute takes one attribute a call. Which subnets assign IPv6
//! addresses EC2 cannot filter: the walk asks for those that have IPv6 at all.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{
    AttributeBooleanValue, Filter, Ipv6AddressAttribute, Subnet as Described,
};
use backstop_core::controls::public_subnet::{Address, Assignment, PublicSubnet, Subnet};
use backstop_core::managers::{self, Kind};
use backstop_core::plan::{Change, Outcome};
use backstop_core::security_group::Tags;

use crate::clients::Clients;
use crate::error::AwsError;
use crate::group_pages::each_page;
use crate::opt_outs::{VALUES, any_of, of_vpcs, of_vpcs_seen};
use crate::remediation::{Concerned, Place, Remediation, Stopped, Walked, outcome};
use crate::security_groups::{filter, partition, tags, within};

/// Most subnets, or instances, of a page.
const PAGE: i32 = 1000;

const READ: &str = "DescribeSubnets";

impl Remediation for PublicSubnet {
    async fn gather(aws: &Clients, at: Place<'_>, id: &str) -> Result<Option<Subnet>, AwsError> {
        let request = aws.ec2.describe_subnets().subnet_ids(id).send();
        let these = [id.to_owned()];
        let (described, vpcs, nodes) = tokio::join!(
            at.deadline.call(READ, request),
            of_vpcs(&aws.ec2, at.deadline),
            nodes(aws, at, &these),
        );
        let described = match described {
            Err(error) if error.is_gone() => return Ok(None),
            described => described?.subnets.unwrap_or_default(),
        };
        let (mut vpcs, mut nodes) = (vpcs?, nodes?);
        let Some(described) = described.into_iter().next() else {
            return Ok(None);
        };
        let subnet = facts(&described, at.region)?;
        Ok(Some(Subnet {
            vpc_opt_outs: described
                .vpc_id()
                .and_then(|vpc| vpcs.remove(vpc))
                .unwrap_or_default(),
            nodes: nodes.remove(id).unwrap_or_default(),
            ..subnet
        }))
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        change: &Change<Assignment>,
    ) -> Vec<Outcome> {
        let Some(to) = change.after else {
            return Vec::new();
        };
        let value = AttributeBooleanValue::builder().value(to.on).build();
        let request = aws.ec2.modify_subnet_attribute().subnet_id(id);
        let request = match to.address {
            Address::Ipv4 => request.map_public_ip_on_launch(value),
            Address::Ipv6 => request.assign_ipv6_address_on_creation(value),
        };
        let answer = at.deadline.call("ModifySubnetAttribute", request.send());
        outcome::<Self>(change, answer.await.map(|_| ()))
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        mut each: impl AsyncFnMut(Vec<Subnet>),
    ) -> Result<Walked, Stopped> {
        let mut walked = Walked::default();
        let vpcs = of_vpcs_seen(&aws.ec2, at.deadline, &mut walked.unseen).await;
        // The second leaves out what the first has shown.
        let ipv4 = vec![filter("map-public-ip-on-launch", "true")];
        let ipv6 = vec![
            filter("map-public-ip-on-launch", "false"),
            filter("ipv6-cidr-block-association.state", "associated"),
        ];
        for filters in [ipv4, ipv6] {
            let read = async |token: Option<String>| {
                let (page, next) = page(aws, at, &filters, token).await?;
                let mut subnets = Vec::new();
                let assign: Vec<&Described> = page.iter().filter(|of| assigns(of)).collect();
                let ids = assign.iter().filter_map(|of| of.subnet_id.clone());
                // Else one that only its nodes show to be a cluster's would be judged
                // otherwise here than by a look.
                let mut nodes = nodes(aws, at, &ids.collect::<Vec<_>>()).await?;
                for described in assign {
                    let vpc = described.vpc_id().and_then(|vpc| vpcs.get(vpc));
                    let subnet = facts(described, at.region)?;
                    subnets.push(Subnet {
                        vpc_opt_outs: vpc.cloned().unwrap_or_default(),
                        nodes: nodes.remove(&subnet.id).unwrap_or_default(),
                        ..subnet
                    });
                }
                Ok((subnets, next))
            };
            let seen = each_page(at.deadline, read, &mut each).await;
            walked.seen += seen.map_err(|(seen, error)| Stopped {
                what: "subnets that assign public addresses",
                seen: walked.seen + seen,
                error,
            })?;
        }
        Ok(walked)
    }

    /// The subnets of a VPC that assign addresses.
    async fn concerned(aws: &Clients, at: Place<'_>, vpc: &str) -> Result<Concerned, AwsError> {
        let filters = [filter("vpc-id", vpc)];
        let mut subnets = Vec::new();
        let read = async |token: Option<String>| page(aws, at, &filters, token).await;
        let each = async |page: Vec<Described>| {
            let assign = page.into_iter().filter(assigns);
            subnets.extend(assign.filter_map(|subnet| subnet.subnet_id));
        };
        let read = each_page(at.deadline, read, each).await;
        read.map_err(|(_, error)| error)?;
        Ok(Concerned::Resources(subnets))
    }
}

/// A page of this account's subnets.
async fn page(
    aws: &Clients,
    at: Place<'_>,
    filters: &[Filter],
    token: Option<String>,
) -> Result<(Vec<Described>, Option<String>), AwsError> {
    let request = aws
        .ec2
        .describe_subnets()
        .set_filters(Some(filters.to_vec()))
        // Others may share theirs with this account.
        .filters(filter("owner-id", at.account))
        .max_results(PAGE)
        .set_next_token(token);
    let page = at.deadline.call(READ, request.send()).await?;
    Ok((page.subnets.unwrap_or_default(), page.next_token))
}

/// The tags of one instance in each of these subnets that shows a Kubernetes cluster;
/// subnets without one are not in it.
async fn nodes(
    aws: &Clients,
    at: Place<'_>,
    subnets: &[String],
) -> Result<BTreeMap<String, Vec<Tags>>, AwsError> {
    const OPERATION: &str = "DescribeInstances";
    let keys: Vec<String> = managers::keys(Kind::orchestrates).collect();
    let states = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
    let mut found: BTreeMap<String, Vec<Tags>> = BTreeMap::new();
    for subnets in subnets.chunks(VALUES) {
        let mut pages = aws
            .ec2
            .describe_instances()
            .filters(any_of("subnet-id", subnets))
            .filters(any_of("tag-key", &keys))
            .filters(any_of("instance-state-name", &states))
            .max_results(PAGE)
            .into_paginator()
            .send();
        while let Some(page) = within(at.deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|error| AwsError::new(OPERATION, &error))?;
            for instance in page.reservations().iter().flat_map(|of| of.instances()) {
                let subnet = match subnets {
                    [only] => only.as_str(),
                    _ => instance.subnet_id().unwrap_or_default(),
                };
                let one = || vec![tags(instance.tags())];
                found.entry(subnet.to_owned()).or_insert_with(one);
            }
            // One of each is enough.
            if subnets.iter().all(|subnet| found.contains_key(subnet)) {
                break;
            }
        }
    }
    Ok(found)
}

fn assigns(subnet: &Described) -> bool {
    let attributes = [
        subnet.map_public_ip_on_launch(),
        subnet.assign_ipv6_address_on_creation(),
    ];
    attributes.contains(&Some(true))
}

/// What DescribeSubnets shows of a subnet.
fn facts(subnet: &Described, region: &str) -> Result<Subnet, AwsError> {
    let id = subnet.subnet_id().unwrap_or_default().to_owned();
    let owner = subnet.owner_id().unwrap_or_default().to_owned();
    let known = |field, is: Option<bool>| is.ok_or_else(|| AwsError::incomplete(READ, field));
    let tags = tags(subnet.tags());
    let arn = || format!("arn:{}:ec2:{region}:{owner}:subnet/{id}", partition(region));
    let blocks = subnet.ipv6_cidr_block_association_set();
    let private = Some(&Ipv6AddressAttribute::Private);
    Ok(Subnet {
        arn: subnet.subnet_arn().map_or_else(arn, str::to_owned),
        name: tags.get("Name").unwrap_or(&id).clone(),
        ipv4: known("mapPublicIpOnLaunch", subnet.map_public_ip_on_launch())?,
        ipv6: known(
            "assignIpv6AddressOnCreation",
            subnet.assign_ipv6_address_on_creation(),
        )?,
        private_ipv6: !blocks.is_empty()
            && blocks
                .iter()
                .all(|block| block.ipv6_address_attribute() == private),
        ipv6_only: subnet.ipv6_native() == Some(true),
        is_default: subnet.default_for_az() == Some(true),
        vpc_opt_outs: Tags::new(),
        nodes: Vec::new(),
        id,
        owner,
        tags,
    })
}
