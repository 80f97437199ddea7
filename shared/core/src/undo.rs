//! Undo: what a remediation changed is put back as it was.
//!
//! Only what the entry touched is compared, with the state that the entry left
//! behind (`after`): the same, and `before` is restored; already as before, and
//! that is said; anything else, and nothing is changed and the three states are
//! shown. Tags are not compared: they do not admit anybody, a change in place
//! keeps them, and an undo puts its own opt-out among them.
//!
//! Deliberately not here: the calls (`backstop-aws`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::controls::open_ingress::{same, source_key};
use crate::entry::Entry;
use crate::exemption::{self, OPT_OUT_TAG};
use crate::plan::{Ending, Outcome, Step};
use crate::security_group::{Facts, IngressRule, Tags};
use crate::trigger::entry_id;
use crate::words::{Control, digest, id_of};

pub mod encryptions;
pub mod patchings;

/// For how many days what is put back is opted out, unless the request says.
pub const OPT_OUT_DAYS: u32 = 7;

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
        let mut request: Self = serde_path_to_error::deserialize(payload).map_err(|error| {
            let path = error.path().to_string();
            let problem = error.into_inner();
            InvalidRequest(match path.as_str() {
                "." | "?" => problem.to_string(),
                path => format!("`{path}`: {problem}"),
            })
        })?;
        match entry_id(&request.remediation) {
            Some(id) => request.remediation = id,
            None => {
                return invalid(format!(
                    "`remediation` is `{}`, which is not the id of a ledger entry (26 characters, a ULID; `backstop history` shows them)",
                    request.remediation
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

    /// For how many days what is put back is opted out, and whether the policy
    /// made them fewer than was asked for.
    #[must_use]
    pub fn days(&self, most: u32) -> (u32, bool) {
        let asked = self.opt_out_days.unwrap_or(OPT_OUT_DAYS);
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
    control: Control,
    today: Date,
    until: Date,
    by: Option<&str>,
    tags: &Tags,
) -> String {
    let own = tags.get(OPT_OUT_TAG).map_or("", String::as_str);
    let holds = |control: Control, day: Date| {
        let read = exemption::read(Some(own), control, day, false);
        matches!(read, exemption::Exemption::Exempt(_))
    };
    if holds(control, until) {
        return own.to_owned();
    }
    let mut controls: BTreeSet<&str> = BTreeSet::from([control.name()]);
    let others = Control::ALL.iter().filter(|other| holds(**other, today));
    controls.extend(others.map(|other| other.name()));
    let controls: Vec<&str> = controls.into_iter().collect();
    let mut value = format!("{} until={until}", controls.join("+"));
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
        value = format!("{} until={until} reason=undo", controls.join("+"));
    }
    value
}

/// What is done about one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// It is as it was before the remediation.
    AsBefore,
    /// It was revoked: it is authorised again.
    Authorise,
    /// It was narrowed: it is modified back.
    Widen,
    /// Neither as before nor as the remediation left it: nothing is done.
    Changed,
}

/// A rule that the remediation touched, in its three states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStates {
    /// The rule's id before the remediation.
    pub rule: String,
    /// As it was before.
    pub before: IngressRule,
    /// As the remediation left it; `None`: gone.
    pub left: Option<IngressRule>,
    /// As it is now; `None`: gone.
    pub now: Option<IngressRule>,
    /// What is done about it.
    pub act: Act,
    /// Rules that the remediation added for it and that are still there.
    pub added: Vec<IngressRule>,
}

impl RuleStates {
    /// What is put back, in words.
    #[must_use]
    pub fn restored(&self) -> String {
        let IngressRule {
            permission, source, ..
        } = &self.before;
        let how = match self.act {
            Act::AsBefore => "was as before already",
            Act::Authorise => "was authorised again",
            Act::Widen => "was widened to what it was",
            Act::Changed => "was left as it is",
        };
        format!("{} ({permission} from {source}) {how}", self.rule)
    }
}

/// What an undo comes to, before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is carried out.
    Restore(Vec<RuleStates>),
    /// Everything is as it was before already.
    AsBefore(Vec<RuleStates>),
    /// Something is neither as before nor as it was left: nothing is done.
    Refused(Vec<RuleStates>),
    /// There is nothing to take back, and why.
    Nothing(String),
}

