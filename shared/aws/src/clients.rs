//! The SDK clients, built once at start-up and handed in.
//!
//! Built for a quick start: a Lambda function has its Region and credentials
//! in the environment, so the SDK's long chain of other places to look
//! (profiles, SSO, instance metadata) is left out.

use std::time::Duration;

use aws_config::environment::{
    EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider,
};
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::calls::RecordCalls;
use crate::clock::Clock;
use crate::cloudwatch::CloudWatch;

/// Every client that a function may need, and the clock that it goes by. Cloning
/// is cheap.
#[derive(Clone, Debug)]
pub struct Clients {
    /// EC2.
    pub ec2: aws_sdk_ec2::Client,
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// EventBridge.
    pub eventbridge: aws_sdk_eventbridge::Client,
    /// SNS.
    pub sns: aws_sdk_sns::Client,
    /// Systems Manager.
    pub ssm: aws_sdk_ssm::Client,
    /// CloudWatch. Nothing is built of it before it is called, and only functions that
    /// do are linked with it.
    pub cloudwatch: CloudWatch,
    /// The time: the system's, unless a test says otherwise.
    pub clock: Clock,
}

/// The clients of services that only the sweep and the command line call.
/// They are apart so that no other function builds them at every cold start.
#[derive(Clone, Debug)]
pub struct OperationsClients {
    /// CloudFormation: what a stack is made of.
    pub cloudformation: aws_sdk_cloudformation::Client,
    /// CloudTrail: whether calls are recorded at all.
    pub cloudtrail: aws_sdk_cloudtrail::Client,
    /// Lambda: to run a function with an event.
    pub lambda: aws_sdk_lambda::Client,
    /// SQS: the queue of failed events.
    pub sqs: aws_sdk_sqs::Client,
    /// STS: whose credentials these are.
    pub sts: aws_sdk_sts::Client,
}

impl OperationsClients {
    /// The clients of a configuration.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        use aws_sdk_cloudformation::config::Builder as CloudFormation;
        use aws_sdk_cloudtrail::config::Builder as CloudTrail;
        use aws_sdk_lambda::config::Builder as Lambda;
        use aws_sdk_sqs::config::Builder as Sqs;
        use aws_sdk_sts::config::Builder as Sts;
        let cloudformation = CloudFormation::from(config)
            .interceptor(RecordCalls)
            .build();
        let cloudtrail = CloudTrail::from(config).interceptor(RecordCalls).build();
        let lambda = Lambda::from(config).interceptor(RecordCalls).build();
        let sqs = Sqs::from(config).interceptor(RecordCalls).build();
        let sts = Sts::from(config).interceptor(RecordCalls).build();
        Self {
            cloudformation: aws_sdk_cloudformation::Client::from_conf(cloudformation),
            cloudtrail: aws_sdk_cloudtrail::Client::from_conf(cloudtrail),
            lambda: aws_sdk_lambda::Client::from_conf(lambda),
            sqs: aws_sdk_sqs::Client::from_conf(sqs),
            sts: aws_sdk_sts::Client::from_conf(sts),
        }
    }
}

/// The clients of services that only encryption calls.
#[derive(Clone, Debug)]
pub struct EncryptionClients {
    /// KMS: whether the key of copies can be used.
    pub kms: aws_sdk_kms::Client,
    /// Step Functions: to start the execution that carries out a run.
    pub sfn: aws_sdk_sfn::Client,
}

impl EncryptionClients {
    /// The clients of a configuration.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        use aws_sdk_kms::config::Builder as Kms;
        use aws_sdk_sfn::config::Builder as Sfn;
        let kms = Kms::from(config).interceptor(RecordCalls).build();
        let sfn = Sfn::from(config).interceptor(RecordCalls).build();
        Self {
            kms: aws_sdk_kms::Client::from_conf(kms),
            sfn: aws_sdk_sfn::Client::from_conf(sfn),
        }
    }
}

/// Retries of an EC2 call: enough to wait out a minute's worth of throttling;
/// the invocation's deadline cuts them off.
fn patient_retries() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(10)
        .with_initial_backoff(Duration::from_millis(250))
        .with_max_backoff(Duration::from_secs(8))
}

/// Retries of the other calls: what happened has to be recorded and told in
/// the time kept back for it ([`crate::deadline::RESERVE`]).
fn brisk_retries() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(4)
        .with_initial_backoff(Duration::from_millis(100))
}

fn timeouts(attempt: u64) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(attempt))
        .build()
}

/// One HTTP client for all services: each service client would make its own,
/// with connections and a store of root certificates of its own.
fn https() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build_https()
}

/// The configuration of a Lambda function, from its environment.
pub async fn environment_config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(EnvironmentVariableRegionProvider::new())
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
        .retry_config(brisk_retries())
        .timeout_config(timeouts(4))
        .http_client(https())
        .load()
        .await
}

/// A configuration of the caller's own with the retries and time-outs of a Lambda
/// function's calls.
#[must_use]
pub fn with_function_limits(config: &SdkConfig) -> SdkConfig {
    config
        .to_builder()
        .retry_config(brisk_retries())
        .timeout_config(timeouts(4))
        .build()
}

impl Clients {
    /// The clients of a Lambda function, from its environment.
    pub async fn from_environment() -> Self {
        Self::patient_with_ec2(&environment_config().await)
    }

    /// The clients of a function's configuration: EC2 is given more time, since
    /// its throttling has to be waited out.
    #[must_use]
    pub fn patient_with_ec2(config: &SdkConfig) -> Self {
        let patient = config
            .to_builder()
            .retry_config(patient_retries())
            .timeout_config(timeouts(10))
            .build();
        Self::build(config, &patient)
    }

    /// The clients of a configuration.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self::build(config, config)
    }

    fn build(config: &SdkConfig, for_ec2: &SdkConfig) -> Self {
        use aws_sdk_dynamodb::config::Builder as DynamoDb;
        use aws_sdk_ec2::config::Builder as Ec2;
        use aws_sdk_eventbridge::config::Builder as EventBridge;
        use aws_sdk_sns::config::Builder as Sns;
        use aws_sdk_ssm::config::Builder as Ssm;
        let dynamodb = DynamoDb::from(config).interceptor(RecordCalls).build();
        let ec2 = Ec2::from(for_ec2).interceptor(RecordCalls).build();
        let eventbridge = EventBridge::from(config).interceptor(RecordCalls).build();
        let sns = Sns::from(config).interceptor(RecordCalls).build();
        let ssm = Ssm::from(config).interceptor(RecordCalls).build();
        Self {
            ec2: aws_sdk_ec2::Client::from_conf(ec2),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb),
            eventbridge: aws_sdk_eventbridge::Client::from_conf(eventbridge),
            sns: aws_sdk_sns::Client::from_conf(sns),
            ssm: aws_sdk_ssm::Client::from_conf(ssm),
            cloudwatch: CloudWatch::new(config),
            clock: Clock::system(),
        }
    }
}
