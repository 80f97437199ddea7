//! The core from outside, one module a subject. One binary for all of them: it
//! is linked once, and its tests share both cores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod account_setting_cases;
mod default_security_group_cases;
mod encryption_simulation;
mod encryption_undos;
mod entries;
mod imdsv1_cases;
mod message;
mod open_ingress_cases;
mod open_ingress_properties;
mod patching_cases;
mod public_image_cases;
mod public_snapshot_cases;
mod public_subnet_cases;
mod undos;
mod unencrypted_volume_cases;
