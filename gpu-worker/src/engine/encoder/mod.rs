//! The encoder: texts in, vectors out, on ONNX Runtime.
//!
//! Its threads are those of the generating engine: an *intake* that tokenises, so that running calls do not wait for it,
//! the *stepper* that owns the model, and the watchdog. Between them stands the [`batcher`], which asks
//! `penstock_policy::window` what runs together and when.
//!
//! The same text gives the same bits, whatever runs beside it and whoever asks: texts of one call are padded to a length
//! that depends on each text alone, and on processors ONNX Runtime's products compute a row alike however many there are.
//!
//! | file | concept |
//! |---|---|
//! | [`folder`], [`settings`] | what is loaded, and whether it can be |
//! | [`graph`], [`pooling`] | what comes out of the model, and how a vector is made of it |
//! | [`intake`], [`batcher`], `stepper` | from texts to calls, and from calls to vectors |
//! | [`budget`] | how much a call may take of memory and time |

pub mod batcher;
pub mod budget;
pub mod folder;
pub mod graph;
pub mod intake;
pub mod load;
pub mod pooling;
pub mod settings;
mod stepper;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use penstock_service::ports::{Embedded, Engine, EngineFault, EngineInfo, Sequence, Texts, TokenEvent, TokenStream};
use tokio::sync::{mpsc, oneshot};

use self::batcher::Prepared;
use self::intake::Intake;
use self::load::Loaded;
use super::crew::Crew;
use super::load::{EngineConfig, LoadError};
use super::metrics::Recorder;
use super::stepper::Shared;
use super::watchdog;

/// Where the vectors of a request go; closed if nobody wants them any more.
pub(super) type Reply = oneshot::Sender<Result<Embedded, EngineFault>>;

/// A request at the door.
struct Arrival {
    texts: Texts,
    arrived: Instant,
    reply: Reply,
}

/// A model that turns texts into vectors. Dropping it stops it.
pub struct EncoderEngine {
    info: EngineInfo,
    door: Mutex<Option<Sender<Arrival>>>,
    steps: Arc<AtomicU64>,
    crew: Crew,
}

impl EncoderEngine {
    /// Loads a model, warms it up, measures it and starts the engine's threads. Blocks for tens of milliseconds to
    /// seconds, by the size of the weights.
    ///
    /// # Errors
    /// [`LoadError`], saying which file, field or setting is wrong.
    pub fn load(config: &EngineConfig, recorder: Recorder) -> Result<Self, LoadError> {
        let began = Instant::now();
        let Loaded { info, intake, encoder, window, limits, cancel } = load::load(config)?;
        recorder.loaded(began.elapsed(), 0);
        recorder.runs_on(&config.device);
        let shared = Shared { stopping: Arc::default(), steps: Arc::default(), pulse: Arc::default(), recorder };
        let (stopping, steps) = (Arc::clone(&shared.stopping), Arc::clone(&shared.steps));
        let pulse = Arc::clone(&shared.pulse);
        let (door, arrivals) = channel();
        let (ready, prepared) = channel();
        let watching = {
            let pulse = Arc::clone(&pulse);
            move || watchdog::watch(&pulse, &limits, &cancel)
        };
        let slots = info.slots as usize;
        let stepping = move || stepper::run(encoder, &window, slots, &prepared, &shared);
        let taking = {
            let stopping = Arc::clone(&stopping);
            move || run_intake(&intake, &arrivals, &ready, &stopping)
        };
        let threads = vec![
            Crew::spawn("encoder-steps", stepping)?,
            Crew::spawn("encoder-intake", taking)?,
            Crew::spawn("encoder-watch", watching)?,
        ];
        Ok(Self { info, door: Mutex::new(Some(door)), steps, crew: Crew::new(stopping, pulse, threads) })
    }

    /// Ends every request with [`EngineFault::Stopping`] when the running call is over, and waits for the engine's
    /// threads. A second call does nothing.
    pub fn stop(&self) {
        self.crew.stop(|| drop(self.door.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

impl Drop for EncoderEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Engine for EncoderEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        self.crew.is_alive()
    }

    async fn start(&self, _sequence: Sequence) -> TokenStream {
        let (events, stream) = mpsc::channel(1);
        let fault = EngineFault::wrong_kind(&self.info.model, "turns texts into vectors: ask it at /v1/embeddings");
        let _ = events.try_send(TokenEvent::Failed(fault));
        stream
    }

    async fn embed(&self, texts: Texts) -> Result<Embedded, EngineFault> {
        let (reply, answer) = oneshot::channel();
        let arrival = Arrival { texts, arrived: Instant::now(), reply };
        // The lock is held for the sending alone.
        let sent = match self.door.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => return Err(EngineFault::Stopping),
            Some(door) => door.send(arrival).is_ok(),
        };
        match answer.await {
            Ok(result) if sent => result,
            Ok(_) | Err(_) if self.crew.is_stopping() => Err(EngineFault::Stopping),
            Ok(_) | Err(_) => Err(EngineFault::Fault("the encoder's thread has ended".to_owned())),
        }
    }
}

/// Prepares arrivals in order, until the door is closed and everything behind it is told.
fn run_intake(intake: &Intake, arrivals: &Receiver<Arrival>, ready: &Sender<Prepared>, stopping: &AtomicBool) {
    for Arrival { texts, arrived, reply } in arrivals {
        if stopping.load(Ordering::Acquire) {
            let _ = reply.send(Err(EngineFault::Stopping));
            continue;
        }
        match intake.prepare(&texts) {
            Err(fault) => drop(reply.send(Err(fault))),
            Ok(inputs) => {
                let prepared = Prepared { inputs, class: texts.class, arrived, reply };
                if let Err(back) = ready.send(prepared) {
                    // The stepper has ended; whoever waits is told by `embed`.
                    drop(back);
                }
            }
        }
    }
}