/// Decides how a remediation is taken back, from the group as it is now.
#[must_use]
pub fn plan(entry: &Entry, facts: &Facts) -> Decision {
    let Facts::Group(group) = facts else {
        return Decision::Nothing(format!(
            "the security group {} is gone, and its rules with it",
            entry.resource_id()
        ));
    };
    let mut states = Vec::new();
    for (id, before) in &entry.before {
        let planned = planned(entry, before);
        let left = entry.after.get(id).unwrap_or(&planned);
        let mine = added(entry, id);
        let unchanged = left.as_ref().is_some_and(|left| alike(left, before));
        if unchanged && mine.is_empty() {
            continue;
        }
        let now = group.rules.get(id);
        let twin = group
            .rules
            .values()
            .find(|rule| admits_the_same(rule, before));
        let mut act = match (left, now) {
            _ if twin.is_some() => Act::AsBefore,
            (None, None) => Act::Authorise,
            (Some(left), Some(now)) if alike(left, now) => Act::Widen,
            _ => Act::Changed,
        };
        let mut added = Vec::new();
        for (of, permission) in mine {
            if let Some(rule) = group.rules.get(of) {
                let expected = IngressRule {
                    permission: permission.clone(),
                    ..before.clone()
                };
                if !alike(rule, &expected) {
                    act = Act::Changed;
                }
                added.push(rule.clone());
            }
        }
        states.push(RuleStates {
            rule: id.clone(),
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

/// How a remediation that was cut off was to leave a rule: it recorded nothing
/// about how it did.
fn planned(entry: &Entry, rule: &IngressRule) -> Option<IngressRule> {
    let changes = entry.plan.changes.iter();
    let change = changes.rev().find(|change| change.rule.id == rule.id);
    change
        .and_then(|change| change.narrow_to.as_ref())
        .map(|to| IngressRule {
            permission: to.clone(),
            ..rule.clone()
        })
}

/// The rules that the remediation added for one that it touched, and what each
/// was made to admit.
fn added<'a>(entry: &'a Entry, rule: &str) -> Vec<(&'a str, &'a crate::ports::Permission)> {
    let of_rule = || entry.outcomes.iter().filter(move |o| o.rule == rule);
    let taken_back: BTreeSet<&str> = of_rule()
        .filter(|o| o.step == Step::TakeBack && !o.failed())
        .filter_map(|o| o.created.as_deref())
        .collect();
    of_rule()
        .filter(|o| o.step == Step::Authorise && o.ending == Ending::Done)
        .filter_map(|o| Some((o.created.as_deref()?, o.permission.as_ref()?)))
        .filter(|(id, _)| !taken_back.contains(id))
        .collect()
}

/// Whether two rules admit the same people to the same ports.
fn admits_the_same(a: &IngressRule, b: &IngressRule) -> bool {
    same(&a.permission, &b.permission) && source_key(&a.source) == source_key(&b.source)
}

/// Whether two rules are alike in all that an undo sets, tags apart.
fn alike(a: &IngressRule, b: &IngressRule) -> bool {
    admits_the_same(a, b) && a.description == b.description
}

/// What is not as it has to be after the steps, in words: what was put back
/// has its description and an opt-out, what was added is gone.
#[must_use]
pub fn verify(states: &[RuleStates], facts: &Facts, control: Control, today: Date) -> Vec<String> {
    let none = BTreeMap::new();
    let now = match facts {
        Facts::Gone => &none,
        Facts::Group(group) => &group.rules,
    };
    let mut problems = Vec::new();
    for RuleStates {
        before, act, added, ..
    } in states
    {
        match now.values().find(|rule| admits_the_same(rule, before)) {
            None => problems.push(format!(
                "no rule admits {} from {}, as {} did",
                before.permission, before.source, before.id
            )),
            Some(_) if matches!(act, Act::AsBefore | Act::Changed) => {}
            Some(rule) if rule.description != before.description => {
                problems.push(format!("{} has another description than before", rule.id));
            }
            Some(rule) if !is_opted_out(rule, control, today) => problems.push(format!(
                "{} carries no opt-out: tag it, or it is closed again",
                rule.id
            )),
            Some(_) => {}
        }
        for rule in added.iter().filter(|rule| now.contains_key(&rule.id)) {
            problems.push(format!("{}, which was added, is still there", rule.id));
        }
    }
    problems
}

fn is_opted_out(rule: &IngressRule, control: Control, today: Date) -> bool {
    let tag = rule.tags.get(OPT_OUT_TAG).map(String::as_str);
    exemption::read(tag, control, today, false).holds()
}

/// What is to be said of rules that somebody put back without an opt-out.
fn closed_again(states: &[RuleStates]) -> String {
    let bare: Vec<&str> = states
        .iter()
        .filter(|state| state.act == Act::AsBefore)
        .filter_map(|state| state.now.as_ref())
        .filter(|rule| !rule.tags.contains_key(OPT_OUT_TAG))
        .map(|rule| rule.id.as_str())
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
    /// The rules that the remediation touched, in their three states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleStates>,
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
}

impl Answer {
    /// An answer without rules.
    #[must_use]
    pub fn new(verdict: Answered, message: impl Into<String>) -> Self {
        Self {
            verdict,
            message: message.into(),
            undo: None,
            rules: Vec::new(),
        }
    }

    /// Nothing has to be done: somebody, or an earlier undo, has done it.
    #[must_use]
    pub fn as_before(states: Vec<RuleStates>, undone_by: Option<&str>) -> Self {
        let by = undone_by.map_or_else(String::new, |id| format!(" The undo {id} put it back."));
        let bare = closed_again(&states);
        Self {
            rules: states,
            ..Self::new(
                Answered::AlreadyAsBefore,
                format!(
                    "everything is as it was before the remediation; nothing was changed.{by}{bare}"
                ),
            )
        }
    }

    /// Nothing is done: the three states of each rule that was changed.
    #[must_use]
    pub fn refused(states: Vec<RuleStates>) -> Self {
        let say = |rule: Option<&IngressRule>| match rule {
            Some(rule) => format!("{} from {}", rule.permission, rule.source),
            None => "gone".to_owned(),
        };
        let changed: Vec<String> = states
            .iter()
            .filter(|state| state.act == Act::Changed)
            .map(|state| {
                let mut line = format!(
                    "{}: before {}; as Backstop left it {}; now {}",
                    state.rule,
                    say(Some(&state.before)),
                    say(state.left.as_ref()),
                    say(state.now.as_ref())
                );
                for rule in &state.added {
                    line += &format!("; added, now {} {}", rule.id, say(Some(rule)));
                }
                line
            })
            .collect();
        Self {
            rules: states,
            ..Self::new(
                Answered::Refused,
                format!(
                    "somebody has changed what the remediation left, so nothing was changed; put it right by hand. {}",
                    changed.join(". ")
                ),
            )
        }
    }

    /// It has been done.
    #[must_use]
    pub fn undone(undo: &Undo, states: Vec<RuleStates>, days: (u32, bool)) -> Self {
        let capped = match days {
            (days, true) => format!(" (the policy allows at most {days} days)"),
            _ => String::new(),
        };
        let bare = closed_again(&states);
        Self {
            undo: Some(undo.id.clone()),
            rules: states,
            ..Self::new(
                Answered::Undone,
                format!(
                    "everything is as it was before the remediation. What was put back is opted out until {}{capped}; after that it is closed again.{bare}",
                    undo.opt_out_until
                ),
            )
        }
    }
}

/// Why an entry cannot be taken back whatever the group looks like; `None`: it
/// may be.
#[must_use]
pub fn cannot_be_undone(entry: &Entry) -> Option<Answer> {
    // Not by its outcomes: of a run that was killed they may say that it was so
    // already, although it was the run that did it.
    entry.before.is_empty().then(|| {
        Answer::new(
            Answered::NothingToUndo,
            format!(
                "the entry {} changed nothing (it ended as `{}`), so there is nothing to take back",
                entry.id,
                entry.status.name()
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
    pub control: Control,
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
    /// What was put back, in words.
    #[serde(default)]
    pub restored: Vec<String>,
    /// Every rule that the undo touches, in full, as it was before the undo.
    /// Kept compressed and apart from the rest of the document.
    #[serde(skip)]
    pub before: BTreeMap<String, IngressRule>,
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
            let rule = line.split(' ').next();
            self.restored.retain(|mine| mine.split(' ').next() != rule);
            self.restored.insert(0, line.clone());
        }
        self
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

    /// Ends the undo: what failed in this attempt, and what the second look at
    /// the group saw.
    pub fn conclude(&mut self, problems: Vec<String>, now: Timestamp) {
        self.problems = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.round == self.attempts && outcome.failed())
            .map(|outcome| format!("{}: {}", outcome.rule, outcome.ending))
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
