//! What comes of things after minutes: the same services in this process, each under its role, by a clock that runs sixty
//! times as fast.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use harness::client::Client;
use harness::deployment::Deployment;
use penstock_aws::{Aws, Names, Timeouts};
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId, WorkerId};
use penstock_policy::tenant::{Budget, Period, Retention, TenantLimits};
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Control, Entropy, Pool, PoolKind, Tenant};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::{ApiKey, Consumer, Ports, Service, Workplace, front_router, guarded, jobs_router};
use penstock_sim::ScriptedEngine;
use serde_json::{Value, json};

/// The pool of a worker that answers from a script.
pub(crate) const POOL: &str = "scripted";
/// The pool of one that makes vectors so.
pub(crate) const VECTORS: &str = "scripted-vectors";
/// A pool whose queues were never made.
const QUEUELESS: &str = "queueless";

/// How many times as fast time runs.
const HASTE: u32 = 60;

/// A clock that runs fast, from the present moment on.
struct Hurried {
    began: Instant,
    from: Timestamp,
}

#[async_trait]
impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        self.from.after(self.began.elapsed() * HASTE)
    }

    async fn sleep_until(&self, moment: Timestamp) {
        tokio::time::sleep(moment.since(self.now()) / HASTE).await;
    }
}

/// Waits for a while by that clock.
async fn pass_time(minutes: u32) {
    tokio::time::sleep(Duration::from_secs(60) * minutes / HASTE).await;
}

struct Place<'a> {
    deployment: &'a Deployment,
    clock: Arc<dyn Clock>,
}

struct Working {
    consumer: Consumer,
    running: tokio::task::JoinHandle<()>,
}

impl Place<'_> {
    async fn ports(&self, role: &str) -> Ports {
        let names: Names = self.deployment.aws.names().clone();
        let endpoint = self.deployment.endpoint_of(role);
        let aws = Aws::connect(names, Timeouts::patient(), Some(endpoint), Arc::clone(&self.clock)).await;
        Arc::new(aws).ports(Arc::new(TaskSpawner), Arc::new(OsEntropy))
    }

    async fn service(&self, role: &str) -> Arc<Service> {
        Arc::new(Service::new(guarded(self.ports(role).await), Timing::default(), b"hours"))
    }

    /// A client of a router that runs under `role`.
    async fn client(&self, role: &str, router: fn(Arc<Service>) -> axum::Router, key: &str) -> Client {
        let router = router(self.service(role).await);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(&url, key)
    }

    /// A tenant of which nothing is kept, with limits, and a key of it.
    async fn forgetful(&self, id: &str) -> String {
        let key = ApiKey::generate(|| OsEntropy.draw());
        let id = TenantId::new(id).unwrap();
        let wide = Limit::new(1_000_000, Duration::from_secs(1), 1_000_000_000).unwrap();
        let limits = TenantLimits {
            concurrency: Some(64),
            budget: Some(Budget { usd_micros: 1_000_000, period: Period::Day }),
            ..TenantLimits::rates(wide, wide)
        };
        let retention = Retention { store: false, ..Retention::default() };
        let tenant = Tenant { retention, ..Tenant::new(id.clone(), Class::P0, limits, self.clock.now()) };
        self.deployment.aws.put_key(&key.record(id)).await.unwrap();
        self.deployment.aws.put_tenant(&tenant).await.unwrap();
        key.expose()
    }

    async fn add_pool(&self, name: &str, kind: PoolKind) {
        let pool = Pool::new(PoolId::new(name).unwrap(), name, 4096, self.clock.now());
        let pool = Pool { kind, tokens_per_byte: 1.0, usual_output_tokens: 32, ..pool };
        self.deployment.aws.put_pool(&pool).await.unwrap();
    }

    async fn worker(&self, pool: &str, tick: Duration, made: impl FnOnce(ScriptedEngine) -> ScriptedEngine) -> Working {
        let ports = self.ports("WorkerRole").await;
        let spawner = Arc::clone(&ports.spawner);
        let engine = ScriptedEngine::new(Arc::clone(&self.clock), spawner, 4, tick);
        let consumer = Consumer::new(Workplace {
            service: Arc::new(Service::new(ports, Timing::default(), b"")),
            engine: Arc::new(made(engine)),
            pool: PoolId::new(pool).unwrap(),
            worker: WorkerId::new(&format!("in-{pool}")).unwrap(),
        });
        let running = consumer.clone();
        Working { consumer, running: tokio::spawn(async move { running.run().await }) }
    }
}

