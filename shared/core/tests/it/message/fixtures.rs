//! Entries to tell about, written by hand.

use std::collections::BTreeMap;

use backstop_core::entry::{self, AtOnce};
use backstop_core::exemption::{Exemption, OptOut};
use backstop_core::message::{self, Message};
use backstop_core::plan::{self, Disposition, Ending, Outcome, Plan, Reach, Step, Verification};
use backstop_core::ports::Permission;
use backstop_core::reason::Reason;
use backstop_core::run::{Head, Run};
use backstop_core::security_group::{IngressRule, Source};
use backstop_core::words::{Actor, ControlId, Severity, Status};
use serde_json::Value;

pub(crate) type Entry = entry::Entry<IngressRule>;
pub(crate) type Exposure = plan::Exposure<IngressRule>;
pub(crate) type Change = plan::Change<IngressRule>;

/// The message about an entry.
pub(crate) fn compose(entry: &Entry) -> Message {
    message::compose(&entry.erased().unwrap())
}

/// One of the bodies of a message.
pub(crate) fn body(message: &Message, protocol: &str) -> String {
    let bodies: Value = serde_json::from_str(&message.body).unwrap();
    bodies[protocol].as_str().unwrap().to_owned()
}

/// Subject and mail, as a person gets them.
pub(crate) fn mail(entry: &Entry) -> String {
    let message = compose(entry);
    format!(
        "Subject: {}\n\n{}",
        message.subject,
        body(&message, "email")
    )
}

pub(crate) fn rule(id: &str, permission: Permission, source: Source) -> IngressRule {
    IngressRule {
        id: id.to_owned(),
        permission,
        source,
        description: None,
        tags: BTreeMap::new(),
    }
}

pub(crate) fn world() -> Source {
    Source::Ipv4("0.0.0.0/0".to_owned())
}

pub(crate) fn exposure(rule: &IngressRule, exposed: &[&str], allowed: &[&str]) -> Exposure {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    Exposure {
        hidden: false,
        item: rule.id.clone(),
        state: rule.clone(),
        exposed: words(exposed),
        allowed: words(allowed),
        reach: Some(Reach {
            public_addresses: 3_702_258_432,
            private_part: true,
        }),
        unjudged: None,
        exemption: Exemption::None,
        fingerprint: "0f".repeat(16),
    }
}

/// Ssh, open to the world.
pub(crate) fn ssh() -> IngressRule {
    let mut rule = rule(
        "sgr-0aaaaaaaaaaaaaaaa",
        Permission::new("tcp", 22, 22),
        world(),
    );
    rule.description = Some("ssh for the migration".to_owned());
    rule
}

pub(crate) fn revoke(rule: &IngressRule) -> Change {
    Change::remove(&rule.id, rule.clone())
}

/// The part of a rule that leaves one TCP port open.
pub(crate) fn part(rule: &IngressRule, port: i32) -> IngressRule {
    IngressRule {
        permission: Permission::new("tcp", port, port),
        ..rule.clone()
    }
}

pub(crate) fn outcome(rule: &IngressRule, step: Step, ending: Ending) -> Outcome {
    Outcome {
        round: 1,
        item: rule.id.clone(),
        step,
        permission: None,
        created: None,
        without: None,
        ending,
    }
}

pub(crate) fn denied(operation: &str) -> Ending {
    Ending::Failed {
        retryable: false,
        operation: operation.to_owned(),
        code: "UnauthorizedOperation".to_owned(),
        message: "You are not authorized to perform this operation.".to_owned(),
    }
}

pub(crate) fn opt_out(until: Option<&str>) -> OptOut {
    OptOut {
        until: until.map(|day| day.parse().unwrap()),
        owner: Some("team-web".to_owned()),
        reason: Some("vendor audit".to_owned()),
    }
}

