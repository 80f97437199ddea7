//! Single reads of volumes, snapshots and instances, and what is made of them.
//!
//! By filter and not by id: one id that is gone, or not visible yet, would fail
//! the whole call.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{
    DeviceType, InstanceAttributeName, OperatorResponse, ProductCode, ProductCodeValues,
    VolumeAttributeName,
};
use aws_smithy_types::DateTime;
use backstop_core::volumes::{Attachment, Checks, Instance, Snapshot, Volume};
use jiff::Timestamp;

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::opt_outs::{VALUES, any_of};
use crate::patching::described;
use crate::security_groups::{filter, tags, within};

/// How many volumes a page of DescribeVolumes holds.
pub(crate) const VOLUMES_PAGE: i32 = 500;
/// How many snapshots a page of DescribeSnapshots holds.
pub(crate) const SNAPSHOTS_PAGE: i32 = 500;

/// The volumes that a filter with these values lets through, all pages.
pub(crate) async fn volumes(
    ec2: &aws_sdk_ec2::Client,
    by: &str,
    values: &[String],
    deadline: &Deadline,
) -> Result<Vec<Volume>, AwsError> {
    const OPERATION: &str = "DescribeVolumes";
    let mut found = Vec::new();
    for values in values.chunks(VALUES) {
        let mut pages = ec2
            .describe_volumes()
            .filters(any_of(by, values))
            .max_results(VOLUMES_PAGE)
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            found.extend(page.volumes().iter().filter_map(volume));
        }
    }
    Ok(found)
}

/// The account's own snapshots that a filter with these values lets through,
/// all pages.
pub(crate) async fn snapshots(
    ec2: &aws_sdk_ec2::Client,
    by: &str,
    values: &[String],
    deadline: &Deadline,
) -> Result<Vec<Snapshot>, AwsError> {
    const OPERATION: &str = "DescribeSnapshots";
    let mut found = Vec::new();
    for values in values.chunks(VALUES) {
        let mut pages = ec2
            .describe_snapshots()
            .owner_ids("self")
            .filters(any_of(by, values))
            .max_results(SNAPSHOTS_PAGE)
            .into_paginator()
            .send();
        while let Some(page) = within(deadline, OPERATION, pages.next()).await? {
            let page = page.map_err(|e| AwsError::new(OPERATION, &e))?;
            found.extend(page.snapshots().iter().filter_map(snapshot));
        }
    }
    Ok(found)
}

/// The instance; none: there is none (any more). What other calls tell about
/// it ([`stop_costs`], [`checks`]) is not yet in it.
pub(super) async fn instance(
    ec2: &aws_sdk_ec2::Client,
    id: &str,
    deadline: &Deadline,
) -> Result<Option<Instance>, AwsError> {
    let request = ec2
        .describe_instances()
        .filters(filter("instance-id", id))
        .send();
    let answer = deadline.call("DescribeInstances", request).await?;
    let mut instances = answer.reservations().iter().flat_map(|r| r.instances());
    Ok(instances.find_map(of_instance))
}

/// The instances of these ids that are there, all pages; of what other calls
/// tell about them nothing is in it.
pub(super) async fn instances(
    ec2: &aws_sdk_ec2::Client,
    ids: &[String],
    deadline: &Deadline,
) -> Result<Vec<Instance>, AwsError> {
    described(ec2, ids, deadline, of_instance).await
}

/// What an instance's type and attributes say about a stop: whether it erases
/// instance-store volumes, and whether the instance is protected against it.
pub(super) async fn stop_costs(
    ec2: &aws_sdk_ec2::Client,
    instance: &Instance,
    deadline: &Deadline,
) -> Result<(bool, bool), AwsError> {
    let of_type = ec2
        .describe_instance_types()
        .filters(filter("instance-type", &instance.instance_type))
        .send();
    let protection = ec2
        .describe_instance_attribute()
        .instance_id(&instance.id)
        .attribute(InstanceAttributeName::DisableApiStop)
        .send();
    let (of_type, protection) = tokio::join!(
        deadline.call("DescribeInstanceTypes", of_type),
        deadline.call("DescribeInstanceAttribute", protection),
    );
    // A type that EC2 does not list may have them.
    let stores = of_type?
        .instance_types()
        .first()
        .and_then(|of_type| of_type.instance_storage_supported())
        .unwrap_or(true);
    let protected = protection?
        .disable_api_stop()
        .and_then(|attribute| attribute.value())
        .unwrap_or(false);
    Ok((stores, protected))
}

/// What an instance's two status checks say; none: nothing yet.
pub(super) async fn checks(
    ec2: &aws_sdk_ec2::Client,
    instance: &str,
    deadline: &Deadline,
) -> Result<Option<Checks>, AwsError> {
    let request = ec2
        .describe_instance_status()
        .instance_ids(instance)
        .include_all_instances(true)
        .send();
    let answer = match deadline.call("DescribeInstanceStatus", request).await {
        Ok(answer) => answer,
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(error),
    };
    let of = |summary: Option<&aws_sdk_ec2::types::InstanceStatusSummary>| {
        summary
            .and_then(|summary| summary.status())
            .map(|status| status.as_str().to_owned())
    };
    Ok(answer.instance_statuses().first().and_then(|status| {
        Some(Checks {
            system: of(status.system_status())?,
            instance: of(status.instance_status())?,
        })
    }))
}

