//! Attention over a pool of blocks, for processors: the arithmetic of [`super::attention`], where a sequence's keys and
//! values lie in blocks that a table lists (Kwon et al., *PagedAttention*, 2023).
//!
//! The pool is laid out as the operator `PagedAttention` has it: `[blocks, tokens of a block, heads, numbers]`, in half or
//! single precision. What a query sees is gathered into single precision first and then computed exactly as over a row, so
//! that in single precision both give the same bits; where a block begins or lies makes no difference. A key is rounded to
//! the pool's precision when it is put there, also for the queries of its own call: a token sees the same whether those
//! before it were read in its call or in others.
//!
//! Gathering costs about as much as scoring one query, and is shared by the queries of a sequence that are computed
//! together. GPUs have kernels of their own for this; on a processor it serves graphs that were exported for them.

use half::f16;

use super::attention::{LANES, put_key};

/// Numbers that a pool may hold.
pub trait Number: Copy + Send + Sync + 'static {
    /// The same number in single precision.
    fn wide(self) -> f32;

    /// The nearest number of this precision.
    fn nearest(number: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn nearest(number: f32) -> Self {
        number
    }
}

impl Number for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn nearest(number: f32) -> Self {
        Self::from_f32(number)
    }
}

/// The shape of a pool of keys or of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Blocks.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head: usize,
}

impl PoolShape {
    /// Where the numbers of a head of the sequence's token `position` begin. `blocks` is the sequence's table, and covers
    /// the position.
    #[must_use]
    pub fn place(&self, blocks: &[usize], position: usize, kv_head: usize) -> usize {
        let slot = blocks[position / self.block_tokens] * self.block_tokens + position % self.block_tokens;
        (slot * self.kv_heads + kv_head) * self.head
    }

    /// Whether `blocks` is the beginning of a table for `tokens` tokens in this pool.
    #[must_use]
    pub fn holds(&self, blocks: &[usize], tokens: usize) -> bool {
        tokens.div_ceil(self.block_tokens.max(1)) <= blocks.len() && blocks.iter().all(|&block| block < self.blocks)
    }
}

/// What the queries of one head of a sequence look at, in single precision. Used again and again.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// As [`put_key`] lays them.
    pub keys: Vec<f32>,
    /// One after another.
    pub values: Vec<f32>,
}

impl Seen {
    /// Gathers the first `tokens` tokens of a sequence's head out of the pools of keys and values.
    pub fn gather<T: Number>(
        &mut self,
        shape: &PoolShape,
        (keys, values): (&[T], &[T]),
        blocks: &[usize],
        kv_head: usize,
        tokens: usize,
    ) {
        let head = shape.head;
        self.keys.resize(tokens.next_multiple_of(LANES) * head, 0.0);
        self.values.clear();
        let mut key = vec![0.0; head];
        for position in 0..tokens {
            let at = shape.place(blocks, position, kv_head);
            for (wide, number) in key.iter_mut().zip(&keys[at..][..head]) {
                *wide = number.wide();
            }
            put_key(&mut self.keys, head, position, &key);
            self.values.extend(values[at..][..head].iter().map(|number| number.wide()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_precision_rounds_to_the_nearest() {
        assert_eq!(f16::nearest(1.0 + 1.0 / 3_000.0).wide(), 1.0);
        assert_eq!(f16::nearest(0.1).wide(), 0.099_975_586);
        assert_eq!(f32::nearest(0.1).wide(), 0.1);
    }

    #[test]
    fn a_table_outside_the_pool_or_too_short_is_told() {
        let shape = PoolShape { blocks: 3, block_tokens: 4, kv_heads: 1, head: 16 };
        assert!(shape.holds(&[2, 0], 8) && shape.holds(&[], 0));
        assert!(!shape.holds(&[2, 0], 9) && !shape.holds(&[3], 1));
    }

    proptest! {
        /// Tokens written through a table of scattered blocks are gathered in order, each head its own.
        #[test]
        fn what_was_put_into_blocks_is_gathered_in_order(
            tokens in 1usize..40,
            kv_heads in 1usize..4,
            order in Just((0..10usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let (head, block_tokens) = (LANES, 4);
            let shape = PoolShape { blocks: 10, block_tokens, kv_heads, head };
            let blocks = &order[..tokens.div_ceil(block_tokens)];
            prop_assert!(shape.holds(blocks, tokens));
            let number = |position: usize, kv_head: usize, place: usize, side: usize| {
                f16::nearest(f32::from(u16::try_from((position * 7 + kv_head) * 32 + place * 2 + side).unwrap()) / 64.0)
            };
            let mut pools = [vec![f16::NAN; 10 * block_tokens * kv_heads * head], vec![f16::NAN; 10 * block_tokens * kv_heads * head]];
            for (side, pool) in pools.iter_mut().enumerate() {
                for position in 0..tokens {
                    for kv_head in 0..kv_heads {
                        let at = shape.place(blocks, position, kv_head);
                        for place in 0..head {
                            pool[at + place] = number(position, kv_head, place, side);
                        }
                    }
                }
            }
            // What was used before may be longer.
            let mut seen = Seen { keys: vec![f32::NAN; 99 * head], values: vec![f32::NAN; 99 * head] };
            for kv_head in 0..kv_heads {
                seen.gather(&shape, (&pools[0], &pools[1]), blocks, kv_head, tokens);
                prop_assert_eq!(seen.values.len(), tokens * head);
                for position in 0..tokens {
                    let block = &seen.keys[position / LANES * LANES * head..];
                    for place in 0..head {
                        prop_assert_eq!(block[place * LANES + position % LANES], number(position, kv_head, place, 0).wide());
                        prop_assert_eq!(seen.values[position * head + place], number(position, kv_head, place, 1).wide());
                    }
                }
            }
        }
    }
}
