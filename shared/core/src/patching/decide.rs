//! Whether an instance is patched: judge, exempt, plan. The one way in for
//! events, the sweep and previews.
//!
//! Scenarios, each with a test in `tests/it/patching_cases.rs`:
//!
//! 1. nothing missing and nothing reported: compliant; gone: not applicable
//! 2. what a patch of the operating system mends: installed
//! 3. application packages, code, and what has no fixed version: only told
//! 4. approved patches are missing: installed; never scanned: scanned
//! 5. not managed, or not online: told with exactly what is missing
//! 6. too young, in an Auto Scaling group, outside the window, a command under
//!    way, patched of late: not now, and why
//! 7. opt-outs, the mode, the kill switch, a trip, what was there before
//!    `enforce`: found, not changed
//! 8. what a run has installed and Inspector has not looked at again is no
//!    finding
//!
//! Deliberately not here: whether there is room in the budget; only the ledger
//! can say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::{
    AutoScaling, Command, Host, MOST_LISTED, MOST_RECORDED, Need, Operation, PatchFacts, Patching,
    PatchingDetail, Settings, Vulnerability, Wait, cannot_be_patched,
};
use crate::controls::{missing_patches, unmanaged_instance, vulnerable_package};
use crate::exemption::{self, Exemption};
use crate::guards::{self, Case, Guards, Spared};
use crate::managers;
use crate::reason::{Meanwhile, Reason};
use crate::rules::OptOutRules;
use crate::run::{Head, Run, VERSION};
use crate::security_group::Tags;
use crate::trigger::Trigger;
use crate::words::{ControlId, Mode, Severity, Status};

/// After how long an instance is scanned again for what every approved patch did
/// not mend: AWS's own baselines approve a patch seven days after its release.
const RESCAN_UNMENDED: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How many commands that never began on an instance are followed by another one
/// within the cool-down.
const MOST_NOT_BEGUN: usize = 5;

/// The rules by which it is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules<'a> {
    /// The modes of [`ControlId::PATCHING`], where the policy names them.
    pub modes: BTreeMap<ControlId, Mode>,
    /// Those of [`ControlId::PATCHING`] that leave alone what was there before
    /// `enforce`.
    pub spares_existing: BTreeSet<ControlId>,
    /// The least severe findings of Inspector's that are looked at.
    pub least_severity: Severity,
    /// How patches are installed.
    pub settings: &'a Settings,
    /// What opt-out tags must say.
    pub opt_out: &'a OptOutRules,
    /// Whether the kill switch is on.
    pub kill_switch: bool,
}

impl Rules<'_> {
    /// A control's mode: `otherwise` where the policy names none.
    fn mode(&self, control: ControlId, otherwise: Mode) -> Mode {
        self.modes.get(&control).copied().unwrap_or(otherwise)
    }
}

/// Under what circumstances it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The mode that holds where the policy names none.
    pub mode: Mode,
    /// The time.
    pub now: Timestamp,
    /// What keeps each of [`ControlId::PATCHING`] from acting.
    pub guards: &'a BTreeMap<ControlId, Guards>,
}

impl Circumstances<'_> {
    fn mode_of(&self, control: ControlId, rules: &Rules<'_>) -> Mode {
        rules.mode(control, self.mode)
    }
}

/// What is said about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to judge, and why.
    NotApplicable(String),
    /// Nothing is missing that is known of.
    Compliant,
    /// It was started a moment ago: the sweep comes back to it.
    Settling,
    /// This control has something to say.
    Violates(ControlId),
}

/// What is decided about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is said about it.
    pub verdict: Verdict,
    /// How bad it is.
    pub severity: Severity,
    /// What is (or would be) sent.
    pub operation: Operation,
    /// The status that it leads to: in progress where a run begins.
    pub status: Status,
    /// What it waits for.
    pub waits: Option<Wait>,
    /// What the opt-out tag says.
    pub exemption: Exemption,
    /// Inspector's findings that belong to it, what a patch mends first.
    pub findings: Vec<Vulnerability>,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// The guard that holds it back.
    pub because: Option<Reason>,
    /// What it lacks, for Systems Manager to reach it.
    pub lacks: Vec<Need>,
}

