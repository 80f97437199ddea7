//! Protocols and ports as sets that can be cut: what a rule covers, and how a
//! part of it is written down as rules again.
//!
//! Every protocol is a *lane* with an axis of 65,536 points. On TCP and UDP a
//! point is a port. On ICMP a point is a (type, code) pair, `type * 256 +
//! code`: "type 3, any code" is then an interval, and so is "all ICMP", which
//! lets one interval arithmetic serve all of them. Other protocols have no
//! ports: their lane is covered whole or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;
use serde::{Deserialize, Serialize};

use crate::address::Family;

/// A set of points on a lane's axis.
pub type Points = RangeInclusiveSet<u16>;

/// The whole axis of a lane.
pub const WHOLE: RangeInclusive<u16> = 0..=u16::MAX;

/// Most rules that one lane's remainder may be written as. It is EC2's default
/// quota of rules in a whole group (60): what needs more cannot be put back.
pub const MOST_REMAINDERS: usize = 60;

/// One protocol's axis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// TCP (6): a point is a port.
    Tcp,
    /// UDP (17): a point is a port.
    Udp,
    /// ICMP (1), IPv4 only: a point is `type * 256 + code`.
    Icmp,
    /// ICMPv6 (58), IPv6 only: a point is `type * 256 + code`.
    Icmpv6,
    /// Another protocol that some rule names, by EC2's own spelling.
    Other(String),
    /// Every protocol that no rule names. Only protocol `-1` covers it, and no
    /// single rule can express it.
    Rest,
}

/// Protocol and ports of a rule, exactly as EC2 writes them. For ICMP
/// `from_port` is the type and `to_port` the code, and -1 means any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permission {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, a protocol number, or `-1` for all.
    pub protocol: String,
    /// First port, or ICMP type.
    pub from_port: Option<i32>,
    /// Last port, or ICMP code.
    pub to_port: Option<i32>,
}

/// What a permission covers: points by lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Lane, Points>);

impl Permission {
    /// A permission in EC2's terms.
    #[must_use]
    pub fn new(protocol: &str, from_port: i32, to_port: i32) -> Self {
        Self {
            protocol: protocol.to_owned(),
            from_port: Some(from_port),
            to_port: Some(to_port),
        }
    }

    /// The lane of a single protocol, or `None` for `-1`, which covers all.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        match self.protocol.to_ascii_lowercase().as_str() {
            "-1" | "all" => None,
            "tcp" | "6" => Some(Lane::Tcp),
            "udp" | "17" => Some(Lane::Udp),
            "icmp" | "1" => Some(Lane::Icmp),
            "icmpv6" | "58" => Some(Lane::Icmpv6),
            other => Some(Lane::Other(other.to_owned())),
        }
    }

    /// The points of the permission on its lane. Bounds that are missing, -1
    /// or out of range cover everything: when in doubt a rule is wider.
    #[must_use]
    pub fn points(&self) -> RangeInclusive<u16> {
        let from = self.from_port.and_then(|p| u16::try_from(p).ok());
        let to = self.to_port.and_then(|p| u16::try_from(p).ok());
        match (self.lane(), from, to) {
            (Some(Lane::Tcp | Lane::Udp), Some(from), Some(to)) if from <= to => from..=to,
            (Some(Lane::Icmp | Lane::Icmpv6), Some(kind), code) if kind < 256 => match code {
                Some(code) if code < 256 => kind * 256 + code..=kind * 256 + code,
                _ => kind * 256..=kind * 256 + 255,
            },
            _ => WHOLE,
        }
    }

    /// What the permission covers in a family, where `lanes` are all the lanes
    /// in play (protocol `-1` covers every one of them).
    #[must_use]
    pub fn coverage(&self, lanes: &[Lane]) -> Coverage {
        let mut coverage = Coverage::default();
        match self.lane() {
            Some(lane) if lanes.contains(&lane) => coverage.add(lane, self.points()),
            Some(_) => {}
            None => {
                for lane in lanes {
                    coverage.add(lane.clone(), WHOLE);
                }
            }
        }
        coverage
    }
}

