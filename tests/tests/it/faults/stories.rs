//! The stories of the fault run, and how each must end.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use backstop_core::record::Record;
use backstop_core::security_group::IngressRule;
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_tests::{cloudtrail, native_events};
use backstop_wire::memory::ec2::{Instance, Rule, Snapshot, Tags, Volume};
use backstop_wire::memory::systems_manager::PatchState;
use serde_json::{Value, json};

use super::account::{Account, Way};
use super::{End, Story};

/// The policy of every story. The budget of open-ingress is raised so that it never
/// limits a run.
pub(super) fn policy() -> Value {
    json!({"version": 1, "controls": {
        "open-ingress": {"budget": {"changes_per_hour": 100_000}},
        "unencrypted-volume": {"mode": "enforce", "settings": {"attached": "swap", "windows": [{"from": "00:00", "to": "00:00"}]}},
        "vulnerable-package": {"mode": "enforce"},
        "missing-patches": {"mode": "enforce"},
        "unmanaged-instance": {"mode": "notify"},
    }})
}

/// `revoke-ingress` closes what was opened.
pub(crate) struct Revoke;
/// The event of the opening is lost; the sweep finds it.
pub(crate) struct Sweep;
/// A person undoes a remediation.
pub(crate) struct Undo;

/// A group whose rules are open, and the rules by id.
pub(crate) struct Group {
    id: String,
    before: BTreeMap<String, Rule>,
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

impl Group {
    /// A group whose rules have just been opened, and the event of it.
    fn open(account: &Account) -> (Value, Self) {
        let mut cloud = account.cloud();
        let id = cloud.ec2.new_id("sg");
        let tags = BTreeMap::from([("owner".to_owned(), "team-web".to_owned())]);
        cloud.ec2.groups.insert(id.clone(), tags);
        for (from, to, kind, source, description) in [
            (22, 22, "cidrIpv4", "0.0.0.0/0", "ssh for the vendor"),
            (443, 443, "cidrIpv4", "0.0.0.0/0", "https"),
            (22, 22, "cidrIpv4", "10.0.0.0/8", "ssh from inside"),
            (0, 1024, "cidrIpv6", "::/0", "low ports"),
        ] {
            cloud.ec2.open(Rule {
                group: id.clone(),
                protocol: "tcp".to_owned(),
                from,
                to,
                source: (kind, source.to_owned()),
                description: description.to_owned(),
                tags: BTreeMap::from([("ticket".to_owned(), "OPS-7".to_owned())]),
            });
        }
        let before = cloud.ec2.rules.clone();
        let name = "AuthorizeSecurityGroupIngress";
        let event = cloudtrail::call(name, json!({ "groupId": id }), json!({ "_return": true }));
        (event, Self { id, before })
    }

    fn rules(&self, account: &Account) -> Vec<String> {
        let mut rules: Vec<String> = account
            .cloud()
            .ec2
            .rules
            .values()
            .map(|rule| {
                let Rule {
                    protocol,
                    from,
                    to,
                    source: (_, source),
                    description,
                    ..
                } = rule;
                format!("{protocol} {from}-{to} {source} ({description})")
            })
            .collect();
        rules.sort();
        rules
    }

