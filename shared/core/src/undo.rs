//! Undo: what a remediation changed is put back as it was, for every control.
//!
//! Only the items that the entry touched are compared, in three states: before,
//! as the entry left them (`after`), now. As left, and `before` is restored;
//! already as before, and the answer says so; anything else, and nothing is
//! changed and the answer shows the three states.
//!
//! Deliberately not here: the calls (`backstop-aws`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::Control;
use crate::entry::Entry;
use crate::exemption::{self, OPT_OUT_TAG, opt_out_tags};
use crate::info::{OptOutOn, Reversal};
use crate::json;
use crate::plan::{Change, Ending, ItemId, Outcome, State, Step};
use crate::prose::quoted;
use crate::rules::OptOutRules;
use crate::security_group::Tags;
use crate::trigger::entry_id;
use crate::words::{ControlId, digest, id_of};

pub mod encryptions;
pub mod patchings;

/// Most characters of a tag's value (EC2's limit).
const MOST_TAG: usize = 256;

/// Most characters of a reason, and of a name.
const MOST_TEXT: usize = 500;

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The id of the entry to take back.
    pub remediation: String,
    /// Why.
    pub reason: String,
    /// Who asks, as stated.
    #[serde(default)]
    pub by: Option<String>,
    /// For how many days what is put back is opted out.
    #[serde(default)]
    pub opt_out_days: Option<u32>,
    /// Whether it is only said what would be restored.
    #[serde(default)]
    pub dry_run: bool,
}

/// A request that cannot be used: the field, what is wrong, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request to undo is not valid: {0}; nothing was changed")]
pub struct InvalidRequest(String);

impl Request {
    /// Reads the payload that the function is invoked with.
    ///
    /// # Errors
    /// Names the field, what is wrong with it and what is expected.
    pub fn parse(payload: &Value) -> Result<Self, InvalidRequest> {
        let invalid = |problem: String| Err(InvalidRequest(problem));
        if !payload.is_object() {
            return invalid(
                "it must be an object like {\"remediation\": \"01M7…\", \"reason\": \"…\"}"
                    .to_owned(),
            );
        }
        let mut request: Self = json::read(payload).map_err(InvalidRequest)?;
        match entry_id(&request.remediation) {
            Some(id) => request.remediation = id,
            None => {
                return invalid(format!(
                    "`remediation` is `{}`, which is not the id of a ledger entry (26 characters, a ULID; `backstop history` shows them)",
                    quoted(&request.remediation)
                ));
            }
        }
        if request.reason.trim().is_empty() {
            return invalid("`reason` is empty: say why, it is told and kept".to_owned());
        }
        for (name, text) in [
            ("reason", Some(&request.reason)),
            ("by", request.by.as_ref()),
        ] {
            let length = text.map_or(0, |text| text.chars().count());
            if length > MOST_TEXT {
                return invalid(format!(
                    "`{name}` has {length} characters; at most {MOST_TEXT} are allowed"
                ));
            }
        }
        if request.opt_out_days == Some(0) {
            return invalid(
                "`opt_out_days` is 0: what is put back would be closed again at once; allowed is 1 and more".to_owned(),
            );
        }
        Ok(request)
    }

    /// The value of the opt-out tag that something is restored with, which carries
    /// these tags: [`opt_out`], and why it was asked for, as far as there is room.
    #[must_use]
    pub fn opt_out(&self, control: ControlId, today: Date, until: Date, tags: &Tags) -> String {
        let value = opt_out(control, today, until, self.by.as_deref(), tags);
        if tags.get(OPT_OUT_TAG) == Some(&value) {
            return value;
        }
        // No `=` and no `+`, which would read as a field or as controls; the rest is
        // what every service takes in a tag.
        let plain: String = self
            .reason
            .chars()
            .map(|c| match c {
                c if c.is_ascii_alphanumeric() || "-_.:/@".contains(c) => c,
                _ => ' ',
            })
            .collect();
        let mut value = value;
        for (n, word) in plain.split_whitespace().enumerate() {
            let lead = if n == 0 { ": " } else { " " };
            if value.len() + lead.len() + word.len() > MOST_TAG {
                break;
            }
            value += lead;
            value += word;
        }
        value
    }

