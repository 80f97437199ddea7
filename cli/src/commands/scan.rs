//! `backstop scan`: what would be found in this account now. Reads only, and
//! needs no stack.
//!
//! Groups come in pages, as for the sweep; those that look open are read
//! closely, and decided about by the code that the functions decide with. What
//! cannot be read is said, and loses nothing else. Volumes and the account's
//! setting: `volumes`; patches of instances: `instances`.

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use backstop_aws::group_pages::walk;
use backstop_aws::security_groups::gather;
use backstop_core::controls::open_ingress::{self, Circumstances, Decision, Verdict};
use backstop_core::guards::Guards;
use backstop_core::message::one_line;
use backstop_core::plan::Disposition;
use backstop_core::policy::Policy;
use backstop_core::security_group::{Facts, SecurityGroup};
use backstop_core::sweep::reason;
use backstop_core::words::{Control, Severity};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::Problem;
use crate::context::{Aws, Context};
use crate::judging::{Basis, Judging};
use crate::sarif::sarif;
use crate::table::{bad, doubtful, table};

/// How a scan is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For code-scanning dashboards
    Sarif,
}

/// From which severity on a scan fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Whatever is found
    #[default]
    Any,
    /// From medium on
    Medium,
    /// From high on
    High,
    /// Only critical
    Critical,
}

/// Shows what would be found in this account now; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Scan {
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// From which severity on the exit code is 1
    #[arg(long, value_enum, default_value_t)]
    fail_on: FailOn,
    #[command(flatten)]
    judging: Judging,
}

/// What a scan came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Scanned {
    /// The account.
    pub(crate) account: String,
    /// The Region.
    pub(crate) region: String,
    /// Security groups looked at.
    pub(crate) looked_at: u64,
    /// Unencrypted volumes looked at.
    pub(crate) unencrypted_volumes: u64,
    /// How many of them are kept and no finding: originals that were replaced.
    pub(crate) kept_volumes: u64,
    /// Running instances whose patches were looked at.
    pub(crate) instances: u64,
    /// What was found.
    pub(crate) found: Vec<Found>,
    /// What could not be seen, a sentence each.
    pub(crate) unseen: Vec<String>,
}

/// One resource that violates a control.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    /// The control.
    pub(crate) control: Control,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// The resource's ARN.
    pub(crate) resource: String,
    /// Its id.
    pub(crate) id: String,
    /// Its name; empty where none is known.
    pub(crate) name: String,
    /// What is open to whom, a line for each rule.
    pub(crate) open: Vec<String>,
    /// The unencrypted volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<FoundVolume>,
    /// What is the matter with an instance's patches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) patching: Option<FoundPatching>,
    /// Fingerprints of what is found.
    pub(crate) fingerprints: Vec<String>,
    /// What Backstop would do about it.
    pub(crate) state: String,
}

/// An unencrypted volume.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FoundVolume {
    /// Its id.
    pub(crate) id: String,
    /// Its name; empty where it has none.
    pub(crate) name: String,
    /// Size in GiB.
    pub(crate) size_gib: i32,
    /// `gp3`, `io2`, …
    pub(crate) volume_type: String,
    /// The device that it is attached as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// Whether a tag keeps it as it is: its own, or its instance's.
    pub(crate) opted_out: bool,
}

/// What is the matter with an instance's patches.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct FoundPatching {
    /// Approved patches that are not installed; none: it was never scanned, or
    /// Systems Manager does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<u32>,
    /// Patches that failed to install.
    pub(crate) failed: u32,
    /// Whether it is managed and online, and was never scanned.
    pub(crate) never_scanned: bool,
    /// What Inspector reported and a patch of the operating system mends, by
    /// CVE.
    pub(crate) cves: Vec<String>,
    /// What it reported and none mends, by CVE, or by title where there is none.
    pub(crate) only_told: Vec<String>,
    /// What it lacks to be managed by Systems Manager, a sentence each.
    pub(crate) lacks: Vec<String>,
}

impl Found {
    /// What is found, in lines.
    pub(crate) fn what(&self) -> Vec<String> {
        match self.control {
            Control::OpenIngress => self.open.clone(),
            Control::UnencryptedVolume => self.volumes.iter().map(ToString::to_string).collect(),
            Control::EncryptionByDefault => {
                vec!["new volumes are encrypted only where that is asked for".to_owned()]
            }
            Control::VulnerablePackage | Control::MissingPatches | Control::UnmanagedInstance => {
                let patching = self.patching.iter();
                patching.flat_map(FoundPatching::lines).collect()
            }
        }
    }
}

