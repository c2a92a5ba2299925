//! Grouped-query attention over a cache of rows, for processors.
//!
//! The arithmetic of the operator `GroupQueryAttention` (Ainslie et al., *GQA*, 2023; rotary positions by Su et al.,
//! *RoFormer*, 2021, in halves), laid out for the shapes of continuous batching: few queries against long rows that lie
//! in place. ONNX Runtime's own kernel makes a matrix product of each head's single query and takes a third of a decoding
//! step at 200 tokens a row; this one reads each key and value once for all heads of a group, keeps keys in a layout that
//! needs no sums across ([`put_key`]), and leaves out what the causal mask hides.
//!
//! **The same numbers always.** A query's result depends on its row's tokens alone: not on its neighbours, nor on how
//! many queries are computed together, nor on the processor. Sums are in a fixed order, products are fused (`mul_add`),
//! and the exponential is written out here, so that every instruction set gives the same bits. A token
//! that is decoded therefore sees exactly what it would have seen if it had been read with a prompt.
//!
//! Plain slices in and out; [`super::ort`] makes it an operator. Everything is `inline(always)` so that callers compile
//! it for the instructions they have found.

/// Numbers that are added up side by side.
pub const LANES: usize = 16;

type Lane = [f32; LANES];

/// The shape of a model's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Heads that ask, of one group: those that share a head of keys and values.
    pub group: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head; a multiple of [`LANES`].
    pub head: usize,
    /// Scores are multiplied by it.
    pub scale: f32,
}

/// Cosines and sines by position, `half` numbers each.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'c> {
    /// Cosines.
    pub cos: &'c [f32],
    /// Sines.
    pub sin: &'c [f32],
    /// Numbers of a position: half of those that are turned.
    pub half: usize,
}

impl Rotary<'_> {
    /// How many positions there are.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cos.len().min(self.sin.len()) / self.half.max(1)
    }

    /// Turns a head by its position. The position must be one of [`Rotary::positions`].
    #[inline(always)]
    pub fn turn(&self, head: &mut [f32], position: usize) {
        let at = position * self.half..(position + 1) * self.half;
        let (low, rest) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in low.iter_mut().zip(rest).zip(&self.cos[at.clone()]).zip(&self.sin[at]) {
            let (x, y) = (*a, *b);
            *a = x.mul_add(*cos, -(y * sin));
            *b = y.mul_add(*cos, x * sin);
        }
    }
}

/// Where a head's keys lie: sixteen tokens together, number by number, so that sixteen scores are computed side by side
/// and nothing has to be added up across. A row holds a multiple of [`LANES`] tokens.
pub fn put_key(keys: &mut [f32], head: usize, position: usize, key: &[f32]) {
    let block = &mut keys[position / LANES * LANES * head..][..LANES * head];
    for (numbers, &number) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(key) {
        numbers[position % LANES] = number;
    }
}

/// Memory for one query group, used again and again.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
}

/// The answers of one group of heads to one token: softmax of its queries against `keys`, applied to `values`.
///
/// `queries` holds the group's heads one after another, turned already; the token may see the first `tokens` tokens,
/// itself included, at least one, of `keys` (as [`put_key`] lays them) and `values` (one after another); `out` takes the
/// group's heads.
#[inline(always)]
pub fn attend(
    shape: &Shape,
    tokens: usize,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let head = shape.head;
    let padded = tokens.next_multiple_of(LANES);
    let Scratch { queries: scaled, scores } = scratch;
    scaled.clear();
    scaled.extend(queries.iter().map(|number| number * shape.scale));
    scores.clear();
    scores.resize(shape.group * padded, 0.0);
    let keys = &keys[..padded * head];
    let values = &values[..tokens * head];
    // Four heads at a time, which share every key and value that is read.
    let heads = scaled.chunks(4 * head).zip(scores.chunks_mut(4 * padded)).zip(out.chunks_mut(4 * head));
    for ((queries, scores), out) in heads {
        match queries.len() / head {
            4 => several::<4>(head, tokens, queries, keys, values, out, scores),
            3 => several::<3>(head, tokens, queries, keys, values, out, scores),
            2 => several::<2>(head, tokens, queries, keys, values, out, scores),
            _ => several::<1>(head, tokens, queries, keys, values, out, scores),
        }
    }
}

