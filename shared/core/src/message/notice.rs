//! Messages about notices: opt-outs that changed, a control that tripped, a
//! sweep's digest, Backstop's own health, storms.
//!
//! Each says what to do next. Programs get a [`Notice`] of their own format,
//! whose schema is `schemas/notice.schema.json`; it keeps the same promises as
//! the notification about an entry (`notification`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chat::{self, Card};
use super::envelope::{Message, attributes, fitted, to_json};
use super::notification::{
    LedgerKey, NotifiedActor, NotifiedExemption, name, some_text, text as cut,
};
use super::story::{Section, terms, who};
use super::subject::shortened_subject;
use super::text;
use crate::exemption::{Exemption, OPT_OUT_TAG, SPELLING};
use crate::notice::{
    About, ControlTripped, Digest, EVENT_FAILED, EventFailed, Health, Notice, Open, OptOutChanged,
    OptOutSeen, RequestsRefused, Storm,
};
use crate::prose::{self, clause, joined, one_line, or, or_unknown, shortened, time};
use crate::shell::{ascii_json, aws};
use crate::storms::MOST_TEAMS;
use crate::words::{ControlId, Severity, Status, id_of, team_or_unowned};

/// The version of the format.
const VERSION: u32 = 1;
/// Most lines of a section of a mail or a chat message.
const MOST_LINES: usize = 25;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// Most examples in a line.
const MOST_EXAMPLES: usize = 5;

/// Something people are told that is not about one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoticeNotification {
    /// The format's version.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Always `notice`: notifications about entries have no such field.
    pub kind: Kind,
    /// What the message is known by: drop what you have seen, SNS may deliver
    /// twice.
    pub key: String,
    /// The id of the ledger entry, a ULID.
    pub entry: String,
    /// Where the ledger has the entry.
    pub ledger_key: LedgerKey,
    /// What happened, in one line.
    pub headline: String,
    /// The control that it is about; `-` for none.
    pub control: String,
    /// How bad it is.
    pub severity: Severity,
    /// The topic; of a storm, the outcome that its entries have in common.
    pub outcome: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// When it was written.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// What it says.
    pub about: NotifiedAbout,
    /// How many items are left out of lists.
    pub omitted: u64,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A notice.
    Notice,
}

/// What a notice says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "topic", rename_all = "kebab-case")]
pub enum NotifiedAbout {
    /// Somebody set, changed or removed an opt-out tag.
    OptOutChanged {
        /// Id of the resource that carries the tag, or carried it.
        resource: String,
        /// The tag's key as it is spelt; absent: `backstop:opt-out`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// The tag's value now; absent: there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// What it means, by control.
        means: BTreeMap<ControlId, NotifiedExemption>,
        /// Who called, as the event states.
        actor: NotifiedActor,
    },
    /// A control changes nothing until a person re-arms it.
    ControlTripped {
        /// The budget: changes in a clock hour.
        changes_per_hour: u32,
        /// ARN of the resource whose changes would have exceeded it.
        resource: String,
        /// How many changes those were.
        changes: u32,
        /// When it tripped.
        #[schemars(with = "String", extend("format" = "date-time"))]
        tripped_at: Timestamp,
    },
    /// What a sweep saw.
    Digest(NotifiedDigest),
    /// Whether Backstop itself is in order.
    Health {
        /// One for each check that failed; none: all is well again.
        failed: Vec<NotifiedCheck>,
    },
    /// An event was given up.
    EventFailed {
        /// SQS's id of the message in the queue of failed events.
        message: String,
        /// The function that failed on it, or that it is for; absent: the message
        /// cannot be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        function: Option<String>,
        /// The event, in a few words.
        event: String,
        /// What the function said, or why the message cannot be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// When it was given up, as the message states.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed_at: Option<String>,
    },
    /// Many entries of one kind, told as one.
    Storm {
        /// How many.
        count: u64,
        /// The first few.
        examples: Vec<NotifiedExample>,
        /// When the first of them began.
        #[schemars(with = "String", extend("format" = "date-time"))]
        since: Timestamp,
        /// The teams that own the resources, as far as they are known.
        teams: Vec<String>,
        /// Whether these came after the storm had been told.
        after: bool,
        /// Whether they keep coming back.
        fight: bool,
    },
    /// Something asked an instance for metadata in a way that a remediation ended.
    RequestsRefused {
        /// ARN of the instance.
        resource: String,
        /// The id of the remediation's ledger entry, which an undo takes.
        remediation: String,
        /// When that began.
        #[schemars(with = "String", extend("format" = "date-time"))]
        since: Timestamp,
        /// How many requests were refused, when a sweep first saw some.
        requests: u64,
    },
}

