//! The controls that a function serves, without their types.

use std::future::Future;
use std::pin::Pin;

use backstop_aws::error::AwsError;
use backstop_aws::remediation::{Concerned, Remediation};
use backstop_core::any_control::AnyControl;
use backstop_core::controls::default_security_group::DefaultSecurityGroup;
use backstop_core::controls::encryption_by_default::EncryptionByDefault;
use backstop_core::controls::image_sharing_block::ImageSharingBlock;
use backstop_core::controls::imdsv1::ImdsV1;
use backstop_core::controls::metadata_defaults::MetadataDefaults;
use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::controls::public_image::PublicImage;
use backstop_core::controls::public_snapshot::PublicSnapshot;
use backstop_core::controls::public_subnet::PublicSubnet;
use backstop_core::controls::serial_console::SerialConsole;
use backstop_core::controls::snapshot_sharing_block::SnapshotSharingBlock;
use backstop_core::entry::Entry;
use backstop_core::info::Expands;
use backstop_core::notice::Digest;
use backstop_core::preview::Preview;
use backstop_core::undo::Answer;
use backstop_core::words::ControlId;

use crate::pipeline::{Engine, Failure, Run};
use crate::preview::{Previewed, Previewing, Progress};
use crate::sweep::Walk;
use crate::undo::{UndoFailure, Undoing};

/// The future of a run.
type RunAnswer<'a> = Pin<Box<dyn Future<Output = Result<&'static str, Failure>> + 'a>>;

/// The future of an undo.
type UndoAnswer<'a> = Pin<Box<dyn Future<Output = Result<Answer, UndoFailure>> + 'a>>;

/// The future of a walk.
type Walked<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The future of a read.
type Reading<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Every control that is remediated at once.
pub const AT_ONCE: &[&dyn Served] = &[
    &OpenIngress,
    &EncryptionByDefault,
    &PublicSnapshot,
    &PublicImage,
    &SnapshotSharingBlock,
    &MetadataDefaults,
    &SerialConsole,
    &DefaultSecurityGroup,
    &ImageSharingBlock,
    &PublicSubnet,
    &ImdsV1,
];

/// The control with this id, if it is one that is remediated at once.
#[must_use]
pub fn at_once(id: ControlId) -> Option<&'static dyn Served> {
    let mut all = AT_ONCE.iter().copied();
    all.find(|control| control.info().id == id)
}

/// A control that a function serves.
pub trait Served: AnyControl {
    /// Looks at one resource.
    fn check<'a>(&self, engine: &'a Engine, run: &'a Run<'a>) -> RunAnswer<'a>;

    /// Undoes a remediation.
    fn undo<'a>(&self, undoing: &'a Undoing<'a>, entry: &'a Entry) -> UndoAnswer<'a>;

    /// Looks at every resource of the Region, for the sweep.
    fn walk<'a>(&self, walk: &'a Walk<'a>, digest: &'a mut Digest) -> Walked<'a>;

    /// Requests a check of every resource that this one concerns.
    fn expand<'a>(&self, engine: &'a Engine, run: &'a Run<'a>) -> RunAnswer<'a>;

    /// Another kind of resource whose change concerns resources of the control.
    fn expands(&self) -> Option<Expands>;

    /// Whether a call that CloudTrail records can lead to a finding.
    fn listens_to(&self, call: &str) -> bool;

    /// What would be done about one resource.
    fn preview<'a>(
        &self,
        previewing: &'a Previewing<'a>,
        id: &'a str,
    ) -> Reading<'a, Result<Preview, AwsError>>;

    /// What would be done about every resource of the Region.
    fn preview_all<'a>(
        &self,
        previewing: &'a Previewing<'a>,
        progress: &'a mut Progress<'_>,
    ) -> Reading<'a, Previewed>;

    /// The resources that another one concerns.
    fn concerned<'a>(
        &self,
        previewing: &'a Previewing<'a>,
        id: &'a str,
    ) -> Reading<'a, Result<Concerned, AwsError>>;
}

impl<R: Remediation> Served for R {
    fn check<'a>(&self, engine: &'a Engine, run: &'a Run<'a>) -> RunAnswer<'a> {
        Box::pin(engine.check::<R>(run))
    }

    fn expand<'a>(&self, engine: &'a Engine, run: &'a Run<'a>) -> RunAnswer<'a> {
        Box::pin(engine.expand::<R>(run))
    }

    fn walk<'a>(&self, walk: &'a Walk<'a>, digest: &'a mut Digest) -> Walked<'a> {
        Box::pin(walk.walk::<R>(digest))
    }

    fn undo<'a>(&self, undoing: &'a Undoing<'a>, entry: &'a Entry) -> UndoAnswer<'a> {
        Box::pin(undoing.undo::<R>(entry))
    }

    fn expands(&self) -> Option<Expands> {
        R::EXPANDS
    }

    fn listens_to(&self, call: &str) -> bool {
        R::calls().contains(&call)
    }

    fn preview<'a>(
        &self,
        previewing: &'a Previewing<'a>,
        id: &'a str,
    ) -> Reading<'a, Result<Preview, AwsError>> {
        Box::pin(previewing.one::<R>(id))
    }

    fn preview_all<'a>(
        &self,
        previewing: &'a Previewing<'a>,
        progress: &'a mut Progress<'_>,
    ) -> Reading<'a, Previewed> {
        Box::pin(previewing.all::<R>(progress))
    }

    fn concerned<'a>(
        &self,
        previewing: &'a Previewing<'a>,
        id: &'a str,
    ) -> Reading<'a, Result<Concerned, AwsError>> {
        Box::pin(R::concerned(previewing.clients, previewing.place, id))
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::controls;

    use super::*;

    #[test]
    fn every_control_that_is_remediated_at_once_is_swept_and_undone() {
        let served: Vec<_> = AT_ONCE.iter().map(|control| control.info().id).collect();
        let known: Vec<_> = controls::infos().map(|info| info.id).collect();
        assert_eq!(served, known);
    }
}
