//! The answers, whole and in chunks, exactly as the stock clients read them.

use serde::{Deserialize, Serialize};

use super::{Logprobs, Usage};

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Completion {
    /// `chatcmpl-` and the job's id.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Seconds since the epoch at which the request was accepted.
    pub created: i64,
    /// The model that answered.
    pub model: String,
    /// The answers, in the order of their numbers.
    pub choices: Vec<Choice>,
    /// Tokens used.
    pub usage: Usage,
    /// The tier the request was served in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
}

/// One of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Choice {
    /// Its number, from 0.
    pub index: u32,
    /// What was said.
    pub message: AnswerMessage,
    /// How likely its tokens were, if asked for.
    pub logprobs: Option<Logprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: String,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: String,
    /// The text; null if there are tool calls and no text.
    pub content: Option<String>,
    /// What the model said to itself before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools the model wants called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Always null.
    pub refusal: Option<String>,
}

/// A tool the model wants called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ToolCall {
    /// Names the call in the message that answers it.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to call.
    pub function: FunctionCall,
}

/// A function and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct FunctionCall {
    /// One of the names in the request's `tools`.
    pub name: String,
    /// JSON text, as the model wrote it.
    pub arguments: String,
}

/// A part of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ChunkChoice {
    /// Its number, from 0.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// How likely the tokens behind it were, if asked for. Some of them may be held back still, or say nothing.
    pub logprobs: Option<Logprobs>,
    /// Set in the last piece: `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<String>,
}

/// What a piece adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of what the model says to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More tool calls, each whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// A tool call in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ToolCallDelta {
    /// Its place among the calls of its answer, from 0.
    pub index: u32,
    /// The call.
    #[serde(flatten)]
    pub call: ToolCall,
}
