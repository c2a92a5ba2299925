//! `/v1/batches`: many requests in one file, answered by a moment.
//!
//! A line of the file is `{"custom_id", "method", "url", "body"}`; a line of an answer is `{"id", "custom_id", "response",
//! "error"}`, in the order of the requests. What is wrong with a line as a line (no JSON, no or a second `custom_id`,
//! another `url`) is wrong with the file, and the batch fails before anything runs; what is wrong with its body is
//! answered as the route would answer it, in the error file.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{BadRequest, ErrorObject};
use crate::files::ExpiresAfter;
use crate::reading;

/// The most requests of a batch.
pub const MOST_LINES: u64 = 50_000;

/// The most bytes of a line: of a request's body, and what stands around it.
pub const MOST_LINE_BYTES: usize = crate::chat::MAX_BODY_BYTES + 4_096;

/// The most problems of a file that are listed.
pub const MOST_PROBLEMS: usize = 100;

/// The longest `custom_id`, in bytes.
const LONGEST_NAME: usize = 512;

/// The most pairs of `metadata`, and their longest names and values.
const MOST_METADATA: usize = 16;
const LONGEST_KEY: usize = 64;
const LONGEST_VALUE: usize = 512;

/// The routes whose requests can be in a batch; all lines of one go to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub enum Endpoint {
    /// Conversations.
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    /// Raw prompts.
    #[serde(rename = "/v1/completions")]
    Completions,
    /// Vectors.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    /// Responses.
    #[serde(rename = "/v1/responses")]
    Responses,
}

impl Endpoint {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Completions, Self::Embeddings, Self::Responses];

    /// Its path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
        }
    }

    /// The one of that path.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}

/// Within which time a batch is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub enum Window {
    /// An hour.
    #[serde(rename = "1h")]
    Hour,
    /// Four hours.
    #[serde(rename = "4h")]
    FourHours,
    /// A day.
    #[serde(rename = "24h")]
    Day,
}

impl Window {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Hour, Self::FourHours, Self::Day];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::FourHours => "4h",
            Self::Day => "24h",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.name() == name)
    }

    /// How long it is.
    #[must_use]
    pub const fn time(self) -> Duration {
        match self {
            Self::Hour => Duration::from_secs(3600),
            Self::FourHours => Duration::from_secs(4 * 3600),
            Self::Day => Duration::from_secs(24 * 3600),
        }
    }
}

/// What a batch is made with, as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "BatchRequest"))]
#[serde(default)]
pub(crate) struct RawBatch {
    /// The file with the requests, one a line; its purpose is `batch`.
    input_file_id: Option<String>,
    /// The route that all of them go to.
    endpoint: Option<String>,
    /// Within which time they are to be done: `1h`, `4h` or `24h`.
    completion_window: Option<String>,
    /// Up to 16 pairs of the client's own.
    metadata: Option<BTreeMap<String, String>>,
    /// When the answers' files go by themselves.
    output_expires_after: Option<ExpiresAfter>,
}

/// A checked `POST /v1/batches`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRequest {
    /// The file with the requests.
    pub input_file_id: String,
    /// The route that all of them go to.
    pub endpoint: Endpoint,
    /// Within which time they are to be done.
    pub window: Window,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// For how many seconds the answers' files are kept.
    pub output_seconds: Option<u64>,
}

