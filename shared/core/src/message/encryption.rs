//! Messages about encryptions: what begins and what it costs, what came of it,
//! what stays behind, what a person has to do.
//!
//! Three questions come before all others: is something down, is data still
//! unencrypted, and what has to be typed. Programs get an
//! [`EncryptionNotification`] of their own format, whose schema is
//! `schemas/encryption.schema.json`; it keeps the same promises as the
//! notification about an entry (`notification`).
//!
//! Here are the subject and the first line. Deliberately not here: the sections
//! that people read (`sections`), what the record says was made and moved
//! (`made`), and the format for programs (`encryption::notification`).

use super::chat::{self, Card};
use super::subject::{MOST, ascii, shortened_subject, status_verb};
use super::words::one_line;
use super::{Message, attributes, fitted, text, to_json};
use crate::encryption::{Encryption, Way};
use crate::volumes::Instance;
use crate::words::{Severity, Status};

mod made;
mod notification;
mod sections;

pub use notification::{
    EncryptionKind, EncryptionNotification, NotifiedBack, NotifiedCopy, NotifiedDowntime,
    NotifiedInstance, NotifiedSnapshot, NotifiedVolume, OmittedOfEncryption,
};
pub use sections::steps;

use made::{Part, parts};

/// Composes the message about an encryption.
pub(super) fn compose(run: &Encryption) -> Message {
    let story = Story {
        run,
        parts: parts(run),
    };
    let title = story.headline(100) + story.why_not();
    let card = Card {
        key: run.message_key(),
        record: &run.id,
        title: &title,
        sections: &story.sections(),
        control: run.control.name(),
        severity: severity(run),
        outcome: run.status.name(),
        account: &run.account,
        region: &run.region,
        team: run.team_or_unowned(),
        resources: vec![run.resource.clone()],
    };
    let (mail, chat) = (text::of_card(&card), chat::card(&card).to_string());
    fitted(
        story.subject(),
        attributes(&card),
        &chat,
        |_| mail.clone(),
        |most| to_json(&EncryptionNotification::of(&story, &title, most)),
    )
}

/// How bad it is: where a person is needed, an instance may be down.
fn severity(run: &Encryption) -> Severity {
    match run.status == Status::NeedsPerson || asks_for_a_person(run) {
        true => Severity::Critical,
        false => run.severity,
    }
}

/// Whether a run that goes on needs a person meanwhile.
fn asks_for_a_person(run: &Encryption) -> bool {
    run.is_open() && run.progress.attention.is_some()
}

/// An encryption with what was made of its volumes.
struct Story<'a> {
    run: &'a Encryption,
    parts: Vec<Part<'a>>,
}

// ------------------------------------------------------------------- headline