/// What a sweep saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedDigest {
    /// Since when entries are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// Resources looked at, by control.
    pub looked_at: BTreeMap<ControlId, u64>,
    /// Entries since then, by control and outcome.
    pub outcomes: BTreeMap<ControlId, BTreeMap<String, u64>>,
    /// What is open now, by control and reason.
    pub open: BTreeMap<ControlId, BTreeMap<String, NotifiedOpen>>,
    /// What the sweep met before the event path did.
    pub met_first: NotifiedOpen,
    /// Unencrypted data that is kept on purpose, by kind: originals that were
    /// replaced, and the snapshots of runs.
    #[serde(default)]
    pub kept: BTreeMap<String, NotifiedOpen>,
    /// Originals that the policy had kept for long enough, and that were
    /// deleted.
    #[serde(default)]
    pub deleted: NotifiedOpen,
    /// Snapshots taken before patches were installed that the policy had kept for
    /// long enough, and that were deleted.
    #[serde(default)]
    pub snapshots_deleted: NotifiedOpen,
    /// Opt-outs that want somebody's attention.
    pub opt_outs: Vec<NotifiedOptOutSeen>,
    /// What resources depend on and other accounts own, by id (prefix lists): a
    /// change of it raises no event here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub of_others: BTreeMap<String, NotifiedOfOther>,
    /// Entries taken up again because their lease had lapsed.
    pub resumed: u64,
    /// Entries told because nobody had been.
    pub told: u64,
    /// What could not be seen, in sentences.
    pub unseen: Vec<String>,
}

/// A number of resources, and the first few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedOpen {
    /// How many.
    pub count: u64,
    /// The first few, by id.
    pub examples: Vec<String>,
}

/// Something that another account owns, and what depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedOfOther {
    /// The account.
    pub owner: String,
    /// The resources that depend on it.
    pub needed_by: NotifiedOpen,
}

/// An opt-out tag that wants somebody's attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedOptOutSeen {
    /// Id of the resource that carries it.
    pub resource: String,
    /// The tag's value.
    pub value: String,
    /// `ended`, `ends soon` or `malformed`.
    pub state: String,
    /// Last day (UTC) on which it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Date>,
    /// Who answers for it, as stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedCheck {
    /// The check's name.
    pub check: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

/// One of many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotifiedExample {
    /// The resource.
    pub resource: String,
    /// The id of its ledger entry.
    pub entry: String,
}

impl NoticeNotification {
    /// The notification about a notice, with at most `most` items in a list.
    fn of(notice: &Notice, told: &Told, most: usize) -> Self {
        let mut omitted = 0;
        let about = notified(&notice.about, most, &mut omitted);
        Self {
            version: VERSION,
            kind: Kind::Notice,
            key: told.key.clone(),
            entry: name(&notice.id),
            ledger_key: LedgerKey::of(&notice.id),
            headline: cut(&told.headline),
            control: told.control.clone(),
            severity: told.severity,
            outcome: told.outcome.clone(),
            account: name(&notice.account),
            region: name(&notice.region),
            at: notice.at,
            about,
            omitted,
        }
    }

