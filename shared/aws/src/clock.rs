//! The time, handed in at start-up like the clients.
//!
//! Leases, windows and ages are measured against it, so that a test can let them
//! pass at once. Deliberately not here: call durations and deadlines, which use
//! tokio's time ([`crate::deadline`]).

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use ulid::Ulid;

/// Tells the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug, Default)]
enum Source {
    /// The system's clock. Lambda freezes a function between two events, so
    /// nothing else will do there.
    #[default]
    System,
    /// This time, and what tokio's timers have counted since.
    Timers(Timestamp, Instant),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that shows `start` now and goes on with tokio's timers. Where a
    /// test pauses them, waiting for a minute takes no time and is a minute later
    /// by this clock.
    #[must_use]
    pub fn of_timers(start: Timestamp) -> Self {
        Self(Source::Timers(start, Instant::now()))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self.0 {
            Source::System => Timestamp::now(),
            Source::Timers(start, since) => {
                let passed = SignedDuration::try_from(since.elapsed());
                let passed = passed.unwrap_or(SignedDuration::MAX);
                start.saturating_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// A new id for a record: a ULID, which sorts by the time of its making.
    #[must_use]
    pub fn new_id(&self) -> String {
        let milliseconds = u64::try_from(self.now().as_millisecond()).unwrap_or_default();
        Ulid::from_parts(milliseconds, Ulid::generate().random()).to_string()
    }
}
