//! What became of a run: the end of its command, and Inspector's next look.

use std::cell::Cell;
use std::collections::BTreeSet;

use backstop_aws::bus;
use backstop_aws::ledger::Closed;
use backstop_aws::metrics;
use backstop_aws::patching::{self, Invocation as Of};
use backstop_core::guards::Trip;
use backstop_core::patching::{Came, Ended, Host, Operation, Patching, Reports};
use backstop_core::words::Status;
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::{Failure, Handler, Invocation, Looked, MOST_WRITES, World};

/// For how long a command that Systems Manager does not know, or whose effect it
/// does not show, is waited for.
const PATIENCE: SignedDuration = SignedDuration::from_hours(6);

/// For how long one that is under way is: longer than Systems Manager lets a
/// command wait and run.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// After how many installations in a row that failed an instance is left alone
/// until a person has seen to it: each takes snapshots and may restart it.
const MOST_FAILURES: u32 = 3;

impl Handler {
    /// Asks what became of a run's command. `None`: nothing of it began on the
    /// instance, and the run goes on without it.
    pub(super) async fn follow(
        &self,
        run: &mut Patching,
        reports: &mut Reports,
        invocation: &Invocation,
    ) -> Result<Option<Looked>, Failure> {
        let Some(sent) = run.detail.command.clone() else {
            return Ok(Some(Looked::Done("under way")));
        };
        let id = run.resource_id().to_owned();
        let (ssm, deadline) = (&self.clients.ssm, &invocation.deadline);
        let now = self.clients.clock.now();
        let mut waited = now.duration_since(sent.at);
        let ended = match patching::invocation(ssm, &sent.id, &id, deadline).await? {
            Of::UnderWay if waited < LONGEST => return Ok(Some(Looked::Done("under way"))),
            Of::UnderWay => {
                run.fail(
                    "the command is still under way after 24 hours, and is waited for no longer: see what hangs on the instance, and cancel the command".to_owned(),
                    now,
                );
                return self.ended(run).await.map(Some);
            }
            Of::Unknown if waited < PATIENCE => return Ok(Some(Looked::Done("under way"))),
            Of::Unknown => {
                run.fail(
                    "Systems Manager knows nothing of the command any more: whether patches were installed shows with the next scan".to_owned(),
                    now,
                );
                return self.ended(run).await.map(Some);
            }
            Of::Ended(ended) => ended,
        };
        // As it is after the end: what was read before may be older.
        let state = patching::states(ssm, std::slice::from_ref(&id), deadline)
            .await?
            .remove(&id);
        let ended = Ended { state, ..ended };
        match run.take_end(&ended, now) {
            Came::Concluded => {}
            Came::NotBegun => {
                warn!(entry = %run.head.id, resource = %run.head.resource, command = %sent.id, ended = %ended.status, "the command did not begin here");
                return Ok(None);
            }
            Came::NotShownYet => {
                match sent.seen_ended {
                    Some(since) => waited = now.duration_since(since),
                    // From here on it is waited for.
                    None => {
                        waited = SignedDuration::ZERO;
                        self.store(run).await?;
                    }
                }
                if waited < PATIENCE {
                    return Ok(Some(Looked::Done("ended, and not shown yet")));
                }
                run.fail(
                    "the command succeeded, but Systems Manager shows no patch operation since: is its inventory role in order?".to_owned(),
                    now,
                );
            }
        }
        info!(
            entry = %run.head.id, resource = %run.head.resource, command = %sent.id,
            ended = %ended.status, outcome = run.head.status.name(), "command ended"
        );
        self.check_snapshots(run, invocation).await?;
        if run.awaits_rescan() {
            // First what leads back here, then the run.
            self.note_end(&id, run, reports).await?;
            self.store(run).await?;
            self.release(run).await?;
        } else {
            // First the run: what is followed once more must not count twice.
            self.store(run).await?;
            self.note_end(&id, run, reports).await?;
            self.conclude(run).await?;
        }
        Ok(Some(Looked::Again))
    }

