//! End to end on the local AWS: the deployed template, the real binaries, real
//! calls over HTTP. Each scenario has an environment for itself while it runs
//! (`local_aws/pool.rs`); which one, and what ran on it before, it cannot know.
//!
//! No scenario waits for a time: it waits for what it is about, and where
//! nothing more may come, until nothing goes on any more (`LocalAws::quiet`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_ec2::types::{
    AddPrefixListEntry, IpPermission, IpRange, Ipv6Range, PrefixListId, ResourceType, Tag,
    TagSpecification,
};
use backstop_tests::local_aws::proxy::Fault;
use backstop_tests::local_aws::{LocalAws, PATIENCE, Published, scenario, wait_for};
use backstop_tests::{cloudtrail, template};
use serde_json::{Value, json};

mod account_settings;
mod cli;
mod default_groups;
mod encryption;
mod failing_calls;
mod guards;
mod images;
mod ledger;
mod metadata_service;
mod opt_outs;
mod patching;
mod snapshots;
mod storms;
mod subnets;
mod sweep;
mod undo;

const REVOKE: &str = "RevokeIngressFunction";
const NOTIFY: &str = "NotifyFunction";
const CHANGES: &[&str] = &[
    "RevokeSecurityGroupIngress",
    "ModifySecurityGroupRules",
    "AuthorizeSecurityGroupIngress",
];

/// A rule to open: protocol, ports, source, description.
#[derive(Clone, Copy)]
struct Open(&'static str, i32, i32, &'static str, &'static str);

const SSH: Open = Open("tcp", 22, 22, "0.0.0.0/0", "ssh for the vendor");

fn permission(Open(protocol, from, to, source, description): Open) -> IpPermission {
    let builder = IpPermission::builder()
        .ip_protocol(protocol)
        .from_port(from)
        .to_port(to);
    if source.starts_with("pl-") {
        let list = PrefixListId::builder()
            .prefix_list_id(source)
            .description(description);
        builder.prefix_list_ids(list.build()).build()
    } else if source.contains(':') {
        builder
            .ipv6_ranges(
                Ipv6Range::builder()
                    .cidr_ipv6(source)
                    .description(description)
                    .build(),
            )
            .build()
    } else {
        builder
            .ip_ranges(
                IpRange::builder()
                    .cidr_ip(source)
                    .description(description)
                    .build(),
            )
            .build()
    }
}

/// A security group under test.
struct Group {
    id: String,
    vpc: String,
}

impl Group {
    async fn new(aws: &LocalAws, tags: &[(&str, &str)]) -> Self {
        let vpc = aws
            .ec2
            .create_vpc()
            .cidr_block("10.0.0.0/16")
            .send()
            .await
            .unwrap();
        let vpc = vpc.vpc().unwrap().vpc_id().unwrap().to_owned();
        let mut create = aws
            .ec2
            .create_security_group()
            .group_name(format!("web-{}", aws.next()));
        create = create.description("web servers").vpc_id(&vpc);
        if !tags.is_empty() {
            create = create.tag_specifications(specification(ResourceType::SecurityGroup, tags));
        }
        let id = create.send().await.unwrap().group_id.unwrap();
        Self { id, vpc }
    }

    /// Revokes a rule, as a person would.
    async fn revoke(&self, aws: &LocalAws, rule: &str) {
        aws.ec2
            .revoke_security_group_ingress()
            .group_id(&self.id)
            .security_group_rule_ids(rule)
            .send()
            .await
            .unwrap();
    }

    /// Opens rules and gives the event that CloudTrail would send for it.
    async fn open(&self, aws: &LocalAws, rules: &[Open], tags: &[(&str, &str)]) -> Value {
        let asked: Vec<IpPermission> = rules.iter().copied().map(permission).collect();
        let mut request = aws
            .ec2
            .authorize_security_group_ingress()
            .group_id(&self.id);
        request = request.set_ip_permissions(Some(asked.clone()));
        if !tags.is_empty() {
            request =
                request.tag_specifications(specification(ResourceType::SecurityGroupRule, tags));
        }
        let answer = request.send().await.unwrap();
        cloudtrail::authorized(&self.id, &asked, answer.security_group_rules())
    }

    /// The ingress rules as `protocol from-to source (description)`, sorted.
    async fn rules(&self, aws: &LocalAws) -> Vec<String> {
        let mut rules: Vec<String> = self
            .raw(aws)
            .await
            .iter()
            .map(|rule| {
                let source = rule
                    .cidr_ipv4()
                    .or(rule.cidr_ipv6())
                    .or(rule.prefix_list_id())
                    .unwrap_or("group");
                let (from, to) = (rule.from_port().unwrap_or(-1), rule.to_port().unwrap_or(-1));
                format!(
                    "{} {from}-{to} {source} ({})",
                    rule.ip_protocol().unwrap(),
                    rule.description().unwrap_or("")
                )
            })
            .collect();
        rules.sort();
        rules
    }

    async fn raw(&self, aws: &LocalAws) -> Vec<aws_sdk_ec2::types::SecurityGroupRule> {
        let filter = aws_sdk_ec2::types::Filter::builder()
            .name("group-id")
            .values(&self.id)
            .build();
        let answer = aws
            .ec2
            .describe_security_group_rules()
            .filters(filter)
            .send()
            .await
            .unwrap();
        answer
            .security_group_rules
            .unwrap()
            .into_iter()
            .filter(|rule| rule.is_egress() != Some(true))
            .collect()
    }

    /// This group's entries in the ledger: the item with its parsed document.
    async fn entries(&self, aws: &LocalAws) -> Vec<Value> {
        aws.entries_of(&self.id).await.unwrap()
    }

    /// The key of its lock.
    fn lock(&self) -> String {
        format!("lock#open-ingress#{}", self.id)
    }

    async fn locks(&self, aws: &LocalAws) -> Vec<Value> {
        let lock = aws.ledger_item(&self.lock(), "lock").await.unwrap();
        lock.into_iter().collect()
    }

    /// Waits until this many messages about the group are out, and no more.
    async fn messages(&self, aws: &LocalAws, count: usize) -> Vec<Published> {
        wait_for(&format!("{count} messages about {}", self.id), async || {
            (self.published(aws).len() >= count).then_some(())
        })
        .await;
        aws.quiet().await;
        let messages = self.published(aws);
        let subjects: Vec<_> = messages
            .iter()
            .map(|message| message.subject.clone())
            .collect();
        assert_eq!(messages.len(), count, "{subjects:#?}");
        messages
    }

    fn published(&self, aws: &LocalAws) -> Vec<Published> {
        published_about(aws, &self.id)
    }
}

/// The messages whose text names a resource.
fn published_about(aws: &LocalAws, resource: &str) -> Vec<Published> {
    let mut messages = aws.published();
    messages.retain(|message| message.bodies["default"].contains(resource));
    messages
}

fn specification(kind: ResourceType, tags: &[(&str, &str)]) -> TagSpecification {
    let tags = tags
        .iter()
        .map(|(key, value)| Tag::builder().key(*key).value(*value).build());
    TagSpecification::builder()
        .resource_type(kind)
        .set_tags(Some(tags.collect()))
        .build()
}

async fn tag(aws: &LocalAws, resource: &str, value: &str) {
    let tag = Tag::builder().key("backstop:opt-out").value(value).build();
    aws.ec2
        .create_tags()
        .resources(resource)
        .tags(tag)
        .send()
        .await
        .unwrap();
}

/// A new, empty prefix list, by id.
async fn empty_list(aws: &LocalAws) -> &'static str {
    let list = aws
        .ec2
        .create_managed_prefix_list()
        .prefix_list_name(format!("list-{}", aws.next()))
        .address_family("IPv4")
        .max_entries(5)
        .send()
        .await
        .unwrap();
    let list = list.prefix_list().unwrap().prefix_list_id().unwrap();
    Box::leak(list.to_owned().into_boxed_str())
}

