//! `backstop kill-switch`: stops everything within a minute, or lets it go on.
//!
//! Whoever pulls it is in a hurry, so the policy is not written anew: one field of
//! its text changes, whatever else is in it, and whether or not it is valid.

use std::process::ExitCode;

use backstop_aws::policy_store::{read_document, write_document};
use backstop_core::policy::Policy;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::Problem;
use crate::context::{Context, output};

/// The field of the policy.
const FIELD: &str = "kill_switch";

/// What is written in front of a policy's other fields.
const WRITTEN: &str = "\"kill_switch\": true, ";

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
        let valid = Policy::parse(&document).map(|_| ());
        if let Err(problem) = &valid {
            eprintln!(
                "backstop: {problem}; no control changes anything until it is corrected, whatever the switch says"
            );
        }
        let is_on = is_on(&document);
        let say = |on: bool| if on { "on" } else { "off" };
        let wanted = match self.to {
            To::Status => {
                aws.announce(&stack);
                println!("the kill switch is {}", say(is_on));
                return Ok(ExitCode::SUCCESS);
            }
            to => to == To::On,
        };
        aws.announce(&stack);
        if is_on == wanted {
            println!("the kill switch is {} already", say(wanted));
            return Ok(ExitCode::SUCCESS);
        }
        let changed = switched(&document, wanted)?;
        write_document(ssm, parameter, &changed, &aws.deadline).await?;
        println!(
            "the kill switch is {}; it takes effect within a minute{}",
            say(wanted),
            match (wanted, &valid) {
                (false, Ok(())) => ". What stayed open meanwhile: backstop sweep",
                _ => "",
            }
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a document has the switch on, valid or not.
pub(crate) fn is_on(document: &str) -> bool {
    let value = value_of(document);
    value.is_some_and(|(from, to)| document.get(from..to) == Some("true"))
}

/// The document with the switch as wanted, and nothing else changed.
fn switched(document: &str, on: bool) -> Result<String, Problem> {
    let replaced = |from: usize, to: usize, by: &str| {
        let (head, tail) = (document.get(..from), document.get(to..));
        format!(
            "{}{by}{}",
            head.unwrap_or_default(),
            tail.unwrap_or_default()
        )
    };
    match value_of(document) {
        // As this command has written it: the text is as it was before.
        Some(_) if !on && document.contains(WRITTEN) => Ok(document.replacen(WRITTEN, "", 1)),
        Some((from, to)) => Ok(replaced(from, to, if on { "true" } else { "false" })),
        None if !on => Ok(document.to_owned()),
        None => {
            let object = document.trim_start_matches('\u{feff}').trim_start();
            if !object.starts_with('{') {
                return Err(Problem(
                    "the policy is not JSON, so there is nothing to write the switch into. No control changes anything until it is corrected (backstop policy apply <file>)".to_owned(),
                ));
            }
            let start = document.len() - object.len() + 1;
            let is_empty = document
                .get(start..)
                .is_some_and(|rest| rest.trim_start().starts_with('}'));
            let written = match is_empty {
                true => WRITTEN.trim_end().trim_end_matches(','),
                false => WRITTEN,
            };
            Ok(replaced(start, start, written))
        }
    }
}

/// From where to where the switch's value stands in a document, which may be no
/// JSON otherwise: the one at the top, not one inside another object or a string.
pub(crate) fn value_of(document: &str) -> Option<(usize, usize)> {
    let (mut depth, mut at) = (0_i32, 0);
    while let Some(rest) = document.get(at..) {
        let next = rest.chars().next()?;
        match next {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            '"' => {
                let (text, length) = string(rest)?;
                at += length;
                let after = document.get(at..)?.trim_start();
                if depth == 1 && text == FIELD && after.starts_with(':') {
                    let value = after.get(1..)?.trim_start();
                    let from = document.len() - value.len();
                    let length = match value.starts_with('"') {
                        true => string(value)?.1,
                        false => value
                            .find(|of: char| of == ',' || of == '}' || of.is_whitespace())
                            .unwrap_or(value.len()),
                    };
                    return Some((from, from + length));
                }
                continue;
            }
            _ => {}
        }
        at += next.len_utf8();
    }
    None
}

/// The JSON string that a text begins with, and how long it is as written.
fn string(text: &str) -> Option<(String, usize)> {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, of)| {
        let ends = *of == '"' && !escaped;
        escaped = *of == '\\' && !escaped;
        ends
    });
    let length = end?.0 + 1;
    let value: Option<Value> = serde_json::from_str(text.get(..length)?).ok();
    let content = value.as_ref().and_then(Value::as_str).unwrap_or_default();
    Some((content.to_owned(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_switch_changes() {
        for document in [
            r#"{"controls":{"open-ingress":{"mode":"enforce"}},"version":1}"#,
            "{\n  \"version\": 1,\n  \"opt_out\": { \"require_end\": true }\n}\n",
            "{ \"version\" : 1.0e0, \"kill_swich\": true }",
            "{\"version\":1,}",
            "\u{feff}{\"version\":1}",
            "{}",
            r#"{"a":"\"kill_switch\": false","b":{"kill_switch":false},"version":1}"#,
        ] {
            assert!(!is_on(document), "{document}");
            let on = switched(document, true).unwrap();
            assert!(is_on(&on), "{on}");
            if let Ok(policy) = Policy::parse(document) {
                let mut expected = policy;
                expected.kill_switch = true;
                assert_eq!(Policy::parse(&on).unwrap(), expected, "{on}");
            }
            let off = switched(&on, false).unwrap();
            assert!(!is_on(&off), "{off}");
            if document != "{}" {
                assert_eq!(off, document, "its text is as it was written");
            }
        }
    }

    #[test]
    fn a_switch_that_somebody_wrote_is_changed_where_it_stands() {
        for (off, on) in [
            (
                "{\"version\":1,\n \"kill_switch\" : false }",
                "{\"version\":1,\n \"kill_switch\" : true }",
            ),
            ("{\"kill_switch\":false}", "{\"kill_switch\":true}"),
        ] {
            assert_eq!(switched(off, true).unwrap(), on);
            assert_eq!(switched(on, false).unwrap(), off);
        }
        let nonsense = "{\"kill_switch\": \"on, please\", \"version\": 1}";
        assert!(!is_on(nonsense), "a policy with it is not valid");
        assert_eq!(
            switched(nonsense, true).unwrap(),
            "{\"kill_switch\": true, \"version\": 1}"
        );
    }

    #[test]
    fn what_holds_no_object_is_left_alone() {
        for document in [
            "",
            "version: 1\n",
            "[]",
            "[{\"version\":1}]",
            "// see {docs}\n{\"version\":1}",
        ] {
            let said = switched(document, true).unwrap_err().0;
            assert!(said.contains("not JSON"), "{said}");
        }
    }
}
