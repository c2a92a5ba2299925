//! The forms that files come in: read as they stream in, so there is no type that holds one; these say what is in them.
#![expect(dead_code, reason = "only their schemas are used")]

use schemars::JsonSchema;
use serde::Deserialize;

/// `POST /v1/files`.
#[derive(Deserialize, JsonSchema)]
pub(super) struct FileForm {
    /// What the file is for, such as `batch`.
    purpose: String,
    /// The file.
    #[schemars(extend("format" = "binary"))]
    file: String,
    /// Always `created_at`, if the file is to go by itself.
    #[serde(rename = "expires_after[anchor]")]
    expires_after_anchor: Option<String>,
    /// For how many seconds the file is kept then.
    #[serde(rename = "expires_after[seconds]")]
    expires_after_seconds: Option<u64>,
}

/// `POST /v1/uploads/{id}/parts`.
#[derive(Deserialize, JsonSchema)]
pub(super) struct PartForm {
    /// The part's bytes.
    #[schemars(extend("format" = "binary"))]
    data: String,
}
