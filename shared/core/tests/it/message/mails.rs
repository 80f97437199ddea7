//! Whole mails, one for each way an entry may end.

use backstop_core::exemption::Exemption;
use backstop_core::plan::{Disposition, Ending, Outcome, Reach, Step, Unjudged, Without};
use backstop_core::ports::Permission;
use backstop_core::reason::Reason;
use backstop_core::security_group::Source;
use backstop_core::words::{Actor, Severity, Status};
use expect_test::expect;

use super::fixtures::{
    Change, carried_out, denied, exposure, found, mail, narrowed, opt_out, outcome, part, revoke,
    revoked, rule, ssh, unchanged, world,
};

#[test]
fn remediated_by_a_revoke() {
    expect![[r#"
        Subject: [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22

        FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - sgr-0aaaaaaaaaaaaaaaa was revoked.
        - Looked again: the exposure is closed.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be open" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        Good to know
        - A rule for the whole internet also admits your private networks; they went with it (sgr-0aaaaaaaaaaaaaaaa). What used it from there needs a rule for its own range.
        - Connections that were open already may last: closing a port does not end them.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          revoke it: done
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        PUT IT BACK
        Only if it is meant to be open. For bash or zsh, one after the other. Every rule gets an opt-out until 2027-02-22; a rule that was revoked gets a new id.

        Rule sgr-0aaaaaaaaaaaaaaaa (tcp 22 from 0.0.0.0/0):
        aws ec2 authorize-security-group-ingress --region eu-central-1 --group-id sg-0123456789abcdef0 --ip-permissions '[{"FromPort":22,"IpProtocol":"tcp","IpRanges":[{"CidrIp":"0.0.0.0/0","Description":"ssh for the migration"}],"ToPort":22}]' --tag-specifications '[{"ResourceType":"security-group-rule","Tags":[{"Key":"backstop:opt-out","Value":"open-ingress until=2027-02-22 reason=undo"}]}]'

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&revoked()));
}

#[test]
fn remediated_by_narrowing_with_everything_there_is_to_say() {
    let mut entry = narrowed();
    entry.head.exemption = Exemption::Ended(opt_out(Some("2026-11-23")));
    let mut kept = exposure(
        &rule(
            "sgr-0dddddddddddddddd",
            Permission::new("tcp", 8080, 8080),
            world(),
        ),
        &["tcp 8080"],
        &[],
    );
    kept.exemption = Exemption::Exempt(opt_out(None));
    let mut misspelt = kept.clone();
    misspelt.item = "sgr-0eeeeeeeeeeeeeeee".to_owned();
    misspelt.state.id.clone_from(&misspelt.item);
    misspelt.exemption = Exemption::Malformed {
        value: "true".to_owned(),
        problem: "`true` is neither `all` nor the name of a control".to_owned(),
        key: None,
        longest_days: None,
    };
    entry.detail.exposures.extend([kept, misspelt]);
    let verification = entry.detail.verification.as_mut().unwrap();
    verification
        .by_others
        .push("sgr-0ffffffffffffffff (tcp 443 from 10.0.0.0/8) was added".to_owned());
    entry.detail.plan.reasons.push("the prefix list pl-0123456789abcdef0 could not be read and was not judged: InvalidPrefixListID.NotFound".to_owned());
    entry.head.actor.invoked_by = Some("cloudformation.amazonaws.com".to_owned());
    entry.head.actor.user_agent = None;
    entry.head.actor.source_address = None;
    entry.head.attempts = 2;
    expect![[r#"
        Subject: [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79 and 3 more

        FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000, LOST with it: tcp 8443
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was allowed and is closed now
        - LOST: tcp 8443, which sgr-0bbbbbbbbbbbbbbbb allowed: the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries.

        What was open
        - tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb

        What was done
        - sgr-0bbbbbbbbbbbbbbbb was narrowed to tcp 80; a rule of its own keeps tcp 443 open.
        - Looked again: the exposure is closed.
        - Changed by others meanwhile: sgr-0ffffffffffffffff (tcp 443 from 10.0.0.0/8) was added.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice, through cloudformation.amazonaws.com
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: unknown
        - With: unknown

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be open" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        Good to know
        - The opt-out of the group or its VPC has ended: it held until 2026-11-23, by team-web: vendor audit.
        - sgr-0dddddddddddddddd was left as it is: its tag opts it out without an end, by team-web: vendor audit.
        - sgr-0eeeeeeeeeeeeeeee was left as it is. The tag backstop:opt-out of the rule cannot be read: its value is `true`, and `true` is neither `all` nor the name of a control.
        - A rule for the whole internet also admits your private networks; they went with it (sgr-0bbbbbbbbbbbbbbbb). What used it from there needs a rule for its own range.
        - Connections that were open already may last: closing a port does not end them.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0bbbbbbbbbbbbbbbb: tcp 0-9000 from 0.0.0.0/0, described as: everything; ask Bob
          too open: tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000; tcp 80, tcp 443, tcp 8443 may stay
          admits about 3.7 billion public addresses, and private ones
          keep tcp 443 open by a rule of its own (sgr-0cccccccccccccccc): done
          keep tcp 8443 open by a rule of its own: not done: the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries
          narrow it to tcp 80: done
        Rule sgr-0dddddddddddddddd: tcp 8080 from 0.0.0.0/0, no description
          too open: tcp 8080; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          opted out without an end, by team-web: vendor audit
        Rule sgr-0eeeeeeeeeeeeeeee: tcp 8080 from 0.0.0.0/0, no description
          too open: tcp 8080; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          its opt-out tag cannot be read: `true` is neither `all` nor the name of a control
        Reason: the prefix list pl-0123456789abcdef0 could not be read and was not judged: InvalidPrefixListID.NotFound
        Begun: 2026-11-24 10:00:00 UTC, attempts: 2
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        PUT IT BACK
        Only if it is meant to be open. For bash or zsh, one after the other. Every rule gets an opt-out until 2027-02-22; a rule that was revoked gets a new id.

        Rule sgr-0bbbbbbbbbbbbbbbb (tcp 0-9000 from 0.0.0.0/0):
        aws ec2 create-tags --region eu-central-1 --resources sgr-0bbbbbbbbbbbbbbbb --tags '[{"Key":"backstop:opt-out","Value":"open-ingress until=2027-02-22 reason=undo"}]'
        aws ec2 modify-security-group-rules --region eu-central-1 --group-id sg-0123456789abcdef0 --security-group-rules '[{"SecurityGroupRule":{"CidrIpv4":"0.0.0.0/0","Description":"everything; ask Bob","FromPort":0,"IpProtocol":"tcp","ToPort":9000},"SecurityGroupRuleId":"sgr-0bbbbbbbbbbbbbbbb"}]'
        aws ec2 revoke-security-group-ingress --region eu-central-1 --group-id sg-0123456789abcdef0 --security-group-rule-ids sgr-0cccccccccccccccc

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn a_part_that_was_refused_is_named_first_and_what_another_lacks_is_said() {
    let mut entry = narrowed();
    let [kept, lost, _] = &mut entry.detail.outcomes[..] else {
        panic!("three steps")
    };
    kept.without = Some(Without {
        tags: true,
        description: false,
        why: "AuthorizeSecurityGroupIngress: UnauthorizedOperation: no ec2:CreateTags".to_owned(),
    });
    lost.ending = Ending::Skipped {
        why: "EC2 refuses it: AuthorizeSecurityGroupIngress: InvalidParameterValue: no such description".to_owned(),
    };
    let mail = mail(&entry);
    let told = mail.split("Who touched it last").next().unwrap();
    expect![[r#"
        Subject: [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79 and 3 more

        FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000, LOST with it: tcp 8443
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was allowed and is closed now
        - LOST: tcp 8443, which sgr-0bbbbbbbbbbbbbbbb allowed: EC2 refuses it: AuthorizeSecurityGroupIngress: InvalidParameterValue: no such description.

        What was open
        - tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb

        What was done
        - sgr-0bbbbbbbbbbbbbbbb was narrowed to tcp 80; a rule of its own keeps tcp 443 open.
        - sgr-0cccccccccccccccc (tcp 443) was made without its tags, which AWS refused: AuthorizeSecurityGroupIngress: UnauthorizedOperation: no ec2:CreateTags.
        - Looked again: the exposure is closed.

    "#]].assert_eq(told);
}

#[test]
fn what_cannot_be_judged_is_told_with_the_owner_of_the_list() {
    let of_list = rule(
        "sgr-0eeeeeeeeeeeeeeee",
        Permission::new("tcp", 22, 22),
        Source::PrefixList("pl-0123456789abcdef0".to_owned()),
    );
    let unjudged = |owner: Option<&str>| {
        let mut exposure = exposure(&of_list, &["tcp 22"], &[]);
        exposure.reach = None;
        exposure.unjudged = Some(Unjudged::PrefixList {
            id: "pl-0123456789abcdef0".to_owned(),
            owner: owner.map(str::to_owned),
            why: "GetManagedPrefixListEntries: InvalidPrefixListID.NotFound: The prefix list ID 'pl-0123456789abcdef0' does not exist".to_owned(),
        });
        exposure
    };
    let mut entry = unchanged(vec![unjudged(None)], Reason::NotJudged);
    entry.head.severity = Severity::Medium;
    expect![[r#"
        Subject: [Backstop] FOUND medium: sg-0123456789abcdef0 is open to sources that cannot be judged on tcp 22

        FOUND medium: sg-0123456789abcdef0 (web) is open to sources that cannot be judged on tcp 22, nothing was changed
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the prefix list pl-0123456789abcdef0, which cannot be read (owner: unknown), by rule sgr-0eeeeeeeeeeeeeeee

        What was done
        - Nothing was changed: what is found here cannot be judged.

        What could not be judged
        - sgr-0eeeeeeeeeeeeeeee: the prefix list pl-0123456789abcdef0 (owner: unknown) cannot be read: GetManagedPrefixListEntries: InvalidPrefixListID.NotFound: The prefix list ID 'pl-0123456789abcdef0' does not exist.
        - A rule goes on admitting what is in a list that is no longer shared, its later versions as well: have the owner share the list with this account, or name other sources in the rule.
        - To have it closed, set `"unreadable_lists": "close"` in the settings of open-ingress in the policy.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0eeeeeeeeeeeeeeee: tcp 22 from pl-0123456789abcdef0, no description
          not judged: tcp 22; nothing of it may stay
          the prefix list pl-0123456789abcdef0 (owner: unknown) cannot be read: GetManagedPrefixListEntries: InvalidPrefixListID.NotFound: The prefix list ID 'pl-0123456789abcdef0' does not exist
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));

    // Beside a hole that was closed.
    let mut beside = revoked();
    beside.detail.exposures.push(unjudged(Some("444455556666")));
    let mail = mail(&beside);
    let told = mail.split("Who touched it last").next().unwrap();
    expect![[r#"
        Subject: [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22

        FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - sgr-0aaaaaaaaaaaaaaaa was revoked.
        - Looked again: the exposure is closed.

        What could not be judged
        - sgr-0eeeeeeeeeeeeeeee: the prefix list pl-0123456789abcdef0 (owner: 444455556666) cannot be read: GetManagedPrefixListEntries: InvalidPrefixListID.NotFound: The prefix list ID 'pl-0123456789abcdef0' does not exist.
        - A rule goes on admitting what is in a list that is no longer shared, its later versions as well: have the owner share the list with this account, or name other sources in the rule.
        - To have it closed, set `"unreadable_lists": "close"` in the settings of open-ingress in the policy.

    "#]].assert_eq(told);
}

#[test]
fn remediated_by_revoking_after_its_parts_were_authorised() {
    let rule = rule(
        "sgr-0aaaaaaaaaaaaaaaa",
        Permission::new("-1", -1, -1),
        Source::Ipv6("::/0".to_owned()),
    );
    let change = Change {
        after: Some(part(&rule, 80)),
        add: vec![part(&rule, 443)],
        lost: vec!["every other protocol".to_owned()],
        ..revoke(&rule)
    };
    let made = |port, id: &str| Outcome {
        permission: Some(Permission::new("tcp", port, port)),
        created: Some(id.to_owned()),
        without: None,
        ..outcome(&rule, Step::Authorise, Ending::Done)
    };
    let entry = carried_out(
        vec![exposure(&rule, &["all traffic"], &["tcp 80", "tcp 443"])],
        vec![change],
        vec![
            made(443, "sgr-0bbbbbbbbbbbbbbbb"),
            made(80, "sgr-0cccccccccccccccc"),
            outcome(&rule, Step::Revoke, Ending::Done),
        ],
    );
    expect![[r#"
        Subject: [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on all traffic

        FIXED critical: sg-0123456789abcdef0 (web) was open to the world on all traffic, LOST with it: every other protocol
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was allowed and is closed now
        - LOST: every other protocol, which sgr-0aaaaaaaaaaaaaaaa allowed: too many rules would be needed to write it.

        What was open
        - all traffic to the whole IPv6 internet (::/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - sgr-0aaaaaaaaaaaaaaaa was revoked; 2 rules of their own keep tcp 80, tcp 443 open.
        - Looked again: the exposure is closed.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be open" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        Good to know
        - A rule for the whole internet also admits your private networks; they went with it (sgr-0aaaaaaaaaaaaaaaa). What used it from there needs a rule for its own range.
        - Connections that were open already may last: closing a port does not end them.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: all traffic from ::/0, no description
          too open: all traffic; tcp 80, tcp 443 may stay
          admits about 3.7 billion public addresses, and private ones
          keep tcp 80 open by a rule of its own (sgr-0cccccccccccccccc): done
          keep tcp 443 open by a rule of its own (sgr-0bbbbbbbbbbbbbbbb): done
          revoke it: done
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        PUT IT BACK
        Only if it is meant to be open. For bash or zsh, one after the other. Every rule gets an opt-out until 2027-02-22; a rule that was revoked gets a new id.

        Rule sgr-0aaaaaaaaaaaaaaaa (all traffic from ::/0):
        aws ec2 authorize-security-group-ingress --region eu-central-1 --group-id sg-0123456789abcdef0 --ip-permissions '[{"FromPort":-1,"IpProtocol":"-1","Ipv6Ranges":[{"CidrIpv6":"::/0"}],"ToPort":-1}]' --tag-specifications '[{"ResourceType":"security-group-rule","Tags":[{"Key":"backstop:opt-out","Value":"open-ingress until=2027-02-22 reason=undo"}]}]'
        aws ec2 revoke-security-group-ingress --region eu-central-1 --group-id sg-0123456789abcdef0 --security-group-rule-ids sgr-0bbbbbbbbbbbbbbbb sgr-0cccccccccccccccc

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn remediated_by_somebody_else_before_us() {
    let rule = ssh();
    let mut entry = revoked();
    entry.detail.outcomes = vec![outcome(&rule, Step::Revoke, Ending::AlreadyDone)];
    expect![[r#"
        Subject: [Backstop] FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22

        FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 22
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What was open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - It was fixed already when Backstop checked: by somebody else, or by an attempt of its own that was cut off.
        - sgr-0aaaaaaaaaaaaaaaa was gone already.
        - Looked again: the exposure is closed.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - No step of this entry is known to have changed anything. What was there before is in the ledger entry.

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          revoke it: it was so already
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn failed_in_part() {
    let (first, mut second) = (ssh(), ssh());
    second.id = "sgr-0bbbbbbbbbbbbbbbb".to_owned();
    second.permission = Permission::new("tcp", 3389, 3389);
    let mut entry = carried_out(
        vec![
            exposure(&first, &["tcp 22"], &[]),
            exposure(&second, &["tcp 3389"], &[]),
        ],
        vec![revoke(&first), revoke(&second)],
        vec![
            outcome(&first, Step::Revoke, Ending::Done),
            outcome(&second, Step::Revoke, denied("RevokeSecurityGroupIngress")),
        ],
    );
    entry.head.status = Status::Failed;
    let verification = entry.detail.verification.as_mut().unwrap();
    verification
        .remaining
        .push("sgr-0bbbbbbbbbbbbbbbb still admits tcp 3389 from 0.0.0.0/0".to_owned());
    expect![[r#"
        Subject: [Backstop] FAILED critical: sg-0123456789abcdef0 (web) may be open to the world on tcp 3389

        FAILED critical: sg-0123456789abcdef0 (web) may be open to the world on tcp 3389
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What may still be open
        - tcp 3389 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb

        What was done, and what failed
        - sgr-0bbbbbbbbbbbbbbbb: FAILED to revoke it: RevokeSecurityGroupIngress answered UnauthorizedOperation: You are not authorized to perform this operation. It is as it was.
        - sgr-0aaaaaaaaaaaaaaaa was revoked.
        - Looked again, and not in order: sgr-0bbbbbbbbbbbbbbbb still admits tcp 3389 from 0.0.0.0/0.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be open" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        Good to know
        - A rule for the whole internet also admits your private networks; they went with it (sgr-0aaaaaaaaaaaaaaaa). What used it from there needs a rule for its own range.
        - Connections that were open already may last: closing a port does not end them.
        - Backstop tries again by itself within minutes and tells you once it is fixed. If that message does not come, close it by hand.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          revoke it: done
        Rule sgr-0bbbbbbbbbbbbbbbb: tcp 3389 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 3389; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          revoke it: RevokeSecurityGroupIngress answered UnauthorizedOperation: You are not authorized to perform this operation.
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        PUT IT BACK
        Only if it is meant to be open. For bash or zsh, one after the other. Every rule gets an opt-out until 2027-02-22; a rule that was revoked gets a new id.

        Rule sgr-0aaaaaaaaaaaaaaaa (tcp 22 from 0.0.0.0/0):
        aws ec2 authorize-security-group-ingress --region eu-central-1 --group-id sg-0123456789abcdef0 --ip-permissions '[{"FromPort":22,"IpProtocol":"tcp","IpRanges":[{"CidrIp":"0.0.0.0/0","Description":"ssh for the migration"}],"ToPort":22}]' --tag-specifications '[{"ResourceType":"security-group-rule","Tags":[{"Key":"backstop:opt-out","Value":"open-ingress until=2027-02-22 reason=undo"}]}]'

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn failed_before_anything_was_changed() {
    let mut entry = found(vec![exposure(&ssh(), &["tcp 22"], &[])]);
    entry.head.status = Status::Failed;
    entry.detail.plan.reasons.push("the ledger cannot hold what was there before (412345 bytes, 998 rules), so nothing was changed: split the group, or mend it by hand".to_owned());
    expect![[r#"
        Subject: [Backstop] FAILED critical: sg-0123456789abcdef0 (web) may be open to the world on tcp 22

        FAILED critical: sg-0123456789abcdef0 (web) may be open to the world on tcp 22
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What may still be open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What failed
        - Nothing was changed.
        - Because the ledger cannot hold what was there before (412345 bytes, 998 rules), so nothing was changed: split the group, or mend it by hand.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
        Reason: the ledger cannot hold what was there before (412345 bytes, 998 rules), so nothing was changed: split the group, or mend it by hand
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn notified() {
    let mut entry = narrowed();
    entry.detail.outcomes.clear();
    entry.detail.verification = None;
    entry.detail.before.clear();
    entry.detail.plan.disposition = Disposition::NotifyOnly;
    entry
        .detail
        .plan
        .reasons
        .push("the mode is `notify`".to_owned());
    entry.head.status = Status::Notified;
    entry.head.team = None;
    entry.head.actor = Actor::default();
    expect![[r#"
        Subject: [Backstop] FOUND critical: sg-0123456789abcdef0 (web) is open to the world on tcp 0-79 and 3 more

        FOUND critical: sg-0123456789abcdef0 (web) is open to the world on tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000, nothing was changed
        Account 111122223333, eu-central-1. Team: unowned. Control: open-ingress.

        What is open
        - tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb

        What was done
        - Nothing was changed: the mode is `notify`. In the mode `enforce`, this would be done:
        - sgr-0bbbbbbbbbbbbbbbb would be narrowed to tcp 80; 2 rules of their own would keep tcp 443, tcp 8443 open.

        Who touched it last, as the event states
        - Who: unknown
        - Call: unknown
        - From: unknown
        - With: unknown

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=your-team reason=why it must stay open

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0bbbbbbbbbbbbbbbb: tcp 0-9000 from 0.0.0.0/0, described as: everything; ask Bob
          too open: tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000; tcp 80, tcp 443, tcp 8443 may stay
          admits about 3.7 billion public addresses, and private ones
        Reason: the mode is `notify`
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn exempt_by_the_group_and_by_a_rule() {
    let mut exposure = exposure(&ssh(), &["tcp 22"], &[]);
    let mut by_group = unchanged(vec![exposure.clone()], Reason::OptedOut);
    by_group.head.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    expect![[r#"
        Subject: [Backstop] EXEMPT critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        EXEMPT critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: a tag of the group or its VPC opts it out until 2027-01-31, by team-web: vendor audit.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to end the opt-out
        - Remove the tag backstop:opt-out from whatever carries it: the rule, the group or its VPC.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&by_group));

    exposure.exemption = Exemption::Exempt(opt_out(None));
    let by_rule = unchanged(vec![exposure], Reason::OptedOut);
    expect![[r#"
        Subject: [Backstop] EXEMPT critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        EXEMPT critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: every rule that is open is opted out.
        - sgr-0aaaaaaaaaaaaaaaa was left as it is: its tag opts it out without an end, by team-web: vendor audit.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to end the opt-out
        - Remove the tag backstop:opt-out from whatever carries it: the rule, the group or its VPC.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          opted out without an end, by team-web: vendor audit
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&by_rule));
}

#[test]
fn held() {
    let mut entry = unchanged(
        vec![exposure(&ssh(), &["tcp 22"], &[])],
        Reason::OptOutUnreadable,
    );
    entry.head.exemption = Exemption::Malformed {
        value: "open-ingress til=2027".to_owned(),
        problem: "`til=2027` is not `until=`, `owner=` or `reason=`".to_owned(),
        key: None,
        longest_days: None,
    };
    expect![[r#"
        Subject: [Backstop] HELD critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22

        HELD critical: sg-0123456789abcdef0 (web) is open to the world on tcp 22, its opt-out tag cannot be read
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed, and nothing will be until the opt-out tag is put right or removed.
        - The tag backstop:opt-out of the group or its VPC cannot be read: its value is `open-ingress til=2027`, and `til=2027` is not `until=`, `owner=` or `reason=`.
        - How it is to be written: `all` or control names joined by `+`, then optionally `until=YYYY-MM-DD`, `owner=…`, `reason=…`.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to opt out
        - Tag the rule, the security group, or its VPC where this account owns it:
        - Key: backstop:opt-out
        - Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn not_owned() {
    let mut list = exposure(
        &rule(
            "sgr-0aaaaaaaaaaaaaaaa",
            Permission::new("tcp", 22, 22),
            Source::PrefixList("pl-0123456789abcdef0".to_owned()),
        ),
        &["tcp 22"],
        &[],
    );
    list.reach = Some(Reach {
        public_addresses: 1 << 30,
        private_part: false,
    });
    let mut entry = unchanged(
        vec![list],
        Reason::NotOwned {
            owner: "444455556666".to_owned(),
        },
    );
    entry.head.resource =
        "arn:aws:ec2:eu-central-1:444455556666:security-group/sg-0123456789abcdef0".to_owned();
    expect![[r#"
        Subject: [Backstop] NOT OWNED critical: sg-0123456789abcdef0 (web) is open to much of the internet on tcp 22

        NOT OWNED critical: sg-0123456789abcdef0 (web) is open to much of the internet on tcp 22, it belongs to another account
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - tcp 22 to the prefix list pl-0123456789abcdef0 (about 1.0 billion public addresses), by rule sgr-0aaaaaaaaaaaaaaaa

        What was done
        - Nothing was changed: the security group belongs to the account 444455556666, and only that account should change it. Ask its owner to close it.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:444455556666:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from pl-0123456789abcdef0, no description
          too open: tcp 22; nothing of it may stay
          admits about 1.0 billion public addresses
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 1

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn opted_out_after_a_first_part_was_done() {
    let mut entry = revoked();
    entry.head.status = Status::Exempt;
    entry.detail.plan.disposition = Disposition::Exempt;
    entry.head.exemption = Exemption::Exempt(opt_out(Some("2027-01-31")));
    let added = rule(
        "sgr-0bbbbbbbbbbbbbbbb",
        Permission::new("udp", 53, 53),
        world(),
    );
    entry
        .detail
        .exposures
        .push(exposure(&added, &["udp 53"], &[]));
    expect![[r#"
        Subject: [Backstop] EXEMPT critical: sg-0123456789abcdef0 (web) is open to the world on udp 53

        EXEMPT critical: sg-0123456789abcdef0 (web) is open to the world on udp 53
        Account 111122223333, eu-central-1. Team: team-web. Control: open-ingress.

        What is open
        - udp 53 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb

        What was done, and why no more
        - Nothing more was changed: a tag of the group or its VPC opts it out until 2027-01-31, by team-web: vendor audit.
        - sgr-0aaaaaaaaaaaaaaaa was revoked.
        - Looked again: the exposure is closed.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC
        - From: 198.51.100.7
        - With: aws-cli/2.31.0

        How to take it back
        - backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason "why it must be open" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.

        How to end the opt-out
        - Remove the tag backstop:opt-out from whatever carries it: the rule, the group or its VPC.

        Good to know
        - A rule for the whole internet also admits your private networks; they went with it (sgr-0aaaaaaaaaaaaaaaa). What used it from there needs a rule for its own range.
        - Connections that were open already may last: closing a port does not end them.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0
        Rule sgr-0aaaaaaaaaaaaaaaa: tcp 22 from 0.0.0.0/0, described as: ssh for the migration
          too open: tcp 22; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
          revoke it: done
        Rule sgr-0bbbbbbbbbbbbbbbb: udp 53 from 0.0.0.0/0, no description
          too open: udp 53; nothing of it may stay
          admits about 3.7 billion public addresses, and private ones
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:01 UTC
        Policy version: 1

        PUT IT BACK
        Only if it is meant to be open. For bash or zsh, one after the other. Every rule gets an opt-out until 2027-02-22; a rule that was revoked gets a new id.

        Rule sgr-0aaaaaaaaaaaaaaaa (tcp 22 from 0.0.0.0/0):
        aws ec2 authorize-security-group-ingress --region eu-central-1 --group-id sg-0123456789abcdef0 --ip-permissions '[{"FromPort":22,"IpProtocol":"tcp","IpRanges":[{"CidrIp":"0.0.0.0/0","Description":"ssh for the migration"}],"ToPort":22}]' --tag-specifications '[{"ResourceType":"security-group-rule","Tags":[{"Key":"backstop:opt-out","Value":"open-ingress until=2027-02-22 reason=undo"}]}]'

        LEDGER ENTRY 01KAT5J3V0QZ8Y2N4M6P8R0T2W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}
