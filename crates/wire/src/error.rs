//! The error body, the same on every route: `{"error": {"message", "type", "param", "code"}}`.

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ErrorBody {
    /// The error itself.
    pub error: ErrorObject,
}

/// What went wrong, in OpenAI's four fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ErrorObject {
    /// For people: what is wrong and what to do.
    pub message: String,
    /// The family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request field at fault, as a path such as `messages[0].content`.
    pub param: Option<String>,
    /// For programs: a stable word, such as `context_length_exceeded`.
    pub code: Option<String>,
}

impl ErrorBody {
    /// Makes a body.
    #[must_use]
    pub fn new(kind: &str, code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            error: ErrorObject {
                message: message.into(),
                kind: kind.to_owned(),
                param: param.map(str::to_owned),
                code: Some(code.to_owned()),
            },
        }
    }

    /// The body as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A request that cannot be served as it stands; always answered with status 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// The field at fault, if one is.
    pub param: Option<String>,
    /// A stable word: `invalid_json`, `invalid_type`, `invalid_value`, `missing_required_parameter`,
    /// `unsupported_parameter`.
    pub code: &'static str,
    /// What is wrong and what is expected instead.
    pub message: String,
}

impl BadRequest {
    /// Makes a refusal about one field.
    #[must_use]
    pub fn field(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), code, message: message.into() }
    }

    /// The error body of the refusal.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        ErrorBody::new("invalid_request_error", self.code, self.param.as_deref(), self.message.clone())
    }
}

impl core::fmt::Display for BadRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for BadRequest {}