/// Those of the volumes that carry a product code of the Marketplace.
pub(super) async fn marketplace(
    ec2: &aws_sdk_ec2::Client,
    volumes: &[String],
    deadline: &Deadline,
) -> Result<BTreeSet<String>, AwsError> {
    let mut reads = tokio::task::JoinSet::new();
    for id in volumes {
        let (ec2, id, deadline) = (ec2.clone(), id.clone(), *deadline);
        reads.spawn(async move {
            let request = ec2
                .describe_volume_attribute()
                .volume_id(&id)
                .attribute(VolumeAttributeName::ProductCodes)
                .send();
            let answer = deadline.call("DescribeVolumeAttribute", request).await?;
            Ok((id, of_marketplace(answer.product_codes())))
        });
    }
    let mut found = BTreeSet::new();
    for read in reads.join_all().await {
        let (id, of_marketplace) = read?;
        if of_marketplace {
            found.insert(id);
        }
    }
    Ok(found)
}

fn of_marketplace(codes: &[ProductCode]) -> bool {
    codes
        .iter()
        .any(|code| code.product_code_type() == Some(&ProductCodeValues::Marketplace))
}

/// A volume as DescribeVolumes shows it; none: it has no id.
pub(crate) fn volume(volume: &aws_sdk_ec2::types::Volume) -> Option<Volume> {
    let mut attachments: Vec<Attachment> = volume.attachments().iter().map(attachment).collect();
    // What is in force comes first.
    attachments.sort_by_key(|attachment| attachment.state == "detached");
    // What a service attached to a resource of its own is its, too.
    let service = volume
        .attachments()
        .iter()
        .find_map(|attachment| attachment.instance_owning_service());
    Some(Volume {
        id: volume.volume_id()?.to_owned(),
        state: text(volume.state().map(|state| state.as_str())),
        encrypted: volume.encrypted().unwrap_or(false),
        size: volume.size().unwrap_or_default(),
        volume_type: text(volume.volume_type().map(|of_type| of_type.as_str())),
        iops: volume.iops(),
        throughput: volume.throughput(),
        zone: text(volume.availability_zone()),
        multi_attach: volume.multi_attach_enabled().unwrap_or(false),
        created_at: time(volume.create_time()),
        attachments,
        tags: tags(volume.tags()),
        operator: operator(volume.operator()).or_else(|| service.map(str::to_owned)),
        marketplace: false,
        outpost: outpost(volume.outpost_arn()),
    })
}

fn attachment(attachment: &aws_sdk_ec2::types::VolumeAttachment) -> Attachment {
    let resource = attachment
        .instance_id()
        .or_else(|| attachment.associated_resource());
    Attachment {
        instance: text(resource),
        device: text(attachment.device()),
        state: text(attachment.state().map(|state| state.as_str())),
        delete_on_termination: attachment.delete_on_termination().unwrap_or(false),
        attached_at: time(attachment.attach_time()),
    }
}

/// A snapshot as DescribeSnapshots shows it; none: it has no id.
pub(crate) fn snapshot(snapshot: &aws_sdk_ec2::types::Snapshot) -> Option<Snapshot> {
    Some(Snapshot {
        id: snapshot.snapshot_id()?.to_owned(),
        volume: text(snapshot.volume_id()),
        state: text(snapshot.state().map(|state| state.as_str())),
        started_at: time(snapshot.start_time()),
        tags: tags(snapshot.tags()),
    })
}

fn of_instance(instance: &aws_sdk_ec2::types::Instance) -> Option<Instance> {
    let address = instance
        .network_interfaces()
        .iter()
        .flat_map(|interface| {
            let own = interface.association();
            let of_addresses = interface.private_ip_addresses().iter();
            own.into_iter()
                .chain(of_addresses.filter_map(|address| address.association()))
        })
        // Elastic IP addresses belong to an account, the others to Amazon.
        .find(|association| association.ip_owner_id() == Some("amazon"))
        .and_then(|association| association.public_ip());
    let state = instance.state().and_then(|state| state.name());
    Some(Instance {
        id: instance.instance_id()?.to_owned(),
        state: text(state.map(|state| state.as_str())),
        launched_at: time(instance.launch_time()),
        instance_type: text(instance.instance_type().map(|of_type| of_type.as_str())),
        tags: tags(instance.tags()),
        lifecycle: instance
            .instance_lifecycle()
            .map(|lifecycle| lifecycle.as_str().to_owned()),
        instance_store: instance.root_device_type() == Some(&DeviceType::InstanceStore),
        auto_public_ipv4: address.map(str::to_owned),
        marketplace: of_marketplace(instance.product_codes()),
        outpost: outpost(instance.outpost_arn()),
        operator: operator(instance.operator()),
        hibernates: instance
            .hibernation_options()
            .and_then(|options| options.configured())
            .unwrap_or(false),
        stop_protected: false,
        checks: None,
        state_reason: instance
            .state_reason()
            .and_then(|reason| reason.code())
            .map(str::to_owned),
    })
}

/// The Outpost that a resource is on.
fn outpost(arn: Option<&str>) -> Option<String> {
    arn.filter(|arn| !arn.is_empty()).map(str::to_owned)
}

/// The service that manages a resource.
fn operator(operator: Option<&OperatorResponse>) -> Option<String> {
    let operator = operator.filter(|operator| operator.managed() == Some(true))?;
    Some(operator.principal().unwrap_or("an AWS service").to_owned())
}

fn time(at: Option<&DateTime>) -> Option<Timestamp> {
    let at = at?;
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}
