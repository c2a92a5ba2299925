//! The routes: bytes in, a use case, bytes out. Nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;
use penstock_policy::trace::{self, TraceContext};
use penstock_wire::chat::{ChatRequest, MAX_BODY_BYTES};
use penstock_wire::completions::CompletionRequest;
use penstock_wire::embeddings::EmbeddingsRequest;
use penstock_wire::models::{Model, ModelList};
use tracing::Instrument;

use crate::Service;
use crate::admission::admit::Admission;
use crate::admission::wanted::Wanted;
use crate::batches::routes as batches;
use crate::degradation::fallback::Obtained;
use crate::door::answering::{Answering, json, whole};
use crate::door::asked::{self, Asked, TRACE_PARENT};
use crate::door::responses;
use crate::door::telling::{ChatTelling, CompletionsTelling, Heading, Telling};
use crate::door::told::told;
use crate::error::ApiError;
use crate::files::routes as files;
use crate::ports::{Pool, PoolKind, Tenant};
use crate::telemetry::spans::{Side, Span, Value};
use crate::telemetry::{Label, Metric};
use crate::tenancy::usage::Days;

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
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::show).delete(responses::remove))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/embeddings", post(embeddings))
        .route("/healthz", get(health))
}

fn jobs() -> Router<Arc<Service>> {
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/files", post(files::create).get(files::list).layer(DefaultBodyLimit::disable()))
        .route("/v1/files/{id}", get(files::show).delete(files::remove))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/uploads", post(files::begin_upload))
        .route("/v1/uploads/{id}/parts", post(files::add_part).layer(DefaultBodyLimit::disable()))
        .route("/v1/uploads/{id}/complete", post(files::complete_upload))
        .route("/v1/uploads/{id}/cancel", post(files::cancel_upload))
        .route("/v1/batches", post(batches::create).get(batches::list))
        .route("/v1/batches/{id}", get(batches::show))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/jobs/{id}", get(job).delete(cancel))
        .route("/v1/jobs/{id}/explain", get(explain))
        .route("/v1/usage", get(usage))
        .route("/v1/promises", get(promises))
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

/// Gives every answer an `x-request-id`, which the stock clients show to their users, and the time until its first byte;
/// and every refusal that was not ours, such as of a path that is no text, our form.
async fn name_request(State(service): App, mut request: Request, next: axum::middleware::Next) -> Response {
    let clock = Arc::clone(&service.ports().clock);
    let begun = clock.now();
    let id = JobId::new(begun, service.ports().entropy.draw());
    // The route as it was written down, never the path itself: a label must not grow with what clients send.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let (trace, parent) = service.trace_of(&mut request, id);
    let span = tracing::info_span!(
        "request",
        id = %format_args!("req_{id}"),
        trace = %format_args!("{:032x}", trace.trace()),
        path = request.uri().path()
    );
    let mut response = in_our_form(next.run(request).instrument(span).await);
    let took = clock.now().since(begun);
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    service.measure(route, &response, took);
    if trace.sampled {
        service.tracer.record(request_span(trace, parent, &format!("{method} {route}"), &response, begun, took));
    }
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    response.headers_mut().insert("openai-processing-ms", HeaderValue::from(took));
    if let Ok(value) = HeaderValue::from_str(&format!("req_{id}")) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// The span of a request, from its arrival to the first byte of its answer.
fn request_span(
    context: TraceContext,
    parent: Option<u64>,
    name: &str,
    response: &Response,
    begun: Timestamp,
    took: Duration,
) -> Span {
    let status = response.status();
    let text = |header: &str| response.headers().get(header).and_then(|value| value.to_str().ok());
    let mut attributes = vec![("http.response.status_code", Value::from(u32::from(status.as_u16())))];
    let headers = [("penstock.served_by", "x-penstock-served-by"), ("penstock.job", "x-penstock-job-id")];
    attributes.extend(headers.into_iter().filter_map(|(name, header)| Some((name, Value::from(text(header)?)))));
    let failed = status.is_server_error().then(|| status.as_str().to_owned());
    let (side, ended) = (Side::Server, begun.after(took));
    Span { context, parent, name: name.to_owned(), side, begun, ended, failed, attributes }
}

impl Service {
    /// The span of a request, and the one it hangs under: its client's, or none in a trace that begins here. What is done for
    /// the request finds it in its header.
    fn trace_of(&self, request: &mut Request, id: JobId) -> (TraceContext, Option<u64>) {
        let span = (self.ports.entropy.draw() >> 64) as u64;
        let asked = asked::trace(request.headers());
        let context = match asked {
            Some(parent) => parent.child(span),
            None => TraceContext::new(id.as_u128(), span, trace::is_kept(id.as_u128(), self.tracer.share())),
        };
        if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
            request.headers_mut().insert(TRACE_PARENT, value);
        }
        (context, asked.map(|parent| parent.span()))
    }

    /// Measures an answer whose first byte is about to be sent.
    fn measure(&self, route: &str, response: &Response, took: Duration) {
        let status = match response.status().as_u16() {
            ..=299 => "2xx",
            300..=499 => "4xx",
            500.. => "5xx",
        };
        let served_by = response.headers().get("x-penstock-served-by");
        let served_by = served_by.and_then(|value| value.to_str().ok()).unwrap_or("none");
        let labels = [(Label::Route, route), (Label::Status, status), (Label::ServedBy, served_by)];
        let refused = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let failed = response.status().is_server_error() && !refused;
        // Also what did not happen: of a series that begins with its first failure no rate can be told.
        let values = [
            (Metric::Requests, 1.0),
            (Metric::Refusals, f64::from(u8::from(refused))),
            (Metric::ServerErrors, f64::from(u8::from(failed))),
            (Metric::FirstByte, took.as_secs_f64()),
        ];
        self.meter.record(&labels, &values);
    }
}

fn in_our_form(response: Response) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/json");
    if !response.status().is_client_error() || is_json {
        return response;
    }
    ApiError::invalid("path", "invalid_value", "the path cannot be read: its '%' escapes are no text").into_response()
}

