//! Undoes a remediation that was made at once, for any control: gather, plan,
//! begin, apply, verify, finish, tell, close, answer.
//!
//! A reason to change nothing is an answer in words; a failure is an error. The
//! kill switch does not stop an undo. The opt-out goes first: on the item if items
//! have tags, else on the resource; an account's setting has to be exempt in the
//! policy. Deliberately not here: what is decided (core).

use std::collections::BTreeMap;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::ledger::{Begun, Closed, Holder, Ledger, LedgerError, Lock, Stored};
use backstop_aws::policy_store::{NoPolicy, PolicyStore};
use backstop_aws::remediation::{Place, Remediation};
use backstop_aws::{bus, opt_outs};
use backstop_core::decide::{self, Circumstances};
use backstop_core::entry::Entry;
use backstop_core::exemption::{Exemption, OPT_OUT_TAG};
use backstop_core::guards::Guards;
use backstop_core::info::{OptOutOn, Reversal};
use backstop_core::plan::{Ending, ItemId, Outcome, Step};
use backstop_core::record::Record;
use backstop_core::run::VERSION;
use backstop_core::trigger::CheckRequested;
use backstop_core::undo::{
    self, Act, Answer, Answered, Decision, ItemStates, Request, Undo, UndoStatus,
};
use backstop_core::words::Mode;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use serde_json::Value;
use tracing::{info, warn};

/// How often a lock that changes hands is looked at again.
const MOST_LOOKS: usize = 4;

/// Everything that makes an undo fail.
#[derive(Debug, thiserror::Error)]
pub enum UndoFailure {
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An entry's states are not of the control's type.
    #[error("the ledger entry `{0}` cannot be read: {1}")]
    Unreadable(String, serde_json::Error),
    /// A call failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// There is no valid policy, and the undo needs its exemption.
    #[error(transparent)]
    Policy(#[from] NoPolicy),
    /// Other runs kept taking the lock.
    #[error("{0}: the lock changed hands again and again: ask again later")]
    Contended(String),
    /// Something failed.
    #[error(
        "{resource}: not, or not wholly, taken back (undo {undo}): {what}; ask again once the cause is gone, what is done already is recognised"
    )]
    NotUndone {
        /// ARN of the resource.
        resource: String,
        /// The undo's id.
        undo: String,
        /// What failed.
        what: String,
    },
}

/// What stays the same over an undo.
pub struct Undoing<'a> {
    /// The clients.
    pub clients: &'a Clients,
    /// The ledger.
    pub ledger: &'a Ledger,
    /// The policy.
    pub policy: &'a PolicyStore,
    /// Who holds locks.
    pub holder: &'a Holder,
    /// By when reads and changes must have ended.
    pub deadline: &'a Deadline,
    /// What is asked for.
    pub request: &'a Request,
    /// For how many days what is restored is opted out, and whether the policy
    /// shortened that.
    pub days: (u32, bool),
}

/// The answer while another run is at work on the resource.
#[must_use]
pub fn in_progress() -> Answer {
    Answer::new(
        Answered::InProgress,
        "a run is at work on the resource; ask again in a minute",
    )
}

