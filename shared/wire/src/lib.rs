//! AWS on the wire, canned, for tests.
//!
//! The SDK clients under test are the real ones: they sign, serialise, retry
//! and parse as in production. Only the bytes that come back are written by
//! the test, from the API reference, call by call. Each call takes a moment,
//! so that calls made together overlap and round trips can be counted.
//!
//! Canned answers keep no state: the test says what AWS answers. The exception is
//! [`memory`]: the fault run needs all of it, some handler tests and the model of
//! the ledger its table, so that the ledger's conditions hold. Deliberately not here: trait mocks of AWS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use serde_json::Value;

pub mod memory;

/// One call as it went over the wire.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name in the request's signature: `ec2`, `dynamodb`, `sns`, …
    pub service: String,
    /// The operation, for example `DescribeSecurityGroups`.
    pub operation: String,
    /// The parameters of the query protocol (EC2, SNS), in order.
    pub parameters: Vec<(String, String)>,
    /// The body of the JSON protocols (DynamoDB, SSM, EventBridge).
    pub json: Value,
    /// The tick at which it went out: the wire counts beginnings and ends.
    pub began: usize,
    /// The tick at which it was answered; `None` while it has not been.
    pub ended: Option<usize>,
}

impl Call {
    /// A parameter of the query protocol.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// A list of the query protocol: `InstanceId.1`, `InstanceId.2`, …
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<&str> {
        let nth = |n: usize| self.parameter(&format!("{name}.{n}"));
        (1..).map_while(nth).collect()
    }

    /// Tags of the query protocol: `Tag.1.Key`, `Tag.1.Value`, …
    #[must_use]
    pub fn tags(&self, name: &str) -> BTreeMap<String, String> {
        let nth = |n: usize| {
            let key = self.parameter(&format!("{name}.{n}.Key"))?;
            let value = self.parameter(&format!("{name}.{n}.Value"));
            Some((key.to_owned(), value.unwrap_or_default().to_owned()))
        };
        (1..).map_while(nth).collect()
    }
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Answer(u16, String),
    /// No answer, ever: the caller's time-out ends it.
    Silence,
    /// The connection breaks.
    Broken,
}

impl Reply {
    /// A successful answer.
    #[must_use]
    pub fn ok(body: impl Into<String>) -> Self {
        Self::Answer(200, body.into())
    }

    /// An error as EC2 writes it.
    #[must_use]
    pub fn ec2_error(status: u16, code: &str, message: &str) -> Self {
        Self::Answer(
            status,
            format!(
                "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"
            ),
        )
    }

    /// An error as the query protocol writes it (SNS).
    #[must_use]
    pub fn query_error(status: u16, code: &str, message: &str) -> Self {
        Self::Answer(
            status,
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
            ),
        )
    }

    /// An error as the JSON protocols write it.
    #[must_use]
    pub fn json_error(code: &str, message: &str) -> Self {
        Self::Answer(
            400,
            serde_json::json!({ "__type": code, "message": message }).to_string(),
        )
    }
}

type Respond = dyn Fn(&Call) -> Reply + Send + Sync;

struct State {
    respond: Box<Respond>,
    calls: Mutex<Vec<Call>>,
    ticks: AtomicUsize,
}

/// The wire: what was called, and what is answered.
#[derive(Clone)]
pub struct Wire(Arc<State>);

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

/// How long each call takes.
const LATENCY: Duration = Duration::from_millis(5);

impl Wire {
    /// A wire that answers each call with what `respond` says.
    pub fn new(respond: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(State {
            respond: Box::new(respond),
            calls: Mutex::default(),
            ticks: AtomicUsize::new(0),
        }))
    }

    /// What this wire would answer, without calling it: for wires that lie in
    /// front of another one.
    #[must_use]
    pub fn answer(&self, call: &Call) -> Reply {
        (self.0.respond)(call)
    }

    /// Every call so far, in the order in which they went out.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.0
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The operations called so far, in order.
    #[must_use]
    pub fn operations(&self) -> Vec<String> {
        self.calls()
            .into_iter()
            .map(|call| call.operation)
            .collect()
    }

    /// How many calls had to wait for an earlier one: the longest chain of
    /// calls each of which went out after the one before it was answered.
    #[must_use]
    pub fn sequential_round_trips(&self) -> usize {
        Self::chain(self.calls())
    }

    /// As [`sequential_round_trips`](Self::sequential_round_trips), up to and
    /// including the last call of an operation.
    #[must_use]
    pub fn sequential_round_trips_until(&self, operation: &str) -> usize {
        let mut calls = self.calls();
        let last = calls.iter().rposition(|call| call.operation == operation);
        calls.truncate(last.map_or(0, |last| last + 1));
        Self::chain(calls)
    }

    fn chain(mut calls: Vec<Call>) -> usize {
        calls.sort_by_key(|call| call.ended.unwrap_or(usize::MAX));
        let (mut chain, mut last_end) = (0, None);
        for call in calls {
            if last_end.is_none_or(|end| call.began > end) {
                chain += 1;
                last_end = Some(call.ended.unwrap_or(usize::MAX));
            }
        }
        chain
    }

    fn tick(&self) -> usize {
        self.0.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// The configuration of SDK clients that call over this wire, with the
    /// retries of `attempts` attempts.
    #[must_use]
    pub fn config(&self, attempts: u32) -> SdkConfig {
        let wire = self.clone();
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(attempts)
                    .with_initial_backoff(Duration::from_millis(20)),
            )
            .http_client(http_client_fn(move |_, _| {
                SharedHttpConnector::new(wire.clone())
            }))
            .build()
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let call = read(&request, self.tick());
        let reply = (self.0.respond)(&call);
        let place = {
            let mut calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.push(call);
            calls.len() - 1
        };
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            tokio::time::sleep(LATENCY).await;
            let tick = wire.tick();
            if let Some(call) = wire
                .0
                .calls
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_mut(place)
            {
                call.ended = Some(tick);
            }
            match reply {
                Reply::Answer(status, body) => Ok(HttpResponse::new(
                    StatusCode::try_from(status).expect("a status"),
                    SdkBody::from(body),
                )),
                Reply::Silence => std::future::pending().await,
                Reply::Broken => Err(ConnectorError::io("the connection broke".into())),
            }
        })
    }
}

fn read(request: &HttpRequest, began: usize) -> Call {
    let body = request.body().bytes().unwrap_or_default();
    let mut call = Call {
        service: service(request).unwrap_or_default(),
        operation: String::new(),
        parameters: Vec::new(),
        json: Value::Null,
        began,
        ended: None,
    };
    if let Some(target) = request.headers().get("x-amz-target") {
        call.operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        call.json = serde_json::from_slice(body).unwrap_or_default();
    } else {
        call.parameters = form_urlencoded::parse(body).into_owned().collect();
        call.operation = call.parameter("Action").unwrap_or_default().to_owned();
    }
    call
}

/// `Credential=AKID/20261124/eu-central-1/ec2/aws4_request`: the fourth part.
fn service(request: &HttpRequest) -> Option<String> {
    let signed = request.headers().get("authorization")?;
    let (_, credential) = signed.split_once("Credential=")?;
    credential.split('/').nth(3).map(str::to_owned)
}
