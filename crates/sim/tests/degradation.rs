//! Pools that fail, upstreams that answer in their place, stores that are gone: the whole service in virtual time.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::degrade::{Order, Tier};
use penstock_policy::id::{KeyId, Nonce, PoolId, TenantId, WorkerId};
use penstock_policy::tenant::{Budget, FallbackConsent, Period, TenantLimits};
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::degradation::upstreams::{Outside, UpstreamConfig};
use penstock_service::ports::{
    BlobKey, Blobs, Board, BoardKey, Clock, Control, Fallback, KeyRecord, Pool, PortError, PortResult, Posted, Stale,
    Tenant, WorkerRecord,
};
use penstock_service::{Ports, Service, TierChange, guarded};
use penstock_sim::{Faults, Play, ScriptedUpstream, World, answer_to};
use serde_json::{Value, json};
use tower::ServiceExt;

const TICK: Duration = Duration::from_millis(5);

/// What one client got.
#[derive(Clone, Debug)]
struct Got {
    asked: Timestamp,
    ended: Timestamp,
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.header("retry-after-ms").parse().unwrap())
    }

    fn text(&self) -> String {
        if let Ok(whole) = serde_json::from_str::<Value>(&self.body) {
            return whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        }
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        let chunks = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

type All = Arc<Mutex<Vec<Got>>>;

fn spawn_ask(world: &World, all: &All, prompt: &str, extra: &Value) {
    let router = penstock_service::router(Arc::clone(&world.service));
    let mut body = json!({"model": "scripted", "messages": [{"role": "user", "content": prompt}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let (kernel, all) = (world.kernel.clone(), Arc::clone(all));
    let request = Request::post("/v1/chat/completions")
        .header("authorization", format!("Bearer {}", world.key))
        .body(Body::from(body.to_string()))
        .unwrap();
    world.client(async move {
        let asked = kernel.now();
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = match body.collect().await {
            Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
            Err(error) => format!("broken off: {error}"),
        };
        let got = Got { asked, ended: kernel.now(), status: parts.status, headers: parts.headers, body };
        all.lock().unwrap().push(got);
    });
}

/// Asks and waits for the answer.
fn ask(world: &World, prompt: &str, extra: &Value) -> Got {
    let all = All::default();
    spawn_ask(world, &all, prompt, extra);
    let until = world.kernel.now().after(Duration::from_secs(600));
    assert!(world.kernel.run_until(until, || !all.lock().unwrap().is_empty()), "no answer within ten minutes");
    all.lock().unwrap()[0].clone()
}

fn pass(world: &World, time: Duration) {
    world.kernel.run_until(world.kernel.now().after(time), || false);
}

fn now<T>(future: impl Future<Output = T>) -> T {
    // The store in memory answers at once.
    future.now_or_never().unwrap()
}

fn id(name: &str) -> PoolId {
    PoolId::new(name).unwrap()
}

/// Evaluates every ten seconds, as the control tick does, and writes the changes down.
fn evaluate(world: &World) -> Arc<Mutex<Vec<(Timestamp, TierChange)>>> {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let (service, kernel, log) = (Arc::clone(&world.service), world.kernel.clone(), Arc::clone(&changes));
    world.client(async move {
        loop {
            kernel.sleep_until(kernel.now().after(Duration::from_secs(10))).await;
            let moved = service.evaluate_breakers(kernel.now()).await.unwrap();
            log.lock().unwrap().extend(moved.into_iter().map(|change| (kernel.now(), change)));
        }
    });
    changes
}

/// `count` requests, one every `gap`.
fn traffic(world: &World, all: &All, count: u32, gap: Duration, extra: &Value) {
    for n in 0..count {
        // Each is another question, so that none is answered from another's result.
        spawn_ask(world, all, &format!("q{n}"), extra);
        pass(world, gap);
    }
}

#[test]
fn a_burst_of_errors_opens_the_pool_and_probes_lead_it_back_tier_by_tier() {
    let mut world = World::new(1, Timing::default(), World::wide_limits().unwrap()).unwrap();
    let faults = Faults::default();
    world.start_worker_of(&id("default"), 32, TICK, faults.clone()).unwrap();
    let changes = evaluate(&world);
    let all = All::default();
    let gap = Duration::from_millis(250);
    let plain = json!({});
    traffic(&world, &all, 120, gap, &plain);
    assert_eq!(changes.lock().unwrap().len(), 0);
    faults.set_percent(100);
    let failing_since = world.kernel.now();
    while changes.lock().unwrap().last().is_none_or(|(_, change)| change.to != Tier::Open) {
        traffic(&world, &all, 40, gap, &plain);
        assert!(world.kernel.now().since(failing_since) < Duration::from_secs(120), "{:?}", changes.lock().unwrap());
    }
    let refused_from = all.lock().unwrap().len();
    faults.set_percent(0);
    traffic(&world, &all, 4 * 60 * 9, gap, &plain);
    let moves: Vec<(Timestamp, TierChange)> = changes.lock().unwrap().clone();
    let tiers: Vec<u8> = moves.iter().map(|(_, change)| change.to.number()).collect();
    let opened = tiers.iter().position(|tier| *tier == 3).unwrap();
    assert_eq!(&tiers[opened..], [3, 2, 1, 0], "{moves:?}");
    // One probe each five seconds is let through, and twenty must succeed.
    let stay = |index: usize| moves[index + 1].0.since(moves[index].0).as_secs();
    assert!((100..=180).contains(&stay(opened)), "open for {} s", stay(opened));
    assert_eq!((stay(opened + 1), stay(opened + 2)), (120, 120));
    let all = all.lock().unwrap();
    let refused: Vec<&Got> =
        all[refused_from..].iter().filter(|got| got.header("x-penstock-tier").is_empty()).collect();
    let refused: Vec<&&Got> = refused.iter().filter(|got| got.status == StatusCode::SERVICE_UNAVAILABLE).collect();
    assert!(refused.len() > 100, "{} refused", refused.len());
    for got in &refused {
        assert!((10_000..=55_000).contains(&got.wait().as_millis()), "{:?}", got.headers);
    }
    let last = all.last().unwrap();
    assert_eq!((last.status, last.header("x-penstock-tier")), (StatusCode::OK, "0"));
    let served = all.iter().filter(|got| got.status == StatusCode::OK).count();
    assert!(served + refused.len() + 200 > all.len(), "the rest had failed attempts: {served} served of {}", all.len());
}

#[test]
fn some_errors_send_nine_of_ten_to_another_pool_until_the_tenth_shows_that_all_is_well() {
    let mut world = World::new(13, Timing::default(), World::wide_limits().unwrap()).unwrap();
    let control = Arc::clone(&world.service.ports().control);
    let home = now(control.pools()).unwrap().remove(0);
    let second = Pool { id: id("second"), model: "scripted-b".to_owned(), ..home.clone() };
    now(control.put_pool(&second)).unwrap();
    now(control.put_pool(&Pool { fallbacks: vec![Fallback::Pool(id("second"))], ..home })).unwrap();
    let faults = Faults::default();
    faults.set_percent(10);
    world.start_worker_of(&id("default"), 16, TICK, faults.clone()).unwrap();
    world.start_worker_of(&id("second"), 16, TICK, Faults::default()).unwrap();
    let changes = evaluate(&world);
    let all = All::default();
    let gap = Duration::from_millis(500);
    traffic(&world, &all, 240, gap, &json!({}));
    assert_eq!(changes.lock().unwrap().last().unwrap().1.to, Tier::Switch, "one of ten fails");
    let before = all.lock().unwrap().len();
    traffic(&world, &all, 200, gap, &json!({}));
    let elsewhere = |from: usize| {
        let all = all.lock().unwrap();
        assert!(all[from..].iter().all(|got| got.status == StatusCode::OK));
        let switched = all[from..].iter().filter(|got| got.header("x-penstock-fallback") == "pool=second").count();
        switched * 100 / (all.len() - from)
    };
    assert!((80..=97).contains(&elsewhere(before)), "{} % elsewhere", elsewhere(before));
    assert_eq!(changes.lock().unwrap().len(), 1, "{:?}", changes.lock().unwrap());
    faults.set_percent(0);
    traffic(&world, &all, 840, gap, &json!({}));
    assert_eq!(changes.lock().unwrap().last().unwrap().1.to, Tier::Normal);
    let before = all.lock().unwrap().len();
    traffic(&world, &all, 20, gap, &json!({}));
    assert_eq!(elsewhere(before), 0);
}

#[test]
fn what_can_wait_stays_in_its_queue_while_the_pool_is_not_well() {
    let mut world = World::new(14, Timing::default(), World::wide_limits().unwrap()).unwrap();
    let (urgent, flexible) = (All::default(), All::default());
    spawn_ask(&world, &urgent, "urgent", &json!({}));
    spawn_ask(&world, &flexible, "flexible", &json!({"service_tier": "flex"}));
    pass(&world, Duration::from_secs(1));
    let until = world.kernel.now().after(Duration::from_secs(60));
    now(world.service.order(&id("default"), Some((Order::Refuse, until)))).unwrap();
    world.start_worker(4, TICK).unwrap();
    pass(&world, Duration::from_secs(50));
    assert_eq!((urgent.lock().unwrap().len(), flexible.lock().unwrap().len()), (1, 0));
    pass(&world, Duration::from_secs(15));
    assert_eq!(flexible.lock().unwrap().len(), 1);
}

#[test]
fn an_answer_that_was_there_already_is_no_probe() {
    let mut world = World::new(12, Timing::default(), World::wide_limits().unwrap()).unwrap();
    let (worker, _) = world.start_worker(4, TICK).unwrap();
    let changes = evaluate(&world);
    let known = json!({"temperature": 0});
    assert_eq!(ask(&world, "known", &known).status, StatusCode::OK);
    world.kernel.kill(worker);
    pass(&world, Duration::from_secs(100));
    assert_eq!(changes.lock().unwrap().last().unwrap().1.to, Tier::Open);
    for _ in 0..22 {
        pass(&world, Duration::from_secs(5));
        // Served from the result, or refused: each asks for a permit and teaches nothing.
        ask(&world, "known", &known);
    }
    pass(&world, Duration::from_secs(20));
    assert_eq!(changes.lock().unwrap().last().unwrap().1.to, Tier::Open, "nobody has seen the pool work");
}

#[test]
fn night_traffic_of_which_half_fails_moves_nothing() {
    let mut world = World::new(2, Timing::default(), World::wide_limits().unwrap()).unwrap();
    let faults = Faults::default();
    faults.set_percent(50);
    world.start_worker_of(&id("default"), 4, TICK, faults).unwrap();
    let changes = evaluate(&world);
    let all = All::default();
    traffic(&world, &all, 24, Duration::from_secs(300), &json!({}));
    assert_eq!(changes.lock().unwrap().len(), 0);
    assert!(all.lock().unwrap().iter().all(|got| got.status == StatusCode::OK), "each is tried again");
}

#[test]
fn a_pool_whose_workers_died_is_closed_after_a_minute_and_open_again_with_a_new_one() {
    let mut world = World::new(3, Timing::default(), World::wide_limits().unwrap()).unwrap();
    let (worker, _) = world.start_worker(4, TICK).unwrap();
    let changes = evaluate(&world);
    assert_eq!(ask(&world, "one", &json!({})).status, StatusCode::OK);
    world.kernel.kill(worker);
    pass(&world, Duration::from_secs(100));
    assert_eq!(changes.lock().unwrap().last().unwrap().1.to, Tier::Open);
    pass(&world, Duration::from_secs(2));
    // The first is a probe; it waits in the queue.
    let waiting = All::default();
    spawn_ask(&world, &waiting, "probe", &json!({}));
    pass(&world, Duration::from_secs(1));
    let refused = ask(&world, "two", &json!({}));
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    world.start_worker(4, TICK).unwrap();
    pass(&world, refused.wait());
    let served = ask(&world, "two", &json!({}));
    assert_eq!(served.status, StatusCode::OK, "told {:?} and came back: {}", refused.wait(), served.body);
    assert_eq!(waiting.lock().unwrap()[0].status, StatusCode::OK);
}

struct Outer {
    world: World,
    upstream: ScriptedUpstream,
}

/// A pool with everything to fall back to, closed by an order that lets fallbacks answer.
fn closed(seed: u64, consent: FallbackConsent, usd_per_day: &str, plays: Vec<Play>) -> Outer {
    let timing = Timing::default();
    let mut made = None;
    let world = World::furnished(seed, timing, World::wide_limits().unwrap(), |ports, kernel| {
        let text = json!([{"name": "cloud", "url": "https://a.example/v1", "models": {"scripted": "gpt"},
            "usd_per_day": usd_per_day, "usd_per_minute": usd_per_day,
            "input_usd_per_million_tokens": "100", "output_usd_per_million_tokens": "1000"}]);
        let config = UpstreamConfig::list(&text.to_string(), |_| None).unwrap().remove(0);
        let upstream = ScriptedUpstream::new(Arc::new(kernel.clone()), plays);
        made = Some(upstream.clone());
        let outside = Outside { config: Arc::new(config), port: Arc::new(upstream) };
        Service::new(ports, timing, b"sim").with_upstreams([outside])
    })
    .unwrap();
    let control = &world.service.ports().control;
    let pools = now(control.pools()).unwrap();
    let fallbacks =
        vec![Fallback::Upstream("cloud".to_owned()), Fallback::SmallerModel(id("small")), Fallback::Pool(id("second"))];
    let default_answer = Some("Please come back later.".to_owned());
    now(control.put_pool(&Pool { fallbacks, default_answer, ..pools[0].clone() })).unwrap();
    for (name, model) in [("second", "scripted-b"), ("small", "scripted-s")] {
        let pool = Pool { id: id(name), model: model.to_owned(), ..pools[0].clone() };
        now(control.put_pool(&pool)).unwrap();
    }
    let tenant = now(control.tenant(&TenantId::new("tenant").unwrap())).unwrap().unwrap();
    now(control.put_tenant(&Tenant { fallback: consent, ..tenant })).unwrap();
    close(&world, "default", Order::Fallbacks);
    Outer { world, upstream: made.unwrap() }
}

fn close(world: &World, pool: &str, order: Order) {
    let until = world.kernel.now().after(Duration::from_secs(3600));
    now(world.service.order(&id(pool), Some((order, until)))).unwrap();
}

fn says(texts: &[&str]) -> Play {
    Play::Says(texts.iter().map(|text| (*text).to_owned()).collect(), Duration::from_millis(100))
}

const ALL: FallbackConsent = FallbackConsent { upstream: true, smaller_model: true, default_answer: true };

#[test]
fn a_dead_pool_falls_to_the_others_in_order_and_each_answer_says_how_it_was_made() {
    let Outer { mut world, upstream } = closed(4, ALL, "1", vec![says(&["from ", "outside"])]);
    world.start_worker_of(&id("second"), 4, TICK, Faults::default()).unwrap();
    world.start_worker_of(&id("small"), 4, TICK, Faults::default()).unwrap();
    let seen = |got: &Got| {
        let of = |name: &str| got.header(name).to_owned();
        (got.status.as_u16(), of("x-penstock-served-by"), of("x-penstock-fallback"), of("x-penstock-tier"), got.text())
    };
    let expect = |status, by: &str, fallback: &str, text: &str| {
        (status, by.to_owned(), fallback.to_owned(), "4".to_owned(), text.to_owned())
    };
    let answer = answer_to("one");
    assert_eq!(seen(&ask(&world, "one", &json!({}))), expect(200, "fallback", "pool=second", &answer));
    close(&world, "second", Order::Refuse);
    assert_eq!(seen(&ask(&world, "one", &json!({}))), expect(200, "fallback", "smaller_model=small", &answer));
    close(&world, "small", Order::Refuse);
    for extra in [json!({}), json!({"stream": true})] {
        let got = ask(&world, "one", &extra);
        assert_eq!(seen(&got), expect(200, "fallback", "upstream=cloud", "from outside"), "{}", got.body);
        assert!(got.header("x-penstock-cost-usd").starts_with("0.0"), "{:?}", got.headers);
        assert!(got.body.contains("\"model\":\"scripted\"") && got.body.contains("chatcmpl-"), "{}", got.body);
    }
    let call: Value = serde_json::from_str(&upstream.calls()[0].body).unwrap();
    assert_eq!((call["model"].as_str(), call["stream"].as_bool()), (Some("gpt"), Some(true)));
    // An upstream that is dead is passed over.
    upstream.play(vec![Play::Refuses]);
    assert_eq!(seen(&ask(&world, "two", &json!({}))), expect(200, "default", "", "Please come back later."));
}

#[test]
fn without_consent_nobody_answers_and_the_client_is_told_when_to_come_back() {
    let Outer { mut world, upstream } = closed(5, FallbackConsent::default(), "1", vec![says(&["x"])]);
    world.start_worker(4, TICK).unwrap();
    world.start_worker_of(&id("small"), 4, TICK, Faults::default()).unwrap();
    let refused = ask(&world, "one", &json!({}));
    assert_eq!((refused.status, upstream.calls().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    assert_eq!(refused.header("x-should-retry"), "false", "an hour is too long to wait");
    let until = world.kernel.now().after(Duration::from_secs(20));
    now(world.service.order(&id("default"), Some((Order::Refuse, until)))).unwrap();
    let refused = ask(&world, "one", &json!({}));
    pass(&world, refused.wait());
    assert_eq!(ask(&world, "one", &json!({})).status, StatusCode::OK, "it came back when it was told to");
}

#[test]
fn an_upstream_is_asked_twice_at_most_under_the_same_key_and_a_silent_one_for_ten_seconds() {
    let only = FallbackConsent { upstream: true, ..FallbackConsent::default() };
    let Outer { world, upstream } = closed(6, only, "1", vec![Play::Refuses, says(&["second ", "try"])]);
    assert_eq!(ask(&world, "one", &json!({})).text(), "second try");
    let calls = upstream.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1], "the same request under the same key");
    upstream.play(vec![Play::Status(503, None)]);
    assert_eq!(ask(&world, "two", &json!({})).status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(upstream.calls().len(), 4);
    assert_ne!(upstream.calls()[2].idempotency_key, calls[0].idempotency_key);
    upstream.play(vec![Play::Hangs]);
    let got = ask(&world, "three", &json!({}));
    let waited = got.ended.since(got.asked).as_secs();
    assert!((20..=24).contains(&waited), "ten seconds each try: {waited} s");
    // Five failures in a row: its own breaker is open, and it is not asked at all.
    let (before, begun) = (upstream.calls().len(), world.kernel.now());
    assert_eq!(ask(&world, "four", &json!({})).status, StatusCode::SERVICE_UNAVAILABLE);
    let after = (upstream.calls().len(), world.kernel.now().since(begun));
    assert!(after.0 <= before + 1 && after.1 < Duration::from_secs(25), "{after:?}");
}

#[test]
fn an_upstream_that_is_busy_is_left_alone_until_the_moment_it_names() {
    let only = FallbackConsent { upstream: true, ..FallbackConsent::default() };
    let busy = Play::Status(429, Some(Duration::from_secs(30)));
    let Outer { world, upstream } = closed(7, only, "1", vec![busy, says(&["back"])]);
    assert_eq!(ask(&world, "one", &json!({})).status, StatusCode::SERVICE_UNAVAILABLE);
    pass(&world, Duration::from_secs(29));
    assert_eq!(ask(&world, "two", &json!({})).status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(upstream.calls().len(), 1);
    pass(&world, Duration::from_secs(1));
    assert_eq!(ask(&world, "three", &json!({})).text(), "back");
}

#[test]
fn an_answer_that_breaks_off_ends_in_an_error_and_never_in_another_answers_words() {
    let only = FallbackConsent { upstream: true, ..FallbackConsent::default() };
    let broken = Play::BreaksOff(vec!["half ".to_owned()]);
    let Outer { world, .. } = closed(8, only, "1", vec![broken, says(&["whole"])]);
    let got = ask(&world, "one", &json!({"stream": true}));
    assert_eq!((got.status, got.text().as_str()), (StatusCode::OK, "half "));
    assert!(got.body.contains("upstream_failed") && got.body.ends_with("data: [DONE]\n\n"), "{}", got.body);
}

#[test]
fn a_budget_that_is_spent_is_not_overspent_and_unused_money_comes_back() {
    let only = FallbackConsent { upstream: true, ..FallbackConsent::default() };
    // 10 + 2 tokens cost 1,000 + 2,000 micro-dollars; the estimate holds 32 tokens of output.
    let Outer { world, upstream } = closed(9, only, "0.1", vec![says(&["a", "b"])]);
    let mut answered = 0;
    while ask(&world, "0123456789", &json!({"max_tokens": 32})).status == StatusCode::OK {
        answered += 1;
        // What was not used is given back a moment later.
        pass(&world, Duration::from_millis(10));
        assert!(answered < 100);
    }
    // 100,000 in all; each answer holds 33,000 and uses 3,000.
    assert_eq!(answered, 23, "as long as one more estimate fits");
    assert_eq!(upstream.calls().len(), 23);
    pass(&world, Duration::from_secs(24 * 3600));
    close(&world, "default", Order::Fallbacks);
    assert_eq!(ask(&world, "0123456789", &json!({})).status, StatusCode::OK, "another day");
}

#[test]
fn a_tenants_own_budget_holds_outside_too() {
    let only = FallbackConsent { upstream: true, ..FallbackConsent::default() };
    let Outer { world, upstream } = closed(16, only, "100", vec![says(&["a", "b"])]);
    let control = &world.service.ports().control;
    let tenant = now(control.tenant(&TenantId::new("tenant").unwrap())).unwrap().unwrap();
    let budget = Some(Budget { usd_micros: 100_000, period: Period::Day });
    let limits = TenantLimits { budget, ..tenant.limits };
    now(control.put_tenant(&Tenant { limits, ..tenant })).unwrap();
    let mut answered = 0;
    while ask(&world, "0123456789", &json!({"max_tokens": 32})).status == StatusCode::OK {
        answered += 1;
        pass(&world, Duration::from_millis(10));
        assert!(answered < 100);
    }
    assert_eq!((answered, upstream.calls().len()), (23, 23), "each is held at 33,000 micro-dollars and costs 3,000");
}

/// Stores that can be gone.
struct Gone<P: ?Sized> {
    port: Arc<P>,
    gone: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

impl<P: ?Sized> Gone<P> {
    fn there(&self) -> PortResult<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.gone.load(Ordering::Relaxed) {
            true => Err(PortError::Unavailable { store: "scripted", cause: "gone".to_owned() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Control for Gone<dyn Control> {
    async fn key(&self, id: &KeyId) -> PortResult<Option<KeyRecord>> {
        self.there()?;
        self.port.key(id).await
    }
    async fn put_key(&self, key: &KeyRecord) -> PortResult<()> {
        self.port.put_key(key).await
    }
    async fn keys(&self, tenant: &TenantId) -> PortResult<Vec<KeyRecord>> {
        self.there()?;
        self.port.keys(tenant).await
    }
    async fn touch_key(&self, id: &KeyId, now: Timestamp) -> PortResult<()> {
        self.there()?;
        self.port.touch_key(id, now).await
    }
    async fn remove_key(&self, key: &KeyRecord) -> PortResult<()> {
        self.port.remove_key(key).await
    }
    async fn tenants(&self) -> PortResult<Vec<Tenant>> {
        self.there()?;
        self.port.tenants().await
    }
    async fn remove_tenant(&self, id: &TenantId) -> PortResult<()> {
        self.port.remove_tenant(id).await
    }
    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>> {
        self.there()?;
        self.port.tenant(id).await
    }
    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()> {
        self.port.put_tenant(tenant).await
    }
    async fn pools(&self) -> PortResult<Vec<Pool>> {
        self.there()?;
        self.port.pools().await
    }
    async fn put_pool(&self, pool: &Pool) -> PortResult<()> {
        self.port.put_pool(pool).await
    }
    async fn workers(&self, pool: &PoolId, since: Timestamp) -> PortResult<Vec<WorkerRecord>> {
        self.there()?;
        self.port.workers(pool, since).await
    }
    async fn put_worker(&self, worker: &WorkerRecord) -> PortResult<()> {
        self.port.put_worker(worker).await
    }
    async fn remove_worker(&self, pool: &PoolId, id: &WorkerId) -> PortResult<()> {
        self.port.remove_worker(pool, id).await
    }
}

#[async_trait]
impl Board for Gone<dyn Board> {
    async fn read(&self, key: &BoardKey) -> PortResult<Option<Posted>> {
        self.there()?;
        self.port.read(key).await
    }
    async fn post(
        &self,
        key: &BoardKey,
        text: &str,
        replaces: Option<u64>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>> {
        self.there()?;
        self.port.post(key, text, replaces, nonce).await
    }
}

#[async_trait]
impl Blobs for Gone<dyn Blobs> {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> PortResult<()> {
        self.there()?;
        self.port.put(key, bytes).await
    }
    async fn get(&self, key: &BlobKey) -> PortResult<Option<Bytes>> {
        self.there()?;
        self.port.get(key).await
    }
    async fn remove(&self, key: &BlobKey) -> PortResult<()> {
        self.there()?;
        self.port.remove(key).await
    }
}

struct Outage {
    world: World,
    gone: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

/// A front door behind breakers whose control records, board and blobs can be gone.
fn outage(seed: u64) -> Outage {
    let (gone, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (switch, counted) = (&gone, &calls);
    let timing = Timing::default();
    let mut world = World::furnished(seed, timing, World::wide_limits().unwrap(), |ports, _| {
        let control: Arc<dyn Control> =
            Arc::new(Gone { port: ports.control, gone: Arc::clone(switch), calls: Arc::clone(counted) });
        let board: Arc<dyn Board> =
            Arc::new(Gone { port: ports.board, gone: Arc::clone(switch), calls: Arc::default() });
        let blobs: Arc<dyn Blobs> =
            Arc::new(Gone { port: ports.blobs, gone: Arc::clone(switch), calls: Arc::clone(counted) });
        Service::new(guarded(Ports { control, board, blobs, ..ports }), timing, b"sim")
    })
    .unwrap();
    world.start_worker(64, TICK).unwrap();
    Outage { world, gone, calls }
}

#[test]
fn known_tenants_and_models_are_served_while_their_records_cannot_be_read_and_not_for_ever() {
    let Outage { world, gone, calls } = outage(10);
    assert_eq!(ask(&world, "one", &json!({})).status, StatusCode::OK);
    gone.store(true, Ordering::Relaxed);
    pass(&world, Duration::from_secs(61));
    let before = calls.load(Ordering::Relaxed);
    for n in 0..100 {
        assert_eq!(ask(&world, &format!("q{n}"), &json!({})).status, StatusCode::OK);
    }
    let asked = calls.load(Ordering::Relaxed) - before;
    assert!(asked <= 30, "a breaker opens after five failures and probes now and then: {asked} calls of 400");
    pass(&world, Duration::from_secs(960));
    let refused = ask(&world, "two", &json!({}));
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
    assert!(refused.body.contains("store_unavailable") && refused.wait() > Duration::ZERO, "{}", refused.body);
    gone.store(false, Ordering::Relaxed);
    pass(&world, refused.wait());
    assert_eq!(ask(&world, "two", &json!({})).status, StatusCode::OK, "it came back when it was told to");
}

#[test]
fn a_standing_that_cannot_be_read_holds_for_a_minute_and_is_then_taken_for_normal() {
    let Outage { world, gone, .. } = outage(15);
    assert_eq!(ask(&world, "one", &json!({})).status, StatusCode::OK);
    close(&world, "default", Order::Refuse);
    assert_eq!(ask(&world, "two", &json!({})).status, StatusCode::SERVICE_UNAVAILABLE);
    gone.store(true, Ordering::Relaxed);
    pass(&world, Duration::from_secs(55));
    assert_eq!(ask(&world, "two", &json!({})).status, StatusCode::SERVICE_UNAVAILABLE, "static");
    pass(&world, Duration::from_secs(10));
    assert_eq!(ask(&world, "two", &json!({})).status, StatusCode::OK, "open");
}

#[test]
fn a_store_that_cannot_take_a_request_is_a_503_with_a_moment_to_come_back() {
    let Outage { world, gone, .. } = outage(11);
    // Too long for a message: it needs the store of blobs.
    let long = "x".repeat(300_000);
    let pools = now(world.service.ports().control.pools()).unwrap();
    now(world.service.ports().control.put_pool(&Pool { context_length: 1_000_000, ..pools[0].clone() })).unwrap();
    assert_eq!(ask(&world, "known from now on", &json!({})).status, StatusCode::OK);
    gone.store(true, Ordering::Relaxed);
    let refused = ask(&world, &long, &json!({"max_tokens": 1}));
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.body.contains("store_unavailable") && refused.wait() >= Duration::from_secs(1), "{}", refused.body);
    assert_eq!(ask(&world, "short", &json!({})).status, StatusCode::OK, "what does not need it is served");
}
