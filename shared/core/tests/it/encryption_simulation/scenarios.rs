//! Single stories, each with the end that it has to come to. What always holds
//! is checked in them as in random runs.

use backstop_core::encryption::{Step, World, next_step};
use backstop_core::volumes::Volume;
use backstop_core::words::Status;

use super::caller::play;
use super::others::Other;
use super::sim::{Call, Coverage, Health, INSTANCE, Kind, Make, Plan, Sim, Take, When, at};

/// Plays it with reads that lag and with reads that do not, and with many
/// courses of each; shows it once.
fn story(change: impl Fn(&mut Plan), kind: Kind, ends: Status) -> Sim {
    let mut last = None;
    for seed in 0..40 {
        let mut plan = Plan::calm(kind, seed);
        plan.lags = seed % 2 == 1;
        plan.volumes = usize::try_from(seed % 3).unwrap() + 1;
        change(&mut plan);
        let sim = play(plan, Coverage::new(), true);
        let trace = sim.trace.clone().unwrap_or_default().join("\n");
        assert_eq!(sim.broken, None, "{trace}");
        assert_eq!(sim.stored.head.status, ends, "{trace}");
        last = Some(sim);
    }
    last.unwrap()
}

impl Sim {
    fn called(&self, call: Call) -> bool {
        self.facts.calls.contains(&call)
    }

    fn on_copies(&self) -> bool {
        (0..self.plan.volumes).all(|d| self.at_device(d).is_some_and(|d| d.copy_of.is_some()))
    }

    fn on_originals(&self) -> bool {
        (0..self.plan.volumes).all(|d| self.at_device(d).is_some_and(|d| d.copy_of.is_none()))
    }

    /// Copies of this run that are still there.
    fn copies(&self) -> usize {
        let copies = self.disks.values().filter(|d| d.copy_of.is_some());
        copies.filter(|d| d.past.facts.exists()).count()
    }

    fn told(&self, what: &str) -> bool {
        let attention = self.stored.detail.progress.attention.iter();
        attention
            .chain(&self.stored.detail.reasons)
            .any(|text| text.contains(what))
    }
}

#[test]
fn an_unattached_volume_gets_a_copy_and_stays() {
    let sim = story(|_| {}, Kind::Unattached, Status::Remediated);
    assert_eq!(sim.copies(), 1);
    assert!(!sim.called(Call::Stop) && !sim.called(Call::DeleteCopy));
}

#[test]
fn a_running_instance_is_stopped_once_and_runs_on_its_copies() {
    let sim = story(|_| {}, Kind::Swap, Status::Remediated);
    assert!(sim.on_copies());
    assert_eq!(sim.state(), "running");
    assert_eq!(sim.machine.as_ref().map(|m| m.starts), Some(1));
}

#[test]
fn an_instance_that_somebody_stopped_is_swapped_and_stays_stopped() {
    let sim = story(|_| {}, Kind::WhenStopped, Status::Remediated);
    assert!(sim.on_copies());
    assert_eq!(sim.state(), "stopped");
    assert!(!sim.called(Call::Stop) && !sim.called(Call::Start));
}

#[test]
fn a_swap_is_taken_back() {
    let sim = story(|_| {}, Kind::Undo, Status::RolledBack);
    assert!(sim.on_originals());
    assert_eq!(sim.state(), "running");
    let sim = story(|plan| plan.running = false, Kind::Undo, Status::RolledBack);
    assert_eq!(sim.state(), "stopped");
    assert_eq!(sim.copies(), sim.plan.volumes, "what was replaced is kept");
}

#[test]
fn an_instance_that_is_not_well_on_its_copies_goes_back_to_its_originals() {
    let sim = story(
        |plan| plan.health = Health::BadOnCopies,
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.on_originals());
    assert_eq!(sim.state(), "running");
    assert_eq!(sim.copies(), sim.plan.volumes, "they have been written to");
}

#[test]
fn an_instance_that_is_never_well_is_told() {
    let sim = story(
        |plan| plan.health = Health::Bad,
        Kind::Swap,
        Status::NeedsPerson,
    );
    assert!(sim.on_originals());
    assert!(sim.told("does not pass its status checks"));
}

#[test]
fn an_instance_that_somebody_terminates_is_recorded_as_gone() {
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Snapshot, 0), Other::Terminate)],
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.stored.detail.instance_gone);
}

/// Nothing is wrong with the volume: the sweep takes it up again.
#[test]
fn a_copy_for_which_the_account_has_no_room_waits() {
    for quota in ["VolumeLimitExceeded", "MaxStorageQuotaExceeded"] {
        story(
            |plan| {
                plan.copy = Make::Refused("InvalidAction");
                plan.create = Make::Refused(quota);
            },
            Kind::Unattached,
            Status::Pending,
        );
    }
}

