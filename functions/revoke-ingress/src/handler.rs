//! The pipeline of `revoke-ingress`, top to bottom: parse, gather, decide
//! (exempt, judge, plan), begin, apply, verify, finish, tell, close, answer.
//!
//! A run handles exactly one security group. Deliberately not here: what is
//! decided (core) and how a call is made (aws).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use backstop_aws::bus;
use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::ledger::{Begun, Closed, Holder, Ledger, LedgerError, Lock, Recorded};
use backstop_aws::metrics::{self, RunMetricsOnDrop};
use backstop_aws::policy_store::{NoPolicy, PolicyStore, Versioned};
use backstop_aws::security_groups::{self, ListUse};
use backstop_aws::settings::RemediationSettings;
use backstop_core::controls::Control;
use backstop_core::controls::open_ingress::{self, About, Decision, Verdict};
use backstop_core::entry::{Entry, Status};
use backstop_core::plan::{Mode, RuleChange, Verification};
use backstop_core::security_group::{Facts, IngressRule};
use backstop_core::trigger::{self, BrokenEvent, CheckRequested, Parsed, Trigger};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tracing::{error, info, warn};
use ulid::Ulid;

const CONTROL: Control = Control::OpenIngress;

/// Rounds of one run: the first, and more for what others change meanwhile.
const MOST_ROUNDS: usize = 4;
/// Reads of the group after a change, while it still shows the old state.
const MOST_READS: u32 = 4;
/// Pause before the group is read again.
const READ_PAUSE: Duration = Duration::from_millis(300);

/// Everything that makes a run fail, so that Lambda tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Event(#[from] BrokenEvent),
    #[error(transparent)]
    Policy(#[from] NoPolicy),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("the prefix list {0} is still being modified ({1}): look again later")]
    ListBeingModified(String, String),
    #[error("{0}: the lock changed hands again and again: look again later")]
    Contended(String),
    #[error("{resource}: not remediated (entry {entry}): {what}")]
    NotRemediated {
        resource: String,
        entry: String,
        what: String,
    },
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_));
        Self {
            error_type: if retryable {
                "Retryable"
            } else {
                "NonRetryable"
            }
            .to_owned(),
            error_message: failure.to_string(),
        }
    }
}

