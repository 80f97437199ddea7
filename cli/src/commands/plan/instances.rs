//! What `patch-instance` would do about an instance now.

use backstop_aws::patching;
use backstop_core::message::one_line;
use backstop_core::patching::decide::{Circumstances, Decision, Verdict, decide};
use backstop_core::patching::{
    Agent, DOCUMENT, Operation, Patch, PatchFacts, PatchState, Reboot, Reports, Settings,
    Vulnerability,
};
use backstop_core::trigger::Says;
use backstop_core::words::Status;
use jiff::Timestamp;

use super::exempted;
use crate::Problem;
use crate::commands::scan::few;
use crate::context::Aws;
use crate::judging::Basis;
use crate::table::{Page, Table, named, second, table, terminal_width};

/// Most lines of a table.
const MOST_LINES: usize = 40;

/// Looks at the patches of an instance; whether anything was found.
pub(super) async fn plan(id: &str, says: &Says, aws: &Aws, basis: &Basis) -> Result<bool, Problem> {
    let now = aws.clients.clock.now();
    let facts = facts(id, says, aws, basis, now).await?;
    if facts.host.is_none() {
        return Err(aws.not_found(id));
    }
    let guards = basis.patching_guards(id).await?;
    let circumstances = Circumstances {
        mode: basis.mode,
        now,
        guards: &guards,
    };
    let decision = decide(&facts, &basis.policy.patching(), &circumstances);
    let settings = &basis.policy.patching;
    print!(
        "{}",
        said(id, &facts, &decision, settings, terminal_width())
    );
    Ok(matches!(decision.verdict, Verdict::Violates(_)))
}

/// Everything that is known of an instance, and what an event says of it.
async fn facts(
    id: &str,
    says: &Says,
    aws: &Aws,
    basis: &Basis,
    now: Timestamp,
) -> Result<PatchFacts, Problem> {
    let (ec2, ssm) = (&aws.clients.ec2, &aws.clients.ssm);
    let (deadline, ids) = (&aws.deadline, [id.to_owned()]);
    let mut facts = PatchFacts {
        host: patching::hosts(ec2, &ids, deadline).await?.remove(id),
        ..PatchFacts::default()
    };
    // Of what EC2 does not show, Systems Manager is not asked.
    if facts.host.as_ref().is_some_and(|host| !host.is_ended()) {
        facts.agent = patching::agents(ssm, &ids, deadline).await?.remove(id);
    }
    let mut reports = Reports::default();
    if let Some(ledger) = &basis.ledger {
        reports = ledger.reports(&ids).await?.remove(id).unwrap_or_default();
        facts.encrypting = ledger.encryptions(&ids).await?.remove(id);
    }
    match says {
        Says::Nothing => {}
        Says::Active(finding) => reports.report(finding.as_ref().clone()),
        Says::Closed { arn, at, .. } => reports.close(arn, *at),
    }
    facts.findings = reports.active.into_values().collect();
    facts.unpatchable = reports.unpatchable;
    if facts.agent.is_some() {
        facts.state = patching::states(ssm, &ids, deadline).await?.remove(id);
        facts.missing = patching::missing(ssm, id, deadline).await?;
        let since = now
            .checked_sub(basis.policy.patching.looks_back())
            .unwrap_or(now);
        facts.commands = patching::commands_on(ssm, id, since, deadline).await?;
    }
    let managed = facts.agent.as_ref().is_some_and(Agent::is_online);
    if let (false, Some(host)) = (managed, &facts.host) {
        facts.reach = Some(patching::reach(ec2, ssm, host, &aws.region, deadline).await?);
    }
    Ok(facts)
}

