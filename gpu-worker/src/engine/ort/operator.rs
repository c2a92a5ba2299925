//! Our attention ([`crate::engine::attention`]) as an operator that a graph can name.
//!
//! Takes the place of `com.microsoft:GroupQueryAttention` with the inputs, outputs and attributes that the exporter
//! gives it: queries, keys and values packed into one tensor or apart; the cache in single precision, which goes in and
//! out as the same memory; each row's last position; rotary positions or none. What it cannot do (windows, soft caps,
//! biases, sinks) makes the session refuse to load, and the graph is then run as it was exported.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType::{Float32, Int32};
use ort::value::ValueRef;

use crate::engine::attention::{self, LANES, Rotary, Scratch, Shape};
use crate::engine::graph_bytes::OUR_DOMAIN;

/// Groups of queries that one piece of work computes; more would leave other threads without work.
const PIECE: usize = 16;

/// The domain with the operator.
///
/// # Errors
/// ONNX Runtime's.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(OUR_DOMAIN)?.add(GroupQueryAttention)
}

/// Whether this processor has the instructions that make it worth while.
pub(super) fn is_supported() -> bool {
    Instructions::found() != Instructions::Slow
}

/// The instructions to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Those of every processor of this kind, fused products among them.
    #[cfg(target_arch = "aarch64")]
    Base,
    /// Products cannot be fused: that would be computed digit by digit.
    Slow,
}

