//! Whether EC2 can encrypt copies under the KMS key that they are to have.
//!
//! It is asked before an instance is stopped, so that a key that cannot be used
//! costs no downtime. What is proven where there is no problem:
//!
//! - the key is there, in this Region, enabled, and of the kind that EBS takes
//! - this role may have KMS make data keys under it (a dry run of
//!   `GenerateDataKeyWithoutPlaintext`, the call that EBS makes in the role's
//!   name for each encrypted volume): key policy, grants and identity policies
//!   allow it
//!
//! What is not proven, and shows in the copy (it comes out in error, or
//! vanishes) or at the start: that EC2 may create the grant by which the
//! instance decrypts. A dry run of `CreateGrant` cannot tell. Roles and key
//! policies allow it only to AWS services (`kms:GrantIsForAWSResource`), and a
//! call of our own is none: it is denied where EC2's is allowed. To have it
//! allowed, the role would have to be able to hand out the key to anybody.
//! Likewise what policies say only about calls through EC2 (`kms:ViaService`):
//! a key that allows no others is reported as a problem, with the way out.
//!
//! AWS's own key for EBS allows everybody in the account who may use EBS, and
//! only through EBS: it is never asked for more than its name.

use aws_sdk_kms::types::{DataKeySpec, KeyManagerType, KeyMetadata, KeySpec, KeyUsageType};

use crate::deadline::Deadline;
use crate::error::AwsError;

/// The name of AWS's own key for EBS.
const EBS_ALIAS: &str = "alias/aws/ebs";

/// The key of copies.
struct Key {
    /// As the policy or the account names it.
    id: String,
    /// Who names it.
    named_by: &'static str,
    /// Whether its name can be changed in Backstop's policy.
    in_policy: bool,
}

/// What keeps the KMS key of copies from being used, one sentence with the key
/// and the way out; none: nothing that can be seen (see the module). Without a
/// key in the policy it is the account's default for EBS.
///
/// # Errors
/// A call failed in a way that says nothing about the key.
pub async fn key_problem(
    ec2: &aws_sdk_ec2::Client,
    kms: &aws_sdk_kms::Client,
    kms_key: Option<&str>,
    deadline: &Deadline,
) -> Result<Option<String>, AwsError> {
    let key = match kms_key {
        Some(id) => Key {
            id: id.to_owned(),
            named_by: "`kms_key` in the policy",
            in_policy: true,
        },
        None => Key {
            id: default_key(ec2, deadline).await?,
            named_by: "the account's default for EBS",
            in_policy: false,
        },
    };
    if key.id == EBS_ALIAS || key.id.ends_with(&format!(":{EBS_ALIAS}")) {
        return Ok(None);
    }
    let here = kms
        .config()
        .region()
        .map(|region| region.as_ref().to_owned());
    if let (Some(there), Some(here)) = (region_of(&key.id), here.as_deref())
        && there != here
    {
        return Ok(Some(key.problem(
            &format!("is in {there}, the volumes are in {here}"),
            "use a key (or the replica of a multi-Region key) of this Region",
        )));
    }
    let found = match described(kms, &key.id, deadline).await {
        Ok(found) => found,
        Err(error) => return about_the_key(&key, error, "DescribeKey"),
    };
    if found.key_manager() == Some(&KeyManagerType::Aws) {
        return of_aws(kms, &key, &found, deadline).await;
    }
    if let Some(problem) = unfit(&key, &found) {
        return Ok(Some(problem));
    }
    may_use(kms, &key, &found, deadline).await
}

/// The account's default key for EBS: an ARN, or AWS's own by its alias.
async fn default_key(ec2: &aws_sdk_ec2::Client, deadline: &Deadline) -> Result<String, AwsError> {
    const OPERATION: &str = "GetEbsDefaultKmsKeyId";
    let request = ec2.get_ebs_default_kms_key_id().send();
    let answer = deadline.call(OPERATION, request).await?;
    answer
        .kms_key_id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| AwsError::incomplete(OPERATION, "kmsKeyId"))
}

async fn described(
    kms: &aws_sdk_kms::Client,
    id: &str,
    deadline: &Deadline,
) -> Result<KeyMetadata, AwsError> {
    const OPERATION: &str = "DescribeKey";
    let request = kms.describe_key().key_id(id).send();
    let answer = deadline.call(OPERATION, request).await?;
    answer
        .key_metadata
        .ok_or_else(|| AwsError::incomplete(OPERATION, "KeyMetadata"))
}

