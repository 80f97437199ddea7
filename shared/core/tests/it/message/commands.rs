//! A shell reads the commands as they are meant, whatever descriptions, tags
//! and names hold.

use backstop_core::exemption::{self, Exemption, OPT_OUT_TAG};
use backstop_core::plan::{Ending, Step};
use backstop_core::ports::Permission;
use backstop_core::rules::OptOutRules;
use backstop_core::security_group::Source;
use backstop_core::words::ControlId;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{
    Entry, carried_out, exposure, mail, narrowed, outcome, revoke, revoked, rule, ssh,
};

/// Splits a line as a POSIX shell does. It knows plain words, single quotes
/// and `\'`, and panics at everything else that a shell would act on.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let word = words.last_mut().unwrap();
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => word.push(c),
            '\\' => {
                assert_eq!(chars.next(), Some('\''), "an escape in {line}");
                word.push('\'');
            }
            ' ' => words.push(String::new()),
            c if c.is_ascii_alphanumeric() || "-_./:".contains(c) => word.push(c),
            c => panic!("`{c}` stands unquoted in {line}"),
        }
    }
    assert!(!quoted, "an open quote in {line}");
    words
}

/// The commands of a mail, in order, split into words.
fn commands(entry: &Entry) -> Vec<Vec<String>> {
    mail(entry)
        .lines()
        .filter(|line| line.starts_with("aws ec2 "))
        .map(words)
        .collect()
}

fn option<'a>(command: &'a [String], name: &str) -> &'a str {
    let at = command.iter().position(|word| word == name).unwrap();
    &command[at + 1]
}

fn option_json(command: &[String], name: &str) -> Value {
    serde_json::from_str(option(command, name)).unwrap()
}

fn operations(entry: &Entry) -> Vec<String> {
    commands(entry)
        .iter()
        .map(|command| command[2].clone())
        .collect()
}

#[test]
fn a_narrowed_rule_is_tagged_then_widened_then_its_parts_go() {
    let commands = commands(&narrowed());
    assert_eq!(
        operations(&narrowed()),
        [
            "create-tags",
            "modify-security-group-rules",
            "revoke-security-group-ingress",
        ]
    );
    assert_eq!(
        option_json(&commands[1], "--security-group-rules"),
        json!([{
            "SecurityGroupRuleId": "sgr-0bbbbbbbbbbbbbbbb",
            "SecurityGroupRule": {
                "IpProtocol": "tcp", "FromPort": 0, "ToPort": 9000, "CidrIpv4": "0.0.0.0/0",
                "Description": "everything; ask Bob",
            },
        }])
    );
    assert_eq!(
        option(&commands[2], "--security-group-rule-ids"),
        "sgr-0cccccccccccccccc"
    );
}

#[test]
fn a_rule_that_somebody_revoked_after_we_narrowed_it_is_authorised_anew() {
    let mut entry = narrowed();
    entry
        .detail
        .after
        .insert("sgr-0bbbbbbbbbbbbbbbb".to_owned(), None);
    assert_eq!(
        operations(&entry),
        [
            "authorize-security-group-ingress",
            "revoke-security-group-ingress",
        ]
    );
}

#[test]
fn only_what_really_happened_is_taken_back() {
    let mut entry = revoked();
    for ending in [
        Ending::AlreadyDone,
        Ending::Skipped {
            why: "why".to_owned(),
        },
        super::fixtures::denied("RevokeSecurityGroupIngress"),
    ] {
        entry.detail.outcomes[0].ending = ending;
        assert!(commands(&entry).is_empty());
    }
    // A part of ours that a step of ours took back again is no part any more.
    let mut entry = narrowed();
    entry.detail.outcomes[2].ending = Ending::AlreadyDone;
    assert_eq!(operations(&entry), ["revoke-security-group-ingress"]);
    let mut taken_back = outcome(
        &entry.detail.exposures[0].state,
        Step::TakeBack,
        Ending::Done,
    );
    taken_back.created = Some("sgr-0cccccccccccccccc".to_owned());
    entry.detail.outcomes.push(taken_back);
    assert!(commands(&entry).is_empty());
}

#[test]
fn a_done_step_counts_even_when_a_retry_finds_it_done() {
    let mut entry = revoked();
    entry
        .detail
        .outcomes
        .push(outcome(&ssh(), Step::Revoke, Ending::AlreadyDone));
    assert_eq!(operations(&entry), ["authorize-security-group-ingress"]);
}

