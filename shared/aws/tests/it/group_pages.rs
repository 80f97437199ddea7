//! Walking all groups, against the real EC2 client with answers written from
//! the EC2 API reference: pages, throttling, a denial half-way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::group_pages::walk;
use backstop_core::security_group::{Entries, PrefixList, SecurityGroup, Source, Tags};
use backstop_wire::{Call, Reply, Wire};

fn response(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

const PERMISSIONS: &str = "<ipPermissions>\
    <item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort>\
      <groups><item><userId>444455556666</userId><groupId>sg-peer</groupId></item><item><userId>111122223333</userId><groupId>sg-own</groupId></item></groups>\
      <ipRanges><item><cidrIp>10.0.0.0/8</cidrIp><description>office</description></item><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges>\
      <ipv6Ranges><item><cidrIpv6>::/0</cidrIpv6></item></ipv6Ranges>\
      <prefixListIds><item><prefixListId>pl-1</prefixListId></item></prefixListIds></item>\
    <item><ipProtocol>-1</ipProtocol><groups/><ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges><ipv6Ranges/><prefixListIds/></item>\
    </ipPermissions>";

fn page(first: usize, next: Option<&str>) -> Reply {
    let groups: String = (first..first + 2)
        .map(|n| {
            format!(
                "<item><ownerId>111122223333</ownerId><groupId>sg-{n}</groupId><groupName>g{n}</groupName><vpcId>vpc-1</vpcId>\
                 <tagSet><item><key>owner</key><value>team</value></item></tagSet>{PERMISSIONS}</item>"
            )
        })
        .collect();
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    response(
        "DescribeSecurityGroups",
        &format!("<securityGroupInfo>{groups}</securityGroupInfo>{next}"),
    )
}

fn other(call: &Call) -> Reply {
    match call.operation.as_str() {
        "DescribeTags" => response(
            "DescribeTags",
            "<tagSet><item><resourceId>vpc-1</resourceId><resourceType>vpc</resourceType><key>backstop:opt-out</key><value>all</value></item></tagSet>",
        ),
        "GetManagedPrefixListEntries" => response(
            "GetManagedPrefixListEntries",
            "<entrySet><item><cidr>0.0.0.0/1</cidr></item></entrySet>",
        ),
        "DescribeManagedPrefixLists" => {
            assert_eq!(call.parameter("Filter.1.Name"), Some("prefix-list-id"));
            assert_eq!(call.parameter("Filter.1.Value.1"), Some("pl-1"));
            response(
                "DescribeManagedPrefixLists",
                "<prefixListSet><item><prefixListId>pl-1</prefixListId><ownerId>444455556666</ownerId></item></prefixListSet>",
            )
        }
        other => panic!("{other}"),
    }
}

fn long() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

#[tokio::test(start_paused = true)]
async fn every_page_is_handed_over_on_its_own_and_one_that_was_throttled_is_asked_for_again() {
    let throttled = AtomicUsize::new(0);
    let wire = Wire::new(move |call| match call.parameter("NextToken") {
        _ if call.operation != "DescribeSecurityGroups" => other(call),
        None => page(0, Some("two")),
        Some("two") if throttled.fetch_add(1, Ordering::SeqCst) < 2 => {
            Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
        }
        Some("two") => page(2, Some("three")),
        Some(_) => page(4, None),
    });
    let mut pages: Vec<Vec<SecurityGroup>> = Vec::new();
    let walked = walk(
        &Clients::new(&wire.config(4)).ec2,
        "eu-central-1",
        &long(),
        async |page| pages.push(page),
    )
    .await
    .unwrap();
    assert_eq!((walked.seen, walked.unseen), (6, vec![]));
    let ids: Vec<Vec<&str>> = pages
        .iter()
        .map(|page| page.iter().map(|group| group.id.as_str()).collect())
        .collect();
    assert_eq!(ids, [["sg-0", "sg-1"], ["sg-2", "sg-3"], ["sg-4", "sg-5"]]);
    let calls = wire.operations();
    let count = |name: &str| calls.iter().filter(|call| *call == name).count();
    assert_eq!(count("DescribeSecurityGroups"), 5, "two were throttled");
    assert_eq!(count("DescribeTags"), 1, "opt-outs of VPCs are read once");
    assert_eq!(
        count("GetManagedPrefixListEntries"),
        1,
        "six groups name one list: {calls:?}"
    );

    let group = &pages[2][1];
    assert_eq!(
        group.vpc_opt_outs,
        Tags::from([("backstop:opt-out".to_owned(), "all".to_owned())])
    );
    assert_eq!(group.tags["owner"], "team");
    assert_eq!(
        group.arn,
        "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-5"
    );
    assert_eq!(
        group.prefix_lists["pl-1"],
        PrefixList {
            owner: Some("444455556666".into()),
            entries: Entries::Read(vec!["0.0.0.0/1".into()]),
        }
    );
    let rules: Vec<_> = group
        .rules
        .values()
        .map(|rule| {
            let permission = &rule.permission;
            (
                &rule.source,
                permission.protocol.as_str(),
                permission.from_port,
                rule.description.as_deref(),
            )
        })
        .collect();
    let v4 = |block: &str| Source::Ipv4(block.into());
    assert_eq!(
        rules,
        [
            (&v4("10.0.0.0/8"), "tcp", Some(22), Some("office")),
            (&v4("0.0.0.0/0"), "tcp", Some(22), None),
            (&Source::Ipv6("::/0".into()), "tcp", Some(22), None),
            (&Source::PrefixList("pl-1".into()), "tcp", Some(22), None),
            (
                &Source::SecurityGroup("sg-peer".into()),
                "tcp",
                Some(22),
                None
            ),
            (
                &Source::SecurityGroup("sg-own".into()),
                "tcp",
                Some(22),
                None
            ),
            (&v4("10.0.0.0/8"), "-1", None, None),
        ],
        "one rule for each source"
    );
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_denied_half_way_says_after_how_many_groups_it_stopped() {
    let wire = Wire::new(|call| match call.parameter("NextToken") {
        _ if call.operation != "DescribeSecurityGroups" => other(call),
        None => page(0, Some("two")),
        Some(_) => Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized."),
    });
    let mut seen = 0_u64;
    let stopped = walk(
        &Clients::new(&wire.config(1)).ec2,
        "eu-central-1",
        &long(),
        async |page| seen += page.len() as u64,
    )
    .await
    .unwrap_err();
    assert_eq!((seen, stopped.seen), (2, 2));
    assert_eq!(
        stopped.to_string(),
        "the walk over the security groups ended after 2 of them: DescribeSecurityGroups: UnauthorizedOperation: You are not authorized."
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_that_the_sdk_gives_up_on_is_asked_for_again_after_a_pause() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |call| match call.operation.as_str() {
        "DescribeSecurityGroups" if asked.fetch_add(1, Ordering::SeqCst) < 1 => {
            Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
        }
        "DescribeSecurityGroups" => page(0, None),
        _ => other(call),
    });
    // One attempt: the SDK itself does not try again.
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let walked = walk(&ec2, "eu-central-1", &long(), async |_| {}).await;
    assert_eq!(walked.unwrap().seen, 2);

    // Without time for a pause it ends, and says how far it came.
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeSecurityGroups" => {
            Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
        }
        _ => other(call),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let short = Deadline::new(Duration::from_secs(2));
    let stopped = walk(&ec2, "eu-central-1", &short, async |_| {}).await;
    assert_eq!(stopped.unwrap_err().error.code, "RequestLimitExceeded");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_beside_the_groups_is_said_and_the_walk_goes_on() {
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeSecurityGroups" => page(0, None),
        _ => Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized."),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let mut groups = Vec::new();
    let deadline = long();
    let walked = walk(&ec2, "eu-central-1", &deadline, async |page| {
        groups.extend(page);
    });
    let walked = walked.await.unwrap();
    assert_eq!((walked.seen, groups.len()), (2, 2));
    let [vpcs, owners, list] = &walked.unseen[..] else {
        panic!("{:?}", walked.unseen)
    };
    assert!(vpcs.starts_with("the opt-outs of VPCs: DescribeTags: UnauthorizedOperation"));
    assert!(owners.starts_with("the owners of prefix lists: DescribeManagedPrefixLists"));
    assert!(list.starts_with("the prefix list pl-1: GetManagedPrefixListEntries"));
    assert!(matches!(
        groups[0].prefix_lists["pl-1"].entries,
        Entries::Refused(_)
    ));
}

/// It is a finding of every group that names it, and nothing that a sweep missed.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_not_shown_is_not_among_what_could_not_be_seen() {
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeSecurityGroups" => page(0, None),
        "GetManagedPrefixListEntries" => {
            Reply::ec2_error(400, "InvalidPrefixListID.NotFound", "It does not exist.")
        }
        "DescribeManagedPrefixLists" => response("DescribeManagedPrefixLists", "<prefixListSet/>"),
        _ => other(call),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let mut groups = Vec::new();
    let deadline = long();
    let walked = walk(&ec2, "eu-central-1", &deadline, async |page| {
        groups.extend(page);
    });
    assert_eq!(walked.await.unwrap().unseen, Vec::<String>::new());
    let list = &groups[1].prefix_lists["pl-1"];
    assert!(matches!(list.entries, Entries::NotShown(_)), "{list:?}");
    assert_eq!(list.owner, None);
}
