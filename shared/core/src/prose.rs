//! Prose: one line out of anything, lists, counts and times as people say them.
//! Messages and the words of controls are made of it.
//!
//! Names, descriptions, tags and user agents are written by others. They pass
//! through [`one_line`] before they stand in a text, so that none of them can
//! break the layout, hide a part of it, or fill the message.

use jiff::Timestamp;

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

/// Most characters of an input that a sentence about it quotes.
pub(crate) const MOST_QUOTED: usize = 100;

/// An input in a sentence that says what is wrong with it: its beginning, so that
/// nobody can fill a message with it. White space stays, because it may be what is
/// wrong; what is not seen is shown as U+FFFD.
#[must_use]
pub fn quoted(input: &str) -> String {
    let is_shown = |c: char| c.is_whitespace() || !is_unseen(c);
    let shown = |c| {
        if is_shown(c) {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        }
    };
    let mut chars = input.chars();
    let mut quoted: String = chars.by_ref().take(MOST_QUOTED).map(shown).collect();
    if chars.next().is_some() {
        quoted.push('…');
    }
    quoted
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
pub(crate) fn clause(text: &str, most: usize) -> String {
    let line = one_line(text, most);
    line.trim_end_matches(['.', ' ']).to_owned()
}

/// The text, or what stands for it where it is empty.
pub(crate) fn or(text: &str, without: &str) -> String {
    if text.is_empty() { without } else { text }.to_owned()
}

/// An optional text as one line, `unknown` without one.
pub(crate) fn or_unknown(text: Option<&str>, most: usize) -> String {
    or(&one_line(text.unwrap_or_default(), most), "unknown")
}

/// `a, b, c and 4 more`.
pub(crate) fn joined<S: AsRef<str>>(items: &[S], most: usize) -> String {
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
pub(crate) fn shortened<T>(
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

/// `1 rule`, `2 rules`, `2 patches`, `2 entries`.
#[must_use]
pub fn counted(count: usize, item: &str) -> String {
    match (count, item.strip_suffix("ry")) {
        (1, _) => format!("1 {item}"),
        (many, Some(stem)) => format!("{many} {stem}ries"),
        (many, _) if item.ends_with("ch") => format!("{many} {item}es"),
        (many, _) => format!("{many} {item}s"),
    }
}

/// The text with its first letter in upper case.
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// A time, to the second.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_quoted_by_its_beginning() {
        for (input, expected) in [
            ("sg-1 ", "sg-1 ".to_owned()),
            ("\ta\u{1b}b\u{202e}", "\ta\u{fffd}b\u{fffd}".to_owned()),
            (&"ü".repeat(100), "ü".repeat(100)),
            (&"ü".repeat(101), format!("{}…", "ü".repeat(100))),
        ] {
            assert_eq!(quoted(input), expected, "{input}");
        }
    }

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
    fn long_lists_say_what_they_leave_out() {
        assert_eq!(joined(&["a", "b"], 2), "a, b");
        assert_eq!(joined(&["a", "b", "c"], 2), "a, b and 1 more");
        let lines = |most| shortened(["a", "b"], most, str::to_uppercase);
        assert_eq!(lines(2), ["A", "B"]);
        assert_eq!(lines(1), ["A", "and 1 more, see the ledger entry"]);
    }
}
