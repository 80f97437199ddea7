//! Patching on the deployed stack: the real rules, queue and function, against
//! live instances. What each run changes is compared in full and in order, so
//! that whatever else were touched would show.

use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice, InstanceType};
use backstop_core::patching::PatchState;
use backstop_core::volumes::{ENTRY_TAG, PURPOSE_TAG};
use backstop_tests::native_events::{Finding, command_status, compliance};

use super::sweep::{age, settle, sweep};
use super::*;

pub(crate) const PATCH: &str = "PatchInstanceFunction";

const OPT_OUT: &str = "backstop:opt-out";

/// Volumes of an instance.
pub(super) const VOLUMES: usize = 2;

/// Removes every instance and snapshot.
async fn clear(aws: &LocalAws) {
    let found = aws.ec2.describe_instances().send().await.unwrap();
    let all = found.reservations().iter().flat_map(|r| r.instances());
    let ids: Vec<String> = all
        .filter(|i| i.state().and_then(|s| s.name()).unwrap().as_str() != "terminated")
        .map(|instance| instance.instance_id().unwrap().to_owned())
        .collect();
    if !ids.is_empty() {
        let terminate = aws.ec2.terminate_instances().set_instance_ids(Some(ids));
        terminate.send().await.unwrap();
    }
    for (id, _) in snapshots(aws).await {
        let delete = aws.ec2.delete_snapshot().snapshot_id(id);
        delete.send().await.unwrap();
    }
    let volumes = aws.ec2.describe_volumes().send().await.unwrap();
    for volume in volumes.volumes() {
        let delete = aws.ec2.delete_volume();
        let delete = delete.set_volume_id(volume.volume_id.clone());
        delete.send().await.unwrap();
    }
}

// ---- the world

/// Running instances that Systems Manager does not manage and that have no way
/// to it; each has two encrypted volumes.
pub(super) async fn bare(aws: &LocalAws, count: usize, tags: &[(&str, &str)]) -> Vec<String> {
    let ec2 = &aws.ec2;
    let vpc = ec2.create_vpc().cidr_block("10.0.0.0/16").send().await;
    let vpc = vpc.unwrap().vpc.unwrap().vpc_id.unwrap();
    let subnet = ec2.create_subnet().vpc_id(vpc).cidr_block("10.0.0.0/20");
    let subnet = subnet.send().await.unwrap().subnet.unwrap();
    let image = ec2
        .register_image()
        .name(format!("image-{}", aws.next()))
        .root_device_name("/dev/xvda");
    let image = image.send().await.unwrap().image_id.unwrap();
    let device = |name: &str| {
        let ebs = EbsBlockDevice::builder()
            .volume_size(8)
            .delete_on_termination(true)
            .encrypted(true);
        let device = BlockDeviceMapping::builder().device_name(name);
        device.ebs(ebs.build()).build()
    };
    let mut all = vec![("Name", "web-1"), ("owner", "team-web")];
    all.extend_from_slice(tags);
    let count = i32::try_from(count).unwrap();
    let run = ec2
        .run_instances()
        .image_id(image)
        .instance_type(InstanceType::T3Micro)
        .subnet_id(subnet.subnet_id.unwrap())
        .min_count(count)
        .max_count(count)
        .block_device_mappings(device("/dev/xvda"))
        .block_device_mappings(device("/dev/sdf"))
        .tag_specifications(specification(ResourceType::Instance, &all));
    let run = run.send().await.unwrap();
    let ids = run.instances().iter().map(|i| i.instance_id().unwrap());
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort();
    for id in &ids {
        aws.proxy.started_at(id, hours_ago(3));
    }
    ids
}

fn hours_ago(hours: i64) -> jiff::Timestamp {
    jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours)
}

/// Instances that are online and were scanned yesterday, with nothing missing.
async fn servers(aws: &LocalAws, count: usize, tags: &[(&str, &str)]) -> Vec<String> {
    let ids = bare(aws, count, tags).await;
    for id in &ids {
        aws.manage(id, true);
        lacks(aws, id, 0);
    }
    ids
}

pub(super) async fn server(aws: &LocalAws, tags: &[(&str, &str)]) -> String {
    servers(aws, 1, tags).await.remove(0)
}

