//! Runs a `PagedAttention` graph over a pool of blocks that is allocated once, shared by all sequences and updated in
//! place.
//!
//! Each layer has one tensor of keys and one of values, `[blocks, 256, heads, head size]`, which every call gets whole, as
//! the cache before the call *and* as the cache after it. Which blocks are whose says a table for each row
//! ([`penstock_policy::paged`]): exchanging two rows exchanges their tables, a row that begins like another holds the same
//! blocks, and a shared block is copied when somebody writes to it. A call takes tokens of any number of rows, one after
//! another ([`crate::engine::packing`]), so that prompts are read and answers decoded together.
//!
//! On a GPU the operator is ONNX Runtime's own; on a processor, where it has none, ours.
//!
//! Edge cases: graphs give logits of every token or of those they are told, both are understood; a call that does not get
//! the blocks it needs touches nothing, and no caller that asked before ([`Decoder::give_up`]) meets that; a call that
//! fails gives back the blocks that it took.

use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ort::value::{DynValue, Tensor};
use penstock_policy::paged::{BLOCK_TOKENS, Blocks, Copy, Shortage, Table};

use super::error::DriverError;
use super::logits::tell;
use super::session::{Kernels, Opened, cancel, describe, open_best, resume};
use super::tensors::{Stretches, Tensors};
use crate::engine::decoder::{Calls, Cancel, Decoder, DecoderFault, Growth, Logits, OnLogits, Part};
use crate::engine::device::Device;
use crate::engine::graph_blocks::{BlockGraph, GivenLogits};
use crate::engine::memory::{self, CachePlan, CacheShape};
use crate::engine::model::{ModelConfig, Names};
use crate::engine::packing::Packed;

/// How large the pool is and how the graph runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedOptions {
    /// Sequences that run together, or are kept for reuse; at least 1.
    pub rows: usize,
    /// Blocks of the pool, if that many fit into memory and hold a sequence of full length; `None`: as many as all rows
    /// could need.
    pub blocks: Option<usize>,
    /// Tokens of the longest sequence; at least 2.
    pub capacity: usize,
    /// Threads for one operator; at least 1.
    pub threads: usize,
    /// What it runs on.
    pub device: Device,
}

/// A model and its pool of blocks.
pub struct PagedDecoder {
    /// Holds views into `pool`, so it comes first: fields are dropped in order. `None` until the first call, and after one
    /// that failed.
    binding: Option<IoBinding>,
    session: Session,
    pool: Tensors,
    pool_shape: CacheShape,
    plan: CachePlan,
    blocks: Blocks,
    all_blocks: usize,
    /// By row.
    tables: Vec<Table>,
    graph: BlockGraph,
    logits: MemoryInfo<'static>,
    config: ModelConfig,
    options: PagedOptions,
    run: Arc<RunOptions<NoSelectedOutputs>>,
    /// Half precision logits are widened here.
    widened: Vec<f32>,
}

impl PagedDecoder {
    /// Opens the graph, checks it against `config` and allocates the pool.
    ///
    /// # Errors
    /// [`DriverError`]: the graph cannot be run, contradicts its configuration, or one whole context does not fit into
    /// memory.
    pub fn load(
        environment: &Environment,
        graph: &Path,
        config: &ModelConfig,
        options: PagedOptions,
    ) -> Result<Self, DriverError> {
        let opened = open_best(environment, graph, &options.device, options.threads, Kernels::Ours)?;
        Self::with(opened, config, options)
    }

