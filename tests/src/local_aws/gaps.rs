//! What moto's EC2 cannot answer and the functions need, filled in on the way to
//! it (Systems Manager: `systems_manager`):
//!
//! | call | here |
//! | --- | --- |
//! | DescribeSecurityGroups by prefix list (a 500) | read off moto's rules |
//! | default groups: moto makes one with each VPC, so with each test's | all of them together are those that a test names: [`default_groups`](super::proxy::Proxy::default_groups) |
//! | DescribeSecurityGroupReferences (a 500) | none |
//! | GetEbsDefaultKmsKeyId (a 500) | AWS's own key: `alias/aws/ebs` |
//! | DescribeVolumeAttribute (a 500) | no product codes |
//! | DescribeVolumes without `deleteOnTermination` | as DescribeInstances has it, where moto keeps it |
//! | DescribeInstances: `launchTime` stays what it was | when a function last started it; or what a test says: [`started_at`](super::proxy::Proxy::started_at) |
//! | DescribeSnapshots ignores RestorableBy (and Owner) | this account's whose grants hold `all` |
//! | the account's blocks of public snapshots and images, metadata defaults, serial console (a 500) | kept here, as they should be at first |
//! | ModifyInstanceMetadataOptions resets what is not named; DescribeInstances fails by these options | kept here, as they should be at first |
//! | GetMetricData (MiniStack) writes timestamps as text | as CloudWatch does, in seconds |
//! | DescribeImages by `is-public` takes what moto brings along | this account's whose grants hold `all` |
//! | DescribeSubnets by an IPv6 block's state (a 500); its default subnets assign public addresses, which every sweep would report | by `map-public-ip-on-launch` alone, without default subnets |
//! | CreateVolume, CopyVolumes: ClientToken is ignored | the same token, the same answer |
//! | ModifyInstanceAttribute ignores DryRun, and changes (StartInstances, AttachVolume, DetachVolume and CreateVolume know it) | `DryRunOperation` |
//! | CopyVolumes (a 500) | refused, as where EC2 does not have it; or made by CreateVolume: [`copy_volumes`](super::proxy::Proxy::copy_volumes) |
//!
//! Deliberately not here: what stays missing (ARCHITECTURE.md, "What the
//! emulators cannot show").

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use backstop_wire::memory::ec2::{Metadata, Settings};
use serde_json::Value;

use super::ACCOUNT;
use super::http::Message;
use super::proxy::{Call, Upstreams, error};

/// What is kept between calls.
#[derive(Default)]
pub(super) struct Gaps {
    /// Whether CopyVolumes is made by CreateVolume.
    pub(super) copies_volumes: bool,
    /// Answers by the client token of their request.
    made: HashMap<String, Message>,
    /// When instances were last started.
    pub(super) launched: HashMap<String, String>,
    pub(super) settings: Settings,
    /// The default groups that are shown where all are asked for.
    pub(super) default_groups: BTreeSet<String>,
    /// Metadata services that are not as they should be at first.
    pub(super) metadata: HashMap<String, Metadata>,
}

impl Gaps {
    /// Notes what an answer of StartInstances says was started.
    fn started(&mut self, answer: &str, now: &str) {
        for item in answer.split("<item>") {
            let before = item.split("<previousState>").nth(1);
            let before = before.and_then(|state| text(state, "name"));
            if let (Some(id), Some("stopped")) = (text(item, "instanceId"), before) {
                self.launched.insert(id.to_owned(), now.to_owned());
            }
        }
    }

