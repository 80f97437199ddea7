//! What a run does next, from what is there.
//!
//! One function, [`next_step`], without memory of its own: the record says what
//! was tried, the world says what came of it. Whatever people, schedulers and
//! AWS do between two looks, the next step follows from the second look.
//!
//! ```text
//! attached:    dry runs ─► safety snapshots ─► stop ─► copies ─► detach, attach, … ─► start ─► healthy ─► tag
//!                                                            └──────────► back ◄─────────────────┘
//! unattached:  safety snapshot ─────────► copy ─► tag
//! ```
//!
//! What always holds, and is tested over random worlds
//! (`tests/it/encryption_simulation/`):
//!
//! - no step deletes an original, or a copy that was ever attached
//! - no copy is made of a volume that may be written to, and none is swapped in
//!   after the volume that it was made of may have been written to
//! - a copy is seen encrypted, and of the same make, before anything is detached
//! - an instance that the run stopped is started again, with its originals if
//!   not with the copies
//! - no instance is stopped, and no volume moved, before AWS has said in dry runs
//!   that it would carry out what follows, as far as that can be asked ahead
//!
//! Deliberately not here: reading the world, and taking the step.

use std::collections::BTreeMap;

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::change::{Change, DRY_RUN, End, Note, Purpose};
use super::record::{Answer, Back, Encryption, Tries, Way};
use super::refusals::refusals;
use super::settings::Settings;
use crate::exemption;
use crate::volumes::{
    COPY_OF_TAG, ENTRY_TAG, Instance, PURPOSE_TAG, REPLACED_BY_TAG, Snapshot, Volume,
};
use crate::words::Status;

/// How long EC2's reads may lag behind its writes before a change that was
/// accepted, or not answered, is tried again.
const LAG: SignedDuration = SignedDuration::from_secs(120);
/// The pause after a refusal, and how far it grows.
const PAUSE: SignedDuration = SignedDuration::from_secs(15);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);
/// How often a change that leads on is tried.
const MOST_TRIES: u32 = 6;
/// How long a first, full snapshot may take: 16 TiB at what EBS reads at its
/// slowest were seen to take more than a day.
const LONGEST_SNAPSHOT: SignedDuration = SignedDuration::from_hours(48);
/// How long a copy may take until it is available.
const LONGEST_COPY: SignedDuration = SignedDuration::from_hours(2);
/// For how long an instance that was started may not show before it is taken for
/// gone.
const LONGEST_UNSEEN: SignedDuration = SignedDuration::from_hours(2);
/// For how long the answer to a dry run counts when an instance is about to be
/// stopped: snapshots may have taken hours since.
const DRY_RUN_HOLDS: SignedDuration = SignedDuration::from_mins(15);
/// For how long a person is waited for whose opt-out keeps the way back from
/// being taken.
const LONGEST_ASKED: SignedDuration = SignedDuration::from_hours(24);
/// What a key needs to be of use for copies, where nothing shows what it lacks.
const KEY_NEEDS: &str = "it has to be enabled, and its policy has to let the role of encrypt-volume use it by EBS: kms:CreateGrant (may be limited to kms:GrantIsForAWSResource), kms:Decrypt, kms:DescribeKey, kms:GenerateDataKeyWithoutPlaintext, kms:ReEncrypt*";
/// Seconds between two looks while an instance is down.
const BRISK: u32 = 15;

/// Everything that the next step follows from.
#[derive(Clone, Debug)]
pub struct World<'a> {
    /// The run's record.
    pub run: &'a Encryption,
    /// The time.
    pub now: Timestamp,
    /// The instance as it is now; none: it is gone, or the way has none.
    pub instance: Option<Instance>,
    /// The originals, every copy of them, and whatever the record says was
    /// made; by id.
    pub volumes: BTreeMap<String, Volume>,
    /// The snapshots that the run took, by id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Why EBS could not make a volume, as its event said, by the id that the volume
    /// had.
    pub not_made: BTreeMap<String, String>,
    /// What forbids to go on: an opt-out, the kill switch, another mode.
    pub hold: Option<Hold>,
    /// What keeps the KMS key of copies from being used.
    pub key_problem: Option<String>,
    /// What the policy says.
    pub settings: &'a Settings,
}

/// What forbids a run to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Why, one sentence.
    pub why: String,
}

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for so long.
    Wait {
        /// Seconds until the next look.
        seconds: u32,
        /// What is waited for.
        why: String,
    },
    /// One change.
    Do(Change),
    /// Something is written down, and the next look follows at once.
    Note(Note),
    /// The run has ended.
    End(End),
}

/// What the next step of a run is.
#[must_use]
pub fn next_step(world: &World<'_>) -> Step {
    let run = world.run;
    let Some(before) = &run.detail.instance else {
        return unattached(world);
    };
    let Some(instance) = world.instance.as_ref().filter(|now| !now.is_ended()) else {
        if let Some(step) = not_shown(world) {
            return step;
        }
        return instance_ended(world, &before.id);
    };
    if let Some(change) = world.unseen(instance) {
        return wait(BRISK, &format!("{change} to show"));
    }
    if run.detail.progress.back.is_some() {
        back(world, instance)
    } else if run.detail.undoes.is_some() {
        go_back(
            "somebody asked for it to be taken back",
            Status::RolledBack,
            false,
        )
    } else {
        forward(world, instance, before)
    }
}

/// EC2 shows an instance for about an hour after it was terminated. One that was
/// started on its copies and does not show at all is more likely read wrongly
/// than gone, and going back for that would stop it.
fn not_shown(world: &World<'_>) -> Option<Step> {
    let start = world
        .run
        .detail
        .progress
        .tries(&Change::Start { back: false })?;
    let hidden = world.instance.is_none()
        && world.run.detail.progress.back.is_none()
        && world.since(start.first_at) < LONGEST_UNSEEN;
    hidden.then(|| wait(world.patience(start.first_at), "the instance to show"))
}

// -------------------------------------------------------------- an unattached

fn unattached(world: &World<'_>) -> Step {
    let run = world.run;
    let Some(before) = run.detail.volumes.first() else {
        return end(Status::NeedsPerson, ["the record names no volume"]);
    };
    if run.detail.undoes.is_some() {
        // Nothing is attached: `undo` itself sets the tags.
        return end(Status::RolledBack, [] as [String; 0]);
    }
    let copy = world.copy_of(&before.id);
    let original = world.live(&before.id);
    if let (Some(original), Some(copy)) = (original, copy)
        && original.tags.get(REPLACED_BY_TAG) == Some(&copy.id)
        && copy.encrypted
    {
        return end(Status::Remediated, [] as [String; 0]);
    }
    if let Some(back) = &run.detail.progress.back {
        // Should the tag show yet, it is done.
        let tag = run.detail.progress.tries.get(&format!("tag {}", before.id));
        if tag.is_some_and(|tag| tag.may_have_happened() && world.since(tag.last_at) < LAG) {
            return wait(BRISK, "the tag to show");
        }
        return clear_up(world).unwrap_or_else(|| ended(back, Vec::new()));
    }
    let Some(original) = original else {
        return end(
            Status::NeedsPerson,
            [
                format!("somebody deleted {} during the run", before.id),
                "what the run made of it is kept: delete it if it is not needed".to_owned(),
            ],
        );
    };
    if let Some(attachment) = original.attached().next() {
        return go_back(
            &format!(
                "{} was attached to {} meanwhile; it is looked at again there",
                original.id, attachment.instance
            ),
            Status::RolledBack,
            false,
        );
    }
    if let Some(hold) = &world.hold {
        return go_back(&hold.why, Status::RolledBack, false);
    }
    let refused = refusals(
        None,
        [original],
        false,
        world.key_problem.as_deref(),
        world.settings,
    );
    if !refused.is_empty() {
        return refuse(refused);
    }
    if let Some(other) = world.foreign_copy_of(&original.id) {
        return refuse(vec![another_copy(&original.id, other)]);
    }
    if let Err(step) = snapshot(world, &original.id, Purpose::Safety) {
        return step;
    }
    // Should the direct copy be refused: not from the safety snapshot. It may
    // have taken hours, in which the volume may have been attached, written to
    // and detached again unseen.
    match copied(world, original) {
        Ok(copy) => tag_replaced(world, [(&original.id, &copy.id)]),
        Err(step) => step,
    }
}

