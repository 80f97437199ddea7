//! `open-ingress`: a security group that admits too much of the internet.
//!
//! Security Hub EC2.18 and EC2.19 ask for the text `0.0.0.0/0` or `::/0`. Here
//! exposure is computed: for every point of every protocol, how much public
//! address space do all rules and prefix lists of the group admit together?
//! Scenarios, each with a test below or in `tests/it/open_ingress_properties.rs`:
//!
//! 1. world-open rules (`/0`, with host bits too) are found; IPv6 apart
//! 2. halves, sixteenths and prefix lists that add up to the world are found
//! 3. private, special and small public sources stay
//! 4. allowed ports of a range, of all ports and of all traffic stay
//! 5. ICMP is narrowed to the allowed types
//! 6. an opted-out rule stays and makes nobody else's rule go
//! 7. a group of another account, an opted-out group: found, not changed
//! 8. gone, empty, compliant groups: nothing to do
//! 9. a tripped control, the kill switch, what was there before `enforce`:
//!    found, not changed
//!
//! Deliberately not here: reading the group, and changing it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::Date;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::{AddressSet, Family, block_size};
use crate::entry::{self, Entry};
use crate::exemption::{self, Exemption, OPT_OUT_TAG};
use crate::guards::{self, FOR_THIS_GROUP, Guards};
use crate::plan::{Disposition, Ending, Exposure, Outcome, Plan, RuleChange, Step, Verification};
use crate::ports::{Coverage, Lane, Permission, Points, WHOLE, lanes};
use crate::rules::{Existing, OptOutRules, Rules};
use crate::security_group::{Facts, IngressRule, PrefixList, SecurityGroup, Source};
use crate::trigger::Trigger;
use crate::words::{Control, Mode, Severity, digest};

/// Ports that Security Hub EC2.19 calls high-risk.
pub const HIGH_RISK_PORTS: &[u16] = &[
    20, 21, 22, 23, 25, 110, 135, 143, 445, 1433, 1434, 3000, 3306, 3389, 4333, 5000, 5432, 5500,
    5601, 8080, 8088, 8888, 9200, 9300,
];

/// What may be open to the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Allow {
    /// Only `authorised_ports`, `icmp` and `icmpv6` (Security Hub EC2.18).
    #[default]
    AuthorisedPorts,
    /// Everything but `high_risk_ports` on TCP and UDP (Security Hub EC2.19).
    HighRiskPorts,
}

/// A port, or a range of ports written as `"8000-8100"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub RangeInclusive<u16>);

/// TCP and UDP ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortsByProtocol {
    /// TCP ports and ranges.
    #[serde(default)]
    pub tcp: Vec<Ports>,
    /// UDP ports and ranges.
    #[serde(default)]
    pub udp: Vec<Ports>,
}

/// An ICMP type, with one code or with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IcmpType {
    /// The type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The code; without it, every code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// How many public addresses may be admitted to a point that is not open to
/// the world by policy, as powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaxPublicBits {
    /// 2^n IPv4 addresses; 24 is as many as a /8 holds.
    #[schemars(range(min = 0, max = 32))]
    pub ipv4: u8,
    /// 2^n IPv6 addresses; 112 is as many as a /16 holds.
    #[schemars(range(min = 0, max = 128))]
    pub ipv6: u8,
}

impl Default for MaxPublicBits {
    fn default() -> Self {
        Self {
            ipv4: 24,
            ipv6: 112,
        }
    }
}

impl MaxPublicBits {
    fn limit(self, family: Family) -> u128 {
        let bits = match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        };
        1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX)
    }
}

/// The control's settings in the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What may be open to the world.
    pub allow: Allow,
    /// With `authorised-ports`: the ports. Default: tcp 80 and 443.
    pub authorised_ports: PortsByProtocol,
    /// With `high-risk-ports`: the ports that may not. Default: those of
    /// Security Hub EC2.19.
    pub high_risk_ports: Vec<Ports>,
    /// With `authorised-ports`: ICMP over IPv4. Default: type 3 code 4 (path
    /// MTU discovery) and type 8 (echo).
    pub icmp: Vec<IcmpType>,
    /// With `authorised-ports`: ICMPv6. Default: type 2 (packet too big) and
    /// type 128 (echo).
    pub icmpv6: Vec<IcmpType>,
    /// From how many public addresses a port counts as open to the world.
    pub max_public_bits: MaxPublicBits,
}

