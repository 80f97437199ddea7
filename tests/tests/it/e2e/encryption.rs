//! Encryption on the deployed stack: the real rules, function and state
//! machine, against live volumes and instances. What each run calls is compared
//! in full and in order, so that whatever else were touched would show.

use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice, InstanceType, Volume, VolumeType};
use backstop_core::volumes::{COPY_OF_TAG, ENTRY_TAG, PURPOSE_TAG, REPLACED_BY_TAG};

use super::sweep::{age, digests, settle, sweep};
use super::undo::{request, undo};
use super::*;

pub(crate) const ENCRYPT: &str = "EncryptVolumeFunction";
/// What turns settings of the account back on.
pub(crate) const RESTORE: &str = "RestoreAccountDefaultsFunction";

const CONTROL: &str = "unencrypted-volume";
const OPT_OUT: &str = "backstop:opt-out";

/// Removes every instance, volume and snapshot.
async fn clear(aws: &LocalAws) {
    for id in instances(aws).await.into_keys() {
        aws.ec2
            .terminate_instances()
            .instance_ids(id)
            .send()
            .await
            .unwrap();
    }
    for id in volumes(aws).await.into_keys() {
        aws.ec2.delete_volume().volume_id(id).send().await.unwrap();
    }
    for id in snapshots(aws).await.into_keys() {
        aws.ec2
            .delete_snapshot()
            .snapshot_id(id)
            .send()
            .await
            .unwrap();
    }
}

/// A policy for the control.
fn policy(settings: Value) -> Value {
    json!({"version": 1, "controls": {CONTROL: {"mode": "enforce", "settings": settings}}})
}

/// Acts at once on what is attached nowhere.
pub(super) fn at_once() -> Value {
    policy(json!({"settling_minutes": 0}))
}

/// Stops instances at any time.
fn swap_always() -> Value {
    policy(json!({
        "settling_minutes": 0, "attached": "swap", "windows": [{"from": "00:00", "to": "00:00"}],
    }))
}

// ---- the world

async fn volumes(aws: &LocalAws) -> BTreeMap<String, Volume> {
    let found = aws.ec2.describe_volumes().send().await.unwrap();
    let volumes = found.volumes.unwrap_or_default().into_iter();
    volumes
        .map(|v| (v.volume_id().unwrap().to_owned(), v))
        .collect()
}

pub(super) async fn volume(aws: &LocalAws, id: &str) -> Volume {
    let mut all = volumes(aws).await;
    all.remove(id).unwrap_or_else(|| panic!("{id} is gone"))
}

/// The instances that are there, by id, with their states.
async fn instances(aws: &LocalAws) -> BTreeMap<String, String> {
    let found = aws.ec2.describe_instances().send().await.unwrap();
    let of = |instance: &aws_sdk_ec2::types::Instance| {
        let state = instance.state().and_then(|state| state.name());
        (
            instance.instance_id().unwrap().to_owned(),
            state.unwrap().as_str().to_owned(),
        )
    };
    let all = found.reservations().iter().flat_map(|r| r.instances());
    all.map(of)
        .filter(|(_, state)| state != "terminated")
        .collect()
}

/// Backstop's snapshots, with the volume each is of, and what for.
pub(super) async fn snapshots(aws: &LocalAws) -> BTreeMap<String, (String, String)> {
    let found = aws.ec2.describe_snapshots().send().await.unwrap();
    let of = |snapshot: &aws_sdk_ec2::types::Snapshot| {
        let tags = tags(snapshot.tags());
        (
            snapshot.snapshot_id().unwrap().to_owned(),
            (
                snapshot.volume_id().unwrap().to_owned(),
                tags.get(PURPOSE_TAG).cloned().unwrap_or_default(),
            ),
        )
    };
    let all = found.snapshots().iter().map(of);
    all.filter(|(_, (_, purpose))| !purpose.is_empty())
        .collect()
}

fn tags(tags: &[Tag]) -> BTreeMap<String, String> {
    let of = |tag: &Tag| {
        (
            tag.key().unwrap().to_owned(),
            tag.value().unwrap().to_owned(),
        )
    };
    tags.iter().map(of).collect()
}

/// The tags that do not come from Backstop.
fn own_tags(volume: &Volume) -> BTreeMap<String, String> {
    let mut own = tags(volume.tags());
    own.retain(|key, _| !key.starts_with("backstop:"));
    own
}

/// The copies of a volume.
pub(super) async fn copies(aws: &LocalAws, of: &str) -> Vec<Volume> {
    let all = volumes(aws).await;
    all.into_values()
        .filter(|v| tags(v.tags()).get(COPY_OF_TAG).map(String::as_str) == Some(of))
        .collect()
}

/// The one copy of a volume, which has to be what a copy must be.
async fn copy(aws: &LocalAws, original: &str, entry: &Value) -> String {
    let copies = copies(aws, original).await;
    let [copy] = &copies[..] else {
        panic!("one copy of {original}: {copies:#?}")
    };
    let original = volume(aws, original).await;
    assert_eq!(
        (copy.encrypted(), original.encrypted()),
        (Some(true), Some(false))
    );
    let make = |v: &Volume| {
        (
            v.size(),
            v.volume_type().cloned(),
            v.iops(),
            v.throughput(),
            v.availability_zone().map(str::to_owned),
            own_tags(v),
        )
    };
    assert_eq!(make(copy), make(&original));
    let tags = tags(copy.tags());
    assert_eq!(
        Some(tags[ENTRY_TAG].as_str()),
        entry["document"]["id"].as_str()
    );
    copy.volume_id().unwrap().to_owned()
}

/// A new volume that is attached nowhere and not encrypted.
pub(super) async fn loose(aws: &LocalAws, tags: &[(&str, &str)]) -> String {
    let mut all = vec![("Name", "archive"), ("owner", "team-db")];
    all.extend_from_slice(tags);
    let made = aws
        .ec2
        .create_volume()
        .availability_zone("us-east-1a")
        .size(12)
        .volume_type(VolumeType::Gp3)
        .iops(4000)
        .throughput(200)
        .tag_specifications(specification(ResourceType::Volume, &all))
        .send()
        .await
        .unwrap();
    made.volume_id.unwrap()
}

