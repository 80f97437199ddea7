//! The command line against the local AWS: the real binary, as a person on call
//! runs it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice, InstanceType, VolumeType};
use backstop_core::patching::PatchState;
use jiff::Timestamp;

use super::*;

/// Where the binary `backstop` is: beside this test's own, target/debug/deps/it-….
fn folder_of_the_binary() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.ancestors().nth(2).unwrap().to_owned()
}

/// A program with the local AWS's endpoints, and nothing else of this process.
fn program(aws: &LocalAws, name: impl AsRef<OsStr>) -> Command {
    let proxy = &aws.proxy;
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1")
        .env(
            "AWS_ENDPOINT_URL",
            format!("http://{}", proxy.upstreams.ministack),
        )
        .env(
            "AWS_ENDPOINT_URL_EC2",
            format!("http://127.0.0.1:{}", proxy.moto_port),
        )
        .env(
            "AWS_ENDPOINT_URL_SSM",
            format!("http://127.0.0.1:{}", proxy.ministack_port),
        );
    command
}

/// Runs `backstop`.
fn backstop(aws: &LocalAws, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program(aws, folder_of_the_binary().join("backstop"))
        .args(arguments)
        .arg("--debug")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (calls, said): (Vec<String>, Vec<String>) = text(stderr)
        .lines()
        .map(str::to_owned)
        .partition(|line| line.contains(": AWS call call="));
    granted(arguments, &calls);
    let said = said.into_iter().map(|line| line + "\n").collect();
    (status.code().unwrap(), text(stdout), said)
}

/// Commands that change nothing, for which the reader's policy is enough.
const READS: &[&str] = &[
    "doctor", "history", "opt-outs", "plan", "scan", "show", "status",
];

/// That the policy which the documents give for a command grants what it called.
fn granted(arguments: &[&str], calls: &[String]) {
    let command = arguments[0];
    let policies: &[&str] = match READS.contains(&command) || arguments.contains(&"show") {
        true => &["reader"],
        false => &["reader", "operator"],
    };
    let granted: BTreeSet<String> = policies
        .iter()
        .flat_map(|name| template::actions_of(&format!("docs/rights/{name}.json")))
        .collect();
    for call in calls {
        let actions = call.split(" actions=").nth(1).unwrap();
        let actions = actions.split(" attempts=").next().unwrap().split(' ');
        for action in actions {
            assert!(
                action == "sts:GetCallerIdentity" || granted.contains(action),
                "{policies:?} does not grant {action} to {arguments:?}"
            );
        }
    }
}

fn json_of(aws: &LocalAws, arguments: &[&str]) -> Value {
    let (_, out, err) = backstop(aws, arguments);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}\n{err}"))
}

#[test]
fn scan_and_plan_show_what_would_be_done_and_change_nothing() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group
            .open(aws, &[SSH, Open("tcp", 0, 1024, "::/0", "low")], &[])
            .await;
        let spared = Group::new(aws, &[("backstop:opt-out", "all owner=web")]).await;
        spared.open(aws, &[SSH], &[]).await;

        let (code, table, err) = backstop(aws, &["scan"]);
        assert_eq!(code, 1, "{err}");
        assert!(
            table.contains(&group.id) && table.contains("would be remediated"),
            "{table}"
        );
        let scanned = json_of(aws, &["scan", "--format", "json"]);
        assert_eq!(scanned["unseen"], json!([]));
        let of = |id: &str| {
            let found = scanned["found"].as_array().unwrap();
            found.iter().find(|one| one["id"] == id).cloned().unwrap()
        };
        assert_eq!(of(&group.id)["severity"], "critical");
        assert_eq!(of(&spared.id)["state"], "would be left: opted out");
        let sarif = json_of(aws, &["scan", "--format", "sarif"]);
        assert!(sarif["runs"][0]["results"].as_array().unwrap().len() >= 2);

        let (code, plan, err) = backstop(aws, &["plan", &group.id]);
        assert_eq!(code, 1, "{err}");
        for part in [
            "revoked",
            "narrowed to tcp 80",
            "a new rule for tcp 443",
            "it would be carried out",
        ] {
            assert!(plan.contains(part), "{part} is missing in\n{plan}");
        }
        let file = std::env::temp_dir().join(format!("event-{}.json", group.id));
        std::fs::write(&file, event.to_string()).unwrap();
        let (code, by_event, _) = backstop(aws, &["plan", file.to_str().unwrap()]);
        assert_eq!(
            (code, &by_event),
            (1, &plan),
            "the event leads to the same group"
        );
        let (_, notify, _) = backstop(aws, &["plan", &group.id, "--mode", "notify"]);
        assert!(notify.contains("it would not be carried out"), "{notify}");

        assert_eq!(group.rules(aws).await.len(), 2, "nothing was changed");
        assert!(group.entries(aws).await.is_empty());
    });
}

