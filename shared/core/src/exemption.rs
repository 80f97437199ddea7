//! The opt-out tag `backstop:opt-out`: what it says, and whether it still
//! holds.
//!
//! `<all | control[+control…]> [until=YYYY-MM-DD] [owner=…] [reason=…]`, for
//! example `open-ingress until=2027-01-31 owner=team-web reason=vendor audit`.
//! `until` is the last day (UTC) on which it holds. A tag that cannot be read
//! holds the remediation back and is told loudly: a typing error must not cost
//! a team its working rule, nor pass unseen.
//!
//! EC2 tells tag keys apart by case, IAM does not: to IAM a tag
//! `Backstop:Opt-Out` is an opt-out. So the key is read without regard to case
//! and surrounding blanks, and a tag that opts out under any other spelling than
//! [`OPT_OUT_TAG`] holds the remediation back like one that cannot be read.
//!
//! Deliberately not here: where tags come from, and what IAM enforces
//! (ARCHITECTURE.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::prose::quoted;
use crate::rules::OptOutRules;
use crate::shell::{self, ascii_json};
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
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        /// The tag's key as it is spelt, where that is not [`OPT_OUT_TAG`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// The days for which the policy lets an opt-out hold at most, where its end
        /// lies further ahead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        longest_days: Option<u32>,
    },
    /// No tag: it was there before the control was switched to `enforce`, and
    /// the policy leaves such findings as they are.
    Existing,
}

/// As derived, but for a key that is spelt right and no limit: keys in the ledger are made of
/// this text, and stay as earlier releases wrote them.
impl fmt::Debug for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Exempt(opt_out) => f.debug_tuple("Exempt").field(opt_out).finish(),
            Self::Ended(opt_out) => f.debug_tuple("Ended").field(opt_out).finish(),
            Self::Malformed {
                value,
                problem,
                key,
                longest_days,
            } => {
                let mut malformed = f.debug_struct("Malformed");
                malformed.field("value", value).field("problem", problem);
                if let Some(key) = key {
                    malformed.field("key", key);
                }
                if let Some(longest_days) = longest_days {
                    malformed.field("longest_days", longest_days);
                }
                malformed.finish()
            }
            Self::Existing => f.write_str("Existing"),
        }
    }
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

/// Whether a tag's key is that of an opt-out, in whatever spelling.
#[must_use]
pub fn is_opt_out_key(key: &str) -> bool {
    key.trim().eq_ignore_ascii_case(OPT_OUT_TAG)
}