#[test]
fn an_opt_out_before_the_stop_ends_the_run() {
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Snapshot, 0), Other::Hold)],
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(!sim.called(Call::Stop));
}

#[test]
fn an_opt_out_after_the_stop_leads_back() {
    for call in [Call::Stop, Call::Copy, Call::Detach, Call::Attach] {
        let sim = story(
            |plan| {
                // Else it may show after the start only.
                plan.lags = false;
                plan.others = vec![(When::After(call, 0), Other::Hold)];
            },
            Kind::Swap,
            Status::RolledBack,
        );
        assert!(sim.on_originals());
        assert_eq!(sim.state(), "running");
        assert!(!sim.called(Call::Start));
    }
}

#[test]
fn what_aws_would_refuse_is_refused_before_anything_is_stopped_or_moved() {
    for call in [Call::Start, Call::Detach, Call::Attach, Call::KeepOrDelete] {
        for kind in [Kind::Swap, Kind::WhenStopped] {
            // Nothing is started then, and what stays at the end is kept by chance.
            let asked = kind == Kind::Swap || call != Call::Start;
            if !asked || call == Call::KeepOrDelete {
                continue;
            }
            let sim = story(
                |plan| plan.denied = Some((call, "UnauthorizedOperation", i64::MAX / 2)),
                kind,
                Status::Refused,
            );
            assert!(!sim.called(Call::Stop) && !sim.called(Call::Detach));
            assert!(!sim.called(Call::Snapshot) && !sim.called(Call::Copy));
            assert!(sim.told("UnauthorizedOperation") && sim.on_originals());
        }
    }
}

#[test]
fn what_goes_with_its_instance_is_asked_for_ahead_too() {
    let denied = |plan: &mut Plan| {
        plan.denied = Some((Call::KeepOrDelete, "UnauthorizedOperation", i64::MAX / 2));
    };
    for seed in 0..40 {
        let mut plan = Plan::calm(Kind::Swap, seed);
        denied(&mut plan);
        let sim = play(plan, Coverage::new(), true);
        let trace = sim.trace.clone().unwrap_or_default().join("\n");
        assert_eq!(sim.broken, None, "{trace}");
        let goes = |v: &Volume| v.attachments[0].delete_on_termination;
        let ends = match sim.stored.detail.volumes.iter().any(goes) {
            true => Status::Refused,
            false => Status::Remediated,
        };
        assert_eq!(sim.stored.head.status, ends, "{trace}");
    }
}

#[test]
fn a_dry_run_that_is_not_answered_is_tried_again_and_refuses_nothing() {
    for code in ["RequestLimitExceeded", "InternalError"] {
        story(
            |plan| plan.denied = Some((Call::DryRun, code, 60)),
            Kind::Swap,
            Status::Remediated,
        );
        // Not for ever: the sweep takes it up again.
        let sim = story(
            |plan| plan.denied = Some((Call::DryRun, code, i64::MAX / 2)),
            Kind::Swap,
            Status::Pending,
        );
        assert!(!sim.called(Call::Snapshot) && !sim.called(Call::Stop));
    }
}

#[test]
fn what_was_asked_for_long_before_the_stop_is_asked_for_again() {
    let sim = story(
        |plan| {
            // Granted when the run began, and denied once its snapshots are there.
            plan.safety = Take::Slow(3 * 3600);
            plan.denied = None;
        },
        Kind::Swap,
        Status::Remediated,
    );
    let tries = &sim.stored.detail.progress.tries;
    let (asked, stopped) = (&tries["dry run start"], &tries["stop"]);
    let before = stopped.first_at.duration_since(asked.last_at);
    assert!(before.as_mins() < 15, "{before}");
}

#[test]
fn without_direct_copies_the_other_way_is_asked_for_ahead() {
    let refused = Make::Refused("InvalidAction");
    let sim = story(|plan| plan.copy = refused, Kind::Swap, Status::Remediated);
    assert!(sim.facts.would_be_done.contains("create vol-0"));
    let sim = story(
        |plan| {
            plan.copy = refused;
            plan.create = refused;
        },
        Kind::Swap,
        Status::Refused,
    );
    assert!(!sim.called(Call::Stop));
}

#[test]
fn an_undo_that_aws_would_refuse_stops_nothing() {
    for call in [Call::StartBack, Call::Detach, Call::Attach] {
        let sim = story(
            |plan| plan.denied = Some((call, "UnauthorizedOperation", i64::MAX / 2)),
            Kind::Undo,
            Status::NeedsPerson,
        );
        assert!(!sim.called(Call::StopBack) && sim.on_copies());
        assert!(sim.told("UnauthorizedOperation"));
    }
}

