//! What a model answers and how fast, without a service around it: for checking a folder and for comparing two.
//!
//! The same loading, scheduling and sampling as in service, driven by one thread. Answers are greedy, so that two models
//! of the same weights can be compared token by token: by their own answers, which part for good at the first other
//! token, and along given answers, where each token is asked for anew.

use std::time::{Duration, Instant};

use penstock_policy::classes::Class;
use penstock_policy::id::{InvalidId, JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{EngineFault, EngineInfo, Generation, Part, Sampling, Sequence, TokenEvent};
use penstock_wire::chat::Message;
use tokio::sync::mpsc;

use super::decoder::{Decoder, DecoderFault};
use super::graph_bytes::Weights;
use super::intake::Intake;
use super::load::{EngineConfig, LoadError, Loaded, load};
use super::memory::CachePlan;
use super::model::ModelConfig;
use super::scheduler::{Progress, Scheduler};
use super::warmup;

/// How long each rate is measured.
const MEASURE: Duration = Duration::from_millis(300);

/// The most tokens of the prompt that the reading rate is measured with.
const PROMPT: usize = 512;

/// The date that templates print: a fixed one, so that trials can be repeated.
const DATE: &str = "2026-01-01";

/// A loaded model on trial.
pub struct Trial {
    /// What it is.
    pub info: EngineInfo,
    /// The configuration of its folder.
    pub config: ModelConfig,
    /// How its weights are written.
    pub weights: Weights,
    /// What its cache takes.
    pub cache: CachePlan,
    /// The time from the start of loading to readiness.
    pub load: Duration,
    intake: Intake,
    scheduler: Scheduler<Box<dyn Decoder>>,
    tenant: TenantId,
}

/// A loaded model without its scheduler.
pub struct Bare {
    slots: u32,
    together: f64,
    intake: Intake,
    decoder: Box<dyn Decoder>,
}

/// Why a trial gave no result.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A prompt is none for this model.
    #[error("prompt {number}: {source}")]
    Prompt {
        /// Which, from 1.
        number: usize,
        /// Why.
        source: EngineFault,
    },
    /// A call of the model failed.
    #[error("the model does not run: {0}")]
    Run(#[from] DecoderFault),
    /// A built-in name is none.
    #[error("a built-in name is malformed: {0}")]
    Name(#[from] InvalidId),
}

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Of a prompt.
    pub prompt: f64,
    /// Of one answer alone.
    pub alone: f64,
    /// Of as many answers together as the warm-up found best.
    pub together: f64,
}

/// Answers to some prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// The tokens of each, the end token included.
    pub tokens: Vec<Vec<u32>>,
    /// The text of each.
    pub texts: Vec<String>,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// From the first prompt's submission to the last answer's end.
    pub took: Duration,
}

impl Trial {
    /// Loads a model, warms it up and measures it.
    ///
    /// # Errors
    /// [`TrialError::Load`], saying which file, field or setting is wrong.
    pub fn load(config: &EngineConfig) -> Result<Self, TrialError> {
        let began = Instant::now();
        let Loaded { info, intake, cache, weights, config, scheduler, .. } = load(config)?;
        let load = began.elapsed();
        Ok(Self { info, config, weights, cache, load, intake, scheduler, tenant: TenantId::new("trial")? })
    }

    /// What the model's template makes of a user's message.
    ///
    /// # Errors
    /// [`TrialError::Prompt`]: the template or the tokenizer cannot write it.
    pub fn rendered(&self, message: &str) -> Result<(String, Vec<u32>), TrialError> {
        let written = self.intake.prompt_of(&generation(message, 1), 0);
        written.map_err(|source| TrialError::Prompt { number: 1, source })
    }

    /// Answers users' messages greedily, together, each with at most `most` tokens.
    ///
    /// # Errors
    /// [`TrialError::Prompt`] about the first that has no answer.
    pub fn answers(&mut self, messages: &[String], most: u32) -> Result<Answers, TrialError> {
        let began = Instant::now();
        let mut streams = Vec::with_capacity(messages.len());
        for message in messages {
            let room = most.min(self.info.context_length) as usize + super::EVENTS_BESIDES_TOKENS;
            let (events, stream) = mpsc::channel(room);
            if let Some(task) = self.intake.admit(self.sequence(message, most), began, events) {
                self.scheduler.submit(task);
            }
            streams.push(stream);
        }
        while self.scheduler.step() != Progress::Idle {}
        let took = began.elapsed();
        let mut answers = Answers { tokens: Vec::new(), texts: Vec::new(), prompt_tokens: 0, took };
        for (place, mut stream) in streams.into_iter().enumerate() {
            let (mut tokens, mut text) = (Vec::new(), String::new());
            while let Ok(event) = stream.try_recv() {
                match event {
                    TokenEvent::Started { prompt_tokens } => answers.prompt_tokens += u64::from(prompt_tokens),
                    TokenEvent::Tokens { ids, parts, .. } => {
                        tokens.extend(ids);
                        for part in &parts {
                            if let Part::Content(words) | Part::Reasoning(words) = part {
                                text.push_str(words);
                            }
                        }
                    }
                    TokenEvent::Finished { .. } => {}
                    TokenEvent::Failed(source) => return Err(TrialError::Prompt { number: place + 1, source }),
                }
            }
            answers.tokens.push(tokens);
            answers.texts.push(text);
        }
        Ok(answers)
    }