/// The lanes in play for a family, given every protocol that rules name.
/// ICMPv6 means nothing over IPv4, nor ICMP over IPv6.
pub fn lanes<'a>(family: Family, permissions: impl Iterator<Item = &'a Permission>) -> Vec<Lane> {
    let mut lanes = vec![Lane::Tcp, Lane::Udp];
    lanes.push(match family {
        Family::Ipv4 => Lane::Icmp,
        Family::Ipv6 => Lane::Icmpv6,
    });
    let foreign = match family {
        Family::Ipv4 => Lane::Icmpv6,
        Family::Ipv6 => Lane::Icmp,
    };
    lanes.push(Lane::Rest);
    for lane in permissions.filter_map(Permission::lane) {
        // A rule for the other family's ICMP is kept in play as well: EC2
        // accepts it, and what it admits has to be judged.
        if (matches!(lane, Lane::Other(_)) || lane == foreign) && !lanes.contains(&lane) {
            lanes.push(lane);
        }
    }
    lanes.sort();
    lanes
}

impl Coverage {
    /// Adds points of a lane.
    pub fn add(&mut self, lane: Lane, points: RangeInclusive<u16>) {
        self.0.entry(lane).or_default().insert(points);
    }

    /// The points of a lane.
    #[must_use]
    pub fn points(&self, lane: &Lane) -> Option<&Points> {
        self.0.get(lane)
    }

    /// Whether nothing is covered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(RangeInclusiveSet::is_empty)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (lane, cut) in &other.0 {
            if let Some(points) = rest.0.get_mut(lane) {
                for range in cut.iter() {
                    points.remove(range.clone());
                }
            }
        }
        rest.0.retain(|_, points| !points.is_empty());
        rest
    }

    /// Writes the coverage as rules: `(permissions, what no rules can say)`.
    /// The second part names lanes whose remainder would need more than
    /// [`MOST_REMAINDERS`] rules, in words.
    #[must_use]
    pub fn express(&self) -> (Vec<Permission>, Vec<String>) {
        let mut written = Vec::new();
        let mut inexpressible = Vec::new();
        for (lane, points) in &self.0 {
            match express_lane(lane, points) {
                Some(permissions) => written.extend(permissions),
                None => inexpressible.push(match lane {
                    Lane::Rest => "every other protocol".to_owned(),
                    Lane::Icmp | Lane::Icmpv6 => format!("the other types of {lane}"),
                    _ => format!("the other ports of {lane}"),
                }),
            }
        }
        (written, inexpressible)
    }

    /// The coverage in words, shortest form, for reasons and messages.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let (written, inexpressible) = self.express();
        written
            .iter()
            .map(ToString::to_string)
            .chain(inexpressible)
            .collect()
    }
}

