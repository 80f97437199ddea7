//! `unmanaged-instance`: a running instance that Systems Manager does not manage
//! (Security Hub SSM.1), or cannot reach any more, so that nothing can be patched
//! on it.
//!
//! It is told, with what is missing: a role, the agent, a way to the endpoints.
//! Deliberately not here: putting that right. A role given to a workload is a
//! right given to a workload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patching::{Agent, Host, Reach};

/// The control's name.
pub const NAME: &str = "unmanaged-instance";

/// The AWS managed policy that lets an instance be managed.
const MANAGED_POLICY: &str = "AmazonSSMManagedInstanceCore";

/// The control's settings: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// What an instance lacks to be managed, a sentence each; none: it is managed
/// and online.
#[must_use]
pub fn lacks(host: &Host, agent: Option<&Agent>, reach: Option<&Reach>) -> Vec<String> {
    let mut lacks = Vec::new();
    if let Some(agent) = agent {
        if agent.is_online() {
            return lacks;
        }
        let last = agent
            .last_ping
            .map_or_else(String::new, |at| format!(", and was last heard of at {at}"));
        lacks.push(format!(
            "its agent is registered but `{}`{last}: see that amazon-ssm-agent is running, and that its role and its way to Systems Manager are as they were",
            agent.ping
        ));
    }
    // One that registered had a role; not known to have lost it, it is not said
    // to lack it.
    let default_role = match reach {
        Some(reach) => reach.default_role,
        None => agent.is_some(),
    };
    let has_role = host.instance_profile.is_some() || default_role;
    if !has_role {
        lacks.push(format!(
            "role: it has no instance profile; give it one whose role has {MANAGED_POLICY}, or turn on default host management"
        ));
    }
    let Some(reach) = reach else {
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
        lacks.push(format!(
            "endpoint: {why}, and its VPC has no interface endpoint for {}",
            missing.join(" and ")
        ));
    }
    if agent.is_none() && has_role && is_open {
        let role = match &host.instance_profile {
            Some(profile) => {
                format!("the role of {profile} may lack {MANAGED_POLICY}")
            }
            None => "default host management needs agent 3.2.582 or newer and IMDS".to_owned(),
        };
        lacks.push(format!(
            "agent: it has a role and a way to Systems Manager, but never registered: amazon-ssm-agent is not installed or not running, or {role}"
        ));
    }
    lacks
}