impl Decision {
    fn nothing(verdict: Verdict) -> Self {
        Self {
            verdict,
            severity: Severity::Low,
            operation: Operation::Install,
            status: Status::Notified,
            waits: None,
            exemption: Exemption::None,
            findings: Vec::new(),
            reasons: Vec::new(),
            because: None,
            lacks: Vec::new(),
        }
    }

    /// The control that has something to say.
    #[must_use]
    pub fn control(&self) -> Option<ControlId> {
        match self.verdict {
            Verdict::Violates(control) => Some(control),
            _ => None,
        }
    }
}

/// What is the matter with an instance.
struct Found {
    control: ControlId,
    severity: Severity,
    operation: Operation,
    /// A patch mends it.
    patchable: bool,
    /// All of it was there before `enforce`.
    existing: bool,
    /// What keeps Systems Manager from it.
    lacks: Vec<(Need, String)>,
}

/// Decides about an instance.
#[must_use]
pub fn decide(facts: &PatchFacts, rules: &Rules<'_>, at: &Circumstances<'_>) -> Decision {
    let Some(host) = &facts.host else {
        return Decision::nothing(Verdict::NotApplicable("it is gone".to_owned()));
    };
    if host.is_ended() {
        return Decision::nothing(Verdict::NotApplicable("it is terminated".to_owned()));
    }
    let findings = relevant(facts, rules, at);
    let Some(found) = judge(host, facts, &findings, rules, at) else {
        return Decision::nothing(match host.state.as_str() {
            "running" => Verdict::Compliant,
            state => Verdict::NotApplicable(format!("it is {state}")),
        });
    };
    // Nobody has found anything yet; it may still be setting itself up.
    if is_young(host, rules.settings, at.now) && findings.is_empty() {
        return Decision::nothing(Verdict::Settling);
    }
    let exemption = if found.patchable {
        exempt(&host.tags, found.control, rules.opt_out, at.now)
    } else {
        own_exemption(&host.tags, found.control, rules.opt_out, at.now)
    };
    let exemption = match (exemption.holds(), found.existing) {
        (false, true) => Exemption::Existing,
        _ => exemption,
    };
    let mut decision = Decision {
        verdict: Verdict::Violates(found.control),
        severity: found.severity,
        operation: found.operation,
        status: Status::Notified,
        waits: None,
        exemption,
        findings,
        reasons: Vec::new(),
        because: None,
        lacks: Vec::new(),
    };
    plan(&mut decision, host, facts, &found, rules, at);
    decision
}

/// The findings that the control looks at: at or above the policy's severity,
/// and not waiting for Inspector's next look; what a patch mends first, the worst
/// first.
fn relevant(facts: &PatchFacts, rules: &Rules<'_>, at: &Circumstances<'_>) -> Vec<Vulnerability> {
    if at.mode_of(ControlId::VulnerablePackage, rules) == Mode::Off {
        return Vec::new();
    }
    let least = rules.least_severity;
    let mut findings: Vec<Vulnerability> = facts
        .findings
        .iter()
        .filter(|finding| finding.severity >= least && finding.installed_by.is_none())
        .cloned()
        .collect();
    // What was tried in vain may be mended by what has been approved since.
    if facts.state.as_ref().is_some_and(|state| state.missing > 0) {
        for finding in &mut findings {
            finding.unmended = false;
        }
    }
    findings.sort_by(|a, b| {
        let rank = |finding: &Vulnerability| (finding.is_patchable(), finding.severity);
        rank(b).cmp(&rank(a)).then(a.arn.cmp(&b.arn))
    });
    findings
}

