//! Reading volumes and instances, and carrying out one change, against the
//! real EC2 and KMS clients with answers written from the API references: what
//! goes over the wire, pages, error codes. Lists here what the emulator cannot
//! show (CopyVolumes, product codes of volumes, the account's default key,
//! `BlockDeviceMappings`, KMS's dry run, lost answers).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstop_aws::clients::{Clients, EncryptionClients};
use backstop_aws::deadline::Deadline;
use backstop_aws::volumes::{Seen, change, encryption_by_default, facts, key_problem, seen};
use backstop_core::encryption::{Answer, Change, Encryption, Purpose};
use backstop_core::volumes::{Instance, Snapshot, Unit, Volume, VolumeFacts};
use backstop_core::words::Status;
use backstop_wire::{Call, Reply, Wire};
use serde_json::json;

const INSTANCE: &str = "i-0123456789abcdef0";
const ROOT: &str = "vol-0aaaaaaaaaaaaaaa1";
const DATA: &str = "vol-0aaaaaaaaaaaaaaa2";
const COPY: &str = "vol-0ccccccccccccccc1";
const SNAPSHOT: &str = "snap-0ddddddddddddddd1";
const ENTRY: &str = "01KAZ0000000000000000000A1";
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn long() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

const OUTPOST: &str = "arn:aws:outposts:eu-central-1:111122223333:outpost/op-1";

fn ec2(wire: &Wire, attempts: u32) -> aws_sdk_ec2::Client {
    Clients::new(&wire.config(attempts)).ec2
}

fn kms(wire: &Wire) -> aws_sdk_kms::Client {
    EncryptionClients::new(&wire.config(1)).kms
}

fn response(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

fn tags_xml(tags: &[(&str, &str)]) -> String {
    tags.iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect()
}

fn attachment_xml(instance: &str, device: &str, state: &str) -> String {
    format!(
        "<item><instanceId>{instance}</instanceId><device>{device}</device><status>{state}</status>\
         <attachTime>2026-11-20T10:00:05.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></item>"
    )
}

fn volume_xml(id: &str, encrypted: bool, attachments: &str, tags: &[(&str, &str)]) -> String {
    format!(
        "<item><volumeId>{id}</volumeId><size>100</size><snapshotId/><availabilityZone>eu-central-1a</availabilityZone>\
         <status>in-use</status><createTime>2026-11-20T10:00:00.123Z</createTime><attachmentSet>{attachments}</attachmentSet>\
         <tagSet>{}</tagSet><volumeType>gp3</volumeType><iops>4000</iops><throughput>200</throughput>\
         <encrypted>{encrypted}</encrypted><multiAttachEnabled>false</multiAttachEnabled></item>",
        tags_xml(tags)
    )
}

fn volumes_xml(volumes: &str, next: Option<&str>) -> Reply {
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    response(
        "DescribeVolumes",
        &format!("<volumeSet>{volumes}</volumeSet>{next}"),
    )
}

fn attached(device: &str) -> String {
    attachment_xml(INSTANCE, device, "attached")
}

/// An instance as DescribeInstances shows it, with further elements.
fn instance_xml(state: &str, more: &str) -> Reply {
    response(
        "DescribeInstances",
        &format!(
            "<reservationSet><item><reservationId>r-1</reservationId><ownerId>111122223333</ownerId><instancesSet><item>\
             <instanceId>{INSTANCE}</instanceId><instanceState><code>16</code><name>{state}</name></instanceState>\
             <instanceType>m5.large</instanceType><launchTime>2026-11-01T08:00:00.000Z</launchTime>\
             <tagSet>{}</tagSet>{more}</item></instancesSet></item></reservationSet>",
            tags_xml(&[("Name", "db")])
        ),
    )
}

fn no_instances() -> Reply {
    response("DescribeInstances", "<reservationSet/>")
}

fn types_xml(store: bool) -> Reply {
    response(
        "DescribeInstanceTypes",
        &format!(
            "<instanceTypeSet><item><instanceType>m5.large</instanceType><instanceStorageSupported>{store}</instanceStorageSupported></item></instanceTypeSet>"
        ),
    )
}

fn protection_xml(protected: bool) -> Reply {
    response(
        "DescribeInstanceAttribute",
        &format!(
            "<instanceId>{INSTANCE}</instanceId><disableApiStop><value>{protected}</value></disableApiStop>"
        ),
    )
}

fn status_xml(system: &str, instance: &str) -> Reply {
    response(
        "DescribeInstanceStatus",
        &format!(
            "<instanceStatusSet><item><instanceId>{INSTANCE}</instanceId><instanceState><code>16</code><name>running</name></instanceState>\
             <systemStatus><status>{system}</status><details/></systemStatus><instanceStatus><status>{instance}</status><details/></instanceStatus></item></instanceStatusSet>"
        ),
    )
}

fn codes_xml(call: &Call, codes: &str) -> Reply {
    let id = call.parameter("VolumeId").unwrap();
    response(
        "DescribeVolumeAttribute",
        &format!("<volumeId>{id}</volumeId><productCodes>{codes}</productCodes>"),
    )
}

fn default_key_xml(key: &str) -> Reply {
    response(
        "GetEbsDefaultKmsKeyId",
        &format!("<kmsKeyId>{key}</kmsKeyId>"),
    )
}

/// The name and first value of a call's filter.
fn filtered(call: &Call) -> (&str, &str) {
    (
        call.parameter("Filter.1.Name").unwrap_or_default(),
        call.parameter("Filter.1.Value.1").unwrap_or_default(),
    )
}

/// What a quiet account answers: one running instance with an unencrypted root
/// volume and an encrypted one.
fn quiet(call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeInstances" => instance_xml("running", ""),
        "DescribeVolumes" => match filtered(call) {
            ("attachment.instance-id", INSTANCE) => volumes_xml(
                &(volume_xml(ROOT, false, &attached("/dev/xvda"), &[])
                    + &volume_xml(DATA, true, &attached("/dev/sdf"), &[])),
                None,
            ),
            ("volume-id", ROOT) => {
                volumes_xml(&volume_xml(ROOT, false, &attached("/dev/xvda"), &[]), None)
            }
            _ => volumes_xml("", None),
        },
        "DescribeInstanceTypes" => types_xml(false),
        "DescribeInstanceAttribute" => protection_xml(false),
        "DescribeInstanceStatus" => status_xml("ok", "ok"),
        "DescribeVolumeAttribute" => codes_xml(call, ""),
        "DescribeSnapshots" => response("DescribeSnapshots", "<snapshotSet/>"),
        "GetEbsDefaultKmsKeyId" => default_key_xml("alias/aws/ebs"),
        other => panic!("{other}"),
    }
}

fn instance_of(facts: VolumeFacts) -> (Instance, Vec<Volume>) {
    match facts.unit {
        Unit::Instance(instance, volumes) => (*instance, volumes),
        other => panic!("{other:?}"),
    }
}

fn calls_of(wire: &Wire, operation: &str) -> Vec<Call> {
    let mut calls = wire.calls();
    calls.retain(|call| call.operation == operation);
    calls
}

/// The parameters of the only call of an operation, but for the protocol's own.
fn sent(wire: &Wire, operation: &str) -> Vec<(String, String)> {
    let calls = calls_of(wire, operation);
    assert_eq!(calls.len(), 1, "{operation}: {:?}", wire.operations());
    let mut parameters = calls[0].parameters.clone();
    parameters.retain(|(key, _)| key != "Action" && key != "Version");
    parameters.sort();
    parameters
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut expected: Vec<(String, String)> = expected
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    expected.sort();
    expected
}

