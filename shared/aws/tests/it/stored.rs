//! What earlier releases stored is read by this one, and means the same.
//!
//! `tests/stored` holds items of the table as releases wrote them, one file for
//! every kind, control and status: `document` (and `before`, which the table has
//! compressed), the other `attributes` as DynamoDB has them, and the `keys` that
//! the record is known by in `sent#…` and `known#…`. Records are kept for 400
//! days and an undo may need any of them, so a fixture is never edited and never
//! deleted; a new field, status or kind gets a new fixture.
//!
//! They were written by the functions themselves, in runs on AWS in memory.
//! Those named `…-full` were not: they hold every optional field at once. Those of
//! `public-image`, `imdsv1` and of the account settings that are restored were made by
//! hand, after those of `public-snapshot` and `encryption-by-default`, and those of
//! `default-security-group` after those of `public-image`.
//!
//! Deliberately not here: items without a document (locks, counters).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_smithy_types::base64;
use backstop_aws::clients::Clients;
use backstop_aws::ledger::Ledger;
use backstop_core::message;
use backstop_core::notice::About;
use backstop_core::record::Record;
use backstop_core::undo::UndoStatus;
use backstop_core::words::{ControlId, Status};
use backstop_wire::memory::table::Table;
use backstop_wire::{Call, Wire};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

const KINDS: &[&str] = &["remediation", "encryption", "patching", "undo", "notice"];

/// The fixtures of a folder, by file name.
fn fixtures(folder: &str) -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/stored")
        .join(folder);
    std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            (
                path.display().to_string(),
                serde_json::from_str(&text).unwrap(),
            )
        })
        .collect()
}

/// The fixtures of all records.
fn records() -> BTreeMap<String, Value> {
    KINDS.iter().flat_map(|kind| fixtures(kind)).collect()
}

fn parsed(fixture: &Value) -> Record {
    Record::parse(&fixture["document"].to_string()).unwrap()
}

/// A ledger over a table in memory.
fn ledger(table: &Arc<Mutex<Table>>) -> Ledger {
    let table = table.clone();
    let wire = Wire::new(move |call: &Call| table.lock().unwrap().answer(call).unwrap());
    Ledger::new(&Clients::new(&wire.config(1)), "ledger".to_owned())
}

fn table_of(pk: &str, item: Map<String, Value>) -> Arc<Mutex<Table>> {
    let mut table = Table::default();
    table.items.insert(pk.to_owned(), Value::Object(item));
    Arc::new(Mutex::new(table))
}

fn packed(json: &Value) -> Value {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(json.to_string().as_bytes()).unwrap();
    json!({ "B": base64::encode(gzip.finish().unwrap()) })
}

fn unpacked(binary: &Value) -> Value {
    let bytes = base64::decode(binary["B"].as_str().unwrap()).unwrap();
    let mut json = String::new();
    GzDecoder::new(&*bytes).read_to_string(&mut json).unwrap();
    serde_json::from_str(&json).unwrap()
}

/// A record's item, from its fixture.
fn to_item(pk: &str, fixture: &Value) -> Map<String, Value> {
    let mut item = fixture["attributes"].as_object().unwrap().clone();
    item.insert("pk".to_owned(), json!({ "S": pk }));
    item.insert("sk".to_owned(), json!({ "S": "entry" }));
    let document = json!({ "S": fixture["document"].to_string() });
    item.insert("document".to_owned(), document);
    if let Some(before) = fixture.get("before") {
        item.insert("before".to_owned(), packed(before));
    }
    item
}

/// What a fixture of a record's item would hold, but for the keys.
fn to_fixture(item: &Value) -> Value {
    let mut attributes = item.as_object().unwrap().clone();
    attributes.remove("pk");
    attributes.remove("sk");
    let document = attributes.remove("document").unwrap();
    let document: Value = serde_json::from_str(document["S"].as_str().unwrap()).unwrap();
    let before = attributes.remove("before");
    let mut fixture = json!({ "document": document, "attributes": attributes });
    if let Some(before) = before {
        fixture["before"] = unpacked(&before);
    }
    fixture
}

