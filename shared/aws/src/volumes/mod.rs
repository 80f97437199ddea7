//! Volumes and the instances they are attached to: gather what is there, and
//! carry out one change.
//!
//! Reads go out in two parallel rounds (three from a volume to its instance);
//! the second asks only for what the first has shown to matter, so that a unit
//! whose volumes are encrypted costs two calls.
//!
//! Deliberately not here: what is done (`backstop_core::encryption`), and the
//! deletion of originals.

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::encryption::{Change, Encryption, Way};
use backstop_core::volumes::{
    COPY_OF_TAG, ENTRY_TAG, Instance, REPLACED_BY_TAG, Snapshot, Unit, Volume, VolumeFacts,
};

use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::tags;

mod change;
mod key;
pub(crate) mod read;

pub use change::change;
pub use key::key_problem;
pub(crate) use read::{VOLUMES_PAGE, volume};

/// What a run sees when it looks at the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The instance as it is now; none: it is gone, or the run has none.
    pub instance: Option<Instance>,
    /// The originals, every copy of them, and what the record says was made;
    /// by id.
    pub volumes: BTreeMap<String, Volume>,
    /// The snapshots that the run took, by id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// What keeps the KMS key of copies from being used.
    pub key_problem: Option<String>,
}

/// Reads a unit as it is now, from a volume (`vol-…`) or an instance (`i-…`):
/// an instance with all its volumes, or a volume that is attached to none.
///
/// What a stop would cost, product codes, copies and the key are only looked
/// at where a volume is not encrypted.
///
/// # Errors
/// A call failed: nothing can be said of the unit then.
pub async fn facts(
    ec2: &aws_sdk_ec2::Client,
    kms: &aws_sdk_kms::Client,
    resource: &str,
    kms_key: Option<&str>,
    deadline: &Deadline,
) -> Result<VolumeFacts, AwsError> {
    let unit = match unit(ec2, resource, deadline).await {
        Err(error) if error.is_gone() && !error.retryable => Unit::Gone,
        unit => unit?,
    };
    facts_of(ec2, kms, unit, kms_key, deadline).await
}

/// As [`facts`], of a unit that was read already ([`of_instances`]).
///
/// # Errors
/// A call failed: nothing can be said of the unit then.
pub async fn facts_of(
    ec2: &aws_sdk_ec2::Client,
    kms: &aws_sdk_kms::Client,
    unit: Unit,
    kms_key: Option<&str>,
    deadline: &Deadline,
) -> Result<VolumeFacts, AwsError> {
    let mut facts = VolumeFacts {
        unit,
        copies: BTreeMap::new(),
        key_problem: None,
    };
    let (instance, volumes) = match &mut facts.unit {
        Unit::Gone => return Ok(facts),
        Unit::Volume(volume) => (None, std::slice::from_mut(volume.as_mut())),
        Unit::Instance(instance, volumes) => (Some(instance.as_mut()), volumes.as_mut_slice()),
    };
    let open: Vec<&Volume> = volumes.iter().filter(|v| !v.encrypted).collect();
    if open.is_empty() || open.iter().all(|v| !v.exists()) {
        return Ok(facts);
    }
    let ids: Vec<String> = open.iter().map(|v| v.id.clone()).collect();
    let replacements: Vec<String> = open
        .iter()
        .filter_map(|v| v.tags.get(REPLACED_BY_TAG))
        .filter(|id| is_id(id, "vol-"))
        .cloned()
        .collect();
    let copies_of = format!("tag:{COPY_OF_TAG}");
    let (marketplace, copies, named, key_problem, instance_done) = tokio::join!(
        read::marketplace(ec2, &ids, deadline),
        read::volumes(ec2, &copies_of, &ids, deadline),
        read::volumes(ec2, "volume-id", &replacements, deadline),
        key_problem(ec2, kms, kms_key, deadline),
        complete(ec2, instance, true, deadline),
    );
    instance_done?;
    let marketplace = marketplace?;
    for volume in volumes {
        volume.marketplace = marketplace.contains(&volume.id);
    }
    facts.copies = by_id(copies?.into_iter().chain(named?));
    facts.key_problem = key_problem?;
    Ok(facts)
}