/// An instance with two unencrypted volumes and an encrypted one.
struct Machine {
    id: String,
    /// `/dev/xvda`, which goes when the instance is terminated.
    root: String,
    /// `/dev/sdf`, which stays.
    data: String,
}

impl Machine {
    async fn new(aws: &LocalAws) -> Self {
        let ec2 = &aws.ec2;
        let vpc = ec2.create_vpc().cidr_block("10.0.0.0/16").send().await;
        let vpc = vpc.unwrap().vpc.unwrap().vpc_id.unwrap();
        // Without public addresses: a stop would release one.
        let subnet = ec2.create_subnet().vpc_id(vpc).cidr_block("10.0.0.0/24");
        let subnet = subnet.send().await.unwrap().subnet.unwrap();
        let image = ec2
            .register_image()
            .name(format!("image-{}", aws.next()))
            .root_device_name("/dev/xvda");
        let image = image.send().await.unwrap().image_id.unwrap();
        let device = |name: &str, size, goes, encrypted| {
            let ebs = EbsBlockDevice::builder()
                .volume_size(size)
                .volume_type(VolumeType::Gp3)
                .delete_on_termination(goes)
                .encrypted(encrypted);
            BlockDeviceMapping::builder()
                .device_name(name)
                .ebs(ebs.build())
                .build()
        };
        let run = ec2
            .run_instances()
            .image_id(image)
            .instance_type(InstanceType::T3Micro)
            .subnet_id(subnet.subnet_id.unwrap())
            .min_count(1)
            .max_count(1)
            .block_device_mappings(device("/dev/xvda", 8, true, false))
            .block_device_mappings(device("/dev/sdf", 20, false, false))
            .block_device_mappings(device("/dev/sdg", 5, false, true))
            .tag_specifications(specification(
                ResourceType::Instance,
                &[("Name", "db-1"), ("owner", "team-db")],
            ))
            .tag_specifications(specification(ResourceType::Volume, &[("ticket", "OPS-1")]));
        let run = run.send().await.unwrap();
        let id = run.instances()[0].instance_id().unwrap().to_owned();
        let mut machine = Self {
            id,
            root: String::new(),
            data: String::new(),
        };
        // Long enough ago to be told from the stop, and too young to be patched.
        let started = jiff::Timestamp::now() - Duration::from_secs(60);
        aws.proxy.started_at(&machine.id, started);
        let devices = machine.devices(aws).await;
        machine.root = devices["/dev/xvda"].0.clone();
        machine.data = devices["/dev/sdf"].0.clone();
        machine
    }

    /// The unencrypted volumes, in the order in which they are treated.
    fn originals(&self) -> Vec<&str> {
        let mut both = vec![self.root.as_str(), self.data.as_str()];
        both.sort_unstable();
        both
    }

    /// What is attached where, and whether it goes with the instance.
    async fn devices(&self, aws: &LocalAws) -> BTreeMap<String, (String, bool)> {
        let ask = aws.ec2.describe_instances().instance_ids(&self.id);
        let found = ask.send().await.unwrap();
        let devices = found.reservations()[0].instances()[0].block_device_mappings();
        let of = |device: &aws_sdk_ec2::types::InstanceBlockDeviceMapping| {
            let ebs = device.ebs().unwrap();
            (
                device.device_name().unwrap().to_owned(),
                (
                    ebs.volume_id().unwrap().to_owned(),
                    ebs.delete_on_termination().unwrap(),
                ),
            )
        };
        devices.iter().map(of).collect()
    }

    async fn state(&self, aws: &LocalAws) -> String {
        instances(aws).await[&self.id].clone()
    }

    async fn stop(&self, aws: &LocalAws) {
        let stop = aws.ec2.stop_instances().instance_ids(&self.id);
        stop.send().await.unwrap();
    }

    /// Swaps its volumes, and gives the entry.
    async fn swapped(&self, aws: &LocalAws) -> Value {
        aws.deliver(&cloudtrail::instance_state(&self.id, "running"))
            .await
            .unwrap();
        let entry = ended(aws, &self.id, 1).await.remove(0);
        assert_eq!(entry["status"], "remediated", "{entry:#}");
        next_second().await;
        entry
    }

    /// Holds that its volumes are the originals, as they were in the beginning.
    async fn is_as_before(&self, aws: &LocalAws, before: &BTreeMap<String, (String, bool)>) {
        assert_eq!(&self.devices(aws).await, before);
        for id in [&self.root, &self.data] {
            assert_eq!(volume(aws, id).await.encrypted(), Some(false));
        }
    }
}

/// EC2 tells times to the second: what is started and stopped in one and the
/// same looks as though it had been stopped first.
async fn next_second() {
    let now = || jiff::Timestamp::now().as_second();
    let started = now();
    wait_for("the next second", async || (now() > started).then_some(())).await;
}

/// Holds a call until so many messages are out. A run is told as its entry is
/// when the message is made: one that ends within a second, as here, may have
/// its end told and not its beginning.
fn once_told(aws: &LocalAws, call: &str, messages: usize) {
    let told = is_told(aws, messages);
    let fault = Fault::Before(Box::new(move |_| hold_until(&told)));
    aws.proxy.fail_next(call, 1, fault);
}

/// Opts a resource out just before the next such call, when the run is told.
fn opt_out_before(aws: &LocalAws, call: &str, resource: &str) {
    let (resource, told) = (resource.to_owned(), is_told(aws, 1));
    let fault = Fault::Before(Box::new(move |upstreams| {
        hold_until(&told);
        upstreams.ec2(&[
            ("Action", "CreateTags"),
            ("ResourceId.1", &resource),
            ("Tag.1.Key", OPT_OUT),
            ("Tag.1.Value", CONTROL),
        ]);
    }));
    aws.proxy.fail_next(call, 1, fault);
}

/// The event of CloudTrail about a volume that was created.
fn created(volume: &str) -> Value {
    cloudtrail::call(
        "CreateVolume",
        json!({"size": "12", "volumeType": "gp3", "zone": "us-east-1a", "encrypted": false}),
        json!({"volumeId": volume, "status": "creating"}),
    )
}

// ---- what came of it

