//! Attention over a pool of blocks.
//!
//! Takes the place of `com.microsoft:PagedAttention`, which ONNX Runtime has for GPUs only, with the inputs, outputs and
//! attributes that the exporter gives it: the tokens of all sequences one after another, where each begins, how many it
//! has already, and its table of blocks; pools in half or single precision, which go in and out as the same memory. What it
//! cannot do (windows, soft caps, sinks, other places for new tokens, normalised or quantised keys) is refused.

use std::marker::PhantomData;
use std::ops::{Range, RangeInclusive};
use std::sync::{Mutex, PoisonError};

use half::f16;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{self, Float16, Float32, Int32};
use ort::value::{PrimitiveTensorElementType, ValueRef};

use super::attributes::Attributes;
use super::instructions::{Instructions, Piece};
use super::tokens::Tokens;
use super::{given, is_given, output, refuse, sizes};
use crate::engine::attention::{LANES, Rotary, Scratch, Shape};
use crate::engine::paged_attention::{Number, PoolShape, Seen};

/// Tokens of a sequence that one piece of work computes for one head. More share what is gathered for them; fewer leave
/// work for other threads.
const PIECE: usize = 64;

/// What is understood with this value only.
const USUAL: [(&str, i64); 5] =
    [("local_window_size", -1), ("rotary_interleaved", 0), ("is_causal", 1), ("v_head_size", 0), ("rotary_offset", 0)];

/// Inputs that must be absent, by their place.
const ABSENT: [(usize, &str); 6] = [
    (10, "slot_mapping"),
    (11, "head_sink"),
    (12, "q_norm_weight"),
    (13, "k_norm_weight"),
    (14, "k_scale"),
    (15, "v_scale"),
];

/// The operator, for pools of `T`.
pub(super) struct PagedAttention<T>(PhantomData<T>);

impl<T> PagedAttention<T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

/// Numbers that ONNX Runtime's tensors and our attention both know.
pub(super) trait Element: Number + PrimitiveTensorElementType {
    const TYPE: TensorElementType;
}

impl Element for f16 {
    const TYPE: TensorElementType = Float16;
}

impl Element for f32 {
    const TYPE: TensorElementType = Float32;
}

impl<T: Element> Operator for PagedAttention<T> {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        "PagedAttention"
    }

    fn versions(&self) -> RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let (number, maybe) = (OperatorInput::required, OperatorInput::optional);
        [
            number(T::TYPE), // queries, or everything packed
            maybe(T::TYPE),  // keys
            maybe(T::TYPE),  // values
            number(T::TYPE), // the pool of keys
            number(T::TYPE), // the pool of values
            number(Int32),   // where each sequence begins and ends among the tokens
            number(Int32),   // how many tokens each has already
            number(Int32),   // the tables
            maybe(T::TYPE),  // cosines
            maybe(T::TYPE),  // sines
            // What follows must be absent, but for the last, which bounds the lengths and says nothing new here.
            maybe(Int32),
            maybe(T::TYPE),
            maybe(T::TYPE),
            maybe(T::TYPE),
            maybe(Float32),
            maybe(Float32),
            maybe(Int32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        std::iter::repeat_with(|| OperatorOutput::required(T::TYPE)).take(3)
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let attributes = Attributes::of(node, &USUAL)?;
        let instructions = Instructions::found();
        Ok(Box::new(move |context: &ComputeContext| run::<T>(&attributes, context, instructions)))
    }
}

