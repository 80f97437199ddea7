//! `public-image`: an image that a partner may launch.

use backstop_core::words::ControlId;
use backstop_wire::memory::ec2::{Ec2, Image, Tags};

use super::{Fixture, remediated};
use crate::faults::run;

const IMAGE: &str = "ami-0123456789abcdef0";

pub(super) struct PublicImage;

impl Fixture for PublicImage {
    fn control(&self) -> ControlId {
        ControlId::PublicImage
    }

    fn id(&self) -> &'static str {
        IMAGE
    }

    fn place(&self, ec2: &mut Ec2) {
        let image = Image {
            shared_with: ["444455556666".to_owned()].into(),
            tags: Tags::new(),
        };
        ec2.images.insert(IMAGE.to_owned(), image);
        // Or none could be shared with everyone.
        ec2.settings.image_block = "unblocked".to_owned();
    }

    fn items(&self) -> &[&'static str] {
        &["all"]
    }

    fn expose(&self, everyone: &str, ec2: &mut Ec2) {
        let image = ec2.images.get_mut(IMAGE).unwrap();
        image.shared_with.insert(everyone.to_owned());
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        ec2.images[IMAGE].shared_with.iter().cloned().collect()
    }

    /// Only an undo depends on it.
    fn spare_reads(&self) -> &'static [&'static str] {
        &["GetImageBlockPublicAccessState"]
    }
}

/// EC2 would refuse the grant once the opt-out is set.
#[test]
fn an_undo_is_refused_beforehand_while_the_account_blocks_public_images() {
    run(async {
        let (mut world, exposed) = remediated(&PublicImage).await;
        world.account.cloud().ec2.settings.image_block = "block-new-sharing".to_owned();
        let blocked = world.ec2();
        let refused = world.undo().await;
        assert_eq!(refused["verdict"], "refused", "{refused}");
        let why = refused["message"].as_str().unwrap();
        assert!(why.contains("disable-image-block-public-access"), "{why}");
        assert_eq!(world.ec2(), blocked, "no opt-out, either");
        world.account.cloud().ec2.settings.image_block = "unblocked".to_owned();
        assert_eq!(world.undo().await["verdict"], "undone");
        assert_eq!(PublicImage.shows(&world.ec2()), PublicImage.shows(&exposed));
    });
}
