//! The sweep's decisions: which groups want a closer look, why something is
//! open, which opt-outs want somebody's attention, and whether there is
//! anything to tell.
//!
//! Deliberately not here: the walk (`backstop_aws::group_pages`), the closer
//! look (the remediation function's), and the texts (`message::notice`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::decide::Decision;
use crate::exemption::{self, Exemption};
use crate::notice::{Digest, Open, OptOutSeen};
use crate::reason::Reason;
use crate::rules::OptOutRules;
use crate::words::{ControlId, Status, digest};

pub mod patching;
pub mod volumes;

/// How many resources are named where a number is told.
pub const EXAMPLES: usize = 10;

/// How many opt-outs a digest lists.
pub const MOST_OPT_OUTS: usize = 50;

/// How many days ahead the end of an opt-out is announced.
pub const SOON_DAYS: i64 = 7;

/// How old a record must be before the sweep tells it, in seconds: until then
/// whoever wrote it may be about to.
pub const UNTOLD_SECONDS: i64 = 300;

/// After how many hours what was done is told although nothing else is news.
const QUIET_HOURS: i64 = 24;

/// What is open while a run is at work on it, or is about to be.
const BEING_REMEDIATED: &str = "being put right";
/// What is open until the check that the sweep requested has come to its verdict.
const BEING_LOOKED_AT: &str = "being looked at";

/// Why a finding is open, in a few words; `None`: nothing is found.
#[must_use]
pub fn reason<S>(decision: &Decision<S>) -> Option<&'static str> {
    decision.finding()?;
    let because = decision.plan.as_ref()?.because.as_ref();
    Some(because.map_or(BEING_REMEDIATED, Reason::brief))
}

/// What of a finding belongs to the baseline: the fingerprints of what is to be
/// closed, and of what the baseline spares already. What a tag opts out does
/// not, nor what cannot be judged and is left: whether it was open is not known.
#[must_use]
pub fn baseline<S>(decision: &Decision<S>) -> Vec<String> {
    if decision.exemptions.resource.holds() {
        return Vec::new();
    }
    let Some(finding) = decision.finding() else {
        return Vec::new();
    };
    finding
        .exposures
        .iter()
        .filter(|e| match e.exemption {
            Exemption::Existing => true,
            _ => !e.exemption.holds() && !e.is_left_unjudged(&finding.changes),
        })
        .map(|e| e.fingerprint.clone())
        .collect()
}

/// Whether a resource has to be looked at: always, unless what the page shows
/// is what was found and told last. `known` is the key of that
/// ([`crate::entry::page_key`]).
#[must_use]
pub fn asks<S>(decision: &Decision<S>, known: Option<&str>) -> bool {
    known != page_key(decision).as_deref()
}

/// What a page shows of a finding; `None`: nothing is found.
fn page_key<S>(decision: &Decision<S>) -> Option<String> {
    let finding = decision.finding()?;
    let because = decision.plan.as_ref()?.because.as_ref();
    Some(crate::entry::page_key(
        because.map_or(Status::InProgress, Reason::status),
        &decision.exemptions.resource,
        &finding.exposures,
    ))
}

/// Adds a resource to a count, by name while there is room: those are named whose
/// ids come first, in whichever order a walk meets them.
pub fn count(open: &mut Open, id: &str) {
    open.count += 1;
    let at = open.examples.partition_point(|known| known.as_str() <= id);
    open.examples.insert(at, id.to_owned());
    open.examples.truncate(EXAMPLES);
}