#[test]
fn a_scan_goes_on_without_what_it_may_not_read_and_says_what_that_was() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        group.open(aws, &[SSH], &[]).await;
        aws.proxy.fail_next("DescribeTags", 1, Fault::denied());
        let (code, table, err) = backstop(aws, &["scan"]);
        assert_eq!(code, 2);
        assert!(table.contains(&group.id), "{table}");
        let unseen = "not seen: the opt-outs of VPCs: DescribeTags: UnauthorizedOperation";
        assert!(err.contains(unseen), "{err}");

        for (call, unseen) in [
            (
                "DescribeVolumes",
                "not seen: unencrypted-volume: the walk over the unencrypted volumes ended after 0 of them",
            ),
            (
                "GetEbsEncryptionByDefault",
                "not seen: encryption-by-default: GetEbsEncryptionByDefault",
            ),
        ] {
            aws.proxy.fail_next(call, 1, Fault::denied());
            let (code, table, err) = backstop(aws, &["scan"]);
            assert_eq!(code, 2, "{call}");
            assert!(table.contains(&group.id), "{table}");
            assert!(err.contains(unseen), "{err}");
        }

        aws.proxy
            .fail_next("DescribeSecurityGroups", 1, Fault::denied());
        let (code, _, err) = backstop(aws, &["scan"]);
        assert_eq!(code, 2, "nothing found is not all is well");
        assert!(err.contains("ended after 0 of them"), "{err}");
    });
}

/// Whether an answer begins with account, Region and stack.
fn names_the_place_first(out: &str) -> bool {
    let first = out.lines().next().unwrap_or_default();
    first.starts_with("account ") && first.contains(", Region us-east-1, stack ")
}

/// The rule that `show` names.
fn event_rule(shown: &str) -> &str {
    shown
        .split_whitespace()
        .find(|word| word.starts_with("sgr-"))
        .unwrap_or_default()
}

/// Puts a policy document as it is written.
async fn set_document(aws: &LocalAws, document: &str) {
    aws.ssm
        .put_parameter()
        .name(aws.output("PolicyParameterName"))
        .value(document)
        .overwrite(true)
        .send()
        .await
        .unwrap();
}

/// A volume that is attached nowhere and not encrypted.
async fn loose(aws: &LocalAws, tags: &[(&str, &str)]) -> String {
    let mut all = vec![("Name", "archive")];
    all.extend_from_slice(tags);
    let create = aws.ec2.create_volume().availability_zone("us-east-1a");
    let create = create.size(12).volume_type(VolumeType::Gp3);
    let create = create.tag_specifications(specification(ResourceType::Volume, &all));
    create.send().await.unwrap().volume_id.unwrap()
}

