//! Everything that is wrong with a policy document, for whoever writes one.
//! [`Policy::parse`] stops at the first fault, which is enough to change nothing.
//!
//! The types themselves are asked, again and again: what they refuse is noted and
//! taken out, until nothing is left that they refuse. Deliberately not here: what
//! is valid (`policy`).

use std::fmt;

use serde_json::{Value, json};
use serde_path_to_error::Segment;

use crate::json;
use crate::policy::{MOST_BYTES, Policy};
use crate::policy_fields::Fields;

/// The least likeness (Jaro-Winkler, 0 to 1) at which a name is taken for a
/// misspelling of another: below it a guess is more often wrong than right.
const LIKE: f64 = 0.85;

/// The least that a policy holds.
const LEAST: &str = "{\"version\": 1}";

/// What is wrong with one field, or with the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field's path; empty: the document as a whole.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// The field that was probably meant: its name, or its path where it stands
    /// elsewhere.
    pub nearest: Option<String>,
}

impl Fault {
    fn of_document(problem: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            problem: problem.into(),
            nearest: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a document; nothing: [`Policy::parse`] takes it.
#[must_use]
pub fn faults(document: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if document.len() > MOST_BYTES {
        faults.push(Fault::of_document(format!(
            "it has {} bytes; at most {MOST_BYTES} are allowed",
            document.len()
        )));
        return faults;
    }
    let text = match document.strip_prefix('\u{feff}') {
        Some(rest) => {
            faults.push(Fault::of_document(
                "it begins with a byte order mark (U+FEFF), which JSON does not allow: save it as UTF-8 without one",
            ));
            rest
        }
        None => document,
    };
    match json_of(text) {
        Ok(value) => {
            Search::new(value).run(&mut faults);
            // What only the text shows: a field that stands there twice.
            if faults.is_empty()
                && let Err(error) = Policy::parse(document)
            {
                faults.push(Fault::of_document(error.to_string()));
            }
        }
        Err(problem) => faults.push(Fault::of_document(problem)),
    }
    faults
}

/// The document as JSON, or in words what it is instead.
fn json_of(text: &str) -> Result<Value, String> {
    let begins = text.trim_start();
    let error = match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => return Ok(value),
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "a list",
                Value::String(_) => "a string",
                Value::Number(_) => "a number",
                Value::Bool(_) => "a boolean",
                _ => "null",
            };
            return Err(format!(
                "it is {kind}; a policy is an object, at least {LEAST}"
            ));
        }
        Err(error) => error,
    };
    if begins.is_empty() {
        return Err(format!("it is empty; a policy is at least {LEAST}"));
    }
    if !begins.starts_with(['{', '[', '"']) {
        let first = begins.lines().find(|line| !line.trim().starts_with('#'));
        let is_yaml = first.is_some_and(|line| line.starts_with("---") || line.contains(':'));
        return Err(match is_yaml {
            true => format!("it is YAML, or something like it; a policy is JSON, at least {LEAST}"),
            false => format!("it is not JSON; a policy is at least {LEAST}"),
        });
    }
    let line = text.lines().nth(error.line().saturating_sub(1));
    let at = line.and_then(|line| line.chars().nth(error.column().saturating_sub(1)));
    let hint = match at {
        Some('/' | '#') => ": JSON has no comments",
        Some('\'' | '\u{201c}' | '\u{201d}') => ": JSON has only straight double quotes",
        _ => "",
    };
    Err(format!("it is not JSON: {error}{hint}"))
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    Element(usize),
}

type Path = Vec<Part>;

/// A document that what is wrong is taken out of.
struct Search {
    value: Value,
    fields: Fields,
    /// What was taken out, by where it stood in the document.
    removed: Vec<Path>,
}

impl Search {
    fn new(value: Value) -> Self {
        Self {
            value,
            fields: Fields::new(),
            removed: Vec::new(),
        }
    }

    fn run(mut self, faults: &mut Vec<Fault>) {
        while let Some((path, problem)) = refused(&self.value) {
            let as_written = self.as_written(&path);
            // What is missing only because it was taken out is said already.
            if !self.removed.iter().any(|of| of.starts_with(&as_written)) {
                faults.push(self.fault(&as_written, problem));
            }
            if !self.take_out(&path) {
                return;
            }
            self.removed.push(as_written);
        }
    }

    fn fault(&self, path: &Path, problem: String) -> Fault {
        let fault = Fault {
            path: shown(path),
            problem,
            nearest: None,
        };
        let Some((Part::Field(name), parents)) = path.split_last() else {
            return fault;
        };
        let parents: Vec<String> = parents
            .iter()
            .map(|part| shown(std::slice::from_ref(part)))
            .collect();
        let Some(known) = self.fields.names(&parents) else {
            return fault;
        };
        if known.contains(&name.as_str()) || !self.holds(path) {
            return fault;
        }
        let nearest = nearest(name, &known).or_else(|| self.fields.paths_of(name).pop());
        let allowed = match &nearest {
            Some(_) => String::new(),
            None => format!("; allowed are `{}`", known.join("`, `")),
        };
        Fault {
            problem: format!("there is no such field{allowed}"),
            nearest,
            ..fault
        }
    }

