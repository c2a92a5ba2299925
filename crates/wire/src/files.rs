//! `/v1/files` and `/v1/uploads`: what clients keep here, to be read by a batch or by them.

use serde::{Deserialize, Serialize};

use crate::error::BadRequest;
use crate::reading;

/// The most bytes of a file that feeds a batch.
pub const MOST_BATCH_BYTES: u64 = 200 << 20;

/// The most bytes of any other file.
pub const MOST_FILE_BYTES: u64 = 512 << 20;

/// The most bytes of a part of an upload.
pub const MOST_PART_BYTES: u64 = 64 << 20;

/// The most parts of an upload: what a file's record has room to name.
pub const MOST_PARTS: usize = 2_000;

/// The longest file name, in bytes.
const LONGEST_NAME: usize = 512;

/// For how many seconds a file may be kept, if it is to end by itself.
const KEPT_SECONDS: core::ops::RangeInclusive<u64> = 3_600..=2_592_000;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The requests of a batch, one a line.
    Batch,
    /// The answers of a batch, made here.
    BatchOutput,
    /// Whatever its owner wants.
    UserData,
    /// Whatever its owner wants, in the words of other services.
    Assistants,
    /// The same.
    Vision,
    /// The same.
    Evals,
    /// The same.
    #[serde(rename = "fine-tune")]
    FineTune,
}

impl Purpose {
    /// What clients may send.
    const OF_CLIENTS: [Self; 6] =
        [Self::Batch, Self::UserData, Self::Assistants, Self::Vision, Self::Evals, Self::FineTune];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
            Self::UserData => "user_data",
            Self::Assistants => "assistants",
            Self::Vision => "vision",
            Self::Evals => "evals",
            Self::FineTune => "fine-tune",
        }
    }

    /// The purpose a client names.
    ///
    /// # Errors
    /// [`BadRequest`] about `purpose`, with the words there are.
    pub fn of_client(name: &str) -> Result<Self, BadRequest> {
        Self::OF_CLIENTS.into_iter().find(|purpose| purpose.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::OF_CLIENTS.iter().map(|purpose| purpose.name()).collect();
            BadRequest::field("purpose", "invalid_value", format!("'purpose' must be one of {}", known.join(", ")))
        })
    }

    /// The most bytes a file of it may have.
    #[must_use]
    pub const fn most_bytes(self) -> u64 {
        match self {
            Self::Batch => MOST_BATCH_BYTES,
            Self::BatchOutput | Self::UserData | Self::Assistants | Self::Vision | Self::Evals | Self::FineTune => {
                MOST_FILE_BYTES
            }
        }
    }
}

/// When a file goes by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ExpiresAfter {
    /// Always `created_at`.
    pub anchor: String,
    /// Seconds after that: 3600 (an hour) to 2592000 (30 days).
    pub seconds: u64,
}

impl ExpiresAfter {
    /// The same, checked; `param` is what the request calls it.
    ///
    /// # Errors
    /// [`BadRequest`] naming the field.
    pub fn checked(self, param: &str) -> Result<Self, BadRequest> {
        if self.anchor != "created_at" {
            let message = format!("'{param}.anchor' must be created_at");
            return Err(BadRequest::field(format!("{param}.anchor"), "invalid_value", message));
        }
        if !KEPT_SECONDS.contains(&self.seconds) {
            let (least, most) = (KEPT_SECONDS.start(), KEPT_SECONDS.end());
            let message = format!("'{param}.seconds' must be between {least} and {most}");
            return Err(BadRequest::field(format!("{param}.seconds"), "invalid_value", message));
        }
        Ok(self)
    }
}

/// A file name as it may be kept.
///
/// # Errors
/// [`BadRequest`] about `filename`.
pub fn file_name(name: &str) -> Result<String, BadRequest> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        let message = format!("'filename' must be 1 to {LONGEST_NAME} bytes of one line");
        return Err(BadRequest::field("filename", "invalid_value", message));
    }
    Ok(name.to_owned())
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct File {
    /// Its id, `file-...`.
    pub id: String,
    /// Always `file`.
    pub object: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// When it was made, in seconds since the epoch.
    pub created_at: i64,
    /// When it goes, if it goes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Its name.
    pub filename: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Always `processed`: it can be used as soon as it is there.
    pub status: String,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Page<T> {
    /// Always `list`.
    pub object: String,
    /// What is on it.
    pub data: Vec<T>,
    /// The first id on it.
    pub first_id: Option<String>,
    /// The last id on it; the next page comes `after` it.
    pub last_id: Option<String>,
    /// Whether there is another page.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// Makes a page of things with ids.
    #[must_use]
    pub fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> &str) -> Self {
        let (first, last) = (data.first().map(|one| id(one).to_owned()), data.last().map(|one| id(one).to_owned()));
        Self { object: "list".to_owned(), data, first_id: first, last_id: last, has_more }
    }
}

/// That a file is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct FileDeleted {
    /// The file.
    pub id: String,
    /// Always `file`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

/// What an upload is begun with, as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "UploadRequest"))]
#[serde(default)]
pub(crate) struct RawUpload {
    /// How many bytes all parts will have together.
    bytes: Option<u64>,
    /// The file's name.
    filename: Option<String>,
    /// The file's media type.
    mime_type: Option<String>,
    /// What the file is for.
    purpose: Option<String>,
    /// When the file goes by itself.
    expires_after: Option<ExpiresAfter>,
}