impl BatchRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`BadRequest`] naming the field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawBatch = reading::object(body)?;
        let missing =
            |field: &str| BadRequest::field(field, "missing_required_parameter", format!("'{field}' is required"));
        let one_of = |field: &str, known: Vec<&str>| {
            let message = format!("'{field}' must be one of {}", known.join(", "));
            BadRequest::field(field, "invalid_value", message)
        };
        let input_file_id = raw.input_file_id.ok_or_else(|| missing("input_file_id"))?;
        let path = raw.endpoint.ok_or_else(|| missing("endpoint"))?;
        let endpoint = Endpoint::from_path(&path)
            .ok_or_else(|| one_of("endpoint", Endpoint::ALL.iter().map(|one| one.path()).collect()))?;
        let window = raw.completion_window.ok_or_else(|| missing("completion_window"))?;
        let window = Window::from_name(&window)
            .ok_or_else(|| one_of("completion_window", Window::ALL.iter().map(|one| one.name()).collect()))?;
        let metadata = raw.metadata.unwrap_or_default();
        let too_long = |(key, value): (&String, &String)| key.len() > LONGEST_KEY || value.len() > LONGEST_VALUE;
        if metadata.len() > MOST_METADATA || metadata.iter().any(too_long) {
            let message = format!(
                "'metadata' may have {MOST_METADATA} pairs, of names up to {LONGEST_KEY} and values up to \
                 {LONGEST_VALUE} bytes"
            );
            return Err(BadRequest::field("metadata", "invalid_value", message));
        }
        let output = raw.output_expires_after.map(|after| after.checked("output_expires_after")).transpose()?;
        let output_seconds = output.map(|after| after.seconds);
        Ok(Self { input_file_id, endpoint, window, metadata, output_seconds })
    }
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Its file is being checked.
    Validating,
    /// Its file is no good; `errors` says why.
    Failed,
    /// Its requests wait or run.
    InProgress,
    /// All have ended; the last answers are being written.
    Finalizing,
    /// All is done.
    Completed,
    /// Its time was over before all was done; what was done is in the files.
    Expired,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled; what was done is in the files.
    Cancelled,
}

impl BatchStatus {
    /// Whether nothing about it changes any more.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled => true,
            Self::Validating | Self::InProgress | Self::Finalizing | Self::Cancelling => false,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How many requests a batch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct RequestCounts {
    /// All; 0 until the file is checked.
    pub total: u64,
    /// Answered, and in the output file.
    pub completed: u64,
    /// Refused, failed, expired or cancelled, and in the error file.
    pub failed: u64,
}

/// What is wrong with a batch's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct BatchProblem {
    /// A stable word.
    pub code: String,
    /// The line, from 1, if it is about one.
    pub line: Option<u64>,
    /// What is wrong and what is expected.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
}

/// Everything that is wrong with a batch's file, up to a hundred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct BatchProblems {
    /// Always `list`.
    pub object: String,
    /// In the order of the lines.
    pub data: Vec<BatchProblem>,
}

/// What a batch used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct BatchUsage {
    /// Tokens of the prompts.
    pub input_tokens: u64,
    /// The parts of them.
    pub input_tokens_details: InputDetails,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// The parts of them.
    pub output_tokens_details: OutputDetails,
    /// Both.
    pub total_tokens: u64,
}

/// Parts of the prompts' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct InputDetails {
    /// Those that workers had in their caches.
    pub cached_tokens: u64,
}

/// Parts of the answers' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct OutputDetails {
    /// Those that models said to themselves.
    pub reasoning_tokens: u64,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Batch {
    /// Its id, `batch_...`.
    pub id: String,
    /// Always `batch`.
    pub object: String,
    /// The route that its requests go to.
    pub endpoint: Endpoint,
    /// What is wrong with its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<BatchProblems>,
    /// The file with the requests.
    pub input_file_id: String,
    /// Within which time it is to be done.
    pub completion_window: Window,
    /// Where it stands.
    pub status: BatchStatus,
    /// The file with the answers, once there are some; it grows until the batch is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_file_id: Option<String>,
    /// The file with what was not answered, once there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_file_id: Option<String>,
    /// When it was made, in seconds since the epoch.
    pub created_at: i64,
    /// When its file was found good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_progress_at: Option<i64>,
    /// When its time is over.
    pub expires_at: i64,
    /// When the last of its requests had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finalizing_at: Option<i64>,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<i64>,
    /// When its file was found to be no good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<i64>,
    /// When it was over because its time was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<i64>,
    /// When its cancellation was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelling_at: Option<i64>,
    /// When it was over because it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_at: Option<i64>,
    /// How many requests it has.
    pub request_counts: RequestCounts,
    /// What it used so far.
    pub usage: BatchUsage,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
}

/// A request of a batch.
#[derive(Clone, Debug)]
pub struct Line<'l> {
    /// What its client calls it.
    pub custom_id: String,
    /// The body of the request, as it stands in the file.
    pub body: &'l str,
}

#[derive(Deserialize)]
struct RawLine<'l> {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    body: Option<&'l RawValue>,
}

