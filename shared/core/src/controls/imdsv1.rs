//! `imdsv1`: the metadata service of an instance answers requests without a session
//! token (Security Hub EC2.8).
//!
//! Tokens are required only where 14 days of CloudWatch's figures prove that nothing
//! on the instance asks without one. Deliberately not here: the hop limit, which is
//! never changed; launch templates and images, which are only reported; and how the
//! figures are read (`backstop_aws::cloudwatch`).

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::controls::metadata_defaults::HttpTokens;
use crate::exemption::OPT_OUT_TAG;
use crate::finding::{Finding, Verdict};
use crate::info::{Call, ControlInfo, Guide, OptOutOn, Phrases, Reversal, Tagged};
use crate::managers::AUTO_SCALING_GROUP_TAG;
use crate::plan::{Change, Exposure, ItemId};
use crate::prose::one_line;
use crate::reason::Reason;
use crate::security_group::Tags;
use crate::shell::{ascii_json, aws};
use crate::words::{ControlId, Severity, digest};

/// The one item of an instance.
pub const ITEM: &str = "http-tokens";

/// For how many days nothing may have asked without a token.
pub const DAYS: u16 = 14;

/// Points that a day of 24 hours needs to count as observed. A running instance has
/// one an hour, of 0 where nothing asked without a token (EC2 user guide,
/// "CloudWatch metrics for your instances"); a stopped one has none. Four missing
/// hours leave room for a restart and for points that CloudWatch lost or has not
/// delivered yet.
const HOURS_OF_A_DAY: usize = 20;

/// The metric of requests without a token that were answered: emitted while tokens
/// are optional.
pub const USED: &str = "MetadataNoToken";

/// The metric of requests without a token that were refused: emitted while tokens are
/// required, and only where there was one.
pub const REFUSED: &str = "MetadataNoTokenRejected";

/// The tags that EC2 puts on what was launched from a template: its id and version.
const TEMPLATE_TAGS: (&str, &str) = ("aws:ec2launchtemplate:id", "aws:ec2launchtemplate:version");

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// Whether an instance reaches its metadata service at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpEndpoint {
    /// It does not.
    Disabled,
    /// It does.
    Enabled,
}

/// The options of a metadata service that the control is about. Stored in records, so
/// names never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether a token is required.
    pub http_tokens: HttpTokens,
    /// Whether the service can be reached.
    pub http_endpoint: HttpEndpoint,
}

impl Options {
    /// Whether requests without a token are answered.
    #[must_use]
    pub fn answers_v1(self) -> bool {
        self.http_tokens == HttpTokens::Optional && self.http_endpoint == HttpEndpoint::Enabled
    }

    fn required(self) -> Self {
        Self {
            http_tokens: HttpTokens::Required,
            ..self
        }
    }
}

/// What CloudWatch says of the requests without a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Since when it was looked at.
    pub since: Timestamp,
    /// How many there were.
    pub calls: u64,
    /// The days that have too few figures to prove anything, each of 24 hours and
    /// named by the date (UTC) on which it begins.
    pub missing: Vec<Date>,
}

impl Usage {
    /// Since when figures are needed: [`DAYS`] ahead of the last full hour.
    #[must_use]
    pub fn since(now: Timestamp) -> Timestamp {
        let hour = now.as_second() - now.as_second().rem_euclid(3600);
        Timestamp::from_second(hour - i64::from(DAYS) * 86_400).unwrap_or(Timestamp::MIN)
    }

    /// From the hourly sums of `MetadataNoToken`, in any order. Those of the hour that
    /// has not ended yet count as calls, and for no day.
    #[must_use]
    pub fn of(points: &[(Timestamp, f64)], now: Timestamp) -> Self {
        let since = Self::since(now);
        let begin = |day: u16| since + SignedDuration::from_hours(24 * i64::from(day));
        let missing = (0..DAYS).filter(|day| {
            let (from, to) = (begin(*day), begin(*day + 1));
            let of_day = points.iter().filter(|(at, _)| (from..to).contains(at));
            of_day.count() < HOURS_OF_A_DAY
        });
        let sum: f64 = points.iter().map(|(_, sum)| sum).sum();
        Self {
            since,
            calls: sum.ceil() as u64,
            missing: missing
                .map(|day| Offset::UTC.to_datetime(begin(day)).date())
                .collect(),
        }
    }
}

