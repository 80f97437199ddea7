//! The event corpus: every file under `events/` against its expected verdict.
//!
//! A file without an expectation fails, and so does the other way round. What
//! each file shows is said in `events/README.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backstop_core::control::Control as _;
use backstop_core::controls::default_security_group::DefaultSecurityGroup;
use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::json;
use backstop_core::patching::{Package, Vulnerability};
use backstop_core::trigger::{
    self, BrokenEvent, Parsed, PatchingParsed, Says, TagsParsed, Trigger, VolumesParsed,
};
use backstop_core::undo;
use backstop_core::words::Actor;
use backstop_engine::AT_ONCE;
use backstop_tests::template;
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../events")
        .join(name)
}

/// Read as a function receives it.
fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    json::value(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Holds every event of a folder against `expected.json`, all differences at
/// once.
fn check(name: &str, verdict: impl Fn(&Value) -> Value) {
    check_by(name, verdict, |got, expected| got == expected);
}

/// The same, where a verdict is another way to be as expected.
fn check_by(
    name: &str,
    verdict: impl Fn(&Value) -> Value,
    is_as_expected: impl Fn(&Value, &Value) -> bool,
) {
    let folder = folder(name);
    let expected = read(&folder.join("expected.json"));
    let expected = expected.as_object().unwrap();
    let files: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file != "expected.json")
        .collect();
    assert_eq!(
        files,
        expected.keys().cloned().collect(),
        "files and expectations of {name}"
    );
    let differences: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let got = verdict(&read(&folder.join(file)));
            let expected = &expected[file];
            (!is_as_expected(&got, expected))
                .then(|| format!("{file}\n  expected {expected}\n  got      {got}"))
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    println!("{name}: {} events", files.len());
}

fn actor(actor: &Actor) -> Value {
    json!({
        "principal": actor.principal,
        "user_agent": actor.user_agent,
        "source_address": actor.source_address,
        "invoked_by": actor.invoked_by,
    })
}

/// A verdict that names no resource.
fn nothing(verdict: &str) -> Value {
    json!({ "verdict": verdict, "resource": null, "account": null, "region": null, "actor": null, "event_id": null })
}

/// A verdict about a resource.
fn of(verdict: &str, trigger: &Trigger) -> Value {
    json!({
        "verdict": verdict,
        "resource": trigger.resource,
        "account": trigger.account,
        "region": trigger.region,
        "actor": actor(&trigger.actor),
        "event_id": trigger.actor.event_id,
    })
}

/// A verdict about several resources, which one call named.
fn of_each(triggers: &[Trigger]) -> Value {
    let resources: Vec<&String> = triggers.iter().map(|of| &of.resource).collect();
    let mut verdict = of("check-each", &triggers[0]);
    let verdict_of = verdict.as_object_mut().unwrap();
    verdict_of.remove("resource");
    verdict_of.insert("resources".to_owned(), json!(resources));
    verdict
}

#[test]
fn revoke_ingress_reads_every_event_as_expected() {
    check("revoke-ingress", |event| {
        verdict([
            OpenIngress::parse(event),
            DefaultSecurityGroup::parse(event),
        ])
    });
}

/// The verdict of the first control that would look.
fn verdict(read: impl IntoIterator<Item = Result<Parsed, BrokenEvent>>) -> Value {
    let mut verdict = nothing("ignored");
    for parsed in read {
        match parsed {
            Ok(Parsed::Check(trigger)) => return of("check", &trigger),
            Ok(Parsed::CheckEach(triggers)) => return of_each(&triggers),
            Ok(Parsed::Expand(trigger)) => return of("expand", &trigger),
            Ok(Parsed::Ignored(reason)) => assert!(!reason.is_empty()),
            Err(error) => {
                assert!(error.to_string().contains('`'), "names the field: {error}");
                verdict = nothing("error");
            }
        }
    }
    verdict
}