/// What an opt-out tag amounts to today, over all controls: `malformed`,
/// `ended`, `ends soon` (within a week), `endless` or `open`.
#[must_use]
pub fn opt_out_seen(
    resource: &str,
    (key, value): (&str, &str),
    today: Date,
    rules: &OptOutRules,
) -> OptOutSeen {
    let said = ControlId::ALL
        .iter()
        .map(|control| exemption::read_tag(key, value, *control, today, rules))
        .find(|said| *said != Exemption::None);
    let seen = |state: &str| OptOutSeen {
        resource: resource.to_owned(),
        value: value.to_owned(),
        state: state.to_owned(),
        until: None,
        owner: None,
        why: None,
    };
    match said {
        Some(Exemption::Malformed { problem, .. }) => OptOutSeen {
            why: Some(problem),
            ..seen("malformed")
        },
        Some(Exemption::Exempt(opt_out) | Exemption::Ended(opt_out)) => {
            let soon = today.saturating_add(SOON_DAYS.days());
            let state = match opt_out.until {
                Some(until) if until < today => "ended",
                Some(until) if until <= soon => "ends soon",
                Some(_) => "open",
                None => "endless",
            };
            OptOutSeen {
                until: opt_out.until,
                owner: opt_out.owner,
                why: opt_out.reason,
                ..seen(state)
            }
        }
        Some(Exemption::None | Exemption::Existing) | None => seen("open"),
    }
}

/// Whether an opt-out wants somebody's attention.
#[must_use]
pub fn wants_attention(seen: &OptOutSeen) -> bool {
    matches!(seen.state.as_str(), "malformed" | "ended" | "ends soon")
}

/// Lists opt-outs that want attention, the most urgent first, as far as there
/// is room for them.
pub fn list_opt_outs(digest: &mut Digest, mut seen: Vec<OptOutSeen>) {
    seen.retain(wants_attention);
    sort_opt_outs(&mut seen);
    digest.more_opt_outs = seen.len().saturating_sub(MOST_OPT_OUTS) as u64;
    seen.truncate(MOST_OPT_OUTS);
    digest.opt_outs = seen;
}

/// Sorts opt-outs by urgency: what cannot be read, what ended, what ends
/// soonest.
pub fn sort_opt_outs(seen: &mut [OptOutSeen]) {
    const ORDER: &[&str] = &["malformed", "ended", "ends soon", "open", "endless"];
    seen.sort_by_key(|one| {
        let rank = ORDER.iter().position(|state| *state == one.state);
        (rank, one.until, one.resource.clone())
    });
}

/// What the last digest said, as the ledger remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDigest {
    /// When it was told.
    pub at: Timestamp,
    /// What it said: [`says`].
    pub said: String,
}

/// What the last sweep came to, whether or not a digest told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSweep {
    /// When it ended.
    pub at: Timestamp,
    /// What was open, by control and reason: how many, and the first few.
    pub open: BTreeMap<ControlId, BTreeMap<String, Open>>,
    /// What it could not see, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
}

impl LastSweep {
    /// From what a sweep found.
    #[must_use]
    pub fn of(digest: &Digest, at: Timestamp) -> Self {
        Self {
            at,
            open: digest.open.clone(),
            unseen: digest.unseen.clone(),
        }
    }
}

/// What a digest says about how things are: what is open and why, opt-outs,
/// and what could not be seen. Not how much was looked at or done, nor what is open
/// only until a run or a check has ended: how that ends is told by itself.
#[must_use]
pub fn says(of: &Digest) -> String {
    let stays = |reason: &str| ![BEING_REMEDIATED, BEING_LOOKED_AT].contains(&reason);
    let open: Vec<_> = of
        .open
        .iter()
        .flat_map(|(control, reasons)| reasons.iter().map(move |(why, open)| (control, why, open)))
        .filter(|(_, why, _)| stays(why))
        .collect();
    // "… ended after 4000 of them" is the same trouble as after 5000. In whichever
    // order the parts of a walk met it.
    let unseen: BTreeSet<String> = of
        .unseen
        .iter()
        .map(|problem| problem.chars().filter(|c| !c.is_ascii_digit()).collect())
        .collect();
    let mut how_things_are = format!(
        "{open:?} {:?} {} {:?} {unseen:?}",
        of.opt_outs, of.more_opt_outs, of.kept
    );
    if !of.of_others.is_empty() {
        how_things_are += &format!(" {:?}", of.of_others);
    }
    digest([how_things_are.as_str()])
}

