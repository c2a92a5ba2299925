//! The routes: bytes in, a use case, bytes out. Nothing is decided here.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use penstock_policy::id::JobId;
use penstock_wire::chat::{ChatRequest, MAX_BODY_BYTES};
use penstock_wire::models::{Model, ModelList};
use tracing::Instrument;

use crate::Service;
use crate::answering::{Answering, json};
use crate::asked::Asked;
use crate::error::ApiError;
use crate::fallback::Obtained;
use crate::told::told;
use crate::usage::Days;
use crate::wanted::Wanted;

type App = State<Arc<Service>>;

/// All routes: what the embedded server offers.
pub fn router(service: Arc<Service>) -> Router {
    with_fallbacks(front().merge(jobs()), service)
}

/// The inference routes: what the Lambda `front` offers.
pub fn front_router(service: Arc<Service>) -> Router {
    with_fallbacks(front(), service)
}

/// The routes about jobs and models: what the Lambda `jobs` offers.
pub fn jobs_router(service: Arc<Service>) -> Router {
    with_fallbacks(jobs(), service)
}

fn front() -> Router<Arc<Service>> {
    Router::new().route("/v1/chat/completions", post(chat)).route("/healthz", get(health))
}

fn jobs() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/jobs/{id}", get(job).delete(cancel))
        .route("/v1/jobs/{id}/explain", get(explain))
        .route("/v1/usage", get(usage))
}

fn with_fallbacks(router: Router<Arc<Service>>, service: Arc<Service>) -> Router {
    router
        .fallback(async |request: Request| ApiError::no_such_route(request.method(), request.uri().path()))
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::wrong_method(request.method(), request.uri().path())
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&service), name_request))
        .with_state(service)
}

/// Gives every answer an `x-request-id`, which the stock clients show to their users.
async fn name_request(State(service): App, request: Request, next: axum::middleware::Next) -> Response {
    let id = JobId::new(service.ports().clock.now(), service.ports().entropy.draw());
    let span = tracing::info_span!("request", id = %format_args!("req_{id}"), path = request.uri().path());
    let mut response = next.run(request).instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&format!("req_{id}")) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

async fn health() -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "{\"status\":\"ok\"}").into_response()
}

async fn models(State(service): App, headers: HeaderMap) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    service.authenticate(&headers, now).await?;
    let pools = service.pools(now).await?;
    let list = pools.iter().map(|pool| Model::new(&pool.model, pool.created.as_secs())).collect();
    Ok(json(&ModelList::new(list)))
}

async fn model(State(service): App, headers: HeaderMap, Path(name): Path<String>) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    service.authenticate(&headers, now).await?;
    let pools = service.pools(now).await?;
    match pools.iter().find(|pool| pool.model == name) {
        Some(pool) => Ok(json(&Model::new(&pool.model, pool.created.as_secs()))),
        None => {
            let known: Vec<&str> = pools.iter().map(|pool| pool.model.as_str()).collect();
            Err(ApiError::no_such_model(&name, &known))
        }
    }
}

async fn job(State(service): App, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let id = id.parse().map_err(|_| ApiError::no_such_job())?;
    Ok(json(&service.job(&tenant, id).await?))
}

async fn explain(State(service): App, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let id = id.parse().map_err(|_| ApiError::no_such_job())?;
    Ok(json(&service.explain(&tenant, id).await?))
}

async fn usage(State(service): App, headers: HeaderMap, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let days = Days::read(query.as_deref().unwrap_or_default(), now)?;
    Ok(json(&service.usage(&tenant.id, &days).await?))
}

async fn cancel(State(service): App, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let id = id.parse().map_err(|_| ApiError::no_such_job())?;
    Ok(json(&service.cancel(&tenant, id).await?))
}

async fn chat(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let body = read(body).await?;
    let request = ChatRequest::parse(&body)?;
    let asked = Asked::read(&headers)?;
    let Obtained { admission, source, made } = service.answer(&tenant, Wanted::Chat(&request), &asked, now).await?;
    let mut told = told(&admission, &tenant, now);
    made.tell(&mut told);
    let answer =
        Answering { service, admission, model: request.model, choices: request.n, usage: request.include_usage };
    let mut response = if request.stream { answer.streamed(source).await? } else { answer.whole(source).await? };
    response.headers_mut().extend(told);
    Ok(response)
}

/// How much of a body that is too large is read and thrown away. A client that is answered while it still sends often
/// sees a broken connection instead of the answer.
const DRAINED_BYTES: usize = 64 << 20;

async fn read(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut gathered, mut length) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let broken = |_| ApiError::invalid("body", "invalid_body", "the body broke off before its end");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= MAX_BODY_BYTES {
            gathered.extend_from_slice(&data);
        } else {
            gathered = Vec::new();
        }
        if length > DRAINED_BYTES {
            break;
        }
    }
    if length > MAX_BODY_BYTES { Err(ApiError::too_large(MAX_BODY_BYTES)) } else { Ok(gathered) }
}
