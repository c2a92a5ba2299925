//! `GET` and `DELETE /v1/jobs/{id}`: a request looked at as the job it became.

use serde::{Deserialize, Serialize};

use crate::chat::{Completion, Usage};
use crate::completions::TextCompletion;
use crate::embeddings::EmbeddingList;
use crate::error::ErrorObject;
use crate::responses::Response;

/// An answer in the form of the route that its request came by; `object` tells which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum JobResult {
    /// `chat.completion`.
    Chat(Completion),
    /// `text_completion`.
    Text(TextCompletion),
    /// `response`.
    Response(Box<Response>),
    /// `list`, of vectors, with numbers as numbers.
    Embeddings(EmbeddingList),
}

/// A job as its tenant sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Job {
    /// The id from the answer's `x-penstock-job-id`.
    pub id: String,
    /// Always `job`.
    pub object: String,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled` or `expired`.
    pub status: String,
    /// The model asked for.
    pub model: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch of the newest claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// Seconds since the epoch of the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<i64>,
    /// What was promised when it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promise: Option<JobPromise>,
    /// The answer, once succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// The error, once failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorObject>,
    /// Tokens used, once ended by a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What was promised of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct JobPromise {
    /// Milliseconds from its acceptance within which half of such jobs end.
    pub eta_ms_50: u64,
    /// Milliseconds within which nineteen of twenty do.
    pub eta_ms_95: u64,
}
