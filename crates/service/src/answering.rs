//! From an admitted request to the bytes of its answer, whole or streamed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http::{HeaderName, StatusCode, header};
use penstock_policy::admission::tier_of_class;
use penstock_policy::time::Timestamp;
use penstock_wire::chat::{ChunkChoice, Completion, CompletionChunk, Delta, Usage};
use penstock_wire::sse;

use crate::Service;
use crate::admit::Admission;
use crate::config::Timing;
use crate::error::ApiError;
use crate::fallback::Source;
use crate::ports::{Answer, Chunk};
use crate::relay::{End, Progress};
use crate::rendering::{CallNames, completion, deltas, logprobs, usage};

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
    pub(crate) admission: Admission,
    /// The model's name as the client wrote it.
    pub(crate) model: String,
    /// How many answers were asked for.
    pub(crate) choices: u32,
    /// A stream ends with its usage.
    pub(crate) usage: bool,
}

impl Answering {
    /// The answer as one JSON object.
    pub(crate) async fn whole(self, relay: Source) -> Result<Response, ApiError> {
        let service = Arc::clone(&self.service);
        let write = move |said: Vec<Chunk>, answer: Answer| {
            let body = serde_json::to_string(&self.completion(&said, &answer));
            async move { body.map_err(|_| ApiError::internal()) }.boxed()
        };
        whole(service, relay, Box::new(write)).await
    }

    /// Holds the status back until there are words, an end, or the hold is over; then streams.
    pub(crate) async fn streamed(self, mut relay: Source) -> Result<Response, ApiError> {
        let until = self.now().after(self.service.timing().status_hold);
        let first = relay.progress(until).await;
        if let Progress::Ended(End::Failed(error)) = first {
            return Err(error);
        }
        let calls = CallNames::new(self.admission.shown);
        let state = Some(Streaming { answering: self, relay, next: Some(first), opened: false, calls });
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

    fn completion(&self, said: &[Chunk], answer: &Answer) -> Completion {
        let Admission { shown, created, class, .. } = &self.admission;
        completion(*shown, *created, &self.model, *class, said, answer)
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

    fn delta(&self, index: u32, delta: Delta, finish_reason: Option<&str>) -> String {
        let finish_reason = finish_reason.map(str::to_owned);
        self.chunk(vec![ChunkChoice { index, delta, logprobs: None, finish_reason }], None)
    }
}

/// A stream under way.
struct Streaming {
    answering: Answering,
    relay: Source,
    /// What was seen already while the status was held back.
    next: Option<Progress>,
    opened: bool,
    /// Numbers the tool calls of each answer.
    calls: CallNames,
}

impl Streaming {
    /// The next frames, and whether more follow.
    async fn frames(&mut self) -> (String, bool) {
        let mut frames = String::new();
        if !self.opened {
            self.opened = true;
            for choice in 0..self.answering.choices {
                let role =
                    Delta { role: Some("assistant".to_owned()), content: Some(String::new()), ..Delta::default() };
                frames.push_str(&self.answering.delta(choice, role, None));
            }
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
            Progress::Said(chunks) => {
                chunks.iter().for_each(|chunk| self.say(chunk, &mut frames));
                true
            }
            Progress::Ended(End::Answered(answer)) => {
                for (choice, reason) in (0..).zip(&answer.reasons) {
                    frames.push_str(&self.answering.delta(choice, Delta::default(), Some(reason.name())));
                }
                if self.answering.usage {
                    frames.push_str(&self.answering.chunk(Vec::new(), Some(usage(&answer))));
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

    /// One frame a part; what is known of the tokens behind them goes with the first.
    fn say(&mut self, chunk: &Chunk, frames: &mut String) {
        let mut logprobs = logprobs(&chunk.words.logprobs);
        let mut deltas = deltas(&chunk.words, &mut self.calls);
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(Delta::default());
        }
        for delta in deltas {
            let choice =
                ChunkChoice { index: chunk.words.choice, delta, logprobs: logprobs.take(), finish_reason: None };
            frames.push_str(&self.answering.chunk(vec![choice], None));
        }
    }
}
