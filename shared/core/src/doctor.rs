//! Is Backstop itself in order? Facts about the trail, the rules, the topic,
//! the queue and the policy, judged one by one.
//!
//! Deliberately not here: reading them (`backstop_aws::doctor`).

use crate::notice::FailedCheck;
use crate::policy::Policy;
use crate::words::ControlId;

/// A check and how it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is in order, or what is not.
    pub result: Result<String, FailedCheck>,
}

/// A trail, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// Its name.
    pub name: String,
    /// Whether it covers this Region: multi-Region, or at home here.
    pub covers_region: bool,
    /// Whether it is logging now.
    pub logging: bool,
    /// Whether it logs management events that write.
    pub logs_writes: bool,
}

impl Check {
    fn passed(name: &'static str, found: String) -> Self {
        Self {
            name,
            result: Ok(found),
        }
    }

    fn failed(name: &'static str, found: String, remedy: &str) -> Self {
        Self {
            name,
            result: Err(FailedCheck {
                check: name.to_owned(),
                found,
                remedy: remedy.to_owned(),
            }),
        }
    }

    /// A check that could not be made, because of a call.
    #[must_use]
    pub fn unmade(name: &'static str, error: &str) -> Self {
        Self::failed(
            name,
            format!("it could not be looked at: {error}"),
            "Grant the call, or look again later; until then nobody knows.",
        )
    }
}

/// No control has tripped: one that has changes nothing until a person re-arms it.
#[must_use]
pub fn trips(tripped: &[ControlId]) -> Check {
    const NAME: &str = "trips";
    let names: Vec<&str> = tripped.iter().map(|control| control.name()).collect();
    match names.first() {
        None => Check::passed(NAME, "no control has tripped".to_owned()),
        Some(first) => Check::failed(
            NAME,
            format!("tripped, and changing nothing: {}", names.join(", ")),
            &format!(
                "Find out why (backstop history, backstop policy show), then: backstop re-arm {first}."
            ),
        ),
    }
}

/// Some trail has to log management events that write in this Region: without
/// one no event arrives.
#[must_use]
pub fn trail(trails: &[Trail], region: &str) -> Check {
    const NAME: &str = "trail";
    let sees = |trail: &&Trail| trail.covers_region && trail.logging && trail.logs_writes;
    if let Some(trail) = trails.iter().find(sees) {
        return Check::passed(
            NAME,
            format!(
                "the trail {} logs management events that write in {region}",
                trail.name
            ),
        );
    }
    let why: Vec<String> = trails
        .iter()
        .map(|trail| {
            let why = match (trail.covers_region, trail.logging) {
                (false, _) => "does not cover this Region",
                (true, false) => "is not logging",
                (true, true) => "does not log management events that write",
            };
            format!("{} {why}", trail.name)
        })
        .collect();
    let found = if why.is_empty() {
        format!("no trail covers {region}, so no event arrives")
    } else {
        format!(
            "no trail logs what is needed in {region}, so no event arrives: {}",
            why.join("; ")
        )
    };
    Check::failed(
        NAME,
        found,
        "Create a trail that logs management events (write), or start it: aws cloudtrail start-logging --name <trail>.",
    )
}

/// Every rule has to be there and enabled. `states`: name, and state if it is
/// there.
#[must_use]
pub fn rules(states: &[(String, Option<String>)]) -> Check {
    const NAME: &str = "rules";
    if states.is_empty() {
        return Check::failed(
            NAME,
            "the stack has no rules, so no event arrives".to_owned(),
            "Deploy the stack again, or name the right one.",
        );
    }
    let off: Vec<String> = states
        .iter()
        .filter_map(|(name, state)| match state.as_deref() {
            // The third state also delivers read-only calls.
            Some("ENABLED" | "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS") => None,
            Some(state) => Some(format!("{name} is {}", state.to_lowercase())),
            None => Some(format!("{name} is gone")),
        })
        .collect();
    if off.is_empty() {
        Check::passed(NAME, format!("all {} rules are enabled", states.len()))
    } else {
        Check::failed(
            NAME,
            off.join("; "),
            "Enable it: aws events enable-rule --name <rule>; if it is gone, deploy the stack again.",
        )
    }
}

/// How a mail subscription is confirmed so that nobody can end it without signing in:
/// mail scanners follow the link that ends it.
const CONFIRM: &str = "Confirm it with the token in the link of the mail from AWS and not with the link itself, or a mail scanner that follows links can unsubscribe it: aws sns confirm-subscription --topic-arn <NotificationTopicArn> --token <token> --authenticate-on-unsubscribe true (docs/deploy.md).";

/// Somebody has to be told.
#[must_use]
pub fn subscription(confirmed: u64, pending: u64) -> Check {
    const NAME: &str = "subscription";
    match (confirmed, pending) {
        (0, 0) => Check::failed(
            NAME,
            "nobody is subscribed to the topic, so nobody is told anything".to_owned(),
            &format!(
                "Subscribe somebody: aws sns subscribe --topic-arn <NotificationTopicArn> --protocol email --notification-endpoint <address>. {CONFIRM}"
            ),
        ),
        (0, pending) => Check::failed(
            NAME,
            format!("none of {pending} subscriptions is confirmed, so nobody is told anything"),
            &format!("{CONFIRM} If the mail is lost, subscribe again."),
        ),
        (confirmed, _) => Check::passed(
            NAME,
            format!(
                "{confirmed} confirmed. One that was confirmed by its link can be unsubscribed by a mail scanner that follows links: docs/deploy.md says how to prevent that"
            ),
        ),
    }
}