/// A checked `POST /v1/uploads`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRequest {
    /// How many bytes all parts will have together.
    pub bytes: u64,
    /// The file's name.
    pub filename: String,
    /// What the file is for.
    pub purpose: Purpose,
    /// For how many seconds the file is kept.
    pub seconds: Option<u64>,
}

impl UploadRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`BadRequest`] naming the field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawUpload = reading::object(body)?;
        let missing =
            |field: &str| BadRequest::field(field, "missing_required_parameter", format!("'{field}' is required"));
        let purpose = Purpose::of_client(&raw.purpose.ok_or_else(|| missing("purpose"))?)?;
        let bytes = raw.bytes.ok_or_else(|| missing("bytes"))?;
        if bytes == 0 || bytes > purpose.most_bytes() {
            let message = format!("'bytes' must be between 1 and {}", purpose.most_bytes());
            return Err(BadRequest::field("bytes", "invalid_value", message));
        }
        if raw.mime_type.is_none() {
            return Err(missing("mime_type"));
        }
        let seconds = raw.expires_after.map(|after| after.checked("expires_after")).transpose()?;
        Ok(Self {
            bytes,
            filename: file_name(&raw.filename.ok_or_else(|| missing("filename"))?)?,
            purpose,
            seconds: seconds.map(|after| after.seconds),
        })
    }
}

/// What an upload is completed with, as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "UploadCompletion"))]
#[serde(default)]
pub(crate) struct RawCompletion {
    /// The parts, in the order in which they make the file.
    part_ids: Option<Vec<String>>,
    /// The MD5 of the whole file in hexadecimal, to be compared with what came.
    md5: Option<String>,
}

/// A checked `POST /v1/uploads/{id}/complete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadCompletion {
    /// The parts, in the order in which they make the file; at least one, none twice.
    pub part_ids: Vec<String>,
    /// The MD5 that the file must have, in lower-case hexadecimal.
    pub md5: Option<String>,
}

impl UploadCompletion {
    /// Reads a body.
    ///
    /// # Errors
    /// [`BadRequest`] naming the field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawCompletion = reading::object(body)?;
        let part_ids = raw.part_ids.unwrap_or_default();
        if part_ids.is_empty() || part_ids.len() > MOST_PARTS {
            let message = format!("'part_ids' must name 1 to {MOST_PARTS} parts");
            return Err(BadRequest::field("part_ids", "invalid_value", message));
        }
        let once: std::collections::BTreeSet<&String> = part_ids.iter().collect();
        if once.len() < part_ids.len() {
            return Err(BadRequest::field("part_ids", "invalid_value", "'part_ids' names a part twice"));
        }
        let md5 = raw.md5.map(|md5| md5.to_ascii_lowercase());
        if md5.as_ref().is_some_and(|md5| md5.len() != 32 || !md5.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(BadRequest::field("md5", "invalid_value", "'md5' must be 32 hexadecimal digits"));
        }
        Ok(Self { part_ids, md5 })
    }
}

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Upload {
    /// Its id, `upload_...`.
    pub id: String,
    /// Always `upload`.
    pub object: String,
    /// How many bytes all parts will have together.
    pub bytes: u64,
    /// When it was begun, in seconds since the epoch.
    pub created_at: i64,
    /// When it goes if it is not completed.
    pub expires_at: i64,
    /// The file's name.
    pub filename: String,
    /// What the file is for.
    pub purpose: Purpose,
    /// `pending`, `completed`, `cancelled` or `expired`.
    pub status: String,
    /// The file it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
}

/// A part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct UploadPart {
    /// Its id, `part_...`.
    pub id: String,
    /// Always `upload.part`.
    pub object: String,
    /// When it came, in seconds since the epoch.
    pub created_at: i64,
    /// The upload it belongs to.
    pub upload_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_says_what_it_will_be() {
        let body = br#"{"bytes": 10, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "batch",
            "expires_after": {"anchor": "created_at", "seconds": 3600}}"#;
        let upload = UploadRequest::parse(body).unwrap();
        assert_eq!((upload.bytes, upload.purpose, upload.seconds), (10, Purpose::Batch, Some(3600)));
        for (body, param) in [
            (r#"{}"#, "purpose"),
            (r#"{"purpose": "batch_output"}"#, "purpose"),
            (r#"{"purpose": "batch", "bytes": 209715201}"#, "bytes"),
            (r#"{"purpose": "batch", "bytes": 1}"#, "mime_type"),
            (r#"{"purpose": "batch", "bytes": 1, "mime_type": "x", "filename": ""}"#, "filename"),
            (
                r#"{"purpose": "batch", "bytes": 1, "mime_type": "x",
                    "expires_after": {"anchor": "created_at", "seconds": 60}}"#,
                "expires_after.seconds",
            ),
        ] {
            assert_eq!(UploadRequest::parse(body.as_bytes()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn an_upload_is_completed_with_each_part_once() {
        assert!(UploadCompletion::parse(br#"{"part_ids": ["a", "b"]}"#).is_ok());
        for body in
            [r#"{}"#, r#"{"part_ids": []}"#, r#"{"part_ids": ["a", "a"]}"#, r#"{"part_ids": ["a"], "md5": "x"}"#]
        {
            assert!(UploadCompletion::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