/// A decision about an instance's patches, for people, as it fits a terminal of so
/// many columns.
fn said(
    id: &str,
    facts: &PatchFacts,
    decision: &Decision,
    settings: &Settings,
    terminal: Option<usize>,
) -> String {
    let mut page = Page::new(terminal);
    let what = match &facts.host {
        None => format!("the patches of {id}"),
        Some(host) => format!(
            "the patches of {}, {}",
            named(&host.id, host.name()),
            one_line(&host.state, 50)
        ),
    };
    let control = match &decision.verdict {
        Verdict::NotApplicable(why) => Err(format!("nothing to judge: {why}")),
        Verdict::Compliant => Err("compliant, nothing would be done".to_owned()),
        Verdict::Settling => {
            Err("it was started a moment ago and would be looked at again by the sweep".to_owned())
        }
        Verdict::Violates(control) => Ok(control),
    };
    let control = match control {
        Ok(control) => control,
        Err(why_not) => {
            page.line(&format!("{what}: {why_not}"));
            return page.into_text();
        }
    };
    page.line(&format!(
        "{what}: {} finding ({control})",
        decision.severity
    ));
    match &facts.state {
        Some(state) => page.line(&as_of(state)),
        None if facts.agent.is_some() => page.line("it was never scanned for missing patches"),
        None => {}
    }
    missing(&mut page, &facts.missing);
    findings(&mut page, &decision.findings);
    let (carried_out, begins) = match decision.status {
        Status::InProgress => ("it would be carried out", true),
        Status::Pending => ("it would be carried out later", true),
        _ => ("it would not be carried out", false),
    };
    page.line(carried_out);
    for (n, reason) in decision.reasons.iter().enumerate() {
        let lead = match n {
            0 => "because ",
            _ => "and ",
        };
        page.led(lead, &one_line(reason, 400));
    }
    page.line(&exempted(&decision.exemption));
    if begins {
        for (n, step) in steps(decision.operation, settings).iter().enumerate() {
            page.led(&format!("{}. ", n + 1), step);
        }
    }
    page.into_text()
}

/// What the last patch operation left.
fn as_of(state: &PatchState) -> String {
    let when = state
        .ended_at
        .map_or_else(String::new, |at| format!(" at {}", second(at)));
    let mut counts = vec![format!("{} approved patches missing", state.missing)];
    if state.failed > 0 {
        counts.push(format!("{} failed to install", state.failed));
    }
    if state.pending_reboot > 0 {
        let waiting = state.pending_reboot;
        counts.push(format!("{waiting} without effect until it restarts"));
    }
    let operation = one_line(&state.operation, 50);
    format!("as of the last {operation}{when}: {}", counts.join(", "))
}

/// The patches that an Install would bring.
fn missing(page: &mut Page, patches: &[Patch]) {
    let mut rows = table(&["patch", "what it is", "severity", "fixes"]);
    for patch in patches.iter().take(MOST_LINES) {
        rows.add_row(vec![
            one_line(&patch.title, 100),
            or_none(&patch.classification),
            or_none(&patch.severity),
            or_none(&few(&patch.cves)),
        ]);
    }
    listed(page, &rows, patches.len());
}

/// What Inspector reported.
fn findings(page: &mut Page, findings: &[Vulnerability]) {
    let headings = ["Inspector reported", "severity", "in", "fixed by a patch"];
    let mut rows = table(&headings);
    for finding in findings.iter().take(MOST_LINES) {
        let name = finding.cves.first().unwrap_or(&finding.title);
        let packages: Vec<String> = finding
            .packages
            .iter()
            .map(|package| package.name.clone())
            .collect();
        rows.add_row(vec![
            one_line(name, 100),
            finding.severity.to_string(),
            or_none(&few(&packages)),
            match finding.is_patchable() {
                true => "yes",
                false => "no",
            }
            .to_owned(),
        ]);
    }
    listed(page, &rows, findings.len());
}

fn or_none(text: &str) -> String {
    match one_line(text, 200) {
        nothing if nothing.is_empty() => "-".to_owned(),
        text => text,
    }
}

/// The first rows of so many, and how many more there are.
fn listed(page: &mut Page, rows: &Table, all: usize) {
    if !rows.is_empty() {
        page.table(rows);
    }
    match all.saturating_sub(MOST_LINES) {
        0 => {}
        more => page.line(&format!("and {more} more")),
    }
}

