//! What the sweep makes of a page of instances: whether one wants a closer look,
//! and why it is open; and of the snapshots that were taken before patches: which
//! have been kept for long enough.
//!
//! Deliberately not here: the closer look (`patching::decide`, by the
//! remediation function), and the walk (`backstop_aws::instance_pages`).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::encryption::Purpose;
use crate::exemption::opt_out_tags;
use crate::guards::Guards;
use crate::patching::decide::exempt;
use crate::patching::{Agent, PatchFacts, Patching};
use crate::policy::Policy;
use crate::volumes::{ENTRY_TAG, PURPOSE_TAG, Snapshot};
use crate::words::{ControlId, Mode, Status, digest};

/// Hours after which what waits is looked at again although a page shows no
/// change: commands and their ends are on no page.
const LOOK_AGAIN_HOURS: i64 = 6;

/// Why an instance is open, in a few words, by the status that was recorded
/// last.
#[must_use]
pub fn reason(status: Option<&str>) -> &'static str {
    let is = |of: Status| status == Some(of.name());
    match status {
        _ if is(Status::Notified) => "told, and left as it is",
        _ if is(Status::Pending) => "it waits to be patched",
        _ if is(Status::Refused) => "it cannot be patched as it is",
        _ => super::kept_back(status),
    }
}

/// Everything that a page shows of an instance and that its last record depends
/// on. While it stays the same the instance wants no closer look for
/// [`LOOK_AGAIN_HOURS`].
#[must_use]
pub fn page_key(
    facts: &PatchFacts,
    policy: &Policy,
    mode: Mode,
    guards: &BTreeMap<ControlId, Guards>,
    now: Timestamp,
) -> String {
    let Some(host) = &facts.host else {
        return String::new();
    };
    let old_enough = host
        .launched_at
        .is_none_or(|at| now.duration_since(at) >= policy.patching.min_age());
    let mut parts = vec![
        format!("{} {:?}", host.state, host.auto_scaling_group()),
        format!("{:?} {}", host.instance_profile, host.public_ipv4),
        format!("{:?}", opt_out_tags(&host.tags).collect::<Vec<_>>()),
        format!("{:?}", facts.agent.as_ref().map(Agent::is_online)),
        format!(
            "{:?}",
            facts.state.as_ref().map(|state| (
                &state.operation,
                state.ended_at,
                state.missing,
                state.failed
            ))
        ),
        format!("{}", cooled_down(facts, policy, now)),
        format!(
            "{:?} {:?} {} {old_enough} {}",
            policy.patching,
            policy.opt_out,
            policy.kill_switch,
            policy.patching.in_window(now)
        ),
        format!("{}", now.as_second().div_euclid(LOOK_AGAIN_HOURS * 3600)),
    ];
    for control in ControlId::PATCHING {
        let guards = guards.get(control);
        parts.push(format!(
            "{control} {:?} {:?} {:?} {:?}",
            policy.controls.mode(*control).unwrap_or(mode),
            policy.controls.existing(*control),
            exempt(&host.tags, *control, &policy.opt_out, now),
            guards.map(|guards| (
                guards.control_tripped.is_some(),
                guards.resource_tripped.is_some(),
                &guards.baseline
            )),
        ));
        // The next sweep meets another hour.
        if guards.is_some_and(|guards| guards.budget_spent) {
            parts.push("budget spent".to_owned());
        }
    }
    parts.push(format!(
        "{:?}",
        policy.controls.vulnerable_package.settings.severity
    ));
    // Which agent and operating system it is matters to nothing else.
    parts.extend(facts.cannot_be_patched().map(|why| format!("{why:?}")));
    for finding in &facts.findings {
        parts.push(format!(
            "{} {:?} {} {} {}",
            finding.arn,
            finding.installed_by,
            finding.severity,
            finding.is_patchable(),
            finding.unmended
        ));
    }
    digest(parts.iter().map(String::as_str))
}

