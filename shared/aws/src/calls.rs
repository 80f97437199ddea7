//! Records every AWS call a function makes: one log line each, with the IAM
//! actions that it needs.
//!
//! It is the trail of what Backstop did, and what the tests hold against the
//! rights that the template grants.

use std::time::Instant;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsInput;
use aws_sdk_ec2::operation::authorize_security_group_egress::AuthorizeSecurityGroupEgressInput;
use aws_sdk_ec2::operation::authorize_security_group_ingress::AuthorizeSecurityGroupIngressInput;
use aws_sdk_ec2::operation::copy_volumes::CopyVolumesInput;
use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotInput;
use aws_sdk_ec2::operation::create_snapshots::CreateSnapshotsInput;
use aws_sdk_ec2::operation::create_volume::CreateVolumeInput;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef, Input,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Layer, Storable, StoreReplace};

/// Logs each call when it has ended, retries included.
#[derive(Debug)]
pub struct RecordCalls;

#[derive(Debug)]
struct Begun {
    at: Instant,
    actions: Vec<String>,
}

impl Storable for Begun {
    type Storer = StoreReplace<Self>;
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for RecordCalls {
    fn name(&self) -> &'static str {
        "RecordCalls"
    }

    // Not `read_before_execution`: the operation's name is not known there.
    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let actions = match cfg.load::<Metadata>() {
            Some(metadata) => actions(metadata.service(), metadata.name(), context.input()),
            None => Vec::new(),
        };
        let mut layer = Layer::new("RecordCalls");
        layer.store_put(Begun {
            at: Instant::now(),
            actions,
        });
        cfg.push_layer(layer);
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (Some(metadata), Some(begun)) = (cfg.load::<Metadata>(), cfg.load::<Begun>()) else {
            return Ok(());
        };
        let answered = matches!(context.output_or_error(), Some(Ok(_)));
        tracing::info!(
            call = %format!("{}:{}", prefix(metadata.service()), metadata.name()),
            actions = %begun.actions.join(" "),
            attempts = cfg.load::<RequestAttempts>().map_or(0, RequestAttempts::attempts),
            milliseconds = begun.at.elapsed().as_millis() as u64,
            answered,
            "AWS call"
        );
        Ok(())
    }
}

/// A service's prefix in IAM actions.
fn prefix(service: &str) -> String {
    match service {
        "EventBridge" => "events".to_owned(),
        "SFN" => "states".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

/// The IAM actions that a call needs. Mostly the operation itself; a
/// transaction needs what its parts need, and creating something with tags
/// needs the right to tag.
fn actions(service: &str, operation: &str, input: &Input) -> Vec<String> {
    let prefix = prefix(service);
    if let Some(input) = input.downcast_ref::<TransactWriteItemsInput>() {
        let mut actions: Vec<String> = input
            .transact_items()
            .iter()
            .flat_map(|item| {
                [
                    item.put().map(|_| "PutItem"),
                    item.update().map(|_| "UpdateItem"),
                    item.delete().map(|_| "DeleteItem"),
                    item.condition_check().map(|_| "ConditionCheckItem"),
                ]
            })
            .flatten()
            .map(|action| format!("{prefix}:{action}"))
            .collect();
        actions.sort();
        actions.dedup();
        return actions;
    }
    let action = match (service, operation) {
        ("Lambda", "Invoke") => "InvokeFunction",
        (_, operation) => operation,
    };
    let mut actions = vec![format!("{prefix}:{action}")];
    if creates_with_tags(input) {
        actions.push("ec2:CreateTags".to_owned());
    }
    actions
}

/// Whether a call creates something with tags.
fn creates_with_tags(input: &Input) -> bool {
    let rule = input.downcast_ref::<AuthorizeSecurityGroupIngressInput>();
    let egress = input.downcast_ref::<AuthorizeSecurityGroupEgressInput>();
    let copy = input.downcast_ref::<CopyVolumesInput>();
    let volume = input.downcast_ref::<CreateVolumeInput>();
    let snapshot = input.downcast_ref::<CreateSnapshotInput>();
    let snapshots = input.downcast_ref::<CreateSnapshotsInput>();
    rule.is_some_and(|input| !input.tag_specifications().is_empty())
        || egress.is_some_and(|input| !input.tag_specifications().is_empty())
        || copy.is_some_and(|input| !input.tag_specifications().is_empty())
        || volume.is_some_and(|input| !input.tag_specifications().is_empty())
        || snapshot.is_some_and(|input| !input.tag_specifications().is_empty())
        || snapshots.is_some_and(|input| !input.tag_specifications().is_empty())
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{ResourceType, TagSpecification};
    use aws_sdk_ssm::operation::send_command::SendCommandInput;

    use super::*;

    #[test]
    fn snapshots_with_tags_need_the_right_to_tag_and_those_without_do_not() {
        let plain = CreateSnapshotsInput::builder();
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::Snapshot)
            .build();
        let tagged = plain.clone().tag_specifications(tags);
        let needs =
            |input: CreateSnapshotsInput| actions("EC2", "CreateSnapshots", &Input::erase(input));
        assert_eq!(
            needs(tagged.build().unwrap()),
            ["ec2:CreateSnapshots", "ec2:CreateTags"]
        );
        assert_eq!(needs(plain.build().unwrap()), ["ec2:CreateSnapshots"]);
    }

    #[test]
    fn an_invocation_needs_a_right_of_another_name() {
        let input = aws_sdk_lambda::operation::invoke::InvokeInput::builder();
        assert_eq!(
            actions("Lambda", "Invoke", &Input::erase(input.build().unwrap())),
            ["lambda:InvokeFunction"]
        );
    }

    #[test]
    fn a_command_needs_the_right_to_send_it() {
        let command = SendCommandInput::builder().build().unwrap();
        assert_eq!(
            actions("SSM", "SendCommand", &Input::erase(command)),
            ["ssm:SendCommand"]
        );
    }
}
