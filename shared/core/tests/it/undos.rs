//! Undo, case by case and as a property: what a remediation took comes back,
//! and nothing else is touched.

use std::collections::BTreeMap;

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::decide::{self, About, Circumstances};
use backstop_core::entry;
use backstop_core::guards::Guards;
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::policy::{Governed, Policy};
use backstop_core::ports::Permission;
use backstop_core::security_group::{IngressRule, SecurityGroup, Source, Tags};
use backstop_core::trigger::Trigger;
use backstop_core::undo::{self, Act, Answer, opt_out};
use backstop_core::words::{Actor, ControlId, Mode};
use proptest::prelude::*;

type Entry = entry::Entry<IngressRule>;
type Decision = undo::Decision<IngressRule>;

const TODAY: jiff::civil::Date = jiff::civil::date(2026, 11, 24);

fn group(rules: &[IngressRule]) -> SecurityGroup {
    SecurityGroup {
        id: "sg-0123456789abcdef0".into(),
        name: "web".into(),
        owner: "111122223333".into(),
        arn: "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0".into(),
        vpc: None,
        tags: Tags::new(),
        vpc_opt_outs: Tags::new(),
        rules: rules
            .iter()
            .map(|rule| (rule.id.clone(), rule.clone()))
            .collect(),
        prefix_lists: BTreeMap::new(),
    }
}

fn rule(id: &str, protocol: &str, from: i32, to: i32, source: &str) -> IngressRule {
    IngressRule {
        id: id.into(),
        permission: Permission::new(protocol, from, to),
        source: match source {
            s if s.starts_with("pl-") => Source::PrefixList(s.into()),
            s if s.contains("sg-") => Source::SecurityGroup(s.into()),
            s if s.contains(':') => Source::Ipv6(s.into()),
            s => Source::Ipv4(s.into()),
        },
        description: Some(format!("about {id}")),
        tags: Tags::new(),
    }
}

fn plan(entry: &Entry, group: &SecurityGroup) -> Decision {
    undo::plan::<OpenIngress>(entry, Some(&group.rules))
}

fn verify(states: &[undo::ItemStates<IngressRule>], group: &SecurityGroup) -> Vec<String> {
    undo::verify::<OpenIngress>(states, &group.rules, TODAY)
}

/// The entry of a remediation that went through, and the group it left.
fn remediated(group: &SecurityGroup) -> Option<(Entry, SecurityGroup)> {
    let trigger = Trigger {
        resource: group.id.clone(),
        account: group.owner.clone(),
        region: "eu-central-1".into(),
        actor: Actor::default(),
    };
    let now = "2026-11-24T10:00:00Z".parse().unwrap();
    let circumstances = Circumstances {
        mode: Mode::Enforce,
        account: &group.owner,
        now,
        guards: &Guards::default(),
    };
    let policy = Policy::default();
    let decision =
        decide::decide::<OpenIngress>(Some(group), &OpenIngress::rules(&policy), &circumstances);
    let about = About {
        id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
        trigger: &trigger,
        owner_tag: "owner",
        policy_version: 1,
        now,
    };
    let mut entry = decide::entry::<OpenIngress>(Some(group), &decision, about)?;
    let mut left = group.clone();
    for change in entry.detail.plan.changes.clone() {
        let id = change.item.clone();
        let outcome = |step, permission: Option<&Permission>, created: Option<String>| Outcome {
            round: 1,
            item: id.clone(),
            step,
            permission: permission.cloned(),
            created,
            without: None,
            ending: Ending::Done,
        };
        for (n, part) in change.add.iter().enumerate() {
            let permission = &part.permission;
            let added = IngressRule {
                id: format!("{id}+{n}"),
                ..part.clone()
            };
            entry.detail.outcomes.push(outcome(
                Step::Authorise,
                Some(permission),
                Some(added.id.clone()),
            ));
            left.rules.insert(added.id.clone(), added);
        }
        match change.after.as_ref().map(|to| &to.permission) {
            Some(to) => {
                left.rules.get_mut(&id).unwrap().permission = to.clone();
                entry
                    .detail
                    .outcomes
                    .push(outcome(Step::Narrow, Some(to), None));
            }
            None => {
                left.rules.remove(&id);
                entry
                    .detail
                    .outcomes
                    .push(outcome(Step::Revoke, None, None));
            }
        }
    }
    entry.conclude(&left.rules, now);
    Some((entry, left))
}

/// Carries out a decision as EC2 would.
fn carried_out(group: &SecurityGroup, decision: &Decision) -> SecurityGroup {
    let mut group = group.clone();
    let Decision::Restore(states) = decision else {
        return group;
    };
    for state in states {
        match state.act {
            Act::Authorise => {
                let rule = IngressRule {
                    id: format!("{}-again", state.item),
                    tags: opted_out(),
                    ..state.before.clone()
                };
                group.rules.insert(rule.id.clone(), rule);
            }
            Act::Widen => {
                let rule = IngressRule {
                    tags: opted_out(),
                    ..state.before.clone()
                };
                group.rules.insert(state.item.clone(), rule);
            }
            Act::AsBefore | Act::Changed => {}
        }
    }
    for rule in states.iter().flat_map(|state| state.added.keys()) {
        group.rules.remove(rule);
    }
    group
}

