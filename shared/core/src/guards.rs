//! Guards: what keeps a control from acting although its mode is `enforce`.
//!
//! | guard | set by | ended by |
//! | --- | --- | --- |
//! | kill switch | the policy's `kill_switch` | the policy |
//! | trip of a control | more changes in an hour than its budget, by many resources | a person, who re-arms it |
//! | trip of a resource | more changes in an hour than the budget by itself; or a fight: the same finding again and again within 24 hours | a person, who re-arms it |
//! | baseline | the first sweep after a switch to `enforce` | the policy's `existing` |
//!
//! They are asked in one order for every control ([`held_back`]).
//!
//! Deliberately not here: where the ledger keeps them (`backstop_aws::ledger`),
//! and the budget's count, which only the ledger can keep under concurrency.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exemption::Exemption;
use crate::reason::Reason;
use crate::rules::FightRules;
use crate::run::Head;
use crate::words::{Mode, Status};

/// What the ledger says about a control and one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// The control has tripped: it changes nothing anywhere.
    pub control_tripped: Option<Trip>,
    /// The control has tripped for this resource.
    pub resource_tripped: Option<Trip>,
    /// How often what was found has been put right of late.
    pub fights: Fights,
    /// Fingerprints of what was there when the control was switched to
    /// `enforce`.
    pub baseline: BTreeSet<String>,
    /// The last good state of a setting that is restored to what it was
    /// ([`Control::keeps`](crate::control::Control::keeps)).
    pub former: Option<Value>,
    /// The budget of this clock hour has no room for the finding, and no trip follows
    /// from that ([`OverBudget::Spent`]): set by the look that met it.
    pub budget_spent: bool,
}

impl Guards {
    /// Whether a finding was told together with the control's trip: all are but the
    /// critical ones, each of which is told by itself.
    #[must_use]
    pub fn told_with_the_trip(&self, head: &Head) -> bool {
        self.control_tripped.is_some()
            && head.status == Status::Tripped
            && !head.is_left_and_critical()
    }
}

/// What spares everything that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// An opt-out tag that cannot be read.
    Unreadable,
    /// Opt-out tags.
    OptedOut,
    /// An exemption in the policy.
    ByPolicy,
    /// The baseline.
    Existing,
    /// It cannot be judged, and the policy does not say to close it.
    Unjudged,
}

impl Spared {
    /// What an exemption spares, if it holds.
    #[must_use]
    pub fn of(exemption: &Exemption) -> Option<Self> {
        match exemption {
            Exemption::None | Exemption::Ended(_) => None,
            Exemption::Exempt(_) => Some(Self::OptedOut),
            Exemption::Malformed { .. } => Some(Self::Unreadable),
            Exemption::Existing => Some(Self::Existing),
        }
    }
}

/// What decides whether a finding is remediated.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The account that owns the resource, where it is another one.
    pub other_owner: Option<&'a str>,
    /// What spares everything that was found.
    pub spared: Option<Spared>,
    /// Why the control leaves it in any mode.
    pub left: Option<&'a Reason>,
    /// The control's mode.
    pub mode: Mode,
    /// Whether the kill switch is on.
    pub kill_switch: bool,
    /// What the ledger says.
    pub guards: &'a Guards,
    /// How often the finding was remediated within 24 hours, and at which time
    /// the control trips; `None`: fights are not counted.
    pub fights: Option<(u32, u32)>,
}

/// Why a finding is not remediated; `None`: it is. The first of these counts: not
/// ours, opt-out, baseline, not judged, left by the control, mode, kill switch,
/// tripped (control, resource), budget of the hour, fights.
#[must_use]
pub fn held_back(case: &Case<'_>) -> Option<Reason> {
    let Case { guards, .. } = case;
    if let Some(owner) = case.other_owner {
        let owner = owner.to_owned();
        return Some(Reason::NotOwned { owner });
    }
    match case.spared {
        Some(Spared::Unreadable) => return Some(Reason::OptOutUnreadable),
        Some(Spared::OptedOut) => return Some(Reason::OptedOut),
        Some(Spared::ByPolicy) => return Some(Reason::ExemptInPolicy),
        Some(Spared::Existing) => return Some(Reason::Existing),
        Some(Spared::Unjudged) => return Some(Reason::NotJudged),
        None => {}
    }
    if let Some(left) = case.left {
        return Some(left.clone());
    }
    if case.mode != Mode::Enforce {
        return Some(Reason::NotifyMode);
    }
    if case.kill_switch {
        return Some(Reason::KillSwitch);
    }
    if let Some(Trip { why, .. }) = &guards.control_tripped {
        let why = why.clone();
        return Some(Reason::ControlTripped { why });
    }
    if let Some(Trip { why, .. }) = &guards.resource_tripped {
        let why = why.clone();
        return Some(Reason::ResourceTripped { why });
    }
    if guards.budget_spent {
        return Some(Reason::BudgetSpent);
    }
    match case.fights {
        Some((times, trip_after)) if times.saturating_add(1) >= trip_after => {
            Some(Reason::Fight { times })
        }
        _ => None,
    }
}

