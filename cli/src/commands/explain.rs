//! `backstop explain`: what there is to know about a control. Calls nothing.

use std::fmt::Write;
use std::process::ExitCode;

use backstop_core::explain::{Explanation, explain};
use backstop_core::message::quoted;
use backstop_core::policy_fields::Field;
use backstop_core::words::ControlId;
use clap::Args;
use serde_json::json;

use crate::Problem;
use crate::table::{Format, table, terminal_width, wrapped};

/// Explains a control: what it finds, why it matters, what it changes and what it
/// never does, its settings, how to opt out and how to undo.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The control, by name; without it every control is listed
    control: Option<String>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Explain {
    pub(crate) fn run(self) -> Result<ExitCode, Problem> {
        let explained = match &self.control {
            Some(name) => vec![control(name)?],
            None => ControlId::ALL.to_vec(),
        };
        let explained: Vec<Explanation> = explained.into_iter().filter_map(explain).collect();
        match (self.format, &self.control, explained.first()) {
            (Format::Json, Some(_), Some(one)) => println!("{}", json!(one)),
            (Format::Json, ..) => println!("{}", json!(explained)),
            (Format::Table, Some(_), Some(one)) => print!("{}", text(one)),
            (Format::Table, ..) => {
                let mut list = table(&["control", "finds", "Security Hub"]);
                for one in &explained {
                    list.add_row(vec![
                        one.control.name().to_owned(),
                        one.finds.to_owned(),
                        hub(one),
                    ]);
                }
                println!("{list}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The control of a name.
pub(crate) fn control(name: &str) -> Result<ControlId, Problem> {
    ControlId::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = ControlId::ALL.iter().map(|of| of.name()).collect();
        Problem(format!(
            "`{}` is not a control; there are: {}",
            quoted(name),
            names.join(", ")
        ))
    })
}

fn hub(of: &Explanation) -> String {
    match of.security_hub.join(", ") {
        none if none.is_empty() => "none".to_owned(),
        ids => ids,
    }
}

/// An explanation, for people.
fn text(of: &Explanation) -> String {
    let mut text = format!("{}\n", of.control);
    paragraph(&mut text, "", &format!("{}.", of.finds));
    section(&mut text, "Why it matters", "", [of.why]);
    paragraph(&mut text, "", &format!("Security Hub: {}.", hub(of)));
    section(&mut text, "What it changes", "", [of.changes]);
    paragraph(&mut text, "", &format!("Function: {}.", of.function));
    let never = of.never.iter().copied();
    section(&mut text, "What it never does", "- ", never);
    let settings = of.settings.iter().map(|field| setting(of, field));
    section(&mut text, "Settings in the policy", "- ", settings);
    section(&mut text, "How to opt out", "- ", &of.opt_out);
    section(&mut text, "How to undo", "- ", &of.undo);
    text
}

fn setting(of: &Explanation, field: &Field) -> String {
    let default = match &field.default {
        serde_json::Value::Null if field.path.ends_with(".mode") => of.default_mode.to_owned(),
        serde_json::Value::Null => "none".to_owned(),
        value => value.to_string(),
    };
    let allowed = match field.allowed.join(", ") {
        any if any.is_empty() => String::new(),
        some => format!("; allowed: {some}"),
    };
    format!(
        "{} (default: {default}{allowed}): {}",
        field.path, field.about
    )
}

fn section(
    text: &mut String,
    heading: &str,
    lead: &str,
    sentences: impl IntoIterator<Item: AsRef<str>>,
) {
    let _ = writeln!(text, "\n{heading}");
    for sentence in sentences {
        paragraph(text, lead, sentence.as_ref());
    }
}

fn paragraph(text: &mut String, lead: &str, sentence: &str) {
    let width = terminal_width().map_or(usize::MAX, |width| width.saturating_sub(4).max(20));
    for (n, line) in wrapped(sentence, width).iter().enumerate() {
        let lead = match n {
            0 => lead,
            _ if lead.is_empty() => "",
            _ => "  ",
        };
        let _ = writeln!(text, "  {lead}{line}");
    }
}