fn judge(
    host: &Host,
    facts: &PatchFacts,
    findings: &[Vulnerability],
    rules: &Rules<'_>,
    at: &Circumstances<'_>,
) -> Option<Found> {
    let is_on = |control| at.mode_of(control, rules) != Mode::Off;
    let spared = |control: ControlId, fingerprint: &str| {
        rules.spares_existing.contains(&control)
            && at
                .guards
                .get(&control)
                .is_some_and(|guards| guards.baseline.contains(fingerprint))
    };
    let worst = findings.iter().map(|finding| finding.severity).max();
    let found = |control, severity, operation, patchable, existing| Found {
        control,
        severity,
        operation,
        patchable,
        existing,
        lacks: Vec::new(),
    };
    let patchable: Vec<&Vulnerability> = findings.iter().filter(|f| f.is_patchable()).collect();
    let all_spared = patchable.iter().all(|finding| {
        spared(
            ControlId::VulnerablePackage,
            &vulnerable_package::fingerprint(&finding.arn),
        )
    });
    let running = host.state == "running";
    let online = facts.agent.as_ref().is_some_and(super::Agent::is_online);
    let by_findings = |existing| {
        let severity = worst.unwrap_or(Severity::High);
        let control = ControlId::VulnerablePackage;
        // Whether its operating system can be patched at all, a scan says: without
        // snapshots and changing nothing.
        let operation = match facts.state {
            Some(_) => Operation::Install,
            None => Operation::Scan,
        };
        found(control, severity, operation, true, existing)
    };
    let by_state = || {
        if !running || !is_on(ControlId::MissingPatches) {
            return None;
        }
        let control = ControlId::MissingPatches;
        match &facts.state {
            Some(state) if state.missing > 0 || state.failed > 0 => {
                let existing = spared(control, &missing_patches::fingerprint(&host.id));
                let severity = worst.unwrap_or(Severity::High);
                Some(found(control, severity, Operation::Install, true, existing))
            }
            Some(_) => None,
            None if online => Some(found(
                control,
                Severity::Medium,
                Operation::Scan,
                true,
                false,
            )),
            None => None,
        }
    };
    let enforces = |control| at.mode_of(control, rules) == Mode::Enforce;
    let wanted = if patchable.is_empty() {
        by_state()
    } else if !all_spared && enforces(ControlId::VulnerablePackage) {
        Some(by_findings(false))
    } else {
        // Findings that are only told keep no other control from acting.
        by_state()
            .filter(|state| !state.existing && (all_spared || enforces(state.control)))
            .or_else(|| Some(by_findings(all_spared)))
    };
    // Whether the baseline approves by now what it did not: a scan says.
    let scanned_at = facts.state.as_ref().and_then(|state| state.ended_at);
    let is_due = scanned_at.is_some_and(|scan| at.now.duration_since(scan) >= RESCAN_UNMENDED);
    let unmended = findings.iter().any(|f| f.unmended && f.has_patch());
    let wanted = wanted.or_else(|| {
        let severity = worst.unwrap_or(Severity::High);
        let control = ControlId::VulnerablePackage;
        (running && online && unmended && is_due)
            .then(|| found(control, severity, Operation::Scan, true, false))
    });
    let only_told = (!findings.is_empty()).then(|| {
        let severity = worst.unwrap_or(Severity::High);
        let control = ControlId::VulnerablePackage;
        found(control, severity, Operation::Install, false, false)
    });
    let mut wanted = wanted.or(only_told);
    // Its agent may not have registered yet.
    if !running || online || is_young(host, rules.settings, at.now) {
        return wanted;
    }
    let lacks = unmanaged_instance::lacks(host, facts.agent.as_ref(), facts.reach.as_ref());
    let told = is_on(ControlId::UnmanagedInstance);
    if told && wanted.as_ref().is_none_or(|wanted| wanted.patchable) {
        wanted = Some(Found {
            control: ControlId::UnmanagedInstance,
            severity: worst.unwrap_or(Severity::Medium),
            operation: Operation::Install,
            patchable: wanted.is_some(),
            existing: false,
            lacks,
        });
    } else if let Some(wanted) = wanted.as_mut().filter(|wanted| told || wanted.patchable) {
        wanted.lacks = lacks;
    }
    wanted
}

