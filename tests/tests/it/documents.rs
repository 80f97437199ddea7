//! The documents held to what they promise: a README that is read whole, links that
//! lead somewhere, and pages that agree with the code.
//!
//! Deliberately not here: the README's table of controls and the service control
//! policy (`template`).

use std::collections::BTreeSet;
use std::path::Path;

use backstop_core::explain::explain;
use backstop_core::words::ControlId;
use backstop_tests::iam;
use backstop_tests::template::{actions_of, entries, read, resources, root, template};
use serde_json::Value;

/// Every document of the repository, by its path from the root.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "docs/", "events/"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The lines of a document that are in no block of code.
fn prose(text: &str) -> Vec<&str> {
    let mut code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            lines.push(line);
        }
    }
    lines
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|of| of.is_alphanumeric() || matches!(*of, '-' | '_' | ' '));
        kept.map(|of| if of == ' ' { '-' } else { of }).collect()
    };
    headings.map(anchor).collect()
}

/// Whether a link in a document leads to something that is there.
fn leads(document: &str, link: &str) -> bool {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => root().join(document),
        path => {
            let folder = Path::new(document).parent().unwrap();
            root().join(folder).join(path)
        }
    };
    if heading.is_empty() {
        return target.exists();
    }
    std::fs::read_to_string(target).is_ok_and(|text| anchors(&text).contains(heading))
}

#[test]
fn every_link_between_documents_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for line in prose(&text) {
            for part in line.split("](").skip(1) {
                let (link, _) = part.split_once(')').unwrap();
                if link.contains("://") {
                    continue;
                }
                links += 1;
                if !leads(&document, link) {
                    broken.push(format!("{document}: {link}"));
                }
            }
        }
    }
    assert!(links > 50, "{links}");
    assert!(broken.is_empty(), "{broken:#?}");

    assert!(leads("docs/deploy.md", "../README.md#controls"));
    for link in ["nowhere.md", "#nowhere", "policy.md#nowhere"] {
        assert!(!leads("docs/deploy.md", link), "{link}");
    }
}

/// Where a log of a scan says that its rules are explained.
#[test]
fn the_help_of_a_scans_rules_is_in_the_repository() {
    let source = read("cli/src/sarif.rs");
    let (_, link) = source.split_once("\"/blob/main/").unwrap();
    let (link, _) = link.split_once('"').unwrap();
    assert!(leads("README.md", link), "{link}");
}

#[test]
fn the_readme_is_short_and_leads_to_the_two_commands_and_to_every_page() {
    let readme = read("README.md");
    assert!(readme.len() <= 10_000, "{} bytes", readme.len());
    for command in ["\nscripts/demo ", "\nscripts/test "] {
        assert!(readme.contains(command), "{command}");
    }
    for document in documents() {
        let of_contributors = document == "README.md" || document.starts_with("events/");
        let link = format!("]({document})");
        assert!(of_contributors || readme.contains(&link), "{document}");
    }
}

/// The numbers in a row's cells after the first, emphasis aside.
fn numbers(row: &str) -> Vec<f64> {
    let cells = row.trim_matches('|').split('|').skip(1);
    let number = |cell: &str| cell.trim().trim_matches('*').parse().ok();
    cells.filter_map(number).collect()
}

fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.001
}

