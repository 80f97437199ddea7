//! One step of a run, as the state machine asks for it: read the record, look
//! at the world, take the step that follows, write down what came of it.
//!
//! At most one change is made in an invocation, and it is in the ledger before
//! it is made. Killed anywhere, the next invocation goes on from what is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use backstop_aws::ledger::Closed;
use backstop_aws::volumes::{self, Seen};
use backstop_aws::{bus, metrics};
use backstop_core::controls::unencrypted_volume;
use backstop_core::encryption::{
    Change, Encryption, End, Hold, Note, Step, Tries, World, next_step,
};
use backstop_core::guards::Trip;
use backstop_core::json;
use backstop_core::policy::Policy;
use backstop_core::trigger::CheckRequested;
use backstop_core::words::{ControlId, Status};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::handler::{Failure, Handler, Invocation, elapsed};

/// Most notes that are taken before a step is.
const MOST_NOTES: usize = 8;

/// Seconds until the next look while the policy cannot be used.
const WITHOUT_POLICY: u32 = 60;

/// Seconds until the next look while patches are being installed. An installation
/// may take a day, and an execution holds 25,000 events.
const WHILE_PATCHED: u32 = 120;

/// What the state machine does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Wait(u32),
    Done(Status),
}

impl Next {
    fn answer(self) -> Value {
        match self {
            Self::Again => json!({ "next": "again", "wait_seconds": 0 }),
            Self::Wait(seconds) => json!({ "next": "wait", "wait_seconds": seconds }),
            Self::Done(status) => {
                json!({ "next": "done", "wait_seconds": 0, "status": status.name() })
            }
        }
    }
}

impl Handler {
    /// Takes the next step of a run. `go_back`: the state machine could not get
    /// one done, and says why.
    pub(crate) async fn advance(
        &self,
        entry: &str,
        go_back: Option<String>,
        invocation: &Invocation,
    ) -> Result<Value, Failure> {
        let Some(mut run) = self.ledger.encryption(entry).await? else {
            return Err(Failure::NoEntry(entry.to_owned()));
        };
        if !run.is_open() {
            // Stored by an invocation that was cut off before it told or closed.
            self.close(&run, true).await?;
            return Ok(Next::Done(run.head.status).answer());
        }
        // The first message, and what a person has to know at once: an invocation
        // may have been cut off before it was told. A message that went out is
        // dropped by its key.
        let begins = run.detail.progress.tries.is_empty() && run.detail.progress.back.is_none();
        if begins || run.detail.progress.attention.is_some() {
            bus::tell(&self.clients.eventbridge, &run.head.id).await?;
        }
        if let Some(why) = go_back
            && run.detail.progress.back.is_none()
            // Running on its copies, it only has to be looked at and tagged.
            && !started(&run)
        {
            let note = Note::GoBack {
                why: format!("a step failed again and again: {}", shortened(&why)),
                status: Status::RolledBack,
                trip: true,
            };
            self.take_note(&mut run, &note).await?;
        }
        for _ in 0..MOST_NOTES {
            let seen = volumes::seen(
                &self.clients.ec2,
                &self.encryption.kms,
                &run,
                &invocation.deadline,
            )
            .await?;
            run.adopt(&seen.volumes, &seen.snapshots);
            let not_made = self.not_made(&run, &seen).await?;
            let mut step = self.next_step(&run, &seen, not_made, invocation).await;
            // On the way back as well: the instance runs meanwhile, and an undo
            // may begin while patches are being installed.
            if let Step::Do(Change::Stop { .. }) = step
                && let Some(patching) = self.patching(&run).await?
            {
                step = Step::Wait {
                    seconds: WHILE_PATCHED,
                    why: format!("the patching of the instance to end (entry {patching})"),
                };
            }
            match step {
                Step::Note(note) => self.take_note(&mut run, &note).await?,
                Step::Wait { seconds, why } => {
                    info!(entry = %run.head.id, resource = %run.head.resource, seconds, %why, "waiting");
                    self.keep_lock(&run).await?;
                    return Ok(Next::Wait(seconds).answer());
                }
                Step::Do(change) => {
                    self.make(&mut run, &seen, &change, invocation).await?;
                    return Ok(Next::Again.answer());
                }
                Step::End(end) => {
                    self.end(&mut run, &end).await?;
                    return Ok(Next::Done(run.head.status).answer());
                }
            }
        }
        Ok(Next::Again.answer())
    }