// ------------------------------------------------------------------- attached

fn forward(world: &World<'_>, instance: &Instance, before: &Instance) -> Step {
    let run = world.run;
    let swapped = run
        .detail
        .volumes
        .iter()
        .all(|v| world.is_swapped(v, &instance.id));
    match instance.state.as_str() {
        "running" | "pending" if swapped => healthy(world, instance),
        "running" | "pending" if world.any_out_of_place(&instance.id) => {
            half_swapped(world, instance)
        }
        "running" | "pending" => {
            if run.detail.way == Way::WhenStopped {
                return go_back(
                    "somebody started the instance; it is taken up again at its next stop",
                    Status::Pending,
                    false,
                );
            }
            if run.detail.progress.stopped.is_some() {
                // Whoever starts it against us wants it up: it is not stopped a
                // second time.
                return go_back(
                    "somebody started the instance before its volumes were swapped, so the copies lack what it has written since",
                    Status::RolledBack,
                    run.stopped_it(),
                );
            }
            if let Some(step) = unready(world, instance, before) {
                return step;
            }
            if instance.state != "running" {
                return wait(BRISK, "the instance to run before it is stopped");
            }
            attempt(world, Change::Stop { back: false })
                .unwrap_or_else(|why| go_back(&why, Status::RolledBack, true))
        }
        "stopping" => stopping(world, instance),
        "stopped" => stopped(world, instance),
        other => wait(
            world.patience(run.head.started_at),
            &format!("the instance to leave the state {other}"),
        ),
    }
}

/// What is missing before a running instance is stopped; none: nothing.
fn unready(world: &World<'_>, instance: &Instance, before: &Instance) -> Option<Step> {
    let run = world.run;
    if let Some(hold) = &world.hold {
        return Some(go_back(&hold.why, Status::RolledBack, false));
    }
    let originals: Vec<&Volume> = run
        .detail
        .volumes
        .iter()
        .filter_map(|v| world.live(&v.id))
        .collect();
    let stops = run.detail.way == Way::Swap;
    let refused = refusals(
        Some(instance),
        originals,
        stops,
        world.key_problem.as_deref(),
        world.settings,
    );
    if !refused.is_empty() {
        return Some(refuse(refused));
    }
    for v in &run.detail.volumes {
        if world.attached_as_before(v, &before.id).is_none() {
            return Some(go_back(
                &format!("{} is not attached as it was when the run began", v.id),
                Status::RolledBack,
                false,
            ));
        }
        if let Some(other) = world.foreign_copy_of(&v.id) {
            return Some(refuse(vec![another_copy(&v.id, other)]));
        }
    }
    // Ahead of the snapshots, which cost money and may take hours.
    if let Some(step) = dry_runs(world, changes_ahead(world, true), None) {
        return Some(step);
    }
    if let Some(step) = safety_snapshots(world) {
        return Some(step);
    }
    if stops && !world.settings.in_window(world.now) {
        return Some(go_back(
            "the maintenance window closed before the instance could be stopped; it is taken up again in the next one",
            Status::Pending,
            false,
        ));
    }
    dry_runs(world, changes_ahead(world, true), Some(DRY_RUN_HOLDS))
}

/// Everything that the run will change once the instance is down, as far as AWS
/// can be asked ahead. Copies have no ids before they are made, so attachments
/// are asked of the originals, as on the way back; and a copy from a snapshot is
/// asked of the safety snapshot, once there is one.
fn changes_ahead(world: &World<'_>, starts: bool) -> Vec<Change> {
    let run = world.run;
    let mut changes: Vec<Change> = starts
        .then_some(Change::Start { back: false })
        .into_iter()
        .collect();
    for v in &run.detail.volumes {
        changes.push(Change::Detach {
            volume: v.id.clone(),
        });
        changes.extend(attachment_ahead(v, &v.id));
        match run.detail.progress.from_snapshot.contains_key(&v.id) {
            false => changes.push(Change::Copy {
                volume: v.id.clone(),
            }),
            true => changes.extend(world.snapshot_of(&v.id, Purpose::Safety).map(|snapshot| {
                Change::Create {
                    volume: v.id.clone(),
                    snapshot: snapshot.id.clone(),
                }
            })),
        }
    }
    changes
}

/// How a volume is attached in the place of one that was there before.
fn attachment_ahead(before: &Volume, volume: &str) -> Vec<Change> {
    let (device, delete) = device_of(before);
    let attach = Change::Attach {
        volume: volume.to_owned(),
        device: device.to_owned(),
    };
    // EC2 attaches a volume so that it stays when the instance goes.
    let goes = delete.then(|| Change::KeepOrDelete {
        volume: volume.to_owned(),
        device: device.to_owned(),
        delete,
    });
    std::iter::once(attach).chain(goes).collect()
}

/// What came of dry runs that are not all answered well.
enum Ahead {
    /// This has to be done first.
    Step(Step),
    /// AWS would refuse this, one sentence each.
    Refused(Vec<String>),
    /// AWS does not answer, and why.
    Unanswered(String),
}

/// Dry runs of changes, while nothing is lost by going back; none: AWS would
/// carry out every one of them. `holds`: for how long an answer counts; none:
/// for good.
fn dry_runs(
    world: &World<'_>,
    changes: Vec<Change>,
    holds: Option<SignedDuration>,
) -> Option<Step> {
    match asked_ahead(world, changes, holds)? {
        Ahead::Step(step) => Some(step),
        Ahead::Refused(why) => Some(Step::Note(Note::DryRunsRefused { why })),
        Ahead::Unanswered(why) => Some(go_back(&why, Status::Pending, false)),
    }
}

/// Asks for every dry run before it says that one is refused: whoever has to
/// grant something is told all of it at once.
fn asked_ahead(
    world: &World<'_>,
    changes: Vec<Change>,
    holds: Option<SignedDuration>,
) -> Option<Ahead> {
    let mut refused = Vec::new();
    for change in changes {
        let dry_run = Change::DryRun(Box::new(change.clone()));
        let tries = world.run.detail.progress.tries(&dry_run);
        let answer = tries.and_then(|tries| Some((tries, tries.answer.as_ref()?)));
        match answer {
            Some((tries, Answer::Accepted))
                if holds.is_none_or(|holds| world.since(tries.last_at) < holds) => {}
            Some((tries, answer @ Answer::Refused { .. })) if !passes(answer) => {
                let why = tries.refusal().unwrap_or_default();
                match change {
                    // Then the copy is made in the other way, which is asked next.
                    Change::Copy { volume } => {
                        let why = format!("a direct copy would be refused: {why}");
                        return Some(Ahead::Step(Step::Note(Note::FromSnapshot { volume, why })));
                    }
                    _ => refused.push(format!(
                        "AWS would refuse a call that the run needs, as its dry run shows ({}): {why}",
                        change.key()
                    )),
                }
            }
            _ => match attempt(world, dry_run) {
                Ok(step) => return Some(Ahead::Step(step)),
                Err(why) => {
                    return Some(Ahead::Unanswered(format!(
                        "AWS does not answer whether it would carry out what the run needs ({}): {why}",
                        change.key()
                    )));
                }
            },
        }
    }
    (!refused.is_empty()).then_some(Ahead::Refused(refused))
}

/// Whether a refusal may pass by itself, and so says nothing of the next try.
fn passes(answer: &Answer) -> bool {
    match answer {
        Answer::Accepted => false,
        Answer::Refused { unknown, code, .. } => *unknown || code == "RequestLimitExceeded",
    }
}