impl FoundPatching {
    /// What is the matter, in lines.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match (self.missing.unwrap_or_default(), self.failed) {
            (0, 0) if self.never_scanned => {
                lines.push("never scanned for missing patches".to_owned());
            }
            (0, 0) => {}
            (missing, 0) => lines.push(format!("{missing} approved patches missing")),
            (missing, failed) => lines.push(format!(
                "{missing} approved patches missing, {failed} failed to install"
            )),
        }
        if !self.cves.is_empty() {
            lines.push(format!("{}: mended by a patch", few(&self.cves)));
        }
        if !self.only_told.is_empty() {
            let names = few(&self.only_told);
            lines.push(format!("{names}: no patch of the operating system"));
        }
        let lacks = self.lacks.iter();
        lines.extend(lacks.map(|lack| one_line(lack, 300)));
        lines
    }
}

/// The first few names, and how many more there are.
pub(super) fn few(names: &[String]) -> String {
    const FEW: usize = 5;
    let first: Vec<String> = names.iter().take(FEW).map(|n| one_line(n, 80)).collect();
    match names.len().saturating_sub(FEW) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl fmt::Display for FoundVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if !self.name.is_empty() {
            write!(f, " ({})", one_line(&self.name, 60))?;
        }
        write!(f, ", {} GiB {}, ", self.size_gib, self.volume_type)?;
        f.write_str(self.device.as_deref().unwrap_or("attached nowhere"))?;
        match self.opted_out {
            true => f.write_str(", opted out"),
            false => Ok(()),
        }
    }
}

impl Scan {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let account = aws.account().await?;
        let Basis { policy, ledger } = self.judging.basis(context, &aws).await?;
        let mut scanned = Scanned {
            account,
            region: aws.region.clone(),
            ..Scanned::default()
        };
        let progress = progress();
        let walked = walk(&aws.clients.ec2, &aws.region, &aws.deadline, async |page| {
            scanned.looked_at += page.len() as u64;
            for group in page {
                self.look_at(&group, &aws, &policy, &mut scanned).await;
            }
            progress.set_position(scanned.looked_at);
            progress.set_message(format!("{} found", scanned.found.len()));
        })
        .await;
        progress.finish_and_clear();
        match walked {
            Ok(walked) => scanned.unseen.extend(walked.unseen),
            Err(stopped) => {
                let problem = format!("{}: {stopped}", Control::OpenIngress);
                scanned.unseen.push(problem);
            }
        }
        let mode = self.judging.mode();
        volumes::look(&aws, &policy, mode, &mut scanned).await;
        volumes::look_at_setting(&aws, &policy, mode, &mut scanned).await;
        instances::look(&aws, &policy, mode, ledger.as_ref(), &mut scanned).await;
        scanned
            .found
            .sort_by(|a, b| b.severity.cmp(&a.severity).then(a.id.cmp(&b.id)));
        self.print(&scanned)
    }

    /// Looks at a group as its page shows it, and closely if it looks open.
    async fn look_at(
        &self,
        group: &SecurityGroup,
        aws: &Aws,
        policy: &Policy,
        scanned: &mut Scanned,
    ) {
        let circumstances = Circumstances {
            mode: self.judging.mode(),
            account: &scanned.account,
            now: aws.clients.clock.now(),
            guards: &Guards::default(),
        };
        let facts = Facts::Group(Box::new(group.clone()));
        let decision = open_ingress::decide(&facts, &policy.open_ingress(), &circumstances);
        if !matches!(decision.verdict, Verdict::Violates(_)) {
            return;
        }
        match gather(&aws.clients.ec2, &group.id, &aws.region, &aws.deadline).await {
            Ok(facts) => {
                let decision = open_ingress::decide(&facts, &policy.open_ingress(), &circumstances);
                scanned.found.extend(found(&facts, &decision));
            }
            // Told as the page shows it, without what only a closer look tells.
            Err(error) => {
                scanned.found.extend(found(&facts, &decision));
                scanned.unseen.push(format!("{}: {error}", group.id));
            }
        }
    }

    fn print(&self, scanned: &Scanned) -> Result<ExitCode, Problem> {
        for problem in &scanned.unseen {
            eprintln!("backstop: not seen: {}", one_line(problem, 500));
        }
        match self.format {
            Format::Table => print_table(scanned),
            Format::Json => println!("{}", json!(scanned)),
            Format::Sarif => {
                let sarif = serde_json::to_string_pretty(&sarif(scanned))
                    .map_err(|error| Problem(format!("the SARIF log: {error}")))?;
                println!("{sarif}");
            }
        }
        Ok(ExitCode::from(self.fail_on.code(scanned)))
    }
}

