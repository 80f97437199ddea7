//! The opt-out tag `backstop:opt-out`: what it says, and whether it still
//! holds.
//!
//! `<all | control[+control…]> [until=YYYY-MM-DD] [owner=…] [reason=…]`, for
//! example `open-ingress until=2027-01-31 owner=team-web reason=vendor audit`.
//! `until` is the last day (UTC) on which it holds. A tag that cannot be read
//! holds the remediation back and is told loudly: a typing error must not cost
//! a team its working rule, nor pass unseen.
//!
//! Deliberately not here: where tags come from, and what IAM enforces
//! (ARCHITECTURE.md).

use std::collections::BTreeSet;

use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::shell;
use crate::words::ControlId;

/// The tag's key.
pub const OPT_OUT_TAG: &str = "backstop:opt-out";

/// For how many days an opt-out holds for which nobody said how long.
pub const OPT_OUT_DAYS: u32 = 7;

/// How a tag is to be written, for messages about one that is not.
pub const SPELLING: &str = "`all` or control names joined by `+`, then optionally `until=YYYY-MM-DD`, `owner=…`, `reason=…`";

/// An opt-out that applies to a control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOut {
    /// Last day (UTC) on which it holds; `None` is endless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Date>,
    /// Who answers for it, as stated in the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why, as stated in the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the opt-out tag of one resource means for one control today.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Exemption {
    /// No tag, or one for other controls.
    #[default]
    None,
    /// Opted out: nothing is changed.
    Exempt(OptOut),
    /// It was opted out until a day that is past: remediated, and said so.
    Ended(OptOut),
    /// The tag cannot be read: nothing is changed, and that is told.
    Malformed {
        /// The tag's value.
        value: String,
        /// What is wrong with it, in one clause.
        problem: String,
    },
    /// No tag: it was there before the control was switched to `enforce`, and
    /// the policy leaves such findings as they are.
    Existing,
}

impl Exemption {
    /// Whether the resource must not be changed.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(
            self,
            Self::Exempt(_) | Self::Malformed { .. } | Self::Existing
        )
    }
}

/// Reads the tag's value (if the resource has the tag) for a control on a day.
/// With `require_end` an opt-out without `until=` counts as malformed.
#[must_use]
pub fn read(value: Option<&str>, control: ControlId, today: Date, require_end: bool) -> Exemption {
    let Some(value) = value else {
        return Exemption::None;
    };
    match parse(value) {
        Err(problem) => Exemption::Malformed {
            value: value.to_owned(),
            problem,
        },
        Ok((scope, _)) if !scope.covers(control) => Exemption::None,
        Ok((_, opt_out)) if opt_out.until.is_some_and(|day| day < today) => {
            Exemption::Ended(opt_out)
        }
        Ok((_, opt_out)) if require_end && opt_out.until.is_none() => Exemption::Malformed {
            value: value.to_owned(),
            problem: "it has no end, and this account's policy demands `until=YYYY-MM-DD`"
                .to_owned(),
        },
        Ok((_, opt_out)) => Exemption::Exempt(opt_out),
    }
}

/// The strongest of several tags (group, VPC, …) decides: an exemption that
/// holds over one that cannot be read, that over one that ended, that over
/// none.
#[must_use]
pub fn strongest(exemptions: impl IntoIterator<Item = Exemption>) -> Exemption {
    let rank = |exemption: &Exemption| match exemption {
        Exemption::None => 0,
        Exemption::Ended(_) => 1,
        Exemption::Existing => 2,
        Exemption::Malformed { .. } => 3,
        Exemption::Exempt(_) => 4,
    };
    exemptions.into_iter().fold(Exemption::None, |best, next| {
        if rank(&next) > rank(&best) {
            next
        } else {
            best
        }
    })
}

