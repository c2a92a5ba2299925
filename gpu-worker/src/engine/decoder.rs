//! What the scheduler asks of a model: rows of a cache, and the next logits of a row.
//!
//! A *row* holds the keys and values of one sequence. The scheduler keeps the decoding sequences in rows `0..n`, since
//! a decoder runs them in one call over contiguous memory; prompts that are being read live in higher rows. The
//! decoder counts the tokens of each row itself, so that a caller cannot name a length that the memory does not have. A
//! row keeps what it holds until it is cut, also when nobody needs it: its beginning may serve another prompt.
//!
//! Some decoders give every row memory of its own, others share a pool of blocks among all rows. With a pool rows can be
//! short of memory: the caller asks before a call ([`Decoder::give_up`]) and cuts rows that it can spare.
//!
//! The trait exists because there are several: two on ONNX Runtime, and scripted ones in the scheduler's tests.

use std::ops::Range;
use std::sync::Arc;

use penstock_policy::paged::Shortage;

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

/// What a call may consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// One row's tokens, or one token for each of the first rows.
    Apart,
    /// Any tokens of any rows.
    Packed,
}

/// Tokens that a packed call appends to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'t> {
    /// The row; no two parts of a call have the same.
    pub row: usize,
    /// The tokens, at least one.
    pub tokens: &'t [u32],
    /// Whether the logits that follow them are wanted.
    pub logits: Logits,
}

/// Tokens that memory is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The row that they are appended to; `None`: one that is empty now.
    pub row: Option<usize>,
    /// How many.
    pub tokens: usize,
}

/// Whether logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Those that follow the last token.
    Wanted,
    /// None: more of a prompt is to come.
    Unneeded,
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

    /// What a call may consist of.
    fn calls(&self) -> Calls {
        Calls::Apart
    }

    /// Appends to several rows in one call, and gives the logits that are wanted, by their part's place. Decoders whose
    /// calls are [`Calls::Apart`] make a call for each part.
    ///
    /// # Errors
    /// [`DecoderFault`]; the rows of all parts and those it names hold nothing of use any more.
    fn append(&mut self, parts: &[Part<'_>], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        for (place, part) in parts.iter().enumerate() {
            self.prefill(part.row, part.tokens, &mut |_, numbers| {
                if part.logits == Logits::Wanted {
                    logits(place, numbers);
                }
            })?;
        }
        Ok(())
    }

    /// How many of the `expendable` rows, the first ones first, have to be cut to nothing so that there is memory for all
    /// of `growth`. Changes nothing.
    ///
    /// # Errors
    /// [`Shortage`]: cutting all of them would not do.
    fn give_up(&self, _growth: &[Growth], _expendable: &[usize]) -> Result<usize, Shortage> {
        Ok(0)
    }

    /// How many tokens each of `rows` rows can hold at the same time, at least.
    fn tokens_each(&self, _rows: usize) -> usize {
        self.capacity()
    }

    /// How many tokens all rows can hold together.
    fn tokens_together(&self) -> usize {
        self.slots() * self.capacity()
    }

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

impl<D: Decoder + ?Sized> Decoder for Box<D> {
    fn slots(&self) -> usize {
        (**self).slots()
    }
    fn capacity(&self) -> usize {
        (**self).capacity()
    }
    fn prefill(&mut self, row: usize, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        (**self).prefill(row, tokens, logits)
    }
    fn decode(&mut self, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        (**self).decode(tokens, logits)
    }
    fn calls(&self) -> Calls {
        (**self).calls()
    }
    fn append(&mut self, parts: &[Part<'_>], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
        (**self).append(parts, logits)
    }
    fn give_up(&self, growth: &[Growth], expendable: &[usize]) -> Result<usize, Shortage> {
        (**self).give_up(growth, expendable)
    }
    fn tokens_each(&self, rows: usize) -> usize {
        (**self).tokens_each(rows)
    }
    fn tokens_together(&self) -> usize {
        (**self).tokens_together()
    }
    fn cut(&mut self, row: usize, tokens: usize) {
        (**self).cut(row, tokens);
    }
    fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        (**self).copy_row(from, to, tokens);
    }
    fn swap_rows(&mut self, a: usize, b: usize) {
        (**self).swap_rows(a, b);
    }
    fn cancel(&self) -> Cancel {
        (**self).cancel()
    }
    fn resume(&mut self) {
        (**self).resume();
    }
}
