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

use penstock_service::ports::{EngineFault, FinishReason, Part, Sampling, TokenLogprob};

use super::channels::Channels;
use super::detokenizer::Detokenizer;
use super::guide::{FormError, Guide, Way};
use super::likelihood;
use super::sampler::{BadLogits, Sampler};
use super::stops::{Scan, StopScanner};
use super::tokenizer::{TextTokenizer, TokenizerError};

/// An answer in the making.
pub struct Answer {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopScanner,
    channels: Channels,
    /// Keeps it to the form that is demanded.
    guide: Option<Guide>,
    parallel_calls: ParallelCalls,
    /// Tokens the model said to itself.
    reasoning_tokens: u32,
    eos: Arc<[u32]>,
    limit: u32,
    tokens: u32,
    /// Tell how likely the tokens were, and so many of the likeliest.
    logprobs: Option<u32>,
    tokenizer: TextTokenizer,
    /// Bytes of the answer that clients have seen from an earlier worker and that are still to come by.
    seen: usize,
}

/// Why an answer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Its tokens have no text: our fault.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// It cannot be kept to its form: the request's fault.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The model gave no distribution to choose from.
    #[error(transparent)]
    Logits(#[from] BadLogits),
}

impl AnswerError {
    /// What its consumer is told.
    #[must_use]
    pub fn fault(self) -> EngineFault {
        match self {
            Self::Form(error) => error.fault(),
            Self::Tokenizer(_) | Self::Logits(_) => EngineFault::Fault(self.to_string()),
        }
    }
}