fn plan(
    decision: &mut Decision,
    host: &Host,
    facts: &PatchFacts,
    found: &Found,
    rules: &Rules<'_>,
    at: &Circumstances<'_>,
) {
    let is_unmanaged = found.control == ControlId::UnmanagedInstance;
    let changes = found.patchable && !is_unmanaged;
    let spared = Spared::of(&decision.exemption);
    let unguarded = Guards::default();
    let held = guards::held_back(&Case {
        other_owner: None,
        spared,
        left: None,
        mode: at.mode_of(found.control, rules),
        kill_switch: rules.kill_switch,
        guards: at.guards.get(&found.control).unwrap_or(&unguarded),
        fights: None,
    });
    // What is only told changes nothing, so that nothing but an exemption holds it
    // back.
    if let Some(because) = held.filter(|_| changes || spared.is_some()) {
        decision.status = because.status();
        decision.reasons.push(because.to_string());
        decision.because = Some(because);
        return;
    }
    if is_unmanaged {
        let why = "Systems Manager cannot reach it, so that nothing can be patched";
        decision.reasons.push(why.to_owned());
    } else if !changes {
        let why = only_told(&decision.findings);
        decision.reasons.extend(why);
    }
    for (need, why) in &found.lacks {
        decision.lacks.push(*need);
        decision.reasons.push(why.clone());
    }
    if !changes {
        decision.status = Status::Notified;
        return;
    }
    if !found.lacks.is_empty() {
        decision.status = Status::Refused;
        return;
    }
    let mut ends = |status: Status, why: String| {
        decision.status = status;
        decision.reasons.push(why);
    };
    if let Some(why) = facts.cannot_be_patched() {
        return ends(Status::Refused, cannot_be_patched(why));
    }
    let settings = rules.settings;
    if let Some(group) = host.auto_scaling_group()
        && settings.auto_scaling == AutoScaling::Replace
        && found.operation == Operation::Install
    {
        return ends(
            Status::Refused,
            format!(
                "it is a member of the Auto Scaling group {group}: replace it from a patched image (or allow it: `patching.auto_scaling`)"
            ),
        );
    }
    if let Some((wait, why)) = waits(host, facts, found.operation, rules, at.now) {
        decision.waits = Some(wait);
        return ends(Status::Pending, why);
    }
    decision.status = Status::InProgress;
}

/// What keeps a command from being sent after all, looked at once more just
/// before it is: between the decision and the command lie snapshots of up to fifty
/// instances, and people who read what is coming. `encryption`: the ledger entry
/// of one that is under way.
#[must_use]
pub fn stops(
    run: &Patching,
    host: Option<&Host>,
    encryption: Option<&str>,
    rules: &Rules<'_>,
    mode: Mode,
    now: Timestamp,
) -> Option<Reason> {
    if rules.kill_switch {
        return Some(Reason::KillSwitch);
    }
    changed_meanwhile(run, host, encryption, rules, mode, now)
        .map(|what| Reason::Meanwhile { what })
}

fn changed_meanwhile(
    run: &Patching,
    host: Option<&Host>,
    encryption: Option<&str>,
    rules: &Rules<'_>,
    mode: Mode,
    now: Timestamp,
) -> Option<Meanwhile> {
    if rules.mode(run.head.control, mode) != Mode::Enforce {
        return Some(Meanwhile::EnforceNoMore);
    }
    let Some(host) = host.filter(|host| !host.is_ended()) else {
        return Some(Meanwhile::InstanceGone);
    };
    if host.state != "running" {
        return Some(Meanwhile::NotRunning);
    }
    match exempt(&host.tags, run.head.control, rules.opt_out, now) {
        Exemption::Malformed { .. } => return Some(Meanwhile::OptOutUnreadable),
        tag if tag.holds() => return Some(Meanwhile::OptedOut),
        _ => {}
    }
    if let Some(entry) = encryption {
        return Some(being_encrypted(entry));
    }
    let closed = run.detail.operation == Operation::Install && !rules.settings.in_window(now);
    closed.then_some(Meanwhile::WindowClosed)
}

/// An encryption stops the instance, in the middle of an installation as well.
fn being_encrypted(entry: &str) -> Meanwhile {
    Meanwhile::BeingEncrypted {
        entry: entry.to_owned(),
    }
}