    /// What is not as it has to be about a group.
    async fn wrong(&self, account: &Account, expected: &[&str], end: &End) -> Vec<String> {
        let mut wrong = Vec::new();
        let rules = self.rules(account);
        if rules != expected {
            wrong.push(format!("the rules are {rules:?}"));
        }
        let arn = cloudtrail::security_group_arn(&self.id);
        let records = records(account, &arn).await;
        wrong.extend(told(account, &records, end));
        // What the ledger holds of each rule before it was touched.
        let mut kept = BTreeSet::new();
        for record in &records {
            if let Record::Remediation(entry) = record {
                let entry = entry.typed::<IngressRule>().unwrap();
                kept.extend(entry.detail.before.iter().map(|(id, rule)| {
                    let ticket = rule.tags.get("ticket").cloned();
                    (id.clone(), rule.description.clone(), ticket)
                }));
            }
        }
        let touched = |rule: &(&String, &Rule)| {
            ["ssh for the vendor", "low ports"].contains(&rule.1.description.as_str())
        };
        let touched: BTreeSet<_> = self
            .before
            .iter()
            .filter(touched)
            .map(|(id, rule)| {
                let description = Some(rule.description.clone());
                (id.clone(), description, Some("OPS-7".to_owned()))
            })
            .collect();
        if kept != touched {
            wrong.push(format!("`before` in the ledger is {kept:?}"));
        }
        wrong
    }
}

/// The records about a resource.
async fn records(account: &Account, arn: &str) -> Vec<Record> {
    let ledger = account.ledger();
    let mut records = Vec::new();
    for id in ledger.records_of(arn).await.unwrap() {
        records.push(ledger.read(&id).await.unwrap().unwrap().record);
    }
    records
}

/// What is not as it has to be in every end: untold, unsent, locked.
fn told(account: &Account, records: &[Record], end: &End) -> Vec<String> {
    let cloud = account.cloud();
    let mut wrong = Vec::new();
    if records.is_empty() {
        wrong.push("nothing is in the ledger".to_owned());
    }
    for (pk, item) in &cloud.table.items {
        // Where nothing of a run is left but its lock, that keeps nobody out once it
        // has lapsed, and goes with the next run.
        let lease = item["lease_until"]["N"].as_str().unwrap_or_default();
        let lapsed = lease
            .parse::<i64>()
            .is_ok_and(|lease| lease < account.now().as_millisecond());
        let left = end.is_of(Way::KilledForGood) && lapsed;
        if pk.starts_with("lock#") && !left {
            wrong.push(format!("{pk} is held"));
        }
        // What a sweep leaves untold of itself, the next one tells.
        let of_resource = records.iter().any(|record| pk.ends_with(record.id()));
        if item.get("untold").is_some() && (of_resource || end.again) {
            wrong.push(format!("{pk} is untold"));
        }
    }
    for record in records {
        let item = cloud.table.items.get(&format!("entry#{}", record.id()));
        if item.is_none_or(|item| item["told"] != json!({ "BOOL": true })) {
            wrong.push(format!("{} is not told", record.id()));
        }
        let key = format!("sent#{}", record.message_key());
        let sent = cloud.table.items.get(&key);
        if sent.is_none_or(|item| item["sent"] != json!({ "BOOL": true })) {
            wrong.push(format!("the message of {} was never sent", record.id()));
        }
    }
    let is_sent = |item: &Value| item["sent"] == json!({ "BOOL": true });
    let items = cloud.table.items.iter();
    let sent = items.filter(|(pk, item)| pk.starts_with("sent#") && is_sent(item));
    let (sent, published) = (sent.count(), cloud.published.len());
    if published < sent {
        wrong.push(format!(
            "{published} messages are out, and {sent} marked as sent"
        ));
    }
    wrong
}

impl Story for Revoke {
    const FUNCTION: &'static str = "RevokeIngressFunction";
    type Before = Group;

    async fn set(account: &mut Account) -> (Value, Group) {
        Group::open(account)
    }

    async fn wrong(account: &Account, group: &Group, end: &End) -> Vec<String> {
        group.wrong(account, CLOSED, end).await
    }
}

impl Story for Sweep {
    const FUNCTION: &'static str = "SweepFunction";
    type Before = Group;

    /// As its schedule does.
    const AGAIN_AFTER: Duration = Duration::from_secs(3600);

    async fn set(account: &mut Account) -> (Value, Group) {
        // The first sweep in `enforce` makes the baseline: what is open then
        // would stay.
        account.start(Self::FUNCTION, &json!({}));
        account.settle().await;
        let (_, group) = Group::open(account);
        (json!({}), group)
    }

    async fn wrong(account: &Account, group: &Group, end: &End) -> Vec<String> {
        group.wrong(account, CLOSED, end).await
    }
}

impl Story for Undo {
    const FUNCTION: &'static str = "UndoFunction";
    type Before = Group;

    async fn set(account: &mut Account) -> (Value, Group) {
        let (event, group) = Group::open(account);
        account.start(Revoke::FUNCTION, &event);
        account.settle().await;
        let arn = cloudtrail::security_group_arn(&group.id);
        let [remediation] = &records(account, &arn).await[..] else {
            panic!("one record")
        };
        let ask = json!({"remediation": remediation.id(), "reason": "a fault run"});
        (ask, group)
    }

