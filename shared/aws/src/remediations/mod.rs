//! The calls of each control that is remediated at once, one file each.

mod encryption_by_default;
mod open_ingress;
mod public_snapshot;
