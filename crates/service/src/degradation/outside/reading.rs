//! An upstream's stream, piece by piece, as what our own workers would have written.
//!
//! Read tolerantly: comments, unknown fields and events, missing usage and a missing `[DONE]` are common. What an answer
//! cannot do without is a reason for its end; a stream that stops before that was broken off.

use std::collections::BTreeMap;

use penstock_policy::id::Epoch;
use penstock_policy::job::Position;
use serde::Deserialize;
use serde_json::Value;

use crate::ports::{Answer, Chunk, FinishReason, Likelihood, Part, TokenLogprob};
use crate::stored::chunk::Words;

/// The longest line taken: a piece with log probabilities has some ten thousand bytes.
const MOST_LINE_BYTES: usize = 1 << 20;

/// Why a stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misread {
    /// The upstream says that it failed.
    #[error("the upstream failed: {0}")]
    Failed(String),
    /// It is no stream of chat pieces.
    #[error("not a stream of chat pieces: {0}")]
    Malformed(&'static str),
    /// It ended before the answer did.
    #[error("the stream ended before the answer did")]
    BrokenOff,
}

#[derive(Deserialize)]
struct Piece {
    #[serde(default)]
    choices: Vec<PieceChoice>,
    #[serde(default)]
    usage: Option<PieceUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct PieceChoice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<PieceDelta>,
    #[serde(default)]
    logprobs: Option<PieceLogprobs>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct PieceDelta {
    #[serde(default)]
    content: Option<String>,
    /// DeepSeek's name, and others' after it.
    #[serde(default, alias = "reasoning")]
    reasoning_content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<PieceCall>>,
}

#[derive(Deserialize)]
struct PieceCall {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    function: Option<PieceFunction>,
}

#[derive(Deserialize)]
struct PieceFunction {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct PieceLogprobs {
    #[serde(default)]
    content: Option<Vec<PieceToken>>,
}

#[derive(Deserialize)]
struct PieceToken {
    #[serde(default)]
    token: String,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<PieceToken>,
}

#[derive(Clone, Copy, Deserialize)]
struct PieceUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<PiecePrompt>,
    #[serde(default)]
    completion_tokens_details: Option<PieceAnswer>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PiecePrompt {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PieceAnswer {
    #[serde(default)]
    reasoning_tokens: Option<u32>,
}

/// What is gathered of one of the answers until it can be told.
#[derive(Default)]
struct Voice {
    /// Calls come in pieces and are told whole.
    calls: BTreeMap<u32, (String, String)>,
    reason: Option<FinishReason>,
}

/// Reads one stream.
pub(super) struct Reader {
    line: Vec<u8>,
    voices: Vec<Voice>,
    usage: Option<PieceUsage>,
    /// `[DONE]` was seen.
    done: bool,
    next: u32,
    /// Bytes of all parts so far.
    said: usize,
}

impl Reader {
    /// A reader of a stream of so many answers.
    pub(super) fn new(choices: u32) -> Self {
        let voices = (0..choices.max(1)).map(|_| Voice::default()).collect();
        Self { line: Vec::new(), voices, usage: None, done: false, next: 0, said: 0 }
    }

    /// Takes what has come; returns what may be shown of it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Chunk>, Misread> {
        let mut chunks = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() >= MOST_LINE_BYTES {
                    return Err(Misread::Malformed("a line does not end"));
                }
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line).map_err(|_| Misread::Malformed("a line is no text"))?;
            self.line(line.trim_end_matches('\r'), &mut chunks)?;
        }
        Ok(chunks)
    }

    /// Whether the stream has said that nothing more comes.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// How many bytes of answers have been shown.
    pub(super) const fn said(&self) -> usize {
        self.said
    }

    /// The end of the answers, once the stream has ended. `estimated` are the tokens of prompt and answers, for an
    /// upstream that does not say.
    pub(super) fn answer(&self, estimated: (u32, u32)) -> Result<Answer, Misread> {
        let reasons: Option<Vec<FinishReason>> = self.voices.iter().map(|voice| voice.reason).collect();
        let reasons = reasons.ok_or(Misread::BrokenOff)?;
        let (prompt_tokens, completion_tokens) = match self.usage {
            Some(usage) => (usage.prompt_tokens, usage.completion_tokens),
            None => estimated,
        };
        let cached = self.usage.and_then(|usage| usage.prompt_tokens_details.unwrap_or_default().cached_tokens);
        let reasoning =
            self.usage.and_then(|usage| usage.completion_tokens_details.unwrap_or_default().reasoning_tokens);
        Ok(Answer {
            reasons,
            prompt_tokens,
            completion_tokens,
            cached_tokens: cached.unwrap_or(0).min(prompt_tokens),
            reasoning_tokens: reasoning.unwrap_or(0).min(completion_tokens),
        })
    }

    fn line(&mut self, line: &str, chunks: &mut Vec<Chunk>) -> Result<(), Misread> {
        // Other fields of an event, comments and the blank line between events say nothing to us.
        let Some(data) = line.strip_prefix("data:") else {
            let fields = ["event:", "id:", "retry:", ":"];
            return if line.trim().is_empty() || fields.iter().any(|field| line.starts_with(field)) {
                Ok(())
            } else {
                Err(Misread::Malformed("a line is no field of an event"))
            };
        };
        let data = data.trim();
        if data == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let piece: Piece =
            serde_json::from_str(data).map_err(|_| Misread::Malformed("a piece is no JSON as expected"))?;
        if let Some(error) = piece.error.filter(|error| !error.is_null()) {
            let message = error["message"].as_str().unwrap_or("without a reason");
            return Err(Misread::Failed(message.chars().take(200).collect()));
        }
        if piece.usage.is_some() {
            self.usage = piece.usage;
        }
        for choice in piece.choices {
            self.choice(choice, chunks)?;
        }
        Ok(())
    }

