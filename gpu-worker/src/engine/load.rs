//! Loads a model folder into an engine that is warm, measured and ready for its first request.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use penstock_policy::batch::{self, InvalidConfig};
use penstock_policy::window;
use penstock_service::ports::{EngineInfo, PoolKind};

use super::decoder::{Cancel, ChosenTokens, Decoder, DecoderFault};
use super::device::Device;
use super::digest::Quantized;
use super::encoder::folder::EncoderError;
use super::encoder::load::{EncoderFault, EncoderGraphError};
use super::graph_bytes::{Weights, reads_faster_in_single_precision};
use super::intake::Intake;
use super::memory::{CachePlan, Shortage};
use super::model::{ModelConfig, ModelError, ModelFolder};
use super::ort::{
    Driver, DriverError, Kernels, LibraryError, Padding, PagedOptions, Reading, SlotOptions, environment,
};
use super::scheduler::Scheduler;
use super::warmup::{Warm, warm_up};
use super::watchdog::Limits;

/// Prompt tokens in one call. Larger chunks gain nothing once the matrix products are saturated, and a cancelled
/// prompt is noticed between chunks only.
const CHUNK_TOKENS: u32 = 512;

/// Rows to allocate where their number is left to the engine.
const MOST_SLOTS: u32 = 24;

/// Rows of a pool of blocks, of which a row takes only what it holds: those that do not run keep prompts for reuse.
const ROWS_OVER_BLOCKS: u32 = 64;

/// How often in a row a shorter prompt may go before the oldest one.
const OVERTAKES: u32 = 4;

/// What to load and how to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The model folder, in onnxruntime-genai's layout.
    pub model_dir: PathBuf,
    /// ONNX Runtime's shared library, 1.24 or newer.
    pub library: PathBuf,
    /// The name clients call the model by; `None`: the folder's.
    pub model: Option<String>,
    /// Sequences that run together; `None`: as many as the warm-up finds best, and fit into memory.
    pub slots: Option<NonZeroU32>,
    /// What it runs on.
    pub device: Device,
    /// Threads for one operator. One is right for small models; more than the physical cores never is.
    pub threads: NonZeroU32,
    /// The most tokens of prompt and answer together; `None`: what the model was made for. A smaller context takes
    /// less memory per slot.
    pub max_context: Option<NonZeroU32>,
    /// Tokens of a round: a bound on how long running answers wait while prompts are read. At least three more than
    /// `slots`.
    pub step_tokens: u32,
    /// Whether an answer must not depend on its neighbours and on being taken over.
    pub reproducibility: Reproducibility,
    /// Whose attention computes, on a processor.
    pub kernels: Kernels,
    /// How long an encoder waits for more texts to run together with those it has.
    pub window: Duration,
    /// The most tokens of an encoder's call, padding included; fewer if they do not fit into memory or would take long.
    pub call_tokens: NonZeroU32,
}

/// The usual window of an encoder.
pub const WINDOW: Duration = Duration::from_millis(100);

/// The usual bound of an encoder's call: more tokens are read no faster, on processors at least.
const CALL_TOKENS: NonZeroU32 = NonZeroU32::MIN.saturating_add(8191);

/// Whether an answer may depend on what happens to run beside it, and on how often it changed hands.
///
/// ONNX Runtime computes one token by other kernels than several, in matrix products with 4-bit weights as well as in its
/// own attention, and their last bits differ; a near tie between two tokens may then go the other way. Our attention does
/// not, and neither do products in single precision or with 8-bit weights on x86.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reproducibility {
    /// It may not: an answer that another worker continues is, bit for bit, the answer the first would have given. Where
    /// kernels differ, the inherited tokens go through the model one at a time again, beside whatever else decodes, which
    /// takes as long as they took the first time; and calls with 4-bit weights have two rows at least.
    #[default]
    Exact,
    /// It may, in the last bits of the logits. Inherited tokens are read with the prompt, in a fraction of the time.
    BestEffort,
}

