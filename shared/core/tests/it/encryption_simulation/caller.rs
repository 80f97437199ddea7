//! The invocations that carry a run out, with all that can go wrong in them:
//! killed at any point, replies that are lost, two at once, long gaps.

use std::rc::Rc;

use backstop_core::encryption::{Answer, Change, Encryption, Note, Step, World, next_step};
use backstop_core::words::Status;

use super::ec2::View;
use super::sim::{Call, Coverage, Event, Plan, Sim};

/// By when a run has to have ended.
pub(crate) const HORIZON: i64 = 3 * 86400;
/// Most notes of one invocation.
const MOST_NOTES: usize = 8;

enum Next {
    Again,
    Wait(i64),
    Done,
}

/// Plays a run to its end, and checks it all along.
pub(crate) fn play(plan: Plan, coverage: Coverage, traced: bool) -> Sim {
    let mut sim = Sim::new(plan, coverage, traced);
    // Looks that show the same for long are farther apart than asked for, as
    // they may be.
    let mut same = (0, 0);
    while sim.broken.is_none() {
        if sim.now - sim.plan.begins > HORIZON {
            sim.at_horizon();
            return sim;
        }
        let next = sim.invocation(false);
        match next {
            Next::Done => {
                sim.at_end();
                break;
            }
            Next::Again => sim.pass(1),
            Next::Wait(seconds) => {
                let revision = sim.stored.detail.revision;
                same = (revision, if same.0 == revision { same.1 + 1 } else { 0 });
                sim.pass(if same.1 > 12 { 4 * seconds } else { seconds });
            }
        }
        if sim.trouble(sim.plan.gaps, "a long gap") {
            let gap = sim.rng.between(600, 4 * 3600);
            sim.pass(gap);
        }
    }
    sim
}

impl Sim {
    /// Whether something goes wrong here.
    fn trouble(&mut self, chance: u32, what: &'static str) -> bool {
        let is = chance > 0 && self.troubled() && self.rng.per_mille(chance);
        if is {
            self.count(what);
            self.say(|| format!("TROUBLE: {what}"));
        }
        is
    }

    fn invocation(&mut self, twin: bool) -> Next {
        let mut run = Rc::clone(&self.stored);
        if !run.is_open() {
            return Next::Done;
        }
        if run.detail.progress.back.is_none()
            && self.trouble(self.plan.given_up, "given up from outside")
        {
            let note = Note::GoBack {
                why: "a step failed again and again".to_owned(),
                status: Status::RolledBack,
                trip: true,
            };
            if !self.note(&mut run, &note) {
                return Next::Again;
            }
        }
        for _ in 0..MOST_NOTES {
            self.count("a look");
            let moment = self.moment();
            let view = match self.seen.take() {
                Some((then, view)) if Some(then) == moment => view,
                _ => self.view(&run),
            };
            if run
                .detail
                .progress
                .tries
                .values()
                .any(|tries| tries.made.is_none())
            {
                Rc::make_mut(&mut run).adopt(&view.volumes, &view.snapshots);
            }
            let now = self.clock();
            let world = World {
                run: &run,
                now,
                instance: view.instance,
                volumes: view.volumes,
                snapshots: view.snapshots,
                not_made: view.not_made,
                hold: view.hold,
                key_problem: view.key_problem,
                settings: &self.settings,
            };
            let step = next_step(&world);
            let view = View {
                instance: world.instance,
                volumes: world.volumes,
                snapshots: world.snapshots,
                not_made: world.not_made,
                hold: world.hold,
                key_problem: world.key_problem,
            };
            self.looked(&run, &view, &step);
            if self.trouble(self.plan.killed, "killed after the look") {
                return Next::Wait(5);
            }
            let slow = if self.troubled() && self.rng.per_mille(50) {
                8
            } else {
                2
            };
            let takes = self.rng.between(0, slow);
            self.pass(takes);
            if !twin && self.trouble(self.plan.twins, "two at once") {
                self.invocation(true);
            }
            match step {
                Step::Note(note) => {
                    if !self.note(&mut run, &note) {
                        return Next::Again;
                    }
                }
                Step::Wait { seconds, why } => {
                    self.seen = moment.map(|moment| (moment, view));
                    self.say(|| format!("  wait {seconds}: {why}"));
                    return Next::Wait(i64::from(seconds));
                }
                Step::Do(change) => return self.make_change(&mut run, &change, &view, twin),
                Step::End(end) => {
                    self.say(|| format!("END {} {:?}", end.status.name(), end.why));
                    let now = self.clock();
                    Rc::make_mut(&mut run).conclude(&end, now);
                    return match self.store(&mut run) {
                        true => Next::Done,
                        false => Next::Again,
                    };
                }
            }
        }
        Next::Again
    }

