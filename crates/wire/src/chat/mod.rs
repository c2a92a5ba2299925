//! `POST /v1/chat/completions`: the request, the whole answer, and the chunks of a streamed one.

mod answer;
mod check;
mod logprobs;
mod message;
mod request;
mod usage;

pub use answer::{
    AnswerMessage, Choice, ChunkChoice, Completion, CompletionChunk, Delta, FunctionCall, ToolCall, ToolCallDelta,
};
pub use logprobs::{Likelihood, Logprobs, TokenLogprob};
pub use message::Message;
pub use request::{ChatRequest, MAX_BODY_BYTES};
pub use usage::{CompletionDetails, PromptDetails, Usage};