#[tokio::test(start_paused = true)]
async fn every_record_is_read_and_written_again_as_it_was() {
    for (file, mut fixture) in records() {
        let id = fixture["document"]["id"].as_str().unwrap().to_owned();
        let pk = format!("entry#{id}");
        let table = table_of(&pk, to_item(&pk, &fixture));
        let ledger = ledger(&table);
        let stored = ledger.read(&id).await;
        let stored = stored.unwrap_or_else(|error| panic!("{file}: {error}"));
        let stored = stored.unwrap();
        let told = fixture["attributes"]["told"]["BOOL"].as_bool();
        assert_eq!(Some(stored.told), told, "{file}");
        // What is compared is what is written, and not what was there.
        table.lock().unwrap().items.clear();
        match stored.record {
            Record::Remediation(entry) => ledger.finish(&*entry).await.unwrap(),
            Record::Encryption(run) => ledger.finish(&*run).await.unwrap(),
            Record::Patching(run) => ledger.finish(&*run).await.unwrap(),
            Record::Undo(undo) => ledger.finish(&*undo).await.unwrap(),
            Record::Notice(notice) => {
                ledger.record_notice(&notice).await.unwrap();
            }
        }
        let mut written = to_fixture(&table.lock().unwrap().items[&pk]);
        fixture.as_object_mut().unwrap().remove("keys");
        // Noted when it is told, and no part of the record.
        for of in [&mut written, &mut fixture] {
            let attributes = of["attributes"].as_object_mut().unwrap();
            attributes.retain(|name, _| !["told", "untold", "expires_at"].contains(&name.as_str()));
        }
        assert_eq!(written, fixture, "{file}");
    }
}

/// What the table knows a record by: its message in `sent#…`, what it found in
/// `known#…`, what a page of the sweep shows of it.
fn keys(record: &Record) -> Value {
    let message = record.message_key();
    match record {
        Record::Remediation(entry) => {
            json!({ "message": message, "state": entry.state_key(), "page": entry.page_key() })
        }
        Record::Encryption(run) => json!({ "message": message, "state": run.state_key() }),
        Record::Patching(run) => json!({ "message": message, "state": run.state_key() }),
        Record::Undo(_) => json!({ "message": message }),
        Record::Notice(notice) => json!({ "message": message, "state": notice.state_key() }),
    }
}

/// With another key people would be told again of what they have been told.
#[test]
fn every_record_is_known_by_the_same_keys() {
    let records = records().into_iter();
    let keys = records.map(|(file, fixture)| (file, keys(&parsed(&fixture)), fixture));
    let wrong: Vec<String> = keys
        .filter(|(_, keys, fixture)| *keys != fixture["keys"])
        .map(|(file, keys, _)| format!("{file}: {keys:#}"))
        .collect();
    assert!(wrong.is_empty(), "the keys are\n{}", wrong.join("\n"));
}

#[test]
fn every_record_can_be_told() {
    for (file, fixture) in records() {
        let record = parsed(&fixture);
        let message = message::of(&record);
        let subject = &message.subject;
        assert!(
            subject.len() <= 99 && subject.is_ascii(),
            "{file}: {subject}"
        );
        let bodies: BTreeMap<String, String> = serde_json::from_str(&message.body).unwrap();
        let data: Value = serde_json::from_str(&bodies["sqs"]).unwrap();
        assert_eq!(data["entry"], fixture["document"]["id"], "{file}");
        assert_eq!(data["key"], fixture["keys"]["message"], "{file}");
        assert!(bodies["email"].contains(record.id()), "{file}");
    }
}

/// The statuses (topics, of notices) that the records of these controls of a kind
/// come to, and why they come to no other.
struct Reached {
    kind: &'static str,
    /// Empty: notices.
    controls: &'static [ControlId],
    statuses: &'static [&'static str],
    never: &'static [(&'static [&'static str], &'static str)],
}

