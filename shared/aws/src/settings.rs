//! What the stack tells its functions through the environment.
//!
//! Everything is read before the first complaint, so that one look at the log
//! shows all that is missing.

use backstop_core::words::Mode;

/// Name of the ledger's table.
pub const LEDGER_TABLE: &str = "LEDGER_TABLE";
/// Name of the SSM parameter that holds the policy.
pub const POLICY_PARAMETER: &str = "POLICY_PARAMETER";
/// Mode of controls that the policy does not name.
pub const DEFAULT_MODE: &str = "DEFAULT_MODE";
/// Key of the tag whose value is the owning team.
pub const OWNER_TAG_KEY: &str = "OWNER_TAG_KEY";
/// ARN of the topic that messages go to.
pub const TOPIC_ARN: &str = "TOPIC_ARN";

/// URL of the queue of failed events.
pub const QUEUE_URL: &str = "FAILED_EVENTS_QUEUE_URL";
/// Id of the stack.
pub const STACK_ID: &str = "STACK_ID";

/// ARN of the state machine that carries encryptions out.
pub const STATE_MACHINE_ARN: &str = "STATE_MACHINE_ARN";

/// Name of the log group that takes what patch commands print.
pub const COMMAND_LOG_GROUP: &str = "COMMAND_LOG_GROUP";

/// Settings of `patch-instance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchSettings {
    /// What every remediation function is told.
    pub remediation: RemediationSettings,
    /// Name of the log group that takes what patch commands print.
    pub command_log_group: String,
}

/// Settings of `encrypt-volume`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptSettings {
    /// What every remediation function is told.
    pub remediation: RemediationSettings,
    /// ARN of the state machine that carries encryptions out.
    pub state_machine_arn: String,
}

/// Settings of a remediation function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemediationSettings {
    /// Name of the ledger's table.
    pub ledger_table: String,
    /// Name of the SSM parameter that holds the policy.
    pub policy_parameter: String,
    /// Mode of controls that the policy does not name.
    pub mode: Mode,
    /// Key of the tag whose value is the owning team.
    pub owner_tag_key: String,
}

/// Settings of `watch-opt-outs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// Name of the ledger's table.
    pub ledger_table: String,
    /// Name of the SSM parameter that holds the policy.
    pub policy_parameter: String,
}

/// Settings of `notify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifySettings {
    /// Name of the ledger's table.
    pub ledger_table: String,
    /// ARN of the topic that messages go to.
    pub topic_arn: String,
}

/// Settings of `undo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoSettings {
    /// Name of the ledger's table.
    pub ledger_table: String,
    /// Name of the SSM parameter that holds the policy.
    pub policy_parameter: String,
    /// ARN of the state machine that carries encryptions out, and back.
    pub state_machine_arn: String,
}

/// Settings of `sweep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepSettings {
    /// Name of the ledger's table.
    pub ledger_table: String,
    /// Name of the SSM parameter that holds the policy.
    pub policy_parameter: String,
    /// Mode of controls that the policy does not name.
    pub mode: Mode,
    /// ARN of the topic that messages go to.
    pub topic_arn: String,
    /// URL of the queue of failed events.
    pub queue_url: String,
    /// Id of the stack, whose rules it examines.
    pub stack_id: String,
}

impl SweepSettings {
    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, |reader| Self {
            ledger_table: reader.text(LEDGER_TABLE),
            policy_parameter: reader.text(POLICY_PARAMETER),
            mode: reader.mode(DEFAULT_MODE),
            topic_arn: reader.text(TOPIC_ARN),
            queue_url: reader.text(QUEUE_URL),
            stack_id: reader.text(STACK_ID),
        })
    }
}

/// Settings that are missing or wrong, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the function's environment is incomplete: {}; deploy template.yaml again", .0.join("; "))]
pub struct BadEnvironment(Vec<String>);

/// Looks settings up and gathers what is wrong with them.
struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&mut self, name: &str) -> String {
        match (self.get)(name) {
            Some(value) if !value.is_empty() => value,
            _ => {
                self.problems.push(format!("`{name}` is not set"));
                String::new()
            }
        }
    }

    fn mode(&mut self, name: &str) -> Mode {
        self.text(name).parse().unwrap_or_else(|problem| {
            self.problems.push(format!("`{name}`: {problem}"));
            Mode::Notify
        })
    }
}