/// A stop takes as long as the operating system does. It is never forced: that
/// could lose writes.
fn stopping(world: &World<'_>, instance: &Instance) -> Step {
    let run = world.run;
    if run.detail.progress.attention.is_none() && run.stopped_it() && world.overdue() {
        let id = &instance.id;
        return Step::Note(Note::Attention {
            text: format!(
                "{id} has been stopping for more than {} minutes. Backstop waits, and starts it again once it is stopped. If its operating system hangs: aws ec2 stop-instances --force --instance-ids {id} (what it has not written is lost)",
                world.settings.max_downtime_minutes
            ),
        });
    }
    let asked = run.detail.progress.tries.get("stop to go back");
    let asked = asked.or(run.detail.progress.tries.get("stop"));
    wait(
        world.patience(asked.map_or(run.head.started_at, |tries| tries.last_at)),
        "the instance to stop",
    )
}

fn stopped(world: &World<'_>, instance: &Instance) -> Step {
    let run = world.run;
    let Some(seen) = &run.detail.progress.stopped else {
        return Step::Note(Note::Stopped {
            launched_at: instance.launched_at,
        });
    };
    let ours = run.stopped_it();
    let swapped = run
        .detail
        .volumes
        .iter()
        .all(|v| world.is_swapped(v, &instance.id));
    let launched_since = instance.launched_at != seen.launched_at;
    if launched_since {
        if !swapped || world.put_in_late(instance).is_some() {
            return go_back(
                "the instance was started and stopped again before its volumes were swapped, so the copies lack what it has written",
                Status::NeedsPerson,
                true,
            );
        }
        if world.stopped_by_others(instance) {
            // It ran on the copies, and somebody wanted it stopped.
            return settled(world, instance).unwrap_or_else(|| tag_all(world));
        }
    } else if let Some(hold) = &world.hold {
        return go_back(&hold.why, Status::RolledBack, false);
    }
    if ours && world.overdue() {
        return overdue(world);
    }
    if swapped {
        if let Some(step) = settled(world, instance) {
            return step;
        }
        if !ours {
            return tag_all(world);
        }
        let start = Change::Start { back: false };
        if launched_since
            && run
                .detail
                .progress
                .tries(&start)
                .is_some_and(|tries| tries.count > 2)
        {
            let reason = instance
                .state_reason
                .as_deref()
                .unwrap_or("no reason given");
            return go_back(
                &format!("the instance does not stay up with the copies ({reason})"),
                Status::RolledBack,
                true,
            );
        }
        return attempt(world, start).unwrap_or_else(|why| go_back(&why, Status::RolledBack, true));
    }
    let key_problem = world.key_problem.as_deref();
    let originals: Vec<&Volume> = run
        .detail
        .volumes
        .iter()
        .filter_map(|v| world.live(&v.id))
        .collect();
    let refused = refusals(
        Some(instance),
        originals,
        false,
        key_problem,
        world.settings,
    );
    if !refused.is_empty() {
        return refuse(refused);
    }
    if let Some(problem) = world.moved(&instance.id) {
        return go_back(&problem, Status::RolledBack, false);
    }
    // As long as the run has neither stopped nor moved anything, a refusal costs
    // nothing.
    let volumes = &run.detail.volumes;
    let untouched = !ours && !volumes.iter().any(|v| world.touched(v, &instance.id));
    if untouched && let Some(step) = dry_runs(world, changes_ahead(world, false), None) {
        return step;
    }
    if let Some(step) = safety_snapshots(world) {
        return step;
    }
    if untouched && let Some(step) = dry_runs(world, changes_ahead(world, false), None) {
        return step;
    }
    // Copies of all volumes first: nothing is detached before every one is
    // there, encrypted and of the same make.
    let mut steps = Vec::new();
    for v in &run.detail.volumes {
        if world.is_on_copy(&v.id, &instance.id) {
            continue;
        }
        if let Some(other) = world.foreign_copy_of(&v.id) {
            return refuse(vec![another_copy(&v.id, other)]);
        }
        let Some(original) = world.live(&v.id) else {
            continue; // `moved` has seen to it
        };
        steps.extend(copied(world, original).err());
    }
    if let Some(step) = first(steps) {
        return step;
    }
    if untouched {
        let copies = volumes
            .iter()
            .filter_map(|v| Some((v, world.copy_of(&v.id)?)));
        let attachments = copies.flat_map(|(v, copy)| attachment_ahead(v, &copy.id));
        if let Some(step) = dry_runs(world, attachments.collect(), None) {
            return step;
        }
    }
    for v in &run.detail.volumes {
        if let Some(step) = swap(world, v, &instance.id) {
            return step;
        }
    }
    // Every copy is in place: the next look finds them so.
    wait(1, "the volumes to show as attached")
}

/// One volume's way from its original to its copy; none: it is there.
fn swap(world: &World<'_>, before: &Volume, instance: &str) -> Option<Step> {
    let copy = world.copy_of(&before.id)?;
    let (device, delete) = device_of(before);
    if copy.attachment_to(instance).is_some() {
        return settle_attachment(world, copy, instance, device, delete)
            .map(|tried| tried.unwrap_or_else(|why| go_back(&why, Status::RolledBack, true)));
    }
    let original = world.live(&before.id)?;
    let step = if let Some(attachment) = original.attachment_to(instance) {
        match attachment.state.as_str() {
            "detaching" => return Some(wait(BRISK, &format!("{} to be detached", original.id))),
            _ => attempt(
                world,
                Change::Detach {
                    volume: original.id.clone(),
                },
            ),
        }
    } else if copy.is_free() {
        attempt(
            world,
            Change::Attach {
                volume: copy.id.clone(),
                device: device.to_owned(),
            },
        )
    } else {
        Err(format!("the copy {} is in use elsewhere", copy.id))
    };
    Some(step.unwrap_or_else(|why| go_back(&why, Status::RolledBack, true)))
}

/// Waits for the copies' attachments and sets what the originals' were; none:
/// all is set.
fn settled(world: &World<'_>, instance: &Instance) -> Option<Step> {
    world.run.detail.volumes.iter().find_map(|v| {
        let (device, delete) = device_of(v);
        let copy = world.copy_of(&v.id)?;
        settle_attachment(world, copy, &instance.id, device, delete)
            .map(|tried| tried.unwrap_or_else(|why| go_back(&why, Status::RolledBack, true)))
    })
}

/// Waits for an attachment and sets what it was before; none: all is set.
fn settle_attachment(
    world: &World<'_>,
    volume: &Volume,
    instance: &str,
    device: &str,
    delete: bool,
) -> Option<Result<Step, String>> {
    let attachment = volume.attachment_to(instance)?;
    if attachment.state != "attached" {
        return Some(Ok(wait(BRISK, &format!("{} to be attached", volume.id))));
    }
    if attachment.delete_on_termination == delete {
        return None;
    }
    Some(attempt(
        world,
        Change::KeepOrDelete {
            volume: volume.id.clone(),
            device: device.to_owned(),
            delete,
        },
    ))
}

/// The instance runs on its copies: is it well?
fn healthy(world: &World<'_>, instance: &Instance) -> Step {
    let run = world.run;
    if world.put_in_late(instance).is_some() {
        return half_swapped(world, instance);
    }
    if let Some(step) = settled(world, instance) {
        return step;
    }
    if instance.state == "running" && instance.checks.as_ref().is_some_and(|c| c.passed()) {
        return tag_all(world);
    }
    let since = match run.detail.progress.tries(&Change::Start { back: false }) {
        Some(start) => start.last_at,
        None => instance.launched_at.unwrap_or(run.head.started_at),
    };
    if world.since(since) < world.settings.health_time() {
        return wait(BRISK, "the instance to pass its status checks");
    }
    let why = format!(
        "the instance did not pass its status checks within {} minutes",
        world.settings.health_minutes
    );
    // A run that was cut off may look at it hours later: too much was written
    // since to go back for it.
    let late = world.since(since) > world.settings.health_time() * 3;
    if run.stopped_it() && !late {
        return go_back(&why, Status::RolledBack, true);
    }
    if run.stopped_it() {
        return finish(
            world,
            needs_person(vec![format!(
                "{why}, and has run on its encrypted copies for so long that it was not stopped to go back"
            )]),
        );
    }
    // Somebody else started it: it is not ours to stop.
    finish(
        world,
        needs_person(vec![format!(
            "{why} after somebody started it on its encrypted copies"
        )]),
    )
}