    /// For how many days what is put back is opted out, and whether the policy
    /// made them fewer than was asked for.
    #[must_use]
    pub fn days(&self, most: u32) -> (u32, bool) {
        let asked = self.opt_out_days.unwrap_or(exemption::OPT_OUT_DAYS);
        (asked.min(most), asked > most)
    }
}

/// The last day (UTC) of an opt-out of so many days.
#[must_use]
pub fn opt_out_until(now: Timestamp, days: u32) -> Date {
    let today = jiff::tz::Offset::UTC.to_datetime(now).date();
    today.saturating_add(i64::from(days).days())
}

/// The value of the opt-out tag that a rule is put back with, which carries
/// these tags. An opt-out that holds as long or longer stays as it is; other
/// controls that it opts out of stay opted out.
#[must_use]
pub fn opt_out(
    control: ControlId,
    today: Date,
    until: Date,
    by: Option<&str>,
    tags: &Tags,
) -> String {
    let own = tags.get(OPT_OUT_TAG).map_or("", String::as_str);
    let then = exemption::read_tag(OPT_OUT_TAG, own, control, until, &OptOutRules::default());
    if matches!(then, exemption::Exemption::Exempt(_)) {
        return own.to_owned();
    }
    let dated = exemption::dated(own, control, today, until);
    let mut value = dated.clone();
    // Only what a tag may hold, and nothing that reads as another field.
    let plain = |by: &&str| {
        by.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.:/@+".contains(c))
    };
    if let Some(by) = by.filter(|by| !by.is_empty()).filter(plain) {
        value += &format!(" owner={by}");
    }
    value += " reason=undo";
    if value.len() > MOST_TAG {
        value = format!("{dated} reason=undo");
    }
    value
}

/// What is done about one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// It is as it was before the remediation.
    AsBefore,
    /// It was removed: it is added again.
    Authorise,
    /// It was changed in place: it is changed back.
    Widen,
    /// Neither as before nor as the remediation left it: nothing is done.
    Changed,
}

/// An item that the remediation touched, in its three states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemStates<S = Value> {
    /// The item's id before the remediation.
    pub item: ItemId,
    /// As it was before.
    pub before: S,
    /// As the remediation left it; `None`: gone.
    pub left: Option<S>,
    /// As it is now; `None`: gone.
    pub now: Option<S>,
    /// What is done about it.
    pub act: Act,
    /// Items that the remediation added for it and that are still there, by id.
    pub added: BTreeMap<ItemId, S>,
}

