//! `metadata-defaults`: the account's defaults for the metadata service of new instances no
//! longer require IMDSv2 (Security Hub EC2.8 finds the instances).
//!
//! Only the defaults of tokens and hop limit are ever set: what launches name
//! themselves goes before them. Deliberately not here: how it is judged, restored and undone
//! (`account_setting`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account_setting::{Graded, GradedSetting};
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal};
use crate::shell;
use crate::words::ControlId;

/// The hop limit of an account without a preference, as
/// ModifyInstanceMetadataDefaults takes it.
pub const NO_PREFERENCE: i32 = -1;

/// The hop limits that EC2 knows.
const HOPS: std::ops::RangeInclusive<i32> = 1..=64;

/// Whether a token is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HttpTokens {
    /// IMDSv1 is allowed.
    Optional,
    /// IMDSv2 alone.
    Required,
}

/// The account's defaults. `None`: the account has no preference, and the image
/// decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MetadataDefaults")]
pub struct Defaults {
    /// Whether a token is required.
    pub http_tokens: Option<HttpTokens>,
    /// How many hops an answer may take, 1 to 64. Where tokens are required and
    /// nothing is said of hops, EC2 takes 1 for most images, which cuts containers
    /// off; AWS advises 2.
    #[schemars(range(min = 1, max = 64))]
    pub http_put_response_hop_limit: Option<i32>,
}

impl Graded for Defaults {
    fn grade(&self) -> u8 {
        match self.http_tokens {
            Some(HttpTokens::Required) => 1,
            Some(HttpTokens::Optional) | None => 0,
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let problem = match self.http_put_response_hop_limit {
            Some(hops) if HOPS.contains(&hops) => return Ok(()),
            Some(hops) => format!("{hops} is out of range; allowed is 1 to 64"),
            None => "it is missing: without it EC2 takes 1 for most images, which cuts containers off; AWS advises 2".to_owned(),
        };
        Err(("http_put_response_hop_limit", problem))
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct MetadataDefaults;

impl GradedSetting for MetadataDefaults {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::MetadataDefaults,
        function: "restore-account-defaults",
        prefix: None,
        calls: &[Call {
            name: "ModifyInstanceMetadataDefaults",
            resource: &[],
        }],
        hub: &[],
        reads: &["ec2:GetInstanceMetadataDefaults"],
        begins: &["ec2:ModifyInstanceMetadataDefaults"],
        undoes: &[],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Policy,
        enforce_by_name_only: false,
        guide: Guide {
            why: "With IMDSv1 a request that is forged through an application on the instance can read the credentials of the instance's role; the defaults decide what new instances allow.",
            changes: "Restores the account's metadata defaults for new instances to exactly what they were before they were weakened. The policy's `wanted` sets them where they were never that strict.",
            never: &[
                "It never makes the defaults stricter than they were, unless the policy says so in `wanted`.",
                "It never changes what a declarative policy of the organisation manages.",
                "It never touches running instances.",
            ],
        },
        phrases: Phrases {
            resource: "account setting",
            item: "setting",
            tagged: None,
            found: "weakened",
            closed: "new instances require IMDSv2 by default",
            remedy: "require IMDSv2 by default again",
            why_exempt: "why new instances may use IMDSv1",
            afterwards: &[
                "Instances that were launched meanwhile may allow IMDSv1, and keep that.",
            ],
        },
    };

    type State = Defaults;

    fn line(defaults: &Defaults) -> String {
        let tokens = match defaults.http_tokens {
            Some(HttpTokens::Required) => "required",
            Some(HttpTokens::Optional) => "optional",
            None => "no preference",
        };
        let hops = defaults.http_put_response_hop_limit;
        let hops = hops.map_or_else(|| "no preference".to_owned(), |hops| hops.to_string());
        format!("defaults for new instances: tokens {tokens}, hop limit {hops}")
    }

    fn commands(region: &str, to: &Defaults) -> Vec<String> {
        let tokens = match to.http_tokens {
            Some(HttpTokens::Required) => "required",
            Some(HttpTokens::Optional) => "optional",
            None => "no-preference",
        };
        let hops = to.http_put_response_hop_limit.unwrap_or(NO_PREFERENCE);
        let options = [
            ("--http-tokens", tokens.to_owned()),
            ("--http-put-response-hop-limit", hops.to_string()),
        ];
        vec![shell::aws(
            "ec2 modify-instance-metadata-defaults",
            region,
            &options,
        )]
    }
}
