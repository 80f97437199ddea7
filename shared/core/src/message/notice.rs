//! Messages about notices.

use std::collections::BTreeMap;

use super::Message;
use crate::notice::Notice;

/// Composes the message about a notice.
pub(super) fn compose(notice: &Notice) -> Message {
    Message {
        subject: format!("[Backstop] {}", notice.about.name()),
        body: serde_json::json!({ "default": notice.about.name() }).to_string(),
        attributes: BTreeMap::new(),
    }
}
