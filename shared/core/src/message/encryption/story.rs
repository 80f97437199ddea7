//! What is told of an encryption: the record with what was made of its volumes,
//! the subject and the first line.

use super::made::Part;
use crate::encryption::{Encryption, Way};
use crate::message::subject::{id_and_name, status_verb, subject_of};
use crate::prose::one_line;
use crate::volumes::Instance;
use crate::words::{Severity, Status};

/// How bad it is: where a person is needed, an instance may be down.
pub(super) fn severity(run: &Encryption) -> Severity {
    match run.head.status == Status::NeedsPerson || asks_for_a_person(run) {
        true => Severity::Critical,
        false => run.head.severity,
    }
}

/// Whether a run that goes on needs a person meanwhile.
pub(super) fn asks_for_a_person(run: &Encryption) -> bool {
    run.is_open() && run.detail.progress.attention.is_some()
}

/// An encryption with what was made of its volumes.
pub(super) struct Story<'a> {
    pub(super) run: &'a Encryption,
    pub(super) parts: Vec<Part<'a>>,
}

// ------------------------------------------------------------------- headline

impl Story<'_> {
    /// The subject: the name of the unit goes before anything else does.
    pub(super) fn subject(&self) -> String {
        subject_of(|name| self.headline(name))
    }

    pub(super) fn headline(&self, name: usize) -> String {
        let verb = match (self.run.head.status, &self.run.detail.undoes) {
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
    pub(super) fn unit(&self, name: usize) -> String {
        if self.is_setting() {
            return format!(
                "encryption by default in {}",
                one_line(&self.run.head.region, 50)
            );
        }
        id_and_name(&self.run.head, name)
    }

    /// What is the matter with it.
    fn what(&self) -> String {
        let run = self.run;
        if self.is_setting() {
            return match run.head.status {
                Status::InProgress => " is off and is being turned on",
                Status::Remediated => " was off and is on again",
                Status::Failed => " may still be off",
                _ => " is off",
            }
            .to_owned();
        }
        if asks_for_a_person(run) {
            return match run.detail.undoes.is_some() {
                true => ": its way back is stuck",
                false => ": replacing its volumes is stuck",
            }
            .to_owned();
        }
        let (alone, of_it) = (self.alone(), self.volumes());
        let stops = self.stops();
        match (run.head.status, run.detail.undoes.is_some()) {
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
            (Status::InProgress, _) => match run.detail.volumes.len() {
                1 => " is stopped: 1 volume gets an encrypted copy".to_owned(),
                many => format!(" is stopped: {many} volumes get encrypted copies"),
            },
            (Status::Remediated, _) if alone => " has an encrypted copy now".to_owned(),
            (Status::Remediated, _) => match run.detail.volumes.len() {
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
    pub(super) fn why_not(&self) -> &'static str {
        match self.run.head.status {
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
        match self.run.detail.volumes.len() {
            1 => "1 volume".to_owned(),
            many => format!("{many} volumes"),
        }
    }

    /// `2 unencrypted volumes`, as something has them.
    pub(super) fn some_volumes(&self) -> String {
        match self.run.detail.volumes.len() {
            1 => "an unencrypted volume".to_owned(),
            many => format!("{many} unencrypted volumes"),
        }
    }

    /// The same after `its`.
    fn volumes(&self) -> String {
        match self.run.detail.volumes.len() {
            1 => "unencrypted volume".to_owned(),
            many => format!("{many} unencrypted volumes"),
        }
    }

    pub(super) fn is_setting(&self) -> bool {
        self.run.detail.way == Way::AccountSetting
    }

    /// Whether it is a volume that is attached nowhere.
    pub(super) fn alone(&self) -> bool {
        self.run.detail.instance.is_none()
    }

    /// Whether the run stops the instance, if it is not stopped already.
    pub(super) fn stops(&self) -> bool {
        let was_up = self
            .run
            .detail
            .instance
            .as_ref()
            .is_some_and(Instance::is_up);
        was_up && (self.run.detail.way == Way::Swap || self.run.detail.undoes.is_some())
    }
}