/// The beginning of a tag that opts out of a control until a day, in place of
/// one with this value: other controls that that one opts out of today stay opted
/// out.
pub(crate) fn dated(own: &str, control: ControlId, today: Date, until: Date) -> String {
    let others = ControlId::ALL
        .iter()
        .filter(|other| matches!(read(Some(own), **other, today, false), Exemption::Exempt(_)));
    let mut controls: BTreeSet<&str> = BTreeSet::from([control.name()]);
    controls.extend(others.map(|other| other.name()));
    let controls: Vec<&str> = controls.into_iter().collect();
    format!("{} until={until}", controls.join("+"))
}

/// The command that opts an EC2 resource out for [`OPT_OUT_DAYS`], so that a
/// control leaves it alone and IAM bars nothing (it cannot read dates). `own`:
/// the value of the tag that it carries.
pub(crate) fn dated_command(
    own: Option<&str>,
    resource: &str,
    region: &str,
    control: ControlId,
    today: Date,
) -> String {
    let until = today.saturating_add(i64::from(OPT_OUT_DAYS).days());
    let value = dated(own.unwrap_or_default(), control, today, until);
    let tag = format!("Key={OPT_OUT_TAG},Value={value} reason=undo");
    shell::aws(
        "ec2 create-tags",
        region,
        &[("--resources", resource.to_owned()), ("--tags", tag)],
    )
}

/// What a person is asked for whose opt-out keeps an instance from being
/// stopped that has to be, to get its original volumes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndAsked {
    /// What is in the way, and what can be done: a clause.
    pub why: String,
    /// The command that gives the opt-out an end.
    pub command: String,
}

/// What is asked for where an instance carries an opt-out without an end, which
/// IAM enforces; none: it carries none. `own`: the value of its tag.
#[must_use]
pub fn asks_for_an_end(
    own: Option<&str>,
    instance: &str,
    region: &str,
    control: ControlId,
    today: Date,
) -> Option<EndAsked> {
    match read(own, control, today, false) {
        Exemption::Exempt(OptOut { until: None, .. }) => Some(EndAsked {
            why: format!(
                "{instance} carries an opt-out without an end, for which IAM keeps Backstop from stopping it: stop it yourself, or give the opt-out an `until=`"
            ),
            command: dated_command(own, instance, region, control, today),
        }),
        _ => None,
    }
}

enum Scope {
    All,
    Controls(Vec<ControlId>),
}

impl Scope {
    fn covers(&self, control: ControlId) -> bool {
        match self {
            Self::All => true,
            Self::Controls(controls) => controls.contains(&control),
        }
    }
}

