//! Patching, case by case: the numbered scenarios of `patching::decide`'s header
//! as tables of what is there and what is decided about it; what the end of a
//! command comes to, and what tells one record from another; and random
//! instances under random policies, held against an oracle of its own.
//!
//! What is there is an instance that wants nothing, and what a case changes
//! about it. What is decided: `<status> <control> <operation>`, what it waits
//! for, and for each reason some words of it.

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::controls::{missing_patches, vulnerable_package};
use backstop_core::exemption::{Exemption, OPT_OUT_TAG};
use backstop_core::guards::{Guards, Trip};
use backstop_core::patching::decide::{
    About, Circumstances, Decision, Verdict, baseline, decide, record, stops,
};
use backstop_core::patching::{
    Agent, Came, Command, Ended, Host, MOST_LISTED, MOST_RECORDED, OS, Operation, Package, Patch,
    PatchFacts, PatchState, Patching, Reach, Reboot, Reports, Sent, Unpatchable, Vulnerability,
    Wait,
};
use backstop_core::policy::Policy;
use backstop_core::reason::{Meanwhile, Reason};
use backstop_core::run::{Head, Run};
use backstop_core::sweep::patching::may_be_deleted;
use backstop_core::trigger::Trigger;
use backstop_core::volumes::Snapshot;
use backstop_core::words::{Actor, ControlId, Mode, Severity, Status};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

const INSTANCE: &str = "i-0123456789abcdef0";

/// A Tuesday.
fn now() -> Timestamp {
    at("2026-11-24T10:00:00Z")
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn hours_ago(hours: i64) -> Timestamp {
    now() - SignedDuration::from_hours(hours)
}

fn minutes_ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

// --- what is there ----------------------------------------------------------

fn agent(ping: &str) -> Agent {
    Agent {
        ping: ping.into(),
        last_ping: Some(minutes_ago(3)),
        version: Some("3.3.1000.0".into()),
        platform: Some("Amazon Linux 2023".into()),
    }
}

fn state(operation: &str, ended_at: Timestamp, missing: u32) -> PatchState {
    PatchState {
        operation: operation.into(),
        ended_at: Some(ended_at),
        baseline: Some("pb-0123456789abcdef0".into()),
        missing,
        failed: 0,
        pending_reboot: 0,
    }
}

/// Running for weeks, managed, online, scanned two days ago, and with nothing
/// missing.
fn healthy() -> PatchFacts {
    PatchFacts {
        host: Some(Host {
            id: INSTANCE.into(),
            state: "running".into(),
            launched_at: Some(at("2026-11-01T00:00:00Z")),
            tags: BTreeMap::from([
                ("Name".to_owned(), "web-1".to_owned()),
                ("owner".to_owned(), "team-web".to_owned()),
            ]),
            instance_profile: Some("arn:aws:iam::111122223333:instance-profile/web".into()),
            public_ipv4: false,
            subnet: Some("subnet-1".into()),
            vpc: Some("vpc-1".into()),
        }),
        agent: Some(agent("Online")),
        state: Some(state("Scan", hours_ago(48), 0)),
        ..PatchFacts::default()
    }
}

fn with(change: impl FnOnce(&mut PatchFacts)) -> PatchFacts {
    let mut facts = healthy();
    change(&mut facts);
    facts
}

fn and(mut facts: PatchFacts, change: impl FnOnce(&mut PatchFacts)) -> PatchFacts {
    change(&mut facts);
    facts
}

fn host(facts: &mut PatchFacts) -> &mut Host {
    facts.host.as_mut().unwrap()
}

fn arn(n: u32) -> String {
    format!("arn:aws:inspector2:eu-central-1:111122223333:finding/{n:032}")
}

fn finding(n: u32, severity: Severity, packages: Vec<Package>) -> Vulnerability {
    Vulnerability {
        arn: arn(n),
        severity,
        title: format!("CVE-2026-{n} - a package"),
        cves: vec![format!("CVE-2026-{n}")],
        packages,
        remediation: Some("Upgrade the package.".into()),
        reported_at: Some(hours_ago(1)),
        installed_by: None,
        unmended: false,
    }
}

fn package(name: &str, manager: &str, fixed_in: Option<&str>) -> Package {
    Package {
        name: name.into(),
        version: Some("1.0".into()),
        fixed_in: fixed_in.map(str::to_owned),
        manager: manager.into(),
        remediation: None,
    }
}

/// What a patch of the operating system mends.
fn of_os(n: u32, severity: Severity) -> Vulnerability {
    finding(n, severity, vec![package("openssl", OS, Some("1.1"))])
}

/// What none does.
fn of_npm(n: u32) -> Vulnerability {
    finding(
        n,
        Severity::Critical,
        vec![package("lodash", "NPM", Some("4.17.21"))],
    )
}

fn with_finding() -> PatchFacts {
    with(|f| f.findings = vec![of_os(1, Severity::High)])
}

fn with_missing() -> PatchFacts {
    with(|f| f.state = Some(state("Scan", hours_ago(48), 3)))
}

fn never_scanned() -> PatchFacts {
    with(|f| f.state = None)
}

fn unmanaged(f: &mut PatchFacts) {
    f.agent = None;
    f.state = None;
    host(f).instance_profile = None;
    f.reach = Some(Reach {
        default_route: Some("nat-1".into()),
        ..Reach::default()
    });
}

fn tagged(value: &str) -> impl FnOnce(&mut PatchFacts) + use<> {
    tagged_as(OPT_OUT_TAG, value)
}

fn tagged_as(key: &str, value: &str) -> impl FnOnce(&mut PatchFacts) + use<> {
    let (key, value) = (key.to_owned(), value.to_owned());
    move |f| {
        host(f).tags.insert(key, value);
    }
}

fn command(operation: &str, status: &str, requested_at: Timestamp) -> Command {
    Command {
        id: "0f0e0d0c-1111-2222-3333-444455556666".into(),
        operation: Some(operation.into()),
        status: status.into(),
        requested_at: Some(requested_at),
        ..Command::default()
    }
}

// --- under what is decided --------------------------------------------------

/// In mode `enforce`, with nothing that keeps a control from acting.
struct Under {
    policy: Value,
    mode: Mode,
    guards: BTreeMap<ControlId, Guards>,
    now: Timestamp,
}

fn defaults() -> Under {
    Under {
        policy: json!({ "version": 1 }),
        mode: Mode::Enforce,
        guards: BTreeMap::new(),
        now: now(),
    }
}

fn patching(settings: Value) -> Under {
    defaults().top("patching", settings)
}

impl Under {
    fn top(mut self, field: &str, value: Value) -> Self {
        self.policy[field] = value;
        self
    }

    fn control(mut self, control: ControlId, field: &str, value: Value) -> Self {
        self.policy["controls"][control.name()][field] = value;
        self
    }

    fn mode_of(self, control: ControlId, mode: &str) -> Self {
        self.control(control, "mode", json!(mode))
    }

    fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    fn spares(mut self, control: ControlId, fingerprints: &[String]) -> Self {
        let guards = self.guards.entry(control).or_default();
        guards.baseline.extend(fingerprints.iter().cloned());
        self
    }

    fn tripped(mut self, control: ControlId, everywhere: bool) -> Self {
        let trip = Some(Trip {
            at: hours_ago(1),
            why: "51 changes in an hour".into(),
        });
        let guards = self.guards.entry(control).or_default();
        if everywhere {
            guards.control_tripped = trip;
        } else {
            guards.resource_tripped = trip;
        }
        self
    }

    fn at(mut self, now: &str) -> Self {
        self.now = at(now);
        self
    }

    fn parsed(&self) -> Policy {
        Policy::parse(&self.policy.to_string()).unwrap()
    }

    fn decide(&self, facts: &PatchFacts) -> Decision {
        let circumstances = Circumstances {
            mode: self.mode,
            now: self.now,
            guards: &self.guards,
        };
        decide(facts, &self.parsed().patching(), &circumstances)
    }

    /// Holds a decision against what it is to be: as many reasons as there are
    /// texts, each with its text in it.
    #[track_caller]
    fn check(&self, facts: &PatchFacts, expected: &str, reasons: &[&str]) {
        let decision = self.decide(facts);
        assert_eq!(written(&decision), expected, "{:?}", decision.reasons);
        let fits = decision.reasons.len() == reasons.len()
            && decision
                .reasons
                .iter()
                .zip(reasons)
                .all(|(a, b)| a.contains(b));
        assert!(fits, "{:?} instead of {reasons:?}", decision.reasons);
    }

    #[track_caller]
    fn begins(&self, facts: &PatchFacts, control_and_operation: &str) {
        self.check(facts, &format!("in-progress {control_and_operation}"), &[]);
    }

    fn record(&self, facts: &PatchFacts) -> Option<Patching> {
        let about = About {
            id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
            trigger: &trigger(),
            partition: "aws",
            owner_tag: "owner",
            policy_version: 7,
            now: self.now,
        };
        record(facts, &self.decide(facts), &self.parsed().patching, about)
    }
}

fn trigger() -> Trigger {
    Trigger {
        resource: INSTANCE.into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor {
            principal: Some("Amazon Inspector".into()),
            ..Actor::default()
        },
    }
}

fn written(decision: &Decision) -> String {
    match &decision.verdict {
        Verdict::NotApplicable(why) => format!("not applicable: {why}"),
        Verdict::Compliant => "compliant".to_owned(),
        Verdict::Settling => "settling".to_owned(),
        Verdict::Violates(control) => {
            let operation = decision.operation.name().to_lowercase();
            let waits = match decision.waits {
                Some(wait) => format!(" waits for {}", wait_name(wait)),
                None => String::new(),
            };
            format!("{} {control} {operation}{waits}", decision.status.name())
        }
    }
}

fn wait_name(wait: Wait) -> &'static str {
    match wait {
        Wait::Running => "running",
        Wait::Age => "age",
        Wait::Window => "window",
        Wait::Command => "command",
        Wait::CoolDown => "cool-down",
    }
}

const BY_FINDING: &str = "vulnerable-package install";
const BY_STATE: &str = "missing-patches install";
const SCAN: &str = "missing-patches scan";

// --- 1: nothing missing, nothing reported, gone -------------------------------

#[test]
fn what_lacks_nothing_is_compliant_and_what_is_gone_is_not_judged() {
    for (facts, expected) in [
        (healthy(), "compliant"),
        (with(|f| f.host = None), "not applicable: it is gone"),
        (
            with(|f| host(f).state = "terminated".into()),
            "not applicable: it is terminated",
        ),
        (
            and(with_finding(), |f| host(f).state = "shutting-down".into()),
            "not applicable: it is terminated",
        ),
        (
            and(with_missing(), |f| host(f).state = "stopped".into()),
            "not applicable: it is stopped",
        ),
        (
            and(never_scanned(), |f| host(f).state = "pending".into()),
            "not applicable: it is pending",
        ),
        // Young, and with nothing that anybody found: nothing to come back for.
        (
            with(|f| host(f).launched_at = Some(minutes_ago(5))),
            "compliant",
        ),
    ] {
        defaults().check(&facts, expected, &[]);
    }
}

// --- 2: what a patch of the operating system mends ----------------------------

#[test]
fn what_a_patch_of_the_operating_system_mends_is_installed() {
    for severity in [Severity::High, Severity::Critical] {
        let facts = with(|f| f.findings = vec![of_os(1, severity)]);
        defaults().begins(&facts, BY_FINDING);
        assert_eq!(defaults().decide(&facts).severity, severity);
    }
}

#[test]
fn findings_below_the_policys_severity_are_left_alone() {
    let critical_only = || {
        defaults().control(
            ControlId::VulnerablePackage,
            "settings",
            json!({"severity": "critical"}),
        )
    };
    let all = || {
        defaults().control(
            ControlId::VulnerablePackage,
            "settings",
            json!({"severity": "low"}),
        )
    };
    let high = with_finding();
    let medium = with(|f| f.findings = vec![of_os(1, Severity::Medium)]);
    critical_only().check(&high, "compliant", &[]);
    defaults().check(&medium, "compliant", &[]);
    all().begins(&medium, BY_FINDING);
    let mixed = with(|f| f.findings = vec![of_os(1, Severity::Medium), of_os(2, Severity::High)]);
    let decision = defaults().decide(&mixed);
    assert_eq!(decision.findings.len(), 1);
    assert_eq!(decision.findings[0].arn, arn(2));
}