/// A key that AWS manages: usable if it is the one for EBS.
async fn of_aws(
    kms: &aws_sdk_kms::Client,
    key: &Key,
    found: &KeyMetadata,
    deadline: &Deadline,
) -> Result<Option<String>, AwsError> {
    let of_ebs = match described(kms, EBS_ALIAS, deadline).await {
        Ok(own) => own.key_id() == found.key_id(),
        Err(error) if error.code == "NotFoundException" => false,
        Err(error) => return about_the_key(key, error, "DescribeKey"),
    };
    Ok((!of_ebs).then(|| {
        key.problem(
            "is AWS's own key of another service, which EBS may not use",
            &format!("use {EBS_ALIAS} or a key of your own"),
        )
    }))
}

/// What about the key itself keeps EBS from using it.
fn unfit(key: &Key, found: &KeyMetadata) -> Option<String> {
    if found.key_usage() != Some(&KeyUsageType::EncryptDecrypt)
        || found.key_spec() != Some(&KeySpec::SymmetricDefault)
    {
        let usage = found.key_usage().map_or("unknown", |usage| usage.as_str());
        let spec = found.key_spec().map_or("unknown", |spec| spec.as_str());
        return Some(key.problem(
            &format!("is {usage}, {spec}"),
            "EBS takes keys with ENCRYPT_DECRYPT, SYMMETRIC_DEFAULT only",
        ));
    }
    let state = found.key_state().map_or("unknown", |state| state.as_str());
    let way_out = match state {
        "Enabled" => return None,
        "Disabled" => "enable it",
        "PendingDeletion" | "PendingReplicaDeletion" => "cancel its deletion, or use another",
        "PendingImport" => "import its key material",
        "Unavailable" => "connect its custom key store",
        _ => "wait until it is Enabled, or use another",
    };
    Some(key.problem(&format!("is in the state {state}"), way_out))
}

/// Whether this role may have data keys made under the key.
async fn may_use(
    kms: &aws_sdk_kms::Client,
    key: &Key,
    found: &KeyMetadata,
    deadline: &Deadline,
) -> Result<Option<String>, AwsError> {
    const OPERATION: &str = "GenerateDataKeyWithoutPlaintext";
    let request = kms
        .generate_data_key_without_plaintext()
        .key_id(found.arn().unwrap_or(found.key_id()))
        .key_spec(DataKeySpec::Aes256)
        // The context that EBS gives: some key policies ask for it.
        .encryption_context("aws:ebs:id", "vol-00000000000000000")
        .dry_run(true)
        .send();
    match deadline.call(OPERATION, request).await {
        Ok(_) => Ok(None),
        Err(error) if error.code == "DryRunOperationException" => Ok(None),
        Err(error) => about_the_key(key, error, OPERATION),
    }
}

/// A problem, where the error is one about the key. All others (throttling,
/// faults on AWS's side, no answer) say nothing about it.
fn about_the_key(key: &Key, error: AwsError, operation: &str) -> Result<Option<String>, AwsError> {
    let way_out = match error.code.as_str() {
        "NotFoundException" | "InvalidArnException" | "ValidationException" => {
            "use a key that is there, in this Region".to_owned()
        }
        "AccessDeniedException" => format!(
            "allow Backstop's role kms:{operation} on it, in the key's policy and not only through EC2 (kms:ViaService)"
        ),
        "DisabledException" | "KMSInvalidStateException" => "enable it, or use another".to_owned(),
        "InvalidKeyUsageException" => "use a symmetric key for encryption".to_owned(),
        _ => return Err(error),
    };
    Ok(Some(
        key.problem(&format!("cannot be used ({error})"), &way_out),
    ))
}

impl Key {
    fn problem(&self, what: &str, way_out: &str) -> String {
        let other = match self.in_policy {
            true => "",
            false => "; or name another key in the policy (`kms_key`)",
        };
        format!(
            "the KMS key `{}` ({}) {what}: {way_out}{other}",
            self.id, self.named_by
        )
    }
}

/// The Region of an ARN.
fn region_of(key: &str) -> Option<&str> {
    key.starts_with("arn:")
        .then(|| key.split(':').nth(3))?
        .filter(|region| !region.is_empty())
}
