//! Which account, Region and stack a command is about, and how errors of AWS
//! are said.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use backstop_aws::clients::{Clients, EncryptionClients, OperationsClients};
use backstop_aws::deadline::Deadline;
use backstop_aws::error::AwsError;
use backstop_aws::ledger::{Ledger, LedgerError};
use backstop_aws::stack::{Stack, whoami};
use clap::Args;

use crate::Problem;

/// How long a command may take: a person waits for it, and may end it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Context {
    /// AWS profile; else what the environment says
    #[arg(long, global = true)]
    pub(crate) profile: Option<String>,
    /// AWS Region; else what the profile or the environment says
    #[arg(long, global = true)]
    pub(crate) region: Option<String>,
    /// Backstop's stack
    #[arg(long, global = true, default_value = "backstop")]
    pub(crate) stack: String,
}

/// AWS, as a command calls it.
pub(crate) struct Aws {
    pub(crate) clients: Clients,
    pub(crate) encryption: EncryptionClients,
    pub(crate) operations: OperationsClients,
    pub(crate) region: String,
    pub(crate) deadline: Deadline,
}

impl Context {
    /// The clients, by the usual chain of profiles, SSO, processes and the
    /// environment.
    pub(crate) async fn aws(&self) -> Result<Aws, Problem> {
        let config = self.config().await?;
        Ok(Aws {
            clients: Clients::new(&config),
            encryption: EncryptionClients::new(&config),
            operations: OperationsClients::new(&config),
            region: config.region().map(ToString::to_string).unwrap_or_default(),
            deadline: Deadline::new(PATIENCE),
        })
    }

    async fn config(&self) -> Result<SdkConfig, Problem> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let config = loader.load().await;
        match config.region() {
            Some(_) => Ok(config),
            None => Err(Problem(
                "no Region is set: give --region, set AWS_REGION, or set `region` in the profile"
                    .to_owned(),
            )),
        }
    }

    /// The stack, which has to be there.
    pub(crate) async fn stack(&self, aws: &Aws) -> Result<Stack, Problem> {
        Stack::read(&aws.operations, &self.stack, &aws.deadline)
            .await
            .map_err(|error| match error.code.as_str() {
                "ValidationError" => Problem(format!(
                    "there is no stack `{}` in {}: name it with --stack, or the Region with --region",
                    self.stack, aws.region
                )),
                _ => error.into(),
            })
    }
}

impl Aws {
    /// The account of the credentials.
    pub(crate) async fn account(&self) -> Result<String, Problem> {
        let (account, _) = whoami(&self.operations, &self.deadline).await?;
        Ok(account)
    }

    /// The stack's ledger.
    pub(crate) fn ledger(&self, stack: &Stack) -> Result<Ledger, Problem> {
        let table = output(stack, "LedgerTableName")?;
        Ok(Ledger::new(&self.clients, table.to_owned()))
    }
}

/// An output of the stack.
pub(crate) fn output<'a>(stack: &'a Stack, name: &str) -> Result<&'a str, Problem> {
    let found = stack.outputs.get(name).map(String::as_str);
    found.ok_or_else(|| missing(&format!("output `{name}`")))
}

/// The physical name of a function of the stack.
pub(crate) fn function<'a>(stack: &'a Stack, logical: &str) -> Result<&'a str, Problem> {
    let found = stack.resources.get(logical).map(String::as_str);
    found.ok_or_else(|| missing(&format!("function `{logical}`")))
}

fn missing(what: &str) -> Problem {
    Problem(format!(
        "the stack has no {what}: it is another stack, or an older release of Backstop; deploy this one, or name the stack with --stack"
    ))
}

impl From<AwsError> for Problem {
    fn from(error: AwsError) -> Self {
        let AwsError { code, message, .. } = &error;
        let about_credentials = message.contains("credential") || message.contains("SSO");
        Self(match code.as_str() {
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" | "InvalidClientTokenId"
            | "UnrecognizedClientException" | "AuthFailure" => format!(
                "the credentials are not valid any more ({code}): log in again, for example with aws sso login, or name another profile with --profile"
            ),
            "NotSent" | "NoConnection" if about_credentials => {
                "no credentials: log in (aws sso login), set AWS_PROFILE, or name a profile with --profile"
                    .to_owned()
            }
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
                format!("{error}; grant the call, or use another profile with --profile")
            }
            _ => error.to_string(),
        })
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Aws { error, .. } => error.into(),
            other => Self(other.to_string()),
        }
    }
}
