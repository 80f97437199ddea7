//! The binary itself, where no AWS is needed: what it prints, and its exit
//! codes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Away from any real account.
fn backstop(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder of its own for a test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn record(call: &str, user: &str) -> Value {
    json!({
        "eventVersion": "1.11", "eventSource": "ec2.amazonaws.com", "eventName": call,
        "eventTime": "2026-11-24T10:00:00Z", "awsRegion": "eu-central-1",
        "recipientAccountId": "111122223333", "eventID": "e",
        "userIdentity": { "arn": format!("arn:aws:iam::111122223333:user/{user}") },
        "requestParameters": { "groupId": "sg-0123456789abcdef0" },
    })
}

#[test]
fn replay_counts_what_would_be_looked_at_and_says_what_it_could_not_read() {
    let logs = folder("logs");
    let log = |records: &[Value]| json!({ "Records": records }).to_string();
    let jo = [
        record("AuthorizeSecurityGroupIngress", "jo"),
        record("DescribeVpcs", "jo"),
        record("DisableEbsEncryptionByDefault", "jo"),
    ];
    std::fs::write(logs.join("a.json"), log(&jo)).unwrap();
    std::fs::create_dir(logs.join("day")).unwrap();
    let packed = std::fs::File::create(logs.join("day/b.json.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::default());
    packed
        .write_all(log(&[record("ModifySecurityGroupRules", "al")]).as_bytes())
        .unwrap();
    packed.finish().unwrap();
    let path = logs.to_str().unwrap();

    let good = backstop(&["replay", path, "--format", "json"]);
    assert_eq!(good.status.code(), Some(0), "{}", err(&good));
    let replayed: Value = serde_json::from_str(&out(&good)).unwrap();
    assert_eq!(replayed["files"], 2);
    assert_eq!(replayed["records"], 4);
    assert_eq!(replayed["looked_at"]["open-ingress"], 2);
    assert_eq!(replayed["looked_at"]["encryption-by-default"], 1);
    assert_eq!(replayed["actors"]["arn:aws:iam::111122223333:user/al"], 1);
    let table = out(&backstop(&["replay", path]));
    assert!(table.contains("3 would have been looked at"), "{table}");

    std::fs::write(logs.join("broken.json"), "{").unwrap();
    std::fs::write(logs.join("cut.json.gz"), "no gzip").unwrap();
    std::fs::write(logs.join("digest.json"), "{}").unwrap();
    let bad = backstop(&["replay", path, "--format", "json"]);
    assert_eq!(bad.status.code(), Some(2));
    for part in [
        "broken.json: it is not JSON",
        "cut.json.gz: it cannot be unpacked",
        "digest.json: it holds no `Records`",
    ] {
        assert!(err(&bad).contains(part), "{}", err(&bad));
    }
    let replayed: Value = serde_json::from_str(&out(&bad)).unwrap();
    assert_eq!(
        replayed["looked_at"]["open-ingress"], 2,
        "the rest is not lost"
    );
    std::os::unix::fs::symlink(&logs, logs.join("again")).unwrap();
    let linked = backstop(&["replay", path, "--format", "json"]);
    let replayed: Value = serde_json::from_str(&out(&linked)).unwrap();
    assert_eq!(replayed["records"], 4, "not round in circles");
    let empty = folder("empty");
    let nothing = backstop(&["replay", empty.to_str().unwrap()]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(err(&nothing).contains("no log file"), "{}", err(&nothing));
    let none = backstop(&["replay", "/nonexistent/log.json"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(
        err(&none).contains("/nonexistent/log.json"),
        "{}",
        err(&none)
    );
}

#[test]
fn policy_check_names_the_field_or_what_differs() {
    let folder = folder("policies");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = write(
        "good.json",
        r#"{"version":1,"controls":{"open-ingress":{"mode":"enforce"}}}"#,
    );
    let checked = backstop(&["policy", "check", &good]);
    assert_eq!(checked.status.code(), Some(0));
    assert!(
        out(&checked).contains("controls.open-ingress.mode: \"enforce\""),
        "{}",
        out(&checked)
    );
    let bad = write(
        "bad.json",
        r#"{"version":1,"controls":{"open-ingress":{"mode":"enfroce"}}}"#,
    );
    let checked = backstop(&["policy", "check", &bad]);
    assert_eq!(checked.status.code(), Some(2));
    for part in ["bad.json", "`controls.open-ingress.mode`", "`enforce`"] {
        assert!(err(&checked).contains(part), "{}", err(&checked));
    }
    let none = backstop(&["policy", "check", "/nonexistent.json"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(
        err(&none).contains("/nonexistent.json cannot be read"),
        "{}",
        err(&none)
    );
}

#[test]
fn completions_are_of_these_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = backstop(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0));
        assert!(out(&script).contains("kill-switch"), "{shell}");
    }
}

#[test]
fn without_a_region_or_credentials_it_says_how_to_give_them() {
    let nowhere = backstop(&["doctor"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(err(&nowhere).contains("--region"), "{}", err(&nowhere));
    let nobody = backstop(&["scan", "--region", "eu-central-1"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(
        err(&nobody).contains("no credentials") && err(&nobody).contains("aws sso login"),
        "{}",
        err(&nobody)
    );
    let profile = backstop(&["scan", "--profile", "gone", "--region", "eu-central-1"]);
    assert_eq!(profile.status.code(), Some(2));
}

#[test]
fn what_is_typed_wrong_is_said_before_anything_is_called() {
    for (arguments, part) in [
        (
            &["plan", "rtb-0123", "--region", "eu-central-1"][..],
            "`rtb-0123` is neither a file nor the id",
        ),
        (
            &["re-arm", "open-ingres", "--region", "eu-central-1"],
            "`open-ingres` is not a control; there are: open-ingress",
        ),
        (&["undo", "01M7SH8XYF6H0J2M4N8P7R3T1W"], "--reason"),
        (&["failed", "redrive"], "<IDS>"),
    ] {
        let said = backstop(arguments);
        assert_eq!(said.status.code(), Some(2), "{arguments:?}");
        assert!(err(&said).contains(part), "{arguments:?}: {}", err(&said));
    }
}
