//! The ports on DynamoDB, SQS and S3.
//!
//! Every expression, attribute name and SDK type stays inside this crate. The guards of the protocol are written as
//! condition expressions (modules `jobs`, `limits`, `markers`); when a condition fails, DynamoDB hands back the item that
//! beat it, and `penstock_policy` evaluated on that item says why, so that expression and table cannot drift apart
//! unnoticed and no second read is paid for.
//!
//! Lost replies: a conditional write carries the nonce of its attempt, the SDK repeats it freely, and a failed
//! condition whose old item bears that nonce is the success of an earlier try. Two writes are never repeated by the
//! SDK: refunds (twice is wrong, lost is not) and the send inside `accept` (its outcome must be known exactly).
//!
//! What the ports call, and a role must allow: `dynamodb:{GetItem,BatchGetItem,PutItem,UpdateItem,DeleteItem,Query}` on the four
//! tables; `sqs:{GetQueueUrl,GetQueueAttributes,SendMessage,ReceiveMessage,DeleteMessage,ChangeMessageVisibility}` on
//! the queues; `s3:{GetObject,PutObject,DeleteObject}` on the bucket's objects and `s3:ListBucket` on the bucket. Tables
//! have the key `pk` (`adm`, `cache`) or `pk` and `sk` (`job`, `ctl`), all texts, and expire items by `ttl`.

mod answers;
mod attempts;
mod blobs;
mod board;
mod calls;
mod census;
mod control;
mod erasure;
mod error;
mod holds;
mod item;
mod jobs;
mod limits;
mod markers;
mod parking;
mod queue;
mod setup;
mod shelf;
mod table;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::tls;

use penstock_service::Ports;
use penstock_service::config::Config;
use penstock_service::ports::{Clock, Entropy, Letters, QueueId, Spawner};

pub use calls::CallCounter;

use limits::Seen;

/// What this deployment's tables, queues and bucket are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The table of token buckets.
    pub adm_table: String,
    /// The table of jobs and chunks.
    pub job_table: String,
    /// The table of markers.
    pub cache_table: String,
    /// The table of tenants, keys, pools and workers.
    pub ctl_table: String,
    /// The bucket of large payloads.
    pub payload_bucket: String,
    /// What the queues' names begin with; a queue is `<prefix>-<pool>-<class>`, its dead letters
    /// `<prefix>-<pool>-<class>-dlq`.
    pub queue_prefix: String,
}

impl From<&Config> for Names {
    fn from(config: &Config) -> Self {
        Self {
            adm_table: config.adm_table.clone(),
            job_table: config.job_table.clone(),
            cache_table: config.cache_table.clone(),
            ctl_table: config.ctl_table.clone(),
            payload_bucket: config.payload_bucket.clone(),
            queue_prefix: config.stage.clone(),
        }
    }
}

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// One try of a call on one item.
    pub point: Duration,
    /// One try of a call on the table of jobs, whose items and pages are larger.
    pub job: Duration,
    /// All tries of a DynamoDB call together.
    pub total: Duration,
    /// One try of a call to SQS, beyond the time a long poll waits by design.
    pub queue: Duration,
    /// One try of a call to S3.
    pub blob: Duration,
}

impl Default for Timeouts {
    /// For callers in the region: a try that takes longer is lost, and the next one meets another host.
    fn default() -> Self {
        Self {
            point: Duration::from_millis(250),
            job: Duration::from_millis(500),
            total: Duration::from_millis(1200),
            queue: Duration::from_secs(2),
            blob: Duration::from_secs(10),
        }
    }
}

impl Timeouts {
    /// For callers far from the region, and for emulators on a busy machine.
    #[must_use]
    pub fn patient() -> Self {
        Self {
            point: Duration::from_secs(10),
            job: Duration::from_secs(10),
            total: Duration::from_secs(30),
            queue: Duration::from_secs(10),
            blob: Duration::from_secs(30),
        }
    }
}

