//! `default-security-group`: what is decided about a group, by its name, its rules
//! and what uses it.

use backstop_core::control::{ByHand, Control as _};
use backstop_core::controls::default_security_group::{DefaultSecurityGroup, Group};
use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::decide::{self, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::finding::Verdict;
use backstop_core::guards::Guards;
use backstop_core::plan::{Change, Disposition, Ending, Outcome, Step};
use backstop_core::policy::{Governed as _, Policy};
use backstop_core::ports::Permission;
use backstop_core::reason::Reason;
use backstop_core::security_group::{
    Direction, IngressRule, Rule, SecurityGroup, Source, Tags, User, Users,
};
use backstop_core::undo;
use backstop_core::words::{ControlId, Mode, Severity};
use serde_json::json;

const OURS: &str = "111122223333";
const ID: &str = "sg-0a3f5c7e91b2d4f60";

fn rule(id: &str, direction: Direction, source: Source) -> Rule {
    Rule {
        direction,
        rule: IngressRule {
            id: id.to_owned(),
            permission: Permission::new("-1", -1, -1),
            source,
            description: None,
            tags: Tags::new(),
        },
    }
}

/// The rules that a group is born with.
fn born() -> [Rule; 2] {
    let world = Source::Ipv4("0.0.0.0/0".to_owned());
    [
        rule("sgr-1", Direction::Egress, world),
        rule(
            "sgr-2",
            Direction::Ingress,
            Source::SecurityGroup(ID.to_owned()),
        ),
    ]
}

fn group(rules: &[Rule]) -> Group {
    let rules = rules.iter();
    Group {
        id: ID.to_owned(),
        name: "default".to_owned(),
        arn: format!("arn:aws:ec2:eu-central-1:{OURS}:security-group/{ID}"),
        owner: OURS.to_owned(),
        tags: Tags::new(),
        vpc_opt_outs: Tags::new(),
        rules: rules.map(|of| (of.rule.id.clone(), of.clone())).collect(),
        users: Ok(Users::default()),
    }
}

fn used_by(users: impl IntoIterator<Item = User>) -> Users {
    let mut all = Users::default();
    users.into_iter().for_each(|user| all.add(user));
    all
}

fn interface(n: u32) -> User {
    User::Interface {
        id: format!("eni-{n:02}"),
        of: (n == 1).then(|| "i-1".to_owned()),
    }
}

fn decide(group: &Group, policy: &str) -> decide::Decision<Rule> {
    let policy = Policy::parse(policy).unwrap();
    let at = Circumstances {
        mode: Mode::Enforce,
        account: OURS,
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        guards: &Guards::default(),
    };
    let rules = DefaultSecurityGroup::rules(&policy);
    decide::decide::<DefaultSecurityGroup>(Some(group), &rules, &at)
}

const EVERY: &str = r#"{"version":1}"#;

#[test]
fn every_rule_of_a_default_group_is_found_and_goes_in_both_directions() {
    let decision = decide(&group(&born()), EVERY);
    let finding = decision.finding().unwrap();
    assert_eq!(finding.severity, Severity::High);
    let plan = decision.plan.as_ref().unwrap();
    assert_eq!(plan.disposition, Disposition::Enforce);
    let removed = born().map(|of| Change::remove(of.rule.id.clone(), of));
    assert_eq!(plan.changes, removed);
    for one in born() {
        let decision = decide(&group(&[one]), EVERY);
        assert_eq!(decision.plan.unwrap().changes.len(), 1);
    }
}

#[test]
fn an_empty_default_group_is_compliant_and_others_are_not_judged() {
    assert_eq!(decide(&group(&[]), EVERY).verdict, Verdict::Compliant);
    for name in ["Default", "default-web", "web", ""] {
        let other = Group {
            name: name.to_owned(),
            ..group(&born())
        };
        let verdict = decide(&other, EVERY).verdict;
        assert!(matches!(verdict, Verdict::NotApplicable(_)), "{name}");
    }
}

#[test]
fn a_group_in_use_is_told_with_who_uses_it_and_nothing_of_it_changes() {
    let users = [
        interface(1),
        User::Group {
            id: "sg-2".to_owned(),
        },
        User::Vpc {
            id: "vpc-2".to_owned(),
        },
    ];
    for user in &users {
        let users = used_by([user.clone()]);
        let in_use = Group {
            users: Ok(users.clone()),
            ..group(&born())
        };
        let plan = decide(&in_use, EVERY).plan.unwrap();
        assert_eq!(plan.disposition, Disposition::NotifyOnly);
        assert_eq!(plan.because, Some(Reason::InUse { users }));
        assert!(!plan.changes_something());
    }
    let all = Reason::InUse {
        users: used_by(users),
    };
    assert_eq!(
        all.to_string(),
        "it is in use, by the network interface eni-01 (i-1), a rule of sg-2, a group of the VPC vpc-2"
    );
    let unknown = Group {
        users: Err("DescribeNetworkInterfaces: UnauthorizedOperation: no".to_owned()),
        ..group(&born())
    };
    let plan = decide(&unknown, EVERY).plan.unwrap();
    assert_eq!(plan.disposition, Disposition::NotifyOnly);
    assert!(matches!(plan.because, Some(Reason::UseUnknown { .. })));
    assert!(plan.reasons[0].contains("UnauthorizedOperation"));
}

#[test]
fn the_first_users_are_kept_by_name_and_all_are_counted() {
    let users = used_by((1..=30).rev().map(interface));
    assert_eq!(users.count, 30);
    assert_eq!(users.named, Vec::from_iter((1..=10).map(interface)));
    assert_eq!(
        users.to_string(),
        "the network interface eni-01 (i-1), the network interface eni-02, the network interface eni-03 and 27 more"
    );
}

#[test]
fn opt_outs_owners_and_modes_are_heeded_as_for_any_control() {
    let tags = |value: &str| Tags::from([(OPT_OUT_TAG.to_owned(), value.to_owned())]);
    let tagged = |value: &str| Group {
        tags: tags(value),
        ..group(&born())
    };
    let of_vpc = |value: &str| Group {
        vpc_opt_outs: tags(value),
        ..group(&born())
    };
    let theirs = Group {
        owner: "444455556666".to_owned(),
        users: Ok(used_by([interface(1)])),
        ..group(&born())
    };
    let notify = r#"{"version":1,"controls":{"default-security-group":{"mode":"notify"}}}"#;
    let off = r#"{"version":1,"controls":{"open-ingress":{"mode":"off"}}}"#;
    for (what, group, policy, disposition) in [
        (
            "of the group",
            tagged("default-security-group owner=a"),
            EVERY,
            Disposition::Exempt,
        ),
        ("of all controls", tagged("all"), EVERY, Disposition::Exempt),
        (
            "of its VPC",
            of_vpc("default-security-group until=2027-01-31"),
            EVERY,
            Disposition::Exempt,
        ),
        (
            "what open-ingress leaves",
            tagged("open-ingress until=2027-01-31"),
            off,
            Disposition::Exempt,
        ),
        (
            "ended",
            tagged("default-security-group until=2026-11-23"),
            EVERY,
            Disposition::Enforce,
        ),
        (
            "of another control",
            tagged("unencrypted-volume"),
            EVERY,
            Disposition::Enforce,
        ),
        (
            "unreadable",
            tagged("default-security-groups"),
            EVERY,
            Disposition::Held,
        ),
        ("another account's", theirs, EVERY, Disposition::NotOwned),
        ("notify", group(&born()), notify, Disposition::NotifyOnly),
    ] {
        let plan = decide(&group, policy).plan.unwrap();
        assert_eq!(plan.disposition, disposition, "{what}");
    }
}

/// The neighbours of a rule that is opted out go; it stays, whichever of the two
/// controls it is opted out of.
#[test]
fn a_rule_that_is_opted_out_stays() {
    for control in ["default-security-group", "open-ingress", "all"] {
        let [mut out, inside] = born();
        let opt_out = (OPT_OUT_TAG.to_owned(), format!("{control} owner=a"));
        out.rule.tags.extend([opt_out]);
        let plan = decide(&group(&[out, inside]), EVERY).plan.unwrap();
        let goes: Vec<&str> = plan.changes.iter().map(|of| of.item.as_str()).collect();
        assert_eq!(
            (plan.disposition, &goes[..]),
            (Disposition::Enforce, &["sgr-2"][..])
        );
    }
}

/// Or the undo of one would be undone by the other.
#[test]
fn what_is_put_back_is_opted_out_of_both_controls() {
    let (today, until) = ("2026-11-24".parse().unwrap(), "2026-12-01".parse().unwrap());
    let tag = |control, own: &str| {
        let tags = Tags::from([(OPT_OUT_TAG.to_owned(), own.to_owned())]);
        undo::opt_out(control, today, until, Some("ops"), &tags)
    };
    let both = "default-security-group+open-ingress until=2026-12-01 owner=ops reason=undo";
    assert_eq!(tag(ControlId::DefaultSecurityGroup, ""), both);
    let own = "default-security-group until=2026-11-25";
    assert_eq!(tag(ControlId::DefaultSecurityGroup, own), both);
    assert_eq!(
        tag(ControlId::OpenIngress, ""),
        "open-ingress until=2026-12-01 owner=ops reason=undo"
    );
}

#[test]
fn rules_are_alike_by_direction_traffic_and_source() {
    let [out, _] = born();
    let inward = Rule {
        direction: Direction::Ingress,
        ..out.clone()
    };
    let mut again = out.clone();
    again.rule.id = "sgr-9".to_owned();
    again.rule.source = Source::Ipv4("10.0.0.0/0".to_owned());
    assert!(
        DefaultSecurityGroup::alike(&out, &again),
        "in another spelling"
    );
    assert!(!DefaultSecurityGroup::alike(&out, &inward));
    let print = |of: &Rule| DefaultSecurityGroup::fingerprint(ID, "", of);
    assert_eq!(print(&out), print(&again));
    assert_ne!(print(&out), print(&inward));
    again.rule.description = Some("anywhere".to_owned());
    assert!(!DefaultSecurityGroup::unchanged(&out, &again));
}

#[test]
fn people_read_direction_traffic_and_whom() {
    let [out, mut inside] = born();
    inside.rule.description = Some("each other".to_owned());
    let decision = decide(&group(&[out, inside]), EVERY);
    let exposures = &decision.finding().unwrap().exposures;
    assert_eq!(
        exposures
            .iter()
            .flat_map(DefaultSecurityGroup::details)
            .collect::<Vec<_>>(),
        [
            "sgr-1: egress of all traffic to 0.0.0.0/0",
            "sgr-2: ingress of all traffic from sg-0a3f5c7e91b2d4f60, described as: each other",
        ]
    );
    assert_eq!(
        DefaultSecurityGroup::headline(exposures, 3),
        "a default group with 2 rules"
    );
}

#[test]
fn by_hand_a_rule_is_authorised_in_its_direction_with_tags_and_opt_out() {
    let done = |ending| Outcome {
        round: 1,
        item: "sgr-1".to_owned(),
        step: Step::Revoke,
        permission: None,
        created: None,
        without: None,
        ending,
    };
    for (direction, operation) in [
        (Direction::Egress, "ec2 authorize-security-group-egress"),
        (Direction::Ingress, "ec2 authorize-security-group-ingress"),
    ] {
        let mut to = born()[0].clone();
        to.direction = direction;
        to.rule
            .tags
            .extend([("ticket".to_owned(), "OPS-7".to_owned())]);
        to.rule.description = Some("anywhere".to_owned());
        let commands = |outcomes: &[&Outcome]| {
            DefaultSecurityGroup::commands(&ByHand {
                resource: ID,
                region: "eu-central-1",
                item: "sgr-1",
                left: None,
                to: Some(to.clone()),
                opt_out: "default-security-group+open-ingress until=2026-12-24",
                outcomes,
            })
        };
        let [command] = &commands(&[&done(Ending::Done)])[..] else {
            panic!("one command")
        };
        for part in [operation, ID, "OPS-7", "anywhere", OPT_OUT_TAG, "0.0.0.0/0"] {
            assert!(command.contains(part), "{command}");
        }
        let skipped = Ending::Skipped {
            why: "no".to_owned(),
        };
        assert!(commands(&[&done(skipped)]).is_empty());
    }
}

/// open-ingress hands a default group on, and no other.
#[test]
fn open_ingress_is_followed_by_it_for_default_groups_alone() {
    let named = |name: &str| SecurityGroup {
        id: ID.to_owned(),
        name: name.to_owned(),
        owner: OURS.to_owned(),
        arn: String::new(),
        vpc: None,
        tags: Tags::new(),
        vpc_opt_outs: Tags::new(),
        rules: [].into(),
        prefix_lists: [].into(),
    };
    let default = Some(ControlId::DefaultSecurityGroup);
    assert_eq!(OpenIngress::next(&named("default")), default);
    assert_eq!(OpenIngress::next(&named("web")), None);
    assert_eq!(ControlId::DefaultSecurityGroup.lock_name(), "open-ingress");
}

/// What records hold for 400 days, and undo reads.
#[test]
fn rules_and_reasons_keep_their_names_in_records() {
    let [_, inside] = born();
    let stored = serde_json::to_value(&inside).unwrap();
    assert_eq!(
        stored,
        json!({
            "direction": "ingress",
            "rule": {
                "id": "sgr-2",
                "permission": serde_json::to_value(&inside.rule.permission).unwrap(),
                "source": { "kind": "security-group", "value": ID },
            },
        })
    );
    let users = used_by([interface(1), interface(2)]);
    assert_eq!(
        serde_json::to_value(Reason::InUse { users }).unwrap(),
        json!({ "because": "in-use", "users": { "count": 2, "named": [
            { "kind": "interface", "id": "eni-01", "of": "i-1" },
            { "kind": "interface", "id": "eni-02" },
        ] } })
    );
    assert_eq!(
        serde_json::to_value(Reason::UseUnknown {
            why: "no".to_owned()
        })
        .unwrap(),
        json!({ "because": "use-unknown", "why": "no" })
    );
}

#[test]
fn the_policy_takes_no_settings_and_names_an_unknown_one() {
    let document =
        r#"{"version":1,"controls":{"default-security-group":{"settings":{"wanted":"empty"}}}}"#;
    let error = Policy::parse(document).unwrap_err().to_string();
    let field = "`controls.default-security-group.settings.wanted`";
    assert!(error.contains(field), "{error}");
}
