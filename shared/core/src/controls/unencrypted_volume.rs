//! `unencrypted-volume`: a volume whose data lies on disk unencrypted (Security
//! Hub EC2.3 and EC2.7).
//!
//! What is treated is a unit: an instance with all its unencrypted volumes, so
//! that one stop serves for all of them, or a volume that is attached nowhere.
//! Scenarios, each with a test in `tests/it/unencrypted_volume_cases.rs`:
//!
//! 1. encrypted volumes, gone ones, and originals whose encrypted replacement
//!    is there: compliant
//! 2. a volume that was created a moment ago is looked at again later: tools
//!    attach volumes seconds after they create them
//! 3. attached: told (`notify`), at the next natural stop (`when-stopped`), or in
//!    a maintenance window (`swap`)
//! 4. what a stop or a swap would break is refused with the reason
//! 5. opt-outs on the volume or its instance, the mode, the kill switch, a trip,
//!    what was there before `enforce`: found, not changed
//!
//! Deliberately not here: the run itself (`encryption`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::Offset;

use crate::encryption::{
    Attached, Encryption, EncryptionDetail, Hold, Progress, Settings, Way, refusals,
};
use crate::exemption::{self, Exemption, OPT_OUT_TAG};
use crate::guards::{self, Case, Guards, Spared};
use crate::info::{Guide, Reversal, StepwiseInfo};
use crate::managers::{self, Manager};
use crate::reason::Reason;
use crate::rules::{Existing, OptOutRules, Rules};
use crate::run::{Head, Run, VERSION};
use crate::security_group::Tags;
use crate::trigger::Trigger;
use crate::volumes::{self, COPY_OF_TAG, Instance, Unit, Volume, VolumeFacts};
use crate::words::{Actor, ControlId, Mode, Severity, Status, digest};

/// What is fixed about the control, for people.
pub const INFO: StepwiseInfo = StepwiseInfo {
    id: ControlId::UnencryptedVolume,
    function: "encrypt-volume",
    hub: &["EC2.3"],
    tagged: "the volume or its instance",
    reversal: Reversal::Partly(
        "The original volumes are attached again: what was written to the copies since is only on the copies, which are kept.",
    ),
    guide: Guide {
        why: "Data on an unencrypted volume can be read by whoever gets hold of a snapshot or copy of it; most standards ask for encryption at rest.",
        changes: "Replaces the volume by an encrypted copy. An attached volume is only reported, unless `attached` says `when-stopped` or `swap`: then all unencrypted volumes of the instance are swapped while it is stopped.",
        never: &[
            "It never deletes an original, unless the policy says after how many days.",
            "It never forces a stop or a detachment, and stops an instance only inside a maintenance window of the policy.",
            "It never swaps what it could not put back: it refuses, and says why.",
        ],
    },
};

/// What the control says about a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to judge, and why.
    NotApplicable(String),
    /// Everything is encrypted, or was replaced by what is.
    Compliant,
    /// It was created a moment ago: look again.
    Settling {
        /// In so many seconds.
        seconds: u32,
    },
    /// These volumes are not encrypted.
    Violates(Vec<Volume>),
}

/// Under what circumstances it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The mode that holds where the policy names none.
    pub mode: Mode,
    /// The time.
    pub now: Timestamp,
    /// What keeps the control from acting.
    pub guards: &'a Guards,
}

/// What is decided about a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the control says.
    pub verdict: Verdict,
    /// What the opt-out tags of the unit say.
    pub exemption: Exemption,
    /// The volumes that are to be replaced; those opted out are not among them.
    pub volumes: Vec<Volume>,
    /// The status that it leads to: in progress where a run begins.
    pub status: Status,
    /// How it is treated.
    pub way: Way,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// The guard that holds it back.
    pub because: Option<Reason>,
}

