//! `POST /v1/chat/completions`: the request, the whole answer, and the chunks of a streamed one.

mod answer;
mod request;

pub use answer::{AnswerMessage, Choice, ChunkChoice, Completion, CompletionChunk, Delta, Usage};
pub use request::{ChatRequest, MAX_BODY_BYTES, Message};