/// Why what Inspector found is told and not patched.
fn only_told(findings: &[Vulnerability]) -> Vec<String> {
    let unmended = findings.iter().any(|finding| finding.unmended).then_some(
        "every approved patch was installed and did not mend it: does the patch baseline approve the fixed version?",
    );
    let others = || findings.iter().filter(|finding| !finding.unmended);
    let subscriptions: BTreeSet<&str> = others()
        .filter_map(Vulnerability::needs_subscription)
        .collect();
    let other = others()
        .any(|finding| finding.needs_subscription().is_none())
        .then_some("no patch of the operating system mends it");
    let why = unmended.into_iter().chain(other).map(str::to_owned);
    why.chain(subscriptions.into_iter().map(|subscription| {
        format!(
            "the version that fixes it comes with a subscription ({subscription}): the sources that the instance comes with do not deliver it"
        )
    }))
    .collect()
}

/// What an instance has to wait for.
fn waits(
    host: &Host,
    facts: &PatchFacts,
    operation: Operation,
    rules: &Rules<'_>,
    now: Timestamp,
) -> Option<(Wait, String)> {
    let settings = rules.settings;
    if host.state != "running" {
        return Some((Wait::Running, format!("it is {}", host.state)));
    }
    if is_young(host, rules.settings, now) {
        return Some((
            Wait::Age,
            format!(
                "it was started less than {} minutes ago, and may still be setting itself up",
                settings.min_age_minutes
            ),
        ));
    }
    if let Some(entry) = &facts.encrypting {
        return Some((Wait::Command, being_encrypted(entry).to_string()));
    }
    if let Some(command) = facts.commands.iter().find(|command| command.is_under_way()) {
        return Some((
            Wait::Command,
            format!(
                "the patch command {}, which was sent to it, is under way",
                command.id
            ),
        ));
    }
    // A scan that left nothing is not sent again at once either.
    let counts = |name: &str| operation == Operation::Scan || name == Operation::Install.name();
    let cools = |at: Timestamp| {
        at.checked_add(settings.cool_down())
            .is_ok_and(|end| end > now)
    };
    let (idle, ran): (Vec<&Command>, Vec<&Command>) = facts
        .commands
        .iter()
        .filter(|command| command.operation.as_deref().is_some_and(counts))
        .filter(|command| command.requested_at.is_some_and(cools))
        .partition(|command| command.never_began);
    // What never began on it has done nothing that needs a pause, until it has
    // happened too often.
    let too_often = idle.len() >= MOST_NOT_BEGUN;
    let sent = ran
        .iter()
        .chain(idle.iter().filter(|_| too_often))
        .filter_map(|command| command.requested_at);
    let ended = facts
        .state
        .iter()
        .filter(|state| counts(&state.operation))
        .filter_map(|state| state.ended_at);
    let cools_until = sent
        .chain(ended)
        .max()
        .and_then(|last| last.checked_add(settings.cool_down()).ok());
    if let Some(until) = cools_until.filter(|until| *until > now) {
        let what = match operation {
            Operation::Scan => "a patch command was sent to it",
            Operation::Install => "a command that installs patches was sent to it",
        };
        return Some((
            Wait::CoolDown,
            format!(
                "{what} within the last {} hours (`patching.cool_down_hours`): not again before {until}",
                settings.cool_down_hours
            ),
        ));
    }
    if operation == Operation::Scan {
        return None;
    }
    if !settings.in_window(now) {
        let opens = settings.next_window(now).map_or_else(
            || "a maintenance window".to_owned(),
            |at| format!("the maintenance window that opens at {at}"),
        );
        return Some((Wait::Window, format!("it waits for {opens}")));
    }
    None
}

fn is_young(host: &Host, settings: &Settings, now: Timestamp) -> bool {
    host.launched_at
        .is_some_and(|at| now.duration_since(at) < settings.min_age())
}

