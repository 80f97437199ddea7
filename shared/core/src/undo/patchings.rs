//! Undo of a patching: there is none. What is answered says so, and what there
//! is instead.
//!
//! No package manager goes back reliably, and Patch Manager does not try.
//! Deliberately not here: making volumes of the safety snapshots. Which of what
//! was written since may be lost, only the owner knows.

use jiff::civil::Date;

use super::{Answer, Answered};
use crate::exemption::OPT_OUT_TAG;
use crate::patching::{Operation, Patching, never_began};
use crate::words::Status;

/// What a request to take a patching back is answered; the opt-out that it
/// advises holds until a day. Nothing is changed.
#[must_use]
pub fn answer(run: &Patching, until: Date) -> Answer {
    if run.is_open() {
        return Answer::new(Answered::InProgress, under_way(run));
    }
    if run.detail.operation == Operation::Scan {
        return Answer::new(
            Answered::NothingToUndo,
            "nothing was changed: it only looked which patches are missing",
        );
    }
    if let Some(why) = not_installed(run) {
        let left = match run.detail.snapshots.is_empty() {
            true => String::new(),
            false => format!(
                ". The snapshots that were taken first are kept: {}; delete them if they are not needed",
                run.detail.snapshots.join(", ")
            ),
        };
        return Answer::new(
            Answered::NothingToUndo,
            format!("nothing was changed: {why}{left}"),
        );
    }
    Answer::new(
        Answered::Refused,
        format!(
            "a patch cannot be undone, so nothing was changed. {} Opt the instance out first, or the same patches are installed again: aws ec2 create-tags --region {} --resources {} --tags 'Key={OPT_OUT_TAG},Value={} until={until} reason=undo'.",
            by_hand(run),
            run.head.region,
            run.resource_id(),
            run.head.control
        ),
    )
}

/// What is said while the run is under way.
fn under_way(run: &Patching) -> String {
    let id = run.resource_id();
    match &run.detail.command {
        Some(sent) => format!(
            "the command {} is under way on {id}, and what it installs cannot be undone; to cut it short: aws ssm cancel-command --region {} --command-id {} --instance-ids {id}; it may have installed a part by then",
            sent.id, run.head.region, sent.id
        ),
        None => format!(
            "its command is about to be sent to {id}; ask again in a minute. An opt-out on {id} keeps the next one from being sent"
        ),
    }
}

/// Why nothing can have been installed; `None`: something may have been.
fn not_installed(run: &Patching) -> Option<String> {
    let Some(sent) = &run.detail.command else {
        if let Some(sent) = run.detail.not_begun.last() {
            return Some(never_began(sent));
        }
        return Some(match run.head.status {
            Status::Pending => {
                let why = run.detail.reasons.last().cloned().unwrap_or_default();
                format!(
                    "no patches have been installed yet ({why}); an opt-out on {} keeps them from being installed",
                    run.resource_id()
                )
            }
            Status::Failed => "no command was sent".to_owned(),
            _ => "it was only told".to_owned(),
        });
    };
    let ended = sent.ended.as_deref()?;
    // In these cases Systems Manager did not run it on the instance.
    let never_ran = [
        "DeliveryTimedOut",
        "Delivery Timed Out",
        "Undeliverable",
        "Terminated",
        "RateExceeded",
        "InvalidPlatform",
        "AccessDenied",
    ];
    let ran = run.detail.installed_at.is_some() || !never_ran.contains(&ended);
    (!ran).then(|| format!("the command {} was never run there ({ended})", sent.id))
}