/// Somebody started the instance while some of its volumes were swapped and
/// others not. What is in use stays in use; what is missing is put in.
fn half_swapped(world: &World<'_>, instance: &Instance) -> Step {
    let run = world.run;
    if instance.state == "pending" {
        return wait(BRISK, "the instance that somebody started to run");
    }
    let mut left = Vec::new();
    let mut notes = Vec::new();
    for v in &run.detail.volumes {
        let (device, delete) = device_of(v);
        let copy = world.copy_of(&v.id);
        if let Some(copy) = copy.filter(|copy| copy.attachment_to(&instance.id).is_some()) {
            match settle_attachment(world, copy, &instance.id, device, delete) {
                Some(Ok(step)) => return step,
                _ => continue,
            }
        }
        left.push(v.id.as_str());
        // How late it was detached is not known: the original has everything,
        // its copy may not, unless the copy was in its place already.
        let was_in_place = copy.is_some_and(|copy| world.was_attached(&copy.id));
        if was_in_place || !world.detach_tried(&v.id) {
            continue;
        }
        let Some(original) = world.live(&v.id).filter(|original| original.is_free()) else {
            continue;
        };
        match attempt(
            world,
            Change::Attach {
                volume: original.id.clone(),
                device: device.to_owned(),
            },
        ) {
            Ok(step) => return step,
            Err(why) => notes.push(format!("{} could not be put back: {why}", v.id)),
        }
    }
    let what = match left.is_empty() {
        true => "every volume has been replaced all the same".to_owned(),
        false => format!("not replaced: {}", left.join(", ")),
    };
    let mut why = vec![format!(
        "somebody started the instance while its volumes were being swapped: {what}"
    )];
    if let Some(copy) = world.put_in_late(instance) {
        why.push(format!(
            "{copy} was put in after that start, and may lack what was written before: its original has it"
        ));
    }
    why.extend(notes);
    finish(world, needs_person(why))
}

/// What was swapped is tagged, what cannot be used any more is cleared away,
/// and the run ends.
fn finish(world: &World<'_>, end: End) -> Step {
    let pairs = world.swapped();
    for (volume, copy) in pairs {
        if let Ok(Some(step)) = tag_one(world, volume, copy) {
            return step;
        }
    }
    clear_up(world).unwrap_or(Step::End(end))
}

fn tag_all(world: &World<'_>) -> Step {
    let pairs = world.swapped();
    tag_replaced(world, pairs)
}

/// Tags the originals with what replaced them, and ends.
fn tag_replaced<'a>(
    world: &World<'_>,
    pairs: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Step {
    for (volume, copy) in pairs {
        match tag_one(world, volume, copy) {
            Ok(None) => {}
            Ok(Some(step)) => return step,
            Err(why) => {
                return end(
                    Status::NeedsPerson,
                    [
                        format!(
                            "{volume} is replaced by {copy}, and could not be tagged so: {why}"
                        ),
                        format!(
                            "tag it, or it is taken for one that was never encrypted: aws ec2 create-tags --resources {volume} --tags Key={REPLACED_BY_TAG},Value={copy}"
                        ),
                    ],
                );
            }
        }
    }
    end(Status::Remediated, [] as [String; 0])
}

fn tag_one(world: &World<'_>, volume: &str, copy: &str) -> Result<Option<Step>, String> {
    let Some(original) = world.live(volume) else {
        return Ok(None);
    };
    if original.tags.get(REPLACED_BY_TAG).map(String::as_str) == Some(copy) {
        return Ok(None);
    }
    attempt(
        world,
        Change::TagReplaced {
            volume: volume.to_owned(),
            copy: copy.to_owned(),
        },
    )
    .map(Some)
}

// ----------------------------------------------------------------------- back

/// Back to the originals, attached as they were, and the instance running if
/// it was this run that stopped it.
fn back(world: &World<'_>, instance: &Instance) -> Step {
    let run = world.run;
    let Some(back) = &run.detail.progress.back else {
        return wait(BRISK, "a reason to go back");
    };
    if let Some(step) = undo_ahead(world, instance, back) {
        return step;
    }
    match instance.state.as_str() {
        "running" => {
            let on_copies = run.detail.volumes.iter().any(|v| {
                world.is_on_copy(&v.id, &instance.id) && world.wants_original(&v.id, &instance.id)
            });
            // Once it was started to stay so, it stays so.
            let is_back = run
                .detail
                .progress
                .tries(&Change::Start { back: true })
                .is_some();
            if on_copies && !is_back {
                let start = run.detail.progress.tries(&Change::Start { back: false });
                let by_us = start.is_some_and(Tries::may_have_happened);
                if !by_us && run.detail.undoes.is_none() {
                    return half_swapped(world, instance);
                }
                if let Some(step) = asks_for_an_end(world, instance, back) {
                    return step;
                }
                return persist(world, Change::Stop { back: true }).unwrap_or_else(|why| {
                    finish(
                        world,
                        needs_person(vec![
                            back.why.clone(),
                            format!("the instance runs on its encrypted copies and cannot be stopped to go back: {why}"),
                        ]),
                    )
                });
            }
            if let Some(step) = put_back(world, instance) {
                return step;
            }
            let mut notes = world.not_put_back(&instance.id);
            if run.stopped_it() {
                let passed = instance.checks.as_ref().is_some_and(|c| c.passed());
                let since = instance.launched_at.unwrap_or(back.at).max(back.at);
                if !passed && world.since(since) < world.settings.health_time() {
                    return wait(BRISK, "the instance to pass its status checks");
                }
                if !passed {
                    notes.push("it runs on its original volumes and does not pass its status checks: look at it".to_owned());
                }
            }
            clear_up(world).unwrap_or_else(|| ended(back, notes))
        }
        "stopped" => {
            if let Some(step) = put_back(world, instance) {
                return step;
            }
            let mut notes = world.not_put_back(&instance.id);
            let by_us = run.stopped_it();
            if by_us && !world.stopped_by_others(instance) {
                return persist(world, Change::Start { back: true })
                    .unwrap_or_else(|why| wait(LONGEST_PAUSE.as_secs() as u32, &why));
            }
            if by_us {
                notes.push("somebody stopped it again after it was started".to_owned());
            }
            clear_up(world).unwrap_or_else(|| ended(back, notes))
        }
        "stopping" => stopping(world, instance),
        state => wait(BRISK, &format!("the instance to leave the state {state}")),
    }
}

/// Dry runs of all that an undo needs, before it has stopped or moved anything;
/// none: AWS would carry it out, or it has begun to.
fn undo_ahead(world: &World<'_>, instance: &Instance, back: &Back) -> Option<Step> {
    let run = world.run;
    let begun = |key: &String| !key.starts_with(DRY_RUN);
    if run.detail.undoes.is_none()
        || run.detail.progress.tries.keys().any(begun)
        || !matches!(instance.state.as_str(), "running" | "stopped")
    {
        return None;
    }
    let start = instance.is_up().then_some(Change::Start { back: true });
    let mut changes: Vec<Change> = start.into_iter().collect();
    let volumes = run.detail.volumes.iter();
    for v in volumes.filter(|v| world.wants_original(&v.id, &instance.id)) {
        let copy = world.copy_of(&v.id);
        if let Some(copy) = copy.filter(|copy| copy.attachment_to(&instance.id).is_some()) {
            changes.push(Change::Detach {
                volume: copy.id.clone(),
            });
        }
        changes.extend(attachment_ahead(v, &v.id));
    }
    let why = match asked_ahead(world, changes, None)? {
        Ahead::Step(step) => return Some(step),
        Ahead::Refused(why) => why,
        Ahead::Unanswered(why) => vec![why],
    };
    let why = std::iter::once(back.why.clone()).chain(why).collect();
    Some(Step::End(needs_person(why)))
}

