//! Messages about patchings: whole mails of what is installed, what came of it,
//! what is only told; and what must be said, or must never be, whatever the
//! record holds. `hostile` holds them against other people's texts.

use backstop_core::exemption::{Exemption, OptOut};
use backstop_core::message::{Message, PatchingNotification, of};
use backstop_core::patching::{
    Agent, Ended, Need, Operation, Package, Patch, PatchState, Patching, PatchingDetail, Reboot,
    Sent, Vulnerability, Wait, never_began,
};
use backstop_core::reason::Reason;
use backstop_core::record::Record;
use backstop_core::run::{Head, Run};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use expect_test::expect;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fixtures::{body, opt_out};
use super::hostile::check_against;
use super::schemas::PATCHING;

/// Every status that a patching can have.
pub(crate) const STATUSES: &[Status] = &[
    Status::InProgress,
    Status::Remediated,
    Status::AwaitingRescan,
    Status::Failed,
    Status::Notified,
    Status::Exempt,
    Status::Held,
    Status::Existing,
    Status::Tripped,
    Status::Stopped,
    Status::Pending,
    Status::Refused,
    Status::RolledBack,
];
/// Controls with what they send, and whether a patch mends what was found.
pub(crate) const SHAPES: &[(ControlId, Operation, bool)] = &[
    (ControlId::VulnerablePackage, Operation::Install, true),
    (ControlId::VulnerablePackage, Operation::Install, false),
    (ControlId::MissingPatches, Operation::Install, true),
    (ControlId::MissingPatches, Operation::Scan, true),
    (ControlId::UnmanagedInstance, Operation::Install, true),
];
/// The command of these messages.
const COMMAND: &str = "0831e1a8-a1ac-4257-a1fd-c831b48c4107";
/// The snapshots of these messages.
const SNAPSHOTS: &[&str] = &["snap-0aaaaaaaaaaaaaaaa", "snap-0bbbbbbbbbbbbbbbb"];

fn at(time: &str) -> Timestamp {
    format!("2026-11-28T{time}Z").parse().unwrap()
}

fn package(name: &str, version: &str, fixed_in: Option<&str>, manager: &str) -> Package {
    Package {
        name: name.to_owned(),
        version: Some(version.to_owned()),
        fixed_in: fixed_in.map(str::to_owned),
        manager: manager.to_owned(),
        remediation: None,
    }
}

fn finding(n: u8, severity: Severity, cves: &[&str], packages: Vec<Package>) -> Vulnerability {
    let name = packages.first().map_or("code", |package| &package.name);
    Vulnerability {
        arn: format!("arn:aws:inspector2:eu-central-1:111122223333:finding/{n:032x}"),
        severity,
        title: format!("{} - {name}", cves.first().unwrap_or(&"CODE-1")),
        cves: cves.iter().map(ToString::to_string).collect(),
        packages,
        remediation: None,
        reported_at: Some(at("01:58:00")),
        installed_by: None,
        unmended: false,
    }
}

fn openssl() -> Vulnerability {
    finding(
        1,
        Severity::Critical,
        &["CVE-2026-11111", "CVE-2026-11112"],
        vec![
            package(
                "openssl",
                "1:3.0.8-1.amzn2023.0.1",
                Some("1:3.0.8-1.amzn2023.0.9"),
                "OS",
            ),
            package(
                "openssl-libs",
                "1:3.0.8-1.amzn2023.0.1",
                Some("1:3.0.8-1.amzn2023.0.9"),
                "OS",
            ),
        ],
    )
}

fn kernel() -> Vulnerability {
    finding(
        2,
        Severity::High,
        &["CVE-2026-22222"],
        vec![package("kernel", "6.1.9-1", Some("6.1.12-1"), "OS")],
    )
}

/// A package of the application's.
fn log4j() -> Vulnerability {
    let mut finding = finding(
        3,
        Severity::Critical,
        &["CVE-2021-44228"],
        vec![package("log4j-core", "2.14.1", Some("2.17.1"), "JAR")],
    );
    finding.remediation = Some("Update log4j-core to 2.17.1 or later.".to_owned());
    finding
}

/// A finding in code: no package, no CVE.
fn code() -> Vulnerability {
    let mut finding = finding(4, Severity::High, &[], Vec::new());
    finding.title = "CWE-89 - SQL injection in orders.py".to_owned();
    finding.remediation = Some("Use parameterized queries.".to_owned());
    finding
}

fn patch(title: &str, classification: &str, severity: &str, cves: &[&str]) -> Patch {
    Patch {
        title: title.to_owned(),
        classification: classification.to_owned(),
        severity: severity.to_owned(),
        cves: cves.iter().map(ToString::to_string).collect(),
    }
}

fn state(operation: &str, ended_at: &str, missing: u32, failed: u32, reboot: u32) -> PatchState {
    PatchState {
        operation: operation.to_owned(),
        ended_at: Some(at(ended_at)),
        baseline: Some("pb-0123456789abcdef0".to_owned()),
        missing,
        failed,
        pending_reboot: reboot,
    }
}

/// An installation about to be sent, for what Inspector found.
fn install() -> Patching {
    Run {
        head: Head {
            version: 1,
            id: "01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned(),
            control: ControlId::VulnerablePackage,
            severity: Severity::Critical,
            resource: "arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0"
                .to_owned(),
            resource_name: "web-1".to_owned(),
            account: "111122223333".to_owned(),
            region: "eu-central-1".to_owned(),
            team: Some("team-web".to_owned()),
            status: Status::InProgress,
            exemption: Exemption::None,
            actor: Actor {
                principal: Some("Amazon Inspector".to_owned()),
                user_agent: None,
                source_address: None,
                invoked_by: None,
                event_name: Some("Inspector2 Finding".to_owned()),
                event_time: Some(at("01:58:00")),
                event_id: Some("5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e".to_owned()),
                ..Actor::default()
            },
            policy_version: 7,
            attempts: 1,
            started_at: at("02:00:00"),
            finished_at: None,
            managed_by: None,
        },
        detail: PatchingDetail {
            operation: Operation::Install,
            reboot: Reboot::Never,
            findings: vec![openssl(), kernel()],
            findings_total: 2,
            missing: vec![
                patch(
                    "openssl.x86_64:1:3.0.8-1.amzn2023.0.9",
                    "Security",
                    "Critical",
                    &["CVE-2026-11111", "CVE-2026-11112"],
                ),
                patch("kernel.x86_64:6.1.12-1", "Security", "Important", &[]),
                patch("tzdata.noarch:2026b-1", "Bugfix", "", &[]),
            ],
            before: Some(state("Scan", "00:30:00", 3, 0, 0)),
            after: None,
            agent: Some(Agent {
                ping: "Online".to_owned(),
                last_ping: Some(at("01:57:00")),
                version: Some("3.3.987.0".to_owned()),
                platform: Some("Amazon Linux 2023".to_owned()),
            }),
            snapshots_wanted: true,
            snapshots: SNAPSHOTS.iter().map(ToString::to_string).collect(),
            batch: Some("01KAT5J9ZZZZZZZZZZZZZZZZZZ".to_owned()),
            command: None,
            not_begun: Vec::new(),
            unpatchable: None,
            waits: None,
            reasons: Vec::new(),
            because: None,
            lacks: Vec::new(),
            instance_gone: false,
            installed_at: None,
            page_key: None,
            revision: 0,
        },
    }
}

/// The same for patches that are missing and that Inspector says nothing of.
fn missing() -> Patching {
    Run {
        head: Head {
            control: ControlId::MissingPatches,
            severity: Severity::High,
            ..install().head
        },
        detail: PatchingDetail {
            findings: Vec::new(),
            findings_total: 0,
            ..install().detail
        },
    }
}

/// A scan of an instance that was never scanned.
fn scan() -> Patching {
    Run {
        head: Head {
            severity: Severity::Medium,
            ..missing().head
        },
        detail: PatchingDetail {
            operation: Operation::Scan,
            missing: Vec::new(),
            before: None,
            snapshots_wanted: false,
            snapshots: Vec::new(),
            ..missing().detail
        },
    }
}

/// What is only told: no patch of the operating system mends it.
fn only_told() -> Patching {
    unchanged(
        Run {
            head: install().head,
            detail: PatchingDetail {
                findings: vec![log4j(), code()],
                ..install().detail
            },
        },
        Status::Notified,
        &["no patch of the operating system mends it"],
    )
}

/// An instance that Systems Manager does not manage.
fn unmanaged() -> Patching {
    let mut run = Run {
        head: Head {
            control: ControlId::UnmanagedInstance,
            severity: Severity::Medium,
            ..install().head
        },
        detail: PatchingDetail {
            findings: Vec::new(),
            findings_total: 0,
            missing: Vec::new(),
            before: None,
            agent: None,
            ..install().detail
        },
    };
    let reasons = [
        "Systems Manager cannot reach it, so that nothing can be patched",
        "role: it has no instance profile; give it one whose role has AmazonSSMManagedInstanceCore, or turn on default host management",
        "endpoint: its subnet has no default route, and its VPC has no interface endpoint for ssm and ssmmessages",
    ];
    run.detail.lacks = vec![Need::Role, Need::Endpoint];
    unchanged(run, Status::Notified, &reasons)
}

/// A run whose command was sent.
fn sent(mut run: Patching) -> Patching {
    run.detail.command = Some(Sent::new(COMMAND.to_owned(), at("02:00:10")));
    run
}