impl EngineConfig {
    /// As many slots as are best, one thread, the model's own context, 512 tokens a round, exact, our attention.
    #[must_use]
    pub fn new(model_dir: impl Into<PathBuf>, library: impl Into<PathBuf>) -> Self {
        Self {
            model_dir: model_dir.into(),
            library: library.into(),
            model: None,
            slots: None,
            device: Device::Cpu,
            threads: NonZeroU32::MIN,
            max_context: None,
            step_tokens: 512,
            reproducibility: Reproducibility::Exact,
            kernels: Kernels::Ours,
            window: WINDOW,
            call_tokens: CALL_TOKENS,
        }
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> String {
        let folder = || {
            let folder = self.model_dir.canonicalize().ok()?;
            Some(folder.file_name()?.to_string_lossy().into_owned())
        };
        self.model.clone().or_else(folder).unwrap_or_else(|| "model".to_owned())
    }
}

/// Why an engine cannot be started. Every case needs somebody to change something; trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration contradicts itself.
    #[error("`step_tokens`: {0}")]
    Bounds(InvalidConfig),
    /// ONNX Runtime is not available.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The folder is not usable.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The graph is not usable, or does not fit.
    #[error("{}: {source}", graph.display())]
    Graph {
        /// The graph's file.
        graph: PathBuf,
        /// Why.
        source: DriverError,
    },
    /// The model fails on its first tokens.
    #[error("the model does not run: {0}")]
    WarmUp(#[source] DecoderFault),
    /// The window of an encoder lets nothing run.
    #[error("`call_tokens`: {0}")]
    Window(window::InvalidConfig),
    /// An encoder's folder is not usable.
    #[error(transparent)]
    EncoderFolder(#[from] EncoderError),
    /// An encoder's graph is not usable, or does not fit.
    #[error("{}: {source}", graph.display())]
    EncoderGraph {
        /// The graph's file.
        graph: PathBuf,
        /// Why.
        source: EncoderGraphError,
    },
    /// An encoder fails on its first texts.
    #[error(transparent)]
    Encoder(EncoderFault),
    /// The system gives no thread.
    #[error("cannot start the engine's threads: {0}")]
    Thread(#[source] std::io::Error),
}

/// An engine's parts, before its threads run.
pub struct Loaded {
    /// What it is.
    pub info: EngineInfo,
    pub(super) intake: Intake,
    /// What the cache takes.
    pub cache: CachePlan,
    /// How the weights are written.
    pub weights: Weights,
    /// The configuration of the folder.
    pub config: ModelConfig,
    /// Empty and warm.
    pub scheduler: Scheduler<Box<dyn Decoder>>,
    pub(super) cancel: Cancel,
    pub(super) limits: Limits,
}

/// Reads, checks, warms up and measures. Takes from tens of milliseconds to seconds, by the size of the weights.
///
/// # Errors
/// [`LoadError`], saying which file, field or setting is wrong.
pub fn load(config: &EngineConfig) -> Result<Loaded, LoadError> {
    let rows = config.slots.map_or(MOST_SLOTS, NonZeroU32::get);
    let bounds_for = |rows: u32| batch::Config::new(rows, config.step_tokens, CHUNK_TOKENS, OVERTAKES);
    let bounds = bounds_for(rows).map_err(LoadError::Bounds)?;
    let environment = environment(&config.library)?;
    let folder = ModelFolder::open(&config.model_dir)?;
    let context_length = context_length(&folder, config);
    let reading = match &config.device {
        Device::Cpu if reads_faster_in_single_precision() => Reading::InSinglePrecision,
        Device::Cpu | Device::Cuda(_) => Reading::AsExported,
    };
    let options = SlotOptions {
        slots: rows as usize,
        on_shortage: if config.slots.is_some() { Shortage::Refuse } else { Shortage::FewerSlots },
        capacity: context_length as usize,
        threads: config.threads.get() as usize,
        padding: match (config.reproducibility, folder.digest.quantized()) {
            (Reproducibility::Exact, Quantized::FourBit) => Padding::TwoRows,
            (Reproducibility::Exact | Reproducibility::BestEffort, Quantized::No | Quantized::FourBit) => Padding::None,
        },
        device: config.device.clone(),
        reading,
        kernels: config.kernels,
    };
    let blocks = PagedOptions {
        rows: config.slots.map_or(ROWS_OVER_BLOCKS, NonZeroU32::get) as usize,
        blocks: None,
        capacity: context_length as usize,
        threads: config.threads.get() as usize,
        device: config.device.clone(),
    };
    let padding = options.padding;
    let driver = Driver::load(&environment, &folder.graph, &folder.config, options, blocks)
        .map_err(|source| LoadError::Graph { graph: folder.graph.clone(), source })?;
    let (mut decoder, cache, reads_as_it_decodes, bounds): (Box<dyn Decoder>, CachePlan, bool, batch::Config) =
        match driver {
            Driver::Slots(decoder) => {
                let as_decoded = decoder.reads_as_it_decodes();
                let plan = decoder.plan();
                (decoder, plan, as_decoded, bounds)
            }
            Driver::Blocks(decoder) => {
                let as_decoded = decoder.reads_as_it_decodes() && folder.digest.quantized() == Quantized::No;
                let rows = u32::try_from(decoder.slots()).unwrap_or(u32::MAX);
                let plan = decoder.plan();
                (decoder, plan, as_decoded, bounds_for(rows).map_err(LoadError::Bounds)?)
            }
        };
    let chosen = match config.reproducibility {
        Reproducibility::Exact if !reads_as_it_decodes => ChosenTokens::Apart,
        Reproducibility::Exact | Reproducibility::BestEffort => ChosenTokens::LikeRead,
    };
    let warm = warm_up(&mut *decoder, config.slots).map_err(LoadError::WarmUp)?;
    let Warm { slots, tokens_per_second, longest_call } = warm;
    let info = EngineInfo {
        model: config.name(),
        kind: PoolKind::Generation,
        digest: folder.digest.to_string(),
        context_length,
        slots,
        tokens_per_second,
        tokens_per_byte: folder.tokenizer.tokens_per_byte(),
    };
    tracing::info!(
        model = %info.model, digest = %folder.digest.short(), slots, context_length, tokens_per_second,
        tokens_per_byte = info.tokens_per_byte, ?padding, ?chosen, calls = ?decoder.calls(), "the engine is warm"
    );
    let (config, weights) = (folder.config.clone(), Weights::of_file(&folder.graph));
    Ok(Loaded {
        info,
        cache,
        weights,
        config,
        intake: Intake::new(folder, context_length, chosen),
        cancel: decoder.cancel(),
        limits: Limits::for_longest(longest_call),
        scheduler: Scheduler::new(decoder, bounds, chosen).with_slots(slots as usize),
    })
}

/// What the model was made for, or less if the configuration says so; at least a token of prompt and one of answer.
fn context_length(folder: &ModelFolder, config: &EngineConfig) -> u32 {
    let made_for = u32::try_from(folder.config.context_length).unwrap_or(u32::MAX);
    config.max_context.map_or(made_for, |most| made_for.min(most.get())).max(2)
}
