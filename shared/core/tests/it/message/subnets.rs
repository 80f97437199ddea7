//! Messages about `public-subnet`: two attributes that stay once they are off, and
//! what is only reported because something needs it.

use backstop_core::controls::public_subnet::{Assignment, PublicSubnet, Subnet};
use backstop_core::decide::{self, About, Circumstances};
use backstop_core::entry::Entry;
use backstop_core::guards::Guards;
use backstop_core::message::compose;
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::policy::{Governed, Policy};
use backstop_core::security_group::Tags;
use backstop_core::trigger::Trigger;
use backstop_core::words::{Actor, Mode};
use expect_test::expect;
use jiff::Timestamp;

use super::fixtures::body;
use super::hostile::check_against;
use super::schemas::NOTIFICATION;

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn subnet(is: bool) -> Subnet {
    Subnet {
        id: "subnet-0a3f5c7e91b2d4f60".to_owned(),
        arn: "arn:aws:ec2:eu-central-1:111122223333:subnet/subnet-0a3f5c7e91b2d4f60".to_owned(),
        owner: "111122223333".to_owned(),
        name: "web-a".to_owned(),
        tags: Tags::new(),
        vpc_opt_outs: Tags::new(),
        ipv4: is,
        ipv6: is,
        private_ipv6: false,
        ipv6_only: false,
        is_default: false,
        nodes: Vec::new(),
    }
}

