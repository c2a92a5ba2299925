//! One answer as it grows: which token comes next, what of it may be shown, and when it ends.
//!
//! An answer is a function of its ids. A worker that takes it over replays the ids it inherits through the very same
//! steps, so that penalties, half characters and half stop strings stand where they stood, and then shows only what
//! clients have not seen. Nothing else is carried over between workers.
//!
//! An answer ends with an end token or a stop string ([`FinishReason::Stop`]), or when it has as many tokens as it may
//! ([`FinishReason::Length`]); the first two win when they coincide with the last. The end token counts, but has no text.
//!
//! Edge cases: inherited ids may already end the answer; a limit of 0 ends it before it begins; ids beyond the end are
//! ignored; clients may have seen less than the inherited ids show, the difference then comes first.

use std::sync::Arc;

use penstock_service::ports::{FinishReason, Part, Sampling, TokenLogprob};

use super::detokenizer::Detokenizer;
use super::likelihood;
use super::sampler::{BadLogits, Sampler};
use super::stops::{Scan, StopScanner};
use super::tokenizer::{TextTokenizer, TokenizerError};

/// An answer in the making.
pub struct Answer {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopScanner,
    eos: Arc<[u32]>,
    limit: u32,
    tokens: u32,
    /// Tell how likely the tokens were, and so many of the likeliest.
    logprobs: Option<u32>,
    tokenizer: TextTokenizer,
    /// Bytes of the answer that clients have seen from an earlier worker and that are still to come by.
    seen: usize,
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub id: u32,
    /// How likely it was, if that is to be told.
    pub logprob: Option<TokenLogprob>,
}

/// What a token adds to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// What may now be shown: whole characters, maybe nothing.
    pub parts: Vec<Part>,
    /// Whether the answer goes on.
    pub outcome: Outcome,
}

/// Whether an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Open,
    /// It is complete.
    Ended(FinishReason),
}

impl Answer {
    /// An answer without tokens, of at most `limit` tokens, that the tokens `eos` end.
    #[must_use]
    pub fn new(sampling: &Sampling, tokenizer: &TextTokenizer, eos: Arc<[u32]>, limit: u32) -> Self {
        Self::to(&[], sampling, tokenizer, eos, limit)
    }

    /// The same, to a prompt whose tokens are not to be repeated if the request says so.
    #[must_use]
    pub fn to(prompt: &[u32], sampling: &Sampling, tokenizer: &TextTokenizer, eos: Arc<[u32]>, limit: u32) -> Self {
        Self {
            sampler: Sampler::new(sampling, prompt),
            detokenizer: tokenizer.detokenizer(),
            stops: StopScanner::new(&sampling.stop),
            eos,
            limit,
            tokens: 0,
            logprobs: None,
            tokenizer: tokenizer.clone(),
            seen: 0,
        }
    }

    /// The same, telling how likely its tokens are, and so many of the likeliest, if that is asked for.
    #[must_use]
    pub fn with_logprobs(self, logprobs: Option<u32>) -> Self {
        Self { logprobs, ..self }
    }

    /// How many of its tokens the model said to itself.
    #[must_use]
    pub fn reasoning_tokens(&self) -> u32 {
        0
    }

    /// How many tokens it has, inherited ones and the end token included.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The next token, by the logits of the current position.
    ///
    /// # Errors
    /// [`BadLogits`] if they are no distribution.
    pub fn choose(&self, logits: &[f32]) -> Result<Chosen, BadLogits> {
        let id = self.sampler.choose(logits)?;
        let told = self.logprobs.filter(|_| !self.eos.contains(&id));
        let logprob = told.map(|top| likelihood::of(logits, id, top, self.tokenizer.vocabulary()));
        Ok(Chosen { id, logprob })
    }

    /// Appends the ids of an earlier worker, of whose text clients have seen the first `seen` bytes. To be called once,
    /// before anything else; also for an answer that inherits nothing, since its limit may be 0.
    ///
    /// # Errors
    /// [`TokenizerError`] if the ids have no text.
    pub fn inherit(&mut self, ids: &[u32], seen: usize) -> Result<Growth, TokenizerError> {
        self.seen = seen;
        let mut parts = Vec::new();
        for &id in ids {
            let growth = self.push(id)?;
            growth.parts.into_iter().for_each(|part| Part::append(&mut parts, part));
            if growth.outcome != Outcome::Open {
                return Ok(Growth { parts, ..growth });
            }
        }
        let outcome = if self.tokens >= self.limit { Outcome::Ended(FinishReason::Length) } else { Outcome::Open };
        Ok(Growth { parts, outcome })
    }

    /// Appends a token.
    ///
    /// # Errors
    /// [`TokenizerError`] if the tokenizer cannot write it.
    pub fn push(&mut self, id: u32) -> Result<Growth, TokenizerError> {
        self.sampler.record(id);
        self.tokens = self.tokens.saturating_add(1);
        if self.eos.contains(&id) {
            return Ok(self.end(FinishReason::Stop));
        }
        let piece = self.detokenizer.push(id)?;
        Ok(match self.stops.push(&piece) {
            Scan::Stop(text) => self.grown(text, Outcome::Ended(FinishReason::Stop)),
            Scan::Show(text) if self.tokens < self.limit => self.grown(text, Outcome::Open),
            Scan::Show(text) => {
                let mut shown = self.grown(text, Outcome::Open);
                let rest = self.end(FinishReason::Length);
                rest.parts.into_iter().for_each(|part| Part::append(&mut shown.parts, part));
                Growth { outcome: rest.outcome, ..shown }
            }
        })
    }

