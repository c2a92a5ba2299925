//! How `/v1/completions` tells an answer: text alone, and what is known of its tokens as four lists.

use std::collections::BTreeMap;

use penstock_policy::admission::tier_of_class;
use penstock_wire::chat::Usage;
use penstock_wire::completions::{TextChoice, TextCompletion, TextLogprobs};
use penstock_wire::sse;

use super::{Heading, Telling};
use crate::door::rendering::usage;
use crate::error::ApiError;
use crate::ports::{Answer, Chunk, Likelihood, Part, TokenLogprob};

/// Tells an answer to raw prompts.
pub(crate) struct CompletionsTelling {
    heading: Heading,
    /// A stream ends with its usage.
    include_usage: bool,
    /// How many bytes of each answer's tokens have been told, and how many characters they made.
    told: BTreeMap<u32, Offset>,
}

impl CompletionsTelling {
    pub(crate) fn new(heading: Heading, include_usage: bool) -> Self {
        Self { heading, include_usage, told: BTreeMap::new() }
    }

    /// The whole answer.
    pub(crate) fn completion(&self, said: &[Chunk], answer: &Answer) -> TextCompletion {
        let choices = (0..).zip(&answer.reasons).map(|(index, reason)| {
            let mut tokens = Vec::new();
            let mut text = String::new();
            for words in said.iter().map(|chunk| &chunk.words).filter(|words| words.choice == index) {
                text.extend(words.parts.iter().map(plain));
                tokens.extend_from_slice(&words.logprobs);
            }
            let logprobs = logprobs(&tokens, &mut Offset::default());
            TextChoice { index, text, logprobs, finish_reason: Some(reason.name().to_owned()) }
        });
        self.heading.text_completion(choices.collect(), Some(usage(answer)))
    }

    fn frame(&self, choices: Vec<TextChoice>, usage: Option<Usage>) -> String {
        sse::data(&self.heading.text_completion(choices, usage))
    }
}

impl Heading {
    fn text_completion(&self, choices: Vec<TextChoice>, usage: Option<Usage>) -> TextCompletion {
        TextCompletion {
            id: format!("cmpl-{}", self.shown),
            object: "text_completion".to_owned(),
            created: self.created.as_secs(),
            model: self.model.clone(),
            choices,
            usage,
            service_tier: Some(tier_of_class(self.class).to_owned()),
        }
    }
}

impl Telling for CompletionsTelling {
    fn whole(&self, said: &[Chunk], answer: &Answer) -> String {
        serde_json::to_string(&self.completion(said, answer)).unwrap_or_default()
    }

    fn opening(&mut self) -> String {
        String::new()
    }

    fn said(&mut self, chunk: &Chunk) -> String {
        let words = &chunk.words;
        let text: String = words.parts.iter().map(plain).collect();
        let logprobs = logprobs(&words.logprobs, self.told.entry(words.choice).or_default());
        if text.is_empty() && logprobs.is_none() {
            return String::new();
        }
        self.frame(vec![TextChoice { index: words.choice, text, logprobs, finish_reason: None }], None)
    }

    fn answered(&mut self, answer: &Answer) -> String {
        let end = |(index, reason): (u32, &crate::ports::FinishReason)| {
            let finish_reason = Some(reason.name().to_owned());
            self.frame(vec![TextChoice { index, text: String::new(), logprobs: None, finish_reason }], None)
        };
        let mut frames: String = (0..).zip(&answer.reasons).map(end).collect();
        if self.include_usage {
            frames.push_str(&self.frame(Vec::new(), Some(usage(answer))));
        }
        frames.push_str(sse::DONE);
        frames
    }

    fn failed(&mut self, error: &ApiError) -> String {
        sse::data(&error.body) + sse::DONE
    }
}

/// The text of a part. A raw prompt's answer is in one channel and calls nothing.
fn plain(part: &Part) -> &str {
    match part {
        Part::Content(text) | Part::Reasoning(text) => text,
        Part::Call { .. } | Part::Vectors(_) => "",
    }
}

