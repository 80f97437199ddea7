//! `backstop explain`: what there is to know about a control. Calls nothing.

use std::process::ExitCode;

use backstop_core::explain::{Explanation, explain};
use backstop_core::message::quoted;
use backstop_core::policy_fields::Field;
use backstop_core::words::ControlId;
use clap::Args;
use serde_json::{Value, json};

use crate::Problem;
use crate::table::{Format, Page, Table, table, terminal_width};

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
            (Format::Table, Some(_), Some(one)) => print!("{}", text(one, terminal_width())),
            (Format::Table, ..) => println!("{}", list(&explained)),
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

/// A row for each control.
fn list(explained: &[Explanation]) -> Table {
    let mut list = table(&["control", "finds", "Security Hub"]);
    for one in explained {
        list.add_row(vec![
            one.control.name().to_owned(),
            one.finds.to_owned(),
            hub(one),
        ]);
    }
    list
}

fn hub(of: &Explanation) -> String {
    match of.security_hub.join(", ") {
        none if none.is_empty() => "none".to_owned(),
        ids => ids,
    }
}

/// An explanation, for people, as it fits a terminal of so many columns.
fn text(of: &Explanation, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    page.line(of.control.name());
    page.led("  ", &format!("{}.", of.finds));
    let hub = format!("Security Hub: {}.", hub(of));
    page.section("Why it matters", "", [of.why, &hub]);
    let function = format!("Function: {}.", of.function);
    page.section("What it changes", "", [of.changes, &function]);
    page.section("What it never does", "- ", &of.never);
    let settings = of.settings.iter().map(|field| setting(of, field));
    page.section("Settings in the policy", "- ", settings);
    page.section("How to opt out", "- ", &of.opt_out);
    page.section("How to undo", "- ", &of.undo);
    page.into_text()
}

fn setting(of: &Explanation, field: &Field) -> String {
    let default = match &field.default {
        Value::Null if field.path.ends_with(".mode") => of.default_mode.to_owned(),
        value => said(value),
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

/// A value of the policy in words that break over lines.
fn said(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(said).collect();
            items.join(", ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screens;

    #[test]
    fn the_list_of_controls_is_the_screen_in_the_documents() {
        let all = ControlId::ALL.iter().copied();
        let all: Vec<Explanation> = all.filter_map(explain).collect();
        screens::check("explain-all", |terminal| list(&all).print(terminal) + "\n");
    }

    #[test]
    fn the_explanation_of_a_control_is_the_screen_in_the_documents() {
        let of = explain(ControlId::OpenIngress).unwrap();
        screens::check("explain", |terminal| text(&of, terminal));
    }
}
