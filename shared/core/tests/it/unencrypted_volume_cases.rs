//! `unencrypted-volume`, case by case: the numbered scenarios of the control's
//! header as tables of what is there and what is decided about it; and
//! `encryption-by-default`, which is one table.
//!
//! What is there is written one line a thing: `instance <state> <traits>`,
//! `volume <id> <traits>` (attached if there is an instance, else alone), `copy
//! <id> <traits>` (a copy, or what a tag names as replacement), `tag <id> <key>
//! = <value>`, `key <problem>`, `gone`. What is decided: `<status> <way>: <the
//! volumes that are replaced>`, and a line a reason.

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::encryption_by_default::EncryptionByDefault;
use backstop_core::controls::unencrypted_volume::{
    self, About, Circumstances, Decision, Verdict, fingerprint,
};
use backstop_core::decide;
use backstop_core::encryption::{Encryption, Settings, Way};
use backstop_core::exemption::{Exemption, OptOut};
use backstop_core::finding;
use backstop_core::guards::{Guards, Trip};
use backstop_core::plan::Change;
use backstop_core::policy::{Governed, Policy};
use backstop_core::reason::Reason;
use backstop_core::trigger::Trigger;
use backstop_core::volumes::{
    Attachment, COPY_OF_TAG, ENTRY_TAG, Instance, PURPOSE_TAG, REPLACED_BY_TAG, Unit, Volume,
    VolumeFacts,
};
use backstop_core::words::{Actor, ControlId, Mode, Severity, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const INSTANCE: &str = "i-1";

/// A Tuesday.
fn now() -> Timestamp {
    at("2026-11-24T10:00:00Z")
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

// --- what is there, from text ---------------------------------------------

fn volume(id: &str) -> Volume {
    Volume {
        id: id.to_owned(),
        state: "available".into(),
        encrypted: false,
        size: 100,
        volume_type: "gp3".into(),
        iops: Some(3000),
        throughput: Some(125),
        zone: "eu-central-1a".into(),
        multi_attach: false,
        created_at: Some(at("2026-01-01T00:00:00Z")),
        attachments: Vec::new(),
        tags: BTreeMap::new(),
        operator: None,
        marketplace: false,
        outpost: None,
    }
}

fn instance(state: &str) -> Instance {
    Instance {
        id: INSTANCE.to_owned(),
        state: state.to_owned(),
        launched_at: Some(at("2026-11-01T00:00:00Z")),
        instance_type: "m7g.large".into(),
        tags: BTreeMap::new(),
        lifecycle: None,
        instance_store: false,
        auto_public_ipv4: None,
        marketplace: false,
        outpost: None,
        operator: None,
        hibernates: false,
        stop_protected: false,
        checks: None,
        state_reason: None,
    }
}

fn with_traits(mut volume: Volume, traits: &[&str]) -> Volume {
    for word in traits {
        match word.split_once('=').unwrap_or((word, "")) {
            ("encrypted", _) => volume.encrypted = true,
            ("multi-attach", _) => volume.multi_attach = true,
            ("marketplace", _) => volume.marketplace = true,
            ("outpost", arn) => volume.outpost = Some(arn.to_owned()),
            ("operator", name) => volume.operator = Some(name.to_owned()),
            ("state", state) => volume.state = state.to_owned(),
            ("age", "unknown") => volume.created_at = None,
            ("age", seconds) => {
                let age = SignedDuration::from_secs(seconds.parse().unwrap());
                volume.created_at = Some(now() - age);
            }
            ("tags", number) => {
                let tags = (0..number.parse().unwrap()).map(|n: u32| (format!("t{n}"), "x".into()));
                volume.tags.extend(tags);
            }
            other => panic!("{other:?}"),
        }
    }
    volume
}

fn facts(text: &str) -> VolumeFacts {
    let mut found: Option<Instance> = None;
    let mut volumes: Vec<Volume> = Vec::new();
    let mut copies: BTreeMap<String, Volume> = BTreeMap::new();
    let mut key_problem = None;
    for line in lines(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["gone"] => {}
            ["instance", state, traits @ ..] => {
                let mut instance = instance(state);
                for word in traits {
                    match word.split_once('=').unwrap_or((word, "")) {
                        ("instance-store", _) => instance.instance_store = true,
                        ("marketplace", _) => instance.marketplace = true,
                        ("outpost", arn) => instance.outpost = Some(arn.to_owned()),
                        ("hibernates", _) => instance.hibernates = true,
                        ("stop-protected", _) => instance.stop_protected = true,
                        ("public-ipv4", address) => {
                            instance.auto_public_ipv4 = Some(address.to_owned());
                        }
                        ("lifecycle", lifecycle) => instance.lifecycle = Some(lifecycle.to_owned()),
                        ("operator", name) => instance.operator = Some(name.to_owned()),
                        other => panic!("{other:?}"),
                    }
                }
                found = Some(instance);
            }
            ["volume", id, traits @ ..] => volumes.push(with_traits(volume(id), traits)),
            ["copy", id, traits @ ..] => {
                copies.insert((*id).to_owned(), with_traits(volume(id), traits));
            }
            ["tag", id, ..] => {
                let (key, value) = line.split_once(" =").unwrap();
                let key = key.split_whitespace().next_back().unwrap().to_owned();
                let tags = match found.as_mut().filter(|instance| instance.id == *id) {
                    Some(instance) => &mut instance.tags,
                    None => {
                        let volumes = volumes.iter_mut().chain(copies.values_mut());
                        &mut volumes.into_iter().find(|v| v.id == *id).unwrap().tags
                    }
                };
                tags.insert(key, value.trim_start().to_owned());
            }
            ["key", ..] => key_problem = line.strip_prefix("key ").map(str::to_owned),
            other => panic!("{other:?}"),
        }
    }
    let unit = match found {
        Some(instance) => {
            for (n, volume) in volumes.iter_mut().enumerate() {
                if volume.state == "available" {
                    volume.state = "in-use".into();
                }
                volume.attachments = vec![Attachment {
                    instance: INSTANCE.into(),
                    device: format!("/dev/sd{}", char::from(b'f' + u8::try_from(n).unwrap())),
                    state: "attached".into(),
                    delete_on_termination: false,
                    attached_at: None,
                }];
            }
            Unit::Instance(Box::new(instance), volumes)
        }
        None => volumes
            .pop()
            .map_or(Unit::Gone, |v| Unit::Volume(Box::new(v))),
    };
    VolumeFacts {
        unit,
        copies,
        key_problem,
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

// --- under what is decided --------------------------------------------------

/// In mode `enforce`, with nothing that keeps the control from acting, and the
/// settings that are named.
struct Under {
    policy: Value,
    mode: Mode,
    guards: Guards,
}

fn under(settings: Value) -> Under {
    Under {
        policy: json!({ "version": 1, "controls": { "unencrypted-volume": { "settings": settings } } }),
        mode: Mode::Enforce,
        guards: Guards::default(),
    }
}

fn defaults() -> Under {
    under(json!({}))
}

/// `swap`, inside a window.
fn swap() -> Under {
    under(
        json!({ "attached": "swap", "windows": [{ "days": ["tue"], "from": "09:00", "to": "11:00" }] }),
    )
}

/// `swap`, outside every window.
fn swap_later() -> Under {
    under(json!({ "attached": "swap", "windows": [{ "from": "02:00", "to": "05:00" }] }))
}

fn when_stopped() -> Under {
    under(json!({ "attached": "when-stopped" }))
}

impl Under {
    fn parsed(&self) -> Policy {
        Policy::parse(&self.policy.to_string()).unwrap()
    }

    fn control(mut self, field: &str, value: Value) -> Self {
        self.policy["controls"]["unencrypted-volume"][field] = value;
        self
    }

    fn top(mut self, field: &str, value: Value) -> Self {
        self.policy[field] = value;
        self
    }

    fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    fn guards(mut self, guards: Guards) -> Self {
        self.guards = guards;
        self
    }

    fn decide(&self, there: &str) -> Decision {
        let circumstances = Circumstances {
            mode: self.mode,
            now: now(),
            guards: &self.guards,
        };
        unencrypted_volume::decide(
            &facts(there),
            &self.parsed().unencrypted_volume(),
            &circumstances,
        )
    }

    /// Holds the decision against a text.
    #[track_caller]
    fn check(&self, there: &str, expected: &str) {
        assert_eq!(written(&self.decide(there)), lines(expected), "{there}");
    }

    fn status(&self, there: &str) -> Status {
        self.decide(there).status
    }

    fn record(&self, there: &str) -> Option<Encryption> {
        let about = About {
            id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
            trigger: &trigger(),
            partition: "aws",
            owner_tag: "owner",
            policy_version: 7,
            kms_key: Some("alias/volumes"),
            now: now(),
        };
        unencrypted_volume::record(&facts(there), &self.decide(there), about)
    }
}

fn trigger() -> Trigger {
    Trigger {
        resource: "vol-a".into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor {
            user_agent: Some("APN/1.0 HashiCorp/1.0 Terraform/1.13.5".into()),
            ..Actor::default()
        },
    }
}

/// A decision as text.
fn written(decision: &Decision) -> Vec<String> {
    let way = match decision.way {
        Way::Unattached => "unattached",
        Way::WhenStopped => "when-stopped",
        Way::Swap => "swap",
        Way::AccountSetting => "account-setting",
    };
    let first = match &decision.verdict {
        Verdict::NotApplicable(why) => format!("not applicable: {why}"),
        Verdict::Compliant => "compliant".to_owned(),
        Verdict::Settling { seconds } => format!("settling: {seconds}"),
        Verdict::Violates(_) => {
            let volumes: Vec<&str> = decision.volumes.iter().map(|v| v.id.as_str()).collect();
            let text = format!("{} {way}: {}", decision.status.name(), volumes.join(" "));
            text.trim_end().to_owned()
        }
    };
    std::iter::once(first)
        .chain(decision.reasons.iter().cloned())
        .collect()
}

// --- 1: compliant -----------------------------------------------------------

#[test]
fn what_is_encrypted_or_gone_is_no_finding() {
    for (there, expected) in [
        ("volume vol-a encrypted", "compliant"),
        ("volume vol-a encrypted age=0", "compliant"),
        ("gone", "not applicable: it is gone"),
        (
            "volume vol-a state=deleting",
            "not applicable: the volume is being deleted",
        ),
        (
            "volume vol-a state=deleted",
            "not applicable: the volume is being deleted",
        ),
        ("instance running", "compliant"),
        (
            "instance stopped \n volume vol-a encrypted \n volume vol-b encrypted",
            "compliant",
        ),
        (
            "instance terminated \n volume vol-a",
            "not applicable: the instance is terminated",
        ),
        (
            "instance shutting-down \n volume vol-a",
            "not applicable: the instance is terminated",
        ),
    ] {
        swap().check(there, expected);
    }
}

#[test]
fn an_original_whose_encrypted_replacement_is_there_is_no_finding() {
    defaults().check(
        "volume vol-a
         tag vol-a backstop:replaced-by = vol-b
         copy vol-b encrypted state=in-use
         tag vol-b backstop:copy-of = vol-a",
        "compliant",
    );
}

/// Its only encrypted copy is not there: the data are unencrypted, and nothing
/// else holds them.
#[test]
fn an_original_without_its_encrypted_replacement_is_a_finding_again() {
    let tagged = "volume vol-a \n tag vol-a backstop:replaced-by = vol-b";
    for replacement in [
        "",
        "copy vol-b encrypted state=deleting",
        "copy vol-b encrypted state=deleted",
        "copy vol-b encrypted state=error",
        "copy vol-b",
        // another volume than the tag names
        "copy vol-c encrypted",
    ] {
        defaults().check(
            &format!("{tagged} \n {replacement}"),
            "in-progress unattached: vol-a",
        );
    }
    // Unencrypted, and marked as a copy of it: a person has to say which counts.
    defaults().check(
        "volume vol-a
         tag vol-a backstop:replaced-by = vol-b
         copy vol-b
         tag vol-b backstop:copy-of = vol-a",
        "refused unattached: vol-a
         vol-b is a copy of vol-a that an earlier run left: delete it, or take its tag backstop:copy-of away",
    );
}

/// Somebody went back to it by hand: a second copy would drop what the first
/// one holds.
#[test]
fn an_original_that_is_in_use_again_is_refused_and_never_copied_again() {
    let there = |state: &str| {
        format!(
            "instance {state}
             volume vol-a
             tag vol-a backstop:replaced-by = vol-b
             copy vol-b encrypted
             tag vol-b backstop:copy-of = vol-a"
        )
    };
    for (under, way) in [(swap(), "swap"), (when_stopped(), "when-stopped")] {
        for state in ["running", "stopped"] {
            under.check(
                &there(state),
                &format!(
                    "refused {way}: vol-a
                     vol-a was replaced by vol-b, which is still there, and is in use again: detach it, or delete vol-b to have it copied anew"
                ),
            );
        }
    }
}

// --- 2: settling -------------------------------------------------------------

#[test]
fn a_volume_settles_for_as_long_as_the_policy_says() {
    for (minutes, age, expected) in [
        (10, "0", "settling: 600"),
        (10, "1", "settling: 599"),
        (10, "599", "settling: 1"),
        (10, "600", "in-progress unattached: vol-a"),
        (10, "601", "in-progress unattached: vol-a"),
        // Our clock is behind EC2's: never longer than it settles.
        (10, "-1", "settling: 600"),
        (10, "-86400", "settling: 600"),
        (10, "unknown", "in-progress unattached: vol-a"),
        (0, "0", "in-progress unattached: vol-a"),
        (0, "-30", "in-progress unattached: vol-a"),
        (1440, "86399", "settling: 1"),
        (1440, "86400", "in-progress unattached: vol-a"),
    ] {
        under(json!({ "settling_minutes": minutes }))
            .check(&format!("volume vol-a age={age}"), expected);
    }
}

#[test]
fn what_is_attached_does_not_settle() {
    when_stopped().check(
        "instance stopped \n volume vol-a age=0",
        "in-progress when-stopped: vol-a",
    );
}

// --- 3: attached -------------------------------------------------------------

#[test]
fn attached_volumes_by_setting_state_and_window() {
    const TOLD: &str = "notified when-stopped: vol-a vol-b
        attached volumes are only told (the policy's `attached` is `notify`)";
    const FOR_A_STOP: &str = "pending when-stopped: vol-a vol-b
        it waits for the instance to be stopped by somebody";
    const AT_THE_STOP: &str = "in-progress when-stopped: vol-a vol-b";
    const BY_A_STOP: &str = "in-progress swap: vol-a vol-b";
    const ENDED: &str = "not applicable: the instance is terminated";
    const UNTIL_IT_RUNS: &str = "pending swap: vol-a vol-b
        it waits for the instance to run";
    // The next time that the window opens: tonight's, and next Tuesday's.
    const TONIGHT: &str = "pending swap: vol-a vol-b
        it waits for the instance to be stopped, or for the maintenance window that opens at 2026-11-25T02:00:00Z";
    const NEXT_WEEK: &str = "pending swap: vol-a vol-b
        it waits for the instance to be stopped, or for the maintenance window that opens at 2026-12-01T09:00:00Z";
    let notify =
        || under(json!({ "attached": "notify", "windows": [{ "from": "09:00", "to": "11:00" }] }));
    for (name, under, of_states) in [
        ("by default", defaults(), [TOLD, TOLD, TOLD, TOLD]),
        ("notify, in a window", notify(), [TOLD, TOLD, TOLD, TOLD]),
        (
            "when-stopped",
            when_stopped(),
            [FOR_A_STOP, FOR_A_STOP, FOR_A_STOP, AT_THE_STOP],
        ),
        (
            "swap, the window is closed",
            swap_later(),
            [TONIGHT, TONIGHT, TONIGHT, AT_THE_STOP],
        ),
        (
            "swap, the window is open",
            swap(),
            [UNTIL_IT_RUNS, BY_A_STOP, NEXT_WEEK, AT_THE_STOP],
        ),
    ] {
        let states = ["pending", "running", "stopping", "stopped"];
        let ended = ["shutting-down", "terminated"].map(|state| (state, ENDED));
        for (state, expected) in states.into_iter().zip(of_states).chain(ended) {
            let there = format!("instance {state} \n volume vol-a \n volume vol-b");
            assert_eq!(
                written(&under.decide(&there)),
                lines(expected),
                "{name}, {state}"
            );
        }
    }
}

/// A state that EC2 may add is never taken for one that is known.
#[test]
fn in_an_unknown_state_nothing_begins() {
    for under in [defaults(), when_stopped(), swap(), swap_later()] {
        let status = under.status("instance dreaming \n volume vol-a");
        assert!(
            matches!(status, Status::Pending | Status::Notified),
            "{status:?}"
        );
    }
}

#[test]
fn the_unencrypted_volumes_of_an_instance_go_together_and_the_others_stay() {
    swap().check(
        "instance running \n volume vol-a \n volume vol-b encrypted \n volume vol-c",
        "in-progress swap: vol-a vol-c",
    );
}

#[test]
fn a_volume_that_is_attached_nowhere_needs_no_window() {
    for under in [defaults(), when_stopped(), swap(), swap_later()] {
        under.check("volume vol-a", "in-progress unattached: vol-a");
    }
}

/// What was found and not changed is recorded once: an instance that is stopped
/// at night and started in the morning is no news twice a day.
#[test]
fn an_instance_that_comes_and_goes_is_told_once() {
    let asg = "tag i-1 aws:autoscaling:groupName = web";
    for (under, more) in [
        (defaults(), ""),
        (when_stopped().mode(Mode::Notify), ""),
        (swap().mode(Mode::Notify), ""),
        (swap(), asg),
        (swap_later(), asg),
        (when_stopped(), asg),
        (swap(), "tag i-1 backstop:opt-out = all"),
    ] {
        let keys = ["pending", "running", "stopping", "stopped"].map(|state| {
            let there = format!("instance {state} \n volume vol-a \n {more}");
            let record = under.record(&there).unwrap();
            assert_ne!(record.head.status, Status::InProgress);
            record.state_key()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{more}: {keys:?}");
    }
}

// --- 3: windows ---------------------------------------------------------------

fn settings(windows: &Value) -> Settings {
    serde_json::from_value(json!({ "windows": windows })).unwrap()
}

#[test]
fn windows_are_open_from_their_beginning_to_before_their_end() {
    let night = json!([{ "from": "22:00", "to": "02:00" }]);
    let saturday_night = json!([{ "days": ["sat"], "from": "22:00", "to": "02:00" }]);
    let sunday_night = json!([{ "days": ["sun"], "from": "23:30", "to": "00:30" }]);
    let early = json!([{ "from": "02:00", "to": "05:00" }]);
    let weekend = json!([{ "days": ["sat", "sun"], "from": "02:00", "to": "05:00" }]);
    let two = json!([
        { "days": ["mon"], "from": "02:00", "to": "03:00" },
        { "days": ["fri"], "from": "20:00", "to": "21:00" },
    ]);
    let always = json!([{ "from": "00:00", "to": "00:00" }]);
    let tuesdays = json!([{ "days": ["tue"], "from": "10:00", "to": "10:00" }]);
    for (windows, time, open) in [
        (&json!([]), "2026-11-24T03:00:00Z", false),
        // the edges
        (&early, "2026-11-24T01:59:59Z", false),
        (&early, "2026-11-24T02:00:00Z", true),
        (&early, "2026-11-24T04:59:59Z", true),
        (&early, "2026-11-24T05:00:00Z", false),
        // over midnight
        (&night, "2026-11-24T21:59:59Z", false),
        (&night, "2026-11-24T22:00:00Z", true),
        (&night, "2026-11-25T00:00:00Z", true),
        (&night, "2026-11-25T01:59:59Z", true),
        (&night, "2026-11-25T02:00:00Z", false),
        // a day is the one on which it begins: 28 November is a Saturday
        (&saturday_night, "2026-11-28T01:00:00Z", false),
        (&saturday_night, "2026-11-28T22:00:00Z", true),
        (&saturday_night, "2026-11-29T01:59:59Z", true),
        (&saturday_night, "2026-11-29T22:00:00Z", false),
        // from one week to the next
        (&sunday_night, "2026-11-29T23:30:00Z", true),
        (&sunday_night, "2026-11-30T00:29:59Z", true),
        (&sunday_night, "2026-11-30T23:30:00Z", false),
        // several days
        (&weekend, "2026-11-27T03:00:00Z", false),
        (&weekend, "2026-11-28T03:00:00Z", true),
        (&weekend, "2026-11-29T03:00:00Z", true),
        (&weekend, "2026-11-30T03:00:00Z", false),
        // several windows
        (&two, "2026-11-23T02:30:00Z", true),
        (&two, "2026-11-27T20:30:00Z", true),
        (&two, "2026-11-27T02:30:00Z", false),
        // the end at the beginning: until the next day
        (&always, "2026-11-24T00:00:00Z", true),
        (&always, "2026-11-24T13:37:00Z", true),
        (&tuesdays, "2026-11-24T09:59:59Z", false),
        (&tuesdays, "2026-11-24T10:00:00Z", true),
        (&tuesdays, "2026-11-25T09:59:59Z", true),
        (&tuesdays, "2026-11-25T10:00:00Z", false),
    ] {
        assert_eq!(
            settings(windows).in_window(at(time)),
            open,
            "{windows} at {time}"
        );
    }
}

#[test]
fn every_day_has_its_name() {
    // 23 November 2026 is a Monday.
    for (n, day) in ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        .iter()
        .enumerate()
    {
        let windows = json!([{ "days": [day], "from": "02:00", "to": "03:00" }]);
        for other in 0..7 {
            let time = format!("2026-11-{}T02:30:00Z", 23 + other);
            assert_eq!(
                settings(&windows).in_window(at(&time)),
                n == other,
                "{day}, {time}"
            );
        }
    }
}

#[test]
fn the_next_window_is_the_next_that_opens() {
    for (windows, after, next) in [
        (json!([]), "2026-11-24T10:00:00Z", None),
        (
            json!([{ "from": "02:00", "to": "05:00" }]),
            "2026-11-24T10:00:00Z",
            Some("2026-11-25T02:00:00Z"),
        ),
        (
            json!([{ "from": "22:00", "to": "02:00" }]),
            "2026-11-24T10:00:00Z",
            Some("2026-11-24T22:00:00Z"),
        ),
        // While one is open, the one after it.
        (
            json!([{ "from": "02:00", "to": "05:00" }]),
            "2026-11-24T03:00:00Z",
            Some("2026-11-25T02:00:00Z"),
        ),
        // At the very beginning, too.
        (
            json!([{ "days": ["tue"], "from": "10:00", "to": "11:00" }]),
            "2026-11-24T10:00:00Z",
            Some("2026-12-01T10:00:00Z"),
        ),
        (
            json!([{ "days": ["tue"], "from": "10:00", "to": "11:00" }]),
            "2026-11-24T09:59:59Z",
            Some("2026-11-24T10:00:00Z"),
        ),
        // Not on a quarter of an hour, and shorter than one.
        (
            json!([{ "days": ["sat"], "from": "02:01", "to": "02:09" }]),
            "2026-11-24T10:00:00Z",
            Some("2026-11-28T02:01:00Z"),
        ),
        // Of several, the nearest; over the end of a year.
        (
            json!([
                { "days": ["sun"], "from": "01:00", "to": "02:00" },
                { "days": ["fri"], "from": "23:00", "to": "01:00" },
            ]),
            "2026-12-31T12:00:00Z",
            Some("2027-01-01T23:00:00Z"),
        ),
    ] {
        let found = settings(&windows).next_window(at(after));
        assert_eq!(found, next.map(at), "{windows} after {after}");
        if let Some(found) = found {
            assert!(settings(&windows).in_window(found), "it is open at {found}");
        }
    }
}

// --- 4: refused -----------------------------------------------------------------

/// What a run would break, in what is there; and how it is said.
const REFUSALS: &[(&str, &str)] = &[
    (
        "volume vol-b multi-attach",
        "vol-b may be attached to several instances at once",
    ),
    (
        "volume vol-b marketplace",
        "vol-b carries a product code of the Marketplace, which a copy would lose",
    ),
    (
        "volume vol-b outpost=arn:aws:outposts:eu-central-1:111122223333:outpost/op-1",
        "vol-b is on an Outpost (arn:aws:outposts:eu-central-1:111122223333:outpost/op-1), and its copy would be made in the Region",
    ),
    (
        "volume vol-b operator=eks.amazonaws.com",
        "vol-b is managed by eks.amazonaws.com",
    ),
    (
        "volume vol-b \n tag vol-b ebs.csi.aws.com/cluster = true",
        "vol-b belongs to Kubernetes (tag ebs.csi.aws.com/cluster), which knows it by its id",
    ),
    (
        "volume vol-b \n tag vol-b kubernetes.io/created-for/pvc/name = data-0",
        "vol-b belongs to Kubernetes (tag kubernetes.io/created-for/pvc/name), which knows it by its id",
    ),
    (
        "volume vol-b \n tag vol-b CSIVolumeName = pvc-1",
        "vol-b belongs to Kubernetes (tag CSIVolumeName), which knows it by its id",
    ),
    (
        "volume vol-b \n tag vol-b aws:cloudformation:stack-name = web",
        "vol-b is managed by the CloudFormation stack web, whose next update may replace what was swapped by a new, empty volume: set `Encrypted: true` in its template, or allow it (`replace_stack_volumes`)",
    ),
    (
        "volume vol-b \n tag vol-b aws:cloudformation:logical-id = Data",
        "vol-b is managed by a CloudFormation stack, whose next update may replace what was swapped by a new, empty volume: set `Encrypted: true` in its template, or allow it (`replace_stack_volumes`)",
    ),
    (
        "volume vol-b tags=49",
        "vol-b has so many tags that its copy would have no room for Backstop's 2 (at most 50)",
    ),
    (
        "volume vol-b state=error",
        "vol-b is in the state `error`: EBS can read nothing from it",
    ),
    (
        "volume vol-b \n copy vol-c encrypted \n tag vol-c backstop:copy-of = vol-b",
        "vol-c is a copy of vol-b that an earlier run left: delete it, or take its tag backstop:copy-of away",
    ),
    (
        "volume vol-b \n key the key alias/volumes is disabled",
        "the key alias/volumes is disabled",
    ),
];

/// The same of instances, however they come to be stopped.
const REFUSALS_OF_INSTANCES: &[(&str, &str, &str)] = &[
    (
        "",
        "tag i-1 aws:autoscaling:groupName = web",
        "i-1 is a member of the Auto Scaling group web, which would replace it when it is stopped: encrypt in the launch template",
    ),
    (
        "",
        "tag i-1 aws:ec2:fleet-id = fleet-1",
        "i-1 is a member of the fleet fleet-1",
    ),
    (
        "",
        "tag i-1 aws:ec2spot:fleet-request-id = sfr-1",
        "i-1 is a member of the fleet sfr-1",
    ),
    ("lifecycle=spot", "", "i-1 is a spot instance"),
    ("lifecycle=scheduled", "", "i-1 is a scheduled instance"),
    (
        "outpost=arn:aws:outposts:eu-central-1:111122223333:outpost/op-1",
        "",
        "i-1 is on an Outpost (arn:aws:outposts:eu-central-1:111122223333:outpost/op-1), and its copy would be made in the Region",
    ),
    (
        "operator=workspaces.amazonaws.com",
        "",
        "i-1 is managed by workspaces.amazonaws.com",
    ),
    (
        "",
        "tag i-1 kubernetes.io/cluster/blue = owned",
        "i-1 is a node of Kubernetes (tag kubernetes.io/cluster/blue)",
    ),
    (
        "",
        "tag i-1 aws:cloudformation:stack-name = web",
        "i-1 is managed by the CloudFormation stack web, whose next update may replace what was swapped by a new, empty volume: set `Encrypted: true` in its template, or allow it (`replace_stack_volumes`)",
    ),
    (
        "marketplace",
        "",
        "i-1 carries a product code of the Marketplace, which is lost with its root volume",
    ),
    (
        "hibernates",
        "",
        "i-1 is set up to hibernate: its memory may lie on the volume",
    ),
];

/// What only a stop of ours costs.
const REFUSALS_OF_A_STOP: &[(&str, &str)] = &[
    (
        "instance-store",
        "i-1 has instance-store volumes, which a stop erases",
    ),
    (
        "public-ipv4=203.0.113.7",
        "a stop releases the public IPv4 address 203.0.113.7 of i-1: give it an Elastic IP address, or allow it (`release_public_ipv4`)",
    ),
    ("stop-protected", "i-1 is protected against being stopped"),
];

#[test]
fn what_forbids_to_replace_a_volume_is_said() {
    for (there, why) in REFUSALS {
        defaults().check(there, &format!("refused unattached: vol-b \n {why}"));
        // The unit goes as a whole, or not at all.
        for state in ["running", "stopped"] {
            swap().check(
                &format!("instance {state} \n volume vol-a \n {there}"),
                &format!("refused swap: vol-a vol-b \n {why}"),
            );
        }
        // Not where the volume stays as it is anyway.
        let encrypted = there.replace("volume vol-b", "volume vol-b encrypted");
        if !why.starts_with("the key") {
            swap().check(
                &format!("instance running \n volume vol-a \n {encrypted}"),
                "in-progress swap: vol-a",
            );
        }
    }
}

#[test]
fn what_forbids_to_touch_an_instance_is_said_whoever_stops_it() {
    for (traits, tag, why) in REFUSALS_OF_INSTANCES {
        for (under, way, states) in [
            (
                swap(),
                "swap",
                &["pending", "running", "stopping", "stopped"][..],
            ),
            (swap_later(), "swap", &["running", "stopped"]),
            (when_stopped(), "when-stopped", &["running", "stopped"]),
        ] {
            for state in states {
                under.check(
                    &format!("instance {state} {traits} \n volume vol-a \n {tag}"),
                    &format!("refused {way}: vol-a \n {why}"),
                );
            }
        }
    }
}

#[test]
fn what_a_stop_costs_counts_only_where_we_would_stop_it() {
    for (traits, why) in REFUSALS_OF_A_STOP {
        let there = |state: &str| format!("instance {state} {traits} \n volume vol-a");
        for state in ["pending", "running"] {
            for under in [swap(), swap_later()] {
                under.check(&there(state), &format!("refused swap: vol-a \n {why}"));
            }
            assert_eq!(
                when_stopped().status(&there(state)),
                Status::Pending,
                "{traits}"
            );
            assert_eq!(
                defaults().status(&there(state)),
                Status::Notified,
                "{traits}"
            );
        }
        // Somebody else has stopped it: what that cost is lost already.
        for under in [swap(), swap_later(), when_stopped()] {
            under.check(&there("stopped"), "in-progress when-stopped: vol-a");
        }
        assert_eq!(
            swap().status(&there("stopping")),
            Status::Pending,
            "{traits}"
        );
    }
}

#[test]
fn what_a_stack_made_may_be_replaced_where_the_policy_says_so() {
    let mut under = swap();
    under.policy["controls"]["unencrypted-volume"]["settings"]["replace_stack_volumes"] =
        json!(true);
    for tagged in ["i-1", "vol-a"] {
        let there = format!(
            "instance running \n volume vol-a \n tag {tagged} aws:cloudformation:stack-name = web"
        );
        under.check(&there, "in-progress swap: vol-a");
        assert_eq!(swap().status(&there), Status::Refused, "{tagged}");
        // The first message names it.
        let record = under.record(&there).unwrap();
        assert_eq!(
            record.head.managed_by.as_deref(),
            Some("the CloudFormation stack web"),
            "{tagged}"
        );
    }
    // What Terraform made carries no tag that only it can set: it is told.
    swap().check(
        "instance running \n volume vol-a \n tag vol-a managed-by = terraform",
        "in-progress swap: vol-a",
    );
}

#[test]
fn a_public_address_may_be_released_where_the_policy_says_so() {
    let mut under = swap();
    under.policy["controls"]["unencrypted-volume"]["settings"]["release_public_ipv4"] = json!(true);
    under.check(
        "instance running public-ipv4=203.0.113.7 \n volume vol-a",
        "in-progress swap: vol-a",
    );
    // And nothing else with it.
    assert_eq!(
        under.status("instance running public-ipv4=203.0.113.7 instance-store \n volume vol-a"),
        Status::Refused
    );
}

#[test]
fn every_reason_is_said_not_only_the_first() {
    swap().check(
        "instance running lifecycle=spot instance-store \n volume vol-a multi-attach \n volume vol-b \n key the key is disabled",
        "refused swap: vol-a vol-b
         vol-a may be attached to several instances at once
         i-1 is a spot instance
         i-1 has instance-store volumes, which a stop erases
         the key is disabled",
    );
}

/// A copy has room for all tags of its original but AWS's own, and two more.
#[test]
fn tags_count_without_those_of_aws_and_our_marks() {
    for (tags, more, refused) in [
        (48, "", false),
        (49, "", true),
        (50, "", true),
        (48, "tag vol-a aws:backup:source-resource = x", false),
        (48, "tag vol-a backstop:replaced-by = vol-x", false),
    ] {
        let status = defaults().status(&format!("volume vol-a tags={tags} \n {more}"));
        let expected = if refused {
            Status::Refused
        } else {
            Status::InProgress
        };
        assert_eq!(status, expected, "{tags} {more}");
    }
}

#[test]
fn copies_that_are_gone_or_of_other_volumes_do_not_count() {
    for copy in [
        "copy vol-c state=deleted \n tag vol-c backstop:copy-of = vol-a",
        "copy vol-c state=deleting \n tag vol-c backstop:copy-of = vol-a",
        "copy vol-c encrypted \n tag vol-c backstop:copy-of = vol-b",
        "copy vol-c encrypted",
    ] {
        defaults().check(
            &format!("volume vol-a \n {copy}"),
            "in-progress unattached: vol-a",
        );
    }
}

#[test]
fn names_that_only_look_like_an_orchestrators_do_not_count() {
    for tag in [
        "kubernetes = x",
        "my-kubernetes.io/x = y",
        "csivolumename = x",
        "Name = ebs.csi.aws.com/x",
    ] {
        defaults().check(
            &format!("volume vol-a \n tag vol-a {tag}"),
            "in-progress unattached: vol-a",
        );
    }
}

// --- 5: opt-outs ------------------------------------------------------------------

const OPTED_OUT: &str = "the tag backstop:opt-out opts it out";
const UNREADABLE: &str = "the tag backstop:opt-out cannot be read";

#[test]
fn opt_outs_of_an_instance_hold_for_all_its_volumes() {
    for (tag, expected) in [
        ("all", format!("exempt swap: \n {OPTED_OUT}")),
        ("unencrypted-volume", format!("exempt swap: \n {OPTED_OUT}")),
        (
            "open-ingress+unencrypted-volume until=2026-11-24 owner=db",
            format!("exempt swap: \n {OPTED_OUT}"),
        ),
        ("open-ingress", "in-progress swap: vol-a vol-b".to_owned()),
        (
            "encryption-by-default",
            "in-progress swap: vol-a vol-b".to_owned(),
        ),
        // its last day is past
        (
            "all until=2026-11-23",
            "in-progress swap: vol-a vol-b".to_owned(),
        ),
        ("unencrypted-volumes", format!("held swap: \n {UNREADABLE}")),
        ("all until=soon", format!("held swap: \n {UNREADABLE}")),
        ("", format!("held swap: \n {UNREADABLE}")),
    ] {
        swap().check(
            &format!("instance running \n volume vol-a \n volume vol-b \n tag i-1 backstop:opt-out = {tag}"),
            &expected,
        );
    }
}

#[test]
fn an_opt_out_whose_key_is_spelt_as_only_iam_reads_it_holds() {
    let there = "instance running \n volume vol-a \n volume vol-b";
    for (tag, expected) in [
        (
            "i-1 Backstop:Opt-Out = all",
            format!("held swap: \n {UNREADABLE}"),
        ),
        (
            "i-1 BACKSTOP:OPT-OUT = unencrypted-volume until=2027-01-31",
            format!("held swap: \n {UNREADABLE}"),
        ),
        (
            "vol-a Backstop:Opt-Out = all",
            "in-progress swap: vol-b
             vol-a stays as it is: its tag backstop:opt-out cannot be read"
                .to_owned(),
        ),
        (
            "i-1 Backstop:Opt-Out = missing-patches",
            "in-progress swap: vol-a vol-b".to_owned(),
        ),
        (
            "i-1 backstop:opt-outs = all",
            "in-progress swap: vol-a vol-b".to_owned(),
        ),
    ] {
        swap().check(&format!("{there} \n tag {tag}"), &expected);
    }
}

#[test]
fn opt_outs_of_a_volume_that_is_attached_nowhere() {
    for (tag, expected) in [
        ("all", format!("exempt unattached: \n {OPTED_OUT}")),
        (
            "unencrypted-volume until=2027-01-31",
            format!("exempt unattached: \n {OPTED_OUT}"),
        ),
        (
            "all until=2026-11-23",
            "in-progress unattached: vol-a".to_owned(),
        ),
        ("never", format!("held unattached: \n {UNREADABLE}")),
    ] {
        defaults().check(
            &format!("volume vol-a \n tag vol-a backstop:opt-out = {tag}"),
            &expected,
        );
    }
}

#[test]
fn of_several_volumes_each_has_its_own_say() {
    let of = |tags: &[&str]| {
        let mut there = "instance running \n volume vol-a \n volume vol-b".to_owned();
        for tag in tags {
            let (id, value) = tag.split_once(' ').unwrap();
            there += &format!("\n tag {id} backstop:opt-out = {value}");
        }
        there
    };
    for (tags, expected) in [
        (
            &["vol-b all"][..],
            "in-progress swap: vol-a
             vol-b stays as it is: the tag backstop:opt-out opts it out"
                .to_owned(),
        ),
        (
            &["vol-a all for ever"],
            "in-progress swap: vol-b
             vol-a stays as it is: its tag backstop:opt-out cannot be read"
                .to_owned(),
        ),
        (
            &["vol-a all until=2026-11-23"],
            "in-progress swap: vol-a vol-b".to_owned(),
        ),
        (
            &["vol-a all", "vol-b all"],
            format!("exempt swap: \n {OPTED_OUT}"),
        ),
        // What cannot be read has to be told, whatever stands beside it …
        (
            &["vol-a all", "vol-b ?"],
            format!("held swap: \n {UNREADABLE}"),
        ),
        (
            &["i-1 ?", "vol-a all"],
            format!("held swap: \n {UNREADABLE}"),
        ),
        // … but for an opt-out of the whole.
        (
            &["i-1 all", "vol-a ?"],
            format!("exempt swap: \n {OPTED_OUT}"),
        ),
    ] {
        swap().check(&of(tags), &expected);
    }
}

/// A volume that stays is no reason to refuse, and its own stop costs nothing.
#[test]
fn what_is_opted_out_is_not_asked_whether_it_could_be_replaced() {
    swap().check(
        "instance running \n volume vol-a \n volume vol-b multi-attach \n tag vol-b backstop:opt-out = all",
        "in-progress swap: vol-a
         vol-b stays as it is: the tag backstop:opt-out opts it out",
    );
}

#[test]
fn what_the_tags_say_is_kept_for_the_message() {
    let opt_out = |until: &str| OptOut {
        until: Some(until.parse().unwrap()),
        owner: Some("db".into()),
        reason: None,
    };
    for (tags, expected) in [
        ("", Exemption::None),
        (
            "tag i-1 backstop:opt-out = all until=2027-01-31 owner=db",
            Exemption::Exempt(opt_out("2027-01-31")),
        ),
        (
            "tag vol-a backstop:opt-out = all until=2026-11-23 owner=db",
            Exemption::Ended(opt_out("2026-11-23")),
        ),
        // Of several, the one that somebody has to mend.
        (
            "tag vol-a backstop:opt-out = all \n tag vol-b backstop:opt-out = al",
            Exemption::Malformed {
                value: "al".into(),
                problem: "`al` is neither `all` nor the name of a control".into(),
                key: None,
                longest_days: None,
            },
        ),
    ] {
        let there = format!("instance running \n volume vol-a \n volume vol-b \n {tags}");
        assert_eq!(swap().decide(&there).exemption, expected, "{tags}");
    }
}

#[test]
fn a_policy_may_demand_an_end() {
    let under = || defaults().top("opt_out", json!({ "require_end": true }));
    under().check(
        "volume vol-a \n tag vol-a backstop:opt-out = all",
        &format!("held unattached: \n {UNREADABLE}"),
    );
    under().check(
        "volume vol-a \n tag vol-a backstop:opt-out = all until=2027-01-31",
        &format!("exempt unattached: \n {OPTED_OUT}"),
    );
}

// --- 5: modes and guards --------------------------------------------------------

#[test]
fn only_in_mode_enforce_is_anything_changed() {
    const TOLD: &str = "notified unattached: vol-a \n the mode is `notify`";
    const CHANGED: &str = "in-progress unattached: vol-a";
    for (of_stack, of_policy, expected) in [
        (Mode::Notify, None, TOLD),
        (Mode::Enforce, None, CHANGED),
        (Mode::Enforce, Some("notify"), TOLD),
        (Mode::Notify, Some("enforce"), CHANGED),
    ] {
        let mut under = defaults().mode(of_stack);
        if let Some(mode) = of_policy {
            under = under.control("mode", json!(mode));
        }
        under.check("volume vol-a", expected);
    }
    // `off` is for the caller to see; nothing is changed either.
    let off = defaults().control("mode", json!("off"));
    assert_eq!(off.status("volume vol-a"), Status::Notified);
}

fn trip(why: &str) -> Option<Trip> {
    Some(Trip {
        at: now(),
        why: why.to_owned(),
    })
}

#[test]
fn guards_keep_it_from_acting_and_say_so() {
    let control = || Guards {
        control_tripped: trip("more than 50 changes in an hour"),
        ..Guards::default()
    };
    let resource = || Guards {
        resource_tripped: trip("its encryption came to a bad end"),
        ..Guards::default()
    };
    const VOLUME: &str = "volume vol-a";
    const SWITCH: &str = "stopped unattached: vol-a \n the kill switch is on";
    const CONTROL: &str = "tripped unattached: vol-a
        the control has tripped: more than 50 changes in an hour";
    defaults()
        .top("kill_switch", json!(true))
        .check(VOLUME, SWITCH);
    defaults().guards(control()).check(VOLUME, CONTROL);
    defaults().guards(resource()).check(
        VOLUME,
        "tripped unattached: vol-a
         the control has tripped for this resource: its encryption came to a bad end",
    );
    // The widest is said; the mode goes before all, an opt-out before the mode.
    let all = |mode| {
        defaults()
            .top("kill_switch", json!(true))
            .guards(control())
            .mode(mode)
    };
    all(Mode::Enforce).check(VOLUME, SWITCH);
    all(Mode::Notify).check(VOLUME, "notified unattached: vol-a \n the mode is `notify`");
    all(Mode::Enforce).check(
        "volume vol-a \n tag vol-a backstop:opt-out = all",
        &format!("exempt unattached: \n {OPTED_OUT}"),
    );
    let mut both = control();
    both.resource_tripped = trip("its encryption came to a bad end");
    defaults().guards(both).check(VOLUME, CONTROL);
    // Guards go before refusals: nothing would be done anyway.
    defaults()
        .guards(control())
        .check("volume vol-a multi-attach", CONTROL);
}

/// One guard after the other is lifted: the next one is said.
#[test]
fn the_guards_are_asked_in_the_order_of_the_ladder() {
    let of_baseline = || [fingerprint("vol-a")].into_iter().collect();
    let control = || trip("more than 50 changes in an hour");
    let resource = || trip("its encryption came to a bad end");
    let under = |mode, kill_switch: bool, guards| {
        swap()
            .mode(mode)
            .top("kill_switch", json!(kill_switch))
            .guards(guards)
    };
    let all = |baseline| Guards {
        control_tripped: control(),
        resource_tripped: resource(),
        baseline,
        ..Guards::default()
    };
    let tripped = |control_tripped| Guards {
        control_tripped,
        resource_tripped: resource(),
        ..Guards::default()
    };
    let (off, on) = (Mode::Notify, Mode::Enforce);
    let everything = under(off, true, all(of_baseline()));
    for (under, tag, because, status) in [
        (
            &everything,
            "tag vol-a backstop:opt-out = ?",
            Reason::OptOutUnreadable,
            Status::Held,
        ),
        (
            &everything,
            "tag vol-a backstop:opt-out = all",
            Reason::OptedOut,
            Status::Exempt,
        ),
        (&everything, "", Reason::Existing, Status::Existing),
        (
            &under(off, true, all(BTreeSet::new())),
            "",
            Reason::NotifyMode,
            Status::Notified,
        ),
        (
            &under(on, true, all(BTreeSet::new())),
            "",
            Reason::KillSwitch,
            Status::Stopped,
        ),
        (
            &under(on, false, all(BTreeSet::new())),
            "",
            Reason::ControlTripped {
                why: "more than 50 changes in an hour".into(),
            },
            Status::Tripped,
        ),
        (
            &under(on, false, tripped(None)),
            "",
            Reason::ResourceTripped {
                why: "its encryption came to a bad end".into(),
            },
            Status::Tripped,
        ),
    ] {
        // What would be refused, or waits, is asked after the guards.
        for there in ["volume vol-a", "volume vol-a multi-attach"] {
            let decision = under.decide(&format!("{there} \n {tag}"));
            assert_eq!(decision.because, Some(because.clone()), "{there} {tag}");
            assert_eq!(decision.status, status, "{there} {tag}");
            assert_eq!(decision.reasons, [because.to_string()], "{there} {tag}");
        }
    }
    let free = under(on, false, Guards::default());
    for (there, status) in [
        ("volume vol-a", Status::InProgress),
        ("volume vol-a multi-attach", Status::Refused),
    ] {
        let decision = free.decide(there);
        assert_eq!((decision.because, decision.status), (None, status));
    }
}

#[test]
fn a_record_holds_the_guard_as_data_and_one_without_it_is_read() {
    let tripped = Guards {
        resource_tripped: trip("its encryption came to a bad end"),
        ..Guards::default()
    };
    let record = swap().guards(tripped).record("volume vol-a").unwrap();
    let mut stored = serde_json::to_value(&record).unwrap();
    assert_eq!(stored["because"], "resource-tripped");
    assert_eq!(stored["why"], "its encryption came to a bad end");
    let read = |stored: &Value| serde_json::from_value::<Encryption>(stored.clone()).unwrap();
    assert_eq!(read(&stored), record);
    let fields = stored.as_object_mut().unwrap();
    fields.remove("because");
    fields.remove("why");
    let mut without = record.clone();
    without.detail.because = None;
    assert_eq!(read(&stored), without);
    assert_eq!(without.detail.reasons, record.detail.reasons);
}

#[test]
fn what_was_there_before_enforce_is_told_and_left() {
    const EXISTING: &str = "it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`";
    let baseline = |ids: &[&str]| Guards {
        baseline: ids.iter().map(|id| fingerprint(id)).collect(),
        ..Guards::default()
    };
    let one = || swap().guards(baseline(&["vol-a"]));
    one().check(
        "volume vol-a",
        &format!("existing unattached: \n {EXISTING}"),
    );
    one().check("volume vol-b", "in-progress unattached: vol-b");
    one().check(
        "instance running \n volume vol-a \n volume vol-b",
        "in-progress swap: vol-b
         vol-a stays as it is: it was there before the control was switched to `enforce`",
    );
    swap().guards(baseline(&["vol-a", "vol-b"])).check(
        "instance running \n volume vol-a \n volume vol-b",
        &format!("existing swap: \n {EXISTING}"),
    );
    // It is said whatever is opted out beside it; what cannot be read comes first.
    one().check(
        "instance running \n volume vol-a \n volume vol-b \n tag vol-b backstop:opt-out = all",
        &format!("existing swap: \n {EXISTING}"),
    );
    one().check(
        "instance running \n volume vol-a \n volume vol-b \n tag vol-b backstop:opt-out = ?",
        &format!("held swap: \n {UNREADABLE}"),
    );
    // A tag of its own goes before.
    one().check(
        "volume vol-a \n tag vol-a backstop:opt-out = all",
        &format!("exempt unattached: \n {OPTED_OUT}"),
    );
    // Where the policy says so, it is put right like anything else.
    one()
        .control("existing", json!("enforce"))
        .check("volume vol-a", "in-progress unattached: vol-a");
}

#[test]
fn the_baseline_is_what_would_be_replaced() {
    let of = |under: &Under, there: &str| unencrypted_volume::baseline(&under.decide(there));
    let both = "instance running \n volume vol-a \n volume vol-b";
    let expected = [fingerprint("vol-a"), fingerprint("vol-b")]
        .into_iter()
        .collect();
    for under in [swap(), swap_later(), defaults()] {
        assert_eq!(of(&under, both), expected);
    }
    assert_eq!(
        of(
            &swap(),
            &format!("{both} \n tag vol-b backstop:opt-out = all")
        ),
        [fingerprint("vol-a")].into_iter().collect()
    );
    for nothing in [
        &format!("{both} \n tag i-1 backstop:opt-out = all")[..],
        "volume vol-a encrypted",
        "volume vol-a age=0",
        "gone",
    ] {
        assert!(of(&swap(), nothing).is_empty(), "{nothing}");
    }
    // By control and volume, so that no other control's can be meant.
    assert_ne!(fingerprint("vol-a"), fingerprint("vol-b"));
}

// --- settings ----------------------------------------------------------------------

#[test]
fn settings_are_taken_up_to_their_limits_and_no_further() {
    for (field, valid, wrong) in [
        ("settling_minutes", &[0, 10, 1440][..], &[1441][..]),
        ("max_downtime_minutes", &[5, 30, 1440], &[0, 4, 1441]),
        ("health_minutes", &[2, 10, 120], &[0, 1, 121]),
    ] {
        let parse = |value: i32| {
            let under = under(json!({ field: value }));
            Policy::parse(&under.policy.to_string())
        };
        for value in valid {
            parse(*value).unwrap();
        }
        for value in wrong {
            let error = parse(*value).unwrap_err().to_string();
            let path = format!("`controls.unencrypted-volume.settings.{field}`: {value} ");
            assert!(error.contains(&path), "{error}");
        }
    }
}

#[test]
fn the_limits_are_given_as_durations() {
    let settings: Settings =
        serde_json::from_value(json!({ "max_downtime_minutes": 45, "health_minutes": 3 })).unwrap();
    assert_eq!(settings.max_downtime(), SignedDuration::from_mins(45));
    assert_eq!(settings.health_time(), SignedDuration::from_mins(3));
    let defaults = Settings::default();
    assert_eq!(defaults.max_downtime(), SignedDuration::from_mins(30));
}

// --- a run under way -----------------------------------------------------------------

#[test]
fn a_run_is_held_by_what_would_have_kept_it_from_beginning() {
    let attached = "instance running \n volume vol-a \n volume vol-b";
    let run = swap().record(attached).unwrap();
    assert_eq!(run.head.status, Status::InProgress);
    let stopped = when_stopped()
        .record("instance stopped \n volume vol-a")
        .unwrap();
    let alone = defaults().record("volume vol-a").unwrap();
    let held = |run: &Encryption, under: &Under, tags: &str| {
        let unit = facts(&format!("{attached} \n {tags}")).unit;
        let Unit::Instance(instance, volumes) = &unit else {
            panic!("{unit:?}")
        };
        let tags = std::iter::once(&instance.tags).chain(volumes.iter().map(|v| &v.tags));
        unencrypted_volume::hold(
            run,
            &under.parsed().unencrypted_volume(),
            under.mode,
            tags,
            now(),
        )
        .map(|hold| hold.why)
    };
    for (run, under, tags, expected) in [
        (&run, swap(), "", None),
        (&stopped, when_stopped(), "", None),
        (&alone, defaults(), "", None),
        // A window that closes during a run is no reason to turn back.
        (&run, swap_later(), "", None),
        // An instance that was stopped goes on where the policy would stop it.
        (&stopped, swap(), "", None),
        (
            &run,
            swap().top("kill_switch", json!(true)),
            "",
            Some("the kill switch was turned on"),
        ),
        (
            &run,
            swap().mode(Mode::Notify),
            "",
            Some("the mode is `enforce` no more"),
        ),
        (
            &run,
            swap().control("mode", json!("off")),
            "",
            Some("the mode is `enforce` no more"),
        ),
        (
            &run,
            swap().mode(Mode::Notify).control("mode", json!("enforce")),
            "",
            None,
        ),
        (
            &run,
            when_stopped(),
            "",
            Some("the policy's `attached` does not allow it any more"),
        ),
        (
            &stopped,
            defaults(),
            "",
            Some("the policy's `attached` does not allow it any more"),
        ),
        (
            &run,
            swap(),
            "tag i-1 backstop:opt-out = all",
            Some("the tag backstop:opt-out opts it out"),
        ),
        // One of its volumes is enough: a swap leaves none half done.
        (
            &run,
            swap(),
            "tag vol-b backstop:opt-out = unencrypted-volume until=2027-01-31",
            Some("the tag backstop:opt-out opts it out"),
        ),
        (
            &run,
            swap(),
            "tag vol-b backstop:opt-out = unencrypted",
            Some("the tag backstop:opt-out cannot be read"),
        ),
        (
            &run,
            swap(),
            "tag vol-b backstop:opt-out = all until=2026-11-23",
            None,
        ),
        (
            &run,
            swap(),
            "tag vol-b backstop:opt-out = open-ingress",
            None,
        ),
    ] {
        assert_eq!(
            held(run, &under, tags).as_deref(),
            expected,
            "{tags}, {}",
            under.policy
        );
    }
}

// --- the record -------------------------------------------------------------------------

#[test]
fn nothing_is_recorded_of_what_is_no_finding() {
    for there in [
        "gone",
        "volume vol-a encrypted",
        "volume vol-a age=0",
        "volume vol-a state=deleted",
        "instance terminated \n volume vol-a",
    ] {
        assert_eq!(swap().record(there), None, "{there}");
    }
}

#[test]
fn the_record_of_a_run_holds_what_there_was_before() {
    let there = "instance running
        tag i-1 Name = db-1
        tag i-1 owner = payments
        volume vol-a
        volume vol-b encrypted
        volume vol-c
        tag vol-c backstop:opt-out = all";
    let record = swap().record(there).unwrap();
    let Unit::Instance(instance, volumes) = facts(there).unit else {
        panic!()
    };
    assert_eq!(record.head.id, "01M7SH8XYF6H0J2M4N8P7R3T1W");
    assert_eq!(record.head.control, ControlId::UnencryptedVolume);
    assert_eq!(record.head.severity, Severity::High);
    assert_eq!(
        record.head.resource,
        "arn:aws:ec2:eu-central-1:111122223333:instance/i-1"
    );
    assert_eq!(record.head.resource_name, "db-1");
    assert_eq!(
        (&record.head.account[..], &record.head.region[..]),
        ("111122223333", "eu-central-1")
    );
    assert_eq!(record.head.team.as_deref(), Some("payments"));
    assert_eq!(record.head.status, Status::InProgress);
    assert_eq!(record.detail.way, Way::Swap);
    assert_eq!(record.detail.instance, Some(*instance));
    assert_eq!(
        record.detail.volumes,
        volumes[..1],
        "what is replaced, and nothing else"
    );
    assert_eq!(record.detail.kms_key.as_deref(), Some("alias/volumes"));
    assert_eq!(
        record.detail.reasons,
        ["vol-c stays as it is: the tag backstop:opt-out opts it out"]
    );
    assert_eq!(record.head.managed_by.as_deref(), Some("Terraform"));
    assert_eq!(record.head.policy_version, 7);
    assert_eq!((record.head.attempts, record.detail.revision), (1, 0));
    assert_eq!(
        (record.head.started_at, record.head.finished_at),
        (now(), None)
    );
    assert_eq!(record.detail.undoes, None);
    assert!(record.detail.progress.tries.is_empty());
    let read: Encryption = serde_json::from_value(serde_json::to_value(&record).unwrap()).unwrap();
    assert_eq!(read, record);
}

#[test]
fn the_record_of_a_volume_that_is_attached_nowhere() {
    let there = "volume vol-a \n tag vol-a owner = web";
    let record = defaults().record(there).unwrap();
    assert_eq!(
        record.head.resource,
        "arn:aws:ec2:eu-central-1:111122223333:volume/vol-a"
    );
    assert_eq!(record.head.resource_name, "vol-a", "it has no name");
    assert_eq!(record.head.team.as_deref(), Some("web"));
    assert_eq!(
        (record.detail.instance, record.detail.way),
        (None, Way::Unattached)
    );
    assert_eq!(record.detail.volumes.len(), 1);
}

#[test]
fn the_record_of_what_is_not_changed_holds_all_that_was_found_and_is_closed() {
    for (under, there, status) in [
        (defaults(), "", Status::Notified),
        (when_stopped(), "", Status::Pending),
        (swap(), "tag i-1 backstop:opt-out = all", Status::Exempt),
        (swap(), "tag i-1 backstop:opt-out = ?", Status::Held),
        (
            swap(),
            "tag i-1 aws:ec2:fleet-id = fleet-1",
            Status::Refused,
        ),
        (swap().top("kill_switch", json!(true)), "", Status::Stopped),
    ] {
        let record = under
            .record(&format!(
                "instance running \n volume vol-a \n volume vol-b \n {there}"
            ))
            .unwrap();
        assert_eq!(record.head.status, status);
        assert_eq!(record.head.finished_at, Some(now()), "{status:?}");
        let volumes: Vec<&str> = record
            .detail
            .volumes
            .iter()
            .map(|v| v.id.as_str())
            .collect();
        assert_eq!(volumes, ["vol-a", "vol-b"], "{status:?}");
        assert_eq!(record.detail.reasons.len(), 1, "{status:?}");
    }
}

#[test]
fn the_team_of_an_instance_goes_before_that_of_its_volumes() {
    let of = |tags: &str| {
        let there = format!("instance running \n volume vol-a \n volume vol-b \n {tags}");
        swap().record(&there).unwrap().head.team
    };
    assert_eq!(
        of("tag i-1 owner = web \n tag vol-a owner = db").as_deref(),
        Some("web")
    );
    assert_eq!(of("tag vol-b owner = db").as_deref(), Some("db"));
    assert_eq!(of(""), None);
}

#[test]
fn a_stack_that_manages_the_unit_is_named() {
    let record = defaults()
        .record("volume vol-a \n tag vol-a aws:cloudformation:stack-name = web")
        .unwrap();
    assert_eq!(
        record.head.managed_by.as_deref(),
        Some("the CloudFormation stack web")
    );
}

#[test]
fn the_tags_that_a_run_sets_are_its_own() {
    for tag in [COPY_OF_TAG, ENTRY_TAG, PURPOSE_TAG, REPLACED_BY_TAG] {
        assert!(
            tag.starts_with("backstop:") && tag != "backstop:opt-out",
            "{tag}"
        );
    }
}

// --- encryption by default -----------------------------------------------------------------

fn setting(control: Value, kill_switch: bool) -> Policy {
    let policy = json!({ "version": 1, "kill_switch": kill_switch, "controls": { "encryption-by-default": control } });
    Policy::parse(&policy.to_string()).unwrap()
}

fn is_on(on: bool) -> AccountSetting<bool> {
    AccountSetting::new(
        "encryption-by-default",
        "aws",
        "eu-central-1",
        "111122223333",
        on,
    )
}

fn decide_setting(
    on: bool,
    policy: &Policy,
    mode: Mode,
    guards: &Guards,
) -> decide::Decision<bool> {
    let at = decide::Circumstances {
        mode,
        account: "111122223333",
        now: now(),
        guards,
    };
    let rules = EncryptionByDefault::rules(policy);
    decide::decide::<EncryptionByDefault>(Some(&is_on(on)), &rules, &at)
}

#[test]
fn the_setting_is_turned_on_unless_something_forbids_it() {
    let until =
        |day: &str| json!({ "settings": { "exemption": { "until": day, "owner": "platform" } } });
    let was_off = || Guards {
        baseline: ["encryption-by-default".to_owned()].into_iter().collect(),
        ..Guards::default()
    };
    let tripped = Guards {
        control_tripped: trip("it was turned off again and again"),
        ..Guards::default()
    };
    let tripped_here = Guards {
        resource_tripped: trip("it was turned off again and again"),
        ..Guards::default()
    };
    const EXEMPT: &str = "the policy exempts the account";
    const NOTIFY: &str = "the mode is `notify`";
    const TRIPPED: &str = "the control has tripped: it was turned off again and again";
    const TRIPPED_HERE: &str =
        "the control has tripped for this resource: it was turned off again and again";
    const EXISTING: &str = "it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`";
    for (control, kill_switch, mode, guards, status, why) in [
        (
            json!({}),
            false,
            Mode::Enforce,
            Guards::default(),
            Status::InProgress,
            "",
        ),
        (
            json!({}),
            false,
            Mode::Notify,
            Guards::default(),
            Status::Notified,
            NOTIFY,
        ),
        (
            json!({ "mode": "notify" }),
            false,
            Mode::Enforce,
            Guards::default(),
            Status::Notified,
            NOTIFY,
        ),
        (
            json!({ "mode": "enforce" }),
            false,
            Mode::Notify,
            Guards::default(),
            Status::InProgress,
            "",
        ),
        (
            json!({}),
            true,
            Mode::Enforce,
            Guards::default(),
            Status::Stopped,
            "the kill switch is on",
        ),
        (
            json!({}),
            false,
            Mode::Enforce,
            tripped.clone(),
            Status::Tripped,
            TRIPPED,
        ),
        (
            json!({}),
            false,
            Mode::Enforce,
            tripped_here,
            Status::Tripped,
            TRIPPED_HERE,
        ),
        (
            json!({}),
            false,
            Mode::Enforce,
            was_off(),
            Status::Existing,
            EXISTING,
        ),
        // The baseline comes before the mode.
        (
            json!({}),
            false,
            Mode::Notify,
            was_off(),
            Status::Existing,
            EXISTING,
        ),
        (
            json!({ "existing": "enforce" }),
            false,
            Mode::Enforce,
            was_off(),
            Status::InProgress,
            "",
        ),
        // An exemption goes before all; on its last day it holds.
        (
            until("2026-11-24"),
            false,
            Mode::Enforce,
            Guards::default(),
            Status::Exempt,
            EXEMPT,
        ),
        (
            until("2027-01-31"),
            true,
            Mode::Notify,
            tripped,
            Status::Exempt,
            EXEMPT,
        ),
        (
            until("2026-11-23"),
            false,
            Mode::Enforce,
            Guards::default(),
            Status::InProgress,
            "",
        ),
        (
            until("2026-11-23"),
            false,
            Mode::Notify,
            Guards::default(),
            Status::Notified,
            NOTIFY,
        ),
    ] {
        let policy = setting(control.clone(), kill_switch);
        let decided = decide_setting(false, &policy, mode, &guards);
        let plan = decided.plan.as_ref().unwrap();
        let because = plan.because.as_ref();
        assert_eq!(
            because.map_or(Status::InProgress, Reason::status),
            status,
            "{control}"
        );
        assert_eq!(plan.reasons.join("; "), why, "{control}");
        assert_eq!(
            plan.changes_something(),
            status == Status::InProgress,
            "{control}"
        );
        let opt_out = control["settings"]["exemption"]["until"]
            .as_str()
            .map(|day| OptOut {
                until: Some(day.parse().unwrap()),
                owner: Some("platform".into()),
                reason: None,
            });
        let expected = match opt_out {
            None => Exemption::None,
            Some(past) if past.until == Some("2026-11-23".parse().unwrap()) => {
                Exemption::Ended(past)
            }
            Some(opt_out) => Exemption::Exempt(opt_out),
        };
        assert_eq!(decided.exemptions.resource, expected, "{control}");
        // And whatever is said, nothing is to be done while it is on.
        let on = decide_setting(true, &policy, mode, &guards);
        assert_eq!((on.verdict, on.plan), (finding::Verdict::Compliant, None));
    }
}

#[test]
fn the_record_of_the_setting() {
    let trigger = Trigger {
        resource: "eu-central-1".into(),
        ..trigger()
    };
    let record = |mode| {
        let about = decide::About {
            id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
            trigger: &trigger,
            owner_tag: "owner",
            policy_version: 7,
            now: now(),
        };
        let decision = decide_setting(false, &Policy::default(), mode, &Guards::default());
        decide::entry::<EncryptionByDefault>(Some(&is_on(false)), &decision, about).unwrap()
    };
    let begun = record(Mode::Enforce);
    assert_eq!(begun.head.control, ControlId::EncryptionByDefault);
    assert_eq!(begun.head.severity, Severity::Medium);
    assert_eq!(
        begun.head.resource,
        "arn:aws:ec2:eu-central-1:111122223333:encryption-by-default/eu-central-1"
    );
    assert_eq!(
        begun.resource_id(),
        "eu-central-1",
        "what its lock hangs on"
    );
    assert_eq!(
        begun.head.resource_name,
        "encryption by default in eu-central-1"
    );
    assert_eq!(
        begun.detail.plan.changes,
        [Change::set("encryption-by-default", false, true)]
    );
    assert_eq!(
        begun.detail.before,
        BTreeMap::from([("encryption-by-default".to_owned(), false)])
    );
    assert_eq!(begun.detail.plan.reasons, [] as [&str; 0]);
    assert_eq!(
        (
            begun.head.status,
            begun.head.policy_version,
            begun.head.started_at,
            begun.head.finished_at
        ),
        (Status::InProgress, 7, now(), None)
    );
    let told = record(Mode::Notify);
    assert_eq!(told.head.status, Status::Notified);
    assert_eq!(told.detail.plan.reasons, ["the mode is `notify`"]);
    assert_eq!(told.detail.before, BTreeMap::new(), "nothing is touched");
    let elsewhere = AccountSetting::new(
        "encryption-by-default",
        "aws-cn",
        "cn-north-1",
        "444455556666",
        false,
    );
    assert_eq!(
        elsewhere.arn,
        "arn:aws-cn:ec2:cn-north-1:444455556666:encryption-by-default/cn-north-1"
    );
}
