//! `image-sharing-block`: the account's block of public sharing of machine images
//! (AMIs) in a Region was turned off, or is off.
//!
//! The block keeps images from being shared publicly anew. It neither hides nor ends
//! a public grant that is there, so turning it off exposes no image by itself:
//! `public-image` looks at none of them because of it. Deliberately not here: how it
//! is judged, restored and undone (`account_setting`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account_setting::{Graded, GradedSetting};
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal};
use crate::shell;
use crate::words::ControlId;

/// The state, as EC2 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "ImageSharingBlock")]
pub enum Block {
    /// Any image can be shared publicly.
    Unblocked,
    /// No further image can be shared publicly.
    BlockNewSharing,
}

impl Block {
    /// The state as EC2 names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unblocked => "unblocked",
            Self::BlockNewSharing => "block-new-sharing",
        }
    }
}

impl Graded for Block {
    fn grade(&self) -> u8 {
        match self {
            Self::Unblocked => 0,
            Self::BlockNewSharing => 1,
        }
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct ImageSharingBlock;

impl GradedSetting for ImageSharingBlock {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::ImageSharingBlock,
        function: "restore-account-defaults",
        prefix: None,
        calls: &[
            Call {
                name: "DisableImageBlockPublicAccess",
                resource: &[],
            },
            Call {
                name: "EnableImageBlockPublicAccess",
                resource: &[],
            },
        ],
        // Security Hub has no control for it.
        hub: &[],
        reads: &["ec2:GetImageBlockPublicAccessState"],
        begins: &["ec2:EnableImageBlockPublicAccess"],
        undoes: &["ec2:DisableImageBlockPublicAccess"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Policy,
        enforce_by_name_only: false,
        guide: Guide {
            why: "The block keeps anyone in the account from sharing an image, and what is on its disks, with every AWS account.",
            changes: "Turns the block on again where it was on before. The policy's `wanted` turns it on where it never was.",
            never: &[
                "It never turns the block on where it was never on, unless the policy says so in `wanted`.",
                "It never changes what a declarative policy of the organisation manages.",
                "It never touches images.",
            ],
        },
        phrases: Phrases {
            resource: "account setting",
            item: "setting",
            tagged: None,
            found: "weakened",
            closed: "public sharing of images is blocked as it was",
            remedy: "block it again",
            why_exempt: "why images may be shared publicly",
            afterwards: &[
                "Images that were shared publicly meanwhile stay public: public-image finds them.",
            ],
        },
    };

    type State = Block;

    /// EC2's reference of EnableImageBlockPublicAccess and
    /// DisableImageBlockPublicAccess: either takes up to ten minutes, and
    /// GetImageBlockPublicAccessState answers the old state until then.
    const SHOWN_WITHIN: Duration = Duration::from_secs(600);

    fn line(block: &Block) -> String {
        format!("public sharing of images: {}", block.name())
    }

    fn commands(region: &str, to: &Block) -> Vec<String> {
        vec![match to {
            Block::Unblocked => shell::aws("ec2 disable-image-block-public-access", region, &[]),
            block => {
                let state = [("--image-block-public-access-state", block.name().to_owned())];
                shell::aws("ec2 enable-image-block-public-access", region, &state)
            }
        }]
    }
}
