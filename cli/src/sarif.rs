//! A scan as SARIF 2.1.0, which code-scanning dashboards read, GitHub's among them.
//!
//! GitHub takes a result only with a file and a line (its documentation, "SARIF
//! support for code scanning"). There is no file: the path is made of account,
//! Region and resource, so that an alert keeps its place, and the ARN is the logical
//! location beside it.

use std::collections::BTreeMap;

use backstop_core::explain::explain;
use backstop_core::words::{ControlId, Severity};
use serde_json::json;
use serde_sarif::sarif::{
    ArtifactLocation, Invocation, Location, LogicalLocation, Message, MultiformatMessageString,
    Notification, PhysicalLocation, PropertyBag, Region, ReportingDescriptor, Result as Outcome,
    ResultLevel, Run, Sarif, Suppression, Tool, ToolComponent,
};

use crate::commands::scan::{Found, Scanned};

/// Where the rules are explained.
const HELP: &str = concat!(
    env!("CARGO_PKG_REPOSITORY"),
    "/blob/main/README.md#controls"
);

/// The log of the scans of one or several Regions: one run, since GitHub takes only
/// one of a tool and category.
pub(crate) fn sarif(scans: &[Scanned]) -> Sarif {
    let rules = ControlId::ALL.iter().map(|control| rule(*control, scans));
    let driver = ToolComponent::builder()
        .name("Backstop")
        .version(env!("CARGO_PKG_VERSION"))
        .semantic_version(env!("CARGO_PKG_VERSION"))
        .information_uri(env!("CARGO_PKG_REPOSITORY"))
        .rules(rules.collect::<Vec<_>>())
        .build();
    let results: Vec<Outcome> = scans
        .iter()
        .flat_map(|scanned| scanned.found.iter().map(|of| outcome(of, scanned)))
        .collect();
    // What a scan could not see is not closed: whoever reads the log must know that
    // it is not all there is.
    let unseen = scans.iter().flat_map(|scanned| {
        let region = scanned.region.as_str();
        scanned.unseen.iter().map(move |problem| (region, problem))
    });
    let is_complete = scans.iter().all(|scanned| scanned.unseen.is_empty());
    let unseen = unseen.map(|(region, problem)| {
        let message = Message::builder()
            .text(format!("Region {region}: {problem}"))
            .build();
        let level = json!("error");
        Notification::builder()
            .message(message)
            .level(level)
            .build()
    });
    let invocation = Invocation::builder()
        .execution_successful(is_complete)
        .tool_execution_notifications(unseen.collect::<Vec<_>>())
        .build();
    let run = Run::builder()
        .tool(Tool::builder().driver(driver).build())
        .invocations(vec![invocation])
        .results(results)
        .build();
    Sarif::builder()
        .schema("https://json.schemastore.org/sarif-2.1.0.json")
        .version(json!("2.1.0"))
        .runs(vec![run])
        .build()
}

fn rule(control: ControlId, scans: &[Scanned]) -> ReportingDescriptor {
    let text = |text: String| MultiformatMessageString::builder().text(text).build();
    let (title, why) = (control.title(), explain(control).map_or("", |of| of.why));
    let found = scans.iter().flat_map(|scanned| &scanned.found);
    let of_rule = found.filter(|of| of.control == control);
    let worst = of_rule.map(|of| of.severity).max();
    let properties = PropertyBag::builder()
        .tags(vec!["security".to_owned(), "aws".to_owned()])
        .additional_properties(BTreeMap::from([(
            "security-severity".to_owned(),
            json!(score(worst.unwrap_or(Severity::Medium))),
        )]))
        .build();
    ReportingDescriptor::builder()
        .id(control.name())
        .name(control.name())
        .short_description(text(title.to_owned()))
        .full_description(text(format!("{title}. {why}")))
        .help(text(format!(
            "{why} What is changed, how to opt out and how to undo: backstop explain {control}"
        )))
        .help_uri(HELP)
        .properties(properties)
        .build()
}

/// A severity as GitHub orders alerts: above 9.0 is critical, 7.0 to 8.9 high, 4.0 to
/// 6.9 medium, below that low (its documentation, `security-severity`).
fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "9.5",
        Severity::High => "8.0",
        Severity::Medium => "5.5",
        Severity::Low => "2.0",
    }
}

