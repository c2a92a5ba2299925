//! A world of its own for each test, on a connection that can be told to fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, RuntimeComponents};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use penstock_aws::{Aws, Names, Timeouts};
use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{JobId, Nonce, PoolId, TenantId, WorkerId};
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{BucketKey, Claim, Clock, JobSpec, MarkerKey, Message, Payload, QueueId, Take, TakePart};
use penstock_service::stored::story::Admitted;

/// The real clock.
pub(crate) struct WallClock;

#[async_trait]
impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap())
    }

    async fn sleep_until(&self, moment: Timestamp) {
        tokio::time::sleep(moment.since(self.now())).await;
    }
}

/// A moment for tests that choose their own.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// What happens to a call instead of its success.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It is carried out, and the reply is lost.
    ReplyLost,
    /// It never arrives.
    RequestLost,
    /// The service answers this instead.
    Answer(u16, &'static str),
}

#[derive(Debug)]
struct Rule {
    operation: &'static str,
    holds: String,
    times: u32,
    fault: Fault,
}

/// Faults to come, consumed in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Vec<Rule>>>);

impl Faults {
    /// The next `times` calls of `operation` whose body holds `text` meet `fault`.
    pub(crate) fn next(&self, operation: &'static str, text: &str, times: u32, fault: Fault) {
        self.0.lock().unwrap().push(Rule { operation, holds: text.to_owned(), times, fault });
    }

    /// How many announced faults have not happened.
    pub(crate) fn left(&self) -> u32 {
        self.0.lock().unwrap().iter().map(|rule| rule.times).sum()
    }

    fn pick(&self, request: &HttpRequest) -> Option<Fault> {
        let target = request.headers().get("x-amz-target")?;
        let body = String::from_utf8_lossy(request.body().bytes()?).into_owned();
        let mut rules = self.0.lock().unwrap();
        let operation = target.rsplit('.').next()?;
        let rule = rules
            .iter_mut()
            .find(|rule| rule.times > 0 && rule.operation == operation && body.contains(&rule.holds))?;
        rule.times -= 1;
        Some(rule.fault)
    }
}

#[derive(Debug)]
struct FaultyClient {
    inner: SharedHttpClient,
    faults: Faults,
}

#[derive(Debug)]
struct FaultyConnector {
    inner: SharedHttpConnector,
    faults: Faults,
}

impl HttpClient for FaultyClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(FaultyConnector { inner, faults: self.faults.clone() })
    }
}

impl HttpConnector for FaultyConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match self.faults.pick(&request) {
            None => self.inner.call(request),
            Some(Fault::RequestLost) => HttpConnectorFuture::ready(Err(ConnectorError::io("cut before".into()))),
            Some(Fault::ReplyLost) => {
                let carried_out = self.inner.call(request);
                HttpConnectorFuture::new(async move {
                    let _ = carried_out.await?;
                    Err(ConnectorError::io("cut after".into()))
                })
            }
            Some(Fault::Answer(status, body)) => {
                let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
                response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
                HttpConnectorFuture::ready(Ok(response))
            }
        }
    }
}

/// The ports, and the faults of their connection.
pub(crate) struct World {
    pub(crate) aws: Arc<Aws>,
    pub(crate) faults: Faults,
}

/// Names nobody else uses.
pub(crate) fn fresh_names() -> Names {
    let tag = format!("t{:012x}", getrandom::u64().unwrap() >> 16);
    Names {
        adm_table: format!("{tag}-adm"),
        job_table: format!("{tag}-job"),
        cache_table: format!("{tag}-cache"),
        ctl_table: format!("{tag}-ctl"),
        payload_bucket: format!("{tag}-payloads"),
        queue_prefix: tag,
    }
}

/// The SDK's configuration for `endpoint`.
pub(crate) async fn sdk(endpoint: &str, faults: Faults) -> SdkConfig {
    let inner = aws_smithy_http_client::Builder::new().build_http();
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .http_client(FaultyClient { inner, faults })
        .load()
        .await
}

impl World {
    /// A world with tables, a bucket and the queues of the pool `main`.
    pub(crate) async fn new() -> Self {
        let endpoint = std::env::var("PENSTOCK_AWS_ENDPOINT").expect(
            "PENSTOCK_AWS_ENDPOINT is not set: start an emulator of AWS and give its URL, such as http://127.0.0.1:4566",
        );
        let faults = Faults::default();
        let sdk = sdk(&endpoint, faults.clone()).await;
        let aws = Arc::new(Aws::new(&sdk, fresh_names(), Timeouts::patient(), Arc::new(WallClock)));
        aws.create_everything(&[pool()]).await.unwrap();
        let _ = aws.calls().take();
        Self { aws, faults }
    }

    /// A second process on the same tables, which has seen nothing yet.
    pub(crate) async fn another(&self) -> Arc<Aws> {
        let endpoint = std::env::var("PENSTOCK_AWS_ENDPOINT").unwrap();
        let sdk = sdk(&endpoint, Faults::default()).await;
        Arc::new(Aws::new(&sdk, self.aws.names().clone(), Timeouts::patient(), Arc::new(WallClock)))
    }
}

pub(crate) fn pool() -> PoolId {
    PoolId::new("main").unwrap()
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

pub(crate) fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

/// A nonce nobody else draws.
pub(crate) fn nonce() -> Nonce {
    static DRAWN: AtomicU64 = AtomicU64::new(1);
    Nonce(DRAWN.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn fresh_job() -> JobId {
    JobId::new(NOW, u128::from(getrandom::u64().unwrap()))
}

pub(crate) fn spec(id: JobId) -> JobSpec {
    JobSpec {
        id,
        route: penstock_service::Route::Chat,
        tenant: tenant(),
        class: Class::P1,
        pool: pool(),
        model: "task".to_owned(),
        created: NOW,
        due: NOW.after(Duration::from_secs(1200)),
        streamed: true,
        estimated_tokens: 100,
        reservations: Vec::new(),
        price: Price::default(),
        retention: Retention::default(),
        admitted: Admitted::default(),
        keep: None,
    }
}

pub(crate) fn message(id: JobId) -> Message {
    Message { spec: spec(id), payload: Payload::Inline("{\"v\":1}".to_owned()) }
}

pub(crate) fn queue_id() -> QueueId {
    QueueId { pool: pool(), class: Class::P1 }
}

pub(crate) fn claim(id: JobId, owner: &str, digest: &str) -> Claim {
    Claim {
        spec: spec(id),
        owner: worker(owner),
        digest: digest.to_owned(),
        lease_until: NOW.after(Duration::from_secs(45)),
    }
}

pub(crate) fn tenant_bucket() -> BucketKey {
    BucketKey::Tenant { tenant: tenant(), shard: 0 }
}

pub(crate) fn virtual_queue() -> BucketKey {
    BucketKey::VirtualQueue { pool: pool(), class: Class::P1, shard: 0 }
}

/// A take of `units` of each limit.
pub(crate) fn take(key: BucketKey, parts: &[(Limit, u64)]) -> Take {
    Take { key, parts: parts.iter().map(|&(limit, units)| TakePart { limit, units }).collect() }
}

pub(crate) fn per_second(units: u64, burst: u64) -> Limit {
    Limit::new(units, Duration::from_secs(1), burst).unwrap()
}

pub(crate) fn marker_key() -> MarkerKey {
    MarkerKey { tenant: tenant(), digest: "ab".repeat(32) }
}

/// A small generator for tests that try many things in an order that repeats.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}