fn express_lane(lane: &Lane, points: &Points) -> Option<Vec<Permission>> {
    let mut permissions = Vec::new();
    match lane {
        Lane::Rest => return None,
        Lane::Other(protocol) => permissions.push(Permission::new(protocol, -1, -1)),
        Lane::Tcp | Lane::Udp => {
            for range in points.iter() {
                permissions.push(Permission::new(
                    &lane.to_string(),
                    i32::from(*range.start()),
                    i32::from(*range.end()),
                ));
            }
        }
        Lane::Icmp | Lane::Icmpv6 => {
            let protocol = lane.to_string();
            for range in points.iter() {
                if *range == WHOLE {
                    permissions.push(Permission::new(&protocol, -1, -1));
                    continue;
                }
                let mut point = u32::from(*range.start());
                let end = u32::from(*range.end());
                while point <= end {
                    let (kind, code) = ((point / 256) as i32, (point % 256) as i32);
                    if code == 0 && point + 255 <= end {
                        permissions.push(Permission::new(&protocol, kind, -1));
                        point += 256;
                    } else {
                        permissions.push(Permission::new(&protocol, kind, code));
                        point += 1;
                    }
                    if permissions.len() > MOST_REMAINDERS {
                        return None;
                    }
                }
            }
        }
    }
    (permissions.len() <= MOST_REMAINDERS).then_some(permissions)
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("icmpv6"),
            Self::Other(protocol) => f.write_str(protocol),
            Self::Rest => f.write_str("every other protocol"),
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(lane) = self.lane() else {
            return f.write_str("all traffic");
        };
        let points = self.points();
        match lane {
            Lane::Tcp | Lane::Udp if points == WHOLE => write!(f, "all {lane} ports"),
            Lane::Tcp | Lane::Udp if points.start() == points.end() => {
                write!(f, "{lane} {}", points.start())
            }
            Lane::Tcp | Lane::Udp => write!(f, "{lane} {}-{}", points.start(), points.end()),
            Lane::Icmp | Lane::Icmpv6 if points == WHOLE => write!(f, "all {lane}"),
            Lane::Icmp | Lane::Icmpv6 if points.start() == points.end() => {
                write!(
                    f,
                    "{lane} type {} code {}",
                    points.start() / 256,
                    points.start() % 256
                )
            }
            Lane::Icmp | Lane::Icmpv6 => write!(f, "{lane} type {}", points.start() / 256),
            Lane::Other(protocol) => write!(f, "protocol {protocol}"),
            Lane::Rest => f.write_str("every other protocol"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lane: Lane, ranges: &[RangeInclusive<u16>]) -> (Vec<String>, Vec<String>) {
        let mut coverage = Coverage::default();
        for range in ranges {
            coverage.add(lane.clone(), range.clone());
        }
        let (permissions, lost) = coverage.express();
        (permissions.iter().map(ToString::to_string).collect(), lost)
    }

    #[test]
    fn permissions_read_as_people_say_them() {
        for (permission, text) in [
            (Permission::new("tcp", 22, 22), "tcp 22"),
            (Permission::new("6", 0, 1024), "tcp 0-1024"),
            (Permission::new("udp", 0, 65535), "all udp ports"),
            (Permission::new("tcp", -1, -1), "all tcp ports"),
            (Permission::new("-1", -1, -1), "all traffic"),
            (Permission::new("icmp", -1, -1), "all icmp"),
            (Permission::new("icmp", 8, -1), "icmp type 8"),
            (Permission::new("icmp", 3, 4), "icmp type 3 code 4"),
            (Permission::new("icmpv6", 128, -1), "icmpv6 type 128"),
            (Permission::new("47", -1, -1), "protocol 47"),
        ] {
            assert_eq!(permission.to_string(), text);
        }
    }

    #[test]
    fn a_rule_without_bounds_covers_everything() {
        let rule = Permission {
            protocol: "tcp".into(),
            from_port: None,
            to_port: None,
        };
        assert_eq!(rule.points(), WHOLE);
        assert_eq!(Permission::new("icmp", -1, -1).points(), WHOLE);
        assert_eq!(
            Permission::new("tcp", 9, 3).points(),
            WHOLE,
            "nonsense is wide"
        );
    }

    #[test]
    fn icmp_is_written_as_types_and_codes() {
        assert_eq!(
            written(
                Lane::Icmp,
                &[3 * 256 + 4..=3 * 256 + 4, 8 * 256..=8 * 256 + 255]
            )
            .0,
            ["icmp type 3 code 4", "icmp type 8"],
        );
        assert_eq!(written(Lane::Icmp, &[WHOLE]).0, ["all icmp"]);
    }

    #[test]
    fn what_needs_more_rules_than_a_group_holds_is_named_not_written() {
        let (rules, lost) = written(Lane::Icmp, &[0..=1280, 1282..=65535]);
        assert_eq!(
            (rules.len(), lost),
            (0, vec!["the other types of icmp".to_owned()])
        );
        let (rules, lost) = written(Lane::Rest, &[WHOLE]);
        assert_eq!(
            (rules.len(), lost),
            (0, vec!["every other protocol".to_owned()])
        );
    }
}
