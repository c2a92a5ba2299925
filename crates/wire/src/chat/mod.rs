//! `POST /v1/chat/completions`: the request, the whole answer, and the chunks of a streamed one.

mod answer;
pub(crate) mod check;
pub(crate) mod format;
mod logprobs;
mod message;
pub(crate) mod request;
pub(crate) mod tools;
mod usage;

pub use answer::{
    AnswerMessage, Choice, ChunkChoice, Completion, CompletionChunk, Delta, FunctionCall, ToolCall, ToolCallDelta,
};
pub use format::Format;
pub use logprobs::{Likelihood, Logprobs, TokenLogprob};
pub use message::{CalledTool, Message};
pub use request::{ChatRequest, MAX_BODY_BYTES};
pub use tools::{Tool, ToolChoice};
pub use usage::{CompletionDetails, PromptDetails, Usage};
