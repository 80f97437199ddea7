//! Messages about undos.

use std::collections::BTreeMap;

use super::Message;
use crate::undo::Undo;

/// Composes the message about an undo.
pub(super) fn compose(undo: &Undo) -> Message {
    Message {
        subject: format!("[Backstop] {}", undo.status.name()),
        body: serde_json::json!({ "default": undo.status.name() }).to_string(),
        attributes: BTreeMap::new(),
    }
}
