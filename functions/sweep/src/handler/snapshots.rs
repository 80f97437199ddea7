//! The sweep over snapshots that were taken before patches were installed: those
//! that the policy has kept for long enough are deleted.

use std::collections::BTreeMap;

use backstop_aws::kept_snapshots::{self, Deletion};
use backstop_aws::policy_store::Versioned;
use backstop_core::notice::Digest;
use backstop_core::patching::Patching;
use backstop_core::sweep;
use backstop_core::sweep::patching::{is_old_enough, may_be_deleted};
use backstop_core::volumes::{ENTRY_TAG, Snapshot};
use backstop_core::words::{ControlId, Mode};
use tracing::info;

use super::{Failure, Handler, Place};

/// How many snapshots a sweep deletes; the next one goes on. EC2 takes some five
/// deletions a second.
const MOST_DELETED: u64 = 500;

/// What of them an image uses, in the digest.
const IN_USE: &str = "snapshots taken before patches were installed that an image uses, and that are therefore not deleted";

impl Handler {
    /// Deletes the snapshots of runs that ended well, once the policy has kept
    /// them for long enough.
    pub(super) async fn walk_snapshots(
        &self,
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) {
        let controls = &policy.policy.controls;
        let acts = ControlId::PATCHING
            .iter()
            .any(|control| controls.mode(*control).unwrap_or(self.settings.mode) == Mode::Enforce);
        if !acts || policy.policy.patching.snapshots.delete_after_days == 0 {
            return;
        }
        let mut problems: Vec<String> = Vec::new();
        let walked = kept_snapshots::walk(&self.clients.ec2, &place.deadline, async |mut page| {
            page.retain(|snapshot| is_old_enough(snapshot, &policy.policy, place.now));
            let looked = self.delete_snapshots(&page, place, policy, digest).await;
            problems.extend(looked.err().map(|problem| format!("snapshots: {problem}")));
        })
        .await;
        problems.extend(walked.err().map(|stopped| stopped.to_string()));
        problems.dedup();
        digest.unseen.extend(problems);
    }

    async fn delete_snapshots(
        &self,
        page: &[Snapshot],
        place: &Place,
        policy: &Versioned,
        digest: &mut Digest,
    ) -> Result<(), Failure> {
        let mut runs: BTreeMap<&str, Option<Patching>> = BTreeMap::new();
        for snapshot in page {
            if digest.snapshots_deleted.count >= MOST_DELETED {
                return Ok(());
            }
            let Some(entry) = snapshot.tags.get(ENTRY_TAG) else {
                continue;
            };
            if !runs.contains_key(entry.as_str()) {
                runs.insert(entry, self.patching_that_may_act(entry).await?);
            }
            let Some(Some(run)) = runs.get(entry.as_str()) else {
                continue;
            };
            let (policy, mode) = (&policy.policy, self.settings.mode);
            if !may_be_deleted(snapshot, run, policy, mode, place.now) {
                continue;
            }
            // Written ahead: who looks for it finds what became of it.
            if !self
                .ledger
                .note_snapshot_deleted(entry, &snapshot.id)
                .await?
            {
                continue;
            }
            match kept_snapshots::delete(&self.clients.ec2, snapshot, &place.deadline).await {
                Ok(Deletion::Gone) => {
                    info!(snapshot = %snapshot.id, entry, "snapshot deleted, as the policy says");
                    sweep::count(&mut digest.snapshots_deleted, &snapshot.id);
                }
                Ok(Deletion::InUse) => {
                    self.ledger.note_snapshot_kept(entry, &snapshot.id).await?;
                    let in_use = digest.kept.entry(IN_USE.to_owned()).or_default();
                    sweep::count(in_use, &snapshot.id);
                }
                Err(problem) => {
                    self.ledger.note_snapshot_kept(entry, &snapshot.id).await?;
                    digest
                        .unseen
                        .push(format!("{} could not be deleted: {problem}", snapshot.id));
                }
            }
        }
        Ok(())
    }

    /// The patching of an entry, unless its control has tripped, everywhere or for
    /// its instance.
    async fn patching_that_may_act(&self, entry: &str) -> Result<Option<Patching>, Failure> {
        let Some(run) = self.ledger.patching(entry).await? else {
            return Ok(None);
        };
        let standing = self
            .ledger
            .standing(run.head.control, run.resource_id())
            .await?;
        let guards = standing.guards;
        let tripped = guards.control_tripped.is_some() || guards.resource_tripped.is_some();
        Ok((!tripped).then_some(run))
    }
}
