//! The pipeline of `watch-opt-outs`: parse, read the tags live, ask for a look
//! at what nothing excludes any more, then record, tell and mark.
//!
//! The call only says whose tags to read. The looks come first: what lost its
//! opt-out may be open. Deliberately not here: what a tag means (core), and any
//! change of a resource.

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::invocation::{self, diagnostic};
use backstop_aws::ledger::{Ledger, LedgerError, Recorded};
use backstop_aws::policy_store::{NoPolicy, PolicyStore};
use backstop_aws::settings::WatchSettings;
use backstop_aws::{bus, opt_outs};
use backstop_core::exemption::{self, Exemption, OPT_OUT_TAG, opt_out_tags};
use backstop_core::notice::{About, Notice, OptOutChanged};
use backstop_core::patching::decide::exempt;
use backstop_core::run::VERSION;
use backstop_core::security_group::Tags;
use backstop_core::trigger::{self, BrokenEvent, CheckRequested, TagChange, TagsParsed};
use backstop_core::words::ControlId;
use jiff::Timestamp;
use jiff::tz::Offset;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tracing::{error, info};

/// How often a notice is recorded again after another run recorded one about
/// the same resource meanwhile.
const TRIES: u32 = 4;

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
    #[error("{0}: other runs recorded its opt-out again and again: look again later")]
    Contended(String),
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let retryable = !matches!(failure, Failure::Event(_));
        diagnostic(&failure, retryable)
    }
}

/// The function: its clients, what it keeps between two events, its settings.
pub struct Handler {
    clients: Clients,
    policy: PolicyStore,
    ledger: Ledger,
}

impl Handler {
    /// A handler over these clients.
    #[must_use]
    pub fn new(clients: Clients, settings: WatchSettings) -> Self {
        Self {
            policy: PolicyStore::new(clients.ssm.clone(), settings.policy_parameter),
            ledger: Ledger::new(&clients, settings.ledger_table),
            clients,
        }
    }

