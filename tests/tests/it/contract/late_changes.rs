//! Changes that AWS accepts and shows only after a time, of every control that says
//! so ([`shown_within`](backstop_core::any_control::AnyControl::shown_within)).

use std::time::Duration;

use super::*;

/// Controls whose changes take their time, and how long at most.
fn late(test: impl AsyncFn(&'static dyn Fixture, Duration)) {
    every(async |fixture| {
        let within = controls::of(fixture.control()).unwrap().shown_within();
        if !within.is_zero() {
            test(fixture, within).await;
        }
    });
}

impl World {
    /// With one item exposed, where a change shows only after this time.
    fn lagging(fixture: &'static dyn Fixture, lag: Duration) -> Self {
        let mut world = Self::new(fixture, &json!({}));
        assert!(fixture.lag(&mut world.placed, lag));
        fixture.lag(&mut world.account.cloud().ec2, lag);
        world.expose(1);
        world
    }

    /// With a change that AWS has accepted and that does not show yet.
    async fn waiting(fixture: &'static dyn Fixture, lag: Duration) -> Self {
        let mut world = Self::lagging(fixture, lag);
        let ended = world.invoke(&event(fixture), "first").await;
        assert_eq!(ended.unwrap(), "pending");
        world.account.settle().await;
        world
    }

    /// The subjects of what people have received about the resource, without the
    /// digests of sweeps.
    fn subjects(&self) -> Vec<String> {
        let cloud = self.account.cloud();
        let subjects = cloud.published.iter().map(|(subject, _)| subject.clone());
        subjects.filter(|s| s.contains(self.fixture.id())).collect()
    }

    /// The words that they begin with.
    fn told_as(&self) -> Vec<String> {
        let first = |subject: &String| subject.split(' ').nth(1).unwrap().to_owned();
        self.subjects().iter().map(first).collect()
    }

    /// Nothing but the first change was made, and nobody was told of a failure.
    async fn is_waiting(&self) {
        assert_eq!(self.outcomes().await, ["pending"]);
        assert_eq!(self.changes(), 1, "no second call");
        assert_eq!(self.told_as(), ["PENDING"]);
        assert!(self.account.failed.is_empty(), "{:?}", self.account.failed);
        assert!(!self.holds("fights#") && !self.holds("trip#"));
    }

    /// What was waited for has been confirmed.
    async fn is_confirmed(&mut self) {
        assert_eq!(self.outcomes().await, ["remediated"]);
        assert_eq!((self.changes(), self.counted()), (1, 1));
        assert_eq!(self.told_as(), ["PENDING", "FIXED"]);
        assert!(self.account.failed.is_empty(), "{:?}", self.account.failed);
        // Reads what it shows by now.
        self.notice().await;
        self.is_remediated();
        let entry = self.entry().await;
        assert_eq!(entry.detail.shows_by, None);
        assert!(entry.detail.verification.unwrap().passed());
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn who_says_that_changes_take_their_time_has_a_fixture_that_does() {
    every(async |fixture| {
        let within = controls::of(fixture.control()).unwrap().shown_within();
        let mut ec2 = World::new(fixture, &json!({})).ec2();
        assert_eq!(fixture.lag(&mut ec2, MINUTE), !within.is_zero());
    });
}

#[test]
fn what_does_not_show_yet_is_pending_and_no_look_changes_it_again() {
    late(async |fixture, within| {
        let mut world = World::lagging(fixture, within - MINUTE);
        let first = event(fixture);
        let mut shows_by = BTreeSet::new();
        for event in [&first, &first, &event(fixture)] {
            world.deliver(event).await;
            world.is_waiting().await;
            shows_by.extend(world.entry().await.detail.shows_by);
        }
        sleep(6 * MINUTE).await;
        // It asks for a look, at what seems to be open.
        world.sweep_now().await;
        world.is_waiting().await;
        let entry = world.entry().await;
        let verification = entry.detail.verification.unwrap();
        assert!(verification.remaining.is_empty() && verification.not_as_planned.is_empty());
        assert_eq!(verification.not_visible_yet.len(), 1);
        shows_by.extend(entry.detail.shows_by);
        assert_eq!(shows_by.len(), 1, "by the first call alone: {shows_by:?}");
    });
}

#[test]
fn the_sweep_confirms_what_shows_by_then_once() {
    late(async |fixture, within| {
        let mut world = World::waiting(fixture, within - MINUTE).await;
        sleep(within + MINUTE).await;
        for _ in 0..2 {
            world.sweep_now().await;
        }
        world.is_confirmed().await;
        let cloud = world.account.cloud();
        let digests = cloud
            .published
            .iter()
            .filter(|(_, body)| body.contains("cut off"));
        assert_eq!(digests.count(), 0, "it was no run that was cut off");
    });
}

#[test]
fn any_look_confirms_it_before_the_time_is_up() {
    late(async |fixture, _| {
        let mut world = World::waiting(fixture, 2 * MINUTE).await;
        sleep(3 * MINUTE).await;
        world.notice().await;
        world.is_confirmed().await;
    });
}

#[test]
fn what_has_not_shown_in_time_has_failed_and_is_tried_again() {
    late(async |fixture, within| {
        let mut world = World::lagging(fixture, within);
        // AWS accepts it, and nothing comes of it.
        world.meddle(|call, changes, cloud| {
            changes.then(|| {
                let before = cloud.ec2.clone();
                let answer = cloud.answer(call, beginning());
                cloud.ec2 = before;
                answer
            })
        });
        world.notice().await;
        world.is_waiting().await;
        sleep(within - MINUTE).await;
        world.sweep_now().await;
        world.is_waiting().await;
        sleep(2 * MINUTE).await;
        let why = world.invoke(&event(fixture), "late").await.unwrap_err();
        assert!(
            why.contains("not remediated") && why.contains("still"),
            "{why}"
        );
        world.account.settle().await;
        assert_eq!(world.outcomes().await, ["failed"]);
        assert_eq!(world.changes(), 1, "what failed is told first");
        assert_eq!(world.told_as(), ["PENDING", "FAILED"]);
        // Lambda's retry.
        world.account.leave_alone();
        fixture.lag(&mut world.account.cloud().ec2, Duration::ZERO);
        fixture.lag(&mut world.placed, Duration::ZERO);
        assert_eq!(
            world.invoke(&event(fixture), "late").await.unwrap(),
            "remediated"
        );
        assert_eq!((world.changes(), world.counted()), (2, 1));
        world.is_remediated();
    });
}

/// Throttled, for example: that AWS accepted the change is on record.
#[test]
fn what_could_not_be_read_again_is_not_changed_again_either() {
    late(async |fixture, within| {
        let mut world = World::lagging(fixture, within - MINUTE);
        let mut changed = false;
        world.meddle(move |call, changes, _| {
            changed |= changes;
            (changed && !changes && call.service == "ec2").then(denied)
        });
        let event = event(fixture);
        let why = world.invoke(&event, "first").await.unwrap_err();
        assert!(why.contains("could not be read again"), "{why}");
        world.account.leave_alone();
        assert_eq!(world.invoke(&event, "first").await.unwrap(), "pending");
        assert_eq!(world.changes(), 1);
        sleep(within).await;
        assert_eq!(world.invoke(&event, "first").await.unwrap(), "remediated");
        assert_eq!(world.changes(), 1);
    });
}

/// Whatever the policy says meanwhile: the change is made.
#[test]
fn what_waits_is_confirmed_whatever_the_policy_says_meanwhile() {
    late(async |fixture, within| {
        for policy in [
            policy(fixture, &json!({ "mode": "notify" })),
            policy(fixture, &json!({ "mode": "off" })),
            policy(fixture, &exempt("2027-01-31")),
            killed(fixture),
        ] {
            let mut world = World::waiting(fixture, within - MINUTE).await;
            world.set_policy(&policy).await;
            world.notice().await;
            world.is_waiting().await;
            sleep(within).await;
            world.sweep_now().await;
            world.is_confirmed().await;
        }
    });
}

/// The switch is thrown between the change and the look at it.
#[test]
fn the_kill_switch_stops_nothing_of_what_only_does_not_show_yet() {
    late(async |fixture, within| {
        let mut world = World::lagging(fixture, within - MINUTE);
        let killed = killed(fixture).to_string();
        world.meddle(move |_, changes, cloud| {
            if changes {
                cloud.policy.clone_from(&killed);
            }
            None
        });
        world.notice().await;
        world.is_waiting().await;
    });
}

#[test]
fn what_is_weakened_again_and_again_is_a_fight_all_the_same() {
    late(async |fixture, within| {
        let mut world = World::lagging(fixture, within - MINUTE);
        for time in 1..=3 {
            world.notice().await;
            sleep(within).await;
            world.notice().await;
            let entry = world.entry().await;
            let fight = entry.detail.fight.map(|fight| fight.times);
            assert_eq!(fight, (time >= 3).then_some(time));
            assert_eq!(world.changes(), time as usize);
            world.expose(1);
        }
    });
}

#[test]
fn an_undo_waits_until_the_change_shows_and_may_show_late_itself() {
    late(async |fixture, within| {
        let mut world = World::waiting(fixture, within - MINUTE).await;
        let policy = policy(fixture, &exempt("2027-01-31"));
        world.set_policy(&policy).await;
        let id = world.entry().await.head.id;
        let ask = json!({ "remediation": id, "reason": "a test" });
        let back = |world: &World| {
            let undoes = info(world.fixture).undoes.iter();
            let undoes: Vec<_> = undoes.filter_map(|of| of.split_once(':')).collect();
            let calls = world.account.calls_of("UndoFunction").into_iter();
            calls
                .filter(|call| undoes.iter().any(|(_, name)| *name == call.operation))
                .count()
        };
        let early = world
            .invoke_of("UndoFunction", &ask, "undo-1")
            .await
            .unwrap();
        assert_eq!(early["verdict"], "in-progress", "{early}");
        assert_eq!(back(&world), 0);
        sleep(within).await;
        let undone = world
            .invoke_of("UndoFunction", &ask, "undo-2")
            .await
            .unwrap();
        assert_eq!(undone["verdict"], "undone", "{undone}");
        assert!(
            undone["message"].as_str().unwrap().contains("10 minutes"),
            "{undone}"
        );
        assert_eq!(back(&world), 1);
        world.account.settle().await;
        sleep(within).await;
        world.notice().await;
        let mut exposed = world.placed.clone();
        fixture.expose(fixture.items()[0], &mut exposed);
        assert_eq!(world.ec2(), exposed);
        assert_eq!(world.changes(), 1);
    });
}
