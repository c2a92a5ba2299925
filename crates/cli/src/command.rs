//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use penstock_gpu_worker::engine::device::Device;

use crate::batch_command::BatchCommand;
use crate::local_fleet::Range;
use crate::models::command::ModelCommand;
use crate::simulate_command::Simulate;
use crate::tenant_command::{Place, TenantCommand, parse_time};
use crate::upstream::UpstreamArgs;

/// An inference service that queues instead of refusing: OpenAI-style HTTP in front, durable queues in the middle,
/// continuous batching on ONNX Runtime behind.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine: HTTP server, queues on SQLite, workers on ONNX Runtime.
    ///
    /// The first start fetches ONNX Runtime with pip (once, checksummed, into the user's cache) and unpacks the small
    /// model that comes with the program. Stop it with Ctrl-C: running answers are finished, waiting ones stay queued
    /// and are answered after the next start.
    Up(Up),
    /// Ask one question and print the answer.
    ///
    /// Uses the server that `penstock up` has running; without one, starts everything in this process for the length
    /// of the question.
    #[command(after_help = "Example: penstock ask \"R:38291=\"   (the built-in model reverses digits: 19283)")]
    Ask(Ask),
    /// Add models from a hub or a folder, list and remove them.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Add tenants, set what they may use, make and revoke their keys, see what they used.
    ///
    /// Works on the server that `penstock up` has running, on its data folder while none runs, and with --aws (in builds
    /// with the feature `aws`) on the tables of a deployment, as your AWS credentials allow.
    #[command(after_help = "Examples:
  penstock tenant add acme --requests 600 --tokens 200000 --budget 25/month
  penstock tenant key new acme --label ci         (shows the key once)
  penstock tenant key revoke acme 9f86d081 --after 24h
  penstock tenant usage acme --from 2026-11-01")]
    Tenant(TenantCommand),
    /// Send files of requests to be answered within hours, watch them, fetch the answers.
    #[command(after_help = "Examples:
  penstock batch submit requests.jsonl --window 4h --watch
  penstock batch get batch_01JDQ2... --output answers.jsonl --errors errors.jsonl")]
    Batch(BatchCommand),
    /// Tell why a request went as it did: admission, limits, waiting, claims, tokens, charge.
    #[command(after_help = "Example: penstock explain 01JDQ2...   (the id is in an answer's x-penstock-job-id header)")]
    Explain(Explain),
    /// Show how the pools stand, or close one for a time.
    ///
    /// Works on the server that `penstock up` has running and, with --aws (in builds with the feature `aws`), on a
    /// deployment. What was accepted before is still answered.
    #[command(after_help = "Examples:
  penstock breaker
  penstock breaker my-model --fallbacks --for 15m   (other pools, upstreams, the configured text)
  penstock breaker my-model --refuse --for 1h
  penstock breaker my-model --clear")]
    Breaker(Breaker),
    /// Show what the fleet of a pool did in the last hour and why, tick by tick.
    ///
    /// Works on the server that `penstock up` has running and, with --aws (in builds with the feature `aws`), on a
    /// deployment.
    #[command(after_help = "Examples:
  penstock fleet my-model
  penstock fleet my-model --record ticks.jsonl    (then: penstock simulate replay ticks.jsonl)")]
    Fleet(FleetArgs),
    /// Simulate whole requests, or forecasts, fleets and spot markets alone, by the code that runs, beside what others would
    /// have done.
    Simulate(Box<Simulate>),
}

