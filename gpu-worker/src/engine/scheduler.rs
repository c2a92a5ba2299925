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
//! The scheduler knows no clock, no thread and no model: [`Scheduler::step`] is called by the engine's thread, and the
//! model is a [`Decoder`]. Events never block it, because each sequence's channel has room for all of its events; a
//! consumer that is slow costs memory for its own answer, and nobody's time.
//!
//! Edge cases: a consumer that went away frees its row at the next step; a call that fails loses the rows it touched,
//! and only their sequences; logits that are no numbers fail their own sequence.

mod packed;

use std::time::Instant;

use penstock_policy::batch::{self, Load, Placed, Step, Waiting};
use penstock_policy::classes::Class;
use penstock_policy::preempt::{self, Holder};
use penstock_policy::prefix::{self, Source};
use penstock_service::ports::EngineFault;

use super::answer::Chosen;
use super::decoder::{Calls, ChosenTokens, Decoder, DecoderFault};
use super::rows::Rows;
use super::sampler::BadLogits;
use super::task::{Fate, Task};

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

struct Running {
    task: Task,
    /// Its number in the order of arrival.
    number: u64,
    /// The token that is chosen but not in the cache yet.
    last: u32,
    /// How many of the inherited tokens have been the last one.
    replayed: usize,
}

impl Running {
    /// Takes the next inherited token as the last one, if there is any left.
    fn replay(&mut self) -> Replay {
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
enum Replay {
    /// There was; it is known already what the model says next.
    Took,
    /// There was not; the model is asked.
    Over,
}

struct Prompt {
    task: Task,
    /// Its number in the order of arrival.
    number: u64,
    /// How many of its tokens are in the cache.
    read: usize,
    row: Option<usize>,
    visit: Visit,
}

/// Whether a prompt had a row before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    First,
    /// It was set aside.
    Again,
}

/// A sequence without a row.
struct TakenOut {
    task: Task,
    number: u64,
    /// The tokens behind its prompt; the last is not in the cache yet.
    said: Vec<u32>,
    /// How many of those that it inherited were put through the model.
    replayed: usize,
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