impl<S: State> ItemStates<S> {
    /// The change that puts the item back.
    #[must_use]
    pub fn change(&self) -> Change<S> {
        Change {
            item: self.item.clone(),
            before: self.left.clone(),
            after: Some(self.before.clone()),
            add: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// What is to be put back, in words; `None`: it is as before already.
    #[must_use]
    pub fn planned<C: Control<State = S>>(&self) -> Option<String> {
        let how = match (self.act, C::IN_PLACE.1) {
            (Act::AsBefore, _) => return None,
            (Act::Authorise, _) => "is to be authorised again",
            (Act::Widen, Step::Widen) => "is to be widened to what it was",
            (Act::Widen, _) => "is to be changed back to what it was",
            (Act::Changed, _) => "is left as it is",
        };
        let line = C::line(&self.item, &self.before);
        Some(format!("{} ({line}) {how}", self.item))
    }

    /// What is put back, in words.
    #[must_use]
    pub fn restored<C: Control<State = S>>(&self) -> String {
        let how = match (self.act, C::IN_PLACE.1) {
            (Act::AsBefore, _) => "was as before already",
            (Act::Authorise, _) => "was authorised again",
            (Act::Widen, Step::Widen) => "was widened to what it was",
            (Act::Widen, _) => "was changed back to what it was",
            (Act::Changed, _) => "was left as it is",
        };
        let line = C::line(&self.item, &self.before);
        let shows = match self.act {
            Act::Authorise | Act::Widen => shows_late::<C>(),
            Act::AsBefore | Act::Changed => String::new(),
        };
        format!("{} ({line}) {how}{shows}", self.item)
    }
}

/// How long AWS may take to show what was put back, as the end of a sentence.
fn shows_late<C: Control>() -> String {
    match C::SHOWN_WITHIN.as_secs() / 60 {
        0 => String::new(),
        minutes => format!(", which AWS may take {minutes} minutes to show"),
    }
}

/// The answer while a change of the remediation itself does not show yet: what is
/// seen is the time before it, and looks as if there were nothing to do.
#[must_use]
pub fn too_early<S: State>(
    entry: &Entry<S>,
    now: Option<&BTreeMap<ItemId, S>>,
    at: Timestamp,
) -> Option<Answer> {
    let by = entry.detail.shows_by.filter(|by| at < *by)?;
    let live = |item: &str| now.and_then(|now| now.get(item));
    let mut items = entry.detail.before.keys();
    items.any(|item| entry.awaits(item, live(item))).then(|| {
        let by = crate::prose::time(by);
        let message = format!("AWS accepted the remediation and may take until {by} to show it, so nothing was changed; ask again then");
        Answer::new(Answered::InProgress, message)
    })
}

/// The items that an undo is verified by: without those that it changed back and
/// that still show what the remediation left, where AWS takes its time to show a
/// change.
#[must_use]
pub fn shown<C: Control>(
    states: &[ItemStates<C::State>],
    now: &BTreeMap<ItemId, C::State>,
    outcomes: &[Outcome],
) -> Vec<ItemStates<C::State>> {
    let done = |item: &str| {
        let mut of_item = outcomes.iter().rev().filter(|outcome| outcome.item == item);
        of_item
            .next()
            .is_some_and(|last| last.ending == Ending::Done)
    };
    let late = |state: &ItemStates<C::State>| {
        !C::SHOWN_WITHIN.is_zero()
            && done(&state.item)
            && now.get(&state.item) == state.left.as_ref()
    };
    states
        .iter()
        .filter(|state| !late(state))
        .cloned()
        .collect()
}

/// What an undo comes to, before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<S> {
    /// It is carried out.
    Restore(Vec<ItemStates<S>>),
    /// Everything is as it was before already.
    AsBefore(Vec<ItemStates<S>>),
    /// Something is neither as before nor as it was left: nothing is done.
    Refused(Vec<ItemStates<S>>),
    /// There is nothing to take back, and why.
    Nothing(String),
}

/// Decides how a remediation is taken back, from the items as they are now;
/// `None`: the resource is gone.
#[must_use]
pub fn plan<C: Control>(
    entry: &Entry<C::State>,
    now: Option<&BTreeMap<ItemId, C::State>>,
) -> Decision<C::State> {
    let Some(items) = now else {
        return Decision::Nothing(format!(
            "the {} {} is gone",
            C::INFO.phrases.resource,
            entry.head.resource_id()
        ));
    };
    let mut states = Vec::new();
    for (id, before) in &entry.detail.before {
        let change = planned(entry, id);
        let planned = change.and_then(|change| change.after.clone());
        let left = entry.detail.after.get(id).unwrap_or(&planned);
        let mine = added::<C>(entry, id, before);
        let untouched = left.as_ref().is_some_and(|left| C::unchanged(left, before));
        if untouched && mine.is_empty() {
            continue;
        }
        let now = items.get(id);
        let twin = items.values().find(|state| C::alike(state, before));
        let mut act = match (left, now) {
            _ if twin.is_some() => Act::AsBefore,
            (None, None) => Act::Authorise,
            (Some(left), Some(now)) if C::unchanged(left, now) => Act::Widen,
            _ => Act::Changed,
        };
        let mut added = BTreeMap::new();
        for (of, part) in mine {
            if let Some(state) = items.get(of) {
                if !part.is_some_and(|part| C::unchanged(state, &part)) {
                    act = Act::Changed;
                }
                added.insert(of.to_owned(), state.clone());
            }
        }
        states.push(ItemStates {
            item: id.clone(),
            before: before.clone(),
            left: left.clone(),
            now: now.or(twin).cloned(),
            act,
            added,
        });
    }
    let any = |act: Act| states.iter().any(|state| state.act == act);
    if states.is_empty() {
        Decision::Nothing("no step of it changed anything".to_owned())
    } else if any(Act::Changed) {
        Decision::Refused(states)
    } else if any(Act::Authorise)
        || any(Act::Widen)
        || states.iter().any(|state| !state.added.is_empty())
    {
        Decision::Restore(states)
    } else {
        Decision::AsBefore(states)
    }
}

/// What was last planned for an item. A remediation that was cut off recorded
/// nothing about how it left it.
fn planned<'a, S>(entry: &'a Entry<S>, item: &str) -> Option<&'a Change<S>> {
    let changes = entry.detail.plan.changes.iter();
    changes.rev().find(|change| change.item == item)
}

