//! The fleet worker: drains one pool's queues into one engine, until it is told to stop.
//!
//! What it runs comes from its command line (the unit file), where AWS is from its environment. SIGTERM and SIGINT
//! drain: nothing more is received, running answers get a while to finish, the rest is handed back with everything it
//! has said so far, and another worker continues it.

mod exposition;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use penstock_aws::{Aws, Names, Timeouts};
use penstock_gpu_worker::engine::device::{self, Device};
use penstock_gpu_worker::engine::metrics::Metrics;
use penstock_gpu_worker::engine::{AnyEngine, EngineConfig};
use penstock_policy::id::{PoolId, WorkerId};
use penstock_service::config::{Config, Traces};
use penstock_service::ports::{Clock, Engine, Entropy, Pool};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::telemetry::otlp::Otlp;
use penstock_service::telemetry::prometheus::Prometheus;
use penstock_service::{Consumer, Ports, Service, Workplace};
use tokio::signal::unix::{SignalKind, signal};

/// How often traces are sent.
const TRACES_EVERY: Duration = Duration::from_secs(2);

/// Runs one model for one pool.
#[derive(Debug, Parser)]
#[command(name = "gpu-worker", version)]
struct Arguments {
    /// The pool whose queues to drain.
    #[arg(long, value_name = "NAME")]
    pool: PoolId,
    /// The model folder: of onnxruntime-genai, or an encoder's (config.json, tokenizer.json, model.onnx).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The ONNX Runtime shared library, 1.24 or newer.
    #[arg(long, value_name = "PATH", env = "PENSTOCK_ORT")]
    ort: PathBuf,
    /// The name clients use for the model. Default: the folder's name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Sequences that run together. Default: as many as the warm-up finds best.
    #[arg(long, value_name = "N")]
    slots: Option<NonZeroU32>,
    /// How long an encoder waits for more texts to run together with those it has, in milliseconds.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    window_ms: u64,
    /// What to compute on: cpu, cuda, cuda:1, or the UUID of a GPU or of a slice of one (`nvidia-smi -L`).
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: Device,
    /// Threads to compute with.
    #[arg(long, default_value = "1", value_name = "N")]
    threads: NonZeroU32,
    /// This worker's name. Default: one drawn by lot.
    #[arg(long, value_name = "NAME")]
    id: Option<WorkerId>,
    /// How long running answers may go on after a stop was asked for, in seconds.
    #[arg(long, default_value_t = 75, value_name = "S")]
    drain_seconds: u64,
    /// Serve `GET /metrics` for Prometheus on this address, such as 0.0.0.0:9464, to whoever reaches it. Default: nowhere.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let visible = std::env::var_os("CUDA_VISIBLE_DEVICES");
    if let Err(error) = device::show(&arguments.device, visible.as_deref()) {
        eprintln!("gpu-worker: cannot start anew with {} alone in sight: {error}", arguments.device);
        return ExitCode::FAILURE;
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(start(arguments)),
        Err(error) => {
            eprintln!("gpu-worker: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(arguments: Arguments) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PENSTOCK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "worker ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let config = Config::from_lookup(|name| std::env::var(name).ok())?;
    let mut engine = EngineConfig::new(&arguments.model, &arguments.ort);
    engine.model.clone_from(&arguments.name);
    engine.slots = arguments.slots;
    engine.device = arguments.device.clone();
    engine.threads = arguments.threads;
    engine.window = Duration::from_millis(arguments.window_ms);
    let worker = match arguments.id {
        Some(id) => id,
        None => WorkerId::new(&format!("w-{:016x}", OsEntropy.draw() >> 64))?,
    };
    // Taken before the model is loaded, which takes long: a wrong address is told at once.
    let listener = match arguments.metrics {
        Some(address) => Some(exposition::listen(address).await?),
        None => None,
    };
    let (metrics, meter) = (Metrics::new(), Arc::new(Prometheus::default()));
    let recorder = metrics.recorder(&engine.name(), worker.as_str());
    let engine = Arc::new(tokio::task::spawn_blocking(move || AnyEngine::load(&engine, recorder)).await??);
    if let Some(listener) = listener {
        tokio::spawn(exposition::serve(listener, metrics, Arc::clone(&meter)));
    }
    let aws = connect(&config).await;
    let ports = aws.ports(Arc::new(TaskSpawner), Arc::new(OsEntropy));
    announce(&ports, &arguments.pool, engine.as_ref()).await?;
    tracing::info!(%worker, pool = %arguments.pool, model = engine.info().model, "worker takes work");
    let otlp = |traces: &Traces| Otlp::new(&traces.endpoint, "gpu-worker", &config.stage, traces.share);
    let traces = config.traces.as_ref().map(otlp).transpose()?.map(Arc::new);
    // A worker makes no marker keys.
    let mut service = Service::new(ports, config.timing, b"").with_meter(meter as _);
    if let Some(traces) = traces.clone() {
        tokio::spawn({
            let traces = Arc::clone(&traces);
            async move { traces.flush_every(TRACES_EVERY, &SystemClock).await }
        });
        service = service.with_tracer(traces);
    }
    let service = Arc::new(service);
    let consumer = Consumer::new(Workplace { service, engine: Arc::clone(&engine) as _, pool: arguments.pool, worker });
    let running = consumer.clone();
    let mut consuming = tokio::spawn(async move { running.run().await });
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        // Unasked, it ends only when the engine has died; whoever supervises this process starts another.
        ended = &mut consuming => {
            ended?;
            return Err("the engine has died".into());
        }
    }
    tracing::info!(running = consumer.running(), "worker drains");
    consumer.drain();
    let until = tokio::time::Instant::now() + Duration::from_secs(arguments.drain_seconds);
    while consumer.running() > 0 && tokio::time::Instant::now() < until {
        consumer.wait_for_change().await;
    }
    tokio::task::spawn_blocking(move || engine.stop()).await?;
    consuming.await?;
    if let Some(traces) = traces {
        traces.flush().await;
    }
    tracing::info!(calls = ?aws.calls().snapshot(), "worker has drained");
    Ok(())
}

async fn connect(config: &Config) -> Arc<Aws> {
    let timeouts = if config.endpoint.is_some() { Timeouts::patient() } else { Timeouts::default() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Arc::new(Aws::connect(Names::from(config), timeouts, config.endpoint.as_deref(), clock).await)
}

/// Writes down what the pool's model is and measures, so that the front door can estimate and offer it.
async fn announce(ports: &Ports, pool: &PoolId, engine: &AnyEngine) -> Result<(), Box<dyn std::error::Error>> {
    let info = engine.info();
    let known = ports.control.pools().await?.into_iter().find(|known| known.id == *pool);
    let base = known.clone().unwrap_or_else(|| Pool {
        usual_output_tokens: 256.min(info.context_length / 2),
        ..Pool::new(pool.clone(), &info.model, info.context_length, ports.clock.now())
    });
    let record = Pool {
        model: info.model.clone(),
        context_length: info.context_length,
        tokens_per_byte: info.tokens_per_byte,
        kind: info.kind,
        ..base
    };
    if known.as_ref() != Some(&record) {
        ports.control.put_pool(&record).await?;
    }
    Ok(())
}
