//! The engine: sequences in, token events out, on ONNX Runtime.
//!
//! Threads of its own do the work, so that nothing blocks an executor: the *intake* renders and tokenises prompts (long
//! ones take a while, and running answers must not wait for them), the *stepper* owns the model and runs one step after
//! another, the *watchdog* looks whether it still does. The service's side is a channel in and a channel out; any runtime, or none, can drive it.
//!
//! | file | concept |
//! |---|---|
//! | [`folder`], [`model`], [`digest`], [`graph`], [`memory`] | what is loaded, and whether it can be |
//! | [`template`], `turns`, `python_json`, [`tokenizer`], `vocabulary`, [`intake`] | from a conversation to tokens |
//! | [`scheduler`], [`task`], [`decoder`] | who runs next, and on what |
//! | [`trial`] | what a model answers and how fast, without a service around it |
//! | [`watchdog`], `crew`, [`metrics`] | whether it goes on, and what it does |
//! | [`form`], [`guide`] | which tokens the demanded form allows |
//! | [`sampler`], `draw`, `likelihood` | from logits to a token |
//! | [`detokenizer`], [`stops`], [`dialect`], [`channels`], `tool_call`, [`answer`] | from tokens to what may be shown |
//! | [`encoder`] | models that turn texts into vectors |
//! | [`ort`], [`attention`], [`graph_bytes`] | the model itself |

pub mod answer;
mod any;
pub mod attention;
pub mod channels;
mod crew;
pub mod decoder;
pub mod detokenizer;
pub mod device;
pub mod dialect;
pub mod digest;
mod draw;
pub mod encoder;
pub mod folder;
pub mod form;
pub mod graph;
pub mod graph_blocks;
pub mod graph_bytes;
pub mod guide;
pub mod intake;
mod likelihood;
pub mod load;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod ort;
mod packing;
pub mod paged_attention;
mod python_json;
mod rows;
pub mod sampler;
pub mod scheduler;
mod stepper;
pub mod stops;
pub mod task;
pub mod template;
pub mod tokenizer;
mod tool_call;
pub mod trial;
mod turns;
mod vocabulary;
pub mod warmup;
pub mod watchdog;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use penstock_service::ports::{Engine, EngineFault, EngineInfo, Sequence, TokenEvent, TokenStream};
use tokio::sync::mpsc;

pub use self::any::AnyEngine;
use self::crew::Crew;
pub use self::encoder::EncoderEngine;
use self::intake::Intake;
pub use self::load::{EngineConfig, LoadError, Reproducibility};
use self::metrics::{Metrics, Recorder};
use self::stepper::Shared;
use self::task::Task;

/// Events of a sequence besides one per token: it began, inherited text, it ended, and one to spare.
const EVENTS_BESIDES_TOKENS: usize = 4;

const THREAD_ENDED: &str = "the engine's thread has ended";

/// A model on ONNX Runtime. Dropping it stops it.
pub struct OnnxEngine {
    info: EngineInfo,
    door: Mutex<Option<Sender<Arrival>>>,
    steps: Arc<AtomicU64>,
    crew: Crew,
}

struct Arrival {
    sequence: Sequence,
    arrived: Instant,
    events: mpsc::Sender<TokenEvent>,
}

impl OnnxEngine {
    /// Loads a model, warms it up, measures it and starts the engine's threads. Blocks for tens of milliseconds to
    /// seconds, by the size of the weights.
    ///
    /// # Errors
    /// [`LoadError`], saying which file, field or setting is wrong.
    pub fn load(config: &EngineConfig) -> Result<Self, LoadError> {
        Self::load_recorded(config, Metrics::new().recorder("", ""))
    }

    /// The same, for an engine whose numbers somebody reads.
    ///
    /// # Errors
    /// As [`OnnxEngine::load`].
    pub fn load_recorded(config: &EngineConfig, recorder: Recorder) -> Result<Self, LoadError> {
        let began = Instant::now();
        let load::Loaded { info, intake, scheduler, cancel, limits, .. } = load::load(config)?;
        recorder.loaded(began.elapsed(), scheduler.capacity_tokens());
        recorder.runs_on(&config.device);
        let shared = Shared { stopping: Arc::default(), steps: Arc::default(), pulse: Arc::default(), recorder };
        let (stopping, steps) = (Arc::clone(&shared.stopping), Arc::clone(&shared.steps));
        let pulse = Arc::clone(&shared.pulse);
        let (door, arrivals) = channel();
        let (ready, tasks) = channel();
        let watching = {
            let pulse = Arc::clone(&pulse);
            move || watchdog::watch(&pulse, &limits, &cancel)
        };
        let stepping = move || stepper::run(scheduler, &tasks, &shared);
        let taking = {
            let stopping = Arc::clone(&stopping);
            move || run_intake(&intake, &arrivals, &ready, &stopping)
        };
        // Should a later thread not start, the earlier ones end by themselves: nobody holds the other end of their
        // channels, and the watchdog is told by the stepper.
        let threads = vec![
            Crew::spawn("engine-steps", stepping)?,
            Crew::spawn("engine-intake", taking)?,
            Crew::spawn("engine-watch", watching)?,
        ];
        Ok(Self { info, door: Mutex::new(Some(door)), steps, crew: Crew::new(stopping, pulse, threads) })
    }

    /// Ends every sequence with [`EngineFault::Stopping`] when the running step is over, and waits for the engine's
    /// threads. Blocks for a step at most; a second call does nothing.
    pub fn stop(&self) {
        self.crew.stop(|| drop(self.door.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

impl Drop for OnnxEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Engine for OnnxEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        self.crew.is_alive()
    }

    async fn start(&self, sequence: Sequence) -> TokenStream {
        // Room for every event there can be: the stepper never waits for a consumer. Room costs nothing until used.
        let asked = sequence.generation.sampling.max_tokens.unwrap_or(u32::MAX);
        let tokens = asked.min(self.info.context_length) as usize;
        let room = tokens + EVENTS_BESIDES_TOKENS + intake::most_pieces(&sequence.generation);
        let (events, stream) = mpsc::channel(room);
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match door.as_ref() {
            None => Some((events, EngineFault::Stopping)),
            Some(door) => door
                .send(Arrival { sequence, arrived: Instant::now(), events })
                .err()
                .map(|back| (back.0.events, EngineFault::Fault(THREAD_ENDED.into()))),
        };
        if let Some((events, fault)) = refused {
            let _ = events.try_send(TokenEvent::Failed(fault));
        }
        stream
    }
}

/// Prepares arrivals in order, until the door is closed and everything behind it is told.
fn run_intake(intake: &Intake, arrivals: &Receiver<Arrival>, ready: &Sender<Task>, stopping: &AtomicBool) {
    for Arrival { sequence, arrived, events } in arrivals {
        if stopping.load(Ordering::Acquire) {
            let _ = events.try_send(TokenEvent::Failed(EngineFault::Stopping));
            continue;
        }
        if let Some(task) = intake.admit(sequence, arrived, events)
            && let Err(back) = ready.send(task)
        {
            // The stepper has ended: told to stop in between, or by a defect; then another worker must try.
            let stopped = stopping.load(Ordering::Acquire);
            back.0.fail(if stopped { EngineFault::Stopping } else { EngineFault::Fault(THREAD_ENDED.into()) });
        }
    }
}