/// An entry about rules that are open, before anything was decided.
pub(crate) fn found(exposures: Vec<Exposure>) -> Entry {
    Run {
        head: Head {
            version: 1,
            id: "01KAT5J3V0QZ8Y2N4M6P8R0T2W".to_owned(),
            control: ControlId::OpenIngress,
            severity: Severity::Critical,
            resource: "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0"
                .to_owned(),
            resource_name: "web".to_owned(),
            account: "111122223333".to_owned(),
            region: "eu-central-1".to_owned(),
            team: Some("team-web".to_owned()),
            status: Status::InProgress,
            exemption: Exemption::None,
            actor: Actor {
                principal: Some(
                    "arn:aws:sts::111122223333:assumed-role/developer/alice".to_owned(),
                ),
                user_agent: Some("aws-cli/2.31.0".to_owned()),
                source_address: Some("198.51.100.7".to_owned()),
                invoked_by: None,
                event_name: Some("AuthorizeSecurityGroupIngress".to_owned()),
                event_time: Some("2026-11-24T09:59:56Z".parse().unwrap()),
                event_id: Some("5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e".to_owned()),
                ..Actor::default()
            },
            policy_version: 1,
            attempts: 1,
            started_at: "2026-11-24T10:00:00.25Z".parse().unwrap(),
            finished_at: Some("2026-11-24T10:00:01.5Z".parse().unwrap()),
            managed_by: None,
        },
        detail: AtOnce {
            exposures,
            plan: Plan {
                disposition: Disposition::Enforce,
                changes: Vec::new(),
                reasons: Vec::new(),
                because: None,
            },
            before: BTreeMap::new(),
            outcomes: Vec::new(),
            verification: None,
            shows_by: None,
            after: BTreeMap::new(),
            fight: None,
        },
    }
}

/// An entry whose plan was carried out.
pub(crate) fn carried_out(
    exposures: Vec<Exposure>,
    changes: Vec<Change>,
    outcomes: Vec<Outcome>,
) -> Entry {
    let mut entry = found(exposures);
    entry.detail.plan.changes = changes;
    entry.detail.before = entry.detail.plan.before();
    entry.detail.outcomes = outcomes;
    entry.head.status = Status::Remediated;
    entry.detail.verification = Some(Verification::default());
    entry
}

/// An entry that was told and changed nothing.
pub(crate) fn unchanged(exposures: Vec<Exposure>, because: Reason) -> Entry {
    let mut entry = found(exposures);
    entry.head.status = because.status();
    entry.detail.plan.disposition = Disposition::of(&because);
    entry.detail.plan.because = Some(because);
    entry.head.finished_at = Some(entry.head.started_at);
    entry
}

/// The commonest one: ssh was open to the world and was revoked.
pub(crate) fn revoked() -> Entry {
    let rule = ssh();
    carried_out(
        vec![exposure(&rule, &["tcp 22"], &[])],
        vec![revoke(&rule)],
        vec![outcome(&rule, Step::Revoke, Ending::Done)],
    )
}

/// A range that was narrowed, with a remainder of its own and one for which
/// the group had no room.
pub(crate) fn narrowed() -> Entry {
    let mut rule = rule(
        "sgr-0bbbbbbbbbbbbbbbb",
        Permission::new("tcp", 0, 9000),
        world(),
    );
    rule.description = Some("everything; ask Bob".to_owned());
    rule.tags.insert("service".to_owned(), "shop".to_owned());
    let exposure = exposure(
        &rule,
        &["tcp 0-79", "tcp 81-442", "tcp 444-8442", "tcp 8444-9000"],
        &["tcp 80", "tcp 443", "tcp 8443"],
    );
    let change = Change {
        after: Some(part(&rule, 80)),
        add: vec![part(&rule, 443), part(&rule, 8443)],
        ..revoke(&rule)
    };
    let made = |port, step, created: Option<&str>, ending| Outcome {
        permission: Some(Permission::new("tcp", port, port)),
        created: created.map(str::to_owned),
        without: None,
        ..outcome(&rule, step, ending)
    };
    let outcomes = vec![
        made(
            443,
            Step::Authorise,
            Some("sgr-0cccccccccccccccc"),
            Ending::Done,
        ),
        made(
            8443,
            Step::Authorise,
            None,
            Ending::Skipped {
                why: "the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries"
                    .to_owned(),
            },
        ),
        made(80, Step::Narrow, None, Ending::Done),
    ];
    carried_out(vec![exposure], vec![change], outcomes)
}
