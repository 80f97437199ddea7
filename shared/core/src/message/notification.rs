//! The JSON that programs read: what queues, functions, streams and plain HTTP
//! subscribers get. Its schema is `schemas/notification.schema.json`.
//!
//! These types are a promise to others and are therefore not the ledger's own:
//! fields are added, never renamed or given another meaning; when that has to
//! happen, `version` rises. Texts are one line and cut at 512 characters (names at
//! 128), long
//! lists are cut and `omitted` says by how much: the ledger entry has it all.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chat::Card;
use super::story::Story;
use crate::exemption::Exemption;
use crate::plan::{Change, Ending, Exposure, Outcome, Step, Unjudged, Verification, Without};
use crate::ports::Permission;
use crate::prose::{one_line, or};
use crate::security_group::{IngressRule, Source};
use crate::words::{Actor, ControlId, Severity, Status};

/// The version of the format.
const VERSION: u32 = 1;
/// Most characters of a text that people write.
const MOST_TEXT: usize = 512;
/// Most characters of an id or a name of AWS's.
const MOST_NAME: usize = 128;
/// Most words in a list of ports.
const MOST_WORDS: usize = 60;
/// Most reasons, and most lines of a verification.
const MOST_LINES: usize = 20;
/// How many outcomes are told for each rule that is told.
const OUTCOMES_A_RULE: usize = 4;

/// What Backstop found on one resource, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notification {
    /// The format's version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// What the message is known by: drop what you have seen, SNS may deliver
    /// twice.
    pub key: String,
    /// The id of the ledger entry, a ULID. A failure and the message that it
    /// is fixed have the same.
    pub entry: String,
    /// Where the ledger has the entry.
    pub ledger_key: LedgerKey,
    /// What happened, in one line.
    pub headline: String,
    /// The control that found something.
    pub control: ControlId,
    /// How bad it is.
    pub severity: Severity,
    /// How it ended.
    pub outcome: Status,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the resource; `unowned` without one.
    pub team: String,
    /// The resource.
    pub resource: NotifiedResource,
    /// What was found, one by one, whatever the control.
    #[serde(default)]
    pub items: Vec<NotifiedItem>,
    /// What was found, of `open-ingress`; empty for other controls.
    pub exposures: Vec<NotifiedExposure>,
    /// What the opt-out tag of the resource or of what it belongs to says, or the
    /// policy.
    pub exemption: NotifiedExemption,
    /// What is (or, where nothing was changed, would be) done, of `open-ingress`;
    /// empty for other controls.
    pub changes: Vec<NotifiedChange>,
    /// What came of each step, whatever the control: `rule` is the id of the item.
    pub outcomes: Vec<NotifiedOutcome>,
    /// The second look at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<NotifiedVerification>,
    /// Why it was decided so.
    pub reasons: Vec<String>,
    /// Who touched the resource last, as the event states.
    pub actor: NotifiedActor,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// How often the change was begun.
    pub attempts: u32,
    /// When it was first begun.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// What keeps putting the finding back, from the time on at which that is
    /// told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fight: Option<NotifiedFight>,
    /// What manages the resource, where its tags, the caller or the user agent
    /// show it: change it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    /// How many items of each list are left out.
    pub omitted: Omitted,
}

/// A finding that somebody or something keeps putting back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedFight {
    /// How often it has been put right within `within_hours`, this time included.
    pub times: u32,
    /// When it was first, within those.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
    /// The hours within which it was counted: 24, or 168 for a fight that goes on for
    /// days.
    pub within_hours: u32,
    /// Seconds after which it comes back, about; only of a fight counted over 168
    /// hours that keeps to a rhythm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u64>,
}

/// The key of an entry in the ledger's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerKey {
    /// The partition key.
    pub pk: String,
    /// The sort key.
    pub sk: String,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedResource {
    /// Its ARN.
    pub arn: String,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// Protocol and ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedTraffic {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, a protocol number, or `-1` for all.
    pub protocol: String,
    /// First port, or ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<i32>,
    /// Last port, or ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<i32>,
    /// The same in words.
    pub words: String,
}

