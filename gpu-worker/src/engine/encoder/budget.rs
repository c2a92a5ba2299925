//! How many tokens a call of an encoder may have: no more than fit into memory, and no more than can be read in the time
//! that urgent texts may have to wait for a running call.

use std::time::Duration;

use crate::engine::memory::SHARE_PERCENT;

/// The longest a call should take: what comes meanwhile waits for its end, whatever its class.
pub const LONGEST_CALL: Duration = Duration::from_millis(250);

/// What memory depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Numbers a token.
    pub hidden: usize,
    /// Numbers a token between the two products of a layer.
    pub intermediate: usize,
    /// Heads of attention, each of which has a score for every two tokens of a text.
    pub heads: usize,
}

/// Not even one text of the longest kind fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "one text of {context_length} tokens needs {needed_bytes} bytes, more than {SHARE_PERCENT} % of the \
     {available_bytes} bytes available: use a shorter context, or free memory"
)]
pub struct CallTooLarge {
    /// Tokens of the text.
    pub context_length: u32,
    /// What it needs.
    pub needed_bytes: u64,
    /// What there is.
    pub available_bytes: u64,
}

impl Shape {
    /// Bytes that a call of `rows` texts of `width` tokens takes beside the weights: scores of attention before and after
    /// their softmax, and what a layer holds at once. An upper bound on what ONNX Runtime was seen to take; saturates.
    #[must_use]
    pub fn call_bytes(&self, rows: u64, width: u64) -> u64 {
        const NUMBER: u64 = 4;
        let of = |factors: &[u64]| factors.iter().fold(NUMBER, |product, factor| product.saturating_mul(*factor));
        let scores = of(&[2, rows, self.heads as u64, width, width]);
        let layer = (self.hidden as u64).saturating_mul(8).saturating_add((self.intermediate as u64).saturating_mul(2));
        scores.saturating_add(of(&[rows, width, layer]))
    }

    /// The most tokens of a call, `wanted` or as many as fit into `available` bytes (`None`: nothing is known), but at
    /// least one text of `context` tokens.
    ///
    /// # Errors
    /// [`CallTooLarge`] if that one text does not fit.
    pub fn fit(&self, wanted: u32, context: u32, available: Option<u64>) -> Result<u32, CallTooLarge> {
        let wanted = wanted.max(context);
        let Some(available_bytes) = available else { return Ok(wanted) };
        let allowed = available_bytes - available_bytes / 100 * (100 - SHARE_PERCENT);
        // Scores grow with the width: the longest texts are the worst case for a number of tokens.
        let needed_bytes = self.call_bytes(1, u64::from(context));
        if needed_bytes > allowed {
            return Err(CallTooLarge { context_length: context, needed_bytes, available_bytes });
        }
        let rows = u32::try_from(allowed / needed_bytes.max(1)).unwrap_or(u32::MAX);
        Ok(wanted.min(rows.saturating_mul(context)))
    }
}

/// The most tokens that are read within [`LONGEST_CALL`] at `tokens_per_second`, but at least `context` and at most `most`.
#[must_use]
pub fn within_time(tokens_per_second: f64, context: u32, most: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    let tokens = (tokens_per_second * LONGEST_CALL.as_secs_f64()) as u32;
    tokens.clamp(context.min(most), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINILM: Shape = Shape { hidden: 384, intermediate: 1536, heads: 12 };

    #[test]
    fn a_call_is_as_large_as_memory_lets_it_be_but_holds_one_text() {
        let one = MINILM.call_bytes(1, 512);
        assert_eq!(MINILM.fit(4096, 512, None), Ok(4096));
        assert_eq!(MINILM.fit(4096, 512, Some(one * 100)), Ok(4096));
        assert_eq!(MINILM.fit(4096, 512, Some(one * 4)), Ok(3 * 512), "nine tenths of four are three");
        assert_eq!(MINILM.fit(16, 512, None), Ok(512), "a text is not cut");
        let error = MINILM.fit(4096, 512, Some(one)).unwrap_err();
        assert_eq!((error.needed_bytes, error.available_bytes), (one, one));
    }

    #[test]
    fn a_slow_model_gets_smaller_calls() {
        assert_eq!(within_time(4000.0, 512, 4096), 1000);
        assert_eq!(within_time(100.0, 512, 4096), 512);
        assert_eq!(within_time(1e12, 512, 4096), 4096);
        assert_eq!(within_time(f64::NAN, 512, 4096), 512);
    }
}
