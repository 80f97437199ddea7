//! EC2 in memory: security groups with their rules, volumes, snapshots and
//! instances, as far as Backstop calls it.
//!
//! What takes time takes it here as well: an instance stops, a snapshot
//! completes and a copy becomes available some seconds later. A client token
//! makes a repeated call harmless, as in EC2. An unknown filter panics, and so does
//! a second value in a list that is modelled with one.
//!
//! Deliberately not here: reads that lag behind writes, attachments that take
//! time, errors on the way (`encryption_simulation` in the core has those).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{Call, Reply};

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// How long an instance takes to stop, and to start.
const TURNS: Duration = Duration::from_secs(20);
/// How long its status checks take to pass after that.
const CHECKED: Duration = Duration::from_secs(60);
/// How long a snapshot, or a copy of a volume, takes.
const MADE: Duration = Duration::from_secs(30);

/// A rule of a group; of an egress rule the source is the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The group that it is of.
    pub group: String,
    /// `tcp`, `-1`, …
    pub protocol: String,
    /// The first port.
    pub from: i32,
    /// The last port.
    pub to: i32,
    /// The name of the source's field, and the source: `("cidrIpv4", "0.0.0.0/0")`,
    /// `("groupId", "sg-…")`.
    pub source: (&'static str, String),
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: Tags,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// When it was created.
    pub created: Timestamp,
    /// Until when it is being created.
    pub ready: Timestamp,
    /// Instance, device, since when, and whether it goes with the instance.
    pub attached: Option<(String, String, Timestamp, bool)>,
    /// Its tags.
    pub tags: Tags,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it was taken of.
    pub volume: String,
    /// When it was begun.
    pub started: Timestamp,
    /// Who may use it: `all`, or accounts.
    pub shared_with: BTreeSet<String>,
    /// Its tags.
    pub tags: Tags,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Whether it runs, or is about to.
    pub up: bool,
    /// When it was last told to start or stop.
    pub since: Timestamp,
    /// When it was launched.
    pub launched: Timestamp,
    /// Its metadata service.
    pub metadata: Metadata,
    /// Its tags.
    pub tags: Tags,
}

/// The metadata service of an instance as EC2 spells it, and what CloudWatch counts
/// of it; at first as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Whether tokens are required.
    pub tokens: String,
    /// Whether it can be reached.
    pub endpoint: String,
    /// The hop limit.
    pub hops: u8,
    /// Requests without a token that were answered in the last full hour, after none
    /// in all hours before; none: there are no points.
    pub used: Option<u64>,
    /// Requests without a token that were refused in the last full hour.
    pub refused: u64,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            tokens: "required".to_owned(),
            endpoint: "enabled".to_owned(),
            hops: 2,
            used: None,
            refused: 0,
        }
    }
}

impl Instance {
    /// The code and name of its state.
    fn state(&self, now: Timestamp) -> (u8, &'static str) {
        let turning = now < self.since + TURNS;
        match (self.up, turning) {
            (true, true) => (0, "pending"),
            (true, false) => (16, "running"),
            (false, true) => (64, "stopping"),
            (false, false) => (80, "stopped"),
        }
    }
}

impl Metadata {
    /// As DescribeInstances shows it.
    #[must_use]
    pub fn item(&self) -> String {
        let Self {
            tokens,
            endpoint,
            hops,
            ..
        } = self;
        format!(
            "<metadataOptions><state>applied</state><httpTokens>{tokens}</httpTokens><httpPutResponseHopLimit>{hops}</httpPutResponseHopLimit><httpEndpoint>{endpoint}</httpEndpoint></metadataOptions>"
        )
    }
}

/// A machine image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Who may launch it beside its owner: accounts, ARNs, or `all`.
    pub shared_with: BTreeSet<String>,
    /// Its tags.
    pub tags: Tags,
}

/// A subnet of the VPC `vpc-1`, with an IPv6 block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// Whether what is launched in it gets a public IPv4 address.
    pub ipv4: bool,
    /// Whether network interfaces made in it get an IPv6 address.
    pub ipv6: bool,
    /// Its tags.
    pub tags: Tags,
}

/// Settings that an account has in a Region, as EC2 spells them; at first as they
/// should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The block of public sharing of snapshots.
    pub block: String,
    /// The block of public sharing of images.
    pub image_block: String,
    /// How long a change of that takes to show.
    pub image_block_lag: Duration,
    /// What it still shows, and until when.
    pub image_block_shown: Option<(String, Timestamp)>,
    /// Whether tokens are required of new instances; `no-preference`: nothing is
    /// said of it.
    pub tokens: String,
    /// The hop limit of new instances; `-1`: nothing is said of it.
    pub hops: String,
    /// Whether the serial console may be used.
    pub console: bool,
    /// Whether instances must require tokens.
    pub enforced: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            block: "block-new-sharing".to_owned(),
            image_block: "block-new-sharing".to_owned(),
            image_block_lag: Duration::ZERO,
            image_block_shown: None,
            tokens: "required".to_owned(),
            hops: "2".to_owned(),
            console: false,
            enforced: false,
        }
    }
}