/// Yesterday's scan of an instance found so many approved patches missing.
pub(super) fn lacks(aws: &LocalAws, id: &str, missing: u32) {
    let state = PatchState {
        operation: "Scan".to_owned(),
        ended_at: Some(hours_ago(26)),
        missing,
        ..PatchState::default()
    };
    aws.patch_state(id, Some(state));
    let titles: Vec<String> = (0..missing).map(|n| format!("openssl-libs-{n}")).collect();
    let patches: Vec<(&str, &str)> = titles.iter().map(|t| (t.as_str(), "CVE-2026-1")).collect();
    aws.proxy.systems_manager.missing(id, &patches);
}

/// Ends a command on an instance; where it succeeded, or left nothing to do, so
/// many patches are still missing.
pub(super) fn end(aws: &LocalAws, command: &str, id: &str, status: &str, missing: u32) {
    aws.proxy.systems_manager.end_command(command, id, status);
    if status == "Success" || missing == 0 {
        let state = PatchState {
            operation: "Install".to_owned(),
            missing,
            ..PatchState::default()
        };
        aws.patch_state(id, Some(state));
    }
}

/// The volumes' snapshots, by id, with their tags.
pub(super) async fn snapshots(aws: &LocalAws) -> BTreeMap<String, BTreeMap<String, String>> {
    let found = aws.ec2.describe_snapshots().send().await.unwrap();
    let ours =
        |s: &&aws_sdk_ec2::types::Snapshot| s.tags().iter().any(|t| t.key() == Some(PURPOSE_TAG));
    let tags = |s: &aws_sdk_ec2::types::Snapshot| {
        let tags = s.tags().iter();
        tags.map(|t| (t.key().unwrap().to_owned(), t.value().unwrap().to_owned()))
            .collect()
    };
    let all = found.snapshots().iter().filter(ours);
    all.map(|s| (s.snapshot_id().unwrap().to_owned(), tags(s)))
        .collect()
}

/// A policy that names how patches are installed.
fn patching(settings: Value) -> Value {
    json!({"version": 1, "patching": settings})
}

// ---- what came of it

/// Everything that functions changed in EC2, and every command they sent, in
/// order.
fn made(aws: &LocalAws) -> Vec<String> {
    let reads = |action: &str| action.starts_with("Describe") || action.starts_with("Get");
    let calls = aws
        .proxy
        .calls()
        .into_iter()
        .filter(|call| call.status == 200);
    calls
        .filter_map(|call| match (call.service.as_str(), call.action.as_str()) {
            ("ssm", "SendCommand") => {
                let operation = &call.request["Parameters"]["Operation"][0];
                let ids = named(&call.request).join(" ");
                Some(format!("{} {ids}", operation.as_str().unwrap()))
            }
            ("ssm", action) if reads(action) || action.starts_with("List") => None,
            ("ec2", action) if !reads(action) => {
                let id = &call.request["InstanceSpecification.InstanceId"];
                Some(format!("{action} {}", id.as_str().unwrap_or("-")))
            }
            ("ssm", other) => Some(other.to_owned()),
            _ => None,
        })
        .collect()
}