    async fn wrong(account: &Account, group: &Group, end: &End) -> Vec<String> {
        let mut wrong = group.wrong(account, OPEN, end).await;
        let arn = cloudtrail::security_group_arn(&group.id);
        let undone = |record: &Record| record.outcome() == "undone";
        if !records(account, &arn).await.iter().any(undone) {
            wrong.push("no undo is in the ledger".to_owned());
        }
        wrong
    }
}

/// `unshare-storage` takes the grant to everyone from a snapshot.
pub(crate) struct Unshare;
/// A person undoes that.
pub(crate) struct UndoUnshare;

/// Whom a snapshot that was made public is shared with, beside everyone.
const PARTNER: &str = "444455556666";

/// Makes a snapshot public that a partner may use, and the event of it.
fn public_snapshot(account: &Account) -> (Value, String) {
    let started = account.now() - Duration::from_secs(86_400);
    let mut cloud = account.cloud();
    let id = cloud.ec2.new_id("snap");
    let snapshot = Snapshot {
        volume: "vol-0123456789abcdef0".to_owned(),
        started,
        shared_with: ["all".to_owned(), PARTNER.to_owned()].into(),
        tags: Tags::new(),
    };
    cloud.ec2.snapshots.insert(id.clone(), snapshot);
    let request = json!({ "snapshotId": id, "attributeType": "CREATE_VOLUME_PERMISSION" });
    let event = cloudtrail::call(
        "ModifySnapshotAttribute",
        request,
        json!({ "_return": true }),
    );
    (event, id)
}

/// The records about a snapshot, whose ARN names no account.
async fn records_of_snapshot(account: &Account, id: &str) -> Vec<Record> {
    records(account, &format!("arn:aws:ec2:{REGION}::snapshot/{id}")).await
}

/// What is not as it has to be about a snapshot that these may use.
async fn wrong_about(account: &Account, id: &str, expected: &[&str], end: &End) -> Vec<String> {
    let records = records_of_snapshot(account, id).await;
    let mut wrong = told(account, &records, end);
    let shared_with = account.cloud().ec2.snapshots[id].shared_with.clone();
    if !shared_with.iter().eq(expected) {
        wrong.push(format!("it is shared with {shared_with:?}"));
    }
    // What was there before is in the ledger, and nobody else's grant.
    let mut kept = records.iter().filter_map(|record| match record {
        Record::Remediation(entry) => Some(entry.detail.before.clone()),
        _ => None,
    });
    let everyone = BTreeMap::from([("all".to_owned(), json!("everyone"))]);
    if !kept.any(|before| before == everyone) {
        wrong.push("no record holds the grant as it was before".to_owned());
    }
    wrong
}

impl Story for Unshare {
    const FUNCTION: &'static str = "UnshareStorageFunction";
    type Before = String;

    async fn set(account: &mut Account) -> (Value, String) {
        public_snapshot(account)
    }

    async fn wrong(account: &Account, id: &String, end: &End) -> Vec<String> {
        wrong_about(account, id, &[PARTNER], end).await
    }
}

impl Story for UndoUnshare {
    const FUNCTION: &'static str = "UndoFunction";
    type Before = String;

    async fn set(account: &mut Account) -> (Value, String) {
        let (event, id) = public_snapshot(account);
        account.start(Unshare::FUNCTION, &event);
        account.settle().await;
        let [remediation] = &records_of_snapshot(account, &id).await[..] else {
            panic!("one record")
        };
        let ask = json!({"remediation": remediation.id(), "reason": "a fault run"});
        (ask, id)
    }

    async fn wrong(account: &Account, id: &String, end: &End) -> Vec<String> {
        let mut wrong = wrong_about(account, id, &[PARTNER, "all"], end).await;
        let tags = account.cloud().ec2.snapshots[id].tags.clone();
        if !tags.contains_key("backstop:opt-out") {
            wrong.push("it carries no opt-out".to_owned());
        }
        wrong
    }
}

/// `restore-account-defaults` turns the encryption of new volumes on again.
pub(crate) struct Restore;

impl Story for Restore {
    const FUNCTION: &'static str = "RestoreAccountDefaultsFunction";
    type Before = ();

    async fn set(account: &mut Account) -> (Value, ()) {
        account.cloud().ec2.encryption_by_default = false;
        let name = "DisableEbsEncryptionByDefault";
        let answer = json!({ "_return": true });
        (cloudtrail::call(name, json!({}), answer), ())
    }

