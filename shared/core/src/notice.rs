//! Notices: what people are told that is not about one finding.
//!
//! A notice is recorded once while what it says stays the same: `subject` is
//! what it is about, `state_key` what it says about it. Deliberately not here:
//! the texts (`message::notice`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::words::{Actor, ControlId, Severity, digest};

/// The topic of notices about events that were given up: `outcome` of messages.
pub const EVENT_FAILED: &str = "event-failed";

/// One notice, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The record format's version.
    pub version: u32,
    /// The record's id, a ULID.
    pub id: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    pub about: About,
}

/// What a notice says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "topic", rename_all = "kebab-case")]
pub enum About {
    /// Somebody set, changed or removed an opt-out tag.
    OptOutChanged(OptOutChanged),
    /// A control has tripped, everywhere.
    ControlTripped(ControlTripped),
    /// What a sweep saw.
    Digest(Box<Digest>),
    /// Whether Backstop itself is in order.
    Health(Health),
    /// An event was given up.
    EventFailed(EventFailed),
    /// More of one kind than anybody wants to read one by one.
    Storm(Storm),
    /// Something asked an instance for metadata in a way that a remediation ended.
    RequestsRefused(RequestsRefused),
}

impl About {
    /// Every name that there is.
    pub const NAMES: &[&str] = &[
        "opt-out-changed",
        "control-tripped",
        "digest",
        "health",
        EVENT_FAILED,
        "storm",
        "requests-refused",
    ];

    /// The name, as in JSON: `outcome` of messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::OptOutChanged(_) => "opt-out-changed",
            Self::ControlTripped(_) => "control-tripped",
            Self::Digest(_) => "digest",
            Self::Health(_) => "health",
            Self::EventFailed(_) => EVENT_FAILED,
            Self::Storm(_) => "storm",
            Self::RequestsRefused(_) => "requests-refused",
        }
    }
}

/// A call that set or removed the tag `backstop:opt-out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOutChanged {
    /// Id of the resource that carries the tag, or carried it.
    pub resource: String,
    /// The tag's key as it is spelt, where that is not `backstop:opt-out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The tag's value as it is now, read live; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What that value means, by control: only controls it says something to.
    #[serde(default)]
    pub means: BTreeMap<ControlId, crate::exemption::Exemption>,
    /// Who called, as the event states.
    pub actor: Actor,
}

/// A control that changes nothing until a person re-arms it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlTripped {
    /// The control.
    pub control: ControlId,
    /// The budget: changes in a clock hour.
    pub changes_per_hour: u32,
    /// ARN of the resource whose changes would have exceeded it.
    pub resource: String,
    /// How many changes those were.
    pub changes: u32,
    /// When it tripped.
    pub at: Timestamp,
}

/// What a sweep saw, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Digest {
    /// Since when entries are counted: the digest before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Resources looked at, by control.
    pub looked_at: BTreeMap<ControlId, u64>,
    /// Entries since then, by control and outcome.
    pub outcomes: BTreeMap<ControlId, BTreeMap<String, u64>>,
    /// What is open now and why, by control and reason: how many, and the
    /// first few.
    pub open: BTreeMap<ControlId, BTreeMap<String, Open>>,
    /// What the sweep met before the event path did: how many, the first few.
    pub met_first: Open,
    /// Unencrypted data that is kept on purpose, by kind: originals that were
    /// replaced, and the snapshots of runs.
    pub kept: BTreeMap<String, Open>,
    /// Originals that the policy had kept for long enough, and that were
    /// deleted.
    pub deleted: Open,
    /// Snapshots taken before patches were installed that the policy had kept for
    /// long enough, and that were deleted.
    #[serde(skip_serializing_if = "Open::is_none")]
    pub snapshots_deleted: Open,
    /// Opt-outs that ended, end within a week, or cannot be read.
    pub opt_outs: Vec<OptOutSeen>,
    /// Opt-outs beyond those listed.
    pub more_opt_outs: u64,
    /// What resources depend on and other accounts own, by id: a change of it raises
    /// no event here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub of_others: BTreeMap<String, OfOther>,
    /// Entries taken up again because their lease had lapsed.
    pub resumed: u64,
    /// Entries told because nobody had been.
    pub told: u64,
    /// What could not be seen, in sentences.
    pub unseen: Vec<String>,
}

