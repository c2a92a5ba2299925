//! Answers from outside the pools: an upstream's, told chunk by chunk as it comes, or the configured one.
//!
//! They are told by the same means as a job's words, so they have our ids, our headers and our form of usage. Nothing of
//! them is stored: no job stands behind them, and a client that leaves hangs up on the upstream.
//!
//! Money first: what the answer is expected to cost is taken from the upstream's budget (and its tokens from the
//! tenant's limits) before the upstream is asked, and what was not used is given back once. An answer that breaks off
//! is charged for what was heard of it, since the upstream charges for it too.

mod account;
mod asking;
mod budget;
mod reading;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use penstock_policy::breaker::{Outcome, Permit};
use penstock_policy::cost::UsdMicros;
use penstock_policy::id::{Epoch, JobId, UpstreamId};
use penstock_policy::job::Position;
use penstock_policy::retry::full_jitter;
use penstock_policy::time::Timestamp;
use penstock_wire::chat::ChatRequest;

use crate::Service;
use crate::degradation::guard::Guard;
use crate::degradation::upstreams::Outside;
use crate::door::relay::{End, Progress, Said};
use crate::error::ApiError;
use crate::ports::{Answer, Chunk, FinishReason, Part, Pool, Tenant, UpstreamCall, UpstreamError};
use crate::stored::chunk::Words;

use account::Account;
use reading::{Misread, Reader};

/// How long the first byte of an answer may take, and the whole of it.
const FIRST_BYTE: Duration = Duration::from_secs(10);
const TOTAL: Duration = Duration::from_secs(120);

/// How often an upstream is asked the same, and how long to wait between.
const MOST_TRIES: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long an upstream that is busy and does not say for how long is left alone, and the longest it may ask for.
const BUSY: Duration = Duration::from_secs(5);
const LONGEST_BUSY: Duration = Duration::from_secs(60);

/// An upstream with what this process knows of it.
pub(crate) struct Door {
    outside: Outside,
    guard: Guard,
    /// It wants to be left alone until then.
    busy: Mutex<Timestamp>,
}

impl Door {
    pub(crate) fn new(outside: Outside) -> Self {
        let guard = Guard::new(format!("upstream {}", outside.config.name));
        Self { outside, guard, busy: Mutex::default() }
    }

    fn busy_until(&self) -> Timestamp {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_alone(&self, until: Timestamp) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Why an upstream does not answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It is not configured, does not offer the model, or cannot be told all that the request says.
    NotOffered,
    /// Its budget is spent.
    Spent,
    /// It is known to be dead or busy.
    Closed,
    /// It was asked and did not answer.
    Failed,
    /// The tenant's own limit: nobody else may answer either.
    Refused(ApiError),
}

/// An answer from outside.
pub(crate) struct OutsideAnswer {
    /// What is to be told next.
    ready: Vec<Chunk>,
    /// What was told of an answer that is wanted whole.
    gathered: Vec<Chunk>,
    /// How it ended, once `ready` is told.
    end: Option<End>,
    live: Option<Live>,
}

/// So many answers that nothing was computed for.
fn nothing(choices: u32) -> Answer {
    Answer {
        reasons: (0..choices.max(1)).map(|_| FinishReason::Stop).collect(),
        prompt_tokens: 0,
        completion_tokens: 0,
        cached_tokens: 0,
        reasoning_tokens: 0,
    }
}

/// An answer that is still coming.
struct Live {
    service: Arc<Service>,
    door: Arc<Door>,
    permit: Permit,
    body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    reader: Reader,
    until: Timestamp,
    /// Until it is settled.
    account: Option<Account>,
}

impl OutsideAnswer {
    /// The configured text as an answer.
    pub(crate) fn configured(text: &str, choices: u32) -> Self {
        let chunk = |choice: u32| Chunk {
            position: Position { epoch: Epoch(1), seq: choice },
            parent: None,
            ids: Vec::new(),
            words: Words { choice, parts: vec![Part::Content(text.to_owned())], logprobs: Vec::new() },
        };
        let answer = nothing(choices);
        let ready = (0..choices.max(1)).map(chunk).collect();
        Self { ready, gathered: Vec::new(), end: Some(End::Answered(answer)), live: None }
    }