    /// Why EBS could not make copies that should be there and are not, by copy.
    async fn not_made(
        &self,
        run: &Encryption,
        seen: &Seen,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let there = |id: &str| seen.volumes.get(id).is_some_and(|v| v.state != "error");
        let missing = run.copies().into_values().filter(|id| !there(id));
        let missing: Vec<String> = missing.map(str::to_owned).collect();
        match missing.is_empty() {
            true => Ok(BTreeMap::new()),
            false => Ok(self.ledger.not_made(&missing).await?),
        }
    }

    async fn next_step(
        &self,
        run: &Encryption,
        seen: &Seen,
        not_made: BTreeMap<String, String>,
        invocation: &Invocation,
    ) -> Step {
        let now = self.clients.clock.now();
        // Without a valid policy nothing new is begun, and what is under way
        // goes on by the defaults only where that leads to an end: back, or a
        // look at what was started. An instance that is down goes back.
        let (policy, unreadable) = match self.policy.get(&invocation.deadline).await {
            Ok(policy) => (policy.policy, None),
            Err(problem) => {
                warn!(%problem, "a step without the policy");
                let ends = run.detail.progress.back.is_some()
                    || run.detail.undoes.is_some()
                    || started(run);
                if !ends && !run.stopped_it() {
                    return Step::Wait {
                        seconds: WITHOUT_POLICY,
                        why: problem.to_string(),
                    };
                }
                let hold = (!ends).then(|| Hold {
                    why: format!("the policy cannot be used while the instance is down: {problem}"),
                });
                (Arc::new(Policy::default()), Some(hold))
            }
        };
        let tags = seen.instance.iter().map(|instance| &instance.tags).chain(
            run.detail
                .volumes
                .iter()
                .filter_map(|v| Some(&seen.volumes.get(&v.id)?.tags)),
        );
        let world = World {
            run,
            now,
            instance: seen.instance.clone(),
            volumes: seen.volumes.clone(),
            snapshots: seen.snapshots.clone(),
            not_made,
            hold: match unreadable {
                Some(hold) => hold,
                None => unencrypted_volume::hold(
                    run,
                    &policy.unencrypted_volume(),
                    self.settings.remediation.mode,
                    tags,
                    now,
                ),
            },
            key_problem: seen.key_problem.clone(),
            settings: &policy.controls.unencrypted_volume.settings,
        };
        next_step(&world)
    }

    /// The entry of a patching that a stop would cut in two; none: there is none.
    /// Each of the two takes its own lock before it looks at the other's, so that
    /// one of them sees it. One that was cut off before its command was about to be
    /// sent looks at this run's lock before it sends any.
    async fn patching(&self, run: &Encryption) -> Result<Option<String>, Failure> {
        let Some(instance) = run.instance_id() else {
            return Ok(None);
        };
        let standing = self.ledger.standing(ControlId::MissingPatches, instance);
        let Some(lock) = standing.await?.lock else {
            return Ok(None);
        };
        let patching = self.ledger.patching(&lock.entry).await?;
        let holds = patching.is_some_and(|patching| {
            // A lock that lapses says nothing of a command that was, or may have
            // been, sent.
            let sent = patching.detail.command.is_some() || patching.detail.batch.is_some();
            patching.is_open() && (sent || lock.is_live(self.clients.clock.now()))
        });
        Ok(holds.then_some(lock.entry))
    }

    async fn take_note(&self, run: &mut Encryption, note: &Note) -> Result<(), Failure> {
        run.note(note, self.clients.clock.now());
        self.store(run).await?;
        info!(entry = %run.head.id, resource = %run.head.resource, ?note, "noted");
        if matches!(note, Note::Attention { .. }) {
            bus::tell(&self.clients.eventbridge, &run.head.id).await?;
        }
        Ok(())
    }

