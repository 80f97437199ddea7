//! Why volumes are not replaced, whatever the mode: before a run begins and again
//! before each of its steps.

use super::settings::Settings;
use crate::managers::{self, Kind};
use crate::security_group::Tags;
use crate::volumes::{COPY_OF_TAG, Instance, MOST_TAGS, Volume};

/// How many tags a copy carries beside those of its original.
const OWN_TAGS: usize = 2;

/// Everything that forbids to replace these volumes, in words. `stops`: the
/// instance would be stopped for it, so that what a stop costs counts.
#[must_use]
pub fn refusals<'a>(
    instance: Option<&Instance>,
    volumes: impl IntoIterator<Item = &'a Volume>,
    stops: bool,
    key_problem: Option<&str>,
    settings: &Settings,
) -> Vec<String> {
    let mut why = Vec::new();
    let of_volumes: Vec<&Volume> = volumes.into_iter().collect();
    for volume in &of_volumes {
        let id = &volume.id;
        if volume.tags.contains_key(COPY_OF_TAG) {
            why.push(format!(
                "{id} is itself a copy that Backstop made (tag {COPY_OF_TAG}), which came out unencrypted: delete it, or take the tag away"
            ));
        }
        if volume.multi_attach {
            why.push(format!("{id} may be attached to several instances at once"));
        }
        if volume.marketplace {
            why.push(format!(
                "{id} carries a product code of the Marketplace, which a copy would lose"
            ));
        }
        why.extend(on_an_outpost(id, volume.outpost.as_deref()));
        if let Some(operator) = &volume.operator {
            why.push(format!("{id} is managed by {operator}"));
        }
        if let Some(tag) = orchestrated(&volume.tags) {
            why.push(format!(
                "{id} belongs to Kubernetes (tag {tag}), which knows it by its id"
            ));
        }
        why.extend(in_a_stack(id, &volume.tags, settings));
        if volume.carried_tags().len() + OWN_TAGS > MOST_TAGS {
            why.push(format!(
                "{id} has so many tags that its copy would have no room for Backstop's {OWN_TAGS} (at most {MOST_TAGS})"
            ));
        }
    }
    if let Some(instance) = instance {
        let id = &instance.id;
        let tag = |key: &str| instance.tags.get(key);
        if let Some(group) = managers::auto_scaling_group(&instance.tags) {
            why.push(format!(
                "{id} is a member of the Auto Scaling group {group}, which would replace it when it is stopped: encrypt in the launch template"
            ));
        }
        if let Some(fleet) = tag("aws:ec2:fleet-id").or_else(|| tag("aws:ec2spot:fleet-request-id"))
        {
            why.push(format!("{id} is a member of the fleet {fleet}"));
        }
        if let Some(lifecycle) = &instance.lifecycle {
            why.push(format!("{id} is a {lifecycle} instance"));
        }
        // Of an undo, which makes no copy, volumes are not asked about.
        if !of_volumes.is_empty() {
            why.extend(on_an_outpost(id, instance.outpost.as_deref()));
        }
        if let Some(operator) = &instance.operator {
            why.push(format!("{id} is managed by {operator}"));
        }
        if let Some(tag) = orchestrated(&instance.tags) {
            why.push(format!("{id} is a node of Kubernetes (tag {tag})"));
        }
        // Of an undo, which replaces nothing, volumes are not asked about.
        if !of_volumes.is_empty() {
            why.extend(in_a_stack(id, &instance.tags, settings));
        }
        if instance.marketplace {
            why.push(format!(
                "{id} carries a product code of the Marketplace, which is lost with its root volume"
            ));
        }
        if instance.hibernates {
            why.push(format!(
                "{id} is set up to hibernate: its memory may lie on the volume"
            ));
        }
        if instance.is_ended() {
            why.push(format!("{id} is being terminated"));
        }
        if stops {
            if instance.instance_store {
                why.push(format!(
                    "{id} has instance-store volumes, which a stop erases"
                ));
            }
            if let Some(address) = &instance.auto_public_ipv4
                && !settings.release_public_ipv4
            {
                why.push(format!(
                    "a stop releases the public IPv4 address {address} of {id}: give it an Elastic IP address, or allow it (`release_public_ipv4`)"
                ));
            }
            if instance.stop_protected {
                why.push(format!("{id} is protected against being stopped"));
            }
        }
    }
    if let Some(problem) = key_problem {
        why.push(problem.to_owned());
    }
    why
}

/// That a volume or instance is on an Outpost. A copy is asked for without one, so
/// that the instance could not use it.
fn on_an_outpost(id: &str, outpost: Option<&str>) -> Option<String> {
    let outpost = outpost?;
    Some(format!(
        "{id} is on an Outpost ({outpost}), and its copy would be made in the Region"
    ))
}

/// The tag by which an orchestrator marks what it manages.
fn orchestrated(tags: &Tags) -> Option<String> {
    let manager = managers::tagged(tags, Kind::orchestrates)?;
    manager.tag.map(|(key, _)| key)
}

/// That a CloudFormation stack made a volume or instance, where the policy does
/// not allow to replace what one made. An update replaces a volume, or its whole
/// instance, whose encryption is not the template's.
fn in_a_stack(id: &str, tags: &Tags, settings: &Settings) -> Option<String> {
    let stack = managers::stack(tags).filter(|_| !settings.replace_stack_volumes)?;
    Some(format!(
        "{id} is managed by {stack}, whose next update may replace what was swapped by a new, empty volume: set `Encrypted: true` in its template, or allow it (`replace_stack_volumes`)"
    ))
}
