//! `backstop policy`: checks a policy, shows the one in force, or puts another one
//! in force.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use backstop_aws::policy_store::{read_document, write_document};
use backstop_aws::stack::Stack;
use backstop_core::policy::Policy as Document;
use backstop_core::policy_faults::faults;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Problem;
use crate::commands::kill_switch;
use crate::context::{Aws, Context, output};
use crate::table::{Page, terminal_width};

/// Checks or shows the policy, or puts another one in force.
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
    /// Checks a policy, shows what it would change, asks, and puts it in force
    Apply {
        /// The file; `-` reads standard input, and needs --yes
        file: String,
        /// Does not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Policy {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        match self.what {
            What::Check { file } => {
                let policy = parse(&file)?;
                let differing = differences(&Document::default(), &policy);
                println!("{file}: valid");
                if differing.is_empty() {
                    println!("all settings have their defaults");
                }
                for Difference { path, to, .. } in differing {
                    println!("{path}: {to}");
                }
                Ok(ExitCode::SUCCESS)
            }
            What::Show => {
                let aws = context.aws().await?;
                let stack = context.stack(&aws).await?;
                let parameter = output(&stack, "PolicyParameterName")?;
                println!(
                    "{}",
                    read_document(&aws.clients.ssm, parameter, &aws.deadline).await?
                );
                Ok(ExitCode::SUCCESS)
            }
            What::Apply { file, yes } => {
                // What is wrong with it is said before anything is called.
                let text = read(&file)?;
                let wanted = checked(&file, &text)?;
                let aws = context.aws().await?;
                let stack = context.stack(&aws).await?;
                apply(&aws, &stack, &text, &wanted, yes).await
            }
        }
    }
}

async fn apply(
    aws: &Aws,
    stack: &Stack,
    text: &str,
    wanted: &Document,
    yes: bool,
) -> Result<ExitCode, Problem> {
    let parameter = output(stack, "PolicyParameterName")?;
    let ssm = &aws.clients.ssm;
    let in_force = read_document(ssm, parameter, &aws.deadline).await?;
    aws.announce(stack);
    if in_force == text {
        println!("this policy is in force already");
        return Ok(ExitCode::SUCCESS);
    }
    // Whoever switched it on is not overruled by a file that does not speak of it.
    if kill_switch::is_on(&in_force) && kill_switch::value_of(text).is_none() {
        return Err(Problem(
            "the kill switch is on, and this policy would turn it off, so nothing was changed: turn it off first (backstop kill-switch off), or say in the policy what it is to be (`\"kill_switch\": true`)".to_owned(),
        ));
    }
    print!("{}", changes(&in_force, wanted, terminal_width()));
    if !yes && !confirmed("put it in force?")? {
        println!("nothing was changed");
        return Ok(ExitCode::from(1));
    }
    if read_document(ssm, parameter, &aws.deadline).await? != in_force {
        return Err(Problem(
            "somebody has changed the policy meanwhile, so nothing was changed: see what it changes now, and apply it again".to_owned(),
        ));
    }
    write_document(ssm, parameter, text, &aws.deadline).await?;
    println!("the policy is written; it takes effect within a minute");
    Ok(ExitCode::SUCCESS)
}

/// What a policy would change, for people, as it fits a terminal of so many columns.
fn changes(in_force: &str, wanted: &Document, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    match Document::parse(in_force) {
        Ok(now) => {
            let differing = differences(&now, wanted);
            if differing.is_empty() {
                page.line("no setting changes, only how the policy is written");
            }
            for Difference { path, from, to } in differing {
                page.line(&format!("{path}: {from} -> {to}"));
            }
        }
        Err(problem) => {
            page.line(&format!(
                "{problem}; it is replaced as a whole. What differs from the defaults afterwards:"
            ));
            for Difference { path, to, .. } in differences(&Document::default(), wanted) {
                page.line(&format!("{path}: {to}"));
            }
        }
    }
    page.into_text()
}