    async fn wrong(account: &Account, (): &(), end: &End) -> Vec<String> {
        let arn = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:encryption-by-default/{REGION}");
        let records = records(account, &arn).await;
        let mut wrong = told(account, &records, end);
        if !account.cloud().ec2.encryption_by_default {
            wrong.push("it is off".to_owned());
        }
        wrong
    }
}

/// `encrypt-volume` replaces the volume of a running instance, from its event to
/// its end: what it begins, and every step that its state machine asks for.
pub(crate) struct Encrypt;

/// An instance with its one volume.
pub(crate) struct Machine {
    instance: String,
    volume: String,
}

const DEVICE: &str = "/dev/sdf";

impl Machine {
    /// A running instance with a volume that is not encrypted.
    fn new(account: &Account) -> Self {
        let long_ago = account.now() - Duration::from_secs(86_400);
        let mut cloud = account.cloud();
        let (instance, volume) = (cloud.ec2.new_id("i"), cloud.ec2.new_id("vol"));
        let running = Instance {
            up: true,
            since: long_ago,
            launched: long_ago,
            tags: Tags::new(),
        };
        cloud.ec2.instances.insert(instance.clone(), running);
        let attached = Volume {
            encrypted: false,
            created: long_ago,
            ready: long_ago,
            attached: Some((instance.clone(), DEVICE.to_owned(), long_ago, true)),
            tags: Tags::new(),
        };
        cloud.ec2.volumes.insert(volume.clone(), attached);
        Self { instance, volume }
    }

    fn arn(&self) -> String {
        format!("arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{}", self.instance)
    }

    /// What is not as it has to be about an instance that may have been stopped.
    fn wrong(&self, account: &Account, replaced: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let cloud = account.cloud();
        if !cloud.ec2.instances[&self.instance].up {
            wrong.push("the instance is stopped".to_owned());
        }
        let at = |volume: &Volume| {
            let attached = volume.attached.as_ref();
            attached.is_some_and(|(of, device, ..)| *of == self.instance && device == DEVICE)
        };
        let attached: Vec<(&String, &Volume)> =
            cloud.ec2.volumes.iter().filter(|(_, of)| at(of)).collect();
        let keeps_its_mark =
            |volume: &Volume| volume.attached.as_ref().is_some_and(|(.., goes)| *goes);
        if !attached.iter().all(|(_, volume)| keeps_its_mark(volume)) {
            wrong.push(format!("it does not go with its instance: {attached:?}"));
        }
        let mut taken = BTreeSet::new();
        for snapshot in cloud.ec2.snapshots.values() {
            let purpose = snapshot.tags.get("backstop:purpose");
            if !taken.insert((snapshot.volume.clone(), purpose.cloned())) {
                wrong.push(format!("taken twice: {snapshot:?}"));
            }
        }
        match attached[..] {
            [(_, copy)] if replaced && copy.encrypted => {
                if copy.tags.get("backstop:copy-of") != Some(&self.volume) {
                    wrong.push(format!("attached is {copy:?}"));
                }
            }
            [(id, _)] if !replaced && *id == self.volume => {}
            ref other => wrong.push(format!("attached is {other:?}")),
        }
        if !cloud.ec2.volumes.contains_key(&self.volume) {
            wrong.push("the original is deleted".to_owned());
        }
        let copies = cloud.ec2.volumes.len() - 1;
        // One that was attached is kept, on the way back too.
        if copies > 1 || (replaced && copies == 0) {
            wrong.push(format!("there are {copies} copies"));
        }
        wrong
    }
}

/// The dry runs of an encryption without which it is not begun. (Without direct
/// copies the other way is asked for.)
const ASKED_AHEAD: &[(&str, usize)] = &[
    ("StartInstances", 0),
    ("DetachVolume", 0),
    ("AttachVolume", 0),
    ("ModifyInstanceAttribute", 0),
];

/// The changes of an encryption that leave no other way to the same end; those
/// that were asked for ahead are the second of their kind.
const LEADS_BACK: &[(&str, usize)] = &[
    ("CreateSnapshot", 0),
    ("StopInstances", 0),
    ("DetachVolume", 1),
    ("AttachVolume", 1),
    ("ModifyInstanceAttribute", 1),
    ("StartInstances", 1),
];

impl Story for Encrypt {
    const FUNCTION: &'static str = "EncryptVolumeFunction";
    const NEEDS_THE_SWEEP: bool = true;
    type Before = Machine;

