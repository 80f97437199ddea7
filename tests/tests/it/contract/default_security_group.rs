//! `default-security-group`: a default group that nothing uses, beside a group with
//! rules of its own.

use backstop_core::reason::Reason;
use backstop_core::record::Record;
use backstop_core::security_group::User;
use backstop_core::words::ControlId;
use backstop_tests::cloudtrail;
use backstop_tests::iam::{Context, Request, Verdict, judge};
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_tests::stack::Stack;
use backstop_tests::template::role_of;
use backstop_wire::memory::ec2::{Ec2, Rule, Tags};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Fixture, World, event};
use crate::faults::{LAPSED, Way, run};

const GROUP: &str = "sg-0123456789abcdef0";
const NEIGHBOUR: &str = "sg-0fedcba9876543210";

pub(super) struct DefaultSecurityGroup;

fn rule(group: &str, source: (&'static str, &str), description: &str) -> Rule {
    Rule {
        group: group.to_owned(),
        protocol: "-1".to_owned(),
        from: -1,
        to: -1,
        source: (source.0, source.1.to_owned()),
        description: description.to_owned(),
        tags: Tags::from([("ticket".to_owned(), "OPS-7".to_owned())]),
    }
}

impl Fixture for DefaultSecurityGroup {
    fn control(&self) -> ControlId {
        ControlId::DefaultSecurityGroup
    }

    fn id(&self) -> &'static str {
        GROUP
    }

    fn place(&self, ec2: &mut Ec2) {
        ec2.groups.insert(GROUP.to_owned(), Tags::new());
        ec2.default_groups.insert(GROUP.to_owned());
        ec2.groups.insert(NEIGHBOUR.to_owned(), Tags::new());
        let inside = rule(NEIGHBOUR, ("cidrIpv4", "10.0.0.0/8"), "from inside");
        ec2.rules.insert("sgr-neighbour".to_owned(), inside);
        let out = rule(NEIGHBOUR, ("cidrIpv4", "0.0.0.0/0"), "anywhere");
        ec2.egress.insert("sgr-neighbours-way-out".to_owned(), out);
        let taken = ("eni-neighbour".to_owned(), NEIGHBOUR.to_owned());
        ec2.interfaces.extend([taken]);
    }

    fn items(&self) -> &[&'static str] {
        &["sgr-out", "sgr-self"]
    }

    fn expose(&self, item: &str, ec2: &mut Ec2) {
        let (rules, rule) = match item {
            "sgr-self" => (
                &mut ec2.rules,
                rule(GROUP, ("groupId", GROUP), "each other"),
            ),
            _ => (
                &mut ec2.egress,
                rule(GROUP, ("cidrIpv4", "0.0.0.0/0"), "anywhere"),
            ),
        };
        rules.insert(item.to_owned(), rule);
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        let rules = [("ingress", &ec2.rules), ("egress", &ec2.egress)];
        let rules = rules.into_iter().flat_map(|(way, rules)| {
            rules.values().map(move |of| {
                // Tags are put back where EC2 takes them.
                let (group, source) = (&of.group, &of.source.1);
                format!("{way} of {group}: {source} ({})", of.description)
            })
        });
        let mut rules: Vec<String> = rules.collect();
        rules.sort();
        rules
    }

    /// What uses a group is read once it is known to be a default group with rules.
    fn rounds_of_reads(&self) -> usize {
        2
    }

    fn told_reads(&self) -> &'static [(&'static str, usize)] {
        &[
            ("DescribeNetworkInterfaces", 0),
            ("DescribeSecurityGroupReferences", 0),
            // Before them, the group itself.
            ("DescribeSecurityGroups", 1),
            ("DescribeSecurityGroups", 2),
        ]
    }
}

/// Port 22 of a group open to the world.
fn ssh() -> Rule {
    Rule {
        protocol: "tcp".to_owned(),
        from: 22,
        to: 22,
        ..rule(GROUP, ("cidrIpv4", "0.0.0.0/0"), "ssh for the vendor")
    }
}

