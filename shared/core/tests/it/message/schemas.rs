//! The published schemas are those of the types. `UPDATE_SCHEMAS=1 cargo test
//! --workspace --test it schemas::` writes them anew.

#![allow(
    clippy::disallowed_methods,
    reason = "the files under test are read and written here"
)]

use std::path::Path;
use std::sync::LazyLock;

use backstop_core::message::{
    EncryptionNotification, NoticeNotification, Notification, PatchingNotification,
    UndoNotification,
};
use backstop_core::policy::Policy;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::fixtures::{body, compose, narrowed, revoked};

/// Compares a file in `schemas/` with the schema that it publishes.
fn check(file: &str, schema: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../schemas")
        .join(file);
    let expected = format!("{schema:#}\n");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == expected,
        "schemas/{file} is not the schema of its type: run the tests with UPDATE_SCHEMAS=1 and look at the difference"
    );
}

/// The published schema, ready to hold documents against.
pub(crate) static NOTIFICATION: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&Notification::schema()).unwrap());

/// The same for notices.
pub(crate) static NOTICE: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&NoticeNotification::schema()).unwrap());

/// The same for encryptions.
pub(crate) static ENCRYPTION: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&EncryptionNotification::schema()).unwrap());

/// The same for patchings.
pub(crate) static PATCHING: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&PatchingNotification::schema()).unwrap());

#[test]
fn the_published_schemas_are_those_of_the_types() {
    check("notification.schema.json", &Notification::schema());
    check("notice.schema.json", &NoticeNotification::schema());
    check("encryption.schema.json", &EncryptionNotification::schema());
    check("patching.schema.json", &PatchingNotification::schema());
    check("policy.schema.json", &Policy::schema());
    check("undo.schema.json", &UndoNotification::schema());
}

#[test]
fn notifications_are_as_their_schema_says() {
    for entry in [revoked(), narrowed()] {
        let document: Value = serde_json::from_str(&body(&compose(&entry), "sqs")).unwrap();
        assert!(NOTIFICATION.is_valid(&document), "{document:#}");
        let read: Notification = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), document);

        for (field, wrong) in [
            ("version", json!(2)),
            ("outcome", json!("done")),
            ("severity", json!("bad")),
            ("exposures", json!({})),
            ("started_at", json!(1)),
        ] {
            let mut document = document.clone();
            document[field] = wrong;
            assert!(!NOTIFICATION.is_valid(&document), "{field}");
        }
    }
}

#[test]
fn the_policy_schema_takes_what_the_policy_takes() {
    let schema = jsonschema::validator_for(&Policy::schema()).unwrap();
    for (document, valid) in [
        (json!({ "version": 1 }), true),
        (
            json!({ "version": 1, "controls": { "open-ingress": { "mode": "enforce" } } }),
            true,
        ),
        (
            json!({ "version": 1, "controls": { "open-ingress": { "settings": {
                "authorised_ports": { "tcp": [443, "8000-8100"] },
                "icmp": [{ "type": 8 }, { "type": 3, "code": 4 }],
                "max_public_bits": { "ipv4": 16, "ipv6": 64 },
            } } } }),
            true,
        ),
        (
            json!({ "version": 1, "opt_out": { "require_end": true } }),
            true,
        ),
        (
            json!({ "version": 1, "controls": {
                "unencrypted-volume": { "settings": {
                    "attached": "swap",
                    "windows": [{ "days": ["sat"], "from": "22:00", "to": "02:00" }],
                    "settling_minutes": 0,
                    "max_downtime_minutes": 1440,
                    "health_minutes": 2,
                    "release_public_ipv4": true,
                    "replace_stack_volumes": true,
                    "kms_key": "alias/volumes",
                    "originals": { "delete_after_days": 30 },
                } },
                "encryption-by-default": { "settings": {
                    "exemption": { "until": "2027-01-31", "owner": "platform" },
                } },
            } }),
            true,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "attached": "always" } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "windows": [{ "from": "2:00", "to": "05:00" }] } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "windows": [{ "from": "02:00", "to": "24:00" }] } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "windows": [{ "days": ["saturday"], "from": "02:00", "to": "05:00" }] } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "settling_minutes": 1441 } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "max_downtime_minutes": 4 } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "health_minutes": 121 } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "kms_key": "" } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": { "originals": { "delete_after_days": 0 } } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "encryption-by-default": { "settings": { "exemption": { "until": "2027-01-31", "owner": "" } } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "encryption-by-default": { "settings": { "exemption": { "owner": "platform" } } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": {
                "vulnerable-package": { "mode": "enforce", "settings": { "severity": "critical" } },
                "missing-patches": { "mode": "enforce", "existing": "notify" },
                "unmanaged-instance": { "mode": "notify" },
            }, "patching": {
                "windows": [{ "days": ["sun"], "from": "02:00", "to": "05:00" }],
                "reboot": "if-needed",
                "min_age_minutes": 0,
                "cool_down_hours": 720,
                "auto_scaling": "patch",
                "snapshots": false,
                "max_concurrency": "100%",
                "max_errors": "0",
            } }),
            true,
        ),
        (
            json!({ "version": 1, "controls": { "vulnerable-package": { "settings": { "severity": "bad" } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "missing-patches": { "settings": { "severity": "high" } } } }),
            false,
        ),
        (
            json!({ "version": 1, "patching": { "reboot": "always" } }),
            false,
        ),
        (
            json!({ "version": 1, "patching": { "cool_down_hours": 0 } }),
            false,
        ),
        (
            json!({ "version": 1, "patching": { "min_age_minutes": 10081 } }),
            false,
        ),
        (
            json!({ "version": 1, "patching": { "max_concurrency": "0" } }),
            false,
        ),
        (
            json!({ "version": 1, "patching": { "max_errors": "101%" } }),
            false,
        ),
        (
            json!({ "version": 1, "patching": { "snapshot": true } }),
            false,
        ),
        (json!({}), false),
        (json!({ "version": 2 }), false),
        (json!({ "version": 1, "control": {} }), false),
        (
            json!({ "version": 1, "controls": { "open-ingres": {} } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "open-ingress": { "mode": "enfroce" } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "open-ingress": { "budget": { "changes_per_hour": 0 } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "open-ingress": { "settings": { "max_public_bits": { "ipv4": 33 } } } } }),
            false,
        ),
        (
            json!({ "version": 1, "controls": { "open-ingress": { "settings": { "authorised_ports": { "tcp": [65536] } } } } }),
            false,
        ),
    ] {
        assert_eq!(schema.is_valid(&document), valid, "{document}");
        assert_eq!(
            Policy::parse(&document.to_string()).is_ok(),
            valid,
            "{document}"
        );
    }
}