/// Whether there is anything to tell: things are not as the last digest said,
/// the sweep met or mended something, or something was done and a day has
/// passed. A first sweep that finds nothing has nothing to tell.
#[must_use]
pub fn is_news(of: &Digest, last: Option<&LastDigest>, now: Timestamp) -> bool {
    let met = of.met_first.count > 0
        || of.resumed > 0
        || of.told > 0
        || of.deleted.count > 0
        || of.snapshots_deleted.count > 0;
    let done = !of.outcomes.is_empty();
    match last {
        _ if met => true,
        None => done || says(of) != says(&Digest::default()),
        Some(last) => {
            let day = last.at.saturating_add(QUIET_HOURS.hours());
            says(of) != last.said || (done && day.is_ok_and(|day| now >= day))
        }
    }
}

/// What keeps a control from something that is open, by the status that was
/// recorded last; where nothing does it is still being looked at.
fn kept_back(status: Option<&str>) -> &'static str {
    let is = |of: Status| status == Some(of.name());
    match status {
        _ if is(Status::Exempt) => "opted out",
        _ if is(Status::Held) => "its opt-out tag cannot be read",
        _ if is(Status::Existing) => "it was there before `enforce`",
        _ if is(Status::Tripped) => "the control has tripped",
        _ if is(Status::Stopped) => "the kill switch is on",
        _ => BEING_LOOKED_AT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exemption::OPT_OUT_TAG;

    const TODAY: Date = jiff::civil::date(2026, 11, 24);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    #[test]
    fn opt_outs_are_told_apart_and_the_most_urgent_come_first() {
        let mut seen: Vec<OptOutSeen> = [
            ("a", "all"),
            ("b", "all until=2026-12-02"),
            ("c", "all until=2026-12-01 owner=x reason=y z"),
            ("d", "all until=2026-11-24"),
            ("e", "all until=2026-11-23"),
            ("f", "yes"),
        ]
        .into_iter()
        .map(|(id, value)| opt_out_seen(id, (OPT_OUT_TAG, value), TODAY, &OptOutRules::default()))
        .collect();
        sort_opt_outs(&mut seen);
        let states: Vec<String> = seen
            .iter()
            .map(|one| format!("{} {}", one.resource, one.state))
            .collect();
        assert_eq!(
            states,
            [
                "f malformed",
                "e ended",
                "d ends soon",
                "c ends soon",
                "b open",
                "a endless"
            ]
        );
        assert_eq!(seen[3].owner.as_deref(), Some("x"));
        assert_eq!(seen[3].why.as_deref(), Some("y z"));
        assert!(seen[0].why.as_deref().unwrap().contains("`yes`"));
        let mut digest = Digest::default();
        list_opt_outs(&mut digest, seen);
        assert_eq!(digest.opt_outs.len(), 4);
        let strict = OptOutRules {
            require_end: true,
            ..OptOutRules::default()
        };
        assert_eq!(
            opt_out_seen("a", (OPT_OUT_TAG, "all"), TODAY, &strict).state,
            "malformed"
        );
        let far = opt_out_seen("a", (OPT_OUT_TAG, "all until=9999-12-31"), TODAY, &strict);
        assert_eq!(far.state, "malformed");
        assert!(far.why.unwrap().contains("400 days"));
        let misspelt = opt_out_seen(
            "a",
            ("Backstop:Opt-Out", "all"),
            TODAY,
            &OptOutRules::default(),
        );
        assert_eq!(misspelt.state, "malformed");
        assert!(misspelt.why.unwrap().contains("`backstop:opt-out`"));
    }

    #[test]
    fn more_opt_outs_than_there_is_room_for_are_counted() {
        let ended = opt_out_seen(
            "a",
            (OPT_OUT_TAG, "all until=2020-01-01"),
            TODAY,
            &OptOutRules::default(),
        );
        let mut digest = Digest::default();
        list_opt_outs(&mut digest, vec![ended; MOST_OPT_OUTS + 3]);
        assert_eq!(
            (digest.opt_outs.len(), digest.more_opt_outs),
            (MOST_OPT_OUTS, 3)
        );
    }

    #[test]
    fn what_was_told_is_told_again_only_when_it_changes_or_a_day_has_passed() {
        let mut open = Digest::default();
        let by_reason = open.open.entry(ControlId::OpenIngress).or_default();
        count(by_reason.entry("opted out".into()).or_default(), "sg-1");
        let last = LastDigest {
            at: at(0),
            said: says(&open),
        };
        assert!(is_news(&open, None, at(0)));
        assert!(!is_news(&open, Some(&last), at(1)));
        assert!(
            !is_news(&open, Some(&last), at(100)),
            "nothing was done either"
        );

        let mut done = open.clone();
        let outcomes = done.outcomes.entry(ControlId::OpenIngress).or_default();
        outcomes.insert("remediated".into(), 2);
        assert!(!is_news(&done, Some(&last), at(23)));
        assert!(is_news(&done, Some(&last), at(24)));

        let mut met = open.clone();
        count(&mut met.met_first, "sg-2");
        assert!(is_news(&met, Some(&last), at(1)));
        assert!(
            is_news(&Digest::default(), Some(&last), at(1)),
            "it is closed now"
        );
        assert!(
            !is_news(&Digest::default(), None, at(0)),
            "all is well, and was"
        );
    }

    fn open_for(reasons: &[(&str, &[&str])]) -> Digest {
        let mut digest = Digest::default();
        let by_reason = digest.open.entry(ControlId::OpenIngress).or_default();
        for (reason, ids) in reasons {
            for id in *ids {
                count(by_reason.entry((*reason).to_owned()).or_default(), id);
            }
        }
        digest
    }

    #[test]
    fn the_order_of_a_walk_is_no_news() {
        let ids: Vec<String> = (0..3 * EXAMPLES).map(|n| format!("sg-{n:03}")).collect();
        let forwards: Vec<&str> = ids.iter().map(String::as_str).collect();
        let backwards: Vec<&str> = forwards.iter().rev().copied().collect();
        let mut one = open_for(&[("opted out", &forwards)]);
        let mut other = open_for(&[("opted out", &backwards)]);
        assert_eq!(one.open, other.open);
        for digest in [&mut one, &mut other] {
            count(digest.kept.entry("originals".into()).or_default(), "vol-1");
        }
        one.unseen = vec!["volumes: throttled".into(), "snapshots: denied".into()];
        other.unseen = vec!["snapshots: denied".into(), "volumes: throttled".into()];
        assert_eq!(says(&one), says(&other));
        let last = LastDigest {
            at: at(0),
            said: says(&one),
        };
        assert!(!is_news(&other, Some(&last), at(100)));
        other.unseen.pop();
        assert!(is_news(&other, Some(&last), at(1)), "a problem is gone");
    }

    #[test]
    fn what_passes_by_itself_is_no_news_and_what_comes_back_is() {
        let well = LastDigest {
            at: at(0),
            said: says(&Digest::default()),
        };
        let passing = open_for(&[(BEING_LOOKED_AT, &["vol-1"]), (BEING_REMEDIATED, &["sg-1"])]);
        assert!(!is_news(&passing, Some(&well), at(1)));
        assert!(!is_news(&passing, None, at(1)));

        let open = open_for(&[("the kill switch is on", &["sg-1"])]);
        let said = |digest: &Digest| LastDigest {
            at: at(0),
            said: says(digest),
        };
        assert!(is_news(&open, Some(&well), at(1)));
        assert!(is_news(&Digest::default(), Some(&said(&open)), at(2)));
        assert!(is_news(&open, Some(&said(&Digest::default())), at(3)));
    }
}
