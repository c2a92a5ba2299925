//! The whole system in one process: the same router, use cases and worker as on AWS, on SQLite and one machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::ListenerExt;
use penstock_gpu_worker::engine::metrics::{Metrics, OPEN_METRICS};
use penstock_gpu_worker::engine::{AnyEngine, EngineConfig};
use penstock_policy::classes::Class;
use penstock_policy::degrade::{Order, SLOT};
use penstock_policy::forecast::LocalTime;
use penstock_policy::gcra::Limit;
use penstock_policy::id::TenantId;
use penstock_policy::tenant::FallbackConsent;
use penstock_policy::time::Timestamp;
use penstock_service::config::{Timing, Traces};
use penstock_service::degradation::upstreams::Outside;
use penstock_service::ports::{
    Clock, Control, Engine, EngineInfo, Entropy, Fallback, KeyRecord, Pool, PoolKind, PortError, Tenant, TenantLimits,
};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::telemetry::otlp::Otlp;
use penstock_service::telemetry::prometheus::Prometheus;
use penstock_service::telemetry::spans::{Tracer, Untraced};
use penstock_service::tokens::TrustedIssuers;
use penstock_service::tokens::issuer::IssuerConfig;
use penstock_service::webhooks::HttpCourier;
use penstock_service::{ApiKey, Lane, OperatorKey, Prepared, Service, guarded};
use penstock_sqlite::{DiskBlobs, Durability, Sqlite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::command::EngineArgs;
use crate::error::CliError;
use crate::local_fleet::{Autoscale, Blueprint, LocalFleet, threads};
use crate::models::{self, Model};
use crate::onnx_runtime;
use crate::paths;
use crate::ready::{Ready, operator_key, private_file};
use crate::staff::{Candidate, Staff};
use crate::upstream::UpstreamArgs;

/// The tenant that `penstock up` sets up for its user.
const LOCAL_TENANT: &str = "local";

/// Wide limits for the machine's own user: what protects the machine is the queue, not the tenant's limit.
const LOCAL_PER_MINUTE: u64 = 60_000_000;

/// How long an answer may go on after the stop was asked for; what is not done by then goes back to the queue.
const DRAIN: Duration = Duration::from_secs(10);

/// The folder of payloads too large for a message, inside the data folder.
pub(crate) const BLOBS: &str = "blobs";

/// How long a job and its answer are kept after its end, and how often older ones are looked for.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// How often prepared answers are looked after; they live for an hour at least.
const PREPARED_EVERY: Duration = Duration::from_secs(60);
/// How often what was left lying is looked for.
const RECONCILED_EVERY: Duration = Duration::from_secs(60);
/// How often capacity is published and the virtual queues are moved to what really waits.
const CONTROL_TICK: Duration = Duration::from_secs(2);

/// How often traces are sent.
const TRACES_EVERY: Duration = Duration::from_secs(2);

/// How often the agenda is looked at.
const ERRANDS_EVERY: Duration = Duration::from_secs(1);

/// How long open connections get after that.
const HANG_UP: Duration = Duration::from_secs(1);

/// Where the data is kept.
pub(crate) enum Data {
    Folder { path: PathBuf, durability: Durability },
    Memory,
}

/// What to start.
pub(crate) struct Plan {
    pub(crate) engine: EngineArgs,
    pub(crate) upstream: UpstreamArgs,
    pub(crate) issuers: Vec<IssuerConfig>,
    pub(crate) workers: u32,
    /// Grows and shrinks from there, if it does.
    pub(crate) autoscale: Option<Autoscale>,
    pub(crate) port: u16,
    pub(crate) data: Data,
    pub(crate) traces: Option<Traces>,
}

/// A running system.
pub(crate) struct Embedded {
    pub(crate) ready: Ready,
    /// Whether anybody answers: workers, or an upstream in the place of all.
    pub(crate) has_workers: bool,
    /// What the first model makes.
    pub(crate) first_kind: PoolKind,
    workers: Staff,
    stop_listening: tokio::sync::oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
    breakers: JoinHandle<()>,
    /// The front door's use cases.
    front: Arc<Service>,
    control: JoinHandle<()>,
    /// What sends traces, and its task.
    tracing: Option<(Arc<Otlp>, JoinHandle<()>)>,
    errands: [JoinHandle<()>; 2],
    sqlite: Sqlite,
    blobs: DiskBlobs,
    /// Keeps blobs of a system in memory until it has stopped.
    _scratch: Option<tempfile::TempDir>,
}

impl Embedded {
    /// Starts everything; returns once requests can be served. `progress` is told what takes time.
    pub(crate) async fn start(plan: Plan, progress: fn(&str)) -> Result<Self, CliError> {
        let listener = listen(plan.port).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let scratch = match plan.data {
            Data::Folder { .. } => None,
            Data::Memory => {
                Some(tempfile::tempdir().map_err(CliError::file("creating a folder in", std::env::temp_dir()))?)
            }
        };
        let (sqlite, folder) = match (&plan.data, &scratch) {
            (Data::Folder { path, durability }, _) => {
                paths::private_folder(path)?;
                (Sqlite::open(&path.join("penstock.db"), *durability, clock)?, path.clone())
            }
            (Data::Memory, Some(scratch)) => (Sqlite::in_memory(clock)?, scratch.path().to_owned()),
            (Data::Memory, None) => (Sqlite::in_memory(clock)?, std::env::temp_dir()),
        };
        let metrics = Metrics::new();
        let models = models::choose(&plan.engine.models)?;
        let engines = if plan.workers == 0 {
            Vec::new()
        } else {
            let (arguments, models) = (plan.engine.clone(), models.clone());
            // Where it grows, one of each model is loaded at least, to measure it.
            let (workers, most) = match plan.autoscale {
                None => (plan.workers, plan.workers),
                Some(Autoscale { range, .. }) => (range.least.max(1), range.most),
            };
            // Fetching and loading block for seconds; a stop meanwhile must be heard.
            let metrics = metrics.clone();
            let loading =
                tokio::task::spawn_blocking(move || load(&arguments, workers, most, &models, &metrics, progress));
            loading.await.map_err(|_| CliError::Died)??
        };
        let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
        let outsides = plan.upstream.outsides(&names)?;
        set_up_pools(&sqlite, &models, &engines, &outsides).await?;
        let key = set_up_tenant(&sqlite, &folder, !outsides.is_empty()).await?;
        let blobs = DiskBlobs::new(&folder.join(BLOBS));
        let ports = sqlite.ports(blobs.clone(), Arc::new(TaskSpawner), Arc::new(OsEntropy));
        let timing = Timing { stream_flush: Duration::from_millis(20), ..Timing::default() };
        let secret = marker_secret(&folder)?;
        let meter = Arc::new(Prometheus::default());
        let otlp = |traces: Traces| Otlp::new(&traces.endpoint, "penstock", "local", traces.share);
        let otlp = plan.traces.map(otlp).transpose().map_err(CliError::Traces)?.map(Arc::new);
        let tracer: Arc<dyn Tracer> = otlp.clone().map_or_else(|| Arc::new(Untraced) as _, |otlp| otlp as _);
        let staff = {
            let (ports, meter, secret) = (ports.clone(), Arc::clone(&meter), secret.clone());
            let tracer = Arc::clone(&tracer);
            Staff::new(move || {
                let service = Service::new(ports.clone(), timing, secret.as_bytes());
                Arc::new(service.with_meter(Arc::clone(&meter) as _).with_tracer(Arc::clone(&tracer)))
            })
        };
        let (stop_listening, stopped) = tokio::sync::oneshot::channel::<()>();
        let address = listener.local_addr().map_err(|source| CliError::Listen { port: plan.port, source })?;
        let gateway_alone = engines.is_empty() && !outsides.is_empty();
        let front = Service::new(guarded(ports.clone()), timing, secret.as_bytes()).with_upstreams(outsides);
        let front = match HttpCourier::new() {
            Ok(courier) => front.with_courier(Arc::new(courier)),
            // What is to be delivered stays to be delivered.
            Err(error) => {
                progress(&format!("webhooks are not delivered: {error}"));
                front
            }
        };
        let front = front.with_tokens(TrustedIssuers::over_http(plan.issuers)?);
        let front = front.with_meter(Arc::clone(&meter) as _).with_tracer(tracer.clone());
        let front = Arc::new(match plan.autoscale {
            None => front,
            Some(autoscale) => {
                let (staff, metrics) = (staff.clone(), metrics.clone());
                let first = |model: &Model| engines.iter().find(|of| of.model.pool == model.pool);
                let blueprints = models.iter().filter_map(first).map(Blueprint::of).collect();
                let fleet = LocalFleet { staff, blueprints, metrics, autoscale };
                front.with_fleet(Arc::new(fleet), LocalTime::utc())
            }
        });
        let always = gateway_alone.then_some((Order::Fallbacks, Timestamp::MAX));
        for model in &models {
            // An order lasts no longer than the process it was given to.
            front.order(&model.pool, always).await?;
        }
        for engine in engines {
            staff.employ(engine)?;
        }
        let breakers = tokio::spawn(watch_pools(Arc::clone(&front)));
        let ticking = Arc::clone(&front);
        let control = tokio::spawn(async move {
            tokio::join!(ticking.control_loop(CONTROL_TICK), ticking.reconcile_loop(RECONCILED_EVERY));
        });
        let sending = otlp.clone().map(|otlp| async move { otlp.flush_every(TRACES_EVERY, &SystemClock).await });
        let tracing = otlp.zip(sending.map(tokio::spawn));
        let errands =
            [Lane::Short, Lane::Long].map(|lane| tokio::spawn(Arc::clone(&front).errand_loop(lane, ERRANDS_EVERY)));
        // A key for each run: nobody who saw an old one can use it.
        let operator = OperatorKey::generate(|| OsEntropy.draw());
        private_file(&operator_key(&folder), &format!("{}\n", operator.expose()))?;
        let admin = penstock_service::admin_router(Arc::clone(&front), &operator);
        let router =
            penstock_service::router(Arc::clone(&front)).merge(admin).merge(metrics_route(metrics, Arc::clone(&meter)));
        // Answers go out as they are written: a stream's words must not wait for the next ones.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
        });
        let server = tokio::spawn(
            axum::serve(listener, router)
                .with_graceful_shutdown(async move {
                    // Dropped or sent: both mean stop.
                    let _ = stopped.await;
                })
                .into_future(),
        );
        let first_kind = models.first().map_or(PoolKind::Generation, |model| AnyEngine::kind_of(&model.folder));
        let ready = Ready {
            url: format!("http://{address}"),
            api_key: key,
            models: models.into_iter().map(|model| model.name).collect(),
            pid: std::process::id(),
        };
        Ok(Self {
            ready,
            has_workers: !staff.is_empty() || gateway_alone,
            first_kind,
            workers: staff,
            stop_listening,
            server,
            breakers,
            front,
            control,
            tracing,
            errands,
            sqlite,
            blobs,
            _scratch: scratch,
        })
    }

    /// Removes what has ended long ago, now and then, for ever.
    pub(crate) async fn keep_house(&self) {
        loop {
            let before = SystemClock.now().before(KEPT);
            if let Err(error) = self.sqlite.sweep(before).await.and_then(|()| self.blobs.sweep(before)) {
                tracing::warn!(%error, "cannot remove old jobs");
            }
            tokio::time::sleep(HOUSEKEEPING).await;
        }
    }

    /// Has prepared questions answered and their answers kept young, for ever. What is wrong with the list is said once.
    pub(crate) async fn keep_prepared(&self, list: Option<&str>, progress: fn(&str)) {
        let Some(list) = list else { return std::future::pending().await };
        let mut said = false;
        loop {
            match self.front.preload(list).await {
                Ok(report) if !said => {
                    said = true;
                    let Prepared { questions, ready, asked, failed } = report;
                    progress(&format!("{questions} prepared questions: {ready} answered, {asked} being answered"));
                    for (line, why) in failed {
                        progress(&format!("line {line} of the prepared questions: {why}"));
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot prepare answers"),
            }
            tokio::time::sleep(PREPARED_EVERY).await;
        }
    }

    /// Stops: takes no more, lets running answers finish for a while, gives the rest back to the queue.
    pub(crate) async fn stop(self) {
        let _ = self.stop_listening.send(());
        self.breakers.abort();
        // It would hire again.
        self.control.abort();
        self.workers.stop(DRAIN).await;
        self.errands.iter().for_each(JoinHandle::abort);
        let server = self.server.abort_handle();
        if tokio::time::timeout(HANG_UP, self.server).await.is_err() {
            server.abort();
        }
        if let Some((traces, task)) = self.tracing {
            task.abort();
            traces.flush().await;
        }
    }
}

async fn listen(port: u16) -> Result<TcpListener, CliError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            CliError::PortTaken { port }
        } else {
            CliError::Listen { port, source }
        }
    })
}