/// An instance with one unencrypted volume, and without a public address, which
/// a stop would release.
async fn machine(aws: &LocalAws) -> String {
    let ec2 = &aws.ec2;
    let vpc = ec2.create_vpc().cidr_block("10.0.0.0/16").send().await;
    let vpc = vpc.unwrap().vpc.unwrap().vpc_id.unwrap();
    let subnet = ec2.create_subnet().vpc_id(vpc).cidr_block("10.0.0.0/24");
    let subnet = subnet.send().await.unwrap().subnet.unwrap();
    let image = ec2
        .register_image()
        .name(format!("image-{}", aws.next()))
        .root_device_name("/dev/xvda");
    let image = image.send().await.unwrap().image_id.unwrap();
    let disk = EbsBlockDevice::builder()
        .volume_size(8)
        .delete_on_termination(true)
        .encrypted(false);
    let root = BlockDeviceMapping::builder()
        .device_name("/dev/xvda")
        .ebs(disk.build());
    let run = ec2
        .run_instances()
        .image_id(image)
        .instance_type(InstanceType::T3Micro)
        .subnet_id(subnet.subnet_id.unwrap())
        .min_count(1)
        .max_count(1)
        .block_device_mappings(root.build())
        .tag_specifications(specification(ResourceType::Instance, &[("Name", "db-1")]));
    let run = run.send().await.unwrap();
    run.instances()[0].instance_id().unwrap().to_owned()
}

