//! A scan as SARIF 2.1.0, which code-scanning dashboards read. There are no
//! files: a result's place is the resource, by its ARN.

use std::collections::BTreeMap;

use backstop_core::words::{ControlId, Severity};
use serde_sarif::sarif::{
    Location, LogicalLocation, Message, MultiformatMessageString, ReportingDescriptor,
    Result as Outcome, ResultLevel, Run, Sarif, Tool, ToolComponent,
};

use crate::commands::scan::{Found, Scanned};

/// The log of a scan.
pub(crate) fn sarif(scanned: &Scanned) -> Sarif {
    let rules: Vec<ReportingDescriptor> = ControlId::ALL
        .iter()
        .map(|control| {
            ReportingDescriptor::builder()
                .id(control.name())
                .short_description(
                    MultiformatMessageString::builder()
                        .text(control.title())
                        .build(),
                )
                .build()
        })
        .collect();
    let driver = ToolComponent::builder()
        .name("Backstop")
        .version(env!("CARGO_PKG_VERSION"))
        .rules(rules)
        .build();
    let results: Vec<Outcome> = scanned.found.iter().map(outcome).collect();
    let run = Run::builder()
        .tool(Tool::builder().driver(driver).build())
        .results(results)
        .build();
    Sarif::builder()
        .schema("https://json.schemastore.org/sarif-2.1.0.json")
        .version(serde_json::json!("2.1.0"))
        .runs(vec![run])
        .build()
}

fn outcome(found: &Found) -> Outcome {
    let place = LogicalLocation::builder()
        .fully_qualified_name(&found.resource)
        .name(&found.id)
        .kind("resource")
        .build();
    let location = Location::builder().logical_locations(vec![place]).build();
    let prints: BTreeMap<String, String> = found
        .fingerprints
        .iter()
        .enumerate()
        .map(|(n, print)| (format!("backstop/{n}"), print.clone()))
        .collect();
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
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::scan::{FoundPatching, FoundVolume};

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
            }],
            ..Scanned::default()
        };
        let log = serde_json::to_value(sarif(&scanned)).unwrap();
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
            state: "would be put right".into(),
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
        let log = serde_json::to_value(sarif(&scanned)).unwrap();
        let results = log["runs"][0]["results"].as_array().unwrap();
        let of = |n: usize, field: &str| results[n][field].as_str().unwrap();
        assert_eq!([of(0, "level"), of(1, "level")], ["note", "warning"]);
        assert_eq!(of(1, "ruleId"), "unmanaged-instance");
        let text = |n: usize| results[n]["message"]["text"].as_str().unwrap();
        assert_eq!(
            text(0),
            "i-1 web-1: 3 approved patches missing; CVE-2026-1000: mended by a patch; would be put right"
        );
        assert_eq!(text(1), "i-1 web-1: role: it has none; would be put right");
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
                state: "would be put right".into(),
            }],
            ..Scanned::default()
        };
        let log = serde_json::to_value(sarif(&scanned)).unwrap();
        assert_eq!(log["version"], "2.1.0");
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
