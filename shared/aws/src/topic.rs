//! Publishes a message to the topic.

use aws_sdk_sns::types::MessageAttributeValue;
use backstop_core::message::{Message, is_list};

use crate::error::AwsError;

/// Publishes a message: one body per protocol, and attributes that teams
/// subscribe by. A list goes out as one: a filter policy that names any of its
/// texts lets the message through.
///
/// # Errors
/// SNS did not take it.
pub async fn publish(
    sns: &aws_sdk_sns::Client,
    topic_arn: &str,
    message: &Message,
) -> Result<(), AwsError> {
    let mut request = sns
        .publish()
        .topic_arn(topic_arn)
        .subject(&message.subject)
        .message_structure("json")
        .message(&message.body);
    for (name, value) in &message.attributes {
        let value = MessageAttributeValue::builder()
            .data_type(if is_list(value) {
                "String.Array"
            } else {
                "String"
            })
            .string_value(value)
            .build()
            .map_err(|e| AwsError {
                operation: "Publish",
                code: "NotSent".to_owned(),
                message: e.to_string(),
                retryable: false,
            })?;
        request = request.message_attributes(name, value);
    }
    request
        .send()
        .await
        .map(|_| ())
        .map_err(|e| AwsError::new("Publish", &e))
}