fn run<T: Element>(attributes: &Attributes, context: &ComputeContext, instructions: Instructions) -> ort::Result<()> {
    for (place, name) in ABSENT {
        if is_given(context, place)? {
            return refuse(format!("`{name}` is not supported"));
        }
    }
    let pool_in = given(context, 3, "key_cache")?;
    let &[blocks, block_tokens, kv_heads, head] = sizes(&pool_in)?.as_slice() else {
        return refuse("the pool has not four dimensions");
    };
    if kv_heads != attributes.kv_heads || head % LANES != 0 || head == 0 || block_tokens == 0 {
        return refuse(format!("blocks of {block_tokens} tokens and heads of {head} numbers are not supported"));
    }
    let pool = PoolShape { blocks, block_tokens, kv_heads, head };
    let packed = given(context, 0, "query")?;
    let all = sizes(&packed)?.first().copied().unwrap_or(0);
    let sequences = Sequences::read(context, all, &pool)?;
    let apart =
        if is_given(context, 1)? { Some((given(context, 1, "key")?, given(context, 2, "value")?)) } else { None };
    let tokens = Tokens::<T> {
        queries: packed.try_extract_tensor()?.1,
        keys: apart.as_ref().map(|(keys, _)| keys.try_extract_tensor()).transpose()?.map(|(_, keys)| keys),
        values: apart.as_ref().map(|(_, values)| values.try_extract_tensor()).transpose()?.map(|(_, values)| values),
        heads: attributes.heads,
        kv_heads,
        head,
    };
    tokens.check(all)?;
    let tables =
        if attributes.rotary { Some((given(context, 8, "cos_cache")?, given(context, 9, "sin_cache")?)) } else { None };
    let turns = tables.as_ref().map(|(cos, sin)| Turns::<T>::of(cos, sin, head)).transpose()?;
    if turns.as_ref().is_some_and(|turns| turns.positions() < sequences.longest()) {
        return refuse("a sequence is longer than the positions of the model");
    }
    let shape = [blocks, block_tokens, kv_heads, head];
    let mut keys_out = output(context, 1, &shape)?;
    let mut values_out = output(context, 2, &shape)?;
    // Looked at before anything is written: the slices are gone by then.
    let memory = [pool_in.try_extract_tensor::<T>()?.1.as_ptr(), pool_of_values::<T>(context)?];
    let mut out = output(context, 0, &[all, attributes.heads * head])?;
    let (_, keys) = keys_out.try_extract_tensor_mut::<T>()?;
    let (_, values) = values_out.try_extract_tensor_mut::<T>()?;
    if [keys.as_ptr(), values.as_ptr()] != memory {
        return refuse("the pools must go in and out as the same memory");
    }
    let (_, out) = out.try_extract_tensor_mut::<T>()?;
    let job = Job { shape: attributes.shape(head), pool, tokens, turns, sequences: &sequences.0, instructions };
    job.append(keys, values);
    job.attend(context, (keys, values), out)
}

fn pool_of_values<T: Element>(context: &ComputeContext) -> ort::Result<*const T> {
    Ok(given(context, 4, "value_cache")?.try_extract_tensor::<T>()?.1.as_ptr())
}

/// A sequence's part of a call.
struct Sequence {
    /// Its new tokens among those of the call.
    tokens: Range<usize>,
    /// How many it has already.
    past: usize,
    /// Its table.
    blocks: Vec<usize>,
}

impl Sequence {
    /// The position of one of its new tokens.
    fn position(&self, token: usize) -> usize {
        self.past + token - self.tokens.start
    }
}

struct Sequences(Vec<Sequence>);

impl Sequences {
    /// Reads the sequences of a call of `all` tokens, and makes sure that their tables hold them.
    fn read(context: &ComputeContext, all: usize, pool: &PoolShape) -> ort::Result<Self> {
        let [ends, past, tables] =
            [(5, "cumulative_sequence_length"), (6, "past_seqlens"), (7, "block_table")].map(|(place, name)| {
                let value = given(context, place, name)?;
                let numbers = value.try_extract_tensor::<i32>()?.1.iter().map(|&number| usize::try_from(number));
                // Padding of a table is negative; it lies behind what is looked at.
                Ok::<Vec<usize>, ort::Error>(numbers.map(|number| number.unwrap_or(usize::MAX)).collect())
            });
        let (ends, past, tables) = (ends?, past?, tables?);
        if ends.len() != past.len() + 1 || ends.first() != Some(&0) || ends.last() != Some(&all) {
            return refuse(format!("{} sequences do not end at {ends:?} of {all} tokens", past.len()));
        }
        let width = tables.len() / past.len().max(1);
        let mut sequences = Vec::with_capacity(past.len());
        for (place, (bounds, &past)) in ends.windows(2).zip(&past).enumerate() {
            let &[begin, end] = bounds else { continue };
            if begin > end || end > all {
                return refuse(format!("the sequences end at {ends:?} of {all} tokens"));
            }
            let tokens = past.saturating_add(end - begin);
            let table = &tables[place * width..][..width];
            let blocks = table[..tokens.div_ceil(pool.block_tokens).min(width)].to_vec();
            if !pool.holds(&blocks, tokens) {
                return refuse(format!("the blocks {blocks:?} of {} do not hold {tokens} tokens", pool.blocks));
            }
            sequences.push(Sequence { tokens: begin..end, past, blocks });
        }
        Ok(Self(sequences))
    }

    /// The tokens of the longest, the new ones included.
    fn longest(&self) -> usize {
        self.0.iter().map(|sequence| sequence.past + sequence.tokens.len()).max().unwrap_or(0)
    }
}

/// Cosines and sines by position, in the graph's precision.
struct Turns<'t, T> {
    cos: &'t [T],
    sin: &'t [T],
    half: usize,
}

