//! What a step can be: a change of the world, something to write down, the end.
//!
//! Deliberately not here: which of them is next (`step`).

use jiff::Timestamp;

use crate::words::Status;

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The way back should everything else fail.
    Safety,
    /// What a copy is made from.
    Transfer,
}

impl Purpose {
    /// The name, as in the tag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Safety => "safety",
            Self::Transfer => "transfer",
        }
    }
}

/// What the key of a dry run begins with, ahead of that of its change.
pub(super) const DRY_RUN: &str = "dry run ";

/// One change of the world. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A snapshot is taken.
    Snapshot {
        /// Of this volume.
        volume: String,
        /// What for.
        purpose: Purpose,
    },
    /// The instance is stopped: the one step that costs downtime.
    Stop {
        /// Whether it is to put the originals back.
        back: bool,
    },
    /// The instance is started.
    Start {
        /// Whether it is with its originals back.
        back: bool,
    },
    /// An encrypted copy is made of a volume.
    Copy {
        /// The volume.
        volume: String,
    },
    /// An encrypted copy is made from a snapshot.
    Create {
        /// The volume that it is a copy of.
        volume: String,
        /// The snapshot.
        snapshot: String,
    },
    /// A copy of ours, which was never attached, is deleted.
    DeleteCopy {
        /// The copy.
        copy: String,
    },
    /// A volume is detached from the instance.
    Detach {
        /// The volume.
        volume: String,
    },
    /// A volume is attached to the instance.
    Attach {
        /// The volume.
        volume: String,
        /// The device.
        device: String,
    },
    /// What becomes of a volume when the instance is terminated is set.
    KeepOrDelete {
        /// The volume.
        volume: String,
        /// Its device.
        device: String,
        /// Whether it goes with the instance.
        delete: bool,
    },
    /// An original is tagged with what replaced it.
    TagReplaced {
        /// The original.
        volume: String,
        /// Its encrypted copy.
        copy: String,
    },
    /// AWS is asked whether it would carry a change out, with the arguments of
    /// its call; nothing is changed.
    DryRun(Box<Change>),
}

impl Change {
    /// What it is known by in the record.
    #[must_use]
    pub fn key(&self) -> String {
        let to_go_back = |back: bool| if back { " to go back" } else { "" };
        match self {
            Self::Snapshot { volume, purpose } => format!("snapshot {} {volume}", purpose.name()),
            Self::Stop { back } => format!("stop{}", to_go_back(*back)),
            Self::Start { back } => format!("start{}", to_go_back(*back)),
            Self::Copy { volume } => format!("copy {volume}"),
            Self::Create { volume, .. } => format!("create {volume}"),
            Self::DeleteCopy { copy } => format!("delete {copy}"),
            Self::Detach { volume } => format!("detach {volume}"),
            Self::Attach { volume, .. } => format!("attach {volume}"),
            Self::KeepOrDelete { volume, .. } => format!("termination {volume}"),
            Self::TagReplaced { volume, .. } => format!("tag {volume}"),
            Self::DryRun(change) => format!("{DRY_RUN}{}", change.key()),
        }
    }
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The run goes back.
    GoBack {
        /// Why, one sentence.
        why: String,
        /// What it ends with.
        status: Status,
        /// Whether the unit is left alone until a person re-arms it.
        trip: bool,
    },
    /// What the unit has become forbids to go on: the run goes back, and ends
    /// as refused.
    Refuse {
        /// Everything that forbids it, one sentence each.
        why: Vec<String>,
    },
    /// AWS would refuse what the run needs, as dry runs show: the run ends as
    /// refused, with nothing stopped or moved, and the unit is left alone until
    /// a person re-arms it (the next look would ask the same again).
    DryRunsRefused {
        /// What AWS would refuse, one sentence each.
        why: Vec<String>,
    },
    /// A volume's copy is made from a snapshot.
    FromSnapshot {
        /// The volume.
        volume: String,
        /// Why.
        why: String,
    },
    /// The instance was seen stopped.
    Stopped {
        /// When it had last been started.
        launched_at: Option<Timestamp>,
    },
    /// A person is told at once; the run goes on.
    Attention {
        /// What is the matter.
        text: String,
    },
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The status: remediated, rolled back, refused, pending, or a person is
    /// needed.
    pub status: Status,
    /// Why, one sentence each.
    pub why: Vec<String>,
    /// Whether the unit is left alone until a person re-arms it.
    pub trip: bool,
    /// Whether the instance was terminated during the run.
    pub instance_gone: bool,
}