/// The items that the remediation added for one that it touched, and the part
/// that each was made to be.
fn added<'a, C: Control>(
    entry: &'a Entry<C::State>,
    item: &str,
    before: &C::State,
) -> Vec<(&'a str, Option<C::State>)> {
    let outcomes = &entry.detail.outcomes;
    let of_item = || outcomes.iter().filter(move |o| o.item == item);
    let taken_back: BTreeSet<&str> = of_item()
        .filter(|o| o.step == Step::TakeBack && !o.failed())
        .filter_map(|o| o.created.as_deref())
        .collect();
    let part = |made: &Outcome| C::part(before, made.permission.as_ref()?);
    of_item()
        .filter(|o| o.step == Step::Authorise && o.ending == Ending::Done)
        .filter_map(|o| Some((o.created.as_deref()?, part(o))))
        .filter(|(id, _)| !taken_back.contains(id))
        .collect()
}

/// What is not as it has to be after the steps, in words: what was put back is
/// as before and carries an opt-out, what was added is gone.
#[must_use]
pub fn verify<C: Control>(
    states: &[ItemStates<C::State>],
    now: &BTreeMap<ItemId, C::State>,
    today: Date,
) -> Vec<String> {
    let mut problems = Vec::new();
    for ItemStates {
        item,
        before,
        act,
        added,
        ..
    } in states
    {
        let found = now.iter().find(|(_, state)| C::alike(state, before));
        match found {
            None => problems.push(format!(
                "{} is not back, as {item} was",
                C::line(item, before)
            )),
            Some(_) if matches!(act, Act::AsBefore | Act::Changed) => {}
            Some((id, state)) if !C::unchanged(state, before) => {
                problems.push(format!("{id} is not in every part as it was before"));
            }
            Some((id, state)) if !is_opted_out::<C>(state, today) => problems.push(format!(
                "{id} carries no opt-out: tag it, or it is remediated again"
            )),
            Some(_) => {}
        }
        for id in added.keys().filter(|id| now.contains_key(*id)) {
            problems.push(format!("{id}, which was added, is still there"));
        }
    }
    problems
}

/// The items that are as they were before the remediation, whoever put them back, or
/// were changed back and do not show it yet: those that are not among `shown`.
#[must_use]
pub fn back<C: Control>(
    states: &[ItemStates<C::State>],
    shown: &[ItemStates<C::State>],
    now: &BTreeMap<ItemId, C::State>,
) -> BTreeSet<ItemId> {
    let is_back = |of: &&ItemStates<C::State>| {
        now.values().any(|s| C::alike(s, &of.before))
            || !shown.iter().any(|shown| shown.item == of.item)
    };
    let back = states.iter().filter(is_back);
    back.map(|of| of.item.clone()).collect()
}

/// Whether an item is opted out, of controls whose items carry tags.
fn is_opted_out<C: Control>(state: &C::State, today: Date) -> bool {
    let Some(tags) = C::item_tags(state) else {
        return true;
    };
    exemption::read(tags, C::INFO.id, today, &OptOutRules::default()).holds()
}