fn asked(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": prompt}]})
}

/// Lets some minutes pass.
pub(crate) async fn pass(deployment: &Deployment) {
    let clock: Arc<dyn Clock> = Arc::new(Hurried { began: Instant::now(), from: SystemClock.now() });
    let place = Place { deployment, clock };
    place.add_pool(POOL, PoolKind::Generation).await;
    place.add_pool(VECTORS, PoolKind::Embedding).await;
    let key = place.forgetful("forgetful").await;
    let front = place.client("FrontRole", front_router, &key).await;
    let jobs = place.client("JobsRole", jobs_router, &key).await;
    let control = place.service("ControlRole").await;
    let tick = async || {
        let now = control.ports().clock.now();
        control.control_tick(now).await.unwrap();
        control.evaluate_breakers(now).await.unwrap();
    };

    // Nobody works yet.
    one_that_waits_is_cancelled(&front, &jobs).await;
    let usual = place.client("FrontRole", front_router, &deployment.key).await;
    let mut urgent = asked(POOL, "nobody answers");
    urgent["service_tier"] = json!("priority");
    let client = usual.clone();
    let due = tokio::spawn(async move { client.post("/v1/chat/completions", urgent.to_string()).await });
    let expired = due.await.unwrap();
    assert!(expired.body.trim().is_empty(), "nobody answers in time, which breaks the connection: {}", expired.body);
    let workers = [
        place.worker(POOL, Duration::from_secs(1), |engine| engine).await,
        place.worker(VECTORS, Duration::from_millis(1), ScriptedEngine::encoding).await,
    ];
    tick().await;
    answered_and_forgotten(&front).await;
    left_in_the_middle(&front, &jobs).await;
    asked_for_often(&usual).await;
    tick().await;
    turned_away_by_a_full_queue(&front).await;
    pass_time(4).await;
    tick().await;
    // Refused before it was accepted: its marker and its payload go.
    place.add_pool(QUEUELESS, PoolKind::Generation).await;
    pass_time(2).await;
    let mut large = asked(QUEUELESS, &"x".repeat(300_000));
    large["temperature"] = json!(0);
    let refused = front.post("/v1/chat/completions", large.to_string()).await;
    assert!(refused.status >= 500, "{}", refused.body);
    for worker in workers {
        worker.consumer.drain();
        worker.running.await.unwrap();
    }
}

async fn one_that_waits_is_cancelled(front: &Client, jobs: &Client) {
    let mut ask = asked(POOL, &"x".repeat(300_000));
    ask["stream"] = json!(true);
    let waiting = front.begin_with(&ask).await;
    let job = waiting.header("x-penstock-job-id").to_owned();
    assert_eq!(jobs.send("DELETE", &format!("/v1/jobs/{job}")).await.status, 200);
}

async fn answered_and_forgotten(front: &Client) {
    let reply = front.post("/v1/chat/completions", asked(POOL, &"long ago ".repeat(12)).to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let texts: Vec<String> = (0..2048).map(|n| format!("lamp {n}")).collect();
    let vectors = json!({"model": VECTORS, "input": texts});
    let reply = front.post("/v1/embeddings", vectors.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// What is asked for again after a minute is told of to other processes.
async fn asked_for_often(client: &Client) {
    for _ in 0..3 {
        assert_eq!(client.ask(POOL, "often", false).await.status, 200);
        pass_time(1).await;
    }
}

/// Four tokens a second are made, and as many clients as it takes want hundreds each.
async fn turned_away_by_a_full_queue(client: &Client) {
    for number in 0..64 {
        let mut ask = asked(POOL, &format!("client {number} "));
        ask["stream"] = json!(true);
        ask["max_tokens"] = json!(1000);
        let waiting = client.begin_with(&ask).await;
        if waiting.status() != 200 {
            return;
        }
    }
    panic!("the queue has room for everybody");
}

/// One whose client has gone, which the front cancels, and one that is cancelled while it is answered.
async fn left_in_the_middle(front: &Client, jobs: &Client) {
    for (prompt, by_jobs) in [("a client that goes", false), ("a client that stays", true)] {
        let mut ask = asked(POOL, &prompt.repeat(20));
        ask["stream"] = json!(true);
        let mut arriving = front.begin_with(&ask).await;
        arriving.first_words().await;
        if by_jobs {
            let job = arriving.header("x-penstock-job-id").to_owned();
            assert_eq!(jobs.send("DELETE", &format!("/v1/jobs/{job}")).await.status, 200);
        }
        drop(arriving);
    }
}
