//! `encryption-by-default`: the account setting that encrypts every new volume
//! in a Region is off (Security Hub EC2.7).
//!
//! One call turns it on, nothing that exists is touched. An account has no
//! tags: an exemption stands in the policy, with owner and end. Deliberately
//! not here: volumes that were created meanwhile (`unencrypted_volume`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account_setting::{self, AccountSetting};
use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::finding::{Finding, Verdict};
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal};
use crate::plan::{Change, Exposure, ItemId};
use crate::rules::AccountExemption;
use crate::shell;
use crate::words::{ControlId, Severity};

/// The one item.
const SETTING: &str = ControlId::EncryptionByDefault.name();

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
        account_setting::check_exemption(self.exemption.as_ref())
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct EncryptionByDefault;

impl Control for EncryptionByDefault {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::EncryptionByDefault,
        function: "restore-account-defaults",
        prefix: None,
        calls: &[
            Call {
                name: "DisableEbsEncryptionByDefault",
                resource: &[],
            },
            // What was recorded of it holds no more.
            Call {
                name: "EnableEbsEncryptionByDefault",
                resource: &[],
            },
        ],
        hub: &["EC2.7"],
        reads: &["ec2:GetEbsEncryptionByDefault"],
        begins: &["ec2:EnableEbsEncryptionByDefault"],
        undoes: &["ec2:DisableEbsEncryptionByDefault"],
        reversal: Reversal::Partly("Volumes that were created encrypted meanwhile stay encrypted."),
        opt_out_on: OptOutOn::Policy,
        enforce_by_name_only: false,
        guide: Guide {
            why: "While the setting is off, new EBS volumes and copies of snapshots are unencrypted unless each caller asks for encryption.",
            changes: "Turns EBS encryption by default on again for the account in the Region.",
            never: &[
                "It never changes the default KMS key.",
                "It never touches volumes or snapshots that exist.",
            ],
        },
        phrases: Phrases {
            resource: "account setting",
            item: "setting",
            tagged: None,
            found: "off",
            closed: "new volumes are encrypted",
            remedy: "turn it on",
            why_exempt: "why it must stay off",
            afterwards: &[
                "Volumes that were created while it was off stay unencrypted: unencrypted-volume finds them.",
            ],
        },
    };

    type Settings = Settings;
    type Facts = AccountSetting<bool>;
    type State = bool;

    fn subject(setting: &AccountSetting<bool>) -> Subject<'_> {
        setting.subject()
    }

    fn items(setting: &AccountSetting<bool>) -> BTreeMap<ItemId, bool> {
        BTreeMap::from([(SETTING.to_owned(), setting.state)])
    }

    fn judge(
        setting: &AccountSetting<bool>,
        _settings: &Settings,
        _former: Option<&bool>,
        spared: &IsSpared<'_>,
    ) -> Verdict<bool> {
        if setting.state {
            return Verdict::Compliant;
        }
        let changes = match spared(SETTING) {
            true => Vec::new(),
            false => vec![Change::set(SETTING, false, true)],
        };
        Verdict::Violates(Finding {
            severity: Severity::Medium,
            severities: BTreeMap::new(),
            exposures: vec![Exposure::of(SETTING, false)],
            changes,
            notes: Vec::new(),
            left: None,
        })
    }

    fn line(_setting: &str, is_on: &bool) -> String {
        let is = if *is_on { "on" } else { "off" };
        format!("encryption by default is {is}")
    }

    fn remaining(_exposure: &Exposure<bool>) -> String {
        "encryption by default is still off".to_owned()
    }

    fn name(_setting: &str) -> String {
        "the setting".to_owned()
    }

    fn commands(back: &ByHand<'_, bool>) -> Vec<String> {
        let operation = match back.to {
            Some(true) => "ec2 enable-ebs-encryption-by-default",
            _ => "ec2 disable-ebs-encryption-by-default",
        };
        vec![shell::aws(operation, back.region, &[])]
    }

    fn exemption(settings: &Settings) -> Option<&AccountExemption> {
        settings.exemption.as_ref()
    }

    /// Of the setting that is off, as the first release noted it in the baseline.
    fn fingerprint(_region: &str, setting: &str, is_on: &bool) -> String {
        match is_on {
            true => format!("{setting} is on"),
            false => SETTING.to_owned(),
        }
    }
}
