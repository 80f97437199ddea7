//! `metadata-defaults`: the calls.

use aws_sdk_ec2::types::{HttpTokensState, MetadataDefaultHttpTokensState};
use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::metadata_defaults::{
    Defaults, HttpTokens, MetadataDefaults, NO_PREFERENCE,
};
use backstop_core::plan::{Change, Outcome};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome, walk_setting};
use crate::remediations::setting;

const READ: &str = "GetInstanceMetadataDefaults";

impl Remediation for MetadataDefaults {
    async fn gather(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
    ) -> Result<Option<AccountSetting<Defaults>>, AwsError> {
        let request = aws.ec2.get_instance_metadata_defaults().send();
        let answer = at.deadline.call(READ, request).await?;
        let Some(level) = answer.account_level() else {
            return Err(AwsError::incomplete(READ, "accountLevel"));
        };
        let http_tokens = match level.http_tokens() {
            Some(HttpTokensState::Required) => Some(HttpTokens::Required),
            Some(HttpTokensState::Optional) => Some(HttpTokens::Optional),
            Some(other) => {
                return Err(AwsError::unknown_value(READ, "httpTokens", other.as_str()));
            }
            None => None,
        };
        let defaults = Defaults {
            http_tokens,
            http_put_response_hop_limit: level.http_put_response_hop_limit(),
        };
        setting::<Self>(READ, at, defaults, level.managed_by()).map(Some)
    }

    /// Tokens and hop limit as the state has them; what is not named stays.
    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
        change: &Change<Defaults>,
    ) -> Vec<Outcome> {
        let to = change.after.unwrap_or_default();
        let tokens = match to.http_tokens {
            Some(HttpTokens::Required) => MetadataDefaultHttpTokensState::Required,
            Some(HttpTokens::Optional) => MetadataDefaultHttpTokensState::Optional,
            None => MetadataDefaultHttpTokensState::NoPreference,
        };
        let request = aws
            .ec2
            .modify_instance_metadata_defaults()
            .http_tokens(tokens)
            .http_put_response_hop_limit(to.http_put_response_hop_limit.unwrap_or(NO_PREFERENCE));
        let answer = at
            .deadline
            .call("ModifyInstanceMetadataDefaults", request.send())
            .await;
        // `false`: EC2 took the request and did not change the account.
        let answer = answer.and_then(|answer| match answer.r#return() {
            Some(false) => Err(AwsError {
                operation: "ModifyInstanceMetadataDefaults",
                code: "NotChanged".to_owned(),
                message: "EC2 answered that the request did not succeed".to_owned(),
                retryable: true,
            }),
            _ => Ok(()),
        });
        outcome::<Self>(change, answer)
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<AccountSetting<Defaults>>),
    ) -> Result<Walked, Stopped> {
        walk_setting::<Self>(aws, at, each).await
    }
}
