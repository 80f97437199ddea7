//! Events that waited in a queue.

use serde_json::Value;

use super::event::{BrokenEvent, broken};
use crate::json;
use crate::prose::quoted;

/// A message of a queue, whose body is an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The message's id, by which a failure is reported back.
    pub message: String,
    /// The event.
    pub event: Result<Value, BrokenEvent>,
}

/// The events of a batch that Lambda took from a queue; `None`: the payload is
/// no batch but an event itself.
#[must_use]
pub fn queued(payload: &Value) -> Option<Vec<Queued>> {
    let records = payload.get("Records")?.as_array()?;
    Some(
        records
            .iter()
            .map(|record| Queued {
                message: record["messageId"].as_str().unwrap_or_default().to_owned(),
                event: match record["body"].as_str().map(|body| json::value(body.as_bytes())) {
                    Some(Ok(event)) => Ok(event),
                    Some(Err(error)) => broken(format!(
                        "`Records[].body` of the message `{}` is not JSON: {error}; it must be an event",
                        quoted(record["messageId"].as_str().unwrap_or_default())
                    )),
                    None => broken("`Records[].body` is missing: it must be an event"),
                },
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_batch_gives_each_message_with_its_event_and_an_event_is_no_batch() {
        let batch = json!({ "Records": [
            { "messageId": "a", "body": "{\"detail\":{}}" },
            { "messageId": "b", "body": "nonsense" },
            { "messageId": "c" },
            { "messageId": "d", "body": "{\"text\":\"\\ud83d\"}" },
        ] });
        let read = queued(&batch).unwrap();
        let ids: Vec<&str> = read.iter().map(|queued| queued.message.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c", "d"]);
        assert_eq!(read[0].event, Ok(json!({ "detail": {} })));
        assert!(
            read[1]
                .event
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("`b`")
        );
        assert!(read[2].event.is_err());
        assert_eq!(read[3].event, Ok(json!({ "text": "\u{fffd}" })));
        assert_eq!(queued(&json!({ "detail": {} })), None);
    }
}
