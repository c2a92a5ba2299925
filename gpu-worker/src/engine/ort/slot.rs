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
//! Edge cases: graphs give logits of every position or of the last only, both are understood; a mask wider than a
//! row's length is legal; several rows with several tokens and a past are refused by the operator, so a call has one
//! row or one token per row.

use std::collections::BTreeMap;
use std::ops::Range;

use half::f16;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, DynValue, Tensor, TensorElementType};

use super::session::{describe, open};
use super::view::view;
use crate::engine::decoder::{Decoder, DecoderFault, OnLogits};
use crate::engine::graph::{Element, GraphError};
use crate::engine::memory::{self, CacheShape, CacheTooLarge};
use crate::engine::model::{ModelConfig, Names};

/// How large the cache is and how the graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOptions {
    /// Sequences that run together; at least 1.
    pub slots: usize,
    /// Tokens of a row; at least 2.
    pub capacity: usize,
    /// Threads for one operator; at least 1.
    pub threads: usize,
    /// Whether calls of a single token get a second row.
    pub padding: Padding,
}

/// Whether calls of a single token get a second row, so that results do not depend on the neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// They do; for graphs with 4-bit weights.
    TwoRows,
    /// They do not.
    None,
}

/// Why a graph cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// ONNX Runtime refuses the graph or the allocation.
    #[error("ONNX Runtime cannot load the model: {0}")]
    Runtime(#[from] ort::Error),
    /// The graph contradicts its configuration.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The cache would not fit into memory.
    #[error(transparent)]
    Memory(#[from] CacheTooLarge),
}

/// A model and its cache.
pub struct SlotDecoder {
    // Bindings hold views into `cache`, so they come first: fields are dropped in order.
    bindings: BTreeMap<(usize, usize), IoBinding>,
    cache: Vec<DynTensor>,
    session: Session,
    cpu: MemoryInfo<'static>,
    allocator: Allocator,
    config: ModelConfig,
    element: Element,
    options: SlotOptions,
    /// Tokens that each row holds; the spare row included.
    lengths: Vec<usize>,
    /// Half precision logits are widened here.
    widened: Vec<f32>,
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
    /// [`SlotError`]: the graph cannot be run, contradicts its configuration, or needs more memory than there is.
    pub fn load(
        environment: &Environment,
        graph: &std::path::Path,
        config: &ModelConfig,
        options: SlotOptions,
    ) -> Result<Self, SlotError> {
        let session = open(environment, graph, options.threads)?;
        let elements = describe(&session).check(config)?;
        let shape = CacheShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_size: config.head_size,
            element_bytes: elements.kv.bytes(),
            context_length: options.capacity,
        };
        shape.check(options.slots, memory::available())?;
        let rows = options.slots + 1;
        let allocator = Allocator::default();
        let element = match elements.kv {
            Element::F16 => TensorElementType::Float16,
            Element::F32 | Element::I64 | Element::Other => TensorElementType::Float32,
        };
        let dimensions = [rows, config.kv_heads, options.capacity, config.head_size];
        let cache = (0..2 * config.layers)
            .map(|_| DynTensor::new(&allocator, element, dimensions))
            .collect::<ort::Result<Vec<_>>>()?;
        Ok(Self {
            bindings: BTreeMap::new(),
            cache,
            session,
            cpu: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?,
            allocator,
            config: config.clone(),
            element: elements.kv,
            options,
            lengths: vec![0; rows],
            widened: Vec::new(),
        })
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
        // Taken out for the call, so that a binding whose call failed is not used again.
        let mut binding = match self.bindings.remove(&(call.first, rows)) {
            Some(binding) => binding,
            None => self.bind(call.first, rows)?,
        };
        let ids: Vec<i64> = call.tokens.iter().map(|&id| i64::from(id)).collect();
        let total = call.lengths.iter().copied().max().unwrap_or(0);
        let mask: Vec<i64> =
            call.lengths.iter().flat_map(|&length| (0..total).map(move |token| i64::from(token < length))).collect();
        let names = &self.config.names;
        let width = call.tokens.len() / rows;
        binding.bind_input(&names.input_ids, &Tensor::from_array(([rows, width], ids))?)?;
        binding.bind_input(&names.attention_mask, &Tensor::from_array(([rows, total], mask))?)?;
        // Bound anew for each call: its shape changes, and ONNX Runtime would insist on the last one's.
        binding.bind_output_to_device(&names.logits, &self.cpu)?;
        {
            let outputs = self.session.run_binding(&binding)?;
            let output = &outputs[names.logits.as_str()];
            report(output, call, self.config.vocab_size, &mut self.widened, logits)?;
        }
        self.bindings.insert((call.first, rows), binding);
        Ok(())
    }

    /// A binding of the cache's rows `first..first + rows`, as what goes in and what comes out.
    fn bind(&mut self, first: usize, rows: usize) -> ort::Result<IoBinding> {
        let mut binding = self.session.create_binding()?;
        let names = self.config.names.clone();
        for layer in 0..self.config.layers {
            let sides = [(&names.past_key, &names.present_key), (&names.past_value, &names.present_value)];
            for (side, (past, present)) in sides.into_iter().enumerate() {
                let part = first..first + rows;
                let mut shared =
                    view(&mut self.cache[2 * layer + side], part, self.element, &self.cpu, &self.allocator)?;
                binding.bind_input(Names::of_layer(past, layer), &shared)?;
                binding.bind_output(Names::of_layer(present, layer), &mut shared)?;
            }
        }
        Ok(binding)
    }
}

