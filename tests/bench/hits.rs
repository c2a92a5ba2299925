//! What a kept answer takes on this machine: from the request's bytes to the answer's, router and store included, sockets
//! not.
//!
//!     cargo run --release -p system-tests --example hits
//!
//! Asks 2,000 questions once, of an engine that answers in a millisecond. Then a process that has seen none of them is asked
//! each once, which its memory does not know and the store does, and then one of them ten thousand times.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a load program stops at the first surprise and prints its figures"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use penstock_policy::classes::Class;
use penstock_policy::id::{PoolId, TenantId, WorkerId};
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Control, Entropy, Pool, Tenant};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::{ApiKey, Consumer, Service, Workplace};
use penstock_sim::{ScriptedEngine, World};
use penstock_sqlite::{DiskBlobs, Durability, Sqlite};
use tower::ServiceExt;

const QUESTIONS: usize = 2_000;
const HITS: usize = 10_000;

/// Asks, and gives who answered and how long it took.
async fn ask(router: &Router, key: &str, question: usize) -> (String, Duration) {
    let body = serde_json::json!({"model": "scripted", "temperature": 0,
        "messages": [{"role": "user", "content": format!("What does paragraph {question} of the manual say?")}]});
    let request = Request::post("/v1/chat/completions")
        .header("authorization", format!("Bearer {key}"))
        .body(Body::from(body.to_string()))
        .unwrap();
    let begun = Instant::now();
    let response = router.clone().oneshot(request).await.unwrap();
    let served_by = response.headers().get("x-penstock-served-by").map(|value| value.to_str().unwrap().to_owned());
    let answer = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let took = begun.elapsed();
    let served_by = served_by.ok_or_else(|| String::from_utf8_lossy(&answer).into_owned()).unwrap();
    assert!(answer.len() > 100);
    (served_by, took)
}

fn report(what: &str, mut times: Vec<Duration>, cpu: Duration) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    let each = cpu.as_secs_f64() * 1000.0 / times.len() as f64;
    println!("{what}: {} answers, p50 {:.3} ms, p99 {:.3} ms, {each:.3} ms of CPU each", times.len(), at(50), at(99));
}

/// CPU time of this process.
fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(
            u64::try_from(time.tv_sec()).unwrap() * 1_000_000 + u64::try_from(time.tv_usec()).unwrap(),
        )
    };
    of(usage.user_time()) + of(usage.system_time())
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sqlite = Sqlite::open(&folder.path().join("db"), Durability::Process, Arc::clone(&clock)).unwrap();
    let blobs = DiskBlobs::new(folder.path());
    let ports = sqlite.ports(blobs, Arc::new(TaskSpawner), Arc::new(OsEntropy));
    let key = ApiKey::generate(|| OsEntropy.draw());
    let tenant = Tenant::new(TenantId::new("bench").unwrap(), Class::P0, World::wide_limits().unwrap(), clock.now());
    sqlite.put_key(&key.record(tenant.id.clone())).await.unwrap();
    sqlite.put_tenant(&tenant).await.unwrap();
    let pool = PoolId::new("default").unwrap();
    let scripted = Pool::new(pool.clone(), "scripted", 4096, clock.now());
    sqlite.put_pool(&Pool { usual_output_tokens: 64, ..scripted }).await.unwrap();
    let service = || Arc::new(Service::new(ports.clone(), Timing::default(), b"bench"));
    let engine = ScriptedEngine::new(Arc::clone(&clock), Arc::new(TaskSpawner), 64, Duration::from_millis(1));
    let worker = WorkerId::new("bench").unwrap();
    let consumer = Consumer::new(Workplace { service: service(), engine: Arc::new(engine), pool, worker });
    let working = consumer.clone();
    let work = tokio::spawn(async move { working.run().await });
    let (first, key) = (penstock_service::router(service()), key.expose());
    for questions in (0..QUESTIONS).collect::<Vec<_>>().chunks(50) {
        futures_util::future::join_all(questions.iter().map(|question| ask(&first, &key, *question))).await;
    }
    consumer.drain();
    work.await.unwrap();

    let second = penstock_service::router(service());
    // The records of key, tenant and pool are read once a minute.
    ask(&second, &key, 0).await;
    for (what, wanted, count) in [("from the store (l2)", "l2", QUESTIONS - 1), ("from memory (l1)", "l1", HITS)] {
        let before = cpu();
        let mut times = Vec::with_capacity(count);
        for number in 0..count {
            let question = if wanted == "l2" { number + 1 } else { QUESTIONS - 1 };
            let (served_by, took) = ask(&second, &key, question).await;
            // Memory looks at the store again every ten seconds.
            if served_by == wanted {
                times.push(took);
            }
        }
        assert!(times.len() + 5 > count, "{} of {count} {what}", times.len());
        report(what, times, cpu().saturating_sub(before));
    }
}
