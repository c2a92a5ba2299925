//! `/v1/responses`: items in, items out, kept for later, and a stream whose events are numbered.

mod answer;
mod event;
mod item;
pub(crate) mod request;
mod tools;

pub use answer::{
    Deleted, IncompleteDetails, InputItems, Reasoning, Response, ResponseEcho, ResponseError, ResponseStatus,
    ResponseUsage, TextSettings,
};
pub use event::{ContentPart, ResponseEvent};
pub use item::{Content, Item, messages};
pub use request::ResponseRequest;