    /// Changes a metadata service as EC2 does: what is not named stays.
    fn modify_metadata(&mut self, call: &Call) -> Message {
        let field = |name: &str| call.request[name].as_str();
        let id = field("InstanceId").unwrap_or_default();
        let (tokens, endpoint) = (field("HttpTokens"), field("HttpEndpoint"));
        if tokens.is_some() && endpoint != Some("enabled") {
            let message = "HttpTokens needs HttpEndpoint=enabled";
            return error("ec2", 400, "InvalidParameterValue", message);
        }
        let metadata = self.metadata.entry(id.to_owned()).or_default();
        if let Some(tokens) = tokens {
            tokens.clone_into(&mut metadata.tokens);
        }
        if let Some(endpoint) = endpoint {
            endpoint.clone_into(&mut metadata.endpoint);
        }
        let body = format!(
            "<ModifyInstanceMetadataOptionsResponse><instanceId>{id}</instanceId></ModifyInstanceMetadataOptionsResponse>"
        );
        Message::answer(200, &[("content-type", "text/xml")], &body)
    }

    /// An answer of DescribeInstances with the metadata services that are kept here.
    fn with_metadata(&self, answer: &str) -> String {
        const OPEN: &str = "<metadataOptions>";
        const CLOSE: &str = "</metadataOptions>";
        let mut parts = answer.split(OPEN);
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (_, rest) = part.split_once(CLOSE).unwrap_or(("", part));
            // moto writes an instance's options ahead of its id.
            let id = text(rest, "instanceId").unwrap_or_default();
            let metadata = self.metadata.get(id).cloned().unwrap_or_default();
            whole += &metadata.item();
            whole += rest;
        }
        whole
    }

    /// An answer of DescribeInstances with the times of the last starts.
    fn with_launches(&self, answer: &str) -> String {
        const LAUNCH: &str = "<launchTime>";
        let mut parts = answer.split("<instanceId>");
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let id = part.split('<').next().unwrap_or_default();
            let changed = self.launched.get(id).and_then(|launched| {
                let (before, after) = part.split_once(LAUNCH)?;
                let (_, after) = after.split_once('<')?;
                Some(format!("{before}{LAUNCH}{launched}<{after}"))
            });
            whole += "<instanceId>";
            whole += changed.as_deref().unwrap_or(part);
        }
        whole
    }
}