/// The other functions that remediate at once, each with all its controls.
#[test]
fn functions_that_remediate_at_once_read_every_event_as_expected() {
    let functions: BTreeSet<&str> = AT_ONCE.iter().map(|of| of.info().function).collect();
    for function in functions {
        if function == "revoke-ingress" {
            continue;
        }
        check(function, |event| {
            let served = AT_ONCE.iter().filter(|of| of.info().function == function);
            verdict(served.map(|control| control.parse(event)))
        });
    }
}

#[test]
fn encrypt_volume_reads_every_event_as_expected() {
    check("encrypt-volume", |event| match trigger::volumes(event) {
        Ok(VolumesParsed::Check(trigger)) => of("check", &trigger),
        Ok(VolumesParsed::Advance { entry, go_back }) => {
            json!({ "verdict": "advance", "entry": entry, "go_back": go_back })
        }
        Ok(VolumesParsed::NotMade { volume, cause }) => {
            json!({ "verdict": "not made", "volume": volume, "cause": cause })
        }
        Ok(VolumesParsed::Ignored(reason)) => {
            assert!(!reason.is_empty());
            nothing("ignored")
        }
        Err(error) => {
            assert!(error.to_string().contains('`'), "names the field: {error}");
            nothing("error")
        }
    });
}

/// Account and Region of the stack to whose rules events are put.
const STACK: (&str, &str) = ("111122223333", "eu-central-1");

/// What an event says of an instance beyond its name.
fn says(says: &Says) -> Value {
    let package = |package: &Package| {
        json!({
            "name": package.name,
            "version": package.version,
            "fixed_in": package.fixed_in,
            "manager": package.manager,
            "patchable": package.is_patchable(),
            "remediation": package.remediation,
        })
    };
    let finding = |finding: &Vulnerability| {
        assert_eq!(finding.installed_by, None);
        json!({
            "arn": finding.arn,
            "severity": finding.severity,
            "title": finding.title,
            "cves": finding.cves,
            "packages": finding.packages.iter().map(package).collect::<Vec<_>>(),
            "remediation": finding.remediation,
            "reported_at": finding.reported_at,
        })
    };
    match says {
        Says::Nothing => json!("nothing"),
        Says::Active(found) => json!({ "active": finding(found) }),
        Says::Closed {
            arn,
            at,
            suppressed,
        } => {
            let what = if *suppressed { "suppressed" } else { "closed" };
            json!({ what: { "arn": arn, "at": at } })
        }
    }
}

/// The verdict on one event for `patch-instance`, and the rule that sends it.
fn patching(event: &Value) -> Value {
    let mut verdict = match trigger::patching(event) {
        Ok(PatchingParsed::Look(hint)) => {
            let mut verdict = of("look", &hint.trigger);
            verdict["says"] = says(&hint.says);
            verdict
        }
        Ok(PatchingParsed::Ignored(reason)) => json!({ "verdict": "ignored", "because": reason }),
        Err(error) => json!({ "verdict": "error", "because": error.to_string() }),
    };
    let rules: Vec<String> = template::rules()
        .into_iter()
        .filter(|rule| rule.function == "PatchInstanceFunction")
        .filter(|rule| template::matches(&rule.pattern, event, STACK))
        .map(|rule| rule.logical_id)
        .collect();
    assert!(rules.len() <= 1, "sent twice: {rules:?}");
    verdict["rule"] = json!(rules.first());
    verdict
}

/// Equal, but that of a sentence a part is enough.
fn equal_but_for_sentences(got: &Value, expected: &Value) -> bool {
    if let (Some(got), Some(expected)) =
        (got["messages"].as_array(), expected["messages"].as_array())
    {
        return got.len() == expected.len()
            && got
                .iter()
                .zip(expected)
                .all(|(got, expected)| equal_but_for_sentences(got, expected));
    }
    let (mut got, mut expected) = (got.clone(), expected.clone());
    if let (Some(sentence), Some(part)) = (got["because"].as_str(), expected["because"].as_str()) {
        if part.is_empty() || !sentence.contains(part) {
            return false;
        }
        got["because"] = Value::Null;
        expected["because"] = Value::Null;
    }
    got == expected
}

