//! The routes: bytes in, a use case, bytes out. Nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use penstock_policy::admission::tier_of_class;
use penstock_policy::classes::Class;
use penstock_policy::gcra::{self, Limit};
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;
use penstock_wire::chat::{
    AnswerMessage, ChatRequest, Choice, ChunkChoice, Completion, CompletionChunk, Delta, MAX_BODY_BYTES, Usage,
};
use penstock_wire::models::{Model, ModelList};
use penstock_wire::sse;
use tracing::Instrument;

use crate::Service;
use crate::admit::{Admission, How};
use crate::error::ApiError;
use crate::ports::{Answer, Levels, Tenant, TenantLimits};
use crate::relay::{End, Progress, Relay};

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
    let idempotency_key = idempotency_key(&headers)?;
    let admission = service.admit(&tenant, &request, idempotency_key, now).await?;
    let told = told(&admission, &tenant, now);
    let relay = Relay::new(Arc::clone(&service), admission.job);
    let answer = Answering { service, admission, model: request.model, usage: request.include_usage };
    let mut response = if request.stream { answer.streamed(relay).await? } else { answer.whole(relay).await? };
    response.headers_mut().extend(told);
    Ok(response)
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::too_large(MAX_BODY_BYTES)),
        Err(_) => Err(ApiError::invalid("body", "invalid_body", "the body broke off before its end")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=256).contains(&key.len()) => Ok(Some(key)),
        Ok(_) | Err(_) => {
            let message = "'Idempotency-Key' must be 1 to 256 characters of printable ASCII";
            Err(ApiError::invalid("Idempotency-Key", "invalid_value", message))
        }
    }
}

/// The headers that say what admission knows.
fn told(admission: &Admission, tenant: &Tenant, now: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut tell = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let (served_by, own) = match admission.how {
        How::Fresh => ("fresh", true),
        How::Joined => ("fresh", false),
        How::Served => ("l2", false),
    };
    tell("x-penstock-served-by", served_by.to_owned());
    if own {
        tell("x-penstock-job-id", admission.job.to_string());
    }
    if let Some(wait) = admission.wait {
        tell("x-penstock-eta-ms", wait.as_millis().to_string());
    }
    if let Some(levels) = &admission.levels {
        let TenantLimits { requests, tokens } = tenant.limits;
        for (name, limit, part) in [
            (
                ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
                requests,
                0,
            ),
            (["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"], tokens, 1),
        ] {
            let [most, left, reset] = limit_state(levels, part, &limit, now);
            tell(name[0], most);
            tell(name[1], left);
            tell(name[2], reset);
        }
    }
    headers
}

fn limit_state(levels: &Levels, part: usize, limit: &Limit, now: Timestamp) -> [String; 3] {
    let bucket = levels.part(part);
    let full_in = gcra::backlog(bucket, now);
    [limit.burst().to_string(), gcra::available(bucket, limit, now).to_string(), go_duration(full_in)]
}

/// A duration as OpenAI writes them in `x-ratelimit-reset-*`: `0s`, `250ms`, `1.5s`, `6m0s`.
fn go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        1..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}s", (ms as f64) / 1000.0),
        _ => format!("{}m{}s", ms / 60_000, (ms % 60_000) / 1000),
    }
}