/// A control that stopped acting until a person re-arms it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// When.
    pub at: Timestamp,
    /// Why, as a clause for messages.
    pub why: String,
}

/// How much of a control's budget is spent in this clock hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Changes of all resources.
    pub all: u64,
    /// Those of the resource in question.
    pub by_resource: u64,
    /// Those of resources for which the control has tripped because they exceeded
    /// the budget by themselves.
    pub by_tripped: u64,
}

/// What follows from changes that the ledger refused because of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverBudget {
    /// They fit by now: the clock hour is another one.
    Fits,
    /// The resource exceeds the budget by itself: the control trips for it alone.
    Resource {
        /// Changes that there is room for.
        room: usize,
        /// Changes that it would come to in this clock hour.
        needs: u64,
    },
    /// There is no room only because of resources that have tripped by themselves.
    /// The control does not trip for their sake: the changes wait for the next hour.
    Spent,
    /// Many resources do together: the control trips.
    Control,
}

impl Spent {
    /// What follows if a resource needs so many more changes. A resource that would
    /// exceed the budget if it were the only one must not stop the control for all
    /// others, however many calls it took.
    #[must_use]
    pub fn over(self, changes: usize, budget: u32) -> OverBudget {
        let (changes, budget) = (changes as u64, u64::from(budget));
        if self.all.saturating_add(changes) <= budget {
            OverBudget::Fits
        } else if self.by_resource.saturating_add(changes) > budget {
            let room = budget.saturating_sub(self.all);
            OverBudget::Resource {
                room: usize::try_from(room).unwrap_or(usize::MAX),
                needs: self.by_resource.saturating_add(changes),
            }
        } else if self.all.saturating_sub(self.by_tripped) + changes <= budget {
            OverBudget::Spent
        } else {
            OverBudget::Control
        }
    }
}

/// How often each finding on a resource has been put right, by fingerprint.
/// Only the holder of the resource's lock writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fights {
    /// Of the last week, the oldest first.
    rounds: BTreeMap<String, Vec<Round>>,
    /// The entry that was last told as an escalation within a day, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    escalated: Option<Round>,
    /// By fingerprint, the entry that told of a fight that goes on for days.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    escalated_in_week: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    entry: String,
    at: Timestamp,
}

/// Most rounds that are remembered of one finding: more than any policy may
/// ask for.
const MOST_ROUNDS: usize = FightRules::MOST as usize;

/// Most findings of one resource whose rounds are remembered. A group holds 60
/// rules by default; with more, the ones that came first are kept.
const MOST_FINGERPRINTS: usize = 200;

/// Most rounds that are remembered of a resource, about 80 bytes each: an item of the
/// ledger holds 400 KB. With more, the oldest are forgotten.
const MOST_ROUNDS_IN_ALL: usize = 3_000;

/// Over how many hours fights are counted.
const DAY: u32 = 24;
const WEEK: u32 = 7 * DAY;

/// A finding that somebody or something keeps putting back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fight {
    /// How often it has been put right within a day or a week, this time included.
    pub times: u32,
    /// When it was first, within that day or week.
    pub since: Timestamp,
    /// The hours within which it was counted: 24, or 168 for a fight that goes on for
    /// days.
    #[serde(default = "day", skip_serializing_if = "is_day")]
    pub within_hours: u32,
    /// Seconds after which it comes back, about; `None`: not counted over a week, or
    /// there is no rhythm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u64>,
    /// The entry that tells of it: later ones of the same fight tell nothing
    /// new.
    pub told_by: String,
    /// What manages the resource, where tags or the user agent show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

