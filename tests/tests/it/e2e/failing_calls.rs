//! Failing calls, as real processes meet them: each function that changes
//! something has one call fail in each of six ways, and the event is delivered
//! again. Whatever fails, the end is the same: nothing that was there before is
//! lost from the ledger, nothing stays untold, the world looks as after a clean
//! run.
//!
//! The processes are the real ones, killed with SIGKILL; retries are the local
//! Lambda's and Step Functions' own. Every call in every way is not here but in
//! `tests/tests/it/faults/`, in one process.

use backstop_core::record::Record;
use backstop_core::security_group::IngressRule;
use backstop_core::volumes::ENTRY_TAG;
use backstop_tests::native_events::{command_status, compliance};

use super::encryption::{self, ENCRYPT};
use super::patching::{self, PATCH};
use super::sweep::{SWEEP, settle};
use super::undo::UNDO;
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Throttled,
    Broken,
    Denied,
    TimedOut,
    AnswerLost,
    /// Right after the call took effect.
    Killed,
}

impl Way {
    /// The fault, in the words of the service that is called.
    fn fault(self, service: &str) -> Fault {
        let ec2 = service == "ec2";
        match self {
            Self::Throttled if ec2 => Fault::throttled(),
            Self::Throttled => Fault::error(400, "ThrottlingException", "Rate exceeded"),
            Self::Broken => Fault::error(500, "InternalError", "An internal error has occurred"),
            Self::Denied if ec2 => Fault::denied(),
            Self::Denied => Fault::error(
                400,
                "AccessDeniedException",
                "You are not authorized to perform this operation.",
            ),
            Self::TimedOut => Fault::Silence,
            Self::AnswerLost => Fault::AnswerLost,
            Self::Killed => Fault::Kill,
        }
    }
}

/// One row of a function: the way, the service and the call that fails, and how
/// many of the same pass before it.
type Row = (Way, &'static str, &'static str, usize);

// Between them: reads, the transaction that begins a run, changes, and what
// tells, each in several ways.

const REVOKE_INGRESS: &[Row] = &[
    (Way::Throttled, "ec2", "DescribeSecurityGroupRules", 0),
    (Way::Broken, "dynamodb", "TransactWriteItems", 0),
    (Way::Denied, "ec2", "RevokeSecurityGroupIngress", 0),
    (Way::TimedOut, "events", "PutEvents", 0),
    (Way::AnswerLost, "ec2", "ModifySecurityGroupRules", 0),
    (Way::Killed, "ec2", "RevokeSecurityGroupIngress", 0),
];

const OF_UNDO: &[Row] = &[
    (Way::Throttled, "ec2", "AuthorizeSecurityGroupIngress", 0),
    (Way::Broken, "events", "PutEvents", 0),
    (Way::Denied, "ec2", "DescribeSecurityGroups", 0),
    (Way::TimedOut, "dynamodb", "TransactWriteItems", 0),
    (Way::AnswerLost, "ec2", "AuthorizeSecurityGroupIngress", 0),
    (Way::Killed, "dynamodb", "TransactWriteItems", 0),
];

const OF_SWEEP: &[Row] = &[
    (Way::Throttled, "events", "PutEvents", 0),
    (Way::Broken, "ec2", "DescribeSecurityGroups", 0),
    (Way::Denied, "events", "PutEvents", 0),
    (Way::TimedOut, "dynamodb", "Query", 0),
    (Way::AnswerLost, "events", "PutEvents", 0),
    (Way::Killed, "events", "PutEvents", 0),
];

// A change of a volume whose answer is lost is tried again after two minutes by
// the clock, but for a snapshot, which is found by its tags: the others are left
// to the fault run.
const ENCRYPT_VOLUME: &[Row] = &[
    (Way::Throttled, "events", "PutEvents", 0),
    (Way::Broken, "ec2", "DescribeVolumes", 0),
    (Way::Denied, "states", "StartExecution", 0),
    (Way::TimedOut, "dynamodb", "TransactWriteItems", 0),
    (Way::AnswerLost, "ec2", "CreateSnapshot", 0),
    (Way::Killed, "dynamodb", "TransactWriteItems", 0),
];

const PATCH_INSTANCE: &[Row] = &[
    (Way::Throttled, "ec2", "CreateSnapshots", 0),
    (Way::Broken, "events", "PutEvents", 0),
    (Way::Denied, "ssm", "DescribeInstanceInformation", 0),
    (Way::TimedOut, "dynamodb", "TransactWriteItems", 0),
    (Way::AnswerLost, "ssm", "SendCommand", 0),
    (Way::Killed, "ssm", "SendCommand", 0),
];

/// A function at its work on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    Revoke,
    Sweep,
    Undo,
    Encrypt,
    Patch,
}