impl Settings {
    /// Answers a call about one of them; none: it is about something else.
    pub fn answer(
        &mut self,
        operation: &str,
        parameter: impl Fn(&str) -> Option<String>,
        now: Timestamp,
    ) -> Option<String> {
        self.image_block_shown.take_if(|(_, until)| *until <= now);
        match operation {
            "EnableSnapshotBlockPublicAccess" => {
                self.block = parameter("State").unwrap_or_default()
            }
            "DisableSnapshotBlockPublicAccess" => self.block = "unblocked".to_owned(),
            "EnableImageBlockPublicAccess" => {
                let state = parameter("ImageBlockPublicAccessState").unwrap_or_default();
                self.block_images(&state, now);
            }
            "DisableImageBlockPublicAccess" => self.block_images("unblocked", now),
            "EnableSerialConsoleAccess" => self.console = true,
            "DisableSerialConsoleAccess" => self.console = false,
            "ModifyInstanceMetadataDefaults" => {
                // What is not named stays.
                self.tokens = parameter("HttpTokens").unwrap_or_else(|| self.tokens.clone());
                let hops = parameter("HttpPutResponseHopLimit");
                self.hops = hops.unwrap_or_else(|| self.hops.clone());
            }
            "GetSnapshotBlockPublicAccessState"
            | "GetSerialConsoleAccessStatus"
            | "GetInstanceMetadataDefaults"
            | "GetImageBlockPublicAccessState" => {}
            _ => return None,
        }
        Some(match operation {
            "GetInstanceMetadataDefaults" => {
                let known = |name: &str, value: &str| match value {
                    "no-preference" | "-1" => String::new(),
                    value => format!("<{name}>{value}</{name}>"),
                };
                let tokens = known("httpTokens", &self.tokens);
                let hops = known("httpPutResponseHopLimit", &self.hops);
                let enforced = match self.enforced {
                    true => "<httpTokensEnforced>enabled</httpTokensEnforced>",
                    false => "",
                };
                format!("<accountLevel>{tokens}{hops}{enforced}</accountLevel>")
            }
            "ModifyInstanceMetadataDefaults" => "<return>true</return>".to_owned(),
            other if other.contains("ImageBlock") => {
                let shown = self.image_block_shown.as_ref().map(|(shown, _)| shown);
                // A change answers what will be.
                let state = shown.filter(|_| other.starts_with("Get"));
                format!(
                    "<imageBlockPublicAccessState>{}</imageBlockPublicAccessState>",
                    state.unwrap_or(&self.image_block)
                )
            }
            other if other.contains("SerialConsole") => format!(
                "<serialConsoleAccessEnabled>{}</serialConsoleAccessEnabled>",
                self.console
            ),
            _ => format!("<state>{}</state>", self.block),
        })
    }

    fn block_images(&mut self, state: &str, now: Timestamp) {
        let was = std::mem::replace(&mut self.image_block, state.to_owned());
        if !self.image_block_lag.is_zero() {
            self.image_block_shown = Some((was, now + self.image_block_lag));
        }
    }
}

/// EC2 of one account and Region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ec2 {
    /// The account that everything belongs to.
    pub account: String,
    /// Groups by id, with their tags.
    pub groups: BTreeMap<String, Tags>,
    /// Those of them that are the default group of their VPC.
    pub default_groups: BTreeSet<String>,
    /// Network interfaces by id, each with its group.
    pub interfaces: BTreeMap<String, String>,
    /// Ingress rules by id.
    pub rules: BTreeMap<String, Rule>,
    /// Egress rules by id.
    pub egress: BTreeMap<String, Rule>,
    /// Volumes by id.
    pub volumes: BTreeMap<String, Volume>,
    /// Snapshots by id.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Instances by id.
    pub instances: BTreeMap<String, Instance>,
    /// Whether new volumes are encrypted by themselves.
    pub encryption_by_default: bool,
    /// Images by id.
    pub images: BTreeMap<String, Image>,
    /// Subnets by id.
    pub subnets: BTreeMap<String, Subnet>,
    /// Other settings of the account.
    pub settings: Settings,
    /// Copies by client token, with what was asked for.
    tokens: BTreeMap<String, (Vec<(String, String)>, String)>,
    ids: u64,
}

