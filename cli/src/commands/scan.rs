//! `backstop scan`: what would be found in this account now. Reads only, and
//! needs no stack.
//!
//! What is remediated at once is previewed by the engine, which decides with the
//! code that the functions decide with. What cannot be read is said, and loses
//! nothing else. Volumes: `volumes`; patches of instances: `instances`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use backstop_aws::remediation::Place;
use backstop_core::controls;
use backstop_core::message::one_line;
use backstop_core::preview::Preview;
use backstop_core::words::{ControlId, Severity};
use backstop_engine::{AT_ONCE, Previewed, Previewing, Progress, Served};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::Problem;
use crate::commands::explain::control;
use crate::context::{Context, Regions};
use crate::judging::Judging;
use crate::sarif::sarif;
use crate::table::{Page, bad, doubtful, named, table, terminal_width};

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
    /// Whatever is found, as `low`
    #[default]
    Any,
    /// From low on
    Low,
    /// From medium on
    Medium,
    /// From high on
    High,
    /// Only critical
    Critical,
    /// Nothing that is found
    None,
}

/// Shows what would be found in this account now; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Scan {
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// From which severity on the exit code is 1; what is opted out does not count
    #[arg(long, value_enum, default_value_t)]
    fail_on: FailOn,
    /// Only this control, by name; may be given several times
    #[arg(long)]
    control: Vec<String>,
    /// Writes to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<String>,
    #[command(flatten)]
    regions: Regions,
    #[command(flatten)]
    judging: Judging,
}