/// Sends a call on, with its gap filled in.
pub(super) fn forward(
    gaps: &Mutex<Gaps>,
    upstreams: &Upstreams,
    request: &Message,
    call: &Call,
    to: SocketAddr,
) -> io::Result<Message> {
    if call.action == "GetMetricData" {
        let mut answer = request.send(to)?;
        answer.body = in_seconds(&answer.body);
        return Ok(answer);
    }
    if call.service != "ec2" {
        return request.send(to);
    }
    let field = |name: &str| call.request[name].as_str().unwrap_or_default();
    let dry_run = field("DryRun") == "true";
    let xml = |body: &str| Message::answer(200, &[("content-type", "text/xml")], body);
    let parameter = |name: &str| call.request[name].as_str().map(str::to_owned);
    let action = call.action.as_str();
    let now = jiff::Timestamp::now();
    let answer = gaps.lock().unwrap().settings.answer(action, parameter, now);
    if let Some(content) = answer {
        return Ok(xml(&format!(
            "<{action}Response>{content}</{action}Response>"
        )));
    }
    match call.action.as_str() {
        "DescribeSecurityGroups" if field("Filter.1.Name") == "ip-permission.prefix-list-id" => {
            Ok(xml(&groups_by_list(upstreams, field("Filter.1.Value.1"))))
        }
        "DescribeSecurityGroups" if field("Filter.1.Name") == "group-name" => {
            let shown = gaps.lock().unwrap().default_groups.clone();
            Ok(xml(&groups_by_id(upstreams, &shown)))
        }
        "DescribeSecurityGroupReferences" => Ok(xml(
            "<DescribeSecurityGroupReferencesResponse><securityGroupReferenceSet/></DescribeSecurityGroupReferencesResponse>",
        )),
        "GetEbsDefaultKmsKeyId" => Ok(xml(
            "<GetEbsDefaultKmsKeyIdResponse><kmsKeyId>alias/aws/ebs</kmsKeyId></GetEbsDefaultKmsKeyIdResponse>",
        )),
        "DescribeVolumeAttribute" => Ok(xml(&format!(
            "<DescribeVolumeAttributeResponse><volumeId>{}</volumeId><productCodes/></DescribeVolumeAttributeResponse>",
            field("VolumeId")
        ))),
        "DescribeSnapshots" if field("RestorableBy.1") == "all" => {
            Ok(xml(&public_snapshots(upstreams)))
        }
        "DescribeImages" if field("Filter.1.Name") == "is-public" => {
            Ok(xml(&public_images(upstreams)))
        }
        "DescribeSubnets" if field("Filter.1.Name") == "map-public-ip-on-launch" => {
            Ok(xml(&subnets(upstreams, field("Filter.1.Value.1"))))
        }
        "DescribeVolumes" => {
            let mut answer = request.send(to)?;
            if answer.status() == 200 {
                answer.body = with_termination(upstreams, &answer.text()).into_bytes();
            }
            Ok(answer)
        }
        "StartInstances" => {
            let answer = request.send(to)?;
            if answer.status() == 200 {
                // To the second, as EC2 has it.
                let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second());
                let now = now.expect("a time of today").to_string();
                gaps.lock().unwrap().started(&answer.text(), &now);
            }
            Ok(answer)
        }
        "DescribeInstances" => {
            let by_metadata = field("Filter.2.Name").starts_with("metadata-options.");
            let answer = match by_metadata {
                true => xml(&that_answer_v1(&gaps.lock().unwrap(), upstreams)),
                false => request.send(to)?,
            };
            let gaps = gaps.lock().unwrap();
            let shown = gaps.with_metadata(&gaps.with_launches(&answer.text()));
            Ok(Message {
                body: shown.into_bytes(),
                ..answer
            })
        }
        "ModifyInstanceMetadataOptions" => Ok(gaps.lock().unwrap().modify_metadata(call)),
        "ModifyInstanceAttribute" if dry_run => Ok(would_be_done()),
        "CopyVolumes" if dry_run && gaps.lock().unwrap().copies_volumes => Ok(would_be_done()),
        "CreateVolume" | "CopyVolumes" => {
            let token = field("ClientToken").to_owned();
            // Held all the while: of two at once, one is made.
            let mut gaps = gaps.lock().unwrap();
            if let Some(answer) = gaps.made.get(&token) {
                return Ok(answer.clone());
            }
            let answer = match call.action.as_str() {
                "CreateVolume" => request.send(to)?,
                _ if gaps.copies_volumes => xml(&copied(upstreams, call)),
                _ => error(
                    "ec2",
                    400,
                    "InvalidAction",
                    "The action CopyVolumes is not valid for this web service.",
                ),
            };
            if answer.status() == 200 && !token.is_empty() {
                gaps.made.insert(token, answer.clone());
            }
            Ok(answer)
        }
        _ => request.send(to),
    }
}

/// EC2's answer to a dry run of what it would carry out.
fn would_be_done() -> Message {
    let message = "Request would have succeeded, but DryRun flag is set.";
    error("ec2", 412, "DryRunOperation", message)
}

/// The groups that name a prefix list.
fn groups_by_list(upstreams: &Upstreams, list: &str) -> String {
    let named = format!("<prefixListId>{list}</prefixListId>");
    let rules = upstreams.ec2(&[("Action", "DescribeSecurityGroupRules")]);
    let groups: BTreeSet<&str> = rules
        .split("<item>")
        .filter(|rule| rule.contains(&named) && !rule.contains("<isEgress>true"))
        .filter_map(|rule| text(rule, "groupId"))
        .collect();
    let items: String = groups
        .iter()
        .map(|id| format!("<item><groupId>{id}</groupId></item>"))
        .collect();
    format!(
        "<DescribeSecurityGroupsResponse><securityGroupInfo>{items}</securityGroupInfo></DescribeSecurityGroupsResponse>"
    )
}