    /// Whether the document as written has this field, whatever was taken out.
    fn holds(&self, path: &Path) -> bool {
        // Only asked right before it is taken out, by a path without elements
        // before it that are gone.
        let current = self.current(path);
        find(&self.value, &current).is_some()
    }

    /// A path in the document as it is now, in the document as written.
    fn as_written(&self, path: &Path) -> Path {
        let mut written = Path::new();
        for part in path {
            let part = match part {
                Part::Element(at) => {
                    let mut at = *at;
                    let mut gone = self.gone_from(&written);
                    gone.sort_unstable();
                    for gone in gone {
                        at += usize::from(gone <= at);
                    }
                    Part::Element(at)
                }
                field => field.clone(),
            };
            written.push(part);
        }
        written
    }

    /// The other way round.
    fn current(&self, written: &Path) -> Path {
        let mut current = Path::new();
        for (n, part) in written.iter().enumerate() {
            current.push(match part {
                Part::Element(at) => {
                    let list = written.get(..n).unwrap_or_default();
                    let before = self.gone_from(list).into_iter().filter(|gone| gone < at);
                    Part::Element(at - before.count())
                }
                field => field.clone(),
            });
        }
        current
    }

    /// Which elements of a list were taken out.
    fn gone_from(&self, list: &[Part]) -> Vec<usize> {
        let removed = self.removed.iter();
        removed
            .filter_map(|path| match path.split_last() {
                Some((Part::Element(at), of)) if of == list => Some(*at),
                _ => None,
            })
            .collect()
    }

    /// Takes out what is refused; whether that changes anything.
    fn take_out(&mut self, path: &Path) -> bool {
        let version = [Part::Field("version".to_owned())];
        if path.is_empty() || path == &version {
            // It has to be there, and nothing else of the document has.
            let fields = self.value.as_object_mut();
            let of = fields.map(|fields| fields.insert("version".to_owned(), json!(1)));
            return of.is_some_and(|before| before != Some(json!(1)));
        }
        if remove(&mut self.value, path) {
            return true;
        }
        // What is missing is asked for by something beside it.
        let parent = path.get(..path.len() - 1).unwrap_or_default();
        let beside: Vec<String> = match find(&self.value, parent) {
            Some(Value::Object(fields)) => fields.keys().cloned().collect(),
            _ => return false,
        };
        for name in beside {
            let mut without = self.value.clone();
            let path_of = [parent, &[Part::Field(name)]].concat();
            remove(&mut without, &path_of);
            if refused(&without).is_none_or(|(other, _)| other != *path) {
                self.value = without;
                return true;
            }
        }
        remove(&mut self.value, parent)
    }
}

/// The first thing that the types refuse: where, and what is wrong.
fn refused(value: &Value) -> Option<(Path, String)> {
    let policy = match json::located::<Policy, _>(value) {
        Ok(policy) => policy,
        Err(error) => {
            let path = error.path().iter();
            let path = path.filter_map(|segment| match segment {
                Segment::Map { key } => Some(Part::Field(key.clone())),
                Segment::Seq { index } => Some(Part::Element(*index)),
                Segment::Enum { .. } | Segment::Unknown => None,
            });
            return Some((path.collect(), error.inner().to_string()));
        }
    };
    let (path, problem) = policy.check().err()?;
    Some((parsed(&path), problem))
}

/// A path as errors show it: `a.b[0].c`.
fn shown(path: &[Part]) -> String {
    let mut shown = String::new();
    for part in path {
        match part {
            Part::Field(name) if shown.is_empty() => shown.push_str(name),
            Part::Field(name) => shown += &format!(".{name}"),
            Part::Element(at) => shown += &format!("[{at}]"),
        }
    }
    shown
}

/// The other way round.
fn parsed(path: &str) -> Path {
    let mut parts = Path::new();
    for field in path.split('.') {
        let mut pieces = field.split('[');
        let name = pieces.next().filter(|name| !name.is_empty());
        parts.extend(name.map(|name| Part::Field(name.to_owned())));
        let elements = pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok());
        parts.extend(elements.map(Part::Element));
    }
    parts
}

fn find<'a>(value: &'a Value, path: &[Part]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, part| match part {
        Part::Field(name) => value.get(name),
        Part::Element(at) => value.get(at),
    })
}

