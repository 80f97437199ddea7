//! One change of a run, carried out.
//!
//! Every change is safe to repeat: copies are made with a token that is the
//! same each time, a snapshot (CreateSnapshot knows no token) is asked for once
//! a call, and the others end where they ended before. What may have happened
//! is told from what has not: the step function concludes nothing from the
//! former.
//!
//! Never here: a forced stop or detachment (what is not written would be
//! lost), the deletion of an original.

use aws_sdk_ec2::types::{
    EbsInstanceBlockDeviceSpecification, InstanceBlockDeviceMappingSpecification, ResourceType,
    Tag, TagSpecification, VolumeType,
};
use aws_smithy_types::retry::RetryConfig;
use backstop_core::encryption::{Answer, Change, Encryption, Purpose};
use backstop_core::security_group::Tags;
use backstop_core::volumes::{
    COPY_OF_TAG, ENTRY_TAG, PURPOSE_TAG, REPLACED_BY_TAG, Snapshot, Volume,
};

use super::Seen;
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::tags;

/// How long a throttled CreateSnapshot pauses.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

/// Carries out one change: what AWS answered, and the id of what it made.
pub async fn change(
    ec2: &aws_sdk_ec2::Client,
    run: &Encryption,
    seen: &Seen,
    change: &Change,
    deadline: &Deadline,
) -> (Answer, Option<String>) {
    let run = Run {
        ec2,
        run,
        seen,
        deadline,
    };
    match run.change(change).await {
        Ok(made) => (Answer::Accepted, made),
        Err(error) => {
            tracing::warn!(change = %change.key(), %error, "a change was not carried out");
            (
                Answer::Refused {
                    unknown: error.may_have_acted(),
                    operation: error.operation.to_owned(),
                    code: error.code,
                    message: error.message,
                },
                None,
            )
        }
    }
}

struct Run<'a> {
    ec2: &'a aws_sdk_ec2::Client,
    run: &'a Encryption,
    seen: &'a Seen,
    deadline: &'a Deadline,
}