/// `penstock breaker`.
#[derive(Debug, Args)]
pub(crate) struct Breaker {
    /// The pool; default: all are shown.
    #[arg(required_if_eq_any([("refuse", "true"), ("fallbacks", "true"), ("clear", "true")]))]
    pub(crate) pool: Option<String>,
    /// Refuse everything.
    #[arg(long, group = "order", requires = "time")]
    pub(crate) refuse: bool,
    /// Answer everything by the pool's fallbacks.
    #[arg(long, group = "order", requires = "time")]
    pub(crate) fallbacks: bool,
    /// Go by evidence again.
    #[arg(long, group = "order", conflicts_with = "time")]
    pub(crate) clear: bool,
    /// For how long, such as 15m or 2h; 30 days at most.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time, requires = "order")]
    pub(crate) time: Option<Duration>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `penstock fleet`.
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// The pool.
    pub(crate) pool: String,
    /// Write every tick with all that its plan was made from, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Where the engine's parts are.
#[derive(Clone, Debug, Args)]
pub(crate) struct EngineArgs {
    /// A model by the name it was added with (`penstock model list`), or a model folder: of onnxruntime-genai, or an
    /// encoder's (config.json, tokenizer.json, model.onnx) for embeddings; may be given several times. Default: the small
    /// built-in model.
    #[arg(long = "model", value_name = "NAME|DIR")]
    pub(crate) models: Vec<PathBuf>,
    /// The ONNX Runtime shared library to use (1.24 or newer). Default: an installed one, else one fetched with pip.
    #[arg(long, value_name = "PATH", env = "PENSTOCK_ORT")]
    pub(crate) ort: Option<PathBuf>,
    /// Sequences that one worker runs together. Default: as many as its warm-up finds best.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: Option<u32>,
    /// How long an encoder waits for more texts to run together with those it has, in milliseconds. Requests of service
    /// tier `priority` never wait for company.
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) window_ms: u64,
    /// What to compute on: cpu, cuda, cuda:1, or the UUID of a GPU or of a slice of one (`nvidia-smi -L`).
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: Device,
    /// Threads that one worker computes with. Default: the machine's cores shared between the workers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: Option<u32>,
}

/// `penstock up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,
    /// Workers for each model; 0 starts the front door alone.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) workers: u32,
    /// Start and end workers of each model as the load asks for, within MIN..MAX (such as 0..4). It begins with one at
    /// least, to measure the model. With 0 as MIN a request that finds nobody waits for a worker's start, which its
    /// promise includes. What was done and why: `penstock fleet`.
    #[arg(long, value_name = "MIN..MAX", conflicts_with = "workers")]
    pub(crate) autoscale: Option<Range>,
    /// With --autoscale: how long less must have been needed before a worker goes.
    #[arg(long, default_value = "15m", value_name = "TIME", value_parser = parse_time)]
    pub(crate) calm: Duration,
    /// The port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8700, value_name = "N")]
    pub(crate) port: u16,
    /// The data folder: queues, jobs, keys. Default: the user's data folder.
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    pub(crate) data: Option<PathBuf>,
    /// Keep everything in memory; nothing is left after the stop.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Make each commit survive a power cut too (slower); without it commits survive the death of the process.
    #[arg(long, conflicts_with = "ephemeral")]
    pub(crate) fsync: bool,
    /// A JSON file with a list of issuers whose signed tokens (JWT) are taken in the place of API keys; the README
    /// describes its fields.
    #[arg(long, value_name = "FILE")]
    pub(crate) issuers: Option<PathBuf>,
    /// Questions to answer before anybody asks: a file of JSON lines, each the body of a chat request. Whoever sends
    /// exactly the same body is given the prepared answer.
    #[arg(long, value_name = "FILE")]
    pub(crate) prepared: Option<PathBuf>,
    /// Send traces to this collector by OTLP over HTTP, such as http://127.0.0.1:4318. A request that brings a `traceparent`
    /// is traced as it says.
    #[arg(long, value_name = "URL", env = "PENSTOCK_OTLP_ENDPOINT")]
    pub(crate) otlp: Option<String>,
    /// The share of other requests to trace, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "otlp", value_parser = parse_share)]
    pub(crate) trace_share: f64,
    /// Write {"url", "api_key", "models", "pid"} to this file (mode 0600) once requests can be served.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

/// `penstock explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The job's id.
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `penstock ask`.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The question.
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// The model to ask; default: the server's first.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The data folder of the server to ask.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The server to ask, such as http://127.0.0.1:8700; needs --api-key.
    #[arg(long, value_name = "URL", requires = "api_key")]
    pub(crate) url: Option<String>,
    /// The key for --url.
    #[arg(long, value_name = "KEY", env = "PENSTOCK_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// The most tokens of the answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 takes the likeliest token always.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub(crate) temperature: f32,
    /// Print the whole answer as JSON instead of its text.
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1, such as 0.05".to_owned())
}
