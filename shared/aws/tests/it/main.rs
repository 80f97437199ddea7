//! The effects, against the real SDK clients with canned answers, one module a
//! subject. One binary for all of them: linking the SDK is what takes time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod account_settings;
mod calls;
mod default_security_group;
mod doctor;
mod executions;
mod failed_events;
mod group_pages;
mod imdsv1;
mod instance_pages;
mod ledger;
mod model;
mod patching;
mod patchings_ledger;
mod policy_and_bus;
mod public_image;
mod public_snapshot;
mod public_subnet;
mod security_groups;
mod stack;
mod stored;
mod storms;
mod volume_pages;
mod volumes;
