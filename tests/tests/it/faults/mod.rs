//! The fault run: a clean run of a function is recorded, then each of its
//! calls is failed in each way, one a run, and the event delivered again.
//! Whatever fails, the end is the same: nothing that was there before is lost
//! from the ledger, nothing stays untold, nothing is given up, the world looks
//! as after the clean run.
//!
//! Everything runs in this process (`account`). One row of each table is played
//! by the real processes, killed with SIGKILL, over HTTP: `e2e/faults.rs`.

mod account;
mod stories;

use std::collections::BTreeSet;
use std::time::Instant;

use backstop_wire::memory::Cloud;
use jiff::Timestamp;
use serde_json::Value;

use self::account::{Account, Fault, Nth, Way};
use backstop_aws::clock::Clock;

/// A function at its work on one resource.
trait Story {
    /// Logical id of the function.
    const FUNCTION: &'static str;
    /// What its end is held against.
    type Before;

    /// Makes the world before the event.
    async fn set(account: &mut Account) -> (Value, Self::Before);

    /// What is not as it has to be in the end.
    async fn wrong(account: &Account, before: &Self::Before) -> Vec<String>;
}

/// When every run begins.
fn beginning() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

/// Runs on time that passes at once.
fn run<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        // A handler's future is larger than the stack of a test's thread is for.
        .block_on(Box::pin(run))
}

/// The world of a story before its event, and when that is.
struct Scene<S: Story> {
    cloud: Cloud,
    at: Timestamp,
    event: Value,
    before: S::Before,
}

impl<S: Story> Scene<S> {
    fn set() -> Self {
        run(async {
            let clock = Clock::of_timers(beginning());
            let mut account = Account::empty(&stories::policy(), clock);
            let (event, before) = S::set(&mut account).await;
            let (cloud, at) = (account.cloud().clone(), account.now());
            Self {
                cloud,
                at,
                event,
                before,
            }
        })
    }

    /// Plays the story, with a call that fails, and says which calls its function
    /// made.
    fn play(&self, fault: Option<Fault>) -> Vec<Nth> {
        let name = match &fault {
            None => "the clean run".to_owned(),
            Some(Fault { call, way, .. }) => format!(
                "{way:?}, {}:{} number {}",
                call.service,
                call.operation,
                call.before + 1
            ),
        };
        run(async {
            let clock = Clock::of_timers(self.at);
            let mut account = Account::new(self.cloud.clone(), clock);
            if let Some(fault) = fault {
                account.fail(fault);
            }
            account.start(S::FUNCTION, &self.event);
            account.settle().await;
            self.check(&account, &name).await;
            let calls = account.calls_of(S::FUNCTION);
            assert!(account.has_failed(), "{name}: the call was not made");
            account.start(S::FUNCTION, &self.event);
            account.settle().await;
            self.check(&account, &format!("{name}, delivered again"))
                .await;
            calls
        })
    }

    async fn check(&self, account: &Account, name: &str) {
        let mut wrong = S::wrong(account, &self.before).await;
        wrong.extend(
            account
                .given_up
                .iter()
                .map(|(function, why)| format!("{function} has given up: {why}")),
        );
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

/// The whole table of a story. Prints what it did.
fn every_call_fails_in_every_way<S: Story>() {
    let started = Instant::now();
    let scene = Scene::<S>::set();
    let calls = scene.play(None);
    let made: BTreeSet<&Nth> = calls.iter().collect();
    assert_eq!(made.len(), calls.len());
    assert!(!calls.is_empty());
    let mut runs = 0;
    for way in Way::ALL {
        for call in &calls {
            scene.play(Some(Fault {
                function: S::FUNCTION,
                call: call.clone(),
                way: *way,
            }));
            runs += 1;
        }
    }
    println!(
        "{}: {} calls x {} ways = {runs} runs in {:.1} s",
        S::FUNCTION,
        calls.len(),
        Way::ALL.len(),
        started.elapsed().as_secs_f32()
    );
}

#[test]
fn revoke_ingress_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way::<stories::Revoke>();
}

#[test]
fn the_sweep_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way::<stories::Sweep>();
}

#[test]
fn undo_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way::<stories::Undo>();
}

#[test]
fn encrypt_volume_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way::<stories::Encrypt>();
}

#[test]
fn patch_instance_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way::<stories::Patch>();
}
