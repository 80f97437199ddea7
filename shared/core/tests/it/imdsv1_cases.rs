//! `imdsv1`: what is decided about an instance, by its metadata service and by what
//! CloudWatch counted.

use backstop_core::control::Control as _;
use backstop_core::controls::imdsv1::{DAYS, HttpEndpoint, ITEM, ImdsV1, Instance, Options, Usage};
use backstop_core::controls::metadata_defaults::HttpTokens;
use backstop_core::decide::{self, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::finding::Verdict;
use backstop_core::guards::Guards;
use backstop_core::plan::{Change, Disposition};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::reason::Reason;
use backstop_core::sweep;
use backstop_core::words::{ControlId, Mode, Severity, Status};
use jiff::civil::{Date, date};
use jiff::{SignedDuration, Timestamp};

const OURS: &str = "111122223333";
const ID: &str = "i-0a3f5c7e91b2d4f60";

const OPEN: Options = Options {
    http_tokens: HttpTokens::Optional,
    http_endpoint: HttpEndpoint::Enabled,
};
const CLOSED: Options = Options {
    http_tokens: HttpTokens::Required,
    http_endpoint: HttpEndpoint::Enabled,
};

fn now() -> Timestamp {
    "2026-11-30T18:20:00Z".parse().unwrap()
}

/// A point an hour from `from` hours ago to `to` hours ago, of 0.
fn quiet(from: i64, to: i64) -> Vec<(Timestamp, f64)> {
    let full: Timestamp = "2026-11-30T18:00:00Z".parse().unwrap();
    let hours = (to + 1..=from).rev();
    hours
        .map(|ago| (full - SignedDuration::from_hours(ago), 0.0))
        .collect()
}

/// All hours of the 14 days.
fn proof() -> Vec<(Timestamp, f64)> {
    quiet(24 * 14, 0)
}

fn instance(points: &[(Timestamp, f64)]) -> Instance {
    Instance {
        id: ID.to_owned(),
        arn: format!("arn:aws:ec2:eu-central-1:{OURS}:instance/{ID}"),
        owner: OURS.to_owned(),
        name: "web-1".to_owned(),
        tags: [].into(),
        state: "running".to_owned(),
        options: OPEN,
        hop_limit: Some(2),
        operator: None,
        launched_at: Some(now()),
        enforced: false,
        usage: Some(Usage::of(points, now())),
        unread: None,
    }
}

fn tagged(tags: &[(&str, &str)]) -> Instance {
    let tags = tags.iter();
    Instance {
        tags: tags
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..instance(&proof())
    }
}

/// Where the policy names a mode for the control, and the stack has another.
fn decide_in(instance: &Instance, policy: &str, stack: Mode) -> decide::Decision<Options> {
    let policy = Policy::parse(policy).unwrap();
    let at = Circumstances {
        mode: stack,
        account: OURS,
        now: now(),
        guards: &Guards::default(),
    };
    decide::decide::<ImdsV1>(Some(instance), &ImdsV1::rules(&policy), &at)
}

fn decide(instance: &Instance) -> decide::Decision<Options> {
    let enforce = r#"{"version":1,"controls":{"imdsv1":{"mode":"enforce"}}}"#;
    decide_in(instance, enforce, Mode::Notify)
}

fn because(instance: &Instance) -> Option<Reason> {
    decide(instance).plan.unwrap().because
}

/// The days on which 24 hours begin, the oldest first.
fn days(from: i8, to: i8) -> Vec<Date> {
    (from..=to).map(|day| date(2026, 11, day)).collect()
}

#[test]
fn tokens_are_required_on_proof_and_of_no_other_instance() {
    let in_state = |state: &str| Instance {
        state: state.to_owned(),
        ..instance(&proof())
    };
    let with = |options| Instance {
        options,
        usage: None,
        ..instance(&[])
    };
    let off = Options {
        http_endpoint: HttpEndpoint::Disabled,
        ..OPEN
    };
    let managed = Instance {
        operator: Some("eks.amazonaws.com".to_owned()),
        usage: None,
        ..instance(&[])
    };
    for (what, instance, expected) in [
        ("required already", with(CLOSED), None),
        ("its service is off", with(off), None),
        ("it starts", in_state("pending"), Some(Disposition::Enforce)),
        ("it stops", in_state("stopping"), Some(Disposition::Enforce)),
        ("it goes", in_state("shutting-down"), None),
        ("it is gone", in_state("terminated"), None),
        ("proven", instance(&proof()), Some(Disposition::Enforce)),
        (
            "stopped and proven",
            in_state("stopped"),
            Some(Disposition::Enforce),
        ),
        ("no figures", instance(&[]), Some(Disposition::Pending)),
        ("a service's own", managed, Some(Disposition::NotifyOnly)),
        (
            "opted out",
            tagged(&[(OPT_OUT_TAG, "imdsv1 until=2027-01-31 owner=web")]),
            Some(Disposition::Exempt),
        ),
        (
            "an opt-out that has ended",
            tagged(&[(OPT_OUT_TAG, "imdsv1 until=2026-01-31")]),
            Some(Disposition::Enforce),
        ),
        (
            "opted out of another control",
            tagged(&[(OPT_OUT_TAG, "missing-patches")]),
            Some(Disposition::Enforce),
        ),
        (
            "an opt-out that cannot be read",
            tagged(&[(OPT_OUT_TAG, "imdsv2")]),
            Some(Disposition::Held),
        ),
        (
            "another account's",
            Instance {
                owner: "444455556666".to_owned(),
                ..instance(&proof())
            },
            Some(Disposition::NotOwned),
        ),
    ] {
        let decision = decide(&instance);
        let done = decision.plan.as_ref().map(|plan| plan.disposition.clone());
        assert_eq!(done, expected, "{what}");
        let Some(plan) = &decision.plan else { continue };
        assert_eq!(
            decision.finding().unwrap().severity,
            Severity::High,
            "{what}"
        );
        assert_eq!(plan.changes, [Change::set(ITEM, OPEN, CLOSED)], "{what}");
    }
}

/// What still asks without a token fails once it is enforced.
#[test]
fn the_stacks_mode_never_enforces_it_and_the_policys_does() {
    let named =
        |mode: &str| format!(r#"{{"version":1,"controls":{{"imdsv1":{{"mode":"{mode}"}}}}}}"#);
    let disposition = |policy: &str, stack| {
        let decision = decide_in(&instance(&proof()), policy, stack);
        decision.plan.unwrap().disposition
    };
    let unnamed = r#"{"version":1}"#;
    for stack in [Mode::Notify, Mode::Enforce] {
        assert_eq!(disposition(unnamed, stack), Disposition::NotifyOnly);
        assert_eq!(disposition(&named("enforce"), stack), Disposition::Enforce);
        assert_eq!(
            disposition(&named("notify"), stack),
            Disposition::NotifyOnly
        );
    }
}

#[test]
fn figures_prove_it_by_twenty_hours_of_each_of_fourteen_days() {
    let without = |hours: &[i64]| {
        let mut points = proof();
        let full: Timestamp = "2026-11-30T18:00:00Z".parse().unwrap();
        points.retain(|(at, _)| {
            !hours
                .iter()
                .any(|ago| full - SignedDuration::from_hours(*ago) == *at)
        });
        points
    };
    for (what, points, missing) in [
        ("every hour", proof(), vec![]),
        (
            "four hours of a day are missing",
            without(&[1, 2, 3, 4]),
            vec![],
        ),
        (
            "five hours of a day are missing",
            without(&[1, 2, 3, 4, 5]),
            days(29, 29),
        ),
        (
            "five hours are missing, of two days",
            without(&[22, 23, 24, 25, 26]),
            vec![],
        ),
        ("none", vec![], days(16, 29)),
        ("launched ten days ago", quiet(240, 0), days(16, 19)),
        ("stopped since three days", quiet(24 * 14, 72), days(27, 29)),
        (
            "stopped from the sixth day to the eighth",
            [quiet(24 * 14, 24 * 9), quiet(24 * 6, 0)].concat(),
            days(21, 23),
        ),
        (
            "stopped every night",
            {
                let mut points = proof();
                points.retain(|(at, _)| (at.as_second() / 3600) % 24 >= 8);
                points
            },
            days(16, 29),
        ),
        (
            "only before the 14 days",
            quiet(24 * 40, 24 * 14),
            days(16, 29),
        ),
        // CloudWatch promises no order.
        (
            "the newest first",
            proof().into_iter().rev().collect(),
            vec![],
        ),
    ] {
        let usage = Usage::of(&points, now());
        assert_eq!((usage.calls, &usage.missing), (0, &missing), "{what}");
        let expected = (!missing.is_empty()).then_some(Reason::Unproven {
            days: DAYS,
            missing,
        });
        assert_eq!(because(&instance(&points)), expected, "{what}");
    }
    assert_eq!(DAYS, 14);
}

#[test]
fn one_request_without_a_token_is_use_whenever_it_was() {
    let full: Timestamp = "2026-11-30T18:00:00Z".parse().unwrap();
    for ago in [0, 1, 24, 24 * 14] {
        let at = full - SignedDuration::from_hours(ago);
        let mut points = proof();
        points.retain(|(hour, _)| *hour != at);
        points.push((at, 3.0));
        let missing = Vec::new();
        let used = Reason::StillUsed {
            calls: 3,
            days: DAYS,
            missing,
        };
        assert_eq!(because(&instance(&points)), Some(used), "{ago} hours ago");
    }
    let few = [quiet(48, 0), vec![(full, 41.5)]].concat();
    let missing = days(16, 27);
    let used = Reason::StillUsed {
        calls: 42,
        days: DAYS,
        missing,
    };
    assert_eq!(because(&instance(&few)), Some(used.clone()));
    assert_eq!(used.status(), Status::Pending);
    let said = used.to_string();
    for part in [
        "42 requests",
        "MetadataNoToken",
        "14 days",
        "2026-11-16 to 2026-11-27",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn days_without_figures_are_named_as_spans() {
    let reason = Reason::Unproven {
        days: DAYS,
        missing: vec![
            date(2026, 11, 16),
            date(2026, 11, 20),
            date(2026, 11, 21),
            date(2026, 11, 30),
            date(2026, 12, 1),
        ],
    };
    let said = reason.to_string();
    let spans = "2026-11-16, 2026-11-20 to 2026-11-21, 2026-11-30 to 2026-12-01";
    assert!(said.contains(spans), "{said}");
}

/// The figures change from sweep to sweep: that is no news, neither to the check nor
/// to the digest. That it is used where that was not known is.
#[test]
fn what_waits_for_proof_is_told_once_whatever_the_figures_are() {
    let known = |points: &[(Timestamp, f64)]| {
        let decision = decide(&instance(points));
        let key = backstop_core::entry::page_key(
            Status::Pending,
            &decision.exemptions.resource,
            &decision.finding().unwrap().exposures,
        );
        (sweep::asks(&decision, Some(&key)), sweep::reason(&decision))
    };
    assert_eq!(known(&quiet(24, 0)), known(&quiet(240, 0)));
    let mut used = proof();
    used.push((now(), 1.0));
    let (asks, reason) = known(&used);
    assert!(!asks, "both are pending");
    assert_ne!(
        Some(reason),
        Some(known(&[]).1),
        "and the digest says so once"
    );
    let decision = decide(&instance(&proof()));
    let told = backstop_core::entry::page_key(
        Status::Pending,
        &decision.exemptions.resource,
        &decision.finding().unwrap().exposures,
    );
    assert!(sweep::asks(&decision, Some(&told)), "proven now");
}

/// Nothing is decided, and the run fails, so that it is tried again.
#[test]
fn what_cannot_be_read_decides_nothing() {
    let unread = Instance {
        usage: None,
        unread: Some("GetMetricData: AccessDenied: no".to_owned()),
        ..instance(&[])
    };
    let decision = decide(&unread);
    let Verdict::NotApplicable(why) = &decision.verdict else {
        panic!("{decision:?}")
    };
    assert!(why.contains("AccessDenied"), "{why}");
    assert_eq!(decision.plan, None);
    assert_eq!(ImdsV1::unread(&unread), ["GetMetricData: AccessDenied: no"]);
}

#[test]
fn what_a_change_may_break_is_said_ahead_of_it() {
    let notes = |instance: &Instance| {
        let decision = decide(instance);
        ImdsV1::exposure_line(&decision.finding().unwrap().exposures[0])
    };
    let plain = notes(&instance(&proof()));
    assert_eq!(plain, "IMDSv1 is answered (HttpTokens optional)");
    let one_hop = Instance {
        hop_limit: Some(1),
        ..instance(&proof())
    };
    let enforced = Instance {
        enforced: true,
        ..instance(&proof())
    };
    let long_ago = Instance {
        launched_at: Some("2026-10-01T05:00:00Z".parse().unwrap()),
        ..instance(&proof())
    };
    let group = ("aws:autoscaling:groupName", "web");
    let template = [
        ("aws:ec2launchtemplate:id", "lt-0a3f5c7e91b2d4f60"),
        ("aws:ec2launchtemplate:version", "7"),
    ];
    for (what, instance, parts) in [
        ("one hop", one_hop, &["hop limit is 1", "containers"][..]),
        (
            "a member",
            tagged(&[group, template[0], template[1]]),
            &["Auto Scaling group web", "lt-0a3f5c7e91b2d4f60 (version 7)"],
        ),
        (
            "a member of a group with a launch configuration",
            tagged(&[group]),
            &["Auto Scaling group web", "launch configuration"],
        ),
        (
            "from a template",
            tagged(&template),
            &["launch template lt-0a3f5c7e91b2d4f60 (version 7)"],
        ),
        ("enforced", enforced, &["HttpTokensEnforced", "undone"]),
        ("long ago", long_ago, &["2026-10-01", "start-up"]),
    ] {
        let said = notes(&instance);
        for part in parts {
            assert!(said.contains(part), "{what}: {said}");
        }
    }
}

#[test]
fn an_undo_is_barred_where_it_would_switch_the_service_on_or_be_refused() {
    let closed = Instance {
        options: CLOSED,
        usage: None,
        ..instance(&[])
    };
    assert_eq!(ImdsV1::bars_undo(&closed), None);
    let off = Instance {
        options: Options {
            http_endpoint: HttpEndpoint::Disabled,
            ..CLOSED
        },
        ..closed.clone()
    };
    let way_out = ImdsV1::bars_undo(&off).unwrap();
    let command = format!(
        "aws ec2 modify-instance-metadata-options --region eu-central-1 --instance-id {ID} --http-endpoint enabled"
    );
    assert!(way_out.contains(&command), "{way_out}");
    let enforced = Instance {
        enforced: true,
        ..closed
    };
    let way_out = ImdsV1::bars_undo(&enforced).unwrap();
    assert!(
        way_out.contains("--http-tokens-enforced disabled"),
        "{way_out}"
    );
}

/// The item stays: what it came to is another finding than what it comes back to.
#[test]
fn the_fingerprint_goes_by_the_state() {
    let of = |options| ImdsV1::fingerprint(ID, ITEM, &options);
    let off = Options {
        http_endpoint: HttpEndpoint::Disabled,
        ..OPEN
    };
    assert_ne!(of(OPEN), of(CLOSED));
    assert_ne!(of(OPEN), of(off));
    // Stored: it never changes.
    assert_eq!(
        ImdsV1::fingerprint("i-0123456789abcdef0", ITEM, &OPEN),
        "bc6e11c34350fe4d189fe866037b3a5e"
    );
    assert_eq!(ControlId::from_name("imdsv1"), Some(ControlId::ImdsV1));
}
