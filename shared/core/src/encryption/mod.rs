//! The encryption of volumes: the ledger's record of a run, and the pure step
//! function that says what is done next.
//!
//! A run replaces unencrypted volumes by encrypted copies: one volume that is
//! attached nowhere, or an instance with all its unencrypted volumes. It takes
//! minutes to hours, so no invocation carries it out alone: each reads the
//! world, asks [`next_step`], takes that one step and ends. What is stored here
//! and what the world's tags say is all that the next one goes by.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `change` | the changes, notes and ends that a step can be |
//! | `record` | the ledger's record |
//! | `settings` | the limits that the policy sets |
//! | `refusals` | why volumes are not replaced |
//! | `step` | the step function |
//!
//! Deliberately not here: whether a run begins (`controls::unencrypted_volume`),
//! how a step is taken (`backstop-aws`), the texts (`message::encryption`).

mod change;
mod record;
mod refusals;
mod settings;
mod step;

pub use change::{Change, End, Note, Purpose};
pub use record::{Answer, Back, Encryption, EncryptionDetail, Progress, Stopped, Tries, Way};
pub use refusals::refusals;
pub use settings::{Attached, Originals, Settings};
pub use step::{Hold, Step, World, next_step};
