//! `open-ingress`, case by case: the numbered scenarios of the control's header
//! as tables of a group's rules and the plan they lead to.
//!
//! A group is written one line a rule: `id protocol ports source`, where ports
//! are `22`, `0-1024`, `type/code` (ICMP, and every pair with -1) or `none`; the
//! source is a CIDR block, a prefix list (`pl-…`) or a group (`sg-…`). What
//! follows `tag` is the rule's opt-out tag. Other lines: `pl-1 = blocks`,
//! `pl-1 unreadable` (or `refused`, `throttled`) with its owner, `group tag …`,
//! `vpc tag …`, `owner account`. A tag is an opt-out, with another key where it
//! begins with `key=…;`.

use std::collections::BTreeMap;

use backstop_core::control::Control as _;
use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::decide::{self, Circumstances};
use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::finding::Verdict;
use backstop_core::guards::{Guards, Trip};
use backstop_core::plan::{self, Disposition, Ending, Outcome, Step};
use backstop_core::policy::{Governed, Policy};
use backstop_core::ports::Permission;
use backstop_core::reason::Reason;
use backstop_core::security_group::{
    Entries, IngressRule, PrefixList, SecurityGroup, Source, Tags,
};
use backstop_core::sweep;
use backstop_core::trigger::Trigger;
use backstop_core::words::{Actor, Mode, Severity};

const ACCOUNT: &str = "111122223333";

type Decision = decide::Decision<IngressRule>;
type Exposure = plan::Exposure<IngressRule>;

/// Decides on 2026-11-24, with nothing that keeps the control from acting.
fn decide(group: &SecurityGroup, policy: &Policy, mode: Mode) -> Decision {
    decide_guarded(Some(group), policy, mode, &Guards::default())
}

fn decide_guarded(
    group: Option<&SecurityGroup>,
    policy: &Policy,
    mode: Mode,
    guards: &Guards,
) -> Decision {
    let circumstances = Circumstances {
        mode,
        account: ACCOUNT,
        now: "2026-11-24T10:00:00Z".parse().unwrap(),
        guards,
    };
    decide::decide::<OpenIngress>(group, &OpenIngress::rules(policy), &circumstances)
}

const HIGH_RISK: &str = r#"{"allow":"high-risk-ports"}"#;

/// Holds the plan for a group under the default policy against a text.
#[track_caller]
fn check(group: &str, expected: &str) {
    check_under("{}", group, expected);
}

/// Holds the plan for a group under settings of the control against a text.
#[track_caller]
fn check_under(settings: &str, group: &str, expected: &str) {
    assert_eq!(
        written(&decision(settings, group)),
        lines(expected),
        "{group}"
    );
}

fn decision(settings: &str, group: &str) -> Decision {
    decide(&facts(group), &policy(settings), Mode::Enforce)
}

fn exposures(group: &str) -> Vec<Exposure> {
    match decision("{}", group).verdict {
        Verdict::Violates(finding) => finding.exposures,
        other => panic!("{other:?}"),
    }
}

fn severity(group: &str) -> Severity {
    match decision("{}", group).verdict {
        Verdict::Violates(finding) => finding.severity,
        other => panic!("{other:?}"),
    }
}

fn policy(settings: &str) -> Policy {
    Policy::parse(&format!(
        r#"{{"version":1,"controls":{{"open-ingress":{{"settings":{settings}}}}}}}"#
    ))
    .unwrap()
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

// --- a decision as text ---------------------------------------------------

fn written(decision: &Decision) -> Vec<String> {
    let Some(plan) = &decision.plan else {
        return vec![match &decision.verdict {
            Verdict::Compliant => "compliant".to_owned(),
            Verdict::NotApplicable(why) => format!("not applicable: {why}"),
            Verdict::Violates(_) => panic!("a violation without a plan"),
        }];
    };
    let mut text = Vec::new();
    if plan.disposition != Disposition::Enforce || !plan.reasons.is_empty() {
        text.push(format!(
            "{:?}: {}",
            plan.disposition,
            plan.reasons.join("; ")
        ));
    }
    for change in &plan.changes {
        let mut line = match &change.after {
            Some(to) => format!("narrow {} to {}", change.item, ec2(&to.permission)),
            None => format!("revoke {}", change.item),
        };
        for more in &change.add {
            line += &format!(", authorise {}", ec2(&more.permission));
        }
        for lost in &change.lost {
            line += &format!(", lose {lost}");
        }
        text.push(line);
    }
    text
}

/// A permission with the very numbers that EC2 is sent.
fn ec2(permission: &Permission) -> String {
    let (from, to) = (permission.from_port.unwrap(), permission.to_port.unwrap());
    let protocol = &permission.protocol;
    match protocol.as_str() {
        "tcp" | "udp" if from == to => format!("{protocol} {from}"),
        "tcp" | "udp" => format!("{protocol} {from}-{to}"),
        _ => format!("{protocol} {from}/{to}"),
    }
}

// --- a group from text ----------------------------------------------------

fn facts(text: &str) -> SecurityGroup {
    let mut group = SecurityGroup {
        id: "sg-1".into(),
        name: "web".into(),
        owner: ACCOUNT.into(),
        arn: format!("arn:aws:ec2:eu-central-1:{ACCOUNT}:security-group/sg-1"),
        vpc: Some("vpc-1".into()),
        tags: Tags::new(),
        vpc_opt_outs: Tags::new(),
        rules: BTreeMap::new(),
        prefix_lists: BTreeMap::new(),
    };
    for line in lines(text) {
        if let Some(value) = line.strip_prefix("group tag") {
            group.tags.extend(opt_out_tag(value));
        } else if let Some(value) = line.strip_prefix("vpc tag") {
            group.vpc_opt_outs.extend(opt_out_tag(value));
        } else if let Some(account) = line.strip_prefix("owner ") {
            group.owner = account.to_owned();
        } else if let Some((list, blocks)) = line.split_once(" =") {
            let blocks = blocks.split_whitespace().map(str::to_owned).collect();
            group
                .prefix_lists
                .insert(list.to_owned(), PrefixList::of(Entries::Read(blocks)));
        } else if let Some((list, problem)) = unread(&line) {
            group.prefix_lists.insert(list.to_owned(), problem);
        } else {
            let rule = rule(&line);
            group.rules.insert(rule.id.clone(), rule);
        }
    }
    group
}

/// `all`, or `key=Backstop:Opt-Out;all`.
fn opt_out_tag(text: &str) -> Option<(String, String)> {
    let (key, value) = match text.trim_start().strip_prefix("key=") {
        Some(text) => text.split_once(';')?,
        None => (OPT_OUT_TAG, text),
    };
    Some((key.to_owned(), value.trim().to_owned()))
}

/// `pl-1 unreadable`, `refused` or `throttled`; what follows is the list's owner.
fn unread(line: &str) -> Option<(&str, PrefixList)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [list, problem, ref owner @ ..] = words[..] else {
        return None;
    };
    let entries = match problem {
        "unreadable" => Entries::NotShown("InvalidPrefixListID.NotFound".to_owned()),
        "refused" => Entries::Refused("UnauthorizedOperation".to_owned()),
        "throttled" => Entries::Failed("RequestLimitExceeded".to_owned()),
        _ => return None,
    };
    let owner = owner.first().map(|owner| (*owner).to_owned());
    Some((list, PrefixList { owner, entries }))
}