/// Reads everything before the first complaint.
fn read_all<T>(
    get: &dyn Fn(&str) -> Option<String>,
    read: impl FnOnce(&mut Reader<'_>) -> T,
) -> Result<T, BadEnvironment> {
    let mut reader = Reader {
        get,
        problems: Vec::new(),
    };
    let settings = read(&mut reader);
    if reader.problems.is_empty() {
        Ok(settings)
    } else {
        Err(BadEnvironment(reader.problems))
    }
}

impl EncryptSettings {
    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, |reader| Self {
            remediation: RemediationSettings::from(reader),
            state_machine_arn: reader.text(STATE_MACHINE_ARN),
        })
    }
}

impl PatchSettings {
    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, |reader| Self {
            remediation: RemediationSettings::from(reader),
            command_log_group: reader.text(COMMAND_LOG_GROUP),
        })
    }
}

impl RemediationSettings {
    fn from(reader: &mut Reader<'_>) -> Self {
        Self {
            ledger_table: reader.text(LEDGER_TABLE),
            policy_parameter: reader.text(POLICY_PARAMETER),
            mode: reader.mode(DEFAULT_MODE),
            owner_tag_key: reader.text(OWNER_TAG_KEY),
        }
    }

    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, Self::from)
    }
}

impl WatchSettings {
    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, |reader| Self {
            ledger_table: reader.text(LEDGER_TABLE),
            policy_parameter: reader.text(POLICY_PARAMETER),
        })
    }
}

impl NotifySettings {
    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, |reader| Self {
            ledger_table: reader.text(LEDGER_TABLE),
            topic_arn: reader.text(TOPIC_ARN),
        })
    }
}

impl UndoSettings {
    /// From a lookup by name, as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        read_all(get, |reader| Self {
            ledger_table: reader.text(LEDGER_TABLE),
            policy_parameter: reader.text(POLICY_PARAMETER),
            state_machine_arn: reader.text(STATE_MACHINE_ARN),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let error = RemediationSettings::read(&|name| match name {
            LEDGER_TABLE => Some("ledger".to_owned()),
            DEFAULT_MODE => Some("on".to_owned()),
            OWNER_TAG_KEY => Some(String::new()),
            _ => None,
        })
        .unwrap_err()
        .to_string();
        for part in [
            "`POLICY_PARAMETER` is not set",
            "`on` is not a mode",
            "`enforce`",
            "`OWNER_TAG_KEY` is not set",
        ] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
        assert!(!error.contains("LEDGER_TABLE"));
    }

    #[test]
    fn what_patch_instance_is_told() {
        let set = |name: &str| match name {
            LEDGER_TABLE => Some("ledger".to_owned()),
            POLICY_PARAMETER => Some("/backstop/policy".to_owned()),
            DEFAULT_MODE => Some("enforce".to_owned()),
            OWNER_TAG_KEY => Some("owner".to_owned()),
            COMMAND_LOG_GROUP => Some("/backstop/patch-commands".to_owned()),
            _ => None,
        };
        assert_eq!(
            PatchSettings::read(&set).unwrap(),
            PatchSettings {
                remediation: RemediationSettings {
                    ledger_table: "ledger".to_owned(),
                    policy_parameter: "/backstop/policy".to_owned(),
                    mode: Mode::Enforce,
                    owner_tag_key: "owner".to_owned(),
                },
                command_log_group: "/backstop/patch-commands".to_owned(),
            }
        );
        let error = PatchSettings::read(&|name| match name {
            COMMAND_LOG_GROUP | LEDGER_TABLE => None,
            name => set(name),
        })
        .unwrap_err()
        .to_string();
        for part in [
            "`LEDGER_TABLE` is not set",
            "`COMMAND_LOG_GROUP` is not set",
            "deploy template.yaml again",
        ] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
        assert!(!error.contains("OWNER_TAG_KEY"), "{error}");
    }
}