    /// Notes on what is kept of an instance how its installation ended: what now
    /// waits for Inspector, and how often it has failed.
    async fn note_end(
        &self,
        id: &str,
        run: &Patching,
        reports: &mut Reports,
    ) -> Result<(), Failure> {
        let failed = run.head.status == Status::Failed;
        let installs = run.detail.operation == Operation::Install && run.is_telling();
        let unpatchable = &run.detail.unpatchable;
        // What is known not to help is not counted as well.
        let counts = installs && unpatchable.is_none() && (failed || reports.failures > 0);
        let learns = *unpatchable != reports.unpatchable;
        if !counts && !learns && !run.awaits_rescan() && !run.needs_a_change() {
            return Ok(());
        }
        // What was reported later was not there to be mended.
        let until = run.detail.after.as_ref().and_then(|state| state.ended_at);
        let mended: BTreeSet<&str> = run.patchable().map(|f| f.arn.as_str()).collect();
        // What was tried in vain before is tried by what was missing since.
        let brings = run
            .detail
            .before
            .as_ref()
            .is_some_and(|state| state.missing > 0);
        // Once it has tripped, whoever re-arms it has it tried as often again.
        let trips = Cell::new(false);
        self.change_reports(id, reports, |reports| {
            if *unpatchable != reports.unpatchable {
                reports.unpatchable.clone_from(unpatchable);
                reports.unpatchable_recorded = false;
            }
            let failures = match counts {
                true if failed => reports.failures + 1,
                true => 0,
                false => reports.failures,
            };
            trips.set(failures >= MOST_FAILURES || run.needs_a_change());
            reports.failures = if trips.get() { 0 } else { failures };
            if !run.awaits_rescan() {
                return;
            }
            let patchable: Vec<String> = reports
                .active
                .values()
                .filter(|finding| finding.installed_by.is_none())
                .filter(|finding| {
                    let tried = finding.is_patchable() || (brings && finding.has_patch());
                    mended.contains(finding.arn.as_str()) || (tried && finding.reported_at <= until)
                })
                .map(|finding| finding.arn.clone())
                .collect();
            reports.installed(&run.head.id, patchable.iter().map(String::as_str));
            reports.awaiting.insert(run.head.id.clone());
            // Suppressed or dropped while its command was under way: nobody will
            // close it. What the record has no room for may be among that.
            let is_lost = |arn: &str| !reports.active.contains_key(arn) && !reports.has_closed(arn);
            let since = |arn: &String| reports.closed.get(arn) >= Some(&run.head.started_at);
            if mended.iter().any(|arn| is_lost(arn))
                || (!run.lists_all() && reports.suppressed.iter().any(since))
            {
                reports.unclear.insert(run.head.id.clone());
            }
        })
        .await?;
        if trips.get() {
            let times = match run.needs_a_change() {
                true => String::new(),
                false => format!(" {MOST_FAILURES} times in a row"),
            };
            let trip = Trip {
                at: self.clients.clock.now(),
                why: format!(
                    "its patches could not be installed{times} (entry {})",
                    run.head.id
                ),
            };
            self.ledger
                .trip_resource(run.head.control, run.resource_id(), &trip)
                .await?;
        }
        Ok(())
    }

    /// A snapshot that came to nothing is no way back, and is not named as one.
    async fn check_snapshots(
        &self,
        run: &mut Patching,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        if run.detail.snapshots.is_empty() {
            return Ok(());
        }
        let (ec2, deadline) = (&self.clients.ec2, &invocation.deadline);
        let lost = patching::lost_snapshots(ec2, run, deadline).await?;
        if !lost.is_empty() {
            run.detail
                .snapshots
                .retain(|snapshot| !lost.contains(snapshot));
            run.detail.reasons.push(format!(
                "the safety snapshots {} came to nothing: there is no way back by them",
                lost.join(", ")
            ));
        }
        Ok(())
    }

    /// Ends a run whose command is followed no longer.
    async fn ended(&self, run: &mut Patching) -> Result<Looked, Failure> {
        Ok(match self.finish(run).await? {
            Closed::LookAgain => Looked::Again,
            Closed::Done => Looked::Done(run.head.status.name()),
        })
    }