/// An item of the resource that is not as it should be: a rule, a grant, a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedItem {
    /// The item's id within the resource.
    pub item: String,
    /// What is wrong with it, in words.
    pub what: String,
    /// Its state as it was found. What is in it depends on the control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it becomes (or, where nothing was changed, would become); absent
    /// where it is removed or left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// How its last step ended, or the one that failed; absent where nothing was
    /// tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// An ingress rule as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedRule {
    /// `sgr-…`.
    pub id: String,
    /// Protocol and ports.
    pub traffic: NotifiedTraffic,
    /// `ipv4`, `ipv6`, `prefix-list` or `security-group`.
    pub source_kind: String,
    /// The CIDR block or id.
    pub source: String,
    /// The description, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A rule that admits what it must not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedExposure {
    /// The rule.
    pub rule: NotifiedRule,
    /// What of it is too open, in words.
    pub exposed: Vec<String>,
    /// What of it may stay, in words.
    pub allowed: Vec<String>,
    /// How many public addresses the source admits: digits, as text, because
    /// IPv6 has more than a JSON number holds.
    #[schemars(regex(pattern = r"^[0-9]+$"))]
    pub public_addresses: String,
    /// Whether the source also admits private or special addresses.
    pub private_part: bool,
    /// Why the rule could not be judged: then `exposed` is what may be too open, and
    /// how many addresses the source admits is not known. Absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unjudged: Option<Unjudged>,
    /// What the rule's own opt-out tag says.
    pub exemption: NotifiedExemption,
    /// Stays the same when the rule is put back under a new id.
    pub fingerprint: String,
}

/// What an opt-out tag says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum NotifiedExemption {
    /// No tag, or one for other controls.
    None,
    /// Opted out.
    Exempt(NotifiedOptOut),
    /// It was opted out until a day that is past.
    Ended(NotifiedOptOut),
    /// The tag cannot be read: nothing is changed.
    Malformed {
        /// The tag's value.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// The tag's key as it is spelt; absent: `backstop:opt-out`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// The days for which the policy lets an opt-out hold at most, where its end
        /// lies further ahead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        longest_days: Option<u32>,
    },
    /// No tag: it was there before the control was switched to `enforce`.
    Existing,
}

/// An opt-out, as its tag states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedOptOut {
    /// Last day (UTC) on which it holds; absent where it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Date>,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A planned change of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedChange {
    /// The rule's id.
    pub rule: String,
    /// What the rule becomes; absent where it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrow_to: Option<NotifiedTraffic>,
    /// Further allowed parts, which become rules of their own.
    pub authorise: Vec<NotifiedTraffic>,
    /// Allowed parts that cannot be kept, in words.
    pub lost: Vec<String>,
}

/// A step and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedOutcome {
    /// The id of the rule, or of another control's item.
    pub rule: String,
    /// What was tried.
    pub step: Step,
    /// What the step was to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<NotifiedTraffic>,
    /// The id of the rule that the step made or took back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What that rule lacks, because AWS refused it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<Without>,
    /// How it ended.
    pub ending: Ending,
}

/// The resource read again after the changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedVerification {
    /// Whether the finding is gone and what was changed is as planned.
    pub passed: bool,
    /// What keeps it from having passed, in words.
    pub problems: Vec<String>,
    /// What others changed meanwhile, in words.
    pub by_others: Vec<String>,
    /// Changes that AWS accepted and that do not show yet, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_visible_yet: Vec<String>,
}

/// Who touched the resource last, as the event states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedActor {
    /// ARN of the caller; of one without an ARN its id, or the service that called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The account of a caller without an ARN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Id of the Identity Center user who called, or on whose behalf the principal did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// What it called with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Where it called from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// The AWS service that called on its behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
    /// The call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_name: Option<String>,
    /// When it was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub event_time: Option<Timestamp>,
    /// The event that the call became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// How many items of each list are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Omitted {
    /// Of `items`.
    #[serde(default)]
    pub items: usize,
    /// Of `exposures`.
    pub exposures: usize,
    /// Of `changes`.
    pub changes: usize,
    /// Of `outcomes`.
    pub outcomes: usize,
}