#[test]
fn an_opt_out_without_an_end_is_asked_to_get_one_where_the_way_back_needs_a_stop() {
    let opts_out = |plan: &mut Plan| {
        plan.health = Health::BadOnCopies;
        plan.others = vec![(When::After(Call::Start, 30), Other::OptOut)];
    };
    let sim = story(
        |plan| {
            opts_out(plan);
            plan.others
                .push((When::After(Call::Start, 7200), Other::DateOptOut));
        },
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.on_originals() && sim.told("an opt-out without an end"));
    assert!(sim.told("aws ec2 create-tags --region eu-central-1 --resources i-1 --tags 'Key=backstop:opt-out,Value=unencrypted-volume until="));
    // Nobody gives it one: it runs on its copies, and a person knows.
    let sim = story(opts_out, Kind::Swap, Status::NeedsPerson);
    assert!(sim.on_copies() && !sim.called(Call::StopBack));
    assert!(sim.told("an opt-out without an end"));
    let sim = story(
        |plan| {
            plan.others = vec![
                (When::At(0), Other::OptOut),
                (When::At(7200), Other::DateOptOut),
            ];
        },
        Kind::Undo,
        Status::RolledBack,
    );
    assert!(sim.on_originals() && sim.told("an opt-out without an end"));
}

#[test]
fn an_opt_out_after_the_start_changes_nothing_any_more() {
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Start, 0), Other::Hold)],
        Kind::Swap,
        Status::Remediated,
    );
    assert!(sim.on_copies());
}

#[test]
fn a_copy_that_is_refused_or_wrong_is_made_from_a_snapshot() {
    for make in [
        Make::Refused("InvalidAction"),
        Make::Unencrypted,
        Make::OtherType,
        Make::Error,
    ] {
        for kind in [Kind::Swap, Kind::WhenStopped, Kind::Unattached] {
            let sim = story(|plan| plan.copy = make, kind, Status::Remediated);
            assert!(sim.called(Call::Create));
        }
    }
}

#[test]
fn without_a_fit_copy_nothing_is_detached() {
    let sim = story(
        |plan| {
            plan.copy = Make::Refused("UnsupportedOperation");
            plan.create = Make::Unencrypted;
        },
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(!sim.called(Call::Detach));
    assert_eq!(sim.copies(), 0);
}

#[test]
fn a_copy_that_ebs_could_not_make_leads_back_at_once_and_names_the_key() {
    for kind in [Kind::Swap, Kind::WhenStopped, Kind::Unattached] {
        let sim = story(|plan| plan.copy = Make::Vanishes, kind, Status::RolledBack);
        assert!(!sim.called(Call::Create), "the other way has the same key");
        assert!(!sim.called(Call::Detach));
        for part in [
            "EBS could not make the copy vol-copy",
            "the key is not accessible",
            "the account's default for EBS",
            "kms:CreateGrant",
        ] {
            assert!(sim.told(part), "{part}: {:?}", sim.stored.detail.reasons);
        }
        let tries = sim.stored.detail.progress.tries.iter();
        let mut copies = tries.filter(|(change, _)| change.starts_with("copy "));
        assert!(
            copies.all(|(_, tries)| tries.count == 1),
            "it was waited for"
        );
    }
}

#[test]
fn a_safety_snapshot_that_fails_ends_the_run_before_the_stop() {
    let sim = story(
        |plan| plan.safety = Take::Error,
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(!sim.called(Call::Stop));
}

#[test]
fn a_copy_that_takes_too_long_leads_back_in_time() {
    let sim = story(
        |plan| {
            plan.copy = Make::Slow(5400);
            plan.max_downtime_minutes = 15;
        },
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.on_originals());
    assert_eq!(sim.copies(), 0, "they are deleted once they are there");
}

#[test]
fn what_somebody_starts_in_the_middle_stays_up() {
    // Before anything is detached: the copies are of no use any more.
    let sim = story(
        |plan| {
            plan.copy = Make::Slow(600);
            plan.others = vec![(When::After(Call::Copy, 60), Other::Start)];
        },
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.on_originals());
    // At its next stop it is taken up again.
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Snapshot, 0), Other::Start)],
        Kind::WhenStopped,
        Status::Pending,
    );
    assert_eq!(sim.state(), "running");
}

