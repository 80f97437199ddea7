//! The story: the sections that a person reads first, on a phone and under
//! stress. What was found, what was done or why not, who did it, how to take it
//! back, how to opt out, and what else is good to know.
//!
//! One story for every control: what differs comes from the control's phrases and
//! from what it says of its items. Mail and chat show the same sections.
//! Deliberately not here: how either of them lays sections out, and anything that
//! needs more than a few lines.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};
use serde_json::Value;

use crate::any_control::AnyControl;
use crate::control::ByHand;
use crate::controls;
use crate::entry::Entry;
use crate::exemption::{Exemption, OPT_OUT_TAG, OptOut, SPELLING};
use crate::info::{Phrases, Tagged};
use crate::plan::{Ending, Exposure, Outcome, Step};
use crate::prose::{capitalised, clause, joined, one_line, or, or_unknown, time};
use crate::words::{Actor, Status};

mod sections;

/// Most lines of a section about items.
const MOST_LINES: usize = 5;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// For how many days the opt-outs hold that a message proposes.
const OPT_OUT_DAYS: i64 = 90;

/// A heading and its lines.
pub(super) struct Section {
    /// What the lines are about.
    pub(super) heading: Cow<'static, str>,
    /// One line each.
    pub(super) lines: Vec<String>,
}

/// The words where the control has none: its findings are not remediated at once,
/// and no release stores an entry of it.
const PLAIN: Phrases = Phrases {
    resource: "resource",
    item: "item",
    tagged: Some(Tagged {
        any: "the resource",
        resource: "the resource",
    }),
    found: "not as it should be",
    closed: "it is as it should be",
    remedy: "put it right",
    why_exempt: "why it must stay so",
    afterwards: &[],
};

/// How one item is put back by hand.
pub(super) struct PutBack {
    /// The item, for people.
    pub(super) what: String,
    /// The commands, to be run in this order.
    pub(super) commands: Vec<String>,
}

/// An entry with its outcomes by item.
pub(super) struct Story<'a> {
    pub(super) entry: &'a Entry,
    control: Option<&'static dyn AnyControl>,
    /// The words of the control.
    pub(super) phrases: Phrases,
    /// How the first items that we changed are put back, by id.
    pub(super) put_back: Vec<PutBack>,
    /// How many items there are to put back.
    pub(super) undoable: usize,
    /// The last outcome of each step.
    last: BTreeMap<&'a str, Vec<&'a Outcome>>,
    /// All outcomes, those of earlier attempts included.
    all: BTreeMap<&'a str, Vec<&'a Outcome>>,
}

impl<'a> Story<'a> {
    /// The story of an entry, with the commands that put the first `most` items
    /// back.
    pub(super) fn new(entry: &'a Entry, most: usize) -> Self {
        let control = controls::of(entry.head.control);
        let mut story = Self {
            entry,
            control,
            phrases: control.map_or(PLAIN, |control| control.info().phrases),
            put_back: Vec::new(),
            undoable: 0,
            last: by_item(entry.last_outcomes()),
            all: by_item(&entry.detail.outcomes),
        };
        let items = entry.detail.before.keys();
        let undoable: Vec<&String> = items.filter(|item| story.is_undoable(item)).collect();
        let shown = undoable.iter().take(most);
        story.put_back = shown.filter_map(|item| story.put_back(item)).collect();
        story.undoable = undoable.len();
        story
    }

    /// Whether a step of ours changed something about the item that still holds.
    fn is_undoable(&self, item: &str) -> bool {
        let outcomes = self.all_outcomes(item);
        let taken_back = |id: &str| {
            outcomes.iter().any(|o| {
                o.step == Step::TakeBack && !o.failed() && o.created.as_deref() == Some(id)
            })
        };
        let added = |o: &&Outcome| o.created.as_deref().is_some_and(|id| !taken_back(id));
        self.cut(item)
            || outcomes
                .iter()
                .any(|o| o.step == Step::Authorise && o.ending == Ending::Done && added(o))
    }

    /// How an item is put back by hand.
    fn put_back(&self, item: &str) -> Option<PutBack> {
        let detail = &self.entry.detail;
        let before = detail.before.get(item)?;
        let mut changes = detail.plan.changes.iter().rev();
        let planned = changes.find(|change| change.item == item);
        let left = match detail.after.get(item) {
            Some(left) => left.clone(),
            None => planned.and_then(|change| change.after.clone()),
        };
        let control = self.control?;
        let commands = control.commands(ByHand {
            resource: self.entry.resource_id(),
            region: &self.entry.head.region,
            item,
            left,
            to: Some(before.clone()),
            opt_out: &format!(
                "{} until={} reason=undo",
                self.entry.head.control,
                self.opt_out_until()
            ),
            outcomes: self.all_outcomes(item),
        })?;
        let what = format!("{item} ({})", control.line(item, before)?);
        Some(PutBack {
            what: one_line(&what, 200),
            commands,
        })
    }

