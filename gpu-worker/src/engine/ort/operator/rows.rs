//! Attention over a cache of rows.
//!
//! Takes the place of `com.microsoft:GroupQueryAttention` with the inputs, outputs and attributes that the exporter
//! gives it: queries, keys and values packed into one tensor or apart; the cache in single precision, which goes in and
//! out as the same memory; each row's last position; rotary positions or none. What it cannot do (windows, soft caps,
//! biases, sinks) makes the session refuse to load, and the graph is then run as it was exported.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int32};

use super::attributes::Attributes;
use super::instructions::{Instructions, Piece};
use super::tokens::Tokens;
use super::{given, is_given, output, refuse, sizes};
use crate::engine::attention::{self, LANES, Rotary, Scratch, Shape};

/// Groups of queries that one piece of work computes; more would leave other threads without work.
const PIECE: usize = 16;

/// What is understood with this value only.
const USUAL: [(&str, i64); 5] = [
    ("local_window_size", -1),
    ("rotary_interleaved", 0),
    ("smooth_softmax", 0),
    ("qk_output", 0),
    ("kv_cache_bit_width", 0),
];

/// The operator.
pub(super) struct GroupQueryAttention;

impl Operator for GroupQueryAttention {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        "GroupQueryAttention"
    }

    fn versions(&self) -> RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let float = OperatorInput::optional(Float32);
        [
            OperatorInput::required(Float32), // queries, or everything packed
            float,                            // keys
            OperatorInput::optional(Float32), // values
            OperatorInput::optional(Float32), // the cache of keys
            OperatorInput::optional(Float32), // the cache of values
            OperatorInput::optional(Int32),   // each row's last position
            OperatorInput::optional(Int32),   // the longest row
            OperatorInput::optional(Float32), // cosines
            OperatorInput::optional(Float32), // sines
            // What follows, positions, a bias and sinks, must be absent: their types are those of the schema.
            OperatorInput::optional(ort::value::TensorElementType::Int64),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32), OperatorOutput::required(Float32), OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let attributes = Attributes::of(node, &USUAL)?;
        let instructions = Instructions::found();
        Ok(Box::new(move |context: &ComputeContext| run(&attributes, context, instructions)))
    }
}

fn run(attributes: &Attributes, context: &ComputeContext, instructions: Instructions) -> ort::Result<()> {
    for (place, name) in [(9, "position_ids"), (10, "attention_bias"), (11, "head_sink")] {
        if is_given(context, place)? {
            return refuse(format!("`{name}` is not supported"));
        }
    }
    let past = given(context, 3, "past_key")?;
    let &[rows, kv_heads, capacity, head] = sizes(&past)?.as_slice() else {
        return refuse("the cache has not four dimensions");
    };
    if kv_heads != attributes.kv_heads || head % LANES != 0 || head == 0 || capacity % LANES != 0 {
        return refuse(format!("rows of {capacity} tokens and heads of {head} numbers are not supported"));
    }
    let packed = given(context, 0, "query")?;
    let width = sizes(&packed)?.get(1).copied().unwrap_or(0);
    let given_apart =
        if is_given(context, 1)? { Some((given(context, 1, "key")?, given(context, 2, "value")?)) } else { None };
    let tokens = Tokens {
        queries: packed.try_extract_tensor()?.1,
        keys: given_apart.as_ref().map(|(keys, _)| keys.try_extract_tensor()).transpose()?.map(|(_, keys)| keys),
        values: given_apart.as_ref().map(|(_, values)| values.try_extract_tensor()).transpose()?.map(|(_, v)| v),
        heads: attributes.heads,
        kv_heads,
        head,
    };
    tokens.check(rows * width)?;
    let ends = given(context, 5, "seqlens_k")?;
    let ends: Vec<usize> =
        ends.try_extract_tensor::<i32>()?.1.iter().map(|&end| usize::try_from(end).unwrap_or(usize::MAX)).collect();
    let begins: Vec<usize> = ends.iter().map(|&end| end.wrapping_add(1).wrapping_sub(width)).collect();
    if begins.len() != rows || begins.iter().zip(&ends).any(|(&begin, &end)| begin > end || end >= capacity) {
        return refuse(format!("rows that end at {ends:?} do not fit into {capacity} tokens"));
    }
    let tables =
        if attributes.rotary { Some((given(context, 7, "cos_cache")?, given(context, 8, "sin_cache")?)) } else { None };
    let rotary = match &tables {
        None => None,
        Some((cos, sin)) => {
            let half = sizes(cos)?.get(1).copied().unwrap_or(0);
            let rotary = Rotary { cos: cos.try_extract_tensor()?.1, sin: sin.try_extract_tensor()?.1, half };
            if half * 2 > head || half == 0 || ends.iter().any(|&end| end >= rotary.positions()) {
                return refuse(format!("a row is longer than the {} positions of the model", rotary.positions()));
            }
            Some(rotary)
        }
    };
    let shape = attributes.shape(head);
    let cache = [rows, kv_heads, capacity, head];
    let mut present_keys = output(context, 1, &cache)?;
    let mut present_values = output(context, 2, &cache)?;
    // Looked at before anything is written: the slice is gone by then.
    let memory = past.try_extract_tensor::<f32>()?.1.as_ptr();
    let mut out = output(context, 0, &[rows, width, attributes.heads * head])?;
    let (_, keys) = present_keys.try_extract_tensor_mut::<f32>()?;
    if keys.as_ptr() != memory {
        return refuse("the cache must go in and out as the same memory");
    }
    let (_, values) = present_values.try_extract_tensor_mut::<f32>()?;
    let (_, out) = out.try_extract_tensor_mut::<f32>()?;
    let job = Job { shape, tokens, rotary, begins: &begins, width, capacity, instructions };
    job.append(keys, values);
    job.attend(context, keys, values, out)
}

