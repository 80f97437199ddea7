//! `public-snapshot`: everyone can make a volume of an EBS snapshot, or copy it
//! (Security Hub EC2.1).
//!
//! The grant to everyone goes; accounts that are named keep theirs, for backup
//! services share by name. Deliberately not here: the account's setting that
//! blocks public sharing, of which only the severity depends, and an undo.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::exemption::OPT_OUT_TAG;
use crate::finding::{Finding, Verdict};
use crate::info::{Call, ControlInfo, OptOutOn, Phrases, Reversal, Tagged};
use crate::plan::{Change, Exposure, ItemId};
use crate::security_group::Tags;
use crate::shell::{ascii_json, aws};
use crate::words::{ControlId, Severity};

/// The item of the grant to everyone, as EC2 names the group.
pub const EVERYONE: &str = "all";

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// Who may use a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// Every AWS account.
    Everyone,
    /// This account.
    Account(String),
}

/// What is read of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// The account that owns it.
    pub owner: String,
    /// Its name, for people.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
    /// Whether the account's block of public sharing hides it from everyone. The
    /// grant stays, and is in force again once the block is lifted.
    pub hidden: bool,
    /// Whether that block keeps it from being shared with everyone anew.
    pub blocked: bool,
    /// Who may use it beside its owner.
    pub shared_with: BTreeSet<Holder>,
}

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

    type Settings = Settings;
    type Facts = Snapshot;
    type State = Holder;

    fn subject(snapshot: &Snapshot) -> Subject<'_> {
        Subject {
            id: &snapshot.id,
            arn: &snapshot.arn,
            name: &snapshot.name,
            owner: &snapshot.owner,
            tags: &snapshot.tags,
            inherited: Vec::new(),
        }
    }

    fn items(snapshot: &Snapshot) -> BTreeMap<ItemId, Holder> {
        let holders = snapshot.shared_with.iter().cloned();
        holders
            .map(|holder| match &holder {
                Holder::Everyone => (EVERYONE.to_owned(), holder),
                Holder::Account(id) => (id.clone(), holder),
            })
            .collect()
    }

    fn judge(snapshot: &Snapshot, _settings: &Settings, spared: &IsSpared<'_>) -> Verdict<Holder> {
        if !snapshot.shared_with.contains(&Holder::Everyone) {
            return Verdict::Compliant;
        }
        Verdict::Violates(Finding {
            severity: match snapshot.hidden {
                true => Severity::High,
                false => Severity::Critical,
            },
            exposures: vec![Exposure::of(EVERYONE, Holder::Everyone)],
            changes: match spared(EVERYONE) {
                true => Vec::new(),
                false => vec![Change::remove(EVERYONE, Holder::Everyone)],
            },
            notes: Vec::new(),
        })
    }

    fn line(_grant: &str, holder: &Holder) -> String {
        match holder {
            Holder::Everyone => "shared with everyone".to_owned(),
            Holder::Account(id) => format!("shared with the account {id}"),
        }
    }

    fn remaining(exposure: &Exposure<Holder>) -> String {
        format!(
            "it is still {}",
            Self::line(&exposure.item, &exposure.state)
        )
    }

    fn name(_grant: &str) -> String {
        "the grant to everyone".to_owned()
    }

    fn bars_undo(snapshot: &Snapshot) -> Option<String> {
        snapshot.blocked.then(|| {
            "the account blocks public sharing of snapshots in this Region, so EC2 would refuse to share it with everyone. Lift the block (`aws ec2 disable-snapshot-block-public-access`; snapshots that it hides are public from then on) and ask again, or share it with accounts by name".to_owned()
        })
    }

    fn commands(back: &ByHand<'_, Holder>) -> Vec<String> {
        let tag = json!([{ "Key": OPT_OUT_TAG, "Value": back.opt_out }]);
        let opt_out = [
            ("--resources", back.resource.to_owned()),
            ("--tags", ascii_json(&tag)),
        ];
        let share = [
            ("--snapshot-id", back.resource.to_owned()),
            ("--attribute", "createVolumePermission".to_owned()),
            ("--operation-type", "add".to_owned()),
            ("--group-names", EVERYONE.to_owned()),
        ];
        vec![
            aws("ec2 create-tags", back.region, &opt_out),
            aws("ec2 modify-snapshot-attribute", back.region, &share),
        ]
    }
}
