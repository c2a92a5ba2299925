//! The errors a client can meet, and how each is answered.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use penstock_policy::admission::ComeBack;
use penstock_policy::degrade::Tier;
use penstock_policy::time::Timestamp;
use penstock_wire::error::{BadRequest, ErrorBody};

use crate::door::route::Route;
use crate::ports::{ErrorVerdict, PortError, TokenError};

/// An order that holds for longer names no moment to come back.
const NO_MOMENT: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a client is told instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: ErrorBody,
    /// When to come back; sent as `retry-after-ms` and `retry-after`.
    pub retry_after: Option<Duration>,
    /// Overrides what the stock clients make of the status.
    pub should_retry: Option<bool>,
}

/// The code of a job that was cancelled.
const JOB_CANCELLED: &str = "job_cancelled";

impl ApiError {
    fn new(status: StatusCode, kind: &str, code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        let body = ErrorBody::new(kind, code, param, message);
        Self { status, body, retry_after: None, should_retry: None }
    }

    /// Whether the request was turned away for lack of room: by a limit, a full queue, a breaker.
    pub(crate) fn is_refusal(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS || self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// 400 about a value.
    pub(crate) fn invalid(param: &str, code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, Some(param), message)
    }

    /// 401.
    pub(crate) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", None, message)
    }

    /// 401 about a signed token.
    pub(crate) fn disbelieved(why: &str) -> Self {
        let message = format!("this token is not accepted: {why}");
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_token", None, message)
    }

    /// 403 about a tenant that is not served.
    pub(crate) fn suspended() -> Self {
        let message = "this account is suspended: ask whoever operates this service";
        Self::new(StatusCode::FORBIDDEN, "permission_error", "account_suspended", None, message)
    }

    /// 404 about a model.
    pub(crate) fn no_such_model(model: &str, known: &[&str]) -> Self {
        let message = format!("the model '{model}' does not exist; offered: {}", known.join(", "));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", Some("model"), message)
    }

    /// 409 about something that is there already.
    pub(crate) fn taken(param: &str, message: String) -> Self {
        let error = Self::new(StatusCode::CONFLICT, "invalid_request_error", "already_exists", Some(param), message);
        Self { should_retry: Some(false), ..error }
    }

    /// 404 about something the operator named.
    pub(crate) fn nothing_like_it(what: &str, name: &str) -> Self {
        let message = format!("there is no {what} '{name}'");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", Some(what), message)
    }

    /// 404 about a pool.
    pub(crate) fn no_such_pool(known: &str) -> Self {
        let message = format!("there is no such pool; there are: {known}");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "pool_not_found", None, message)
    }

    /// 404 about a job.
    pub(crate) fn no_such_job() -> Self {
        let message = "there is no such job; ids are in the 'x-penstock-job-id' header of each answer";
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "job_not_found", None, message)
    }

    /// 404 about a file.
    pub(crate) fn no_such_file(id: &str) -> Self {
        let message = format!("there is no file '{id}'; it was never made, was deleted, or has expired");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "file_not_found", Some("file_id"), message)
    }

    /// 404 about a batch.
    pub(crate) fn no_such_batch(id: &str) -> Self {
        let message = format!("there is no batch '{id}'; batches are remembered for 30 days after their end");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "batch_not_found", Some("batch_id"), message)
    }

    /// 409 about a batch that is over.
    pub(crate) fn batch_is_over(status: &str) -> Self {
        let message = format!("the batch is {status}: there is nothing left to cancel");
        let error =
            Self::new(StatusCode::CONFLICT, "invalid_request_error", "batch_is_over", Some("batch_id"), message);
        Self { should_retry: Some(false), ..error }
    }

    /// 404 about an upload.
    pub(crate) fn no_such_upload(id: &str) -> Self {
        let message = format!("there is no upload '{id}'");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "upload_not_found", Some("upload_id"), message)
    }

    /// 409 about an upload that is over.
    pub(crate) fn upload_closed(status: &str) -> Self {
        let message = format!("the upload is {status}, or its hour is over; begin another");
        let code = "upload_closed";
        let error = Self::new(StatusCode::CONFLICT, "invalid_request_error", code, Some("upload_id"), message);
        Self { should_retry: Some(false), ..error }
    }

    /// 413 about a file.
    pub(crate) fn file_too_large(most: u64) -> Self {
        let message =
            format!("the file is larger than {most} bytes, the most there can be of its purpose, or of a part");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "file_too_large", Some("file"), message)
    }

    /// 404 about a path.
    pub(crate) fn no_such_route(method: &http::Method, path: &str) -> Self {
        let message = format!("there is no {method} {path}; see the list of routes in the README");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", None, message)
    }

    /// 405.
    pub(crate) fn wrong_method(method: &http::Method, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", None, message)
    }

    /// 413.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes: send less at once");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", None, message)
    }

    /// 415.
    pub(crate) fn wrong_media(what: &str) -> Self {
        let message = format!("the body is {what}: send JSON, not compressed, as 'application/json'");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_media_type", None, message)
    }

    /// 410 about a result that was kept for a while and is no longer.
    pub(crate) fn result_gone() -> Self {
        let message = "the result was kept for a while and has been removed; send the request again";
        Self::new(StatusCode::GONE, "invalid_request_error", "result_expired", None, message)
    }

    /// 409 about an idempotency key.
    pub(crate) fn key_reused() -> Self {
        let message = "this Idempotency-Key was used with another request; use a new key for a new request";
        let error = Self::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            "idempotency_key_reuse",
            Some("Idempotency-Key"),
            message,
        );
        Self { should_retry: Some(false), ..error }
    }

    /// 429 about a tenant's limit.
    pub(crate) fn rate_limited(what: &str, limit: u64, asked: u64, come_back: ComeBack) -> Self {
        let wait = match come_back {
            ComeBack::After(wait) | ComeBack::Later(wait) => format!("come back in {}", seconds(wait)),
            ComeBack::Never => format!("no wait helps: this request needs {asked}, more than the limit allows at once"),
        };
        let message = format!("the limit of {limit} {what} a minute is reached; {wait}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", None, message)
            .told(come_back)
    }

    /// 429 about a rate that grows too fast.
    pub(crate) fn slow_down(come_back: ComeBack) -> Self {
        let wait = match come_back {
            ComeBack::After(wait) | ComeBack::Later(wait) => format!("come back in {}", seconds(wait)),
            ComeBack::Never => "this tenant may not begin; raise the floor of its ramp".to_owned(),
        };
        let message = format!("the rate of requests grows faster than the fleet follows; {wait}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "slow_down", None, message).told(come_back)
    }

    /// 429 about jobs at a time.
    pub(crate) fn too_many_jobs(most: u32, come_back: ComeBack) -> Self {
        let wait = match come_back {
            ComeBack::After(wait) | ComeBack::Later(wait) => {
                format!("the next is expected to end in {}", seconds(wait))
            }
            ComeBack::Never => "this tenant may have none".to_owned(),
        };
        let message = format!("the limit of {most} jobs at a time (concurrency) is reached; {wait}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", None, message)
            .told(come_back)
    }

    /// 429 about money.
    pub(crate) fn budget_spent(until: Option<Timestamp>, now: Timestamp) -> Self {
        let next = until.map_or_else(String::new, |until| {
            let hours = until.since(now).as_secs().div_ceil(3600);
            format!("; the next period begins in {hours} h")
        });
        let message = format!("the budget of this period is spent, or held by requests under way{next}");
        let code = "credit_balance_exhausted";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", code, None, message);
        Self { should_retry: Some(false), ..error }
    }

    /// 503 about a full pool.
    pub(crate) fn overloaded(come_back: ComeBack) -> Self {
        let wait = match come_back {
            ComeBack::After(wait) | ComeBack::Later(wait) => format!("come back in {}", seconds(wait)),
            ComeBack::Never => "it is too large for the present capacity".to_owned(),
        };
        let message = format!("the queue is as long as this class accepts; {wait}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", "server_is_overloaded", None, message)
            .told(come_back)
    }

    /// 503 about a store that does not answer.
    pub(crate) fn store_unavailable() -> Self {
        let message = "a part of the service does not answer; come back shortly";
        let error =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", "store_unavailable", None, message);
        Self { retry_after: Some(Duration::from_secs(2)), ..error }
    }

    /// 503 about a pool that is closed for now.
    pub(crate) fn degraded(tier: Tier, come_back: ComeBack) -> Self {
        let wait = match come_back {
            ComeBack::After(wait) | ComeBack::Later(wait) => format!("come back in {}", seconds(wait)),
            ComeBack::Never => "come back later".to_owned(),
        };
        let message = match tier {
            Tier::Manual if matches!(come_back, ComeBack::Later(wait) if wait > NO_MOMENT) => {
                "the model is closed by its operator".to_owned()
            }
            Tier::Manual => format!("the model is closed by its operator; {wait}"),
            Tier::Normal | Tier::Switch | Tier::Cached => {
                format!("the model takes no work of this class while it recovers; {wait}")
            }
            Tier::Open => format!("the model fails too often to take work; {wait}"),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", "server_is_overloaded", None, message)
            .told(come_back)
    }

    /// 502 about an upstream's answer that broke off.
    pub(crate) fn upstream_failed() -> Self {
        let message = "the answer broke off at the server that made it; ask again";
        Self::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_failed", None, message)
    }

    /// Whether the pool has no room, so that somebody else may answer.
    pub(crate) fn is_overload(&self) -> bool {
        self.body.error.code.as_deref() == Some("server_is_overloaded")
    }

    /// 504 to a request that wants a kept answer or none (RFC 9111, 5.2.1.7).
    pub(crate) fn not_kept() -> Self {
        let message = "no answer to this request is kept; leave 'only-if-cached' out to have it computed";
        let error = Self::new(StatusCode::GATEWAY_TIMEOUT, "invalid_request_error", "not_cached", None, message);
        Self { should_retry: Some(false), ..error }
    }

    /// Whether a store did not answer: then an older answer is better than none.
    pub(crate) fn is_store_failure(&self) -> bool {
        self.body.error.code.as_deref() == Some("store_unavailable")
    }

    /// 500 about a fault of ours.
    pub(crate) fn internal() -> Self {
        let message = "a fault on our side; it is in the log under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", None, message)
    }

    /// A job that ended without an answer.
    pub(crate) fn of_verdict(verdict: &ErrorVerdict) -> Self {
        let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
        Self::new(status, kind, &verdict.code, verdict.param.as_deref(), verdict.message.clone())
    }

    /// A job that was cancelled while its answer was waited for.
    pub(crate) fn cancelled() -> Self {
        let message = "the job was cancelled";
        let error = Self::new(StatusCode::CONFLICT, "invalid_request_error", JOB_CANCELLED, None, message);
        Self { should_retry: Some(false), ..error }
    }

    /// Whether it is [`ApiError::cancelled`].
    pub(crate) fn is_cancelled(&self) -> bool {
        self.body.error.code.as_deref() == Some(JOB_CANCELLED)
    }

    /// 404 about a response.
    pub(crate) fn no_such_response(id: &str) -> Self {
        let message = format!("there is no response '{id}'; it was never kept, was deleted, or is too old");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "response_not_found", Some("response_id"), message)
    }

    /// A job whose answer is not kept any more.
    pub(crate) fn forgotten() -> Self {
        let message = "this answer was delivered and is not kept, as its request or its tenant's terms say";
        let error = Self::new(StatusCode::GONE, "invalid_request_error", "answer_not_kept", None, message);
        Self { should_retry: Some(false), ..error }
    }

    /// A job that could not be run in time.
    pub(crate) fn expired() -> Self {
        let message = "the job could not be run in time";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", None, message)
    }

    /// The same about the fields as `route` calls them.
    pub(crate) fn in_terms_of(mut self, route: Route) -> Self {
        let error = &mut self.body.error;
        if let Some(param) = &error.param {
            let (head, rest) = param.split_at(param.find(['.', '[']).unwrap_or(param.len()));
            let named = route.field(head);
            if named != head {
                error.message = error.message.replace(&format!("'{head}"), &format!("'{named}"));
                error.param = Some(format!("{named}{rest}"));
            }
        }
        self
    }

    fn told(self, come_back: ComeBack) -> Self {
        match come_back {
            ComeBack::After(wait) => Self { retry_after: Some(wait), ..self },
            ComeBack::Later(_) | ComeBack::Never => Self { should_retry: Some(false), ..self },
        }
    }
}

