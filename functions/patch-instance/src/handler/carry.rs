//! What a run that has begun does: safety snapshots, the message that says what
//! is coming, and the command, one for all of a group.
//!
//! Each step is in the ledger before the next is taken. A run that is cut off
//! before its command is taken up by whoever looks next: snapshots are found by
//! their tags, a command whose answer was lost by the mark in its comment.

use std::time::Duration;

use backstop_aws::bus;
use backstop_aws::error::AwsError;
use backstop_aws::ledger::{Begun, Closed, Lock};
use backstop_aws::patching::{self, Batch};
use backstop_aws::policy_store::Versioned;
use backstop_core::guards::Trip;
use backstop_core::patching::decide::{Decision, Verdict, stops};
use backstop_core::patching::{
    Ended, Operation, Patching, Reboot, Reports, Sent, Unpatchable, never_began,
};
use backstop_core::policy::Policy;
use backstop_core::reason::Reason;
use backstop_core::words::{Mode, Status};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::{Failure, Handler, Invocation, Looked, Work};

/// Time that has to be left for one more run's snapshots, and for the command of
/// all that are ready.
const TO_PREPARE: Duration = Duration::from_secs(20);

/// How often a run is begun that AWS keeps from its command before that is told:
/// who reads of it can find what is in the way.
pub(super) const MOST_ATTEMPTS: u32 = 5;

/// How far this clock and Systems Manager's may be apart.
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// What a run that has begun came to here.
pub(super) enum Carried {
    Done(&'static str),
    /// It has ended, and another invocation left a look at its instance to it.
    Again,
}

/// Runs that have begun, with what led to them.
type Group = Vec<(Work, Patching)>;

/// What one instance's run came to.
type Answer = (Work, Result<Carried, Failure>);

impl Handler {
    /// Prepares runs that have begun and sends their command.
    pub(super) async fn carry_out(
        &self,
        begun: Group,
        policy: &Versioned,
        invocation: &Invocation,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut ready: Group = Vec::new();
        let mark = self.clients.clock.new_id();
        for (work, mut run) in begun {
            match self.prepare(&mut run, &mark, invocation).await {
                Ok(None) => ready.push((work, run)),
                Ok(Some(carried)) => answers.push((work, Ok(carried))),
                Err(failure) => answers.push((work, Err(failure))),
            }
        }
        // What is sent is one thing for all: one that was cut off may have begun
        // under another policy.
        while let Some((_, first)) = ready.first() {
            let (operation, reboot) = (first.detail.operation, first.detail.reboot);
            let group: Group = ready
                .extract_if(.., |(_, run)| {
                    run.detail.operation == operation && run.detail.reboot == reboot
                })
                .collect();
            answers.extend(self.send(group, operation, &mark, policy, invocation).await);
        }
        answers
    }

    /// Snapshots, and the message beforehand. `Some`: the run has ended.
    async fn prepare(
        &self,
        run: &mut Patching,
        mark: &str,
        invocation: &Invocation,
    ) -> Result<Option<Carried>, Failure> {
        // It stays as it has begun, and is taken up again when its lease lapses.
        if invocation.deadline.left() < TO_PREPARE {
            return Err(Failure::NoTime);
        }
        // The policy as it is now: a kill switch stops what has not been sent.
        let policy = self.policy.get(&invocation.deadline).await?;
        if policy.policy.patching.reboot == Reboot::Never {
            run.detail.reboot = Reboot::Never;
        }
        if policy.policy.kill_switch {
            run.head.status = Status::Stopped;
            run.detail.reasons.push(Reason::KillSwitch.to_string());
            run.detail.because = Some(Reason::KillSwitch);
            run.head.finished_at = Some(self.clients.clock.now());
            return self.carried(run).await.map(Some);
        }
        if run.detail.snapshots_wanted && run.detail.snapshots.is_empty() {
            let (ec2, deadline) = (&self.clients.ec2, &invocation.deadline);
            match patching::safety_snapshots(ec2, run, TO_PREPARE, deadline).await {
                Ok(snapshots) => run.detail.snapshots = snapshots,
                Err(error) if is_left_open(run, &error) => return Err(error.into()),
                Err(error) => {
                    let what = match error.may_have_acted() {
                        true => "it is not known whether safety snapshots were taken",
                        false => "no safety snapshots could be taken",
                    };
                    let why = format!("{what}, so nothing was installed: {error}");
                    return self.give_up(run, why, &error).await.map(Some);
                }
            }
        }
        run.detail.batch = Some(mark.to_owned());
        self.store(run).await?;
        // Beforehand: what cannot be undone is told before it is done.
        bus::tell(&self.clients.eventbridge, &run.head.id).await?;
        Ok(None)
    }