/// The instance has to be stopped to go back, and IAM enforces an opt-out
/// without an end, which somebody has set meanwhile: a person is asked for one
/// that has an end, and waited for. None: there is no such opt-out.
fn asks_for_an_end(world: &World<'_>, instance: &Instance, back: &Back) -> Option<Step> {
    let asked = exemption::asks_for_an_end(
        &instance.tags,
        &instance.id,
        &world.run.head.region,
        world.run.head.control,
        Offset::UTC.to_datetime(back.at).date(),
    )?;
    let text = format!(
        "{}. Backstop goes on by itself then: {}",
        asked.why, asked.command
    );
    if world.run.detail.progress.attention.as_ref() != Some(&text) {
        return Some(Step::Note(Note::Attention { text }));
    }
    if world.since(back.at) < LONGEST_ASKED {
        let seconds = LONGEST_PAUSE.as_secs() as u32;
        return Some(wait(seconds, "somebody to give the opt-out an end"));
    }
    let why = vec![back.why.clone(), text];
    Some(finish(world, needs_person(why)))
}

/// Puts every original back where it was, or its copy where there is no
/// original to be had; none: all is in place, or cannot be put there. Nothing
/// is taken out of an instance that is up, and nothing tried without an end
/// then: what is missing is told when the run ends.
fn put_back(world: &World<'_>, instance: &Instance) -> Option<Step> {
    let run = world.run;
    let is_up = instance.is_up();
    let instance = instance.id.as_str();
    for v in &run.detail.volumes {
        if !world.touched(v, instance) {
            continue;
        }
        let (device, delete) = device_of(v);
        let original = world
            .live(&v.id)
            .filter(|o| o.is_free() || o.attachment_to(instance).is_some());
        let copy = world
            .copy_of(&v.id)
            .filter(|c| c.is_free() || c.attachment_to(instance).is_some());
        let (target, other) = match (original, copy) {
            (Some(original), copy) => (original, copy),
            // The original is gone or in use elsewhere: the copy has what it
            // had at the stop.
            (None, Some(copy)) if copy.encrypted && copy.state != "error" => (copy, None),
            _ => continue,
        };
        if let Some(other) = other
            && let Some(attachment) = other.attachment_to(instance)
        {
            if is_up {
                continue;
            }
            if attachment.state == "detaching" {
                return Some(wait(BRISK, &format!("{} to be detached", other.id)));
            }
            return Some(tell_if_stuck(
                world,
                Change::Detach {
                    volume: other.id.clone(),
                },
            ));
        }
        match target.attachment_to(instance) {
            None => {
                let attach = Change::Attach {
                    volume: target.id.clone(),
                    device: device.to_owned(),
                };
                if !is_up {
                    return Some(tell_if_stuck(world, attach));
                }
                if let Ok(step) = attempt(world, attach) {
                    return Some(step);
                }
            }
            Some(attachment) if attachment.state == "detaching" => {
                return Some(wait(BRISK, &format!("{} to be detached", target.id)));
            }
            // What cannot be set is not worth keeping an instance down for.
            Some(_) => {
                if let Some(Ok(step)) = settle_attachment(world, target, instance, device, delete) {
                    return Some(step);
                }
            }
        }
    }
    None
}

/// Tries without an end; a person is told once it does not work.
fn tell_if_stuck(world: &World<'_>, change: Change) -> Step {
    persist(world, change).unwrap_or_else(|why| wait(LONGEST_PAUSE.as_secs() as u32, &why))
}

/// As [`attempt`], but never gives up on the way back to safety: after the
/// first refusal a person is told, and it goes on trying. Only a stop, which
/// leads to safety no more than it leads away from it, is given up.
fn persist(world: &World<'_>, change: Change) -> Result<Step, String> {
    let Some(tries) = world.run.detail.progress.tries(&change) else {
        return Ok(Step::Do(change));
    };
    let over = tries.count >= MOST_TRIES && world.since(tries.last_at) >= LAG;
    if matches!(change, Change::Stop { .. }) && over {
        let shows_nothing = || "it was tried again and again".to_owned();
        return Err(tries.refusal().unwrap_or_else(shows_nothing));
    }
    // The code alone: messages vary from try to try, and each new text is told.
    let (problem, passing) = match &tries.answer {
        // No answer, or "slower", once or twice says nothing yet.
        Some(
            answer @ Answer::Refused {
                operation, code, ..
            },
        ) => (
            format!("{operation}: {code}"),
            passes(answer) || is_taken(&change, code),
        ),
        // An instance that AWS starts and that does not stay up is `stopped`
        // again, with a reason: so EC2 reports what EBS or KMS refuse.
        _ => {
            let reason = world
                .instance
                .as_ref()
                .and_then(|i| i.state_reason.as_deref());
            let reason = reason.filter(|_| matches!(change, Change::Start { .. }));
            (reason.unwrap_or("accepted without effect").to_owned(), true)
        }
    };
    let text = stuck(world, &change, &problem);
    let told = world.run.detail.progress.attention.as_ref() == Some(&text);
    if !told && (!passing || tries.count > 2) {
        return Ok(Step::Note(Note::Attention { text }));
    }
    Ok(paced(world, change, tries))
}

/// What a person is told while the way back does not work.
fn stuck(world: &World<'_>, change: &Change, code: &str) -> String {
    let instance = world.run.instance_id().unwrap_or("the instance");
    match change {
        Change::Start { .. } => format!(
            "{instance} is stopped with its original volumes attached, and AWS refuses to start it ({code}). Backstop keeps trying. By hand: aws ec2 start-instances --instance-ids {instance}"
        ),
        Change::Stop { .. } => format!(
            "{instance} has to be stopped to put its original volumes back, and AWS refuses ({code}). Backstop tries again. By hand: aws ec2 stop-instances --instance-ids {instance}"
        ),
        Change::Attach { volume, device } => format!(
            "{volume} cannot be attached to {instance} as {device} ({code}). Backstop keeps trying. By hand: aws ec2 attach-volume --volume-id {volume} --instance-id {instance} --device {device}"
        ),
        Change::Detach { volume } => format!(
            "{volume} cannot be detached from {instance} ({code}). Backstop keeps trying. By hand: aws ec2 detach-volume --volume-id {volume} --instance-id {instance}"
        ),
        other => format!("{} does not work ({code})", other.key()),
    }
}

// ---------------------------------------------------------------------- parts

/// The safety snapshots of all volumes; none: they are complete.
fn safety_snapshots(world: &World<'_>) -> Option<Step> {
    let volumes = &world.run.detail.volumes;
    let steps = volumes
        .iter()
        .filter_map(|v| snapshot(world, &v.id, Purpose::Safety).err());
    first(steps.collect())
}

/// Of several things to do, the first that changes or notes something; else
/// the shortest wait.
fn first(steps: Vec<Step>) -> Option<Step> {
    let waits = |step: &Step| match step {
        Step::Wait { seconds, .. } => *seconds,
        _ => 0,
    };
    steps.into_iter().min_by_key(waits)
}

/// A completed snapshot, or the step that leads to one.
fn snapshot<'a>(
    world: &'a World<'_>,
    volume: &str,
    purpose: Purpose,
) -> Result<&'a Snapshot, Step> {
    let fails = |why: &str| Err(go_back(why, Status::RolledBack, true));
    match world.snapshot_of(volume, purpose) {
        None => {
            let change = Change::Snapshot {
                volume: volume.to_owned(),
                purpose,
            };
            match attempt(world, change.clone()) {
                Ok(step) => Err(step),
                Err(why) => Err(give_up(
                    world,
                    &change,
                    &format!("no snapshot of {volume} could be taken: {why}"),
                )),
            }
        }
        Some(snapshot) => match snapshot.state.as_str() {
            "completed" => Ok(snapshot),
            "error" => fails(&format!("the snapshot {} of {volume} failed", snapshot.id)),
            _ => {
                let since = snapshot.started_at.unwrap_or(world.run.head.started_at);
                if world.since(since) > LONGEST_SNAPSHOT {
                    return fails(&format!(
                        "the snapshot {} of {volume} is not complete after {} hours",
                        snapshot.id,
                        LONGEST_SNAPSHOT.as_hours()
                    ));
                }
                let seconds = if purpose == Purpose::Transfer {
                    BRISK
                } else {
                    world.patience(since)
                };
                let what = format!("the snapshot {} to be complete", snapshot.id);
                Err(wait(seconds, &what))
            }
        },
    }
}