impl Default for Settings {
    fn default() -> Self {
        let one = |port| Ports(port..=port);
        let icmp = |kind, code| IcmpType { kind, code };
        Self {
            allow: Allow::default(),
            authorised_ports: PortsByProtocol {
                tcp: vec![one(80), one(443)],
                udp: Vec::new(),
            },
            high_risk_ports: HIGH_RISK_PORTS.iter().copied().map(one).collect(),
            icmp: vec![icmp(3, Some(4)), icmp(8, None)],
            icmpv6: vec![icmp(2, None), icmp(128, None)],
            max_public_bits: MaxPublicBits::default(),
        }
    }
}

impl Settings {
    /// Checks what the types cannot: `(field, problem)`.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let MaxPublicBits { ipv4, ipv6 } = self.max_public_bits;
        if ipv4 > 32 {
            return Err((
                "max_public_bits.ipv4",
                format!("{ipv4} is too many bits; allowed is 0 to 32"),
            ));
        }
        if ipv6 > 128 {
            return Err((
                "max_public_bits.ipv6",
                format!("{ipv6} is too many bits; allowed is 0 to 128"),
            ));
        }
        Ok(())
    }

    /// The points of a lane that may be open to the world.
    fn allowed(&self, lane: &Lane) -> Points {
        let mut points = Points::new();
        let icmp = |types: &[IcmpType], points: &mut Points| {
            for IcmpType { kind, code } in types {
                let first = u16::from(*kind) * 256;
                match code {
                    Some(code) => {
                        points.insert(first + u16::from(*code)..=first + u16::from(*code))
                    }
                    None => points.insert(first..=first + 255),
                }
            }
        };
        match (self.allow, lane) {
            (Allow::AuthorisedPorts, Lane::Tcp) => {
                points.extend(self.authorised_ports.tcp.iter().map(|p| p.0.clone()));
            }
            (Allow::AuthorisedPorts, Lane::Udp) => {
                points.extend(self.authorised_ports.udp.iter().map(|p| p.0.clone()));
            }
            (Allow::AuthorisedPorts, Lane::Icmp) => icmp(&self.icmp, &mut points),
            (Allow::AuthorisedPorts, Lane::Icmpv6) => icmp(&self.icmpv6, &mut points),
            (Allow::AuthorisedPorts, Lane::Other(_) | Lane::Rest) => {}
            (Allow::HighRiskPorts, Lane::Tcp | Lane::Udp) => {
                points.insert(WHOLE);
                for ports in &self.high_risk_ports {
                    points.remove(ports.0.clone());
                }
            }
            (Allow::HighRiskPorts, _) => points.insert(WHOLE),
        }
        points
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Ports;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port (0 to 65535) or a range of ports like \"8000-8100\"")
            }

            fn visit_u64<E: serde::de::Error>(self, port: u64) -> Result<Ports, E> {
                u16::try_from(port)
                    .map(|port| Ports(port..=port))
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(port), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ports, E> {
                text.split_once('-')
                    .and_then(|(from, to)| {
                        Some((from.parse::<u16>().ok()?, to.parse::<u16>().ok()?))
                    })
                    .filter(|(from, to)| from <= to)
                    .map(|(from, to)| Ports(from..=to))
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.start() == self.0.end() {
            serializer.serialize_u16(*self.0.start())
        } else {
            serializer.collect_str(&format_args!("{}-{}", self.0.start(), self.0.end()))
        }
    }
}

impl JsonSchema for Ports {
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A port, or a range of ports written as \"8000-8100\".",
            "oneOf": [
                { "type": "integer", "minimum": 0, "maximum": 65535 },
                { "type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$" },
            ],
        })
    }
}

/// What the control says about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to judge, and why.
    NotApplicable(String),
    /// Nothing exceeds the policy.
    Compliant,
    /// Something does.
    Violates(Finding),
}