    /// Sends one command for a group. IAM and Systems Manager refuse a command as
    /// a whole because of one instance: what is refused is sent again in parts,
    /// down to one by one. Parts and not each by itself at once: what is sent in
    /// one command keeps the policy's pace.
    async fn send(
        &self,
        group: Group,
        operation: Operation,
        mark: &str,
        policy: &Versioned,
        invocation: &Invocation,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut groups = vec![group];
        while let Some(group) = groups.pop() {
            // Each part anew: what was refused so far may have taken minutes.
            let group = match self.still_wanted(group, invocation).await {
                Ok((group, others)) => {
                    answers.extend(others);
                    group
                }
                Err((group, failure)) => {
                    let why = failure.to_string();
                    let failed = group.into_iter();
                    answers
                        .extend(failed.map(|(work, _)| (work, Err(Failure::Batch(why.clone())))));
                    continue;
                }
            };
            let Some((_, first)) = group.first() else {
                continue;
            };
            let batch = Batch {
                mark,
                operation,
                reboot: first.detail.reboot,
                instances: &[],
                settings: &policy.policy.patching,
                log_group: &self.settings.command_log_group,
            };
            let ids: Vec<String> = group
                .iter()
                .map(|(_, run)| run.resource_id().to_owned())
                .collect();
            let sent = self.send_to(&ids, &batch, invocation).await;
            match &sent {
                Err(error) if is_refused(error) && ids.len() > 1 => {
                    warn!(%error, instances = ids.len(), "the command was refused as a whole: in parts");
                    let (one, other) = parted(group, error);
                    groups.extend([other, one]);
                }
                _ => {
                    for (work, run) in group {
                        answers.push(self.sent(work, run, sent.clone()).await);
                    }
                }
            }
        }
        answers
    }

    /// Looks once more at what may keep the command from being sent: tags, mode,
    /// kill switch, window, an encryption. Those that are still to have it, and
    /// what the others came to. A read that fails sends nothing: the runs are
    /// taken up again.
    async fn still_wanted(
        &self,
        group: Group,
        invocation: &Invocation,
    ) -> Result<(Group, Vec<Answer>), (Group, Failure)> {
        let (ec2, deadline) = (&self.clients.ec2, &invocation.deadline);
        let ids: Vec<String> = group
            .iter()
            .map(|(_, run)| run.resource_id().to_owned())
            .collect();
        let policy = match self.policy.get(deadline).await {
            Ok(policy) => policy,
            Err(problem) => return Err((group, problem.into())),
        };
        let hosts = match patching::hosts(ec2, &ids, deadline).await {
            Ok(hosts) => hosts,
            Err(error) => return Err((group, error.into())),
        };
        let encryptions = match self.ledger.encryptions(&ids).await {
            Ok(encryptions) => encryptions,
            Err(error) => return Err((group, error.into())),
        };
        let (mut wanted, mut answers) = (Vec::new(), Vec::new());
        for (work, mut run) in group {
            let now = self.clients.clock.now();
            let host = hosts.get(run.resource_id());
            let mode = self.settings.remediation.mode;
            let encryption = encryptions.get(run.resource_id()).map(String::as_str);
            let stopped = stops(&run, host, encryption, &policy.policy.patching(), mode, now);
            let Some(why) = stopped else {
                wanted.push((work, run));
                continue;
            };
            info!(entry = %run.head.id, resource = %run.head.resource, %why, "not sent after all");
            run.head.status = why.status();
            run.detail.reasons.push(why.to_string());
            run.detail.because = Some(why);
            run.head.finished_at = Some(now);
            // What it is now is for the look that follows to say.
            let ended = self.finish(&mut run).await;
            answers.push((work, ended.map(|_| Carried::Again)));
        }
        Ok((wanted, answers))
    }

