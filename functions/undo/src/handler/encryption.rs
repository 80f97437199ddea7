//! Undo of an encryption: opted out, then handed to the state machine, which
//! swaps the originals back. It takes minutes, so the answer says that it has
//! begun; its end is told like any other.

use backstop_aws::deadline::Deadline;
use backstop_aws::ledger::Begun;
use backstop_aws::{bus, executions, opt_outs, volumes};
use backstop_core::encryption::{Encryption, Settings, refusals};
use backstop_core::trigger::CheckRequested;
use backstop_core::undo::encryptions::{Decision, plan, swap_back};
use backstop_core::undo::{Answer, Answered, Request, opt_out_until};
use backstop_core::volumes::{Instance, Volume};
use jiff::tz::Offset;
use tracing::{info, warn};

use backstop_engine::in_progress;

use super::{Failure, Handler};

impl Handler {
    pub(super) async fn undo_encryption(
        &self,
        request: &Request,
        entry: &Encryption,
        (days, capped): (u32, bool),
        deadline: &Deadline,
    ) -> Result<Answer, Failure> {
        // gather
        let (ec2, kms) = (&self.clients.ec2, &self.encryption.kms);
        let (seen, standing) = tokio::join!(
            volumes::seen(ec2, kms, entry, deadline),
            self.ledger
                .standing(entry.head.control, entry.resource_id()),
        );
        let (seen, standing) = (seen?, standing?);
        let now = self.clients.clock.now();
        if let Some(lock) = &standing.lock {
            if lock.is_live(now) {
                return Ok(in_progress());
            }
            // A run that was cut off goes on first: it may have to start the
            // instance again.
            if let Some(run) = self.ledger.encryption(&lock.entry).await?
                && run.is_open()
            {
                if !request.dry_run {
                    let check = CheckRequested::new(entry.head.control, run.resource_id(), None);
                    bus::request_checks(&self.clients.eventbridge, &[check]).await?;
                }
                return Ok(in_progress());
            }
        }
        // plan
        let today = Offset::UTC.to_datetime(now).date();
        let until = opt_out_until(now, days);
        let held = match capped {
            true => format!("{until} (the policy allows at most {days} days)"),
            false => until.to_string(),
        };
        match plan(entry, seen.instance.as_ref(), &seen.volumes, today) {
            Decision::Nothing(why) => Ok(Answer::new(
                Answered::NothingToUndo,
                format!("nothing was changed: {why}"),
            )),
            Decision::Refused(why) => Ok(Answer::new(
                Answered::Refused,
                format!("it cannot be taken back, so nothing was changed: {why}"),
            )),
            Decision::AsBefore => {
                let by = self.ledger.undone_by(&entry.head.id).await?;
                let by = by.map_or_else(String::new, |id| format!(" The undo {id} put them back."));
                Ok(Answer::new(
                    Answered::AlreadyAsBefore,
                    format!("the original volumes are attached already; nothing was changed.{by}"),
                ))
            }
            Decision::OptOut(originals) if request.dry_run => Ok(Answer::new(
                Answered::WouldUndo,
                format!(
                    "dry run, nothing was changed. {} was never changed, and would be opted out until {held}",
                    ids(&originals)
                ),
            )),
            Decision::OptOut(originals) => {
                self.opt_out(request, entry, &originals, until, deadline)
                    .await?;
                let originals: Vec<&str> = originals.iter().map(|v| v.id.as_str()).collect();
                let copies: Vec<&str> = entry.copies().into_values().collect();
                Ok(Answer::new(
                    Answered::Undone,
                    format!(
                        "{} was never changed, and is opted out until {held}. Its copy {} is left: delete it if it is not needed.",
                        originals.join(", "),
                        copies.join(", ")
                    ),
                ))
            }
            Decision::SwapBack(originals) => {
                let Some(instance) = &seen.instance else {
                    return Ok(in_progress());
                };
                if let Some(why) = self.stop_costs(instance, deadline).await? {
                    return Ok(Answer::new(
                        Answered::Refused,
                        format!(
                            "nothing was changed, because the instance would have to be stopped for it: {why}. Stop it yourself, and ask again."
                        ),
                    ));
                }
                if request.dry_run {
                    return Ok(Answer::new(
                        Answered::WouldUndo,
                        format!(
                            "dry run, nothing was changed. {} would be stopped (if it runs), get its original volumes ({}) back and be started again; the originals would be opted out until {held}",
                            instance.id,
                            ids(&originals)
                        ),
                    ));
                }
                // Before the run begins: or what it puts back would be found
                // and encrypted again.
                self.opt_out(request, entry, &originals, until, deadline)
                    .await?;
                let id = self.clients.clock.new_id();
                let run = swap_back(entry, &id, request, (instance, originals), until, now);
                let holder = self.ledger.run_holder(&run.head.id);
                let begun = self
                    .ledger
                    .begin(&run, &holder, standing.lock.as_ref(), 0)
                    .await?;
                match begun {
                    Begun::Started => {}
                    // No budget is spent, so it cannot be exceeded.
                    Begun::Busy | Begun::Moved | Begun::OverBudget => {
                        return Ok(in_progress());
                    }
                }
                self.start(&run).await?;
                Ok(Answer {
                    undo: Some(run.head.id.clone()),
                    ..Answer::new(
                        Answered::Begun,
                        format!(
                            "{} is stopped (if it runs), gets its original volumes back and is started again; a message tells how that ends. The volumes are as they were when they were replaced; what was written since is on their copies, which are kept. The originals are opted out until {held}; after that they are findings again.",
                            run.resource_id()
                        ),
                    )
                })
            }
        }
    }