/// Asks a person, who has to be there.
pub(crate) fn confirmed(question: &str) -> Result<bool, Problem> {
    if !std::io::stdin().is_terminal() {
        return Err(Problem(format!(
            "{question} There is nobody to ask, so nothing was changed: give --yes"
        )));
    }
    // Also where the output goes into a file.
    eprintln!("{question} [y/N]");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Problem(format!("the answer cannot be read: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The text of a file, or of standard input (`-`).
fn read(file: &str) -> Result<String, Problem> {
    let bytes = match file {
        "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        }
        path => std::fs::read(path),
    };
    let bytes = bytes.map_err(|error| Problem(format!("{file} cannot be read: {error}")))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem(format!(
            "{file}: it is UTF-16, by its byte order mark: save it as UTF-8 without one"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        Problem(format!(
            "{file}: it is not UTF-8 (byte {}): save it as UTF-8",
            error.utf8_error().valid_up_to() + 1
        ))
    })
}

/// The policy that a text is, or everything that is wrong with it.
fn checked(file: &str, text: &str) -> Result<Document, Problem> {
    let faults = faults(text);
    match (Document::parse(text), faults.len()) {
        (Ok(policy), 0) => Ok(policy),
        (Err(problem), 0) => Err(Problem(format!("{file}: {problem}"))),
        (_, count) => {
            let faults: String = faults.iter().map(|of| format!("\n  {of}")).collect();
            let faults_are = if count == 1 { "fault" } else { "faults" };
            Err(Problem(format!(
                "{file}: the policy is not valid, {count} {faults_are}:{faults}"
            )))
        }
    }
}

/// Reads a policy from a file, or from standard input (`-`).
pub(crate) fn parse(file: &str) -> Result<Document, Problem> {
    checked(file, &read(file)?)
}

/// A setting that two policies have differently.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    path: String,
    from: Value,
    to: Value,
}

/// What differs between two policies, by path.
fn differences(from: &Document, to: &Document) -> Vec<Difference> {
    let of = |policy: &Document| serde_json::to_value(policy).unwrap_or_default();
    let mut differences = Vec::new();
    compare("", &of(from), &of(to), &mut differences);
    differences
}

fn compare(path: &str, from: &Value, to: &Value, differences: &mut Vec<Difference>) {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let mut names: Vec<&String> = from.keys().chain(to.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                let of = |fields: &serde_json::Map<String, Value>| {
                    fields.get(name).cloned().unwrap_or_default()
                };
                compare(&path, &of(from), &of(to), differences);
            }
        }
        (from, to) if from != to => differences.push(Difference {
            path: path.to_owned(),
            from: from.clone(),
            to: to.clone(),
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::of_stack;
    use crate::screens;

    fn lines(from: &str, to: &str) -> Vec<String> {
        let of = |text| Document::parse(text).unwrap();
        differences(&of(from), &of(to))
            .iter()
            .map(|Difference { path, from, to }| format!("{path}: {from} -> {to}"))
            .collect()
    }

    #[test]
    fn what_differs_is_listed_by_path_with_both_values() {
        let defaults = r#"{"version":1}"#;
        let other = r#"{"version":1,"kill_switch":true,"controls":{"open-ingress":{"mode":"enforce","budget":{"changes_per_hour":50}}}}"#;
        assert_eq!(
            lines(defaults, other),
            [
                r#"controls.open-ingress.mode: null -> "enforce""#,
                "kill_switch: false -> true"
            ]
        );
        assert_eq!(
            lines(other, defaults),
            [
                r#"controls.open-ingress.mode: "enforce" -> null"#,
                "kill_switch: true -> false"
            ],
            "what is taken away differs as well"
        );
        assert!(lines(other, other).is_empty());
    }

    #[test]
    fn what_a_policy_would_change_is_the_screen_in_the_documents() {
        let in_force = r#"{"version":1,"controls":{"open-ingress":{"mode":"enforce"}}}"#;
        let wanted = Document::parse(
            r#"{
                "version": 1,
                "opt_out": {"require_end": true, "longest_days": 90},
                "controls": {
                    "open-ingress": {"mode": "enforce", "budget": {"changes_per_hour": 20}},
                    "public-snapshot": {"mode": "notify"}
                }
            }"#,
        )
        .unwrap();
        let place = of_stack(screens::PLACE, "backstop");
        screens::check("policy-apply", |terminal| {
            format!("{place}\n{}", changes(in_force, &wanted, terminal))
        });
    }
}
