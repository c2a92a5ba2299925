//! What the scheduler asks of a model: rows of a cache, and the next logits of a row.
//!
//! A *row* holds the keys and values of one sequence. The scheduler keeps the decoding sequences in rows `0..n`, since
//! a decoder runs them in one call over contiguous memory; prompts that are being read live in higher rows. The
//! decoder counts the tokens of each row itself, so that a caller cannot name a length that the memory does not have.
//! The trait exists because there are two of them: ONNX Runtime, and a scripted one in the scheduler's tests.

use std::ops::Range;

/// Receives the logits of a row: its place in the call (0 for a prefill) and one number per vocabulary entry.
pub type OnLogits<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// A causal language model with a cache of rows.
pub trait Decoder: Send {
    /// How many sequences it holds; their rows are `0..slots`.
    fn slots(&self) -> usize;

    /// How many tokens a row holds.
    fn capacity(&self) -> usize;

    /// Appends `tokens` (at least one) to `row`, and gives the logits that follow the last of them.
    ///
    /// # Errors
    /// [`DecoderFault`]; the rows it names hold nothing of use any more.
    fn prefill(&mut self, row: usize, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault>;

    /// Appends one token to each of the rows `0..tokens.len()`, and gives the logits that follow it, row by row.
    ///
    /// # Errors
    /// [`DecoderFault`]; the rows it names hold nothing of use any more.
    fn decode(&mut self, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault>;

    /// Forgets what `row` holds; also any row that a [`DecoderFault`] named.
    fn clear(&mut self, row: usize);

    /// Exchanges two rows. Costs a copy of what they hold.
    fn swap_rows(&mut self, a: usize, b: usize);
}

/// A call that failed. Attention writes into the cache in place, so what the call touched is undefined afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DecoderFault {
    /// What failed.
    pub what: String,
    /// The rows whose contents are lost: those of the call, and any other that it wrote to.
    pub spoiled: Range<usize>,
}
