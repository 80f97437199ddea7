//! The part of a scan that is about volumes.
//!
//! Units are judged as pages show them, which is little of an instance: what
//! would be done to one that is not left anyway is said by `backstop plan`.

use std::collections::{BTreeMap, BTreeSet};

use backstop_aws::security_groups::arn;
use backstop_aws::{kept_volumes, opt_outs, volume_pages};
use backstop_core::controls::unencrypted_volume::{
    Circumstances, Decision, Verdict, decide, exempt, fingerprint,
};
use backstop_core::guards::Guards;
use backstop_core::policy::Policy;
use backstop_core::security_group::Tags;
use backstop_core::sweep::volumes::{as_shown, reason, unit_of};
use backstop_core::volumes::{REPLACED_BY_TAG, Unit, Volume, VolumeFacts};
use backstop_core::words::{ControlId, Severity, Status};
use jiff::Timestamp;

use super::{Found, FoundVolume, Scanned};
use crate::context::Aws;
use crate::judging::Basis;

/// Looks at every unencrypted volume.
pub(super) async fn look(aws: &Aws, basis: &Basis, scanned: &mut Scanned) {
    let policy = &basis.policy;
    const CONTROL: ControlId = ControlId::UnencryptedVolume;
    let (ec2, deadline) = (&aws.clients.ec2, &aws.deadline);
    // A unit's volumes may be on different pages: all of them first.
    let mut seen: Vec<Volume> = Vec::new();
    if let Err(stopped) = volume_pages::walk(ec2, deadline, async |page| seen.extend(page)).await {
        scanned.unseen.push(format!("{CONTROL}: {stopped}"));
    }
    scanned.unencrypted_volumes = seen.len() as u64;
    let named: BTreeSet<&String> = seen
        .iter()
        .filter_map(|volume| volume.tags.get(REPLACED_BY_TAG))
        .collect();
    let named: Vec<String> = named.into_iter().cloned().collect();
    let mut units: BTreeMap<String, Vec<Volume>> = BTreeMap::new();
    for volume in seen {
        let unit = unit_of(&volume).to_owned();
        units.entry(unit).or_default().push(volume);
    }
    let instances: Vec<String> = units
        .keys()
        .filter(|unit| unit.starts_with("i-"))
        .cloned()
        .collect();
    let copies = kept_volumes::by_id(ec2, &named, deadline).await;
    let copies = copies.unwrap_or_else(|error| {
        let problem =
            format!("{CONTROL}: what replaced volumes (none counts as replaced): {error}");
        scanned.unseen.push(problem);
        BTreeMap::new()
    });
    let opt_outs = opt_outs::read(ec2, &instances, deadline).await;
    let opt_outs = opt_outs.unwrap_or_else(|error| {
        scanned
            .unseen
            .push(format!("{CONTROL}: the opt-outs of instances: {error}"));
        BTreeMap::new()
    });
    let ids: Vec<String> = units.keys().cloned().collect();
    let guards = basis.guards(CONTROL, &ids).await.unwrap_or_else(|problem| {
        let problem = format!("{CONTROL}: trips and baseline (judged without them): {problem}");
        scanned.unseen.push(problem);
        BTreeMap::new()
    });
    let unguarded = Guards::default();
    for (unit, volumes) in units {
        let circumstances = Circumstances {
            mode: basis.mode,
            now: aws.clients.clock.now(),
            guards: guards.get(&unit).unwrap_or(&unguarded),
        };
        let count = volumes.len() as u64;
        let none = Tags::new();
        let opted_out = opt_outs.get(&unit).unwrap_or(&none);
        let facts = as_shown(&unit, volumes, opted_out, &copies);
        let decision = decide(&facts, &policy.unencrypted_volume(), &circumstances);
        match found(&unit, &facts, &decision, policy, circumstances.now) {
            Some(found) => scanned.found.push(Found {
                resource: arn(&scanned.region, &scanned.account, &unit),
                ..found
            }),
            None if decision.verdict == Verdict::Compliant => scanned.kept_volumes += count,
            None => {}
        }
    }
}

