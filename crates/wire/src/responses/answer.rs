//! The response, as it is made, looked at and streamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::item::Item;
use crate::chat::{CompletionDetails, PromptDetails, Usage};

/// A response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Response {
    /// `resp_` and an id of its own.
    pub id: String,
    /// Always `response`.
    pub object: String,
    /// Seconds since the epoch at which the request was accepted.
    pub created_at: i64,
    /// Where it stands.
    pub status: ResponseStatus,
    /// Why it failed, once it has.
    pub error: Option<ResponseError>,
    /// Why it is incomplete, once it is.
    pub incomplete_details: Option<IncompleteDetails>,
    /// What the model said, once it has.
    pub output: Vec<Item>,
    /// Tokens used, once it has ended with an answer.
    pub usage: Option<ResponseUsage>,
    /// The tier it is served in.
    pub service_tier: String,
    /// What the request asked for.
    #[serde(flatten)]
    pub echo: ResponseEcho,
}

/// Where a response stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// It waits.
    Queued,
    /// A worker has it.
    InProgress,
    /// It has its answer.
    Completed,
    /// It has no answer.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its answer reached the most tokens allowed.
    Incomplete,
}

/// Why a response failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ResponseError {
    /// A stable word.
    pub code: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`.
    pub reason: String,
}

/// What the request asked for, as the response says it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ResponseEcho {
    /// It runs without anybody waiting for it.
    pub background: bool,
    /// What the model was told before the conversation.
    pub instructions: Option<String>,
    /// The most tokens of the answer.
    pub max_output_tokens: Option<u32>,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
    /// The model's name as the client wrote it.
    pub model: String,
    /// Whether several tools may be called at once.
    pub parallel_tool_calls: bool,
    /// The response it continues.
    pub previous_response_id: Option<String>,
    /// How much the model is to think.
    pub reasoning: Reasoning,
    /// It is kept for later.
    pub store: bool,
    /// 0 to 2.
    pub temperature: f32,
    /// The form of the answer.
    pub text: TextSettings,
    /// Whether tools may, must or must not be called.
    pub tool_choice: Value,
    /// The tools the model may call.
    pub tools: Vec<Value>,
    /// How many of the likeliest tokens are told.
    pub top_logprobs: u32,
    /// Above 0, up to 1.
    pub top_p: f32,
    /// Always `disabled`.
    pub truncation: String,
    /// The client's word for its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// How much the model is to think.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Reasoning {
    /// For the chat templates that know of it.
    pub effort: Option<String>,
    /// Always null.
    pub summary: Option<String>,
}

/// The form of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct TextSettings {
    /// `text`, `json_object` or `json_schema`, as the request wrote it.
    pub format: Value,
}

/// Tokens used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ResponseUsage {
    /// Tokens of everything the model read.
    pub input_tokens: u32,
    /// What they were.
    pub input_tokens_details: PromptDetails,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// What they were.
    pub output_tokens_details: CompletionDetails,
    /// Both together.
    pub total_tokens: u32,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: usage.prompt_tokens_details,
            output_tokens: usage.completion_tokens,
            output_tokens_details: usage.completion_tokens_details,
            total_tokens: usage.total_tokens,
        }
    }
}

/// The items a response was asked with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct InputItems {
    /// Always `list`.
    pub object: String,
    /// The items of this page.
    pub data: Vec<Item>,
    /// The id of the first.
    pub first_id: Option<String>,
    /// The id of the last.
    pub last_id: Option<String>,
    /// Whether there are more after it.
    pub has_more: bool,
}

/// A response that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Deleted {
    /// Its id.
    pub id: String,
    /// Always `response`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}