/// What exceeds the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rules that admit too much, by rule id.
    pub exposures: Vec<Exposure>,
    /// What of each rule stays, for the plan.
    kept: BTreeMap<String, Coverage>,
    /// What could not be judged, in words.
    notes: Vec<String>,
}

/// The opt-outs that concern a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemptions {
    /// Of the group or its VPC.
    pub group: Exemption,
    /// Of single rules, by id; only those that say something.
    pub rules: BTreeMap<String, Exemption>,
}

impl Exemptions {
    /// Spares the rules that were there before the control was switched to
    /// `enforce`, and that no tag speaks of.
    fn spare(&mut self, group: &SecurityGroup, baseline: &BTreeSet<String>) {
        if baseline.is_empty() {
            return;
        }
        for rule in group.rules.values() {
            if !self.holds(&rule.id) && baseline.contains(&fingerprint(&group.id, rule)) {
                self.rules.insert(rule.id.clone(), Exemption::Existing);
            }
        }
    }

    fn holds(&self, rule: &str) -> bool {
        self.rules.get(rule).is_some_and(Exemption::holds)
    }
}

/// Under what circumstances it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The mode that holds where the policy names none.
    pub mode: Mode,
    /// The account that Backstop runs in.
    pub account: &'a str,
    /// The time; opt-outs are held to its day (UTC).
    pub now: Timestamp,
    /// What keeps the control from acting.
    pub guards: &'a Guards,
}

/// Everything that is decided about a group in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the control says.
    pub verdict: Verdict,
    /// What is opted out.
    pub exemptions: Exemptions,
    /// What is to be done; `None` where there is nothing to do.
    pub plan: Option<Plan>,
}

/// Decides about a group: exempt, judge, plan. The one way in for events, the
/// sweep, previews and replays.
///
/// The policy says what is allowed, the circumstances under which it is decided.
#[must_use]
pub fn decide(
    facts: &Facts,
    rules: &Rules<'_, Settings>,
    circumstances: &Circumstances<'_>,
) -> Decision {
    let today = jiff::tz::Offset::UTC.to_datetime(circumstances.now).date();
    let exemptions = match facts {
        Facts::Gone => Exemptions::default(),
        Facts::Group(group) => {
            let mut exemptions = exempt(group, rules.opt_out, today);
            if rules.control.existing == Existing::Notify {
                exemptions.spare(group, &circumstances.guards.baseline);
            }
            exemptions
        }
    };
    let verdict = judge(facts, &rules.control.settings, &exemptions);
    let plan = match (&verdict, facts) {
        (Verdict::Violates(finding), Facts::Group(group)) => {
            Some(plan(group, finding, &exemptions, rules, circumstances))
        }
        _ => None,
    };
    Decision {
        verdict,
        exemptions,
        plan,
    }
}

/// Reads the opt-outs of the group, its VPC and its rules.
#[must_use]
pub fn exempt(group: &SecurityGroup, opt_out: &OptOutRules, today: Date) -> Exemptions {
    let read = |value: Option<&str>| {
        exemption::read(value, Control::OpenIngress, today, opt_out.require_end)
    };
    let tag = |tags: &BTreeMap<String, String>| read(tags.get(OPT_OUT_TAG).map(String::as_str));
    Exemptions {
        group: exemption::strongest([tag(&group.tags), read(group.vpc_opt_out.as_deref())]),
        rules: group
            .rules
            .values()
            .map(|rule| (rule.id.clone(), tag(&rule.tags)))
            .filter(|(_, exemption)| *exemption != Exemption::None)
            .collect(),
    }
}

/// One rule's public address space in one family.
struct Grant<'a> {
    rule: &'a IngressRule,
    /// The source, normalised: equal sources go together.
    source: String,
    public: AddressSet,
    size: u128,
    coverage: Coverage,
}

