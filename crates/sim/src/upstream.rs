//! An upstream that answers from a script.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use penstock_service::ports::{Clock, Upstream, UpstreamCall, UpstreamError, UpstreamReply};

/// What the upstream does with one call.
#[derive(Clone, Debug)]
pub enum Play {
    /// Streams these pieces of text, one a pause, and ends as it should.
    Says(Vec<String>, Duration),
    /// Streams these pieces and breaks off.
    BreaksOff(Vec<String>),
    /// Answers with this status and, maybe, a wait to come back after.
    Status(u16, Option<Duration>),
    /// Accepts no connection.
    Refuses,
    /// Accepts the connection and never says anything.
    Hangs,
}

/// Plays its script, call by call; the last play is repeated. Cheap to clone.
#[derive(Clone)]
pub struct ScriptedUpstream {
    clock: Arc<dyn Clock>,
    plays: Arc<Mutex<Vec<Play>>>,
    calls: Arc<Mutex<Vec<UpstreamCall>>>,
}

impl ScriptedUpstream {
    /// An upstream with this script.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, plays: Vec<Play>) -> Self {
        Self { clock, plays: Arc::new(Mutex::new(plays)), calls: Arc::default() }
    }

    /// Gives it another script.
    pub fn play(&self, plays: Vec<Play>) {
        *self.plays.lock().unwrap_or_else(PoisonError::into_inner) = plays;
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<UpstreamCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Upstream for ScriptedUpstream {
    async fn chat(&self, call: &UpstreamCall) -> Result<UpstreamReply, UpstreamError> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        let play = {
            let mut plays = self.plays.lock().unwrap_or_else(PoisonError::into_inner);
            if plays.len() > 1 { plays.remove(0) } else { plays.first().cloned().unwrap_or(Play::Refuses) }
        };
        let name = || "scripted".to_owned();
        let piece =
            |text: &String| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let (status, retry_after, frames, pause, whole) = match play {
            Play::Refuses => {
                return Err(UpstreamError::Unreachable { upstream: name(), cause: "scripted".to_owned() });
            }
            Play::Hangs => {
                std::future::pending::<()>().await;
                (200, None, Vec::new(), Duration::ZERO, false)
            }
            Play::Status(status, wait) => (status, wait, Vec::new(), Duration::ZERO, true),
            Play::BreaksOff(texts) => (200, None, texts.iter().map(piece).collect(), Duration::ZERO, false),
            Play::Says(texts, pause) => {
                let mut frames: Vec<String> = texts.iter().map(piece).collect();
                let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
                let usage = format!(
                    "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":10,\"completion_tokens\":{}}}}}\n\ndata: [DONE]\n\n",
                    texts.len()
                );
                frames.extend([end.to_owned(), usage]);
                (200, None, frames, pause, true)
            }
        };
        let clock = Arc::clone(&self.clock);
        let frames = stream::iter(frames).then(move |frame| {
            let clock = Arc::clone(&clock);
            async move {
                clock.sleep_until(clock.now().after(pause)).await;
                Ok(frame.into())
            }
        });
        let broken = (!whole).then(|| Err(UpstreamError::Broken { upstream: name(), cause: "scripted".to_owned() }));
        Ok(UpstreamReply { status, retry_after, body: frames.chain(stream::iter(broken)).boxed() })
    }
}