/// Decides about a unit: judge, exempt, plan. The one way in for events, the
/// sweep and previews.
#[must_use]
pub fn decide(
    facts: &VolumeFacts,
    rules: &Rules<'_, Settings>,
    circumstances: &Circumstances<'_>,
) -> Decision {
    let control = rules.control;
    let settings = &control.settings;
    let verdict = judge(facts, settings, circumstances.now);
    // Of what is not begun, the way follows from the policy alone: an instance
    // that comes and goes is no news.
    let way = match &facts.unit {
        Unit::Instance(..) if settings.attached == Attached::Swap => Way::Swap,
        Unit::Instance(..) => Way::WhenStopped,
        Unit::Volume(_) | Unit::Gone => Way::Unattached,
    };
    let mut decision = Decision {
        verdict,
        exemption: Exemption::None,
        volumes: Vec::new(),
        status: Status::Notified,
        way,
        reasons: Vec::new(),
        because: None,
    };
    let Verdict::Violates(found) = &decision.verdict else {
        return decision;
    };
    let instance = match &facts.unit {
        Unit::Instance(instance, _) => Some(instance.as_ref()),
        _ => None,
    };

    // exempt: the unit's own tag, then those of single volumes
    let own = instance.map_or(Exemption::None, |i| {
        exempt(&i.tags, rules.opt_out, circumstances.now)
    });
    let baseline = |volume: &Volume| {
        control.existing == Existing::Notify
            && circumstances
                .guards
                .baseline
                .contains(&fingerprint(&volume.id))
    };
    let of_volumes: Vec<(&Volume, Exemption)> = found
        .iter()
        .map(|volume| {
            let tag = exempt(&volume.tags, rules.opt_out, circumstances.now);
            let spared = !tag.holds() && baseline(volume);
            (volume, if spared { Exemption::Existing } else { tag })
        })
        .collect();
    decision.exemption = match &own {
        Exemption::Exempt(_) => own.clone(),
        _ => foremost(std::iter::once(&own).chain(of_volumes.iter().map(|(_, tag)| tag))),
    };
    if !own.holds() {
        let open = of_volumes
            .iter()
            .filter(|(_, exemption)| !exemption.holds());
        decision.volumes = open.map(|(volume, _)| (*volume).clone()).collect();
    }

    let spared = decision
        .volumes
        .is_empty()
        .then(|| Spared::of(&decision.exemption).unwrap_or(Spared::OptedOut));
    decision.because = guards::held_back(&Case {
        other_owner: None,
        spared,
        left: None,
        mode: control.mode.unwrap_or(circumstances.mode),
        kill_switch: rules.kill_switch,
        guards: circumstances.guards,
        fights: None,
    });
    let (status, why) = match &decision.because {
        Some(because) => (because.status(), vec![because.to_string()]),
        None => plan(facts, &decision.volumes, settings, circumstances.now),
    };
    if status == Status::InProgress
        && let Some(instance) = instance
    {
        decision.way = match instance.state.as_str() {
            "stopped" => Way::WhenStopped,
            _ => Way::Swap,
        };
    }
    let stay = of_volumes
        .iter()
        .filter_map(|(volume, tag)| stays(volume, tag));
    let of_single_ones: Vec<String> = match decision.volumes.is_empty() {
        true => Vec::new(),
        false => stay.collect(),
    };
    decision.status = status;
    decision.reasons = why;
    decision.reasons.extend(of_single_ones);
    decision
}

/// Of the tags of a unit that is not opted out as a whole, the one that is
/// told: first what cannot be read, for somebody has to mend it.
fn foremost<'a>(tags: impl Iterator<Item = &'a Exemption>) -> Exemption {
    let rank = |tag: &Exemption| match tag {
        Exemption::None => 0,
        Exemption::Ended(_) => 1,
        Exemption::Exempt(_) => 2,
        Exemption::Existing => 3,
        Exemption::Malformed { .. } => 4,
    };
    let first = tags.reduce(|best, next| if rank(next) > rank(best) { next } else { best });
    first.cloned().unwrap_or_default()
}

/// Why one volume of several stays as it is.
fn stays(volume: &Volume, tag: &Exemption) -> Option<String> {
    let why = match tag {
        Exemption::None | Exemption::Ended(_) => return None,
        Exemption::Exempt(_) => format!("the tag {OPT_OUT_TAG} opts it out"),
        Exemption::Malformed { .. } => format!("its tag {OPT_OUT_TAG} cannot be read"),
        Exemption::Existing => {
            "it was there before the control was switched to `enforce`".to_owned()
        }
    };
    Some(format!("{} stays as it is: {why}", volume.id))
}