/// Loads as many engines as there are workers, of `most` that there may come to be.
fn load(
    arguments: &EngineArgs,
    workers: u32,
    most: u32,
    models: &[Model],
    metrics: &Metrics,
    progress: fn(&str),
) -> Result<Vec<Candidate>, CliError> {
    let library = onnx_runtime::locate(arguments.ort.as_deref(), progress)?;
    let engines = u32::try_from(models.len()).unwrap_or(1).saturating_mul(most);
    let threads = arguments.threads.and_then(NonZeroU32::new).unwrap_or_else(|| threads(engines));
    let mut loaded = Vec::new();
    for model in models {
        for _ in 0..workers {
            let begun = Instant::now();
            let mut config = EngineConfig::new(&model.folder, &library);
            config.model = Some(model.name.clone());
            config.slots = arguments.slots.and_then(NonZeroU32::new);
            config.device = arguments.device.clone();
            config.threads = threads;
            config.window = Duration::from_millis(arguments.window_ms);
            let recorder = metrics.recorder(&model.name, &format!("local-{}", loaded.len()));
            let engine = AnyEngine::load(&config, recorder.clone())?;
            let EngineInfo { slots, tokens_per_second, kind, .. } = engine.info();
            let makes = match kind {
                PoolKind::Generation => "",
                PoolKind::Embedding => " of texts into vectors",
            };
            progress(&format!(
                "model {} ready in {:.2} s: {slots} slots, {tokens_per_second:.0} tokens/s{makes}",
                model.name,
                begun.elapsed().as_secs_f64()
            ));
            loaded.push(Candidate { model: model.clone(), engine: Arc::new(engine), config, recorder });
        }
    }
    Ok(loaded)
}

