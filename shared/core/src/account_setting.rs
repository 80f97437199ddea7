//! Facts about a setting that an account has in a Region. AWS has no ARN, no tags
//! and no owner for it but the account.

use crate::control::Subject;
use crate::security_group::Tags;

static NO_TAGS: Tags = Tags::new();

/// A setting as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSetting<S> {
    /// An ARN of our own making, which ends with the Region.
    pub arn: String,
    /// The Region: its id among resources.
    pub region: String,
    /// The account.
    pub account: String,
    /// Its name, for people.
    pub name: String,
    /// Its state.
    pub state: S,
}

impl<S> AccountSetting<S> {
    /// A setting by its name, for example `encryption-by-default`.
    #[must_use]
    pub fn new(setting: &str, partition: &str, region: &str, account: &str, state: S) -> Self {
        Self {
            arn: format!("arn:{partition}:ec2:{region}:{account}:{setting}/{region}"),
            region: region.to_owned(),
            account: account.to_owned(),
            name: format!("{} in {region}", setting.replace('-', " ")),
            state,
        }
    }

    /// The setting as the resource of a control.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.region,
            arn: &self.arn,
            name: &self.name,
            owner: &self.account,
            tags: &NO_TAGS,
            inherited: None,
        }
    }
}