impl Notification {
    /// The notification about an entry, with at most `most` items in a list.
    pub(super) fn of(story: &Story<'_>, card: &Card<'_>, most: usize) -> Self {
        let entry = story.entry;
        let outcomes = story.last_outcomes();
        let most_outcomes = most * OUTCOMES_A_RULE;
        let exposures: Vec<NotifiedExposure> = entry
            .detail
            .exposures
            .iter()
            .take(most)
            .filter_map(exposure)
            .collect();
        let changes: Vec<NotifiedChange> = entry
            .detail
            .plan
            .changes
            .iter()
            .take(most)
            .filter_map(change)
            .collect();
        // Only of rules: other controls have items alone.
        let of_rules = |all: usize, told: usize| match entry.head.control {
            ControlId::OpenIngress => all.saturating_sub(told),
            _ => 0,
        };
        let omitted = Omitted {
            items: entry.detail.exposures.len().saturating_sub(most),
            exposures: of_rules(entry.detail.exposures.len(), exposures.len()),
            changes: of_rules(entry.detail.plan.changes.len(), changes.len()),
            outcomes: outcomes.len().saturating_sub(most_outcomes),
        };
        Self {
            version: VERSION,
            key: card.key.clone(),
            entry: name(&entry.head.id),
            ledger_key: LedgerKey::of(&entry.head.id),
            headline: text(card.title),
            control: entry.head.control,
            severity: entry.head.severity,
            outcome: entry.head.status,
            account: name(&entry.head.account),
            region: name(&entry.head.region),
            team: or(&text(entry.team_or_unowned()), "unowned"),
            resource: NotifiedResource {
                arn: text(&entry.head.resource),
                id: name(entry.resource_id()),
                name: text(&entry.head.resource_name),
            },
            items: items(story, most),
            exposures,
            exemption: (&entry.head.exemption).into(),
            changes,
            outcomes: outcomes
                .iter()
                .take(most_outcomes)
                .map(|outcome| (*outcome).into())
                .collect(),
            verification: entry
                .detail
                .verification
                .as_ref()
                .map(|v| verification(v, most.min(MOST_LINES))),
            reasons: texts(&entry.detail.plan.reasons, most.min(MOST_LINES)),
            actor: (&entry.head.actor).into(),
            policy_version: entry.head.policy_version,
            attempts: entry.head.attempts,
            started_at: entry.head.started_at,
            finished_at: entry.head.finished_at,
            fight: entry.detail.fight.as_ref().map(|fight| NotifiedFight {
                times: fight.times,
                since: fight.since,
                within_hours: fight.within_hours,
                every_seconds: fight.every_seconds,
            }),
            managed_by: some_text(
                entry
                    .detail
                    .fight
                    .as_ref()
                    .map_or(&entry.head.managed_by, |fight| &fight.managed_by),
            ),
            omitted,
        }
    }

    /// The JSON Schema of the notification.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

impl LedgerKey {
    pub(super) fn of(id: &str) -> Self {
        Self {
            pk: format!("entry#{}", name(id)),
            sk: "entry".to_owned(),
        }
    }
}

pub(super) fn text(text: &str) -> String {
    one_line(text, MOST_TEXT)
}

pub(super) fn name(text: &str) -> String {
    one_line(text, MOST_NAME)
}

pub(super) fn some_name(of: &Option<String>) -> Option<String> {
    of.as_deref().map(name)
}

pub(super) fn some_text(of: &Option<String>) -> Option<String> {
    of.as_deref().map(text)
}

pub(super) fn texts<'a>(of: impl IntoIterator<Item = &'a String>, most: usize) -> Vec<String> {
    of.into_iter().take(most).map(|line| text(line)).collect()
}

impl From<&Permission> for NotifiedTraffic {
    fn from(permission: &Permission) -> Self {
        Self {
            protocol: name(&permission.protocol),
            from_port: permission.from_port,
            to_port: permission.to_port,
            words: text(&permission.to_string()),
        }
    }
}

impl From<&IngressRule> for NotifiedRule {
    fn from(rule: &IngressRule) -> Self {
        let kind = match rule.source {
            Source::Ipv4(_) => "ipv4",
            Source::Ipv6(_) => "ipv6",
            Source::PrefixList(_) => "prefix-list",
            Source::SecurityGroup(_) => "security-group",
        };
        Self {
            id: name(&rule.id),
            traffic: (&rule.permission).into(),
            source_kind: kind.to_owned(),
            source: text(&rule.source.to_string()),
            description: some_text(&rule.description),
        }
    }
}

/// The items that were found, the first `most`.
fn items(story: &Story<'_>, most: usize) -> Vec<NotifiedItem> {
    let detail = &story.entry.detail;
    let after: BTreeMap<&str, &Value> = detail
        .plan
        .changes
        .iter()
        .filter_map(|change| Some((change.item.as_str(), change.after.as_ref()?)))
        .collect();
    let item = |exposure: &Exposure| {
        let outcomes = story.outcomes(&exposure.item);
        let failed = outcomes.iter().find(|outcome| outcome.failed());
        NotifiedItem {
            item: name(&exposure.item),
            what: text(&story.exposure_line(exposure)),
            before: Some(state(&exposure.state)),
            after: after.get(exposure.item.as_str()).map(|after| state(after)),
            ending: failed.or(outcomes.last()).map(|o| ending(&o.ending)),
        }
    };
    detail.exposures.iter().take(most).map(item).collect()
}

/// A state as it is published: its texts are one line and cut.
fn state(of: &Value) -> Value {
    match of {
        Value::String(of) => Value::String(text(of)),
        Value::Array(of) => of.iter().map(state).collect(),
        Value::Object(of) => of
            .iter()
            .map(|(key, value)| (name(key), state(value)))
            .collect(),
        of => of.clone(),
    }
}