/// What happens to requests and what the engines do, for Prometheus: `GET /metrics`.
fn metrics_route(engines: Metrics, service: Arc<Prometheus>) -> Router {
    let text = move || engines.text_behind(&service.text());
    Router::new().route("/metrics", get(async move || ([(CONTENT_TYPE, OPEN_METRICS)], text())))
}

/// Writes the pools down, with what the engines measured; a front door without workers takes a cautious guess.
async fn set_up_pools(
    sqlite: &Sqlite,
    models: &[Model],
    engines: &[Candidate],
    outsides: &[Outside],
) -> Result<(), PortError> {
    let known = sqlite.pools().await?;
    let upstreams = || outsides.iter().map(|outside| Fallback::Upstream(outside.config.name.to_string()));
    for model in models {
        let engine = engines.iter().find(|of| of.model.pool == model.pool).map(|of| of.engine.info());
        let before = known.iter().find(|pool| pool.id == model.pool);
        let context_length = engine.map(|info| info.context_length).or(before.map(|pool| pool.context_length));
        let tokens_per_byte = engine.map(|info| info.tokens_per_byte).or(before.map(|pool| pool.tokens_per_byte));
        let context_length = context_length.unwrap_or(4096);
        // The command line says which upstreams there are; other fallbacks are the pool's own.
        let own = before.into_iter().flat_map(|pool| &pool.fallbacks);
        let own = own.filter(|fallback| !matches!(fallback, Fallback::Upstream(_))).cloned();
        sqlite
            .put_pool(&Pool {
                fallbacks: own.chain(upstreams()).collect(),
                model: model.name.clone(),
                context_length,
                tokens_per_byte: tokens_per_byte.unwrap_or(1.0),
                usual_output_tokens: 256.min(context_length / 2),
                kind: AnyEngine::kind_of(&model.folder),
                ..before
                    .cloned()
                    .unwrap_or_else(|| Pool::new(model.pool.clone(), &model.name, context_length, SystemClock.now()))
            })
            .await?;
    }
    Ok(())
}

