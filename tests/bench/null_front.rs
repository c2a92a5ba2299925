//! The front door on a null engine: the router, the use cases and the SQLite store of `penstock up`, in a file, with
//! commits that survive the death of the process, before an engine that answers at once. What a request costs here is
//! what the front door and the queue cost.
//!
//! Prints one line of JSON (`url`, `api_key`, `pid`) once it listens, and runs until it is killed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program of the benchmark stops at the first surprise")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId, WorkerId};
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Control, Entropy, Pool, Spawner, Tenant, TenantLimits};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::{ApiKey, Consumer, Service, Workplace};
use penstock_sim::ScriptedEngine;
use penstock_sqlite::{DiskBlobs, Durability, Sqlite};

/// Sequences at once, and the time a token takes: neither is ever waited for.
const SLOTS: u32 = 256;
const TICK: Duration = Duration::from_micros(1);

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sqlite = Sqlite::open(&folder.path().join("penstock.db"), Durability::Process, Arc::clone(&clock)).unwrap();
    let key = ApiKey::generate(|| OsEntropy.draw());
    let wide = Limit::per_minute(1_000_000_000).unwrap();
    let tenant = Tenant::new(TenantId::new("bench").unwrap(), Class::P0, TenantLimits::rates(wide, wide), clock.now());
    let pool = PoolId::new("null").unwrap();
    sqlite.put_key(&key.record(tenant.id.clone())).await.unwrap();
    sqlite.put_tenant(&tenant).await.unwrap();
    sqlite.put_pool(&Pool::new(pool.clone(), "null", 4096, clock.now())).await.unwrap();

    let spawner: Arc<dyn Spawner> = Arc::new(TaskSpawner);
    let ports = sqlite.ports(DiskBlobs::new(&folder.path().join("blobs")), Arc::clone(&spawner), Arc::new(OsEntropy));
    let timing = Timing { stream_flush: Duration::from_millis(20), ..Timing::default() };
    let service = || Arc::new(Service::new(ports.clone(), timing, b"bench"));
    let consumer = Consumer::new(Workplace {
        service: service(),
        engine: Arc::new(ScriptedEngine::new(Arc::clone(&clock), spawner, SLOTS, TICK)),
        pool,
        worker: WorkerId::new("null").unwrap(),
    });
    tokio::spawn(async move { consumer.run().await });

    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ready = serde_json::json!({"url": url, "api_key": key.expose(), "pid": std::process::id()});
    println!("{ready}");
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, penstock_service::router(service())).await.unwrap();
}
