//! What to generate: the payload of a message, as JSON with a version.

use std::collections::BTreeMap;

use penstock_wire::chat::{Format, Message, Tool, ToolChoice};
use penstock_wire::completions::Prompt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version of payloads that only a worker of today reads, because leaving out what it does not know would change the
/// answer. Version 2 came with tools, forms and further sampling, 3 with raw prompts.
const NEWEST: u32 = 3;

/// What to generate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The format's version: the oldest whose readers would overlook nothing the request uses.
    pub v: u32,
    /// The conversation; empty if there are `prompts`.
    pub messages: Vec<Message>,
    /// Prompts that no chat template touches. Each has the same number of the answers, in the order of the prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<Prompt>,
    /// Each answer begins with its raw prompt.
    #[serde(default, skip_serializing_if = "is_default")]
    pub echo: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The date chat templates print, `YYYY-MM-DD`.
    pub date: String,
    /// How many answers are asked for, to all prompts together; at least 1.
    #[serde(default = "one_answer", skip_serializing_if = "is_one_answer")]
    pub choices: u32,
    /// Tell how likely each token was, and so many of the likeliest ones; `None`: do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// The tools the model may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Whether it may, must or must not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tool_choice: ToolChoice,
    /// Whether it may call several in one answer.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub parallel_tool_calls: bool,
    /// The form the answer must have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: Format,
    /// Variables for the chat template.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub template_kwargs: Map<String, Value>,
}

/// How tokens are chosen. Everything that chance or the calendar could change is fixed here at admission, so that a
/// worker that takes over computes the same answer. The default takes the likeliest token always.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// The nucleus; 1 takes all tokens.
    pub top_p: f32,
    /// The draw for position `i` of the answer depends on `(seed, i)` alone.
    pub seed: u64,
    /// The most tokens of the answer; `None`: what the context leaves.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// -2 to 2.
    pub presence_penalty: f32,
    /// -2 to 2.
    pub frequency_penalty: f32,
    /// Only so many of the likeliest tokens, at least 1; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Only tokens at least this likely, as a part of the likeliest one's probability; 0 takes all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p: f32,
    /// Above 0, up to 2; 1 penalises nothing.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logit_bias: BTreeMap<u32, f32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            max_tokens: None,
            stop: Vec::new(),
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
        }
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            v: 1,
            messages: Vec::new(),
            prompts: Vec::new(),
            echo: false,
            sampling: Sampling::default(),
            date: String::new(),
            choices: 1,
            logprobs: None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            format: Format::Text,
            template_kwargs: Map::new(),
        }
    }
}