/// What a scan of a Region came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Scanned {
    /// The account.
    pub(crate) account: String,
    /// The Region.
    pub(crate) region: String,
    /// What was looked for.
    #[serde(skip)]
    pub(crate) controls: Vec<ControlId>,
    /// What was judged by, in words.
    pub(crate) judged_by: String,
    /// Resources of controls that are remediated at once, looked at.
    pub(crate) looked_at: u64,
    /// The same by control.
    pub(crate) looked_at_by_control: BTreeMap<ControlId, u64>,
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
    pub(crate) control: ControlId,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// The resource's ARN.
    pub(crate) resource: String,
    /// Its id.
    pub(crate) id: String,
    /// Its name; empty where none is known.
    pub(crate) name: String,
    /// What is wrong, a line for each item: of a rule what is open to whom.
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
    /// Whether all of it is opted out.
    pub(crate) opted_out: bool,
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
            ControlId::UnencryptedVolume => self.volumes.iter().map(ToString::to_string).collect(),
            ControlId::VulnerablePackage
            | ControlId::MissingPatches
            | ControlId::UnmanagedInstance => {
                let patching = self.patching.iter();
                patching.flat_map(FoundPatching::lines).collect()
            }
            _ => self.open.clone(),
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
            lines.push(format!("{}: fixed by a patch", few(&self.cves)));
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
        let names = self.control.iter();
        let only: Vec<ControlId> = names.map(|name| control(name)).collect::<Result<_, _>>()?;
        let mut scans = Vec::new();
        for context in self.regions.of(context).await? {
            let scanned = self.scan(&context, &only).await;
            scans.push(match scanned {
                // The other Regions are scanned all the same.
                Err(problem) if self.regions.all => Scanned {
                    region: context.region.unwrap_or_default(),
                    unseen: vec![problem.to_string()],
                    ..Scanned::default()
                },
                scanned => scanned?,
            });
        }
        self.print(&scans)
    }

    /// Scans one Region.
    async fn scan(&self, context: &Context, only: &[ControlId]) -> Result<Scanned, Problem> {
        let is_asked_for = |control: &ControlId| only.is_empty() || only.contains(control);
        let aws = context.aws().await?;
        let account = aws.account.clone();
        let basis = self.judging.basis(context, &aws).await?;
        let mut scanned = Scanned {
            account: account.clone(),
            region: aws.region.clone(),
            controls: ControlId::ALL
                .iter()
                .copied()
                .filter(is_asked_for)
                .collect(),
            judged_by: basis.by.clone(),
            ..Scanned::default()
        };
        let previewing = Previewing {
            clients: &aws.clients,
            policy: &basis.policy,
            mode: basis.mode,
            ledger: basis.ledger.as_ref(),
            place: Place {
                account: &account,
                region: &aws.region,
                deadline: &aws.deadline,
            },
        };
        let progress = progress();
        for served in AT_ONCE.iter().filter(|of| is_asked_for(&of.info().id)) {
            let (looked_at, found) = (scanned.looked_at, scanned.found.len());
            let mut tell = |seen: &Previewed| {
                progress.set_position(looked_at + seen.looked_at);
                progress.set_message(format!("{} found", found + seen.found.len()));
            };
            scanned.look(*served, &previewing, &mut tell).await;
        }
        progress.finish_and_clear();
        if is_asked_for(&ControlId::UnencryptedVolume) {
            volumes::look(&aws, &basis, &mut scanned).await;
        }
        if ControlId::PATCHING.iter().any(is_asked_for) {
            instances::look(&aws, &basis, &mut scanned).await;
        }
        scanned.found.retain(|found| is_asked_for(&found.control));
        scanned.sort();
        Ok(scanned)
    }

    fn print(&self, scans: &[Scanned]) -> Result<ExitCode, Problem> {
        for scanned in scans {
            let region = match self.regions.all {
                true => format!("{}: ", scanned.region),
                false => String::new(),
            };
            for problem in &scanned.unseen {
                eprintln!("backstop: {region}not seen: {}", one_line(problem, 500));
            }
        }
        let text = match self.format {
            Format::Table => {
                let is_file = self.output.is_some();
                let terminal = terminal_width().filter(|_| !is_file);
                let texts = scans.iter().map(|scanned| text(scanned, terminal));
                texts.collect::<Vec<_>>().join("\n")
            }
            Format::Json if self.regions.all => format!("{}\n", json!(scans)),
            Format::Json => scans.iter().map(|of| format!("{}\n", json!(of))).collect(),
            Format::Sarif => serde_json::to_string_pretty(&sarif(scans))
                .map(|sarif| sarif + "\n")
                .map_err(|error| Problem(format!("the SARIF log: {error}")))?,
        };
        match &self.output {
            Some(file) => std::fs::write(file, text)
                .map_err(|error| Problem(format!("{file} cannot be written: {error}")))?,
            None => print!("{text}"),
        }
        let codes = scans.iter().map(|scanned| self.fail_on.code(scanned));
        Ok(ExitCode::from(codes.max().unwrap_or_default()))
    }
}

impl FailOn {
    /// The exit code of a scan.
    fn code(self, scanned: &Scanned) -> u8 {
        let least = match self {
            Self::Any | Self::Low => Severity::Low,
            Self::Medium => Severity::Medium,
            Self::High => Severity::High,
            Self::Critical | Self::None => Severity::Critical,
        };
        let mut counted = scanned.found.iter().filter(|found| !found.opted_out);
        let fails = self != Self::None && counted.any(|found| found.severity >= least);
        match (scanned.unseen.is_empty(), fails) {
            (false, _) => 2,
            (true, true) => 1,
            (true, false) => 0,
        }
    }
}

impl Scanned {
    /// What is worst comes first.
    fn sort(&mut self) {
        self.found
            .sort_by(|a, b| b.severity.cmp(&a.severity).then(a.id.cmp(&b.id)));
    }

    /// How many resources of a control were found, and of how many.
    fn count(&self, control: ControlId, found: usize) -> String {
        if let Some(looked_at) = self.looked_at_by_control.get(&control) {
            let resource = controls::of(control).map(|of| of.info().phrases.resource);
            return format!("{found} of {looked_at} {}s", resource.unwrap_or("resource"));
        }
        if ControlId::PATCHING.contains(&control) {
            return format!("{found} of {} running instances", self.instances);
        }
        let volumes = match self.unencrypted_volumes {
            1 => "1 unencrypted volume".to_owned(),
            many => format!("{many} unencrypted volumes"),
        };
        match self.kept_volumes {
            0 => volumes,
            kept => format!("{volumes}, of which {kept} replaced by a copy and kept"),
        }
    }