/// Judges a group. Rules that are opted out admit what they admit, but do not
/// count against the others: a hole that its owner answers for must not take
/// the neighbours' rules with it.
#[must_use]
pub fn judge(facts: &Facts, settings: &Settings, exemptions: &Exemptions) -> Verdict {
    let group = match facts {
        Facts::Gone => return Verdict::NotApplicable("the group is gone".to_owned()),
        Facts::Group(group) => group,
    };
    let mut cuts = cuts(group, settings, |rule| !exemptions.holds(&rule.id));
    if group.rules.keys().any(|id| exemptions.holds(id)) {
        let of_all = self::cuts(group, settings, |_| true);
        cuts.extend(of_all.into_iter().filter(|(id, _)| exemptions.holds(id)));
    }
    if cuts.is_empty() {
        return Verdict::Compliant;
    }
    let mut finding = Finding {
        severity: Severity::High,
        exposures: Vec::new(),
        kept: BTreeMap::new(),
        notes: Vec::new(),
    };
    for (id, cut) in cuts {
        let Some(rule) = group.rules.get(&id) else {
            continue;
        };
        let exposed = if cut.kept.is_empty() {
            vec![rule.permission.to_string()]
        } else {
            cut.removed.describe()
        };
        if is_high_risk(&cut.removed) {
            finding.severity = Severity::Critical;
        }
        let (public_addresses, private_part) = admitted(group, &rule.source);
        finding.exposures.push(Exposure {
            rule: rule.clone(),
            exposed,
            allowed: cut.kept.describe(),
            public_addresses,
            private_part,
            exemption: exemptions.rules.get(&id).cloned().unwrap_or_default(),
            fingerprint: fingerprint(&group.id, rule),
        });
        finding.kept.insert(id, cut.kept);
    }
    for (id, list) in &group.prefix_lists {
        if let PrefixList::Unreadable(why) = list {
            finding.notes.push(format!(
                "the prefix list {id} could not be read and was not judged: {why}"
            ));
        }
    }
    Verdict::Violates(finding)
}

/// Digest of control, group, protocol, ports and source. It stays the same when
/// a rule is put back under a new id.
#[must_use]
pub fn fingerprint(group: &str, rule: &IngressRule) -> String {
    digest([
        Control::OpenIngress.name(),
        group,
        &rule.permission.to_string(),
        &source_key(&rule.source),
    ])
}

/// What of a rule goes and what stays.
struct Cut {
    removed: Coverage,
    kept: Coverage,
}

/// For every rule that `counts` and must lose something: what goes and what
/// stays.
fn cuts(
    group: &SecurityGroup,
    settings: &Settings,
    counts: impl Fn(&IngressRule) -> bool,
) -> BTreeMap<String, Cut> {
    let mut removed: BTreeMap<String, (Coverage, Coverage)> = BTreeMap::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let spaces: Vec<(&IngressRule, AddressSet)> = group
            .rules
            .values()
            .filter(|rule| counts(rule))
            .filter_map(|rule| Some((rule, public_space(group, &rule.source, family)?)))
            .collect();
        // Protocols that only the other family's rules name are not in play.
        let lanes = lanes(family, spaces.iter().map(|(rule, _)| &rule.permission));
        let grants: Vec<Grant<'_>> = spaces
            .into_iter()
            .map(|(rule, public)| Grant {
                rule,
                source: source_key(&rule.source),
                size: public.size(),
                public,
                coverage: rule.permission.coverage(&lanes),
            })
            .collect();
        let limit = settings.max_public_bits.limit(family);
        for lane in &lanes {
            cut_lane(lane, &grants, settings, limit, |grant, points| {
                removed
                    .entry(grant.rule.id.clone())
                    .or_insert_with(|| (Coverage::default(), grant.coverage.clone()))
                    .0
                    .add(lane.clone(), points);
            });
        }
    }
    removed
        .into_iter()
        .map(|(id, (removed, whole))| {
            (
                id,
                Cut {
                    kept: whole.minus(&removed),
                    removed,
                },
            )
        })
        .collect()
}