/// A call that is held, so that something happens while it is under way.
struct Held {
    reached: Arc<AtomicBool>,
    goes_on: Arc<AtomicBool>,
}

impl Held {
    /// Holds the next such call. A call that was forgotten goes on before its
    /// caller gives up on it.
    fn next(aws: &LocalAws, call: &str) -> Self {
        let (reached, goes_on) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (is_reached, may_go_on) = (Arc::clone(&reached), Arc::clone(&goes_on));
        let fault = Fault::Before(Box::new(move |_| {
            is_reached.store(true, Ordering::SeqCst);
            hold_until(|| may_go_on.load(Ordering::SeqCst));
        }));
        aws.proxy.fail_next(call, 1, fault);
        Self { reached, goes_on }
    }

    /// Waits until the call has come.
    async fn reached(&self) {
        wait_for("the call that is held", async || {
            self.reached.load(Ordering::SeqCst).then_some(())
        })
        .await;
    }

    fn go_on(&self) {
        self.goes_on.store(true, Ordering::SeqCst);
    }
}

/// Holds a call until something is so, but not for as long as it takes the
/// function to give up on it: 4 seconds, 10 of EC2.
fn hold_until(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() && started.elapsed() < Duration::from_millis(3500) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether so many messages are out.
fn is_told(aws: &LocalAws, messages: usize) -> impl Fn() -> bool + Send + use<> {
    let proxy = aws.proxy.clone();
    move || proxy.calls_of("Publish").len() >= messages
}

/// Has each of so many attempts of a run end only when notify has read what it
/// told: a message says what is so when it is made, and the next attempt, which
/// AWS makes a minute later, is under way at once here.
fn each_attempt_is_told(aws: &LocalAws, attempts: usize) {
    let proxy = aws.proxy.clone();
    let mut told = 0;
    let fault = Fault::Rewrite(Box::new(move |answer| {
        told += 1;
        hold_until(|| {
            // It asks for what was sent when it has read the records of a batch.
            let reads = proxy.calls_of("BatchGetItem").into_iter();
            let asked = reads.filter(|read| read.request.to_string().contains("\"sent#"));
            asked.count() >= told
        });
        answer
    }));
    aws.proxy.fail_next("PutEvents", attempts, fault);
}

/// Looks at the event and answers with the verdict.
fn check(aws: &LocalAws, event: &Value) -> String {
    match aws.call(REVOKE, event) {
        Ok(answer) => answer["verdict"].as_str().unwrap().to_owned(),
        Err(error) => panic!("{error}"),
    }
}

fn changes(aws: &LocalAws) -> usize {
    aws.proxy
        .calls()
        .iter()
        .filter(|call| CHANGES.contains(&call.action.as_str()))
        .count()
}

/// The event that says an entry waits to be told.
fn recorded_notice(detail: Value) -> Value {
    json!({
        "version": "0", "id": "f", "detail-type": "Remediation Recorded", "source": "backstop",
        "account": "123456789012", "time": "2026-11-24T10:00:00Z", "region": "us-east-1",
        "resources": [], "detail": detail,
    })
}

// ---- the main job

#[test]
fn a_port_opened_to_the_world_is_closed_and_everything_else_stays() {
    scenario(async |aws| {
        let group = Group::new(aws, &[("owner", "team-web")]).await;
        let inbox = aws
            .subscribe(Some(
                &json!({"team": ["team-web"], "outcome": ["remediated"]}),
            ))
            .await
            .unwrap();
        let others = aws
            .subscribe(Some(&json!({"team": ["team-db"]})))
            .await
            .unwrap();
        let event = group
            .open(
                aws,
                &[
                    SSH,
                    Open("tcp", 443, 443, "0.0.0.0/0", "https"),
                    Open("tcp", 22, 22, "10.0.0.0/8", "ssh from inside"),
                    Open("tcp", 5432, 5432, "52.95.0.0/16", "a partner"),
                    Open("tcp", 0, 1024, "::/0", "low ports"),
                ],
                &[("ticket", "OPS-1")],
            )
            .await;
        assert_eq!(aws.deliver(&event).await.unwrap(), [REVOKE]);
        let messages = group.messages(aws, 1).await;
        assert_eq!(
            group.rules(aws).await,
            [
                "tcp 22-22 10.0.0.0/8 (ssh from inside)",
                "tcp 443-443 0.0.0.0/0 (https)",
                "tcp 443-443 ::/0 (low ports)",
                "tcp 5432-5432 52.95.0.0/16 (a partner)",
                "tcp 80-80 ::/0 (low ports)",
            ]
        );
        for rule in group.raw(aws).await {
            assert_eq!(
                rule.tags()
                    .iter()
                    .map(|t| t.key().unwrap())
                    .collect::<Vec<_>>(),
                ["ticket"],
                "{rule:?}"
            );
        }

        let [entry] = &group.entries(aws).await[..] else {
            panic!("one entry")
        };
        assert_eq!(
            (&entry["status"], &entry["told"]),
            (&json!("remediated"), &json!(true))
        );
        assert_eq!(entry["untold"], Value::Null);
        assert!(entry["expires_at"].is_number() || entry["expires_at"].is_string());
        let before = entry["before"].as_object().unwrap();
        assert_eq!(
            before.len(),
            2,
            "each rule that was touched, in full, and no other"
        );
        let ssh = before
            .values()
            .find(|rule| rule["description"] == "ssh for the vendor")
            .unwrap();
        assert_eq!(ssh["tags"]["ticket"], "OPS-1");
        assert!(group.locks(aws).await.is_empty(), "the lock is released");

        // Told: to whom it concerns, in each protocol's form, by person.
        let email = &messages[0].bodies["email"];
        for part in [
            "0.0.0.0/0",
            "tcp 22",
            "jo@example.com",
            "198.51.100.7",
            "aws-cli",
            "backstop:opt-out",
        ] {
            assert!(email.contains(part), "{part} is missing in\n{email}");
        }
        let received = aws.receive(&inbox).await.unwrap();
        assert_eq!(received.len(), 1);
        let told: Value = serde_json::from_str(&received[0].body).unwrap();
        assert_eq!(told["outcome"], "remediated");
        for name in [
            "control", "severity", "outcome", "account", "region", "team",
        ] {
            assert!(!received[0].attributes[name].is_empty(), "{name}");
        }
        assert!(
            aws.receive(&others).await.unwrap().is_empty(),
            "the filter policy of another team"
        );
    });
}

#[test]
fn the_last_change_comes_after_one_round_of_reads_and_one_transaction() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.restart_function(REVOKE).unwrap();
        // No read is answered before all have come, so that it shows which were
        // made together.
        const READS: &[&str] = &[
            "GetParameter",
            "BatchGetItem",
            "DescribeSecurityGroups",
            "DescribeSecurityGroupRules",
            "DescribeTags",
        ];
        let come = Arc::new(AtomicUsize::new(0));
        for read in READS {
            let come = Arc::clone(&come);
            let fault = Fault::Before(Box::new(move |_| {
                come.fetch_add(1, Ordering::SeqCst);
                hold_until(|| come.load(Ordering::SeqCst) == READS.len());
            }));
            aws.proxy.fail_next(read, 1, fault);
        }
        assert_eq!(check(aws, &event), "remediated");
        let calls = aws.proxy.calls();
        let last = calls
            .iter()
            .rposition(|call| CHANGES.contains(&call.action.as_str()))
            .unwrap();
        let rounds = backstop_tests::local_aws::proxy::rounds(&calls[..=last]);
        assert_eq!(rounds.len(), 3, "{rounds:?}");
        assert_eq!(
            rounds[1..],
            [
                ["TransactWriteItems".to_owned()],
                ["RevokeSecurityGroupIngress".to_owned()]
            ]
        );
    });
}

