//! What the control says of a rule: who is admitted, to what.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::protocol::Protocol;
use crate::address::read;
use crate::plan::{Exposure, Unjudged};
use crate::prose::{joined, one_line, or_unknown};
use crate::security_group::{IngressRule, Source};
use crate::words::ControlId;

/// Most characters about ports in a headline.
const MOST_EXPOSED: usize = 200;
/// Most rules that are named in a line.
const MOST_RULES: usize = 5;

/// `tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-…`.
pub(super) fn exposure_line(exposure: &Exposure<IngressRule>) -> String {
    format!(
        "{} to {}, by rule {}",
        joined(&exposure.exposed, 5),
        whom(exposure),
        one_line(&exposure.item, 100)
    )
}

/// `open to the world on tcp 22`: of what is known to be open, if anything is.
pub(super) fn headline(exposures: &[Exposure<IngressRule>], most: usize) -> String {
    let (unjudged, judged): (Vec<_>, Vec<_>) = exposures.iter().partition(|e| e.unjudged.is_some());
    let to = match judged.iter().any(|e| is_world(&e.state.source)) {
        _ if judged.is_empty() && !unjudged.is_empty() => "sources that cannot be judged",
        true => "the world",
        false => "much of the internet",
    };
    let about = match judged.is_empty() {
        true => unjudged,
        false => judged,
    };
    let mut seen = BTreeSet::new();
    let exposed: Vec<&str> = about
        .into_iter()
        .flat_map(|exposure| exposure.exposed.iter())
        .map(String::as_str)
        .filter(|words| seen.insert(*words))
        .collect();
    let exposed = match (most, exposed.len()) {
        (0, 1) => "1 range".to_owned(),
        (0, ranges) => format!("{ranges} ranges"),
        (most, _) => joined(&exposed, most),
    };
    format!("open to {to} on {}", one_line(&exposed, MOST_EXPOSED))
}

/// The setting that lets protocols without ports be open to the internet, where a
/// rule names one.
pub(super) fn allowed_by_policy(exposures: &[Exposure<IngressRule>]) -> Vec<String> {
    let of_rules = exposures.iter().map(|e| e.state.permission.lane());
    let protocols: BTreeSet<Protocol> = of_rules
        .filter_map(|lane| Protocol::of(&lane?))
        .filter(|protocol| protocol.setting().is_none())
        .collect();
    let names: Vec<String> = protocols.iter().map(ToString::to_string).collect();
    let numbers: Vec<String> = protocols.iter().map(|p| p.0.to_string()).collect();
    match names.as_slice() {
        [] => Vec::new(),
        _ => vec![format!(
            "To have {} open to the internet wherever a rule says so, add {} to `settings.protocols` of {} in the policy.",
            joined(&names, MOST_RULES),
            joined(&numbers, MOST_RULES),
            ControlId::OpenIngress
        )],
    }
}

/// The rule as it was, what of it is too open, and whom it admits.
pub(super) fn details(exposure: &Exposure<IngressRule>) -> Vec<String> {
    let rule = &exposure.state;
    let description = match one_line(rule.description.as_deref().unwrap_or_default(), 300) {
        none if none.is_empty() => "no description".to_owned(),
        text => format!("described as: {text}"),
    };
    let stays = match exposure.allowed.as_slice() {
        [] => "nothing of it may stay".to_owned(),
        allowed => format!("{} may stay", joined(allowed, 8)),
    };
    let rule = format!(
        "{}: {} from {}, {description}",
        rule.id, rule.permission, rule.source
    );
    let exposed = joined(&exposure.exposed, 8);
    if let Some(why) = &exposure.unjudged {
        return vec![
            rule,
            format!("not judged: {exposed}; {stays}"),
            why.to_string(),
        ];
    }
    let private = match exposure.reach.is_some_and(|reach| reach.private_part) {
        true => ", and private ones",
        false => "",
    };
    vec![
        rule,
        format!("too open: {exposed}; {stays}"),
        format!(
            "admits {} public addresses{private}",
            count(exposure.reach.map_or(0, |reach| reach.public_addresses))
        ),
    ]
}

/// Sources that went with the private addresses they also admitted.
pub(super) fn private_parts(cut: &[Exposure<IngressRule>]) -> Vec<String> {
    let (world, partly): (Vec<_>, Vec<_>) = cut
        .iter()
        .filter(|e| e.reach.is_some_and(|reach| reach.private_part))
        .partition(|e| is_world(&e.state.source));
    let mut lines = Vec::new();
    for (exposures, what) in [
        (
            world,
            "A rule for the whole internet also admits your private networks",
        ),
        (partly, "The source also admitted private addresses"),
    ] {
        if !exposures.is_empty() {
            let ids: Vec<String> = exposures.iter().map(|e| one_line(&e.item, 100)).collect();
            lines.push(format!(
                "{what}; they went with it ({}). What used it from there needs a rule for its own range.",
                joined(&ids, MOST_RULES)
            ));
        }
    }
    lines
}

/// Whether a source is all of the internet, however it is written.
fn is_world(source: &Source) -> bool {
    block(source).is_some_and(|block| block.prefix_len() == 0)
}

fn block(source: &Source) -> Option<IpNet> {
    match source {
        Source::Ipv4(block) | Source::Ipv6(block) => read(block),
        Source::PrefixList(_) | Source::SecurityGroup(_) => None,
    }
}

/// Who is admitted, in words.
fn whom(exposure: &Exposure<IngressRule>) -> String {
    let source = one_line(&exposure.state.source.to_string(), 100);
    match &exposure.unjudged {
        Some(Unjudged::PrefixList { owner, .. }) => {
            let owner = or_unknown(owner.as_deref(), 50);
            return format!("the prefix list {source}, which cannot be read (owner: {owner})");
        }
        Some(Unjudged::Entries { .. } | Unjudged::Block { .. }) => {
            return format!("{source}, which cannot be judged");
        }
        None => {}
    }
    let public = count(exposure.reach.map_or(0, |reach| reach.public_addresses));
    match (&exposure.state.source, is_world(&exposure.state.source)) {
        (Source::Ipv4(_), true) => format!("the whole IPv4 internet ({source})"),
        (Source::Ipv6(_), true) => format!("the whole IPv6 internet ({source})"),
        (Source::PrefixList(_), _) => {
            format!("the prefix list {source} ({public} public addresses)")
        }
        _ => format!("{source} ({public} public addresses)"),
    }
}

/// A count of addresses, as exact as anybody needs it.
fn count(addresses: u128) -> String {
    const STEPS: &[(u128, &str)] = &[
        (1_000_000_000_000, "trillion"),
        (1_000_000_000, "billion"),
        (1_000_000, "million"),
    ];
    if addresses >= 1_000_000_000_000_000 {
        return format!("about 2^{}", addresses.ilog2());
    }
    for (unit, name) in STEPS {
        if addresses >= *unit {
            let tenths = addresses * 10 / unit;
            return format!("about {}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    addresses.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_said_as_people_say_them() {
        for (addresses, words) in [
            (0, "0"),
            (65_536, "65536"),
            (16_777_217, "about 16.7 million"),
            (3_702_258_432, "about 3.7 billion"),
            (1 << 45, "about 35.1 trillion"),
            (1 << 125, "about 2^125"),
        ] {
            assert_eq!(count(addresses), words);
        }
    }
}
