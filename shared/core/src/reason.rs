//! Why a finding was not remediated: as data, which messages and programs match
//! on. The sentences are for people and nothing parses them. Records of an
//! earlier release hold sentences alone: their messages quote these, and add
//! nothing that depends on the reason.

use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::prose::{counted, one_line};
use crate::security_group::Users;
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
    /// A declarative policy of the organisation manages the account's setting:
    /// the account cannot change it.
    DeclarativePolicy,
    /// The account's setting was never seen any better, and the policy does not
    /// say what it should be.
    NeverSet,
    /// Something uses the resource, and would lose by the change.
    InUse {
        /// What.
        users: Users,
    },
    /// Whether something uses the resource cannot be read.
    UseUnknown {
        /// What AWS answered, as a clause.
        why: String,
    },
    /// What was found is needed where the resource is used.
    NeededBy {
        /// By what.
        what: NeededBy,
    },
    /// An AWS service operates the resource, and only it should change it.
    OperatedByService {
        /// The service, as EC2 names it.
        service: String,
    },
    /// What a change would take away was used in the days that were looked at.
    StillUsed {
        /// How often.
        calls: u64,
        /// How many days were looked at.
        days: u16,
        /// Days (UTC) that have too few figures beside that.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<Date>,
    },
    /// Whether what a change would take away is used is not known yet.
    Unproven {
        /// How many days were looked at.
        days: u16,
        /// Days (UTC) that have too few figures.
        missing: Vec<Date>,
    },
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
    /// Resources that have tripped by themselves have used up the control's budget
    /// of this clock hour.
    BudgetSpent,
    /// The finding came back too often: the control trips for this resource.
    Fight {
        /// How often it was remediated within 24 hours.
        times: u32,
    },
    /// What changed after the decision keeps the change from being made.
    Meanwhile {
        /// What it is.
        what: Meanwhile,
    },
}

/// What needs what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeededBy {
    /// The nodes and load balancers of a Kubernetes cluster.
    Cluster {
        /// The cluster, as in "It is managed by …".
        manager: String,
    },
    /// Launches that name no subnet: they go to a default subnet.
    DefaultSubnet,
    /// Instances that have IPv6 alone.
    Ipv6OnlySubnet,
}