// ---------------------------------------------------------------------- facts

#[tokio::test(start_paused = true)]
async fn an_instance_is_read_with_all_its_volumes_and_what_they_need_in_two_rounds() {
    const MORE: &str = "<instanceLifecycle>spot</instanceLifecycle><rootDeviceType>ebs</rootDeviceType>\
        <productCodes><item><productCode>abc</productCode><type>marketplace</type></item></productCodes>\
        <hibernationOptions><configured>true</configured></hibernationOptions>\
        <stateReason><code>Client.UserInitiatedShutdown</code><message>m</message></stateReason>\
        <operator><managed>true</managed><principal>service.amazonaws.com</principal></operator>\
        <outpostArn>arn:aws:outposts:eu-central-1:111122223333:outpost/op-1</outpostArn>\
        <networkInterfaceSet>\
          <item><networkInterfaceId>eni-1</networkInterfaceId><association><publicIp>203.0.113.1</publicIp><ipOwnerId>111122223333</ipOwnerId></association></item>\
          <item><networkInterfaceId>eni-2</networkInterfaceId><association><publicIp>203.0.113.2</publicIp><ipOwnerId>amazon</ipOwnerId></association></item>\
        </networkInterfaceSet>";
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeInstances" => instance_xml("running", MORE),
        "DescribeVolumes" => match (filtered(call), call.parameter("NextToken")) {
            (("attachment.instance-id", INSTANCE), None) => volumes_xml(
                &volume_xml(
                    DATA,
                    false,
                    &(attachment_xml(INSTANCE, "/dev/old", "detached") + &attached("/dev/sdf")),
                    &[
                        ("backstop:replaced-by", "vol-0eeeeeeeeeeeeeee9"),
                        ("owner", "team"),
                    ],
                ),
                Some("two"),
            ),
            (("attachment.instance-id", INSTANCE), Some("two")) => volumes_xml(
                &(volume_xml(ROOT, false, &attached("/dev/xvda"), &[])
                    + &volume_xml(
                        "vol-0gone",
                        false,
                        &attachment_xml(INSTANCE, "/dev/sdg", "detached"),
                        &[],
                    )),
                None,
            ),
            (("tag:backstop:copy-of", ROOT), None) => volumes_xml(
                &volume_xml(COPY, true, "", &[("backstop:copy-of", ROOT)]),
                None,
            ),
            (("volume-id", "vol-0eeeeeeeeeeeeeee9"), None) => {
                volumes_xml(&volume_xml("vol-0eeeeeeeeeeeeeee9", true, "", &[]), None)
            }
            other => panic!("{other:?}"),
        },
        "DescribeInstanceTypes" => types_xml(true),
        "DescribeInstanceAttribute" => protection_xml(true),
        "DescribeInstanceStatus" => status_xml("ok", "initializing"),
        "DescribeVolumeAttribute" if call.parameter("VolumeId") == Some(ROOT) => codes_xml(
            call,
            "<item><productCode>abc</productCode><type>marketplace</type></item>",
        ),
        _ => quiet(call),
    });
    let found = facts(&ec2(&wire, 1), &kms(&wire), INSTANCE, None, &long())
        .await
        .unwrap();
    assert_eq!(
        found.copies.keys().collect::<Vec<_>>(),
        [COPY, "vol-0eeeeeeeeeeeeeee9"]
    );
    assert_eq!(found.key_problem, None);
    let (instance, volumes) = instance_of(found);

    assert_eq!(
        (instance.id.as_str(), instance.state.as_str()),
        (INSTANCE, "running")
    );
    assert_eq!(
        instance.launched_at,
        Some("2026-11-01T08:00:00Z".parse().unwrap())
    );
    assert_eq!(instance.instance_type, "m5.large");
    assert_eq!(instance.tags["Name"], "db");
    assert_eq!(instance.lifecycle.as_deref(), Some("spot"));
    assert!(instance.instance_store && instance.marketplace && instance.hibernates);
    assert!(instance.stop_protected);
    assert_eq!(instance.auto_public_ipv4.as_deref(), Some("203.0.113.2"));
    assert_eq!(instance.operator.as_deref(), Some("service.amazonaws.com"));
    assert_eq!(instance.outpost.as_deref(), Some(OUTPOST));
    assert_eq!(
        instance.state_reason.as_deref(),
        Some("Client.UserInitiatedShutdown")
    );
    let checks = instance.checks.unwrap();
    assert_eq!(
        (checks.system.as_str(), checks.instance.as_str()),
        ("ok", "initializing")
    );

    let ids: Vec<&str> = volumes.iter().map(|v| v.id.as_str()).collect();
    assert_eq!(
        ids,
        [ROOT, DATA],
        "all pages; what is detached is not the instance's"
    );
    let (root, data) = (&volumes[0], &volumes[1]);
    assert!(root.marketplace && !data.marketplace);
    assert_eq!((root.size, root.volume_type.as_str()), (100, "gp3"));
    assert_eq!(root.provisioned(), (Some(4000), Some(200)));
    assert_eq!(
        (root.zone.as_str(), root.state.as_str()),
        ("eu-central-1a", "in-use")
    );
    assert_eq!(
        root.created_at,
        Some("2026-11-20T10:00:00.123Z".parse().unwrap())
    );
    let first = &data.attachments[0];
    assert_eq!(
        (first.device.as_str(), first.state.as_str()),
        ("/dev/sdf", "attached"),
        "what is in force comes first"
    );
    assert!(first.delete_on_termination);
    assert_eq!(
        first.attached_at,
        Some("2026-11-20T10:00:05Z".parse().unwrap())
    );
    assert_eq!(data.tags["owner"], "team");

    // Two pages of volumes, then everything else at once.
    assert_eq!(wire.sequential_round_trips(), 3);
    assert_eq!(
        sent(&wire, "DescribeInstances"),
        pairs(&[
            ("Filter.1.Name", "instance-id"),
            ("Filter.1.Value.1", INSTANCE)
        ])
    );
    assert_eq!(
        sent(&wire, "DescribeInstanceTypes"),
        pairs(&[
            ("Filter.1.Name", "instance-type"),
            ("Filter.1.Value.1", "m5.large")
        ])
    );
    assert_eq!(
        sent(&wire, "DescribeInstanceAttribute"),
        pairs(&[("InstanceId", INSTANCE), ("Attribute", "disableApiStop")])
    );
    assert_eq!(
        sent(&wire, "DescribeInstanceStatus"),
        pairs(&[("InstanceId.1", INSTANCE), ("IncludeAllInstances", "true")])
    );
    assert_eq!(sent(&wire, "GetEbsDefaultKmsKeyId"), []);
    let codes = calls_of(&wire, "DescribeVolumeAttribute");
    assert_eq!(codes.len(), 2, "one for each unencrypted volume");
    assert!(
        codes
            .iter()
            .all(|call| call.parameter("Attribute") == Some("productCodes"))
    );
    let copies = calls_of(&wire, "DescribeVolumes")
        .into_iter()
        .find(|call| filtered(call).0 == "tag:backstop:copy-of")
        .unwrap();
    assert_eq!(copies.parameter("Filter.1.Value.2"), Some(DATA));
    assert_eq!(copies.parameter("MaxResults"), Some("500"));
}

