//! What is learned of a tenant's requests to a model, so that the front can estimate without a tokenizer: how many tokens
//! a byte makes, and how long answers get.
//!
//! Counted by settlement, added up over the last days. Few observations lean on the pool's own measure.

use std::collections::BTreeMap;

/// As many prompt tokens as the pool's own measure weighs.
const LEAN_TOKENS: f64 = 2_000.0;

/// Answers that must have been seen before their lengths say anything.
const FEWEST_ANSWERS: u64 = 20;

/// Bins an octave of lengths: neighbours are 19 % apart.
const BINS_AN_OCTAVE: f64 = 4.0;

/// The bin of an answer of that many tokens.
#[must_use]
pub fn length_bin(tokens: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a logarithm of at least 1 is small")]
    let bin = ((tokens.max(1) as f64).log2() * BINS_AN_OCTAVE).ceil() as u32;
    bin
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Bytes of prompts.
    pub prompt_bytes: u64,
    /// Tokens that they were.
    pub prompt_tokens: u64,
    /// Answers that ended by themselves or at a maximum, by [`length_bin`].
    pub lengths: BTreeMap<u32, u64>,
}

impl Seen {
    /// Tokens a prompt byte makes, leaning on `measured` until much was seen.
    #[must_use]
    pub fn tokens_per_byte(&self, measured: f64) -> f64 {
        let measured = if measured.is_finite() && measured > 0.0 { measured } else { 1.0 };
        (self.prompt_tokens as f64 + LEAN_TOKENS) / (self.prompt_bytes as f64 + LEAN_TOKENS / measured)
    }

    /// The length that nine of ten answers stay within; `None` before enough was seen.
    #[must_use]
    pub fn usual_output_tokens(&self) -> Option<u32> {
        let all: u64 = self.lengths.values().sum();
        if all < FEWEST_ANSWERS {
            return None;
        }
        let mut seen = 0;
        for (bin, count) in &self.lengths {
            seen += count;
            if seen * 10 >= all * 9 {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "saturates, and is positive"
                )]
                return Some((f64::from(*bin) / BINS_AN_OCTAVE).exp2().round() as u32);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pools_measure_holds_until_much_was_seen() {
        assert!((Seen::default().tokens_per_byte(0.25) - 0.25).abs() < 1e-9);
        let seen = Seen { prompt_bytes: 1_000_000, prompt_tokens: 500_000, ..Seen::default() };
        assert!((seen.tokens_per_byte(0.25) - 0.5).abs() < 0.01);
        assert!(Seen::default().tokens_per_byte(f64::NAN).is_finite());
    }

    #[test]
    fn nine_of_ten_answers_stay_within_what_is_reserved() {
        let mut seen = Seen::default();
        assert_eq!(seen.usual_output_tokens(), None);
        for tokens in 1..=100u64 {
            *seen.lengths.entry(length_bin(tokens)).or_default() += 1;
        }
        let reserved = seen.usual_output_tokens().unwrap();
        assert!((90..=108).contains(&reserved), "{reserved}");
    }
}
