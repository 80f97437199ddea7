//! `open-ingress`: the calls.
//!
//! An undo tags what was narrowed and then widens it; it authorises what was
//! revoked with its opt-out in the same call, so that no look of Backstop's finds
//! it without one (where EC2 refuses that, it is tagged right after). What the remediation added goes last, and only where what it
//! stands for is back. Every step yields an outcome; none hides another.

use backstop_core::controls::open_ingress::OpenIngress;
use backstop_core::exemption::{OPT_OUT_TAG, is_opt_out_key};
use backstop_core::plan::{Change, Ending, Outcome, Step};
use backstop_core::ports::Permission;
use backstop_core::security_group::{Direction, IngressRule, SecurityGroup};
use backstop_core::undo::{Act, ItemStates};

use crate::clients::Clients;
use crate::deadline::Deadline;
use crate::error::AwsError;
use crate::remediation::{Concerned, Place, Remediation, Stopped, Walked};
use crate::security_groups::{
    self, Authorised, RULE_LIMIT, authorise_rule, modify_rule, revoke_rule,
};
use crate::{group_pages, opt_outs};

impl Remediation for OpenIngress {
    async fn gather(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
    ) -> Result<Option<SecurityGroup>, AwsError> {
        security_groups::gather(&aws.ec2, id, at.region, at.deadline).await
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        change: &Change<IngressRule>,
    ) -> Vec<Outcome> {
        security_groups::apply(&aws.ec2, id, change, at.deadline).await
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<SecurityGroup>),
    ) -> Result<Walked, Stopped> {
        group_pages::walk(&aws.ec2, at.region, at.deadline, each).await
    }

    async fn concerned(aws: &Clients, at: Place<'_>, list: &str) -> Result<Concerned, AwsError> {
        security_groups::groups_naming(&aws.ec2, list, at.deadline).await
    }

    async fn restore(
        aws: &Clients,
        at: Place<'_>,
        id: &str,
        states: &[ItemStates<IngressRule>],
        opt_out: &dyn Fn(&IngressRule) -> String,
    ) -> Vec<Outcome> {
        restore_rules(&aws.ec2, id, states, opt_out, at.deadline).await
    }
}

/// Carries out what was decided about each rule. `opt_out` gives the value of
/// the opt-out tag that a rule is put back with.
async fn restore_rules(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    states: &[ItemStates<IngressRule>],
    opt_out: &dyn Fn(&IngressRule) -> String,
    deadline: &Deadline,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut not_back: Vec<&str> = Vec::new();
    for state in states {
        let begun = outcomes.len();
        match state.act {
            Act::Authorise => {
                let rule = (Direction::Ingress, &state.before);
                let value = opt_out(rule.1);
                outcomes.extend(authorise(ec2, group, rule, &value, deadline).await);
            }
            Act::Widen => outcomes.extend(widen(ec2, group, state, opt_out, deadline).await),
            Act::AsBefore | Act::Changed => {}
        }
        if outcomes.iter().skip(begun).any(Outcome::failed) {
            not_back.push(&state.item);
        }
    }
    for state in states {
        for id in state.added.keys() {
            let ending = if not_back.contains(&state.item.as_str()) {
                Ending::Skipped {
                    why: "what it stands for is not back".to_owned(),
                }
            } else {
                revoke_rule(ec2, group, Direction::Ingress, id, deadline).await
            };
            outcomes.push(Outcome {
                created: Some(id.clone()),
                ..outcome(&state.item, Step::TakeBack, None, ending)
            });
        }
    }
    outcomes
}

fn outcome(item: &str, step: Step, permission: Option<&Permission>, ending: Ending) -> Outcome {
    Outcome {
        round: 1,
        item: item.to_owned(),
        step,
        permission: permission.cloned(),
        created: None,
        without: None,
        ending,
    }
}

/// Authorises a rule again that was revoked, with its tags and this opt-out.
pub(super) async fn authorise(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    (direction, rule): (Direction, &IngressRule),
    opt_out: &str,
    deadline: &Deadline,
) -> Vec<Outcome> {
    let mut tags = rule.tags.clone();
    tags.retain(|key, _| !is_opt_out_key(key));
    tags.insert(OPT_OUT_TAG.to_owned(), opt_out.to_owned());
    let whole = (direction, rule);
    let answer = authorise_rule(ec2, group, whole, &rule.permission, &tags, deadline).await;
    let (Authorised { created, without }, ending) = match answer {
        Ok(made) => (made, Ending::Done),
        Err(error) if error.is_duplicate() => (Authorised::default(), Ending::AlreadyDone),
        Err(mut error) if error.is_rule_limit() => {
            error.message += &format!(
                ": {RULE_LIMIT}; make room in the group, or have its quota of rules raised"
            );
            (Authorised::default(), error.ending())
        }
        Err(error) => (Authorised::default(), error.ending()),
    };
    let mut outcomes = vec![Outcome {
        created,
        without,
        ..outcome(&rule.id, Step::Authorise, Some(&rule.permission), ending)
    }];
    // What came back without its tags needs its opt-out, or it is closed again.
    if let Some(Outcome {
        created: Some(id),
        without: Some(without),
        ..
    }) = outcomes.first()
        && without.tags
    {
        let tagged = opt_outs::set(ec2, id, opt_out, deadline).await;
        let ending = tagged.map_or_else(|error| error.ending(), |()| Ending::Done);
        outcomes.push(outcome(&rule.id, Step::Tag, None, ending));
    }
    outcomes
}

async fn widen(
    ec2: &aws_sdk_ec2::Client,
    group: &str,
    state: &ItemStates<IngressRule>,
    opt_out: &dyn Fn(&IngressRule) -> String,
    deadline: &Deadline,
) -> Vec<Outcome> {
    let rule = &state.before;
    // Not of the rule as it was before: somebody may have opted it out since.
    let value = opt_out(state.now.as_ref().unwrap_or(rule));
    if let Err(error) = opt_outs::set(ec2, &rule.id, &value, deadline).await {
        let why = "its opt-out could not be put on it before".to_owned();
        return vec![
            outcome(&state.item, Step::Tag, None, error.ending()),
            outcome(
                &state.item,
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
        outcome(&state.item, Step::Tag, None, Ending::Done),
        outcome(&state.item, Step::Widen, Some(&rule.permission), ending),
    ]
}