/// Everything that functions changed in EC2 since the scenario began, in order:
/// the call, and what it was about.
fn made(aws: &LocalAws) -> Vec<String> {
    let reads = |action: &str| action.starts_with("Describe") || action.starts_with("Get");
    let calls = aws.proxy.calls().into_iter();
    calls
        .filter(|call| call.service == "ec2" && call.status == 200 && !reads(&call.action))
        .map(|call| {
            let about = [
                "VolumeId",
                "SourceVolumeId",
                "SnapshotId",
                "InstanceId",
                "InstanceId.1",
                "ResourceId.1",
            ];
            let about = about.iter().find_map(|name| call.request[name].as_str());
            format!("{} {}", call.action, about.unwrap_or("-"))
        })
        .collect()
}

/// Waits until this many runs and findings about a unit have come to their end,
/// and gives their entries.
async fn ended(aws: &LocalAws, unit: &str, count: usize) -> Vec<Value> {
    let started = Instant::now();
    loop {
        let entries = aws.entries_of(unit).await.unwrap();
        let lock = aws.ledger_item(&lock_of(unit), "lock").await.unwrap();
        let open = entries
            .iter()
            .filter(|e| e["status"] == "in-progress" || e["told"] != json!(true));
        if lock.is_none() && entries.len() >= count && open.count() == 0 {
            aws.quiet().await;
            let entries = aws.entries_of(unit).await.unwrap();
            assert_eq!(entries.len(), count, "{entries:#?}");
            return entries;
        }
        if started.elapsed() > PATIENCE {
            panic!(
                "in vain for {count} ended entries about {unit}: {entries:#?}; {:#?}; {:#?}",
                made(aws),
                problems(aws),
            );
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// What the function warned of, for a test that fails.
fn problems(aws: &LocalAws) -> Vec<Value> {
    let mut logs = aws.logs(ENCRYPT).unwrap();
    logs.retain(|line| line["level"] == "WARN" || line["level"] == "ERROR");
    logs
}

/// The messages about a unit that are no digest.
pub(crate) async fn told(aws: &LocalAws, unit: &str, count: usize) -> Vec<Published> {
    let of_unit = || -> Vec<Published> {
        let mut all = published_about(aws, unit);
        all.retain(|m| !m.bodies["sqs"].contains("\"outcome\":\"digest\""));
        all
    };
    wait_for(&format!("{count} messages about {unit}"), async || {
        (of_unit().len() >= count).then_some(())
    })
    .await;
    aws.quiet().await;
    let messages = of_unit();
    let subjects: Vec<_> = messages.iter().map(|m| m.subject.clone()).collect();
    assert_eq!(messages.len(), count, "{subjects:#?}");
    messages
}

fn contains(message: &Published, parts: &[&str]) {
    let text = format!(
        "{}\n{}",
        message.subject.as_deref().unwrap_or_default(),
        message.bodies["default"]
    );
    for part in parts {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

/// Looks at the event and answers with the verdict.
fn look(aws: &LocalAws, event: &Value) -> String {
    look_by(aws, ENCRYPT, event)
}

/// The same, by another function.
pub(super) fn look_by(aws: &LocalAws, function: &str, event: &Value) -> String {
    match aws.call(function, event) {
        Ok(answer) => answer["verdict"].as_str().unwrap().to_owned(),
        Err(error) => panic!("{error}"),
    }
}

// ---- attached nowhere

#[test]
fn a_volume_that_is_attached_nowhere_gets_an_encrypted_copy_and_is_kept() {
    scenario(async |aws| {
        aws.set_policy(&at_once()).await.unwrap();
        let bystander = loose(aws, &[]).await;
        type Event = fn(&str) -> Value;
        // By a direct copy, and where that is refused.
        for (event, direct) in [
            (cloudtrail::volume_available as Event, true),
            (created, false),
        ] {
            let id = loose(aws, &[("ticket", "OPS-9")]).await;
            let event = event(&id);
            aws.proxy.reset();
            aws.proxy.copy_volumes(direct);
            once_told(aws, "CreateSnapshot", 1);
            assert_eq!(aws.deliver(&event).await.unwrap(), [ENCRYPT]);
            let entry = &ended(aws, &id, 1).await[0];
            assert_eq!(entry["status"], "remediated", "{entry:#}");
            assert_eq!(entry["document"]["way"], "unattached");
            assert_eq!(entry["document"]["volumes"][0]["id"], id.as_str());
            assert_eq!(entry["document"]["volumes"][0]["tags"]["ticket"], "OPS-9");

            let copy = copy(aws, &id, entry).await;
            let original = volume(aws, &id).await;
            assert_eq!(original.state().unwrap().as_str(), "available");
            assert_eq!(tags(original.tags())[REPLACED_BY_TAG], copy);
            let mut of_volume = snapshots(aws).await;
            of_volume.retain(|_, (of, _)| *of == id);
            let of = |purpose: &str| {
                let mut all = of_volume.iter();
                all.find(|(_, (_, what))| what == purpose)
                    .map(|(id, _)| id.as_str())
            };
            let safety = of("safety").unwrap();
            let mut steps = vec![format!("CreateSnapshot {id}")];
            if direct {
                assert_eq!(of_volume.len(), 1);
                steps.push(format!("CopyVolumes {id}"));
            } else {
                assert_eq!(of_volume.len(), 2);
                steps.push(format!("CreateSnapshot {id}"));
                steps.push(format!("CreateVolume {}", of("transfer").unwrap()));
            }
            steps.push(format!("CreateTags {id}"));
            assert_eq!(made(aws), steps, "nothing else");

            let messages = told(aws, &id, 2).await;
            contains(&messages[0], &["What it costs you", "No downtime", &id]);
            contains(&messages[1], &["What was done", &id, &copy, safety]);
            let data: Value = serde_json::from_str(&messages[1].bodies["sqs"]).unwrap();
            assert_eq!(data["outcome"], "remediated");
            assert_eq!(data["originals_kept"], json!([id]));
            assert_eq!(data["team"], "team-db");

            // Once more, and for the copy itself: nothing.
            assert_eq!(look(aws, &event), "nothing to do");
            assert_eq!(look(aws, &created(&id)), "nothing to do");
            assert_eq!(look(aws, &created(&copy)), "nothing to do");
            aws.quiet().await;
            assert_eq!(made(aws).len(), steps.len());
            assert_eq!(aws.entries_of(&id).await.unwrap().len(), 1);
            told(aws, &id, 2).await;
        }
        let untouched = volume(aws, &bystander).await;
        assert_eq!(tags(untouched.tags()).len(), 2);
        assert!(copies(aws, &bystander).await.is_empty());
    });
}

#[test]
fn a_volume_that_was_just_created_is_looked_at_once_it_has_settled() {
    scenario(async |aws| {
        aws.set_policy(&policy(json!({"settling_minutes": 1})))
            .await
            .unwrap();
        let id = loose(aws, &[]).await;
        // Time goes hundreds of times faster for the state machine than for
        // everybody else: the volume becomes older when that has been tried.
        let settled = Arc::new(AtomicBool::new(false));
        let is_settled = Arc::clone(&settled);
        aws.proxy.fail_next(
            "DescribeVolumes",
            1000,
            Fault::Rewrite(Box::new(move |answer| {
                match is_settled.load(Ordering::Relaxed) {
                    true => long_ago(&answer),
                    false => answer,
                }
            })),
        );
        let before = aws.executions("SUCCEEDED").unwrap().len();
        assert_eq!(look(aws, &cloudtrail::volume_available(&id)), "settling");
        assert_eq!(look(aws, &created(&id)), "settling");
        settled.store(true, Ordering::Relaxed);
        let entry = &ended(aws, &id, 1).await[0];
        assert_eq!(entry["status"], "remediated");
        wait_for("the executions to end", async || {
            aws.executions("RUNNING").unwrap().is_empty().then_some(())
        })
        .await;
        let after = aws.executions("SUCCEEDED").unwrap();
        assert_eq!(after.len() - before, 2, "one to settle, one run: {after:?}");
        // Who created it is not lost on the way.
        assert!(entry["document"]["actor"]["event_id"].is_string());
    });
}

/// An answer about volumes that were created years ago.
fn long_ago(answer: &str) -> String {
    let mut parts = answer.split("<createTime>");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.split_once('<').map_or("", |(_, rest)| rest);
        whole += &format!("<createTime>2020-01-01T00:00:00.000Z<{rest}");
    }
    whole
}

#[test]
fn events_at_the_same_time_make_one_run_one_copy_and_one_beginning() {
    scenario(async |aws| {
        aws.set_policy(&at_once()).await.unwrap();
        aws.proxy.copy_volumes(true);
        let id = loose(aws, &[]).await;
        let snapshot = Held::next(aws, "CreateSnapshot");
        once_told(aws, "CopyVolumes", 1);
        for event in [cloudtrail::volume_available(&id), created(&id)] {
            aws.start_function(ENCRYPT, &event).unwrap();
        }
        // And one in the middle of the run.
        snapshot.reached().await;
        assert_eq!(look(aws, &created(&id)), "another run will look again");
        snapshot.go_on();
        let entry = &ended(aws, &id, 1).await[0];
        assert_eq!(entry["status"], "remediated");
        copy(aws, &id, entry).await;
        assert_eq!(snapshots(aws).await.len(), 1);
        assert_eq!(made(aws).len(), 3, "{:?}", made(aws));
        told(aws, &id, 2).await;
    });
}

// ---- attached

#[test]
fn in_a_window_an_instance_is_stopped_its_volumes_are_swapped_and_it_is_started() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        aws.proxy.copy_volumes(true);
        let (machine, other) = (Machine::new(aws).await, Machine::new(aws).await);
        let before = machine.devices(aws).await;
        let of_other = other.devices(aws).await;
        once_told(aws, "CreateSnapshot", 1);
        let event = cloudtrail::instance_state(&machine.id, "running");
        // Its patches are looked at too: it is too young for any.
        let functions = [ENCRYPT, patching::PATCH];
        assert_eq!(aws.deliver(&event).await.unwrap(), functions);
        let entry = &ended(aws, &machine.id, 1).await[0];
        assert_eq!(entry["status"], "remediated", "{entry:#}");
        assert_eq!(entry["document"]["way"], "swap");

        assert_eq!(machine.state(aws).await, "running");
        let root = copy(aws, &machine.root, entry).await;
        let data = copy(aws, &machine.data, entry).await;
        let mut expected = before.clone();
        expected.insert("/dev/xvda".to_owned(), (root.clone(), true));
        expected.insert("/dev/sdf".to_owned(), (data.clone(), false));
        assert_eq!(machine.devices(aws).await, expected);
        for (original, copy) in [(&machine.root, &root), (&machine.data, &data)] {
            let original = volume(aws, original).await;
            assert_eq!(original.state().unwrap().as_str(), "available");
            assert_eq!(&tags(original.tags())[REPLACED_BY_TAG], copy);
        }
        let purposes: Vec<_> = snapshots(aws).await.into_values().map(|s| s.1).collect();
        assert_eq!(purposes, ["safety", "safety"]);
        assert_eq!(made(aws), machine.steps(&root, &data));
        assert_eq!(other.devices(aws).await, of_other);

        let messages = told(aws, &machine.id, 2).await;
        contains(&messages[0], &["DOWNTIME", "What it costs you", "db-1"]);
        contains(
            &messages[1],
            &["What was done", &root, &data, &machine.data],
        );
        let data: Value = serde_json::from_str(&messages[1].bodies["sqs"]).unwrap();
        assert_eq!(data["outcome"], "remediated");
        assert!(data["downtime"].is_object(), "{data:#}");

        // The echoes of its own stop and start.
        for state in ["stopped", "running"] {
            let event = cloudtrail::instance_state(&machine.id, state);
            assert_eq!(look(aws, &event), "nothing to do");
        }
        assert_eq!(look(aws, &created(&machine.root)), "nothing to do");
    });
}

impl Machine {
    /// All changes of a swap by direct copies, in order.
    fn steps(&self, root: &str, data: &str) -> Vec<String> {
        let originals = self.originals();
        let each = |what: &str| -> Vec<String> {
            let of = originals.iter();
            of.map(|id| format!("{what} {id}")).collect()
        };
        let swap = |original: &&str| {
            let is_root = **original == self.root;
            let copy = if is_root { root } else { data };
            let mut steps = vec![
                format!("DetachVolume {original}"),
                format!("AttachVolume {copy}"),
            ];
            if is_root {
                steps.push(format!("ModifyInstanceAttribute {}", self.id));
            }
            steps
        };
        let mut steps = each("CreateSnapshot");
        steps.push(format!("StopInstances {}", self.id));
        steps.extend(each("CopyVolumes"));
        steps.extend(originals.iter().flat_map(swap));
        steps.push(format!("StartInstances {}", self.id));
        steps.extend(each("CreateTags"));
        steps
    }
}

#[test]
fn an_instance_that_somebody_stops_has_its_volumes_swapped_and_stays_stopped() {
    scenario(async |aws| {
        aws.set_policy(&policy(json!({"attached": "when-stopped"})))
            .await
            .unwrap();
        let machine = Machine::new(aws).await;
        let running = cloudtrail::instance_state(&machine.id, "running");
        assert_eq!(look(aws, &running), "pending");
        assert_eq!(look(aws, &running), "known");
        let messages = told(aws, &machine.id, 1).await;
        contains(&messages[0], &["stopped by somebody"]);
        assert_eq!(made(aws), Vec::<String>::new());

        machine.stop(aws).await;
        once_told(aws, "CreateSnapshot", 2);
        let stopped = cloudtrail::instance_state(&machine.id, "stopped");
        assert_eq!(aws.deliver(&stopped).await.unwrap(), [ENCRYPT]);
        let entry = ended(aws, &machine.id, 2).await.remove(1);
        assert_eq!(entry["status"], "remediated", "{entry:#}");
        assert_eq!(entry["document"]["way"], "when-stopped");
        assert_eq!(machine.state(aws).await, "stopped");
        let devices = machine.devices(aws).await;
        for (device, original) in [("/dev/xvda", &machine.root), ("/dev/sdf", &machine.data)] {
            assert_eq!(devices[device].0, copy(aws, original, &entry).await);
        }
        assert!(devices["/dev/xvda"].1 && !devices["/dev/sdf"].1);
        let made = made(aws);
        for never in ["StopInstances", "StartInstances", "DeleteVolume"] {
            assert!(!made.iter().any(|m| m.starts_with(never)), "{made:#?}");
        }
        // Direct copies are refused here: made from a second snapshot, taken
        // after the stop.
        let mut purposes: Vec<_> = snapshots(aws).await.into_values().map(|s| s.1).collect();
        purposes.sort();
        assert_eq!(purposes, ["safety", "safety", "transfer", "transfer"]);
        let messages = told(aws, &machine.id, 3).await;
        contains(&messages[1], &["it stays stopped"]);
        contains(&messages[2], &["STOPPED"]);
    });
}

#[test]
fn an_instance_that_does_not_start_with_its_copies_gets_its_originals_back() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        let machine = Machine::new(aws).await;
        let before = machine.devices(aws).await;
        aws.proxy.fail_next(
            "StartInstances",
            1,
            Fault::error(400, "UnsupportedOperation", "no encrypted volumes here"),
        );
        once_told(aws, "CreateSnapshot", 1);
        let event = cloudtrail::instance_state(&machine.id, "running");
        aws.deliver(&event).await.unwrap();
        let entry = ended(aws, &machine.id, 1).await.remove(0);
        assert_eq!(entry["status"], "rolled-back", "{entry:#}");
        machine.is_as_before(aws, &before).await;
        assert_eq!(machine.state(aws).await, "running");
        for id in [&machine.root, &machine.data] {
            // Attached once, so it may hold what nothing else does.
            assert_eq!(copies(aws, id).await.len(), 1);
            let tags = tags(volume(aws, id).await.tags());
            assert!(!tags.contains_key(REPLACED_BY_TAG), "{tags:?}");
        }
        let messages = told(aws, &machine.id, 2).await;
        contains(
            &messages[1],
            &["UnsupportedOperation", "no encrypted volumes here"],
        );
        let data: Value = serde_json::from_str(&messages[1].bodies["sqs"]).unwrap();
        assert_eq!(data["outcome"], "rolled-back");

        // Left alone until a person re-arms it.
        let changes = made(aws).len();
        assert_eq!(look(aws, &event), "tripped");
        aws.quiet().await;
        assert_eq!(made(aws).len(), changes);
    });
}

