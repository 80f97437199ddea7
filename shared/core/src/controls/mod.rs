//! The controls: what Backstop finds, one file each. Their names and titles are
//! in `words` (`Control`), which depends on none of them.

pub mod encryption_by_default;
pub mod missing_patches;
pub mod open_ingress;
pub mod unencrypted_volume;
pub mod unmanaged_instance;
pub mod vulnerable_package;