impl Undoing<'_> {
    /// Undoes a remediation.
    ///
    /// # Errors
    /// Something failed; asked again, it resumes.
    pub(crate) async fn undo<R: Remediation>(&self, entry: &Entry) -> Result<Answer, UndoFailure> {
        if let Reversal::No(why) = R::INFO.reversal {
            return Ok(Answer::new(
                Answered::NothingToUndo,
                format!("it cannot be taken back: {why}"),
            ));
        }
        let entry = entry
            .typed()
            .map_err(|error| UndoFailure::Unreadable(entry.head.id.clone(), error))?;
        for _ in 0..MOST_LOOKS {
            if let Some(answer) = self.look::<R>(&entry).await? {
                return Ok(answer);
            }
        }
        Err(UndoFailure::Contended(entry.head.resource.clone()))
    }

    fn place<'b>(&'b self, entry: &'b Entry<impl Sized>) -> Place<'b> {
        Place {
            account: &entry.head.account,
            region: &entry.head.region,
            deadline: self.deadline,
        }
    }

    /// One look at the resource; `None`: the lock changed hands, look again.
    async fn look<R: Remediation>(
        &self,
        entry: &Entry<R::State>,
    ) -> Result<Option<Answer>, UndoFailure> {
        let resource = entry.resource_id();
        // gather
        let (facts, standing) = tokio::join!(
            R::gather(self.clients, self.place(entry), resource),
            self.ledger.standing(R::INFO.id, resource),
        );
        let (facts, standing) = (facts?, standing?);
        let now = self.clients.clock.now();
        let lapsed = match &standing.lock {
            Some(lock) if lock.is_live_for_others(&self.holder.id, now) => {
                return Ok(Some(in_progress()));
            }
            lapsed => lapsed.as_ref(),
        };
        let items = facts.as_ref().map(R::items);
        if let Some(answer) = undo::too_early(entry, items.as_ref(), now) {
            return Ok(Some(answer));
        }
        let unfinished = match lapsed {
            Some(lock) => self.unfinished(lock, &entry.head.id).await?,
            None => None,
        };
        // plan
        let (states, restores) = match undo::plan::<R>(entry, items.as_ref()) {
            Decision::Nothing(why) => {
                return Ok(Some(Answer::new(
                    Answered::NothingToUndo,
                    format!("nothing was changed: {why}"),
                )));
            }
            // Nothing is left to do but to record and tell it.
            Decision::AsBefore(states) if unfinished.is_some() => (states, false),
            Decision::AsBefore(states) => {
                let undone_by = self.ledger.undone_by(&entry.head.id).await?;
                return Ok(Some(Answer::as_before::<R>(&states, undone_by.as_deref())));
            }
            Decision::Refused(states) => return Ok(Some(Answer::refused::<R>(&states))),
            Decision::Restore(states) => (states, true),
        };
        if restores && let Some(why) = facts.as_ref().and_then(R::bars_undo) {
            let refusal = format!("nothing was changed: {why}");
            return Ok(Some(Answer::new(Answered::Refused, refusal)));
        }
        if R::INFO.opt_out_on == OptOutOn::Policy
            && let Some(refusal) = self
                .needs_exemption::<R>(facts.as_ref(), entry, now)
                .await?
        {
            return Ok(Some(refusal));
        }
        if self.request.dry_run {
            return Ok(Some(Answer::would_undo::<R>(&states)));
        }
        let fresh = self.record::<R>(entry, &states, now);
        let undo = match &unfinished {
            Some(unfinished) => fresh.resuming(unfinished),
            None => fresh,
        };
        self.carry_out::<R>(entry, undo, states, lapsed).await
    }

    /// An account has no tags: without an exemption in the policy, what is
    /// restored would be remediated again at once.
    async fn needs_exemption<R: Remediation>(
        &self,
        facts: Option<&R::Facts>,
        entry: &Entry<R::State>,
        now: Timestamp,
    ) -> Result<Option<Answer>, UndoFailure> {
        let policy = self.policy.get(self.deadline).await?;
        let at = Circumstances {
            mode: Mode::Enforce,
            account: &entry.head.account,
            now,
            guards: &Guards::default(),
        };
        let rules = R::rules(&policy.policy);
        let exempt = facts.map(|facts| decide::exempt::<R>(facts, &rules, &at).resource);
        if matches!(exempt, Some(Exemption::Exempt(_))) {
            return Ok(None);
        }
        let control = R::INFO.id;
        let until = undo::opt_out_until(now, self.days.0);
        let owner = self.request.by.as_deref().unwrap_or("your-team");
        Ok(Some(Answer::new(
            Answered::Refused,
            format!(
                "nothing was changed: an account has no tags, so what is put back would be remediated again at once. Exempt it first: set `controls.{control}.settings.exemption` of the policy to {{\"until\": \"{until}\", \"owner\": {owner:?}}}, and ask again"
            ),
        )))
    }

    /// An earlier undo of the same entry that left the lapsed lock: it was cut off,
    /// it failed, or people were not notified. It resumes under its own id.
    async fn unfinished(&self, lock: &Lock, entry: &str) -> Result<Option<Undo>, UndoFailure> {
        Ok(match self.ledger.read(&lock.entry).await? {
            Some(Stored {
                record: Record::Undo(undo),
                told,
            }) if undo.undoes == entry && (!told || undo.status == UndoStatus::UndoFailed) => {
                Some(*undo)
            }
            _ => None,
        })
    }

    /// begin, apply, verify, finish, tell, close, answer.
    async fn carry_out<R: Remediation>(
        &self,
        entry: &Entry<R::State>,
        mut undo: Undo,
        states: Vec<ItemStates<R::State>>,
        lapsed: Option<&Lock>,
    ) -> Result<Option<Answer>, UndoFailure> {
        let begun = if undo.attempts == 1 {
            self.ledger.begin(&undo, self.holder, lapsed, 0).await
        } else {
            self.ledger.go_on(&undo, self.holder, lapsed, 0, 0).await
        };
        match begun? {
            Begun::Started => {}
            Begun::Busy => return Ok(Some(in_progress())),
            // No budget is spent, so it cannot be exceeded.
            Begun::Moved | Begun::OverBudget => return Ok(None),
        }
        let done = self.restore::<R>(entry, &mut undo, &states).await;
        if let Err(failure) = &done {
            warn!(%failure, "the undo could not be recorded");
            // The next attempt must not find our own lock in its way.
            if let Err(error) = self
                .ledger
                .release(undo.control.lock_name(), undo.resource_id(), self.holder)
                .await
            {
                warn!(%error, "the lock could not be released; its lease lapses by itself");
            }
        }
        done?;
        if undo.status == UndoStatus::UndoFailed {
            return Err(UndoFailure::NotUndone {
                resource: undo.resource.clone(),
                undo: undo.id.clone(),
                what: undo.problems.join("; "),
            });
        }
        Ok(Some(Answer::undone::<R>(&undo, &states, self.days)))
    }

    async fn restore<R: Remediation>(
        &self,
        entry: &Entry<R::State>,
        undo: &mut Undo,
        states: &[ItemStates<R::State>],
    ) -> Result<(), UndoFailure> {
        let (place, resource) = (self.place(entry), entry.resource_id());
        // apply
        let until = undo.opt_out_until;
        let today = Offset::UTC.to_datetime(self.clients.clock.now()).date();
        let outcomes = match self
            .opt_out_resource::<R>(entry, states, until, today)
            .await
        {
            Err(outcome) => vec![outcome],
            Ok(tagged) => {
                let opt_out = |state: &R::State| {
                    let none = BTreeMap::new();
                    let tags = R::item_tags(state).unwrap_or(&none);
                    self.request.opt_out(R::INFO.id, today, until, tags)
                };
                let restored = R::restore(self.clients, place, resource, states, &opt_out);
                tagged.into_iter().chain(restored.await).collect()
            }
        };
        for outcome in &outcomes {
            info!(undo = %undo.id, resource, item = %outcome.item, step = ?outcome.step, ending = %outcome.ending, "step");
        }
        let tagged = |outcome: &Outcome| outcome.step == Step::Tag && !outcome.failed();
        let left_tagged = R::INFO.opt_out_on == OptOutOn::Resource
            && outcomes.iter().any(tagged)
            && outcomes.iter().any(Outcome::failed);
        undo.add_attempt(outcomes);
        // verify
        let mut problems = match R::gather(self.clients, place, resource).await {
            Ok(facts) => {
                let now = facts.as_ref().map(R::items).unwrap_or_default();
                let shown = undo::shown::<R>(states, &now, &undo.outcomes);
                undo.keep_done(Some(&undo::back::<R>(states, &shown, &now)));
                undo::verify::<R>(&shown, &now, today)
            }
            Err(error) => {
                undo.keep_done(None);
                let what = R::INFO.phrases.resource;
                vec![format!("the {what} could not be read again: {error}")]
            }
        };
        if left_tagged {
            problems.push(format!(
                "{resource} is opted out until {until} all the same: remove the tag {OPT_OUT_TAG}, unless you ask again"
            ));
        }
        undo.conclude(problems, self.clients.clock.now());
        // finish, tell, close
        self.ledger.finish(undo).await?;
        let failed = undo.status == UndoStatus::UndoFailed;
        if !failed {
            self.ledger.note_undone(&undo.undoes, &undo.id).await?;
        }
        bus::tell(&self.clients.eventbridge, &undo.id).await?;
        let closed = self.ledger.close(undo, self.holder, failed, None).await?;
        if closed == Closed::LookAgain {
            // A remediation met our lock and left its look to us.
            let check = CheckRequested::new(undo.control.lock_owner(), resource, None);
            bus::request_checks(&self.clients.eventbridge, &[check]).await?;
        }
        Ok(())
    }

    /// Opts the resource out before anything is restored, where the opt-out stands
    /// on the resource. `Err`: the tag could not be set, so nothing may be restored.
    async fn opt_out_resource<R: Remediation>(
        &self,
        entry: &Entry<R::State>,
        states: &[ItemStates<R::State>],
        until: Date,
        today: Date,
    ) -> Result<Option<Outcome>, Outcome> {
        let puts_back = |state: &ItemStates<R::State>| {
            matches!(state.act, Act::Authorise | Act::Widen)
                && state.now != Some(state.before.clone())
        };
        let Some(first) = states.iter().find(|state| puts_back(state)) else {
            return Ok(None);
        };
        if R::INFO.opt_out_on != OptOutOn::Resource {
            return Ok(None);
        }
        let tagged = |ending: Ending| Outcome {
            round: 1,
            item: first.item.clone(),
            step: Step::Tag,
            permission: None,
            created: None,
            without: None,
            ending,
        };
        let resource = entry.resource_id();
        // The tags as they are now: somebody may have opted it out since.
        let facts = R::gather(self.clients, self.place(entry), resource).await;
        let answer = match facts {
            Ok(facts) => {
                let tags = facts.as_ref().map(|facts| R::subject(facts).tags.clone());
                let tags = tags.unwrap_or_default();
                let value = self.request.opt_out(R::INFO.id, today, until, &tags);
                opt_outs::set(&self.clients.ec2, resource, &value, self.deadline).await
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => Ok(Some(tagged(Ending::Done))),
            Err(error) => Err(tagged(error.ending())),
        }
    }

    fn record<R: Remediation>(
        &self,
        entry: &Entry<R::State>,
        states: &[ItemStates<R::State>],
        now: Timestamp,
    ) -> Undo {
        let mut before: BTreeMap<ItemId, Value> = BTreeMap::new();
        let mut keep = |item: &str, state: &R::State| {
            if let Ok(state) = serde_json::to_value(state) {
                before.insert(item.to_owned(), state);
            }
        };
        for state in states {
            if let Some(now) = &state.now {
                keep(&state.item, now);
            }
            for (id, added) in &state.added {
                keep(id, added);
            }
        }
        let head = &entry.head;
        Undo {
            version: VERSION,
            id: self.clients.clock.new_id(),
            undoes: head.id.clone(),
            control: head.control,
            resource: head.resource.clone(),
            resource_name: head.resource_name.clone(),
            account: head.account.clone(),
            region: head.region.clone(),
            team: head.team.clone(),
            status: UndoStatus::UndoInProgress,
            reason: self.request.reason.clone(),
            by: self.request.by.clone(),
            opt_out_until: undo::opt_out_until(now, self.days.0),
            restored: states.iter().map(ItemStates::restored::<R>).collect(),
            planned: states.iter().filter_map(ItemStates::planned::<R>).collect(),
            before,
            outcomes: Vec::new(),
            problems: Vec::new(),
            attempts: 1,
            started_at: now,
            finished_at: None,
        }
    }
}