/// One call of the operator.
struct Job<'t> {
    shape: Shape,
    tokens: Tokens<'t, f32>,
    rotary: Option<Rotary<'t>>,
    /// The position of each row's first new token.
    begins: &'t [usize],
    /// New tokens of a row.
    width: usize,
    /// Tokens that a row can hold.
    capacity: usize,
    instructions: Instructions,
}

impl Job<'_> {
    /// Writes the new tokens' keys, turned, and values to where they belong.
    fn append(&self, keys: &mut [f32], values: &mut [f32]) {
        let Shape { kv_heads, head, .. } = self.shape;
        let mut turned = Vec::with_capacity(head);
        for (row, &begin) in self.begins.iter().enumerate() {
            for place in 0..self.width {
                for kv_head in 0..kv_heads {
                    let (key, value) = self.tokens.pair(row * self.width + place, kv_head);
                    let (from, position) = ((row * kv_heads + kv_head) * self.capacity * head, begin + place);
                    values[from + position * head..][..head].copy_from_slice(value);
                    turned.clear();
                    turned.extend_from_slice(key);
                    if let Some(rotary) = &self.rotary {
                        rotary.turn(&mut turned, position);
                    }
                    attention::put_key(&mut keys[from..], head, position, &turned);
                }
            }
        }
    }

    /// Computes every group's answers, in pieces that threads share.
    fn attend(&self, context: &ComputeContext, keys: &[f32], values: &[f32], out: &mut [f32]) -> ort::Result<()> {
        let Shape { kv_heads, head, group, .. } = self.shape;
        // In the order of `out`: rows, tokens, groups. Each piece of work takes the answers that are its own.
        let answers: Vec<Mutex<&mut [f32]>> = out.chunks_mut(group * head * PIECE).map(Mutex::new).collect();
        let work = |piece: usize| {
            let mut answers = answers[piece].lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = Scratch::default();
            let mut queries = Vec::with_capacity(group * head);
            for (place, answer) in answers.chunks_exact_mut(group * head).enumerate() {
                let at = piece * PIECE + place;
                let (token, kv_head) = (at / kv_heads, at % kv_heads);
                let (row, position) = (token / self.width, self.begins[token / self.width] + token % self.width);
                queries.clear();
                queries.extend_from_slice(self.tokens.queries(token, kv_head));
                if let Some(rotary) = &self.rotary {
                    queries.chunks_exact_mut(head).for_each(|query| rotary.turn(query, position));
                }
                let from = (row * kv_heads + kv_head) * self.capacity * head;
                let piece =
                    Piece { shape: self.shape, tokens: position + 1, keys: &keys[from..], values: &values[from..] };
                self.instructions.compute(&piece, &queries, answer, &mut scratch);
            }
        };
        context.par_for(answers.len(), 0, work)
    }
}