    /// An item's name within a sentence.
    fn name(&self, item: &str) -> String {
        let name = self.control.map(|control| control.name(item));
        one_line(name.as_deref().unwrap_or(item), 100)
    }

    /// An item's name at the beginning of a sentence. Ids stay as they are.
    fn leading_name(&self, item: &str) -> String {
        match self.name(item) {
            name if name == one_line(item, 100) => name,
            name => capitalised(&name),
        }
    }

    /// What is wrong with an item, in one line.
    pub(super) fn exposure_line(&self, exposure: &Exposure) -> String {
        let line = self.control.and_then(|c| c.exposure_line(exposure));
        line.unwrap_or_else(|| self.unread(exposure))
    }

    /// Everything there is to say of an item that is wrong.
    pub(super) fn details(&self, exposure: &Exposure) -> Vec<String> {
        let lines = self.control.and_then(|c| c.details(exposure));
        lines.unwrap_or_else(|| vec![self.unread(exposure)])
    }

    /// What is said of an item whose state cannot be read.
    fn unread(&self, exposure: &Exposure) -> String {
        let id = one_line(&exposure.item, 100);
        format!("{id}: this release cannot read it, see the ledger entry")
    }

    /// What is wrong with the resource, in several lengths.
    pub(super) fn headlines(&self, lengths: &[usize]) -> Vec<String> {
        let concerned = self.concerned();
        let control = self.control;
        let lines = control.and_then(|c| c.headlines(&concerned, lengths));
        lines.unwrap_or_else(|| vec![self.phrases.found.to_owned(); lengths.len()])
    }

    /// A part of an item, in words.
    fn part(&self, item: &str, state: &Value) -> String {
        let words = self.control.and_then(|control| {
            let permission = control.permission(state).map(|p| p.to_string());
            permission.or_else(|| control.line(item, state))
        });
        or_unknown(words.as_deref(), 100)
    }

    /// The outcomes that count, by rule and in the order of steps.
    pub(super) fn last_outcomes(&self) -> Vec<&'a Outcome> {
        self.last.values().flatten().copied().collect()
    }

    /// The outcomes of a rule that count, in the order of steps.
    pub(super) fn outcomes(&self, rule: &str) -> &[&'a Outcome] {
        self.last.get(rule).map_or(&[], Vec::as_slice)
    }

    /// All outcomes of a rule, in the order of time.
    pub(super) fn all_outcomes(&self, rule: &str) -> &[&'a Outcome] {
        self.all.get(rule).map_or(&[], Vec::as_slice)
    }

    /// The exposures that the message is about in the first place: of a
    /// failure those that failed, of a success those that were to be closed,
    /// else those that are still there.
    pub(super) fn concerned(&self) -> Vec<&'a Exposure> {
        let all = || self.entry.detail.exposures.iter();
        let concerned: Vec<&Exposure> = match self.entry.head.status {
            Status::Failed => all().filter(|e| self.failed(&e.item)).collect(),
            Status::Remediated => all()
                .filter(|e| !e.exemption.holds())
                .filter(|e| !e.is_left_unjudged(&self.entry.detail.plan.changes))
                .collect(),
            _ => all().filter(|e| !self.cut(&e.item)).collect(),
        };
        if concerned.is_empty() {
            all().collect()
        } else {
            concerned
        }
    }

    /// Whether a step on the rule failed and has not been mended.
    fn failed(&self, rule: &str) -> bool {
        self.outcomes(rule).iter().any(|outcome| outcome.failed())
    }

    /// Whether any step of ours changed anything.
    pub(super) fn changed_something(&self) -> bool {
        self.entry
            .detail
            .outcomes
            .iter()
            .any(|outcome| outcome.ending == Ending::Done)
    }

    /// Whether a step of ours took something from the rule.
    pub(super) fn cut(&self, rule: &str) -> bool {
        self.all_outcomes(rule).iter().any(|outcome| {
            matches!(outcome.step, Step::Narrow | Step::Revoke | Step::Set)
                && outcome.ending == Ending::Done
        })
    }

    /// The last day of the opt-outs that the message proposes.
    pub(super) fn opt_out_until(&self) -> Date {
        let started = Offset::UTC.to_datetime(self.entry.head.started_at).date();
        started.saturating_add(OPT_OUT_DAYS.days())
    }
}

