//! The answers, whole and in chunks: both have the same form here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chat::Usage;

/// A whole answer, or a part of a streamed one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct TextCompletion {
    /// `cmpl-` and the job's id.
    pub id: String,
    /// Always `text_completion`.
    pub object: String,
    /// Seconds since the epoch at which the request was accepted.
    pub created: i64,
    /// The model that answered.
    pub model: String,
    /// The answers in the order of their numbers; in a stream one, or none beside the usage.
    pub choices: Vec<TextChoice>,
    /// Tokens used; in a stream only in the last chunk, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The tier the request was served in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
}

/// One of the answers, or a piece of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct TextChoice {
    /// Its number: the first prompt's answers come first.
    pub index: u32,
    /// What was said, or is new.
    pub text: String,
    /// How likely its tokens were, if asked for.
    pub logprobs: Option<TextLogprobs>,
    /// `stop` or `length`; null in a piece that is not the last.
    pub finish_reason: Option<String>,
}

/// How likely tokens were, as four lists with one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct TextLogprobs {
    /// The tokens; what is no whole character is replaced.
    pub tokens: Vec<String>,
    /// The natural logarithm of each one's probability.
    pub token_logprobs: Vec<f32>,
    /// The likeliest tokens in its place, as many as were asked for.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where in the answer each token begins, in characters.
    pub text_offset: Vec<u64>,
}
