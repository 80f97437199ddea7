//! `public-image`: everyone can launch instances from a machine image (AMI).
//!
//! The grant to everyone goes; accounts, organisations and organisational units
//! that are named keep theirs. The account's block of public images hides none that
//! is public already, so a change of it concerns none of them (`public_snapshot`
//! differs in that). Deliberately not here: the snapshots behind an
//! image, whose sharing is apart from the image's (`public_snapshot`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::finding::Verdict;
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal, Tagged};
use crate::plan::{Exposure, ItemId};
use crate::sharing::{self, EVERYONE, Holder, Storage};
use crate::words::ControlId;

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct PublicImage;

impl Control for PublicImage {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::PublicImage,
        function: "unshare-storage",
        prefix: Some("ami-"),
        calls: &[
            Call {
                name: "ModifyImageAttribute",
                resource: &[
                    &["requestParameters", "imageId"],
                    &[
                        "requestParameters",
                        "ModifyImageAttributeRequest",
                        "ImageId",
                    ],
                ],
            },
            // They take every grant away: what was recorded holds no more.
            Call {
                name: "ResetImageAttribute",
                resource: &[&["requestParameters", "imageId"]],
            },
            Call {
                name: "DisableImage",
                resource: &[
                    &["requestParameters", "imageId"],
                    &["requestParameters", "DisableImageRequest", "ImageId"],
                ],
            },
        ],
        // Security Hub has no control for it.
        hub: &[],
        reads: &[
            "ec2:DescribeImageAttribute",
            "ec2:DescribeImages",
            "ec2:GetImageBlockPublicAccessState",
        ],
        begins: &["ec2:ModifyImageAttribute"],
        undoes: &["ec2:CreateTags"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Resource,
        enforce_by_name_only: false,
        guide: Guide {
            why: "Every AWS account can launch a public image and read what is on its disks: credentials, customer data, source code.",
            changes: "Removes the launch permission for everyone from the image.",
            never: &[
                "It never removes a launch permission of an account, organisation or organisational unit that is named.",
                "It never resets the launch permissions as a whole, and never disables or deregisters an image.",
            ],
        },
        phrases: Phrases {
            resource: "image",
            item: "grant",
            tagged: Some(Tagged {
                any: "the image",
                resource: "the image",
            }),
            found: "public",
            closed: "the image is no longer public",
            remedy: "stop sharing it with everyone",
            why_exempt: "why it must stay public",
            afterwards: &[
                "Instances that others launched from it go on, and copies that they made stay theirs: treat what is on it as known to them.",
                "Accounts that launched from it by the public grant can launch no more: share it by name with those that should.",
            ],
        },
    };

    type Settings = Settings;
    type Facts = Storage;
    type State = Holder;

    fn subject(image: &Storage) -> Subject<'_> {
        image.subject()
    }

    fn items(image: &Storage) -> BTreeMap<ItemId, Holder> {
        image.grants()
    }

    fn judge(
        image: &Storage,
        _settings: &Settings,
        _former: Option<&Holder>,
        spared: &IsSpared<'_>,
    ) -> Verdict<Holder> {
        image.judge(spared)
    }

    fn line(_grant: &str, holder: &Holder) -> String {
        holder.line()
    }

    fn details(exposure: &Exposure<Holder>) -> Vec<String> {
        vec![sharing::exposure_line(exposure)]
    }

    fn remaining(exposure: &Exposure<Holder>) -> String {
        sharing::remaining(exposure)
    }

    fn name(_grant: &str) -> String {
        sharing::name()
    }

    fn bars_undo(image: &Storage) -> Option<String> {
        sharing::bars_undo(
            image,
            "images",
            "ec2 disable-image-block-public-access",
            "that may take ten minutes",
        )
    }

    fn commands(back: &ByHand<'_, Holder>) -> Vec<String> {
        let share = [
            ("--image-id", back.resource),
            ("--attribute", "launchPermission"),
            ("--operation-type", "add"),
            ("--user-groups", EVERYONE),
        ];
        sharing::commands(back, "ec2 modify-image-attribute", &share)
    }
}
