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

use backstop_core::words::ControlId;
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

    for (name, text) in [
        ("broken.json", "{"),
        ("cut.json.gz", "no gzip"),
        // Beside logs, and none of them.
        ("digest.json", r#"{"digestS3Object":"d","logFiles":[]}"#),
        ("manifest.json", "[1]"),
        ("notes.txt", "look at {this}"),
        ("_SUCCESS", ""),
    ] {
        std::fs::write(logs.join(name), text).unwrap();
    }
    let bad = backstop(&["replay", path, "--format", "json"]);
    assert_eq!(bad.status.code(), Some(2));
    for part in [
        "broken.json: it is not JSON",
        "cut.json.gz: it cannot be unpacked",
    ] {
        assert!(err(&bad).contains(part), "{}", err(&bad));
    }
    let replayed: Value = serde_json::from_str(&out(&bad)).unwrap();
    assert_eq!(replayed["skipped"], 4);
    assert_eq!(replayed["unreadable"].as_array().unwrap().len(), 2);
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
    let digest = logs.join("digest.json");
    let digest = backstop(&["replay", digest.to_str().unwrap()]);
    assert_eq!(digest.status.code(), Some(2));
    assert!(
        err(&digest).contains("none of the files"),
        "{}",
        err(&digest)
    );
}

/// An event of EventBridge about a recorded call.
fn event(record: &Value) -> Value {
    json!({
        "version": "0", "id": "e", "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ec2", "account": "111122223333", "time": "2026-11-24T10:00:00Z",
        "region": "eu-central-1", "resources": [], "detail": record,
    })
}

/// An event as `lookup-events` answers it.
fn looked_up(record: &Value) -> Value {
    json!({ "EventId": "e", "EventName": record["eventName"], "CloudTrailEvent": record.to_string() })
}

/// Records in every form that people have them in, by file name.
fn forms(records: &[Value]) -> Vec<(&'static str, Vec<u8>)> {
    let lines = |of: &dyn Fn(&Value) -> String| {
        let mut lines = String::new();
        for record in records {
            lines.push_str(&of(record));
            lines.push('\n');
        }
        lines
    };
    let log = json!({ "Records": records }).to_string();
    let events: Vec<Value> = records.iter().map(event).collect();
    let looked_up: Vec<Value> = records.iter().map(looked_up).collect();
    let pretty = serde_json::to_string_pretty(&json!({ "Events": looked_up, "NextToken": "n" }));
    let utf_16 = "\u{feff}".encode_utf16().chain(log.encode_utf16());
    let utf_16 = utf_16.flat_map(u16::to_le_bytes);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(log.as_bytes()).unwrap();
    vec![
        ("log.json", log.clone().into_bytes()),
        ("array.json", json!(records).to_string().into_bytes()),
        ("lines.jsonl", lines(&Value::to_string).into_bytes()),
        ("lines", lines(&Value::to_string).into_bytes()),
        ("lookup-events.json", pretty.unwrap().into_bytes()),
        (
            "archive.json",
            lines(&|record| event(record).to_string()).into_bytes(),
        ),
        (
            "archive",
            lines(&|record| event(record).to_string())
                .replace('\n', "")
                .into_bytes(),
        ),
        ("events.json", json!(events).to_string().into_bytes()),
        (
            "texts.json",
            json!(records.iter().map(Value::to_string).collect::<Vec<_>>())
                .to_string()
                .into_bytes(),
        ),
        ("mark.json", [b"\xef\xbb\xbf", log.as_bytes()].concat()),
        ("utf-16.json", utf_16.collect()),
        ("packed.json.gz", packed.finish().unwrap()),
    ]
}