/// Walks a lane's elementary intervals: between two neighbouring bounds of
/// rules or policy nothing changes, so one point decides for all of them.
fn cut_lane<'g>(
    lane: &Lane,
    grants: &'g [Grant<'g>],
    settings: &Settings,
    limit: u128,
    mut remove: impl FnMut(&'g Grant<'g>, RangeInclusive<u16>),
) {
    let allowed = settings.allowed(lane);
    let covering: Vec<(usize, &Points)> = grants
        .iter()
        .enumerate()
        .filter_map(|(i, grant)| Some((i, grant.coverage.points(lane)?)))
        .collect();
    let mut starts: BTreeSet<u16> = BTreeSet::new();
    for range in covering
        .iter()
        .flat_map(|(_, points)| points.iter())
        .chain(allowed.iter())
    {
        starts.insert(*range.start());
        starts.extend(range.end().checked_add(1));
    }
    // The same rules meet in many intervals: decide once for each set of them.
    let mut decided: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    let mut ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    for start in &starts {
        let Some(end) = ends.next() else { break };
        if allowed.contains(start) {
            continue;
        }
        let here: Vec<usize> = covering
            .iter()
            .filter(|(_, points)| points.contains(start))
            .map(|(i, _)| *i)
            .collect();
        if here.is_empty() {
            continue;
        }
        let going = decided
            .entry(here)
            .or_insert_with_key(|here| excess(grants, here, limit));
        for grant in going.iter().filter_map(|i| grants.get(*i)) {
            remove(grant, *start..=end);
        }
    }
}

