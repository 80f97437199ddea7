//! What the sweep makes of a page of instances: whether one wants a closer look,
//! and why it is open.
//!
//! Deliberately not here: the closer look (`patching::decide`, by the
//! remediation function), and the walk (`backstop_aws::instance_pages`).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::controls::Control;
use crate::entry::{Status, digest};
use crate::exemption::OPT_OUT_TAG;
use crate::guards::Guards;
use crate::patching::decide::exempt;
use crate::patching::{Agent, PatchFacts};
use crate::plan::Mode;
use crate::policy::Policy;

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
        _ if is(Status::Refused) => "it is to be replaced, not patched",
        _ if is(Status::Exempt) => "opted out",
        _ if is(Status::Held) => "its opt-out tag cannot be read",
        _ if is(Status::Existing) => "it was there before `enforce`",
        _ if is(Status::Tripped) => "the control has tripped",
        _ if is(Status::Stopped) => "the kill switch is on",
        _ => "being looked at",
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
    guards: &BTreeMap<Control, Guards>,
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
        format!("{:?}", host.tags.get(OPT_OUT_TAG)),
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
        format!(
            "{:?} {:?} {} {old_enough} {}",
            policy.patching,
            policy.opt_out,
            policy.kill_switch,
            policy.patching.in_window(now)
        ),
        format!("{}", now.as_second().div_euclid(LOOK_AGAIN_HOURS * 3600)),
    ];
    for control in Control::PATCHING {
        let guards = guards.get(control);
        parts.push(format!(
            "{control} {:?} {:?} {:?} {:?}",
            policy.controls.mode(*control).unwrap_or(mode),
            policy.controls.existing(*control),
            exempt(&host.tags, *control, policy, now),
            guards.map(|guards| (
                guards.control_tripped.is_some(),
                guards.resource_tripped.is_some(),
                &guards.baseline
            )),
        ));
    }
    parts.push(format!(
        "{:?}",
        policy.controls.vulnerable_package.settings.severity
    ));
    for finding in &facts.findings {
        parts.push(format!(
            "{} {:?} {} {}",
            finding.arn,
            finding.installed_by,
            finding.severity,
            finding.is_patchable()
        ));
    }
    digest(parts.iter().map(String::as_str))
}