/// The unit of a volume or an instance, with what its first calls tell.
async fn unit(
    ec2: &aws_sdk_ec2::Client,
    resource: &str,
    deadline: &Deadline,
) -> Result<Unit, AwsError> {
    let is_instance = is_id(resource, "i-");
    // A filter would take a `*` for anything.
    if !is_instance && !is_id(resource, "vol-") {
        return Ok(Unit::Gone);
    }
    if is_instance {
        return of_instance(ec2, resource, deadline)
            .await
            .map(|unit| unit.unwrap_or(Unit::Gone));
    }
    let id = [resource.to_owned()];
    let mut found = read::volumes(ec2, "volume-id", &id, deadline).await?;
    let Some(volume) = found.pop() else {
        return Ok(Unit::Gone);
    };
    // Resources of AWS's services are no instances.
    let instance = volume
        .attached()
        .map(|attachment| attachment.instance.clone())
        .find(|instance| is_id(instance, "i-"));
    let Some(instance) = instance else {
        return Ok(Unit::Volume(Box::new(volume)));
    };
    // Not "gone": the volume is there, and EC2's reads may lag.
    of_instance(ec2, &instance, deadline)
        .await?
        .ok_or_else(|| AwsError {
            operation: "DescribeInstances",
            code: "InvalidInstanceID.NotFound".to_owned(),
            message: format!("`{resource}` is attached to `{instance}`, which is not there (yet)"),
            retryable: true,
        })
}

/// Instances with the volumes that are attached to them, by id, for as many as
/// there are in one read of instances and one of volumes; those that are gone are
/// not in it.
///
/// # Errors
/// A call failed.
pub async fn of_instances(
    ec2: &aws_sdk_ec2::Client,
    ids: &[String],
    deadline: &Deadline,
) -> Result<BTreeMap<String, Unit>, AwsError> {
    let (instances, volumes) = tokio::join!(
        read::instances(ec2, ids, deadline),
        read::volumes(ec2, "attachment.instance-id", ids, deadline),
    );
    let volumes = by_id(volumes?);
    let units = instances?.into_iter().map(|instance| {
        let id = instance.id.clone();
        let its = volumes.values();
        let its = its.filter(|volume| volume.attachment_to(&id).is_some());
        let its = its.cloned().collect();
        (id, Unit::Instance(Box::new(instance), its))
    });
    Ok(units.collect())
}

/// An instance with the volumes that are attached to it; none: it is gone.
async fn of_instance(
    ec2: &aws_sdk_ec2::Client,
    id: &str,
    deadline: &Deadline,
) -> Result<Option<Unit>, AwsError> {
    let ids = [id.to_owned()];
    let (instance, volumes) = tokio::join!(
        read::instance(ec2, id, deadline),
        read::volumes(ec2, "attachment.instance-id", &ids, deadline),
    );
    let Some(instance) = instance? else {
        return Ok(None);
    };
    let mut volumes = volumes?;
    volumes.retain(|volume| volume.attachment_to(id).is_some());
    volumes.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Some(Unit::Instance(Box::new(instance), volumes)))
}

/// Takes from an original what says that it was replaced: it is in use again.
///
/// # Errors
/// The call failed.
pub async fn mark_undone(
    ec2: &aws_sdk_ec2::Client,
    original: &str,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    // Set and not deleted: a role that may tag need not be able to untag.
    tags::set(ec2, original, REPLACED_BY_TAG, "undone", deadline).await
}

/// The instance with what a stop would cost it, for whoever is about to stop it.
///
/// # Errors
/// A call failed.
pub async fn with_stop_costs(
    ec2: &aws_sdk_ec2::Client,
    mut instance: Instance,
    deadline: &Deadline,
) -> Result<Instance, AwsError> {
    complete(ec2, Some(&mut instance), true, deadline).await?;
    Ok(instance)
}

/// Asks for what DescribeInstances does not say of an instance: its status
/// checks while it runs, and what a stop would cost where that matters.
async fn complete(
    ec2: &aws_sdk_ec2::Client,
    instance: Option<&mut Instance>,
    stop_matters: bool,
    deadline: &Deadline,
) -> Result<(), AwsError> {
    let Some(instance) = instance.filter(|instance| !instance.is_ended()) else {
        return Ok(());
    };
    let (costs, checks) = tokio::join!(
        async {
            match stop_matters {
                true => read::stop_costs(ec2, instance, deadline).await.map(Some),
                false => Ok(None),
            }
        },
        async {
            match instance.state == "running" {
                true => read::checks(ec2, &instance.id, deadline).await,
                false => Ok(None),
            }
        },
    );
    if let Some((stores, protected)) = costs? {
        instance.instance_store |= stores;
        instance.stop_protected = protected;
    }
    instance.checks = checks?;
    Ok(())
}