/// The opt-outs among a resource's tags, as key and value: usually one, but EC2
/// allows keys that differ only in case.
pub fn opt_out_tags(tags: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    tags.iter()
        .filter(|(key, _)| is_opt_out_key(key))
        .map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Reads a resource's tags for a control on a day, and for the one whose opt-outs
/// it honours. An opt-out that the policy's rules do not allow counts as malformed.
#[must_use]
pub fn read(
    tags: &BTreeMap<String, String>,
    control: ControlId,
    today: Date,
    rules: &OptOutRules,
) -> Exemption {
    let controls = std::iter::once(control).chain(control.honours());
    let read = controls.flat_map(|control| {
        opt_out_tags(tags).map(move |(key, value)| read_tag(key, value, control, today, rules))
    });
    of_one_resource(read.collect())
}

/// What several opt-outs on one resource amount to. One that cannot be read
/// decides: IAM matches one of two keys that differ only in case, and does not say
/// which.
pub(crate) fn of_one_resource(read: Vec<Exemption>) -> Exemption {
    let malformed = |exemption: &&Exemption| matches!(exemption, Exemption::Malformed { .. });
    match read.iter().find(malformed) {
        Some(malformed) => malformed.clone(),
        None => strongest(read),
    }
}

/// Reads one opt-out tag by its key and value.
pub(crate) fn read_tag(
    key: &str,
    value: &str,
    control: ControlId,
    today: Date,
    rules: &OptOutRules,
) -> Exemption {
    let misspelt = || {
        format!(
            "its key is `{}`; use `{OPT_OUT_TAG}` and remove this one",
            quoted(key)
        )
    };
    let read = read_value(value, control, today, rules);
    let (problem, longest_days) = match &read {
        _ if key == OPT_OUT_TAG => return read,
        Exemption::Exempt(_) => (misspelt(), None),
        Exemption::Malformed {
            problem,
            longest_days,
            ..
        } => (format!("{problem}; {}", misspelt()), *longest_days),
        _ => return read,
    };
    Exemption::Malformed {
        value: value.to_owned(),
        problem,
        key: Some(key.to_owned()),
        longest_days,
    }
}

fn read_value(value: &str, control: ControlId, today: Date, rules: &OptOutRules) -> Exemption {
    let malformed = |problem: String, longest_days| Exemption::Malformed {
        value: value.to_owned(),
        problem,
        key: None,
        longest_days,
    };
    let (scope, opt_out) = match parse(value) {
        Err(problem) => return malformed(problem, None),
        Ok(read) => read,
    };
    if !scope.covers(control) {
        return Exemption::None;
    }
    let longest = rules.longest_days;
    match opt_out.until {
        Some(day) if day < today => Exemption::Ended(opt_out),
        None if rules.require_end => malformed(
            "it has no end, and this account's policy demands `until=YYYY-MM-DD`".to_owned(),
            None,
        ),
        Some(day) if rules.require_end && day > today.saturating_add(i64::from(longest).days()) => {
            malformed(
                format!(
                    "its end is more than {longest} days ahead, the longest that this account's policy allows (`opt_out.longest_days`)"
                ),
                Some(longest),
            )
        }
        _ => Exemption::Exempt(opt_out),
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
/// out. So is the control whose opt-outs it honours, or that would take away again
/// what is put back.
pub(crate) fn dated(own: &str, control: ControlId, today: Date, until: Date) -> String {
    let others = ControlId::ALL.iter().filter(|other| {
        let read = read_tag(OPT_OUT_TAG, own, **other, today, &OptOutRules::default());
        matches!(read, Exemption::Exempt(_))
    });
    let mut controls: BTreeSet<&str> = BTreeSet::from([control.name()]);
    controls.extend(
        others
            .copied()
            .chain(control.honours())
            .map(ControlId::name),
    );
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
/// IAM enforces however its key is spelt; none: it carries none. `tags`: its tags.
#[must_use]
pub fn asks_for_an_end(
    tags: &BTreeMap<String, String>,
    instance: &str,
    region: &str,
    control: ControlId,
    today: Date,
) -> Option<EndAsked> {
    let (key, own) = opt_out_tags(tags).find(|(_, value)| {
        let read = read_tag(OPT_OUT_TAG, value, control, today, &OptOutRules::default());
        matches!(read, Exemption::Exempt(OptOut { until: None, .. }))
    })?;
    let dated = dated_command(Some(own), instance, region, control, today);
    Some(EndAsked {
        why: format!(
            "{instance} carries an opt-out without an end, for which IAM keeps Backstop from stopping it: stop it yourself, or give the opt-out an `until=`"
        ),
        command: match key == OPT_OUT_TAG {
            true => dated,
            // A key cannot be renamed.
            false => {
                let tag = ascii_json(&json!([{ "Key": key }]));
                let options = [("--resources", instance.to_owned()), ("--tags", tag)];
                let remove = shell::aws("ec2 delete-tags", region, &options);
                format!("{remove} && {dated}")
            }
        },
    })
}

/// Most characters of a tag's value (EC2's limit).
const MOST_TAG: usize = 256;

/// For how long, whose, and why something is opted out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term<'a> {
    /// Last day (UTC) on which it holds, as `2027-01-31`.
    pub until: Option<&'a str>,
    /// Who answers for it.
    pub owner: Option<&'a str>,
    /// Why.
    pub reason: Option<&'a str>,
}

/// The value of an opt-out tag for these controls (none: all of them), as it is read.
///
/// # Errors
/// It could not be read as it is meant, or is too long: what is wrong, in a sentence.
pub fn compose(controls: &[ControlId], term: &Term<'_>) -> Result<String, String> {
    let names: Vec<&str> = controls.iter().map(|control| control.name()).collect();
    let mut value = match names.join("+") {
        all if all.is_empty() => "all".to_owned(),
        names => names,
    };
    let fields = [
        ("until", term.until),
        ("owner", term.owner),
        ("reason", term.reason),
    ];
    for (name, text) in fields {
        if let Some(text) = text {
            value += &format!(" {name}={}", text.trim());
        }
    }
    let (_, read) = parse(&value)?;
    let until = read.until.map(|until| until.to_string());
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let as_meant = until.as_deref() == term.until.map(str::trim)
        && read.owner == term.owner.map(spaced)
        && read.reason == term.reason.map(spaced);
    if !as_meant {
        return Err(format!(
            "`{value}` would be read otherwise than it is meant: leave `until=`, `owner=` and `reason=` out of the texts"
        ));
    }
    match value.chars().count() {
        length if length > MOST_TAG => Err(format!(
            "the tag would have {length} characters; at most {MOST_TAG} are allowed: shorten the reason"
        )),
        _ => Ok(value),
    }
}

/// The last day of an opt-out tag's value, if it has one that can be read.
#[must_use]
pub fn until(value: &str) -> Option<Date> {
    parse(value).ok().and_then(|(_, opt_out)| opt_out.until)
}

/// The value of an opt-out tag without these controls; `None`: none is left.
///
/// # Errors
/// It cannot be read, or says `all`, of which nothing can be taken out.
pub fn without(value: &str, controls: &[ControlId]) -> Result<Option<String>, String> {
    let (scope, _) = parse(value).map_err(|problem| {
        format!(
            "the tag `{value}` cannot be read ({problem}): remove it as a whole, without --control"
        )
    })?;
    let Scope::Controls(named) = scope else {
        return Err(
            "the tag opts out of all controls: remove it as a whole, and add those that stay"
                .to_owned(),
        );
    };
    let left: Vec<&str> = named
        .iter()
        .filter(|control| !controls.contains(control))
        .map(|control| control.name())
        .collect();
    if left.len() == named.len() {
        return Ok(Some(value.to_owned()));
    }
    let terms = value.trim_start().split_once(char::is_whitespace);
    let terms = terms.map_or_else(String::new, |(_, terms)| format!(" {terms}"));
    Ok((!left.is_empty()).then(|| format!("{}{terms}", left.join("+"))))
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
                        format!(
                            "`{}` is neither `all` nor the name of a control",
                            quoted(name)
                        )
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
                _ => {
                    return Err(format!(
                        "`{}` is not `until=`, `owner=` or `reason=`",
                        quoted(word)
                    ));
                }
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
        .ok_or_else(|| {
            format!(
                "`until={}` is not a date like `until=2027-01-31`",
                quoted(text)
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Date = jiff::civil::date(2026, 11, 24);

    #[test]
    fn what_is_composed_is_read_as_it_is_meant_or_refused() {
        let term = |until, owner, reason| Term {
            until,
            owner,
            reason,
        };
        let both = [ControlId::OpenIngress, ControlId::DefaultSecurityGroup];
        let full = term(Some("2027-01-31"), Some("team-web"), Some("vendor audit"));
        let value = compose(&both, &full).unwrap();
        assert_eq!(
            value,
            "open-ingress+default-security-group until=2027-01-31 owner=team-web reason=vendor audit"
        );
        assert_eq!(state(&value), "exempt 2027-01-31 team-web vendor audit");
        assert_eq!(compose(&[], &Term::default()).unwrap(), "all");
        for (wrong, part) in [
            (term(Some("31.01.2027"), None, None), "until=31.01.2027"),
            (term(None, Some(""), None), "`owner=` is empty"),
            (term(None, Some("a reason=b"), None), "otherwise"),
            (term(None, None, Some("a until=2027-01-31")), "otherwise"),
        ] {
            let said = compose(&[], &wrong).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
        let long = "x".repeat(300);
        assert!(compose(&[], &term(None, None, Some(&long))).is_err());
    }

    #[test]
    fn a_control_is_taken_out_of_a_tag_and_the_rest_stays() {
        let value = "open-ingress+public-image until=2027-01-31 owner=a";
        let left = |controls: &[ControlId]| without(value, controls).unwrap();
        assert_eq!(
            left(&[ControlId::OpenIngress]).as_deref(),
            Some("public-image until=2027-01-31 owner=a")
        );
        assert_eq!(left(&[ControlId::SerialConsole]).as_deref(), Some(value));
        assert_eq!(
            left(&[ControlId::OpenIngress, ControlId::PublicImage]),
            None
        );
        assert!(without("all", &[ControlId::OpenIngress]).is_err());
        assert!(without("nonsense", &[ControlId::OpenIngress]).is_err());
    }

    fn state(value: &str) -> String {
        match read_value(
            value,
            ControlId::OpenIngress,
            TODAY,
            &OptOutRules::default(),
        ) {
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
    fn a_key_in_another_spelling_holds_what_it_would_exempt_and_says_the_right_one() {
        let read = |tags: &[(&str, &str)]| {
            let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            read(
                &tags.collect(),
                ControlId::OpenIngress,
                TODAY,
                &OptOutRules::default(),
            )
        };
        for key in [
            "Backstop:Opt-Out",
            "BACKSTOP:OPT-OUT",
            "backstop:opt-ouT",
            " backstop:opt-out",
            "backstop:opt-out ",
            "\t Backstop:Opt-Out  ",
        ] {
            for value in [
                "all",
                "open-ingress",
                "missing-patches+open-ingress until=2027-01-31",
            ] {
                for tags in [
                    &[(key, value)][..],
                    &[(key, value), (OPT_OUT_TAG, "all until=2026-12-24")],
                    &[(key, value), (OPT_OUT_TAG, "all until=2020-01-01")],
                    &[(key, value), (OPT_OUT_TAG, "missing-patches")],
                ] {
                    let Exemption::Malformed {
                        value: of,
                        problem,
                        key: spelt,
                        longest_days: None,
                    } = read(tags)
                    else {
                        panic!("{tags:?}");
                    };
                    assert_eq!((of.as_str(), spelt.as_deref()), (value, Some(key)));
                    assert!(problem.contains(&format!("`{key}`")), "{problem}");
                    assert!(problem.contains(&format!("`{OPT_OUT_TAG}`")), "{problem}");
                }
            }
            let Exemption::Malformed { problem, .. } = read(&[(key, "true")]) else {
                panic!("{key}");
            };
            assert!(problem.starts_with("`true` is neither"), "{problem}");
            assert!(problem.contains(&format!("`{OPT_OUT_TAG}`")), "{problem}");
            // What would exempt nothing holds nothing.
            assert_eq!(read(&[(key, "missing-patches")]), Exemption::None);
            let ended = read(&[(key, "all until=2026-11-23")]);
            assert!(matches!(ended, Exemption::Ended(_)), "{ended:?}");
        }
        for other in [
            "backstop:opt-outs",
            "backstop:optout",
            "backstop:opt_out",
            "backstop :opt-out",
            "backstop:opt out",
            "opt-out",
            "backstop",
            "",
        ] {
            assert_eq!(read(&[(other, "all")]), Exemption::None, "{other}");
        }
        let both = read(&[(OPT_OUT_TAG, "all"), ("backstop:opt-outs", "?")]);
        assert!(matches!(both, Exemption::Exempt(_)), "{both:?}");
    }

    #[test]
    fn keys_in_the_ledger_stay_as_they_were() {
        let opt_out = r#"OptOut { until: Some(2026-12-24), owner: None, reason: None }"#;
        for (value, expected) in [
            ("all until=2026-12-24", format!("Exempt({opt_out})")),
            ("missing-patches", "None".to_owned()),
            (
                "",
                r#"Malformed { value: "", problem: "it is empty" }"#.to_owned(),
            ),
        ] {
            let read = read_value(
                value,
                ControlId::OpenIngress,
                TODAY,
                &OptOutRules::default(),
            );
            assert_eq!(format!("{read:?}"), expected);
        }
        assert_eq!(format!("{:?}", Exemption::Existing), "Existing");
    }

    #[test]
    fn the_policy_may_demand_an_end() {
        let strict = |longest_days| OptOutRules {
            require_end: true,
            longest_days,
        };
        let with = |value| read_value(value, ControlId::OpenIngress, TODAY, &strict(400));
        assert!(matches!(with("all"), Exemption::Malformed { .. }));
        assert!(matches!(with("all until=2027-01-31"), Exemption::Exempt(_)));
        // Where it does not, one that ends at any time says more than one without.
        let lax = OptOutRules::default();
        let far = read_value("all until=9999-12-31", ControlId::OpenIngress, TODAY, &lax);
        assert!(matches!(far, Exemption::Exempt(_)));
    }

    #[test]
    fn where_an_end_is_demanded_it_may_not_lie_too_far_ahead() {
        let longest = |days: u32, key: &str, value: &str| {
            let rules = OptOutRules {
                require_end: true,
                longest_days: days,
            };
            match read_tag(key, value, ControlId::OpenIngress, TODAY, &rules) {
                Exemption::Malformed {
                    problem,
                    longest_days,
                    ..
                } => {
                    let limit = longest_days.unwrap();
                    assert!(problem.contains(&format!("{limit} days")), "{problem}");
                    Some(limit)
                }
                Exemption::Exempt(_) | Exemption::None => None,
                other => panic!("{value}: {other:?}"),
            }
        };
        let of = |value| longest(400, OPT_OUT_TAG, value);
        // 400 days after 2026-11-24.
        assert_eq!(of("all until=2027-12-29"), None);
        assert_eq!(of("all until=2027-12-30"), Some(400));
        assert_eq!(
            of("all until=9999-12-31 owner=web reason=for ever"),
            Some(400)
        );
        assert_eq!(
            of("missing-patches until=9999-12-31"),
            None,
            "another control's"
        );
        assert_eq!(longest(7, OPT_OUT_TAG, "all until=2026-12-01"), None);
        assert_eq!(longest(7, OPT_OUT_TAG, "all until=2026-12-02"), Some(7));
        assert_eq!(
            longest(7, "Backstop:Opt-Out", "all until=2026-12-02"),
            Some(7)
        );
    }

    #[test]
    fn the_strongest_tag_decides() {
        let read = |value| {
            read_value(
                value,
                ControlId::OpenIngress,
                TODAY,
                &OptOutRules::default(),
            )
        };
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