/// The queue of failed events has to be empty.
#[must_use]
pub fn queue(waiting: u64) -> Check {
    const NAME: &str = "queue";
    match waiting {
        0 => Check::passed(NAME, "no event has been given up".to_owned()),
        1 => Check::failed(
            NAME,
            "1 event has been given up".to_owned(),
            "Look at it: backstop failed list; once the cause is gone: backstop failed redrive --all.",
        ),
        many => Check::failed(
            NAME,
            format!("{many} events have been given up"),
            "Look at them: backstop failed list; once the cause is gone: backstop failed redrive --all.",
        ),
    }
}

/// The policy has to be valid: else nothing is changed.
#[must_use]
pub fn policy(document: &str) -> Check {
    const NAME: &str = "policy";
    match Policy::parse(document) {
        Ok(policy) if policy.kill_switch => Check::failed(
            NAME,
            "the kill switch is on, so nothing is put right".to_owned(),
            "Once that is no longer wanted: backstop kill-switch off.",
        ),
        Ok(_) => Check::passed(NAME, "valid".to_owned()),
        Err(problem) => Check::failed(
            NAME,
            format!("{problem}, so nothing is changed"),
            "Mend it: backstop policy check <file> names every field that is wrong.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_that_has_tripped_fails_its_check_with_the_command_that_ends_it() {
        assert!(trips(&[]).result.is_ok());
        let failed = trips(&[ControlId::PublicImage, ControlId::OpenIngress]);
        let failed = failed.result.unwrap_err();
        assert!(failed.found.ends_with("public-image, open-ingress"));
        assert!(failed.remedy.contains("backstop re-arm public-image"));
    }

    fn failed(check: &Check) -> &str {
        check.result.as_ref().unwrap_err().found.as_str()
    }

    #[test]
    fn a_trail_has_to_cover_the_region_log_and_log_writes() {
        let good = Trail {
            name: "org".into(),
            covers_region: true,
            logging: true,
            logs_writes: true,
        };
        assert!(
            trail(std::slice::from_ref(&good), "eu-central-1")
                .result
                .is_ok()
        );
        for (bad, why) in [
            (
                Trail {
                    covers_region: false,
                    ..good.clone()
                },
                "does not cover",
            ),
            (
                Trail {
                    logging: false,
                    ..good.clone()
                },
                "is not logging",
            ),
            (
                Trail {
                    logs_writes: false,
                    ..good.clone()
                },
                "events that write",
            ),
        ] {
            let check = trail(std::slice::from_ref(&bad), "eu-central-1");
            assert!(failed(&check).contains(why), "{check:?}");
            assert!(trail(&[bad, good.clone()], "eu-central-1").result.is_ok());
        }
        assert!(failed(&trail(&[], "eu-central-1")).contains("no trail"));
    }

    #[test]
    fn rules_have_to_be_there_and_on() {
        let state = |name: &str, state: Option<&str>| (name.to_owned(), state.map(str::to_owned));
        let all_calls = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS";
        let on = [state("a", Some("ENABLED")), state("b", Some(all_calls))];
        assert!(rules(&on).result.is_ok());
        let off = [state("a", Some("DISABLED")), state("b", None)];
        assert_eq!(failed(&rules(&off)), "a is disabled; b is gone");
        // Nothing to examine is not all in order.
        assert!(failed(&rules(&[])).contains("no rules"));
    }

    #[test]
    fn somebody_has_to_be_told_and_nothing_left_lying() {
        assert!(subscription(1, 5).result.is_ok());
        assert!(failed(&subscription(0, 0)).contains("nobody is subscribed"));
        assert!(failed(&subscription(0, 2)).contains("none of 2"));
        // Mail scanners follow the link that unsubscribes.
        for (confirmed, pending) in [(0, 0), (0, 2), (1, 0)] {
            let said = match subscription(confirmed, pending).result {
                Ok(found) => found,
                Err(failed) => {
                    assert!(failed.remedy.contains("--authenticate-on-unsubscribe true"));
                    failed.remedy
                }
            };
            assert!(said.contains("docs/deploy.md"), "{said}");
        }
        assert!(queue(0).result.is_ok());
        assert!(failed(&queue(1)).contains("1 event has"));
        assert!(failed(&queue(3)).contains("3 events have"));
    }

    #[test]
    fn a_policy_has_to_be_valid_and_to_let_something_be_done() {
        assert!(policy(r#"{"version":1}"#).result.is_ok());
        assert!(failed(&policy("{}")).contains("`version`"));
        assert!(failed(&policy(r#"{"version":1,"kill_switch":true}"#)).contains("kill switch"));
    }
}
