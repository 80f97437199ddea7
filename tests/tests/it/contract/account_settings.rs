//! Settings of the account that are restored to what they were: each its only
//! item, with the good state that the ledger keeps.

use std::time::Duration;

use backstop_core::words::ControlId;
use backstop_tests::local_aws::REGION;
use backstop_wire::memory::ec2::{Ec2, Settings};
use serde_json::{Value, json};

use super::Fixture;

/// A setting that is weakened and restored.
pub(super) struct Setting {
    control: ControlId,
    item: [&'static str; 1],
    /// The state that it had, as the ledger keeps it.
    former: fn() -> Value,
    weaken: fn(&mut Settings),
    /// Into what is neither the weak nor the former state.
    otherwise: Option<fn(&mut Settings)>,
    /// Has a change show only after a time.
    lag: Option<fn(&mut Settings, Duration)>,
}

impl Setting {
    const fn new(control: ControlId, former: fn() -> Value, weaken: fn(&mut Settings)) -> Self {
        Self {
            control,
            item: [control.name()],
            former,
            weaken,
            otherwise: None,
            lag: None,
        }
    }
}

pub(super) const SNAPSHOT_SHARING_BLOCK: Setting = Setting {
    otherwise: Some(|settings| settings.block = "block-all-sharing".to_owned()),
    ..Setting::new(
        ControlId::SnapshotSharingBlock,
        || json!("block-new-sharing"),
        |settings| settings.block = "unblocked".to_owned(),
    )
};

pub(super) const METADATA_DEFAULTS: Setting = Setting {
    otherwise: Some(|settings| settings.hops = "3".to_owned()),
    ..Setting::new(
        ControlId::MetadataDefaults,
        || json!({ "http_tokens": "required", "http_put_response_hop_limit": 2 }),
        |settings| {
            settings.tokens = "no-preference".to_owned();
            settings.hops = "-1".to_owned();
        },
    )
};

pub(super) const SERIAL_CONSOLE: Setting = Setting::new(
    ControlId::SerialConsole,
    || json!("disabled"),
    |settings| settings.console = true,
);

pub(super) const IMAGE_SHARING_BLOCK: Setting = Setting {
    lag: Some(|settings, lag| settings.image_block_lag = lag),
    ..Setting::new(
        ControlId::ImageSharingBlock,
        || json!("block-new-sharing"),
        |settings| settings.image_block = "unblocked".to_owned(),
    )
};

impl Fixture for Setting {
    fn control(&self) -> ControlId {
        self.control
    }

    fn id(&self) -> &'static str {
        REGION
    }

    fn place(&self, ec2: &mut Ec2) {
        ec2.settings = Settings::default();
    }

    fn former(&self) -> Option<Value> {
        Some((self.former)())
    }

    fn items(&self) -> &[&'static str] {
        &self.item
    }

    fn expose(&self, _setting: &str, ec2: &mut Ec2) {
        (self.weaken)(&mut ec2.settings);
    }

    fn shows(&self, ec2: &Ec2) -> Vec<String> {
        vec![format!("{:?}", ec2.settings)]
    }

    fn lag(&self, ec2: &mut Ec2, lag: Duration) -> bool {
        self.lag.is_some_and(|set| {
            set(&mut ec2.settings, lag);
            true
        })
    }

    fn change_otherwise(&self, ec2: &mut Ec2) -> bool {
        self.otherwise.is_some_and(|change| {
            change(&mut ec2.settings);
            true
        })
    }
}
