//! The routes of files and uploads.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use http::{HeaderMap, StatusCode, header};
use penstock_policy::id::JobId;
use penstock_wire::files::{MOST_FILE_BYTES, MOST_PART_BYTES, Purpose, UploadCompletion, UploadRequest};

use super::content::Writer;
use super::file::{NewFile, WRITTEN_WITHIN, file_id};
use super::form::Form;
use crate::Service;
use crate::agenda::{Errand, Kind};
use crate::door::answering::json;
use crate::door::http::read;
use crate::door::paging::Paging;
use crate::error::ApiError;

type App = State<Arc<Service>>;

/// How many files a page has if nobody says, and at most.
const USUAL: usize = 10_000;
const MOST: usize = 10_000;

/// `POST /v1/files`.
pub(crate) async fn create(State(service): App, request: Request) -> Result<Response, ApiError> {
    let now = service.ports.clock.now();
    let tenant = service.authenticate(request.headers(), now).await?;
    service.take_request(&tenant, now).await?;
    let id = file_id(JobId::new(now, service.ports.entropy.draw()));
    // Before the first byte: whatever happens from here on, nothing is left behind.
    service.put_down(&Errand::new(Kind::File, &tenant.id, &id), now.after(WRITTEN_WITHIN)).await?;
    let writer = Writer::new(service.ports.blobs.as_ref(), &tenant.id, &id);
    let form = Form::read(request, "file", writer, MOST_FILE_BYTES).await?;
    let purpose = form.field("purpose").ok_or_else(|| {
        ApiError::invalid("purpose", "missing_required_parameter", "'purpose' is required, such as batch")
    })?;
    let (purpose, name, seconds) = (Purpose::of_client(purpose)?, form.file_name()?, form.expires_after()?);
    let Some((_, run)) = form.content else {
        return Err(ApiError::invalid("file", "missing_required_parameter", "'file' is required"));
    };
    if run.bytes > purpose.most_bytes() {
        return Err(ApiError::file_too_large(purpose.most_bytes()));
    }
    if run.bytes == 0 {
        return Err(ApiError::invalid("file", "invalid_value", "'file' is empty"));
    }
    let expires = seconds.map(|seconds| now.after(Duration::from_secs(seconds)));
    let new = NewFile { id: id.clone(), name, purpose, created: now, expires, runs: vec![run] };
    Ok(json(&service.make_file(&tenant.id, new).await?.shown(&id)))
}

/// `GET /v1/files`.
pub(crate) async fn list(
    State(service): App,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    let paging = Paging::read(query.as_deref().unwrap_or_default(), USUAL, MOST)?;
    let purpose = match paging.more.get("purpose") {
        None => None,
        Some(name) if name == Purpose::BatchOutput.name() => Some(Purpose::BatchOutput),
        Some(name) => Some(Purpose::of_client(name)?),
    };
    Ok(json(&service.list_files(&tenant.id, paging.order, paging.after.as_deref(), paging.limit, purpose).await?))
}

/// `GET /v1/files/{id}`.
pub(crate) async fn show(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    Ok(json(&service.show_file(&tenant.id, &id).await?))
}

/// `DELETE /v1/files/{id}`.
pub(crate) async fn remove(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    Ok(json(&service.delete_file(&tenant.id, &id).await?))
}

/// `GET /v1/files/{id}/content`.
pub(crate) async fn content(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    let file = service.find_file(&tenant.id, &id).await?.ok_or_else(|| ApiError::no_such_file(&id))?;
    let bytes = file.bytes().to_string();
    let body = service.file_bytes(tenant.id.clone(), file).inspect_err(|error| {
        // The status is sent: the client sees the connection break, and fewer bytes than were announced.
        tracing::warn!(%error, "a file's content breaks off");
    });
    let headers = [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, bytes)];
    Ok((StatusCode::OK, headers, Body::from_stream(body)).into_response())
}

/// `POST /v1/uploads`.
pub(crate) async fn begin_upload(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports.clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let ask = UploadRequest::parse(&read(&headers, body).await?)?;
    service.take_request(&tenant, now).await?;
    Ok(json(&service.begin_upload(&tenant.id, ask).await?))
}

/// `POST /v1/uploads/{id}/parts`.
pub(crate) async fn add_part(
    State(service): App,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let now = service.ports.clock.now();
    let tenant = service.authenticate(request.headers(), now).await?;
    service.open_upload(&tenant.id, &id).await?;
    let part = format!("part_{}", JobId::new(now, service.ports.entropy.draw()));
    // What never becomes a part is removed as what never becomes a file is.
    service.put_down(&Errand::new(Kind::Part, &tenant.id, &format!("{id}-{part}")), now.after(WRITTEN_WITHIN)).await?;
    let writer = Writer::new(service.ports.blobs.as_ref(), &tenant.id, &part);
    let form = Form::read(request, "data", writer, MOST_PART_BYTES).await?;
    let Some((_, run)) = form.content.filter(|(_, run)| run.bytes > 0) else {
        return Err(ApiError::invalid("data", "missing_required_parameter", "'data' is required, and not empty"));
    };
    Ok(json(&service.note_part(&tenant.id, &id, part, &run, now).await?))
}

/// `POST /v1/uploads/{id}/complete`.
pub(crate) async fn complete_upload(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    let ask = UploadCompletion::parse(&read(&headers, body).await?)?;
    Ok(json(&service.complete_upload(&tenant.id, &id, &ask).await?))
}

/// `POST /v1/uploads/{id}/cancel`.
pub(crate) async fn cancel_upload(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    Ok(json(&service.cancel_upload(&tenant.id, &id).await?))
}
