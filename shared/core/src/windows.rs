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
                    format!("`{text}` is not a time of day like `02:00` (UTC)"),
                ));
            }
        }
    }
    Ok(())
}