/// Why a rule could not be judged; what others wrote is cut.
fn unjudged(why: &Unjudged) -> Unjudged {
    match why {
        Unjudged::PrefixList { id, owner, why } => Unjudged::PrefixList {
            id: name(id),
            owner: some_name(owner),
            why: text(why),
        },
        Unjudged::Entries { id, owner, entries } => Unjudged::Entries {
            id: name(id),
            owner: some_name(owner),
            entries: texts(entries, MOST_WORDS),
        },
        Unjudged::Block { block } => Unjudged::Block { block: text(block) },
    }
}

/// An exposure as the first release published it; none of other controls.
fn exposure(exposure: &Exposure) -> Option<NotifiedExposure> {
    let rule = IngressRule::deserialize(&exposure.state).ok()?;
    Some(NotifiedExposure {
        rule: (&rule).into(),
        exposed: texts(&exposure.exposed, MOST_WORDS),
        allowed: texts(&exposure.allowed, MOST_WORDS),
        public_addresses: exposure
            .reach
            .map_or(0, |reach| reach.public_addresses)
            .to_string(),
        private_part: exposure.reach.is_some_and(|reach| reach.private_part),
        unjudged: exposure.unjudged.as_ref().map(unjudged),
        exemption: (&exposure.exemption).into(),
        fingerprint: name(&exposure.fingerprint),
    })
}

impl From<&Exemption> for NotifiedExemption {
    fn from(exemption: &Exemption) -> Self {
        let opt_out = |o: &crate::exemption::OptOut| NotifiedOptOut {
            until: o.until,
            owner: some_text(&o.owner),
            reason: some_text(&o.reason),
        };
        match exemption {
            Exemption::None => Self::None,
            Exemption::Exempt(o) => Self::Exempt(opt_out(o)),
            Exemption::Ended(o) => Self::Ended(opt_out(o)),
            Exemption::Existing => Self::Existing,
            Exemption::Malformed {
                value,
                problem,
                key,
                longest_days,
            } => Self::Malformed {
                value: text(value),
                problem: text(problem),
                key: some_text(key),
                longest_days: *longest_days,
            },
        }
    }
}

/// A change as the first release published it; none of other controls.
fn change(change: &Change) -> Option<NotifiedChange> {
    let permission = |state: &Value| {
        let rule = IngressRule::deserialize(state).ok()?;
        Some(NotifiedTraffic::from(&rule.permission))
    };
    change.before.as_ref().and_then(permission)?;
    let narrow_to = match &change.after {
        Some(after) => Some(permission(after)?),
        None => None,
    };
    let parts = change.add.iter().take(MOST_WORDS);
    Some(NotifiedChange {
        rule: name(&change.item),
        narrow_to,
        authorise: parts.map(permission).collect::<Option<_>>()?,
        lost: texts(&change.lost, MOST_WORDS),
    })
}

impl From<&Outcome> for NotifiedOutcome {
    fn from(outcome: &Outcome) -> Self {
        Self {
            rule: name(&outcome.item),
            step: outcome.step,
            traffic: outcome.permission.as_ref().map(Into::into),
            created: some_name(&outcome.created),
            without: outcome.without.as_ref().map(|without| Without {
                why: text(&without.why),
                ..without.clone()
            }),
            ending: ending(&outcome.ending),
        }
    }
}

fn ending(of: &Ending) -> Ending {
    match of {
        Ending::Done => Ending::Done,
        Ending::AlreadyDone => Ending::AlreadyDone,
        Ending::Skipped { why } => Ending::Skipped { why: text(why) },
        Ending::Failed {
            retryable,
            operation,
            code,
            message,
        } => Ending::Failed {
            retryable: *retryable,
            operation: name(operation),
            code: name(code),
            message: text(message),
        },
    }
}

fn verification(verification: &Verification, most: usize) -> NotifiedVerification {
    NotifiedVerification {
        passed: verification.passed(),
        problems: verification.problems().take(most).map(text).collect(),
        by_others: texts(&verification.by_others, most),
        not_visible_yet: texts(&verification.not_visible_yet, most),
    }
}

impl From<&Actor> for NotifiedActor {
    fn from(actor: &Actor) -> Self {
        Self {
            principal: some_text(&actor.principal),
            account: some_name(&actor.account),
            on_behalf_of: some_name(&actor.on_behalf_of),
            user_agent: some_text(&actor.user_agent),
            source_address: some_name(&actor.source_address),
            invoked_by: some_name(&actor.invoked_by),
            event_name: some_name(&actor.event_name),
            event_time: actor.event_time,
            event_id: some_name(&actor.event_id),
        }
    }
}