#[test]
fn what_a_patch_mends_comes_first_and_then_the_worst() {
    let facts = with(|f| {
        f.findings = vec![
            of_npm(1),
            of_os(4, Severity::High),
            of_os(2, Severity::High),
            of_os(3, Severity::Critical),
        ];
    });
    let decision = defaults().decide(&facts);
    let order: Vec<&str> = decision.findings.iter().map(|f| f.arn.as_str()).collect();
    assert_eq!(order, [arn(3), arn(2), arn(4), arn(1)]);
    assert_eq!(decision.severity, Severity::Critical);
}

#[test]
fn a_finding_of_which_one_package_of_several_is_the_systems_is_installed() {
    let facts = with(|f| {
        f.findings = vec![finding(
            1,
            Severity::High,
            vec![
                package("lodash", "NPM", Some("2")),
                package("curl", OS, Some("2")),
            ],
        )];
    });
    defaults().begins(&facts, BY_FINDING);
}

// --- 3: application packages, code, no fixed version ----------------------------

#[test]
fn what_no_patch_of_the_operating_system_mends_is_told_and_never_answered_with_a_command() {
    let only = "no patch of the operating system mends it";
    for packages in [
        vec![package("requests", "PIP", Some("2.33"))],
        vec![package("lodash", "NPM", Some("4.17.21"))],
        vec![package("log4j-core", "JAR", Some("2.17.1"))],
        vec![package("openssl", OS, None)],
        // A code finding.
        vec![],
        vec![
            package("openssl", OS, None),
            package("left", "PIP", Some("2")),
        ],
    ] {
        let facts = with(|f| f.findings = vec![finding(1, Severity::Critical, packages)]);
        defaults().check(&facts, &format!("notified {BY_FINDING}"), &[only]);
        // Nothing else keeps it from being told.
        let switched_off = defaults().top("kill_switch", json!(true));
        switched_off.check(&facts, &format!("notified {BY_FINDING}"), &[only]);
        let stopped = and(facts.clone(), |f| host(f).state = "stopped".into());
        defaults().check(&stopped, &format!("notified {BY_FINDING}"), &[only]);
        let spared = defaults().spares(
            ControlId::VulnerablePackage,
            &[vulnerable_package::fingerprint(&arn(1))],
        );
        spared.check(&facts, &format!("notified {BY_FINDING}"), &[only]);
        let young = and(facts, |f| host(f).launched_at = Some(minutes_ago(1)));
        defaults().check(&young, &format!("notified {BY_FINDING}"), &[only]);
    }
}

#[test]
fn application_packages_beside_missing_patches_do_not_keep_the_patches_from_being_installed() {
    let facts = and(with_missing(), |f| f.findings = vec![of_npm(1)]);
    defaults().begins(&facts, BY_STATE);
    let decision = defaults().decide(&facts);
    assert_eq!(decision.severity, Severity::Critical);
    assert_eq!(decision.findings.len(), 1, "the owner is told of them too");
}

#[test]
fn the_owner_of_an_unmanaged_instance_with_application_packages_hears_of_both() {
    let facts = and(healthy(), |f| {
        unmanaged(f);
        f.findings = vec![of_npm(1)];
    });
    let mends = "no patch of the operating system mends it";
    let expected = format!("notified {BY_FINDING}");
    defaults().check(&facts, &expected, &[mends, "role: "]);
    // Whoever wants to hear nothing of unmanaged instances does not.
    let off = defaults().mode_of(ControlId::UnmanagedInstance, "off");
    off.check(&facts, &expected, &[mends]);
}

#[test]
fn an_opt_out_of_missing_patches_does_not_silence_what_is_only_told() {
    let facts = with(|f| f.findings = vec![of_npm(1)]);
    let expected = format!("notified {BY_FINDING}");
    let other = and(facts.clone(), tagged("missing-patches"));
    defaults().check(&other, &expected, &["no patch of the operating system"]);
    let own = and(facts, tagged("vulnerable-package"));
    defaults().check(&own, &format!("exempt {BY_FINDING}"), &["opts it out"]);
}

// --- 4: missing patches, never scanned ------------------------------------------

#[test]
fn approved_patches_that_are_missing_or_failed_are_installed() {
    defaults().begins(&with_missing(), BY_STATE);
    let failed = with(|f| f.state.as_mut().unwrap().failed = 1);
    defaults().begins(&failed, BY_STATE);
}

#[test]
fn an_instance_that_was_never_scanned_is_scanned_and_nothing_is_installed() {
    defaults().begins(&never_scanned(), SCAN);
    // A scan changes nothing: neither the group nor the window matters.
    let member = and(never_scanned(), |f| {
        host(f)
            .tags
            .insert("aws:autoscaling:groupName".into(), "web".into());
    });
    patching(closed_window()).begins(&member, SCAN);
    // What is only told does not stand in its way.
    let facts = and(never_scanned(), |f| f.findings = vec![of_npm(1)]);
    defaults().begins(&facts, SCAN);
}

#[test]
fn a_scan_is_sent_to_no_instance_whose_agent_is_not_online() {
    for ping in ["ConnectionLost", "Inactive"] {
        let facts = and(never_scanned(), |f| f.agent = Some(agent(ping)));
        let decision = defaults().decide(&facts);
        assert_eq!(
            decision.control(),
            Some(ControlId::UnmanagedInstance),
            "{ping}"
        );
        assert_eq!(decision.status, Status::Notified, "{ping}");
        let off = defaults().mode_of(ControlId::UnmanagedInstance, "off");
        off.check(&facts, "compliant", &[]);
    }
}

#[test]
fn in_mode_notify_no_scan_is_sent() {
    defaults().mode(Mode::Notify).check(
        &never_scanned(),
        &format!("notified {SCAN}"),
        &["the mode is `notify`"],
    );
}

#[test]
fn a_young_instance_that_was_never_scanned_is_left_to_settle() {
    let facts = and(never_scanned(), |f| {
        host(f).launched_at = Some(minutes_ago(59))
    });
    defaults().check(&facts, "settling", &[]);
    let facts = and(never_scanned(), |f| {
        host(f).launched_at = Some(minutes_ago(60))
    });
    defaults().begins(&facts, SCAN);
}

#[test]
fn a_scan_that_left_nothing_is_not_sent_again_within_the_cool_down() {
    for status in ["Success", "Failed", "TimedOut"] {
        let of_late = and(never_scanned(), |f| {
            f.commands = vec![command("Scan", status, hours_ago(23))];
        });
        defaults().check(
            &of_late,
            &format!("pending {SCAN} waits for cool-down"),
            &["2026-11-24T11:00:00Z"],
        );
        let long_ago = and(never_scanned(), |f| {
            f.commands = vec![command("Scan", status, hours_ago(24))];
        });
        defaults().begins(&long_ago, SCAN);
    }
}

// --- 5: not managed, not online ---------------------------------------------------

#[test]
fn an_instance_that_systems_manager_cannot_reach_is_told_with_what_it_lacks() {
    let cannot = "Systems Manager cannot reach it";
    let expected = "notified unmanaged-instance install";
    let bare = with(unmanaged);
    for facts in [
        bare.clone(),
        and(bare.clone(), |f| {
            f.findings = vec![of_os(1, Severity::High)]
        }),
    ] {
        defaults().check(&facts, expected, &[cannot, "role: "]);
        // Nothing is changed about it in any mode, and so nothing holds it.
        let notify = defaults().mode(Mode::Notify);
        notify.check(&facts, expected, &[cannot, "role: "]);
        let switched_off = defaults().top("kill_switch", json!(true));
        switched_off.check(&facts, expected, &[cannot, "role: "]);
    }
    let lost = and(with_missing(), |f| f.agent = Some(agent("ConnectionLost")));
    defaults().check(&lost, expected, &[cannot, "`ConnectionLost`"]);
}

#[test]
fn with_unmanaged_instance_off_a_finding_is_refused_with_what_the_instance_lacks() {
    let off = || defaults().mode_of(ControlId::UnmanagedInstance, "off");
    let facts = and(with(unmanaged), |f| {
        f.findings = vec![of_os(1, Severity::High)]
    });
    off().check(&facts, "refused vulnerable-package scan", &["role: "]);
    let lost = and(with_missing(), |f| f.agent = Some(agent("Inactive")));
    off().check(&lost, &format!("refused {BY_STATE}"), &["`Inactive`"]);
    off().check(&with(unmanaged), "compliant", &[]);
}

#[test]
fn an_unmanaged_instance_that_is_young_or_not_running_is_not_told_as_unmanaged() {
    let young = and(with(unmanaged), |f| {
        host(f).launched_at = Some(minutes_ago(10))
    });
    defaults().check(&young, "compliant", &[]);
    let stopped = and(with(unmanaged), |f| host(f).state = "stopped".into());
    defaults().check(&stopped, "not applicable: it is stopped", &[]);
}

#[test]
fn the_tag_of_unmanaged_instance_opts_out_of_being_told_so() {
    let expected = "exempt unmanaged-instance install";
    let facts = and(with(unmanaged), tagged("unmanaged-instance"));
    defaults().check(&facts, expected, &["opts it out"]);
    let other = and(with(unmanaged), tagged("missing-patches"));
    assert_eq!(defaults().decide(&other).status, Status::Notified);
}

// --- 6: not now, and why ------------------------------------------------------------

fn open_window() -> Value {
    json!({ "windows": [{ "days": ["tue"], "from": "09:00", "to": "11:00" }] })
}

fn closed_window() -> Value {
    json!({ "windows": [{ "days": ["sat"], "from": "02:00", "to": "05:00" }] })
}

#[test]
fn a_young_instance_with_findings_waits_and_says_so() {
    for (minutes, waits) in [(0, true), (59, true), (60, false)] {
        let facts = and(with_finding(), |f| {
            host(f).launched_at = Some(minutes_ago(minutes));
        });
        if waits {
            let expected = format!("pending {BY_FINDING} waits for age");
            defaults().check(&facts, &expected, &["less than 60 minutes ago"]);
        } else {
            defaults().begins(&facts, BY_FINDING);
        }
    }
    let young = and(with_finding(), |f| {
        host(f).launched_at = Some(minutes_ago(0))
    });
    patching(json!({ "min_age_minutes": 0 })).begins(&young, BY_FINDING);
    // Its agent may not have registered yet.
    let unregistered = and(young, |f| f.agent = None);
    let expected = format!("pending {BY_FINDING} waits for age");
    defaults().check(&unregistered, &expected, &["less than 60 minutes ago"]);
}

#[test]
fn a_stopped_instance_with_findings_waits_until_it_runs() {
    for state in ["stopped", "stopping", "pending"] {
        let facts = and(with_finding(), |f| host(f).state = state.into());
        let expected = format!("pending {BY_FINDING} waits for running");
        defaults().check(&facts, &expected, &[&format!("it is {state}")]);
    }
}

#[test]
fn a_member_of_an_auto_scaling_group_is_replaced_unless_the_policy_allows_patching() {
    let member = |facts| {
        and(facts, |f| {
            host(f)
                .tags
                .insert("aws:autoscaling:groupName".into(), "web-asg".into());
        })
    };
    for (facts, what) in [(with_finding(), BY_FINDING), (with_missing(), BY_STATE)] {
        let facts = member(facts);
        defaults().check(
            &facts,
            &format!("refused {what}"),
            &["Auto Scaling group web-asg: replace it"],
        );
        patching(json!({ "auto_scaling": "patch" })).begins(&facts, what);
    }
}

#[test]
fn outside_its_windows_an_instance_waits_for_the_one_that_opens_next() {
    for (facts, what) in [(with_finding(), BY_FINDING), (with_missing(), BY_STATE)] {
        patching(open_window()).begins(&facts, what);
        patching(closed_window()).check(
            &facts,
            &format!("pending {what} waits for window"),
            &["2026-11-28T02:00:00Z"],
        );
    }
}

#[test]
fn a_window_over_midnight_is_open_on_both_of_its_days_and_on_no_other() {
    let night = json!({ "windows": [{ "days": ["mon"], "from": "22:00", "to": "04:00" }] });
    for (time, open) in [
        ("2026-11-23T21:59:59Z", false),
        ("2026-11-23T22:00:00Z", true),
        ("2026-11-24T03:59:59Z", true),
        ("2026-11-24T04:00:00Z", false),
        // The night before begins on a Sunday, this one on a Tuesday.
        ("2026-11-23T03:00:00Z", false),
        ("2026-11-24T23:00:00Z", false),
    ] {
        let decision = patching(night.clone()).at(time).decide(&with_finding());
        let expected = if open { None } else { Some(Wait::Window) };
        assert_eq!(decision.waits, expected, "{time}");
        assert_eq!(decision.status == Status::InProgress, open, "{time}");
    }
}