/// What a run has to do with.
struct Scene {
    /// The id of what the run is about.
    resource: String,
    group: Option<Group>,
    event: Value,
    /// The rules before the function runs: id, description, ticket.
    before: BTreeSet<Touched>,
}

type Touched = (String, Option<String>, Option<String>);

impl Story {
    fn function(self) -> &'static str {
        match self {
            Self::Revoke => REVOKE,
            Self::Sweep => SWEEP,
            Self::Undo => UNDO,
            Self::Encrypt => ENCRYPT,
            Self::Patch => PATCH,
        }
    }

    /// The key of the lock that is held while it works.
    fn lock(self, scene: &Scene) -> String {
        match self {
            Self::Revoke | Self::Sweep | Self::Undo => {
                format!("lock#open-ingress#{}", scene.resource)
            }
            Self::Encrypt => encryption::lock_of(&scene.resource),
            Self::Patch => patching::lock_of(&scene.resource),
        }
    }

    async fn set(self, aws: &LocalAws) -> Scene {
        match self {
            Self::Encrypt => {
                let resource = encryption::loose(aws, &[]).await;
                aws.proxy.copy_volumes(true);
                Scene {
                    event: cloudtrail::volume_available(&resource),
                    resource,
                    group: None,
                    before: BTreeSet::new(),
                }
            }
            Self::Patch => {
                let resource = patching::server(aws, &[]).await;
                patching::lacks(aws, &resource, 2);
                Scene {
                    event: compliance(&resource, "non_compliant"),
                    resource,
                    group: None,
                    before: BTreeSet::new(),
                }
            }
            _ => self.set_group(aws).await,
        }
    }

    async fn set_group(self, aws: &LocalAws) -> Scene {
        let group = Group::new(aws, &[("owner", "team-web")]).await;
        let event = group
            .open(
                aws,
                &[
                    SSH,
                    Open("tcp", 443, 443, "0.0.0.0/0", "https"),
                    Open("tcp", 22, 22, "10.0.0.0/8", "ssh from inside"),
                    Open("tcp", 0, 1024, "::/0", "low ports"),
                ],
                &[("ticket", "OPS-7")],
            )
            .await;
        let before = group.raw(aws).await.into_iter().map(|rule| {
            (
                rule.security_group_rule_id().unwrap().to_owned(),
                rule.description().map(str::to_owned),
                Some("OPS-7".to_owned()),
            )
        });
        let before = before.collect();
        let event = match self {
            // The event of the opening is lost.
            Self::Sweep => json!({}),
            Self::Undo => {
                assert_eq!(check(aws, &event), "remediated");
                let [(_, remediation)] = &records_of(aws, &group.id).await[..] else {
                    panic!("one record")
                };
                json!({"remediation": remediation.id(), "reason": "a failing call"})
            }
            _ => event,
        };
        Scene {
            resource: group.id.clone(),
            group: Some(group),
            event,
            before,
        }
    }

    /// Delivers the event: to the function, or into its queue.
    async fn deliver(self, aws: &LocalAws, scene: &Scene) {
        match self {
            Self::Patch => assert_eq!(aws.deliver(&scene.event).await.unwrap(), [PATCH]),
            _ => aws.start_function(self.function(), &scene.event).unwrap(),
        }
        aws.quiet().await;
    }

    /// What is not as it has to be in the end; nothing: all is well.
    async fn wrong(self, aws: &LocalAws, scene: &Scene) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(lock) = aws.ledger_item(&self.lock(scene), "lock").await.unwrap() {
            wrong.push(format!("the lock is held: {lock}"));
        }
        let records = records_of(aws, &scene.resource).await;
        if records.is_empty() {
            wrong.push("nothing is in the ledger".to_owned());
        }
        for (item, record) in &records {
            if item.get("told") != Some(&AttributeValue::Bool(true)) {
                wrong.push(format!("{} is untold", record.id()));
            } else if !is_sent(aws, record).await {
                wrong.push(format!("the message of {} was never sent", record.id()));
            }
        }
        match self {
            Self::Revoke | Self::Sweep | Self::Undo => {
                wrong.extend(self.wrong_with_group(aws, scene, &records).await);
            }
            Self::Encrypt => wrong.extend(wrong_with_volume(aws, scene, &records).await),
            Self::Patch => wrong.extend(wrong_with_instance(aws, scene, &records).await),
        }
        wrong
    }

    async fn wrong_with_group(
        self,
        aws: &LocalAws,
        scene: &Scene,
        records: &[(Item, Record)],
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let rules = scene.group.as_ref().unwrap().rules(aws).await;
        let expected = if self == Self::Undo { OPEN } else { CLOSED };
        if rules != expected {
            wrong.push(format!("the rules are {rules:?}"));
        }
        let is_undone = |(_, record): &(Item, Record)| record.outcome() == "undone";
        if self == Self::Undo && !records.iter().any(is_undone) {
            wrong.push("no undo is in the ledger".to_owned());
        }
        let mut kept = BTreeSet::new();
        for (_, record) in records {
            if let Record::Remediation(entry) = record {
                let entry = entry.typed::<IngressRule>().unwrap();
                kept.extend(entry.detail.before.iter().map(|(id, rule)| {
                    let ticket = rule.tags.get("ticket").cloned();
                    (id.clone(), rule.description.clone(), ticket)
                }));
            }
        }
        let mut touched = scene.before.clone();
        touched.retain(|(_, description, _)| {
            matches!(
                description.as_deref(),
                Some("ssh for the vendor" | "low ports")
            )
        });
        if kept != touched {
            wrong.push(format!("`before` in the ledger is {kept:?}"));
        }
        wrong
    }
}

