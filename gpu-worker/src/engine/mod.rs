//! The engine: sequences in, token events out, on ONNX Runtime.
//!
//! Two threads of its own do the work, so that neither blocks an executor: the *intake* renders and tokenises prompts
//! (long ones take a while, and running answers must not wait for them), the *stepper* owns the model and runs one
//! step after another. The service's side is a channel in and a channel out; any runtime, or none, can drive it.
//!
//! | file | concept |
//! |---|---|
//! | [`model`], [`digest`], [`graph`], [`memory`] | what is loaded, and whether it can be |
//! | [`template`], [`tokenizer`], [`intake`] | from a conversation to tokens |
//! | [`scheduler`], [`task`], [`decoder`] | who runs next, and on what |
//! | [`sampler`], `draw`, [`stops`], [`answer`] | from logits to text that may be shown |
//! | [`ort`] | the model itself |

pub mod answer;
pub mod decoder;
pub mod device;
pub mod digest;
mod draw;
pub mod graph;
pub mod intake;
mod load;
pub mod memory;
pub mod model;
pub mod ort;
pub mod precision;
mod rows;
pub mod sampler;
pub mod scheduler;
pub mod stops;
pub mod task;
pub mod template;
pub mod tokenizer;
pub mod warmup;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use penstock_service::ports::{Engine, EngineFault, EngineInfo, Sequence, TokenEvent, TokenStream};
use tokio::sync::mpsc;

use self::decoder::Decoder;
use self::intake::Intake;
pub use self::load::{EngineConfig, LoadError, Reproducibility};
use self::scheduler::{Progress, Scheduler};
use self::task::Task;

/// Events of a sequence besides one per token: it began, inherited text, it ended, and one to spare.
const EVENTS_BESIDES_TOKENS: usize = 4;

const THREAD_ENDED: &str = "the engine's thread has ended";

/// A model on ONNX Runtime. Dropping it stops it.
pub struct OnnxEngine {
    info: EngineInfo,
    door: Mutex<Option<Sender<Arrival>>>,
    stopping: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Arrival {
    sequence: Sequence,
    events: mpsc::Sender<TokenEvent>,
}

impl OnnxEngine {
    /// Loads a model, warms it up, measures it and starts the engine's threads. Blocks for tens of milliseconds to
    /// seconds, by the size of the weights.
    ///
    /// # Errors
    /// [`LoadError`], saying which file, field or setting is wrong.
    pub fn load(config: &EngineConfig) -> Result<Self, LoadError> {
        let loaded = load::load(config)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (door, arrivals) = channel();
        let (ready, tasks) = channel();
        let steps = Arc::new(AtomicU64::new(0));
        let stepper = {
            let (stopping, steps) = (Arc::clone(&stopping), Arc::clone(&steps));
            let scheduler = loaded.scheduler;
            move || run_steps(scheduler, &tasks, &stopping, &steps)
        };
        let intake = {
            let stopping = Arc::clone(&stopping);
            let intake = loaded.intake;
            move || run_intake(&intake, &arrivals, &ready, &stopping)
        };
        // Should the second thread not start, the first ends by itself: nobody holds the other end of its channel.
        let threads = vec![spawn("engine-steps", stepper)?, spawn("engine-intake", intake)?];
        Ok(Self { info: loaded.info, door: Mutex::new(Some(door)), stopping, steps, threads: Mutex::new(threads) })
    }

    /// Ends every sequence with [`EngineFault::Stopping`] when the running step is over, and waits for the engine's
    /// threads. Blocks for a step at most; a second call does nothing.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.door.lock().unwrap_or_else(PoisonError::into_inner).take();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine had panicked");
            }
        }
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
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished())
    }

    async fn start(&self, sequence: Sequence) -> TokenStream {
        // Room for every event there can be: the stepper never waits for a consumer. Room costs nothing until used.
        let asked = sequence.generation.sampling.max_tokens.unwrap_or(u32::MAX);
        let tokens = asked.min(self.info.context_length) as usize;
        let (events, stream) = mpsc::channel(tokens + EVENTS_BESIDES_TOKENS);
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match door.as_ref() {
            None => Some((events, EngineFault::Stopping)),
            Some(door) => door
                .send(Arrival { sequence, events })
                .err()
                .map(|back| (back.0.events, EngineFault::Fault(THREAD_ENDED.into()))),
        };
        if let Some((events, fault)) = refused {
            let _ = events.try_send(TokenEvent::Failed(fault));
        }
        stream
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).map_err(LoadError::Thread)
}

/// Prepares arrivals in order, until the door is closed and everything behind it is told.
fn run_intake(intake: &Intake, arrivals: &Receiver<Arrival>, ready: &Sender<Task>, stopping: &AtomicBool) {
    for Arrival { sequence, events } in arrivals {
        if stopping.load(Ordering::Acquire) {
            let _ = events.try_send(TokenEvent::Failed(EngineFault::Stopping));
            continue;
        }
        if let Some(task) = intake.admit(sequence, events)
            && let Err(back) = ready.send(task)
        {
            // The stepper has ended: told to stop in between, or by a defect; then another worker must try.
            let stopped = stopping.load(Ordering::Acquire);
            back.0.fail(if stopped { EngineFault::Stopping } else { EngineFault::Fault(THREAD_ENDED.into()) });
        }
    }
}

/// Runs steps while there is work and waits while there is none, until told to stop.
fn run_steps<D: Decoder>(
    mut scheduler: Scheduler<D>,
    tasks: &Receiver<Task>,
    stopping: &AtomicBool,
    steps: &AtomicU64,
) {
    'open: while !stopping.load(Ordering::Acquire) {
        loop {
            match tasks.try_recv() {
                Ok(task) => scheduler.submit(task),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => break 'open,
            }
        }
        match scheduler.step() {
            Progress::Decoded { .. } | Progress::Read { .. } | Progress::Preempted => {
                steps.fetch_add(1, Ordering::Relaxed);
            }
            Progress::Idle => match tasks.recv() {
                Ok(task) => scheduler.submit(task),
                Err(_) => break,
            },
        }
    }
    scheduler.stop();
    // Until the intake, which is told to stop too, has handed over its last: none may vanish in between.
    for task in tasks {
        task.fail(EngineFault::Stopping);
    }
}