fn outcome(found: &Found, scanned: &Scanned) -> Outcome {
    let place = LogicalLocation::builder()
        .fully_qualified_name(&found.resource)
        .name(&found.id)
        .kind("resource")
        .build();
    let uri = format!("aws/{}/{}/{}", scanned.account, scanned.region, found.id);
    let physical = PhysicalLocation::builder()
        .artifact_location(ArtifactLocation::builder().uri(uri).build())
        .region(Region::builder().start_line(1).build())
        .build();
    let location = Location::builder()
        .physical_location(physical)
        .logical_locations(vec![place])
        .build();
    let mut prints: BTreeMap<String, String> = found
        .fingerprints
        .iter()
        .enumerate()
        .map(|(n, print)| (format!("backstop/{n}"), print.clone()))
        .collect();
    // The only one that GitHub reads.
    prints.insert(
        "primaryLocationLineHash".to_owned(),
        format!("{}/{}:1", found.control, found.id),
    );
    let suppressed = Suppression::builder()
        .kind(json!("external"))
        .justification("opted out")
        .build();
    let suppressions = if found.opted_out {
        vec![suppressed]
    } else {
        Vec::new()
    };
    Outcome::builder()
        .rule_id(found.control.name())
        .level(match found.severity {
            Severity::Critical | Severity::High => ResultLevel::Error,
            Severity::Medium => ResultLevel::Warning,
            Severity::Low => ResultLevel::Note,
        })
        .message(
            Message::builder()
                .text(format!(
                    "{}: {}; {}",
                    format!("{} {}", found.id, found.name).trim_end(),
                    found.what().join("; "),
                    found.state
                ))
                .build(),
        )
        .locations(vec![location])
        .partial_fingerprints(prints)
        // Empty says that it is not suppressed; without it nobody has said so.
        .suppressions(suppressions)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::scan::{FoundPatching, FoundVolume};

    /// That a log is SARIF, by the schema of OASIS, and what GitHub's documentation
    /// asks of it ("SARIF support for code scanning").
    #[track_caller]
    fn github_takes(log: &serde_json::Value) {
        let schema = include_str!("../tests/sarif-schema-2.1.0.json");
        let mut schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        // Its pattern for that has a bracket that closes nothing; no log here names a language.
        for of in ["run", "toolComponent"] {
            let fields = &mut schema["definitions"][of]["properties"];
            fields.as_object_mut().unwrap().remove("language");
        }
        if let Err(fault) = jsonschema::validate(&schema, log) {
            panic!("{}: {fault}", fault.instance_path());
        }
        assert!(log["$schema"].as_str().unwrap().contains("sarif-2.1.0"));
        assert_eq!(log["version"], "2.1.0");
        for run in log["runs"].as_array().unwrap() {
            let driver = &run["tool"]["driver"];
            assert!(driver["name"].is_string());
            let rules = driver["rules"].as_array().unwrap();
            for rule in rules {
                for text in ["shortDescription", "fullDescription", "help"] {
                    let text = rule[text]["text"].as_str().unwrap();
                    assert!((1..=1024).contains(&text.len()), "{text}");
                }
                assert!(rule["helpUri"].as_str().unwrap().starts_with("https://"));
                let score = rule["properties"]["security-severity"].as_str().unwrap();
                let score: f64 = score.parse().unwrap();
                assert!(score > 0.0 && score <= 10.0);
            }
            for result in run["results"].as_array().unwrap() {
                let id = &result["ruleId"];
                assert!(rules.iter().any(|rule| rule["id"] == *id), "{id}");
                assert!(result["message"]["text"].is_string());
                let location = &result["locations"][0]["physicalLocation"];
                let uri = location["artifactLocation"]["uri"].as_str().unwrap();
                assert!(!uri.contains(':') && !uri.starts_with('/'), "{uri}");
                assert_eq!(location["region"]["startLine"], 1);
                assert!(result["partialFingerprints"]["primaryLocationLineHash"].is_string());
            }
        }
    }

    #[test]
    fn what_is_opted_out_is_suppressed_and_a_partial_scan_says_so() {
        let found = |opted_out| Found {
            control: ControlId::PublicImage,
            severity: Severity::High,
            resource: "arn:aws:ec2:eu-central-1::image/ami-1".into(),
            id: "ami-1".into(),
            name: String::new(),
            open: Vec::new(),
            volumes: Vec::new(),
            patching: None,
            fingerprints: vec!["f".into()],
            state: "in words".into(),
            opted_out,
        };
        let mut scanned = Scanned {
            region: "eu-central-1".into(),
            found: vec![found(true), found(false)],
            ..Scanned::default()
        };
        let run = |scanned: &Scanned| {
            let log = serde_json::to_value(sarif(std::slice::from_ref(scanned))).unwrap();
            github_takes(&log);
            log["runs"][0].clone()
        };
        let whole = run(&scanned);
        assert_eq!(whole["invocations"][0]["executionSuccessful"], true);
        let results = &whole["results"];
        assert_eq!(results[0]["suppressions"][0]["kind"], "external");
        assert_eq!(results[1]["suppressions"], json!([]));
        scanned.unseen.push("volumes: denied".into());
        let partial = run(&scanned);
        let invocation = &partial["invocations"][0];
        assert_eq!(invocation["executionSuccessful"], false);
        let said = &invocation["toolExecutionNotifications"][0]["message"]["text"];
        assert_eq!(said, "Region eu-central-1: volumes: denied");
    }

    #[test]
    fn every_control_has_a_rule_and_a_unit_is_told_with_its_volumes() {
        let volume = |id: &str, device: Option<&str>| FoundVolume {
            id: id.into(),
            name: String::new(),
            size_gib: 8,
            volume_type: "gp3".into(),
            device: device.map(str::to_owned),
            opted_out: device.is_none(),
        };
        let scanned = Scanned {
            found: vec![Found {
                control: ControlId::UnencryptedVolume,
                severity: Severity::High,
                resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-1".into(),
                id: "i-1".into(),
                name: String::new(),
                open: Vec::new(),
                volumes: vec![volume("vol-1", Some("/dev/xvda")), volume("vol-2", None)],
                patching: None,
                fingerprints: vec!["f".into(), "g".into()],
                state: "would be left: opted out".into(),
                opted_out: true,
            }],
            ..Scanned::default()
        };
        let log = serde_json::to_value(sarif(std::slice::from_ref(&scanned))).unwrap();
        let run = &log["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        let rules: Vec<&str> = rules.iter().map(|r| r["id"].as_str().unwrap()).collect();
        assert_eq!(
            rules,
            [
                "open-ingress",
                "unencrypted-volume",
                "encryption-by-default",
                "vulnerable-package",
                "missing-patches",
                "unmanaged-instance",
                "public-snapshot",
                "public-image",
                "snapshot-sharing-block",
                "metadata-defaults",
                "serial-console",
                "default-security-group",
                "image-sharing-block",
                "public-subnet",
                "imdsv1",
            ]
        );
        let result = &run["results"][0];
        assert_eq!(result["ruleId"], "unencrypted-volume");
        assert_eq!(
            result["message"]["text"],
            "i-1: vol-1, 8 GiB gp3, /dev/xvda; vol-2, 8 GiB gp3, attached nowhere, opted out; would be left: opted out"
        );
        assert_eq!(result["partialFingerprints"]["backstop/1"], "g");
    }

    #[test]
    fn an_instance_is_told_with_what_it_lacks_and_low_is_a_note() {
        let found = |control, severity, patching| Found {
            control,
            severity,
            resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-1".into(),
            id: "i-1".into(),
            name: "web-1".into(),
            open: Vec::new(),
            volumes: Vec::new(),
            patching: Some(patching),
            fingerprints: vec!["f".into()],
            state: "would be remediated".into(),
            opted_out: false,
        };
        let missing = FoundPatching {
            missing: Some(3),
            cves: vec!["CVE-2026-1000".into()],
            ..FoundPatching::default()
        };
        let unmanaged = FoundPatching {
            lacks: vec!["role: it has none".into()],
            ..FoundPatching::default()
        };
        let scanned = Scanned {
            found: vec![
                found(ControlId::MissingPatches, Severity::Low, missing),
                found(ControlId::UnmanagedInstance, Severity::Medium, unmanaged),
            ],
            ..Scanned::default()
        };
        let log = serde_json::to_value(sarif(std::slice::from_ref(&scanned))).unwrap();
        let results = log["runs"][0]["results"].as_array().unwrap();
        let of = |n: usize, field: &str| results[n][field].as_str().unwrap();
        assert_eq!([of(0, "level"), of(1, "level")], ["note", "warning"]);
        assert_eq!(of(1, "ruleId"), "unmanaged-instance");
        let text = |n: usize| results[n]["message"]["text"].as_str().unwrap();
        assert_eq!(
            text(0),
            "i-1 web-1: 3 approved patches missing; CVE-2026-1000: fixed by a patch; would be remediated"
        );
        assert_eq!(text(1), "i-1 web-1: role: it has none; would be remediated");
    }

    #[test]
    fn a_result_names_its_rule_its_resource_and_its_fingerprint() {
        let scanned = Scanned {
            found: vec![Found {
                control: ControlId::OpenIngress,
                severity: Severity::Critical,
                resource: "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-1".into(),
                id: "sg-1".into(),
                name: "web".into(),
                open: vec!["tcp 22 from 0.0.0.0/0".into()],
                volumes: Vec::new(),
                patching: None,
                fingerprints: vec!["f".into()],
                state: "would be remediated".into(),
                opted_out: false,
            }],
            ..Scanned::default()
        };
        let log = serde_json::to_value(sarif(std::slice::from_ref(&scanned))).unwrap();
        assert_eq!(log["version"], "2.1.0");
        github_takes(&log);
        let run = &log["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "open-ingress");
        let result = &run["results"][0];
        assert_eq!(result["ruleId"], "open-ingress");
        assert_eq!(result["level"], "error");
        let place = &result["locations"][0]["logicalLocations"][0];
        assert!(
            place["fullyQualifiedName"]
                .as_str()
                .unwrap()
                .ends_with("sg-1")
        );
        assert_eq!(result["partialFingerprints"]["backstop/0"], "f");
        assert!(
            result["message"]["text"]
                .as_str()
                .unwrap()
                .contains("tcp 22 from 0.0.0.0/0")
        );
    }
}