/// A run whose command ended so, by what the record makes of it.
fn ended(run: Patching, status: &str, state: Option<PatchState>) -> Patching {
    let mut run = sent(run);
    let ended = Ended {
        status: status.to_owned(),
        state,
        started: true,
        ..Ended::default()
    };
    run.take_end(&ended, at("02:06:00"));
    run
}

/// A run that changed nothing.
fn unchanged(mut run: Patching, status: Status, reasons: &[&str]) -> Patching {
    run.head.status = status;
    run.detail.reasons = reasons.iter().map(ToString::to_string).collect();
    run.detail.snapshots = Vec::new();
    run.detail.batch = None;
    run.head.finished_at = Some(run.head.started_at);
    run
}

fn awaiting() -> Patching {
    ended(
        install(),
        "Success",
        Some(state("Install", "02:05:00", 0, 0, 3)),
    )
}

pub(crate) fn message(run: &Patching) -> Message {
    of(&Record::Patching(Box::new(run.clone())))
}

/// Subject and mail.
fn mail(run: &Patching) -> String {
    let message = message(run);
    format!(
        "Subject: {}\n\n{}",
        message.subject,
        body(&message, "email")
    )
}

/// The same without what is in every mail.
fn lead(run: &Patching) -> String {
    let mail = mail(run);
    let end = mail.find("\n\nWho or what").unwrap();
    mail.get(..end).unwrap().to_owned()
}

fn chat(run: &Patching) -> Value {
    serde_json::from_str(&body(&message(run), "https")).unwrap()
}

fn data(run: &Patching) -> Value {
    serde_json::from_str(&body(&message(run), "sqs")).unwrap()
}

fn says(run: &Patching, parts: &[&str]) {
    let mail = mail(run);
    for part in parts {
        assert!(mail.contains(part), "{part} is missing in\n{mail}");
    }
}

fn says_not(run: &Patching, parts: &[&str]) {
    let mail = mail(run);
    for part in parts {
        assert!(
            !mail.to_lowercase().contains(&part.to_lowercase()),
            "{part} is said in\n{mail}"
        );
    }
}

// ------------------------------------------------------------------- the beginning

#[test]
fn what_cannot_be_undone_is_said_before_it_is_done() {
    let run = install();
    expect![[r#"
        Subject: [Backstop] IN PROGRESS critical: i-0123456789abcdef0 (web-1) gets 3 patches, no restart

        IN PROGRESS critical: i-0123456789abcdef0 (web-1) gets 3 patches, no restart: a patch cannot be undone
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What is done now
        - A PATCH CANNOT BE UNDONE: neither Backstop nor AWS takes an installed patch back.
        - The command AWS-RunPatchBaseline (operation Install) installs EVERY approved patch that is missing, not only those for what was found.
        - NO RESTART of the instance. Packages may restart their own services while they are installed; a new kernel takes effect only when the owner restarts the instance.
        - Whether the holes are closed is for Inspector to say, which looks again within 24 hours after.

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        What will be installed, as of the last scan
        - openssl.x86_64:1:3.0.8-1.amzn2023.0.9 (Security, Critical): CVE-2026-11111, CVE-2026-11112
        - kernel.x86_64:6.1.12-1 (Security, Important)
        - tzdata.noarch:2026b-1 (Bugfix)
        - See all: aws ssm describe-instance-patches --region eu-central-1 --instance-id i-0123456789abcdef0 --filters 'Key=State,Values=Missing,Failed'

        How to stop it now
        - The command follows this message within minutes. Find it: aws ssm list-commands --region eu-central-1 --instance-id i-0123456789abcdef0 --filters 'key=DocumentName,value=AWS-RunPatchBaseline'
        - Cancel it: aws ssm cancel-command --region eu-central-1 --command-id '<command-id>' --instance-ids i-0123456789abcdef0
        - What is installed by then stays installed, and an installation that is cut off may leave a package half done.
        - Later ones are kept back by an opt-out, and everywhere by: backstop kill-switch on

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one.

        Who or what led to it, as the event states
        - Who: Amazon Inspector
        - Call: Inspector2 Finding, 2026-11-28 01:58:00 UTC

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0
        - Begun: 2026-11-28 02:00:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&run));
    // In chat as well, where only so much is shown.
    let chat = chat(&run)["content"]["description"].to_string();
    for part in [
        "CANNOT BE UNDONE",
        "EVERY approved patch",
        "NO RESTART",
        "crash-consistent",
    ] {
        assert!(chat.contains(part), "{part}: {chat}");
    }
    for snapshot in SNAPSHOTS {
        says(&run, &[snapshot]);
        assert!(chat.contains(snapshot), "{snapshot}: {chat}");
    }
    // Nothing is promised of what is still to come.
    says_not(&run, &["fixed", "remediated", "was installed"]);
}

#[test]
fn a_restart_is_said_before_it_happens_and_nowhere_else() {
    let mut run = install();
    run.detail.reboot = Reboot::IfNeeded;
    says(
        &run,
        &[
            "Subject: [Backstop] IN PROGRESS critical: i-0123456789abcdef0 (web-1) gets 3 patches and RESTARTS\n",
            "DOWNTIME: the instance RESTARTS once anything has been installed",
        ],
    );
    says_not(&run, &["no restart"]);
    run.detail.reboot = Reboot::Never;
    says_not(&run, &["DOWNTIME"]);
    assert!(!mail(&run).contains("RESTARTS"));
}

#[test]
fn snapshots_that_are_not_taken_are_not_promised() {
    let mut run = install();
    run.detail.snapshots = Vec::new();
    says(
        &run,
        &[
            "without them nothing is installed",
            "--owner-ids self --filters 'Name=tag:backstop:entry,Values=01KAT5J3V0QZ8Y2N4M6P8R0T2W'",
        ],
    );
    run.detail.snapshots_wanted = false;
    says(
        &run,
        &["- None are taken: the policy's `patching.snapshots` is off."],
    );
    says_not(&run, &["describe-snapshots", "without them"]);
}

#[test]
fn a_command_that_is_under_way_is_named_and_can_be_cancelled_for_this_instance() {
    says(
        &sent(install()),
        &[
            &format!("- Command {COMMAND}, sent at 2026-11-28 02:00:10 UTC: under way."),
            &format!(
                "aws ssm cancel-command --region eu-central-1 --command-id {COMMAND} --instance-ids i-0123456789abcdef0\n"
            ),
        ],
    );
}

#[test]
fn many_patches_and_findings_are_counted_and_the_rest_is_named() {
    let mut run = install();
    run.detail.missing = (0..100)
        .map(|n| patch(&format!("package-{n}:2-1"), "Security", "Important", &[]))
        .collect();
    run.detail.before = Some(state("Scan", "00:30:00", 140, 2, 0));
    run.detail.findings = (0..60)
        .map(|n| {
            let cve = format!("CVE-2026-{n:05}");
            let package = package(&format!("package-{n}"), "1-1", Some("2-1"), "OS");
            finding(n, Severity::High, &[&cve], vec![package])
        })
        .collect();
    run.detail.findings_total = 71;
    says(
        &run,
        &[
            "gets 140 patches, no restart",
            "- high CVE-2026-00000: package-0 1-1, mended in 2-1\n",
            "- and 65 more: the ledger entry lists 60 of 71, Inspector all of them\n",
            "- and 128 more\n",
            "140 missing, 2 failed to install",
        ],
    );
    let data = data(&run);
    assert_eq!(data["findings_total"], 71);
    for (list, all) in [("findings", 71), ("missing", 140)] {
        let told = data[list].as_array().unwrap().len() as u64;
        assert_eq!(
            told + data["omitted"][list].as_u64().unwrap(),
            all,
            "{list}"
        );
    }
}

#[test]
fn a_scan_changes_nothing_and_says_so() {
    expect![[r#"
        Subject: [Backstop] IN PROGRESS medium: i-0123456789abcdef0 (web-1) is scanned for missing patches

        IN PROGRESS medium: i-0123456789abcdef0 (web-1) is scanned for missing patches
        Account 111122223333, eu-central-1. Team: team-web. Control: missing-patches.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - Which approved patches are missing is not known: no scan or installation of patches is on record.

        What is done now
        - The command AWS-RunPatchBaseline looks which approved patches are missing (operation Scan). It changes nothing, and the instance is not restarted.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=missing-patches until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&scan()));
    says_not(
        &scan(),
        &["undone", "snapshot", "DOWNTIME", "cancel", "is installed"],
    );
}

// --------------------------------------------------------------------------- the end