#[test]
fn replay_reads_records_in_every_form() {
    let folder = folder("forms");
    let mut tagged = record("CreateTags", "al");
    tagged["requestParameters"] = json!({
        "resourcesSet": { "items": [{ "resourceId": "sg-0123456789abcdef0" }] },
        "tagSet": { "items": [{ "key": "backstop:opt-out", "value": "open-ingress" }] },
    });
    let records = [
        record("AuthorizeSecurityGroupIngress", "jo"),
        record("DescribeVpcs", "jo"),
        tagged,
    ];
    for (name, content) in forms(&records) {
        let file = folder.join(name);
        std::fs::write(&file, content).unwrap();
        let read = backstop(&["replay", file.to_str().unwrap(), "--format", "json"]);
        assert_eq!(read.status.code(), Some(0), "{name}: {}", err(&read));
        let read: Value = serde_json::from_str(&out(&read)).unwrap();
        let came_to = ["files", "records", "looked_at", "opt_outs", "skipped"].map(|of| &read[of]);
        let expected = [
            json!(1),
            json!(3),
            json!({ "open-ingress": 1 }),
            json!(1),
            json!(0),
        ];
        assert_eq!(came_to, expected.each_ref(), "{name}");
    }
    let all = backstop(&["replay", folder.to_str().unwrap(), "--format", "json"]);
    let all: Value = serde_json::from_str(&out(&all)).unwrap();
    let files = forms(&records).len();
    assert_eq!((&all["files"], &all["skipped"]), (&json!(files), &json!(0)));

    // One record, and one event, which another command is for.
    let one = folder.join("one.json");
    std::fs::write(&one, serde_json::to_string_pretty(&records[0]).unwrap()).unwrap();
    let read = backstop(&["replay", one.to_str().unwrap(), "--format", "json"]);
    assert_eq!(read.status.code(), Some(0), "{}", err(&read));
    let read: Value = serde_json::from_str(&out(&read)).unwrap();
    assert_eq!(read["looked_at"]["open-ingress"], 1);
    assert_eq!(read["hints"], json!([]));
    let mut notification = event(&json!({ "event": "createVolume", "result": "available" }));
    notification["detail-type"] = json!("EBS Volume Notification");
    for (one_event, records, code) in [(event(&records[0]), 1, 0), (notification, 0, 2)] {
        std::fs::write(&one, serde_json::to_string_pretty(&one_event).unwrap()).unwrap();
        let one = one.to_str().unwrap();
        let read = backstop(&["replay", one]);
        assert_eq!(read.status.code(), Some(code), "{}", err(&read));
        assert!(
            err(&read).contains(&format!("`backstop plan {one}`")),
            "{}",
            err(&read)
        );
        assert_eq!(
            out(&read).starts_with("1 record in 1 file;"),
            records == 1,
            "{}",
            out(&read)
        );
    }
}