impl Run<'_> {
    async fn change(&self, change: &Change) -> Result<Option<String>, AwsError> {
        match change {
            Change::Snapshot { volume, purpose } => return self.snapshot(volume, *purpose).await,
            Change::Copy { volume } => return self.copy(volume).await,
            Change::Create { volume, snapshot } => return self.create(volume, snapshot).await,
            Change::Stop { .. } => self.stop().await?,
            Change::Start { .. } => self.start().await?,
            Change::DeleteCopy { copy } => self.delete_copy(copy).await?,
            Change::Detach { volume } => self.detach(volume).await?,
            Change::Attach { volume, device } => self.attach(volume, device).await?,
            Change::KeepOrDelete { device, delete, .. } => {
                self.keep_or_delete(device, *delete).await?;
            }
            Change::TagReplaced { volume, copy } => self.tag_replaced(volume, copy).await?,
        }
        Ok(None)
    }

    async fn snapshot(&self, volume: &str, purpose: Purpose) -> Result<Option<String>, AwsError> {
        const OPERATION: &str = "CreateSnapshot";
        if let Some(there) = self.snapshot_of(volume, purpose) {
            return Ok(Some(there.id.clone()));
        }
        let mut marks = self.marks([(PURPOSE_TAG, purpose.name())]);
        let original = self.original(volume, OPERATION)?;
        marks.extend(
            original
                .tags
                .get_key_value("Name")
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        loop {
            // The SDK must not ask again after a lost answer: that would be a
            // second snapshot.
            let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
            let request = self
                .ec2
                .create_snapshot()
                .volume_id(volume)
                .description(format!(
                    "Backstop: {} snapshot of {volume} for its encryption ({})",
                    purpose.name(),
                    self.run.head.id
                ))
                .tag_specifications(specification(ResourceType::Snapshot, &marks))
                .customize()
                .config_override(once)
                .send();
            match self.deadline.call(OPERATION, request).await {
                Err(error) if error.is_throttled() && self.deadline.left() > PAUSE => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return Ok(answer?.snapshot_id),
            }
        }
    }

    /// A snapshot that an earlier try took.
    fn snapshot_of(&self, volume: &str, purpose: Purpose) -> Option<&Snapshot> {
        self.seen.snapshots.values().find(|snapshot| {
            snapshot.volume == volume
                && snapshot.tags.get(ENTRY_TAG) == Some(&self.run.head.id)
                && snapshot.tags.get(PURPOSE_TAG).map(String::as_str) == Some(purpose.name())
        })
    }

    async fn copy(&self, volume: &str) -> Result<Option<String>, AwsError> {
        const OPERATION: &str = "CopyVolumes";
        let original = self.original(volume, OPERATION)?;
        let (iops, throughput) = original.provisioned();
        let request = self
            .ec2
            .copy_volumes()
            .source_volume_id(volume)
            .client_token(self.token("copy", volume))
            // Without it the copy would be a gp2.
            .volume_type(VolumeType::from(original.volume_type.as_str()))
            .set_iops(iops)
            .set_throughput(throughput)
            .encrypted(true)
            .set_kms_key_id(self.run.detail.kms_key.clone())
            .tag_specifications(self.tags_of_copy(original))
            .send();
        let answer = self.deadline.call(OPERATION, request).await?;
        let made = answer
            .volumes()
            .iter()
            .find_map(|volume| volume.volume_id());
        Ok(made.map(str::to_owned))
    }

    async fn create(&self, volume: &str, snapshot: &str) -> Result<Option<String>, AwsError> {
        const OPERATION: &str = "CreateVolume";
        let original = self.original(volume, OPERATION)?;
        let (iops, throughput) = original.provisioned();
        let request = self
            .ec2
            .create_volume()
            .snapshot_id(snapshot)
            .client_token(self.token("create", snapshot))
            .availability_zone(&original.zone)
            .size(original.size)
            .volume_type(VolumeType::from(original.volume_type.as_str()))
            .set_iops(iops)
            .set_throughput(throughput)
            .encrypted(true)
            .set_kms_key_id(self.run.detail.kms_key.clone())
            .tag_specifications(self.tags_of_copy(original))
            .send();
        Ok(self.deadline.call(OPERATION, request).await?.volume_id)
    }

    async fn stop(&self) -> Result<(), AwsError> {
        const OPERATION: &str = "StopInstances";
        let instance = self.instance(OPERATION)?;
        let request = self.ec2.stop_instances().instance_ids(instance).send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    async fn start(&self) -> Result<(), AwsError> {
        const OPERATION: &str = "StartInstances";
        let instance = self.instance(OPERATION)?;
        let request = self.ec2.start_instances().instance_ids(instance).send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    /// The step function asks for the deletion of nothing but copies of this
    /// run that were never in use. What cannot be taken back is checked twice.
    async fn delete_copy(&self, copy: &str) -> Result<(), AwsError> {
        const OPERATION: &str = "DeleteVolume";
        if let Some(why) = self.not_ours(copy) {
            return Err(AwsError {
                operation: OPERATION,
                code: "NotOurs".to_owned(),
                message: format!("{copy} is not deleted: {why}"),
                retryable: false,
            });
        }
        let request = self.ec2.delete_volume().volume_id(copy).send();
        match self.deadline.call(OPERATION, request).await {
            Err(error) if error.is_gone() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Why a volume is not a copy that this run may delete.
    fn not_ours(&self, copy: &str) -> Option<&'static str> {
        if self
            .run
            .detail
            .volumes
            .iter()
            .any(|original| original.id == copy)
        {
            return Some("it is an original of this run");
        }
        let Some(volume) = self.seen.volumes.get(copy) else {
            return Some("it was not seen");
        };
        if volume.tags.get(ENTRY_TAG) != Some(&self.run.head.id) {
            return Some("its tags do not say that this run made it");
        }
        let of_ours = volume.tags.get(COPY_OF_TAG).is_some_and(|of| {
            self.run
                .detail
                .volumes
                .iter()
                .any(|original| original.id == *of)
        });
        if !of_ours {
            return Some("its tags do not say that it is a copy of an original of this run");
        }
        volume
            .attached()
            .next()
            .map(|_| "it is attached to an instance")
    }

    async fn detach(&self, volume: &str) -> Result<(), AwsError> {
        const OPERATION: &str = "DetachVolume";
        let request = self
            .ec2
            .detach_volume()
            .volume_id(volume)
            .instance_id(self.instance(OPERATION)?)
            .send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    async fn attach(&self, volume: &str, device: &str) -> Result<(), AwsError> {
        const OPERATION: &str = "AttachVolume";
        let request = self
            .ec2
            .attach_volume()
            .volume_id(volume)
            .instance_id(self.instance(OPERATION)?)
            .device(device)
            .send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    async fn keep_or_delete(&self, device: &str, delete: bool) -> Result<(), AwsError> {
        const OPERATION: &str = "ModifyInstanceAttribute";
        let ebs = EbsInstanceBlockDeviceSpecification::builder()
            .delete_on_termination(delete)
            .build();
        let mapping = InstanceBlockDeviceMappingSpecification::builder()
            .device_name(device)
            .ebs(ebs)
            .build();
        let request = self
            .ec2
            .modify_instance_attribute()
            .instance_id(self.instance(OPERATION)?)
            .block_device_mappings(mapping)
            .send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    async fn tag_replaced(&self, volume: &str, copy: &str) -> Result<(), AwsError> {
        tags::set(self.ec2, volume, REPLACED_BY_TAG, copy, self.deadline).await
    }

    /// The original as it is now: copies have to be like it.
    fn original(&self, id: &str, operation: &'static str) -> Result<&Volume, AwsError> {
        let ours = self
            .run
            .detail
            .volumes
            .iter()
            .any(|original| original.id == id);
        self.seen.volumes.get(id).filter(|_| ours).ok_or_else(|| {
            AwsError::not_sent(
                operation,
                format!("`{id}` is no original of this run that is there"),
            )
        })
    }

    fn instance(&self, operation: &'static str) -> Result<&str, AwsError> {
        self.run.instance_id().ok_or_else(|| {
            AwsError::not_sent(operation, "the run's record names no instance".to_owned())
        })
    }

    /// The same for every try, so that of a call whose answer was lost and its
    /// repetition one thing comes. EC2 takes up to 64 characters; these are 55
    /// at most.
    fn token(&self, kind: &str, of: &str) -> String {
        let mut token = format!("{}-{kind}-{of}", self.run.head.id);
        token.retain(|c| c.is_ascii_graphic());
        token.truncate(64);
        token
    }

    fn marks<const N: usize>(&self, own: [(&str, &str); N]) -> Tags {
        let entry = [(ENTRY_TAG, self.run.head.id.as_str())];
        own.into_iter()
            .chain(entry)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn tags_of_copy(&self, original: &Volume) -> TagSpecification {
        let mut tags = original.carried_tags();
        tags.extend(self.marks([(COPY_OF_TAG, &original.id)]));
        specification(ResourceType::Volume, &tags)
    }
}

fn specification(of: ResourceType, tags: &Tags) -> TagSpecification {
    let tags = tags
        .iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect();
    TagSpecification::builder()
        .resource_type(of)
        .set_tags(Some(tags))
        .build()
}