#[test]
fn while_a_patch_command_is_under_way_nothing_is_sent() {
    for operation in ["Scan", "Install"] {
        for status in ["Pending", "InProgress", "Delayed", "Cancelling"] {
            // However long ago it was sent.
            for sent in [minutes_ago(1), hours_ago(40)] {
                let running = |facts| {
                    and(facts, |f: &mut PatchFacts| {
                        f.commands = vec![
                            command("Scan", "Success", hours_ago(47)),
                            command(operation, status, sent),
                        ];
                    })
                };
                for (facts, what) in [
                    (with_finding(), BY_FINDING),
                    (with_missing(), BY_STATE),
                    (never_scanned(), SCAN),
                ] {
                    defaults().check(
                        &running(facts),
                        &format!("pending {what} waits for command"),
                        &["0f0e0d0c-1111-2222-3333-444455556666"],
                    );
                }
            }
        }
    }
}

#[test]
fn an_installation_of_late_cools_down_whoever_sent_it_and_however_it_ended() {
    let expected = format!("pending {BY_FINDING} waits for cool-down");
    for status in ["Success", "Failed", "TimedOut", "Cancelled"] {
        let by_command = |hours| {
            and(with_finding(), |f| {
                f.commands = vec![command("Install", status, hours_ago(hours))];
            })
        };
        defaults().check(&by_command(23), &expected, &["2026-11-24T11:00:00Z"]);
        defaults().begins(&by_command(24), BY_FINDING);
        let longer = patching(json!({ "cool_down_hours": 48 }));
        longer.check(&by_command(24), &expected, &["2026-11-25T10:00:00Z"]);
    }
    // Nobody knows of a command any more, but the patch state shows it.
    let by_state = |hours| {
        and(with_finding(), |f| {
            f.state = Some(state("Install", hours_ago(hours), 0));
        })
    };
    defaults().check(&by_state(23), &expected, &["2026-11-24T11:00:00Z"]);
    defaults().begins(&by_state(24), BY_FINDING);
    // The later of the two counts.
    let both = and(by_state(20), |f| {
        f.commands = vec![command("Install", "Success", hours_ago(30))];
    });
    defaults().check(&both, &expected, &["2026-11-24T14:00:00Z"]);
}

#[test]
fn a_scan_of_late_does_not_cool_an_installation_down() {
    for (facts, what) in [(with_finding(), BY_FINDING), (with_missing(), BY_STATE)] {
        let facts = and(facts, |f| {
            f.state.as_mut().unwrap().ended_at = Some(minutes_ago(4));
            f.commands = vec![command("Scan", "Success", minutes_ago(5))];
        });
        defaults().begins(&facts, what);
    }
}

#[test]
fn a_young_instance_waits_for_its_age_before_anything_else() {
    let facts = and(with_finding(), |f| {
        host(f).launched_at = Some(minutes_ago(5));
        f.commands = vec![command("Install", "InProgress", minutes_ago(2))];
    });
    let expected = format!("pending {BY_FINDING} waits for age");
    patching(closed_window()).check(&facts, &expected, &["less than 60 minutes"]);
}

// --- 7: opted out, modes, kill switch, trips, baseline ----------------------------

#[test]
fn whoever_is_opted_out_of_one_of_the_two_controls_is_opted_out_of_the_command() {
    for (facts, what) in [
        (with_finding(), BY_FINDING),
        (with_missing(), BY_STATE),
        (never_scanned(), SCAN),
    ] {
        for tag in [
            "all",
            "vulnerable-package",
            "missing-patches",
            "open-ingress+missing-patches",
            "vulnerable-package until=2026-11-24",
            "missing-patches until=2027-01-31 owner=team-web reason=freeze",
        ] {
            let facts = and(facts.clone(), tagged(tag));
            defaults().check(&facts, &format!("exempt {what}"), &["opts it out"]);
        }
    }
}

#[test]
fn an_opt_out_of_other_controls_or_one_that_ended_holds_nothing_up() {
    for tag in [
        "open-ingress",
        "unmanaged-instance",
        "vulnerable-package until=2026-11-23",
        "all until=2026-11-23",
    ] {
        for (facts, what) in [(with_finding(), BY_FINDING), (with_missing(), BY_STATE)] {
            defaults().begins(&and(facts, tagged(tag)), what);
        }
    }
    let ended = and(with_finding(), tagged("all until=2026-11-23"));
    let exemption = defaults().decide(&ended).exemption;
    assert!(matches!(exemption, Exemption::Ended(_)), "{exemption:?}");
}

#[test]
fn an_opt_out_that_cannot_be_read_holds_the_command_back() {
    for tag in [
        "",
        "yes",
        "missing-patch",
        "all until=31.01.2027",
        "all for ever",
    ] {
        let facts = and(with_finding(), tagged(tag));
        defaults().check(&facts, &format!("held {BY_FINDING}"), &["cannot be read"]);
    }
}

#[test]
fn an_opt_out_whose_key_is_spelt_as_only_iam_reads_it_holds_the_command_back() {
    for (key, tag) in [
        ("Backstop:Opt-Out", "all"),
        ("BACKSTOP:OPT-OUT", "missing-patches until=2027-01-31"),
        (" backstop:opt-out", "vulnerable-package"),
    ] {
        let facts = and(with_finding(), tagged_as(key, tag));
        defaults().check(&facts, &format!("held {BY_FINDING}"), &["cannot be read"]);
        let both = and(facts, tagged("all"));
        defaults().check(&both, &format!("held {BY_FINDING}"), &["cannot be read"]);
    }
    for (key, tag) in [
        ("Backstop:Opt-Out", "unencrypted-volume"),
        ("backstop:opt-outs", "all"),
    ] {
        defaults().begins(&and(with_finding(), tagged_as(key, tag)), BY_FINDING);
    }
}

#[test]
fn where_the_policy_demands_an_end_one_without_counts_as_unreadable() {
    let demands = || defaults().top("opt_out", json!({ "require_end": true }));
    for tag in ["all", "missing-patches owner=team-web"] {
        let facts = and(with_finding(), tagged(tag));
        demands().check(&facts, &format!("held {BY_FINDING}"), &["cannot be read"]);
    }
    let ends = and(with_finding(), tagged("all until=2027-01-31"));
    demands().check(&ends, &format!("exempt {BY_FINDING}"), &["opts it out"]);
    // One for other controls is not read any more closely.
    demands().begins(&and(with_finding(), tagged("open-ingress")), BY_FINDING);
}

#[test]
fn an_opt_out_holds_in_every_mode_and_under_every_other_guard() {
    let facts = and(with_finding(), tagged("all"));
    let expected = format!("exempt {BY_FINDING}");
    for under in [
        defaults().mode(Mode::Notify),
        defaults().top("kill_switch", json!(true)),
        defaults().tripped(ControlId::VulnerablePackage, true),
        patching(closed_window()),
        defaults().spares(
            ControlId::VulnerablePackage,
            &[vulnerable_package::fingerprint(&arn(1))],
        ),
    ] {
        under.check(&facts, &expected, &["opts it out"]);
    }
}

#[test]
fn in_mode_notify_it_is_told_and_nothing_is_sent() {
    for (facts, what) in [
        (with_finding(), BY_FINDING),
        (with_missing(), BY_STATE),
        (never_scanned(), SCAN),
    ] {
        let notify = defaults().mode(Mode::Notify);
        notify.check(&facts, &format!("notified {what}"), &["`notify`"]);
    }
    // The control's own mode counts before the stack's.
    let own = || defaults().mode_of(ControlId::VulnerablePackage, "enforce");
    own().mode(Mode::Notify).begins(&with_finding(), BY_FINDING);
    own().mode(Mode::Off).begins(&with_finding(), BY_FINDING);
}

#[test]
fn a_control_that_is_off_sees_nothing_and_keeps_the_others_from_nothing() {
    let off = |control| defaults().mode_of(control, "off");
    let both = and(with_missing(), |f| {
        f.findings = vec![of_os(1, Severity::High)]
    });
    off(ControlId::VulnerablePackage).check(&with_finding(), "compliant", &[]);
    off(ControlId::VulnerablePackage).begins(&both, BY_STATE);
    assert!(
        off(ControlId::VulnerablePackage)
            .decide(&both)
            .findings
            .is_empty()
    );
    off(ControlId::MissingPatches).check(&with_missing(), "compliant", &[]);
    off(ControlId::MissingPatches).check(&never_scanned(), "compliant", &[]);
    off(ControlId::MissingPatches).begins(&both, BY_FINDING);
    off(ControlId::UnmanagedInstance).begins(&both, BY_FINDING);
    let all = off(ControlId::VulnerablePackage).mode_of(ControlId::MissingPatches, "off");
    all.check(&both, "compliant", &[]);
    defaults().mode(Mode::Off).check(&both, "compliant", &[]);
    defaults()
        .mode(Mode::Off)
        .check(&with(unmanaged), "compliant", &[]);
}

#[test]
fn findings_that_are_only_told_keep_missing_patches_from_nothing() {
    let told = || defaults().mode_of(ControlId::VulnerablePackage, "notify");
    let both = and(with_missing(), |f| {
        f.findings = vec![of_os(1, Severity::High)]
    });
    told().begins(&both, BY_STATE);
    told().check(
        &with_finding(),
        &format!("notified {BY_FINDING}"),
        &["`notify`"],
    );
    let unscanned = and(never_scanned(), |f| {
        f.findings = vec![of_os(1, Severity::High)]
    });
    told().begins(&unscanned, SCAN);
    // And the other way round.
    let other = defaults().mode_of(ControlId::MissingPatches, "notify");
    other.begins(&both, BY_FINDING);
    other.check(
        &with_missing(),
        &format!("notified {BY_STATE}"),
        &["`notify`"],
    );
}

#[test]
fn the_kill_switch_stops_every_command() {
    for (facts, what) in [
        (with_finding(), BY_FINDING),
        (with_missing(), BY_STATE),
        (never_scanned(), SCAN),
    ] {
        let on = defaults().top("kill_switch", json!(true));
        on.check(
            &facts,
            &format!("stopped {what}"),
            &["the kill switch is on"],
        );
    }
}

#[test]
fn a_control_that_has_tripped_sends_nothing() {
    for everywhere in [true, false] {
        for (facts, control, what) in [
            (with_finding(), ControlId::VulnerablePackage, BY_FINDING),
            (with_missing(), ControlId::MissingPatches, BY_STATE),
            (never_scanned(), ControlId::MissingPatches, SCAN),
        ] {
            let tripped = defaults().tripped(control, everywhere);
            let expected = format!("tripped {what}");
            tripped.check(&facts, &expected, &["51 changes in an hour"]);
        }
    }
    // Another control's trip is another's.
    let other = defaults().tripped(ControlId::MissingPatches, true);
    other.begins(&with_finding(), BY_FINDING);
    let other = defaults().tripped(ControlId::UnmanagedInstance, true);
    other.begins(&with_missing(), BY_STATE);
}