    async fn set(account: &mut Account) -> (Value, Machine) {
        // The first sweep in `enforce` makes the baseline.
        account.start(Sweep::FUNCTION, &json!({}));
        account.settle().await;
        let machine = Machine::new(account);
        let event = cloudtrail::check_requested("unencrypted-volume", &machine.volume);
        (event, machine)
    }

    async fn wrong(account: &Account, machine: &Machine, end: &End) -> Vec<String> {
        let arn = machine.arn();
        let mut records = records(account, &arn).await;
        // The sweep has found that the instance is not a managed one, too.
        records.retain(|record| matches!(record, Record::Encryption(_)));
        let mut wrong = told(account, &records, end);
        let outcomes: Vec<&str> = records.iter().map(Record::outcome).collect();
        // If AWS refuses a dry run, nothing is begun. If it refuses a change for good,
        // the run rolls back to the original. Both times the
        // control trips for the instance until a person re-arms it. If the original
        // cannot be tagged, the copy stays in use and a person is notified. A run whose
        // execution is gone is resumed an hour later; by then a stopped instance has
        // been down too long, so the run rolls back.
        let late = end.is_of(Way::KilledForGood) && outcomes.last() == Some(&"rolled-back");
        let refused = end.refused(ASKED_AHEAD);
        let leads_back = end.refused(LEADS_BACK) || late;
        let unmarked = end.refused(&[("CreateTags", 0)]);
        // Whether it has been looked at again since depends on what took it up.
        let looked_at = end.again || (late && outcomes.len() > 1);
        let expected: &[&str] = match (leads_back, unmarked, looked_at) {
            _ if refused && end.again => &["tripped", "refused"],
            _ if refused => &["refused"],
            (true, _, false) => &["rolled-back"],
            (true, _, true) => &["tripped", "rolled-back"],
            (_, true, _) => &["needs-person"],
            _ => &["remediated"],
        };
        if outcomes != expected {
            wrong.push(format!("the records are {outcomes:?}"));
        }
        if refused && !account.cloud().ec2.snapshots.is_empty() {
            wrong.push("there are snapshots of what was refused".to_owned());
        }
        let replaced = !leads_back && !refused;
        wrong.extend(machine.wrong(account, replaced));
        wrong
    }
}

/// `patch-instance` installs what an instance lacks, from the event to what
/// Systems Manager shows afterwards.
pub(crate) struct Patch;

impl Story for Patch {
    const FUNCTION: &'static str = "PatchInstanceFunction";
    type Before = Machine;

    async fn set(account: &mut Account) -> (Value, Machine) {
        let machine = Machine::new(account);
        let scanned = PatchState {
            operation: "Scan".to_owned(),
            ended: account.now() - Duration::from_secs(5 * 86_400),
            missing: 3,
        };
        let managed = &mut account.cloud().systems_manager.managed;
        managed.insert(machine.instance.clone(), scanned);
        let event = native_events::compliance(&machine.instance, "non_compliant");
        (event, machine)
    }

    async fn wrong(account: &Account, machine: &Machine, end: &End) -> Vec<String> {
        let arn = machine.arn();
        let records = records(account, &arn).await;
        let mut wrong = told(account, &records, end);
        // What keeps the command from being sent and will not pass by itself is
        // told, and the instance is left alone until a person has seen to it.
        let refused = end.refused(&[
            ("DescribeSnapshots", 0),
            ("CreateSnapshots", 0),
            ("SendCommand", 0),
        ]);
        let expected: &[&str] = match (refused, end.again) {
            (false, _) => &["remediated"],
            (true, false) => &["failed"],
            (true, true) => &["tripped", "failed"],
        };
        let outcomes: Vec<&str> = records.iter().map(Record::outcome).collect();
        if outcomes != expected {
            wrong.push(format!("the records are {outcomes:?}"));
        }
        wrong.extend(machine.wrong(account, false));
        let cloud = account.cloud();
        let commands = &cloud.systems_manager.commands;
        if commands.len() != usize::from(!refused) {
            wrong.push(format!("the commands are {commands:?}"));
        }
        let missing = cloud.systems_manager.managed[&machine.instance].missing;
        if (missing == 0) == refused {
            wrong.push(format!("{missing} patches are missing"));
        }
        let snapshots = cloud.ec2.snapshots.len();
        let taken = !end.refused(&[("DescribeSnapshots", 0), ("CreateSnapshots", 0)]);
        if snapshots != usize::from(taken) {
            wrong.push(format!("there are {snapshots} snapshots"));
        }
        wrong
    }
}