#[test]
fn every_way_to_admit_the_world_is_closed() {
    scenario(async |aws| {
        for (rules, left) in [
            (&[Open("tcp", 22, 22, "::/0", "")][..], &[][..]),
            (
                &[
                    Open("tcp", 22, 22, "0.0.0.0/1", "a"),
                    Open("tcp", 22, 22, "128.0.0.0/1", "b"),
                ],
                &[],
            ),
            (&[Open("udp", 0, 65535, "0.0.0.0/0", "")], &[]),
            (
                &[
                    Open("-1", -1, -1, "10.0.0.0/8", "inside"),
                    Open("tcp", 3389, 3389, "0.0.0.0/0", ""),
                ],
                &["-1 -1--1 10.0.0.0/8 (inside)"],
            ),
            (
                &[Open("icmp", -1, -1, "0.0.0.0/0", "ping")],
                &["icmp 3-4 0.0.0.0/0 (ping)", "icmp 8--1 0.0.0.0/0 (ping)"],
            ),
            (
                &[Open("-1", -1, -1, "0.0.0.0/0", "all")],
                &[
                    "icmp 3-4 0.0.0.0/0 (all)",
                    "icmp 8--1 0.0.0.0/0 (all)",
                    "tcp 443-443 0.0.0.0/0 (all)",
                    "tcp 80-80 0.0.0.0/0 (all)",
                ],
            ),
        ] {
            let group = Group::new(aws, &[]).await;
            let event = group.open(aws, rules, &[]).await;
            assert_eq!(check(aws, &event), "remediated");
            assert_eq!(group.rules(aws).await, left);
            assert_eq!(
                check(aws, &event),
                "nothing to do",
                "planning again gives nothing"
            );
        }
    });
}

