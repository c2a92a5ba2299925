//! The engine's own thread: one step after another while there is work, told to stop or given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use penstock_service::ports::EngineFault;

use super::decoder::Decoder;
use super::metrics::{Occupancy, Recorder};
use super::scheduler::{Progress, Scheduler};
use super::task::Task;
use super::watchdog::Pulse;

/// So many sequences in a row without one that ends well, and the model is taken to be broken: memory of a GPU that went
/// bad gives no numbers from then on, and only a new process mends that.
pub(super) const MOST_FAULTS: u32 = 16;

/// What the thread shares with the engine's owner.
#[derive(Clone)]
pub(super) struct Shared {
    /// Set to end the thread.
    pub(super) stopping: Arc<AtomicBool>,
    /// Counts steps.
    pub(super) steps: Arc<AtomicU64>,
    /// Tells the watchdog of calls.
    pub(super) pulse: Arc<Pulse>,
    /// Told of every step.
    pub(super) recorder: Recorder,
}

/// Runs steps while there is work and waits while there is none, until told to stop.
pub(super) fn run<D: Decoder>(mut scheduler: Scheduler<D>, tasks: &Receiver<Task>, shared: &Shared) {
    let Shared { stopping, steps, pulse, recorder } = shared;
    'open: while !stopping.load(Ordering::Acquire) {
        loop {
            match tasks.try_recv() {
                Ok(task) => scheduler.submit(task),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => break 'open,
            }
        }
        let began = Instant::now();
        pulse.begin();
        let progress = scheduler.step();
        if pulse.returned() {
            scheduler.resume();
        }
        recorder.step(progress, began.elapsed());
        if let Some(arrived) = scheduler.take_begun() {
            recorder.dwell(arrived.elapsed());
        }
        recorder.occupancy(&Occupancy {
            busy: scheduler.busy_slots(),
            queued: scheduler.queued(),
            tokens: scheduler.cached_tokens(),
        });
        if scheduler.faults_in_a_row() >= MOST_FAULTS {
            tracing::error!(faults = MOST_FAULTS, "nothing ends well any more: the engine is given up");
            pulse.give_up();
            break;
        }
        match progress {
            Progress::Decoded { .. }
            | Progress::Read { .. }
            | Progress::Mixed { .. }
            | Progress::Preempted
            | Progress::SetAside => {
                steps.fetch_add(1, Ordering::Relaxed);
            }
            Progress::Idle => match tasks.recv() {
                Ok(task) => scheduler.submit(task),
                Err(_) => break,
            },
        }
    }
    scheduler.stop();
    pulse.stop();
    if pulse.is_given_up() {
        return;
    }
    // Until the intake, which is told to stop too, has handed over its last: none may vanish in between.
    for task in tasks {
        task.fail(EngineFault::Stopping);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use penstock_policy::batch;
    use penstock_service::ports::TokenEvent;

    use super::*;
    use crate::engine::decoder::{Cancel, ChosenTokens, DecoderFault, OnLogits};
    use crate::engine::metrics::Metrics;
    use crate::engine::scheduler::tests::task;
    use crate::engine::watchdog::{Limits, watch};

    /// A model whose first call hangs until it is ended, or for ever; later ones answer.
    struct Hanging {
        calls: usize,
        ended: (Sender<()>, Receiver<()>),
        ends: bool,
        logits: f32,
    }

    impl Hanging {
        fn new(ends: bool, logits: f32) -> Self {
            Self { calls: 0, ended: channel(), ends, logits }
        }

        fn answer(&mut self, rows: usize, logits: OnLogits<'_>) -> Result<(), DecoderFault> {
            self.calls += 1;
            if self.calls == 1 && self.logits.is_finite() {
                // Without an end this waits until the test is over, since the sender lives as long as the model.
                self.ended.1.recv().unwrap();
                return Err(DecoderFault { what: "ended".into(), spoiled: 0..1 });
            }
            (0..rows).for_each(|row| logits(row, &[self.logits, 0.0]));
            Ok(())
        }
    }

    impl Decoder for Hanging {
        fn slots(&self) -> usize {
            1
        }
        fn capacity(&self) -> usize {
            64
        }
        fn prefill(&mut self, _: usize, _: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
            self.answer(1, logits)
        }
        fn decode(&mut self, tokens: &[u32], logits: OnLogits<'_>) -> Result<(), DecoderFault> {
            self.answer(tokens.len(), logits)
        }
        fn cut(&mut self, _: usize, _: usize) {}
        fn copy_row(&mut self, _: usize, _: usize, _: usize) {}
        fn swap_rows(&mut self, _: usize, _: usize) {}
        fn cancel(&self) -> Cancel {
            let (ended, ends) = (self.ended.0.clone(), self.ends);
            Arc::new(move || {
                if ends {
                    ended.send(()).unwrap();
                }
            })
        }
        fn resume(&mut self) {}
    }

    fn start(decoder: Hanging) -> (Sender<Task>, Shared) {
        let shared = Shared {
            stopping: Arc::default(),
            steps: Arc::default(),
            pulse: Arc::default(),
            recorder: Metrics::new().recorder("m", "w"),
        };
        let (door, tasks) = channel();
        let cancel = decoder.cancel();
        let bounds = batch::Config::new(1, 16, 8, 1).unwrap();
        let (stepping, pulse) = (shared.clone(), Arc::clone(&shared.pulse));
        let scheduler = Scheduler::new(decoder, bounds, ChosenTokens::Apart);
        std::thread::spawn(move || run(scheduler, &tasks, &stepping));
        std::thread::spawn(move || watch(&pulse, &Limits { call: Duration::from_millis(40) }, &cancel));
        (door, shared)
    }

    fn last(mut stream: tokio::sync::mpsc::Receiver<TokenEvent>) -> Option<TokenEvent> {
        let mut last = None;
        while let Some(event) = stream.blocking_recv() {
            last = Some(event);
        }
        last
    }

    #[test]
    fn a_call_that_hangs_is_ended_and_the_engine_goes_on() {
        let (door, shared) = start(Hanging::new(true, 1.0));
        let (first, stuck) = task(0, vec![3, 4], 2);
        let (second, well) = task(1, vec![5, 6], 2);
        door.send(first).unwrap();
        assert_eq!(last(stuck), Some(TokenEvent::Failed(EngineFault::Fault("ended".into()))));
        door.send(second).unwrap();
        assert!(matches!(last(well), Some(TokenEvent::Finished { .. })));
        assert!(!shared.pulse.is_given_up());
    }

    #[test]
    fn a_call_that_cannot_be_ended_makes_the_engine_give_up() {
        let (door, shared) = start(Hanging::new(false, 1.0));
        let (first, _stuck) = task(0, vec![3, 4], 2);
        door.send(first).unwrap();
        let began = Instant::now();
        while !shared.pulse.is_given_up() {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody noticed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_model_that_gives_no_numbers_any_more_makes_the_engine_give_up() {
        let (door, shared) = start(Hanging::new(true, f32::NAN));
        for number in 0..MOST_FAULTS {
            let (task, stream) = task(number, vec![3, 4], 2);
            assert!(!shared.pulse.is_given_up());
            door.send(task).unwrap();
            assert!(matches!(last(stream), Some(TokenEvent::Failed(EngineFault::Fault(_)))));
        }
        let (late, stream) = task(99, vec![3, 4], 2);
        // The thread ends: what comes now finds nobody.
        let began = Instant::now();
        let mut refused = door.send(late).is_err();
        while !refused && began.elapsed() < Duration::from_secs(20) {
            refused = door.send(task(98, vec![3, 4], 2).0).is_err();
        }
        assert!(refused && shared.pulse.is_given_up());
        assert_eq!(last(stream), None);
    }
}