#[test]
fn what_was_installed_awaits_inspectors_next_look() {
    let run = awaiting();
    assert_eq!(run.head.status, Status::AwaitingRescan);
    expect![[r#"
        Subject: [Backstop] PATCHED critical: i-0123456789abcdef0 (web-1): patches installed, awaiting rescan

        PATCHED critical: i-0123456789abcdef0 (web-1): patches installed, awaiting rescan, a restart is pending
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What was found
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done
        - Every approved patch that was missing was installed, as seen at 2026-11-28 02:06:00 UTC. That cannot be undone.
        - Approved patches now: 0 missing, 3 installed and pending a restart (Install of 2026-11-28 02:05:00 UTC, baseline pb-0123456789abcdef0).
        - The instance was not restarted. Packages may have restarted their own services.
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as Success.
        - 3 of the installed patches may take effect only when the instance restarts, which is left to its owner.

        What comes next
        - Only Inspector can say that the holes are closed. It looks again within 24 hours, that is until 2026-11-29 02:06:00 UTC; until then its findings are still active.
        - A further message says whether it has closed them. Nothing has to be done for that.
        - Until the instance restarts, a new kernel and libraries that running programs have loaded are without effect, and Inspector may keep its findings about them.
        - DOWNTIME, at a time of your choice: aws ec2 reboot-instances --region eu-central-1 --instance-ids i-0123456789abcdef0

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        How to see what the command printed
        - aws ssm list-command-invocations --region eu-central-1 --command-id 0831e1a8-a1ac-4257-a1fd-c831b48c4107 --instance-id i-0123456789abcdef0 --details
        - https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - All of it, if the instance's role lets its agent write there: aws logs filter-log-events --region eu-central-1 --log-group-name '/backstop/<stack>/patch-commands' --log-stream-name-prefix 0831e1a8-a1ac-4257-a1fd-c831b48c4107/i-0123456789abcdef0

        How to go back to the snapshots
        - Patches cannot be undone, not by `backstop undo` either. By hand, the volumes can be replaced by ones from the safety snapshots: what was written since is only on the old ones, so keep those. Opt the instance out first, or it is patched again.
        - Zone, devices, types and IOPS: aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0123456789abcdef0' --output table
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0aaaaaaaaaaaaaaaa --volume-type '<type>'
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0bbbbbbbbbbbbbbbb --volume-type '<type>'
        - DOWNTIME: aws ec2 stop-instances --region eu-central-1 --instance-ids i-0123456789abcdef0
        - Then, for each volume: aws ec2 detach-volume --region eu-central-1 --volume-id '<old volume>'
        - aws ec2 attach-volume --region eu-central-1 --volume-id '<new volume>' --instance-id i-0123456789abcdef0 --device '<device of the old one>'
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0123456789abcdef0

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one.

        Who or what led to it, as the event states
        - Who: Amazon Inspector
        - Call: Inspector2 Finding, 2026-11-28 01:58:00 UTC

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0
        - Begun: 2026-11-28 02:00:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&run));
    says_not(&run, &["fixed", "remediated", "has closed its"]);
    assert_eq!(message(&run).attributes["outcome"], "awaiting-rescan");
}

