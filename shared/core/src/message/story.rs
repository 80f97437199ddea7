//! The story: the sections that a person reads first, on a phone and under
//! stress. What was open to whom, what was done or why not, who did it, how to
//! take it back, how to opt out, and what else is good to know.
//!
//! Mail and chat show the same sections. Deliberately not here: how either of
//! them lays sections out, and anything that needs more than a few lines.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};

use super::words::{clause, is_world, joined, one_line, or, or_unknown, shortened, time, whom};
use crate::entry::Entry;
use crate::exemption::{Exemption, OPT_OUT_TAG, OptOut, SPELLING};
use crate::guards::FOR_THIS_GROUP;
use crate::plan::{Ending, Exposure, Outcome, RuleChange, Step};
use crate::security_group::IngressRule;
use crate::words::{Actor, Status};

/// Most lines of a section about rules.
const MOST_LINES: usize = 5;
/// Most characters of a text that somebody else wrote.
const MOST_TEXT: usize = 300;
/// For how many days the opt-outs hold that a message proposes.
const OPT_OUT_DAYS: i64 = 90;

/// A heading and its lines.
pub(super) struct Section {
    /// What the lines are about.
    pub(super) heading: &'static str,
    /// One line each.
    pub(super) lines: Vec<String>,
}

/// An entry with its outcomes by rule.
pub(super) struct Story<'a> {
    pub(super) entry: &'a Entry,
    /// The last outcome of each step.
    last: BTreeMap<&'a str, Vec<&'a Outcome>>,
    /// All outcomes, those of earlier attempts included.
    all: BTreeMap<&'a str, Vec<&'a Outcome>>,
}

/// What has to be done to put a rule back.
pub(super) enum Way {
    /// It is gone: authorise it anew.
    Authorise,
    /// It is there, narrowed: widen it again.
    Widen,
    /// It was never touched, only rules of ours were added.
    Leave,
}

impl<'a> Story<'a> {
    pub(super) fn new(entry: &'a Entry) -> Self {
        Self {
            entry,
            last: by_rule(entry.last_outcomes()),
            all: by_rule(&entry.outcomes),
        }
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
        let all = || self.entry.exposures.iter();
        let concerned: Vec<&Exposure> = match self.entry.status {
            Status::Failed => all().filter(|e| self.failed(&e.rule.id)).collect(),
            Status::Remediated => all().filter(|e| !e.exemption.holds()).collect(),
            _ => all().filter(|e| !self.cut(&e.rule.id)).collect(),
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
            .outcomes
            .iter()
            .any(|outcome| outcome.ending == Ending::Done)
    }

    /// Whether a step of ours took something from the rule.
    pub(super) fn cut(&self, rule: &str) -> bool {
        self.all_outcomes(rule).iter().any(|outcome| {
            matches!(outcome.step, Step::Narrow | Step::Revoke) && outcome.ending == Ending::Done
        })
    }

    /// The way back for a rule and the rules we added for it; `None` where no step
    /// of ours changed anything.
    pub(super) fn way_back(&self, rule: &IngressRule) -> Option<(Way, BTreeSet<&'a str>)> {
        let of_rule = || self.all_outcomes(&rule.id).iter().copied();
        let done = |step| of_rule().any(|o| o.step == step && o.ending == Ending::Done);
        let taken_back: BTreeSet<&str> = of_rule()
            .filter(|o| o.step == Step::TakeBack && !o.failed())
            .filter_map(|o| o.created.as_deref())
            .collect();
        let created: BTreeSet<&str> = of_rule()
            .filter(|o| o.step == Step::Authorise && o.ending == Ending::Done)
            .filter_map(|o| o.created.as_deref())
            .filter(|id| !taken_back.contains(id))
            .collect();
        let gone = self.entry.after.get(&rule.id).is_some_and(Option::is_none);
        match () {
            () if done(Step::Revoke) || (done(Step::Narrow) && gone) => {
                Some((Way::Authorise, created))
            }
            () if done(Step::Narrow) => Some((Way::Widen, created)),
            () if !created.is_empty() => Some((Way::Leave, created)),
            () => None,
        }
    }

    /// Whether there is anything to take back.
    fn is_undoable(&self) -> bool {
        let mut before = self.entry.before.values();
        before.any(|rule| self.way_back(rule).is_some())
    }

    /// The last day of the opt-outs that the message proposes.
    pub(super) fn opt_out_until(&self) -> Date {
        let started = Offset::UTC.to_datetime(self.entry.started_at).date();
        started.saturating_add(OPT_OUT_DAYS.days())
    }

    /// The sections, in the order of reading.
    pub(super) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![self.open(), self.done()];
        sections.extend(self.fight());
        sections.push(self.who());
        sections.extend(self.take_back());
        sections.push(self.opt_out());
        sections.extend(self.good_to_know());
        sections
    }

