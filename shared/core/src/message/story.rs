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
use serde_json::{Value, json};

use crate::any_control::AnyControl;
use crate::control::ByHand;
use crate::controls;
use crate::entry::Entry;
use crate::exemption::{self, Exemption, OPT_OUT_TAG, OptOut, SPELLING};
use crate::info::{Phrases, Tagged};
use crate::plan::{Ending, Exposure, Outcome, Step};
use crate::prose::{capitalised, clause, joined, one_line, or, or_unknown, shortened, time};
use crate::reason::Reason;
use crate::run::Head;
use crate::shell::{ascii_json, quote};
use crate::words::{Actor, Status};

mod sections;

/// Most lines of a section about items.
const MOST_LINES: usize = 5;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// Most commands in a section.
const MOST_COMMANDS: usize = 10;
/// For how many days the opt-outs hold that a message proposes.
const OPT_OUT_DAYS: i64 = 90;

/// A heading and its lines.
pub(super) struct Section {
    /// What the lines are about.
    pub(super) heading: Cow<'static, str>,
    /// One line each.
    pub(super) lines: Vec<String>,
    /// Whether it says what the reader may do next: chat lists those apart, and
    /// cuts them short.
    pub(super) is_next_step: bool,
}

impl Section {
    /// What there is to know.
    pub(super) fn new(heading: impl Into<Cow<'static, str>>, lines: Vec<String>) -> Self {
        Self {
            heading: heading.into(),
            lines,
            is_next_step: false,
        }
    }

    /// What the reader may do next.
    pub(super) fn next_step(heading: &'static str, lines: Vec<String>) -> Self {
        Self {
            is_next_step: true,
            ..Self::new(heading, lines)
        }
    }
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
            opt_out: &undo_opt_out(&self.entry.head),
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
}

/// The last day (UTC) of the opt-outs that a message proposes.
pub(super) fn opt_out_until(head: &Head) -> Date {
    let started = Offset::UTC.to_datetime(head.started_at).date();
    started.saturating_add(OPT_OUT_DAYS.days())
}

/// The opt-out of what a person puts back by hand.
fn undo_opt_out(head: &Head) -> String {
    let until = opt_out_until(head);
    let dated = exemption::dated("", head.control, until, until);
    format!("{dated} reason=undo")
}

/// An opt-out as a team may write it, with why it has to be.
pub(super) fn sample_opt_out(head: &Head, why: &str) -> String {
    format!(
        "{} until={} owner={} reason={why}",
        head.control,
        opt_out_until(head),
        owner(head.team.as_deref()),
    )
}

/// The command that opts the resource of a run out.
pub(super) fn opt_out_command(head: &Head) -> String {
    let value = sample_opt_out(head, "why it must stay as it is");
    let tag = format!("Key={OPT_OUT_TAG},Value={value}");
    command(
        &head.region,
        "ec2 create-tags",
        &[("--resources", &[head.resource_id()]), ("--tags", &[&tag])],
    )
}

/// How an opt-out of these resources is ended, each with the key of its tag.
pub(super) fn end_opt_out<'a>(
    head: &Head,
    carriers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Section {
    let lines = shortened(carriers, MOST_COMMANDS, |(id, key)| {
        let tag = match key {
            OPT_OUT_TAG => format!("Key={OPT_OUT_TAG}"),
            // The shorthand has no place for every character that a key may have.
            key => ascii_json(&json!([{ "Key": key }])),
        };
        command(
            &head.region,
            "ec2 delete-tags",
            &[("--resources", &[id]), ("--tags", &[&tag])],
        )
    });
    Section::next_step("How to end the opt-out", lines)
}

/// The command that re-arms a control, everywhere or for the resource alone.
pub(super) fn re_arm(head: &Head, resource_alone: bool) -> String {
    let control = head.control;
    match resource_alone {
        true => format!(
            "backstop re-arm {control} {}",
            quote(&one_line(head.resource_id(), 100))
        ),
        false => format!("backstop re-arm {control}"),
    }
}