#[test]
fn scan_and_plan_know_volumes_and_the_accounts_setting_and_change_nothing() {
    scenario(async |aws| {
        let off = aws.ec2.disable_ebs_encryption_by_default();
        off.send().await.unwrap();
        let volume = loose(aws, &[]).await;
        let spared = loose(aws, &[("backstop:opt-out", "all owner=team-db")]).await;
        let instance = machine(aws).await;
        let file = |name: &str, content: &Value| {
            let path = std::env::temp_dir().join(format!("{name}-{volume}.json"));
            std::fs::write(&path, content.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let settings = json!({
            "attached": "swap", "windows": [{"from": "00:00", "to": "00:00"}], "settling_minutes": 0,
        });
        // Whatever the stack's baseline holds of other scenarios.
        let policy = file(
            "policy",
            &json!({"version": 1, "controls": {
                "unencrypted-volume": {"settings": settings},
                "encryption-by-default": {"existing": "enforce"},
            }}),
        );
        aws.proxy.reset();

        let scanned = json_of(aws, &["scan", "--policy", &policy, "--format", "json"]);
        assert_eq!(scanned["unseen"], json!([]));
        let of = |id: &str| {
            let found = scanned["found"].as_array().unwrap();
            found.iter().find(|one| one["id"] == id).cloned().unwrap()
        };
        assert_eq!(of(&volume)["state"], "would be remediated");
        assert_eq!(of(&volume)["volumes"][0]["size_gib"], 12);
        assert_eq!(of(&spared)["state"], "would be left: opted out");
        assert_eq!(
            of(&instance)["state"],
            format!("backstop plan {instance} says what would be done")
        );
        assert_eq!(of("us-east-1")["control"], "encryption-by-default");
        let (code, table, err) = backstop(aws, &["scan", "--policy", &policy]);
        assert_eq!(code, 1, "{err}");
        assert!(
            table.contains(&format!("{volume} (archive), 12 GiB gp3, attached nowhere")),
            "{table}"
        );

        let plan = |what: &str| backstop(aws, &["plan", what, "--policy", &policy]);
        let (code, swap, err) = plan(&instance);
        assert_eq!(code, 1, "{err}");
        for part in [
            "(db-1), t3.micro, running: high finding",
            "replaced by an encrypted copy",
            "it would be carried out",
            "2. Then the instance is STOPPED",
        ] {
            assert!(swap.contains(part), "{part} is missing in\n{swap}");
        }
        let (code, alone, _) = plan(&volume);
        let event = file("event", &cloudtrail::volume_available(&volume));
        assert_eq!((code, &plan(&event).1), (1, &alone), "the same volume");
        let (_, opted_out, _) = plan(&spared);
        assert!(opted_out.contains("by team-db"), "{opted_out}");
        let event = cloudtrail::call("DisableEbsEncryptionByDefault", json!({}), json!({}));
        let (code, setting, _) = plan(&file("setting", &event));
        assert!(
            code == 1 && setting.contains("it would be carried out"),
            "{setting}"
        );

        for call in aws.proxy.calls() {
            let reads = ["Describe", "Get"]
                .iter()
                .any(|r| call.action.starts_with(r));
            assert!(call.service != "ec2" || reads, "{}", call.action);
        }
        // Not to be in other scenarios' way.
        let terminate = aws.ec2.terminate_instances().instance_ids(instance);
        terminate.send().await.unwrap();
        for id in [&volume, &spared] {
            aws.ec2.delete_volume().volume_id(id).send().await.unwrap();
        }
    });
}

#[test]
fn scan_and_plan_know_the_patches_of_instances_and_change_nothing() {
    scenario(async |aws| {
        let (lacking, unmanaged) = (machine(aws).await, machine(aws).await);
        let earlier = Timestamp::now() - Duration::from_secs(86_400);
        for instance in [&lacking, &unmanaged] {
            aws.proxy.started_at(instance, earlier);
        }
        aws.manage(&lacking, true);
        let state = PatchState {
            operation: "Scan".into(),
            ended_at: Some(earlier),
            missing: 2,
            ..PatchState::default()
        };
        aws.patch_state(&lacking, Some(state));
        let manager = &aws.proxy.systems_manager;
        manager.missing(&lacking, &[("openssl-3.0.8", "CVE-2026-1000")]);
        let policy = std::env::temp_dir().join(format!("policy-{lacking}.json"));
        std::fs::write(&policy, r#"{"version":1}"#).unwrap();
        let policy = policy.to_str().unwrap();

        let scanned = json_of(aws, &["scan", "--policy", policy, "--format", "json"]);
        assert_eq!(scanned["unseen"], json!([]));
        let of = |id: &str, control: &str| {
            let found = scanned["found"].as_array().unwrap();
            let one = |one: &&Value| one["id"] == id && one["control"] == control;
            found.iter().find(one).cloned().unwrap()
        };
        let found = of(&lacking, "missing-patches");
        assert_eq!(found["state"], "would be remediated");
        assert_eq!(found["patching"]["missing"], 2);
        let found = of(&unmanaged, "unmanaged-instance");
        assert_eq!(found["severity"], "medium");
        assert!(!found["patching"]["lacks"].as_array().unwrap().is_empty());

        let (code, plan, err) = backstop(aws, &["plan", &lacking, "--policy", policy]);
        assert_eq!(code, 1, "{err}");
        for part in [
            "the volumes of ",
            "the patches of ",
            "openssl-3.0.8",
            "AWS-RunPatchBaseline with Operation=Install and RebootOption=NoReboot",
            "A patch cannot be undone",
        ] {
            assert!(plan.contains(part), "{part} is missing in\n{plan}");
        }
        let (_, plan, _) = backstop(aws, &["plan", &unmanaged, "--policy", policy]);
        assert!(plan.contains("Systems Manager cannot reach it"), "{plan}");

        assert!(aws.commands_to(&lacking).is_empty(), "nothing was sent");
        // Not to be in other scenarios' way.
        let ended = aws.ec2.terminate_instances();
        let ended = ended.instance_ids(lacking).instance_ids(unmanaged);
        ended.send().await.unwrap();
    });
}

#[test]
fn a_change_is_found_in_the_history_and_taken_back() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "remediated");
        let history = json_of(aws, &["history", &group.id, "--format", "json"]);
        let id = history[0]["record"]["id"].as_str().unwrap().to_owned();
        let (code, table, _) = backstop(aws, &["history"]);
        assert_eq!(code, 0);
        assert!(
            table.contains(&id) && table.contains("remediated"),
            "{table}"
        );
        let (code, shown, _) = backstop(aws, &["show", &id]);
        assert_eq!(code, 0);
        let rule = event_rule(&shown);
        for part in [
            group.id.as_str(),
            "is not there",
            "revoke",
            &format!("backstop undo {id} --reason"),
        ] {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
        assert!(rule.starts_with("sgr-"), "{shown}");
        // Of what is not there nothing reads like "closed".
        let typo = "sg-0000000000000dead";
        for arguments in [
            &["history", typo][..],
            &["show", "01ZZZZZZZZZZZZZZZZZZZZZZZZ"],
            &["plan", typo],
            &["plan", "vol-0000000000000dead"],
            &["undo", "01ZZZZZZZZZZZZZZZZZZZZZZZZ", "--reason", "x"],
        ] {
            let (code, _, err) = backstop(aws, arguments);
            assert_eq!(code, 2, "{arguments:?}: {err}");
            assert!(
                err.contains("was not found in account ") && err.contains("Region us-east-1"),
                "{arguments:?}: {err}"
            );
        }

        let undo = [
            "undo",
            &id,
            "--reason",
            "vendor access",
            "--by",
            "jo",
            "--opt-out-days",
            "2",
            "--yes",
        ];
        let (code, out, _) = backstop(aws, &["undo", &id, "--reason", "x", "--dry-run"]);
        assert_eq!(code, 0, "{out}");
        assert!(
            out.contains("would-undo: dry run, nothing was changed"),
            "{out}"
        );
        let (code, _, err) = backstop(aws, &["undo", &id, "--reason", "x"]);
        assert_eq!(code, 2, "there is nobody to ask");
        assert!(err.contains("--yes"), "{err}");
        assert!(group.rules(aws).await.is_empty(), "nothing was changed");
        let (code, out, err) = backstop(aws, &undo);
        assert_eq!(code, 0, "{out}{err}");
        assert!(
            names_the_place_first(&out) && out.contains("\nundone: "),
            "{out}"
        );
        assert_eq!(group.rules(aws).await.len(), 1);
        let (code, out, _) = backstop(aws, &undo);
        assert_eq!(code, 0);
        assert!(out.contains("\nalready-as-before: "), "{out}");
        let history = json_of(aws, &["history", &group.id, "--format", "json"]);
        assert_eq!(history[0]["record"]["kind"], "undo");
        assert_eq!(history[1]["undone_by"], history[0]["record"]["id"]);

        let opt_outs = json_of(aws, &["opt-outs", "--format", "json"]);
        let rule = &group.raw(aws).await[0];
        let rule = rule.security_group_rule_id().unwrap();
        let listed = opt_outs.as_array().unwrap();
        let ours = listed.iter().find(|one| one["resource"] == rule).unwrap();
        assert_eq!(
            (&ours["state"], &ours["owner"]),
            (&json!("ends soon"), &json!("jo"))
        );

        let (code, out, err) = backstop(aws, &["undo", "nonsense", "--reason", "x"]);
        assert_eq!((code, out.lines().count()), (2, 1), "{out}");
        assert!(err.contains("`remediation` is `nonsense`"), "{err}");
    });
}

