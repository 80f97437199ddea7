//! The files of the library crates depend on each other in one direction only:
//! whoever reads one has to know those below it and none above.
//!
//! A file depends on the file whose module a path of its own leads to: `crate::`,
//! `super::`, `self::`, and the name of a child module. Declaring a child
//! (`mod x;`) is no dependency; using or re-exporting something of it is one.
//! Unit tests (`#[cfg(test)]`) do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Source texts by module: `["message", "story"]` is `message/story.rs`, and the
/// crate's root is `[]`.
type Files = BTreeMap<Vec<String>, String>;

#[test]
fn no_files_of_the_core_depend_on_each_other_in_a_circle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/core/src");
    let mut files = Files::new();
    read(&source, &mut Vec::new(), &mut files);
    // The walk saw the crate, nested modules included.
    assert!(files.contains_key(&["encryption", "step"].map(String::from)[..]));
    let circles = circles(&files);
    assert!(circles.is_empty(), "circles of files: {circles:#?}");
}

/// What others wrote is read in one place, so that nothing is read in another way.
#[test]
fn json_is_read_through_the_core_and_payloads_are_received_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let exempt = [
        "shared/core/src/json.rs",
        // A document that is written back as it was, and read as a policy then.
        "cli/src/commands/kill_switch.rs",
        // Where a document is no JSON, by line and column.
        "shared/core/src/policy_faults.rs",
    ];
    let mut folders = vec![root.join("cli/src")];
    for of in ["shared", "functions"] {
        let members = std::fs::read_dir(root.join(of)).unwrap();
        folders.extend(members.map(|member| member.unwrap().path().join("src")));
    }
    // Test support.
    folders.retain(|folder| !folder.ends_with("wire/src") && !folder.ends_with("model/src"));
    assert!(folders.len() > 10, "{folders:?}");
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            if exempt.contains(&name) || name.ends_with("tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let others = [
                "serde_json::from_",
                "serde_json::Deserializer",
                "lambda_runtime::run",
            ];
            let imported = ["LambdaEvent, run", "run, service_fn"];
            for part in others.iter().chain(&imported) {
                if shipped.contains(part) {
                    found.push(format!("{name}: {part}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn circles_are_found_wherever_a_path_stands() {
    // (what the test is about, the files, the circles)
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static [&'static [&'static str]],
    );
    let cases: &[Case] = &[
        (
            "one direction",
            &[
                ("", "mod a; mod b;"),
                ("a", "use crate::b::B;"),
                ("b", "pub struct B;"),
            ],
            &[],
        ),
        (
            "two imports, one in a nested tree",
            &[
                ("a", "use crate::{c::C, b::{self, B as Other}};"),
                ("b", "use super::a::*;"),
                ("c", ""),
            ],
            &[&["a", "b"]],
        ),
        (
            "over three files, by a path in a macro and one in a signature",
            &[
                ("a", "fn f() { println!(\"{}\", crate::b::B); }"),
                ("b", "fn f(_: &crate::c::C) {}"),
                ("c", "impl From<super::a::A> for C {}"),
            ],
            &[&["a", "b", "c"]],
        ),
        (
            "a parent that re-exports a child which uses the parent",
            &[
                ("a", "mod child; pub use child::Y; struct X;"),
                ("a/child", "use super::X; pub struct Y;"),
            ],
            &[&["a", "a/child"]],
        ),
        (
            "a parent that only declares its child",
            &[
                ("a", "pub mod child; struct X;"),
                ("a/child", "use super::X; pub struct Y;"),
            ],
            &[],
        ),
        (
            "siblings that name each other past their parent",
            &[
                ("a", "mod b; mod c; pub use self::{b::B, c::C};"),
                ("a/b", "use super::c::C;"),
                ("a/c", ""),
            ],
            &[],
        ),
        (
            "a module brought into scope by name",
            &[
                ("a", "use crate::b; fn f() { b::f() }"),
                ("b", "use crate::a;"),
            ],
            &[&["a", "b"]],
        ),
        (
            "comments, texts and unit tests",
            &[
                ("a", "use crate::b::B;"),
                (
                    "b",
                    "/// See crate::a.\nconst T: &str = \"crate::a::A\"; // crate::a\n\
                     #[cfg(test)] mod tests { use crate::a::A; }",
                ),
            ],
            &[],
        ),
    ];
    for (what, files, expected) in cases {
        let files = files.iter().map(|(name, text)| {
            let module = name.split('/').filter(|part| !part.is_empty());
            (module.map(str::to_owned).collect(), (*text).to_owned())
        });
        assert_eq!(circles(&files.collect()), *expected, "{what}");
    }
}

/// Reads the sources below a directory.
fn read(directory: &Path, module: &mut Vec<String>, files: &mut Files) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            module.push(name);
            read(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let own = (name != "mod" && name != "lib").then_some(name);
            let of = module.iter().cloned().chain(own).collect();
            files.insert(of, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The circles, each as the names of its files: sets of more than one file in
/// which every file leads to every other.
fn circles(files: &Files) -> Vec<Vec<String>> {
    let direct: BTreeMap<_, _> = files
        .iter()
        .map(|(module, text)| (module.clone(), dependencies(module, text, files)))
        .collect();
    let reached: BTreeMap<Vec<String>, _> = files
        .keys()
        .map(|module| (module.clone(), reach(module, &direct)))
        .collect();
    let circles: BTreeSet<Vec<String>> = files
        .keys()
        .map(|one| {
            let both = files
                .keys()
                .filter(|other| reached[one].contains(*other) && reached[*other].contains(one));
            both.map(|module| module.join("/")).collect()
        })
        .collect();
    circles
        .into_iter()
        .filter(|circle| circle.len() > 1)
        .collect()
}

/// Everything that a file leads to.
fn reach(
    from: &Vec<String>,
    direct: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
) -> BTreeSet<Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for to in &direct[module] {
            if reached.insert(to.clone()) {
                next.push(to);
            }
        }
    }
    reached
}

/// The files that a file's own paths lead to.
fn dependencies(module: &[String], text: &str, files: &Files) -> BTreeSet<Vec<String>> {
    let mut paths = Vec::new();
    collect(text.parse().unwrap(), &[], &mut paths);
    let resolved = paths.iter().filter_map(|path| resolve(module, path, files));
    resolved.filter(|to| to != module).collect()
}

/// The file that a path leads to; `None`: out of the crate, or to a local name.
fn resolve(module: &[String], path: &[String], files: &Files) -> Option<Vec<String>> {
    let child = |name: &String| files.contains_key(&[module, std::slice::from_ref(name)].concat());
    let mut at = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ if path.len() > 1 && child(path.first()?) => module.to_vec(),
        _ => return None,
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => {
                at.pop();
            }
            _ => {
                at.push(part.clone());
                if !files.contains_key(&at) {
                    at.pop();
                    break;
                }
            }
        }
    }
    Some(at)
}