/// What is read of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// The account that owns it.
    pub owner: String,
    /// Its name, for people.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
    /// `running`, `stopped`, …
    pub state: String,
    /// Its metadata service.
    pub options: Options,
    /// How many hops the answer to a request for a token may take.
    pub hop_limit: Option<i32>,
    /// The AWS service that operates it, if one does.
    pub operator: Option<String>,
    /// When it was last started.
    pub launched_at: Option<Timestamp>,
    /// Whether the account lets no instance answer IMDSv1 (`HttpTokensEnforced`).
    pub enforced: bool,
    /// What asks without a token; none: it was not read ([`needs_usage`](Self::needs_usage)).
    pub usage: Option<Usage>,
    /// Why that could not be read.
    pub unread: Option<String>,
}

impl Instance {
    /// Whether it depends on what asks without a token what is done.
    #[must_use]
    pub fn needs_usage(&self) -> bool {
        self.is_there() && self.options.answers_v1() && self.operator.is_none()
    }

    /// Whether it is there, and not about to go. One that starts or stops counts: what
    /// is left out for as long would lose its place in the baseline.
    fn is_there(&self) -> bool {
        matches!(
            self.state.as_str(),
            "pending" | "running" | "stopping" | "stopped"
        )
    }

    /// Why nothing is changed although it answers IMDSv1, in any mode.
    fn left(&self, usage: Option<&Usage>) -> Option<Reason> {
        if let Some(service) = &self.operator {
            let service = service.clone();
            return Some(Reason::OperatedByService { service });
        }
        let usage = usage?;
        let missing = usage.missing.clone();
        match (usage.calls, missing.is_empty()) {
            (0, true) => None,
            (0, false) => Some(Reason::Unproven {
                days: DAYS,
                missing,
            }),
            (calls, _) => Some(Reason::StillUsed {
                calls,
                days: DAYS,
                missing,
            }),
        }
    }