    fn choice(&mut self, choice: PieceChoice, chunks: &mut Vec<Chunk>) -> Result<(), Misread> {
        let place = usize::try_from(choice.index).unwrap_or(usize::MAX);
        let voice = self.voices.get_mut(place).ok_or(Misread::Malformed("more answers than were asked for"))?;
        let delta = choice.delta.unwrap_or_default();
        let mut parts = Vec::new();
        if let Some(text) = delta.reasoning_content.filter(|text| !text.is_empty()) {
            parts.push(Part::Reasoning(text));
        }
        if let Some(text) = delta.content.or(delta.refusal).filter(|text| !text.is_empty()) {
            parts.push(Part::Content(text));
        }
        for call in delta.tool_calls.unwrap_or_default() {
            let (name, arguments) = voice.calls.entry(call.index).or_default();
            if let Some(function) = call.function {
                name.push_str(&function.name.unwrap_or_default());
                arguments.push_str(&function.arguments.unwrap_or_default());
            }
        }
        if let Some(reason) = choice.finish_reason {
            // `content_filter` and what comes next year ended the answer where it ended.
            voice.reason = Some(FinishReason::from_name(&reason).unwrap_or(FinishReason::Stop));
            let calls = std::mem::take(&mut voice.calls);
            parts.extend(calls.into_values().map(|(name, arguments)| Part::Call { name, arguments }));
        }
        let tokens = choice.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default();
        let logprobs: Vec<TokenLogprob> = tokens.into_iter().map(token).collect();
        if parts.is_empty() && logprobs.is_empty() {
            return Ok(());
        }
        self.said = self.said.saturating_add(parts.iter().map(Part::bytes).sum());
        chunks.push(Chunk {
            position: Position { epoch: Epoch(1), seq: self.next },
            parent: None,
            ids: Vec::new(),
            words: Words { choice: choice.index, parts, logprobs },
        });
        self.next = self.next.saturating_add(1);
        Ok(())
    }
}

fn token(token: PieceToken) -> TokenLogprob {
    let likelihood = |token: &PieceToken| Likelihood {
        bytes: token.bytes.clone().unwrap_or_else(|| token.token.clone().into_bytes()),
        logprob: token.logprob,
    };
    TokenLogprob { chosen: likelihood(&token), top: token.top_logprobs.iter().map(likelihood).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"wörld\"},",
        "\"logprobs\":{\"content\":[{\"token\":\"w\",\"logprob\":-0.5,\"bytes\":null,\"top_logprobs\":[]}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":",
        "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\"\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":",
        "{\"arguments\":\":1}\"}}]},\"finish_reason\":null}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13,",
        "\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n",
        "data: [DONE]\n\n",
    );

    fn parts(chunks: &[Chunk]) -> Vec<Part> {
        let mut parts = Vec::new();
        chunks.iter().flat_map(|chunk| chunk.words.parts.clone()).for_each(|part| Part::append(&mut parts, part));
        parts
    }

    proptest! {
        /// However the network cuts the stream, the same is read.
        #[test]
        fn a_stream_is_read_whatever_pieces_it_comes_in(cuts in proptest::collection::vec(0usize..STREAM.len(), 0..20)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let mut reader = Reader::new(1);
            let mut chunks = Vec::new();
            for pair in cuts.windows(2) {
                chunks.extend(reader.take(&STREAM.as_bytes()[pair[0]..pair[1]]).unwrap());
            }
            let call = Part::Call { name: "f".to_owned(), arguments: "{\"a\":1}".to_owned() };
            let expected = [Part::Reasoning("hm".to_owned()), Part::Content("wörld".to_owned()), call];
            prop_assert_eq!(parts(&chunks), expected);
            prop_assert!(reader.is_done());
            let answer = reader.answer((0, 0)).unwrap();
            prop_assert_eq!((answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens), (9, 4, 2));
            prop_assert_eq!(answer.reasons, [FinishReason::ToolCalls]);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Reader::new(1).take(&bytes);
        }
    }

    #[test]
    fn an_answer_without_an_end_was_broken_off_and_one_without_usage_is_estimated() {
        let mut reader = Reader::new(2);
        reader
            .take(b"data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n")
            .unwrap();
        assert_eq!(reader.answer((1, 2)), Err(Misread::BrokenOff));
        reader.take(b"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"content_filter\"}]}\n").unwrap();
        let answer = reader.answer((1, 2)).unwrap();
        assert_eq!((answer.prompt_tokens, answer.completion_tokens), (1, 2));
    }

    #[test]
    fn what_is_no_stream_is_told_from_an_upstream_that_failed() {
        let take = |text: &str| Reader::new(1).take(text.as_bytes()).unwrap_err();
        assert!(matches!(take("<html>\n"), Misread::Malformed(_)));
        assert!(matches!(take("{\"choices\":[]}\n"), Misread::Malformed(_)));
        assert!(matches!(take("data: {\"choices\":[{\"index\":4}]}\n"), Misread::Malformed(_)));
        let failed = take("data: {\"error\":{\"message\":\"no\"}}\n");
        assert_eq!(failed, Misread::Failed("no".to_owned()));
        assert!(matches!(take(&"x".repeat(MOST_LINE_BYTES + 1)), Misread::Malformed(_)));
    }
}
