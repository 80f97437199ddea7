//! An opt-out tag as both who honour it see it: what the code does with a resource
//! that carries it, and what IAM answers to the calls that the code would make.

use std::collections::BTreeSet;

use backstop_aws::clock::Clock;
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::words::ControlId;
use backstop_tests::iam::{Request, Verdict, judge, kind_of, knows_of};
use backstop_tests::stack::Stack;
use backstop_tests::template::role_of;
use backstop_wire::memory::Cloud;

use super::account::Account;
use super::{Scene, Story, run, stories};
use crate::contract::fixture;

/// Keys under which the code reads the tag, and holds what it would exempt. IAM
/// reads it in any case.
const KEYS: &[&str] = &[OPT_OUT_TAG, "Backstop:Opt-Out"];

/// What is asked of IAM while a story is played without a fault.
pub(crate) fn asked<S: Story>(story: S) -> Vec<(&'static str, Request, Verdict)> {
    let scene = Scene::set(story);
    play(&scene, scene.cloud.clone())
}

fn play<S: Story>(scene: &Scene<S>, cloud: Cloud) -> Vec<(&'static str, Request, Verdict)> {
    run(async {
        let mut account = Account::new(cloud, Clock::of_timers(scene.at), None);
        account.start(scene.story.function(), &scene.event);
        account.settle().await;
        account.asked()
    })
}

/// Tags every resource of a kind.
fn tag(cloud: &mut Cloud, kind: &str, key: &str, value: &str) {
    let ec2 = &mut cloud.ec2;
    let all: Vec<_> = match kind {
        "security-group" => ec2.groups.values_mut().collect(),
        "security-group-rule" => ec2.rules.values_mut().map(|of| &mut of.tags).collect(),
        "snapshot" => ec2.snapshots.values_mut().map(|of| &mut of.tags).collect(),
        "image" => ec2.images.values_mut().map(|of| &mut of.tags).collect(),
        "volume" => ec2.volumes.values_mut().map(|of| &mut of.tags).collect(),
        "instance" => ec2.instances.values_mut().map(|of| &mut of.tags).collect(),
        other => panic!("`{other}` carries no opt-out"),
    };
    assert!(!all.is_empty(), "there is no {kind}");
    for tags in all {
        tags.insert(key.to_owned(), value.to_owned());
    }
}

