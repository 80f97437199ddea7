//! Storage that its account shares with others: an EBS snapshot, a machine image.
//!
//! What is public of it is the grant to everyone, which goes; accounts,
//! organisations and organisational units that are named keep theirs, for backup
//! services and golden images share by name. Deliberately not here: how a kind of
//! storage is read and changed, and what messages call it (`controls`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::{ByHand, IsSpared, Subject};
use crate::exemption::OPT_OUT_TAG;
use crate::finding::{Finding, Verdict};
use crate::plan::{Change, Exposure, ItemId};
use crate::security_group::Tags;
use crate::shell::{ascii_json, aws};
use crate::words::Severity;

/// The item of the grant to everyone, as EC2 names the group.
pub const EVERYONE: &str = "all";

/// Who may use it. Stored in records, so names never change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// Every AWS account.
    Everyone,
    /// This account.
    Account(String),
    /// The accounts of the organisation with this ARN.
    Organization(String),
    /// The accounts of the organisational unit with this ARN.
    OrganizationalUnit(String),
}

impl Holder {
    /// The grant's id: what EC2 names its holder by.
    #[must_use]
    pub fn item(&self) -> &str {
        match self {
            Self::Everyone => EVERYONE,
            Self::Account(id) => id,
            Self::Organization(arn) | Self::OrganizationalUnit(arn) => arn,
        }
    }

    /// The grant in one line for people.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Everyone => "shared with everyone".to_owned(),
            Self::Account(id) => format!("shared with the account {id}"),
            Self::Organization(arn) => format!("shared with the organisation {arn}"),
            Self::OrganizationalUnit(arn) => format!("shared with the organisational unit {arn}"),
        }
    }
}

/// What is read of a snapshot or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
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
    /// When it was used last, as far as AWS says, for people.
    pub last_used: Option<String>,
}

impl Storage {
    /// The storage as the resource of a control.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.id,
            arn: &self.arn,
            name: &self.name,
            owner: &self.owner,
            tags: &self.tags,
            inherited: None,
        }
    }

    /// Its grants, by holder.
    #[must_use]
    pub fn grants(&self) -> BTreeMap<ItemId, Holder> {
        let holders = self.shared_with.iter().cloned();
        holders
            .map(|holder| (holder.item().to_owned(), holder))
            .collect()
    }

    /// The grant to everyone is wrong, and removed unless it is spared.
    #[must_use]
    pub fn judge(&self, spared: &IsSpared<'_>) -> Verdict<Holder> {
        if !self.shared_with.contains(&Holder::Everyone) {
            return Verdict::Compliant;
        }
        let mut exposure = Exposure::of(EVERYONE, Holder::Everyone);
        exposure.hidden = self.hidden;
        exposure.exposed.extend(self.last_used.clone());
        Verdict::Violates(Finding {
            severity: match self.hidden {
                true => Severity::High,
                false => Severity::Critical,
            },
            severities: BTreeMap::new(),
            exposures: vec![exposure],
            changes: match spared(EVERYONE) {
                true => Vec::new(),
                false => vec![Change::remove(EVERYONE, Holder::Everyone)],
            },
            notes: Vec::new(),
            left: None,
        })
    }
}

/// Why EC2 would refuse to share it with everyone again, and the way out. `lift`: the
/// command that lifts the account's block.
#[must_use]
pub fn bars_undo(storage: &Storage, kind: &str, lift: &str, warning: &str) -> Option<String> {
    let region = storage.arn.split(':').nth(3).unwrap_or_default();
    storage.blocked.then(|| {
        format!(
            "the account blocks public sharing of {kind} in this Region, so EC2 would refuse to share it with everyone. Lift the block (`{}`; {warning}) and ask again, or share it with accounts by name",
            aws(lift, region, &[])
        )
    })
}

/// The grant in one line, with what else is known of it.
#[must_use]
pub fn exposure_line(exposure: &Exposure<Holder>) -> String {
    let hidden = "hidden for now, because the account blocks all public sharing";
    let hidden = exposure.hidden.then_some(hidden);
    let known = exposure.exposed.iter().map(String::as_str);
    let line = exposure.state.line();
    let parts: Vec<&str> = std::iter::once(line.as_str())
        .chain(known)
        .chain(hidden)
        .collect();
    parts.join("; ")
}

/// That it is still public after the changes, as a clause.
#[must_use]
pub fn remaining(exposure: &Exposure<Holder>) -> String {
    format!("it is still {}", exposure.state.line())
}

/// The grant's name within a sentence: only the one to everyone is ever changed.
#[must_use]
pub fn name() -> String {
    "the grant to everyone".to_owned()
}

/// The commands that opt it out and share it with everyone again.
#[must_use]
pub fn commands(
    back: &ByHand<'_, Holder>,
    operation: &str,
    options: &[(&str, &str)],
) -> Vec<String> {
    let tag = json!([{ "Key": OPT_OUT_TAG, "Value": back.opt_out }]);
    let opt_out = [
        ("--resources", back.resource.to_owned()),
        ("--tags", ascii_json(&tag)),
    ];
    let share: Vec<(&str, String)> = options
        .iter()
        .map(|(option, value)| (*option, (*value).to_owned()))
        .collect();
    vec![
        aws("ec2 create-tags", back.region, &opt_out),
        aws(operation, back.region, &share),
    ]
}