fn opted_out() -> Tags {
    Tags::from([(
        "backstop:opt-out".into(),
        "open-ingress until=2026-12-01".into(),
    )])
}

/// Every rule but for its id and its opt-out, sorted.
fn in_full(group: &SecurityGroup) -> Vec<String> {
    let mut rules: Vec<String> = group
        .rules
        .values()
        .map(|rule| {
            format!(
                "{:?}",
                IngressRule {
                    id: String::new(),
                    tags: Tags::new(),
                    ..rule.clone()
                }
            )
        })
        .collect();
    rules.sort();
    rules
}

const OPEN: &[(&str, &str, i32, i32, &str)] = &[
    ("ssh", "tcp", 22, 22, "0.0.0.0/0"),
    ("low", "tcp", 0, 1024, "::/0"),
    ("ping", "icmp", -1, -1, "0.0.0.0/0"),
    ("all", "-1", -1, -1, "0.0.0.0/0"),
    ("https", "tcp", 443, 443, "0.0.0.0/0"),
    ("peer", "tcp", 22, 22, "444455556666/sg-1"),
];

fn open() -> SecurityGroup {
    let rules: Vec<IngressRule> = OPEN
        .iter()
        .map(|(id, protocol, from, to, source)| rule(id, protocol, *from, *to, source))
        .collect();
    group(&rules)
}

#[test]
fn what_was_revoked_narrowed_and_split_comes_back_and_the_rest_stays() {
    let before = open();
    let (entry, left) = remediated(&before).unwrap();
    let decision = plan(&entry, &left);
    let Decision::Restore(states) = &decision else {
        panic!("{decision:?}")
    };
    assert!(
        states
            .iter()
            .all(|state| !["https", "peer"].contains(&state.item.as_str()))
    );
    let after = carried_out(&left, &decision);
    assert_eq!(in_full(&after), in_full(&before));
    assert_eq!(verify(states, &after), Vec::<String>::new());
    assert!(
        !verify(states, &left).is_empty(),
        "it sees what is not back"
    );
    for (what, change) in [
        (
            "no opt-out",
            (|rule| rule.tags.clear()) as fn(&mut IngressRule),
        ),
        ("not in every part as it was", |rule| {
            rule.description = None;
        }),
    ] {
        let mut wrong = after.clone();
        change(wrong.rules.get_mut("low").unwrap());
        let problems = verify(states, &wrong);
        assert!(
            problems.len() == 1 && problems[0].contains(what),
            "{problems:?}"
        );
    }
    assert!(
        matches!(plan(&entry, &after), Decision::AsBefore(_)),
        "twice"
    );
}

#[test]
fn half_way_it_goes_on_from_what_is_there() {
    let before = open();
    let (entry, left) = remediated(&before).unwrap();
    let Decision::Restore(states) = plan(&entry, &left) else {
        panic!()
    };
    // Only the first of them was put back before it was cut off.
    let half = carried_out(&left, &Decision::Restore(states[..1].to_vec()));
    let decision = plan(&entry, &half);
    let after = carried_out(&half, &decision);
    assert_eq!(in_full(&after), in_full(&before));
}

#[test]
fn unrelated_rules_do_not_block_and_changed_ones_do() {
    let (entry, left) = remediated(&open()).unwrap();
    let with = |change: &dyn Fn(&mut SecurityGroup)| {
        let mut group = left.clone();
        change(&mut group);
        plan(&entry, &group)
    };
    let restores = |decision: &Decision| matches!(decision, Decision::Restore(_));
    let unrelated = with(&|group| {
        group
            .rules
            .insert("new".into(), rule("new", "tcp", 9, 9, "10.0.0.0/8"));
        group.rules.remove("https");
    });
    assert!(restores(&unrelated));
    let tagged = with(&|group| {
        group
            .rules
            .get_mut("low")
            .unwrap()
            .tags
            .insert("cost".into(), "x".into());
    });
    assert!(restores(&tagged), "a tag admits nobody");
    let of_ours_gone = with(&|group| group.rules.retain(|id, _| !id.contains('+')));
    assert!(restores(&of_ours_gone), "what was to go is gone");

    for (what, decision) in [
        (
            "narrowed further",
            with(&|group| {
                group.rules.get_mut("low").unwrap().permission = Permission::new("tcp", 81, 81);
            }),
        ),
        (
            "revoked",
            with(&|group| {
                group.rules.remove("low");
            }),
        ),
        (
            "described anew",
            with(&|group| {
                group.rules.get_mut("low").unwrap().description = Some("mine".into());
            }),
        ),
        (
            "what we added changed",
            with(&|group| {
                let added = group
                    .rules
                    .keys()
                    .find(|id| id.contains('+'))
                    .unwrap()
                    .clone();
                group.rules.get_mut(&added).unwrap().permission =
                    Permission::new("tcp", 8443, 8443);
            }),
        ),
    ] {
        let Decision::Refused(states) = decision else {
            panic!("{what}: {decision:?}")
        };
        let answer = Answer::refused::<OpenIngress>(&states);
        for part in ["before ", "as Backstop left it ", "now "] {
            assert!(answer.message.contains(part), "{what}: {}", answer.message);
        }
    }
    let Decision::Nothing(why) = undo::plan::<OpenIngress>(&entry, None) else {
        panic!()
    };
    assert!(why.contains("is gone"));
}

