//! Commands for people to paste into bash or zsh.
//!
//! Names, descriptions and tags are other people's texts. They stand in single
//! quotes, in JSON that is pure ASCII: no shell reads anything into them.

use serde_json::Value;

use crate::prose::one_line;

/// A command of the AWS CLI: `ec2 create-tags` and the like with its options.
pub(crate) fn aws(operation: &str, region: &str, options: &[(&str, String)]) -> String {
    let mut command = format!("aws {operation} --region {}", quote(&one_line(region, 50)));
    for (name, value) in options {
        command += &format!(" {name} {}", quote(value));
    }
    command
}

/// JSON in ASCII alone: what is not becomes `\u….`, so that no character can
/// change how a command looks.
pub(crate) fn ascii_json(value: &Value) -> String {
    let mut ascii = String::new();
    for c in value.to_string().chars() {
        if is_ascii(c) {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii += &format!("\\u{unit:04x}");
            }
        }
    }
    ascii
}

/// Whether a character is an ASCII one that can be seen, or a space.
fn is_ascii(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}

/// A word as a POSIX shell takes it: plain ones as they are, others in single
/// quotes, in which only the single quote itself means anything.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let line: String = word
        .chars()
        .map(|c| if is_ascii(c) { c } else { '?' })
        .collect();
    format!("'{}'", line.replace('\'', r"'\''"))
}