impl<'l> Line<'l> {
    /// Reads a line of a batch to `endpoint`.
    ///
    /// # Errors
    /// [`BadRequest`] about what makes it no line of such a batch. Its body is not looked into.
    pub fn parse(text: &'l [u8], endpoint: Endpoint) -> Result<Self, BadRequest> {
        let not_json = |error: &dyn core::fmt::Display| BadRequest {
            param: None,
            code: "invalid_json_line",
            message: format!("the line is no JSON object of 'custom_id', 'method', 'url' and 'body': {error}"),
        };
        let text = core::str::from_utf8(text).map_err(|error| not_json(&error))?;
        let raw: RawLine<'l> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let missing = |field: &str| {
            BadRequest::field(field, "missing_required_parameter", format!("'{field}' is required on each line"))
        };
        let custom_id = raw.custom_id.filter(|id| !id.is_empty()).ok_or_else(|| missing("custom_id"))?;
        if custom_id.len() > LONGEST_NAME {
            let message = format!("'custom_id' must have {LONGEST_NAME} bytes at most");
            return Err(BadRequest::field("custom_id", "invalid_value", message));
        }
        if raw.method.ok_or_else(|| missing("method"))? != "POST" {
            return Err(BadRequest::field("method", "invalid_method", "'method' must be POST"));
        }
        if raw.url.ok_or_else(|| missing("url"))? != endpoint.path() {
            let message = format!("'url' must be the batch's endpoint, {}", endpoint.path());
            return Err(BadRequest::field("url", "mismatched_url", message));
        }
        let body = raw.body.ok_or_else(|| missing("body"))?.get();
        if !body.starts_with('{') {
            return Err(BadRequest::field("body", "invalid_type", "'body' must be a JSON object"));
        }
        Ok(Self { custom_id, body })
    }
}

/// A line of the output or the error file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultLine {
    /// Its own id, `batch_req_...`.
    pub id: String,
    /// What its client calls the request.
    pub custom_id: String,
    /// What the route answered; none, if it was never asked.
    pub response: Option<ResultResponse>,
    /// Why it was not asked.
    pub error: Option<ResultError>,
}

/// What a route answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultResponse {
    /// The HTTP status.
    pub status_code: u16,
    /// Names the request.
    pub request_id: String,
    /// The body, as the route would have sent it.
    pub body: Box<RawValue>,
}

/// Why a request was never answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultError {
    /// `batch_expired` or `batch_cancelled`.
    pub code: String,
    /// The same for people.
    pub message: String,
}

/// An error as the body of an answer.
#[derive(Serialize)]
pub struct ErrorAnswer<'e> {
    /// The error.
    pub error: &'e ErrorObject,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_says_what_it_is_made_of() {
        let body = br#"{"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "4h",
            "metadata": {"a": "b"}}"#;
        let batch = BatchRequest::parse(body).unwrap();
        assert_eq!((batch.endpoint, batch.window), (Endpoint::Embeddings, Window::FourHours));
        for (body, param) in [
            (r#"{}"#, "input_file_id"),
            (r#"{"input_file_id": "f"}"#, "endpoint"),
            (r#"{"input_file_id": "f", "endpoint": "/v1/models"}"#, "endpoint"),
            (r#"{"input_file_id": "f", "endpoint": "/v1/responses"}"#, "completion_window"),
            (r#"{"input_file_id": "f", "endpoint": "/v1/responses", "completion_window": "2h"}"#, "completion_window"),
        ] {
            assert_eq!(BatchRequest::parse(body.as_bytes()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn a_line_is_read_and_its_body_left_as_it_stands() {
        let text = br#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model":  "m"}}"#;
        let line = Line::parse(text, Endpoint::Chat).unwrap();
        assert_eq!((line.custom_id.as_str(), line.body), ("a", r#"{"model":  "m"}"#));
        for (text, code) in [
            ("", "invalid_json_line"),
            ("[]", "invalid_json_line"),
            (r#"{"method": "POST"}"#, "missing_required_parameter"),
            (r#"{"custom_id": "a", "method": "GET"}"#, "invalid_method"),
            (r#"{"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}"#, "mismatched_url"),
            (r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}"#, "missing_required_parameter"),
            (r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": []}"#, "invalid_type"),
        ] {
            assert_eq!(Line::parse(text.as_bytes(), Endpoint::Chat).unwrap_err().code, code, "{text}");
        }
        assert!(Line::parse(b"\xff", Endpoint::Chat).is_err());
    }
}
