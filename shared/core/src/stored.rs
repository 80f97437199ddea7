//! The names that stored documents give to the parts of a remediation.
//!
//! The first release knew security groups only. In the documents of open-ingress
//! an item is a `rule`, what it becomes is what it is narrowed to, and the parts
//! that it adds are permissions. They keep these names: documents are read for
//! as long as they are kept, by this release and, after a rollback, by an earlier
//! one.
//!
//! Deliberately not here: what the parts mean (`plan`, `entry`).

use serde_json::{Map, Value};

use crate::words::ControlId;

/// Turns a stored document into the form that the types read.
pub(crate) fn read(document: &mut Value) {
    if !is_about_rules(document) {
        return;
    }
    for exposure in items(document, &["exposures"]) {
        if let Some(rule) = exposure.remove("rule") {
            exposure.insert("item".to_owned(), id_of(&rule));
            exposure.insert("state".to_owned(), rule);
        }
    }
    for change in items(document, &["plan", "changes"]) {
        let Some(rule) = change.remove("rule") else {
            continue;
        };
        if let Some(permission) = change.remove("narrow_to") {
            change.insert("after".to_owned(), with_permission(&rule, permission));
        }
        if let Some(Value::Array(permissions)) = change.remove("authorise") {
            let parts = permissions.into_iter();
            let parts = parts.map(|permission| with_permission(&rule, permission));
            change.insert("add".to_owned(), parts.collect());
        }
        change.insert("item".to_owned(), id_of(&rule));
        change.insert("before".to_owned(), rule);
    }
    for outcome in items(document, &["outcomes"]) {
        rename(outcome, "rule", "item");
    }
}

/// Turns a document in the form that the types write into the stored one.
pub(crate) fn write(document: &mut Value) {
    if !is_about_rules(document) {
        return;
    }
    for exposure in items(document, &["exposures"]) {
        exposure.remove("item");
        rename(exposure, "state", "rule");
    }
    for change in items(document, &["plan", "changes"]) {
        change.remove("item");
        rename(change, "before", "rule");
        if let Some(after) = change.remove("after") {
            change.insert("narrow_to".to_owned(), permission_of(&after));
        }
        if let Some(Value::Array(parts)) = change.remove("add") {
            let permissions = parts.iter().map(permission_of);
            change.insert("authorise".to_owned(), permissions.collect());
        }
    }
    for outcome in items(document, &["outcomes"]) {
        rename(outcome, "item", "rule");
    }
}

fn is_about_rules(document: &Value) -> bool {
    document["control"] == ControlId::OpenIngress.name()
}

/// The objects of a list at a path.
fn items<'a>(
    document: &'a mut Value,
    path: &[&str],
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let mut at = Some(document);
    for name in path {
        at = at.and_then(|value| value.get_mut(*name));
    }
    at.and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn id_of(rule: &Value) -> Value {
    rule["id"].clone()
}

fn permission_of(rule: &Value) -> Value {
    rule.get("permission").cloned().unwrap_or_default()
}

fn with_permission(rule: &Value, permission: Value) -> Value {
    let mut rule = rule.clone();
    if let Some(fields) = rule.as_object_mut() {
        fields.insert("permission".to_owned(), permission);
    }
    rule
}

fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::record::{Record, document};

    /// As the first release wrote it: a range that was narrowed, and a rule that
    /// was revoked.
    fn as_first_stored() -> Value {
        let range = json!({
            "id": "sgr-1",
            "permission": { "protocol": "tcp", "from_port": 0, "to_port": 9000 },
            "source": { "kind": "ipv4", "value": "0.0.0.0/0" },
            "description": "ask Bob",
            "tags": { "service": "shop" },
        });
        let narrowed = json!({
            "id": "sgr-1",
            "permission": { "protocol": "tcp", "from_port": 80, "to_port": 80 },
            "source": { "kind": "ipv4", "value": "0.0.0.0/0" },
            "description": "ask Bob",
            "tags": { "service": "shop" },
        });
        let list = json!({
            "id": "sgr-2",
            "permission": { "protocol": "-1" },
            "source": { "kind": "prefix-list", "value": "pl-1" },
        });
        let exposure = |rule: &Value, exposed: &str, allowed: &[&str]| {
            json!({
                "rule": rule,
                "exposed": [exposed],
                "allowed": allowed,
                "public_addresses": "340282366920938463463374607431768211455",
                "private_part": true,
                "exemption": { "state": "none" },
                "fingerprint": "0f",
            })
        };
        json!({
            "kind": "remediation",
            "version": 1,
            "id": "01KAT5J3V0QZ8Y2N4M6P8R0T2W",
            "control": "open-ingress",
            "severity": "critical",
            "resource": "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-1",
            "resource_name": "web",
            "account": "111122223333",
            "region": "eu-central-1",
            "status": "remediated",
            "exposures": [
                exposure(&range, "tcp 0-79", &["tcp 80", "tcp 443"]),
                exposure(&list, "all traffic", &[]),
            ],
            "exemption": { "state": "none" },
            "plan": {
                "disposition": "enforce",
                "changes": [
                    { "rule": list, "lost": ["every other protocol"] },
                    {
                        "rule": range,
                        "narrow_to": { "protocol": "tcp", "from_port": 80, "to_port": 80 },
                        "authorise": [
                            { "protocol": "tcp", "from_port": 443, "to_port": 443 },
                        ],
                    },
                ],
                "reasons": [],
            },
            "outcomes": [
                {
                    "round": 1,
                    "rule": "sgr-1",
                    "step": "narrow",
                    "permission": { "protocol": "tcp", "from_port": 80, "to_port": 80 },
                    "ending": { "result": "done" },
                },
                { "round": 1, "rule": "sgr-2", "step": "revoke", "ending": { "result": "done" } },
            ],
            "after": { "sgr-1": narrowed, "sgr-2": null },
            "actor": {},
            "policy_version": 1,
            "attempts": 1,
            "started_at": "2026-11-24T10:00:00Z",
        })
    }

    #[test]
    fn a_document_of_the_first_release_is_read_and_written_as_it_was() {
        let stored = as_first_stored();
        let Record::Remediation(entry) = Record::parse(&stored.to_string()).unwrap() else {
            panic!("not a remediation")
        };
        assert_eq!(document("remediation", &entry).unwrap(), stored);
        let change = &entry.detail.plan.changes[1];
        assert_eq!(change.item, "sgr-1");
        assert_eq!(
            change.before.as_ref(),
            Some(&stored["exposures"][0]["rule"])
        );
        assert_eq!(change.after.as_ref(), Some(&stored["after"]["sgr-1"]));
        assert_eq!(change.add[0]["permission"]["from_port"], 443);
    }

    #[test]
    fn the_parts_of_another_controls_document_keep_the_names_of_the_types() {
        let mut stored = as_first_stored();
        stored["control"] = "encryption-by-default".into();
        let setting = "encryption-by-default";
        stored["exposures"] = json!([{
            "item": setting, "state": false, "exposed": [], "allowed": [],
            "exemption": { "state": "none" }, "fingerprint": setting,
        }]);
        stored["plan"]["changes"] = json!([{ "item": setting, "before": false, "after": true }]);
        stored["outcomes"] = json!([
            { "round": 1, "item": setting, "step": "set", "ending": { "result": "done" } },
        ]);
        stored["after"] = json!({ setting: true });
        let Record::Remediation(entry) = Record::parse(&stored.to_string()).unwrap() else {
            panic!("not a remediation")
        };
        assert_eq!(document("remediation", &entry).unwrap(), stored);
    }
}