    async fn send_to(
        &self,
        ids: &[String],
        batch: &Batch<'_>,
        invocation: &Invocation,
    ) -> Result<String, AwsError> {
        let batch = Batch {
            instances: ids,
            ..*batch
        };
        let (now, deadline) = (self.clients.clock.now(), &invocation.deadline);
        let sent = patching::send(&self.clients.ssm, &batch, now, deadline).await;
        info!(
            operation = batch.operation.name(),
            instances = ids.len(),
            mark = batch.mark,
            ?sent,
            "command"
        );
        sent
    }

    async fn sent(&self, work: Work, mut run: Patching, sent: Result<String, AwsError>) -> Answer {
        let answer = match sent {
            Ok(id) => {
                run.detail.command = Some(Sent::new(id, self.clients.clock.now()));
                self.store(&mut run).await.map(|()| Carried::Done("begun"))
            }
            // Whoever looks next finds it by its mark, or sends it again.
            Err(error) if error.may_have_acted() => Err(Failure::Unanswered {
                entry: run.head.id.clone(),
                error,
            }),
            // With the snapshots that it has, and not with new ones.
            Err(error) if is_left_open(&run, &error) => Err(error.into()),
            Err(error) => {
                let why = format!("the command was not sent: {error}");
                self.give_up(&mut run, why, &error).await
            }
        };
        (work, answer)
    }

    /// Ends a run whose command was not sent. What no second try betters is left
    /// alone until a person has seen to it: else every look would take snapshots
    /// of it again.
    async fn give_up(
        &self,
        run: &mut Patching,
        why: String,
        error: &AwsError,
    ) -> Result<Carried, Failure> {
        let now = self.clients.clock.now();
        // An instance whose agent went offline meanwhile is looked at as such; what
        // is in the way for now, a backup that runs, goes by itself.
        let passes = error.code.starts_with("InvalidInstance")
            || ["ConcurrentSnapshotLimitExceeded", "IncorrectState"].contains(&error.code.as_str());
        let refused = Ended {
            status: error.code.clone(),
            ..Ended::default()
        };
        run.detail.unpatchable = Unpatchable::shown_by(&refused, run.detail.agent.as_ref());
        if run.detail.unpatchable.is_some() {
            let id = run.resource_id().to_owned();
            let mut reports = self.reread(&id).await?;
            let found = &run.detail.unpatchable;
            self.change_reports(&id, &mut reports, |reports| {
                reports.unpatchable.clone_from(found);
                reports.unpatchable_recorded = false;
            })
            .await?;
        } else if !error.retryable && !passes {
            let trip = Trip {
                at: now,
                why: format!("its patches could not be installed (entry {})", run.head.id),
            };
            self.ledger
                .trip_resource(run.head.control, run.resource_id(), &trip)
                .await?;
        }
        run.fail(why, now);
        self.carried(run).await
    }

    /// Ends a run that sent no command.
    async fn carried(&self, run: &mut Patching) -> Result<Carried, Failure> {
        Ok(match self.finish(run).await? {
            Closed::LookAgain => Carried::Again,
            Closed::Done => Carried::Done(run.head.status.name()),
        })
    }

    /// Finds the command that a run was cut off after. `true`: it was sent.
    pub(super) async fn adopt(
        &self,
        run: &mut Patching,
        lock: &Lock,
        invocation: &Invocation,
    ) -> Result<bool, Failure> {
        let Some(mark) = run.detail.batch.clone() else {
            return Ok(false);
        };
        let comment = Patching::comment(&mark);
        let (ssm, deadline) = (&self.clients.ssm, &invocation.deadline);
        let id = run.resource_id();
        let since = run.head.started_at.saturating_sub(SLACK);
        let since = since.unwrap_or(Timestamp::MIN);
        let commands = patching::commands(ssm, id, since, deadline).await?;
        let Some(command) = commands.into_iter().find(|c| c.comment == comment) else {
            return Ok(false);
        };
        warn!(entry = %run.head.id, resource = %run.head.resource, command = %command.id, "its command had been sent");
        let at = command
            .requested_at
            .unwrap_or_else(|| self.clients.clock.now());
        run.detail.command = Some(Sent::new(command.id, at));
        run.detail.revision += 1;
        let holder = self.ledger.patching_holder(run);
        self.ledger.go_on(run, &holder, Some(lock), 0, 0).await?;
        Ok(true)
    }