impl<'t, T: Element> Turns<'t, T> {
    fn of(cos: &'t ValueRef<'_>, sin: &'t ValueRef<'_>, head: usize) -> ort::Result<Self> {
        let half = sizes(cos)?.get(1).copied().unwrap_or(0);
        if half * 2 > head || half == 0 {
            return refuse(format!("heads of {head} numbers are not turned by {half} angles"));
        }
        Ok(Self { cos: cos.try_extract_tensor()?.1, sin: sin.try_extract_tensor()?.1, half })
    }

    fn positions(&self) -> usize {
        self.cos.len().min(self.sin.len()) / self.half
    }

    /// Turns heads of the token at `position`.
    fn turn<'h>(&self, heads: impl Iterator<Item = &'h mut [f32]>, position: usize) {
        let wide = |table: &[T]| -> Vec<f32> {
            table[position * self.half..][..self.half].iter().map(|number| number.wide()).collect()
        };
        let (cos, sin) = (wide(self.cos), wide(self.sin));
        let rotary = Rotary { cos: &cos, sin: &sin, half: self.half };
        heads.for_each(|head| rotary.turn(head, 0));
    }
}

/// One call of the operator.
struct Job<'t, T> {
    shape: Shape,
    pool: PoolShape,
    tokens: Tokens<'t, T>,
    turns: Option<Turns<'t, T>>,
    sequences: &'t [Sequence],
    instructions: Instructions,
}

impl<T: Element> Job<'_, T> {
    /// Writes the new tokens' keys, turned, and values to where they belong.
    fn append(&self, keys: &mut [T], values: &mut [T]) {
        let Shape { kv_heads, head, .. } = self.shape;
        let mut turned = vec![0.0; kv_heads * head];
        for sequence in self.sequences {
            for token in sequence.tokens.clone() {
                let position = sequence.position(token);
                for (kv_head, turned) in turned.chunks_exact_mut(head).enumerate() {
                    let (key, _) = self.tokens.pair(token, kv_head);
                    turned.iter_mut().zip(key).for_each(|(wide, number)| *wide = number.wide());
                }
                if let Some(turns) = &self.turns {
                    turns.turn(turned.chunks_exact_mut(head), position);
                }
                for (kv_head, turned) in turned.chunks_exact(head).enumerate() {
                    let at = self.pool.place(&sequence.blocks, position, kv_head);
                    keys[at..][..head].iter_mut().zip(turned).for_each(|(key, &number)| *key = T::nearest(number));
                    values[at..][..head].copy_from_slice(self.tokens.pair(token, kv_head).1);
                }
            }
        }
    }

    /// Computes every group's answers, in pieces that threads share.
    fn attend(&self, context: &ComputeContext, pools: (&[T], &[T]), out: &mut [T]) -> ort::Result<()> {
        let Shape { kv_heads, head, group, .. } = self.shape;
        // In the order of `out`: tokens, groups. Each piece of work takes the answers that are its own.
        let answers: Vec<Mutex<&mut [T]>> = out.chunks_mut(group * head).map(Mutex::new).collect();
        let pieces: Vec<(&Sequence, Range<usize>, usize)> = self
            .sequences
            .iter()
            .flat_map(|sequence| {
                let Range { start, end } = sequence.tokens.clone();
                let parts = (start..end).step_by(PIECE).map(move |from| from..(from + PIECE).min(end));
                parts.flat_map(move |part| (0..kv_heads).map(move |kv_head| (sequence, part.clone(), kv_head)))
            })
            .collect();
        let work = |piece: usize| {
            let (sequence, tokens, kv_head) = &pieces[piece];
            let mut seen = Seen::default();
            let last = sequence.position(tokens.end - 1);
            seen.gather(&self.pool, pools, &sequence.blocks, *kv_head, last + 1);
            let mut scratch = Scratch::default();
            let (mut queries, mut wide) = (Vec::with_capacity(group * head), vec![0.0; group * head]);
            for token in tokens.clone() {
                let position = sequence.position(token);
                queries.clear();
                queries.extend(self.tokens.queries(token, *kv_head).iter().map(|number| number.wide()));
                if let Some(turns) = &self.turns {
                    turns.turn(queries.chunks_exact_mut(head), position);
                }
                let piece = Piece { shape: self.shape, tokens: position + 1, keys: &seen.keys, values: &seen.values };
                self.instructions.compute(&piece, &queries, &mut wide, &mut scratch);
                let mut answer = answers[token * kv_heads + kv_head].lock().unwrap_or_else(PoisonError::into_inner);
                answer.iter_mut().zip(&wide).for_each(|(number, &wide)| *number = T::nearest(wide));
            }
        };
        context.par_for(pieces.len(), 0, work)
    }
}
