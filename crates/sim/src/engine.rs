//! An engine that answers from a script: reads 40 bytes a tick, says one token a tick, and can be resumed like the real
//! one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Clock, Embedded, Engine, EngineFault, EngineInfo, FinishReason, Likelihood, Part, PoolKind, Sequence, Spawner,
    Texts, TokenEvent, TokenLogprob, TokenStream,
};
use penstock_wire::embeddings::Inputs;
use tokio::sync::mpsc;

/// The answer the script has for a prompt: its characters in reverse, a token each.
#[must_use]
pub fn answer_to(prompt: &str) -> String {
    prompt.chars().rev().collect()
}

/// The script's answer number `choice`: each has the same text but for its number at the end, which the first leaves out.
#[must_use]
pub fn choice_of(prompt: &str, choice: u32) -> String {
    let text = answer_to(prompt);
    if choice == 0 { text } else { format!("{text}{choice}") }
}

/// A prompt that ends so is one that the script cannot answer, today or later.
pub const BAD_PROMPT: &str = "bad request";

/// How much of a prompt is read in one tick.
const BYTES_PER_TICK: usize = 40;

/// Which share of the sequences fails, in percent, evenly spread; may be changed while the engine runs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    percent: Arc<AtomicU32>,
    owed: Arc<AtomicU32>,
}

impl Faults {
    /// From now on so many of a hundred fail.
    pub fn set_percent(&self, percent: u32) {
        self.percent.store(percent.min(100), Ordering::Relaxed);
    }

    fn next_fails(&self) -> bool {
        let owed = self.owed.load(Ordering::Relaxed) + self.percent.load(Ordering::Relaxed);
        self.owed.store(owed % 100, Ordering::Relaxed);
        owed >= 100
    }
}

/// What engines were asked to run, prompt by prompt. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<Mutex<BTreeMap<String, Vec<Timestamp>>>>);

impl Runs {
    /// How often a prompt was run, resumed runs included.
    #[must_use]
    pub fn of(&self, prompt: &str) -> u64 {
        self.times(prompt).len() as u64
    }

    /// When a prompt was run, each time it began.
    #[must_use]
    pub fn times(&self, prompt: &str) -> Vec<Timestamp> {
        self.begun().get(prompt).cloned().unwrap_or_default()
    }

