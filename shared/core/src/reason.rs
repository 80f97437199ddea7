//! Why a finding was not remediated: as data, which messages and programs match
//! on. The sentences are for people and nothing parses them. Records of an
//! earlier release hold sentences alone: their messages quote these, and add
//! nothing that depends on the reason.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words::Status;

/// Why a finding is left as it is, or was left in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "kebab-case")]
pub enum Reason {
    /// Another account owns the resource.
    NotOwned {
        /// That account.
        owner: String,
    },
    /// An opt-out tag cannot be read.
    OptOutUnreadable,
    /// A tag opts everything out that was found.
    OptedOut,
    /// The policy exempts the account: account settings have no tags.
    ExemptInPolicy,
    /// Everything was there before the control was switched to `enforce`, and
    /// the policy's `existing` is `notify`.
    Existing,
    /// Nothing of what was found could be judged, and the policy does not say to
    /// close it.
    NotJudged,
    /// The control's mode is `notify`.
    NotifyMode,
    /// The kill switch is on.
    KillSwitch,
    /// The control has tripped: it changes nothing anywhere.
    ControlTripped {
        /// Why it tripped, as a clause.
        why: String,
    },
    /// The control has tripped for this resource.
    ResourceTripped {
        /// Why it tripped, as a clause.
        why: String,
    },
    /// The finding came back too often: the control trips for this resource.
    Fight {
        /// How often it was remediated within 24 hours.
        times: u32,
    },
}

impl Reason {
    /// The status that a finding ends with for this reason.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::NotOwned { .. } => Status::NotOwned,
            Self::OptOutUnreadable => Status::Held,
            Self::OptedOut | Self::ExemptInPolicy => Status::Exempt,
            Self::Existing => Status::Existing,
            Self::NotifyMode | Self::NotJudged => Status::Notified,
            Self::KillSwitch => Status::Stopped,
            Self::ControlTripped { .. } | Self::ResourceTripped { .. } | Self::Fight { .. } => {
                Status::Tripped
            }
        }
    }

    /// Whether only this resource has tripped, so that it is re-armed by itself.
    #[must_use]
    pub fn is_trip_of_resource(&self) -> bool {
        matches!(self, Self::ResourceTripped { .. } | Self::Fight { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::exemption::OPT_OUT_TAG;
        match self {
            Self::NotOwned { owner } => {
                write!(f, "the resource belongs to the account {owner}")
            }
            Self::OptOutUnreadable => write!(f, "the tag {OPT_OUT_TAG} cannot be read"),
            Self::OptedOut => write!(f, "the tag {OPT_OUT_TAG} opts it out"),
            Self::ExemptInPolicy => f.write_str("the policy exempts the account"),
            Self::Existing => f.write_str(
                "it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`",
            ),
            Self::NotJudged => f.write_str("it cannot be judged"),
            Self::NotifyMode => f.write_str("the mode is `notify`"),
            Self::KillSwitch => f.write_str("the kill switch is on"),
            Self::ControlTripped { why } => write!(f, "the control has tripped: {why}"),
            Self::ResourceTripped { why } => {
                write!(f, "the control has tripped for this resource: {why}")
            }
            Self::Fight { times } => write!(
                f,
                "the same finding was remediated {times} times in 24 hours and came back each time, so the control has tripped for this resource"
            ),
        }
    }
}