fn day() -> u32 {
    DAY
}

fn is_day(hours: &u32) -> bool {
    *hours == DAY
}

impl Fight {
    /// Whether it was counted over a week.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.within_hours == WEEK
    }
}

impl Fights {
    fn before(now: Timestamp, hours: u32) -> Timestamp {
        now.saturating_sub(i64::from(hours).hours())
            .unwrap_or(Timestamp::MIN)
    }

    /// Those rounds of a finding that came within so many hours before `now`.
    fn within(&self, fingerprint: &str, now: Timestamp, hours: u32) -> &[Round] {
        let since = Self::before(now, hours);
        let rounds = self.rounds.get(fingerprint).map_or(&[][..], Vec::as_slice);
        let first = rounds.partition_point(|round| round.at <= since);
        rounds.get(first..).unwrap_or_default()
    }

    /// How often a finding was put right in the 24 hours before `now`.
    #[must_use]
    pub fn times(&self, fingerprint: &str, now: Timestamp) -> u32 {
        count(self.within(fingerprint, now, DAY))
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Notes that an entry has put these findings right, once however often it
    /// is noted, and says whether that makes it a fight.
    pub fn note<'a>(
        &mut self,
        entry: &str,
        fingerprints: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
        rules: &FightRules,
        managed_by: Option<String>,
    ) -> Option<Fight> {
        self.forget(now);
        let mut noted = BTreeSet::new();
        for fingerprint in fingerprints {
            if !self.rounds.contains_key(fingerprint) && self.rounds.len() >= MOST_FINGERPRINTS {
                continue;
            }
            noted.insert(fingerprint);
            let rounds = self.rounds.entry(fingerprint.to_owned()).or_default();
            if !rounds.iter().any(|known| known.entry == entry) {
                rounds.push(Round {
                    entry: entry.to_owned(),
                    at: now,
                });
                let surplus = rounds.len().saturating_sub(MOST_ROUNDS);
                rounds.drain(..surplus);
            }
        }
        self.keep_the_newest();
        let most = |hours| {
            let all = noted.iter().map(|of| self.within(of, now, hours));
            all.rev()
                .max_by_key(|rounds| rounds.len())
                .unwrap_or_default()
        };
        let (in_day, in_week) = (most(DAY), most(WEEK));
        let fight = |rounds: &[Round], within_hours| Fight {
            times: count(rounds),
            since: rounds.first().map_or(now, |round| round.at),
            within_hours,
            every_seconds: None,
            told_by: entry.to_owned(),
            managed_by: managed_by.clone(),
        };
        let is_slow = count(in_week) >= rules.escalate_after_in_week;
        let is_fast = match count(in_day).checked_sub(rules.escalate_after) {
            None => false,
            // A rhythm just at the limit, like 12 hours give or take a minute, would
            // be told by turns as fast and as slow, each time as news.
            Some(0) => !is_slow || self.escalated.is_some(),
            Some(_) => true,
        };
        if is_fast {
            let mut fight = fight(in_day, DAY);
            let told = self.escalated.get_or_insert(Round {
                entry: entry.to_owned(),
                at: now,
            });
            fight.told_by.clone_from(&told.entry);
            return Some(fight);
        }
        if !is_slow {
            return None;
        }
        let mut fight = fight(in_week, WEEK);
        fight.every_seconds = rhythm(in_week);
        // It says nothing new where all of what it put right has been told as a fight.
        let told = |of: &&str| self.escalated_in_week.get(*of);
        let told: Option<Vec<&String>> = noted.iter().map(told).collect();
        if let Some(told_by) = told.as_deref().and_then(<[_]>::first) {
            fight.told_by = (*told_by).clone();
            return Some(fight);
        }
        for of in noted {
            if count(self.within(of, now, WEEK)) >= rules.escalate_after_in_week {
                let told = self.escalated_in_week.entry(of.to_owned());
                told.or_insert_with(|| entry.to_owned());
            }
        }
        Some(fight)
    }

