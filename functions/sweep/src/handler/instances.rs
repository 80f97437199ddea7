//! The sweep over running instances: which want a look of `patch-instance`.
//!
//! It takes up what waited for a maintenance window or for its age, and meets
//! what no event told of: instances that were never scanned, or that Systems
//! Manager does not manage.

use std::collections::{BTreeMap, BTreeSet};

use backstop_aws::ledger::Standing;
use backstop_aws::policy_store::Versioned;
use backstop_aws::{instance_pages, patching};
use backstop_core::guards::Guards;
use backstop_core::notice::Digest;
use backstop_core::patching::decide::{self, Circumstances, decide, exempt};
use backstop_core::patching::{Host, PatchFacts};
use backstop_core::sweep;
use backstop_core::sweep::patching::{page_key, reason};
use backstop_core::words::{ControlId, Mode};

use backstop_engine::{Baseline, ask, check};

use super::{Failure, Handler, Place};

/// The baseline of each control that keeps one.
type Baselines = BTreeMap<ControlId, Baseline>;

impl Handler {
    /// Looks at every running instance.
    pub(super) async fn walk_instances(
        &self,
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) {
        let mode_of = |control: ControlId| policy.policy.controls.mode(control);
        let is_on =
            |control: ControlId| mode_of(control).unwrap_or(self.settings.mode) != Mode::Off;
        let mut baselines = Baselines::new();
        for control in [ControlId::VulnerablePackage, ControlId::MissingPatches] {
            match self.baseline_of(control, mode_of(control), digest).await {
                Some(baseline) => baselines.insert(control, baseline),
                // Nothing to go by, which has been said.
                None if is_on(control) => return,
                None => None,
            };
        }
        let on: Vec<ControlId> = ControlId::PATCHING
            .iter()
            .copied()
            .filter(|control| is_on(*control))
            .collect();
        if on.is_empty() {
            return;
        }
        let mut problems: Vec<String> = Vec::new();
        let walked = instance_pages::walk(&self.clients.ec2, &place.deadline, async |page| {
            for control in &on {
                *digest.looked_at.entry(*control).or_default() += page.len() as u64;
            }
            let looked = self
                .look_at_instances(page, &baselines, place, policy, digest)
                .await;
            problems.extend(looked.err().map(|failure| format!("instances: {failure}")));
        })
        .await;
        problems.extend(walked.err().map(|stopped| stopped.to_string()));
        problems.dedup();
        if problems.is_empty() {
            for (control, baseline) in &baselines {
                if *baseline == Baseline::Begins {
                    let noted = self.ledger.baseline_is_complete(*control).await;
                    problems.extend(noted.err().map(|problem| problem.to_string()));
                }
            }
        }
        digest.unseen.extend(problems);
    }

    async fn look_at_instances(
        &self,
        page: Vec<Host>,
        baselines: &Baselines,
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) -> Result<(), Failure> {
        let ids: Vec<String> = page.iter().map(|host| host.id.clone()).collect();
        let (ssm, deadline) = (&self.clients.ssm, &place.deadline);
        let (agents, states, reports) = tokio::join!(
            patching::agents(ssm, &ids, deadline),
            patching::states(ssm, &ids, deadline),
            self.ledger.reports(&ids),
        );
        let (mut agents, mut states, mut reports) = (agents?, states?, reports?);
        let mut standings: BTreeMap<&str, BTreeMap<ControlId, Standing>> = BTreeMap::new();
        for control in ControlId::PATCHING {
            let of = self.ledger.standings(*control, &ids).await?;
            for (id, standing) in ids.iter().zip(of) {
                standings.entry(id).or_default().insert(*control, standing);
            }
        }
        let mut checks = Vec::new();
        for host in page {
            let id = host.id.clone();
            let mut of = standings.remove(id.as_str()).unwrap_or_default();
            let reports = reports.remove(&id).unwrap_or_default();
            let facts = PatchFacts {
                agent: agents.remove(&id),
                state: states.remove(&id),
                findings: reports.active.into_values().collect(),
                unpatchable: reports.unpatchable,
                host: Some(host),
                ..PatchFacts::default()
            };
            self.keep_baselines(&facts, &mut of, baselines, place, policy)
                .await?;
            let guards: BTreeMap<ControlId, Guards> = of
                .iter()
                .map(|(control, standing)| (*control, standing.guards.clone()))
                .collect();
            let circumstances = Circumstances {
                mode: self.settings.mode,
                now: place.now,
                guards: &guards,
            };
            let decision = decide(&facts, &policy.policy.patching(), &circumstances);
            // Its run was cut off, or ended and was cut off before it let go.
            let silent = of.values().any(|standing| {
                let lock = standing.lock.as_ref();
                lock.is_some_and(|lock| !lock.is_live(place.now))
            });
            let Some(control) = decision.control() else {
                // What is known of it holds no more.
                if silent || of.values().any(|standing| standing.known.is_some()) {
                    checks.push(check(ControlId::MissingPatches, &id));
                }
                continue;
            };
            let Some(Standing { lock, known, .. }) = of.remove(&control) else {
                continue;
            };
            let why = match &lock {
                Some(_) => "being patched",
                None => reason(known.as_ref().and_then(|known| known.status.as_deref())),
            };
            let by_reason = digest.open.entry(control).or_default();
            sweep::count(by_reason.entry(why.to_owned()).or_default(), &id);
            if lock.is_some() {
                // The end of a command is asked for with all that is untold.
                if silent {
                    checks.push(check(control, &id));
                }
                continue;
            }
            if known.is_none() {
                sweep::count(&mut digest.met_first, &id);
            }
            let now = page_key(
                &facts,
                &policy.policy,
                self.settings.mode,
                &guards,
                place.now,
            );
            let told = known
                .filter(|known| known.told)
                .and_then(|known| known.page_key);
            if told.as_deref() != Some(&now) {
                checks.push(check(control, &id));
            }
        }
        ask(&self.clients, &checks, digest).await;
        Ok(())
    }

    /// Notes what an instance lacks as part of a baseline that begins, before it
    /// is asked for; and takes out of one that stands what is there no more.
    async fn keep_baselines(
        &self,
        facts: &PatchFacts,
        of: &mut BTreeMap<ControlId, Standing>,
        baselines: &Baselines,
        place: &Place,
        policy: &Versioned,
    ) -> Result<(), Failure> {
        let Some(host) = &facts.host else {
            return Ok(());
        };
        for (control, baseline) in baselines {
            let Some(standing) = of.get_mut(control) else {
                continue;
            };
            let there: BTreeSet<String> = decide::baseline(facts, *control).into_iter().collect();
            let guards = &mut standing.guards;
            let exempt = exempt(&host.tags, *control, &policy.policy.opt_out, place.now);
            let spared = match baseline {
                Baseline::Begins if standing.lock.is_none() && !exempt.holds() => there,
                Baseline::Stands(_) if baseline.spares(&host.id) => there
                    .into_iter()
                    .filter(|fingerprint| guards.baseline.contains(fingerprint))
                    .collect(),
                _ => continue,
            };
            if spared != guards.baseline {
                let noted = spared.iter().cloned().collect();
                self.ledger.set_baseline(*control, &host.id, noted).await?;
            }
            guards.baseline = spared;
        }
        Ok(())
    }
}