/// How a look at a group ended.
enum Looked {
    Done(&'static str),
    Again,
}

/// What a run reads before it decides.
struct Gathered {
    facts: Facts,
    policy: Versioned,
    lock: Option<Lock>,
}

pub(crate) struct Handler {
    clients: Clients,
    policy: PolicyStore,
    ledger: Ledger,
    settings: RemediationSettings,
}

impl Handler {
    pub(crate) fn new(clients: Clients, settings: RemediationSettings) -> Self {
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), settings.policy_parameter.clone()),
            ledger: Ledger::new(clients.dynamodb.clone(), settings.ledger_table.clone()),
            clients,
            settings,
        }
    }

    pub(crate) async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Failure> {
        let left = event
            .context
            .deadline()
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let deadline = Deadline::new(left);
        let holder = Holder {
            id: event.context.request_id.clone(),
            // A little later than Lambda would end this invocation.
            lease_until: Timestamp::now() + left + Duration::from_secs(2),
        };
        let answer = match trigger::ingress(&event.payload) {
            Ok(Parsed::Ignored(reason)) => {
                info!(verdict = "ignored", %reason, "event ignored");
                Ok("ignored")
            }
            Ok(Parsed::Expand(trigger)) => self.expand(&trigger, &deadline).await,
            Ok(Parsed::Check(trigger)) => self.check(&trigger, &holder, &deadline).await,
            Err(broken) => Err(broken.into()),
        };
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        answer.map(|verdict| json!({ "verdict": verdict }))
    }

    /// A prefix list has changed: asks for a look at every group that names it.
    async fn expand(
        &self,
        trigger: &Trigger,
        deadline: &Deadline,
    ) -> Result<&'static str, Failure> {
        let list = &trigger.resource;
        match security_groups::groups_naming(&self.clients.ec2, list, deadline).await? {
            ListUse::Gone => Ok("gone"),
            ListUse::BeingModified(state) => Err(Failure::ListBeingModified(list.clone(), state)),
            ListUse::NamedBy(groups) => {
                let checks: Vec<CheckRequested> = groups
                    .into_iter()
                    .map(|resource| CheckRequested {
                        control: CONTROL.name().to_owned(),
                        resource,
                        cause: Some(trigger.actor.clone()),
                    })
                    .collect();
                bus::request_checks(&self.clients.eventbridge, &checks).await?;
                info!(resource = %list, groups = checks.len(), "checks requested");
                Ok("expanded")
            }
        }
    }

    /// Looks at one group, and again where another run asked for it.
    async fn check(
        &self,
        trigger: &Trigger,
        holder: &Holder,
        deadline: &Deadline,
    ) -> Result<&'static str, Failure> {
        for _ in 0..MOST_ROUNDS {
            match self.look(trigger, holder, deadline).await? {
                Looked::Done(verdict) => return Ok(verdict),
                Looked::Again => info!(resource = %trigger.resource, "looking again"),
            }
        }
        Err(Failure::Contended(trigger.resource.clone()))
    }

    async fn look(
        &self,
        trigger: &Trigger,
        holder: &Holder,
        deadline: &Deadline,
    ) -> Result<Looked, Failure> {
        let mut counted = metrics::run(CONTROL.name());
        let looked = self
            .look_counted(trigger, holder, deadline, &mut counted)
            .await;
        if looked.is_err() {
            counted.failures = 1;
            // Whatever failed, the retry must not find our own lock in its way.
            let released = self
                .ledger
                .release(CONTROL.name(), &trigger.resource, holder)
                .await;
            if let Err(error) = released {
                warn!(%error, "the lock could not be released; its lease lapses by itself");
            }
        }
        looked
    }

    async fn look_counted(
        &self,
        trigger: &Trigger,
        holder: &Holder,
        deadline: &Deadline,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        // gather: one parallel round (a second for prefix lists)
        let Gathered {
            facts,
            policy,
            lock,
        } = self.gather(trigger, deadline).await?;

        // decide: exempt, judge, plan
        let now = Timestamp::now();
        let control = &policy.policy.controls.open_ingress;
        let mode = control.mode.unwrap_or(self.settings.mode);
        let decision = self.decide(&facts, &policy, trigger, now);
        log_decision(trigger, &decision, mode);
        if matches!(decision.verdict, Verdict::Violates(_)) {
            counted.findings = 1;
        }
        if mode == Mode::Off {
            return Ok(Looked::Done("off"));
        }
        let id = Ulid::generate().to_string();
        let about = About {
            id: &id,
            trigger,
            owner_tag: &self.settings.owner_tag_key,
            policy_version: policy.version,
            now,
        };
        let found = open_ingress::entry(&facts, &decision, about);

        // what is planned now; the entry may hold what was done before
        let changes = found
            .as_ref()
            .map(|entry| entry.plan.changes.clone())
            .unwrap_or_default();
        // a run that was cut off goes on with its own entry
        let lapsed = lock
            .as_ref()
            .filter(|lock| !lock.is_live_for_others(&holder.id, now));
        let open = match lapsed {
            Some(lock) => self.open_entry(lock, holder, trigger).await?,
            None => None,
        };
        let entry = match (open, found) {
            (None, None) => return Ok(Looked::Done("nothing to do")),
            (None, Some(entry)) if !entry.plan.changes_something() => {
                return self.record(entry).await;
            }
            (None, Some(entry)) => entry,
            (Some(entry), None) => {
                return self
                    .wind_up(entry, lapsed, &facts, &decision, holder, trigger, counted)
                    .await;
            }
            (Some(mut entry), Some(found)) => {
                entry.attempts += 1;
                open_ingress::settle(&mut entry, &facts, &decision);
                entry.go_on(&found);
                if !entry.plan.changes_something() {
                    return self
                        .wind_up(entry, lapsed, &facts, &decision, holder, trigger, counted)
                        .await;
                }
                entry
            }
        };

        // begin: the lock, `before` and the budget, in one transaction
        let begun = if entry.attempts == 1 {
            self.ledger.begin(&entry, holder, lapsed).await
        } else {
            self.ledger.go_on(&entry, holder, lapsed).await
        };
        match begun {
            Ok(Begun::Started) => {}
            Ok(Begun::Busy) => return Ok(Looked::Done("another run will look again")),
            Ok(Begun::Moved) => return Ok(Looked::Again),
            Err(LedgerError::TooLarge(bytes)) => return self.record(entry.too_large(bytes)).await,
            Err(error) => return Err(error.into()),
        }

        // apply, verify: again while others change the group meanwhile
        let (entry, facts) = self
            .remediate(entry, changes, facts, &policy, trigger, holder, deadline)
            .await?;

        self.finish(entry, &facts, holder, trigger, counted).await
    }

    async fn gather(&self, trigger: &Trigger, deadline: &Deadline) -> Result<Gathered, Failure> {
        let (policy, lock, facts) = tokio::join!(
            self.policy.get(deadline),
            self.ledger.lock(CONTROL.name(), &trigger.resource),
            security_groups::gather(
                &self.clients.ec2,
                &trigger.resource,
                &trigger.region,
                deadline
            ),
        );
        Ok(Gathered {
            policy: policy?,
            lock: lock?,
            facts: facts?,
        })
    }

    fn decide(
        &self,
        facts: &Facts,
        policy: &Versioned,
        trigger: &Trigger,
        now: Timestamp,
    ) -> Decision {
        let today = jiff::tz::Offset::UTC.to_datetime(now).date();
        open_ingress::decide(
            facts,
            &policy.policy,
            self.settings.mode,
            &trigger.account,
            today,
        )
    }

    /// The entry that a lapsed lock, or one of our own earlier attempt, left
    /// open: one that was cut off, or one of this very invocation or event.
    /// Another event's that failed and was told is history.
    async fn open_entry(
        &self,
        lock: &Lock,
        holder: &Holder,
        trigger: &Trigger,
    ) -> Result<Option<Entry>, Failure> {
        let entry = self.ledger.read(&lock.entry).await?;
        Ok(entry.filter(|entry| {
            entry.status == Status::InProgress
                || lock.holder == holder.id
                || entry.actor.event_id == trigger.actor.event_id
        }))
    }

    /// Changes the group and reads it again, until nothing is left to do.
    async fn remediate(
        &self,
        mut entry: Entry,
        mut changes: Vec<RuleChange>,
        mut facts: Facts,
        policy: &Versioned,
        trigger: &Trigger,
        holder: &Holder,
        deadline: &Deadline,
    ) -> Result<(Entry, Facts), Failure> {
        let mut found = rules(&facts);
        for round in 1.. {
            let outcomes =
                security_groups::apply(&self.clients.ec2, &trigger.resource, &changes, deadline)
                    .await;
            for outcome in &outcomes {
                info!(
                    entry = %entry.id, resource = %trigger.resource, rule = %outcome.rule,
                    step = ?outcome.step, ending = %outcome.ending, "step"
                );
            }
            entry.outcomes.extend(outcomes);

            let Some((now, decision)) = self
                .verify(&mut entry, &found, policy, trigger, deadline)
                .await
            else {
                break;
            };
            facts = now;
            if round == MOST_ROUNDS || !open_ingress::has_news(&entry, decision.plan.as_ref()) {
                break;
            }
            // Somebody opened more meanwhile: stored first, then treated in
            // the same round.
            let id = entry.id.clone();
            let about = About {
                id: &id,
                trigger,
                owner_tag: &self.settings.owner_tag_key,
                policy_version: policy.version,
                now: entry.started_at,
            };
            let Some(more) = open_ingress::entry(&facts, &decision, about) else {
                break;
            };
            changes.clone_from(&more.plan.changes);
            entry.go_on(&more);
            match self.ledger.go_on(&entry, holder, None).await? {
                Begun::Started => {}
                Begun::Busy | Begun::Moved => {
                    return Err(Failure::Contended(trigger.resource.clone()));
                }
            }
            found = rules(&facts);
        }
        Ok((entry, facts))
    }

    /// Reads the group again and holds it against the plan. A read that still
    /// shows the old state is repeated: EC2's reads may lag behind its writes.
    async fn verify(
        &self,
        entry: &mut Entry,
        found: &BTreeMap<String, IngressRule>,
        policy: &Versioned,
        trigger: &Trigger,
        deadline: &Deadline,
    ) -> Option<(Facts, Decision)> {
        let failed = entry.last_outcomes().iter().any(|outcome| outcome.failed());
        for read in 1..=MOST_READS {
            let facts = security_groups::gather(
                &self.clients.ec2,
                &trigger.resource,
                &trigger.region,
                deadline,
            )
            .await;
            let facts = match facts {
                Ok(facts) => facts,
                Err(error) => {
                    entry.verification = Some(Verification {
                        unread: Some(format!("the group could not be read again: {error}")),
                        ..Verification::default()
                    });
                    return None;
                }
            };
            let decision = self.decide(&facts, policy, trigger, Timestamp::now());
            let verification = open_ingress::verify(entry, found, &facts, &decision);
            let settled = failed
                || verification.passed()
                || open_ingress::has_news(entry, decision.plan.as_ref())
                || read == MOST_READS;
            entry.verification = Some(verification);
            if settled {
                return Some((facts, decision));
            }
            tokio::time::sleep(READ_PAUSE * read).await;
        }
        None
    }

    /// An entry whose run was cut off, and nothing is left to change: says
    /// what came of it.
    async fn wind_up(
        &self,
        mut entry: Entry,
        lapsed: Option<&Lock>,
        facts: &Facts,
        decision: &Decision,
        holder: &Holder,
        trigger: &Trigger,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        open_ingress::settle(&mut entry, facts, decision);
        if matches!(entry.status, Status::InProgress | Status::Failed) {
            entry.verification = Some(open_ingress::verify(&entry, &entry.before, facts, decision));
        }
        // The lock is ours again before anything else is written.
        match self.ledger.go_on(&entry, holder, lapsed).await? {
            Begun::Started => self.finish(entry, facts, holder, trigger, counted).await,
            Begun::Busy => Ok(Looked::Done("another run will look again")),
            Begun::Moved => Ok(Looked::Again),
        }
    }

    /// finish, tell, close, answer.
    async fn finish(
        &self,
        mut entry: Entry,
        facts: &Facts,
        holder: &Holder,
        trigger: &Trigger,
        counted: &mut RunMetricsOnDrop,
    ) -> Result<Looked, Failure> {
        entry.conclude(&rules(facts), Timestamp::now());
        self.ledger.finish(&entry).await?;
        bus::tell(&self.clients.eventbridge, &entry.id).await?;
        let failed = entry.status == Status::Failed;
        let closed = self.ledger.close(&entry, holder, failed).await?;
        info!(
            entry = %entry.id, resource = %trigger.resource, control = %CONTROL,
            outcome = entry.status.name(), attempts = entry.attempts, "run closed"
        );
        if failed {
            return Err(Failure::NotRemediated {
                resource: entry.resource.clone(),
                entry: entry.id.clone(),
                what: entry.problems().join("; "),
            });
        }
        if entry.status == Status::Remediated {
            counted.remediations = 1;
            counted.time_to_closed = trigger
                .actor
                .event_time
                .zip(entry.finished_at)
                .and_then(|(from, to)| Duration::try_from(to - from).ok());
        }
        Ok(match closed {
            Closed::Done => Looked::Done(entry.status.name()),
            Closed::LookAgain => Looked::Again,
        })
    }

    /// Records and tells what was found and not changed, once.
    async fn record(&self, mut entry: Entry) -> Result<Looked, Failure> {
        entry.finished_at = Some(entry.started_at);
        let outcome = entry.status.name();
        let entry = match self.ledger.record(&entry).await? {
            Recorded::New => entry,
            Recorded::Untold(id) => Entry { id, ..entry },
            Recorded::Known => {
                info!(resource = %entry.resource, outcome, "known and told");
                return Ok(Looked::Done("known"));
            }
        };
        bus::tell(&self.clients.eventbridge, &entry.id).await?;
        self.ledger.recorded_told(&entry).await?;
        info!(entry = %entry.id, resource = %entry.resource, control = %CONTROL, outcome, "recorded");
        if entry.status == Status::Failed {
            warn!(entry = %entry.id, "nothing was changed");
        }
        Ok(Looked::Done(outcome))
    }
}

fn rules(facts: &Facts) -> BTreeMap<String, IngressRule> {
    match facts {
        Facts::Gone => BTreeMap::new(),
        Facts::Group(group) => group.rules.clone(),
    }
}

fn log_decision(trigger: &Trigger, decision: &Decision, mode: Mode) {
    let (verdict, exposures) = match &decision.verdict {
        Verdict::NotApplicable(_) => ("not-applicable", 0),
        Verdict::Compliant => ("compliant", 0),
        Verdict::Violates(finding) => ("violates", finding.exposures.len()),
    };
    info!(
        resource = %trigger.resource,
        event = trigger.actor.event_id.as_deref().unwrap_or("-"),
        control = %CONTROL,
        verdict,
        exposures,
        changes = decision.plan.as_ref().map_or(0, |plan| plan.changes.len()),
        disposition = ?decision.plan.as_ref().map(|plan| &plan.disposition),
        ?mode,
        "decided"
    );
}

#[cfg(test)]
mod tests;