/// Who called, what, from where and with what.
pub(super) fn who(actor: &Actor) -> Vec<String> {
    let invoked_by = actor
        .invoked_by
        .as_deref()
        .filter(|by| actor.principal.as_deref() != Some(by));
    let through = invoked_by.map(|by| format!(", through {}", one_line(by, 100)));
    let call = [actor.event_name.clone(), actor.event_time.map(time)];
    let call: Vec<String> = call.into_iter().flatten().collect();
    vec![
        format!(
            "Who: {}{}",
            or_unknown(actor.principal.as_deref(), MOST_TEXT),
            through.unwrap_or_default()
        ),
        format!("Call: {}", or(&joined(&call, 2), "unknown")),
        format!("From: {}", or_unknown(actor.source_address.as_deref(), 100)),
        format!("With: {}", or_unknown(actor.user_agent.as_deref(), 200)),
    ]
}

/// The owner that an opt-out is proposed with. A team's name that could be read as
/// something else is not put in.
pub(super) fn owner(team: Option<&str>) -> &str {
    let plain = |team: &&str| {
        (1..=60).contains(&team.len())
            && team
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.:/@+".contains(c))
    };
    team.filter(plain).unwrap_or("your-team")
}

/// What is wrong with an opt-out tag, and how it is written; nothing where it can
/// be read.
pub(super) fn unreadable_tag(exemption: &Exemption) -> Vec<String> {
    let Exemption::Malformed { value, problem } = exemption else {
        return Vec::new();
    };
    vec![
        format!(
            "The tag's value is `{}`, and {}.",
            one_line(value, MOST_TEXT),
            clause(problem, MOST_TEXT)
        ),
        format!("How it is to be written: {SPELLING}."),
    ]
}

/// When a run of many invocations was at work on what.
pub(super) fn the_run(
    resource: &str,
    begun: Timestamp,
    ended: Option<Timestamp>,
    attempts: u32,
    policy_version: i64,
) -> Section {
    let ended = ended.map(|at| format!(", ended: {}", time(at)));
    Section {
        heading: "The run".into(),
        lines: vec![
            format!("Resource: {}", one_line(resource, MOST_TEXT)),
            format!(
                "Begun: {}{}, attempts: {attempts}, policy version: {policy_version}",
                time(begun),
                ended.unwrap_or_default(),
            ),
        ],
    }
}

fn by_item<'a>(
    outcomes: impl IntoIterator<Item = &'a Outcome>,
) -> BTreeMap<&'a str, Vec<&'a Outcome>> {
    let mut by_item: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_item.entry(&outcome.item).or_default().push(outcome);
    }
    by_item
}

/// `until 2027-01-31, by team-web: vendor audit`.
pub(super) fn terms(opt_out: &OptOut) -> String {
    let until = opt_out
        .until
        .map_or_else(|| "without an end".to_owned(), |day| format!("until {day}"));
    let say = |text: &Option<String>, without: &str| {
        or(
            &one_line(text.as_deref().unwrap_or_default(), MOST_TEXT),
            without,
        )
    };
    format!(
        "{until}, by {}: {}",
        say(&opt_out.owner, "nobody named"),
        say(&opt_out.reason, "no reason given")
    )
}

fn unreadable(of: &str, value: &str, problem: &str) -> String {
    format!(
        "The tag {OPT_OUT_TAG} of {of} cannot be read: its value is `{}`, and {}.",
        one_line(value, MOST_TEXT),
        clause(problem, MOST_TEXT)
    )
}

/// What a step was to make.
fn permission(outcome: &Outcome) -> String {
    let words = outcome.permission.as_ref().map(ToString::to_string);
    or_unknown(words.as_deref(), 100)
}

/// `3rd`, `11th`.
pub(super) fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// A step, and how it ended.
pub(super) fn ended(outcome: &Outcome) -> String {
    let step = match outcome.step {
        Step::Authorise => format!("keep {} open by a rule of its own", permission(outcome)),
        Step::Narrow => format!("narrow it to {}", permission(outcome)),
        Step::Revoke => "revoke it".to_owned(),
        Step::TakeBack => "take a rule of ours back".to_owned(),
        Step::Tag => "put an opt-out on it".to_owned(),
        Step::Widen => format!("widen it to {}", permission(outcome)),
        Step::Set => "change it".to_owned(),
    };
    let made = outcome
        .created
        .as_deref()
        .map(|id| format!(" ({})", one_line(id, 100)))
        .unwrap_or_default();
    let ending = match &outcome.ending {
        Ending::Done => match &outcome.without {
            Some(without) => format!("done, {without}"),
            None => "done".to_owned(),
        },
        Ending::AlreadyDone => "it was so already".to_owned(),
        Ending::Skipped { why } => format!("not done: {}", one_line(why, MOST_TEXT)),
        Ending::Failed {
            operation,
            code,
            message,
            ..
        } => format!(
            "{} answered {}: {}",
            one_line(operation, 100),
            one_line(code, 100),
            one_line(message, MOST_TEXT)
        ),
    };
    format!("{step}{made}: {ending}")
}