#[test]
fn the_page_on_cost_counts_what_the_template_has_and_adds_it_up() {
    let page = read("docs/cost.md");
    let row = |start: &str| {
        let mut rows = page.lines().filter(|line| line.starts_with(start));
        numbers(rows.next().unwrap_or_else(|| panic!("{start}")))
    };
    let alarms = resources("AWS::CloudWatch::Alarm").len();
    assert!(page.contains(&format!(" {alarms} alarms")), "{alarms}");
    let counts = [
        ("| KMS key", resources("AWS::KMS::Key").len()),
        ("| alarms", alarms),
        ("| dashboard", resources("AWS::CloudWatch::Dashboard").len()),
        ("| custom metrics", alone().len()),
    ];
    let mut always = 0.0;
    for (start, count) in counts {
        let [said, each, month] = row(start)[..] else {
            panic!("{start}: three numbers");
        };
        assert!(is_near(said, count as f64), "{start}: {said}, not {count}");
        assert!(is_near(month, said * each), "{start}: {said} at {each}");
        always += month;
    }
    assert!(is_near(row("| **together**")[0], always), "{always}");
    for metric in alone() {
        assert!(page.contains(&format!("`{metric}`")), "{metric}");
    }

    let mut columns = page.split("| | small | large |").nth(1).unwrap().lines();
    let mut sums = [0.0, 0.0];
    let said = columns.by_ref().skip(2).find_map(|line| {
        let of = numbers(line);
        if line.starts_with("| **a Region**") {
            return Some(of);
        }
        sums[0] += of[0];
        sums[1] += of[1];
        None
    });
    let said = said.unwrap();
    assert!(
        is_near(said[0], sums[0]) && is_near(said[1], sums[1]),
        "{sums:?}"
    );
    let everywhere = row("| **17 Regions**");
    for (everywhere, one) in everywhere.iter().zip(&said) {
        assert!(is_near(*everywhere, one + 16.0 * always), "{one}");
    }
}

/// The metrics that have no dimension, so that they always have a value: the fields of
/// such a struct in the code, as CloudWatch calls them.
fn alone() -> Vec<String> {
    let source = read("shared/aws/src/metrics.rs");
    let structs = source.split("dimension_sets = [[]]").skip(1);
    let fields = structs.flat_map(|of| {
        let body = of.split("\n}").next().unwrap().to_owned();
        let names = body
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pub "));
        let names = names.filter_map(|line| line.split_once(": u64"));
        names.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    });
    let camel = |name: String| {
        let words = name
            .split('_')
            .map(|word| word[..1].to_uppercase() + &word[1..]);
        words.collect::<String>()
    };
    fields.map(camel).collect()
}

/// What CloudFormation asks of whoever deploys, to make and to delete a resource of
/// each type that the template has, or that SAM makes of it.
const DEPLOYING: &[(&str, &[&str])] = &[
    (
        "AWS::CloudWatch::Alarm",
        &["cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms"],
    ),
    (
        "AWS::CloudWatch::Dashboard",
        &["cloudwatch:PutDashboard", "cloudwatch:DeleteDashboards"],
    ),
    (
        "AWS::DynamoDB::Table",
        &[
            "dynamodb:CreateTable",
            "dynamodb:UpdateContinuousBackups",
            "dynamodb:UpdateTimeToLive",
        ],
    ),
    (
        "AWS::Events::Rule",
        &[
            "events:PutRule",
            "events:PutTargets",
            "events:RemoveTargets",
            "events:DeleteRule",
        ],
    ),
    (
        "AWS::IAM::Role",
        &[
            "iam:CreateRole",
            "iam:PutRolePolicy",
            "iam:PassRole",
            "iam:DeleteRolePolicy",
            "iam:DeleteRole",
        ],
    ),
    (
        "AWS::KMS::Key",
        &[
            "kms:CreateKey",
            "kms:EnableKeyRotation",
            "kms:ScheduleKeyDeletion",
        ],
    ),
    (
        "AWS::Logs::LogGroup",
        &[
            "logs:CreateLogGroup",
            "logs:PutRetentionPolicy",
            "logs:DeleteLogGroup",
        ],
    ),
    (
        "AWS::SNS::Subscription",
        &["sns:Subscribe", "sns:Unsubscribe"],
    ),
    ("AWS::SNS::Topic", &["sns:CreateTopic", "sns:DeleteTopic"]),
    ("AWS::SNS::TopicPolicy", &["sns:SetTopicAttributes"]),
    ("AWS::SQS::Queue", &["sqs:CreateQueue", "sqs:DeleteQueue"]),
    ("AWS::SQS::QueuePolicy", &["sqs:SetQueueAttributes"]),
    (
        "AWS::SSM::Parameter",
        &["ssm:PutParameter", "ssm:DeleteParameter"],
    ),
    (
        "AWS::Serverless::Function",
        &[
            "lambda:CreateFunction",
            "lambda:AddPermission",
            "lambda:CreateEventSourceMapping",
            "lambda:PutFunctionEventInvokeConfig",
            "lambda:UpdateFunctionCode",
            "lambda:RemovePermission",
            "lambda:DeleteEventSourceMapping",
            "lambda:DeleteFunctionEventInvokeConfig",
            "lambda:DeleteFunction",
        ],
    ),
    (
        "AWS::Serverless::StateMachine",
        &[
            "states:CreateStateMachine",
            "states:UpdateStateMachine",
            "states:DeleteStateMachine",
        ],
    ),
];