    fn step_apart(&mut self) -> Progress {
        let waiting: Vec<Waiting> = self.waiting.iter().map(|prompt| self.as_waiting(prompt)).collect();
        let load = Load { rows: count(self.running.len()), waiting: &waiting, free_slots: count(self.free_slots()) };
        let (step, state) = batch::next(self.state, &load, &self.bounds);
        self.state = state;
        match step {
            Step::Idle => Progress::Idle,
            Step::Decode => {
                let rows = count(self.running.len());
                self.decode();
                Progress::Decoded { rows }
            }
            Step::Prefill { which, tokens } => {
                let reused = self.prefill(which, tokens as usize);
                Progress::Read { tokens, reused }
            }
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

    fn drop_abandoned(&mut self) {
        for row in (0..self.running.len()).rev() {
            if self.running[row].task.events.is_closed() {
                self.release(row);
            }
        }
        let rows = &mut self.rows;
        self.waiting.retain(|prompt| {
            let wanted = !prompt.task.events.is_closed();
            if let (false, Some(row)) = (wanted, prompt.row) {
                rows.release(row);
            }
            wanted
        });
    }

    /// Sends a batch sequence back to the queue if an urgent one needs its row. Says whether it did.
    fn make_way(&mut self) -> bool {
        let queued: Vec<Class> =
            self.waiting.iter().filter(|prompt| prompt.row.is_none()).map(|prompt| prompt.task.class).collect();
        !queued.is_empty() && self.preempt_for(&queued, self.free_slots())
    }

    /// Sends a batch sequence back to the queue if one of the `queued` classes is urgent and nothing is `free`. Says
    /// whether it did.
    fn preempt_for(&mut self, queued: &[Class], free: usize) -> bool {
        let holders: Vec<Holder> = self
            .holders()
            .map(|(task, _, row)| Holder { class: task.class, tokens: count(self.rows.length(row)) })
            .collect();
        let Some(victim) = preempt::victim(queued, count(free), &holders) else {
            return false;
        };
        self.take_out(victim).task.fail(EngineFault::Preempted);
        true
    }

    /// The sequences that hold a row, with their numbers and rows: first those that decode, by row; then those that read,
    /// by their place among the waiting.
    fn holders(&self) -> impl Iterator<Item = (&Task, u64, usize)> {
        let running = self.running.iter().enumerate().map(|(row, running)| (&running.task, running.number, row));
        running.chain(self.waiting.iter().filter_map(|prompt| prompt.row.map(|row| (&prompt.task, prompt.number, row))))
    }

    /// Takes a sequence, by its place among [`Self::holders`], out of its row, which keeps what it holds.
    fn take_out(&mut self, holder: usize) -> TakenOut {
        let mut reading = (0..self.waiting.len()).filter(|&place| self.waiting[place].row.is_some());
        match holder.checked_sub(self.running.len()).and_then(|place| reading.nth(place)) {
            Some(place) => {
                let Prompt { task, number, row, .. } = self.waiting.remove(place);
                row.into_iter().for_each(|row| self.rows.release(row));
                TakenOut { task, number, said: Vec::new(), replayed: 0 }
            }
            None => {
                let mut said = self.rows.tokens_of(holder)[self.running[holder].task.prompt.len()..].to_vec();
                let Running { task, number, last, replayed } = self.release(holder);
                said.push(last);
                TakenOut { task, number, said, replayed }
            }
        }
    }

    fn decode(&mut self) {
        let tokens: Vec<u32> = self.running.iter().map(|running| running.last).collect();
        let mut chosen = Vec::with_capacity(tokens.len());
        let running = &self.running;
        let called = self.decoder.decode(&tokens, &mut |row, logits| {
            let Running { task, replayed, .. } = &running[row];
            let asked = *replayed == task.replay.len();
            chosen.push(asked.then(|| task.answer.choose(logits)));
        });
        if let Err(fault) = called {
            let rows: Vec<usize> = (0..tokens.len()).collect();
            return self.lose(&fault, &rows);
        }
        debug_assert_eq!(chosen.len(), tokens.len());
        self.advance(&tokens, chosen);
    }

    /// Takes note that the rows' `tokens` are in the cache, and goes on with what was chosen after those that were asked.
    fn advance(&mut self, tokens: &[u32], chosen: Vec<Option<Result<Chosen, BadLogits>>>) {
        tokens.iter().enumerate().for_each(|(row, &token)| self.rows.decoded(row, token));
        // From the last row down: a row that is released changes places with the last one, which has had its turn.
        for (row, chosen) in chosen.into_iter().enumerate().rev() {
            let running = &mut self.running[row];
            match chosen.map(|chosen| running.task.advance(chosen)) {
                None => drop(running.replay()),
                Some(Fate::GoesOn(id)) => running.last = id,
                Some(fate @ (Fate::Ends | Fate::Failed)) => {
                    self.count_fault(&fate);
                    self.release(row);
                }
            }
        }
    }

    /// Reads the next tokens of a prompt. Gives the tokens that it took over, if it had no row before.
    fn prefill(&mut self, which: usize, tokens: usize) -> u32 {
        let before = self.waiting[which].task.cached;
        let Some(row) = self.waiting[which].row.or_else(|| self.take_row(which)) else {
            // The policy starts no prompt unless a row is free.
            debug_assert!(false);
            return 0;
        };
        let prompt = &mut self.waiting[which];
        let end = prompt.read + tokens;
        let task = &prompt.task;
        let reused = task.cached - before;
        let complete = end == task.prompt.len();
        let asked = complete && task.replay.is_empty();
        let mut chosen = None;
        let part = &task.prompt[prompt.read..end];
        let called = self.decoder.prefill(row, part, &mut |_, logits| {
            chosen = asked.then(|| task.answer.choose(logits));
        });
        self.rows.read(row, part);
        prompt.read = end;
        if let Err(fault) = called {
            self.lose(&fault, &[row]);
        } else if complete {
            let Prompt { task, number, .. } = self.waiting.remove(which);
            self.begin(row, task, number, chosen);
        }
        reused
    }

    /// Gives a prompt a row, with as much of it as there is already.
    fn take_row(&mut self, which: usize) -> Option<usize> {
        let prompt = &mut self.waiting[which];
        let placement = self.rows.take(&prompt.task.as_prompt())?;
        match placement.source {
            Source::Itself => self.decoder.cut(placement.row, placement.reused),
            Source::Row(from) => self.decoder.copy_row(from, placement.row, placement.reused),
        }
        prompt.row = Some(placement.row);
        prompt.read = placement.reused;
        if prompt.visit == Visit::First {
            prompt.task.cached = count(placement.reused);
            self.begun = Some(prompt.task.arrived);
        }
        Some(placement.row)
    }

    /// Goes on with a sequence whose prompt is read: with an inherited token, or with the one that was chosen.
    fn begin(&mut self, row: usize, task: Task, number: u64, chosen: Option<Result<Chosen, BadLogits>>) {
        let mut running = Running { task, number, last: 0, replayed: 0 };
        if running.replay() == Replay::Took {
            return self.begin_decoding(row, running);
        }
        match running.task.advance(chosen.unwrap_or(Err(BadLogits::Empty))) {
            Fate::GoesOn(last) => self.begin_decoding(row, Running { last, ..running }),
            fate @ (Fate::Ends | Fate::Failed) => {
                self.count_fault(&fate);
                self.rows.release(row);
            }
        }
    }

    fn count_fault(&mut self, fate: &Fate) {
        self.faults = if matches!(fate, Fate::Failed) { self.faults.saturating_add(1) } else { 0 };
    }

    /// Moves a sequence whose prompt is read to the first row behind those that decode.
    fn begin_decoding(&mut self, row: usize, running: Running) {
        let target = self.running.len();
        if row != target {
            self.swap(row, target);
            // If another prompt was being read there, it lives on in the row that became free.
            for prompt in &mut self.waiting {
                if prompt.row == Some(target) {
                    prompt.row = Some(row);
                }
            }
        }
        self.running.push(running);
    }

    /// Frees the row of a decoding sequence and closes the gap.
    fn release(&mut self, row: usize) -> Running {
        let last = self.running.len() - 1;
        if row != last {
            self.swap(row, last);
        }
        self.rows.release(last);
        self.running.swap_remove(row)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.decoder.swap_rows(a, b);
        self.rows.swap(a, b);
    }

    /// Forgets a row that holds nothing of use any more.
    fn forget(&mut self, row: usize) {
        self.decoder.cut(row, 0);
        self.rows.forget(row);
    }

    /// Fails the sequences of a failed call and of all other rows that it has spoiled.
    fn lose(&mut self, fault: &DecoderFault, called: &[usize]) {
        tracing::error!(what = %fault, ?called, spoiled = ?fault.spoiled, "a call of the model failed");
        self.faults = self.faults.saturating_add(1);
        let told = EngineFault::Fault(fault.what.clone());
        let is_lost = |row: &usize| called.contains(row) || fault.spoiled.contains(row);
        // Also rows that nobody needs: the next prompt must not take over what they hold.
        let lost: Vec<usize> = (0..self.decoder.slots()).filter(is_lost).collect();
        lost.into_iter().for_each(|row| self.forget(row));
        let rows = &mut self.rows;
        self.waiting.retain(|prompt| match prompt.row {
            Some(row) if is_lost(&row) => {
                rows.release(row);
                prompt.task.fail(told.clone());
                false
            }
            Some(_) | None => true,
        });
        for row in (0..self.running.len()).rev().filter(is_lost) {
            self.release(row).task.fail(told.clone());
        }
    }

    fn as_waiting(&self, prompt: &Prompt) -> Waiting {
        let task = &prompt.task;
        if prompt.row.is_some() {
            let remaining = count(task.prompt.len() - prompt.read);
            return Waiting { remaining, class: task.class, placed: Placed::InSlot };
        }
        let wanted = task.as_prompt();
        if self.free_slots() == 0 {
            // There is nowhere to go, so that what it would find there does not matter.
            return Waiting { remaining: count(task.prompt.len()), class: task.class, placed: Placed::Queued };
        }
        let now = self.rows.most_shared(&wanted);
        let awaits = |other: &Prompt| {
            // Not one of a worse class, which would let it wait for others.
            other.row.is_some()
                && other.task.class <= task.class
                && prefix::worth_waiting(&wanted, &other.task.as_prompt(), now)
        };
        let placed = if self.waiting.iter().any(awaits) { Placed::Awaiting } else { Placed::Queued };
        Waiting { remaining: count(task.prompt.len() - now), class: task.class, placed }
    }
}

/// A number of tokens or rows; they are bounded by memory far below the type's limit.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
pub(super) mod tests;