const REACHED: &[Reached] = &[
    Reached {
        kind: "remediation",
        controls: &[ControlId::OpenIngress],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "held",
            "not-owned",
            "existing",
            "tripped",
            "stopped",
            "pending",
        ],
        never: &[
            (&["refused"], "no rule is spared for what closing it breaks"),
            (&["rolled-back"], "what failed half-way is tried again"),
            (&["needs-person"], "a failure says so"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "encryption",
        controls: &[ControlId::UnencryptedVolume],
        statuses: &[
            "in-progress",
            "remediated",
            "notified",
            "exempt",
            "held",
            "existing",
            "tripped",
            "stopped",
            "pending",
            "refused",
            "rolled-back",
            "needs-person",
        ],
        never: &[
            (&["failed"], "what fails is rolled back, or needs a person"),
            (&["not-owned"], "EC2 shows an account its own volumes only"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "encryption",
        controls: &[ControlId::EncryptionByDefault],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "existing",
            "tripped",
            "stopped",
        ],
        never: &[
            (&["held"], "an account has no tags that might be unreadable"),
            (&["not-owned"], "the setting is the account's own"),
            (&["pending", "refused"], "turning it on disturbs nothing"),
            (&["rolled-back", "needs-person"], "one call fails, or not"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "patching",
        controls: &[ControlId::VulnerablePackage],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "held",
            "existing",
            "tripped",
            "stopped",
            "pending",
            "refused",
            "rolled-back",
            "awaiting-rescan",
        ],
        never: &[
            (
                &["not-owned"],
                "EC2 shows an account its own instances only",
            ),
            (&["needs-person"], "a failure says so"),
        ],
    },
    Reached {
        kind: "patching",
        controls: &[ControlId::MissingPatches],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "held",
            "existing",
            "tripped",
            "stopped",
            "pending",
            "refused",
            "rolled-back",
        ],
        never: &[
            (
                &["not-owned"],
                "EC2 shows an account its own instances only",
            ),
            (&["needs-person"], "a failure says so"),
            (&["awaiting-rescan"], "Systems Manager says what is missing"),
        ],
    },
    Reached {
        kind: "patching",
        controls: &[ControlId::UnmanagedInstance],
        statuses: &["notified", "exempt", "held"],
        never: &[(
            &[
                "in-progress",
                "remediated",
                "failed",
                "not-owned",
                "existing",
                "tripped",
                "stopped",
                "pending",
                "refused",
                "rolled-back",
                "needs-person",
                "awaiting-rescan",
            ],
            "it is only told: nothing can be changed, or kept from being changed",
        )],
    },
    // Of this release on; the records of earlier ones are encryptions.
    Reached {
        kind: "remediation",
        controls: &[
            ControlId::EncryptionByDefault,
            ControlId::SnapshotSharingBlock,
            ControlId::MetadataDefaults,
            ControlId::SerialConsole,
        ],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "existing",
            "tripped",
            "stopped",
        ],
        never: &[
            (&["held"], "an account has no tags that might be unreadable"),
            (&["not-owned"], "the setting is the account's own"),
            (
                &["pending", "refused"],
                "restoring it disturbs nothing that was there before",
            ),
            (&["rolled-back", "needs-person"], "one call fails, or not"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "remediation",
        controls: &[ControlId::ImageSharingBlock],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "existing",
            "tripped",
            "stopped",
            "pending",
        ],
        never: &[
            (&["held"], "an account has no tags that might be unreadable"),
            (&["not-owned"], "the setting is the account's own"),
            (
                &["refused"],
                "restoring it disturbs nothing that was there before",
            ),
            (&["rolled-back", "needs-person"], "one call fails, or not"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "remediation",
        controls: &[
            ControlId::PublicSnapshot,
            ControlId::PublicImage,
            ControlId::PublicSubnet,
        ],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "held",
            "not-owned",
            "existing",
            "tripped",
            "stopped",
            "pending",
        ],
        never: &[
            (&["refused"], "what would break something is notified"),
            (&["rolled-back"], "what failed is tried again"),
            (&["needs-person"], "a failure says so"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "remediation",
        controls: &[ControlId::DefaultSecurityGroup],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "held",
            "not-owned",
            "existing",
            "tripped",
            "stopped",
            "pending",
        ],
        never: &[
            (&["refused"], "a group in use is told: notified"),
            (&["rolled-back"], "what failed is tried again"),
            (&["needs-person"], "a failure says so"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    Reached {
        kind: "remediation",
        controls: &[ControlId::ImdsV1],
        statuses: &[
            "in-progress",
            "remediated",
            "failed",
            "notified",
            "exempt",
            "held",
            "existing",
            "tripped",
            "stopped",
            "pending",
        ],
        never: &[
            (
                &["not-owned"],
                "EC2 shows an account its own instances only",
            ),
            (&["refused"], "one that still uses IMDSv1 is pending"),
            (&["rolled-back"], "what failed is tried again"),
            (&["needs-person"], "a failure says so"),
            (&["awaiting-rescan"], "Inspector reports none of it"),
        ],
    },
    // An encryption is taken back by another encryption, a patching not at all.
    Reached {
        kind: "undo",
        controls: &[ControlId::OpenIngress],
        statuses: &["undo-in-progress", "undone", "undo-failed"],
        never: &[],
    },
    Reached {
        kind: "notice",
        controls: &[],
        statuses: &[
            "opt-out-changed",
            "control-tripped",
            "digest",
            "health",
            "event-failed",
            "storm",
            "requests-refused",
        ],
        never: &[],
    },
];

/// The names that an enum is read by, as serde's error lists them.
fn names<T: DeserializeOwned>(unknown: Value) -> BTreeSet<String> {
    let error = serde_json::from_value::<T>(unknown)
        .err()
        .unwrap()
        .to_string();
    let quoted = error.split('`').skip(1).step_by(2);
    quoted.skip(1).map(str::to_owned).collect()
}

#[test]
fn every_status_of_every_kind_and_control_has_a_fixture_or_a_reason_why_not() {
    let unknown = || json!("?");
    let all: BTreeMap<&str, BTreeSet<String>> = BTreeMap::from([
        ("remediation", names::<Status>(unknown())),
        ("encryption", names::<Status>(unknown())),
        ("patching", names::<Status>(unknown())),
        ("undo", names::<UndoStatus>(unknown())),
        ("notice", names::<About>(json!({ "topic": "?" }))),
    ]);
    let kinds: BTreeSet<String> = KINDS.iter().map(ToString::to_string).collect();
    assert_eq!(names::<Record>(json!({ "kind": "?" })), kinds);
    let mut reached = BTreeSet::new();
    for of in REACHED {
        let never = of.never.iter().flat_map(|(statuses, _)| *statuses);
        let said: Vec<String> = of
            .statuses
            .iter()
            .chain(never)
            .map(ToString::to_string)
            .collect();
        let what = format!("{} of {:?}", of.kind, of.controls);
        assert_eq!(said.len(), all[of.kind].len(), "{what}: {said:?}");
        assert_eq!(BTreeSet::from_iter(said), all[of.kind], "{what}");
        let names: Vec<&str> = match of.controls {
            [] => vec![""],
            controls => controls.iter().map(|control| control.name()).collect(),
        };
        for control in names {
            let statuses = of.statuses.iter();
            reached.extend(statuses.map(|status| format!("{} of {control}: {status}", of.kind)));
        }
    }
    for control in ControlId::ALL {
        let has = REACHED.iter().any(|of| of.controls.contains(control));
        assert!(has, "{control} has no records");
    }
    let fixtures: BTreeSet<String> = records()
        .values()
        .map(|fixture| {
            let document = &fixture["document"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let status = document
                .get("status")
                .unwrap_or(&document["about"]["topic"]);
            let (kind, control) = (text(&document["kind"]), text(&document["control"]));
            format!("{kind} of {control}: {}", text(status))
        })
        .collect();
    assert_eq!(fixtures, reached);
}

fn to_json(read: &impl Serialize) -> Value {
    serde_json::to_value(read).unwrap()
}

/// Trips, fights, reports, the last digest and the last sweep.
#[tokio::test(start_paused = true)]
async fn every_other_document_is_read_and_written_again_as_it_was() {
    let mut met = BTreeSet::new();
    for (file, fixture) in fixtures("state") {
        let pk = fixture["attributes"]["pk"]["S"].as_str().unwrap();
        let mut item = fixture["attributes"].as_object().unwrap().clone();
        let document = &fixture["document"];
        let stored = match pk.starts_with("reports#") {
            true => packed(document),
            false => json!({ "S": document.to_string() }),
        };
        item.insert("document".to_owned(), stored);
        let ledger = ledger(&table_of(pk, item));
        let parts: Vec<&str> = pk.split('#').collect();
        let control = parts.get(1).and_then(|name| ControlId::from_name(name));
        let read = match (&*parts, control) {
            (["digest"], _) => to_json(&ledger.last_digest().await.unwrap()),
            (["sweep"], _) => to_json(&ledger.last_sweep().await.unwrap()),
            (["reports", instance], _) => {
                let instances = [(*instance).to_owned()];
                to_json(&ledger.reports(&instances).await.unwrap()[*instance])
            }
            (["trip", _], Some(control)) => {
                let standing = ledger.standing(control, "").await.unwrap();
                to_json(&standing.guards.control_tripped)
            }
            (["trip", _, resource], Some(control)) => {
                let standing = ledger.standing(control, resource).await.unwrap();
                to_json(&standing.guards.resource_tripped)
            }
            (["fights", _, resource], Some(control)) => {
                let standing = ledger.standing(control, resource).await.unwrap();
                to_json(&standing.guards.fights)
            }
            _ => panic!("{file}: {pk}"),
        };
        assert_eq!(read, *document, "{file}");
        met.insert(format!("{} {}", parts[0], parts.len()));
    }
    let all = [
        "digest 1",
        "fights 3",
        "reports 2",
        "sweep 1",
        "trip 2",
        "trip 3",
    ];
    assert_eq!(met, all.map(str::to_owned).into());
}