    /// Whether the model's template has a place for tools.
    #[must_use]
    pub fn knows_tools(&self) -> bool {
        self.intake.knows_tools()
    }

    /// The model without its scheduler: calls as one makes them.
    #[must_use]
    pub fn bare(self) -> Bare {
        Bare {
            slots: self.info.slots,
            together: self.info.tokens_per_second,
            intake: self.intake,
            decoder: self.scheduler.into_decoder(),
        }
    }

    fn sequence(&self, message: &str, most: u32) -> Sequence {
        Sequence {
            job: JobId::new(Timestamp::from_millis(0), 0),
            tenant: self.tenant.clone(),
            class: Class::P1,
            generation: generation(message, most),
            choice: 0,
            resume_ids: Vec::new(),
            resume_bytes: 0,
        }
    }
}

impl Bare {
    /// At each place of each given answer, the token that this model finds likeliest after the given tokens before it.
    ///
    /// # Errors
    /// [`TrialError`]: a prompt is none for this model, or a call fails.
    pub fn likeliest_along(&mut self, messages: &[String], given: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, TrialError> {
        let decoder = &mut self.decoder;
        let together = (self.slots as usize).min(decoder.slots()).max(1);
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); given.len()];
        let places: Vec<usize> = (0..given.len().min(messages.len())).collect();
        for places in places.chunks(together) {
            for (row, &place) in places.iter().enumerate() {
                let written = self.intake.prompt_of(&generation(&messages[place], 1), 0);
                let (_, prompt) = written.map_err(|source| TrialError::Prompt { number: place + 1, source })?;
                decoder.cut(row, 0);
                decoder.prefill(row, &prompt, &mut |_, logits| found[place].push(likeliest(logits)))?;
            }
            let longest = places.iter().map(|&place| given[place].len()).max().unwrap_or(0);
            for step in 0..longest.saturating_sub(1) {
                // Those that are over go on with any token: rows that decode are the first ones, all of them.
                let tokens: Vec<u32> =
                    places.iter().map(|&place| given[place].get(step).copied().unwrap_or(0)).collect();
                decoder.decode(&tokens, &mut |row, logits| {
                    let place = places[row];
                    if step + 1 < given[place].len() {
                        found[place].push(likeliest(logits));
                    }
                })?;
            }
        }
        for (found, given) in found.iter_mut().zip(given) {
            found.truncate(given.len());
        }
        Ok(found)
    }

    /// How fast it reads and answers.
    ///
    /// # Errors
    /// [`TrialError::Run`] if a call fails.
    pub fn rates(&mut self) -> Result<Rates, TrialError> {
        let decoder = &mut self.decoder;
        let room = decoder.capacity().saturating_sub(1).max(1);
        let prompt = vec![0; PROMPT.min(room)];
        (0..decoder.slots()).for_each(|row| decoder.cut(row, 0));
        let (mut tokens, began) = (0u32, Instant::now());
        while tokens == 0 || began.elapsed() < MEASURE {
            decoder.prefill(0, &prompt, &mut |_, logits| _ = std::hint::black_box(likeliest(logits)))?;
            decoder.cut(0, 0);
            tokens += u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        }
        let prompt = f64::from(tokens) / began.elapsed().as_secs_f64();
        let (alone, _) = warmup::rate(&mut **decoder, 1, room, MEASURE)?;
        Ok(Rates { prompt, alone, together: self.together })
    }
}

fn generation(message: &str, most: u32) -> Generation {
    Generation {
        messages: vec![Message::new("user", message)],
        sampling: Sampling { max_tokens: Some(most), temperature: 0.0, ..Sampling::default() },
        date: DATE.into(),
        ..Generation::default()
    }
}

/// The likeliest token: the first of those with the largest logit.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}
