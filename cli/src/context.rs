//! Which account, Region and stack a command is about, and how errors of AWS
//! are said.

use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_types::os_shim_internal::{Env, Fs};
use backstop_aws::clients::{Clients, EncryptionClients, OperationsClients};
use backstop_aws::deadline::Deadline;
use backstop_aws::error::{AwsError, NO_CREDENTIALS};
use backstop_aws::ledger::{Ledger, LedgerError};
use backstop_aws::stack::{Stack, regions, whoami};
use clap::Args;

use crate::Problem;

/// How long a command may take: a person waits for it, and may end it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Context {
    /// AWS profile: its credentials and its Region, whatever the environment says
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) profile: Option<String>,
    /// AWS Region; else that of --profile, else what the environment says
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) region: Option<String>,
    /// Backstop's stack
    #[arg(long, global = true, default_value = "backstop", help_heading = GLOBAL)]
    pub(crate) stack: String,
    /// Shows each call to AWS on standard error: its IAM actions, attempts, time
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) debug: bool,
}

/// Whether a command is about one Region or all.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Regions {
    /// Every Region that is enabled in the account, one after the other
    #[arg(long = "all-regions", conflicts_with = "region")]
    pub(crate) all: bool,
}

impl Regions {
    /// A context for each Region that is asked for.
    pub(crate) async fn of(self, context: &Context) -> Result<Vec<Context>, Problem> {
        if !self.all {
            return Ok(vec![context.clone()]);
        }
        let aws = context.aws().await?;
        let names = regions(&aws.clients.ec2, &aws.deadline).await?;
        let contexts = names.into_iter().map(|name| Context {
            region: Some(name),
            ..context.clone()
        });
        Ok(contexts.collect())
    }
}

/// AWS, as a command calls it.
pub(crate) struct Aws {
    pub(crate) clients: Clients,
    pub(crate) encryption: EncryptionClients,
    pub(crate) operations: OperationsClients,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) deadline: Deadline,
}

impl Context {
    /// The clients, and whose credentials they have. With `--profile` that
    /// profile's credentials and Region; else by the usual chain of environment,
    /// profiles, SSO and processes.
    pub(crate) async fn aws(&self) -> Result<Aws, Problem> {
        let config = self.config().await?;
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        let operations = OperationsClients::new(&config);
        let deadline = Deadline::new(PATIENCE);
        // The first call of every command: what is wrong with the Region, the
        // network or the credentials shows here.
        let (account, _) = whoami(&operations, &deadline)
            .await
            .map_err(|error| Problem(format!("{} (Region `{region}`)", Problem::from(error))))?;
        Ok(Aws {
            clients: Clients::new(&config),
            encryption: EncryptionClients::new(&config),
            operations,
            account,
            region,
            deadline,
        })
    }