    /// What is good to know of it ahead of a change, one clause each.
    fn notes(&self) -> Vec<String> {
        let tag = |key: &str| self.tags.get(key).map(|value| one_line(value, 100));
        let mut notes = Vec::new();
        if self.hop_limit == Some(1) {
            notes.push("the hop limit is 1 and stays so: containers behind a bridge network can get no token, and lose the instance's credentials once IMDSv1 is off".to_owned());
        }
        let version =
            tag(TEMPLATE_TAGS.1).map_or(String::new(), |version| format!(" (version {version})"));
        let template = tag(TEMPLATE_TAGS.0).map(|id| format!("the launch template {id}{version}"));
        match (tag(AUTO_SCALING_GROUP_TAG), template) {
            (Some(group), template) => notes.push(format!(
                "it belongs to the Auto Scaling group {group} and was launched from {}: a replacement will be as that says, so change it there as well",
                template.unwrap_or_else(|| "the group's launch configuration or template".to_owned())
            )),
            (None, Some(template)) => notes.push(format!(
                "it was launched from {template}: further launches will be as that says, so change it there as well"
            )),
            (None, None) => {}
        }
        let started = self.launched_at.zip(self.usage.as_ref());
        if let Some((started, _)) = started.filter(|(at, usage)| *at < usage.since) {
            let day = Offset::UTC.to_datetime(started).date();
            notes.push(format!(
                "it was last started on {day}, before the {DAYS} days: what its start-up scripts ask for is not in the figures"
            ));
        }
        if self.enforced {
            notes.push("the account enforces IMDSv2 (HttpTokensEnforced): a change could not be undone while it does".to_owned());
        }
        notes
    }
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct ImdsV1;

impl Control for ImdsV1 {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::ImdsV1,
        function: "require-imdsv2",
        prefix: Some("i-"),
        calls: &[
            Call {
                name: "ModifyInstanceMetadataOptions",
                resource: &[
                    &[
                        "requestParameters",
                        "ModifyInstanceMetadataOptionsRequest",
                        "InstanceId",
                    ],
                    &["requestParameters", "instanceId"],
                ],
            },
            Call {
                name: "RunInstances",
                resource: &[
                    &["responseElements", "instancesSet", "instanceId"],
                    &[
                        "responseElements",
                        "RunInstancesResponse",
                        "instancesSet",
                        "instanceId",
                    ],
                ],
            },
        ],
        hub: &["EC2.8"],
        reads: &[
            "cloudwatch:GetMetricData",
            "ec2:DescribeInstances",
            "ec2:GetInstanceMetadataDefaults",
        ],
        begins: &["ec2:ModifyInstanceMetadataOptions"],
        undoes: &["ec2:CreateTags"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Resource,
        // What still asks without a token fails from then on.
        enforce_by_name_only: true,
        guide: Guide {
            why: "A request that an application can be made to send is enough to read the credentials of the instance's role from IMDSv1. IMDSv2 asks for a token first, which such a request does not have.",
            changes: "Requires IMDSv2 of the instance once 14 days of CloudWatch's figures show that nothing on it uses IMDSv1.",
            never: &[
                "It never changes an instance that still uses IMDSv1, or for which too few figures say that nothing does: it reports what is missing.",
                "It never changes the hop limit, and never turns a metadata service on.",
                "It never changes an instance that an AWS service operates, a launch template, a launch configuration or an image.",
            ],
        },
        phrases: Phrases {
            resource: "instance",
            item: "setting",
            tagged: Some(Tagged {
                any: "the instance",
                resource: "the instance",
            }),
            found: "open to IMDSv1",
            closed: "the instance requires IMDSv2",
            remedy: "require IMDSv2",
            why_exempt: "why it must answer IMDSv1",
            afterwards: &[
                "A request without a token is refused from now on, and counted by the metric MetadataNoTokenRejected: for a day the sweep looks at it, and says so if there was one.",
            ],
        },
    };

    type Settings = Settings;
    type Facts = Instance;
    type State = Options;

    fn subject(instance: &Instance) -> Subject<'_> {
        Subject {
            id: &instance.id,
            arn: &instance.arn,
            name: &instance.name,
            owner: &instance.owner,
            tags: &instance.tags,
            inherited: None,
        }
    }

    fn items(instance: &Instance) -> BTreeMap<ItemId, Options> {
        BTreeMap::from([(ITEM.to_owned(), instance.options)])
    }

    fn judge(
        instance: &Instance,
        _settings: &Settings,
        _former: Option<&Options>,
        spared: &IsSpared<'_>,
    ) -> Verdict<Options> {
        let options = instance.options;
        if !instance.is_there() {
            let state = one_line(&instance.state, 50);
            return Verdict::NotApplicable(format!("the instance is `{state}`"));
        }
        if !options.answers_v1() {
            return Verdict::Compliant;
        }
        let usage = instance.usage.as_ref();
        if instance.needs_usage() && usage.is_none() {
            let unread = instance.unread.as_deref().unwrap_or("it was not read");
            return Verdict::NotApplicable(format!("what uses IMDSv1 is not known: {unread}"));
        }
        let exposed = instance.notes();
        Verdict::Violates(Finding {
            severity: Severity::High,
            severities: BTreeMap::new(),
            exposures: vec![Exposure {
                exposed,
                ..Exposure::of(ITEM, options)
            }],
            changes: match spared(ITEM) {
                true => Vec::new(),
                false => vec![Change::set(ITEM, options, options.required())],
            },
            notes: Vec::new(),
            left: instance.left(usage),
        })
    }