#[test]
fn the_rights_in_the_documents_are_policies_and_enough_to_deploy() {
    let folder = std::fs::read_dir(root().join("docs/rights")).unwrap();
    let mut policies: Vec<String> = folder
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    policies.sort_unstable();
    assert_eq!(policies, ["deployer.json", "operator.json", "reader.json"]);
    for policy in &policies {
        let path = format!("docs/rights/{policy}");
        // IAM's quota of a managed policy, white space aside.
        let size = read(&path).chars().filter(|c| !c.is_whitespace()).count();
        assert!(size <= 6_144, "{policy}: {size}");
        assert!(!actions_of(&path).is_empty(), "{policy}");
    }
    let allowed = actions_of("docs/rights/deployer.json");
    let used: BTreeSet<&str> = entries(&template()["Resources"])
        .map(|(_, resource)| resource["Type"].as_str().unwrap())
        .collect();
    let listed: BTreeSet<&str> = DEPLOYING.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(listed, used);
    for (kind, needed) in DEPLOYING {
        for action in *needed {
            let is_allowed = allowed.iter().any(|pattern| iam::is_like(pattern, action));
            assert!(is_allowed, "{kind}: {action}");
        }
    }
}

/// The row of a field of the policy, or of what it is a part of, and whether it is the
/// field's own.
fn row<'a>(sections: &[&'a str], field: &str) -> Option<(&'a str, bool)> {
    let mut path = field;
    loop {
        let start = format!("| `{path}` |");
        let mut rows = sections.iter().flat_map(|section| section.lines());
        if let Some(row) = rows.find(|row| row.starts_with(&start)) {
            return Some((row, path == field));
        }
        (path, _) = path.rsplit_once('.')?;
    }
}

#[test]
fn the_page_on_the_policy_has_every_field_of_every_control_with_its_default() {
    let page = read("docs/policy.md");
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let section = |of: &str| {
        let mut sections = sections.iter();
        let found = sections.find(|text| text.lines().next().is_some_and(|h| h.contains(of)));
        *found.unwrap_or_else(|| panic!("no section on {of}"))
    };
    let mut defaults = 0;
    for control in ControlId::ALL {
        let own = format!("controls.{control}.");
        let of_control = [section(&format!("`{control}`")), section("Every control")];
        let of_patching = [section("`patching`")];
        for field in explain(*control).unwrap().settings {
            let path = field.path.as_str();
            let (name, row) = match path.strip_prefix(&own) {
                // A control without settings.
                Some("settings") => continue,
                Some(name) => (name, row(&of_control, name)),
                None => {
                    let name = path.strip_prefix("patching.").unwrap();
                    (name, row(&of_patching, name))
                }
            };
            let (row, is_own) = row.unwrap_or_else(|| panic!("{control}: no row for {name}"));
            let default = match &field.default {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => field.default.to_string(),
                _ => continue,
            };
            if is_own {
                defaults += 1;
                let said = row.split('|').nth(2).unwrap().trim().replace('`', "");
                assert_eq!(said, default, "{control}: {row}");
            }
        }
    }
    assert!(defaults > 40, "{defaults}");
}
