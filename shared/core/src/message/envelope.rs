//! The message as SNS takes it: a subject, one body per protocol, attributes, and
//! no more bytes than there is room for.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::chat::Card;
use crate::json;
use crate::prose::{one_line, or};

/// Most bytes of a message with its subject and attributes. SNS takes 262,144;
/// the rest is room for what SNS itself adds.
pub const MOST_BYTES: usize = 250_000;

/// How many items a message goes into at most.
pub(super) const MOST_ITEMS: usize = 25;

/// How many items a message goes into, tried from the first until it fits. A
/// person does not read more than the first few, and a program that needs all
/// of them reads the ledger.
const ITEMS_SHOWN: &[usize] = &[MOST_ITEMS, 12, 6, 3, 1, 0];

/// How many protocols get the text for programs, see [`bodies`].
const DATA_BODIES: usize = 5;

/// A message for SNS, to be published with `MessageStructure=json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// At most 99 ASCII characters, without control characters.
    pub subject: String,
    /// One body per protocol, as the JSON document that SNS takes.
    pub body: String,
    /// What subscriptions filter by; no value is empty. `team` may be a list,
    /// see [`is_list`].
    pub attributes: BTreeMap<String, String>,
}

impl Message {
    fn bytes(&self) -> usize {
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        self.subject.len() + self.body.len() + attributes
    }
}

/// Whether an attribute's value is a JSON list of texts, as a storm's teams are.
/// (A tag that happens to be written as one is then matched by its texts.)
#[must_use]
pub fn is_list(value: &str) -> bool {
    value.starts_with('[')
        && json::parse::<Vec<String>>(value.as_bytes()).is_ok_and(|of| !of.is_empty())
}

/// The message with as many items as there is room
/// for: `mail` and `data` give the two texts with at most so many.
pub(super) fn fitted(
    subject: String,
    attributes: BTreeMap<String, String>,
    chat: &str,
    mail: impl Fn(usize) -> String,
    data: impl Fn(usize) -> String,
) -> Message {
    let mut message = Message {
        subject,
        body: String::new(),
        attributes,
    };
    for most in ITEMS_SHOWN {
        let data = data(*most);
        // What is too long as it is need not be put together to see that. With
        // nothing left to leave out, it goes as it is.
        if *most > 0 && DATA_BODIES * data.len() > MOST_BYTES {
            continue;
        }
        message.body = bodies(&mail(*most), chat, &data);
        if message.bytes() <= MOST_BYTES {
            break;
        }
    }
    message
}

/// One body per protocol: mail for people, a card for chat, JSON for programs.
/// Chat applications subscribe as `https`; whatever has no body of its own gets
/// `default`.
pub(super) fn bodies(mail: &str, chat: &str, data: &str) -> String {
    // A text that several protocols get is made a JSON text once.
    let (mail, chat, data) = (to_json(&mail), to_json(&chat), to_json(&data));
    let bodies = [
        ("default", &mail),
        ("email", &mail),
        ("email-json", &data),
        ("firehose", &data),
        ("http", &data),
        ("https", &chat),
        ("lambda", &data),
        ("sqs", &data),
    ];
    let bodies = bodies.map(|(protocol, body)| format!("\"{protocol}\":{body}"));
    format!("{{{}}}", bodies.join(","))
}

/// What is told, as JSON.
pub(super) fn to_json(data: &impl Serialize) -> String {
    // Nothing in it can fail to become JSON: all keys are texts. Should that
    // ever change, subscribers hear that and not silence.
    serde_json::to_string(data)
        .unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string())
}

/// What subscriptions filter by.
pub(super) fn attributes(card: &Card<'_>) -> BTreeMap<String, String> {
    [
        ("control", card.control, "unknown"),
        ("severity", &card.severity.to_string(), "unknown"),
        ("outcome", card.outcome, "unknown"),
        ("account", card.account, "unknown"),
        ("region", card.region, "unknown"),
        ("team", card.team, "unowned"),
    ]
    .into_iter()
    .map(|(key, value, without)| (key.to_owned(), or(&one_line(value, 256), without)))
    .collect()
}
