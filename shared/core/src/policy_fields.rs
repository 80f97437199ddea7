//! The fields of the policy document, from its schema and its defaults: for
//! `backstop explain`, and for what is said of a field that is not known.
//!
//! Deliberately not here: the fields themselves (`policy`).

use serde::Serialize;
use serde_json::{Map, Value};

use crate::policy::Policy;

/// A field of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its path, for example `controls.open-ingress.budget.changes_per_hour`.
    pub path: String,
    /// Its default; null: none.
    pub default: Value,
    /// What it may be, where that is a list of words or a range.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// What it is for.
    pub about: String,
}

/// The schema of the policy, to walk over.
pub(crate) struct Fields {
    schema: Value,
}

impl Fields {
    pub(crate) fn new() -> Self {
        Self {
            schema: Policy::schema(),
        }
    }

    /// The fields under a path that hold no further fields with defaults, in the
    /// order of their names.
    pub(crate) fn under(&self, path: &[&str]) -> Vec<Field> {
        let mut node = &self.schema;
        let mut default = &serde_json::to_value(Policy::default()).unwrap_or_default();
        for name in path {
            let next = self.properties(node).and_then(|fields| fields.get(*name));
            let Some(next) = next else { return Vec::new() };
            node = next;
            default = default.get(*name).unwrap_or(&Value::Null);
        }
        let mut fields = Vec::new();
        self.walk(node, default, &path.join("."), &mut fields);
        fields
    }

    fn walk(&self, node: &Value, default: &Value, path: &str, fields: &mut Vec<Field>) {
        if let (Some(properties), Value::Object(_)) = (self.properties(node), default) {
            for (name, node) in properties {
                let default = default.get(name).unwrap_or(&Value::Null);
                self.walk(node, default, &format!("{path}.{name}"), fields);
            }
            return;
        }
        let about = node.get("description").and_then(Value::as_str);
        fields.push(Field {
            path: path.to_owned(),
            default: default.clone(),
            allowed: self.allowed(node),
            about: about.unwrap_or_default().replace('\n', " "),
        });
    }

    /// The fields of an object, by name; `None`: it is none, or takes any.
    fn properties<'a>(&'a self, node: &'a Value) -> Option<&'a Map<String, Value>> {
        let forms = self.forms(node);
        let mut properties = forms.into_iter().filter_map(|form| form.get("properties"));
        properties.next()?.as_object()
    }

    /// What a node may be: itself, what it refers to, and each of several forms.
    fn forms<'a>(&'a self, node: &'a Value) -> Vec<&'a Value> {
        let mut forms = vec![node];
        if let Some(name) = node.get("$ref").and_then(Value::as_str)
            && let Some(of) = self.schema.pointer(name.trim_start_matches('#'))
        {
            forms.extend(self.forms(of));
        }
        for several in ["anyOf", "oneOf"] {
            let of = node.get(several).and_then(Value::as_array);
            forms.extend(of.into_iter().flatten().flat_map(|of| self.forms(of)));
        }
        forms
    }

    fn allowed(&self, node: &Value) -> Vec<String> {
        let forms = self.forms(node);
        let word = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let mut allowed: Vec<String> = forms
            .iter()
            .flat_map(|form| {
                let several = form.get("enum").and_then(Value::as_array);
                form.get("const")
                    .into_iter()
                    .chain(several.into_iter().flatten())
            })
            .filter_map(word)
            .collect();
        let bound = |name: &str| forms.iter().find_map(|form| form.get(name)?.as_u64());
        match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => allowed.push(format!("{least} to {most}")),
            (Some(least), None) if least > 0 => allowed.push(format!("{least} and more")),
            _ => {}
        }
        allowed
    }

    /// The names that an object at a path may have; `None`: no such object is
    /// known. An element of a list is `[0]`, as in error paths.
    pub(crate) fn names(&self, path: &[String]) -> Option<Vec<&str>> {
        let mut node = &self.schema;
        for part in path {
            node = match part.starts_with('[') {
                true => {
                    let forms = self.forms(node);
                    forms.into_iter().find_map(|form| form.get("items"))?
                }
                false => self.properties(node)?.get(part)?,
            };
        }
        let names = self.properties(node)?.keys();
        Some(names.map(String::as_str).collect())
    }

    /// The paths of every field of a name, wherever it is.
    pub(crate) fn paths_of(&self, name: &str) -> Vec<String> {
        let mut paths = Vec::new();
        self.search(&self.schema, "", name, &mut paths);
        paths
    }

    fn search(&self, node: &Value, path: &str, name: &str, paths: &mut Vec<String>) {
        for (of, node) in self.properties(node).into_iter().flatten() {
            let path = match path {
                "" => of.clone(),
                path => format!("{path}.{of}"),
            };
            if of == name {
                paths.push(path.clone());
            }
            self.search(node, &path, name, paths);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_its_default_and_what_it_may_be() {
        let fields = Fields::new().under(&["controls", "open-ingress"]);
        let of = |name: &str| {
            let path = format!("controls.open-ingress.{name}");
            let found = fields.iter().find(|field| field.path == path);
            found.unwrap_or_else(|| panic!("{name}: {fields:#?}"))
        };
        let budget = of("budget.changes_per_hour");
        assert_eq!(budget.default, 50);
        assert_eq!(budget.allowed, ["1 and more"]);
        assert!(budget.about.contains("clock hour (UTC)"));
        assert_eq!(of("mode").default, Value::Null);
        assert_eq!(of("mode").allowed, ["off", "notify", "enforce"]);
        assert_eq!(of("settings.max_public_bits.ipv6").default, 112);
        let taken = Fields::new().under(&["patching"]);
        let taken = taken.iter().find(|f| f.path == "patching.snapshots.take");
        assert_eq!(taken.unwrap().default, true);
    }

    #[test]
    fn names_are_known_at_every_level() {
        let fields = Fields::new();
        let path = |path: &[&str]| {
            path.iter()
                .map(|part| (*part).to_owned())
                .collect::<Vec<_>>()
        };
        assert!(fields.names(&[]).unwrap().contains(&"kill_switch"));
        let window = [
            "controls",
            "unencrypted-volume",
            "settings",
            "windows",
            "[0]",
        ];
        assert_eq!(
            fields.names(&path(&window)).unwrap(),
            ["days", "from", "to"]
        );
        assert_eq!(fields.names(&path(&["kill_switch"])), None);
        assert_eq!(
            fields.paths_of("attached"),
            ["controls.unencrypted-volume.settings.attached"]
        );
    }
}
