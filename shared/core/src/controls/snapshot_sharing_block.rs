//! `snapshot-sharing-block`: the account's block of public sharing of EBS snapshots in a Region was
//! weakened or is off (Security Hub EC2.182).
//!
//! What is public stays so while new sharing alone is blocked; blocking all
//! sharing hides it, and weakening that shows every hidden snapshot at once. Deliberately not here: how it is judged, restored and undone
//! (`account_setting`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account_setting::{Graded, GradedSetting};
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal};
use crate::shell;
use crate::words::ControlId;

/// The state, as EC2 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "SnapshotSharingBlock")]
pub enum Block {
    /// Any snapshot can be shared publicly.
    Unblocked,
    /// No further snapshot can be shared publicly.
    BlockNewSharing,
    /// No snapshot is public, whatever its grants say.
    BlockAllSharing,
}

impl Block {
    /// The state as EC2 names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unblocked => "unblocked",
            Self::BlockNewSharing => "block-new-sharing",
            Self::BlockAllSharing => "block-all-sharing",
        }
    }
}

impl Graded for Block {
    fn grade(&self) -> u8 {
        match self {
            Self::Unblocked => 0,
            Self::BlockNewSharing => 1,
            Self::BlockAllSharing => 2,
        }
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSharingBlock;

impl GradedSetting for SnapshotSharingBlock {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::SnapshotSharingBlock,
        function: "restore-account-defaults",
        prefix: None,
        calls: &[
            Call {
                name: "DisableSnapshotBlockPublicAccess",
                resource: &[],
            },
            Call {
                name: "EnableSnapshotBlockPublicAccess",
                resource: &[],
            },
        ],
        hub: &["EC2.182"],
        reads: &["ec2:GetSnapshotBlockPublicAccessState"],
        begins: &["ec2:EnableSnapshotBlockPublicAccess"],
        undoes: &["ec2:DisableSnapshotBlockPublicAccess"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Policy,
        enforce_by_name_only: false,
        guide: Guide {
            why: "The block keeps anyone in the account from sharing a snapshot, and the data in it, with every AWS account.",
            changes: "Restores the block to exactly what it was before it was weakened. The policy's `wanted` sets it where it was never on.",
            never: &[
                "It never makes the block stricter than it was, unless the policy says so in `wanted`.",
                "It never changes what a declarative policy of the organisation manages.",
                "It never touches snapshots.",
            ],
        },
        phrases: Phrases {
            resource: "account setting",
            item: "setting",
            tagged: None,
            found: "weakened",
            closed: "public sharing of snapshots is blocked as it was",
            remedy: "block it again",
            why_exempt: "why snapshots may be shared publicly",
            afterwards: &[
                "Snapshots that were shared publicly meanwhile may have been copied: public-snapshot finds those that still are.",
            ],
        },
    };

    type State = Block;

    fn line(block: &Block) -> String {
        format!("public sharing of snapshots: {}", block.name())
    }

    fn commands(region: &str, to: &Block) -> Vec<String> {
        vec![match to {
            Block::Unblocked => shell::aws("ec2 disable-snapshot-block-public-access", region, &[]),
            block => {
                let state = [("--state", block.name().to_owned())];
                shell::aws("ec2 enable-snapshot-block-public-access", region, &state)
            }
        }]
    }
}