#[test]
fn an_entry_that_cannot_be_read_is_said_and_hides_no_other() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "remediated");
        let arn = cloudtrail::security_group_arn(&group.id);
        let newer = "01ZZZZZZZZZZZZZZZZZZZZZZZZ";
        let mut put = aws
            .dynamodb
            .put_item()
            .table_name(aws.output("LedgerTableName"));
        for (name, value) in [
            ("pk", format!("entry#{newer}").as_str()),
            ("sk", "entry"),
            ("resource", &arn),
            ("started_at", "2026-11-24T10:00:00Z"),
            ("document", r#"{"version":2,"kind":"remediation"}"#),
        ] {
            put = put.item(name, AttributeValue::S(value.to_owned()));
        }
        put.send().await.unwrap();
        let (code, out, err) = backstop(aws, &["history", &group.id]);
        assert_eq!(code, 2);
        assert!(err.contains(newer) && err.contains("version 2"), "{err}");
        assert!(out.contains("remediated"), "{out}");
        aws.dynamodb
            .delete_item()
            .table_name(aws.output("LedgerTableName"))
            .key("pk", AttributeValue::S(format!("entry#{newer}")))
            .key("sk", AttributeValue::S("entry".to_owned()))
            .send()
            .await
            .unwrap();
    });
}