    fn open(&self) -> Section {
        let heading = match self.entry.status {
            Status::Remediated => "What was open",
            Status::Failed => "What may still be open",
            _ => "What is open",
        };
        let lines = shortened(self.concerned(), MOST_LINES, |e| {
            let ports = joined(&e.exposed, 5);
            format!(
                "{ports} to {}, by rule {}",
                whom(e),
                one_line(&e.rule.id, 100)
            )
        });
        Section { heading, lines }
    }

    fn done(&self) -> Section {
        let mut lines = self.verdict();
        let treated = self.treated();
        let (failed, rest): (Vec<&str>, Vec<&str>) =
            treated.iter().partition(|rule| self.failed(rule));
        let failed_first = failed.into_iter().chain(rest);
        lines.extend(shortened(failed_first, MOST_LINES, |rule| {
            self.treatment(rule)
        }));
        lines.extend(self.lost());
        lines.extend(self.verified());
        Section {
            heading: self.done_heading(),
            lines,
        }
    }

    fn done_heading(&self) -> &'static str {
        match (self.entry.status, self.changed_something()) {
            (Status::Failed, true) => "What was done, and what failed",
            (Status::Failed, false) => "What failed",
            (Status::Remediated | Status::InProgress, _) | (_, false) => "What was done",
            (_, true) => "What was done, and why no more",
        }
    }

    /// What a status means, before anything about single rules.
    fn verdict(&self) -> Vec<String> {
        let entry = self.entry;
        let nothing = match self.changed_something() {
            true => "Nothing more was changed",
            false => "Nothing was changed",
        };
        match entry.status {
            Status::InProgress => vec!["The changes are being made.".to_owned()],
            Status::Remediated if self.changed_something() => Vec::new(),
            Status::Remediated => vec![
                "The hole was closed already when Backstop came to it: by somebody else, or by an attempt of its own that was cut off."
                    .to_owned(),
            ],
            Status::Failed if self.treated().is_empty() => self.reasons(),
            // Of encryptions and patchings, which have stories of their own.
            Status::Pending
            | Status::Refused
            | Status::RolledBack
            | Status::NeedsPerson
            | Status::AwaitingRescan => self.reasons(),
            Status::Failed => Vec::new(),
            Status::Notified => self.notified(nothing),
            Status::Exempt => self.opt_outs(nothing),
            Status::Existing | Status::Tripped | Status::Stopped => self.kept_from(nothing),
            Status::Held => self.held(nothing),
            Status::NotOwned => {
                // arn:aws:ec2:<Region>:<account>:security-group/<id>
                let owner = or_unknown(entry.resource.split(':').nth(4), 50);
                vec![format!(
                    "{nothing}: the security group belongs to the account {owner}, and only that account should change it. Ask its owner to close it."
                )]
            }
        }
    }

    fn reasons(&self) -> Vec<String> {
        let mut lines = vec!["Nothing was changed.".to_owned()];
        lines.extend(shortened(&self.entry.plan.reasons, MOST_LINES, |reason| {
            format!("Because {}.", clause(reason, MOST_TEXT))
        }));
        lines
    }

    fn notified(&self, nothing: &str) -> Vec<String> {
        let mut lines = vec![format!(
            "{nothing}: the mode is `notify`. In the mode `enforce`, this would be done:"
        )];
        lines.extend(shortened(
            &self.entry.plan.changes,
            MOST_LINES,
            would_be_done,
        ));
        lines
    }

    /// What keeps the control from acting, what to do about it, and what would
    /// be done.
    fn kept_from(&self, nothing: &str) -> Vec<String> {
        let because = self.entry.plan.reasons.last().map_or_else(
            || format!("{nothing}."),
            |reason| format!("{nothing}: {}.", clause(reason, 2 * MOST_TEXT)),
        );
        let control = self.entry.control;
        let way_out = match self.entry.status {
            Status::Existing => format!(
                "To have it put right, set `\"existing\": \"enforce\"` for {control} in the policy, or close it by hand."
            ),
            Status::Tripped => {
                let for_this = self.entry.plan.reasons.iter().any(|r| r.contains(FOR_THIS_GROUP));
                let resource = match for_this {
                    true => format!(" {}", one_line(self.entry.resource_id(), 100)),
                    false => String::new(),
                };
                format!(
                    "Nothing more is put right until a person re-arms it: backstop re-arm {control}{resource}. Until then, close it by hand."
                )
            }
            _ => "It is looked at again by the first sweep after the kill switch is off. Until then, close it by hand.".to_owned(),
        };
        let mut lines = vec![because, way_out];
        if self.entry.status == Status::Existing {
            lines.extend(self.rules_left());
        } else {
            lines.push("This would be done:".to_owned());
            lines.extend(shortened(
                &self.entry.plan.changes,
                MOST_LINES,
                would_be_done,
            ));
        }
        lines
    }

    /// What keeps putting the finding back.
    fn fight(&self) -> Option<Section> {
        let fight = self.entry.fight.as_ref()?;
        let actor = &self.entry.actor;
        let mut lines = vec![format!(
            "This was put right for the {} time within 24 hours, since {}.",
            ordinal(fight.times),
            time(fight.since)
        )];
        lines.push(match &fight.managed_by {
            Some(manager) => format!(
                "It is managed by {}: change it there, or it comes back.",
                one_line(manager, MOST_TEXT)
            ),
            None => format!(
                "Who puts it back, as the event states: {}, with {}.",
                or_unknown(actor.principal.as_deref(), MOST_TEXT),
                or_unknown(actor.user_agent.as_deref(), 200)
            ),
        });
        lines.push(
            "Further times within 24 hours are put right without a message. If it goes on, the control trips for this resource and says so: then it stays open until a person re-arms it."
                .to_owned(),
        );
        Some(Section {
            heading: "It keeps coming back",
            lines,
        })
    }

    /// Everything that is opted out, and by what.
    fn opt_outs(&self, nothing: &str) -> Vec<String> {
        let mut lines = vec![match &self.entry.exemption {
            Exemption::Exempt(opt_out) => {
                format!(
                    "{nothing}: a tag of the group or its VPC opts it out {}.",
                    terms(opt_out)
                )
            }
            _ => format!("{nothing}: every rule that is open is opted out."),
        }];
        lines.extend(self.rules_left());
        lines
    }

    fn held(&self, nothing: &str) -> Vec<String> {
        let mut lines = vec![format!(
            "{nothing}, and nothing will be until the opt-out tag is put right or removed."
        )];
        if let Exemption::Malformed { value, problem } = &self.entry.exemption {
            lines.push(unreadable("the group or its VPC", value, problem));
        }
        lines.extend(self.rules_left());
        lines.push(format!("How it is to be written: {SPELLING}."));
        lines
    }

    /// The rules that are left as they are because of their own tag.
    fn rules_left(&self) -> Vec<String> {
        let left = self.entry.exposures.iter().filter(|e| e.exemption.holds());
        shortened(left, MOST_LINES, |e| {
            let id = one_line(&e.rule.id, 100);
            match &e.exemption {
                Exemption::Exempt(o) | Exemption::Ended(o) => {
                    format!("{id} was left as it is: its tag opts it out {}.", terms(o))
                }
                Exemption::Malformed { value, problem } => {
                    format!(
                        "{id} was left as it is. {}",
                        unreadable("the rule", value, problem)
                    )
                }
                Exemption::Existing => format!(
                    "{id} was left as it is: it was there before the control was switched to `enforce`."
                ),
                Exemption::None => id,
            }
        })
    }

    /// The rules that were to be changed, or that something was tried on.
    fn treated(&self) -> BTreeSet<&'a str> {
        let mut treated: BTreeSet<&str> = self.last.keys().copied().collect();
        if matches!(
            self.entry.status,
            Status::Remediated | Status::Failed | Status::InProgress
        ) {
            treated.extend(
                self.entry
                    .plan
                    .changes
                    .iter()
                    .map(|change| change.rule.id.as_str()),
            );
        }
        treated
    }

    /// What became of a rule, in one line.
    fn treatment(&self, rule: &str) -> String {
        let outcomes = self.outcomes(rule);
        let id = one_line(rule, 100);
        if let Some(failed) = outcomes.iter().find(|outcome| outcome.failed()) {
            let so_far = match self.cut(rule) {
                true => "It was cut before that.",
                false => "It is as it was.",
            };
            return format!(
                "{id}: FAILED to {}. {so_far}",
                clause(&ended(failed), 2 * MOST_TEXT)
            );
        }
        let parts: Vec<String> = outcomes
            .iter()
            .filter(|o| o.step == Step::Authorise && o.ending == Ending::Done)
            .map(|o| permission(o))
            .collect();
        let kept = own_rules(&parts, "keeps", "keep");
        let last = |step| outcomes.iter().find(|outcome| outcome.step == step);
        let Some(main) = last(Step::Revoke).or_else(|| last(Step::Narrow)) else {
            return format!("{id} was not changed.");
        };
        match (main.step, &main.ending) {
            (Step::Narrow, Ending::Done) => {
                format!("{id} was narrowed to {}{kept}.", permission(main))
            }
            (_, Ending::Done) => format!("{id} was revoked{kept}."),
            (Step::Narrow, Ending::AlreadyDone) => format!("{id} was narrowed or gone already."),
            (_, Ending::AlreadyDone) => format!("{id} was gone already."),
            (_, Ending::Skipped { why }) => {
                format!("{id} was not changed: {}.", clause(why, MOST_TEXT))
            }
            (_, Ending::Failed { .. }) => format!("{id} was not changed."),
        }
    }

    /// Allowed parts that went with the exposure, and why.
    fn lost(&self) -> Vec<String> {
        let by_plan = self
            .entry
            .plan
            .changes
            .iter()
            .filter(|change| !change.lost.is_empty() && self.cut(&change.rule.id))
            .map(|change| {
                let what = joined(&change.lost, 5);
                (
                    &change.rule.id,
                    what,
                    "too many rules would be needed to write it",
                )
            });
        let by_limit = self
            .last
            .values()
            .flatten()
            .filter(|o| matches!(o.step, Step::Authorise | Step::Narrow) && self.cut(&o.rule))
            .filter_map(|o| match &o.ending {
                Ending::Skipped { why } => Some((&o.rule, permission(o), why.as_str())),
                _ => None,
            });
        shortened(by_plan.chain(by_limit), MOST_LINES, |(rule, what, why)| {
            format!(
                "LOST: {what} was allowed by {} and is closed now: {}.",
                one_line(rule, 100),
                clause(why, MOST_TEXT)
            )
        })
    }

    /// What the second look at the resource said.
    fn verified(&self) -> Vec<String> {
        let Some(verification) = &self.entry.verification else {
            return Vec::new();
        };
        let mut lines = shortened(verification.problems(), MOST_LINES, |problem| {
            format!(
                "Looked again, and not in order: {}.",
                clause(problem, MOST_TEXT)
            )
        });
        if lines.is_empty() {
            lines.push("Looked again: the hole is closed.".to_owned());
        }
        lines.extend(shortened(&verification.by_others, MOST_LINES, |change| {
            format!(
                "Changed by others meanwhile: {}.",
                clause(change, MOST_TEXT)
            )
        }));
        lines
    }

    fn who(&self) -> Section {
        Section {
            heading: "Who touched it last, as the event states",
            lines: who(&self.entry.actor),
        }
    }

    fn take_back(&self) -> Option<Section> {
        let until = self.opt_out_until();
        let lines = if self.is_undoable() {
            vec![
                format!(
                    "backstop undo {} --reason \"why it must be open\" puts everything back, with an opt-out, or it would be closed again.",
                    one_line(&self.entry.id, 50)
                ),
                format!(
                    "Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until {until}."
                ),
            ]
        } else if self.entry.is_change() {
            vec!["No step of this entry is known to have changed anything. What was there before is in the ledger entry.".to_owned()]
        } else {
            return None;
        };
        Some(Section {
            heading: "How to take it back",
            lines,
        })
    }

    fn opt_out(&self) -> Section {
        let mut lines = Vec::new();
        let heading = if self.entry.status == Status::Exempt {
            lines.push(format!(
                "Remove the tag {OPT_OUT_TAG} from whatever carries it: the rule, the group or its VPC."
            ));
            "How to end the opt-out"
        } else {
            lines.push("Tag the rule, the security group or its VPC:".to_owned());
            lines.push(format!("Key: {OPT_OUT_TAG}"));
            lines.push(format!("Value: {}", self.sample_opt_out()));
            "How to opt out"
        };
        Section { heading, lines }
    }

    /// An opt-out as a team may write it.
    fn sample_opt_out(&self) -> String {
        format!(
            "{} until={} owner={} reason=why it must stay open",
            self.entry.control,
            self.opt_out_until(),
            owner(self.entry.team.as_deref()),
        )
    }

    fn good_to_know(&self) -> Option<Section> {
        let mut lines = self.ended();
        if matches!(self.entry.status, Status::Remediated | Status::Failed) {
            lines.extend(self.rules_left());
        }
        lines.extend(self.private_parts());
        if self.changed_something() {
            lines.push(
                "Connections that were open already may last: closing a port does not end them."
                    .to_owned(),
            );
        }
        if self.entry.status == Status::Failed && self.entry.is_change() {
            lines.push(
                "Backstop tries again by itself within minutes and tells you once it is fixed. If that message does not come, close the port by hand."
                    .to_owned(),
            );
        }
        (!lines.is_empty()).then_some(Section {
            heading: "Good to know",
            lines,
        })
    }

    /// Opt-outs that hold no longer.
    fn ended(&self) -> Vec<String> {
        let group = ("the group or its VPC".to_owned(), &self.entry.exemption);
        let of_rules = self
            .entry
            .exposures
            .iter()
            .map(|e| (format!("rule {}", one_line(&e.rule.id, 100)), &e.exemption));
        let ended = std::iter::once(group)
            .chain(of_rules)
            .filter_map(|(of, exemption)| match exemption {
                Exemption::Ended(opt_out) => Some((of, opt_out)),
                _ => None,
            });
        shortened(ended, MOST_LINES, |(of, opt_out)| {
            format!("The opt-out of {of} has ended: it held {}.", terms(opt_out))
        })
    }

    /// Sources that went with the private addresses they also admitted.
    fn private_parts(&self) -> Vec<String> {
        let cut: Vec<&Exposure> = self
            .entry
            .exposures
            .iter()
            .filter(|e| e.private_part && self.cut(&e.rule.id))
            .collect();
        let (world, partly): (Vec<&Exposure>, Vec<&Exposure>) =
            cut.into_iter().partition(|e| is_world(&e.rule.source));
        let mut lines = Vec::new();
        for (exposures, what) in [
            (
                world,
                "A rule for the whole internet also admits your private networks",
            ),
            (partly, "The source also admitted private addresses"),
        ] {
            if !exposures.is_empty() {
                let ids: Vec<String> = exposures
                    .iter()
                    .map(|e| one_line(&e.rule.id, 100))
                    .collect();
                lines.push(format!(
                    "{what}; they went with it ({}). What used it from there needs a rule for its own range.",
                    joined(&ids, MOST_LINES)
                ));
            }
        }
        lines
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
        heading: "The run",
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

fn by_rule<'a>(
    outcomes: impl IntoIterator<Item = &'a Outcome>,
) -> BTreeMap<&'a str, Vec<&'a Outcome>> {
    let mut by_rule: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_rule.entry(&outcome.rule).or_default().push(outcome);
    }
    by_rule
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

/// A planned change, in one line.
fn would_be_done(change: &RuleChange) -> String {
    let id = one_line(&change.rule.id, 100);
    let kept: Vec<String> = change.authorise.iter().map(ToString::to_string).collect();
    let mut line = match &change.narrow_to {
        None => format!("{id} would be revoked"),
        Some(to) => format!(
            "{id} would be narrowed to {}",
            one_line(&to.to_string(), 100)
        ),
    };
    line += &own_rules(&kept, "would keep", "would keep");
    if !change.lost.is_empty() {
        line += &format!("; {} would be LOST", joined(&change.lost, 5));
    }
    line + "."
}

/// The allowed parts that become rules of their own.
fn own_rules(parts: &[String], keeps: &str, keep: &str) -> String {
    let open = joined(parts, 5);
    match parts.len() {
        0 => String::new(),
        1 => format!("; a rule of its own {keeps} {open} open"),
        many => format!("; {many} rules of their own {keep} {open} open"),
    }
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
    };
    let made = outcome
        .created
        .as_deref()
        .map(|id| format!(" ({})", one_line(id, 100)))
        .unwrap_or_default();
    let ending = match &outcome.ending {
        Ending::Done => "done".to_owned(),
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
