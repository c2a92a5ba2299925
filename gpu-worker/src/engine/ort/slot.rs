//! Runs a `GroupQueryAttention` graph over a cache of rows that is allocated once and updated in place.
//!
//! Each layer has one tensor of keys and one of values, `[rows, heads, capacity, head size]`. A call gets a part of it,
//! `first..first + n`, as the cache before the call *and* as the cache after it: the operator then writes the new
//! tokens where they belong, and nothing is copied or allocated. Rows are contiguous, so a part is an offset. Decoding
//! binds rows `0..n`; reading a prompt binds its row alone. What a row holds beyond its length is never read, since the
//! attention mask gives each row its length; the memory needs no clearing.
//!
//! **Padding.** With 4-bit weights ONNX Runtime multiplies one row by another kernel than several, and rounds
//! differently; an answer would then depend on who happens to run beside it. So calls with a single token are padded to
//! two rows. The padding row writes one token into its row's first unused position, which whatever that row holds will
//! overwrite or never read; one spare row behind the last serves when every slot is taken.
//!
//! **Two sessions.** Where that is faster, prompts are read by a session of their own ([`crate::engine::graph_bytes`]).
//!
//! Edge cases: graphs give logits of every position or of the last only, both are understood; a mask wider than a
//! row's length is legal; several rows with several tokens and a past are refused by the operator, so a call has one
//! row or one token per row.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::NoSelectedOutputs;
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynValue, Tensor};

use super::cache::Cache;
use super::error::DriverError;
use super::logits::tell;
use super::session::{Kernels, Opened, Source, cancel, describe, folder, open, open_best, resume};
use crate::engine::attention::LANES;
use crate::engine::decoder::{Cancel, Decoder, DecoderFault, OnLogits};
use crate::engine::device::Device;
use crate::engine::graph_bytes;
use crate::engine::memory::{self, CachePlan, CacheShape, Shortage};
use crate::engine::model::{ModelConfig, Names};

/// How large the cache is and how the graph runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotOptions {
    /// Sequences that run together; at least 1.
    pub slots: usize,
    /// What to do if so many do not fit into memory.
    pub on_shortage: Shortage,
    /// Tokens of a row; at least 2.
    pub capacity: usize,
    /// Threads for one operator; at least 1.
    pub threads: usize,
    /// Whether calls of a single token get a second row.
    pub padding: Padding,
    /// What it runs on.
    pub device: Device,
    /// How prompts are read.
    pub reading: Reading,
    /// Whose attention computes.
    pub kernels: Kernels,
}

/// Whether calls of a single token get a second row, so that results do not depend on the neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// They do; for graphs with 4-bit weights.
    TwoRows,
    /// They do not.
    None,
}

/// How products with 4-bit weights are computed while a prompt is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As the graph says.
    AsExported,
    /// In single precision, by a second session; as the graph says if it has no such products.
    InSinglePrecision,
}

/// A model and its cache.
pub struct SlotDecoder {
    // Runners have bindings that hold views into `cache`, so they come first: fields are dropped in order.
    decoding: Runner,
    reading: Option<Runner>,
    cache: Cache,
    plan: CachePlan,
    kernels: Kernels,
    logits: MemoryInfo<'static>,
    config: ModelConfig,
    options: SlotOptions,
    run: Arc<RunOptions<NoSelectedOutputs>>,
    /// Tokens that each row holds; the spare row included.
    lengths: Vec<usize>,
    /// Half precision logits are widened here.
    widened: Vec<f32>,
}

/// A session and what its inputs and outputs are bound to.
struct Runner {
    /// By first row and number of rows.
    bindings: BTreeMap<(usize, usize), IoBinding>,
    session: Session,
}

/// One call: the rows `first..first + lengths.len()`.
struct Call<'t> {
    first: usize,
    /// Row by row, the same number for each.
    tokens: &'t [u32],
    /// Tokens that each row will hold, the new ones included.
    lengths: Vec<usize>,
    /// Rows whose logits are wanted; the rest is padding.
    wanted: usize,
}

impl SlotDecoder {
    /// Opens the graph, checks it against `config` and allocates the cache.
    ///
    /// # Errors
    /// [`DriverError`]: the graph cannot be run, contradicts its configuration, or needs more memory than there is.
    pub fn load(
        environment: &Environment,
        graph: &Path,
        config: &ModelConfig,
        options: SlotOptions,
    ) -> Result<Self, DriverError> {
        let opened = open_best(environment, graph, &options.device, options.threads, options.kernels)?;
        Self::with(environment, opened, graph, config, options)
    }