#[test]
fn a_narrowed_rule_keeps_its_id_tags_and_description() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group
            .open(
                aws,
                &[Open("tcp", 0, 100, "0.0.0.0/0", "web and more")],
                &[("ticket", "OPS-2")],
            )
            .await;
        let [before] = &group.raw(aws).await[..] else {
            panic!()
        };
        assert_eq!(check(aws, &event), "remediated");
        let [after] = &group.raw(aws).await[..] else {
            panic!()
        };
        assert_eq!(
            after.security_group_rule_id(),
            before.security_group_rule_id()
        );
        assert_eq!(after.description(), Some("web and more"));
        assert_eq!(after.tags(), before.tags());
        assert_eq!((after.from_port(), after.to_port()), (Some(80), Some(80)));
    });
}

#[test]
fn a_prefix_list_that_comes_to_admit_the_world_closes_every_group_that_names_it() {
    scenario(async |aws| {
        let entry = AddPrefixListEntry::builder().cidr("10.0.0.0/8").build();
        let list = aws
            .ec2
            .create_managed_prefix_list()
            .prefix_list_name(format!("list-{}", aws.next()));
        let list = list
            .address_family("IPv4")
            .max_entries(5)
            .entries(entry)
            .send()
            .await
            .unwrap();
        let list = list
            .prefix_list()
            .unwrap()
            .prefix_list_id()
            .unwrap()
            .to_owned();
        let source: &'static str = Box::leak(list.clone().into_boxed_str());
        let (one, two) = (Group::new(aws, &[]).await, Group::new(aws, &[]).await);
        for group in [&one, &two] {
            let event = group
                .open(aws, &[Open("tcp", 22, 22, source, "by list")], &[])
                .await;
            assert_eq!(
                check(aws, &event),
                "nothing to do",
                "the list is private so far"
            );
        }
        let add = AddPrefixListEntry::builder().cidr("0.0.0.0/0").build();
        aws.ec2
            .modify_managed_prefix_list()
            .prefix_list_id(&list)
            .current_version(1)
            .add_entries(add)
            .send()
            .await
            .unwrap();
        let event = cloudtrail::call(
            "ModifyManagedPrefixList",
            json!({"ModifyManagedPrefixListRequest": {"PrefixListId": list, "AddEntry": {"tag": 1, "Cidr": "0.0.0.0/0"}, "CurrentVersion": 1}}),
            json!({}),
        );
        assert_eq!(aws.deliver(&event).await.unwrap(), [REVOKE]);
        for group in [&one, &two] {
            let messages = group.messages(aws, 1).await;
            assert!(group.rules(aws).await.is_empty());
            assert!(
                messages[0].bodies["email"].contains("jo@example.com"),
                "who changed the list is told"
            );
        }
        let entries = aws
            .ec2
            .get_managed_prefix_list_entries()
            .prefix_list_id(&list)
            .send()
            .await
            .unwrap();
        assert_eq!(entries.entries().len(), 2, "a prefix list is never edited");
    });
}

// ---- what must not act

#[test]
fn an_event_that_no_rule_matches_invokes_nothing() {
    scenario(async |aws| {
        for name in [
            "DescribeInstances",
            "RevokeSecurityGroupEgress",
            "RevokeSecurityGroupIngress",
        ] {
            let event = cloudtrail::call(
                name,
                json!({"groupId": "sg-0123456789abcdef0"}),
                Value::Null,
            );
            assert!(aws.deliver(&event).await.unwrap().is_empty(), "{name}");
        }
        let mut failed = cloudtrail::call(
            "AuthorizeSecurityGroupIngress",
            json!({"groupId": "sg-0123456789abcdef0"}),
            Value::Null,
        );
        failed["detail"]["errorCode"] = json!("Client.DryRunOperation");
        assert!(
            aws.deliver(&failed).await.unwrap().is_empty(),
            "failed and dry-run calls"
        );
        assert_eq!(check(aws, &failed), "ignored", "and the code checks again");
        assert_eq!(aws.proxy.calls().len(), 0);
    });
}