fn entry(subnet: &Subnet) -> Entry<Assignment> {
    let trigger = Trigger {
        resource: subnet.id.clone(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        actor: Actor {
            principal: Some("arn:aws:sts::111122223333:assumed-role/developer/alice".into()),
            event_name: Some("ModifySubnetAttribute".into()),
            event_time: Some("2026-11-24T09:59:56Z".parse().unwrap()),
            ..Actor::default()
        },
    };
    let policy = Policy::default();
    let at = Circumstances {
        mode: Mode::Enforce,
        account: "111122223333",
        now: now(),
        guards: &Guards::default(),
    };
    let rules = PublicSubnet::rules(&policy);
    let decision = decide::decide::<PublicSubnet>(Some(subnet), &rules, &at);
    let about = About {
        id: "01M7SH8XYF6H0J2M4N8P7R3T1W",
        trigger: &trigger,
        owner_tag: "owner",
        policy_version: 7,
        now: now(),
    };
    decide::entry::<PublicSubnet>(Some(subnet), &decision, about).unwrap()
}

fn mail(entry: &Entry<Assignment>) -> String {
    let message = compose(&entry.erased().unwrap());
    check_against(&message, &NOTIFICATION);
    let body = body(&message, "email");
    format!("Subject: {}\n\n{body}", message.subject)
}

#[test]
fn remediated() {
    use backstop_core::control::Control as _;
    let (before, after) = (subnet(true), subnet(false));
    let mut entry = entry(&before);
    let items = PublicSubnet::items;
    entry.add_round(items(&before).into_keys().map(|item| Outcome {
        round: 0,
        item,
        step: Step::Set,
        permission: None,
        created: None,
        without: None,
        ending: Ending::Done,
    }));
    entry.conclude(&items(&after), now());
    expect![[r#"
        Subject: [Backstop] FIXED medium: subnet-0a3f5c7e91b2d4f60 (web-a) was assigning public addresses

        FIXED medium: subnet-0a3f5c7e91b2d4f60 (web-a) was assigning public addresses
        Account 111122223333, eu-central-1. Team: unowned. Control: public-subnet.

        What was assigning public addresses
        - assigns IPv6 addresses to network interfaces created in it
        - assigns public IPv4 addresses to instances launched in it

        What was done
        - AssignIpv6AddressOnCreation was changed: does not assign IPv6 addresses to network interfaces created in it.
        - MapPublicIpOnLaunch was changed: does not assign public IPv4 addresses to instances launched in it.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: ModifySubnetAttribute, 2026-11-24 09:59:56 UTC
        - From: unknown
        - With: unknown

        How to take it back
        - backstop undo 01M7SH8XYF6H0J2M4N8P7R3T1W --reason "why it must be assigning public addresses" puts everything back, with an opt-out, or it would be closed again.
        - Without the command line: the commands under PUT IT BACK at the end of the mail. They give the subnet an opt-out until 2027-02-22.

        How to opt out
        - Tag the subnet or its VPC:
        - Key: backstop:opt-out
        - Value: public-subnet until=2027-02-22 owner=your-team reason=why its instances need public addresses

        Good to know
        - Instances that run keep the public addresses they have. New ones get one only where their launch asks for it.
        - New instances without a public address reach the internet only by another way, such as a NAT gateway: see that Auto Scaling groups in the subnet have one.

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:subnet/subnet-0a3f5c7e91b2d4f60
        Attribute AssignIpv6AddressOnCreation: assigns IPv6 addresses to network interfaces created in it
          change it: done
        Attribute MapPublicIpOnLaunch: assigns public IPv4 addresses to instances launched in it
          change it: done
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Ended: 2026-11-24 10:00:00 UTC
        Policy version: 7

        PUT IT BACK
        Only if it is meant to be assigning public addresses. For bash or zsh, one after the other. The subnet gets an opt-out until 2027-02-22.

        Attribute AssignIpv6AddressOnCreation (assigns IPv6 addresses to network interfaces created in it):
        aws ec2 create-tags --region eu-central-1 --resources subnet-0a3f5c7e91b2d4f60 --tags '[{"Key":"backstop:opt-out","Value":"public-subnet until=2027-02-22 reason=undo"}]'
        aws ec2 modify-subnet-attribute --region eu-central-1 --subnet-id subnet-0a3f5c7e91b2d4f60 --assign-ipv6-address-on-creation

        Attribute MapPublicIpOnLaunch (assigns public IPv4 addresses to instances launched in it):
        aws ec2 create-tags --region eu-central-1 --resources subnet-0a3f5c7e91b2d4f60 --tags '[{"Key":"backstop:opt-out","Value":"public-subnet until=2027-02-22 reason=undo"}]'
        aws ec2 modify-subnet-attribute --region eu-central-1 --subnet-id subnet-0a3f5c7e91b2d4f60 --map-public-ip-on-launch

        LEDGER ENTRY 01M7SH8XYF6H0J2M4N8P7R3T1W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01M7SH8XYF6H0J2M4N8P7R3T1W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry));
}

#[test]
fn used_by_a_cluster() {
    let nodes = [("eks:cluster-name".to_owned(), "prod".to_owned())];
    let subnet = Subnet {
        nodes: vec![nodes.into()],
        ..subnet(true)
    };
    expect![[r#"
        Subject: [Backstop] FOUND low: subnet-0a3f5c7e91b2d4f60 (web-a) is assigning public addresses

        FOUND low: subnet-0a3f5c7e91b2d4f60 (web-a) is assigning public addresses, nothing was changed
        Account 111122223333, eu-central-1. Team: unowned. Control: public-subnet.

        What is assigning public addresses
        - assigns IPv6 addresses to network interfaces created in it
        - assigns public IPv4 addresses to instances launched in it

        What was done
        - Nothing was changed.
        - Because it is used by the EKS cluster prod, whose nodes and load balancers may need public addresses.

        Who touched it last, as the event states
        - Who: arn:aws:sts::111122223333:assumed-role/developer/alice
        - Call: ModifySubnetAttribute, 2026-11-24 09:59:56 UTC
        - From: unknown
        - With: unknown

        How to opt out
        - Tag the subnet or its VPC:
        - Key: backstop:opt-out
        - Value: public-subnet until=2027-02-22 owner=your-team reason=why its instances need public addresses

        DETAILS
        Resource: arn:aws:ec2:eu-central-1:111122223333:subnet/subnet-0a3f5c7e91b2d4f60
        Attribute AssignIpv6AddressOnCreation: assigns IPv6 addresses to network interfaces created in it
        Attribute MapPublicIpOnLaunch: assigns public IPv4 addresses to instances launched in it
        Reason: it is used by the EKS cluster prod, whose nodes and load balancers may need public addresses
        Begun: 2026-11-24 10:00:00 UTC, attempts: 1
        Policy version: 7

        LEDGER ENTRY 01M7SH8XYF6H0J2M4N8P7R3T1W
        aws dynamodb get-item --region eu-central-1 --table-name '<LedgerTableName>' --key '{"pk":{"S":"entry#01M7SH8XYF6H0J2M4N8P7R3T1W"},"sk":{"S":"entry"}}'
        LedgerTableName is an output of the Backstop stack in this account and Region.
    "#]].assert_eq(&mail(&entry(&subnet)));
}