    /// The same with a session that is open.
    pub(super) fn with(
        environment: &Environment,
        Opened { session, ours }: Opened,
        graph: &Path,
        config: &ModelConfig,
        options: SlotOptions,
    ) -> Result<Self, DriverError> {
        let SlotOptions { slots, capacity, threads, ref device, .. } = options;
        let elements = describe(&session).check(config)?;
        let shape = CacheShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_size: config.head_size,
            element_bytes: elements.kv.bytes(),
            // Our attention keeps keys in blocks of so many tokens.
            context_length: capacity.next_multiple_of(LANES),
        };
        let kernels = if ours.is_some() { Kernels::Ours } else { Kernels::AsExported };
        let reading = match options.reading {
            Reading::AsExported => None,
            Reading::InSinglePrecision => {
                let mut bytes = ours.map_or_else(|| std::fs::read(graph).map_err(DriverError::Unreadable), Ok)?;
                if graph_bytes::read_in_single_precision(&mut bytes) {
                    Some(open(environment, Source::Edited { bytes: &bytes, folder: folder(graph) }, device, threads)?)
                } else {
                    None
                }
            }
        };
        // After the weights: what they took is not available any more.
        let available = memory::available(device);
        let slots = shape.fit(slots, available, options.on_shortage)?;
        let cache = Cache::new(&session, device, elements.kv, shape, slots)?;
        let runner = |session| Runner { bindings: BTreeMap::new(), session };
        Ok(Self {
            decoding: runner(session),
            reading: reading.map(runner),
            cache,
            plan: shape.plan(capacity, available),
            kernels,
            logits: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?,
            config: config.clone(),
            run: Arc::new(RunOptions::new()?),
            lengths: vec![0; slots + 1],
            widened: Vec::new(),
            options: SlotOptions { slots, ..options },
        })
    }

    /// What the cache takes.
    #[must_use]
    pub fn plan(&self) -> CachePlan {
        self.plan
    }

    /// Whether the cache and the logits are the same, to the last bit, whether tokens are read together or put in one at a
    /// time. Our attention gives that; so do ONNX Runtime's matrix products on x86, as `tests/identity.rs` shows for all
    /// precisions, unless prompts are read by other products than answers.
    #[must_use]
    pub fn reads_as_it_decodes(&self) -> bool {
        self.kernels == Kernels::Ours && self.reading.is_none() && cfg!(target_arch = "x86_64")
    }

    /// Makes a call, and records the new lengths of the wanted rows if it succeeds.
    fn call(&mut self, call: &Call<'_>, logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        let rows = call.first..call.first + call.lengths.len();
        let fault = |what: String, spoiled: Range<usize>| Err(DecoderFault { what, spoiled });
        if rows.end > self.lengths.len() || call.lengths.iter().any(|&length| length > self.options.capacity) {
            return fault(format!("rows {rows:?} cannot take {:?} tokens", call.lengths), rows);
        }
        if let Err(error) = self.run(call, logits) {
            return fault(format!("ONNX Runtime: {error}"), rows);
        }
        for (row, &length) in rows.zip(&call.lengths).take(call.wanted) {
            self.lengths[row] = length;
        }
        Ok(())
    }

    fn run(&mut self, call: &Call<'_>, logits: OnLogits<'_>) -> ort::Result<()> {
        let rows = call.lengths.len();
        let width = call.tokens.len() / rows;
        let runner = match &mut self.reading {
            Some(reading) if width > 1 => reading,
            Some(_) | None => &mut self.decoding,
        };
        // Taken out for the call, so that a binding whose call failed is not used again.
        let mut binding = match runner.bindings.remove(&(call.first, rows)) {
            Some(binding) => binding,
            None => bind(&runner.session, &mut self.cache, &self.config, call.first, rows)?,
        };
        let ids: Vec<i64> = call.tokens.iter().map(|&id| i64::from(id)).collect();
        let total = call.lengths.iter().copied().max().unwrap_or(0);
        let mask: Vec<i64> =
            call.lengths.iter().flat_map(|&length| (0..total).map(move |token| i64::from(token < length))).collect();
        let names = &self.config.names;
        binding.bind_input(&names.input_ids, &Tensor::from_array(([rows, width], ids))?)?;
        binding.bind_input(&names.attention_mask, &Tensor::from_array(([rows, total], mask))?)?;
        // Bound anew for each call: its shape changes, and ONNX Runtime would insist on the last one's.
        binding.bind_output_to_device(&names.logits, &self.logits)?;
        {
            let outputs = runner.session.run_binding_with_options(&binding, &self.run)?;
            let output = &outputs[names.logits.as_str()];
            report(output, call, self.config.vocab_size, &mut self.widened, logits)?;
        }
        runner.bindings.insert((call.first, rows), binding);
        Ok(())
    }

    /// Keeps a row whose contents are undefined from being used: a length that no row can have makes the next call with
    /// it a fault.
    fn spoil(&mut self, moved: ort::Result<()>, rows: &[usize]) {
        if let Err(error) = moved {
            tracing::error!(%error, ?rows, "rows could not be moved");
            rows.iter().for_each(|&row| self.lengths[row] = usize::MAX / 2);
        }
    }
}