fn found(
    unit: &str,
    facts: &VolumeFacts,
    decision: &Decision,
    policy: &Policy,
    now: Timestamp,
) -> Option<Found> {
    let (volumes, name, of_instance) = match &facts.unit {
        Unit::Gone => return None,
        Unit::Volume(volume) => (std::slice::from_ref(volume.as_ref()), name(volume), false),
        Unit::Instance(instance, volumes) => {
            let opted_out = exempt(&instance.tags, &policy.opt_out, now).holds();
            (volumes.as_slice(), String::new(), opted_out)
        }
    };
    let state = match (&decision.verdict, decision.status) {
        (Verdict::NotApplicable(_) | Verdict::Compliant, _) => return None,
        (Verdict::Settling { .. }, _) => "would be looked at again once it has settled".to_owned(),
        (_, Status::InProgress) => "would be remediated".to_owned(),
        (_, Status::Pending) => format!("backstop plan {unit} says what would be done"),
        (_, Status::Notified | Status::Refused) => {
            format!("would be left: {}", decision.reasons.join("; "))
        }
        (_, other) => format!("would be left: {}", reason(Some(other.name()))),
    };
    let volume = |volume: &Volume| FoundVolume {
        id: volume.id.clone(),
        name: self::name(volume),
        size_gib: volume.size,
        volume_type: volume.volume_type.clone(),
        device: volume
            .attachment_to(unit)
            .map(|attachment| attachment.device.clone()),
        opted_out: of_instance || exempt(&volume.tags, &policy.opt_out, now).holds(),
    };
    Some(Found {
        control: ControlId::UnencryptedVolume,
        severity: Severity::High,
        resource: String::new(),
        id: unit.to_owned(),
        name,
        open: Vec::new(),
        volumes: volumes.iter().map(volume).collect(),
        patching: None,
        fingerprints: volumes.iter().map(|v| fingerprint(&v.id)).collect(),
        state,
        opted_out: decision.status == Status::Exempt,
    })
}