impl Decoder for SlotDecoder {
    fn slots(&self) -> usize {
        self.options.slots
    }

    fn capacity(&self) -> usize {
        self.options.capacity
    }

    fn prefill(&mut self, row: usize, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        let length = self.lengths[row] + tokens.len();
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
        let shape = self.shape(tokens.min(self.lengths[from]));
        self.lengths[to] = tokens;
        self.edit(&[to], |all| shape.copy(all, from, to), |all| shape.copy(all, from, to));
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        let shape = self.shape(self.lengths[a].max(self.lengths[b]));
        self.lengths.swap(a, b);
        self.edit(&[a, b], |all| shape.swap(all, a, b), |all| shape.swap(all, a, b));
    }
}

impl SlotDecoder {
    /// Where the first `tokens` tokens of a row lie.
    fn shape(&self, tokens: usize) -> RowShape {
        let ModelConfig { kv_heads, head_size, .. } = self.config;
        let capacity = self.options.capacity;
        RowShape { heads: kv_heads, head_stride: capacity * head_size, used: tokens.min(capacity) * head_size }
    }

    /// Moves numbers within every tensor of the cache, in whichever type they are.
    fn edit(&mut self, rows: &[usize], half: impl Fn(&mut [f16]), single: impl Fn(&mut [f32])) {
        for tensor in &mut self.cache {
            let edited = match self.element {
                Element::F16 => tensor.try_extract_tensor_mut::<f16>().map(|(_, all)| half(all)),
                Element::F32 | Element::I64 | Element::Other => {
                    tensor.try_extract_tensor_mut::<f32>().map(|(_, all)| single(all))
                }
            };
            if let Err(error) = edited {
                // Cannot happen, the type was read from the graph; if it did, no answer may come from a mixed row: a
                // length that no row can have makes the next call a fault.
                tracing::error!(%error, ?rows, "rows could not be moved");
                rows.iter().for_each(|&row| self.lengths[row] = usize::MAX / 2);
                return;
            }
        }
    }
}

/// Where a row's numbers lie: `heads` stretches, `head_stride` apart, of which the first `used` matter.
struct RowShape {
    heads: usize,
    head_stride: usize,
    used: usize,
}

impl RowShape {
    fn copy<T: Copy>(&self, all: &mut [T], from: usize, to: usize) {
        let row = self.heads * self.head_stride;
        for head in 0..self.heads {
            let source = from * row + head * self.head_stride;
            all.copy_within(source..source + self.used, to * row + head * self.head_stride);
        }
    }

    fn swap<T>(&self, all: &mut [T], a: usize, b: usize) {
        let (low, high) = (a.min(b), a.max(b));
        if low == high {
            return;
        }
        let row = self.heads * self.head_stride;
        let (front, back) = all.split_at_mut(high * row);
        for head in 0..self.heads {
            let from = head * self.head_stride;
            let ours = &mut front[low * row + from..][..self.used];
            ours.swap_with_slice(&mut back[from..][..self.used]);
        }
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
    if *output.data_type() == TensorElementType::Float16 {
        let (_, all) = output.try_extract_tensor::<f16>()?;
        for row in 0..call.wanted {
            widened.clear();
            widened.extend(all[last(row)].iter().map(|number| number.to_f32()));
            logits(row, widened);
        }
    } else {
        let (_, all) = output.try_extract_tensor::<f32>()?;
        (0..call.wanted).for_each(|row| logits(row, &all[last(row)]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copying_a_row_fills_the_used_part_of_every_head_and_nothing_else() {
        let mut all: Vec<i32> = (0..24).collect();
        RowShape { heads: 2, head_stride: 4, used: 3 }.copy(&mut all, 0, 2);
        assert_eq!(all[..16], (0..16).collect::<Vec<_>>());
        assert_eq!(all[16..], [0, 1, 2, 19, 4, 5, 6, 23]);
    }

    #[test]
    fn swapping_rows_exchanges_the_used_part_of_every_head_and_nothing_else() {
        // 3 rows, 2 heads, 4 tokens of 1 number; the first 2 tokens are used.
        let mut all: Vec<i32> = (0..24).collect();
        let shape = RowShape { heads: 2, head_stride: 4, used: 2 };
        shape.swap(&mut all, 2, 0);
        assert_eq!(all[..8], [16, 17, 2, 3, 20, 21, 6, 7]);
        assert_eq!(all[8..16], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(all[16..], [0, 1, 18, 19, 4, 5, 22, 23]);
        shape.swap(&mut all, 1, 1);
        shape.swap(&mut all, 0, 2);
        assert_eq!(all, (0..24).collect::<Vec<_>>());
    }
}
