//! Carries out an undo of a security group's remediation.
//!
//! What is narrowed is tagged and then widened, what was revoked is authorised
//! with its opt-out in the same call, so that no look of Backstop's finds it
//! without one. What the remediation added goes last, and only where what it
//! stands for is back. Every step yields an outcome; none hides another.
//!
//! Deliberately not here: what is done about which rule (`backstop_core::undo`).

use backstop_core::exemption::OPT_OUT_TAG;
use backstop_core::plan::{Ending, Outcome, Step};
use backstop_core::ports::Permission;
use backstop_core::security_group::IngressRule;
use backstop_core::undo::{Act, RuleStates};

use crate::deadline::Deadline;
use crate::opt_outs;
use crate::security_groups::{authorise_rule, modify_rule, revoke_rule};

/// Carries out what was decided about each rule. `opt_out` gives the value of
/// the opt-out tag that a rule is put back with.
pub async fn apply(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    states: &[RuleStates],
    opt_out: impl Fn(&IngressRule) -> String,
    deadline: &Deadline,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut not_back: Vec<&str> = Vec::new();
    for state in states {
        let begun = outcomes.len();
        match state.act {
            Act::Authorise => {
                outcomes.push(authorise(ec2, group, state, &opt_out, deadline).await);
            }
            Act::Widen => outcomes.extend(widen(ec2, group, state, &opt_out, deadline).await),
            Act::AsBefore | Act::Changed => {}
        }
        if outcomes.iter().skip(begun).any(Outcome::failed) {
            not_back.push(&state.rule);
        }
    }
    for state in states {
        for rule in &state.added {
            let ending = if not_back.contains(&state.rule.as_str()) {
                Ending::Skipped {
                    why: "what it stands for is not back".to_owned(),
                }
            } else {
                revoke_rule(ec2, group, &rule.id, deadline).await
            };
            outcomes.push(Outcome {
                created: Some(rule.id.clone()),
                ..outcome(state, Step::TakeBack, None, ending)
            });
        }
    }
    outcomes
}

fn outcome(
    state: &RuleStates,
    step: Step,
    permission: Option<&Permission>,
    ending: Ending,
) -> Outcome {
    Outcome {
        round: 1,
        rule: state.rule.clone(),
        step,
        permission: permission.cloned(),
        created: None,
        ending,
    }
}

async fn authorise(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    state: &RuleStates,
    opt_out: &impl Fn(&IngressRule) -> String,
    deadline: &Deadline,
) -> Outcome {
    let rule = &state.before;
    let mut tags = rule.tags.clone();
    tags.insert(OPT_OUT_TAG.to_owned(), opt_out(rule));
    let answer = authorise_rule(ec2, group, rule, &rule.permission, &tags, deadline).await;
    let (created, ending) = match answer {
        Ok(created) => (created, Ending::Done),
        Err(error) if error.is_duplicate() => (None, Ending::AlreadyDone),
        Err(mut error) if error.is_rule_limit() => {
            error.message += "; make room in the group, or have its quota of rules raised";
            (None, error.ending())
        }
        Err(error) => (None, error.ending()),
    };
    Outcome {
        created,
        ..outcome(state, Step::Authorise, Some(&rule.permission), ending)
    }
}

async fn widen(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    state: &RuleStates,
    opt_out: &impl Fn(&IngressRule) -> String,
    deadline: &Deadline,
) -> Vec<Outcome> {
    let rule = &state.before;
    // Not of the rule as it was before: somebody may have opted it out since.
    let value = opt_out(state.now.as_ref().unwrap_or(rule));
    if let Err(error) = opt_outs::set(ec2, &rule.id, &value, deadline).await {
        let why = "its opt-out could not be put on it before".to_owned();
        return vec![
            outcome(state, Step::Tag, None, error.ending()),
            outcome(
                state,
                Step::Widen,
                Some(&rule.permission),
                Ending::Skipped { why },
            ),
        ];
    }
    let ending = match modify_rule(ec2, group, rule, &rule.permission, deadline).await {
        Ok(()) => Ending::Done,
        Err(error) => error.ending(),
    };
    vec![
        outcome(state, Step::Tag, None, Ending::Done),
        outcome(state, Step::Widen, Some(&rule.permission), ending),
    ]
}
