//! The screens in `docs/screens`: what commands print at 80 and 200 columns. The
//! tests of the commands compare them, and write them with `UPDATE_EXPECT=1`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backstop_core::json;
use backstop_core::record::Record;
use backstop_core::words::Mode;
use expect_test::expect_file;

use crate::judging::{as_the_stack, its_policy};

/// Widths of terminals that screens are made for, in columns.
const WIDTHS: [usize; 2] = [80, 200];

/// How the stored documents differ from an account: ids are counted up in them, groups
/// are called by their ids, and nobody asked for an undo.
const AS_IN_AN_ACCOUNT: &[(&str, &str)] = &[
    (
        r#""resource_name": "sg-00000000000000001""#,
        r#""resource_name": "web""#,
    ),
    (
        r#""reason": "a fault run""#,
        r#""by": "jo@example.com", "reason": "vendor access until Friday""#,
    ),
    ("us-east-1", "eu-central-1"),
    ("sg-0000000000000000", "sg-0a3f5c7e91b2d4f6"),
    ("sgr-0000000000000000", "sgr-0b4e6d8fa2c3e507"),
    ("i-0000000000000000", "i-0d2b7c9e4f6a8135"),
    ("vol-0000000000000000", "vol-0e5c8a1f3b7d9246"),
    (
        "00000000-0000-0000-0000-000000000000",
        "8f3b2c1d-5a6e-4f70-9b8c-2d1e0f3a4b5c",
    ),
    ("snap-0000000000000000", "snap-0f6d9b2a4c8e1357"),
];

/// Compares what a command prints with the screen in the documents.
pub(crate) fn check(command: &str, print: impl Fn(Option<usize>) -> String) {
    for width in WIDTHS {
        let screen = print(Some(width));
        let widest = screen.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{command}: {widest:?}\n{screen}");
        let file = format!("../docs/screens/{command}-{width}.txt");
        expect_file![Path::new(env!("CARGO_MANIFEST_DIR")).join(file)].assert_eq(&screen);
    }
}

/// Where the screens are made.
pub(crate) const PLACE: &str = "account 111122223333, Region eu-central-1";

/// What a scan and a plan of this account are judged by.
pub(crate) fn judged_by() -> String {
    as_the_stack(PLACE, "backstop", &its_policy(3), Mode::Enforce, false)
}

/// Where the documents are that a release stored.
pub(crate) fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/aws/tests/stored")
}

/// A stored record by its file, as it would be in an account.
pub(crate) fn record(file: &str) -> Record {
    let mut text = std::fs::read_to_string(stored().join(file)).unwrap();
    for (stored, real) in AS_IN_AN_ACCOUNT {
        text = text.replace(stored, real);
    }
    parse(&text)
}

/// A stored record with what was before its change, which is stored apart.
pub(crate) fn parse(text: &str) -> Record {
    let fixture = json::value(text.as_bytes()).unwrap();
    let mut record = Record::parse(&fixture["document"].to_string()).unwrap();
    if let (Record::Remediation(entry), Some(before)) = (&mut record, fixture.get("before")) {
        let items = before.as_object().into_iter().flatten();
        let items = items.map(|(item, state)| (item.clone(), state.clone()));
        entry.detail.before = items.collect();
    }
    record
}

#[test]
fn every_screen_is_listed_with_its_command() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screens");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let links = list.split("](").skip(1);
    let listed: BTreeSet<String> = links
        .map(|link| link.split(')').next().unwrap().to_owned())
        .collect();
    let mut files: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.remove("README.md");
    assert_eq!(listed, files);
}
