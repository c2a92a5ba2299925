//! What happens next: events in the order of time, first come first served among those of one moment.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use super::moment::Moment;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The control loop runs.
    Tick,
    /// The market takes workers back: the number of the loss.
    Loss(usize),
    /// A worker has booted.
    Ready(u32),
    /// A worker under notice gives back what it has.
    GiveBack(u32),
    /// A worker is gone.
    Gone(u32),
    /// A worker's next job ends, if nothing has changed since that turn.
    Turn(u32, u32),
    /// A client asks again.
    Ask(u32),
    /// An accepted job has reached the queue.
    Queued(u32),
    /// The message of a job comes back that a worker took with it.
    Reappears(u32),
    /// An answer from elsewhere is there.
    Elsewhere(u32),
}

/// The events to come.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    serial: u64,
}

impl Events {
    /// Adds an event.
    pub(super) fn at(&mut self, at: Moment, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse((at, self.serial, event)));
    }

    /// When the next one happens.
    #[must_use]
    pub(super) fn next_at(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Takes the next one.
    pub(super) fn pop(&mut self) -> Option<(Moment, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