/// What would be done, step by step.
fn steps(operation: Operation, settings: &Settings) -> Vec<String> {
    let command = |reboot: Reboot| {
        format!(
            "{DOCUMENT} with Operation={} and RebootOption={}",
            operation.name(),
            reboot.option()
        )
    };
    if operation == Operation::Scan {
        return vec![format!(
            "The command {} is sent: it looks which approved patches are missing, and changes nothing.",
            command(Reboot::Never)
        )];
    }
    let (first, back) = match settings.snapshots.take {
        true => (
            "First, snapshots of all its volumes are taken. They are crash-consistent: they lack what is only in memory.",
            "the only way back is volumes made of the snapshots, by hand",
        ),
        false => (
            "No snapshots are taken first: `patching.snapshots` is `false`.",
            "there is no way back but a backup of your own",
        ),
    };
    let restart = match settings.reboot {
        Reboot::Never => {
            "It is not restarted: a patch that needs a restart takes effect with the next one."
        }
        Reboot::IfNeeded => {
            "It is RESTARTED once anything has been installed, or if an earlier patch waits for a restart."
        }
    };
    vec![
        first.to_owned(),
        format!(
            "Then the command {} is sent: it installs every approved patch that is missing then. {restart}",
            command(settings.reboot)
        ),
        format!("A patch cannot be undone: {back}."),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use backstop_core::patching::{Command, Host, OS, Package, Reach};
    use backstop_core::policy::Policy;
    use backstop_core::record::Record;
    use backstop_core::windows::Window;
    use backstop_core::words::Mode;
    use backstop_core::words::Severity;
    use jiff::SignedDuration;

    use super::*;
    use crate::screens::{self, record};

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().unwrap()
    }

    /// A managed instance that lacks three patches.
    fn facts(tags: &[(&str, &str)]) -> PatchFacts {
        let tags = tags.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let host = Host {
            id: "i-1".into(),
            state: "running".into(),
            launched_at: Some(now() - SignedDuration::from_hours(240)),
            tags: tags.collect(),
            ..Host::default()
        };
        let patch = |title: &str| Patch {
            title: title.into(),
            classification: "Security".into(),
            severity: "Important".into(),
            cves: vec!["CVE-2026-1000".into()],
        };
        PatchFacts {
            host: Some(host),
            agent: Some(Agent {
                ping: "Online".into(),
                ..Agent::default()
            }),
            state: Some(PatchState {
                operation: "Scan".into(),
                ended_at: Some(now() - SignedDuration::from_hours(30)),
                missing: 3,
                pending_reboot: 1,
                ..PatchState::default()
            }),
            missing: vec![patch("openssl-3.0.8"), patch("kernel-6.1")],
            ..PatchFacts::default()
        }
    }

    fn plan(facts: &PatchFacts, policy: &Policy) -> String {
        plan_on(facts, policy, None)
    }

    fn plan_on(facts: &PatchFacts, policy: &Policy, terminal: Option<usize>) -> String {
        let guards = BTreeMap::new();
        let circumstances = Circumstances {
            mode: Mode::Enforce,
            now: now(),
            guards: &guards,
        };
        let decision = decide(facts, &policy.patching(), &circumstances);
        said("i-1", facts, &decision, &policy.patching, terminal)
    }

    #[test]
    fn the_plan_for_an_instances_patches_is_the_screen_in_the_documents() {
        let Record::Patching(run) = record("patching/vulnerable-package-remediated.json") else {
            panic!("a patching")
        };
        let mut facts = facts(&[("Name", &run.head.resource_name)]);
        facts.host.as_mut().unwrap().id = run.head.resource_id().to_owned();
        facts.state.clone_from(&run.detail.before);
        facts.findings.clone_from(&run.detail.findings);
        screens::check("plan-patches", |terminal| {
            plan_on(&facts, &Policy::default(), terminal)
        });
    }

    #[track_caller]
    fn in_order(text: &str, parts: &[&str]) {
        let mut rest = text;
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                panic!("{part} is missing, or out of order, in\n{text}");
            };
            rest = after;
        }
    }

    #[test]
    fn an_installation_is_said_step_by_step_with_what_it_brings_and_that_it_cannot_be_undone() {
        let mut policy = Policy::default();
        let facts = facts(&[("Name", "web-1")]);
        in_order(
            &plan(&facts, &policy),
            &[
                "the patches of i-1 (web-1), running: high finding (missing-patches)\n",
                "as of the last Scan at 2026-11-23 04:00:00 UTC: 3 approved patches missing, 1 without effect until it restarts\n",
                "openssl-3.0.8",
                "CVE-2026-1000",
                "kernel-6.1",
                "it would be carried out\n",
                "1. First, snapshots of all its volumes are taken. They are crash-consistent",
                "2. Then the command AWS-RunPatchBaseline with Operation=Install and RebootOption=NoReboot is sent",
                "3. A patch cannot be undone: the only way back is volumes made of the snapshots",
            ],
        );
        policy.patching.snapshots.take = false;
        policy.patching.reboot = Reboot::IfNeeded;
        policy.patching.windows = vec![Window {
            days: Vec::new(),
            from: "09:00".into(),
            to: "11:00".into(),
        }];
        in_order(
            &plan(&facts, &policy),
            &[
                "1. No snapshots are taken first",
                "RebootOption=RebootIfNeeded is sent",
                "It is RESTARTED once anything has been installed, or if an earlier patch waits for a restart.",
                "there is no way back but a backup of your own",
            ],
        );
    }

    #[test]
    fn one_that_was_never_scanned_is_scanned_which_changes_nothing() {
        let mut facts = facts(&[]);
        (facts.state, facts.missing) = (None, Vec::new());
        let text = plan(&facts, &Policy::default());
        in_order(
            &text,
            &[
                "medium finding (missing-patches)\nit was never scanned for missing patches\n",
                "it would be carried out\n",
                "1. The command AWS-RunPatchBaseline with Operation=Scan and RebootOption=NoReboot is sent",
                "changes nothing",
            ],
        );
        assert!(!text.contains("snapshots"), "{text}");
    }

    #[test]
    fn what_waits_or_is_left_is_said_with_why_and_what_is_left_without_steps() {
        let policy = Policy::default();
        let mut waits = facts(&[]);
        waits.commands = vec![Command {
            id: "c-1".into(),
            status: "InProgress".into(),
            ..Command::default()
        }];
        in_order(
            &plan(&waits, &policy),
            &[
                "it would be carried out later\nbecause the patch command c-1, which was sent to it, is under way\n",
                "1. First, snapshots",
            ],
        );
        let spared = facts(&[(
            "backstop:opt-out",
            "vulnerable-package until=2027-01-31 owner=team-web",
        )]);
        let grown = facts(&[("aws:autoscaling:groupName", "web")]);
        for (facts, parts) in [
            (
                &spared,
                [
                    "because the tag backstop:opt-out opts it out\n",
                    "opted out until 2027-01-31, by team-web",
                ],
            ),
            (
                &grown,
                ["because it is a member of the Auto Scaling group web", ""],
            ),
        ] {
            let text = plan(facts, &policy);
            in_order(
                &text,
                &["it would not be carried out\n", parts[0], parts[1]],
            );
            assert!(!text.contains("1. "), "{text}");
        }
    }

    #[test]
    fn an_unmanaged_one_is_told_with_all_that_it_lacks_and_what_inspector_reported() {
        let finding = |manager: &str, cve: &str| Vulnerability {
            arn: cve.into(),
            severity: Severity::Critical,
            title: "title".into(),
            cves: vec![cve.into()],
            packages: vec![Package {
                name: format!("package-of-{manager}"),
                fixed_in: Some("2".into()),
                manager: manager.into(),
                ..Package::default()
            }],
            remediation: None,
            reported_at: None,
            installed_by: None,
            unmended: false,
        };
        let mut facts = facts(&[]);
        (facts.agent, facts.state, facts.missing) = (None, None, Vec::new());
        facts.reach = Some(Reach::default());
        facts.findings = vec![
            finding("NPM", "CVE-2026-2000"),
            finding(OS, "CVE-2026-1000"),
        ];
        let text = plan(&facts, &Policy::default());
        in_order(
            &text,
            &[
                "critical finding (unmanaged-instance)",
                "CVE-2026-1000",
                "package-of-OS",
                "yes",
                "CVE-2026-2000",
                "package-of-NPM",
                "no",
                "it would not be carried out\n",
                "because Systems Manager cannot reach it",
                "and role: ",
                "and endpoint: ",
            ],
        );
    }

    #[test]
    fn what_is_gone_or_in_order_is_said_in_one_line() {
        let policy = Policy::default();
        let gone = plan(&PatchFacts::default(), &policy);
        assert_eq!(gone, "the patches of i-1: nothing to judge: it is gone\n");
        let mut patched = facts(&[]);
        patched.state = Some(PatchState::default());
        assert_eq!(
            plan(&patched, &policy),
            "the patches of i-1, running: compliant, nothing would be done\n"
        );
    }
}