fn json(value: &impl serde::Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A whole answer as its client reads it.
pub(crate) fn completion(
    id: JobId,
    created: Timestamp,
    model: &str,
    class: Class,
    text: String,
    answer: &Answer,
) -> Completion {
    let message = AnswerMessage { role: "assistant".to_owned(), content: text, refusal: None };
    let finish_reason = answer.reason.name().to_owned();
    Completion {
        id: format!("chatcmpl-{id}"),
        object: "chat.completion".to_owned(),
        created: created.as_secs(),
        model: model.to_owned(),
        choices: vec![Choice { index: 0, message, logprobs: None, finish_reason }],
        usage: Usage::new(answer.prompt_tokens, answer.completion_tokens),
        service_tier: Some(tier_of_class(class).to_owned()),
    }
}

/// One admitted request on its way to an answer.
struct Answering {
    service: Arc<Service>,
    admission: Admission,
    model: String,
    usage: bool,
}

impl Answering {
    /// Waits in silence, so that a failure still has its own status; after a long while commits to 200 and sends a
    /// blank line now and then, which JSON readers skip. A failure after that resets the connection; the client's own
    /// retry of a deterministic or keyed request finds the job or its result.
    async fn whole(self, mut relay: Relay) -> Result<Response, ApiError> {
        let until = self.now().after(self.service.timing().silent_wait);
        if let Some(result) = relay.whole(until).await {
            let (text, answer) = result?;
            return Ok(json(&self.completion(text, &answer)));
        }
        let body = stream::unfold(Some((self, relay)), |state| async {
            let (this, mut relay) = state?;
            let until = this.now().after(this.service.timing().blank_line);
            match relay.whole(until).await {
                None => Some((Ok(Bytes::from_static(b"\n")), Some((this, relay)))),
                Some(Ok((text, answer))) => {
                    let body = serde_json::to_string(&this.completion(text, &answer)).unwrap_or_default();
                    Some((Ok(Bytes::from(body)), None))
                }
                Some(Err(error)) => Some((Err(std::io::Error::other(error.body.error.message)), None)),
            }
        });
        Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
    }

    /// Holds the status back until there are words, an end, or the hold is over; then streams.
    async fn streamed(self, mut relay: Relay) -> Result<Response, ApiError> {
        let until = self.now().after(self.service.timing().status_hold);
        let first = relay.progress(until).await;
        if let Progress::Ended(End::Failed(error)) = first {
            return Err(error);
        }
        let state = Some(Streaming { answering: self, relay, next: Some(first), opened: false });
        let body = stream::unfold(state, |state| async {
            let mut streaming = state?;
            let (frames, goes_on) = streaming.frames().await;
            Some((Ok::<_, std::io::Error>(Bytes::from(frames)), goes_on.then_some(streaming)))
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        Ok((StatusCode::OK, headers, Body::from_stream(body)).into_response())
    }

    fn now(&self) -> Timestamp {
        self.service.ports().clock.now()
    }

    fn completion(&self, text: String, answer: &Answer) -> Completion {
        let Admission { shown, created, class, .. } = &self.admission;
        completion(*shown, *created, &self.model, *class, text, answer)
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        sse::data(&CompletionChunk {
            id: format!("chatcmpl-{}", self.admission.shown),
            object: "chat.completion.chunk".to_owned(),
            created: self.admission.created.as_secs(),
            model: self.model.clone(),
            choices,
            usage,
            service_tier: Some(tier_of_class(self.admission.class).to_owned()),
        })
    }

    fn delta(&self, delta: Delta, finish_reason: Option<&str>) -> String {
        let finish_reason = finish_reason.map(str::to_owned);
        self.chunk(vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason }], None)
    }
}

/// A stream under way.
struct Streaming {
    answering: Answering,
    relay: Relay,
    /// What was seen already while the status was held back.
    next: Option<Progress>,
    opened: bool,
}

impl Streaming {
    /// The next frames, and whether more follow.
    async fn frames(&mut self) -> (String, bool) {
        let mut frames = String::new();
        if !self.opened {
            self.opened = true;
            let role = Delta { role: Some("assistant".to_owned()), content: Some(String::new()) };
            frames.push_str(&self.answering.delta(role, None));
        }
        let progress = match self.next.take() {
            Some(progress) => progress,
            None => {
                let until = self.answering.now().after(self.answering.service.timing().keep_alive);
                self.relay.progress(until).await
            }
        };
        let goes_on = match progress {
            Progress::Quiet => {
                let waited = self.answering.now().since(self.answering.admission.created);
                let left = self.answering.admission.wait.map(|wait| wait.saturating_sub(waited).as_millis());
                frames.push_str(&sse::keep_alive(None, left.and_then(|left| u64::try_from(left).ok())));
                true
            }
            Progress::Text(text) => {
                frames.push_str(&self.answering.delta(Delta { role: None, content: Some(text) }, None));
                true
            }
            Progress::Ended(End::Answered(answer)) => {
                frames.push_str(&self.answering.delta(Delta::default(), Some(answer.reason.name())));
                if self.answering.usage {
                    let usage = Usage::new(answer.prompt_tokens, answer.completion_tokens);
                    frames.push_str(&self.answering.chunk(Vec::new(), Some(usage)));
                }
                frames.push_str(sse::DONE);
                false
            }
            Progress::Ended(End::Failed(error)) => {
                frames.push_str(&sse::data(&error.body));
                frames.push_str(sse::DONE);
                false
            }
        };
        (frames, goes_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (ms, text) in [(0, "0s"), (250, "250ms"), (1500, "1.5s"), (2000, "2s"), (360_000, "6m0s")] {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