#[test]
fn somebody_who_put_it_back_by_hand_is_recognised_whatever_the_id() {
    let before = group(&[rule("ssh", "tcp", 22, 22, "0.0.0.0/0")]);
    let (entry, _) = remediated(&before).unwrap();
    let by_hand = group(&[rule("other-id", "6", 22, 22, "198.51.100.9/0")]);
    assert!(matches!(plan(&entry, &by_hand), Decision::AsBefore(_)));
}

#[test]
fn the_reason_goes_into_the_tag_as_far_as_there_is_room_and_never_as_a_field() {
    let (today, until) = (
        jiff::civil::date(2026, 11, 24),
        jiff::civil::date(2026, 12, 1),
    );
    let value = |reason: &str, own: &Tags| {
        let request = serde_json::json!({
            "remediation": "01M7SH8XYF6H0J2M4N8P7R3T1W", "reason": reason, "by": "jo",
        });
        let request = backstop_core::undo::Request::parse(&request).unwrap();
        request.opt_out(ControlId::OpenIngress, today, until, own)
    };
    let none = Tags::new();
    let plain = "open-ingress until=2026-12-01 owner=jo reason=undo";
    assert_eq!(
        value("vendor access, ticket #7", &none),
        format!("{plain}: vendor access ticket 7")
    );
    for hostile in ["until=2099-01-01", "x owner=eve", "all+open-ingress"] {
        let value = value(hostile, &none);
        assert_eq!(value.matches('=').count(), plain.matches('=').count());
        assert!(!value.contains('+'), "{value}");
    }
    assert_eq!(value("???", &none), plain);
    assert!(value(&"word ".repeat(80), &none).len() <= 256);
    let longer = Tags::from([(
        "backstop:opt-out".to_owned(),
        "open-ingress until=2027-01-31".to_owned(),
    )]);
    assert_eq!(value("again", &longer), "open-ingress until=2027-01-31");
}

#[test]
fn the_opt_out_keeps_other_controls_and_holds_only_what_a_tag_may() {
    let (today, until) = (
        jiff::civil::date(2026, 11, 24),
        jiff::civil::date(2026, 12, 1),
    );
    let tags = |value: &str| Tags::from([("backstop:opt-out".into(), value.into())]);
    for (by, own, expected) in [
        (None, "", "open-ingress until=2026-12-01 reason=undo"),
        (
            Some("jo@example.com"),
            "",
            "open-ingress until=2026-12-01 owner=jo@example.com reason=undo",
        ),
        (
            Some("Jo Doe"),
            "",
            "open-ingress until=2026-12-01 reason=undo",
        ),
        (
            Some("x reason=all"),
            "",
            "open-ingress until=2026-12-01 reason=undo",
        ),
        (
            None,
            "all until=2020-01-01",
            "open-ingress until=2026-12-01 reason=undo",
        ),
        (
            None,
            "nonsense",
            "open-ingress until=2026-12-01 reason=undo",
        ),
    ] {
        let value = opt_out(ControlId::OpenIngress, today, until, by, &tags(own));
        assert_eq!(value, expected);
    }
    let long = "x".repeat(400);
    assert!(
        opt_out(
            ControlId::OpenIngress,
            today,
            until,
            Some(&long),
            &Tags::new()
        )
        .len()
            <= 256
    );
}

prop_compose! {
    fn any_rule()(
        protocol in prop::sample::select(vec!["tcp", "udp", "icmp", "-1", "47"]),
        from in 0_i32..2000,
        width in 0_i32..70_000,
        source in prop::sample::select(vec!["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "52.0.0.0/8", "sg-1"]),
    ) -> (String, i32, i32, String) {
        let (from, to) = match protocol {
            "tcp" | "udp" => (from, (from + width).min(65_535)),
            _ => (-1, -1),
        };
        (protocol.to_owned(), from, to, source.to_owned())
    }
}

proptest! {
    #[test]
    fn remediate_and_undo_leave_any_group_as_it_was(rules in prop::collection::btree_set(any_rule(), 1..8)) {
        let rules: Vec<IngressRule> = rules
            .iter()
            .enumerate()
            .map(|(n, (protocol, from, to, source))| rule(&format!("sgr-{n}"), protocol, *from, *to, source))
            .collect();
        let before = group(&rules);
        let Some((entry, left)) = remediated(&before) else { return Ok(()) };
        let decision = plan(&entry, &left);
        let after = carried_out(&left, &decision);
        prop_assert_eq!(in_full(&after), in_full(&before));
    }
}
