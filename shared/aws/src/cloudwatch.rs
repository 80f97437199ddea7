//! CloudWatch: the hourly sums of a metric of instances.
//!
//! Its one call, GetMetricData, is made of the parts of which SDK clients are made
//! (`Cargo.toml` says why there is no SDK client): signature, retries, time-outs and
//! the record of calls are theirs. Deliberately not here: what the figures mean
//! (`backstop_core::controls::imdsv1`).

use std::collections::BTreeMap;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_runtime::retries::classifiers::AwsErrorCodeClassifier;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{
    HttpStatusCodeClassifier, TransientErrorClassifier,
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::auth::AuthSchemeOptionResolverParams;
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::Layer;
use aws_smithy_types::error::metadata::{ErrorMetadata, ProvideErrorMetadata};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SigningName;
use aws_types::region::SigningRegion;
use backstop_core::json;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json as object};

use crate::calls::RecordCalls;
use crate::deadline::Deadline;
use crate::error::AwsError;

const OPERATION: &str = "GetMetricData";

/// Most queries of a call (CloudWatch's API reference, GetMetricData,
/// `MetricDataQueries`).
pub const MOST_QUERIES: usize = 500;

/// Sums by the hour they begin with, by instance. Hours without a point are not there.
pub type Sums = BTreeMap<String, Vec<(Timestamp, f64)>>;

/// CloudWatch. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct CloudWatch(SdkConfig);

/// An error as CloudWatch answers it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(ErrorMetadata);

impl ProvideErrorMetadata for Refused {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

/// A page of the answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    metric_data_results: Vec<Series>,
    next_token: Option<String>,
}

/// The points of one query, as far as they are on the page.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Series {
    id: String,
    #[serde(default)]
    timestamps: Vec<f64>,
    #[serde(default)]
    values: Vec<f64>,
    #[serde(default)]
    status_code: Option<String>,
}

/// The body of an answer that is an error.
#[derive(Debug, Default, Deserialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    code: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
}

impl CloudWatch {
    /// CloudWatch by a configuration.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self(config.clone())
    }

    /// The hourly sums of a metric of EC2 from one time to another, of these instances.
    ///
    /// # Errors
    /// A call failed, or CloudWatch could not give all points.
    pub async fn hourly_sums(
        &self,
        metric: &str,
        instances: &[&str],
        (from, to): (Timestamp, Timestamp),
        deadline: &Deadline,
    ) -> Result<Sums, AwsError> {
        let operation = operation(&self.0);
        // Whole hours, the one that goes on included: CloudWatch rounds as well.
        let hour = |at: Timestamp| at.as_second() - at.as_second().rem_euclid(3600);
        let (from, to) = (hour(from), hour(to) + 3600);
        let mut sums = Sums::new();
        for instances in instances.chunks(MOST_QUERIES) {
            let mut token = None;
            loop {
                let request = request(metric, instances, (from, to), token.as_deref());
                // The future of a whole call, which those around it need not hold.
                let call = Box::pin(operation.invoke(request));
                let page: Page = deadline.call(OPERATION, call).await?;
                token = page.next_token.filter(|token| !token.is_empty());
                for series in page.metric_data_results {
                    let instance = series.id.strip_prefix('m').and_then(|n| n.parse().ok());
                    let instance = instance.and_then(|n: usize| instances.get(n));
                    let Some(instance) = instance else { continue };
                    series.check(token.is_none())?;
                    let points = series.timestamps.iter().zip(&series.values);
                    let points = points.filter_map(|(at, sum)| {
                        Some((Timestamp::from_second(*at as i64).ok()?, *sum))
                    });
                    let of = sums.entry((*instance).to_owned()).or_default();
                    of.extend(points);
                }
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(sums)
    }
}

impl Series {
    /// Whether the points are all there: a part of them proves nothing.
    fn check(&self, is_last: bool) -> Result<(), AwsError> {
        match self.status_code.as_deref() {
            None | Some("Complete") => Ok(()),
            Some("PartialData") if !is_last => Ok(()),
            Some(status) => Err(AwsError {
                operation: OPERATION,
                code: status.chars().take(100).collect(),
                message: "CloudWatch did not give all points of a metric".to_owned(),
                retryable: status != "Forbidden",
            }),
        }
    }
}

/// No unit is asked for: it depends on the instance's virtualisation.
fn request(metric: &str, instances: &[&str], (from, to): (i64, i64), token: Option<&str>) -> Value {
    let query = |(n, instance): (usize, &&str)| {
        object!({
            "Id": format!("m{n}"),
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/EC2",
                    "MetricName": metric,
                    "Dimensions": [{ "Name": "InstanceId", "Value": instance }],
                },
                "Period": 3600,
                "Stat": "Sum",
            },
        })
    };
    let queries: Vec<Value> = instances.iter().enumerate().map(query).collect();
    object!({
        "MetricDataQueries": queries,
        "StartTime": from,
        "EndTime": to,
        "NextToken": token,
    })
}

