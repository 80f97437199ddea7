//! Backstop tested as users have it: the local AWS with the real template and
//! the real binaries on it, and what tests need around that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod cloudtrail;
pub mod iam;
pub mod local_aws;
pub mod native_events;
pub mod runtime_api;
pub mod stack;
pub mod template;
