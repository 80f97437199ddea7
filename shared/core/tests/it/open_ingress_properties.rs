//! `open-ingress` on random groups, held against an oracle of its own.
//!
//! The oracle knows nothing of the core's arithmetic: it reads CIDR blocks with
//! `std::net`, has its own list of what is not the internet and of what the
//! policy allows and of what cannot be judged, and asks of single points — a protocol with a port or an ICMP
//! type and code, an address — who is admitted before and after the plan. The
//! plan is carried out here, on the raw rules, as EC2 would.
#![allow(clippy::type_complexity)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::decide::{self, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::finding::Verdict;
use backstop_core::guards::Guards;
use backstop_core::plan::{self, Disposition};
use backstop_core::policy::{Governed, Policy};
use backstop_core::ports::Permission;
use backstop_core::security_group::{Entries, IngressRule, PrefixList, SecurityGroup, Source};
use backstop_core::words::Mode;
use proptest::prelude::*;
use proptest::sample::select;

type Decision = decide::Decision<IngressRule>;
type Plan = plan::Plan<IngressRule>;

// --- a group, raw -----------------------------------------------------------

#[derive(Clone, Debug)]
struct World {
    rules: Vec<Raw>,
    lists: Vec<List>,
    policy: Allowed,
}

#[derive(Clone, Debug)]
struct List {
    shown: Shown,
    entries: Vec<String>,
}

/// Whether EC2 shows a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Yes,
    No,
    Refused,
}

#[derive(Clone)]
struct Raw {
    id: String,
    protocol: String,
    from: Option<i32>,
    to: Option<i32>,
    from_whom: Whom,
    tag: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Whom {
    Block(String),
    List(usize),
    Group,
}

/// What the policy allows, as the test knows it.
#[derive(Clone)]
struct Allowed {
    all_but_high_risk: bool,
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    high_risk: Vec<(u16, u16)>,
    icmp: Vec<(u8, Option<u8>)>,
    icmpv6: Vec<(u8, Option<u8>)>,
    protocols: Vec<u8>,
    bits: (u8, u8),
    /// Whether what cannot be judged is closed.
    close: bool,
    /// Whether the document names these values or leaves them to the defaults.
    stated: bool,
}

/// A point of one family: a protocol's number and a port, or type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    v6: bool,
    protocol: u8,
    /// A port; for ICMP type * 1000 + code; else 0.
    at: u32,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Decides on 2026-11-24, with nothing that keeps the control from acting.
fn decide(group: &SecurityGroup, policy: &Policy, mode: Mode) -> Decision {
    let circumstances = Circumstances {
        mode,
        account: ACCOUNT,
        now: "2026-11-24T10:00:00Z".parse().unwrap(),
        guards: &Guards::default(),
    };
    decide::decide::<OpenIngress>(Some(group), &OpenIngress::rules(policy), &circumstances)
}
const ACCOUNT: &str = "111122223333";

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            protocol,
            from,
            to,
            from_whom,
            tag,
        } = self;
        let bound = |bound: &Option<i32>| bound.map_or("none".to_owned(), |b| b.to_string());
        let (from, to) = (bound(from), bound(to));
        write!(f, "{id} {protocol} {from}..{to} {from_whom:?} {tag:?}")
    }
}

impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.document())
    }
}

// --- the oracle -------------------------------------------------------------

/// A block's family, first and last address; none where nobody can say what is
/// meant. Host bits are cut off, blanks at the ends do not matter, `0/0` is the
/// whole of IPv4.
fn block(text: &str) -> Option<(bool, u128, u128)> {
    let text = match text.trim() {
        "0/0" => "0.0.0.0/0",
        text => text,
    };
    let (address, prefix) = text.split_once('/')?;
    let prefix: u32 = prefix.parse().ok()?;
    let (v6, width, bits): (bool, u32, u128) = match address.parse::<Ipv4Addr>() {
        Ok(a) => (false, 32, u128::from(u32::from(a))),
        Err(_) => (true, 128, u128::from(address.parse::<Ipv6Addr>().ok()?)),
    };
    let host = (0..width.checked_sub(prefix)?).fold(0_u128, |mask, _| mask << 1 | 1);
    Some((v6, bits & !host, bits | host))
}

const NOT_THE_INTERNET: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/3",
    "4000::/2",
    "8000::/1",
    "2001:2::/48",
    "2001:db8::/32",
    "3fff::/20",
];

/// How many public addresses some blocks admit together, by looking at every
/// stretch between two neighbouring bounds.
fn public_addresses(v6: bool, blocks: &[(bool, u128, u128)]) -> u128 {
    let special = NOT_THE_INTERNET.iter().map(|text| block(text).unwrap());
    let special: Vec<_> = special.collect();
    let mut cuts: Vec<u128> = blocks
        .iter()
        .chain(&special)
        .filter(|b| b.0 == v6)
        .flat_map(|b| [Some(b.1), b.2.checked_add(1)])
        .flatten()
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let within =
        |of: &[(bool, u128, u128)], a| of.iter().any(|b| b.0 == v6 && (b.1..=b.2).contains(&a));
    // What follows the last bound is either past every block or special.
    cuts.windows(2)
        .filter(|pair| within(blocks, pair[0]) && !within(&special, pair[0]))
        .map(|pair| pair[1] - pair[0])
        .sum()
}