#[test]
fn what_ec2_would_refuse_is_refused_with_nothing_stopped_or_snapshotted() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        aws.proxy.copy_volumes(true);
        let machine = Machine::new(aws).await;
        let before = machine.devices(aws).await;
        aws.proxy
            .fail_next("dry run AttachVolume", 1, Fault::denied());
        let event = cloudtrail::instance_state(&machine.id, "running");
        aws.deliver(&event).await.unwrap();
        let entry = ended(aws, &machine.id, 1).await.remove(0);
        assert_eq!(entry["status"], "refused", "{entry:#}");
        assert_eq!(made(aws), Vec::<String>::new());
        assert_eq!(machine.state(aws).await, "running");
        machine.is_as_before(aws, &before).await;
        let messages = told(aws, &machine.id, 2).await;
        contains(
            &messages[1],
            &["AttachVolume", "UnauthorizedOperation", "re-arm"],
        );
        assert_eq!(look(aws, &event), "tripped");
    });
}

#[test]
fn an_opt_out_before_the_stop_ends_the_run_and_nothing_is_stopped() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        let machine = Machine::new(aws).await;
        let before = machine.devices(aws).await;
        opt_out_before(aws, "CreateSnapshot", &machine.id);
        aws.deliver(&cloudtrail::instance_state(&machine.id, "running"))
            .await
            .unwrap();
        // The look that follows finds it opted out.
        let entries = ended(aws, &machine.id, 2).await;
        assert_eq!(entries[0]["status"], "rolled-back");
        assert_eq!(entries[1]["status"], "exempt");
        assert_eq!(
            made(aws),
            [format!("CreateSnapshot {}", machine.originals()[0])]
        );
        assert_eq!(machine.state(aws).await, "running");
        machine.is_as_before(aws, &before).await;
        let messages = told(aws, &machine.id, 3).await;
        contains(&messages[1], &["opts it out"]);
    });
}

