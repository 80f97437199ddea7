//! Backstop's effects: AWS clients, reads, changes, the ledger and telling.
//!
//! The only library crate that names an SDK. It carries out what
//! `backstop-core` decided and brings back what it needs to decide.
//! Deliberately not here: any decision, and any message text.

pub mod bus;
pub mod calls;
pub mod clients;
pub mod clock;
pub mod cloudwatch;
pub mod deadline;
pub mod doctor;
pub mod error;
pub mod executions;
pub mod failed_events;
pub mod findings;
pub mod group_pages;
pub mod instance_pages;
pub mod invocation;
pub mod kept_snapshots;
pub mod kept_volumes;
pub mod ledger;
pub mod metrics;
pub mod opt_outs;
pub mod patching;
pub mod policy_store;
pub mod remediation;
mod remediations;
pub mod security_groups;
pub mod settings;
pub mod stack;
pub mod storms;
mod tags;
pub mod telemetry;
pub mod topic;
pub mod trips;
pub mod volume_pages;
pub mod volumes;