/// Something that another account owns, and what depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfOther {
    /// The account.
    pub owner: String,
    /// The resources that depend on it.
    pub needed_by: Open,
}

/// A number of resources, and the first few of them by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Open {
    /// How many.
    pub count: u64,
    /// The first few.
    pub examples: Vec<String>,
}

impl Open {
    /// Whether there are none.
    fn is_none(&self) -> bool {
        self.count == 0
    }
}

/// An opt-out tag that wants somebody's attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOutSeen {
    /// Id of the resource that carries it.
    pub resource: String,
    /// The tag's value.
    pub value: String,
    /// `ended`, `ends soon`, `malformed`, or `endless` and `open` in listings.
    pub state: String,
    /// Last day (UTC) on which it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Date>,
    /// Who answers for it, as stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What is not in order with Backstop itself; nothing: all is well again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// One for each check that failed.
    pub failed: Vec<FailedCheck>,
}

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// The check's name: `trail`, `rules`, `subscription`, `queue`, `policy`.
    pub check: String,
    /// What was found, one sentence.
    pub found: String,
    /// What to do about it, one sentence.
    pub remedy: String,
}

/// An event that was given up and lies in the queue of failed events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFailed {
    /// SQS's id of the message.
    pub message: String,
    /// The function that failed on it, or that it is for, by name; none: the
    /// message cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The event, in a few words.
    pub event: String,
    /// What the function said, or why the message cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was given up, as the message states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<String>,
}

/// Many records of one kind, told as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// The control, by name; `-` for none.
    pub control: String,
    /// The outcome that they have in common.
    pub outcome: String,
    /// How many.
    pub count: u64,
    /// The first few: resource and record id.
    pub examples: Vec<(String, String)>,
    /// When the first of them began.
    pub since: Timestamp,
    /// How bad the worst of them is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The teams that own the resources, as far as they are known.
    #[serde(default)]
    pub teams: BTreeSet<String>,
    /// Whether these came after the storm had been told: they were counted and
    /// not told one by one.
    #[serde(default)]
    pub after: bool,
    /// Whether they keep coming back.
    #[serde(default)]
    pub fight: bool,
}

/// Requests that an instance refused within a day after a remediation of `imdsv1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsRefused {
    /// The control.
    pub control: ControlId,
    /// ARN of the instance.
    pub resource: String,
    /// The remediation's ledger entry.
    pub remediation: String,
    /// When that began.
    pub since: Timestamp,
    /// How many requests were refused, when a sweep first saw some.
    pub requests: u64,
    /// The team that owns the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
}

impl Notice {
    /// The control it is about, by name; `-` for none.
    #[must_use]
    pub fn control(&self) -> &str {
        match &self.about {
            About::ControlTripped(tripped) => tripped.control.name(),
            About::Storm(storm) => &storm.control,
            About::RequestsRefused(refused) => refused.control.name(),
            About::OptOutChanged(_)
            | About::Digest(_)
            | About::Health(_)
            | About::EventFailed(_) => "-",
        }
    }

    /// What it is about: notices of one topic and subject replace each other.
    #[must_use]
    pub fn subject(&self) -> String {
        match &self.about {
            About::OptOutChanged(changed) => changed.resource.clone(),
            About::ControlTripped(tripped) => tripped.control.name().to_owned(),
            About::Storm(storm) => format!("{} {}", storm.control, storm.outcome),
            About::EventFailed(failed) => failed.message.clone(),
            About::RequestsRefused(refused) => refused.remediation.clone(),
            About::Digest(_) | About::Health(_) => "-".to_owned(),
        }
    }