#[test]
fn a_group_that_is_gone_or_compliant_is_left_alone() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        assert_eq!(
            check(aws, &cloudtrail::check_requested("open-ingress", &group.id)),
            "nothing to do"
        );
        assert_eq!(
            check(
                aws,
                &cloudtrail::check_requested("open-ingress", "sg-0123456789abcdef0")
            ),
            "nothing to do"
        );
        assert_eq!(changes(aws), 0);
        assert!(group.entries(aws).await.is_empty());
    });
}

#[test]
fn a_group_of_another_account_is_told_and_not_changed() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        let other = |answer: String| {
            answer.replace(
                "<ownerId>123456789012</ownerId>",
                "<ownerId>444455556666</ownerId>",
            )
        };
        aws.proxy
            .fail_next("DescribeSecurityGroups", 1, Fault::Rewrite(Box::new(other)));
        assert_eq!(check(aws, &event), "not-owned");
        assert_eq!(changes(aws), 0);
        let messages = group.messages(aws, 1).await;
        assert!(messages[0].bodies["email"].contains("444455556666"));
    });
}

#[test]
fn opt_outs_on_group_rule_and_vpc_are_honoured_and_told_once() {
    scenario(async |aws| {
        for place in ["group", "rule", "vpc"] {
            let group = Group::new(aws, &[]).await;
            let event = group.open(aws, &[SSH], &[]).await;
            let rule = group.raw(aws).await[0]
                .security_group_rule_id()
                .unwrap()
                .to_owned();
            let resource = match place {
                "group" => &group.id,
                "rule" => &rule,
                _ => &group.vpc,
            };
            tag(
                aws,
                resource,
                "open-ingress until=2099-01-31 owner=team-web reason=vendor audit",
            )
            .await;
            assert_eq!(check(aws, &event), "exempt", "{place}");
            assert_eq!(check(aws, &event), "known", "{place}: told once");
            assert_eq!(group.rules(aws).await.len(), 1);
            let messages = group.messages(aws, 1).await;
            for part in ["2099-01-31", "team-web", "vendor audit"] {
                assert!(
                    messages[0].bodies["email"].contains(part),
                    "{place}: {part}"
                );
            }
        }
        assert_eq!(changes(aws), 0);
    });
}

#[test]
fn an_opted_out_rule_does_not_protect_its_neighbours() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        group
            .open(aws, &[SSH], &[("backstop:opt-out", "all")])
            .await;
        let event = group
            .open(
                aws,
                &[
                    Open("tcp", 3389, 3389, "0.0.0.0/0", "rdp"),
                    Open("tcp", 22, 22, "52.95.110.1/32", "one host"),
                ],
                &[],
            )
            .await;
        assert_eq!(check(aws, &event), "remediated");
        assert_eq!(
            group.rules(aws).await,
            [
                "tcp 22-22 0.0.0.0/0 (ssh for the vendor)",
                "tcp 22-22 52.95.110.1/32 (one host)"
            ]
        );
    });
}

#[test]
fn a_malformed_opt_out_holds_and_is_told_and_an_ended_one_is_over() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        tag(aws, &group.id, "open-ingres until=2099-01-31").await;
        assert_eq!(check(aws, &event), "held");
        assert_eq!(changes(aws), 0);
        let messages = group.messages(aws, 1).await;
        assert!(
            messages[0].bodies["email"].contains("open-ingres"),
            "{:?}",
            messages[0]
        );
        assert!(
            messages[0].bodies["email"].contains("until=YYYY-MM-DD"),
            "the right spelling"
        );
        tag(aws, &group.id, "open-ingress until=2020-01-31").await;
        assert_eq!(check(aws, &event), "remediated");
        let messages = group.messages(aws, 2).await;
        assert!(
            messages[1].bodies["email"].contains("2020-01-31"),
            "that it ended is said"
        );
    });
}

#[test]
fn in_mode_notify_nothing_is_changed_and_it_is_told_once_until_it_is_opened_anew() {
    scenario(async |aws| {
        aws.set_policy(&json!({"version": 1, "controls": {"open-ingress": {"mode": "notify"}}}))
            .await
            .unwrap();
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "notified");
        assert_eq!(check(aws, &event), "known");
        assert_eq!(group.rules(aws).await.len(), 1);
        let messages = group.messages(aws, 1).await;
        assert!(
            messages[0].bodies["email"]
                .to_lowercase()
                .contains("nothing was changed"),
            "{}",
            messages[0].bodies["email"]
        );
        // A person closes it and opens it again: that is news.
        let rule = group.raw(aws).await[0]
            .security_group_rule_id()
            .unwrap()
            .to_owned();
        group.revoke(aws, &rule).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "notified");
        group.messages(aws, 2).await;
        assert_eq!(changes(aws), 0);
    });
}