/// What is to be said of items that somebody put back without an opt-out.
fn closed_again<C: Control>(states: &[ItemStates<C::State>]) -> String {
    let bare: Vec<&str> = states
        .iter()
        .filter(|state| state.act == Act::AsBefore)
        .filter_map(|state| {
            let tags = C::item_tags(state.now.as_ref()?)?;
            let opted_out = opt_out_tags(tags).next().is_some();
            (!opted_out).then_some(state.item.as_str())
        })
        .collect();
    if bare.is_empty() {
        return String::new();
    }
    format!(
        " Without an opt-out of its own, Backstop closes it again: {}. Tag it with {OPT_OUT_TAG}.",
        bare.join(", ")
    )
}

/// What the function answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// How it ended, in one word.
    pub verdict: Answered,
    /// The same for a person.
    pub message: String,
    /// The undo's own record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// The items that the remediation touched, in their three states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Value>,
    /// The same of a security group's rules, by the name that the first release
    /// gave them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Value>,
}

/// How a request to undo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answered {
    /// Everything is as it was before the remediation, verified.
    Undone,
    /// A run that takes minutes has been begun; its end is told.
    Begun,
    /// It was so already; nothing was changed.
    AlreadyAsBefore,
    /// Something is neither as before nor as it was left, or there is no way
    /// back; nothing was changed.
    Refused,
    /// A run is at work on the resource; nothing was changed.
    InProgress,
    /// The remediation changed nothing that could be taken back.
    NothingToUndo,
    /// The id is of another kind of record.
    NotARemediation,
    /// The ledger has no such entry.
    Unknown,
    /// It would be undone, or begun; it was asked for as a dry run, so nothing was
    /// changed.
    WouldUndo,
}

