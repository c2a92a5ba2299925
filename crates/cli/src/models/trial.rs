//! Models loaded to be looked at, not served: what `check` and `compare` have in common.

use std::io::Read;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::Args;
use penstock_gpu_worker::engine::EngineConfig;
use penstock_gpu_worker::engine::device::Device;
use penstock_gpu_worker::engine::graph_bytes::Weights;
use penstock_gpu_worker::engine::memory;
use penstock_gpu_worker::engine::trial::{Answers, Rates, Trial};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::onnx_runtime;
use crate::progress;

/// Where a model on trial runs.
#[derive(Clone, Debug, Args)]
pub(crate) struct TrialArgs {
    /// The ONNX Runtime shared library to use (1.24 or newer). Default: an installed one, else one fetched with pip.
    #[arg(long, value_name = "PATH", env = "PENSTOCK_ORT")]
    pub(crate) ort: Option<PathBuf>,
    /// What to compute on: cpu, cuda, cuda:1, or the UUID of a GPU or of a slice of one (`nvidia-smi -L`).
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: Device,
    /// Threads to compute with. Default: the machine's cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: Option<u32>,
    /// Sequences to run together. Default: as many as the warm-up finds best.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: Option<u32>,
}

impl TrialArgs {
    /// How to load the model of a folder.
    pub(crate) fn config(&self, folder: &Path, name: &str) -> Result<EngineConfig, CliError> {
        let library = onnx_runtime::locate(self.ort.as_deref(), progress)?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        let mut config = EngineConfig::new(folder, library);
        config.model = Some(name.to_owned());
        config.device = self.device.clone();
        config.slots = self.slots.and_then(NonZeroU32::new);
        config.threads = NonZeroU32::new(self.threads.unwrap_or(cores)).unwrap_or(NonZeroU32::MIN);
        Ok(config)
    }
}

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Speed {
    /// Of a prompt.
    pub(crate) prompt: f64,
    /// Of one answer alone.
    pub(crate) alone: f64,
    /// Of all slots together.
    pub(crate) together: f64,
}

impl From<Rates> for Speed {
    fn from(Rates { prompt, alone, together }: Rates) -> Self {
        Self { prompt, alone, together }
    }
}

/// How a graph's weights are written, in words.
pub(crate) fn written(weights: Weights, number_bytes: usize) -> String {
    let full = if number_bytes == 2 { "half precision" } else { "single precision" };
    match weights {
        Weights { four_bit: 0, eight_bit: 0 } => full.to_owned(),
        Weights { four_bit, eight_bit: 0 } => format!("4-bit ({four_bit} products), the rest in {full}"),
        Weights { four_bit: 0, eight_bit } => format!("8-bit ({eight_bit} products), the rest in {full}"),
        Weights { four_bit, eight_bit } => {
            format!("4-bit ({four_bit} products) and 8-bit ({eight_bit}), the rest in {full}")
        }
    }
}

/// What a trial in a process of its own is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Users' messages.
    pub(crate) messages: Vec<String>,
    /// The most tokens of an answer.
    pub(crate) most: u32,
    /// Answers of another model, to go along.
    pub(crate) along: Option<Vec<Vec<u32>>>,
}

/// What it found out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) digest: String,
    pub(crate) weights: String,
    pub(crate) slots: u32,
    pub(crate) load_ms: u64,
    /// After the answers, where the system tells.
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) tokens_per_second: Speed,
    pub(crate) prompt_tokens: u64,
    pub(crate) answers: Vec<Vec<u32>>,
    pub(crate) texts: Vec<String>,
    pub(crate) answered_in_ms: u64,
    pub(crate) along: Option<Vec<Vec<u32>>>,
}

/// Tries a model as the question on standard input says, and prints what it found out: a process for each model, so that
/// the memory it holds is its own.
pub(crate) fn run(folder: &Path, arguments: &TrialArgs) -> Result<(), CliError> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(CliError::file("reading", "standard input"))?;
    let Question { messages, most, along } = serde_json::from_str(&text).map_err(CliError::Unreadable)?;
    let mut trial = Trial::load(&arguments.config(folder, "trial")?)?;
    let Answers { tokens, texts, prompt_tokens, took } = trial.answers(&messages, most)?;
    let resident_bytes = memory::resident();
    let findings = Findings {
        digest: trial.info.digest.clone(),
        weights: written(trial.weights, trial.cache.number_bytes),
        slots: trial.info.slots,
        load_ms: ms(trial.load),
        resident_bytes,
        tokens_per_second: Speed { prompt: 0.0, alone: 0.0, together: 0.0 },
        prompt_tokens,
        answers: tokens,
        texts,
        answered_in_ms: ms(took),
        along: None,
    };
    let mut bare = trial.bare();
    let along = along.map(|along| bare.likeliest_along(&messages, &along)).transpose()?;
    let findings = Findings { along, tokens_per_second: bare.rates()?.into(), ..findings };
    super::show(true, &findings, String::new)
}

pub(crate) fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
