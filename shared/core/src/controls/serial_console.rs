//! `serial-console`: the account's access to the serial console of EC2 instances was
//! turned on.
//!
//! The console passes security groups and network ACLs by. Deliberately not here: how it is judged, restored and undone
//! (`account_setting`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account_setting::{Graded, GradedSetting};
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal};
use crate::shell;
use crate::words::ControlId;

/// Whether the account may use the serial console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "SerialConsoleAccess")]
pub enum Access {
    /// It may.
    Enabled,
    /// It may not: AWS's default.
    Disabled,
}

impl Graded for Access {
    fn grade(&self) -> u8 {
        match self {
            Self::Enabled => 0,
            Self::Disabled => 1,
        }
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct SerialConsole;

impl GradedSetting for SerialConsole {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::SerialConsole,
        function: "restore-account-defaults",
        prefix: None,
        calls: &[
            Call {
                name: "EnableSerialConsoleAccess",
                resource: &[],
            },
            Call {
                name: "DisableSerialConsoleAccess",
                resource: &[],
            },
        ],
        hub: &[],
        reads: &["ec2:GetSerialConsoleAccessStatus"],
        begins: &["ec2:DisableSerialConsoleAccess"],
        undoes: &["ec2:EnableSerialConsoleAccess"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Policy,
        enforce_by_name_only: false,
        guide: Guide {
            why: "The serial console gives access to an instance without the network, past security groups and bastion hosts.",
            changes: "Turns access to the serial console off again where it was off before, or where the policy's `wanted` says so.",
            never: &[
                "It never turns the console off where it was on before Backstop saw it, unless the policy says so in `wanted`.",
                "It never changes what a declarative policy of the organisation manages.",
                "It never ends a session that is open.",
            ],
        },
        phrases: Phrases {
            resource: "account setting",
            item: "setting",
            tagged: None,
            found: "on",
            closed: "access to the serial console is off",
            remedy: "turn it off",
            why_exempt: "why it must stay on",
            afterwards: &[
                "Sessions that are open may go on; CloudTrail records how they began (SendSerialConsoleSSHPublicKey).",
            ],
        },
    };

    type State = Access;

    fn line(access: &Access) -> String {
        let is = match access {
            Access::Enabled => "on",
            Access::Disabled => "off",
        };
        format!("access to the serial console is {is}")
    }

    fn commands(region: &str, to: &Access) -> Vec<String> {
        let operation = match to {
            Access::Enabled => "ec2 enable-serial-console-access",
            Access::Disabled => "ec2 disable-serial-console-access",
        };
        vec![shell::aws(operation, region, &[])]
    }
}