impl Sampling {
    /// The seed of one of the answers asked for: each draws its own tokens, and the first draws as if it were the only
    /// one.
    #[must_use]
    pub const fn seed_of(&self, choice: u32) -> u64 {
        // An odd multiplier is a bijection, and the sampler mixes what it gets.
        self.seed.wrapping_add((choice as u64).wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Whether a worker that knows payloads of version 1 only would choose the same tokens.
    fn is_of_version_1(&self) -> bool {
        self.top_k.is_none() && self.min_p == 0.0 && is_one(&self.repetition_penalty) && self.logit_bias.is_empty()
    }
}

impl Generation {
    /// The same, with the oldest version whose readers would give this answer.
    #[must_use]
    pub fn versioned(mut self) -> Self {
        self.v = match (self.prompts.is_empty(), self.is_of_version_1()) {
            (false, _) => NEWEST,
            (true, false) => 2,
            (true, true) => 1,
        };
        self
    }

    /// How many prompts there are: a conversation is one.
    #[must_use]
    pub fn prompt_count(&self) -> usize {
        self.prompts.len().max(1)
    }

    /// The raw prompt that answer `choice` is an answer to; `None` if it is one to the conversation.
    #[must_use]
    pub fn prompt_of(&self, choice: u32) -> Option<&Prompt> {
        let each = (self.choices as usize / self.prompt_count()).max(1);
        self.prompts.get(choice as usize / each).or(self.prompts.last())
    }

    fn is_of_version_1(&self) -> bool {
        let plain_talk = |message: &Message| {
            let Message { role: _, content: _, name: _, tool_calls, tool_call_id: _, reasoning_content } = message;
            tool_calls.is_empty() && reasoning_content.is_none()
        };
        self.sampling.is_of_version_1()
            && self.choices == 1
            && self.logprobs.is_none()
            && self.tools.is_empty()
            && self.format == Format::Text
            && self.template_kwargs.is_empty()
            && self.messages.iter().all(plain_talk)
    }

    /// The tools the model may call; none if it must not.
    #[must_use]
    pub fn callable_tools(&self) -> &[Tool] {
        match self.tool_choice {
            ToolChoice::None => &[],
            ToolChoice::Auto | ToolChoice::Required | ToolChoice::Named(_) => &self.tools,
        }
    }

    /// How many bytes the prompts will be made of, but for what the chat template adds. Tokens count as the bytes that
    /// would make as many at `tokens_per_byte`.
    #[must_use]
    pub fn prompt_bytes(&self, tokens_per_byte: f64) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the ratio is bounded, and positive"
        )]
        let bytes_per_token = (1.0 / tokens_per_byte.clamp(0.01, 16.0)).ceil() as usize;
        let of_prompt = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(ids) => ids.len().saturating_mul(bytes_per_token),
        };
        let raw: usize = self.prompts.iter().map(of_prompt).sum();
        let of_message = |message: &Message| {
            let calls: usize = message.tool_calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
            message.content.len() + calls
        };
        let of_tool = |tool: &Tool| tool.as_json().to_string().len();
        raw + self.messages.iter().map(of_message).chain(self.callable_tools().iter().map(of_tool)).sum::<usize>()
    }

    /// Reads a payload; `None` if it is damaged, or of a version from tomorrow.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(payload).ok().filter(|generation| (1..=NEWEST).contains(&generation.v))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn one_answer() -> u32 {
    1
}

fn is_one_answer(choices: &u32) -> bool {
    *choices == 1
}

fn one() -> f32 {
    1.0
}

fn is_one(value: &f32) -> bool {
    *value == 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a front of version 1 wrote it.
    const FIRST: &str = r#"{"v":1,"messages":[{"role":"user","content":"hi"}],"sampling":{"temperature":0.5,"top_p":1.0,
        "seed":7,"max_tokens":null,"stop":["x"],"presence_penalty":0.0,"frequency_penalty":0.0},"date":"2026-11-21"}"#;

    #[test]
    fn what_version_1_wrote_is_read_and_what_it_could_have_written_is_written_as_it_did() {
        let read = Generation::read(FIRST.as_bytes()).unwrap();
        assert_eq!((read.sampling.seed, read.sampling.repetition_penalty, read.sampling.top_k), (7, 1.0, None));
        let written = serde_json::to_value(read.versioned()).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(FIRST).unwrap());
    }

    #[test]
    fn a_worker_that_would_overlook_something_refuses_to_read_it() {
        let sampling = Sampling { top_k: Some(5), ..Sampling::default() };
        let generation = Generation { sampling, ..Generation::default() }.versioned();
        assert_eq!(generation.v, 2);
        let text = serde_json::to_string(&generation).unwrap();
        assert_eq!(Generation::read(text.as_bytes()), Some(generation));
        assert_eq!(Generation::read(text.replacen(":2", ":4", 1).as_bytes()), None);
    }

    #[test]
    fn each_prompt_has_its_answers_and_a_worker_that_knows_no_raw_prompts_refuses_them() {
        let prompts = vec![Prompt::Text("a".to_owned()), Prompt::Tokens(vec![7, 8])];
        let generation = Generation { prompts, choices: 4, ..Generation::default() }.versioned();
        assert_eq!(generation.v, 3);
        let of: Vec<_> = (0..4).map(|choice| generation.prompt_of(choice)).collect();
        assert_eq!(of[..2], [Some(&Prompt::Text("a".to_owned())); 2]);
        assert_eq!(of[2..], [Some(&Prompt::Tokens(vec![7, 8])); 2]);
        assert_eq!(Generation::default().prompt_of(0), None);
        assert_eq!(generation.prompt_bytes(0.25), 1 + 2 * 4);
        let text = serde_json::to_string(&generation).unwrap();
        assert_eq!(Generation::read(text.as_bytes()), Some(generation));
    }
}