/// In an account in which every control acts, a default group with its rules, and
/// one that is open to the world.
async fn open_world() -> World {
    let world = World::new(&DefaultSecurityGroup, &json!({}));
    world.set_policy(&json!({ "version": 1 })).await;
    world.expose(2);
    let open = ("sgr-ssh".to_owned(), ssh());
    world.account.cloud().ec2.rules.extend([open]);
    world
}

/// The event that open-ingress looks at.
fn opened() -> Value {
    let request = json!({ "groupId": GROUP });
    cloudtrail::call("AuthorizeSecurityGroupIngress", request, json!({}))
}

/// A member of the group.
fn join(world: &World) {
    let member = ("eni-1".to_owned(), GROUP.to_owned());
    world.account.cloud().ec2.interfaces.extend([member]);
}

fn there(world: &World, rule: &str) -> bool {
    let ec2 = world.ec2();
    ec2.rules.contains_key(rule) || ec2.egress.contains_key(rule)
}

/// Each record's control, how it ended, and the items that it changed or found.
async fn told_of(world: &World) -> Vec<(ControlId, &'static str, Vec<String>)> {
    let records = world.records().await;
    let told = records.iter().filter_map(|record| match record {
        Record::Remediation(entry) => {
            let found = entry.detail.exposures.iter().map(|of| of.item.clone());
            Some((entry.head.control, record.outcome(), found.collect()))
        }
        _ => None,
    });
    told.collect()
}

fn of(
    control: ControlId,
    outcome: &'static str,
    items: &[&str],
) -> (ControlId, &'static str, Vec<String>) {
    let items = items.iter().map(|item| (*item).to_owned());
    (control, outcome, items.collect())
}

#[test]
fn what_is_open_to_the_world_is_open_ingresss_and_the_rest_goes_right_after() {
    run(async {
        let mut world = open_world().await;
        world.deliver(&opened()).await;
        world.is_remediated();
        assert_eq!(
            told_of(&world).await,
            [
                of(ControlId::OpenIngress, "remediated", &["sgr-ssh"]),
                of(
                    ControlId::DefaultSecurityGroup,
                    "remediated",
                    &["sgr-out", "sgr-self"]
                ),
            ]
        );
        assert_eq!(world.told(), 2, "each once");
        world.deliver(&opened()).await;
        assert_eq!(world.told(), 2);
    });
}

#[test]
fn a_group_in_use_loses_what_is_open_to_the_world_and_nothing_else_and_who_uses_it_is_told() {
    run(async {
        let mut world = open_world().await;
        join(&world);
        for _ in 0..2 {
            world.deliver(&opened()).await;
            assert!(!there(&world, "sgr-ssh"));
            assert!(there(&world, "sgr-self") && there(&world, "sgr-out"));
            let [_, (_, outcome, _)] = &told_of(&world).await[..] else {
                panic!("two records")
            };
            assert_eq!(*outcome, "notified");
            assert_eq!(world.told(), 2);
        }
        let because = world.entry().await.detail.plan.because;
        let Some(Reason::InUse { users }) = because else {
            panic!("{because:?}")
        };
        let (id, of) = ("eni-1".to_owned(), None);
        assert_eq!(users.named, [User::Interface { id, of }]);
        // It leaves: the sweep's or any other look empties the group.
        world.account.cloud().ec2.interfaces.remove("eni-1");
        world.notice().await;
        world.is_remediated();
    });
}

/// Whoever asks the holder of the lock for another look may want the other control's.
#[test]
fn what_comes_to_one_control_while_the_other_holds_the_lock_is_looked_at_by_both() {
    run(async {
        let mut world = World::new(&DefaultSecurityGroup, &json!({}));
        world.set_policy(&json!({ "version": 1 })).await;
        world.expose(2);
        let event = event(&DefaultSecurityGroup);
        world.fail("dynamodb", "TransactWriteItems", Way::Killed);
        world.invoke(&event, "first").await.unwrap_err();
        // Meanwhile it comes into use, and is opened to the world.
        join(&world);
        let open = ("sgr-ssh".to_owned(), ssh());
        world.account.cloud().ec2.rules.extend([open]);
        let busy = world.invoke(&opened(), "second").await.unwrap();
        assert_eq!(
            (busy.as_str(), world.changes()),
            ("another run will look again", 0)
        );
        // Lambda tries the first again.
        world.invoke(&event, "first").await.unwrap();
        assert!(!there(&world, "sgr-ssh"), "open-ingress has looked, too");
        assert!(there(&world, "sgr-self") && there(&world, "sgr-out"));
        assert!(!world.holds("lock#"));
    });
}

