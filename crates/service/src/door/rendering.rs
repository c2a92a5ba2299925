//! From what a job has said, part by part, to what the stock clients read.

use std::collections::BTreeMap;

use penstock_policy::admission::tier_of_class;
use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;
use penstock_wire::chat::{
    AnswerMessage, Choice, Completion, CompletionDetails, Delta, FunctionCall, Likelihood, Logprobs, PromptDetails,
    TokenLogprob, ToolCall, ToolCallDelta, Usage,
};

use crate::ports::{Answer, Chunk, FinishReason, Part};
use crate::stored::chunk::Words;

/// Names the tool calls of one job, as its client knows the job: the same calls get the same names however often and in
/// whatever pieces they are told.
#[derive(Clone)]
pub(crate) struct CallNames {
    shown: JobId,
    /// How many calls each answer has made.
    made: BTreeMap<u32, u32>,
}

impl CallNames {
    pub(crate) fn new(shown: JobId) -> Self {
        Self { shown, made: BTreeMap::new() }
    }

    /// The number and the name of the next call of an answer.
    pub(crate) fn next(&mut self, choice: u32) -> (u32, String) {
        let made = self.made.entry(choice).or_insert(0);
        let index = *made;
        *made += 1;
        (index, format!("call_{}_{choice}_{index}", self.shown))
    }
}

/// The pieces of a stream that a chunk's words make.
pub(crate) fn deltas(words: &Words, calls: &mut CallNames) -> Vec<Delta> {
    let delta = |part: &Part| match part {
        Part::Content(text) => Some(Delta { content: Some(text.clone()), ..Delta::default() }),
        Part::Reasoning(text) => Some(Delta { reasoning_content: Some(text.clone()), ..Delta::default() }),
        Part::Call { name, arguments } => {
            let (index, id) = calls.next(words.choice);
            let tool_calls = vec![ToolCallDelta { index, call: call(id, name, arguments) }];
            Some(Delta { tool_calls, ..Delta::default() })
        }
        // The answer to another question than a conversation.
        Part::Vectors(_) => None,
    };
    words.parts.iter().filter_map(delta).collect()
}

fn call(id: String, name: &str, arguments: &str) -> ToolCall {
    let function = FunctionCall { name: name.to_owned(), arguments: arguments.to_owned() };
    ToolCall { id, kind: "function".to_owned(), function }
}

/// Log probabilities as the client reads them; `None` if there are none.
pub(crate) fn logprobs(tokens: &[crate::ports::TokenLogprob]) -> Option<Logprobs> {
    let likelihood = |token: &crate::ports::Likelihood| Likelihood::new(token.bytes.clone(), token.logprob);
    let content: Vec<TokenLogprob> = tokens
        .iter()
        .map(|token| TokenLogprob {
            chosen: likelihood(&token.chosen),
            top_logprobs: token.top.iter().map(likelihood).collect(),
        })
        .collect();
    (!content.is_empty()).then_some(Logprobs { content, refusal: None })
}

/// A whole answer as its client reads it.
pub(crate) fn completion(
    shown: JobId,
    created: Timestamp,
    model: &str,
    class: Class,
    said: &[Chunk],
    answer: &Answer,
) -> Completion {
    let mut calls = CallNames::new(shown);
    let choices = (0..).zip(&answer.reasons).map(|(index, &reason)| {
        let words = said.iter().map(|chunk| &chunk.words).filter(|words| words.choice == index);
        choice(index, reason, words, &mut calls)
    });
    Completion {
        id: format!("chatcmpl-{shown}"),
        object: "chat.completion".to_owned(),
        created: created.as_secs(),
        model: model.to_owned(),
        choices: choices.collect(),
        usage: usage(answer),
        service_tier: Some(tier_of_class(class).to_owned()),
    }
}

fn choice<'w>(
    index: u32,
    reason: FinishReason,
    words: impl Iterator<Item = &'w Words>,
    calls: &mut CallNames,
) -> Choice {
    let (mut content, mut reasoning, mut tool_calls, mut tokens) =
        (String::new(), String::new(), Vec::new(), Vec::new());
    for words in words {
        tokens.extend_from_slice(&words.logprobs);
        for part in &words.parts {
            match part {
                Part::Content(text) => content.push_str(text),
                Part::Reasoning(text) => reasoning.push_str(text),
                Part::Call { name, arguments } => tool_calls.push(call(calls.next(index).1, name, arguments)),
                Part::Vectors(_) => {}
            }
        }
    }
    let silent = content.is_empty() && !tool_calls.is_empty();
    Choice {
        index,
        message: AnswerMessage {
            role: "assistant".to_owned(),
            content: (!silent).then_some(content),
            reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
            tool_calls,
            refusal: None,
        },
        logprobs: logprobs(&tokens),
        finish_reason: reason.name().to_owned(),
    }
}

/// What an answer cost, as its client reads it.
pub(crate) fn usage(answer: &Answer) -> Usage {
    Usage {
        prompt_tokens_details: PromptDetails { cached_tokens: answer.cached_tokens },
        completion_tokens_details: CompletionDetails { reasoning_tokens: answer.reasoning_tokens },
        ..Usage::new(answer.prompt_tokens, answer.completion_tokens)
    }
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::Epoch;
    use penstock_policy::job::Position;

    use super::*;

    fn chunk(seq: u32, choice: u32, parts: Vec<Part>) -> Chunk {
        let words = Words { choice, parts, ..Words::default() };
        Chunk { position: Position { epoch: Epoch(1), seq }, parent: None, ids: Vec::new(), words }
    }

    fn a_call(name: &str) -> Part {
        Part::Call { name: name.to_owned(), arguments: "{}".to_owned() }
    }

    #[test]
    fn a_stream_and_a_whole_answer_name_the_same_calls_alike() {
        let shown = JobId::new(Timestamp::from_millis(1), 2);
        let said = [
            chunk(0, 0, vec![Part::Reasoning("hm".to_owned()), a_call("f")]),
            chunk(1, 1, vec![Part::Content("no".to_owned())]),
            chunk(2, 0, vec![a_call("g")]),
        ];
        let answer = Answer {
            reasons: vec![FinishReason::ToolCalls, FinishReason::Stop],
            prompt_tokens: 1,
            completion_tokens: 2,
            cached_tokens: 0,
            reasoning_tokens: 1,
        };
        let whole = completion(shown, Timestamp::from_millis(1), "m", Class::P1, &said, &answer);
        let message = &whole.choices[0].message;
        assert_eq!((message.content.as_deref(), message.reasoning_content.as_deref()), (None, Some("hm")));
        assert_eq!(whole.choices[1].message.content.as_deref(), Some("no"));
        let mut calls = CallNames::new(shown);
        let streamed: Vec<ToolCallDelta> =
            said.iter().flat_map(|chunk| deltas(&chunk.words, &mut calls)).flat_map(|delta| delta.tool_calls).collect();
        assert_eq!(streamed.iter().map(|delta| delta.index).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(streamed.into_iter().map(|delta| delta.call).collect::<Vec<_>>(), message.tool_calls);
        assert_ne!(message.tool_calls[0].id, message.tool_calls[1].id);
    }
}