#[test]
fn every_kind_of_source_is_put_back() {
    for (source, list, expected) in [
        (
            Source::Ipv4("0.0.0.0/0".into()),
            "IpRanges",
            json!([{ "CidrIp": "0.0.0.0/0" }]),
        ),
        (
            Source::Ipv6("::/0".into()),
            "Ipv6Ranges",
            json!([{ "CidrIpv6": "::/0" }]),
        ),
        (
            Source::PrefixList("pl-1".into()),
            "PrefixListIds",
            json!([{ "PrefixListId": "pl-1" }]),
        ),
        (
            Source::SecurityGroup("sg-1".into()),
            "UserIdGroupPairs",
            json!([{ "GroupId": "sg-1" }]),
        ),
        (
            Source::SecurityGroup("444455556666/sg-1".into()),
            "UserIdGroupPairs",
            json!([{ "GroupId": "sg-1", "UserId": "444455556666" }]),
        ),
    ] {
        let rule = rule(
            "sgr-0aaaaaaaaaaaaaaaa",
            Permission::new("tcp", 22, 22),
            source,
        );
        let entry = carried_out(
            vec![exposure(&rule, &["tcp 22"], &[])],
            vec![revoke(&rule)],
            vec![outcome(&rule, Step::Revoke, Ending::Done)],
        );
        let permissions = option_json(&commands(&entry)[0], "--ip-permissions");
        assert_eq!(permissions[0][list], expected);
    }
}

#[test]
fn the_opt_outs_that_a_message_proposes_hold() {
    let started = jiff::civil::date(2026, 11, 24);
    let strict = OptOutRules {
        require_end: true,
        ..OptOutRules::default()
    };
    let read = |value: &str| {
        let tags = [(OPT_OUT_TAG.to_owned(), value.to_owned())].into();
        exemption::read(&tags, ControlId::OpenIngress, started, &strict)
    };
    let undo = option_json(&commands(&narrowed())[0], "--tags");
    assert_eq!(undo[0]["Key"], OPT_OUT_TAG);
    assert!(matches!(
        read(undo[0]["Value"].as_str().unwrap()),
        Exemption::Exempt(_)
    ));

    for team in [
        None,
        Some("team-web"),
        Some("until=never"),
        Some("Team „Ä“ \n"),
        Some(""),
    ] {
        let mut entry = revoked();
        entry.head.team = team.map(str::to_owned);
        let mail = mail(&entry);
        let value = mail
            .lines()
            .find_map(|line| line.strip_prefix("- Value: "))
            .unwrap();
        let Exemption::Exempt(opt_out) = read(value) else {
            panic!("{value}")
        };
        assert_eq!(opt_out.until, Some(jiff::civil::date(2027, 2, 22)));
        let owner = if team == Some("team-web") {
            "team-web"
        } else {
            "your-team"
        };
        assert_eq!(opt_out.owner.as_deref(), Some(owner));
    }
}

proptest! {
    #[test]
    fn descriptions_and_tags_survive_the_shell(
        description in "\\PC{0,40}|[ -~]{0,60}|(.|\n|\r|\\x00|'|\\\\|\\$|`|\"|\u{202e}|😀){0,40}",
        key in "(.|'|\"|\n){1,30}",
        value in "(.|'|\"|\n){0,30}",
        region in ".{0,20}",
    ) {
        let mut rule = ssh();
        rule.description = Some(description.clone());
        rule.tags.insert(key.clone(), value.clone());
        let mut entry = carried_out(
            vec![exposure(&rule, &["tcp 22"], &[])],
            vec![revoke(&rule)],
            vec![outcome(&rule, Step::Revoke, Ending::Done)],
        );
        entry.head.region = region;
        let commands = commands(&entry);
        prop_assert_eq!(commands.len(), 1);
        let permissions = option_json(&commands[0], "--ip-permissions");
        prop_assert_eq!(permissions[0]["IpRanges"][0]["Description"].as_str(), Some(description.as_str()));
        let tags = option_json(&commands[0], "--tag-specifications");
        let own = json!({ "Key": key, "Value": value });
        if !key.starts_with("aws:") {
            prop_assert!(tags[0]["Tags"].as_array().unwrap().contains(&own));
        }
    }
}