/// Judges a unit.
#[must_use]
pub fn judge(facts: &VolumeFacts, settings: &Settings, now: Timestamp) -> Verdict {
    match &facts.unit {
        Unit::Gone => Verdict::NotApplicable("it is gone".to_owned()),
        Unit::Volume(volume) if !volume.exists() => {
            Verdict::NotApplicable("the volume is being deleted".to_owned())
        }
        Unit::Volume(volume) if volume.encrypted || superseded_by(volume, facts).is_some() => {
            Verdict::Compliant
        }
        Unit::Volume(volume) => {
            let age = volume
                .created_at
                .map_or(i64::MAX, |at| now.duration_since(at).as_secs());
            let left = i64::from(settings.settling_minutes) * 60 - age;
            // What was created in the future was created just now: clocks differ.
            match u32::try_from(left.min(i64::from(settings.settling_minutes) * 60)) {
                Ok(seconds) if seconds > 0 => Verdict::Settling { seconds },
                _ => Verdict::Violates(vec![volume.as_ref().clone()]),
            }
        }
        Unit::Instance(instance, _) if instance.is_ended() => {
            Verdict::NotApplicable("the instance is terminated".to_owned())
        }
        Unit::Instance(_, volumes) => {
            let open: Vec<Volume> = volumes.iter().filter(|v| !v.encrypted).cloned().collect();
            match open.is_empty() {
                true => Verdict::Compliant,
                false => Verdict::Violates(open),
            }
        }
    }
}

/// What replaced a volume, if that is there, encrypted, and says so itself.
#[must_use]
pub fn superseded_by<'a>(volume: &Volume, facts: &'a VolumeFacts) -> Option<&'a Volume> {
    volumes::replacement(volume, &facts.copies)
}

/// A unit that may be changed: whether it is changed now, and why not.
fn plan(
    facts: &VolumeFacts,
    volumes: &[Volume],
    settings: &Settings,
    now: Timestamp,
) -> (Status, Vec<String>) {
    let instance = match &facts.unit {
        Unit::Instance(instance, _) => Some(instance.as_ref()),
        _ => None,
    };
    let stops = instance.is_some_and(Instance::is_up) && settings.attached == Attached::Swap;
    let mut refused = refusals(
        instance,
        volumes,
        stops,
        facts.key_problem.as_deref(),
        settings,
    );
    for volume in volumes {
        if volume.state == "error" {
            refused.push(format!(
                "{} is in the state `error`: EBS can read nothing from it",
                volume.id
            ));
        }
        if let Some(copy) = superseded_by(volume, facts) {
            refused.push(format!(
                "{} was replaced by {}, which is still there, and is in use again: detach it, or delete {} to have it copied anew",
                volume.id, copy.id, copy.id
            ));
        } else if let Some(copy) = facts
            .copies
            .values()
            .find(|c| c.exists() && c.tags.get(COPY_OF_TAG) == Some(&volume.id))
        {
            refused.push(format!(
                "{} is a copy of {} that an earlier run left: delete it, or take its tag {} away",
                copy.id, volume.id, COPY_OF_TAG
            ));
        }
    }
    if !refused.is_empty() {
        return (Status::Refused, refused);
    }
    let waits = |why: String| (Status::Pending, vec![why]);
    let Some(instance) = instance else {
        return (Status::InProgress, Vec::new());
    };
    match (settings.attached, instance.state.as_str()) {
        (Attached::Notify, _) => (
            Status::Notified,
            vec!["attached volumes are only told (the policy's `attached` is `notify`)".to_owned()],
        ),
        (_, "stopped") => (Status::InProgress, Vec::new()),
        (Attached::Swap, "running") if settings.in_window(now) => (Status::InProgress, Vec::new()),
        (Attached::Swap, "pending") if settings.in_window(now) => {
            waits("it waits for the instance to run".to_owned())
        }
        (Attached::Swap, _) => waits(match settings.next_window(now) {
            Some(at) => format!(
                "it waits for the instance to be stopped, or for the maintenance window that opens at {at}"
            ),
            None => {
                "it waits for the instance to be stopped, or for a maintenance window".to_owned()
            }
        }),
        (Attached::WhenStopped, _) => {
            waits("it waits for the instance to be stopped by somebody".to_owned())
        }
    }
}

/// What a resource's opt-out tag means to this control.
#[must_use]
pub fn exempt(tags: &Tags, opt_out: &OptOutRules, now: Timestamp) -> Exemption {
    exemption::read(
        tags,
        ControlId::UnencryptedVolume,
        Offset::UTC.to_datetime(now).date(),
        opt_out,
    )
}