/// What a person can do.
fn by_hand(run: &Patching) -> String {
    if run.detail.snapshots.is_empty() {
        let why = match run.detail.snapshots_wanted {
            true => "none of it is in the ledger",
            false => "the policy's `patching.snapshots` is `false`",
        };
        return format!(
            "No snapshots were taken first ({why}): there is a backup of your own to go back to, or the package manager's way to an older version."
        );
    }
    let ids = run.detail.snapshots.join(" ");
    format!(
        "What the volumes held before is in the snapshots {}. By hand: see which volume each is of (aws ec2 describe-snapshots --region {region} --snapshot-ids {ids}), make a volume of each in the instance's availability zone (aws ec2 create-volume --region {region} --snapshot-id <snap-…> --availability-zone <zone> --volume-type <type>, with the old one's type and IOPS), stop {instance}, and attach the new volumes in the place of the old ones. They are crash-consistent, and what was written since is only on the old volumes: keep those. The sweep deletes the snapshots of a run that ended well, as the policy says (`patching.snapshots.delete_after_days`).",
        run.detail.snapshots.join(", "),
        region = run.head.region,
        instance = run.resource_id()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UNTIL: Date = jiff::civil::date(2026, 12, 1);

    /// A patching of `i-1` with these fields beside those that each has.
    fn run(fields: &Value) -> Patching {
        let mut run = json!({
            "version": 1, "id": "01K00000000000000000000000", "control": "missing-patches",
            "severity": "high", "resource": "arn:aws:ec2:eu-central-1:111122223333:instance/i-1",
            "resource_name": "web-1", "account": "111122223333", "region": "eu-central-1",
            "status": "remediated", "operation": "install", "reboot": "never", "actor": {},
            "policy_version": 1, "attempts": 1, "started_at": "2026-11-24T10:00:00Z",
            "snapshots_wanted": true,
        });
        let (Some(run), Some(fields)) = (run.as_object_mut(), fields.as_object()) else {
            panic!("both are objects");
        };
        run.extend(fields.clone());
        serde_json::from_value(Value::Object(run.clone())).unwrap()
    }

    /// A command that ended so, or is under way.
    fn command(ended: Option<&str>) -> Value {
        json!({ "id": "c-1", "at": "2026-11-24T10:01:00Z", "ended": ended })
    }

    #[track_caller]
    fn says(run: &Value, verdict: Answered, parts: &[&str]) {
        let answer = answer(&self::run(run), UNTIL);
        assert_eq!(answer.verdict, verdict, "{}", answer.message);
        for part in parts {
            assert!(answer.message.contains(part), "{part}: {}", answer.message);
        }
    }

    #[test]
    fn what_was_installed_cannot_be_undone_and_the_snapshots_and_what_to_do_are_named() {
        for (status, ended) in [
            ("remediated", "Success"),
            ("awaiting-rescan", "Success"),
            ("failed", "Failed"),
            ("failed", "ExecutionTimedOut"),
        ] {
            let of = json!({
                "status": status, "command": command(Some(ended)), "snapshots": ["snap-1", "snap-2"],
            });
            says(
                &of,
                Answered::Refused,
                &[
                    "a patch cannot be undone, so nothing was changed.",
                    "in the snapshots snap-1, snap-2.",
                    "describe-snapshots --region eu-central-1 --snapshot-ids snap-1 snap-2",
                    "create-volume --region eu-central-1",
                    "stop i-1",
                    "--resources i-1 --tags 'Key=backstop:opt-out,Value=missing-patches until=2026-12-01 reason=undo'",
                ],
            );
        }
    }

    #[test]
    fn that_no_snapshots_were_taken_is_said_with_why() {
        for (wanted, why) in [
            (false, "the policy's `patching.snapshots` is `false`"),
            (true, "none of it is in the ledger"),
        ] {
            let of = json!({
                "command": command(Some("Success")), "snapshots_wanted": wanted,
            });
            let said = [why, "No snapshots were taken first", "Opt the instance out"];
            says(&of, Answered::Refused, &said);
        }
    }

    #[test]
    fn of_what_was_only_told_or_waits_nothing_was_changed() {
        for status in ["notified", "exempt", "held", "tripped", "refused"] {
            let told = json!({ "status": status });
            let parts = ["nothing was changed: it was only told"];
            says(&told, Answered::NothingToUndo, &parts);
        }
        let waits = json!({
            "status": "pending", "waits": "window", "reasons": ["it waits for a maintenance window"],
        });
        says(
            &waits,
            Answered::NothingToUndo,
            &[
                "nothing was changed: no patches have been installed yet (it waits for a maintenance window)",
                "an opt-out on i-1",
            ],
        );
        let scan = json!({ "operation": "scan", "command": command(Some("Success")) });
        says(&scan, Answered::NothingToUndo, &["it only looked"]);
    }

    #[test]
    fn of_a_command_that_never_ran_only_the_snapshots_are_left() {
        let unsent = json!({ "status": "failed", "snapshots": ["snap-1"] });
        let never = json!({
            "status": "failed", "snapshots": ["snap-1"], "command": command(Some("DeliveryTimedOut")),
        });
        for (of, why) in [
            (unsent, "no command was sent"),
            (never, "c-1 was never run there (DeliveryTimedOut)"),
        ] {
            let said = ["nothing was changed: ", why, "are kept: snap-1"];
            says(&of, Answered::NothingToUndo, &said);
        }
    }

    #[test]
    fn one_that_is_under_way_is_left_alone_and_how_to_end_it_is_said() {
        let sent = json!({ "status": "in-progress", "command": command(None) });
        let part = "cancel-command --region eu-central-1 --command-id c-1 --instance-ids i-1";
        says(&sent, Answered::InProgress, &[part]);
        let begun = json!({ "status": "in-progress" });
        says(&begun, Answered::InProgress, &["about to be sent to i-1"]);
    }
}