    fn unread(instance: &Instance) -> Vec<String> {
        instance.unread.iter().cloned().collect()
    }

    fn line(_item: &str, options: &Options) -> String {
        match (options.http_endpoint, options.http_tokens) {
            (HttpEndpoint::Disabled, _) => "metadata service off (HttpEndpoint disabled)",
            (_, HttpTokens::Optional) => "IMDSv1 is answered (HttpTokens optional)",
            (_, HttpTokens::Required) => "IMDSv2 alone is answered (HttpTokens required)",
        }
        .to_owned()
    }

    fn name(_item: &str) -> String {
        "the metadata service".to_owned()
    }

    fn exposure_line(exposure: &Exposure<Options>) -> String {
        let notes = exposure.exposed.iter().map(|note| format!("; {note}"));
        Self::line(ITEM, &exposure.state) + &notes.collect::<String>()
    }

    fn details(exposure: &Exposure<Options>) -> Vec<String> {
        let line = Self::line(ITEM, &exposure.state);
        let notes = exposure.exposed.iter().cloned();
        std::iter::once(line).chain(notes).collect()
    }

    /// With its state, for the item stays: the baseline spares it as it was noted.
    fn fingerprint(resource: &str, item: &str, options: &Options) -> String {
        let tokens = match options.http_tokens {
            HttpTokens::Optional => "optional",
            HttpTokens::Required => "required",
        };
        let endpoint = match options.http_endpoint {
            HttpEndpoint::Disabled => "disabled",
            HttpEndpoint::Enabled => "enabled",
        };
        digest([Self::INFO.id.name(), resource, item, tokens, endpoint])
    }

    /// An undo of one that was switched off since is barred
    /// ([`bars_undo`](Self::bars_undo)), and not one of a setting that somebody changed.
    fn unchanged(left: &Options, now: &Options) -> bool {
        left.http_tokens == now.http_tokens
    }

    fn remaining(_exposure: &Exposure<Options>) -> String {
        "it still answers IMDSv1".to_owned()
    }

    /// EC2 takes HttpTokens with HttpEndpoint=enabled only.
    fn bars_undo(instance: &Instance) -> Option<String> {
        let region = instance.arn.split(':').nth(3).unwrap_or_default();
        if instance.options.http_endpoint == HttpEndpoint::Disabled {
            let on = [
                ("--instance-id", instance.id.clone()),
                ("--http-endpoint", "enabled".to_owned()),
            ];
            return Some(format!(
                "its metadata service has been switched off (HttpEndpoint disabled), and EC2 sets HttpTokens only together with switching it on, which an undo never does. If it is to answer again, switch it on (`{}`) and ask again",
                aws("ec2 modify-instance-metadata-options", region, &on)
            ));
        }
        let lift = [("--http-tokens-enforced", "disabled".to_owned())];
        instance.enforced.then(|| {
            format!(
                "the account enforces IMDSv2 in this Region (HttpTokensEnforced), so EC2 would refuse it. Lift that (`{}`; new instances may answer IMDSv1 from then on) and ask again",
                aws("ec2 modify-instance-metadata-defaults", region, &lift)
            )
        })
    }

    fn commands(back: &ByHand<'_, Options>) -> Vec<String> {
        let tag = json!([{ "Key": OPT_OUT_TAG, "Value": back.opt_out }]);
        let opt_out = [
            ("--resources", back.resource.to_owned()),
            ("--tags", ascii_json(&tag)),
        ];
        let set = [
            ("--instance-id", back.resource.to_owned()),
            ("--http-tokens", "optional".to_owned()),
            ("--http-endpoint", "enabled".to_owned()),
        ];
        vec![
            aws("ec2 create-tags", back.region, &opt_out),
            aws("ec2 modify-instance-metadata-options", back.region, &set),
        ]
    }
}
