//! The sweep over volumes: which units want a look, what is kept unencrypted on
//! purpose, which originals have been kept for long enough; and the account's
//! setting.
//!
//! A page shows volumes, not instances: units are told apart by what the last
//! record of each depended on (`page_key`), and looked at by the remediation
//! function.

use std::collections::{BTreeMap, BTreeSet};

use backstop_aws::ledger::Standing;
use backstop_aws::policy_store::Versioned;
use backstop_aws::{bus, kept_volumes, volume_pages};
use backstop_core::controls::unencrypted_volume;
use backstop_core::guards::Guards;
use backstop_core::notice::Digest;
use backstop_core::sweep;
use backstop_core::sweep::volumes::{may_be_deleted, page_key, reason, unit_of};
use backstop_core::volumes::{REPLACED_BY_TAG, Snapshot, Volume, replacement};
use backstop_core::words::{ControlId, Status};
use tracing::warn;

use backstop_engine::{Baseline, check};

use super::{Failure, Handler, Place};

const CONTROL: ControlId = ControlId::UnencryptedVolume;

/// The originals that were replaced, in the digest.
const ORIGINALS: &str = "original volumes that were replaced by encrypted copies";
/// The snapshots of runs, in the digest.
const SNAPSHOTS: &str = "snapshots taken before volumes were replaced or patches installed";

impl Handler {
    /// Looks at every unencrypted volume.
    pub(super) async fn walk_volumes(
        &self,
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) {
        let mode = policy.policy.controls.unencrypted_volume.mode;
        let Some(baseline) = self.baseline_of(CONTROL, mode, digest).await else {
            return;
        };
        // A unit's volumes may be on different pages: all of them first. What is
        // encrypted is on none.
        let mut found: Vec<Volume> = Vec::new();
        let walked = volume_pages::walk(&self.clients.ec2, &place.deadline, async |page| {
            found.extend(page);
        })
        .await;
        let complete = walked.is_ok();
        digest
            .unseen
            .extend(walked.err().map(|stopped| stopped.to_string()));
        *digest.looked_at.entry(CONTROL).or_default() += found.len() as u64;
        match self
            .look_at_volumes(found, complete, &baseline, place, policy, digest)
            .await
        {
            Ok(()) if complete && baseline == Baseline::Begins => {
                let noted = self.ledger.baseline_is_complete(CONTROL).await;
                digest
                    .unseen
                    .extend(noted.err().map(|problem| problem.to_string()));
            }
            Ok(()) => {}
            Err(problem) => digest
                .unseen
                .push(format!("unencrypted volumes: {problem}")),
        }
    }

    async fn look_at_volumes(
        &self,
        found: Vec<Volume>,
        complete: bool,
        baseline: &Baseline,
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) -> Result<(), Failure> {
        let named: BTreeSet<String> = found
            .iter()
            .filter_map(|volume| volume.tags.get(REPLACED_BY_TAG).cloned())
            .collect();
        let named: Vec<String> = named.into_iter().collect();
        let copies = kept_volumes::by_id(&self.clients.ec2, &named, &place.deadline).await?;
        // Replaced, and attached nowhere: kept, and no finding.
        let is_kept = |volume: &Volume| {
            volume.attached().next().is_none() && replacement(volume, &copies).is_some()
        };
        let (kept, open): (Vec<Volume>, Vec<Volume>) = found.into_iter().partition(is_kept);
        self.see_kept(&kept, &copies, place, policy, digest).await?;

        let mut units: BTreeMap<String, Vec<Volume>> = BTreeMap::new();
        for volume in open {
            units
                .entry(unit_of(&volume).to_owned())
                .or_default()
                .push(volume);
        }
        let ids: Vec<String> = units.keys().cloned().collect();
        let standings = self.ledger.standings(CONTROL, &ids).await?;
        if *baseline == Baseline::Begins {
            // Before any is asked for: else it would be put right.
            let at_rest = units.values().zip(&standings).filter(|(_, standing)| {
                let lock = standing.lock.as_ref();
                lock.is_none_or(|lock| !lock.is_live(place.now))
            });
            self.note_volumes(at_rest.flat_map(|(volumes, _)| volumes), place, policy)
                .await?;
        }
        let mut checks = Vec::new();
        for ((unit, volumes), standing) in units.iter().zip(standings) {
            let guards = self.guards_of(standing.guards, volumes, baseline).await?;
            let Standing { lock, known, .. } = standing;
            let status = known.as_ref().and_then(|known| known.status.as_deref());
            let at_work = lock.as_ref().is_some_and(|lock| lock.is_live(place.now));
            let why = match at_work {
                true => "being put right",
                false => reason(status),
            };
            let by_reason = digest.open.entry(CONTROL).or_default();
            sweep::count(by_reason.entry(why.to_owned()).or_default(), unit);
            // Only when every volume was seen is it known what is new.
            if complete && lock.is_none() && known.is_none() {
                sweep::count(&mut digest.met_first, unit);
            }
            let now = page_key(
                volumes,
                &policy.policy,
                self.settings.mode,
                &guards,
                place.now,
            );
            let told = known
                .filter(|known| known.told)
                .and_then(|known| known.page_key);
            if told.as_deref() != Some(&now) {
                checks.push(check(CONTROL, unit));
            }
        }
        bus::request_checks(&self.clients.eventbridge, &checks).await?;
        Ok(())
    }

