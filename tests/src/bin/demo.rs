//! Shows Backstop at work on the local AWS, without an account: a security
//! group is opened to the world, and what comes of it is printed. Ends with an
//! error when anything of it does not happen. Run by `scripts/demo`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use aws_sdk_ec2::types::{
    Filter, IpPermission, IpRange, Ipv6Range, ResourceType, SecurityGroupRule, Tag,
    TagSpecification,
};
use backstop_tests::cloudtrail;
use backstop_tests::local_aws::proxy::Call;
use backstop_tests::local_aws::{LocalAws, Options, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let started = Instant::now();
    match show().await {
        Ok(()) => {
            println!(
                "\nAll of it happened as it should; {:.0} s in all.",
                started.elapsed().as_secs_f32()
            );
            println!("Nothing is left running; what was made is under target/.");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _ = stdout().flush();
            eprintln!("\nThe demo failed: {problem}");
            eprintln!("The logs of the local AWS are under target/local-aws/");
            ExitCode::FAILURE
        }
    }
}

async fn show() -> Result<()> {
    heading("A local AWS, with this repository's template.yaml deployed to it (Mode=enforce)");
    let aws = LocalAws::start(&Options::default(), |line| println!("{line}")).await?;

    let vpc = aws.ec2.describe_vpcs().send().await?;
    let vpc = vpc
        .vpcs()
        .first()
        .and_then(|vpc| vpc.vpc_id())
        .ok_or("no VPC")?
        .to_owned();
    let group = aws
        .ec2
        .create_security_group()
        .group_name("web")
        .description("The shop's web servers");
    let group = group
        .vpc_id(&vpc)
        .tag_specifications(tags(ResourceType::SecurityGroup, &[("owner", "team-shop")]));
    let group = group
        .send()
        .await?
        .group_id
        .ok_or("a group without an id")?;

    // What was there already, and is as it should be.
    let fine = [
        allow("tcp", 443, 443, &[("0.0.0.0/0", "customers")]),
        allow("tcp", 22, 22, &[("10.0.0.0/8", "the office network")]),
    ];
    let fine = authorize(&aws, &group, &fine, &[]).await?;

    // What somebody does now.
    let asked = [
        allow(
            "tcp",
            22,
            22,
            &[("0.0.0.0/0", "vendor access, remove on Friday")],
        ),
        allow(
            "tcp",
            0,
            1024,
            &[("::/0", "IPv6 for the new load balancer")],
        ),
        allow(
            "tcp",
            5432,
            5432,
            &[("203.0.113.0/24", "reporting service")],
        ),
    ];
    let opened = authorize(&aws, &group, &asked, &[("ticket", "OPS-1234")]).await?;

    let before = rules(&aws, &group).await?;
    heading(&format!(
        "The group {group} after somebody has opened it to the world"
    ));
    print_rules(&before, None);

    heading("CloudTrail's event of that call, delivered through the deployed rules");
    aws.proxy.reset();
    let event = cloudtrail::authorized(&group, &asked, &opened);
    let delivered = Instant::now();
    let invoked = aws.deliver(&event).await?;
    let detail = &event["detail"];
    println!(
        "{} by {}",
        text(&detail["eventName"]),
        text(&detail["userIdentity"]["arn"])
    );
    for rule in aws.matching(&event).await? {
        println!("matched by {}", rule.name);
    }
    println!("starts {}", invoked.join(", "));
    ensure(
        invoked == ["RevokeIngressFunction"],
        "no rule, or another one, took the event",
    )?;

    // Told is the last thing that happens.
    let deadline = Instant::now() + Duration::from_secs(60);
    let entry = loop {
        let entry = aws.entries_of(&group).await?.pop();
        match entry {
            Some(entry) if entry["told"] == true && !aws.published().is_empty() => break entry,
            entry if Instant::now() > deadline => {
                return Err(
                    format!("nobody was told within a minute; the ledger says {entry:#?}").into(),
                );
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let calls = aws.proxy.calls();

    let after = rules(&aws, &group).await?;
    heading("The group afterwards");
    print_rules(&after, Some(&before));

    let message = aws.published().pop().ok_or("no message")?;
    heading("The message, as it arrives by mail");
    println!(
        "Subject: {}\n",
        message.subject.as_deref().unwrap_or_default()
    );
    let mail = message
        .bodies
        .get("email")
        .or(message.bodies.get("default"))
        .ok_or("no text")?;
    println!("{mail}");

    heading("The ledger's entry");
    println!("{}", json_for_people(&entry, 0));

    heading("How long it took, from the delivery of the event");
    let closed = timeline(&calls, delivered)?;
    println!(
        "closed after {} ms; functions started cold and built without optimisation",
        closed.as_millis()
    );

    check(&before, &after, &fine)?;
    ensure(
        entry["document"]["status"] == "remediated",
        "the ledger does not say remediated",
    )?;
    for rule in opened.iter().filter(|rule| to_the_world(rule)) {
        let id = rule.security_group_rule_id().unwrap_or_default();
        ensure(
            !entry["before"][id].is_null(),
            &format!("the ledger does not hold {id} as it was"),
        )?;
    }
    ensure(mail.contains(&group), "the mail does not name the group")?;
    ensure(aws.failed_events().await?.is_empty(), "an event failed")
}

// --- the group

fn allow(protocol: &str, from: i32, to: i32, sources: &[(&str, &str)]) -> IpPermission {
    let mut permission = IpPermission::builder()
        .ip_protocol(protocol)
        .from_port(from)
        .to_port(to);
    for (cidr, why) in sources {
        permission = if cidr.contains(':') {
            permission.ipv6_ranges(
                Ipv6Range::builder()
                    .cidr_ipv6(*cidr)
                    .description(*why)
                    .build(),
            )
        } else {
            permission.ip_ranges(IpRange::builder().cidr_ip(*cidr).description(*why).build())
        };
    }
    permission.build()
}

fn tags(of: ResourceType, tags: &[(&str, &str)]) -> TagSpecification {
    let tags = tags
        .iter()
        .map(|(k, v)| Tag::builder().key(*k).value(*v).build())
        .collect();
    TagSpecification::builder()
        .resource_type(of)
        .set_tags(Some(tags))
        .build()
}

async fn authorize(
    aws: &LocalAws,
    group: &str,
    permissions: &[IpPermission],
    with: &[(&str, &str)],
) -> Result<Vec<SecurityGroupRule>> {
    let mut call = aws.ec2.authorize_security_group_ingress().group_id(group);
    call = call.set_ip_permissions(Some(permissions.to_vec()));
    if !with.is_empty() {
        call = call.tag_specifications(tags(ResourceType::SecurityGroupRule, with));
    }
    let before = rules(aws, group).await?;
    call.send().await?;
    // Read, because moto answers with one rule where AWS answers with all.
    let mut new = rules(aws, group).await?;
    new.retain(|id, _| !before.contains_key(id));
    Ok(new.into_values().collect())
}

async fn rules(aws: &LocalAws, group: &str) -> Result<BTreeMap<String, SecurityGroupRule>> {
    let of_group = Filter::builder().name("group-id").values(group).build();
    let found = aws
        .ec2
        .describe_security_group_rules()
        .filters(of_group)
        .send()
        .await?;
    let ingress = found.security_group_rules.unwrap_or_default().into_iter();
    let ingress = ingress.filter(|rule| rule.is_egress() == Some(false));
    Ok(ingress
        .map(|rule| {
            (
                rule.security_group_rule_id().unwrap_or_default().to_owned(),
                rule,
            )
        })
        .collect())
}

fn to_the_world(rule: &SecurityGroupRule) -> bool {
    rule.cidr_ipv4() == Some("0.0.0.0/0") || rule.cidr_ipv6() == Some("::/0")
}

/// Nothing from Backstop itself: what must be gone, and what must still be there.
fn check(
    before: &BTreeMap<String, SecurityGroupRule>,
    after: &BTreeMap<String, SecurityGroupRule>,
    fine: &[SecurityGroupRule],
) -> Result<()> {
    let mut open_to_ipv6 = Vec::new();
    for (id, rule) in after.iter().filter(|(_, rule)| to_the_world(rule)) {
        let (from, to) = (rule.from_port().unwrap_or(-1), rule.to_port().unwrap_or(-1));
        let allowed = from == to && (from == 80 || from == 443);
        ensure(
            allowed,
            &format!("{id} still lets the world in at {from}-{to}"),
        )?;
        if rule.cidr_ipv6().is_some() {
            open_to_ipv6.push(from);
        }
    }
    open_to_ipv6.sort_unstable();
    ensure(
        open_to_ipv6 == [80, 443],
        "the allowed ports of the IPv6 range are not those that are left",
    )?;
    for rule in fine {
        let id = rule.security_group_rule_id().unwrap_or_default();
        ensure(
            after.contains_key(id) && before.get(id) == after.get(id),
            &format!("{id} was touched"),
        )?;
    }
    let public = before
        .iter()
        .find(|(_, rule)| rule.cidr_ipv4() == Some("203.0.113.0/24"));
    ensure(
        public.is_some_and(|(id, rule)| after.get(id) == Some(rule)),
        "the /24 was touched",
    )
}

// --- printing

fn heading(text: &str) {
    if stdout().is_terminal() {
        println!("\n\x1b[1m== {text}\x1b[0m");
    } else {
        println!("\n== {text}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn print_rules(
    rules: &BTreeMap<String, SecurityGroupRule>,
    earlier: Option<&BTreeMap<String, SecurityGroupRule>>,
) {
    let line = |rule: &SecurityGroupRule| {
        let ports = match (rule.from_port(), rule.to_port()) {
            (Some(from), Some(to)) if from == to => from.to_string(),
            (Some(from), Some(to)) => format!("{from}-{to}"),
            _ => "all".to_owned(),
        };
        let source = rule
            .cidr_ipv4()
            .or(rule.cidr_ipv6())
            .or(rule.prefix_list_id())
            .unwrap_or("a group");
        let tags: Vec<_> = rule
            .tags()
            .iter()
            .filter_map(|t| Some(format!("{}={}", t.key()?, t.value()?)))
            .collect();
        let protocol = rule.ip_protocol().unwrap_or_default();
        format!(
            "{protocol:<5} {ports:<9} {source:<17} {:<34} {}",
            rule.description().unwrap_or_default(),
            tags.join(" ")
        )
    };
    let all = rules.iter().chain(
        earlier
            .into_iter()
            .flatten()
            .filter(|(id, _)| !rules.contains_key(*id)),
    );
    for (id, rule) in all {
        let mark = match earlier {
            None => "",
            Some(_) if !rules.contains_key(id) => "<- gone",
            Some(earlier) => match earlier.get(id) {
                None => "<- new",
                Some(was) if was != rule => "<- narrowed",
                Some(_) => "",
            },
        };
        println!("{}", format!("{id:<22} {} {mark}", line(rule)).trim_end());
    }
}

/// JSON with what fits into a line on one line.
fn json_for_people(value: &Value, column: usize) -> String {
    let flat = value.to_string();
    if column + flat.len() <= 100 {
        return flat;
    }
    let inner = column + 2;
    let (open, lines, close): (_, Vec<_>, _) = match value {
        Value::Object(fields) => {
            let line = |(name, field): (&String, &Value)| {
                // A name takes room on the line that the field would fit on.
                let fits = inner + name.len() + 5 + field.to_string().len() <= 100;
                let column = if fits { 0 } else { inner };
                format!("\"{name}\": {}", json_for_people(field, column))
            };
            ("{", fields.iter().map(line).collect(), "}")
        }
        Value::Array(items) => {
            let line = |item| json_for_people(item, inner);
            ("[", items.iter().map(line).collect(), "]")
        }
        _ => return flat,
    };
    // What is nested was laid out as if it began at the margin.
    let lines = lines.join(",\n").replace('\n', "\n  ");
    format!("{open}\n  {lines}\n{close}")
}

/// Prints each call; says when the last change to the group had been made.
fn timeline(calls: &[Call], from: Instant) -> Result<Duration> {
    let changes = [
        "RevokeSecurityGroupIngress",
        "ModifySecurityGroupRules",
        "AuthorizeSecurityGroupIngress",
    ];
    let is_change = |call: &&Call| changes.contains(&call.action.as_str());
    let closed = calls
        .iter()
        .filter(is_change)
        .map(|call| call.to)
        .max()
        .ok_or("no change was made")?;
    for call in calls {
        let mark = if call.to == closed { "  <- closed" } else { "" };
        println!(
            "{:>6} ms  {:<10} {:<34} {:>4} ms{mark}",
            (call.from - from).as_millis(),
            call.service,
            call.action,
            (call.to - call.from).as_millis(),
        );
    }
    Ok(closed - from)
}

fn ensure(holds: bool, otherwise: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(otherwise.to_owned().into())
    }
}
