//! Loads an encoder's folder into a model that is warm, measured and ready for its first text.

use std::time::{Duration, Instant};

use penstock_policy::window::{self, Config};
use penstock_service::ports::{EngineInfo, PoolKind};

use super::batcher::Call;
use super::budget::{CallTooLarge, within_time};
use super::folder::EncoderFolder;
use super::graph::{Output, WiringError};
use super::intake::Intake;
use super::pooling::{Length, Pooling, finish, pool};
use crate::engine::decoder::Cancel;
use crate::engine::load::{EngineConfig, LoadError};
use crate::engine::memory;
use crate::engine::ort::{OrtEncoder, environment};
use crate::engine::watchdog::Limits;

/// Requests in hand where their number is left to the engine: enough that their texts fill a call, few enough that their
/// vectors (up to eight megabytes a request) fit beside the model.
const USUAL_SLOTS: u32 = 32;

/// The most texts of a call. More gain nothing once the products are saturated.
const MOST_ROWS: u32 = 256;

/// The length of text with which the rate is measured, where the model reads so much: about a paragraph.
const USUAL_TOKENS: u32 = 128;

/// How long the rate is measured, and how long shapes are tried at most.
const MEASURE: Duration = Duration::from_millis(300);
const TRY_SHAPES: Duration = Duration::from_secs(2);

/// Why a graph cannot be run as an encoder.
#[derive(Debug, thiserror::Error)]
pub enum EncoderGraphError {
    /// ONNX Runtime refuses it.
    #[error("ONNX Runtime cannot load the model: {0}")]
    Runtime(#[from] ort::Error),
    /// It is no encoder's.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// Its vectors have another size than the configuration says.
    #[error(
        "config.json says `hidden_size` = {config}, but the graph gives vectors of {graph}: they belong to different models"
    )]
    Size {
        /// By the configuration.
        config: usize,
        /// By the graph.
        graph: usize,
    },
    /// A call does not fit into memory.
    #[error(transparent)]
    Memory(#[from] CallTooLarge),
}

/// An encoder's parts, before its threads run.
pub(super) struct Loaded {
    pub(super) info: EngineInfo,
    pub(super) intake: Intake,
    pub(super) encoder: Encoder,
    pub(super) window: Config,
    pub(super) limits: Limits,
    pub(super) cancel: Cancel,
}

/// Reads, checks, warms up and measures.
pub(super) fn load(config: &EngineConfig) -> Result<Loaded, LoadError> {
    let environment = environment(&config.library)?;
    let folder = EncoderFolder::open(&config.model_dir)?;
    let refuse = |source| LoadError::EncoderGraph { graph: folder.graph.clone(), source };
    let context_length = config.max_context.map_or(folder.context_length, |most| most.get().min(folder.context_length));
    let threads = config.threads.get() as usize;
    let model = OrtEncoder::open(&environment, &folder.graph, &config.device, threads).map_err(refuse)?;
    let size = model.size().unwrap_or(folder.hidden_size);
    if model.kind() == Output::Tokens && size != folder.hidden_size {
        return Err(refuse(EncoderGraphError::Size { config: folder.hidden_size, graph: size }));
    }
    // After the weights: what they took is not available any more.
    let fitting = folder
        .shape
        .fit(config.call_tokens.get(), context_length, memory::available(&config.device))
        .map_err(|error| refuse(error.into()))?;
    let mut encoder = Encoder {
        model,
        size,
        context_length,
        pooling: folder.pooling,
        length: folder.length,
        padding_id: folder.padding_id,
    };
    let fault = |cause: String| LoadError::Encoder(EncoderFault(cause));
    encoder.try_shapes().map_err(fault)?;
    let lone = encoder.rate(1, Duration::ZERO).map_err(fault)?.tokens_per_second;
    let call_tokens = within_time(lone, context_length, fitting);
    let rows = (call_tokens / encoder.usual_tokens()).clamp(1, MOST_ROWS);
    let full = encoder.rate(rows, MEASURE).map_err(fault)?;
    let window = Config::new(config.window, MOST_ROWS, call_tokens).map_err(LoadError::Window)?;
    let info = EngineInfo {
        model: config.name(),
        kind: PoolKind::Embedding,
        digest: folder.digest.to_string(),
        context_length,
        slots: config.slots.map_or(USUAL_SLOTS, std::num::NonZeroU32::get),
        tokens_per_second: full.tokens_per_second,
        tokens_per_byte: folder.tokenizer.tokens_per_byte(),
    };
    tracing::info!(
        model = %info.model, digest = %folder.digest.short(), context_length, call_tokens, size,
        tokens_per_second = info.tokens_per_second, pooling = ?encoder.pooling, "the encoder is warm"
    );
    Ok(Loaded {
        intake: Intake {
            vocab_size: folder.vocab_size,
            context_length,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            shortening: folder.shortening,
            lower_case: folder.lower_case,
            prompt: folder.prompt,
            tokenizer: folder.tokenizer,
        },
        cancel: encoder.model.cancel(),
        limits: Limits::for_longest(full.longest),
        info,
        encoder,
        window,
    })
}