    /// The same with a session that is open.
    pub(super) fn with(
        Opened { session, .. }: Opened,
        config: &ModelConfig,
        options: PagedOptions,
    ) -> Result<Self, DriverError> {
        let graph = describe(&session).check_blocks(config)?;
        let pool_shape = CacheShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_size: config.head_size,
            element_bytes: graph.elements.kv.bytes(),
            context_length: BLOCK_TOKENS,
        };
        let wanted = options.blocks.unwrap_or(options.rows.saturating_mul(options.capacity.div_ceil(BLOCK_TOKENS)));
        // After the weights: what they took is not available any more.
        let available = memory::available(&options.device);
        let blocks = pool_shape.blocks(wanted, options.capacity, available)?;
        let dimensions = [blocks, BLOCK_TOKENS, config.kv_heads, config.head_size];
        let pool = Tensors::new(&session, &options.device, graph.elements.kv, dimensions, 2 * config.layers)?;
        // A row without a block holds nothing.
        let rows = options.rows.clamp(1, blocks);
        Ok(Self {
            binding: None,
            session,
            pool,
            pool_shape,
            plan: pool_shape.plan(options.capacity, available),
            blocks: Blocks::new(u32::try_from(blocks).unwrap_or(u32::MAX)),
            all_blocks: blocks,
            tables: std::iter::repeat_with(Table::default).take(rows).collect(),
            graph,
            logits: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?,
            config: config.clone(),
            run: Arc::new(RunOptions::new()?),
            widened: Vec::new(),
            options: PagedOptions { rows, blocks: Some(blocks), ..options },
        })
    }

    /// What the pool takes.
    #[must_use]
    pub fn plan(&self) -> CachePlan {
        self.plan
    }

    /// Whether the cache and the logits are the same, to the last bit, whether tokens are read together or put in one at a
    /// time: so they are with our attention and products in single precision on x86, as `tests/paged.rs` shows. Products
    /// with 4-bit weights may take other kernels for one token than for several, and so do a GPU's.
    #[must_use]
    pub fn reads_as_it_decodes(&self) -> bool {
        self.options.device == Device::Cpu && cfg!(target_arch = "x86_64")
    }

    /// How many blocks nobody has.
    #[must_use]
    pub fn free_blocks(&self) -> usize {
        self.blocks.free()
    }

    /// How many blocks there are.
    #[must_use]
    pub fn all_blocks(&self) -> usize {
        self.all_blocks
    }

    /// Makes room in the tables of all parts' rows, and says which blocks to copy first.
    fn grow(&mut self, parts: &[Part<'_>]) -> Result<Vec<Copy>, String> {
        let mut copies = Vec::new();
        for &Part { row, tokens, .. } in parts {
            let Some(table) = self.tables.get_mut(row).filter(|_| !tokens.is_empty()) else {
                return Err(format!("row {row} cannot take {} tokens", tokens.len()));
            };
            if table.tokens() + tokens.len() > self.options.capacity {
                return Err(format!("row {row} cannot take {} tokens after {}", tokens.len(), table.tokens()));
            }
            let grown = self.blocks.grow(table, tokens.len());
            copies.extend(grown.map_err(|Shortage { blocks }| format!("the cache lacks {blocks} blocks"))?);
        }
        Ok(copies)
    }

    fn copy_blocks(&mut self, copies: &[Copy]) -> ort::Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let CacheShape { kv_heads, head_size, .. } = self.pool_shape;
        let block = BLOCK_TOKENS * kv_heads * head_size;
        let pairs: Vec<(usize, usize)> = copies.iter().map(|copy| (copy.from as usize, copy.to as usize)).collect();
        self.pool.copy(Stretches { count: 1, stride: block, used: block }, &pairs)
    }

    fn run(&mut self, parts: &[Part<'_>], logits: OnLogits<'_>) -> ort::Result<()> {
        let packed = Packed::new(parts, &self.tables);
        // Taken out for the call, so that a binding whose call failed is not used again.
        let mut binding = match self.binding.take() {
            Some(binding) => binding,
            None => bind(&self.session, &mut self.pool, &self.config, self.all_blocks)?,
        };
        let names = &self.config.names;
        let sequences = parts.len();
        let Packed { ids, cumulative, past, blocks, width, longest: [new, all], asked, wanted } = packed;
        let places = match self.graph.logits {
            GivenLogits::OfAll => ids.len(),
            GivenLogits::OfPlaces => asked.len(),
        };
        binding.bind_input(&names.input_ids, &Tensor::from_array(([ids.len()], ids))?)?;
        binding.bind_input(&names.block_table, &Tensor::from_array(([sequences, width], blocks))?)?;
        binding.bind_input(&names.cumulative_lengths, &Tensor::from_array(([sequences + 1], cumulative))?)?;
        binding.bind_input(&names.past_lengths, &Tensor::from_array(([sequences], past))?)?;
        if self.graph.bounds > 0 {
            let bounds: Vec<i32> = [new, all, all].into_iter().take(self.graph.bounds).collect();
            binding.bind_input(&names.length_bounds, &Tensor::from_array(([bounds.len()], bounds))?)?;
        }
        // Where in the output the logits of each part that wants them begin.
        let rows: Vec<usize> = match self.graph.logits {
            GivenLogits::OfAll => asked.iter().map(|&token| usize::try_from(token).unwrap_or(0)).collect(),
            GivenLogits::OfPlaces => (0..asked.len()).collect(),
        };
        if self.graph.logits == GivenLogits::OfPlaces {
            binding.bind_input(&names.logits_places, &Tensor::from_array(([asked.len()], asked))?)?;
        }
        // Bound anew for each call: its shape changes, and ONNX Runtime would insist on the last one's.
        binding.bind_output_to_device(&names.logits, &self.logits)?;
        {
            let outputs = self.session.run_binding_with_options(&binding, &self.run)?;
            let output = &outputs[names.logits.as_str()];
            let vocabulary = self.config.vocab_size;
            expect_shape(output, places, vocabulary)?;
            let ranges = wanted.iter().zip(rows).map(|(&part, row)| (part, row * vocabulary..(row + 1) * vocabulary));
            tell(ranges, output, &mut self.widened, logits)?;
        }
        self.binding = Some(binding);
        Ok(())
    }
}