/// A binding of the cache's rows `first..first + rows`, as what goes in and what comes out.
fn bind(
    session: &Session,
    cache: &mut Cache,
    config: &ModelConfig,
    first: usize,
    rows: usize,
) -> ort::Result<IoBinding> {
    let mut binding = session.create_binding()?;
    let names = &config.names;
    for layer in 0..config.layers {
        let sides = [(&names.past_key, &names.present_key), (&names.past_value, &names.present_value)];
        for (side, (past, present)) in sides.into_iter().enumerate() {
            let mut shared = cache.part(2 * layer + side, first, rows)?;
            binding.bind_input(Names::of_layer(past, layer), &shared)?;
            binding.bind_output(Names::of_layer(present, layer), &mut shared)?;
        }
    }
    Ok(binding)
}

impl Decoder for SlotDecoder {
    fn slots(&self) -> usize {
        self.options.slots
    }

    fn capacity(&self) -> usize {
        self.options.capacity
    }

    fn prefill(&mut self, row: usize, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        let length = self.lengths[row].saturating_add(tokens.len());
        match (tokens, self.options.padding) {
            (&[token], Padding::TwoRows) => {
                let call = Call {
                    first: row,
                    tokens: &[token, 0],
                    lengths: vec![length, self.lengths[row + 1] + 1],
                    wanted: 1,
                };
                self.call(&call, logits)
            }
            (_, Padding::TwoRows | Padding::None) => {
                let call = Call { first: row, tokens, lengths: vec![length], wanted: 1 };
                self.call(&call, logits)
            }
        }
    }

    fn decode(&mut self, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        if let &[token] = tokens {
            return self.prefill(0, &[token], logits);
        }
        let call = Call {
            first: 0,
            tokens,
            lengths: self.lengths.iter().take(tokens.len()).map(|length| length + 1).collect(),
            wanted: tokens.len(),
        };
        self.call(&call, logits)
    }

    fn cut(&mut self, row: usize, tokens: usize) {
        self.lengths[row] = self.lengths[row].min(tokens);
    }

    fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        let copied = self.cache.copy(from, to, tokens);
        self.lengths[to] = tokens;
        self.spoil(copied, &[to]);
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        let swapped = self.cache.swap(a, b, self.lengths[a].max(self.lengths[b]));
        self.lengths.swap(a, b);
        self.spoil(swapped, &[a, b]);
    }

    fn cancel(&self) -> Cancel {
        cancel(&self.run)
    }

    fn resume(&mut self) {
        resume(&self.run);
    }
}

/// Gives the logits of each wanted row's last position.
fn report(
    output: &DynValue,
    call: &Call<'_>,
    vocab_size: usize,
    widened: &mut Vec<f32>,
    logits: OnLogits<'_>,
) -> ort::Result<()> {
    let wrong = |shape: &[i64]| ort::Error::new(format!("the logits have the unexpected shape {shape:?}"));
    let shape = output.shape().to_vec();
    let &[rows, positions, vocabulary] = shape.as_slice() else {
        return Err(wrong(&shape));
    };
    let sizes = [rows, positions, vocabulary].map(|size| usize::try_from(size).unwrap_or(0));
    if sizes[0] != call.lengths.len() || sizes[1] == 0 || sizes[2] != vocab_size {
        return Err(wrong(&shape));
    }
    let last = |row: usize| (row * sizes[1] + sizes[1] - 1) * vocab_size..(row * sizes[1] + sizes[1]) * vocab_size;
    tell((0..call.wanted).map(|row| (row, last(row))), output, widened, logits)
}