    /// Waits for new text or the end, up to `until`.
    pub(crate) async fn progress(&mut self, until: Timestamp) -> Progress {
        loop {
            if !self.ready.is_empty() {
                return Progress::Said(std::mem::take(&mut self.ready));
            }
            if let Some(end) = self.end.take() {
                return Progress::Ended(end);
            }
            let Some(live) = self.live.as_mut() else {
                return Progress::Ended(End::Failed(ApiError::internal()));
            };
            let clock = Arc::clone(&live.service.ports.clock);
            let heard = match select(live.body.next(), clock.sleep_until(until.min(live.until))).await {
                Either::Left((heard, _)) => heard,
                Either::Right(_) if clock.now() < live.until => return Progress::Quiet,
                Either::Right(_) => {
                    self.failed("it took too long");
                    continue;
                }
            };
            self.hear(heard);
        }
    }

    /// Waits for the whole answer, up to `until`.
    pub(crate) async fn whole(&mut self, until: Timestamp) -> Option<Said> {
        loop {
            match self.progress(until).await {
                Progress::Said(chunks) => self.gathered.extend(chunks),
                Progress::Ended(End::Answered(answer)) => {
                    return Some(Ok((std::mem::take(&mut self.gathered), answer)));
                }
                Progress::Ended(End::Failed(error)) => return Some(Err(error)),
                Progress::Quiet => return None,
            }
        }
    }

    fn hear(&mut self, heard: Option<Result<Bytes, UpstreamError>>) {
        let Some(live) = self.live.as_mut() else { return };
        match heard {
            Some(Ok(bytes)) => match live.reader.take(&bytes) {
                Ok(chunks) => {
                    self.ready = chunks;
                    if live.reader.is_done() {
                        // The end of the body comes with it; seen, the connection can be used again.
                        let _ = live.body.next().now_or_never();
                        self.ended();
                    }
                }
                Err(misread) => self.failed(&misread.to_string()),
            },
            Some(Err(error)) => self.failed(&error.to_string()),
            None => self.ended(),
        }
    }

    /// No more comes.
    fn ended(&mut self) {
        let Some(live) = self.live.as_mut() else { return };
        let estimated = live.account.as_ref().map_or((0, 0), |account| account.heard(live.reader.said()));
        match live.reader.answer(estimated) {
            Ok(answer) => {
                live.door.guard.report(live.permit, Outcome::Success, live.service.ports.clock.now());
                if let Some(account) = live.account.take() {
                    account.settle(&answer);
                }
                self.live = None;
                self.end = Some(End::Answered(answer));
            }
            Err(misread) => self.failed(&misread.to_string()),
        }
    }

    fn failed(&mut self, cause: &str) {
        if let Some(live) = self.live.take() {
            let upstream = live.door.outside.config.name.clone();
            tracing::warn!(%upstream, cause, "an upstream's answer broke off");
            live.door.guard.report(live.permit, Outcome::Failure, live.service.ports.clock.now());
        }
        self.end = Some(End::Failed(ApiError::upstream_failed()));
    }
}

impl Drop for Live {
    /// Broken off, by the upstream or by a client that has gone.
    fn drop(&mut self) {
        if let Some(account) = self.account.take() {
            let (prompt_tokens, completion_tokens) = account.heard(self.reader.said());
            account.settle(&Answer { prompt_tokens, completion_tokens, ..nothing(1) });
        }
    }
}

/// How one try went.
enum Try {
    Answers(Box<Live>),
    Again(Duration),
    GiveUp,
}

impl Service {
    /// Asks an upstream for the answer to a request; returns once the answer begins.
    ///
    /// # Errors
    /// Why it does not answer.
    pub(crate) async fn ask_upstream(
        self: &Arc<Self>,
        name: &UpstreamId,
        tenant: &Tenant,
        request: &ChatRequest,
        pool: &Pool,
        (id, idempotency_key): (JobId, String),
    ) -> Result<(OutsideAnswer, UsdMicros), Unanswered> {
        let now = self.ports.clock.now();
        let door = Arc::clone(self.doors.get(name).ok_or(Unanswered::NotOffered)?);
        let config = &door.outside.config;
        let model = config.model(&request.model).ok_or(Unanswered::NotOffered)?;
        let body = asking::body(request, model).ok_or(Unanswered::NotOffered)?;
        if door.busy_until() > now {
            return Err(Unanswered::Closed);
        }
        let account = Account::open(self, config, tenant, request, pool, id, now).await?;
        let cost = account.expected_cost();
        let call = UpstreamCall { body, idempotency_key };
        let mut tries = 0;
        let result = loop {
            tries += 1;
            let now = self.ports.clock.now();
            let Ok(permit) = door.guard.ask(now) else { break Err(Unanswered::Closed) };
            match self.try_upstream(&door, &call, permit, request.n).await {
                Try::Answers(live) => break Ok(live),
                Try::Again(pause) if tries < MOST_TRIES => {
                    self.ports.clock.sleep_until(self.ports.clock.now().after(pause)).await;
                }
                Try::Again(_) | Try::GiveUp => break Err(Unanswered::Failed),
            }
        };
        match result {
            Ok(mut live) => {
                live.account = Some(account);
                Ok((OutsideAnswer::of(*live), cost))
            }
            Err(unanswered) => {
                account.settle(&nothing(1));
                Err(unanswered)
            }
        }
    }