impl Ec2 {
    /// A new id: `sg-…`.
    pub fn new_id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}-{:017x}", self.ids)
    }

    /// Adds a rule to a group; its id.
    pub fn open(&mut self, rule: Rule) -> String {
        let id = self.new_id("sgr");
        self.rules.insert(id.clone(), rule);
        id
    }

    /// Answers a call to EC2; none: it is another service's.
    pub fn answer(&mut self, call: &Call, now: Timestamp) -> Option<Reply> {
        if call.parameter("DryRun") == Some("true") {
            return Some(self.dry_run(call));
        }
        if call.operation == "GetMetricData" {
            return Some(self.metric_data(call, now));
        }
        let answer = match call.operation.as_str() {
            "DescribeSecurityGroups" => self.describe_groups(call),
            "DescribeSecurityGroupRules" => self.describe_rules(call),
            "DescribeNetworkInterfaces" => Ok(self.describe_interfaces(call)),
            "DescribeSecurityGroupReferences" => Ok("<securityGroupReferenceSet/>".to_owned()),
            "AuthorizeSecurityGroupIngress" => self.authorize(call, false),
            "AuthorizeSecurityGroupEgress" => self.authorize(call, true),
            "ModifySecurityGroupRules" => self.modify(call),
            "RevokeSecurityGroupIngress" => self.revoke(call, false),
            "RevokeSecurityGroupEgress" => self.revoke(call, true),
            "DescribeTags" => Ok(self.describe_tags(call)),
            "CreateTags" => self.create_tags(call),
            "DescribeVolumes" => Ok(self.describe_volumes(call, now)),
            "DescribeVolumeAttribute" => Ok("<productCodes/>".to_owned()),
            "DescribeSnapshots" => self.describe_snapshots(call, now),
            "DescribeSnapshotAttribute" => self.describe_grants(call),
            "ModifySnapshotAttribute" => self.modify_grants(call),
            "DescribeImages" => self.describe_images(call),
            "DescribeImageAttribute" => self.describe_launch_permissions(call),
            "ModifyImageAttribute" => self.modify_launch_permissions(call),
            "DescribeSubnets" => self.describe_subnets(call),
            "ModifySubnetAttribute" => self.modify_subnet(call),
            "CreateSnapshot" => self.create_snapshot(call, now),
            "CreateSnapshots" => self.create_snapshots(call, now),
            "CopyVolumes" => self.copy_volumes(call, now),
            "CreateVolume" => self.create_volume(call, now),
            "DeleteVolume" => self.delete_volume(call),
            "DetachVolume" => self.detach(call),
            "AttachVolume" => self.attach(call, now),
            "DescribeInstances" => Ok(self.describe_instances(call, now)),
            "DescribeInstanceStatus" => Ok(self.describe_status(call, now)),
            "DescribeInstanceTypes" => Ok("<instanceTypeSet><item><instanceType>m7i.large</instanceType><instanceStorageSupported>false</instanceStorageSupported></item></instanceTypeSet>".to_owned()),
            "DescribeInstanceAttribute" => {
                Ok("<disableApiStop><value>false</value></disableApiStop>".to_owned())
            }
            "ModifyInstanceAttribute" => self.keep_or_delete(call),
            "ModifyInstanceMetadataOptions" => self.modify_metadata_options(call),
            "StopInstances" => self.turn(call, false, now),
            "StartInstances" => self.turn(call, true, now),
            "GetEbsEncryptionByDefault" => Ok(self.by_default()),
            "EnableEbsEncryptionByDefault" => {
                self.encryption_by_default = true;
                Ok(self.by_default())
            }
            "DisableEbsEncryptionByDefault" => {
                self.encryption_by_default = false;
                Ok(self.by_default())
            }
            "GetEbsDefaultKmsKeyId" => Ok("<kmsKeyId>alias/aws/ebs</kmsKeyId>".to_owned()),
            "DescribeRouteTables" => Ok("<routeTableSet/>".to_owned()),
            "DescribeVpcEndpoints" => Ok("<vpcEndpointSet/>".to_owned()),
            operation => {
                let parameter = |name: &str| call.parameter(name).map(str::to_owned);
                Ok(self.settings.answer(operation, parameter, now)?)
            }
        };
        let name = &call.operation;
        Some(match answer {
            Ok(content) => Reply::ok(format!(
                "<{name}Response><requestId>r</requestId>{content}</{name}Response>"
            )),
            Err((code, message)) => Reply::ec2_error(400, code, &message),
        })
    }

    /// A dry run changes nothing, and its answer is always an error. EC2 looks at
    /// rights and at what is named, not at the state that it is in.
    fn dry_run(&self, call: &Call) -> Reply {
        const MODELLED: [&str; 6] = [
            "AttachVolume",
            "CopyVolumes",
            "CreateVolume",
            "DetachVolume",
            "ModifyInstanceAttribute",
            "StartInstances",
        ];
        let operation = call.operation.as_str();
        assert!(MODELLED.contains(&operation), "a dry run of {operation}");
        let names = [
            "InstanceId",
            "InstanceId.1",
            "VolumeId",
            "SourceVolumeId",
            "SnapshotId",
        ];
        for id in names.into_iter().filter_map(|name| call.parameter(name)) {
            let code = match id.split_once('-') {
                Some(("i", _)) if !self.instances.contains_key(id) => "InvalidInstanceID.NotFound",
                Some(("vol", _)) if !self.volumes.contains_key(id) => "InvalidVolume.NotFound",
                Some(("snap", _)) if !self.snapshots.contains_key(id) => "InvalidSnapshot.NotFound",
                _ => continue,
            };
            return Reply::ec2_error(400, code, id);
        }
        let message = "Request would have succeeded, but DryRun flag is set.";
        Reply::ec2_error(412, "DryRunOperation", message)
    }

    // --- security groups

    fn describe_groups(&self, call: &Call) -> Answer {
        let ids = call.list("GroupId");
        if let Some(missing) = ids.iter().find(|id| !self.groups.contains_key(**id)) {
            return Err(("InvalidGroup.NotFound", missing.to_string()));
        }
        let names = |rules: &BTreeMap<String, Rule>, id: &str, sources: &[&str]| {
            let mut rules = rules.values().filter(|rule| rule.group == id);
            rules.any(|rule| sources.contains(&&*rule.source.1))
        };
        let passes = |id: &str, (filter, values): &(&str, Vec<&str>)| match *filter {
            "ip-permission.prefix-list-id" | "ip-permission.group-id" => {
                names(&self.rules, id, values)
            }
            "egress.ip-permission.group-id" => names(&self.egress, id, values),
            "group-name" => values.contains(&self.group_name(id)),
            // There is one.
            "vpc-id" => true,
            other => panic!("DescribeSecurityGroups: {other}"),
        };
        let wanted = |id: &str| {
            let named = ids.is_empty() || ids.contains(&id);
            named && filters(call).iter().all(|filter| passes(id, filter))
        };
        let mut items = String::new();
        for (id, tags) in self.groups.iter().filter(|(id, _)| wanted(id)) {
            let rules = self.rules.values().filter(|rule| rule.group == *id);
            let permissions: String = rules.map(permission).collect();
            let egress = self.egress.values().filter(|rule| rule.group == *id);
            let egress: String = egress.map(permission).collect();
            let _ = write!(
                items,
                "<item><ownerId>{}</ownerId><groupId>{id}</groupId><groupName>{}</groupName><vpcId>vpc-1</vpcId><ipPermissions>{permissions}</ipPermissions><ipPermissionsEgress>{egress}</ipPermissionsEgress>{}</item>",
                self.account,
                self.group_name(id),
                tag_set(tags)
            );
        }
        Ok(format!("<securityGroupInfo>{items}</securityGroupInfo>"))
    }

    /// A default group's name is reserved; others are named by their id.
    fn group_name<'a>(&self, id: &'a str) -> &'a str {
        match self.default_groups.contains(id) {
            true => "default",
            false => id,
        }
    }

    fn describe_interfaces(&self, call: &Call) -> String {
        let [("group-id", groups)] = &filters(call)[..] else {
            panic!("DescribeNetworkInterfaces: {call:?}")
        };
        let mut items = String::new();
        let interfaces = self.interfaces.iter();
        for (id, group) in interfaces.filter(|(_, of)| groups.contains(&of.as_str())) {
            let _ = write!(
                items,
                "<item><networkInterfaceId>{id}</networkInterfaceId><groupSet><item><groupId>{group}</groupId></item></groupSet></item>"
            );
        }
        format!("<networkInterfaceSet>{items}</networkInterfaceSet>")
    }

    fn rules_of(&mut self, egress: bool) -> &mut BTreeMap<String, Rule> {
        match egress {
            true => &mut self.egress,
            false => &mut self.rules,
        }
    }

    fn describe_rules(&self, call: &Call) -> Answer {
        let filters = filters(call);
        let wanted = |id: &str, rule: &Rule| match &filters[..] {
            [("group-id", groups)] => groups.contains(&rule.group.as_str()),
            [("security-group-rule-id", ids)] => ids.contains(&id),
            other => panic!("DescribeSecurityGroupRules: {other:?}"),
        };
        let mut items = String::new();
        for (egress, rules) in [(false, &self.rules), (true, &self.egress)] {
            for (id, rule) in rules.iter().filter(|(id, rule)| wanted(id, rule)) {
                items += &self.rule_item(id, rule, egress);
            }
        }
        Ok(format!(
            "<securityGroupRuleSet>{items}</securityGroupRuleSet>"
        ))
    }

    fn authorize(&mut self, call: &Call, egress: bool) -> Answer {
        let group = self.group(call)?;
        one(call, "IpPermissions.#.IpProtocol");
        let permission = "IpPermissions.1";
        let field = |name: &str| call.parameter(&format!("{permission}.{name}"));
        let source = [
            ("cidrIpv4", "IpRanges.1", "CidrIp"),
            ("cidrIpv6", "Ipv6Ranges.1", "CidrIpv6"),
            ("groupId", "Groups.1", "GroupId"),
        ]
        .into_iter()
        .find_map(|(kind, list, name)| {
            let source = field(&format!("{list}.{name}"))?;
            let description = field(&format!("{list}.Description"));
            Some(((kind, source.to_owned()), description.unwrap_or_default()))
        });
        let (source, description) = source.unwrap_or_else(|| panic!("a source: {call:?}"));
        let rule = Rule {
            group,
            protocol: field("IpProtocol").unwrap().to_owned(),
            from: port(field("FromPort")),
            to: port(field("ToPort")),
            source,
            description: description.to_owned(),
            tags: call.tags("TagSpecification.1.Tag"),
        };
        let mut others = self.rules_of(egress).values();
        if others.any(|other| same(other, &rule)) {
            return Err(("InvalidPermission.Duplicate", "it is there".to_owned()));
        }
        let id = self.new_id("sgr");
        self.rules_of(egress).insert(id.clone(), rule.clone());
        Ok(format!(
            "<return>true</return><securityGroupRuleSet>{}</securityGroupRuleSet>",
            self.rule_item(&id, &rule, egress)
        ))
    }

    fn modify(&mut self, call: &Call) -> Answer {
        let group = self.group(call)?;
        one(call, "SecurityGroupRule.#.SecurityGroupRuleId");
        let update = "SecurityGroupRule.1";
        let id = call
            .parameter(&format!("{update}.SecurityGroupRuleId"))
            .unwrap();
        let field = |name: &str| call.parameter(&format!("{update}.SecurityGroupRule.{name}"));
        let Some(rule) = self.rules.get(id).filter(|rule| rule.group == group) else {
            return Err(("InvalidSecurityGroupRuleId.NotFound", id.to_owned()));
        };
        let source = field("CidrIpv4").or(field("CidrIpv6"));
        assert_eq!(source, Some(&*rule.source.1), "another source");
        let changed = Rule {
            protocol: field("IpProtocol").unwrap().to_owned(),
            from: port(field("FromPort")),
            to: port(field("ToPort")),
            description: field("Description").unwrap_or_default().to_owned(),
            ..rule.clone()
        };
        let others = self.rules.iter().filter(|(other, _)| *other != id);
        if others
            .map(|(_, other)| other)
            .any(|other| same(other, &changed))
        {
            return Err(("InvalidPermission.Duplicate", "it is there".to_owned()));
        }
        self.rules.insert(id.to_owned(), changed);
        Ok("<return>true</return>".to_owned())
    }

    fn revoke(&mut self, call: &Call, egress: bool) -> Answer {
        let group = self.group(call)?;
        one(call, "SecurityGroupRuleId.#");
        let id = call.parameter("SecurityGroupRuleId.1").unwrap();
        let rules = self.rules_of(egress);
        if rules.get(id).is_none_or(|rule| rule.group != group) {
            return Err(("InvalidSecurityGroupRuleId.NotFound", id.to_owned()));
        }
        rules.remove(id);
        Ok("<return>true</return>".to_owned())
    }

    fn group(&self, call: &Call) -> Result<String, (&'static str, String)> {
        let id = call.parameter("GroupId").unwrap();
        match self.groups.contains_key(id) {
            true => Ok(id.to_owned()),
            false => Err(("InvalidGroup.NotFound", id.to_owned())),
        }
    }

    fn rule_item(&self, id: &str, rule: &Rule, egress: bool) -> String {
        let Rule {
            group,
            protocol,
            from,
            to,
            source: (kind, source),
            description,
            tags,
        } = rule;
        let (tags, account) = (tag_set(tags), &self.account);
        let source = match *kind {
            "groupId" => format!(
                "<referencedGroupInfo><groupId>{source}</groupId><userId>{account}</userId></referencedGroupInfo>"
            ),
            kind => format!("<{kind}>{source}</{kind}>"),
        };
        format!(
            "<item><securityGroupRuleId>{id}</securityGroupRuleId><groupId>{group}</groupId><groupOwnerId>{account}</groupOwnerId><isEgress>{egress}</isEgress><ipProtocol>{protocol}</ipProtocol><fromPort>{from}</fromPort><toPort>{to}</toPort>{source}<description>{description}</description>{tags}</item>"
        )
    }

    // --- tags

    /// The tags of a resource; `None`: there is no such resource.
    pub fn tags_of(&mut self, id: &str) -> Option<&mut Tags> {
        Some(match id.split_once('-')?.0 {
            "sg" => self.groups.get_mut(id)?,
            "sgr" => match self.egress.get_mut(id) {
                Some(rule) => &mut rule.tags,
                None => &mut self.rules.get_mut(id)?.tags,
            },
            "vol" => &mut self.volumes.get_mut(id)?.tags,
            "snap" => &mut self.snapshots.get_mut(id)?.tags,
            "ami" => &mut self.images.get_mut(id)?.tags,
            "subnet" => &mut self.subnets.get_mut(id)?.tags,
            "i" => &mut self.instances.get_mut(id)?.tags,
            _ => return None,
        })
    }

    fn create_tags(&mut self, call: &Call) -> Answer {
        let tags = call.tags("Tag");
        for id in call.list("ResourceId") {
            let Some(of) = self.tags_of(id) else {
                return Err(("InvalidID", id.to_owned()));
            };
            of.extend(tags.clone());
        }
        Ok("<return>true</return>".to_owned())
    }

    fn describe_tags(&self, call: &Call) -> String {
        let kinds: [(&str, Vec<(&String, &Tags)>); 4] = [
            ("security-group", self.groups.iter().collect()),
            (
                "security-group-rule",
                self.rules
                    .iter()
                    .map(|(id, rule)| (id, &rule.tags))
                    .collect(),
            ),
            (
                "volume",
                self.volumes.iter().map(|(id, of)| (id, &of.tags)).collect(),
            ),
            (
                "instance",
                self.instances
                    .iter()
                    .map(|(id, of)| (id, &of.tags))
                    .collect(),
            ),
        ];
        let filters = filters(call);
        let mut items = String::new();
        for (kind, resources) in &kinds {
            for (id, tags) in resources {
                for (key, value) in *tags {
                    let passes = filters.iter().all(|(name, values)| match *name {
                        "key" => values.iter().any(|pattern| like(pattern, key)),
                        "resource-type" => values.contains(kind),
                        "resource-id" => values.contains(&id.as_str()),
                        other => panic!("DescribeTags: {other}"),
                    });
                    if passes {
                        let _ = write!(
                            items,
                            "<item><resourceId>{id}</resourceId><resourceType>{kind}</resourceType><key>{key}</key><value>{value}</value></item>"
                        );
                    }
                }
            }
        }
        format!("<tagSet>{items}</tagSet>")
    }

    // --- volumes and snapshots

    fn describe_volumes(&self, call: &Call, now: Timestamp) -> String {
        let filters = filters(call);
        let mut items = String::new();
        for (id, volume) in &self.volumes {
            let instance = volume
                .attached
                .as_ref()
                .map(|(instance, ..)| instance.as_str());
            let passes = filters.iter().all(|(name, values)| match *name {
                "volume-id" => values.contains(&id.as_str()),
                "attachment.instance-id" => instance.is_some_and(|i| values.contains(&i)),
                "encrypted" => values.contains(&volume.encrypted.to_string().as_str()),
                other => tagged(other, values, &volume.tags),
            });
            if passes {
                items += &volume_item(id, volume, now);
            }
        }
        format!("<volumeSet>{items}</volumeSet>")
    }

    fn describe_snapshots(&self, call: &Call, now: Timestamp) -> Answer {
        let filters = filters(call);
        let (ids, holders) = (call.list("SnapshotId"), call.list("RestorableBy"));
        if let Some(missing) = ids.iter().find(|id| !self.snapshots.contains_key(**id)) {
            return Err(("InvalidSnapshot.NotFound", missing.to_string()));
        }
        let mut items = String::new();
        for (id, snapshot) in &self.snapshots {
            let passes = filters.iter().all(|(name, values)| match *name {
                "snapshot-id" => values.contains(&id.as_str()),
                other => tagged(other, values, &snapshot.tags),
            });
            let named = ids.is_empty() || ids.contains(&id.as_str());
            let shared = holders.iter().all(|of| snapshot.shared_with.contains(*of));
            if passes && named && shared {
                let Snapshot {
                    volume,
                    started,
                    tags,
                    ..
                } = snapshot;
                let owner = &self.account;
                let state = match now < *started + MADE {
                    true => "pending",
                    false => "completed",
                };
                let _ = write!(
                    items,
                    "<item><snapshotId>{id}</snapshotId><ownerId>{owner}</ownerId><volumeId>{volume}</volumeId><status>{state}</status><startTime>{started}</startTime>{}</item>",
                    tag_set(tags)
                );
            }
        }
        Ok(format!("<snapshotSet>{items}</snapshotSet>"))
    }

    fn describe_grants(&self, call: &Call) -> Answer {
        let id = call.parameter("SnapshotId").unwrap();
        let Some(snapshot) = self.snapshots.get(id) else {
            return Err(("InvalidSnapshot.NotFound", id.to_owned()));
        };
        let items: String = snapshot
            .shared_with
            .iter()
            .map(|holder| match holder.as_str() {
                "all" => "<item><group>all</group></item>".to_owned(),
                account => format!("<item><userId>{account}</userId></item>"),
            })
            .collect();
        Ok(format!(
            "<snapshotId>{id}</snapshotId><createVolumePermission>{items}</createVolumePermission>"
        ))
    }

    fn modify_grants(&mut self, call: &Call) -> Answer {
        let id = call.parameter("SnapshotId").unwrap();
        let blocked = self.settings.block != "unblocked";
        let Some(snapshot) = self.snapshots.get_mut(id) else {
            return Err(("InvalidSnapshot.NotFound", id.to_owned()));
        };
        let adds = call.parameter("OperationType") == Some("add");
        if blocked && adds && call.list("UserGroup").contains(&"all") {
            return Err((
                "OperationNotPermitted",
                "public sharing is blocked".to_owned(),
            ));
        }
        for holder in call
            .list("UserGroup")
            .into_iter()
            .chain(call.list("UserId"))
        {
            match adds {
                true => snapshot.shared_with.insert(holder.to_owned()),
                false => snapshot.shared_with.remove(holder),
            };
        }
        Ok("<return>true</return>".to_owned())
    }

    fn describe_images(&self, call: &Call) -> Answer {
        let ids = call.list("ImageId");
        if let Some(missing) = ids.iter().find(|id| !self.images.contains_key(**id)) {
            return Err(("InvalidAMIID.NotFound", missing.to_string()));
        }
        let public = match filters(call)[..] {
            [] => false,
            [("is-public", ref values)] => values[..] == ["true"],
            ref other => panic!("DescribeImages: {other:?}"),
        };
        let mut items = String::new();
        for (id, image) in &self.images {
            let named = ids.is_empty() || ids.contains(&id.as_str());
            if named && (!public || image.shared_with.contains("all")) {
                let _ = write!(
                    items,
                    "<item><imageId>{id}</imageId><imageOwnerId>{}</imageOwnerId>{}</item>",
                    self.account,
                    tag_set(&image.tags)
                );
            }
        }
        Ok(format!("<imagesSet>{items}</imagesSet>"))
    }

    fn image(&mut self, call: &Call) -> Result<&mut Image, (&'static str, String)> {
        let id = call.parameter("ImageId").unwrap();
        let image = self.images.get_mut(id);
        image.ok_or_else(|| ("InvalidAMIID.NotFound", id.to_owned()))
    }

    fn describe_launch_permissions(&mut self, call: &Call) -> Answer {
        let holders = self.image(call)?.shared_with.iter();
        let items: String = holders
            .map(|holder| match holder.as_str() {
                "all" => "<item><group>all</group></item>".to_owned(),
                account => format!("<item><userId>{account}</userId></item>"),
            })
            .collect();
        Ok(format!("<launchPermission>{items}</launchPermission>"))
    }

    fn modify_launch_permissions(&mut self, call: &Call) -> Answer {
        let of = |way: &str| call.parameter(&format!("LaunchPermission.{way}.1.Group"));
        let (adds, removes) = (of("Add"), of("Remove"));
        let image = self.image(call)?;
        if let Some(holder) = removes {
            image.shared_with.remove(holder);
        }
        if let Some(holder) = adds {
            image.shared_with.insert(holder.to_owned());
        }
        Ok("<return>true</return>".to_owned())
    }

    fn describe_subnets(&self, call: &Call) -> Answer {
        let ids = call.list("SubnetId");
        if let Some(missing) = ids.iter().find(|id| !self.subnets.contains_key(**id)) {
            return Err(("InvalidSubnetID.NotFound", missing.to_string()));
        }
        let filters = filters(call);
        let mut items = String::new();
        for (id, subnet) in &self.subnets {
            let Subnet { ipv4, ipv6, tags } = subnet;
            let passes = filters.iter().all(|(name, values)| match *name {
                "map-public-ip-on-launch" => values.contains(&ipv4.to_string().as_str()),
                "ipv6-cidr-block-association.state" => values.contains(&"associated"),
                "owner-id" => values.contains(&self.account.as_str()),
                "vpc-id" => values.contains(&"vpc-1"),
                other => panic!("DescribeSubnets: {other}"),
            });
            if passes && (ids.is_empty() || ids.contains(&id.as_str())) {
                let _ = write!(
                    items,
                    "<item><subnetId>{id}</subnetId><vpcId>vpc-1</vpcId><ownerId>{}</ownerId><mapPublicIpOnLaunch>{ipv4}</mapPublicIpOnLaunch><assignIpv6AddressOnCreation>{ipv6}</assignIpv6AddressOnCreation><ipv6CidrBlockAssociationSet><item><ipv6CidrBlockState><state>associated</state></ipv6CidrBlockState></item></ipv6CidrBlockAssociationSet>{}</item>",
                    self.account,
                    tag_set(tags)
                );
            }
        }
        Ok(format!("<subnetSet>{items}</subnetSet>"))
    }

    fn modify_subnet(&mut self, call: &Call) -> Answer {
        let id = call.parameter("SubnetId").unwrap();
        let Some(subnet) = self.subnets.get_mut(id) else {
            return Err(("InvalidSubnetID.NotFound", id.to_owned()));
        };
        let value = |name: &str| call.parameter(&format!("{name}.Value"));
        let on = |value: &str| value == "true";
        match (
            value("MapPublicIpOnLaunch"),
            value("AssignIpv6AddressOnCreation"),
        ) {
            (Some(ipv4), None) => subnet.ipv4 = on(ipv4),
            (None, Some(ipv6)) => subnet.ipv6 = on(ipv6),
            _ => panic!("one attribute a call: {call:?}"),
        }
        Ok("<return>true</return>".to_owned())
    }

    fn create_snapshot(&mut self, call: &Call, now: Timestamp) -> Answer {
        let volume = self.volume(call, "VolumeId")?;
        let tags = call.tags("TagSpecification.1.Tag");
        let id = self.snapshot(volume, tags, now);
        Ok(format!(
            "<snapshotId>{id}</snapshotId><status>pending</status>"
        ))
    }

    fn create_snapshots(&mut self, call: &Call, now: Timestamp) -> Answer {
        let instance = call.parameter("InstanceSpecification.InstanceId").unwrap();
        let of_instance = |volume: &Volume| {
            let attached = volume.attached.as_ref();
            attached.is_some_and(|(of, ..)| of == instance)
        };
        let volumes = self
            .volumes
            .iter()
            .filter(|(_, volume)| of_instance(volume));
        let volumes: Vec<String> = volumes.map(|(id, _)| id.clone()).collect();
        let tags = call.tags("TagSpecification.1.Tag");
        let mut items = String::new();
        for volume in volumes {
            let id = self.snapshot(volume, tags.clone(), now);
            let _ = write!(items, "<item><snapshotId>{id}</snapshotId></item>");
        }
        Ok(format!("<snapshotSet>{items}</snapshotSet>"))
    }

    fn snapshot(&mut self, volume: String, tags: Tags, started: Timestamp) -> String {
        let id = self.new_id("snap");
        let snapshot = Snapshot {
            volume,
            started,
            shared_with: BTreeSet::new(),
            tags,
        };
        self.snapshots.insert(id.clone(), snapshot);
        id
    }

    fn copy_volumes(&mut self, call: &Call, now: Timestamp) -> Answer {
        let source = self.volume(call, "SourceVolumeId")?;
        let encrypted = self.volumes[&source].encrypted;
        let id = self.new_volume(call, encrypted, now)?;
        let volume = volume_item(&id, &self.volumes[&id], now);
        Ok(format!("<volumeSet>{volume}</volumeSet>"))
    }

    fn create_volume(&mut self, call: &Call, now: Timestamp) -> Answer {
        let snapshot = call.parameter("SnapshotId").unwrap();
        let Some(Snapshot {
            volume, started, ..
        }) = self.snapshots.get(snapshot)
        else {
            return Err(("InvalidSnapshot.NotFound", snapshot.to_owned()));
        };
        if now < *started + MADE {
            return Err(("IncorrectState", format!("{snapshot} is pending")));
        }
        let encrypted = self.volumes.get(volume).is_some_and(|of| of.encrypted);
        let id = self.new_volume(call, encrypted, now)?;
        Ok(format!(
            "<volumeId>{id}</volumeId><status>creating</status>"
        ))
    }

    /// Creates a volume, encrypted if its source is or if the call asks for it;
    /// returns its id. A call repeated with the same client token returns the same
    /// volume.
    fn new_volume(&mut self, call: &Call, encrypted: bool, now: Timestamp) -> Answer {
        let token = call.parameter("ClientToken").unwrap().to_owned();
        match self.tokens.get(&token) {
            None => {}
            Some((same, id)) if *same == call.parameters => return Ok(id.clone()),
            Some(_) => return Err(("IdempotentParameterMismatch", token)),
        }
        let id = self.new_id("vol");
        let volume = Volume {
            encrypted: encrypted || call.parameter("Encrypted") == Some("true"),
            created: now,
            ready: now + MADE,
            attached: None,
            tags: call.tags("TagSpecification.1.Tag"),
        };
        self.volumes.insert(id.clone(), volume);
        let made = (call.parameters.clone(), id.clone());
        self.tokens.insert(token, made);
        Ok(id)
    }

    fn delete_volume(&mut self, call: &Call) -> Answer {
        let id = self.volume(call, "VolumeId")?;
        if self.volumes[&id].attached.is_some() {
            return Err(("VolumeInUse", id));
        }
        self.volumes.remove(&id);
        Ok("<return>true</return>".to_owned())
    }

    fn detach(&mut self, call: &Call) -> Answer {
        let id = self.volume(call, "VolumeId")?;
        let Some((instance, ..)) = self.volumes[&id].attached.clone() else {
            return Err(("IncorrectState", format!("{id} is available")));
        };
        // EC2 would allow this, but unwritten data would be lost.
        assert!(!self.instances[&instance].up, "{instance} is running");
        self.volumes.get_mut(&id).unwrap().attached = None;
        Ok("<status>detaching</status>".to_owned())
    }

    fn attach(&mut self, call: &Call, now: Timestamp) -> Answer {
        let id = self.volume(call, "VolumeId")?;
        let text = |name: &str| call.parameter(name).unwrap().to_owned();
        let (instance, device) = (text("InstanceId"), text("Device"));
        let used = self.volumes.values().any(|volume| {
            let attached = volume.attached.as_ref();
            attached.is_some_and(|(i, d, ..)| *i == instance && *d == device)
        });
        let volume = self.volumes.get_mut(&id).unwrap();
        if volume.attached.is_some() || now < volume.ready {
            return Err(("IncorrectState", format!("{id} is not available")));
        }
        if used {
            return Err(("InvalidParameterValue", format!("{device} is in use")));
        }
        volume.attached = Some((instance, device, now, false));
        Ok("<status>attaching</status>".to_owned())
    }

    fn volume(&self, call: &Call, name: &str) -> Result<String, (&'static str, String)> {
        let id = call.parameter(name).unwrap();
        match self.volumes.contains_key(id) {
            true => Ok(id.to_owned()),
            false => Err(("InvalidVolume.NotFound", id.to_owned())),
        }
    }

    fn by_default(&self) -> String {
        let on = self.encryption_by_default;
        format!("<ebsEncryptionByDefault>{on}</ebsEncryptionByDefault>")
    }

    // --- instances

    fn describe_instances(&self, call: &Call, now: Timestamp) -> String {
        let filters = filters(call);
        let mut items = String::new();
        for (id, instance) in &self.instances {
            let (code, state) = instance.state(now);
            let passes = filters.iter().all(|(name, values)| match *name {
                "instance-id" => values.contains(&id.as_str()),
                "instance-state-name" => values.contains(&state),
                "subnet-id" => values.contains(&"subnet-1"),
                "tag-key" => {
                    let mut keys = instance.tags.keys();
                    keys.any(|key| values.iter().any(|pattern| like(pattern, key)))
                }
                "metadata-options.http-tokens" => {
                    values.contains(&instance.metadata.tokens.as_str())
                }
                "metadata-options.http-endpoint" => {
                    values.contains(&instance.metadata.endpoint.as_str())
                }
                other => panic!("DescribeInstances: {other}"),
            });
            if passes {
                let Instance {
                    launched,
                    tags,
                    metadata,
                    ..
                } = instance;
                let _ = write!(
                    items,
                    "<item><instanceId>{id}</instanceId><instanceState><code>{code}</code><name>{state}</name></instanceState><instanceType>m7i.large</instanceType><launchTime>{launched}</launchTime><rootDeviceType>ebs</rootDeviceType><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>{}{}</item>",
                    metadata.item(),
                    tag_set(tags)
                );
            }
        }
        let owner = &self.account;
        format!(
            "<reservationSet><item><reservationId>r-1</reservationId><ownerId>{owner}</ownerId><instancesSet>{items}</instancesSet></item></reservationSet>"
        )
    }

    /// What is not named stays.
    fn modify_metadata_options(&mut self, call: &Call) -> Answer {
        let id = call.parameter("InstanceId").unwrap();
        let (tokens, endpoint) = (call.parameter("HttpTokens"), call.parameter("HttpEndpoint"));
        let Some(instance) = self.instances.get_mut(id) else {
            return Err(("InvalidInstanceID.NotFound", id.to_owned()));
        };
        if tokens.is_some() && endpoint != Some("enabled") {
            let message = "HttpTokens needs HttpEndpoint=enabled";
            return Err(("InvalidParameterValue", message.to_owned()));
        }
        if self.settings.enforced && tokens == Some("optional") {
            let message = "the account enforces IMDSv2";
            return Err(("UnsupportedOperation", message.to_owned()));
        }
        let metadata = &mut instance.metadata;
        if let Some(tokens) = tokens {
            tokens.clone_into(&mut metadata.tokens);
        }
        if let Some(endpoint) = endpoint {
            endpoint.clone_into(&mut metadata.endpoint);
        }
        let options = metadata.item();
        Ok(format!(
            "<instanceId>{id}</instanceId>{}",
            options.replace("metadataOptions", "instanceMetadataOptions")
        ))
    }

    /// The points that CloudWatch has of the metadata services of instances.
    fn metric_data(&self, call: &Call, now: Timestamp) -> Reply {
        let second = |name: &str| call.json[name].as_i64().unwrap();
        let last_hour = now.as_second() - now.as_second() % 3600 - 3600;
        let results = call.json["MetricDataQueries"].as_array().unwrap().iter();
        let results = results.map(|query| {
            let stat = &query["MetricStat"];
            assert_eq!((&stat["Period"], &stat["Stat"]), (&json!(3600), &json!("Sum")));
            let id = stat["Metric"]["Dimensions"][0]["Value"].as_str().unwrap();
            let metadata = self.instances.get(id).map(|of| &of.metadata);
            let hours = match stat["Metric"]["MetricName"].as_str().unwrap() {
                "MetadataNoToken" => metadata.and_then(|of| of.used).map(|last| (true, last)),
                "MetadataNoTokenRejected" => metadata
                    .filter(|of| of.refused > 0)
                    .map(|of| (false, of.refused)),
                other => panic!("the metric {other}"),
            };
            let span = (second("StartTime")..second("EndTime")).step_by(3600);
            let points: Vec<(i64, u64)> = span
                .filter_map(|hour| match hours {
                    Some((_, last)) if hour == last_hour => Some((hour, last)),
                    Some((true, _)) => Some((hour, 0)),
                    _ => None,
                })
                .collect();
            let (hours, sums): (Vec<i64>, Vec<u64>) = points.into_iter().unzip();
            json!({ "Id": query["Id"], "Timestamps": hours, "Values": sums, "StatusCode": "Complete" })
        });
        let results: Vec<Value> = results.collect();
        Reply::ok(json!({ "MetricDataResults": results }).to_string())
    }

    fn describe_status(&self, call: &Call, now: Timestamp) -> String {
        let mut items = String::new();
        for id in call.list("InstanceId") {
            let Some(instance) = self.instances.get(id) else {
                continue;
            };
            let status = match now < instance.since + CHECKED {
                true => "initializing",
                false => "ok",
            };
            let _ = write!(
                items,
                "<item><instanceId>{id}</instanceId><systemStatus><status>{status}</status></systemStatus><instanceStatus><status>{status}</status></instanceStatus></item>"
            );
        }
        format!("<instanceStatusSet>{items}</instanceStatusSet>")
    }

    fn turn(&mut self, call: &Call, up: bool, now: Timestamp) -> Answer {
        for id in call.list("InstanceId") {
            let Some(instance) = self.instances.get_mut(id) else {
                return Err(("InvalidInstanceID.NotFound", id.to_owned()));
            };
            let (_, state) = instance.state(now);
            if up && state == "stopping" {
                return Err(("IncorrectInstanceState", format!("{id} is stopping")));
            }
            if instance.up != up {
                instance.up = up;
                instance.since = now;
                if up {
                    instance.launched = now;
                }
            }
        }
        Ok("<instancesSet/>".to_owned())
    }

    /// Whether the volume at a device goes with the instance: EC2 takes nothing
    /// else of a block device here.
    fn keep_or_delete(&mut self, call: &Call) -> Answer {
        let instance = call.parameter("InstanceId").unwrap();
        let mapping = |name: &str| {
            call.parameter(&format!("BlockDeviceMapping.1.{name}"))
                .unwrap()
        };
        let device = mapping("DeviceName");
        let goes = mapping("Ebs.DeleteOnTermination") == "true";
        for volume in self.volumes.values_mut() {
            if let Some((of, at, _, with)) = &mut volume.attached
                && of == instance
                && at == device
            {
                *with = goes;
                return Ok("<return>true</return>".to_owned());
            }
        }
        Err(("InvalidInstanceAttributeValue", device.to_owned()))
    }
}