/// Where the next token begins. Characters are counted where they begin, so that a token that is a later part of a
/// character begins behind it.
#[derive(Clone, Copy, Debug, Default)]
struct Offset(u64);

impl Offset {
    fn pass(&mut self, bytes: &[u8]) -> u64 {
        let begun = self.0;
        let is_first = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
        self.0 = begun.saturating_add(bytes.iter().filter(is_first).count() as u64);
        begun
    }
}

fn logprobs(tokens: &[TokenLogprob], offset: &mut Offset) -> Option<TextLogprobs> {
    let mut told = TextLogprobs::default();
    for token in tokens {
        told.text_offset.push(offset.pass(&token.chosen.bytes));
        let (text, logprob) = written(&token.chosen);
        told.tokens.push(text);
        told.token_logprobs.push(logprob);
        told.top_logprobs.push(token.top.iter().map(written).collect());
    }
    (!told.tokens.is_empty()).then_some(told)
}

fn written(token: &Likelihood) -> (String, f32) {
    let token = penstock_wire::chat::Likelihood::new(token.bytes.clone(), token.logprob);
    (token.token, token.logprob)
}

#[cfg(test)]
mod tests {
    use penstock_policy::classes::Class;
    use penstock_policy::id::{Epoch, JobId};
    use penstock_policy::job::Position;
    use penstock_policy::time::Timestamp;

    use super::*;
    use crate::ports::FinishReason;
    use crate::stored::chunk::Words;

    fn chunk(seq: u32, choice: u32, text: &str) -> Chunk {
        let likely = |character: char| TokenLogprob {
            chosen: Likelihood { bytes: character.to_string().into_bytes(), logprob: -0.5 },
            top: vec![Likelihood { bytes: b"x".to_vec(), logprob: -0.25 }],
        };
        let parts = vec![Part::Content(text.to_owned())];
        let words = Words { choice, parts, logprobs: text.chars().map(likely).collect() };
        Chunk { position: Position { epoch: Epoch(1), seq }, parent: None, ids: Vec::new(), words }
    }

    #[test]
    fn a_stream_and_a_whole_answer_say_the_same() {
        let created = Timestamp::from_millis(7);
        let heading = Heading { shown: JobId::new(created, 2), created, model: "m".to_owned(), class: Class::P1 };
        let said = [chunk(0, 0, "ä1"), chunk(1, 1, "z"), chunk(2, 0, "2")];
        let answer = Answer {
            reasons: vec![FinishReason::Stop, FinishReason::Length],
            prompt_tokens: 1,
            completion_tokens: 4,
            cached_tokens: 0,
            reasoning_tokens: 0,
        };
        let whole = CompletionsTelling::new(heading.clone(), false).completion(&said, &answer);
        let first = &whole.choices[0];
        assert_eq!((first.text.as_str(), first.finish_reason.as_deref()), ("ä12", Some("stop")));
        assert_eq!(first.logprobs.as_ref().unwrap().text_offset, [0, 1, 2]);
        assert_eq!(whole.choices[1].finish_reason.as_deref(), Some("length"));

        let mut telling = CompletionsTelling::new(heading, true);
        let frames: String =
            said.iter().map(|chunk| telling.said(chunk)).collect::<String>() + &telling.answered(&answer);
        let (mut text, mut told, mut usages) = (String::new(), TextLogprobs::default(), 0);
        for data in frames.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
            let piece: TextCompletion = serde_json::from_str(data).unwrap();
            usages += usize::from(piece.usage.is_some());
            for choice in piece.choices.into_iter().filter(|choice| choice.index == 0) {
                text.push_str(&choice.text);
                let more = choice.logprobs.unwrap_or_default();
                told.tokens.extend(more.tokens);
                told.token_logprobs.extend(more.token_logprobs);
                told.top_logprobs.extend(more.top_logprobs);
                told.text_offset.extend(more.text_offset);
            }
        }
        assert_eq!((text.as_str(), Some(&told), usages), ("ä12", first.logprobs.as_ref(), 1));
    }
}
