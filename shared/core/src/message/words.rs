//! Small words: one line out of anything, and sources, counts and times as
//! people say them.
//!
//! Names, descriptions, tags and user agents are written by others. They pass
//! through [`one_line`] before they stand in a text, so that none of them can
//! break the layout, hide a part of it, or fill the message.

use ipnet::IpNet;
use jiff::Timestamp;

use crate::plan::Exposure;
use crate::security_group::Source;

/// A text as one line of at most `most` characters: every run of white space,
/// control characters and invisible format characters becomes one space.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    // One character more than there is room for tells that there are more. What
    // comes after it is not read: texts of others may be very long.
    let mut left = most.saturating_add(1);
    let mut blank = false;
    for c in text.chars() {
        if left == 0 {
            break;
        }
        // Most of what is written is ASCII, which needs no further look.
        if !c.is_ascii_graphic() && (c.is_whitespace() || is_unseen(c)) {
            blank = !line.is_empty();
            continue;
        }
        if std::mem::take(&mut blank) {
            line.push(' ');
            left -= 1;
        }
        if left > 0 {
            line.push(c);
            left -= 1;
        }
    }
    if left > 0 {
        return line;
    }
    let kept: String = line.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Characters that are not seen but change how a line looks: controls, zero
/// width, and those that turn the direction of writing.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A text as a clause inside a sentence: one line without a full stop.
pub(super) fn clause(text: &str, most: usize) -> String {
    let line = one_line(text, most);
    line.trim_end_matches(['.', ' ']).to_owned()
}

/// The text, or what stands for it where it is empty.
pub(super) fn or(text: &str, without: &str) -> String {
    if text.is_empty() { without } else { text }.to_owned()
}

/// An optional text as one line, `unknown` without one.
pub(super) fn or_unknown(text: Option<&str>, most: usize) -> String {
    or(&one_line(text.unwrap_or_default(), most), "unknown")
}

/// `a, b, c and 4 more`.
pub(super) fn joined<S: AsRef<str>>(items: &[S], most: usize) -> String {
    let shown = items
        .iter()
        .take(most)
        .map(|item| one_line(item.as_ref(), 100));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The first items of a list as lines, and how many are left out.
pub(super) fn shortened<T>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    line: impl Fn(T) -> String,
) -> Vec<String> {
    let mut items = items.into_iter();
    let mut lines: Vec<String> = items.by_ref().take(most).map(line).collect();
    let more = items.count();
    if more > 0 {
        lines.push(format!("and {more} more, see the ledger entry"));
    }
    lines
}

/// `1 rule`, `2 rules`.
pub(super) fn rules(count: usize) -> String {
    if count == 1 {
        "1 rule".to_owned()
    } else {
        format!("{count} rules")
    }
}

/// Whether a source is all of the internet, however it is written.
pub(super) fn is_world(source: &Source) -> bool {
    block(source).is_some_and(|block| block.prefix_len() == 0)
}

fn block(source: &Source) -> Option<IpNet> {
    match source {
        Source::Ipv4(block) | Source::Ipv6(block) => block.parse().ok(),
        Source::PrefixList(_) | Source::SecurityGroup(_) => None,
    }
}

/// Who is admitted, in words.
pub(super) fn whom(exposure: &Exposure) -> String {
    let source = one_line(&exposure.rule.source.to_string(), 100);
    let public = count(exposure.public_addresses);
    match (&exposure.rule.source, is_world(&exposure.rule.source)) {
        (Source::Ipv4(_), true) => format!("the whole IPv4 internet ({source})"),
        (Source::Ipv6(_), true) => format!("the whole IPv6 internet ({source})"),
        (Source::PrefixList(_), _) => {
            format!("the prefix list {source} ({public} public addresses)")
        }
        _ => format!("{source} ({public} public addresses)"),
    }
}

/// A count of addresses, as exact as anybody needs it.
pub(super) fn count(addresses: u128) -> String {
    const STEPS: &[(u128, &str)] = &[
        (1_000_000_000_000, "trillion"),
        (1_000_000_000, "billion"),
        (1_000_000, "million"),
    ];
    if addresses >= 1_000_000_000_000_000 {
        return format!("about 2^{}", addresses.ilog2());
    }
    for (unit, name) in STEPS {
        if addresses >= *unit {
            let tenths = addresses * 10 / unit;
            return format!("about {}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    addresses.to_string()
}

/// A time, to the second.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_becomes_one_line() {
        for (text, line) in [
            ("", ""),
            ("plain", "plain"),
            ("  two\r\n\tlines\0 ", "two lines"),
            (
                "right\u{202e}to left\u{2028}and\u{85}so on",
                "right to left and so on",
            ),
            ("zero\u{200b}width", "zero width"),
            ("größer 東京", "größer 東京"),
            ("more than fifteen characters", "more than fift…"),
        ] {
            assert_eq!(
                one_line(text, 15.max(line.chars().count())),
                line,
                "{text:?}"
            );
        }
    }

    #[test]
    fn counts_are_said_as_people_say_them() {
        for (addresses, words) in [
            (0, "0"),
            (65_536, "65536"),
            (16_777_217, "about 16.7 million"),
            (3_702_258_432, "about 3.7 billion"),
            (1 << 45, "about 35.1 trillion"),
            (1 << 125, "about 2^125"),
        ] {
            assert_eq!(count(addresses), words);
        }
    }

    #[test]
    fn long_lists_say_what_they_leave_out() {
        assert_eq!(joined(&["a", "b"], 2), "a, b");
        assert_eq!(joined(&["a", "b", "c"], 2), "a, b and 1 more");
        let lines = |most| shortened(["a", "b"], most, str::to_uppercase);
        assert_eq!(lines(2), ["A", "B"]);
        assert_eq!(lines(1), ["A", "and 1 more, see the ledger entry"]);
    }
}
