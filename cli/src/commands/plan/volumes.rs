//! What would be done about an instance with its volumes, about a volume that
//! is attached nowhere.

use backstop_aws::volumes::facts;
use backstop_core::controls::unencrypted_volume::{self, Circumstances, Decision, Verdict};
use backstop_core::message::{managed_volumes, one_line, steps};
use backstop_core::volumes::{Unit, Volume, VolumeFacts};
use backstop_core::words::{Actor, ControlId, Severity, Status};

use super::exempted;
use crate::Problem;
use crate::context::Aws;
use crate::judging::Basis;
use crate::table::{Page, named, table, terminal_width};

/// Looks at the unit of a volume or an instance; whether anything was found.
pub(super) async fn plan(id: &str, aws: &Aws, basis: &Basis) -> Result<bool, Problem> {
    let policy = &basis.policy;
    let key = policy
        .controls
        .unencrypted_volume
        .settings
        .kms_key
        .as_deref();
    let (ec2, kms) = (&aws.clients.ec2, &aws.encryption.kms);
    let facts = facts(ec2, kms, id, key, &aws.deadline).await?;
    let unit = match &facts.unit {
        Unit::Instance(instance, _) => instance.id.clone(),
        Unit::Volume(volume) => volume.id.clone(),
        Unit::Gone => return Err(aws.not_found(id)),
    };
    let mut guards = basis
        .guards(ControlId::UnencryptedVolume, std::slice::from_ref(&unit))
        .await?;
    let circumstances = Circumstances {
        mode: basis.mode,
        now: aws.clients.clock.now(),
        guards: &guards.remove(&unit).unwrap_or_default(),
    };
    let decision = unencrypted_volume::decide(&facts, &policy.unencrypted_volume(), &circumstances);
    print!("{}", said(id, &facts, &decision, key, terminal_width()));
    Ok(matches!(decision.verdict, Verdict::Violates(_)))
}

/// A decision about a unit, for people, as it fits a terminal of so many columns.
fn said(
    asked: &str,
    facts: &VolumeFacts,
    decision: &Decision,
    key: Option<&str>,
    terminal: Option<usize>,
) -> String {
    let mut page = Page::new(terminal);
    let unit = match &facts.unit {
        Unit::Gone => asked.to_owned(),
        Unit::Volume(volume) => named(&volume.id, volume.name()),
        Unit::Instance(instance, _) => format!(
            "the volumes of {}, {}, {}",
            named(&instance.id, instance.name()),
            one_line(&instance.instance_type, 50),
            one_line(&instance.state, 50)
        ),
    };
    let found = match &decision.verdict {
        Verdict::NotApplicable(why) => Err(format!("nothing to judge: {why}")),
        Verdict::Compliant => Err("compliant, nothing would be done".to_owned()),
        Verdict::Settling { seconds } => Err(format!(
            "it was created a moment ago and would be looked at again in {seconds} seconds"
        )),
        Verdict::Violates(volumes) => Ok(volumes),
    };
    let found = match found {
        Ok(volumes) => volumes,
        Err(why_not) => {
            page.line(&format!("{unit}: {why_not}"));
            return page.into_text();
        }
    };
    let (carried_out, begins) = match decision.status {
        Status::InProgress => ("it would be carried out", true),
        Status::Pending => ("it would be carried out later", true),
        _ => ("it would not be carried out", false),
    };
    let mut rows = table(&["volume", "made", "attached as", "would be"]);
    for volume in found {
        let replaced = begins && decision.volumes.iter().any(|v| v.id == volume.id);
        rows.add_row(vec![
            named(&volume.id, volume.name()),
            format!("{} GiB {}", volume.size, one_line(&volume.volume_type, 50)),
            device(volume),
            match replaced {
                true => "replaced by an encrypted copy",
                false => "left as it is",
            }
            .to_owned(),
        ]);
    }
    page.line(&format!("{unit}: {} finding", Severity::High));
    page.table(&rows);
    page.line(carried_out);
    for (n, reason) in decision.reasons.iter().enumerate() {
        // Of what begins they only say which volumes stay as they are.
        let lead = match (decision.status, n) {
            (Status::InProgress, _) => "",
            (_, 0) => "because ",
            _ => "and ",
        };
        page.led(lead, &one_line(reason, 300));
    }
    page.line(&exempted(&decision.exemption));
    if let Some(manager) = unencrypted_volume::managed_by(facts, &Actor::default()) {
        page.line(&managed_volumes(&manager.to_string()));
    }
    if begins {
        let steps = steps(decision.way, decision.volumes.len(), key);
        for (n, step) in steps.iter().enumerate() {
            page.led(&format!("{}. ", n + 1), step);
        }
    }
    page.into_text()
}