async fn health() -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "{\"status\":\"ok\"}").into_response()
}

async fn openapi() -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], penstock_wire::OPENAPI).into_response()
}

async fn models(State(service): App, headers: HeaderMap) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    service.authenticate(&headers, now).await?;
    let pools = service.pools(now).await?;
    let list = pools.iter().map(entry).collect();
    Ok(json(&ModelList::new(list)))
}

fn entry(pool: &Pool) -> Model {
    let kind = match pool.kind {
        PoolKind::Generation => "generation",
        PoolKind::Embedding => "embedding",
    };
    Model::new(&pool.model, pool.created.as_secs(), kind, pool.context_length)
}

async fn model(State(service): App, headers: HeaderMap, Path(name): Path<String>) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    service.authenticate(&headers, now).await?;
    let pools = service.pools(now).await?;
    match pools.iter().find(|pool| pool.model == name) {
        Some(pool) => Ok(json(&entry(pool))),
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

/// How well promises have been kept lately: the deployment's own figures, of no tenant in particular.
async fn promises(State(service): App, headers: HeaderMap) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    service.authenticate(&headers, now).await?;
    Ok(json(&service.promises_kept(now).await?))
}

async fn chat(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let request = ChatRequest::parse(&read(&headers, body).await?)?;
    let (choices, include_usage) = (request.n, request.include_usage);
    let telling = |heading| Box::new(ChatTelling::new(heading, choices, include_usage)) as Box<dyn Telling>;
    answer(service, &tenant, &headers, &request, now, telling).await
}

async fn completions(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let request = CompletionRequest::parse(&read(&headers, body).await?)?.ask;
    let include_usage = request.include_usage;
    let telling = |heading| Box::new(CompletionsTelling::new(heading, include_usage)) as Box<dyn Telling>;
    answer(service, &tenant, &headers, &request, now, telling).await
}

/// Finds what answers a request, and answers in its route's form.
async fn answer(
    service: Arc<Service>,
    tenant: &Tenant,
    headers: &HeaderMap,
    request: &ChatRequest,
    now: Timestamp,
    telling: impl FnOnce(Heading) -> Box<dyn Telling>,
) -> Result<Response, ApiError> {
    let (wanted, asked) = (Wanted::Chat(request), Asked::read(headers)?);
    let route = wanted.route();
    if asked.dry_run {
        return service.answer_dry(tenant, wanted, now).await.map_err(|error| error.in_terms_of(route));
    }
    let obtained = match service.answer(tenant, wanted, &asked, now).await {
        Ok(obtained) => obtained,
        Err(error) => return Ok(service.with_limits(error.in_terms_of(route), tenant, now)),
    };
    let Obtained { admission, source, made } = obtained;
    let mut told = told(&admission, tenant, now);
    made.tell(&mut told);
    let telling = telling(admission.heading(&request.model));
    let Admission { created, promise, .. } = admission;
    let answering = Answering { service, route, telling, created, promise };
    let mut response = if request.stream { answering.streamed(source).await? } else { answering.whole(source).await? };
    response.headers_mut().extend(told);
    Ok(response)
}

async fn embeddings(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let request = EmbeddingsRequest::parse(&read(&headers, body).await?)?;
    let (wanted, asked) = (Wanted::Embeddings(&request), Asked::read(&headers)?);
    let Obtained { admission, source, made } = service.answer(&tenant, wanted, &asked, now).await?;
    let mut told = told(&admission, &tenant, now);
    made.tell(&mut told);
    let write = service.write_vectors(request.model, request.encoding);
    let mut response = whole(service, source, write).await?;
    response.headers_mut().extend(told);
    Ok(response)
}

/// How much of a body that is too large is read and thrown away. A client that is answered while it still sends often
/// sees a broken connection instead of the answer.
const DRAINED_BYTES: usize = 64 << 20;

/// The body of a request that brings JSON.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Vec<u8>, ApiError> {
    let wrong_media = wrong_media(headers);
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
    if length > MAX_BODY_BYTES {
        return Err(ApiError::too_large(MAX_BODY_BYTES));
    }
    match wrong_media {
        Some(what) => Err(ApiError::wrong_media(&what)),
        None => Ok(gathered),
    }
}

/// What a body is, by its headers, if it is not JSON. One that says nothing, or what `curl` says of any body, is read.
fn wrong_media(headers: &HeaderMap) -> Option<String> {
    let text = |name: header::HeaderName| {
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase())
    };
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
        return Some(encoding);
    }
    let media = text(header::CONTENT_TYPE)?;
    let essence = media.split(';').next().unwrap_or_default().trim();
    let is_read = ["", "application/json", "text/plain", "application/x-www-form-urlencoded"].contains(&essence)
        || essence.ends_with("+json");
    (!is_read).then(|| essence.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_that_it_is_no_json_is_not_read_as_json() {
        for (name, value, expected) in [
            ("content-type", "application/json; charset=utf-8", None),
            ("content-type", "Application/JSON", None),
            ("content-type", "application/x-www-form-urlencoded", None),
            ("content-type", "multipart/form-data; boundary=x", Some("multipart/form-data")),
            ("content-type", "application/xml", Some("application/xml")),
            ("content-encoding", "identity", None),
            ("content-encoding", "gzip", Some("gzip")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(wrong_media(&headers).as_deref(), expected, "{name}: {value}");
        }
        assert_eq!(wrong_media(&HeaderMap::new()), None);
    }
}