impl Raw {
    fn number(&self) -> Option<u8> {
        match self.protocol.as_str() {
            "tcp" => Some(TCP),
            "udp" => Some(UDP),
            "icmp" => Some(ICMP),
            "icmpv6" => Some(ICMPV6),
            "-1" => None,
            number => Some(number.parse().unwrap()),
        }
    }

    fn covers(&self, point: Point) -> bool {
        let Some(number) = self.number() else {
            return true;
        };
        if number != point.protocol {
            return false;
        }
        let any = |bound: Option<i32>| bound.is_none_or(|bound| bound == -1);
        let is =
            |bound: Option<i32>, value: u32| bound.is_some_and(|b| u32::try_from(b) == Ok(value));
        match number {
            TCP | UDP => {
                let at = i32::try_from(point.at).unwrap();
                any(self.from)
                    || any(self.to)
                    || self.from.is_some_and(|from| from <= at)
                        && self.to.is_some_and(|to| at <= to)
            }
            ICMP | ICMPV6 => {
                any(self.from)
                    || is(self.from, point.at / 1000)
                        && (any(self.to) || is(self.to, point.at % 1000))
            }
            _ => true,
        }
    }

    /// Whether the opt-out tag keeps the rule as it is.
    fn is_held(&self) -> bool {
        matches!(self.tag, Some(ALL | UNREADABLE))
    }
}

impl World {
    /// Whether it is known whom a rule admits; if not, whether the policy may close
    /// it: it may not where only the right to read is missing.
    fn unknown(&self, rule: &Raw) -> Option<bool> {
        let junk = |text: &String| block(text).is_none();
        match &rule.from_whom {
            Whom::Group => None,
            Whom::Block(text) => junk(text).then_some(true),
            Whom::List(i) => match self.lists[*i].shown {
                Shown::Yes => self.lists[*i].entries.iter().any(junk).then_some(true),
                Shown::No => Some(true),
                Shown::Refused => Some(false),
            },
        }
    }

    /// Whether the policy closes a rule because it is not known whom it admits.
    fn closes(&self, rule: &Raw) -> bool {
        self.policy.close && self.unknown(rule) == Some(true) && !rule.is_held()
    }
}

const ALL: &str = "all until=2027-01-31";
const UNREADABLE: &str = "yes please";
const ENDED: &str = "all until=2026-11-23";

impl Allowed {
    fn admits_the_world(&self, point: Point) -> bool {
        let port = |ranges: &[(u16, u16)]| {
            ranges
                .iter()
                .any(|(from, to)| (u32::from(*from)..=u32::from(*to)).contains(&point.at))
        };
        let kind = |types: &[(u8, Option<u8>)]| {
            types.iter().any(|(kind, code)| {
                u32::from(*kind) == point.at / 1000
                    && code.is_none_or(|code| u32::from(code) == point.at % 1000)
            })
        };
        match point.protocol {
            TCP | UDP if self.all_but_high_risk => !port(&self.high_risk),
            _ if self.all_but_high_risk => true,
            TCP => port(&self.tcp),
            UDP => port(&self.udp),
            ICMP => kind(&self.icmp),
            ICMPV6 => kind(&self.icmpv6),
            other => self.protocols.contains(&other),
        }
    }

    fn limit(&self, v6: bool) -> u128 {
        let bits = if v6 { self.bits.1 } else { self.bits.0 };
        2_u128.checked_pow(bits.into()).unwrap_or(u128::MAX)
    }