    /// A unit's guards, with the baseline of its volumes: that hangs on them and
    /// not on what they are attached to.
    async fn guards_of(
        &self,
        mut guards: Guards,
        volumes: &[Volume],
        baseline: &Baseline,
    ) -> Result<Guards, Failure> {
        let ids: Vec<String> = volumes
            .iter()
            .filter(|volume| *baseline == Baseline::Begins || baseline.spares(&volume.id))
            .map(|volume| volume.id.clone())
            .collect();
        for standing in self.ledger.standings(CONTROL, &ids).await? {
            guards.baseline.extend(standing.guards.baseline);
        }
        Ok(guards)
    }

    /// Notes volumes that no run is at work on as part of the baseline, but for
    /// those that a tag opts out.
    async fn note_volumes(
        &self,
        volumes: impl Iterator<Item = &Volume>,
        place: &Place,
        policy: &Versioned,
    ) -> Result<(), Failure> {
        for volume in volumes {
            let exempt =
                unencrypted_volume::exempt(&volume.tags, &policy.policy.opt_out, place.now);
            if !exempt.holds() {
                let fingerprint = unencrypted_volume::fingerprint(&volume.id);
                self.ledger
                    .set_baseline(CONTROL, &volume.id, vec![fingerprint])
                    .await?;
            }
        }
        Ok(())
    }

    /// What is kept unencrypted on purpose, for the digest; and what the policy
    /// has kept for long enough is deleted.
    async fn see_kept(
        &self,
        kept: &[Volume],
        copies: &BTreeMap<String, Volume>,
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) -> Result<(), Failure> {
        let ec2 = &self.clients.ec2;
        let snapshots = kept_volumes::snapshots(ec2, &place.deadline).await?;
        for volume in kept {
            let entry = may_be_deleted(
                volume,
                copies,
                &snapshots,
                &policy.policy,
                self.settings.mode,
                place.now,
            );
            // As many in a sweep as the control may change in an hour.
            let budget = policy
                .policy
                .controls
                .unencrypted_volume
                .budget
                .changes_per_hour;
            if let Some(entry) = entry
                && digest.deleted.count < u64::from(budget)
            {
                match self
                    .delete_original(volume, &entry, &snapshots, place, policy)
                    .await
                {
                    Ok(true) => {
                        sweep::count(&mut digest.deleted, &volume.id);
                        continue;
                    }
                    Ok(false) => {}
                    Err(problem) => digest
                        .unseen
                        .push(format!("{} could not be deleted: {problem}", volume.id)),
                }
            }
            let originals = digest.kept.entry(ORIGINALS.to_owned()).or_default();
            sweep::count(originals, &volume.id);
        }
        for Snapshot { id, .. } in &snapshots {
            let of_runs = digest.kept.entry(SNAPSHOTS.to_owned()).or_default();
            sweep::count(of_runs, id);
        }
        Ok(())
    }

    /// Deletes an original, if all that speaks for it still holds: the run that
    /// replaced it ended well and was not taken back, nobody has used the
    /// original since as far as any look saw, nothing is at work on it, and the
    /// control may act. `false`: it is kept.
    async fn delete_original(
        &self,
        original: &Volume,
        entry: &str,
        snapshots: &[Snapshot],
        place: &Place,
        policy: &Versioned,
    ) -> Result<bool, Failure> {
        let Some(run) = self.ledger.encryption(entry).await? else {
            return Ok(false);
        };
        let replaced = run.head.status == Status::Remediated
            && run.detail.undoes.is_none()
            && run
                .detail
                .volumes
                .iter()
                .any(|volume| volume.id == original.id);
        // One and the same where it was attached nowhere.
        let mut units = vec![run.resource_id().to_owned(), original.id.clone()];
        units.dedup();
        let standings = self.ledger.standings(CONTROL, &units).await?;
        let held = standings.iter().any(|standing| {
            let Guards {
                control_tripped,
                resource_tripped,
                ..
            } = &standing.guards;
            standing.lock.is_some() || control_tripped.is_some() || resource_tripped.is_some()
        });
        if !replaced || held {
            return Ok(false);
        }
        // As it is now: the walk took its time.
        let ec2 = &self.clients.ec2;
        let mut ids = vec![original.id.clone()];
        ids.extend(original.tags.get(REPLACED_BY_TAG).cloned());
        let now = kept_volumes::by_id(ec2, &ids, &place.deadline).await?;
        let Some(original) = now.get(&original.id) else {
            return Ok(false);
        };
        let (policy, mode) = (&policy.policy, self.settings.mode);
        let still = may_be_deleted(original, &now, snapshots, policy, mode, place.now);
        if still.as_deref() != Some(entry) {
            return Ok(false);
        }
        // Written ahead: who looks for it finds what became of it.
        if !self.ledger.note_deleted(entry, &original.id).await? {
            return Ok(false);
        }
        kept_volumes::delete_original(ec2, original, &place.deadline).await?;
        warn!(volume = %original.id, entry, "original deleted, as the policy says");
        Ok(true)
    }
}