#[test]
fn events_that_were_given_up_are_listed_and_run_again_in_either_shape() {
    scenario(async |aws| {
        // Lambda's record: denied as long as it was tried.
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        aws.proxy
            .fail_next("RevokeSecurityGroupIngress", 3, Fault::denied());
        aws.deliver(&event).await.unwrap();
        wait_for("the event to be given up", async || {
            let (code, out, _) = backstop(aws, &["failed", "list"]);
            (code == 1 && out.contains("UnauthorizedOperation")).then_some(())
        })
        .await;
        // A rule's dead letter: the bare event.
        let other = Group::new(aws, &[]).await;
        let bare = other.open(aws, &[SSH], &[]).await;
        aws.sqs
            .send_message()
            .queue_url(aws.output("FailedEventsQueueUrl"))
            .message_body(bare.to_string())
            .send()
            .await
            .unwrap();
        aws.sqs
            .send_message()
            .queue_url(aws.output("FailedEventsQueueUrl"))
            .message_body("neither of the two")
            .send()
            .await
            .unwrap();
        let (code, list, _) = backstop(aws, &["failed", "list"]);
        assert_eq!(code, 1);
        for part in [
            &group.id,
            &other.id,
            "RevokeIngressFunction",
            "not delivered",
            "cannot be read",
        ] {
            assert!(list.contains(part), "{part} is missing in\n{list}");
        }
        let listed = json_of(aws, &["failed", "list", "--format", "json"]);
        let functions = listed.as_array().unwrap().iter().map(|of| &of["function"]);
        let functions: Vec<&Value> = functions.filter(|of| !of.is_null()).collect();
        assert_eq!(functions, ["RevokeIngressFunction"; 2], "{listed}");
        // Looking hides nothing: the same once more.
        assert_eq!(backstop(aws, &["failed", "list"]).1, list);

        let (code, out, err) = backstop(aws, &["failed", "redrive", "--all"]);
        assert_eq!(code, 2, "one is left: {out}{err}");
        assert!(out.contains("2 run again, 1 left"), "{out}");
        assert!(
            err.contains("not JSON") && err.contains("still in the queue"),
            "{err}"
        );
        for group in [&group, &other] {
            wait_for("the hole to be closed", async || {
                group.rules(aws).await.is_empty().then_some(())
            })
            .await;
        }
        let (_, list, _) = backstop(aws, &["failed", "list"]);
        assert!(
            !list.contains(&group.id) && list.contains("cannot be read"),
            "{list}"
        );
        let (code, _, err) = backstop(aws, &["failed", "redrive", "ffffffff"]);
        assert_eq!(code, 2);
        assert!(err.contains("no such event"), "{err}");
        aws.sqs
            .purge_queue()
            .queue_url(aws.output("FailedEventsQueueUrl"))
            .send()
            .await
            .unwrap();
        let (code, out, _) = backstop(aws, &["failed", "list"]);
        assert_eq!(code, 0, "{out}");
    });
}