/// The ports on AWS, all of them. Share it by `Arc`.
pub struct Aws {
    names: Names,
    timeouts: Timeouts,
    clock: Arc<dyn Clock>,
    calls: CallCounter,
    dynamo: aws_sdk_dynamodb::Client,
    sqs: aws_sdk_sqs::Client,
    s3: aws_sdk_s3::Client,
    seen: Seen,
    queue_urls: Mutex<BTreeMap<(QueueId, Letters), String>>,
}

impl Aws {
    /// Connects with the credentials and the region of the environment; `endpoint` is the URL of an emulator.
    pub async fn connect(names: Names, timeouts: Timeouts, endpoint: Option<&str>, clock: Arc<dyn Clock>) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client());
        if let Some(endpoint) = endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        Self::new(&loader.load().await, names, timeouts, clock)
    }

    /// Makes the ports on an SDK configuration that is there already. Its retries and time-outs are replaced by ours.
    #[must_use]
    pub fn new(sdk: &SdkConfig, names: Names, timeouts: Timeouts, clock: Arc<dyn Clock>) -> Self {
        let sdk = match sdk.http_client() {
            Some(_) => sdk.clone(),
            None => sdk.clone().into_builder().http_client(http_client()).build(),
        };
        let calls = CallCounter::default();
        let emulated = sdk.endpoint_url().is_some();
        let dynamo = aws_sdk_dynamodb::config::Builder::from(&sdk)
            .retry_config(retries())
            .timeout_config(limited(timeouts.point, Some(timeouts.total)))
            .interceptor(calls.clone())
            .build();
        let sqs = aws_sdk_sqs::config::Builder::from(&sdk)
            .retry_config(retries())
            .timeout_config(limited(timeouts.queue, None))
            .interceptor(calls.clone())
            .build();
        let s3 = aws_sdk_s3::config::Builder::from(&sdk)
            .retry_config(retries())
            .timeout_config(limited(timeouts.blob, None))
            .interceptor(calls.clone())
            .force_path_style(emulated)
            .build();
        Self {
            names,
            timeouts,
            clock,
            calls,
            dynamo: aws_sdk_dynamodb::Client::from_conf(dynamo),
            sqs: aws_sdk_sqs::Client::from_conf(sqs),
            s3: aws_sdk_s3::Client::from_conf(s3),
            seen: Seen::default(),
            queue_urls: Mutex::default(),
        }
    }

    /// Every port, ready for `penstock_service::Service::new`.
    #[must_use]
    pub fn ports(self: &Arc<Self>, spawner: Arc<dyn Spawner>, entropy: Arc<dyn Entropy>) -> Ports {
        Ports {
            jobs: Arc::clone(self) as _,
            queue: Arc::clone(self) as _,
            limits: Arc::clone(self) as _,
            markers: Arc::clone(self) as _,
            parking: Arc::clone(self) as _,
            census: Arc::clone(self) as _,
            attempts: Arc::clone(self) as _,
            answers: Arc::clone(self) as _,
            control: Arc::clone(self) as _,
            board: Arc::clone(self) as _,
            tally: Arc::clone(self) as _,
            shelf: Arc::clone(self) as _,
            blobs: Arc::clone(self) as _,
            erasure: Arc::clone(self) as _,
            clock: Arc::clone(&self.clock),
            spawner,
            entropy,
        }
    }

    /// Counts the calls made so far, by operation.
    #[must_use]
    pub fn calls(&self) -> &CallCounter {
        &self.calls
    }

    /// The names in use.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            self.clock.sleep_until(self.clock.now().after(pause)).await;
        }
    }
}

/// One client for all services: one pool of connections, and the root certificates are read once.
fn http_client() -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .build_https()
}

/// Three tries, close together: the SDK's own first pause of up to a second would outlast a point call's total.
fn retries() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(3)
        .with_initial_backoff(Duration::from_millis(25))
        .with_max_backoff(Duration::from_millis(300))
}

fn limited(attempt: Duration, total: Option<Duration>) -> TimeoutConfig {
    let mut config = TimeoutConfig::builder().operation_attempt_timeout(attempt).connect_timeout(attempt);
    config.set_operation_timeout(total);
    config.build()
}