#[test]
fn a_run_that_was_lost_is_finished_by_its_own_control_before_the_other_begins() {
    run(async {
        for (lost, first, other) in [
            (
                event(&DefaultSecurityGroup),
                ControlId::DefaultSecurityGroup,
                opened(),
            ),
            (
                opened(),
                ControlId::OpenIngress,
                event(&DefaultSecurityGroup),
            ),
        ] {
            let mut world = open_world().await;
            world.fail("dynamodb", "TransactWriteItems", Way::Killed);
            world.invoke(&lost, "first").await.unwrap_err();
            let before = world.records().await;
            let busy = world.invoke(&other, "second").await;
            assert_eq!(busy.unwrap(), "another run will look again");
            sleep(LAPSED).await;
            world.deliver(&other).await;
            world.is_remediated();
            let records = world.records().await;
            assert_eq!(records[0].id(), before[0].id());
            assert_eq!(told_of(&world).await[0].0, first);
            let outcomes = world.outcomes().await;
            assert!(
                outcomes.iter().all(|of| *of == "remediated"),
                "{outcomes:?}"
            );
            assert_eq!(world.told(), outcomes.len(), "each once");
        }
    });
}

#[test]
fn neither_control_closes_again_what_was_put_back_for_the_other() {
    run(async {
        // Undone is what this control removed, the open rule too, for open-ingress was off.
        let mut world = open_world().await;
        let exposed = world.ec2();
        let off = json!({ "version": 1, "controls": { "open-ingress": { "mode": "off" } } });
        world.set_policy(&off).await;
        world.notice().await;
        world.is_remediated();
        world.set_policy(&json!({ "version": 1 })).await;
        assert_eq!(world.undo().await["verdict"], "undone");
        let shows = DefaultSecurityGroup.shows(&exposed);
        for event in [opened(), event(&DefaultSecurityGroup)] {
            world.deliver(&event).await;
            assert_eq!(DefaultSecurityGroup.shows(&world.ec2()), shows);
        }
        // Undone is what open-ingress closed.
        let mut world = open_world().await;
        for item in DefaultSecurityGroup.items() {
            let ec2 = &mut world.account.cloud().ec2;
            ec2.rules.remove(*item);
            ec2.egress.remove(*item);
        }
        let exposed = world.ec2();
        world.deliver(&opened()).await;
        world.is_remediated();
        assert_eq!(world.undo().await["verdict"], "undone");
        let shows = DefaultSecurityGroup.shows(&exposed);
        for event in [opened(), event(&DefaultSecurityGroup)] {
            world.deliver(&event).await;
            assert_eq!(DefaultSecurityGroup.shows(&world.ec2()), shows);
        }
    });
}

/// What must stay open cannot be emptied, but what may keep its rules may not be
/// open to the world.
#[test]
fn an_opt_out_of_open_ingress_holds_here_too_and_not_the_other_way_round() {
    run(async {
        let mut world = open_world().await;
        let tag = |world: &World, id: &str, value: &str| {
            let opt_out = ("backstop:opt-out".to_owned(), value.to_owned());
            let ec2 = &mut world.account.cloud().ec2;
            ec2.tags_of(id).unwrap().extend([opt_out]);
        };
        tag(&world, "sgr-ssh", "open-ingress until=2027-01-31 owner=a");
        world.deliver(&opened()).await;
        assert!(there(&world, "sgr-ssh"));
        assert!(!there(&world, "sgr-self") && !there(&world, "sgr-out"));

        let mut world = open_world().await;
        tag(&world, GROUP, "default-security-group owner=a");
        world.deliver(&opened()).await;
        assert!(!there(&world, "sgr-ssh"));
        assert!(there(&world, "sgr-self") && there(&world, "sgr-out"));
    });
}