#[test]
fn the_switches_do_what_they_say_and_the_doctor_sees_them() {
    scenario(async |aws| {
        aws.set_policy(&json!({"version": 1, "controls": {"open-ingress": {"mode": "enforce"}}}))
            .await
            .unwrap();
        let (code, status, err) = backstop(aws, &["status"]);
        assert!(code <= 1, "{err}");
        for part in [
            "open-ingress",
            "enforce",
            "the kill switch is off",
            "0 of 50",
        ] {
            assert!(status.contains(part), "{part} is missing in\n{status}");
        }
        let (code, out, _) = backstop(aws, &["kill-switch", "on"]);
        assert_eq!(code, 0, "{out}");
        assert!(names_the_place_first(&out), "{out}");
        let (code, status, _) = backstop(aws, &["status"]);
        assert_eq!(code, 1);
        assert!(status.contains("the kill switch is on"), "{status}");
        let (_, shown, _) = backstop(aws, &["policy", "show"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["kill_switch"], true);
        assert_eq!(
            shown["controls"]["open-ingress"]["mode"], "enforce",
            "the rest is kept"
        );
        assert!(
            backstop(aws, &["kill-switch", "status"])
                .1
                .contains("is on")
        );
        let (code, doctor, _) = backstop(aws, &["doctor"]);
        assert_eq!(code, 1);
        for part in [
            "the kill switch is on",
            "no trail covers",
            "rules are enabled",
        ] {
            assert!(doctor.contains(part), "{part} is missing in\n{doctor}");
        }
        assert_eq!(backstop(aws, &["kill-switch", "off"]).0, 0);
        let (_, doctor, _) = backstop(aws, &["doctor"]);
        for part in ["valid", "no control has tripped"] {
            assert!(doctor.contains(part), "{part} is missing in\n{doctor}");
        }

        // While the policy is not valid, too.
        let broken = "{\n  \"version\": 1,\n  \"kill_swich\": false\n}\n";
        set_document(aws, broken).await;
        let (code, out, err) = backstop(aws, &["kill-switch", "on"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(err.contains("kill_swich"), "{err}");
        let (_, shown, _) = backstop(aws, &["policy", "show"]);
        assert!(shown.contains("\"kill_switch\": true"), "{shown}");
        assert_eq!(backstop(aws, &["kill-switch", "off"]).0, 0);
        let (_, shown, _) = backstop(aws, &["policy", "show"]);
        assert_eq!(shown.trim_end(), broken.trim_end(), "its text is kept");

        // An invalid policy does not get in, and a valid one says what it changes.
        let file = std::env::temp_dir().join(format!("policy-{}.json", std::process::id()));
        std::fs::write(&file, broken).unwrap();
        let path = file.to_str().unwrap();
        let (code, _, err) = backstop(aws, &["policy", "apply", path, "--yes"]);
        assert_eq!(code, 2);
        assert!(err.contains("did you mean `kill_switch`?"), "{err}");
        let text = "{\"version\": 1, \"opt_out\": {\"require_end\": true}}";
        std::fs::write(&file, text).unwrap();
        let (code, _, err) = backstop(aws, &["policy", "apply", path]);
        assert_eq!(code, 2, "there is nobody to ask");
        assert!(err.contains("--yes"), "{err}");
        let (code, out, err) = backstop(aws, &["policy", "apply", path, "--yes"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(
            names_the_place_first(&out) && out.contains("opt_out.require_end: true"),
            "{out}"
        );
        assert_eq!(backstop(aws, &["policy", "show"]).1.trim_end(), text);
        std::fs::write(&file, "{\"version\": 1}").unwrap();
        let (code, out, _) = backstop(aws, &["policy", "apply", path, "--yes"]);
        assert_eq!(code, 0);
        assert!(out.contains("opt_out.require_end: true -> false"), "{out}");

        let (code, out, _) = backstop(aws, &["re-arm", "open-ingress"]);
        assert_eq!(code, 1);
        assert!(out.contains("had not tripped"), "{out}");
        let (code, _, err) = backstop(aws, &["doctor", "--stack", "another"]);
        assert_eq!(code, 2);
        assert!(
            err.contains("no stack `another`") && err.contains("--stack"),
            "{err}"
        );

        let (code, _, err) = backstop(aws, &["sweep"]);
        assert_eq!(code, 0, "{err}");
        wait_for("the sweep to begin", async || {
            (!aws.proxy.calls_of("DescribeTrails").is_empty()).then_some(())
        })
        .await;
        aws.quiet().await;
    });
}

/// The commands of a document, as they are typed: lines of its blocks, and code in its
/// sentences and tables.
fn commands(document: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (n, part) in document.split("```").enumerate() {
        let pieces: Vec<&str> = match n % 2 {
            1 => part.lines().collect(),
            _ => part.split('`').skip(1).step_by(2).collect(),
        };
        for piece in pieces {
            let typed = piece.split("  #").next().unwrap().trim();
            let typed = typed.replace("\\|", "|");
            // A command's bare name is no row to be typed.
            if typed.starts_with("backstop ")
                && !["backstop undo", "backstop re-arm"].contains(&typed.as_str())
            {
                found.insert(typed);
            }
        }
    }
    found
}

#[test]
fn every_command_of_the_on_call_page_runs_as_it_is_typed() {
    scenario(async |aws| {
        let group = Group::new(aws, &[]).await;
        let event = group.open(aws, &[SSH], &[]).await;
        assert_eq!(check(aws, &event), "remediated");
        let history = json_of(aws, &["history", &group.id, "--format", "json"]);
        let entry = history[0]["record"]["id"].as_str().unwrap().to_owned();
        let folder = std::env::temp_dir().join(format!("on-call-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("trail")).unwrap();
        std::fs::write(folder.join("policy.json"), "{\"version\": 1}").unwrap();
        let records = json!({ "Records": [event["detail"]] });
        std::fs::write(folder.join("trail/day.json"), records.to_string()).unwrap();

        // What stands for something is put in its place.
        let meant = [
            ("01M7SH8XYF6H0J2M4N8P7R3T1W", entry.as_str()),
            ("<entry>", &entry),
            ("<resource>", &group.id),
            (
                "<control in the message> <Region>",
                "serial-console us-east-1",
            ),
            ("<control in the message>", "open-ingress"),
            ("sg-0a3f5c7e91b2d4f60", &group.id),
            ("sg-…", &group.id),
            ("i-…", "i-0123456789abcdef0"),
            ("ami-…", "ami-0123456789abcdef0"),
            ("snap-…", "snap-0123456789abcdef0"),
            ("subnet-…", "subnet-0123456789abcdef0"),
        ];
        // Nobody is there to ask.
        let asks = ["backstop undo ", "backstop policy apply "];
        let page = template::read("docs/on-call.md");
        let commands = commands(&page);
        assert!(commands.len() > 30, "{commands:#?}");
        let mut wrong = Vec::new();
        // From the last to the first, so that the kill switch is off again in the end.
        for typed in commands.iter().rev() {
            let mut line = typed.clone();
            for (stands, for_it) in meant {
                line = line.replace(stands, for_it);
            }
            assert!(
                !line.contains(['<', '…']),
                "{typed}: what stands for something?"
            );
            if asks.iter().any(|command| line.starts_with(command)) {
                line += " --yes";
            }
            let Output {
                status,
                stdout,
                stderr,
            } = program(aws, "/bin/sh")
                .args(["-c", &line])
                .env("PATH", folder_of_the_binary())
                .env("USER", "jo")
                .current_dir(&folder)
                .output()
                .unwrap();
            let said = String::from_utf8(stderr).unwrap();
            // Nothing is known here of most resources that the page names.
            let not_there = ["was not found in account", "no such event is in the queue"];
            let is_fine = match status.code() {
                Some(0 | 1) => true,
                _ => not_there.iter().any(|part| said.contains(part)),
            };
            if !is_fine || said.contains("Usage:") {
                let out = String::from_utf8(stdout).unwrap();
                wrong.push(format!("{line}: {status}\n{out}{said}"));
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        aws.quiet().await;
    });
}
