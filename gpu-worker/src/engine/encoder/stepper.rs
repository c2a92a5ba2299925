//! The encoder's own thread: one call after another while there are texts, told to stop or given up.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use penstock_policy::window::Config;
use penstock_service::ports::EngineFault;

use super::batcher::{Batcher, Call, Next, Prepared};
use super::load::Encoder;
use crate::engine::metrics::Occupancy;
use crate::engine::scheduler::Progress;
use crate::engine::stepper::{MOST_FAULTS, Shared};

/// What the channel brought.
enum Heard {
    Request(Prepared),
    Nothing,
    Closed,
}

/// Runs calls while there are texts and waits while there are none, until told to stop.
pub(super) fn run(mut encoder: Encoder, window: &Config, slots: usize, requests: &Receiver<Prepared>, shared: &Shared) {
    let Shared { stopping, pulse, recorder, .. } = shared;
    let mut batcher = Batcher::new(*window, encoder.context_length(), slots);
    let mut faults = 0;
    'open: while !stopping.load(Ordering::Acquire) {
        let mut heard = listen(requests);
        while let Heard::Request(prepared) = heard {
            batcher.submit(prepared);
            heard = listen(requests);
        }
        if matches!(heard, Heard::Closed) {
            break;
        }
        let now = batcher.now();
        let heard = match batcher.next(now) {
            Next::Call(call) => {
                faults = if call_model(&mut encoder, &mut batcher, &call, shared) { 0 } else { faults + 1 };
                if faults >= MOST_FAULTS {
                    tracing::error!(faults = MOST_FAULTS, "nothing ends well any more: the encoder is given up");
                    pulse.give_up();
                    break 'open;
                }
                Heard::Nothing
            }
            Next::Wait(until) => match requests.recv_timeout(until.since(now)) {
                Ok(prepared) => Heard::Request(prepared),
                Err(RecvTimeoutError::Timeout) => Heard::Nothing,
                Err(RecvTimeoutError::Disconnected) => Heard::Closed,
            },
            Next::Idle => requests.recv().map_or(Heard::Closed, Heard::Request),
        };
        match heard {
            Heard::Request(prepared) => batcher.submit(prepared),
            Heard::Nothing => {}
            Heard::Closed => break,
        }
        recorder.occupancy(&Occupancy { busy: batcher.requests(), queued: batcher.texts(), tokens: 0 });
    }
    batcher.stop(&EngineFault::Stopping);
    pulse.stop();
}

fn listen(requests: &Receiver<Prepared>) -> Heard {
    match requests.try_recv() {
        Ok(prepared) => Heard::Request(prepared),
        Err(TryRecvError::Empty) => Heard::Nothing,
        Err(TryRecvError::Disconnected) => Heard::Closed,
    }
}

/// Runs a call; says whether it went well.
fn call_model(encoder: &mut Encoder, batcher: &mut Batcher, call: &Call, shared: &Shared) -> bool {
    batcher.take_begun().into_iter().for_each(|arrived| shared.recorder.dwell(arrived.elapsed()));
    let began = Instant::now();
    shared.pulse.begin();
    let result = encoder.run(call);
    if shared.pulse.returned() {
        encoder.resume();
    }
    shared.steps.fetch_add(1, Ordering::Relaxed);
    let tokens = call.rows.iter().map(|row| u32::try_from(row.ids.len()).unwrap_or(u32::MAX)).sum();
    shared.recorder.step(Progress::Read { tokens, reused: 0 }, began.elapsed());
    match result {
        Ok(vectors) => {
            batcher.ran(call, vectors);
            true
        }
        Err(fault) => {
            tracing::error!(%fault, rows = call.rows.len(), width = call.width, "a call of the encoder failed");
            batcher.failed(call, &EngineFault::Fault(fault));
            false
        }
    }
}
