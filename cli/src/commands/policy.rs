//! `backstop policy`: checks a policy, or shows the one in force.

use std::io::Read;
use std::process::ExitCode;

use backstop_aws::policy_store::read_document;
use backstop_core::policy::Policy as Document;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Problem;
use crate::context::{Context, output};

/// Checks or shows the policy.
#[derive(Debug, Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Names every field that is wrong, or what differs from the defaults
    Check {
        /// The file; `-` reads standard input
        file: String,
    },
    /// Shows the policy in force, as it is written
    Show,
}

impl Policy {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        match self.what {
            What::Check { file } => {
                let policy = parse(&file)?;
                let differing = differences(&policy);
                println!("{file}: valid");
                if differing.is_empty() {
                    println!("all settings have their defaults");
                }
                for line in differing {
                    println!("{line}");
                }
            }
            What::Show => {
                let aws = context.aws().await?;
                let stack = context.stack(&aws).await?;
                let parameter = output(&stack, "PolicyParameterName")?;
                println!(
                    "{}",
                    read_document(&aws.clients.ssm, parameter, &aws.deadline).await?
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a policy from a file, or from standard input (`-`).
pub(crate) fn parse(file: &str) -> Result<Document, Problem> {
    let document = match file {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        path => std::fs::read_to_string(path),
    };
    let document = document.map_err(|error| Problem(format!("{file} cannot be read: {error}")))?;
    Document::parse(&document).map_err(|problem| Problem(format!("{file}: {problem}")))
}

/// What differs from the defaults, `path: value` a line.
fn differences(policy: &Document) -> Vec<String> {
    let of = |policy: &Document| serde_json::to_value(policy).unwrap_or_default();
    let mut lines = Vec::new();
    compare("", &of(policy), &of(&Document::default()), &mut lines);
    lines
}

fn compare(path: &str, value: &Value, default: &Value, lines: &mut Vec<String>) {
    match (value, default) {
        (Value::Object(fields), Value::Object(defaults)) => {
            for (name, value) in fields {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                let default = defaults.get(name).unwrap_or(&Value::Null);
                compare(&path, value, default, lines);
            }
        }
        (value, default) if value != default => lines.push(format!("{path}: {value}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_the_defaults_is_listed_by_path() {
        let policy = Document::parse(
            r#"{"version":1,"kill_switch":true,"controls":{"open-ingress":{"mode":"enforce","budget":{"changes_per_hour":50}}}}"#,
        )
        .unwrap();
        assert_eq!(
            differences(&policy),
            [
                r#"controls.open-ingress.mode: "enforce""#,
                "kill_switch: true"
            ]
        );
    }
}