/// The encoder fails on its first texts.
#[derive(Debug, thiserror::Error)]
#[error("the encoder does not run: {0}")]
pub struct EncoderFault(String);

/// A model that makes vectors.
pub(super) struct Encoder {
    model: OrtEncoder,
    size: usize,
    context_length: u32,
    pooling: Pooling,
    length: Length,
    padding_id: u32,
}

/// What a measurement gave.
struct Rate {
    tokens_per_second: f64,
    longest: Duration,
}

impl Encoder {
    /// The most tokens of a text.
    pub(super) fn context_length(&self) -> u32 {
        self.context_length
    }

    /// Runs a call; gives the vectors of its rows, or says what failed.
    pub(super) fn run(&mut self, call: &Call) -> Result<Vec<Vec<f32>>, String> {
        let texts: Vec<&[u32]> = call.rows.iter().map(|row| row.ids.as_slice()).collect();
        let (size, pooling, kind) = (self.size, self.pooling, self.model.kind());
        let width = call.width as usize;
        let mut vectors = Vec::with_capacity(texts.len());
        let mut take = |row: usize, numbers: &[f32]| {
            let vector = match kind {
                Output::Texts => numbers.to_vec(),
                Output::Tokens => pool(&numbers[..call.rows[row].ids.len() * size], size, pooling),
            };
            vectors.push(vector);
        };
        self.model.run(&texts, width, self.padding_id, size, &mut take)?;
        for (vector, row) in vectors.iter_mut().zip(&call.rows) {
            finish(vector, row.dimensions, self.length);
            if vector.iter().any(|number| !number.is_finite()) {
                return Err("the model gives no numbers".to_owned());
            }
        }
        Ok(vectors)
    }

    /// Lets calls run again after one was ended.
    pub(super) fn resume(&mut self) {
        self.model.resume();
    }

    /// The first call of a shape plans its memory, which would otherwise be somebody's first text.
    fn try_shapes(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let mut tokens = 1;
        while tokens <= self.context_length && began.elapsed() < TRY_SHAPES {
            let width = window::bucket(tokens, self.context_length);
            self.run(&self.call(1, width))?;
            tokens = width + 1;
        }
        Ok(())
    }

    fn usual_tokens(&self) -> u32 {
        window::bucket(USUAL_TOKENS.min(self.context_length), self.context_length)
    }

    /// Tokens a second with `rows` texts of the usual length in a call, measured for about `time`.
    fn rate(&mut self, rows: u32, time: Duration) -> Result<Rate, String> {
        let call = self.call(rows, self.usual_tokens());
        self.run(&call)?;
        let (mut tokens, mut longest) = (0u64, Duration::ZERO);
        let started = Instant::now();
        loop {
            let began = Instant::now();
            self.run(&call)?;
            longest = longest.max(began.elapsed());
            tokens += u64::from(rows) * u64::from(call.width);
            if started.elapsed() >= time {
                break;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "no machine reads 2^53 tokens in a second")]
        let tokens = tokens as f64;
        Ok(Rate { tokens_per_second: tokens / started.elapsed().as_secs_f64().max(1e-6), longest })
    }

    fn call(&self, rows: u32, width: u32) -> Call {
        Call::of((0..rows).map(|_| vec![self.padding_id; width as usize]).collect(), width, self.size)
    }
}