/// Goes back because a change is refused for good. A quota of the account says
/// nothing about the unit: as long as nothing was stopped for it, it is taken up
/// again by the sweep.
fn give_up(world: &World<'_>, change: &Change, why: &str) -> Step {
    let tries = world.run.detail.progress.tries(change);
    let quota = tries
        .and_then(Tries::refused_with)
        .is_some_and(|code| code.ends_with("LimitExceeded") || code.ends_with("QuotaExceeded"));
    match quota && !world.run.stopped_it() {
        true => go_back(why, Status::Pending, false),
        false => go_back(why, Status::RolledBack, true),
    }
}

/// A volume's copy, seen encrypted and of the same make; or the step that leads
/// to one.
fn copied<'a>(world: &'a World<'_>, original: &Volume) -> Result<&'a Volume, Step> {
    let run = world.run;
    let volume = &original.id;
    let from_snapshot = run.detail.progress.from_snapshot.contains_key(volume);
    let create = Change::Create {
        volume: volume.clone(),
        snapshot: String::new(),
    };
    let tried_snapshot = run.detail.progress.tries(&create);
    // The other way needs the same key.
    if let Some(why) = world.not_made(volume) {
        return Err(go_back(&why, Status::RolledBack, true));
    }
    let Some(copy) = world.copy_of(volume) else {
        if !from_snapshot {
            let change = Change::Copy {
                volume: volume.clone(),
            };
            return Err(match attempt(world, change.clone()) {
                Ok(step) => step,
                Err(why) => match run.detail.progress.tries(&change) {
                    // It may be there all the same: a second one is not made.
                    Some(tries) if tries.may_have_happened() => {
                        go_back(&why, Status::RolledBack, true)
                    }
                    _ => Step::Note(Note::FromSnapshot {
                        volume: volume.clone(),
                        why: format!("a direct copy was refused: {why}"),
                    }),
                },
            });
        }
        if let Some(change) = world.unseen_copy(volume) {
            return Err(wait(BRISK, &format!("{change} to show")));
        }
        let snapshot = snapshot(world, volume, Purpose::Transfer)?;
        let change = Change::Create {
            volume: volume.clone(),
            snapshot: snapshot.id.clone(),
        };
        return Err(attempt(world, change.clone()).unwrap_or_else(|why| {
            give_up(
                world,
                &change,
                &format!("no encrypted copy of {volume} could be made: {why}"),
            )
        }));
    };
    let wrong = match copy.state.as_str() {
        // `creating`, or whatever else comes before `available`.
        state if !matches!(state, "available" | "in-use" | "error") => {
            let since = copy.created_at.unwrap_or(run.head.started_at);
            if world.since(since) < LONGEST_COPY {
                let seconds = match run.detail.instance {
                    None => world.patience(since),
                    Some(_) => BRISK,
                };
                return Err(wait(
                    seconds,
                    &format!("the copy {} to be available", copy.id),
                ));
            }
            format!("the copy {} is not available after two hours", copy.id)
        }
        "error" => format!("the copy {} came out in error", copy.id),
        _ if !copy.encrypted => format!("the copy {} is not encrypted", copy.id),
        _ if !copy.same_make(original) => format!(
            "the copy {} differs from {volume} in size, type, iops or throughput",
            copy.id
        ),
        _ => return Ok(copy),
    };
    if !from_snapshot {
        return Err(Step::Note(Note::FromSnapshot {
            volume: volume.clone(),
            why: wrong,
        }));
    }
    // What came of the second way is no better: back.
    if tried_snapshot.is_some() || !world.may_delete(copy) {
        return Err(go_back(&wrong, Status::RolledBack, true));
    }
    Err(attempt(
        world,
        Change::DeleteCopy {
            copy: copy.id.clone(),
        },
    )
    .unwrap_or_else(|why| go_back(&why, Status::RolledBack, true)))
}

/// Deletes the copies of this run that nothing uses; none: there are none left.
fn clear_up(world: &World<'_>) -> Option<Step> {
    // What is on its way cannot be deleted yet, and would stay.
    let volumes = &world.run.detail.volumes;
    if let Some(change) = volumes.iter().find_map(|v| world.unseen_copy(&v.id)) {
        return Some(wait(BRISK, &format!("{change} to show")));
    }
    let creating = world.volumes.values().find(|volume| {
        let since = volume.created_at.unwrap_or(world.now);
        world.is_own_copy(volume) && volume.state == "creating" && world.since(since) < LONGEST_COPY
    });
    if let Some(copy) = creating {
        return Some(wait(
            world.patience(copy.created_at.unwrap_or(world.now)),
            &format!("the copy {} to be there, to delete it", copy.id),
        ));
    }
    let unused = world
        .volumes
        .values()
        .filter(|volume| world.is_own_copy(volume) && world.may_delete(volume));
    for copy in unused {
        let change = Change::DeleteCopy {
            copy: copy.id.clone(),
        };
        // What cannot be deleted is named in the message.
        if let Ok(step) = attempt(world, change) {
            return Some(step);
        }
    }
    None
}

/// A change, at its pace. An error once it has been tried often enough.
fn attempt(world: &World<'_>, change: Change) -> Result<Step, String> {
    let Some(tries) = world.run.detail.progress.tries(&change) else {
        return Ok(Step::Do(change));
    };
    if let Some(refusal) = tries.refusal()
        && (tries.count >= MOST_TRIES || is_final(&change, tries))
    {
        return Err(refusal);
    }
    if tries.refusal().is_none() && tries.count >= MOST_TRIES && world.since(tries.last_at) >= LAG {
        return Err(format!(
            "{} was tried {} times and shows no effect",
            change.key(),
            tries.count
        ));
    }
    Ok(paced(world, change, tries))
}

/// Tries again when it is time.
fn paced(world: &World<'_>, change: Change, tries: &Tries) -> Step {
    // What a dry run asked for shows no effect that could be waited for.
    let again = matches!(change, Change::DryRun(_))
        || matches!(&tries.answer, Some(Answer::Refused { unknown: false, .. }));
    let (pause, look) = match again {
        true => {
            let grown = PAUSE * i32::try_from(tries.count).unwrap_or(i32::MAX).min(20);
            (grown.min(LONGEST_PAUSE), LONGEST_PAUSE)
        }
        // Accepted, or not answered: its effect may not show yet. In the long
        // run it is looked at less often: an execution holds 25,000 events.
        false if tries.count > MOST_TRIES => (LONGEST_PAUSE, LONGEST_PAUSE),
        false => (LAG, PAUSE),
    };
    let left = pause - world.since(tries.last_at);
    if left <= SignedDuration::ZERO {
        return Step::Do(change);
    }
    let seconds = u32::try_from(left.min(look).as_secs())
        .unwrap_or(BRISK)
        .max(1);
    wait(seconds, &format!("{} to take effect", change.key()))
}

/// Whether a device is taken: for a moment also by what was just detached.
fn is_taken(change: &Change, code: &str) -> bool {
    matches!(change, Change::Attach { .. }) && code == "InvalidParameterValue"
}

/// Whether trying again is of no use.
fn is_final(change: &Change, tries: &Tries) -> bool {
    const FINAL: &[&str] = &[
        "UnauthorizedOperation",
        "InvalidAction",
        "UnsupportedOperation",
        "OperationNotPermitted",
        "InvalidParameterValue",
        "InvalidParameterCombination",
        "UnknownParameter",
        "UnsupportedFeature",
    ];
    match &tries.answer {
        Some(Answer::Refused {
            code,
            unknown: false,
            ..
        }) => FINAL.contains(&code.as_str()) && !is_taken(change, code),
        _ => false,
    }
}

/// EC2's reason for an instance that somebody stopped.
const USER_STOP: &str = "Client.UserInitiatedShutdown";

fn wait(seconds: u32, why: &str) -> Step {
    Step::Wait {
        seconds,
        why: why.to_owned(),
    }
}