/// One guard after the other is lifted: the next one is said.
#[test]
fn the_guards_are_asked_in_the_order_of_the_ladder() {
    const CONTROL: ControlId = ControlId::VulnerablePackage;
    let why = || "51 changes in an hour".to_owned();
    let spared = || defaults().spares(CONTROL, &[vulnerable_package::fingerprint(&arn(1))]);
    let here = |under: Under| under.tripped(CONTROL, false);
    let both = |under: Under| here(under).tripped(CONTROL, true);
    let stopped = |under: Under| both(under).top("kill_switch", json!(true));
    let everything = || stopped(spared()).mode(Mode::Notify);
    let unreadable = and(with_finding(), tagged("?"));
    let opted_out = and(with_finding(), tagged("all"));
    for (under, facts, because, status) in [
        (
            everything(),
            &unreadable,
            Reason::OptOutUnreadable,
            Status::Held,
        ),
        (everything(), &opted_out, Reason::OptedOut, Status::Exempt),
        (
            everything(),
            &with_finding(),
            Reason::Existing,
            Status::Existing,
        ),
        (
            stopped(defaults()).mode(Mode::Notify),
            &with_finding(),
            Reason::NotifyMode,
            Status::Notified,
        ),
        (
            stopped(defaults()),
            &with_finding(),
            Reason::KillSwitch,
            Status::Stopped,
        ),
        (
            both(defaults()),
            &with_finding(),
            Reason::ControlTripped { why: why() },
            Status::Tripped,
        ),
        (
            here(defaults()),
            &with_finding(),
            Reason::ResourceTripped { why: why() },
            Status::Tripped,
        ),
    ] {
        // What would be refused, or waits, is asked after the guards.
        let waits = and(facts.clone(), |f| host(f).state = "stopped".into());
        for facts in [facts, &waits] {
            let decision = under.decide(facts);
            assert_eq!(decision.because, Some(because.clone()));
            assert_eq!(decision.status, status, "{because:?}");
            assert_eq!(decision.reasons, [because.to_string()]);
            let record = under.record(facts).unwrap();
            assert_eq!(record.detail.because, Some(because.clone()));
        }
    }
    assert_eq!(defaults().decide(&with_finding()).because, None);
}

#[test]
fn what_is_only_told_is_held_back_by_an_exemption_and_by_no_guard() {
    let only_told = with(|f| f.findings = vec![of_npm(1)]);
    for facts in [only_told, with(unmanaged)] {
        let guarded = || {
            let under = defaults().mode(Mode::Notify);
            let under = under.top("kill_switch", json!(true));
            ControlId::PATCHING
                .iter()
                .fold(under, |under, control| under.tripped(*control, true))
        };
        let decision = guarded().decide(&facts);
        assert_eq!(
            (decision.because, decision.status),
            (None, Status::Notified)
        );
        let opted_out = guarded().decide(&and(facts, tagged("all")));
        assert_eq!(opted_out.because, Some(Reason::OptedOut));
    }
}

#[test]
fn a_record_holds_guard_and_lacks_as_data_and_one_without_them_is_read() {
    let off = defaults().mode_of(ControlId::UnmanagedInstance, "off");
    let refused = and(with(unmanaged), |f| {
        f.findings = vec![of_os(1, Severity::High)]
    });
    let tripped = defaults().tripped(ControlId::VulnerablePackage, false);
    for (under, facts, added) in [
        (off, refused, json!({ "lacks": ["role"] })),
        (
            tripped,
            with_finding(),
            json!({ "because": "resource-tripped", "why": "51 changes in an hour" }),
        ),
    ] {
        let record = under.record(&facts).unwrap();
        let mut stored = serde_json::to_value(&record).unwrap();
        let read = |stored: &Value| serde_json::from_value::<Patching>(stored.clone()).unwrap();
        assert_eq!(read(&stored), record);
        for (field, value) in added.as_object().unwrap() {
            assert_eq!(
                stored.as_object_mut().unwrap().remove(field).as_ref(),
                Some(value)
            );
        }
        let mut without = record.clone();
        (without.detail.because, without.detail.lacks) = (None, Vec::new());
        assert_eq!(read(&stored), without);
        assert_eq!(without.detail.reasons, record.detail.reasons);
    }
}

#[test]
fn what_was_there_before_enforce_is_spared_until_something_new_comes() {
    let spared = |numbers: &[u32]| {
        let prints: Vec<String> = numbers
            .iter()
            .map(|n| vulnerable_package::fingerprint(&arn(*n)))
            .collect();
        defaults().spares(ControlId::VulnerablePackage, &prints)
    };
    let two = with(|f| f.findings = vec![of_os(1, Severity::High), of_os(2, Severity::High)]);
    let existing = format!("existing {BY_FINDING}");
    spared(&[1, 2]).check(&two, &existing, &["before the control was switched"]);
    spared(&[1]).begins(&two, BY_FINDING);
    // What is only told is nothing new that a patch would mend.
    let and_npm = and(two.clone(), |f| f.findings.push(of_npm(3)));
    spared(&[1, 2]).check(&and_npm, &existing, &["before the control was switched"]);
    let enforce =
        spared(&[1, 2]).control(ControlId::VulnerablePackage, "existing", json!("enforce"));
    enforce.begins(&two, BY_FINDING);
    let ended = and(two, tagged("all until=2026-11-23"));
    spared(&[1, 2]).check(&ended, &existing, &["before the control was switched"]);
}

#[test]
fn the_baseline_of_missing_patches_spares_the_instance() {
    let spared = || {
        defaults().spares(
            ControlId::MissingPatches,
            &[missing_patches::fingerprint(INSTANCE)],
        )
    };
    let existing = ["before the control was switched"];
    spared().check(&with_missing(), &format!("existing {BY_STATE}"), &existing);
    let enforce = spared().control(ControlId::MissingPatches, "existing", json!("enforce"));
    enforce.begins(&with_missing(), BY_STATE);
    // Nobody has looked yet: a scan is no part of it.
    spared().begins(&never_scanned(), SCAN);
    // A new finding of Inspector's is not spared by it.
    let both = and(with_missing(), |f| {
        f.findings = vec![of_os(1, Severity::High)]
    });
    spared().begins(&both, BY_FINDING);
    let prints = [vulnerable_package::fingerprint(&arn(1))];
    let all = spared().spares(ControlId::VulnerablePackage, &prints);
    all.check(&both, &format!("existing {BY_FINDING}"), &existing);
    // Patches that came to be missing later are new though the findings are old.
    let findings_only = defaults().spares(ControlId::VulnerablePackage, &prints);
    findings_only.begins(&both, BY_STATE);
    // A fingerprint of one control spares nothing of another.
    let wrong = defaults().spares(
        ControlId::VulnerablePackage,
        &[missing_patches::fingerprint(INSTANCE)],
    );
    wrong.begins(&with_missing(), BY_STATE);
}

#[test]
fn a_baseline_holds_what_a_patch_would_mend_and_nothing_else() {
    let facts = and(with_missing(), |f| {
        f.findings = vec![of_os(1, Severity::High), of_npm(2)];
    });
    assert_eq!(
        baseline(&facts, ControlId::VulnerablePackage),
        [vulnerable_package::fingerprint(&arn(1))]
    );
    assert_eq!(
        baseline(&facts, ControlId::MissingPatches),
        [missing_patches::fingerprint(INSTANCE)]
    );
    // What an instance lacks that nobody ever looked at was there before, too.
    assert_eq!(
        baseline(&never_scanned(), ControlId::MissingPatches),
        [missing_patches::fingerprint(INSTANCE)]
    );
    for nothing in [
        baseline(&facts, ControlId::UnmanagedInstance),
        baseline(&healthy(), ControlId::MissingPatches),
        baseline(&with(|f| f.host = None), ControlId::MissingPatches),
    ] {
        assert!(nothing.is_empty(), "{nothing:?}");
    }
}

#[test]
fn what_a_first_scan_brings_out_was_there_before_enforce() {
    let spared = defaults().spares(
        ControlId::MissingPatches,
        &[missing_patches::fingerprint(INSTANCE)],
    );
    // The scan itself changes nothing.
    spared.begins(&never_scanned(), "missing-patches scan");
    let decision = spared.decide(&with_missing());
    assert_eq!(decision.status, Status::Existing);
}

// --- 8: installed, and not looked at again ------------------------------------------

#[test]
fn a_finding_that_awaits_inspectors_next_look_is_none() {
    let awaiting = |n| Vulnerability {
        installed_by: Some("01M7SH8XYF6H0J2M4N8P7R3T1W".into()),
        ..of_os(n, Severity::Critical)
    };
    let facts = with(|f| f.findings = vec![awaiting(1)]);
    defaults().check(&facts, "compliant", &[]);
    // A new one beside it counts, and alone.
    let facts = with(|f| f.findings = vec![awaiting(1), of_os(2, Severity::High)]);
    defaults().begins(&facts, BY_FINDING);
    let decision = defaults().decide(&facts);
    assert_eq!(decision.findings.len(), 1);
    assert_eq!(decision.severity, Severity::High);
}

#[test]
fn a_finding_that_the_approved_patches_did_not_mend_is_told_and_not_patched_again() {
    let unmended = |n| Vulnerability {
        unmended: true,
        ..of_os(n, Severity::High)
    };
    let did_not = "did not mend it: does the patch baseline approve";
    let expected = format!("notified {BY_FINDING}");
    let facts = with(|f| f.findings = vec![unmended(1)]);
    defaults().check(&facts, &expected, &[did_not]);
    let and_npm = with(|f| f.findings = vec![unmended(1), of_npm(2)]);
    let reasons = [did_not, "no patch of the operating system mends it"];
    defaults().check(&and_npm, &expected, &reasons);
    // Another that a patch may mend is something else.
    let and_new = with(|f| f.findings = vec![unmended(1), of_os(2, Severity::High)]);
    defaults().begins(&and_new, BY_FINDING);
    // So is a patch that is missing since: it may be the one.
    let and_missing = and(with_missing(), |f| f.findings = vec![unmended(1)]);
    defaults().begins(&and_missing, BY_FINDING);
    let run = defaults().record(&and_missing).unwrap();
    assert_eq!(run.patchable().count(), 1);
}

#[test]
fn what_was_not_mended_is_scanned_for_again_once_a_baseline_may_have_approved_it() {
    let unmended = |hours: i64| {
        with(|f| {
            f.state = Some(state("Install", hours_ago(hours), 0));
            f.findings = vec![Vulnerability {
                unmended: true,
                ..of_os(1, Severity::High)
            }];
        })
    };
    let week = 7 * 24;
    let did_not = "did not mend it";
    let told = format!("notified {BY_FINDING}");
    defaults().check(&unmended(week - 1), &told, &[did_not]);
    defaults().begins(&unmended(week), "vulnerable-package scan");
    let run = defaults().record(&unmended(week)).unwrap();
    assert!(!run.detail.snapshots_wanted);
    // Only where the instance can be scanned.
    let offline = and(unmended(week), unmanaged);
    assert_ne!(defaults().decide(&offline).status, Status::InProgress);
    // What is patchable needs no scan, and application packages get none.
    let npm = and(unmended(week), |f| f.findings = vec![of_npm(2)]);
    defaults().check(&npm, &told, &["no patch of the operating system mends it"]);
}

#[test]
fn a_report_with_another_fixed_version_is_tried_again() {
    let unmended = Vulnerability {
        unmended: true,
        reported_at: Some(hours_ago(2)),
        ..of_os(1, Severity::High)
    };
    let mut reports = Reports::default();
    reports.report(unmended.clone());
    let again = Vulnerability {
        unmended: false,
        reported_at: Some(hours_ago(1)),
        ..unmended.clone()
    };
    reports.report(again.clone());
    assert!(reports.active[&arn(1)].unmended, "the same fix");
    let mut other = again;
    other.reported_at = Some(now());
    other.packages[0].fixed_in = Some("9.9.9".into());
    reports.report(other);
    assert!(!reports.active[&arn(1)].unmended);
}

#[test]
fn a_finding_that_is_suppressed_while_it_awaits_a_rescan_is_not_said_to_be_closed() {
    let entry = "01M7SH8XYF6H0J2M4N8P7R3T1W";
    let reported = |n| Vulnerability {
        reported_at: Some(hours_ago(2)),
        ..of_os(n, Severity::High)
    };
    let mut reports = Reports::default();
    reports.report(reported(1));
    reports.report(reported(2));
    reports.installed(entry, [arn(1).as_str()]);
    // One that nothing was installed for makes nothing unclear.
    reports.suppress(&arn(2), hours_ago(1));
    assert!(reports.unclear.is_empty() && !reports.active.contains_key(&arn(2)));
    // Nor does an old report.
    reports.suppress(&arn(1), hours_ago(3));
    assert!(reports.unclear.is_empty() && reports.active.contains_key(&arn(1)));
    reports.suppress(&arn(1), hours_ago(1));
    assert!(reports.unclear.contains(entry));

    let mut run = awaiting();
    assert!(run.rescanned(&BTreeSet::new(), true, later()));
    assert_eq!(run.head.status, Status::Failed);
    assert!(run.detail.reasons.join(". ").contains("suppressed"));

    reports.settled(entry);
    assert!(reports.unclear.is_empty());
}

// --- just before the command ------------------------------------------------------------