/// Makes the local tenant and its key at the first start; finds the key again later.
/// Whoever names an upstream on the command line consents to it.
async fn set_up_tenant(sqlite: &Sqlite, folder: &Path, upstream: bool) -> Result<String, CliError> {
    let tenant = local_tenant()?;
    let path = folder.join("api-key");
    let known = std::fs::read_to_string(&path).ok().and_then(|text| ApiKey::parse(text.trim()));
    let key = known.unwrap_or_else(|| ApiKey::generate(|| OsEntropy.draw()));
    private_file(&path, &format!("{}\n", key.expose()))?;
    // One that was revoked stays so.
    if sqlite.key(key.id()).await?.is_none() {
        let record =
            KeyRecord { label: "local".to_owned(), created: SystemClock.now(), ..key.record(tenant.id.clone()) };
        sqlite.put_key(&record).await?;
    }
    let known = sqlite.tenant(&tenant.id).await?;
    if known.as_ref().is_none_or(|known| known.fallback.upstream != upstream) {
        let tenant = known.unwrap_or(tenant);
        let fallback = FallbackConsent { upstream, ..tenant.fallback };
        sqlite.put_tenant(&Tenant { fallback, ..tenant }).await?;
    }
    Ok(key.expose())
}

/// Evaluates now and then how the pools stand, for ever.
async fn watch_pools(front: Arc<Service>) {
    loop {
        tokio::time::sleep(SLOT).await;
        if let Err(error) = front.evaluate_breakers(SystemClock.now()).await {
            tracing::warn!(%error, "cannot evaluate how the pools stand");
        }
    }
}

/// The tenant of the machine's own user.
fn local_tenant() -> Result<Tenant, CliError> {
    let limit = Limit::per_minute(LOCAL_PER_MINUTE).map_err(CliError::Limit)?;
    let limits = TenantLimits::rates(limit, limit);
    let id = TenantId::new(LOCAL_TENANT).map_err(CliError::Name)?;
    Ok(Tenant::new(id, Class::P0, limits, SystemClock.now()))
}

/// The secret that blinds marker keys; as durable as the markers.
fn marker_secret(folder: &Path) -> Result<String, CliError> {
    let path = folder.join("marker-secret");
    if let Ok(known) = std::fs::read_to_string(&path) {
        return Ok(known);
    }
    let secret = format!("{:032x}", OsEntropy.draw());
    private_file(&path, &secret)?;
    Ok(secret)
}