    /// One change: written down, made, and what came of it written down.
    async fn make(
        &self,
        run: &mut Encryption,
        seen: &Seen,
        change: &Change,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        run.trying(change, self.clients.clock.now());
        self.store(run).await?;
        let (answer, made) =
            volumes::change(&self.clients.ec2, run, seen, change, &invocation.deadline).await;
        info!(entry = %run.head.id, resource = %run.head.resource, change = %change.key(), ?answer, ?made, "step");
        run.tried(change, answer, made);
        self.store(run).await
    }

    /// Ends the run: stored, told, the lock released.
    async fn end(&self, run: &mut Encryption, end: &End) -> Result<(), Failure> {
        let now = self.clients.clock.now();
        run.conclude(end, now);
        let mut counted = metrics::run(run.head.control.name());
        match run.head.status {
            Status::Remediated => {
                counted.remediations = Some(1);
                counted.time_to_closed = elapsed(run.head.actor.event_time, now);
            }
            Status::NeedsPerson => counted.failures = Some(1),
            _ => {}
        }
        if end.trip {
            let trip = Trip {
                at: now,
                why: format!("its encryption came to a bad end (entry {})", run.head.id),
            };
            self.ledger
                .trip_resource(run.head.control, run.resource_id(), &trip)
                .await?;
        }
        self.store(run).await?;
        info!(
            entry = %run.head.id, resource = %run.head.resource, control = %run.head.control,
            outcome = run.head.status.name(), why = ?end.why, "run ended"
        );
        self.close(run, false).await
    }

    /// Tells, releases the lock, and has the unit looked at once more where
    /// something came up meanwhile. `again`: an invocation before may have done
    /// a part of it, and lost the wish to look again.
    async fn close(&self, run: &Encryption, again: bool) -> Result<(), Failure> {
        bus::tell(&self.clients.eventbridge, &run.head.id).await?;
        if let Some(undone) = &run.detail.undoes
            && run.head.status == Status::RolledBack
        {
            self.ledger.note_undone(undone, &run.head.id).await?;
        }
        let holder = self.ledger.run_holder(&run.head.id);
        let closed = self.ledger.close(run, &holder, false, None).await?;
        // What went back goes another way now, if any: a volume that was
        // attached meanwhile is looked at with its instance.
        let left_alone = run
            .detail
            .progress
            .back
            .as_ref()
            .is_some_and(|back| back.trip);
        let moved_on =
            run.head.status == Status::RolledBack && run.detail.undoes.is_none() && !left_alone;
        if again || closed == Closed::LookAgain || moved_on {
            let resource = match run.detail.volumes.first() {
                Some(volume) if run.detail.instance.is_none() => volume.id.clone(),
                _ => run.resource_id().to_owned(),
            };
            let check =
                CheckRequested::new(run.head.control, resource, Some(run.head.actor.clone()));
            bus::request_checks(&self.clients.eventbridge, &[check]).await?;
        }
        Ok(())
    }

    async fn store(&self, run: &mut Encryption) -> Result<(), Failure> {
        match self.ledger.advance(run).await? {
            true => Ok(()),
            false => Err(overtaken(run)),
        }
    }

    async fn keep_lock(&self, run: &Encryption) -> Result<(), Failure> {
        match self.ledger.keep_lock(run).await? {
            true => Ok(()),
            false => Err(overtaken(run)),
        }
    }
}

/// Whether the instance was, or may have been, started on its copies.
fn started(run: &Encryption) -> bool {
    let start = run.detail.progress.tries(&Change::Start { back: false });
    start.is_some_and(Tries::may_have_happened)
}

fn overtaken(run: &Encryption) -> Failure {
    Failure::Overtaken {
        resource: run.head.resource.clone(),
        entry: run.head.id.clone(),
    }
}

/// The state machine hands over Lambda's whole error record.
pub(crate) fn shortened(why: &str) -> String {
    const MOST: usize = 300;
    let message = json::value(why.as_bytes())
        .ok()
        .and_then(|error| Some(error.get("errorMessage")?.as_str()?.to_owned()))
        .unwrap_or_else(|| why.to_owned());
    match message.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}