    /// Handles one event; what it answers is for people and tests.
    ///
    /// # Errors
    /// Something failed, so that the event has to be delivered again.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        let answer = match trigger::opt_out_tags(&event.payload) {
            Ok(TagsParsed::Changed(change)) => {
                self.look(
                    &change,
                    &invocation::deadline(&event.context, &self.clients.clock),
                )
                .await
            }
            Ok(TagsParsed::Ignored(reason)) => {
                info!(verdict = "ignored", %reason, "event ignored");
                Ok("ignored")
            }
            Err(broken) => Err(broken.into()),
        };
        if let Err(failure) = &answer {
            error!(%failure, "run failed");
        }
        Ok(json!({ "verdict": answer? }))
    }

    async fn look(&self, change: &TagChange, deadline: &Deadline) -> Result<&'static str, Failure> {
        // gather: the tags as they are now
        let (policy, opt_outs) = tokio::join!(
            self.policy.get(deadline),
            opt_outs::read(&self.clients.ec2, &change.resources, deadline),
        );
        let (policy, opt_outs) = (policy?, opt_outs?);
        let none = Tags::new();
        let now = self.clients.clock.now();
        let today = Offset::UTC.to_datetime(now).date();
        let read = |resource: &str, control: ControlId| {
            let tags = opt_outs.get(resource).unwrap_or(&none);
            let rules = &policy.policy.opt_out;
            match ControlId::PATCHING.contains(&control) {
                true => exempt(tags, control, rules, now),
                false => exemption::read(tags, control, today, rules),
            }
        };

        // what nothing on it excludes any more is looked at, now
        let mut asked = Ok(());
        for control in looks() {
            let lost = change.resources.iter().filter(|resource| {
                let mut all = sharing(control);
                all.any(|control| !read(resource, control).holds())
            });
            let lost: Vec<String> = lost.cloned().collect();
            if let Err(failure) = self.request_checks(control, &lost, change, deadline).await {
                asked = Err(failure);
            }
        }

        // told, each once: also when the looks could not be asked for
        let mut told = Ok(0);
        for resource in &change.resources {
            let means: BTreeMap<ControlId, Exemption> = ControlId::ALL
                .iter()
                .filter(|control| control.reads_tags_of(resource))
                .map(|control| (*control, read(resource, *control)))
                .filter(|(_, means)| *means != Exemption::None)
                .collect();
            // Of several tags the one that is to be put right.
            let tags = opt_out_tags(opt_outs.get(resource).unwrap_or(&none));
            let tag = tags.max_by_key(|(key, _)| *key != OPT_OUT_TAG);
            let about = OptOutChanged {
                resource: resource.clone(),
                key: tag
                    .filter(|(key, _)| *key != OPT_OUT_TAG)
                    .map(|(key, _)| key.to_owned()),
                value: tag.map(|(_, value)| value.to_owned()),
                means,
                actor: change.actor.clone(),
            };
            match (self.tell(about, change, now).await, &mut told) {
                (Ok(new), Ok(count)) => *count += usize::from(new),
                (Ok(_), Err(_)) => {}
                (Err(failure), _) => told = Err(failure),
            }
        }
        asked?;
        Ok(if told? == 0 { "known" } else { "told" })
    }

    async fn request_checks(
        &self,
        control: ControlId,
        resources: &[String],
        change: &TagChange,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        if resources.is_empty() {
            return Ok(());
        }
        let concerned: BTreeSet<String> = match control {
            ControlId::OpenIngress => {
                opt_outs::groups_concerned(&self.clients.ec2, resources, deadline).await?
            }
            // The look itself finds the unit that a volume belongs to.
            _ => {
                let tagged = resources.iter();
                let tagged = tagged.filter(|resource| control.reads_tags_of(resource));
                tagged.cloned().collect()
            }
        };
        let checks: Vec<CheckRequested> = concerned
            .into_iter()
            .map(|resource| CheckRequested::new(control, resource, Some(change.actor.clone())))
            .collect();
        bus::request_checks(&self.clients.eventbridge, &checks).await?;
        info!(%control, resources = checks.len(), "checks requested");
        Ok(())
    }

    /// Records and tells what became of one resource's opt-out, unless that
    /// very call has been told. `false`: there was nothing new.
    async fn tell(
        &self,
        about: OptOutChanged,
        change: &TagChange,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let resource = about.resource.clone();
        let gone = about.value.is_none();
        let notice = Notice {
            version: VERSION,
            id: self.clients.clock.new_id(),
            account: change.account.clone(),
            region: change.region.clone(),
            at: now,
            about: About::OptOutChanged(about),
        };
        let topic = notice.about.name();
        // All tags were deleted: that it had an opt-out is known only where it
        // was told when that was set.
        if change.all && gone && !self.ledger.knows_notice(topic, &resource).await? {
            return Ok(false);
        }
        for _ in 0..TRIES {
            let id = match self.ledger.record_notice(&notice).await? {
                Recorded::New => notice.id.clone(),
                Recorded::Untold(id) => id,
                Recorded::Told => return Ok(false),
                Recorded::Moved => continue,
            };
            bus::tell(&self.clients.eventbridge, &id).await?;
            self.ledger.known_told(topic, &resource, &id).await?;
            info!(entry = %id, %resource, gone, "opt-out told");
            return Ok(true);
        }
        Err(Failure::Contended(resource))
    }
}

/// The controls that are asked for a look: of those that share a remediation
/// one, for its look is at the resource as a whole.
fn looks() -> impl Iterator<Item = ControlId> {
    let all = ControlId::ALL.iter().copied();
    all.filter(|control| control.lock_name() == control.name())
}

/// The controls that a look covers.
fn sharing(look: ControlId) -> impl Iterator<Item = ControlId> {
    let all = ControlId::ALL.iter().copied();
    all.filter(move |control| control.lock_name() == look.name())
}

#[cfg(test)]
mod tests;