/// What changed between a decision and the change that it led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meanwhile {
    /// The mode is not `enforce` any more.
    EnforceNoMore,
    /// The instance is gone.
    InstanceGone,
    /// The instance does not run any more.
    NotRunning,
    /// A tag opts it out.
    OptedOut,
    /// An opt-out tag was set and cannot be read.
    OptOutUnreadable,
    /// An encryption is under way, which stops the instance.
    BeingEncrypted {
        /// The encryption's ledger entry.
        entry: String,
    },
    /// The maintenance window has closed.
    WindowClosed,
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
            Self::DeclarativePolicy
            | Self::NeverSet
            | Self::NotJudged
            | Self::InUse { .. }
            | Self::UseUnknown { .. }
            | Self::NeededBy { .. }
            | Self::OperatedByService { .. }
            | Self::NotifyMode => Status::Notified,
            Self::KillSwitch => Status::Stopped,
            Self::BudgetSpent | Self::StillUsed { .. } | Self::Unproven { .. } => Status::Pending,
            Self::ControlTripped { .. } | Self::ResourceTripped { .. } | Self::Fight { .. } => {
                Status::Tripped
            }
            Self::Meanwhile { .. } => Status::RolledBack,
        }
    }

    /// Why a finding is open, in a few words, for digests and tables.
    #[must_use]
    pub fn brief(&self) -> &'static str {
        match self {
            Self::NotOwned { .. } => "another account owns it",
            Self::OptOutUnreadable => "its opt-out tag cannot be read",
            Self::OptedOut | Self::ExemptInPolicy => "opted out",
            Self::Existing => "it was there before `enforce`",
            Self::DeclarativePolicy => "a declarative policy sets it",
            Self::NeverSet => "it was never set",
            Self::NotJudged => "it cannot be judged",
            Self::InUse { .. } => "it is in use",
            Self::UseUnknown { .. } => "whether it is in use cannot be read",
            Self::NeededBy { what } => what.brief(),
            Self::OperatedByService { .. } => "an AWS service operates it",
            Self::StillUsed { .. } => "it is still used",
            Self::Unproven { .. } => "whether it is still used is not known yet",
            Self::NotifyMode => "the mode is `notify`",
            Self::KillSwitch => "the kill switch is on",
            Self::BudgetSpent => "the budget of the hour is used up",
            Self::Meanwhile { .. } => "something changed meanwhile",
            Self::ControlTripped { .. } | Self::ResourceTripped { .. } | Self::Fight { .. } => {
                "the control has tripped"
            }
        }
    }

    /// Whether it says that a change may break what uses the resource.
    #[must_use]
    pub fn is_about_use(&self) -> bool {
        matches!(self, Self::StillUsed { .. } | Self::Unproven { .. })
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
            Self::DeclarativePolicy => f.write_str(
                "a declarative policy of the organisation sets it, and only there it can be changed",
            ),
            Self::NeverSet => f.write_str(
                "it has been so since Backstop first looked, and the policy names no value in the control's `wanted`",
            ),
            Self::NotJudged => f.write_str("it cannot be judged"),
            Self::InUse { users } => write!(f, "it is in use, by {users}"),
            Self::UseUnknown { why } => write!(f, "whether it is in use cannot be read: {why}"),
            Self::NeededBy { what } => write!(f, "{what}"),
            Self::OperatedByService { service } => write!(
                f,
                "{} operates it, and only that service should change it",
                one_line(service, 100)
            ),
            Self::StillUsed {
                calls,
                days,
                missing,
            } => {
                let times = counted(usize::try_from(*calls).unwrap_or(usize::MAX), "request");
                write!(f, "IMDSv1 is still used: CloudWatch counted {times} without a token (metric MetadataNoToken) in the last {days} days")?;
                match missing[..] {
                    [] => Ok(()),
                    _ => write!(f, ", and has too few figures for {}", spans(missing)),
                }
            }
            Self::Unproven { days, missing } => write!(
                f,
                "that nothing uses IMDSv1 is not proven: of the last {days} days CloudWatch has too few figures (metric MetadataNoToken) for {}, as of an instance that is new or was stopped",
                spans(missing)
            ),
            Self::NotifyMode => f.write_str("the mode is `notify`"),
            Self::KillSwitch => f.write_str("the kill switch is on"),
            Self::ControlTripped { why } => write!(f, "the control has tripped: {why}"),
            Self::ResourceTripped { why } => {
                write!(f, "the control has tripped for this resource: {why}")
            }
            Self::BudgetSpent => f.write_str(
                "resources for which the control has tripped have used up its budget of this hour",
            ),
            Self::Fight { times } => write!(
                f,
                "the same finding was remediated {times} times in 24 hours and came back each time, so the control has tripped for this resource"
            ),
            Self::Meanwhile { what } => write!(f, "{what}"),
        }
    }
}

impl NeededBy {
    fn brief(&self) -> &'static str {
        match self {
            Self::Cluster { .. } => "a Kubernetes cluster uses it",
            Self::DefaultSubnet => "it is a default subnet",
            Self::Ipv6OnlySubnet => "it has IPv6 alone",
        }
    }
}

impl fmt::Display for NeededBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster { manager } => write!(
                f,
                "it is used by {manager}, whose nodes and load balancers may need public addresses"
            ),
            Self::DefaultSubnet => f.write_str(
                "it is a default subnet, which AWS makes public for launches that name no subnet, and the policy's `change_default_subnets` is not on",
            ),
            Self::Ipv6OnlySubnet => f.write_str(
                "it has IPv6 alone, so instances launched in it would get no address without this",
            ),
        }
    }
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnforceNoMore => f.write_str("the mode is `enforce` no more"),
            Self::InstanceGone => f.write_str("the instance is gone"),
            Self::NotRunning => f.write_str("the instance does not run any more"),
            Self::OptedOut => f.write_str("it was opted out meanwhile"),
            Self::OptOutUnreadable => {
                f.write_str("its opt-out tag was set meanwhile and cannot be read")
            }
            Self::BeingEncrypted { entry } => write!(
                f,
                "its volumes are being encrypted (entry {entry}), for which it is stopped"
            ),
            Self::WindowClosed => f.write_str("the maintenance window has closed"),
        }
    }
}

/// Days as people write them: `2026-11-16, 2026-11-20 to 2026-11-29`.
fn spans(days: &[Date]) -> String {
    let mut spans: Vec<(Date, Date)> = Vec::new();
    for day in days {
        match spans.last_mut() {
            Some((_, last)) if last.tomorrow().ok().as_ref() == Some(day) => *last = *day,
            _ => spans.push((*day, *day)),
        }
    }
    let spans = spans.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    });
    spans.collect::<Vec<_>>().join(", ")
}