/// The changes that a story's function asked for, with what IAM answered.
fn changes(
    function: &'static str,
    asked: Vec<(&'static str, Request, Verdict)>,
) -> impl Iterator<Item = (Request, Verdict)> {
    let of_function = asked.into_iter().filter(move |(of, ..)| *of == function);
    of_function
        .map(|(_, request, verdict)| (request, verdict))
        .filter(|(request, _)| is_change(&request.action))
}

fn is_change(action: &str) -> bool {
    let (service, name) = action.split_once(':').unwrap();
    let reads = ["Describe", "Get", "List"];
    ["ec2", "ssm"].contains(&service) && !reads.iter().any(|verb| name.starts_with(verb))
}

/// A tag's value, whether the code leaves the resource alone, and whether IAM
/// denies what begins a change. `CONTROL` is one of the story's, `OTHER` another.
const TAGS: &[(&str, bool, bool)] = &[
    ("all", true, true),
    ("all owner=payments reason=legacy vpn", true, true),
    ("CONTROL", true, true),
    ("CONTROL owner=payments", true, true),
    ("OTHER+CONTROL reason=partner", true, true),
    // With an end: the code reads dates, IAM cannot.
    ("all until=2027-01-31", true, false),
    ("CONTROL until=2027-01-31 reason=undo", true, false),
    // An end that is past.
    ("all until=2026-01-31", false, false),
    ("CONTROL owner=payments until=2026-01-31", false, false),
    // Of another control.
    ("OTHER", false, false),
    ("OTHER until=2027-01-31", false, false),
    // Unreadable: the code holds what it would change.
    ("nothing", true, false),
];

/// Plays a story with each tag on all resources of a kind. `begins`: the actions
/// that begin a change and are judged by the tags of such a resource; all others
/// lead back, and no tag is in their way.
fn code_and_iam_agree<S: Story>(story: S, kind: &str, control: &str, begins: &[&str]) {
    let other = match control {
        "open-ingress" => "unencrypted-volume",
        _ => "open-ingress",
    };
    let scene = Scene::set(story);
    let function = scene.story.function();
    let statements = Stack::new("backstop").statements(&role_of(function));
    let clean: Vec<(Request, Verdict)> =
        changes(function, play(&scene, scene.cloud.clone())).collect();
    for (value, code_leaves_it, iam_denies) in TAGS {
        let value = value.replace("CONTROL", control).replace("OTHER", other);
        for key in KEYS {
            let mut cloud = scene.cloud.clone();
            tag(&mut cloud, kind, key, &value);
            let changes: Vec<_> = changes(function, play(&scene, cloud)).collect();
            let of = format!("{}, {kind} with {key} = `{value}`", function);
            assert_eq!(changes.is_empty(), *code_leaves_it, "{of}: {changes:#?}");
            let refused = changes.iter().find(|(_, of)| *of != Verdict::Allowed);
            assert_eq!(refused, None, "{of}");
        }
        for key in KEYS {
            let tag = format!("aws:ResourceTag/{key}");
            let mut denied = BTreeSet::new();
            for (request, _) in &clean {
                let mut request = request.clone();
                let of = kind_of(&request.action, &request.resource);
                // What is made has no tags yet.
                let made = request.resource.ends_with("/*");
                if of == Some(kind) && !made && knows_of(&request.action, of, &tag) {
                    request.context.insert(tag.clone(), vec![value.clone()]);
                }
                if let Verdict::Denied(_) = judge(&statements, &request) {
                    denied.insert(request.action);
                }
            }
            let expected = if *iam_denies { begins } else { &[] };
            let expected: BTreeSet<String> = expected.iter().map(|of| (*of).to_owned()).collect();
            let of = format!("{}, {kind} with {key} = `{value}`", function);
            assert_eq!(denied, expected, "{of}");
        }
    }
}

#[test]
fn a_group_that_is_opted_out_is_left_alone_and_all_that_begins_a_change_is_denied() {
    let begins = [
        "ec2:AuthorizeSecurityGroupIngress",
        "ec2:ModifySecurityGroupRules",
        "ec2:RevokeSecurityGroupIngress",
    ];
    code_and_iam_agree(stories::Revoke, "security-group", "open-ingress", &begins);
}

/// Of the three calls IAM judges one by the rule's tags.
#[test]
fn a_rule_that_is_opted_out_is_left_alone_and_its_change_in_place_is_denied() {
    let begins = ["ec2:ModifySecurityGroupRules"];
    code_and_iam_agree(
        stories::Revoke,
        "security-group-rule",
        "open-ingress",
        &begins,
    );
}

#[test]
fn a_snapshot_that_is_opted_out_is_left_alone_and_the_end_of_its_sharing_is_denied() {
    let begins = ["ec2:ModifySnapshotAttribute"];
    let story = stories::Remediation(fixture(ControlId::PublicSnapshot));
    code_and_iam_agree(story, "snapshot", "public-snapshot", &begins);
}

#[test]
fn an_image_that_is_opted_out_is_left_alone_and_the_end_of_its_sharing_is_denied() {
    let begins = ["ec2:ModifyImageAttribute"];
    let story = stories::Remediation(fixture(ControlId::PublicImage));
    code_and_iam_agree(story, "image", "public-image", &begins);
}

#[test]
fn an_instance_that_is_opted_out_of_imdsv1_is_left_alone_and_its_change_is_denied() {
    let begins = ["ec2:ModifyInstanceMetadataOptions"];
    let story = stories::Remediation(fixture(ControlId::ImdsV1));
    code_and_iam_agree(story, "instance", "imdsv1", &begins);
}

/// IAM does not judge CopyVolumes by the source's tags: the code alone does.
#[test]
fn a_volume_that_is_opted_out_is_left_alone_and_its_snapshot_is_denied() {
    let begins = ["ec2:CreateSnapshot"];
    code_and_iam_agree(stories::Encrypt, "volume", "unencrypted-volume", &begins);
}

#[test]
fn an_instance_that_is_opted_out_of_encryption_is_left_alone_and_its_stop_is_denied() {
    let begins = ["ec2:StopInstances"];
    code_and_iam_agree(stories::Encrypt, "instance", "unencrypted-volume", &begins);
}

/// Whoever is opted out of one patching control is opted out of the installation.
#[test]
fn an_instance_that_is_opted_out_of_patches_is_left_alone_and_command_and_snapshots_are_denied() {
    let begins = ["ec2:CreateSnapshots", "ssm:SendCommand"];
    for control in ["missing-patches", "vulnerable-package"] {
        code_and_iam_agree(stories::Patch, "instance", control, &begins);
    }
}