    async fn config(&self) -> Result<SdkConfig, Problem> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        let mut regions = RegionProviderChain::first_try(self.region.clone().map(Region::new));
        if let Some(profile) = &self.profile {
            known(profile).await?;
            let region = ProfileFileRegionProvider::builder().profile_name(profile);
            regions = regions.or_else(region.build());
        }
        let region = regions.or_default_provider().region().await;
        if let Some(profile) = &self.profile {
            // The usual chain asks the environment first. Of a profile that assumes a
            // role STS is called, in this Region.
            let place = ProviderConfig::without_region().with_region(region.clone());
            let credentials = ProfileFileCredentialsProvider::builder()
                .configure(&place)
                .profile_name(profile);
            loader = loader
                .profile_name(profile)
                .credentials_provider(credentials.build());
        }
        let config = loader.region(region).load().await;
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
        self.stack_if_any(aws).await?.ok_or_else(|| {
            Problem(format!(
                "there is no stack `{}` in {}: name it with --stack, or the Region with --region",
                self.stack, aws.region
            ))
        })
    }

    /// The stack, if there is one.
    pub(crate) async fn stack_if_any(&self, aws: &Aws) -> Result<Option<Stack>, AwsError> {
        match Stack::read(&aws.operations, &self.stack, &aws.deadline).await {
            Ok(stack) => Ok(Some(stack)),
            // CloudFormation has no code of its own for it.
            Err(error) if error.code == "ValidationError" => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Aws {
    /// Where it is looked: `account 111122223333, Region eu-central-1`.
    pub(crate) fn place(&self) -> String {
        format!("account {}, Region {}", self.account, self.region)
    }

    /// Says where something is about to be changed, before anything is.
    pub(crate) fn announce(&self, stack: &Stack) {
        println!("{}", of_stack(&self.place(), &stack.name));
    }

    /// That something is not where it was looked for.
    pub(crate) fn not_found(&self, what: &str) -> Problem {
        Problem(format!(
            "{what} was not found in {}: see that it is spelt right, and that --region and --profile are the right ones",
            self.place()
        ))
    }

    /// The stack's ledger.
    pub(crate) fn ledger(&self, stack: &Stack) -> Result<Ledger, Problem> {
        let table = output(stack, "LedgerTableName")?;
        Ok(Ledger::new(&self.clients, table.to_owned()))
    }
}

/// Where a stack is: `account 111122223333, Region eu-central-1, stack backstop`.
pub(crate) fn of_stack(place: &str, stack: &str) -> String {
    format!("{place}, stack {stack}")
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

/// That a profile is in the configuration files.
async fn known(profile: &str) -> Result<(), Problem> {
    let files = Default::default();
    let loaded = aws_config::profile::load(&Fs::real(), &Env::real(), &files, None).await;
    let profiles = loaded.map_err(|error| {
        Problem(format!(
            "the AWS configuration files cannot be read: {error}"
        ))
    })?;
    if profiles.get_profile(profile).is_some() {
        return Ok(());
    }
    let mut names: Vec<&str> = profiles.profiles().collect();
    names.sort_unstable();
    Err(Problem(match names.join(", ") {
        none if none.is_empty() => format!(
            "there is no profile `{profile}`, and no other in the AWS configuration files (~/.aws/config, ~/.aws/credentials): aws configure --profile {profile}"
        ),
        names => format!("there is no profile `{profile}`; there are: {names}"),
    }))
}

/// The one place where an error of AWS becomes a sentence: operation, code, what
/// AWS said, and the way out where one is known.
impl From<AwsError> for Problem {
    fn from(error: AwsError) -> Self {
        Self(match way_out(&error) {
            Some(way_out) => format!("{error}; {way_out}"),
            None => error.to_string(),
        })
    }
}

fn way_out(error: &AwsError) -> Option<&'static str> {
    Some(match error.code.as_str() {
        NO_CREDENTIALS => {
            "there are no credentials: log in (aws sso login), set AWS_PROFILE, or name a profile with --profile"
        }
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            "the credentials have expired: log in again, for example with aws sso login, or name another profile with --profile"
        }
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "AuthFailure"
        | "InvalidAccessKeyId" => {
            "the credentials are not valid, or the Region is not enabled in the account: log in again, name another profile with --profile, or another Region with --region"
        }
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature" => {
            "the secret key is wrong, or this machine's clock is: correct it, or name another profile with --profile"
        }
        "OptInRequired" => {
            "enable the Region or the service in the account, or name another Region with --region"
        }
        "NoConnection" => {
            "AWS could not be reached: see that there is a network (proxy, VPN), and that the Region is spelt right"
        }
        "Timeout" => "AWS did not answer in time: see that there is a network, and try again",
        _ if error.is_denied() => "grant the call, or use another profile with --profile",
        _ if error.is_throttled() => "AWS throttles the call: try again in a minute",
        _ => return None,
    })
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Aws { error, .. } => error.into(),
            other => Self(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_aws_is_said_with_operation_code_and_the_way_out() {
        let said = |code: &str| {
            let error = AwsError {
                operation: "DescribeStacks",
                code: code.to_owned(),
                message: "as AWS said it".to_owned(),
                retryable: false,
            };
            Problem::from(error).0
        };
        for (code, way_out) in [
            (NO_CREDENTIALS, "aws sso login"),
            ("ExpiredToken", "log in again"),
            ("ExpiredTokenException", "log in again"),
            ("InvalidClientTokenId", "--profile"),
            ("AccessDenied", "grant the call"),
            ("AccessDeniedException", "grant the call"),
            ("UnauthorizedOperation", "grant the call"),
            ("NoConnection", "network"),
            ("Timeout", "try again"),
            ("ThrottlingException", "in a minute"),
        ] {
            let said = said(code);
            let start = format!("DescribeStacks: {code}: as AWS said it; ");
            assert!(said.starts_with(&start) && said.contains(way_out), "{said}");
        }
        assert_eq!(
            said("ValidationError"),
            "DescribeStacks: ValidationError: as AWS said it"
        );
    }
}