/// Whether a snapshot may have been kept for long enough, by what a page shows of
/// it. Whoever opts one out, in whatever words, keeps it: IAM does not let it be
/// deleted either.
#[must_use]
pub fn is_old_enough(snapshot: &Snapshot, policy: &Policy, now: Timestamp) -> bool {
    let opted_out = opt_out_tags(&snapshot.tags).next().is_some();
    !opted_out && !policy.kill_switch && is_over(snapshot.started_at, policy, now)
}

/// Whether a snapshot that a run took before it installed patches is to be
/// deleted: the run is over and ended well, and the policy has kept it for long
/// enough since. Of an instance that was gone before that was known, nobody can
/// say that it ended well.
#[must_use]
pub fn may_be_deleted(
    snapshot: &Snapshot,
    run: &Patching,
    policy: &Policy,
    mode: Mode,
    now: Timestamp,
) -> bool {
    let tag = |key: &str| snapshot.tags.get(key).map(String::as_str);
    let ours = tag(ENTRY_TAG) == Some(&run.head.id)
        && tag(PURPOSE_TAG) == Some(Purpose::Safety.name())
        && run.detail.snapshots.contains(&snapshot.id);
    let ended_well = run.head.status == Status::Remediated && !run.detail.instance_gone;
    let acts = policy.controls.mode(run.head.control).unwrap_or(mode) == Mode::Enforce;
    ours && ended_well
        && acts
        && is_old_enough(snapshot, policy, now)
        && is_over(run.head.finished_at, policy, now)
}

/// Whether the days that the policy keeps snapshots for have passed since a time.
fn is_over(since: Option<Timestamp>, policy: &Policy, now: Timestamp) -> bool {
    let days = policy.patching.snapshots.delete_after_days;
    let kept_for = SignedDuration::from_hours(24 * i64::from(days));
    days > 0 && since.is_some_and(|since| now.duration_since(since) >= kept_for)
}