fn expect_shape(output: &DynValue, places: usize, vocabulary: usize) -> ort::Result<()> {
    let expected = [places, vocabulary].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    if output.shape()[..] == expected {
        return Ok(());
    }
    Err(ort::Error::new(format!("the logits have the shape {:?}, not {expected:?}", output.shape())))
}

/// A binding of the whole pool, as what goes in and what comes out.
fn bind(session: &Session, pool: &mut Tensors, config: &ModelConfig, blocks: usize) -> ort::Result<IoBinding> {
    let mut binding = session.create_binding()?;
    let names = &config.names;
    for layer in 0..config.layers {
        let sides = [(&names.past_key, &names.present_key), (&names.past_value, &names.present_value)];
        for (side, (past, present)) in sides.into_iter().enumerate() {
            let mut shared = pool.part(2 * layer + side, 0..blocks)?;
            binding.bind_input(Names::of_layer(past, layer), &shared)?;
            binding.bind_output(Names::of_layer(present, layer), &mut shared)?;
        }
    }
    Ok(binding)
}

impl Decoder for PagedDecoder {
    fn slots(&self) -> usize {
        self.options.rows
    }

    fn capacity(&self) -> usize {
        self.options.capacity
    }

    fn prefill(&mut self, row: usize, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        self.append(&[Part { row, tokens, logits: Logits::Wanted }], logits)
    }

    fn decode(&mut self, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        let parts: Vec<Part<'_>> =
            tokens.chunks(1).enumerate().map(|(row, tokens)| Part { row, tokens, logits: Logits::Wanted }).collect();
        self.append(&parts, logits)
    }

    fn calls(&self) -> Calls {
        Calls::Packed
    }

    fn append(&mut self, parts: &[Part<'_>], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        let before: Vec<usize> = self.tables.iter().map(Table::tokens).collect();
        let grown = self.grow(parts);
        let called = grown.and_then(|copies| {
            let run = self.copy_blocks(&copies).and_then(|()| self.run(parts, logits));
            run.map_err(|error| format!("ONNX Runtime: {error}"))
        });
        called.map_err(|what| {
            for (row, &tokens) in before.iter().enumerate() {
                self.cut(row, tokens);
            }
            DecoderFault { what, spoiled: 0..0 }
        })
    }

    fn give_up(&self, growth: &[Growth], expendable: &[usize]) -> Result<usize, Shortage> {
        let empty = Table::default();
        let table = |row: Option<usize>| row.map_or(&empty, |row| &self.tables[row]);
        let growth: Vec<(&Table, usize)> = growth.iter().map(|&Growth { row, tokens }| (table(row), tokens)).collect();
        let expendable: Vec<&Table> = expendable.iter().map(|&row| &self.tables[row]).collect();
        self.blocks.give_up(&growth, &expendable)
    }

    fn tokens_each(&self, rows: usize) -> usize {
        (self.all_blocks / rows.max(1) * BLOCK_TOKENS).min(self.options.capacity)
    }

    fn tokens_together(&self) -> usize {
        self.all_blocks * BLOCK_TOKENS
    }

    fn cut(&mut self, row: usize, tokens: usize) {
        self.blocks.cut(&mut self.tables[row], tokens);
    }

    fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        let shared = self.blocks.share(&self.tables[from], tokens);
        self.blocks.cut(&mut self.tables[to], 0);
        self.tables[to] = shared;
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        self.tables.swap(a, b);
    }

    fn cancel(&self) -> Cancel {
        cancel(&self.run)
    }

    fn resume(&mut self) {
        resume(&self.run);
    }
}