/// One run that is done, one copy, one snapshot; the original is there.
async fn wrong_with_volume(
    aws: &LocalAws,
    scene: &Scene,
    records: &[(Item, Record)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let outcomes: Vec<_> = records.iter().map(|(_, record)| record.outcome()).collect();
    if outcomes != ["remediated"] {
        wrong.push(format!("the runs are {outcomes:?}"));
    }
    let copies = encryption::copies(aws, &scene.resource).await;
    if copies.len() != 1 || copies[0].encrypted() != Some(true) {
        wrong.push(format!("the copies are {copies:?}"));
    }
    let mut snapshots = encryption::snapshots(aws).await;
    snapshots.retain(|_, (of, _)| *of == scene.resource);
    if snapshots.len() != 1 {
        wrong.push(format!("the snapshots are {snapshots:?}"));
    }
    if encryption::volume(aws, &scene.resource).await.encrypted() != Some(false) {
        wrong.push("the original is not what it was".to_owned());
    }
    wrong
}

/// One run that is done, one command, one snapshot of each volume.
async fn wrong_with_instance(
    aws: &LocalAws,
    scene: &Scene,
    records: &[(Item, Record)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let outcomes: Vec<_> = records.iter().map(|(_, record)| record.outcome()).collect();
    if outcomes != ["remediated"] {
        wrong.push(format!("the runs are {outcomes:?}"));
    }
    let commands = aws.commands_to(&scene.resource);
    if commands.len() != 1 {
        wrong.push(format!("the commands are {commands:?}"));
    }
    let mut snapshots = patching::snapshots(aws).await;
    snapshots.retain(|_, tags| {
        let of = &tags[ENTRY_TAG];
        records.iter().any(|(_, record)| record.id() == of)
    });
    if snapshots.len() != patching::VOLUMES {
        wrong.push(format!("the snapshots are {snapshots:?}"));
    }
    wrong
}

/// Brings a patching from its command to its end. What it is before that is
/// asserted here: told, and the lock held by the run, which waits.
async fn installed(aws: &LocalAws, scene: &Scene, run: &str) {
    let id = &scene.resource;
    let entries = aws.entries_of(id).await.unwrap();
    let [entry] = &entries[..] else {
        panic!("{run}: {entries:#?}")
    };
    assert_eq!(entry["status"], "in-progress", "{run}: {entry:#}");
    let lock = aws.ledger_item(&patching::lock_of(id), "lock").await;
    let lock = lock.unwrap().unwrap_or_else(|| panic!("{run}: no lock"));
    let holder = format!("run {}", entry["document"]["id"].as_str().unwrap());
    assert_eq!(lock["holder"], holder.as_str(), "{run}");
    assert!(lock["lease_until"].as_i64().unwrap() > 0, "{run}: {lock}");
    patching::told(aws, id, &["in-progress"]).await;
    let command = patching::command(aws, id);
    patching::end(aws, &command, id, "Success", 0);
    let ended = command_status(&command, id, "Success");
    aws.deliver(&ended).await.unwrap();
    aws.quiet().await;
}

/// The group after a remediation.
const CLOSED: &[&str] = &[
    "tcp 22-22 10.0.0.0/8 (ssh from inside)",
    "tcp 443-443 0.0.0.0/0 (https)",
    "tcp 443-443 ::/0 (low ports)",
    "tcp 80-80 ::/0 (low ports)",
];

/// The group before a remediation, and after its undo.
const OPEN: &[&str] = &[
    "tcp 0-1024 ::/0 (low ports)",
    "tcp 22-22 0.0.0.0/0 (ssh for the vendor)",
    "tcp 22-22 10.0.0.0/8 (ssh from inside)",
    "tcp 443-443 0.0.0.0/0 (https)",
];

type Item = std::collections::HashMap<String, AttributeValue>;

async fn item(aws: &LocalAws, pk: &str, sk: &str) -> Option<Item> {
    let get = aws
        .dynamodb
        .get_item()
        .table_name(aws.output("LedgerTableName"))
        .key("pk", AttributeValue::S(pk.to_owned()))
        .key("sk", AttributeValue::S(sk.to_owned()));
    get.consistent_read(true).send().await.unwrap().item
}

/// The records about a resource, with their items.
async fn records_of(aws: &LocalAws, resource: &str) -> Vec<(Item, Record)> {
    let ledger = aws.ledger();
    let mut records = Vec::new();
    for entry in aws.entries_of(resource).await.unwrap() {
        let pk = entry["pk"].as_str().unwrap();
        let item = item(aws, pk, "entry").await.unwrap();
        let id = pk.strip_prefix("entry#").unwrap();
        records.push((item, ledger.read(id).await.unwrap().unwrap().record));
    }
    records
}

/// Whether the message about a record as it is now has gone out.
async fn is_sent(aws: &LocalAws, record: &Record) -> bool {
    let item = item(aws, &format!("sent#{}", record.message_key()), "sent").await;
    item.is_some_and(|item| item.get("sent") == Some(&AttributeValue::Bool(true)))
}

/// One run: one call fails in one way, and the event is delivered again.
async fn row(aws: &LocalAws, story: Story, (way, service, action, nth): Row) {
    let run = format!("{story:?}, {way:?}, {service}:{action} number {}", nth + 1);
    // Not to be counted as a storm, or against the budget.
    aws.forget_what_lasts().await.unwrap();
    aws.proxy.reset();
    let scene = story.set(aws).await;
    aws.quiet().await;
    // Cold, so that it makes every call: the policy is kept for a minute.
    aws.restart_function(story.function()).unwrap();
    let function = aws.resource(story.function());
    aws.proxy
        .fail_call_of(function, action, nth, way.fault(service));
    // All retries of Lambda's are over when it has got quiet.
    story.deliver(aws, &scene).await;
    assert_eq!(aws.proxy.faults_left(), 0, "{run}: it makes no such call");

    // A process that was killed leaves its lock behind. On AWS the retry of the
    // same invocation goes on; here it has another id, and the lock has to lapse.
    // The same applies where a command may have been sent but its answer was lost.
    let unheard = story == Story::Patch && way == Way::AnswerLost;
    if way == Way::Killed || unheard {
        let lock = story.lock(&scene);
        if aws.ledger_item(&lock, "lock").await.unwrap().is_some() {
            aws.lapse(&lock).await.unwrap();
        }
    }
    // What comes out of a queue comes again when it is no longer hidden.
    if way == Way::Killed || story == Story::Patch {
        story.deliver(aws, &scene).await;
    }
    if story == Story::Patch {
        installed(aws, &scene, &run).await;
    }
    let wrong = story.wrong(aws, &scene).await;
    assert!(wrong.is_empty(), "{run}: {wrong:#?}");
    if story == Story::Patch {
        story.deliver(aws, &scene).await;
    } else {
        let again = aws.call(story.function(), &scene.event);
        assert!(again.is_ok(), "{run}, delivered again: {again:?}");
        aws.quiet().await;
    }
    let wrong = story.wrong(aws, &scene).await;
    assert!(wrong.is_empty(), "{run}, delivered again: {wrong:#?}");
    let given_up = aws.failed_events().await.unwrap();
    assert_eq!(given_up, Vec::<Value>::new(), "{run}");
}

/// All rows of a story that is about a group.
fn of_groups(story: Story, rows: &'static [Row]) {
    scenario(async |aws| {
        // The first sweep in `enforce` makes the baseline: what is open then
        // would stay.
        settle(aws).await;
        for one in rows {
            row(aws, story, *one).await;
        }
    });
}

#[test]
fn revoke_ingress_comes_to_the_same_end_in_whichever_way_a_call_fails() {
    of_groups(Story::Revoke, REVOKE_INGRESS);
}

#[test]
fn the_sweep_comes_to_the_same_end_in_whichever_way_a_call_fails() {
    of_groups(Story::Sweep, OF_SWEEP);
}

#[test]
fn undo_comes_to_the_same_end_in_whichever_way_a_call_fails() {
    of_groups(Story::Undo, OF_UNDO);
}

#[test]
fn encrypt_volume_comes_to_the_same_end_in_whichever_way_a_call_fails() {
    scenario(async |aws| {
        aws.set_policy(&encryption::at_once()).await.unwrap();
        for one in ENCRYPT_VOLUME {
            row(aws, Story::Encrypt, *one).await;
        }
    });
}

#[test]
fn patch_instance_comes_to_the_same_end_in_whichever_way_a_call_fails() {
    scenario(async |aws| {
        for one in PATCH_INSTANCE {
            row(aws, Story::Patch, *one).await;
        }
    });
}
