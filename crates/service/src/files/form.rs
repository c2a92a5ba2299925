//! Multipart forms, read as they come: fields are short texts, and what is called `file` or `data` goes to the blobs a
//! segment at a time, wherever among the fields it stands.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, Multipart, Request};
use penstock_wire::error::BadRequest;
use penstock_wire::files::{ExpiresAfter, file_name};

use super::content::{Run, Writer};
use crate::error::ApiError;

/// The longest field, in bytes.
const LONGEST_FIELD: usize = 4_096;

/// The most fields of a form.
const MOST_FIELDS: usize = 32;

/// A form that was read.
pub(super) struct Form {
    fields: BTreeMap<String, String>,
    /// The name that the client gave the content, and the content.
    pub(super) content: Option<(Option<String>, Run)>,
}

impl Form {
    /// Reads a form to its end; the content that stands under `named` goes to `writer`.
    ///
    /// # Errors
    /// 400 about the form; 413 if the content is larger than `most` bytes. What was written stays, and is no file's.
    pub(super) async fn read(
        request: Request,
        named: &'static str,
        mut writer: Writer<'_>,
        most: u64,
    ) -> Result<Self, ApiError> {
        let mut form = Multipart::from_request(request, &()).await.map_err(|error| {
            let message = format!("the body must be a form, 'multipart/form-data' with a boundary: {error}");
            ApiError::invalid("body", "invalid_body", message)
        })?;
        let broken = |error: axum::extract::multipart::MultipartError| {
            ApiError::invalid("body", "invalid_body", format!("the form cannot be read: {}", error.body_text()))
        };
        let (mut fields, mut file_name) = (BTreeMap::new(), None);
        let mut found = false;
        while let Some(mut field) = form.next_field().await.map_err(broken)? {
            let name = field.name().unwrap_or_default().to_owned();
            if name != named {
                let mut text = Vec::new();
                while let Some(piece) = field.chunk().await.map_err(broken)? {
                    text.extend_from_slice(&piece);
                    if text.len() > LONGEST_FIELD || fields.len() >= MOST_FIELDS {
                        let message = format!("the form's fields are too many or too long; the file's is '{named}'");
                        return Err(ApiError::invalid("body", "invalid_body", message));
                    }
                }
                let text = String::from_utf8(text)
                    .map_err(|_| ApiError::invalid(&name, "invalid_value", format!("'{name}' is no text")))?;
                fields.insert(name, text);
                continue;
            }
            if std::mem::replace(&mut found, true) {
                return Err(ApiError::invalid(named, "invalid_value", format!("the form has two of '{named}'")));
            }
            file_name = field.file_name().map(str::to_owned);
            while let Some(piece) = field.chunk().await.map_err(broken)? {
                if writer.bytes() + piece.len() as u64 > most {
                    return Err(ApiError::file_too_large(most));
                }
                writer.write(&piece).await?;
            }
        }
        let content = if found { Some((file_name, writer.finish().await?)) } else { None };
        Ok(Self { fields, content })
    }

    /// A field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// The content's name.
    pub(super) fn file_name(&self) -> Result<String, BadRequest> {
        let given = self.content.as_ref().and_then(|(name, _)| name.as_deref());
        // Some clients send the path; its last part is the name.
        let last = given.and_then(|name| name.rsplit(['/', '\\']).next()).filter(|name| !name.is_empty());
        file_name(last.unwrap_or("upload"))
    }

    /// For how many seconds the file is to be kept: `expires_after[anchor]` and `expires_after[seconds]`.
    pub(super) fn expires_after(&self) -> Result<Option<u64>, BadRequest> {
        let (anchor, seconds) = (self.field("expires_after[anchor]"), self.field("expires_after[seconds]"));
        let (Some(anchor), Some(seconds)) = (anchor, seconds) else {
            return match anchor.or(seconds) {
                None => Ok(None),
                Some(_) => {
                    let message = "'expires_after' needs both its anchor and its seconds";
                    Err(BadRequest::field("expires_after", "missing_required_parameter", message))
                }
            };
        };
        let seconds = seconds.parse().map_err(|_| {
            BadRequest::field("expires_after.seconds", "invalid_value", "'expires_after.seconds' must be a number")
        })?;
        let checked = ExpiresAfter { anchor: anchor.to_owned(), seconds }.checked("expires_after")?;
        Ok(Some(checked.seconds))
    }
}