/// A fight over this control's rules must not keep the world out of reach of
/// open-ingress.
#[test]
fn a_trip_of_this_control_for_a_group_leaves_open_ingress_armed() {
    run(async {
        let mut world = open_world().await;
        let trip = json!({ "at": "2026-11-24T10:00:00Z", "why": "it kept coming back" });
        let pk = format!("trip#default-security-group#{GROUP}");
        let item = json!({
            "pk": { "S": pk }, "sk": { "S": "state" }, "document": { "S": trip.to_string() },
        });
        world.account.cloud().table.items.insert(pk, item);
        world.deliver(&opened()).await;
        assert!(!there(&world, "sgr-ssh"));
        assert!(there(&world, "sgr-self") && there(&world, "sgr-out"));
        assert_eq!(world.outcomes().await, ["remediated", "tripped"]);
    });
}

/// Others read no more for it than before.
#[test]
fn a_group_that_is_no_default_group_is_read_once_for_open_ingress_alone() {
    run(async {
        let mut world = World::new(&DefaultSecurityGroup, &json!({}));
        world.set_policy(&json!({ "version": 1 })).await;
        let request = json!({ "groupId": NEIGHBOUR });
        let event = |name| cloudtrail::call(name, request.clone(), json!({}));
        world.deliver(&event("AuthorizeSecurityGroupIngress")).await;
        let mut of_ec2 = world.operations();
        of_ec2.retain(|name| name.starts_with("Describe"));
        of_ec2.sort();
        assert_eq!(
            of_ec2,
            [
                "DescribeSecurityGroupRules",
                "DescribeSecurityGroups",
                "DescribeTags"
            ]
        );
        let before = world.operations().len();
        world.deliver(&event("AuthorizeSecurityGroupEgress")).await;
        let mut of_ec2 = world.operations().split_off(before);
        of_ec2.retain(|name| name.starts_with("Describe"));
        of_ec2.sort();
        assert_eq!(
            of_ec2,
            ["DescribeSecurityGroupRules", "DescribeSecurityGroups"]
        );
        assert_eq!((world.records().await.len(), world.told()), (0, 0));
    });
}

#[test]
fn a_new_vpcs_default_group_is_looked_at() {
    run(async {
        let mut world = World::new(&DefaultSecurityGroup, &json!({}));
        world.expose(2);
        let made = json!({ "vpc": { "vpcId": "vpc-0123456789abcdef0" } });
        let event = cloudtrail::call("CreateVpc", json!({}), made);
        assert_eq!(world.invoke(&event, "first").await.unwrap(), "expanded");
        world.account.settle().await;
        world.is_remediated();
    });
}

/// In all, or in the ways that IAM can bar for this control alone: revocations of
/// ingress are open-ingress's as well.
#[test]
fn an_endless_opt_out_is_honoured_by_the_code_and_enforced_for_egress() {
    run(async {
        for (tag, denied) in [
            ("all", &["Egress", "Ingress"][..]),
            ("open-ingress owner=a", &["Egress", "Ingress"]),
            ("default-security-group owner=a", &["Egress"]),
            ("default-security-group until=2027-01-31", &[]),
        ] {
            let mut world = World::new(&DefaultSecurityGroup, &json!({}));
            world.expose(2);
            let opt_out = ("backstop:opt-out".to_owned(), tag.to_owned());
            let tags = Tags::from([opt_out]);
            world
                .account
                .cloud()
                .ec2
                .groups
                .insert(GROUP.to_owned(), tags);
            world.notice().await;
            assert_eq!(
                (world.outcomes().await, world.changes()),
                (vec!["exempt"], 0)
            );
            let statements = Stack::new("backstop").statements(&role_of(world.function()));
            let arn = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{GROUP}");
            let key = "aws:ResourceTag/backstop:opt-out".to_owned();
            let context = Context::from([(key, vec![tag.to_owned()])]);
            for way in ["Egress", "Ingress"] {
                let action = format!("ec2:RevokeSecurityGroup{way}");
                let verdict = judge(&statements, &Request::new(&action, &arn, &context));
                let is_denied = matches!(verdict, Verdict::Denied(_));
                assert_eq!(is_denied, denied.contains(&way), "{tag}: {action}");
            }
        }
    });
}