#[tokio::test(start_paused = true)]
async fn a_volume_leads_to_the_instance_that_it_is_attached_to() {
    let wire = Wire::new(quiet);
    let found = facts(&ec2(&wire, 1), &kms(&wire), ROOT, None, &long())
        .await
        .unwrap();
    let (instance, volumes) = instance_of(found);
    assert_eq!((instance.id.as_str(), volumes.len()), (INSTANCE, 2));
    assert_eq!(wire.sequential_round_trips(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_attached_to_no_instance_is_a_unit_of_its_own() {
    // Free; being attached to nothing any more; attached to a service's own.
    let service = "<item><associatedResource>arn:aws:ecs:eu-central-1:111122223333:task/c/t</associatedResource>\
        <instanceOwningService>ecs.amazonaws.com</instanceOwningService><status>attached</status></item>";
    for (attachments, operator) in [
        (String::new(), None),
        (attachment_xml(INSTANCE, "/dev/sdf", "detached"), None),
        (service.to_owned(), Some("ecs.amazonaws.com")),
    ] {
        let wire = Wire::new(
            move |call: &Call| match (call.operation.as_str(), filtered(call)) {
                ("DescribeVolumes", ("volume-id", DATA)) => {
                    let volume = volume_xml(DATA, false, &attachments, &[]);
                    let outpost = format!("<outpostArn>{OUTPOST}</outpostArn><encrypted>");
                    volumes_xml(&volume.replace("<encrypted>", &outpost), None)
                }
                _ => quiet(call),
            },
        );
        let found = facts(&ec2(&wire, 1), &kms(&wire), DATA, None, &long()).await;
        let Unit::Volume(volume) = found.unwrap().unit else {
            panic!("a volume");
        };
        assert_eq!(volume.operator.as_deref(), operator);
        assert_eq!(volume.outpost.as_deref(), Some(OUTPOST));
        assert!(!wire.operations().contains(&"DescribeInstances".to_owned()));
        assert_eq!(wire.sequential_round_trips(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_gone_and_what_is_no_id_is_not_asked_for() {
    let empty = |call: &Call| match call.operation.as_str() {
        "DescribeInstances" => no_instances(),
        "DescribeVolumes" => volumes_xml("", None),
        other => panic!("{other}"),
    };
    let malformed =
        |_: &Call| Reply::ec2_error(400, "InvalidVolumeID.Malformed", "Invalid id: \"vol-1\"");
    let not_found = |_: &Call| {
        Reply::ec2_error(
            400,
            "InvalidInstanceID.NotFound",
            "The instance ID does not exist",
        )
    };
    for wire in [Wire::new(empty), Wire::new(malformed), Wire::new(not_found)] {
        for resource in [INSTANCE, ROOT] {
            let found = facts(&ec2(&wire, 1), &kms(&wire), resource, None, &long()).await;
            assert_eq!(found.unwrap().unit, Unit::Gone);
        }
    }
    let wire = Wire::new(|call: &Call| panic!("{}", call.operation));
    for resource in ["vol-*", "i-*", "vol-", "sg-1", ""] {
        let found = facts(&ec2(&wire, 1), &kms(&wire), resource, None, &long()).await;
        assert_eq!(found.unwrap().unit, Unit::Gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_instance_is_not_seen_is_looked_at_again_and_not_taken_for_gone() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeInstances" => no_instances(),
        _ => quiet(call),
    });
    let error = facts(&ec2(&wire, 1), &kms(&wire), ROOT, None, &long())
        .await
        .unwrap_err();
    assert!(error.retryable);
    assert_eq!(
        error.to_string(),
        format!(
            "DescribeInstances: InvalidInstanceID.NotFound: `{ROOT}` is attached to `{INSTANCE}`, which is not there (yet)"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_unit_whose_volumes_are_encrypted_costs_two_calls() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeVolumes" => {
            volumes_xml(&volume_xml(ROOT, true, &attached("/dev/xvda"), &[]), None)
        }
        _ => quiet(call),
    });
    let found = facts(&ec2(&wire, 1), &kms(&wire), INSTANCE, None, &long()).await;
    let (_, volumes) = instance_of(found.unwrap());
    assert!(volumes[0].encrypted);
    assert_eq!(wire.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_is_an_error_with_operation_code_and_message() {
    for denied in [
        "DescribeInstances",
        "DescribeVolumes",
        "DescribeInstanceTypes",
        "DescribeInstanceAttribute",
        "DescribeInstanceStatus",
        "DescribeVolumeAttribute",
        "GetEbsDefaultKmsKeyId",
    ] {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            operation if operation == denied => {
                Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized")
            }
            _ => quiet(call),
        });
        let error = facts(&ec2(&wire, 1), &kms(&wire), INSTANCE, None, &long())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{denied}: UnauthorizedOperation: You are not authorized")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_instance_has_no_checks_and_an_unknown_type_may_have_a_store() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeInstances" => instance_xml("stopped", ""),
        "DescribeInstanceTypes" => response("DescribeInstanceTypes", "<instanceTypeSet/>"),
        _ => quiet(call),
    });
    let found = facts(&ec2(&wire, 1), &kms(&wire), INSTANCE, None, &long()).await;
    let (instance, _) = instance_of(found.unwrap());
    assert_eq!(instance.checks, None);
    assert!(instance.instance_store);
    assert_eq!(instance.auto_public_ipv4, None);
    assert!(calls_of(&wire, "DescribeInstanceStatus").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_root_lies_on_an_instance_store_has_one() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeInstances" => {
            instance_xml("running", "<rootDeviceType>instance-store</rootDeviceType>")
        }
        _ => quiet(call),
    });
    let found = facts(&ec2(&wire, 1), &kms(&wire), INSTANCE, None, &long()).await;
    let (instance, _) = instance_of(found.unwrap());
    assert!(instance.instance_store);
}

// ----------------------------------------------------------------------- seen

fn volume(id: &str, tags: &[(&str, &str)]) -> Volume {
    let tags: BTreeMap<&str, &str> = tags.iter().copied().collect();
    serde_json::from_value(json!({
        "id": id, "state": "in-use", "encrypted": false, "size": 100,
        "volume_type": "gp3", "iops": 4000, "throughput": 200, "zone": "eu-central-1a",
        "attachments": [{"instance": INSTANCE, "device": "/dev/xvda", "state": "attached", "delete_on_termination": true}],
        "tags": tags,
    }))
    .unwrap()
}

/// The swap of an instance's root volume, with what was tried so far.
fn run(tries: serde_json::Value) -> Encryption {
    serde_json::from_value(json!({
        "version": 1, "id": ENTRY, "control": "unencrypted-volume", "severity": "high",
        "resource": format!("arn:aws:ec2:eu-central-1:111122223333:instance/{INSTANCE}"),
        "resource_name": "db", "account": "111122223333", "region": "eu-central-1",
        "status": "in-progress", "way": "swap",
        "instance": {"id": INSTANCE, "state": "running", "instance_type": "m5.large"},
        "volumes": [volume(ROOT, &[
            ("Name", "db-root"), ("owner", "team"), ("aws:cloudformation:stack-name", "s"),
            ("backstop:copy-of", "vol-0older"),
        ])],
        "progress": {"tries": tries},
        "actor": {}, "policy_version": 3, "attempts": 1, "started_at": "2026-11-23T02:00:00Z",
    }))
    .unwrap()
}

fn tried(made: Option<&str>) -> serde_json::Value {
    json!({
        "count": 1, "first_at": "2026-11-23T02:00:00Z", "last_at": "2026-11-23T02:00:00Z",
        "answer": {"result": "accepted"}, "made": made,
    })
}

#[tokio::test(start_paused = true)]
async fn a_run_sees_its_instance_volumes_copies_and_snapshots_in_two_rounds() {
    let run = run(json!({
        format!("snapshot safety {ROOT}"): tried(Some(SNAPSHOT)),
        format!("copy {ROOT}"): tried(Some(COPY)),
        "stop": tried(None),
    }));
    let wire = Wire::new(
        |call: &Call| match (call.operation.as_str(), filtered(call)) {
            ("DescribeVolumes", ("volume-id", _)) => {
                // The copy that was just made is not visible yet.
                volumes_xml(&volume_xml(ROOT, false, &attached("/dev/xvda"), &[]), None)
            }
            ("DescribeVolumes", ("tag:backstop:copy-of", ROOT)) => volumes_xml(
                &volume_xml("vol-0other", true, "", &[("backstop:copy-of", ROOT)]),
                None,
            ),
            ("DescribeSnapshots", (by, value)) => {
                let id = match (by, value) {
                    ("tag:backstop:entry", ENTRY) => "snap-0byentry",
                    ("snapshot-id", SNAPSHOT) => SNAPSHOT,
                    other => panic!("{other:?}"),
                };
                assert_eq!(call.parameter("Owner.1"), Some("self"));
                response(
                    "DescribeSnapshots",
                    &format!(
                        "<snapshotSet><item><snapshotId>{id}</snapshotId><volumeId>{ROOT}</volumeId><status>pending</status>\
                     <startTime>2026-11-23T02:00:00.000Z</startTime><tagSet>{}</tagSet></item></snapshotSet>",
                        tags_xml(&[("backstop:entry", ENTRY)])
                    ),
                )
            }
            _ => quiet(call),
        },
    );
    let seen = seen(&ec2(&wire, 1), &kms(&wire), &run, &long())
        .await
        .unwrap();
    assert_eq!(
        seen.volumes.keys().collect::<Vec<_>>(),
        [ROOT, "vol-0other"]
    );
    assert_eq!(
        seen.snapshots.keys().collect::<Vec<_>>(),
        ["snap-0byentry", SNAPSHOT]
    );
    let snapshot = &seen.snapshots[SNAPSHOT];
    assert_eq!(
        (snapshot.volume.as_str(), snapshot.state.as_str()),
        (ROOT, "pending")
    );
    assert_eq!(
        snapshot.started_at,
        Some("2026-11-23T02:00:00Z".parse().unwrap())
    );
    assert_eq!(snapshot.tags["backstop:entry"], ENTRY);
    let instance = seen.instance.unwrap();
    assert!(instance.checks.unwrap().passed());
    assert_eq!(wire.sequential_round_trips(), 2);
    let named = calls_of(&wire, "DescribeVolumes")
        .into_iter()
        .find(|call| filtered(call).0 == "volume-id")
        .unwrap();
    let values: Vec<&str> = named
        .parameters
        .iter()
        .filter(|(key, _)| key.starts_with("Filter.1.Value."))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, [ROOT, COPY], "the originals and what was made");
}

#[tokio::test(start_paused = true)]
async fn product_codes_of_the_record_stay_known() {
    let mut run = run(json!({}));
    run.detail.volumes[0].marketplace = true;
    let wire = Wire::new(quiet);
    let seen = seen(&ec2(&wire, 1), &kms(&wire), &run, &long())
        .await
        .unwrap();
    assert!(seen.volumes[ROOT].marketplace);
    assert!(calls_of(&wire, "DescribeVolumeAttribute").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_kms_or_of_what_a_stop_costs_does_not_stand_in_the_way_back() {
    const ONWARD: [&str; 3] = [
        "GetEbsDefaultKmsKeyId",
        "DescribeInstanceTypes",
        "DescribeInstanceAttribute",
    ];
    let back =
        json!({"at": "2026-11-23T02:10:00Z", "why": "w", "status": "rolled-back", "trip": true});
    let mut going_back = run(json!({}));
    going_back.detail.progress.back = serde_json::from_value(back).unwrap();
    let mut undo = run(json!({}));
    undo.detail.undoes = Some("01KAZ0000000000000000000A0".to_owned());
    let started = run(json!({ "start": tried(None) }));
    let mut ended = run(json!({}));
    ended.head.status = Status::Remediated;
    for run in [going_back, undo, started, ended] {
        let wire = Wire::new(|call: &Call| match call.operation.as_str() {
            operation if ONWARD.contains(&operation) => Reply::Broken,
            _ => quiet(call),
        });
        let seen = seen(&ec2(&wire, 1), &kms(&wire), &run, &long())
            .await
            .unwrap();
        assert!(seen.instance.unwrap().checks.is_some());
        let called = wire.operations();
        assert!(
            ONWARD.iter().all(|o| !called.iter().any(|c| c == o)),
            "{called:?}"
        );
    }

    // On the way on they count.
    for broken in ONWARD {
        let wire = Wire::new(move |call: &Call| match call.operation.as_str() {
            operation if operation == broken => Reply::Broken,
            _ => quiet(call),
        });
        let error = seen(&ec2(&wire, 1), &kms(&wire), &run(json!({})), &long()).await;
        assert_eq!(error.unwrap_err().operation, broken);
    }

    // A stop that is none of this run's costs nothing.
    let mut when_stopped = run(json!({}));
    when_stopped.detail.way = backstop_core::encryption::Way::WhenStopped;
    let wire = Wire::new(quiet);
    seen(&ec2(&wire, 1), &kms(&wire), &when_stopped, &long())
        .await
        .unwrap();
    assert!(calls_of(&wire, "DescribeInstanceTypes").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_of_an_unattached_volume_or_of_a_terminated_instance_has_none() {
    let mut unattached = run(json!({}));
    unattached.detail.instance = None;
    let wire = Wire::new(quiet);
    let at = seen(&ec2(&wire, 1), &kms(&wire), &unattached, &long())
        .await
        .unwrap();
    assert_eq!(at.instance, None);
    assert!(calls_of(&wire, "DescribeInstances").is_empty());

    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "DescribeInstances" => no_instances(),
        _ => quiet(call),
    });
    let at = seen(&ec2(&wire, 1), &kms(&wire), &run(json!({})), &long())
        .await
        .unwrap();
    assert_eq!(at.instance, None);
}

// --------------------------------------------------------------------- change

/// What a run that has looked at its root volume has seen.
fn looked_at(run: &Encryption) -> Seen {
    Seen {
        volumes: run
            .detail
            .volumes
            .iter()
            .map(|v| (v.id.clone(), v.clone()))
            .collect(),
        ..Seen::default()
    }
}

fn own_copy() -> Volume {
    Volume {
        state: "available".to_owned(),
        attachments: Vec::new(),
        encrypted: true,
        ..volume(
            COPY,
            &[("backstop:copy-of", ROOT), ("backstop:entry", ENTRY)],
        )
    }
}

fn accepted(operation: &str) -> Reply {
    response(operation, "<return>true</return>")
}

fn refusal(answer: &Answer) -> (&str, &str, bool) {
    match answer {
        Answer::Refused {
            operation,
            code,
            unknown,
            ..
        } => (operation, code, *unknown),
        Answer::Accepted => panic!("accepted"),
    }
}

fn copy_of_root() -> Change {
    Change::Copy {
        volume: ROOT.to_owned(),
    }
}

fn safety_of_root() -> Change {
    Change::Snapshot {
        volume: ROOT.to_owned(),
        purpose: Purpose::Safety,
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_asked_for_encrypted_of_the_same_make_with_the_tags_of_the_original() {
    let wire = Wire::new(|_: &Call| {
        response(
            "CopyVolumes",
            &format!("<volumeSet>{}</volumeSet>", volume_xml(COPY, true, "", &[])),
        )
    });
    let mut run = run(json!({}));
    let mut seen = looked_at(&run);
    let (answer, made) = change(&ec2(&wire, 1), &run, &seen, &copy_of_root(), &long()).await;
    assert_eq!((answer, made.as_deref()), (Answer::Accepted, Some(COPY)));
    let token = format!("{ENTRY}-copy-{ROOT}");
    assert!(token.len() <= 64);
    assert_eq!(
        sent(&wire, "CopyVolumes"),
        pairs(&[
            ("SourceVolumeId", ROOT),
            ("ClientToken", &token),
            ("VolumeType", "gp3"),
            ("Iops", "4000"),
            ("Throughput", "200"),
            ("Encrypted", "true"),
            ("TagSpecification.1.ResourceType", "volume"),
            ("TagSpecification.1.Tag.1.Key", "Name"),
            ("TagSpecification.1.Tag.1.Value", "db-root"),
            ("TagSpecification.1.Tag.2.Key", "backstop:copy-of"),
            ("TagSpecification.1.Tag.2.Value", ROOT),
            ("TagSpecification.1.Tag.3.Key", "backstop:entry"),
            ("TagSpecification.1.Tag.3.Value", ENTRY),
            ("TagSpecification.1.Tag.4.Key", "owner"),
            ("TagSpecification.1.Tag.4.Value", "team"),
        ])
    );

    // As it is now, under the policy's key; a gp2's iops follow from its size.
    let wire = Wire::new(|_: &Call| response("CopyVolumes", "<volumeSet/>"));
    run.detail.kms_key = Some(KEY.to_owned());
    if let Some(now) = seen.volumes.get_mut(ROOT) {
        now.volume_type = "gp2".to_owned();
        now.iops = Some(300);
    }
    let (answer, made) = change(&ec2(&wire, 1), &run, &seen, &copy_of_root(), &long()).await;
    assert_eq!((answer, made), (Answer::Accepted, None));
    let call = &wire.calls()[0];
    assert_eq!(call.parameter("KmsKeyId"), Some(KEY));
    assert_eq!(call.parameter("VolumeType"), Some("gp2"));
    assert_eq!(call.parameter("Iops"), None);
    assert_eq!(call.parameter("Throughput"), None);
}

#[tokio::test(start_paused = true)]
async fn a_copy_from_a_snapshot_is_asked_for_likewise_in_the_zone_and_size_of_the_original() {
    let wire = Wire::new(|_: &Call| {
        response(
            "CreateVolume",
            &format!("<volumeId>{COPY}</volumeId><status>creating</status>"),
        )
    });
    let mut run = run(json!({}));
    run.detail.kms_key = Some("alias/ebs".to_owned());
    let create = Change::Create {
        volume: ROOT.to_owned(),
        snapshot: SNAPSHOT.to_owned(),
    };
    let seen = looked_at(&run);
    let (answer, made) = change(&ec2(&wire, 1), &run, &seen, &create, &long()).await;
    assert_eq!((answer, made.as_deref()), (Answer::Accepted, Some(COPY)));
    let token = format!("{ENTRY}-create-{SNAPSHOT}");
    assert!(token.len() <= 64);
    assert_eq!(
        sent(&wire, "CreateVolume"),
        pairs(&[
            ("SnapshotId", SNAPSHOT),
            ("ClientToken", &token),
            ("AvailabilityZone", "eu-central-1a"),
            ("Size", "100"),
            ("VolumeType", "gp3"),
            ("Iops", "4000"),
            ("Throughput", "200"),
            ("Encrypted", "true"),
            ("KmsKeyId", "alias/ebs"),
            ("TagSpecification.1.ResourceType", "volume"),
            ("TagSpecification.1.Tag.1.Key", "Name"),
            ("TagSpecification.1.Tag.1.Value", "db-root"),
            ("TagSpecification.1.Tag.2.Key", "backstop:copy-of"),
            ("TagSpecification.1.Tag.2.Value", ROOT),
            ("TagSpecification.1.Tag.3.Key", "backstop:entry"),
            ("TagSpecification.1.Tag.3.Value", ENTRY),
            ("TagSpecification.1.Tag.4.Key", "owner"),
            ("TagSpecification.1.Tag.4.Value", "team"),
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_copy_whose_answer_was_lost_is_repeated_with_the_same_token() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |_: &Call| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Broken,
        _ => response("CopyVolumes", "<volumeSet/>"),
    });
    let run = run(json!({}));
    for _ in 0..2 {
        let seen = looked_at(&run);
        let (answer, _) = change(&ec2(&wire, 3), &run, &seen, &copy_of_root(), &long()).await;
        assert_eq!(answer, Answer::Accepted);
    }
    let tokens: Vec<Option<String>> = wire
        .calls()
        .iter()
        .map(|call| call.parameter("ClientToken").map(str::to_owned))
        .collect();
    assert_eq!(tokens.len(), 3);
    assert!(
        tokens
            .iter()
            .all(|token| token == &tokens[0] && token.is_some())
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_says_what_it_is_for_and_whose_it_is() {
    let wire = Wire::new(|_: &Call| {
        response(
            "CreateSnapshot",
            &format!("<snapshotId>{SNAPSHOT}</snapshotId><status>pending</status>"),
        )
    });
    let run = run(json!({}));
    let seen = looked_at(&run);
    let (answer, made) = change(&ec2(&wire, 1), &run, &seen, &safety_of_root(), &long()).await;
    assert_eq!(
        (answer, made.as_deref()),
        (Answer::Accepted, Some(SNAPSHOT))
    );
    assert_eq!(
        sent(&wire, "CreateSnapshot"),
        pairs(&[
            ("VolumeId", ROOT),
            (
                "Description",
                &format!("Backstop: safety snapshot of {ROOT} for its encryption ({ENTRY})")
            ),
            ("TagSpecification.1.ResourceType", "snapshot"),
            ("TagSpecification.1.Tag.1.Key", "Name"),
            ("TagSpecification.1.Tag.1.Value", "db-root"),
            ("TagSpecification.1.Tag.2.Key", "backstop:entry"),
            ("TagSpecification.1.Tag.2.Value", ENTRY),
            ("TagSpecification.1.Tag.3.Key", "backstop:purpose"),
            ("TagSpecification.1.Tag.3.Value", "safety"),
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_asked_for_again_when_throttled_and_never_after_a_lost_answer() {
    let run = run(json!({}));
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |_: &Call| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded."),
        _ => response(
            "CreateSnapshot",
            &format!("<snapshotId>{SNAPSHOT}</snapshotId>"),
        ),
    });
    let mut seen = looked_at(&run);
    let (_, made) = change(&ec2(&wire, 4), &run, &seen, &safety_of_root(), &long()).await;
    assert_eq!((made.as_deref(), wire.calls().len()), (Some(SNAPSHOT), 2));

    for reply in [
        Reply::Broken,
        Reply::ec2_error(500, "InternalError", "An internal error"),
    ] {
        let wire = Wire::new(move |_: &Call| reply.clone());
        let (answer, made) = change(&ec2(&wire, 4), &run, &seen, &safety_of_root(), &long()).await;
        assert!(refusal(&answer).2, "it may have been taken: {answer:?}");
        assert_eq!((made, wire.calls().len()), (None, 1));
    }

    // One that an earlier try took is found by its tags.
    let taken: Snapshot = serde_json::from_value(json!({
        "id": SNAPSHOT, "volume": ROOT, "state": "pending",
        "tags": {"backstop:entry": ENTRY, "backstop:purpose": "safety"},
    }))
    .unwrap();
    seen.snapshots.insert(SNAPSHOT.to_owned(), taken);
    let wire = Wire::new(
        |call: &Call| match call.parameter("TagSpecification.1.Tag.3.Value") {
            Some("transfer") => response("CreateSnapshot", "<snapshotId>snap-0two</snapshotId>"),
            other => panic!("{other:?}"),
        },
    );
    let (answer, made) = change(&ec2(&wire, 1), &run, &seen, &safety_of_root(), &long()).await;
    assert_eq!(
        (answer, made.as_deref()),
        (Answer::Accepted, Some(SNAPSHOT))
    );
    let transfer = Change::Snapshot {
        volume: ROOT.to_owned(),
        purpose: Purpose::Transfer,
    };
    let (_, made) = change(&ec2(&wire, 1), &run, &seen, &transfer, &long()).await;
    assert_eq!(
        made.as_deref(),
        Some("snap-0two"),
        "another purpose is another snapshot"
    );
}

#[tokio::test(start_paused = true)]
async fn the_other_changes_say_exactly_what_they_mean_and_force_nothing() {
    let run = run(json!({}));
    let mut seen = looked_at(&run);
    seen.volumes.insert(COPY.to_owned(), own_copy());
    let volume = || ROOT.to_owned();
    for (change_, operation, expected) in [
        (
            Change::Stop { back: false },
            "StopInstances",
            vec![("InstanceId.1", INSTANCE)],
        ),
        (
            Change::Start { back: true },
            "StartInstances",
            vec![("InstanceId.1", INSTANCE)],
        ),
        (
            Change::Detach { volume: volume() },
            "DetachVolume",
            vec![("VolumeId", ROOT), ("InstanceId", INSTANCE)],
        ),
        (
            Change::Attach {
                volume: COPY.to_owned(),
                device: "/dev/xvda".to_owned(),
            },
            "AttachVolume",
            vec![
                ("VolumeId", COPY),
                ("InstanceId", INSTANCE),
                ("Device", "/dev/xvda"),
            ],
        ),
        (
            Change::KeepOrDelete {
                volume: COPY.to_owned(),
                device: "/dev/xvda".to_owned(),
                delete: true,
            },
            "ModifyInstanceAttribute",
            vec![
                ("InstanceId", INSTANCE),
                ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
                ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
            ],
        ),
        (
            Change::TagReplaced {
                volume: volume(),
                copy: COPY.to_owned(),
            },
            "CreateTags",
            vec![
                ("ResourceId.1", ROOT),
                ("Tag.1.Key", "backstop:replaced-by"),
                ("Tag.1.Value", COPY),
            ],
        ),
        (
            Change::DeleteCopy {
                copy: COPY.to_owned(),
            },
            "DeleteVolume",
            vec![("VolumeId", COPY)],
        ),
    ] {
        let wire = Wire::new(move |_: &Call| accepted(operation));
        let done = change(&ec2(&wire, 1), &run, &seen, &change_, &long()).await;
        assert_eq!(done, (Answer::Accepted, None));
        assert_eq!(sent(&wire, operation), pairs(&expected));
    }
}

/// Every change that is asked for ahead, with its operation.
fn asked_ahead() -> Vec<(Change, &'static str)> {
    let (volume, device) = (ROOT.to_owned(), "/dev/xvda".to_owned());
    vec![
        (Change::Start { back: false }, "StartInstances"),
        (
            Change::Detach {
                volume: volume.clone(),
            },
            "DetachVolume",
        ),
        (
            Change::Attach {
                volume: volume.clone(),
                device: device.clone(),
            },
            "AttachVolume",
        ),
        (
            Change::KeepOrDelete {
                volume: volume.clone(),
                device,
                delete: true,
            },
            "ModifyInstanceAttribute",
        ),
        (copy_of_root(), "CopyVolumes"),
        (
            Change::Create {
                volume,
                snapshot: "snap-0123456789abcdef0".to_owned(),
            },
            "CreateVolume",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_the_same_call_and_well_answered_by_dry_run_operation_alone() {
    let run = run(json!({}));
    let seen = looked_at(&run);
    let error = Reply::ec2_error;
    for (change_, operation) in asked_ahead() {
        let dry_run = Change::DryRun(Box::new(change_.clone()));
        let wire = Wire::new(move |_: &Call| error(412, "DryRunOperation", "would have"));
        let asked = change(&ec2(&wire, 1), &run, &seen, &dry_run, &long()).await;
        assert_eq!(asked, (Answer::Accepted, None), "{operation}");
        // A token of its own: should EC2 remember it, the call itself is another.
        let without = |wire: &Wire, left_out: &[&str]| {
            let mut sent = sent(wire, operation);
            sent.retain(|(name, _)| !left_out.contains(&name.as_str()));
            sent
        };
        let asked = without(&wire, &["ClientToken", "DryRun"]);
        assert!(sent(&wire, operation).contains(&("DryRun".to_owned(), "true".to_owned())));
        let token = |wire: &Wire| {
            let sent = sent(wire, operation);
            sent.into_iter().find(|(name, _)| name == "ClientToken")
        };
        let its_token = token(&wire);

        let wire = Wire::new(move |_: &Call| accepted(operation));
        change(&ec2(&wire, 1), &run, &seen, &change_, &long()).await;
        assert_eq!(without(&wire, &["ClientToken"]), asked, "{operation}");
        if let Some(token) = token(&wire) {
            assert_ne!(Some(token), its_token);
        }

        // Whatever else comes refuses, or says nothing.
        for (reply, code, says_nothing) in [
            (
                error(403, "UnauthorizedOperation", "m"),
                "UnauthorizedOperation",
                false,
            ),
            (
                error(400, "InvalidParameterValue", "m"),
                "InvalidParameterValue",
                false,
            ),
            (
                error(400, "InvalidVolume.NotFound", "m"),
                "InvalidVolume.NotFound",
                false,
            ),
            (
                error(503, "RequestLimitExceeded", "m"),
                "RequestLimitExceeded",
                true,
            ),
            (error(500, "InternalError", "m"), "InternalError", true),
            (Reply::Broken, "NoConnection", true),
        ] {
            let wire = Wire::new(move |_: &Call| reply.clone());
            let (answer, _) = change(&ec2(&wire, 1), &run, &seen, &dry_run, &long()).await;
            assert_eq!(refusal(&answer), (operation, code, says_nothing));
        }
        let wire = Wire::new(move |_: &Call| accepted(operation));
        let (answer, _) = change(&ec2(&wire, 1), &run, &seen, &dry_run, &long()).await;
        assert!(matches!(answer, Answer::Refused { unknown: false, .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_happened_is_told_from_what_has_not() {
    let run = run(json!({}));
    let seen = looked_at(&run);
    let stop = Change::Stop { back: false };
    let error = Reply::ec2_error;
    for (reply, code, unknown) in [
        (Reply::Broken, "NoConnection", true),
        (Reply::Answer(200, "<html>".to_owned()), "Unknown", true),
        (error(500, "InternalError", "m"), "InternalError", true),
        (error(503, "Unavailable", "m"), "Unavailable", true),
        (Reply::Answer(502, String::new()), "Unknown", true),
        (
            error(503, "RequestLimitExceeded", "m"),
            "RequestLimitExceeded",
            false,
        ),
        (
            error(403, "UnauthorizedOperation", "m"),
            "UnauthorizedOperation",
            false,
        ),
        (
            error(400, "IncorrectInstanceState", "m"),
            "IncorrectInstanceState",
            false,
        ),
        (
            error(500, "InsufficientInstanceCapacity", "m"),
            "InsufficientInstanceCapacity",
            false,
        ),
        (
            error(400, "OperationNotPermitted", "m"),
            "OperationNotPermitted",
            false,
        ),
    ] {
        let wire = Wire::new(move |_: &Call| reply.clone());
        let (answer, made) = change(&ec2(&wire, 1), &run, &seen, &stop, &long()).await;
        assert_eq!(refusal(&answer), ("StopInstances", code, unknown));
        assert_eq!(made, None);
    }

    // No answer at all: the function's time ends it.
    let wire = Wire::new(|_: &Call| Reply::Silence);
    let short = Deadline::new(Duration::from_millis(200));
    let (answer, _) = change(&ec2(&wire, 1), &run, &seen, &stop, &short).await;
    assert_eq!(refusal(&answer), ("StopInstances", "Timeout", true));
}

#[tokio::test(start_paused = true)]
async fn nothing_but_a_free_copy_of_this_runs_making_is_ever_deleted() {
    let run = run(json!({}));
    let delete = |copy: &str| Change::DeleteCopy {
        copy: copy.to_owned(),
    };
    let tagged = |tags: &[(&str, &str)]| Volume {
        tags: volume(COPY, tags).tags,
        ..own_copy()
    };
    let marks = [("backstop:copy-of", ROOT), ("backstop:entry", ENTRY)];
    let attached = Volume {
        attachments: volume(COPY, &[]).attachments,
        ..own_copy()
    };
    // An original is none, whatever its tags say.
    let original = Volume {
        attachments: Vec::new(),
        ..volume(ROOT, &marks)
    };
    for (target, why) in [
        (Some(original), "it is an original of this run"),
        (None, "it was not seen"),
        (
            Some(tagged(&[])),
            "its tags do not say that this run made it",
        ),
        (
            Some(tagged(&marks[..1])),
            "its tags do not say that this run made it",
        ),
        (
            Some(tagged(&[
                marks[0],
                ("backstop:entry", "01KAZ0000000000000000000A0"),
            ])),
            "its tags do not say that this run made it",
        ),
        (
            Some(tagged(&marks[1..])),
            "its tags do not say that it is a copy of an original of this run",
        ),
        (
            Some(tagged(&[("backstop:copy-of", DATA), marks[1]])),
            "its tags do not say that it is a copy of an original of this run",
        ),
        (Some(attached), "it is attached to an instance"),
    ] {
        let wire = Wire::new(|call: &Call| panic!("{}", call.operation));
        let mut seen = looked_at(&run);
        let id = target.as_ref().map_or(COPY, |v| v.id.as_str()).to_owned();
        seen.volumes.extend(target.map(|v| (v.id.clone(), v)));
        let (answer, _) = change(&ec2(&wire, 1), &run, &seen, &delete(&id), &long()).await;
        assert_eq!(refusal(&answer), ("DeleteVolume", "NotOurs", false));
        let Answer::Refused { message, .. } = answer else {
            panic!()
        };
        assert_eq!(message, format!("{id} is not deleted: {why}"));
    }

    // One that is gone already is deleted.
    let wire = Wire::new(|_: &Call| {
        Reply::ec2_error(400, "InvalidVolume.NotFound", "The volume does not exist.")
    });
    let mut seen = looked_at(&run);
    seen.volumes.insert(COPY.to_owned(), own_copy());
    let (answer, _) = change(&ec2(&wire, 1), &run, &seen, &delete(COPY), &long()).await;
    assert_eq!(answer, Answer::Accepted);
}

#[tokio::test(start_paused = true)]
async fn no_copy_or_snapshot_is_made_of_what_is_no_original_of_the_run() {
    let run = run(json!({}));
    let mut seen = looked_at(&run);
    seen.volumes.insert(DATA.to_owned(), volume(DATA, &[]));
    let wire = Wire::new(|call: &Call| panic!("{}", call.operation));
    for (change_, operation) in [
        (
            Change::Copy {
                volume: DATA.to_owned(),
            },
            "CopyVolumes",
        ),
        (
            Change::Create {
                volume: DATA.to_owned(),
                snapshot: SNAPSHOT.to_owned(),
            },
            "CreateVolume",
        ),
        (
            Change::Snapshot {
                volume: DATA.to_owned(),
                purpose: Purpose::Transfer,
            },
            "CreateSnapshot",
        ),
    ] {
        let (answer, _) = change(&ec2(&wire, 1), &run, &seen, &change_, &long()).await;
        assert_eq!(refusal(&answer), (operation, "NotSent", false));
    }
}

// ---------------------------------------------------------- account setting

#[tokio::test(start_paused = true)]
async fn the_account_setting_is_read_and_turned_on() {
    let wire = Wire::new(|call: &Call| match call.operation.as_str() {
        "GetEbsEncryptionByDefault" => response(
            "GetEbsEncryptionByDefault",
            "<ebsEncryptionByDefault>false</ebsEncryptionByDefault><sseType>none</sseType>",
        ),
        other => panic!("{other}"),
    });
    assert!(
        !encryption_by_default(&ec2(&wire, 1), &long())
            .await
            .unwrap()
    );
    assert_eq!(sent(&wire, "GetEbsEncryptionByDefault"), []);

    // An answer that does not say it is none.
    let wire = Wire::new(|call: &Call| response(&call.operation, ""));
    let read = encryption_by_default(&ec2(&wire, 1), &long()).await;
    assert_eq!(read.unwrap_err().code, "BadResponse");
}

// ------------------------------------------------------------------------ key

fn key_json(fields: serde_json::Value) -> Reply {
    let mut key = json!({
        "KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab", "Arn": KEY, "AWSAccountId": "111122223333",
        "Enabled": true, "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT",
        "KeySpec": "SYMMETRIC_DEFAULT", "KeyManager": "CUSTOMER", "MultiRegion": false,
    });
    for (name, value) in fields.as_object().unwrap() {
        key[name] = value.clone();
    }
    Reply::ok(json!({ "KeyMetadata": key }).to_string())
}

fn dry_run() -> Reply {
    Reply::json_error(
        "DryRunOperationException",
        "The request would have succeeded, but the DryRun option is set.",
    )
}

async fn problem_of(
    key: Option<&str>,
    respond: impl Fn(&Call) -> Reply + Send + Sync + 'static,
) -> (Result<Option<String>, String>, Wire) {
    let wire = Wire::new(respond);
    let problem = key_problem(&ec2(&wire, 1), &kms(&wire), key, &long()).await;
    (problem.map_err(|error| error.to_string()), wire)
}

#[tokio::test(start_paused = true)]
async fn awss_own_key_for_ebs_can_always_be_used() {
    for key in [
        "alias/aws/ebs",
        "arn:aws:kms:eu-central-1:111122223333:alias/aws/ebs",
    ] {
        let (problem, wire) = problem_of(None, move |_| default_key_xml(key)).await;
        assert_eq!(problem, Ok(None));
        assert_eq!(wire.operations(), ["GetEbsDefaultKmsKeyId"]);
        let (problem, wire) = problem_of(Some(key), |call| panic!("{}", call.operation)).await;
        assert_eq!(problem, Ok(None));
        assert!(wire.calls().is_empty());
    }
    // By its id it shows as AWS's, and has to be the one of EBS.
    let own = |of_alias: &'static str| {
        move |call: &Call| match call.json["KeyId"].as_str() {
            Some("alias/aws/ebs") => key_json(json!({"KeyManager": "AWS", "KeyId": of_alias})),
            _ => key_json(json!({"KeyManager": "AWS", "KeyId": "id-1"})),
        }
    };
    let (problem, wire) = problem_of(Some("id-1"), own("id-1")).await;
    assert_eq!(problem, Ok(None));
    assert_eq!(wire.operations(), ["DescribeKey", "DescribeKey"]);
    let (problem, _) = problem_of(Some("alias/aws/s3"), own("id-2")).await;
    assert_eq!(
        problem.unwrap().unwrap(),
        "the KMS key `alias/aws/s3` (`kms_key` in the policy) is AWS's own key of another service, which EBS may not use: use alias/aws/ebs or a key of your own"
    );
    let (problem, _) = problem_of(Some("alias/aws/s3"), |call| {
        match call.json["KeyId"].as_str() {
            Some("alias/aws/ebs") => Reply::json_error("NotFoundException", "no such alias"),
            _ => key_json(json!({"KeyManager": "AWS"})),
        }
    })
    .await;
    assert!(problem.unwrap().is_some(), "EBS has no key of its own yet");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_looked_at_and_tried_without_making_anything() {
    let (problem, wire) = problem_of(Some("alias/ebs"), |call| match call.operation.as_str() {
        "DescribeKey" => key_json(json!({"MultiRegion": true})),
        "GenerateDataKeyWithoutPlaintext" => dry_run(),
        other => panic!("{other}"),
    })
    .await;
    assert_eq!(problem, Ok(None));
    let calls = wire.calls();
    assert_eq!(
        wire.operations(),
        ["DescribeKey", "GenerateDataKeyWithoutPlaintext"]
    );
    assert_eq!(calls[0].json, json!({"KeyId": "alias/ebs"}));
    assert_eq!(
        calls[1].json,
        json!({
            "KeyId": KEY, "KeySpec": "AES_256", "DryRun": true,
            "EncryptionContext": {"aws:ebs:id": "vol-00000000000000000"},
        })
    );

    // The account's default, where it is a key of its own.
    let (problem, wire) = problem_of(None, |call| match call.operation.as_str() {
        "GetEbsDefaultKmsKeyId" => default_key_xml(KEY),
        "DescribeKey" => key_json(json!({})),
        _ => dry_run(),
    })
    .await;
    assert_eq!(problem, Ok(None));
    assert_eq!(wire.calls()[1].json, json!({"KeyId": KEY}));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_ebs_cannot_use_is_a_problem_with_a_way_out() {
    for (fields, expected) in [
        (
            json!({"KeyState": "Disabled", "Enabled": false}),
            "is in the state Disabled: enable it",
        ),
        (
            json!({"KeyState": "PendingDeletion"}),
            "is in the state PendingDeletion: cancel its deletion, or use another",
        ),
        (
            json!({"KeyState": "PendingImport"}),
            "is in the state PendingImport: import its key material",
        ),
        (
            json!({"KeyState": "Unavailable"}),
            "is in the state Unavailable: connect its custom key store",
        ),
        (
            json!({"KeyState": "SomethingNew"}),
            "is in the state SomethingNew: wait until it is Enabled, or use another",
        ),
        (
            json!({"KeyUsage": "SIGN_VERIFY", "KeySpec": "RSA_4096"}),
            "is SIGN_VERIFY, RSA_4096: EBS takes keys with ENCRYPT_DECRYPT, SYMMETRIC_DEFAULT only",
        ),
        (
            json!({"KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "RSA_2048"}),
            "is ENCRYPT_DECRYPT, RSA_2048: EBS takes keys with ENCRYPT_DECRYPT, SYMMETRIC_DEFAULT only",
        ),
    ] {
        let (problem, wire) = problem_of(None, move |call| match call.operation.as_str() {
            "GetEbsDefaultKmsKeyId" => default_key_xml(KEY),
            "DescribeKey" => key_json(fields.clone()),
            other => panic!("{other}"),
        })
        .await;
        assert_eq!(
            problem.unwrap().unwrap(),
            format!(
                "the KMS key `{KEY}` (the account's default for EBS) {expected}; or name another key in the policy (`kms_key`)"
            )
        );
        assert_eq!(wire.calls().len(), 2);
    }
    let elsewhere = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234";
    let (problem, _) = problem_of(Some(elsewhere), |call| panic!("{}", call.operation)).await;
    assert_eq!(
        problem.unwrap().unwrap(),
        format!(
            "the KMS key `{elsewhere}` (`kms_key` in the policy) is in us-east-1, the volumes are in eu-central-1: use a key (or the replica of a multi-Region key) of this Region"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_missing_or_closed_to_the_role_is_a_problem_and_a_fault_of_kms_is_none() {
    let describe = |code: &'static str| {
        move |call: &Call| match call.operation.as_str() {
            "DescribeKey" => Reply::json_error(code, "m"),
            other => panic!("{other}"),
        }
    };
    let probe = |code: &'static str| {
        move |call: &Call| match call.operation.as_str() {
            "DescribeKey" => key_json(json!({})),
            _ => Reply::json_error(code, "m"),
        }
    };
    let head = format!("the KMS key `{KEY}` (`kms_key` in the policy) cannot be used");
    for (code, way_out) in [
        (
            "NotFoundException",
            "use a key that is there, in this Region",
        ),
        (
            "InvalidArnException",
            "use a key that is there, in this Region",
        ),
        (
            "AccessDeniedException",
            "allow Backstop's role kms:DescribeKey on it, in the key's policy and not only through EC2 (kms:ViaService)",
        ),
    ] {
        let (problem, _) = problem_of(Some(KEY), describe(code)).await;
        assert_eq!(
            problem.unwrap().unwrap(),
            format!("{head} (DescribeKey: {code}: m): {way_out}")
        );
    }
    for (code, way_out) in [
        (
            "AccessDeniedException",
            "allow Backstop's role kms:GenerateDataKeyWithoutPlaintext on it, in the key's policy and not only through EC2 (kms:ViaService)",
        ),
        ("DisabledException", "enable it, or use another"),
        ("KMSInvalidStateException", "enable it, or use another"),
    ] {
        let (problem, _) = problem_of(Some(KEY), probe(code)).await;
        assert_eq!(
            problem.unwrap().unwrap(),
            format!("{head} (GenerateDataKeyWithoutPlaintext: {code}: m): {way_out}")
        );
    }
    for code in [
        "ThrottlingException",
        "KMSInternalException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "ExpiredTokenException",
    ] {
        let (problem, _) = problem_of(Some(KEY), describe(code)).await;
        assert_eq!(problem, Err(format!("DescribeKey: {code}: m")));
        let (problem, _) = problem_of(Some(KEY), probe(code)).await;
        assert_eq!(
            problem,
            Err(format!("GenerateDataKeyWithoutPlaintext: {code}: m"))
        );
    }
    let (problem, _) = problem_of(Some(KEY), |_| Reply::Broken).await;
    assert!(
        problem
            .unwrap_err()
            .starts_with("DescribeKey: NoConnection")
    );
    let (problem, _) = problem_of(None, |_| {
        Reply::ec2_error(503, "RequestLimitExceeded", "slower")
    })
    .await;
    assert_eq!(
        problem,
        Err("GetEbsDefaultKmsKeyId: RequestLimitExceeded: slower".to_owned())
    );
}
