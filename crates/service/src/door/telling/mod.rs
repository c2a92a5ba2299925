//! From what a job has said to the form in which the route of its request tells it.

mod chat;
mod completions;
mod responses;

use penstock_policy::classes::Class;
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;

use crate::error::ApiError;
use crate::ports::{Answer, Chunk};

pub(crate) use chat::ChatTelling;
pub(crate) use completions::CompletionsTelling;
pub(crate) use responses::ResponseTelling;

/// What stands at the head of every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    /// The id the client knows the answer by.
    pub(crate) shown: JobId,
    /// When the request came.
    pub(crate) created: Timestamp,
    /// The model's name as the client wrote it.
    pub(crate) model: String,
    /// The class granted.
    pub(crate) class: Class,
}

/// Tells one answer to one client, either whole or in frames; frames in the order `opening`, any number of `said`, then
/// `answered` or `failed`.
pub(crate) trait Telling: Send + Sync {
    /// The whole answer as JSON.
    fn whole(&self, said: &[Chunk], answer: &Answer) -> String;

    /// The frames before any word.
    fn opening(&mut self) -> String;

    /// The frames of a chunk; maybe none.
    fn said(&mut self, chunk: &Chunk) -> String;

    /// The frames at the end of an answer.
    fn answered(&mut self, answer: &Answer) -> String;

    /// The frames that say why there is no more.
    fn failed(&mut self, error: &ApiError) -> String;
}