/// Removes what is at a path; whether anything was.
fn remove(value: &mut Value, path: &[Part]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let mut at = value;
    for part in parents {
        let next = match part {
            Part::Field(name) => at.get_mut(name),
            Part::Element(n) => at.get_mut(n),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match (at, last) {
        (Value::Object(fields), Part::Field(name)) => fields.remove(name).is_some(),
        (Value::Array(list), Part::Element(n)) if *n < list.len() => {
            list.remove(*n);
            true
        }
        _ => false,
    }
}

/// The name that another one is probably a misspelling of.
fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let likeness = |of: &&str| strsim::jaro_winkler(&plain(name), &plain(of));
    let best = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKE).then(|| (*best).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(document: &str) -> Vec<String> {
        faults(document).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_named_with_its_path_and_the_nearest_field() {
        let document = r#"{"version":2, "control":{}, "kill_swich":true,
            "attached": "swap",
            "opt_out":{"require_end":"yes"},
            "controls":{
              "open-ingres":{},
              "open_ingress":{},
              "open-ingress":{"mode":"enfroce","budget":{"changes_per_hour":0},
                "settings":{"authorised_ports":{"tcp":["443-80",80,"x"]}}},
              "unencrypted-volume":{"settings":{"attached":"swap","settling_minutes":1441,
                "windows":[{"from":"02:00"},{"from":"2:00","to":"05:00"},{"from":"02:00","to":"05:00","zone":"CET"}]}}},
            "fights":{"escalate_after":12},
            "undo":{"most_opt_out_days":0}}"#;
        let said = said(document);
        for expected in [
            "`version`: version 2 is not known here",
            "`control`: there is no such field; did you mean `controls`?",
            "`kill_swich`: there is no such field; did you mean `kill_switch`?",
            "`attached`: there is no such field; did you mean `controls.unencrypted-volume.settings.attached`?",
            "`opt_out.require_end`: invalid type",
            "`controls.open-ingres`: there is no such field; did you mean `open-ingress`?",
            "`controls.open_ingress`: there is no such field; did you mean `open-ingress`?",
            "`controls.open-ingress.mode`: unknown variant `enfroce`",
            "`controls.open-ingress.budget.changes_per_hour`: 0 would",
            "`controls.open-ingress.settings.authorised_ports.tcp[0]`: ",
            "`controls.open-ingress.settings.authorised_ports.tcp[2]`: ",
            "`controls.unencrypted-volume.settings.windows[0]`: missing field `to`",
            "`controls.unencrypted-volume.settings.windows[1].from`: ",
            "`controls.unencrypted-volume.settings.windows[2].zone`: there is no such field",
            "`controls.unencrypted-volume.settings.settling_minutes`: ",
            "`fights.trip_after`: ",
            "`undo.most_opt_out_days`: ",
        ] {
            let found = said.iter().filter(|of| of.starts_with(expected)).count();
            assert_eq!(found, 1, "{expected} in\n{said:#?}");
        }
        assert_eq!(said.len(), 17, "{said:#?}");
    }

    #[test]
    fn what_is_asked_for_by_another_field_hides_no_further_fault() {
        let document = r#"{"version":1,"controls":{"unencrypted-volume":{"settings":
            {"attached":"swap","health_minutes":0}}}}"#;
        let said = said(document);
        assert!(
            said.iter().any(|of| of.contains("settings.windows`")),
            "{said:#?}"
        );
        assert!(
            said.iter()
                .any(|of| of.contains("settings.health_minutes`")),
            "{said:#?}"
        );
        assert_eq!(said.len(), 2, "{said:#?}");
    }

    #[test]
    fn what_is_no_policy_at_all_is_said_in_words() {
        for (document, part) in [
            ("", "it is empty; a policy is at least {\"version\": 1}"),
            (" \n", "it is empty"),
            ("[]", "it is a list; a policy is an object"),
            ("\"on\"", "it is a string"),
            ("version: 1\ncontrols: {}\n", "it is YAML"),
            ("# ours\nversion: 1\n", "it is YAML"),
            ("---\nversion: 1\n", "it is YAML"),
            ("enforce", "it is not JSON"),
            (
                "{\"version\":1,}",
                "it is not JSON: trailing comma at line 1",
            ),
            ("{\"version\":1 // ours\n}", "JSON has no comments"),
            ("{'version':1}", "double quotes"),
            ("{\"version\":1}{}", "trailing characters"),
            ("\u{feff}{\"version\":1}", "byte order mark"),
            ("{}", "missing field `version`"),
            ("{\"version\":1,\"version\":1}", "duplicate field `version`"),
        ] {
            let said = said(document);
            assert!(
                said.len() == 1 && said[0].contains(part),
                "{document}: {said:?}"
            );
        }
        let both = said("\u{feff}{\"version\":1,\"kill_swich\":true}");
        assert_eq!(both.len(), 2, "{both:?}");
        let long = format!("{{\"version\":1{}}}", " ".repeat(MOST_BYTES));
        assert!(said(&long)[0].contains("8192"));
    }

    #[test]
    fn a_valid_policy_has_no_fault() {
        for document in [
            r#"{"version":1}"#,
            r#"{"$schema":"https://example.com/policy.schema.json","version":1}"#,
            r#"{"version":1,"controls":{"open-ingress":{"settings":{"authorized_ports":{"tcp":[22]},"allow":"authorized-ports"}}}}"#,
        ] {
            assert_eq!(said(document), [""; 0], "{document}");
            assert!(Policy::parse(document).is_ok(), "{document}");
        }
    }
}