impl From<BadRequest> for ApiError {
    fn from(refusal: BadRequest) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: refusal.body(), retry_after: None, should_retry: None }
    }
}

impl From<PortError> for ApiError {
    /// The one place where a store's failure becomes an answer; it is logged here and nowhere else.
    fn from(error: PortError) -> Self {
        if error.is_passing() {
            let refused = Self::store_unavailable();
            match error {
                // Said once by the breaker, not once a request; and it knows when it asks again.
                PortError::CircuitOpen { wait, .. } => {
                    return Self { retry_after: refused.retry_after.max(Some(wait)), ..refused };
                }
                PortError::Throttled { .. }
                | PortError::Unavailable { .. }
                | PortError::Corrupt { .. }
                | PortError::Refused { .. } => tracing::warn!(%error, "store unavailable"),
            }
            refused
        } else {
            tracing::error!(%error, "store refuses");
            Self::internal()
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Refused(why) => Self::disbelieved(&why),
            TokenError::KeysUnavailable { wait } => {
                let message =
                    "the keys of the token's issuer cannot be fetched; come back when they can, or use an API key";
                let (status, kind) = (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error");
                Self { retry_after: Some(wait), ..Self::new(status, kind, "issuer_unavailable", None, message) }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            // Whole seconds rounded up for clients that know no better; the exact wait beside it.
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(ms));
        }
        if let Some(should) = self.should_retry {
            headers.insert("x-should-retry", HeaderValue::from_static(if should { "true" } else { "false" }));
        }
        response
    }
}

fn seconds(wait: Duration) -> String {
    format!("{:.1} s", wait.as_secs_f64())
}