fn parse(value: &str) -> Result<(Scope, OptOut), String> {
    let mut words = value.split_whitespace();
    let scope = match words.next() {
        None => return Err("it is empty".to_owned()),
        Some("all") => Scope::All,
        Some(names) => Scope::Controls(
            names
                .split('+')
                .map(|name| {
                    ControlId::from_name(name).ok_or_else(|| {
                        format!("`{name}` is neither `all` nor the name of a control")
                    })
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    // A value runs to the next `word=`: `reason=` may hold spaces.
    let mut fields: Vec<(&str, String)> = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some((key @ ("until" | "owner" | "reason"), text)) => {
                if fields.iter().any(|(seen, _)| *seen == key) {
                    return Err(format!("`{key}=` stands there twice"));
                }
                fields.push((key, text.to_owned()));
            }
            _ => match fields.last_mut() {
                Some(("reason" | "owner", text)) => {
                    text.push(' ');
                    text.push_str(word);
                }
                _ => return Err(format!("`{word}` is not `until=`, `owner=` or `reason=`")),
            },
        }
    }
    let mut opt_out = OptOut {
        until: None,
        owner: None,
        reason: None,
    };
    for (key, text) in fields {
        let text = text.trim().to_owned();
        if text.is_empty() {
            return Err(format!("`{key}=` is empty"));
        }
        match key {
            "until" => opt_out.until = Some(day(&text)?),
            "owner" => opt_out.owner = Some(text),
            _ => opt_out.reason = Some(text),
        }
    }
    Ok((scope, opt_out))
}

/// A day written as `YYYY-MM-DD` and in no other way. (jiff alone would also
/// take `20270131` and times of day.)
fn day(text: &str) -> Result<Date, String> {
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    shaped
        .then(|| text.parse::<Date>().ok())
        .flatten()
        .ok_or_else(|| format!("`until={text}` is not a date like `until=2027-01-31`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Date = jiff::civil::date(2026, 11, 24);

    fn state(value: &str) -> String {
        match read(Some(value), ControlId::OpenIngress, TODAY, false) {
            Exemption::None => "none".to_owned(),
            Exemption::Exempt(o) => format!(
                "exempt {} {} {}",
                o.until.map_or("-".into(), |d| d.to_string()),
                o.owner.unwrap_or("-".into()),
                o.reason.unwrap_or("-".into()),
            ),
            Exemption::Ended(o) => format!("ended {}", o.until.unwrap()),
            Exemption::Malformed { problem, .. } => format!("malformed: {problem}"),
            Exemption::Existing => "existing".to_owned(),
        }
    }

    #[test]
    fn a_tag_says_what_until_when_who_and_why() {
        for (value, expected) in [
            ("all", "exempt - - -"),
            ("open-ingress", "exempt - - -"),
            (
                "  open-ingress   until=2027-01-31 ",
                "exempt 2027-01-31 - -",
            ),
            ("all until=2026-11-24", "exempt 2026-11-24 - -"),
            ("all until=2026-11-23", "ended 2026-11-23"),
            (
                "open-ingress until=2027-01-31 owner=team-web reason=vendor audit, ticket:42",
                "exempt 2027-01-31 team-web vendor audit, ticket:42",
            ),
            ("all reason=a=b owner=x", "exempt - x a=b"),
        ] {
            assert_eq!(state(value), expected, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed_with_the_word_that_is_wrong() {
        for (value, expected) in [
            ("", "malformed: it is empty"),
            ("  ", "malformed: it is empty"),
            (
                "true",
                "malformed: `true` is neither `all` nor the name of a control",
            ),
            (
                "open-ingres",
                "malformed: `open-ingres` is neither `all` nor the name of a control",
            ),
            (
                "open-ingress+",
                "malformed: `` is neither `all` nor the name of a control",
            ),
            (
                "all until=2027-13-01",
                "malformed: `until=2027-13-01` is not a date like `until=2027-01-31`",
            ),
            (
                "all until=31.01.2027",
                "malformed: `until=31.01.2027` is not a date like `until=2027-01-31`",
            ),
            (
                "all until=20270131",
                "malformed: `until=20270131` is not a date like `until=2027-01-31`",
            ),
            ("all until=", "malformed: `until=` is empty"),
            (
                "all until=2027-01-31 until=2028-01-31",
                "malformed: `until=` stands there twice",
            ),
            (
                "all untill=2027-01-31",
                "malformed: `untill=2027-01-31` is not `until=`, `owner=` or `reason=`",
            ),
            (
                "all forever",
                "malformed: `forever` is not `until=`, `owner=` or `reason=`",
            ),
            (
                "ALL",
                "malformed: `ALL` is neither `all` nor the name of a control",
            ),
        ] {
            assert_eq!(state(value), expected, "{value}");
        }
    }

    #[test]
    fn the_policy_may_demand_an_end() {
        let with = |value| read(Some(value), ControlId::OpenIngress, TODAY, true);
        assert!(matches!(with("all"), Exemption::Malformed { .. }));
        assert!(matches!(with("all until=2027-01-31"), Exemption::Exempt(_)));
    }

    #[test]
    fn the_strongest_tag_decides() {
        let read = |value| read(Some(value), ControlId::OpenIngress, TODAY, false);
        let ended = read("all until=2020-01-01");
        let exempt = read("all");
        let malformed = read("yes");
        assert_eq!(
            strongest([ended.clone(), exempt.clone(), malformed.clone()]),
            exempt
        );
        assert_eq!(
            strongest([Exemption::None, ended.clone(), malformed.clone()]),
            malformed
        );
        assert_eq!(strongest([Exemption::None, ended.clone()]), ended);
        assert_eq!(strongest([]), Exemption::None);
    }
}
