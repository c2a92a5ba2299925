//! A sequence in the scheduler's hands: waiting for its prompt to be read, decoding, or taken out of its row.

use crate::engine::task::Task;

/// A sequence that decodes.
pub(super) struct Running {
    pub(super) task: Task,
    /// Its number in the order of arrival.
    pub(super) number: u64,
    /// The token that is chosen but not in the cache yet.
    pub(super) last: u32,
    /// How many of the inherited tokens have been the last one.
    pub(super) replayed: usize,
}

impl Running {
    /// Takes the next inherited token as the last one, if there is any left.
    pub(super) fn replay(&mut self) -> Replay {
        match self.task.replay.get(self.replayed) {
            Some(&id) => {
                self.last = id;
                self.replayed += 1;
                Replay::Took
            }
            None => Replay::Over,
        }
    }
}

/// Whether there was an inherited token left.
#[derive(PartialEq, Eq)]
pub(super) enum Replay {
    /// There was; it is known already what the model says next.
    Took,
    /// There was not; the model is asked.
    Over,
}

/// A sequence whose prompt is not in the cache yet.
pub(super) struct Prompt {
    pub(super) task: Task,
    /// Its number in the order of arrival.
    pub(super) number: u64,
    /// How many of its tokens are in the cache.
    pub(super) read: usize,
    pub(super) row: Option<usize>,
    pub(super) visit: Visit,
}

/// Whether a prompt had a row before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    First,
    /// It was set aside.
    Again,
}

/// A sequence without a row.
pub(super) struct TakenOut {
    pub(super) task: Task,
    pub(super) number: u64,
    /// The tokens behind its prompt; the last is not in the cache yet.
    pub(super) said: Vec<u32>,
    /// How many of those that it inherited were put through the model.
    pub(super) replayed: usize,
}
