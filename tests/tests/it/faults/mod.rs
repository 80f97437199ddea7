//! The fault run: a clean run of a function is recorded; then the run is repeated
//! once for each call and each way that call can fail, and the event is delivered
//! again. (Of the reads in encrypt-volume's steps, a selection.) Each time, no
//! `before` is lost from the ledger, every outcome is notified, no event is given
//! up, and the account ends as after the clean run. Where AWS refuses a call for
//! good, or an execution is lost while its instance is down, the run may instead
//! end rolled back, failed or handed to a person, and people are notified of that.
//!
//! Everything runs in this process (`account`). One call of each function fails
//! in each way with the real processes, killed with SIGKILL, over HTTP:
//! `e2e/failing_calls.rs`.

mod account;
pub(crate) mod opt_outs;
mod requests;
pub(crate) mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop_aws::clock::Clock;
use backstop_core::words::ControlId;
use backstop_wire::memory::Cloud;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) use self::account::{
    Account, Ended, Fault, Nth, Watch, Way, id_of, indexes, ledger_table,
};
use crate::contract::{FIXTURES, Fixture};

/// A function at its work on one resource.
pub(crate) trait Story {
    /// The state before the event, which `wrong` compares the end with.
    type Before: Send + Sync;

    /// Logical id of the function.
    fn function(&self) -> &'static str;

    /// Makes the world before the event.
    async fn set(&self, account: &mut Account) -> (Value, Self::Before);

    /// Whether nothing but the sweep finds a run whose execution is gone.
    fn needs_the_sweep(&self) -> bool {
        false
    }

    /// How long after its end the event is delivered again.
    fn again_after(&self) -> Duration {
        Duration::ZERO
    }

    /// What is wrong at the end; empty if nothing is.
    async fn wrong(&self, account: &Account, before: &Self::Before, end: &End) -> Vec<String>;
}

/// What an end is the end of.
pub(crate) struct End {
    /// The call that failed; none: a clean run.
    fault: Option<Fault>,
    /// Whether the event has been delivered again since.
    again: bool,
}

impl End {
    /// Whether a call failed in this way.
    fn is_of(&self, way: Way) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.way == way)
    }

    /// Whether the call that failed was refused for good, and is one of these:
    /// operation, and how many of the same came before it.
    fn refused(&self, calls: &[(&str, usize)]) -> bool {
        let fault = self.fault.as_ref();
        fault.is_some_and(|Fault { call, way, .. }| {
            *way == Way::Denied && calls.contains(&(&call.operation, call.before))
        })
    }
}

/// Longer than any lease: after this, the lock of a run that stopped has expired.
pub(crate) const LAPSED: Duration = Duration::from_secs(3700);

/// When every run begins.
pub(crate) fn beginning() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

/// Runs on time that passes at once.
pub(crate) fn run<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(run)
}

/// The world of a story before its event, and when that is.
pub(crate) struct Scene<S: Story> {
    story: S,
    pub(crate) cloud: Cloud,
    at: Timestamp,
    event: Value,
    before: S::Before,
}

impl<S: Story> Scene<S> {
    pub(crate) fn set(story: S) -> Self {
        run(async {
            let clock = Clock::of_timers(beginning());
            let mut account = Account::empty(&stories::policy(), clock);
            let (event, before) = story.set(&mut account).await;
            let (cloud, at) = (account.cloud().clone(), account.now());
            Self {
                story,
                cloud,
                at,
                event,
                before,
            }
        })
    }

    /// Plays the story, with a call that fails: the calls that its function made,
    /// and what is wrong in the end.
    fn play(&self, fault: Option<Fault>) -> (Vec<Nth>, Vec<String>) {
        self.play_before(fault, None)
    }

    /// As [`play`](Self::play), with somebody who is shown every call to the
    /// ledger's table.
    pub(crate) fn play_before(
        &self,
        fault: Option<Fault>,
        watch: Option<Arc<Watch>>,
    ) -> (Vec<Nth>, Vec<String>) {
        let function = self.story.function();
        run(async {
            let clock = Clock::of_timers(self.at);
            let mut account = Account::new(self.cloud.clone(), clock, watch);
            if let Some(fault) = fault.clone() {
                account.fail(fault);
            }
            let mut end = End {
                fault,
                again: false,
            };
            account.start(function, &self.event);
            account.settle().await;
            if end.is_of(Way::KilledForGood) {
                // Another event comes while the lock is live, and one after that.
                for wait in [Duration::ZERO, LAPSED] {
                    tokio::time::sleep(wait).await;
                    account.start(function, &self.event);
                    account.settle().await;
                }
                if self.story.needs_the_sweep() {
                    account.start(stories::Sweep.function(), &json!({}));
                    account.settle().await;
                }
            }
            let mut wrong = self.wrong(&account, &end).await;
            let calls = account.calls_of(function);
            if !account.has_failed() {
                wrong.push("the call was not made".to_owned());
            }
            tokio::time::sleep(self.story.again_after()).await;
            let failed = account.failed.len();
            account.start(function, &self.event);
            account.settle().await;
            end.again = true;
            let mut again = self.wrong(&account, &end).await;
            let failures = account.failed.iter().skip(failed);
            again.extend(failures.map(|(function, why)| format!("{function} failed: {why}")));
            let again = again.into_iter();
            wrong.extend(again.map(|wrong| format!("delivered again: {wrong}")));
            (calls, wrong)
        })
    }