    async fn try_upstream(self: &Arc<Self>, door: &Arc<Door>, call: &UpstreamCall, permit: Permit, n: u32) -> Try {
        let upstream = &door.outside.config.name;
        let clock = &self.ports.clock;
        let begun = clock.now();
        let report = |outcome| {
            door.guard.report(permit, outcome, clock.now());
        };
        let pause = || full_jitter(FIRST_PAUSE, LONGEST_PAUSE, 1, self.fraction());
        let asked = door.outside.port.chat(call);
        let reply = match select(asked, clock.sleep_until(begun.after(FIRST_BYTE))).await {
            Either::Left((Ok(reply), _)) => reply,
            Either::Left((Err(error), _)) => {
                tracing::warn!(%upstream, %error, "an upstream does not answer");
                report(Outcome::Failure);
                return Try::Again(pause());
            }
            Either::Right(_) => {
                tracing::warn!(%upstream, "an upstream does not answer in time");
                report(Outcome::Failure);
                return Try::Again(pause());
            }
        };
        match reply.status {
            200..300 => {}
            429 => {
                report(Outcome::Success);
                let wait = reply.retry_after.unwrap_or(BUSY).min(LONGEST_BUSY);
                door.leave_alone(clock.now().after(wait));
                return if wait <= LONGEST_PAUSE { Try::Again(wait) } else { Try::GiveUp };
            }
            status @ (408 | 500..) => {
                tracing::warn!(%upstream, status, "an upstream fails");
                report(Outcome::Failure);
                return Try::Again(reply.retry_after.filter(|wait| *wait <= LONGEST_PAUSE).unwrap_or_else(pause));
            }
            status => {
                // Its key, its model name, or a field it does not take: the operator's to mend, alive all the same.
                tracing::error!(%upstream, status, "an upstream refuses: check its key, URL and models");
                report(Outcome::Success);
                return Try::GiveUp;
            }
        }
        let mut live = Live {
            service: Arc::clone(self),
            door: Arc::clone(door),
            permit,
            body: reply.body,
            reader: Reader::new(n),
            until: begun.after(TOTAL),
            account: None,
        };
        match select(live.body.next(), clock.sleep_until(begun.after(FIRST_BYTE))).await {
            Either::Left((Some(Ok(bytes)), _)) => {
                // Nothing has been told yet, so another try may still answer in its place.
                match Reader::new(n).take(&bytes) {
                    Ok(_) => {}
                    Err(misread @ (Misread::Failed(_) | Misread::Malformed(_) | Misread::BrokenOff)) => {
                        tracing::warn!(%upstream, %misread, "an upstream's answer cannot be read");
                        report(Outcome::Failure);
                        return Try::Again(pause());
                    }
                }
                let first = futures_util::stream::iter([Ok(bytes)]);
                live.body =
                    first.chain(std::mem::replace(&mut live.body, futures_util::stream::empty().boxed())).boxed();
                Try::Answers(Box::new(live))
            }
            Either::Left((Some(Err(_)) | None, _)) | Either::Right(_) => {
                tracing::warn!(%upstream, "an upstream's answer does not begin");
                report(Outcome::Failure);
                Try::Again(pause())
            }
        }
    }
}

impl OutsideAnswer {
    fn of(live: Live) -> Self {
        Self { ready: Vec::new(), gathered: Vec::new(), end: None, live: Some(live) }
    }
}