impl Answer {
    /// An answer without items.
    #[must_use]
    pub fn new(verdict: Answered, message: impl Into<String>) -> Self {
        Self {
            verdict,
            message: message.into(),
            undo: None,
            items: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// The answer with the three states of every item.
    fn showing<C: Control>(self, states: &[ItemStates<C::State>]) -> Self {
        let shown = |states: &ItemStates<C::State>| serde_json::to_value(states).ok();
        let items: Vec<Value> = states.iter().filter_map(shown).collect();
        let rules = match C::INFO.id {
            ControlId::OpenIngress => items.iter().cloned().map(as_rule).collect(),
            _ => Vec::new(),
        };
        Self {
            items,
            rules,
            ..self
        }
    }

    /// Nothing has to be done: somebody, or an earlier undo, has done it.
    #[must_use]
    pub fn as_before<C: Control>(states: &[ItemStates<C::State>], undone_by: Option<&str>) -> Self {
        let by = undone_by.map_or_else(String::new, |id| format!(" The undo {id} put it back."));
        let bare = closed_again::<C>(states);
        let message = format!(
            "everything is as it was before the remediation; nothing was changed.{by}{bare}"
        );
        Self::new(Answered::AlreadyAsBefore, message).showing::<C>(states)
    }

    /// It would be done, but for its being a dry run: what each item would become.
    #[must_use]
    pub fn would_undo<C: Control>(states: &[ItemStates<C::State>]) -> Self {
        let line = |state: &ItemStates<C::State>| {
            let now = state.now.as_ref();
            format!(
                "{}: now {}, would be {}",
                state.item,
                now.map_or_else(|| "gone".to_owned(), |now| C::line(&state.item, now)),
                C::line(&state.item, &state.before)
            )
        };
        let changes: Vec<String> = states
            .iter()
            .filter(|state| state.now.as_ref() != Some(&state.before))
            .map(line)
            .collect();
        let message = format!("dry run, nothing was changed. {}", changes.join(". "));
        Self::new(Answered::WouldUndo, message).showing::<C>(states)
    }

    /// Nothing is done: the three states of each item that was changed.
    #[must_use]
    pub fn refused<C: Control>(states: &[ItemStates<C::State>]) -> Self {
        let changed: Vec<String> = states
            .iter()
            .filter(|state| state.act == Act::Changed)
            .map(|state| {
                let say = |of: Option<&C::State>| match of {
                    Some(of) => C::line(&state.item, of),
                    None => "gone".to_owned(),
                };
                let mut line = format!(
                    "{}: before {}; as Backstop left it {}; now {}",
                    state.item,
                    say(Some(&state.before)),
                    say(state.left.as_ref()),
                    say(state.now.as_ref())
                );
                for (id, added) in &state.added {
                    line += &format!("; added, now {id} {}", say(Some(added)));
                }
                line
            })
            .collect();
        let message = format!(
            "somebody has changed what the remediation left, so nothing was changed; put it right by hand. {}",
            changed.join(". ")
        );
        Self::new(Answered::Refused, message).showing::<C>(states)
    }

    /// It has been done.
    #[must_use]
    pub fn undone<C: Control>(
        undo: &Undo,
        states: &[ItemStates<C::State>],
        days: (u32, bool),
    ) -> Self {
        let capped = match days {
            (days, true) => format!(" (the policy allows at most {days} days)"),
            _ => String::new(),
        };
        let until = match C::INFO.opt_out_on {
            OptOutOn::Policy => {
                "The policy exempts it; once that has ended, it is remediated again.".to_owned()
            }
            OptOutOn::Item | OptOutOn::Resource => format!(
                "What was put back is opted out until {}{capped}; after that it is closed again.",
                undo.opt_out_until
            ),
        };
        let bare = closed_again::<C>(states);
        let lost = match C::INFO.reversal {
            Reversal::Partly(lost) => format!(" {lost}"),
            Reversal::Yes | Reversal::No(_) => String::new(),
        };
        let message = format!(
            "everything is as it was before the remediation{}. {until}{lost}{bare}",
            shows_late::<C>()
        );
        Self {
            undo: Some(undo.id.clone()),
            ..Self::new(Answered::Undone, message).showing::<C>(states)
        }
    }
}

/// The states of a rule, by the name that the first release gave it.
fn as_rule(mut states: Value) -> Value {
    if let Some(fields) = states.as_object_mut() {
        if let Some(id) = fields.remove("item") {
            fields.insert("rule".to_owned(), id);
        }
        if let Some(Value::Object(added)) = fields.remove("added") {
            fields.insert(
                "added".to_owned(),
                added.into_iter().map(|(_, rule)| rule).collect(),
            );
        }
    }
    states
}

/// Why an entry cannot be undone whatever the resource looks like; `None`: it may
/// be.
#[must_use]
pub fn cannot_be_undone<S>(entry: &Entry<S>) -> Option<Answer> {
    // Not by its outcomes: of a run that was killed they may say that it was so
    // already, although it was the run that did it.
    entry.detail.before.is_empty().then(|| {
        Answer::new(
            Answered::NothingToUndo,
            format!(
                "the entry {} changed nothing (it ended as `{}`), so there is nothing to take back",
                entry.head.id,
                entry.head.status.name()
            ),
        )
    })
}

/// Where an undo stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UndoStatus {
    /// Changes are being made.
    UndoInProgress,
    /// Everything is as it was before the remediation, verified.
    Undone,
    /// Something failed: some of it may be as before, some not.
    UndoFailed,
}

impl UndoStatus {
    /// All of them.
    pub const ALL: &[Self] = &[Self::UndoInProgress, Self::Undone, Self::UndoFailed];

    /// The name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UndoInProgress => "undo-in-progress",
            Self::Undone => "undone",
            Self::UndoFailed => "undo-failed",
        }
    }
}

/// One undo, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// The record format's version.
    pub version: u32,
    /// The record's id, a ULID.
    pub id: String,
    /// The remediation that is taken back: its entry's id.
    pub undoes: String,
    /// The control of the remediation.
    pub control: ControlId,
    /// ARN of the resource.
    pub resource: String,
    /// The resource's name, for people.
    pub resource_name: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The team that owns the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Where it stands.
    pub status: UndoStatus,
    /// Why, as stated by whoever asked.
    pub reason: String,
    /// Who asked, as stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Last day (UTC) of the opt-out that what is put back carries.
    pub opt_out_until: Date,
    /// What was put back, in words; of an undo that has not ended what it will have
    /// put back then.
    #[serde(default)]
    pub restored: Vec<String>,
    /// What is to be put back and is not, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<String>,
    /// Every item that the undo touches, in full, as it was before the undo.
    /// Kept compressed and apart from the rest of the document.
    #[serde(skip)]
    pub before: BTreeMap<ItemId, Value>,
    /// What came of each step, in order.
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
    /// What is not as it should be afterwards, in words.
    #[serde(default)]
    pub problems: Vec<String>,
    /// How often it was begun: more than once after an attempt was cut off.
    pub attempts: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// The item that a line of [`Undo::restored`] or [`Undo::planned`] begins with.
