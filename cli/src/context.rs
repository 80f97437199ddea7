//! Which account, Region and stack a command is about.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use clap::Args;

use crate::Problem;

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Context {
    /// AWS profile; else what the environment says
    #[arg(long, global = true)]
    pub(crate) profile: Option<String>,
    /// AWS Region; else what the profile or the environment says
    #[arg(long, global = true)]
    pub(crate) region: Option<String>,
    /// Backstop's stack
    #[arg(long, global = true, default_value = "backstop")]
    pub(crate) stack: String,
}

impl Context {
    /// The configuration of every AWS client: the usual chain of profiles,
    /// SSO, processes and the environment.
    pub(crate) async fn config(&self) -> Result<SdkConfig, Problem> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let config = loader.load().await;
        match config.region() {
            Some(_) => Ok(config),
            None => Err(Problem(
                "no Region is set: give --region, set AWS_REGION, or set `region` in the profile"
                    .to_owned(),
            )),
        }
    }
}