/// Collects the paths of a text that have several parts, those in `use` trees
/// with what stands before their braces.
fn collect(tokens: TokenStream, before: &[String], paths: &mut Vec<Vec<String>>) {
    let mut tokens = tokens.into_iter().peekable();
    let mut path = before.to_vec();
    // Whether a `::` came last, so that the path goes on.
    let mut goes_on = false;
    let mut end = |path: &mut Vec<String>| {
        let ended = std::mem::replace(path, before.to_vec());
        if ended.len() > before.len().max(1) {
            paths.push(ended);
        }
    };
    let mut nested = Vec::new();
    while let Some(token) = tokens.next() {
        let is = |c: char| matches!(&token, TokenTree::Punct(punct) if punct.as_char() == c);
        if is(':') && matches!(tokens.peek(), Some(TokenTree::Punct(next)) if next.as_char() == ':')
        {
            tokens.next();
            if path.is_empty() {
                // After `>`: whatever it is, it begins with no file.
                path.push(String::new());
            }
            goes_on = true;
            continue;
        }
        match &token {
            TokenTree::Ident(name) if name == "as" => {
                end(&mut path);
                tokens.next();
            }
            TokenTree::Ident(name) => {
                if !goes_on {
                    end(&mut path);
                }
                path.push(name.to_string());
            }
            TokenTree::Group(group) if goes_on => nested.push((group.stream(), path.clone())),
            TokenTree::Group(group) => {
                end(&mut path);
                nested.push((group.stream(), Vec::new()));
            }
            _ if is('*') && (goes_on || !before.is_empty()) => path.push("*".to_owned()),
            _ => end(&mut path),
        }
        goes_on = false;
        let is_test = matches!(tokens.peek(), Some(TokenTree::Group(attribute)) if attribute.stream().to_string().replace(' ', "") == "cfg(test)");
        if is('#') && is_test {
            // The item ends with its body, or with a semicolon.
            tokens.next();
            tokens.find(|token| match token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                other => other.to_string() == ";",
            });
        }
    }
    end(&mut path);
    for (stream, before) in nested {
        collect(stream, &before, paths);
    }
}