#[test]
fn an_opt_out_after_the_stop_leads_back_to_the_originals_attached_and_running() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        // While copies are made, and while volumes are moved.
        for (call, copies_left) in [
            ("CreateVolume", 0),
            ("DetachVolume", 0),
            ("AttachVolume", 1),
        ] {
            let machine = Machine::new(aws).await;
            let before = machine.devices(aws).await;
            aws.proxy.reset();
            opt_out_before(aws, call, &machine.id);
            aws.deliver(&cloudtrail::instance_state(&machine.id, "running"))
                .await
                .unwrap();
            // The look that follows finds it opted out.
            let entries = ended(aws, &machine.id, 2).await;
            let entry = &entries[0];
            assert_eq!(entry["status"], "rolled-back", "{call}: {entry:#}");
            machine.is_as_before(aws, &before).await;
            assert_eq!(machine.state(aws).await, "running", "{call}");
            let mut left = 0;
            for original in machine.originals() {
                left += copies(aws, original).await.len();
            }
            assert_eq!(left, copies_left, "{call}: what was never attached goes");
            let messages = told(aws, &machine.id, 3).await;
            contains(&messages[1], &["opts it out"]);
        }
    });
}

#[test]
fn what_is_attached_is_only_told_by_default_and_a_refusal_is_told_once() {
    scenario(async |aws| {
        aws.set_policy(&at_once()).await.unwrap();
        let machine = Machine::new(aws).await;
        let event = cloudtrail::instance_state(&machine.id, "running");
        assert_eq!(look(aws, &event), "notified");
        assert_eq!(look(aws, &event), "known");
        assert_eq!(look(aws, &created(&machine.data)), "known");
        let messages = told(aws, &machine.id, 1).await;
        contains(&messages[0], &[&machine.root, &machine.data, "`notify`"]);

        let claimed = loose(aws, &[("kubernetes.io/created-for/pvc/name", "claim-1")]).await;
        assert_eq!(look(aws, &created(&claimed)), "refused");
        assert_eq!(look(aws, &created(&claimed)), "known");
        let messages = told(aws, &claimed, 1).await;
        contains(&messages[0], &["Kubernetes"]);
        assert_eq!(made(aws), Vec::<String>::new());
    });
}

