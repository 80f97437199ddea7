//! Backstop's decisions, and nothing but decisions.
//!
//! Facts, policy, tags and time go in; verdicts, plans, ledger entries and
//! message texts come out. The same input gives the same output, always: an
//! event, the sweep, a preview and a replay all decide with this code.
//!
//! Deliberately not here: any I/O, any clock, any environment, any AWS SDK
//! type. `clippy.toml` beside the manifest bans them; `backstop-aws` holds the
//! effects.

pub mod account_setting;
pub mod address;
pub mod any_control;
pub mod control;
pub mod controls;
pub mod decide;
pub mod doctor;
pub mod encryption;
pub mod entry;
pub mod exemption;
pub mod explain;
pub mod failed_event;
pub mod finding;
pub mod guards;
pub mod info;
pub mod json;
pub mod managers;
pub mod message;
pub mod notice;
pub mod patching;
pub mod plan;
pub mod policy;
pub mod policy_faults;
pub mod policy_fields;
pub mod ports;
pub mod preview;
mod prose;
pub mod reason;
pub mod record;
pub mod rules;
pub mod run;
pub mod security_group;
pub mod sharing;
mod shell;
mod stored;
pub mod storms;
pub mod sweep;
pub mod trigger;
pub mod undo;
pub mod volumes;
pub mod windows;
pub mod words;
