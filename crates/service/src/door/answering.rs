//! From an admitted request to the bytes of its answer, whole or streamed: how long to wait, and what to send meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt, stream};
use http::{HeaderName, StatusCode, header};
use penstock_policy::promise::Promise;
use penstock_policy::time::Timestamp;
use penstock_wire::sse;

use crate::Service;
use crate::config::Timing;
use crate::degradation::fallback::Source;
use crate::door::relay::{End, Progress};
use crate::door::route::Route;
use crate::door::telling::Telling;
use crate::error::ApiError;
use crate::ports::{Answer, Chunk};

/// A value as a JSON answer.
pub(crate) fn json(value: &impl serde::Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Makes the body of an answer from what was said.
pub(crate) type Write = Box<dyn Fn(Vec<Chunk>, Answer) -> BoxFuture<'static, Result<String, ApiError>> + Send + Sync>;

/// Waits in silence, so that a failure still has its own status; after a long while commits to 200 and sends a blank
/// line now and then, which JSON readers skip. A failure after that resets the connection; the client's own retry of a
/// deterministic or keyed request finds the job or its result.
pub(crate) async fn whole(service: Arc<Service>, mut relay: Source, write: Write) -> Result<Response, ApiError> {
    const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];
    let after =
        |wait: fn(&Timing) -> Duration, service: &Service| service.ports().clock.now().after(wait(service.timing()));
    if let Some(result) = relay.whole(after(|timing| timing.silent_wait, &service)).await {
        let (said, answer) = result?;
        return Ok((StatusCode::OK, JSON, write(said, answer).await?).into_response());
    }
    let body = stream::unfold(Some((service, relay, write)), move |state| async move {
        let (service, mut relay, write) = state?;
        let result = match relay.whole(after(|timing| timing.blank_line, &service)).await {
            None => return Some((Ok(Bytes::from_static(b"\n")), Some((service, relay, write)))),
            Some(Ok((said, answer))) => write(said, answer).await,
            Some(Err(error)) => Err(error),
        };
        Some((result.map(Bytes::from).map_err(|error| std::io::Error::other(error.body.error.message)), None))
    });
    Ok((StatusCode::OK, JSON, Body::from_stream(body)).into_response())
}

/// One admitted request on its way to an answer.
pub(crate) struct Answering {
    pub(crate) service: Arc<Service>,
    /// The route it came by.
    pub(crate) route: Route,
    /// Puts the answer into the route's form.
    pub(crate) telling: Box<dyn Telling>,
    /// When the request came.
    pub(crate) created: Timestamp,
    /// What was promised, if it has a job of its own.
    pub(crate) promise: Option<Promise>,
}

impl Answering {
    /// The answer as one JSON object.
    pub(crate) async fn whole(self, relay: Source) -> Result<Response, ApiError> {
        let Self { service, route, telling, .. } = self;
        let write = move |said: Vec<Chunk>, answer: Answer| ready(Ok(telling.whole(&said, &answer))).boxed();
        whole(service, relay, Box::new(write)).await.map_err(|error| error.in_terms_of(route))
    }

    /// Holds the status back until there are words, an end, or the hold is over; then streams.
    pub(crate) async fn streamed(self, mut relay: Source) -> Result<Response, ApiError> {
        let until = self.now().after(self.service.timing().status_hold);
        let first = relay.progress(until).await;
        if let Progress::Ended(End::Failed(error)) = first {
            return Err(error.in_terms_of(self.route));
        }
        Ok(self.frames_of(relay, Some(first)))
    }

    /// Streams, `first` being what was seen of the relay already.
    pub(crate) fn frames_of(self, relay: Source, first: Option<Progress>) -> Response {
        let state = Some(Streaming { answering: self, relay, next: first, opened: false });
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
        (StatusCode::OK, headers, Body::from_stream(body)).into_response()
    }

    fn now(&self) -> Timestamp {
        self.service.ports().clock.now()
    }
}

/// A stream under way.
struct Streaming {
    answering: Answering,
    relay: Source,
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
            frames.push_str(&self.answering.telling.opening());
            // What is known already is said at once, before anything is waited for.
            if self.next.is_none() && !frames.is_empty() {
                return (frames, true);
            }
        }
        let progress = match self.next.take() {
            Some(progress) => progress,
            None => {
                let until = self.answering.now().after(self.answering.service.timing().keep_alive);
                self.relay.progress(until).await
            }
        };
        let telling = &mut self.answering.telling;
        let goes_on = match progress {
            Progress::Quiet => {
                frames.push_str(&self.keep_alive());
                true
            }
            Progress::Said(chunks) => {
                frames.extend(chunks.iter().map(|chunk| telling.said(chunk)));
                true
            }
            Progress::Ended(End::Answered(answer)) => {
                frames.push_str(&telling.answered(&answer));
                false
            }
            Progress::Ended(End::Failed(error)) => {
                frames.push_str(&telling.failed(&error.in_terms_of(self.answering.route)));
                false
            }
        };
        (frames, goes_on)
    }

    fn keep_alive(&self) -> String {
        let waited = self.answering.now().since(self.answering.created);
        let (position, left) = self.answering.promise.map(|promise| promise.left(waited)).unzip();
        sse::keep_alive(position, left.and_then(|left| u64::try_from(left.as_millis()).ok()))
    }
}