/// Whether an answer may call several tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParallelCalls {
    /// It may.
    Allowed,
    /// The first call ends it.
    Refused,
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
            channels: Channels::plain(),
            guide: None,
            parallel_calls: ParallelCalls::Allowed,
            reasoning_tokens: 0,
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
        self.reasoning_tokens
    }

    /// The same, kept to a form.
    #[must_use]
    pub fn in_form(self, guide: Guide) -> Self {
        Self { guide: Some(guide), ..self }
    }

    /// The same, told by channel.
    #[must_use]
    pub fn in_channels(self, channels: Channels, parallel_calls: ParallelCalls) -> Self {
        Self { detokenizer: self.detokenizer.hearing_markers(), channels, parallel_calls, ..self }
    }

    /// How many tokens it has, inherited ones and the end token included.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// How many tokens it may get yet.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.limit.saturating_sub(self.tokens)
    }

    /// The next token, by the logits of the current position.
    ///
    /// # Errors
    /// [`BadLogits`] if they are no distribution.
    pub fn choose(&self, logits: &[f32]) -> Result<Chosen, BadLogits> {
        let id = match &self.guide {
            None => self.sampler.choose(logits)?,
            Some(guide) => {
                let mut bound = logits.to_vec();
                guide.bind(&mut bound, &self.eos);
                self.sampler.choose(&bound)?
            }
        };
        let told = self.logprobs.filter(|_| !self.eos.contains(&id));
        let logprob = told.map(|top| likelihood::of(logits, id, top, self.tokenizer.vocabulary()));
        Ok(Chosen { id, logprob })
    }

    /// Appends the ids of an earlier worker, of whose text clients have seen the first `seen` bytes. To be called once,
    /// before anything else; also for an answer that inherits nothing, since its limit may be 0.
    ///
    /// # Errors
    /// [`AnswerError`] if the ids have no text, or another form.
    pub fn inherit(&mut self, ids: &[u32], seen: usize) -> Result<Growth, AnswerError> {
        self.seen = seen;
        let mut parts = Vec::new();
        for &id in ids {
            let growth = self.follow(id)?;
            growth.parts.into_iter().for_each(|part| Part::append(&mut parts, part));
            if growth.outcome != Outcome::Open {
                return Ok(Growth { parts, ..growth });
            }
        }
        let outcome = if self.tokens >= self.limit { Outcome::Ended(FinishReason::Length) } else { Outcome::Open };
        let mut growth = self.look(Growth { parts: Vec::new(), outcome })?;
        growth.parts.into_iter().for_each(|part| Part::append(&mut parts, part));
        growth.parts = parts;
        Ok(growth)
    }

    /// Appends a token.
    ///
    /// # Errors
    /// [`AnswerError`] if the tokenizer cannot write it, or the form cannot be followed.
    pub fn push(&mut self, id: u32) -> Result<Growth, AnswerError> {
        let growth = self.follow(id)?;
        self.look(growth)
    }

    /// Finds out what may come next; an answer whose form is complete ends.
    fn look(&mut self, growth: Growth) -> Result<Growth, AnswerError> {
        if growth.outcome != Outcome::Open {
            return Ok(growth);
        }
        let way = self.guide.as_mut().map_or(Ok(Way::Open), Guide::look)?;
        if way == Way::Open {
            return Ok(growth);
        }
        let held = self.stops.finish();
        let mut ended = self.ended(&held, FinishReason::Stop);
        let mut parts = growth.parts;
        ended.parts.drain(..).for_each(|part| Part::append(&mut parts, part));
        Ok(Growth { parts, ..ended })
    }

    fn follow(&mut self, id: u32) -> Result<Growth, AnswerError> {
        if let Some(guide) = &mut self.guide
            && !self.eos.contains(&id)
        {
            guide.accept(id)?;
        }
        let was_thinking = self.channels.is_thinking();
        let growth = self.grow(id);
        if was_thinking || self.channels.is_thinking() {
            self.reasoning_tokens = self.reasoning_tokens.saturating_add(1);
        }
        Ok(growth?)
    }

    fn grow(&mut self, id: u32) -> Result<Growth, TokenizerError> {
        self.sampler.record(id);
        self.tokens = self.tokens.saturating_add(1);
        if self.eos.contains(&id) {
            let held = self.stops.finish();
            return Ok(self.ended(&held, FinishReason::Stop));
        }
        let piece = self.detokenizer.push(id)?;
        Ok(match self.stops.push(&piece) {
            Scan::Stop(text) => self.ended(&text, FinishReason::Stop),
            Scan::Show(text) if self.tokens < self.limit => self.went_on(&text),
            Scan::Show(text) => {
                let rest = text + &self.stops.finish();
                self.ended(&rest, FinishReason::Length)
            }
        })
    }

    fn went_on(&mut self, text: &str) -> Growth {
        let parts = self.channels.push(text);
        let outcome = if self.has_called_enough() { Outcome::Ended(FinishReason::ToolCalls) } else { Outcome::Open };
        Growth { parts: self.news(parts.into_iter()), outcome }
    }

    fn has_called_enough(&self) -> bool {
        self.parallel_calls == ParallelCalls::Refused && self.channels.calls() > 0
    }

    /// Shows everything that was held back behind `text`.
    fn ended(&mut self, text: &str, reason: FinishReason) -> Growth {
        let mut parts = self.channels.push(text);
        if !self.has_called_enough() {
            parts.extend(self.channels.finish());
        }
        let called = self.channels.calls() > 0 && (reason == FinishReason::Stop || self.has_called_enough());
        let reason = if called { FinishReason::ToolCalls } else { reason };
        Growth { parts: self.news(parts.into_iter()), outcome: Outcome::Ended(reason) }
    }

    /// Leaves out what clients have seen.
    fn news(&mut self, said: impl Iterator<Item = Part>) -> Vec<Part> {
        let mut parts = Vec::new();
        for mut part in said {
            if self.is_news(&mut part) {
                Part::append(&mut parts, part);
            }
        }
        parts
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
            Part::Call { .. } | Part::Vectors(_) => return seen == 0,
        }
        part.bytes() > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::dialect::{Beginning, Manner};
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
            Part::Vectors(_) => String::new(),
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
    fn thoughts_are_counted_and_the_first_call_may_end_an_answer() {
        let channels = || Channels::new(Beginning::Thought, Some(Manner::Tagged), ["f".to_owned()].into());
        let script = ids("hm</think><tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>");
        for (parallel, calls) in [(ParallelCalls::Allowed, 2), (ParallelCalls::Refused, 1)] {
            let mut one = answer(&[], 1000).in_channels(channels(), parallel);
            let mut last = Outcome::Open;
            for &id in script.iter().chain([&EOS]) {
                if last == Outcome::Open {
                    last = one.push(id).unwrap().outcome;
                }
            }
            assert_eq!(last, Outcome::Ended(FinishReason::ToolCalls));
            assert_eq!((one.channels.calls(), one.reasoning_tokens()), (calls, 10), "the marker is thought too");
        }
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
        #[test]
        fn thoughts_and_calls_that_are_taken_over_anywhere_are_told_as_if_they_had_not_been(
            speech in proptest::collection::vec(proptest::sample::select(vec![
                "<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\": \"f\", \"arguments\": {\"x\": 1}}", "a", " ",
                "\n", "🦀", "<", "{\"name\": \"g\"}", "stop",
            ]), 0..12),
            beginning in proptest::sample::select(vec![Beginning::Answer, Beginning::Thought, Beginning::Either]),
            parallel in proptest::sample::select(vec![ParallelCalls::Allowed, ParallelCalls::Refused]),
            cut in 0usize..200, limit in 1u32..200,
        ) {
            let script = [ids(&speech.concat()), vec![EOS]].concat();
            let fresh = || {
                let channels = Channels::new(beginning, Some(Manner::Tagged), ["f".to_owned()].into());
                answer(&["stop"], limit).in_channels(channels, parallel)
            };
            let mut whole = Vec::new();
            let (mut first, mut shown, mut ended) = (fresh(), 0, None);
            for (place, &id) in script.iter().enumerate() {
                let growth = first.push(id).unwrap();
                if place < cut {
                    shown += growth.parts.iter().map(Part::bytes).sum::<usize>();
                }
                growth.parts.into_iter().for_each(|part| Part::append(&mut whole, part));
                if let Outcome::Ended(reason) = growth.outcome {
                    ended = Some((reason, place + 1));
                    break;
                }
            }
            let (reason, length) = ended.unwrap();
            let called = whole.iter().any(|part| matches!(part, Part::Call { .. }));
            prop_assert_eq!(reason == FinishReason::ToolCalls, called && (reason != FinishReason::Length));
            let cut = cut.min(length);
            let mut second = fresh();
            let growth = second.inherit(&script[..cut], shown).unwrap();
            let mut rest = growth.parts;
            for &id in &script[cut..length] {
                second.push(id).unwrap().parts.into_iter().for_each(|part| Part::append(&mut rest, part));
            }
            // What was shown, then the rest, is the whole; a stretch that was cut in two is one again.
            let bytes = |parts: &[Part]| parts.iter().map(Part::bytes).sum::<usize>();
            prop_assert_eq!(shown + bytes(&rest), bytes(&whole));
            let mut tail = whole.clone();
            let mut skip = shown;
            tail.retain_mut(|part| {
                let seen = skip.min(part.bytes());
                skip -= seen;
                match part {
                    Part::Content(text) | Part::Reasoning(text) => drop(text.drain(..seen)),
                    Part::Call { .. } | Part::Vectors(_) => return seen == 0,
                }
                part.bytes() > 0
            });
            prop_assert_eq!(rest, tail);
            prop_assert_eq!(second.reasoning_tokens(), first.reasoning_tokens());
        }

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
