//! `encryption-by-default`: the account setting that encrypts every new volume
//! in a Region is off (Security Hub EC2.7).
//!
//! One call turns it on, nothing that exists is touched. An account has no
//! tags: an exemption stands in the policy, with owner and end. Deliberately
//! not here: volumes that were created meanwhile (`unencrypted_volume`).

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::encryption::{Encryption, Progress, Way};
use crate::entry;
use crate::exemption::{Exemption, OptOut};
use crate::guards::Guards;
use crate::rules::{Existing, Rules};
use crate::trigger::Trigger;
use crate::words::{Control, Mode, Severity, Status};

/// An exemption of the whole account and Region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountExemption {
    /// Last day (UTC) on which it holds.
    #[serde(deserialize_with = "day")]
    #[schemars(with = "String", extend("format" = "date"))]
    pub until: Date,
    /// Who answers for it.
    #[schemars(length(min = 1))]
    pub owner: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A day written as `YYYY-MM-DD` and in no other way, as in an opt-out tag.
fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    let text = String::deserialize(deserializer)?;
    let date = text.parse::<Date>().ok();
    date.filter(|date| date.to_string() == text)
        .ok_or_else(|| D::Error::custom(format!("`{text}` is not a date like `2027-01-31`")))
}

/// The control's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The account is exempt: an account has no tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exemption: Option<AccountExemption>,
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        match &self.exemption {
            Some(exemption) if exemption.owner.trim().is_empty() => Err((
                "exemption.owner".to_owned(),
                "it is empty: name who answers for it".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// What is decided about the setting; `None`: it is on.
#[must_use]
pub fn decide(
    is_on: bool,
    rules: &Rules<'_, Settings>,
    mode: Mode,
    guards: &Guards,
    now: Timestamp,
) -> Option<(Status, Exemption, String)> {
    if is_on {
        return None;
    }
    let control = rules.control;
    let today = Offset::UTC.to_datetime(now).date();
    let exemption = match &control.settings.exemption {
        None => Exemption::None,
        Some(exemption) => {
            let opt_out = OptOut {
                until: Some(exemption.until),
                owner: Some(exemption.owner.clone()),
                reason: exemption.reason.clone(),
            };
            match exemption.until < today {
                true => Exemption::Ended(opt_out),
                false => Exemption::Exempt(opt_out),
            }
        }
    };
    let existing = control.existing == Existing::Notify && !guards.baseline.is_empty();
    let (status, why) = if exemption.holds() {
        (Status::Exempt, "the policy exempts the account".to_owned())
    } else if control.mode.unwrap_or(mode) != Mode::Enforce {
        (Status::Notified, "the mode is `notify`".to_owned())
    } else if rules.kill_switch {
        (Status::Stopped, "the kill switch is on".to_owned())
    } else if let Some(trip) = guards
        .control_tripped
        .as_ref()
        .or(guards.resource_tripped.as_ref())
    {
        (
            Status::Tripped,
            format!("the control has tripped: {}", trip.why),
        )
    } else if existing {
        (
            Status::Existing,
            "it was off before the control was switched to `enforce`, and the policy's `existing` is `notify`".to_owned(),
        )
    } else {
        (Status::InProgress, String::new())
    };
    Some((status, exemption, why))
}

/// The setting's name as a resource. AWS has no ARN for it.
#[must_use]
pub fn resource(partition: &str, region: &str, account: &str) -> String {
    format!("arn:{partition}:ec2:{region}:{account}:encryption-by-default/{region}")
}

/// The ledger's record of it.
#[must_use]
pub fn record(
    (status, exemption, why): (Status, Exemption, String),
    trigger: &Trigger,
    partition: &str,
    id: &str,
    policy_version: i64,
    now: Timestamp,
) -> Encryption {
    Encryption {
        version: entry::VERSION,
        id: id.to_owned(),
        control: Control::EncryptionByDefault,
        severity: Severity::Medium,
        resource: resource(partition, &trigger.region, &trigger.account),
        resource_name: format!("encryption by default in {}", trigger.region),
        account: trigger.account.clone(),
        region: trigger.region.clone(),
        team: None,
        status,
        way: Way::AccountSetting,
        instance: None,
        volumes: Vec::new(),
        kms_key: None,
        progress: Progress::default(),
        reasons: Some(why)
            .filter(|why| !why.is_empty())
            .into_iter()
            .collect(),
        exemption,
        undoes: None,
        actor: trigger.actor.clone(),
        policy_version,
        attempts: 1,
        started_at: now,
        finished_at: (status != Status::InProgress).then_some(now),
        managed_by: None,
        page_key: None,
        revision: 0,
    }
}