#[test]
fn what_changed_between_the_decision_and_the_command_keeps_it_from_being_sent() {
    let run = defaults().record(&with_missing()).unwrap();
    let scan = defaults().record(&never_scanned()).unwrap();
    let stopped = |under: &Under, run: &Patching, facts: &PatchFacts| {
        stops(
            run,
            facts.host.as_ref(),
            facts.encrypting.as_deref(),
            &under.parsed().patching(),
            under.mode,
            under.now,
        )
    };
    assert_eq!(stopped(&defaults(), &run, &with_missing()), None);
    let meanwhile = |what| Some(Reason::Meanwhile { what });
    for (facts, expected) in [
        (with(|f| f.host = None), Meanwhile::InstanceGone),
        (
            with(|f| host(f).state = "terminated".into()),
            Meanwhile::InstanceGone,
        ),
        (
            with(|f| host(f).state = "stopped".into()),
            Meanwhile::NotRunning,
        ),
        (
            with(tagged("missing-patches until=2027-01-31")),
            Meanwhile::OptedOut,
        ),
        (with(tagged("vulnerable-package")), Meanwhile::OptedOut),
        (with(tagged("mising-patches")), Meanwhile::OptOutUnreadable),
        (
            with(tagged_as("Backstop:Opt-Out", "all")),
            Meanwhile::OptOutUnreadable,
        ),
        (
            with(|f| f.encrypting = Some("01ENC".into())),
            Meanwhile::BeingEncrypted {
                entry: "01ENC".into(),
            },
        ),
    ] {
        let why = stopped(&defaults(), &run, &facts).unwrap();
        assert_eq!(why.status(), Status::RolledBack);
        assert_eq!(why, Reason::Meanwhile { what: expected });
    }
    let off = defaults().mode_of(ControlId::MissingPatches, "notify");
    assert_eq!(
        stopped(&off, &run, &with_missing()),
        meanwhile(Meanwhile::EnforceNoMore)
    );
    let killed = defaults().top("kill_switch", json!(true));
    let why = stopped(&killed, &run, &with_missing()).unwrap();
    assert_eq!((&why, why.status()), (&Reason::KillSwitch, Status::Stopped));
    // A window that has closed holds an installation back, and no scan.
    let closed = patching(closed_window());
    let why = stopped(&closed, &run, &with_missing());
    assert_eq!(why, meanwhile(Meanwhile::WindowClosed));
    assert_eq!(stopped(&closed, &scan, &never_scanned()), None);
}

// --- the record ------------------------------------------------------------------------

#[test]
fn a_record_says_what_was_found_where_and_whose_it_is() {
    let facts = and(with_finding(), |f| {
        host(f)
            .tags
            .insert("aws:cloudformation:stack-name".into(), "web".into());
    });
    let run = defaults().record(&facts).unwrap();
    assert_eq!(
        run.head.resource,
        format!("arn:aws:ec2:eu-central-1:111122223333:instance/{INSTANCE}")
    );
    assert_eq!(run.resource_id(), INSTANCE);
    assert_eq!(run.head.resource_name, "web-1");
    assert_eq!(run.head.team.as_deref(), Some("team-web"));
    assert_eq!(
        run.head.managed_by.as_deref(),
        Some("the CloudFormation stack web")
    );
    assert_eq!(
        (run.head.status, run.detail.operation),
        (Status::InProgress, Operation::Install)
    );
    assert_eq!((run.head.started_at, run.head.finished_at), (now(), None));
    assert_eq!((run.detail.before, run.detail.after), (facts.state, None));
    assert_eq!(run.head.policy_version, 7);
    assert_eq!(run.detail.reboot, Reboot::Never);
    assert!(run.detail.snapshots_wanted);
    let unowned = and(with_finding(), |f| {
        host(f).tags.clear();
    });
    let run = defaults().record(&unowned).unwrap();
    assert_eq!(run.head.team, None);
    assert_eq!(run.head.resource_name, INSTANCE);
}

#[test]
fn a_record_that_begins_nothing_is_finished_at_once() {
    let run = defaults()
        .mode(Mode::Notify)
        .record(&with_finding())
        .unwrap();
    assert_eq!(run.head.finished_at, Some(now()));
    assert!(!run.is_open());
}

#[test]
fn snapshots_are_taken_before_an_installation_and_never_before_a_scan() {
    assert!(
        !defaults()
            .record(&never_scanned())
            .unwrap()
            .detail
            .snapshots_wanted
    );
    let without = patching(json!({ "snapshots": false }));
    assert!(
        !without
            .record(&with_finding())
            .unwrap()
            .detail
            .snapshots_wanted
    );
}

#[test]
fn there_is_no_record_where_there_is_nothing_to_say() {
    for facts in [
        healthy(),
        with(|f| f.host = None),
        and(never_scanned(), |f| {
            host(f).launched_at = Some(minutes_ago(1))
        }),
    ] {
        assert_eq!(defaults().record(&facts), None);
    }
}

#[test]
fn a_record_lists_only_so_many_findings_and_patches_and_counts_the_others() {
    let facts = with(|f| {
        f.state.as_mut().unwrap().missing = 250;
        f.missing = (0..250)
            .map(|n| Patch {
                title: format!("package-{n}"),
                ..Patch::default()
            })
            .collect();
        f.findings = (1..=100)
            .map(of_npm)
            .chain((101..=150).map(|n| of_os(n, Severity::High)))
            .collect();
    });
    let run = defaults().record(&facts).unwrap();
    assert_eq!(run.detail.findings_total, 150);
    assert_eq!(run.detail.findings.len(), MOST_RECORDED);
    assert_eq!(
        run.patchable().count(),
        50,
        "what a patch mends comes first"
    );
    assert_eq!(run.only_told().count(), MOST_RECORDED - 50);
    assert_eq!(run.detail.missing.len(), MOST_LISTED);
    assert_eq!(run.detail.before.unwrap().missing, 250);
}

#[test]
fn the_arn_is_of_the_partition() {
    for partition in ["aws", "aws-cn", "aws-us-gov"] {
        let (under, facts) = (defaults(), with_finding());
        let about = About {
            id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
            trigger: &trigger(),
            partition,
            owner_tag: "owner",
            policy_version: 1,
            now: now(),
        };
        let run = record(
            &facts,
            &under.decide(&facts),
            &under.parsed().patching,
            about,
        )
        .unwrap();
        assert!(
            run.head
                .resource
                .starts_with(&format!("arn:{partition}:ec2:")),
            "{}",
            run.head.resource
        );
    }
}

// --- the end of a command -----------------------------------------------------------

fn sent(facts: &PatchFacts) -> Patching {
    let mut run = defaults().record(facts).unwrap();
    assert!(run.is_open());
    run.detail.command = Some(Sent::new(
        "0f0e0d0c-1111-2222-3333-444455556666".into(),
        now(),
    ));
    run
}

/// Ten minutes after it was sent.
fn later() -> Timestamp {
    now() + SignedDuration::from_mins(10)
}

fn success(state: Option<PatchState>) -> Ended {
    Ended {
        status: "Success".into(),
        state,
        ..Ended::default()
    }
}

fn left(change: impl FnOnce(&mut PatchState)) -> Ended {
    let mut left = state("Install", now() + SignedDuration::from_mins(5), 0);
    change(&mut left);
    success(Some(left))
}

#[test]
fn a_run_for_inspector_is_not_remediated_before_inspector_says_so() {
    let mut run = sent(&with_finding());
    assert_eq!(run.take_end(&left(|_| {}), later()), Came::Concluded);
    assert_eq!(run.head.status, Status::AwaitingRescan);
    assert_eq!(
        (run.detail.installed_at, run.head.finished_at),
        (Some(later()), None)
    );
    assert_eq!(
        run.detail.command.unwrap().ended.as_deref(),
        Some("Success")
    );
}

#[test]
fn a_run_for_missing_patches_is_closed_by_none_missing() {
    let mut run = sent(&with_missing());
    assert_eq!(run.take_end(&left(|_| {}), later()), Came::Concluded);
    assert_eq!(run.head.status, Status::Remediated);
    assert_eq!(run.head.finished_at, Some(later()));
    assert_eq!(run.detail.after.unwrap().missing, 0);
}

#[test]
fn success_with_patches_still_missing_or_failed_is_a_failure() {
    for (missing, failed) in [(1, 0), (0, 1), (2, 3)] {
        for facts in [with_finding(), with_missing()] {
            let mut run = sent(&facts);
            let ended = left(|state| {
                state.missing = missing;
                state.failed = failed;
            });
            assert_eq!(run.take_end(&ended, later()), Came::Concluded);
            assert_eq!(run.head.status, Status::Failed);
            assert_eq!(run.head.finished_at, Some(later()));
            let why = run.detail.reasons.join(". ");
            for part in [missing.to_string(), failed.to_string()] {
                assert!(why.contains(&part), "{why}");
            }
        }
    }
}

#[test]
fn what_takes_effect_only_after_a_restart_is_said() {
    let mut run = sent(&with_missing());
    run.take_end(&left(|state| state.pending_reboot = 2), later());
    assert_eq!(run.head.status, Status::Remediated);
    let why = run.detail.reasons.join(". ");
    assert!(why.contains('2') && why.contains("restarts"), "{why}");
    let mut run = sent(&with_missing());
    run.take_end(&left(|_| {}), later());
    assert!(!run.detail.reasons.join(". ").contains("restart"));
}

#[test]
fn a_patch_state_from_before_the_command_proves_nothing() {
    let before = state("Scan", now() - SignedDuration::from_secs(30), 3);
    for (known, shown) in [
        // Long ago, never, or without a time.
        (None, Some(state("Install", hours_ago(1), 0))),
        (None, None),
        (
            None,
            Some(PatchState {
                ended_at: None,
                ..state("Install", now(), 0)
            }),
        ),
        // Within the clocks' difference, but it was there before.
        (Some(before.clone()), Some(before.clone())),
    ] {
        let mut run = sent(&with_missing());
        run.detail.before = known.or(run.detail.before);
        let mut unchanged = run.clone();
        let ended = success(shown);
        assert_eq!(
            run.take_end(&ended, later()),
            Came::NotShownYet,
            "{ended:?}"
        );
        // That it has ended is remembered, and when that was seen first.
        unchanged.detail.command.as_mut().unwrap().seen_ended = Some(later());
        assert_eq!(run, unchanged);
        let again = later() + SignedDuration::from_mins(5);
        assert_eq!(run.take_end(&ended, again), Came::NotShownYet);
        assert_eq!(run, unchanged);
    }
    // The clocks differ by some seconds.
    let mut run = sent(&with_missing());
    let ended = left(|state| state.ended_at = Some(now() - SignedDuration::from_secs(20)));
    assert_eq!(run.take_end(&ended, later()), Came::Concluded);
}

#[test]
fn every_other_end_is_a_failure_that_says_what_happened() {
    for (status, words) in [
        ("Failed", "failed on the instance"),
        ("TimedOut", "ran out of time"),
        ("ExecutionTimedOut", "ran out of time"),
        ("Cancelled", "was cancelled"),
        ("AccessDenied", "was denied"),
        ("InvalidPlatform", "cannot patch its operating system"),
        ("SomethingNew", "failed on the instance"),
    ] {
        for facts in [with_finding(), with_missing(), never_scanned()] {
            let mut run = sent(&facts);
            let ended = Ended {
                status: status.into(),
                started: true,
                state: facts.state.clone(),
                ..Ended::default()
            };
            assert_eq!(run.take_end(&ended, later()), Came::Concluded, "{status}");
            assert_eq!(run.head.status, Status::Failed, "{status}");
            assert_eq!(run.head.finished_at, Some(later()), "{status}");
            assert_eq!(run.detail.installed_at, None, "{status}");
            assert_eq!(
                run.detail.after, None,
                "{status}: that state is from before"
            );
            let why = run.detail.reasons.join(". ");
            assert!(
                why.contains(words) && why.contains(status),
                "{status}: {why}"
            );
            assert_eq!(run.detail.command.unwrap().ended.as_deref(), Some(status));
        }
    }
}

#[test]
fn a_command_that_failed_halfway_shows_what_it_left() {
    let mut run = sent(&with_missing());
    let Ended { state, .. } = left(|state| state.missing = 2);
    run.take_end(
        &Ended {
            status: "Failed".into(),
            started: true,
            state: state.clone(),
            ..Ended::default()
        },
        later(),
    );
    assert_eq!((run.head.status, run.detail.after), (Status::Failed, state));
}