impl FailOn {
    /// The exit code of a scan.
    fn code(self, scanned: &Scanned) -> u8 {
        let least = match self {
            Self::Any => Severity::Low,
            Self::Medium => Severity::Medium,
            Self::High => Severity::High,
            Self::Critical => Severity::Critical,
        };
        let fails = scanned.found.iter().any(|found| found.severity >= least);
        match (scanned.unseen.is_empty(), fails) {
            (false, _) => 2,
            (true, true) => 1,
            (true, false) => 0,
        }
    }
}

fn found(facts: &Facts, decision: &Decision) -> Option<Found> {
    let (Facts::Group(group), Verdict::Violates(finding)) = (facts, &decision.verdict) else {
        return None;
    };
    let open = finding.exposures.iter();
    Some(Found {
        control: Control::OpenIngress,
        severity: finding.severity,
        resource: group.arn.clone(),
        id: group.id.clone(),
        name: group.name.clone(),
        open: open
            .clone()
            .map(|e| format!("{} from {}", e.exposed.join(", "), e.rule.source))
            .collect(),
        volumes: Vec::new(),
        patching: None,
        fingerprints: open.map(|e| e.fingerprint.clone()).collect(),
        state: match reason(decision) {
            Some(why) if !enforced(decision) => format!("would be left: {why}"),
            _ => "would be put right".to_owned(),
        },
    })
}

fn enforced(decision: &Decision) -> bool {
    let plan = decision.plan.as_ref();
    plan.is_some_and(|plan| plan.disposition == Disposition::Enforce)
}

/// On a terminal, on standard error: the results may go elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} security groups, {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

fn print_table(scanned: &Scanned) {
    if !scanned.found.is_empty() {
        let mut table = table(&["severity", "resource", "name", "what", "Backstop"]);
        for found in &scanned.found {
            let severity = found.severity.to_string();
            table.add_row(vec![
                match found.severity {
                    Severity::Critical => bad(&severity),
                    _ => doubtful(&severity),
                },
                (&found.id).into(),
                one_line(&found.name, 60).into(),
                found.what().join("\n").into(),
                (&found.state).into(),
            ]);
        }
        println!("{table}");
    }
    let open = scanned
        .found
        .iter()
        .filter(|found| found.control == Control::OpenIngress);
    println!(
        "{} of {} security groups in {} of {} are too open",
        open.count(),
        scanned.looked_at,
        scanned.region,
        scanned.account
    );
    let unpatched = scanned.found.iter();
    let unpatched = unpatched.filter(|found| Control::PATCHING.contains(&found.control));
    println!(
        "{} of {} running instances have known holes, lack patches, or are not managed",
        unpatched.count(),
        scanned.instances
    );
    println!(
        "{} volumes are unencrypted, {} of them kept after they were replaced",
        scanned.unencrypted_volumes, scanned.kept_volumes
    );
}

mod instances;
mod volumes;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(severity: Severity) -> Found {
        Found {
            control: Control::VulnerablePackage,
            severity,
            resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-1".into(),
            id: "i-1".into(),
            name: String::new(),
            open: Vec::new(),
            volumes: Vec::new(),
            patching: Some(FoundPatching::default()),
            fingerprints: Vec::new(),
            state: "would be put right".into(),
        }
    }

    #[test]
    fn a_scan_fails_from_the_severity_on_that_was_asked_for_and_by_what_it_did_not_see() {
        use Severity::{Critical, High, Low, Medium};
        for (fail_on, from) in [
            (FailOn::Any, Low),
            (FailOn::Medium, Medium),
            (FailOn::High, High),
            (FailOn::Critical, Critical),
        ] {
            assert_eq!(fail_on.code(&Scanned::default()), 0, "nothing is found");
            for severity in [Low, Medium, High, Critical] {
                let mut scanned = Scanned {
                    found: vec![found(severity)],
                    ..Scanned::default()
                };
                let fails = u8::from(severity >= from);
                assert_eq!(fail_on.code(&scanned), fails, "{fail_on:?} {severity}");
                scanned.unseen.push("something".into());
                assert_eq!(fail_on.code(&scanned), 2, "not all is seen");
            }
        }
    }

    #[test]
    fn many_cves_are_named_in_part_and_counted() {
        let cves = |n: usize| (1..=n).map(|n| format!("CVE-2026-{n}")).collect();
        let patching = FoundPatching {
            missing: Some(0),
            cves: cves(7),
            only_told: cves(1),
            ..FoundPatching::default()
        };
        assert_eq!(
            patching.lines(),
            [
                "CVE-2026-1, CVE-2026-2, CVE-2026-3, CVE-2026-4, CVE-2026-5 and 2 more: mended by a patch",
                "CVE-2026-1: no patch of the operating system",
            ]
        );
    }
}
