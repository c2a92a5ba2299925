//! Clients that come by chance, ask, obey refusals, and write down what they met.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::classes::Class;
use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use penstock_service::ApiKey;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Entropy, Tenant, TenantLimits};
use penstock_sim::{Group, Kernel, World};
use serde_json::json;
use tower::ServiceExt;

/// How long a token takes.
pub(crate) const TICK: Duration = Duration::from_millis(40);

/// The most often a client tries.
const TRIES: u32 = 6;

/// What became of one client.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    /// When it first asked.
    pub(crate) began: Timestamp,
    /// The last status it met.
    pub(crate) status: StatusCode,
    /// How often it was told to come back, and did.
    pub(crate) refusals: u32,
    /// It was told that waiting as long as clients do would not help.
    pub(crate) turned_away: bool,
    /// The promise: 50 % and 95 %, ms.
    pub(crate) stated: Option<(u64, u64)>,
    /// From the try that was accepted to its end, ms.
    pub(crate) took: u64,
    /// From the first try to the end, ms.
    pub(crate) all: u64,
}

pub(crate) type Stories = Arc<Mutex<Vec<Story>>>;

/// A deployment with its control loop.
pub(crate) fn world(seed: u64) -> World {
    let timing = Timing { lease: Duration::from_secs(5), visibility: Duration::from_secs(7), ..Timing::default() };
    let world = World::new(seed, timing, World::wide_limits().unwrap()).unwrap();
    let service = Arc::clone(&world.service);
    world.client(async move { service.control_loop(Duration::from_secs(2)).await });
    world
}

/// Adds a tenant and gives its key.
pub(crate) fn tenant(world: &World, name: &str, limits: TenantLimits) -> String {
    let kernel = world.kernel.clone();
    let key = ApiKey::generate(|| kernel.draw());
    let tenant = Tenant::new(TenantId::new(name).unwrap(), Class::P0, limits, world.kernel.now());
    let control = Arc::clone(&world.service.ports().control);
    futures_util::FutureExt::now_or_never(async {
        control.put_key(&key.record(tenant.id.clone())).await?;
        control.put_tenant(&tenant).await
    })
    .unwrap()
    .unwrap();
    key.expose()
}

/// A fraction in [0, 1).
fn fraction(kernel: &Kernel) -> f64 {
    kernel.below(1 << 52) as f64 / (1u64 << 52) as f64
}

/// A length in tokens: log-normal around 50, between 8 and 400.
fn length(kernel: &Kernel) -> usize {
    let normal = (0..12).map(|_| fraction(kernel)).sum::<f64>() - 6.0;
    (50.0 * (normal * 0.5).exp()).clamp(8.0, 400.0) as usize
}

/// Jobs of all lengths, or of one.
pub(crate) const ANY: Option<usize> = None;

/// Lets clients of `key` come at `rate(seconds since the beginning)` a second, at most `most` of it, until `span` is over.
pub(crate) fn come(
    world: &World,
    key: &str,
    tier: &'static str,
    span: Duration,
    most: f64,
    tokens: Option<usize>,
    rate: impl Fn(f64) -> f64 + Send + 'static,
) -> Stories {
    let stories = Stories::default();
    let (kernel, service, key) = (world.kernel.clone(), Arc::clone(&world.service), key.to_owned());
    let told = Arc::clone(&stories);
    world.client(async move {
        let begun = kernel.now();
        let mut at = 0.0;
        let mut serial = 0u64;
        loop {
            at += -(1.0 - fraction(&kernel)).ln() / most;
            if at >= span.as_secs_f64() {
                return;
            }
            kernel.sleep_until(begun.after(Duration::from_secs_f64(at))).await;
            if fraction(&kernel) * most >= rate(at) {
                continue;
            }
            serial += 1;
            let tokens = tokens.unwrap_or_else(|| length(&kernel));
            let prompt = "a".repeat(tokens) + &format!("{serial:04}");
            let max_tokens = (prompt.len() as f64 * (1.0 + 0.6 * fraction(&kernel))) as u64;
            let body = json!({"model": "scripted", "service_tier": tier, "max_tokens": max_tokens,
                              "messages": [{"role": "user", "content": prompt}]});
            let router = penstock_service::router(Arc::clone(&service));
            let client = client(router, kernel.clone(), key.clone(), body.to_string(), Arc::clone(&told));
            kernel.spawner(Group(0)).spawn(Box::pin(client));
        }
    });
    stories
}

async fn client(router: axum::Router, kernel: Kernel, key: String, body: String, stories: Stories) {
    let began = kernel.now();
    let mut refusals = 0;
    loop {
        let asked = kernel.now();
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {key}"))
            .header("x-stainless-retry-count", refusals.to_string())
            .body(Body::from(body.clone()))
            .unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let whole = body.collect().await;
        let number = |headers: &HeaderMap, name: &str| -> Option<u64> {
            headers.get(name).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok())
        };
        let wait = number(&parts.headers, "retry-after-ms");
        let hopeless = parts.headers.get("x-should-retry").is_some_and(|should| should == "false");
        if parts.status != StatusCode::OK
            && !hopeless
            && refusals + 1 < TRIES
            && let Some(wait) = wait
        {
            refusals += 1;
            kernel.sleep_until(kernel.now().after(Duration::from_millis(wait))).await;
            continue;
        }
        let stated = number(&parts.headers, "x-penstock-eta-ms").zip(number(&parts.headers, "x-penstock-eta-95-ms"));
        let (took, all) = (kernel.now().since(asked), kernel.now().since(began));
        stories.lock().unwrap().push(Story {
            began,
            status: if whole.is_ok() { parts.status } else { StatusCode::BAD_GATEWAY },
            refusals,
            turned_away: hopeless,
            stated,
            took: took.as_millis() as u64,
            all: all.as_millis() as u64,
        });
        return;
    }
}

/// The value that a share `q` lies at or below.
pub(crate) fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(f64::NAN)
}