#[test]
fn a_wrong_policy_changes_nothing_and_ends_in_the_queue() {
    scenario(async |aws| {
        aws.set_policy(&json!({"version": 1, "controls": {"open-ingress": {"mode": "enfroce"}}}))
            .await
            .unwrap();
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        let error = aws.call(REVOKE, &event).unwrap_err();
        let message = error["errorMessage"].as_str().unwrap();
        assert!(
            message.contains("`controls.open-ingress.mode`") && message.contains("`enforce`"),
            "{message}"
        );
        aws.deliver(&event).await.unwrap();
        let failed = wait_for("the failed event", async || {
            let failed = aws.failed_events().await.unwrap();
            (!failed.is_empty()).then_some(failed)
        })
        .await;
        assert_eq!(
            failed[0]["requestPayload"]["detail"]["eventID"],
            event["detail"]["eventID"]
        );
        assert_eq!(group.rules(aws).await.len(), 1);
        assert_eq!(changes(aws), 0);
    });
}

// ---- again, at once, meanwhile

#[test]
fn redelivered_and_simultaneous_events_come_to_the_same_end_with_one_message() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let one = group.open(aws, &[SSH], &[]).await;
        let two = group
            .open(aws, &[Open("tcp", 0, 200, "0.0.0.0/0", "low")], &[])
            .await;
        // The first change waits until all have read, so that the runs overlap.
        let proxy = aws.proxy.clone();
        let fault = Fault::Before(Box::new(move |_| {
            hold_until(|| proxy.calls_of("BatchGetItem").len() >= 5);
        }));
        aws.proxy.fail_next("RevokeSecurityGroupIngress", 1, fault);
        for event in [&one, &two, &one, &two, &one] {
            assert_eq!(aws.deliver(event).await.unwrap(), [REVOKE]);
        }
        group.messages(aws, 1).await;
        assert_eq!(group.rules(aws).await, ["tcp 80-80 0.0.0.0/0 (low)"]);
        assert_eq!(check(aws, &one), "nothing to do");
        assert!(group.locks(aws).await.is_empty());
        assert!(aws.failed_events().await.unwrap().is_empty());
        assert_eq!(group.entries(aws).await.len(), 1);
    });
}

#[test]
fn what_is_opened_while_a_run_is_at_work_is_closed_by_it() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        let id = group.id.clone();
        aws.proxy.fail_next(
            "RevokeSecurityGroupIngress",
            1,
            Fault::Before(Box::new(move |upstreams| {
                upstreams.ec2(&[
                    ("Action", "AuthorizeSecurityGroupIngress"),
                    ("GroupId", &id),
                    ("IpPermissions.1.IpProtocol", "tcp"),
                    ("IpPermissions.1.FromPort", "3389"),
                    ("IpPermissions.1.ToPort", "3389"),
                    ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
                ]);
            })),
        );
        assert_eq!(check(aws, &event), "remediated");
        assert!(group.rules(aws).await.is_empty());
        let [entry] = &group.entries(aws).await[..] else {
            panic!("one entry")
        };
        assert_eq!(
            entry["before"].as_object().unwrap().len(),
            2,
            "the late rule's `before` as well"
        );
        group.messages(aws, 1).await;
    });
}

#[test]
fn a_rule_that_vanishes_between_reading_and_revoking_is_no_failure() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        let rule = group.raw(aws).await[0]
            .security_group_rule_id()
            .unwrap()
            .to_owned();
        let id = group.id.clone();
        aws.proxy.fail_next(
            "RevokeSecurityGroupIngress",
            1,
            Fault::Before(Box::new(move |upstreams| {
                upstreams.ec2(&[
                    ("Action", "RevokeSecurityGroupIngress"),
                    ("GroupId", &id),
                    ("SecurityGroupRuleId.1", &rule),
                ]);
            })),
        );
        assert_eq!(check(aws, &event), "remediated");
        group.messages(aws, 1).await;
    });
}

// ---- failures

#[test]
fn a_denied_change_is_told_once_retried_told_again_when_fixed() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group
            .open(
                aws,
                &[SSH, Open("tcp", 3389, 3389, "0.0.0.0/0", "rdp")],
                &[],
            )
            .await;
        // The first rule is denied in two attempts; the other one goes at once.
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 1, Fault::denied());
        aws.proxy
            .fail_after("RevokeSecurityGroupIngress", 1, 1, Fault::denied());
        each_attempt_is_told(aws, 3);
        assert_eq!(aws.deliver(&event).await.unwrap(), [REVOKE]);
        let messages = group.messages(aws, 2).await;
        assert!(
            messages[0].subject.as_deref().unwrap().contains("FAILED"),
            "{:?}",
            messages[0].subject
        );
        assert!(messages[0].bodies["email"].contains("UnauthorizedOperation"));
        assert!(group.rules(aws).await.is_empty());
        let [entry] = &group.entries(aws).await[..] else {
            panic!("one entry over all attempts")
        };
        assert_eq!(entry["status"], "remediated");
        assert_eq!(entry["document"]["attempts"], 3);
        assert_eq!(
            entry["before"].as_object().unwrap().len(),
            2,
            "as before the first attempt"
        );
        assert!(group.locks(aws).await.is_empty());
        assert!(aws.failed_events().await.unwrap().is_empty());
    });
}

