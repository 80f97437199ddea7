//! Walking all running instances, against the real EC2 client with answers
//! written from the EC2 API reference: pages, throttling, a denial half-way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::instance_pages::walk;
use backstop_core::patching::Host;
use backstop_wire::{Reply, Wire};

fn instance(id: &str, state: &str) -> String {
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>{state}</name></instanceState>\
         <launchTime>2026-11-24T08:00:00.000Z</launchTime><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>\
         <tagSet><item><key>owner</key><value>team</value></item></tagSet></item>"
    )
}

fn reservation(instances: &str) -> String {
    format!(
        "<item><reservationId>r-1</reservationId><ownerId>111122223333</ownerId><instancesSet>{instances}</instancesSet></item>"
    )
}

fn page(reservations: &str, next: Option<&str>) -> Reply {
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    Reply::ok(format!(
        "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><reservationSet>{reservations}</reservationSet>{next}</DescribeInstancesResponse>"
    ))
}

fn throttled() -> Reply {
    Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
}

fn long() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

#[tokio::test(start_paused = true)]
async fn only_running_instances_are_asked_for_and_each_page_is_handed_over_on_its_own() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |call| match call.parameter("NextToken") {
        None => page(
            &(reservation(&(instance("i-1", "running") + &instance("i-2", "running")))
                + &reservation(&instance("i-3", "running"))),
            Some("two"),
        ),
        Some("two") if asked.fetch_add(1, Ordering::SeqCst) < 1 => throttled(),
        Some("two") => page("", Some("three")),
        // One that has begun to stop since.
        Some(_) => page(
            &reservation(&(instance("i-4", "running") + &instance("i-5", "stopping"))),
            Some(""),
        ),
    });
    let ec2 = Clients::new(&wire.config(4)).ec2;
    let mut pages: Vec<Vec<Host>> = Vec::new();
    let seen = walk(&ec2, &long(), async |page| pages.push(page)).await;
    assert_eq!(seen.unwrap(), 4);
    let ids: Vec<Vec<&str>> = pages
        .iter()
        .map(|page| page.iter().map(|host| host.id.as_str()).collect())
        .collect();
    assert_eq!(ids, [vec!["i-1", "i-2", "i-3"], vec![], vec!["i-4"]]);
    for call in wire.calls() {
        assert_eq!(call.operation, "DescribeInstances");
        assert_eq!(call.parameter("Filter.1.Name"), Some("instance-state-name"));
        assert_eq!(call.parameter("Filter.1.Value.1"), Some("running"));
        assert_eq!(call.parameter("MaxResults"), Some("500"));
    }
    let first = &pages[0][0];
    assert_eq!(first.tags["owner"], "team");
    assert_eq!(
        (first.subnet.as_deref(), first.vpc.as_deref()),
        (Some("subnet-1"), Some("vpc-1"))
    );
    assert_eq!(
        first.launched_at,
        Some("2026-11-24T08:00:00Z".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_denied_half_way_says_after_how_many_instances_it_stopped() {
    let wire = Wire::new(|call| match call.parameter("NextToken") {
        None => page(&reservation(&instance("i-1", "running")), Some("two")),
        Some(_) => Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized."),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let mut seen = 0;
    let stopped = walk(&ec2, &long(), async |page| seen += page.len()).await;
    let stopped = stopped.unwrap_err();
    assert_eq!((seen, stopped.seen), (1, 1));
    assert_eq!(
        stopped.to_string(),
        "the walk over the running instances ended after 1 of them: DescribeInstances: UnauthorizedOperation: You are not authorized."
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_that_the_sdk_gives_up_on_is_asked_for_again_while_there_is_time() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => throttled(),
        _ => page(&reservation(&instance("i-1", "running")), None),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    assert_eq!(walk(&ec2, &long(), async |_| {}).await.unwrap(), 1);

    let wire = Wire::new(|_| throttled());
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let short = Deadline::new(Duration::from_secs(2));
    let stopped = walk(&ec2, &short, async |_| {}).await.unwrap_err();
    assert_eq!(stopped.error.code, "RequestLimitExceeded");
    assert_eq!(wire.calls().len(), 1);
}