/// The answers of `G` heads.
#[inline(always)]
fn several<const G: usize>(
    head: usize,
    tokens: usize,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    out: &mut [f32],
    scores: &mut [f32],
) {
    let padded = scores.len() / G;
    for (block, keys) in keys.chunks_exact(LANES * head).enumerate() {
        score::<G>(head, queries, keys, padded, &mut scores[block * LANES..]);
    }
    let mut totals = [0.0; G];
    for (scores, total) in scores.chunks_exact_mut(padded).zip(&mut totals) {
        // What lies behind the last token is nobody's.
        scores[tokens..].fill(f32::NEG_INFINITY);
        *total = exponentials(scores);
    }
    for (scores, out) in scores.chunks_exact(padded).zip(out.chunks_exact_mut(head)) {
        weigh(&scores[..tokens], values, out);
    }
    for (out, total) in out.chunks_exact_mut(head).zip(totals) {
        let share = 1.0 / total;
        out.iter_mut().for_each(|number| *number *= share);
    }
}

/// Adds `factor` times `numbers` to each lane.
#[inline(always)]
fn add_product(sums: &mut Lane, factor: f32, numbers: &Lane) {
    for lane in 0..LANES {
        sums[lane] = factor.mul_add(numbers[lane], sums[lane]);
    }
}

/// The scores of four queries (the first ones, if there are fewer, in the place of the others) against a block of keys;
/// those of a query are `stride` apart from the next one's.
#[inline(always)]
fn score<const G: usize>(head: usize, queries: &[f32], keys: &[f32], stride: usize, out: &mut [f32]) {
    let query = |place: usize| &queries[place.min(G - 1) * head..][..head];
    let (first, second, third, fourth) = (query(0), query(1), query(2), query(3));
    // Variables of their own, not an array: compilers keep these in registers.
    let (mut a, mut b, mut c, mut d): (Lane, Lane, Lane, Lane) = Default::default();
    let keys: &[Lane] = &keys.as_chunks::<LANES>().0[..head];
    for number in 0..head {
        let keys = &keys[number];
        add_product(&mut a, first[number], keys);
        if G > 1 {
            add_product(&mut b, second[number], keys);
        }
        if G > 2 {
            add_product(&mut c, third[number], keys);
        }
        if G > 3 {
            add_product(&mut d, fourth[number], keys);
        }
    }
    for (query, sums) in [a, b, c, d].iter().take(G).enumerate() {
        out[query * stride..][..LANES].copy_from_slice(sums);
    }
}

/// The sum of all lanes, halves first.
#[inline(always)]
fn add_up(mut sums: Lane) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Makes scores into `e` to the power of each less the largest; gives their sum. The length is a multiple of [`LANES`].
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let lanes = scores.as_chunks_mut::<LANES>().0;
    let mut largest: Lane = [f32::NEG_INFINITY; LANES];
    for scores in lanes.iter() {
        for lane in 0..LANES {
            largest[lane] = if scores[lane] > largest[lane] { scores[lane] } else { largest[lane] };
        }
    }
    let top = largest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums: Lane = [0.0; LANES];
    for scores in lanes.iter_mut() {
        for lane in 0..LANES {
            scores[lane] = exp(scores[lane] - top);
            sums[lane] += scores[lane];
        }
    }
    add_up(sums)
}