/// While the sources together admit more than the limit, the one that admits
/// most goes, with every rule that names it; ties go by rule id.
fn excess(grants: &[Grant<'_>], here: &[usize], limit: u128) -> Vec<usize> {
    let mut left: Vec<(usize, &Grant<'_>)> = here
        .iter()
        .filter_map(|i| Some((*i, grants.get(*i)?)))
        .collect();
    let mut going = Vec::new();
    loop {
        // No union is larger than its sum: most groups end here.
        let sum = left
            .iter()
            .fold(0_u128, |sum, (_, grant)| sum.saturating_add(grant.size));
        if sum <= limit {
            return going;
        }
        let mut union = AddressSet::default();
        for (_, grant) in &left {
            union.extend(&grant.public);
        }
        if union.size() <= limit {
            return going;
        }
        let Some(most) = left
            .iter()
            .max_by(|(_, a), (_, b)| a.size.cmp(&b.size).then_with(|| b.rule.id.cmp(&a.rule.id)))
            .map(|(_, grant)| grant.source.clone())
        else {
            return going;
        };
        left.retain(|(i, grant)| {
            let goes = grant.source == most;
            if goes {
                going.push(*i);
            }
            !goes
        });
    }
}

/// The public address space that a source admits in a family; `None` where it
/// admits none. A block that is no CIDR admits nothing that could be counted.
fn public_space(group: &SecurityGroup, source: &Source, family: Family) -> Option<AddressSet> {
    let mut space = AddressSet::default();
    for block in blocks(group, source) {
        let (of, part) = AddressSet::public_part(block);
        if of == family {
            space.extend(&part);
        }
    }
    (!space.is_empty()).then_some(space)
}

/// The CIDR blocks of a source.
fn blocks(group: &SecurityGroup, source: &Source) -> Vec<IpNet> {
    match source {
        Source::Ipv4(block) | Source::Ipv6(block) => block.parse().into_iter().collect(),
        Source::PrefixList(id) => match group.prefix_lists.get(id) {
            Some(PrefixList::Entries(entries)) => entries
                .iter()
                .filter_map(|entry| entry.parse().ok())
                .collect(),
            Some(PrefixList::Unreadable(_)) | None => Vec::new(),
        },
        Source::SecurityGroup(_) => Vec::new(),
    }
}

/// How many public addresses a source admits, and whether others besides.
fn admitted(group: &SecurityGroup, source: &Source) -> (u128, bool) {
    let (mut public, mut private) = (0_u128, false);
    for family in [Family::Ipv4, Family::Ipv6] {
        public = public
            .saturating_add(public_space(group, source, family).map_or(0, |space| space.size()));
    }
    for block in blocks(group, source) {
        private |= AddressSet::public_part(block).1.size() < block_size(block);
    }
    (public, private)
}

/// A source in one spelling: `198.51.100.9/0` and `0.0.0.0/0` are the same.
pub(crate) fn source_key(source: &Source) -> String {
    match source {
        Source::Ipv4(block) | Source::Ipv6(block) => block
            .parse::<IpNet>()
            .map_or_else(|_| block.clone(), |block| block.trunc().to_string()),
        Source::PrefixList(id) | Source::SecurityGroup(id) => id.clone(),
    }
}

fn is_high_risk(removed: &Coverage) -> bool {
    [Lane::Tcp, Lane::Udp].iter().any(|lane| {
        removed
            .points(lane)
            .is_some_and(|points| HIGH_RISK_PORTS.iter().any(|port| points.contains(port)))
    })
}

/// Plans the change that removes the exposure and nothing else.
///
/// Each rule is treated by itself: what stays of it is written as rules, the
/// first of them in its own place. A part that another rule of the same source
/// admits anyway is not written twice (EC2 would refuse the duplicate).
#[must_use]
pub fn plan(
    group: &SecurityGroup,
    finding: &Finding,
    exemptions: &Exemptions,
    rules: &Rules<'_, Settings>,
    circumstances: &Circumstances<'_>,
) -> Plan {
    let mut reasons = finding.notes.clone();
    let open: Vec<&Exposure> = finding
        .exposures
        .iter()
        .filter(|e| !exemptions.holds(&e.rule.id))
        .collect();
    let malformed_rule = finding
        .exposures
        .iter()
        .any(|e| matches!(e.exemption, Exemption::Malformed { .. }));
    let existing = finding
        .exposures
        .iter()
        .any(|e| e.exemption == Exemption::Existing);
    let mode = rules.control.mode.unwrap_or(circumstances.mode);
    let disposition = if group.owner != circumstances.account {
        reasons.push(format!("the group belongs to the account {}", group.owner));
        Disposition::NotOwned
    } else if matches!(exemptions.group, Exemption::Malformed { .. })
        || (open.is_empty() && malformed_rule && !exemptions.group.holds())
    {
        reasons.push(format!("the tag {OPT_OUT_TAG} cannot be read"));
        Disposition::Held
    } else if exemptions.group.holds() || (open.is_empty() && !existing) {
        reasons.push(format!("the tag {OPT_OUT_TAG} opts it out"));
        Disposition::Exempt
    } else if open.is_empty() {
        reasons.push(
            "it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`"
                .to_owned(),
        );
        Disposition::Existing
    } else if mode != Mode::Enforce {
        reasons.push("the mode is `notify`".to_owned());
        Disposition::NotifyOnly
    } else if rules.kill_switch {
        reasons.push("the kill switch is on".to_owned());
        Disposition::Stopped
    } else if let Some(why) = tripped(&open, rules, circumstances) {
        reasons.push(why);
        Disposition::Tripped
    } else {
        Disposition::Enforce
    };

    // What each source is admitted to by rules that stay as they are.
    let touched: BTreeSet<&str> = open.iter().map(|e| e.rule.id.as_str()).collect();
    let every_lane: Vec<Lane> = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .flat_map(|family| lanes(family, group.rules.values().map(|rule| &rule.permission)))
        .collect();
    let mut provided: Vec<(String, Coverage)> = group
        .rules
        .values()
        .filter(|rule| !touched.contains(rule.id.as_str()))
        .map(|rule| {
            (
                source_key(&rule.source),
                rule.permission.coverage(&every_lane),
            )
        })
        .collect();

    let mut changes = Vec::new();
    for exposure in open {
        let rule = &exposure.rule;
        let source = source_key(&rule.source);
        let (written, lost) = finding
            .kept
            .get(&rule.id)
            .map(Coverage::express)
            .unwrap_or_default();
        let mut missing = Vec::new();
        for permission in written {
            let coverage = permission.coverage(&every_lane);
            if !provided
                .iter()
                .any(|(of, has)| *of == source && coverage.minus(has).is_empty())
            {
                provided.push((source.clone(), coverage));
                missing.push(permission);
            }
        }
        let mut missing = missing.into_iter();
        let narrow_to = missing.next();
        changes.push(RuleChange {
            rule: rule.clone(),
            narrow_to,
            authorise: missing.collect(),
            lost,
        });
    }
    // A stable sort: revokes first, each kind by rule id.
    changes.sort_by_key(|change| change.narrow_to.is_some());
    Plan {
        disposition,
        changes,
        reasons,
    }
}

/// Why the control does not act on this group until a person re-arms it.
fn tripped(
    open: &[&Exposure],
    rules: &Rules<'_, Settings>,
    circumstances: &Circumstances<'_>,
) -> Option<String> {
    let Circumstances { guards, now, .. } = circumstances;
    if let Some(trip) = &guards.control_tripped {
        return Some(format!("the control has tripped: {}", trip.why));
    }
    if let Some(trip) = &guards.resource_tripped {
        return Some(format!("the control has {FOR_THIS_GROUP}: {}", trip.why));
    }
    let before = open
        .iter()
        .map(|exposure| guards.fights.times(&exposure.fingerprint, *now))
        .max()
        .unwrap_or(0);
    (before.saturating_add(1) >= rules.fights.trip_after).then(|| {
        format!(
            "somebody or something puts it back again and again: it was put right {before} times in 24 hours, so the control has {FOR_THIS_GROUP}"
        )
    })
}

/// What an entry holds beside the decision.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// A new ULID.
    pub id: &'a str,
    /// What led to the look.
    pub trigger: &'a Trigger,
    /// Key of the tag whose value is the owning team.
    pub owner_tag: &'a str,
    /// Version of the policy parameter that was decided by.
    pub policy_version: i64,
    /// When the run began.
    pub now: Timestamp,
}

/// The ledger's entry for a group that violates the control; `None` where
/// there is nothing to record.
#[must_use]
pub fn entry(facts: &Facts, decision: &Decision, about: About<'_>) -> Option<Entry> {
    let (Facts::Group(group), Verdict::Violates(finding), Some(plan)) =
        (facts, &decision.verdict, &decision.plan)
    else {
        return None;
    };
    Some(Entry {
        version: entry::VERSION,
        id: about.id.to_owned(),
        control: Control::OpenIngress,
        severity: finding.severity,
        resource: group.arn.clone(),
        resource_name: group.name.clone(),
        account: about.trigger.account.clone(),
        region: about.trigger.region.clone(),
        team: group.tags.get(about.owner_tag).cloned(),
        status: Entry::unchanged_status(&plan.disposition),
        exposures: finding.exposures.clone(),
        exemption: decision.exemptions.group.clone(),
        plan: plan.clone(),
        before: if plan.changes_something() {
            plan.before()
        } else {
            BTreeMap::new()
        },
        outcomes: Vec::new(),
        verification: None,
        after: BTreeMap::new(),
        actor: about.trigger.actor.clone(),
        policy_version: about.policy_version,
        attempts: 1,
        started_at: about.now,
        finished_at: None,
        fight: None,
        managed_by: guards::managed_by(&group.tags, &about.trigger.actor),
    })
}

/// Holds the group as it is now against what an entry planned.
///
/// `found` are the rules that the group had when the entry was planned.
#[must_use]
pub fn verify(
    entry: &Entry,
    found: &BTreeMap<String, IngressRule>,
    facts: &Facts,
    decision: &Decision,
) -> Verification {
    let mut verification = Verification::default();
    if let Verdict::Violates(finding) = &decision.verdict {
        for exposure in finding
            .exposures
            .iter()
            .filter(|e| !decision.exemptions.holds(&e.rule.id))
        {
            verification.remaining.push(format!(
                "{} still admits {} from {}",
                exposure.rule.id,
                exposure.exposed.join(", "),
                exposure.rule.source
            ));
        }
    }
    let none = BTreeMap::new();
    let now = match facts {
        Facts::Gone => &none,
        Facts::Group(group) => &group.rules,
    };
    let failed: BTreeSet<&str> = entry
        .last_outcomes()
        .into_iter()
        .filter(|o| o.failed())
        .map(|o| o.rule.as_str())
        .collect();
    for change in &entry.plan.changes {
        let id = change.rule.id.as_str();
        match (now.get(id), &change.narrow_to) {
            (None, Some(_)) if !was_revoked(entry, id) => {
                verification
                    .by_others
                    .push(format!("{id} was revoked by somebody else"));
            }
            (None, _) => {}
            (Some(_), _) if failed.contains(id) => {}
            (Some(live), Some(to)) if same(&live.permission, to) => {}
            (Some(live), _) if *live == change.rule => {
                verification
                    .not_as_planned
                    .push(format!("{id} is as it was before"));
            }
            (Some(live), _) => verification.by_others.push(format!(
                "{id} was changed to {} from {}",
                live.permission, live.source
            )),
        }
    }
    let ours: BTreeSet<&str> = entry
        .outcomes
        .iter()
        .filter_map(|o| o.created.as_deref())
        .collect();
    for (id, rule) in now {
        if !found.contains_key(id) && !ours.contains(id.as_str()) {
            verification.by_others.push(format!(
                "{id} ({} from {}) was added",
                rule.permission, rule.source
            ));
        }
    }
    for id in found
        .keys()
        .filter(|id| !now.contains_key(*id) && !entry.before.contains_key(*id))
    {
        verification.by_others.push(format!("{id} was removed"));
    }
    verification
}

/// Whether an entry's steps (or somebody before them) revoked the rule.
fn was_revoked(entry: &Entry, rule: &str) -> bool {
    entry
        .outcomes
        .iter()
        .any(|outcome| outcome.rule == rule && outcome.step == Step::Revoke)
}

/// Whether two permissions admit the same, however they are written.
pub(crate) fn same(a: &Permission, b: &Permission) -> bool {
    a.lane() == b.lane() && a.points() == b.points()
}

/// Brings an entry of an earlier attempt up to date with the group as it is
/// now: a planned change that is no longer needed, because the rule is gone or
/// changed already, counts as already done, and so does a step on it that had
/// failed. Where nothing exceeds the policy any more, what was not done is
/// dropped.
pub fn settle(entry: &mut Entry, facts: &Facts, decision: &Decision) {
    let none = BTreeMap::new();
    let now = match facts {
        Facts::Gone => &none,
        Facts::Group(group) => &group.rules,
    };
    let harmless = !matches!(decision.verdict, Verdict::Violates(_));
    let last = entry.last_outcomes();
    let mut settled = Vec::new();
    entry.plan.changes.iter().for_each(|change| {
        let live = now.get(&change.rule.id);
        let ending = match live {
            Some(live) if *live == change.rule && !harmless => return,
            Some(live) if *live == change.rule => Ending::Skipped {
                why: "nothing exceeds the policy any more".to_owned(),
            },
            _ => Ending::AlreadyDone,
        };
        let of_rule: Vec<&Outcome> = last
            .iter()
            .copied()
            .filter(|o| o.rule == change.rule.id)
            .collect();
        if of_rule.is_empty() {
            let narrowed = change.narrow_to.clone().filter(|_| live.is_some());
            settled.push(Outcome {
                rule: change.rule.id.clone(),
                step: if narrowed.is_some() {
                    Step::Narrow
                } else {
                    Step::Revoke
                },
                permission: narrowed,
                created: None,
                ending,
                round: 0,
            });
        } else {
            settled.extend(
                of_rule
                    .into_iter()
                    .filter(|outcome| outcome.failed())
                    .map(|outcome| Outcome {
                        ending: ending.clone(),
                        ..outcome.clone()
                    }),
            );
        }
    });
    entry.add_round(settled);
    if harmless {
        entry
            .plan
            .changes
            .retain(|change| now.get(&change.rule.id) != Some(&change.rule));
    }
}

/// Whether a plan made after our changes holds something that is not the
/// entry's: a rule that others added or changed meanwhile, to be treated in
/// the same round. (A rule that is as it was before is a stale read or a
/// failed step of ours.)
#[must_use]
pub fn has_news(entry: &Entry, plan: Option<&Plan>) -> bool {
    plan.is_some_and(|plan| {
        plan.changes_something()
            && plan
                .changes
                .iter()
                .any(|c| entry.before.get(&c.rule.id) != Some(&c.rule))
    })
}