    /// Settles the runs that waited for Inspector to look again.
    pub(super) async fn settle(
        &self,
        id: &str,
        world: &World,
        reports: &mut Reports,
    ) -> Result<(), Failure> {
        let gone = world.hosts.get(id).is_none_or(Host::is_ended);
        let mut settled = Vec::new();
        for entry in reports.awaiting.clone() {
            let Some(mut run) = self.ledger.patching(&entry).await? else {
                settled.push(entry);
                continue;
            };
            if run.is_open() {
                continue;
            }
            let now = self.clients.clock.now();
            let left: BTreeSet<&str> = reports.of(&entry).map(|f| f.arn.as_str()).collect();
            let ended = match gone {
                true => run.gone(now),
                false => run.rescanned(&left, reports.unclear.contains(&entry), now),
            };
            if ended {
                if !self.ledger.store_unlocked(&mut run).await? {
                    return Err(Failure::Overtaken(run.head.id.clone()));
                }
                count(&run, now);
                info!(entry = %run.head.id, resource = %run.head.resource, outcome = run.head.status.name(), left = left.len(), "settled");
            }
            if !run.awaits_rescan() {
                bus::tell(&self.clients.eventbridge, &run.head.id).await?;
                self.ledger.mark_told(&run.head.id).await?;
                settled.push(entry);
            }
        }
        if settled.is_empty() {
            return Ok(());
        }
        self.change_reports(id, reports, |reports| {
            for entry in &settled {
                reports.settled(entry);
            }
        })
        .await
    }

    /// Changes what is kept of Inspector's reports, however often another
    /// invocation is quicker.
    pub(super) async fn change_reports(
        &self,
        id: &str,
        reports: &mut Reports,
        change: impl Fn(&mut Reports),
    ) -> Result<(), Failure> {
        for _ in 0..MOST_WRITES {
            change(reports);
            if self.ledger.store_reports(id, reports).await? {
                return Ok(());
            }
            *reports = self.reread(id).await?;
        }
        Err(Failure::Contended(id.to_owned()))
    }

    /// Tells a run that is over, or waits for Inspector, and releases its lock.
    pub(super) async fn release(&self, run: &Patching) -> Result<Closed, Failure> {
        bus::tell(&self.clients.eventbridge, &run.head.id).await?;
        let closed = match run.awaits_rescan() {
            true => self.ledger.let_go(run).await?,
            false => {
                let holder = self.ledger.run_holder(&run.head.id);
                self.ledger.close(run, &holder, false, None).await?
            }
        };
        if closed == Closed::LookAgain {
            info!(resource = %run.head.resource, "another look was asked for");
        }
        Ok(closed)
    }

    /// Ends a run: stored, told, the lock released.
    pub(super) async fn finish(&self, run: &mut Patching) -> Result<Closed, Failure> {
        self.store(run).await?;
        self.conclude(run).await
    }

    /// Counts and tells a run that is stored as ended, and releases its lock.
    async fn conclude(&self, run: &Patching) -> Result<Closed, Failure> {
        count(run, self.clients.clock.now());
        if run.head.status == Status::Failed {
            warn!(entry = %run.head.id, resource = %run.head.resource, why = ?run.detail.reasons, "run failed");
        }
        self.release(run).await
    }

    pub(super) async fn store(&self, run: &mut Patching) -> Result<(), Failure> {
        match self.ledger.advance(run).await? {
            true => Ok(()),
            false => Err(Failure::Overtaken(run.head.id.clone())),
        }
    }
}

/// Counts what a run came to by now.
fn count(run: &Patching, now: Timestamp) {
    let mut counted = metrics::run(run.head.control.name());
    match run.head.status {
        Status::Remediated => {
            counted.remediations = Some(1);
            let since = run.head.actor.event_time;
            counted.time_to_closed =
                since.and_then(|since| now.duration_since(since).try_into().ok());
        }
        Status::Failed => counted.failures = Some(1),
        _ => {}
    }
}
