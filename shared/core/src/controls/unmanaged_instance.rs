//! `unmanaged-instance`: a running instance that Systems Manager does not manage
//! (Security Hub SSM.1), or cannot reach any more, so that nothing can be patched
//! on it.
//!
//! It is told, with what is missing: a role, the agent, a way to the endpoints.
//! Deliberately not here: putting that right. A role given to a workload is a
//! right given to a workload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::info::{Guide, Reversal, StepwiseInfo};
use crate::patching::{Agent, Host, Need, Reach};
use crate::words::ControlId;

/// What is fixed about the control, for people.
pub const INFO: StepwiseInfo = StepwiseInfo {
    id: ControlId::UnmanagedInstance,
    function: "patch-instance",
    hub: &["SSM.1"],
    tagged: "the instance",
    reversal: Reversal::No("Nothing is changed, so there is nothing to undo."),
    guide: Guide {
        why: "Nobody can patch, inventory or inspect an instance that Systems Manager does not reach.",
        changes: "Nothing, in any mode: it reports what the instance lacks (a role, the agent, a way to the endpoints).",
        never: &[
            "It never gives an instance a role, and changes neither its network nor its agent.",
        ],
    },
};

/// The AWS managed policy that lets an instance be managed.
const MANAGED_POLICY: &str = "AmazonSSMManagedInstanceCore";

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// What an instance lacks to be managed, a sentence each; none: it is managed
/// and online.
#[must_use]
pub fn lacks(host: &Host, agent: Option<&Agent>, reach: Option<&Reach>) -> Vec<(Need, String)> {
    let mut lacks = Vec::new();
    if let Some(agent) = agent {
        if agent.is_online() {
            return lacks;
        }
        let last = agent
            .last_ping
            .map_or_else(String::new, |at| format!(", and was last heard of at {at}"));
        let why = format!(
            "its agent is registered but `{}`{last}: see that amazon-ssm-agent is running, and that its role and its way to Systems Manager are as they were",
            agent.ping
        );
        lacks.push((Need::Agent, why));
    }
    // One that registered had a role; not known to have lost it, it is not said
    // to lack it.
    let default_role = match reach {
        Some(reach) => reach.default_role,
        None => agent.is_some(),
    };
    let has_role = host.instance_profile.is_some() || default_role;
    if !has_role {
        let why = format!(
            "role: it has no instance profile; give it one whose role has {MANAGED_POLICY}, or turn on default host management"
        );
        lacks.push((Need::Role, why));
    }
    let Some(reach) = reach else {
        if let (None, Some(profile)) = (agent, &host.instance_profile) {
            let why = format!(
                "agent: it never registered: see that amazon-ssm-agent is installed and running, that the role of {profile} has {MANAGED_POLICY}, and that there is a way to Systems Manager"
            );
            lacks.push((Need::Agent, why));
        }
        return lacks;
    };
    let is_open = reach.is_open(host);
    if !is_open {
        let why = match reach.default_route.as_deref() {
            // Any other gateway would be a way.
            Some(gateway) => format!(
                "its subnet leads to the internet by {gateway}, but it has no public IPv4 address"
            ),
            None => "its subnet has no default route".to_owned(),
        };
        let missing: Vec<&str> = ["ssm", "ssmmessages"]
            .into_iter()
            .filter(|service| !reach.endpoints.contains(*service))
            .collect();
        let why = format!(
            "endpoint: {why}, and its VPC has no interface endpoint for {}",
            missing.join(" and ")
        );
        lacks.push((Need::Endpoint, why));
    }
    if agent.is_none() && has_role && is_open {
        let role = match &host.instance_profile {
            Some(profile) => {
                format!("the role of {profile} may lack {MANAGED_POLICY}")
            }
            None => "default host management needs agent 3.2.582 or newer and IMDS".to_owned(),
        };
        let why = format!(
            "agent: it has a role and a way to Systems Manager, but never registered: amazon-ssm-agent is not installed or not running, or {role}"
        );
        lacks.push((Need::Agent, why));
    }
    lacks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;

    use super::*;

    const PROFILE: &str = "arn:aws:iam::111122223333:instance-profile/web";

    fn host(profile: bool, public_ipv4: bool) -> Host {
        Host {
            id: "i-1".into(),
            instance_profile: profile.then(|| PROFILE.to_owned()),
            public_ipv4,
            ..Host::default()
        }
    }

    fn reach(default_route: Option<&str>, endpoints: &[&str], default_role: bool) -> Reach {
        Reach {
            default_route: default_route.map(str::to_owned),
            endpoints: endpoints
                .iter()
                .map(|service| (*service).to_owned())
                .collect(),
            default_role,
        }
    }

    fn agent(ping: &str, last_ping: Option<&str>) -> Agent {
        Agent {
            ping: ping.into(),
            last_ping: last_ping.map(|at| at.parse::<Timestamp>().unwrap()),
            ..Agent::default()
        }
    }

    fn needs(lacks: &[(Need, String)]) -> Vec<Need> {
        lacks.iter().map(|(need, _)| *need).collect()
    }

    /// All that it lacks.
    fn kinds(host: &Host, reach: &Reach) -> Vec<Need> {
        needs(&lacks(host, None, Some(reach)))
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_there_is_not() {
        let nat = Some("nat-1");
        let internet = Some("igw-1");
        let both = &["ssm", "ssmmessages"][..];
        for (host, reach, expected) in [
            // A role and a way: then it is the agent.
            (
                host(true, false),
                reach(nat, &[], false),
                &[Need::Agent][..],
            ),
            (
                host(true, false),
                reach(Some("tgw-1"), &[], false),
                &[Need::Agent],
            ),
            (
                host(true, true),
                reach(internet, &[], false),
                &[Need::Agent],
            ),
            // A private subnet with endpoints needs no route.
            (host(true, false), reach(None, both, false), &[Need::Agent]),
            (
                host(true, false),
                reach(internet, both, false),
                &[Need::Agent],
            ),
            // Default host management stands for a role.
            (host(false, false), reach(nat, &[], true), &[Need::Agent]),
            // Without a role nothing can be said of the agent.
            (host(false, false), reach(nat, &[], false), &[Need::Role]),
            (host(false, false), reach(None, both, false), &[Need::Role]),
            // No way.
            (
                host(true, false),
                reach(None, &[], false),
                &[Need::Endpoint],
            ),
            (
                host(true, false),
                reach(internet, &[], false),
                &[Need::Endpoint],
            ),
            (
                host(true, false),
                reach(None, &["ssm"], false),
                &[Need::Endpoint],
            ),
            (
                host(true, false),
                reach(None, &["ssmmessages", "ec2messages"], false),
                &[Need::Endpoint],
            ),
            (
                host(false, false),
                reach(None, &[], false),
                &[Need::Role, Need::Endpoint],
            ),
            (
                host(false, false),
                reach(None, &[], true),
                &[Need::Endpoint],
            ),
        ] {
            assert_eq!(kinds(&host, &reach), expected, "{host:?} {reach:?}");
        }
    }

    #[test]
    fn each_lack_says_what_would_mend_it() {
        let text = |host: &Host, reach: &Reach| {
            let lacks = lacks(host, None, Some(reach));
            let why: Vec<String> = lacks.into_iter().map(|(_, why)| why).collect();
            why.join(" / ")
        };
        let role = text(&host(false, false), &reach(Some("nat-1"), &[], false));
        assert!(role.contains("AmazonSSMManagedInstanceCore"), "{role}");
        assert!(role.contains("default host management"), "{role}");
        let no_address = text(&host(true, false), &reach(Some("igw-1"), &["ssm"], false));
        assert!(no_address.contains("igw-1"), "{no_address}");
        assert!(
            no_address.contains("no public IPv4 address"),
            "{no_address}"
        );
        assert!(
            no_address.ends_with("no interface endpoint for ssmmessages"),
            "{no_address}"
        );
        let no_route = text(&host(true, false), &reach(None, &[], false));
        assert!(no_route.contains("no default route"), "{no_route}");
        assert!(no_route.ends_with("for ssm and ssmmessages"), "{no_route}");
        let agent = text(&host(true, false), &reach(Some("nat-1"), &[], false));
        assert!(agent.contains("amazon-ssm-agent"), "{agent}");
        assert!(agent.contains(PROFILE), "{agent}");
        let by_default = text(&host(false, false), &reach(Some("nat-1"), &[], true));
        assert!(by_default.contains("3.2.582"), "{by_default}");
        assert!(!by_default.contains("profile"), "{by_default}");
    }

    #[test]
    fn an_agent_that_is_online_lacks_nothing_whatever_else_is_known() {
        let online = agent("Online", None);
        let bare = reach(None, &[], false);
        for reach in [None, Some(&bare)] {
            assert!(lacks(&host(false, false), Some(&online), reach).is_empty());
        }
    }

    #[test]
    fn an_agent_that_was_lost_says_since_when_and_that_it_is_registered() {
        for ping in ["ConnectionLost", "Inactive"] {
            let lost = agent(ping, Some("2026-11-24T09:00:00Z"));
            let there = reach(Some("nat-1"), &[], false);
            for reach in [None, Some(&there)] {
                let lacks = lacks(&host(true, false), Some(&lost), reach);
                let [(Need::Agent, only)] = &lacks[..] else {
                    panic!("{lacks:?}")
                };
                assert!(only.contains(ping), "{only}");
                assert!(only.contains("2026-11-24T09:00:00Z"), "{only}");
                assert!(!only.contains("never registered"), "{only}");
            }
        }
    }

    #[test]
    fn a_lost_agent_with_what_is_known_to_be_missing_says_that_too() {
        let lost = agent("ConnectionLost", None);
        let bare = reach(None, &[], false);
        let told = lacks(&host(false, false), Some(&lost), Some(&bare));
        assert_eq!(needs(&told), [Need::Agent, Need::Role, Need::Endpoint]);
        // It registered, so that it had a role: default host management's, for all
        // that is known.
        let told = lacks(&host(false, false), Some(&lost), None);
        assert_eq!(needs(&told), [Need::Agent]);
        // Never registered, and nothing known of its ways.
        let told = lacks(&host(false, false), None, None);
        assert_eq!(needs(&told), [Need::Role]);
    }

    #[test]
    fn an_instance_that_is_not_online_always_lacks_something() {
        let ways = [
            None,
            Some(reach(None, &[], false)),
            Some(reach(None, &["ssm", "ssmmessages"], true)),
            Some(reach(Some("igw-1"), &[], false)),
            Some(reach(Some("nat-1"), &[], true)),
        ];
        for (profile, public) in [(true, true), (true, false), (false, true), (false, false)] {
            for agent in [
                None,
                Some(agent("ConnectionLost", None)),
                Some(agent("", None)),
            ] {
                for way in &ways {
                    let lacks = lacks(&host(profile, public), agent.as_ref(), way.as_ref());
                    assert!(!lacks.is_empty(), "{profile} {public} {agent:?} {way:?}");
                }
            }
        }
    }

    #[test]
    fn endpoints_beside_those_that_are_needed_do_not_matter() {
        let all = reach(None, &["ssm", "ssmmessages", "ec2messages", "s3"], false);
        assert_eq!(kinds(&host(true, false), &all), [Need::Agent]);
        let other = Reach {
            endpoints: BTreeSet::from(["s3".to_owned()]),
            ..Reach::default()
        };
        assert_eq!(kinds(&host(true, false), &other), [Need::Endpoint]);
    }
}
