//! The settings of `unencrypted-volume`: the limits that its decision and the
//! step function both keep to.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::windows::{self, Window};

/// For how many days at most the policy may have originals kept before the sweep
/// deletes them: the ledger, which says what may be deleted, keeps entries a
/// little longer (`entry::KEPT_DAYS`).
const MOST_KEPT_DAYS: u32 = 365;

/// What is done about volumes that are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attached {
    /// Told, and left.
    #[default]
    Notify,
    /// Swapped at the instance's next natural stop: no downtime of Backstop's
    /// making.
    WhenStopped,
    /// Also: inside a maintenance window the instance is stopped for it.
    Swap,
}

/// What becomes of originals that were replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Originals {
    /// After how many days the sweep deletes an original whose safety snapshot
    /// is complete and whose encrypted copy is there; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 365))]
    pub delete_after_days: Option<u32>,
}

/// The control's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is done about volumes that are attached.
    pub attached: Attached,
    /// When instances may be stopped (UTC). `swap` needs at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// How old a volume that is attached nowhere has to be, in minutes.
    #[schemars(range(min = 0, max = 1440))]
    pub settling_minutes: u32,
    /// For how many minutes an instance may be down before it goes back to its
    /// original volumes.
    #[schemars(range(min = 5, max = 1440))]
    pub max_downtime_minutes: u32,
    /// Within how many minutes an instance has to pass its status checks.
    #[schemars(range(min = 2, max = 120))]
    pub health_minutes: u32,
    /// Whether an instance with a public IPv4 address that a stop releases may
    /// be stopped all the same.
    pub release_public_ipv4: bool,
    /// Whether volumes may be replaced that a CloudFormation stack made, or whose
    /// instance one made: with the stack's next update they are replaced again,
    /// by new ones.
    pub replace_stack_volumes: bool,
    /// The KMS key of copies: an ARN, id or `alias/…`; absent: the account's
    /// key for EBS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub kms_key: Option<String>,
    /// What becomes of originals that were replaced.
    pub originals: Originals,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attached: Attached::Notify,
            windows: Vec::new(),
            settling_minutes: 10,
            max_downtime_minutes: 30,
            health_minutes: 10,
            release_public_ipv4: false,
            replace_stack_volumes: false,
            kms_key: None,
            originals: Originals::default(),
        }
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let problem = |field: &str, problem: String| Err((field.to_owned(), problem));
        if self.attached == Attached::Swap && self.windows.is_empty() {
            return problem(
                "windows",
                "`swap` stops instances, and only inside a maintenance window: name one, for example [{\"days\": [\"sat\"], \"from\": \"02:00\", \"to\": \"05:00\"}] (UTC)".to_owned(),
            );
        }
        windows::check(&self.windows)?;
        for (field, value, least, most) in [
            ("settling_minutes", self.settling_minutes, 0, 1440),
            ("max_downtime_minutes", self.max_downtime_minutes, 5, 1440),
            ("health_minutes", self.health_minutes, 2, 120),
        ] {
            if !(least..=most).contains(&value) {
                return problem(
                    field,
                    format!("{value} is out of range; allowed is {least} to {most}"),
                );
            }
        }
        if let Some(days) = self.originals.delete_after_days
            && !(1..=MOST_KEPT_DAYS).contains(&days)
        {
            return problem(
                "originals.delete_after_days",
                format!("{days} is out of range; allowed is 1 to {MOST_KEPT_DAYS} (absent: never)"),
            );
        }
        if self
            .kms_key
            .as_deref()
            .is_some_and(|key| key.trim().is_empty())
        {
            return problem(
                "kms_key",
                "it is empty; leave it out for the account's key".to_owned(),
            );
        }
        Ok(())
    }

    /// Whether instances may be stopped at a time.
    #[must_use]
    pub fn in_window(&self, at: Timestamp) -> bool {
        windows::is_open(&self.windows, at)
    }

    /// When a window opens next; none: there is none.
    #[must_use]
    pub fn next_window(&self, after: Timestamp) -> Option<Timestamp> {
        windows::opens(&self.windows, after)
    }

    /// How long an instance may be down.
    #[must_use]
    pub fn max_downtime(&self) -> SignedDuration {
        SignedDuration::from_mins(i64::from(self.max_downtime_minutes))
    }

    /// Within what time an instance has to pass its status checks.
    #[must_use]
    pub fn health_time(&self) -> SignedDuration {
        SignedDuration::from_mins(i64::from(self.health_minutes))
    }
}