fn rule(line: &str) -> IngressRule {
    let (line, tag) = match line.split_once(" tag") {
        Some((line, tag)) => (line, opt_out_tag(tag)),
        None => (line, None),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let [id, protocol, ports, source] = words[..] else {
        panic!("`{line}` is not `id protocol ports source`");
    };
    let pair = match ports.split_once('/') {
        Some(pair) => Some(pair),
        None if ports == "none" => None,
        None => Some(ports.split_once('-').unwrap_or((ports, ports))),
    };
    let source = match source {
        list if list.starts_with("pl-") => Source::PrefixList(list.to_owned()),
        group if group.contains("sg-") => Source::SecurityGroup(group.to_owned()),
        block if block.contains(':') => Source::Ipv6(block.to_owned()),
        block => Source::Ipv4(block.to_owned()),
    };
    IngressRule {
        id: id.to_owned(),
        permission: Permission {
            protocol: protocol.to_owned(),
            from_port: pair.map(|(from, _)| from.parse().unwrap()),
            to_port: pair.map(|(_, to)| to.parse().unwrap()),
        },
        source,
        description: Some(format!("why {id} is there")),
        tags: tag.into_iter().collect(),
    }
}

// --- 1. world-open rules --------------------------------------------------

#[test]
fn s1_a_rule_open_to_the_world_goes() {
    check("a tcp 22 0.0.0.0/0", "revoke a");
    check("a tcp 22 ::/0", "revoke a");
    check("a udp 53 0.0.0.0/0", "revoke a");
    check("a 6 22 0.0.0.0/0", "revoke a");
    check("a 17 53 0.0.0.0/0", "revoke a");
    check("a 47 -1/-1 0.0.0.0/0", "revoke a");
    check("a 50 none 0.0.0.0/0", "revoke a");
    check("a tcp 81-442 0.0.0.0/0", "revoke a");
    check("a tcp 0 0.0.0.0/0", "revoke a");
    check("a tcp 65535 0.0.0.0/0", "revoke a");
}

#[test]
fn s1_host_bits_change_nothing() {
    check("a tcp 22 198.51.100.9/0", "revoke a");
    check("a tcp 22 10.1.2.3/0", "revoke a");
    check("a tcp 22 2001:db8::1/0", "revoke a");
    check("a tcp 22 fc00::1/0", "revoke a");
}

#[test]
fn s1_families_are_judged_apart() {
    // A /8 of IPv4 and a /16 of IPv6 are each at their limit, not together
    // over one.
    check("a tcp 22 52.0.0.0/8\n b tcp 22 2a00::/16", "compliant");
    check("a tcp 22 52.0.0.0/8\n b tcp 22 ::/0", "revoke b");
    check("a tcp 22 0.0.0.0/0\n b tcp 22 2a00::/16", "revoke a");
    check("a tcp 22 0.0.0.0/0\n b tcp 22 ::/0", "revoke a\n revoke b");
}

// --- 2. sums and lists ----------------------------------------------------

#[test]
fn s2_parts_that_add_up_go_largest_first_until_the_limit_holds() {
    check(
        "a tcp 22 0.0.0.0/1\n b tcp 22 128.0.0.0/1",
        "revoke a\n revoke b",
    );
    check("a tcp 22 ::/1\n b tcp 22 8000::/1", "revoke a");
    check(
        "a tcp 22 2000::/4\n b tcp 22 3000::/4",
        "revoke a\n revoke b",
    );
    // Of sixteen /4, the last two are multicast and reserved: nobody's. The
    // other fourteen each exceed the limit by themselves.
    let sixteenths: String = (0..16)
        .map(|i| format!("r{i:02} tcp 22 {}.0.0.0/4\n", i * 16))
        .collect();
    let first_fourteen: String = (0..14).map(|i| format!("revoke r{i:02}\n")).collect();
    check(&sixteenths, &first_fourteen);
    // 256 /8s of which two stay within 2^24... exactly one does.
    check(
        "a tcp 22 52.0.0.0/8\n b tcp 22 53.0.0.0/8\n c tcp 22 54.0.0.0/8",
        "revoke a\n revoke b",
    );
    // Overlaps count once: all of these together are one /8.
    check(
        "a tcp 22 52.0.0.0/8\n b tcp 22 52.0.0.0/9\n c tcp 22 52.1.0.0/16",
        "compliant",
    );
    // Only at the ports where they meet.
    check(
        "a tcp 20-22 52.0.0.0/8\n b tcp 22-25 53.0.0.0/8",
        "narrow a to tcp 20-21",
    );
}

#[test]
fn s2_prefix_lists_count_with_their_entries() {
    check("pl-1 = 0.0.0.0/0\n a tcp 22 pl-1", "revoke a");
    check("pl-1 = 0.0.0.0/1 128.0.0.0/1\n a tcp 22 pl-1", "revoke a");
    check("pl-1 = ::/0\n a tcp 22 pl-1", "revoke a");
    check("pl-1 = 2000::/3\n a -1 -1/-1 pl-1", NARROWED_V6);
    check(
        "pl-1 = 10.0.0.0/8 192.168.0.0/16\n a tcp 22 pl-1",
        "compliant",
    );
    check("pl-1 =\n a tcp 22 pl-1", "compliant");
    check("pl-1 = 52.0.0.0/8\n a tcp 22 pl-1", "compliant");
    check(
        "pl-1 = 0.0.0.0/0\n a tcp 0-1024 pl-1",
        "narrow a to tcp 80, authorise tcp 443",
    );
    // With a rule beside it: together over the limit, the larger one goes.
    check(
        "pl-1 = 52.0.0.0/9 52.128.0.0/9\n a tcp 22 pl-1\n b tcp 22 8.8.8.8/32",
        "revoke a",
    );
    check(
        "pl-1 = 52.0.0.0/9\n a tcp 22 pl-1\n b tcp 22 53.0.0.0/8",
        "revoke b",
    );
    // The same entries in two lists are the same addresses, counted once.
    check(
        "pl-1 = 52.0.0.0/8\n pl-2 = 52.0.0.0/8\n a tcp 22 pl-1\n b tcp 22 pl-2",
        "compliant",
    );
    // A list that no rule names admits nobody.
    check("pl-1 = 0.0.0.0/0\n a tcp 22 8.8.8.8/32", "compliant");
}

const NARROWED_V6: &str =
    "narrow a to tcp 80, authorise tcp 443, authorise icmpv6 2/-1, authorise icmpv6 128/-1";
const NARROWED_V4: &str =
    "narrow a to tcp 80, authorise tcp 443, authorise icmp 3/4, authorise icmp 8/-1";

#[test]
fn s2_of_several_allowed_parts_the_first_of_the_policy_stays_in_place() {
    let listed = |tcp: &str| format!(r#"{{"authorised_ports":{{"tcp":{tcp},"udp":[53]}}}}"#);
    for (tcp, plan) in [
        ("[80,443]", "narrow a to tcp 80, authorise tcp 443"),
        ("[443,80]", "narrow a to tcp 443, authorise tcp 80"),
        (
            r#"[443,"100-200",80]"#,
            "narrow a to tcp 443, authorise tcp 100-200, authorise tcp 80",
        ),
        // Neighbours are one part, which counts as early as the first of them.
        (
            "[443,81,22,80]",
            "narrow a to tcp 443, authorise tcp 80-81, authorise tcp 22",
        ),
    ] {
        check_under(&listed(tcp), "a tcp 0-1024 0.0.0.0/0", plan);
    }
    check_under(
        r#"{"icmp":[{"type":8},{"type":3,"code":4}]}"#,
        "a icmp -1/-1 0.0.0.0/0",
        "narrow a to icmp 8/-1, authorise icmp 3/4",
    );
}

// --- 3. what is no exposure -----------------------------------------------

#[test]
fn s3_private_special_and_small_public_sources_stay() {
    for source in [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "224.0.0.0/3",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
        "::/3",
        "4000::/2",
        "8000::/1",
        "8.8.8.8/32",
        "52.1.0.0/16",
        "52.0.0.0/8",
        "2a00:1450::/32",
        "2a00::/16",
        "2001:db8::/32",
        "sg-2",
        "444455556666/sg-2",
    ] {
        for permission in [
            "tcp 22",
            "tcp 0-65535",
            "-1 -1/-1",
            "icmp -1/-1",
            "58 -1/-1",
        ] {
            check(&format!("a {permission} {source}"), "compliant");
        }
    }
}

#[test]
fn s3_each_special_range_ends_where_the_registry_says() {
    // With a limit of one address every public pair counts.
    let strict = r#"{"max_public_bits":{"ipv4":0,"ipv6":0}}"#;
    for (special, before, after) in [
        ("0.0.0.0/8", None, Some("1.0.0.0/31")),
        ("10.0.0.0/8", Some("9.255.255.254/31"), Some("11.0.0.0/31")),
        (
            "100.64.0.0/10",
            Some("100.63.255.254/31"),
            Some("100.128.0.0/31"),
        ),
        (
            "127.0.0.0/8",
            Some("126.255.255.254/31"),
            Some("128.0.0.0/31"),
        ),
        (
            "169.254.0.0/16",
            Some("169.253.255.254/31"),
            Some("169.255.0.0/31"),
        ),
        (
            "172.16.0.0/12",
            Some("172.15.255.254/31"),
            Some("172.32.0.0/31"),
        ),
        (
            "192.0.0.0/24",
            Some("191.255.255.254/31"),
            Some("192.0.1.0/31"),
        ),
        ("192.0.2.0/24", Some("192.0.1.254/31"), Some("192.0.3.0/31")),
        (
            "192.168.0.0/16",
            Some("192.167.255.254/31"),
            Some("192.169.0.0/31"),
        ),
        (
            "198.18.0.0/15",
            Some("198.17.255.254/31"),
            Some("198.20.0.0/31"),
        ),
        (
            "198.51.100.0/24",
            Some("198.51.99.254/31"),
            Some("198.51.101.0/31"),
        ),
        (
            "203.0.113.0/24",
            Some("203.0.112.254/31"),
            Some("203.0.114.0/31"),
        ),
        ("224.0.0.0/4", Some("223.255.255.254/31"), None),
        ("240.0.0.0/4", None, None),
        ("::/3", None, Some("2000::/127")),
        (
            "4000::/2",
            Some("3fff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"),
            None,
        ),
        ("8000::/1", None, None),
        (
            "2001:2::/48",
            Some("2001:1:ffff:ffff:ffff:ffff:ffff:fffe/127"),
            Some("2001:2:1::/127"),
        ),
        (
            "2001:db8::/32",
            Some("2001:db7:ffff:ffff:ffff:ffff:ffff:fffe/127"),
            Some("2001:db9::/127"),
        ),
        (
            "3fff::/20",
            Some("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"),
            Some("3fff:1000::/127"),
        ),
    ] {
        check_under(strict, &format!("a tcp 22 {special}"), "compliant");
        for neighbour in [before, after].into_iter().flatten() {
            check_under(strict, &format!("a tcp 22 {neighbour}"), "revoke a");
        }
    }
}

#[test]
fn s3_exactly_the_limit_stays_and_one_more_takes_the_largest_and_nothing_further() {
    check("a tcp 22 52.0.0.0/8", "compliant");
    check("a tcp 22 52.0.0.0/7", "revoke a");
    check("a tcp 22 52.0.0.0/8\n b tcp 22 8.8.8.8/32", "revoke a");
    check("b tcp 22 52.0.0.0/8\n a tcp 22 8.8.8.8/32", "revoke b");
    check("a tcp 22 2a00::/16\n b tcp 22 2600::1/128", "revoke a");
    check(
        "a tcp 22 52.0.0.0/9\n b tcp 22 53.0.0.0/9\n c tcp 22 8.8.8.8/32\n d tcp 22 9.9.9.9/32",
        "revoke a",
    );
    // Ties go by rule id.
    check("b tcp 22 52.0.0.0/8\n a tcp 22 53.0.0.0/8", "revoke a");
    check("a tcp 22 53.0.0.0/8\n b tcp 22 52.0.0.0/8", "revoke a");
    // What is special does not count: 203.0.113.0/24 less, and one more fits.
    check("a tcp 22 203.0.0.0/8\n b tcp 22 8.8.8.0/24", "compliant");
    check(
        "a tcp 22 203.0.0.0/8\n b tcp 22 8.8.8.0/24\n c tcp 22 9.9.9.9/32",
        "revoke a",
    );
}

#[test]
fn s3_one_source_in_two_rules_is_one_source() {
    check(
        "a tcp 22 52.0.0.0/8\n b tcp 20-25 52.0.0.0/8\n c tcp 22 8.8.8.8/32",
        "revoke a\n narrow b to tcp 20-21, authorise tcp 23-25",
    );
    // In another spelling too; and the tie goes by the first of its rules.
    check(
        "a tcp 22 52.9.9.9/8\n b tcp 22 53.0.0.0/8\n c tcp 20-22 52.0.0.0/8",
        "revoke a\n narrow c to tcp 20-21",
    );
    check(
        "a tcp 22 2a00::/16\n b tcp 22-23 2a00:0:0:1::/16\n c tcp 22 2600::1/128",
        "revoke a\n narrow b to tcp 23",
    );
}

// --- 4. what is allowed stays ---------------------------------------------

#[test]
fn s4_the_allowed_ports_of_a_range_stay() {
    check("a tcp 80 0.0.0.0/0", "compliant");
    check("a tcp 443 ::/0\n b 6 80 0.0.0.0/0", "compliant");
    check("a udp 443 0.0.0.0/0", "revoke a");
    check(
        "a tcp 0-1024 0.0.0.0/0",
        "narrow a to tcp 80, authorise tcp 443",
    );
    check("a tcp 79-80 0.0.0.0/0", "narrow a to tcp 80");
    check("a tcp 80-81 0.0.0.0/0", "narrow a to tcp 80");
    check("a tcp 80-443 ::/0", "narrow a to tcp 80, authorise tcp 443");
    check("a 6 0-100 0.0.0.0/0", "narrow a to tcp 80");
    for all in ["0-65535", "-1/-1", "none", "0/-1", "9/3"] {
        check(
            &format!("a tcp {all} 0.0.0.0/0"),
            "narrow a to tcp 80, authorise tcp 443",
        );
        check(&format!("a udp {all} 0.0.0.0/0"), "revoke a");
    }
}

#[test]
fn s4_all_traffic_is_narrowed_to_what_is_allowed() {
    for all in ["-1 -1/-1", "-1 none", "-1 0-65535", "-1 22"] {
        check(&format!("a {all} 0.0.0.0/0"), NARROWED_V4);
        check(&format!("a {all} ::/0"), NARROWED_V6);
    }
    check(
        "a -1 -1/-1 0.0.0.0/0\n b -1 -1/-1 ::/0",
        &format!("{NARROWED_V4}\n{}", NARROWED_V6.replace(" a ", " b ")),
    );
}

#[test]
fn s4_a_rule_of_the_other_family_lends_no_protocol() {
    // ICMP means nothing over IPv6: narrowing `b` must not authorise it there,
    // just because a rule for IPv4 names it. And the other way round.
    check(
        "a icmp 8/-1 0.0.0.0/0\n b -1 -1/-1 ::/0",
        &NARROWED_V6.replace(" a ", " b "),
    );
    check("b icmpv6 128/-1 ::/0\n a -1 -1/-1 0.0.0.0/0", NARROWED_V4);
    check(
        "b icmpv6 128/-1 fc00::/7\n a -1 -1/-1 0.0.0.0/0\n c icmp 8/-1 sg-2",
        NARROWED_V4,
    );
    // Where a rule does name it, it is judged.
    check(
        "a icmpv6 -1/-1 0.0.0.0/0",
        "narrow a to icmpv6 2/-1, authorise icmpv6 128/-1",
    );
}

#[test]
fn s4_everything_but_the_high_risk_ports() {
    check_under(HIGH_RISK, "a tcp 8443 0.0.0.0/0", "compliant");
    check_under(HIGH_RISK, "a udp 53 ::/0", "compliant");
    check_under(HIGH_RISK, "a icmp -1/-1 0.0.0.0/0", "compliant");
    check_under(HIGH_RISK, "a 47 -1/-1 0.0.0.0/0", "compliant");
    check_under(HIGH_RISK, "a tcp 22 0.0.0.0/0", "revoke a");
    check_under(HIGH_RISK, "a udp 3389 ::/0", "revoke a");
    check_under(HIGH_RISK, "a tcp 20-25 0.0.0.0/0", "narrow a to tcp 24");
    check_under(
        HIGH_RISK,
        "a tcp 20-26 0.0.0.0/0",
        "narrow a to tcp 24, authorise tcp 26",
    );
    for port in [
        20, 21, 22, 23, 25, 110, 135, 143, 445, 1433, 1434, 3000, 3306, 3389, 4333, 5000, 5432,
        5500, 5601, 8080, 8088, 8888, 9200, 9300,
    ] {
        check_under(HIGH_RISK, &format!("a tcp {port} 0.0.0.0/0"), "revoke a");
    }
}

#[test]
fn s4_all_traffic_but_the_high_risk_ports_names_what_no_rule_can_say() {
    let few = r#"{"allow":"high-risk-ports","high_risk_ports":[22,"3380-3390"]}"#;
    check_under(
        few,
        "a -1 -1/-1 0.0.0.0/0",
        "narrow a to tcp 0-21, authorise tcp 23-3379, authorise tcp 3391-65535, authorise udp 0-21, authorise udp 23-3379, authorise udp 3391-65535, authorise icmp -1/-1, lose every other protocol",
    );
    check_under(
        few,
        "a -1 -1/-1 ::/0",
        "narrow a to tcp 0-21, authorise tcp 23-3379, authorise tcp 3391-65535, authorise udp 0-21, authorise udp 23-3379, authorise udp 3391-65535, authorise icmpv6 -1/-1, lose every other protocol",
    );
    // A protocol that a rule of the family names can be said; others cannot.
    check_under(
        few,
        "a -1 -1/-1 0.0.0.0/0\n b 47 -1/-1 8.8.8.8/32",
        "narrow a to tcp 0-21, authorise tcp 23-3379, authorise tcp 3391-65535, authorise udp 0-21, authorise udp 23-3379, authorise udp 3391-65535, authorise icmp -1/-1, authorise 47 -1/-1, lose every other protocol",
    );
    // With the ports of Security Hub: as many remainders as there are gaps.
    let plan = decision(HIGH_RISK, "a -1 -1/-1 0.0.0.0/0").plan.unwrap();
    let change = &plan.changes[0];
    assert_eq!(ec2(&change.after.as_ref().unwrap().permission), "tcp 0-19");
    assert_eq!(change.add.len(), 20 + 21 + 1);
    assert_eq!(ec2(&change.add[0].permission), "tcp 24");
    assert_eq!(ec2(&change.add[19].permission), "tcp 9301-65535");
    assert_eq!(ec2(&change.add[20].permission), "udp 0-19");
    assert_eq!(ec2(&change.add[41].permission), "icmp -1/-1");
    assert_eq!(change.lost, ["every other protocol"]);
}

#[test]
fn s4_settings_are_obeyed() {
    let ports = r#"{"authorised_ports":{"tcp":["8000-8100",443],"udp":[443]}}"#;
    check_under(
        ports,
        "a tcp 0-65535 0.0.0.0/0\n b udp 400-500 0.0.0.0/0\n c tcp 8010-8020 ::/0",
        "narrow a to tcp 8000-8100, authorise tcp 443
         narrow b to udp 443",
    );
    check_under(ports, "a tcp 80 0.0.0.0/0", "revoke a");
    check_under(
        ports,
        "a tcp 8050-9000 0.0.0.0/0",
        "narrow a to tcp 8050-8100",
    );
    let none = r#"{"authorised_ports":{},"icmp":[],"icmpv6":[]}"#;
    check_under(none, "a -1 -1/-1 0.0.0.0/0", "revoke a");
    check_under(none, "a -1 -1/-1 ::/0", "revoke a");
    let whole = r#"{"authorised_ports":{"tcp":["0-65535"]}}"#;
    check_under(whole, "a tcp -1/-1 0.0.0.0/0", "compliant");
    check_under(
        whole,
        "a -1 -1/-1 0.0.0.0/0",
        "narrow a to tcp 0-65535, authorise icmp 3/4, authorise icmp 8/-1",
    );
    // Limits, by family.
    let small = r#"{"max_public_bits":{"ipv4":8,"ipv6":64}}"#;
    check_under(small, "a tcp 22 8.8.8.0/24", "compliant");
    check_under(small, "a tcp 22 8.8.8.0/23", "revoke a");
    check_under(small, "a tcp 22 2a00::/64", "compliant");
    check_under(small, "a tcp 22 2a00::/63", "revoke a");
    let large = r#"{"max_public_bits":{"ipv4":32,"ipv6":128}}"#;
    check_under(large, "a -1 -1/-1 0.0.0.0/0\n b tcp 22 ::/0", "compliant");
    // One setting leaves the others at their defaults.
    check_under(r#"{"icmp":[]}"#, "a tcp 22-80 ::/0", "narrow a to tcp 80");
}

#[test]
fn s4_other_protocols_are_allowed_by_number_or_name() {
    let vpn = r#"{"protocols":[47,"esp","ah"]}"#;
    for (group, expected) in [
        ("a 47 -1/-1 0.0.0.0/0", "compliant"),
        ("a 50 none ::/0\n b 51 -1/-1 0.0.0.0/0", "compliant"),
        ("a 47 -1/-1 0.0.0.0/0\n b 99 -1/-1 0.0.0.0/0", "revoke b"),
        // They are kept of a rule for all traffic.
        (
            "a -1 -1/-1 0.0.0.0/0",
            "narrow a to tcp 80, authorise tcp 443, authorise icmp 3/4, authorise icmp 8/-1, authorise 47 -1/-1, authorise 50 -1/-1, authorise 51 -1/-1",
        ),
        // One that another rule grants already is not granted twice.
        (
            "a -1 -1/-1 0.0.0.0/0\n b 47 -1/-1 0.0.0.0/0",
            "narrow a to tcp 80, authorise tcp 443, authorise icmp 3/4, authorise icmp 8/-1, authorise 50 -1/-1, authorise 51 -1/-1",
        ),
        ("a tcp 22 0.0.0.0/0", "revoke a"),
    ] {
        check_under(vpn, group, expected);
    }
    check("a 47 -1/-1 0.0.0.0/0", "revoke a");
}

#[test]
fn s4_what_another_rule_of_the_source_grants_is_not_granted_twice() {
    check(
        "a tcp 0-1024 0.0.0.0/0\n b tcp 80 0.0.0.0/0",
        "narrow a to tcp 443",
    );
    check(
        "a tcp 0-1024 0.0.0.0/0\n b tcp 80 1.2.3.4/0\n c 6 443 0.0.0.0/0",
        "revoke a",
    );
    // Another source's rule is none of its own, however wide.
    check(
        "a tcp 0-1024 0.0.0.0/0\n b tcp 80 0.0.0.0/1",
        "narrow a to tcp 80, authorise tcp 443",
    );
    check(
        "a tcp 0-1024 0.0.0.0/0\n b tcp 80 ::/0",
        "narrow a to tcp 80, authorise tcp 443",
    );
    // Two wide rules of one source at once share the remainders.
    check(
        "a tcp 0-100 0.0.0.0/0\n b tcp 50-1024 0.0.0.0/0",
        "narrow a to tcp 80\n narrow b to tcp 443",
    );
    check(
        "a tcp 0-1024 0.0.0.0/0\n b -1 -1/-1 0.0.0.0/0",
        "narrow a to tcp 80, authorise tcp 443
         narrow b to icmp 3/4, authorise icmp 8/-1",
    );
    check(
        "a tcp 0-1024 0.0.0.0/0\n b tcp 0-2048 0.0.0.0/0",
        "revoke b\n narrow a to tcp 80, authorise tcp 443",
    );
    // A wider rule that stays grants its parts, too.
    check(
        "a tcp 20-100 0.0.0.0/0\n b tcp 20-100 0.0.0.0/0 tag all",
        "revoke a",
    );
}

#[test]
fn s4_revokes_come_before_narrowings_each_by_rule_id() {
    check(
        "a tcp 0-100 0.0.0.0/0\n b tcp 22 0.0.0.0/0\n c tcp 0-500 ::/0\n d tcp 22 ::/0\n e udp 1 0.0.0.0/0",
        "revoke b
         revoke d
         revoke e
         narrow a to tcp 80
         narrow c to tcp 80, authorise tcp 443",
    );
}

#[test]
fn s4_part_of_all_traffic_may_exceed_the_limit_at_one_port_only() {
    // `a` alone is within the limit; with `b` it is not, at port 22. What is
    // left of `a` is said with rules as far as rules can say it, first the part
    // that holds the ports of the policy.
    check(
        "a -1 -1/-1 52.0.0.0/8\n b tcp 22 8.8.8.8/32",
        "narrow a to tcp 23-65535, authorise tcp 0-21, authorise udp 0-65535, authorise icmp -1/-1, lose every other protocol",
    );
    check(
        "a icmp -1/-1 52.0.0.0/8\n b icmp 13/-1 8.8.8.8/32",
        "revoke a, lose the other types of icmp",
    );
}

// --- 5. ICMP --------------------------------------------------------------

#[test]
fn s5_icmp_is_narrowed_to_the_allowed_types() {
    for all in ["icmp -1/-1", "1 -1/-1", "icmp none", "icmp -1/4"] {
        check(
            &format!("a {all} 0.0.0.0/0"),
            "narrow a to icmp 3/4, authorise icmp 8/-1",
        );
    }
    for all in ["icmpv6 -1/-1", "58 -1/-1", "58 none"] {
        check(
            &format!("a {all} ::/0"),
            "narrow a to icmpv6 2/-1, authorise icmpv6 128/-1",
        );
    }
    for allowed in ["icmp 3/4", "icmp 8/-1", "icmp 8/0", "1 8/3"] {
        check(&format!("a {allowed} 0.0.0.0/0"), "compliant");
    }
    for allowed in ["icmpv6 2/-1", "icmpv6 2/0", "58 128/-1", "icmpv6 128/0"] {
        check(&format!("a {allowed} ::/0"), "compliant");
    }
    for forbidden in ["icmp 3/3", "icmp 3/5", "icmp 0/-1", "icmp 13/0", "1 255/-1"] {
        check(&format!("a {forbidden} 0.0.0.0/0"), "revoke a");
    }
    for forbidden in ["icmpv6 1/-1", "icmpv6 129/0", "58 3/-1"] {
        check(&format!("a {forbidden} ::/0"), "revoke a");
    }
    check("a icmp 3/-1 0.0.0.0/0", "narrow a to icmp 3/4");
    // Settings.
    let echo = r#"{"icmp":[{"type":8},{"type":9},{"type":255,"code":255}]}"#;
    check_under(
        echo,
        "a icmp -1/-1 0.0.0.0/0",
        "narrow a to icmp 8/-1, authorise icmp 9/-1, authorise icmp 255/255",
    );
    check_under(echo, "a icmp 3/4 0.0.0.0/0", "revoke a");
}

#[test]
fn s5_ports_of_tcp_and_types_of_icmp_never_mix() {
    check("a icmp 80/-1 0.0.0.0/0", "revoke a");
    check("a tcp 8 0.0.0.0/0", "revoke a");
    check("a tcp 22 52.0.0.0/8\n b udp 22 53.0.0.0/8", "compliant");
    check(
        "a icmp 13/-1 52.0.0.0/8\n b icmp 14/-1 53.0.0.0/8",
        "compliant",
    );
    check(
        "a icmp 13/-1 53.0.0.0/9\n b icmp 13/2 52.0.0.0/8\n c icmp 13/3 52.0.0.0/8",
        "revoke b\n revoke c",
    );
}

// --- 6. opted-out rules ---------------------------------------------------

#[test]
fn s6_an_opted_out_rule_stays_and_takes_nobody_with_it() {
    for tag in [
        "all",
        "open-ingress",
        "open-ingress until=2026-11-24 owner=team-web",
    ] {
        check(
            &format!("a tcp 22 0.0.0.0/0 tag {tag}\n b tcp 22 ::/0"),
            "revoke b",
        );
        check(
            &format!(
                "a tcp 22 0.0.0.0/0 tag {tag}\n b tcp 22 52.0.0.0/8\n c tcp 22 8.8.8.8/32 tag {tag}"
            ),
            "Exempt: the tag backstop:opt-out opts it out",
        );
    }
    // Malformed is held, like exempt, but told as what it is.
    check("a tcp 22 0.0.0.0/0 tag yes\n b tcp 22 ::/0", "revoke b");
    check(
        "a tcp 22 0.0.0.0/0 tag yes",
        "Held: the tag backstop:opt-out cannot be read",
    );
    check(
        "a tcp 22 0.0.0.0/0 tag yes\n b tcp 22 ::/0 tag all",
        "Held: the tag backstop:opt-out cannot be read",
    );
    // Ended and foreign ones do not hold.
    check("a tcp 22 0.0.0.0/0 tag all until=2026-11-23", "revoke a");
    // An opted-out rule's own part is still found.
    check(
        "a tcp 0-100 0.0.0.0/0 tag all",
        "Exempt: the tag backstop:opt-out opts it out",
    );
    // Compliant rules need no opt-out, whatever their tag says.
    check("a tcp 443 0.0.0.0/0 tag yes", "compliant");
    check("a tcp 22 10.0.0.0/8 tag all", "compliant");
    // An opted-out rule that is over the limit only with a neighbour, which
    // alone is not: nothing of the neighbour goes.
    check(
        "a tcp 22 52.0.0.0/8 tag all\n b tcp 22 8.8.8.8/32",
        "Exempt: the tag backstop:opt-out opts it out",
    );
    check(
        "b tcp 22 52.0.0.0/8\n a tcp 22 8.8.8.8/32 tag all",
        "compliant",
    );
}

#[test]
fn s6_exposures_carry_their_rules_own_opt_out() {
    let exposures = exposures(
        "a tcp 22 0.0.0.0/0 tag all until=2026-11-23\n b tcp 22 ::/0 tag yes\n c tcp 22 2000::/3",
    );
    let states: Vec<String> = exposures
        .iter()
        .map(|e| format!("{} {:?}", e.item, e.exemption))
        .collect();
    assert!(states[0].starts_with("a Ended"), "{states:?}");
    assert!(states[1].starts_with("b Malformed"), "{states:?}");
    assert_eq!(states[2], "c None");
}

// --- 7. opted-out groups, foreign groups, modes ---------------------------

#[test]
fn s7_an_opted_out_group_is_found_and_not_changed() {
    let exempt = "Exempt: the tag backstop:opt-out opts it out\n revoke a";
    let held = "Held: the tag backstop:opt-out cannot be read\n revoke a";
    let open = "a tcp 22 0.0.0.0/0\n";
    for (tags, expected) in [
        ("group tag all", exempt),
        ("group tag open-ingress until=2027-01-31", exempt),
        ("vpc tag all", exempt),
        ("vpc tag open-ingress", exempt),
        ("group tag yes", held),
        ("group tag", held),
        ("vpc tag yes", held),
        ("group tag all\n vpc tag yes", exempt),
        ("group tag yes\n vpc tag all", exempt),
        ("group tag all until=2026-11-23", "revoke a"),
        ("vpc tag all until=2026-11-23", "revoke a"),
        (
            "group tag all until=2026-11-23\n vpc tag all until=2026-11-24",
            exempt,
        ),
    ] {
        check(&format!("{open}{tags}"), expected);
    }
    // IAM reads an opt-out in these spellings and would deny the change.
    for (tags, expected) in [
        ("group tag key=Backstop:Opt-Out;all", held),
        ("vpc tag key=BACKSTOP:OPT-OUT;open-ingress", held),
        ("group tag key= backstop:opt-out ;all", held),
        ("group tag all\n group tag key=Backstop:Opt-Out;all", held),
        ("group tag key=Backstop:Opt-Out;all\n vpc tag all", exempt),
        ("group tag key=Backstop:Opt-Out;missing-patches", "revoke a"),
        ("group tag key=backstop:opt-outs;all", "revoke a"),
    ] {
        check(&format!("{open}{tags}"), expected);
    }
    check(
        "a tcp 22 0.0.0.0/0 tag key=Backstop:Opt-Out;all\n b tcp 22 ::/0",
        "revoke b",
    );
    check("group tag yes\n a tcp 443 0.0.0.0/0", "compliant");
    // The group's opt-out speaks for its rules: a tag on one of them that
    // cannot be read holds nothing that is not held already.
    check(
        "group tag all\n a tcp 22 0.0.0.0/0 tag yes",
        "Exempt: the tag backstop:opt-out opts it out",
    );
}

#[test]
fn s7_the_policy_may_demand_an_end() {
    let strict = Policy::parse(r#"{"version":1,"opt_out":{"require_end":true}}"#).unwrap();
    for (group, expected) in [
        (
            "a tcp 22 0.0.0.0/0\n group tag all",
            "Held: the tag backstop:opt-out cannot be read\n revoke a",
        ),
        (
            "a tcp 22 0.0.0.0/0\n vpc tag all",
            "Held: the tag backstop:opt-out cannot be read\n revoke a",
        ),
        (
            "a tcp 22 0.0.0.0/0 tag all",
            "Held: the tag backstop:opt-out cannot be read",
        ),
        (
            "a tcp 22 0.0.0.0/0 tag all until=2027-01-31",
            "Exempt: the tag backstop:opt-out opts it out",
        ),
        (
            "a tcp 22 0.0.0.0/0 tag all until=9999-12-31",
            "Held: the tag backstop:opt-out cannot be read",
        ),
        (
            "a tcp 22 0.0.0.0/0\n vpc tag open-ingress until=2999-01-01 owner=web",
            "Held: the tag backstop:opt-out cannot be read\n revoke a",
        ),
    ] {
        let decision = decide(&facts(group), &strict, Mode::Enforce);
        assert_eq!(written(&decision), lines(expected), "{group}");
    }
}

#[test]
fn s7_another_accounts_group_is_told_not_changed() {
    check(
        "owner 444455556666\n a tcp 22 0.0.0.0/0",
        "NotOwned: the resource belongs to the account 444455556666\n revoke a",
    );
    check(
        "owner 444455556666\n group tag all\n a tcp 22 0.0.0.0/0",
        "NotOwned: the resource belongs to the account 444455556666\n revoke a",
    );
    check("owner 444455556666\n a tcp 443 0.0.0.0/0", "compliant");
}

#[test]
fn s7_only_enforce_changes_something() {
    let open = facts("a tcp 22 0.0.0.0/0");
    let with = |policy: &str, mode| {
        let policy = Policy::parse(policy).unwrap();
        let plan = decide(&open, &policy, mode).plan.unwrap();
        assert_eq!(plan.changes.len(), 1, "the plan is told in every mode");
        (plan.disposition.clone(), plan.changes_something())
    };
    let unnamed = r#"{"version":1}"#;
    assert_eq!(with(unnamed, Mode::Enforce), (Disposition::Enforce, true));
    assert_eq!(
        with(unnamed, Mode::Notify),
        (Disposition::NotifyOnly, false)
    );
    assert_eq!(with(unnamed, Mode::Off), (Disposition::NotifyOnly, false));
    // The policy's mode goes before the stack's.
    let named = |mode: &str| {
        format!(r#"{{"version":1,"controls":{{"open-ingress":{{"mode":"{mode}"}}}}}}"#)
    };
    assert_eq!(
        with(&named("enforce"), Mode::Notify),
        (Disposition::Enforce, true)
    );
    assert_eq!(
        with(&named("notify"), Mode::Enforce),
        (Disposition::NotifyOnly, false)
    );
    assert_eq!(
        with(&named("off"), Mode::Enforce),
        (Disposition::NotifyOnly, false)
    );
    // Opted out in mode notify is still opted out.
    let plan = decide(
        &facts("group tag all\n a tcp 22 0.0.0.0/0"),
        &Policy::default(),
        Mode::Notify,
    )
    .plan
    .unwrap();
    assert_eq!(plan.disposition, Disposition::Exempt);
}

// --- 9. guards --------------------------------------------------------------

#[test]
fn s9_a_guard_keeps_the_plan_from_being_carried_out_and_says_why() {
    use backstop_core::guards::{Fights, Trip};
    let open = facts("a tcp 22 0.0.0.0/0");
    let enforce = Policy::default();
    let trip = Trip {
        at: "2026-11-24T09:00:00Z".parse().unwrap(),
        why: "51 changes in an hour".into(),
    };
    let mut fights = Fights::default();
    let fingerprint = exposures("a tcp 22 0.0.0.0/0")[0].fingerprint.clone();
    for round in 0..9 {
        fights.note(
            &format!("{round}"),
            [fingerprint.as_str()],
            "2026-11-24T09:00:00Z".parse().unwrap(),
            &enforce.fights,
            None,
        );
    }
    let one_less = {
        let mut fights = Fights::default();
        for round in 0..8 {
            let at = "2026-11-24T09:00:00Z".parse().unwrap();
            fights.note(
                &format!("{round}"),
                [fingerprint.as_str()],
                at,
                &enforce.fights,
                None,
            );
        }
        Guards {
            fights,
            ..Guards::default()
        }
    };
    let killed = Policy::parse(r#"{"version":1,"kill_switch":true}"#).unwrap();
    for (policy, guards, disposition, why) in [
        (
            &killed,
            Guards::default(),
            Disposition::Stopped,
            "the kill switch is on",
        ),
        (
            &enforce,
            Guards {
                control_tripped: Some(trip.clone()),
                ..Guards::default()
            },
            Disposition::Tripped,
            "the control has tripped: 51 changes in an hour",
        ),
        (
            &enforce,
            Guards {
                resource_tripped: Some(trip.clone()),
                ..Guards::default()
            },
            Disposition::Tripped,
            "the control has tripped for this resource: 51 changes in an hour",
        ),
        (
            &enforce,
            Guards {
                fights,
                ..Guards::default()
            },
            Disposition::Tripped,
            "9 times in 24 hours",
        ),
    ] {
        let plan = decide_guarded(Some(&open), policy, Mode::Enforce, &guards)
            .plan
            .unwrap();
        assert_eq!(plan.disposition, disposition);
        assert!(
            plan.reasons.iter().any(|r| r.contains(why)),
            "{:?}",
            plan.reasons
        );
        assert_eq!(plan.changes.len(), 1, "what would be done is told");
        let notify = decide_guarded(Some(&open), policy, Mode::Notify, &guards)
            .plan
            .unwrap();
        assert_eq!(
            notify.disposition,
            Disposition::NotifyOnly,
            "a guard of nothing"
        );
    }
    let plan = decide_guarded(Some(&open), &enforce, Mode::Enforce, &one_less)
        .plan
        .unwrap();
    assert_eq!(
        plan.disposition,
        Disposition::Enforce,
        "the ninth time is still put right"
    );
}

#[test]
fn s9_what_was_there_before_enforce_stays_and_takes_nothing_with_it() {
    let old = exposures("a tcp 22 0.0.0.0/0")[0].fingerprint.clone();
    let guards = Guards {
        baseline: [old].into(),
        ..Guards::default()
    };
    let under = |policy: &str, group: &str| {
        let policy = Policy::parse(policy).unwrap();
        written(&decide_guarded(
            Some(&facts(group)),
            &policy,
            Mode::Enforce,
            &guards,
        ))
    };
    let unnamed = r#"{"version":1}"#;
    // The same opening under another id is still the old one.
    assert_eq!(
        under(unnamed, "b tcp 22 198.51.100.9/0"),
        lines(
            "Existing: it was there before the control was switched to `enforce`, and the policy's `existing` is `notify`"
        ),
    );
    // What is new goes, the old rule stays, and a neighbour's rule that is fine
    // by itself does not go for the old one's sake.
    assert_eq!(
        under(
            unnamed,
            "a tcp 22 0.0.0.0/0\n b tcp 3389 0.0.0.0/0\n c tcp 22 52.95.0.0/16"
        ),
        lines("revoke b"),
    );
    let fix = r#"{"version":1,"controls":{"open-ingress":{"existing":"enforce"}}}"#;
    assert_eq!(under(fix, "a tcp 22 0.0.0.0/0"), lines("revoke a"));
}

// --- 8. nothing to do -----------------------------------------------------

#[test]
fn s8_gone_empty_and_compliant_groups_need_nothing() {
    let gone = decide_guarded(None, &Policy::default(), Mode::Enforce, &Guards::default());
    assert_eq!(
        written(&gone),
        ["not applicable: the security group is gone"]
    );
    check("", "compliant");
    check(
        "a tcp 22 sg-2\n b -1 -1/-1 sg-1\n c tcp 443 0.0.0.0/0\n d tcp 22 10.0.0.0/8",
        "compliant",
    );
}

// --- what is said about it ------------------------------------------------

#[test]
fn group_references_and_neighbours_are_left_alone() {
    check(
        "a tcp 22 0.0.0.0/0\n b tcp 22 sg-2\n c tcp 22 10.0.0.0/8\n d tcp 22 8.8.8.8/32\n e -1 -1/-1 sg-1\n f tcp 443 0.0.0.0/0\n g tcp 22 52.1.0.0/16",
        "revoke a",
    );
}

#[test]
fn a_plan_holds_every_rule_it_touches_in_full() {
    let text = "a tcp 0-100 1.2.3.4/0 tag all until=2020-01-01\n b udp 1 ::/0\n c tcp 80 ::/0";
    let group = facts(text);
    let plan = decision("{}", text).plan.unwrap();
    let mut touched = group.rules.clone();
    touched.remove("c");
    assert_eq!(plan.before(), touched);
    assert_eq!(
        plan.before()["a"].description.as_deref(),
        Some("why a is there")
    );
    assert_eq!(plan.before()["a"].tags.len(), 1);
    assert_eq!(plan.before()["a"].source, Source::Ipv4("1.2.3.4/0".into()));
}

#[test]
fn exposures_say_what_goes_and_what_stays() {
    let said = |group: &str| {
        let exposures = exposures(group);
        let one = &exposures[0];
        format!("{} | {}", one.exposed.join(", "), one.allowed.join(", "))
    };
    assert_eq!(said("a tcp 22 0.0.0.0/0"), "tcp 22 | ");
    assert_eq!(said("a tcp 79-80 ::/0"), "tcp 79 | tcp 80");
    assert_eq!(said("a tcp 21-80 ::/0"), "tcp 21-79 | tcp 80");
    assert_eq!(said("a udp none ::/0"), "all udp ports | ");
    assert_eq!(
        said("a -1 -1/-1 0.0.0.0/0"),
        "tcp 0-79, tcp 81-442, tcp 444-65535, all udp ports, the other types of icmp, every other protocol | tcp 80, tcp 443, icmp type 3 code 4, icmp type 8",
    );
    assert_eq!(
        said("a icmp -1/-1 0.0.0.0/0"),
        "the other types of icmp | icmp type 3 code 4, icmp type 8"
    );
    assert_eq!(said("a 47 -1/-1 0.0.0.0/0"), "protocol 47 | ");
}

#[test]
fn how_much_a_source_admits_and_whether_it_has_a_private_part() {
    for (source, addresses, private) in [
        ("52.0.0.0/7", 1_u128 << 25, false),
        ("8.0.0.0/6", 3 << 24, true), // with 10.0.0.0/8
        ("172.0.0.0/7", (1 << 25) - (1 << 20), true),
        ("0.0.0.0/0", 3_702_258_688, true),
        ("2600::/12", 1 << 116, false),
        ("2000::/15", (1 << 113) - (1 << 96) - (1 << 80), true),
        (
            "2000::/3",
            (1 << 125) - (1 << 96) - (1 << 80) - (1 << 108),
            true,
        ),
        (
            "::/0",
            (1 << 125) - (1 << 96) - (1 << 80) - (1 << 108),
            true,
        ),
    ] {
        let exposure = &exposures(&format!("a tcp 22 {source}"))[0];
        assert_eq!(
            exposure.reach,
            Some(plan::Reach {
                public_addresses: addresses,
                private_part: private,
            }),
            "{source}"
        );
    }
    let exposure =
        &exposures("pl-1 = 52.0.0.0/8 52.0.0.0/9 54.0.0.0/8 10.0.0.0/24\n a tcp 22 pl-1")[0];
    assert_eq!(
        exposure.reach,
        Some(plan::Reach {
            public_addresses: 1 << 25,
            private_part: true,
        })
    );
}

#[test]
fn severity_is_critical_where_a_high_risk_port_is_open() {
    for (group, expected) in [
        ("a tcp 22 0.0.0.0/0", Severity::Critical),
        ("a udp 22 0.0.0.0/0", Severity::Critical),
        ("a tcp 20-24 ::/0", Severity::Critical),
        ("a -1 -1/-1 ::/0", Severity::Critical),
        ("a tcp 1-19 ::/0", Severity::High),
        ("a tcp 24 ::/0", Severity::High),
        ("a icmp -1/-1 0.0.0.0/0", Severity::High),
        ("a icmp 0/22 0.0.0.0/0", Severity::High),
        ("a 47 -1/-1 0.0.0.0/0", Severity::High),
        // What stays does not count, and the worst rule decides.
        ("a tcp 20-25 10.0.0.0/8\n b tcp 24 ::/0", Severity::High),
        (
            "a tcp 24 ::/0\n b tcp 22 0.0.0.0/0\n c tcp 26 ::/0",
            Severity::Critical,
        ),
    ] {
        assert_eq!(severity(group), expected, "{group}");
    }
}

#[test]
fn a_fingerprint_stays_when_a_rule_is_put_back_under_another_id() {
    let of = |group: &str| exposures(group)[0].fingerprint.clone();
    let first = of("a tcp 22 0.0.0.0/0");
    for same in [
        "zz tcp 22 0.0.0.0/0",
        "a tcp 22 9.9.9.9/0",
        "a 6 22 0.0.0.0/0",
        "a tcp 22 0.0.0.0/0 tag all",
        "b tcp 22 0.0.0.0/0\n c tcp 23 0.0.0.0/0",
    ] {
        assert_eq!(of(same), first, "{same}");
    }
    for other in [
        "a tcp 23 0.0.0.0/0",
        "a tcp 22-23 0.0.0.0/0",
        "a udp 22 0.0.0.0/0",
        "a tcp 22 ::/0",
        "a tcp 22 0.0.0.0/1",
        "pl-1 = 0.0.0.0/0\n a tcp 22 pl-1",
    ] {
        assert_ne!(of(other), first, "{other}");
    }
}

// --- 10. what cannot be judged ---------------------------------------------

const CLOSE: &str = r#"{"unreadable_lists":"close"}"#;
const NOT_SHOWN: &str = "a was not judged: the prefix list pl-1 (owner: unknown) cannot be read: InvalidPrefixListID.NotFound";

fn found(settings: &str, group: &str) -> Vec<(String, bool)> {
    let decision = decision(settings, group);
    let exposures = decision.finding().map_or(&[][..], |f| &f.exposures);
    exposures
        .iter()
        .map(|e| (e.item.clone(), e.unjudged.is_some()))
        .collect()
}

#[test]
fn s10_a_list_that_cannot_be_read_is_a_finding_and_closed_only_by_policy() {
    let group = "pl-1 unreadable\n a tcp 22 pl-1";
    check(
        group,
        &format!("NotifyOnly: {NOT_SHOWN}; it cannot be judged"),
    );
    assert_eq!(found("{}", group), [("a".to_owned(), true)]);
    assert_eq!(
        severity(group),
        Severity::Medium,
        "nothing is known to be open"
    );
    check_under(CLOSE, group, &format!("Enforce: {NOT_SHOWN}\n revoke a"));

    // With its owner, where EC2 says who that is.
    check(
        "pl-1 unreadable 444455556666\n a tcp 22 pl-1",
        "NotifyOnly: a was not judged: the prefix list pl-1 (owner: 444455556666) cannot be read: InvalidPrefixListID.NotFound; it cannot be judged",
    );
    // What other rules admit is closed beside it.
    let both = "pl-1 unreadable\n a tcp 22 pl-1\n b tcp 22 0.0.0.0/0";
    check(both, &format!("Enforce: {NOT_SHOWN}\n revoke b"));
    assert_eq!(
        found("{}", both),
        [("a".to_owned(), true), ("b".to_owned(), false)]
    );
    assert_eq!(severity(both), Severity::Critical);
    check_under(
        CLOSE,
        both,
        &format!("Enforce: {NOT_SHOWN}\n revoke a\n revoke b"),
    );
}

#[test]
fn s10_whoever_a_list_admits_the_ports_that_the_policy_allows_may_stay() {
    for settings in ["{}", CLOSE] {
        for rule in ["a tcp 443 pl-1", "a tcp 80 pl-1", "a icmp 8/-1 pl-1"] {
            check_under(settings, &format!("pl-1 unreadable\n {rule}"), "compliant");
        }
    }
    let high_risk = r#"{"allow":"high-risk-ports","unreadable_lists":"close"}"#;
    check_under(high_risk, "pl-1 unreadable\n a tcp 9 pl-1", "compliant");
    for (rule, plan) in [
        ("a tcp 0-1024 pl-1", "narrow a to tcp 80, authorise tcp 443"),
        (
            "a -1 -1/-1 pl-1",
            "narrow a to tcp 80, authorise tcp 443, authorise icmp 3/4, authorise icmp 8/-1, authorise icmpv6 2/-1, authorise icmpv6 128/-1",
        ),
    ] {
        let group = format!("pl-1 unreadable\n {rule}");
        check_under(CLOSE, &group, &format!("Enforce: {NOT_SHOWN}\n {plan}"));
    }
}

#[test]
fn s10_a_list_that_ec2_refuses_to_show_is_told_and_never_closed() {
    let refused = "NotifyOnly: a was not judged: the prefix list pl-1 (owner: unknown) cannot be read: UnauthorizedOperation; it cannot be judged";
    for settings in ["{}", CLOSE] {
        check_under(settings, "pl-1 refused\n a tcp 22 pl-1", refused);
    }
}

#[test]
fn s10_a_list_that_a_retry_may_read_keeps_no_other_rule_from_being_judged() {
    for settings in ["{}", CLOSE] {
        check_under(settings, "pl-1 throttled\n a tcp 22 pl-1", "compliant");
        check_under(
            settings,
            "pl-1 throttled\n a tcp 22 pl-1\n b tcp 22 0.0.0.0/0",
            "Enforce: the prefix list pl-1 could not be read and was not judged: RequestLimitExceeded
             revoke b",
        );
    }
    let group = facts("pl-1 throttled\n pl-2 unreadable\n a tcp 22 pl-1\n b tcp 22 pl-2");
    assert_eq!(
        OpenIngress::unread(&group),
        ["the prefix list pl-1 could not be read and was not judged: RequestLimitExceeded"]
    );
}

#[test]
fn s10_what_is_not_judged_takes_no_neighbour_with_it_and_holds_to_opt_outs() {
    check_under(
        CLOSE,
        "pl-1 unreadable\n a tcp 22 pl-1\n b tcp 22 52.0.0.0/8",
        &format!("Enforce: {NOT_SHOWN}\n revoke a"),
    );
    for settings in ["{}", CLOSE] {
        check_under(
            settings,
            "pl-1 unreadable\n a tcp 22 pl-1 tag all until=2027-01-31",
            &format!("Exempt: {NOT_SHOWN}; the tag backstop:opt-out opts it out"),
        );
    }
    check(
        "owner 444455556666\n pl-1 unreadable\n a tcp 22 pl-1",
        &format!("NotOwned: {NOT_SHOWN}; the resource belongs to the account 444455556666"),
    );
}

#[test]
fn s10_what_is_only_told_is_told_in_every_mode_and_whatever_has_tripped() {
    let group = facts("pl-1 unreadable\n a tcp 22 pl-1");
    let trip = Trip {
        at: "2026-11-24T09:00:00Z".parse().unwrap(),
        why: "the budget is used up".to_owned(),
    };
    let tripped = Guards {
        control_tripped: Some(trip.clone()),
        resource_tripped: Some(trip),
        ..Guards::default()
    };
    for mode in [Mode::Notify, Mode::Enforce] {
        for guards in [&Guards::default(), &tripped] {
            let decision = decide_guarded(Some(&group), &policy("{}"), mode, guards);
            assert_eq!(decision.plan.unwrap().because, Some(Reason::NotJudged));
        }
    }
    // With nothing to be closed the baseline has nothing to spare.
    let decision = decide(&group, &policy("{}"), Mode::Enforce);
    assert_eq!(sweep::baseline(&decision), Vec::<String>::new());
    assert_eq!(sweep::reason(&decision), Some("it cannot be judged"));
    assert_eq!(
        sweep::baseline(&decide(&group, &policy(CLOSE), Mode::Enforce)).len(),
        1
    );
}

#[test]
fn s10_a_source_is_read_where_it_is_certain_and_else_told_as_not_judged() {
    let with = |source: Source| {
        let mut group = facts("a tcp 22 0.0.0.0/0");
        group.rules.get_mut("a").unwrap().source = source;
        group
    };
    let v4 = |text: &str| with(Source::Ipv4(text.to_owned()));
    let v6 = |text: &str| with(Source::Ipv6(text.to_owned()));
    let listed = |entries: &[&str]| {
        let mut group = facts("a tcp 22 pl-1");
        let entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
        let list = PrefixList::of(Entries::Read(entries));
        group.prefix_lists.insert("pl-1".to_owned(), list);
        group
    };
    for group in [
        v4("0/0"),
        v4("0.0.0.0/0 "),
        v4(" 0.0.0.0/0"),
        v6("::0/0"),
        v6(" ::/0"),
        listed(&["0/0"]),
        listed(&["0.0.0.0/0 "]),
        listed(&["10.0.0.0/8", "::/0\n"]),
        // What can be read is too much already.
        listed(&["0.0.0.0/0", "everybody"]),
    ] {
        let decision = decide(&group, &policy("{}"), Mode::Enforce);
        assert_eq!(written(&decision), ["revoke a"], "{group:?}");
    }
    for (group, why) in [
        (v4("10/8"), "its source `10/8` is no CIDR block"),
        (v4(""), "its source `` is no CIDR block"),
        (v6("::/129"), "its source `::/129` is no CIDR block"),
        (
            listed(&["10.0.0.0/8", "everybody", "10/8"]),
            "the prefix list pl-1 (owner: unknown) has entries that are no CIDR blocks: `10/8, everybody`",
        ),
    ] {
        let decision = decide(&group, &policy("{}"), Mode::Enforce);
        let told = format!("NotifyOnly: a was not judged: {why}; it cannot be judged");
        assert_eq!(written(&decision), [told]);
        let decision = decide(&group, &policy(CLOSE), Mode::Enforce);
        let closed = format!("Enforce: a was not judged: {why}");
        assert_eq!(written(&decision), [closed, "revoke a".to_owned()]);
    }
    check("pl-1 = 10.0.0.0/8 52.0.0.0/8\n a tcp 22 pl-1", "compliant");
    // A list that is not among the facts is not known to admit nobody.
    assert_eq!(found("{}", "a tcp 22 pl-9"), [("a".to_owned(), true)]);
}

#[test]
fn s10_lists_of_other_accounts_are_known_by_their_owner() {
    let group = facts(
        "pl-1 unreadable 444455556666\n pl-2 unreadable\n pl-3 unreadable AWS\n pl-4 unreadable 111122223333",
    );
    assert_eq!(
        OpenIngress::of_others(&group, ACCOUNT),
        BTreeMap::from([("pl-1".to_owned(), "444455556666".to_owned())])
    );
}

#[test]
fn s10_what_is_left_unjudged_fails_no_run_and_counts_for_no_fight() {
    let group = facts("pl-1 unreadable\n a tcp 22 pl-1\n b tcp 22 0.0.0.0/0");
    let decision = decide(&group, &policy("{}"), Mode::Enforce);
    let trigger = Trigger {
        region: "eu-central-1".into(),
        account: ACCOUNT.into(),
        resource: "sg-1".into(),
        actor: Actor::default(),
    };
    let about = decide::About {
        id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
        trigger: &trigger,
        owner_tag: "owner",
        policy_version: 1,
        now: "2026-11-24T10:00:00Z".parse().unwrap(),
    };
    let mut entry = decide::entry::<OpenIngress>(Some(&group), &decision, about).unwrap();
    let closed: Vec<&str> = entry.closed_fingerprints().collect();
    assert_eq!(closed, [entry.detail.exposures[1].fingerprint.as_str()]);

    entry.add_round([Outcome {
        round: 0,
        item: "b".into(),
        step: Step::Revoke,
        permission: None,
        created: None,
        without: None,
        ending: Ending::Done,
    }]);
    let mut after = group.clone();
    after.rules.remove("b");
    let now = decide(&after, &policy("{}"), Mode::Enforce);
    let verified = decide::verify::<OpenIngress>(&entry, &group.rules, &after.rules, &now);
    assert!(verified.passed(), "{verified:?}");
    // Where the policy says to close it, it has to be gone.
    let now = decide(&after, &policy(CLOSE), Mode::Enforce);
    let verified = decide::verify::<OpenIngress>(&entry, &group.rules, &after.rules, &now);
    assert!(!verified.passed(), "{verified:?}");

    // What turns out to be open is news, although it is the same rule.
    let mode = Mode::Notify;
    let entry_of = |text: &str| {
        let group = facts(text);
        let decision = decide(&group, &policy("{}"), mode);
        let entry = decide::entry::<OpenIngress>(Some(&group), &decision, about).unwrap();
        (entry.state_key(), entry.page_key())
    };
    let unjudged = entry_of("pl-1 unreadable\n a tcp 22 pl-1");
    let open = entry_of("pl-1 = 0.0.0.0/0\n a tcp 22 pl-1");
    assert!(unjudged.0 != open.0 && unjudged.1 != open.1);
}