    /// Forgets what is too old to count.
    fn forget(&mut self, now: Timestamp) {
        let (day, week) = (Self::before(now, DAY), Self::before(now, WEEK));
        for rounds in self.rounds.values_mut() {
            rounds.retain(|round| round.at > week);
        }
        self.rounds.retain(|_, rounds| !rounds.is_empty());
        if self.escalated.as_ref().is_some_and(|told| told.at <= day) {
            self.escalated = None;
        }
        // A fight is over when nothing was put back for a week.
        let rounds = &self.rounds;
        self.escalated_in_week
            .retain(|fingerprint, _| rounds.contains_key(fingerprint));
    }

    fn keep_the_newest(&mut self) {
        let mut times: Vec<Timestamp> = self.rounds.values().flatten().map(|r| r.at).collect();
        let surplus = times.len().saturating_sub(MOST_ROUNDS_IN_ALL);
        times.sort_unstable();
        let Some(last) = surplus.checked_sub(1).and_then(|last| times.get(last)) else {
            return;
        };
        for rounds in self.rounds.values_mut() {
            // Of those of one time all go, but never the newest of a finding.
            let newest = rounds.last().map(|round| round.at);
            rounds.retain(|round| round.at > *last || Some(round.at) == newest);
        }
    }
}

fn count(rounds: &[Round]) -> u32 {
    u32::try_from(rounds.len()).unwrap_or(u32::MAX)
}