#[test]
fn a_change_that_stays_denied_ends_in_the_queue_and_the_next_event_begins_anew() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 3, Fault::denied());
        each_attempt_is_told(aws, 3);
        aws.deliver(&event).await.unwrap();
        let failed = wait_for("the failed event", async || {
            let failed = aws.failed_events().await.unwrap();
            (!failed.is_empty()).then_some(failed)
        })
        .await;
        let said = failed[0]["responsePayload"]["errorMessage"]
            .as_str()
            .unwrap();
        assert!(
            said.contains("RevokeSecurityGroupIngress: UnauthorizedOperation"),
            "{said}"
        );
        assert_eq!(
            group.messages(aws, 1).await.len(),
            1,
            "three attempts, one message"
        );
        let another = cloudtrail::check_requested("open-ingress", &group.id);
        assert_eq!(check(aws, &another), "remediated");
        group.messages(aws, 2).await;
        let statuses: Vec<Value> = group
            .entries(aws)
            .await
            .iter()
            .map(|entry| entry["status"].clone())
            .collect();
        assert_eq!(statuses, ["failed", "remediated"]);
    });
}

#[test]
fn throttling_is_waited_out_and_a_lost_answer_counts_as_done() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.proxy
            .fail_next("DescribeSecurityGroupRules", 2, Fault::throttled());
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 2, Fault::throttled());
        assert_eq!(check(aws, &event), "remediated");
        group.messages(aws, 1).await;

        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 1, Fault::AnswerLost);
        assert_eq!(check(aws, &event), "remediated");
        group.messages(aws, 1).await;
        assert!(group.rules(aws).await.is_empty());
    });
}

#[test]
fn without_a_ledger_nothing_is_changed() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.proxy.fail_next(
            "TransactWriteItems",
            1,
            Fault::error(
                400,
                "com.amazonaws.dynamodb.v20120810#AccessDeniedException",
                "no",
            ),
        );
        let error = aws.call(REVOKE, &event).unwrap_err();
        assert!(
            error["errorMessage"]
                .as_str()
                .unwrap()
                .contains("AccessDeniedException"),
            "{error}"
        );
        assert_eq!(changes(aws), 0);
        assert_eq!(group.rules(aws).await.len(), 1);
    });
}

#[test]
fn a_run_that_died_after_its_change_is_finished_and_told_by_the_next_attempt() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        // The change takes effect; recording what came of it fails, once.
        aws.proxy.fail_next(
            "PutItem",
            1,
            Fault::error(
                400,
                "com.amazonaws.dynamodb.v20120810#AccessDeniedException",
                "no",
            ),
        );
        aws.deliver(&event).await.unwrap();
        group.messages(aws, 1).await;
        let [entry] = &group.entries(aws).await[..] else {
            panic!("one entry")
        };
        assert_eq!(
            (&entry["status"], &entry["told"]),
            (&json!("remediated"), &json!(true))
        );
        assert_eq!(entry["before"].as_object().unwrap().len(), 1);
        assert!(group.rules(aws).await.is_empty());
        assert!(group.locks(aws).await.is_empty());
    });
}

#[test]
fn a_message_that_sns_refuses_is_sent_by_the_retry() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.proxy.fail_next(
            "Publish",
            1,
            Fault::error(403, "AuthorizationError", "not allowed"),
        );
        aws.deliver(&event).await.unwrap();
        wait_for("the refused message", async || {
            (!aws.proxy.calls_of("Publish").is_empty()).then_some(())
        })
        .await;
        aws.quiet().await;
        assert!(group.published(aws).is_empty());
        // The local bus makes one attempt; AWS's would deliver again.
        let entries = group.entries(aws).await;
        let id = entries[0]["pk"]
            .as_str()
            .unwrap()
            .trim_start_matches("entry#")
            .to_owned();
        for _ in 0..2 {
            assert_eq!(
                aws.deliver(&recorded_notice(json!({ "entry": id })))
                    .await
                    .unwrap(),
                [NOTIFY]
            );
        }
        group.messages(aws, 1).await;
    });
}

#[test]
fn where_the_group_has_no_room_the_lost_part_is_named() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group
            .open(aws, &[Open("tcp", 0, 1024, "0.0.0.0/0", "low")], &[])
            .await;
        aws.proxy.fail_next(
            "AuthorizeSecurityGroupIngress",
            1,
            Fault::error(
                400,
                "RulesPerSecurityGroupLimitExceeded",
                "The maximum number of rules per security group has been reached.",
            ),
        );
        assert_eq!(check(aws, &event), "remediated");
        assert_eq!(group.rules(aws).await, ["tcp 80-80 0.0.0.0/0 (low)"]);
        let messages = group.messages(aws, 1).await;
        let email = &messages[0].bodies["email"];
        assert!(
            email.contains("tcp 443") && email.to_lowercase().contains("lost"),
            "{email}"
        );
    });
}

#[test]
fn a_forged_or_broken_notice_says_nothing() {
    scenario(async |aws| {
        for (detail, part) in [
            (
                json!({"entry": "01JDF0000000000000000000ZZ", "text": "all is well"}),
                "no entry",
            ),
            (json!({"entry": "not an id"}), "detail.entry"),
            (json!({}), "detail.entry"),
        ] {
            let error = aws.call(NOTIFY, &recorded_notice(detail)).unwrap_err();
            assert!(
                error["errorMessage"].as_str().unwrap().contains(part),
                "{error}"
            );
        }
        assert!(aws.published().is_empty());
    });
}