// ---- undo

#[test]
fn an_undo_puts_the_originals_back_opted_out_and_keeps_the_copies() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        aws.proxy.copy_volumes(true);
        let machine = Machine::new(aws).await;
        let before = machine.devices(aws).await;
        once_told(aws, "CreateSnapshot", 1);
        let entry = machine.swapped(aws).await;
        once_told(aws, "StopInstances", 3);
        let answer = undo(aws, &request(&entry));
        assert_eq!(answer["verdict"], "begun", "{answer}");
        let entries = ended(aws, &machine.id, 2).await;
        let back = entries
            .iter()
            .find(|e| e["document"]["undoes"] == entry["document"]["id"])
            .unwrap();
        assert_eq!(back["document"]["id"], answer["undo"]);
        assert_eq!(back["status"], "rolled-back");
        machine.is_as_before(aws, &before).await;
        assert_eq!(machine.state(aws).await, "running");
        for id in [&machine.root, &machine.data] {
            let tag = &tags(volume(aws, id).await.tags())[OPT_OUT];
            assert!(
                tag.starts_with("unencrypted-volume until=")
                    && tag.contains(" owner=jo@example.com reason=undo"),
                "{tag}"
            );
            assert_eq!(copies(aws, id).await.len(), 1, "kept");
        }
        // Told: begun and ended, twice.
        let messages = told(aws, &machine.id, 4).await;
        contains(&messages[2], &["DOWNTIME", "jo@example.com"]);
        contains(&messages[3], &["UNDONE"]);

        // The echo of its start: opted out, so that the two do not fight.
        let event = cloudtrail::instance_state(&machine.id, "running");
        assert_eq!(look(aws, &event), "exempt");
        let again = undo(aws, &request(&entry));
        assert_eq!(again["verdict"], "already-as-before", "{again}");
        let by = answer["undo"].as_str().unwrap();
        assert!(again["message"].as_str().unwrap().contains(by), "{again}");
        machine.is_as_before(aws, &before).await;
    });
}

#[test]
fn an_undo_whose_original_is_gone_says_so_and_one_of_a_loose_volume_opts_it_out() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        let machine = Machine::new(aws).await;
        let entry = machine.swapped(aws).await;
        let devices = machine.devices(aws).await;
        let delete = aws.ec2.delete_volume().volume_id(&machine.data);
        delete.send().await.unwrap();
        let changes = made(aws).len();
        let answer = undo(aws, &request(&entry));
        assert_eq!(answer["verdict"], "refused", "{answer}");
        let snapshots = snapshots(aws).await;
        let (safety, _) = snapshots
            .iter()
            .find(|(_, (of, what))| *of == machine.data && what == "safety")
            .unwrap();
        let message = answer["message"].as_str().unwrap();
        assert!(
            message.contains(&machine.data) && message.contains(safety),
            "{message}"
        );
        assert_eq!(machine.devices(aws).await, devices);
        assert_eq!(made(aws).len(), changes, "nothing was changed");

        let id = loose(aws, &[]).await;
        aws.deliver(&created(&id)).await.unwrap();
        let entry = &ended(aws, &id, 1).await[0];
        let copy = copy(aws, &id, entry).await;
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(&copy));
        let tags = tags(volume(aws, &id).await.tags());
        assert!(tags[OPT_OUT].starts_with("unencrypted-volume until="));
        volume(aws, &copy).await;
    });
}

// ---- the account's setting

/// Turns it off, as a person would, and gives the event.
async fn turn_off(aws: &LocalAws) -> Value {
    let disable = aws.ec2.disable_ebs_encryption_by_default();
    disable.send().await.unwrap();
    cloudtrail::call(
        "DisableEbsEncryptionByDefault",
        json!({"DisableEbsEncryptionByDefaultRequest": {}}),
        json!({"ebsEncryptionByDefault": false}),
    )
}

/// A policy that exempts the account.
fn exempt_account() -> Value {
    let exemption = json!({"until": "2099-12-31", "owner": "jo@example.com"});
    json!({"version": 1, "controls": {"encryption-by-default": {
        "mode": "enforce", "settings": {"exemption": exemption},
    }}})
}

async fn is_on(aws: &LocalAws) -> bool {
    let get = aws.ec2.get_ebs_encryption_by_default();
    get.send().await.unwrap().ebs_encryption_by_default() == Some(true)
}

