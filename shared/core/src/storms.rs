//! Storms: many records of one kind are told as one message with a count.
//!
//! A kind is what a control and an outcome have in common. Failures are of a
//! kind too, but none of them is ever only counted. Deliberately not here: what
//! is on (`backstop_aws::ledger`), and the text (`message::notice`).

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan};

use crate::notice::{About, EVENT_FAILED, Notice, Storm};
use crate::record::Record;
use crate::run::Head;
use crate::undo::UndoStatus;
use crate::words::{ControlId, Severity, Status};

/// How many of one kind are told one by one when they come together: what a
/// person reads before looking for what they share.
pub const MOST_SINGLE: usize = 5;
/// How many of a storm are named.
pub const MOST_EXAMPLES: usize = 25;
/// Most teams that are remembered for what is only counted, and that a storm's
/// message is addressed to.
pub const MOST_TEAMS: usize = 100;
/// How long after its message a storm is on: further ones are counted.
const MINUTES: i64 = 15;

/// What records of a storm have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The control, by name; `-` for none.
    pub control: String,
    /// The outcome.
    pub outcome: String,
    /// Whether they keep coming back.
    pub fight: bool,
}

impl Kind {
    /// The kind of a record. `None`: it is always told by itself.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        // What a person has to do is never summed up, and that is all of what stays
        // open because a control has tripped, where it is critical.
        if record.head().is_some_and(Head::is_left_and_critical) {
            return None;
        }
        let fight = match record {
            Record::Remediation(entry) => entry.detail.fight.is_some(),
            // What a person has to do is never summed up.
            Record::Encryption(run)
                if run.head.status == Status::NeedsPerson
                    || run.detail.progress.attention.is_some() =>
            {
                return None;
            }
            Record::Encryption(_) | Record::Patching(_) | Record::Undo(_) => false,
            Record::Notice(notice) => match notice.about {
                About::OptOutChanged(_) | About::EventFailed(_) => false,
                _ => return None,
            },
        };
        Some(Self {
            control: record.control().to_owned(),
            outcome: record.outcome().to_owned(),
            fight,
        })
    }

    /// Whether each of them is told even while a storm is on.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        [
            Status::Failed.name(),
            Status::RolledBack.name(),
            UndoStatus::UndoFailed.name(),
            EVENT_FAILED,
        ]
        .contains(&self.outcome.as_str())
    }

    /// Every kind of which some may only be counted.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let outcomes = [
            (Status::Remediated.name(), false),
            (Status::Remediated.name(), true),
            (Status::Notified.name(), false),
            (Status::Exempt.name(), false),
            (Status::Held.name(), false),
            (Status::NotOwned.name(), false),
            (Status::Existing.name(), false),
            (Status::Tripped.name(), false),
            (Status::Stopped.name(), false),
            (Status::InProgress.name(), false),
            (Status::Pending.name(), false),
            (Status::Refused.name(), false),
            (UndoStatus::Undone.name(), false),
        ];
        let of = |control: &str, outcome: &str, fight| Self {
            control: control.to_owned(),
            outcome: outcome.to_owned(),
            fight,
        };
        let mut all = vec![of("-", "opt-out-changed", false)];
        for control in ControlId::ALL {
            all.extend(outcomes.map(|(outcome, fight)| of(control.name(), outcome, fight)));
        }
        all
    }
}

/// What a storm's message says about one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct One {
    /// The record's id.
    pub id: String,
    /// The resource.
    pub resource: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// How bad it is, where the record says so.
    pub severity: Option<Severity>,
    /// The team that owns the resource.
    pub team: String,
    /// When it began.
    pub since: Timestamp,
}