fn item_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

impl Undo {
    /// The resource's id: what follows the last `/` of its ARN.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        id_of(&self.resource)
    }

    /// This undo as the continuation of one that was cut off: its id and its
    /// beginning; what it saw before its first change is kept.
    #[must_use]
    pub fn resuming(mut self, earlier: &Self) -> Self {
        self.id.clone_from(&earlier.id);
        self.attempts = earlier.attempts.saturating_add(1);
        self.started_at = earlier.started_at;
        self.opt_out_until = self.opt_out_until.max(earlier.opt_out_until);
        self.outcomes.clone_from(&earlier.outcomes);
        for (id, rule) in &earlier.before {
            self.before.insert(id.clone(), rule.clone());
        }
        for line in earlier.restored.iter().rev() {
            let item = item_of(line);
            self.restored.retain(|mine| item_of(mine) != item);
            self.restored.insert(0, line.clone());
        }
        self
    }

    /// Leaves out of what was put back what was not: `back` are the items that are as
    /// before, `None` that they could not be read, so that the steps count.
    pub fn keep_done(&mut self, back: Option<&BTreeSet<ItemId>>) {
        let done_by_steps = |item: &str| {
            let mut steps = self.outcomes.iter().filter(|o| o.item == item);
            steps.any(|o| {
                !matches!(o.step, Step::Tag | Step::TakeBack | Step::Revoke)
                    && matches!(o.ending, Ending::Done | Ending::AlreadyDone)
            })
        };
        // What there was nothing to do for is as it was.
        let planned: BTreeSet<&str> = self.planned.iter().map(|line| item_of(line)).collect();
        let is_done = |line: &str| match (item_of(line), back) {
            (item, Some(back)) => back.contains(item),
            (item, None) => !planned.contains(item) || done_by_steps(item),
        };
        let restored = self.restored.iter().filter(|line| is_done(line));
        let restored = restored.cloned().collect();
        let planned = self.planned.iter().filter(|line| !is_done(line));
        let planned = planned.cloned().collect();
        (self.restored, self.planned) = (restored, planned);
    }

    /// Adds what came of an attempt's steps.
    pub fn add_attempt(&mut self, outcomes: Vec<Outcome>) {
        let round = self.attempts;
        self.outcomes.extend(
            outcomes
                .into_iter()
                .map(|outcome| Outcome { round, ..outcome }),
        );
    }

    /// Ends the undo: what failed in this attempt, what was put back without a part,
    /// and what the second look at the group saw.
    pub fn conclude(&mut self, problems: Vec<String>, now: Timestamp) {
        self.problems = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.round == self.attempts)
            .filter_map(|outcome| match (&outcome.without, &outcome.created) {
                _ if outcome.failed() => Some(format!("{}: {}", outcome.item, outcome.ending)),
                (Some(without), Some(id)) => {
                    Some(format!("{} is back as {id} {without}", outcome.item))
                }
                (Some(without), None) => Some(format!("{} is back {without}", outcome.item)),
                (None, _) => None,
            })
            .chain(problems)
            .collect();
        self.status = if self.problems.is_empty() {
            UndoStatus::Undone
        } else {
            UndoStatus::UndoFailed
        };
        self.finished_at = Some(now);
    }

    /// What its message is known by.
    #[must_use]
    pub fn message_key(&self) -> String {
        digest(
            [self.id.as_str(), self.status.name()]
                .into_iter()
                .chain(self.problems.iter().map(String::as_str)),
        )
    }
}