impl Instructions {
    #[cfg(target_arch = "x86_64")]
    fn found() -> Self {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Slow
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn found() -> Self {
        Self::Base
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn found() -> Self {
        Self::Slow
    }

    /// Computes a piece with these instructions.
    fn compute(self, piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        match self {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function for certain instructions may run only where they are")]
            // SAFETY: `found` has seen them.
            Self::Avx512 => unsafe { compute_avx512(piece, queries, out, scratch) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function for certain instructions may run only where they are")]
            // SAFETY: `found` has seen them.
            Self::Avx2 => unsafe { compute_avx2(piece, queries, out, scratch) },
            #[cfg(target_arch = "aarch64")]
            Self::Base => compute(piece, queries, out, scratch),
            Self::Slow => compute(piece, queries, out, scratch),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn compute_avx512(piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    compute(piece, queries, out, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn compute_avx2(piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    compute(piece, queries, out, scratch);
}

/// What the queries of one token and group of heads look at.
struct Piece<'c> {
    shape: Shape,
    tokens: usize,
    keys: &'c [f32],
    values: &'c [f32],
}

#[inline(always)]
fn compute(piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    attention::attend(&piece.shape, piece.tokens, queries, piece.keys, piece.values, out, scratch);
}

/// The operator.
struct GroupQueryAttention;

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
        let attributes = Attributes::of(node)?;
        let instructions = Instructions::found();
        Ok(Box::new(move |context: &ComputeContext| attributes.run(context, instructions)))
    }
}

/// What the node says of itself.
#[derive(Clone, Copy, Debug)]
struct Attributes {
    heads: usize,
    kv_heads: usize,
    scale: Option<f32>,
    rotary: bool,
}

fn refuse<T>(what: impl Into<String>) -> ort::Result<T> {
    Err(ort::Error::new(what.into()))
}

impl Attributes {
    fn of(node: &KernelContext<'_>) -> ort::Result<Self> {
        let whole = |name: &str, absent: i64| node.get::<i64>(name).unwrap_or(absent);
        let count = |name: &str| usize::try_from(whole(name, 0)).unwrap_or(0);
        let (heads, kv_heads) = (count("num_heads"), count("kv_num_heads"));
        if kv_heads == 0 || heads % kv_heads != 0 {
            return refuse(format!("{heads} heads do not share {kv_heads} heads of keys and values"));
        }
        for (name, usual) in [
            ("local_window_size", -1),
            ("rotary_interleaved", 0),
            ("smooth_softmax", 0),
            ("qk_output", 0),
            ("kv_cache_bit_width", 0),
        ] {
            if whole(name, usual) != usual {
                return refuse(format!("`{name}` is not supported"));
            }
        }
        if node.get::<f32>("softcap").unwrap_or(0.0) != 0.0 {
            return refuse("`softcap` is not supported");
        }
        let scale = node.get::<f32>("scale").filter(|scale| *scale != 0.0);
        Ok(Self { heads, kv_heads, scale, rotary: whole("do_rotary", 0) == 1 })
    }

    fn run(&self, context: &ComputeContext, instructions: Instructions) -> ort::Result<()> {
        for (place, name) in [(9, "position_ids"), (10, "attention_bias"), (11, "head_sink")] {
            if is_given(context, place)? {
                return refuse(format!("`{name}` is not supported"));
            }
        }
        let past = given(context, 3, "past_key")?;
        let &[rows, kv_heads, capacity, head] = sizes(&past)?.as_slice() else {
            return refuse("the cache has not four dimensions");
        };
        if kv_heads != self.kv_heads || head % LANES != 0 || head == 0 || capacity % LANES != 0 {
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
            heads: self.heads,
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
            if self.rotary { Some((given(context, 7, "cos_cache")?, given(context, 8, "sin_cache")?)) } else { None };
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
        let shape = Shape {
            group: self.heads / kv_heads,
            kv_heads,
            head,
            #[expect(clippy::cast_precision_loss, reason = "heads have a few hundred numbers at most")]
            scale: self.scale.unwrap_or_else(|| 1.0 / (head as f32).sqrt()),
        };
        let cache = [rows, kv_heads, capacity, head];
        let mut present_keys = output(context, 1, &cache)?;
        let mut present_values = output(context, 2, &cache)?;
        // Looked at before anything is written: the slice is gone by then.
        let memory = past.try_extract_tensor::<f32>()?.1.as_ptr();
        let mut out = output(context, 0, &[rows, width, self.heads * head])?;
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
}

/// The new tokens' queries, keys and values.
struct Tokens<'t> {
    queries: &'t [f32],
    keys: Option<&'t [f32]>,
    values: Option<&'t [f32]>,
    heads: usize,
    kv_heads: usize,
    head: usize,
}

impl<'t> Tokens<'t> {
    fn check(&self, tokens: usize) -> ort::Result<()> {
        let Self { heads, kv_heads, head, .. } = *self;
        let packed = if self.keys.is_some() { heads } else { heads + 2 * kv_heads };
        let apart = tokens * kv_heads * head;
        if self.queries.len() != tokens * packed * head
            || self.keys.is_some_and(|keys| keys.len() != apart)
            || self.values.is_some() != self.keys.is_some()
            || self.values.is_some_and(|values| values.len() != apart)
        {
            return refuse("queries, keys and values do not fit together");
        }
        Ok(())
    }

    /// The queries of a group of heads of a token.
    fn queries(&self, token: usize, group: usize) -> &'t [f32] {
        let Self { heads, kv_heads, head, .. } = *self;
        let stride = if self.keys.is_some() { heads } else { heads + 2 * kv_heads } * head;
        let size = heads / kv_heads * head;
        &self.queries[token * stride + group * size..][..size]
    }

    /// The key and the value of a token.
    fn pair(&self, token: usize, kv_head: usize) -> (&'t [f32], &'t [f32]) {
        let Self { heads, kv_heads, head, .. } = *self;
        match (self.keys, self.values) {
            (Some(keys), Some(values)) => {
                let at = (token * kv_heads + kv_head) * head;
                (&keys[at..][..head], &values[at..][..head])
            }
            _ => {
                let start = token * (heads + 2 * kv_heads) * head + heads * head;
                let key = start + kv_head * head;
                (&self.queries[key..][..head], &self.queries[key + kv_heads * head..][..head])
            }
        }
    }
}

/// One call of the operator.
struct Job<'t> {
    shape: Shape,
    tokens: Tokens<'t>,
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

fn is_given(context: &ComputeContext, place: usize) -> ort::Result<bool> {
    Ok(context.input(place)?.is_some())
}

fn given<'c>(context: &'c ComputeContext, place: usize, name: &str) -> ort::Result<ValueRef<'c>> {
    context.input(place)?.ok_or_else(|| ort::Error::new(format!("`{name}` is missing")))
}

fn output<'c>(context: &'c ComputeContext, place: usize, shape: &[usize]) -> ort::Result<ort::value::ValueRefMut<'c>> {
    let shape: Vec<i64> = shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
    context.output(place, shape)?.ok_or_else(|| ort::Error::new("an output is missing"))
}

fn sizes(value: &ValueRef<'_>) -> ort::Result<Vec<usize>> {
    value.shape().iter().map(|&size| usize::try_from(size).map_err(|_| ort::Error::new("a negative size"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instructions_give_the_same_bits() {
        let (head, group, tokens) = (48, 5, 37);
        let shape = Shape { group, kv_heads: 1, head, scale: 0.2 };
        let number = |place: usize| f32::from(u16::try_from(place * 7_919 % 1_000).unwrap()) / 500.0 - 1.0;
        let keys: Vec<f32> = (0..48 * head).map(number).collect();
        let values: Vec<f32> = (7..7 + tokens * head).map(number).collect();
        let queries: Vec<f32> = (3..3 + group * head).map(number).collect();
        let piece = Piece { shape, tokens, keys: &keys, values: &values };
        let with = |instructions: Instructions| {
            let mut out = vec![0.0; group * head];
            instructions.compute(&piece, &queries, &mut out, &mut Scratch::default());
            out.iter().map(|number| number.to_bits()).collect::<Vec<_>>()
        };
        let plain = with(Instructions::Slow);
        assert_eq!(with(Instructions::found()), plain);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert_eq!(with(Instructions::Avx2), plain);
        }
    }
}