/// What forbids a run under way to go on: the kill switch, a mode that is
/// `enforce` no more, an opt-out that was set meanwhile.
#[must_use]
pub fn hold<'a>(
    run: &Encryption,
    rules: &Rules<'_, Settings>,
    mode: Mode,
    tags: impl IntoIterator<Item = &'a Tags>,
    now: Timestamp,
) -> Option<Hold> {
    let control = rules.control;
    let why = |why: String| Some(Hold { why });
    if rules.kill_switch {
        return why("the kill switch was turned on".to_owned());
    }
    if control.mode.unwrap_or(mode) != Mode::Enforce {
        return why("the mode is `enforce` no more".to_owned());
    }
    let attached = control.settings.attached;
    let allowed = match run.detail.way {
        Way::Unattached | Way::AccountSetting => true,
        Way::WhenStopped => attached != Attached::Notify,
        Way::Swap => attached == Attached::Swap,
    };
    if !allowed {
        return why("the policy's `attached` does not allow it any more".to_owned());
    }
    let exemption = exemption::strongest(
        tags.into_iter()
            .map(|tags| exempt(tags, rules.opt_out, now)),
    );
    match exemption {
        Exemption::Exempt(_) => why(format!("the tag {OPT_OUT_TAG} opts it out")),
        Exemption::Malformed { .. } => why(format!("the tag {OPT_OUT_TAG} cannot be read")),
        _ => None,
    }
}

/// What manages a unit: the volumes that are not encrypted, or their instance.
#[must_use]
pub fn managed_by(facts: &VolumeFacts, actor: &Actor) -> Option<Manager> {
    let tags: Vec<&Tags> = match &facts.unit {
        Unit::Gone => return None,
        Unit::Volume(volume) => vec![&volume.tags],
        Unit::Instance(instance, volumes) => {
            let open = volumes.iter().filter(|volume| !volume.encrypted);
            let volumes = open.map(|volume| &volume.tags);
            std::iter::once(&instance.tags).chain(volumes).collect()
        }
    };
    managers::managed_by(&tags, actor)
}

/// Digest of control and volume.
#[must_use]
pub fn fingerprint(volume: &str) -> String {
    digest([ControlId::UnencryptedVolume.name(), volume])
}

/// What of a finding belongs to the baseline, beside what it spares already:
/// what is to be replaced. What a tag opts out does not.
#[must_use]
pub fn baseline(decision: &Decision) -> BTreeSet<String> {
    decision
        .volumes
        .iter()
        .map(|v| fingerprint(&v.id))
        .collect()
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
    /// The KMS key of copies, as the policy names it.
    pub kms_key: Option<&'a str>,
    /// When the run began.
    pub now: Timestamp,
}

/// The ledger's record for a unit that violates the control; `None` where there
/// is nothing to record.
#[must_use]
pub fn record(facts: &VolumeFacts, decision: &Decision, about: About<'_>) -> Option<Encryption> {
    let Verdict::Violates(found) = &decision.verdict else {
        return None;
    };
    let (kind, id, name, tags, instance) = match &facts.unit {
        Unit::Gone => return None,
        Unit::Volume(v) => ("volume", &v.id, v.name(), &v.tags, None),
        Unit::Instance(i, _) => (
            "instance",
            &i.id,
            i.name(),
            &i.tags,
            Some(i.as_ref().clone()),
        ),
    };
    let Trigger {
        account, region, ..
    } = about.trigger;
    let team = tags.get(about.owner_tag).or_else(|| {
        let of_volumes = found.iter();
        of_volumes
            .filter_map(|v| v.tags.get(about.owner_tag))
            .next()
    });
    let begins = decision.status == Status::InProgress;
    Some(Run {
        head: Head {
            version: VERSION,
            id: about.id.to_owned(),
            control: ControlId::UnencryptedVolume,
            severity: Severity::High,
            resource: format!("arn:{}:ec2:{region}:{account}:{kind}/{id}", about.partition),
            resource_name: name.to_owned(),
            account: account.clone(),
            region: region.clone(),
            team: team.cloned(),
            status: decision.status,
            exemption: decision.exemption.clone(),
            actor: about.trigger.actor.clone(),
            policy_version: about.policy_version,
            attempts: 1,
            started_at: about.now,
            finished_at: (!begins).then_some(about.now),
            managed_by: managed_by(facts, &about.trigger.actor).map(|manager| manager.to_string()),
        },
        detail: EncryptionDetail {
            way: decision.way,
            instance,
            volumes: if begins {
                decision.volumes.clone()
            } else {
                found.clone()
            },
            kms_key: about.kms_key.map(str::to_owned),
            progress: Progress::default(),
            reasons: decision.reasons.clone(),
            because: decision.because.clone(),
            instance_gone: false,
            undoes: None,
            page_key: None,
            revision: 0,
        },
    })
}
