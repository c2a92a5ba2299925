//! The answers, whole and in chunks, exactly as the stock clients read them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Usage;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// `chatcmpl-` and the job's id.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Seconds since the epoch at which the request was accepted.
    pub created: i64,
    /// The model that answered.
    pub model: String,
    /// The answers; one.
    pub choices: Vec<Choice>,
    /// Tokens used.
    pub usage: Usage,
    /// The tier the request was served in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
}

/// One of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its number, from 0.
    pub index: u32,
    /// What was said.
    pub message: AnswerMessage,
    /// Always null: log probabilities are not offered.
    pub logprobs: Option<Value>,
    /// `stop` or `length`.
    pub finish_reason: String,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Always null.
    pub refusal: Option<String>,
}

/// A part of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionChunk {
    /// As in [`Completion`].
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: String,
    /// As in [`Completion`].
    pub created: i64,
    /// As in [`Completion`].
    pub model: String,
    /// One, or none in the chunk that holds the usage.
    pub choices: Vec<ChunkChoice>,
    /// The usage, in the last chunk, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// As in [`Completion`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
}

/// A piece of one of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// Its number, from 0.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Always null.
    pub logprobs: Option<Value>,
    /// Set in the last piece: `stop` or `length`.
    pub finish_reason: Option<String>,
}

/// What a piece adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
