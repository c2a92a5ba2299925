//! What an answer cost in tokens.

use serde::{Deserialize, Serialize};

/// Tokens used by one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Usage {
    /// Tokens of the prompt, counted once however many answers were asked for.
    pub prompt_tokens: u32,
    /// Tokens of the answers, end tokens included.
    pub completion_tokens: u32,
    /// Both together.
    pub total_tokens: u32,
    /// What the prompt's tokens were.
    #[serde(default)]
    pub prompt_tokens_details: PromptDetails,
    /// What the answers' tokens were.
    #[serde(default)]
    pub completion_tokens_details: CompletionDetails,
}

/// What the prompt's tokens were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct PromptDetails {
    /// Tokens that were in the cache of the worker already.
    pub cached_tokens: u32,
}

/// What the answers' tokens were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct CompletionDetails {
    /// Tokens that the model said to itself.
    pub reasoning_tokens: u32,
}

impl Usage {
    /// Adds prompt and answers up.
    #[must_use]
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, completion_tokens, total_tokens, ..Self::default() }
    }
}