/// What an instance's opt-out tag means to a control. Installing patches is one
/// thing: whoever is opted out of one of the controls that lead to it is opted
/// out of it.
#[must_use]
pub fn exempt(tags: &Tags, control: ControlId, opt_out: &OptOutRules, now: Timestamp) -> Exemption {
    let read = |control| own_exemption(tags, control, opt_out, now);
    match control {
        ControlId::VulnerablePackage | ControlId::MissingPatches => {
            exemption::of_one_resource(vec![
                read(ControlId::VulnerablePackage),
                read(ControlId::MissingPatches),
            ])
        }
        own => read(own),
    }
}

/// What the tag means to a control that installs nothing here.
fn own_exemption(
    tags: &Tags,
    control: ControlId,
    opt_out: &OptOutRules,
    now: Timestamp,
) -> Exemption {
    exemption::read(tags, control, Offset::UTC.to_datetime(now).date(), opt_out)
}

/// What of an instance belongs to the baseline of a control.
#[must_use]
pub fn baseline(facts: &PatchFacts, control: ControlId) -> Vec<String> {
    let Some(host) = &facts.host else {
        return Vec::new();
    };
    match control {
        ControlId::VulnerablePackage => facts
            .findings
            .iter()
            .filter(|finding| finding.is_patchable())
            .map(|finding| vulnerable_package::fingerprint(&finding.arn))
            .collect(),
        // What was never scanned may lack anything: the scan brings out what was
        // there, and not what came since.
        ControlId::MissingPatches
            if facts
                .state
                .as_ref()
                .is_none_or(|state| state.missing > 0 || state.failed > 0) =>
        {
            vec![missing_patches::fingerprint(&host.id)]
        }
        _ => Vec::new(),
    }
}

/// What a record holds beside the decision.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// A new ULID.
    pub id: &'a str,
    /// What led to the look.
    pub trigger: &'a Trigger,
    /// The partition: `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: &'a str,
    /// Key of the tag whose value is the owning team.
    pub owner_tag: &'a str,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// When it was decided.
    pub now: Timestamp,
}

/// The ledger's record for an instance that a control has something to say
/// about; `None` where there is nothing to record.
#[must_use]
pub fn record(
    facts: &PatchFacts,
    decision: &Decision,
    settings: &Settings,
    about: About<'_>,
) -> Option<Patching> {
    let control = decision.control()?;
    let host = facts.host.as_ref()?;
    let Trigger {
        account, region, ..
    } = about.trigger;
    let begins = decision.status == Status::InProgress;
    let mut missing = facts.missing.clone();
    missing.truncate(MOST_LISTED);
    let mut findings = decision.findings.clone();
    let findings_total = u32::try_from(findings.len()).unwrap_or(u32::MAX);
    findings.truncate(MOST_RECORDED);
    Some(Run {
        head: Head {
            version: VERSION,
            id: about.id.to_owned(),
            control,
            severity: decision.severity,
            resource: format!(
                "arn:{}:ec2:{region}:{account}:instance/{}",
                about.partition, host.id
            ),
            resource_name: host.name().to_owned(),
            account: account.clone(),
            region: region.clone(),
            team: host.tags.get(about.owner_tag).cloned(),
            status: decision.status,
            exemption: decision.exemption.clone(),
            actor: about.trigger.actor.clone(),
            policy_version: about.policy_version,
            attempts: 1,
            started_at: about.now,
            finished_at: (!begins).then_some(about.now),
            managed_by: managers::managed_by(&[&host.tags], &about.trigger.actor)
                .map(|manager| manager.to_string()),
        },
        detail: PatchingDetail {
            operation: decision.operation,
            reboot: settings.reboot,
            findings,
            findings_total,
            missing,
            before: facts.state.clone(),
            after: None,
            agent: facts.agent.clone(),
            snapshots_wanted: settings.snapshots.take && decision.operation == Operation::Install,
            snapshots: Vec::new(),
            batch: None,
            command: None,
            not_begun: Vec::new(),
            unpatchable: facts.cannot_be_patched().cloned(),
            waits: decision.waits,
            reasons: decision.reasons.clone(),
            because: decision.because.clone(),
            lacks: decision.lacks.clone(),
            instance_gone: false,
            installed_at: None,
            page_key: None,
            revision: 0,
        },
    })
}
