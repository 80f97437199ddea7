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
//! 10. a source that cannot be judged: found, told, and closed only where the
//!     policy says so
//!
//! Deliberately not here: reading the group, and changing it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::{AddressSet, Family, block_size, read};
use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::exemption::Exemption;
use crate::finding::{Finding, Verdict};
use crate::info::{Call, ControlInfo, Expands, Guide, OptOutOn, Phrases, Reversal, Tagged};
use crate::plan::{Change, Exposure, ItemId, Reach, Step, Unjudged};
use crate::ports::{Coverage, Lane, Permission, Points, WHOLE, lanes};
use crate::security_group::{AWS, DEFAULT_NAME, Entries, IngressRule, SecurityGroup, Source, Tags};
use crate::words::{ControlId, Severity, digest};

pub(super) mod commands;
mod protocol;
mod words;

pub use protocol::Protocol;

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
    #[serde(alias = "authorized-ports")]
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

/// What is done about a rule whose source cannot be judged, because the prefix
/// list that it names is not shown to this account, or holds entries that are no
/// CIDR blocks, or because its own block is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnreadableLists {
    /// Told, and left as it is.
    #[default]
    Notify,
    /// Closed like a rule that admits the whole internet: what may be open to the
    /// world stays. A list that EC2 refuses to show for want of rights is told
    /// only: a mistake in Backstop's own role must close nothing.
    Close,
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
    #[serde(alias = "authorized_ports")]
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
    /// With `authorised-ports`: other protocols, like GRE, ESP and AH, by number or
    /// name. Default: none. What is listed is also kept where a rule for all traffic
    /// is narrowed.
    pub protocols: Vec<Protocol>,
    /// From how many public addresses a port counts as open to the world.
    pub max_public_bits: MaxPublicBits,
    /// What is done about rules whose source cannot be judged.
    pub unreadable_lists: UnreadableLists,
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
            protocols: Vec::new(),
            max_public_bits: MaxPublicBits::default(),
            unreadable_lists: UnreadableLists::default(),
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
        for protocol in &self.protocols {
            if let Some(setting) = protocol.setting() {
                return Err((
                    "protocols",
                    format!("{} has a setting of its own: use `{setting}`", protocol.0),
                ));
            }
        }
        Ok(())
    }

    /// The lanes in play for a family: those of the rules, and of the protocols that
    /// may be open.
    fn lanes<'a>(
        &self,
        family: Family,
        permissions: impl Iterator<Item = &'a Permission>,
    ) -> Vec<Lane> {
        let mut lanes = lanes(family, permissions);
        lanes.extend(self.protocols.iter().map(|protocol| protocol.lane()));
        lanes.sort();
        lanes.dedup();
        lanes
    }

    /// The points of a lane that may be open to the world.
    fn allowed(&self, lane: &Lane) -> Points {
        let mut points = Points::new();
        match (self.allow, lane) {
            (Allow::AuthorisedPorts, _) => points.extend(self.authorised(lane)),
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

    /// The points of a lane that the policy lists as open to the world, in its
    /// order.
    fn authorised(&self, lane: &Lane) -> Vec<RangeInclusive<u16>> {
        let ports = |ports: &[Ports]| ports.iter().map(|ports| ports.0.clone()).collect();
        let icmp = |types: &[IcmpType]| {
            let points = types.iter().map(|IcmpType { kind, code }| {
                let first = u16::from(*kind) * 256;
                match code {
                    Some(code) => first + u16::from(*code)..=first + u16::from(*code),
                    None => first..=first + 255,
                }
            });
            points.collect()
        };
        match lane {
            Lane::Tcp => ports(&self.authorised_ports.tcp),
            Lane::Udp => ports(&self.authorised_ports.udp),
            Lane::Icmp => icmp(&self.icmp),
            Lane::Icmpv6 => icmp(&self.icmpv6),
            Lane::Other(_) if self.protocols.iter().any(|p| p.lane() == *lane) => vec![WHOLE],
            Lane::Other(_) | Lane::Rest => Vec::new(),
        }
    }

    /// Where the policy's list of its protocol names an allowed part: the earlier,
    /// the more it matters that the part is kept.
    fn rank(&self, part: &Permission) -> usize {
        let listed = match (self.allow, part.lane()) {
            (Allow::AuthorisedPorts, Some(lane)) => self.authorised(&lane),
            _ => Vec::new(),
        };
        let points = part.points();
        let named = |range: &RangeInclusive<u16>| {
            range.start() <= points.end() && points.start() <= range.end()
        };
        listed.iter().position(named).unwrap_or(listed.len())
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

/// One rule's public address space in one family.
struct Grant<'a> {
    rule: &'a IngressRule,
    /// The source, normalised: equal sources go together.
    source: String,
    public: AddressSet,
    size: u128,
    coverage: Coverage,
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
        let lanes = settings.lanes(family, spaces.iter().map(|(rule, _)| &rule.permission));
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

/// A rule whose source cannot be judged, as far as the policy does not allow the
/// rule's ports to the world: whoever the source is, those may stay.
struct Unknown {
    cut: Cut,
    why: Unjudged,
    /// Whether the policy may close it.
    closable: bool,
}

/// Every rule whose source cannot be judged, by id.
fn unknowns(group: &SecurityGroup, settings: &Settings) -> BTreeMap<String, Unknown> {
    let in_play = |family| {
        let admits = group.rules.values().filter(move |rule| {
            public_space(group, &rule.source, family).is_some()
                || unjudged(group, &rule.source).is_some()
                    && families(group, &rule.source).contains(&family)
        });
        settings.lanes(family, admits.map(|rule| &rule.permission))
    };
    let mut unknowns = BTreeMap::new();
    for rule in group.rules.values() {
        let Some((why, closable)) = unjudged(group, &rule.source) else {
            continue;
        };
        let families = families(group, &rule.source).into_iter();
        let lanes: BTreeSet<Lane> = families.flat_map(in_play).collect();
        let lanes = Vec::from_iter(lanes);
        let whole = rule.permission.coverage(&lanes);
        let mut allowed = Coverage::default();
        for lane in lanes {
            for points in settings.allowed(&lane) {
                allowed.add(lane.clone(), points);
            }
        }
        let removed = whole.minus(&allowed);
        if !removed.is_empty() {
            let kept = whole.minus(&removed);
            let cut = Cut { removed, kept };
            unknowns.insert(rule.id.clone(), Unknown { cut, why, closable });
        }
    }
    unknowns
}

/// Most entries that are named as no CIDR blocks.
const MOST_ENTRIES: usize = 3;

/// Why it is not known whom a source admits, and whether the policy may close it.
/// `None`: it is known, or a retry is to find out.
fn unjudged(group: &SecurityGroup, source: &Source) -> Option<(Unjudged, bool)> {
    let id = match source {
        Source::Ipv4(block) | Source::Ipv6(block) => {
            let block = block.clone();
            return read(&block)
                .is_none()
                .then_some((Unjudged::Block { block }, true));
        }
        Source::SecurityGroup(_) => return None,
        Source::PrefixList(id) => id.clone(),
    };
    let list = group.prefix_lists.get(&id);
    let owner = list.and_then(|list| list.owner.clone());
    let unreadable = |why: &str| Unjudged::PrefixList {
        id: id.clone(),
        owner: owner.clone(),
        why: why.to_owned(),
    };
    match list.map(|list| &list.entries) {
        Some(Entries::Read(entries)) => {
            // In an order of their own: EC2 promises none.
            let entries: BTreeSet<&String> = entries
                .iter()
                .filter(|entry| read(entry).is_none())
                .collect();
            let entries = entries.into_iter().take(MOST_ENTRIES).cloned();
            let entries = Vec::from_iter(entries);
            (!entries.is_empty()).then_some((Unjudged::Entries { id, owner, entries }, true))
        }
        Some(Entries::NotShown(why)) => Some((unreadable(why), true)),
        Some(Entries::Refused(why)) => Some((unreadable(why), false)),
        Some(Entries::Failed(_)) => None,
        None => Some((unreadable("it was not read"), false)),
    }
}

/// The families that a source may admit: of a list that cannot be read, both.
fn families(group: &SecurityGroup, source: &Source) -> BTreeSet<Family> {
    match source {
        Source::Ipv4(_) => [Family::Ipv4].into(),
        Source::Ipv6(_) => [Family::Ipv6].into(),
        Source::PrefixList(_) | Source::SecurityGroup(_) => {
            let blocks = blocks(group, source);
            let known: BTreeSet<Family> = blocks
                .into_iter()
                .map(|block| AddressSet::public_part(block).0)
                .collect();
            match known.is_empty() {
                true => [Family::Ipv4, Family::Ipv6].into(),
                false => known,
            }
        }
    }
}

/// The public address space that a source admits in a family; `None` where it
/// admits none. What is no CIDR block admits nothing that could be counted
/// ([`unjudged`]).
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
        Source::Ipv4(block) | Source::Ipv6(block) => read(block).into_iter().collect(),
        Source::PrefixList(id) => match group.prefix_lists.get(id).map(|list| &list.entries) {
            Some(Entries::Read(entries)) => entries.iter().filter_map(|e| read(e)).collect(),
            _ => Vec::new(),
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
        Source::Ipv4(block) | Source::Ipv6(block) => {
            read(block).map_or_else(|| block.clone(), |block| block.trunc().to_string())
        }
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

/// What changes of each rule that is open.
///
/// Each rule is treated by itself: what stays of it is written as rules, in the
/// order of the policy, the first of them in its own place: that one is kept even
/// where the group has no room for another. A part that another rule of the same
/// source admits anyway is not written twice (EC2 would refuse the duplicate).
fn changes(
    group: &SecurityGroup,
    settings: &Settings,
    open: &[&IngressRule],
    kept: &BTreeMap<String, Coverage>,
) -> Vec<Change<IngressRule>> {
    // What each source is admitted to by rules that stay as they are.
    let touched: BTreeSet<&str> = open.iter().map(|rule| rule.id.as_str()).collect();
    let every_lane: Vec<Lane> = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .flat_map(|family| {
            settings.lanes(family, group.rules.values().map(|rule| &rule.permission))
        })
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
    for rule in open {
        let source = source_key(&rule.source);
        let (mut written, lost) = kept
            .get(&rule.id)
            .map(Coverage::express)
            .unwrap_or_default();
        written.sort_by_cached_key(|part| (part.lane(), settings.rank(part)));
        let mut missing = Vec::new();
        for permission in written {
            let coverage = permission.coverage(&every_lane);
            if !provided
                .iter()
                .any(|(of, has)| *of == source && coverage.minus(has).is_empty())
            {
                provided.push((source.clone(), coverage));
                missing.push(IngressRule {
                    permission,
                    ..(*rule).clone()
                });
            }
        }
        let mut missing = missing.into_iter();
        changes.push(Change {
            item: rule.id.clone(),
            before: Some((*rule).clone()),
            after: missing.next(),
            add: missing.collect(),
            lost,
        });
    }
    changes
}

/// Whether two permissions admit the same, however they are written.
pub(crate) fn same(a: &Permission, b: &Permission) -> bool {
    a.lane() == b.lane() && a.points() == b.points()
}

/// The control.
#[derive(Clone, Copy, Debug)]
pub struct OpenIngress;

impl Control for OpenIngress {
    const INFO: ControlInfo = ControlInfo {
        id: ControlId::OpenIngress,
        function: "revoke-ingress",
        prefix: Some("sg-"),
        calls: &[
            Call {
                name: "AuthorizeSecurityGroupIngress",
                resource: &[
                    &["requestParameters", "groupId"],
                    &[
                        "requestParameters",
                        "AuthorizeSecurityGroupIngressRequest",
                        "GroupId",
                    ],
                    &["responseElements", "securityGroupRuleSet", "groupId"],
                ],
            },
            Call {
                name: "ModifySecurityGroupRules",
                resource: &[
                    &["requestParameters", "groupId"],
                    &[
                        "requestParameters",
                        "ModifySecurityGroupRulesRequest",
                        "GroupId",
                    ],
                ],
            },
        ],
        hub: &["EC2.18", "EC2.19"],
        reads: &[
            "ec2:DescribeManagedPrefixLists",
            "ec2:DescribeSecurityGroupRules",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeTags",
            "ec2:GetManagedPrefixListEntries",
        ],
        begins: &[
            "ec2:AuthorizeSecurityGroupIngress",
            "ec2:ModifySecurityGroupRules",
            "ec2:RevokeSecurityGroupIngress",
        ],
        undoes: &["ec2:CreateTags"],
        reversal: Reversal::Yes,
        opt_out_on: OptOutOn::Item,
        enforce_by_name_only: false,
        guide: Guide {
            why: "Anyone on the internet can reach what listens on an open port; scanners find it within minutes, and a weak password, an unpatched service or a database without one is enough.",
            changes: "Revokes the ingress rules that exceed the policy, or narrows them to the ports that the policy allows; a part that does not fit into the same rule gets a rule of its own with the same description and tags.",
            never: &[
                "It never touches a rule that the policy allows, egress rules, or prefix lists.",
                "It never deletes a security group.",
                "It never splits a source: a CIDR block or prefix list stays whole or goes whole.",
            ],
        },
        phrases: Phrases {
            resource: "security group",
            item: "rule",
            tagged: Some(Tagged {
                any: "the rule, the security group, or its VPC where this account owns it",
                resource: "the group or its VPC",
            }),
            found: "open",
            closed: "the exposure is closed",
            remedy: "close it",
            why_exempt: "why it must stay open",
            afterwards: &[
                "Connections that were open already may last: closing a port does not end them.",
            ],
        },
    };

    /// A change of a prefix list concerns every group that names it.
    const EXPANDS: Option<Expands> = Some(Expands {
        resource: "prefix list",
        prefix: Some("pl-"),
        calls: &[
            Call {
                name: "ModifyManagedPrefixList",
                resource: &[
                    &[
                        "requestParameters",
                        "ModifyManagedPrefixListRequest",
                        "PrefixListId",
                    ],
                    &["requestParameters", "prefixListId"],
                    &[
                        "responseElements",
                        "ModifyManagedPrefixListResponse",
                        "prefixList",
                        "prefixListId",
                    ],
                    &["responseElements", "prefixList", "prefixListId"],
                ],
            },
            Call {
                name: "RestoreManagedPrefixListVersion",
                resource: &[
                    &[
                        "requestParameters",
                        "RestoreManagedPrefixListVersionRequest",
                        "PrefixListId",
                    ],
                    &["requestParameters", "prefixListId"],
                    &[
                        "responseElements",
                        "RestoreManagedPrefixListVersionResponse",
                        "prefixList",
                        "prefixListId",
                    ],
                    &["responseElements", "prefixList", "prefixListId"],
                ],
            },
        ],
        on_request: false,
    });

    const IN_PLACE: (Step, Step) = (Step::Narrow, Step::Widen);

    type Settings = Settings;
    type Facts = SecurityGroup;
    type State = IngressRule;

    fn subject(group: &SecurityGroup) -> Subject<'_> {
        Subject {
            id: &group.id,
            arn: &group.arn,
            name: &group.name,
            owner: &group.owner,
            tags: &group.tags,
            inherited: Some(&group.vpc_opt_outs),
        }
    }

    fn items(group: &SecurityGroup) -> BTreeMap<ItemId, IngressRule> {
        group.rules.clone()
    }

    fn item_tags(rule: &IngressRule) -> Option<&Tags> {
        Some(&rule.tags)
    }

    /// Rules that are opted out admit what they admit, but do not count against
    /// the others: an exposure that its owner answers for must not take the
    /// neighbours' rules with it.
    fn judge(
        group: &SecurityGroup,
        settings: &Settings,
        _former: Option<&IngressRule>,
        spared: &IsSpared<'_>,
    ) -> Verdict<IngressRule> {
        let mut unknowns = unknowns(group, settings);
        let close = settings.unreadable_lists == UnreadableLists::Close;
        let closes = |id: &str, unknown: &Unknown| close && unknown.closable && !spared(id);
        // What is closed anyway does not count against the others either.
        let closed: BTreeSet<String> = unknowns
            .iter()
            .filter(|(id, unknown)| closes(id, unknown))
            .map(|(id, _)| id.clone())
            .collect();
        let mut cuts = cuts(group, settings, |rule| {
            !spared(&rule.id) && !closed.contains(&rule.id)
        });
        if group.rules.keys().any(|id| spared(id)) {
            let of_all = self::cuts(group, settings, |_| true);
            cuts.extend(of_all.into_iter().filter(|(id, _)| spared(id)));
        }
        // Of a list with entries that are no CIDR blocks the others may be too much
        // by themselves.
        unknowns.retain(|id, _| !cuts.contains_key(id));
        let unknowns = unknowns
            .into_iter()
            .map(|(id, unknown)| (id, unknown.cut, Some(unknown.why)));
        let mut found: Vec<(String, Cut, Option<Unjudged>)> = cuts
            .into_iter()
            .map(|(id, cut)| (id, cut, None))
            .chain(unknowns)
            .collect();
        found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        if found.is_empty() {
            return Verdict::Compliant;
        }
        let mut severities = BTreeMap::new();
        let mut exposures = Vec::new();
        let mut open = Vec::new();
        let mut kept = BTreeMap::new();
        let mut notes = Vec::new();
        for (id, cut, unjudged) in found {
            let Some(rule) = group.rules.get(&id) else {
                continue;
            };
            let exposed = if cut.kept.is_empty() {
                vec![rule.permission.to_string()]
            } else {
                cut.removed.describe()
            };
            let severity = match (&unjudged, is_high_risk(&cut.removed)) {
                (Some(_), _) => Severity::Medium,
                (None, true) => Severity::Critical,
                (None, false) => Severity::High,
            };
            severities.insert(id.clone(), severity);
            let reach = unjudged.is_none().then(|| {
                let (public_addresses, private_part) = admitted(group, &rule.source);
                Reach {
                    public_addresses,
                    private_part,
                }
            });
            notes.extend(
                unjudged
                    .as_ref()
                    .map(|why| format!("{id} was not judged: {why}")),
            );
            if !spared(&id) && (unjudged.is_none() || closed.contains(&id)) {
                open.push(rule);
            }
            exposures.push(Exposure {
                hidden: false,
                item: id.clone(),
                state: rule.clone(),
                exposed,
                allowed: cut.kept.describe(),
                reach,
                unjudged,
                exemption: Exemption::None,
                fingerprint: String::new(),
            });
            kept.insert(id, cut.kept);
        }
        notes.extend(Self::unread(group));
        Verdict::Violates(Finding {
            severity: severities.values().copied().max().unwrap_or(Severity::High),
            severities,
            exposures,
            changes: changes(group, settings, &open, &kept),
            notes,
            left: None,
        })
    }

    fn unread(group: &SecurityGroup) -> Vec<String> {
        let lists = group.prefix_lists.iter();
        lists
            .filter_map(|(id, list)| match &list.entries {
                Entries::Failed(why) => Some(format!(
                    "the prefix list {id} could not be read and was not judged: {why}"
                )),
                _ => None,
            })
            .collect()
    }

    /// The default group of a VPC is to have no rules at all.
    fn next(group: &SecurityGroup) -> Option<ControlId> {
        (group.name == DEFAULT_NAME).then_some(ControlId::DefaultSecurityGroup)
    }

    fn of_others(group: &SecurityGroup, account: &str) -> BTreeMap<String, String> {
        let lists = group.prefix_lists.iter();
        lists
            .filter_map(|(id, list)| Some((id.clone(), list.owner.clone()?)))
            .filter(|(_, owner)| owner != account && owner != AWS)
            .collect()
    }

    fn line(_rule: &str, state: &IngressRule) -> String {
        format!("{} from {}", state.permission, state.source)
    }

    fn exposure_line(exposure: &Exposure<IngressRule>) -> String {
        words::exposure_line(exposure)
    }

    fn headline(exposures: &[Exposure<IngressRule>], most: usize) -> String {
        words::headline(exposures, most)
    }

    fn details(exposure: &Exposure<IngressRule>) -> Vec<String> {
        words::details(exposure)
    }

    fn side_effects(changed: &[Exposure<IngressRule>]) -> Vec<String> {
        words::private_parts(changed)
    }

    fn allowed_by_policy(exposures: &[Exposure<IngressRule>]) -> Vec<String> {
        words::allowed_by_policy(exposures)
    }

    fn commands(back: &ByHand<'_, IngressRule>) -> Vec<String> {
        commands::back(back)
    }

    fn found(exposure: &Exposure<IngressRule>) -> String {
        format!(
            "{} from {}",
            exposure.exposed.join(", "),
            exposure.state.source
        )
    }

    fn fingerprint(group: &str, _rule: &str, state: &IngressRule) -> String {
        digest([
            Self::INFO.id.name(),
            group,
            &state.permission.to_string(),
            &source_key(&state.source),
        ])
    }

    fn alike(a: &IngressRule, b: &IngressRule) -> bool {
        same(&a.permission, &b.permission) && source_key(&a.source) == source_key(&b.source)
    }

    /// Tags admit nobody, and an undo puts its own among them.
    fn unchanged(left: &IngressRule, now: &IngressRule) -> bool {
        Self::alike(left, now) && left.description == now.description
    }

    fn permission(rule: &IngressRule) -> Option<Permission> {
        Some(rule.permission.clone())
    }

    fn part(rule: &IngressRule, permission: &Permission) -> Option<IngressRule> {
        Some(IngressRule {
            permission: permission.clone(),
            ..rule.clone()
        })
    }

    fn remaining(exposure: &Exposure<IngressRule>) -> String {
        format!("{} still admits {}", exposure.item, Self::found(exposure))
    }
}