/// The instances that a command names.
fn named(command: &Value) -> Vec<String> {
    let ids = command["InstanceIds"].as_array().unwrap().iter();
    let mut ids: Vec<String> = ids.map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// The one command that was ever sent to an instance, by id.
pub(super) fn command(aws: &LocalAws, id: &str) -> String {
    let commands = aws.commands_to(id);
    assert_eq!(commands.len(), 1, "{commands:#?}");
    commands[0]["CommandId"].as_str().unwrap().to_owned()
}

/// Waits until the last entry of an instance has a status, and gives it.
async fn comes_to(aws: &LocalAws, id: &str, status: &str) -> Value {
    let started = Instant::now();
    loop {
        let entries = aws.entries_of(id).await.unwrap();
        if let Some(entry) = entries.last().filter(|entry| entry["status"] == status) {
            return entry.clone();
        }
        if started.elapsed() > PATIENCE {
            panic!(
                "{id} does not come to {status}: {entries:#?}; {:#?}; {:#?}",
                made(aws),
                problems(aws),
            );
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Waits until a run's command has been sent, and gives the command's id.
async fn sent(aws: &LocalAws, id: &str) -> String {
    let what = format!("a command to {id}");
    wait_for(&what, async || {
        let entries = aws.entries_of(id).await.unwrap();
        let sent = entries.last()?["document"]["command"].is_object();
        sent.then_some(())
    })
    .await;
    command(aws, id)
}

/// What the function warned of, for a test that fails.
fn problems(aws: &LocalAws) -> Vec<Value> {
    let mut logs = aws.logs(PATCH).unwrap();
    logs.retain(|line| line["level"] == "WARN" || line["level"] == "ERROR");
    logs
}

/// Waits until the messages about an instance have these outcomes, in order,
/// and no more, and gives them.
pub(super) async fn told(aws: &LocalAws, id: &str, outcomes: &[&str]) -> Vec<Published> {
    let started = Instant::now();
    while about(aws, id).len() < outcomes.len() && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    aws.quiet().await;
    let messages = about(aws, id);
    let told: Vec<&str> = messages.iter().map(outcome).collect();
    assert_eq!(told, outcomes, "about {id}; {:#?}", problems(aws));
    messages
}

/// Waits for the message about an instance that tells an outcome: the last one.
async fn told_last(aws: &LocalAws, id: &str, last: &str) -> Published {
    let message = wait_for(last, async || {
        about(aws, id).into_iter().find(|m| outcome(m) == last)
    });
    let message = message.await;
    aws.quiet().await;
    assert_eq!(about(aws, id).last().map(outcome), Some(last));
    message
}

/// The messages about an instance that are no digest.
fn about(aws: &LocalAws, id: &str) -> Vec<Published> {
    let mut all = published_about(aws, id);
    all.retain(|message| outcome(message) != "digest");
    all
}

fn outcome(message: &Published) -> &str {
    message
        .attributes
        .get("outcome")
        .map_or("-", String::as_str)
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
    match aws.call(PATCH, event) {
        Ok(answer) => answer["verdict"].as_str().unwrap().to_owned(),
        Err(error) => panic!("{error}"),
    }
}

/// Events as the queue hands them to the function.
fn batch<'a>(events: impl IntoIterator<Item = &'a Value>) -> Value {
    let record = |(n, event): (usize, &Value)| json!({"messageId": format!("m-{n}"), "body": event.to_string(), "eventSource": "aws:sqs"});
    let records: Vec<Value> = events.into_iter().enumerate().map(record).collect();
    json!({ "Records": records })
}

/// Holds that nobody has done anything about an instance.
async fn is_untouched(aws: &LocalAws, id: &str) {
    assert_eq!(aws.commands_to(id), Vec::<Value>::new());
    assert_eq!(aws.entries_of(id).await.unwrap(), Vec::<Value>::new());
    let made = made(aws);
    assert!(!made.iter().any(|what| what.contains(id)), "{made:#?}");
}

/// Holds that nothing of an instance is locked.
async fn is_free(aws: &LocalAws, id: &str) {
    let lock = aws.ledger_item(&lock_of(id), "lock").await.unwrap();
    assert!(lock.is_none(), "{lock:#?}");
}

/// Its controls share a lock.
pub(super) fn lock_of(id: &str) -> String {
    format!("lock#missing-patches#{id}")
}

// ---- findings of Inspector's

#[test]
fn what_inspector_finds_in_the_operating_system_is_patched_and_closed_by_inspector_alone() {
    scenario(async |aws| {
        let ids = servers(aws, 2, &[]).await;
        let (id, bystander) = (&ids[0], &ids[1]);
        let findings = [
            Finding::os(id, "CVE-2026-0001", "curl"),
            Finding::os(id, "CVE-2026-0002", "openssl"),
        ];
        let found = findings.each_ref().map(Finding::active);
        assert_eq!(aws.deliver(&found[0]).await.unwrap(), [PATCH]);
        let command = sent(aws, id).await;
        let entry = comes_to(aws, id, "in-progress").await;
        assert_eq!(entry["control"], "vulnerable-package");

        // Snapshots first, then one command, and nothing else.
        let steps = [format!("CreateSnapshots {id}"), format!("Install {id}")];
        assert_eq!(made(aws), steps);
        let snapshots = snapshots(aws).await;
        assert_eq!(snapshots.len(), VOLUMES);
        for tags in snapshots.values() {
            assert_eq!(tags[PURPOSE_TAG], "safety");
            assert_eq!(
                Some(tags[ENTRY_TAG].as_str()),
                entry["document"]["id"].as_str()
            );
        }
        let asked = &aws.proxy.calls_of("SendCommand")[0].request;
        assert_eq!(asked["DocumentName"], "AWS-RunPatchBaseline");
        assert_eq!(
            asked["Parameters"],
            json!({"Operation": ["Install"], "RebootOption": ["NoReboot"]})
        );
        assert_eq!(asked["MaxErrors"], "10%");
        assert!(asked["Comment"].as_str().unwrap().starts_with("Backstop "));
        assert!(
            asked["CloudWatchOutputConfig"]["CloudWatchLogGroupName"]
                .as_str()
                .unwrap()
                .contains("patch")
        );
        let begun = told(aws, id, &["in-progress"]).await.remove(0);
        let mut parts: Vec<&str> = snapshots.keys().map(String::as_str).collect();
        parts.extend(["web-1", "CVE-2026-0001", "curl"]);
        contains(&begun, &parts);

        // Meanwhile: the same once more, and another one.
        let missing = compliance(id, "non_compliant");
        for event in [&found[0], &found[1], &missing] {
            assert_eq!(aws.deliver(event).await.unwrap(), [PATCH]);
        }
        aws.quiet().await;
        assert_eq!(made(aws), steps);

        end(aws, &command, id, "Success", 0);
        let ended = command_status(&command, id, "Success");
        assert_eq!(aws.deliver(&ended).await.unwrap(), [PATCH]);
        comes_to(aws, id, "awaiting-rescan").await;
        told(aws, id, &["in-progress", "awaiting-rescan"]).await;
        is_free(aws, id).await;

        // Inspector closes them, one after the other.
        aws.deliver(&findings[0].closed()).await.unwrap();
        aws.quiet().await;
        told(aws, id, &["in-progress", "awaiting-rescan"]).await;
        aws.deliver(&findings[1].closed()).await.unwrap();
        let entry = comes_to(aws, id, "remediated").await;
        let messages = told(aws, id, &["in-progress", "awaiting-rescan", "remediated"]).await;
        contains(&messages[2], &[id]);
        assert_eq!(messages[2].attributes["team"], "team-web");
        assert!(entry["document"]["finished_at"].is_string(), "{entry:#}");

        // Everything again.
        let [first, second] = found;
        for event in [first, second, ended, findings[0].closed()] {
            look(aws, &event);
        }
        aws.quiet().await;
        assert_eq!(made(aws), steps);
        assert_eq!(aws.entries_of(id).await.unwrap().len(), 1);
        told(aws, id, &["in-progress", "awaiting-rescan", "remediated"]).await;
        is_untouched(aws, bystander).await;
        is_free(aws, id).await;
    });
}

#[test]
fn what_only_an_application_can_mend_is_told_in_inspectors_words_and_nothing_is_sent() {
    scenario(async |aws| {
        let id = &server(aws, &[]).await;
        let finding = Finding::application(id, "CVE-2026-0003", "requests");
        let unfixed = Finding {
            fixed_in: None,
            ..Finding::os(id, "CVE-2026-0004", "kernel")
        };
        assert_eq!(aws.deliver(&finding.active()).await.unwrap(), [PATCH]);
        comes_to(aws, id, "notified").await;
        let message = told(aws, id, &["notified"]).await.remove(0);
        contains(&message, &["CVE-2026-0003", "requests", &finding.advice()]);
        assert_eq!(look(aws, &finding.active()), "known");
        // What has no fix yet is another package to tell.
        aws.deliver(&unfixed.active()).await.unwrap();
        let messages = told(aws, id, &["notified", "notified"]).await;
        contains(&messages[1], &["CVE-2026-0004", "kernel"]);
        // Below the severity that the policy names: nothing.
        let small = Finding {
            severity: "MEDIUM",
            ..Finding::os(id, "CVE-2026-0005", "vim")
        };
        aws.deliver(&small.active()).await.unwrap();
        aws.quiet().await;
        told(aws, id, &["notified", "notified"]).await;
        assert_eq!(made(aws), Vec::<String>::new());
        assert_eq!(aws.commands_to(id).len(), 0);
        is_free(aws, id).await;
    });
}

// ---- missing patches

#[test]
fn missing_patches_are_installed_and_what_is_missing_afterwards_decides() {
    scenario(async |aws| {
        // How the command ends, how many patches are missing then, what came of it.
        for (status, missing, came_to) in [
            ("Success", 0, "remediated"),
            ("Success", 1, "failed"),
            ("Failed", 2, "failed"),
            // What it shows counts, and not how the command ended.
            ("Failed", 0, "remediated"),
        ] {
            aws.forget_what_lasts().await.unwrap();
            aws.proxy.reset();
            let id = &server(aws, &[]).await;
            lacks(aws, id, 2);
            let event = compliance(id, "non_compliant");
            assert_eq!(aws.deliver(&event).await.unwrap(), [PATCH]);
            let command = sent(aws, id).await;
            let steps = [format!("CreateSnapshots {id}"), format!("Install {id}")];
            assert_eq!(made(aws), steps);
            let begun = told(aws, id, &["in-progress"]).await.remove(0);
            contains(&begun, &["openssl-libs-0", "openssl-libs-1"]);

            end(aws, &command, id, status, missing);
            aws.deliver(&command_status(
                &command,
                id,
                if status == "Success" {
                    status
                } else {
                    "Failed"
                },
            ))
            .await
            .unwrap();
            let what = format!("{status} with {missing} missing");
            let entries = wait_for(&what, async || {
                let entries = aws.entries_of(id).await.unwrap();
                (entries[0]["status"] != "in-progress").then_some(entries)
            })
            .await;
            assert_eq!(entries[0]["status"], came_to, "{what}: {entries:#?}");
            assert_eq!(entries[0]["control"], "missing-patches");
            // What is still missing is found again, and waits for the cool-down.
            let outcomes: &[&str] = match came_to {
                "failed" => &["in-progress", "failed", "pending"],
                _ => &["in-progress", "remediated"],
            };
            let messages = told(aws, id, outcomes).await;
            if came_to == "failed" {
                contains(&messages[1], &[&command, id]);
                comes_to(aws, id, "pending").await;
            }
            // Delivered again, before and after the end: nothing new.
            look(aws, &event);
            look(aws, &command_status(&command, id, "Failed"));
            aws.quiet().await;
            told(aws, id, outcomes).await;
            assert_eq!(made(aws), steps);
            is_free(aws, id).await;
        }
    });
}

#[test]
fn an_instance_that_was_never_scanned_is_scanned_and_nothing_else() {
    scenario(async |aws| {
        let id = &server(aws, &[]).await;
        aws.patch_state(id, None);
        let event = cloudtrail::instance_state(id, "running");
        assert!(
            aws.deliver(&event)
                .await
                .unwrap()
                .contains(&PATCH.to_owned())
        );
        let command = sent(aws, id).await;
        assert_eq!(made(aws), [format!("Scan {id}")], "no snapshot, no Install");
        aws.proxy
            .systems_manager
            .end_command(&command, id, "Success");
        let state = PatchState {
            operation: "Scan".to_owned(),
            ..PatchState::default()
        };
        aws.patch_state(id, Some(state));
        aws.deliver(&command_status(&command, id, "Success"))
            .await
            .unwrap();
        comes_to(aws, id, "remediated").await;
        assert_eq!(look(aws, &event), "nothing to do");
        assert_eq!(made(aws).len(), 1);
        is_free(aws, id).await;
    });
}

// ---- what is not patched

#[test]
fn an_instance_that_systems_manager_does_not_manage_is_told_with_what_it_lacks() {
    scenario(async |aws| {
        let id = &bare(aws, 1, &[]).await.remove(0);
        let event = cloudtrail::instance_state(id, "running");
        assert!(
            aws.deliver(&event)
                .await
                .unwrap()
                .contains(&PATCH.to_owned())
        );
        let entry = comes_to(aws, id, "notified").await;
        assert_eq!(entry["control"], "unmanaged-instance");
        let message = told(aws, id, &["notified"]).await.remove(0);
        contains(
            &message,
            &[
                "AmazonSSMManagedInstanceCore",
                "no default route",
                "ssmmessages",
            ],
        );
        // Found by Inspector all the same: still nothing can be sent.
        let finding = Finding::os(id, "CVE-2026-0006", "curl");
        aws.deliver(&finding.active()).await.unwrap();
        aws.quiet().await;
        assert_eq!(made(aws), Vec::<String>::new());

        // One whose agent is silent.
        let silent = &server(aws, &[]).await;
        aws.manage(silent, false);
        aws.deliver(&compliance(silent, "non_compliant"))
            .await
            .unwrap();
        let message = told(aws, silent, &["notified"]).await.remove(0);
        contains(&message, &["ConnectionLost"]);
        // A young one may not have registered yet.
        let young = &bare(aws, 1, &[]).await.remove(0);
        aws.proxy.started_at(young, jiff::Timestamp::now());
        let running = cloudtrail::instance_state(young, "running");
        assert_ne!(look(aws, &running), "notified");
        is_untouched(aws, young).await;
        assert_eq!(made(aws), Vec::<String>::new());
        assert_eq!(aws.commands_to(id).len() + aws.commands_to(silent).len(), 0);
    });
}

#[test]
fn what_is_opted_out_or_to_be_replaced_is_told_and_left_as_it_is() {
    scenario(async |aws| {
        const GROUP: &str = "aws:autoscaling:groupName";
        for (tag, status, part) in [
            ((OPT_OUT, "missing-patches"), "exempt", OPT_OUT),
            ((OPT_OUT, "all"), "exempt", OPT_OUT),
            ((OPT_OUT, "yes please"), "held", OPT_OUT),
            ((GROUP, "workers"), "refused", "workers"),
        ] {
            let id = &server(aws, &[tag]).await;
            lacks(aws, id, 3);
            let finding = Finding::os(id, "CVE-2026-0007", "curl").active();
            assert_eq!(aws.deliver(&finding).await.unwrap(), [PATCH]);
            comes_to(aws, id, status).await;
            let message = told(aws, id, &[status]).await.remove(0);
            contains(&message, &[id, part]);
            assert_eq!(look(aws, &finding), "known");
            assert_eq!(look(aws, &compliance(id, "non_compliant")), "known");
            told(aws, id, &[status]).await;
            assert_eq!(aws.commands_to(id).len(), 0);
            is_free(aws, id).await;
        }
        assert_eq!(made(aws), Vec::<String>::new());
    });
}

#[test]
fn outside_its_window_an_instance_waits_and_the_sweep_finds_the_window_open() {
    scenario(async |aws| {
        settle(aws).await;
        // Two hours from now, for an hour.
        let at = |hours: i64| hours_ago(-hours).strftime("%H:%M").to_string();
        let closed = json!({"windows": [{"from": at(2), "to": at(3)}]});
        aws.set_policy(&patching(closed)).await.unwrap();
        let id = &server(aws, &[]).await;
        let finding = Finding::os(id, "CVE-2026-0008", "curl");
        aws.deliver(&finding.active()).await.unwrap();
        comes_to(aws, id, "pending").await;
        told(aws, id, &["pending"]).await;
        sweep(aws);
        aws.quiet().await;
        told(aws, id, &["pending"]).await;
        assert_eq!(made(aws), Vec::<String>::new());

        let open = json!({"windows": [{"from": "00:00", "to": "00:00"}]});
        aws.set_policy(&patching(open)).await.unwrap();
        sweep(aws);
        sent(aws, id).await;
        assert_eq!(
            made(aws),
            [format!("CreateSnapshots {id}"), format!("Install {id}")]
        );
        told(aws, id, &["pending", "in-progress"]).await;
    });
}

// ---- many at once

#[test]
fn of_a_command_that_is_denied_because_of_one_instance_the_others_are_patched() {
    scenario(async |aws| {
        let ids = servers(aws, 4, &[]).await;
        let denied = &ids[1];
        aws.proxy.systems_manager.deny_commands_to(denied);
        let events: Vec<Value> = ids[..3]
            .iter()
            .map(|id| Finding::os(id, "CVE-2026-0009", "curl").active())
            .collect();
        let answer = aws.call(PATCH, &batch(&events)).unwrap();
        assert_eq!(
            answer,
            json!({"batchItemFailures": []}),
            "{:#?}",
            problems(aws)
        );
        let tries: Vec<Vec<String>> = aws
            .proxy
            .calls_of("SendCommand")
            .iter()
            .map(|call| named(&call.request))
            .collect();
        // The refusal names the instance: it goes by itself, the others together.
        let others = vec![ids[0].clone(), ids[2].clone()];
        assert_eq!(tries, [ids[..3].to_vec(), vec![denied.clone()], others]);
        for id in &ids[..3] {
            if id == denied {
                comes_to(aws, id, "failed").await;
                // Told beforehand too, unless the message was made afterwards.
                let message = told_last(aws, id, "failed").await;
                contains(&message, &["AccessDenied", "ssm:SendCommand"]);
                assert_eq!(aws.commands_to(id).len(), 0);
                is_free(aws, id).await;
            } else {
                sent(aws, id).await;
                told(aws, id, &["in-progress"]).await;
            }
        }
        is_untouched(aws, &ids[3]).await;
    });
}

#[test]
fn five_thousand_findings_on_two_hundred_instances_are_one_run_each_and_few_commands() {
    const INSTANCES: usize = 200;
    const FINDINGS: usize = 5000;
    const A_BATCH: usize = 500;
    scenario(async |aws| {
        let mut policy = patching(json!({}));
        policy["controls"]["vulnerable-package"] = json!({"budget": {"changes_per_hour": 1000}});
        aws.set_policy(&policy).await.unwrap();
        let ids = servers(aws, INSTANCES, &[]).await;
        // Instance by instance as Inspector scans them, but for a part that is
        // in no order: what an instance has comes in several batches.
        let event = |n: usize| {
            let of = match n % 4 {
                0 => (n * 7919) % INSTANCES,
                _ => n * INSTANCES / FINDINGS,
            };
            Finding::os(&ids[of], &format!("CVE-2026-{n:05}"), "curl").active()
        };
        let events: Vec<Value> = (0..FINDINGS).map(event).collect();
        let started = Instant::now();
        for events in events.chunks(A_BATCH) {
            let answer = aws.call(PATCH, &batch(events)).unwrap();
            assert_eq!(
                answer,
                json!({"batchItemFailures": []}),
                "{:#?}",
                problems(aws)
            );
        }
        eprintln!(
            "    {FINDINGS} findings in {:.1} s",
            started.elapsed().as_secs_f32()
        );
        aws.quiet().await;

        let commands: Vec<_> = aws.proxy.calls_of("SendCommand");
        assert!(commands.len() <= 12, "{} commands", commands.len());
        let mut patched: Vec<String> = commands.iter().flat_map(|c| named(&c.request)).collect();
        patched.sort();
        assert_eq!(patched, ids, "every instance, in exactly one command");
        let entries = aws.entries().await.unwrap().into_iter();
        let entries = entries.filter(|entry| {
            let arn = entry["resource"].as_str().unwrap_or_default();
            ids.iter().any(|id| arn.ends_with(id.as_str()))
        });
        let entries: Vec<Value> = entries.collect();
        assert_eq!(entries.len(), INSTANCES);
        for entry in &entries {
            assert_eq!(entry["status"], "in-progress");
            assert!(entry["document"]["command"].is_object(), "{entry:#}");
        }
        let made = made(aws);
        let snapshots = made.iter().filter(|m| m.starts_with("CreateSnapshots"));
        assert_eq!(snapshots.count(), INSTANCES);
        assert_eq!(made.len(), INSTANCES + commands.len(), "nothing else");
    });
}

// ---- lost, cut off

#[test]
fn a_command_whose_end_nobody_heard_of_is_followed_by_the_sweep() {
    scenario(async |aws| {
        settle(aws).await;
        let id = &server(aws, &[]).await;
        lacks(aws, id, 2);
        aws.deliver(&compliance(id, "non_compliant")).await.unwrap();
        let command = sent(aws, id).await;
        told(aws, id, &["in-progress"]).await;
        let entry = comes_to(aws, id, "in-progress").await;
        age(aws, entry["pk"].as_str().unwrap()).await;
        // Still at work: the sweep leaves it alone.
        sweep(aws);
        aws.quiet().await;
        told(aws, id, &["in-progress"]).await;

        end(aws, &command, id, "Success", 0);
        sweep(aws);
        comes_to(aws, id, "remediated").await;
        told(aws, id, &["in-progress", "remediated"]).await;
        assert_eq!(made(aws).len(), 2, "{:?}", made(aws));
        is_free(aws, id).await;
    });
}

#[test]
fn a_run_that_is_cut_off_or_hears_no_answer_sends_one_command() {
    scenario(async |aws| {
        type Of = fn() -> Fault;
        let lost: Of = || Fault::AnswerLost;
        let killed: Of = || Fault::Kill;
        // The call, what befalls it, and whether the command is out by then.
        for (call, fault, is_out) in [
            ("CreateSnapshots", killed, false),
            ("SendCommand", killed, true),
            ("SendCommand", lost, true),
        ] {
            aws.forget_what_lasts().await.unwrap();
            aws.proxy.reset();
            let id = &server(aws, &[]).await;
            let finding = Finding::os(id, "CVE-2026-0010", "curl");
            let event = finding.active();
            aws.proxy.fail_next(call, 1, fault());
            aws.call(PATCH, &batch([&event])).unwrap_err();
            assert_eq!(aws.proxy.faults_left(), 0);
            aws.quiet().await;
            assert_eq!(aws.commands_to(id).len(), usize::from(is_out), "{call}");

            // Whoever looks leaves it alone until its lease has lapsed.
            assert_eq!(look(aws, &event), "another run will look again");
            assert_eq!(aws.commands_to(id).len(), usize::from(is_out), "{call}");
            aws.lapse(&lock_of(id)).await.unwrap();
            look(aws, &event);
            let command = sent(aws, id).await;
            assert_eq!(look(aws, &event), "under way");
            let entries = aws.entries_of(id).await.unwrap();
            assert_eq!(entries.len(), 1, "{entries:#?}");
            let of_entry = |tags: &BTreeMap<String, String>| {
                Some(tags[ENTRY_TAG].as_str()) == entries[0]["document"]["id"].as_str()
            };
            let snapshots = snapshots(aws).await;
            assert_eq!(
                snapshots.values().filter(|tags| of_entry(tags)).count(),
                VOLUMES
            );

            end(aws, &command, id, "Success", 0);
            look(aws, &command_status(&command, id, "Success"));
            comes_to(aws, id, "awaiting-rescan").await;
            look(aws, &finding.closed());
            comes_to(aws, id, "remediated").await;
            told(aws, id, &["in-progress", "awaiting-rescan", "remediated"]).await;
            // `made` does not count a call whose answer was lost.
            assert_eq!(command, self::command(aws, id));
            assert!(aws.proxy.calls_of("CreateSnapshots").len() <= 1, "{call}");
            is_free(aws, id).await;
        }
    });
}

/// Makes patch-instance call everything that it may.
pub(crate) async fn exercise(aws: &LocalAws) {
    clear(aws).await;
    let unmanaged = bare(aws, 1, &[]).await.remove(0);
    aws.deliver(&cloudtrail::instance_state(&unmanaged, "running"))
        .await
        .unwrap();
    comes_to(aws, &unmanaged, "notified").await;
    let id = &server(aws, &[]).await;
    lacks(aws, id, 1);
    let finding = Finding::os(id, "CVE-2026-0011", "curl");
    aws.deliver(&finding.active()).await.unwrap();
    let command = sent(aws, id).await;
    end(aws, &command, id, "Success", 0);
    aws.deliver(&command_status(&command, id, "Success"))
        .await
        .unwrap();
    comes_to(aws, id, "awaiting-rescan").await;
    aws.deliver(&finding.closed()).await.unwrap();
    comes_to(aws, id, "remediated").await;
    aws.quiet().await;
    clear(aws).await;
}