    /// Looks at every resource of a control that is remediated at once.
    async fn look(
        &mut self,
        control: &dyn Served,
        previewing: &Previewing<'_>,
        progress: &mut Progress<'_>,
    ) {
        let seen = control.preview_all(previewing, progress).await;
        self.looked_at += seen.looked_at;
        self.looked_at_by_control
            .insert(control.info().id, seen.looked_at);
        self.found.extend(seen.found.into_iter().filter_map(found));
        self.unseen.extend(seen.unseen);
    }
}

fn found(preview: Preview) -> Option<Found> {
    let finding = preview.finding()?;
    let items = finding.items.iter();
    Some(Found {
        control: preview.control,
        severity: finding.severity,
        open: items.clone().map(|item| item.found.clone()).collect(),
        volumes: Vec::new(),
        patching: None,
        opted_out: finding.is_opted_out(),
        fingerprints: items.map(|i| i.exposure.fingerprint.clone()).collect(),
        state: match finding.left {
            Some(why) => format!("would be left: {why}"),
            None => "would be remediated".to_owned(),
        },
        resource: preview.arn,
        id: preview.id,
        name: preview.name,
    })
}

/// On a terminal, on standard error: the results may go elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} resources, {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

/// A scan, for people, as it fits a terminal of so many columns.
fn text(scanned: &Scanned, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    if scanned.judged_by.is_empty() {
        page.line(&format!("Region {}: not scanned", scanned.region));
        return page.into_text();
    }
    page.line(&scanned.judged_by);
    page.blank();
    if !scanned.found.is_empty() {
        let mut rows = table(&["severity", "control", "resource", "what", "Backstop"]);
        for found in &scanned.found {
            let severity = found.severity.to_string();
            rows.add_row(vec![
                match found.severity {
                    Severity::Critical => bad(&severity),
                    _ => doubtful(&severity),
                },
                found.control.name().into(),
                // The id of a setting is its Region.
                match found.control.is_of_account() {
                    true => one_line(&found.name, 60).into(),
                    false => named(&found.id, &found.name).into(),
                },
                found.what().join("\n").into(),
                (&found.state).into(),
            ]);
        }
        page.table(&rows);
        page.blank();
    }
    let mut counts = table(&["control", "found"]);
    for control in &scanned.controls {
        let found = scanned.found.iter().filter(|of| of.control == *control);
        counts.add_row(vec![
            control.name().to_owned(),
            scanned.count(*control, found.count()),
        ]);
    }
    page.table(&counts);
    page.into_text()
}

