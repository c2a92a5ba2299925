//! The events of a streamed response. Each has a number; a client that lost its connection asks for those after the last
//! it has seen.

use serde::{Deserialize, Serialize};

use super::answer::Response;
use super::item::{Content, Item};
use crate::chat::TokenLogprob;

/// The part of an item that an event is about.
pub type ContentPart = Content;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(tag = "type")]
#[expect(missing_docs, reason = "the fields are those of the objects and items the events are about")]
pub enum ResponseEvent {
    /// The request was accepted.
    #[serde(rename = "response.created")]
    Created { sequence_number: u64, response: Box<Response> },
    /// It waits, in the background.
    #[serde(rename = "response.queued")]
    Queued { sequence_number: u64, response: Box<Response> },
    /// A worker has it.
    #[serde(rename = "response.in_progress")]
    InProgress { sequence_number: u64, response: Box<Response> },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded { sequence_number: u64, output_index: u32, item: Item },
    /// A part of an item begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded { sequence_number: u64, item_id: String, output_index: u32, content_index: u32, part: ContentPart },
    /// More words.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        delta: String,
        logprobs: Vec<TokenLogprob>,
    },
    /// All words of a part.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    /// More thoughts.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta { sequence_number: u64, item_id: String, output_index: u32, content_index: u32, delta: String },
    /// All thoughts of a part.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone { sequence_number: u64, item_id: String, output_index: u32, content_index: u32, text: String },
    /// The arguments of a call.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { sequence_number: u64, item_id: String, output_index: u32, delta: String },
    /// All arguments of a call.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { sequence_number: u64, item_id: String, output_index: u32, name: String, arguments: String },
    /// A part of an item ends.
    #[serde(rename = "response.content_part.done")]
    PartDone { sequence_number: u64, item_id: String, output_index: u32, content_index: u32, part: ContentPart },
    /// An item ends.
    #[serde(rename = "response.output_item.done")]
    ItemDone { sequence_number: u64, output_index: u32, item: Item },
    /// The answer is whole.
    #[serde(rename = "response.completed")]
    Completed { sequence_number: u64, response: Box<Response> },
    /// The answer reached the most tokens allowed.
    #[serde(rename = "response.incomplete")]
    Incomplete { sequence_number: u64, response: Box<Response> },
    /// There is no (more) answer; the response's status says whether it failed or was cancelled.
    #[serde(rename = "response.failed")]
    Failed { sequence_number: u64, response: Box<Response> },
}