#[test]
fn the_patch_state_counts_and_not_the_exit_code() {
    let by_install = |change: fn(&mut PatchState)| {
        let mut left = state("Install", now() + SignedDuration::from_mins(5), 0);
        change(&mut left);
        Some(left)
    };
    let cases: [(Option<PatchState>, bool); 6] = [
        (by_install(|_| {}), true),
        (by_install(|state| state.pending_reboot = 2), true),
        (by_install(|state| state.missing = 1), false),
        (by_install(|state| state.failed = 1), false),
        // Somebody's scan saw the same, and was not what was sent.
        (by_install(|state| state.operation = "Scan".into()), false),
        // From before it was sent.
        (
            by_install(|state| state.ended_at = Some(hours_ago(1))),
            false,
        ),
    ];
    for status in ["Failed", "ExecutionTimedOut", "Cancelled"] {
        for (state, installed) in cases.clone() {
            for (facts, done) in [
                (with_missing(), Status::Remediated),
                (with_finding(), Status::AwaitingRescan),
            ] {
                let mut run = sent(&facts);
                let ended = Ended {
                    status: status.into(),
                    started: true,
                    exit_code: Some(37),
                    state: state.clone(),
                    ..Ended::default()
                };
                assert_eq!(run.take_end(&ended, later()), Came::Concluded);
                let expected = if installed { done } else { Status::Failed };
                assert_eq!(run.head.status, expected, "{status} {state:?}");
                let why = run.detail.reasons.join(". ");
                assert!(
                    why.contains(status) && why.contains("exit code 37"),
                    "{why}"
                );
                let command = run.detail.command.unwrap();
                assert_eq!(command.exit_code, Some(37));
                assert_eq!(command.ended.as_deref(), Some(status));
            }
        }
    }
    // A scan that shows what is missing has done its work.
    let mut run = sent(&never_scanned());
    let scanned = Ended {
        status: "Failed".into(),
        started: true,
        state: by_install(|state| {
            state.operation = "Scan".into();
            state.missing = 4;
        }),
        ..Ended::default()
    };
    run.take_end(&scanned, later());
    assert_eq!(run.head.status, Status::Remediated);
}

#[test]
fn an_instance_on_which_nothing_began_has_not_failed() {
    for (status, started, expected) in [
        ("Terminated", false, Came::NotBegun),
        ("RateExceeded", false, Came::NotBegun),
        ("Undeliverable", false, Came::NotBegun),
        ("DeliveryTimedOut", false, Came::NotBegun),
        ("Cancelled", false, Came::NotBegun),
        ("Cancelled", true, Came::Concluded),
        ("Terminated", true, Came::Concluded),
        ("Failed", false, Came::Concluded),
        ("ExecutionTimedOut", false, Came::Concluded),
        ("AccessDenied", false, Came::Concluded),
        ("InvalidPlatform", false, Came::Concluded),
        ("SomethingNew", false, Came::Concluded),
    ] {
        for facts in [with_finding(), with_missing(), never_scanned()] {
            let mut run = sent(&facts);
            run.detail.batch = Some("01KAT5J9ZZZZZZZZZZZZZZZZZZ".into());
            run.detail.snapshots = vec!["snap-1".into()];
            let ended = Ended {
                status: status.into(),
                started,
                state: facts.state.clone(),
                ..Ended::default()
            };
            let command = run.detail.command.clone().unwrap();
            assert_eq!(run.take_end(&ended, later()), expected, "{status}");
            if expected == Came::Concluded {
                assert_eq!(run.head.status, Status::Failed, "{status}");
                continue;
            }
            assert!(run.is_open(), "{status}");
            assert_eq!(run.head.finished_at, None);
            assert_eq!((&run.detail.command, &run.detail.batch), (&None, &None));
            assert_eq!(run.detail.snapshots, ["snap-1"], "they serve the next try");
            let before: Vec<(&str, Option<&str>)> = run
                .detail
                .not_begun
                .iter()
                .map(|sent| (sent.id.as_str(), sent.ended.as_deref()))
                .collect();
            assert_eq!(before, [(command.id.as_str(), Some(status))]);
        }
    }
}

#[test]
fn a_command_that_never_began_cools_nothing_down_unless_it_happens_again_and_again() {
    let idle = |minutes| Command {
        never_began: true,
        ..command("Install", "Terminated", minutes_ago(minutes))
    };
    let with_commands = |commands: Vec<Command>| and(with_missing(), |f| f.commands = commands);
    for count in 0..5 {
        let facts = with_commands((1..=count).map(idle).collect());
        defaults().begins(&facts, BY_STATE);
    }
    let waits = |facts: &PatchFacts| defaults().decide(facts).waits;
    let facts = with_commands((1..=5).map(idle).collect());
    assert_eq!(waits(&facts), Some(Wait::CoolDown));
    // One of them did begin.
    let ran = command("Install", "Failed", minutes_ago(3));
    assert_eq!(
        waits(&with_commands(vec![idle(1), ran])),
        Some(Wait::CoolDown)
    );
    // Those of long ago do not count.
    let facts = with_commands((0..9).map(|n| idle(25 * 60 + n)).collect());
    assert_eq!(waits(&facts), None);
}

/// What the document prints where Patch Manager does not know the system, in a
/// form of our own.
const NOT_SUPPORTED: &str = "downloading\nroot [ERROR]: An error occurred (UnsupportedOperatingSystem) when calling the GetDeployablePatchSnapshotForInstance operation\nfailed to run commands: exit status 146";

#[test]
fn an_operating_system_that_cannot_be_patched_is_told_from_an_installation_that_failed() {
    for (status, exit_code, output, expected) in [
        ("Failed", Some(146), Some(NOT_SUPPORTED), true),
        ("Failed", Some(146), None, true),
        ("Failed", Some(1), Some(NOT_SUPPORTED), true),
        (
            "Failed",
            Some(1),
            Some("Unsupported Operating System"),
            true,
        ),
        (
            "Failed",
            Some(1),
            Some("An unsupported package manager and python version combination was found."),
            true,
        ),
        ("InvalidPlatform", None, None, true),
        ("Failed", Some(1), None, false),
        (
            "Failed",
            Some(1),
            Some("TypeError: unsupported operand type(s) for %"),
            false,
        ),
        ("Failed", Some(156), Some("no space left on device"), false),
        ("ExecutionTimedOut", None, None, false),
    ] {
        let mut run = sent(&never_scanned());
        let ended = Ended {
            status: status.into(),
            started: true,
            exit_code,
            output: output.map(str::to_owned),
            state: None,
        };
        assert_eq!(run.take_end(&ended, later()), Came::Concluded);
        assert_eq!(run.head.status, Status::Failed, "{output:?}");
        assert_eq!(run.detail.unpatchable.is_some(), expected, "{output:?}");
        let why = run.detail.reasons.join(". ");
        assert!(!(expected && why.contains("may have installed")), "{why}");
    }
}

#[test]
fn what_cannot_be_patched_is_refused_until_its_agent_or_its_system_is_another() {
    let found_out = |facts: &PatchFacts| {
        let ended = Ended {
            status: "Failed".into(),
            started: true,
            exit_code: Some(146),
            ..Ended::default()
        };
        Unpatchable::shown_by(&ended, facts.agent.as_ref())
    };
    for facts in [never_scanned(), with_finding(), with_missing()] {
        let known = and(facts, |f| f.unpatchable = found_out(f));
        let decision = defaults().decide(&known);
        assert_eq!(decision.status, Status::Refused);
        let why = decision.reasons.join(". ");
        assert!(why.contains("cannot patch") && why.contains("146"), "{why}");
        let run = defaults().record(&known).unwrap();
        assert_eq!(run.detail.unpatchable, known.unpatchable);
        let changes: [fn(&mut Agent); 2] = [
            |agent| agent.version = Some("3.4.0.0".into()),
            |agent| agent.platform = Some("Debian 13".into()),
        ];
        for change in changes {
            let changed = and(known.clone(), |f| change(f.agent.as_mut().unwrap()));
            assert_eq!(defaults().decide(&changed).status, Status::InProgress);
        }
        // A ping says nothing about that.
        let pinged = and(known.clone(), |f| {
            f.agent.as_mut().unwrap().last_ping = Some(now());
        });
        assert_eq!(defaults().decide(&pinged).status, Status::Refused);
        // An opt-out comes first.
        let opted_out = and(known, tagged("all until=2027-01-01"));
        assert_eq!(defaults().decide(&opted_out).status, Status::Exempt);
    }
}

