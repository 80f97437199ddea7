//! Maintenance windows: the weekly times (UTC) in which a policy lets instances
//! be stopped or restarted.
//!
//! Deliberately not here: SSM's own maintenance windows. They are another
//! schedule, of somebody else.

use jiff::civil::{Time, Weekday};
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prose::quoted;

/// A weekly time in which instances may be stopped, or restarted (UTC).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins; none: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// When it begins, as `02:00`.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub from: String,
    /// When it ends, as `05:00`; at or before `from`: on the next day.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub to: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }
}

fn time_of_day(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl Window {
    /// Whether it is open at a time.
    #[must_use]
    pub fn is_open(&self, at: Timestamp) -> bool {
        let (Some(from), Some(to)) = (time_of_day(&self.from), time_of_day(&self.to)) else {
            return false;
        };
        let now = Offset::UTC.to_datetime(at);
        let today = self.begins_on(now.weekday());
        if to > from {
            return today && now.time() >= from && now.time() < to;
        }
        let yesterday = self.begins_on(now.weekday().previous());
        (today && now.time() >= from) || (yesterday && now.time() < to)
    }

    /// When it opens next after a time.
    fn opens(&self, after: Timestamp) -> Option<Timestamp> {
        let from = time_of_day(&self.from)?;
        let today = Offset::UTC.to_datetime(after).date();
        // Today's may be past: a week and a day.
        (0..=7)
            .filter_map(|days| today.checked_add(days.days()).ok())
            .filter(|day| self.begins_on(day.weekday()))
            .filter_map(|day| Offset::UTC.to_timestamp(day.to_datetime(from)).ok())
            .find(|opens| *opens > after)
    }

    /// When it closes, if it is open at a time.
    fn closes(&self, at: Timestamp) -> Option<Timestamp> {
        let (from, to) = (time_of_day(&self.from)?, time_of_day(&self.to)?);
        if !self.is_open(at) {
            return None;
        }
        let now = Offset::UTC.to_datetime(at);
        let began_today = to > from || now.time() >= from && self.begins_on(now.weekday());
        let day = match to > from || !began_today {
            true => now.date(),
            false => now.date().checked_add(1.days()).ok()?,
        };
        Offset::UTC.to_timestamp(day.to_datetime(to)).ok()
    }

    fn begins_on(&self, day: Weekday) -> bool {
        self.days.is_empty() || self.days.iter().any(|own| own.weekday() == day)
    }
}

/// Whether one of several is open at a time.
#[must_use]
pub fn is_open(windows: &[Window], at: Timestamp) -> bool {
    windows.iter().any(|window| window.is_open(at))
}

/// When one of several opens next after a time; none: there is none.
#[must_use]
pub fn opens(windows: &[Window], after: Timestamp) -> Option<Timestamp> {
    windows
        .iter()
        .filter_map(|window| window.opens(after))
        .min()
}

/// When the last of those that are open at a time closes; none: none is open.
#[must_use]
pub fn closes(windows: &[Window], at: Timestamp) -> Option<Timestamp> {
    windows.iter().filter_map(|window| window.closes(at)).max()
}

/// Checks that every window has times of day.
///
/// # Errors
/// The field, and what is wrong with it.
pub fn check(windows: &[Window]) -> Result<(), (String, String)> {
    for (n, window) in windows.iter().enumerate() {
        for (name, text) in [("from", &window.from), ("to", &window.to)] {
            if time_of_day(text).is_none() {
                return Err((
                    format!("windows[{n}].{name}"),
                    format!("`{}` is not a time of day like `02:00` (UTC)", quoted(text)),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Day], from: &str, to: &str) -> Window {
        Window {
            days: days.to_vec(),
            from: from.into(),
            to: to.into(),
        }
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    // 2026-11-24 is a Tuesday.

    #[test]
    fn a_window_is_open_from_its_first_second_to_the_one_before_its_end() {
        let tuesday = window(&[Day::Tue], "02:00", "05:00");
        for (time, open) in [
            ("2026-11-24T01:59:59Z", false),
            ("2026-11-24T02:00:00Z", true),
            ("2026-11-24T04:59:59.999Z", true),
            ("2026-11-24T05:00:00Z", false),
            ("2026-11-25T03:00:00Z", false),
            ("2026-12-01T03:00:00Z", true),
        ] {
            assert_eq!(tuesday.is_open(at(time)), open, "{time}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let sunday = window(&[Day::Sun], "22:00", "04:00");
        for (time, open) in [
            ("2026-11-29T03:00:00Z", false),
            ("2026-11-29T22:00:00Z", true),
            ("2026-11-30T03:59:00Z", true),
            ("2026-11-30T04:00:00Z", false),
            ("2026-11-30T23:00:00Z", false),
        ] {
            assert_eq!(sunday.is_open(at(time)), open, "{time}");
        }
    }

    #[test]
    fn a_window_that_ends_when_it_begins_is_open_for_a_day() {
        let day = window(&[Day::Tue], "09:00", "09:00");
        for (time, open) in [
            ("2026-11-24T08:59:00Z", false),
            ("2026-11-24T09:00:00Z", true),
            ("2026-11-25T08:59:00Z", true),
            ("2026-11-25T09:00:00Z", false),
        ] {
            assert_eq!(day.is_open(at(time)), open, "{time}");
        }
        assert!(is_open(
            &[window(&[], "00:00", "00:00")],
            at("2026-11-24T13:37:00Z")
        ));
    }

    #[test]
    fn without_days_it_begins_every_day() {
        let daily = window(&[], "02:00", "05:00");
        for day in 23..30 {
            assert!(
                daily.is_open(at(&format!("2026-11-{day}T03:00:00Z"))),
                "{day}"
            );
        }
    }

    #[test]
    fn several_are_open_when_one_is() {
        let two = [
            window(&[Day::Mon], "02:00", "05:00"),
            window(&[Day::Tue], "10:00", "11:00"),
        ];
        assert!(is_open(&two, at("2026-11-24T10:30:00Z")));
        assert!(!is_open(&two, at("2026-11-24T03:00:00Z")));
        assert!(!is_open(&[], at("2026-11-24T03:00:00Z")));
    }

    #[test]
    fn the_next_opening_is_the_first_that_is_still_to_come() {
        let saturday = || window(&[Day::Sat], "02:00", "05:00");
        let daily = || window(&[], "12:00", "13:00");
        for (windows, after, opens_at) in [
            (
                vec![saturday()],
                "2026-11-24T10:00:00Z",
                "2026-11-28T02:00:00Z",
            ),
            // Today's has begun: next week's.
            (
                vec![saturday()],
                "2026-11-28T02:00:00Z",
                "2026-12-05T02:00:00Z",
            ),
            (
                vec![saturday()],
                "2026-11-28T01:59:59Z",
                "2026-11-28T02:00:00Z",
            ),
            (
                vec![daily()],
                "2026-11-24T12:00:01Z",
                "2026-11-25T12:00:00Z",
            ),
            // Over the end of a month and of a year.
            (
                vec![daily()],
                "2026-12-31T20:00:00Z",
                "2027-01-01T12:00:00Z",
            ),
            (
                vec![saturday(), daily()],
                "2026-11-27T20:00:00Z",
                "2026-11-28T02:00:00Z",
            ),
        ] {
            assert_eq!(opens(&windows, at(after)), Some(at(opens_at)), "{after}");
        }
        assert_eq!(opens(&[], at("2026-11-24T10:00:00Z")), None);
    }

    #[test]
    fn a_window_closes_on_the_day_on_which_it_ends() {
        // 2026-11-24 is a Tuesday.
        for (days, from, to, now, expected) in [
            (
                &[Day::Tue][..],
                "09:00",
                "11:00",
                "2026-11-24T10:00:00Z",
                Some("2026-11-24T11:00:00Z"),
            ),
            (&[Day::Tue], "09:00", "11:00", "2026-11-24T11:00:00Z", None),
            (
                &[Day::Tue],
                "22:00",
                "05:00",
                "2026-11-24T23:00:00Z",
                Some("2026-11-25T05:00:00Z"),
            ),
            (
                &[Day::Mon],
                "22:00",
                "05:00",
                "2026-11-24T01:00:00Z",
                Some("2026-11-24T05:00:00Z"),
            ),
            (
                &[],
                "22:00",
                "05:00",
                "2026-11-24T01:00:00Z",
                Some("2026-11-24T05:00:00Z"),
            ),
            (
                &[],
                "00:00",
                "00:00",
                "2026-11-24T10:00:00Z",
                Some("2026-11-25T00:00:00Z"),
            ),
        ] {
            let windows = [window(days, from, to)];
            assert_eq!(
                closes(&windows, at(now)),
                expected.map(at),
                "{from} to {to} at {now}"
            );
        }
        let two = [window(&[], "09:00", "11:00"), window(&[], "10:00", "13:00")];
        assert_eq!(
            closes(&two, at("2026-11-24T10:30:00Z")),
            Some(at("2026-11-24T13:00:00Z"))
        );
    }

    #[test]
    fn a_time_of_day_that_is_none_is_named_with_its_place() {
        let good = || window(&[], "02:00", "05:00");
        assert_eq!(check(&[good()]), Ok(()));
        for text in ["2:00", "02:60", "24:00", "02:00:00", "0200", "", "+2:00"] {
            let (field, problem) = check(&[good(), window(&[], "02:00", text)]).unwrap_err();
            assert_eq!(field, "windows[1].to", "{text}");
            assert!(problem.contains(&format!("`{text}`")), "{problem}");
        }
    }
}