/// Has it on, and the sweep know: what is turned off from now on is new.
async fn turn_on(aws: &LocalAws) {
    let enable = aws.ec2.enable_ebs_encryption_by_default();
    enable.send().await.unwrap();
    settle(aws).await;
}

#[test]
fn encryption_by_default_is_turned_on_again_unless_the_policy_exempts_the_account() {
    scenario(async |aws| {
        turn_on(aws).await;
        let of_setting = async || {
            let mut all = aws.entries().await.unwrap();
            all.retain(|e| e["control"] == "encryption-by-default");
            all
        };
        let before = of_setting().await.len();
        let event = turn_off(aws).await;
        assert_eq!(aws.deliver(&event).await.unwrap(), [RESTORE]);
        let subject = "encryption by default in us-east-1";
        let messages = told(aws, subject, 1).await;
        contains(
            &messages[0],
            &["encryption by default is on", "jo@example.com"],
        );
        assert!(is_on(aws).await);
        assert_eq!(made(aws), ["EnableEbsEncryptionByDefault -"]);
        let entries = of_setting().await;
        assert_eq!(entries.len(), before + 1);
        let entry = entries.last().unwrap();
        assert_eq!(
            (&entry["status"], &entry["told"]),
            (&json!("remediated"), &json!(true))
        );
        // Without an exemption it would be turned on again at once.
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "refused", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("exemption"));
        assert!(is_on(aws).await);

        aws.set_policy(&exempt_account()).await.unwrap();
        let answer = undo(aws, &request(entry));
        assert_eq!(answer["verdict"], "undone", "{answer}");
        assert!(!is_on(aws).await);
        told(aws, subject, 2).await;
        assert_eq!(look_by(aws, RESTORE, &event), "exempt");
        assert_eq!(look_by(aws, RESTORE, &event), "known");
        let messages = told(aws, subject, 3).await;
        contains(&messages[2], &["jo@example.com"]);
        assert!(!is_on(aws).await);
        turn_on(aws).await;
    });
}

// ---- cut off

/// The key of a unit's lock.
pub(super) fn lock_of(unit: &str) -> String {
    format!("lock#{CONTROL}#{unit}")
}

#[test]
fn a_run_that_was_cut_off_with_its_instance_down_is_taken_up_by_the_sweep() {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        settle(aws).await;
        aws.proxy.copy_volumes(true);
        let machine = Machine::new(aws).await;
        once_told(aws, "CreateSnapshot", 1);
        // Somebody aborts the execution while the instance is being stopped.
        let stop = Held::next(aws, "StopInstances");
        aws.deliver(&cloudtrail::instance_state(&machine.id, "running"))
            .await
            .unwrap();
        stop.reached().await;
        let executions = aws.executions("RUNNING").unwrap();
        assert_eq!(executions.len(), 1);
        aws.stop_execution(&executions[0]).unwrap();
        stop.go_on();
        wait_for("the instance to be down", async || {
            (machine.state(aws).await == "stopped").then_some(())
        })
        .await;
        aws.quiet().await;
        let entry = aws.entries_of(&machine.id).await.unwrap().remove(0);
        assert_eq!(entry["status"], "in-progress");
        let id = entry["document"]["id"].as_str().unwrap();
        assert!(executions[0].ends_with(id), "{executions:?}");

        // Whoever looks leaves it alone until its lease has lapsed.
        let event = cloudtrail::instance_state(&machine.id, "stopped");
        assert_eq!(look(aws, &event), "another run will look again");
        aws.lapse(&lock_of(&machine.id)).await.unwrap();
        age(aws, entry["pk"].as_str().unwrap()).await;
        sweep(aws);
        let entry = ended(aws, &machine.id, 1).await.remove(0);
        assert_eq!(entry["status"], "remediated", "{entry:#}");
        assert_eq!(entry["document"]["attempts"], 2);
        assert_eq!(machine.state(aws).await, "running");
        let root = copy(aws, &machine.root, &entry).await;
        let data = copy(aws, &machine.data, &entry).await;
        assert_eq!(made(aws), machine.steps(&root, &data), "each step once");
        told(aws, &machine.id, 2).await;
    });
}

#[test]
fn a_run_whose_execution_does_not_start_is_taken_up_by_the_retry() {
    scenario(async |aws| {
        aws.set_policy(&at_once()).await.unwrap();
        let id = loose(aws, &[]).await;
        aws.proxy.fail_next(
            "StartExecution",
            1,
            Fault::error(400, "AccessDeniedException", "no"),
        );
        once_told(aws, "CreateSnapshot", 1);
        aws.deliver(&created(&id)).await.unwrap();
        let entry = &ended(aws, &id, 1).await[0];
        assert_eq!(entry["status"], "remediated");
        assert_eq!(entry["document"]["attempts"], 2);
        copy(aws, &id, entry).await;
        told(aws, &id, 2).await;
        assert_eq!(aws.failed_events().await.unwrap(), Vec::<Value>::new());
    });
}

/// The changes of a swap by direct copies, by operation.
const OF_A_SWAP: &[&str] = &[
    "CreateSnapshot",
    "StopInstances",
    "CopyVolumes",
    "DetachVolume",
    "AttachVolume",
    "ModifyInstanceAttribute",
    "StartInstances",
    "CreateTags",
];

/// Swaps an instance's volumes as often as a swap has changes; each time another
/// one of them meets the fault.
fn each_change_is_made_once(fault: fn() -> Fault) {
    scenario(async |aws| {
        aws.set_policy(&swap_always()).await.unwrap();
        for call in OF_A_SWAP {
            let machine = Machine::new(aws).await;
            let before = machine.devices(aws).await;
            // Not to be counted as a storm, or against the budget.
            aws.forget_what_lasts().await.unwrap();
            aws.proxy.reset();
            aws.proxy.copy_volumes(true);
            let function = aws.resource(ENCRYPT);
            aws.proxy.fail_call_of(function, call, 0, fault());
            let entry = machine.swapped(aws).await;
            assert_eq!(aws.proxy.faults_left(), 0, "{call}");
            assert_eq!(machine.state(aws).await, "running", "{call}");
            let mut expected = before;
            for (device, original) in [("/dev/xvda", &machine.root), ("/dev/sdf", &machine.data)] {
                let copy = copy(aws, original, &entry).await;
                expected.get_mut(device).unwrap().0 = copy;
                let mut of_volume = snapshots(aws).await;
                of_volume.retain(|_, (of, _)| of == original);
                assert_eq!(of_volume.len(), 1, "{call}");
            }
            assert_eq!(machine.devices(aws).await, expected, "{call}");
        }
    });
}