    /// What it says: while this stays the same there is nothing new to tell.
    #[must_use]
    pub fn state_key(&self) -> String {
        let said = match &self.about {
            // The same value set by another call is another call.
            About::OptOutChanged(changed) => format!(
                "{:?} {:?} {:?}",
                changed.value, changed.means, changed.actor.event_id
            ),
            // Tripped again after it was re-armed is news.
            About::ControlTripped(tripped) => tripped.at.to_string(),
            // Whether it is news is decided before it is written (`sweep`).
            About::Digest(_) => self.id.clone(),
            // As many failed events as before or more: each is told by itself.
            About::Health(health) => {
                let said = format!("{:?}", health.failed);
                said.chars().filter(|c| !c.is_ascii_digit()).collect()
            }
            // A message of the queue says the same for ever.
            About::EventFailed(failed) => failed.message.clone(),
            // That there were some: how many grows.
            About::RequestsRefused(refused) => refused.remediation.clone(),
            About::Storm(storm) => format!("{storm:?}"),
        };
        digest([said.as_str()])
    }

    /// What its message is known by; the same key is sent once. What a notice says
    /// may be said again later, with something else in between, and is news then: so
    /// the key says which notice, call, trip or message of a queue it is about.
    #[must_use]
    pub fn message_key(&self) -> String {
        let (topic, subject, said) = (self.about.name(), self.subject(), self.state_key());
        let which = match &self.about {
            About::Health(_) => Some(&self.id),
            About::OptOutChanged(changed) if changed.actor.event_id.is_none() => Some(&self.id),
            // What they say tells them apart; the event of a call may be delivered
            // again, after another one of the same resource.
            About::OptOutChanged(_)
            | About::ControlTripped(_)
            | About::Digest(_)
            | About::EventFailed(_)
            | About::RequestsRefused(_)
            | About::Storm(_) => None,
        };
        let parts = [topic, &subject, &said].into_iter();
        digest(parts.chain(which.map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(id: &str, about: About) -> Notice {
        Notice {
            version: 1,
            id: id.to_owned(),
            account: "111122223333".to_owned(),
            region: "eu-central-1".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            about,
        }
    }

    fn health(found: &[&str]) -> About {
        let failed = found.iter().map(|found| FailedCheck {
            check: "queue".to_owned(),
            found: (*found).to_owned(),
            remedy: "look".to_owned(),
        });
        About::Health(Health {
            failed: failed.collect(),
        })
    }

    fn opt_out(value: &str, event: Option<&str>) -> About {
        About::OptOutChanged(OptOutChanged {
            resource: "sg-1".to_owned(),
            key: None,
            value: Some(value.to_owned()),
            means: BTreeMap::new(),
            actor: Actor {
                event_id: event.map(str::to_owned),
                ..Actor::default()
            },
        })
    }

    /// What was recorded again is news: the ledger records nothing while the last
    /// notice of its subject says the same.
    #[test]
    fn what_comes_back_is_sent_again() {
        let digest = || About::Digest(Box::default());
        for (one, other) in [
            (health(&["no trail"]), health(&["no trail"])),
            (health(&[]), health(&[])),
            (digest(), digest()),
            (opt_out("all", None), opt_out("all", None)),
        ] {
            assert_ne!(
                notice("1", one.clone()).message_key(),
                notice("2", other).message_key(),
                "{one:?}"
            );
            let again = notice("1", one.clone()).message_key();
            assert_eq!(notice("1", one).message_key(), again, "a retry");
        }
    }

    #[test]
    fn a_call_whose_event_is_delivered_again_is_not() {
        let key = |id, event| notice(id, opt_out("all", Some(event))).message_key();
        assert_eq!(key("1", "call"), key("2", "call"));
        assert_ne!(key("1", "call"), key("2", "another call"));
    }

    #[test]
    fn one_failed_event_more_is_no_other_health() {
        let key = |about| notice("1", about).state_key();
        let given_up = |n: u32| health(&[&format!("{n} events have been given up")]);
        assert_eq!(key(given_up(2)), key(given_up(13)));
        assert_ne!(key(given_up(2)), key(health(&["nobody is subscribed"])));
        assert_ne!(key(given_up(2)), key(health(&[])));
    }
}