    fn document(&self) -> String {
        let ports = |ranges: &[(u16, u16)]| {
            let each: Vec<_> = ranges
                .iter()
                .map(|(a, b)| format!(r#""{a}-{b}""#))
                .collect();
            format!("[{}]", each.join(","))
        };
        let types = |types: &[(u8, Option<u8>)]| {
            let each: Vec<_> = types
                .iter()
                .map(|(kind, code)| match code {
                    Some(code) => format!(r#"{{"type":{kind},"code":{code}}}"#),
                    None => format!(r#"{{"type":{kind}}}"#),
                })
                .collect();
            format!("[{}]", each.join(","))
        };
        let mut fields = vec![format!(
            r#""allow":"{}""#,
            if self.all_but_high_risk {
                "high-risk-ports"
            } else {
                "authorised-ports"
            }
        )];
        if self.close {
            fields.push(r#""unreadable_lists":"close""#.to_owned());
        }
        if !self.protocols.is_empty() {
            fields.push(format!(r#""protocols":{:?}"#, self.protocols));
        }
        if self.stated {
            fields.push(format!(
                r#""authorised_ports":{{"tcp":{},"udp":{}}},"high_risk_ports":{},"icmp":{},"icmpv6":{},"max_public_bits":{{"ipv4":{},"ipv6":{}}}"#,
                ports(&self.tcp),
                ports(&self.udp),
                ports(&self.high_risk),
                types(&self.icmp),
                types(&self.icmpv6),
                self.bits.0,
                self.bits.1
            ));
        }
        format!(
            r#"{{"version":1,"controls":{{"open-ingress":{{"mode":"enforce","settings":{{{}}}}}}}}}"#,
            fields.join(",")
        )
    }
}

/// A group's sources, numbered: two spellings of one block are one source.
struct Sources {
    of_rule: Vec<usize>,
    /// Whether a source may admit somebody over IPv4, and over IPv6.
    families: Vec<(bool, bool)>,
    blocks: Vec<Vec<(bool, u128, u128)>>,
    sizes: HashMap<(bool, Vec<usize>), u128>,
}

impl Sources {
    fn of(world: &World) -> Self {
        let mut known: Vec<(String, (bool, bool), Vec<(bool, u128, u128)>)> = Vec::new();
        // Of a block by how it is written, of a list by what is in it, if anything.
        let of_list = |blocks: &[(bool, u128, u128)]| match blocks {
            [] => (true, true),
            some => (some.iter().any(|b| !b.0), some.iter().any(|b| b.0)),
        };
        let of_rule = world
            .rules
            .iter()
            .map(|rule| {
                let source = match &rule.from_whom {
                    Whom::Block(text) => match block(text) {
                        Some(block) => (String::new(), (!block.0, block.0), vec![block]),
                        None => {
                            let v6 = text.contains(':');
                            (text.clone(), (!v6, v6), Vec::new())
                        }
                    },
                    Whom::List(i) => {
                        let List { shown, entries } = &world.lists[*i];
                        let shown = entries.iter().filter(|_| *shown == Shown::Yes);
                        let blocks: Vec<_> = shown.filter_map(|text| block(text)).collect();
                        (format!("pl-{i}"), of_list(&blocks), blocks)
                    }
                    Whom::Group => ("a group".to_owned(), (true, true), Vec::new()),
                };
                known.iter().position(|k| *k == source).unwrap_or_else(|| {
                    known.push(source);
                    known.len() - 1
                })
            })
            .collect();
        Self {
            of_rule,
            families: known.iter().map(|(_, families, _)| *families).collect(),
            blocks: known.into_iter().map(|(_, _, blocks)| blocks).collect(),
            sizes: HashMap::new(),
        }
    }

    fn size<'a>(&mut self, v6: bool, sources: impl IntoIterator<Item = &'a usize>) -> u128 {
        let mut key: Vec<usize> = sources.into_iter().copied().collect();
        key.sort_unstable();
        let blocks = &self.blocks;
        *self.sizes.entry((v6, key)).or_insert_with_key(|(_, key)| {
            let all: Vec<_> = key
                .iter()
                .flat_map(|i| blocks[*i].iter().copied())
                .collect();
            public_addresses(v6, &all)
        })
    }

    /// Whether a source has to do with a family. Groups are of both.
    fn concerns(&self, source: usize, v6: bool) -> bool {
        let (over_v4, over_v6) = self.families[source];
        if v6 { over_v6 } else { over_v4 }
    }

    fn admits(&self, source: usize, v6: bool, address: u128) -> bool {
        self.blocks[source]
            .iter()
            .any(|b| b.0 == v6 && (b.1..=b.2).contains(&address))
    }
}

/// Which sources have to go at a point: the largest first, ties by the first
/// rule id, until the rest is within the limit.
fn must_go(
    sources: &mut Sources,
    v6: bool,
    here: &BTreeMap<usize, &str>,
    limit: u128,
) -> BTreeSet<usize> {
    let mut ranked: Vec<(u128, &str, usize)> = here
        .iter()
        .map(|(s, id)| (sources.size(v6, [s]), *id, *s))
        .collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let mut going = BTreeSet::new();
    for at in 0..ranked.len() {
        let rest: Vec<usize> = ranked[at..].iter().map(|r| r.2).collect();
        if sources.size(v6, &rest) <= limit {
            break;
        }
        going.insert(ranked[at].2);
    }
    going
}

/// Every point worth a look: beside each bound of rules and policy.
fn points(world: &World) -> Vec<Point> {
    let mut ports: BTreeSet<u32> = [0, 22, 80, 443, 12_345, 65_535].into();
    let mut types: BTreeSet<u32> = [0, 3, 8, 128, 200].into();
    let mut codes: BTreeSet<u32> = [0, 4, 200].into();
    let mut port = |at: i64| {
        ports.extend(
            (at - 1..=at + 1)
                .filter_map(|p| u16::try_from(p).ok())
                .map(u32::from),
        )
    };
    let allowed = &world.policy;
    let ranges: &[&[(u16, u16)]] = if allowed.all_but_high_risk {
        &[&allowed.high_risk]
    } else {
        &[&allowed.tcp, &allowed.udp]
    };
    for (from, to) in ranges.iter().copied().flatten() {
        port(i64::from(*from));
        port(i64::from(*to));
    }
    for (kind, code) in allowed.icmp.iter().chain(&allowed.icmpv6) {
        types.insert((*kind).into());
        codes.extend(code.map(u32::from));
    }
    for rule in &world.rules {
        if matches!(rule.number(), Some(ICMP | ICMPV6)) {
            types.extend(rule.from.and_then(|p| u32::try_from(p).ok()));
            codes.extend(rule.to.and_then(|p| u32::try_from(p).ok()));
        } else {
            rule.from
                .into_iter()
                .chain(rule.to)
                .for_each(|p| port(p.into()));
        }
    }
    let kinds: Vec<u32> = types
        .iter()
        .flat_map(|kind| codes.iter().map(move |code| kind * 1000 + code))
        .collect();
    let mut points = Vec::new();
    for v6 in [false, true] {
        for protocol in [TCP, UDP] {
            points.extend(ports.iter().map(|at| Point {
                v6,
                protocol,
                at: *at,
            }));
        }
        // ICMP of the other family means nothing, unless a rule names it.
        let (own, foreign) = if v6 { (ICMPV6, ICMP) } else { (ICMP, ICMPV6) };
        let mut icmp = vec![own];
        if names(world, v6, foreign) {
            icmp.push(foreign);
        }
        for protocol in icmp {
            points.extend(kinds.iter().map(|at| Point {
                v6,
                protocol,
                at: *at,
            }));
        }
        points.extend([47, 50, 99].map(|protocol| Point {
            v6,
            protocol,
            at: 0,
        }));
    }
    points
}

/// Whether a rule that counts and admits somebody from the internet over this
/// family names the protocol.
fn names(world: &World, v6: bool, protocol: u8) -> bool {
    let mut sources = Sources::of(world);
    (0..world.rules.len()).any(|i| {
        let rule = &world.rules[i];
        let source = sources.of_rule[i];
        let counts = !rule.is_held() && !world.closes(rule);
        rule.number() == Some(protocol) && counts && sources.size(v6, &[source]) > 0
    })
}

// --- the plan, carried out --------------------------------------------------

fn facts(world: &World) -> SecurityGroup {
    SecurityGroup {
        id: "sg-1".into(),
        name: "web".into(),
        owner: ACCOUNT.into(),
        arn: "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-1".into(),
        vpc: None,
        tags: BTreeMap::new(),
        vpc_opt_outs: BTreeMap::new(),
        rules: world
            .rules
            .iter()
            .map(|raw| (raw.id.clone(), rule(raw)))
            .collect(),
        prefix_lists: world
            .lists
            .iter()
            .enumerate()
            .map(|(i, list)| {
                let why = "said EC2".to_owned();
                let entries = match list.shown {
                    Shown::Yes => Entries::Read(list.entries.clone()),
                    Shown::No => Entries::NotShown(why),
                    Shown::Refused => Entries::Refused(why),
                };
                (format!("pl-{i}"), PrefixList::of(entries))
            })
            .collect(),
    }
}

fn rule(raw: &Raw) -> IngressRule {
    IngressRule {
        id: raw.id.clone(),
        permission: Permission {
            protocol: raw.protocol.clone(),
            from_port: raw.from,
            to_port: raw.to,
        },
        source: match &raw.from_whom {
            Whom::Block(text) if text.contains(':') => Source::Ipv6(text.clone()),
            Whom::Block(text) => Source::Ipv4(text.clone()),
            Whom::List(i) => Source::PrefixList(format!("pl-{i}")),
            Whom::Group => Source::SecurityGroup("sg-2".into()),
        },
        description: Some(format!("about {}", raw.id)),
        tags: raw
            .tag
            .map(|tag| (OPT_OUT_TAG.to_owned(), tag.to_owned()))
            .into_iter()
            .collect(),
    }
}

fn decided(world: &World) -> Decision {
    let policy = Policy::parse(&world.policy.document()).unwrap();
    decide(&facts(world), &policy, Mode::Notify)
}

/// Carries out a plan as EC2 would.
fn carried_out(world: &World, plan: Option<&Plan>) -> World {
    let mut after = world.clone();
    for change in plan.map(|plan| plan.changes.as_slice()).unwrap_or_default() {
        let at = after
            .rules
            .iter()
            .position(|raw| raw.id == change.item)
            .unwrap();
        let becoming = |n: usize, to: &Permission| Raw {
            id: if n == 0 {
                change.item.clone()
            } else {
                format!("{}+{n}", change.item)
            },
            protocol: to.protocol.clone(),
            from: to.from_port,
            to: to.to_port,
            ..world
                .rules
                .iter()
                .find(|raw| raw.id == change.item)
                .unwrap()
                .clone()
        };
        let more: Vec<Raw> = (1..)
            .zip(&change.add)
            .map(|(n, to)| becoming(n, &to.permission))
            .collect();
        match &change.after {
            Some(to) => after.rules[at] = becoming(0, &to.permission),
            None => {
                after.rules.remove(at);
            }
        }
        after.rules.extend(more);
    }
    after
}

// --- random groups ----------------------------------------------------------

fn v4_block() -> impl Strategy<Value = String> {
    let text = |(address, prefix): (u32, u8)| format!("{}/{prefix}", Ipv4Addr::from(address));
    prop_oneof![
        4 => select(vec![
            "0.0.0.0/0", "198.51.100.9/0", "0.0.0.0/1", "128.0.0.0/1", "200.1.2.3/1", "0.0.0.0/2",
            "8.0.0.0/7", "52.0.0.0/8", "52.9.9.9/8", "53.0.0.0/8", "54.0.0.0/9", "54.128.0.0/9",
            "10.0.0.0/7", "10.0.0.0/8", "100.64.0.0/10", "100.0.0.0/8", "127.0.0.0/8",
            "169.254.0.0/16", "172.16.0.0/12", "172.0.0.0/8", "192.168.0.0/16", "192.0.0.0/8",
            "192.0.0.0/15", "198.0.0.0/8", "198.18.0.0/14", "203.0.0.0/8", "203.0.113.0/24",
            "224.0.0.0/3", "192.0.0.0/2", "8.8.8.8/32", "9.9.9.9/32",
        ]).prop_map(str::to_owned),
        1 => (0..16_u32).prop_map(|i| format!("{}.0.0.0/4", i * 16)),
        2 => (any::<u32>(), 0..=12_u8).prop_map(text),
        1 => (any::<u32>(), 0..=32_u8).prop_map(text),
    ]
}

fn v6_block() -> impl Strategy<Value = String> {
    let text = |(address, prefix): (u128, u8)| format!("{}/{prefix}", Ipv6Addr::from(address));
    let public = |(address, prefix): (u128, u8)| (address >> 3 | 1 << 125, prefix);
    prop_oneof![
        4 => select(vec![
            "::/0", "2001:db8::1/0", "::/1", "8000::/1", "2000::/3", "2000::/4", "3000::/4",
            "2a00::/16", "2a00:0:1::/16", "2600::/16", "2001::/16", "2001:db8::/31", "2001:db8::/32",
            "2001:2::/47", "3fff::/16", "3fff::/20", "fc00::/7", "fe80::/10", "2600::1/128",
            "2a00:1450::/32",
        ]).prop_map(str::to_owned),
        2 => (any::<u128>(), 0..=20_u8).prop_map(public).prop_map(text),
        1 => (any::<u128>(), 0..=128_u8).prop_map(text),
    ]
}

/// Blocks as EC2 does not write them: some can be read all the same.
fn odd_block() -> impl Strategy<Value = String> {
    select(vec![
        "0/0",
        "0.0.0.0/0 ",
        " 52.0.0.0/8",
        "\t::/0",
        "::0/0",
        "10/8",
        "0.0.0.0",
        "0.0.0.0/33",
        "everybody",
        "::/129",
        "fe80::%1/10",
        "",
    ])
    .prop_map(str::to_owned)
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        8 => select(vec![
            0_u16, 1, 20, 21, 22, 23, 24, 25, 79, 80, 81, 442, 443, 444, 1433, 3389, 8080, 65_534,
            65_535,
        ]),
        1 => any::<u16>(),
    ]
}

fn permission() -> impl Strategy<Value = (String, Option<i32>, Option<i32>)> {
    let any = || select(vec![(None, None), (Some(-1), Some(-1))]);
    let range = (port(), port()).prop_map(|(a, b)| (Some(a.min(b).into()), Some(a.max(b).into())));
    let ports = prop_oneof![8 => range, 1 => any(), 1 => Just((Some(0), Some(65_535)))];
    let types = (
        select(vec![-1, 0, 2, 3, 8, 13, 128, 255]),
        select(vec![-1, -1, 0, 4, 255]),
    )
        .prop_map(|(kind, code)| (Some(kind), Some(if kind == -1 { -1 } else { code })));
    let with = |(protocol, (from, to)): (&str, (Option<i32>, Option<i32>))| {
        (protocol.to_owned(), from, to)
    };
    prop_oneof![
        6 => (select(vec!["tcp", "tcp", "udp", "6", "17"]), ports).prop_map(with),
        3 => (select(vec!["icmp", "icmpv6", "1", "58"]), prop_oneof![3 => types, 1 => any()]).prop_map(with),
        2 => (Just("-1"), any()).prop_map(with),
        1 => (select(vec!["47", "50"]), any()).prop_map(with),
    ]
}

fn raw(lists: usize) -> impl Strategy<Value = Raw> {
    let whom = prop_oneof![
        1 => odd_block().prop_map(Whom::Block),
        8 => v4_block().prop_map(Whom::Block),
        5 => v6_block().prop_map(Whom::Block),
        2 => (0..lists).prop_map(Whom::List),
        1 => Just(Whom::Group),
    ];
    let tag = prop_oneof![
        9 => Just(None),
        1 => select(vec![ALL, UNREADABLE, ENDED]).prop_map(Some),
    ];
    (permission(), whom, tag).prop_map(|((protocol, from, to), from_whom, tag)| Raw {
        id: String::new(),
        protocol,
        from,
        to,
        from_whom,
        tag,
    })
}

fn policy() -> impl Strategy<Value = Allowed> {
    let defaults = |all_but_high_risk| Allowed {
        all_but_high_risk,
        tcp: vec![(80, 80), (443, 443)],
        udp: vec![],
        high_risk: [
            20, 21, 22, 23, 25, 110, 135, 143, 445, 1433, 1434, 3000, 3306, 3389, 4333, 5000, 5432,
            5500, 5601, 8080, 8088, 8888, 9200, 9300,
        ]
        .map(|port| (port, port))
        .to_vec(),
        icmp: vec![(3, Some(4)), (8, None)],
        icmpv6: vec![(2, None), (128, None)],
        protocols: vec![],
        bits: (24, 112),
        close: false,
        stated: false,
    };
    let ranges = || {
        let range = (port(), port()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        prop::collection::vec(range, 0..3)
    };
    let types = || {
        let one = (
            select(vec![0_u8, 2, 3, 4, 8, 128, 255]),
            select(vec![None, None, Some(0_u8), Some(4), Some(255)]),
        );
        prop::collection::vec(one, 0..3)
    };
    let policy = prop_oneof![
        3 => any::<bool>().prop_map(defaults),
        2 => (any::<bool>(), ranges(), ranges(), ranges(), types(), types(), 0..=32_u8, 96..=128_u8)
            .prop_map(|(all_but_high_risk, tcp, udp, high_risk, icmp, icmpv6, v4, v6)| Allowed {
                all_but_high_risk, tcp, udp, high_risk, icmp, icmpv6, protocols: vec![], bits: (v4, v6), close: false,
                stated: true,
            }),
    ];
    let protocols = select(vec![vec![], vec![], vec![47], vec![50, 99]]);
    (policy, any::<bool>(), protocols).prop_map(|(policy, close, protocols)| Allowed {
        close,
        protocols,
        ..policy
    })
}

fn world() -> impl Strategy<Value = World> {
    // A list is of one family.
    let odd = |blocks: [&'static str; 4]| prop_oneof![4 => Just(None), 1 => select(blocks.to_vec()).prop_map(Some)];
    let blocks = || {
        let v4 = odd(["0/0", "0.0.0.0/0 ", "10/8", "everybody"]);
        let v6 = odd(["::0/0", "\t::/0", "::/129", "everybody"]);
        prop_oneof![
            (prop::collection::vec(v4_block(), 0..4), v4),
            (prop::collection::vec(v6_block(), 0..4), v6)
        ]
    };
    let shown =
        || prop_oneof![8 => Just(Shown::Yes), 2 => Just(Shown::No), 1 => Just(Shown::Refused)];
    let list = || {
        (blocks(), shown()).prop_map(|((mut entries, odd), shown)| {
            entries.extend(odd.map(str::to_owned));
            List { shown, entries }
        })
    };
    let rules = prop_oneof![
        3 => prop::collection::vec(raw(3), 0..6),
        1 => prop::collection::vec(raw(3), 6..=12),
    ];
    (rules, prop::collection::vec(list(), 3), policy()).prop_map(|(mut rules, lists, policy)| {
        for (i, rule) in rules.iter_mut().enumerate() {
            rule.id = format!("sgr-{i:02}");
        }
        World {
            rules,
            lists,
            policy,
        }
    })
}

// --- the properties ---------------------------------------------------------

/// Whether the plan says that a part of this source was lost which no rules
/// can say, and the point is of that part.
fn is_named_lost(
    world: &World,
    sources: &Sources,
    plan: &Plan,
    source: usize,
    point: Point,
) -> bool {
    let words = match point.protocol {
        TCP => "the other ports of tcp",
        UDP => "the other ports of udp",
        ICMP => "the other types of icmp",
        ICMPV6 => "the other types of icmpv6",
        protocol if world.policy.protocols.contains(&protocol) => return false,
        protocol if names(world, point.v6, protocol) => return false,
        _ => "every other protocol",
    };
    plan.changes.iter().any(|change| {
        let at = world
            .rules
            .iter()
            .position(|raw| raw.id == change.item)
            .unwrap();
        sources.of_rule[at] == source && change.lost.iter().any(|lost| lost == words)
    })
}

fn exactly_the_exposure_goes(world: &World) -> Result<(), TestCaseError> {
    let decision = decided(world);
    let nothing = Plan {
        disposition: Disposition::Enforce,
        changes: vec![],
        reasons: vec![],
        because: None,
    };
    let plan = decision.plan.as_ref().unwrap_or(&nothing);
    prop_assert_eq!(
        decision.plan.is_none(),
        decision.verdict == Verdict::Compliant
    );
    let after = carried_out(world, Some(plan));
    let mut sources = Sources::of(world);
    let sources_after: Vec<usize> = after
        .rules
        .iter()
        .map(|raw| {
            let id = raw.id.split('+').next().unwrap();
            sources.of_rule[world.rules.iter().position(|old| old.id == id).unwrap()]
        })
        .collect();
    let mut exceeded = false;
    let mut unjudged: BTreeSet<&str> = BTreeSet::new();
    let mut looks = HashSet::new();

    for point in points(world) {
        let v6 = point.v6;
        let limit = world.policy.limit(v6);
        // Who is admitted here: by anything, and by rules that are not held.
        let mut before: BTreeSet<usize> = BTreeSet::new();
        let mut counted: BTreeMap<usize, &str> = BTreeMap::new();
        // Whom nobody knows is closed where the policy says so, and counts no more.
        let allowed = world.policy.admits_the_world(point);
        let mut staying: BTreeSet<usize> = BTreeSet::new();
        for (raw, source) in world.rules.iter().zip(&sources.of_rule) {
            if raw.covers(point) && sources.concerns(*source, v6) {
                before.insert(*source);
                let closes = world.closes(raw);
                if allowed || !closes {
                    staying.insert(*source);
                }
                exceeded |= !allowed && closes;
                if !raw.is_held() && !closes {
                    let id = counted.entry(*source).or_insert(&raw.id);
                    *id = (*id).min(&raw.id);
                }
                if !allowed && world.unknown(raw).is_some() {
                    unjudged.insert(raw.id.as_str());
                }
                let of_it = |new: &&Raw| new.id.split('+').next() == Some(&raw.id);
                let open = after
                    .rules
                    .iter()
                    .filter(of_it)
                    .any(|new| new.covers(point));
                prop_assert!(
                    allowed || !closes || !open,
                    "{point:?}: {raw:?} is left: {plan:?}"
                );
            }
        }
        let (mut admitted, mut counted_after) = (BTreeSet::new(), BTreeSet::new());
        for (raw, source) in after.rules.iter().zip(&sources_after) {
            if raw.covers(point) && sources.concerns(*source, v6) {
                admitted.insert(*source);
                if !raw.is_held() {
                    counted_after.insert(*source);
                }
            }
        }
        // Points that look the same in everything are held to it once.
        let seen = (
            before.clone(),
            staying.clone(),
            counted.clone(),
            admitted.clone(),
            counted_after.clone(),
        );
        if !looks.insert((v6, point.protocol, allowed, seen)) {
            continue;
        }
        let going = if allowed {
            BTreeSet::new()
        } else {
            let union = sources.size(v6, &counted_after);
            prop_assert!(
                union <= limit,
                "{point:?} still admits {union}, limit {limit}: {plan:?}"
            );
            must_go(&mut sources, v6, &counted, limit)
        };
        exceeded |= !going.is_empty();
        // The exposure, and nothing but it.
        for source in &going {
            prop_assert!(
                !counted_after.contains(source),
                "{point:?}: {source} is left: {plan:?}"
            );
        }
        // Without the last that went there would still be too much. Of equal ones the
        // one with the lowest rule id goes first.
        let order = |s: &&usize| (sources.sizes[&(v6, vec![**s])], Reverse(counted[*s]));
        if let Some(last) = going.iter().min_by_key(order) {
            let kept = counted.keys().filter(|s| !going.contains(s));
            prop_assert!(sources.size(v6, kept.chain([last])) > limit);
        }
        prop_assert!(
            admitted.is_subset(&before),
            "{point:?}: newly open: {plan:?}"
        );
        let may_stay = |s: &usize| !counted.contains_key(s) || !going.contains(s);
        for source in staying.iter().filter(|s| may_stay(s)) {
            prop_assert!(
                admitted.contains(source) || is_named_lost(world, &sources, plan, *source, point),
                "{point:?}: lost {source}: {plan:?}"
            );
        }
        // The same seen from single addresses: first and last of every block.
        let addresses = sources.blocks.iter().flatten().filter(|b| b.0 == v6);
        for address in addresses.flat_map(|b| [b.1, b.2]) {
            let by = |set: &BTreeSet<usize>| set.iter().any(|s| sources.admits(*s, v6, address));
            let must_stay = staying.iter().any(|s| {
                sources.admits(*s, v6, address)
                    && may_stay(s)
                    && !is_named_lost(world, &sources, plan, *s, point)
            });
            prop_assert!(
                !must_stay || by(&admitted),
                "{point:?}: {address:x} is out: {plan:?}"
            );
            prop_assert!(
                by(&before) || !by(&admitted),
                "{point:?}: {address:x} is in: {plan:?}"
            );
        }
    }

    // ICMP of the other family means nothing, unless such a rule is for it.
    for raw in &world.rules {
        let number = raw
            .number()
            .filter(|number| [ICMP, ICMPV6].contains(number));
        let Some((protocol, _)) = number.zip(world.unknown(raw)) else {
            continue;
        };
        let code = raw.to.and_then(|code| u32::try_from(code).ok());
        let codes: Vec<u32> = [0, 4, 200].into_iter().chain(code).collect();
        let kinds = (0..256).flat_map(|kind| codes.iter().map(move |code| kind * 1000 + code));
        let point = |at| Point {
            v6: false,
            protocol,
            at,
        };
        let open = |point: &Point| raw.covers(*point) && !world.policy.admits_the_world(*point);
        if kinds.map(point).any(|point| open(&point)) {
            unjudged.insert(&raw.id);
            exceeded |= world.closes(raw);
        }
    }

    // No plan without a reason that a point can show.
    let held = |id: &str| world.rules.iter().any(|raw| raw.id == id && raw.is_held());
    prop_assert_eq!(!plan.changes.is_empty(), exceeded, "{:?}", plan);
    let enforced = plan.disposition == Disposition::Enforce;
    prop_assert_eq!(
        enforced,
        !plan.changes.is_empty() || decision.plan.is_none()
    );

    // What cannot be judged is found, held or not; what is open by what can be read
    // of it is found as that.
    let found = decision.finding().map_or(&[][..], |f| &f.exposures);
    for exposure in found {
        let id = exposure.item.as_str();
        prop_assert!(
            exposure.unjudged.is_none() || unjudged.contains(id),
            "{exposure:?}"
        );
        prop_assert_eq!(exposure.unjudged.is_none(), exposure.reach.is_some());
    }
    for id in &unjudged {
        prop_assert!(
            found.iter().any(|e| e.item == *id),
            "{id} is not told: {found:?}"
        );
    }

    // What the plan may touch, and what it says about it.
    let live = facts(world).rules;
    let mut touched = BTreeSet::new();
    for change in &plan.changes {
        let id = change.item.as_str();
        prop_assert!(touched.insert(id), "{id} is changed twice: {plan:?}");
        prop_assert_eq!(change.before.as_ref(), live.get(id));
        prop_assert!(!held(id), "{id} is opted out: {plan:?}");
        let at = world.rules.iter().position(|raw| raw.id == id).unwrap();
        let source = sources.of_rule[at];
        prop_assert!(
            sources.size(false, &[source]) > 0
                || sources.size(true, &[source]) > 0
                || world.closes(&world.rules[at]),
            "{id} admits nobody from the internet: {plan:?}"
        );
        prop_assert!(change.after.is_some() || change.add.is_empty());
        let raw = &world.rules[at];
        let inexpressible = match raw.number() {
            None => true,
            Some(ICMP | ICMPV6) => raw.to.is_none_or(|code| code == -1),
            Some(_) => false,
        };
        prop_assert!(
            change.lost.is_empty() || inexpressible,
            "lost without need: {change:?}"
        );
    }
    let before = plan.before();
    prop_assert!(
        before
            .keys()
            .map(String::as_str)
            .eq(touched.iter().copied())
    );
    prop_assert!(
        plan.changes
            .iter()
            .all(|change| Some(&before[&change.item]) == change.before.as_ref())
    );

    // Nothing that EC2 would refuse as a duplicate.
    let spelt = |number: Option<u8>, from: Option<i32>, to: Option<i32>| match number {
        None => (number, -1, -1),
        Some(TCP | UDP) if from.unwrap_or(-1) == -1 => (number, 0, 65_535),
        Some(TCP | UDP | ICMP | ICMPV6) => (number, from.unwrap_or(-1), to.unwrap_or(-1)),
        _ => (number, -1, -1),
    };
    let of = |raw: &Raw| spelt(raw.number(), raw.from, raw.to);
    let existing: BTreeSet<_> = world
        .rules
        .iter()
        .zip(&sources.of_rule)
        .map(|(raw, s)| (*s, of(raw)))
        .collect();
    let mut new = BTreeSet::new();
    for (raw, source) in after.rules.iter().zip(&sources_after) {
        let is_new = raw.id.contains('+') || touched.contains(raw.id.as_str());
        if is_new {
            let key = (*source, of(raw));
            prop_assert!(
                !existing.contains(&key),
                "{} is there already: {plan:?}",
                raw.id
            );
            prop_assert!(new.insert(key), "{} is there twice: {plan:?}", raw.id);
        }
    }
    Ok(())
}

fn the_end_is_stable(world: &World) -> Result<(), TestCaseError> {
    let decision = decided(world);
    // In whatever order rules and list entries arrive.
    let mut turned = world.clone();
    turned.rules.reverse();
    let lists = turned.lists.iter_mut();
    lists.for_each(|list| list.entries.reverse());
    prop_assert_eq!(&decided(&turned), &decision);
    // Planned again, nothing is left to do.
    let after = carried_out(world, decision.plan.as_ref());
    let again = decided(&after);
    match again.plan {
        None => prop_assert_eq!(again.verdict, Verdict::Compliant),
        Some(plan) => {
            prop_assert_eq!(plan.changes, vec![]);
            let opted_out = world.rules.iter().any(Raw::is_held);
            let unknown = world.rules.iter().any(|raw| world.unknown(raw).is_some());
            prop_assert!(opted_out || unknown, "{:?}", again.verdict);
        }
    }
    // Half carried out, planned again and carried out: the same exposure is
    // gone, as after a run that was cut off.
    if let Some(mut half) = decision.plan {
        half.changes.truncate(half.changes.len() / 2);
        let mut between = carried_out(world, Some(&half));
        for rule in &mut between.rules {
            rule.id = rule.id.replace('+', "~");
        }
        exactly_the_exposure_goes(&between)?;
    }
    Ok(())
}

fn garbage() -> impl Strategy<Value = IngressRule> {
    let word = || {
        prop_oneof![
            ".{0,12}",
            "[0-9a-f:./-]{0,20}",
            "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}/[0-9]{1,3}",
            "[0-9a-f]{1,4}::/[0-9]{1,3}",
            select(vec![
                "tcp",
                "TCP",
                "udp",
                "icmp",
                "icmpv6",
                "-1",
                "all",
                "-2",
                "58",
                "256",
                "",
                "::/0",
                "0.0.0.0/0",
                "::ffff:0.0.0.0/96"
            ])
            .prop_map(str::to_owned),
        ]
    };
    let number = || {
        prop_oneof![
            Just(None),
            (-2..300).prop_map(Some),
            any::<i32>().prop_map(Some)
        ]
    };
    let source = prop_oneof![
        word().prop_map(Source::Ipv4),
        word().prop_map(Source::Ipv6),
        Just(Source::Ipv4("0.0.0.0/0".into())),
        Just(Source::Ipv6("::/0".into())),
        word().prop_map(Source::PrefixList),
        Just(Source::PrefixList("pl-1".into())),
        word().prop_map(Source::SecurityGroup),
    ];
    let tags = prop_oneof![
        3 => Just(BTreeMap::new()),
        1 => ".{0,30}".prop_map(|tag| BTreeMap::from([(OPT_OUT_TAG.to_owned(), tag)])),
    ];
    (word(), number(), number(), source, tags).prop_map(
        |(protocol, from_port, to_port, source, tags)| IngressRule {
            id: String::new(),
            permission: Permission {
                protocol,
                from_port,
                to_port,
            },
            source,
            description: None,
            tags,
        },
    )
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn exactly_the_exposure_goes_and_nothing_else(world in world()) {
        exactly_the_exposure_goes(&world)?;
    }

    #[test]
    fn planning_again_whole_or_half_way_ends_the_same(world in world()) {
        the_end_is_stable(&world)?;
    }

    #[test]
    fn garbage_is_judged_without_a_panic_and_settles(
        rules in prop::collection::vec(garbage(), 0..8),
        entries in prop::collection::vec(prop_oneof![v4_block(), "[0-9a-f:./]{0,20}"], 0..4),
        policy in policy(),
    ) {
        let mut group = facts(&World { rules: vec![], lists: vec![], policy: policy.clone() });
        group.prefix_lists.insert("pl-1".into(), PrefixList::of(Entries::Read(entries)));
        for (i, mut rule) in rules.into_iter().enumerate() {
            rule.id = format!("sgr-{i}");
            group.rules.insert(rule.id.clone(), rule);
        }
        let policy = Policy::parse(&policy.document()).unwrap();
        let judge = |group: &SecurityGroup| {
            decide(group, &policy, Mode::Enforce)
        };
        let Some(plan) = judge(&group).plan else { return Ok(()) };
        for change in plan.changes {
            let mut rule = group.rules.remove(&change.item).unwrap();
            for (n, part) in change.after.into_iter().chain(change.add).enumerate() {
                rule.permission = part.permission;
                rule.id = format!("{}+{n}", change.item);
                group.rules.insert(rule.id.clone(), rule.clone());
            }
        }
        prop_assert_eq!(judge(&group).plan.map(|plan| plan.changes).unwrap_or_default(), vec![]);
    }
}