#[test]
fn a_change_whose_answer_is_lost_is_made_once() {
    each_change_is_made_once(|| Fault::AnswerLost);
}

#[test]
fn a_change_whose_process_dies_is_made_once() {
    each_change_is_made_once(|| Fault::Kill);
}

// ---- the sweep

#[test]
fn the_sweep_meets_lost_events_lists_what_is_kept_and_deletes_it_when_the_policy_says_so() {
    scenario(async |aws| {
        aws.set_policy(&at_once()).await.unwrap();
        settle(aws).await;
        aws.proxy.copy_volumes(true);
        let (id, opted_out) = (loose(aws, &[]).await, loose(aws, &[]).await);
        sweep(aws);
        let entry = ended(aws, &id, 1).await.remove(0);
        let kept_copy = copy(aws, &id, &entry).await;
        ended(aws, &opted_out, 1).await;
        aws.quiet().await;
        let met = &digests(aws).pop().unwrap()["about"]["met_first"];
        assert_eq!(met["count"], 2, "{met}");

        sweep(aws);
        aws.quiet().await;
        let digest = digests(aws).pop().unwrap();
        let kept = digest["about"]["kept"].as_object().unwrap();
        assert_eq!(kept.len(), 2, "originals and snapshots: {kept:?}");
        for of in kept.values() {
            assert_eq!(of["count"], 2, "{kept:?}");
        }
        let originals = kept.values().flat_map(|of| of["examples"].as_array());
        assert!(originals.flatten().any(|one| *one == id.as_str()));
        assert_eq!(sweep(aws), "nothing new");

        // Days later, with a policy that says so.
        tag(aws, &opted_out, "unencrypted-volume until=2099-12-31").await;
        let delete = policy(json!({"settling_minutes": 0, "originals": {"delete_after_days": 1}}));
        aws.set_policy(&delete).await.unwrap();
        sweep(aws);
        aws.quiet().await;
        volume(aws, &id).await;
        let bystander = loose(aws, &[(OPT_OUT, "all")]).await;
        let rewrite = Fault::Rewrite(Box::new(|answer| long_ago(&answer)));
        aws.proxy.reset();
        aws.proxy.fail_next("DescribeVolumes", 1000, rewrite);
        sweep(aws);
        aws.quiet().await;
        let left = volumes(aws).await;
        assert!(!left.contains_key(&id), "deleted");
        for stays in [&kept_copy, &opted_out, &bystander] {
            assert!(left.contains_key(stays), "{stays}");
        }
        assert_eq!(made(aws), [format!("DeleteVolume {id}")]);
        let digest = digests(aws).pop().unwrap();
        assert_eq!(digest["about"]["deleted"]["examples"], json!([id]));
        let answer = undo(aws, &request(&entry));
        assert_eq!(answer["verdict"], "refused", "{answer}");
    });
}

// ---- rights

/// Rights that no call of ours uses: EC2 calls KMS in the role's name when a
/// copy is made under a key that AWS does not manage.
pub(crate) const OF_EC2: &[&str] = &[
    // reads a snapshot, or a volume, that is encrypted under another key
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    // lets the instance decrypt as long as the volume is attached
    "kms:CreateGrant",
];

/// Makes encrypt-volume, the sweep and undo call everything that they may call
/// for volumes.
pub(crate) async fn exercise(aws: &LocalAws) {
    clear(aws).await;
    let mut policy = swap_always();
    policy["controls"][CONTROL]["settings"]["kms_key"] = json!(aws.create_key().unwrap());
    policy["controls"][CONTROL]["settings"]["originals"] = json!({"delete_after_days": 1});
    aws.set_policy(&policy).await.unwrap();
    let machine = Machine::new(aws).await;
    // Back, with a copy to delete.
    opt_out_before(aws, "CreateVolume", &machine.id);
    aws.deliver(&cloudtrail::instance_state(&machine.id, "running"))
        .await
        .unwrap();
    ended(aws, &machine.id, 2).await;
    let untag = aws.ec2.delete_tags().resources(&machine.id);
    let untag = untag.tags(Tag::builder().key(OPT_OUT).build());
    untag.send().await.unwrap();
    aws.deliver(&cloudtrail::instance_state(&machine.id, "running"))
        .await
        .unwrap();
    let entries = ended(aws, &machine.id, 3).await;
    let entry = entries.iter().find(|e| e["status"] == "remediated");
    assert_eq!(undo(aws, &request(entry.unwrap()))["verdict"], "begun");
    ended(aws, &machine.id, 4).await;
    // An original that has been kept for long enough.
    let id = loose(aws, &[]).await;
    aws.deliver(&created(&id)).await.unwrap();
    ended(aws, &id, 1).await;
    let rewrite = Fault::Rewrite(Box::new(|answer| long_ago(&answer)));
    aws.proxy.fail_next("DescribeVolumes", 1000, rewrite);
    sweep(aws);
    aws.quiet().await;
    aws.proxy.reset();
    turn_on(aws).await;
    // The setting is restored by a retry, which reads its own entry, and taken back
    // under an exemption.
    let off = turn_off(aws).await;
    let enable = "EnableEbsEncryptionByDefault";
    aws.proxy.fail_next(enable, 1, Fault::denied());
    aws.deliver(&off).await.unwrap();
    wait_for("the setting to be on", async || {
        is_on(aws).await.then_some(())
    })
    .await;
    aws.quiet().await;
    let mut entries = aws.entries().await.unwrap();
    entries.retain(|entry| {
        entry["control"] == "encryption-by-default" && entry["status"] == "remediated"
    });
    aws.set_policy(&exempt_account()).await.unwrap();
    let answer = undo(aws, &request(entries.last().unwrap()));
    assert_eq!(answer["verdict"], "undone", "{answer}");
    turn_on(aws).await;
    clear(aws).await;
}