/// The value of a volume's `Name` tag.
fn name(volume: &Volume) -> String {
    let name = Some(volume.name()).filter(|name| *name != volume.id);
    name.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backstop_aws::clients::{Clients, EncryptionClients, OperationsClients};
    use backstop_aws::deadline::Deadline;
    use backstop_aws::remediation::Place;
    use backstop_core::encryption::Attached;
    use backstop_engine::Previewing;
    use backstop_wire::{Call, Reply, Wire};
    use serde_json::{Value, json};

    use backstop_core::words::Mode;

    use super::*;
    use backstop_engine::at_once;

    fn answer(operation: &str, content: &str) -> Reply {
        Reply::ok(format!(
            "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
        ))
    }

    fn denied() -> Reply {
        Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized.")
    }

    fn volume(id: &str, encrypted: bool, instance: Option<&str>, tags: &[(&str, &str)]) -> String {
        let attachment = instance.map_or_else(String::new, |instance| format!(
            "<item><volumeId>{id}</volumeId><instanceId>{instance}</instanceId><device>/dev/sdf</device><status>attached</status></item>"
        ));
        let tags: String = tags
            .iter()
            .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
            .collect();
        format!(
            "<item><volumeId>{id}</volumeId><size>8</size><status>available</status><createTime>2026-01-20T10:00:00.000Z</createTime>\
             <attachmentSet>{attachment}</attachmentSet><tagSet>{tags}</tagSet><volumeType>gp3</volumeType><encrypted>{encrypted}</encrypted></item>"
        )
    }

    /// An account with an instance of two volumes, one that is opted out, a
    /// volume by itself, and an original that was replaced.
    fn account(call: &Call) -> Reply {
        let walk = call.parameter("Filter.1.Name") == Some("encrypted");
        match call.operation.as_str() {
            "DescribeVolumes" if walk => {
                let volumes = [
                    volume("vol-1", false, Some("i-1"), &[("Name", "root")]),
                    volume("vol-2", false, Some("i-1"), &[("backstop:opt-out", "all")]),
                    volume("vol-3", false, Some("i-2"), &[]),
                    volume("vol-4", false, None, &[("Name", "archive")]),
                    volume("vol-5", false, None, &[("backstop:replaced-by", "vol-6")]),
                ];
                answer(
                    "DescribeVolumes",
                    &format!("<volumeSet>{}</volumeSet>", volumes.concat()),
                )
            }
            "DescribeVolumes" => {
                let copy = volume("vol-6", true, None, &[("backstop:copy-of", "vol-5")]);
                answer("DescribeVolumes", &format!("<volumeSet>{copy}</volumeSet>"))
            }
            "DescribeTags" => answer(
                "DescribeTags",
                "<tagSet><item><resourceId>i-2</resourceId><resourceType>instance</resourceType><key>backstop:opt-out</key><value>all</value></item></tagSet>",
            ),
            "GetEbsEncryptionByDefault" => answer(
                "GetEbsEncryptionByDefault",
                "<ebsEncryptionByDefault>false</ebsEncryptionByDefault>",
            ),
            other => panic!("{other}"),
        }
    }

    /// A scan in mode `enforce` of an account in which one operation is denied.
    async fn scan(attached: Attached, without: &'static str) -> Scanned {
        let wire = Wire::new(move |call| match call.operation == without {
            true => denied(),
            false => account(call),
        });
        let config = wire.config(1);
        let aws = Aws {
            account: "111122223333".into(),
            clients: Clients::new(&config),
            encryption: EncryptionClients::new(&config),
            operations: OperationsClients::new(&config),
            region: "eu-central-1".into(),
            deadline: Deadline::new(Duration::from_secs(60)),
        };
        let mut policy = Policy::default();
        policy.controls.unencrypted_volume.settings.attached = attached;
        let mut scanned = Scanned {
            account: "111122223333".into(),
            region: aws.region.clone(),
            ..Scanned::default()
        };
        let basis = Basis {
            by: String::new(),
            policy,
            mode: Mode::Enforce,
            ledger: None,
        };
        look(&aws, &basis, &mut scanned).await;
        let previewing = Previewing {
            clients: &aws.clients,
            policy: &basis.policy,
            mode: Mode::Enforce,
            ledger: None,
            place: Place {
                account: "111122223333",
                region: &aws.region,
                deadline: &aws.deadline,
            },
        };
        let setting = at_once(ControlId::EncryptionByDefault).unwrap();
        scanned.look(setting, &previewing, &mut |_| {}).await;
        scanned
    }

    #[tokio::test(start_paused = true)]
    async fn units_are_found_with_their_volumes_and_originals_that_were_replaced_are_not() {
        let scanned = scan(Attached::WhenStopped, "").await;
        assert_eq!(scanned.unseen, Vec::<String>::new());
        assert_eq!((scanned.unencrypted_volumes, scanned.kept_volumes), (5, 1));
        let of: Vec<(&str, &str, &str)> = scanned
            .found
            .iter()
            .map(|found| (found.id.as_str(), found.name.as_str(), found.state.as_str()))
            .collect();
        assert_eq!(
            of,
            [
                ("i-1", "", "backstop plan i-1 says what would be done"),
                ("i-2", "", "would be left: opted out"),
                ("vol-4", "archive", "would be remediated"),
                (
                    "eu-central-1",
                    "encryption by default in eu-central-1",
                    "would be remediated"
                ),
            ]
        );
        let found: Value = json!(scanned.found);
        assert_eq!(
            found[0]["volumes"],
            json!([
                {"id": "vol-1", "name": "root", "size_gib": 8, "volume_type": "gp3", "device": "/dev/sdf", "opted_out": false},
                {"id": "vol-2", "name": "", "size_gib": 8, "volume_type": "gp3", "device": "/dev/sdf", "opted_out": true},
            ])
        );
        assert_eq!(found[1]["volumes"][0]["opted_out"], true, "by its instance");
        assert_eq!(
            [
                &found[0]["resource"],
                &found[2]["resource"],
                &found[3]["resource"]
            ],
            [
                "arn:aws:ec2:eu-central-1:111122223333:instance/i-1",
                "arn:aws:ec2:eu-central-1:111122223333:volume/vol-4",
                "arn:aws:ec2:eu-central-1:111122223333:encryption-by-default/eu-central-1",
            ]
        );
        assert_eq!(found[3].get("volumes"), None);
        assert_eq!(found[3]["severity"], "medium");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_read_is_said_and_loses_nothing_else() {
        for (without, problem, found) in [
            (
                "DescribeVolumes",
                "unencrypted-volume: the walk over the unencrypted volumes ended after 0 of them: DescribeVolumes: UnauthorizedOperation",
                1,
            ),
            (
                "DescribeTags",
                "unencrypted-volume: the opt-outs of instances: DescribeTags: UnauthorizedOperation",
                4,
            ),
            (
                "GetEbsEncryptionByDefault",
                "encryption-by-default: GetEbsEncryptionByDefault: UnauthorizedOperation",
                3,
            ),
        ] {
            let scanned = scan(Attached::Notify, without).await;
            assert_eq!(scanned.found.len(), found, "{without}");
            let [unseen] = &scanned.unseen[..] else {
                panic!("{:?}", scanned.unseen)
            };
            assert!(unseen.starts_with(problem), "{unseen}");
        }
    }
}
