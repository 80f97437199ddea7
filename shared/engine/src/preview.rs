//! What would be done about one resource, or about every resource of the Region,
//! by a control that is remediated at once. Reads only.
//!
//! Deliberately not here: what is decided (`backstop_core::preview`), and how it
//! is printed (the command line).

use backstop_aws::clients::Clients;
use backstop_aws::error::AwsError;
use backstop_aws::ledger::Ledger;
use backstop_aws::remediation::{Place, Remediation};
use backstop_core::decide::Circumstances;
use backstop_core::guards::Guards;
use backstop_core::policy::Policy;
use backstop_core::preview::{self, Preview};
use backstop_core::words::Mode;

/// What a preview works with, and where.
#[derive(Clone, Copy)]
pub struct Previewing<'a> {
    /// The clients.
    pub clients: &'a Clients,
    /// The policy.
    pub policy: &'a Policy,
    /// The mode of controls that the policy does not name.
    pub mode: Mode,
    /// The stack's ledger, which knows trips, the baseline and former states; none:
    /// it is judged as if there were none of them.
    pub ledger: Option<&'a Ledger>,
    /// Where, and until when.
    pub place: Place<'a>,
}

/// What a walk over all resources of a control found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Previewed {
    /// How many resources were looked at.
    pub looked_at: u64,
    /// The findings.
    pub found: Vec<Preview>,
    /// What could not be seen, one clause each.
    pub unseen: Vec<String>,
}

/// Called with the progress of a walk.
pub type Progress<'a> = dyn FnMut(&Previewed) + 'a;

impl Previewing<'_> {
    fn decide<R: Remediation>(
        &self,
        id: &str,
        facts: Option<&R::Facts>,
        guards: &Guards,
    ) -> Preview {
        let circumstances = Circumstances {
            mode: self.mode,
            account: self.place.account,
            now: self.clients.clock.now(),
            guards,
        };
        preview::preview::<R>(id, facts, &R::rules(self.policy), &circumstances)
    }

    /// Looks at one resource.
    pub(crate) async fn one<R: Remediation>(&self, id: &str) -> Result<Preview, AwsError> {
        let guards = async {
            match self.ledger {
                Some(ledger) => ledger.standing(R::INFO.id, id).await.map(|of| of.guards),
                None => Ok(Guards::default()),
            }
        };
        let (facts, guards) = tokio::join!(R::gather(self.clients, self.place, id), guards);
        let (guards, unread) = match guards {
            Ok(guards) => (guards, None),
            Err(error) => (
                Guards::default(),
                Some(format!("trips and baseline (judged without them): {error}")),
            ),
        };
        let mut preview = self.decide::<R>(id, facts?.as_ref(), &guards);
        preview.unread.extend(unread);
        Ok(preview)
    }

    /// Looks at every resource as its page shows it, and closely where that shows
    /// a finding.
    pub(crate) async fn all<R: Remediation>(&self, progress: &mut Progress<'_>) -> Previewed {
        let control = R::INFO.id;
        let mut seen = Previewed::default();
        // An account's setting is the one resource there is.
        if R::INFO.prefix.is_none() {
            seen.looked_at = 1;
            match self.one::<R>(self.place.region).await {
                Ok(preview) => seen.add(preview),
                Err(error) => seen.unseen.push(format!("{control}: {error}")),
            }
            return seen;
        }
        let walked = R::walk(self.clients, self.place, async |page| {
            seen.looked_at += page.len() as u64;
            for facts in &page {
                let id = R::subject(facts).id;
                let shown = self.decide::<R>(id, Some(facts), &Guards::default());
                if shown.finding().is_none() {
                    continue;
                }
                match self.one::<R>(id).await {
                    Ok(preview) => {
                        let unread = preview.unread.iter();
                        seen.unseen
                            .extend(unread.map(|what| format!("{id}: {what}")));
                        seen.add(preview);
                    }
                    // Reported as the page shows it, without what only a closer
                    // look shows.
                    Err(error) => {
                        seen.unseen.push(format!("{id}: {error}"));
                        seen.add(shown);
                    }
                }
            }
            progress(&seen);
        })
        .await;
        match walked {
            Ok(walked) => seen.unseen.extend(walked.unseen),
            Err(stopped) => seen.unseen.push(format!("{control}: {stopped}")),
        }
        seen
    }
}

impl Previewed {
    fn add(&mut self, preview: Preview) {
        if preview.finding().is_some() {
            self.found.push(preview);
        }
    }
}