    /// What a stop would break or cost, in words; `None`: nothing, or it does not
    /// run.
    async fn stop_costs(
        &self,
        instance: &Instance,
        deadline: &Deadline,
    ) -> Result<Option<String>, Failure> {
        if !instance.is_up() {
            return Ok(None);
        }
        let ec2 = &self.clients.ec2;
        let instance = volumes::with_stop_costs(ec2, instance.clone(), deadline).await?;
        let settings = match self.policy.get(deadline).await {
            Ok(policy) => policy.policy.controls.unencrypted_volume.settings.clone(),
            Err(problem) => {
                warn!(%problem, "the default settings hold");
                Settings::default()
            }
        };
        let why = refusals(Some(&instance), [], true, None, &settings);
        Ok((!why.is_empty()).then(|| why.join("; ")))
    }

    /// Opts the originals out, and takes from them what says that they were
    /// replaced: they are not any more.
    async fn opt_out(
        &self,
        request: &Request,
        entry: &Encryption,
        originals: &[Volume],
        until: jiff::civil::Date,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        let today = Offset::UTC.to_datetime(self.clients.clock.now()).date();
        for volume in originals {
            let value = request.opt_out(entry.head.control, today, until, &volume.tags);
            let ec2 = &self.clients.ec2;
            opt_outs::set(ec2, &volume.id, &value, deadline).await?;
            volumes::mark_undone(ec2, &volume.id, deadline).await?;
        }
        Ok(())
    }

    /// Hands the run to the state machine. Should it fail, the sweep takes it up.
    async fn start(&self, run: &Encryption) -> Result<(), Failure> {
        let (sfn, machine) = (&self.encryption.sfn, &self.state_machine_arn);
        executions::start_run(sfn, &self.ledger, machine, run).await?;
        bus::tell(&self.clients.eventbridge, &run.head.id).await?;
        info!(undo = %run.head.id, resource = %run.head.resource, "swap back begun");
        Ok(())
    }
}

/// The ids of volumes, for people.
fn ids(volumes: &[Volume]) -> String {
    let ids: Vec<&str> = volumes.iter().map(|volume| volume.id.as_str()).collect();
    ids.join(", ")
}