#[test]
fn of_a_file_a_broken_record_costs_itself() {
    let folder = folder("broken-records");
    let good = record("AuthorizeSecurityGroupIngress", "jo").to_string();
    let lone = good.replace("user/jo", r"user/\ud83d");
    let latin = good.replace("user/jo", "user/\u{e9}").into_bytes();
    let latin: Vec<u8> = latin.into_iter().filter(|byte| *byte != 0xc3).collect();
    let escaped = looked_up(&serde_json::from_str(&good).unwrap()).to_string();
    let escaped = escaped.replace("user/jo", r"user/\\ud83d");
    let log =
        |records: &[&[u8]]| [b"{\"Records\":[", records.join(&b","[..]).as_slice(), b"]}"].concat();
    let good = good.as_bytes();
    let whole = log(&[good, good, good]);
    for (name, content, looked_at, broken) in [
        ("lone.json", log(&[good, lone.as_bytes(), good]), 3, 0),
        (
            "lone.jsonl",
            [good, lone.as_bytes(), good].join(&b'\n'),
            3,
            0,
        ),
        ("looked-up.json", escaped.into_bytes(), 1, 0),
        ("latin-1.json", log(&[good, &latin, good]), 3, 0),
        ("cut.jsonl", [good, &good[..60], good].join(&b'\n'), 2, 1),
        (
            "colon.json",
            log(&[good, br#"{"eventSource" 1}"#, good]),
            2,
            1,
        ),
        ("number.json", log(&[good, b"7", good]), 2, 1),
        ("end.json", whole[..whole.len() - 20].to_vec(), 2, 1),
    ] {
        let file = folder.join(name);
        std::fs::write(&file, content).unwrap();
        let read = backstop(&["replay", file.to_str().unwrap(), "--format", "json"]);
        let said = err(&read);
        let read: Value = serde_json::from_str(&out(&read)).unwrap();
        assert_eq!(
            read["looked_at"]["open-ingress"], looked_at,
            "{name}: {said}"
        );
        assert_eq!(
            read["unreadable"].as_array().unwrap().len(),
            broken,
            "{name}: {said}"
        );
    }
}

/// As many records as fill so many MB, each about another group, in every form.
fn large_forms(megabytes: usize) -> Vec<(&'static str, Vec<u8>)> {
    let mut records = Vec::new();
    let mut bytes = 0;
    while bytes < megabytes << 20 {
        let mut record = record("AuthorizeSecurityGroupIngress", "jo");
        record["requestParameters"]["groupId"] = json!(format!("sg-{:017x}", records.len()));
        record["responseElements"] = json!({ "requestId": "r".repeat(1_000) });
        bytes += record.to_string().len();
        records.push(record);
    }
    forms(&records)
}

/// The system lets the command have 32 MB for its data, whatever the machine.
#[test]
#[cfg(target_os = "linux")]
fn replay_holds_one_record_at_a_time() {
    let folder = folder("large");
    for (name, content) in large_forms(40) {
        let file = folder.join(name);
        std::fs::write(&file, content).unwrap();
        let limited = Command::new("sh")
            .args([
                "-c",
                "ulimit -d 32768 && exec \"$0\" replay \"$1\" --format json",
            ])
            .args([Path::new(env!("CARGO_BIN_EXE_backstop")), &file])
            .output()
            .unwrap();
        assert_eq!(limited.status.code(), Some(0), "{name}: {}", err(&limited));
        std::fs::remove_file(&file).unwrap();
    }
}

/// Prints time and memory of a replay of 150 MB of records in every form.
#[test]
#[ignore = "a measurement: cargo test --offline --workspace --test cli -- --ignored --nocapture"]
#[cfg(target_os = "linux")]
fn measure_replay() {
    let folder = folder("measure");
    for (name, content) in large_forms(150) {
        let file = folder.join(name);
        std::fs::write(&file, content).unwrap();
        let begun = std::time::Instant::now();
        let mut replay = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .args(["replay", file.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut most = String::new();
        while replay.try_wait().unwrap().is_none() {
            let status = std::fs::read_to_string(format!("/proc/{}/status", replay.id()));
            let status = status.unwrap_or_default();
            if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM")) {
                line.clone_into(&mut most);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let bytes = std::fs::metadata(&file).unwrap().len();
        println!(
            "{name}: {} MB, {:.1?}, {most}",
            bytes >> 20,
            begun.elapsed()
        );
        std::fs::remove_file(&file).unwrap();
    }
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
    let worse = write(
        "worse.json",
        r#"{"version":1,"kill_swich":true,"controls":{"open-ingress":{"mode":"enfroce"}}}"#,
    );
    for command in ["check", "apply"] {
        let checked = backstop(&["policy", command, &worse]);
        assert_eq!(checked.status.code(), Some(2));
        for part in [
            "2 faults",
            "`controls.open-ingress.mode`",
            "`kill_swich`: there is no such field; did you mean `kill_switch`?",
        ] {
            assert!(err(&checked).contains(part), "{command}: {}", err(&checked));
        }
    }
    let utf16 = folder.join("utf16.json");
    std::fs::write(&utf16, [0xff, 0xfe, b'{', 0, b'}', 0]).unwrap();
    let checked = backstop(&["policy", "check", utf16.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(2));
    assert!(err(&checked).contains("UTF-16"), "{}", err(&checked));
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
fn a_man_page_is_of_these_commands() {
    let page = backstop(&["man"]);
    assert_eq!(page.status.code(), Some(0), "{}", err(&page));
    for part in [".TH backstop 1", "kill", "GLOBAL OPTIONS", "\\-\\-profile"] {
        assert!(out(&page).contains(part), "{part}:\n{}", out(&page));
    }
    let of = |command: &[&str]| backstop(&[&["man"][..], command].concat());
    for command in [&["opt-out", "add"][..], &["opt-out add"]] {
        let page = of(command);
        assert_eq!(page.status.code(), Some(0), "{}", err(&page));
        for part in ["\\-\\-until", "\\-\\-region"] {
            assert!(out(&page).contains(part), "{part}:\n{}", out(&page));
        }
    }
    let typo = of(&["opt-out", "ad"]);
    assert_eq!(typo.status.code(), Some(2));
    assert!(err(&typo).contains("`opt-out ad`"), "{}", err(&typo));
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
    assert!(
        err(&profile).contains("there is no profile `gone`"),
        "{}",
        err(&profile)
    );
}

/// A profile `prod` of another account than the environment's credentials.
fn profiles(name: &str) -> (PathBuf, PathBuf) {
    let folder = folder(name);
    let (config, credentials) = (folder.join("config"), folder.join("credentials"));
    let text = "[profile prod]\nregion = eu-west-3\n\
        [profile admin]\nregion = eu-west-3\nsource_profile = prod\n\
        role_arn = arn:aws:iam::111122223333:role/admin\n";
    std::fs::write(&config, text).unwrap();
    std::fs::write(
        &credentials,
        "[prod]\naws_access_key_id = PRODUCTIONKEY\naws_secret_access_key = secret\n",
    )
    .unwrap();
    (config, credentials)
}

/// Answers one request with a status and a body; the request, as it came.
fn answering(status: u16, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    use std::io::Read;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let request = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut part = [0; 4096];
        // The body's first field.
        while !String::from_utf8_lossy(&request).contains("Action=") {
            let read = stream.read(&mut part).unwrap();
            request.extend_from_slice(&part[..read]);
        }
        let answer = format!(
            "HTTP/1.1 {status} -\r\ncontent-type: text/xml\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    (endpoint, request)
}

/// Answers every request by its action and its Region, until the process ends.
fn serving(answer: impl Fn(&str, &str) -> (u16, String) + Send + 'static) -> String {
    use std::io::{BufRead, BufReader, Read};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {
                let line = head.lines().last().unwrap_or_default().to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            let action = body.split('&').find_map(|of| of.strip_prefix("Action="));
            // `Credential=KEY/20261124/eu-central-1/ec2/aws4_request`.
            let region = head.split("Credential=").nth(1).unwrap().split('/').nth(2);
            let (status, text) = answer(action.unwrap_or_default(), region.unwrap());
            let answer = format!(
                "HTTP/1.1 {status} -\r\ncontent-type: text/xml\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            );
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    endpoint
}

#[test]
fn every_region_is_scanned_and_one_that_cannot_be_loses_no_other() {
    let no_stack = "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>Stack with id backstop does not exist</Message></Error></ErrorResponse>";
    let endpoint = serving(move |action, region| {
        match (action, region) {
        ("GetCallerIdentity", "eu-west-3") => (403, DENIED.to_owned()),
        ("GetCallerIdentity", _) => (
            200,
            "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/jo</Arn><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>".to_owned(),
        ),
        ("DescribeRegions", _) => (
            200,
            "<DescribeRegionsResponse><regionInfo><item><regionName>eu-west-3</regionName></item><item><regionName>eu-central-1</regionName></item></regionInfo></DescribeRegionsResponse>".to_owned(),
        ),
        ("DescribeStacks" | "ListStackResources", _) => (400, no_stack.to_owned()),
        ("GetSerialConsoleAccessStatus", _) => (
            200,
            "<GetSerialConsoleAccessStatusResponse><serialConsoleAccessEnabled>false</serialConsoleAccessEnabled></GetSerialConsoleAccessStatusResponse>".to_owned(),
        ),
        (action, _) => panic!("{action} is not expected"),
    }
    });
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_backstop"))
            .args(arguments)
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ENDPOINT_URL", &endpoint)
            .output()
            .unwrap()
    };
    let scan = ["scan", "--all-regions", "--control", "serial-console"];
    let scanned = run(&[&scan[..], &["--format", "json"]].concat());
    assert_eq!(scanned.status.code(), Some(2), "{}", err(&scanned));
    assert!(
        err(&scanned).contains("eu-west-3: not seen: GetCallerIdentity: AccessDenied"),
        "{}",
        err(&scanned)
    );
    let scans: Value = serde_json::from_str(&out(&scanned)).unwrap();
    let regions = [&scans[0]["region"], &scans[1]["region"]];
    assert_eq!(regions, ["eu-central-1", "eu-west-3"]);
    assert_eq!(scans[0]["looked_at_by_control"]["serial-console"], 1);
    assert_eq!(scans[0]["unseen"], json!([]));
    assert_eq!(scans[1]["unseen"].as_array().unwrap().len(), 1);
    let table = out(&run(&scan));
    for part in [
        "Region eu-central-1: judged by the default policy",
        "there is no `backstop`",
        "Region eu-west-3: not scanned",
    ] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let sarif = out(&run(&[&scan[..], &["--format", "sarif"]].concat()));
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    assert_eq!(sarif["runs"].as_array().unwrap().len(), 1);
    let invocation = &sarif["runs"][0]["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);

    let status = run(&["status", "--all-regions"]);
    assert_eq!(status.status.code(), Some(2), "no Region has a stack");
    let said = out(&status);
    assert!(
        said.contains("no stack `backstop` in eu-central-1"),
        "{said}"
    );
    assert!(
        err(&status).contains("eu-west-3: GetCallerIdentity"),
        "{}",
        err(&status)
    );
}

const DENIED: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";

#[test]
fn a_profile_beats_credentials_and_the_region_of_the_environment() {
    let (config, credentials) = profiles("profiles");
    let run = |arguments: &[&str]| {
        let (endpoint, request) = answering(403, DENIED);
        let output = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .arg("doctor")
            .args(arguments)
            .env_clear()
            .env("AWS_CONFIG_FILE", &config)
            .env("AWS_SHARED_CREDENTIALS_FILE", &credentials)
            .env("AWS_ACCESS_KEY_ID", "ENVIRONMENTKEY")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", endpoint)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        (request.join().unwrap(), err(&output))
    };
    let (request, said) = run(&["--profile", "prod"]);
    assert!(
        request.contains("PRODUCTIONKEY") && request.contains("/eu-west-3/"),
        "{request}"
    );
    for part in [
        "GetCallerIdentity: AccessDenied",
        "grant the call",
        "Region `eu-west-3`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let (request, _) = run(&["--profile", "admin"]);
    for part in ["Action=AssumeRole", "PRODUCTIONKEY", "/eu-west-3/"] {
        assert!(request.contains(part), "{part}: {request}");
    }
    let (request, _) = run(&["--profile", "prod", "--region", "eu-north-1"]);
    assert!(
        request.contains("PRODUCTIONKEY") && request.contains("/eu-north-1/"),
        "{request}"
    );
    let (request, _) = run(&[]);
    assert!(
        request.contains("ENVIRONMENTKEY") && request.contains("/us-east-1/"),
        "without --profile the environment counts: {request}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(["doctor", "--profile", "pord"])
        .env_clear()
        .env("AWS_CONFIG_FILE", &config)
        .env("AWS_SHARED_CREDENTIALS_FILE", &credentials)
        .env("AWS_ACCESS_KEY_ID", "ENVIRONMENTKEY")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", "us-east-1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("there is no profile `pord`; there are: admin, prod"),
        "{}",
        err(&output)
    );
}

#[test]
fn what_goes_wrong_below_is_said_in_a_sentence_and_never_as_debug_output() {
    let run = |endpoint: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .args(["history", "--region", "eu-centrl-1"])
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_MAX_ATTEMPTS", "1")
            .env("AWS_ENDPOINT_URL", endpoint)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = err(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        for debug in ["{ ", "Some(", "Error(", "DispatchFailure", "ConnectorError"] {
            assert!(!said.contains(debug), "{said}");
        }
        said
    };
    let expired = "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code><Message>The security token included in the request is expired</Message></Error></ErrorResponse>";
    let (endpoint, request) = answering(403, expired);
    let said = run(&endpoint);
    request.join().unwrap();
    for part in ["GetCallerIdentity: ExpiredToken", "log in again"] {
        assert!(said.contains(part), "{said}");
    }
    // As for a Region that does not exist, and without a network.
    for endpoint in ["http://sts.eu-centrl-1.invalid", "http://127.0.0.1:1"] {
        let said = run(endpoint);
        for part in [
            "GetCallerIdentity: NoConnection",
            "network",
            "Region `eu-centrl-1`",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}

/// `backstop` with its standard output into something that takes nothing.
fn into(arguments: &[&str], output: std::process::Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(arguments)
        .env_clear()
        .stdout(output)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

const PRINTING: [&[&str]; 6] = [
    &["explain"],
    &["explain", "open-ingress", "--format", "json"],
    &["completions", "bash"],
    &["--help"],
    &["scan", "--help"],
    &["--version"],
];

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    for arguments in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = into(arguments, writer.into());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(err(&output), "", "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_one_sentence_and_exit_code_2() {
    for arguments in PRINTING {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let output = into(arguments, full.unwrap().into());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = err(&output);
        assert!(
            said.lines().count() == 1 && said.contains("could not be written"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn every_control_is_explained() {
    let list = backstop(&["explain"]);
    assert_eq!(list.status.code(), Some(0));
    let list = out(&list);
    for control in ControlId::ALL {
        let name = control.name();
        assert_eq!(
            list.lines()
                .filter(|line| line.starts_with(&format!("{name} ")))
                .count(),
            1,
            "{list}"
        );
        let explained = backstop(&["explain", name]);
        assert_eq!(explained.status.code(), Some(0), "{name}");
        let text = out(&explained);
        let budget = format!("controls.{name}.budget.changes_per_hour (default: 50");
        for part in [
            control.title(),
            "Why it matters",
            "Security Hub: ",
            "What it changes",
            "What it never does",
            "Settings in the policy",
            &budget,
            "How to opt out",
            "How to undo",
        ] {
            assert!(text.contains(part), "{name}: {part} is missing in\n{text}");
        }
        let json = out(&backstop(&["explain", name, "--format", "json"]));
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["control"], name);
        for field in ["never", "settings", "opt_out", "undo"] {
            assert!(
                !json[field].as_array().unwrap().is_empty(),
                "{name}: {field}"
            );
        }
    }
    let typo = backstop(&["explain", "open-ingres"]);
    assert_eq!(typo.status.code(), Some(2));
    assert!(
        err(&typo).contains("`open-ingres` is not a control; there are: open-ingress"),
        "{}",
        err(&typo)
    );
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
        (&["history", "--limit", "0"], "a number from 1 on"),
        (&["history", "--outcome", "faild"], "'failed'"),
        (
            &["scan", "--all-regions", "--region", "eu-central-1"],
            "--region",
        ),
    ] {
        let said = backstop(arguments);
        assert_eq!(said.status.code(), Some(2), "{arguments:?}");
        assert!(err(&said).contains(part), "{arguments:?}: {}", err(&said));
    }
}