type Answer = Result<String, (&'static str, String)>;

/// A call's filters: name and values.
fn filters(call: &Call) -> Vec<(&str, Vec<&str>)> {
    let filter = |n: usize| {
        let name = call.parameter(&format!("Filter.{n}.Name"))?;
        Some((name, call.list(&format!("Filter.{n}.Value"))))
    };
    (1..).map_while(filter).collect()
}

/// Panics where a list that is modelled with one entry has a second one.
fn one(call: &Call, list: &str) {
    let second = list.replace('#', "2");
    assert_eq!(call.parameter(&second), None, "{second} is not modelled");
}

fn tagged(filter: &str, values: &[&str], tags: &Tags) -> bool {
    match (filter, filter.strip_prefix("tag:")) {
        (_, Some(key)) => tags
            .get(key)
            .is_some_and(|value| values.contains(&value.as_str())),
        ("tag-key", _) => values.iter().any(|key| tags.contains_key(*key)),
        (other, _) => panic!("the filter {other}"),
    }
}

/// Whether a text is what a filter's pattern says: `*` is any number of
/// characters, `?` exactly one.
fn like(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match (rest.next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), None) => like(rest.as_str(), text),
        (Some('*'), Some(c)) => like(rest.as_str(), text) || like(pattern, &text[c.len_utf8()..]),
        (Some(p), Some(c)) => (p == '?' || p == c) && like(rest.as_str(), &text[c.len_utf8()..]),
        _ => false,
    }
}

