//! The message about an entry, as its readers get it.
//!
//! `mails` shows whole mails, `guarded` those of runs that a guard held back and
//! of fights, `encryptions`, `patchings`, `notices` and `undos` those about other
//! records, `bodies` what the other protocols get, `hostile` what other people's
//! texts cannot do to a message, `late` those about a change that does not show
//! yet, `commands` that a shell reads the commands as
//! they are meant, `schemas` that the published schemas are those of the types.

mod bodies;
mod commands;
mod encryptions;
mod fixtures;
mod guarded;
mod hostile;
mod late;
mod mails;
mod notices;
mod patchings;
mod schemas;
mod settings;
mod subnets;
mod undos;