    async fn wrong(&self, account: &Account, end: &End) -> Vec<String> {
        let mut wrong = self.story.wrong(account, &self.before, end).await;
        let refused = account.refused().into_iter();
        wrong.extend(refused.map(|(function, request, verdict)| {
            format!("{function}: IAM answers {verdict:?} to {request:?}")
        }));
        let given_up = account.given_up.iter();
        wrong.extend(given_up.map(|(function, why)| format!("{function} has given up: {why}")));
        wrong
    }
}

/// The whole table of a story that has this many calls at least.
fn every_call_fails_in_every_way(story: impl Story, at_least: usize) {
    these_calls_fail_in_every_way(story, "every call", at_least, |calls| calls);
}

/// The table of those calls of a story that are chosen. Prints what it did.
fn these_calls_fail_in_every_way(
    story: impl Story,
    which: &str,
    at_least: usize,
    choose: impl FnOnce(Vec<Nth>) -> Vec<Nth>,
) {
    let started = Instant::now();
    let function = story.function();
    let scene = Scene::set(story);
    let (calls, wrong) = scene.play(None);
    assert!(wrong.is_empty(), "the clean run: {wrong:#?}");
    let calls = choose(calls);
    assert!(calls.len() >= at_least, "{calls:#?}");
    let mut bad = BTreeMap::new();
    for way in Way::ALL {
        for call in &calls {
            let (_, wrong) = scene.play(Some(Fault {
                function,
                call: call.clone(),
                way: *way,
            }));
            if !wrong.is_empty() {
                let Nth {
                    service,
                    operation,
                    before,
                } = call;
                let name = format!("{way:?}, {service}:{operation} number {}", before + 1);
                bad.insert(name, wrong);
            }
        }
    }
    println!(
        "{function}, {which}: {} calls x {} ways = {} runs in {:.1} s",
        calls.len(),
        Way::ALL.len(),
        calls.len() * Way::ALL.len(),
        started.elapsed().as_secs_f32()
    );
    assert!(bad.is_empty(), "{} runs: {bad:#?}", bad.len());
}

#[test]
fn revoke_ingress_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(stories::Revoke, 15);
}

#[test]
fn the_sweep_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(stories::Sweep, 46);
}

#[test]
fn undo_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(stories::Undo, 18);
}

/// The fixtures of the controls that are remediated at once, but for open-ingress:
/// the stories above do more of it.
fn controls() -> impl Iterator<Item = &'static dyn Fixture> {
    let fixtures = FIXTURES.iter().copied();
    fixtures.filter(|of| of.control() != ControlId::OpenIngress)
}

#[test]
fn every_control_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    for fixture in controls() {
        every_call_fails_in_every_way(stories::Remediation(fixture), 9);
    }
}

#[test]
fn every_undo_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    for fixture in controls() {
        every_call_fails_in_every_way(stories::UndoOf(fixture), 11);
    }
}

#[test]
fn encrypt_volume_begins_a_run_once_whichever_call_fails_in_whichever_way() {
    these_calls_fail_in_every_way(stories::Encrypt, "its beginning", 14, |mut calls| {
        calls.truncate(begins(&calls));
        calls
    });
}

#[test]
fn encrypt_volume_carries_a_run_to_its_end_whichever_call_fails_in_whichever_way() {
    these_calls_fail_in_every_way(stories::Encrypt, "its steps", 64, |mut calls| {
        let mut steps = calls.split_off(begins(&calls));
        // Of the reads each kind where it comes first: at the beginning, while the
        // instance is down, between volumes, and once it is up again.
        let mut read = BTreeSet::new();
        steps.retain(|call| {
            let reads = ["Describe", "Get", "BatchGet"];
            let reads = reads.iter().any(|read| call.operation.starts_with(read));
            if ["StopInstances", "DetachVolume", "StartInstances"].contains(&&*call.operation) {
                read.clear();
            }
            !reads || read.insert(call.operation.clone())
        });
        steps
    });
}

/// How many calls there are until a run is handed to the state machine.
fn begins(calls: &[Nth]) -> usize {
    let handed = |call: &Nth| call.operation == "StartExecution";
    1 + calls.iter().position(handed).expect("an execution")
}

#[test]
fn patch_instance_comes_to_the_same_end_whichever_call_fails_in_whichever_way() {
    every_call_fails_in_every_way(stories::Patch, 44);
}