impl Story<'_> {
    /// The subject: the name of the unit goes before anything else does.
    fn subject(&self) -> String {
        [60, 24, 12, 7, 0]
            .into_iter()
            .map(|name| ascii(&format!("[Backstop] {}", self.headline(name))))
            .find(|subject| subject.len() <= MOST)
            .unwrap_or_else(|| shortened_subject(&self.headline(0)))
    }

    fn headline(&self, name: usize) -> String {
        let verb = match (self.run.status, &self.run.undoes) {
            _ if asks_for_a_person(self.run) => "NEEDS A PERSON NOW".to_owned(),
            (Status::RolledBack, Some(_)) => "UNDONE".to_owned(),
            (status, Some(_)) => format!("UNDO {}", status_verb(status)),
            (status, None) => status_verb(status).to_owned(),
        };
        format!(
            "{verb} {}: {}{}",
            severity(self.run),
            self.unit(name),
            self.what()
        )
    }

    /// The unit: its id, and its name where it has one.
    fn unit(&self, name: usize) -> String {
        if self.is_setting() {
            return format!(
                "encryption by default in {}",
                one_line(&self.run.region, 50)
            );
        }
        let id = one_line(self.run.resource_id(), 100);
        match one_line(&self.run.resource_name, name) {
            name if name.chars().count() < 2 || name == id => id,
            name => format!("{id} ({name})"),
        }
    }

    /// What is the matter with it.
    fn what(&self) -> String {
        let run = self.run;
        if self.is_setting() {
            return match run.status {
                Status::InProgress => " is off and is being turned on",
                Status::Remediated => " was off and is on again",
                Status::Failed => " may still be off",
                _ => " is off",
            }
            .to_owned();
        }
        if asks_for_a_person(run) {
            return match run.undoes.is_some() {
                true => ": its way back is stuck",
                false => ": replacing its volumes is stuck",
            }
            .to_owned();
        }
        let (alone, of_it) = (self.alone(), self.volumes());
        let stops = self.stops();
        match (run.status, run.undoes.is_some()) {
            (Status::InProgress, true) if stops => " is stopped to undo its encryption".to_owned(),
            (Status::InProgress, true) => " goes back to what was unencrypted".to_owned(),
            (Status::RolledBack, true) if alone => {
                " counts again, unencrypted, in place of its copy".to_owned()
            }
            (Status::RolledBack, true) => format!(" is back on its {of_it}"),
            (_, true) => ": its way back cannot go on".to_owned(),
            (Status::InProgress, _) if alone => " gets an encrypted copy".to_owned(),
            (Status::InProgress, _) if stops => {
                format!(" will be stopped to encrypt {}", self.plain_volumes())
            }
            (Status::InProgress, _) => match run.volumes.len() {
                1 => " is stopped: 1 volume gets an encrypted copy".to_owned(),
                many => format!(" is stopped: {many} volumes get encrypted copies"),
            },
            (Status::Remediated, _) if alone => " has an encrypted copy now".to_owned(),
            (Status::Remediated, _) => match run.volumes.len() {
                1 => " has an encrypted copy in place of 1 volume".to_owned(),
                many => format!(" has encrypted copies in place of {many} volumes"),
            },
            (Status::RolledBack, _) if alone => " is unencrypted as before".to_owned(),
            (Status::RolledBack, _) => format!(" keeps its {of_it}"),
            (Status::NeedsPerson | Status::Failed, _) => {
                ": replacing its volumes cannot go on".to_owned()
            }
            (_, _) if alone => " is not encrypted".to_owned(),
            (_, _) => format!(" has {}", self.some_volumes()),
        }
    }

    /// Why nothing is changed, for the first line of bodies.
    fn why_not(&self) -> &'static str {
        match self.run.status {
            Status::Notified => ", nothing was changed",
            Status::Exempt => ", and is exempt",
            Status::Held => ", its opt-out tag cannot be read",
            Status::Existing => ", it was there before enforce and was left",
            Status::Tripped => ", the control has tripped: nothing was changed",
            Status::Stopped => ", the kill switch is on: nothing was changed",
            Status::Pending => ", it waits",
            Status::Refused => ", and Backstop does not change that",
            Status::InProgress
            | Status::Remediated
            | Status::Failed
            | Status::NotOwned
            | Status::RolledBack
            | Status::NeedsPerson
            | Status::AwaitingRescan => "",
        }
    }

    /// `2 volumes`.
    fn plain_volumes(&self) -> String {
        match self.run.volumes.len() {
            1 => "1 volume".to_owned(),
            many => format!("{many} volumes"),
        }
    }

    /// `2 unencrypted volumes`, as something has them.
    fn some_volumes(&self) -> String {
        match self.run.volumes.len() {
            1 => "an unencrypted volume".to_owned(),
            many => format!("{many} unencrypted volumes"),
        }
    }

    /// The same after `its`.
    fn volumes(&self) -> String {
        match self.run.volumes.len() {
            1 => "unencrypted volume".to_owned(),
            many => format!("{many} unencrypted volumes"),
        }
    }

    fn is_setting(&self) -> bool {
        self.run.way == Way::AccountSetting
    }

    /// Whether it is a volume that is attached nowhere.
    fn alone(&self) -> bool {
        self.run.instance.is_none()
    }

    /// Whether the run stops the instance, if it is not stopped already.
    fn stops(&self) -> bool {
        let was_up = self.run.instance.as_ref().is_some_and(Instance::is_up);
        was_up && (self.run.way == Way::Swap || self.run.undoes.is_some())
    }
}