impl One {
    /// The one that a record is.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let (resource, account, region, severity, team) = match record {
            Record::Remediation(entry) => (
                entry.head.resource.clone(),
                &entry.head.account,
                &entry.head.region,
                Some(entry.head.severity),
                entry.head.team.as_deref(),
            ),
            Record::Encryption(run) => (
                run.head.resource.clone(),
                &run.head.account,
                &run.head.region,
                Some(run.head.severity),
                run.head.team.as_deref(),
            ),
            Record::Patching(run) => (
                run.head.resource.clone(),
                &run.head.account,
                &run.head.region,
                Some(run.head.severity),
                run.head.team.as_deref(),
            ),
            Record::Undo(undo) => (
                undo.resource.clone(),
                &undo.account,
                &undo.region,
                None,
                undo.team.as_deref(),
            ),
            Record::Notice(notice) => (
                match &notice.about {
                    About::EventFailed(failed) => failed.event.clone(),
                    _ => notice.subject(),
                },
                &notice.account,
                &notice.region,
                None,
                None,
            ),
        };
        Self {
            id: record.id().to_owned(),
            resource,
            account: account.clone(),
            region: region.clone(),
            severity,
            team: team.unwrap_or("unowned").to_owned(),
            since: record.started_at(),
        }
    }
}

/// Those of a kind that were counted and not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// How many.
    pub count: u64,
    /// When the first of them began.
    pub since: Option<Timestamp>,
    /// The teams that own the resources.
    pub teams: BTreeSet<String>,
}

impl More {
    /// Those that are counted now.
    #[must_use]
    pub fn of(ones: &[One]) -> Self {
        Self {
            count: ones.len() as u64,
            since: ones.iter().map(|one| one.since).min(),
            teams: ones
                .iter()
                .map(|one| &one.team)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .take(MOST_TEAMS)
                .cloned()
                .collect(),
        }
    }
}

/// Until when a storm is on whose message went out now.
#[must_use]
pub fn on_until(now: Timestamp) -> Timestamp {
    now.saturating_add(MINUTES.minutes())
        .unwrap_or(Timestamp::MAX)
}

/// The message of a storm. It is told by the id of its first record: it is no
/// record itself. `untold` are those that an earlier storm counted.
#[must_use]
pub fn storm(kind: &Kind, ones: &[One], untold: &More, now: Timestamp) -> Option<Notice> {
    let first = ones.iter().min_by_key(|one| one.since)?;
    let mut teams = untold.teams.clone();
    teams.extend(ones.iter().map(|one| one.team.clone()));
    Some(Notice {
        version: crate::run::VERSION,
        id: first.id.clone(),
        account: first.account.clone(),
        region: first.region.clone(),
        at: now,
        about: About::Storm(Storm {
            control: kind.control.clone(),
            outcome: kind.outcome.clone(),
            count: ones.len() as u64 + untold.count,
            examples: ones
                .iter()
                .take(MOST_EXAMPLES)
                .map(|one| (one.resource.clone(), one.id.clone()))
                .collect(),
            since: untold.since.map_or(first.since, |at| at.min(first.since)),
            severity: ones.iter().filter_map(|one| one.severity).max(),
            teams,
            after: false,
            fight: kind.fight,
        }),
    })
}

/// What a storm says about those that were counted after its message.
#[must_use]
pub fn tail(kind: &Kind, more: &More, now: Timestamp) -> About {
    About::Storm(Storm {
        control: kind.control.clone(),
        outcome: kind.outcome.clone(),
        count: more.count,
        examples: Vec::new(),
        since: more.since.unwrap_or(now),
        severity: None,
        teams: more.teams.clone(),
        after: true,
        fight: kind.fight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_whose_first_comes_late_in_a_large_batch_is_remembered() {
        let of = |team: &str| One {
            id: "1".into(),
            resource: "sg-1".into(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            severity: None,
            team: team.into(),
            since: Timestamp::UNIX_EPOCH,
        };
        let mut ones = vec![of("team-web"); MOST_TEAMS];
        ones.push(of("team-db"));
        let more = More::of(&ones);
        assert_eq!(more.count, MOST_TEAMS as u64 + 1);
        assert_eq!(
            more.teams,
            BTreeSet::from(["team-db".into(), "team-web".into()])
        );
        let many: Vec<One> = (0..2 * MOST_TEAMS).map(|n| of(&n.to_string())).collect();
        assert_eq!(More::of(&many).teams.len(), MOST_TEAMS);
    }
}