/// `e` to the power of `x` for `x` of at most 0, to 2 units in the last place; 0 below -87.
///
/// Range reduction by powers of two (Cody and Waite) and a polynomial of degree 6 (the coefficients of Cephes' `expf`).
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let kept = if x > -87.0 { x } else { -87.0 };
    let shifted = kept.mul_add(core::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = power.mul_add(-LN2_LOW, power.mul_add(-LN2_HIGH, kept));
    let mut sum = 1.987_569_1e-4f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1] {
        sum = sum.mul_add(rest, coefficient);
    }
    let fraction = sum.mul_add(rest * rest, rest + 1.0);
    // The whole number's bits, moved to where a number's exponent stands.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x > -87.0 { fraction * scale } else { 0.0 }
}

/// The sum of `values`, each times its weight.
#[inline(always)]
fn weigh(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let head = out.len();
    // Four lanes at a time are kept in registers, whatever the size of a head.
    let mut from = 0;
    while from + 4 * LANES <= head {
        weigh_lanes::<4>(weights, values, from, out);
        from += 4 * LANES;
    }
    while from < head {
        weigh_lanes::<1>(weights, values, from, out);
        from += LANES;
    }
}

/// The same for the `N` lanes that begin at a value's number `from`.
#[inline(always)]
fn weigh_lanes<const N: usize>(weights: &[f32], values: &[f32], from: usize, out: &mut [f32]) {
    let mut sums = [[0.0; LANES]; N];
    for (&weight, value) in weights.iter().zip(values.chunks_exact(out.len())) {
        let value: &[Lane] = &value[from..].as_chunks::<LANES>().0[..N];
        for part in 0..N {
            add_product(&mut sums[part], weight, &value[part]);
        }
    }
    for (out, sums) in out[from..].as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
        *out = sums;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        for step in 0..870_000u32 {
            let x = -(step as f32) / 10_000.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 2.4e-7, "e^{x} is {exact}, not {ours}");
        }
        assert_eq!((exp(0.0), exp(-90.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn turning_by_a_right_angle_exchanges_the_halves() {
        let rotary = Rotary { cos: &[1.0, 1.0, 0.0, 0.0], sin: &[0.0, 0.0, 1.0, 1.0], half: 2 };
        assert_eq!(rotary.positions(), 2);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotary.turn(&mut head, 0);
        assert_eq!(head, [1.0, 2.0, 3.0, 4.0, 5.0]);
        rotary.turn(&mut head, 1);
        assert_eq!(head, [-3.0, -4.0, 1.0, 2.0, 5.0], "what is beyond stays");
    }

    /// The same in double precision, as a textbook has it.
    fn textbook(shape: &Shape, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f64> {
        let head = shape.head;
        let mut out = Vec::new();
        for query in queries.chunks(head) {
            let score = |key: &[f32]| -> f64 {
                query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * f64::from(shape.scale)
            };
            let weights: Vec<f64> = keys.chunks(head).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for number in 0..head {
                let column = values.chunks(head).map(|value| f64::from(value[number]));
                out.push(weights.iter().zip(column).map(|(weight, value)| weight * value).sum::<f64>() / total);
            }
        }
        out
    }

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(u16::try_from(state >> 48).unwrap()) / 32_768.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    proptest! {
        #[test]
        fn it_is_the_textbook_s_attention(
            group in 1usize..9, lanes in 1usize..9, tokens in 1usize..80, seed in any::<u64>(),
        ) {
            let head = lanes * LANES;
            let shape = Shape { group, kv_heads: 1, head, scale: 0.3 };
            let queries = numbers(group * head, seed);
            let (keys, values) = (numbers(tokens * head, seed ^ 1), numbers(tokens * head, seed ^ 2));
            // What nobody has written may be anything.
            let mut laid = vec![f32::NAN; tokens.next_multiple_of(LANES) * head];
            for (position, key) in keys.chunks(head).enumerate() {
                put_key(&mut laid, head, position, key);
            }
            let mut wide = vec![f32::NAN; group * head];
            attend(&shape, tokens, &queries, &laid, &values, &mut wide, &mut Scratch::default());
            for (ours, exact) in wide.iter().zip(textbook(&shape, &queries, &keys, &values)) {
                prop_assert!((f64::from(*ours) - exact).abs() < 1e-5, "{} and {}", ours, exact);
            }
        }
    }
}
