//! The sections of an entry's story, in the order of reading.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde_json::Value;

use super::{
    MANAGER, MOST_LINES, MOST_TEXT, Section, Story, ended, ended_opt_out, every, managed_by,
    opt_out_until, ordinal, owner, permission, sample_opt_out, terms, unreadable, way_out,
    who_touched,
};
use crate::any_control::AnyControl;
use crate::exemption::{Exemption, OPT_OUT_TAG, SPELLING};
use crate::info::{OptOutOn, Phrases, Reversal, Tagged};
use crate::plan::{Change, Ending, Exposure, Step, Unjudged};
use crate::prose::{clause, joined, one_line, or_unknown, shortened, time};
use crate::reason::Reason;
use crate::words::Status;

impl<'a> Story<'a> {
    /// The sections, in the order of reading.
    pub(in crate::message) fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::from_iter(self.lost_first());
        sections.extend([self.found(), self.done()]);
        sections.extend(self.unjudged());
        sections.extend(self.fight().or_else(|| self.manager()));
        sections.push(who_touched(&self.entry.head.actor));
        sections.extend(self.take_back());
        // Nobody here can tag what belongs to another account.
        if self.entry.head.status != Status::NotOwned {
            sections.push(self.opt_out());
        }
        sections.extend(self.good_to_know());
        sections
    }

    fn found(&self) -> Section {
        let is = match self.entry.head.status {
            Status::Remediated => "was",
            Status::Failed => "may still be",
            _ if self.entry.awaits_visibility() => "may still be",
            _ => "is",
        };
        Section::new(
            format!("What {is} {}", self.phrases.found),
            shortened(self.concerned(), MOST_LINES, |e| self.exposure_line(e)),
        )
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
        lines.extend(self.incomplete());
        lines.extend(self.verified());
        Section::new(self.done_heading(), lines)
    }

    fn done_heading(&self) -> &'static str {
        match (self.entry.head.status, self.changed_something()) {
            (Status::Failed, true) => "What was done, and what failed",
            (Status::Failed, false) => "What failed",
            (Status::Remediated | Status::InProgress, _) | (_, false) => "What was done",
            _ if self.entry.awaits_visibility() => "What was done",
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
        match entry.head.status {
            Status::InProgress => vec!["The changes are being made.".to_owned()],
            Status::Remediated if self.changed_something() => Vec::new(),
            Status::Remediated => vec![
                "It was fixed already when Backstop checked: by somebody else, or by an attempt of its own that was cut off."
                    .to_owned(),
            ],
            Status::Failed if self.treated().is_empty() => self.reasons(),
            // Of encryptions and patchings, which have stories of their own.
            Status::Refused
            | Status::RolledBack
            | Status::NeedsPerson
            | Status::AwaitingRescan => self.reasons(),
            Status::Failed => Vec::new(),
            Status::Notified => self.notified(nothing),
            Status::Exempt => self.opt_outs(nothing),
            Status::Pending if entry.awaits_visibility() => self.not_visible_yet(),
            Status::Existing | Status::Tripped | Status::Stopped | Status::Pending => {
                self.kept_from(nothing)
            }
            Status::Held => self.held(nothing),
            Status::NotOwned => {
                // arn:aws:ec2:<Region>:<account>:security-group/<id>
                let owner = or_unknown(entry.head.resource.split(':').nth(4), 50);
                vec![format!(
                    "{nothing}: the {} belongs to the account {owner}, and only that account should change it. Ask its owner to {}.",
                    self.phrases.resource, self.phrases.remedy
                )]
            }
        }
    }

    /// That AWS accepted the change, and who confirms it.
    fn not_visible_yet(&self) -> Vec<String> {
        let by = self.entry.detail.shows_by.map_or_else(String::new, time);
        vec![format!(
            "AWS accepted the change and may take until {by} to show it. Nothing is left to do: the first sweep after that confirms it, or reports that it failed."
        )]
    }

    fn reasons(&self) -> Vec<String> {
        let mut lines = vec!["Nothing was changed.".to_owned()];
        lines.extend(shortened(
            &self.entry.detail.plan.reasons,
            MOST_LINES,
            |reason| format!("Because {}.", clause(reason, MOST_TEXT)),
        ));
        lines
    }

    fn notified(&self, nothing: &str) -> Vec<String> {
        let because = self.entry.detail.plan.because.as_ref();
        if because == Some(&Reason::NotJudged) {
            let mut lines = vec![format!("{nothing}: what is found here cannot be judged.")];
            lines.extend(self.items_left());
            return lines;
        }
        if !matches!(because, None | Some(Reason::NotifyMode)) {
            return self.reasons();
        }
        let mut lines = vec![format!(
            "{nothing}: the mode is `notify`. In the mode `enforce`, this would be done:"
        )];
        lines.extend(shortened(
            &self.entry.detail.plan.changes,
            MOST_LINES,
            |change| self.would_be_done(change),
        ));
        lines
    }

    /// What keeps the control from acting, what to do about it, and what would
    /// be done.
    fn kept_from(&self, nothing: &str) -> Vec<String> {
        let because = self.entry.detail.plan.reasons.last().map_or_else(
            || format!("{nothing}."),
            |reason| format!("{nothing}: {}.", clause(reason, 2 * MOST_TEXT)),
        );
        let head = &self.entry.head;
        let reason = self.entry.detail.plan.because.as_ref();
        let by_hand = match head.status {
            // What may break something is nothing to do by hand either.
            _ if reason.is_some_and(Reason::is_about_use) => None,
            Status::Existing => Some(format!("Or {} by hand.", self.phrases.remedy)),
            _ => Some(format!("Until then, {} by hand.", self.phrases.remedy)),
        };
        let mut lines = vec![because];
        lines.extend(way_out(head, reason));
        lines.extend(by_hand);
        if self.entry.head.status == Status::Existing {
            lines.extend(self.items_left());
        } else {
            let changes = self.entry.detail.plan.changes.iter();
            let left: Vec<&Change> = changes.filter(|change| !self.cut(&change.item)).collect();
            lines.push(match self.changed_something() {
                true => format!("{} left, and this would be done:", left.len()),
                false => "This would be done:".to_owned(),
            });
            lines.extend(shortened(left, MOST_LINES, |change| {
                self.would_be_done(change)
            }));
        }
        lines
    }

    /// What will put the finding back, unless it is changed there.
    fn manager(&self) -> Option<Section> {
        let manager = self.entry.head.managed_by.as_deref()?;
        Some(Section::new(MANAGER, vec![managed_by(manager)]))
    }

    /// What could not be judged, why, and what to do about it.
    fn unjudged(&self) -> Option<Section> {
        let changes = &self.entry.detail.plan.changes;
        let exposures = self.entry.detail.exposures.iter();
        let unjudged: Vec<(&Exposure, &Unjudged)> = exposures
            .filter(|e| !e.exemption.holds())
            .filter_map(|e| Some((e, e.unjudged.as_ref()?)))
            .collect();
        let mut lines = shortened(&unjudged, MOST_LINES, |(e, why)| {
            format!(
                "{}: {}.",
                self.leading_name(&e.item),
                clause(&why.to_string(), 2 * MOST_TEXT)
            )
        });
        if unjudged.iter().any(|(e, _)| e.is_left_unjudged(changes)) {
            let remedies: BTreeSet<&str> = unjudged.iter().map(|(_, why)| why.remedy()).collect();
            lines.extend(remedies.into_iter().map(str::to_owned));
            lines.push(format!(
                "To have it closed, set `\"unreadable_lists\": \"close\"` in the settings of {} in the policy.",
                self.entry.head.control
            ));
        }
        (!lines.is_empty()).then(|| Section::new("What could not be judged", lines))
    }

    /// What keeps putting the finding back.
    fn fight(&self) -> Option<Section> {
        let fight = self.entry.detail.fight.as_ref()?;
        let actor = &self.entry.head.actor;
        let within = match fight.is_slow() {
            true => "7 days",
            false => "24 hours",
        };
        let rhythm = match fight.every_seconds {
            Some(seconds) => format!(" It comes back about {}.", every(seconds)),
            None => String::new(),
        };
        let mut lines = vec![format!(
            "This was put right for the {} time within {within}, since {}.{rhythm}",
            ordinal(fight.times),
            time(fight.since)
        )];
        lines.push(match &fight.managed_by {
            Some(manager) => managed_by(manager),
            None => format!(
                "Who puts it back, as the event states: {}, with {}.",
                or_unknown(actor.caller().as_deref(), MOST_TEXT),
                or_unknown(actor.user_agent.as_deref(), 200)
            ),
        });
        let quiet = match fight.is_slow() {
            true => {
                "Further times are put right without a message while this lasts; the digest counts them. If it comes back faster"
            }
            false => "Further times within 24 hours are put right without a message. If it goes on",
        };
        lines.push(format!(
            "{quiet}, the control trips for this resource and says so: then it stays {} until a person re-arms it.",
            self.phrases.found
        ));
        Some(Section::new("It keeps coming back", lines))
    }

    /// Everything that is opted out, and by what.
    fn opt_outs(&self, nothing: &str) -> Vec<String> {
        let Phrases { item, found, .. } = self.phrases;
        let mut lines = vec![match (&self.entry.head.exemption, self.phrases.tagged) {
            (Exemption::Exempt(opt_out), Some(Tagged { resource, .. })) => {
                format!(
                    "{nothing}: a tag of {resource} opts it out {}.",
                    terms(opt_out)
                )
            }
            (Exemption::Exempt(opt_out), None) => {
                format!("{nothing}: the policy exempts it {}.", terms(opt_out))
            }
            _ => format!("{nothing}: every {item} that is {found} is opted out."),
        }];
        lines.extend(self.items_left());
        lines
    }

    fn held(&self, nothing: &str) -> Vec<String> {
        let mut lines = vec![format!(
            "{nothing}, and nothing will be until the opt-out tag is put right or removed."
        )];
        if let Exemption::Malformed { value, problem, .. } = &self.entry.head.exemption {
            lines.push(unreadable(self.resource_tag(), value, problem));
        }
        lines.extend(self.items_left());
        lines.push(format!("How it is to be written: {SPELLING}."));
        lines
    }

    /// What carries the opt-out tag of the resource.
    fn resource_tag(&self) -> &'static str {
        self.phrases
            .tagged
            .map_or("the resource", |tagged| tagged.resource)
    }

    /// The items that are left as they are because of their own tag.
    fn items_left(&self) -> Vec<String> {
        let left = self
            .entry
            .detail
            .exposures
            .iter()
            .filter(|e| e.exemption.holds());
        shortened(left, MOST_LINES, |e| {
            let id = self.leading_name(&e.item);
            match &e.exemption {
                Exemption::Exempt(o) | Exemption::Ended(o) => {
                    format!("{id} was left as it is: its tag opts it out {}.", terms(o))
                }
                Exemption::Malformed { value, problem, .. } => {
                    format!(
                        "{id} was left as it is. {}",
                        unreadable(&format!("the {}", self.phrases.item), value, problem)
                    )
                }
                Exemption::Existing => format!(
                    "{id} was left as it is: it was there before the control was switched to `enforce`."
                ),
                Exemption::None => id,
            }
        })
    }

    /// The items that were to be changed, or that something was tried on.
    fn treated(&self) -> BTreeSet<&'a str> {
        let mut treated: BTreeSet<&str> = self.last.keys().copied().collect();
        if matches!(
            self.entry.head.status,
            Status::Remediated | Status::Failed | Status::InProgress
        ) {
            treated.extend(
                self.entry
                    .detail
                    .plan
                    .changes
                    .iter()
                    .map(|change| change.item.as_str()),
            );
        }
        treated
    }

    /// What became of an item, in one line.
    fn treatment(&self, item: &str) -> String {
        let outcomes = self.outcomes(item);
        let id = self.leading_name(item);
        if let Some(failed) = outcomes.iter().find(|outcome| outcome.failed()) {
            let so_far = match self.cut(item) {
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
        let kept = self.own_items(&parts, "keeps", "keep");
        let last = |step| outcomes.iter().find(|outcome| outcome.step == step);
        let Some(main) = last(Step::Revoke)
            .or_else(|| last(Step::Narrow))
            .or_else(|| last(Step::Set))
        else {
            return format!("{id} was not changed.");
        };
        match (main.step, &main.ending) {
            (Step::Narrow, Ending::Done) => {
                format!("{id} was narrowed to {}{kept}.", permission(main))
            }
            (Step::Set, Ending::Done) => format!("{id} was changed: {}.", self.became(item)),
            (_, Ending::Done) => format!("{id} was revoked{kept}."),
            (Step::Narrow, Ending::AlreadyDone) => format!("{id} was narrowed or gone already."),
            (Step::Set, Ending::AlreadyDone) => format!("{id} was changed already."),
            (_, Ending::AlreadyDone) => format!("{id} was gone already."),
            (_, Ending::Skipped { why }) => {
                format!("{id} was not changed: {}.", clause(why, MOST_TEXT))
            }
            (_, Ending::Failed { .. }) => format!("{id} was not changed."),
        }
    }

    /// What a change made of an item, in words.
    fn became(&self, item: &str) -> String {
        let mut changes = self.entry.detail.plan.changes.iter().rev();
        let change = changes.find(|change| change.item == item);
        let after = change.and_then(|change| change.after.as_ref());
        after.map_or_else(|| "as planned".to_owned(), |after| self.line(item, after))
    }

    /// An item's state in one line.
    fn line(&self, item: &str, state: &Value) -> String {
        let line = self.control.and_then(|control| control.line(item, state));
        or_unknown(line.as_deref(), MOST_TEXT)
    }

    /// A planned change, in one line.
    fn would_be_done(&self, change: &Change) -> String {
        let id = self.leading_name(&change.item);
        let in_place = self.control.map_or(Step::Set, AnyControl::in_place);
        let mut line = match (change.step(in_place), &change.after) {
            (_, None) => format!("{id} would be revoked"),
            (Step::Narrow, Some(to)) => {
                format!("{id} would be narrowed to {}", self.part(&change.item, to))
            }
            (_, Some(to)) => format!("{id} would be changed: {}", self.line(&change.item, to)),
        };
        let parts = change.add.iter();
        let kept: Vec<String> = parts.map(|part| self.part(&change.item, part)).collect();
        line += &self.own_items(&kept, "would keep", "would keep");
        if !change.lost.is_empty() {
            line += &format!("; {} would be LOST", joined(&change.lost, 5));
        }
        line + "."
    }

    /// The allowed parts that become items of their own.
    fn own_items(&self, parts: &[String], keeps: &str, keep: &str) -> String {
        let Phrases { item, found, .. } = self.phrases;
        let kept = joined(parts, 5);
        match parts.len() {
            0 => String::new(),
            1 => format!("; a {item} of its own {keeps} {kept} {found}"),
            many => format!("; {many} {item}s of their own {keep} {kept} {found}"),
        }
    }

    /// Allowed parts that went with the exposure, and why: ahead of all else, for
    /// somebody may be looking for what no longer works.
    fn lost_first(&self) -> Option<Section> {
        let lost = self.lost();
        (!lost.is_empty()).then(|| {
            let lines = shortened(lost, MOST_LINES, |(rule, what, why)| {
                format!(
                    "LOST: {what}, which {} allowed: {}.",
                    one_line(rule, 100),
                    clause(why, MOST_TEXT)
                )
            });
            Section::new("What was allowed and is closed now", lines)
        })
    }

    /// Items of ours that AWS accepted only without a part.
    fn incomplete(&self) -> Vec<String> {
        let outcomes = self.last.values().flatten();
        let incomplete = outcomes.filter_map(|o| Some((o, o.without.as_ref()?)));
        shortened(incomplete, MOST_LINES, |(o, without)| {
            let id = or_unknown(o.created.as_deref(), 100);
            format!("{id} ({}) was made {without}.", permission(o))
        })
    }

    /// Allowed parts that went with the exposure: of which item, what, and why.
    pub(in crate::message) fn lost(&self) -> Vec<(&str, String, &str)> {
        let by_plan = self
            .entry
            .detail
            .plan
            .changes
            .iter()
            .filter(|change| !change.lost.is_empty() && self.cut(&change.item))
            .map(|change| {
                let what = joined(&change.lost, 5);
                let why = "too many rules would be needed to write it";
                (change.item.as_str(), what, why)
            });
        let by_refusal = self
            .last
            .values()
            .flatten()
            .filter(|o| matches!(o.step, Step::Authorise | Step::Narrow) && self.cut(&o.item))
            .filter_map(|o| match &o.ending {
                Ending::Skipped { why } => Some((o.item.as_str(), permission(o), why.as_str())),
                _ => None,
            });
        by_plan.chain(by_refusal).collect()
    }

    /// What the second look at the resource said.
    fn verified(&self) -> Vec<String> {
        let Some(verification) = &self.entry.detail.verification else {
            return Vec::new();
        };
        let mut lines = shortened(verification.problems(), MOST_LINES, |problem| {
            format!(
                "Looked again, and not in order: {}.",
                clause(problem, MOST_TEXT)
            )
        });
        lines.extend(shortened(
            &verification.not_visible_yet,
            MOST_LINES,
            |change| {
                format!(
                    "Looked again, and not visible yet: {}.",
                    clause(change, MOST_TEXT)
                )
            },
        ));
        if lines.is_empty() {
            lines.push(format!("Looked again: {}.", self.phrases.closed));
        }
        lines.extend(shortened(&verification.by_others, MOST_LINES, |change| {
            format!(
                "Changed by others meanwhile: {}.",
                clause(change, MOST_TEXT)
            )
        }));
        lines
    }

    fn take_back(&self) -> Option<Section> {
        let lines = if self.undoable > 0 {
            self.undo()
        } else if self.entry.is_change() {
            vec!["No step of this entry is known to have changed anything. What was there before is in the ledger entry.".to_owned()]
        } else {
            return None;
        };
        Some(Section::next_step("How to take it back", lines))
    }

    fn undo(&self) -> Vec<String> {
        let Phrases { found, .. } = self.phrases;
        let info = self.control.map(AnyControl::info);
        let reversal = info.map_or(Reversal::Yes, |info| info.reversal);
        if let Reversal::No(why) = reversal {
            return vec![why.to_owned()];
        }
        let opt_out = match self.phrases.tagged {
            Some(_) => "puts everything back, with an opt-out, or it would be closed again.",
            None => {
                "puts everything back. Exempt it in the policy first, or it would be remediated again."
            }
        };
        let mut lines = vec![format!(
            "backstop undo {} --reason \"why it must be {found}\" {opt_out}",
            one_line(&self.entry.head.id, 50)
        )];
        if !self.put_back.is_empty() {
            let opt_out = self
                .opt_out_by_hand()
                .map_or_else(String::new, |(on, until)| {
                    format!(" They give {on} an opt-out until {until}.")
                });
            lines.push(format!(
                "Without the command line: the commands under PUT IT BACK at the end of the mail.{opt_out}"
            ));
        }
        if let Reversal::Partly(lost) = reversal {
            lines.push(lost.to_owned());
        }
        lines
    }

    /// What the commands by hand put an opt-out on, and until when; none: they put
    /// none.
    fn opt_out_by_hand(&self) -> Option<(String, Date)> {
        let on = match self.opt_out_on() {
            OptOutOn::Item => format!("each {}", self.phrases.item),
            OptOutOn::Resource => format!("the {}", self.phrases.resource),
            OptOutOn::Policy => return None,
        };
        Some((on, opt_out_until(&self.entry.head)))
    }

    /// Where the opt-out of what is put back stands.
    pub(in crate::message) fn opt_out_on(&self) -> OptOutOn {
        let info = self.control.map(AnyControl::info);
        info.map_or(OptOutOn::Resource, |info| info.opt_out_on)
    }

    fn opt_out(&self) -> Section {
        let is_exempt = self.entry.head.status == Status::Exempt;
        let mut lines = match (is_exempt, self.phrases.tagged) {
            (true, Some(Tagged { resource, .. })) => {
                let item = match self.opt_out_on() {
                    OptOutOn::Item => format!("the {}, ", self.phrases.item),
                    OptOutOn::Resource | OptOutOn::Policy => String::new(),
                };
                vec![format!(
                    "Remove the tag {OPT_OUT_TAG} from whatever carries it: {item}{resource}."
                )]
            }
            (false, Some(Tagged { any, .. })) => vec![
                format!("Tag {any}:"),
                format!("Key: {OPT_OUT_TAG}"),
                format!(
                    "Value: {}",
                    sample_opt_out(&self.entry.head, self.phrases.why_exempt)
                ),
            ],
            (true, None) => vec![format!(
                "Remove `exemption` from the settings of {} in the policy.",
                self.entry.head.control
            )],
            (false, None) => vec![format!(
                "An account has no tags; put this into the policy: {}",
                self.sample_exemption()
            )],
        };
        if let (false, Some(control)) = (is_exempt, self.control) {
            let exposures: Vec<&Exposure> = self.entry.detail.exposures.iter().collect();
            lines.extend(control.allowed_by_policy(&exposures));
        }
        let heading = match is_exempt {
            true => "How to end the opt-out",
            false => "How to opt out",
        };
        Section::next_step(heading, lines)
    }

    /// An exemption as a team may write it into the policy.
    fn sample_exemption(&self) -> String {
        // Written by hand, in the order of reading; none of it needs an escape.
        format!(
            r#"{{"controls": {{"{}": {{"settings": {{"exemption": {{"until": "{}", "owner": "{}", "reason": "{}"}}}}}}}}}}"#,
            self.entry.head.control,
            opt_out_until(&self.entry.head),
            owner(self.entry.head.team.as_deref()),
            self.phrases.why_exempt,
        )
    }

    fn good_to_know(&self) -> Option<Section> {
        let mut lines = self.ended();
        if matches!(self.entry.head.status, Status::Remediated | Status::Failed) {
            lines.extend(self.items_left());
        }
        let exposures = self.entry.detail.exposures.iter();
        let cut: Vec<&Exposure> = exposures.filter(|e| self.cut(&e.item)).collect();
        lines.extend(self.control.map_or_else(Vec::new, |c| c.side_effects(&cut)));
        if self.changed_something() {
            lines.extend(self.phrases.afterwards.iter().map(ToString::to_string));
        }
        if self.entry.head.status == Status::Failed && self.entry.is_change() {
            lines.push(format!(
                "Backstop tries again by itself within minutes and tells you once it is fixed. If that message does not come, {} by hand.",
                self.phrases.remedy
            ));
        }
        (!lines.is_empty()).then_some(Section::new("Good to know", lines))
    }

    /// Opt-outs that hold no longer.
    fn ended(&self) -> Vec<String> {
        let resource = (
            match self.phrases.tagged {
                Some(tagged) => format!("The opt-out of {}", tagged.resource),
                None => "The exemption in the policy".to_owned(),
            },
            &self.entry.head.exemption,
        );
        let of_items = self.entry.detail.exposures.iter().map(|e| {
            let of = format!(
                "The opt-out of {} {}",
                self.phrases.item,
                one_line(&e.item, 100)
            );
            (of, &e.exemption)
        });
        let ended = std::iter::once(resource)
            .chain(of_items)
            .filter_map(|(of, exemption)| match exemption {
                Exemption::Ended(opt_out) => Some((of, opt_out)),
                _ => None,
            });
        shortened(ended, MOST_LINES, |(of, opt_out)| {
            ended_opt_out(&of, opt_out)
        })
    }
}