    /// The JSON Schema of the notification.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

/// The first items of a list; the others are counted.
fn first<T, U>(items: &[T], most: usize, omitted: &mut u64, of: impl Fn(&T) -> U) -> Vec<U> {
    *omitted += items.len().saturating_sub(most) as u64;
    items.iter().take(most).map(of).collect()
}

fn notified(about: &About, most: usize, omitted: &mut u64) -> NotifiedAbout {
    match about {
        About::OptOutChanged(changed) => NotifiedAbout::OptOutChanged {
            resource: name(&changed.resource),
            key: some_text(&changed.key),
            value: some_text(&changed.value),
            means: changed.means.iter().map(|(c, e)| (*c, e.into())).collect(),
            actor: (&changed.actor).into(),
        },
        About::ControlTripped(tripped) => NotifiedAbout::ControlTripped {
            changes_per_hour: tripped.changes_per_hour,
            resource: cut(&tripped.resource),
            changes: tripped.changes,
            tripped_at: tripped.at,
        },
        About::Digest(digest) => NotifiedAbout::Digest(notified_digest(digest, most, omitted)),
        About::Health(health) => NotifiedAbout::Health {
            failed: first(&health.failed, most, omitted, |failed| NotifiedCheck {
                check: name(&failed.check),
                found: cut(&failed.found),
                remedy: cut(&failed.remedy),
            }),
        },
        About::EventFailed(failed) => NotifiedAbout::EventFailed {
            message: name(&failed.message),
            function: some_text(&failed.function),
            event: cut(&failed.event),
            error: some_text(&failed.error),
            failed_at: some_text(&failed.failed_at),
        },
        About::RequestsRefused(refused) => NotifiedAbout::RequestsRefused {
            resource: cut(&refused.resource),
            remediation: name(&refused.remediation),
            since: refused.since,
            requests: refused.requests,
        },
        About::Storm(storm) => {
            let teams: Vec<&String> = storm.teams.iter().collect();
            NotifiedAbout::Storm {
                count: storm.count,
                examples: first(&storm.examples, most, omitted, |(resource, entry)| {
                    NotifiedExample {
                        resource: cut(resource),
                        entry: name(entry),
                    }
                }),
                since: storm.since,
                teams: first(&teams, most, omitted, |team| name(team)),
                after: storm.after,
                fight: storm.fight,
            }
        }
    }
}

fn notified_digest(digest: &Digest, most: usize, omitted: &mut u64) -> NotifiedDigest {
    let mut some = |open: &Open| NotifiedOpen {
        count: open.count,
        examples: first(&open.examples, most, omitted, |id| name(id)),
    };
    let open = digest
        .open
        .iter()
        .map(|(control, reasons)| {
            let reasons = reasons.iter().take(most);
            let reasons = reasons.map(|(reason, open)| (cut(reason), some(open)));
            (*control, reasons.collect())
        })
        .collect();
    let met_first = some(&digest.met_first);
    let kept = digest.kept.iter();
    let kept = kept.map(|(kind, of)| (name(kind), some(of))).collect();
    let snapshots_deleted = some(&digest.snapshots_deleted);
    let deleted = some(&digest.deleted);
    let of_others = digest.of_others.iter().take(most);
    let of_others = of_others
        .map(|(id, of)| {
            let owner = name(&of.owner);
            let needed_by = some(&of.needed_by);
            (name(id), NotifiedOfOther { owner, needed_by })
        })
        .collect();
    *omitted += digest.of_others.len().saturating_sub(most) as u64;
    let outcomes = digest.outcomes.iter().map(|(control, outcomes)| {
        let outcomes = outcomes.iter().take(most);
        (*control, outcomes.map(|(o, n)| (name(o), *n)).collect())
    });
    *omitted += digest.more_opt_outs;
    NotifiedDigest {
        since: digest.since,
        looked_at: digest.looked_at.clone(),
        outcomes: outcomes.collect(),
        open,
        met_first,
        kept,
        deleted,
        snapshots_deleted,
        opt_outs: first(&digest.opt_outs, most, omitted, |seen| NotifiedOptOutSeen {
            resource: name(&seen.resource),
            value: cut(&seen.value),
            state: name(&seen.state),
            until: seen.until,
            owner: some_text(&seen.owner),
            why: some_text(&seen.why),
        }),
        of_others,
        resumed: digest.resumed,
        told: digest.told,
        unseen: first(&digest.unseen, most, omitted, |line| cut(line)),
    }
}

/// A notice as people are told it.
struct Told {
    key: String,
    headline: String,
    control: String,
    severity: Severity,
    outcome: String,
    /// The attribute `team`: a JSON list where there are several.
    team: String,
    /// The same in words.
    teams: String,
    resources: Vec<String>,
    sections: Vec<Section>,
}

/// Composes the message about a notice.
pub(super) fn compose(notice: &Notice) -> Message {
    let told = told(notice);
    let card = Card {
        key: told.key.clone(),
        record: &notice.id,
        title: &told.headline,
        sections: &told.sections,
        control: &told.control,
        severity: told.severity,
        outcome: &told.outcome,
        account: &notice.account,
        region: &notice.region,
        team: &told.teams,
        resources: told.resources.clone(),
    };
    let (mail, chat) = (text::of_card(&card), chat::card(&card).to_string());
    let mut attributes = attributes(&card);
    // In words for people, as a list where subscriptions filter by it.
    attributes.insert("team".to_owned(), told.team.clone());
    fitted(
        shortened_subject(&told.headline),
        attributes,
        &chat,
        |_| mail.clone(),
        |most| to_json(&NoticeNotification::of(notice, &told, most)),
    )
}

fn told(notice: &Notice) -> Told {
    let unowned = || "unowned".to_owned();
    let mut told = Told {
        key: notice.message_key(),
        headline: String::new(),
        control: or(&one_line(notice.control(), 100), "-"),
        severity: Severity::Medium,
        outcome: notice.about.name().to_owned(),
        team: unowned(),
        teams: unowned(),
        resources: Vec::new(),
        sections: Vec::new(),
    };
    match &notice.about {
        About::OptOutChanged(changed) => opt_out_changed(changed, &notice.region, &mut told),
        About::ControlTripped(tripped) => control_tripped(tripped, &mut told),
        About::Digest(digest) => say_digest(digest, &mut told),
        About::Health(health) => say_health(health, &mut told),
        About::EventFailed(failed) => say_event_failed(failed, &mut told),
        About::Storm(storm) => say_storm(storm, &mut told),
        About::RequestsRefused(refused) => say_requests_refused(refused, &mut told),
    }
    told
}

// ------------------------------------------------------------------ opt-outs

fn opt_out_changed(changed: &OptOutChanged, region: &str, told: &mut Told) {
    let id = or(&one_line(&changed.resource, 60), "unknown");
    let controls = |of: fn(&Exemption) -> bool| {
        let named = changed.means.iter().filter(|(_, e)| of(e));
        named.map(|(c, _)| c.to_string()).collect::<Vec<_>>()
    };
    let malformed = controls(|e| matches!(e, Exemption::Malformed { .. }));
    let exempt = controls(|e| matches!(e, Exemption::Exempt(_)));
    let end = changed.means.values().find_map(|e| match e {
        Exemption::Exempt(opt_out) | Exemption::Ended(opt_out) => Some(opt_out.until),
        _ => None,
    });
    let until = match end.flatten() {
        Some(day) => format!("until {day}"),
        None => "without an end".to_owned(),
    };
    told.headline = match &changed.value {
        None => format!("OPT-OUT REMOVED: {id} carries none any more and is checked again"),
        Some(_) if !malformed.is_empty() => {
            format!("OPT-OUT UNREADABLE: {id} is held until the tag is put right")
        }
        Some(_) if !exempt.is_empty() => {
            format!(
                "OPT-OUT SET: {id} is exempt from {} {until}",
                joined(&exempt, 1)
            )
        }
        Some(_) if end.is_some() => {
            format!("OPT-OUT ENDED: the tag of {id} held {until}, it is checked again")
        }
        Some(_) => format!("OPT-OUT SET: {id} carries one that excludes no control"),
    };
    if !malformed.is_empty() || (!exempt.is_empty() && end.flatten().is_none()) {
        told.severity = Severity::High;
    }
    told.resources.push(changed.resource.clone());

    let value = changed.value.as_deref();
    let key = changed.key.as_deref().unwrap_or(OPT_OUT_TAG);
    told.sections.push(Section::new(
        "What changed",
        vec![match value {
            Some(value) => format!(
                "The tag {} of {id} is now `{}`.",
                one_line(key, MOST_TEXT),
                one_line(value, MOST_TEXT)
            ),
            None => format!("The tag {OPT_OUT_TAG} of {id} is gone."),
        }],
    ));
    told.sections
        .push(Section::new("What it means", meaning(changed, &id)));
    told.sections.push(Section::new(
        "Who did it, as the event states",
        who(&changed.actor),
    ));
    let remove = aws(
        "ec2 delete-tags",
        region,
        &[
            ("--resources", id.clone()),
            ("--tags", ascii_json(&json!([{ "Key": key }]))),
        ],
    );
    let remove = format!("remove the tag: {remove}");
    let (heading, lines) = match value {
        None => (
            "How to opt out again",
            vec![format!(
                "If it was removed by mistake: tag {id} with the key {OPT_OUT_TAG} and {SPELLING}."
            )],
        ),
        Some(_) if !malformed.is_empty() => (
            "How to put it right",
            vec![
                match &changed.key {
                    None => format!("Write it as {SPELLING}. Nothing is changed meanwhile."),
                    Some(_) => format!(
                        "Tag {id} with the key {OPT_OUT_TAG} and {SPELLING}. While the other spelling is there, nothing is changed."
                    ),
                },
                match &changed.key {
                    None => format!("Or {remove}"),
                    Some(_) => format!("Then, or if it is to be remediated, {remove}"),
                },
            ],
        ),
        Some(_) => (
            "How to end the opt-out",
            vec![format!("If it is not meant to be, {remove}")],
        ),
    };
    told.sections.push(Section::next_step(heading, lines));
}

fn meaning(changed: &OptOutChanged, id: &str) -> Vec<String> {
    let mut lines: Vec<String> = changed
        .means
        .iter()
        .filter_map(|(control, exemption)| {
            Some(match exemption {
                Exemption::Exempt(opt_out) => {
                    format!("{control} changes nothing here {}.", terms(opt_out))
                }
                Exemption::Ended(opt_out) => format!(
                    "{control} is not held back: the opt-out has ended, it held {}.",
                    terms(opt_out)
                ),
                Exemption::Malformed { problem, .. } => format!(
                    "{control} changes nothing here, because the tag cannot be read: {}.",
                    clause(problem, MOST_TEXT)
                ),
                Exemption::None | Exemption::Existing => return None,
            })
        })
        .collect();
    let holds = changed.means.values().any(Exemption::holds);
    if !holds {
        if lines.is_empty() {
            lines.push(format!(
                "Nothing on {id} itself holds a control back any more."
            ));
        }
        lines.push(
            "What it protected is looked at now, and put right if it is open and nothing else excludes it."
                .to_owned(),
        );
    }
    if id.starts_with("vpc-") {
        lines.push(
            "It is the tag of a VPC: all its security groups and subnets are concerned.".to_owned(),
        );
    }
    lines
}

// ------------------------------------------------------------------- tripped

fn control_tripped(tripped: &ControlTripped, told: &mut Told) {
    let control = tripped.control;
    told.severity = Severity::Critical;
    told.headline = format!("TRIPPED: {control} changes nothing more until a person re-arms it");
    told.resources.push(tripped.resource.clone());
    let resource = or_unknown(Some(&tripped.resource), MOST_TEXT);
    told.sections = vec![
        Section::new("What happened", vec![
                format!(
                    "{} to {resource} would have exceeded the budget of {control}: {} changes in a clock hour (UTC).",
                    counted(u64::from(tripped.changes), "change"),
                    tripped.changes_per_hour
                ),
                format!("It tripped at {}.", time(tripped.at)),
                "A wrong policy, or somebody who opens many resources at once, looks like this."
                    .to_owned(),
            ]),
        Section::new("What stays open", vec![
                format!("{resource}, and everything that {control} finds from now on."),
                "Each critical finding is told by itself. The others are only recorded: the digest of the next sweep lists them, `backstop scan` shows them now.".to_owned(),
            ]),
        Section::next_step("How to go on", vec![
                "Find the cause first: `backstop history` shows what was changed and who had opened it.".to_owned(),
                format!("Then: backstop re-arm {control}"),
                "The next sweep puts right what is still open, and ends the alarm.".to_owned(),
            ]),
    ];
}

// -------------------------------------------------------------------- digest

fn say_digest(digest: &Digest, told: &mut Told) {
    let open: u64 = digest
        .open
        .values()
        .flat_map(BTreeMap::values)
        .map(|open| open.count)
        .sum();
    let opt_outs = digest.opt_outs.len() as u64 + digest.more_opt_outs;
    let mut parts = vec![format!("{open} open")];
    if digest.met_first.count > 0 {
        parts.push(format!("{} met by the sweep first", digest.met_first.count));
    }
    if opt_outs > 0 {
        parts.push(format!("{} to look at", counted(opt_outs, "opt-out")));
    }
    if !digest.unseen.is_empty() {
        parts.push(format!("{} not seen", digest.unseen.len()));
    }
    told.headline = format!("DIGEST: {}", parts.join(", "));
    if open > 0 || !digest.unseen.is_empty() {
        told.severity = Severity::High;
    }
    let since = digest.since.map_or_else(
        || "Since the beginning".to_owned(),
        |since| format!("Since {}", time(since)),
    );
    let mut open = Vec::new();
    for (control, reasons) in &digest.open {
        for (reason, of) in reasons {
            open.push(format!(
                "{control}, {}: {}",
                one_line(reason, MOST_TEXT),
                some(of)
            ));
        }
    }
    let mut done = Vec::new();
    for (control, outcomes) in &digest.outcomes {
        let outcomes: Vec<String> = outcomes
            .iter()
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect();
        done.push(format!(
            "{since}, {control}: {}",
            joined(&outcomes, MOST_LINES)
        ));
    }
    for (control, looked_at) in &digest.looked_at {
        done.push(format!(
            "{} looked at for {control}",
            counted(*looked_at, "resource")
        ));
    }
    if digest.resumed > 0 {
        let resumed = counted(digest.resumed, "run");
        done.push(format!("{resumed} taken up again that had been cut off"));
    }
    if digest.told > 0 {
        let told = counted(digest.told, "entry");
        done.push(format!("{told} told now, because nobody had been told"));
    }
    let mut met_first = Vec::new();
    if digest.met_first.count > 0 {
        met_first.push(format!(
            "{}. No event had led to them: see whether the trail logs management events here (backstop doctor).",
            some(&digest.met_first)
        ));
    }
    let mut kept: Vec<String> = digest
        .kept
        .iter()
        .map(|(kind, of)| format!("{}: {}", one_line(kind, MOST_TEXT), some(of)))
        .collect();
    if !kept.is_empty() {
        kept.push(
            "They cost money and are unencrypted. Delete what is not needed, or let the policy do it (`originals.delete_after_days`)."
                .to_owned(),
        );
    }
    if digest.deleted.count > 0 {
        done.push(format!(
            "{} deleted, as the policy says (`originals.delete_after_days`): {}; what was in them is in their copies and snapshots",
            counted(digest.deleted.count, "replaced original"),
            some(&digest.deleted)
        ));
    }
    if digest.snapshots_deleted.count > 0 {
        done.push(format!(
            "{} from before patches deleted, as the policy says (`patching.snapshots.delete_after_days`): {}",
            counted(digest.snapshots_deleted.count, "snapshot"),
            some(&digest.snapshots_deleted)
        ));
    }
    let mut opt_outs = shortened(&digest.opt_outs, MOST_LINES, say_opt_out);
    if digest.more_opt_outs > 0 {
        opt_outs.push(format!(
            "and {} more: backstop opt-outs",
            digest.more_opt_outs
        ));
    }
    let unseen = shortened(&digest.unseen, MOST_LINES, |line| {
        one_line(line, 2 * MOST_TEXT)
    });
    let of_others = shortened(&digest.of_others, MOST_LINES, |(id, of)| {
        format!(
            "{}, of the account {}: {}",
            one_line(id, 100),
            one_line(&of.owner, 100),
            some(&of.needed_by)
        )
    });
    let mut steps = Vec::new();
    if !open.is_empty() {
        steps.push("backstop history RESOURCE says why something is left open.");
    }
    if !opt_outs.is_empty() {
        steps.push("Ask the owners to renew, end or correct their opt-outs.");
    }
    if !unseen.is_empty() {
        steps.push("Remove the cause of what could not be seen: it may hide something open.");
    }
    if steps.is_empty() {
        steps.push("There is nothing to do.");
    }
    let steps = steps.into_iter().map(str::to_owned).collect();
    told.sections = [
        ("What is open, and why", open),
        ("What could not be seen", unseen),
        ("Met by the sweep before any event", met_first),
        (
            "Prefix lists of other accounts: a change of one raises no event here, only the sweep sees it",
            of_others,
        ),
        ("Unencrypted data that is kept", kept),
        ("Opt-outs that ended, end soon or cannot be read", opt_outs),
        ("What was done", done),
    ]
    .into_iter()
    .filter(|(_, lines): &(_, Vec<String>)| !lines.is_empty())
    .map(|(heading, lines)| Section::new(heading, lines))
    .chain([Section::next_step("How to go on", steps)])
    .collect();
}

/// `3 (sg-1, sg-2, and 1 more)`.
fn some(open: &Open) -> String {
    let shown: Vec<String> = open
        .examples
        .iter()
        .take(MOST_EXAMPLES)
        .map(|id| one_line(id, 100))
        .collect();
    let more = open.count.saturating_sub(shown.len() as u64);
    match (shown.is_empty(), more) {
        (true, _) => open.count.to_string(),
        (false, 0) => format!("{} ({})", open.count, shown.join(", ")),
        (false, more) => format!("{} ({} and {more} more)", open.count, shown.join(", ")),
    }
}

fn say_opt_out(seen: &OptOutSeen) -> String {
    let until = seen
        .until
        .map_or_else(|| "without an end".to_owned(), |day| format!("until {day}"));
    let why = seen
        .why
        .as_deref()
        .map(|why| format!(": {}", clause(why, MOST_TEXT)));
    format!(
        "{} {} ({until}, by {}){}. Its value: `{}`",
        one_line(&seen.resource, 100),
        one_line(&seen.state, 50),
        or(
            &one_line(seen.owner.as_deref().unwrap_or_default(), 100),
            "nobody named"
        ),
        why.unwrap_or_default(),
        one_line(&seen.value, MOST_TEXT),
    )
}

// -------------------------------------------------------------------- health

fn say_health(health: &Health, told: &mut Told) {
    if health.failed.is_empty() {
        told.headline = "HEALTHY: every check of Backstop itself passes again".to_owned();
        told.sections.push(Section::new(
            "What was found",
            vec!["Nothing is out of order any more. There is nothing to do.".to_owned()],
        ));
        return;
    }
    let names: Vec<&String> = health.failed.iter().map(|failed| &failed.check).collect();
    told.headline = format!(
        "UNHEALTHY: Backstop may not see or tell everything: {}",
        joined(&names, 5)
    );
    told.severity = Severity::Critical;
    told.sections.push(Section::new(
        "What is out of order",
        shortened(&health.failed, MOST_LINES, |failed| {
            format!(
                "{}: {}.",
                one_line(&failed.check, 50),
                clause(&failed.found, MOST_TEXT)
            )
        }),
    ));
    let mut steps = shortened(&health.failed, MOST_LINES, |failed| {
        format!(
            "{}: {}.",
            one_line(&failed.check, 50),
            clause(&failed.remedy, MOST_TEXT)
        )
    });
    steps.push("Then: backstop doctor".to_owned());
    told.sections
        .push(Section::next_step("How to put it in order", steps));
}

// -------------------------------------------------------------- failed events

fn say_event_failed(failed: &EventFailed, told: &mut Told) {
    let event = one_line(&failed.event, 100);
    let error = failed
        .error
        .as_deref()
        .map(|error| clause(error, MOST_TEXT));
    let at = failed.failed_at.as_deref();
    let at = at.map_or_else(String::new, |at| format!(" at {}", one_line(at, 50)));
    told.severity = Severity::Critical;
    told.resources.push(failed.event.clone());
    let happened = match &failed.function {
        Some(function) => {
            let function = one_line(function, 100);
            told.headline = format!("EVENT FAILED: {event}, given up by {function}");
            let error = error.unwrap_or_else(|| "it was never delivered".to_owned());
            format!("{event} is for the function {function} and was given up{at}: {error}.")
        }
        None => {
            told.headline = format!("EVENT FAILED: {event}");
            format!(
                "A message in the queue of failed events cannot be read: {}.",
                error.unwrap_or_else(|| "nobody knows why".to_owned())
            )
        }
    };
    let message = one_line(&failed.message, 100);
    told.sections = vec![
        Section::new("What happened", vec![happened]),
        Section::new("What it means", vec![
            "What it was about may be as it was: a port open to the world, a volume unencrypted, an instance unpatched. Or a message was not sent.".to_owned(),
        ]),
        Section::next_step("How to go on", vec![
            "Look at all of them: backstop failed list".to_owned(),
            format!("Once the cause is gone: backstop failed redrive {message}"),
            "The event is kept for 14 days. It is not told again.".to_owned(),
        ]),
    ];
}

// ---------------------------------------------------------- requests refused

fn say_requests_refused(refused: &RequestsRefused, told: &mut Told) {
    let resource = or_unknown(Some(&refused.resource), MOST_TEXT);
    let id = one_line(id_of(&refused.resource), 60);
    let requests = counted(refused.requests, "request");
    let (control, entry) = (refused.control, one_line(&refused.remediation, 50));
    told.severity = Severity::High;
    told.resources.push(refused.resource.clone());
    told.team = team_or_unowned(refused.team.as_deref()).to_owned();
    told.teams.clone_from(&told.team);
    told.headline = format!("REFUSED: {id} refused {requests} since it requires IMDSv2");
    told.sections = vec![
        Section::new(
            "What happened",
            vec![
                format!(
                    "{control} required IMDSv2 of {resource} at {} (entry {entry}).",
                    time(refused.since)
                ),
                format!(
                    "Within a day after that it refused {requests} without a token (CloudWatch metric MetadataNoTokenRejected)."
                ),
            ],
        ),
        Section::new(
            "What it means",
            vec![
                "Something on it still uses IMDSv1, and gets neither metadata nor the credentials of the instance's role.".to_owned(),
            ],
        ),
        Section::next_step(
            "How to go on",
            vec![
                "Find what asks without a token, and update it: nothing else has to be done then."
                    .to_owned(),
                format!(
                    "If it must go on meanwhile: backstop undo {entry} --reason \"what still uses IMDSv1\" puts it back, with an opt-out."
                ),
                "It is not told again for this entry.".to_owned(),
            ],
        ),
    ];
}

// --------------------------------------------------------------------- storm

fn say_storm(storm: &Storm, told: &mut Told) {
    let outcome = or(&one_line(&storm.outcome, 50), "-");
    let failed = storm.outcome.ends_with(Status::Failed.name());
    told.severity = storm.severity.unwrap_or(match failed {
        true => Severity::Critical,
        false => Severity::High,
    });
    let more = if storm.after { " more" } else { "" };
    let again = if storm.fight { " again" } else { "" };
    let control = match told.control.as_str() {
        "-" => String::new(),
        control => format!("{control} "),
    };
    told.headline = format!(
        "STORM {}: {control}{outcome}{again}, {}{more} time{}",
        told.severity,
        storm.count,
        if storm.count == 1 { "" } else { "s" }
    );
    told.outcome = outcome.clone();
    let teams: Vec<String> = storm
        .teams
        .iter()
        .take(MOST_TEAMS)
        .map(|team| or(&one_line(team, 256), "unowned"))
        .collect();
    match teams.as_slice() {
        [] => {}
        [team] => team.clone_into(&mut told.team),
        // SNS matches a filter against each text of such a list.
        _ => told.team = json!(teams).to_string(),
    }
    if !teams.is_empty() {
        told.teams = joined(&teams, MOST_EXAMPLES);
    }
    let number = match (storm.count, storm.after) {
        (1, false) => "1 entry".to_owned(),
        (1, true) => "1 more entry".to_owned(),
        (count, _) => format!("{count}{more} entries"),
    };
    let mut happened = vec![
        format!(
            "{number} came to the outcome `{outcome}`{again}, the first at {}.",
            time(storm.since)
        ),
        match (storm.after, failed) {
            (true, _) => "They came after the storm had been told, and were counted and not told one by one.",
            (false, true) => "They are told as one. Further failures are told as well.",
            (false, false) => "They are told as one. Further ones are only counted for 15 minutes; the next sweep after that tells how many.",
        }
        .to_owned(),
    ];
    if storm.fight {
        happened
            .push("They keep coming back: whatever puts them back has to be changed.".to_owned());
    }
    let mut examples: Vec<String> = storm
        .examples
        .iter()
        .take(MOST_LINES)
        .map(|(resource, entry)| {
            told.resources.push(resource.clone());
            format!("{}, entry {}", one_line(resource, 200), one_line(entry, 50))
        })
        .collect();
    let unnamed = storm.count.saturating_sub(examples.len() as u64);
    if unnamed > 0 {
        examples.push(match examples.is_empty() {
            true => "Not listed here: backstop history shows them.".to_owned(),
            false => format!("and {unnamed} more: backstop history shows them"),
        });
    }
    let step = if storm.outcome == EVENT_FAILED {
        "What they were about may be as it was. Look for the cause they share: backstop failed list; once it is gone: backstop failed redrive --all."
    } else if failed {
        "They may still be open. Look for the cause they share in the first entry (backstop history RESOURCE); close them by hand if no message says that they are fixed."
    } else {
        "Find out who is behind it: backstop history RESOURCE names the caller of each. One that is meant to be: backstop undo ENTRY."
    };
    told.sections = vec![
        Section::new("What happened", happened),
        Section::new("Which they are", examples),
        Section::next_step("How to go on", vec![step.to_owned()]),
    ];
}

fn counted(count: u64, what: &str) -> String {
    prose::counted(usize::try_from(count).unwrap_or(usize::MAX), what)
}