fn go_back(why: &str, status: Status, trip: bool) -> Step {
    Step::Note(Note::GoBack {
        why: why.to_owned(),
        status,
        trip,
    })
}

fn refuse(why: Vec<String>) -> Step {
    Step::Note(Note::Refuse { why })
}

fn overdue(world: &World<'_>) -> Step {
    go_back(
        &format!(
            "the instance was down for more than {} minutes",
            world.settings.max_downtime_minutes
        ),
        Status::RolledBack,
        true,
    )
}

fn end<T: Into<String>>(status: Status, why: impl IntoIterator<Item = T>) -> Step {
    Step::End(End {
        status,
        why: why.into_iter().map(Into::into).collect(),
        trip: status == Status::NeedsPerson,
        instance_gone: false,
    })
}

fn needs_person(why: Vec<String>) -> End {
    End {
        status: Status::NeedsPerson,
        why,
        trip: true,
        instance_gone: false,
    }
}

fn ended(back: &Back, notes: Vec<String>) -> Step {
    let mut why = back.sentences();
    let status = match notes.is_empty() {
        true => back.status,
        false => Status::NeedsPerson,
    };
    why.extend(notes);
    Step::End(End {
        status,
        why,
        trip: back.trip || status == Status::NeedsPerson,
        instance_gone: false,
    })
}

/// The instance was terminated: what was attached went the way its owner set,
/// what this run had detached did not.
fn instance_ended(world: &World<'_>, instance: &str) -> Step {
    let run = world.run;
    let Some(back) = &run.detail.progress.back else {
        // Noted first: what is cleared away now is missed should a late read
        // show the instance once more.
        return go_back(
            &format!("somebody terminated {instance} during the run"),
            Status::RolledBack,
            false,
        );
    };
    let kept: Vec<&str> = run
        .detail
        .volumes
        .iter()
        .filter_map(|v| world.live(&v.id))
        .filter(|v| world.detach_tried(&v.id) && v.attached().next().is_none())
        .map(|v| v.id.as_str())
        .collect();
    let mut why = back.sentences();
    let ended = format!("somebody terminated {instance} during the run");
    if back.why != ended {
        why.push(ended);
    }
    let status = if kept.is_empty() {
        Status::RolledBack
    } else {
        why.push(format!(
            "still there, attached nowhere: {}; delete what is not needed",
            kept.join(", ")
        ));
        Status::NeedsPerson
    };
    clear_up(world).unwrap_or(Step::End(End {
        status,
        why,
        trip: false,
        instance_gone: true,
    }))
}

fn another_copy(volume: &str, copy: &Volume) -> String {
    format!(
        "{} is a copy of {volume} that an earlier run left: delete it, or take its tag {COPY_OF_TAG} away",
        copy.id
    )
}

/// The device and what becomes of the volume at termination, as before.
fn device_of(before: &Volume) -> (&str, bool) {
    before.attachments.first().map_or(("", false), |a| {
        (a.device.as_str(), a.delete_on_termination)
    })
}

