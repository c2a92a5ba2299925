//! A client as the stock ones are: asks again after a reset or an error that says so, and says how often it has asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use penstock_service::ports::{Clock, Spawner};
use penstock_sim::Kernel;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;

/// How often a client asks before it gives up: for far longer than anything in these worlds lasts.
const MOST_TRIES: u32 = 60;

/// A front door that a client may be led to: what makes its tasks run, and its routes.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) router: axum::Router,
}

/// The doors that stand at the moment.
pub(crate) type Doors = Arc<Mutex<Vec<Door>>>;

#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) prompt: String,
    pub(crate) streamed: bool,
    /// The same answer may serve whoever asks the same.
    pub(crate) deterministic: bool,
    pub(crate) idempotency_key: Option<String>,
    /// It hangs up after so long, for good.
    pub(crate) leaves_after: Option<Duration>,
}

/// What a client has heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// The text of each try, as far as it came.
    pub(crate) texts: Vec<String>,
    /// The whole answer.
    pub(crate) answer: Option<String>,
    /// It gave up, with the last error.
    pub(crate) gave_up: Option<String>,
    pub(crate) left: bool,
    /// The longest time between two pieces of a stream.
    pub(crate) longest_pause: Duration,
}

impl Heard {
    pub(crate) fn is_over(&self) -> bool {
        self.answer.is_some() || self.gave_up.is_some() || self.left
    }
}

enum Piece {
    Head(StatusCode, http::HeaderMap),
    Bytes(Vec<u8>),
    End,
}

/// How a try ended.
enum Try {
    Answered(String),
    Again(Duration, String),
    Hopeless(String),
}

/// Asks until there is an answer.
pub(crate) async fn ask(kernel: Kernel, doors: Doors, key: String, question: Question, heard: Arc<Mutex<Heard>>) {
    let begun = kernel.now();
    let patience = begun.after(question.leaves_after.unwrap_or(Duration::from_secs(86_400)));
    let asking = async {
        let mut last = String::new();
        for tries in 0..MOST_TRIES {
            let door = {
                let doors = doors.lock().unwrap_or_else(PoisonError::into_inner);
                let place = kernel.below(doors.len() as u64);
                usize::try_from(place).ok().and_then(|place| doors.get(place).cloned())
            };
            let outcome = match door {
                Some(door) => one_try(&kernel, &door, &key, &question, tries, &heard).await,
                None => Try::Again(Duration::from_secs(1), "nobody is there".to_owned()),
            };
            match outcome {
                Try::Answered(text) => {
                    lock(&heard).answer = Some(text);
                    return;
                }
                Try::Hopeless(error) => {
                    lock(&heard).gave_up = Some(error);
                    return;
                }
                Try::Again(wait, error) => {
                    last = error;
                    kernel.sleep_until(kernel.now().after(wait)).await;
                }
            }
        }
        lock(&heard).gave_up = Some(last);
    };
    if let Either::Right(_) = select(asking.boxed(), kernel.sleep_until(patience)).await {
        lock(&heard).left = true;
    }
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn one_try(
    kernel: &Kernel,
    door: &Door,
    key: &str,
    question: &Question,
    tries: u32,
    heard: &Mutex<Heard>,
) -> Try {
    let mut body = json!({
        "model": "scripted",
        "stream": question.streamed,
        "messages": [{"role": "user", "content": question.prompt}],
    });
    if question.deterministic {
        body["temperature"] = json!(0);
    }
    let mut request = Request::post("/v1/chat/completions")
        .header("authorization", format!("Bearer {key}"))
        .header("x-stainless-retry-count", tries.to_string());
    if let Some(name) = &question.idempotency_key {
        request = request.header("idempotency-key", name);
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    let (pieces, mut arriving) = mpsc::channel(16);
    let router = door.router.clone();
    // On the door's side of the connection: it dies with the door, and with the client that hangs up.
    door.spawner.spawn(Box::pin(async move {
        let response = router.oneshot(request).await.unwrap();
        let (parts, mut body) = response.into_parts();
        if pieces.send(Piece::Head(parts.status, parts.headers)).await.is_err() {
            return;
        }
        loop {
            let frame = select(body.frame(), Box::pin(pieces.closed())).await;
            let Either::Left((frame, _)) = frame else { return };
            let piece = match frame {
                Some(Ok(frame)) => Piece::Bytes(frame.into_data().unwrap_or_default().to_vec()),
                // A body that breaks off ends without an end.
                Some(Err(_)) => return,
                None => Piece::End,
            };
            let ends = matches!(piece, Piece::End);
            if pieces.send(piece).await.is_err() || ends {
                return;
            }
        }
    }));
    let backoff = Duration::from_millis(500 + kernel.below(4_000));
    let reset = || Try::Again(backoff, "the connection was reset".to_owned());
    let Some(Piece::Head(status, headers)) = arriving.recv().await else { return reset() };
    let place = {
        let mut heard = lock(heard);
        heard.texts.push(String::new());
        heard.texts.len() - 1
    };
    let mut bytes = Vec::new();
    let mut last_said = kernel.now();
    loop {
        match arriving.recv().await {
            Some(Piece::Bytes(more)) => {
                bytes.extend(more);
                if status == StatusCode::OK && question.streamed {
                    let (said, now) = (streamed(&bytes), kernel.now());
                    let mut heard = lock(heard);
                    if said.len() > heard.texts[place].len() {
                        if !heard.texts[place].is_empty() {
                            heard.longest_pause = heard.longest_pause.max(now.since(last_said));
                        }
                        last_said = now;
                        heard.texts[place] = said;
                    }
                }
            }
            Some(Piece::End) => break,
            Some(Piece::Head(..)) | None => return reset(),
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    if status == StatusCode::OK {
        return ended(question, &text, backoff);
    }
    let wait = headers
        .get("retry-after-ms")
        .and_then(|wait| wait.to_str().ok()?.parse().ok())
        .map_or(backoff, Duration::from_millis);
    let again = headers.get("x-should-retry").is_none_or(|wanted| wanted != "false");
    match status.as_u16() {
        // 499: the job was cancelled; the stock clients give up, and whoever minds asks again.
        408 | 409 | 429 | 499 | 500.. if again => Try::Again(wait.max(Duration::from_millis(100)), text),
        500.. => Try::Again(wait, text),
        _ => Try::Hopeless(format!("{status}: {text}")),
    }
}

/// What a 200 has come to.
fn ended(question: &Question, text: &str, backoff: Duration) -> Try {
    if question.streamed {
        return match text.ends_with("data: [DONE]\n\n") && !text.contains("data: {\"error\"") {
            true => Try::Answered(streamed(text.as_bytes())),
            false => Try::Again(backoff, text.to_owned()),
        };
    }
    match serde_json::from_str::<Value>(text) {
        Ok(whole) => match whole["choices"][0]["message"]["content"].as_str() {
            Some(said) => Try::Answered(said.to_owned()),
            None => Try::Hopeless(text.to_owned()),
        },
        Err(_) => Try::Again(backoff, "the answer broke off".to_owned()),
    }
}

/// The text of a stream as far as it has come.
fn streamed(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}
