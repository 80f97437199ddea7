//! One change of a run, carried out.
//!
//! Every change is safe to repeat: copies are made with a token that is the
//! same each time, a snapshot (CreateSnapshot knows no token) is asked for once
//! a call, and the others end where they ended before. What may have happened
//! is told from what has not: the step function concludes nothing from the
//! former.
//!
//! A dry run is the same call with `DryRun`: EC2 then says whether it would carry
//! it out, and always as an error.
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

/// EC2's answer to a dry run of what it would carry out.
const WOULD_BE_DONE: &str = "DryRunOperation";

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
        dry_run: None,
    };
    let answer = match change {
        Change::DryRun(change) => run.dry_run(change).await.map(|()| None),
        change => run.change(change).await,
    };
    match answer {
        Ok(made) => (Answer::Accepted, made),
        Err(error) => {
            tracing::warn!(change = %change.key(), %error, "a change was not carried out");
            (
                Answer::Refused {
                    unknown: match change {
                        Change::DryRun(_) => error.retryable,
                        _ => error.may_have_acted(),
                    },
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
    /// `true` for a dry run, else none: nothing is sent for it.
    dry_run: Option<bool>,
}

impl Run<'_> {
    /// Asks whether EC2 would carry a change out.
    async fn dry_run(self, change: &Change) -> Result<(), AwsError> {
        let dry = Self {
            dry_run: Some(true),
            ..self
        };
        match dry.change(change).await {
            Err(error) if error.code == WOULD_BE_DONE => Ok(()),
            Err(error) => Err(error),
            // Whatever was done, nothing shows that the call would be.
            Ok(_) => Err(AwsError {
                operation: "DryRun",
                code: "BadResponse".to_owned(),
                message: format!("{} was answered as if it were no dry run", change.key()),
                retryable: false,
            }),
        }
    }

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
            Change::DryRun(_) => {
                let twice = "a dry run of a dry run".to_owned();
                return Err(AwsError::not_sent("DryRun", twice));
            }
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
                .set_dry_run(self.dry_run)
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
            .set_dry_run(self.dry_run)
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
            .set_dry_run(self.dry_run)
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
        let request = self
            .ec2
            .stop_instances()
            .set_dry_run(self.dry_run)
            .instance_ids(instance)
            .send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    async fn start(&self) -> Result<(), AwsError> {
        const OPERATION: &str = "StartInstances";
        let instance = self.instance(OPERATION)?;
        let request = self
            .ec2
            .start_instances()
            .set_dry_run(self.dry_run)
            .instance_ids(instance)
            .send();
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
        let request = self
            .ec2
            .delete_volume()
            .set_dry_run(self.dry_run)
            .volume_id(copy)
            .send();
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
            .set_dry_run(self.dry_run)
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
            .set_dry_run(self.dry_run)
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
            .set_dry_run(self.dry_run)
            .instance_id(self.instance(OPERATION)?)
            .block_device_mappings(mapping)
            .send();
        self.deadline.call(OPERATION, request).await.map(drop)
    }

    async fn tag_replaced(&self, volume: &str, copy: &str) -> Result<(), AwsError> {
        if self.dry_run.is_some() {
            let why = "it is never asked as a dry run".to_owned();
            return Err(AwsError::not_sent("CreateTags", why));
        }
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
        // One of its own: should EC2 remember that of a dry run, the call itself
        // must not be taken for its repetition.
        let kind = match self.dry_run {
            Some(_) => "dry",
            None => kind,
        };
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