#[test]
fn what_inspector_has_closed_is_said_to_be() {
    let mut run = awaiting();
    run.detail.reasons.clear();
    run.detail.after = Some(state("Install", "02:05:00", 0, 0, 0));
    assert!(run.rescanned(&[].into(), false, at("09:00:00")));
    expect![[r#"
        Subject: [Backstop] FIXED critical: i-0123456789abcdef0 (web-1): Inspector has closed its findings

        FIXED critical: i-0123456789abcdef0 (web-1): Inspector has closed its findings
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What was found
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done
        - Every approved patch that was missing was installed, as seen at 2026-11-28 02:06:00 UTC. That cannot be undone.
        - Approved patches now: 0 missing (Install of 2026-11-28 02:05:00 UTC, baseline pb-0123456789abcdef0).
        - The instance was not restarted. Packages may have restarted their own services.
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as Success.
        - Inspector has closed every finding that a patch mends.

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        How to see what the command printed
        - aws ssm list-command-invocations --region eu-central-1 --command-id 0831e1a8-a1ac-4257-a1fd-c831b48c4107 --instance-id i-0123456789abcdef0 --details
        - https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - All of it, if the instance's role lets its agent write there: aws logs filter-log-events --region eu-central-1 --log-group-name '/backstop/<stack>/patch-commands' --log-stream-name-prefix 0831e1a8-a1ac-4257-a1fd-c831b48c4107/i-0123456789abcdef0

        How to go back to the snapshots
        - Patches cannot be undone, not by `backstop undo` either. By hand, the volumes can be replaced by ones from the safety snapshots: what was written since is only on the old ones, so keep those. Opt the instance out first, or it is patched again.
        - Zone, devices, types and IOPS: aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0123456789abcdef0' --output table
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0aaaaaaaaaaaaaaaa --volume-type '<type>'
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0bbbbbbbbbbbbbbbb --volume-type '<type>'
        - DOWNTIME: aws ec2 stop-instances --region eu-central-1 --instance-ids i-0123456789abcdef0
        - Then, for each volume: aws ec2 detach-volume --region eu-central-1 --volume-id '<old volume>'
        - aws ec2 attach-volume --region eu-central-1 --volume-id '<new volume>' --instance-id i-0123456789abcdef0 --device '<device of the old one>'
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0123456789abcdef0

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
    says_not(&run, &["pending", "reboot-instances"]);
}

#[test]
fn patches_that_nobody_reported_are_done_once_none_is_missing() {
    let mut run = missing();
    run.detail.reboot = Reboot::IfNeeded;
    run.head.managed_by = Some("the CloudFormation stack web".to_owned());
    let run = ended(run, "Success", Some(state("Install", "02:05:00", 0, 0, 0)));
    assert_eq!(run.head.status, Status::Remediated);
    expect![[r#"
        Subject: [Backstop] FIXED high: i-0123456789abcdef0 (web-1) has all approved patches

        FIXED high: i-0123456789abcdef0 (web-1) has all approved patches
        Account 111122223333, eu-central-1. Team: team-web. Control: missing-patches.

        What was found
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done
        - Every approved patch that was missing was installed, as seen at 2026-11-28 02:06:00 UTC. That cannot be undone.
        - Approved patches now: 0 missing (Install of 2026-11-28 02:05:00 UTC, baseline pb-0123456789abcdef0).
        - The instance was RESTARTED by the command, if anything was installed.
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as Success.

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        How to see what the command printed
        - aws ssm list-command-invocations --region eu-central-1 --command-id 0831e1a8-a1ac-4257-a1fd-c831b48c4107 --instance-id i-0123456789abcdef0 --details
        - https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - All of it, if the instance's role lets its agent write there: aws logs filter-log-events --region eu-central-1 --log-group-name '/backstop/<stack>/patch-commands' --log-stream-name-prefix 0831e1a8-a1ac-4257-a1fd-c831b48c4107/i-0123456789abcdef0

        How to go back to the snapshots
        - Patches cannot be undone, not by `backstop undo` either. By hand, the volumes can be replaced by ones from the safety snapshots: what was written since is only on the old ones, so keep those. Opt the instance out first, or it is patched again.
        - Zone, devices, types and IOPS: aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0123456789abcdef0' --output table
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0aaaaaaaaaaaaaaaa --volume-type '<type>'
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0bbbbbbbbbbbbbbbb --volume-type '<type>'
        - DOWNTIME: aws ec2 stop-instances --region eu-central-1 --instance-ids i-0123456789abcdef0
        - Then, for each volume: aws ec2 detach-volume --region eu-central-1 --volume-id '<old volume>'
        - aws ec2 attach-volume --region eu-central-1 --volume-id '<new volume>' --instance-id i-0123456789abcdef0 --device '<device of the old one>'
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0123456789abcdef0

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=missing-patches until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
    says(
        &run,
        &["It is managed by the CloudFormation stack web: bring the patches into the image"],
    );
    says_not(&run, &["Inspector looks", "holes"]);
}

#[test]
fn a_scan_that_succeeded_is_not_said_to_have_mended_anything() {
    let run = ended(scan(), "Success", Some(state("Scan", "02:01:00", 12, 0, 0)));
    assert_eq!(run.head.status, Status::Remediated);
    expect![[r#"
        Subject: [Backstop] SCANNED medium: i-0123456789abcdef0 (web-1) lacks 12 approved patches

        SCANNED medium: i-0123456789abcdef0 (web-1) lacks 12 approved patches
        Account 111122223333, eu-central-1. Team: team-web. Control: missing-patches.

        What was found
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.

        What was done
        - The instance was scanned. A scan changes nothing and restarts nothing.
        - Approved patches now: 12 missing (Scan of 2026-11-28 02:01:00 UTC, baseline pb-0123456789abcdef0).
        - What is missing is a finding of missing-patches from now on: it is looked at next, and you are told before anything is installed.
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as Success.

        How to see which patches are missing
        - aws ssm describe-instance-patches --region eu-central-1 --instance-id i-0123456789abcdef0 --filters 'Key=State,Values=Missing,Failed'

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=missing-patches until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
    says_not(&run, &["FIXED", "was installed"]);

    let run = ended(scan(), "Success", Some(state("Scan", "02:01:00", 0, 0, 0)));
    says(
        &run,
        &["SCANNED medium: i-0123456789abcdef0 (web-1) lacks no approved patch"],
    );
}

#[test]
fn an_instance_that_is_gone_is_not_said_to_be_mended() {
    let mut run = awaiting();
    assert!(run.gone(at("09:00:00")));
    says(
        &run,
        &[
            "ENDED critical: i-0123456789abcdef0 (web-1) is gone\n",
            "the instance was gone before Inspector looked again",
            SNAPSHOTS[0],
        ],
    );
    says_not(&run, &["FIXED", "reboot-instances", "has closed"]);
}

#[test]
fn a_run_that_was_not_needed_any_more_did_nothing() {
    let run = unchanged(
        install(),
        Status::Remediated,
        &["nothing is missing any more; no command was sent"],
    );
    says(
        &run,
        &[
            "lacks nothing any more",
            "Backstop sent no command, and changed nothing.",
        ],
    );
    says_not(&run, &["was installed", "restarted by"]);
    let run = unchanged(
        install(),
        Status::RolledBack,
        &["it was cut off before its command was sent"],
    );
    says(
        &run,
        &[
            "ROLLED BACK critical: i-0123456789abcdef0 (web-1) was left as it was, no command was sent",
            "Nothing was changed.",
        ],
    );
}

// --------------------------------------------------------------------------- failures

#[test]
fn a_command_that_failed_says_where_to_look_and_what_may_be_installed() {
    let mut run = install();
    run.detail.reboot = Reboot::IfNeeded;
    let run = ended(run, "Failed", Some(state("Install", "02:05:00", 2, 1, 0)));
    assert_eq!(run.head.status, Status::Failed);
    expect![[r#"
        Subject: [Backstop] FAILED critical: i-0123456789abcdef0 (web-1) may be patched only in part

        FAILED critical: i-0123456789abcdef0 (web-1) may be patched only in part
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done, and what failed
        - The command failed on the instance: it may have installed a part (Failed).
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as Failed.
        - What is installed cannot be undone.
        - The instance may have RESTARTED: look whether its services run.
        - Approved patches now: 2 missing, 1 failed to install (Install of 2026-11-28 02:05:00 UTC, baseline pb-0123456789abcdef0).

        What can be done
        - See what became of the command, and what it printed: https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - See what is missing and what failed: aws ssm describe-instance-patches --region eu-central-1 --instance-id i-0123456789abcdef0 --filters 'Key=State,Values=Missing,Failed'
        - Backstop looks at it again by itself, and installs again only once the policy's `patching.cool_down_hours` have passed.

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        How to see what the command printed
        - aws ssm list-command-invocations --region eu-central-1 --command-id 0831e1a8-a1ac-4257-a1fd-c831b48c4107 --instance-id i-0123456789abcdef0 --details
        - https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - All of it, if the instance's role lets its agent write there: aws logs filter-log-events --region eu-central-1 --log-group-name '/backstop/<stack>/patch-commands' --log-stream-name-prefix 0831e1a8-a1ac-4257-a1fd-c831b48c4107/i-0123456789abcdef0

        How to go back to the snapshots
        - Patches cannot be undone, not by `backstop undo` either. By hand, the volumes can be replaced by ones from the safety snapshots: what was written since is only on the old ones, so keep those. Opt the instance out first, or it is patched again.
        - Zone, devices, types and IOPS: aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0123456789abcdef0' --output table
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0aaaaaaaaaaaaaaaa --volume-type '<type>'
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0bbbbbbbbbbbbbbbb --volume-type '<type>'
        - DOWNTIME: aws ec2 stop-instances --region eu-central-1 --instance-ids i-0123456789abcdef0
        - Then, for each volume: aws ec2 detach-volume --region eu-central-1 --volume-id '<old volume>'
        - aws ec2 attach-volume --region eu-central-1 --volume-id '<new volume>' --instance-id i-0123456789abcdef0 --device '<device of the old one>'
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0123456789abcdef0

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one.

        Who or what led to it, as the event states
        - Who: Amazon Inspector
        - Call: Inspector2 Finding, 2026-11-28 01:58:00 UTC

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0
        - Begun: 2026-11-28 02:00:00 UTC, ended: 2026-11-28 02:06:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&run));
    let console = format!(
        "https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/{COMMAND}?region=eu-central-1"
    );
    let chat = chat(&run)["content"]["description"].to_string();
    assert!(chat.contains(&console) && chat.contains(COMMAND), "{chat}");
}

#[test]
fn the_console_is_that_of_the_partition() {
    let mut run = ended(install(), "Failed", None);
    for (partition, region, address) in [
        (
            "aws",
            "us-east-1",
            "https://us-east-1.console.aws.amazon.com/",
        ),
        (
            "aws-cn",
            "cn-north-1",
            "https://cn-north-1.console.amazonaws.cn/",
        ),
        (
            "aws-us-gov",
            "us-gov-west-1",
            "https://console.amazonaws-us-gov.com/",
        ),
    ] {
        run.head.resource =
            format!("arn:{partition}:ec2:{region}:111122223333:instance/i-0123456789abcdef0");
        run.head.region = region.to_owned();
        let address = format!("{address}systems-manager/run-command/{COMMAND}?region={region}");
        says(&run, &[&address]);
        assert_eq!(data(&run)["command"]["console"], address);
    }
    // What is no id leads nowhere.
    run.detail.command.as_mut().unwrap().id = "x/../../evil?a=".to_owned();
    assert_eq!(data(&run)["command"].get("console"), None);
    says(&run, &["list-command-invocations"]);
    says_not(&run, &["https://"]);
}

#[test]
fn a_command_that_was_denied_on_the_instance_installed_nothing() {
    let run = ended(install(), "AccessDenied", None);
    expect![[r#"
        Subject: [Backstop] FAILED critical: i-0123456789abcdef0 (web-1) was not patched

        FAILED critical: i-0123456789abcdef0 (web-1) was not patched
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done, and what failed
        - The command was denied on the instance (AccessDenied).
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as AccessDenied.
        - Nothing was installed, and the instance was not restarted.

        What can be done
        - See what became of the command, and what it printed: https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - See whether its agent is online: aws ssm describe-instance-information --region eu-central-1 --filters 'Key=InstanceIds,Values=i-0123456789abcdef0'
        - Backstop sends it no further command until a person has removed the cause and re-arms it: backstop re-arm vulnerable-package i-0123456789abcdef0

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        How to see what the command printed
        - aws ssm list-command-invocations --region eu-central-1 --command-id 0831e1a8-a1ac-4257-a1fd-c831b48c4107 --instance-id i-0123456789abcdef0 --details
        - https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - All of it, if the instance's role lets its agent write there: aws logs filter-log-events --region eu-central-1 --log-group-name '/backstop/<stack>/patch-commands' --log-stream-name-prefix 0831e1a8-a1ac-4257-a1fd-c831b48c4107/i-0123456789abcdef0

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
    says_not(&run, &["create-volume", "in part", "cannot be undone"]);
}

#[test]
fn patches_that_are_still_missing_are_counted() {
    let run = ended(
        install(),
        "Success",
        Some(state("Install", "02:05:00", 2, 1, 0)),
    );
    says(
        &run,
        &[
            "FAILED critical: i-0123456789abcdef0 (web-1) still lacks 2 approved patches",
            "2 approved patches are still missing and 1 failed to install",
            "aws ssm describe-instance-patches --region eu-central-1 --instance-id i-0123456789abcdef0 --filters 'Key=State,Values=Missing,Failed'",
        ],
    );
}

#[test]
fn findings_that_inspector_still_sees_a_day_later_say_what_to_look_for() {
    let mut run = awaiting();
    run.detail.findings[0].packages[0].remediation = Some("dnf update openssl".to_owned());
    let left = run.detail.findings[1].arn.clone();
    let later = "2026-11-29T02:30:00Z".parse().unwrap();
    assert!(run.rescanned(&[left.as_str()].into(), false, later));
    expect![[r#"
        Subject: [Backstop] FAILED critical: i-0123456789abcdef0 (web-1): findings are still active after patching

        FAILED critical: i-0123456789abcdef0 (web-1): findings are still active after patching
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9. Inspector says: dnf update openssl
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done, and what failed
        - 3 of the installed patches may take effect only when the instance restarts, which is left to its owner.
        - 1 of Inspector's findings are still active 24 hours after the installation.
        - Command 0831e1a8-a1ac-4257-a1fd-c831b48c4107, sent at 2026-11-28 02:00:10 UTC: ended as Success.
        - What was installed cannot be undone.
        - The instance was not restarted. Packages may have restarted their own services.
        - Approved patches now: 0 missing, 3 installed and pending a restart (Install of 2026-11-28 02:05:00 UTC, baseline pb-0123456789abcdef0).

        What can be done
        - See what became of the command, and what it printed: https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - 3 patches are pending a restart: what is not in effect Inspector still finds. DOWNTIME: aws ec2 reboot-instances --region eu-central-1 --instance-ids i-0123456789abcdef0
        - The patch baseline may not approve the version that mends it (yet): compare the versions above with what it approves, or install the package by hand.
        - See what Inspector still finds: aws inspector2 list-findings --region eu-central-1 --filter-criteria '{"resourceId":[{"comparison":"EQUALS","value":"i-0123456789abcdef0"}],"findingStatus":[{"comparison":"EQUALS","value":"ACTIVE"}]}'
        - Backstop does not install again for these findings while nothing else is missing: the same command would not mend them. It scans once a week whether the patch baseline approves more by now.

        Safety snapshots
        - snap-0aaaaaaaaaaaaaaaa, snap-0bbbbbbbbbbbbbbbb
        - They were taken of all volumes of the instance before the command, and are crash-consistent: what was only in memory is not in them, as if the power had failed.
        - See them: aws ec2 describe-snapshots --region eu-central-1 --snapshot-ids snap-0aaaaaaaaaaaaaaaa snap-0bbbbbbbbbbbbbbbb
        - AWS charges for what is in them until they are deleted. The sweep deletes them when the run has ended well and the policy's `patching.snapshots.delete_after_days` have passed; all others are yours to delete.

        How to see what the command printed
        - aws ssm list-command-invocations --region eu-central-1 --command-id 0831e1a8-a1ac-4257-a1fd-c831b48c4107 --instance-id i-0123456789abcdef0 --details
        - https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1
        - All of it, if the instance's role lets its agent write there: aws logs filter-log-events --region eu-central-1 --log-group-name '/backstop/<stack>/patch-commands' --log-stream-name-prefix 0831e1a8-a1ac-4257-a1fd-c831b48c4107/i-0123456789abcdef0

        How to go back to the snapshots
        - Patches cannot be undone, not by `backstop undo` either. By hand, the volumes can be replaced by ones from the safety snapshots: what was written since is only on the old ones, so keep those. Opt the instance out first, or it is patched again.
        - Zone, devices, types and IOPS: aws ec2 describe-volumes --region eu-central-1 --filters 'Name=attachment.instance-id,Values=i-0123456789abcdef0' --output table
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0aaaaaaaaaaaaaaaa --volume-type '<type>'
        - aws ec2 create-volume --region eu-central-1 --availability-zone '<zone>' --snapshot-id snap-0bbbbbbbbbbbbbbbb --volume-type '<type>'
        - DOWNTIME: aws ec2 stop-instances --region eu-central-1 --instance-ids i-0123456789abcdef0
        - Then, for each volume: aws ec2 detach-volume --region eu-central-1 --volume-id '<old volume>'
        - aws ec2 attach-volume --region eu-central-1 --volume-id '<new volume>' --instance-id i-0123456789abcdef0 --device '<device of the old one>'
        - aws ec2 start-instances --region eu-central-1 --instance-ids i-0123456789abcdef0

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
}

#[test]
fn a_run_without_a_command_says_that_nothing_was_changed() {
    let mut run = install();
    run.detail.snapshots = Vec::new();
    run.detail.batch = None;
    run.fail(
        "no safety snapshots could be taken, so nothing was installed: CreateSnapshots: UnauthorizedOperation".to_owned(),
        at("02:00:20"),
    );
    expect![[r#"
        Subject: [Backstop] FAILED critical: i-0123456789abcdef0 (web-1) was not patched

        FAILED critical: i-0123456789abcdef0 (web-1) was not patched
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done, and what failed
        - No safety snapshots could be taken, so nothing was installed: CreateSnapshots: UnauthorizedOperation.
        - No command was sent. The instance is as it was.

        What can be done
        - Remove the cause that is named above.
        - See whether its agent is online: aws ssm describe-instance-information --region eu-central-1 --filters 'Key=InstanceIds,Values=i-0123456789abcdef0'
        - Backstop looks at it again with the next sweep (at once: backstop sweep). If it then says that the control has tripped for this resource: backstop re-arm vulnerable-package i-0123456789abcdef0

        Safety snapshots
        - None is known.
        - See whether there are any: aws ec2 describe-snapshots --region eu-central-1 --owner-ids self --filters 'Name=tag:backstop:entry,Values=01KAT5J3V0QZ8Y2N4M6P8R0T2W'

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));

    // The mark of a command that was refused.
    run.detail.batch = Some("01KAT5J9ZZZZZZZZZZZZZZZZZZ".to_owned());
    says(&run, &["No command was sent. The instance is as it was."]);
    says_not(&run, &["create-volume", "cannot be undone"]);
}

#[test]
fn a_scan_that_failed_changed_nothing() {
    let run = ended(scan(), "Failed", None);
    says(
        &run,
        &[
            "FAILED medium: i-0123456789abcdef0 (web-1): the scan for patches failed",
            "A scan changes nothing: the instance is as it was.",
            COMMAND,
        ],
    );
}

#[test]
fn every_failure_with_a_command_names_it_and_its_console() {
    for status in [
        "Failed",
        "ExecutionTimedOut",
        "Cancelled",
        "InvalidPlatform",
    ] {
        for run in [install(), missing(), scan()] {
            let run = ended(run, status, None);
            says(
                &run,
                &[
                    COMMAND,
                    "console.aws.amazon.com/systems-manager/run-command/",
                    "/backstop/<stack>/patch-commands",
                    status,
                ],
            );
        }
    }
}

// ----------------------------------------------------------------------- not changed

#[test]
fn in_the_mode_notify_it_is_said_what_would_be_done() {
    let run = unchanged(install(), Status::Notified, &["the mode is `notify`"]);
    expect![[r#"
        Subject: [Backstop] FOUND critical: i-0123456789abcdef0 (web-1) has 2 known holes

        FOUND critical: i-0123456789abcdef0 (web-1) has 2 known holes, nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done
        - Nothing was changed.
        - The mode is `notify`.
        - To have it done, set the mode `enforce` for vulnerable-package in the policy.
        - This would be done:
        - First snapshots of all its volumes are taken.
        - The command AWS-RunPatchBaseline (operation Install) installs EVERY approved patch that is missing, not only those for what was found.
        - NO RESTART of the instance. Packages may restart their own services while they are installed; a new kernel takes effect only when the owner restarts the instance.
        - A patch cannot be undone.
        - Whether the holes are closed is for Inspector to say, which looks again within 24 hours after.

        How to install the patches yourself
        - aws ssm send-command --region eu-central-1 --document-name AWS-RunPatchBaseline --instance-ids i-0123456789abcdef0 --parameters '{"Operation":["Install"],"RebootOption":["NoReboot"]}'
        - It installs every approved patch that is missing, and cannot be undone: take snapshots before.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
    says_not(&run, &["IN PROGRESS", "was installed", "What is done now"]);
}

#[test]
fn an_instance_that_was_never_scanned_says_so() {
    let run = unchanged(scan(), Status::Notified, &["the mode is `notify`"]);
    says(
        &run,
        &[
            "FOUND medium: i-0123456789abcdef0 (web-1) was never scanned for patches, nothing was changed",
            "no scan or installation of patches is on record",
            "It changes nothing.",
        ],
    );
    says_not(&run, &["operation Install", "[\"Install\"]", "DOWNTIME"]);
}

#[test]
fn what_no_patch_of_the_operating_system_mends_is_left_to_its_owner() {
    let run = only_told();
    expect![[r#"
        Subject: [Backstop] FOUND critical: i-0123456789abcdef0 (web-1) has 2 known holes that no OS patch mends

        FOUND critical: i-0123456789abcdef0 (web-1) has 2 known holes that no OS patch mends, nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2021-44228: log4j-core 2.14.1 (JAR), mended in 2.17.1. Inspector says: Update log4j-core to 2.17.1 or later
        - high: in code, CWE-89 - SQL injection in orders.py. Inspector says: Use parameterized queries

        What was done, and what can be done
        - Nothing was changed.
        - No patch of the operating system mends it.
        - Its owner has to mend it where the application or the image is built: bring in the version that is named, and roll it out.
        - Inspector closes a finding by itself when it sees that.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'

        Who or what led to it, as the event states
        - Who: Amazon Inspector
        - Call: Inspector2 Finding, 2026-11-28 01:58:00 UTC

        The run
        - Resource: arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0
        - Begun: 2026-11-28 02:00:00 UTC, ended: 2026-11-28 02:00:00 UTC, attempts: 1, policy version: 7

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&run));
    // Nothing else becomes of it.
    for status in [Status::Notified, Status::Exempt, Status::Held] {
        let mut run = run.clone();
        run.detail.reboot = Reboot::IfNeeded;
        run.head.status = status;
        says_not(
            &run,
            &[
                "restart",
                "install",
                "send-command",
                "snapshot",
                "DOWNTIME",
                "would be done",
            ],
        );
        let data = data(&run);
        assert_eq!((data.get("operation"), data.get("reboot")), (None, None));
    }
}

#[test]
fn what_inspector_says_is_to_be_done_is_not_cut_for_a_long_list_of_packages() {
    let mut run = only_told();
    run.detail.findings = vec![log4j()];
    let name = "org.springframework.boot:spring-boot-actuator-autoconfigure";
    let jar = |n: u8| {
        let version = format!("2.7.{n}.RELEASE-0123456789abcdef0123456789");
        package(name, &version, Some(&version), "JAR")
    };
    run.detail.findings[0].packages = (0..8).map(jar).collect();
    let mail = mail(&run);
    let line = mail.lines().find(|line| line.contains("CVE-2021-44228"));
    let line = line.unwrap();
    assert!(
        line.ends_with(". Inspector says: Update log4j-core to 2.17.1 or later"),
        "{line}"
    );
    assert!(line.contains(name), "{line}");
    assert!(line.chars().count() < 460, "{line}");
    // Nor is there more of it than there is room for.
    run.detail.findings[0].remediation = Some("word ".repeat(200));
    for package in &mut run.detail.findings[0].packages {
        package.remediation = Some(format!(
            "{} {}",
            package.version.clone().unwrap(),
            "x ".repeat(200)
        ));
    }
    let mail = self::mail(&run);
    let line = mail.lines().find(|line| line.contains("CVE-2021-44228"));
    let line = line.unwrap();
    assert!(line.contains(name) && line.chars().count() < 460, "{line}");
}

#[test]
fn what_a_patch_mends_and_what_none_does_stand_apart() {
    let mut run = install();
    run.detail.findings.extend([log4j(), code()]);
    run.detail.findings_total = 4;
    let lead = lead(&run);
    let (first, rest) = lead
        .split_once("What no patch of the operating system mends\n")
        .unwrap();
    assert!(first.contains("CVE-2026-11111") && !first.contains("log4j"));
    assert!(rest.contains("log4j-core 2.14.1 (JAR), mended in 2.17.1. Inspector says: Update log4j-core to 2.17.1 or later"));
    assert!(rest.contains("- high: in code, CWE-89 - SQL injection in orders.py. Inspector says: Use parameterized queries\n"), "{rest}");
    let patchable: Vec<bool> = data(&run)["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["patchable"].as_bool().unwrap())
        .collect();
    assert_eq!(patchable, [true, true, false, false]);
}

#[test]
fn what_has_no_mended_version_yet_says_so() {
    let mut run = only_told();
    run.detail.findings = vec![finding(
        5,
        Severity::High,
        &["CVE-2026-55555"],
        vec![package("glibc", "2.34-1", None, "OS")],
    )];
    says(
        &run,
        &["- high CVE-2026-55555: glibc 2.34-1, no version mends it yet\n"],
    );
}

#[test]
fn what_was_still_active_after_every_approved_patch_says_so() {
    let mut run = only_told();
    run.detail.findings = vec![kernel()];
    run.detail.findings_total = 1;
    run.detail.findings[0].unmended = true;
    run.detail.reasons = vec!["every approved patch was installed and did not mend it: does the patch baseline approve the fixed version?".to_owned()];
    expect![[r#"
        Subject: [Backstop] FOUND critical: i-0123456789abcdef0 has 1 known hole that no approved patch mends

        FOUND critical: i-0123456789abcdef0 (web-1) has 1 known hole that no approved patch mends, nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1, STILL ACTIVE after every approved patch had been installed

        What was done, and what can be done
        - Nothing was changed.
        - Every approved patch was installed and did not mend it: does the patch baseline approve the fixed version?
        - What is still active: approve the version that mends it in the patch baseline, or install it by hand. What is not in effect before a restart (a kernel) is still found until then.
        - Inspector closes a finding by itself when it sees that.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=vulnerable-package until=2027-02-26 owner=team-web reason=why it must stay as it is'"#]].assert_eq(&lead(&run));
    says_not(&run, &["send-command", "is built"]);
    assert_eq!(data(&run)["findings"][0]["unmended"], true);
}

#[test]
fn an_unmanaged_instance_is_told_with_what_it_lacks_and_how_to_mend_it() {
    let mut run = unmanaged();
    expect![[r#"
        Subject: [Backstop] FOUND medium: i-0123456789abcdef0 (web-1) is not managed by Systems Manager

        FOUND medium: i-0123456789abcdef0 (web-1) is not managed by Systems Manager, nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: unmanaged-instance.

        What is not managed
        - i-0123456789abcdef0 (web-1): not managed by Systems Manager.
        - Which approved patches are missing is not known.

        What was done
        - Nothing was changed.
        - Systems Manager cannot reach it, so that nothing can be patched.
        - Role: it has no instance profile; give it one whose role has AmazonSSMManagedInstanceCore, or turn on default host management.
        - Endpoint: its subnet has no default route, and its VPC has no interface endpoint for ssm and ssmmessages.

        How it comes under Systems Manager
        - Role: aws ec2 associate-iam-instance-profile --region eu-central-1 --instance-id i-0123456789abcdef0 --iam-instance-profile 'Name=<a profile whose role has AmazonSSMManagedInstanceCore>'
        - Endpoint: give its VPC interface endpoints for the services ssm and ssmmessages of this Region, with private DNS, and let them in from the instance on TCP 443; or a route through a NAT gateway.
        - See whether it is online: aws ssm describe-instance-information --region eu-central-1 --filters 'Key=InstanceIds,Values=i-0123456789abcdef0'
        - Backstop does none of this: a role is a right that the workload gets. Once the instance is online, the next sweep looks at it again.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=unmanaged-instance until=2027-02-26 owner=team-web reason=why it must stay as it is'"#]].assert_eq(&lead(&run));
    says_not(&run, &["send-command", "restart"]);

    run.detail.agent = Some(Agent {
        ping: "ConnectionLost".to_owned(),
        last_ping: Some(at("00:00:00")),
        ..Agent::default()
    });
    run.detail.findings = vec![openssl()];
    run.detail.findings_total = 1;
    run.detail.reasons = vec![
        "Systems Manager cannot reach it, so that nothing can be patched".to_owned(),
        "its agent is registered but `ConnectionLost`, and was last heard of at 2026-11-28T00:00:00Z: see that amazon-ssm-agent is running, and that its role and its way to Systems Manager are as they were".to_owned(),
    ];
    run.detail.lacks = vec![Need::Agent];
    says(
        &run,
        &[
            "is out of reach of Systems Manager, nothing was changed",
            "critical CVE-2026-11111, CVE-2026-11112",
            "Agent, on the instance: sudo systemctl status amazon-ssm-agent",
        ],
    );
    says_not(&run, &["associate-iam-instance-profile", "give its VPC"]);
    // A sentence is shown and never read: one of an earlier release says no more.
    run.detail.lacks = Vec::new();
    says(&run, &["- Its agent is registered but `ConnectionLost`"]);
    says_not(&run, &["Agent, on the instance"]);
}

#[test]
fn what_waits_says_for_what() {
    let mut run = unchanged(
        missing(),
        Status::Pending,
        &["it waits for the maintenance window that opens at 2026-11-29T02:00:00Z"],
    );
    run.detail.waits = Some(Wait::Window);
    run.detail.reboot = Reboot::IfNeeded;
    expect![[r#"
        Subject: [Backstop] PENDING high: i-0123456789abcdef0 (web-1) lacks 3 approved patches

        PENDING high: i-0123456789abcdef0 (web-1) lacks 3 approved patches, it waits
        Account 111122223333, eu-central-1. Team: team-web. Control: missing-patches.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What it waits for
        - Nothing was changed.
        - It waits for the maintenance window that opens at 2026-11-29T02:00:00Z.
        - Nothing has to be done: the sweep takes it up by itself then.
        - This will be done then:
        - First snapshots of all its volumes are taken.
        - The command AWS-RunPatchBaseline (operation Install) installs EVERY approved patch that is missing, not only those for what was found.
        - DOWNTIME: the instance RESTARTS once anything has been installed, or if an earlier patch waits for a restart. The command is sent inside a maintenance window of the policy; a long installation may end after it.
        - A patch cannot be undone.

        How to install the patches yourself
        - aws ssm send-command --region eu-central-1 --document-name AWS-RunPatchBaseline --instance-ids i-0123456789abcdef0 --parameters '{"Operation":["Install"],"RebootOption":["RebootIfNeeded"]}'
        - It installs every approved patch that is missing, and cannot be undone: take snapshots before.

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=missing-patches until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));
    assert_eq!(data(&run)["waits"], "window");
}

#[test]
fn what_is_refused_gives_its_reason() {
    let run = unchanged(
        missing(),
        Status::Refused,
        &[
            "it is a member of the Auto Scaling group web: replace it from a patched image (or allow it: `patching.auto_scaling`)",
        ],
    );
    expect![[r#"
        Subject: [Backstop] REFUSED high: i-0123456789abcdef0 (web-1) lacks 3 approved patches

        REFUSED high: i-0123456789abcdef0 (web-1) lacks 3 approved patches, and Backstop does not patch it
        Account 111122223333, eu-central-1. Team: team-web. Control: missing-patches.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        Why it is not patched, and what can be done
        - Nothing was changed.
        - It is a member of the Auto Scaling group web: replace it from a patched image (or allow it: `patching.auto_scaling`).
        - Remove the cause, and the next sweep looks at it again (at once: backstop sweep).

        How to opt out
        - aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value=missing-patches until=2027-02-26 owner=team-web reason=why it must stay as it is'
        - An opt-out of vulnerable-package or of missing-patches holds for both: their remediation is one."#]].assert_eq(&lead(&run));

    let mut run = unchanged(
        missing(),
        Status::Refused,
        &["its agent is registered but `ConnectionLost`"],
    );
    run.detail.lacks = vec![Need::Agent];
    says(
        &run,
        &["How it comes under Systems Manager\n- Agent, on the instance"],
    );
}

#[test]
fn an_opt_out_says_where_it_stands_and_how_to_end_it() {
    let mut run = unchanged(
        install(),
        Status::Exempt,
        &["the tag backstop:opt-out opts it out"],
    );
    run.head.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    expect![[r#"
        Subject: [Backstop] EXEMPT critical: i-0123456789abcdef0 (web-1) has 2 known holes

        EXEMPT critical: i-0123456789abcdef0 (web-1) has 2 known holes, and is exempt
        Account 111122223333, eu-central-1. Team: team-web. Control: vulnerable-package.

        What is vulnerable
        - i-0123456789abcdef0 (web-1): Amazon Linux 2023, SSM agent 3.3.987.0 Online, last heard of 2026-11-28 01:57:00 UTC.
        - critical CVE-2026-11111, CVE-2026-11112: openssl 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9; openssl-libs 1:3.0.8-1.amzn2023.0.1, mended in 1:3.0.8-1.amzn2023.0.9
        - high CVE-2026-22222: kernel 6.1.9-1, mended in 6.1.12-1
        - Approved patches: 3 missing (Scan of 2026-11-28 00:30:00 UTC, baseline pb-0123456789abcdef0).

        What was done
        - Nothing was changed.
        - The tag backstop:opt-out opts it out.
        - The opt-out holds until 2027-01-31, by team-web: vendor audit.

        How to end the opt-out
        - aws ec2 delete-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out'"#]].assert_eq(&lead(&run));
    says_not(&run, &["would be done", "send-command"]);

    run.head.status = Status::Held;
    run.detail.reasons = vec!["the tag backstop:opt-out cannot be read".to_owned()];
    run.head.exemption = Exemption::Malformed {
        value: "allways".to_owned(),
        problem: "`allways` is not a control".to_owned(),
        key: None,
        longest_days: None,
    };
    says(
        &run,
        &[
            "HELD critical: i-0123456789abcdef0 (web-1) has 2 known holes, its opt-out tag cannot be read",
            "The tag's value is `allways`, and `allways` is not a control.",
            "How it is to be written: `all` or control names",
        ],
    );

    run.head.exemption = Exemption::Malformed {
        value: "all".to_owned(),
        problem: "its key is `Backstop:Opt-Out`".to_owned(),
        key: Some("Backstop:Opt-Out".to_owned()),
        longest_days: None,
    };
    says(
        &run,
        &[
            r#"delete-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags '[{"Key":"Backstop:Opt-Out"}]'"#,
        ],
    );
}

#[test]
fn what_keeps_the_control_from_acting_says_the_way_out() {
    let why = || "its patches could not be installed".to_owned();
    for (because, way_out) in [
        (
            Reason::Existing,
            "`\"existing\": \"enforce\"` for missing-patches",
        ),
        (
            Reason::ControlTripped { why: why() },
            "- backstop re-arm missing-patches\n",
        ),
        (
            Reason::ResourceTripped { why: why() },
            "- backstop re-arm missing-patches i-0123456789abcdef0\n",
        ),
        (
            Reason::KillSwitch,
            "first sweep after the kill switch is off",
        ),
    ] {
        let mut run = unchanged(missing(), because.status(), &[&because.to_string()]);
        run.detail.because = Some(because);
        says(
            &run,
            &["Nothing was changed.", way_out, "This would be done:"],
        );
    }
    // A run that had begun keeps its snapshots.
    let mut run = unchanged(missing(), Status::Stopped, &["the kill switch is on"]);
    run.detail.snapshots = SNAPSHOTS.iter().map(ToString::to_string).collect();
    says(&run, SNAPSHOTS);
}

#[test]
fn every_message_says_how_to_opt_out_or_to_end_it() {
    for status in STATUSES {
        for (run, control) in [
            (install(), "vulnerable-package"),
            (missing(), "missing-patches"),
            (unmanaged(), "unmanaged-instance"),
        ] {
            let mut run = run;
            run.head.status = *status;
            match status {
                Status::Exempt | Status::Held => says(
                    &run,
                    &[
                        "aws ec2 delete-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out'\n",
                    ],
                ),
                _ => says(
                    &run,
                    &[&format!(
                        "aws ec2 create-tags --region eu-central-1 --resources i-0123456789abcdef0 --tags 'Key=backstop:opt-out,Value={control} until=2027-02-26 owner=team-web reason=why it must stay as it is'\n"
                    )],
                ),
            }
        }
    }
}

// ---------------------------------------------------------------------- the format

#[test]
fn programs_get_everything() {
    let mut run = awaiting();
    run.head.managed_by = Some("the CloudFormation stack web".to_owned());
    let data = data(&run);
    assert!(PATCHING.is_valid(&data), "{data:#}");
    let read: PatchingNotification = serde_json::from_value(data.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), data);
    expect![[r#"
        {
          "account": "111122223333",
          "actor": {
            "event_id": "5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e",
            "event_name": "Inspector2 Finding",
            "event_time": "2026-11-28T01:58:00Z",
            "principal": "Amazon Inspector"
          },
          "after": {
            "baseline": "pb-0123456789abcdef0",
            "ended_at": "2026-11-28T02:05:00Z",
            "failed": 0,
            "missing": 0,
            "operation": "Install",
            "pending_reboot": 3
          },
          "agent": {
            "last_ping": "2026-11-28T01:57:00Z",
            "ping": "Online",
            "platform": "Amazon Linux 2023",
            "version": "3.3.987.0"
          },
          "attempts": 1,
          "before": {
            "baseline": "pb-0123456789abcdef0",
            "ended_at": "2026-11-28T00:30:00Z",
            "failed": 0,
            "missing": 3,
            "operation": "Scan",
            "pending_reboot": 0
          },
          "command": {
            "console": "https://eu-central-1.console.aws.amazon.com/systems-manager/run-command/0831e1a8-a1ac-4257-a1fd-c831b48c4107?region=eu-central-1",
            "ended": "Success",
            "id": "0831e1a8-a1ac-4257-a1fd-c831b48c4107",
            "sent_at": "2026-11-28T02:00:10Z"
          },
          "control": "vulnerable-package",
          "entry": "01KAT5J3V0QZ8Y2N4M6P8R0T2W",
          "exemption": {
            "state": "none"
          },
          "findings": [
            {
              "arn": "arn:aws:inspector2:eu-central-1:111122223333:finding/00000000000000000000000000000001",
              "cves": [
                "CVE-2026-11111",
                "CVE-2026-11112"
              ],
              "packages": [
                {
                  "fixed_in": "1:3.0.8-1.amzn2023.0.9",
                  "manager": "OS",
                  "name": "openssl",
                  "version": "1:3.0.8-1.amzn2023.0.1"
                },
                {
                  "fixed_in": "1:3.0.8-1.amzn2023.0.9",
                  "manager": "OS",
                  "name": "openssl-libs",
                  "version": "1:3.0.8-1.amzn2023.0.1"
                }
              ],
              "patchable": true,
              "reported_at": "2026-11-28T01:58:00Z",
              "severity": "critical",
              "title": "CVE-2026-11111 - openssl",
              "unmended": false
            },
            {
              "arn": "arn:aws:inspector2:eu-central-1:111122223333:finding/00000000000000000000000000000002",
              "cves": [
                "CVE-2026-22222"
              ],
              "packages": [
                {
                  "fixed_in": "6.1.12-1",
                  "manager": "OS",
                  "name": "kernel",
                  "version": "6.1.9-1"
                }
              ],
              "patchable": true,
              "reported_at": "2026-11-28T01:58:00Z",
              "severity": "high",
              "title": "CVE-2026-22222 - kernel",
              "unmended": false
            }
          ],
          "findings_total": 2,
          "headline": "PATCHED critical: i-0123456789abcdef0 (web-1): patches installed, awaiting rescan, a restart is pending",
          "installed_at": "2026-11-28T02:06:00Z",
          "key": "4bf09760f7635fca5f0209b9464592e7",
          "kind": "patching",
          "ledger_key": {
            "pk": "entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W",
            "sk": "entry"
          },
          "managed_by": "the CloudFormation stack web",
          "missing": [
            {
              "classification": "Security",
              "cves": [
                "CVE-2026-11111",
                "CVE-2026-11112"
              ],
              "severity": "Critical",
              "title": "openssl.x86_64:1:3.0.8-1.amzn2023.0.9"
            },
            {
              "classification": "Security",
              "cves": [],
              "severity": "Important",
              "title": "kernel.x86_64:6.1.12-1"
            },
            {
              "classification": "Bugfix",
              "cves": [],
              "severity": "",
              "title": "tzdata.noarch:2026b-1"
            }
          ],
          "omitted": {
            "cves": 0,
            "findings": 0,
            "missing": 0,
            "packages": 0,
            "reasons": 0,
            "snapshots": 0
          },
          "operation": "install",
          "outcome": "awaiting-rescan",
          "policy_version": 7,
          "reasons": [
            "3 of the installed patches may take effect only when the instance restarts, which is left to its owner"
          ],
          "reboot": "never",
          "region": "eu-central-1",
          "resource": {
            "arn": "arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0",
            "id": "i-0123456789abcdef0",
            "name": "web-1"
          },
          "severity": "critical",
          "snapshots": [
            "snap-0aaaaaaaaaaaaaaaa",
            "snap-0bbbbbbbbbbbbbbbb"
          ],
          "snapshots_wanted": true,
          "started_at": "2026-11-28T02:00:00Z",
          "team": "team-web",
          "version": 1
        }
    "#]].assert_eq(&format!("{data:#}\n"));
    for (field, wrong) in [
        ("version", json!(2)),
        ("kind", json!("encryption")),
        ("outcome", json!("done")),
        ("operation", json!("Install")),
        ("reboot", json!(true)),
        ("findings", json!({})),
        ("command", json!({ "id": 1 })),
    ] {
        let mut data = data.clone();
        data[field] = wrong;
        assert!(!PATCHING.is_valid(&data), "{field}");
    }
}

// -------------------------------------------------------------------------- hostile

/// A run whose every text is `text`, with so many of everything.
pub(crate) fn made_of(
    text: &str,
    status: Status,
    (control, operation, patchable): (ControlId, Operation, bool),
    items: usize,
    ended: bool,
) -> Patching {
    let t = || text.to_owned();
    let state = || PatchState {
        operation: t(),
        ended_at: Some(Timestamp::MAX),
        baseline: Some(t()),
        missing: u32::MAX,
        failed: u32::MAX,
        pending_reboot: u32::MAX,
    };
    let package = || Package {
        name: t(),
        version: Some(t()),
        fixed_in: Some(t()),
        manager: if patchable { "OS".to_owned() } else { t() },
        remediation: Some(t()),
    };
    let mut run = install();
    run.head.id = t();
    run.head.control = control;
    run.detail.operation = operation;
    run.head.resource = t();
    run.head.resource_name = t();
    run.head.account = t();
    run.head.region = t();
    run.head.team = Some(t());
    run.head.status = status;
    run.detail.reboot = if ended {
        Reboot::IfNeeded
    } else {
        Reboot::Never
    };
    run.detail.findings = (0..items)
        .map(|n| Vulnerability {
            arn: format!("{text}{n}"),
            severity: Severity::High,
            title: t(),
            cves: vec![t(); n],
            packages: (0..n % 12).map(|_| package()).collect(),
            remediation: Some(t()),
            reported_at: None,
            installed_by: Some(t()),
            unmended: n % 2 == 1,
        })
        .collect();
    run.detail.findings_total = u32::MAX;
    run.detail.missing = vec![patch(text, text, text, &[text; 20]); items];
    run.detail.before = Some(state());
    run.detail.after = ended.then(state);
    run.detail.agent = Some(Agent {
        ping: t(),
        last_ping: Some(Timestamp::MIN),
        version: Some(t()),
        platform: Some(t()),
    });
    run.detail.snapshots = (0..items).map(|n| format!("{text}{n}")).collect();
    run.detail.batch = Some(t());
    run.detail.command = Some(Sent {
        id: t(),
        at: Timestamp::MAX,
        ended: ended.then(t),
        exit_code: ended.then_some(i32::MIN),
        seen_ended: Some(Timestamp::MAX),
    });
    run.detail.reasons = vec![t(); items];
    run.head.managed_by = Some(t());
    run.detail.installed_at = ended.then_some(Timestamp::MAX);
    run.head.exemption = match items % 3 {
        0 => Exemption::Malformed {
            value: t(),
            problem: t(),
            key: None,
            longest_days: None,
        },
        1 => Exemption::Exempt(OptOut {
            until: None,
            owner: Some(t()),
            reason: Some(t()),
        }),
        _ => Exemption::Ended(OptOut {
            until: None,
            owner: Some(t()),
            reason: Some(t()),
        }),
    };
    run.head.actor = Actor {
        principal: Some(t()),
        user_agent: Some(t()),
        source_address: Some(t()),
        invoked_by: Some(t()),
        event_name: Some(t()),
        event_time: None,
        event_id: Some(t()),
        account: Some(t()),
        on_behalf_of: Some(t()),
    };
    run
}

#[test]
fn texts_that_are_far_too_long_or_no_texts_at_all_fit() {
    let texts = [
        "x".repeat(1500),
        "\"\\".repeat(750),
        "😀".repeat(1500),
        "\u{1}\r\n\u{202e}".repeat(100),
        String::new(),
    ];
    // Every status with every text, and with each shape once.
    for (n, text) in texts.iter().enumerate() {
        for (m, status) in STATUSES.iter().enumerate() {
            let shape = SHAPES[(n + m) % SHAPES.len()];
            let run = made_of(text, *status, shape, 3, true);
            check_against(&message(&run), &PATCHING);
        }
    }
}

#[test]
fn as_much_as_a_record_holds_fits_and_what_is_left_out_is_counted() {
    let shape = (ControlId::VulnerablePackage, Operation::Install, true);
    let run = made_of(&"\"\\'".repeat(50), Status::Failed, shape, 100, true);
    check_against(&message(&run), &PATCHING);
    let data = data(&run);
    for list in ["snapshots", "reasons"] {
        let told = data[list].as_array().unwrap().len() as u64;
        assert_eq!(
            told + data["omitted"][list].as_u64().unwrap(),
            100,
            "{list}"
        );
    }
    let listed = |field: &str| -> usize {
        data["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding[field].as_array().unwrap().len())
            .sum()
    };
    let told = data["findings"].as_array().unwrap().len();
    let recorded: usize = run.detail.findings[..told]
        .iter()
        .map(|f| f.packages.len())
        .sum();
    assert_eq!(
        (listed("packages") + data["omitted"]["packages"].as_u64().unwrap() as usize),
        recorded
    );
}

#[test]
fn a_long_name_goes_before_anything_else_does() {
    let mut subjects = String::new();
    for name in [
        "web",
        "größer 東京",
        "the third web server of the shop, blue",
    ] {
        for status in STATUSES {
            let mut run = sent(install());
            run.head.resource_name = name.to_owned();
            run.head.status = *status;
            subjects += &format!("{}\n", message(&run).subject);
        }
    }
    expect![[r#"
        [Backstop] IN PROGRESS critical: i-0123456789abcdef0 (web) gets 3 patches, no restart
        [Backstop] FIXED critical: i-0123456789abcdef0 (web): Inspector has closed its findings
        [Backstop] PATCHED critical: i-0123456789abcdef0 (web): patches installed, awaiting rescan
        [Backstop] FAILED critical: i-0123456789abcdef0 (web): the end of its patching is unknown
        [Backstop] FOUND critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] EXEMPT critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] HELD critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] EXISTING critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] TRIPPED critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] STOPPED critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] PENDING critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] REFUSED critical: i-0123456789abcdef0 (web) has 2 known holes
        [Backstop] ROLLED BACK critical: i-0123456789abcdef0 (web) was left as it was, no command was sent
        [Backstop] IN PROGRESS critical: i-0123456789abcdef0 (gr??er ??) gets 3 patches, no restart
        [Backstop] FIXED critical: i-0123456789abcdef0 (gr??er ??): Inspector has closed its findings
        [Backstop] PATCHED critical: i-0123456789abcdef0 (gr??er ??): patches installed, awaiting rescan
        [Backstop] FAILED critical: i-0123456789abcdef0 (gr??er ??): the end of its patching is unknown
        [Backstop] FOUND critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] EXEMPT critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] HELD critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] EXISTING critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] TRIPPED critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] STOPPED critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] PENDING critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] REFUSED critical: i-0123456789abcdef0 (gr??er ??) has 2 known holes
        [Backstop] ROLLED BACK critical: i-0123456789abcdef0 was left as it was, no command was sent
        [Backstop] IN PROGRESS critical: i-0123456789abcdef0 (the third w...) gets 3 patches, no restart
        [Backstop] FIXED critical: i-0123456789abcdef0 (the third w...): Inspector has closed its findings
        [Backstop] PATCHED critical: i-0123456789abcdef0 (the th...): patches installed, awaiting rescan
        [Backstop] FAILED critical: i-0123456789abcdef0 (the th...): the end of its patching is unknown
        [Backstop] FOUND critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] EXEMPT critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] HELD critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] EXISTING critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] TRIPPED critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] STOPPED critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] PENDING critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] REFUSED critical: i-0123456789abcdef0 (the third web server of...) has 2 known holes
        [Backstop] ROLLED BACK critical: i-0123456789abcdef0 was left as it was, no command was sent
    "#]].assert_eq(&subjects);
}

// ------------------------------------------------- what no second try helps against

#[test]
fn an_operating_system_that_cannot_be_patched_is_told_with_what_it_needs() {
    let mut run = sent(scan());
    let end = Ended {
        status: "Failed".to_owned(),
        started: true,
        exit_code: Some(146),
        output: Some("x\nroot [ERROR]: Unsupported Operating System\ny".to_owned()),
        state: None,
    };
    run.take_end(&end, at("02:06:00"));
    says(
        &run,
        &[
            "FAILED medium: i-0123456789abcdef0 (web-1) cannot be patched: its operating system is not supported",
            "Patch Manager cannot patch its operating system as it is (root [ERROR]: Unsupported Operating System, exit code 146)",
            "A scan changes nothing: the instance is as it was.",
            "patch-manager-prerequisites",
            "sends it no further command until its SSM agent or its operating system is another version",
        ],
    );
    says_not(&run, &["may have installed", "cool_down_hours"]);
}

#[test]
fn a_run_whose_command_never_began_is_no_failure() {
    let mut run = sent(install());
    let end = Ended {
        status: "Terminated".to_owned(),
        ..Ended::default()
    };
    run.take_end(&end, at("02:06:00"));
    let last = run.detail.not_begun.last().unwrap();
    run.detail.reasons.push(never_began(last));
    run.head.status = Status::RolledBack;
    run.head.finished_at = Some(at("02:06:10"));
    says(
        &run,
        &[
            "i-0123456789abcdef0 (web-1) was left as it was, no command ran on it",
            "did not begin on the instance: it had failed on too many other instances (Terminated)",
        ],
    );
    says_not(&run, &["FAILED critical", "no command was sent"]);
}

#[test]
fn an_installation_that_ended_badly_and_did_its_work_says_both() {
    let run = ended(
        missing(),
        "Failed",
        Some(state("Install", "02:05:00", 0, 0, 0)),
    );
    assert_eq!(run.head.status, Status::Remediated);
    says(
        &run,
        &[
            "has all approved patches",
            "The command ended as Failed, but Systems Manager shows that it did its work.",
        ],
    );
}

#[test]
fn a_fix_that_needs_a_subscription_says_which() {
    let mut run = unchanged(
        install(),
        Status::Notified,
        &["the version that fixes it comes with a subscription (Ubuntu Pro)"],
    );
    for finding in &mut run.detail.findings {
        for package in &mut finding.packages {
            package.fixed_in = Some("3.0.2-0ubuntu1.15+esm1".to_owned());
        }
    }
    says(
        &run,
        &[
            "mended in 3.0.2-0ubuntu1.15+esm1 (needs Ubuntu Pro)",
            "attach the instance to it",
        ],
    );
    says_not(&run, &["where the application or the image is built"]);
}