/// Reads everything that the next step of a run follows from.
///
/// On the way back, once the instance was started on its copies, and of a run
/// that has ended (an undo looks at it), neither the key nor what a stop costs
/// is asked for: nothing follows from them any more, and a fault of KMS must
/// not keep an instance down. Product codes, which a volume has from its
/// making, are those of the record.
///
/// # Errors
/// A call failed: no step follows then.
pub async fn seen(
    ec2: &aws_sdk_ec2::Client,
    kms: &aws_sdk_kms::Client,
    run: &Encryption,
    deadline: &Deadline,
) -> Result<Seen, AwsError> {
    let originals: Vec<String> = run.detail.volumes.iter().map(|v| v.id.clone()).collect();
    let made = |kind: &str| -> BTreeSet<String> {
        let made = run
            .detail
            .progress
            .tries
            .values()
            .filter_map(|t| t.made.as_ref());
        made.filter(|id| is_id(id, kind)).cloned().collect()
    };
    let mut ids = made("vol-");
    ids.extend(originals.iter().cloned());
    let ids: Vec<String> = ids.into_iter().collect();
    let taken: Vec<String> = made("snap-").into_iter().collect();
    let entry = [run.head.id.clone()];
    let progress = &run.detail.progress;
    let forward = run.is_open()
        && progress.back.is_none()
        && run.detail.undoes.is_none()
        && progress.tries(&Change::Start { back: false }).is_none();

    let copies_of = format!("tag:{COPY_OF_TAG}");
    let of_entry = format!("tag:{ENTRY_TAG}");
    let (instance, named, copies, snapshots, taken, key_problem) = tokio::join!(
        instance_of(ec2, run, forward, deadline),
        read::volumes(ec2, "volume-id", &ids, deadline),
        read::volumes(ec2, &copies_of, &originals, deadline),
        read::snapshots(ec2, &of_entry, &entry, deadline),
        read::snapshots(ec2, "snapshot-id", &taken, deadline),
        async {
            match forward {
                true => key_problem(ec2, kms, run.detail.kms_key.as_deref(), deadline).await,
                false => Ok(None),
            }
        },
    );
    let mut volumes = by_id(named?.into_iter().chain(copies?));
    for original in run.detail.volumes.iter().filter(|v| v.marketplace) {
        if let Some(volume) = volumes.get_mut(&original.id) {
            volume.marketplace = true;
        }
    }
    let snapshots = snapshots?.into_iter().chain(taken?);
    Ok(Seen {
        instance: instance?,
        volumes,
        snapshots: snapshots.map(|s| (s.id.clone(), s)).collect(),
        key_problem: key_problem?,
    })
}

/// The run's instance as it is now.
async fn instance_of(
    ec2: &aws_sdk_ec2::Client,
    run: &Encryption,
    forward: bool,
    deadline: &Deadline,
) -> Result<Option<Instance>, AwsError> {
    let Some(id) = run.instance_id() else {
        return Ok(None);
    };
    let Some(mut instance) = read::instance(ec2, id, deadline).await? else {
        return Ok(None);
    };
    let stop_matters = forward && run.detail.way == Way::Swap && instance.is_up();
    complete(ec2, Some(&mut instance), stop_matters, deadline).await?;
    Ok(Some(instance))
}

/// Whether the account encrypts new volumes in this Region by itself.
///
/// # Errors
/// The call failed.
pub async fn encryption_by_default(
    ec2: &aws_sdk_ec2::Client,
    deadline: &Deadline,
) -> Result<bool, AwsError> {
    const OPERATION: &str = "GetEbsEncryptionByDefault";
    let request = ec2.get_ebs_encryption_by_default().send();
    let answer = deadline.call(OPERATION, request).await?;
    answer
        .ebs_encryption_by_default()
        .ok_or_else(|| AwsError::incomplete(OPERATION, "ebsEncryptionByDefault"))
}

/// Whether a text is an id of this kind: no wildcards, nothing made up.
pub(crate) fn is_id(text: &str, kind: &str) -> bool {
    text.strip_prefix(kind).is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

pub(crate) fn by_id(volumes: impl IntoIterator<Item = Volume>) -> BTreeMap<String, Volume> {
    volumes.into_iter().map(|v| (v.id.clone(), v)).collect()
}