/// These groups.
fn groups_by_id(upstreams: &Upstreams, ids: &BTreeSet<String>) -> String {
    if ids.is_empty() {
        return "<DescribeSecurityGroupsResponse><securityGroupInfo/></DescribeSecurityGroupsResponse>"
            .to_owned();
    }
    let names: Vec<String> = (1..=ids.len()).map(|n| format!("GroupId.{n}")).collect();
    let mut ask = vec![("Action", "DescribeSecurityGroups")];
    let ids = ids.iter().map(String::as_str);
    ask.extend(names.iter().map(String::as_str).zip(ids));
    upstreams.ec2(&ask)
}

/// This account's snapshots that everyone can use.
fn public_snapshots(upstreams: &Upstreams) -> String {
    let all = upstreams.ec2(&[("Action", "DescribeSnapshots")]);
    let owned = format!("<ownerId>{ACCOUNT}</ownerId>");
    let is_public = |id: &&str| {
        let grants = upstreams.ec2(&[
            ("Action", "DescribeSnapshotAttribute"),
            ("Attribute", "createVolumePermission"),
            ("SnapshotId", id),
        ]);
        grants.contains("<group>all</group>")
    };
    // moto has snapshots of other accounts, for its images.
    let ids: Vec<&str> = all
        .split("<snapshotId>")
        .skip(1)
        .filter(|part| part.contains(&owned))
        .filter_map(|part| part.split('<').next())
        .filter(is_public)
        .collect();
    if ids.is_empty() {
        return "<DescribeSnapshotsResponse><snapshotSet/></DescribeSnapshotsResponse>".to_owned();
    }
    let names: Vec<String> = (1..=ids.len()).map(|n| format!("SnapshotId.{n}")).collect();
    let mut ask = vec![("Action", "DescribeSnapshots")];
    ask.extend(names.iter().map(String::as_str).zip(ids));
    upstreams.ec2(&ask)
}

/// Running and stopped instances that answer IMDSv1.
fn that_answer_v1(gaps: &Gaps, upstreams: &Upstreams) -> String {
    let open =
        |of: &Metadata| (of.tokens.as_str(), of.endpoint.as_str()) == ("optional", "enabled");
    let ids = gaps.metadata.iter().filter(|(_, of)| open(of));
    let ids: Vec<&str> = ids.map(|(id, _)| id.as_str()).collect();
    if ids.is_empty() {
        return "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
            .to_owned();
    }
    let names: Vec<String> = (1..=ids.len())
        .map(|n| format!("Filter.1.Value.{n}"))
        .collect();
    let mut ask = vec![
        ("Action", "DescribeInstances"),
        ("Filter.1.Name", "instance-id"),
        ("Filter.2.Name", "instance-state-name"),
        ("Filter.2.Value.1", "running"),
        ("Filter.2.Value.2", "stopped"),
    ];
    ask.extend(names.iter().map(String::as_str).zip(ids));
    upstreams.ec2(&ask)
}

/// An answer of GetMetricData whose timestamps are seconds.
fn in_seconds(body: &[u8]) -> Vec<u8> {
    let Ok(mut answer) = serde_json::from_slice::<Value>(body) else {
        return body.to_vec();
    };
    let results = answer["MetricDataResults"].as_array_mut();
    for at in results
        .into_iter()
        .flatten()
        .filter_map(|of| of["Timestamps"].as_array_mut())
        .flatten()
    {
        let second = at
            .as_str()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if let Some(second) = second {
            *at = second.as_second().into();
        }
    }
    answer.to_string().into_bytes()
}

/// This account's images that everyone can launch.
fn public_images(upstreams: &Upstreams) -> String {
    let owned = upstreams.ec2(&[("Action", "DescribeImages"), ("Owner.1", "self")]);
    let is_public = |id: &&str| {
        let grants = upstreams.ec2(&[
            ("Action", "DescribeImageAttribute"),
            ("Attribute", "launchPermission"),
            ("ImageId", id),
        ]);
        grants.contains("<group>all</group>")
    };
    let ids = owned.split("<imageId>").skip(1);
    let ids = ids.filter_map(|part| part.split('<').next());
    let ids: Vec<&str> = ids.filter(is_public).collect();
    if ids.is_empty() {
        return "<DescribeImagesResponse><imagesSet/></DescribeImagesResponse>".to_owned();
    }
    let names: Vec<String> = (1..=ids.len()).map(|n| format!("ImageId.{n}")).collect();
    let mut ask = vec![("Action", "DescribeImages")];
    ask.extend(names.iter().map(String::as_str).zip(ids));
    upstreams.ec2(&ask)
}