// ---- logs, metrics, rights

#[test]
fn logs_hold_ids_and_verdicts_and_never_the_event_and_metrics_are_embedded() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group
            .open(
                aws,
                &[Open("tcp", 22, 22, "0.0.0.0/0", "a secret description")],
                &[],
            )
            .await;
        assert_eq!(check(aws, &event), "remediated");
        let logs = aws.logs(REVOKE).unwrap();
        let text = serde_json::to_string(&logs).unwrap();
        assert!(
            !text.contains("a secret description") && !text.contains("jo@example.com"),
            "{text}"
        );
        let decided = logs
            .iter()
            .find(|line| line["fields"]["message"] == "decided")
            .unwrap();
        assert_eq!(decided["fields"]["resource"], group.id.as_str());
        assert_eq!(decided["fields"]["verdict"], "violates");
        let metrics = logs.iter().find(|line| !line["_aws"].is_null()).unwrap();
        assert_eq!(
            (&metrics["Control"], &metrics["Remediations"]),
            (&json!("open-ingress"), &json!(1))
        );
        assert!(
            metrics["TimeToClosed"].as_f64().is_some_and(|ms| ms >= 0.0),
            "{metrics}"
        );
    });
}

/// The IAM actions that a function's SDK interceptor has recorded so far.
fn recorded(aws: &LocalAws, function: &str) -> BTreeSet<String> {
    let lines = aws.all_logs(function).unwrap();
    lines
        .iter()
        .filter_map(|line| line["fields"]["actions"].as_str())
        .flat_map(|actions| actions.split(' ').map(str::to_owned))
        .collect()
}

/// Rights that no SDK call of ours uses: Lambda itself writes the logs, takes
/// from queues and sends failed events. (The sweep reads the failed events itself.)
const NOT_OURS: &[&str] = &[
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:DeleteMessage",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
];

#[test]
fn granted_actions_are_the_recorded_ones_and_no_others() {
    scenario(async |aws| {
        // A run that needs every right; the other scenarios may only add.
        let list = empty_list(aws).await;
        let group = Group::new(aws, &[]).await;
        let event = group
            .open(
                aws,
                &[
                    SSH,
                    Open("tcp", 0, 1024, "0.0.0.0/0", "low"),
                    Open("tcp", 9, 9, list, "list"),
                ],
                &[("ticket", "OPS-3")],
            )
            .await;
        assert_eq!(check(aws, &event), "remediated");
        let changed = cloudtrail::call(
            "ModifyManagedPrefixList",
            json!({"ModifyManagedPrefixListRequest": {"PrefixListId": list}}),
            json!({}),
        );
        assert_eq!(check(aws, &changed), "expanded");
        // A retry reads its own entry.
        let retried = Group::new(aws, &[]).await;
        let event = retried.open(aws, &[SSH], &[]).await;
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 1, Fault::denied());
        each_attempt_is_told(aws, 2);
        aws.deliver(&event).await.unwrap();
        retried.messages(aws, 2).await;
        opt_outs::exercise(aws).await;
        undo::exercise(aws).await;
        sweep::exercise(aws).await;
        encryption::exercise(aws).await;
        snapshots::exercise(aws).await;
        images::exercise(aws).await;
        default_groups::exercise(aws).await;
        subnets::exercise(aws).await;
        account_settings::exercise(aws).await;
        patching::exercise(aws).await;
        metadata_service::exercise(aws).await;

        let mut differences = BTreeMap::new();
        for function in [
            REVOKE,
            encryption::ENCRYPT,
            encryption::RESTORE,
            snapshots::UNSHARE,
            subnets::REMOVE,
            metadata_service::REQUIRE,
            patching::PATCH,
            NOTIFY,
            opt_outs::WATCH,
            undo::UNDO,
            sweep::SWEEP,
        ] {
            let mut granted = template::granted_actions(function);
            granted.retain(|action| {
                // Lambda asks it of the queues that these take from.
                let of_queue = [NOTIFY, patching::PATCH, encryption::ENCRYPT].contains(&function)
                    && action == "sqs:GetQueueAttributes";
                let of_ec2 = function == encryption::ENCRYPT
                    && encryption::OF_EC2.contains(&action.as_str());
                let of_lambda = NOT_OURS.contains(&action.as_str())
                    && (function != sweep::SWEEP || action != "sqs:ReceiveMessage");
                // No snapshot here is as old as one that is deleted.
                let of_age = function == sweep::SWEEP && action == "ec2:DeleteSnapshot";
                !of_queue && !of_ec2 && !of_age && !of_lambda
            });
            let recorded = recorded(aws, function);
            let unused: Vec<_> = granted.difference(&recorded).cloned().collect();
            let missing: Vec<_> = recorded.difference(&granted).cloned().collect();
            if !unused.is_empty() || !missing.is_empty() {
                differences.insert(
                    function,
                    json!({"granted, never called": unused, "called, not granted": missing}),
                );
            }
        }
        assert!(differences.is_empty(), "{differences:#?}");
    });
}
