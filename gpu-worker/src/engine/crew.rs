//! The threads of an engine: whether they live, and how they are sent home.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::load::LoadError;
use super::watchdog::Pulse;

/// What an engine's threads are told by and watched with.
pub(crate) struct Crew {
    stopping: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    /// The crew of `threads`, which end soon after `stopping` is set.
    pub(crate) fn new(stopping: Arc<AtomicBool>, pulse: Arc<Pulse>, threads: Vec<JoinHandle<()>>) -> Self {
        Self { stopping, pulse, threads: Mutex::new(threads) }
    }

    /// Starts one thread.
    ///
    /// # Errors
    /// [`LoadError::Thread`] if the system has none left.
    pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
        let builder = std::thread::Builder::new().name(name.to_owned());
        builder.spawn(work).map_err(LoadError::Thread)
    }

    /// Tells the threads to end, closes what they listen at, and waits for them. A second call does nothing.
    pub(crate) fn stop(&self, close: impl FnOnce()) {
        self.stopping.store(true, Ordering::Release);
        close();
        self.pulse.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if self.pulse.is_given_up() && !thread.is_finished() {
                // It hangs in the model and may do so for ever.
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the engine had panicked");
            }
        }
    }

    /// Whether they were told to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether all of them go on.
    pub(crate) fn is_alive(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        !self.pulse.is_given_up() && !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished())
    }
}