impl World<'_> {
    fn since(&self, at: Timestamp) -> SignedDuration {
        self.now.duration_since(at)
    }

    /// Seconds until the next look at something that may take long: an eighth
    /// of how long it has taken, from 15 s to 5 minutes.
    fn patience(&self, since: Timestamp) -> u32 {
        let eighth = self.since(since).as_secs() / 8;
        u32::try_from(eighth).unwrap_or(BRISK).clamp(BRISK, 300)
    }

    /// Whether the instance has been down for longer than the policy allows.
    fn overdue(&self) -> bool {
        self.run
            .downtime(self.now)
            .is_some_and(|down| down > self.settings.max_downtime())
    }

    /// A volume that is there.
    fn live(&self, id: &str) -> Option<&Volume> {
        self.volumes.get(id).filter(|volume| volume.exists())
    }

    /// This run's copy of a volume: by its id where that is known, else by its
    /// tags.
    fn copy_of(&self, id: &str) -> Option<&Volume> {
        let tries = &self.run.detail.progress.tries;
        let known = |kind: &str| {
            let copy = tries.get(&format!("{kind} {id}"))?.made.as_deref()?;
            let deleted = self.run.deleted(copy);
            if deleted { None } else { self.live(copy) }
        };
        known("create").or_else(|| known("copy")).or_else(|| {
            let mut copies = self.volumes.values();
            copies.find(|v| {
                v.tags.get(COPY_OF_TAG).is_some_and(|of| of == id)
                    && v.exists()
                    && self.is_own_copy(v)
            })
        })
    }

    /// Another run's copy of a volume.
    fn foreign_copy_of(&self, id: &str) -> Option<&Volume> {
        self.volumes.values().find(|v| {
            v.exists()
                && v.tags.get(COPY_OF_TAG).map(String::as_str) == Some(id)
                && !self.is_own_copy(v)
        })
    }

    fn is_own_copy(&self, volume: &Volume) -> bool {
        // An undo brings back what its remediation swapped out.
        let ours = [Some(&self.run.head.id), self.run.detail.undoes.as_ref()];
        volume.tags.contains_key(COPY_OF_TAG)
            && volume
                .tags
                .get(ENTRY_TAG)
                .is_some_and(|entry| ours.contains(&Some(entry)))
    }

    /// Whether a copy may be deleted: ours by its tags, attached nowhere and
    /// never attached, so that nothing was ever written to it; not what replaced
    /// its original; and not all that is left of it, unless the original went
    /// with its instance, as its owner set.
    fn may_delete(&self, copy: &Volume) -> bool {
        let attach = Change::Attach {
            volume: copy.id.clone(),
            device: String::new(),
        };
        let original = copy.tags.get(COPY_OF_TAG);
        let original_is_there = original.is_some_and(|id| self.live(id).is_some());
        let instance_ended = self.run.detail.instance.is_some()
            && self.instance.as_ref().is_none_or(Instance::is_ended);
        self.run.detail.undoes.is_none()
            && self.is_own_copy(copy)
            && matches!(copy.state.as_str(), "available" | "error")
            && copy.attached().next().is_none()
            && self.run.detail.progress.tries(&attach).is_none()
            && (original_is_there || instance_ended)
            && !self
                .volumes
                .values()
                .any(|v| v.tags.get(REPLACED_BY_TAG) == Some(&copy.id))
    }

    fn snapshot_of(&self, volume: &str, purpose: Purpose) -> Option<&Snapshot> {
        let change = Change::Snapshot {
            volume: volume.to_owned(),
            purpose,
        };
        let known = self
            .run
            .detail
            .progress
            .tries(&change)
            .and_then(|tries| tries.made.as_ref())
            .and_then(|id| self.snapshots.get(id));
        known.or_else(|| {
            self.snapshots.values().find(|snapshot| {
                snapshot.volume == volume
                    && snapshot.tags.get(ENTRY_TAG) == Some(&self.run.head.id)
                    && snapshot.tags.get(PURPOSE_TAG).map(String::as_str) == Some(purpose.name())
            })
        })
    }

    /// Whether the copy is attached where the original was.
    fn is_swapped(&self, before: &Volume, instance: &str) -> bool {
        let (device, _) = device_of(before);
        let attachment = self
            .copy_of(&before.id)
            .and_then(|c| c.attachment_to(instance));
        attachment.is_some_and(|a| a.state == "attached" && a.device == device)
    }

    /// Whether this run, or the one that it takes back, moved the volume or its
    /// copy on or off the instance. What others moved stays as they left it.
    fn touched(&self, before: &Volume, instance: &str) -> bool {
        self.run.detail.undoes.is_some()
            || self.detach_tried(&before.id)
            || self.is_on_copy(&before.id, instance)
            || self
                .copy_of(&before.id)
                .is_some_and(|copy| self.detach_tried(&copy.id))
    }

    /// Originals that this run moved and that are not back, in words.
    fn not_put_back(&self, instance: &str) -> Vec<String> {
        let volumes = self
            .run
            .detail
            .volumes
            .iter()
            .filter(|v| self.touched(v, instance));
        volumes
            .filter(|v| {
                self.live(&v.id)
                    .is_none_or(|o| o.attachment_to(instance).is_none())
            })
            .map(|v| match self.copy_of(&v.id) {
                Some(copy) if copy.attachment_to(instance).is_some() => format!(
                    "{} could not be put back; its copy {} is in its place",
                    v.id, copy.id
                ),
                _ => format!("{} could not be put back", v.id),
            })
            .collect()
    }

    fn is_on_copy(&self, volume: &str, instance: &str) -> bool {
        self.copy_of(volume)
            .is_some_and(|copy| copy.attachment_to(instance).is_some())
    }

    /// Whether the original can be had, so that the copy has to make room.
    fn wants_original(&self, volume: &str, instance: &str) -> bool {
        self.live(volume)
            .is_some_and(|o| o.is_free() || o.attachment_to(instance).is_some())
    }

    /// Whether any original is off the instance, or any copy on it.
    fn any_out_of_place(&self, instance: &str) -> bool {
        self.run.detail.volumes.iter().any(|v| {
            self.is_on_copy(&v.id, instance)
                || (self.detach_tried(&v.id)
                    && self
                        .live(&v.id)
                        .is_none_or(|o| o.attachment_to(instance).is_none()))
        })
    }

    fn detach_tried(&self, volume: &str) -> bool {
        let detach = Change::Detach {
            volume: volume.to_owned(),
        };
        self.run.detail.progress.tries(&detach).is_some()
    }

    /// The volume's attachment, if it is the one that it had at the beginning.
    fn attached_as_before(&self, before: &Volume, instance: &str) -> Option<()> {
        let was = before.attachments.first()?;
        let now = self.live(&before.id)?.attachment_to(instance)?;
        (now.attached_at == was.attached_at && now.device == was.device).then_some(())
    }

    /// What somebody did to an original that makes its copy worthless.
    fn moved(&self, instance: &str) -> Option<String> {
        self.run.detail.volumes.iter().find_map(|v| {
            if self.is_on_copy(&v.id, instance) {
                return None;
            }
            let id = &v.id;
            let Some(original) = self.live(id) else {
                return Some(format!("somebody deleted {id}"));
            };
            if self.attached_as_before(v, instance).is_some() {
                return None;
            }
            if original.is_free() && self.detach_tried(id) {
                return None;
            }
            // Our own detachment, on its way.
            if original.attachment_to(instance).is_none() && original.attached().next().is_none() {
                return match self.detach_tried(id) {
                    true => None,
                    false => Some(format!("somebody detached {id}")),
                };
            }
            Some(format!("somebody attached {id} elsewhere, or anew"))
        })
    }

    /// Originals with the copy that is in their place.
    fn swapped(&self) -> Vec<(&String, &String)> {
        let Some(instance) = self.run.instance_id() else {
            return Vec::new();
        };
        self.run
            .detail
            .volumes
            .iter()
            .filter(|v| self.is_on_copy(&v.id, instance))
            .filter_map(|v| Some((&v.id, &self.copy_of(&v.id)?.id)))
            .collect()
    }

    /// A change of this run's that may have been made and does not show yet:
    /// what is seen is of the time before it, and nothing may follow from that.
    fn unseen(&self, instance: &Instance) -> Option<&str> {
        let tried = &self.run.detail.progress.tries;
        let undone = |by: String, tries: &Tries| {
            tried
                .get(&by)
                .is_some_and(|other| other.may_have_happened() && other.last_at > tries.last_at)
        };
        let attachment = |id: &str| self.live(id).and_then(|v| v.attachment_to(&instance.id));
        let shows = |key: &str, tries: &Tries| match key.split_once(' ') {
            // By its time: a late read may show an attachment of before.
            Some(("attach", id)) => {
                let at = attachment(id).and_then(|a| a.attached_at);
                at.is_some_and(|at| at.as_second() >= tries.last_at.as_second())
                    || undone(format!("detach {id}"), tries)
            }
            Some(("detach", id)) => {
                attachment(id).is_none_or(|a| a.state == "detaching")
                    || undone(format!("attach {id}"), tries)
            }
            _ if key.starts_with("stop") => {
                !instance.is_up() || launched_since(instance, tries.last_at)
            }
            _ if key.starts_with("start") => launched_since(instance, tries.last_at),
            _ => true,
        };
        let unseen = tried.iter().find(|(key, tries)| {
            tries.may_have_happened() && self.since(tries.last_at) < LAG && !shows(key, tries)
        });
        unseen.map(|(key, _)| key.as_str())
    }

    /// That EBS could not make the copy of a volume, with the key and what it lacks.
    fn not_made(&self, of: &str) -> Option<String> {
        let there = self.copy_of(of).is_some_and(|copy| copy.state != "error");
        let tries = &self.run.detail.progress.tries;
        let made = |kind: &str| tries.get(&format!("{kind} {of}"))?.made.as_deref();
        let not_made = |copy: &str| Some((copy.to_owned(), self.not_made.get(copy)?.as_str()));
        let (copy, cause) = ["create", "copy"]
            .into_iter()
            .find_map(|kind| not_made(made(kind)?))
            .filter(|_| !there)?;
        let cause = match cause.trim().trim_end_matches('.') {
            "" => "EBS gives no cause",
            cause => cause,
        };
        let key = self.run.detail.kms_key.as_deref();
        let key = key.unwrap_or("the account's default for EBS");
        Some(format!(
            "EBS could not make the copy {copy} of {of}: {cause}. The key of copies is {key}; {}",
            self.key_problem.as_deref().unwrap_or(KEY_NEEDS)
        ))
    }

    /// A copy of a volume that may have been made and does not show yet.
    fn unseen_copy(&self, of: &str) -> Option<String> {
        if self.copy_of(of).is_some() {
            return None;
        }
        // What this run deleted itself, or EBS could not make, is not waited for.
        let ended = |copy: &String| self.run.deleted(copy) || self.not_made.contains_key(copy);
        let deleted = |tries: &Tries| tries.made.as_ref().is_some_and(ended);
        [format!("copy {of}"), format!("create {of}")]
            .into_iter()
            .find(|key| {
                self.run
                    .detail
                    .progress
                    .tries
                    .get(key)
                    .is_some_and(|tries| {
                        tries.may_have_happened()
                            && !deleted(tries)
                            && self.since(tries.last_at) < LAG
                    })
            })
    }

    /// Whether somebody else stopped the instance: it was started after this
    /// run's last stop, and was not stopped for a failure.
    fn stopped_by_others(&self, instance: &Instance) -> bool {
        let stops = [Change::Stop { back: false }, Change::Stop { back: true }];
        let stops = stops
            .iter()
            .filter_map(|stop| self.run.detail.progress.tries(stop));
        let last = stops
            .filter(|tries| tries.may_have_happened())
            .map(|tries| tries.last_at)
            .max();
        instance.state_reason.as_deref() == Some(USER_STOP)
            && last.is_none_or(|last| launched_since(instance, last))
    }

    /// A copy that was put in after the instance had been started: whether its
    /// original was written to in between is not known.
    fn put_in_late(&self, instance: &Instance) -> Option<&str> {
        let mut copies = self
            .run
            .detail
            .volumes
            .iter()
            .filter_map(|v| self.copy_of(&v.id));
        let late = |copy: &&Volume| {
            let attachment = copy.attachment_to(&instance.id);
            attachment.is_some_and(|a| a.attached_at > instance.launched_at)
        };
        copies.find(late).map(|copy| copy.id.as_str())
    }

    fn was_attached(&self, volume: &str) -> bool {
        let attach = Change::Attach {
            volume: volume.to_owned(),
            device: String::new(),
        };
        self.run
            .detail
            .progress
            .tries(&attach)
            .is_some_and(Tries::may_have_happened)
    }
}

/// Whether the instance was started at or after a time. EC2 cuts its times to
/// seconds.
fn launched_since(instance: &Instance, at: Timestamp) -> bool {
    instance
        .launched_at
        .is_some_and(|launched| launched.as_second() >= at.as_second())
}