#[test]
fn a_snapshot_is_deleted_only_where_its_own_run_ended_well_and_nobody_wants_it_kept() {
    let mut run = sent(&with_missing());
    run.take_end(&left(|_| {}), later());
    run.detail.snapshots = vec!["snap-1".into()];
    let snapshot = Snapshot {
        id: "snap-1".into(),
        volume: "vol-1".into(),
        state: "completed".into(),
        started_at: Some(now()),
        tags: [
            ("backstop:entry", run.head.id.as_str()),
            ("backstop:purpose", "safety"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    };
    let in_days = |days: i64| later() + SignedDuration::from_hours(24 * days);
    let deletes = |snapshot: &Snapshot, run: &Patching, at: Timestamp| {
        may_be_deleted(snapshot, run, &defaults().parsed(), Mode::Enforce, at)
    };
    assert!(deletes(&snapshot, &run, in_days(30)));
    assert!(!deletes(
        &snapshot,
        &run,
        in_days(30) - SignedDuration::from_secs(1)
    ));
    type Change = fn(&mut Snapshot, &mut Patching);
    let changes: [Change; 10] = [
        |snapshot, _| snapshot.id = "snap-2".into(),
        |snapshot, _| drop(snapshot.tags.remove("backstop:entry")),
        |snapshot, _| drop(snapshot.tags.remove("backstop:purpose")),
        |snapshot, _| {
            snapshot
                .tags
                .insert("backstop:purpose".into(), "transfer".into());
        },
        |snapshot, _| {
            snapshot.tags.insert(OPT_OUT_TAG.into(), "keep it".into());
        },
        |snapshot, _| {
            snapshot
                .tags
                .insert("Backstop:Opt-Out".into(), "all".into());
        },
        |snapshot, _| snapshot.started_at = None,
        |_, run| run.detail.instance_gone = true,
        |_, run| run.head.finished_at = None,
        |_, run| run.head.status = Status::Failed,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let (mut snapshot, mut run) = (snapshot.clone(), run.clone());
        change(&mut snapshot, &mut run);
        assert!(!deletes(&snapshot, &run, in_days(400)), "{n}");
    }
}

#[test]
fn an_instance_without_a_patch_state_is_scanned_before_anything_is_installed() {
    let facts = and(with_finding(), |f| f.state = None);
    defaults().begins(&facts, "vulnerable-package scan");
    let run = defaults().record(&facts).unwrap();
    assert!(!run.detail.snapshots_wanted);
    defaults().begins(&with_finding(), BY_FINDING);
}

#[test]
fn a_fix_that_needs_a_subscription_is_told_and_not_installed() {
    for (fixed_in, subscription) in [
        ("3.0.2-0ubuntu1.15+esm1", Some("Ubuntu Pro")),
        ("0:2.27-3ubuntu1.6~esm4", Some("Ubuntu Pro")),
        ("1.1.1f-1ubuntu2.fips.2.8+ESM1", Some("Ubuntu Pro")),
        ("3.0.2-0ubuntu1.10+Fips1.1", Some("Ubuntu Pro")),
        ("2:2.28-236.0.1.ksplice1.el8_9.12", Some("Oracle Ksplice")),
        ("3.0.2-0ubuntu1.15", None),
        ("1.2.3+esmeralda1", None),
        ("1.2.3-esm1", None),
        ("1:3.0.7-27.el9_3", None),
    ] {
        let package = package("openssl", "OS", Some(fixed_in));
        assert_eq!(package.subscription(), subscription, "{fixed_in}");
        let facts = and(healthy(), |f| {
            f.findings = vec![finding(1, Severity::High, vec![package])];
        });
        let decision = defaults().decide(&facts);
        let Some(subscription) = subscription else {
            assert_eq!(decision.status, Status::InProgress, "{fixed_in}");
            continue;
        };
        assert_eq!(decision.control(), Some(ControlId::VulnerablePackage));
        assert_eq!(decision.status, Status::Notified, "{fixed_in}");
        let why = decision.reasons.join(". ");
        assert!(why.contains(subscription), "{why}");
        // A scan that lists it says that its sources deliver it.
        let listed = and(facts, |f| f.state = Some(state("Scan", hours_ago(2), 1)));
        defaults().begins(&listed, BY_STATE);
    }
    // What another package manager installed needs no subscription of the system's.
    let of_pip = package("django", "PIP", Some("1.2+esm1"));
    assert_eq!(of_pip.subscription(), None);
    // Of several packages one is delivered.
    let mixed = vec![
        package("a", "OS", Some("1+esm1")),
        package("b", "OS", Some("2")),
    ];
    let finding = finding(2, Severity::High, mixed);
    assert_eq!(finding.needs_subscription(), None);
    assert!(finding.is_patchable());
}

#[test]
fn a_scan_has_done_its_work_whatever_it_finds_and_installs_nothing() {
    for missing in [0, 7] {
        let mut run = sent(&never_scanned());
        let ended = left(|state| {
            state.operation = "Scan".into();
            state.missing = missing;
        });
        assert_eq!(run.take_end(&ended, later()), Came::Concluded);
        assert_eq!(run.head.status, Status::Remediated);
        assert_eq!(run.detail.installed_at, None);
        assert!(run.detail.reasons.join(". ").contains(&missing.to_string()));
    }
}

fn awaiting() -> Patching {
    let mut run = sent(&with_finding());
    run.take_end(&left(|_| {}), later());
    assert!(run.awaits_rescan());
    run
}

#[test]
fn inspectors_last_closed_finding_closes_the_entry() {
    let mut run = awaiting();
    let closed_at = later() + SignedDuration::from_hours(30);
    assert!(run.rescanned(&BTreeSet::new(), false, closed_at));
    assert_eq!(run.head.status, Status::Remediated);
    assert_eq!(run.head.finished_at, Some(closed_at));
}

#[test]
fn what_is_still_active_is_told_after_24_hours_and_not_before() {
    let still = arn(1);
    let left = BTreeSet::from([still.as_str()]);
    let mut run = awaiting();
    let day = SignedDuration::from_hours(24);
    let unchanged = run.clone();
    assert!(!run.rescanned(&left, false, later() + day - SignedDuration::from_secs(1)));
    assert_eq!(run, unchanged);
    assert!(run.rescanned(&left, false, later() + day));
    assert_eq!(run.head.status, Status::Failed);
    assert_eq!(run.head.finished_at, Some(later() + day));
    assert!(
        run.detail
            .reasons
            .join(". ")
            .contains("still active 24 hours")
    );
    // Once is enough.
    assert!(!run.rescanned(&left, false, later() + day + day));
}

#[test]
fn only_what_awaits_a_rescan_is_ended_by_one() {
    for status in [
        Status::InProgress,
        Status::Failed,
        Status::Remediated,
        Status::Notified,
        Status::Pending,
    ] {
        let mut run = awaiting();
        run.head.status = status;
        let unchanged = run.clone();
        assert!(!run.rescanned(
            &BTreeSet::new(),
            false,
            later() + SignedDuration::from_hours(48)
        ));
        assert_eq!(run, unchanged);
    }
}

#[test]
fn what_awaits_a_rescan_ends_with_its_instance() {
    let mut run = awaiting();
    assert!(run.gone(later()));
    assert_eq!(run.head.finished_at, Some(later()));
    assert!(!run.awaits_rescan());
    assert!(run.detail.reasons.join(". ").contains("gone"));
    let unchanged = run.clone();
    assert!(!run.gone(later() + SignedDuration::from_hours(1)));
    assert_eq!(run, unchanged);
}

// --- what tells one record from another ------------------------------------------------

#[test]
fn what_is_found_and_not_changed_is_new_only_where_it_differs() {
    let notify = || defaults().mode(Mode::Notify);
    let key = |under: Under, facts: &PatchFacts| under.record(facts).unwrap().state_key();
    let facts = and(with_finding(), |f| f.findings.push(of_npm(9)));
    let base = key(notify(), &facts);
    let another_day = key(notify().at("2026-11-29T10:00:00Z"), &facts);
    assert_eq!(another_day, base, "only time went by");
    let one_more = and(facts.clone(), |f| f.findings.push(of_os(2, Severity::High)));
    assert_eq!(key(notify(), &one_more), base, "the same command mends it");
    let same_package = and(facts.clone(), |f| f.findings.push(of_npm(10)));
    assert_eq!(key(notify(), &same_package), base, "the package is known");
    let renamed = and(facts.clone(), |f| {
        host(f).tags.insert("Name".into(), "web-2".into());
    });
    assert_eq!(key(notify(), &renamed), base);

    // Code has no package to be known by.
    let code = |n| finding(n, Severity::Critical, Vec::new());
    let one = and(facts.clone(), |f| f.findings.push(code(20)));
    let two = and(one.clone(), |f| f.findings.push(code(21)));
    assert_ne!(key(notify(), &one), base);
    assert_ne!(key(notify(), &two), key(notify(), &one));

    let other_package = finding(
        11,
        Severity::Critical,
        vec![package("axios", "NPM", Some("1"))],
    );
    let high = with_finding();
    for (under, changed, why) in [
        (
            notify(),
            and(facts.clone(), |f| f.findings.push(other_package)),
            "a new package",
        ),
        (notify(), and(facts.clone(), tagged("all")), "opted out"),
        (notify(), and(facts.clone(), tagged("yes")), "unreadable"),
        (
            defaults().top("kill_switch", json!(true)),
            facts.clone(),
            "another status",
        ),
        (patching(closed_window()), facts.clone(), "it waits"),
        (
            notify(),
            high.clone(),
            "another severity, and a package less",
        ),
        (notify(), with_missing(), "another control"),
        (notify(), never_scanned(), "another operation"),
    ] {
        assert_ne!(key(under, &changed), base, "{why}");
    }
    let worse = with(|f| f.findings = vec![of_os(1, Severity::Critical)]);
    assert_ne!(
        key(notify(), &worse),
        key(notify(), &high),
        "worse than before"
    );
}

#[test]
fn while_it_waits_for_the_same_thing_there_is_nothing_new() {
    let key = |under: Under, facts: &PatchFacts| {
        let run = under.record(facts).unwrap();
        assert_eq!(run.head.status, Status::Pending);
        run.state_key()
    };
    let facts = with_finding();
    let window = key(patching(closed_window()), &facts);
    let next_week = patching(closed_window()).at("2026-12-01T10:00:00Z");
    assert_eq!(
        key(next_week, &facts),
        window,
        "another window, the same wait"
    );
    let cools = |hours| {
        and(with_finding(), |f| {
            f.commands = vec![command("Install", "Success", hours_ago(hours))];
        })
    };
    assert_eq!(key(defaults(), &cools(3)), key(defaults(), &cools(9)));
    assert_ne!(
        key(defaults(), &cools(3)),
        window,
        "it waits for something else"
    );
}

#[test]
fn another_reason_for_the_same_status_is_something_new() {
    let key = |facts: &PatchFacts| defaults().record(facts).unwrap().state_key();
    let bare = with(unmanaged);
    let lost = with(|f| f.agent = Some(agent("ConnectionLost")));
    assert_ne!(key(&bare), key(&lost));
    let with_role = and(bare.clone(), |f| {
        host(f).instance_profile = Some("arn:aws:iam::111122223333:instance-profile/web".into());
    });
    assert_ne!(key(&bare), key(&with_role), "now it lacks something else");
    assert_eq!(key(&bare), key(&with(unmanaged)));
}

#[test]
fn each_status_of_a_run_is_told_once() {
    let run = sent(&with_finding());
    let mut installed = run.clone();
    installed.take_end(&left(|_| {}), later());
    let mut closed = installed.clone();
    closed.rescanned(&BTreeSet::new(), false, later());
    let keys: BTreeSet<String> = [&run, &installed, &closed]
        .map(Patching::message_key)
        .into();
    assert_eq!(keys.len(), 3);
    // Nothing but the run and its status counts.
    let mut retried = installed.clone();
    retried.head.attempts += 1;
    retried.detail.revision += 3;
    retried.detail.reasons.push("another sentence".into());
    assert_eq!(retried.message_key(), installed.message_key());
    let other = Run {
        head: Head {
            id: "01M7SH8XYF6H0J2M4N8P7R3T1X".into(),
            ..installed.clone().head
        },
        detail: installed.clone().detail,
    };
    assert_ne!(other.message_key(), installed.message_key());
}

#[test]
fn what_fails_before_a_command_was_sent_is_told_once_a_day() {
    let failed = |id: &str, started_at: &str, why: &str| {
        let mut run = defaults().at(started_at).record(&with_finding()).unwrap();
        run.head.id = id.into();
        run.fail(why.into(), at(started_at));
        assert_eq!(run.head.status, Status::Failed);
        run.message_key()
    };
    let first = failed("01A", "2026-11-24T10:00:00Z", "no snapshot");
    assert_eq!(failed("01B", "2026-11-24T23:00:00Z", "no snapshot"), first);
    assert_ne!(failed("01B", "2026-11-25T01:00:00Z", "no snapshot"), first);
    assert_ne!(failed("01B", "2026-11-24T23:00:00Z", "denied"), first);
    // One that was sent is told for itself.
    let sent_and_failed = |id: &str| {
        let mut run = sent(&with_finding());
        run.head.id = id.into();
        run.fail("no snapshot".into(), later());
        run.message_key()
    };
    assert_ne!(sent_and_failed("01A"), sent_and_failed("01B"));
}

// --- random instances, held against an oracle ----------------------------------------------

/// A thing that Inspector found.
#[derive(Clone, Debug)]
struct Hole {
    severity: Severity,
    manager: &'static str,
    fixed: bool,
    awaits: bool,
    unmended: bool,
    spared: bool,
}

/// A command that somebody sent.
#[derive(Clone, Debug)]
struct Order {
    operation: &'static str,
    under_way: bool,
    minutes_ago: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Tag {
    None,
    Malformed,
    /// Whom it names, and whether it ends: in the past, in the future, never.
    For(&'static str, Option<bool>),
}

/// A weekly window: its first days, and minutes of the day.
#[derive(Clone, Debug)]
struct Weekly {
    days: Vec<usize>,
    from: i64,
    to: i64,
}

#[derive(Clone, Debug)]
struct World {
    state: &'static str,
    age_minutes: i64,
    ping: Option<&'static str>,
    /// Operation, minutes ago, missing, failed.
    patches: Option<(&'static str, i64, u32, u32)>,
    holes: Vec<Hole>,
    orders: Vec<Order>,
    encrypted_now: bool,
    member: bool,
    tag: Tag,
    /// Minutes since Monday, 00:00.
    minute: i64,
    // the policy
    stack_mode: &'static str,
    modes: [Option<&'static str>; 3],
    severity: Severity,
    min_age: i64,
    cool_down_hours: i64,
    patch_members: bool,
    windows: Vec<Weekly>,
    fix_existing: [bool; 2],
    require_end: bool,
    kill: bool,
    tripped: [bool; 2],
    missing_spared: bool,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl World {
    fn now(&self) -> Timestamp {
        at("2026-11-23T00:00:00Z") + SignedDuration::from_mins(self.minute)
    }

    fn ago(&self, minutes: i64) -> Timestamp {
        self.now() - SignedDuration::from_mins(minutes)
    }

    fn facts(&self) -> PatchFacts {
        let mut facts = healthy();
        let host = host(&mut facts);
        host.state = self.state.into();
        host.launched_at = Some(self.ago(self.age_minutes));
        if self.member {
            host.tags
                .insert("aws:autoscaling:groupName".into(), "web".into());
        }
        let tag = match self.tag {
            Tag::None => None,
            Tag::Malformed => Some("whatever".to_owned()),
            Tag::For(whom, None) => Some(whom.to_owned()),
            Tag::For(whom, Some(true)) => Some(format!("{whom} until=2026-11-01")),
            Tag::For(whom, Some(false)) => Some(format!("{whom} until=2027-11-01")),
        };
        if let Some(tag) = tag {
            host.tags.insert(OPT_OUT_TAG.into(), tag);
        }
        facts.agent = self.ping.map(agent);
        facts.state = self
            .patches
            .map(|(operation, minutes, missing, failed)| PatchState {
                failed,
                ..state(operation, self.ago(minutes), missing)
            });
        facts.findings = (0..)
            .zip(&self.holes)
            .map(|(n, hole)| Vulnerability {
                unmended: hole.unmended,
                installed_by: hole.awaits.then(|| "01M7SH8XYF6H0J2M4N8P7R3T1W".to_owned()),
                ..finding(
                    n,
                    hole.severity,
                    vec![package("p", hole.manager, hole.fixed.then_some("2"))],
                )
            })
            .collect();
        facts.commands = self
            .orders
            .iter()
            .map(|order| {
                let status = if order.under_way {
                    "InProgress"
                } else {
                    "Success"
                };
                command(order.operation, status, self.ago(order.minutes_ago))
            })
            .collect();
        facts.encrypting = self
            .encrypted_now
            .then(|| "01M7SH8XYF6H0J2M4N8P7R3T1W".to_owned());
        facts
    }

    fn under(&self) -> Under {
        let clock = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
        let windows: Vec<Value> = self
            .windows
            .iter()
            .map(|window| {
                let days: Vec<&str> = window.days.iter().map(|day| DAYS[*day]).collect();
                json!({ "days": days, "from": clock(window.from), "to": clock(window.to) })
            })
            .collect();
        let mut under = defaults()
            .top("kill_switch", json!(self.kill))
            .top("opt_out", json!({ "require_end": self.require_end }))
            .top(
                "patching",
                json!({
                    "min_age_minutes": self.min_age,
                    "cool_down_hours": self.cool_down_hours,
                    "auto_scaling": if self.patch_members { "patch" } else { "replace" },
                    "windows": windows,
                }),
            )
            .control(
                ControlId::VulnerablePackage,
                "settings",
                json!({ "severity": self.severity }),
            );
        for (control, mode) in ControlId::PATCHING.iter().zip(self.modes) {
            if let Some(mode) = mode {
                under = under.mode_of(*control, mode);
            }
        }
        let both = [ControlId::VulnerablePackage, ControlId::MissingPatches];
        for (n, control) in both.into_iter().enumerate() {
            if self.fix_existing[n] {
                under = under.control(control, "existing", json!("enforce"));
            }
            if self.tripped[n] {
                under = under.tripped(control, self.minute % 2 == 0);
            }
        }
        let spared: Vec<String> = (0..)
            .zip(&self.holes)
            .filter(|(_, hole)| hole.spared)
            .map(|(n, _)| vulnerable_package::fingerprint(&arn(n)))
            .collect();
        under = under.spares(ControlId::VulnerablePackage, &spared);
        if self.missing_spared {
            let print = missing_patches::fingerprint(INSTANCE);
            under = under.spares(ControlId::MissingPatches, &[print]);
        }
        under.now = self.now();
        under.mode(self.stack_mode.parse().unwrap())
    }

    // --- the oracle ---

    fn enforces(&self, n: usize) -> bool {
        self.modes[n].unwrap_or(self.stack_mode) == "enforce"
    }

    /// The holes that a patch of the operating system is there for.
    fn with_patch(&self) -> impl Iterator<Item = &Hole> {
        self.holes.iter().filter(|hole| {
            hole.manager == "OS" && hole.fixed && !hole.awaits && hole.severity >= self.severity
        })
    }

    /// A finding that asks for an installation in its own right: one that was
    /// tried in vain only where something is missing that was not.
    fn asks_by_finding(&self) -> bool {
        let news = self.patches.is_some_and(|(_, _, missing, _)| missing > 0);
        self.enforces(0)
            && self
                .with_patch()
                .any(|hole| (!hole.unmended || news) && (!hole.spared || self.fix_existing[0]))
    }

    /// One that was tried in vain asks for a scan, a week after the last one.
    fn asks_for_another_scan(&self) -> bool {
        let due = self
            .patches
            .is_some_and(|(_, minutes, ..)| minutes >= 7 * 24 * 60);
        self.enforces(0) && due && self.with_patch().any(|hole| hole.unmended)
    }

    /// Missing patches that ask for one.
    fn asks_by_state(&self) -> bool {
        let lacks = self
            .patches
            .is_some_and(|(_, _, missing, failed)| missing + failed > 0);
        self.enforces(1) && lacks && (!self.missing_spared || self.fix_existing[1])
    }

    fn asks_for_a_scan(&self) -> bool {
        self.enforces(1) && self.patches.is_none()
    }

    fn opted_out(&self) -> bool {
        match self.tag {
            Tag::None => false,
            Tag::Malformed => true,
            Tag::For("open-ingress" | "unmanaged-instance", _) | Tag::For(_, Some(true)) => false,
            // Without an end it is unreadable where one is demanded; held as well.
            Tag::For(..) => true,
        }
    }

    fn window_is_open(&self) -> bool {
        const DAY: i64 = 24 * 60;
        self.windows.is_empty()
            || self.windows.iter().any(|window| {
                let length = match (window.to - window.from).rem_euclid(DAY) {
                    0 => DAY,
                    length => length,
                };
                (0..7).any(|day: i64| {
                    let begins = window.days.is_empty()
                        || window.days.contains(&usize::try_from(day).unwrap());
                    let since = (self.minute - day * DAY - window.from).rem_euclid(7 * DAY);
                    begins && since < length
                })
            })
    }

    /// What keeps any command from being sent.
    fn held(&self) -> bool {
        self.kill
            || self.opted_out()
            || self.state != "running"
            || self.ping != Some("Online")
            || self.age_minutes < self.min_age
            || self.encrypted_now
            || self.orders.iter().any(|order| order.under_way)
    }

    /// What keeps an installation from being sent beyond that.
    fn install_held(&self) -> bool {
        let cools = |minutes: i64| minutes < self.cool_down_hours * 60;
        (self.member && !self.patch_members)
            || !self.window_is_open()
            || self
                .orders
                .iter()
                .any(|o| o.operation == "Install" && cools(o.minutes_ago))
            || self
                .patches
                .is_some_and(|(op, minutes, ..)| op == "Install" && cools(minutes))
    }

    fn scan_held(&self) -> bool {
        self.orders
            .iter()
            .any(|o| o.minutes_ago < self.cool_down_hours * 60)
    }
}

fn severities() -> impl Strategy<Value = Severity> {
    select(vec![
        Severity::Low,
        Severity::Medium,
        Severity::High,
        Severity::Critical,
    ])
}

/// Mostly `true` or mostly `false`, so that worlds without a guard are common.
fn rarely() -> impl Strategy<Value = bool> {
    proptest::bool::weighted(0.12)
}

fn holes() -> impl Strategy<Value = Hole> {
    (
        severities(),
        select(vec!["OS", "OS", "PIP", "JAR"]),
        proptest::bool::weighted(0.7),
        rarely(),
        rarely(),
        proptest::bool::weighted(0.3),
    )
        .prop_map(
            |(severity, manager, fixed, awaits, unmended, spared)| Hole {
                severity,
                manager,
                fixed,
                awaits,
                unmended,
                spared,
            },
        )
}

fn orders() -> impl Strategy<Value = Order> {
    (
        select(vec!["Scan", "Scan", "Install"]),
        rarely(),
        0..4000_i64,
    )
        .prop_map(|(operation, under_way, minutes_ago)| Order {
            operation,
            under_way,
            minutes_ago,
        })
}

fn windows() -> impl Strategy<Value = Vec<Weekly>> {
    let window = (
        proptest::collection::vec(0..7_usize, 0..4),
        0..1440_i64,
        0..1440_i64,
    )
        .prop_map(|(days, from, to)| Weekly { days, from, to });
    prop_oneof![
        2 => Just(Vec::new()),
        3 => proptest::collection::vec(window, 1..3),
    ]
}

fn tags() -> impl Strategy<Value = Tag> {
    let names = vec![
        "all",
        "vulnerable-package",
        "missing-patches",
        "unmanaged-instance",
        "open-ingress",
    ];
    prop_oneof![
        6 => Just(Tag::None),
        1 => Just(Tag::Malformed),
        3 => (select(names), select(vec![None, Some(true), Some(false)]))
            .prop_map(|(name, ends)| Tag::For(name, ends)),
    ]
}

fn worlds() -> impl Strategy<Value = World> {
    let mode = || {
        select(vec![
            None,
            None,
            Some("enforce"),
            Some("enforce"),
            Some("notify"),
            Some("off"),
        ])
    };
    let states = select(vec![
        "running", "running", "running", "running", "running", "stopped", "pending",
    ]);
    let pings = select(vec![
        Some("Online"),
        Some("Online"),
        Some("Online"),
        Some("Online"),
        Some("ConnectionLost"),
        None,
    ]);
    let patches = proptest::option::weighted(
        0.8,
        (
            select(vec!["Scan", "Install"]),
            prop_oneof![4 => 0..4000_i64, 1 => 4000..14000_i64],
            0..2_u32,
            prop_oneof![5 => Just(0_u32), 1 => Just(1)],
        ),
    );
    let there = (
        states,
        prop_oneof![3 => 0..20000_i64, 1 => 0..90_i64],
        pings,
        patches,
        proptest::collection::vec(holes(), 0..4),
        proptest::collection::vec(orders(), 0..3),
        rarely(),
        rarely(),
        tags(),
        0..10080_i64,
    );
    let modes = (
        select(vec!["enforce", "enforce", "notify", "off"]),
        mode(),
        mode(),
        mode(),
    );
    let policy = (
        severities(),
        select(vec![0_i64, 60, 60, 600]),
        select(vec![1_i64, 24, 24, 48]),
        any::<bool>(),
        windows(),
        any::<[bool; 2]>(),
        any::<bool>(),
        rarely(),
        (rarely(), rarely()),
        rarely(),
    );
    (there, modes, policy).prop_map(|(there, modes, policy)| {
        let (state, age_minutes, ping, patches, holes, orders, encrypted_now, member, tag, minute) =
            there;
        let (stack_mode, first, second, third) = modes;
        let (
            severity,
            min_age,
            cool_down_hours,
            patch_members,
            windows,
            fix,
            end,
            kill,
            trips,
            spared,
        ) = policy;
        World {
            state,
            age_minutes,
            ping,
            patches,
            holes,
            orders,
            encrypted_now,
            member,
            tag,
            minute,
            stack_mode,
            modes: [first, second, third],
            severity,
            min_age,
            cool_down_hours,
            patch_members,
            windows,
            fix_existing: fix,
            require_end: end,
            kill,
            tripped: [trips.0, trips.1],
            missing_spared: spared,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 6000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_run_begins_exactly_where_something_asks_for_it_and_no_guard_holds(world in worlds()) {
        let decision = world.under().decide(&world.facts());
        let begins = decision.status == Status::InProgress
            && matches!(decision.verdict, Verdict::Violates(_));
        if begins {
            prop_assert!(!world.held());
            prop_assert_eq!(decision.waits, None);
            let n = match decision.control() {
                Some(ControlId::VulnerablePackage) => 0,
                Some(ControlId::MissingPatches) => 1,
                other => return Err(TestCaseError::fail(format!("{other:?} begins nothing"))),
            };
            prop_assert!(!world.tripped[n] && world.enforces(n));
            match (decision.operation, n) {
                (Operation::Install, 0) => prop_assert!(
                    world.asks_by_finding() && world.patches.is_some() && !world.install_held()
                ),
                (Operation::Scan, 0) if world.patches.is_none() => {
                    prop_assert!(world.asks_by_finding() && !world.scan_held());
                }
                (Operation::Install, _) => prop_assert!(world.asks_by_state() && !world.install_held()),
                (Operation::Scan, 1) => prop_assert!(world.asks_for_a_scan() && !world.scan_held()),
                (Operation::Scan, _) => prop_assert!(
                    world.asks_for_another_scan() && !world.asks_by_finding() && !world.scan_held()
                ),
            }
        } else if !world.held() && world.tripped == [false, false] {
            // What was never scanned is scanned first.
            let asks = world.asks_by_finding() || world.asks_by_state();
            if asks && world.patches.is_some() {
                prop_assert!(world.install_held(), "{:?}", decision);
            } else if asks || world.asks_for_a_scan() {
                prop_assert!(world.scan_held(), "{:?}", decision);
            }
        }
        // On every path that leads to nothing a person can read why.
        if matches!(decision.verdict, Verdict::Violates(_)) && !begins {
            prop_assert!(!decision.reasons.is_empty());
        }
    }
}
