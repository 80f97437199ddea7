//! `public-snapshot`: everyone can make a volume of an EBS snapshot, or copy it
//! (Security Hub EC2.1).
//!
//! The grant to everyone goes; accounts that are named keep theirs, for backup
//! services share by name. Deliberately not here: the account's setting that
//! blocks public sharing, on which only the severity and an undo depend: while it
//! blocks all sharing it hides the grants that are there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::finding::Verdict;
use crate::info::{Call, ControlInfo, Expands, Guide, OptOutOn, Phrases, Reversal, Tagged};
use crate::plan::{Exposure, ItemId};
use crate::sharing::{self, EVERYONE, Holder, Storage};
use crate::words::ControlId;

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct PublicSnapshot;

impl Control for PublicSnapshot {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::PublicSnapshot,
        function: "unshare-storage",
        prefix: Some("snap-"),
        calls: &[
            Call {
                name: "ModifySnapshotAttribute",
                resource: &[
                    &["requestParameters", "snapshotId"],
                    &[
                        "requestParameters",
                        "ModifySnapshotAttributeRequest",
                        "SnapshotId",
                    ],
                ],
            },
            // It takes every grant away: what was recorded holds no more.
            Call {
                name: "ResetSnapshotAttribute",
                resource: &[&["requestParameters", "snapshotId"]],
            },
        ],
        hub: &["EC2.1"],
        reads: &[
            "ec2:DescribeSnapshotAttribute",
            "ec2:DescribeSnapshots",
            "ec2:GetSnapshotBlockPublicAccessState",
        ],
        begins: &["ec2:ModifySnapshotAttribute"],
        undoes: &["ec2:CreateTags"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Resource,
        enforce_by_name_only: false,
        guide: Guide {
            why: "Every AWS account can make a volume from a public snapshot and read what is on it: credentials, customer data, source code.",
            changes: "Removes the grant to everyone from the snapshot.",
            never: &[
                "It never removes a grant to an account that is named.",
                "It never resets the attribute as a whole, and never deletes a snapshot.",
            ],
        },
        phrases: Phrases {
            resource: "snapshot",
            item: "grant",
            tagged: Some(Tagged {
                any: "the snapshot",
                resource: "the snapshot",
            }),
            found: "public",
            closed: "the snapshot is no longer public",
            remedy: "stop sharing it with everyone",
            why_exempt: "why it must stay public",
            afterwards: &[
                "Copies and volumes that others made while it was public stay theirs: treat what is on it as known to them.",
            ],
        },
    };

    /// Weakened, the block that hides all sharing shows every hidden snapshot at
    /// once, and AWS sends no event for any of them. Which state it had before, no
    /// event says: one that strengthens it is looked at as well.
    const EXPANDS: Option<Expands> = Some(Expands {
        resource: "block of public sharing of snapshots",
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
        on_request: false,
    });

    type Settings = Settings;
    type Facts = Storage;
    type State = Holder;

    fn subject(snapshot: &Storage) -> Subject<'_> {
        snapshot.subject()
    }

    fn items(snapshot: &Storage) -> BTreeMap<ItemId, Holder> {
        snapshot.grants()
    }

    fn judge(
        snapshot: &Storage,
        _settings: &Settings,
        _former: Option<&Holder>,
        spared: &IsSpared<'_>,
    ) -> Verdict<Holder> {
        snapshot.judge(spared)
    }

    fn line(_grant: &str, holder: &Holder) -> String {
        holder.line()
    }

    fn exposure_line(exposure: &Exposure<Holder>) -> String {
        sharing::exposure_line(exposure)
    }

    fn headline(exposures: &[Exposure<Holder>], _most: usize) -> String {
        let hidden = !exposures.is_empty() && exposures.iter().all(|exposure| exposure.hidden);
        match hidden {
            true => "public, and hidden for now".to_owned(),
            false => Self::INFO.phrases.found.to_owned(),
        }
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

    fn bars_undo(snapshot: &Storage) -> Option<String> {
        sharing::bars_undo(
            snapshot,
            "snapshots",
            "ec2 disable-snapshot-block-public-access",
            "snapshots that it hides are public from then on",
        )
    }

    fn commands(back: &ByHand<'_, Holder>) -> Vec<String> {
        let share = [
            ("--snapshot-id", back.resource),
            ("--attribute", "createVolumePermission"),
            ("--operation-type", "add"),
            ("--group-names", EVERYONE),
        ];
        sharing::commands(back, "ec2 modify-snapshot-attribute", &share)
    }
}