/// The subnets that are nobody's default and do, or do not, assign public IPv4
/// addresses.
fn subnets(upstreams: &Upstreams, assign: &str) -> String {
    upstreams.ec2(&[
        ("Action", "DescribeSubnets"),
        ("Filter.1.Name", "map-public-ip-on-launch"),
        ("Filter.1.Value.1", assign),
        ("Filter.2.Name", "default-for-az"),
        ("Filter.2.Value.1", "false"),
    ])
}

/// An answer of DescribeVolumes whose attachments say what becomes of the
/// volume when its instance is terminated.
fn with_termination(upstreams: &Upstreams, volumes: &str) -> String {
    const OPEN: &str = "<attachmentSet>";
    const CLOSE: &str = "</attachmentSet>";
    let instances: BTreeSet<&str> = volumes
        .split(OPEN)
        .skip(1)
        .filter_map(|set| text(set.split(CLOSE).next()?, "instanceId"))
        .collect();
    if instances.is_empty() {
        return volumes.to_owned();
    }
    let names: Vec<String> = (1..=instances.len())
        .map(|n| format!("Filter.1.Value.{n}"))
        .collect();
    let mut ask = vec![
        ("Action", "DescribeInstances"),
        ("Filter.1.Name", "instance-id"),
    ];
    ask.extend(names.iter().map(String::as_str).zip(instances));
    let devices = upstreams.ec2(&ask);
    let goes: BTreeSet<&str> = devices
        .split("<ebs>")
        .skip(1)
        .filter_map(|ebs| ebs.split("</ebs>").next())
        .filter(|ebs| ebs.contains("<deleteOnTermination>true"))
        .filter_map(|ebs| text(ebs, "volumeId"))
        .collect();
    let mut parts = volumes.split(OPEN);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (set, rest) = part.split_once(CLOSE).unwrap_or((part, ""));
        let goes = text(set, "volumeId").is_some_and(|id| goes.contains(id));
        let said = format!("<deleteOnTermination>{goes}</deleteOnTermination></item>");
        whole += &format!("{OPEN}{}{CLOSE}{rest}", set.replace("</item>", &said));
    }
    whole
}

/// Makes a copy as CopyVolumes would, and answers as it does.
fn copied(upstreams: &Upstreams, call: &Call) -> String {
    let field = |name: &str| call.request[name].as_str();
    let source = field("SourceVolumeId").unwrap_or_default();
    let source = upstreams.ec2(&[("Action", "DescribeVolumes"), ("VolumeId.1", source)]);
    let size = field("Size").or_else(|| text(&source, "size"));
    let mut ask = vec![
        ("Action", "CreateVolume"),
        ("Size", size.unwrap_or_default()),
        (
            "AvailabilityZone",
            text(&source, "availabilityZone").unwrap_or_default(),
        ),
        ("Encrypted", "true"),
    ];
    let given = ["VolumeType", "Iops", "Throughput", "KmsKeyId"];
    ask.extend(
        given
            .into_iter()
            .filter_map(|name| Some((name, field(name)?))),
    );
    let tags = call.request.as_object().into_iter().flatten();
    ask.extend(
        tags.filter(|(name, _)| name.starts_with("TagSpecification."))
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))),
    );
    let made = upstreams.ec2(&ask);
    let id = text(&made, "volumeId").unwrap_or_default();
    format!(
        "<CopyVolumesResponse><volumeSet><item><volumeId>{id}</volumeId><encrypted>true</encrypted><status>creating</status></item></volumeSet></CopyVolumesResponse>"
    )
}

/// The text of the first element of a name.
fn text<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    xml.split(&format!("<{name}>")).nth(1)?.split('<').next()
}
