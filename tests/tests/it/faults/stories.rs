//! The stories of the fault run, and how each must end.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use backstop_core::info::OptOutOn;
use backstop_core::record::Record;
use backstop_core::security_group::IngressRule;
use backstop_tests::local_aws::{ACCOUNT, REGION};
use backstop_tests::{cloudtrail, native_events};
use backstop_wire::memory::ec2::{Ec2, Instance, Metadata, Rule, Tags, Volume};
use backstop_wire::memory::systems_manager::PatchState;
use serde_json::{Value, json};

use super::account::{Account, Way};
use super::{End, Story};
use crate::contract::{self, Fixture};

/// The policy of every story. The budget of open-ingress is raised so that it never
/// limits a run.
pub(super) fn policy() -> Value {
    json!({"version": 1, "controls": {
        "open-ingress": {"budget": {"changes_per_hour": 100_000}},
        "unencrypted-volume": {"mode": "enforce", "settings": {"attached": "swap", "windows": [{"from": "00:00", "to": "00:00"}]}},
        "vulnerable-package": {"mode": "enforce"},
        "missing-patches": {"mode": "enforce"},
        "unmanaged-instance": {"mode": "notify"},
        "imdsv1": {"mode": "enforce"},
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
    fn function(&self) -> &'static str {
        "RevokeIngressFunction"
    }

    type Before = Group;

    async fn set(&self, account: &mut Account) -> (Value, Group) {
        Group::open(account)
    }

    async fn wrong(&self, account: &Account, group: &Group, end: &End) -> Vec<String> {
        group.wrong(account, CLOSED, end).await
    }
}

impl Story for Sweep {
    fn function(&self) -> &'static str {
        "SweepFunction"
    }

    type Before = Group;

    /// As its schedule does.
    fn again_after(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn set(&self, account: &mut Account) -> (Value, Group) {
        // The first sweep in `enforce` makes the baseline: what is open then
        // would stay.
        account.start(self.function(), &json!({}));
        account.settle().await;
        let (_, group) = Group::open(account);
        (json!({}), group)
    }

    async fn wrong(&self, account: &Account, group: &Group, end: &End) -> Vec<String> {
        group.wrong(account, CLOSED, end).await
    }
}

impl Story for Undo {
    fn function(&self) -> &'static str {
        "UndoFunction"
    }

    type Before = Group;

    async fn set(&self, account: &mut Account) -> (Value, Group) {
        let (event, group) = Group::open(account);
        account.start(Revoke.function(), &event);
        account.settle().await;
        let arn = cloudtrail::security_group_arn(&group.id);
        let [remediation] = &records(account, &arn).await[..] else {
            panic!("one record")
        };
        let ask = json!({"remediation": remediation.id(), "reason": "a fault run"});
        (ask, group)
    }

    async fn wrong(&self, account: &Account, group: &Group, end: &End) -> Vec<String> {
        let mut wrong = group.wrong(account, OPEN, end).await;
        let arn = cloudtrail::security_group_arn(&group.id);
        let undone = |record: &Record| record.outcome() == "undone";
        if !records(account, &arn).await.iter().any(undone) {
            wrong.push("no undo is in the ledger".to_owned());
        }
        wrong
    }
}

/// A control that is remediated at once closes what is exposed on its resource.
pub(crate) struct Remediation(pub(crate) &'static dyn Fixture);
/// A person undoes that.
pub(crate) struct UndoOf(pub(crate) &'static dyn Fixture);

/// What is not as it has to be about a fixture's resource.
async fn wrong_about(account: &Account, fixture: &dyn Fixture, end: &End) -> Vec<String> {
    let records = contract::records(account).await;
    let mut wrong = told(account, &records, end);
    // What was there before the change is in the ledger, and nothing else.
    let mut kept = records.iter().filter_map(|record| match record {
        Record::Remediation(entry) => Some(&entry.detail.before),
        _ => None,
    });
    if !kept.any(|before| before.keys().eq(fixture.items())) {
        wrong.push("no record holds what was there before".to_owned());
    }
    wrong
}

impl Story for Remediation {
    type Before = Ec2;

    fn function(&self) -> &'static str {
        contract::function(self.0)
    }

    async fn set(&self, account: &mut Account) -> (Value, Ec2) {
        let Self(fixture) = self;
        contract::place(*fixture, &mut account.cloud());
        let placed = account.cloud().ec2.clone();
        for item in fixture.items() {
            fixture.expose(item, &mut account.cloud().ec2);
        }
        (contract::event(*fixture), placed)
    }

    async fn wrong(&self, account: &Account, placed: &Ec2, end: &End) -> Vec<String> {
        if !end.again && end.refused(self.0.told_reads()) {
            let records = contract::records(account).await;
            return told(account, &records, end);
        }
        let mut wrong = wrong_about(account, self.0, end).await;
        let now = &account.cloud().ec2;
        if now != placed {
            wrong.push(format!("it shows {:?}", self.0.shows(now)));
        }
        wrong
    }
}

impl Story for UndoOf {
    /// What the resource shows while it is exposed.
    type Before = Vec<String>;

    fn function(&self) -> &'static str {
        "UndoFunction"
    }

    async fn set(&self, account: &mut Account) -> (Value, Vec<String>) {
        let remediation = Remediation(self.0);
        let (event, _) = remediation.set(account).await;
        let exposed = self.0.shows(&account.cloud().ec2);
        account.start(remediation.function(), &event);
        account.settle().await;
        let records = contract::records(account).await;
        let [remediation] = &records[..] else {
            panic!("one record")
        };
        if contract::info(self.0).opt_out_on == OptOutOn::Policy {
            let mut policy = policy();
            let control = self.0.control().name();
            policy["controls"][control] = contract::exempt("2027-01-31");
            account.cloud().policy = policy.to_string();
        }
        let ask = json!({"remediation": remediation.id(), "reason": "a fault run"});
        (ask, exposed)
    }

    async fn wrong(&self, account: &Account, exposed: &Vec<String>, end: &End) -> Vec<String> {
        let mut wrong = wrong_about(account, self.0, end).await;
        let shows = self.0.shows(&account.cloud().ec2);
        if shows != *exposed {
            wrong.push(format!("it shows {shows:?}"));
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
            metadata: Metadata::default(),
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
    fn function(&self) -> &'static str {
        "EncryptVolumeFunction"
    }

    fn needs_the_sweep(&self) -> bool {
        true
    }

    type Before = Machine;

    async fn set(&self, account: &mut Account) -> (Value, Machine) {
        // The first sweep in `enforce` makes the baseline.
        account.start(Sweep.function(), &json!({}));
        account.settle().await;
        let machine = Machine::new(account);
        let event = cloudtrail::check_requested("unencrypted-volume", &machine.volume);
        (event, machine)
    }

    async fn wrong(&self, account: &Account, machine: &Machine, end: &End) -> Vec<String> {
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
    fn function(&self) -> &'static str {
        "PatchInstanceFunction"
    }

    type Before = Machine;

    async fn set(&self, account: &mut Account) -> (Value, Machine) {
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

    async fn wrong(&self, account: &Account, machine: &Machine, end: &End) -> Vec<String> {
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
