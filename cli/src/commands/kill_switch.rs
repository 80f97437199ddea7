//! `backstop kill-switch`: stops everything within a minute, or lets it go on.

use std::process::ExitCode;

use backstop_aws::policy_store::{read_document, write_document};
use backstop_core::policy::Policy;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::Problem;
use crate::context::{Context, output};

/// What to do with the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum To {
    /// Stop everything within a minute
    On,
    /// Let it go on
    Off,
    /// Say how it is
    Status,
}

/// Stops everything within a minute, or lets it go on.
#[derive(Debug, Args)]
pub(crate) struct KillSwitch {
    /// What to do
    to: To,
}

impl KillSwitch {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let stack = context.stack(&aws).await?;
        let parameter = output(&stack, "PolicyParameterName")?;
        let ssm = &aws.clients.ssm;
        let document = read_document(ssm, parameter, &aws.deadline).await?;
        let policy = Policy::parse(&document).map_err(|problem| {
            Problem(format!("{problem}; nothing is changed by any control meanwhile, so the switch has no effect: mend the policy first"))
        })?;
        let say = |on: bool| if on { "on" } else { "off" };
        let wanted = match self.to {
            To::Status => {
                println!("the kill switch is {}", say(policy.kill_switch));
                return Ok(ExitCode::SUCCESS);
            }
            to => to == To::On,
        };
        if policy.kill_switch == wanted {
            println!("the kill switch is {} already", say(wanted));
            return Ok(ExitCode::SUCCESS);
        }
        let changed = switched(&document, wanted)?;
        write_document(ssm, parameter, &changed, &aws.deadline).await?;
        println!(
            "the kill switch is {}; it takes effect within a minute{}",
            say(wanted),
            if wanted {
                ""
            } else {
                ". What stayed open meanwhile: backstop sweep"
            }
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// The document with the switch as wanted, and nothing else changed.
fn switched(document: &str, on: bool) -> Result<String, Problem> {
    let unreadable = |error: serde_json::Error| Problem(format!("the policy: {error}"));
    let mut value: Value = serde_json::from_str(document).map_err(unreadable)?;
    if let Some(fields) = value.as_object_mut() {
        if on {
            fields.insert("kill_switch".to_owned(), Value::Bool(true));
        } else {
            fields.remove("kill_switch");
        }
    }
    let changed = serde_json::to_string(&value).map_err(unreadable)?;
    Policy::parse(&changed).map_err(|problem| Problem(problem.to_string()))?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_switch_changes() {
        let document = r#"{"controls":{"open-ingress":{"mode":"enforce"}},"version":1}"#;
        let on = switched(document, true).unwrap();
        assert!(Policy::parse(&on).unwrap().kill_switch);
        assert_eq!(switched(&on, false).unwrap(), document);
        assert!(switched("{", true).is_err());
    }
}