/// What leads on where a tag, a setting or a guard keeps Backstop from changing
/// anything.
pub(super) fn way_out(head: &Head, because: Option<&Reason>) -> Vec<String> {
    match (head.status, &head.exemption) {
        (Status::Exempt, Exemption::Exempt(opt_out)) => {
            vec![format!("The opt-out holds {}.", terms(opt_out))]
        }
        (Status::Held, _) => unreadable_tag(&head.exemption),
        (Status::Existing, _) => vec![format!(
            "To have it remediated, set `\"existing\": \"enforce\"` for {} in the policy.",
            head.control
        )],
        (Status::Tripped, _) => vec![
            "Remediation is paused until someone finds the cause and re-arms it:".to_owned(),
            re_arm(head, because.is_some_and(Reason::is_trip_of_resource)),
        ],
        (Status::Stopped, _) => {
            vec!["It is checked again by the first sweep after the kill switch is off.".to_owned()]
        }
        (Status::Pending, _) => match because {
            Some(Reason::BudgetSpent) => {
                vec!["It is remediated by the first sweep of the next hour.".to_owned()]
            }
            Some(Reason::StillUsed { .. }) => vec![
                "Find what still uses it and update that: every sweep looks again, and goes on once the figures show no use. A change now would break what uses it.".to_owned(),
            ],
            Some(Reason::Unproven { .. }) => vec![
                "Every sweep looks again, and goes on once there are enough figures.".to_owned(),
            ],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// What is to be said of an opt-out that does not hold the run back: that it has
/// ended, or that the tag of a part cannot be read.
pub(super) fn opt_out_notes(head: &Head, part: &str) -> Vec<String> {
    match &head.exemption {
        Exemption::Ended(opt_out) => {
            vec![ended_opt_out("The opt-out", opt_out)]
        }
        Exemption::Malformed { .. } if head.status != Status::Held => {
            let first = format!("The tag {OPT_OUT_TAG} of {part} cannot be read.");
            let what = unreadable_tag(&head.exemption);
            std::iter::once(first).chain(what).collect()
        }
        _ => Vec::new(),
    }
}

fn ended_opt_out(of: &str, opt_out: &OptOut) -> String {
    format!("{of} has ended: it held {}.", terms(opt_out))
}

/// An option of a command, with its values; a switch has none.
pub(super) type Flag<'a> = (&'a str, &'a [&'a str]);

/// A command of the AWS CLI, with words that a shell takes as they are meant.
pub(super) fn command(region: &str, operation: &str, options: &[Flag<'_>]) -> String {
    let mut command = format!("aws {operation} --region {}", quote(&one_line(region, 50)));
    for (name, values) in options {
        command += &format!(" {name}");
        for value in *values {
            command += &format!(" {}", quote(&one_line(value, 2 * MOST_TEXT)));
        }
    }
    command
}

/// A clause as a sentence. Ids stay as they are, and so does the end of a command,
/// or it would be typed with the full stop.
pub(super) fn sentence(text: &str, most: usize) -> String {
    let clause = clause(text, most);
    let is_id = clause
        .split(' ')
        .next()
        .is_some_and(|word| word.trim_end_matches(':').contains(['-', '_', ':']));
    let mut sentence = match is_id {
        true => clause,
        false => capitalised(&clause),
    };
    let last = sentence.rsplit(": ").next().unwrap_or_default();
    let is_command = last.starts_with("aws ") && !last.ends_with(')');
    if !is_command && !sentence.ends_with(['?', '!']) {
        sentence.push('.');
    }
    sentence
}

/// Who touched the resource last.
pub(super) fn who_touched(actor: &Actor) -> Section {
    Section::new("Who touched it last, as the event states", who(actor))
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
            or_unknown(actor.caller().as_deref(), MOST_TEXT),
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
    let Exemption::Malformed { value, problem, .. } = exemption else {
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

/// Over what manages a resource.
pub(super) const MANAGER: &str = "Who manages it";

/// That something manages a resource, and what follows from that.
pub(super) fn managed_by(manager: &str) -> String {
    format!(
        "It is managed by {}: change it there, or it comes back.",
        one_line(manager, MOST_TEXT)
    )
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
    Section::new(
        "The run",
        vec![
            format!("Resource: {}", one_line(resource, MOST_TEXT)),
            format!(
                "Begun: {}{}, attempts: {attempts}, policy version: {policy_version}",
                time(begun),
                ended.unwrap_or_default(),
            ),
        ],
    )
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

/// An interval in words: "every 12 hours".
pub(super) fn every(seconds: u64) -> String {
    let (unit, name) = match seconds {
        ..5_400 => (60, "minute"),
        5_400..129_600 => (3_600, "hour"),
        _ => (86_400, "day"),
    };
    match (seconds + unit / 2) / unit {
        0 | 1 => format!("every {name}"),
        number => format!("every {number} {name}s"),
    }
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