/// The call with everything that a client of the SDK gives its calls.
fn operation(config: &SdkConfig) -> Operation<Value, Page, Refused> {
    let region = config.region().cloned();
    let region = region.unwrap_or_else(|| Region::from_static(""));
    let endpoint = match config.endpoint_url() {
        Some(url) => url.to_owned(),
        None => endpoint(region.as_ref(), config.use_fips() == Some(true)),
    };
    let mut layer = Layer::new("CloudWatch");
    layer.store_put(AuthSchemeOptionResolverParams::new(()));
    layer.store_put(SigV4OperationSigningConfig::default());
    layer.store_put(SigningName::from_static("monitoring"));
    layer.store_put(SigningRegion::from(region));
    let mut components = RuntimeComponentsBuilder::new("CloudWatch")
        .with_auth_scheme(SigV4AuthScheme::new())
        .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![
            SCHEME_ID,
        ])))
        .with_http_client(config.http_client())
        .with_sleep_impl(config.sleep_impl())
        .with_time_source(config.time_source());
    if let Some(credentials) = config.credentials_provider() {
        components.set_identity_resolver(SCHEME_ID, credentials);
    }
    let retries = config.retry_config().cloned();
    let timeouts = config.timeout_config().cloned();
    Operation::builder()
        .service_name("CloudWatch")
        .operation_name(OPERATION)
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&endpoint)
        .standard_retry(&retries.unwrap_or_else(RetryConfig::standard))
        .retry_classifier(AwsErrorCodeClassifier::<Refused>::new())
        .retry_classifier(TransientErrorClassifier::<Refused>::new())
        .retry_classifier(HttpStatusCodeClassifier::default())
        .timeout_config(timeouts.unwrap_or_else(TimeoutConfig::disabled))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(RecordCalls)
        .runtime_plugin(
            StaticRuntimePlugin::new()
                .with_config(layer.freeze())
                .with_runtime_components(components),
        )
        .serializer(serialized)
        .deserializer(deserialized)
        .build()
}

/// CloudWatch's endpoint in a Region (AWS General Reference, "Amazon CloudWatch
/// endpoints").
fn endpoint(region: &str, fips: bool) -> String {
    let fips = if fips { "-fips" } else { "" };
    let top = match region.starts_with("cn-") {
        true => "amazonaws.com.cn",
        false => "amazonaws.com",
    };
    format!("https://monitoring{fips}.{region}.{top}")
}

/// In the service's JSON protocol (its API model: `awsJson1_0`).
fn serialized(request: Value) -> Result<HttpRequest, BoxError> {
    let mut http = HttpRequest::new(SdkBody::from(request.to_string()));
    http.set_method("POST")?;
    http.set_uri("/")?;
    let headers = http.headers_mut();
    headers.insert("content-type", "application/x-amz-json-1.0");
    headers.insert(
        "x-amz-target",
        format!("GraniteServiceVersion20100801.{OPERATION}"),
    );
    Ok(http)
}

fn deserialized(answer: &HttpResponse) -> Result<Page, OrchestratorError<Refused>> {
    let body = answer.body().bytes().unwrap_or_default();
    if answer.status().is_success() {
        return json::parse(body).map_err(|problem| OrchestratorError::response(problem.into()));
    }
    let body: ErrorBody = json::parse(body).unwrap_or_default();
    let mut error = ErrorMetadata::builder();
    // com.amazonaws.cloudwatch#InvalidParameterValueException
    if let Some(code) = body.code.as_deref().and_then(|of| of.rsplit('#').next()) {
        error = error.code(code);
    }
    if let Some(message) = body.message {
        error = error.message(message);
    }
    Err(OrchestratorError::operation(Refused(error.build())))
}