/// Seconds that lie about between two rounds; `None`: they keep to no rhythm.
fn rhythm(rounds: &[Round]) -> Option<u64> {
    let pairs = rounds.iter().zip(rounds.iter().skip(1));
    let apart = pairs.map(|(one, next)| next.at.duration_since(one.at).as_secs());
    let mut apart: Vec<u64> = apart.filter_map(|s| u64::try_from(s).ok()).collect();
    apart.sort_unstable();
    let median = *apart.get(apart.len() / 2)?;
    // Something that was off for once, or late, has a rhythm all the same.
    let like = |s: &&u64| **s >= median / 2 && **s <= median.saturating_mul(2);
    let alike = apart.iter().filter(like).count();
    (median > 0 && alike * 4 >= apart.len() * 3).then_some(median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    fn note(fights: &mut Fights, entry: &str, hours: i64) -> Option<Fight> {
        fights.note(entry, ["a"], at(hours), &FightRules::default(), None)
    }

    #[test]
    fn who_exceeds_the_budget_by_itself_trips_by_itself() {
        let spent = |all, by_resource, by_tripped| Spent {
            all,
            by_resource,
            by_tripped,
        };
        let over = |all, by_resource, changes| spent(all, by_resource, 0).over(changes, 50);
        let resource = |room, needs| OverBudget::Resource { room, needs };
        assert_eq!(over(0, 0, 50), OverBudget::Fits);
        assert_eq!(over(0, 0, 51), resource(50, 51));
        assert_eq!(
            over(30, 0, 51),
            resource(20, 51),
            "others have spent some of it"
        );
        assert_eq!(over(50, 0, 51), resource(0, 51));
        // In several calls.
        assert_eq!(over(50, 50, 1), resource(0, 51));
        assert_eq!(over(45, 30, 21), resource(5, 51));
        // Many resources together.
        assert_eq!(over(50, 0, 1), OverBudget::Control);
        assert_eq!(over(50, 49, 1), OverBudget::Control);
        // One that tripped by itself disarms nothing but itself.
        assert_eq!(spent(50, 0, 50).over(1, 50), OverBudget::Spent);
        assert_eq!(spent(50, 0, 30).over(30, 50), OverBudget::Spent);
        assert_eq!(spent(50, 0, 30).over(31, 50), OverBudget::Control);
        assert_eq!(spent(40, 0, 30).over(5, 50), OverBudget::Fits);
        // The budget was lowered meanwhile.
        assert_eq!(over(80, 80, 1), resource(0, 81));
    }

    #[test]
    fn the_third_time_in_a_day_is_a_fight_that_one_entry_tells() {
        let mut fights = Fights::default();
        assert_eq!(note(&mut fights, "1", 0), None);
        assert_eq!(note(&mut fights, "2", 1), None);
        let third = note(&mut fights, "3", 2).unwrap();
        assert_eq!(
            (third.times, third.since, third.told_by.as_str()),
            (3, at(0), "3")
        );
        let fourth = note(&mut fights, "4", 3).unwrap();
        assert_eq!((fourth.times, fourth.told_by.as_str()), (4, "3"));
    }

    #[test]
    fn a_retry_of_the_same_entry_counts_once() {
        let mut fights = Fights::default();
        for _ in 0..5 {
            assert_eq!(note(&mut fights, "1", 0), None);
        }
        assert_eq!(fights.times("a", at(1)), 1);
    }

    #[test]
    fn what_is_older_than_a_day_does_not_count_and_a_fight_is_told_anew_each_day() {
        let mut fights = Fights::default();
        note(&mut fights, "1", 0);
        note(&mut fights, "2", 1);
        assert_eq!(note(&mut fights, "3", 25), None, "0 and 1 are a day ago");
        assert_eq!(fights.times("a", at(25)), 1, "a trip counts a day");
        let mut fights = Fights::default();
        let told: Vec<String> = (0..30)
            .filter_map(|hour| note(&mut fights, &format!("{hour}"), hour))
            .map(|fight| fight.told_by)
            .collect();
        assert_eq!(told.first().unwrap(), "2");
        assert_eq!(told.last().unwrap(), "26", "24 hours after the first");
    }

    /// Which entries tell of a fight, of one finding put right at these hours, and
    /// the last fight.
    fn told(hours: impl IntoIterator<Item = f64>) -> (Vec<usize>, Option<Fight>) {
        let (mut fights, mut told, mut last) = (Fights::default(), Vec::new(), None);
        for (index, hours) in hours.into_iter().enumerate() {
            let entry = format!("{}", index + 1);
            let now = Timestamp::from_second(1_800_000_000 + (hours * 3600.0) as i64).unwrap();
            last = fights.note(&entry, ["a"], now, &FightRules::default(), None);
            // A plain `remediated`, or the news of a fight.
            if last.as_ref().is_none_or(|fight| fight.told_by == entry) {
                told.push(index + 1);
            }
        }
        (told, last)
    }

    #[test]
    fn what_comes_back_every_12_hours_is_told_once_with_its_rhythm() {
        let every = |step: f64| (0..60).map(move |n| f64::from(n) * step);
        for hours in [12.0, 20.0, 24.0, 48.0, 55.0] {
            let (told, last) = told(every(hours));
            assert_eq!(told, [1, 2, 3, 4], "every {hours} hours");
            let last = last.unwrap();
            assert!(last.is_slow());
            assert_eq!(last.every_seconds, Some((hours * 3600.0) as u64));
        }
        // Four within 7 days, and not in 7 days: each is news.
        assert_eq!(told(every(56.0)).0.len(), 60);
        // At the limit of a fight within a day, told as that, too.
        assert_eq!(told(every(8.0)).0, [1, 2, 3, 6]);
        assert_eq!(told(every(11.9)).0, [1, 2, 3, 6]);
        let give_or_take = (0..60).map(|n| f64::from(n) * 12.0 + f64::from(n * 7 % 5) * 0.1);
        assert_eq!(told(give_or_take).0.len(), 4);
        // One that was off for two days.
        let gap = [0.0, 12.0, 24.0, 72.0, 84.0, 96.0, 108.0];
        assert_eq!(told(gap).0, [1, 2, 3, 4]);
    }

    #[test]
    fn a_slow_fight_that_turns_fast_or_ended_for_a_week_is_news() {
        let slow = (0..10).map(|n| f64::from(n) * 12.0);
        let fast = (1..10).map(|n| 108.0 + f64::from(n));
        let (told_by, last) = told(slow.clone().chain(fast));
        // Two more within the day are a fourth time; then once a day.
        assert_eq!(told_by, [1, 2, 3, 4, 12]);
        assert!(!last.unwrap().is_slow());
        let later = (0..5).map(|n| 108.0 + 168.0 + f64::from(n) * 12.0);
        assert_eq!(told(slow.chain(later)).0, [1, 2, 3, 4, 11, 12, 13, 14]);
    }

    #[test]
    fn what_comes_at_no_rhythm_is_told_without_one() {
        let (told_by, last) = told([0.0, 1.0, 100.0, 101.0, 150.0]);
        assert_eq!(told_by, [1, 2, 3, 4]);
        assert_eq!(last.unwrap().every_seconds, None);
    }

    /// What a fight keeps quiet must not keep another finding of the resource quiet.
    #[test]
    fn another_finding_beside_a_slow_fight_is_news() {
        let mut fights = Fights::default();
        let rules = FightRules::default();
        let mut note = |entry: usize, of: &[&'static str]| {
            let now = at(i64::try_from(entry).unwrap() * 12);
            let fight = fights.note(&entry.to_string(), of.iter().copied(), now, &rules, None);
            fight.is_none_or(|fight| fight.told_by == entry.to_string())
        };
        let told: Vec<bool> = (1..=6).map(|entry| note(entry, &["a"])).collect();
        assert_eq!(told, [true, true, true, true, false, false]);
        assert!(note(7, &["a", "b"]), "b was never told");
        let told: Vec<bool> = (8..=12).map(|entry| note(entry, &["b"])).collect();
        assert_eq!(told, [true, true, true, false, false]);
        assert!(!note(13, &["a", "b"]), "both were");
    }

    #[test]
    fn what_is_remembered_of_a_resource_fits_into_an_item() {
        let mut fights = Fights::default();
        let all: Vec<String> = (0..300).map(|n| format!("{n:032}")).collect();
        let rules = FightRules {
            trip_after: 100,
            ..FightRules::default()
        };
        for round in 0..90 {
            let entry = format!("{round:026}");
            let of = all.iter().map(String::as_str);
            fights.note(&entry, of, at(round), &rules, None);
        }
        assert!(serde_json::to_string(&fights).unwrap().len() < 350_000);
        assert!(fights.times(&all[0], at(89)) >= 10, "the newest are kept");
    }

    #[test]
    fn findings_count_apart() {
        let mut fights = Fights::default();
        let rules = FightRules::default();
        for (entry, fingerprint) in [("1", "a"), ("2", "b"), ("3", "c")] {
            assert_eq!(fights.note(entry, [fingerprint], at(0), &rules, None), None);
        }
    }

    /// Everything holds a finding back at first; row by row, the reason that
    /// comes first in the order is taken away.
    #[test]
    fn guards_are_asked_in_one_order() {
        let trip = |why: &str| {
            Some(Trip {
                at: at(0),
                why: why.to_owned(),
            })
        };
        let untripped = Guards::default();
        let spent = Guards {
            budget_spent: true,
            ..Guards::default()
        };
        let resource = Guards {
            resource_tripped: trip("it came back"),
            ..spent.clone()
        };
        let both = Guards {
            control_tripped: trip("the budget is used up"),
            ..resource.clone()
        };
        for (spared, reason) in [
            (Spared::Unreadable, Reason::OptOutUnreadable),
            (Spared::OptedOut, Reason::OptedOut),
            (Spared::ByPolicy, Reason::ExemptInPolicy),
            (Spared::Existing, Reason::Existing),
            (Spared::Unjudged, Reason::NotJudged),
        ] {
            let mut case = Case {
                other_owner: Some("444455556666"),
                spared: Some(spared),
                left: Some(&Reason::NeverSet),
                mode: Mode::Notify,
                kill_switch: true,
                guards: &both,
                fights: Some((9, 10)),
            };
            let owner = "444455556666".to_owned();
            assert_eq!(held_back(&case), Some(Reason::NotOwned { owner }));
            case.other_owner = None;
            assert_eq!(held_back(&case), Some(reason));
            case.spared = None;
            assert_eq!(held_back(&case), Some(Reason::NeverSet));
            case.left = None;
            assert_eq!(held_back(&case), Some(Reason::NotifyMode));
            case.mode = Mode::Enforce;
            assert_eq!(held_back(&case), Some(Reason::KillSwitch));
            case.kill_switch = false;
            let why = "the budget is used up".to_owned();
            assert_eq!(held_back(&case), Some(Reason::ControlTripped { why }));
            case.guards = &resource;
            let why = "it came back".to_owned();
            assert_eq!(held_back(&case), Some(Reason::ResourceTripped { why }));
            case.guards = &spent;
            assert_eq!(held_back(&case), Some(Reason::BudgetSpent));
            case.guards = &untripped;
            assert_eq!(held_back(&case), Some(Reason::Fight { times: 9 }));
            for fights in [Some((8, 10)), None] {
                case.fights = fights;
                assert_eq!(held_back(&case), None, "it is remediated");
            }
        }
    }
}
