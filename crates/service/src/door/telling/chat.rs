//! How `/v1/chat/completions` tells an answer.

use penstock_policy::admission::tier_of_class;
use penstock_wire::chat::{ChunkChoice, CompletionChunk, Delta, Usage};
use penstock_wire::sse;

use super::{Heading, Telling};
use crate::door::rendering::{CallNames, completion, deltas, logprobs, usage};
use crate::error::ApiError;
use crate::ports::{Answer, Chunk};

/// Tells a chat answer.
pub(crate) struct ChatTelling {
    heading: Heading,
    /// How many answers were asked for.
    choices: u32,
    /// A stream ends with its usage.
    include_usage: bool,
    /// Numbers the tool calls of each answer.
    calls: CallNames,
}

impl ChatTelling {
    pub(crate) fn new(heading: Heading, choices: u32, include_usage: bool) -> Self {
        let calls = CallNames::new(heading.shown);
        Self { heading, choices, include_usage, calls }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        sse::data(&CompletionChunk {
            id: format!("chatcmpl-{}", self.heading.shown),
            object: "chat.completion.chunk".to_owned(),
            created: self.heading.created.as_secs(),
            model: self.heading.model.clone(),
            choices,
            usage,
            service_tier: Some(tier_of_class(self.heading.class).to_owned()),
        })
    }

    fn delta(&self, index: u32, delta: Delta, finish_reason: Option<&str>) -> String {
        let finish_reason = finish_reason.map(str::to_owned);
        self.chunk(vec![ChunkChoice { index, delta, logprobs: None, finish_reason }], None)
    }
}

impl Telling for ChatTelling {
    fn whole(&self, said: &[Chunk], answer: &Answer) -> String {
        let Heading { shown, created, model, class } = &self.heading;
        serde_json::to_string(&completion(*shown, *created, model, *class, said, answer)).unwrap_or_default()
    }

    fn opening(&mut self) -> String {
        let role = |choice| {
            let role = Delta { role: Some("assistant".to_owned()), content: Some(String::new()), ..Delta::default() };
            self.delta(choice, role, None)
        };
        (0..self.choices).map(role).collect()
    }

    /// One frame a part; what is known of the tokens behind them goes with the first.
    fn said(&mut self, chunk: &Chunk) -> String {
        let mut logprobs = logprobs(&chunk.words.logprobs);
        let mut deltas = deltas(&chunk.words, &mut self.calls);
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(Delta::default());
        }
        let index = chunk.words.choice;
        let choice = |delta| ChunkChoice { index, delta, logprobs: logprobs.take(), finish_reason: None };
        deltas.into_iter().map(choice).map(|choice| self.chunk(vec![choice], None)).collect()
    }

    fn answered(&mut self, answer: &Answer) -> String {
        let ends = (0..).zip(&answer.reasons);
        let mut frames: String =
            ends.map(|(choice, reason)| self.delta(choice, Delta::default(), Some(reason.name()))).collect();
        if self.include_usage {
            frames.push_str(&self.chunk(Vec::new(), Some(usage(answer))));
        }
        frames.push_str(sse::DONE);
        frames
    }

    fn failed(&mut self, error: &ApiError) -> String {
        sse::data(&error.body) + sse::DONE
    }
}