/// Whether the cool-down after the last operation is over, as far as a page
/// shows it.
fn cooled_down(facts: &PatchFacts, policy: &Policy, now: Timestamp) -> bool {
    let ended = facts.state.as_ref().and_then(|state| state.ended_at);
    ended.is_none_or(|at| now.duration_since(at) >= policy.patching.cool_down())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::exemption::OPT_OUT_TAG;
    use crate::guards::Trip;
    use crate::patching::{Command, Host, OS, Package, Patch, PatchState, Reach, Vulnerability};
    use crate::words::Severity;

    struct Page {
        facts: PatchFacts,
        policy: Value,
        mode: Mode,
        guards: BTreeMap<ControlId, Guards>,
        now: Timestamp,
    }

    type Change = Box<dyn FnOnce(&mut Page)>;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn page() -> Page {
        Page {
            facts: PatchFacts {
                host: Some(Host {
                    id: "i-1".into(),
                    state: "running".into(),
                    launched_at: Some(at("2026-11-01T00:00:00Z")),
                    ..Host::default()
                }),
                agent: Some(Agent {
                    ping: "Online".into(),
                    last_ping: Some(at("2026-11-24T06:00:00Z")),
                    ..Agent::default()
                }),
                state: Some(PatchState {
                    operation: "Scan".into(),
                    ended_at: Some(at("2026-11-24T00:30:00Z")),
                    missing: 2,
                    ..PatchState::default()
                }),
                findings: vec![Vulnerability {
                    arn: "arn:aws:inspector2:eu-central-1:111122223333:finding/1".into(),
                    severity: Severity::High,
                    title: "CVE-2026-1 - openssl".into(),
                    cves: Vec::new(),
                    packages: vec![Package {
                        manager: OS.into(),
                        fixed_in: Some("1.1".into()),
                        ..Package::default()
                    }],
                    remediation: None,
                    reported_at: None,
                    installed_by: None,
                    unmended: false,
                }],
                ..PatchFacts::default()
            },
            policy: json!({ "version": 1 }),
            mode: Mode::Enforce,
            guards: BTreeMap::new(),
            now: at("2026-11-24T07:00:00Z"),
        }
    }

    fn key(change: impl FnOnce(&mut Page)) -> String {
        let mut page = page();
        change(&mut page);
        let policy = Policy::parse(&page.policy.to_string()).unwrap();
        page_key(&page.facts, &policy, page.mode, &page.guards, page.now)
    }

    fn host(page: &mut Page) -> &mut Host {
        page.facts.host.as_mut().unwrap()
    }

    fn state(page: &mut Page) -> &mut PatchState {
        page.facts.state.as_mut().unwrap()
    }

    fn tripped() -> Option<Trip> {
        Some(Trip {
            at: at("2026-11-24T01:00:00Z"),
            why: "too much".into(),
        })
    }

    #[test]
    fn what_the_decision_hangs_on_changes_the_key() {
        let saturday = json!([{ "days": ["sat"], "from": "02:00", "to": "05:00" }]);
        let changes: Vec<(&str, Change)> = vec![
            ("stopped", Box::new(|p| host(p).state = "stopped".into())),
            (
                "a member of a group",
                Box::new(|p| {
                    host(p)
                        .tags
                        .insert("aws:autoscaling:groupName".into(), "web".into());
                }),
            ),
            (
                "a role",
                Box::new(|p| host(p).instance_profile = Some("arn".into())),
            ),
            ("an address", Box::new(|p| host(p).public_ipv4 = true)),
            (
                "young",
                Box::new(|p| host(p).launched_at = Some(at("2026-11-24T06:30:00Z"))),
            ),
            (
                "opted out",
                Box::new(|p| {
                    host(p)
                        .tags
                        .insert(OPT_OUT_TAG.into(), "missing-patches".into());
                }),
            ),
            (
                "opted out of another of them",
                Box::new(|p| {
                    host(p)
                        .tags
                        .insert(OPT_OUT_TAG.into(), "vulnerable-package".into());
                }),
            ),
            ("no agent", Box::new(|p| p.facts.agent = None)),
            (
                "lost",
                Box::new(|p| p.facts.agent.as_mut().unwrap().ping = "ConnectionLost".into()),
            ),
            ("never scanned", Box::new(|p| p.facts.state = None)),
            ("none missing", Box::new(|p| state(p).missing = 0)),
            ("one failed", Box::new(|p| state(p).failed = 1)),
            (
                "installed",
                Box::new(|p| state(p).operation = "Install".into()),
            ),
            (
                "scanned again",
                Box::new(|p| state(p).ended_at = Some(at("2026-11-24T06:30:00Z"))),
            ),
            ("a finding less", Box::new(|p| p.facts.findings.clear())),
            (
                "worse",
                Box::new(|p| p.facts.findings[0].severity = Severity::Critical),
            ),
            (
                "no fix",
                Box::new(|p| p.facts.findings[0].packages[0].fixed_in = None),
            ),
            (
                "not mended",
                Box::new(|p| p.facts.findings[0].unmended = true),
            ),
            (
                "it awaits a rescan",
                Box::new(|p| p.facts.findings[0].installed_by = Some("01".into())),
            ),
            ("another mode", Box::new(|p| p.mode = Mode::Notify)),
            (
                "the kill switch",
                Box::new(|p| p.policy["kill_switch"] = json!(true)),
            ),
            (
                "a closed window",
                Box::new(move |p| p.policy["patching"]["windows"] = saturday),
            ),
            (
                "another severity",
                Box::new(|p| {
                    p.policy["controls"]["vulnerable-package"]["settings"]["severity"] =
                        json!("critical");
                }),
            ),
            (
                "a control that is off",
                Box::new(|p| {
                    p.policy["controls"]["unmanaged-instance"]["mode"] = json!("off");
                }),
            ),
            (
                "existing",
                Box::new(|p| {
                    p.policy["controls"]["missing-patches"]["existing"] = json!("enforce");
                }),
            ),
            (
                "a trip",
                Box::new(|p| {
                    let guards = p.guards.entry(ControlId::MissingPatches).or_default();
                    guards.control_tripped = tripped();
                }),
            ),
            (
                "a trip of the instance",
                Box::new(|p| {
                    let guards = p.guards.entry(ControlId::MissingPatches).or_default();
                    guards.resource_tripped = tripped();
                }),
            ),
            (
                "the baseline",
                Box::new(|p| {
                    let guards = p.guards.entry(ControlId::VulnerablePackage).or_default();
                    guards.baseline.insert("fingerprint".into());
                }),
            ),
        ];
        let mut keys = BTreeMap::from([(key(|_| {}), "unchanged")]);
        for (what, change) in changes {
            let same = keys.insert(key(change), what);
            assert_eq!(same, None, "{what}");
        }
    }

    #[test]
    fn the_end_of_the_cool_down_changes_the_key_at_once() {
        let cooled = |now: &'static str| {
            key(move |p| {
                state(p).ended_at = Some(at("2026-11-23T08:30:00Z"));
                p.now = at(now);
            })
        };
        assert_eq!(
            cooled("2026-11-24T08:00:00Z"),
            cooled("2026-11-24T08:29:59Z")
        );
        assert_ne!(
            cooled("2026-11-24T08:29:59Z"),
            cooled("2026-11-24T08:30:00Z")
        );
    }

    #[test]
    fn what_nothing_hangs_on_leaves_the_key() {
        let unchanged = key(|_| {});
        let changes: Vec<(&str, Change)> = vec![
            ("minutes", Box::new(|p| p.now = at("2026-11-24T11:59:59Z"))),
            (
                "a ping",
                Box::new(|p| {
                    let agent = p.facts.agent.as_mut().unwrap();
                    agent.last_ping = Some(at("2026-11-24T06:55:00Z"));
                    agent.version = Some("3.4".into());
                }),
            ),
            (
                "another tag",
                Box::new(|p| {
                    host(p).tags.insert("cost-centre".into(), "1".into());
                }),
            ),
            // What no page shows.
            (
                "the closer look",
                Box::new(|p| {
                    p.facts.commands = vec![Command::default()];
                    p.facts.missing = vec![Patch::default()];
                    p.facts.reach = Some(Reach::default());
                }),
            ),
            (
                "a new title",
                Box::new(|p| p.facts.findings[0].title = "another".into()),
            ),
            (
                "another control's settings",
                Box::new(|p| p.policy["controls"]["open-ingress"]["mode"] = json!("off")),
            ),
        ];
        for (what, change) in changes {
            assert_eq!(key(change), unchanged, "{what}");
        }
    }

    #[test]
    fn every_status_that_leaves_an_instance_open_has_words_of_its_own() {
        let open = [
            Status::Notified,
            Status::Pending,
            Status::Refused,
            Status::Exempt,
            Status::Held,
            Status::Existing,
            Status::Tripped,
            Status::Stopped,
        ];
        let mut words: Vec<&str> = open.iter().map(|s| reason(Some(s.name()))).collect();
        // Nothing is known of it yet, or a run is at work on it.
        words.push(reason(None));
        assert_eq!(reason(Some(Status::InProgress.name())), reason(None));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), open.len() + 1, "{words:?}");
    }

    #[test]
    fn what_waits_is_looked_at_again_after_six_hours() {
        assert_ne!(key(|p| p.now = at("2026-11-24T12:00:00Z")), key(|_| {}));
    }

    #[test]
    fn an_opening_window_is_seen_and_so_is_its_end() {
        let at_time = |time: &str| {
            key(|p| {
                p.policy["patching"]["windows"] = json!([{ "from": "08:00", "to": "10:00" }]);
                p.now = at(time);
            })
        };
        let before = at_time("2026-11-24T07:59:59Z");
        assert_ne!(before, at_time("2026-11-24T08:00:00Z"));
        assert_eq!(before, at_time("2026-11-24T10:00:00Z"), "closed as before");
    }

    #[test]
    fn the_day_after_an_opt_outs_last_is_seen() {
        let on = |time: &str| {
            key(|p| {
                let tag = "all until=2026-11-24".to_owned();
                host(p).tags.insert(OPT_OUT_TAG.into(), tag);
                p.now = at(time);
            })
        };
        let tagged_earlier = on("2026-11-24T18:00:00Z");
        assert_eq!(tagged_earlier, on("2026-11-24T23:59:59Z"));
        assert_ne!(tagged_earlier, on("2026-11-25T00:00:00Z"));
    }
}