#[test]
fn patch_instance_reads_every_event_as_expected() {
    let verdict = |event: &Value| {
        let Some(queued) = trigger::queued(event) else {
            return patching(event);
        };
        let messages = queued.iter().map(|queued| match &queued.event {
            Ok(event) => patching(event),
            Err(error) => {
                json!({ "verdict": "error", "because": error.to_string(), "rule": null })
            }
        });
        json!({ "verdict": "batch", "messages": messages.collect::<Vec<_>>() })
    };
    check_by("patch-instance", verdict, equal_but_for_sentences);
}

/// What no rule sends costs nothing; what a rule sends is looked at, or is broken
/// and ends where a person sees it. An event of this account that asks for a look
/// is never left out.
#[test]
fn the_rules_of_patch_instance_send_what_it_acts_on_and_nothing_else() {
    let expected = read(&folder("patch-instance").join("expected.json"));
    for (file, expected) in expected.as_object().unwrap() {
        let event = read(&folder("patch-instance").join(file));
        let here = event["account"] == STACK.0 && event["region"] == STACK.1;
        match expected["verdict"].as_str().unwrap() {
            "look" => assert_eq!(expected["rule"].is_string(), here, "{file}"),
            "ignored" => assert!(expected["rule"].is_null(), "{file} is sent for nothing"),
            _ => {}
        }
    }
}

#[test]
fn notify_reads_every_event_as_expected() {
    let one = |event: &Value| match trigger::recorded(event) {
        Ok(Ok(entry)) => json!({ "verdict": "tell", "entry": entry }),
        Ok(Err(_)) => json!({ "verdict": "ignored", "entry": null }),
        Err(_) => json!({ "verdict": "error", "entry": null }),
    };
    check("notify", |event| {
        let Some(queued) = trigger::queued(event) else {
            return one(event);
        };
        let messages = queued.iter().map(|queued| match &queued.event {
            Ok(event) => one(event),
            Err(_) => json!({ "verdict": "error", "entry": null }),
        });
        json!({ "verdict": "batch", "messages": messages.collect::<Vec<_>>() })
    });
}

#[test]
fn watch_opt_outs_reads_every_event_as_expected() {
    let nothing = |verdict: &str| json!({ "verdict": verdict, "resources": null, "all": null, "account": null, "region": null, "actor": null, "event_id": null });
    check("watch-opt-outs", |event| {
        match trigger::opt_out_tags(event) {
            Ok(TagsParsed::Changed(change)) => json!({
                "verdict": "changed",
                "resources": change.resources,
                "all": change.all,
                "account": change.account,
                "region": change.region,
                "actor": actor(&change.actor),
                "event_id": change.actor.event_id,
            }),
            Ok(TagsParsed::Ignored(reason)) => {
                assert!(!reason.is_empty());
                nothing("ignored")
            }
            Err(error) => {
                assert!(error.to_string().contains('`'), "names the field: {error}");
                nothing("error")
            }
        }
    });
}

#[test]
fn undo_reads_every_payload_as_expected() {
    // The policy's default.
    const MOST_DAYS: u32 = 30;
    let expected = read(&folder("undo").join("expected.json"));
    let names = std::cell::Cell::new(0);
    check("undo", |payload| match undo::Request::parse(payload) {
        Ok(request) => {
            let (days, capped) = request.days(MOST_DAYS);
            json!({ "verdict": "undo", "remediation": request.remediation, "days": days, "capped": capped })
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.ends_with("; nothing was changed"), "{error}");
            // Which of the names that the expectations know it holds.
            let named = expected
                .as_object()
                .unwrap()
                .values()
                .filter_map(|e| e["names"].as_str())
                .filter(|name| error.split("nothing was").next().unwrap().contains(name));
            let named: BTreeSet<&str> = named.collect();
            names.set(names.get() + named.len());
            json!({ "verdict": "error", "names": first_named(&error, &named) })
        }
    });
    assert!(names.get() > 0);
}

/// The name that stands first in a sentence.
fn first_named(sentence: &str, names: &BTreeSet<&str>) -> Value {
    let first = names.iter().min_by_key(|name| sentence.find(**name));
    json!(first)
}
