//! Walking all unencrypted volumes, against the real EC2 client with answers
//! written from the EC2 API reference: pages, throttling, a denial half-way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::volume_pages::walk;
use backstop_core::volumes::Volume;
use backstop_wire::{Reply, Wire};

fn volume(id: &str, encrypted: bool) -> String {
    format!(
        "<item><volumeId>{id}</volumeId><size>8</size><snapshotId/><availabilityZone>eu-central-1a</availabilityZone>\
         <status>in-use</status><createTime>2026-11-20T10:00:00.000Z</createTime>\
         <attachmentSet><item><volumeId>{id}</volumeId><instanceId>i-1</instanceId><device>/dev/xvda</device><status>attached</status>\
           <attachTime>2026-11-20T10:00:05.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></item></attachmentSet>\
         <tagSet><item><key>owner</key><value>team</value></item></tagSet>\
         <volumeType>gp3</volumeType><iops>3000</iops><throughput>125</throughput><encrypted>{encrypted}</encrypted><multiAttachEnabled>false</multiAttachEnabled></item>"
    )
}

fn page(volumes: &str, next: Option<&str>) -> Reply {
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    Reply::ok(format!(
        "<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><volumeSet>{volumes}</volumeSet>{next}</DescribeVolumesResponse>"
    ))
}

fn throttled() -> Reply {
    Reply::ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
}

fn long() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

#[tokio::test(start_paused = true)]
async fn only_unencrypted_volumes_are_asked_for_and_each_page_is_handed_over_on_its_own() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |call| match call.parameter("NextToken") {
        None => page(
            &(volume("vol-1", false) + &volume("vol-2", false)),
            Some("two"),
        ),
        Some("two") if asked.fetch_add(1, Ordering::SeqCst) < 1 => throttled(),
        Some("two") => page("", Some("three")),
        // A service that does not heed the filter.
        Some(_) => page(&(volume("vol-3", false) + &volume("vol-4", true)), None),
    });
    let ec2 = Clients::new(&wire.config(4)).ec2;
    let mut pages: Vec<Vec<Volume>> = Vec::new();
    let seen = walk(&ec2, &long(), async |page| pages.push(page)).await;
    assert_eq!(seen.unwrap(), 3);
    let ids: Vec<Vec<&str>> = pages
        .iter()
        .map(|page| page.iter().map(|v| v.id.as_str()).collect())
        .collect();
    assert_eq!(ids, [vec!["vol-1", "vol-2"], vec![], vec!["vol-3"]]);
    for call in wire.calls() {
        assert_eq!(call.operation, "DescribeVolumes");
        assert_eq!(call.parameter("Filter.1.Name"), Some("encrypted"));
        assert_eq!(call.parameter("Filter.1.Value.1"), Some("false"));
        assert_eq!(call.parameter("MaxResults"), Some("500"));
    }
    let first = &pages[0][0];
    assert_eq!(first.tags["owner"], "team");
    assert_eq!(first.attachment_to("i-1").unwrap().device, "/dev/xvda");
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_denied_half_way_says_after_how_many_volumes_it_stopped() {
    let wire = Wire::new(|call| match call.parameter("NextToken") {
        None => page(&volume("vol-1", false), Some("two")),
        Some(_) => Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized."),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let mut seen = 0;
    let stopped = walk(&ec2, &long(), async |page| seen += page.len()).await;
    let stopped = stopped.unwrap_err();
    assert_eq!((seen, stopped.seen), (1, 1));
    assert_eq!(
        stopped.to_string(),
        "the walk over the unencrypted volumes ended after 1 of them: DescribeVolumes: UnauthorizedOperation: You are not authorized."
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_that_the_sdk_gives_up_on_is_asked_for_again_while_there_is_time() {
    let asked = AtomicUsize::new(0);
    let wire = Wire::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => throttled(),
        _ => page(&volume("vol-1", false), None),
    });
    let ec2 = Clients::new(&wire.config(1)).ec2;
    assert_eq!(walk(&ec2, &long(), async |_| {}).await.unwrap(), 1);

    let wire = Wire::new(|_| throttled());
    let ec2 = Clients::new(&wire.config(1)).ec2;
    let short = Deadline::new(Duration::from_secs(2));
    let stopped = walk(&ec2, &short, async |_| {}).await.unwrap_err();
    assert_eq!(stopped.error.code, "RequestLimitExceeded");
}
