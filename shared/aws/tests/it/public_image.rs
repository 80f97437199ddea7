//! The calls of `public-image`, against the real EC2 client with answers written
//! from the EC2 API reference.

use backstop_aws::remediation::Remediation as _;
use backstop_core::controls::public_image::PublicImage;
use backstop_core::plan::{Change, Ending, Step};
use backstop_core::sharing::{Holder, Storage};
use backstop_wire::{Call, Reply, Wire};

use crate::calls::{at, failing, parameters, xml};

const ID: &str = "ami-0b4f6d8c2a1e3f570";
const OU: &str = "arn:aws:organizations::111122223333:ou/o-abc123defg/ou-ab12-3cdefgh4";

fn images(ids: &[&str], next: Option<&str>) -> Reply {
    let items: String = ids
        .iter()
        .map(|id| format!("<item><imageId>{id}</imageId><imageOwnerId>111122223333</imageOwnerId><isPublic>true</isPublic><name>golden-2026-11</name><lastLaunchedTime>2026-11-20T08:15:00.000Z</lastLaunchedTime><tagSet/></item>"))
        .collect();
    let next = next.map_or_else(String::new, |t| format!("<nextToken>{t}</nextToken>"));
    xml(
        "DescribeImages",
        &format!("<imagesSet>{items}</imagesSet>{next}"),
    )
}

fn answer(call: &Call) -> Reply {
    let operation = call.operation.as_str();
    match operation {
        "DescribeImages" => images(&[ID], None),
        "DescribeImageAttribute" => xml(
            operation,
            &format!(
                "<launchPermission><item><userId>444455556666</userId></item><item><organizationalUnitArn>{OU}</organizationalUnitArn></item><item><group>all</group></item></launchPermission>"
            ),
        ),
        "GetImageBlockPublicAccessState" => xml(
            operation,
            "<imageBlockPublicAccessState>block-new-sharing</imageBlockPublicAccessState>",
        ),
        "ModifyImageAttribute" => xml(operation, "<return>true</return>"),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_is_read_in_one_round_trip_with_all_its_grants() {
    let wire = Wire::new(answer);
    let image = at(&wire, async |aws, place| {
        PublicImage::gather(aws, place, ID).await
    });
    assert_eq!(
        image.await.unwrap().unwrap(),
        Storage {
            id: ID.to_owned(),
            arn: format!("arn:aws:ec2:eu-central-1::image/{ID}"),
            owner: "111122223333".to_owned(),
            name: "golden-2026-11".to_owned(),
            tags: [].into(),
            hidden: false,
            blocked: true,
            shared_with: [
                Holder::Everyone,
                Holder::Account("444455556666".to_owned()),
                Holder::OrganizationalUnit(OU.to_owned()),
            ]
            .into(),
            last_used: Some("launched last on 2026-11-20".to_owned()),
        }
    );
    assert_eq!(wire.sequential_round_trips(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_none_and_a_read_that_is_denied_is_an_error() {
    for operation in ["DescribeImages", "DescribeImageAttribute"] {
        for code in ["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"] {
            let wire = failing(operation, code, answer);
            let image = at(&wire, async |aws, place| {
                PublicImage::gather(aws, place, ID).await
            });
            assert_eq!(image.await.unwrap(), None, "{operation}: {code}");
        }
        let wire = failing(operation, "UnauthorizedOperation", answer);
        let image = at(&wire, async |aws, place| {
            PublicImage::gather(aws, place, ID).await
        });
        let error = image.await.unwrap_err();
        assert_eq!((error.operation, error.retryable), (operation, false));
    }
}

/// A grant may be to everyone by another name, and without an owner nothing says
/// whose it is.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_known_is_an_error_that_names_it() {
    for (operation, content, problem) in [
        (
            "DescribeImageAttribute",
            "<launchPermission><item><group>everybody</group></item></launchPermission>",
            "`group` is `everybody`, which this release of Backstop does not know: update it",
        ),
        (
            "DescribeImageAttribute",
            "<launchPermission><item><team>blue</team></item></launchPermission>",
            "the answer has no `group` or `userId`",
        ),
        (
            "DescribeImages",
            "<imagesSet><item><imageId>ami-1</imageId></item></imagesSet>",
            "the answer has no `imageOwnerId`",
        ),
    ] {
        let wire = Wire::new(move |call| match call.operation == operation {
            true => xml(operation, content),
            false => answer(call),
        });
        let image = at(&wire, async |aws, place| {
            PublicImage::gather(aws, place, ID).await
        });
        let error = image.await.unwrap_err();
        assert_eq!(error.operation, operation);
        assert!(error.message.contains(problem), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_grant_to_everyone_is_removed_or_added_and_nothing_else() {
    let removes = Change::remove("all", Holder::Everyone);
    for (change, grant, step) in [
        (
            removes.clone(),
            "LaunchPermission.Remove.1.Group",
            Step::Revoke,
        ),
        (
            removes.reversed(),
            "LaunchPermission.Add.1.Group",
            Step::Authorise,
        ),
    ] {
        let wire = Wire::new(answer);
        let outcomes = at(&wire, async |aws, place| {
            PublicImage::apply(aws, place, ID, &change).await
        });
        let [outcome] = &outcomes.await[..] else {
            panic!("one call, one outcome")
        };
        assert_eq!((outcome.step, &outcome.ending), (step, &Ending::Done));
        assert_eq!(wire.operations(), ["ModifyImageAttribute"]);
        assert_eq!(
            parameters(&wire.calls()[0]),
            [("ImageId", ID), (grant, "all")]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_walk_asks_for_what_is_public_of_this_account_page_by_page() {
    let wire = Wire::new(|call| match call.parameter("NextToken") {
        None => images(&["ami-1", "ami-2"], Some("two")),
        Some(_) => images(&["ami-3"], None),
    });
    let mut seen: Vec<String> = Vec::new();
    let walked = at(&wire, async |aws, place| {
        let each = async |page: Vec<Storage>| {
            let public = [Holder::Everyone].into();
            assert!(page.iter().all(|image| image.shared_with == public));
            seen.extend(page.into_iter().map(|image| image.id));
        };
        PublicImage::walk(aws, place, each).await
    });
    assert_eq!(walked.await.unwrap().seen, 3);
    assert_eq!(seen, ["ami-1", "ami-2", "ami-3"]);
    for call in wire.calls() {
        assert_eq!(call.parameter("Owner.1"), Some("self"));
        assert_eq!(call.parameter("Filter.1.Name"), Some("is-public"));
        assert_eq!(call.parameter("Filter.1.Value.1"), Some("true"));
    }
}