    /// Takes up a run that was cut off before its command was sent, or whose
    /// command never began, by what is decided now.
    pub(super) async fn go_on(
        &self,
        mut run: Patching,
        lock: Option<&Lock>,
        decision: &Decision,
        reports: &Reports,
        policy: &Policy,
    ) -> Result<Looked, Failure> {
        run.detail.revision += 1;
        let holder = self.ledger.patching_holder(&run);
        match self.ledger.go_on(&run, &holder, lock, 0, 0).await? {
            Begun::Started => {}
            Begun::Busy => return Ok(Looked::Done("another run will look again")),
            Begun::Moved | Begun::OverBudget => return Ok(Looked::Again),
        }
        warn!(entry = %run.head.id, resource = %run.head.resource, attempts = run.head.attempts, "taken up again");
        if decision.status == Status::InProgress && decision.operation == run.detail.operation {
            return Ok(Looked::Begun(Box::new(run)));
        }
        run.head.finished_at = Some(self.clients.clock.now());
        let mode = policy.controls.mode(run.head.control);
        let is_off = mode.unwrap_or(self.settings.remediation.mode) == Mode::Off;
        let why = match &decision.verdict {
            Verdict::Compliant if is_off => Some("the mode is `off`".to_owned()),
            // Suppressed, or less bad than the policy asks about, is not mended.
            Verdict::Compliant
                if !run.lists_all()
                    || run
                        .detail
                        .findings
                        .iter()
                        .any(|f| !reports.has_closed(&f.arn)) =>
            {
                Some("what was found is told no more, and nobody has closed it".to_owned())
            }
            Verdict::Compliant => None,
            Verdict::NotApplicable(why) => Some(why.clone()),
            Verdict::Settling => Some("it was started a moment ago".to_owned()),
            // The look that follows records it by itself.
            Verdict::Violates(_) => {
                run.detail.reasons.extend(decision.reasons.iter().cloned());
                run.detail.because.clone_from(&decision.because);
                run.detail.lacks.clone_from(&decision.lacks);
                Some(match run.detail.not_begun.last() {
                    Some(sent) => never_began(sent),
                    None => "it was cut off before its command was sent".to_owned(),
                })
            }
        };
        run.head.status = match why {
            Some(_) => Status::RolledBack,
            None => Status::Remediated,
        };
        run.detail.reasons.push(
            why.unwrap_or_else(|| "nothing is missing any more; no command was sent".to_owned()),
        );
        self.finish(&mut run).await?;
        Ok(Looked::Again)
    }
}

/// Whether a command was refused because of one of its instances.
fn is_refused(error: &AwsError) -> bool {
    ["AccessDenied", "InvalidInstance", "UnsupportedPlatformType"]
        .iter()
        .any(|code| error.code.starts_with(code))
}

/// Whether a run stays as it has begun and is taken up again when its lease
/// lapses: AWS refused for now, or nobody knows what has happened.
fn is_left_open(run: &Patching, error: &AwsError) -> bool {
    error.retryable && run.head.attempts < MOST_ATTEMPTS
}

/// A refused group in two parts, neither of them empty: those that the refusal
/// names and the others, or else halves.
fn parted(group: Group, error: &AwsError) -> (Group, Group) {
    let all = group.len();
    let is_named = |run: &Patching| error.message.contains(run.resource_id());
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        group.into_iter().partition(|(_, run)| is_named(run));
    if named.is_empty() || others.is_empty() {
        named.append(&mut others);
        others = named.split_off(all / 2);
    }
    (named, others)
}