    /// Shows everything that was held back.
    fn end(&mut self, reason: FinishReason) -> Growth {
        let text = self.stops.finish();
        self.grown(text, Outcome::Ended(reason))
    }

    /// Leaves out what clients have seen.
    fn grown(&mut self, text: String, outcome: Outcome) -> Growth {
        let mut parts = Vec::new();
        Part::append(&mut parts, Part::Content(text));
        parts.retain_mut(|part| self.is_news(part));
        Growth { parts, outcome }
    }

    /// Cuts off what clients have seen of a part; `false` if nothing is left of it.
    fn is_news(&mut self, part: &mut Part) -> bool {
        if self.seen == 0 {
            return true;
        }
        let seen = self.seen.min(part.bytes());
        self.seen -= seen;
        match part {
            Part::Content(text) | Part::Reasoning(text) => {
                // Clients are only ever shown whole characters; should the number lie within one, it is not shown twice.
                let cut = (seen..=text.len()).find(|&byte| text.is_char_boundary(byte)).unwrap_or(text.len());
                text.drain(..cut);
            }
            // A call is told whole or not at all.
            Part::Call { .. } => return seen == 0,
        }
        part.bytes() > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::tokenizer::tests::bytes;

    const EOS: u32 = 256;

    fn sampling(stop: &[&str]) -> Sampling {
        Sampling { stop: stop.iter().map(ToString::to_string).collect(), ..Sampling::default() }
    }

    fn answer(stop: &[&str], limit: u32) -> Answer {
        Answer::new(&sampling(stop), &bytes(), [EOS].into(), limit)
    }

    /// Pushes ids until the answer ends; the text, the number of tokens and the outcome.
    fn play(mut answer: Answer, ids: &[u32]) -> (String, u32, Outcome) {
        let mut text = String::new();
        for &id in ids {
            let growth = answer.push(id).unwrap();
            text += &said(&growth);
            if growth.outcome != Outcome::Open {
                return (text, answer.tokens(), growth.outcome);
            }
        }
        (text, answer.tokens(), Outcome::Open)
    }

    fn said(growth: &Growth) -> String {
        let text = |part: &Part| match part {
            Part::Content(text) | Part::Reasoning(text) => text.clone(),
            Part::Call { name, arguments } => format!("[{name}{arguments}]"),
        };
        growth.parts.iter().map(text).collect()
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn an_end_token_counts_and_has_no_text() {
        let script = [ids("ok"), vec![EOS], ids("never")].concat();
        let ended = Outcome::Ended(FinishReason::Stop);
        assert_eq!(play(answer(&[], 100), &script), ("ok".into(), 3, ended));
        assert_eq!(play(answer(&[], 3), &script), ("ok".into(), 3, ended), "also on the last token allowed");
    }

    #[test]
    fn the_limit_ends_an_answer_and_shows_what_was_held_back() {
        let ended = Outcome::Ended(FinishReason::Length);
        assert_eq!(play(answer(&["defg"], 5), &ids("abcdefgh")), ("abcde".into(), 5, ended));
        assert_eq!(play(answer(&[], 3), &ids("a🦀")), ("a".into(), 3, ended));
    }

    #[test]
    fn a_stop_string_ends_an_answer_before_it() {
        let ended = Outcome::Ended(FinishReason::Stop);
        assert_eq!(play(answer(&["cd"], 100), &ids("abcdef")), ("ab".into(), 4, ended));
        assert_eq!(play(answer(&["cd"], 4), &ids("abcdef")), ("ab".into(), 4, ended));
    }

    #[test]
    fn inherited_ids_that_end_the_answer_end_it_at_once() {
        let stop = Outcome::Ended(FinishReason::Stop);
        let length = Outcome::Ended(FinishReason::Length);
        let script = [ids("ab"), vec![EOS]].concat();
        let growth = answer(&[], 9).inherit(&script, 1).unwrap();
        assert_eq!(growth, Growth { parts: vec![Part::Content("b".into())], outcome: stop });
        assert_eq!(answer(&["b"], 9).inherit(&ids("ab"), 1).unwrap().outcome, stop);
        assert_eq!(answer(&[], 2).inherit(&ids("ab"), 2).unwrap().outcome, length);
        assert_eq!(answer(&[], 0).inherit(&[], 0).unwrap().outcome, length);
    }

    proptest! {
        /// Whatever was shown before the cut, a second worker shows exactly the rest.
        #[test]
        fn an_answer_taken_over_anywhere_reads_as_if_it_had_not_been(
            script in proptest::collection::vec(prop_oneof![9 => 0u32..256, 1 => Just(EOS)], 1..40),
            words in "[a-c]{0,12}🦀?[a-c]{0,6}",
            stop in "[a-c]{1,3}",
            limit in 1u32..40, cut in 0usize..40, less in 0usize..6,
        ) {
            let script = [ids(&words), script].concat();
            let whole = play(answer(&[&stop], limit), &script);
            let cut = cut.min(script.len());
            let (shown, _, _) = play(answer(&[&stop], limit), &script[..cut]);
            let mut seen = shown.len().saturating_sub(less);
            while !shown.is_char_boundary(seen) {
                seen -= 1;
            }
            let mut second = answer(&[&stop], limit);
            let first = second.inherit(&script[..cut], seen).unwrap();
            let (rest, tokens, outcome) = match first.outcome {
                Outcome::Open => play(second, &script[cut..]),
                ended @ Outcome::Ended(_) => (String::new(), second.tokens(), ended),
            };
            prop_assert_eq!((shown[..seen].to_owned() + &said(&first) + &rest, tokens, outcome), whole);
        }
    }
}
