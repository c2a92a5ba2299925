//! What the scheduler asks of a model: rows of a cache, and the next logits of a row.
//!
//! A *row* holds the keys and values of one sequence. The scheduler keeps the decoding sequences in rows `0..n`, since
//! a decoder runs them in one call over contiguous memory; prompts that are being read live in higher rows. The
//! decoder counts the tokens of each row itself, so that a caller cannot name a length that the memory does not have. A
//! row keeps what it holds until it is cut, also when nobody needs it: its beginning may serve another prompt.
//! The trait exists because there are two of them: ONNX Runtime, and a scripted one in the scheduler's tests.

use std::ops::Range;
use std::sync::Arc;

/// Receives the logits of a row: its place in the call (0 for a prefill) and one number per vocabulary entry.
pub type OnLogits<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// Whether tokens that were chosen, and put through the model one at a time, may stand for tokens that were read as part
/// of a prompt: may others reuse them, and may a worker that takes an answer over read what it inherits?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenTokens {
    /// They may: the numbers are the same to the last bit, or the last bits do not matter.
    LikeRead,
    /// They may not: the same numbers come out only of the same calls.
    Apart,
}

/// Ends the call that is running, from another thread; the call fails. Later calls fail too, until [`Decoder::resume`].
pub type Cancel = Arc<dyn Fn() + Send + Sync>;

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

    /// Forgets what `row` holds beyond its first `tokens` tokens; with 0 also any row that a [`DecoderFault`] named. A
    /// row that holds no more is left as it is.
    fn cut(&mut self, row: usize, tokens: usize);

    /// Makes `to` hold the first `tokens` tokens of `from`, which has at least as many, and nothing else. Should that
    /// fail, the next call with `to` does.
    fn copy_row(&mut self, from: usize, to: usize, tokens: usize);

    /// Exchanges two rows. Costs a copy of what they hold. Should that fail, the next call with either does.
    fn swap_rows(&mut self, a: usize, b: usize);

    /// A way to end a call that takes too long.
    fn cancel(&self) -> Cancel;

    /// Lets calls run again after one was ended.
    fn resume(&mut self);
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