fn port(value: Option<&str>) -> i32 {
    value.map_or(-1, |port| port.parse().unwrap())
}

fn same(a: &Rule, b: &Rule) -> bool {
    let of = |rule: &Rule| {
        let Rule {
            group,
            protocol,
            from,
            to,
            source,
            ..
        } = rule.clone();
        (group, protocol, from, to, source)
    };
    of(a) == of(b)
}

fn permission(rule: &Rule) -> String {
    let Rule {
        protocol,
        from,
        to,
        source: (kind, source),
        ..
    } = rule;
    let source = match *kind {
        "cidrIpv4" => format!("<ipRanges><item><cidrIp>{source}</cidrIp></item></ipRanges>"),
        "cidrIpv6" => {
            format!("<ipv6Ranges><item><cidrIpv6>{source}</cidrIpv6></item></ipv6Ranges>")
        }
        "groupId" => format!("<groups><item><groupId>{source}</groupId></item></groups>"),
        other => panic!("a source of the kind {other}"),
    };
    format!(
        "<item><ipProtocol>{protocol}</ipProtocol><fromPort>{from}</fromPort><toPort>{to}</toPort>{source}</item>"
    )
}

fn volume_item(id: &str, volume: &Volume, now: Timestamp) -> String {
    let Volume {
        encrypted,
        created,
        ready,
        attached,
        tags,
    } = volume;
    let state = match attached {
        Some(_) => "in-use",
        None if now < *ready => "creating",
        None => "available",
    };
    let attachment = attached.as_ref().map_or_else(String::new, |(instance, device, since, with)| format!("<item><volumeId>{id}</volumeId><instanceId>{instance}</instanceId><device>{device}</device><status>attached</status><attachTime>{since}</attachTime><deleteOnTermination>{with}</deleteOnTermination></item>"));
    format!(
        "<item><volumeId>{id}</volumeId><size>8</size><availabilityZone>eu-central-1a</availabilityZone><status>{state}</status><createTime>{created}</createTime><volumeType>gp3</volumeType><iops>3000</iops><throughput>125</throughput><encrypted>{encrypted}</encrypted><attachmentSet>{attachment}</attachmentSet>{}</item>",
        tag_set(tags)
    )
}

fn tag_set(tags: &Tags) -> String {
    let items: String = tags
        .iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect();
    format!("<tagSet>{items}</tagSet>")
}