    /// How often anything was run.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.begun().values().map(|times| times.len() as u64).sum()
    }

    fn count(&self, prompt: &str, now: Timestamp) {
        self.begun().entry(prompt.to_owned()).or_default().push(now);
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Timestamp>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The script's vector of a text: its length in characters, then the numbers of the first three, 0 where there are none.
#[must_use]
pub fn vector_of(text: &str) -> [f32; 4] {
    let number = |place: usize| text.chars().nth(place).map_or(0, |c| u16::try_from(u32::from(c)).unwrap_or(u16::MAX));
    let length = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    [length, number(0), number(1), number(2)].map(f32::from)
}

/// Answers by [`answer_to`], or makes vectors by [`vector_of`].
pub struct ScriptedEngine {
    info: EngineInfo,
    clock: Arc<dyn Clock>,
    spawner: Arc<dyn Spawner>,
    tick: Duration,
    steps: Arc<AtomicU64>,
    faults: Faults,
    runs: Runs,
}

impl ScriptedEngine {
    /// An engine with `slots` slots that makes one token of each sequence a `tick`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, spawner: Arc<dyn Spawner>, slots: u32, tick: Duration) -> Self {
        let info = EngineInfo {
            model: "scripted".to_owned(),
            kind: PoolKind::Generation,
            digest: "scripted-1".to_owned(),
            context_length: 4096,
            slots,
            tokens_per_second: f64::from(slots) / tick.as_secs_f64(),
            tokens_per_byte: 1.0,
        };
        let (faults, runs) = (Faults::default(), Runs::default());
        Self { info, clock, spawner, tick, steps: Arc::default(), faults, runs }
    }

    /// The same, failing as `faults` say.
    #[must_use]
    pub fn failing(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The same, counting what it runs among `runs`.
    #[must_use]
    pub fn counted(self, runs: Runs) -> Self {
        Self { runs, ..self }
    }

    /// The same, but makes the vector of one text a `tick` for each request in hand, instead of answering.
    #[must_use]
    pub fn encoding(self) -> Self {
        let (model, digest) = ("scripted-vectors".to_owned(), "scripted-vectors-1".to_owned());
        Self { info: EngineInfo { model, digest, kind: PoolKind::Embedding, ..self.info }, ..self }
    }
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        true
    }

    async fn start(&self, sequence: Sequence) -> TokenStream {
        let (events, stream) = mpsc::channel(64);
        if let Some(message) = sequence.generation.messages.last() {
            self.runs.count(&message.content, self.clock.now());
        }
        let (clock, tick, steps) = (Arc::clone(&self.clock), self.tick, Arc::clone(&self.steps));
        if self.faults.next_fails() {
            // The channel is new: there is room.
            let _ = events.try_send(TokenEvent::Failed(EngineFault::Fault("scripted".to_owned())));
            return stream;
        }
        self.spawner.spawn(Box::pin(async move {
            let prompt = sequence.generation.messages.last().map(|message| message.content.clone()).unwrap_or_default();
            if prompt.ends_with(BAD_PROMPT) {
                let (code, message) = ("unanswerable".to_owned(), "the script has no answer to this".to_owned());
                let fault = EngineFault::BadRequest { code, param: Some("messages".to_owned()), message };
                // The consumer may have gone.
                let _ = events.send(TokenEvent::Failed(fault)).await;
                return;
            }
            let answer: Vec<char> = choice_of(&prompt, sequence.choice).chars().collect();
            let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let started = TokenEvent::Started { prompt_tokens: length(prompt.chars().count()) };
            if events.send(started).await.is_err() {
                return;
            }
            // Shown bytes are a prefix of what the resumed ids say; the rest of them is said again.
            let resumed = sequence.resume_ids.len();
            let said: String = sequence.resume_ids.iter().filter_map(|id| char::from_u32(*id)).collect();
            let unshown = said.get(sequence.resume_bytes..).unwrap_or_default().to_owned();
            if !unshown.is_empty() && events.send(tokens(&[], unshown, false)).await.is_err() {
                return;
            }
            // Reading takes time too, and says nothing.
            for _ in 0..prompt.len() / BYTES_PER_TICK {
                clock.sleep_until(clock.now().after(tick)).await;
                steps.fetch_add(1, Ordering::Relaxed);
            }
            for token in answer.iter().skip(resumed) {
                clock.sleep_until(clock.now().after(tick)).await;
                steps.fetch_add(1, Ordering::Relaxed);
                let event = tokens(&[*token], token.to_string(), sequence.generation.logprobs.is_some());
                if events.send(event).await.is_err() {
                    return;
                }
            }
            let completion_tokens = length(answer.len());
            let finished = TokenEvent::Finished {
                reason: FinishReason::Stop,
                completion_tokens,
                cached_tokens: 0,
                reasoning_tokens: 0,
            };
            // The consumer may have gone.
            let _ = events.send(finished).await;
        }));
        stream
    }

    async fn embed(&self, texts: Texts) -> Result<Embedded, EngineFault> {
        if self.info.kind == PoolKind::Generation {
            return Err(EngineFault::wrong_kind(&self.info.model, "answers conversations"));
        }
        let Inputs::Texts(texts) = texts.embedding.embed else {
            let message = "the script knows no token ids".to_owned();
            return Err(EngineFault::BadRequest { code: "invalid_value".to_owned(), param: None, message });
        };
        let (mut bytes, mut tokens) = (Vec::new(), 0usize);
        for text in &texts {
            self.clock.sleep_until(self.clock.now().after(self.tick)).await;
            self.steps.fetch_add(1, Ordering::Relaxed);
            bytes.extend(vector_of(text).iter().flat_map(|number| number.to_le_bytes()));
            tokens = tokens.saturating_add(text.chars().count());
        }
        Ok(Embedded { tokens: u32::try_from(tokens).unwrap_or(u32::MAX), dimensions: 4, bytes: bytes.into() })
    }
}

/// What is said with these tokens, each of them certain.
fn tokens(characters: &[char], text: String, logprobs: bool) -> TokenEvent {
    let certain = |token: &char| TokenLogprob {
        chosen: Likelihood { bytes: token.to_string().into_bytes(), logprob: 0.0 },
        top: Vec::new(),
    };
    TokenEvent::Tokens {
        ids: characters.iter().map(|token| u32::from(*token)).collect(),
        parts: vec![Part::Content(text)],
        logprobs: characters.iter().filter(|_| logprobs).map(certain).collect(),
    }
}
