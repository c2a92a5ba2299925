//! Runs sequences together: one step at a time, as [`penstock_policy::batch`] decides.
//!
//! A sequence waits until its prompt is in the cache, then decodes until its answer ends. Decoding sequences keep the
//! rows `0..n`; a row that becomes free changes places with the last one, which keeps the rows contiguous. Prompts that
//! are being read live in higher rows and change places when they begin to decode. Rows that nobody needs keep what they
//! hold for prompts that begin with it ([`super::rows`]).
//!
//! When an urgent sequence finds no row, batch work makes way ([`penstock_policy::preempt`]) and goes back to the queue.
//!
//! Decoders whose calls may mix everything get packed steps ([`packed`]), which also see to the memory that all rows share.
//!
//! | file | concept |
//! |---|---|
//! | `sequence` | a sequence in the scheduler's hands |
//! | [`apart`], [`packed`] | steps of the two kinds of decoders |
//! | `placing` | who has which row |
//! | `leaving` | who leaves before the end |
//!
//! The scheduler knows no clock, no thread and no model: [`Scheduler::step`] is called by the engine's thread, and the
//! model is a [`Decoder`]. Events never block it, because each sequence's channel has room for all of its events; a
//! consumer that is slow costs memory for its own answer, and nobody's time.
//!
//! Edge cases: a consumer that went away frees its row at the next step; a call that fails loses the rows it touched,
//! and only their sequences; logits that are no numbers fail their own sequence.

mod apart;
mod leaving;
mod packed;
mod placing;
mod sequence;

use std::time::Instant;

use penstock_policy::batch;
use penstock_policy::classes::Class;
use penstock_service::ports::EngineFault;

use self::sequence::{Prompt, Running, Visit};
use super::decoder::{Calls, ChosenTokens, Decoder};
use super::rows::Rows;
use super::task::Task;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One token for each of so many rows.
    Decoded {
        /// The rows.
        rows: u32,
    },
    /// A part of a prompt was read.
    Read {
        /// Its tokens.
        tokens: u32,
        /// Tokens that the prompt took over from a row, if this was its first part.
        reused: u32,
    },
    /// One token for each of so many rows, and parts of prompts, in one call.
    Mixed {
        /// The rows that decoded.
        rows: u32,
        /// Prompt tokens that were computed.
        tokens: u32,
        /// Prompt tokens that were in the cache already; told with the first part of each prompt.
        reused: u32,
    },
    /// A sequence made way for a more urgent one.
    Preempted,
    /// A sequence gave up its memory for others, and is computed again later.
    SetAside,
    /// Nothing: there is nothing to do until a task is submitted.
    Idle,
}

/// Sequences and the model that runs them.
pub struct Scheduler<D> {
    decoder: D,
    bounds: batch::Config,
    state: batch::State,
    rows: Rows,
    /// By row.
    running: Vec<Running>,
    /// Oldest first.
    waiting: Vec<Prompt>,
    /// Rows that may hold sequences at the same time; the others only keep what they hold.
    slots: usize,
    /// When the sequence came that was given a row last, until somebody asks.
    begun: Option<Instant>,
    /// Sequences that went wrong since one went well.
    faults: u32,
    chosen: ChosenTokens,
    /// Sequences that were submitted.
    arrived: u64,
    /// The class of a sequence that found memory taken in the last step.
    refused: Option<Class>,
}

impl<D: Decoder> Scheduler<D> {
    /// A scheduler without sequences, which runs as many together as the decoder has rows.
    #[must_use]
    pub fn new(decoder: D, bounds: batch::Config, chosen: ChosenTokens) -> Self {
        let slots = decoder.slots();
        Self {
            decoder,
            bounds,
            state: batch::State::default(),
            rows: Rows::new(slots, chosen),
            running: Vec::new(),
            waiting: Vec::new(),
            slots,
            begun: None,
            faults: 0,
            chosen,
            arrived: 0,
            refused: None,
        }
    }

    /// Runs at most `slots` sequences together; the decoder's other rows only keep prompts for reuse.
    #[must_use]
    pub fn with_slots(self, slots: usize) -> Self {
        Self { slots: slots.clamp(1, self.decoder.slots()), ..self }
    }

    /// Adds a sequence. It waits for a row if none is free.
    pub fn submit(&mut self, task: Task) {
        debug_assert!(!task.prompt.is_empty() && task.prompt.len() + task.replay.len() < self.decoder.capacity());
        self.waiting.push(Prompt { task, number: self.arrived, read: 0, row: None, visit: Visit::First });
        self.arrived += 1;
    }

    /// How many sequences hold a row.
    #[must_use]
    pub fn busy_slots(&self) -> usize {
        self.decoder.slots() - self.rows.idle()
    }

    /// How many sequences wait for a row.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.waiting.iter().filter(|prompt| prompt.row.is_none()).count()
    }

    /// How many sequences went wrong since one went well.
    #[must_use]
    pub fn faults_in_a_row(&self) -> u32 {
        self.faults
    }

    /// When the sequence came that the last step gave a row, if it gave one. Asking twice gives nothing.
    pub fn take_begun(&mut self) -> Option<Instant> {
        self.begun.take()
    }

    /// Lets calls of the model run again after one was ended.
    pub fn resume(&mut self) {
        self.decoder.resume();
    }

    /// How many tokens the cache holds, those of idle rows included.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.rows.tokens()
    }

    /// How many tokens the cache can hold.
    #[must_use]
    pub fn capacity_tokens(&self) -> usize {
        self.decoder.tokens_together()
    }

    /// Runs the next step: one call of the model at most.
    pub fn step(&mut self) -> Progress {
        self.drop_abandoned();
        if self.make_way() {
            return Progress::Preempted;
        }
        match self.decoder.calls() {
            Calls::Apart => self.step_apart(),
            Calls::Packed => self.step_packed(),
        }
    }

    /// Ends every sequence: their jobs go back to the queue.
    pub fn stop(&mut self) {
        for row in (0..self.running.len()).rev() {
            self.release(row).task.fail(EngineFault::Stopping);
        }
        for prompt in std::mem::take(&mut self.waiting) {
            prompt.row.into_iter().for_each(|row| self.rows.release(row));
            prompt.task.fail(EngineFault::Stopping);
        }
    }

    /// Ends every sequence and gives the decoder back.
    pub fn into_decoder(mut self) -> D {
        self.stop();
        self.decoder
    }

    fn free_slots(&self) -> usize {
        self.slots.saturating_sub(self.busy_slots())
    }
}

/// A number of tokens or rows; they are bounded by memory far below the type's limit.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
pub(super) mod tests;
