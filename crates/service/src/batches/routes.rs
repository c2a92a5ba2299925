//! The routes of batches.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::HeaderMap;
use penstock_wire::batches::BatchRequest;

use crate::Service;
use crate::door::answering::json;
use crate::door::http::read;
use crate::door::paging::Paging;
use crate::error::ApiError;

type App = State<Arc<Service>>;

/// How many batches a page has if nobody says, and at most.
const USUAL: usize = 20;
const MOST: usize = 100;

/// `POST /v1/batches`.
pub(crate) async fn create(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports.clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let ask = BatchRequest::parse(&read(&headers, body).await?)?;
    service.take_request(&tenant, now).await?;
    Ok(json(&service.create_batch(&tenant, ask).await?))
}

/// `GET /v1/batches`.
pub(crate) async fn list(
    State(service): App,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    let paging = Paging::read(query.as_deref().unwrap_or_default(), USUAL, MOST)?;
    Ok(json(&service.list_batches(&tenant, paging.order, paging.after.as_deref(), paging.limit).await?))
}

/// `GET /v1/batches/{id}`.
pub(crate) async fn show(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    Ok(json(&service.show_batch(&tenant, &id).await?))
}

/// `POST /v1/batches/{id}/cancel`.
pub(crate) async fn cancel(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports.clock.now()).await?;
    Ok(json(&service.cancel_batch(&tenant, &id).await?))
}