#[test]
fn what_somebody_starts_half_swapped_keeps_every_write() {
    let sim = story(
        |plan| {
            plan.volumes = 3;
            // Data volumes follow the root volume.
            plan.others = vec![(When::After(Call::Attach, 25), Other::Start)];
        },
        Kind::Swap,
        Status::NeedsPerson,
    );
    assert_eq!(sim.state(), "running");
    assert!(sim.at_device(0).is_some_and(|root| root.copy_of.is_some()));
}

#[test]
fn a_copy_that_was_put_in_after_somebody_started_the_instance_is_told() {
    let mut sim = story(|_| {}, Kind::Swap, Status::Remediated);
    // As if the instance had been started before its copies were put in.
    sim.pass(600);
    sim.instance(|i| i.launched_at = Some(at(0)));
    sim.pass(600);
    let mut run = sim.stored.as_ref().clone();
    run.head.status = Status::InProgress;
    let view = sim.view(&run);
    let step = next_step(&World {
        run: &run,
        now: at(sim.now),
        instance: view.instance,
        volumes: view.volumes,
        snapshots: view.snapshots,
        not_made: view.not_made,
        hold: None,
        key_problem: None,
        settings: &sim.settings,
    });
    let Step::End(end) = step else {
        panic!("{step:?}");
    };
    assert_eq!(end.status, Status::NeedsPerson);
    assert!(
        end.why
            .iter()
            .any(|why| why.contains("may lack what was written before"))
    );
}

#[test]
fn what_somebody_stops_after_the_start_stays_stopped() {
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Start, 50), Other::Stop)],
        Kind::Swap,
        Status::Remediated,
    );
    assert_eq!(sim.state(), "stopped");
}

#[test]
fn what_somebody_terminates_in_the_middle_is_let_go() {
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Copy, 5), Other::Terminate)],
        Kind::Swap,
        Status::RolledBack,
    );
    assert_eq!(sim.copies(), 0);
    // What was detached survives its instance, and somebody is told.
    let sim = story(
        |plan| plan.others = vec![(When::After(Call::Detach, 25), Other::Terminate)],
        Kind::Swap,
        Status::NeedsPerson,
    );
    assert!(sim.told("vol-0"));
}

#[test]
fn an_original_that_somebody_detaches_is_left_where_it_is() {
    let sim = story(
        |plan| {
            plan.copy = Make::Slow(300);
            plan.others = vec![(When::After(Call::Copy, 20), Other::DetachOriginal)];
            // Else the root volume is missing, and nothing can be started.
            plan.volumes = 3;
        },
        Kind::WhenStopped,
        Status::RolledBack,
    );
    assert!(!sim.called(Call::Attach));
}

#[test]
fn an_instance_for_which_there_is_no_room_is_told_and_tried_until_it_is_up() {
    let sim = story(
        |plan| plan.capacity_from = 4 * 3600,
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.on_originals());
    assert_eq!(sim.state(), "running");
    assert!(sim.told("AWS refuses to start it"));
}

#[test]
fn a_key_that_fails_at_the_start_leads_back() {
    let sim = story(
        |plan| plan.kms_from = i64::MAX,
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.on_originals());
    assert_eq!(sim.state(), "running");
}

#[test]
fn nothing_is_stopped_once_the_window_has_closed() {
    let sim = story(
        |plan| {
            plan.safety = Take::Slow(3600);
            plan.window = Some((2 * 3600, 2 * 3600 + 1800));
        },
        Kind::Swap,
        Status::Pending,
    );
    assert!(!sim.called(Call::Stop));
}

#[test]
fn a_stop_that_hangs_is_told_and_never_forced() {
    let sim = story(
        |plan| plan.stop_seconds = (3 * 3600, 3 * 3600),
        Kind::Swap,
        Status::RolledBack,
    );
    assert!(sim.told("has been stopping for more than"));
    assert_eq!(sim.state(), "running");
    let original = sim.disks["vol-0"].past.facts.attachment_to(INSTANCE);
    assert!(original.is_some());
}

#[test]
fn an_original_that_somebody_takes_is_replaced_by_its_copy_on_the_way_back() {
    let mut plan = Plan::calm(Kind::Swap, 7);
    plan.volumes = 1;
    plan.health = Health::BadOnCopies;
    plan.others = vec![(When::After(Call::Start, 0), Other::TakeOriginal)];
    let sim = play(plan, Coverage::new(), true);
    let trace = sim.trace.clone().unwrap_or_default().join("\n");
    assert_eq!(sim.broken, None, "{trace}");
    assert_eq!(sim.stored.head.status, Status::NeedsPerson, "{trace}");
    assert_eq!(sim.state(), "running");
    assert!(sim.on_copies() && sim.told("could not be put back"));
}