    fn note(&mut self, run: &mut Rc<Encryption>, note: &Note) -> bool {
        self.say(|| format!("  note {note:?}"));
        let now = self.clock();
        Rc::make_mut(run).note(note, now);
        self.store(run) && !self.trouble(self.plan.killed, "killed after a note")
    }

    /// Written down, made, and what came of it written down.
    fn make_change(
        &mut self,
        run: &mut Rc<Encryption>,
        change: &Change,
        view: &View,
        twin: bool,
    ) -> Next {
        let now = self.clock();
        Rc::make_mut(run).trying(change, now);
        if !self.store(run) {
            self.count("a step that was overtaken");
            return Next::Again;
        }
        self.facts.calls_of_this += 1;
        self.written_ahead(change);
        if self.trouble(self.plan.killed, "killed before the call") {
            return Next::Wait(5);
        }
        if !twin && self.trouble(self.plan.twins, "two at once, before the call") {
            self.invocation(true);
        }
        let takes = self.rng.between(0, 2);
        self.pass(takes);
        self.before_call(run, change, view);
        let mut made = None;
        let answer = if self.trouble(self.plan.lost, "a lost reply") {
            match self.rng.between(0, 2) {
                0 => {
                    let _ = self.perform(change);
                }
                1 => {
                    let late = self.rng.between(1, 30);
                    self.count("a call that takes effect late");
                    self.later(late, Event::Late(change.clone()));
                }
                _ => {}
            }
            refused("", true)
        } else if self.trouble(self.plan.refused, "a refusal") {
            let code = self.rng.one_of(&[
                "RequestLimitExceeded",
                "InternalError",
                "VolumeLimitExceeded",
                "UnauthorizedOperation",
                "Unavailable",
            ]);
            self.count(code);
            self.say(|| format!("{}: {code}", change.key()));
            refused(code, says_nothing(change, code))
        } else {
            match self.perform(change) {
                Ok(id) => {
                    made = id;
                    Answer::Accepted
                }
                Err(code) => refused(code, says_nothing(change, code)),
            }
        };
        if self.trouble(self.plan.killed, "killed after the call") {
            return Next::Wait(5);
        }
        let definite = matches!(answer, Answer::Refused { unknown: false, .. });
        Rc::make_mut(run).tried(change, answer, made);
        if self.store(run) {
            self.after_answer(Call::of(change), definite);
        }
        Next::Again
    }

    /// Stores the record, unless somebody stored it since it was read.
    fn store(&mut self, run: &mut Rc<Encryption>) -> bool {
        if run.detail.revision != self.stored.detail.revision {
            return false;
        }
        Rc::make_mut(run).detail.revision += 1;
        self.stored = Rc::clone(run);
        true
    }
}

/// Whether nothing follows from an answer to a dry run, as `backstop-aws` marks
/// it.
fn says_nothing(change: &Change, code: &str) -> bool {
    let passes = ["RequestLimitExceeded", "InternalError", "Unavailable"];
    matches!(change, Change::DryRun(_)) && passes.contains(&code)
}

fn refused(code: &str, unknown: bool) -> Answer {
    Answer::Refused {
        operation: "Call".to_owned(),
        code: code.to_owned(),
        message: "it was refused".to_owned(),
        unknown,
    }
}