mod instances;
mod volumes;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use backstop_core::record::Record;

    use super::*;
    use crate::screens::{self, record};

    fn found(severity: Severity) -> Found {
        Found {
            control: ControlId::VulnerablePackage,
            severity,
            resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-1".into(),
            id: "i-1".into(),
            name: String::new(),
            open: Vec::new(),
            volumes: Vec::new(),
            patching: Some(FoundPatching::default()),
            fingerprints: Vec::new(),
            state: "would be remediated".into(),
            opted_out: false,
        }
    }

    #[test]
    fn a_scan_fails_from_the_severity_on_that_was_asked_for_and_by_what_it_did_not_see() {
        use Severity::{Critical, High, Low, Medium};
        for (fail_on, from) in [
            (FailOn::Any, Low),
            (FailOn::Low, Low),
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
                assert_eq!(FailOn::None.code(&scanned), 0);
                scanned.found[0].opted_out = true;
                assert_eq!(fail_on.code(&scanned), 0, "opted out");
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
                "CVE-2026-1, CVE-2026-2, CVE-2026-3, CVE-2026-4, CVE-2026-5 and 2 more: fixed by a patch",
                "CVE-2026-1: no patch of the operating system",
            ]
        );
    }

    /// A record as the finding that a scan makes of the resource, where the stack would
    /// do what the record says was done.
    fn found_again(record: &Record) -> Found {
        let (head, left) = match record {
            Record::Remediation(entry) => (&entry.head, entry.detail.plan.because.as_ref()),
            Record::Encryption(run) => (&run.head, None),
            Record::Patching(run) => (&run.head, None),
            Record::Undo(_) | Record::Notice(_) => panic!("a run"),
        };
        let id = head.resource_id().to_owned();
        let mut found = Found {
            control: head.control,
            name: head.resource_name.clone(),
            resource: head.resource.clone(),
            patching: None,
            state: match left {
                Some(because) => format!("would be left: {}", because.brief()),
                None => "would be remediated".to_owned(),
            },
            id,
            ..found(head.severity)
        };
        if found.name == found.id {
            found.name.clear();
        }
        match record {
            Record::Remediation(entry) => {
                let control = controls::of(head.control).unwrap();
                let exposures = entry.detail.exposures.iter();
                found.open = exposures.filter_map(|of| control.found(of)).collect();
            }
            Record::Encryption(run) => {
                found.state = format!("backstop plan {} says what would be done", found.id);
                let volumes = run.detail.volumes.iter();
                found.volumes = volumes
                    .map(|volume| FoundVolume {
                        id: volume.id.clone(),
                        name: String::new(),
                        size_gib: volume.size,
                        volume_type: volume.volume_type.clone(),
                        device: volume.attached().next().map(|at| at.device.clone()),
                        opted_out: false,
                    })
                    .collect();
            }
            Record::Patching(run) if head.control == ControlId::UnmanagedInstance => {
                let mut reasons = run.detail.reasons.iter();
                found.state = format!("would be left: {}", reasons.next().unwrap());
                found.patching = Some(FoundPatching {
                    lacks: reasons
                        .map(|why| why.split_once(": ").unwrap().1.to_owned())
                        .collect(),
                    ..FoundPatching::default()
                });
            }
            Record::Patching(run) => {
                let findings = run.detail.findings.iter();
                found.patching = Some(FoundPatching {
                    missing: run.detail.before.as_ref().map(|state| state.missing),
                    cves: findings.flat_map(|of| of.cves.clone()).collect(),
                    ..FoundPatching::default()
                });
            }
            Record::Undo(_) | Record::Notice(_) => {}
        }
        found
    }

    #[test]
    fn an_account_with_one_finding_of_each_control_is_the_screen_in_the_documents() {
        let mut scanned = Scanned {
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            controls: ControlId::ALL.to_vec(),
            judged_by: screens::judged_by(),
            unencrypted_volumes: 1,
            instances: 12,
            ..Scanned::default()
        };
        for (file, looked_at) in [
            ("remediation/open-ingress-remediated-narrowed.json", 31),
            ("encryption/unencrypted-volume-remediated.json", 0),
            ("remediation/encryption-by-default-remediated.json", 1),
            ("patching/vulnerable-package-remediated.json", 0),
            ("patching/missing-patches-remediated.json", 0),
            ("patching/unmanaged-instance-notified.json", 0),
            ("remediation/public-snapshot-remediated.json", 84),
            ("remediation/public-image-remediated.json", 9),
            ("remediation/snapshot-sharing-block-remediated.json", 1),
            ("remediation/metadata-defaults-remediated.json", 1),
            ("remediation/serial-console-remediated.json", 1),
            ("remediation/default-security-group-notified-in-use.json", 2),
            ("remediation/image-sharing-block-remediated.json", 1),
            ("remediation/public-subnet-notified-used-by-cluster.json", 6),
            ("remediation/imdsv1-pending-still-used.json", 12),
        ] {
            let found = found_again(&record(file));
            if controls::of(found.control).is_some() {
                scanned
                    .looked_at_by_control
                    .insert(found.control, looked_at);
            }
            scanned.found.push(found);
        }
        let controls: BTreeSet<ControlId> = scanned.found.iter().map(|of| of.control).collect();
        assert_eq!(controls, ControlId::ALL.iter().copied().collect());
        scanned.sort();
        screens::check("scan", |terminal| text(&scanned, terminal));
    }
}