fn device(volume: &Volume) -> String {
    let attachment = volume.attached().next();
    attachment.map_or("-".to_owned(), |at| one_line(&at.device, 50))
}

#[cfg(test)]
mod tests {
    use backstop_core::encryption::Attached;
    use backstop_core::record::Record;
    use backstop_core::volumes::{Attachment, Instance};
    use jiff::{SignedDuration, Timestamp};

    use backstop_core::guards::Guards;
    use backstop_core::policy::Policy;
    use backstop_core::words::Mode;

    use super::*;
    use crate::screens::{self, record};

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().unwrap()
    }

    fn volume(id: &str, device: Option<&str>, tags: &[(&str, &str)]) -> Volume {
        let attachment = |device: &str| Attachment {
            instance: "i-1".into(),
            device: device.into(),
            state: "attached".into(),
            delete_on_termination: false,
            attached_at: None,
        };
        Volume {
            id: id.into(),
            state: "in-use".into(),
            encrypted: false,
            size: 100,
            volume_type: "gp3".into(),
            iops: None,
            throughput: None,
            zone: "eu-central-1a".into(),
            multi_attach: false,
            created_at: Some(now() - SignedDuration::from_hours(24)),
            attachments: device.map(attachment).into_iter().collect(),
            tags: of(tags),
            operator: None,
            marketplace: false,
            outpost: None,
        }
    }

    fn of(tags: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        let tags = tags.iter();
        tags.map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn instance(state: &str, tags: &[(&str, &str)], volumes: &[Volume]) -> Unit {
        let instance = Instance {
            id: "i-1".into(),
            state: state.into(),
            launched_at: None,
            instance_type: "m7g.large".into(),
            tags: of(tags),
            lifecycle: None,
            instance_store: false,
            auto_public_ipv4: None,
            marketplace: false,
            outpost: None,
            operator: None,
            hibernates: false,
            stop_protected: false,
            checks: None,
            state_reason: None,
        };
        Unit::Instance(Box::new(instance), volumes.to_vec())
    }

    /// What is said of a unit in mode `enforce`.
    fn plan(unit: Unit, attached: Attached) -> String {
        plan_on(unit, attached, None)
    }

    fn plan_on(unit: Unit, attached: Attached, terminal: Option<usize>) -> String {
        let mut policy = Policy::default();
        let settings = &mut policy.controls.unencrypted_volume.settings;
        settings.attached = attached;
        settings.windows = vec![backstop_core::windows::Window {
            days: Vec::new(),
            from: "09:00".into(),
            to: "11:00".into(),
        }];
        let facts = VolumeFacts {
            unit,
            copies: std::collections::BTreeMap::new(),
            key_problem: None,
        };
        let circumstances = Circumstances {
            mode: Mode::Enforce,
            now: now(),
            guards: &Guards::default(),
        };
        let decision =
            unencrypted_volume::decide(&facts, &policy.unencrypted_volume(), &circumstances);
        said("i-1", &facts, &decision, Some("alias/data"), terminal)
    }

    #[track_caller]
    fn in_order(text: &str, parts: &[&str]) {
        let mut rest = text;
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                panic!("{part} is missing, or out of order, in\n{text}");
            };
            rest = after;
        }
    }

    #[test]
    fn the_plan_for_an_instances_volumes_is_the_screen_in_the_documents() {
        let Record::Encryption(run) = record("encryption/unencrypted-volume-remediated.json")
        else {
            panic!("an encryption")
        };
        let unit = || {
            let name = [("Name", run.head.resource_name.as_str())];
            let mut unit = instance("running", &name, &run.detail.volumes);
            if let Unit::Instance(instance, _) = &mut unit {
                instance.id = run.head.resource_id().to_owned();
            }
            unit
        };
        screens::check("plan-volumes", |terminal| {
            plan_on(unit(), Attached::Swap, terminal)
        });
    }

    #[test]
    fn a_swap_is_said_step_by_step_and_what_stays_as_it_is_with_it() {
        let opt_out = "all until=2027-01-31 owner=team-db reason=vendor audit";
        let volumes = [
            volume("vol-1", Some("/dev/xvda"), &[("Name", "root")]),
            volume("vol-2", Some("/dev/sdf"), &[("backstop:opt-out", opt_out)]),
        ];
        let unit = instance("running", &[("Name", "db-1")], &volumes);
        let text = plan(unit, Attached::Swap);
        in_order(
            &text,
            &[
                "i-1 (db-1), m7g.large, running: high finding",
                "vol-1 (root)",
                "/dev/xvda",
                "replaced by an encrypted copy",
                "vol-2",
                "left as it is",
                "it would be carried out\n",
                "vol-2 stays as it is: the tag backstop:opt-out opts it out\n",
                "opted out until 2027-01-31, by team-db: vendor audit\n",
                "1. First a snapshot of the volume",
                "2. Then the instance is STOPPED",
                "3. While it is stopped, an encrypted copy is made with the KMS key alias/data",
                "4. Then the volume is detached",
                "5. Then it is started",
                "6. At last the volume is tagged",
            ],
        );
        assert!(!text.contains("because"), "{text}");
    }

    #[test]
    fn what_manages_the_volumes_is_said_and_what_becomes_of_them_there() {
        let note = [("managed-by", "terraform")];
        let of = |own: &[(&str, &str)], tags: &[(&str, &str)]| {
            let volumes = [volume("vol-1", Some("/dev/xvda"), own)];
            plan(instance("running", tags, &volumes), Attached::Swap)
        };
        for text in [of(&note, &[]), of(&[], &note)] {
            in_order(
                &text,
                &[
                    "it would be carried out\n",
                    "It is managed by Terraform (tag managed-by=terraform): change it there, or it comes back.",
                    "it may replace a volume, an attachment or the whole instance",
                    "1. First",
                ],
            );
        }
        let stack = [("aws:cloudformation:stack-name", "web")];
        for (text, id) in [(of(&stack, &[]), "vol-1"), (of(&[], &stack), "i-1")] {
            in_order(
                &text,
                &[
                    "it would not be carried out\n",
                    &format!("because {id} is managed by the CloudFormation stack web, whose"),
                    "(`replace_stack_volumes`)\n",
                    "It is managed by the CloudFormation stack web: change it there",
                ],
            );
        }
        assert!(!of(&[], &[]).contains("managed by"));
    }

    #[test]
    fn what_waits_is_left_or_would_break_something_is_said_with_why() {
        let root = [volume("vol-1", Some("/dev/xvda"), &[])];
        let of =
            |state, tags: &[(&str, &str)], attached| plan(instance(state, tags, &root), attached);
        in_order(
            &of("running", &[], Attached::WhenStopped),
            &[
                "it would be carried out later\nbecause it waits for the instance to be stopped by somebody",
                "1. First",
                "The instance stays stopped.",
            ],
        );
        for (text, why) in [
            (
                of("running", &[], Attached::Notify),
                "because attached volumes are only told",
            ),
            (
                of(
                    "running",
                    &[("aws:ec2:fleet-id", "fleet-1")],
                    Attached::Swap,
                ),
                "because i-1 is a member of the fleet fleet-1",
            ),
            (
                of("running", &[("backstop:opt-out", "yes")], Attached::Swap),
                "because the tag backstop:opt-out cannot be read\nthe tag backstop:opt-out is `yes`: ",
            ),
        ] {
            in_order(
                &text,
                &["left as it is", "it would not be carried out\n", why],
            );
            assert!(!text.contains("1. "), "{text}");
        }
        let mut new = volume("vol-1", None, &[]);
        new.state = "available".into();
        let loose = plan(Unit::Volume(Box::new(new.clone())), Attached::Notify);
        in_order(
            &loose,
            &[
                "vol-1: high finding",
                "it would be carried out\n",
                "1. ",
                "3. ",
            ],
        );
        new.created_at = Some(now());
        let settling = plan(Unit::Volume(Box::new(new)), Attached::Notify);
        assert!(
            settling.contains("looked at again in 600 seconds"),
            "{settling}"
        );
        let gone = plan(Unit::Gone, Attached::Notify);
        assert_eq!(gone, "i-1: nothing to judge: it is gone\n");
    }
}
